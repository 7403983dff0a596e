//! Reads the field `streamstress` of a request: the schedule of the answer, its form, and the errors in it.

use crate::{
    error::ApiError,
    openai::{
        faults::Faults,
        fields::{Fields, invalid, object},
        problem::Problem,
    },
    request::{Query, shown},
};
use serde_json::{Map, Value};
use std::str::FromStr;

/// The name of the field.
pub(super) const KEY: &str = "streamstress";

/// The fields in it.
const KNOWN: [&str; 11] = [
    "query_id",
    "seed",
    "tokens",
    "ttft_ms",
    "itl_ms",
    "marks",
    "text",
    "tokens_per_event",
    "role",
    "finish",
    "faults",
];

/// When the events before the first token are sent: the role of a chat, the message of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Opening {
    /// Together with the first token, so that a client that takes them for a token measures the same.
    #[default]
    WithFirst,
    /// At the start of the stream.
    Early,
    /// Never, in a chat. A response needs them, and gets them with the first token.
    Never,
}

/// Where a chat tells why it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FinishAt {
    /// In the last token's chunk.
    #[default]
    LastToken,
    /// In a separate chunk, when the end is due.
    Separate,
}

/// The fields, or their defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Extension {
    /// The schedule, with the meaning of the fields of a run call.
    pub(super) query: Query,
    pub(super) seed: Option<u64>,
    /// Every token event carries its number, its due time and its sending time.
    pub(super) marks: bool,
    /// The words are `t1 t2 …`.
    pub(super) numbered: bool,
    /// The number of tokens per event, minus one.
    extra_tokens_per_event: u64,
    pub(super) opening: Opening,
    pub(super) finish_at: FinishAt,
    pub(super) faults: Faults,
}

impl Extension {
    /// Reads the field of a request. Returns `None` if the request has no such field.
    ///
    /// # Errors
    /// The field, its value and what is expected.
    pub(super) fn read(request: &Map<String, Value>) -> Result<Option<Self>, Problem> {
        Fields(request).object(KEY)?.map(Self::of).transpose()
    }

    /// Reads the fields of the object. Unknown ones are refused, because a misspelled one would change nothing.
    fn of(fields: &Map<String, Value>) -> Result<Self, Problem> {
        if let Some(unknown) = fields.keys().find(|name| !KNOWN.contains(&name.as_str())) {
            let known = KNOWN.join(", ");
            return Err(wrong(format!("unknown field `{unknown}` in `{KEY}`: expected {known}")));
        }
        let query = Query::schedule(fields).map_err(|error| match error {
            ApiError::Invalid(message) => wrong(message),
            other => other.into(),
        })?;
        let fields = Fields(fields);
        let seed = fields.get("seed").map(|seed| {
            seed.as_u64()
                .ok_or_else(|| wrong(format!("`seed` must be a whole number from 0, not {}", shown(seed))))
        });
        Ok(Self {
            query,
            seed: seed.transpose()?,
            marks: fields.switch("marks", false)?,
            numbered: choice(fields, "text", [("words", false), ("numbered", true)])?,
            extra_tokens_per_event: fields.tokens("tokens_per_event")?.unwrap_or(1) - 1,
            opening: choice(
                fields,
                "role",
                [("with_first", Opening::WithFirst), ("early", Opening::Early), ("none", Opening::Never)],
            )?,
            finish_at: choice(
                fields,
                "finish",
                [("on_last", FinishAt::LastToken), ("separate", FinishAt::Separate)],
            )?,
            faults: Faults::read(fields.get("faults"))?,
        })
    }

    /// Returns the extension for the answer with this number, from 1: faults that concern other answers are left out.
    #[must_use]
    pub(super) fn for_answer(&self, number: u64) -> Self {
        Self { faults: self.faults.for_answer(number), ..self.clone() }
    }

    /// Returns the number of tokens per event, at least 1.
    pub(super) const fn tokens_per_event(&self) -> u64 {
        self.extra_tokens_per_event + 1
    }
}

/// The schedule, the form and the faults of the answers whose requests have no field `streamstress`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnswerDefaults(pub(super) Extension);

/// The defaults of the answers are wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidDefaults(String);

impl FromStr for AnswerDefaults {
    type Err = InvalidDefaults;

