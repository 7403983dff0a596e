//! The peer's program: a minimal gateway that takes the place of ours in a stack, with the same environment.

use anyhow::Context;
use benches::peer::{Settings, serve};
use protocol::Secret;
use std::env;

/// As in our own programs, so that allocators are not what is compared.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let variable = |name: &str| env::var(name).with_context(|| format!("{name} is not set"));
    let settings = Settings {
        port: variable("PORT")?.parse().context("PORT is no port")?,
        unix_socket: env::var_os("UNIX_SOCKET").map(Into::into),
        redis_url: variable("REDIS_URL")?,
        secret: Secret::new(&variable("JWT_SECRET")?)?,
        small_buffers: match variable("PEER")?.as_str() {
            "tungstenite-default" => false,
            "tungstenite-small" => true,
            other => anyhow::bail!("PEER `{other}` is unknown: use tungstenite-default or tungstenite-small"),
        },
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(settings))
}
