//! What runs in a stack, as `stack status` tells it.

use super::{Native, instance, process::Process};
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
    /// `ready`, `unready: …` or `ended: …`.
    pub state: String,
    /// Its log.
    pub log: PathBuf,
}

impl Native {
    /// What runs now, and whether it is ready.
    pub async fn status(&self) -> Status {
        let (redis, redis_port) = &self.redis;
        let mut processes =
            vec![describe(redis, Some(*redis_port), Ok(())), describe(&self.haproxy.process, None, Ok(()))];
        for instance in &self.instances {
            let ready = instance::ready(instance.port()).await;
            processes.push(describe(&instance.process, Some(instance.port()), ready));
        }
        Status { api_url: self.api_url(), ws_url: self.ws_url(), stats_url: self.stats_url(), processes }
    }
}

fn describe(process: &Process, port: Option<u16>, ready: Result<(), String>) -> ProcessStatus {
    let state = match (process.ended(), ready) {
        (Some(status), _) => format!("ended: {status}"),
        (None, Ok(())) => "ready".to_owned(),
        (None, Err(reason)) => format!("unready: {reason}"),
    };
    ProcessStatus {
        name: process.name().to_owned(),
        pid: process.pid(),
        port,
        state,
        log: process.log().to_owned(),
    }
}
