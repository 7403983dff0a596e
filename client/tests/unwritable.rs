//! Outputs that cannot be written (a closed pipe, a full device, a full disk), and signals. No program may panic, and each keeps its exit
//! code. Runs end as usual and write their results.

mod fake;
mod launched;
mod rig;
mod runs;

use fake::{Running, Script};
use launched::on_a_terminal;
use nix::sys::signal::Signal;
use plan::Stop;
use rig::{
    processes::{ChildGuard, wait_until_ended, with_descendants},
    programs::{self, streamstress},
    wait_until,
};
use runs::{args, run};
use std::{
    fs::{self, File},
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::symlink, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
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

/// Starts a command with these outputs and the most verbose log.
fn start(mut command: Command, [stdout, stderr]: [Stdio; 2]) -> ChildGuard {
    ChildGuard::start(command.env("RUST_LOG", "trace").stdout(stdout).stderr(stderr))
}

/// Returns everything that a program printed to an output.
fn printed(output: &mut Option<impl Read>) -> String {
    let mut text = String::new();
    output.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Arguments of a program, its environment and the expected exit code.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32);

#[test]
fn every_program_keeps_its_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let (rows, state_dir) = (programs::rows(directory.path()), directory.path().to_str().unwrap());
    let unused_port = free().port().to_string();
    let bad_key = [("REDIS_URL", "memory://"), ("JWT_SECRET", "short")];
    let cases: [Case<'_>; 19] = [
        (&["--help"], &[], 0),
        (&["--dry-run"], &[], 0),
        (&["analyze", &rows], &[], 0),
        (&["compare", &rows, &rows], &[], 98),
        (&["report", "/no/such_summary.json"], &[], 104),
        (&["--clients", "0"], &[], 104),
        (&["--no-such-flag"], &[], 104),
        (&["stack", "--help"], &[], 0),
        (&["stack", "--no-such-flag"], &[], 104),
        (&["stack", "--state-dir", state_dir, "status"], &[], 1),
        (&["stack", "--state-dir", state_dir, "down"], &[], 1),
        (&["server", "--help"], &[], 0),
        (&["server", "--no-such-flag"], &[], 104),
        (&["server"], &bad_key, 104),
        (&["server", "--health-check"], &[("PORT", &unused_port)], 1),
        (&["wsproxy", "--help"], &[], 0),
        (&["wsproxy", "--no-such-flag"], &[], 104),
        (&["wsproxy"], &bad_key, 104),
        (&["wsproxy", "--health-check"], &[("PORT", &unused_port)], 1),
    ];
    for (arguments, environment, code) in cases {
        for outputs in nowhere() {
            let mut command = streamstress(arguments);
            command.envs(environment.iter().copied());
            assert_eq!(start(command, outputs).code(), Some(code), "{arguments:?} {environment:?}");
        }
    }
}

#[test]
fn a_run_ends_with_its_verdict_without_a_writable_output() {
    let server = Running::start(Script::default());
    for outputs in [[full(), full()], [closed(), closed()]] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = against(&server, dir.path(), ["1", "1"]);
        command.args(["--threshold", "queries_ok>5"]);
        assert_eq!(start(command, outputs).code(), Some(99));
        assert!(fs::read_dir(dir.path()).unwrap().count() > 8);
    }
}

/// Returns a run of so many clients and queries against `server`.
fn against(server: &Running, results: &Path, [clients, queries]: [&str; 2]) -> Command {
    let mut command = streamstress(&["--clients", clients, "--queries", queries]);
    command.args(["--api-url", &server.api, "--wsproxy-url", &server.ws, "--output-dir"]).arg(results);
    command
}

#[test]
fn a_full_disk_keeps_the_verdict_and_names_the_files_that_are_missing() {
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let path = |ending: &str| dir.path().join(format!("loadtest_20261121_000000{ending}"));
    for ending in ["_history.csv", "_latency.hlog", "_junit.xml", "_summary.json"] {
        symlink("/dev/full", path(ending)).unwrap();
    }
    let finished = run(args(&server, dir.path(), 2, 1), &Stop::default()).unwrap();
    assert_eq!(finished.unwritten.len(), 4, "{:?}", finished.unwritten);
    for ending in ["_history.csv", "_latency.hlog", "_junit.xml", "_summary.json"] {
        let is_named = |line: &String| line.contains(ending) && line.contains("No space left");
        assert!(finished.unwritten.iter().any(is_named), "{ending}: {:?}", finished.unwritten);
    }
    assert!(finished.text(80).contains(finished.headline()), "{}", finished.text(80));
    assert_ne!(finished.exit_code(), 0, "a run whose results cannot be written must not pass");
    assert!(!path("_junit.xml").exists() && !path("_summary.json").exists());
    assert_eq!(fs::read_to_string(path(".csv")).unwrap().lines().count(), 3);
}

#[test]
fn a_signal_before_the_run_ends_it_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
        // Accepts connections and never responds, so the check of the target waits.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let results = dir.path().join("results");
        let urls = [format!("http://{address}"), format!("ws://{address}")];
        let mut command = streamstress(&["--quiet", "--api-url", &urls[0], "--wsproxy-url", &urls[1]]);
        command.arg("--output-dir").arg(&results).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = ChildGuard::start(&mut command);
        let _held = silent.accept().unwrap();
        let began = Instant::now();
        child.signal(signal);
        assert_eq!(child.code(), Some(105), "{signal}");
        assert!(began.elapsed() < Duration::from_secs(3), "{signal}: {:?}", began.elapsed());
        let text = printed(&mut child.0.stderr);
        assert!(text.contains("before the run began") && !results.exists(), "{text}");
    }
}

