//! The thread that receives the records of all workers, adds them up and writes rows during the run.
//! Its memory does not grow with the length of the run: it keeps sums, and the histograms of a few seconds.

use super::{
    EventSink, OutputSettings,
    criteria::Observer,
    csv_rows, events,
    files::{Files, OpenError},
    history::{self, Second},
    hlog::Hlog,
    live_status::StatusPublisher,
    result_file::ResultFile,
};
use measure::{
    ActiveCounter, FaultLog, FaultStatus, Interval, ReadingBuffer, ReconnectStorm, RecorderMessage, RunData,
    record::{QueryRecord, SessionRecord},
};
use plan::schedule::Schedule;
use settings::cells::CellWriter;
use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufWriter},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// Time after which rows are written to disk.
const FLUSH: Duration = Duration::from_secs(1);
/// Size of the buffer of rows in bytes. It is flushed before it is full, so that only complete rows reach the disk.
const ROW_BUFFER: usize = 1 << 20;
/// Number of rows after which they are written to disk.
const ROWS_PER_FLUSH: usize = 1_000;
/// A second is written as soon as it is complete. An incomplete one is written when a second this much later has ended.
const SECONDS_BEHIND: u64 = 2;
/// Time between two checks for the monitoring readings of a second. No message announces them.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Collector {
    records: Records,
    files: Files,
    hlog: ResultFile,
    seconds: Seconds,
}

/// Sums of the run, and rows that are not written yet.
#[derive(Debug)]
struct Records {
    run: RunData,
    /// Queries of sessions that have not ended yet.
    waiting: HashMap<u64, Vec<QueryRecord>>,
    rows: CellWriter<BufWriter<ResultFile>>,
    unflushed: usize,
    flushed: Instant,
    faults: Arc<FaultLog>,
    events: Option<EventSink>,
}

/// The seconds of the run that are not written yet.
#[derive(Debug)]
struct Seconds {
    schedule: Option<Arc<Schedule>>,
    /// Measurements of each second, and the number of open sessions when the first worker reported it.
    open: BTreeMap<u64, (Interval, u64)>,
    /// The second that each recorder has reached.
    recorders: BTreeMap<u64, u64>,
    /// The first second that is not written.
    next: u64,
    history: CellWriter<ResultFile>,
    started_at: OffsetDateTime,
    sessions: ActiveCounter,
    readings: ReadingBuffer,
    storm: ReconnectStorm,
    observer: Observer,
    faults: Arc<FaultLog>,
    /// Status of each fault in the last event about it.
    reported: Vec<FaultStatus>,
    events: Option<EventSink>,
    publisher: Option<StatusPublisher>,
}

impl Collector {
    pub(super) fn new(
        files: &Files,
        sessions: ActiveCounter,
        readings: ReadingBuffer,
        settings: &OutputSettings,
        faults: Arc<FaultLog>,
        events: Option<EventSink>,
    ) -> Result<Self, OpenError> {
        let unwritable = |source: io::Error| OpenError::new(files.path(""), source);
        let buffered = BufWriter::with_capacity(ROW_BUFFER, files.open(".csv")?);
        let mut rows = CellWriter::new(buffered);
        rows.write_record(csv_rows::COLUMNS).map_err(|error| unwritable(error.into()))?;
        rows.flush().map_err(unwritable)?;
        let mut history = CellWriter::new(files.open("_history.csv")?);
        history.write_record(history::columns()).map_err(|error| unwritable(error.into()))?;
        history.flush().map_err(unwritable)?;
        let seconds = Seconds {
            schedule: settings.schedule.clone(),
            open: BTreeMap::new(),
            recorders: BTreeMap::new(),
            next: 0,
            history,
            started_at: files.started_at,
            sessions,
            readings,
            storm: ReconnectStorm::default(),
            observer: settings.criteria.observer(),
            faults: Arc::clone(&faults),
            reported: Vec::new(),
            events: events.clone(),
            publisher: settings.shared_status.clone().map(StatusPublisher::new),
        };
        let hlog = files.open("_latency.hlog")?;
        let records = Records {
            run: RunData::default(),
            waiting: HashMap::new(),
            rows,
            unflushed: 0,
            flushed: Instant::now(),
            faults,
            events,
        };
        Ok(Self { records, files: files.clone(), hlog, seconds })
    }

