//! Injects faults into a native stack: finds the targets, applies the action, and returns when it is in force. This module does not
//! decide when a fault happens, and it ends only faults that have a duration.

mod link;
mod process;

use super::{Native, instance::Instance, scaling::check_counts, slot::Slot};
use crate::{
    fault::{Action, Fault, Injected, InstanceSelector, Link, Target},
    role::Role,
    scaling::ColdStart,
};
use anyhow::{Context, bail};
use process::{FaultProcess, check_state};
use std::{collections::BTreeSet, sync::Arc};
use tokio::time::Instant;
use tracing::info;

/// What a fault did.
#[derive(Default)]
struct Applied {
    /// The affected members.
    members: Vec<String>,
    /// Sentences for the user.
    details: Vec<String>,
    /// The instances that it started.
    started: Vec<ColdStart>,
}

impl Native {
    /// Injects a fault. Returns when it is in force.
    ///
    /// # Errors
    /// There is no such target, it is not in a suitable state, or the action failed.
    pub async fn inject(&self, fault: &Fault) -> anyhow::Result<Injected> {
        let start = Instant::now();
        let Applied { members, details, started } =
            self.apply(fault).await.with_context(|| fault.to_string())?;
        let detail = details.join("; ");
        let took_ms = start.elapsed().as_secs_f64() * 1e3;
        info!(%fault, took_ms, detail, "injected a fault");
        Ok(Injected { fault: fault.to_string(), took_ms, detail, members, started })
    }

    /// Checks that a fault has a target in the stack. Injects nothing.
    ///
    /// # Errors
    /// There is no such target, or no connection that the action could affect.
    pub fn check(&self, fault: &Fault) -> anyhow::Result<()> {
        match fault.target {
            Target::Redis => Ok(()),
            Target::Haproxy(selector) => self.haproxies.find(selector).map(drop),
            Target::Instance(role, selector) => {
                if let Action::Scale(counts) = fault.action {
                    check_counts(role, counts)?;
                }
                self.find(role, selector).map(drop)
            }
            Target::Link(link @ (Link::Ws | Link::Api)) => self.public_relays(link).map(drop),
            Target::Link(link @ (Link::Instance(role, selector) | Link::Redis(role, selector))) => {
                for instance in self.find(role, selector)? {
                    self.check_link(&link::name(link, &instance), fault.action)?;
                }
                Ok(())
            }
        }
        .with_context(|| fault.to_string())
    }

    /// Applies a fault.
    async fn apply(&self, fault: &Fault) -> anyhow::Result<Applied> {
        let Fault { target, action } = *fault;
        let Applied { mut members, mut details, mut started } = Applied::default();
        match target {
            Target::Redis => {
                members.push("redis".to_owned());
                details.push(self.apply_to_process(&FaultProcess::Redis, action).await?);
            }
            Target::Haproxy(selector) => {
                let found = self.haproxies.find(selector)?;
                for haproxy in suitable(found, |haproxy| haproxy.slot(), selector, action, "haproxy")? {
                    details.push(self.apply_to_process(&FaultProcess::Haproxy(&haproxy), action).await?);
                    members.push(haproxy.name().to_owned());
                }
            }
            Target::Instance(role, _) if let Action::Scale(counts) = action => {
                let scaled = self.scale_in_steps(role, counts).await?;
                details.push(scaled.sentence());
                let new = scaled.started.iter().map(|start| start.name.clone());
                members.extend(new.chain(scaled.removed).collect::<BTreeSet<_>>());
                started = scaled.started;
            }
            Target::Instance(role, selector) => {
                let found = self.find(role, selector)?;
                for instance in
                    suitable(found, |instance| instance.slot(), selector, action, &role.to_string())?
                {
                    details.push(self.apply_to_process(&FaultProcess::Instance(&instance), action).await?);
                    members.push(instance.name());
                }
            }
            Target::Link(link @ (Link::Ws | Link::Api)) => {
                for (name, relay) in self.public_relays(link)? {
                    details.push(format!("{name}: {}", link::apply_to_relay(&relay, action)));
                }
                members.extend(self.haproxies.all().iter().map(|haproxy| haproxy.name().to_owned()));
            }
            Target::Link(link @ (Link::Instance(role, selector) | Link::Redis(role, selector))) => {
                let mut found = self.find(role, selector)?;
                if selector == InstanceSelector::Any {
                    found.truncate(1);
                }
                for instance in found {
                    details.push(self.apply_to_link(link, &instance, action).await?);
                    members.push(instance.name());
                }
            }
        }
        Ok(Applied { members, details, started })
    }

    /// Returns the instances that a selector can mean, by number; at least one.
    fn find(&self, role: Role, selector: InstanceSelector) -> anyhow::Result<Vec<Arc<Instance>>> {
        let mut found = self.instances();
        found.retain(|instance| instance.role() == role);
        if let InstanceSelector::Number(number) = selector {
            let names: Vec<String> = found.iter().map(|instance| instance.name()).collect();
            found.retain(|instance| instance.number() == number);
            if found.is_empty() {
                bail!("there is no {role}-{number}: expected one of {}", names.join(", "));
            }
        }
        found.sort_by_key(|instance| instance.number());
        Ok(found)
    }
}

/// Returns the processes to which an action is applied. If the selector means several, only those in a suitable state.
fn suitable<T>(
    mut found: Vec<T>,
    slot: impl Fn(&T) -> &Slot,
    selector: InstanceSelector,
    action: Action,
    role: &str,
) -> anyhow::Result<Vec<T>> {
    // A single process gets the action in any state: its error says what the state is.
    if matches!(selector, InstanceSelector::Number(_)) || found.len() == 1 {
        return Ok(found);
    }
    found.retain(|process| check_state(&slot(process).process(), action).is_ok());
    if found.is_empty() {
        bail!("action {action} applies to no {role} in its present state: see `streamstress stack status`");
    }
    if selector == InstanceSelector::Any {
        found.truncate(1);
    }
    Ok(found)
}
