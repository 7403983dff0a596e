//! Each rule, with observations that trigger it and others that do not.

use super::*;
use crate::{
    FaultLog, FaultStatus, Hop, HopMean,
    memory::{LowMemory, MemoryOf},
    observations::BusLag,
};
use std::time::Duration;

fn titles(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.title.as_str()).collect()
}

fn observations(change: impl FnOnce(&mut Observations)) -> Observations {
    let mut observations = Observations::default();
    change(&mut observations);
    observations
}

fn process(name: &str, usage: Usage) -> Observations {
    observations(|observations| {
        observations.processes.insert(name.into(), usage);
    })
}

/// Returns the only generator with this load.
const fn loaded(loop_lag_p99_ms: Option<f64>, cpu_starved_share: Option<f64>) -> GeneratorLoad {
    GeneratorLoad { number: None, loop_lag_p99_ms, cpu_starved_share }
}

#[test]
fn each_rule_has_its_evidence() {
    let busy = || Usage { samples: 60, busy_seconds: 12, ..Usage::default() };
    let full = Usage { samples: 60, max_descriptors: 950, descriptor_limit: Some(1_000), ..Usage::default() };
    for (observations, title, evidence) in [
        (observations(|w| w.ended.push(("server-1".into(), 9))), "server-1 ended", "ended 9 s into"),
        (
            observations(|w| w.restarts.extend([("redis".into(), 3), ("redis".into(), 8)])),
            "redis was restarted",
            "replaced it at 3 s, 8 s.",
        ),
        (
            observations(|w| {
                let of = MemoryOf::Redis;
                w.low_redis = Some(LowMemory { second: 7, available_mb: 70.0, total_mb: 768.0, of });
            }),
            "Redis was about to run out of memory",
            "At 7 s less than 10 % was available; the least was 70 of 768 MB.",
        ),
        (
            observations(|w| drop(w.failed.insert("api /ready".into(), (4, 2, 6, "503".into())))),
            "api /ready failed",
            "4 health checks failed from 2 s to 6 s. Last result: 503.",
        ),
        (process("redis", busy()), "redis saturated a CPU core", "in 12 of 60 seconds"),
        (
            process("wsproxy-1", full),
            "wsproxy-1 was near its limit of open files",
            "950 of 1000 descriptors open",
        ),
    ] {
        let findings = find(&FindingInputs::default(), &observations);
        assert_eq!(titles(&findings), [title]);
        assert!(findings[0].evidence.contains(evidence), "{}", findings[0].evidence);
    }
    for observations in [
        Observations::default(),
        process("client", busy()),
        process("redis", Usage { busy_seconds: 4, ..busy() }),
        process("redis", Usage { samples: 10_000, ..busy() }),
    ] {
        assert_eq!(find(&FindingInputs::default(), &observations), []);
    }
}

#[test]
fn of_the_run_itself() {
    for (measured, expected) in [
        (
            FindingInputs { generators: &[loaded(Some(12.0), None)], ..FindingInputs::default() },
            vec!["the load generator was overloaded"],
        ),
        (
            FindingInputs { generators: &[loaded(None, Some(0.3))], ..FindingInputs::default() },
            vec!["the load generator was overloaded"],
        ),
        (FindingInputs { generators: &[loaded(Some(9.0), Some(0.05))], ..FindingInputs::default() }, vec![]),
        (
            FindingInputs { peak_reconnects: (50, 7), peak_sessions: 100, ..FindingInputs::default() },
            vec!["reconnect storm"],
        ),
        (
            FindingInputs { peak_reconnects: (50, 7), peak_sessions: 1_000, ..FindingInputs::default() },
            vec![],
        ),
    ] {
        assert_eq!(titles(&find(&measured, &Observations::default())), expected, "{measured:?}");
    }
}

#[test]
fn an_endpoint_that_stopped_accepting() {
    let endpoint = |is_dead| EndpointHistory {
        name: "ws://a".into(),
        connected: 1,
        failed: 20,
        is_dead,
        ..EndpointHistory::default()
    };
    let endpoints = [endpoint(false), endpoint(true)];
    let findings =
        find(&FindingInputs { endpoints: &endpoints, ..FindingInputs::default() }, &Observations::default());
    assert_eq!(titles(&findings), ["ws://a stopped accepting connections"]);
    let evidence = &findings[0].evidence;
    assert!(
        evidence.starts_with("It accepted 1 connection, and 20 attempts to connect failed."),
        "{evidence}"
    );
}

