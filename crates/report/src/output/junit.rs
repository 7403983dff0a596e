//! `_junit.xml`: the verdict and every threshold as test cases, for whatever shows test results of a build.
//! A threshold that cannot be judged is an error, one of an unnumbered stream is skipped; none is left out.

use super::{
    RunInfo,
    conclusion::{Check, Conclusion},
    files::Files,
};
use crate::values::uncontrolled;
use measure::{RunData, Verdict, threshold::State};
use quick_xml::{
    Writer,
    events::{BytesDecl, BytesText, Event},
};
use std::io;
use time::format_description::well_known::Rfc3339;

/// What a test case says beside its name.
enum Result {
    Passed,
    Failed(String),
    Error(String),
    Skipped(String),
}

struct Case {
    class: &'static str,
    name: String,
    result: Result,
}

/// Writes `_junit.xml`.
pub(super) fn write(files: &Files, run: &RunData, info: &RunInfo, conclusion: &Conclusion) -> io::Result<()> {
    let started_at = files.started_at.format(&Rfc3339).map_err(io::Error::other)?;
    let xml = render(files.id(), &started_at, run, info, conclusion)?;
    io::Write::write_all(&mut files.document("_junit.xml"), &xml)
}

fn render(
    id: &str,
    started_at: &str,
    run: &RunData,
    info: &RunInfo,
    conclusion: &Conclusion,
) -> io::Result<Vec<u8>> {
    let mut cases = vec![verdict(info, conclusion)];
    cases.extend(conclusion.checks(run).map(threshold));
    let count = |of: fn(&Result) -> bool| cases.iter().filter(|case| of(&case.result)).count().to_string();
    let (tests, time) = (cases.len().to_string(), format!("{:.3}", info.elapsed.as_secs_f64()));
    let failures = count(|result| matches!(result, Result::Failed(_)));
    let errors = count(|result| matches!(result, Result::Error(_)));
    let skipped = count(|result| matches!(result, Result::Skipped(_)));
    let sums =
        [("tests", tests), ("failures", failures), ("errors", errors), ("skipped", skipped), ("time", time)];
    let sums = || sums.iter().map(|(name, value)| (*name, value.as_str()));
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let suites = writer.create_element("testsuites").with_attribute(("name", "load test"));
    suites.with_attributes(sums()).write_inner_content(|writer| {
        let suite = writer.create_element("testsuite").with_attribute(("name", id));
        let suite = suite.with_attribute(("timestamp", started_at)).with_attributes(sums());
        suite.write_inner_content(|writer| cases.iter().try_for_each(|case| case.write(writer)))?;
        Ok(())
    })?;
    let mut xml = writer.into_inner();
    xml.push(b'\n');
    Ok(xml)
}

fn verdict(info: &RunInfo, conclusion: &Conclusion) -> Case {
    let judgement = &conclusion.judgement;
    let reason = judgement.reason.clone();
    let result = match judgement.verdict {
        _ if info.interrupted => Result::Error(format!("The run was interrupted. Until then: {reason}")),
        Verdict::Pass => Result::Passed,
        Verdict::Fail => Result::Failed(reason),
        Verdict::Invalid => Result::Error(reason),
    };
    Case { class: "run", name: "verdict".to_owned(), result }
}

fn threshold(check: Check<'_>) -> Case {
    let outcome = check.outcome;
    let result = match &outcome.state {
        _ if check.unknown.is_some() => Result::Skipped(check.unknown.unwrap_or_default().to_owned()),
        State::Held => Result::Passed,
        State::Broken => Result::Failed(check.value_text()),
        State::Unknown(why) => Result::Error(why.clone()),
        State::Undecided { .. } => Result::Error(outcome.value_text()),
    };
    Case { class: "threshold", name: outcome.threshold.to_string(), result }
}

impl Case {
    fn write(&self, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
        let case = writer.create_element("testcase");
        let case = case.with_attributes([("classname", self.class), ("name", self.name.as_str())]);
        let (element, message) = match &self.result {
            Result::Passed => return case.write_empty().map(drop),
            Result::Failed(message) => ("failure", message),
            Result::Error(message) => ("error", message),
            Result::Skipped(message) => ("skipped", message),
        };
        // XML holds no control characters, not even escaped.
        let message = uncontrolled(message);
        case.write_inner_content(|writer| {
            let element = writer.create_element(element).with_attribute(("message", message.as_str()));
            element.write_text_content(BytesText::new(&message)).map(drop)
        })
        .map(drop)
    }
}
