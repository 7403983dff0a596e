//! `streamstress sweep`: plays variants on real stacks and on a given target, is interrupted, continues, and leaves no process.

mod fake;
mod launched;
mod rig;

use fake::{Running, Script};
use launched::{files, on_a_small_disk, on_a_terminal, text};
use nix::sys::signal::Signal;
use rig::{processes::ChildGuard, programs::STREAMSTRESS, wait_until};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// Directories of a test. Every process of a sweep has `temporary` in its environment, so that leftovers are found.
struct Place {
    results: TempDir,
    temporary: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { results: tempfile::tempdir().unwrap(), temporary: tempfile::tempdir().unwrap() }
    }

    fn sweep(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(STREAMSTRESS);
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.env("TMPDIR", self.temporary.path()).current_dir(self.temporary.path());
        command.arg("sweep").args(arguments).args(["--seed", "7", "--output-dir"]).arg(self.results.path());
        command.stdin(Stdio::null());
        command
    }

    fn result(&self) -> (PathBuf, Value) {
        let path = files(self.results.path(), "_sweep.json").pop().expect("a result");
        let result = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        (path, result)
    }

    /// Returns the command lines of the processes that belong to the sweep.
    fn processes(&self) -> Vec<String> {
        let marker = format!("TMPDIR={}", self.temporary.path().display());
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let belongs = |path: &Path| {
            let environment = fs::read(path.join("environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment).split('\0').any(|entry| entry == marker)
        };
        let line = |path: &Path| {
            String::from_utf8_lossy(&fs::read(path.join("cmdline")).unwrap_or_default()).replace('\0', " ")
        };
        entries.map(|entry| entry.path()).filter(|path| belongs(path)).map(|path| line(&path)).collect()
    }

    /// Waits until a run of the sweep goes on.
    fn wait_for_run(&self) {
        wait_until("a run goes on", || {
            let begun = |line: &String| line.trim_end().ends_with(" point");
            // The run has begun when it has created its files.
            self.processes().iter().any(begun) && !run_files(self.results.path(), ".csv").is_empty()
        });
    }

    fn nothing_is_left(&self) {
        wait_until("no process is left", || self.processes().is_empty());
    }

    fn no_file_is_left(&self) {
        let left: Vec<_> =
            fs::read_dir(self.temporary.path()).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Returns the files of the runs with this ending.
fn run_files(results: &Path, ending: &str) -> Vec<PathBuf> {
    let directories =
        fs::read_dir(results).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    directories.flat_map(|directory| files(&directory, ending)).collect()
}

fn points(result: &Value) -> &[Value] {
    result["points"].as_array().unwrap()
}

/// A server whose answers have ten tokens.
fn server() -> Running {
    Running::start(Script { tokens: 10, itl: Duration::from_millis(30), ..Script::default() })
}

const SHORT: [&str; 10] =
    ["--clients", "10", "--queries", "4", "--answer-tokens", "20", "--itl-ms", "30", "--ramp-up", "100ms"];

#[test]
fn each_run_has_a_fresh_stack_with_its_settings() {
    let place = Place::new();
    let vary =
        ["--vary", "wsproxy=1,2", "--vary", "delivery=pubsub,log", "--vary", "server=1", "--repeat", "1"];
    let output = place.sweep(&[&vary[..], &SHORT].concat()).output().unwrap();
    // 98: a busy machine can make a run INVALID.
    assert!(matches!(output.status.code(), Some(0 | 98)), "{}", text(&output));
    let (path, result) = place.result();
    assert_eq!(
        (&result["end"], &result["target"]),
        (&"complete".into(), &"a native stack for each run".into())
    );
    assert_eq!(points(&result).len(), 4, "{result:#}");
    for variant in result["variants"].as_array().unwrap() {
        let median = |key: &str| variant["figures"][key]["median"].as_f64();
        assert_eq!((median("queries_ok"), median("tokens_broken")), (Some(40.0), Some(0.0)), "{variant:#}");
        assert!(
            median("e2el_p99_ms").unwrap() >= 550.0 && median("rss_mb_wsproxy").unwrap() > 1.0,
            "{variant:#}"
        );
    }
    // What was asked for is what ran, and the results say so.
    for (point, (gateways, delivery)) in
        points(&result).iter().zip([(1, "pubsub"), (1, "log"), (2, "pubsub"), (2, "log")])
    {
        let summary = place.results.path().join(format!("{}_summary.json", point["run"].as_str().unwrap()));
        let summary: Value = serde_json::from_str(&fs::read_to_string(summary).unwrap()).unwrap();
        let seen =
            (1..=3).filter(|number| summary["health"].get(format!("rss_mb{{wsproxy-{number}}}")).is_some());
        assert_eq!(seen.count(), gateways, "{summary:#}");
        assert_eq!(summary["seed"], 7);
        let settings = &summary["stack_settings"];
        for role in ["server", "wsproxy"] {
            assert_eq!(settings[role], serde_json::json!({ "delivery": delivery }), "{settings:#}");
        }
        assert_eq!(settings["stack"]["redis-persistence"], "none", "{settings:#}");
    }
    let shown = text(&output);
    for part in
        ["wsproxy=2 delivery=log", "run   4 of 4", "all variants", "server=1", "tokens/s", "e2el_ms p99"]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let base = path.to_string_lossy().replace("_sweep.json", "");
    let page = fs::read_to_string(format!("{base}_sweep.html")).unwrap();
    assert!(page.contains("e2el_ms p99 over wsproxy") && page.contains("_report.html\""), "{page}");
    assert_eq!(fs::read_to_string(format!("{base}_sweep.csv")).unwrap().lines().count(), 5);
    place.nothing_is_left();
    place.no_file_is_left();
}

#[test]
fn ctrl_c_keeps_what_was_found_and_resume_plays_the_rest() {
    let (server, place) = (server(), Place::new());
    let target =
        ["--api-url", &server.api, "--wsproxy-url", &server.ws, "--queries", "10", "--ramp-up", "100ms"];
    let arguments = [&["--vary", "clients=2,3"][..], &target].concat();
    let mut child =
        ChildGuard(place.sweep(&arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    let mut progress = BufReader::new(child.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("run   1 of 4: clients=2 (repetition 1)") {
        line.clear();
        assert!(progress.read_line(&mut line).unwrap() > 0, "the sweep ended");
    }
    child.signal(Signal::SIGINT);
    progress.read_to_string(&mut line).unwrap();
    assert_eq!(child.code(), Some(105), "{line}");
    place.nothing_is_left();
    let (path, result) = place.result();
    assert_eq!((&result["end"], points(&result).len()), (&"interrupted".into(), 1), "{result:#}");

    let resume = ["--resume", path.to_str().unwrap()];
    let other = place.sweep(&[&arguments[..], &resume, &["--burst"]].concat()).output().unwrap();
    assert_eq!(other.status.code(), Some(104), "{}", text(&other));
    assert!(text(&other).contains("use the same options"), "{}", text(&other));

    let again = place.sweep(&[&arguments[..], &resume].concat()).output().unwrap();
    assert!(matches!(again.status.code(), Some(0 | 98)), "{}", text(&again));
    assert!(text(&again).contains("run   2 of 4: clients=3 (repetition 1)"), "{}", text(&again));
    let complete =
        files(place.results.path(), "_sweep.json").into_iter().find(|other| *other != path).unwrap();
    let all: Value = serde_json::from_str(&fs::read_to_string(&complete).unwrap()).unwrap();
    let turns: Vec<_> = points(&all)
        .iter()
        .map(|point| (point["variant"].as_u64().unwrap(), point["repetition"].as_u64().unwrap()))
        .collect();
    assert_eq!(turns, [(1, 1), (2, 1), (2, 2), (1, 2)], "alternating, and the first run only once");
    assert_eq!(points(&all)[0], points(&result)[0]);
    assert_eq!(all["variants"][0]["figures"]["queries_ok"]["median"], 20.0);

    let resume = ["--resume", complete.to_str().unwrap()];
    let nothing = place.sweep(&[&arguments[..], &resume].concat()).output().unwrap();
    assert_eq!(nothing.status.code(), Some(104), "{}", text(&nothing));
    assert!(text(&nothing).contains("nothing to continue"), "{}", text(&nothing));
    place.no_file_is_left();
}

/// A sweep of stacks that does not end by itself.
const LONG: [&str; 9] =
    ["--vary", "wsproxy=1,2", "--vary", "server=1", "--clients", "2", "--duration", "120s", "--quiet"];

#[test]
fn signals_and_a_kill_leave_no_process() {
    // A panic that cannot unwind ends a process with SIGABRT.
    let cases: [(&[Signal], Option<i32>); 5] = [
        (&[Signal::SIGINT, Signal::SIGINT], Some(105)),
        (&[Signal::SIGTERM, Signal::SIGTERM], Some(105)),
        (&[Signal::SIGHUP], Some(105)),
        (&[Signal::SIGABRT], None),
        (&[Signal::SIGKILL], None),
    ];
    for (signals, code) in cases {
        let place = Place::new();
        let mut child = ChildGuard::start(&mut place.sweep(&LONG));
        place.wait_for_run();
        for signal in signals {
            child.signal(*signal);
            // Two signals at once could count as one.
            std::thread::sleep(Duration::from_millis(300));
        }
        assert_eq!(child.code(), code, "{signals:?}");
        place.nothing_is_left();
        if code.is_some() {
            assert_eq!(points(&place.result().1).len(), 0);
            place.no_file_is_left();
        }
    }
}

#[test]
fn a_lost_terminal_leaves_no_process() {
    let place = Place::new();
    let terminal = ChildGuard::start(&mut on_a_terminal(&place.sweep(&LONG)));
    place.wait_for_run();
    terminal.signal(Signal::SIGKILL);
    place.nothing_is_left();
    assert_eq!(place.result().1["end"], "interrupted");
    place.no_file_is_left();
}

#[test]
fn a_full_disk_is_named_and_leaves_no_process() {
    let place = Place::new();
    let arguments = [&["--vary", "wsproxy=1,2", "--vary", "server=1", "--repeat", "1"][..], &SHORT].concat();
    // The results of a run are larger.
    let mut sweep = on_a_small_disk(&place.sweep(&arguments), place.results.path(), 16 << 10);
    let output = sweep.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(stdout.contains("SWEEP  2 variants"), "what was found goes to the terminal: {stdout}");
    assert!(stderr.contains("No space left on device"), "{}", text(&output));
    place.nothing_is_left();
    place.no_file_is_left();
}

#[test]
fn a_stack_that_does_not_start_is_a_run_without_result() {
    let place = Place::new();
    let arguments = ["--vary", "bin-dir=/nonexistent/a,/nonexistent/b", "--repeat", "1", "--clients", "1"];
    let output = place.sweep(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let (_, result) = place.result();
    assert_eq!((&result["end"], points(&result).len()), (&"complete".into(), 2));
    for (point, name) in points(&result).iter().zip(["a", "b"]) {
        assert_eq!(point["verdict"], "NO RESULT", "{point:#}");
        let reason = point["reason"].as_str().unwrap();
        assert!(
            reason.contains("the stack did not start")
                && reason.contains(&format!("/nonexistent/{name}/server")),
            "{reason}"
        );
    }
    place.no_file_is_left();
}

/// A target file of the examples.
fn example(name: &str) -> String {
    format!("{}/../examples/targets/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn gateways_of_different_protocols_are_compared_by_their_target_files() {
    let mut server = Command::new("python3");
    server.arg(example("server.py")).args(["--port", "0", "--delay-ms", "5"]).stdout(Stdio::piped());
    let mut server = ChildGuard(server.spawn().expect("python3 is needed"));
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = format!("http://127.0.0.1:{}", line.trim().rsplit(' ').next().unwrap());
    let place = Place::new();
    let files = format!("target={},{}", example("websocket.toml"), example("sse.toml"));
    let arguments =
        ["--vary", &files, "--api-url", &url, "--clients", "2", "--queries", "2", "--repeat", "1"];
    let output = place.sweep(&arguments).output().unwrap();
    assert!([Some(0), Some(98)].contains(&output.status.code()), "{}", text(&output));
    let (_, result) = place.result();
    assert_eq!((points(&result).len(), &result["target"]), (2, &"the target of each variant".into()));
    for point in points(&result) {
        let figure = |key: &str| point["figures"][key].as_f64();
        assert_eq!((figure("queries_ok"), figure("tokens_broken")), (Some(4.0), Some(0.0)), "{point}");
    }
}

#[test]
fn a_target_that_does_not_answer_is_named_in_the_result() {
    let place = Place::new();
    let target = ["--api-url", "http://127.0.0.1:9", "--wsproxy-url", "ws://127.0.0.1:9", "--repeat", "1"];
    let output = place.sweep(&[&["--vary", "clients=1,2"][..], &target].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let (_, result) = place.result();
    let reason = points(&result)[0]["reason"].as_str().unwrap();
    assert!(reason.contains("127.0.0.1:9"), "{reason}");
}

#[test]
fn wrong_options_and_a_dry_run_start_nothing() {
    let place = Place::new();
    let wrong =
        place.sweep(&["--vary", "wsproxi=1,2", "--vary", "clients=1", "--clients", "5"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(104), "{}", text(&wrong));
    for part in ["unknown setting: did you mean `wsproxy`", "--clients is given and varied"] {
        assert!(text(&wrong).contains(part), "{part}: {}", text(&wrong));
    }
    let plan = place.sweep(&["--vary", "wsproxy=1,2", "--dry-run"]).output().unwrap();
    assert_eq!(plan.status.code(), Some(0), "{}", text(&plan));
    assert!(
        text(&plan).contains("2 variants, 4 runs")
            && text(&plan).contains("run   3: wsproxy=2 (repetition 2)"),
        "{}",
        text(&plan)
    );
    assert_eq!(fs::read_dir(place.results.path()).unwrap().count(), 0);
    let point = Command::new(STREAMSTRESS).arg("point").stdin(Stdio::null()).output().unwrap();
    assert_eq!(point.status.code(), Some(104), "{}", text(&point));
    assert!(text(&point).contains("is started by `streamstress sweep`"), "{}", text(&point));
}
