//! A private `redis-server` with the settings that Docker has too, in a directory and on a port of its own.
//! Nothing of the host's own Redis leaks in, and nothing outlives it.

use super::{
    instance::LONGEST_SOCKET_PATH,
    ports::{self, Started},
    process::{Process, Spec, private_directory},
};
use crate::probe;
use anyhow::Context;
use nix::sys::signal::Signal;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const SHARED: &str = include_str!("../../../docker/redis.conf");
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the stack's processes reach the Redis on `port`: by its unix socket, or by TCP where a URL cannot hold its path.
pub(crate) fn url(state: &Path, port: u16) -> String {
    let path = socket(state);
    let text = path.to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if text.bytes().all(plain) && text.len() <= LONGEST_SOCKET_PATH {
        return format!("redis+unix://{text}");
    }
    format!("redis://{}", ports::local(port))
}

fn socket(state: &Path) -> PathBuf {
    state.join("redis.sock")
}

/// Starts Redis on a free port and waits until it answers.
pub(crate) async fn start(program: &Path, state: &Path, reserved: &[u16]) -> anyhow::Result<(Process, u16)> {
    let directory = state.join("redis");
    private_directory(&directory)?;
    let configuration = state.join("redis.conf");
    fs::write(&configuration, SHARED).with_context(|| format!("cannot write {}", configuration.display()))?;
    ports::start_on_free(reserved, async |port| {
        // What follows the file outranks it: here Redis has no network of its own around it.
        let port_text = port.to_string();
        let own = ["--port", &port_text, "--bind", "127.0.0.1", "--tcp-backlog", "511", "--dir"];
        let mut args = vec![configuration.clone().into_os_string()];
        args.extend(own.map(OsString::from));
        args.push(directory.clone().into_os_string());
        if socket(state).as_os_str().len() <= LONGEST_SOCKET_PATH {
            args.extend(["--unixsocket".into(), socket(state).into_os_string()]);
        }
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
        let answers = async || match probe::redis_answers(ports::local(port)).await {
            true => Ok(()),
            false => Err(format!("no answer on port {port}")),
        };
        let ready = process.wait_until(PATIENCE, answers).await;
        Ok(Started { process, ready })
    })
    .await
}
