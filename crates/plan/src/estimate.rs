//! What a run will open and send, reckoned before it starts, and the table that `--dry-run` prints.
//! It asks nobody: where a server chooses for itself, its usual answer is assumed and said so.

use crate::{
    Plan,
    schedule::{Model, Schedule},
    users::{Kind, Users},
};
use std::time::Duration;

/// What a server plays that is asked for nothing in particular.
const USUAL_TOKENS: f64 = 18.0;
const USUAL_ITL_MS: f64 = 50.0;

/// A run, reckoned.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Sessions that come, at least.
    pub sessions: u64,
    /// Sockets at once, at most.
    pub sockets: u64,
    /// Queries.
    pub queries: f64,
    /// Tokens.
    pub tokens: f64,
    /// Tokens a second when most is going on.
    pub peak_tokens_per_second: f64,
    /// From the first session to the last answer.
    pub duration: Duration,
    /// The schedule ends by the clock, however long queries take.
    pub by_clock: bool,
    /// A server chooses its answers' length or timing by itself.
    pub assumed: bool,
}

/// A query on average.
struct Mean {
    queries: Option<f64>,
    tokens: f64,
    seconds: f64,
    thought: f64,
}

fn mean(users: &Users) -> Mean {
    let total: f64 = users.kinds.iter().map(|kind| kind.weight).sum();
    let weighted = |of: &dyn Fn(&Kind) -> f64| {
        users.kinds.iter().map(|kind| of(kind) * kind.weight).sum::<f64>() / total.max(f64::MIN_POSITIVE)
    };
    let tokens = |kind: &Kind| kind.tokens.map_or(USUAL_TOKENS, |tokens| tokens.mean());
    let itl = |kind: &Kind| kind.itl_ms.map_or(USUAL_ITL_MS, |itl| itl.mean());
    let ttft = |kind: &Kind| kind.ttft_ms.map_or(0.0, |ttft| ttft.mean());
    let counted = users.kinds.iter().all(|kind| kind.queries.is_some());
    Mean {
        queries: counted.then(|| weighted(&|kind| kind.queries.map_or(0.0, f64::from))),
        tokens: weighted(&tokens),
        seconds: weighted(&|kind| (ttft(kind) + tokens(kind) * itl(kind)) / 1e3),
        thought: weighted(&|kind| kind.think_time.mean()),
    }
}

impl Estimate {
    /// Reckons.
    #[must_use]
    pub fn of(config: &Plan) -> Self {
        let schedule = &config.schedule;
        let mean = mean(&config.users);
        let cycle = (mean.seconds + mean.thought).max(0.001);
        let session_seconds = mean.queries.unwrap_or(1.0) * cycle;
        let sockets = schedule.most_concurrent();
        let offered = schedule.offered();
        let (queries, tokens) = match schedule.model() {
            Model::OpenQueries => {
                let asked =
                    schedule.arrivals().iter().map(|arrival| arrival.tokens.map_or(mean.tokens, f64::from));
                (schedule.arrivals().len() as f64, asked.sum())
            }
            _ => visited(schedule, &mean, cycle),
        };
        // Whoever is present sends a query a cycle; an open model sends what arrives, but its sessions bound it.
        let present =
            sockets as f64 * mean.tokens / if config.load.burst { mean.seconds.max(0.001) } else { cycle };
        let arriving = offered.map(|offered| tokens / offered.duration.as_secs_f64().max(0.001));
        let rest = if schedule.model() == Model::OpenQueries { mean.seconds } else { session_seconds };
        let planned = schedule.end().map_or(config.load.ramp_up, |end| end);
        let after = if schedule.visit(0).until.is_some() { mean.seconds } else { rest };
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

    /// How much of the run is left when so many queries have been `done` within `elapsed`: where the schedule does not end by the
    /// clock, the rest takes as long as they did. `None` before the first one.
    #[must_use]
    pub fn left(&self, elapsed: Duration, done: u64) -> Option<Duration> {
        if self.by_clock {
            return Some(self.duration.saturating_sub(elapsed));
        }
        let rest = (self.queries - done as f64).max(0.0) / done as f64;
        (done > 0).then(|| Duration::try_from_secs_f64(elapsed.as_secs_f64() * rest).unwrap_or(Duration::MAX))
    }
}

/// Queries and tokens of sessions that come and go by themselves.
fn visited(schedule: &Schedule, mean: &Mean, cycle: f64) -> (f64, f64) {
    let queries_of = |index| {
        let visit = schedule.visit(index);
        let queries = match visit.until {
            // The first query comes without a thought.
            Some(until) => (until.saturating_sub(visit.start).as_secs_f64() + mean.thought) / cycle,
            None => mean.queries.unwrap_or(1.0),
        };
        (queries, queries * visit.tokens.map_or(mean.tokens, f64::from))
    };
    let sum = |(queries, tokens): (f64, f64), (more, further): (f64, f64)| (queries + more, tokens + further);
    (0..schedule.sessions()).map(queries_of).fold((0.0, 0.0), sum)
}
