//! PASS, FAIL or INVALID: one ordered list of rules over the run's figures, and the exit code that follows.
//! It trusts nobody, the generator least of all.

use super::{
    LateQueries,
    threshold::{Outcome, State},
};
use std::time::Duration;

/// Beyond this, at p99, the generator or the simulator was too late for its figures to be believed.
const MOST_LAG: Duration = Duration::from_millis(10);
/// Beyond this share of the time, the generator's threads waited for a CPU too often.
const MOST_CPU_WAIT: f64 = 0.10;
/// Below this share of the offered rate, an open model's run was not the run that was asked for.
const LEAST_ACHIEVED: f64 = 0.95;

/// What a run is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Complete and in order before its deadline, and measured well.
    Pass,
    /// The system under test did not do what was asked.
    Fail,
    /// The measurement cannot be trusted.
    Invalid,
}

impl Verdict {
    /// `PASS`, `FAIL` or `INVALID`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Invalid => "INVALID",
        }
    }
}

/// What the rules look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Tokens that never came by the deadline.
    pub tokens_lost: u64,
    /// Tokens that came again.
    pub tokens_duplicated: u64,
    /// Tokens that came below one already seen.
    pub tokens_reordered: u64,
    /// Events behind their generation's terminator, and terminators beyond the first.
    pub events_after_terminator: u64,
    /// A fault that was to be injected and was not, and why.
    pub fault_not_injected: Option<String>,
    /// Tokens of servers that number nothing: nobody can say whether others are missing.
    pub tokens_unverified: u64,
    /// Queries attempted.
    pub queries_total: u64,
    /// Queries complete and in order before their deadline.
    pub queries_ok: u64,
    /// …of which were later than their schedule.
    pub late: LateQueries,
    /// Sessions attempted.
    pub sessions_total: u64,
    /// Sessions of which every step succeeded: created, connected, closed.
    pub sessions_ok: u64,
    /// p99 of actual − scheduled start.
    pub schedule_lag_p99: Option<Duration>,
    /// p99 of the simulator's lateness.
    pub pace_lag_p99: Option<Duration>,
    /// p99 of the client's own loop lag.
    pub loop_lag_p99: Option<Duration>,
    /// Share of the time that the client's threads waited for a CPU, 0 to 1.
    pub cpu_wait_share: Option<f64>,
    /// Achieved / offered, of open models.
    pub achieved_share: Option<f64>,
    /// Shards whose results are missing.
    pub shards_missing: u32,
    /// Everything is submitted at one instant: lag of the schedule is the point.
    pub burst: bool,
    /// What became of the user's thresholds. Where there are any, they say how many queries may fail.
    pub thresholds: Vec<Outcome>,
}

/// The verdict and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What the run is worth.
    pub verdict: Verdict,
    /// Why, in a sentence.
    pub reason: String,
}

/// Judges a run: integrity first, then whether the measurement holds, then the thresholds.
#[must_use]
pub fn judge(evidence: &Evidence) -> Judgement {
    let rules = [
        (Verdict::Fail, broken_integrity(evidence)),
        (Verdict::Invalid, mistrust(evidence).or_else(|| unknown_threshold(evidence))),
        (Verdict::Fail, broken_threshold(evidence)),
    ];
    let first = rules.into_iter().find_map(|(verdict, reason)| Some((verdict, reason?)));
    let (verdict, reason) = first.unwrap_or_else(|| (Verdict::Pass, praise(evidence)));
    Judgement { verdict, reason }
}

fn praise(evidence: &Evidence) -> String {
    let (queries, ok, thresholds) = (evidence.queries_total, evidence.queries_ok, evidence.thresholds.len());
    let came = match (queries - ok, evidence.tokens_unverified, lateness(evidence)) {
        (0, 0, None) => format!("All {queries} queries came complete, in order and in time."),
        (0, 0, Some(late)) => format!("All {queries} queries came complete and in order; {late}."),
        (0, _, late) => {
            let when = late.map_or_else(|| " in time".to_owned(), |late| format!(", {late}"));
            format!("All {queries} queries ended{when}; integrity is unverified: the server numbers nothing.")
        }
        (failed, _, late) => {
            let late = late.map(|late| format!("; {late}")).unwrap_or_default();
            format!("{failed} of {queries} queries were not ok, as far as the thresholds allow{late}.")
        }
    };
    match thresholds {
        0 => came,
        1 => format!("{came} The threshold held."),
        _ => format!("{came} All {thresholds} thresholds held."),
    }
}

/// How many of the queries that were ok came late; `None` where all were in time.
fn lateness(evidence: &Evidence) -> Option<String> {
    let LateQueries { count, most } = evidence.late;
    let (ok, most) = (evidence.queries_ok, most.as_secs_f64());
    (count > 0).then(|| format!("{count} of the {ok} came late, by up to {most:.1} s"))
}

