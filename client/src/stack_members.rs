//! Finds the stack behind the target, so that the watch can list its members.

use load::watch::{Inventory, Member, Source};
use plan::Plan;
use std::{collections::BTreeMap, time::Duration};
use url::Url;

/// Finds the stack that serves the plan's target: the one that the plan names, otherwise the one that listens at that address.
pub(crate) fn find(plan: &Plan) -> Source {
    if let Some(foreign) = plan.target.foreign.as_ref().filter(|foreign| !foreign.is_simulator) {
        return Source::Unknown(format!(
            "the server speaks {} and is not part of a known stack",
            foreign.dialect
        ));
    }
    match inventory(plan.faults.stack.as_deref(), plan.target.api.url()) {
        Ok(inventory) => Source::Inventory(Box::new(KnownStack(inventory))),
        Err(why) => Source::Unknown(why),
    }
}

/// A native stack or a Compose project on this machine.
#[derive(Debug)]
struct KnownStack(stack::inventory::Inventory);

impl Inventory for KnownStack {
    fn members(&self) -> anyhow::Result<Vec<Member>> {
        Ok(self.0.members()?.into_iter().map(member).collect())
    }

    fn settings(&self) -> BTreeMap<String, String> {
        self.0.settings()
    }

    fn every(&self) -> Duration {
        self.0.every()
    }
}

fn member(member: stack::inventory::Member) -> Member {
    let stack::inventory::Member { name, pid, has_children, http, incarnation, ended } = member;
    Member { name, pid, has_children, http, life: incarnation, ended }
}

fn inventory(name: Option<&str>, api: &Url) -> Result<stack::inventory::Inventory, String> {
    let is_here = api.host_str().is_some_and(|host| ["127.0.0.1", "localhost", "[::1]"].contains(&host));
    match api.port_or_known_default() {
        Some(port) if is_here => {
            stack::inventory::Inventory::find(name, port).map_err(|error| format!("{error:#}"))
        }
        _ => Err("the stack is on another machine".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_on_another_machine_is_not_asked() {
        let why = inventory(None, &"https://load.example".parse().unwrap()).unwrap_err();
        assert_eq!(why, "the stack is on another machine");
    }
}
