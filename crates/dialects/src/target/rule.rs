//! Rules: which messages are tokens, ends, errors or nothing of interest.

use super::pointer::{Pointer, scalar};
use serde_json::Value;
use std::fmt;

/// What a rule says about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// Text of the answer.
    Token,
    /// Text of the model's reasoning.
    Reasoning,
    /// Text of the answer, which is complete with it.
    Last,
    /// The answer is complete.
    End,
    /// The answer failed.
    Error,
    /// The answer ended because the client stopped it.
    Stopped,
    /// The server cannot send the rest of the answer after a reconnect.
    Lost,
    /// The server asks for the reply of `[keepalive]`.
    Ping,
    /// Nothing of interest.
    Ignore,
}

impl Is {
    /// All of them, with their names.
    pub const NAMES: [(&'static str, Self); 9] = [
        ("token", Self::Token),
        ("reasoning", Self::Reasoning),
        ("last", Self::Last),
        ("end", Self::End),
        ("error", Self::Error),
        ("stopped", Self::Stopped),
        ("lost", Self::Lost),
        ("ping", Self::Ping),
        ("ignore", Self::Ignore),
    ];

    /// Returns the name in a file.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, is)| *is == self).map_or("", |(name, _)| name)
    }

    /// Returns whether a message of this kind ends the answer well.
    #[must_use]
    pub const fn is_good_end(self) -> bool {
        matches!(self, Self::End | Self::Last)
    }
}

/// A rule of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What matching messages are.
    pub is: Is,
    /// Which messages match.
    pub matcher: Matcher,
}

/// A condition on a message: all its parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matcher {
    /// The `event` line of a server-sent event.
    pub event: Option<String>,
    /// The whole message as text.
    pub data: Option<String>,
    /// Conditions on values inside the message.
    pub when: Vec<(Pointer, Condition)>,
}

/// A condition on one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Equals(Value),
    Not(Value),
    OneOf(Vec<Value>),
    Prefix(String),
    Exists(bool),
    NonEmpty(bool),
}

/// A message as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The message, or an item inside it. Null if it is not JSON.
    pub value: &'a Value,
    /// The text of the whole message.
    pub data: &'a str,
    /// The `event` line of a server-sent event. Empty if there is none.
    pub event: &'a str,
}

impl Matcher {
    /// Returns whether the message matches.
    pub fn matches(&self, seen: Seen<'_>) -> bool {
        self.event.as_ref().is_none_or(|event| event == seen.event)
            && self.data.as_ref().is_none_or(|data| data == seen.data)
            && self.when.iter().all(|(pointer, condition)| condition.holds(pointer.of(seen.value)))
    }
}

impl Condition {
    /// Returns whether the condition names a value that another place could have as well.
    pub const fn is_of_value(&self) -> bool {
        matches!(self, Self::Equals(_) | Self::OneOf(_) | Self::Prefix(_))
    }

    /// Returns whether the condition holds for a value, or for its absence.
    pub fn holds(&self, found: Option<&Value>) -> bool {
        match self {
            Self::Equals(expected) => found == Some(expected),
            Self::Not(unexpected) => found != Some(unexpected),
            Self::OneOf(all) => found.is_some_and(|found| all.contains(found)),
            Self::Prefix(prefix) => {
                found.and_then(scalar).is_some_and(|text| text.starts_with(prefix.as_str()))
            }
            Self::Exists(is) => found.is_some_and(|found| !found.is_null()) == *is,
            Self::NonEmpty(is) => found.is_some_and(has_content) == *is,
        }
    }
}

fn has_content(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equals(value) => write!(f, "{value}"),
            Self::Not(value) => write!(f, "anything but {value}"),
            Self::OneOf(all) => {
                let all: Vec<_> = all.iter().map(ToString::to_string).collect();
                write!(f, "one of {}", all.join(", "))
            }
            Self::Prefix(prefix) => write!(f, "a text that begins with \"{prefix}\""),
            Self::Exists(true) => f.write_str("any value"),
            Self::Exists(false) => f.write_str("no value"),
            Self::NonEmpty(true) => f.write_str("a value that is not empty"),
            Self::NonEmpty(false) => f.write_str("nothing, or an empty value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_on_values_and_on_their_absence() {
        let value = json!({"type": "token", "n": 1, "empty": "", "null": null});
        let at = |pointer: &str| value.pointer(pointer);
        let holds = |condition: Condition, pointer: &str| condition.holds(at(pointer));
        assert!(holds(Condition::Equals(json!("token")), "/type"));
        assert!(!holds(Condition::Equals(json!("1")), "/n"), "types differ");
        assert!(holds(Condition::Not(json!(true)), "/absent"));
        assert!(holds(Condition::OneOf(vec![json!(1), json!(2)]), "/n"));
        assert!(holds(Condition::Prefix("tok".into()), "/type"));
        assert!(holds(Condition::Exists(false), "/null") && holds(Condition::Exists(true), "/empty"));
        assert!(holds(Condition::NonEmpty(false), "/empty") && holds(Condition::NonEmpty(true), "/n"));
    }

    #[test]
    fn all_parts_of_a_matcher_must_hold() {
        let value = json!({"type": "token"});
        let seen = Seen { value: &value, data: "x", event: "delta" };
        let matcher = Matcher { event: Some("delta".into()), data: Some("x".into()), ..Matcher::default() };
        assert!(matcher.matches(seen));
        assert!(!matcher.matches(Seen { event: "", ..seen }));
        assert!(!Matcher { data: Some("y".into()), ..matcher }.matches(seen));
    }
}
