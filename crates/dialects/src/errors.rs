//! The errors of OpenAI-compatible servers: `{"error": {"message", "type", "param", "code"}}`, in a refusal or inside a stream.

use crate::message::Failed;
use serde_json::Value;

/// Upper limit in characters of a code and of a message.
const LONGEST: usize = 400;

/// Reads an error object, or the object that has it as `error`. `None` if `value` is neither.
#[must_use]
pub fn failed(value: &Value) -> Option<Failed> {
    let error = match value.get("error") {
        Some(error) if is_truthy(error) => error,
        _ => value,
    };
    let text = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => Some(cut(text)),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let field = |name| error.get(name).and_then(text);
    let message = field("message").or_else(|| text(error));
    let code = field("code").or_else(|| field("type").filter(|kind| kind != "error"));
    (message.is_some() || code.is_some()).then(|| Failed {
        code: code.unwrap_or_else(|| "unknown".to_owned()),
        message: message.unwrap_or_default(),
    })
}

/// Reads the body of a refusal. `None` if it has no error of this form.
#[must_use]
pub fn refusal(body: &[u8]) -> Option<Failed> {
    let value: Value = serde_json::from_slice(body).ok()?;
    failed(value.get("error").filter(|error| is_truthy(error))?)
}

/// Returns whether an `error` field holds an error. Clients of this API raise on any truthy value.
pub(crate) fn is_truthy(error: &Value) -> bool {
    match error {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(all) => !all.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_several_servers() {
        let failed = |text: &str| {
            refusal(text.as_bytes()).map(|failed| format!("{}: {}", failed.code, failed.message))
        };
        let of_openai = r#"{"error":{"message":"no such model","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#;
        assert_eq!(failed(of_openai).unwrap(), "model_not_found: no such model");
        let of_vllm =
            r#"{"error":{"object":"error","message":"too long","type":"BadRequestError","code":400}}"#;
        assert_eq!(failed(of_vllm).unwrap(), "400: too long");
        assert_eq!(failed(r#"{"error":"overloaded"}"#).unwrap(), "unknown: overloaded");
        assert_eq!(failed(r#"{"error":{"type":"server_error"}}"#).unwrap(), "server_error: ");
        for none in ["", "{}", "[1]", r#"{"error":null}"#, r#"{"error":{}}"#, r#"{"detail":"x"}"#] {
            assert_eq!(failed(none), None, "{none}");
        }
    }
}
