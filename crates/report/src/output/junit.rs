//! `_junit.xml`: the verdict and every threshold as test cases, for programs that show the test results of a build.
//! A threshold that cannot be judged is an error, and one that needs numbered events is skipped if there are none.

use super::{
    RunInfo,
    conclusion::{Check, Conclusion},
    files::Files,
};
use crate::values::uncontrolled;
use measure::{RunData, Verdict, threshold::State};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use std::io;
use time::format_description::well_known::Rfc3339;

/// Writes `_junit.xml`.
pub(super) fn write(files: &Files, run: &RunData, info: &RunInfo, conclusion: &Conclusion) -> io::Result<()> {
    let started_at = files.started_at.format(&Rfc3339).map_err(io::Error::other)?;
    let mut suite = TestSuite::new(files.id());
    suite.extra.insert("timestamp".into(), started_at.into());
    suite.set_time(info.elapsed);
    suite.add_test_case(verdict(info, conclusion));
    suite.add_test_cases(conclusion.checks(run).map(threshold));
    let mut report = Report::new("load test");
    report.set_time(info.elapsed).add_test_suite(suite);
    report.serialize(files.document("_junit.xml")).map_err(io::Error::other)
}

fn verdict(info: &RunInfo, conclusion: &Conclusion) -> TestCase {
    let judgement = &conclusion.judgement;
    let reason = &judgement.reason;
    let status = match judgement.verdict {
        _ if info.interrupted => error(&format!("The run was interrupted. Until then: {reason}")),
        Verdict::Pass => TestCaseStatus::success(),
        Verdict::Fail => failure(reason),
        Verdict::Invalid => error(reason),
    };
    case("run", "verdict", status)
}

fn threshold(check: Check<'_>) -> TestCase {
    let outcome = check.outcome;
    let status = match (check.unknown, &outcome.state) {
        (Some(why), _) => with_message(TestCaseStatus::skipped(), why),
        (None, State::Held) => TestCaseStatus::success(),
        (None, State::Broken) => failure(&check.value_text()),
        (None, State::Unknown(why)) => error(why),
        (None, State::Undecided { .. }) => error(&outcome.value_text()),
    };
    case("threshold", &outcome.threshold.to_string(), status)
}

fn case(class: &str, name: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(class);
    case
}

fn failure(message: &str) -> TestCaseStatus {
    with_message(TestCaseStatus::non_success(NonSuccessKind::Failure), message)
}

fn error(message: &str) -> TestCaseStatus {
    with_message(TestCaseStatus::non_success(NonSuccessKind::Error), message)
}

/// Sets the message as attribute and as text, because some programs show only one of them.
fn with_message(mut status: TestCaseStatus, message: &str) -> TestCaseStatus {
    let message = uncontrolled(message);
    status.set_message(&message).set_description(&message);
    status
}
