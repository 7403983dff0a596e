//! The restoration barrier. A server learns from its peers' heartbeats which peers are dead, and whether every peer has restored
//! its acknowledged history since Redis lost data. Until then claims wait. The barrier counts answered polls, not time: while no
//! poll is answered, no peer is declared dead.

use std::collections::HashMap;

/// Number of consecutive answered polls with the same heartbeat after which a peer is dead.
pub const MISSED_BEATS: u32 = 3;
/// Answered polls after which a server that has seen no other one stops waiting: two heartbeats after the first.
const ALONE_POLLS: u32 = 3;
/// Separates the heartbeat from the mark of the Redis to which the server has restored what it kept.
const RESTORED: &str = " restored=";
/// The heartbeat of a server that is known and has not written one since the loss.
pub const NO_BEAT: &str = "none";

/// The value that a server writes for itself: a number that grows with each write, and the mark to which it has restored what
/// it kept.
#[must_use]
pub fn heartbeat(beat: u64, restored: Option<&str>) -> String {
    format!("{beat}{RESTORED}{}", restored.unwrap_or("none"))
}

/// Returns whether a server's value takes the place of the one that is listed for it. Redis may execute a write after later
/// ones: an old number would make a living server look as if it stood still.
#[must_use]
pub fn is_newer(value: &str, listed: Option<&str>) -> bool {
    let number = |value: &str| value.split(' ').next().and_then(|number| number.parse::<u64>().ok());
    listed.and_then(number).is_none_or(|listed| number(value).is_some_and(|number| number > listed))
}

/// Whether sessions may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Not yet: a peer may still restore what it kept.
    Waiting,
    /// They may, but not every peer has restored: the end of a log may not be its last acknowledged position.
    Partial,
    /// They may, and logs are whole.
    Whole,
}

/// The state of the restoration barrier in one server.
#[derive(Clone, Debug, Default)]
pub struct RestorationBarrier {
    /// Every peer of any earlier answer that was not removed since.
    peers: HashMap<String, Peer>,
    /// The mark of the Redis that answered last.
    mark: String,
    /// Answered polls under this mark.
    polls: u32,
    /// A peer was removed under this mark before it had restored.
    removed: bool,
    /// It knew the servers of the Redis before this mark.
    knew_before: bool,
}

#[derive(Clone, Debug)]
struct Peer {
    /// The whole value, so that a mark that was restored counts as a sign of life.
    value: String,
    unchanged: u32,
    /// A poll saw this value, so that the next one can be compared with it.
    polled: bool,
    /// Listed under the present mark.
    listed: bool,
    restored: bool,
    /// It speaks of marks at all.
    tells: bool,
}

impl Peer {
    /// How often the value was unchanged, and whether a poll saw it, after so many polls more.
    const fn counted(&self, polls: u32) -> (u32, bool) {
        (if self.polled { self.unchanged + polls } else { 0 }, self.polled || polls > 0)
    }
}

