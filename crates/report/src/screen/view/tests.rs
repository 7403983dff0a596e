//! The view of a run with many problems and of a run that has just begun, at usual sizes of terminals.

use super::*;
use crate::{output::LiveStatus, screen::snapshot::Rates};
use measure::{FaultLog, QueryCounts, TokenCounts, defects::Defect, live::LiveTotals};
use plan::schedule::{Schedule, Stages};
use ratatui::{Terminal, backend::TestBackend};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn outcome(text: &str, state: State, value: f64) -> Outcome {
    Outcome {
        threshold: text.parse().unwrap(),
        state,
        value: Some(value),
        worst_from_s: None,
        certain: false,
        untrusted: false,
    }
}

fn troubled() -> Snapshot {
    let log = FaultLog::new([("wsproxy-1:kill", s(30)), ("redis:restart", s(90)), ("wsproxy-9:kill", s(40))]);
    log.begin(0, s(1), s(31));
    log.end(0, Some(s(31)), FaultStatus::Injected("process 1 is gone".into()));
    log.end(2, Some(s(40)), FaultStatus::Failed("there is no wsproxy-9".into()));
    log.outage(s(31), s(33));
    let mut defects = Defects::default();
    defects.note(Defect::Unreadable, b"<html>502\n");
    let schedule = Schedule::staged(&"1m:500,2m:500,30s:0".parse::<Stages>().unwrap());
    Snapshot {
        target: "http://127.0.0.1:8080/".into(),
        elapsed: s(83),
        end: schedule.end(),
        estimate: s(210),
        phases: schedule.phases().to_vec(),
        is_stopping: false,
        sessions_open: 498,
        sessions_planned: 500,
        queries_planned: 95_000,
        are_queries_estimated: true,
        is_open: false,
        totals: LiveTotals { queries: 31_234, dropped: 3, ..LiveTotals::default() },
        rates: Rates { tokens: 9_012.4, queries: 498.6, connects: 2.5 },
        live_status: LiveStatus {
            tokens: TokenCounts { expected: 562_212, received: 562_200, lost: 12, ..TokenCounts::default() },
            defects,
            queries: QueryCounts { total: 31_234, ok: 31_222, incomplete: 12, ..QueryCounts::default() },
            recent: [Some([0.41, 1.2, 6.27]), Some([50.0, 50.9, 61.0]), Some([901.1, 930.4, 1_204.0]), None],
            untrusted: [[false, false, true], [false; 3], [false; 3], [false; 3]],
            hops: [Some(0.08), Some(0.412), None, Some(12.3)],
            tokens_by_second: (0..80).map(|second| second * 110).collect(),
            ttft_by_second: (0..80).map(|second| (second > 20).then(|| f64::from(second % 10))).collect(),
            reconnect_attempts: 260,
            reconnects: 249,
            failures: vec![("stream".into(), 12), ("run 429".into(), 3)],
            thresholds: vec![
                outcome("e2el_ms:p95<900", State::Broken, 930.4),
                outcome("error_rate<0.01", State::Held, 0.0004),
            ],
        },
        faults: log.records(),
        events_dropped: 0,
        message: Some("a warning of the embedded server".into()),
        shows_help: false,
    }
}

fn drawn(snapshot: &Snapshot, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view(snapshot, frame.area(), frame.buffer_mut())).unwrap();
    terminal
}

#[test]
fn a_troubled_run() {
    insta::assert_snapshot!("troubled_60x20", drawn(&troubled(), 60, 20).backend());
    insta::assert_snapshot!("troubled_80x24", drawn(&troubled(), 80, 24).backend());
    insta::assert_snapshot!("troubled_100x30", drawn(&troubled(), 100, 30).backend());
    insta::assert_snapshot!("troubled_120x40", drawn(&troubled(), 120, 40).backend());
}

#[test]
fn a_run_that_has_just_begun() {
    let schedule = Schedule::closed(100, s(1), None);
    let snapshot = Snapshot {
        target: "embedded".into(),
        estimate: s(10),
        phases: schedule.phases().to_vec(),
        queries_planned: 1_000,
        ..Snapshot::default()
    };
    insta::assert_snapshot!("begun_60x20", drawn(&snapshot, 60, 20).backend());
}

#[test]
fn what_is_bad_is_red_and_what_is_not_is_not() {
    let terminal = drawn(&troubled(), 80, 24);
    let buffer = terminal.backend().buffer();
    let red = |word: &str| {
        let width = usize::from(buffer.area.width);
        let rows: Vec<_> = buffer.content.chunks(width).collect();
        let row =
            rows.iter().find(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().contains(word));
        row.unwrap().iter().any(|cell| cell.fg == Color::Red)
    };
    assert!(red("562212") && red("failed 12") && red("p(95)<900"));
    assert!(!red("sessions 498") && !red("ttft_ms"));
}

#[test]
fn help_and_an_order_to_stop_are_seen() {
    let asked = Snapshot { shows_help: true, is_stopping: true, ..troubled() };
    let text = drawn(&asked, 60, 20).backend().to_string();
    assert!(text.contains("Ctrl+C") && text.contains("press q again"), "{text}");
}

#[test]
fn charts_take_what_the_words_leave() {
    let calm = Snapshot { message: None, faults: Vec::new(), ..troubled() };
    for (width, height) in [(60, 20), (80, 24), (80, 60), (100, 30), (120, 40), (200, 60)] {
        let terminal = drawn(&calm, width, height);
        let rows: Vec<_> = terminal.backend().buffer().content.chunks(width.into()).collect();
        let blank = |row: &&&[ratatui::buffer::Cell]| row.iter().all(|cell| cell.symbol() == " ");
        let blanks = rows.iter().filter(blank).count();
        assert!(blanks <= 5, "{blanks} of {height} rows\n{}", terminal.backend());
    }
}

#[test]
fn no_size_is_too_small_or_too_large() {
    for (width, height) in [(1, 1), (2, 40), (40, 12), (59, 13), (89, 12), (90, 12), (200, 60), (300, 9)] {
        drawn(&troubled(), width, height);
        drawn(&Snapshot::default(), width, height);
    }
}
