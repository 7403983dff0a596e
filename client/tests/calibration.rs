//! The ruler is measured: a server that plays a known schedule, and notes when it really wrote each frame, against what
//! the client says of it. Run it alone, on a machine that does nothing else: it compares milliseconds.

mod ruler;

use ruler::{Book, Fault, Play, Running, locked};
use std::{
    collections::HashMap,
    process::Command,
    sync::{Mutex, MutexGuard},
    time::Instant,
};

/// What the client wrote.
struct Report {
    exit_code: Option<i32>,
    output: String,
    summary: serde_json::Value,
    rows: Vec<HashMap<String, String>>,
}

impl Report {
    fn count(&self, key: &str) -> u64 {
        self.summary[key].as_u64().unwrap_or_else(|| panic!("no {key} in {}", self.summary))
    }
}

/// Runs the real client program against the ruler.
fn measure(ruler: &Running, clients: u64) -> Report {
    let results = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_client"))
        .env_clear()
        .args(["--clients", &clients.to_string(), "--queries", "2", "--seed", "1", "--workers", "1"])
        .args(["--api-url", &format!("http://{}", ruler.api), "--wsproxy-url", &format!("ws://{}", ruler.ws)])
        .arg("--output-dir")
        .arg(results.path())
        .output()
        .unwrap();
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
    Report { exit_code: output.status.code(), output: text, summary, rows }
}

/// Tests of this file take turns: each wants the machine for itself.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    locked(&TURN)
}

#[allow(clippy::cast_precision_loss)]
fn ms(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_nanos() as f64 / 1e6
}

/// The value at a quantile of a plain list.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn quantile(values: &mut [f64], quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (quantile * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

/// How far the client's figures were from the truth, in milliseconds: p50 and p99 of the differences.
fn errors(play: Play) -> Vec<(&'static str, f64, f64)> {
    let ruler = Running::start(play);
    let report = measure(&ruler, 100);
    assert_eq!(report.rows.len(), 200, "{}", report.output);
    for key in ["tokens_lost", "tokens_duplicated", "tokens_reordered"] {
        assert_eq!(report.count(key), 0, "{key}: {}", report.output);
    }
    let book = locked(&ruler.book).clone();
    let (mut ttft, mut e2el, mut tpot, mut gaps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in &report.rows {
        let value = |name: &str| row[name].parse::<f64>().unwrap_or_else(|_| panic!("{name}: {row:?}"));
        let number = row["query_num"].parse().unwrap();
        let truth = &book.queries[&(row["session_id"].clone(), number)];
        let written = &truth.tokens_written;
        let (first, last) = (written[0], *written.last().unwrap());
        ttft.push((value("ttft_ms") - ms(truth.run_received, first)).abs());
        e2el.push((value("e2el_ms") - ms(truth.run_received, truth.done_written.unwrap())).abs());
        #[allow(clippy::cast_precision_loss)]
        tpot.push((value("tpot_ms") - ms(first, last) / (written.len() - 1) as f64).abs());
        gaps.extend(written.windows(2).map(|pair| ms(pair[0], pair[1])));
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

/// Three attempts, all of them printed: whatever else the machine does adds to the errors, and a ruler that is wrong
/// by rule is wrong in every attempt. One that is wrong now and then needs a quiet machine and a look at the figures.
#[test]
fn what_is_measured_is_true() {
    let _turn = alone();
    let play = Play { fault: Fault::Nothing, tokens: 20, first: (5, 60), gap: (5, 40) };
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
    panic!("no run of three was within 2 ms at p50 and 5 ms at p99: {seen:?}");
}

fn check_fault(fault: Fault, key: &str, count: fn(&Book) -> u64) {
    let _turn = alone();
    let ruler = Running::start(Play { fault, tokens: 130, first: (1, 5), gap: (1, 4) });
    let report = measure(&ruler, 20);
    let book = locked(&ruler.book).clone();
    let truth = count(&book);
    assert!(truth > 0 && book.tokens == 20 * 2 * 130, "{book:?}");
    for other in ["tokens_lost", "tokens_duplicated", "tokens_reordered"] {
        let expected = if other == key { truth } else { 0 };
        assert_eq!(report.count(other), expected, "{other}: {}", report.output);
    }
    assert_eq!(report.count("tokens_expected"), book.tokens);
    assert_eq!(report.count("tokens_received"), book.tokens - book.dropped);
    let of_rows: u64 = report.rows.iter().map(|row| row[key].parse::<u64>().unwrap()).sum();
    assert_eq!(of_rows, truth);
    assert_eq!(report.summary["verdict"], "FAIL", "{}", report.output);
    assert_eq!(report.exit_code, Some(99), "{}", report.output);
}

#[test]
fn every_hundredth_token_dropped() {
    check_fault(Fault::DropEvery(100), "tokens_lost", |book| book.dropped);
}

#[test]
fn every_thousandth_token_doubled() {
    check_fault(Fault::DoubleEvery(1000), "tokens_duplicated", |book| book.doubled);
}

#[test]
fn two_tokens_swapped() {
    check_fault(Fault::SwapEvery(70), "tokens_reordered", |book| book.swapped);
}
