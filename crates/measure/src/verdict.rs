//! The verdict PASS, FAIL or INVALID: an ordered list of rules, and the exit code.
//! Integrity comes first, then failures that do not depend on time, then the quality of the measurement.

use super::{
    LateQueries,
    threshold::{Figure, Outcome, State},
};
use settings::plural::counted;

/// Largest accepted measurement error of `e2el_ms` p(99): this share of its p(50), but at least `MIN_ERROR_MS` and at most
/// `MAX_ERROR_MS` milliseconds, or `RESOLUTION` of the figure itself if that is more.
const ERROR_SHARE: f64 = 0.1;
const MIN_ERROR_MS: f64 = 10.0;
const MAX_ERROR_MS: f64 = 100.0;
/// Two buckets of a histogram with three significant digits: how far the lower and the upper value of a figure can be apart, and how wide
/// a bucket is, without any delay. With answers of more than a minute this is more than `MAX_ERROR_MS`.
const RESOLUTION: f64 = 0.002;
/// Smallest share of the offered rate that an open model must achieve.
const MIN_ACHIEVED: f64 = 0.95;

/// Verdict on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every check passed, and the measurement can be trusted.
    Pass,
    /// The system under test failed a check.
    Fail,
    /// The measurement cannot be trusted.
    Invalid,
}

impl Verdict {
    /// Returns `PASS`, `FAIL` or `INVALID`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Invalid => "INVALID",
        }
    }
}

/// A broken integrity rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Number of violations.
    pub count: u64,
    /// What was counted, for example `tokens lost`.
    pub what: String,
    /// Beginning of the first example, if there is one.
    pub example: Option<String>,
}

/// How far the figures of a run can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trustworthiness {
    /// Measurement error of `e2el_ms` p(99) in milliseconds.
    pub e2el_p99_error_ms: Option<f64>,
    /// `e2el_ms` p(50) in milliseconds.
    pub e2el_p50_ms: Option<f64>,
    /// `e2el_ms` p(99) in milliseconds.
    pub e2el_p99_ms: Option<f64>,
    /// Number of figures of primary metrics that cannot be trusted.
    pub untrusted_figures: usize,
}

impl Trustworthiness {
    /// Returns the error of `e2el_ms` p(99) and the largest accepted error, if the error exceeds it.
    fn excess(&self) -> Option<(f64, f64)> {
        let (error, p50) = (self.e2el_p99_error_ms?, self.e2el_p50_ms?);
        let resolution = self.e2el_p99_ms.unwrap_or(0.0) * RESOLUTION;
        let most = (p50 * ERROR_SHARE).clamp(MIN_ERROR_MS, MAX_ERROR_MS).max(resolution);
        (error > most).then_some((error, most))
    }
}

/// Facts that the verdict rules use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Broken integrity rules.
    pub breaches: Vec<Breach>,
    /// How many generators were lost, which, and why.
    pub generators_lost: Option<String>,
    /// Planned fault that was not injected, with the reason.
    pub fault_not_injected: Option<String>,
    /// Tokens of servers that do not number their events, so that loss cannot be detected.
    pub tokens_unverified: u64,
    /// Complete queries without a digest of their contents.
    pub contents_unverified: u64,
    /// Queries attempted.
    pub queries_total: u64,
    /// Queries attempted, without those that the end of the run cut off.
    pub queries_judged: u64,
    /// Queries that were complete and in order before their deadline.
    pub queries_ok: u64,
    /// Complete queries that were late.
    pub late: LateQueries,
    /// Queries that timed out while the generator was stalled.
    pub queries_excused: u64,
    /// The most frequent failure: count, kind, code and an example.
    pub most_frequent_failure: Option<String>,
    /// How far the figures can be trusted.
    pub trust: Trustworthiness,
    /// Achieved / offered rate of an open model.
    pub achieved_share: Option<f64>,
    /// Whether all queries are submitted at one instant, so that schedule lag is intended.
    pub burst: bool,
    /// Outcomes of the default thresholds.
    pub defaults: Vec<Outcome>,
    /// Outcomes of the thresholds of the user.
    pub thresholds: Vec<Outcome>,
}

/// Verdict with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Verdict.
    pub verdict: Verdict,
    /// Reason, one or more sentences.
    pub reason: String,
}

