//! The HAProxy configuration of all stacks, in a real HAProxy in front of a server of the test.

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
const TIMEOUT: Duration = Duration::from_secs(20);
/// Limit of HAProxy's descriptors.
const DESCRIPTORS: usize = 1000;

/// HAProxy between two unix sockets in a directory and one server. It ends with the test.
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

/// Responds to every request with 200, and counts the connections with calls. Health checks do not count.
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
    // A blank line ends the head. These requests have no body.
    while lines.any(|line| line.is_empty()) {
        if socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

/// Sends a call over an open connection. Returns its status.
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
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => {
                socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
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
    // The first calls may come before the first health check.
    let deadline = Instant::now() + TIMEOUT;
    while call(&mut socket) != "200" {
        assert!(Instant::now() < deadline, "haproxy did not find its server");
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

/// Responds to every request with 200, and records whether a request for `/slow` arrived.
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

/// An incomplete body waits in HAProxy, which has a buffer for it in any case.
#[test]
fn a_slow_body_does_not_reach_a_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = listener.local_addr().expect("an address").to_string();
    let asked = watch(listener);
    let _haproxy = Haproxy::start(directory.path(), &server);
    let api = directory.path().join("api.sock");
    let deadline = Instant::now() + TIMEOUT;
    while call(&mut connect(&api)) != "200" {
        assert!(Instant::now() < deadline, "haproxy did not find its server");
    }
    let mut slow = connect(&api);
    slow.write_all(b"POST /slow HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n1234")
        .expect("most of a call");
    for _ in 0..20 {
        assert_eq!(call(&mut connect(&api)), "200");
    }
    assert!(!asked.load(Ordering::Relaxed), "the server received the head of a call without its body");
    slow.write_all(b"5").expect("the rest of a call");
    let deadline = Instant::now() + TIMEOUT;
    while !asked.load(Ordering::Relaxed) {
        assert!(Instant::now() < deadline, "the complete call did not reach the server");
        thread::yield_now();
    }
}
