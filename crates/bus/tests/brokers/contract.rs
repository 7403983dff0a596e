//! The contract of a broker. Every test runs on the memory bus and on a private Redis.

use crate::support::{
    Fixture, PATIENCE, Reader, Recorder, ask, expected, query_batch, request, terminator_batch, unchanged,
    with_pubsub, with_short_log,
};
use bus::{AttachError, ClaimError, Control, LaneEnd, Start};
use futures_util::future::join_all;
use protocol::{Position, SessionId};
use std::sync::Arc;
use tokio::time::timeout;
use uuid::Uuid;

macro_rules! contract {
    ($($name:ident($adjust:ident)),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Fixture::memory(super::$adjust).await).await;
            })*
        }
        mod over_redis {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Fixture::redis(super::$adjust).await).await;
            })*
        }
    };
}

contract! {
    a_live_stream_arrives_once_and_in_order(unchanged),
    who_may_claim(unchanged),
    events_appended_before_the_attachment_are_delivered(unchanged),
    a_position_resumes_after_it(unchanged),
    a_position_that_does_not_exist_is_refused(unchanged),
    without_a_log_unknown_generations_are_refused(with_pubsub),
    a_cursor_continues_where_the_last_socket_ended(unchanged),
    without_a_clean_end_the_cursor_stays(unchanged),
    a_takeover_ends_the_first_and_hands_over_its_cursor(unchanged),
    a_takeover_with_a_position_does_not_wait_for_the_cursor(unchanged),
    a_takeover_on_one_gateway(unchanged),
    closing_an_idle_session_ends_its_lane(unchanged),
    closing_a_running_session_cancels_its_query(unchanged),
    a_closed_session_is_replayed_and_then_ends(unchanged),
    a_repeated_append_changes_nothing(unchanged),
    a_fenced_writer_is_stale_and_its_events_are_not_delivered(unchanged),
    a_trimmed_log_is_announced(with_short_log),
    events_without_a_subscriber_are_counted(unchanged),
    attaching_in_the_middle_of_a_stream(unchanged),
    a_thousand_sessions(unchanged),
    without_a_log_nothing_is_replayed(with_pubsub),
    without_a_log_a_closed_session_ends(with_pubsub),
}

async fn a_live_stream_arrives_once_and_in_order(bus: Fixture) {
    let session = bus.session().await;
    let reader = Reader::live(&bus.gateway, session, Start::After(Position::ZERO)).await;
    let first = bus.play(session, "q1", 18).await;
    let second = bus.play(session, "q2", 3).await;
    assert!(second > first);
    reader.until_events(&[expected(first, 18), expected(second, 3)].concat()).await;
    assert!(reader.recorder.read(|recorded| recorded.gaps.is_empty()));
}

async fn who_may_claim(bus: Fixture) {
    let unknown = SessionId::new(Uuid::new_v4());
    assert!(matches!(bus.server.claim(unknown, request("q", "")).await, Err(ClaimError::Unknown)));
    let session = bus.session().await;
    let claim = bus.server.claim(session, request("q1", "{\"tokens\":2}")).await.unwrap();
    assert_eq!(claim.repeat_of, None);
    assert!(matches!(bus.server.claim(session, request("q2", "")).await, Err(ClaimError::Busy)));
    let again = bus.server.claim(session, request("q1", "other")).await.unwrap();
    assert_eq!((again.generation, again.repeat_of.as_deref()), (claim.generation, Some("{\"tokens\":2}")));
    bus.server.append(&query_batch(session, claim.generation, 1..=2, true)).await.unwrap();
    let again = bus.server.claim(session, request("q1", "other")).await.unwrap();
    assert!(again.repeat_of.is_some());
    let next = bus.claim(session, "q2").await;
    assert!(next > claim.generation);
    bus.server.append(&query_batch(session, next, 1..=1, true)).await.unwrap();
    let late = bus.server.claim(session, request("q1", "")).await;
    assert!(matches!(late, Err(ClaimError::Past)), "a call that came late ran its query again: {late:?}");
    assert!(bus.server.close(session).await.unwrap());
    assert!(bus.server.close(session).await.unwrap(), "closing twice is fine");
    assert!(matches!(bus.server.claim(session, request("q3", "")).await, Err(ClaimError::Closed)));
    assert!(!bus.server.close(unknown).await.unwrap());
}

