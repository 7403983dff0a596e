//! The little JSON that the drivers need beside `serde_json`.

/// Returns a text as a JSON string.
pub(super) fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns the texts of the objects in a JSON array, without decoding them.
pub(super) fn objects(array: &str) -> impl Iterator<Item = &str> {
    let (mut depth, mut in_string, mut escaped, mut start) = (0, false, false, 0);
    array.bytes().enumerate().filter_map(move |(at, byte)| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' if !in_string => {
                if depth == 0 {
                    start = at;
                }
                depth += 1;
            }
            b'}' if !in_string => {
                depth -= 1;
                return (depth == 0).then(|| &array[start..=at]);
            }
            _ => {}
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_whatever_their_strings_contain() {
        let array = r#"[{"a":"}{\"\\"},{"b":{"c":[{}]}} , {}]"#;
        let found: Vec<_> = objects(array).collect();
        assert_eq!(found, [r#"{"a":"}{\"\\"}"#, r#"{"b":{"c":[{}]}}"#, "{}"]);
        assert_eq!(objects("[]").count(), 0);
    }

    #[test]
    fn quotes_are_escaped() {
        assert_eq!(text(r#"{"a":1}"#), r#""{\"a\":1}""#);
    }
}
