//! Estimates before a run what it will open and send. `--dry-run` prints the result.
//! Where the server chooses an answer's length or timing, the estimate assumes the simulator's defaults and marks that.

use crate::{
    plan::Plan,
    schedule::{Model, Schedule},
    users::{Kind, Users},
};
use std::time::Duration;

/// Tokens of an answer whose length the query does not ask for: the simulator's default text.
const DEFAULT_TOKENS: f64 = 18.0;
/// Milliseconds per token of an answer whose timing the query does not ask for: the simulator's default delay.
const DEFAULT_ITL_MS: f64 = 50.0;

/// The estimated size of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Lower limit of the number of sessions.
    pub sessions: u64,
    /// Upper limit of open sockets at a time.
    pub sockets: u64,
    /// Queries.
    pub queries: f64,
    /// Tokens.
    pub tokens: f64,
    /// Tokens per second at the highest load.
    pub peak_tokens_per_second: f64,
    /// Time from the first session's start to the last answer's end.
    pub duration: Duration,
    /// The schedule ends at a fixed time, however long queries take.
    pub by_clock: bool,
    /// The server chooses the length or timing of some answers, so that the figures assume its defaults.
    pub assumed: bool,
}

/// Means over all kinds of users, by their weights.
struct Mean {
    /// Queries per session. `None` if a kind has no fixed number.
    queries: Option<f64>,
    /// Tokens per query.
    tokens: f64,
    /// Ideal duration of a query in seconds.
    seconds: f64,
    /// Think time between two queries in seconds.
    think_time: f64,
}

fn mean(users: &Users) -> Mean {
    let total: f64 = users.kinds.iter().map(|kind| kind.weight).sum();
    let weighted = |of: &dyn Fn(&Kind) -> f64| {
        users.kinds.iter().map(|kind| of(kind) * kind.weight).sum::<f64>() / total.max(f64::MIN_POSITIVE)
    };
    let tokens = |kind: &Kind| kind.tokens.map_or(DEFAULT_TOKENS, |tokens| tokens.mean());
    let itl = |kind: &Kind| kind.itl_ms.map_or(DEFAULT_ITL_MS, |itl| itl.mean());
    let ttft = |kind: &Kind| kind.ttft_ms.map_or(0.0, |ttft| ttft.mean());
    let counted = users.kinds.iter().all(|kind| kind.queries.is_some());
    Mean {
        queries: counted.then(|| weighted(&|kind| kind.queries.map_or(0.0, f64::from))),
        tokens: weighted(&tokens),
        seconds: weighted(&|kind| (ttft(kind) + tokens(kind) * itl(kind)) / 1e3),
        think_time: weighted(&|kind| kind.think_time.mean()),
    }
}

impl Estimate {
    /// Estimates the run that `config` describes.
    #[must_use]
    pub fn of(config: &Plan) -> Self {
        let schedule = &config.schedule;
        let mean = mean(&config.users);
        // A session sends one query per cycle.
        let cycle = (mean.seconds + mean.think_time).max(0.001);
        let session_seconds = mean.queries.unwrap_or(1.0) * cycle;
        let sockets = schedule.most_concurrent();
        let offered = schedule.offered();
        let (queries, tokens) = match schedule.model() {
            Model::OpenQueries => {
                let asked =
                    schedule.arrivals().iter().map(|arrival| arrival.tokens.map_or(mean.tokens, f64::from));
                (schedule.arrivals().len() as f64, asked.sum())
            }
            _ => closed_load(schedule, &mean, cycle),
        };
        // In a closed model each open session sends one query per cycle. An open model sends what arrives, but no more than
        // its sessions can carry, hence the minimum below.
        let present =
            sockets as f64 * mean.tokens / if config.load.burst { mean.seconds.max(0.001) } else { cycle };
        let arriving = offered.map(|offered| tokens / offered.duration.as_secs_f64().max(0.001));
        let rest = if schedule.model() == Model::OpenQueries { mean.seconds } else { session_seconds };
        let planned = schedule.end().map_or(config.load.ramp_up, |end| end);
        let after = if schedule.session(0).until.is_some() { mean.seconds } else { rest };
        Self {
            sessions: schedule.sessions(),
            sockets,
            queries,
            tokens,
            peak_tokens_per_second: arriving.map_or(present, |arriving| arriving.min(present)),
            duration: planned + Duration::try_from_secs_f64(after).unwrap_or_default(),
            by_clock: schedule.end().is_some(),
            assumed: config.users.kinds.iter().any(|kind| kind.tokens.is_none() || kind.itl_ms.is_none()),
        }
    }

    /// Returns the time that the run will still take, given that `done` queries ended within `elapsed`.
    ///
    /// If the schedule has no fixed end, the remaining queries are assumed to end at the rate of the previous ones. `None`
    /// before the first query has ended.
    #[must_use]
    pub fn left(&self, elapsed: Duration, done: u64) -> Option<Duration> {
        if self.by_clock {
            return Some(self.duration.saturating_sub(elapsed));
        }
        let rest = (self.queries - done as f64).max(0.0) / done as f64;
        (done > 0).then(|| Duration::try_from_secs_f64(elapsed.as_secs_f64() * rest).unwrap_or(Duration::MAX))
    }
}

/// Returns the queries and tokens of all sessions that decide themselves when to send.
fn closed_load(schedule: &Schedule, mean: &Mean, cycle: f64) -> (f64, f64) {
    let queries_of = |index| {
        let session = schedule.session(index);
        let queries = match session.until {
            // No think time precedes the first query.
            Some(until) => (until.saturating_sub(session.start).as_secs_f64() + mean.think_time) / cycle,
            None => mean.queries.unwrap_or(1.0),
        };
        (queries, queries * session.tokens.map_or(mean.tokens, f64::from))
    };
    let sum = |(queries, tokens): (f64, f64), (more, further): (f64, f64)| (queries + more, tokens + further);
    schedule.share(0, 1).map(queries_of).fold((0.0, 0.0), sum)
}
