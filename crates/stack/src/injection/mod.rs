//! Injects faults into running stacks. A native stack's supervisor does it on request; for a Compose stack, Docker does.

mod compose;

use crate::{
    control::{Request, Response, call},
    fault::{Fault, Injected},
    stack_ref::StackRef,
};
use anyhow::bail;
use std::collections::BTreeMap;

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
