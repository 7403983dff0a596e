//! The client's record of which positions of a query arrived, in whatever order they came.
//!
//! A ledger stores the ranges that are missing and no positions, so a complete stream in order costs a counter.
//!
//! ```
//! use protocol::{EventCounts, ExpectedRange, Kind, Ledger, Observation};
//!
//! // Three tokens and a terminator were announced. The second token is lost.
//! let mut ledger = Ledger::default();
//! assert_eq!(ledger.observe(1, Kind::Token, None), Observation::InOrder);
//! assert_eq!(ledger.observe(3, Kind::Token, None), Observation::Ahead { skipped: 1 });
//! assert_eq!(ledger.observe(4, Kind::Done, None), Observation::InOrder);
//! assert!(!ledger.is_complete());
//! let counts = ledger.counts(3, ExpectedRange::Announced);
//! assert_eq!((counts.tokens_received, counts.tokens_lost), (2, 1));
//! // A resume brings it late: it is reordered and no longer lost.
//! assert_eq!(ledger.observe(2, Kind::Token, None), Observation::Reordered);
//! assert!(ledger.is_complete());
//! ```

use crate::Kind;

/// A range of sequence numbers that did not arrive, with the sending times of the events beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingRange {
    /// The first missing sequence number.
    pub first: u64,
    /// The last missing sequence number.
    pub last: u64,
    /// `sent_us` of the event before the range, if it is known.
    pub before_us: Option<u64>,
    /// `sent_us` of the event after the range, if it is known.
    pub after_us: Option<u64>,
}

impl MissingRange {
    const fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// How an event arrived, compared with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The event is the next one.
    InOrder,
    /// The event is ahead of the next one, and those in between have not arrived yet.
    Ahead {
        /// Sequence numbers between the next one and this one.
        skipped: u64,
    },
    /// The event is new, but its sequence number is below the highest.
    Reordered,
    /// The event had arrived before.
    Duplicate,
}

/// Counts of the tokens and events of one query. Events are tokens and terminators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Tokens that arrived at least once.
    pub tokens_received: u64,
    /// Tokens of the [`ExpectedRange`] that did not arrive.
    pub tokens_lost: u64,
    /// Announced tokens behind an `Error` terminator, which the server did not send.
    pub tokens_unsent: u64,
    /// Tokens at positions beyond the announced number.
    pub tokens_unannounced: u64,
    /// Arrivals of tokens that had arrived before.
    pub tokens_duplicated: u64,
    /// First arrivals of tokens below the highest position.
    pub tokens_reordered: u64,
    /// Tokens and terminators that arrived at least once.
    pub events_received: u64,
    /// Tokens and terminators of the [`ExpectedRange`] that did not arrive.
    pub events_lost: u64,
    /// Arrivals of tokens and terminators that had arrived before.
    pub events_duplicated: u64,
    /// First arrivals of tokens and terminators below the highest position.
    pub events_reordered: u64,
}

/// Which positions are expected of a query whose terminator did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedRange {
    /// All that were announced, because the query's deadline passed.
    Announced,
    /// Those up to the highest that arrived, because the query was cut off before its deadline or ended by a peer.
    UpToHighest,
}

/// Checks off the events of one generation, numbered 1, 2, 3 … and terminator included.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// The sequence number after the highest that arrived.
    next: u64,
    last_sent_us: Option<u64>,
    missing: Vec<MissingRange>,
    counts: EventCounts,
    /// Numbered events that are neither tokens nor terminators.
    others: u64,
    terminator: Option<(u64, Kind)>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            next: 1,
            last_sent_us: None,
            missing: Vec::new(),
            counts: EventCounts::default(),
            others: 0,
            terminator: None,
        }
    }
}

impl Ledger {
    /// Takes the arrival of event `seq`, at least 1. Fences (`seq` 0) belong to no query: do not pass them.
    pub fn observe(&mut self, seq: u64, kind: Kind, sent_us: Option<u64>) -> Observation {
        let observation = self.place(seq, u64::from(!kind.is_terminator()), sent_us);
        if observation != Observation::Duplicate && kind.is_terminator() {
            self.terminator.get_or_insert((seq, kind));
        }
        observation
    }

    /// Takes the arrival of event `seq`, at least 1, that is neither a token nor a terminator, in a dialect that numbers every event.
    pub fn observe_other(&mut self, seq: u64, sent_us: Option<u64>) -> Observation {
        let observation = self.place(seq, 0, sent_us);
        self.others += u64::from(observation != Observation::Duplicate);
        observation
    }

    /// Returns the number of events that arrived and are neither tokens nor terminators.
    #[must_use]
    pub const fn others(&self) -> u64 {
        self.others
    }

