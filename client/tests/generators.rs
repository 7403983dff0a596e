//! Several generators as one run: started as processes on this machine, or one after the other and merged. The target is the scripted
//! server, so the tests know what must arrive.

mod fake;
mod launched;
mod rig;

use fake::{Action, Running, Script};
use launched::{Ended, command, control_redis, files, run, summary, text};
use rig::{processes, programs::STREAMSTRESS, stacks, wait_until};
use serde_json::Value;
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// Returns the query ids and session indices of the rows: what was played, in no order.
fn played(csv: &[PathBuf]) -> Vec<(String, String)> {
    let mut played = Vec::new();
    for path in csv {
        let mut rows = csv::Reader::from_path(path).unwrap();
        let headers = rows.headers().unwrap().clone();
        let at = |name: &str| headers.iter().position(|header| header == name).unwrap();
        let (session, query) = (at("session_index"), at("query_num"));
        played.extend(
            rows.records().map(Result::unwrap).map(|row| (row[session].to_owned(), row[query].to_owned())),
        );
    }
    played.sort();
    played
}

#[test]
fn generators_on_one_machine_are_one_run() {
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let output = run(&server, dir.path(), &["--clients", "20", "--queries", "3", "--generators", "3"]);
    let summary = summary(dir.path());
    for (key, value) in
        [("total_sessions", 20), ("queries_ok", 60), ("tokens_received", 1080), ("tokens_lost", 0)]
    {
        assert_eq!(summary[key], value, "{key}: {}\n{summary:#}", text(&output));
    }
    let generators = summary["generators"].as_array().unwrap();
    let sessions: Vec<_> =
        generators.iter().map(|generator| generator["sessions"].as_u64().unwrap()).collect();
    assert_eq!(sessions, [7, 7, 6]);
    assert!(summary["start_skew_ms"].as_f64().is_some(), "{summary:#}");
    assert_eq!(summary["partial"], Value::Null);
    assert_eq!(played(&rows(dir.path())).len(), 60);
    assert!(files(dir.path(), ".part").is_empty(), "the parts are merged");
    let peers = server.seen().peers;
    assert_eq!(peers.len(), 3, "each generator has its own address: {peers:?}");
}

/// Returns the files of rows of a run.
fn rows(dir: &Path) -> Vec<PathBuf> {
    let tables = ["_stats.csv", "_history.csv", "_failures.csv", "_resources.csv", "_health.csv"];
    let mut rows = files(dir, ".csv");
    rows.retain(|path| !tables.iter().any(|table| path.to_string_lossy().ends_with(table)));
    rows
}

/// Returns the values of a column of rows.
fn column(csv: &Path, name: &str) -> Vec<f64> {
    let mut rows = csv::Reader::from_path(csv).unwrap();
    let at = rows.headers().unwrap().iter().position(|header| header == name).unwrap();
    rows.records().map(|row| row.unwrap()[at].parse().unwrap()).collect()
}

#[test]
fn all_generators_send_their_burst_at_one_instant() {
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let output = run(
        &server,
        dir.path(),
        &["--clients", "20", "--queries", "1", "--generators", "3", "--burst", "--ramp-up", "1s"],
    );
    let summary = summary(dir.path());
    assert_eq!(summary["queries_ok"], 20, "{}", text(&output));
    let sent = column(&rows(dir.path())[0], "scheduled_s");
    let (first, last) =
        sent.iter().fold((f64::MAX, 0f64), |(first, last), &at| (first.min(at), last.max(at)));
    assert!(sent.len() == 20 && last - first <= 2e-3 && first > 2.0, "{sent:?}");
}

#[test]
fn one_wrong_token_is_found_by_whichever_generator() {
    let server = Running::start(Script {
        edit: |n| if n == 100 { Action::Drop } else { Action::Send },
        ..Script::default()
    });
    let dir = tempfile::tempdir().unwrap();
    let output = run(
        &server,
        dir.path(),
        &["--clients", "12", "--queries", "2", "--generators", "4", "--query-timeout", "3s"],
    );
    assert_eq!(output.status.code(), Some(99), "{}", text(&output));
    let summary = summary(dir.path());
    assert_eq!((&summary["tokens_lost"], &summary["verdict"]), (&1.into(), &"FAIL".into()), "{summary:#}");
}

