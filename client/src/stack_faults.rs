//! Checks faults and injects them into a native stack or a Compose project.

use load::injection::{FaultEffect, Injector};
use measure::cold_start::ColdStart;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Checks that `spec` is the text of a fault, for example `wsproxy-1:kill`.
///
/// # Errors
/// Explains what is wrong with it.
pub fn parse(spec: &str) -> Result<(), String> {
    spec.parse::<stack::fault::Fault>().map(|_| ()).map_err(|error| error.to_string())
}

/// Returns the injector for the stack of this name; without a name, for the default native stack.
///
/// # Errors
/// The name is not valid for a stack.
pub fn injector(name: Option<&str>) -> Result<Arc<dyn Injector>, String> {
    let stack = stack::StackRef::find(name).map_err(|error| format!("--fault-stack: {error:#}"))?;
    Ok(Arc::new(StackInjector(stack)))
}

fn cold_start(start: stack::scaling::ColdStart) -> ColdStart {
    let ms = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default();
    ColdStart {
        instance: start.name,
        commanded: Duration::from_millis(start.commanded_unix_ms),
        ready: ms(start.ready_ms),
        serving: start.serving_ms.map(ms),
        first_served: start.first_served_ms.map(ms),
    }
}

struct StackInjector(stack::StackRef);

impl Injector for StackInjector {
    fn check(&self, spec: &str) -> anyhow::Result<()> {
        stack::injection::check(&self.0, &spec.parse()?)
    }

    fn inject(&self, spec: &str) -> anyhow::Result<FaultEffect> {
        let injected = stack::injection::inject(&self.0, &spec.parse()?)?;
        let cold_starts = injected.started.into_iter().map(cold_start).collect();
        Ok(FaultEffect { detail: injected.detail, members: injected.members, cold_starts })
    }

    fn stated_names(&self) -> anyhow::Result<BTreeMap<String, String>> {
        stack::injection::stated_names(&self.0)
    }
}
