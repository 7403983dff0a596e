//! The generator's side: plays a shard of the plan and sends what it measured to the leader.

use super::{Instruction, Status, decode, encode};
use crate::{
    config::Config,
    engine::{self, RunError, refused},
    generator::{Generator, HostBefore},
    lead::{Generators, Lead, planned_faults},
};
use anyhow::Context;
use coordination::Command;
use load::{injection::FirstSend, watch::Source};
use measure::{
    FaultLog, GeneratorHeader, GeneratorMessage, GeneratorReport, Part,
    live::{LiveCounters, totals},
};
use parking_lot::Mutex;
use plan::{Shard, Stop};
use report::{
    messages,
    output::{Finished, GeneratorResults, GeneratorSettings, PartFile, PartSink},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// Interval at which the status is updated.
const STATUS_EVERY: Duration = Duration::from_millis(250);
/// Time in which the last parts and the report must reach the leader.
const DELIVERY: Duration = Duration::from_secs(60);

/// What a generator needs besides its claim.
pub(super) struct Member<'a> {
    pub(super) config: &'a Config,
    pub(super) stop: &'a Stop,
    pub(super) header: GeneratorHeader,
    /// Common start of the names of its files, for example `results/loadtest_20261121_004500_shard2`.
    pub(super) base: PathBuf,
    /// How long to wait for the other generators.
    pub(super) within: Duration,
}

impl Member<'_> {
    /// Plays the claimed shard. Returns its report after the leader has received everything.
    ///
    /// # Errors
    /// The target did not respond, not all generators came in time, or the results could not be delivered.
    pub(super) fn play(
        &self,
        shard: u32,
        link: &Arc<dyn coordination::Generator>,
        commands: Receiver<Command>,
    ) -> Result<GeneratorReport, RunError> {
        let (config, stop) = (self.config, self.stop);
        let shard = Shard::new(shard, self.header.generators).context("the claimed shard does not exist")?;
        let tls = engine::tls(config)?;
        let connector = engine::connect(config, &tls, stop)?;
        let faults = Arc::new(planned_faults(config));
        let file = Arc::new(Mutex::new(
            PartFile::create(&with_ending(&self.base, ".part"))
                .map_err(|error| refused(&error.to_string()))?,
        ));
        let send = {
            let (link, file) = (Arc::clone(link), Arc::clone(&file));
            move |message: &GeneratorMessage| {
                let bytes = message.to_bytes();
                file.lock().append(&bytes);
                // A part that is too large counts as dropped, and makes the result partial.
                let _ = link.send(bytes);
            }
        };
        send(&GeneratorMessage::Header(self.header.clone()));
        let sink: PartSink = Box::new(move |part: Part| send(&GeneratorMessage::Part(Box::new(part))));
        let rows = self.rows(&faults, sink)?;
        let plan = Arc::new(config.plan.part(shard));
        let generator = Generator {
            counters: Generator::counters(&plan),
            plan,
            connector,
            tls,
            stop: stop.clone(),
            faults: Arc::clone(&faults),
            first_send: Arc::default(),
            host: HostBefore::measure(),
        };
        let follower = follow(commands, Arc::clone(&faults), stop.clone());
        let start = link
            .ready(self.within, &mut |_| !stop.starting.is_cancelled())
            .map_err(|error| barrier_error(&error))?;
        if !stop.begin() {
            return Err(RunError::Interrupted);
        }
        let notes = Notes::start(link, &generator, start.at)?;
        let mut report = generator.play(rows, start.at)?;
        drop(notes);
        report.clock_error = start.error;
        report.unwritten.extend(file.lock().unwritten());
        file.lock().append(&GeneratorMessage::Report(Box::new(report.clone())).to_bytes());
        link.finish(encode(&report), DELIVERY).map_err(|error| RunError::Broken(error.into()))?;
        drop(follower);
        Ok(report)
    }

    fn rows(&self, faults: &Arc<FaultLog>, sink: PartSink) -> Result<GeneratorResults, RunError> {
        let settings = GeneratorSettings {
            rows: with_ending(&self.base, ".csv"),
            faults: Arc::clone(faults),
            objectives: self.config.criteria.resolve(self.stop).objectives,
            events: None,
        };
        GeneratorResults::open(settings, sink).map_err(|error| refused(&error.to_string()))
    }
}

