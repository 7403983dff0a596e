//! Explains messages in words, and what to change in a target file if it does not fit a message.

use super::{
    answer::{FileAnswer, Incoming, Read},
    file::TargetFile,
    pointer::each_scalar,
    rule::{Condition, Is, Matcher, Rule, Seen},
};
use crate::message::{End, Fault};
use serde_json::Value;

/// Upper limit in characters of a quoted value.
const LONGEST: usize = 60;
/// Upper limit of the values that a hint lists.
const MOST: usize = 6;
/// What to change if numbers are expected to go on and do not.
const ANEW: &str = "if numbers begin anew with each answer, set scope = \"query\" in [numbering]";

/// Describes what a message means, for example `token (rule 1), number 3: "Hi"`.
#[must_use]
pub fn describe(read: &Read) -> String {
    let meaning = &read.meaning;
    let what = match (meaning.fault, read.is) {
        (Some(Fault::Unreadable), Some(is)) => format!("a {} that cannot be read", is.name()),
        (Some(Fault::Unreadable), None) => "not JSON".to_owned(),
        (Some(Fault::Unknown), _) | (None, None) => "unknown".to_owned(),
        (Some(Fault::Foreign), _) => "of another question".to_owned(),
        (Some(Fault::AfterEnd), Some(is)) => format!("{} after the end of the answer", is.name()),
        (Some(Fault::AfterEnd), None) => "after the end of the answer".to_owned(),
        (None, Some(is)) => is.name().to_owned(),
    };
    let rule = read.rule.map(|index| format!(" (rule {})", index + 1)).unwrap_or_default();
    let number = meaning.seq.map(|seq| format!(", position {seq}")).unwrap_or_default();
    let detail = match &meaning.end {
        Some(End::Failed(failed)) => format!(": {}: {}", failed.code, failed.message),
        Some(End::Good) => {
            meaning.usage.map(|usage| format!(": {} tokens", usage.output)).unwrap_or_default()
        }
        None if !meaning.text.is_empty() => format!(": {}", quoted(&Value::String(meaning.text.to_string()))),
        None => String::new(),
    };
    format!("{what}{rule}{number}{detail}")
}

/// Explains what does not match in a message that `answer` read, and what to change. Empty if the file fits it.
#[must_use]
pub fn mismatches(answer: &FileAnswer, incoming: Incoming<'_>, read: &Read) -> Vec<String> {
    let (file, value) = (answer.file(), &read.value);
    match (read.meaning.fault, read.is) {
        (None, _) => Vec::new(),
        (Some(Fault::Unknown), _) => {
            let mut all = vec!["no rule matches".to_owned()];
            all.extend(near_rules(file, incoming, value));
            all.push(format!("the message has {}", contents(value)));
            all
        }
        (Some(Fault::Unreadable), None) => {
            vec![
                "the message is not JSON: add a rule with data = \"…\", the whole message, if it is expected"
                    .into(),
            ]
        }
        (Some(Fault::Unreadable), Some(is)) => unreadable(file, value, incoming, is),
        (Some(Fault::Foreign), _) => {
            let pointer = file.read.query.as_ref().map(ToString::to_string).unwrap_or_default();
            vec![format!(
                "its id at {pointer} is not that of the question: check `query` in [read], and that [submit] sends {{{{query}}}} or extracts `query`"
            )]
        }
        (Some(Fault::AfterEnd), _) => vec![match answer.not_above(value, incoming.id) {
            Some((number, last)) => {
                format!("its number {number} is not above {last}, the last one before this answer: {ANEW}")
            }
            None => "an earlier message ended the answer: check the rule with is = \"end\"".into(),
        }],
    }
}

/// Explains why the numbers of a second answer do not fit. `first` is the position of its first numbered message, and `before` the last
/// position of the answer before it. `None` if the scope of the numbers is right.
#[must_use]
pub fn wrong_scope(file: &TargetFile, first: Option<u64>, before: u64) -> Option<String> {
    let is_per_session = file.numbers.as_ref()?.is_per_session;
    match first {
        None if is_per_session => {
            Some(format!("no number is above the last one of the answer before: {ANEW}"))
        }
        Some(first) if !is_per_session && first > before.max(1) => Some(
            "the numbers go on from the answer before: set scope = \"session\" in [numbering]".to_owned(),
        ),
        _ => None,
    }
}

