//! Whether a measurement stands, and what was used up while it ran: pure rules over what was seen.
//! A generator that was late makes its result invalid, whatever the figures say.

use crate::{
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
/// The generator's p99 lateness above which nothing stands, in milliseconds.
const MOST_PACE_LAG_MS: f64 = 10.0;
/// The share of the time that a generator's thread may have waited for a CPU.
const MOST_WAIT: f64 = 0.1;

/// What the generator says about itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Generator {
    /// Handed to the bus − due, p99, in milliseconds.
    pub(crate) pace_lag_p99_ms: f64,
    /// Share of the time for which its worse thread waited for a CPU.
    pub(crate) waited: f64,
}

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
    pub(crate) delivery_p99_ms: f64,
    pub(crate) gap_p99_ms: f64,
    /// Between two tokens of a connection, as they are due.
    pub(crate) interval_ms: f64,
    /// For how long the gateway may hold a token back.
    pub(crate) hold_ms: f64,
    pub(crate) growth_ms: f64,
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

/// Judges the generator first, then what it measured.
pub(crate) fn verdict(record: &mut Record, generator: &Generator, delivered: &Delivered) {
    let faults = faults(delivered);
    if !faults.is_empty() {
        record.verdict = Verdict::NotClean;
    }
    record.reasons.extend(faults);
    let late = lateness(generator);
    if !late.is_empty() {
        record.verdict = Verdict::Invalid;
    }
    record.reasons.extend(late);
}

fn lateness(generator: &Generator) -> Vec<String> {
    let mut late = Vec::new();
    if generator.pace_lag_p99_ms > MOST_PACE_LAG_MS {
        let lag = generator.pace_lag_p99_ms;
        late.push(format!(
            "INVALID: the generator was {lag:.1} ms late at p99, {MOST_PACE_LAG_MS} is the most"
        ));
    }
    if generator.waited > MOST_WAIT {
        let waited = generator.waited * 100.0;
        late.push(format!("INVALID: the generator waited {waited:.0} % of the time for a CPU"));
    }
    late
}

fn faults(delivered: &Delivered) -> Vec<String> {
    let Delivered { lost, duplicated, reordered, closed, untaken, .. } = *delivered;
    let counts = [
        (lost, "tokens were lost"),
        (duplicated, "tokens came twice"),
        (reordered, "tokens came out of order"),
        (closed, "connections ended early"),
        (untaken, "events reached nobody"),
    ];
    let mut faults: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let mut above = |what: &str, value: f64, most: f64| {
        if value > most {
            faults.push(format!("{what} is {value:.1} ms, {most} is the most"));
        }
    };
    above("delivery p99", delivered.delivery_p99_ms, CLEAN_P99_MS);
    let most_gap_ms = CLEAN_P99_MS + CLEAN_HOLD * delivered.hold_ms;
    above("gap p99", delivered.gap_p99_ms, most_gap_ms.max(CLEAN_INTERVALS * delivered.interval_ms));
    above("growth of the delivery", delivered.growth_ms, CLEAN_GROWTH_MS);
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;

    fn check(generator: Generator, delivered: Delivered, expected: Verdict, reason: &str) {
        let mut record = Record::new("gateway", "x".into());
        verdict(&mut record, &generator, &delivered);
        assert_eq!(record.verdict, expected, "{:?}", record.reasons);
        assert_eq!(record.reasons.join("; "), reason);
    }

    #[test]
    fn a_late_generator_outranks_everything() {
        let good = Delivered { delivery_p99_ms: 3.0, gap_p99_ms: 60.0, ..Delivered::default() };
        let on_time = Generator { pace_lag_p99_ms: 1.2, waited: 0.01 };
        check(on_time, good, Verdict::Clean, "");
        check(on_time, Delivered { lost: 2, ..good }, Verdict::NotClean, "2 tokens were lost");
        check(
            on_time,
            Delivered { delivery_p99_ms: 150.0, growth_ms: 80.0, ..good },
            Verdict::NotClean,
            "delivery p99 is 150.0 ms, 100 is the most; growth of the delivery is 80.0 ms, 10 is the most",
        );
        let slow = Delivered { gap_p99_ms: 205.0, ..good };
        check(on_time, Delivered { interval_ms: 200.0, ..slow }, Verdict::Clean, "");
        let merged = Delivered { gap_p99_ms: 140.0, ..good };
        check(on_time, Delivered { hold_ms: 100.0, ..merged }, Verdict::Clean, "");
        check(on_time, merged, Verdict::NotClean, "gap p99 is 140.0 ms, 100 is the most");
        check(on_time, slow, Verdict::NotClean, "gap p99 is 205.0 ms, 100 is the most");
        check(
            Generator { pace_lag_p99_ms: 11.0, ..on_time },
            Delivered { lost: 2, ..good },
            Verdict::Invalid,
            "2 tokens were lost; INVALID: the generator was 11.0 ms late at p99, 10 is the most",
        );
        check(
            Generator { waited: 0.2, ..on_time },
            good,
            Verdict::Invalid,
            "INVALID: the generator waited 20 % of the time for a CPU",
        );
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
