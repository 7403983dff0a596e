//! The leader's side: merges the parts of all generators, tells them of faults and stops, and concludes the run.

use super::{Conclusion, Instruction, Status, decode, encode};
use crate::{
    amend::{Broadcast, Response},
    lead::{Generators, Lead, Led},
    run_error::RunError,
};
use anyhow::anyhow;
use coordination::{Command, ConcludeError, Event, Leader, Leadership};
use measure::{FaultLog, FaultRecord, GeneratorMessage, live::LiveCounters};
use plan::{Stop, schedule::AmendError};
use report::{messages, output::Finished};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

/// Interval at which faults and stops are looked for.
const POLL: Duration = Duration::from_millis(50);
/// Time until a burst, after the last session of the last generator is ready. It must reach all generators before.
const BURST_NOTICE: Duration = Duration::from_secs(2);
/// Time in which the verdict must be stored.
const CONCLUSION: Duration = Duration::from_secs(10);

/// Leads a run until every generator has finished or is lost. If it does not start, or another process leads it in the end, no files are
/// left; in the second case there is no result. `obstacle` is asked until the start, and returns why the run cannot start. `rows`
/// returns the files of rows to join in the end.
///
/// # Errors
/// The run did not start, or its results could not be written.
pub(super) fn lead(
    leadership: Leadership,
    lead: Lead<'_>,
    obstacle: &mut dyn FnMut() -> Option<RunError>,
    rows: impl FnOnce(&Generators) -> Vec<PathBuf>,
) -> Result<Option<Finished>, RunError> {
    let Leadership { leader, events } = leadership;
    let (count, is_burst) = (lead.generators(), lead.is_burst());
    let counters: Vec<Arc<LiveCounters>> = (0..count).map(|_| Arc::default()).collect();
    let mut sent = Instructions::new(&*leader, Arc::clone(lead.faults()), lead.stop());
    sent.send(&Instruction::StatedNames(lead.faults().stated_names()));
    let Start { at, before } = match wait_for_start(&events, &*leader, lead.stop(), obstacle) {
        Ok(Some(start)) => start,
        not_started => {
            lead.discard();
            return not_started.map(|_| None);
        }
    };
    let led = lead.begin(at, counters.clone(), Some(amendments(&leader)))?;
    let mut run = Run {
        led,
        counters,
        generators: Generators::default(),
        leader: Arc::clone(&leader),
        waits_for: is_burst.then(|| (0..count).collect()),
    };
    before.into_iter().for_each(|event| run.handle(event));
    loop {
        match events.recv_timeout(POLL) {
            Ok(Event::Replaced { by }) => {
                messages::print_stderr(&format!("generator {} leads the run now", by + 1));
                run.led.discard();
                return Ok(None);
            }
            Ok(event) => run.handle(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        sent.update();
        if let Some(at) = run.burst() {
            sent.send(&Instruction::Burst(at));
        }
    }
    let Run { led, generators, .. } = run;
    let rows = rows(&generators);
    conclude(&*leader, led.finish(generators, &rows)?)
}

/// The start of the run.
struct Start {
    at: Instant,
    /// What happened before: headers of the generators, and losses.
    before: Vec<Event>,
}

/// Waits until all generators have started. `None` if another process leads the run.
///
/// # Errors
/// The run was interrupted, `obstacle` returned a reason, or all generators have ended.
fn wait_for_start(
    events: &Receiver<Event>,
    leader: &dyn Leader,
    stop: &Stop,
    obstacle: &mut dyn FnMut() -> Option<RunError>,
) -> Result<Option<Start>, RunError> {
    let mut before = Vec::new();
    loop {
        match events.recv_timeout(POLL) {
            Ok(Event::Started { at }) => return Ok(Some(Start { at, before })),
            Ok(Event::Replaced { .. }) => return Ok(None),
            Ok(
                event @ (Event::Part { .. }
                | Event::Dropped { .. }
                | Event::Finished { .. }
                | Event::Lost { .. }),
            ) => {
                before.push(event);
                continue;
            }
            // A new leader first receives what happened before: the start may be among it.
            Ok(_) => continue,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(anyhow!("all generators ended before the start: see their messages above").into());
            }
        }
        let interrupted = stop.starting.is_cancelled().then_some(RunError::Interrupted);
        if let Some(error) = interrupted.or_else(&mut *obstacle) {
            let _ = leader.command(Command::Abort("the run cannot start".into()));
            return Err(error);
        }
    }
}

/// Returns what tells all generators of an amendment.
fn amendments(leader: &Arc<dyn Leader>) -> Broadcast {
    let leader = Arc::clone(leader);
    Box::new(move |amendment| {
        let instruction = Command::Custom(encode(&Instruction::Amend(amendment)));
        leader.command(instruction).map_err(|error| error.to_string())
    })
}

/// Stores the verdict for the other generators. `None` if another process leads the run.
fn conclude(leader: &dyn Leader, finished: Finished) -> Result<Option<Finished>, RunError> {
    let verdict = format!("{}: {}", finished.headline(), finished.judgement().reason);
    let conclusion = Conclusion { exit_code: finished.exit_code(), verdict };
    match leader.conclude(encode(&conclusion), CONCLUSION) {
        Ok(()) => {}
        // One run has one verdict.
        Err(error @ ConcludeError::NotLeading) => {
            messages::print_stderr(&error.to_string());
            finished.discard();
            return Ok(None);
        }
        Err(error) => messages::print_stderr(&format!("warning: {error}")),
    }
    Ok(Some(finished))
}

/// A run that has begun.
struct Run<'a> {
    led: Led<'a>,
    generators: Generators,
    /// One per generator.
    counters: Vec<Arc<LiveCounters>>,
    leader: Arc<dyn Leader>,
    /// In a burst whose instant is not determined: the shards that are not ready.
    waits_for: Option<BTreeSet<u32>>,
}

