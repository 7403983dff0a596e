//! The recorder of a worker: collects samples and records, and sends them to the collector once per second.
//! If the collector falls behind, the bounded channel blocks the worker, and the loop lag shows it.

use super::{
    Interval, Metric, Objective, QuerySamples,
    bounds::BoundedSample,
    nanos,
    timeline::{Candidates, QueryTimeline},
    tpot_ns,
};
use crate::record::{LagKind, Moment, QueryRecord, QueryStatus, Reconnect, SessionRecord, Uncertainty};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

/// Number of cleared intervals kept for reuse.
const SPARES: usize = 2;

/// Largest number of queries of a session, and of all sessions of a worker, whose rows wait for the end of their session.
/// Beyond it the rows are written earlier, with what is known of the session so far.
const MAX_OF_A_SESSION: usize = 100;
const MAX_WAITING: usize = 50_000;

/// Message from a recorder to the collector.
#[derive(Debug)]
pub enum RecorderMessage {
    /// Measurements of one second of the run.
    Interval {
        /// Second of the run, from 0.
        second: u64,
        /// Measurements.
        interval: Box<Interval>,
        /// Channel that returns the cleared interval for reuse, so that its megabytes are allocated once and not every second.
        back: SyncSender<Box<Interval>>,
    },
    /// A query that ended.
    Query(Box<QueryRecord>),
    /// The timeline of a query that ended.
    Timeline(Box<QueryTimeline>),
    /// A reconnect, with its time and the index of its session, from 0.
    Reconnect(Moment, u64, Reconnect),
    /// What is known so far of a session whose rows cannot wait any longer.
    PartialSession(Box<SessionRecord>),
    /// A session that ended, after all its queries.
    Session(Box<SessionRecord>),
    /// A recorder has sent everything before this second. A new recorder sends it for second 0.
    Reached {
        /// Number of the recorder.
        recorder: u64,
        /// Second of the run, from 0.
        second: u64,
    },
    /// A recorder has sent everything.
    Finished {
        /// Number of the recorder.
        recorder: u64,
    },
}

/// Recorder of one worker. Dropping it sends what it still holds.
#[derive(Debug)]
pub struct Recorder {
    number: u64,
    second: u64,
    interval: Box<Interval>,
    /// Number of queries per session whose rows wait for the end of the session.
    waiting: HashMap<u64, usize>,
    /// Sum of `waiting`.
    waiting_count: usize,
    objectives: Arc<[Objective]>,
    candidates: Candidates,
    out: SyncSender<RecorderMessage>,
    back: SyncSender<Box<Interval>>,
    spare: Receiver<Box<Interval>>,
}

impl Recorder {
    /// Creates the recorder with a unique `number`, which sends to `out`. `objectives` decide which queries are goodput.
    #[must_use]
    pub fn new(number: u64, out: SyncSender<RecorderMessage>, objectives: Arc<[Objective]>) -> Self {
        let (back, spare) = sync_channel(SPARES);
        let recorder = Self {
            number,
            second: 0,
            interval: Box::default(),
            waiting: HashMap::new(),
            waiting_count: 0,
            objectives,
            candidates: Candidates::default(),
            out,
            back,
            spare,
        };
        recorder.has_reached();
        recorder
    }

    /// Records a lag sample in nanoseconds, read at `at`.
    pub fn sample(&mut self, sample: LagKind, ns: i64, at: Moment) {
        self.tick(at);
        self.interval.record(sample.into(), ns);
    }

    /// Counts a token that arrived for the first time at `at`.
    pub fn token(&mut self, at: Moment) {
        self.tick(at);
        self.interval.token();
    }

    /// Counts an attempt to reconnect.
    pub fn reconnect_attempt(&mut self, at: Moment) {
        self.tick(at);
        self.interval.reconnect_attempt();
    }

    /// Records an arrival that was due at `at` and found every session busy.
    pub fn arrival_dropped(&mut self, at: Moment) {
        self.tick(at);
        self.interval.arrival_dropped();
    }

