//! The program of the peers: replaces `wsproxy` in a stack and reads the same environment.

use anyhow::Context;
use benches::{
    nchan,
    peer::{Settings, serve},
};
use protocol::Secret;
use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// The allocator of the other programs, so that allocators are not compared.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    match variable("PEER")?.as_str() {
        "tungstenite-default" => tungstenite(false),
        "tungstenite-small" => tungstenite(true),
        "nchan" => nginx(nchan::DEFAULT_MESSAGES),
        "nchan-nostore" => nginx(0),
        "nchan-long" => nginx(1_000),
        other => anyhow::bail!(
            "PEER `{other}` is unknown: use tungstenite-default, tungstenite-small, nchan, nchan-nostore or nchan-long"
        ),
    }
}

fn variable(name: &str) -> anyhow::Result<String> {
    env::var(name).with_context(|| format!("{name} is not set"))
}

fn port() -> anyhow::Result<u16> {
    variable("PORT")?.parse().context("PORT is not a port number")
}

/// Returns the path of the unix socket. Removes the one of a killed process, which would be in the way.
fn unix_socket() -> anyhow::Result<Option<PathBuf>> {
    let Some(path) = env::var_os("UNIX_SOCKET").map(PathBuf::from) else { return Ok(None) };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context("cannot remove the unix socket")
        }
        _ => Ok(Some(path)),
    }
}

fn tungstenite(small_buffers: bool) -> anyhow::Result<()> {
    let settings = Settings {
        port: port()?,
        unix_socket: unix_socket()?,
        redis_url: variable("REDIS_URL")?,
        secret: Secret::new(&variable("JWT_SECRET")?)?,
        small_buffers,
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(settings))
}

fn nginx(messages: u32) -> anyhow::Result<()> {
    let settings = nchan::Settings {
        port: port()?,
        unix_socket: unix_socket()?,
        redis_port: redis_port(&variable("REDIS_URL")?)?,
        messages,
        directory: Path::new(&variable("PEER_DIR")?).join(variable("INSTANCE")?),
    };
    match nchan::become_nginx(&settings)? {}
}

/// Returns the port of Redis on loopback. Asks Redis, because the URL may name a unix socket, which nchan does not support.
fn redis_port(url: &str) -> anyhow::Result<u16> {
    let mut redis = redis::Client::open(url)?.get_connection().context("cannot reach Redis")?;
    let info: redis::InfoDict = redis::cmd("INFO").arg("server").query(&mut redis)?;
    info.get("tcp_port").context("Redis does not report its tcp_port")
}
