//! Changes the number of instances of a native stack. HAProxy gets the new list in one reload; instances that leave drain in the
//! background.

use super::{
    Native, check_count,
    cold_start::{Command, StartTimes},
    haproxy::Haproxy,
    instance::Instance,
    ports, start_all,
};
use crate::{
    instance_metrics::gauge,
    probe,
    role::Role,
    scaling::{Counts, STEP, Scaled},
};
use futures_util::future::join_all;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};
use tracing::info;

/// Time between SIGTERM and SIGKILL for an instance that leaves: it drains, and its sessions move.
const DRAIN_GRACE: Duration = Duration::from_secs(60);

impl Native {
    /// Changes the number of instances of a role to `count`, 1 to 64. New instances get connections when they are ready. Instances with
    /// the highest numbers are removed from HAProxy first and then drain in the background. Sockets of other instances stay open.
    /// The numbers of instances that still drain are not used again.
    ///
    /// # Errors
    /// The number is out of range, or a new instance did not become ready. New instances are then ended, and the others stay.
    pub async fn scale(&self, role: Role, count: u16) -> anyhow::Result<Scaled> {
        check_count(role, count)?;
        self.change_count(role, count).await
    }

    /// Does what [`Native::scale`] does, also to no instance at all: the autoscaling starts the next one.
    pub(crate) async fn change_count(&self, role: Role, count: u16) -> anyhow::Result<Scaled> {
        let command = Command::now();
        while self.retiring.lock().try_join_next().is_some() {}
        let all = self.instances();
        let mut numbers: Vec<u16> = all.iter().filter(|i| i.role() == role).map(|i| i.number()).collect();
        numbers.sort_unstable();
        let before = u16::try_from(numbers.len()).unwrap_or(u16::MAX);
        let next = numbers.last().unwrap_or(&0) + 1;
        let missing = usize::from(count).saturating_sub(numbers.len());
        let draining = self.draining.lock().clone();
        let free = (next..).map(|number| (role, number)).filter(|instance| !draining.contains(instance));
        let wanted = free.take(missing).collect();
        let options = &self.options;
        let started =
            start_all(&options.binaries, &self.environment, &self.links, &self.taken, wanted, command)
                .await?;
        let leaving = numbers.get(usize::from(count)..).unwrap_or_default();
        let new: Vec<_> = started.iter().map(Arc::clone).collect();
        let (removed, kept): (Vec<_>, Vec<_>) =
            all.into_iter().chain(started).partition(|i| i.role() == role && leaving.contains(&i.number()));
        self.instances.lock().clone_from(&kept);
        let names: Vec<_> = removed.iter().map(|instance| instance.name()).collect();
        // A reload that failed is due until one succeeds: without it, new instances get nothing.
        let is_due = !new.is_empty() || !names.is_empty() || self.reload_is_due();
        self.reload_due.store(is_due, Ordering::Relaxed);
        let reloaded = if is_due { self.haproxies.reload(&kept).await } else { Ok(()) };
        self.reload_due.store(reloaded.is_err(), Ordering::Relaxed);
        for instance in removed {
            let (links, draining) = (Arc::clone(&self.links), Arc::clone(&self.draining));
            let key = (role, instance.number());
            draining.lock().insert(key);
            self.retiring.lock().spawn(async move {
                instance.slot().process().stop(DRAIN_GRACE).await;
                links.remove(&instance.name());
                draining.lock().remove(&key);
            });
        }
        reloaded?;
        new.iter().for_each(|instance| instance.update_start(StartTimes::serving));
        let started: Vec<_> = new.iter().filter_map(|instance| instance.cold_start()).collect();
        let after = if started.is_empty() && names.is_empty() { before } else { count };
        let scaled = Scaled { role, before, after, started, removed: names, took_ms: command.elapsed_ms() };
        info!(%role, before, after, took_ms = scaled.took_ms, "changed the number of instances");
        Ok(scaled)
    }

    /// Changes the number of instances of a role at once or in steps. A step begins a second after the previous one, or later if that
    /// one takes longer.
    ///
    /// # Errors
    /// As for [`Native::scale`]. The steps before stay.
    pub(super) async fn scale_in_steps(&self, role: Role, counts: Counts) -> anyhow::Result<Scaled> {
        check_counts(role, counts)?;
        let mut due = Instant::now();
        let mut all: Option<Scaled> = None;
        for count in counts.steps() {
            sleep_until(due).await;
            due = Instant::now() + STEP;
            let step = self.scale(role, count).await?;
            all = Some(match all {
                Some(before) => before.then(step),
                None => step,
            });
        }
        all.ok_or_else(|| anyhow::anyhow!("scale={counts} has no step: expected for example scale=6"))
    }

    /// Returns whether a HAProxy does not know all instances, because its last reload failed.
    pub(crate) fn reload_is_due(&self) -> bool {
        self.reload_due.load(Ordering::Relaxed)
    }

    /// Returns the number of gateways, running or down.
    pub(crate) fn gateways(&self) -> u16 {
        let gateways = self.instances().iter().filter(|instance| instance.role() == Role::Wsproxy).count();
        u16::try_from(gateways).unwrap_or(u16::MAX)
    }

    /// Returns the connections that the load balancers refused since the last gateway left: the reload that removed it set the counter
    /// to zero.
    pub(crate) async fn refused_connections(&self) -> u64 {
        let read = async |haproxy: &Arc<Haproxy>| {
            let page = probe::get(ports::loopback(haproxy.ports().stats), "/metrics").await.ok()?;
            let refused =
                gauge(&page.body, r#"haproxy_backend_http_responses_total{proxy="ws",code="5xx"}"#)?;
            Some(refused.max(0.0) as u64)
        };
        join_all(self.haproxies.all().iter().map(read)).await.into_iter().flatten().sum()
    }

    /// Returns the open sockets of each gateway. `None` if its metrics cannot be read.
    pub(crate) async fn gateway_connections(&self) -> Vec<Option<u64>> {
        let mut gateways = self.instances();
        gateways.retain(|instance| instance.role() == Role::Wsproxy);
        let read = async |instance: &Arc<Instance>| {
            let page = probe::get(ports::loopback(instance.port()), "/metrics").await.ok()?;
            let open = gauge(&page.body, "wsproxy_connections")?;
            Some(open.max(0.0) as u64)
        };
        join_all(gateways.iter().map(read)).await
    }
}

/// Checks the numbers of a change.
pub(super) fn check_counts(role: Role, counts: Counts) -> anyhow::Result<()> {
    counts.all().try_for_each(|count| check_count(role, count))
}
