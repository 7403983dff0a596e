//! Holds a native stack while it runs: takes orders from the control socket one after another, ends everything on an
//! order, on SIGTERM or on Ctrl+C. It restarts nothing by itself.

use crate::{
    control::{MAX_LINE_BYTES, Request, Response, socket},
    files::{self, is_trusted},
    native::{Native, Options},
};
use anyhow::{Context, bail};
use futures_util::{StreamExt, stream::FuturesUnordered};
use guard::{Acceptor, accept_now};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use std::{
    collections::VecDeque,
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
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const MAX_CALLERS: usize = 16;
/// Well below what a caller waits for the next byte of an order's answer, and above what it waits for a question's.
pub(crate) const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
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
    let native = tokio::select! {
        native = Native::start(options) => native?,
        () = shutdown.cancelled() => bail!("told to end before the stack was up"),
    };
    // Left behind by a supervisor that was killed: the lock says that it is gone.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| {
        format!("cannot listen on {} (a socket's path has at most 107 bytes)", path.display())
    })?;
    let (orders, mut inbox) = mpsc::channel(MAX_CALLERS);
    let doorman = tokio::spawn(accept(listener, orders, is_trusted));
    let told = up(&native).await;
    let reply = match told {
        Ok(()) => serve(&native, &mut inbox, &shutdown).await,
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

/// Takes orders until one says to end (and answers who waits for that), or `shutdown` does. Those that change something
/// are obeyed one after another; what runs is told meanwhile.
async fn serve(
    native: &Native,
    inbox: &mut mpsc::Receiver<Order>,
    shutdown: &CancellationToken,
) -> Option<oneshot::Sender<Response>> {
    // Neither grows beyond MAX_CALLERS: a caller has one order.
    let mut told = FuturesUnordered::new();
    let mut waiting: VecDeque<Order> = VecDeque::new();
    let mut current = FuturesUnordered::new();
    loop {
        if current.is_empty()
            && let Some(Order { request, reply }) = waiting.pop_front()
        {
            current.push(async move { (reply, obey(native, request).await) });
        }
        let order = tokio::select! {
            () = shutdown.cancelled() => return None,
            // The caller may have gone away.
            Some((reply, response)) = current.next() => {
                let _ = reply.send(response);
                continue;
            }
            Some(()) = told.next() => continue,
            order = inbox.recv() => order?,
        };
        match order.request {
            Request::Down => return Some(order.reply),
            Request::Status => told.push(tell(native, order.reply)),
            Request::Scale { .. } | Request::Fault { .. } | Request::Check { .. } => waiting.push_back(order),
        }
    }
}

async fn tell(native: &Native, reply: oneshot::Sender<Response>) {
    let _ = reply.send(Response::Status(native.status().await));
}

async fn obey(native: &Native, request: Request) -> Response {
    match request {
        Request::Scale { to } => {
            for (role, count) in to {
                if let Err(error) = native.scale(role, count).await {
                    return Response::Error(format!("cannot scale {role} to {count}: {error:#}"));
                }
            }
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
    Response::Status(native.status().await)
}

/// Takes callers in, so many at once, until nobody takes orders any more; then waits for those that are in. `trusts` tells of which
/// users orders are taken.
async fn accept(listener: UnixListener, orders: mpsc::Sender<Order>, trusts: fn(u32) -> bool) {
    let seats = Arc::new(Semaphore::new(MAX_CALLERS));
    let mut acceptor = Acceptor::default();
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let stream = tokio::select! {
            () = orders.closed() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    acceptor.failed(&error, || accept_now(listener.accept())).await;
                    continue;
                }
            },
        };
        acceptor.accepted();
        let orders = orders.clone();
        tokio::spawn(async move {
            let _seat = seat;
            if let Err(error) = converse(stream, orders, trusts).await {
                warn!(%error, "a caller of the control socket left early");
            }
        });
    }
    drop(orders);
    let _ = seats.acquire_many(MAX_CALLERS as u32).await;
}

async fn converse(
    stream: UnixStream,
    orders: mpsc::Sender<Order>,
    trusts: fn(u32) -> bool,
) -> anyhow::Result<()> {
    let caller = stream.peer_cred().context("the caller cannot be told")?.uid();
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_LINE_BYTES as u64));
    timeout(REQUEST_PATIENCE, reader.read_line(&mut line)).await.context("no order in time")??;
    let response = match serde_json::from_str(&line) {
        Err(error) => Response::Error(format!("the order makes no sense: {error}")),
        Ok(_) if !trusts(caller) => {
            warn!(caller, "an order of another user is refused");
            Response::Error(format!("this stack takes no orders from user {caller}: it belongs to another"))
        }
        Ok(request) => {
            let (reply, answer) = oneshot::channel();
            let ending = || Response::Error("the stack is ending".into());
            match orders.send(Order { request, reply }).await {
                Ok(()) => keep_waiting(&mut writer, answer).await?.unwrap_or_else(ending),
                Err(_) => ending(),
            }
        }
    };
    let mut answer = serde_json::to_vec(&response)?;
    answer.push(b'\n');
    timeout(REQUEST_PATIENCE, writer.write_all(&answer)).await.context("the answer was not taken")??;
    Ok(())
}

/// Waits for the answer to an order that may take long, and shows the caller that somebody is still there: a blank every
/// few seconds, which JSON allows before a value. None where the stack ends meanwhile.
async fn keep_waiting(
    writer: &mut OwnedWriteHalf,
    mut answer: oneshot::Receiver<Response>,
) -> anyhow::Result<Option<Response>> {
    loop {
        match timeout(SIGN_OF_LIFE, &mut answer).await {
            Ok(answer) => return Ok(answer.ok()),
            Err(_) => writer.write_all(b" ").await.context("the caller has gone away")?,
        }
    }
}

/// One supervisor a directory. The lock goes when the process does.
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
                "a stack is already running in {directory} (supervisor {pid}): end it with `streamstress stack down --state-dir {directory}`, or use another --name",
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
        let (orders, inbox) = mpsc::channel(1);
        let doorman = tokio::spawn(accept(listener, orders, |_| false));
        let path = directory.path().to_owned();
        let answer = tokio::task::spawn_blocking(move || call(&path, &Request::Down)).await.unwrap();
        let told = answer.unwrap_err().to_string();
        assert!(told.contains("takes no orders from user"), "{told}");
        assert!(inbox.is_empty());
        drop(inbox);
        timeout(REQUEST_PATIENCE, doorman).await.unwrap().unwrap();
    }
}
