//! Checks and injects faults of our own stacks: native ones and Compose projects.

use load::injection::{FaultEffect, Injector};
use std::{collections::BTreeMap, sync::Arc};

/// Whether `spec` is a fault that a stack knows.
///
/// # Errors
/// What is wrong with it.
pub fn parse(spec: &str) -> Result<(), String> {
    spec.parse::<stack::fault::Fault>().map(|_| ()).map_err(|error| error.to_string())
}

/// Who breaks the stack of that name.
///
/// # Errors
/// No stack can have that name.
pub fn injector(name: Option<&str>) -> Result<Arc<dyn Injector>, String> {
    let place = stack::StackRef::find(name).map_err(|error| format!("--fault-stack: {error:#}"))?;
    Ok(Arc::new(Breaker(place)))
}

struct Breaker(stack::StackRef);

impl Injector for Breaker {
    fn check(&self, spec: &str) -> anyhow::Result<()> {
        stack::injection::check(&self.0, &spec.parse()?)
    }

    fn inject(&self, spec: &str) -> anyhow::Result<FaultEffect> {
        let injected = stack::injection::inject(&self.0, &spec.parse()?)?;
        Ok(FaultEffect { detail: injected.detail, members: injected.members })
    }

    fn stated_names(&self) -> anyhow::Result<BTreeMap<String, String>> {
        stack::injection::stated_names(&self.0)
    }
}
