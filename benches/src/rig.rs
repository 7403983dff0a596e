//! The stack under measurement: a native stack whose servers are idle, and sessions that are created over its Redis.
//! A peer replaces `wsproxy` and has the same environment and the same niceness. nchan runs twice: one process holds the
//! sockets, the other one takes the publications.

use crate::{
    args::{Gateways, Target, Way},
    dial::Address,
    posts::Posts,
    publisher::Outlet,
    usage::Watched,
};
use anyhow::{Context, bail};
use bus::{Broker, BusConfig, ClaimRequest};
use futures_util::{StreamExt, TryStreamExt, stream};
use protocol::{Claims, Secret, SessionId, Signer};
use stack::{
    JwtSecret,
    fault::Fault,
    native::{Binaries, Native, Options, Programs, Status},
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;
use uuid::Uuid;

/// Calls on the bus at a time while sessions are created or claimed.
const CALLS: usize = 64;
/// Name of the process in which nchan takes publications.
const FRONT_END: &str = "wsproxy-2";
const PATIENCE: Duration = Duration::from_secs(10);
/// Length of a path that is too long for a unix socket.
const TOO_LONG_FOR_A_SOCKET: usize = 110;

/// A running stack and the bus that sends tokens to it.
pub(crate) struct Rig {
    native: Native,
    status: Status,
    state: PathBuf,
    signer: Signer,
    bus: Arc<dyn Broker>,
    gateway: Gateways,
    rollup: Option<u16>,
    /// Removed with the rig.
    _directory: TempDir,
}

impl Rig {
    pub(crate) async fn start(target: &Target) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("bench").tempdir()?;
        let state = match target.tcp_hops {
            // The stack uses TCP if the path is too long for a unix socket.
            true => directory.path().join("x".repeat(TOO_LONG_FOR_A_SOCKET)),
            false => directory.path().to_owned(),
        };
        let key = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let native = Native::start(options(target, state.clone(), &key)?).await?;
        let status = native.status().await;
        let socket = state.join("redis.sock");
        let url = match socket.exists() {
            true => format!("redis+unix://{}", socket.display()),
            false => format!("redis://127.0.0.1:{}", port(&status, "redis")?),
        };
        let bus = bus::open(BusConfig::new(url, "bench"))?;
        let mut ready = bus.ready();
        let waited = tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)).await;
        waited.context("the bus is not ready after 10 s")??;
        let signer = Signer::new(&Secret::new(&key)?);
        Ok(Self {
            native,
            status,
            state,
            signer,
            bus,
            gateway: target.gateway,
            rollup: target.rollup,
            _directory: directory,
        })
    }

    /// Returns the address at which sockets are opened.
    pub(crate) fn address(&self, way: Way) -> anyhow::Result<Address> {
        Ok(match way {
            Way::Tcp => Address::Tcp(([127, 0, 0, 1], port(&self.status, "wsproxy-1")?).into()),
            Way::Unix => Address::Unix(self.state.join("wsproxy-1.sock")),
            Way::Haproxy => {
                let address = self.status.ws_url.strip_prefix("ws://").unwrap_or_default();
                Address::Tcp(address.parse().with_context(|| format!("`{address}` is not an address"))?)
            }
        })
    }

    /// Returns where tokens are sent: the bus, or the front end of nchan.
    pub(crate) async fn outlet(&self) -> anyhow::Result<Outlet> {
        if !self.gateway.is_nchan() {
            return Ok(Outlet::Bus(self.bus.clone()));
        }
        let socket = self.state.join(format!("{FRONT_END}.sock"));
        let address = match socket.exists() {
            true => Address::Unix(socket),
            false => Address::Tcp(([127, 0, 0, 1], port(&self.status, FRONT_END)?).into()),
        };
        Ok(Outlet::Posts(Arc::new(Posts::connect(&address).await?)))
    }

    /// Returns the URL at which HAProxy takes API calls.
    pub(crate) fn api_url(&self) -> &str {
        &self.status.api_url
    }

    /// Returns the ports of the gateways.
    pub(crate) fn gateway_ports(&self) -> impl Iterator<Item = u16> {
        let gateways = self.status.processes.iter().filter(|process| process.name.starts_with("wsproxy-"));
        gateways.filter_map(|process| process.port)
    }

    /// Every process that takes part, this one too.
    pub(crate) fn watched(&self) -> Vec<Watched> {
        let mut watched: Vec<Watched> = self
            .status
            .processes
            .iter()
            .map(|process| {
                let role = process.name.split('-').next().unwrap_or_default();
                let group = match role {
                    "wsproxy" if self.gateway.is_nchan() && process.name == FRONT_END => "publisher",
                    "wsproxy" => "gateway",
                    role => role,
                };
                Watched { group: group.to_owned(), pid: process.pid, with_children: role == "haproxy" }
            })
            .collect();
        let generator = Watched { group: "generator".into(), pid: std::process::id(), with_children: false };
        watched.push(generator);
        watched
    }

    /// Creates sessions.
    pub(crate) async fn create(&self, count: usize) -> anyhow::Result<Vec<SessionId>> {
        let sessions: Vec<_> = (0..count).map(|_| SessionId::new(Uuid::new_v4())).collect();
        let created = stream::iter(sessions.iter().map(|&session| self.bus.create(session)));
        created.buffer_unordered(CALLS).try_collect::<Vec<()>>().await?;
        Ok(sessions)
    }

    /// Claims each session for one query. Returns the generations in the same order.
    pub(crate) async fn claim(&self, sessions: &[SessionId]) -> anyhow::Result<Vec<u64>> {
        let claims = sessions.iter().map(|&session| {
            let request = ClaimRequest { query_id: Uuid::new_v4().to_string(), answer: String::new() };
            async move { self.bus.claim(session, request).await.map(|claim| claim.generation) }
        });
        Ok(stream::iter(claims).buffered(CALLS).try_collect().await?)
    }

    /// Returns the head of the request that opens a session's socket.
    pub(crate) fn request(&self, session: SessionId) -> Vec<u8> {
        let token = self.signer.sign(&Claims { session_id: session, iat: 0, exp: None });
        let query = self.rollup.map_or_else(String::new, |ms| format!("?rollup={ms}"));
        format!(
            "GET /bench/ws/{session}{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        )
        .into_bytes()
    }

    /// Injects a fault, for example `wsproxy-1:kill`.
    pub(crate) async fn inject(&self, fault: &str) -> anyhow::Result<()> {
        self.native.inject(&fault.parse::<Fault>()?).await.map(drop)
    }

    pub(crate) async fn stop(self) {
        self.native.stop().await;
    }
}

