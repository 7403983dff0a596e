//! Tests of the worker in virtual time, with a bus that fails on demand.

use super::*;
use crate::{
    plan::{Plan, tests::timing},
    recording::{Failure, RecordingBroker, shape},
    text::ResponseText,
};
use protocol::{Event, Frame, Kind, Position, SessionId};
use tokio::{sync::Semaphore, task::JoinHandle, time::sleep};
use uuid::Uuid;

const START_US: u64 = 1_000_000_000;

struct Bench {
    bus: Arc<RecordingBroker>,
    metrics: Metrics,
    permits: Arc<Semaphore>,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn session(n: u128) -> SessionId {
    SessionId::new(Uuid::from_u128(n))
}

impl Bench {
    fn new(outbox_cap: usize) -> Self {
        let bus = Arc::new(RecordingBroker::default());
        let (metrics, stop) = (Metrics::default(), CancellationToken::new());
        let anchor = ClockAnchor::new(Instant::now().into_std(), START_US);
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let worker = Worker::new(bus.clone(), metrics.clone(), anchor, outbox_cap);
        let task = tokio::spawn(worker.run(receiver, stop.clone()));
        Self { bus, metrics, permits: Arc::new(Semaphore::new(100)), commands, stop, task }
    }

    /// Starts a stream of generation 1 at `after` from the start of the bench.
    async fn start(&self, n: u128, after: Duration, itl_ms: &str, tokens: u64) {
        let timing = timing("0", itl_ms, &tokens.to_string());
        let plan = Plan::draw(&timing, 1, &n.to_string());
        let text = Arc::new(ResponseText::new("one two three").unwrap());
        let permit = self.permits.clone().try_acquire_owned().unwrap();
        let start_us = START_US + after.as_micros() as u64;
        let stream = Stream::new((session(n), 1), n.to_string(), text, &plan, start_us, permit.into());
        self.commands.send(Command::Start(Box::new(stream))).await.unwrap();
    }

