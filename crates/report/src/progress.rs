//! How the run is going, on stderr: one line in place on a terminal, a line every few seconds elsewhere.
//! It reads counters and decides nothing.

use crate::messages;
use indicatif::{ProgressBar, ProgressStyle};
use measure::{
    Gauge,
    live::{Shard, Totals, totals},
};
use plan::Estimate;
use std::{
    io::IsTerminal,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

const REDRAW: Duration = Duration::from_millis(250);
const PLAIN_LINE: Duration = Duration::from_secs(5);

/// Shown until it is dropped.
#[derive(Debug)]
pub struct Progress {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What is shown.
#[derive(Debug)]
pub struct Watched {
    /// The workers' counters.
    pub shards: Vec<Arc<Shard>>,
    /// Open sessions.
    pub sessions: Gauge,
    /// What was reckoned before.
    pub estimate: Estimate,
}

impl Progress {
    /// Begins to show.
    #[must_use]
    pub fn show(watched: Watched) -> Self {
        let (end, ended) = channel();
        let terminal = std::io::stderr().is_terminal();
        let thread = std::thread::Builder::new()
            .name("progress".into())
            .spawn(move || if terminal { redraw(&watched, &ended) } else { print_lines(&watched, &ended) })
            .ok();
        Self { end: Some(end), thread }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn redraw(watched: &Watched, ended: &Receiver<()>) {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    let mut pace = Pace::new();
    while waits(ended, REDRAW) {
        bar.set_message(pace.line(watched));
        bar.tick();
    }
    bar.finish_and_clear();
}

fn print_lines(watched: &Watched, ended: &Receiver<()>) {
    let mut pace = Pace::new();
    while waits(ended, PLAIN_LINE) {
        messages::tell(&pace.line(watched));
    }
}

fn waits(ended: &Receiver<()>, time: Duration) -> bool {
    ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
}

/// Remembers the last look, for rates.
struct Pace {
    started: Instant,
    looked: Instant,
    tokens: u64,
    rate: f64,
}

impl Pace {
    fn new() -> Self {
        let now = Instant::now();
        Self { started: now, looked: now, tokens: 0, rate: 0.0 }
    }

    fn line(&mut self, watched: &Watched) -> String {
        let now = totals(watched.shards.iter().map(AsRef::as_ref));
        let since = self.looked.elapsed().as_secs_f64();
        if since >= 0.2 {
            let fresh = now.tokens.saturating_sub(self.tokens) as f64 / since;
            // Half of the last figure, so that the eye can read it.
            self.rate = if self.tokens == 0 { fresh } else { (self.rate + fresh) / 2.0 };
            (self.looked, self.tokens) = (Instant::now(), now.tokens);
        }
        line(self.started.elapsed(), watched.sessions.now(), &watched.estimate, self.rate, &now)
    }
}

fn line(elapsed: Duration, active: u64, estimate: &Estimate, rate: f64, now: &Totals) -> String {
    let left = estimate.left(elapsed, now.queries);
    let left = left.map_or_else(|| "-".to_owned(), |left| format!("{:.0}s", left.as_secs_f64()));
    format!(
        "{:.0}s active {active} queries {}/{:.0} {rate:.0} tokens/s lost {} errors {} left {left}",
        elapsed.as_secs_f64(),
        now.queries,
        estimate.queries,
        now.lost,
        now.errors,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_eighty_columns() {
        let now = Totals { queries: 50_000, ..Totals::default() };
        let counted = Estimate { queries: 100_000.0, ..Estimate::default() };
        let text = line(Duration::from_secs(90), 5000, &counted, 90_000.0, &now);
        assert_eq!(text, "90s active 5000 queries 50000/100000 90000 tokens/s lost 0 errors 0 left 90s");
        assert!(text.len() <= 78);
        let first = line(Duration::ZERO, 0, &counted, 0.0, &Totals::default());
        assert!(first.ends_with("left -"));
        let fixed = Estimate { duration: Duration::from_secs(300), by_clock: true, ..counted };
        let text = line(Duration::from_secs(90), 5000, &fixed, 90_000.0, &now);
        assert!(text.ends_with("left 210s"), "{text}");
    }
}