    /// Receives records until the last recorder is dropped.
    pub(super) fn run(mut self, incoming: &Receiver<RecorderMessage>) -> io::Result<RunData> {
        let mut hlog = Hlog::new(&mut self.hlog, self.files.started_at)?;
        let records = &mut self.records;
        loop {
            let timeout = if self.seconds.waits_for_readings() { POLL_INTERVAL } else { FLUSH };
            match incoming.recv_timeout(timeout) {
                Ok(RecorderMessage::Interval { second, mut interval, back }) => {
                    records.run.add_interval(&interval);
                    self.seconds.add(second, &interval, &mut hlog)?;
                    interval.clear();
                    // Fails if the recorder has enough intervals or has ended.
                    let _ = back.try_send(interval);
                }
                Ok(RecorderMessage::Query(query)) => records.query(*query),
                Ok(RecorderMessage::Reconnect(at, index, reconnect)) => {
                    send(records.events.as_ref(), || events::reconnect(at, index, &reconnect));
                }
                Ok(RecorderMessage::PartialSession(session)) => {
                    let queries = records.take_waiting(session.index);
                    records.write(&session, &queries)?;
                }
                Ok(RecorderMessage::Session(session)) => records.session(&session)?,
                Ok(RecorderMessage::Reached { recorder, second }) => {
                    self.seconds.recorders.insert(recorder, second);
                }
                Ok(RecorderMessage::Finished { recorder }) => {
                    self.seconds.recorders.remove(&recorder);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            records.flush()?;
            self.seconds.write_complete(&mut hlog)?;
            self.seconds.publish(&records.run);
        }
        self.seconds.observer.run_is_over();
        self.seconds.write_before(u64::MAX, &mut hlog)?;
        let Records { mut run, mut rows, .. } = self.records;
        rows.flush()?;
        run.reconnect_storm = self.seconds.storm;
        run.readings = self.seconds.readings.totals();
        run.readings_dropped = self.seconds.readings.dropped();
        self.seconds.observer.move_into(&mut run);
        Ok(run)
    }
}

fn send(sink: Option<&EventSink>, event: impl FnOnce() -> serde_json::Value) {
    if let Some(sink) = sink {
        sink.send(&event());
    }
}

impl Records {
    fn query(&mut self, query: QueryRecord) {
        self.run.add_query(&query);
        send(self.events.as_ref(), || events::query(&query));
        self.waiting.entry(query.session_index).or_default().push(query);
    }

    /// Adds a session that ended and writes the rows of its queries. They waited for it, because each row contains results of the
    /// session.
    fn session(&mut self, session: &SessionRecord) -> io::Result<()> {
        send(self.events.as_ref(), || events::session(session));
        let queries = self.take_waiting(session.index);
        self.run.add_session(session, &queries);
        self.write(session, &queries)
    }

    fn take_waiting(&mut self, session: u64) -> Vec<QueryRecord> {
        self.waiting.remove(&session).unwrap_or_default()
    }

    fn write(&mut self, session: &SessionRecord, queries: &[QueryRecord]) -> io::Result<()> {
        csv_rows::write(&mut self.rows, session, queries, &self.faults)?;
        self.unflushed += queries.len();
        Ok(())
    }

    /// Writes the buffered rows to disk if it is time.
    fn flush(&mut self) -> io::Result<()> {
        if self.flushed.elapsed() >= FLUSH || self.unflushed >= ROWS_PER_FLUSH {
            self.rows.flush()?;
            (self.unflushed, self.flushed) = (0, Instant::now());
        }
        Ok(())
    }
}

impl Seconds {
    fn add(&mut self, second: u64, interval: &Interval, hlog: &mut Hlog<'_>) -> io::Result<()> {
        // Late measurements are added to the earliest second that is not written yet.
        let second = second.max(self.next);
        let (open, _) = self.open.entry(second).or_insert_with(|| (Interval::default(), self.sessions.now()));
        open.merge(interval);
        self.write_before(second.saturating_sub(SECONDS_BEHIND), hlog)
    }

    /// Returns the first second that recorders may still add to. Returns 0 if all recorders have ended: the last seconds are then
    /// written at the end of the run.
    fn measured_until(&self) -> u64 {
        self.recorders.values().copied().min().unwrap_or(0)
    }

    /// Returns whether a second is complete except for its monitoring readings.
    fn waits_for_readings(&self) -> bool {
        self.open.first_key_value().is_some_and(|(second, _)| *second < self.measured_until())
    }

    fn write_complete(&mut self, hlog: &mut Hlog<'_>) -> io::Result<()> {
        let complete = self.measured_until().min(self.readings.reached());
        if self.open.first_key_value().is_some_and(|(second, _)| *second < complete) {
            self.write_before(complete, hlog)?;
        }
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
        if let Some(publisher) = self.publisher.as_mut().filter(|publisher| publisher.is_due()) {
            publisher.publish(run, self.observer.outcomes_so_far(run, &self.readings.totals()));
        }
    }

    /// Returns the faults that began in `second`, or in the seconds before it that have no row.
    fn begun_until(&self, second: u64) -> String {
        let begun = (self.next..=second).map(|second| self.faults.begun_in(second));
        begun.filter(|faults| !faults.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Writes all seconds before `end`.
    fn write_before(&mut self, end: u64, hlog: &mut Hlog<'_>) -> io::Result<()> {
        self.report_faults();
        while let Some(entry) = self.open.first_entry().filter(|entry| *entry.key() < end) {
            let (second, (interval, sessions)) = entry.remove_entry();
            hlog.write(second, &interval)?;
            let timestamp = self.started_at + Duration::from_secs(second);
            self.storm.add(second, &interval);
            let readings = self.readings.take(second);
            self.observer.second(second, &interval, &readings);
            if let Some(publisher) = &mut self.publisher {
                publisher.second(second, &interval);
            }
            let faults = self.begun_until(second);
            let target = self.schedule.as_ref().map(|schedule| schedule.target_in(second));
            if let Some(sink) = &self.events {
                sink.send(&events::second(second, &interval, sessions, target));
                events::health(second, &readings).iter().for_each(|event| sink.send(event));
            }
            let row =
                Second { timestamp, sessions, interval: &interval, faults, target, readings: &readings };
            self.history.write_record(row.record())?;
            self.history.flush()?;
            self.next = second + 1;
        }
        Ok(())
    }
}