async fn events_appended_before_the_attachment_are_delivered(bus: Fixture) {
    let session = bus.session().await;
    let generation = bus.play(session, "q", 40).await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    assert_eq!(reader.attachment.start(), Position::ZERO);
    reader.until_events(&expected(generation, 40)).await;
}

async fn a_position_resumes_after_it(bus: Fixture) {
    let session = bus.session().await;
    let generation = bus.play(session, "q", 10).await;
    let from = Position::new(generation, 4);
    let reader = Reader::live(&bus.gateway, session, Start::After(from)).await;
    reader.until_events(&expected(generation, 10)[4..]).await;
    let next = bus.play(session, "q2", 1).await;
    reader.until_events(&[&expected(generation, 10)[4..], &expected(next, 1)[..]].concat()).await;
}

/// The refusal names the session's last position, and the session keeps its holder.
async fn a_position_that_does_not_exist_is_refused(bus: Fixture) {
    let (session, holder) = bus.live().await;
    refused(&bus, session, Position::new(1, 1), Position::ZERO).await;
    let generation = bus.play(session, "q", 3).await;
    let top = Position::new(generation, 4);
    for position in [top.next(), Position::new(generation + 1, 0), Position::new(u64::MAX, u64::MAX)] {
        refused(&bus, session, position, top).await;
    }
    refused(&bus, SessionId::new(Uuid::new_v4()), Position::new(99_999_999_999_999, 1), Position::ZERO).await;
    let next = bus.play(session, "q2", 2).await;
    holder.until_events(&[expected(generation, 3), expected(next, 2)].concat()).await;
    assert_eq!(holder.recorder.read(|recorded| recorded.end), None, "a healthy socket was closed");
    let complete = Reader::live(&bus.other_gateway, session, Start::After(Position::new(next, 3))).await;
    assert!(complete.recorder.events().is_empty());
}

async fn refused(bus: &Fixture, session: SessionId, position: Position, last: Position) {
    let attached =
        bus.other_gateway.attach(session, Start::After(position), Arc::new(Recorder::default())).await;
    let Err(AttachError::Beyond { position: named, top }) = attached else { panic!("{attached:?}") };
    assert_eq!((named, top), (position, last));
}

async fn without_a_log_unknown_generations_are_refused(bus: Fixture) {
    let session = bus.session().await;
    let generation = bus.play(session, "q", 3).await;
    refused(&bus, session, Position::new(generation + 1, 1), Position::ZERO).await;
    Reader::live(&bus.gateway, session, Start::After(Position::new(generation, 2))).await;
}

async fn a_cursor_continues_where_the_last_socket_ended(bus: Fixture) {
    let session = bus.session().await;
    let first = bus.play(session, "q1", 5).await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    reader.until_events(&expected(first, 5)).await;
    reader.attachment.release(Some(Position::new(first, 6))).await.unwrap();
    let second = bus.play(session, "q2", 3).await;
    let reader = Reader::live(&bus.other_gateway, session, Start::Cursor).await;
    assert_eq!(reader.attachment.start(), Position::new(first, 6));
    reader.until_events(&expected(second, 3)).await;
}

async fn without_a_clean_end_the_cursor_stays(bus: Fixture) {
    let session = bus.session().await;
    let first = bus.play(session, "q1", 5).await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    reader.until_events(&expected(first, 5)).await;
    reader.attachment.release(None).await.unwrap();
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    reader.until_events(&expected(first, 5)).await;
    drop(reader);
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    reader.until_events(&expected(first, 5)).await;
}

