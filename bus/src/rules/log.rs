//! What a session's log holds, and how two partial logs of one session become one. Positions decide, never times.

use protocol::{Kind, Position, Prefix};
use std::collections::BTreeMap;

/// One event in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place and kind.
    pub prefix: Prefix,
    /// Its frame.
    pub frame: Box<[u8]>,
}

impl LogEntry {
    /// A copy of this frame.
    #[must_use]
    pub fn new(prefix: Prefix, frame: &[u8]) -> Self {
        Self { prefix, frame: frame.into() }
    }
}

/// One log out of what a broker still has and what a server kept. What lies between a fence and the position that the fence
/// names was written by a stale writer, whoever remembers it: it is left out.
#[must_use]
pub fn merge<'a>(existing: &'a [LogEntry], kept: impl IntoIterator<Item = &'a LogEntry>) -> Vec<LogEntry> {
    let mut all: BTreeMap<Position, &LogEntry> =
        kept.into_iter().map(|entry| (entry.prefix.position, entry)).collect();
    all.extend(existing.iter().map(|entry| (entry.prefix.position, entry)));
    let mut merged = Vec::with_capacity(all.len());
    // From the newest on: a fence that a later one leaves out fences nothing off.
    let mut reach = None;
    for (position, entry) in all.into_iter().rev() {
        if reach.is_some_and(|reach| position > reach) {
            continue;
        }
        if let Kind::Fence { prev } = entry.prefix.kind {
            reach = Some(prev);
        }
        merged.push(entry.clone());
    }
    merged.reverse();
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(generation: u64, seq: u64) -> LogEntry {
        LogEntry::new(Prefix { position: Position::new(generation, seq), kind: Kind::Token }, b"x")
    }

    fn fence(generation: u64, prev: (u64, u64)) -> LogEntry {
        let kind = Kind::Fence { prev: Position::new(prev.0, prev.1) };
        LogEntry::new(Prefix { position: Position::new(generation, 0), kind }, b"f")
    }

    #[test]
    fn what_either_has_and_no_fence_leaves_out() {
        let whole = [fence(5, (0, 0)), entry(5, 1), entry(5, 2), fence(9, (5, 2)), entry(9, 1)];
        for cut in 0..=whole.len() {
            assert_eq!(merge(&whole[..cut], &whole), whole, "the first {cut} were there");
            assert_eq!(merge(&whole[cut..], &whole[..cut]), whole, "the last ones came first");
        }
        let stale = [entry(5, 3), entry(5, 4)];
        assert_eq!(merge(&whole, &stale), whole);
        assert_eq!(merge(&[&whole[..3], &stale].concat(), &whole[3..]), whole);
    }

    #[test]
    fn a_fence_that_was_fenced_off_counts_for_nothing() {
        let stale = [fence(5, (4, 2)), entry(5, 1)];
        let existing = [entry(4, 1), entry(4, 2), fence(6, (4, 2)), entry(6, 1)];
        assert_eq!(merge(&existing, &stale), existing);
    }
}
