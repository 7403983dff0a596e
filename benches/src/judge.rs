//! Rules that decide whether a run was clean, and what was used up. They are pure, and those of the load client's verdict:
//! the lateness of the load program is the measurement error of each figure.

use crate::{
    latency::Bounded,
    record::{Record, Verdict},
    usage::Used,
};

/// Share of a core from which on a thread counts as used up.
pub(crate) const THREAD_IS_FULL: f64 = 0.9;
/// Share of all cores from which on the machine counts as used up.
const MACHINE_IS_FULL: f64 = 0.9;
/// Share of all cores taken by other virtual machines from which on it is reported.
const MOST_STEAL: f64 = 0.05;
/// Limit of a clean run for p99 of the delivery and of the gap between tokens, in milliseconds.
const CLEAN_P99_MS: f64 = 100.0;
/// Share of the gateway's merging time that is added to the limit of the gap.
const CLEAN_HOLD: f64 = 0.5;
/// Limit of the gap in token intervals, used if it is longer than the limit in milliseconds.
const CLEAN_INTERVALS: f64 = 2.0;
/// Limit of a clean run for the growth of the delivery over the window, in milliseconds.
const CLEAN_GROWTH_MS: f64 = 10.0;
/// A limit of more than this multiple of the value cannot excuse a large measurement error.
const FAR: f64 = 10.0;
/// Share of the time that a generator's thread may wait for a CPU without being reported.
const MAX_WAIT: f64 = 0.1;

/// Results of a load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivered {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    /// Connections that ended before the load did.
    pub(crate) closed: u64,
    /// Events that the bus refused, or that had no subscriber.
    pub(crate) untaken: u64,
    pub(crate) delivery_p50_ms: f64,
    pub(crate) delivery_p99_ms: Bounded,
    pub(crate) gap_p50_ms: f64,
    pub(crate) gap_p99_ms: Bounded,
    /// Planned time between two tokens of a connection.
    pub(crate) interval_ms: f64,
    /// Longest time for which the gateway may hold a token back.
    pub(crate) hold_ms: f64,
    pub(crate) growth_ms: Bounded,
}

/// Returns the measurement error of a figure, in milliseconds: upper minus lower value.
pub(crate) fn error(figure: Bounded) -> f64 {
    (figure.high - figure.low).max(0.0)
}

/// Reports a generator whose thread waited for a CPU. This is evidence and not a verdict: the measurement error contains the
/// effect.
pub(crate) fn starvation(record: &mut Record, waited: f64) {
    if waited > MAX_WAIT {
        record.saturated.push(format!("the generator waited {:.0} % of the time for a CPU", waited * 100.0));
    }
}

/// Reports what was used up.
pub(crate) fn saturation(record: &mut Record, used: &Used) {
    for (name, usage) in &used.groups {
        if usage.busiest_thread >= THREAD_IS_FULL {
            let share = usage.busiest_thread * 100.0;
            record.saturated.push(format!("{name}: a thread used {share:.0} % of its core"));
        }
    }
    if used.machine >= MACHINE_IS_FULL {
        record.saturated.push(format!("the machine: {:.0} % of all cores", used.machine * 100.0));
    }
    if used.steal >= MOST_STEAL {
        record.saturated.push(format!("the host: {:.0} % of all cores were stolen", used.steal * 100.0));
    }
}

/// Decides by the rules of the client's verdict. Missing tokens and ended connections do not depend on time. A limit inside
/// the measurement error of a figure decides nothing. Neither does a figure with a large error that is far below its limit.
pub(crate) fn verdict(record: &mut Record, delivered: &Delivered) {
    let counted = counted(delivered);
    let (mut broken, mut doubtful) = (Vec::new(), Vec::new());
    for limit in limits(delivered) {
        match limit.judge() {
            Judged::Held => {}
            Judged::Broken(why) => broken.push(why),
            Judged::Doubtful(why) => doubtful.push(format!("INVALID: {why}")),
        }
    }
    record.verdict = match (counted.is_empty(), doubtful.is_empty(), broken.is_empty()) {
        (false, ..) | (true, true, false) => Verdict::NotClean,
        (true, false, _) => Verdict::Invalid,
        (true, true, true) => record.verdict,
    };
    record.reasons.extend(counted.into_iter().chain(broken).chain(doubtful));
}

/// A limit for a figure of a clean run.
struct Limit {
    what: &'static str,
    figure: Bounded,
    /// Median to compare the measurement error with. `None`: only the limit decides.
    p50: Option<f64>,
    most: f64,
}

enum Judged {
    Held,
    Broken(String),
    Doubtful(String),
}

impl Limit {
    fn judge(&self) -> Judged {
        let Self { what, figure: Bounded { value, low, high }, most, .. } = *self;
        if low > most {
            return Judged::Broken(format!("{what} is {value:.1} ms, the limit is {most} ms"));
        }
        if high > most {
            return Judged::Doubtful(format!(
                "{what} lies between {low:.1} and {high:.1} ms, the limit is {most} ms"
            ));
        }
        let (error, is_far) = (error(self.figure), most > FAR * value);
        match self.p50.map(|p50| (0.1 * p50).clamp(10.0, 100.0)) {
            Some(limit) if is_far && error > limit => Judged::Doubtful(format!(
                "the measurement error of {what} is {error:.1} ms, at most {limit:.1} ms is allowed"
            )),
            _ => Judged::Held,
        }
    }
}