/// Returns why a verdict applies, or `None` if it does not.
type VerdictRule = fn(&Evidence) -> Option<String>;

/// Returns the verdict of the first rule that applies, or PASS.
#[must_use]
pub fn judge(evidence: &Evidence) -> Judgement {
    let rules: [(Verdict, VerdictRule); 5] = [
        (Verdict::Fail, broken_integrity),
        (Verdict::Fail, |evidence| broken_thresholds(evidence, |outcome| outcome.certain)),
        (Verdict::Fail, nothing_complete),
        (Verdict::Invalid, |evidence| {
            unplanned(evidence).or_else(|| unknown_threshold(evidence)).or_else(|| uncertain(evidence))
        }),
        (Verdict::Fail, |evidence| broken_thresholds(evidence, |_| true)),
    ];
    let first = rules.into_iter().find_map(|(verdict, rule)| Some((verdict, rule(evidence)?)));
    let (verdict, mut reason) = first.unwrap_or_else(|| (Verdict::Pass, pass_reason(evidence)));
    if verdict != Verdict::Invalid && evidence.trust.excess().is_some() {
        let figures = counted(evidence.trust.untrusted_figures, "latency figures");
        reason = format!("{reason} {figures} cannot be trusted.");
    }
    Judgement { verdict, reason }
}

fn pass_reason(evidence: &Evidence) -> String {
    let (queries, ok, thresholds) = (evidence.queries_judged, evidence.queries_ok, evidence.thresholds.len());
    let all = if queries == 1 { "The query".to_owned() } else { format!("All {queries} queries") };
    let were = if queries == 1 { "was" } else { "were" };
    let came = match (queries - ok, evidence.tokens_unverified, lateness(evidence)) {
        (0, 0, None) => format!("{all} {were} complete, in order and on time."),
        (0, 0, Some(late)) => format!("{all} {were} complete and in order; {late}."),
        (0, _, late) => {
            let when = late.map_or_else(|| " on time".to_owned(), |late| format!(", {late}"));
            format!(
                "{all} ended{when}; integrity is unverified because the server does not number its events."
            )
        }
        (failed, _, late) => {
            let late = late.map(|late| format!("; {late}")).unwrap_or_default();
            format!("{failed} of {} failed, which the thresholds allow{late}.", counted(queries, "queries"))
        }
    };
    let came = match evidence.contents_unverified {
        0 => came,
        unverified => {
            let all = counted(ok, "complete queries");
            format!("{came} Contents are unverified in {unverified} of {all}.")
        }
    };
    match thresholds {
        0 => came,
        1 => format!("{came} The threshold held."),
        _ => format!("{came} All {thresholds} thresholds held."),
    }
}

/// Returns how many complete queries were late, or `None` if all were on time.
fn lateness(evidence: &Evidence) -> Option<String> {
    let LateQueries { count, most } = evidence.late;
    let (ok, most) = (evidence.queries_ok, most.as_secs_f64());
    let were = if count == 1 { "was" } else { "were" };
    (count > 0).then(|| format!("{count} of {ok} {were} late, by up to {most:.1} s"))
}

fn broken_integrity(evidence: &Evidence) -> Option<String> {
    let listed: Vec<_> = evidence.breaches.iter().map(|breach| counted(breach.count, &breach.what)).collect();
    let example = evidence.breaches.iter().find_map(|breach| breach.example.as_ref());
    let example = example.map(|example| format!(" First example: {example}.")).unwrap_or_default();
    (!listed.is_empty()).then(|| format!("Integrity is broken: {}.{example}", listed.join(", ")))
}

/// Describes the broken thresholds that `counts` selects.
fn broken_thresholds(evidence: &Evidence, counts: fn(&Outcome) -> bool) -> Option<String> {
    let is_broken = |outcome: &&Outcome| outcome.state == State::Broken && counts(outcome);
    let mut sentences: Vec<_> = evidence.defaults.iter().filter(is_broken).map(default_sentence).collect();
    let broken = evidence.thresholds.iter().filter(is_broken);
    let listed: Vec<_> =
        broken.map(|outcome| format!("{}, {}", outcome.threshold, outcome.value_text())).collect();
    let (count, all) = (listed.len(), evidence.thresholds.len());
    if count > 0 {
        sentences.push(format!("{count} of {} failed: {}.", counted(all, "thresholds"), listed.join("; ")));
    }
    let broken = evidence.defaults.iter().chain(&evidence.thresholds).filter(is_broken);
    if broken.into_iter().any(|outcome| counts_failures(&outcome.threshold.figure)) {
        sentences.extend(most_frequent_failure(evidence));
    }
    (!sentences.is_empty()).then(|| sentences.join(" "))
}

