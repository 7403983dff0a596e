//! Renders the plan as text: the table of `--dry-run`, the line before a run, and warnings about what the run cannot measure.

use crate::config::Config;
use plan::{Estimate, PlannedFault};
use settings::{address::Address, plural::counted};
use std::{fmt::Write, time::Duration};

/// Returns warnings to print before the run: faults that come too late, percentiles with too few samples.
#[must_use]
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let warnings = config.warnings.iter().cloned().chain(late_faults(config));
    warnings.chain(too_few_samples(config)).collect()
}

/// Returns a warning for each fault that is planned after the estimated end of the run.
fn late_faults(config: &Config) -> Vec<String> {
    let planned = &config.plan.faults.planned;
    if planned.is_empty() {
        return Vec::new();
    }
    let Estimate { duration: end, by_clock, assumed, .. } = Estimate::of(&config.plan);
    // The duration is a guess if the server chooses the timing.
    let comes = if by_clock || !assumed { "comes" } else { "may come" };
    let warning = |fault: &PlannedFault| {
        format!(
            "--fault `{}` at {} {comes} too late: the run takes an estimated {}, and a run that ends before its fault is INVALID. \
             Choose an earlier time, or a longer run with --duration or --stages",
            fault.spec,
            clock(fault.at),
            clock(end)
        )
    };
    planned.iter().filter(|fault| fault.at >= end).map(warning).collect()
}

/// Returns a warning for each threshold on a percentile that the run has too few samples for.
fn too_few_samples(config: &Config) -> Vec<String> {
    let Estimate { sessions, queries, tokens, .. } = Estimate::of(&config.plan);
    config.criteria.too_few(sessions as f64, queries, tokens)
}

/// Renders the plan as a table. `descriptors` is the number of file descriptors that the run opens.
#[must_use]
pub fn plan(config: &Config, descriptors: u64) -> String {
    let (schedule, estimate) = (&config.plan.schedule, Estimate::of(&config.plan));
    let mut out = String::new();
    let unit = if schedule.model().is_open() { "per second" } else { "sessions" };
    let _ = writeln!(out, "workload {}, seed {}\n", schedule.model().name(), config.plan.load.seed);
    let _ = writeln!(out, "  {:<12} {:>10} {:>10}   {unit}", "phase", "from", "to");
    for phase in schedule.phases() {
        let end = phase.end.map_or_else(|| "end".to_owned(), clock);
        let target = match (phase.from, phase.target) {
            (from, to) if (from - to).abs() < 1e-9 => figure(to),
            (from, to) => format!("{} → {}", figure(from), figure(to)),
        };
        let _ = writeln!(out, "  {:<12} {:>10} {end:>10}   {target}", phase.name, clock(phase.start));
    }
    let kinds = &config.plan.users.kinds;
    if kinds.len() > 1 {
        let total: f64 = kinds.iter().map(|kind| kind.weight).sum();
        let shares = kinds.iter().map(|kind| format!("{} {:.0} %", kind.name, kind.weight / total * 100.0));
        let _ = writeln!(out, "\n  users          {}", shares.collect::<Vec<_>>().join(", "));
    }
    let assumed =
        if estimate.assumed { "  (the server chooses: 18 tokens every 50 ms are assumed)" } else { "" };
    let _ = writeln!(out, "\n  sessions       {}", estimate.sessions);
    let _ = writeln!(out, "  sockets        at most {} at once{}", estimate.sockets, spread(config));
    let _ = writeln!(out, "  descriptors    {descriptors}");
    let _ = writeln!(out, "  queries        about {:.0}", estimate.queries);
    let _ = writeln!(out, "  tokens         about {:.0}{assumed}", estimate.tokens);
    let _ = writeln!(out, "  at the peak    about {:.0} tokens/s", estimate.peak_tokens_per_second);
    let _ = writeln!(out, "  duration       about {}", clock(estimate.duration));
    if let Some((start, end)) = schedule.steady_window() {
        let _ = writeln!(out, "  steady         {} to {}", clock(start), clock(end));
    }
    out
}

/// Renders the plan as one line.
#[must_use]
pub fn outline(config: &Config, descriptors: u64) -> String {
    let Estimate { sessions, sockets, queries, tokens, peak_tokens_per_second, duration, .. } =
        Estimate::of(&config.plan);
    format!(
        "plan: {}, {}{} and {} at most, about {}, {}, {peak_tokens_per_second:.0} tokens/s at the peak, {}",
        counted(sessions, "sessions"),
        counted(sockets, "sockets"),
        spread(config),
        counted(descriptors, "descriptors"),
        counted(queries.round(), "queries"),
        counted(tokens.round(), "tokens"),
        clock(duration)
    )
}