/// Checks that an interrupted run says so and writes its results.
fn is_interrupted(mut child: ChildGuard, results: &Path) {
    assert_eq!(child.code(), Some(105));
    let text = printed(&mut child.0.stdout);
    assert!(text.to_lowercase().contains("interrupted"), "{text}");
    assert!(fs::read_dir(results).unwrap().count() > 8);
}

#[test]
fn below_nohup_a_hangup_stays_ignored_and_sigterm_writes_results() {
    let server = Running::start(Script { itl: Duration::from_millis(10), ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let run = against(&server, dir.path(), ["2", "500"]);
    let mut command = Command::new("nohup");
    command.arg(run.get_program()).args(run.get_args()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = ChildGuard::start(&mut command);
    wait_until("the streams begin", || server.seen().tokens > 5);
    child.signal(Signal::SIGHUP);
    // A client that reacted to the hangup would start no further query.
    let before = server.seen().runs;
    wait_until("the client ignores the hangup", || server.seen().runs >= before + 6);
    child.signal(Signal::SIGTERM);
    is_interrupted(child, dir.path());
}

#[test]
fn a_hangup_lets_streams_end_and_writes_results() {
    let server = Running::start(Script { itl: Duration::from_millis(20), ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let mut command = against(&server, dir.path(), ["2", "50"]);
    let child = ChildGuard::start(command.stdout(Stdio::piped()).stderr(Stdio::null()));
    wait_until("the streams begin", || server.seen().tokens >= 5);
    child.signal(Signal::SIGHUP);
    is_interrupted(child, dir.path());
}

#[test]
fn a_lost_terminal_ends_a_run_with_its_live_view_and_writes_results() {
    let server = Running::start(Script { itl: Duration::from_millis(20), ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let mut command = against(&server, dir.path(), ["2", "500"]);
    let terminal = ChildGuard::start(&mut on_a_terminal(command.arg("--tui")));
    wait_until("the streams begin", || server.seen().tokens >= 5);
    let processes = with_descendants(&[terminal.0.id()]);
    terminal.signal(Signal::SIGKILL);
    wait_until_ended(&processes);
    assert_eq!(launched::summary(dir.path())["interrupted"], true);
}

/// Requests `/ready`. Returns the response, which is empty if there is none.
fn ready(socket: std::io::Result<impl Into<socket2::Socket>>) -> String {
    let call = b"GET /ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    socket.and_then(|socket| host::exchange(socket, call)).unwrap_or_default()
}

/// Waits until the program responds with status 200.
fn is_ready(held: &mut ChildGuard, response: impl Fn() -> String) {
    wait_until("the program responds with 200", || {
        assert!(held.0.try_wait().unwrap().is_none(), "the program ended");
        response().starts_with("HTTP/1.1 200")
    });
}

/// Waits until the program responds, then ends it with SIGTERM. It must succeed.
fn serves_and_ends(mut held: ChildGuard, response: impl Fn() -> String) {
    is_ready(&mut held, response);
    held.signal(Signal::SIGTERM);
    assert_eq!(held.code(), Some(0));
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
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.sock");
    for (of_server, of_gateway) in nowhere().into_iter().zip(nowhere()) {
        let address = free();
        let mut server = streamstress(&["server"]);
        server.envs(environment(&address.port().to_string(), ""));
        serves_and_ends(start(server, of_server), || ready(TcpStream::connect(address)));
        let mut gateway = streamstress(&["wsproxy"]);
        gateway.envs(environment("0", path.to_str().unwrap()));
        serves_and_ends(start(gateway, of_gateway), || ready(UnixStream::connect(&path)));
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
        let response = || ready(TcpStream::connect(address));
        is_ready(&mut held, response);
        held.signal(Signal::SIGHUP);
        for _ in 0..100 {
            let response = response();
            assert!(response.starts_with("HTTP/1.1 200"), "{name}: {response}");
        }
        assert!(held.0.try_wait().unwrap().is_none(), "{name} ended");
        held.signal(Signal::SIGTERM);
        assert_eq!(held.code(), Some(0), "{name}");
    }
}

fn stack(state_dir: &Path, arguments: &[&str], [stdout, stderr]: [Stdio; 2]) -> ChildGuard {
    ChildGuard::start(programs::stack(state_dir, arguments).stdout(stdout).stderr(stderr))
}

#[test]
fn a_stack_starts_responds_and_ends_without_a_writable_output() {
    const UP: [&str; 11] =
        ["up", "--servers", "1", "--proxies", "1", "--api-port", "0", "--ws-port", "0", "--stats-port", "0"];
    for outputs in [[full(), full()], [closed(), closed()]] {
        let directory = tempfile::tempdir().unwrap();
        let mut supervisor = stack(directory.path(), &UP, outputs);
        wait_until("the stack is up", || {
            assert!(supervisor.0.try_wait().unwrap().is_none(), "the supervisor ended");
            stack(directory.path(), &["status"], [full(), closed()]).code() == Some(0)
        });
        for arguments in [&["status", "--json"][..], &["logs", "wsproxy-1"], &["fault", "wsproxy-1:kill"]] {
            let code = stack(directory.path(), arguments, [closed(), full()]).code();
            assert_eq!(code, Some(0), "{arguments:?}");
        }
        assert_eq!(stack(directory.path(), &["down"], [full(), full()]).code(), Some(0));
        assert_eq!(supervisor.code(), Some(0));
    }
}
