//! What a reader should look at first: rules over what was measured and watched, each with its evidence in a sentence.
//! Pure, and no judge: a finding changes no verdict.

use crate::watch::{Usage, Watched};
use serde::Serialize;

/// Growth is looked for in runs at least so long, in their second half.
const SOAK_S: f64 = 600.0;
/// A slope so many times its standard error is no chance.
const SIGNIFICANT: f64 = 6.0;
/// Growth over the run under this many MB concerns nobody.
const LEAST_GROWTH_MB: f64 = 8.0;
/// Busy seconds from which a core is said to be used up, and their least share of the run.
const BUSY_SECONDS: u64 = 5;
const BUSY_SHARE: f64 = 0.05;
/// Share of the descriptors from which the limit is near.
const NEAR_LIMIT: f64 = 0.9;

/// Something worth a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In a few words.
    pub title: String,
    /// A sentence with the figures.
    pub evidence: String,
}

/// What the run itself measured, as far as the rules ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// p99 of the client's own loop lag, milliseconds.
    pub loop_lag_p99_ms: Option<f64>,
    /// Share of the time that the client's threads waited for a CPU.
    pub cpu_wait_share: Option<f64>,
    /// The most attempts to reconnect in a second, and when.
    pub peak_reconnects: (u64, u64),
    /// Sessions open at once, at most.
    pub peak_sessions: u64,
}

/// All findings, the gravest first.
#[must_use]
pub fn find(measured: &Measured, watched: &Watched) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |title: String, evidence: String| findings.push(Finding { title, evidence });
    for (name, second) in &watched.ended {
        found(
            format!("{name} ended"),
            format!("It was found ended {second} s into the run, and nothing took its place."),
        );
    }
    restarts(watched, &mut found);
    for (door, (count, first, last, answer)) in &watched.failed {
        let when =
            if first == last { format!("at {first} s") } else { format!("from {first} s to {last} s") };
        found(
            format!("{door} failed"),
            format!("{count} checks were not answered with success, {when}; the last one: {answer}."),
        );
    }
    generator(measured, &mut found);
    for (name, usage) in &watched.processes {
        processor(name, usage, &mut found);
        descriptors(name, usage, &mut found);
        memory(name, usage, &mut found);
    }
    storm(measured, &mut found);
    findings
}

fn restarts(watched: &Watched, found: &mut impl FnMut(String, String)) {
    let mut names: Vec<_> = watched.restarts.iter().map(|restart| &restart.0).collect();
    names.sort();
    names.dedup();
    for name in names {
        let times: Vec<_> =
            watched.restarts.iter().filter(|restart| restart.0 == *name).map(|restart| restart.1).collect();
        let shown: Vec<_> = times.iter().take(5).map(|second| format!("{second} s")).collect();
        let more = if times.len() > 5 { " …" } else { "" };
        found(
            format!("{name} was restarted"),
            format!("Its process id changed at {}{more}.", shown.join(", ")),
        );
    }
}

fn generator(measured: &Measured, found: &mut impl FnMut(String, String)) {
    let lag = measured.loop_lag_p99_ms.filter(|&ms| ms > 10.0);
    let waited = measured.cpu_wait_share.filter(|&share| share > 0.1);
    let evidence = match (lag, waited) {
        (None, None) => return,
        (Some(lag), None) => format!("Its own loop was late by {lag:.1} ms at p99"),
        (None, Some(share)) => format!("Its threads waited for a CPU {:.0} % of the time", share * 100.0),
        (Some(lag), Some(share)) => {
            format!(
                "Its own loop was late by {lag:.1} ms at p99, and its threads waited for a CPU {:.0} % of the time",
                share * 100.0
            )
        }
    };
    found(
        "the load generator was saturated".into(),
        format!("{evidence}: its figures are too high, run it elsewhere or with less load."),
    );
}

