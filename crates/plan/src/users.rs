//! The users of a run: their kinds and weights, their think times, and what they ask for.
//! All draws depend only on the run's seed and the session's index. Nothing here reads a clock.

use protocol::RunRequest;
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};
use settings::distribution::{self, Distribution};
use std::time::Duration;

/// Upper limit in milliseconds of each delay that a query asks for: one hour.
const LONGEST_DELAY_MS: f64 = 3_600_000.0;
/// Upper limit in seconds of a think time: one day.
const LONGEST_THINK_TIME: f64 = 24.0 * 3600.0;
/// Upper limit of the tokens that a query asks for.
const MOST_TOKENS: f64 = 1_000_000.0;

/// A kind of users as `[[user]]` in a scenario file describes it. Absent fields take the run's values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserKind {
    /// The name shown in tables.
    pub name: String,
    /// Share of the sessions relative to the other kinds' weights, 0.001 to 1000000 [default: 1].
    pub weight: Option<f64>,
    /// Seconds between the end of a query and the start of the next one, 0 to 86400.
    #[serde(deserialize_with = "distribution::seconds")]
    pub think_time: Option<Distribution>,
    /// Queries per session.
    pub queries: Option<i64>,
    /// Tokens per answer, 1 to 1000000. `tokens` is an older name.
    #[serde(alias = "tokens", deserialize_with = "distribution::plain")]
    pub answer_tokens: Option<Distribution>,
    /// Milliseconds before the first token of an answer, 0 to 3600000.
    #[serde(deserialize_with = "distribution::milliseconds")]
    pub ttft_ms: Option<Distribution>,
    /// Milliseconds after each token, 0 to 3600000.
    #[serde(deserialize_with = "distribution::milliseconds")]
    pub itl_ms: Option<Distribution>,
    /// The name of a [`Profile`] that sets `ttft_ms` and `itl_ms`.
    pub profile: Option<String>,
}

/// A named timing of answers. The figures are invented, not measured: log-normal distributions with a long tail before the
/// first token, of the order of magnitude that streaming services show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// The name that selects the profile.
    pub name: &'static str,
    /// Milliseconds before the first token.
    pub ttft_ms: Distribution,
    /// Milliseconds after each token.
    pub itl_ms: Distribution,
}

/// All profiles, from fast to slow.
pub const PROFILES: [Profile; 4] = [
    Profile {
        name: "fast-small",
        ttft_ms: Distribution::LogNormal(180.0, 0.35),
        itl_ms: Distribution::LogNormal(8.0, 0.2),
    },
    Profile {
        name: "balanced-medium",
        ttft_ms: Distribution::LogNormal(400.0, 0.45),
        itl_ms: Distribution::LogNormal(18.0, 0.25),
    },
    Profile {
        name: "slow-large",
        ttft_ms: Distribution::LogNormal(900.0, 0.5),
        itl_ms: Distribution::LogNormal(40.0, 0.3),
    },
    Profile {
        name: "reasoning",
        ttft_ms: Distribution::LogNormal(6000.0, 0.7),
        itl_ms: Distribution::LogNormal(25.0, 0.3),
    },
];

/// A kind of users with validated values.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The name shown in tables.
    pub name: String,
    /// Share of the sessions relative to the other kinds' weights. Above 0.
    pub weight: f64,
    /// Seconds between the end of a query and the start of the next one.
    pub think_time: Distribution,
    /// Queries per session. `None`: as many as fit until the session's end.
    pub queries: Option<u32>,
    /// Tokens per answer. `None`: the server chooses.
    pub tokens: Option<Distribution>,
    /// Milliseconds before the first token. `None`: the server chooses.
    pub ttft_ms: Option<Distribution>,
    /// Milliseconds after each token. `None`: the server chooses.
    pub itl_ms: Option<Distribution>,
}

/// All users of a run.
#[derive(Clone, Debug)]
pub struct Users {
    /// The kinds of users, at least one.
    pub kinds: Vec<Kind>,
    /// The texts that queries are drawn from. If empty, the text names the query's number.
    pub prompts: Vec<String>,
    /// Seed of all draws.
    pub seed: u64,
}

impl Users {
    /// Draws the user of session `index`. Equal seeds and indices give equal users.
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

/// The user of one session. Draws what the session sends next.
#[derive(Debug)]
pub struct User {
    kind: usize,
    random: SmallRng,
}

impl User {
    /// Returns the user's kind.
    #[must_use]
    pub fn kind<'a>(&self, users: &'a Users) -> &'a Kind {
        &users.kinds[self.kind]
    }

    /// Draws the time between the end of a query and the start of the next one.
    pub fn think_time(&mut self, users: &Users) -> Duration {
        let seconds = self.kind(users).think_time.draw(&mut self.random);
        Duration::try_from_secs_f64(seconds.min(LONGEST_THINK_TIME)).unwrap_or_default()
    }

    /// Draws the body of the `/run` call for query `num` (from 1). `tokens`, which a trace may state, replaces the drawn length.
    pub fn request(&mut self, users: &Users, num: u32, id: String, tokens: Option<u32>) -> RunRequest {
        let kind = self.kind(users);
        let random = &mut self.random;
        let delay = |spread: Option<Distribution>, random: &mut SmallRng| {
            Some(spread?.draw(random).min(LONGEST_DELAY_MS))
        };
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

/// Returns the seed for the draws of arrival times. It differs from the run's seed, so that arrivals and users are independent.
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
            think_time: Distribution::Exponential(2.0),
            queries: None,
            tokens: Some(Distribution::Uniform(1.0, 9.0)),
            ttft_ms: None,
            itl_ms: Some(Distribution::LogNormal(20.0, 0.3)),
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
            (user.think_time(&users), request.tokens, request.itl_ms)
        };
        assert_eq!(draws(4), draws(4));
        assert_ne!(draws(4), draws(5));
    }

    #[test]
    fn the_length_from_a_trace_wins_and_prompts_are_drawn() {
        let mut users = users(&[1.0]);
        users.prompts = vec!["why?".into()];
        let request = users.user(0).request(&users, 1, "id".into(), Some(77));
        assert_eq!((request.tokens, request.query.as_str()), (Some(77), "why?"));
    }
}
