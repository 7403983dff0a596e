//! The time of tokens by hop, over real sockets: against a gateway with known times, one without times, the embedded stack, and the native
//! stack with delayed links.

mod fake;
mod rig;
mod runs;

use client::cli::RunArgs;
use fake::{Running, Script};
use plan::Stop;
use rig::stacks::{inject, options, wait_until_ready};
use runs::{args, read_summary, run};
use serde_json::Value;
use settings::distribution::Distribution;
use stack::native::{Native, Options};
use std::path::Path;

fn fixed(value: f64) -> Distribution {
    Distribution::Fixed(value)
}

/// Returns the arguments of a run that asks for the times of the gateway.
fn asking(server: &Running, dir: &Path, clients: i64, queries: i64) -> RunArgs {
    RunArgs { hops: Some(32), ..args(server, dir, clients, queries) }
}

/// Returns the arguments of a quiet run with one worker.
fn one_worker() -> RunArgs {
    RunArgs { quiet: true, workers: Some(1), seed: Some(1), ..RunArgs::default() }
}

const METRICS: [&str; 4] = ["hop_pace_ms", "hop_bus_ms", "hop_gateway_ms", "hop_network_ms"];

fn figure(summary: &Value, metric: &str, figure: &str) -> f64 {
    summary["metrics"][metric][figure].as_f64().unwrap_or_else(|| panic!("{metric} {figure}: {summary:#}"))
}

/// Returns the hop with the largest mean.
fn slowest(summary: &Value) -> &'static str {
    METRICS
        .into_iter()
        .max_by(|a, b| figure(summary, a, "mean").total_cmp(&figure(summary, b, "mean")))
        .unwrap()
}

#[test]
fn hops_are_those_that_the_times_give_and_add_up_to_the_delivery() {
    let script = || Script { tokens: 1, stamped: Some([19, 17, 14, 10]), ..Script::default() };
    let server = Running::start(script());
    let dir = tempfile::tempdir().unwrap();
    let finished = run(asking(&server, dir.path(), 2, 5), &Stop::default()).unwrap();
    let (summary, text) = (read_summary(dir.path()), finished.text(100));
    for (metric, ms) in METRICS[..3].iter().zip([2.0, 3.0, 4.0]) {
        assert_eq!(
            (figure(&summary, metric, "mean"), figure(&summary, metric, "count")),
            (ms, 10.0),
            "{metric}"
        );
    }
    assert!(figure(&summary, "hop_network_ms", "min") >= 10.0);
    let hops = &summary["hops"];
    assert_eq!(
        (&hops["state"], &hops["samples"], &hops["reliable"]),
        (&"measured".into(), &10.into(), &true.into())
    );
    assert_eq!(hops["every"], 32);
    assert!(text.contains("Where a token's time went") && text.contains("clock error"), "{text}");
    // Every token is sampled. The terminators were sent and received at once, and the largest delivery is a token's.
    let sum = METRICS[1..].iter().map(|metric| figure(&summary, metric, "max")).sum::<f64>();
    assert!((sum - figure(&summary, "delivery_ms", "max")).abs() < 0.01, "{summary:#}");
    let page = report::html::write(&dir.path().join("loadtest_20261121_000000.csv")).unwrap();
    let page = std::fs::read_to_string(page).unwrap();
    assert!(
        page.contains("Where a token's time went") || page.contains("Where a token&#39;s time went"),
        "no section"
    );
    assert!(
        page.contains("mean time by hop, ms")
            && page.contains("passed to the socket → received by the client")
    );
}

#[test]
fn a_gateway_without_times_is_not_reported_and_nothing_is_zero() {
    let server = Running::start(Script::default());
    let dir = tempfile::tempdir().unwrap();
    let finished = run(asking(&server, dir.path(), 1, 2), &Stop::default()).unwrap();
    let (summary, text) = (read_summary(dir.path()), finished.text(100));
    assert_eq!(summary["hops"], serde_json::json!({ "state": "not reported", "every": 32 }));
    assert!(METRICS.iter().all(|metric| summary["metrics"][metric].is_null()), "{summary:#}");
    assert!(text.contains("time by hop") && text.contains("not reported"), "{text}");
    assert_eq!(summary["verdict"], "PASS");
    let asked = |hops, ws_path: Option<&str>| {
        let server = Running::start(Script { stamped: Some([4, 3, 2, 1]), ..Script::default() });
        let ws_path = ws_path.map(str::to_owned);
        let summary = runs::summary(&server, |args| (args.hops, args.ws_path) = (hops, ws_path), 1, 1);
        let is_asked = server.seen().heads.iter().any(|(target, _)| target.contains("hops="));
        (is_asked, summary["hops"]["state"].as_str().unwrap().to_owned())
    };
    assert_eq!(asked(Some(32), None), (true, "measured".into()));
    assert_eq!(asked(None, None), (false, "off".into()), "a gateway that the user named");
    assert_eq!(asked(Some(0), None), (false, "off".into()), "times that were not asked for are ignored");
    assert_eq!(asked(None, Some("/load/ws/{session}")), (false, "off".into()), "a foreign path");
    assert_eq!(asked(Some(16), Some("/load/ws/{session}?x=1")), (true, "measured".into()));
}

