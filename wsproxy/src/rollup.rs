//! The rollup of one socket: tokens that come soon after the last frame wait, and become one frame. It is pure: the outbox reads the
//! clock, writes, and is reminded.
//!
//! Tokens go to a *window*, which ends one window length after the last frame. Without a window, a token that comes later than that is
//! sent at once, so that a slow stream is not delayed. These invariants hold:
//! - what is sent is what came, in order: an event that does not join the window is sent behind it, as it came;
//! - no token waits beyond the end of the window that it joined, which is at most one window length after it came;
//! - a window is bounded in tokens and in bytes, and those bytes count against the outbox's limit;
//! - an idle socket has no window, and at most one reminder is scheduled for a socket.

use protocol::{Kind, Position, Prefix, RolledTokens, TokenPieces};
use std::time::{Duration, Instant};

/// Largest number of tokens in a frame.
const MAX_TOKENS: u64 = 128;
/// Largest size of a window in bytes of the tokens' own frames, which are larger than the rolled frame.
const MAX_BYTES: usize = 16 << 10;

/// The lengths of a window that a client may ask for, in milliseconds.
pub(crate) const WINDOW_MS: std::ops::RangeInclusive<u16> = 1..=1000;

/// The rollup of one socket.
#[derive(Debug)]
pub(crate) struct Rollup {
    length: Duration,
    /// The bound of a window, in bytes.
    limit: usize,
    /// When the last frame was sent.
    last: Option<Instant>,
    window: Option<RolledTokens>,
    /// Bytes of the frames of the tokens in the window.
    bytes: usize,
    /// A reminder is scheduled.
    is_reminded: bool,
}

/// What to do with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send the window, if there is one, then the event as it came.
    Send,
    /// Nothing: the event joined the window.
    Wait,
    /// The event began a window. Schedule a reminder at this instant.
    Remind(Instant),
    /// The event joined the window, and the window is due. Send it.
    SendWindow,
}

/// What is due when a reminder fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reminded {
    /// Nothing: the window was sent meanwhile.
    Nothing,
    /// Another reminder at this instant: the window is a later one.
    Later(Instant),
    /// The window.
    Due,
}

/// A window as a frame.
#[derive(Debug)]
pub(crate) struct RolledFrame {
    pub(crate) payload: Vec<u8>,
    /// The position of the last token.
    pub(crate) position: Position,
    pub(crate) tokens: u64,
}

impl Rollup {
    /// Creates a rollup with windows of this length, for an outbox with a limit of `outbox_bytes`.
    pub(crate) const fn new(length: Duration, outbox_bytes: usize) -> Self {
        // A window may wait beside a queue that is half full, and a page of the log must fit besides.
        let limit = if outbox_bytes / 4 < MAX_BYTES { outbox_bytes / 4 } else { MAX_BYTES };
        Self { length, limit, last: None, window: None, bytes: 0, is_reminded: false }
    }

    /// Returns the bytes of the window that count against the outbox's limit, which are at least those of its frame.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes an event that came at `now`.
    pub(crate) fn push(&mut self, event: Prefix, frame: &[u8], now: Instant) -> Step {
        let may_wait = event.kind == Kind::Token && event.position.seq > 1 && frame.len() < self.limit;
        let token = may_wait.then(|| TokenPieces::split(frame)).flatten();
        let due = self.due(now);
        let Some(token) = token else { return self.send(now) };
        match &mut self.window {
            Some(window) => {
                if !window.push(token) {
                    return self.send(now);
                }
                self.bytes += frame.len();
                let is_full = window.count() >= MAX_TOKENS || self.bytes >= self.limit;
                if is_full || now >= due { Step::SendWindow } else { Step::Wait }
            }
            None if now >= due => self.send(now),
            None => {
                self.window = Some(RolledTokens::new(token));
                self.bytes = frame.len();
                if std::mem::replace(&mut self.is_reminded, true) { Step::Wait } else { Step::Remind(due) }
            }
        }
    }

    const fn send(&mut self, now: Instant) -> Step {
        self.last = Some(now);
        Step::Send
    }