/// Explains an answer that did not end.
#[must_use]
pub fn missing_end(file: &TargetFile, has_tokens: bool) -> Vec<String> {
    let mut all = Vec::new();
    let conditions = |wanted: &dyn Fn(Is) -> bool| {
        let rules = file.rules.iter().enumerate().filter(|(_, rule)| wanted(rule.is));
        rules
            .map(|(index, rule)| format!("rule {} ({}): {}", index + 1, rule.is.name(), conditions(rule)))
            .collect::<Vec<_>>()
    };
    if !has_tokens {
        all.push("no token arrived. These rules say what a token is:".to_owned());
        all.extend(conditions(&|is| matches!(is, Is::Token | Is::Last)));
    }
    all.push("no message ended the answer. These rules say when it is complete:".to_owned());
    all.extend(conditions(&Is::is_good_end));
    all
}

/// Explains why no message matched the `wait` of a first message.
pub(super) fn unmatched_wait(place: &str, wait: &Matcher, received: &[String]) -> Vec<String> {
    let conditions: Vec<_> = wait.when.iter().map(|(at, condition)| format!("{at} = {condition}")).collect();
    let mut all = vec![format!("no message matched `wait` of {place}: {}", conditions.join(" and "))];
    for text in received.iter().take(MOST) {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        for (pointer, condition) in wait.when.iter().filter(|(at, condition)| !condition.holds(at.of(&value)))
        {
            let found = pointer.of(&value).map_or("nothing".to_owned(), quoted);
            let elsewhere = places(&value, condition);
            let advice =
                elsewhere.first().map(|at| format!("; it has that value at {at}")).unwrap_or_default();
            all.push(format!(
                "the message {} has {found} at {pointer}, not {condition}{advice}",
                quoted_text(text)
            ));
        }
    }
    if received.is_empty() {
        all.push("no message arrived".to_owned());
    }
    all
}

/// Returns the pointers of the values for which a condition holds.
fn places(value: &Value, condition: &Condition) -> Vec<String> {
    let mut places = Vec::new();
    each_scalar(value, &mut |at, found| {
        if condition.is_of_value() && condition.holds(Some(found)) {
            places.push(at.to_owned());
        }
    });
    places
}

/// Explains a message that matched a rule and lacks something.
fn unreadable(file: &TargetFile, value: &Value, incoming: Incoming<'_>, is: Is) -> Vec<String> {
    let mut all = Vec::new();
    let is_token = matches!(is, Is::Token | Is::Last);
    if let Some(text) = file.read.text.as_ref().filter(|_| is_token)
        && text.of(value).is_none_or(|found| !found.is_string())
    {
        let why = text.of(value).map_or("nothing".to_owned(), quoted);
        all.push(format!("`text` in [read] expects a text at {text}, where the message has {why}"));
        all.push(candidates("texts", value, &|value| value.is_string()));
        return all;
    }
    let Some(numbers) = &file.numbers else { return all };
    match &numbers.number {
        Some(pointer) if pointer.number(value).is_none() => {
            all.push(format!(
                "`number` in [numbering] expects a number at {pointer}, where the message has none"
            ));
            all.push(candidates("numbers", value, &|value| value.is_u64()));
            if is.is_good_end() {
                all.push(
                    "an end without a number needs `total`, the pointer of the number of tokens, or unnumbered_end = true"
                        .into(),
                );
            }
        }
        Some(pointer) => {
            let number = pointer.number(value).unwrap_or_default();
            all.push(format!(
                "its number {number} is below the first one, {}: set `first` in [numbering], or scope = \"session\" if numbers continue",
                numbers.first
            ));
        }
        None => all.push(format!(
            "`number` in [numbering] expects digits at the end of the event's id, which is \"{}\"",
            incoming.id
        )),
    }
    all
}