/// Returns the path of the file with this ending.
pub(super) fn with_ending(base: &Path, ending: &str) -> PathBuf {
    let mut path = base.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

fn barrier_error(error: &coordination::BarrierError) -> RunError {
    match error {
        coordination::BarrierError::Cancelled => RunError::Interrupted,
        error => refused(&error.to_string()),
    }
}

/// Follows the leader's commands on a thread that ends with the link.
fn follow(commands: Receiver<Command>, faults: Arc<FaultLog>, stop: Stop) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for command in commands {
            match command {
                Command::Abort(reason) => {
                    messages::print_stderr(&format!("stopping at once: {reason}"));
                    stop.starting.cancel();
                    stop.running.cancel();
                }
                Command::Custom(bytes) => match decode(&bytes) {
                    Some(Instruction::StatedNames(names)) => faults.set_stated_names(names),
                    Some(Instruction::Faults(records)) => faults.take_over(&records),
                    Some(Instruction::Stop) => stop.starting.cancel(),
                    Some(Instruction::StopNow) => {
                        stop.starting.cancel();
                        stop.running.cancel();
                    }
                    None => messages::print_stderr(
                        "warning: the leader sent a command of another version: ignored",
                    ),
                },
            }
        }
    })
}

/// Updates the generator's status until it is dropped.
struct Notes {
    _end: Sender<()>,
}

impl Notes {
    fn start(
        link: &Arc<dyn coordination::Generator>,
        generator: &Generator,
        epoch: Instant,
    ) -> Result<Self, RunError> {
        let (end, ended) = channel();
        let (link, counters) = (Arc::clone(link), generator.counters.clone());
        let first_send = Arc::clone(&generator.first_send);
        thread::Builder::new()
            .name("status".into())
            .spawn(move || {
                while matches!(ended.recv_timeout(STATUS_EVERY), Err(RecvTimeoutError::Timeout)) {
                    let _ = link.note(encode(&status(&counters, &first_send, epoch)));
                }
                let _ = link.note(encode(&status(&counters, &first_send, epoch)));
            })
            .context("cannot start a thread")?;
        Ok(Self { _end: end })
    }
}

fn status(counters: &[Arc<LiveCounters>], first_send: &FirstSend, epoch: Instant) -> Status {
    let first_send = first_send.instant().map(|at| at.saturating_duration_since(epoch));
    Status { totals: totals(counters.iter().map(AsRef::as_ref)), first_send }
}

/// Plays one shard without the other generators (`--shard 2/8`), and writes its results and a part file for `streamstress merge`.
///
/// # Errors
/// The run was refused or interrupted before it began, or failed.
pub(crate) fn play_alone(
    config: &Config,
    shard: Shard,
    stop: &Stop,
    started_at: OffsetDateTime,
) -> Result<Finished, RunError> {
    let mut part = config.clone();
    part.plan = config.plan.part(shard);
    let (tls, run) = (engine::tls(config)?, super::run_of(config, shard.count()));
    let connector = engine::connect(config, &tls, stop)?;
    let host = HostBefore::measure();
    if !stop.begin() {
        return Err(RunError::Interrupted);
    }
    let lead =
        Lead::prepare(&part, None, Source::Unknown("one part of a run".into()), &tls, stop, (started_at, 1))?;
    let mut file =
        PartFile::create(&lead.results().path(".part")).map_err(|error| refused(&error.to_string()))?;
    let header = super::header(config, &run, shard.index(), started_at);
    file.append(&GeneratorMessage::Header(header).to_bytes());
    let file = Arc::new(Mutex::new(file));
    let copy = {
        let file = Arc::clone(&file);
        move |part: &Part| file.lock().append(&GeneratorMessage::Part(Box::new(part.clone())).to_bytes())
    };
    let rows = lead.results().generator_with(copy).map_err(|error| refused(&error.to_string()))?;
    let plan = Arc::new(part.plan.clone());
    let generator = Generator {
        counters: Generator::counters(&plan),
        plan,
        connector,
        tls,
        stop: stop.clone(),
        faults: Arc::clone(lead.faults()),
        first_send: Arc::clone(lead.first_send()),
        host,
    };
    let epoch = Instant::now() + engine::LEAD;
    let led = lead.begin(epoch, generator.counters.clone())?;
    let mut report = generator.play(rows, epoch)?;
    file.lock().append(&GeneratorMessage::Report(Box::new(report.clone())).to_bytes());
    report.unwritten.extend(file.lock().unwritten());
    let reports = BTreeMap::from([(0, report)]);
    led.finish(Generators { reports, lost: BTreeMap::new(), count: 1 }, &[] as &[PathBuf])
}
