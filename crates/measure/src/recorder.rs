//! The ruler in a worker's hand: takes samples and records as they come, hands them on once a second, and says when it did.
//! It keeps no sample but those of a running query, which the query brings to its end; where the receiver is behind, the worker waits, and its loop lag says so.

use super::{Interval, Metric, Objective, QuerySamples, bounds::BoundedSample};
use crate::record::{LagKind, Moment, QueryRecord, QueryStatus, Reconnect, SessionRecord, Uncertainty};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

/// Cleared intervals that wait to be filled again.
const SPARES: usize = 2;

/// Queries of one session, and of all of a worker's, whose rows wait for their session's end; then they go out before it.
const MAX_OF_A_SESSION: usize = 100;
const MAX_WAITING: usize = 50_000;

/// What a recorder hands on.
#[derive(Debug)]
pub enum RecorderMessage {
    /// What was measured in one second of the run.
    Interval {
        /// Which second, from 0.
        second: u64,
        /// What was measured.
        interval: Interval,
        /// Takes the interval back, cleared: its megabytes are allocated once, not every second.
        back: SyncSender<Interval>,
    },
    /// A query that ended.
    Query(Box<QueryRecord>),
    /// A socket that was lost and opened again: when, and of which session, from 0.
    Reconnect(Moment, u64, Reconnect),
    /// What is known of a session so far whose rows have waited long enough.
    PartialSession(Box<SessionRecord>),
    /// A session that ended, after all its queries.
    Session(Box<SessionRecord>),
    /// A recorder has handed on all that it measured before this second; a new one says so of second 0.
    Reached {
        /// Which recorder.
        recorder: u64,
        /// Which second, from 0.
        second: u64,
    },
    /// A recorder that is done: nothing more comes of it.
    Finished {
        /// Which recorder.
        recorder: u64,
    },
}

/// One a worker. Drop it when the worker is done: what it still holds goes out then.
#[derive(Debug)]
pub struct Recorder {
    number: u64,
    second: u64,
    interval: Interval,
    /// How many queries of each session were handed on whose rows wait for its end.
    waiting: HashMap<u64, usize>,
    /// All of them.
    waiting_count: usize,
    objectives: Arc<[Objective]>,
    out: SyncSender<RecorderMessage>,
    back: SyncSender<Interval>,
    spare: Receiver<Interval>,
}

impl Recorder {
    /// The recorder of that `number`, which is its alone. Hands on to `out`; a query that meets all of `objectives` is good.
    #[must_use]
    pub fn new(number: u64, out: SyncSender<RecorderMessage>, objectives: Arc<[Objective]>) -> Self {
        let (back, spare) = sync_channel(SPARES);
        let recorder = Self {
            number,
            second: 0,
            interval: Interval::default(),
            waiting: HashMap::new(),
            waiting_count: 0,
            objectives,
            out,
            back,
            spare,
        };
        recorder.has_reached();
        recorder
    }

    /// Takes one sample, in nanoseconds, read at `at`.
    pub fn sample(&mut self, sample: LagKind, ns: i64, at: Moment) {
        self.tick(at);
        self.interval.record(sample.into(), ns);
    }

    /// A token arrived at `at`, for the first time.
    pub fn token(&mut self, at: Moment) {
        self.tick(at);
        self.interval.token();
    }

    /// A socket is about to be opened again.
    pub fn reconnect_attempt(&mut self, at: Moment) {
        self.tick(at);
        self.interval.reconnect_attempt();
    }

    /// A socket of session `index` was opened again.
    pub fn reconnected(&mut self, at: Moment, index: u64, reconnect: Reconnect) {
        self.tick(at);
        self.interval.reconnected();
        self.send(RecorderMessage::Reconnect(at, index, reconnect));
    }

