//! Counts in messages, with the noun in the singular or plural.

use std::{borrow::Cow, fmt::Display};

/// Returns the count and what was counted, for example `1 token lost`, `0 tokens lost` or `2 arrivals were dropped`. `phrase` is
/// the plural: see [`noun`].
#[must_use]
pub fn counted(count: impl Copy + Display + PartialEq + From<u8>, phrase: &str) -> String {
    format!("{count} {}", noun(count, phrase))
}

/// Returns `phrase`, which is in the plural, in the number that `count` requires. For 1, the first word that ends in `s` becomes
/// singular, and a verb directly behind it (`were`, `are`, `have`, `do`) as well. Only regular nouns are supported.
#[must_use]
pub fn noun(count: impl Copy + PartialEq + From<u8>, phrase: &str) -> Cow<'_, str> {
    if count != From::from(1) {
        return Cow::Borrowed(phrase);
    }
    let mut words: Vec<Cow<'_, str>> = phrase.split(' ').map(Cow::Borrowed).collect();
    let Some(at) = words.iter().position(|word| word.ends_with('s')) else { return Cow::Borrowed(phrase) };
    words[at] = singular(&words[at]).into();
    if let Some(verb) = words.get_mut(at + 1) {
        *verb = match &**verb {
            "were" => "was".into(),
            "are" => "is".into(),
            "have" => "has".into(),
            "do" => "does".into(),
            other => other.to_owned().into(),
        };
    }
    Cow::Owned(words.join(" "))
}

fn singular(plural: &str) -> String {
    let is_sibilant = |stem: &&str| ["ss", "x", "tch", "sh"].iter().any(|end| stem.ends_with(end));
    if let Some(stem) = plural.strip_suffix("ies") {
        return format!("{stem}y");
    }
    let stem = plural.strip_suffix("es").filter(is_sibilant).or_else(|| plural.strip_suffix('s'));
    stem.unwrap_or(plural).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_every_other_count_plural() {
        for (phrase, one) in [
            ("tokens lost", "1 token lost"),
            ("queries", "1 query"),
            ("latency figures cannot be trusted", "1 latency figure cannot be trusted"),
            ("more lines were omitted", "1 more line was omitted"),
            ("rows do not hold", "1 row does not hold"),
            ("addresses", "1 address"),
            ("switches", "1 switch"),
            ("events after terminator", "1 event after terminator"),
        ] {
            assert_eq!(counted(1_u64, phrase), one);
            for other in [0_u64, 2, 11] {
                assert_eq!(counted(other, phrase), format!("{other} {phrase}"));
            }
        }
        assert_eq!(
            (counted(1.0, "queries"), counted(1_usize, "sockets")),
            ("1 query".into(), "1 socket".into())
        );
        assert_eq!(noun(1, "nothing here"), "nothing here");
    }
}
