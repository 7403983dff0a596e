//! The configuration that every stack's HAProxy shares, in a real HAProxy before a server of the test's own.

use std::{
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker/haproxy/base.cfg");
const PATIENCE: Duration = Duration::from_secs(20);
/// All that HAProxy may have.
const DESCRIPTORS: usize = 1000;

/// HAProxy between two unix sockets in `directory` and one server; it ends with the test.
struct Haproxy(Child);

impl Haproxy {
    fn start(directory: &Path, server: &str) -> Self {
        let backends = directory.join("backends.cfg");
        let text = format!(
            "backend api from toward-servers\n    server only {server}\nbackend ws from toward-gateways\n    server only {server}\n"
        );
        fs::write(&backends, text).expect("write the backends");
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "haproxy", "-db", "-f", BASE, "-f"])
            .arg(backends)
            .env("PATH", path)
            .env("API_BIND", directory.join("api.sock"))
            .env("WS_BIND", directory.join("ws.sock"))
            .env("STATS_BIND", directory.join("stats.sock"))
            .env("HAPROXY_FD_LIMIT", DESCRIPTORS.to_string())
            .env("HAPROXY_THREADS", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start haproxy: run scripts/test.sh, which installs it");
        Self(child)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers every request with 200, and counts the connections over which calls came: health checks apart.
fn serve(listener: TcpListener) -> Arc<AtomicUsize> {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let count = Arc::clone(&count);
            thread::spawn(move || answer(&socket, &count));
        }
    });
    connections
}

fn answer(mut socket: &TcpStream, count: &AtomicUsize) {
    let mut lines = BufReader::new(socket).lines().map_while(Result::ok).peekable();
    if lines.peek().is_some_and(|request| request.starts_with("POST")) {
        count.fetch_add(1, Ordering::Relaxed);
    }
    // A blank line ends the head; no request here has a body.
    while lines.any(|line| line.is_empty()) {
        if socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

/// One call over a kept connection; its status.
fn call(socket: &mut UnixStream) -> String {
    socket.write_all(b"POST /call HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n").expect("send a call");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned()
}

fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => {
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                return socket;
            }
            Err(error) => assert!(Instant::now() < deadline, "haproxy does not listen: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn calls_share_connections_to_a_server_while_sockets_hold_most_descriptors() {
    let directory = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = listener.local_addr().expect("an address").to_string();
    let connections = serve(listener);
    let _haproxy = Haproxy::start(directory.path(), &server);
    let held: Vec<_> = (0..DESCRIPTORS / 3).map(|_| connect(&directory.path().join("ws.sock"))).collect();
    let mut socket = connect(&directory.path().join("api.sock"));
    // The first answers may come before the first health check.
    let deadline = Instant::now() + PATIENCE;
    while call(&mut socket) != "200" {
        assert!(Instant::now() < deadline, "haproxy does not find its server");
        socket = connect(&directory.path().join("api.sock"));
    }
    let before = connections.load(Ordering::Relaxed);
    for _ in 0..20 {
        assert_eq!(call(&mut socket), "200");
    }
    let after = connections.load(Ordering::Relaxed);
    for mut socket in &held {
        socket.set_nonblocking(true).expect("a socket's mode");
        let read = socket
            .read(&mut [0])
            .expect_err("haproxy closed a socket: the machine is too slow for this test");
        assert_eq!(read.kind(), ErrorKind::WouldBlock, "{read}");
    }
    assert!(after - before <= 1, "{} connections for 20 calls beside {} sockets", after - before, held.len());
}

/// Answers every request with 200, and notes whether one asked for `/slow`.
fn watch(listener: TcpListener) -> Arc<AtomicBool> {
    let asked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                for line in BufReader::new(&socket).lines().map_while(Result::ok) {
                    if line.contains("/slow") {
                        seen.store(true, Ordering::Relaxed);
                    }
                    if line.is_empty() {
                        let _ = (&socket).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    }
                }
            });
        }
    });
    asked
}

/// A body that has not come whole waits in HAProxy, where it costs a buffer that is there anyway.
#[test]
fn a_slow_body_does_not_reach_a_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = listener.local_addr().expect("an address").to_string();
    let asked = watch(listener);
    let _haproxy = Haproxy::start(directory.path(), &server);
    let door = directory.path().join("api.sock");
    let deadline = Instant::now() + PATIENCE;
    while call(&mut connect(&door)) != "200" {
        assert!(Instant::now() < deadline, "haproxy does not find its server");
    }
    let mut slow = connect(&door);
    slow.write_all(b"POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n1234")
        .expect("most of a call");
    for _ in 0..20 {
        assert_eq!(call(&mut connect(&door)), "200");
    }
    assert!(!asked.load(Ordering::Relaxed), "a server has the head of a call whose body is not there");
    slow.write_all(b"5").expect("the rest of a call");
    let deadline = Instant::now() + PATIENCE;
    while !asked.load(Ordering::Relaxed) {
        assert!(Instant::now() < deadline, "the whole call does not reach a server");
        thread::yield_now();
    }
}
