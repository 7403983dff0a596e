//! What a program states about its settings in its metrics, so that results can record how a stack was set up.

use std::fmt::Display;

/// Longest value that is stated in full, in characters.
const LONGEST: usize = 64;

/// Returns the settings to state: the one of `always`, and those of `changed` that differ from their defaults, without the flags in
/// `omitted`. Names are those of metrics' labels: `max_streams` for `--max-streams`. The beginning of a long value stands for it.
pub fn settings(
    always: (&str, impl Display),
    changed: impl IntoIterator<Item = (String, String)>,
    omitted: &[&str],
) -> Vec<(String, String)> {
    let (name, value) = always;
    let others = changed.into_iter().filter(|(flag, _)| flag != name && !omitted.contains(&flag.as_str()));
    std::iter::once((name.to_owned(), value.to_string()))
        .chain(others)
        .map(|(flag, value)| (flag.replace('-', "_"), shortened(value)))
        .collect()
}

fn shortened(value: String) -> String {
    let length = value.chars().count();
    if length <= LONGEST {
        return value;
    }
    let beginning: String = value.chars().take(LONGEST).collect();
    format!("{beginning}… ({length} characters)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_settings_are_stated_under_the_names_of_labels() {
        let changed = [("port", "7"), ("delivery", "pubsub"), ("max-streams", "300")];
        let changed = changed.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let stated = settings(("delivery", "pubsub"), changed, &["port"]);
        let stated: Vec<_> = stated.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(stated, [("delivery", "pubsub"), ("max_streams", "300")]);
    }

    #[test]
    fn long_values_are_shortened() {
        let long = "é".repeat(65);
        let stated = settings(("text", &long), [], &[]);
        assert_eq!(stated[0].1, format!("{}… (65 characters)", "é".repeat(64)));
        assert_eq!(shortened("é".repeat(64)), "é".repeat(64));
    }
}
