//! `streamstress stack fault`: checks all faults, then injects them one after the other.

use super::{
    args::{FaultArgs, Selection},
    print_line,
};
use crate::{
    injection::{check, inject},
    stack_ref::StackRef,
};

pub(crate) fn run(selection: &Selection, wanted: FaultArgs) -> anyhow::Result<()> {
    let stack = match wanted.compose {
        None => StackRef::Native(selection.directory()),
        Some(project) if project.is_empty() => StackRef::Compose { project: None },
        Some(project) => StackRef::find(Some(&format!("compose:{project}")))?,
    };
    for fault in &wanted.faults {
        check(&stack, fault)?;
    }
    if wanted.check {
        return Ok(());
    }
    for fault in &wanted.faults {
        let injected = inject(&stack, fault)?;
        if wanted.json {
            print_line(serde_json::to_string(&injected)?);
        } else {
            print_line(format_args!("{}: {} ({:.0} ms)", injected.fault, injected.detail, injected.took_ms));
        }
    }
    Ok(())
}
