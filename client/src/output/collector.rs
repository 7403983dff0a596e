//! The thread behind the recorders: sums up what they hand over and writes rows as they come.
//! It holds sums and a few seconds of histograms, whatever the length of the run.

use super::{
    csv_rows,
    files::{Files, named},
    history::{self, Second},
    hlog::Hlog,
    judging::Observer,
};
use crate::{
    faults::FaultLog,
    measure::{Gauge, Interval, Parcel, ReconnectStorm, RunData},
    schedule::Schedule,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// How often rows reach the disk.
const FLUSH: Duration = Duration::from_secs(1);
/// Rows reach the disk whole: they gather in this much memory, and are flushed long before it is full.
const ROW_BUFFER: usize = 1 << 20;
const ROWS_A_FLUSH: usize = 1_000;
/// A second is written when another so much later has begun: workers hand theirs over at slightly different times.
const SECONDS_BEHIND: u64 = 2;

#[derive(Debug)]
pub(super) struct Collector {
    run: RunData,
    files: Files,
    rows: csv::Writer<BufWriter<File>>,
    unflushed: usize,
    hlog: File,
    seconds: Seconds,
    faults: Arc<FaultLog>,
}

/// The seconds of the run that are not written yet.
#[derive(Debug)]
struct Seconds {
    schedule: Option<Arc<Schedule>>,
    /// What was measured, and how many sessions were open when the first worker handed it over.
    open: BTreeMap<u64, (Interval, u64)>,
    /// The first second that is not written.
    next: u64,
    history: csv::Writer<File>,
    started_at: OffsetDateTime,
    sessions: Gauge,
    storm: ReconnectStorm,
    observer: Observer,
    faults: Arc<FaultLog>,
}

impl Collector {
    pub(super) fn new(
        files: &Files,
        sessions: Gauge,
        observer: Observer,
        schedule: Option<Arc<Schedule>>,
        faults: Arc<FaultLog>,
    ) -> io::Result<Self> {
        let buffered = BufWriter::with_capacity(ROW_BUFFER, files.open(".csv")?);
        let mut rows = csv::Writer::from_writer(buffered);
        rows.write_record(csv_rows::COLUMNS)?;
        rows.flush()?;
        let mut history = csv::Writer::from_writer(files.open("_history.csv")?);
        history.write_record(history::COLUMNS)?;
        history.flush()?;
        let seconds = Seconds {
            schedule,
            open: BTreeMap::new(),
            next: 0,
            history,
            started_at: files.started_at,
            sessions,
            storm: ReconnectStorm::default(),
            observer,
            faults: Arc::clone(&faults),
        };
        let hlog = files.open("_latency.hlog")?;
        Ok(Self { run: RunData::default(), files: files.clone(), rows, unflushed: 0, hlog, seconds, faults })
    }

    /// Until the last recorder is gone.
    pub(super) fn run(self, incoming: &Receiver<Parcel>) -> io::Result<RunData> {
        let files = self.files.clone();
        self.collect(incoming).map_err(|error| named(&files.path("…"), &error))
    }

    fn collect(mut self, incoming: &Receiver<Parcel>) -> io::Result<RunData> {
        let mut hlog = Hlog::new(&self.hlog, self.files.started_at)?;
        let mut flushed = Instant::now();
        loop {
            match incoming.recv_timeout(FLUSH) {
                Ok(Parcel::Interval { second, mut interval, back }) => {
                    self.run.add_interval(&interval);
                    self.seconds.add(second, &interval, &mut hlog)?;
                    interval.clear();
                    // The recorder has enough of them, or is done.
                    let _ = back.try_send(interval);
                }
                Ok(Parcel::Session(finished)) => {
                    self.run.add_session(&finished);
                    csv_rows::write(&mut self.rows, &finished, &self.faults)?;
                    self.unflushed += finished.queries.len();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if flushed.elapsed() >= FLUSH || self.unflushed >= ROWS_A_FLUSH {
                self.rows.flush()?;
                (self.unflushed, flushed) = (0, Instant::now());
            }
        }
        self.seconds.observer.run_is_over();
        self.seconds.write_before(u64::MAX, &mut hlog)?;
        self.rows.flush()?;
        self.run.reconnect_storm = self.seconds.storm;
        self.seconds.observer.hand_over(&mut self.run);
        Ok(self.run)
    }
}

impl Seconds {
    fn add(&mut self, second: u64, interval: &Interval, hlog: &mut Hlog<'_>) -> io::Result<()> {
        // What comes late belongs to the earliest second that can still be written.
        let second = second.max(self.next);
        let (open, _) = self.open.entry(second).or_insert_with(|| (Interval::default(), self.sessions.now()));
        open.merge(interval);
        self.write_before(second.saturating_sub(SECONDS_BEHIND), hlog)
    }

    /// The faults that began in `second`, or before it in seconds that have no row.
    fn begun_until(&self, second: u64) -> String {
        let begun = (self.next..=second).map(|second| self.faults.begun_in(second));
        begun.filter(|faults| !faults.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn write_before(&mut self, end: u64, hlog: &mut Hlog<'_>) -> io::Result<()> {
        while let Some(entry) = self.open.first_entry().filter(|entry| *entry.key() < end) {
            let (second, (interval, sessions)) = entry.remove_entry();
            hlog.write(second, &interval)?;
            let timestamp = self.started_at + Duration::from_secs(second);
            self.storm.add(second, &interval);
            self.observer.second(second, &interval);
            let faults = self.begun_until(second);
            let target = self.schedule.as_ref().map(|schedule| schedule.target_in(second));
            let row = Second { timestamp, sessions, interval: &interval, faults, target };
            self.history.write_record(row.record())?;
            self.history.flush()?;
            self.next = second + 1;
        }
        Ok(())
    }
}
