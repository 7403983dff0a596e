//! The state of all processes and relays of a stack, for `streamstress stack status`.

use super::{
    Native, instance,
    process::{Process, ProcessState},
};
use crate::scaling::ColdStart;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// The state of a running stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// URL of the HTTP API, at the first HAProxy.
    pub api_url: String,
    /// URL for WebSockets, at the first HAProxy.
    pub ws_url: String,
    /// URL of the first HAProxy's statistics.
    pub stats_url: String,
    /// The URLs of every HAProxy, by number.
    #[serde(default)]
    pub haproxies: Vec<HaproxyStatus>,
    /// All processes, including Redis and HAProxy.
    pub processes: Vec<ProcessStatus>,
    /// Time from the command that started the stack until it was ready, in milliseconds. `None` from older supervisors.
    #[serde(default)]
    pub ready_ms: Option<f64>,
    /// The rule by which the number of gateways changes, and the last decision. `None` without one.
    #[serde(default)]
    pub autoscale: Option<String>,
    /// The links that have a relay.
    #[serde(default)]
    pub links: Vec<LinkStatus>,
    /// Options of the stack that change what a token costs, by name. Empty from older supervisors.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

/// The URLs of one HAProxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaproxyStatus {
    /// Name of the process: `haproxy`, or `haproxy-1` if there are several.
    pub name: String,
    /// URL of the HTTP API.
    pub api_url: String,
    /// URL for WebSockets.
    pub ws_url: String,
    /// URL of the statistics. Its path `/metrics` has metrics for Prometheus.
    pub stats_url: String,
}

/// One process of a stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// `redis`, `haproxy` (`haproxy-1`, `haproxy-2` … if there are several), `server-1`, `wsproxy-1`, …
    pub name: String,
    /// Process id.
    pub pid: u32,
    /// Port on 127.0.0.1, behind HAProxy. `None` for HAProxy, whose ports are in the URLs.
    pub port: Option<u16>,
    /// Unix socket of Redis. `None` for other processes, and if Redis has a TCP port instead.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// `ready`, `unready: …`, `paused` or `ended: …`.
    pub state: String,
    /// Times of the last start of a server or gateway.
    #[serde(default)]
    pub cold_start: Option<ColdStart>,
    /// Path of the log.
    pub log: PathBuf,
}

/// The state of a link that has a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Name in faults, for example `link:wsproxy-1`.
    pub name: String,
    /// `normal`, `half open` or `one byte per second`, followed by the delay and jitter if there are any.
    pub state: String,
    /// Open connections.
    pub open: u64,
    /// Connections accepted since the relay was inserted.
    pub accepted: u64,
    /// Connections ended by faults.
    pub broken: u64,
    /// Connections refused because the target did not listen or the relay had too many.
    pub refused: u64,
}

impl Status {
    /// Adds the only HAProxy to the status of an older supervisor, which does not list it.
    pub(crate) fn with_haproxies(mut self) -> Self {
        if self.haproxies.is_empty() {
            let Self { api_url, ws_url, stats_url, .. } = self.clone();
            self.haproxies.push(HaproxyStatus { name: "haproxy".to_owned(), api_url, ws_url, stats_url });
        }
        self
    }
}

impl Native {
    /// Returns the present state of all processes and links.
    pub async fn status(&self) -> Status {
        let mut redis = describe(&self.redis.slot().process(), self.redis.port(), Ok(()));
        redis.socket = self.redis.socket();
        let mut processes = vec![redis];
        let haproxies = self.haproxies.all().iter();
        processes.extend(haproxies.map(|haproxy| describe(&haproxy.slot().process(), None, Ok(()))));
        let instances = self.instances();
        let described = instances.iter().map(|instance| async {
            let process = instance.slot().process();
            let ready = match process.state() {
                ProcessState::Running => instance::ready(instance.port()).await,
                ProcessState::Paused | ProcessState::Ended(_) => Ok(()),
            };
            if ready.is_ok() && process.state() == ProcessState::Running {
                instance.look_for_first_served().await;
            }
            ProcessStatus {
                cold_start: instance.cold_start(),
                ..describe(&process, Some(instance.port()), ready)
            }
        });
        processes.extend(join_all(described).await);
        let links = self.links.all().into_iter().map(|(name, relay)| {
            let counts = relay.counts();
            LinkStatus {
                name,
                state: relay.impairment().to_string(),
                open: counts.open,
                accepted: counts.accepted,
                broken: counts.broken,
                refused: counts.refused,
            }
        });
        let haproxies = self.haproxies();
        let HaproxyStatus { api_url, ws_url, stats_url, .. } = haproxies[0].clone();
        let (links, ready_ms) = (links.collect(), Some(self.ready_ms));
        let settings = self.settings();
        Status {
            api_url,
            ws_url,
            stats_url,
            haproxies,
            processes,
            ready_ms,
            autoscale: None,
            links,
            settings,
        }
    }
}

impl Native {
    /// Returns the options that change what a token costs, by name. Relays are listed if there are any.
    fn settings(&self) -> BTreeMap<String, String> {
        let relays = self.options.relays.then(|| ("relays".to_owned(), "yes".to_owned()));
        let persistence = self.options.persistence.name().to_owned();
        [("redis-persistence".to_owned(), persistence)].into_iter().chain(relays).collect()
    }
}

fn describe(process: &Process, port: Option<u16>, ready: Result<(), String>) -> ProcessStatus {
    let state = match (process.state(), ready) {
        (ProcessState::Ended(status), _) => format!("ended: {status}"),
        (ProcessState::Paused, _) => "paused".to_owned(),
        (ProcessState::Running, Ok(())) => "ready".to_owned(),
        (ProcessState::Running, Err(reason)) => format!("unready: {reason}"),
    };
    ProcessStatus {
        name: process.name().to_owned(),
        pid: process.pid(),
        port,
        socket: None,
        state,
        cold_start: None,
        log: process.log().to_owned(),
    }
}
