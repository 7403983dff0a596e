//! How a run is divided among generators.

use super::check::Check;
use crate::cli::RunArgs;
use plan::{Estimate, MAX_GENERATORS, Plan, Shard};
use settings::{plural::counted, secret::Secret};
use std::time::Duration;

/// Sockets that one generator carries: those of one local address with the usual range of outgoing ports, with a reserve.
const SOCKETS_PER_GENERATOR: f64 = 15_000.0;
/// Tokens per second that one generator receives on half a core without being late.
const TOKENS_PER_GENERATOR: f64 = 100_000.0;
/// How long a generator waits for the others by default.
const WAIT: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// How a run is divided among generators.
#[derive(Clone, Debug, Default)]
pub enum Division {
    /// This process is the only generator.
    #[default]
    Whole,
    /// This process plays one shard, without the others.
    Shard(Shard),
    /// This process starts generators as processes on this machine.
    Processes(Processes),
    /// This process is one of several generators that meet at a control Redis.
    Control(Control),
}

/// Generators that this process starts.
#[derive(Clone, Copy, Debug)]
pub struct Processes {
    /// Number of generators, at least 2.
    pub count: u32,
    /// How long they wait for each other.
    pub wait: Duration,
}

/// The place of this generator among those that meet at a control Redis.
#[derive(Clone, Debug)]
pub struct Control {
    /// URL of the Redis.
    pub url: Secret,
    /// Whether the Redis may be that of the stack under test.
    pub force: bool,
    /// Name of the run. `None`: the fingerprint of the plan.
    pub run_id: Option<String>,
    /// Number of generators.
    pub generators: u32,
    /// Index of the wanted shard, from 0. `None`: any free one.
    pub shard: Option<u32>,
    /// How long to wait for the other generators.
    pub wait: Duration,
}

impl Division {
    /// Returns the number of generators of the run.
    #[must_use]
    pub const fn generators(&self) -> u32 {
        match self {
            Self::Whole => 1,
            Self::Shard(shard) => shard.count(),
            Self::Processes(processes) => processes.count,
            Self::Control(control) => control.generators,
        }
    }
}

/// The number in `--generators`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    Number(u32),
    Auto,
}

/// Reads the options that divide the run. [`divide`] needs the plan as well.
#[derive(Debug, Default)]
pub(super) struct Options {
    wanted: Option<Wanted>,
    shard: Option<Shard>,
    control: Option<Secret>,
    force: bool,
    run_id: Option<String>,
    wait: Duration,
}

pub(super) fn options(check: &mut Check, args: &RunArgs) -> Options {
    let wanted = args.generators.as_deref().and_then(|text| wanted(check, text));
    let shard = args.shard.as_deref().and_then(|text| {
        let invalid = |error| check.error(format!("invalid shard \"{text}\" for --shard: {error}"));
        text.parse::<Shard>().map_err(invalid).ok()
    });
    check_engine(check, args, wanted);
    let control = args.control.as_deref().and_then(|text| control_address(check, text));
    if args.control.is_none() {
        let given = [
            ("--run-id", args.run_id.is_some() && args.on.is_none()),
            ("--control-force", args.control_force),
            ("--always-exit-0", args.always_exit_0),
        ];
        for (flag, _) in given.iter().filter(|(_, given)| *given) {
            check.error(format!("{flag} needs --control: give the URL of a Redis where the generators meet"));
        }
        if wanted.is_some() && shard.is_some() {
            check.error(
                "--generators and --shard exclude each other without --control: use --generators to start all on this machine, or --shard \
                 to play one part"
                    .into(),
            );
        }
    }
    Options {
        wanted,
        shard,
        control,
        force: args.control_force,
        run_id: args.run_id.clone(),
        wait: check.duration("--wait-for-generators", args.wait_for_generators.as_ref(), WAIT, SECOND),
    }
}

/// Checks the number of generators of a manifest.
fn check_engine(check: &mut Check, args: &RunArgs, wanted: Option<Wanted>) {
    if args.on.is_some()
        && (!matches!(wanted, Some(Wanted::Number(_))) || args.control.is_some() || args.shard.is_some())
    {
        check.error("--on needs --generators N, and sets --control and --shard itself: give the number, and leave out the others".into());
    }
    if args.on.is_some() && args.embedded {
        check.error("--embedded works on one machine only: leave it out with --on".into());
    }
}