#[test]
fn a_planned_fault_explains_what_it_caused() {
    let log = FaultLog::new([("wsproxy-1:kill", Duration::from_secs(4))]);
    log.begin(0, Duration::from_secs(1), Duration::from_secs(5));
    log.end(0, Some(Duration::from_secs(6)), FaultStatus::Injected("done".into()));
    let faults = log.records();
    let at = |second| FindingInputs {
        peak_reconnects: (50, second),
        peak_sessions: 100,
        faults: &faults,
        ..FindingInputs::default()
    };
    for (second, title) in [
        (4, "reconnect storm"),
        (5, "planned fault `wsproxy-1:kill` at 5 s"),
        (16, "planned fault `wsproxy-1:kill` at 5 s"),
        (18, "reconnect storm"),
    ] {
        assert_eq!(titles(&find(&at(second), &Observations::default())), [title], "{second}");
    }
    let cut = FindingInputs { attempts_and_cuts: (100, 90), ..at(30) };
    assert_eq!(find(&cut, &Observations::default()), [], "--cut-rate is not a finding");
    let restarted = observations(|w| w.restarts.push(("wsproxy-1".into(), 7)));
    let findings = find(&FindingInputs { faults: &faults, ..FindingInputs::default() }, &restarted);
    assert_eq!(titles(&findings), ["planned fault `wsproxy-1:kill` at 5 s"]);
    assert_eq!(titles(&findings[0].explains), ["wsproxy-1 was restarted"]);
}

#[test]
fn a_slow_hop_is_named_with_its_evidence_and_the_fault_that_explains_it() {
    let mean = |from_s, total_ms, hop_ms| HopMean { from_s, to_s: from_s + 1, total_ms, hop_ms, samples: 60 };
    let growth = |hop| Some(HopGrowth { hop, calm: mean(3, 0.8, 0.4), worst: mean(40, 10.8, 9.4) });
    for (hop, title) in [
        (Hop::Pace, "the simulator handed tokens over late"),
        (Hop::Bus, "tokens waited at Redis"),
        (Hop::Gateway, "tokens waited in the gateway"),
        (Hop::Network, "tokens waited between gateway and client"),
    ] {
        let findings = find(
            &FindingInputs { hop_growth: growth(hop), ..FindingInputs::default() },
            &Observations::default(),
        );
        assert_eq!(titles(&findings), [title]);
        let figures = format!(
            "From 40 s to 41 s a token took 10.8 ms on average, in the calmest part of the run (3 s to 4 s) 0.8 ms. \
             The hop `{}` grew from 0.4 to 9.4 ms, which is 90 % of the growth (60 and 60 sampled tokens).",
            hop.metric().name_ms()
        );
        assert!(findings[0].evidence.starts_with(&figures), "{}", findings[0].evidence);
    }
    let log = FaultLog::new([("redis:pause=1s", Duration::from_secs(39))]);
    log.begin(0, Duration::from_secs(1), Duration::from_secs(40));
    log.end(0, Some(Duration::from_secs(41)), FaultStatus::Injected("done".into()));
    let faults = log.records();
    let inputs = FindingInputs { hop_growth: growth(Hop::Bus), faults: &faults, ..FindingInputs::default() };
    let findings = find(&inputs, &Observations::default());
    assert_eq!(titles(&findings), ["planned fault `redis:pause=1s` at 40 s"]);
    assert_eq!(titles(&findings[0].explains), ["tokens waited at Redis"]);
}

