//! Which servers are gone: a peer whose heartbeat stood still over several polls of one's own that were answered.
//! It counts polls, not time: where nobody gets an answer, nobody is gone.

use std::collections::HashMap;

/// A peer whose beat is the same over so many answered polls in a row is gone.
pub const MISSED_BEATS: u32 = 3;

/// What one server knows of its peers.
#[derive(Clone, Debug, Default)]
pub struct Vigil {
    peers: HashMap<String, Peer>,
}

#[derive(Clone, Debug)]
struct Peer {
    beat: String,
    unchanged: u32,
}

impl Vigil {
    /// A poll was answered with these peers and their beats. Answers who is gone; they are named again at every poll until
    /// they are no longer listed.
    pub fn answered<'a>(&mut self, beats: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<String> {
        let mut seen = HashMap::new();
        for (name, beat) in beats {
            let unchanged = match self.peers.get(name) {
                Some(peer) if peer.beat == beat => peer.unchanged + 1,
                _ => 0,
            };
            seen.insert(name.to_owned(), Peer { beat: beat.to_owned(), unchanged });
        }
        self.peers = seen;
        let gone = self.peers.iter().filter(|(_, peer)| peer.unchanged >= MISSED_BEATS);
        let mut gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
        gone.sort();
        gone
    }

    /// A poll was not answered, or late: what was counted so far proves nothing, the peers may have been as cut off as this
    /// server was.
    pub fn unanswered(&mut self) {
        for peer in self.peers.values_mut() {
            peer.unchanged = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_between_answers_counts() {
        let mut vigil = Vigil::default();
        assert!(vigil.answered([("a", "1"), ("b", "7")]).is_empty());
        for beat in ["2", "3"] {
            assert!(vigil.answered([("a", beat), ("b", "7")]).is_empty());
        }
        assert_eq!(vigil.answered([("a", "4"), ("b", "7")]), ["b"]);
        assert_eq!(vigil.answered([("a", "5"), ("b", "7")]), ["b"], "until it is buried");
        assert!(vigil.answered([("a", "6"), ("b", "8")]).is_empty(), "it lives after all");
        assert!(vigil.answered([("a", "6")]).is_empty());
        assert!(vigil.answered([("a", "6")]).is_empty());
        vigil.unanswered();
        for _ in 0..2 {
            assert!(vigil.answered([("a", "6")]).is_empty());
        }
        assert_eq!(vigil.answered([("a", "6")]), ["a"]);
    }
}
