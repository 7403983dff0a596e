//! `streamstress stack` as a program: its commands, and every way in which a supervisor can end.

mod rig;

use nix::sys::signal::Signal;
use rig::{
    TIMEOUT,
    processes::{ChildGuard, is_running, wait_until_ended, with_descendants},
    programs::{self, stack},
    wait_until,
};
use stack::{
    StackRef,
    injection::{check, inject},
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

/// Starts a stack in the foreground. Returns it with the ids of all its processes.
fn started(state_dir: &Path) -> (ChildGuard, Vec<u32>) {
    let mut supervisor = ChildGuard::start(&mut stack(state_dir, &up(&[])));
    let mut now = None;
    wait_until("the stack is up", || {
        assert!(supervisor.0.try_wait().unwrap().is_none(), "the supervisor ended: see its error above");
        now = status(state_dir);
        now.is_some()
    });
    let pids =
        with_descendants(&now.unwrap().processes.iter().map(|process| process.pid).collect::<Vec<_>>());
    assert!(pids.len() >= 5, "Redis, HAProxy with its worker, a server, a gateway: {pids:?}");
    assert!(pids.iter().all(|&pid| is_running(pid)));
    (supervisor, pids)
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let output = programs::program("stack")
        .args(["--name", "nobody-has-this-name", "status"])
        .envs([("XDG_RUNTIME_DIR", ""), ("STREAMSTRESS_STATE_DIR", "")])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("stack up"), "{text}");
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
        (&[], 104),
        (&["--no-such-flag"], 104),
        (&["up", "--servers", "many"], 104),
        (&["scale", "redis=2"], 104),
        (&["--name", "a/b", "down"], 104),
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
    let text = String::from_utf8(output.stderr).unwrap();
    let expected = directory.path().join("streamstress/default");
    assert!(text.contains(&format!("{}:", expected.display())), "{text}");
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
    let text = succeeds(state_dir, &up(&["--detach"]));
    let down = format!("stack down --state-dir {}", state_dir.display());
    assert!(text.contains("http://127.0.0.1:") && text.contains(&down), "{text}");
    let text = fails(state_dir, &up(&["--detach"]));
    assert!(text.contains("already running") && text.contains(&down), "{text}");

    let text = succeeds(state_dir, &["scale", "wsproxy=2"]);
    assert!(text.contains("wsproxy-2"), "{text}");
    let text = fails(state_dir, &["scale", "server=0"]);
    assert!(text.contains("1 to 64"), "{text}");
    let now = status(state_dir).unwrap();
    assert_eq!(now.processes.len(), 5);
    assert!(now.processes.iter().all(|process| process.state == "ready"), "{now:?}");

    assert!(succeeds(state_dir, &["logs", "wsproxy-2"]).contains("listening on"));
    let text = fails(state_dir, &["logs", "wsproxy-9"]);
    assert!(text.contains("wsproxy-9") && text.contains("wsproxy-1"), "{text}");

    let pids = with_descendants(&now.processes.iter().map(|process| process.pid).collect::<Vec<_>>());
    let text = succeeds(state_dir, &["down"]);
    let logs = state_dir.join("logs");
    assert!(text.contains(&logs.display().to_string()), "{text}");
    wait_until_ended(&pids);
    let mut left: Vec<_> = state_dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["lock", "logs"]);
    assert!(
        succeeds(state_dir, &["logs", "wsproxy-2"]).contains("listening on"),
        "logs of a stack that has ended"
    );
    let text = fails(state_dir, &["down"]);
    assert!(text.contains("no stack is running") && text.contains("stack up"), "{text}");
}

#[test]
fn a_killed_supervisor_leaves_nothing_and_another_can_start() {
    let directory = tempfile::tempdir().unwrap();
    let (supervisor, pids) = started(directory.path());
    supervisor.signal(Signal::SIGKILL);
    wait_until_ended(&pids);
    drop(supervisor);
    let (again, pids) = started(directory.path());
    again.signal(Signal::SIGTERM);
    wait_until_ended(&pids);
}