#[test]
fn overlapping_faults_each_explain_their_own() {
    let specs = [
        "server-1:pause=5s",
        "server-2:kill",
        "wsproxy-1:kill",
        "wsproxies:drain",
        "redis:pause=2s",
        "haproxy:reload",
        "link:redis/wsproxy-2:delay=50ms",
        "server-10:kill",
    ];
    let log = FaultLog::new(specs.map(|spec| (spec, Duration::from_secs(10))));
    for index in 0..specs.len() {
        log.begin(index, Duration::ZERO, Duration::from_secs(10));
        log.end(index, Some(Duration::from_secs(12)), FaultStatus::Injected("done".into()));
    }
    let faults = log.records();
    let seen = observations(|w| {
        w.ended.extend([("server-2".into(), 12), ("server-1".into(), 40)]);
        w.restarts.extend([("wsproxy-1".into(), 13), ("wsproxy-3".into(), 13), ("redis".into(), 14)]);
        for target in ["api /ready", "wsproxy-2 /ready", "server-10 /health"] {
            w.failed.insert(target.into(), (3, 11, 14, "503".into()));
        }
        w.stack_counters.bus_lag = Some(BusLag { count: 5_000, p50: 3.0, p95: 400.0, p99: 900.0 });
    });
    let measured = FindingInputs {
        faults: &faults,
        peak_reconnects: (90, 12),
        peak_sessions: 100,
        ..FindingInputs::default()
    };
    let findings = find(&measured, &seen);
    let listed: Vec<_> =
        findings.iter().map(|f| (f.title.as_str(), titles(&f.explains).join(", "))).collect();
    let group = |spec: &str| {
        let title = format!("planned fault `{spec}` at 10 s");
        listed.iter().find(|(found, _)| *found == title).map_or("", |(_, explains)| explains.as_str())
    };
    assert_eq!(listed[0], ("server-1 ended", String::new()), "no fault reaches as far");
    assert_eq!(group("server-2:kill"), "server-2 ended");
    assert!(group("server-10:kill").contains("server-10 /health failed"), "{listed:#?}");
    assert!(!group("server-1:pause=5s").contains("server-10"), "{listed:#?}");
    assert!(group("wsproxy-1:kill").contains("wsproxy-1 was restarted"), "{listed:#?}");
    assert!(group("redis:pause=2s").contains("redis was restarted"), "{listed:#?}");
    assert!(group("link:redis/wsproxy-2:delay=50ms").contains("wsproxy-2 /ready failed"), "{listed:#?}");
    let all = findings.iter().map(|finding| 1 + finding.explains.len()).sum::<usize>();
    let groups = findings.iter().filter(|finding| !finding.explains.is_empty()).count();
    assert_eq!(all - groups, 10, "each is listed once: {listed:#?}");
    let text = format!("{findings:?}");
    assert_eq!(text.matches("server-2:kill").count(), 1, "no list of faults is repeated");
}

#[test]
fn a_slow_bus_is_reported_with_its_percentiles() {
    let slow = |p95, count| {
        observations(|w| w.stack_counters.bus_lag = Some(BusLag { count, p50: 3.0, p95, p99: 90.0 }))
    };
    let measured = FindingInputs { published_throughput: Some(1_234.4), ..FindingInputs::default() };
    let findings = find(&measured, &slow(40.0, 5_000));
    assert_eq!(titles(&findings), ["slow redis"]);
    let in_memory = FindingInputs { bus_in_memory: true, ..measured };
    assert_eq!(titles(&find(&in_memory, &slow(40.0, 5_000))), ["slow bus"]);
    let evidence = "5000 events at 1234 tokens/s within 3 ms at p50, 40 ms at p95 and 90 ms at p99.";
    assert!(findings[0].evidence.contains(evidence), "{}", findings[0].evidence);
    for observations in [slow(9.0, 5_000), slow(40.0, 100)] {
        assert_eq!(find(&measured, &observations), []);
    }
}

#[test]
fn growth_is_found_only_where_it_is_significant() {
    // A sawtooth of 4 MB as noise.
    let memory = |seconds: u32, mb_an_hour: f64, warm_up: f64| {
        let mut usage = Usage::default();
        for second in 0..seconds {
            let at = f64::from(second);
            let warm = warm_up * (at / 60.0).min(1.0);
            usage.remember(at, 100.0 + warm + mb_an_hour * at / 3600.0 + f64::from(second % 5));
        }
        usage
    };
    for (seconds, mb_an_hour, warm_up, expected) in [
        (14_400, 20.0, 0.0, true),
        (14_400, 0.0, 0.0, false),
        (14_400, 0.0, 80.0, false),
        (14_400, 2.0, 0.0, false),
        (300, 2_000.0, 0.0, false),
        (900, 400.0, 0.0, true),
    ] {
        let findings =
            find(&FindingInputs::default(), &process("server-1", memory(seconds, mb_an_hour, warm_up)));
        assert_eq!(
            !findings.is_empty(),
            expected,
            "{seconds} s, {mb_an_hour} MB/h, {warm_up} MB: {findings:?}"
        );
    }
}
