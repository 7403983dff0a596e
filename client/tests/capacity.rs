//! `streamstress capacity`: finds the ceiling of a server that becomes slow, is interrupted, and continues.

mod fake;
mod launched;
mod rig;

use fake::{Running, Script};
use launched::{files, on_a_small_disk, on_a_terminal, text};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rig::{
    processes::{ChildGuard, wait_until_ended, with_descendants},
    programs::STREAMSTRESS,
    wait_until,
};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

/// A server that carries this number of streams.
fn server(places: usize) -> Running {
    Running::start(Script {
        tokens: 10,
        itl: Duration::from_millis(30),
        places: Some(places),
        ..Script::default()
    })
}

/// Returns the command of a search with short steps.
fn search(server: &Running, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(STREAMSTRESS);
    command
        .args([
            "capacity",
            "--api-url",
            &server.api,
            "--wsproxy-url",
            &server.ws,
            "--seed",
            "7",
            "--step",
            "1s",
            "--warm-up",
            "1s",
        ])
        .args(["--slo", "e2el_ms:p90<2.5x", "--from", "4", "--output-dir"])
        .arg(dir)
        .args(arguments)
        .env_remove("OUTPUT_DIR");
    command
}

fn found(dir: &Path) -> (PathBuf, Value) {
    let path = files(dir, "_capacity.json").pop().expect("a result");
    let result = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    (path, result)
}

