//! The generator's side: plays a shard of the plan and sends what it measured to the leader.

use super::{Instruction, Status, decode, encode, file_of};
use crate::{
    config::Config,
    generator::Generator,
    run_error::{RunError, refused},
};
use anyhow::Context;
use coordination::{BarrierError, Command, FinishError};
use load::{burst::Burst, injection::FirstSend};
use measure::{
    FaultLog, GeneratorHeader, GeneratorMessage, Part,
    live::{LiveCounters, totals},
    record::Moment,
};
use plan::{LiveSchedule, Shard, Stop, schedule::Amendment};
use report::{
    messages,
    output::{GeneratorResults, GeneratorSettings, PartSink, SharedPartFile},
};
use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, OnceLock, Weak,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Interval at which the status is updated.
const STATUS_EVERY: Duration = Duration::from_millis(250);
/// Time in which the last parts and the report must reach the leader.
const DELIVERY: Duration = Duration::from_secs(60);

/// The link of a generator to the leader and to the other generators.
pub(super) type Link = Arc<dyn coordination::Generator>;

/// Whether the leader received everything that a generator measured.
pub(super) enum Delivery {
    Complete,
    /// It did not, for this reason. The generator's files have everything.
    Failed(String),
}

/// What a generator needs besides its claim.
pub(super) struct Member<'a> {
    pub(super) config: &'a Config,
    pub(super) stop: &'a Stop,
    pub(super) header: GeneratorHeader,
    /// Common start of the names of its files, for example `results/loadtest_20261121_004500_shard2`.
    pub(super) base: PathBuf,
    /// How long to wait for the other generators.
    pub(super) within: Duration,
    /// Log of the planned faults, which the leader keeps up to date.
    pub(super) faults: Arc<FaultLog>,
}

impl Member<'_> {
    /// Plays the claimed shard, and returns after the leader has received everything, or takes nothing more. If the run does not start,
    /// the generator leaves no files.
    ///
    /// # Errors
    /// The target did not respond, or not all generators came in time.
    pub(super) fn play(&self, link: &Link, commands: Receiver<Command>) -> Result<Delivery, RunError> {
        let shard =
            Shard::new(self.header.shard, self.header.generators).context("there is no such shard")?;
        let mut generator = Generator::prepare(&self.config.part(shard), self.stop)?;
        let schedule = LiveSchedule::new(Arc::clone(&self.config.plan.schedule), shard);
        generator.share(&schedule, &self.faults, &Arc::default());
        let burst = generator.agree_on_burst();
        let (file, rows) = self.open(link)?;
        let changes = Changes {
            schedule,
            burst: burst.clone(),
            epoch: Arc::default(),
            file: Arc::clone(&file),
            link: Arc::downgrade(link),
        };
        let epoch = Arc::clone(&changes.epoch);
        let start = match self.start(link, commands, changes) {
            Ok(start) => start,
            Err(error) => {
                // Ends the thread that writes rows, which shares the link. The shard is free when the last owner drops the link.
                let _ = rows.finish();
                [".part", ".csv"]
                    .iter()
                    .for_each(|ending| drop(fs::remove_file(file_of(&self.base, ending))));
                return Err(error);
            }
        };
        let _ = epoch.set(start.at);
        let notes = Notes::start(link, &generator, burst, start.at)?;
        let mut report = generator.play(rows, start.at)?;
        drop(notes);
        report.clock_error = start.error;
        report.unwritten.extend(file.lock().finish(&report));
        Ok(match link.finish(report.to_message(), DELIVERY) {
            Ok(()) => Delivery::Complete,
            // It has not ended for the leader, which counts it as lost when the link is dropped.
            Err(error @ FinishError::TooLarge(_)) => return Err(RunError::Broken(error.into())),
            Err(error) => Delivery::Failed(error.to_string()),
        })
    }

    /// Opens the generator's files, and sends its header. Parts go into the file and over the link.
    fn open(&self, link: &Link) -> Result<(SharedPartFile, GeneratorResults), RunError> {
        let unwritable = |error: report::output::OpenError| refused(&error.to_string());
        let file = super::open_part_file(&file_of(&self.base, ".part"), &self.header)?;
        // A message that is too large counts as dropped, and makes the result partial.
        let _ = link.send(self.header.to_message());
        let sink: PartSink = {
            let (file, link) = (Arc::clone(&file), Arc::clone(link));
            Box::new(move |part: Part| {
                let message = part.to_message();
                file.lock().append(&message);
                let _ = link.send(message);
            })
        };
        let settings = GeneratorSettings {
            rows: file_of(&self.base, ".csv"),
            faults: Arc::clone(&self.faults),
            objectives: self.config.criteria.resolve(self.stop).objectives,
            events: None,
        };
        Ok((file, GeneratorResults::open(settings, sink).map_err(unwritable)?))
    }

    /// Waits for the common start.
    fn start(
        &self,
        link: &Link,
        commands: Receiver<Command>,
        changes: Changes,
    ) -> Result<coordination::Start, RunError> {
        follow(commands, changes, Arc::clone(&self.faults), self.stop.clone())?;
        let start = link.ready(self.within, &mut |_| !self.stop.starting.is_cancelled());
        let start = start.map_err(|error| match error {
            BarrierError::Cancelled => RunError::Interrupted,
            error => refused(&error.to_string()),
        })?;
        if self.stop.begin() { Ok(start) } else { Err(RunError::Interrupted) }
    }
}