impl RestorationBarrier {
    /// A poll was answered by the Redis with this mark, with these peers and their values; the caller leaves itself out.
    pub fn answered<'a>(&mut self, mark: &str, peers: impl IntoIterator<Item = (&'a str, &'a str)>) {
        self.take(mark, peers, 1);
        self.polls += 1;
    }

    /// Takes the peers' values between two polls. Counts nothing, so that frequent looks declare no peer dead.
    pub fn looked<'a>(&mut self, mark: &str, peers: impl IntoIterator<Item = (&'a str, &'a str)>) {
        self.take(mark, peers, 0);
    }

    fn take<'a>(&mut self, mark: &str, peers: impl IntoIterator<Item = (&'a str, &'a str)>, polls: u32) {
        if self.mark != mark {
            self.knew_before = self.knows_servers();
            mark.clone_into(&mut self.mark);
            (self.polls, self.removed) = (0, false);
            for peer in self.peers.values_mut() {
                // What was counted under another mark proves nothing.
                (peer.unchanged, peer.polled) = (0, false);
                (peer.listed, peer.restored) = (false, false);
            }
        }
        let mut seen = HashMap::new();
        for (name, value) in peers {
            let (unchanged, polled) = match self.peers.remove(name) {
                Some(peer) if peer.value == value => peer.counted(polls),
                _ => (0, polls > 0),
            };
            let restored = value.split_once(RESTORED).map(|(_, restored)| restored);
            let peer = Peer {
                value: value.to_owned(),
                unchanged,
                polled,
                listed: true,
                restored: restored == Some(mark),
                tells: restored.is_some(),
            };
            seen.insert(name.to_owned(), peer);
        }
        for (name, mut peer) in self.peers.drain() {
            if peer.listed {
                // A peer has removed it.
                self.removed |= !peer.restored;
            } else {
                (peer.unchanged, peer.polled) = peer.counted(polls);
                seen.insert(name, peer);
            }
        }
        self.peers = seen;
    }

    /// A poll was not answered, or late: what was counted so far proves nothing, the peers may have been as cut off as this
    /// server was.
    pub fn unanswered(&mut self) {
        for peer in self.peers.values_mut() {
            peer.unchanged = 0;
        }
    }

    /// Peers that Redis does not list any more, though no peer has removed them: it lost them. Listed again with
    /// [`NO_BEAT`], they are known to servers that start after the loss as well.
    pub fn unlisted(&mut self) -> Vec<String> {
        let unlisted = self.peers.iter_mut().filter(|(_, peer)| !peer.listed);
        unlisted
            .map(|(name, peer)| {
                NO_BEAT.clone_into(&mut peer.value);
                name.clone()
            })
            .collect()
    }

    /// Whether this server knows every server that may have to restore something: it was there before the loss, a peer says that
    /// it has restored, which only one does that knows them, or those that were there had two heartbeats' time.
    fn knows_servers(&self) -> bool {
        self.knew_before || self.polls >= ALONE_POLLS || self.peers.values().any(|peer| peer.restored)
    }

    /// Whether Redis lists every server that may have to restore something, as far as the last answer under this mark tells. Only
    /// then may this one say that it has restored what it kept: a server that has just started knows nobody but who is
    /// listed, and would take the logs for whole while a peer that is not listed yet restores. `old`: the mark is so old that
    /// nothing is waited for.
    #[must_use]
    pub fn lists_all(&self, mark: &str, old: bool) -> bool {
        let listed = if self.mark == mark {
            self.peers.values().all(|peer| peer.listed)
        } else {
            self.peers.is_empty()
        };
        listed && (old || self.knows_servers())
    }

    /// Whether an answer has named this peer, and none of its removal.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.peers.contains_key(name)
    }

    /// The peers that are gone, and the values that stood still. `old`: the mark is so old that nothing is waited for. Until
    /// then the queries of a peer that has not restored are not ended: its log may lack what it knows. They are named at
    /// every poll until they are no longer listed.
    #[must_use]
    pub fn gone(&self, old: bool) -> Vec<(String, String)> {
        let gone = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.listed && peer.unchanged >= MISSED_BEATS && (old || peer.restored));
        let mut gone: Vec<_> = gone.map(|(name, peer)| (name.clone(), peer.value.clone())).collect();
        gone.sort();
        gone
    }

    /// Whether sessions may be claimed from the Redis with this mark. `old`: it is so old that nothing is waited for.
    #[must_use]
    pub fn standing(&self, mark: &str, old: bool) -> Standing {
        if self.mark != mark || self.polls == 0 {
            return Standing::Waiting;
        }
        let alone = self.peers.is_empty() && !self.removed;
        let late = |peer: &&Peer| !peer.restored;
        if !old {
            let awaited = |peer: &Peer| peer.unchanged < MISSED_BEATS;
            if self.peers.values().filter(late).any(awaited) || (alone && self.polls < ALONE_POLLS) {
                return Standing::Waiting;
            }
        }
        // One that is alive and still restores is waited for no longer, but what it knows must find its place.
        let restores = |peer: &Peer| !old || (peer.tells && peer.unchanged < MISSED_BEATS);
        if self.peers.values().filter(late).any(restores) || (self.removed && !old) {
            return Standing::Partial;
        }
        Standing::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: &str = "m:1";

    fn names(gone: &[(String, String)]) -> Vec<&str> {
        gone.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn only_silence_between_answers_counts() {
        let mut barrier = RestorationBarrier::default();
        let mut poll = |peers: &[(&str, &str)]| {
            barrier.answered(M, peers.iter().copied());
            barrier.looked(M, peers.iter().copied());
            barrier.gone(true)
        };
        assert!(poll(&[("a", "1"), ("b", "7")]).is_empty());
        for beat in ["2", "3"] {
            assert!(poll(&[("a", beat), ("b", "7")]).is_empty());
        }
        assert_eq!(names(&poll(&[("a", "4"), ("b", "7")])), ["b"]);
        assert_eq!(names(&poll(&[("a", "5"), ("b", "7")])), ["b"], "until its queries are ended");
        assert!(poll(&[("a", "6"), ("b", "8")]).is_empty(), "it lives after all");
        assert!(poll(&[("a", "6")]).is_empty());
        assert!(poll(&[("a", "6")]).is_empty());
        barrier.unanswered();
        for _ in 0..2 {
            barrier.answered(M, [("a", "6")]);
            assert!(barrier.gone(true).is_empty());
        }
        barrier.answered(M, [("a", "6")]);
        assert_eq!(barrier.gone(true), [("a".to_owned(), "6".to_owned())]);
    }

    #[test]
    fn a_look_right_before_a_poll_counts_for_nothing() {
        let mut barrier = RestorationBarrier::default();
        barrier.looked(M, [("a", "1")]);
        for _ in 0..MISSED_BEATS {
            barrier.answered(M, [("a", "1")]);
            assert!(barrier.gone(true).is_empty());
        }
        barrier.answered(M, [("a", "1")]);
        assert_eq!(names(&barrier.gone(true)), ["a"]);
    }

    #[test]
    fn claims_wait_for_every_peer_that_was_ever_seen() {
        let mut barrier = RestorationBarrier::default();
        barrier.answered("old", [("a", "1 restored=old"), ("b", "1 restored=old")]);
        assert_eq!(barrier.standing("old", true), Standing::Whole);
        assert_eq!(barrier.standing(M, true), Standing::Waiting, "no answer of this Redis yet");
        barrier.answered(M, [("a", "2 restored=m:1")]);
        assert_eq!(barrier.standing(M, false), Standing::Waiting, "b was lost with the data");
        assert_eq!(barrier.unlisted(), ["b"]);
        barrier.looked(M, [("a", "2 restored=m:1"), ("b", "none")]);
        assert!(barrier.unlisted().is_empty());
        barrier.answered(M, [("a", "3 restored=m:1"), ("b", "9 restored=old")]);
        assert_eq!(barrier.standing(M, false), Standing::Waiting);
        assert_eq!(barrier.standing(M, true), Standing::Partial, "b lives and still restores");
        barrier.looked(M, [("a", "3 restored=m:1"), ("b", "9 restored=m:1")]);
        assert_eq!(barrier.standing(M, false), Standing::Whole);
    }

    #[test]
    fn a_server_says_that_it_has_restored_once_redis_lists_its_peers() {
        let mut barrier = RestorationBarrier::default();
        assert!(!barrier.lists_all(M, false), "it has just started");
        barrier.answered("old", [("a", "1 restored=old")]);
        assert!(barrier.lists_all("old", false) && !barrier.lists_all(M, false));
        barrier.answered(M, []);
        assert!(!barrier.lists_all(M, false), "the answer lacks one");
        assert_eq!(barrier.unlisted(), ["a"]);
        barrier.looked(M, [("a", NO_BEAT)]);
        assert!(barrier.lists_all(M, false) && barrier.knows("a"));
    }

    #[test]
    fn servers_that_start_after_a_loss_do_not_take_each_other_for_all() {
        let mut barrier = RestorationBarrier::default();
        for _ in 1..ALONE_POLLS {
            barrier.answered(M, [("new", "1 restored=none")]);
            assert!(!barrier.lists_all(M, false));
            assert_eq!(barrier.standing(M, false), Standing::Waiting);
        }
        let mut waited = barrier.clone();
        waited.answered(M, [("new", "2 restored=none")]);
        assert!(waited.lists_all(M, false), "whoever was there before had two heartbeats' time");
        barrier.looked(M, [("new", "2 restored=none"), ("a", "7 restored=m:1"), ("b", NO_BEAT)]);
        assert!(barrier.lists_all(M, false), "one that was there lists all");
        assert_eq!(barrier.standing(M, false), Standing::Waiting);
        let mut alone = RestorationBarrier::default();
        alone.looked(M, []);
        assert!(!alone.lists_all(M, false) && alone.lists_all(M, true));
        // It knew the servers before.
        barrier.looked("m:2", []);
        assert!(!barrier.lists_all("m:2", false));
        barrier.looked("m:2", [("a", "8 restored=none"), ("b", NO_BEAT), ("new", NO_BEAT)]);
        assert!(barrier.lists_all("m:2", false));
    }

    #[test]
    fn a_peer_that_does_not_come_back_is_given_up() {
        let mut barrier = RestorationBarrier::default();
        barrier.answered("old", [("a", "1 restored=old")]);
        for _ in 0..=MISSED_BEATS {
            assert_eq!(barrier.standing(M, false), Standing::Waiting);
            barrier.answered(M, [("a", "1 restored=old")]);
        }
        assert_eq!(barrier.standing(M, false), Standing::Partial);
        assert!(barrier.gone(false).is_empty(), "its queries are not ended before it can have restored");
        assert_eq!(names(&barrier.gone(true)), ["a"]);
        assert_eq!(barrier.standing(M, true), Standing::Whole);
        barrier.answered(M, []);
        assert_eq!(barrier.standing(M, false), Standing::Partial, "removed by a peer");
        assert_eq!(barrier.standing(M, true), Standing::Whole);
    }

    #[test]
    fn one_that_sees_no_other_waits_for_two_heartbeats() {
        let mut barrier = RestorationBarrier::default();
        for _ in 0..ALONE_POLLS {
            assert_eq!(barrier.standing(M, false), Standing::Waiting);
            barrier.looked(M, []);
            barrier.answered(M, []);
        }
        assert_eq!(barrier.standing(M, false), Standing::Whole);
        // Alone for a second time: the mark is another.
        assert_eq!(barrier.standing("m:2", false), Standing::Waiting);
    }

    #[test]
    fn a_server_of_an_earlier_version_is_waited_for_until_the_mark_is_old() {
        let mut barrier = RestorationBarrier::default();
        barrier.answered(M, [("a", "1")]);
        assert_eq!(barrier.standing(M, false), Standing::Waiting);
        assert_eq!(barrier.standing(M, true), Standing::Whole);
    }

    #[test]
    fn a_heartbeat_that_is_written_late_changes_nothing() {
        let value = heartbeat(8, Some(M));
        for (listed, newer) in
            [(None, true), (Some(NO_BEAT), true), (Some("7 restored=none"), true), (Some("7"), true)]
        {
            assert_eq!(is_newer(&value, listed), newer, "{listed:?}");
        }
        assert!(!is_newer(&value, Some(&value)) && !is_newer(&value, Some("10 restored=none")));
    }

    #[test]
    fn what_is_written_is_read() {
        let mut barrier = RestorationBarrier::default();
        barrier.answered(M, [("a", heartbeat(7, Some(M)).as_str())]);
        assert_eq!(barrier.standing(M, false), Standing::Whole);
        barrier.answered(M, [("a", heartbeat(8, None).as_str())]);
        assert_eq!(barrier.standing(M, false), Standing::Waiting);
    }
}
