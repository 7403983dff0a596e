//! What the users of a run are like: their kinds and weights, their think times, what they ask for.
//! Every draw comes from the run's seed and the session's number; it knows no clock and no socket.

use crate::schedule::Spread;
use protocol::RunRequest;
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Nobody waits longer for one delay of a query.
const LONGEST_DELAY_MS: f64 = 3_600_000.0;
/// Nobody thinks longer.
const LONGEST_THOUGHT: f64 = 24.0 * 3600.0;
/// The most that a query asks for.
const MOST_TOKENS: f64 = 1_000_000.0;

/// A kind of users, as a scenario file's `[[user]]` says it. What is absent is as for the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserKind {
    /// For tables.
    pub name: String,
    /// Its share of the sessions, beside the other kinds' weights [default: 1].
    pub weight: Option<f64>,
    /// Seconds between a query's end and the next.
    pub think_time: Option<Spread>,
    /// Queries of a session.
    pub queries: Option<i64>,
    /// Tokens of an answer.
    pub tokens: Option<Spread>,
    /// Before an answer's first token.
    pub ttft_ms: Option<Spread>,
    /// After each token.
    pub itl_ms: Option<Spread>,
    /// The timing of answers, by name.
    pub profile: Option<String>,
}

/// A timing of answers. The shapes are made up, in orders of magnitude that streaming services show: log-normal, a long
/// tail before the first token. They are nobody's measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// What a scenario calls it.
    pub name: &'static str,
    /// Before the first token.
    pub ttft_ms: Spread,
    /// After each token.
    pub itl_ms: Spread,
}

/// All profiles.
pub const PROFILES: [Profile; 4] = [
    Profile {
        name: "fast-small",
        ttft_ms: Spread::LogNormal(180.0, 0.35),
        itl_ms: Spread::LogNormal(8.0, 0.2),
    },
    Profile {
        name: "balanced-medium",
        ttft_ms: Spread::LogNormal(400.0, 0.45),
        itl_ms: Spread::LogNormal(18.0, 0.25),
    },
    Profile {
        name: "slow-large",
        ttft_ms: Spread::LogNormal(900.0, 0.5),
        itl_ms: Spread::LogNormal(40.0, 0.3),
    },
    Profile {
        name: "reasoning",
        ttft_ms: Spread::LogNormal(6000.0, 0.7),
        itl_ms: Spread::LogNormal(25.0, 0.3),
    },
];

/// One kind, validated.
#[derive(Clone, Debug)]
pub struct Kind {
    /// For tables.
    pub name: String,
    /// Above 0.
    pub weight: f64,
    /// Seconds.
    pub think_time: Spread,
    /// A session's; `None`: until it has to go.
    pub queries: Option<u32>,
    /// `None`: the server's own choice.
    pub tokens: Option<Spread>,
    /// `None`: the server's own choice.
    pub ttft_ms: Option<Spread>,
    /// `None`: the server's own choice.
    pub itl_ms: Option<Spread>,
}

/// Everybody, never empty.
#[derive(Clone, Debug)]
pub struct Users {
    /// The kinds.
    pub kinds: Vec<Kind>,
    /// What they ask; the query's number alone where empty.
    pub prompts: Vec<String>,
    /// Of all draws.
    pub seed: u64,
}

impl Users {
    /// The user of session `index`.
    #[must_use]
    pub fn user(&self, index: u64) -> User {
        let mut random =
            SmallRng::seed_from_u64(self.seed ^ index.wrapping_mul(0xA24B_AED4_963E_E407).rotate_left(17));
        let total: f64 = self.kinds.iter().map(|kind| kind.weight).sum();
        let mut place = total * random.random::<f64>();
        let chosen = self.kinds.iter().position(|kind| {
            place -= kind.weight;
            place < 0.0
        });
        User { kind: chosen.unwrap_or(0), random }
    }
}

/// One session's user.
#[derive(Debug)]
pub struct User {
    kind: usize,
    random: SmallRng,
}

impl User {
    /// Its kind.
    #[must_use]
    pub fn kind<'a>(&self, users: &'a Users) -> &'a Kind {
        &users.kinds[self.kind]
    }

    /// How long it thinks before its next query.
    pub fn thought(&mut self, users: &Users) -> Duration {
        let seconds = self.kind(users).think_time.draw(&mut self.random);
        Duration::try_from_secs_f64(seconds.min(LONGEST_THOUGHT)).unwrap_or_default()
    }

    /// What it asks for in its query `num`, with so many `tokens` where a trace says so.
    pub fn request(&mut self, users: &Users, num: u32, id: String, tokens: Option<u32>) -> RunRequest {
        let kind = self.kind(users);
        let random = &mut self.random;
        let delay =
            |spread: Option<Spread>, random: &mut SmallRng| Some(spread?.draw(random).min(LONGEST_DELAY_MS));
        let drawn = kind.tokens.map(|spread| spread.draw(random).round().clamp(1.0, MOST_TOKENS) as u32);
        let query = match users.prompts.as_slice() {
            [] => format!("load test query {num}"),
            prompts => prompts[random.random_range(0..prompts.len())].clone(),
        };
        RunRequest {
            query,
            query_id: Some(id),
            tokens: tokens.or(drawn),
            ttft_ms: delay(kind.ttft_ms, random),
            itl_ms: delay(kind.itl_ms, random),
        }
    }
}

/// A seed of its own for each purpose.
#[must_use]
pub fn seed_for_arrivals(seed: u64) -> u64 {
    SmallRng::seed_from_u64(seed).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(weights: &[f64]) -> Users {
        let kind = |&weight: &f64| Kind {
            name: String::new(),
            weight,
            think_time: Spread::Exponential(2.0),
            queries: None,
            tokens: Some(Spread::Uniform(1.0, 9.0)),
            ttft_ms: None,
            itl_ms: Some(Spread::LogNormal(20.0, 0.3)),
        };
        Users { kinds: weights.iter().map(kind).collect(), prompts: Vec::new(), seed: 7 }
    }

    #[test]
    fn kinds_come_by_their_weights_and_draws_by_the_seed() {
        let users = users(&[3.0, 1.0]);
        let first = (0..10_000).filter(|&index| users.user(index).kind == 0).count();
        assert!((7_300..7_700).contains(&first), "{first}");
        let draws = |index| {
            let mut user = users.user(index);
            let request = user.request(&users, 1, "id".into(), None);
            (user.thought(&users), request.tokens, request.itl_ms)
        };
        assert_eq!(draws(4), draws(4));
        assert_ne!(draws(4), draws(5));
    }

    #[test]
    fn a_trace_says_the_length_and_prompts_are_drawn() {
        let mut users = users(&[1.0]);
        users.prompts = vec!["why?".into()];
        let request = users.user(0).request(&users, 1, "id".into(), Some(77));
        assert_eq!((request.tokens, request.query.as_str()), (Some(77), "why?"));
    }
}