fn counts_failures(figure: &Figure) -> bool {
    let Figure::Scalar(name) = figure else { return false };
    name.starts_with("queries_")
        || name.starts_with("sessions_")
        || ["error_rate", "success_rate"].contains(name)
}

fn most_frequent_failure(evidence: &Evidence) -> Option<String> {
    Some(format!("Most frequent failure: {}.", evidence.most_frequent_failure.as_ref()?))
}

/// Describes a broken default threshold, and names the threshold that would replace it.
#[allow(clippy::cast_precision_loss)]
fn default_sentence(outcome: &Outcome) -> String {
    let (value, limit) = (outcome.value.unwrap_or(0.0), outcome.threshold.limit);
    match outcome.threshold.figure {
        Figure::Scalar("queries_ok") => {
            format!(
                "{:.0} of {} failed (--threshold 'error_rate<SHARE' allows some).",
                limit - value,
                counted(limit, "queries")
            )
        }
        Figure::Scalar("sessions_ok") => {
            format!(
                "{:.0} of {} failed (--threshold 'success_rate>SHARE' allows some).",
                limit - value,
                counted(limit, "sessions")
            )
        }
        Figure::Scalar("sessions_broken") => {
            format!(
                "{} failed outside of queries (--threshold 'success_rate>SHARE' allows some).",
                counted(value, "sessions")
            )
        }
        Figure::Scalar("dropped_iterations") => format!(
            "{} because every session was busy (--threshold 'dropped_iterations<COUNT' allows some).",
            counted(value, "arrivals were dropped")
        ),
        _ => format!("{} failed: {}.", outcome.threshold, outcome.value_text()),
    }
}

/// Fails a run without a complete query, independent of the thresholds.
fn nothing_complete(evidence: &Evidence) -> Option<String> {
    let failed = evidence.queries_judged.saturating_sub(evidence.queries_excused);
    if evidence.queries_ok > 0 || failed == 0 {
        return None;
    }
    let none = match evidence.queries_judged {
        1 => "The query was not complete.".to_owned(),
        all => format!("None of {all} queries was complete."),
    };
    Some([none].into_iter().chain(most_frequent_failure(evidence)).collect::<Vec<_>>().join(" "))
}

/// Returns why the run is not the one that was planned.
fn unplanned(evidence: &Evidence) -> Option<String> {
    if let Some(lost) = &evidence.generators_lost {
        return Some(format!("The results are partial: {lost}."));
    }
    if let Some(why) = &evidence.fault_not_injected {
        return Some(format!("A planned fault was not injected: {why}."));
    }
    if evidence.queries_total == 0 {
        return Some("Nothing was measured: no query was attempted.".to_owned());
    }
    if evidence.queries_ok == 0 {
        return Some("Nothing was measured: no query was complete.".to_owned());
    }
    if let Some(share) = evidence.achieved_share.filter(|&share| share < MIN_ACHIEVED && !evidence.burst) {
        let (share, least) = (share * 100.0, MIN_ACHIEVED * 100.0);
        return Some(format!(
            "The generator achieved only {share:.1} % of the offered rate, less than {least:.0} %."
        ));
    }
    None
}