#[test]
fn ctrl_c_ends_everything() {
    let directory = tempfile::tempdir().unwrap();
    let (mut supervisor, pids) = started(directory.path());
    supervisor.signal(Signal::SIGINT);
    assert_eq!(supervisor.code(), Some(0));
    wait_until_ended(&pids);
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for detach in [&[][..], &["--detach"]] {
        let arguments =
            [&["up", "--api-port", &port, "--ws-port", "0", "--stats-port", "0"], detach].concat();
        let text = fails(directory.path(), &arguments);
        assert!(text.contains(&port) && text.contains("--api-port"), "{text}");
    }
}

#[test]
fn a_missing_program_is_named_with_the_command_that_builds_it() {
    let directory = tempfile::tempdir().unwrap();
    let bin_dir = directory.path().to_str().unwrap();
    let text = fails(directory.path(), &up(&["--bin-dir", bin_dir]));
    assert!(text.contains("server is missing") && text.contains("wsproxy is missing"), "{text}");
    assert!(text.contains("cargo build -p server -p wsproxy"), "{text}");
}

#[test]
fn an_invalid_request_gets_an_error_and_does_no_harm() {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };
    let directory = tempfile::tempdir().unwrap();
    let (_supervisor, _) = started(directory.path());
    for nonsense in ["", "\n", "{}\n", "{\"do\":\"dance\"}\n", "\u{0}\u{1}\n"] {
        let mut caller = UnixStream::connect(directory.path().join("control.sock")).unwrap();
        caller.set_read_timeout(Some(TIMEOUT)).unwrap();
        caller.write_all(nonsense.as_bytes()).unwrap();
        caller.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        caller.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("invalid request"), "{nonsense:?}: {answer}");
    }
    assert!(status(directory.path()).is_some());
}

#[test]
fn faults_report_their_effect_and_status_responds_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path();
    let (_supervisor, _) = started(state_dir);
    let text = fails(state_dir, &["fault", "wsproxy-1:explode"]);
    assert!(text.contains("half-open=10s") && text.contains("restart=keep"), "{text}");
    assert!(fails(state_dir, &["fault", "--check", "wsproxy-7:kill"]).contains("wsproxy-1"));
    succeeds(state_dir, &["fault", "--check", "wsproxy-1:kill"]);
    assert!(fails(state_dir, &["fault", "server-1:start"]).contains("is running already"));
    let text = succeeds(state_dir, &["fault", "wsproxy-1:kill", "wsproxy-1:start"]);
    assert!(text.contains("was killed") && text.contains("was started"), "{text}");

    // A rollback takes a second. Requests for the status get responses meanwhile.
    let mut slow = ChildGuard::start(&mut stack(state_dir, &["fault", "redis:restart=rollback"]));
    let mut responses = 0;
    while slow.0.try_wait().unwrap().is_none() {
        assert!(status(state_dir).is_some());
        responses += 1;
    }
    assert!(responses > 2, "{responses}");
    assert_eq!(slow.code(), Some(0));

    let stack = StackRef::Native(state_dir.to_owned());
    check(&stack, &"wsproxy-any:kill".parse().unwrap()).unwrap();
    let injected = inject(&stack, &"haproxy:pause=100ms".parse().unwrap()).unwrap();
    assert_eq!(injected.fault, "haproxy:pause=100ms");
    assert!(injected.took_ms < 100.0, "{injected:?}");
    wait_until("haproxy is resumed", || {
        status(state_dir).unwrap().processes.iter().all(|process| process.state != "paused")
    });
}

#[test]
fn the_environment_reaches_the_gateways() {
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
        assert!(
            environment.split('\0').any(|entry| entry == variable),
            "the gateway has no variable {variable}"
        );
    }
    succeeds(directory.path(), &["down"]);
}