/// Explains which rules nearly match: those whose expected value is elsewhere in the message.
fn near_rules(file: &TargetFile, incoming: Incoming<'_>, value: &Value) -> Vec<String> {
    let seen = Seen { value, data: incoming.data, event: incoming.event };
    let mut all = Vec::new();
    for (index, rule) in file.rules.iter().enumerate() {
        let failed: Vec<_> =
            rule.matcher.when.iter().filter(|(at, condition)| !condition.holds(at.of(seen.value))).collect();
        for (pointer, condition) in failed {
            if let Some(at) = places(value, condition).first() {
                all.push(format!(
                    "rule {} ({}) expects {pointer} = {condition}, which the message has at {at}: change the pointer to \"{at}\"",
                    index + 1,
                    rule.is.name()
                ));
            }
        }
        if let Some(event) = rule.matcher.event.as_ref().filter(|event| *event != incoming.event)
            && rule.matcher.when.iter().all(|(at, condition)| condition.holds(at.of(value)))
            && !rule.matcher.when.is_empty()
        {
            all.push(format!(
                "rule {} ({}) expects event = \"{event}\", and the event's name is \"{}\"",
                index + 1,
                rule.is.name(),
                incoming.event
            ));
        }
    }
    all.truncate(MOST);
    if all.is_empty() {
        all.extend(other_values(file, value));
        all.push(
            "add a rule that says what it is: is = \"token\", \"end\", \"error\" or \"ignore\", with a condition on one of its values"
                .into(),
        );
    }
    all
}

/// Explains which values the rules expect where the message has another one.
fn other_values(file: &TargetFile, value: &Value) -> Option<String> {
    let first = file.rules.iter().flat_map(|rule| &rule.matcher.when).find_map(|(pointer, condition)| {
        let found = pointer.of(value)?;
        condition.is_of_value().then(|| (pointer, quoted(found)))
    });
    let (pointer, found) = first?;
    let expected = file.rules.iter().enumerate().flat_map(|(index, rule)| {
        let here =
            rule.matcher.when.iter().filter(|(at, condition)| at == pointer && condition.is_of_value());
        here.map(move |(_, condition)| format!("{condition} (rule {}, {})", index + 1, rule.is.name()))
    });
    let expected: Vec<_> = expected.take(MOST).collect();
    Some(format!("at {pointer}, the rules expect {}; the message has {found}", expected.join(", ")))
}

fn conditions(rule: &Rule) -> String {
    let matcher = &rule.matcher;
    let mut all: Vec<_> = matcher.when.iter().map(|(at, condition)| format!("{at} = {condition}")).collect();
    all.extend(matcher.event.iter().map(|event| format!("event = \"{event}\"")));
    all.extend(matcher.data.iter().map(|data| format!("data = \"{data}\"")));
    if all.is_empty() { "any message".to_owned() } else { all.join(" and ") }
}

/// Lists the values of a kind that a pointer could name.
fn candidates(kind: &str, value: &Value, is_one: &dyn Fn(&Value) -> bool) -> String {
    let mut all = Vec::new();
    each_scalar(value, &mut |at, found| {
        if is_one(found) {
            all.push(format!("{at} = {}", quoted(found)));
        }
    });
    all.truncate(MOST);
    if all.is_empty() {
        format!("the message has no {kind}")
    } else {
        format!("the message has these {kind}: {}", all.join(", "))
    }
}

fn contents(value: &Value) -> String {
    let mut all = Vec::new();
    each_scalar(value, &mut |at, found| all.push(format!("{at} = {}", quoted(found))));
    let more = all.len().saturating_sub(MOST);
    all.truncate(MOST);
    match (all.is_empty(), more) {
        (true, _) => "no values".to_owned(),
        (false, 0) => all.join(", "),
        (false, more) => format!("{} and {more} more", all.join(", ")),
    }
}

fn quoted(value: &Value) -> String {
    quoted_text(&value.to_string())
}

fn quoted_text(text: &str) -> String {
    let text = text.to_owned();
    if text.chars().count() <= LONGEST {
        text
    } else {
        text.chars().take(LONGEST).collect::<String>() + "…"
    }
}
