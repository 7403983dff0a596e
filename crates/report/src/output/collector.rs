//! The thread that merges the parts of all generators, and writes the seconds of the run as they become complete.
//! Its memory does not grow with the length of the run: it keeps sums, and the histograms of a few seconds.

use super::{
    Criteria, EventSink, MeasuredSecond, OutputSettings, RunInfo,
    conclusion::Conclusion,
    criteria::Observer,
    events::{self, Standing},
    files::{Files, OpenError},
    history::{self, Second},
    hlog::Hlog,
    live_status::StatusPublisher,
    result_file::ResultFile,
    run_metrics::MetricsPublisher,
};
use measure::{
    Concurrency, FaultLog, FaultRecord, FaultStatus, HopTrend, Interval, Metric, Part, ReadingBuffer,
    ReconnectStorm, RunData, mean_in_second,
};
use plan::{LiveSchedule, schedule::Schedule};
use settings::cells::CellWriter;
use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// Time between two publications of the live status if no part arrives.
const IDLE: Duration = Duration::from_secs(1);
/// Time between two checks for the monitoring readings of a second. No message announces them.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Message to the collector.
#[derive(Debug)]
pub(super) enum CollectorMessage {
    /// A generator, by the index of its shard, sent a part.
    Part(u32, Box<Part>),
    /// A generator sends no more parts.
    Ended(u32),
}

#[derive(Debug)]
pub(super) struct Collector {
    run: RunData,
    files: Files,
    hlog: ResultFile,
    seconds: Seconds,
    metrics: Option<MetricsPublisher>,
}

/// The seconds of the run that are not written yet.
#[derive(Debug)]
struct Seconds {
    schedule: Option<LiveSchedule>,
    /// The schedule whose steady states the observer knows.
    planned: Option<Arc<Schedule>>,
    open: BTreeMap<u64, Interval>,
    /// The second that each running generator has reached.
    generators: BTreeMap<u32, u64>,
    /// A second is written as soon as it is complete. An incomplete one is written this long after measurements of a later second arrived.
    /// What is missing may be those of another generator or worker, or monitoring readings.
    patience: Option<Duration>,
    /// When the first measurements from a second arrived: the seconds before it have waited since then. Both increase.
    delivered: VecDeque<(Instant, u64)>,
    /// The last second in `delivered` so far.
    newest: u64,
    /// The first second that is not written.
    next: u64,
    history: CellWriter<ResultFile>,
    started_at: OffsetDateTime,
    readings: ReadingBuffer,
    storm: ReconnectStorm,
    hop_trend: HopTrend,
    concurrency: Concurrency,
    observer: Observer,
    faults: Arc<FaultLog>,
    /// Status of each fault in the last event about it.
    reported: Vec<FaultStatus>,
    events: Option<EventSink>,
    /// Receives the complete seconds.
    follower: Option<SyncSender<MeasuredSecond>>,
    publisher: Option<StatusPublisher>,
    /// What the verdict as it stands is judged by.
    criteria: Criteria,
}

impl Collector {
    /// Creates the collector of the parts of all generators.
    pub(super) fn new(
        files: &Files,
        readings: ReadingBuffer,
        settings: &OutputSettings,
        faults: Arc<FaultLog>,
        events: Option<EventSink>,
    ) -> Result<Self, OpenError> {
        let unwritable = |source: io::Error| OpenError::new(files.path(""), source);
        let mut history = CellWriter::new(files.open("_history.csv")?);
        history.write_record(history::columns()).map_err(|error| unwritable(error.into()))?;
        history.flush().map_err(unwritable)?;
        // Events tell the status as well.
        let publisher = settings.shared_status.clone().or_else(|| events.is_some().then(Default::default));
        let seconds = Seconds {
            schedule: settings.schedule.clone(),
            planned: None,
            open: BTreeMap::new(),
            generators: (0..settings.generators).map(|generator| (generator, 0)).collect(),
            patience: settings.patience,
            delivered: VecDeque::new(),
            newest: 0,
            next: 0,
            history,
            started_at: files.started_at,
            readings,
            storm: ReconnectStorm::default(),
            hop_trend: HopTrend::default(),
            concurrency: Concurrency::default(),
            observer: settings.criteria.observer(),
            faults,
            reported: Vec::new(),
            events,
            follower: settings.seconds.clone(),
            publisher: publisher.map(StatusPublisher::new),
            criteria: settings.criteria.clone(),
        };
        let hlog = files.open("_latency.hlog")?;
        let metrics = settings.metrics.clone().map(MetricsPublisher::new);
        Ok(Self { run: RunData::default(), files: files.clone(), hlog, seconds, metrics })
    }

