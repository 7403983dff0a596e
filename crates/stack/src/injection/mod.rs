//! Injects faults into running stacks. A native stack's supervisor does it on request; for a Compose stack, Docker does.

mod compose;
mod compose_scaling;

use crate::{
    control::{Request, Response, call},
    fault::{Fault, Injected},
    role::Role,
    scaling::{Counts, Scaled},
    stack_ref::StackRef,
};
use anyhow::bail;
use std::collections::BTreeMap;

pub(crate) use compose::containers as stack_containers;

/// Injects a fault and blocks until it is in force: a killed process is gone, a restarted one is ready again, a paused one is
/// stopped. A fault with a duration (a pause, a half-open link) ends later, in the background.
///
/// # Errors
/// The stack does not respond, it does not have the target, or the target is not in a suitable state, for example down already.
pub fn inject(stack: &StackRef, fault: &Fault) -> anyhow::Result<Injected> {
    match stack {
        StackRef::Native(state_dir) => match call(state_dir, &Request::Fault { fault: fault.clone() })? {
            Response::Fault(injected) => Ok(injected),
            other => bail!("unexpected response of the supervisor to fault {fault}: {other:?}"),
        },
        StackRef::Compose { project } => compose::inject(project.as_deref(), fault),
    }
}

/// Sets the number of instances of each of these roles, 1 to 64. Returns what changed, when new instances are ready. In a native stack they
/// also get connections, and instances that leave drain later; a Compose stack waits for their drain.
///
/// # Errors
/// The stack does not respond, a number is out of range, or a new instance did not become ready. Earlier changes stay.
pub fn scale(stack: &StackRef, to: &BTreeMap<Role, u16>) -> anyhow::Result<Vec<Scaled>> {
    match stack {
        StackRef::Native(state_dir) => match call(state_dir, &Request::Scale { to: to.clone() })? {
            Response::Scaled(changes) => Ok(changes),
            // A supervisor of an earlier version does not return what changed.
            Response::Status(_) => Ok(Vec::new()),
            other => bail!(
                "unexpected response of the supervisor to a change of the number of instances: {other:?}"
            ),
        },
        StackRef::Compose { project } => {
            let change = |(&role, &count)| compose::scale(project.as_deref(), role, Counts::at_once(count));
            to.iter().map(change).collect()
        }
    }
}

/// Checks that the stack responds and has the target of a fault. Injects nothing.
///
/// # Errors
/// The stack does not respond, or it does not have the target.
pub fn check(stack: &StackRef, fault: &Fault) -> anyhow::Result<()> {
    match stack {
        StackRef::Native(state_dir) => call(state_dir, &Request::Check { fault: fault.clone() }).map(drop),
        StackRef::Compose { project } => compose::check(project.as_deref(), fault),
    }
}

/// Maps the names that servers state in responses to `/run` to their names in faults (`server-1`). The map is empty for a native
/// stack, whose servers state the names of faults.
///
/// # Errors
/// Docker does not respond, or there is no such Compose project.
pub fn stated_names(stack: &StackRef) -> anyhow::Result<BTreeMap<String, String>> {
    match stack {
        StackRef::Native(_) => Ok(BTreeMap::new()),
        StackRef::Compose { project } => compose::stated_names(project.as_deref()),
    }
}
