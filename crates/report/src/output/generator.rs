//! What one generator writes: a row per query, and its parts of the results, which the collector merges.
//! Workers wait for the disk only if it is more than ten thousand queries behind.

use super::{
    EventSink, csv_rows, events,
    files::OpenError,
    result_file::{ResultFile, WriteErrors},
};
use measure::{
    Activity, FaultLog, Interval, Objective, Part, Recorder, RecorderMessage, RunData,
    record::{QueryRecord, SessionRecord},
};
use settings::cells::CellWriter;
use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufWriter},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Largest number of messages between the workers and the writing thread: about ten thousand finished queries.
const MESSAGES: usize = 16_384;
/// Time after which rows are written to disk.
const FLUSH: Duration = Duration::from_secs(1);
/// Size of the buffer of rows in bytes. It is flushed before it is full, so that only complete rows reach the disk.
const ROW_BUFFER: usize = 1 << 20;
/// Number of rows after which they are written to disk.
const ROWS_PER_FLUSH: usize = 1_000;
/// A part is sent as soon as all workers have passed a second. If a worker is behind, it is sent when a second this much later has
/// measurements.
const SECONDS_BEHIND: u64 = 2;

/// Receives the parts of a generator, one per second. The writing thread calls it.
pub type PartSink = Box<dyn FnMut(Part) + Send>;

/// Settings of a generator's output.
#[derive(Debug)]
pub struct GeneratorSettings {
    /// File of the rows. It is created or truncated.
    pub rows: PathBuf,
    /// Faults that the rows name.
    pub faults: Arc<FaultLog>,
    /// Objectives that a query must meet to count as goodput.
    pub objectives: Arc<[Objective]>,
    /// Receives an event per query, session and reconnect. `None` if none are wanted.
    pub events: Option<EventSink>,
}

/// The output of a generator that is running.
#[derive(Debug)]
pub struct GeneratorResults {
    messages_in: SyncSender<RecorderMessage>,
    /// Number of recorders created.
    recorders: AtomicU64,
    thread: JoinHandle<io::Result<()>>,
    objectives: Arc<[Objective]>,
    active: Activity,
    unwritten: WriteErrors,
}

impl GeneratorResults {
    /// Creates the file of rows and starts the writing thread.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn open(settings: GeneratorSettings, sink: PartSink) -> Result<Self, OpenError> {
        let (messages_in, incoming) = sync_channel(MESSAGES);
        let active = Activity::default();
        let unwritten = WriteErrors::default();
        let GeneratorSettings { rows: path, faults, objectives, events } = settings;
        let unwritable = |source: io::Error| OpenError::new(&path, source);
        let file = ResultFile::of_rows(path.clone(), &unwritten).map_err(unwritable)?;
        let mut rows = CellWriter::new(BufWriter::with_capacity(ROW_BUFFER, file));
        rows.write_record(csv_rows::COLUMNS).map_err(|error| unwritable(error.into()))?;
        rows.flush().map_err(unwritable)?;
        let writer = Writer {
            rows: Rows {
                sums: RunData::default(),
                waiting: HashMap::new(),
                out: rows,
                unflushed: 0,
                flushed: Instant::now(),
                faults,
                events,
            },
            seconds: BTreeMap::new(),
            recorders: BTreeMap::new(),
            reached: 0,
            active: active.clone(),
            sink,
        };
        let thread = std::thread::Builder::new()
            .name("rows".to_owned())
            .spawn(move || writer.run(&incoming))
            .map_err(unwritable)?;
        let recorders = AtomicU64::new(0);
        Ok(Self { messages_in, recorders, thread, objectives, active, unwritten })
    }

    /// Sets the start of the run, from which seconds count.
    pub fn begin(&self, epoch: Instant) {
        self.active.begin(epoch);
    }

    /// Creates a recorder. Each worker needs one.
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        let number = self.recorders.fetch_add(1, Relaxed);
        Recorder::new(number, self.messages_in.clone(), Arc::clone(&self.objectives))
    }

    /// Returns the counters of sessions and queries. Call `enter()` when one begins, and drop the guard when it ends.
    #[must_use]
    pub const fn active(&self) -> &Activity {
        &self.active
    }

    /// Waits until the last recorder is dropped and the last part is sent. Returns the files that could not be written, each with
    /// the reason.
    ///
    /// # Errors
    /// The writing thread failed.
    pub fn finish(self) -> io::Result<Vec<String>> {
        drop(self.messages_in);
        self.thread.join().map_err(|_| io::Error::other("the thread that writes rows panicked"))??;
        Ok(self.unwritten.list())
    }
}

