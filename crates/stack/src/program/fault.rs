//! `streamstress stack fault`: checks all faults, then injects them one after the other.

use super::{
    args::{FaultArgs, Selection, stack},
    print_line,
};
use crate::injection::{check, inject};

pub(crate) fn run(selection: &Selection, wanted: &FaultArgs) -> anyhow::Result<()> {
    let stack = stack(selection, wanted.compose.as_deref())?;
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
            for start in &injected.started {
                print_line(format_args!("  + {}  {start}", start.name));
            }
        }
    }
    Ok(())
}
