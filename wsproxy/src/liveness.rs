//! Decides when a socket is pinged, and when it is closed because of a missing pong, an expired token or an unfinished message.
//! The decisions are pure functions of the time that the sweep passes.

use protocol::CloseReason;
use std::time::{Duration, Instant};

/// What the sweep does with a socket now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Ping,
    Close(CloseReason),
    /// Close it, because a message did not arrive completely in time.
    Unfinished,
}

/// The time limits of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) ping_interval: Duration,
    pub(crate) ping_timeout: Duration,
    pub(crate) message_timeout: Duration,
}

/// The times that decide about one socket.
#[derive(Debug)]
pub(crate) struct Liveness {
    pinged: Instant,
    /// When the oldest ping without a pong was sent.
    unanswered: Option<Instant>,
    /// Since when a client message has been arriving.
    pub(crate) arriving: Option<Instant>,
    expires: Option<Instant>,
}

impl Liveness {
    pub(crate) const fn new(now: Instant, expires: Option<Instant>) -> Self {
        Self { pinged: now, unanswered: None, arriving: None, expires }
    }

    /// Returns what is due at `now`.
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

    /// Notes a pong, which answers all pings before it. Returns when the oldest of them was sent.
    pub(crate) const fn pong(&mut self) -> Option<Instant> {
        self.unanswered.take()
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
                let _ = liveness.pong();
            }
            assert_eq!(liveness.due(at(seconds), LIMITS), due, "at {seconds} s");
        }
    }

    #[test]
    fn a_client_that_answers_pings_stays_open() {
        check(None, &[(1, false, Due::Nothing), (15, false, Due::Ping), (29, true, Due::Nothing)]);
        check(
            None,
            &[(15, false, Due::Ping), (30, true, Due::Ping), (45, true, Due::Ping), (70, true, Due::Ping)],
        );
    }

    #[test]
    fn a_silent_client_is_closed_after_the_timeout() {
        let dead = Due::Close(CloseReason::NoPong);
        check(
            None,
            &[(15, false, Due::Ping), (30, false, Due::Ping), (44, false, Due::Nothing), (45, false, dead)],
        );
    }

    #[test]
    fn a_message_that_arrives_for_too_long_closes_the_socket() {
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
    fn an_expired_token_closes_the_socket() {
        check(Some(20), &[(15, false, Due::Ping), (20, true, Due::Close(CloseReason::TokenExpired))]);
    }
}
