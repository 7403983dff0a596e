//! The queries that a server plays, compared with the queries that the broker lists for it. A query counts as played
//! from before its claim is sent until its terminator is acknowledged. A claim whose outcome is unknown therefore never
//! counts as a query without a player.

use parking_lot::Mutex;
use protocol::SessionId;
use std::{collections::HashMap, sync::Arc};

/// The queries of one server. A [`Play`] keeps one registered until it is dropped.
#[derive(Debug, Default)]
pub struct Plays(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last_key: u64,
    /// The plays of each session: a key, and the generation once it is known.
    sessions: HashMap<SessionId, Vec<(u64, Option<u64>)>>,
    /// Queries that the last read listed, and that were not played then or since.
    suspects: HashMap<SessionId, u64>,
}

impl State {
    fn plays(&self, session: SessionId, generation: u64) -> bool {
        let plays = self.sessions.get(&session);
        plays
            .is_some_and(|plays| plays.iter().any(|(_, known)| known.is_none_or(|known| known == generation)))
    }
}

impl Plays {
    /// Registers a query that is about to be claimed.
    pub fn claiming(self: &Arc<Self>, session: SessionId) -> Play {
        let mut state = self.0.lock();
        state.last_key += 1;
        let key = state.last_key;
        state.sessions.entry(session).or_default().push((key, None));
        Play { plays: self.clone(), session, key, outcome: Outcome::Unknown }
    }

    /// Compares the queries that the broker lists with those that are played. Returns the queries to end: both this
    /// read and the one before listed them, and none was played at either read or in between. Returns nothing in a
    /// process that never registered a query, because such a process tracks its queries itself.
    pub fn reconcile(&self, listed: impl IntoIterator<Item = (SessionId, u64)>) -> Vec<(SessionId, u64)> {
        let mut state = self.0.lock();
        let before = std::mem::take(&mut state.suspects);
        let mut ended = Vec::new();
        if state.last_key == 0 {
            return ended;
        }
        for (session, generation) in listed {
            if state.plays(session, generation) {
                continue;
            }
            if before.get(&session) == Some(&generation) {
                ended.push((session, generation));
            }
            // It stays suspected until the broker no longer lists it.
            state.suspects.insert(session, generation);
        }
        ended
    }

    /// Returns the sessions that have a registered query.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionId> {
        self.0.lock().sessions.keys().copied().collect()
    }
}

#[derive(Debug)]
enum Outcome {
    Unknown,
    Claimed(u64),
    Declined,
}

/// A registered query.
#[derive(Debug)]
pub struct Play {
    plays: Arc<Plays>,
    session: SessionId,
    key: u64,
    outcome: Outcome,
}

impl Play {
    /// Records that the claim succeeded with this generation.
    pub fn claimed(&mut self, generation: u64) {
        self.outcome = Outcome::Claimed(generation);
        let mut state = self.plays.0.lock();
        state.suspects.remove(&self.session);
        let plays = state.sessions.get_mut(&self.session).into_iter().flatten();
        for (_, known) in plays.filter(|(key, _)| *key == self.key) {
            *known = Some(generation);
        }
    }

