//! Records that tests write by hand, runs that consist of them, and functions that read their result files.
#![allow(dead_code, reason = "each test binary uses its part")]

use measure::{
    BoundedSample, FaultLog, GeneratorReport, Part, Quantity, QuerySamples, Reading,
    contents::ContentStatus,
    defects::{Defect, Defects},
    record::{Failure, FailureKind, LagKind, LossCause, QueryRecord, QueryStatus, Reconnect, SessionRecord},
};
use protocol::{EventCounts, SessionId};
use report::output::{Criteria, Finished, OutputSettings, Results, RunInfo};
use std::{fs, path::Path, sync::Arc, time::Duration};
use time::macros::datetime;
use uuid::Uuid;

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A query of 18 tokens, sent at `at` milliseconds, as the default simulator plays it.
pub fn query(session: u64, num: u32, at: u64) -> QueryRecord {
    QueryRecord {
        session: Some(SessionId::new(Uuid::from_u128(u128::from(session)))),
        scheduled: ms(at).saturating_sub(Duration::from_micros(500)),
        sent: Some(ms(at)),
        first_token: Some(ms(at + 2)),
        last_token: Some(ms(at + 852)),
        done: Some(ms(at + 902)),
        ended: ms(at + 902),
        status: QueryStatus::Ok,
        tokens_expected: Some(18),
        tally: EventCounts { tokens_received: 18, events_received: 19, ..EventCounts::default() },
        longest_gap: Some(ms(50)),
        contents: ContentStatus::Verified,
        ideal_ttft: Some(Duration::ZERO),
        ideal_e2el: Some(ms(900)),
        ..QueryRecord::unsent(session, num, ms(at))
    }
}

pub fn session(index: u64, started: u64, ended: u64) -> SessionRecord {
    SessionRecord {
        session: Some(SessionId::new(Uuid::from_u128(u128::from(index)))),
        index,
        scheduled: ms(started),
        started: ms(started),
        ended: ms(ended),
        create: Some(ms(3)),
        create_slack: Duration::ZERO,
        connect: Some(ms(5)),
        connect_slack: Duration::ZERO,
        first_socket: None,
        close: Some(ms(2)),
        reconnect_attempts: 0,
        reconnects: Vec::new(),
        sockets_cut: 0,
        paused: false,
        announced_gaps: 0,
        defects: Defects::default(),
        announced_gap_positions: 0,
        events_replayed: 0,
        frames_rolled: 0,
        tokens_rolled: 0,
        close_codes: Vec::new(),
        ok: true,
        cut_off: false,
        excused: false,
        old_contract: false,
        failure: None,
    }
}

pub fn settings(dir: &Path, criteria: Criteria) -> OutputSettings {
    OutputSettings {
        dir: dir.to_owned(),
        name: "loadtest".to_owned(),
        started_at: datetime!(2026-11-21 00:45:09 +2),
        criteria,
        suffix: String::new(),
        generators: 1,
        seconds: None,
        patience: Some(Duration::from_secs(2)),
        schedule: None,
        shared_status: None,
        metrics: None,
        events: None,
    }
}

/// Must not be called: the record of a session with few queries is not needed before its end.
pub fn unasked() -> SessionRecord {
    unreachable!("a session of a few queries waits for its end")
}

pub fn open(dir: &Path) -> Results {
    open_with(dir, Arc::default())
}

pub fn open_with(dir: &Path, log: Arc<FaultLog>) -> Results {
    let results = Results::open(&settings(dir, Criteria::default()), log).unwrap();
    results.add(0, two_active());
    results
}

/// Two open sessions and two running queries throughout the first second.
fn two_active() -> Part {
    let mut part = Part::default();
    part.seconds.entry(0).or_default().active(2_000_000_000, 2_000_000_000);
    part
}

pub fn info() -> RunInfo {
    RunInfo {
        config: serde_json::json!({ "clients": 2, "token": "redacted" }),
        seed: 7,
        clients: 2,
        queries_per_client: 2,
        ramp_up: ms(1000),
        elapsed: ms(2_500),
        generator: GeneratorReport {
            shared_clock: Some(true),
            wall: ms(1_000),
            cpu_waited: Some(ms(12)),
            ..GeneratorReport::default()
        },
        ..RunInfo::default()
    }
}

