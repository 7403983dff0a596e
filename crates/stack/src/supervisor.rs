//! The supervisor of a native stack: it executes the requests of the control socket, and ends the stack on a request or on
//! shutdown. It restarts no process by itself.

use crate::{
    autoscaling::{self, Autoscaling},
    control::{KEEPALIVE_INTERVAL, MAX_LINE_BYTES, Request, Response, socket},
    files::{self, is_trusted},
    native::{Native, Options, Status, check_count},
    role::Role,
    scaling::Scaled,
};
use anyhow::{Context, bail};
use futures_util::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use guard::{Acceptor, accept_now};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File},
    io::Write,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::{Semaphore, mpsc, oneshot},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Connections to the control socket at a time.
const MAX_CONNECTIONS: usize = 16;
/// Time limit for reading a request, and for sending a response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A request and the way back to its client.
struct PendingRequest {
    request: Request,
    reply: oneshot::Sender<Response>,
}

/// Starts a stack, calls `up` when it is ready, and runs it until a `Down` request or `shutdown`. Dropping the future kills the
/// processes.
///
/// # Errors
/// Another stack runs in the same directory, this one did not start, or `up` failed. No process is left running.
pub async fn run(
    options: Options,
    shutdown: CancellationToken,
    up: impl AsyncFnOnce(&Native) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let state_dir = options.state_dir.clone();
    let _lock = lock(&state_dir)?;
    let path = socket(&state_dir);
    let native = tokio::select! {
        native = Native::start(options) => native?,
        () = shutdown.cancelled() => bail!("interrupted before the stack was ready"),
    };
    // A supervisor that was killed left its socket behind. This process has the lock, so that supervisor has ended.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| {
        format!("cannot listen on {} (a socket's path has at most 107 bytes)", path.display())
    })?;
    let (sender, mut requests) = mpsc::channel(MAX_CONNECTIONS);
    let accept_task = tokio::spawn(accept(listener, sender, is_trusted));
    let outcome = up(&native).await;
    let reply = match outcome {
        Ok(()) => serve(&native, &mut requests, &shutdown).await,
        Err(_) => None,
    };
    let _ = fs::remove_file(&path);
    info!("ending the stack");
    native.stop().await;
    if let Some(reply) = reply {
        let _ = reply.send(Response::Ended);
        // The client has to receive this response before the process ends.
        drop(requests);
        let _ = timeout(REQUEST_TIMEOUT, accept_task).await;
    }
    outcome
}

/// Executes requests until a `Down` request, whose reply channel it returns, or until `shutdown`. Requests that change something
/// run one after another; `Status` is answered meanwhile.
async fn serve(
    native: &Native,
    requests: &mut mpsc::Receiver<PendingRequest>,
    shutdown: &CancellationToken,
) -> Option<oneshot::Sender<Response>> {
    let autoscaling = native.autoscale().map(|rule| Autoscaling::new(rule.clone(), native.gateways()));
    let autoscaling = autoscaling.as_ref();
    let mut ticks = interval(autoscaling::TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Neither grows beyond MAX_CONNECTIONS, because a connection has one request.
    let mut statuses = FuturesUnordered::new();
    let mut waiting: VecDeque<PendingRequest> = VecDeque::new();
    // What changes the stack at present: a request or a decision of the autoscaling, at most one.
    let mut current: FuturesUnordered<LocalBoxFuture<'_, ()>> = FuturesUnordered::new();
    loop {
        if current.is_empty()
            && let Some(PendingRequest { request, reply }) = waiting.pop_front()
        {
            current.push(Box::pin(async move {
                // The client may have disconnected.
                let _ = reply.send(execute(native, request, autoscaling).await);
            }));
        }
        let pending = tokio::select! {
            () = shutdown.cancelled() => return None,
            Some(()) = current.next() => continue,
            Some(()) = statuses.next() => continue,
            _ = ticks.tick(), if current.is_empty() && autoscaling.is_some() => {
                if let Some(autoscaling) = autoscaling {
                    current.push(Box::pin(autoscaling.step(native)));
                }
                continue;
            }
            pending = requests.recv() => pending?,
        };
        match pending.request {
            Request::Down => return Some(pending.reply),
            Request::Status => statuses.push(send_status(native, pending.reply, autoscaling)),
            Request::Scale { .. } | Request::Fault { .. } | Request::Check { .. } => {
                waiting.push_back(pending);
            }
        }
    }
}

async fn send_status(native: &Native, reply: oneshot::Sender<Response>, autoscaling: Option<&Autoscaling>) {
    let _ = reply.send(status(native, autoscaling).await);
}

async fn status(native: &Native, autoscaling: Option<&Autoscaling>) -> Response {
    let autoscale = autoscaling.map(Autoscaling::describe);
    Response::Status(Status { autoscale, ..native.status().await })
}

/// Executes a request that changes something or checks a fault.
async fn execute(native: &Native, request: Request, autoscaling: Option<&Autoscaling>) -> Response {
    match request {
        Request::Scale { to } => {
            return match scale(native, &to).await {
                Ok(changes) => Response::Scaled(changes),
                Err(error) => Response::Error(format!("{error:#}")),
            };
        }
        Request::Fault { fault } => {
            return match native.inject(&fault).await {
                Ok(injected) => Response::Fault(injected),
                Err(error) => Response::Error(format!("{error:#}")),
            };
        }
        Request::Check { fault } => {
            if let Err(error) = native.check(&fault) {
                return Response::Error(format!("{error:#}"));
            }
        }
        Request::Status | Request::Down => {}
    }
    status(native, autoscaling).await
}

/// Changes the numbers of instances, role by role. Nothing changes if a number is invalid.
async fn scale(native: &Native, to: &BTreeMap<Role, u16>) -> anyhow::Result<Vec<Scaled>> {
    let cannot = |role: Role, count: u16| format!("cannot scale {role} to {count}");
    for (&role, &count) in to {
        check_count(role, count).with_context(|| cannot(role, count))?;
    }
    let mut changes = Vec::new();
    for (&role, &count) in to {
        changes.push(native.scale(role, count).await.with_context(|| cannot(role, count))?);
    }
    Ok(changes)
}

/// Accepts connections until the receiver of `requests` is dropped, then waits for the open ones. `trusts` decides from which
/// users requests are accepted.
async fn accept(listener: UnixListener, requests: mpsc::Sender<PendingRequest>, trusts: fn(u32) -> bool) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut acceptor = Acceptor::default();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = tokio::select! {
            () = requests.closed() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    acceptor.failed(&error, || accept_now(listener.accept())).await;
                    continue;
                }
            },
        };
        acceptor.accepted();
        let requests = requests.clone();
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = handle_connection(stream, requests, trusts).await {
                warn!(%error, "a connection to the control socket failed");
            }
        });
    }
    drop(requests);
    let _ = permits.acquire_many(MAX_CONNECTIONS as u32).await;
}

