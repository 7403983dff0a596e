//! Breaks a native stack: finds what a fault means in it, does it, and returns when it is in force. It decides nothing
//! about when, and heals nothing but what the fault itself says.

use super::{
    Native, Role,
    instance::{self, Instance},
    process::{Condition, Process},
};
use crate::{
    fault::{Action, Fault, Injected, Link, Target, Which},
    relay::{Break, Flow, Relay},
};
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

/// What a process gets to drain before `drain` kills it: more than its own limit.
const DRAIN_PATIENCE: Duration = Duration::from_secs(90);
/// What a process gets to come back to Redis when a relay was put between.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A process of the stack, by what it is.
enum Part<'a> {
    Redis,
    Haproxy,
    Instance(&'a Instance),
}

impl Native {
    /// Breaks what `fault` says. Returns when it is in force.
    ///
    /// # Errors
    /// There is no such target, it is not in a state for this, or it did not come to the state that the fault says.
    pub async fn inject(&self, fault: &Fault) -> anyhow::Result<Injected> {
        let start = Instant::now();
        let (members, detail) = self.carry_out(fault).await.with_context(|| fault.to_string())?;
        let took_ms = start.elapsed().as_secs_f64() * 1e3;
        info!(%fault, took_ms, detail, "injected");
        Ok(Injected { fault: fault.to_string(), took_ms, detail, members })
    }

    /// Whether this could be broken, as the stack is now. Breaks nothing.
    ///
    /// # Errors
    /// There is no such target, or nothing that the action could reach.
    pub fn check(&self, fault: &Fault) -> anyhow::Result<()> {
        match fault.target {
            Target::Redis | Target::Haproxy => Ok(()),
            Target::Instance(role, which) => self.find(role, which).map(drop),
            Target::Link(link @ (Link::Ws | Link::Api)) => self.door(link).map(drop),
            Target::Link(link @ (Link::Instance(role, which) | Link::Redis(role, which))) => {
                for instance in self.find(role, which)? {
                    self.check_link(&link_name(link, &instance), fault.action)?;
                }
                Ok(())
            }
        }
        .with_context(|| fault.to_string())
    }

    /// Returns the members that it was done to, and what was done.
    async fn carry_out(&self, fault: &Fault) -> anyhow::Result<(Vec<String>, String)> {
        let Fault { target, action } = *fault;
        let (mut members, mut done) = (Vec::new(), Vec::new());
        match target {
            Target::Redis => {
                members.push("redis".to_owned());
                done.push(self.act(&Part::Redis, action).await?);
            }
            Target::Haproxy => {
                members.push("haproxy".to_owned());
                done.push(self.act(&Part::Haproxy, action).await?);
            }
            Target::Instance(role, which) => {
                for instance in self.fitting(role, which, action)? {
                    done.push(self.act(&Part::Instance(&instance), action).await?);
                    members.push(instance.name());
                }
            }
            Target::Link(link @ (Link::Ws | Link::Api)) => {
                done.push(treat(&*self.door(link)?, action));
                members.push("haproxy".to_owned());
            }
            Target::Link(link @ (Link::Instance(role, which) | Link::Redis(role, which))) => {
                let chosen = match which {
                    Which::Any => self.find(role, which)?.into_iter().take(1).collect(),
                    Which::All | Which::Number(_) => self.find(role, which)?,
                };
                for instance in chosen {
                    done.push(self.treat_link(link, &instance, action).await?);
                    members.push(instance.name());
                }
            }
        }
        Ok((members, done.join("; ")))
    }

    /// Instances by name; never none.
    fn find(&self, role: Role, which: Which) -> anyhow::Result<Vec<Arc<Instance>>> {
        let mut found = self.instances();
        found.retain(|instance| instance.role() == role);
        if let Which::Number(number) = which {
            let names: Vec<String> = found.iter().map(|instance| instance.name()).collect();
            found.retain(|instance| instance.number() == number);
            if found.is_empty() {
                bail!("there is no {role}-{number}: choose one of {}", names.join(", "));
            }
        }
        found.sort_by_key(|instance| instance.number());
        Ok(found)
    }

