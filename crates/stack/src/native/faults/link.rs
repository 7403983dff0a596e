//! Faults of links: a relay is inserted at the first fault, and then impairs or ends connections.

use crate::{
    fault::{Action, Link},
    native::{
        Native,
        instance::{self, Instance},
    },
    relay::{Flow, Relay, Termination},
};
use anyhow::bail;
use settings::plural::counted;
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// Time limit for processes to reconnect to Redis through a relay that was inserted.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

impl Native {
    /// Returns the relays between clients and each HAProxy, with their names.
    pub(super) fn public_relays(&self, link: Link) -> anyhow::Result<Vec<(String, Arc<Relay>)>> {
        let relays = self.links.before_haproxies(link);
        if relays.is_empty() {
            bail!("{link} has no relay: start the stack with `streamstress stack up --relays`");
        }
        Ok(relays)
    }

    /// Checks that an action can affect a link. Cut and reset affect only connections that already pass through a relay.
    pub(super) fn check_link(&self, name: &str, action: Action) -> anyhow::Result<()> {
        if matches!(action, Action::Cut | Action::Reset) && self.links.find(name).is_none() {
            bail!(
                "no connection of {name} passes through a relay, so action {action} has no effect: \
                 start the stack with `streamstress stack up --relays`"
            );
        }
        Ok(())
    }

    /// Applies an action to the link of an instance, with a new relay if it has none. Returns what was done, for the user.
    pub(super) async fn apply_to_link(
        &self,
        link: Link,
        instance: &Arc<Instance>,
        action: Action,
    ) -> anyhow::Result<String> {
        let name = name(link, instance);
        self.check_link(&name, action)?;
        let inserted = match link {
            Link::Redis(..) => self.links.insert_before_redis(instance.role(), instance.number())?,
            _ => self.links.insert_before_instance(instance)?,
        };
        let relay = &inserted.relay;
        let mut note = "";
        if inserted.is_new {
            if inserted.needs_reload {
                self.haproxies.reload(&self.instances()).await?;
            }
            note = " (only new connections are affected)";
            if let Link::Redis(..) = link {
                self.reconnect_to_redis(relay).await?;
                note = " (every connection to redis was closed to insert a relay)";
            }
        }
        Ok(format!("{name}: {}{note}", apply_to_relay(relay, action)))
    }

    /// Closes all connections to Redis, so that one comes back through a new relay. Redis does not know which process a unix socket's
    /// connection belongs to. Returns when the stack has recovered, so that afterwards only the fault itself has effects.
    async fn reconnect_to_redis(&self, relay: &Relay) -> anyhow::Result<()> {
        self.redis.kill_clients("").await?;
        let recovered = async {
            while relay.counts().open == 0 {
                sleep(POLL_INTERVAL).await;
            }
            for instance in self.instances() {
                while instance.is_running() && instance::ready(instance.port()).await.is_err() {
                    sleep(POLL_INTERVAL).await;
                }
            }
            for instance in self.instances().iter().filter(|instance| instance.is_running()) {
                self.haproxies.wait_for_instance(&instance.name()).await?;
            }
            anyhow::Ok(())
        };
        // A process that is paused or affected by another fault does not reconnect, and that is not an error.
        let _ = timeout(RECONNECT_TIMEOUT, recovered).await;
        Ok(())
    }
}

/// Returns the name of an instance's link, for example `link:redis/wsproxy-1`.
pub(super) fn name(link: Link, instance: &Instance) -> String {
    match link {
        Link::Redis(..) => format!("link:redis/{}", instance.name()),
        Link::Instance(..) | Link::Ws | Link::Api => format!("link:{}", instance.name()),
    }
}

/// Applies an action to a relay. Returns what was done, for the user.
pub(super) fn apply_to_relay(relay: &Relay, action: Action) -> String {
    match action {
        Action::Delay(time) => relay.set_delay(time),
        Action::Jitter(time) => relay.set_jitter(time),
        Action::HalfOpen(time) => relay.set_flow(Flow::HalfOpen, Some(time)),
        Action::Slow(time) => relay.set_flow(Flow::Slow, time),
        Action::Heal => relay.heal(),
        Action::Cut => {
            return counted(relay.end_connections(Termination::Close), "connections were closed");
        }
        Action::Reset => {
            return counted(relay.end_connections(Termination::Reset), "connections were reset");
        }
        _ => {}
    }
    format!("{}, {}", relay.impairment(), counted(relay.counts().open, "open connections"))
}