    fn place(&mut self, seq: u64, token: u64, sent_us: Option<u64>) -> Observation {
        let observation = if seq >= self.next {
            let skipped = seq - self.next;
            if skipped > 0 {
                self.missing.push(MissingRange {
                    first: self.next,
                    last: seq - 1,
                    before_us: self.last_sent_us,
                    after_us: sent_us,
                });
            }
            self.next = seq.saturating_add(1);
            self.last_sent_us = sent_us;
            if skipped == 0 { Observation::InOrder } else { Observation::Ahead { skipped } }
        } else if self.fill(seq, sent_us) {
            self.counts.tokens_reordered += token;
            self.counts.events_reordered += 1;
            Observation::Reordered
        } else {
            self.counts.tokens_duplicated += token;
            self.counts.events_duplicated += 1;
            return Observation::Duplicate;
        };
        self.counts.tokens_received += token;
        self.counts.events_received += 1;
        observation
    }

    /// Takes `seq` out of the missing range that holds it. Returns false if no range does.
    fn fill(&mut self, seq: u64, sent_us: Option<u64>) -> bool {
        let Some(index) = self.missing.iter().position(|range| (range.first..=range.last).contains(&seq))
        else {
            return false;
        };
        let range = self.missing.remove(index);
        if seq < range.last {
            self.missing.insert(index, MissingRange { first: seq + 1, before_us: sent_us, ..range });
        }
        if seq > range.first {
            self.missing.insert(index, MissingRange { last: seq - 1, after_us: sent_us, ..range });
        }
        true
    }

    /// Returns the kind of the terminator that arrived: `Done` or `Error`.
    #[must_use]
    pub fn terminator(&self) -> Option<Kind> {
        self.terminator.map(|(_, kind)| kind)
    }

