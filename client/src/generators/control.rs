//! `--control`: this process is one of several generators that meet at a control Redis. Whoever holds the lowest living shard leads the
//! run as well, on a thread of its own; the control Redis keeps the verdict for the others.

use super::{
    Conclusion, decode,
    leader::{self, LeaderSettings},
    member::Member,
};
use crate::{
    config::{Config, Control},
    engine::{self, RunError, refused},
    generator::host_name,
    lead::{Generators, Lead},
    preflight, stack_faults, stack_members,
};
use coordination::{ClaimError, Claimed, Coordinator, Leadership, Run, Timing, redis};
use plan::{Shard, Stop};
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
    let first = Shard::new(0, control.generators).ok_or_else(|| refused("there is no such shard"))?;
    preflight::local(&config.part(first))?;
    let run = super::run_of(config, control.generators);
    let claimed = match connect(control)?.claim(&run, &host_name(), control.shard) {
        Ok(claimed) => claimed,
        Err(error @ (ClaimError::Finished { .. } | ClaimError::AlreadyStarted { .. })) => {
            return Ok(Played::TooLate(error.to_string()));
        }
        Err(error) => return Err(refused(&error.to_string())),
    };
    let Claimed { shard, generator, commands, leadership } = claimed;
    let link: Arc<dyn coordination::Generator> = Arc::from(generator);
    std::fs::create_dir_all(&config.output.dir)
        .map_err(|error| refused(&format!("cannot write to {}: {error}", config.output.dir.display())))?;
    let id = run_id(&config.output.name, started_at);
    let base = config.output.dir.join(format!("{id}_shard{}", shard + 1));
    let header = super::header(config, &run, shard, started_at);
    let member = Member { config, stop, header, base: base.clone(), within: control.wait };
    let over = AtomicBool::new(false);
    let (run, is_over) = (&run, &over);
    thread::scope(|scope| {
        let leading = scope.spawn(move || {
            let leadership = wait_for_leadership(&leadership, is_over)?;
            Some(lead(config, run, leadership, stop, started_at))
        });
        let played = member.play(shard, &link, commands);
        let conclusion = if played.is_ok() { verdict(&*link, || leading.is_finished()) } else { None };
        over.store(true, SeqCst);
        drop(link);
        let led = leading.join().map_err(|_| anyhow::anyhow!("the thread that leads the run panicked"))?;
        played?;
        match led {
            Some(finished) => Ok(Played::Led(Box::new(finished?))),
            None => Ok(Played::Followed { conclusion, base }),
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

fn lead(
    config: &Config,
    run: &Run,
    leadership: Leadership,
    stop: &Stop,
    started_at: OffsetDateTime,
) -> Result<Finished, RunError> {
    let faults = &config.plan.faults;
    let injector = (!faults.planned.is_empty()).then(|| stack_faults::injector(faults.stack.as_deref()));
    let injector = injector.transpose().map_err(|error| refused(&error))?;
    let tls = engine::tls(config)?;
    let members = stack_members::find(&config.plan);
    let lead = Lead::prepare(config, injector.as_ref(), members, &tls, stop, (started_at, run.generators))?;
    let settings = LeaderSettings { stop, count: run.generators };
    // The rows stay with the generators, each of which may be on another machine.
    leader::lead(leadership, &settings, lead, &mut || None, |_: &Generators| Vec::new())
}
