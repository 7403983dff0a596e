//! The table of close reasons: code, text, metric label, and what the client does next. Gateway and client share it.

/// What the client does after a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAction {
    /// Stop: the session ended normally.
    Stop,
    /// Stop and count an error: the client broke a rule or lost its permission.
    StopAndReport,
    /// Reconnect with exponential backoff and resume.
    Reconnect,
    /// Reconnect after the delay that the close frame's text names, and resume.
    ReconnectWhenTold,
    /// Reconnect with a longer backoff and resume: the gateway is full.
    ReconnectLater,
}

/// Why the gateway closes a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The session was closed.
    SessionClosed,
    /// The client sent a binary frame.
    Binary,
    /// The client sent a text frame that is not UTF-8.
    BadUtf8,
    /// The client sent a frame that breaks a rule of RFC 6455.
    Protocol,
    /// The client sent a message longer than `MAX_MESSAGE_SIZE_BYTES`.
    TooLarge,
    /// The client violated a limit, for example on the rate of its messages.
    Policy,
    /// The gateway failed.
    Internal,
    /// The gateway is draining.
    Drain,
    /// The gateway is full.
    Full,
    /// Another connection took the session over.
    TakenOver,
    /// The client reads more slowly than the gateway sends.
    SlowConsumer,
    /// The client did not answer a ping in time.
    NoPong,
    /// The token expired while connected.
    TokenExpired,
}

impl CloseReason {
    /// Every reason, in the order of its code.
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

    /// Returns the close frame's code.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.row().0
    }

    /// Returns the close frame's default text.
    #[must_use]
    pub const fn text(self) -> &'static str {
        self.row().1
    }

    /// Returns the value of the label `reason` of the metric `wsproxy_closes_total`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        self.row().2
    }

    /// Returns what the client does next.
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

    /// Returns the reason of a code, or `None` if the table lacks it.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// Returns what a client does after a close frame with `code`, or after a connection that ended without one (`None`).
    #[must_use]
    pub fn action_for(code: Option<u16>) -> ClientAction {
        code.and_then(Self::from_code).map_or(ClientAction::Reconnect, Self::action)
    }

    /// Returns the text of a drain's close frame, which tells the client to reconnect after `reconnect_after_ms` milliseconds.
    #[must_use]
    pub fn drain_text(reconnect_after_ms: u64) -> String {
        format!("{}; reconnect_after_ms={reconnect_after_ms}", Self::Drain.text())
    }

    /// Reads the delay from the text of a drain's close frame, in milliseconds.
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
    fn each_code_has_one_reason() {
        for reason in CloseReason::ALL {
            assert_eq!(CloseReason::from_code(reason.code()), Some(reason));
        }
        assert_eq!(CloseReason::action_for(None), ClientAction::Reconnect);
        assert_eq!(CloseReason::action_for(Some(1006)), ClientAction::Reconnect);
        assert_eq!(CloseReason::action_for(Some(4001)), ClientAction::StopAndReport);
    }

    #[test]
    fn the_text_of_a_drain_carries_the_delay() {
        assert_eq!(CloseReason::reconnect_after_ms(&CloseReason::drain_text(1500)), Some(1500));
        assert_eq!(CloseReason::reconnect_after_ms("draining"), None);
        assert!(CloseReason::drain_text(u64::MAX).len() <= 123, "RFC 6455 allows 123 bytes");
    }
}
