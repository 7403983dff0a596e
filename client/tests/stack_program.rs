//! The program: up, status, scale, logs, down, and every way in which a supervisor may end.

mod rig;

use nix::sys::signal::Signal;
use rig::{
    PATIENCE,
    processes::{Held, all_gone, family, runs},
    programs::{self, stack},
    wait_until,
};
use stack::{
    fault::{Place, check, inject},
    native::Status,
};
use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

const FREE_PORTS: [&str; 6] = ["--api-port", "0", "--ws-port", "0", "--stats-port", "0"];

fn call(state_dir: &Path, arguments: &[&str]) -> Output {
    stack(state_dir, arguments).output().unwrap()
}

fn up<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["up", "--servers", "1", "--proxies", "1"], &FREE_PORTS[..], more].concat()
}

fn succeeds(state_dir: &Path, arguments: &[&str]) -> String {
    let output = call(state_dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn fails(state_dir: &Path, arguments: &[&str]) -> String {
    let output = call(state_dir, arguments);
    assert!(!output.status.success(), "{arguments:?} succeeds");
    String::from_utf8(output.stderr).unwrap()
}

fn status(state_dir: &Path) -> Option<Status> {
    let output = call(state_dir, &["status", "--json"]);
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// A stack held in the foreground, and the ids of everything that it started.
fn held(state_dir: &Path) -> (Held, Vec<u32>) {
    let mut supervisor = Held::start(&mut stack(state_dir, &up(&[])));
    let mut now = None;
    wait_until("the stack is up", || {
        assert!(supervisor.0.try_wait().unwrap().is_none(), "the supervisor ended; above is why");
        now = status(state_dir);
        now.is_some()
    });
    let pids = family(&now.unwrap().processes.iter().map(|process| process.pid).collect::<Vec<_>>());
    assert!(pids.len() >= 5, "Redis, HAProxy with its worker, a server, a gateway: {pids:?}");
    assert!(pids.iter().all(|&pid| runs(pid)));
    (supervisor, pids)
}

#[test]
fn an_empty_variable_is_none() {
    let output = programs::program("stack")
        .args(["--name", "nobody-has-this-name", "status"])
        .envs([("XDG_RUNTIME_DIR", ""), ("STREAMSTRESS_STATE_DIR", "")])
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("stack up"), "{told}");
}

#[test]
fn the_help_is_reviewed() {
    for (name, arguments) in
        [("help", &["--help"][..]), ("help_up", &["up", "--help"]), ("help_fault", &["fault", "--help"])]
    {
        let output = programs::program("stack").args(arguments).env("COLUMNS", "100").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        insta::assert_snapshot!(name, String::from_utf8(output.stdout).unwrap());
    }
}

#[test]
fn exit_codes() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, code) in [
        (&["--version"][..], 0),
        (&["down"], 1),
        (&["up", "--bin-dir", "/no/such"], 1),
        (&[], 2),
        (&["--no-such-flag"], 2),
        (&["up", "--servers", "many"], 2),
        (&["scale", "redis=2"], 2),
        (&["--name", "a/b", "down"], 2),
    ] {
        assert_eq!(call(directory.path(), arguments).status.code(), Some(code), "{arguments:?}");
    }
}

/// `streamstress run` has an option `--name` as well.
#[test]
fn the_variables_of_a_run_do_not_select_the_stack() {
    let directory = tempfile::tempdir().unwrap();
    let output = programs::program("stack")
        .arg("status")
        .env("XDG_RUNTIME_DIR", directory.path())
        .env("STREAMSTRESS_NAME", "nightly")
        .env_remove("STREAMSTRESS_STATE_DIR")
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    let expected = directory.path().join("streamstress/default");
    assert!(told.contains(&format!("{}:", expected.display())), "{told}");
}

#[test]
fn completions_and_the_manual_know_the_options() {
    for (arguments, words) in [
        (&["completions", "bash"][..], ["--redis-persistence", "everysec", "--follow"]),
        (&["man"], ["redis\\-persistence", "streamstress\\-stack\\-fault", "redis:restart=rollback"]),
    ] {
        let output = Command::new(programs::STREAMSTRESS).args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        for word in words {
            assert!(text.contains(word), "{arguments:?}: {word} is missing");
        }
    }
}

#[test]
fn up_status_scale_logs_down() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path();
    let told = succeeds(state_dir, &up(&["--detach"]));
    let down = format!("stack down --state-dir {}", state_dir.display());
    assert!(told.contains("http://127.0.0.1:") && told.contains(&down), "{told}");
    let told = fails(state_dir, &up(&["--detach"]));
    assert!(told.contains("already running") && told.contains(&down), "{told}");

    let told = succeeds(state_dir, &["scale", "wsproxy=2"]);
    assert!(told.contains("wsproxy-2"), "{told}");
    let told = fails(state_dir, &["scale", "server=0"]);
    assert!(told.contains("1 to 64"), "{told}");
    let now = status(state_dir).unwrap();
    assert_eq!(now.processes.len(), 5);
    assert!(now.processes.iter().all(|process| process.state == "ready"), "{now:?}");

    assert!(succeeds(state_dir, &["logs", "wsproxy-2"]).contains("listening on"));
    let told = fails(state_dir, &["logs", "wsproxy-9"]);
    assert!(told.contains("wsproxy-9") && told.contains("wsproxy-1"), "{told}");

    let pids = family(&now.processes.iter().map(|process| process.pid).collect::<Vec<_>>());
    let told = succeeds(state_dir, &["down"]);
    let logs = state_dir.join("logs");
    assert!(told.contains(&logs.display().to_string()), "{told}");
    all_gone(&pids);
    let mut left: Vec<_> = state_dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["lock", "logs"]);
    assert!(succeeds(state_dir, &["logs", "wsproxy-2"]).contains("listening on"), "also afterwards");
    let told = fails(state_dir, &["down"]);
    assert!(told.contains("no stack is running") && told.contains("stack up"), "{told}");
}

