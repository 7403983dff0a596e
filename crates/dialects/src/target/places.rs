//! Places of a target file that may be empty without a fault. If no message of whole answers has a value there, the place is probably wrong.

use super::{file::TargetFile, pointer::Pointer};
use serde_json::Value;

/// A place that some message should have.
#[derive(Clone, Debug)]
struct Place {
    name: &'static str,
    pointer: Pointer,
    is_number: bool,
    /// What a run does without it.
    otherwise: &'static str,
    was_found: bool,
}

/// Which optional places of a file the messages had so far.
#[derive(Clone, Debug)]
pub struct Places(Vec<Place>);

impl Places {
    /// Creates the places of a file. None was found yet.
    #[must_use]
    pub fn new(file: &TargetFile) -> Self {
        let total = file.numbers.as_ref().and_then(|numbers| numbers.total.as_ref());
        let wanted = [
            (
                "`query` in [read]",
                file.read.query.as_ref(),
                false,
                "messages of other questions are taken for this one's",
            ),
            ("`usage` in [read]", file.read.usage.as_ref(), true, "a run reports no usage"),
            ("`total` in [numbering]", total, true, "the loss of the last tokens cannot be seen by it"),
        ];
        let place = |(name, pointer, is_number, otherwise): (_, Option<&Pointer>, _, _)| {
            Some(Place { name, pointer: pointer?.clone(), is_number, otherwise, was_found: false })
        };
        Self(wanted.into_iter().filter_map(place).collect())
    }

    /// Notes what a message has.
    pub fn see(&mut self, value: &Value) {
        for place in &mut self.0 {
            let has = match place.is_number {
                true => place.pointer.number(value).is_some(),
                false => place.pointer.text(value).is_some(),
            };
            place.was_found |= has;
        }
    }

    /// Names the places that no message had, in words.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let missing = self.0.iter().filter(|place| !place.was_found);
        missing
            .map(|Place { name, pointer, is_number, otherwise, .. }| {
                let what = if *is_number { "number" } else { "value" };
                format!("no message has a {what} at {pointer}, which {name} names: {otherwise}")
            })
            .collect()
    }
}
