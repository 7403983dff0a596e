//! Calibration of the load client: a server plays a known schedule and records when it wrote each frame, and the client's figures
//! are compared with these times. Run the tests alone on an idle machine, because they compare milliseconds.

#![allow(clippy::print_stdout, reason = "the figures are the output of the test")]

mod ruler;

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use ruler::{Play, Running, locked};
use std::{
    collections::HashMap,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard},
    thread,
    time::Duration,
};

/// The output and the result files of a client.
struct Report {
    output: String,
    summary: serde_json::Value,
    rows: Vec<HashMap<String, String>>,
}

impl Report {
    fn count(&self, key: &str) -> u64 {
        self.summary[key].as_u64().unwrap_or_else(|| panic!("no {key} in {}", self.summary))
    }
}

/// Repeated pauses of the generator: its process is stopped for `still`, then runs for `between`.
#[derive(Clone, Copy)]
struct Stalls {
    still: Duration,
    between: Duration,
}

/// Runs the real client program against the ruler.
fn measure(ruler: &Running, clients: u64, stalls: Option<Stalls>) -> Report {
    let results = tempfile::tempdir().unwrap();
    let client = Command::new(env!("CARGO_BIN_EXE_streamstress"))
        .env_clear()
        .args(["--clients", &clients.to_string(), "--queries", "2", "--seed", "1", "--workers", "1"])
        .args(["--api-url", &format!("http://{}", ruler.api), "--wsproxy-url", &format!("ws://{}", ruler.ws)])
        .args(["--quiet", "--output-dir"])
        .arg(results.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if let Some(stalls) = stalls {
        stall(&client, stalls);
    }
    let output = client.wait_with_output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let file = |ending: &str| {
        let mut files = std::fs::read_dir(results.path()).unwrap().map(|entry| entry.unwrap().path());
        let found = files.find(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.strip_prefix("loadtest_").is_some_and(|rest| rest[15..] == *ending)
        });
        std::fs::read_to_string(found.unwrap_or_else(|| panic!("no {ending}: {text}"))).unwrap()
    };
    let rows = csv::Reader::from_reader(file(".csv").as_bytes()).deserialize().map(Result::unwrap).collect();
    let summary = serde_json::from_str(&file("_summary.json")).unwrap();
    Report { output: text, summary, rows }
}

/// Stops and continues the client's process until it ends. It is not reaped here, so that no other process can get its id.
fn stall(client: &Child, Stalls { still, between }: Stalls) {
    let pid = Pid::from_raw(i32::try_from(client.id()).unwrap());
    let ended = || {
        let status = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG);
        status != Ok(WaitStatus::StillAlive)
    };
    while !ended() {
        kill(pid, Signal::SIGSTOP).unwrap();
        thread::sleep(still);
        kill(pid, Signal::SIGCONT).unwrap();
        thread::sleep(between);
    }
}

/// Makes the tests of this file run one after the other, because each needs the whole machine.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    locked(&TURN)
}

/// Returns the value at a quantile. Sorts the list.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn quantile(values: &mut [f64], quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (quantile * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

/// Returns how far the client's figures are from the server's, in milliseconds: p50 and p99 of the differences.
fn errors(play: Play) -> Vec<(&'static str, f64, f64)> {
    let ruler = Running::start(play);
    let report = measure(&ruler, 100, None);
    assert_eq!(report.rows.len(), 200, "{}", report.output);
    for key in ["tokens_lost", "tokens_duplicated", "tokens_reordered"] {
        assert_eq!(report.count(key), 0, "{key}: {}", report.output);
    }
    let book = locked(&ruler.book).clone();
    let (mut ttft, mut e2el, mut tpot, mut gaps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in &report.rows {
        let value = |name: &str| row[name].parse::<f64>().unwrap_or_else(|_| panic!("{name}: {row:?}"));
        let number = row["query_num"].parse().unwrap();
        let truth = &book[&(row["session_id"].clone(), number)];
        let (ttft_ms, e2el_ms, tpot_ms, gaps_ms) = truth.latencies();
        ttft.push((value("ttft_ms") - ttft_ms).abs());
        e2el.push((value("e2el_ms") - e2el_ms).abs());
        tpot.push((value("tpot_ms") - tpot_ms).abs());
        gaps.extend(gaps_ms);
    }
    let itl = &report.summary["metrics"]["itl_ms"];
    assert_eq!(itl["count"], gaps.len());
    let itl =
        |name: &str, at: f64, gaps: &mut [f64]| (itl[name].as_f64().unwrap() - quantile(gaps, at)).abs();
    let (itl_p50, itl_p99) = (itl("p50", 0.5, &mut gaps), itl("p99", 0.99, &mut gaps));
    vec![
        ("ttft", quantile(&mut ttft, 0.5), quantile(&mut ttft, 0.99)),
        ("e2el", quantile(&mut e2el, 0.5), quantile(&mut e2el, 0.99)),
        ("tpot", quantile(&mut tpot, 0.5), quantile(&mut tpot, 0.99)),
        ("itl", itl_p50, itl_p99),
    ]
}

/// One of three attempts must be within the limits, and all are printed. Other load on the machine adds to the errors, while a
/// systematic error shows in every attempt. If only some attempts fail, repeat the test on an idle machine and read the figures.
#[test]
fn what_is_measured_is_true() {
    let _turn = alone();
    let play = Play { tokens: 20, first: (5, 60), gap: (5, 40) };
    let within = |errors: &[(&str, f64, f64)]| errors.iter().all(|&(_, p50, p99)| p50 <= 2.0 && p99 <= 5.0);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let errors = errors(play);
        println!("errors in ms (p50, p99): {errors:?}");
        if within(&errors) {
            return;
        }
        seen.push(errors);
    }
    panic!("none of three attempts was within 2 ms at p50 and 5 ms at p99: {seen:?}");
}

