//! JSON pointers (RFC 6901), and the values that they find.

use serde_json::Value;
use std::fmt;

/// A JSON pointer. The empty one is the whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(String);

impl Pointer {
    /// Reads a pointer.
    ///
    /// # Errors
    /// The text is not a pointer.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.starts_with('/') {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "invalid JSON pointer \"{text}\": expected for example \"/{}\"",
                text.replace('.', "/")
            ))
        }
    }

    /// Returns the value at the pointer. `None` if there is none.
    pub fn of<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        value.pointer(&self.0)
    }

    /// Returns the text at the pointer: a string, a number or a truth value.
    pub fn text(&self, value: &Value) -> Option<String> {
        self.of(value).and_then(scalar)
    }

    /// Returns the number at the pointer.
    pub fn number(&self, value: &Value) -> Option<u64> {
        self.of(value).and_then(number)
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the first text at one of the pointers that is not empty.
pub fn first_text(pointers: &[Pointer], value: &Value) -> Option<String> {
    pointers.iter().find_map(|pointer| pointer.text(value).filter(|text| !text.is_empty()))
}

/// Returns the text of a string, a number or a truth value.
pub fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is) => Some(is.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns a number that is not negative: a JSON number, or the digits at the end of a text.
pub fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => split_number(text).map(|(_, number)| number),
        _ => None,
    }
}

/// Splits a text before the digits at its end, for example `17-5` into `17-` and 5.
pub fn split_number(text: &str) -> Option<(&str, u64)> {
    let prefix = text.trim_end_matches(|c: char| c.is_ascii_digit());
    Some((prefix, text[prefix.len()..].parse().ok()?))
}

/// Calls `take` with the pointer of each string, number and truth value inside `value`.
pub fn each_scalar(value: &Value, take: &mut impl FnMut(&str, &Value)) {
    visit(value, &mut String::new(), take);
}

fn visit(value: &Value, at: &mut String, take: &mut impl FnMut(&str, &Value)) {
    let length = at.len();
    let mut inside = |name: &str, value: &Value, at: &mut String| {
        at.push('/');
        at.push_str(&name.replace('~', "~0").replace('/', "~1"));
        visit(value, at, take);
        at.truncate(length);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| inside(name, value, at)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| inside(&index.to_string(), value, at));
        }
        Value::Null => {}
        value => take(at, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_may_be_texts_with_digits_at_the_end() {
        let value = json!({"a": 7, "b": "17-5", "c": "x", "d": -1, "e": {"f~": [true]}});
        let number = |pointer: &str| Pointer::parse(pointer).unwrap().number(&value);
        assert_eq!(
            [number("/a"), number("/b"), number("/c"), number("/d"), number("/x")],
            [Some(7), Some(5), None, None, None]
        );
        assert!(Pointer::parse("a.b").unwrap_err().contains("\"/a/b\""));
        let mut found = Vec::new();
        each_scalar(&value, &mut |pointer, _| found.push(pointer.to_owned()));
        assert_eq!(found, ["/a", "/b", "/c", "/d", "/e/f~0/0"]);
    }
}