    async fn cancel(&self, n: u128) {
        self.commands.send(Command::Cancel((session(n), 1))).await.unwrap();
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(200);
        while !wanted(self) {
            assert!(Instant::now() < deadline, "waited in vain for: {what}");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Runs virtual time until the worker is idle.
    async fn finish(self) -> (Arc<RecordingBroker>, Metrics) {
        drop(self.commands);
        self.task.await.unwrap();
        assert_eq!(self.permits.available_permits(), 100, "every permit is given back");
        assert_eq!(self.metrics.unacknowledged.get(), 0);
        (self.bus, self.metrics)
    }
}

fn event(frame: &str) -> Event<'_> {
    match Frame::parse(frame) {
        Ok(Frame::Event(event)) => event,
        other => panic!("{frame} is {other:?}"),
    }
}

/// In virtual time no event is later than the timer's resolution of 1 ms.
#[tokio::test(start_paused = true)]
async fn events_follow_the_schedule() {
    let bench = Bench::new(1 << 20);
    for n in 0..20 {
        bench.start(n, Duration::ZERO, "50", 18).await;
    }
    let (bus, metrics) = bench.finish().await;
    for n in 0..20 {
        let events = bus.events_of(session(n));
        assert_eq!(shape(&events), (18, Some(Kind::Done)));
        for (k, (_, frame)) in events.iter().enumerate() {
            let event = event(frame);
            let due_us = START_US + k as u64 * 50_000;
            assert_eq!(event.due_us, Some(due_us));
            assert!((due_us..due_us + 2_000).contains(&event.sent_us.unwrap()), "{frame}");
        }
    }
    assert!(bus.appends() <= 2 * 19 + 20, "{} appends for 380 events in 19 ticks", bus.appends());
    assert_eq!((metrics.pace_lag.count(), metrics.bus_lag.count()), (380, 380));
    assert_eq!((metrics.tokens.get(), metrics.unheard.get()), (360, 380));
}

/// With any failure of an append, the bus gets every event once and in order. Later events wait behind the failed batch.
#[tokio::test(start_paused = true)]
async fn a_failed_batch_is_sent_again_first() {
    for failure in [Failure::Lost, Failure::AnswerLost] {
        let bench = Bench::new(1 << 20);
        bench.bus.fail_appends(&[failure; 12]);
        for n in 0..5 {
            bench.start(n, Duration::ZERO, "uniform:0,20", 100).await;
        }
        let (bus, metrics) = bench.finish().await;
        for n in 0..5 {
            assert_eq!(bus.shape_of(session(n)), (100, Some(Kind::Done)), "{failure:?}");
        }
        assert_eq!(metrics.append_retries.get(), 12);
    }
}

/// A stream that a full outbox holds back for too long ends with an error, behind the events enqueued before.
#[tokio::test(start_paused = true)]
async fn streams_that_are_held_back_too_long_end_with_an_error() {
    let bench = Bench::new(500);
    bench.bus.open_gate(false);
    for n in 0..3 {
        bench.start(n, Duration::ZERO, "10", 100).await;
    }
    tokio::time::sleep(LONGEST_HOLD + Duration::from_secs(5)).await;
    assert_eq!(bench.bus.events().len(), 0);
    bench.bus.open_gate(true);
    let (bus, _) = bench.finish().await;
    for n in 0..3 {
        let events = bus.until_terminated(session(n)).await;
        assert!(shape(&events).0 < 99, "{events:?}");
        let (prefix, frame) = events.last().unwrap();
        assert_eq!((prefix.kind, event(frame).code.as_deref()), (Kind::Error, Some("overload")));
    }
}

/// A full outbox holds the streams back. Nothing is dropped, and their delay counts for the bus and not for the simulator.
#[tokio::test(start_paused = true)]
async fn a_full_outbox_holds_the_streams_back() {
    let bench = Bench::new(4_000);
    bench.bus.open_gate(false);
    for n in 0..3 {
        bench.start(n, Duration::ZERO, "1", 2_000).await;
    }
    sleep(Duration::from_secs(25)).await;
    let held = bench.metrics.tokens.get();
    assert!(held < 100, "{held} tokens were enqueued into 4,000 bytes");
    assert!(bench.metrics.outbox_full.get() > 0);
    bench.bus.open_gate(true);
    let (bus, metrics) = bench.finish().await;
    for n in 0..3 {
        let events = bus.events_of(session(n));
        assert_eq!(shape(&events), (2_000, Some(Kind::Done)));
        for (_, frame) in &events {
            let held = event(frame);
            let paced = held.sent_us.unwrap() - held.due_us.unwrap();
            assert!(paced < 3_000, "what fell due while the outbox was full was handed over then: {frame}");
        }
    }
    assert_eq!(metrics.pace_lag.count(), 3 * 2_001);
    assert!(metrics.bus_lag.above(5_000_000) > 5_000, "the bus's lateness shows");
}

/// Only the delay of events that became due while the outbox was full counts for the bus.
#[test]
fn a_backlog_covers_only_events_that_became_due_in_it() {
    let backlog = Backlog::held(Some(Backlog::held(None, 1_000)), 4_000).looked_at(5_000).looked_at(9_000);
    for (due_us, handed_us) in [(500, 1_000), (1_000, 1_000), (3_000, 3_000), (5_000, 5_000), (5_001, 9_500)]
    {
        assert_eq!(backlog.handed_over(due_us, 9_500), handed_us, "{due_us}");
    }
}

/// Events that gathered during an outage are sent in batches of bounded size.
#[tokio::test(start_paused = true)]
async fn batches_are_sealed() {
    let bench = Bench::new(64 << 20);
    bench.bus.open_gate(false);
    bench.start(1, Duration::ZERO, "0", 40_000).await;
    bench.until("all tokens", |bench| bench.metrics.tokens.get() == 40_000).await;
    bench.bus.open_gate(true);
    let (bus, _) = bench.finish().await;
    assert!(bus.largest_append() < (1 << 20) + 1_000, "{} bytes in one append", bus.largest_append());
    assert_eq!(bus.shape_of(session(1)), (40_000, Some(Kind::Done)));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_stream_ends_with_an_error() {
    let bench = Bench::new(1 << 20);
    bench.start(1, Duration::ZERO, "50", 100).await;
    sleep(Duration::from_millis(220)).await;
    bench.cancel(1).await;
    bench.cancel(1).await;
    // This close overtakes its start.
    bench.cancel(2).await;
    bench.start(2, Duration::from_millis(220), "50", 100).await;
    let (bus, _) = bench.finish().await;
    for (n, tokens) in [(1, 5), (2, 0)] {
        let events = bus.events_of(session(n));
        assert_eq!(shape(&events), (tokens, Some(Kind::Error)));
        let last = event(&events[tokens].1);
        assert_eq!((last.code.as_deref(), last.query_id), (Some("closed"), Some(n.to_string().into())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_running_and_queued_streams() {
    let bench = Bench::new(1 << 20);
    bench.bus.open_gate(false);
    bench.start(1, Duration::ZERO, "50", 100).await;
    sleep(Duration::from_millis(120)).await;
    bench.stop.cancel();
    bench.start(2, Duration::from_millis(120), "50", 100).await;
    bench.bus.open_gate(true);
    let (bus, _) = bench.finish().await;
    for n in [1, 2] {
        let events = bus.events_of(session(n));
        let (tokens, last) = shape(&events);
        assert_eq!(last, Some(Kind::Error));
        assert!(tokens <= 3);
        assert_eq!(event(&events[tokens].1).code.as_deref(), Some("shutdown"));
    }
}

/// After a refusal, the append is retried from the first event that was not accepted.
#[tokio::test(start_paused = true)]
async fn every_kth_entry_is_refused_and_nothing_is_lost() {
    for nth in 2..7 {
        let bench = Bench::new(1 << 20);
        bench.bus.refuse_every(nth, "OOM command not allowed when used memory > 'maxmemory'.");
        for n in 0..5 {
            bench.start(n, Duration::ZERO, "uniform:0,20", 60).await;
        }
        let (bus, metrics) = bench.finish().await;
        for n in 0..5 {
            assert_eq!(bus.shape_of(session(n)), (60, Some(Kind::Done)), "every {nth}th");
        }
        assert!(metrics.append_retries.get() > 10);
    }
}

/// Streams survive refusals of a fraction of a second and of 29 s.
#[tokio::test(start_paused = true)]
async fn streams_survive_a_bus_that_refuses_for_a_while() {
    for time in [Duration::from_millis(300), Duration::from_secs(29)] {
        let bench = Bench::new(1 << 20);
        for n in 0..3 {
            bench.start(n, Duration::ZERO, "50", 20).await;
        }
        sleep(Duration::from_millis(220)).await;
        bench.bus.refuse_every(1, "READONLY You can't write against a read only replica.");
        sleep(time).await;
        bench.bus.accept();
        let (bus, metrics) = bench.finish().await;
        for n in 0..3 {
            assert_eq!(bus.shape_of(session(n)), (20, Some(Kind::Done)), "{time:?}");
        }
        assert_eq!(metrics.refused.get(), 0);
    }
}

/// After 30 s the streams end. Their terminators follow the accepted events when the bus accepts events again.
#[tokio::test(start_paused = true)]
async fn a_bus_that_refuses_for_too_long_gets_terminators_alone() {
    let bench = Bench::new(1 << 20);
    bench.start(1, Duration::ZERO, "50", 10_000).await;
    bench.start(2, Duration::ZERO, "50", 5).await;
    sleep(Duration::from_millis(130)).await;
    bench.bus.refuse_every(1, "NOREPLICAS Not enough good replicas to write.");
    sleep(LONGEST_HOLD + Duration::from_secs(90)).await;
    assert_eq!(bench.metrics.unacknowledged.get(), 2, "a terminator each");
    bench.bus.accept();
    let (bus, _) = bench.finish().await;
    for n in [1, 2] {
        let events = bus.events_of(session(n));
        assert_eq!(shape(&events), (3, Some(Kind::Error)), "{events:?}");
        assert_eq!(event(&events[3].1).code.as_deref(), Some("overload"));
        assert_eq!(event(&events[3].1).query_id, Some(n.to_string().into()));
    }
}

/// A refusal of an unknown kind delays its session alone, and ends the stream if it lasts.
#[tokio::test(start_paused = true)]
async fn a_session_that_is_refused_waits_aside() {
    for ended in [false, true] {
        let bench = Bench::new(1 << 20);
        bench.start(1, Duration::ZERO, "50", 40).await;
        bench.start(2, Duration::ZERO, "50", 40).await;
        sleep(Duration::from_millis(120)).await;
        bench.bus.refuse(session(1), 1, "ERR something new");
        sleep(Duration::from_secs(3)).await;
        assert_eq!(bench.bus.shape_of(session(2)), (40, Some(Kind::Done)));
        assert_eq!(bench.bus.shape_of(session(1)), (3, None));
        if ended {
            bench.until("its end", |bench| bench.metrics.refused.get() == 1).await;
        } else {
            sleep(Duration::from_secs(10)).await;
        }
        bench.bus.accept();
        let (bus, _) = bench.finish().await;
        let events = bus.events_of(session(1));
        if ended {
            assert_eq!(shape(&events), (3, Some(Kind::Error)));
            assert_eq!(event(&events[3].1).code.as_deref(), Some("refused"));
        } else {
            assert_eq!(shape(&events), (40, Some(Kind::Done)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_stream_ends_silently_and_a_refused_one_with_an_error() {
    let bench = Bench::new(1 << 20);
    for n in 1..=3 {
        bench.start(n, Duration::ZERO, "50", 10).await;
    }
    sleep(Duration::from_millis(120)).await;
    bench.bus.fence_off(session(1), 1);
    bench.bus.refuse(session(2), 1, WRONGTYPE);
    // The first event that is refused ends the stream; its terminator is taken.
    bench.until("the refusal", |bench| bench.metrics.refused.get() == 1).await;
    bench.bus.accept();
    let (bus, metrics) = bench.finish().await;
    assert_eq!(bus.shape_of(session(1)), (3, None));
    assert_eq!(bus.shape_of(session(3)), (10, Some(Kind::Done)));
    let refused = bus.events_of(session(2));
    assert_eq!(shape(&refused), (3, Some(Kind::Error)));
    assert_eq!(event(&refused[3].1).code.as_deref(), Some("refused"));
    assert!(bus.released(session(2)).is_empty());
    assert_eq!(metrics.refused.get(), 1);
}

/// Waiting events of a fenced-off stream are dropped, because a Redis that lost its data meanwhile would accept them.
#[tokio::test(start_paused = true)]
async fn waiting_events_of_a_stale_stream_are_not_sent() {
    let bench = Bench::new(1 << 20);
    bench.start(1, Duration::ZERO, "50", 10).await;
    sleep(Duration::from_millis(120)).await;
    bench.bus.open_gate(false);
    bench.bus.fence_off(session(1), 1);
    sleep(Duration::from_secs(1)).await;
    bench.bus.open_gate(true);
    let (bus, _) = bench.finish().await;
    assert_eq!(bus.shape_of(session(1)), (3, None));
    assert_eq!(bus.calls(), [1; 4], "the last one was stale");
}

const WRONGTYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

/// The session must not stay busy, and its permit must be returned.
#[tokio::test(start_paused = true)]
async fn a_terminator_that_is_refused_for_good_releases_its_claim() {
    let soon = Duration::from_secs(2);
    for (words, after) in [
        (WRONGTYPE, soon),
        ("NOPERM this user has no permissions to run the 'xadd' command", soon),
        ("NOAUTH Authentication required.", soon),
        ("ERR syntax error", soon),
        ("ERR something new", Duration::from_secs(70)),
    ] {
        let bench = Bench::new(1 << 20);
        bench.start(1, Duration::ZERO, "50", 10).await;
        bench.start(2, Duration::ZERO, "50", 3).await;
        sleep(Duration::from_millis(120)).await;
        let from = Instant::now();
        bench.bus.refuse(session(1), 1, words);
        bench.bus.refuse(session(2), 1, words);
        bench.until(words, |bench| bench.permits.available_permits() == 100).await;
        assert!(from.elapsed() < after, "{words}: it took {:?}", from.elapsed());
        assert!(after == soon || from.elapsed() > Duration::from_secs(60), "{words} may still pass");
        let (bus, metrics) = bench.finish().await;
        let [(prefix, frame)] = &bus.released(session(1))[..] else { panic!("{words}: no terminator") };
        assert_eq!(
            (prefix.position, prefix.kind),
            (Position::new(1, 4), Kind::Error),
            "behind what was taken"
        );
        assert_eq!(event(frame).code.as_deref(), Some("refused"));
        let [(prefix, _)] = &bus.released(session(2))[..] else { panic!("{words}: no terminator") };
        assert_eq!(
            (prefix.position, prefix.kind),
            (Position::new(1, 4), Kind::Done),
            "all tokens were taken"
        );
        assert_eq!((metrics.refused.get(), metrics.claims_stuck.get()), (1, 0));
    }
}

/// If the bus refuses the release too, the permit is returned and the worker can end.
#[tokio::test(start_paused = true)]
async fn a_release_that_is_refused_is_given_up_after_a_minute() {
    let bench = Bench::new(1 << 20);
    bench.start(1, Duration::ZERO, "50", 10).await;
    bench.bus.refuse(session(1), 1, "NOAUTH Authentication required.");
    bench.bus.refuse_releases("NOAUTH Authentication required.");
    let from = Instant::now();
    bench.until("the end of patience", |bench| bench.permits.available_permits() == 100).await;
    let took = from.elapsed();
    assert!(took > Duration::from_secs(59) && took < Duration::from_secs(70), "{took:?}");
    let (bus, metrics) = bench.finish().await;
    assert!(bus.released(session(1)).is_empty());
    assert_eq!(metrics.claims_stuck.get(), 1);
    assert!(bus.appends() < 40, "{} appends", bus.appends());
}

/// Many streams that wait aside share appends, and each gets all its events in the end.
#[tokio::test(start_paused = true)]
async fn streams_that_wait_aside_share_appends() {
    const STREAMS: u128 = 90;
    let bench = Bench::new(1 << 20);
    for n in 0..STREAMS {
        bench.start(n, Duration::ZERO, "50", 20).await;
    }
    sleep(Duration::from_millis(120)).await;
    for n in 0..STREAMS {
        bench.bus.refuse(session(n), 1, "ERR something new");
    }
    sleep(Duration::from_secs(2)).await;
    let before = bench.bus.appends();
    sleep(Duration::from_secs(20)).await;
    let appends = bench.bus.appends() - before;
    assert!((2..30).contains(&appends), "{appends} appends in 20 s of {STREAMS} streams that wait aside");
    bench.bus.accept();
    let (bus, _) = bench.finish().await;
    for n in 0..STREAMS {
        assert_eq!(bus.shape_of(session(n)), (20, Some(Kind::Done)));
    }
}
