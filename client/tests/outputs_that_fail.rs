//! `server`, `wsproxy` and `stack` with outputs that cannot be written (a full device, a closed pipe), and with an ignored hangup signal.
//! No program may panic, and each keeps its exit code. `unwritable.rs` tests the other commands.

mod rig;

use nix::sys::signal::Signal;
use rig::{processes::ChildGuard, programs, wait_until};
use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
};

const KEY: &str = "a key of thirty-two bytes or more";

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// The write end of a pipe whose read end is closed.
fn closed() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

/// Pairs of stdout and stderr that cannot be written.
fn nowhere() -> [[Stdio; 2]; 4] {
    [[full(), full()], [closed(), closed()], [full(), closed()], [closed(), full()]]
}

/// A program with only this environment and the most verbose log.
fn program(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = programs::program(name);
    command.args(arguments).env_clear().env("RUST_LOG", "trace").envs(environment.iter().copied());
    command.stdin(Stdio::null());
    command
}

/// A program, its arguments, its environment and the expected exit code.
type Case<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)], i32);

#[test]
fn every_program_keeps_its_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().to_str().unwrap();
    let nobody = free().port().to_string();
    let bus = ("REDIS_URL", "memory://");
    let cases: [Case<'_>; 12] = [
        ("stack", &["--help"], &[], 0),
        ("stack", &["--no-such-flag"], &[], 2),
        ("stack", &["--state-dir", state_dir, "status"], &[], 1),
        ("stack", &["--state-dir", state_dir, "down"], &[], 1),
        ("server", &["--help"], &[], 0),
        ("server", &["--no-such-flag"], &[], 2),
        ("server", &[], &[bus, ("JWT_SECRET", "short")], 2),
        ("server", &["--health-check"], &[("PORT", &nobody)], 1),
        ("wsproxy", &["--help"], &[], 0),
        ("wsproxy", &["--no-such-flag"], &[], 2),
        ("wsproxy", &[], &[bus, ("JWT_SECRET", "short")], 2),
        ("wsproxy", &["--health-check"], &[("PORT", &nobody)], 1),
    ];
    for (name, arguments, environment, code) in cases {
        for [stdout, stderr] in nowhere() {
            let status =
                program(name, arguments, environment).stdout(stdout).stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(code), "{name} {arguments:?} {environment:?}: {status}");
        }
    }
}

/// Sends a request. Returns the first line of the response, which is empty if there is none.
fn asked(mut socket: impl Read + Write) -> String {
    let mut answer = String::new();
    let call = b"GET /ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    match socket.write_all(call).and_then(|()| socket.read_to_string(&mut answer)) {
        Ok(_) => answer.lines().next().unwrap_or_default().to_owned(),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => String::new(),
        Err(error) => panic!("{error}"),
    }
}

/// Waits until the program responds with status 200.
fn answers(held: &mut ChildGuard, answer: impl Fn() -> String) {
    wait_until("the program responds with 200", || {
        assert!(held.0.try_wait().unwrap().is_none(), "the program ended");
        answer().contains("200")
    });
}

/// Waits until the program responds, then ends it with SIGTERM. It must succeed.
fn serves_and_ends(mut held: ChildGuard, answer: impl Fn() -> String) {
    answers(&mut held, answer);
    held.signal(Signal::SIGTERM);
    assert!(held.exits_successfully());
}

/// Returns an address with a free port. Another process can take it before the program does.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The environment that a server or a gateway needs.
fn environment<'a>(port: &'a str, socket: &'a str) -> [(&'a str, &'a str); 5] {
    let bus = ("REDIS_URL", "memory://");
    [bus, ("JWT_SECRET", KEY), ("HOST", "127.0.0.1"), ("PORT", port), ("UNIX_SOCKET", socket)]
}

#[test]
fn a_server_and_a_gateway_serve_without_a_writable_output() {
    for [stdout, stderr] in nowhere() {
        let address = free();
        let port = address.port().to_string();
        let server =
            ChildGuard::start(program("server", &[], &environment(&port, "")).stdout(stdout).stderr(stderr));
        serves_and_ends(server, || TcpStream::connect(address).map(asked).unwrap_or_default());
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.sock");
    for [stdout, stderr] in nowhere() {
        let environment = environment("0", path.to_str().unwrap());
        let gateway = ChildGuard::start(program("wsproxy", &[], &environment).stdout(stdout).stderr(stderr));
        serves_and_ends(gateway, || UnixStream::connect(&path).map(asked).unwrap_or_default());
    }
}

/// A program that reacted to the hangup would drain at once, and refuse the requests that follow.
#[test]
fn below_nohup_a_hangup_stays_ignored_and_sigterm_ends_a_program() {
    for name in ["server", "wsproxy"] {
        let address = free();
        let port = address.port().to_string();
        let mut command = Command::new("nohup");
        command.args([programs::STREAMSTRESS, name]).env_clear().envs(environment(&port, ""));
        let mut held = ChildGuard::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let answer = || TcpStream::connect(address).map(asked).unwrap_or_default();
        answers(&mut held, answer);
        held.signal(Signal::SIGHUP);
        for _ in 0..100 {
            let answer = answer();
            assert!(answer.contains("200"), "{name}: {answer}");
        }
        assert!(held.0.try_wait().unwrap().is_none(), "{name} ended");
        held.signal(Signal::SIGTERM);
        assert!(held.exits_successfully(), "{name}");
    }
}

fn stack(state_dir: &Path, arguments: &[&str], [stdout, stderr]: [Stdio; 2]) -> ChildGuard {
    ChildGuard::start(programs::stack(state_dir, arguments).stdout(stdout).stderr(stderr))
}

#[test]
fn a_stack_starts_responds_and_ends_without_a_writable_output() {
    const PORTS: [&str; 6] = ["--api-port", "0", "--ws-port", "0", "--stats-port", "0"];
    for outputs in [[full(), full()], [closed(), closed()]] {
        let directory = tempfile::tempdir().unwrap();
        let up = [&["up", "--servers", "1", "--proxies", "1"], &PORTS[..]].concat();
        let mut supervisor = stack(directory.path(), &up, outputs);
        wait_until("the stack is up", || {
            assert!(supervisor.0.try_wait().unwrap().is_none(), "the supervisor ended");
            stack(directory.path(), &["status"], [full(), closed()]).0.wait().unwrap().success()
        });
        for arguments in [&["status", "--json"][..], &["logs", "wsproxy-1"], &["fault", "wsproxy-1:kill"]] {
            assert!(
                stack(directory.path(), arguments, [closed(), full()]).exits_successfully(),
                "{arguments:?}"
            );
        }
        assert!(stack(directory.path(), &["down"], [full(), full()]).exits_successfully());
        assert!(supervisor.exits_successfully());
    }
}
