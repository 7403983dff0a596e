//! Shows the progress of a run on stderr: one line that is redrawn on a terminal, otherwise a new line every few seconds.

use crate::messages;
use indicatif::{ProgressBar, ProgressStyle};
use measure::live::{LiveCounters, LiveTotals, totals};
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

/// The progress line. It is shown until this value is dropped.
#[derive(Debug)]
pub struct Progress {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Sources of the figures in the progress line.
#[derive(Debug)]
pub struct ProgressSources {
    /// Counters of the workers, or of the generators.
    pub counters: Vec<Arc<LiveCounters>>,
    /// Duration and number of queries that were expected before the run.
    pub estimate: Estimate,
}

impl Progress {
    /// Starts to show the progress.
    #[must_use]
    pub fn show(sources: ProgressSources) -> Self {
        let (end, ended) = channel();
        let terminal = std::io::stderr().is_terminal();
        let thread = std::thread::Builder::new()
            .name("progress".into())
            .spawn(move || if terminal { redraw(&sources, &ended) } else { print_lines(&sources, &ended) })
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

fn redraw(sources: &ProgressSources, ended: &Receiver<()>) {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    let mut pace = RateTracker::new();
    while waits(ended, REDRAW) {
        bar.set_message(pace.line(sources));
        bar.tick();
    }
    bar.finish_and_clear();
}

fn print_lines(sources: &ProgressSources, ended: &Receiver<()>) {
    let mut pace = RateTracker::new();
    while waits(ended, PLAIN_LINE) {
        messages::print_stderr(&pace.line(sources));
    }
}

fn waits(ended: &Receiver<()>, time: Duration) -> bool {
    ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
}

/// Computes the token rate between two updates.
struct RateTracker {
    started: Instant,
    looked: Instant,
    tokens: u64,
    rate: f64,
}

impl RateTracker {
    fn new() -> Self {
        let now = Instant::now();
        Self { started: now, looked: now, tokens: 0, rate: 0.0 }
    }

    fn line(&mut self, sources: &ProgressSources) -> String {
        let now = totals(sources.counters.iter().map(AsRef::as_ref));
        let since = self.looked.elapsed().as_secs_f64();
        if since >= 0.2 {
            let fresh = now.tokens.saturating_sub(self.tokens) as f64 / since;
            // Average with the last rate, so that the number changes slowly enough to be read.
            self.rate = if self.tokens == 0 { fresh } else { (self.rate + fresh) / 2.0 };
            (self.looked, self.tokens) = (Instant::now(), now.tokens);
        }
        line(self.started.elapsed(), now.open_sessions(), &sources.estimate, self.rate, &now)
    }
}

fn line(elapsed: Duration, active: u64, estimate: &Estimate, rate: f64, now: &LiveTotals) -> String {
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
        let now = LiveTotals { queries: 50_000, ..LiveTotals::default() };
        let counted = Estimate { queries: 100_000.0, ..Estimate::default() };
        let text = line(Duration::from_secs(90), 5000, &counted, 90_000.0, &now);
        assert_eq!(text, "90s active 5000 queries 50000/100000 90000 tokens/s lost 0 errors 0 left 90s");
        assert!(text.len() <= 78);
        let first = line(Duration::ZERO, 0, &counted, 0.0, &LiveTotals::default());
        assert!(first.ends_with("left -"));
        let fixed = Estimate { duration: Duration::from_secs(300), by_clock: true, ..counted };
        let text = line(Duration::from_secs(90), 5000, &fixed, 90_000.0, &now);
        assert!(text.ends_with("left 210s"), "{text}");
    }
}
