//! What runs in a stack, as `streamstress stack status` tells it.

use super::{
    Native, instance,
    process::{Condition, Process},
};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A stack that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Where the API is.
    pub api_url: String,
    /// Where sockets are opened.
    pub ws_url: String,
    /// Where HAProxy's statistics are.
    pub stats_url: String,
    /// Everything that runs, Redis and HAProxy too.
    pub processes: Vec<ProcessStatus>,
    /// The relays that faults have put between them.
    #[serde(default)]
    pub links: Vec<LinkStatus>,
}

/// One process of a stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// `redis`, `haproxy`, `server-1`, `wsproxy-1`, …
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Where it listens on loopback, behind HAProxy; HAProxy's own ports are in the URLs.
    pub port: Option<u16>,
    /// Its unix socket, if Redis has one.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// `ready`, `unready: …`, `paused` or `ended: …`.
    pub state: String,
    /// Its log.
    pub log: PathBuf,
}

/// A link of a stack with a relay in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// As faults name it: `link:wsproxy-1`.
    pub name: String,
    /// `passes on`, `half open`, `a byte a second`, and what delays it.
    pub state: String,
    /// Connections now.
    pub open: u64,
    /// Connections ever.
    pub accepted: u64,
    /// Connections that a fault ended.
    pub broken: u64,
    /// Connections that nobody took behind it, or that were too many.
    pub refused: u64,
}

impl Native {
    /// What runs now, and whether it is ready.
    pub async fn status(&self) -> Status {
        let mut redis = describe(&self.redis.slot().process(), self.redis.port(), Ok(()));
        redis.socket = self.redis.socket();
        let mut processes = vec![redis, describe(&self.haproxy.slot().process(), None, Ok(()))];
        let instances = self.instances();
        let asked = instances.iter().map(|instance| async {
            let process = instance.slot().process();
            let ready = match process.condition() {
                Condition::Runs => instance::ready(instance.port()).await,
                Condition::Paused | Condition::Ended(_) => Ok(()),
            };
            describe(&process, Some(instance.port()), ready)
        });
        processes.extend(join_all(asked).await);
        let links = self.links.all().into_iter().map(|(name, relay)| {
            let counts = relay.counts();
            LinkStatus {
                name,
                state: relay.conduct().to_string(),
                open: counts.open,
                accepted: counts.accepted,
                broken: counts.broken,
                refused: counts.refused,
            }
        });
        Status {
            api_url: self.api_url(),
            ws_url: self.ws_url(),
            stats_url: self.stats_url(),
            processes,
            links: links.collect(),
        }
    }
}

fn describe(process: &Process, port: Option<u16>, ready: Result<(), String>) -> ProcessStatus {
    let state = match (process.condition(), ready) {
        (Condition::Ended(status), _) => format!("ended: {status}"),
        (Condition::Paused, _) => "paused".to_owned(),
        (Condition::Runs, Ok(())) => "ready".to_owned(),
        (Condition::Runs, Err(reason)) => format!("unready: {reason}"),
    };
    ProcessStatus {
        name: process.name().to_owned(),
        pid: process.pid(),
        port,
        socket: None,
        state,
        log: process.log().to_owned(),
    }
}
