//! `--control`: this process is one of several generators that meet at a control Redis. The one with the lowest living shard also leads
//! the run, on a separate thread. The control Redis keeps the verdict for the others.

use super::{
    Conclusion, decode, leader,
    member::{Link, Member},
};
use crate::{
    config::{Config, Control},
    engine::{self, RunError, refused},
    generator::host_name,
    lead::{Generators, Lead, LeadSettings, planned_faults},
    stack_members,
};
use coordination::{ClaimError, Claimed, Coordinator, Leadership, Timing, redis};
use measure::FaultLog;
use plan::Stop;
use report::output::{Finished, run_id};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// Time that a generator waits for the leader's verdict after it has finished.
const VERDICT: Duration = Duration::from_secs(120);
/// Interval between two looks for the verdict.
const LOOK: Duration = Duration::from_millis(500);

/// How a generator that met others at a control Redis ended.
pub(crate) enum Played {
    /// It led the run, so it has the result.
    Led(Box<Finished>),
    /// Another generator led the run.
    Followed {
        /// The verdict. `None` if no leader gave one in time.
        conclusion: Option<Conclusion>,
        /// Common start of the names of this generator's files.
        base: PathBuf,
    },
    /// The run, or its shard, had started or finished before this process came, as for a task that its engine started again.
    TooLate(String),
}

/// Plays one shard of the run together with the other generators.
///
/// # Errors
/// The run was refused or interrupted before it began, or failed.
pub(crate) fn play(
    config: &Config,
    control: &Control,
    stop: &Stop,
    started_at: OffsetDateTime,
) -> Result<Played, RunError> {
    engine::check_host(config)?;
    let run = super::run_of(config, control.generators);
    let claimed = match connect(control)?.claim(&run, &host_name(), control.shard) {
        Ok(claimed) => claimed,
        Err(error @ (ClaimError::Finished { .. } | ClaimError::AlreadyStarted { .. })) => {
            return Ok(Played::TooLate(error.to_string()));
        }
        Err(error) => return Err(refused(&error.to_string())),
    };
    let Claimed { shard, generator, commands, leadership } = claimed;
    let link: Link = Arc::from(generator);
    let dir = &config.output.dir;
    std::fs::create_dir_all(dir)
        .map_err(|error| refused(&format!("cannot write to {}: {error}", dir.display())))?;
    let id = run_id(&config.output.name, started_at);
    let member = Member {
        config,
        stop,
        header: super::header(config, &run, shard, started_at),
        base: dir.join(format!("{id}_shard{}", shard + 1)),
        within: control.wait,
        faults: Arc::new(planned_faults(config)),
    };
    let settings = LeadSettings::new(config, None, stop, started_at).with_generators(run.generators);
    let (over, faults) = (&AtomicBool::new(false), &member.faults);
    thread::scope(|scope| {
        let leading = scope.spawn(move || {
            let leadership = wait_for_leadership(&leadership, over)?;
            Some(lead(settings, leadership, faults, over))
        });
        let played = member.play(&link, commands);
        let conclusion = played.is_ok().then(|| verdict(&*link, || leading.is_finished())).flatten();
        over.store(true, SeqCst);
        drop(link);
        let led = leading.join().map_err(|_| anyhow::anyhow!("the thread that leads the run panicked"))?;
        played?;
        match led {
            Some(finished) => Ok(Played::Led(Box::new(finished?))),
            None => Ok(Played::Followed { conclusion, base: member.base.clone() }),
        }
    })
}

/// Returns the control Redis of a run. It is connected to when it is used.
pub(super) fn connect(control: &Control) -> Result<redis::Control, RunError> {
    let redis = redis::Control::new(control.url.reveal(), Timing::default())
        .map_err(|error| refused(&format!("--control: {error}")))?;
    Ok(if control.force { redis.refuse_key(None) } else { redis })
}

/// Waits until this process is to lead the run, or the run is over.
fn wait_for_leadership(leadership: &Receiver<Leadership>, over: &AtomicBool) -> Option<Leadership> {
    loop {
        match leadership.recv_timeout(LOOK) {
            Ok(leadership) => return Some(leadership),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if over.load(SeqCst) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Waits for the verdict of the leader, or until this process has led the run to its end.
fn verdict(link: &dyn coordination::Generator, led: impl Fn() -> bool) -> Option<Conclusion> {
    let deadline = Instant::now() + VERDICT;
    while Instant::now() < deadline && !led() {
        if let Some(verdict) = link.verdict(LOOK) {
            return decode(&verdict);
        }
    }
    None
}

/// Leads the run. `known`: the faults as this generator knows them from an earlier leader, whose injections are not repeated. `over`
/// is set when the generator of this process has ended.
fn lead(
    settings: LeadSettings<'_>,
    leadership: Leadership,
    known: &FaultLog,
    over: &AtomicBool,
) -> Result<Finished, RunError> {
    let config = settings.config();
    let injector = engine::injector(config)?;
    let members = stack_members::find(&config.plan);
    let lead = Lead::prepare(settings.with_injector(injector.as_ref()), members)?;
    lead.faults().take_over(&known.records());
    // If this generator cannot start, its own error is the one to report.
    let mut obstacle = || over.load(SeqCst).then_some(RunError::Interrupted);
    // The rows stay with the generators, each of which may be on another machine.
    leader::lead(leadership, lead, &mut obstacle, |_: &Generators| Vec::new())
}