/// Reads a request, has it executed and sends the response.
async fn handle_connection(
    stream: UnixStream,
    requests: mpsc::Sender<PendingRequest>,
    trusts: fn(u32) -> bool,
) -> anyhow::Result<()> {
    let user = stream.peer_cred().context("cannot read the user of the client")?.uid();
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_LINE_BYTES as u64));
    timeout(REQUEST_TIMEOUT, reader.read_line(&mut line)).await.context("no request in time")??;
    let response = match serde_json::from_str(&line) {
        Err(error) => Response::Error(format!("invalid request: {error}")),
        Ok(_) if !trusts(user) => {
            warn!(user, "refused a request of another user");
            Response::Error(format!("this stack belongs to another user and refuses requests of user {user}"))
        }
        Ok(request) => {
            let (reply, response) = oneshot::channel();
            let ending = || Response::Error("the stack is ending".into());
            match requests.send(PendingRequest { request, reply }).await {
                Ok(()) => wait_with_keepalive(&mut writer, response).await?.unwrap_or_else(ending),
                Err(_) => ending(),
            }
        }
    };
    let mut line = serde_json::to_vec(&response)?;
    line.push(b'\n');
    timeout(REQUEST_TIMEOUT, writer.write_all(&line))
        .await
        .context("the client did not read the response")??;
    Ok(())
}

/// Waits for the response to a request that may take long. Meanwhile it sends the client a blank every few seconds, which JSON
/// allows before a value, so that the client continues to wait. Returns `None` if the stack ends first.
async fn wait_with_keepalive(
    writer: &mut OwnedWriteHalf,
    mut response: oneshot::Receiver<Response>,
) -> anyhow::Result<Option<Response>> {
    loop {
        match timeout(KEEPALIVE_INTERVAL, &mut response).await {
            Ok(response) => return Ok(response.ok()),
            Err(_) => writer.write_all(b" ").await.context("the client has disconnected")?,
        }
    }
}

/// Locks a state directory, which can have one supervisor. The lock ends with the process.
fn lock(state_dir: &Path) -> anyhow::Result<Flock<File>> {
    files::private_directory(state_dir)?;
    let path = state_dir.join("lock");
    let file = files::open_lock(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)?;
            write!(lock, "{}", std::process::id())?;
            Ok(lock)
        }
        Err((_, Errno::EWOULDBLOCK)) => {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            bail!(
                "a stack is already running in {directory} (supervisor: pid {pid}): end it with `streamstress stack down --state-dir \
                 {directory}`, or choose another --name",
                directory = state_dir.display()
            )
        }
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::call;

    #[tokio::test]
    async fn another_user_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket(directory.path())).unwrap();
        let (sender, requests) = mpsc::channel(1);
        let accept_task = tokio::spawn(accept(listener, sender, |_| false));
        let path = directory.path().to_owned();
        let response = tokio::task::spawn_blocking(move || call(&path, &Request::Down)).await.unwrap();
        let error = response.unwrap_err().to_string();
        assert!(error.contains("refuses requests of user"), "{error}");
        assert!(requests.is_empty());
        drop(requests);
        timeout(REQUEST_TIMEOUT, accept_task).await.unwrap().unwrap();
    }
}