/// The writing thread: receives what the workers recorded, writes rows, and sends parts.
struct Writer {
    rows: Rows,
    /// Measurements by second that are not sent yet.
    seconds: BTreeMap<u64, Interval>,
    /// The second that each recorder has reached.
    recorders: BTreeMap<u64, u64>,
    /// The second that the last part has reached.
    reached: u64,
    active: Activity,
    sink: PartSink,
}

impl Writer {
    /// Receives records until the last recorder is dropped.
    fn run(mut self, incoming: &Receiver<RecorderMessage>) -> io::Result<()> {
        loop {
            match incoming.recv_timeout(FLUSH) {
                Ok(message) => self.receive(message)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.rows.flush()?;
            let reached = self.recorders.values().copied().min().unwrap_or(0);
            let behind =
                self.seconds.last_key_value().is_some_and(|(&last, _)| last >= self.reached + SECONDS_BEHIND);
            if reached > self.reached || behind {
                self.reached = self.reached.max(reached);
                let active = self.active.take_complete();
                self.send_part(&active);
            }
        }
        let active = self.active.take_all();
        self.send_part(&active);
        self.rows.out.flush()
    }

    fn receive(&mut self, message: RecorderMessage) -> io::Result<()> {
        match message {
            RecorderMessage::Interval { second, mut interval, back } => {
                self.seconds.entry(second).or_default().merge(&interval);
                interval.clear();
                // Fails if the recorder has enough intervals or has ended.
                let _ = back.try_send(interval);
            }
            RecorderMessage::Query(query) => self.rows.query(*query),
            RecorderMessage::Timeline(timeline) => self.rows.sums.timelines.add(*timeline),
            RecorderMessage::Reconnect(at, index, reconnect) => {
                events::send(self.rows.events.as_ref(), || events::reconnect(at, index, &reconnect));
            }
            RecorderMessage::PartialSession(session) => {
                let queries = self.rows.take_waiting(session.index);
                self.rows.write(&session, &queries)?;
            }
            RecorderMessage::Session(session) => self.rows.session(&session)?,
            RecorderMessage::Reached { recorder, second } => {
                self.recorders.insert(recorder, second);
            }
            RecorderMessage::Finished { recorder } => {
                self.recorders.remove(&recorder);
            }
        }
        Ok(())
    }

    /// Sends a part with everything that is not sent yet, and the active times of these seconds.
    fn send_part(&mut self, [sessions, opening, queries]: &[BTreeMap<u64, u64>; 3]) {
        let mut seconds = std::mem::take(&mut self.seconds);
        for (&second, &ns) in sessions {
            seconds.entry(second).or_default().active(ns, 0);
        }
        for (&second, &ns) in opening {
            seconds.entry(second).or_default().opening(ns);
        }
        for (&second, &ns) in queries {
            seconds.entry(second).or_default().active(0, ns);
        }
        (self.sink)(Part { reached: self.reached, seconds, sums: std::mem::take(&mut self.rows.sums) });
    }
}

/// Rows that are not written yet, and the sums of what ended since the last part.
struct Rows {
    sums: RunData,
    /// Queries of sessions that have not ended yet.
    waiting: HashMap<u64, Vec<QueryRecord>>,
    out: CellWriter<BufWriter<ResultFile>>,
    unflushed: usize,
    flushed: Instant,
    faults: Arc<FaultLog>,
    events: Option<EventSink>,
}

impl Rows {
    fn query(&mut self, query: QueryRecord) {
        self.sums.add_query(&query);
        events::send(self.events.as_ref(), || events::query(&query));
        self.waiting.entry(query.session_index).or_default().push(query);
    }

    /// Adds a session that ended and writes the rows of its queries. They waited for it, because each row contains results of the
    /// session.
    fn session(&mut self, session: &SessionRecord) -> io::Result<()> {
        events::send(self.events.as_ref(), || events::session(session));
        let queries = self.take_waiting(session.index);
        self.sums.add_session(session, &queries);
        self.write(session, &queries)
    }

    fn take_waiting(&mut self, session: u64) -> Vec<QueryRecord> {
        self.waiting.remove(&session).unwrap_or_default()
    }

    fn write(&mut self, session: &SessionRecord, queries: &[QueryRecord]) -> io::Result<()> {
        csv_rows::write(&mut self.out, session, queries, &self.faults)?;
        self.unflushed += queries.len();
        Ok(())
    }

    /// Writes the buffered rows to disk if it is time.
    fn flush(&mut self) -> io::Result<()> {
        if self.flushed.elapsed() >= FLUSH || self.unflushed >= ROWS_PER_FLUSH {
            self.out.flush()?;
            (self.unflushed, self.flushed) = (0, Instant::now());
        }
        Ok(())
    }
}
