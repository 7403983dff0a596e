//! The unix socket through which `streamstress amend` on this machine reaches the runs that are going on. Each run has one, in a
//! directory that only its user can enter. A request and its response are one line of JSON each.

use super::{Amender, Request, Response};
use anyhow::{Context, ensure};
use std::{
    fs::{self, DirBuilder},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{
        fs::DirBuilderExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use tempfile::{Builder, NamedTempFile};

/// Time limit for reading a request and for writing a response.
const LIMIT: Duration = Duration::from_secs(5);
/// Pause after an error of the socket.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// Longest request or response, in bytes.
const LONGEST: u64 = 64 << 10;
/// What the names of the sockets begin and end with.
const PREFIX: &str = "run-";
const SUFFIX: &str = ".sock";

/// Listens for requests until it is dropped.
pub(crate) struct Service {
    socket: NamedTempFile<Arc<UnixListener>>,
    has_ended: Arc<AtomicBool>,
}

impl Service {
    /// Creates the socket and starts a thread that executes requests, one at a time.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub(crate) fn start(amender: Arc<Amender>) -> anyhow::Result<Self> {
        let directory = own_directory()?;
        let socket = Builder::new()
            .prefix(PREFIX)
            .suffix(SUFFIX)
            .make_in(&directory, |path| UnixListener::bind(path).map(Arc::new))
            .with_context(|| format!("cannot create a socket in {}", directory.display()))?;
        let listener = Arc::clone(socket.as_file());
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&has_ended);
        let serve = move || {
            for connection in listener.incoming() {
                match connection {
                    Ok(connection) => drop(answer(&connection, |request| amender.execute(request))),
                    // The end of the service shuts the socket down.
                    Err(_) if ended.load(Ordering::SeqCst) => break,
                    // For example, no descriptor is free.
                    Err(_) => thread::sleep(AFTER_ERROR),
                }
            }
        };
        thread::Builder::new().name("amend".into()).spawn(serve).context("cannot start a thread")?;
        Ok(Self { socket, has_ended })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        use nix::sys::socket::{Shutdown, shutdown};
        use std::os::fd::AsRawFd;
        self.has_ended.store(true, Ordering::SeqCst);
        let _ = shutdown(self.socket.as_file().as_raw_fd(), Shutdown::Both);
    }
}

/// Reads a request and writes the response.
fn answer(connection: &UnixStream, execute: impl FnOnce(&Request) -> Response) -> io::Result<()> {
    connection.set_read_timeout(Some(LIMIT))?;
    connection.set_write_timeout(Some(LIMIT))?;
    let response = match read(connection) {
        Ok(request) => execute(&request),
        Err(error) => Response::Refused(format!("the request cannot be read: {error}")),
    };
    write(connection, &response)
}

fn read<T: for<'de> serde::Deserialize<'de>>(connection: &UnixStream) -> io::Result<T> {
    let mut line = String::new();
    BufReader::new(connection.take(LONGEST)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn write(mut connection: &UnixStream, message: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    connection.write_all(&line)
}

/// Returns the sockets of the user's runs on this machine. Removes those of processes that were killed.
pub(super) fn sockets() -> io::Result<Vec<PathBuf>> {
    let directory = directory();
    match host::is_private(&directory) {
        Ok(true) => {}
        Ok(false) => return Err(io::Error::other(not_own(&directory))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let entries = fs::read_dir(directory)?;
    let is_socket = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(PREFIX) && name.ends_with(SUFFIX)
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    let is_alive = |path: &PathBuf| {
        let refused =
            UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if refused {
            let _ = fs::remove_file(path);
        }
        !refused
    };
    Ok(paths.into_iter().filter(is_socket).filter(is_alive).collect())
}

/// Returns the names of the user's runs that go on on this machine.
pub(crate) fn running() -> Vec<String> {
    let name = |socket: PathBuf| match ask(&socket, &Request::Describe) {
        Ok(Response::Run { id, .. }) => Some(id),
        _ => None,
    };
    sockets().unwrap_or_default().into_iter().filter_map(name).collect()
}

/// Sends a request to the run with this socket.
pub(super) fn ask(socket: &Path, request: &Request) -> io::Result<Response> {
    let connection = UnixStream::connect(socket)?;
    connection.set_read_timeout(Some(LIMIT))?;
    connection.set_write_timeout(Some(LIMIT))?;
    write(&connection, request)?;
    read(&connection)
}

/// Returns the directory of the sockets: under `XDG_RUNTIME_DIR` if that is an absolute path, otherwise under `/tmp`.
fn directory() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(directory) if directory.is_absolute() => directory.join("streamstress-runs"),
        _ => PathBuf::from(format!("/tmp/streamstress-runs-{}", nix::unistd::getuid())),
    }
}

/// Creates the directory of the sockets. Only this user may enter it.
fn own_directory() -> anyhow::Result<PathBuf> {
    let directory = directory();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    ensure!(host::is_private(&directory)?, "{}", not_own(&directory));
    Ok(directory)
}

fn not_own(directory: &Path) -> String {
    format!("{} belongs to another user, or others may enter it", directory.display())
}
