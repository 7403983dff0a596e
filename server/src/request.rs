//! Reads the body of a run call field by field, so that an error names the field and its value.

use crate::{
    error::ApiError,
    plan::{DELAY_MS, TOKENS, Timing},
};
use serde_json::{Map, Value};
use settings::distribution::Distribution;

/// The longest query id, in bytes. Every token carries it.
pub(crate) const MAX_QUERY_ID_BYTES: usize = 128;

/// A valid run call. The prompt is checked and dropped, because the simulator answers with its configured text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Query {
    /// The query id, if the client sent one.
    pub(crate) query_id: Option<String>,
    tokens: Option<f64>,
    ttft_ms: Option<f64>,
    itl_ms: Option<f64>,
}

impl Query {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] with the field, its value and what is expected.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body).map_err(|error| {
            invalid(format!("the body is not JSON: {error}; expected {{\"query\": \"…\"}}"))
        })?;
        let Value::Object(fields) = value else {
            return Err(invalid(format!("the body must be a JSON object, not {}", shown(&value))));
        };
        match fields.get("query") {
            Some(Value::String(_)) => {}
            Some(other) => return Err(invalid(format!("`query` must be a string, not {}", shown(other)))),
            None => return Err(invalid("`query` is missing: send {\"query\": \"…\"}".to_owned())),
        }
        Self::schedule(&fields)
    }

    /// Reads the fields that ask for a schedule: `query_id`, `tokens`, `ttft_ms` and `itl_ms`.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] with the field, its value and what is expected.
    pub(crate) fn schedule(fields: &Map<String, Value>) -> Result<Self, ApiError> {
        Ok(Self {
            query_id: query_id(fields)?,
            tokens: tokens(fields)?,
            ttft_ms: delay(fields, "ttft_ms")?,
            itl_ms: delay(fields, "itl_ms")?,
        })
    }

    /// Returns the number of tokens that the query asks for.
    pub(crate) fn tokens(&self) -> Option<u64> {
        self.tokens.map(|tokens| tokens as u64)
    }

    /// Returns the `configured` timing, with the values that the query asks for instead.
    pub(crate) fn timing(&self, configured: &Timing) -> Timing {
        let asked = |value: Option<f64>, otherwise| value.map_or(otherwise, Distribution::Fixed);
        Timing {
            ttft_ms: asked(self.ttft_ms, configured.ttft_ms),
            itl_ms: asked(self.itl_ms, configured.itl_ms),
            tokens: asked(self.tokens, configured.tokens),
        }
    }
}

fn present<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn query_id(fields: &Map<String, Value>) -> Result<Option<String>, ApiError> {
    match present(fields, "query_id") {
        None => Ok(None),
        Some(Value::String(id)) if (1..=MAX_QUERY_ID_BYTES).contains(&id.len()) => Ok(Some(id.clone())),
        Some(other) => Err(invalid(format!(
            "`query_id` must be a string of 1 to {MAX_QUERY_ID_BYTES} bytes, not {}",
            shown(other)
        ))),
    }
}

fn tokens(fields: &Map<String, Value>) -> Result<Option<f64>, ApiError> {
    let Some(value) = present(fields, "tokens") else { return Ok(None) };
    match value.as_u64().filter(|tokens| TOKENS.contains(tokens)) {
        Some(tokens) => Ok(Some(tokens as f64)),
        None => Err(invalid(format!(
            "`tokens` must be a whole number from {} to {}, not {}",
            TOKENS.start(),
            TOKENS.end(),
            shown(value)
        ))),
    }
}

fn delay(fields: &Map<String, Value>, name: &str) -> Result<Option<f64>, ApiError> {
    let Some(value) = present(fields, name) else { return Ok(None) };
    match value.as_f64().filter(|delay| DELAY_MS.contains(delay)) {
        Some(delay) => Ok(Some(delay)),
        None => Err(invalid(format!(
            "`{name}` must be a number of milliseconds from {} to {}, not {}",
            DELAY_MS.start(),
            DELAY_MS.end(),
            shown(value)
        ))),
    }
}

const fn invalid(detail: String) -> ApiError {
    ApiError::Invalid(detail)
}

/// Returns the value as JSON, cut to 64 characters.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(body: &str, expected: &str) {
        let ApiError::Invalid(detail) = Query::parse(body.as_bytes()).unwrap_err() else {
            panic!("{body} is accepted")
        };
        assert!(detail.contains(expected), "{body}: {detail} does not contain {expected}");
    }

    #[test]
    fn errors_name_the_field_and_the_value() {
        check("", "not JSON");
        check("nonsense", "not JSON");
        check("[\"x\"]", "JSON object, not [\"x\"]");
        check("{}", "`query` is missing");
        check(r#"{"query":7}"#, "`query` must be a string, not 7");
        check(r#"{"query":null}"#, "`query` must be a string, not null");
        check(r#"{"query":"x","query_id":""}"#, "`query_id` must be a string of 1 to 128 bytes, not \"\"");
        check(r#"{"query":"x","query_id":5}"#, "not 5");
        check(&format!(r#"{{"query":"x","query_id":"{}"}}"#, "é".repeat(65)), "(132 bytes)");
        for tokens in ["0", "-1", "1000001", "1.5", "\"5\"", "[]", "18446744073709551616"] {
            check(&format!(r#"{{"query":"x","tokens":{tokens}}}"#), "`tokens` must be");
        }
        for delay in ["-0.1", "3600001", "\"50\"", "1e300", "{}"] {
            check(&format!(r#"{{"query":"x","ttft_ms":{delay}}}"#), "`ttft_ms` must be");
            check(&format!(r#"{{"query":"x","itl_ms":{delay}}}"#), "`itl_ms` must be");
        }
        check(&"[".repeat(100_000), "not JSON");
    }

    #[test]
    fn what_is_asked_for_replaces_what_is_configured() {
        let configured = Timing {
            ttft_ms: Distribution::Fixed(1.0),
            itl_ms: Distribution::Fixed(50.0),
            tokens: Distribution::Fixed(18.0),
        };
        let query = Query::parse(br#"{"query":"","tokens":null,"itl_ms":0,"more":[1]}"#).unwrap();
        assert_eq!(query.timing(&configured), Timing { itl_ms: Distribution::Fixed(0.0), ..configured });
    }

    proptest! {
        #[test]
        fn parsing_never_panics(body in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,100}") {
            let _ = Query::parse(&body);
            let _ = Query::parse(text.as_bytes());
        }
    }
}
