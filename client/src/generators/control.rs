//! `--control`: this process is one of several generators that meet at a control Redis. The one with the lowest living shard also leads
//! the run, on a separate thread. The control Redis keeps the verdict for the others.

use super::{
    Conclusion, decode, leader,
    member::{Delivery, Link, Member},
};
use crate::{
    config::{Config, Control},
    generator::host_name,
    lead::{Generators, Lead, LeadSettings, planned_faults},
    preflight,
    run_error::{RunError, refused},
    stack_members,
};
use anyhow::ensure;
use coordination::{ClaimError, Claimed, Command, Coordinator, Leader, Leadership, Timing, redis};
use load::injection::{FaultEffect, Injector};
use measure::FaultLog;
use plan::Stop;
use report::{
    messages,
    output::{Finished, run_id},
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// Interval between two looks for leadership, and for the verdict.
const LOOK: Duration = Duration::from_millis(500);
/// Time in which the control Redis must say whether this process still leads.
const CONFIRMATION: Duration = Duration::from_secs(2);

/// How a generator that met others at a control Redis ended.
pub(crate) enum Played {
    /// It led the run, so it has the result.
    Led(Box<Finished>),
    /// Another generator led the run.
    Followed {
        /// The verdict. `None` if no leader gave one.
        conclusion: Option<Conclusion>,
        /// Common start of the names of this generator's files.
        base: PathBuf,
    },
    /// The run, or its shard, had started or finished before this process came, as for a task that its engine started again.
    TooLate(String),
}

/// What the thread that leads the run reports.
enum News {
    /// This process leads.
    Leads,
    /// It has led the run to its end, or cannot lead it. Without a result, another generator leads.
    Led(Result<Option<Box<Finished>>, RunError>),
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
    preflight::host(config)?;
    // Each generator may have to lead. One that cannot must not let the run start.
    let injector = preflight::injector(config)?;
    if let Some(injector) = &injector {
        preflight::faults(config, &**injector)?;
    }
    let redis = connect(control)?;
    let run = super::run_of(config, control.generators);
    let Claimed { shard, generator, commands, leadership } =
        match redis.claim(&run, &host_name(), control.shard) {
            Ok(claimed) => claimed,
            Err(error) => return not_claimed(&error, control),
        };
    let link: Link = Arc::from(generator);
    let dir = &config.output.dir;
    std::fs::create_dir_all(dir)
        .map_err(|error| refused(&format!("cannot write to {}: {error}", dir.display())))?;
    let id = run_id(&config.output.name, started_at);
    // What the leader tells this generator must not reach the thread that may lead the run.
    let own_stop = stop.child();
    let member = Member {
        config,
        stop: &own_stop,
        header: super::header(config, &run, shard, started_at),
        base: dir.join(format!("{id}_shard{}", shard + 1)),
        within: control.wait,
        faults: Arc::new(planned_faults(config)),
    };
    let settings = LeadSettings::new(config, None, stop, started_at).with_generators(run.generators);
    let faults = &member.faults;
    thread::scope(|scope| {
        // Dropping `waits` tells the other thread that the run is over for this process.
        let (waits, waited_for) = sync_channel::<()>(0);
        let (tell, news) = sync_channel(2);
        scope.spawn(move || {
            if let Some(leadership) = wait_for_leadership(&leadership, &waited_for) {
                let _ = tell.send(News::Leads);
                let led = lead(settings, injector.as_ref(), leadership, faults, &waited_for);
                let _ = tell.send(News::Led(led.map(|finished| finished.map(Box::new))));
            }
        });
        let delivery = member.play(&link, commands);
        let mut link = Some(link);
        if let Ok(Delivery::Failed(why)) = &delivery {
            messages::print_stderr(&format!("generator {}: {why}", shard + 1));
        }
        let outcome = match &delivery {
            Ok(_) => wait_for_end(&news, &redis, &run.id, stop),
            Err(_) => {
                drop(waits);
                // The others, and the thread that leads, need not wait for this generator.
                drop(link.take());
                led_to_its_end(&news)
            }
        };
        drop(link);
        played(outcome, delivery, shard, &member.base)
    })
}

/// Joins what became of the run with what became of this generator's shard.
fn played(
    outcome: Result<Outcome, RunError>,
    delivery: Result<Delivery, RunError>,
    shard: u32,
    base: &Path,
) -> Result<Played, RunError> {
    match (outcome, delivery) {
        // The thread that leads is interrupted if the generator cannot play, and the other way round.
        (Err(RunError::Interrupted), Err(error))
        | (Err(error), _)
        | (Ok(Outcome::Verdict(_)), Err(error)) => Err(error),
        (Ok(Outcome::Led(finished)), Ok(_)) => Ok(Played::Led(finished)),
        // The run's result counts, and says that this generator is lost.
        (Ok(Outcome::Led(finished)), Err(error)) => {
            messages::print_stderr(&format!("generator {}: {error}", shard + 1));
            Ok(Played::Led(finished))
        }
        (Ok(Outcome::Verdict(conclusion)), Ok(_)) => {
            Ok(Played::Followed { conclusion, base: base.to_owned() })
        }
    }
}

/// Returns how a generator ends that got no shard.
fn not_claimed(error: &ClaimError, control: &Control) -> Result<Played, RunError> {
    match error {
        // An engine starts a task again with the same name of the run. Without a name, this is a new run with an old one's plan.
        ClaimError::Finished { .. } | ClaimError::AlreadyStarted { .. } if control.run_id.is_some() => {
            Ok(Played::TooLate(error.to_string()))
        }
        ClaimError::Finished { .. } | ClaimError::AlreadyStarted { .. } => {
            Err(refused(&format!("{error} (--run-id NAME)")))
        }
        _ => Err(refused(&error.to_string())),
    }
}

/// How the run ended for this process.
enum Outcome {
    Led(Box<Finished>),
    Verdict(Option<Conclusion>),
}

/// Waits, without a limit of time, until this process has led the run to its end, or another one has. A generator that has finished
/// still gives signs of life, so that the run has a leader as long as any process is left. Gives up if the control Redis does not
/// answer for three minutes, as a leader does, or if the run is to stop at once.
fn wait_for_end(
    news: &Receiver<News>,
    redis: &redis::Control,
    run: &str,
    stop: &Stop,
) -> Result<Outcome, RunError> {
    let give_up = Timing::default().give_up;
    let mut leads = false;
    let mut answered = Instant::now();
    loop {
        match news.try_recv() {
            Ok(News::Leads) => leads = true,
            Ok(News::Led(Ok(Some(finished)))) => return Ok(Outcome::Led(finished)),
            Ok(News::Led(Ok(None))) => (leads, answered) = (false, Instant::now()),
            Ok(News::Led(Err(error))) => return Err(error),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        if !leads {
            match redis.verdict(run) {
                Ok(Some(verdict)) => return Ok(Outcome::Verdict(decode(&verdict))),
                Ok(None) => answered = Instant::now(),
                Err(_) => {}
            }
            if answered.elapsed() > give_up || stop.running.is_cancelled() {
                return Ok(Outcome::Verdict(None));
            }
        }
        thread::sleep(LOOK);
    }
}

/// Waits for the thread that leads the run, if this process leads it.
fn led_to_its_end(news: &Receiver<News>) -> Result<Outcome, RunError> {
    for one in news {
        match one {
            News::Led(Ok(Some(finished))) => return Ok(Outcome::Led(finished)),
            News::Led(Err(error)) => return Err(error),
            News::Leads | News::Led(Ok(None)) => {}
        }
    }
    Ok(Outcome::Verdict(None))
}

/// Returns the control Redis of a run. It is connected to when it is used.
pub(super) fn connect(control: &Control) -> Result<redis::Control, RunError> {
    let redis = redis::Control::new(control.url.reveal(), Timing::default())
        .map_err(|error| refused(&format!("--control: {error}")))?;
    Ok(if control.force { redis.refuse_key(None) } else { redis })
}

/// Returns whether the run is over for this process.
fn is_over(waited_for: &Receiver<()>) -> bool {
    matches!(waited_for.try_recv(), Err(TryRecvError::Disconnected))
}

/// Waits until this process is to lead the run, or the run is over.
fn wait_for_leadership(leadership: &Receiver<Leadership>, waited_for: &Receiver<()>) -> Option<Leadership> {
    loop {
        match leadership.recv_timeout(LOOK) {
            Ok(leadership) => return Some(leadership),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if is_over(waited_for) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Leads the run. `known`: the faults as this generator knows them from an earlier leader, whose injections are not repeated. Returns
/// `None` if another generator leads the run in the end. If this process cannot lead, all generators stop.
fn lead(
    settings: LeadSettings<'_>,
    injector: Option<&Arc<dyn Injector>>,
    leadership: Leadership,
    known: &FaultLog,
    waited_for: &Receiver<()>,
) -> Result<Option<Finished>, RunError> {
    let config = settings.config();
    let leader = Arc::clone(&leadership.leader);
    let confirmed: Option<Arc<dyn Injector>> = injector.map(|injector| {
        let (injector, leader) = (Arc::clone(injector), Arc::clone(&leader));
        Arc::new(Confirmed { injector, leader }) as Arc<dyn Injector>
    });
    let prepared =
        Lead::prepare(settings.with_injector(confirmed.as_ref()), stack_members::find(&config.plan));
    let led = prepared.and_then(|lead| {
        lead.faults().take_over(&known.records());
        // If this generator cannot start, its own error is the one to report.
        let mut obstacle = || is_over(waited_for).then_some(RunError::Interrupted);
        // The rows stay with the generators, each of which may be on another machine.
        leader::lead(leadership, lead, &mut obstacle, |_: &Generators| Vec::new())
    });
    if let Err(error) = &led {
        let _ = leader.command(Command::Abort(format!("the run cannot be led: {error}")));
    }
    led
}

/// Injects faults only while this process leads the run: one that was frozen may have a successor that injects them too.
struct Confirmed {
    injector: Arc<dyn Injector>,
    leader: Arc<dyn Leader>,
}

impl Injector for Confirmed {
    fn check(&self, spec: &str) -> anyhow::Result<()> {
        self.injector.check(spec)
    }

    fn inject(&self, spec: &str) -> anyhow::Result<FaultEffect> {
        ensure!(
            self.leader.confirm(CONFIRMATION),
            "the control Redis did not confirm that this generator leads the run"
        );
        self.injector.inject(spec)
    }

    fn stated_names(&self) -> anyhow::Result<std::collections::BTreeMap<String, String>> {
        self.injector.stated_names()
    }
}