    /// Records that the claim certainly did not succeed.
    pub fn declined(&mut self) {
        self.outcome = Outcome::Declined;
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        let mut state = self.plays.0.lock();
        if let Some(plays) = state.sessions.get_mut(&self.session) {
            plays.retain(|(key, _)| *key != self.key);
            if plays.is_empty() {
                state.sessions.remove(&self.session);
            }
        }
        let cleared = match self.outcome {
            Outcome::Unknown => true,
            Outcome::Claimed(generation) => state.suspects.get(&self.session) == Some(&generation),
            Outcome::Declined => false,
        };
        if cleared {
            state.suspects.remove(&self.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use uuid::Uuid;

    fn session(n: usize) -> SessionId {
        SessionId::new(Uuid::from_u128(n as u128))
    }

    /// One query. Times are in ms: when its claim is sent, the way of the claim to the broker and of the reply back,
    /// how long the server waits for the reply, how long the query plays, and the way of its terminator there and of
    /// the reply.
    #[derive(Clone, Debug)]
    struct Query {
        sent: u64,
        there: u64,
        back: u64,
        patience: u64,
        plays: u64,
        end_there: u64,
        end_back: u64,
    }

    fn query() -> impl Strategy<Value = Query> {
        (
            0..20_000u64,
            1..10_000u64,
            1..10_000u64,
            prop_oneof![Just(60_000u64), 1..12_000u64],
            0..15_000u64,
            1..5_000u64,
            1..5_000u64,
        )
            .prop_map(|(sent, there, back, patience, plays, end_there, end_back)| {
                // A claim and its reply together take at most ten seconds.
                let back = back.min(10_000 - there.min(9_999));
                Query { sent, there, back, patience, plays, end_there, end_back }
            })
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Step {
        Send(usize),
        Claim(usize),
        Answer(usize),
        GiveUp(usize),
        Terminate(usize),
        Acknowledge(usize),
        ReadAtBroker(usize),
        ReadAnswered(usize),
    }

    const INTERVAL: u64 = 2_400;

    proptest! {
        /// Whatever the delays: no query ends that is or may be played, and each query without a player ends within
        /// three reads.
        #[test]
        fn only_queries_without_a_player_end(
            queries in prop::collection::vec(query(), 1..8), latencies in prop::collection::vec((1..1_200u64, 1..1_200u64), 40),
        ) {
            let mut steps = BTreeSet::new();
            for (n, q) in queries.iter().enumerate() {
                steps.insert((q.sent, Step::Send(n)));
                let claimed = q.sent + q.there;
                steps.insert((claimed, Step::Claim(n)));
                if q.there + q.back <= q.patience {
                    let answered = claimed + q.back;
                    steps.insert((answered, Step::Answer(n)));
                    steps.insert((answered + q.plays + q.end_there, Step::Terminate(n)));
                    steps.insert((answered + q.plays + q.end_there + q.end_back, Step::Acknowledge(n)));
                } else {
                    steps.insert((q.sent + q.patience, Step::GiveUp(n)));
                }
            }
            for (n, (there, back)) in latencies.iter().enumerate() {
                let sent = n as u64 * INTERVAL;
                steps.insert((sent + there, Step::ReadAtBroker(n)));
                steps.insert((sent + there + back, Step::ReadAnswered(n)));
            }
            let plays = Arc::new(Plays::default());
            let (mut alive, mut listed, mut reads) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
            let mut ended = BTreeSet::new();
            for (at, step) in steps {
                match step {
                    Step::Send(n) => drop(alive.insert(n, plays.claiming(session(n)))),
                    Step::Claim(n) => drop(listed.insert(session(n), n as u64 + 1)),
                    Step::Answer(n) => alive.get_mut(&n).unwrap().claimed(n as u64 + 1),
                    Step::GiveUp(n) | Step::Acknowledge(n) => drop(alive.remove(&n)),
                    Step::Terminate(n) => drop(listed.remove(&session(n))),
                    Step::ReadAtBroker(n) => drop(reads.insert(n, listed.clone())),
                    Step::ReadAnswered(n) => {
                        for (id, generation) in plays.reconcile(reads.remove(&n).unwrap()) {
                            let n = generation as usize - 1;
                            prop_assert!(!alive.contains_key(&n), "{n} is played at {at}, and ended");
                            prop_assert!(queries[n].there + queries[n].back > queries[n].patience, "{n} had its terminator");
                            listed.remove(&id);
                            ended.insert(n);
                        }
                    }
                }
            }
            for (n, q) in queries.iter().enumerate() {
                prop_assert_eq!(ended.contains(&n), q.there + q.back > q.patience, "query {}", n);
            }
            prop_assert!(plays.sessions().is_empty());
        }
    }

    #[test]
    fn declined_claims_do_not_keep_a_query_without_a_player() {
        let plays = Arc::new(Plays::default());
        let listed = [(session(1), 7)];
        drop(plays.claiming(session(2)));
        assert!(plays.reconcile(listed).is_empty());
        for _ in 0..3 {
            plays.claiming(session(1)).declined();
        }
        assert_eq!(plays.reconcile(listed), listed);
        assert_eq!(plays.reconcile(listed), listed, "until it is gone from the list");
        assert!(plays.reconcile([(session(1), 8)]).is_empty(), "another generation is another query");
        drop(plays.claiming(session(1)));
        assert!(plays.reconcile([(session(1), 8)]).is_empty(), "a claim in doubt was in between");
        assert_eq!(plays.reconcile([(session(1), 8)]), [(session(1), 8)]);
    }
}
