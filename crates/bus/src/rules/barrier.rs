//! The restoration barrier. A server learns from its peers' heartbeats which peers are dead, and whether every peer has restored
//! its acknowledged history since Redis lost data. Until then claims wait. The barrier counts answered polls, not time: while no
//! poll is answered, no peer is declared dead.

use std::collections::HashMap;

/// Number of consecutive answered polls with the same heartbeat after which a peer is dead.
pub const MISSED_BEATS: u32 = 3;
/// Number of answered polls after which a server that has seen no peer stops waiting: two heartbeats after the first.
const ALONE_POLLS: u32 = 3;
/// Separates the heartbeat's number from the mark of the Redis in which the server has restored its history.
const RESTORED: &str = " restored=";
/// The value listed for a server that is known and has not written a heartbeat since the loss of data.
pub const NO_BEAT: &str = "none";

/// Returns the heartbeat that a server writes: a number that grows with each write, and the mark of the Redis in which
/// it has restored its history.
#[must_use]
pub fn heartbeat(beat: u64, restored: Option<&str>) -> String {
    format!("{beat}{RESTORED}{}", restored.unwrap_or("none"))
}

/// Returns whether a heartbeat replaces the listed one. Redis may execute a write after later ones. Without this check
/// an old number would make a living server look dead.
#[must_use]
pub fn is_newer(value: &str, listed: Option<&str>) -> bool {
    let number = |value: &str| value.split(' ').next().and_then(|number| number.parse::<u64>().ok());
    listed.and_then(number).is_none_or(|listed| number(value).is_some_and(|number| number > listed))
}

/// Whether sessions may be claimed, and whether logs are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Restoration {
    /// Sessions may not be claimed yet, because a peer may still restore its history.
    Waiting,
    /// Sessions may be claimed, but a peer has not restored its history. Logs may lack acknowledged entries.
    Partial,
    /// Sessions may be claimed, and logs are complete.
    Complete,
}

/// The state of the restoration barrier in one server.
#[derive(Clone, Debug, Default)]
pub struct RestorationBarrier {
    /// Every peer that was ever listed and was not removed since.
    peers: HashMap<String, Peer>,
    /// The mark of the Redis that replied last.
    mark: String,
    /// Number of answered polls under this mark.
    polls: u32,
    /// Under this mark a peer was removed before it had restored its history.
    removed: bool,
    /// This server knew all servers of the Redis before this mark.
    knew_before: bool,
}

#[derive(Clone, Debug)]
struct Peer {
    /// The whole heartbeat, so that a change of the restored mark also shows that the peer is alive.
    value: String,
    unchanged: u32,
    /// A poll has seen this value, so the next poll can be compared with it.
    polled: bool,
    /// Redis lists the peer under the present mark.
    listed: bool,
    restored: bool,
    /// Its heartbeats have a restored mark. Those of earlier versions have none.
    reports_restoration: bool,
}

impl Peer {
    /// Returns for how many polls the value was unchanged, and whether a poll has seen it, after `polls` more polls.
    const fn counted(&self, polls: u32) -> (u32, bool) {
        (if self.polled { self.unchanged + polls } else { 0 }, self.polled || polls > 0)
    }
}

