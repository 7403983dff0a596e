//! `streamstress stack scale`: changes the number of instances, prints what changed, and waits for the first sessions of new instances.

use super::{
    args::{ScaleArgs, Selection, stack},
    print_line,
};
use crate::{
    injection::scale,
    instance_metrics::first_served,
    inventory::{Inventory, Member},
    scaling::{ColdStart, Scaled},
};
use host::http_get;
use std::{
    collections::BTreeMap,
    thread::sleep,
    time::{Duration, Instant},
};

const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn run(selection: &Selection, wanted: ScaleArgs) -> anyhow::Result<()> {
    let stack = stack(selection, wanted.compose.as_deref())?;
    let to: BTreeMap<_, _> = wanted.to.into_iter().collect();
    let mut changes = scale(&stack, &to)?;
    if !wanted.json {
        changes.iter().for_each(print_line);
    }
    let deadline = Instant::now() + wanted.wait;
    let inventory = Inventory::of(stack);
    while changes.iter().flat_map(|change| &change.started).any(|start| start.first_served_ms.is_none())
        && Instant::now() < deadline
    {
        // A stack that does not respond for a moment is asked again.
        for served in inventory.members().map(|members| look(&mut changes, &members)).unwrap_or_default() {
            if !wanted.json {
                print_line(served);
            }
        }
        sleep(POLL_INTERVAL);
    }
    if wanted.json {
        for change in &changes {
            print_line(serde_json::to_string(change)?);
        }
    }
    Ok(())
}

/// Notes the first sessions of new instances that have had one by now. Returns a line for each.
fn look(changes: &mut [Scaled], members: &[Member]) -> Vec<String> {
    let mut lines = Vec::new();
    for change in changes {
        let role = change.role;
        for start in change.started.iter_mut().filter(|start| start.first_served_ms.is_none()) {
            let address =
                members.iter().find(|member| member.name == start.name).and_then(|member| member.http);
            let page = address.and_then(|address| http_get(address, "/metrics").ok());
            if let Some(served) = page.and_then(|page| first_served(role, &page.body)) {
                start.first_served_ms = Some(after_ms(start, served));
                lines.push(format!("  {}  {start}", start.name));
            }
        }
    }
    lines
}

/// Returns the time from the command to this wall-clock time, in milliseconds.
fn after_ms(start: &ColdStart, unix: Duration) -> f64 {
    unix.saturating_sub(Duration::from_millis(start.commanded_unix_ms)).as_secs_f64() * 1e3
}