    /// Returns whether everything up to and including the terminator arrived.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.terminator.is_some() && self.missing.is_empty()
    }

    /// Returns the highest sequence number that arrived, and 0 before the first.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.next - 1
    }

    /// Returns the ranges that are missing of `expected_tokens` tokens and their terminator. Nothing is missing behind a terminator
    /// that arrived, because an `Error` ends the answer early.
    #[must_use]
    pub fn missing(&self, expected_tokens: u64) -> Vec<MissingRange> {
        let mut missing = self.missing.clone();
        let last = match self.terminator {
            Some((seq, _)) => seq,
            None => expected_tokens.saturating_add(1),
        };
        if self.next <= last {
            missing.push(MissingRange {
                first: self.next,
                last,
                before_us: self.last_sent_us,
                after_us: None,
            });
        }
        missing
    }

    /// Returns the counts of a query for which `announced` tokens and a terminator were announced. Tokens missing behind a `Done`
    /// count as lost. Those behind an `Error` count as unsent.
    #[must_use]
    pub fn counts(&self, announced: u64, range: ExpectedRange) -> EventCounts {
        let missing: u64 = self.missing.iter().map(MissingRange::len).sum();
        // A terminator has a position too. What is missing up to the last token is assumed to be tokens.
        let (last_token, cut_off_by_error, events_behind) = match (self.terminator, range) {
            (Some((seq, kind)), _) => (seq - 1, kind == Kind::Error, 0),
            (None, ExpectedRange::Announced) => {
                (self.highest(), false, announced.saturating_add(1).saturating_sub(self.highest()))
            }
            (None, ExpectedRange::UpToHighest) => (self.highest(), true, 0),
        };
        let missing_below: u64 = self
            .missing
            .iter()
            .filter(|range| range.first <= last_token)
            .map(|range| range.last.min(last_token) + 1 - range.first)
            .sum();
        let behind = announced.saturating_sub(last_token);
        EventCounts {
            tokens_lost: missing_below + if cut_off_by_error { 0 } else { behind },
            tokens_unsent: if cut_off_by_error { behind } else { 0 },
            tokens_unannounced: self.counts.tokens_received.saturating_sub(self.tokens_within(announced)),
            events_lost: missing + events_behind,
            ..self.counts
        }
    }

    /// Returns how many tokens arrived at positions from 1 to `last`.
    fn tokens_within(&self, last: u64) -> u64 {
        let last = last.min(self.highest());
        let missing: u64 = self
            .missing
            .iter()
            .filter(|range| range.first <= last)
            .map(|range| range.last.min(last) + 1 - range.first)
            .sum();
        let terminator = self.terminator.is_some_and(|(seq, _)| seq <= last);
        last - missing - u64::from(terminator)
    }

    /// Returns the sequence number of the last token, known from the terminator, and before that the highest that arrived.
    #[must_use]
    pub fn last_token(&self) -> u64 {
        self.terminator.map_or_else(|| self.highest(), |(seq, _)| seq - 1)
    }

    /// Returns the counts of what arrived. Use it for servers that announce no number of tokens: nothing counts as lost.
    #[must_use]
    pub const fn observed(&self) -> EventCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ledger(arrivals: &[u64], terminator: u64) -> Ledger {
        let mut ledger = Ledger::default();
        for &seq in arrivals {
            let kind = if seq == terminator { Kind::Done } else { Kind::Token };
            ledger.observe(seq, kind, Some(seq * 10));
        }
        ledger
    }

    #[test]
    fn a_complete_answer_loses_nothing() {
        let ledger = ledger(&[1, 2, 3, 4], 4);
        assert!(ledger.is_complete());
        assert_eq!(
            ledger.counts(3, ExpectedRange::Announced),
            EventCounts { tokens_received: 3, events_received: 4, ..EventCounts::default() }
        );
        assert!(ledger.missing(3).is_empty());
    }

    #[test]
    fn a_missing_range_has_the_times_of_its_neighbours() {
        let ledger = ledger(&[1, 2, 6], 6);
        assert!(!ledger.is_complete());
        assert_eq!(
            ledger.missing(5),
            [MissingRange { first: 3, last: 5, before_us: Some(20), after_us: Some(60) }]
        );
        assert_eq!(ledger.counts(5, ExpectedRange::Announced).tokens_lost, 3);
    }

    #[test]
    fn a_late_event_is_reordered_and_a_repeated_one_is_a_duplicate() {
        let ledger = ledger(&[1, 4, 2, 2, 3, 5, 5], 5);
        assert!(ledger.is_complete());
        let counts = ledger.counts(4, ExpectedRange::Announced);
        assert_eq!((counts.tokens_reordered, counts.tokens_duplicated, counts.tokens_lost), (2, 1, 0));
        assert_eq!((counts.events_duplicated, counts.events_received), (2, 5));
    }

    #[test]
    fn other_events_have_positions_and_are_no_tokens() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.observe_other(1, None), Observation::InOrder);
        assert_eq!(ledger.observe(2, Kind::Token, None), Observation::InOrder);
        assert_eq!(ledger.observe_other(4, None), Observation::Ahead { skipped: 1 });
        assert_eq!(ledger.observe_other(4, None), Observation::Duplicate);
        ledger.observe(5, Kind::Done, None);
        let counts = ledger.counts(ledger.last_token(), ExpectedRange::Announced);
        assert_eq!((counts.tokens_received, counts.events_received, ledger.others()), (1, 4, 2));
        assert_eq!((counts.tokens_lost, counts.events_duplicated, counts.tokens_duplicated), (1, 1, 0));
        assert_eq!(counts.tokens_unannounced, 0);
    }

    #[test]
    fn a_query_without_events_loses_all_of_them() {
        let ledger = ledger(&[], 0);
        assert_eq!(ledger.counts(18, ExpectedRange::Announced).tokens_lost, 18);
        assert_eq!(ledger.counts(18, ExpectedRange::Announced).events_lost, 19);
    }

    #[test]
    fn tokens_behind_an_error_are_unsent_and_behind_a_done_lost() {
        for (kind, lost, unsent) in [(Kind::Error, 1, 15), (Kind::Done, 16, 0)] {
            let mut ledger = ledger(&[1, 3], 99);
            ledger.observe(4, kind, None);
            assert_eq!(ledger.terminator(), Some(kind));
            let counts = ledger.counts(18, ExpectedRange::Announced);
            assert_eq!((counts.tokens_lost, counts.tokens_unsent, counts.events_lost), (lost, unsent, 1));
        }
    }

    #[test]
    fn a_query_that_was_cut_off_is_expected_up_to_its_highest_position() {
        let ledger = ledger(&[1, 2, 5], 99);
        let seen = ledger.counts(18, ExpectedRange::UpToHighest);
        assert_eq!((seen.tokens_lost, seen.tokens_unsent, seen.events_lost), (2, 13, 2));
        let announced = ledger.counts(18, ExpectedRange::Announced);
        assert_eq!((announced.tokens_lost, announced.tokens_unsent, announced.events_lost), (15, 0, 16));
    }

    #[test]
    fn tokens_beyond_the_announced_number_are_counted() {
        for (arrivals, terminator, unannounced) in [
            (&[1, 2, 3, 4][..], 4, 0),
            (&[1, 2, 3, 4, 5, 6], 6, 2),
            (&[1, 5, 6], 6, 1),
            (&[5, 6, 7], 99, 3),
            (&[1, 2, 3, 4, 5], 4, 1),
            (&[1, 3, 4, 5], 3, 2),
        ] {
            let counts = ledger(arrivals, terminator).counts(3, ExpectedRange::Announced);
            assert_eq!(counts.tokens_unannounced, unannounced, "{arrivals:?}");
        }
    }

    proptest! {
        /// Compares the counts with those taken from a list of all arrivals.
        #[test]
        fn agrees_with_a_list_of_all_arrivals(tokens in 0u64..30, arrivals in proptest::collection::vec(1u64..32, 0..120)) {
            let arrivals: Vec<u64> = arrivals.into_iter().filter(|&seq| seq <= tokens + 1).collect();
            let counts = ledger(&arrivals, tokens + 1).counts(tokens, ExpectedRange::Announced);
            let (mut seen, mut duplicated, mut reordered) = (std::collections::BTreeSet::new(), 0, 0);
            for &seq in &arrivals {
                let below = seen.last().is_some_and(|&highest| seq < highest);
                if !seen.insert(seq) { duplicated += 1; } else if below { reordered += 1; }
            }
            prop_assert_eq!(counts.events_received, seen.len() as u64);
            prop_assert_eq!(counts.events_lost, tokens + 1 - seen.len() as u64);
            prop_assert_eq!((counts.events_duplicated, counts.events_reordered), (duplicated, reordered));
            prop_assert_eq!(counts.tokens_received + counts.tokens_lost, tokens);
        }
    }
}