    /// Merges parts until every sender is dropped.
    pub(super) fn run(mut self, incoming: &Receiver<CollectorMessage>) -> io::Result<RunData> {
        let mut hlog = Hlog::new(&mut self.hlog, self.files.started_at)?;
        loop {
            let is_waiting = self.seconds.waits_for_readings() || !self.seconds.delivered.is_empty();
            let timeout = if is_waiting { POLL_INTERVAL } else { IDLE };
            match incoming.recv_timeout(timeout) {
                Ok(CollectorMessage::Part(generator, part)) => {
                    self.run.merge(&part.sums);
                    let figures = self.run.generators.entry(generator).or_default();
                    figures.add_sums(&part.sums);
                    let newest = part.seconds.keys().next_back().copied().unwrap_or(0);
                    for (second, interval) in part.seconds {
                        figures.loop_lag.merge(interval.get(Metric::LoopLag));
                        figures.e2el.merge(interval.get(Metric::E2el));
                        self.run.metrics.merge(&interval);
                        self.seconds.add(second, interval);
                    }
                    self.seconds.has_reached(generator, part.reached);
                    self.seconds.delivered(part.reached.max(newest), Instant::now());
                }
                Ok(CollectorMessage::Ended(generator)) => {
                    self.seconds.generators.remove(&generator);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.seconds.write_complete(Instant::now(), &mut hlog)?;
            self.seconds.publish(&self.run);
            self.metrics.iter_mut().for_each(|metrics| metrics.publish(&self.run));
        }
        self.metrics.iter_mut().for_each(|metrics| metrics.publish_now(&self.run));
        self.seconds.observer.run_is_over();
        self.seconds.write_before(u64::MAX, &mut hlog)?;
        let mut run = self.run;
        run.reconnect_storm = self.seconds.storm;
        run.hop_trend = self.seconds.hop_trend;
        run.concurrency = self.seconds.concurrency;
        run.readings = self.seconds.readings.totals();
        run.readings_dropped = self.seconds.readings.dropped();
        self.seconds.observer.move_into(&mut run);
        Ok(run)
    }
}

impl Seconds {
    fn add(&mut self, second: u64, interval: Interval) {
        // Late measurements are added to the earliest second that is not written yet.
        let second = second.max(self.next);
        match self.open.entry(second) {
            Entry::Vacant(vacant) => drop(vacant.insert(interval)),
            Entry::Occupied(mut open) => open.get_mut().merge(&interval),
        }
    }

    /// Notes that a generator has sent everything before `second`.
    fn has_reached(&mut self, generator: u32, second: u64) {
        if let Some(reached) = self.generators.get_mut(&generator) {
            *reached = second.max(*reached);
        }
    }

    /// Notes that some generator has measured what came before `second`.
    fn delivered(&mut self, second: u64, now: Instant) {
        if second > self.newest {
            self.newest = second;
            self.delivered.push_back((now, second));
        }
    }

    /// Returns the first second that has not waited long enough for what is missing in it.
    fn waited_until(&self, now: Instant) -> u64 {
        let Some(patience) = self.patience else { return 0 };
        let waited = |(at, _): &&(Instant, u64)| now.saturating_duration_since(*at) >= patience;
        self.delivered.iter().take_while(waited).last().map_or(0, |(_, before)| *before)
    }

    /// Returns the first second that generators may still add to. Returns 0 if all have ended: the last seconds are then written at
    /// the end of the run.
    fn measured_until(&self) -> u64 {
        self.generators.values().copied().min().unwrap_or(0)
    }

    /// Returns whether a second is complete except for its monitoring readings.
    fn waits_for_readings(&self) -> bool {
        self.open.first_key_value().is_some_and(|(second, _)| *second < self.measured_until())
    }

    /// Writes the seconds that are complete, and those that have waited long enough.
    fn write_complete(&mut self, now: Instant, hlog: &mut Hlog<'_>) -> io::Result<()> {
        let complete = self.measured_until().min(self.readings.reached()).max(self.waited_until(now));
        if self.open.first_key_value().is_some_and(|(second, _)| *second < complete) {
            self.write_before(complete, hlog)?;
        }
        let waiting = self.open.first_key_value().map_or(u64::MAX, |(second, _)| *second);
        self.delivered.retain(|(_, before)| *before > waiting);
        Ok(())
    }

    /// Sends events about faults whose status has changed.
    fn report_faults(&mut self) {
        let Some(sink) = &self.events else { return };
        let records = self.faults.records();
        self.reported.resize(records.len(), FaultStatus::Planned);
        for (record, reported) in records.iter().zip(&mut self.reported) {
            if record.status != *reported {
                events::fault(record).iter().for_each(|event| sink.send(event));
                *reported = record.status.clone();
            }
        }
    }

    fn publish(&mut self, run: &RunData) {
        let Some(publisher) = self.publisher.as_mut().filter(|publisher| publisher.is_due()) else { return };
        let readings = self.readings.totals();
        publisher.publish(run, self.observer.outcomes_so_far(run, &readings));
        let Some(sink) = &self.events else { return };
        // Faults that are still to come break nothing.
        let failed = |fault: &FaultRecord| matches!(fault.status, FaultStatus::Failed(_));
        let faults = self.faults.records().into_iter().filter(failed).collect();
        let info = RunInfo { faults, schedule: self.planned.clone(), ..RunInfo::default() };
        let conclusion = (run.queries.total > 0)
            .then(|| Conclusion::with(run, &info, &self.criteria, self.observer.so_far(&readings)));
        let standing = Standing {
            live: &publisher.published(),
            run,
            judgement: conclusion.as_ref().map(|conclusion| &conclusion.judgement),
            dropped: sink.dropped(),
        };
        sink.send(&events::status(Duration::from_secs(self.next), &standing));
    }

    /// Returns the faults that began in `second`, or in the seconds before it that have no row.
    fn begun_until(&self, second: u64) -> String {
        let begun = (self.next..=second).map(|second| self.faults.begun_in(second));
        begun.filter(|faults| !faults.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Looks whether the schedule was amended.
    fn update_plan(&mut self) {
        let Some(current) = self.schedule.as_ref().map(LiveSchedule::current) else { return };
        let known = self.planned.as_ref().map_or(&[][..], |known| known.amendments());
        if self.planned.is_some() && known.len() == current.amendments().len() {
            return;
        }
        if let Some(sink) = &self.events {
            current.amendments()[known.len()..].iter().for_each(|made| sink.send(&events::amendment(made)));
            let at = Duration::from_secs(self.next);
            sink.send(&events::plan(at, &current, &self.faults.records()));
        }
        self.observer.plan(&current);
        self.planned = Some(current);
    }

    /// Writes all seconds before `end`.
    fn write_before(&mut self, end: u64, hlog: &mut Hlog<'_>) -> io::Result<()> {
        self.report_faults();
        self.update_plan();
        while let Some(entry) = self.open.first_entry().filter(|entry| *entry.key() < end) {
            let (second, interval) = entry.remove_entry();
            hlog.write(second, &interval)?;
            let timestamp = self.started_at + Duration::from_secs(second);
            self.storm.add(second, &interval);
            self.hop_trend.second(second, &interval);
            self.concurrency.add(&interval);
            let readings = self.readings.take(second);
            self.observer.second(second, &interval, &readings);
            if let Some(publisher) = &mut self.publisher {
                publisher.second(second, &interval);
            }
            let faults = self.begun_until(second);
            let sessions = mean_in_second(interval.counts().session_ns);
            let target = self.planned.as_ref().map(|schedule| schedule.target_in(second));
            if let Some(sink) = &self.events {
                sink.send(&events::second(second, &interval, sessions, target));
                events::health(second, &readings).iter().for_each(|event| sink.send(event));
            }
            let row =
                Second { timestamp, sessions, interval: &interval, faults, target, readings: &readings };
            self.history.write_record(row.record())?;
            self.history.flush()?;
            if let Some(follower) = &self.follower
                && follower.try_send(MeasuredSecond { second, interval, readings }).is_err()
            {
                self.follower = None;
            }
            self.next = second + 1;
        }
        Ok(())
    }
}
