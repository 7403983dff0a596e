//! The ledger of one query on the client's side: every position is checked off, whatever order it comes in.
//! It stores holes, not positions, so a stream without faults costs a counter.

use crate::Kind;

/// A run of positions that never came, with the sending times of its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The first missing sequence number.
    pub first: u64,
    /// The last missing sequence number.
    pub last: u64,
    /// `sent_us` of the neighbour before.
    pub before_us: Option<u64>,
    /// `sent_us` of the neighbour after.
    pub after_us: Option<u64>,
}

impl Hole {
    const fn len(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// What an arrival was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The next one.
    InOrder,
    /// Further than the next one: so many before it have not come yet.
    Ahead {
        /// How many were skipped.
        skipped: u64,
    },
    /// New, but below one already seen.
    Reordered,
    /// Came before.
    Duplicate,
}

/// Sums of one query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tokens that came at least once.
    pub tokens_received: u64,
    /// Tokens that are owed and never came: see [`Owed`].
    pub tokens_lost: u64,
    /// Announced tokens that an `Error` terminator cut off: the server never sent them.
    pub tokens_unsent: u64,
    /// Tokens at positions beyond the announced number.
    pub tokens_unannounced: u64,
    /// Arrivals of tokens that had come before.
    pub tokens_duplicated: u64,
    /// First arrivals of tokens below one already seen.
    pub tokens_reordered: u64,
    /// The same with terminators.
    pub events_received: u64,
    /// The same with terminators.
    pub events_lost: u64,
    /// The same with terminators.
    pub events_duplicated: u64,
    /// The same with terminators.
    pub events_reordered: u64,
}

/// Which positions a query without a terminator is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    /// All that were announced: its deadline came.
    Announced,
    /// Those below the highest that came: it was cut off before its deadline, or a peer ended it.
    Seen,
}

/// Checks off the events of one generation: sequence numbers 1, 2, 3 …, terminator included.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// One past the highest sequence number seen.
    next: u64,
    last_sent_us: Option<u64>,
    holes: Vec<Hole>,
    tally: Tally,
    terminator: Option<(u64, Kind)>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { next: 1, last_sent_us: None, holes: Vec::new(), tally: Tally::default(), terminator: None }
    }
}