async fn takeover(bus: &Fixture, other: &Arc<dyn bus::Broker>) {
    let (session, first) = bus.live().await;
    let generation = bus.play(session, "q1", 5).await;
    first.until_events(&expected(generation, 5)).await;
    let attach = Reader::attach(other, session, Start::Cursor);
    let hand_over = async {
        first.until_end(LaneEnd::TakenOver).await;
        // The cursor is as if the last two events had not reached the first socket.
        first.attachment.release(Some(Position::new(generation, 4))).await.unwrap();
    };
    let (second, ()) = tokio::join!(attach, hand_over);
    assert_eq!(second.attachment.start(), Position::new(generation, 4));
    second.catch_up().await;
    second.until_events(&expected(generation, 5)[4..]).await;
    assert!(second.recorder.read(|recorded| recorded.end.is_none()));
}

async fn a_takeover_ends_the_first_and_hands_over_its_cursor(bus: Fixture) {
    takeover(&bus, &bus.other_gateway).await;
}

async fn a_takeover_on_one_gateway(bus: Fixture) {
    takeover(&bus, &bus.gateway).await;
}

async fn a_takeover_with_a_position_does_not_wait_for_the_cursor(bus: Fixture) {
    let (session, first) = bus.live().await;
    let generation = bus.play(session, "q1", 2).await;
    // The first attachment is never released: one that names a position does not need its cursor.
    let second = Reader::live(&bus.other_gateway, session, Start::After(Position::ZERO)).await;
    second.until_events(&expected(generation, 2)).await;
    first.until_end(LaneEnd::TakenOver).await;
    let next = bus.play(session, "q2", 2).await;
    second.until_events(&[expected(generation, 2), expected(next, 2)].concat()).await;
    assert!(first.recorder.events().len() <= 3, "nothing of the second query reaches the first socket");
}

async fn closing_an_idle_session_ends_its_lane(bus: Fixture) {
    for queries in 0..2 {
        let (session, reader) = bus.live().await;
        for query in 0..queries {
            bus.play(session, &format!("q{query}"), 2).await;
        }
        assert!(bus.server.close(session).await.unwrap());
        reader.until_end(LaneEnd::SessionClosed).await;
        assert_eq!(reader.recorder.events().len(), queries * 3);
    }
}

async fn closing_a_running_session_cancels_its_query(bus: Fixture) {
    let mut control = bus.server.control().expect("the first call returns the control queue");
    assert!(bus.server.control().is_none());
    let (session, reader) = bus.live().await;
    let generation = bus.claim(session, "q").await;
    bus.server.append(&query_batch(session, generation, 1..=2, false)).await.unwrap();
    assert!(bus.server.close(session).await.unwrap());
    let message = timeout(PATIENCE, control.recv()).await.expect("the server receives the message");
    assert_eq!(message, Some(Control::Cancel { session, generation }));
    assert!(reader.recorder.read(|recorded| recorded.end.is_none()), "the lane waits for the terminator");
    bus.server.append(&terminator_batch(session, generation, 3)).await.unwrap();
    reader.until_end(LaneEnd::SessionClosed).await;
    assert_eq!(reader.recorder.events(), expected(generation, 2));
}

async fn a_closed_session_is_replayed_and_then_ends(bus: Fixture) {
    let session = bus.session().await;
    let generation = bus.play(session, "q", 9).await;
    bus.server.close(session).await.unwrap();
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    reader.until_end(LaneEnd::SessionClosed).await;
    assert_eq!(reader.recorder.events(), expected(generation, 9));
}

async fn a_repeated_append_changes_nothing(bus: Fixture) {
    let (session, reader) = bus.live().await;
    let generation = bus.claim(session, "q").await;
    let (open, rest) =
        (query_batch(session, generation, 1..=3, false), query_batch(session, generation, 2..=6, true));
    for batch in [&open, &open, &rest, &rest] {
        let appended = bus.server.append(batch).await.unwrap();
        assert_eq!((appended.stale, appended.refused), (Vec::new(), Vec::new()));
    }
    let next = bus.play(session, "q2", 1).await;
    reader.until_events(&[expected(generation, 6), expected(next, 1)].concat()).await;
    let again = Reader::live(&bus.other_gateway, session, Start::After(Position::ZERO)).await;
    again.until_events(&[expected(generation, 6), expected(next, 1)].concat()).await;
}

