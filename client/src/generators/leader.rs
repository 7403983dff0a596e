//! The leader's side: merges the parts of all generators, tells them of faults and stops, and concludes the run.

use super::{Instruction, Status, decode, encode};
use crate::{
    engine::RunError,
    lead::{Generators, Lead, Led},
};
use coordination::{Command, Event, Leader, Leadership};
use load::injection::FirstSend;
use measure::{FaultLog, FaultRecord, GeneratorMessage, GeneratorReport, live::LiveCounters};
use plan::Stop;
use report::{messages, output::Finished};
use std::{
    path::PathBuf,
    sync::{Arc, mpsc::RecvTimeoutError},
    time::{Duration, Instant},
};

/// Interval at which faults and stops are looked for.
const POLL: Duration = Duration::from_millis(50);
/// Time in which the verdict must be stored.
const CONCLUSION: Duration = Duration::from_secs(10);

/// What the leader needs besides its right to lead.
pub(super) struct LeaderSettings<'a> {
    pub(super) stop: &'a Stop,
    /// Number of generators.
    pub(super) count: u32,
}

/// Returns why the run cannot start, or `None` if nothing stands against it. It is asked until the run starts.
pub(super) type Hindrance<'a> = &'a mut dyn FnMut() -> Option<RunError>;

/// Leads a run until every generator has finished or is lost.
/// `rows`: the files of rows that are joined in the end.
///
/// # Errors
/// The run could not start, or its results could not be written.
pub(super) fn lead(
    leadership: Leadership,
    settings: &LeaderSettings<'_>,
    lead: Lead<'_>,
    hindrance: Hindrance<'_>,
    rows: impl FnOnce(&Generators) -> Vec<PathBuf>,
) -> Result<Finished, RunError> {
    let Leadership { leader, events } = leadership;
    let counters: Vec<Arc<LiveCounters>> = (0..settings.count).map(|_| Arc::default()).collect();
    let mut run = Run {
        told: Told::new(&*leader, Arc::clone(lead.faults()), settings.stop),
        first_send: Arc::clone(lead.first_send()),
        faults: Arc::clone(lead.faults()),
        generators: Generators { count: settings.count, ..Generators::default() },
        counters,
        state: State::Waiting(Box::new(lead)),
    };
    run.told.instruct(&Instruction::StatedNames(run.faults.stated_names()));
    loop {
        match events.recv_timeout(POLL) {
            Ok(event) => run.handle(event)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if matches!(run.state, State::Waiting(_))
            && let Some(error) = hindrance()
        {
            let _ = leader.command(Command::Abort("the run cannot start".into()));
            return Err(error);
        }
        run.told.look();
    }
    let State::Begun { led, .. } = run.state else {
        return Err(anyhow::anyhow!("all generators ended before the start: see their messages above").into());
    };
    let rows = rows(&run.generators);
    let finished = led.finish(run.generators, &rows)?;
    let verdict = format!("{}: {}", finished.headline(), finished.judgement().reason);
    let conclusion = super::Conclusion { exit_code: finished.exit_code(), verdict };
    if let Err(error) = leader.conclude(encode(&conclusion), CONCLUSION) {
        messages::print_stderr(&format!("warning: {error}"));
    }
    Ok(finished)
}

enum State<'a> {
    Waiting(Box<Lead<'a>>),
    Begun { led: Box<Led<'a>>, epoch: Instant },
    Broken,
}

/// A run that is led.
struct Run<'a> {
    state: State<'a>,
    told: Told<'a>,
    first_send: Arc<FirstSend>,
    faults: Arc<FaultLog>,
    generators: Generators,
    /// One per generator.
    counters: Vec<Arc<LiveCounters>>,
}

impl Run<'_> {
    fn handle(&mut self, event: Event) -> Result<(), RunError> {
        match event {
            Event::Claimed { .. } | Event::Released { .. } => {}
            Event::Started { at } => self.begin(at)?,
            Event::Part { shard, bytes, .. } => self.part(shard, &bytes),
            Event::Dropped { shard, parts } => {
                let why = format!("{parts} of its parts did not arrive in time");
                self.generators.lost.insert(shard, why);
            }
            Event::Status { shard, bytes } => self.status(shard, &bytes),
            Event::Finished { shard, bytes } => match decode::<GeneratorReport>(&bytes) {
                Some(report) => {
                    self.faults.add_effects(&report.faults);
                    self.generators.reports.insert(shard, report);
                    self.ended(shard);
                }
                None => self.lost(shard, "its report is of another version of streamstress".into()),
            },
            Event::Lost { shard, reason } => self.lost(shard, reason),
            Event::Replaced { by } => {
                return Err(
                    anyhow::anyhow!("generator {} leads the run now: its results count", by + 1).into()
                );
            }
        }
        Ok(())
    }

    fn begin(&mut self, epoch: Instant) -> Result<(), RunError> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Waiting(lead) => {
                let led = lead.begin(epoch, self.counters.clone())?;
                self.state = State::Begun { led: Box::new(led), epoch };
            }
            state => self.state = state,
        }
        Ok(())
    }

    fn part(&mut self, shard: u32, bytes: &[u8]) {
        let State::Begun { led, .. } = &self.state else { return };
        match GeneratorMessage::from_bytes(bytes) {
            Ok(GeneratorMessage::Part(part)) => led.results().add(shard, *part),
            Ok(_) => {}
            Err(error) => {
                self.generators.lost.insert(shard, error.to_string());
            }
        }
    }

    fn status(&self, shard: u32, bytes: &[u8]) {
        let Some(status) = decode::<Status>(bytes) else { return };
        if let Some(counters) = self.counters.get(shard as usize) {
            counters.set(&status.totals);
        }
        if let (Some(first), State::Begun { epoch, .. }) = (status.first_send, &self.state) {
            self.first_send.note(*epoch + first);
        }
    }

    fn lost(&mut self, shard: u32, reason: String) {
        messages::print_stderr(&format!("generator {} is lost: {reason}", shard + 1));
        self.generators.lost.insert(shard, reason);
        self.ended(shard);
    }

    fn ended(&self, shard: u32) {
        if let State::Begun { led, .. } = &self.state {
            led.results().ended(shard);
        }
    }
}