    /// Returns the end of a window that is or would be open at `now`.
    fn due(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| last + self.length)
    }

    /// Takes the window out, which is sent at `now`.
    pub(crate) fn take(&mut self, now: Instant) -> Option<RolledFrame> {
        let window = self.clear()?;
        self.last = Some(now);
        Some(RolledFrame { payload: window.encode(), position: window.last(), tokens: window.count() })
    }

    /// Drops the window and returns it.
    pub(crate) fn clear(&mut self) -> Option<RolledTokens> {
        self.bytes = 0;
        self.window.take()
    }

    /// Handles a reminder.
    pub(crate) fn reminded(&mut self, now: Instant) -> Reminded {
        let due = self.due(now);
        self.is_reminded = self.window.is_some() && now < due;
        match &self.window {
            None => Reminded::Nothing,
            Some(_) if now < due => Reminded::Later(due),
            Some(_) => Reminded::Due,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::{Frame, encode_done, encode_token};

    const WINDOW: Duration = Duration::from_millis(40);
    const LIMIT: usize = 64 << 10;

    fn event(generation: u64, seq: u64, kind: Kind, content: &str) -> (Prefix, Vec<u8>) {
        let (position, mut frame) = (Position::new(generation, seq), Vec::new());
        match kind {
            Kind::Done => encode_done(&mut frame, position, "q", seq, seq + 1),
            _ => encode_token(&mut frame, position, content, "q", seq, seq + 1),
        }
        (Prefix { position, kind }, frame)
    }

    /// A rollup with the clock and the wire that the outbox has.
    struct Rig {
        rollup: Rollup,
        now: Instant,
        reminder: Option<Instant>,
        wire: Vec<Vec<u8>>,
        /// When each event that waits came.
        waiting: Vec<Instant>,
    }

    impl Rig {
        fn new(limit: usize) -> Self {
            let rollup = Rollup::new(WINDOW, limit);
            Self { rollup, now: Instant::now(), reminder: None, wire: Vec::new(), waiting: Vec::new() }
        }

        fn flush(&mut self) {
            let cost = self.rollup.bytes();
            if let Some(frame) = self.rollup.take(self.now) {
                assert_eq!(frame.tokens, self.waiting.len() as u64);
                assert!(frame.payload.len() <= cost, "{} bytes in a window of {cost}", frame.payload.len());
                self.wire.push(frame.payload);
            }
            self.waiting.clear();
        }

        fn event(&mut self, (prefix, frame): (Prefix, Vec<u8>)) {
            match self.rollup.push(prefix, &frame, self.now) {
                Step::Send => {
                    self.flush();
                    self.wire.push(frame);
                    return;
                }
                Step::Remind(at) => assert_eq!(self.reminder.replace(at), None, "one reminder at a time"),
                Step::Wait | Step::SendWindow if self.waiting.is_empty() => assert!(self.reminder.is_some()),
                Step::Wait => {}
                Step::SendWindow => {
                    self.waiting.push(self.now);
                    return self.flush();
                }
            }
            self.waiting.push(self.now);
        }

        /// Lets time pass, and fires the reminder as soon as it is due.
        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            while let Some(at) = self.reminder.filter(|&at| at <= end) {
                self.now = self.now.max(at);
                self.reminder = None;
                match self.rollup.reminded(self.now) {
                    Reminded::Nothing => assert!(self.waiting.is_empty()),
                    Reminded::Later(at) => self.reminder = Some(at),
                    Reminded::Due => self.flush(),
                }
            }
            self.now = end;
        }

        fn ms(&mut self, ms: u64) -> &mut Self {
            self.pass(Duration::from_millis(ms));
            self
        }

        /// Returns the number of tokens in each frame since the last call.
        fn counts(&mut self) -> Vec<usize> {
            self.wire.drain(..).map(|frame| expanded(&frame).len()).collect()
        }
    }

    /// Returns the events of a frame, encoded one by one.
    fn expanded(frame: &[u8]) -> Vec<Vec<u8>> {
        let text = std::str::from_utf8(frame).unwrap();
        let Ok(Frame::Tokens(tokens)) = Frame::parse(text) else { return vec![frame.to_vec()] };
        let encode = |event: protocol::Event<'_>| {
            let mut out = Vec::new();
            let (query_id, due_us, sent_us) =
                (event.query_id.unwrap(), event.due_us.unwrap(), event.sent_us.unwrap());
            encode_token(&mut out, event.position.unwrap(), &event.content, &query_id, due_us, sent_us);
            out
        };
        tokens.events().map(encode).collect()
    }

    fn token(seq: u64) -> (Prefix, Vec<u8>) {
        event(7, seq, Kind::Token, "word ")
    }

    #[test]
    fn tokens_of_a_window_are_one_frame_and_the_first_and_the_end_do_not_wait() {
        let mut rig = Rig::new(LIMIT);
        rig.event(token(1));
        assert_eq!(rig.counts(), [1], "the first at once");
        for seq in 2..=4 {
            rig.ms(10).event(token(seq));
        }
        assert_eq!(rig.counts(), [0; 0]);
        rig.ms(10);
        assert_eq!(rig.counts(), [3]);
        rig.event(token(5));
        rig.ms(1).event(event(7, 6, Kind::Done, ""));
        assert_eq!(rig.counts(), [1, 1], "a single token has a plain frame, and the end follows it at once");
        rig.event(event(8, 1, Kind::Token, "next "));
        assert_eq!(rig.counts(), [1]);
        rig.ms(1000);
        assert_eq!((rig.reminder, rig.rollup.bytes(), rig.counts()), (None, 0, vec![]), "idle");
    }

    #[test]
    fn a_slow_stream_is_not_delayed() {
        let mut rig = Rig::new(LIMIT);
        for seq in 1..=5 {
            rig.event(token(seq));
            assert_eq!(rig.counts(), [1]);
            assert_eq!(rig.reminder, None);
            rig.ms(41);
        }
    }

    #[test]
    fn a_token_that_comes_after_a_late_reminder_is_sent_with_what_waits() {
        let mut rig = Rig::new(LIMIT);
        rig.event(token(1));
        rig.event(token(2));
        rig.now += Duration::from_millis(50);
        rig.event(token(3));
        assert_eq!(rig.counts(), [1, 2]);
    }

    #[test]
    fn a_window_is_bounded() {
        let mut rig = Rig::new(LIMIT);
        (1..=300).for_each(|seq| rig.event(token(seq)));
        assert_eq!(rig.counts(), [1, 128, 128]);
        rig.ms(40);
        assert_eq!(rig.counts(), [43]);
        let large = |seq| event(7, seq, Kind::Token, &"x".repeat(6000));
        (301..=307).for_each(|seq| rig.event(large(seq)));
        assert_eq!(rig.counts(), [3, 3]);
        let huge = event(7, 308, Kind::Token, &"x".repeat(17_000));
        rig.event(huge);
        assert_eq!(rig.counts(), [1, 1], "what is larger than a window does not wait");
    }

    #[test]
    fn a_token_with_a_field_that_a_rolled_frame_lacks_goes_alone() {
        let mut rig = Rig::new(LIMIT);
        (1..=3).for_each(|seq| rig.event(token(seq)));
        let other = br#"{"id":"7-4","type":"token","content":"a","logprob":-1}"#.to_vec();
        let position = Position::new(7, 4);
        rig.event((Prefix { position, kind: Kind::Token }, other.clone()));
        assert_eq!(rig.wire.last(), Some(&other));
        assert_eq!(rig.counts(), [1, 2, 1]);
    }

    #[derive(Clone, Debug)]
    enum Act {
        Token {
            length: usize,
        },
        Done,
        /// The lane skips positions, for example after a gap.
        Skip,
        /// Another frame is sent, which flushes.
        Other,
        Pass(u64),
        /// The event loop is late: time passes, and no reminder fires.
        Late(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            8 => prop_oneof![4 => 0usize..8, 1 => 0usize..900].prop_map(|length| Act::Token { length }),
            1 => Just(Act::Done),
            1 => Just(Act::Skip),
            1 => Just(Act::Other),
            6 => (0u64..60_000).prop_map(Act::Pass),
            1 => (0u64..60_000).prop_map(Act::Late),
        ]
    }

    proptest! {
        /// For any events and ticks, the frames have the events in order, and none waits longer than the window unless the reminder is
        /// late.
        #[test]
        fn frames_have_exactly_the_events(limit in 400usize..8000, acts in proptest::collection::vec(act(), 0..120)) {
            let mut rig = Rig::new(limit);
            let (mut generation, mut seq, mut sent) = (7, 0, Vec::new());
            let mut late = Duration::ZERO;
            for act in acts {
                match act {
                    Act::Token { length } => {
                        seq += 1;
                        let event = event(generation, seq, Kind::Token, &"é".repeat(length));
                        sent.push(event.1.clone());
                        rig.event(event);
                        if seq == 1 { prop_assert!(rig.waiting.is_empty()); }
                    }
                    Act::Done => {
                        let event = event(generation, seq + 1, Kind::Done, "");
                        sent.push(event.1.clone());
                        rig.event(event);
                        prop_assert!(rig.waiting.is_empty());
                        (generation, seq) = (generation + 1, 0);
                    }
                    Act::Skip => seq += 2,
                    Act::Other => rig.flush(),
                    Act::Pass(us) => rig.pass(Duration::from_micros(us)),
                    Act::Late(us) => {
                        late += Duration::from_micros(us);
                        rig.now += Duration::from_micros(us);
                    }
                }
                for came in &rig.waiting {
                    prop_assert!(rig.now < *came + WINDOW + late);
                }
                prop_assert_eq!(rig.rollup.bytes() == 0, rig.waiting.is_empty());
                prop_assert!(rig.rollup.bytes() < (limit / 4).max(1), "{} bytes wait", rig.rollup.bytes());
                prop_assert!(rig.waiting.is_empty() || rig.reminder.is_some());
            }
            rig.pass(WINDOW);
            prop_assert!(rig.waiting.is_empty());
            let received: Vec<_> = rig.wire.iter().flat_map(|frame| expanded(frame)).collect();
            prop_assert_eq!(received, sent);
        }
    }
}