#[allow(clippy::cast_precision_loss)]
fn processor(name: &str, usage: &Usage, found: &mut impl FnMut(String, String)) {
    let share = usage.busy_seconds as f64 / usage.samples.max(1) as f64;
    if name == "client" || usage.busy_seconds < BUSY_SECONDS || share < BUSY_SHARE {
        return;
    }
    let what = match name.split('-').next() {
        Some("redis") => "Redis runs its commands on one core, so the bus itself was the bottleneck",
        Some("wsproxy") => "more gateways would share the work",
        Some("haproxy") => "the load balancer was a bottleneck",
        Some("server") => "more simulators would share the work",
        _ => "it may be a bottleneck",
    };
    let evidence = format!(
        "It used 0.9 cores or more in {} of {} seconds, {:.2} on average: {what}.",
        usage.busy_seconds,
        usage.samples,
        usage.mean_cpu()
    );
    found(format!("{name} used up a core"), evidence);
}

#[allow(clippy::cast_precision_loss)]
fn descriptors(name: &str, usage: &Usage, found: &mut impl FnMut(String, String)) {
    let Some(limit) =
        usage.descriptor_limit.filter(|&limit| usage.most_descriptors as f64 >= limit as f64 * NEAR_LIMIT)
    else {
        return;
    };
    let evidence = format!(
        "It had {} descriptors open and may have {limit}: raise `ulimit -n`.",
        usage.most_descriptors
    );
    found(format!("{name} was near its limit of open files"), evidence);
}

fn memory(name: &str, usage: &Usage, found: &mut impl FnMut(String, String)) {
    let points: Vec<_> = usage.memory().collect();
    let Some((from, to)) = points.first().zip(points.last()).map(|(first, last)| (first.0, last.0)) else {
        return;
    };
    if to - from < SOAK_S {
        return;
    }
    // What fills at the beginning is no leak.
    let half: Vec<_> = points.into_iter().filter(|point| point.0 >= f64::midpoint(from, to)).collect();
    let Some((slope, error)) = slope(&half) else { return };
    let growth = slope * (to - from) / 2.0;
    let level = half.iter().map(|point| point.1).sum::<f64>() / half.len() as f64;
    if slope < SIGNIFICANT * error || growth < LEAST_GROWTH_MB.max(level * 0.05) {
        return;
    }
    let evidence = format!(
        "Over the run's second half it grew by {:.1} ± {:.1} MB an hour, around {level:.0} MB.",
        slope * 3600.0,
        error * 3600.0
    );
    found(format!("{name}'s memory grows"), evidence);
}

/// Least squares: the slope and its standard error; none of fewer than ten points.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn slope(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    if points.len() < 10 {
        return None;
    }
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let sxx: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let sxy: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    if sxx <= 0.0 {
        return None;
    }
    let slope = sxy / sxx;
    let residual: f64 = points.iter().map(|point| (point.1 - y - slope * (point.0 - x)).powi(2)).sum();
    Some((slope, (residual / (n - 2.0) / sxx).sqrt()))
}