impl RestorationBarrier {
    /// Handles an answered poll: the mark of the Redis that replied, and the peers with their heartbeats. `peers` must
    /// not contain the caller.
    pub fn poll_answered<'a>(&mut self, mark: &str, peers: impl IntoIterator<Item = (&'a str, &'a str)>) {
        self.take(mark, peers, 1);
        self.polls += 1;
    }

    /// Handles heartbeats that were read between two polls. They do not count towards [`MISSED_BEATS`], however many
    /// are read.
    pub fn observed<'a>(&mut self, mark: &str, peers: impl IntoIterator<Item = (&'a str, &'a str)>) {
        self.take(mark, peers, 0);
    }

    /// Takes the mark and the peers of a reply. `polls` is 1 if the reply answers a poll, otherwise 0.
    fn take<'a>(&mut self, mark: &str, peers: impl IntoIterator<Item = (&'a str, &'a str)>, polls: u32) {
        if self.mark != mark {
            self.knew_before = self.knows_servers();
            mark.clone_into(&mut self.mark);
            (self.polls, self.removed) = (0, false);
            for peer in self.peers.values_mut() {
                // Polls under another mark prove nothing about a peer.
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
                reports_restoration: restored.is_some(),
            };
            seen.insert(name.to_owned(), peer);
        }
        for (name, mut peer) in self.peers.drain() {
            if peer.listed {
                // Redis listed the peer before and does not any more, so another server has removed it.
                self.removed |= !peer.restored;
            } else {
                (peer.unchanged, peer.polled) = peer.counted(polls);
                seen.insert(name, peer);
            }
        }
        self.peers = seen;
    }

    /// Handles a poll that was not answered, or too late. Polls so far no longer count, because the peers may have been
    /// unable to reach Redis too.
    pub fn poll_missed(&mut self) {
        for peer in self.peers.values_mut() {
            peer.unchanged = 0;
        }
    }

    /// Returns the peers that Redis does not list although no server has removed them: Redis has lost them. The caller
    /// lists them again with [`NO_BEAT`], so that servers which start after the loss know them too.
    pub fn unlisted(&mut self) -> Vec<String> {
        let unlisted = self.peers.iter_mut().filter(|(_, peer)| !peer.listed);
        unlisted
            .map(|(name, peer)| {
                NO_BEAT.clone_into(&mut peer.value);
                name.clone()
            })
            .collect()
    }

    /// Returns whether this server knows every server that may have to restore something. It does if it knew them
    /// before the loss, if a peer that knows them has restored, or if two heartbeats have passed, so that each has been
    /// listed.
    fn knows_servers(&self) -> bool {
        self.knew_before || self.polls >= ALONE_POLLS || self.peers.values().any(|peer| peer.restored)
    }

    /// Returns whether Redis lists every server that may have to restore something, according to the last reply under
    /// this mark. Only then may this server report that it has restored its history. Otherwise a server that has just
    /// started, which knows only listed servers, would take logs for complete while an unlisted one still restores.
    /// `old`: the mark is so old that no restoration is awaited.
    #[must_use]
    pub fn lists_all(&self, mark: &str, old: bool) -> bool {
        let listed = if self.mark == mark {
            self.peers.values().all(|peer| peer.listed)
        } else {
            self.peers.is_empty()
        };
        listed && (old || self.knows_servers())
    }

    /// Returns whether a reply has listed this peer and no later one has shown its removal.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.peers.contains_key(name)
    }

    /// Returns the dead peers and their last heartbeats, at each poll until they are removed from the list. `old`: the
    /// mark is so old that no restoration is awaited. Before that, a peer that has not restored its history is not
    /// returned, because its queries' logs may lack entries that only it knows.
    #[must_use]
    pub fn dead_peers(&self, old: bool) -> Vec<(String, String)> {
        let dead = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.listed && peer.unchanged >= MISSED_BEATS && (old || peer.restored));
        let mut dead: Vec<_> = dead.map(|(name, peer)| (name.clone(), peer.value.clone())).collect();
        dead.sort();
        dead
    }

    /// Returns whether sessions may be claimed from the Redis with this mark. `old`: the mark is so old that no
    /// restoration is awaited.
    #[must_use]
    pub fn restoration(&self, mark: &str, old: bool) -> Restoration {
        if self.mark != mark || self.polls == 0 {
            return Restoration::Waiting;
        }
        let alone = self.peers.is_empty() && !self.removed;
        let late = |peer: &&Peer| !peer.restored;
        if !old {
            let awaited = |peer: &Peer| peer.unchanged < MISSED_BEATS;
            if self.peers.values().filter(late).any(awaited) || (alone && self.polls < ALONE_POLLS) {
                return Restoration::Waiting;
            }
        }
        // A peer that is alive and still restores is no longer awaited, but its entries must find their place: logs
        // count as incomplete.
        let restores = |peer: &Peer| !old || (peer.reports_restoration && peer.unchanged < MISSED_BEATS);
        if self.peers.values().filter(late).any(restores) || (self.removed && !old) {
            return Restoration::Partial;
        }
        Restoration::Complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: &str = "m:1";

    fn names(dead: &[(String, String)]) -> Vec<&str> {
        dead.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn only_answered_polls_count() {
        let mut barrier = RestorationBarrier::default();
        let mut poll = |peers: &[(&str, &str)]| {
            barrier.poll_answered(M, peers.iter().copied());
            barrier.observed(M, peers.iter().copied());
            barrier.dead_peers(true)
        };
        assert!(poll(&[("a", "1"), ("b", "7")]).is_empty());
        for beat in ["2", "3"] {
            assert!(poll(&[("a", beat), ("b", "7")]).is_empty());
        }
        assert_eq!(names(&poll(&[("a", "4"), ("b", "7")])), ["b"]);
        assert_eq!(names(&poll(&[("a", "5"), ("b", "7")])), ["b"], "until it is removed from the list");
        assert!(poll(&[("a", "6"), ("b", "8")]).is_empty(), "it is alive after all");
        assert!(poll(&[("a", "6")]).is_empty());
        assert!(poll(&[("a", "6")]).is_empty());
        barrier.poll_missed();
        for _ in 0..2 {
            barrier.poll_answered(M, [("a", "6")]);
            assert!(barrier.dead_peers(true).is_empty());
        }
        barrier.poll_answered(M, [("a", "6")]);
        assert_eq!(barrier.dead_peers(true), [("a".to_owned(), "6".to_owned())]);
    }

    #[test]
    fn a_read_between_polls_does_not_count() {
        let mut barrier = RestorationBarrier::default();
        barrier.observed(M, [("a", "1")]);
        for _ in 0..MISSED_BEATS {
            barrier.poll_answered(M, [("a", "1")]);
            assert!(barrier.dead_peers(true).is_empty());
        }
        barrier.poll_answered(M, [("a", "1")]);
        assert_eq!(names(&barrier.dead_peers(true)), ["a"]);
    }

    #[test]
    fn claims_wait_for_every_peer_that_was_ever_seen() {
        let mut barrier = RestorationBarrier::default();
        barrier.poll_answered("old", [("a", "1 restored=old"), ("b", "1 restored=old")]);
        assert_eq!(barrier.restoration("old", true), Restoration::Complete);
        assert_eq!(barrier.restoration(M, true), Restoration::Waiting, "no answer of this Redis yet");
        barrier.poll_answered(M, [("a", "2 restored=m:1")]);
        assert_eq!(barrier.restoration(M, false), Restoration::Waiting, "b was lost with the data");
        assert_eq!(barrier.unlisted(), ["b"]);
        barrier.observed(M, [("a", "2 restored=m:1"), ("b", "none")]);
        assert!(barrier.unlisted().is_empty());
        barrier.poll_answered(M, [("a", "3 restored=m:1"), ("b", "9 restored=old")]);
        assert_eq!(barrier.restoration(M, false), Restoration::Waiting);
        assert_eq!(barrier.restoration(M, true), Restoration::Partial, "b lives and still restores");
        barrier.observed(M, [("a", "3 restored=m:1"), ("b", "9 restored=m:1")]);
        assert_eq!(barrier.restoration(M, false), Restoration::Complete);
    }

    #[test]
    fn a_server_reports_its_restoration_once_redis_lists_its_peers() {
        let mut barrier = RestorationBarrier::default();
        assert!(!barrier.lists_all(M, false), "it has just started");
        barrier.poll_answered("old", [("a", "1 restored=old")]);
        assert!(barrier.lists_all("old", false) && !barrier.lists_all(M, false));
        barrier.poll_answered(M, []);
        assert!(!barrier.lists_all(M, false), "the answer lacks one");
        assert_eq!(barrier.unlisted(), ["a"]);
        barrier.observed(M, [("a", NO_BEAT)]);
        assert!(barrier.lists_all(M, false) && barrier.knows("a"));
    }

    #[test]
    fn servers_that_start_after_a_loss_wait_for_older_ones() {
        let mut barrier = RestorationBarrier::default();
        for _ in 1..ALONE_POLLS {
            barrier.poll_answered(M, [("new", "1 restored=none")]);
            assert!(!barrier.lists_all(M, false));
            assert_eq!(barrier.restoration(M, false), Restoration::Waiting);
        }
        let mut waited = barrier.clone();
        waited.poll_answered(M, [("new", "2 restored=none")]);
        assert!(waited.lists_all(M, false), "older servers had two heartbeats of time");
        barrier.observed(M, [("new", "2 restored=none"), ("a", "7 restored=m:1"), ("b", NO_BEAT)]);
        assert!(barrier.lists_all(M, false), "an older server has restored, so all are listed");
        assert_eq!(barrier.restoration(M, false), Restoration::Waiting);
        let mut alone = RestorationBarrier::default();
        alone.observed(M, []);
        assert!(!alone.lists_all(M, false) && alone.lists_all(M, true));
        // This one knew the servers before the loss.
        barrier.observed("m:2", []);
        assert!(!barrier.lists_all("m:2", false));
        barrier.observed("m:2", [("a", "8 restored=none"), ("b", NO_BEAT), ("new", NO_BEAT)]);
        assert!(barrier.lists_all("m:2", false));
    }

    #[test]
    fn claims_stop_waiting_for_a_dead_peer() {
        let mut barrier = RestorationBarrier::default();
        barrier.poll_answered("old", [("a", "1 restored=old")]);
        for _ in 0..=MISSED_BEATS {
            assert_eq!(barrier.restoration(M, false), Restoration::Waiting);
            barrier.poll_answered(M, [("a", "1 restored=old")]);
        }
        assert_eq!(barrier.restoration(M, false), Restoration::Partial);
        assert!(
            barrier.dead_peers(false).is_empty(),
            "its queries are not ended before it can have restored"
        );
        assert_eq!(names(&barrier.dead_peers(true)), ["a"]);
        assert_eq!(barrier.restoration(M, true), Restoration::Complete);
        barrier.poll_answered(M, []);
        assert_eq!(barrier.restoration(M, false), Restoration::Partial, "removed by a peer");
        assert_eq!(barrier.restoration(M, true), Restoration::Complete);
    }

    #[test]
    fn a_server_without_peers_waits_for_two_heartbeats() {
        let mut barrier = RestorationBarrier::default();
        for _ in 0..ALONE_POLLS {
            assert_eq!(barrier.restoration(M, false), Restoration::Waiting);
            barrier.observed(M, []);
            barrier.poll_answered(M, []);
        }
        assert_eq!(barrier.restoration(M, false), Restoration::Complete);
        // The polls under another mark do not count.
        assert_eq!(barrier.restoration("m:2", false), Restoration::Waiting);
    }

    #[test]
    fn claims_wait_for_a_server_of_an_earlier_version_until_the_mark_is_old() {
        let mut barrier = RestorationBarrier::default();
        barrier.poll_answered(M, [("a", "1")]);
        assert_eq!(barrier.restoration(M, false), Restoration::Waiting);
        assert_eq!(barrier.restoration(M, true), Restoration::Complete);
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
    fn heartbeats_are_parsed_as_they_are_written() {
        let mut barrier = RestorationBarrier::default();
        barrier.poll_answered(M, [("a", heartbeat(7, Some(M)).as_str())]);
        assert_eq!(barrier.restoration(M, false), Restoration::Complete);
        barrier.poll_answered(M, [("a", heartbeat(8, None).as_str())]);
        assert_eq!(barrier.restoration(M, false), Restoration::Waiting);
    }
}
