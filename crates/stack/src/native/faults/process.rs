//! Faults of processes: Redis, HAProxy, servers and gateways.

use crate::{
    fault::Action,
    native::{
        Native,
        cold_start::StartTimes,
        haproxy::Haproxy,
        instance::Instance,
        process::{Process, ProcessState},
    },
};
use anyhow::bail;
use nix::sys::signal::Signal;
use settings::plural::counted;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Time between SIGTERM and SIGKILL of a drain. It is longer than the limit of the processes themselves.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(90);

/// A process that a fault affects.
pub(super) enum FaultProcess<'a> {
    Redis,
    Haproxy(&'a Haproxy),
    Instance(&'a Instance),
}

impl Native {
    fn process(&self, target: &FaultProcess<'_>) -> Arc<Process> {
        match target {
            FaultProcess::Redis => self.redis.slot(),
            FaultProcess::Haproxy(haproxy) => haproxy.slot(),
            FaultProcess::Instance(instance) => instance.slot(),
        }
        .process()
    }

    /// Applies an action to a process. Returns what was done, for the user.
    pub(super) async fn apply_to_process(
        &self,
        target: &FaultProcess<'_>,
        action: Action,
    ) -> anyhow::Result<String> {
        let process = self.process(target);
        check_state(&process, action)?;
        let name = format!("{} (pid {})", process.name(), process.pid());
        match action {
            Action::Kill => {
                process.kill().await?;
                Ok(format!("{name} was killed"))
            }
            Action::Stop => {
                process.signal(Signal::SIGTERM).await;
                Ok(format!("SIGTERM was sent to {name}"))
            }
            Action::Start => {
                let pid = self.start_again(target).await?;
                Ok(format!("{} was started (pid {pid})", process.name()))
            }
            Action::Restart(data) => {
                if let FaultProcess::Redis = target {
                    return Ok(format!("{name} {}", self.redis.restart(data).await?));
                }
                process.kill().await?;
                let pid = self.start_again(target).await?;
                Ok(format!("{name} was killed and started again (pid {pid})"))
            }
            Action::Drain => {
                let start = Instant::now();
                process.stop(DRAIN_TIMEOUT).await;
                let drained_ms = start.elapsed().as_millis();
                let pid = self.start_again(target).await?;
                Ok(format!("{name} drained in {drained_ms} ms and was started again (pid {pid})"))
            }
            Action::Pause(time) => {
                process.pause(time).await;
                let time = time.map(|time| format!(" for {time:?}")).unwrap_or_default();
                Ok(format!("{name} is paused{time}"))
            }
            Action::Resume => {
                process.resume().await;
                Ok(format!("{name} was resumed"))
            }
            Action::CutPubsub => {
                let closed = self.redis.kill_clients("TYPE pubsub").await?;
                Ok(counted(closed, "subscriber connections were closed"))
            }
            Action::Refuse(time) | Action::Demote(time) | Action::Full(time) => {
                self.redis.reject_writes(action, time).await
            }
            Action::Reload => {
                let FaultProcess::Haproxy(haproxy) = target else {
                    bail!("action {action} applies to HAProxy only, not to {name}")
                };
                haproxy.reload(&self.instances()).await?;
                Ok(format!("{name} has a new worker"))
            }
            _ => bail!("action {action} applies to links only, and {name} is a process"),
        }
    }

    /// Starts a process after its end and waits until it is ready. Returns its new process id.
    async fn start_again(&self, target: &FaultProcess<'_>) -> anyhow::Result<u32> {
        match target {
            FaultProcess::Redis => self.redis.start_again().await?,
            FaultProcess::Haproxy(haproxy) => haproxy.start_again(&self.instances()).await?,
            FaultProcess::Instance(instance) => {
                instance.start_again(self.program(instance.role()), &self.environment).await?;
                self.haproxies.wait_for_instance(&instance.name()).await?;
                instance.update_start(StartTimes::serving);
            }
        }
        Ok(self.process(target).pid())
    }
}

/// Checks that an action applies to a process in its present state.
pub(super) fn check_state(process: &Process, action: Action) -> anyhow::Result<()> {
    let name = process.name();
    match (process.state(), action) {
        (ProcessState::Ended(_), Action::Start) | (ProcessState::Paused, Action::Resume) => Ok(()),
        (ProcessState::Running | ProcessState::Paused, Action::Start) => {
            bail!("{name} is running already: kill or stop it first")
        }
        (ProcessState::Ended(status), _) => bail!("{name} is down already ({status}): start it first"),
        (ProcessState::Running, Action::Resume) => bail!("{name} is not paused"),
        (
            ProcessState::Paused,
            Action::CutPubsub
            | Action::Reload
            | Action::Restart(Some(_))
            | Action::Refuse(_)
            | Action::Demote(_)
            | Action::Full(_),
        ) => bail!("{name} is paused and cannot execute {action}: resume it first"),
        (ProcessState::Running | ProcessState::Paused, _) => Ok(()),
    }
}
