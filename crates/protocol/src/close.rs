//! Why a socket is closed: one table from the reason to its code, its text, its metric label
//! and what the client does next. Both ends read it, so they cannot disagree.

/// What the client does after its socket was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAction {
    /// The session is over; nothing to report.
    Stop,
    /// The session is over, and its client was at fault or locked out: count it as an error.
    StopAndReport,
    /// Reconnect with exponential backoff and resume.
    Reconnect,
    /// Reconnect after the delay that the reason carries, and resume.
    ReconnectWhenTold,
    /// Reconnect with a longer backoff and resume: the gateway is full.
    ReconnectLater,
}

/// Why the gateway closes a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The session was closed.
    SessionClosed,
    /// A binary frame came.
    Binary,
    /// A text frame was not UTF-8.
    BadUtf8,
    /// A frame broke a rule of the protocol.
    Protocol,
    /// A message was over `MAX_MESSAGE_SIZE_BYTES`.
    TooLarge,
    /// A policy was violated.
    Policy,
    /// The gateway's own fault.
    Internal,
    /// The gateway drains.
    Drain,
    /// The gateway is full.
    Full,
    /// Another connection took the session over.
    TakenOver,
    /// The client reads slower than its stream writes.
    SlowConsumer,
    /// No pong came in time.
    NoPong,
    /// The token expired while connected.
    TokenExpired,
}

impl CloseReason {
    /// Every reason, in the order of their codes.
    pub const ALL: [Self; 13] = [
        Self::SessionClosed,
        Self::Protocol,
        Self::Binary,
        Self::BadUtf8,
        Self::Policy,
        Self::TooLarge,
        Self::Internal,
        Self::Drain,
        Self::Full,
        Self::TakenOver,
        Self::SlowConsumer,
        Self::NoPong,
        Self::TokenExpired,
    ];

    const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::SessionClosed => (1000, "session closed", "session_closed"),
            Self::Protocol => (1002, "protocol error", "protocol"),
            Self::Binary => (1003, "binary frames are not accepted", "binary"),
            Self::BadUtf8 => (1007, "text is not valid UTF-8", "bad_utf8"),
            Self::Policy => (1008, "policy violated", "policy"),
            Self::TooLarge => (1009, "message too large", "too_large"),
            Self::Internal => (1011, "internal error", "internal"),
            Self::Drain => (1012, "draining", "drain"),
            Self::Full => (1013, "full, try again later", "full"),
            Self::TakenOver => (4001, "another connection took the session over", "taken_over"),
            Self::SlowConsumer => (4002, "slow consumer", "slow_consumer"),
            Self::NoPong => (4003, "no pong", "no_pong"),
            Self::TokenExpired => (4004, "token expired", "token_expired"),
        }
    }

    /// The close frame's code.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.row().0
    }

    /// The close frame's text.
    #[must_use]
    pub const fn text(self) -> &'static str {
        self.row().1
    }

    /// The label of the metric `wsproxy_closes_total`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        self.row().2
    }

    /// What the client does next.
    #[must_use]
    pub const fn action(self) -> ClientAction {
        match self {
            Self::SessionClosed => ClientAction::Stop,
            Self::Protocol
            | Self::Binary
            | Self::BadUtf8
            | Self::TooLarge
            | Self::Policy
            | Self::TakenOver
            | Self::TokenExpired => ClientAction::StopAndReport,
            Self::Internal | Self::SlowConsumer | Self::NoPong => ClientAction::Reconnect,
            Self::Drain => ClientAction::ReconnectWhenTold,
            Self::Full => ClientAction::ReconnectLater,
        }
    }

    /// The reason behind a code; `None` for a code that is not in the table.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// What a client does after a close frame with `code`, or after none at all.
    #[must_use]
    pub fn action_for(code: Option<u16>) -> ClientAction {
        code.and_then(Self::from_code).map_or(ClientAction::Reconnect, Self::action)
    }

    /// The text of a drain's close frame: when to come back.
    #[must_use]
    pub fn drain_text(reconnect_after_ms: u64) -> String {
        format!("{}; reconnect_after_ms={reconnect_after_ms}", Self::Drain.text())
    }

    /// Reads the delay out of a drain's text, in milliseconds.
    #[must_use]
    pub fn reconnect_after_ms(text: &str) -> Option<u64> {
        let (_, value) = text.split_once("reconnect_after_ms=")?;
        value.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_lead_back() {
        for reason in CloseReason::ALL {
            assert_eq!(CloseReason::from_code(reason.code()), Some(reason));
        }
        assert_eq!(CloseReason::action_for(None), ClientAction::Reconnect);
        assert_eq!(CloseReason::action_for(Some(1006)), ClientAction::Reconnect);
        assert_eq!(CloseReason::action_for(Some(4001)), ClientAction::StopAndReport);
    }

    #[test]
    fn a_drain_says_when_to_come_back() {
        assert_eq!(CloseReason::reconnect_after_ms(&CloseReason::drain_text(1500)), Some(1500));
        assert_eq!(CloseReason::reconnect_after_ms("draining"), None);
        assert!(CloseReason::drain_text(u64::MAX).len() <= 123, "a close reason has 123 bytes at most");
    }
}