async fn a_fenced_writer_is_stale_and_its_events_are_not_delivered(bus: Fixture) {
    let (session, reader) = bus.live().await;
    let old = bus.play(session, "q1", 2).await;
    let new = bus.claim(session, "q2").await;
    for late in [query_batch(session, old, 4..=6, false), query_batch(session, old, 8..=8, true)] {
        let appended = bus.server.append(&late).await.unwrap();
        assert_eq!(appended.stale, [(session, old)]);
    }
    bus.server.append(&query_batch(session, new, 1..=2, true)).await.unwrap();
    reader.until_events(&[expected(old, 2), expected(new, 2)].concat()).await;
}

async fn a_trimmed_log_is_announced(bus: Fixture) {
    let session = bus.session().await;
    let first = bus.play(session, "q1", 10).await;
    let second = bus.play(session, "q2", 2).await;
    let reader = Reader::live(&bus.gateway, session, Start::After(Position::new(first, 1))).await;
    // The second claim kept five of the first query's twelve entries: tokens 7 to 10 and the terminator.
    reader.until_events(&[&expected(first, 10)[6..], &expected(second, 2)[..]].concat()).await;
    let gap = (Position::new(first, 1), Position::new(first, 6));
    assert_eq!(reader.recorder.read(|recorded| recorded.gaps.clone()), [gap]);
}

async fn events_without_a_subscriber_are_counted(bus: Fixture) {
    let session = bus.session().await;
    let generation = bus.claim(session, "q").await;
    let appended = bus.server.append(&query_batch(session, generation, 1..=4, true)).await.unwrap();
    assert_eq!(appended.unheard, 5);
    assert_eq!(bus.server.counters().unheard, 5);
    assert_eq!(bus.server.counters().appended, 5);
}

async fn attaching_in_the_middle_of_a_stream(bus: Fixture) {
    let session = bus.session().await;
    let generation = bus.claim(session, "q").await;
    let write = async {
        for seq in 1..=200 {
            bus.server.append(&query_batch(session, generation, seq..=seq, seq == 200)).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let read = async {
        let mut seen = Vec::new();
        let mut cursor = Position::ZERO;
        while seen.len() < 201 {
            let reader = Reader::live(&bus.gateway, session, Start::After(cursor)).await;
            reader.until("some events", |recorded| !recorded.events.is_empty()).await;
            let events = reader.recorder.events();
            reader.attachment.release(None).await.unwrap();
            cursor = *events.last().unwrap();
            seen.extend(events);
        }
        seen
    };
    let ((), seen) = tokio::join!(write, read);
    assert_eq!(seen, expected(generation, 200));
}

async fn a_thousand_sessions(bus: Fixture) {
    let sessions = (0..1000).map(|_| async {
        let (session, reader) = bus.live().await;
        let generation = bus.play(session, "q", 5).await;
        reader.until_events(&expected(generation, 5)).await;
        reader.attachment.release(Some(Position::new(generation, 6))).await.unwrap();
    });
    join_all(sessions).await;
    if let Some(redis) = &bus.redis {
        let mut connection = redis.connection().await;
        let clients: String = ask(&mut connection, "CLIENT LIST").await;
        // Three brokers with five connections each, and this one.
        assert!(clients.lines().count() <= 16, "{clients}");
    }
}

async fn without_a_log_nothing_is_replayed(bus: Fixture) {
    let session = bus.session().await;
    bus.play(session, "q1", 3).await;
    let reader = Reader::live(&bus.gateway, session, Start::Cursor).await;
    let second = bus.play(session, "q2", 3).await;
    reader.until_events(&expected(second, 3)).await;
}

async fn without_a_log_a_closed_session_ends(bus: Fixture) {
    let (session, reader) = bus.live().await;
    let generation = bus.play(session, "q1", 3).await;
    bus.server.close(session).await.unwrap();
    reader.until_end(LaneEnd::SessionClosed).await;
    assert_eq!(reader.recorder.events(), expected(generation, 3));
}