    /// Records a successful reconnect of session `index`.
    pub fn reconnected(&mut self, at: Moment, index: u64, reconnect: Reconnect) {
        self.tick(at);
        self.interval.reconnected();
        self.send(RecorderMessage::Reconnect(at, index, reconnect));
    }

    /// Returns whether the timeline of a query that ended may be one of those that are kept. If so, [`Recorder::timeline`] must be
    /// called.
    pub fn wants_timeline(&mut self, query: &QueryRecord) -> bool {
        self.candidates.admit(query)
    }

    /// Records the timeline of a query that ended.
    pub fn timeline(&self, timeline: QueryTimeline) {
        self.send(RecorderMessage::Timeline(Box::new(timeline)));
    }

    /// Records a query that ended. Must be called when it ends, because the query and its `samples` count in that second;
    /// samples count only if the query is `ok`. The row waits for the end of the session. If too many rows wait, they are
    /// sent with the record that `so_far` returns.
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

    /// Records a session that ended. Must be called exactly once per session, with the queries that were not passed to
    /// [`Recorder::query_ended`], including those that were never sent.
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

    /// Sends the interval if its second is over. Must be called soon after the end of each second even if nothing happens:
    /// outputs wait until every recorder has passed a second.
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

    /// Ignores a closed channel: the collector reports its failure itself.
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
        // Only complete queries have a latency. A pause of the client itself is not a latency of the system.
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
                    BoundedSample::at_most(ns, nanos(uncertainty.total() + lag), unexcused),
                );
                Some(ns)
            };
        let (first, done) = (&query.first_uncertainty, &query.done_uncertainty);
        let ttft = record(Metric::Ttft, query.first_token, query.sent, first, Duration::ZERO);
        record(Metric::TtftSched, query.first_token, scheduled, first, own_lag);
        record(
            Metric::TtftReasoning,
            query.first_reasoning,
            query.sent,
            &Uncertainty::default(),
            Duration::ZERO,
        );
        let e2el = record(Metric::E2el, query.done, query.sent, done, Duration::ZERO);
        record(Metric::E2elSched, query.done, scheduled, done, own_lag);
        if let Some(tpot) = tpot(query) {
            interval.record_bounded(Metric::Tpot, tpot);
        }
        interval.record_ideal(query.ideal_ttft.map(nanos), query.ideal_e2el.map(nanos));
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
        if let Some(waited) = session.first_socket {
            self.interval.record(Metric::FirstSocket, nanos(waited));
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

/// Returns `tpot` with its bounds: the first and the last token may both have arrived earlier.
fn tpot(query: &QueryRecord) -> Option<BoundedSample> {
    let gaps = i64::try_from(query.answer_tokens()).ok()?.checked_sub(1).filter(|&gaps| gaps > 0)?;
    let (value, first, last) = (tpot_ns(query)?, &query.first_uncertainty, &query.last_uncertainty);
    Some(BoundedSample {
        value,
        low: value - nanos(last.total()) / gaps,
        high: value + nanos(first.total()) / gaps,
        unexcused: last.unexcused().map(|unexcused| value - nanos(unexcused) / gaps),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::query;

    /// Returns the intervals of a recorder after one query with this status, by second.
    fn recorded(status: QueryStatus) -> Vec<(u64, Interval)> {
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
            RecorderMessage::Interval { second, interval, .. } => Some((second, *interval)),
            _ => None,
        };
        messages_in.iter().filter_map(interval).collect()
    }

    #[test]
    fn samples_wait_for_the_end_of_their_query_and_belong_to_its_second() {
        const METRICS: [(Metric, u64); 3] = [(Metric::Itl, 3), (Metric::FrameGap, 3), (Metric::Delivery, 3)];
        for status in [QueryStatus::Ok, QueryStatus::Incomplete, QueryStatus::Error, QueryStatus::Abandoned] {
            let intervals = recorded(status);
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