impl Ledger {
    /// Event `seq` arrived. Fences (`seq` 0) are nobody's business here: do not pass them.
    pub fn observe(&mut self, seq: u64, kind: Kind, sent_us: Option<u64>) -> Observation {
        let token = u64::from(!kind.is_terminator());
        let observation = if seq >= self.next {
            let skipped = seq - self.next;
            if skipped > 0 {
                self.holes.push(Hole {
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
            self.tally.tokens_reordered += token;
            self.tally.events_reordered += 1;
            Observation::Reordered
        } else {
            self.tally.tokens_duplicated += token;
            self.tally.events_duplicated += 1;
            return Observation::Duplicate;
        };
        self.tally.tokens_received += token;
        self.tally.events_received += 1;
        if kind.is_terminator() {
            self.terminator.get_or_insert((seq, kind));
        }
        observation
    }

    /// Takes `seq` out of the hole that it lies in; false where it lies in none.
    fn fill(&mut self, seq: u64, sent_us: Option<u64>) -> bool {
        let Some(index) = self.holes.iter().position(|hole| (hole.first..=hole.last).contains(&seq)) else {
            return false;
        };
        let hole = self.holes.remove(index);
        if seq < hole.last {
            self.holes.insert(index, Hole { first: seq + 1, before_us: sent_us, ..hole });
        }
        if seq > hole.first {
            self.holes.insert(index, Hole { last: seq - 1, after_us: sent_us, ..hole });
        }
        true
    }

    /// The terminator that came: `Done` or `Error`.
    #[must_use]
    pub fn terminator(&self) -> Option<Kind> {
        self.terminator.map(|(_, kind)| kind)
    }

    /// Everything up to the terminator came.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.terminator.is_some() && self.holes.is_empty()
    }

    /// The highest sequence number seen; 0 before the first.
    #[must_use]
    pub const fn highest(&self) -> u64 {
        self.next - 1
    }

    /// What is missing of `expected_tokens` tokens and their terminator; an `Error` terminator ends the answer early,
    /// so nothing is missing behind it.
    #[must_use]
    pub fn missing(&self, expected_tokens: u64) -> Vec<Hole> {
        let mut missing = self.holes.clone();
        let last = match self.terminator {
            Some((seq, _)) => seq,
            None => expected_tokens.saturating_add(1),
        };
        if self.next <= last {
            missing.push(Hole { first: self.next, last, before_us: self.last_sent_us, after_us: None });
        }
        missing
    }

    /// The sums, if `announced` tokens and a terminator were announced. Behind a `Done` the announced tokens are owed as well; an
    /// `Error` says that they were never sent.
    #[must_use]
    pub fn tally(&self, announced: u64, owed: Owed) -> Tally {
        let holes: u64 = self.holes.iter().map(Hole::len).sum();
        // Terminators hold positions as well; holes are taken for tokens up to the last one.
        let (last_token, cut_off_by_error, events_behind) = match (self.terminator, owed) {
            (Some((seq, kind)), _) => (seq - 1, kind == Kind::Error, 0),
            (None, Owed::Announced) => {
                (self.highest(), false, announced.saturating_add(1).saturating_sub(self.highest()))
            }
            (None, Owed::Seen) => (self.highest(), true, 0),
        };
        let holes_below: u64 = self
            .holes
            .iter()
            .filter(|hole| hole.first <= last_token)
            .map(|hole| hole.last.min(last_token) + 1 - hole.first)
            .sum();
        let behind = announced.saturating_sub(last_token);
        Tally {
            tokens_lost: holes_below + if cut_off_by_error { 0 } else { behind },
            tokens_unsent: if cut_off_by_error { behind } else { 0 },
            tokens_unannounced: self.tally.tokens_received.saturating_sub(self.tokens_within(announced)),
            events_lost: holes + events_behind,
            ..self.tally
        }
    }

    /// Tokens that came at positions from 1 to `last`.
    fn tokens_within(&self, last: u64) -> u64 {
        let last = last.min(self.highest());
        let missing: u64 = self
            .holes
            .iter()
            .filter(|hole| hole.first <= last)
            .map(|hole| hole.last.min(last) + 1 - hole.first)
            .sum();
        let terminator = self.terminator.is_some_and(|(seq, _)| seq <= last);
        last - missing - u64::from(terminator)
    }

    /// The sequence number of the last token, as the terminator shows it; before it came, the highest that was seen.
    #[must_use]
    pub fn last_token(&self) -> u64 {
        self.terminator.map_or_else(|| self.highest(), |(seq, _)| seq - 1)
    }

    /// The sums without an expectation, as of a server of the old contract: nothing is known to be lost.
    #[must_use]
    pub const fn unverified(&self) -> Tally {
        self.tally
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
    fn a_whole_answer() {
        let ledger = ledger(&[1, 2, 3, 4], 4);
        assert!(ledger.is_complete());
        assert_eq!(
            ledger.tally(3, Owed::Announced),
            Tally { tokens_received: 3, events_received: 4, ..Tally::default() }
        );
        assert!(ledger.missing(3).is_empty());
    }

    #[test]
    fn a_hole_knows_its_neighbours() {
        let ledger = ledger(&[1, 2, 6], 6);
        assert!(!ledger.is_complete());
        assert_eq!(ledger.missing(5), [Hole { first: 3, last: 5, before_us: Some(20), after_us: Some(60) }]);
        assert_eq!(ledger.tally(5, Owed::Announced).tokens_lost, 3);
    }

    #[test]
    fn a_late_one_is_reordered_and_a_second_one_a_duplicate() {
        let ledger = ledger(&[1, 4, 2, 2, 3, 5, 5], 5);
        assert!(ledger.is_complete());
        let tally = ledger.tally(4, Owed::Announced);
        assert_eq!((tally.tokens_reordered, tally.tokens_duplicated, tally.tokens_lost), (2, 1, 0));
        assert_eq!((tally.events_duplicated, tally.events_received), (2, 5));
    }

    #[test]
    fn silence_is_a_loss() {
        let ledger = ledger(&[], 0);
        assert_eq!(ledger.tally(18, Owed::Announced).tokens_lost, 18);
        assert_eq!(ledger.tally(18, Owed::Announced).events_lost, 19);
    }

    #[test]
    fn an_error_leaves_unsent_what_a_terminator_that_says_done_loses() {
        for (kind, lost, unsent) in [(Kind::Error, 1, 15), (Kind::Done, 16, 0)] {
            let mut ledger = ledger(&[1, 3], 99);
            ledger.observe(4, kind, None);
            assert_eq!(ledger.terminator(), Some(kind));
            let tally = ledger.tally(18, Owed::Announced);
            assert_eq!((tally.tokens_lost, tally.tokens_unsent, tally.events_lost), (lost, unsent, 1));
        }
    }

    #[test]
    fn what_is_cut_off_is_owed_up_to_its_highest_position() {
        let ledger = ledger(&[1, 2, 5], 99);
        let seen = ledger.tally(18, Owed::Seen);
        assert_eq!((seen.tokens_lost, seen.tokens_unsent, seen.events_lost), (2, 13, 2));
        let announced = ledger.tally(18, Owed::Announced);
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
            let tally = ledger(arrivals, terminator).tally(3, Owed::Announced);
            assert_eq!(tally.tokens_unannounced, unannounced, "{arrivals:?}");
        }
    }

    proptest! {
        /// Against the plain definition, with every arrival kept in a list.
        #[test]
        fn agrees_with_the_definition(tokens in 0u64..30, arrivals in proptest::collection::vec(1u64..32, 0..120)) {
            let arrivals: Vec<u64> = arrivals.into_iter().filter(|&seq| seq <= tokens + 1).collect();
            let tally = ledger(&arrivals, tokens + 1).tally(tokens, Owed::Announced);
            let (mut seen, mut duplicated, mut reordered) = (std::collections::BTreeSet::new(), 0, 0);
            for &seq in &arrivals {
                let below = seen.last().is_some_and(|&highest| seq < highest);
                if !seen.insert(seq) { duplicated += 1; } else if below { reordered += 1; }
            }
            prop_assert_eq!(tally.events_received, seen.len() as u64);
            prop_assert_eq!(tally.events_lost, tokens + 1 - seen.len() as u64);
            prop_assert_eq!((tally.events_duplicated, tally.events_reordered), (duplicated, reordered));
            prop_assert_eq!(tally.tokens_received + tally.tokens_lost, tokens);
        }
    }
}