/// Follows the leader's commands on a thread that ends with the link.
fn follow(
    commands: Receiver<Command>,
    changes: Changes,
    faults: Arc<FaultLog>,
    stop: Stop,
) -> Result<(), RunError> {
    let stop_now = move |stop: &Stop| {
        stop.starting.cancel();
        stop.running.cancel();
    };
    let follow = move || {
        for command in commands {
            match command {
                Command::Abort(reason) => {
                    messages::print_stderr(&format!("stopping at once: {reason}"));
                    stop_now(&stop);
                }
                Command::Custom(bytes) => match decode(&bytes) {
                    Some(Instruction::StatedNames(names)) => faults.set_stated_names(names),
                    Some(Instruction::Faults(records)) => faults.take_over(&records),
                    Some(Instruction::Amend(amendment)) => changes.amend(amendment),
                    Some(Instruction::Burst(at)) => changes.burst_at(at),
                    Some(Instruction::Stop) => stop.starting.cancel(),
                    Some(Instruction::StopNow) => stop_now(&stop),
                    None => messages::print_stderr("warning: a command of another version was ignored"),
                },
            }
        }
    };
    thread::Builder::new().name("commands".into()).spawn(follow).context("cannot start a thread")?;
    Ok(())
}

/// What the leader can change in a generator that plays.
struct Changes {
    schedule: LiveSchedule,
    burst: Option<Arc<Burst>>,
    /// The common start, once it is known.
    epoch: Arc<OnceLock<Instant>>,
    file: SharedPartFile,
    /// Weak, because the shard is free when the last owner drops the link.
    link: Weak<dyn coordination::Generator>,
}

impl Changes {
    fn burst_at(&self, at: Moment) {
        if let (Some(burst), Some(&epoch)) = (&self.burst, self.epoch.get()) {
            burst.set(epoch + at);
        }
    }

    /// Changes the plan, and records the change among the parts.
    fn amend(&self, amendment: Amendment) {
        let elapsed = self.epoch.get().map_or(Duration::ZERO, |epoch| epoch.elapsed());
        if let Err(error) = self.schedule.amend(amendment, elapsed) {
            // The leader made the same change before. Without it, this generator's report does not name the amendment.
            messages::print_stderr(&format!(
                "warning: amendment {} is not possible: {error}",
                amendment.number
            ));
            return;
        }
        let message = GeneratorMessage::of_amendment(&amendment);
        self.file.lock().append(&message);
        if let Some(link) = self.link.upgrade() {
            let _ = link.send(message);
        }
    }
}

/// Updates the generator's status until it is dropped.
struct Notes {
    _end: Sender<()>,
}

impl Notes {
    fn start(
        link: &Link,
        generator: &Generator,
        burst: Option<Arc<Burst>>,
        epoch: Instant,
    ) -> Result<Self, RunError> {
        let (end, ended) = channel();
        let (link, counters) = (Arc::clone(link), generator.counters().clone());
        let first_send = Arc::clone(generator.first_send());
        let update = move || {
            loop {
                let goes_on = matches!(ended.recv_timeout(STATUS_EVERY), Err(RecvTimeoutError::Timeout));
                let _ = link.note(encode(&status(&counters, &first_send, burst.as_deref(), epoch)));
                if !goes_on {
                    break;
                }
            }
        };
        thread::Builder::new().name("status".into()).spawn(update).context("cannot start a thread")?;
        Ok(Self { _end: end })
    }
}

fn status(
    counters: &[Arc<LiveCounters>],
    first_send: &FirstSend,
    burst: Option<&Burst>,
    epoch: Instant,
) -> Status {
    let is_ready = burst.is_some_and(Burst::is_ready);
    let first_send = first_send.instant().map(|at| at.saturating_duration_since(epoch));
    Status { totals: totals(counters.iter().map(AsRef::as_ref)), first_send, is_ready }
}
