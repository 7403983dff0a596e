//! Reads the fields of a request one by one, so that an error names the field and its value. A field that is `null` counts as missing.

use crate::{openai::problem::Problem, plan::TOKENS, request::shown};
use serde_json::{Map, Value};

/// The fields of a JSON object.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn string(self, name: &str) -> Result<Option<&'a str>, Problem> {
        self.typed(name, "a string", Value::as_str)
    }

    pub(super) fn switch(self, name: &str, otherwise: bool) -> Result<bool, Problem> {
        Ok(self.typed(name, "true or false", Value::as_bool)?.unwrap_or(otherwise))
    }

    pub(super) fn number(self, name: &str) -> Result<Option<f64>, Problem> {
        self.typed(name, "a number", Value::as_f64)
    }

    pub(super) fn object(self, name: &str) -> Result<Option<&'a Map<String, Value>>, Problem> {
        self.typed(name, "an object", Value::as_object)
    }

    /// Reads a limit of tokens.
    pub(super) fn tokens(self, name: &str) -> Result<Option<u64>, Problem> {
        let expected = format!("a whole number from {} to {}", TOKENS.start(), TOKENS.end());
        self.typed(name, &expected, |value| value.as_u64().filter(|tokens| TOKENS.contains(tokens)))
    }

    /// Reads the model's name.
    pub(super) fn model(self) -> Result<String, Problem> {
        let model = self.string("model")?.filter(|model| !model.is_empty());
        model
            .map(str::to_owned)
            .ok_or_else(|| invalid("model", "`model` is missing: send the name of a model"))
    }

    fn typed<T>(
        self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(invalid(name, format!("`{name}` must be {expected}, not {}", shown(value)))),
        }
    }
}

/// Reads a body that is a JSON object.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Problem::Malformed(format!("the body is not JSON: {error}")))?;
    match value {
        Value::Object(fields) => Ok(fields),
        other => Err(Problem::Malformed(format!("the body must be a JSON object, not {}", shown(&other)))),
    }
}

/// Creates the problem of a field.
pub(super) fn invalid(name: &str, message: impl Into<String>) -> Problem {
    Problem::Invalid(message.into(), name.to_owned())
}

/// Counts the words of a text. A word is a token of the simulator.
pub(super) fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// Counts the words of a content: a string, or a list of parts whose `text` counts.
pub(super) fn content_words(content: &Value) -> u64 {
    match content {
        Value::String(text) => words(text),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).map(words).sum(),
        _ => 0,
    }
}
