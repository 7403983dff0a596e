//! The faults of our own stack, where this build has it in it.
//! Without the feature `embedded` it only says so.

use super::Injector;
use std::sync::Arc;
#[cfg(feature = "embedded")]
use {super::Done, std::collections::BTreeMap};

/// Whether `spec` is a fault that a stack knows.
///
/// # Errors
/// What is wrong with it.
#[cfg(feature = "embedded")]
pub fn parse(spec: &str) -> Result<(), String> {
    spec.parse::<stack::fault::Fault>().map(|_| ()).map_err(|error| error.to_string())
}

/// Who breaks the stack of that name.
///
/// # Errors
/// No stack can have that name.
#[cfg(feature = "embedded")]
pub fn injector(name: Option<&str>) -> Result<Arc<dyn Injector>, String> {
    let place = stack::fault::Place::find(name).map_err(|error| format!("--fault-stack: {error:#}"))?;
    Ok(Arc::new(Breaker(place)))
}

#[cfg(feature = "embedded")]
struct Breaker(stack::fault::Place);

#[cfg(feature = "embedded")]
impl Injector for Breaker {
    fn check(&self, spec: &str) -> anyhow::Result<()> {
        stack::fault::check(&self.0, &spec.parse()?)
    }

    fn inject(&self, spec: &str) -> anyhow::Result<Done> {
        let injected = stack::fault::inject(&self.0, &spec.parse()?)?;
        Ok(Done { detail: injected.detail, members: injected.members })
    }

    fn stated_names(&self) -> anyhow::Result<BTreeMap<String, String>> {
        stack::fault::stated_names(&self.0)
    }
}

/// No stack is in this build.
///
/// # Errors
/// Always.
#[cfg(not(feature = "embedded"))]
pub fn parse(_: &str) -> Result<(), String> {
    Err("this build has no stack in it: build with `--features embedded`, or break the stack with `stack fault` meanwhile"
        .to_owned())
}

/// No stack is in this build.
///
/// # Errors
/// Always.
#[cfg(not(feature = "embedded"))]
pub fn injector(_: Option<&str>) -> Result<Arc<dyn Injector>, String> {
    parse("").map(|()| unreachable!("there is no stack"))
}