#[test]
fn a_lost_generator_makes_the_run_invalid_and_the_rest_is_kept() {
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let mut command =
        command(&server, dir.path(), &["--clients", "8", "--duration", "4s", "--generators", "4"]);
    let mut parent = Ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    wait_until("all generators stream", || server.seen().peers.len() == 4 && server.seen().tokens > 100);
    let children = host::children(parent.0.id());
    assert_eq!(children.len(), 4);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(children[1].cast_signed()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    assert_eq!(parent.0.wait().unwrap().code(), Some(98));
    let summary = summary(dir.path());
    let reason = summary["verdict_reason"].as_str().unwrap();
    assert!(reason.contains("1 of 4 generators was lost: generator 2"), "{reason}");
    assert_eq!((&summary["verdict"], &summary["partial"]), (&"INVALID".into(), &true.into()));
    let lost = |shard: usize| summary["generators"][shard]["lost"].is_string();
    assert_eq!([lost(0), lost(1), lost(2), lost(3)], [false, true, false, false]);
    assert!(summary["generators"][0]["queries_ok"].as_u64() > Some(0), "{summary:#}");
    assert!(!played(&rows(dir.path())).is_empty());
}

#[test]
fn generators_end_with_their_parent() {
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let mut command =
        command(&server, dir.path(), &["--clients", "4", "--duration", "60s", "--generators", "2"]);
    let mut parent = Ended(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait_until("both generators stream", || server.seen().peers.len() == 2 && server.seen().tokens > 20);
    let children = host::children(parent.0.id());
    parent.0.kill().unwrap();
    parent.0.wait().unwrap();
    processes::wait_until_ended(&children);
}

#[test]
fn a_generator_that_cannot_start_ends_the_run_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(Script::default());
    let output = run(
        &server,
        dir.path(),
        &["--clients", "4", "--generators", "2", "--local-ips", "203.0.113.1,203.0.113.2"],
    );
    assert_eq!(output.status.code(), Some(104), "{}", text(&output));
    assert!(text(&output).contains("203.0.113.1"), "{}", text(&output));
    assert_eq!(files(dir.path(), ""), [] as [PathBuf; 0], "a run that did not start leaves no files");
}

fn merge(arguments: &[&Path], to: &Path) -> Output {
    let mut command = Command::new(STREAMSTRESS);
    command
        .arg("merge")
        .args(arguments)
        .arg("--output-dir")
        .arg(to)
        .env_remove("OUTPUT_DIR")
        .output()
        .unwrap()
}

#[test]
fn shards_played_one_after_the_other_are_merged() {
    let server = Running::start(Script::default());
    let (dir, merged, alone) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let load = ["--clients", "9", "--queries", "2"];
    for shard in ["1/3", "2/3", "3/3"] {
        let output = run(&server, dir.path(), &[&load[..], &["--shard", shard]].concat());
        assert!(text(&output).contains("All 6 queries"), "{}", text(&output));
    }
    let output = merge(&[dir.path()], merged.path());
    let summary_merged = summary(merged.path());
    for (key, value) in
        [("total_sessions", 9), ("queries_ok", 18), ("tokens_received", 324), ("tokens_lost", 0)]
    {
        assert_eq!(summary_merged[key], value, "{key}: {}", text(&output));
    }
    assert_eq!(summary_merged["seed"], 7);
    run(&server, alone.path(), &load);
    assert_eq!(
        played(&rows(merged.path())),
        played(&rows(alone.path())),
        "the shards are the plan of one generator"
    );
    assert_eq!(rows(dir.path()).len(), 3, "merging changes no file of a generator");
}

#[test]
fn what_cannot_be_merged_is_one_clear_sentence_and_writes_nothing() {
    let server = Running::start(Script::default());
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = tempfile::tempdir().unwrap();
    let to = target.path().join("merged");
    let load = ["--clients", "4", "--queries", "1"];
    run(&server, dir.path(), &[&load[..], &["--shard", "1/2"]].concat());
    run(&server, other.path(), &["--clients", "6", "--queries", "1", "--shard", "2/2"]);
    let part = files(dir.path(), ".part").remove(0);
    let copy = dir.path().join("copy_shard1.part");
    let empty = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&Path], why: &str| {
        let output = merge(arguments, &to);
        assert_eq!(output.status.code(), Some(104), "{why}: {}", text(&output));
        assert!(text(&output).contains(why), "{why}: {}", text(&output));
        assert_eq!(text(&output).lines().count(), 1, "{}", text(&output));
        assert!(!to.exists(), "{why}");
    };
    refused(&[dir.path()], "the parts of shards 2 of 2 are missing");
    refused(&[dir.path(), other.path()], "are parts of different runs");
    refused(&[dir.path(), &part], "the parts of shards 2 of 2 are missing");
    refused(&[empty.path()], "no results of generators in");
    refused(&[Path::new("/no/such/directory")], "cannot read /no/such/directory");
    fs::copy(&part, &copy).unwrap();
    refused(&[dir.path()], "are both of shard 1");
    fs::remove_file(&copy).unwrap();
    run(&server, dir.path(), &[&load[..], &["--shard", "2/2"]].concat());
    let length = fs::metadata(&part).unwrap().len();
    fs::File::options().write(true).open(&part).unwrap().set_len(length - 9).unwrap();
    refused(&[dir.path()], "is incomplete: its generator did not finish");
    let output = Command::new(STREAMSTRESS)
        .args(["merge", "--allow-partial"])
        .arg(dir.path())
        .arg("--output-dir")
        .arg(&to)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(98), "{}", text(&output));
    assert_eq!(summary(&to)["partial"], true);
}