fn limits(delivered: &Delivered) -> [Limit; 3] {
    let most_gap_ms = CLEAN_P99_MS + CLEAN_HOLD * delivered.hold_ms;
    [
        Limit {
            what: "delivery p99",
            figure: delivered.delivery_p99_ms,
            p50: Some(delivered.delivery_p50_ms),
            most: CLEAN_P99_MS,
        },
        Limit {
            what: "gap p99",
            figure: delivered.gap_p99_ms,
            p50: Some(delivered.gap_p50_ms),
            most: most_gap_ms.max(CLEAN_INTERVALS * delivered.interval_ms),
        },
        Limit {
            what: "growth of the delivery",
            figure: delivered.growth_ms,
            p50: None,
            most: CLEAN_GROWTH_MS,
        },
    ]
}

/// Failures that do not depend on time.
fn counted(delivered: &Delivered) -> Vec<String> {
    let Delivered { lost, duplicated, reordered, closed, untaken, .. } = *delivered;
    let counts = [
        (lost, "tokens were lost"),
        (duplicated, "tokens arrived twice"),
        (reordered, "tokens arrived out of order"),
        (closed, "connections ended early"),
        (untaken, "events were refused or had no subscriber"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    counts.map(|(count, what)| format!("{count} {what}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;

    fn check(delivered: Delivered, expected: Verdict, reason: &str) {
        let mut record = Record::new("gateway", "x".into());
        verdict(&mut record, &delivered);
        assert_eq!(record.verdict, expected, "{:?}", record.reasons);
        assert_eq!(record.reasons.join("; "), reason);
    }

    fn exact(value: f64) -> Bounded {
        between(value, value, value)
    }

    fn between(value: f64, low: f64, high: f64) -> Bounded {
        Bounded { value, low, high }
    }

    fn good() -> Delivered {
        let (delivery_p99_ms, gap_p99_ms) = (exact(3.0), exact(60.0));
        Delivered {
            delivery_p50_ms: 1.0,
            delivery_p99_ms,
            gap_p50_ms: 50.0,
            gap_p99_ms,
            ..Delivered::default()
        }
    }

    #[test]
    fn a_clean_run_stays_below_its_limits() {
        check(good(), Verdict::Clean, "");
        check(Delivered { lost: 2, ..good() }, Verdict::NotClean, "2 tokens were lost");
        check(
            Delivered { delivery_p99_ms: exact(150.0), growth_ms: exact(80.0), ..good() },
            Verdict::NotClean,
            "delivery p99 is 150.0 ms, the limit is 100 ms; growth of the delivery is 80.0 ms, the limit is 10 ms",
        );
        let slow = Delivered { gap_p99_ms: exact(205.0), ..good() };
        check(Delivered { interval_ms: 200.0, ..slow }, Verdict::Clean, "");
        let merged = Delivered { gap_p99_ms: exact(140.0), ..good() };
        check(Delivered { hold_ms: 100.0, ..merged }, Verdict::Clean, "");
        check(merged, Verdict::NotClean, "gap p99 is 140.0 ms, the limit is 100 ms");
        check(slow, Verdict::NotClean, "gap p99 is 205.0 ms, the limit is 100 ms");
    }

    #[test]
    fn a_limit_inside_the_measurement_error_decides_nothing() {
        let doubtful = Delivered { delivery_p99_ms: between(120.0, 90.0, 120.0), ..good() };
        let reason = "INVALID: delivery p99 lies between 90.0 and 120.0 ms, the limit is 100 ms";
        check(doubtful, Verdict::Invalid, reason);
        check(Delivered { lost: 2, ..doubtful }, Verdict::NotClean, &format!("2 tokens were lost; {reason}"));
        check(
            Delivered { gap_p99_ms: between(60.0, 40.0, 110.0), ..good() },
            Verdict::Invalid,
            "INVALID: gap p99 lies between 40.0 and 110.0 ms, the limit is 100 ms",
        );
        let late = between(180.0, 130.0, 180.0);
        check(
            Delivered { delivery_p99_ms: late, ..good() },
            Verdict::NotClean,
            "delivery p99 is 180.0 ms, the limit is 100 ms",
        );
    }

    #[test]
    fn a_large_error_spoils_a_figure_far_below_its_limit() {
        let figure = |value, low| Delivered { delivery_p99_ms: between(value, low, value), ..good() };
        check(figure(9.5, 1.0), Verdict::Clean, "");
        check(figure(60.0, 30.0), Verdict::Clean, "");
        let late = Delivered { interval_ms: 2_000.0, gap_p99_ms: between(60.0, 45.0, 75.0), ..good() };
        check(
            late,
            Verdict::Invalid,
            "INVALID: the measurement error of gap p99 is 30.0 ms, at most 10.0 ms is allowed",
        );
    }

    #[test]
    fn waiting_for_a_cpu_is_reported_and_not_judged() {
        for (waited, reported) in [(0.2, 1), (0.05, 0)] {
            let mut record = Record::new("gateway", "x".into());
            starvation(&mut record, waited);
            assert_eq!((record.saturated.len(), record.verdict), (reported, Verdict::Clean));
        }
    }

    #[test]
    fn what_was_used_up_is_named() {
        let usage = |busiest_thread| Usage { cpu_s: 1.0, busiest_thread };
        let groups = [("gateway".to_owned(), usage(0.97)), ("redis".to_owned(), usage(0.4))].into();
        let mut record = Record::new("gateway", "x".into());
        saturation(&mut record, &Used { groups, machine: 0.94, steal: 0.0 });
        assert_eq!(
            record.saturated,
            ["gateway: a thread used 97 % of its core", "the machine: 94 % of all cores"]
        );
    }
}