    /// Reads a JSON object with the fields of `streamstress`.
    fn from_str(text: &str) -> Result<Self, InvalidDefaults> {
        let fields = object(text.as_bytes()).map_err(|_| {
            InvalidDefaults(
                r#"expected a JSON object, for example {"role": "early", "itl_ms": 20}"#.to_owned(),
            )
        })?;
        Extension::of(&fields).map(Self).map_err(|problem| InvalidDefaults(problem.to_string()))
    }
}

/// Reads a field with one of these values. The first is the default.
fn choice<T: Copy, const N: usize>(
    fields: Fields<'_>,
    name: &str,
    values: [(&str, T); N],
) -> Result<T, Problem> {
    let Some(value) = fields.get(name) else { return Ok(values[0].1) };
    values.iter().find(|(known, _)| value == known).map(|&(_, value)| value).ok_or_else(|| {
        let known = values.map(|(known, _)| known).join(", ");
        wrong(format!("`{name}` must be one of {known}, not {}", shown(value)))
    })
}

fn wrong(message: impl Into<String>) -> Problem {
    invalid(KEY, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::faults::Fault;
    use serde_json::json;

    fn read(extension: &Value) -> Result<Extension, Problem> {
        Extension::read(json!({ KEY: extension }).as_object().unwrap()).map(Option::unwrap)
    }

    #[test]
    fn fields_are_read_and_defaults_kept() {
        let defaults = read(&json!({})).unwrap();
        assert_eq!(defaults, Extension::default());
        assert_eq!(Extension::read(&Map::new()).unwrap(), None);
        assert_eq!(defaults.tokens_per_event(), 1);
        let all = read(&json!({"query_id": "q", "seed": 7, "tokens": 5, "ttft_ms": 1, "itl_ms": 2.5, "marks": true, "text": "numbered",
            "tokens_per_event": 4, "role": "early", "finish": "separate", "faults": [{"kind": "cut", "at": 3}]}))
        .unwrap();
        assert_eq!((all.seed, all.query.tokens(), all.tokens_per_event()), (Some(7), Some(5), 4));
        assert_eq!(
            (all.marks, all.numbered, all.opening, all.finish_at),
            (true, true, Opening::Early, FinishAt::Separate)
        );
        assert!(all.faults.has(3, Fault::Cut));
    }

    #[test]
    fn defaults_are_an_object_with_the_same_fields() {
        let faults = r#"{"role": "early", "faults": [{"kind": "error", "at": 3, "every": 20}]}"#;
        let defaults: AnswerDefaults = faults.parse().unwrap();
        assert_eq!(defaults.0.opening, Opening::Early);
        let fails = |number| defaults.0.for_answer(number).faults.error();
        assert_eq!((fails(19), fails(20), fails(21), fails(40)), (None, Some(3), None, Some(3)));
        let error = |text: &str| text.parse::<AnswerDefaults>().unwrap_err().to_string();
        assert!(error("early").starts_with("expected a JSON object, for example {"));
        assert!(error("[]").starts_with("expected a JSON object"));
        assert!(error(r#"{"rule": 1}"#).contains("unknown field `rule`"));
    }

    #[test]
    fn a_wrong_field_is_named() {
        let check = |extension: Value, expected: &str| {
            let error = read(&extension).unwrap_err();
            assert!(matches!(&error, Problem::Invalid(..)), "{error:?}");
            assert!(error.to_string().contains(expected), "{error} does not contain {expected}");
        };
        check(json!("x"), "`streamstress` must be an object, not \"x\"");
        check(
            json!({"token": 5}),
            "unknown field `token` in `streamstress`: expected query_id, seed, tokens,",
        );
        check(json!({"tokens": 0}), "`tokens` must be a whole number from 1 to 1000000, not 0");
        check(json!({"itl_ms": "x"}), "`itl_ms` must be");
        check(json!({"seed": -1}), "`seed` must be a whole number from 0, not -1");
        check(json!({"role": "late"}), "`role` must be one of with_first, early, none, not \"late\"");
        check(json!({"finish": 1}), "`finish` must be one of on_last, separate, not 1");
        check(json!({"marks": 1}), "`marks` must be true or false, not 1");
        check(json!({"tokens_per_event": 0}), "`tokens_per_event` must be");
    }
}