/// Measures while the generator is stalled. Returns for each metric, in milliseconds: how far the true value is outside of the bounds at
/// the worst percentile, and how far the measured p50 and p99 are from the true ones.
fn stalled_errors(play: Play) -> Vec<(&'static str, f64, f64, f64)> {
    let ruler = Running::start(play);
    let stalls = Stalls { still: Duration::from_millis(50), between: Duration::from_millis(70) };
    let report = measure(&ruler, 60, Some(stalls));
    assert_eq!(report.rows.len(), 120, "{}", report.output);
    assert_eq!(report.count("queries_ok"), 120, "{}", report.output);
    let book = locked(&ruler.book).clone();
    let (mut ttft, mut e2el, mut tpot, mut itl) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for truth in book.values() {
        let (ttft_ms, e2el_ms, tpot_ms, gaps_ms) = truth.latencies();
        ttft.push(ttft_ms);
        e2el.push(e2el_ms);
        tpot.push(tpot_ms);
        itl.extend(gaps_ms);
    }
    // A generator that is in time has no delay, so the true latency from the scheduled instant equals the one from the actual instant.
    let mut of_metric = Vec::new();
    let sched = [("ttft_sched", ttft.clone()), ("e2el_sched", e2el.clone())];
    for (name, mut truth) in
        [("ttft", ttft), ("e2el", e2el), ("tpot", tpot), ("itl", itl)].into_iter().chain(sched)
    {
        let figures = &report.summary["metrics"][format!("{name}_ms")];
        assert_eq!(figures["count"], truth.len(), "{name}");
        let figure = |of: &serde_json::Value, key: &str| {
            of[key].as_f64().unwrap_or_else(|| panic!("{name} {key}: {of}"))
        };
        let mut outside = 0f64;
        for percent in [10, 25, 50, 75, 90, 95, 99] {
            let (key, truth) = (format!("p{percent}"), quantile(&mut truth, f64::from(percent) / 100.0));
            let (low, high) = (figure(&figures["low"], &key), figure(&figures["high"], &key));
            outside = outside.max(low - truth).max(truth - high);
        }
        let error = |key: &str, truth: f64| (figure(figures, key) - truth).abs();
        let (p50, p99) = (quantile(&mut truth, 0.5), quantile(&mut truth, 0.99));
        of_metric.push((name, outside, error("p50", p50), error("p99", p99)));
    }
    of_metric
}

/// The generator is stopped for 50 ms again and again. Its figures stay exact while each read returns one token, because the kernel
/// records when the token arrived. If a read returns several tokens, the true value lies between the bounds. The tolerance is the time
/// from the server to the client and the width of a histogram's bucket.
#[test]
fn what_a_stalled_generator_measures_is_true() {
    let _turn = alone();
    let sparse = Play { tokens: 5, first: (60, 120), gap: (60, 90) };
    let dense = Play { tokens: 30, first: (5, 60), gap: (5, 40) };
    let is_bounded = |errors: &[(&str, f64, f64, f64)]| errors.iter().all(|&(_, outside, ..)| outside <= 2.0);
    let is_true = |errors: &[(&str, f64, f64, f64)]| {
        errors.iter().all(|&(name, _, p50, p99)| name.ends_with("_sched") || (p50 <= 1.0 && p99 <= 1.0))
    };
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let (sparse, dense) = (stalled_errors(sparse), stalled_errors(dense));
        println!("ms (outside of the bounds, error of p50, of p99): sparse {sparse:?}, dense {dense:?}");
        if is_bounded(&sparse) && is_bounded(&dense) && is_true(&sparse) {
            return;
        }
        seen.push((sparse, dense));
    }
    panic!("none of three attempts was within the limits: {seen:?}");
}
