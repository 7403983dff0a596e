//! Where the load goes, and how a lost connection is opened again.

use dialects::{Dialect, Transport};
use http::HeaderMap;
use settings::{
    address::Address,
    secret::{Secret, Secrets},
};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// Where the load goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// Base URL of HTTP calls.
    pub api: Address,
    /// Further URLs of the same API: calls use all of them in turn.
    pub more_api: Vec<Address>,
    /// Base URL of WebSockets.
    pub ws: Address,
    /// Further URLs of the same gateway: sockets are spread over all of them.
    pub more_ws: Vec<Address>,
    /// The ports that a container publishes for the gateway, [`Self::ws`] among them; empty unless there are several.
    pub published: Vec<SocketAddr>,
    /// The socket's path and query, with `{agent}`, `{session}` and, optionally, `{token}`.
    pub ws_path: String,
    /// The length of the windows whose tokens the gateway should send as one frame, in milliseconds. `None`: each token has a frame.
    pub rollup_ms: Option<u16>,
    /// Every how many tokens of a query the gateway should add its own times to, so that their time can be split by hop. `None`: to none.
    /// Has no effect with a rollup.
    pub hops: Option<u32>,
    /// The value of `{agent}`.
    pub agent: String,
    /// Headers of every call and upgrade. They replace the client's own headers of the same name.
    pub headers: HeaderMap,
    /// The bearer token of every socket. `None`: the token that the session's creation returned.
    pub token: Option<Secret>,
    /// Every value above that no output may contain.
    pub secrets: Secrets,
    /// Certificates to trust besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// Upper limit of HTTP connections to each address of the API.
    pub http_connections: usize,
    /// Local addresses that sockets are opened from, in turn. If empty, the system chooses.
    pub local_ips: Vec<IpAddr>,
    /// Hosts other than this machine that the user allowed to test.
    pub allowed_hosts: Vec<String>,
    /// How to talk to a server of a foreign dialect. `None`: the target speaks the project's own contract.
    pub foreign: Option<Foreign>,
}

impl Target {
    /// Returns whether WebSockets have a URL, which is not that of the calls.
    #[must_use]
    pub fn has_sockets(&self) -> bool {
        self.foreign.as_ref().is_none_or(|foreign| {
            foreign.dialect.file().is_some_and(|file| file.transport == Transport::WebSocket)
        })
    }
}

/// A server of a foreign dialect. Its URL is [`Target::ws`], also if the dialect uses no WebSocket. A target file may have another one for
/// calls beside the WebSocket.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// The dialect.
    pub dialect: Dialect,
    /// The model to ask. Empty: the server chooses.
    pub model: String,
    /// The key that authorizes each call.
    pub api_key: Option<Secret>,
    /// A command that prints a new key, for when the server refuses the present one. It may contain a password.
    pub token_command: Option<Secret>,
    /// Upper limit of the tokens of an answer. `None`: that which a question asks for.
    pub max_tokens: Option<u32>,
    /// The server should keep answers, so that lost streams can be resumed.
    pub background: bool,
    /// The server is the project's own simulator, which is told what to play.
    pub is_simulator: bool,
}

/// How a lost connection is opened again.
#[derive(Clone, Copy, Debug)]
pub struct Reconnect {
    /// First delay.
    pub initial: Duration,
    /// Longest delay.
    pub max: Duration,
    /// Attempts in a row before the session fails.
    pub attempts: u32,
    /// A socket that is silent for this long is dropped.
    pub ping_timeout: Duration,
}
