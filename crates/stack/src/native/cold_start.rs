//! The times of an instance's start: when the command came, when the process was ready, and when HAProxy sent to it. The first session or
//! query is in the metrics of the instance, which notes its wall-clock time.

use crate::scaling::ColdStart;
use host::unix_time;
use std::time::{Duration, Instant};

/// The moment at which a command came, on both clocks: durations need the monotonic one, and metrics of other processes the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    at: Instant,
    unix: Duration,
}

impl Command {
    /// Returns the present moment.
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), unix: unix_time() }
    }

    /// Returns the time since the command, in milliseconds.
    pub(crate) fn elapsed_ms(self) -> f64 {
        self.at.elapsed().as_secs_f64() * 1e3
    }
}

/// The times of one start of an instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartTimes {
    command: Command,
    ready_ms: Option<f64>,
    serving_ms: Option<f64>,
    first_served_ms: Option<f64>,
}

impl StartTimes {
    pub(crate) const fn new(command: Command) -> Self {
        Self { command, ready_ms: None, serving_ms: None, first_served_ms: None }
    }

    /// Notes that the process is ready.
    pub(crate) fn ready(&mut self) {
        self.ready_ms = Some(self.command.elapsed_ms());
    }

    /// Notes that HAProxy sends to the instance. Only the first call has an effect.
    pub(crate) fn serving(&mut self) {
        self.serving_ms.get_or_insert(self.command.elapsed_ms());
    }

    /// Notes the wall-clock time of the first session or query.
    pub(crate) fn first_served(&mut self, unix: Duration) {
        // The wall clock may have been set back meanwhile.
        let after = unix.saturating_sub(self.command.unix);
        self.first_served_ms = Some(after.as_secs_f64() * 1e3);
    }

    /// Returns whether the first session or query is known.
    pub(crate) const fn has_served(&self) -> bool {
        self.first_served_ms.is_some()
    }

    /// Returns the times, once the process is ready.
    #[allow(clippy::cast_possible_truncation, reason = "the present time fits into 64 bits of milliseconds")]
    pub(crate) fn cold_start(&self, name: String) -> Option<ColdStart> {
        Some(ColdStart {
            name,
            commanded_unix_ms: self.command.unix.as_millis() as u64,
            ready_ms: self.ready_ms?,
            serving_ms: self.serving_ms,
            first_served_ms: self.first_served_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_has_times_once_the_process_is_ready() {
        let mut times = StartTimes::new(Command::now());
        assert_eq!(times.cold_start("wsproxy-1".into()), None);
        times.ready();
        times.serving();
        times.first_served(times.command.unix + Duration::from_millis(1_500));
        let start = times.cold_start("wsproxy-1".into()).unwrap();
        assert!(start.serving_ms.unwrap() >= start.ready_ms, "{start:?}");
        assert_eq!(start.first_served_ms, Some(1_500.0));
    }
}