fn wanted(check: &mut Check, text: &str) -> Option<Wanted> {
    if text.trim() == "auto" {
        return Some(Wanted::Auto);
    }
    match text.trim().parse() {
        Ok(number) if (1..=MAX_GENERATORS).contains(&number) => Some(Wanted::Number(number)),
        _ => {
            check.error(format!(
                "invalid number \"{text}\" for --generators: expected 1 to {MAX_GENERATORS}, or auto"
            ));
            None
        }
    }
}

fn control_address(check: &mut Check, text: &str) -> Option<Secret> {
    let url = text.parse().ok().filter(|url: &url::Url| {
        matches!(url.scheme(), "redis" | "redis+unix" | "unix") && (url.has_host() || url.path().len() > 1)
    });
    if url.is_none() {
        check.error("invalid URL for --control: expected for example redis://control:6379 or redis+unix:///run/redis.sock".into());
    }
    url.map(|_| Secret::new(text.trim()))
}

/// Divides the plan. `cores`: cores of this machine.
pub(super) fn divide(
    check: &mut Check,
    options: Options,
    plan: &Plan,
    args: &RunArgs,
    cores: usize,
) -> Division {
    let Options { wanted, shard, control, force, run_id, wait } = options;
    let number = |wanted| match wanted {
        Wanted::Number(number) => number,
        Wanted::Auto => automatic(plan, cores),
    };
    let division = match (control, wanted, shard) {
        (Some(_), None, None) => {
            check.error(
                "--control needs the number of generators: add --generators N, or --shard NUMBER/N".into(),
            );
            return Division::Whole;
        }
        (Some(_), Some(Wanted::Auto), None) => {
            check.error(
                "--generators auto works on one machine only: give a number together with --control".into(),
            );
            return Division::Whole;
        }
        (Some(_), Some(Wanted::Number(number)), Some(shard)) if number != shard.count() => {
            check.error(format!(
                "--generators {number} contradicts --shard {shard}: give the same number, or only --shard"
            ));
            return Division::Whole;
        }
        (Some(url), wanted, shard) => Division::Control(Control {
            url,
            force,
            run_id,
            generators: shard.map_or_else(|| wanted.map_or(1, number), Shard::count),
            shard: shard.map(Shard::index),
            wait,
        }),
        (None, _, Some(shard)) if shard.is_whole() => Division::Whole,
        (None, _, Some(shard)) => Division::Shard(shard),
        (None, Some(wanted), None) => match number(wanted) {
            1 => Division::Whole,
            count => Division::Processes(Processes { count, wait }),
        },
        (None, None, None) => Division::Whole,
    };
    refuse_what_does_not_divide(check, &division, plan, args);
    division
}

fn refuse_what_does_not_divide(check: &mut Check, division: &Division, plan: &Plan, args: &RunArgs) {
    let generators = division.generators();
    if generators == 1 && !matches!(division, Division::Control(_)) {
        return;
    }
    let sessions = plan.schedule.most_concurrent();
    if u64::from(generators) > sessions {
        check.error(format!(
            "{generators} generators for {}: expected at most as many generators as sessions",
            counted(sessions, "sessions")
        ));
    }
    if args.burst && matches!(division, Division::Shard(_)) {
        check.error("--burst needs generators that agree on its instant: use --generators or --control instead of --shard".into());
    }
    if !args.faults.is_empty() && matches!(division, Division::Shard(_)) {
        check.error("--fault needs a process that injects faults once for all generators: use --generators or --control instead of --shard".into());
    }
    if args.embedded && !matches!(division, Division::Processes(_)) {
        check.error(
            "--embedded works on one machine only: start a stack that all generators can reach".into(),
        );
    }
    if args.web.is_some() && matches!(division, Division::Control(_)) {
        check.error("--web cannot be used with --control: several machines could lead the run".into());
    }
    if args.tui && matches!(division, Division::Control(_)) {
        check.error("--tui cannot be used with --control: start the generators without it".into());
    }
}

