//! The grammar of `--vary`: `NAME=VALUE,VALUE`, or `NAME+NAME=VALUE+VALUE,VALUE+VALUE` for settings that change together.

use std::str::FromStr;

/// Largest number of values of one dimension.
const MAX_VALUES: usize = 200;
/// Smallest similarity of a name to suggest it.
const MIN_LIKENESS: f64 = 0.75;
/// Largest number of names to suggest.
const MAX_SUGGESTIONS: usize = 3;

/// A setting with its values, or several settings that change together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimension {
    /// Text as the user wrote it.
    pub text: String,
    /// Names of the settings, at least one.
    pub names: Vec<String>,
    /// Values, at least one. Each has as many parts as there are names.
    pub values: Vec<Vec<String>>,
}

/// A `--vary` cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--vary \"{text}\": {fault}")]
pub struct VaryError {
    text: String,
    fault: String,
}

/// Reads a dimension. Values are separated by commas, or by `|` if there is one, because a value can contain commas.
///
/// ```
/// use measure::sweep::Dimension;
///
/// let gateways: Dimension = "wsproxy=1,2,3".parse().unwrap();
/// assert_eq!(gateways.values.len(), 3);
/// let stages: Dimension = "stages=1m:10,1m:0|2m:20,1m:0".parse().unwrap();
/// assert_eq!(stages.values, [["1m:10,1m:0"], ["2m:20,1m:0"]]);
/// let together: Dimension = "server+wsproxy=1+2,2+4".parse().unwrap();
/// assert_eq!(together.values[1], ["2", "4"]);
/// ```
impl FromStr for Dimension {
    type Err = VaryError;

    fn from_str(text: &str) -> Result<Self, VaryError> {
        let invalid = |fault: String| VaryError { text: text.to_owned(), fault };
        let Some((names, values)) = text.split_once('=') else {
            return Err(invalid("expected NAME=VALUE,VALUE, for example wsproxy=1,2,3".to_owned()));
        };
        let names: Vec<String> = names.split('+').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) {
            return Err(invalid("a name is missing: expected for example wsproxy=1,2,3".to_owned()));
        }
        if let Some(name) = repeated(&names) {
            return Err(invalid(format!("`{name}` is named twice: name each setting once")));
        }
        let separator = if values.contains('|') { '|' } else { ',' };
        let values: Vec<Vec<String>> =
            values.split(separator).map(|value| parts(value.trim(), names.len())).collect();
        if values.len() > MAX_VALUES {
            let count = values.len();
            return Err(invalid(format!("it has {count} values: expected at most {MAX_VALUES}")));
        }
        for value in &values {
            if value.iter().any(String::is_empty) {
                return Err(invalid("a value is empty: remove the comma or name a value".to_owned()));
            }
            if value.len() != names.len() {
                return Err(invalid(format!(
                    "the value `{}` has {} parts: expected {}, one for each of {}, joined by `+`",
                    value.join("+"),
                    value.len(),
                    names.len(),
                    names.join(", ")
                )));
            }
        }
        if let Some(value) = repeated(&values) {
            return Err(invalid(format!(
                "the value `{}` is named twice: use --repeat to play a variant more often",
                value.join("+")
            )));
        }
        Ok(Self { text: text.to_owned(), names, values })
    }
}

/// Splits a value of several settings. The value of one setting stays whole, because it can contain a `+`.
fn parts(value: &str, names: usize) -> Vec<String> {
    if names == 1 {
        return vec![value.to_owned()];
    }
    value.split('+').map(|part| part.trim().to_owned()).collect()
}

/// Returns the first item that is equal to an earlier one.
fn repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find(|(at, item)| items[..*at].contains(item)).map(|(_, item)| item)
}

/// Returns the known names that are most similar to `name`, the best one first, three at most.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let wanted = plain(name);
    let likeness = |known: &str| {
        let known = plain(known);
        if known.contains(&wanted) && wanted.len() > 2 { 1.0 } else { strsim::jaro_winkler(&wanted, &known) }
    };
    let mut alike: Vec<(f64, &str)> = known.into_iter().map(|known| (likeness(known), known)).collect();
    alike.retain(|(likeness, _)| *likeness > MIN_LIKENESS);
    alike.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.len().cmp(&b.1.len())));
    alike.into_iter().take(MAX_SUGGESTIONS).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wrong_texts_are_named_with_the_next_step() {
        for (text, why) in [
            ("wsproxy", "expected NAME=VALUE,VALUE, for example wsproxy=1,2,3"),
            ("=1,2", "a name is missing"),
            ("a+=1+2", "a name is missing"),
            ("wsproxy=", "a value is empty"),
            ("wsproxy=1,,2", "a value is empty"),
            ("wsproxy=1,1", "the value `1` is named twice: use --repeat"),
            ("a+a=1+2", "`a` is named twice"),
            ("a+b=1,2", "the value `1` has 1 parts: expected 2, one for each of a, b"),
            ("a+b=1+2+3", "has 3 parts"),
        ] {
            let error = text.parse::<Dimension>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("--vary \"{text}\": ")) && error.contains(why), "{error}");
        }
        let many = format!("a={}", (0..201).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
        assert!(many.parse::<Dimension>().unwrap_err().to_string().contains("201 values"));
    }

    #[test]
    fn a_plus_in_the_value_of_one_setting_stays() {
        let dimension: Dimension = "api-url=http://a/?x=1+2,http://b".parse().unwrap();
        assert_eq!(dimension.values, [["http://a/?x=1+2"], ["http://b"]]);
    }

    #[test]
    fn similar_names_are_suggested() {
        let known = ["wsproxy", "wsproxy-url", "server", "max-streams", "MAX_STREAMS", "haproxy-instances"];
        assert_eq!(nearest("wsproxi", known)[0], "wsproxy");
        assert_eq!(nearest("MAX_STREAM", known), ["max-streams", "MAX_STREAMS"]);
        assert_eq!(nearest("instances", known), ["haproxy-instances"]);
        assert!(nearest("zzzz", known).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            if let Ok(dimension) = text.parse::<Dimension>() {
                prop_assert!(!dimension.names.is_empty() && !dimension.values.is_empty());
                for value in &dimension.values {
                    prop_assert_eq!(value.len(), dimension.names.len());
                    prop_assert!(value.iter().all(|part| !part.is_empty()));
                }
            }
            let _ = nearest(&text, ["wsproxy", &text]);
        }

        #[test]
        fn what_is_written_is_read(
            names in proptest::collection::btree_set("[a-z-]{1,8}", 1..4),
            values in proptest::collection::btree_set("[a-z0-9:./]{1,6}", 1..6),
        ) {
            let values: Vec<Vec<String>> = values.iter().map(|value| vec![value.clone(); names.len()]).collect();
            let names: Vec<String> = names.into_iter().collect();
            for separator in [",", "|"] {
                let joined: Vec<_> = values.iter().map(|value| value.join("+")).collect();
                let text = format!("{}={}", names.join("+"), joined.join(separator));
                let dimension: Dimension = text.parse().unwrap();
                prop_assert_eq!(&dimension.names, &names);
                prop_assert_eq!(&dimension.values, &values);
            }
        }
    }
}
