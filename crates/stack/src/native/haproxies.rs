//! The HAProxy instances of a stack. All have the same configuration and send to the same servers and gateways. Each has its own
//! ports, and clients can use any of them.

use super::{
    haproxy::{Haproxy, PublicPorts},
    instance::Instance,
    ports::TakenPorts,
    process::ProcessState,
};
use crate::fault::InstanceSelector;
use anyhow::bail;
use futures_util::future::{join_all, try_join_all};
use std::{path::Path, sync::Arc, time::Duration};

/// The HAProxy instances by number, at least one.
#[derive(Debug)]
pub(crate) struct Haproxies(Vec<Arc<Haproxy>>);

impl Haproxies {
    /// Starts an instance for each element of `wanted`, on ports that are not in `taken`. Waits until all of them send to all of
    /// `instances`.
    pub(crate) async fn start(
        program: &Path,
        state_dir: &Path,
        wanted: &[PublicPorts],
        taken: &TakenPorts,
        instances: &[Arc<Instance>],
    ) -> anyhow::Result<Self> {
        let starting = (1..).zip(wanted).map(|(number, &ports)| {
            let name = name(number, wanted.len());
            Haproxy::start(name, number, program, state_dir, ports, taken, instances)
        });
        Ok(Self(try_join_all(starting).await?.into_iter().map(Arc::new).collect()))
    }

    pub(crate) fn all(&self) -> &[Arc<Haproxy>] {
        &self.0
    }

    /// Returns the instances that a selector can mean, by number; at least one.
    pub(crate) fn find(&self, selector: InstanceSelector) -> anyhow::Result<Vec<Arc<Haproxy>>> {
        let InstanceSelector::Number(number) = selector else { return Ok(self.0.clone()) };
        match self.0.iter().find(|haproxy| haproxy.number() == number) {
            Some(haproxy) => Ok(vec![Arc::clone(haproxy)]),
            None => {
                let names: Vec<_> = self.0.iter().map(|haproxy| haproxy.name()).collect();
                bail!("there is no haproxy-{number}: expected one of {}", names.join(", "))
            }
        }
    }

    /// Replaces the instances to which HAProxy sends, in each HAProxy that runs. A paused one reads them when it is resumed, and one that
    /// is down when it starts.
    ///
    /// # Errors
    /// All are down, or one does not take the change over.
    pub(crate) async fn reload(&self, instances: &[Arc<Instance>]) -> anyhow::Result<()> {
        let mut reloaded: Vec<_> =
            self.0.iter().filter(|haproxy| haproxy.slot().process().ended().is_none()).collect();
        if reloaded.is_empty() {
            // Returns the error of a process that is down.
            reloaded.extend(self.0.first());
        }
        let reload = async |haproxy: &Arc<Haproxy>| match haproxy.slot().process().state() {
            ProcessState::Paused => haproxy.reload_when_resumed(instances).await,
            ProcessState::Running | ProcessState::Ended(_) => haproxy.reload(instances).await,
        };
        // One that fails must not keep the others from reloading.
        join_all(reloaded.into_iter().map(reload)).await.into_iter().collect()
    }

    /// Waits until every HAProxy that runs sends to an instance.
    pub(crate) async fn wait_for_instance(&self, name: &str) -> anyhow::Result<()> {
        let running =
            self.0.iter().filter(|haproxy| haproxy.slot().process().state() == ProcessState::Running);
        try_join_all(running.map(|haproxy| haproxy.wait_for_instance(name))).await.map(drop)
    }

    /// Ends all with SIGTERM, and after `grace` with SIGKILL.
    pub(crate) async fn stop(&self, grace: Duration) {
        join_all(self.0.iter().map(async |haproxy| haproxy.slot().process().stop(grace).await)).await;
    }
}

/// Returns the name of instance `number` of `count`. An only instance needs no number.
fn name(number: u16, count: usize) -> String {
    if count == 1 { "haproxy".to_owned() } else { format!("haproxy-{number}") }
}