/// A run without a failure: two sessions of two queries, and readings of the stack from the first second.
pub fn good_run(dir: &Path) -> Finished {
    let results = open(dir);
    let read = |quantity, label: &str, value| Reading { quantity, label: label.to_owned(), value };
    let readings = vec![
        read(Quantity::CpuShare, "client", 0.25),
        read(Quantity::RssMb, "client", 12.5),
        read(Quantity::RssMb, "redis", 8.0),
        read(Quantity::HealthMs, "api", 1.0),
        read(Quantity::HealthFailures, "api", 0.0),
        read(Quantity::Restarts, "redis", 0.0),
    ];
    results.readings().push(0, readings);
    let generator = results.generator(None).unwrap();
    let mut recorder = generator.recorder();
    for index in 0..2 {
        let at = 100 + index * 50;
        let mut samples = QuerySamples::default();
        for step in 0..18 {
            let moment = ms(at + 2 + step * 50);
            recorder.token(moment);
            if step > 0 {
                samples.itl(BoundedSample::exact(50_000_000), true);
            }
            samples.delivery(400_000, false);
            recorder.sample(LagKind::PaceLag, 80_000, moment);
            recorder.sample(LagKind::LoopLag, 100_000, moment);
        }
        recorder.query_ended(query(index, 1, at), &samples, unasked);
        recorder.session_ended(session(index, 90, at + 2_000), vec![query(index, 2, at + 1_000)]);
    }
    drop(recorder);
    generator.finish().unwrap();
    results.finish(&info()).unwrap()
}

/// A run with failures: one session lost tokens and a reconnect, one was never created, and one was refused.
pub fn bad_run(dir: &Path) -> Finished {
    let results = open(dir);
    let generator = results.generator(None).unwrap();
    let mut recorder = generator.recorder();
    let failure = |kind, code, message: &str| Some(Failure { kind, code, message: message.to_owned() });
    let mut defects = Defects::default();
    defects.note(Defect::Duplicated, br#"{"id":"1-3","type":"token"}"#);
    defects.note(Defect::Reordered, br#"{"id":"1-2","type":"token"}"#);
    defects.note(Defect::Unreadable, b"<html>\x1b[31m502\n");
    defects.note(Defect::UnknownType, br#"{"type":"ping"}"#);
    let lossy = QueryRecord {
        status: QueryStatus::Incomplete,
        tally: EventCounts {
            tokens_received: 16,
            tokens_lost: 2,
            tokens_duplicated: 1,
            tokens_reordered: 1,
            events_received: 17,
            events_lost: 2,
            events_duplicated: 1,
            events_reordered: 1,
            ..EventCounts::default()
        },
        defects,
        lost_connected: 1,
        lost_in_gap: 1,
        stall_count: 1,
        stall: ms(120),
        failure: failure(FailureKind::Stream, None, "query 1: 2 of 18 tokens never came"),
        ..query(0, 1, 100)
    };
    let reconnected = SessionRecord {
        reconnect_attempts: 3,
        reconnects: vec![Reconnect { cause: LossCause::Closed(4002), gap: ms(1_500) }],
        close_codes: vec![4002, 1000],
        ok: false,
        ..session(0, 90, 2_000)
    };
    recorder.session_ended(reconnected, vec![lossy]);
    let never = QueryRecord {
        session: None,
        sent: None,
        first_token: None,
        last_token: None,
        done: None,
        status: QueryStatus::Error,
        tokens_expected: None,
        tally: EventCounts::default(),
        failure: failure(FailureKind::Create, Some(503), "POST /session/create answered 503: \x1b[31mfull"),
        ..query(1, 1, 100)
    };
    let create_failed = SessionRecord {
        session: None,
        create: None,
        connect: None,
        close: None,
        ok: false,
        failure: never.failure.clone(),
        ..session(1, 90, 200)
    };
    recorder.session_ended(create_failed, vec![never]);
    let refused = QueryRecord {
        first_token: None,
        last_token: None,
        done: None,
        status: QueryStatus::Rejected,
        tokens_expected: None,
        tally: EventCounts::default(),
        failure: failure(FailureKind::Run, Some(429), "POST /run answered 429: too many streams"),
        ..query(2, 1, 100)
    };
    recorder.session_ended(SessionRecord { ok: false, ..session(2, 90, 300) }, vec![refused]);
    drop(recorder);
    generator.finish().unwrap();
    results.finish(&info()).unwrap()
}

pub fn read(dir: &Path, ending: &str) -> String {
    fs::read_to_string(dir.join(format!("loadtest_20261121_004509{ending}"))).unwrap()
}

pub fn summary(dir: &Path) -> serde_json::Value {
    serde_json::from_str(&read(dir, "_summary.json")).unwrap()
}