#[test]
fn a_killed_supervisor_leaves_nothing_and_another_can_start() {
    let directory = tempfile::tempdir().unwrap();
    let (supervisor, pids) = held(directory.path());
    supervisor.signal(Signal::SIGKILL);
    all_gone(&pids);
    drop(supervisor);
    let (again, pids) = held(directory.path());
    again.signal(Signal::SIGTERM);
    all_gone(&pids);
}

#[test]
fn ctrl_c_ends_everything() {
    let directory = tempfile::tempdir().unwrap();
    let (mut supervisor, pids) = held(directory.path());
    supervisor.signal(Signal::SIGINT);
    assert!(supervisor.ended_well());
    all_gone(&pids);
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for detach in [&[][..], &["--detach"]] {
        let arguments =
            [&["up", "--api-port", &port, "--ws-port", "0", "--stats-port", "0"], detach].concat();
        let told = fails(directory.path(), &arguments);
        assert!(told.contains(&port) && told.contains("--api-port"), "{told}");
    }
}

#[test]
fn a_missing_program_is_named_with_the_build_that_makes_it() {
    let directory = tempfile::tempdir().unwrap();
    let bin_dir = directory.path().to_str().unwrap();
    let told = fails(directory.path(), &up(&["--bin-dir", bin_dir]));
    assert!(told.contains("server is missing") && told.contains("wsproxy is missing"), "{told}");
    assert!(told.contains("cargo build -p server -p wsproxy"), "{told}");
}

#[test]
fn a_caller_that_talks_nonsense_is_told_so_and_hurts_nobody() {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };
    let directory = tempfile::tempdir().unwrap();
    let (_supervisor, _) = held(directory.path());
    for nonsense in ["", "\n", "{}\n", "{\"do\":\"dance\"}\n", "\u{0}\u{1}\n"] {
        let mut caller = UnixStream::connect(directory.path().join("control.sock")).unwrap();
        caller.set_read_timeout(Some(PATIENCE)).unwrap();
        caller.write_all(nonsense.as_bytes()).unwrap();
        caller.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        caller.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("makes no sense"), "{nonsense:?}: {answer}");
    }
    assert!(status(directory.path()).is_some());
}

#[test]
fn faults_are_told_what_came_of_them_and_status_answers_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path();
    let (_supervisor, _) = held(state_dir);
    let told = fails(state_dir, &["fault", "wsproxy-1:explode"]);
    assert!(told.contains("half-open=10s") && told.contains("restart=keep"), "{told}");
    assert!(fails(state_dir, &["fault", "--check", "wsproxy-7:kill"]).contains("wsproxy-1"));
    succeeds(state_dir, &["fault", "--check", "wsproxy-1:kill"]);
    assert!(fails(state_dir, &["fault", "server-1:start"]).contains("runs already"));
    let told = succeeds(state_dir, &["fault", "wsproxy-1:kill", "wsproxy-1:start"]);
    assert!(told.contains("is killed") && told.contains("runs again"), "{told}");

    // A rollback takes its second; who asks meanwhile gets an answer first.
    let mut slow = Held::start(&mut stack(state_dir, &["fault", "redis:restart=rollback"]));
    let mut answered = 0;
    while slow.0.try_wait().unwrap().is_none() {
        assert!(status(state_dir).is_some());
        answered += 1;
    }
    assert!(answered > 2, "{answered}");
    assert!(slow.ended_well());

    let place = Place::Native(state_dir.to_owned());
    check(&place, &"wsproxy-any:kill".parse().unwrap()).unwrap();
    let injected = inject(&place, &"haproxy:pause=100ms".parse().unwrap()).unwrap();
    assert_eq!(injected.fault, "haproxy:pause=100ms");
    assert!(injected.took_ms < 100.0, "{injected:?}");
    wait_until("it goes on", || {
        status(state_dir).unwrap().processes.iter().all(|process| process.state != "paused")
    });
}

#[test]
fn the_callers_environment_reaches_the_gateways() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = stack(directory.path(), &up(&["--detach"]));
    assert!(
        command
            .env("WS_PING_INTERVAL_SECS", "2")
            .env("WS_PING_TIMEOUT_SECS", "4")
            .status()
            .unwrap()
            .success()
    );
    let now = status(directory.path()).unwrap();
    let gateway = now.processes.iter().find(|process| process.name == "wsproxy-1").unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", gateway.pid)).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    for variable in ["WS_PING_INTERVAL_SECS=2", "WS_PING_TIMEOUT_SECS=4"] {
        assert!(environment.split('\0').any(|entry| entry == variable), "{variable} did not arrive");
    }
    succeeds(directory.path(), &["down"]);
}