impl Run<'_> {
    /// Returns the time of the burst from the start of the run, when all generators have become ready.
    fn burst(&mut self) -> Option<Duration> {
        self.waits_for.take_if(|shards| shards.is_empty())?;
        Some(self.led.elapsed() + BURST_NOTICE)
    }

    /// Does not let the burst wait for this shard any longer.
    fn is_ready(&mut self, shard: u32) {
        if let Some(shards) = &mut self.waits_for {
            shards.remove(&shard);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Claimed { .. }
            | Event::Released { .. }
            | Event::Started { .. }
            | Event::Replaced { .. } => {}
            Event::Part { shard, bytes, .. } => self.receive(shard, &bytes),
            Event::Finished { shard, bytes } => {
                self.receive(shard, &bytes);
                self.is_ready(shard);
            }
            Event::Dropped { shard, parts } => {
                self.generators.lose(shard, format!("{parts} of its parts did not arrive in time"));
            }
            Event::Status { shard, bytes } => self.status(shard, &bytes),
            Event::Request { token, bytes } => self.leader.answer(&token, self.response(&bytes)),
            Event::Lost { shard, reason } => {
                messages::print_stderr(&format!("generator {} is lost: {reason}", shard + 1));
                self.generators.lose(shard, reason);
                self.led.results().ended(shard);
                self.is_ready(shard);
            }
        }
    }

    fn receive(&mut self, shard: u32, bytes: &[u8]) {
        match GeneratorMessage::from_bytes(bytes) {
            Ok(message) => {
                let (results, faults) = (self.led.results(), self.led.faults());
                self.generators.receive(shard, message, results, faults, self.led.schedule());
            }
            Err(error) => self.generators.lose(shard, error.to_string()),
        }
    }

    /// Executes a request that came through the control Redis.
    fn response(&self, request: &[u8]) -> Vec<u8> {
        let response = match (self.led.amender(), serde_json::from_slice(request)) {
            (Some(amender), Ok(request)) => amender.execute(&request),
            (None, _) => Response::Refused(AmendError::NoEnd.to_string()),
            (_, Err(error)) => Response::Refused(format!("the request cannot be read: {error}")),
        };
        serde_json::to_vec(&response).unwrap_or_default()
    }

    fn status(&mut self, shard: u32, bytes: &[u8]) {
        let Some(Status { totals, first_send, is_ready }) = decode(bytes) else { return };
        if is_ready {
            self.is_ready(shard);
        }
        if let Some(counters) = self.counters.get(shard as usize) {
            counters.set(&totals);
        }
        if let Some(after) = first_send {
            self.led.first_sent(after);
        }
    }
}

/// Sends the generators what has changed since the last time.
struct Instructions<'a> {
    leader: &'a dyn Leader,
    faults: Arc<FaultLog>,
    stop: &'a Stop,
    injected: Vec<FaultRecord>,
    stop_sent: bool,
    stop_now_sent: bool,
}

impl<'a> Instructions<'a> {
    fn new(leader: &'a dyn Leader, faults: Arc<FaultLog>, stop: &'a Stop) -> Self {
        let injected = faults.records();
        Self { leader, faults, stop, injected, stop_sent: false, stop_now_sent: false }
    }

    fn update(&mut self) {
        let injected = self.faults.records();
        let same = |(one, other): (&FaultRecord, &FaultRecord)| one.status == other.status;
        let is_same_number = injected.len() == self.injected.len();
        if !is_same_number || !injected.iter().zip(&self.injected).all(same) {
            self.send(&Instruction::Faults(injected.clone()));
            self.injected = injected;
        }
        if self.stop.starting.is_cancelled() && !self.stop_sent {
            self.stop_sent = true;
            self.send(&Instruction::Stop);
        }
        if self.stop.running.is_cancelled() && !self.stop_now_sent {
            self.stop_now_sent = true;
            self.send(&Instruction::StopNow);
        }
    }

    fn send(&self, instruction: &Instruction) {
        if let Err(error) = self.leader.command(Command::Custom(encode(instruction))) {
            messages::print_stderr(&format!("warning: the generators did not get a command: {error}"));
        }
    }
}
