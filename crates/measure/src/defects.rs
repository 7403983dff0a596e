//! Defects of received frames and events: the count of each kind, and the beginning of one example.

use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Largest number of characters of an example.
const EXCERPT: usize = 120;

/// A kind of defect, counted for each query and for the run. Each kind except the last breaks the integrity of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Defect {
    /// An event of another session or query.
    Foreign,
    /// An event whose position was received before.
    Duplicated,
    /// An event that first arrived after a later position.
    Reordered,
    /// An event after the terminator of its generation, or a second terminator.
    AfterTerminator,
    /// A token beyond the announced number.
    Unannounced,
    /// A frame that could not be parsed, or an unnumbered event in a numbered query.
    Unreadable,
    /// A binary message where text is the contract.
    Binary,
    /// A query whose contents do not match the digest of the server.
    Corrupt,
    /// An event of an unknown type: ignored, counted and not judged.
    UnknownType,
}

impl Defect {
    /// Number of kinds.
    pub const COUNT: usize = Self::ALL.len();

    /// All kinds, in the order of the outputs.
    pub const ALL: [Self; 9] = [
        Self::Foreign,
        Self::Duplicated,
        Self::Reordered,
        Self::AfterTerminator,
        Self::Unannounced,
        Self::Unreadable,
        Self::Binary,
        Self::Corrupt,
        Self::UnknownType,
    ];

    /// Returns the name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Foreign => "events_foreign",
            Self::Duplicated => "events_duplicated",
            Self::Reordered => "events_reordered",
            Self::AfterTerminator => "events_after_terminator",
            Self::Unannounced => "tokens_unannounced",
            Self::Unreadable => "frames_unreadable",
            Self::Binary => "frames_binary",
            Self::Corrupt => "queries_corrupt",
            Self::UnknownType => "events_unknown_type",
        }
    }

    /// Returns whether the defect breaks the integrity of a run.
    #[must_use]
    pub const fn is_judged(self) -> bool {
        !matches!(self, Self::UnknownType)
    }
}

/// The defects of a query, a session or a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defects {
    counts: [u64; Defect::COUNT],
    examples: Option<Box<[Option<Box<str>>; Defect::COUNT]>>,
}

impl Defects {
    /// Adds `count` defects of a kind.
    pub const fn add(&mut self, defect: Defect, count: u64) {
        self.counts[defect as usize] += count;
    }

    /// Keeps `frame` as the example of its kind if there is none yet.
    pub fn show(&mut self, defect: Defect, frame: &[u8]) {
        let example = &mut self.examples.get_or_insert_default()[defect as usize];
        example.get_or_insert_with(|| excerpt(frame).into());
    }

    /// Counts one defect and keeps its frame as the example if there is none yet.
    pub fn note(&mut self, defect: Defect, frame: &[u8]) {
        self.add(defect, 1);
        self.show(defect, frame);
    }

    /// Returns the count of a kind.
    #[must_use]
    pub const fn count(&self, defect: Defect) -> u64 {
        self.counts[defect as usize]
    }

    /// Returns the beginning of the example, with control characters escaped.
    #[must_use]
    pub fn example(&self, defect: Defect) -> Option<&str> {
        self.examples.as_ref()?[defect as usize].as_deref()
    }

    /// Replaces each example by what `change` returns for it.
    pub fn change_examples(&mut self, change: impl Fn(&str) -> String) {
        for example in self.examples.iter_mut().flat_map(|examples| examples.iter_mut().flatten()) {
            *example = change(example).into();
        }
    }

    /// Returns the kinds that were found, in the order of the outputs, each with its count and its example.
    pub fn found(&self) -> impl Iterator<Item = (Defect, u64, Option<&str>)> {
        let all = Defect::ALL.into_iter().map(|defect| (defect, self.count(defect), self.example(defect)));
        all.filter(|(_, count, _)| *count > 0)
    }

    /// Returns the counts, indexed by the discriminant of the kind.
    #[must_use]
    pub const fn counts(&self) -> &[u64; Defect::COUNT] {
        &self.counts
    }

    /// Returns whether there is a defect that breaks integrity.
    #[must_use]
    pub fn any(&self) -> bool {
        Defect::ALL.into_iter().any(|defect| defect.is_judged() && self.count(defect) > 0)
    }

    /// Adds the defects of `other`. Of two examples, the one that sorts first is kept, so that the order of merging does not matter.
    pub fn merge(&mut self, other: &Self) {
        for (into, from) in self.counts.iter_mut().zip(other.counts) {
            *into += from;
        }
        let Some(examples) = &other.examples else { return };
        let ours = self.examples.get_or_insert_default();
        for (into, from) in ours.iter_mut().zip(examples.iter()) {
            if from.is_some() && (into.is_none() || from < into) {
                into.clone_from(from);
            }
        }
    }
}

/// Returns the beginning of a frame as one line. Escapes control characters and characters that change the writing direction,
/// so that the text cannot control a terminal.
#[must_use]
pub fn excerpt(frame: &[u8]) -> String {
    // A character takes at most four bytes, so more bytes than this are never needed.
    let text = String::from_utf8_lossy(&frame[..frame.len().min(4 * EXCERPT + 4)]);
    let mut out = String::new();
    for char in text.chars().take(EXCERPT) {
        match char {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char.is_control() || is_bidirectional(char) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(char));
            }
            char => out.push(char),
        }
    }
    if text.chars().nth(EXCERPT).is_some() {
        out.push('…');
    }
    out
}

/// Returns whether the character is a bidirectional control character of Unicode: a mark, embedding, override or isolate.
#[must_use]
pub const fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_list_is_in_the_order_of_the_discriminants() {
        for (index, defect) in Defect::ALL.into_iter().enumerate() {
            assert_eq!(defect as usize, index, "{}", defect.name());
        }
    }

    #[test]
    fn the_example_does_not_depend_on_the_order_of_merging() {
        let (mut all, mut one, mut two) = (Defects::default(), Defects::default(), Defects::default());
        one.note(Defect::Binary, b"first");
        two.note(Defect::Binary, b"second");
        two.note(Defect::Foreign, b"third");
        [&one, &two].iter().for_each(|defects| all.merge(defects));
        two.merge(&one);
        assert_eq!(all, two);
        assert_eq!((all.count(Defect::Binary), all.example(Defect::Binary)), (2, Some("first")));
        assert_eq!((all.count(Defect::Foreign), all.example(Defect::Foreign)), (1, Some("third")));
        assert!(all.any());
    }

    #[test]
    fn an_unknown_type_is_not_judged() {
        let mut defects = Defects::default();
        defects.note(Defect::UnknownType, b"{}");
        assert!(!defects.any());
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt(b"a\x1b[31m\r\nb\xff"), "a\\u{1b}[31m\\r\\nb\u{fffd}");
        assert_eq!(excerpt("x\u{202e}y".as_bytes()), "x\\u{202e}y");
        assert_eq!(excerpt("é".repeat(300).as_bytes()).chars().count(), EXCERPT + 1);
        assert_eq!(excerpt("é".repeat(EXCERPT).as_bytes()).chars().count(), EXCERPT);
    }

    proptest! {
        #[test]
        fn no_frame_controls_a_terminal(frame in prop::collection::vec(any::<u8>(), 0..700)) {
            let excerpt = excerpt(&frame);
            prop_assert!(!excerpt.chars().any(char::is_control));
            prop_assert!(excerpt.chars().count() <= 12 * EXCERPT);
        }
    }
}
