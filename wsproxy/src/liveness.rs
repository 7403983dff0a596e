//! When a socket is pinged, when it counts as dead, when its token has run out, and when a message takes too long: pure decisions
//! over the time that the sweep tells. It owns no timer and sends nothing.

use protocol::CloseReason;
use std::time::{Duration, Instant};

/// What the sweep does with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Ping,
    Close(CloseReason),
    /// Close, because a message did not arrive whole in time.
    Unfinished,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) ping_interval: Duration,
    pub(crate) ping_timeout: Duration,
    pub(crate) message_timeout: Duration,
}

/// One socket's signs of life.
#[derive(Debug)]
pub(crate) struct Liveness {
    pinged: Instant,
    /// When the oldest ping without a pong was sent.
    unanswered: Option<Instant>,
    /// Since when a message of the client's has been arriving.
    pub(crate) arriving: Option<Instant>,
    expires: Option<Instant>,
}

impl Liveness {
    pub(crate) const fn new(now: Instant, expires: Option<Instant>) -> Self {
        Self { pinged: now, unanswered: None, arriving: None, expires }
    }

    pub(crate) fn due(&mut self, now: Instant, limits: Limits) -> Due {
        let Limits { ping_interval, ping_timeout, message_timeout } = limits;
        let lasts = |since: Instant, time| now.saturating_duration_since(since) >= time;
        if self.expires.is_some_and(|expires| expires <= now) {
            return Due::Close(CloseReason::TokenExpired);
        }
        if self.arriving.is_some_and(|since| lasts(since, message_timeout)) {
            return Due::Unfinished;
        }
        if self.unanswered.is_some_and(|since| lasts(since, ping_timeout)) {
            return Due::Close(CloseReason::NoPong);
        }
        if !lasts(self.pinged, ping_interval) {
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

    const LIMITS: Limits = Limits {
        ping_interval: Duration::from_secs(15),
        ping_timeout: Duration::from_secs(30),
        message_timeout: Duration::from_secs(20),
    };

    fn check(expires: Option<u64>, steps: &[(u64, bool, Due)]) {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(start, expires.map(at));
        for &(seconds, pong_before, due) in steps {
            if pong_before {
                liveness.pong();
            }
            assert_eq!(liveness.due(at(seconds), LIMITS), due, "at {seconds} s");
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
    fn a_message_that_arrives_for_too_long() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, None);
        liveness.arriving = Some(start + Duration::from_secs(5));
        for (seconds, due) in [(15, Due::Ping), (24, Due::Nothing), (25, Due::Unfinished)] {
            assert_eq!(liveness.due(start + Duration::from_secs(seconds), LIMITS), due, "at {seconds} s");
        }
        liveness.arriving = None;
        assert_eq!(liveness.due(start + Duration::from_secs(26), LIMITS), Due::Nothing);
    }

    #[test]
    fn a_token_runs_out() {
        check(Some(20), &[(15, false, Due::Ping), (20, true, Due::Close(CloseReason::TokenExpired))]);
    }
}
