//! `streamstress amend`: the plan of a run changes while it goes on, with one generator, several, and over a control Redis.

mod fake;
mod launched;
mod rig;

use fake::{Running, Script};
use launched::{Ended, command, control_redis, files, summary, text};
use rig::{programs::STREAMSTRESS, wait_until};
use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Asks a run for a change. `runtime`: the directory in which the sockets of runs are.
fn amend(runtime: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(STREAMSTRESS);
    command.arg("amend").args(arguments).env("XDG_RUNTIME_DIR", runtime).output().unwrap()
}

/// Starts a run and waits until it receives tokens.
fn start(server: &Running, dir: &Path, arguments: &[&str]) -> Ended {
    let mut command = command(server, dir, arguments);
    command.env("XDG_RUNTIME_DIR", dir).stdout(Stdio::null()).stderr(Stdio::null());
    let run = Ended(command.spawn().unwrap());
    wait_until("tokens arrive", || server.seen().tokens > 20);
    run
}

/// Returns the values of a column of the history, by second.
fn history(dir: &Path, column: &str) -> Vec<f64> {
    let mut rows = csv::Reader::from_path(&files(dir, "_history.csv")[0]).unwrap();
    let at = rows.headers().unwrap().iter().position(|header| header == column).unwrap();
    rows.records().map(|row| row.unwrap()[at].parse().unwrap_or_default()).collect()
}

/// Checks that a run whose plan was changed to `clients` sessions had them, and that the results list the change.
fn assert_amended(dir: &Path, clients: u64) {
    let summary = summary(dir);
    assert_eq!(summary["verdict"], "PASS", "{summary:#}");
    assert_eq!(summary["amendments"][0]["clients"], clients, "{summary:#}");
    let at = summary["amendments"][0]["at_s"].as_u64().unwrap() as usize;
    assert!(
        summary["schedule"]["as_stages"].as_str().unwrap().contains(&format!(":{clients},")),
        "{summary:#}"
    );
    let open = history(dir, "User Count");
    let target = history(dir, "Target");
    assert!((open[at + 2] - clients as f64).abs() < 0.5, "from {at} s on: {open:?}");
    assert!((open[at - 1] - 4.0).abs() < 0.5, "before {at} s: {open:?}");
    assert_eq!((target[at - 1], target[at + 2]), (4.0, clients as f64), "{target:?}");
    assert_eq!(summary["tokens_lost"], 0, "{summary:#}");
}

#[test]
fn sessions_are_added_and_ended_while_the_run_goes_on() {
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let mut run = start(&server, dir.path(), &["--clients", "4", "--duration", "9s"]);
    let output = amend(dir.path(), &["--clients", "12"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).starts_with("amendment 1: 12 sessions from "), "{}", text(&output));
    let refused = amend(dir.path(), &["--rate", "5"]);
    assert_eq!(refused.status.code(), Some(104), "{}", text(&refused));
    assert!(text(&refused).contains("amend it with --clients"), "{}", text(&refused));
    assert_eq!(run.0.wait().unwrap().code(), Some(0));
    assert_amended(dir.path(), 12);
    assert_eq!(
        fs::read_dir(dir.path().join("streamstress-runs")).unwrap().count(),
        0,
        "the socket is removed"
    );
}

