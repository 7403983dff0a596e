//! Holds a native stack while it runs: takes orders from the control socket one after another, ends everything on an
//! order, on SIGTERM or on Ctrl+C. It restarts nothing by itself.

use crate::{
    control::{MAX_LINE_BYTES, Request, Response, socket},
    native::{Native, Options},
};
use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Pause after the system refused to accept, for want of descriptors as a rule.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

const MAX_CALLERS: usize = 16;
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

struct Order {
    request: Request,
    reply: oneshot::Sender<Response>,
}

/// Starts a stack, calls `up` when it is ready, and holds it until it is told to end. Dropping the future kills what is left.
///
/// # Errors
/// Another stack runs in the same directory, this one did not start, or `up` failed. Nothing is left running.
pub async fn run(
    options: Options,
    shutdown: CancellationToken,
    up: impl AsyncFnOnce(&Native) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let state_dir = options.state_dir.clone();
    let _lock = lock(&state_dir)?;
    let path = socket(&state_dir);
    let mut native = tokio::select! {
        native = Native::start(options) => native?,
        () = shutdown.cancelled() => bail!("told to end before the stack was up"),
    };
    // Left behind by a supervisor that was killed: the lock says that it is gone.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| {
        format!("cannot listen on {} (a socket's path has at most 107 bytes)", path.display())
    })?;
    let (orders, mut inbox) = mpsc::channel(MAX_CALLERS);
    let doorman = tokio::spawn(accept(listener, orders));
    let told = up(&native).await;
    let reply = match told {
        Ok(()) => serve(&mut native, &mut inbox, &shutdown).await,
        Err(_) => None,
    };
    let _ = fs::remove_file(&path);
    info!("ending the stack");
    native.stop().await;
    if let Some(reply) = reply {
        let _ = reply.send(Response::Ended);
        // The caller's connection is ours to finish: give it a moment to take the answer.
        drop(inbox);
        let _ = timeout(REQUEST_PATIENCE, doorman).await;
    }
    told
}

/// Takes orders until one says to end (and answers who waits for that), or `shutdown` does.
async fn serve(
    native: &mut Native,
    inbox: &mut mpsc::Receiver<Order>,
    shutdown: &CancellationToken,
) -> Option<oneshot::Sender<Response>> {
    loop {
        let order = tokio::select! {
            () = shutdown.cancelled() => return None,
            order = inbox.recv() => order?,
        };
        let Order { request, reply } = order;
        if request == Request::Down {
            return Some(reply);
        }
        let response = tokio::select! {
            () = shutdown.cancelled() => return None,
            response = obey(native, request) => response,
        };
        // The caller may have gone away.
        let _ = reply.send(response);
    }
}

async fn obey(native: &mut Native, request: Request) -> Response {
    match request {
        Request::Scale { to } => {
            for (role, count) in to {
                if let Err(error) = native.scale(role, count).await {
                    return Response::Error(format!("cannot scale {role} to {count}: {error:#}"));
                }
            }
        }
        Request::Fault { fault } => return Response::Error(format!("cannot inject {fault} yet")),
        Request::Check { .. } | Request::Status | Request::Down => {}
    }
    Response::Status(native.status().await)
}

/// Takes callers in, so many at once, until nobody takes orders any more; then waits for those that are in.
async fn accept(listener: UnixListener, orders: mpsc::Sender<Order>) {
    let seats = Arc::new(Semaphore::new(MAX_CALLERS));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let stream = tokio::select! {
            () = orders.closed() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "cannot take a caller in");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let orders = orders.clone();
        tokio::spawn(async move {
            let _seat = seat;
            if let Err(error) = converse(stream, orders).await {
                warn!(%error, "a caller of the control socket left early");
            }
        });
    }
    drop(orders);
    let _ = seats.acquire_many(MAX_CALLERS as u32).await;
}

async fn converse(stream: UnixStream, orders: mpsc::Sender<Order>) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_LINE_BYTES as u64));
    timeout(REQUEST_PATIENCE, reader.read_line(&mut line)).await.context("no order in time")??;
    let response = match serde_json::from_str(&line) {
        Err(error) => Response::Error(format!("the order makes no sense: {error}")),
        Ok(request) => {
            let (reply, answer) = oneshot::channel();
            let ending = || Response::Error("the stack is ending".into());
            match orders.send(Order { request, reply }).await {
                Ok(()) => answer.await.unwrap_or_else(|_| ending()),
                Err(_) => ending(),
            }
        }
    };
    let mut answer = serde_json::to_vec(&response)?;
    answer.push(b'\n');
    timeout(REQUEST_PATIENCE, writer.write_all(&answer)).await.context("the answer was not taken")??;
    Ok(())
}

/// One supervisor a directory. The lock goes when the process does.
fn lock(state_dir: &Path) -> anyhow::Result<Flock<File>> {
    crate::native::private_directory(state_dir)?;
    let path = state_dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)?;
            write!(lock, "{}", std::process::id())?;
            Ok(lock)
        }
        Err((_, Errno::EWOULDBLOCK)) => {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            bail!(
                "a stack is running in {} already (supervisor {pid}): end it with `stack down`, or give another --name",
                state_dir.display()
            )
        }
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
