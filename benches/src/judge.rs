//! Whether a run was clean, and what was used up while it ran: pure rules over what was seen.
//! They are those of the client's verdict: the load program's own lateness is an error of each figure, not a rule of its own.

use crate::{
    latency::Bounded,
    record::{Record, Verdict},
    usage::Between,
};

/// From this share of a core on a thread is used up.
pub(crate) const THREAD_IS_FULL: f64 = 0.9;
/// From this share of all cores on the machine is used up.
const MACHINE_IS_FULL: f64 = 0.9;
/// More of the machine than this taken by others spoils figures of time.
const MOST_STEAL: f64 = 0.05;
/// A clean run's p99 of the delivery, and of the gap between tokens, stays below, in milliseconds.
const CLEAN_P99_MS: f64 = 100.0;
/// A gateway that may hold tokens back to merge them has this share of that time on top for the gap.
const CLEAN_HOLD: f64 = 0.5;
/// Where tokens are far apart, a clean run's p99 of the gap is below so many intervals instead.
const CLEAN_INTERVALS: f64 = 2.0;
/// A clean run's delivery grows by less over the window, in milliseconds.
const CLEAN_GROWTH_MS: f64 = 10.0;
/// A limit above so many times the value decides nothing about a figure whose error is large.
const FAR: f64 = 10.0;
/// The share of the time for which a generator's thread waited for a CPU that is worth telling.
const MOST_WAIT: f64 = 0.1;

/// What came of a load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivered {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    /// Connections that ended before the load did.
    pub(crate) closed: u64,
    /// Events that the bus refused, or that nobody was subscribed to.
    pub(crate) untaken: u64,
    pub(crate) delivery_p50_ms: f64,
    pub(crate) delivery_p99_ms: Bounded,
    pub(crate) gap_p50_ms: f64,
    pub(crate) gap_p99_ms: Bounded,
    /// Between two tokens of a connection, as they are due.
    pub(crate) interval_ms: f64,
    /// For how long the gateway may hold a token back.
    pub(crate) hold_ms: f64,
    pub(crate) growth_ms: Bounded,
}

/// The measurement error of a figure: the width of the span in which it lies, in milliseconds.
pub(crate) fn error(figure: Bounded) -> f64 {
    (figure.high - figure.low).max(0.0)
}

/// Says that a generator's thread waited for a CPU: evidence, not a verdict. What that spoilt is in the measurement error.
pub(crate) fn starvation(record: &mut Record, waited: f64) {
    if waited > MOST_WAIT {
        record.saturated.push(format!("the generator waited {:.0} % of the time for a CPU", waited * 100.0));
    }
}

/// Says what was used up.
pub(crate) fn saturation(record: &mut Record, between: &Between) {
    for (name, usage) in &between.groups {
        if usage.busiest_thread >= THREAD_IS_FULL {
            let share = usage.busiest_thread * 100.0;
            record.saturated.push(format!("{name}: a thread used {share:.0} % of its core"));
        }
    }
    if between.machine >= MACHINE_IS_FULL {
        record.saturated.push(format!("the machine: {:.0} % of all cores", between.machine * 100.0));
    }
    if between.steal >= MOST_STEAL {
        record.saturated.push(format!("the host: {:.0} % of all cores were stolen", between.steal * 100.0));
    }
}

/// Judges by the rules of the client's verdict: what is missing or ended needs no clock, a limit inside a figure's measurement
/// error decides nothing, and neither does a figure with a large error whose limit is far away.
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

/// What a clean run's figure stays below.
struct Limit {
    what: &'static str,
    figure: Bounded,
    /// The median, against which the error is weighed; none: the limit alone decides.
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
            return Judged::Broken(format!("{what} is {value:.1} ms, {most} is the most"));
        }
        if high > most {
            return Judged::Doubtful(format!(
                "{what} lies between {low:.1} and {high:.1} ms, {most} is the most"
            ));
        }
        let (error, is_far) = (error(self.figure), most > FAR * value);
        match self.p50.map(|p50| (0.1 * p50).clamp(10.0, 100.0)) {
            Some(limit) if is_far && error > limit => Judged::Doubtful(format!(
                "the measurement error of {what} is {error:.1} ms, {limit:.1} is the most"
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
        (duplicated, "tokens came twice"),
        (reordered, "tokens came out of order"),
        (closed, "connections ended early"),
        (untaken, "events reached nobody"),
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
            "delivery p99 is 150.0 ms, 100 is the most; growth of the delivery is 80.0 ms, 10 is the most",
        );
        let slow = Delivered { gap_p99_ms: exact(205.0), ..good() };
        check(Delivered { interval_ms: 200.0, ..slow }, Verdict::Clean, "");
        let merged = Delivered { gap_p99_ms: exact(140.0), ..good() };
        check(Delivered { hold_ms: 100.0, ..merged }, Verdict::Clean, "");
        check(merged, Verdict::NotClean, "gap p99 is 140.0 ms, 100 is the most");
        check(slow, Verdict::NotClean, "gap p99 is 205.0 ms, 100 is the most");
    }

    #[test]
    fn a_limit_inside_the_measurement_error_decides_nothing() {
        let doubtful = Delivered { delivery_p99_ms: between(120.0, 90.0, 120.0), ..good() };
        let reason = "INVALID: delivery p99 lies between 90.0 and 120.0 ms, 100 is the most";
        check(doubtful, Verdict::Invalid, reason);
        check(Delivered { lost: 2, ..doubtful }, Verdict::NotClean, &format!("2 tokens were lost; {reason}"));
        check(
            Delivered { gap_p99_ms: between(60.0, 40.0, 110.0), ..good() },
            Verdict::Invalid,
            "INVALID: gap p99 lies between 40.0 and 110.0 ms, 100 is the most",
        );
        let late = between(180.0, 130.0, 180.0);
        check(
            Delivered { delivery_p99_ms: late, ..good() },
            Verdict::NotClean,
            "delivery p99 is 180.0 ms, 100 is the most",
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
            "INVALID: the measurement error of gap p99 is 30.0 ms, 10.0 is the most",
        );
    }

    #[test]
    fn waiting_for_a_cpu_is_told_and_not_judged() {
        for (waited, told) in [(0.2, 1), (0.05, 0)] {
            let mut record = Record::new("gateway", "x".into());
            starvation(&mut record, waited);
            assert_eq!((record.saturated.len(), record.verdict), (told, Verdict::Clean));
        }
    }

    #[test]
    fn what_was_used_up_is_named() {
        let usage = |busiest_thread| Usage { cpu_s: 1.0, busiest_thread };
        let groups = [("gateway".to_owned(), usage(0.97)), ("redis".to_owned(), usage(0.4))].into();
        let mut record = Record::new("gateway", "x".into());
        saturation(&mut record, &Between { groups, machine: 0.94, steal: 0.0 });
        assert_eq!(
            record.saturated,
            ["gateway: a thread used 97 % of its core", "the machine: 94 % of all cores"]
        );
    }
}