#[test]
fn every_generator_changes_its_part() {
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let load = ["--clients", "4", "--duration", "9s", "--generators", "2"];
    let mut run = start(&server, dir.path(), &load);
    let output = amend(dir.path(), &["--clients", "2", "--ramp-up", "1500ms"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(run.0.wait().unwrap().code(), Some(0));
    assert_amended(dir.path(), 2);
}

#[test]
fn generators_at_a_control_redis_change_their_parts_and_merge_knows() {
    let (server, redis) = (Running::start(Script::default()), control_redis());
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let url = redis.url();
    let load = ["--clients", "4", "--duration", "12s", "--run-id", "nightly", "--control", &url];
    let of = |shard| [&load[..], &["--shard", shard]].concat();
    let mut other = command(&server, dirs[1].path(), &of("2/2"));
    let mut other = Ended(other.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let mut leader = start(&server, dirs[0].path(), &of("1/2"));
    let at_redis = ["--control", &url, "--run-id", "nightly"];
    let output = amend(dirs[0].path(), &[&at_redis[..], &["--clients", "10"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let refused = amend(dirs[0].path(), &["--control", &url, "--run-id", "other", "--clients", "1"]);
    assert!(text(&refused).contains("holds no run \"other\""), "{}", text(&refused));
    assert_eq!((leader.0.wait().unwrap().code(), other.0.wait().unwrap().code()), (Some(0), Some(0)));
    assert_amended(dirs[0].path(), 10);
    let over = amend(dirs[0].path(), &[&at_redis[..], &["--clients", "1"]].concat());
    assert!(text(&over).contains("run nightly has ended"), "{}", text(&over));
    let merge = |arguments: &[&str]| {
        let merged = tempfile::tempdir().unwrap();
        let mut merge = Command::new(STREAMSTRESS);
        let output =
            merge.arg("merge").args(arguments).arg("--output-dir").arg(merged.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert_amended(merged.path(), 10);
    };
    merge(&at_redis);
    merge(&[dirs[0].path(), dirs[1].path()].map(|dir| dir.to_str().unwrap()));
}

#[test]
fn a_rate_of_arrivals_is_changed() {
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let load = ["--arrival-rate", "4", "--arrival", "queries", "--max-clients", "40", "--duration", "8s"];
    let mut run = start(&server, dir.path(), &load);
    let output = amend(dir.path(), &["--rate", "20"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(run.0.wait().unwrap().code(), Some(0));
    let summary = summary(dir.path());
    let at = summary["amendments"][0]["at_s"].as_u64().unwrap();
    assert_eq!(summary["amendments"][0]["arrival_rate"], 20.0, "{summary:#}");
    let target = history(dir.path(), "Target");
    assert_eq!((target[at as usize - 1], target[at as usize + 1]), (4.0, 20.0), "{target:?}");
    // The arrivals begin after the second in which all sessions connect, and last for eight.
    assert_eq!(summary["queries_ok"], 4 * (at - 1) + 20 * (9 - at), "{summary:#}");
}

#[test]
fn what_cannot_be_amended_is_one_clear_sentence() {
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], why: &str| {
        let output = amend(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(104), "{why}: {}", text(&output));
        assert!(text(&output).contains(why), "{why}: {}", text(&output));
    };
    refused(&["--clients", "5"], "no run that can be amended is going on");
    refused(&["--clients", "5", "--rate", "5"], "cannot be used with");
    refused(&[], "required arguments were not provided");
    refused(&["--clients", "5", "--ramp-up", "10ms"], "invalid duration \"10ms\" for --ramp-up");
    let _counted = start(&server, dir.path(), &["--clients", "4", "--queries", "100"]);
    refused(&["--clients", "5"], "no run that can be amended is going on");
    let _one = start(&server, dir.path(), &["--clients", "4", "--duration", "30s"]);
    let sockets = dir.path().join("streamstress-runs");
    wait_until("the runs listen", || fs::read_dir(&sockets).is_ok_and(|sockets| sockets.count() > 1));
    refused(&["--clients", "5", "--ramp-up", "1h"], "the schedule of this run ends at 30 s");
    refused(&["--clients", "5", "--run", "nosuch"], "no run nosuch that can be amended");
    refused(&["--clients", "2000000"], "expected at most 1000000");
    let _two = start(&server, dir.path(), &["--clients", "4", "--duration", "30s", "--name", "second"]);
    wait_until("both runs listen", || {
        text(&amend(dir.path(), &["--clients", "5"]))
            .contains("several runs are going on: choose one with --run (")
    });
}