    /// Those that an action is for: of several, only those in a state for it.
    fn fitting(&self, role: Role, which: Which, action: Action) -> anyhow::Result<Vec<Arc<Instance>>> {
        let mut found = self.find(role, which)?;
        if matches!(which, Which::Number(_)) {
            return Ok(found);
        }
        let fits = |instance: &Arc<Instance>| check_state(&instance.slot().process(), action).is_ok();
        found.retain(fits);
        if found.is_empty() {
            bail!("no {role} is in a state for {action}: `streamstress stack status` shows what runs");
        }
        if which == Which::Any {
            found.truncate(1);
        }
        Ok(found)
    }

    fn process(&self, part: &Part<'_>) -> Arc<Process> {
        match part {
            Part::Redis => self.redis.slot(),
            Part::Haproxy => self.haproxy.slot(),
            Part::Instance(instance) => instance.slot(),
        }
        .process()
    }

    async fn act(&self, part: &Part<'_>, action: Action) -> anyhow::Result<String> {
        let process = self.process(part);
        let (name, pid) = (process.name().to_owned(), process.pid());
        check_state(&process, action)?;
        match action {
            Action::Kill => {
                process.kill().await?;
                Ok(format!("{name} (pid {pid}) is killed"))
            }
            Action::Stop => {
                process.signal(Signal::SIGTERM).await;
                Ok(format!("{name} (pid {pid}) is told to end"))
            }
            Action::Start => {
                self.start_part(part).await?;
                Ok(format!("{name} runs again (pid {})", self.process(part).pid()))
            }
            Action::Restart(memory) => {
                if let Part::Redis = part {
                    return Ok(format!("{name} (pid {pid}) {}", self.redis.restart(memory).await?));
                }
                process.kill().await?;
                self.start_part(part).await?;
                Ok(format!("{name} (pid {pid}) was killed and runs again (pid {})", self.process(part).pid()))
            }
            Action::Drain => {
                let start = Instant::now();
                process.stop(DRAIN_PATIENCE).await;
                let drained = start.elapsed();
                self.start_part(part).await?;
                let now = self.process(part).pid();
                Ok(format!(
                    "{name} (pid {pid}) drained in {} ms and runs again (pid {now})",
                    drained.as_millis()
                ))
            }
            Action::Pause(time) => {
                process.pause(time).await;
                Ok(match time {
                    Some(time) => format!("{name} (pid {pid}) stands still for {time:?}"),
                    None => format!("{name} (pid {pid}) stands still"),
                })
            }
            Action::Resume => {
                process.resume().await;
                Ok(format!("{name} (pid {pid}) goes on"))
            }
            Action::CutPubsub => Ok(format!(
                "{} subscribers' connections are closed",
                self.redis.kill_clients("TYPE pubsub").await?
            )),
            Action::Refuse(time) | Action::Demote(time) | Action::Full(time) => {
                self.redis.deny_writes(action, time).await
            }
            Action::Reload => {
                self.haproxy.reload(&self.instances()).await?;
                Ok(format!("{name} (pid {pid}) has a new worker"))
            }
            Action::Delay(_)
            | Action::Jitter(_)
            | Action::Cut
            | Action::Reset
            | Action::HalfOpen(_)
            | Action::Slow(_)
            | Action::Heal => bail!("{name} is no link: {action} is for links"),
        }
    }

    async fn start_part(&self, part: &Part<'_>) -> anyhow::Result<()> {
        match part {
            Part::Redis => self.redis.start_again().await,
            Part::Haproxy => self.haproxy.start_again(&self.instances()).await,
            Part::Instance(instance) => {
                instance.start_again(self.program(instance.role()), &self.environment).await?;
                match self.haproxy.slot().process().condition() {
                    Condition::Runs => self.haproxy.wait_for_instance(&instance.name()).await,
                    Condition::Paused | Condition::Ended(_) => Ok(()),
                }
            }
        }
    }

    fn door(&self, link: Link) -> anyhow::Result<Arc<Relay>> {
        self.links.find(&link.to_string()).with_context(|| {
            format!("there is no relay at {link}: only a stack that was started with `streamstress stack up --relays` has one there")
        })
    }

