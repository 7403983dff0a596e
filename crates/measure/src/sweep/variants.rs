//! All combinations of the values of a sweep, and the order in which they are played.

use super::Dimension;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// Largest number of variants of a sweep.
pub const MAX_VARIANTS: usize = 200;

/// One combination: a value for each setting, in the order of the dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant(Vec<(String, String)>);

/// Writes a map that keeps the order of the settings.
impl Serialize for Variant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for Variant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Variant;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("settings with their values")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Variant, A::Error> {
                let mut settings = Vec::new();
                while let Some(setting) = map.next_entry()? {
                    settings.push(setting);
                }
                Ok(Variant(settings))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl Variant {
    /// Returns the settings with their values.
    #[must_use]
    pub fn settings(&self) -> &[(String, String)] {
        &self.0
    }

    /// Returns the value of a setting.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the settings without those in `left_out`, as text: `wsproxy=2 delivery=log`.
    #[must_use]
    pub fn without(&self, left_out: &[&str]) -> String {
        let kept = self.0.iter().filter(|(name, _)| !left_out.contains(&name.as_str()));
        kept.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.without(&[]))
    }
}

/// A sweep has too many variants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the --vary make {count} variants: expected at most {MAX_VARIANTS}, so name fewer values")]
pub struct TooMany {
    /// Number of combinations.
    pub count: usize,
}

/// Returns all combinations. The last dimension changes first.
///
/// # Errors
/// There are more than [`MAX_VARIANTS`].
pub fn variants(dimensions: &[Dimension]) -> Result<Vec<Variant>, TooMany> {
    let count = dimensions.iter().fold(1usize, |count, each| count.saturating_mul(each.values.len()));
    if count > MAX_VARIANTS {
        return Err(TooMany { count });
    }
    let mut variants = vec![Variant(Vec::new())];
    for Dimension { names, values, .. } in dimensions {
        let longer = |start: &Variant, value: &[String]| {
            let more = names.iter().cloned().zip(value.iter().cloned());
            Variant(start.0.iter().cloned().chain(more).collect())
        };
        variants =
            variants.iter().flat_map(|start| values.iter().map(move |value| longer(start, value))).collect();
    }
    Ok(variants)
}

/// One run of a sweep: which variant, and which of its repetitions. Both count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// Number of the variant.
    pub variant: usize,
    /// Number of the repetition.
    pub repetition: usize,
}

/// Returns the order of a sweep: forwards in the first repetition, backwards in the second one, and so on. A drift of the machine then
/// affects all variants alike.
pub fn order(variants: usize, repetitions: usize) -> impl Iterator<Item = Turn> {
    (1..=repetitions).flat_map(move |repetition| {
        (1..=variants).map(move |at| {
            let variant = if repetition % 2 == 1 { at } else { variants + 1 - at };
            Turn { variant, repetition }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dimensions(texts: &[&str]) -> Vec<Dimension> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn every_combination_is_a_variant() {
        let all = variants(&dimensions(&["wsproxy=1,2", "delivery=pubsub,log"])).unwrap();
        let texts: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "wsproxy=1 delivery=pubsub",
                "wsproxy=1 delivery=log",
                "wsproxy=2 delivery=pubsub",
                "wsproxy=2 delivery=log"
            ]
        );
        assert_eq!(all[2].without(&["wsproxy"]), "delivery=pubsub");
        assert_eq!((all[3].value("delivery"), all[3].value("other")), (Some("log"), None));
        let json = serde_json::to_string(&all[0]).unwrap();
        assert_eq!(json, r#"{"wsproxy":"1","delivery":"pubsub"}"#);
        assert_eq!(serde_json::from_str::<Variant>(&json).unwrap(), all[0]);
        let coupled = variants(&dimensions(&["a+b=1+2,3+4"])).unwrap();
        assert_eq!(coupled[1].to_string(), "a=3 b=4");
    }

    #[test]
    fn too_many_are_counted() {
        let fifteen = (0..15).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let error = variants(&dimensions(&[&format!("a={fifteen}"), &format!("b={fifteen}")])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the --vary make 225 variants: expected at most 200, so name fewer values"
        );
    }

    #[test]
    fn repetitions_alternate() {
        let order: Vec<_> = order(3, 3).map(|turn| (turn.variant, turn.repetition)).collect();
        assert_eq!(order, [(1, 1), (2, 1), (3, 1), (3, 2), (2, 2), (1, 2), (1, 3), (2, 3), (3, 3)]);
    }

    proptest! {
        #[test]
        fn variants_differ_and_each_is_played_once_per_repetition(
            sizes in proptest::collection::vec(1usize..5, 1..4),
            repetitions in 1usize..5,
        ) {
            let texts: Vec<String> = sizes.iter().enumerate().map(|(at, size)| {
                let values: Vec<_> = (0..*size).map(|value| value.to_string()).collect();
                format!("d{at}={}", values.join(","))
            }).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let all = variants(&dimensions(&texts)).unwrap();
            prop_assert_eq!(all.len(), sizes.iter().product::<usize>());
            let names: std::collections::BTreeSet<_> = all.iter().map(ToString::to_string).collect();
            prop_assert_eq!(names.len(), all.len());
            let turns: std::collections::BTreeSet<_> = order(all.len(), repetitions).collect();
            prop_assert_eq!(turns.len(), all.len() * repetitions);
            // With an even number of repetitions, the mean position of all variants is the same.
            if repetitions % 2 == 0 {
                let mut places = vec![0; all.len()];
                order(all.len(), repetitions).enumerate().for_each(|(at, turn)| places[turn.variant - 1] += at);
                prop_assert!(places.iter().all(|place| *place == places[0]), "{:?}", places);
            }
        }
    }
}