/// Names the addresses that sockets are spread over. Empty if there is only one.
fn spread(config: &Config) -> String {
    let target = &config.plan.target;
    let published: Vec<_> = target.published.iter().map(ToString::to_string).collect();
    let urls: Vec<_> = [&target.ws].into_iter().chain(&target.more_ws).map(Address::authority).collect();
    match (published.len(), urls.len()) {
        (0, 1) => String::new(),
        (0, _) => format!(" (spread over {})", urls.join(", ")),
        _ => format!(" (spread over the container's published ports {})", published.join(", ")),
    }
}

fn figure(value: f64) -> String {
    if value.fract().abs() < 1e-9 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        return format!("{} s", (time.as_secs_f64() * 10.0).round() / 10.0);
    }
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02} min")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::RunArgs;

    fn estimate(args: RunArgs) -> Estimate {
        Estimate::of(&Config::new(RunArgs { seed: Some(1), ..args }, 2, 1).unwrap().plan)
    }

    #[test]
    fn what_is_reckoned() {
        let closed = estimate(RunArgs { clients: Some(100), queries: Some(20), ..RunArgs::default() });
        assert_eq!((closed.sessions, closed.queries, closed.tokens), (100, 2000.0, 36_000.0));
        assert!(closed.assumed && closed.duration == Duration::from_secs(19), "{closed:?}");
        assert!((closed.peak_tokens_per_second - 2000.0).abs() < 1.0);
        let staged = estimate(RunArgs {
            stages: Some("10s:10,10s:10".into()),
            answer_tokens: Some(10.0.into()),
            itl_ms: Some(100.0.into()),
            ..RunArgs::default()
        });
        assert!((staged.queries - 155.0).abs() < 1.0, "{staged:?}");
        let open = estimate(RunArgs {
            arrival_rate: Some(5.0),
            duration: Some("20s".into()),
            queries: Some(2),
            ..RunArgs::default()
        });
        assert_eq!((open.sessions, open.queries, open.sockets), (100, 200.0, 1000));
        assert!((open.peak_tokens_per_second - 180.0).abs() < 1.0, "{open:?}");
    }

    #[test]
    fn what_is_left_goes_by_the_clock_where_the_schedule_does() {
        let s = Duration::from_secs;
        let counted = estimate(RunArgs { clients: Some(10), queries: Some(10), ..RunArgs::default() });
        assert_eq!(counted.left(s(3), 0), None);
        assert_eq!(counted.left(s(30), 75), Some(s(10)), "100 queries, a quarter of them to come");
        assert_eq!(counted.left(s(30), 101), Some(Duration::ZERO));
        let staged = || RunArgs { stages: Some("10s:10,50s:10".into()), ..RunArgs::default() };
        let open = || RunArgs { arrival_rate: Some(5.0), duration: Some("60s".into()), ..RunArgs::default() };
        let closed = || RunArgs { duration: Some("60s".into()), ..RunArgs::default() };
        for fixed in [staged(), RunArgs { queries: Some(1), ..open() }, closed()].map(estimate) {
            for done in [0, 1, 1_000_000] {
                let left = fixed.left(s(20), done).unwrap();
                assert!(left >= s(40) && left < s(42), "{left:?} of {fixed:?}");
            }
            assert_eq!(fixed.left(s(90), 1), Some(Duration::ZERO));
        }
    }

    #[test]
    fn a_fault_behind_the_end_is_reported_before_the_run() {
        let warnings = |duration: Option<&str>, at: &str| {
            let args = RunArgs {
                duration: duration.map(Into::into),
                faults: vec![format!("wsproxy-1:kill@{at}")],
                ..RunArgs::default()
            };
            late_faults(&Config::new(args, 2, 1).unwrap())
        };
        assert_eq!(warnings(Some("60s"), "59s"), Vec::<String>::new());
        let late = warnings(Some("60s"), "90s");
        assert!(late[0].contains("`wsproxy-1:kill` at 1:30 min comes too late"), "{late:?}");
        assert_eq!((warnings(None, "5s").len(), warnings(None, "1h").len()), (0, 1), "ten queries a session");
    }

    #[test]
    fn a_plan_is_a_table() {
        let args = RunArgs { stages: Some("2m:100,5m:100,1m:0".into()), seed: Some(7), ..RunArgs::default() };
        let text = plan(&Config::new(args, 2, 1).unwrap(), 328);
        for line in [
            "seed 7",
            "0 → 100",
            "2:00 min   7:00 min   100",
            "descriptors    328",
            "steady         1:54 min to 7:03 min",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