#[test]
fn times_that_contradict_each_other_make_the_split_unreliable() {
    let server = Running::start(Script { stamped: Some([4, 3, 9, 1]), ..Script::default() });
    let summary = runs::summary(&server, |args| args.hops = Some(32), 1, 2);
    let hops = &summary["hops"];
    assert_eq!((&hops["samples"], &hops["contradictory"]), (&0.into(), &4.into()), "{hops:#}");
    assert!(hops["unreliable_because"].as_str().unwrap().contains("4 of 4 samples"), "{hops:#}");
}

#[test]
fn the_embedded_stack_stamps_sampled_tokens_alone() {
    for (every, sampled) in [(1, 18), (4, 5)] {
        let dir = tempfile::tempdir().unwrap();
        let args = RunArgs {
            clients: Some(4),
            queries: Some(3),
            ramp_up: Some(0.05.into()),
            embedded: true,
            answer_tokens: Some(fixed(18.0)),
            ttft_ms: Some(fixed(20.0)),
            itl_ms: Some(fixed(2.0)),
            hops: Some(every),
            output_dir: Some(dir.path().to_owned()),
            ..one_worker()
        };
        run(args, &Stop::default()).unwrap();
        let summary = read_summary(dir.path());
        assert_eq!((&summary["tokens_received"], &summary["queries_corrupt"]), (&216.into(), &0.into()));
        let counts = METRICS.map(|metric| figure(&summary, metric, "count"));
        // A first token that comes before the gateway has read the log once is a replay.
        let (least, most) = (f64::from(12 * sampled - 12), f64::from(12 * sampled));
        assert!(
            counts.iter().all(|count| count.total_cmp(&counts[0]).is_eq() && (least..=most).contains(count)),
            "{counts:?}"
        );
        assert_eq!(summary["hops"]["contradictory"], 0, "{summary:#}");
        // Without the terminators, and each time rounded to a microsecond.
        let sum: f64 = METRICS[1..].iter().map(|metric| figure(&summary, metric, "mean")).sum();
        let delivered = figure(&summary, "delivery_ms", "mean") * figure(&summary, "delivery_ms", "count");
        assert!(sum * counts[0] <= delivered + counts[0] * 0.005, "{sum} {delivered}");
    }
}

/// Runs a few queries on a native stack and returns the summary.
async fn played(native: &Native) -> Value {
    let (api, ws) = (native.api_url(), native.ws_url());
    let play = move || {
        let dir = tempfile::tempdir().unwrap();
        let args = RunArgs {
            clients: Some(2),
            queries: Some(2),
            api_url: vec![api],
            wsproxy_url: vec![ws],
            answer_tokens: Some(fixed(10.0)),
            itl_ms: Some(fixed(20.0)),
            hops: Some(1),
            output_dir: Some(dir.path().to_owned()),
            ..one_worker()
        };
        run(args, &Stop::default()).unwrap();
        read_summary(dir.path())
    };
    tokio::task::spawn_blocking(play).await.unwrap()
}

#[tokio::test]
async fn the_hop_whose_link_is_delayed_grows() {
    let directory = tempfile::tempdir().unwrap();
    let native = Native::start(Options { proxies: 1, ..options(directory.path()) }).await.unwrap();
    for (link, hop) in [("link:redis/wsproxy-1", "hop_bus_ms"), ("link:wsproxy-1", "hop_network_ms")] {
        inject(&native, &format!("{link}:delay=200ms")).await;
        wait_until_ready(&native).await;
        let summary = played(&native).await;
        assert_eq!(slowest(&summary), hop, "{summary:#}");
        assert!(figure(&summary, hop, "min") >= 199.0, "{summary:#}");
        assert_eq!(summary["hops"]["contradictory"], 0, "{summary:#}");
        inject(&native, &format!("{link}:heal")).await;
        wait_until_ready(&native).await;
    }
    native.stop().await;
}