#[test]
fn generators_that_meet_at_a_control_redis_are_one_run() {
    let (server, redis) = (Running::start(Script::default()), control_redis());
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let url = redis.url();
    let load = ["--clients", "10", "--queries", "2", "--run-id", "nightly", "--control", &url];
    let arguments = |shard| [&load[..], &["--shard", shard]].concat();
    let other = command(&server, dirs[1].path(), &arguments("2/2"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let led = run(&server, dirs[0].path(), &arguments("1/2"));
    let followed = other.wait_with_output().unwrap();
    assert_eq!(text(&led), text(&followed), "all generators print the verdict");
    assert_eq!(led.status.code(), followed.status.code());
    assert_eq!(summary(dirs[0].path())["queries_ok"], 20, "the lowest shard leads: {}", text(&led));
    let rows = |dir: &Path, shard| played(&files(dir, &format!("_shard{shard}.csv"))).len();
    assert_eq!([rows(dirs[0].path(), 1), rows(dirs[1].path(), 2)], [10, 10]);
    assert!(files(dirs[1].path(), "_summary.json").is_empty());
    // The control Redis keeps the parts. The result is the same, but for the times of the files.
    let output = Command::new(STREAMSTRESS)
        .args(["merge", "--control", &url, "--run-id", "nightly", "--output-dir"])
        .arg(dirs[2].path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), led.status.code(), "{}", text(&output));
    let (once, again) = (summary(dirs[0].path()), summary(dirs[2].path()));
    for key in
        ["tokens_received", "metrics", "generators", "start_skew_ms", "duration_s", "seed", "thresholds"]
    {
        assert_eq!(once[key], again[key], "{key}");
    }
    // An engine may start a task again.
    let late = run(&server, dirs[1].path(), &arguments("2/2"));
    assert_eq!(late.status.code(), Some(0), "{}", text(&late));
    assert!(text(&late).contains("run nightly has finished"), "{}", text(&late));
}

/// Starts a generator that meets others at a control Redis.
fn start(server: &Running, dir: &Path, arguments: &[&str]) -> Ended {
    let mut command = command(server, dir, arguments);
    Ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Returns what a process that has ended printed, and its exit code.
fn ended(mut process: Ended) -> (String, Option<i32>) {
    let (mut out, mut err) = (String::new(), String::new());
    process.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    process.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (out + &err, process.0.wait().unwrap().code())
}

#[test]
fn the_next_generator_takes_over_when_the_leader_dies() {
    let (server, redis) = (Running::start(Script::default()), control_redis());
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let url = redis.url();
    let load = ["--clients", "9", "--duration", "9s", "--run-id", "nightly", "--control", &url];
    let [mut leader, other, third] = [1, 2, 3].map(|shard| {
        let shard = format!("{shard}/3");
        start(
            &server,
            dirs[shard.as_bytes()[0] as usize - 49].path(),
            &[&load[..], &["--shard", &shard]].concat(),
        )
    });
    wait_until("the first seconds are sent", || server.seen().tokens > 3_000);
    leader.0.kill().unwrap();
    let (output, code) = ended(other);
    let (followed, followed_code) = ended(third);
    assert_eq!((code, followed_code), (Some(98), Some(98)), "{output}\n{followed}");
    for text in [&output, &followed] {
        assert!(
            text.contains("INVALID") && text.contains("1 of 3 generators was lost: generator 1 ("),
            "{text}"
        );
    }
    let summary = summary(dirs[1].path());
    assert_eq!((&summary["verdict"], &summary["partial"]), (&"INVALID".into(), &true.into()), "{summary:#}");
    let lost = |shard: usize| summary["generators"][shard]["lost"].is_string();
    assert_eq!([lost(0), lost(1), lost(2)], [true, false, false], "{summary:#}");
    assert!(
        summary["generators"][0]["queries_ok"].as_u64() > Some(0),
        "its parts until then are kept: {summary:#}"
    );
    assert!(files(dirs[2].path(), "_summary.json").is_empty(), "one result");
}

#[test]
fn a_run_that_cannot_be_led_is_refused_before_it_starts() {
    let (server, redis) = (Running::start(Script::default()), control_redis());
    let dir = tempfile::tempdir().unwrap();
    let url = redis.url();
    let load = ["--clients", "4", "--queries", "1", "--control", &url];
    let faulty =
        [&load[..], &["--shard", "1/2", "--fault", "wsproxy-1:kill@1s", "--fault-stack", "nosuch"]].concat();
    let output = run(&server, dir.path(), &faulty);
    assert_eq!(output.status.code(), Some(104), "{}", text(&output));
    assert_eq!(server.seen().peers.len(), 0, "nothing was sent");
    // Nobody waits for a partner that would never come.
    let alone = [&load[..], &["--generators", "1"]].concat();
    let output = run(&server, dir.path(), &alone);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let again = run(&server, dir.path(), &alone);
    assert_eq!(again.status.code(), Some(104), "{}", text(&again));
    assert!(
        text(&again).contains("has finished: use another run id for a new run (--run-id NAME)"),
        "{}",
        text(&again)
    );
}

#[test]
fn a_generator_whose_partner_does_not_come_says_so_and_leaves_nothing() {
    let (server, redis) = (Running::start(Script::default()), control_redis());
    let dir = tempfile::tempdir().unwrap();
    let url = redis.url();
    let alone = ["--clients", "4", "--generators", "2", "--control", &url, "--wait-for-generators", "1s"];
    let output = run(&server, dir.path(), &alone);
    assert_eq!(output.status.code(), Some(104), "{}", text(&output));
    assert!(text(&output).contains("1 of 2 generators came within 1 s"), "{}", text(&output));
    assert_eq!(files(dir.path(), ""), [] as [PathBuf; 0]);
    let output = run(&server, dir.path(), &[&alone[..], &["--always-exit-0"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("1 of 2 generators came"), "{}", text(&output));
    // The same run, tried again, has all its queries.
    let again =
        [&alone[..4], &["--queries", "2", "--control", &url, "--wait-for-generators", "30s"]].concat();
    let partner = tempfile::tempdir().unwrap();
    let other = start(&server, partner.path(), &again);
    let _ = run(&server, dir.path(), &again);
    let _ = ended(other);
    let of = |dir: &Path| files(dir, "_summary.json").first().map(|_| summary(dir));
    let result = of(dir.path()).or_else(|| of(partner.path())).unwrap();
    assert_eq!((&result["queries_ok"], &result["verdict"]), (&8.into(), &"PASS".into()), "{result:#}");
}

/// The leader alone injects the fault. Every generator attributes its outages to it.
#[test]
fn a_fault_is_injected_once_and_its_effects_are_added_up() {
    let state = tempfile::tempdir().unwrap();
    let (_supervisor, status) = stacks::up(state.path(), &["--proxies", "2"]);
    let dir = tempfile::tempdir().unwrap();
    let (api, ws) = (&status.haproxies[0].api_url, &status.haproxies[0].ws_url);
    let load = ["--clients", "20", "--queries", "4", "--generators", "2", "--ramp-up", "100ms", "--quiet"];
    let output = Command::new(STREAMSTRESS)
        .args(load)
        .args(["--api-url", api, "--wsproxy-url", ws, "--fault", "wsproxy-1:kill@1s", "--fault-stack"])
        .arg(state.path())
        .arg("--output-dir")
        .arg(dir.path())
        .env_remove("OUTPUT_DIR")
        .output()
        .unwrap();
    let summary = summary(dir.path());
    for (key, value) in
        [("tokens_lost", 0), ("tokens_duplicated", 0), ("queries_ok", 80), ("tokens_received", 1440)]
    {
        assert_eq!(summary[key], value, "{key}: {}", text(&output));
    }
    let fault = &summary["faults"][0];
    assert_eq!(fault["outcome"], "injected", "{fault:#}");
    let reconnected = summary["sessions_with_reconnects"].as_u64().unwrap();
    assert!(reconnected > 0, "{summary:#}");
    assert!(fault["outages"].as_u64() >= Some(reconnected), "{fault:#}");
    let times: Vec<_> =
        summary["generators"].as_array().unwrap().iter().map(|one| &one["queries_ok"]).collect();
    assert_eq!(times, [40, 40]);
}
