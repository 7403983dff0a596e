//! Replaces escaped surrogates without a pair in JSON texts, because a Rust string cannot hold them.

/// Returns the JSON text with U+FFFD for each escaped surrogate without a pair, or `None` if it has none.
pub(super) fn without_lone_surrogates(json: &str) -> Option<String> {
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))
    };
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = json[at..].find('\\') {
        at += found;
        match unit(at) {
            Some(0xD800..=0xDBFF) if unit(at + 6).is_some_and(|low| (0xDC00..=0xDFFF).contains(&low)) => {
                at += 12;
            }
            Some(0xD800..=0xDFFF) => {
                out.push_str(&json[copied..at]);
                out.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            Some(_) => at += 6,
            // Another escape, for example `\\`: the character behind the backslash starts no escape.
            None => at += 1 + json[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    (copied > 0).then(|| out + &json[copied..])
}

#[cfg(test)]
mod tests {
    use crate::event::{Frame, MalformedFrame, tests::parsed};

    #[test]
    fn a_surrogate_without_its_pair_is_replaced() {
        for (escaped, content) in [
            (r"\ud83d\ude00", "😀"),
            (r"\ud83d", "\u{fffd}"),
            (r"\ude00x", "\u{fffd}x"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
            (r"\\\ud83d", "\\\u{fffd}"),
            (r"\\ud83d", r"\ud83d"),
            (r"é\udfff\n", "é\u{fffd}\n"),
        ] {
            let frame = format!(r#"{{"type":"token","content":"{escaped}"}}"#);
            assert_eq!(parsed(frame.as_bytes()).content, content, "{escaped}");
        }
        assert_eq!(Frame::parse(r#"{"type":"token","content":"\ud83d\q"}"#), Err(MalformedFrame));
    }
}