    /// A query ended. Tell it when it ends, so that its second is the right one: its `samples` belong to that second too, and
    /// count only if it is `ok`. Its row waits for what the session's end says; of a session that is too long to wait for it
    /// goes out with what the session is `so_far`.
    pub fn query_ended(
        &mut self,
        query: QueryRecord,
        samples: &QuerySamples,
        so_far: impl FnOnce() -> SessionRecord,
    ) {
        self.tick(query.ended);
        self.measure_query(&query);
        if query.status == QueryStatus::Ok {
            samples.record(&mut self.interval);
        }
        let index = query.session_index;
        self.send(RecorderMessage::Query(Box::new(query)));
        let waiting = self.waiting.entry(index).or_default();
        *waiting += 1;
        self.waiting_count += 1;
        if *waiting >= MAX_OF_A_SESSION || self.waiting_count > MAX_WAITING {
            self.no_longer_waiting(index);
            self.send(RecorderMessage::PartialSession(Box::new(so_far())));
        }
    }

    fn no_longer_waiting(&mut self, session: u64) {
        self.waiting_count -= self.waiting.remove(&session).unwrap_or_default();
    }

    /// A session ended. Call it exactly once a session, whatever became of it, with those of its queries
    /// that [`Recorder::query_ended`] was not told of (also those that could never be sent).
    pub fn session_ended(&mut self, session: SessionRecord, queries: Vec<QueryRecord>) {
        self.tick(session.ended);
        for query in queries {
            self.measure_query(&query);
            self.send(RecorderMessage::Query(Box::new(query)));
        }
        self.no_longer_waiting(session.index);
        self.measure_session(&session);
        self.send(RecorderMessage::Session(Box::new(session)));
    }

    /// Hands the interval on where its second is over. Call it soon after each second's end when nothing else happens:
    /// the second waits for it.
    pub fn tick(&mut self, now: Moment) {
        if now.as_secs() > self.second {
            self.send_interval();
            self.second = now.as_secs();
            self.has_reached();
        }
    }

    fn has_reached(&self) {
        self.send(RecorderMessage::Reached { recorder: self.number, second: self.second });
    }

    fn send_interval(&mut self) {
        if !self.interval.is_empty() {
            let fresh = self.spare.try_recv().unwrap_or_default();
            let interval = std::mem::replace(&mut self.interval, fresh);
            self.send(RecorderMessage::Interval { second: self.second, interval, back: self.back.clone() });
        }
    }

    /// A receiver that is gone has said why itself; there is nobody left to tell.
    fn send(&self, message: RecorderMessage) {
        let _ = self.out.send(message);
    }

    fn measure_query(&mut self, query: &QueryRecord) {
        let interval = &mut self.interval;
        interval.query_ended(query, &self.objectives);
        let mut record = |metric, to: Option<Moment>, from: Option<Moment>| {
            let ns = to.zip(from).map(|(to, from)| nanos(to) - nanos(from));
            if let Some(ns) = ns {
                interval.record(metric, ns);
            }
            ns
        };
        let scheduled = Some(query.scheduled);
        record(Metric::Queue, query.sent, scheduled);
        if let Some(lag) = query.schedule_lag() {
            interval.record(Metric::ScheduleLag, nanos(lag));
            interval.record(Metric::SocketWait, nanos(query.socket_wait));
        }
        // Only complete queries have a latency, and what the client held back itself says nothing of the system.
        if query.status != QueryStatus::Ok || !query.paused.is_zero() {
            return;
        }
        let own_lag = query.schedule_lag().unwrap_or_default();
        let mut record =
            |metric, to: Option<Moment>, from: Option<Moment>, uncertainty: &Uncertainty, lag: Duration| {
                let ns = to.zip(from).map(|(to, from)| nanos(to) - nanos(from))?;
                let unexcused = uncertainty.unexcused().map(|unexcused| nanos(unexcused + lag));
                interval.record_bounded(
                    metric,
                    BoundedSample::at_most(ns, nanos(uncertainty.most() + lag), unexcused),
                );
                Some(ns)
            };
        let (first, done) = (&query.first_uncertainty, &query.done_uncertainty);
        let ttft = record(Metric::Ttft, query.first_token, query.sent, first, Duration::ZERO);
        record(Metric::TtftSched, query.first_token, scheduled, first, own_lag);
        let e2el = record(Metric::E2el, query.done, query.sent, done, Duration::ZERO);
        record(Metric::E2elSched, query.done, scheduled, done, own_lag);
        if let Some(tpot) = tpot(query) {
            interval.record_bounded(Metric::Tpot, tpot);
        }
        let overheads =
            [(Metric::TtftOverhead, ttft, query.ideal_ttft), (Metric::E2elOverhead, e2el, query.ideal_e2el)];
        for (metric, observed, ideal) in overheads {
            if let Some((observed, ideal)) = observed.zip(ideal) {
                interval.record(metric, observed - nanos(ideal));
            }
        }
    }

