use super::*;
use measure::{
    FaultRecord, FaultStatus, QuerySamples,
    record::{LossCause, QueryRecord, QueryStatus},
    timeline::{NoteEvent, Notes, QueryTimeline, Timelines},
};
use protocol::MissingRange;
use std::{collections::BTreeMap, fs, time::Duration};

const ID: &str = "6f1c2a30-0000-4000-8000-000000000001";

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A query whose socket was lost at 500 ms, with a replay and a hole.
fn broken() -> QueryTimeline {
    let mut record = QueryRecord {
        query_id: ID.into(),
        session_index: 12,
        query_num: 3,
        ideal_ttft: Some(ms(200)),
        ideal_e2el: Some(ms(1_000)),
        ..QueryRecord::sample(QueryStatus::Incomplete)
    };
    (record.tally.tokens_received, record.tally.tokens_lost) = (6, 2);
    let (mut samples, mut notes) = (QuerySamples::default(), Notes::default());
    for (seq, gap_ms) in [(1, 0), (2, 50), (3, 50), (6, 400), (7, 50), (8, 50)] {
        samples.token(Some(seq), || ms(210));
        if gap_ms > 0 {
            samples.unsampled_gap(gap_ms * 1_000_000);
        }
        samples.delivery(400_000, seq == 6);
    }
    notes.add(ms(450), NoteEvent::SocketLost(LossCause::Closed(1011), "internal\u{1b}[31m error".to_owned()));
    notes.add(ms(700), NoteEvent::SocketOpened(Some(ms(250))));
    notes.add(ms(701), NoteEvent::Replayed(2, 2, 1));
    notes.add(ms(702), NoteEvent::Replayed(3, 3, 1));
    let missing = [MissingRange { first: 4, last: 5, before_us: None, after_us: None }];
    let mut timeline = QueryTimeline::new(&record, &samples, &missing, notes);
    (timeline.server, timeline.accepted) = (Some("server-1".to_owned()), Some(ms(103)));
    timeline
}

fn fault() -> FaultRecord {
    FaultRecord {
        spec: "wsproxy-1:kill".to_owned(),
        at: ms(400),
        first_send: Some(ms(40)),
        began: Some(ms(440)),
        ended: Some(ms(449)),
        status: FaultStatus::Injected("killed".to_owned()),
        members: Vec::new(),
        recovered: None,
        outages: 1,
        unrecovered: 0,
        error_events: BTreeMap::new(),
        cold_starts: Vec::new(),
    }
}

/// Writes a run with these timelines.
fn run(timelines: &[QueryTimeline]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut kept = Timelines::default();
    timelines.iter().cloned().for_each(|timeline| kept.add(timeline));
    let lines: Vec<_> =
        stored::queries(&kept, &[fault()]).map(|query| serde_json::to_string(&query).unwrap()).collect();
    fs::write(dir.path().join("a_1_queries.jsonl"), lines.join("\n") + "\n").unwrap();
    fs::write(dir.path().join("a_1_summary.json"), r#"{"verdict":"FAIL"}"#).unwrap();
    let header = "session_id,query_num,session_index,query_id,status,scheduled_s,sent_s,ended_s,ttft_ms,tokens_received,fault";
    fs::write(dir.path().join("a_1.csv"), format!("{header}\ns,9,4,other,ok,1.5,1.6,2.0,100,18,a:kill\n"))
        .unwrap();
    dir
}

#[test]
fn a_timeline_shows_what_happened_in_order() {
    let dir = run(&[broken()]);
    let file = dir.path().join("a_1.csv");
    for query in [ID, "broken", "12:3"] {
        let found = inspect(&file, query, Path::new("results")).unwrap();
        assert_eq!(found.queries.len(), 1, "{query}");
        assert_eq!(found.queries[0].faults[0].fault, "wsproxy-1:kill");
    }
    let found = inspect(&file, ID, Path::new("results")).unwrap();
    insta::assert_snapshot!(found.text(100, false));
    let each = found.text(100, true);
    assert!(each.contains("token 7 ") && each.contains("token 8 "), "{each}");
    let read: Vec<StoredQuery> = serde_json::from_str(&found.json()).unwrap();
    assert_eq!(read, found.queries);
}

#[test]
fn a_query_without_a_timeline_has_the_figures_of_its_row() {
    let dir = run(&[broken()]);
    for query in ["other", "4:9", "s:9"] {
        let found = inspect(&dir.path().join("a_1_summary.json"), query, Path::new("results")).unwrap();
        let text = found.text(100, false);
        assert!(
            text.contains("No timeline") && text.contains("1.700000") && text.contains("a:kill"),
            "{text}"
        );
    }
}

#[test]
fn what_cannot_be_found_is_named_with_the_next_step() {
    let dir = run(&[broken()]);
    for (query, why) in [
        ("slowest", "no query of the run is complete"),
        ("4:10", "has no query `4:10`"),
        ("none", "has no query `none`"),
    ] {
        let error = inspect(&dir.path().join("a_1"), query, Path::new("results")).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("SESSION:NUMBER"), "{error}");
    }
    let found = inspect(Path::new("a_1"), "broken", dir.path());
    assert!(found.is_ok(), "an id is looked up in the directory of results");
    let error = inspect(Path::new("b_2"), "broken", dir.path()).unwrap_err().to_string();
    assert!(error.contains("b_2 is not a run"), "{error}");
}

#[test]
fn the_page_links_to_timelines() {
    let dir = run(&[broken()]);
    let page = fs::read_to_string(crate::html::write(&dir.path().join("a_1.csv")).unwrap()).unwrap();
    assert!(page.contains("href=\"#query-broken-1\"") && page.contains("id=\"query-broken-1\""), "{page}");
    assert!(page.contains("closed with 1011") && !page.contains('\u{1b}'), "{page}");
    assert_eq!(
        page.matches("<line class=\"token\"").count() + page.matches("<line class=\"replay\"").count(),
        6
    );
}

#[test]
fn a_line_that_was_cut_off_is_ignored() {
    let dir = run(&[broken()]);
    let path = dir.path().join("a_1_queries.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{whole}{}", &whole[..whole.len() / 2])).unwrap();
    assert_eq!(stored::read(&path).unwrap().len(), 1);
    fs::write(&path, format!("[1]\n{whole}")).unwrap();
    assert!(stored::read(&path).unwrap_err().to_string().contains("invalid line 1"));
}