/// Returns the directory of this project's programs.
pub(crate) fn programs(target: &Target) -> anyhow::Result<PathBuf> {
    match &target.bin_dir {
        Some(directory) => Ok(directory.clone()),
        None => {
            Ok(std::env::current_exe()?.parent().context("this program has no parent directory")?.to_owned())
        }
    }
}

fn options(target: &Target, state: PathBuf, key: &str) -> anyhow::Result<Options> {
    if target.gateways > 1 && target.way != Way::Haproxy {
        bail!("{} gateways can only be reached through HAProxy: use --way haproxy", target.gateways);
    }
    let is_nchan = target.gateway.is_nchan();
    if is_nchan && (target.gateways > 1 || target.way == Way::Haproxy) {
        bail!("nchan is measured as one process and without HAProxy: use --gateways 1 and --way tcp or unix");
    }
    let ours = programs(target)?;
    let mut binaries = Binaries::find(Programs::in_directory(&ours)?, &target.search_path)?;
    let mut environment: Vec<(String, String)> = [
        ("MAX_CONNECT_RATE", "0"),
        ("MAX_CONNECTIONS", "20000"),
        ("DRAIN_SECONDS", "1"),
        ("RUST_LOG", "warn"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    environment.push(("WS_MAX_COALESCE_MS".into(), target.coalesce_ms.to_string()));
    if target.gateway != Gateways::Wsproxy {
        binaries.programs.wsproxy = ours.join("streamstress-bench-peer").into();
        environment.push(("PEER".into(), target.gateway.name().into()));
        environment.push(("PEER_DIR".into(), state.join("peer").to_string_lossy().into()));
    }
    Ok(Options {
        servers: target.servers,
        proxies: target.gateways + u16::from(is_nchan),
        // nchan does not support unix sockets for Redis.
        redis_port: is_nchan.then_some(0),
        secret: JwtSecret::new(key)?,
        environment,
        ..Options::new(state, binaries)
    })
}

fn port(status: &Status, name: &str) -> anyhow::Result<u16> {
    let process = status.processes.iter().find(|process| process.name == name);
    process.and_then(|process| process.port).with_context(|| format!("the stack has no port of {name}"))
}
