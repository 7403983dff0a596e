//! `streamstress stack fault`: breaks what it is told, one after another, and says what came of it.

use super::{
    args::{FaultArgs, Selection},
    print_line,
};
use crate::fault::{self, check, inject};

pub(crate) fn run(selection: &Selection, wanted: FaultArgs) -> anyhow::Result<()> {
    let place = match wanted.compose {
        None => fault::Place::Native(selection.directory()),
        Some(project) if project.is_empty() => fault::Place::Compose { project: None },
        Some(project) => fault::Place::find(Some(&format!("compose:{project}")))?,
    };
    for fault in &wanted.faults {
        check(&place, fault)?;
    }
    if wanted.check {
        return Ok(());
    }
    for fault in &wanted.faults {
        let injected = inject(&place, fault)?;
        if wanted.json {
            print_line(serde_json::to_string(&injected)?);
        } else {
            print_line(format_args!("{}: {} ({:.0} ms)", injected.fault, injected.detail, injected.took_ms));
        }
    }
    Ok(())
}