/// What the generators were told so far.
struct Told<'a> {
    leader: &'a dyn Leader,
    faults: Arc<FaultLog>,
    stop: &'a Stop,
    injected: Vec<FaultRecord>,
    stop_sent: bool,
    stop_now_sent: bool,
}

impl<'a> Told<'a> {
    fn new(leader: &'a dyn Leader, faults: Arc<FaultLog>, stop: &'a Stop) -> Self {
        let injected = faults.records();
        Self { leader, faults, stop, injected, stop_sent: false, stop_now_sent: false }
    }

    /// Tells the generators what has changed.
    fn look(&mut self) {
        let injected = self.faults.records();
        let same = |(one, other): (&FaultRecord, &FaultRecord)| {
            (one.began, one.ended, &one.status) == (other.began, other.ended, &other.status)
        };
        if !injected.iter().zip(&self.injected).all(same) {
            self.instruct(&Instruction::Faults(injected.clone()));
            self.injected = injected;
        }
        if self.stop.starting.is_cancelled() && !self.stop_sent {
            self.stop_sent = true;
            self.instruct(&Instruction::Stop);
        }
        if self.stop.running.is_cancelled() && !self.stop_now_sent {
            self.stop_now_sent = true;
            self.instruct(&Instruction::StopNow);
        }
    }

    fn instruct(&self, instruction: &Instruction) {
        if let Err(error) = self.leader.command(Command::Custom(encode(instruction))) {
            messages::print_stderr(&format!("warning: the generators were not told: {error}"));
        }
    }
}
