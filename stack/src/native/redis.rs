//! A private `redis-server`: its own directory and port, no persistence, never evicting.
//! It holds no configuration file, so nothing of the host's own Redis leaks in.

use super::{
    ports,
    process::{Process, Spec, private_directory},
};
use nix::sys::signal::Signal;
use std::{path::Path, time::Duration};

const PATIENCE: Duration = Duration::from_secs(10);

/// A subscriber that stops reading is cut off only when it is far behind: its sessions share it.
const PUBSUB_LIMIT: &str = "pubsub 256mb 64mb 60";

/// Starts Redis on `port` and waits until it answers.
pub(crate) async fn start(program: &Path, state: &Path, port: u16) -> anyhow::Result<Process> {
    let directory = state.join("redis");
    private_directory(&directory)?;
    let text = |value: &str| value.to_owned().into();
    let mut args = vec![text("--dir"), directory.into_os_string()];
    let port_text = port.to_string();
    let settings = [
        ("--port", port_text.as_str()),
        ("--bind", "127.0.0.1"),
        ("--daemonize", "no"),
        ("--save", ""),
        ("--appendonly", "no"),
        ("--maxmemory-policy", "noeviction"),
        ("--client-output-buffer-limit", PUBSUB_LIMIT),
        ("--tcp-backlog", "511"),
    ];
    args.extend(settings.iter().flat_map(|(name, value)| [text(name), text(value)]));
    let process = Process::start(Spec {
        name: "redis".into(),
        program: program.to_owned(),
        args,
        env: Vec::new(),
        env_remove: &["JWT_SECRET", "JWT_SECRET_FILE"],
        log: state.join("logs/redis.log"),
        at_our_death: Signal::SIGKILL,
    })
    .await?;
    let answers = async || match super::super::probe::redis_answers(ports::local(port)).await {
        true => Ok(()),
        false => Err(format!("no answer on port {port}")),
    };
    process.wait_until(PATIENCE, answers).await?;
    Ok(process)
}
