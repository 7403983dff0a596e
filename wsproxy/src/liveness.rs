//! When a socket is pinged, when it counts as dead, and when its token has run out: pure decisions over the time that
//! the sweep tells. It owns no timer and sends nothing.

use protocol::CloseReason;
use std::time::{Duration, Instant};

/// What the sweep does with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Ping,
    Close(CloseReason),
}

/// One socket's signs of life.
#[derive(Debug)]
pub(crate) struct Liveness {
    pinged: Instant,
    /// When the oldest ping without a pong was sent.
    unanswered: Option<Instant>,
    expires: Option<Instant>,
}

impl Liveness {
    pub(crate) const fn new(now: Instant, expires: Option<Instant>) -> Self {
        Self { pinged: now, unanswered: None, expires }
    }

    pub(crate) fn due(&mut self, now: Instant, interval: Duration, timeout: Duration) -> Due {
        if self.expires.is_some_and(|expires| expires <= now) {
            return Due::Close(CloseReason::TokenExpired);
        }
        if self.unanswered.is_some_and(|since| now.saturating_duration_since(since) >= timeout) {
            return Due::Close(CloseReason::NoPong);
        }
        if now.saturating_duration_since(self.pinged) < interval {
            return Due::Nothing;
        }
        self.pinged = now;
        self.unanswered.get_or_insert(now);
        Due::Ping
    }

    /// Any pong answers every ping before it.
    pub(crate) const fn pong(&mut self) {
        self.unanswered = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(15);
    const TIMEOUT: Duration = Duration::from_secs(30);

    fn check(expires: Option<u64>, steps: &[(u64, bool, Due)]) {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(start, expires.map(at));
        for &(seconds, pong_before, due) in steps {
            if pong_before {
                liveness.pong();
            }
            assert_eq!(liveness.due(at(seconds), INTERVAL, TIMEOUT), due, "at {seconds} s");
        }
    }

    #[test]
    fn a_client_that_answers_lives_on() {
        check(None, &[(1, false, Due::Nothing), (15, false, Due::Ping), (29, true, Due::Nothing)]);
        check(
            None,
            &[(15, false, Due::Ping), (30, true, Due::Ping), (45, true, Due::Ping), (70, true, Due::Ping)],
        );
    }

    #[test]
    fn a_client_that_is_silent_is_given_its_time() {
        let dead = Due::Close(CloseReason::NoPong);
        check(
            None,
            &[(15, false, Due::Ping), (30, false, Due::Ping), (44, false, Due::Nothing), (45, false, dead)],
        );
    }

    #[test]
    fn a_token_runs_out() {
        check(Some(20), &[(15, false, Due::Ping), (20, true, Due::Close(CloseReason::TokenExpired))]);
    }
}