#[test]
fn the_ceiling_of_a_server_is_found_and_compared() {
    let server = server(12);
    let dir = tempfile::tempdir().unwrap();
    let output = search(&server, dir.path(), &["--precision", "25"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let (path, result) = found(dir.path());
    assert_eq!(result["end"], "found", "{result:#}");
    let ceiling = result["ceiling"].as_f64().unwrap();
    assert!((10.5..=14.0).contains(&ceiling), "{result:#}");
    assert_eq!(result["limited_by"], "e2el_ms p(90)", "{result:#}");
    assert!(text(&output).contains("CEILING  The system holds "), "{}", text(&output));
    assert_eq!(files(dir.path(), "_capacity.html").len() + files(dir.path(), "_capacity.csv").len(), 2);
    // The run that was steered is an ordinary one, which was ended.
    let summary = launched::summary(dir.path());
    assert_eq!(summary["tokens_lost"], 0, "{summary:#}");
    assert!(
        summary["verdict_reason"].as_str().unwrap().contains("the search for the ceiling ended"),
        "{summary:#}"
    );
    // If the time had not been enough, the same steps would be an answer for a lower precision.
    let mut unfinished = result.clone();
    unfinished["end"] = "out_of_time".into();
    fs::write(&path, unfinished.to_string()).unwrap();
    let accepted = tempfile::tempdir().unwrap();
    let resume = ["--precision", "50", "--resume", path.to_str().unwrap()];
    let output = search(&server, accepted.path(), &resume).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let (_, answer) = found(accepted.path());
    assert_eq!((&answer["end"], &answer["steps"]), (&"found".into(), &result["steps"]));
    // A search that ends with fewer sessions than the baseline fails.
    let mut higher = result;
    for key in ["ceiling", "ceiling_low", "ceiling_high"] {
        higher[key] = (100.0).into();
    }
    fs::write(&path, higher.to_string()).unwrap();
    let again = tempfile::tempdir().unwrap();
    let baseline = ["--precision", "50", "--baseline", path.to_str().unwrap()];
    let output = search(&server, again.path(), &baseline).output().unwrap();
    assert_eq!(output.status.code(), Some(99), "{}", text(&output));
    assert!(text(&output).contains("the ceiling fell from 100 sessions"), "{}", text(&output));
}

#[test]
fn an_interrupted_search_keeps_its_steps_and_continues() {
    let server = server(1000);
    let dir = tempfile::tempdir().unwrap();
    let mut child = search(&server, dir.path(), &["--to", "64"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("step  2:") {
        line.clear();
        assert!(progress.read_line(&mut line).unwrap() > 0, "the search ended");
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    progress.read_to_string(&mut line).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(105), "{line}");
    let (path, result) = found(dir.path());
    assert_eq!(
        (&result["end"], result["steps"].as_array().unwrap().len()),
        (&"interrupted".into(), 2),
        "{result:#}"
    );
    let again = tempfile::tempdir().unwrap();
    let resume = ["--to", "64", "--max-steps", "3", "--resume", path.to_str().unwrap()];
    let output = search(&server, again.path(), &resume).output().unwrap();
    assert_eq!(output.status.code(), Some(98), "{}", text(&output));
    let (_, result) = found(again.path());
    let loads: Vec<_> =
        result["steps"].as_array().unwrap().iter().map(|step| step["load"].as_f64().unwrap()).collect();
    assert_eq!(loads, [4.0, 8.0, 16.0]);
    assert_eq!(result["end"], "out_of_steps");
}

/// Returns the command with a directory for temporary files that only the search uses.
fn in_a_place(mut command: Command, place: &Path) -> Command {
    command.env("TMPDIR", place).env("XDG_RUNTIME_DIR", place);
    command
}

/// Checks that a search left no process, and no temporary file or unix socket.
fn nothing_is_left(processes: &[u32], place: &Path) {
    wait_until_ended(processes);
    assert_eq!(fs::read_dir(place).unwrap().count(), 0);
}

#[test]
fn sigterm_ends_a_search_keeps_its_steps_and_leaves_nothing() {
    let server = server(1000);
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut search = in_a_place(search(&server, dir.path(), &["--to", "1000"]), place.path());
    let mut search = ChildGuard::start(search.stderr(Stdio::piped()).stdout(Stdio::null()));
    let mut progress = BufReader::new(search.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    progress.find(|line| line.starts_with("step  1:")).expect("a step");
    let processes = with_descendants(&[search.0.id()]);
    search.signal(Signal::SIGTERM);
    progress.for_each(drop);
    assert_eq!(search.code(), Some(105));
    let result = found(dir.path()).1;
    assert_eq!(
        (&result["end"], result["steps"].as_array().unwrap().len()),
        (&"interrupted".into(), 1),
        "{result:#}"
    );
    nothing_is_left(&processes, place.path());
}

#[test]
fn a_lost_terminal_ends_a_search_keeps_its_steps_and_leaves_nothing() {
    let server = server(1000);
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let search = in_a_place(search(&server, dir.path(), &["--to", "1000"]), place.path());
    let terminal = ChildGuard::start(&mut on_a_terminal(&search));
    // The second load has eight sessions.
    wait_until("a step is over", || server.seen().creates >= 8);
    let search = with_descendants(&[terminal.0.id()]);
    terminal.signal(Signal::SIGKILL);
    nothing_is_left(&search, place.path());
    let result = found(dir.path()).1;
    assert_eq!((&result["end"], &result["steps"][0]["outcome"]), (&"interrupted".into(), &"held".into()));
}

#[test]
fn a_search_on_a_full_disk_says_what_it_found() {
    let server = server(12);
    let (dir, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plain =
        in_a_place(search(&server, dir.path(), &["--precision", "50", "--max-steps", "2"]), place.path());
    let output = on_a_small_disk(&plain, dir.path(), 96 << 10).output().unwrap();
    assert_eq!(output.status.code(), Some(98), "{}", text(&output));
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(stdout.contains("So far: at least 8"), "{}", text(&output));
    assert!(stderr.contains("No space left on device"), "{}", text(&output));
    nothing_is_left(&[], place.path());
}

#[test]
fn a_query_that_stops_breaks_its_step_before_it_times_out() {
    let script =
        Script { tokens: 10, itl: Duration::from_millis(30), stops_above: Some(3), ..Script::default() };
    let server = Running::start(script);
    let dir = tempfile::tempdir().unwrap();
    let mut search = search(&server, dir.path(), &["--step", "30s", "--max-steps", "1"]);
    let mut search = ChildGuard::start(search.stderr(Stdio::piped()).stdout(Stdio::null()));
    let mut progress = BufReader::new(search.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let step = progress.find(|line| line.starts_with("step  1:")).expect("a step");
    assert!(
        step.contains("broken (stopped queries: ") && step.contains("had no token for more than 3.0 s"),
        "{step}"
    );
    // The queries that stopped would time out half a minute later.
    search.signal(Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(300));
    search.signal(Signal::SIGINT);
    progress.for_each(drop);
    search.code();
    let (_, result) = found(dir.path());
    assert_eq!(result["limited_by"], "stopped queries", "{result:#}");
    assert!(result["steps"][0]["seconds"].as_u64().unwrap() < 30, "{result:#}");
}

#[test]
fn the_limit_of_the_generator_is_no_ceiling() {
    let server = server(10_000);
    let dir = tempfile::tempdir().unwrap();
    // With 190 descriptors, this machine carries about 60 sockets.
    let plain = search(&server, dir.path(), &["--precision", "50", "--from", "16"]);
    let mut command = Command::new("prlimit");
    command
        .args(["--nofile=190:190"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_remove("OUTPUT_DIR");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(98), "{}", text(&output));
    let (_, result) = found(dir.path());
    assert_eq!(result["end"], "generator_limit", "{result:#}");
    assert!(result["ceiling_low"].as_f64().unwrap() >= 16.0, "{result:#}");
    assert!(result["ceiling_high"].is_null(), "{result:#}");
    assert!(text(&output).contains("The generator is the limit"), "{}", text(&output));
    assert!(text(&output).contains("this machine cannot produce it"), "{}", text(&output));
}

/// Stops a process for three quarters of the time while `f` runs. The process is not waited for meanwhile, so its id stays its own.
fn while_throttled<T>(child: &ChildGuard, f: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                child.signal(Signal::SIGSTOP);
                std::thread::sleep(Duration::from_millis(300));
                child.signal(Signal::SIGCONT);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let result = f();
        is_over.store(true, Relaxed);
        result
    })
}

#[test]
#[ignore = "takes a minute: scripts/nightly.sh runs it"]
fn a_generator_without_enough_cpu_is_named_and_never_reported_as_a_ceiling() {
    let server = server(10_000);
    let dir = tempfile::tempdir().unwrap();
    let mut search = search(&server, dir.path(), &["--precision", "50"]);
    let mut search = ChildGuard::start(search.stderr(Stdio::piped()).stdout(Stdio::null()));
    let mut progress = BufReader::new(search.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    progress.find(|line| line.starts_with("step  2:")).expect("two steps");
    let is_judged = |line: &String| ["not measurable", "broken"].iter().any(|outcome| line.contains(outcome));
    let step = while_throttled(&search, || progress.find(is_judged)).expect("a step that did not hold");
    assert!(step.contains("not measurable (the generator"), "{step}");
    search.signal(Signal::SIGINT);
    progress.for_each(drop);
    assert_eq!(search.code(), Some(105));
    let (_, result) = found(dir.path());
    assert!(result["ceiling_low"].as_f64().unwrap() >= 8.0 && result["ceiling_high"].is_null(), "{result:#}");
    let outcomes = result["steps"].as_array().unwrap().iter().map(|step| step["outcome"].as_str().unwrap());
    assert!(!outcomes.clone().any(|outcome| outcome == "broken"), "{result:#}");
}

#[test]
#[ignore = "takes half a minute: scripts/nightly.sh runs it"]
fn the_ceiling_in_tokens_is_found() {
    // Twelve places for answers of ten tokens in 0.3 s: 400 tokens per second.
    let server = server(12);
    let dir = tempfile::tempdir().unwrap();
    let output = search(&server, dir.path(), &["--by", "tokens", "--precision", "40"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let (_, result) = found(dir.path());
    assert_eq!((&result["by"], &result["end"]), (&"tokens".into(), &"found".into()), "{result:#}");
    let ceiling = result["ceiling"].as_f64().unwrap();
    assert!((300.0..=480.0).contains(&ceiling), "{result:#}");
    assert!(text(&output).contains("tokens/s"), "{}", text(&output));
}

#[test]
fn the_ceiling_of_a_rate_is_found() {
    // Twelve places for answers of 0.3 s: 40 sessions of one query per second.
    let server = server(12);
    let dir = tempfile::tempdir().unwrap();
    let options =
        ["--by", "session-rate", "--from", "32", "--step", "2s", "--precision", "50", "--queries", "1"];
    let output = search(&server, dir.path(), &options).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let (_, result) = found(dir.path());
    let ceiling = result["ceiling"].as_f64().unwrap();
    assert!((25.0..=60.0).contains(&ceiling), "{result:#}");
    assert!(text(&output).contains("sessions/s"), "{}", text(&output));
}

#[test]
fn wrong_options_start_nothing() {
    let server = server(1);
    let dir = tempfile::tempdir().unwrap();
    let output =
        search(&server, dir.path(), &["--clients", "5", "--resume", "/nowhere.json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(104), "{}", text(&output));
    for part in ["a search determines --clients", "--resume: cannot read /nowhere.json"] {
        assert!(text(&output).contains(part), "{part}: {}", text(&output));
    }
    assert_eq!(server.seen().heads.len(), 0);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
