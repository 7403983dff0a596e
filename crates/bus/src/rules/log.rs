//! The entries of a session's log, and the merge of two partial logs of one session. Positions decide about the order;
//! times play no part.

use protocol::{Kind, Position, Prefix, encode_gap_entry};
use std::collections::BTreeMap;

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The entry's position and kind.
    pub prefix: Prefix,
    /// The entry's frame.
    pub frame: Box<[u8]>,
}

impl LogEntry {
    /// Returns an entry with a copy of this frame.
    #[must_use]
    pub fn new(prefix: Prefix, frame: &[u8]) -> Self {
        Self { prefix, frame: frame.into() }
    }
}

/// Merges the log that a broker still has with the entries that a server has acknowledged. A fence drops the entries
/// between the position that it names and itself; a fence that names none drops nothing. If dropped entries were
/// acknowledged, one `gap` entry below the fence replaces them.
#[must_use]
pub fn merge<'a>(
    existing: &'a [LogEntry],
    acknowledged: impl IntoIterator<Item = &'a LogEntry>,
) -> Vec<LogEntry> {
    let mut all: BTreeMap<Position, &LogEntry> =
        acknowledged.into_iter().map(|entry| (entry.prefix.position, entry)).collect();
    all.extend(existing.iter().map(|entry| (entry.prefix.position, entry)));
    let mut merged = Vec::with_capacity(all.len());
    // From the newest entry down, because a fence that a later fence drops has no effect. `reach` is the position that
    // the fence above names, `lost` the newest dropped position.
    let (mut reach, mut lost) = (None, None);
    for (position, entry) in all.into_iter().rev() {
        if reach.is_some_and(|reach| position > reach) {
            if entry.prefix.kind.is_for_client() || matches!(entry.prefix.kind, Kind::Gap { .. }) {
                lost.get_or_insert(position);
            }
            continue;
        }
        merged.extend(gap(reach, lost.take()));
        if let Kind::Fence { prev } = entry.prefix.kind {
            reach = prev;
        }
        merged.push(entry.clone());
    }
    merged.extend(gap(reach, lost));
    merged.reverse();
    merged
}

fn gap(from: Option<Position>, to: Option<Position>) -> Option<LogEntry> {
    let (from, position) = (from?, to?);
    let mut frame = Vec::new();
    encode_gap_entry(&mut frame, from, position);
    Some(LogEntry::new(Prefix { position, kind: Kind::Gap { from } }, &frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(generation: u64, seq: u64) -> LogEntry {
        LogEntry::new(Prefix { position: Position::new(generation, seq), kind: Kind::Token }, b"x")
    }

    fn fence(generation: u64, prev: (u64, u64)) -> LogEntry {
        let kind = Kind::Fence { prev: Some(Position::new(prev.0, prev.1)) };
        LogEntry::new(Prefix { position: Position::new(generation, 0), kind }, b"f")
    }

    fn unsure_fence(generation: u64) -> LogEntry {
        let kind = Kind::Fence { prev: None };
        LogEntry::new(Prefix { position: Position::new(generation, 0), kind }, b"f")
    }

    #[test]
    fn entries_of_both_logs_are_merged() {
        let whole = [fence(5, (0, 0)), entry(5, 1), entry(5, 2), fence(9, (5, 2)), entry(9, 1)];
        for cut in 0..=whole.len() {
            assert_eq!(merge(&whole[..cut], &whole), whole, "the first {cut} were there");
            assert_eq!(merge(&whole[cut..], &whole[..cut]), whole, "the last ones came first");
        }
    }

    #[test]
    fn dropped_entries_become_a_gap() {
        let whole = [fence(5, (0, 0)), entry(5, 1), entry(5, 2), fence(9, (5, 2)), entry(9, 1)];
        let dropped = [entry(5, 3), entry(5, 4)];
        let gap = super::gap(Some(Position::new(5, 2)), Some(Position::new(5, 4))).unwrap();
        let with_gap = [&whole[..3], std::slice::from_ref(&gap), &whole[3..]].concat();
        assert_eq!(merge(&whole, &dropped), with_gap);
        assert_eq!(merge(&[&whole[..3], &dropped].concat(), &whole[3..]), with_gap);
        assert_eq!(merge(&with_gap, &dropped), with_gap, "once more");
        assert_eq!(merge(&with_gap, &[]), with_gap, "it stays");
        let later = [entry(5, 3), entry(5, 6)];
        let merged = merge(&with_gap, &later);
        assert_eq!(merged[3].prefix.position, Position::new(5, 6), "one gap for all of it");
        assert_eq!(merged.len(), with_gap.len());
    }

    #[test]
    fn an_unsure_fence_drops_nothing() {
        let existing = [entry(5, 1), unsure_fence(9), entry(9, 1)];
        let acknowledged = [entry(5, 2), entry(5, 3), fence(7, (5, 3)), entry(7, 1)];
        let whole = [&existing[..1], &acknowledged, &existing[1..]].concat();
        assert_eq!(merge(&existing, &acknowledged), whole);
    }

    #[test]
    fn a_dropped_fence_drops_nothing() {
        let stale = [fence(5, (4, 2)), entry(5, 1)];
        let existing = [entry(4, 1), entry(4, 2), fence(6, (4, 2)), entry(6, 1)];
        let gap = super::gap(Some(Position::new(4, 2)), Some(Position::new(5, 1))).unwrap();
        let whole = [&existing[..2], std::slice::from_ref(&gap), &existing[2..]].concat();
        assert_eq!(merge(&existing, &stale), whole, "only the later fence's gap is in it");
    }
}