fn unknown_threshold(evidence: &Evidence) -> Option<String> {
    evidence.thresholds.iter().find_map(|outcome| match &outcome.state {
        State::Unknown(why) => Some(format!("The threshold {} cannot be judged: {why}.", outcome.threshold)),
        _ => None,
    })
}

/// Without thresholds of the user's, every query and every session must be ok.
fn broken_threshold(evidence: &Evidence) -> Option<String> {
    if evidence.thresholds.is_empty() {
        return [
            (evidence.queries_total, evidence.queries_ok, "queries"),
            (evidence.sessions_total, evidence.sessions_ok, "sessions"),
        ]
        .iter()
        .find(|(total, ok, _)| ok < total)
        .map(|(total, ok, what)| format!("{} of {total} {what} were not ok.", total - ok));
    }
    let broken = evidence.thresholds.iter().filter(|outcome| outcome.state == State::Broken);
    let told: Vec<_> = broken.map(|outcome| format!("{}, {}", outcome.threshold, outcome.shown())).collect();
    let (count, all) = (told.len(), evidence.thresholds.len());
    (count > 0).then(|| format!("{count} of {all} thresholds did not hold: {}.", told.join("; ")))
}

fn broken_integrity(evidence: &Evidence) -> Option<String> {
    let faults = [
        (evidence.tokens_lost, "lost"),
        (evidence.tokens_duplicated, "duplicated"),
        (evidence.tokens_reordered, "reordered"),
    ];
    let faults: Vec<_> =
        faults.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if !faults.is_empty() {
        return Some(format!("Tokens did not arrive once and in order: {}.", faults.join(", ")));
    }
    let behind = evidence.events_after_terminator;
    (behind > 0)
        .then(|| format!("Answers went on after their end: {behind} events came behind a terminator."))
}

fn mistrust(evidence: &Evidence) -> Option<String> {
    if evidence.shards_missing > 0 {
        return Some(format!("The results of {} shards are missing.", evidence.shards_missing));
    }
    if let Some(why) = &evidence.fault_not_injected {
        return Some(format!("A fault did not happen: {why}."));
    }
    if evidence.queries_total == 0 {
        return Some("Nothing was measured: no query was attempted.".to_owned());
    }
    let schedule_lag = evidence.schedule_lag_p99.filter(|_| !evidence.burst);
    let lags = [
        (schedule_lag, "The generator started its work late: schedule_lag"),
        (evidence.pace_lag_p99, "The simulator sent its tokens late: pace_lag"),
        (evidence.loop_lag_p99, "The generator was overloaded: its own loop_lag"),
    ];
    for (lag, what) in lags {
        if let Some(lag) = lag.filter(|&lag| lag > MOST_LAG) {
            let (lag, most) = (lag.as_secs_f64() * 1e3, MOST_LAG.as_millis());
            return Some(format!("{what} p(99) was {lag:.2} ms, more than {most} ms."));
        }
    }
    if let Some(share) = evidence.cpu_wait_share.filter(|&share| share > MOST_CPU_WAIT) {
        let (share, most) = (share * 100.0, MOST_CPU_WAIT * 100.0);
        return Some(format!(
            "The generator's threads waited for a CPU {share:.1} % of the time, more than {most:.0} %."
        ));
    }
    if let Some(share) = evidence.achieved_share.filter(|&share| share < LEAST_ACHIEVED) {
        let (share, least) = (share * 100.0, LEAST_ACHIEVED * 100.0);
        return Some(format!("Only {share:.1} % of the offered rate was achieved, less than {least:.0} %."));
    }
    None
}

