//! Timelines of single queries and metrics of a run, over real sockets against the scripted server.

mod fake;
mod launched;
mod rig;
mod runs;

use client::cli::RunArgs;
use fake::{Action, Running, Script};
use launched::{Ended, command};
use plan::Stop;
use report::inspect::{Inspection, StoredQuery, inspect};
use runs::{args, check, read_summary, run};
use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

fn found(dir: &Path, query: &str) -> Inspection {
    inspect(&dir.join("loadtest_20261121_000000.csv"), query, Path::new("results")).unwrap()
}

fn has(query: &StoredQuery, event: &str) -> bool {
    query.notes.iter().any(|note| note.event == event)
}

#[test]
fn a_lost_token_shows_where_it_is_missing() {
    let edit = |n| if n == 5 { Action::Drop } else { Action::Send };
    let server = Running::start(Script { edit, itl: Duration::from_millis(5), ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let finished = run(args(&server, dir.path(), 1, 1), &Stop::default()).unwrap();
    assert_eq!(finished.worth_inspecting(), Some("broken"));
    check(&read_summary(dir.path()), &[("tokens_lost", 1)]);
    let broken = found(dir.path(), "broken");
    let [query] = broken.queries.as_slice() else { panic!("{broken:?}") };
    assert_eq!((query.tokens_received, query.tokens_lost, query.missing.as_slice()), (17, 1, &[(5, 5)][..]));
    let seqs: Vec<_> = query.tokens.iter().map(|token| token.seq).collect();
    assert_eq!(seqs, (1..=4).chain(6..=18).collect::<Vec<_>>());
    assert!(query.tokens.is_sorted_by(|a, b| a.ms <= b.ms), "{:?}", query.tokens);
    let (first, done) = (query.first_token_s.unwrap(), query.done_s.unwrap());
    assert!((first - query.due_s - query.tokens[0].ms / 1e3).abs() < 1e-4, "{query:?}");
    assert!(
        query.due_s + query.tokens[16].ms / 1e3 <= done + 1e-4 && query.accepted_s.is_some(),
        "{query:?}"
    );
    let text = broken.text(100, false);
    assert!(text.contains("tokens 6–18") && text.contains("expected 5"), "{text}");
    for name in
        [query.query_id.clone(), format!("{}:1", query.session_id.as_deref().unwrap()), "0:1".to_owned()]
    {
        assert_eq!(found(dir.path(), &name), broken, "{name}");
    }
    let page = std::fs::read_to_string(dir.path().join("loadtest_20261121_000000_report.html")).unwrap();
    assert!(page.contains("id=\"query-broken-1\""), "the page has no timeline");
}

/// Every session loses its socket after ten tokens and resumes. The queries are complete, so they are among the slowest ones.
#[test]
fn a_reconnect_and_its_replay_are_in_the_timeline() {
    let script =
        Script { close: Some((10, 1011, "gone")), itl: Duration::from_millis(5), ..Script::default() };
    let server = Running::start(script.clone());
    let dir = tempfile::tempdir().unwrap();
    // Every timeline is kept, however slow the others are on a busy machine.
    run(args(&server, dir.path(), 5, 4), &Stop::default()).unwrap();
    let all = found(dir.path(), "slowest");
    let reconnected = all.queries.iter().find(|query| has(query, "reconnected"));
    let reconnected = reconnected.unwrap_or_else(|| panic!("{all:?}"));
    assert!(has(reconnected, "socket_lost") && reconnected.tokens.len() == 18, "{reconnected:?}");
    let lost = reconnected.notes.iter().find(|note| note.event == "socket_lost").unwrap();
    assert!(lost.text.contains("closed with 1011 gone"), "{lost:?}");
    let (server, dir) = (Running::start(script), tempfile::tempdir().unwrap());
    run(args(&server, dir.path(), 5, 6), &Stop::default()).unwrap();
    let slowest = found(dir.path(), "slowest");
    assert_eq!(slowest.queries.len(), 20, "of 30 queries");
    let late: Vec<_> = slowest.queries.iter().map(|query| query.slowness_ms.unwrap()).collect();
    assert!(late.is_sorted_by(|a, b| a >= b), "{late:?}");
    let fast = std::fs::read_to_string(dir.path().join("loadtest_20261121_000000.csv")).unwrap();
    let behind = fast.lines().next().unwrap().rsplit(',').position(|name| name == "query_id").unwrap();
    let known: Vec<_> = slowest.queries.iter().map(|query| query.query_id.as_str()).collect();
    let other =
        fast.lines().skip(1).filter_map(|row| row.rsplit(',').nth(behind)).find(|id| !known.contains(id));
    let text = found(dir.path(), other.unwrap()).text(100, false);
    assert!(text.contains("No timeline"), "{text}");
}

#[test]
fn sampled_tokens_have_their_hops_and_others_their_delivery() {
    let script = Script {
        tokens: 40,
        itl: Duration::from_millis(1),
        stamped: Some([19, 17, 14, 10]),
        ..Script::default()
    };
    let server = Running::start(script);
    let dir = tempfile::tempdir().unwrap();
    run(RunArgs { hops: Some(32), ..args(&server, dir.path(), 1, 3) }, &Stop::default()).unwrap();
    for query in &found(dir.path(), "slowest").queries {
        let sampled: Vec<_> = query.tokens.iter().filter_map(|token| token.hops_ms).collect();
        assert!(!sampled.is_empty(), "{query:?}");
        assert!(sampled.iter().all(|hops| hops[..3] == [Some(2.0), Some(3.0), Some(4.0)]), "{sampled:?}");
        assert!(query.tokens.iter().all(|token| token.delivery_ms.is_some()), "{query:?}");
    }
}

/// Returns the metrics of a run while it goes on, as soon as `is_wanted`.
fn scraped(arguments: &[&str], is_wanted: impl Fn(&str) -> bool) -> String {
    let server = Running::start(Script { itl: Duration::from_millis(20), ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(&server, dir.path(), arguments);
    // `--quiet` would hide the address.
    let all: Vec<_> =
        command.get_args().filter(|argument| *argument != "--quiet").map(ToOwned::to_owned).collect();
    let mut fresh = std::process::Command::new(command.get_program());
    fresh.args(all).args(["--metrics-address", "127.0.0.1:0"]).env_remove("OUTPUT_DIR");
    command = fresh;
    let mut run = Ended(command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(run.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let address = lines
        .find_map(|line| Some(line.strip_prefix("metrics: http://")?.strip_suffix("/metrics")?.to_owned()));
    let address = address.expect("the run prints its address").parse().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let text = host::http_get(address, "/metrics").unwrap().body;
        if is_wanted(&text) {
            return text;
        }
        assert!(Instant::now() < until, "{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is not in\n{text}")).parse().unwrap()
}

#[test]
fn metrics_are_served_during_the_run() {
    let is_wanted = |text: &str| value(text, "streamstress_queries_total{status=\"ok\"}") >= 3.0;
    let text = scraped(&["--clients", "3", "--duration", "20s"], is_wanted);
    assert_eq!(value(&text, "streamstress_sessions_active"), 3.0);
    assert!(value(&text, "streamstress_tokens_received_total") >= 54.0, "{text}");
    assert_eq!(value(&text, "streamstress_tokens_lost_total"), 0.0);
    let queries = value(&text, "streamstress_e2el_seconds_count");
    assert!(
        queries >= 3.0 && value(&text, "streamstress_e2el_seconds_bucket{le=\"+Inf\"}") == queries,
        "{text}"
    );
    assert!(value(&text, "streamstress_itl_seconds_bucket{le=\"0.1\"}") > 0.0, "{text}");
    assert!(value(&text, "streamstress_loop_lag_seconds_count") > 0.0, "{text}");
    assert!(text.contains("streamstress_run{run=\"loadtest_"), "{text}");
}

/// A collector that accepts connections and never answers delays only the end of the program, by its last export.
#[test]
fn a_collector_that_never_answers_does_not_change_the_run() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let server = Running::start(Script { itl: Duration::from_millis(5), ..Script::default() });
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["--clients", "10", "--queries", "5", "--otlp", &url];
    let output = launched::run(&server, dir.path(), &arguments);
    let text = launched::text(&output);
    let summary = launched::summary(dir.path());
    assert_ne!(summary["verdict"], "FAIL", "{summary:#}");
    check(&summary, &[("queries_ok", 50), ("tokens_lost", 0)]);
    assert!(text.contains("1 of 1 exports to the OpenTelemetry collector failed"), "{text}");
    assert!(summary["duration_s"].as_f64().unwrap() < 10.0, "{summary:#}");
}

#[test]
fn an_address_that_is_taken_refuses_the_run() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let output = launched::run(&server, dir.path(), &["--metrics-address", &address]);
    let text = launched::text(&output);
    assert_eq!(output.status.code(), Some(104), "{text}");
    assert!(text.contains(&address) && text.contains("--metrics-address"), "{text}");
    assert!(launched::files(dir.path(), "").is_empty(), "no file is left");
}