    /// What can only meet connections that pass through a relay needs one that was there before.
    fn check_link(&self, name: &str, action: Action) -> anyhow::Result<()> {
        if matches!(action, Action::Cut | Action::Reset) && self.links.find(name).is_none() {
            bail!(
                "no connection of {name} passes through a relay, so there is nothing to {action}: start the stack with `streamstress stack up --relays`"
            );
        }
        Ok(())
    }

    async fn treat_link(
        &self,
        link: Link,
        instance: &Arc<Instance>,
        action: Action,
    ) -> anyhow::Result<String> {
        let name = link_name(link, instance);
        self.check_link(&name, action)?;
        let inserted = match link {
            Link::Redis(..) => self.links.enter_redis(instance.role(), instance.number())?,
            _ => self.links.enter_instance(instance)?,
        };
        let relay = &inserted.relay;
        let mut entered = "";
        if inserted.new {
            if inserted.reload {
                self.haproxy.reload(&self.instances()).await?;
            }
            entered = " (for connections from now on)";
            if let Link::Redis(..) = link {
                self.reconnect_to_redis(relay).await?;
                entered = " (every connection to redis was closed for it)";
            }
        }
        Ok(format!("{name}: {}{entered}", treat(relay, action)))
    }

    /// Redis cannot tell whose a unix socket's connection is: everybody's is closed, and one comes back through the relay.
    /// Returns when the stack has got over it, so that only the fault itself is seen from then on.
    async fn reconnect_to_redis(&self, relay: &Relay) -> anyhow::Result<()> {
        self.redis.kill_clients("").await?;
        let back = async {
            while relay.counts().open == 0 {
                sleep(LOOK_EVERY).await;
            }
            for instance in self.instances() {
                while instance.runs() && instance::ready(instance.port()).await.is_err() {
                    sleep(LOOK_EVERY).await;
                }
            }
            for instance in self.instances().iter().filter(|instance| instance.runs()) {
                self.haproxy.wait_for_instance(&instance.name()).await?;
            }
            anyhow::Ok(())
        };
        // A process that is paused, or behind another fault, does not come back, and need not.
        let _ = timeout(RECONNECT_PATIENCE, back).await;
        Ok(())
    }
}

fn link_name(link: Link, instance: &Instance) -> String {
    match link {
        Link::Redis(..) => format!("link:redis/{}", instance.name()),
        Link::Instance(..) | Link::Ws | Link::Api => format!("link:{}", instance.name()),
    }
}

/// Whether a process in this condition can be told so.
fn check_state(process: &Process, action: Action) -> anyhow::Result<()> {
    let name = process.name();
    match (process.condition(), action) {
        (Condition::Ended(_), Action::Start) | (Condition::Paused, Action::Resume) => Ok(()),
        (Condition::Runs | Condition::Paused, Action::Start) => {
            bail!("{name} runs already: kill or stop it first")
        }
        (Condition::Ended(status), _) => bail!("{name} is down already ({status}): start it first"),
        (Condition::Runs, Action::Resume) => bail!("{name} is not paused"),
        (
            Condition::Paused,
            Action::CutPubsub
            | Action::Reload
            | Action::Restart(Some(_))
            | Action::Refuse(_)
            | Action::Demote(_)
            | Action::Full(_),
        ) => {
            bail!("{name} is paused and hears nothing: resume it first")
        }
        (Condition::Runs | Condition::Paused, _) => Ok(()),
    }
}

/// Does to a relay what the action says.
fn treat(relay: &Relay, action: Action) -> String {
    match action {
        Action::Delay(time) => relay.set_delay(time),
        Action::Jitter(time) => relay.set_jitter(time),
        Action::HalfOpen(time) => relay.set_flow(Flow::HalfOpen, Some(time)),
        Action::Slow(time) => relay.set_flow(Flow::Slow, time),
        Action::Heal => relay.heal(),
        Action::Cut => return format!("{} connections are closed", relay.sever(Break::Close)),
        Action::Reset => return format!("{} connections are reset", relay.sever(Break::Reset)),
        _ => {}
    }
    format!("{}, {} connections are open", relay.conduct(), relay.counts().open)
}