    fn measure_session(&mut self, session: &SessionRecord) {
        self.interval.session_ended(&session.defects);
        let steps = [
            (Metric::Create, session.create, session.create_slack),
            (Metric::Connect, session.connect, session.connect_slack),
            (Metric::Close, session.close, Duration::ZERO),
        ];
        for (metric, step, slack) in steps {
            if let Some(step) = step {
                let slack = nanos(slack.min(step));
                self.interval.record_bounded(metric, BoundedSample::at_most(nanos(step), slack, None));
            }
        }
        for reconnect in &session.reconnects {
            self.interval.record(Metric::ReconnectGap, nanos(reconnect.gap));
        }
        self.interval.record(Metric::ScheduleLag, nanos(session.started) - nanos(session.scheduled));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.send_interval();
        self.send(RecorderMessage::Finished { recorder: self.number });
    }
}

/// (last token − first token) / (N − 1), in nanoseconds; none when N < 2.
pub fn tpot_ns(query: &QueryRecord) -> Option<i64> {
    let (first, last) = query.first_token.zip(query.last_token)?;
    let gaps = i64::try_from(query.tally.tokens_received).ok()?.checked_sub(1).filter(|&gaps| gaps > 0)?;
    Some((nanos(last) - nanos(first)) / gaps)
}

/// The same with its bounds: both ends may have come earlier.
fn tpot(query: &QueryRecord) -> Option<BoundedSample> {
    let gaps = i64::try_from(query.tally.tokens_received).ok()?.checked_sub(1).filter(|&gaps| gaps > 0)?;
    let (value, first, last) = (tpot_ns(query)?, &query.first_uncertainty, &query.last_uncertainty);
    Some(BoundedSample {
        value,
        low: value - nanos(last.most()) / gaps,
        high: value + nanos(first.most()) / gaps,
        unexcused: last.unexcused().map(|unexcused| value - nanos(unexcused) / gaps),
    })
}

/// Whole nanoseconds; three centuries fit.
pub fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::query;

    /// The intervals of a recorder that is told of a query, by second.
    fn told(status: QueryStatus) -> Vec<(u64, Interval)> {
        let (out, messages_in) = sync_channel(100);
        let mut recorder = Recorder::new(0, out, Arc::default());
        let mut samples = QuerySamples::default();
        for ms in [300, 400, 500] {
            recorder.token(Duration::from_millis(ms));
            samples.itl(BoundedSample::exact(100_000_000), true);
            samples.delivery(500_000, false);
        }
        let ended = QueryRecord { stall_count: 3, ..query(status) };
        recorder.query_ended(ended, &samples, || unreachable!("the session is short"));
        drop(recorder);
        let interval = |message| match message {
            RecorderMessage::Interval { second, interval, .. } => Some((second, interval)),
            _ => None,
        };
        messages_in.iter().filter_map(interval).collect()
    }

    #[test]
    fn samples_wait_for_the_end_of_their_query_and_belong_to_its_second() {
        const METRICS: [(Metric, u64); 3] = [(Metric::Itl, 3), (Metric::FrameGap, 3), (Metric::Delivery, 3)];
        for status in [QueryStatus::Ok, QueryStatus::Incomplete, QueryStatus::Error, QueryStatus::Abandoned] {
            let intervals = told(status);
            assert_eq!(intervals.iter().map(|(second, _)| *second).collect::<Vec<_>>(), [0, 1], "{status:?}");
            let (came, ended) = (&intervals[0].1, &intervals[1].1);
            assert_eq!((came.tokens(), ended.tokens()), (3, 0), "tokens count as they come");
            for (metric, count) in METRICS {
                let expected = if status == QueryStatus::Ok { count } else { 0 };
                assert_eq!(
                    (came.get(metric).count(), ended.get(metric).count()),
                    (0, expected),
                    "{status:?}"
                );
            }
        }
    }
}