/// Returns why the measured times do not decide the verdict: a latency threshold lies within its measurement error, or the
/// error is large and no threshold is decided in spite of it.
fn uncertain(evidence: &Evidence) -> Option<String> {
    let undecided = |outcome: &&Outcome| matches!(outcome.state, State::Undecided { .. });
    if let Some(outcome) = evidence.thresholds.iter().find(undecided) {
        return Some(format!(
            "The measurement error hides whether {} holds: {}.",
            outcome.threshold,
            outcome.value_text()
        ));
    }
    // Thresholds that broke only because of excused queries might have held with a faster generator.
    let because_excused = |outcome: &Outcome| {
        let counts = matches!(outcome.threshold.figure, Figure::Scalar(_));
        outcome.state == State::Broken && counts && !outcome.certain
    };
    let excused = evidence.queries_excused;
    if excused > 0 && evidence.defaults.iter().chain(&evidence.thresholds).any(because_excused) {
        return Some(format!("{} timed out while the generator was stalled.", counted(excused, "queries")));
    }
    let (error, most) = evidence.trust.excess()?;
    if evidence.thresholds.iter().any(Outcome::decides_a_latency) {
        return None;
    }
    let figures = counted(evidence.trust.untrusted_figures, "latency figures");
    Some(format!(
        "The measurement error of e2el_ms p(99) is {error:.1} ms, more than {most:.1} ms: the generator or the simulator was late, and \
         {figures} cannot be trusted."
    ))
}

fn unknown_threshold(evidence: &Evidence) -> Option<String> {
    evidence.thresholds.iter().find_map(|outcome| match &outcome.state {
        State::Unknown(why) => Some(format!("The threshold {} cannot be judged: {why}.", outcome.threshold)),
        _ => None,
    })
}