fn storm(measured: &Measured, found: &mut impl FnMut(String, String)) {
    let (peak, at) = measured.peak_reconnects;
    if peak >= 20 && peak * 10 >= measured.peak_sessions {
        let evidence = format!(
            "{peak} attempts came in one second, {at} s into the run, of {} sessions: the backoff spreads them too little, or a whole gateway was lost.",
            measured.peak_sessions
        );
        found("clients reconnected in a storm".into(), evidence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.title.as_str()).collect()
    }

    fn watched(change: impl FnOnce(&mut Watched)) -> Watched {
        let mut watched = Watched::default();
        change(&mut watched);
        watched
    }

    fn process(name: &str, usage: Usage) -> Watched {
        watched(|watched| {
            watched.processes.insert(name.into(), usage);
        })
    }

    #[test]
    fn each_rule_has_its_evidence() {
        let busy = || Usage { samples: 60, busy_seconds: 12, ..Usage::default() };
        let full =
            Usage { samples: 60, most_descriptors: 950, descriptor_limit: Some(1_000), ..Usage::default() };
        for (watched, title, evidence) in [
            (watched(|w| w.ended.push(("server-1".into(), 9))), "server-1 ended", "ended 9 s into"),
            (
                watched(|w| w.restarts.extend([("redis".into(), 3), ("redis".into(), 8)])),
                "redis was restarted",
                "changed at 3 s, 8 s.",
            ),
            (
                watched(|w| drop(w.failed.insert("api /ready".into(), (4, 2, 6, "503".into())))),
                "api /ready failed",
                "4 checks were not answered with success, from 2 s to 6 s; the last one: 503.",
            ),
            (process("redis", busy()), "redis used up a core", "in 12 of 60 seconds"),
            (
                process("wsproxy-1", full),
                "wsproxy-1 was near its limit of open files",
                "950 descriptors open and may have 1000",
            ),
        ] {
            let findings = find(&Measured::default(), &watched);
            assert_eq!(titles(&findings), [title]);
            assert!(findings[0].evidence.contains(evidence), "{}", findings[0].evidence);
        }
        for watched in [
            Watched::default(),
            process("client", busy()),
            process("redis", Usage { busy_seconds: 4, ..busy() }),
            process("redis", Usage { samples: 10_000, ..busy() }),
        ] {
            assert_eq!(find(&Measured::default(), &watched), []);
        }
    }

    #[test]
    fn of_the_run_itself() {
        for (measured, expected) in [
            (
                Measured { loop_lag_p99_ms: Some(12.0), ..Measured::default() },
                vec!["the load generator was saturated"],
            ),
            (
                Measured { cpu_wait_share: Some(0.3), ..Measured::default() },
                vec!["the load generator was saturated"],
            ),
            (
                Measured { loop_lag_p99_ms: Some(9.0), cpu_wait_share: Some(0.05), ..Measured::default() },
                vec![],
            ),
            (
                Measured { peak_reconnects: (50, 7), peak_sessions: 100, ..Measured::default() },
                vec!["clients reconnected in a storm"],
            ),
            (Measured { peak_reconnects: (50, 7), peak_sessions: 1_000, ..Measured::default() }, vec![]),
        ] {
            assert_eq!(titles(&find(&measured, &Watched::default())), expected, "{measured:?}");
        }
    }

    #[test]
    fn growth_is_found_only_where_it_is_no_chance() {
        // A sawtooth of 4 MB as noise.
        let memory = |seconds: u32, mb_an_hour: f64, warm_up: f64| {
            let mut usage = Usage::default();
            for second in 0..seconds {
                let at = f64::from(second);
                let warm = warm_up * (at / 60.0).min(1.0);
                usage.remember(at, 100.0 + warm + mb_an_hour * at / 3600.0 + f64::from(second % 5));
            }
            usage
        };
        for (seconds, mb_an_hour, warm_up, expected) in [
            (14_400, 20.0, 0.0, true),
            (14_400, 0.0, 0.0, false),
            (14_400, 0.0, 80.0, false),
            (14_400, 2.0, 0.0, false),
            (300, 2_000.0, 0.0, false),
            (900, 400.0, 0.0, true),
        ] {
            let findings =
                find(&Measured::default(), &process("server-1", memory(seconds, mb_an_hour, warm_up)));
            assert_eq!(
                !findings.is_empty(),
                expected,
                "{seconds} s, {mb_an_hour} MB/h, {warm_up} MB: {findings:?}"
            );
        }
    }

    #[test]
    fn the_slope_of_a_line_is_its_slope() {
        let line: Vec<_> = (0..20).map(|x| (f64::from(x), 3.0 + 2.0 * f64::from(x))).collect();
        let (slope_of_it, error) = slope(&line).unwrap();
        assert!((slope_of_it - 2.0).abs() < 1e-9 && error < 1e-6);
        assert_eq!(slope(&line[..9]), None);
        assert_eq!(slope(&[(1.0, 1.0); 20]), None);
    }
}
