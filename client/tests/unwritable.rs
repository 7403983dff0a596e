//! Outputs that cannot be written (a closed pipe, a full device, a full disk), and runs that a signal ends. Runs end as usual and keep
//! their exit codes.

mod fake;
mod runs;

use fake::{Running, Script};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use plan::Stop;
use runs::{args, run};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpListener,
    os::unix::fs::symlink,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// The write end of a pipe whose read end is closed.
fn closed() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

fn client(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamstress"));
    for variable in ["CLIENTS", "API_URL", "WSPROXY_URL", "OUTPUT_DIR", "STREAMSTRESS_OUTPUT_DIR", "RUST_LOG"]
    {
        command.env_remove(variable);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

#[test]
fn every_command_keeps_its_exit_code_without_a_writable_output() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("run.csv");
    let header = "session_id,query_num,latency,tokens,create_time,connect_time,close_time,reconnect_attempts,successful_reconnects,error";
    fs::write(&rows, format!("{header}\n0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11,1,0.9,18,0.1,0.1,0.1,0,0,\n"))
        .unwrap();
    let rows = rows.to_str().unwrap();
    for (arguments, code) in [
        (&["--help"][..], 0),
        (&["--dry-run"], 0),
        (&["analyze", rows], 0),
        (&["compare", rows, rows], 98),
        (&["report", "/no/such_summary.json"], 104),
        (&["--clients", "0"], 104),
        (&["--no-such-flag"], 104),
    ] {
        for [stdout, stderr] in [[full(), closed()], [closed(), full()]] {
            let status = client(arguments).stdout(stdout).stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(code), "{arguments:?}");
        }
    }
}

#[test]
fn a_run_ends_with_its_verdict_without_a_writable_output() {
    let server = Running::start(Script::default());
    for [stdout, stderr] in [[full(), full()], [closed(), closed()]] {
        let dir = tempfile::tempdir().unwrap();
        let status = client(&["--clients", "1", "--queries", "1", "--threshold", "queries_ok>5"])
            .args(["--api-url", &server.api, "--wsproxy-url", &server.ws, "--output-dir"])
            .arg(dir.path())
            .env("RUST_LOG", "trace")
            .stdout(stdout)
            .stderr(stderr)
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(99));
        assert!(fs::read_dir(dir.path()).unwrap().count() > 8);
    }
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

/// A program that is killed when this value is dropped.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Ends {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the program did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_signal_before_the_run_ends_it_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
        // Accepts connections and never responds, so the check of the target waits.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let results = dir.path().join("results");
        let child = client(&["--quiet", "--api-url", &format!("http://{address}"), "--output-dir"])
            .arg(&results)
            .args(["--wsproxy-url", &format!("ws://{address}")])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Ends(child);
        let (mut stream, _) = silent.accept().unwrap();
        let began = Instant::now();
        child.signal(signal);
        assert_eq!(child.code(), Some(105), "{signal}");
        assert!(began.elapsed() < Duration::from_secs(3), "{signal}: {:?}", began.elapsed());
        let mut told = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert!(told.contains("before the run began") && !results.exists(), "{told}");
        let _ = stream.write_all(b"");
    }
}

/// Waits until `holds` returns true. Fails with the message `what` after twenty seconds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn below_nohup_a_hangup_stays_ignored_and_sigterm_writes_results() {
    let server = Running::start(Script { itl: Duration::from_millis(10), ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new("nohup")
        .arg(env!("CARGO_BIN_EXE_streamstress"))
        .args(["--clients", "2", "--queries", "500", "--api-url", &server.api, "--wsproxy-url", &server.ws])
        .arg("--output-dir")
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Ends(child);
    until("the streams did not begin", || server.seen().tokens > 5);
    child.signal(Signal::SIGHUP);
    // A client that reacted to the hangup would start no further query.
    let before = server.seen().runs;
    until("the client reacted to the hangup", || server.seen().runs >= before + 6);
    child.signal(Signal::SIGTERM);
    assert_eq!(child.code(), Some(105));
    let mut told = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.to_lowercase().contains("interrupted"), "{told}");
    assert!(fs::read_dir(dir.path()).unwrap().count() > 8);
}

#[test]
fn a_hangup_lets_streams_end_and_writes_results() {
    let server = Running::start(Script { itl: Duration::from_millis(20), ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let child =
        client(&["--clients", "2", "--queries", "50", "--api-url", &server.api, "--wsproxy-url", &server.ws])
            .arg("--output-dir")
            .arg(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
    let mut child = Ends(child);
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.seen().tokens < 5 {
        assert!(Instant::now() < deadline, "the streams did not begin");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.signal(Signal::SIGHUP);
    assert_eq!(child.code(), Some(105));
    let mut told = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("INTERRUPTED") || told.contains("interrupted"), "{told}");
    assert!(fs::read_dir(dir.path()).unwrap().count() > 8);
}