/// Returns the exit code of a run. An interruption takes precedence over the verdict.
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
    use std::time::Duration;

    fn good() -> Evidence {
        Evidence { queries_total: 10, queries_judged: 10, queries_ok: 10, ..Evidence::default() }
    }

    fn check(evidence: &Evidence, verdict: Verdict, words: &str) {
        let judgement = judge(evidence);
        assert_eq!(judgement.verdict, verdict, "{evidence:?}");
        assert!(judgement.reason.contains(words), "{}", judgement.reason);
        assert!(judgement.reason.ends_with('.'), "{}", judgement.reason);
    }

    fn outcome(text: &str, state: State, value: f64) -> Outcome {
        let certain = state == State::Broken && text.contains("ok");
        Outcome {
            threshold: text.parse().unwrap(),
            state,
            value: Some(value),
            worst_from_s: None,
            certain,
            untrusted: false,
        }
    }

    fn breach(count: u64, what: &str, example: Option<&str>) -> Breach {
        Breach { count, what: what.to_owned(), example: example.map(str::to_owned) }
    }

    fn doubtful(e2el_p99_error_ms: f64, e2el_p50_ms: f64) -> Trustworthiness {
        Trustworthiness {
            e2el_p99_error_ms: Some(e2el_p99_error_ms),
            e2el_p50_ms: Some(e2el_p50_ms),
            e2el_p99_ms: Some(e2el_p50_ms),
            untrusted_figures: 7,
        }
    }

    /// With answers of minutes, a bucket of the histogram is wider than the largest accepted error.
    #[test]
    fn the_width_of_a_bucket_alone_makes_no_run_invalid() {
        for seconds in [1, 30, 70, 115, 150, 290, 590] {
            for delay_ms in [0i64, 1, 5] {
                let mut interval = crate::Interval::default();
                for n in 0..200 {
                    let value = seconds * 1_000_000_000 + n * 1_000_000;
                    let sample = crate::BoundedSample::at_most(value, delay_ms * 1_000_000, None);
                    interval.record_bounded(crate::Metric::E2el, sample);
                }
                let e2el = interval.get(crate::Metric::E2el);
                let trust = interval.trust(crate::Metric::E2el).expect("a primary metric");
                let trustworthiness = Trustworthiness {
                    e2el_p99_error_ms: trust.error_ms(crate::Statistic::Percentile(99.0)),
                    e2el_p50_ms: e2el.quantile_ms(0.5),
                    e2el_p99_ms: e2el.quantile_ms(0.99),
                    untrusted_figures: 0,
                };
                assert_eq!(trustworthiness.excess(), None, "{seconds} s, {delay_ms} ms");
            }
        }
    }

    #[test]
    fn an_error_is_too_large_beyond_a_tenth_or_a_hundred_milliseconds() {
        use Verdict::{Invalid, Pass};
        for (error, p50, verdict) in [
            (9.9, 5.0, Pass),
            (10.1, 5.0, Invalid),
            (89.0, 900.0, Pass),
            (91.0, 900.0, Invalid),
            (99.0, 30_000.0, Pass),
            (101.0, 30_000.0, Invalid),
            (139.0, 70_000.0, Pass),
            (141.0, 70_000.0, Invalid),
        ] {
            check(&Evidence { trust: doubtful(error, p50), ..good() }, verdict, "");
        }
    }

    #[test]
    fn a_latency_is_decided_in_spite_of_its_error_or_not() {
        use Verdict::{Fail, Invalid, Pass};
        let trust = doubtful(400.0, 900.0);
        let judged = |outcome: Outcome| Evidence { thresholds: vec![outcome], trust, ..good() };
        let names = "7 latency figures cannot be trusted.";
        check(&judged(outcome("e2el_ms:p95<3000", State::Held, 948.0)), Pass, names);
        check(&judged(outcome("e2el_ms:p95<300", State::Broken, 948.0)), Fail, names);
        check(&judged(outcome("e2el_ms:p95<30000", State::Held, 948.0)), Invalid, "400.0 ms");
        check(&judged(outcome("error_rate<1", State::Held, 0.0)), Invalid, "400.0 ms");
        let hidden = outcome("e2el_ms:p95<800", State::Undecided { low: 548.0, high: 948.0 }, 948.0);
        let words = "hides whether e2el_ms p(95)<800 holds: p(95)=948, between 548 and 948.";
        check(&judged(hidden.clone()), Invalid, words);
        check(&Evidence { thresholds: vec![hidden], ..good() }, Invalid, words);
    }

    #[test]
    fn the_rules_in_their_order() {
        use Verdict::{Fail, Invalid, Pass};
        let late = doubtful(95.0, 900.0);
        let one_failed = Evidence {
            queries_ok: 9,
            defaults: vec![outcome("queries_ok==10", State::Broken, 9.0)],
            ..good()
        };
        let lost = Evidence { breaches: vec![breach(3, "tokens lost", None)], ..one_failed.clone() };
        check(&good(), Pass, "All 10 queries");
        check(&Evidence::default(), Invalid, "no query was attempted");
        check(
            &Evidence { trust: late, burst: true, ..good() },
            Invalid,
            "e2el_ms p(99) is 95.0 ms, more than 90.0 ms",
        );
        check(&Evidence { achieved_share: Some(0.94), ..good() }, Invalid, "94.0 %");
        check(&Evidence { achieved_share: Some(0.94), burst: true, ..good() }, Pass, "");
        let why = Some("`redis:kill` at 3 s: no such stack".to_owned());
        check(&Evidence { fault_not_injected: why, ..good() }, Invalid, "`redis:kill` at 3 s");
        // Integrity comes before failures, failures before INVALID, and INVALID before failures that depend on time.
        check(&lost, Fail, "Integrity is broken: 3 tokens lost.");
        check(&one_failed, Fail, "1 of 10 queries failed");
        check(&Evidence { trust: late, ..one_failed.clone() }, Fail, "1 of 10 queries failed");
        let most_frequent_failure = Some("1 × create 404 (404 Not Found.)".to_owned());
        let named = "allows some). Most frequent failure: 1 × create 404 (404 Not Found.).";
        check(&Evidence { most_frequent_failure: most_frequent_failure.clone(), ..one_failed }, Fail, named);
        for (text, names) in
            [("queries_failed<1", true), ("error_rate<0.1", true), ("request_throughput>9", false)]
        {
            let thresholds = vec![outcome(text, State::Broken, 1.0)];
            let reason = judge(&Evidence {
                thresholds,
                most_frequent_failure: most_frequent_failure.clone(),
                ..good()
            })
            .reason;
            assert_eq!(reason.contains("Most frequent failure"), names, "{text}: {reason}");
        }
        let none = Evidence { queries_ok: 0, most_frequent_failure: most_frequent_failure.clone(), ..good() };
        check(&none, Fail, "None of 10 queries was complete. Most frequent failure: 1 × create 404");
        let slow = outcome("e2el_ms:p95<3000", State::Broken, 4123.4);
        let too_slow = Evidence { thresholds: vec![slow.clone()], most_frequent_failure, ..good() };
        check(&too_slow, Fail, "failed: e2el_ms p(95)<3000, p(95)=4123.");
        assert!(!judge(&too_slow).reason.contains("failure"));
        check(
            &Evidence { trust: late, thresholds: vec![slow], ..good() },
            Fail,
            "p(95)=4123. 7 latency figures cannot be trusted.",
        );
        let breaches = vec![breach(1, "tokens lost", None), breach(2, "frames unreadable", Some("`<html>`"))];
        check(
            &Evidence { breaches, ..good() },
            Fail,
            "Integrity is broken: 1 token lost, 2 frames unreadable. First example: `<html>`.",
        );
    }

    #[test]
    fn a_run_without_a_complete_query_never_passes() {
        use Verdict::{Fail, Invalid};
        let allowed = outcome("error_rate<=1", State::Held, 1.0);
        let none = Evidence { queries_ok: 0, thresholds: vec![allowed], ..good() };
        check(&none, Fail, "None of 10 queries was complete.");
        check(&Evidence { queries_excused: 10, ..none.clone() }, Invalid, "no query was complete");
        check(&Evidence { queries_judged: 0, ..none }, Invalid, "no query was complete");
    }

    #[test]
    fn a_default_that_depends_on_time_yields_to_invalid() {
        use Verdict::{Fail, Invalid};
        let timed_out = Outcome { certain: false, ..outcome("queries_ok==10", State::Broken, 9.0) };
        let stalled = Evidence { queries_ok: 9, defaults: vec![timed_out], ..good() };
        check(&stalled, Fail, "1 of 10 queries failed");
        check(&Evidence { queries_excused: 1, ..stalled.clone() }, Invalid, "1 query timed out while");
        check(&Evidence { trust: doubtful(95.0, 900.0), ..stalled }, Invalid, "e2el_ms p(99)");
        let dropped = outcome("dropped_iterations==0", State::Broken, 7.0);
        check(&Evidence { defaults: vec![dropped], ..good() }, Fail, "7 arrivals were dropped");
    }

    #[test]
    fn the_reason_of_a_pass_names_what_was_late_and_what_is_unverified() {
        use Verdict::Pass;
        check(&Evidence { tokens_unverified: 1, ..good() }, Pass, "unverified");
        let held_up = LateQueries { count: 3, most: Duration::from_millis(3_100) };
        check(
            &Evidence { late: held_up, ..good() },
            Pass,
            "All 10 queries were complete and in order; 3 of 10 were late, by up to 3.1 s.",
        );
        let unverified = Evidence { tokens_unverified: 1, late: held_up, ..good() };
        check(&unverified, Pass, "queries ended, 3 of 10 were late, by up to 3.1 s; integrity");
    }

    #[test]
    fn thresholds_say_how_many_may_fail() {
        use Verdict::{Fail, Invalid, Pass};
        let held = outcome("error_rate<0.2", State::Held, 0.1);
        let broken = outcome("e2el_ms:p95<3000", State::Broken, 4123.4);
        let unknown = outcome("ttft_ms{steady}:p99<450", State::Unknown("no steady state".into()), 0.0);
        let with = |thresholds: &[&Outcome]| Evidence {
            queries_ok: 9,
            thresholds: thresholds.iter().copied().cloned().collect(),
            ..good()
        };
        check(
            &with(&[&held]),
            Pass,
            "1 of 10 queries failed, which the thresholds allow. The threshold held.",
        );
        let held_up = LateQueries { count: 2, most: Duration::from_secs(8) };
        check(
            &Evidence { late: held_up, ..with(&[&held]) },
            Pass,
            "which the thresholds allow; 2 of 9 were late, by up to 8.0 s. The threshold held.",
        );
        check(&Evidence { queries_ok: 10, ..with(&[&held, &held]) }, Pass, "on time. All 2 thresholds held.");
        check(&with(&[&held, &broken]), Fail, "1 of 2 thresholds failed: e2el_ms p(95)<3000, p(95)=4123.");
        check(
            &with(&[&broken, &unknown]),
            Invalid,
            "ttft_ms{steady} p(99)<450 cannot be judged: no steady state.",
        );
        let lost = Evidence { breaches: vec![breach(1, "tokens lost", None)], ..with(&[&unknown]) };
        check(&lost, Fail, "1 token lost");
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