/// The exit code of a run that was carried out: an interruption outranks the verdict.
#[must_use]
pub const fn exit_code(verdict: Verdict, interrupted: bool) -> u8 {
    match verdict {
        _ if interrupted => 105,
        Verdict::Pass => 0,
        Verdict::Fail => 99,
        Verdict::Invalid => 98,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Evidence {
        Evidence { queries_total: 10, queries_ok: 10, ..Evidence::default() }
    }

    fn check(evidence: &Evidence, verdict: Verdict, words: &str) {
        let judgement = judge(evidence);
        assert_eq!(judgement.verdict, verdict, "{evidence:?}");
        assert!(judgement.reason.contains(words), "{}", judgement.reason);
        assert!(judgement.reason.ends_with('.'), "{}", judgement.reason);
    }

    #[test]
    fn the_rules_in_their_order() {
        use Verdict::{Fail, Invalid, Pass};
        let late = Some(Duration::from_millis(11));
        let in_time = Some(Duration::from_millis(10));
        check(&good(), Pass, "All 10 queries");
        check(&Evidence { tokens_unverified: 1, ..good() }, Pass, "unverified");
        let held_up = LateQueries { count: 3, most: Duration::from_millis(3_100) };
        check(
            &Evidence { late: held_up, ..good() },
            Pass,
            "All 10 queries came complete and in order; 3 of the 10 came late, by up to 3.1 s.",
        );
        let unverified = Evidence { tokens_unverified: 1, late: held_up, ..good() };
        check(&unverified, Pass, "queries ended, 3 of the 10 came late, by up to 3.1 s; integrity");
        check(&Evidence { queries_ok: 9, ..good() }, Fail, "1 of 10 queries were not ok");
        check(&Evidence { sessions_total: 5, sessions_ok: 3, ..good() }, Fail, "2 of 5 sessions were not ok");
        check(&Evidence::default(), Invalid, "no query was attempted");
        check(&Evidence { schedule_lag_p99: late, ..good() }, Invalid, "schedule_lag p(99) was 11.00 ms");
        check(&Evidence { schedule_lag_p99: late, burst: true, ..good() }, Pass, "");
        check(&Evidence { schedule_lag_p99: in_time, ..good() }, Pass, "");
        check(&Evidence { pace_lag_p99: late, burst: true, ..good() }, Invalid, "pace_lag");
        check(&Evidence { loop_lag_p99: late, burst: true, ..good() }, Invalid, "loop_lag");
        check(&Evidence { cpu_wait_share: Some(0.11), ..good() }, Invalid, "11.0 %");
        check(&Evidence { cpu_wait_share: Some(0.10), ..good() }, Pass, "");
        check(&Evidence { achieved_share: Some(0.94), ..good() }, Invalid, "94.0 %");
        check(&Evidence { events_after_terminator: 2, ..good() }, Fail, "2 events came behind a terminator");
        let why = Some("`redis:kill` at 3 s: no such stack".to_owned());
        check(&Evidence { fault_not_injected: why, ..good() }, Invalid, "`redis:kill` at 3 s");
        check(&Evidence { shards_missing: 1, ..good() }, Invalid, "1 shards");
        // Mistrust outranks thresholds, integrity outranks mistrust.
        check(&Evidence { loop_lag_p99: late, queries_ok: 9, ..good() }, Invalid, "loop_lag");
        check(&Evidence { loop_lag_p99: late, tokens_lost: 3, ..good() }, Fail, "3 lost");
        check(&Evidence { tokens_duplicated: 1, ..good() }, Fail, "1 duplicated");
        check(
            &Evidence { tokens_lost: 1, tokens_reordered: 2, ..good() },
            Fail,
            "once and in order: 1 lost, 2 reordered",
        );
    }

    fn outcome(text: &str, state: State, value: f64) -> Outcome {
        Outcome { threshold: text.parse().unwrap(), state, value: Some(value), worst_from_s: None }
    }

    #[test]
    fn thresholds_say_how_many_may_fail() {
        use Verdict::{Fail, Invalid, Pass};
        let held = outcome("error_rate<0.2", State::Held, 0.1);
        let broken = outcome("e2el_ms:p95<3000", State::Broken, 4123.4);
        let unknown = outcome("ttft_ms{steady}:p99<450", State::Unknown("no steady state".into()), 0.0);
        let with = |thresholds: &[&Outcome]| Evidence {
            queries_ok: 9,
            sessions_total: 2,
            thresholds: thresholds.iter().copied().cloned().collect(),
            ..good()
        };
        check(
            &with(&[&held]),
            Pass,
            "1 of 10 queries were not ok, as far as the thresholds allow. The threshold held.",
        );
        let held_up = LateQueries { count: 2, most: Duration::from_secs(8) };
        check(
            &Evidence { late: held_up, ..with(&[&held]) },
            Pass,
            "as far as the thresholds allow; 2 of the 9 came late, by up to 8.0 s. The threshold held.",
        );
        check(&Evidence { queries_ok: 10, ..with(&[&held, &held]) }, Pass, "in time. All 2 thresholds held.");
        check(
            &with(&[&held, &broken]),
            Fail,
            "1 of 2 thresholds did not hold: e2el_ms p(95)<3000, p(95)=4123.",
        );
        check(
            &with(&[&broken, &unknown]),
            Invalid,
            "ttft_ms{steady} p(99)<450 cannot be judged: no steady state.",
        );
        let late = Some(Duration::from_millis(11));
        check(&Evidence { loop_lag_p99: late, ..with(&[&broken]) }, Invalid, "loop_lag");
        check(&Evidence { tokens_lost: 1, ..with(&[&unknown]) }, Fail, "1 lost");
    }

    #[test]
    fn exit_codes() {
        for (verdict, interrupted, expected) in [
            (Verdict::Pass, false, 0),
            (Verdict::Fail, false, 99),
            (Verdict::Invalid, false, 98),
            (Verdict::Pass, true, 105),
            (Verdict::Fail, true, 105),
        ] {
            assert_eq!(exit_code(verdict, interrupted), expected);
        }
    }
}