/// Returns the number of generators for `--generators auto`: as many as the load needs, at most one per core.
fn automatic(plan: &Plan, cores: usize) -> u32 {
    let estimate = Estimate::of(plan);
    let sockets = estimate.sockets as f64 / SOCKETS_PER_GENERATOR;
    let tokens = estimate.peak_tokens_per_second / TOKENS_PER_GENERATOR;
    let most = u32::try_from(cores).unwrap_or(MAX_GENERATORS).clamp(1, MAX_GENERATORS);
    (sockets.max(tokens).ceil() as u32).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::Engine, config::Config};

    fn args(generators: Option<&str>, shard: Option<&str>, control: Option<&str>) -> RunArgs {
        RunArgs {
            generators: generators.map(ToOwned::to_owned),
            shard: shard.map(ToOwned::to_owned),
            control: control.map(ToOwned::to_owned),
            ..RunArgs::default()
        }
    }

    fn errors(args: RunArgs) -> String {
        Config::new(args, 2, 1).map_or_else(|errors| errors.0.join("\n"), |_| String::new())
    }

    #[test]
    fn every_form_is_read() {
        let division = |args| Config::new(args, 2, 1).unwrap().division;
        assert!(matches!(division(RunArgs::default()), Division::Whole));
        assert!(matches!(division(args(Some("1"), None, None)), Division::Whole));
        assert!(matches!(
            division(args(Some("4"), None, None)),
            Division::Processes(Processes { count: 4, .. })
        ));
        assert!(
            matches!(division(args(None, Some("2/8"), None)), Division::Shard(shard) if shard.index() == 1)
        );
        let control = division(args(Some("8"), None, Some("redis://control:6379")));
        assert!(matches!(control, Division::Control(Control { generators: 8, shard: None, .. })));
        let control = division(args(None, Some("2/8"), Some("redis+unix:///run/redis.sock")));
        assert!(matches!(control, Division::Control(Control { generators: 8, shard: Some(1), .. })));
    }

    #[test]
    fn auto_needs_load_and_cores() {
        let count = |clients, cores| {
            let args = RunArgs { clients: Some(clients), ..args(Some("auto"), None, None) };
            Config::new(args, cores, 1).unwrap().division.generators()
        };
        assert_eq!((count(100, 8), count(60_000, 8), count(60_000, 2)), (1, 8, 2));
    }

    #[test]
    fn each_contradiction_is_one_clear_error() {
        let burst = RunArgs { burst: true, ..args(None, Some("1/2"), None) };
        let on = |number| RunArgs { on: Some(Engine::Swarm), ..args(number, None, None) };
        let faulty = RunArgs { faults: vec!["wsproxy-1:kill@1s".into()], ..args(None, Some("1/2"), None) };
        let few = RunArgs { clients: Some(3), ..args(Some("4"), None, None) };
        for (args, expected) in [
            (
                args(Some("0"), None, None),
                "invalid number \"0\" for --generators: expected 1 to 1000, or auto",
            ),
            (args(None, Some("9/8"), None), "invalid shard \"9/8\" for --shard: expected NUMBER/COUNT"),
            (args(Some("2"), Some("1/2"), None), "--generators and --shard exclude each other"),
            (args(None, None, Some("redis://x")), "--control needs the number of generators"),
            (args(Some("2"), None, Some("http://x")), "invalid URL for --control"),
            (args(Some("2"), Some("1/3"), Some("redis://x")), "--generators 2 contradicts --shard 1/3"),
            (args(Some("auto"), None, Some("redis://x")), "--generators auto works on one machine only"),
            (RunArgs { run_id: Some("x".into()), ..RunArgs::default() }, "--run-id needs --control"),
            (burst, "--burst needs generators that agree on its instant"),
            (few, "4 generators for 3 sessions"),
            (on(None), "--on needs --generators N"),
            (on(Some("auto")), "--on needs --generators N"),
            (faulty, "--fault needs a process that injects faults once"),
        ] {
            let errors = errors(args);
            assert!(errors.contains(expected) && errors.lines().count() == 1, "{expected}: {errors}");
        }
    }
}
