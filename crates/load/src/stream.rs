//! The events of one generation: which of them arrived, and the times between them.
//! It stores no data per token.

use crate::socket::Arrival;
use measure::{BoundedSample, contents::ContentVerifier, nanos, record::Uncertainty};
use protocol::{Kind, Ledger, Observation};
use std::time::{Duration, Instant};

/// The events of one generation.
#[derive(Debug)]
pub struct Stream {
    /// The generation. 0: a server of the old contract, which does not number its events.
    pub generation: u64,
    /// The sequence numbers that arrived.
    pub ledger: Ledger,
    /// The contents so far, compared with the server's digest.
    pub contents: ContentVerifier,
    /// The start of the first frame, as long as it is unknown whether the generation belongs to the query.
    pub first_frame: Option<Box<str>>,
    /// Arrival of the first token with text.
    pub first_token: Option<Instant>,
    /// Arrival of the last token.
    pub last_token: Option<Arrival>,
    /// Arrival of the terminator.
    pub done: Option<Instant>,
    /// How much earlier the first token may have arrived.
    pub first_uncertainty: Uncertainty,
    /// How much earlier the last token may have arrived.
    pub last_uncertainty: Uncertainty,
    /// How much earlier the terminator may have arrived.
    pub done_uncertainty: Uncertainty,
    /// Number of gaps between tokens above the stall threshold.
    pub stall_count: u64,
    /// Sum of the time by which these gaps exceed the threshold.
    pub stall: Duration,
    /// Text of the error terminator.
    pub error: Option<String>,
    /// Code of the error terminator.
    pub error_code: Option<String>,
    /// Number of events after the terminator, including further terminators.
    pub after_terminator: u64,
    /// The longest time between two consecutive events.
    pub longest_gap: Option<Duration>,
    /// The largest delay between two consecutive events: the time between their arrivals minus the time between their due
    /// times. 0 without due times.
    pub held_up: Duration,
    /// Arrival of the last event, terminators included.
    pub last_event: Option<Instant>,
    /// Due time of the last event in microseconds of wire time.
    last_due_us: Option<u64>,
    /// Sequence number of the first terminator.
    terminator: Option<u64>,
    /// The highest sequence number that the gateway announced as undeliverable.
    pub announced_gap: u64,
}

/// When an event was due and sent according to the server, in microseconds of wire time.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerTimes {
    /// When it was due by the query's drawn schedule.
    pub due_us: Option<u64>,
    /// When the simulator handed it to the bus.
    pub sent_us: Option<u64>,
    /// Whether a planned fault of the query's server made it late. `None` if the run plans no such fault.
    pub excused: Option<bool>,
}

impl ServerTimes {
    /// Returns how late the simulator was.
    fn lateness(&self) -> Duration {
        let late_us = self.sent_us.zip(self.due_us).map_or(0, |(sent, due)| sent.saturating_sub(due));
        Duration::from_micros(late_us)
    }
}

/// The times between an event and the previous ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenIntervals {
    /// Time since the previous event of any kind. `None` for the first event.
    pub silence: Option<Duration>,
    /// Time since the previous token. `None` for the first token and for terminators.
    pub itl: Option<BoundedSample>,
    /// Whether `itl` is also the time since the previous read that carried tokens. True at most once per read.
    pub is_frame_gap: bool,
}

impl Stream {
    /// Creates a stream without events.
    #[must_use]
    pub fn new(generation: u64) -> Self {
        Self {
            generation,
            ledger: Ledger::default(),
            contents: ContentVerifier::default(),
            first_frame: None,
            first_token: None,
            last_token: None,
            done: None,
            first_uncertainty: Uncertainty::default(),
            last_uncertainty: Uncertainty::default(),
            done_uncertainty: Uncertainty::default(),
            stall_count: 0,
            stall: Duration::ZERO,
            error: None,
            error_code: None,
            after_terminator: 0,
            longest_gap: None,
            held_up: Duration::ZERO,
            last_event: None,
            last_due_us: None,
            terminator: None,
            announced_gap: 0,
        }
    }

    /// Adds event `seq`, or the next event if it has no number. Returns `None` if the event arrived before.
    pub fn arrive(
        &mut self,
        seq: Option<u64>,
        kind: Kind,
        has_text: bool,
        stamps: ServerTimes,
        arrival: Arrival,
        stall_limit: Duration,
    ) -> Option<TokenIntervals> {
        let highest = self.ledger.highest();
        let seq = seq.unwrap_or_else(|| highest.saturating_add(1));
        if self.ledger.observe(seq, kind, stamps.sent_us) == Observation::Duplicate {
            return None;
        }
        self.check_terminator(seq, kind, highest);
        let before = self.last_event.replace(arrival.at);
        let silence = before.map(|before| arrival.at.saturating_duration_since(before));
        self.longest_gap = self.longest_gap.max(silence);
        let due_before = std::mem::replace(&mut self.last_due_us, stamps.due_us);
        if let (Some(silence), Some(before), Some(due)) = (silence, due_before, stamps.due_us) {
            let planned = Duration::from_micros(due.saturating_sub(before));
            self.held_up = self.held_up.max(silence.saturating_sub(planned));
        }
        let gaps = TokenIntervals { silence, ..TokenIntervals::default() };
        let uncertainty =
            Uncertainty { arrival: arrival.slack, simulator: stamps.lateness(), excused: stamps.excused };
        if kind.is_terminator() {
            if self.done.is_none() {
                (self.done, self.done_uncertainty) = (Some(arrival.at), uncertainty);
            }
            return Some(gaps);
        }
        if has_text && self.first_token.is_none() {
            (self.first_token, self.first_uncertainty) = (Some(arrival.at), uncertainty);
        }
        let uncertainty_before = std::mem::replace(&mut self.last_uncertainty, uncertainty);
        let Some(before) = self.last_token.replace(arrival) else { return Some(gaps) };
        let gap = arrival.at.saturating_duration_since(before.at);
        let itl = Some(between(gap, &uncertainty_before, &uncertainty));
        if before.read == arrival.read {
            return Some(TokenIntervals { itl, ..gaps });
        }
        if let Some(excess) = gap.checked_sub(stall_limit).filter(|excess| !excess.is_zero()) {
            self.stall_count += 1;
            self.stall += excess;
        }
        Some(TokenIntervals { itl, is_frame_gap: true, ..gaps })
    }

    /// Adds event `seq` of a dialect that numbers every event, if it is neither a token nor a terminator. Returns false if it arrived
    /// before.
    pub fn other(&mut self, seq: u64, arrival: Arrival) -> bool {
        if self.ledger.observe_other(seq, None) == Observation::Duplicate {
            return false;
        }
        // A digest needs the numbers of the tokens alone. The server repeats the text instead.
        self.contents.give_up();
        self.after_terminator += u64::from(self.is_behind_terminator(seq));
        let before = self.last_event.replace(arrival.at);
        self.longest_gap =
            self.longest_gap.max(before.map(|before| arrival.at.saturating_duration_since(before)));
        true
    }

    /// Returns the number of events that arrived out of order, and the number of events after the terminator.
    #[must_use]
    pub const fn out_of_place(&self) -> (u64, u64) {
        (self.ledger.observed().events_reordered, self.after_terminator)
    }

    /// Counts events after the terminator: a generation has one terminator and no event after it.
    fn check_terminator(&mut self, seq: u64, kind: Kind, highest: u64) {
        match self.terminator {
            Some(end) => self.after_terminator += u64::from(seq > end || kind.is_terminator()),
            None if kind.is_terminator() => {
                self.terminator = Some(seq);
                self.after_terminator += u64::from(highest > seq);
            }
            None => {}
        }
    }

    /// Returns whether `seq` is after the terminator, where no event may be.
    #[must_use]
    pub fn is_behind_terminator(&self, seq: u64) -> bool {
        self.terminator.is_some_and(|end| seq > end)
    }

    /// Returns the highest sequence number up to which every event arrived.
    #[must_use]
    pub fn contiguous(&self) -> u64 {
        // 0 announced tokens: then only the holes below the highest number count as missing.
        let highest = self.ledger.highest();
        let holes = self.ledger.missing(0);
        holes
            .iter()
            .map(|hole| hole.first)
            .filter(|&first| first <= highest)
            .min()
            .map_or(highest, |first| first - 1)
    }

    /// Returns whether event `seq` arrived.
    #[must_use]
    pub fn has(&self, seq: u64) -> bool {
        seq <= self.ledger.highest()
            && !self.ledger.missing(0).iter().any(|hole| (hole.first..=hole.last).contains(&seq))
    }
}

/// Returns the gap between two tokens that may both have arrived earlier. The second one did not overtake the first one.
fn between(gap: Duration, first: &Uncertainty, second: &Uncertainty) -> BoundedSample {
    let value = nanos(gap);
    let arrived = nanos(gap.saturating_sub(second.arrival));
    let low = |simulator: Duration| arrived.saturating_sub(nanos(simulator));
    BoundedSample {
        value,
        low: low(second.total().saturating_sub(second.arrival)),
        high: value.saturating_add(nanos(first.total())),
        unexcused: second.unexcused().map(|_| low(second.simulator)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(250);

    #[test]
    fn tokens_of_one_read_have_no_gap_and_the_first_one_has_the_whole_gap() {
        let start = Instant::now();
        let mut stream = Stream::new(1);
        let mut token = |seq, millis, read| {
            let arrival = Arrival::exact(start + Duration::from_millis(millis), read);
            stream.arrive(Some(seq), Kind::Token, true, ServerTimes::default(), arrival, LIMIT)
        };
        let gap = |millis| Some(Duration::from_millis(millis));
        let itl = |millis: i64| Some(BoundedSample::exact(millis * 1_000_000));
        assert_eq!(token(1, 0, 1), Some(TokenIntervals::default()));
        assert_eq!(
            token(2, 50, 2),
            Some(TokenIntervals { silence: gap(50), itl: itl(50), is_frame_gap: true })
        );
        assert_eq!(
            token(3, 50, 2),
            Some(TokenIntervals { silence: gap(0), itl: itl(0), is_frame_gap: false })
        );
        assert_eq!(token(3, 60, 3), None, "a duplicate has no intervals");
        assert_eq!(
            token(4, 450, 4),
            Some(TokenIntervals { silence: gap(400), itl: itl(400), is_frame_gap: true })
        );
        assert_eq!(stream.longest_gap, gap(400));
        assert_eq!((stream.stall_count, stream.stall), (1, Duration::from_millis(150)));
    }

    /// Both tokens may have arrived earlier by their uncertainty, but the second one never before the first one.
    #[test]
    fn a_gap_has_the_uncertainties_of_both_tokens() {
        let ms = Duration::from_millis;
        let uncertainty = |arrival, simulator, excused| Uncertainty {
            arrival: ms(arrival),
            simulator: ms(simulator),
            excused,
        };
        let none = Uncertainty::default();
        for (gap, first, second, low, high, unexcused) in [
            (50, none, none, 50, 50, None),
            (0, uncertainty(30, 0, None), none, 0, 30, None),
            (50, none, uncertainty(30, 0, None), 20, 50, None),
            (0, uncertainty(30, 0, None), uncertainty(30, 0, None), 0, 30, None),
            (50, uncertainty(0, 3, None), uncertainty(0, 9, None), 41, 53, None),
            (50, uncertainty(0, 3, Some(false)), uncertainty(1, 9, Some(false)), 40, 53, Some(40)),
            (50, uncertainty(0, 3, Some(true)), uncertainty(1, 900, Some(true)), 49, 50, Some(-851)),
        ] {
            let found = between(ms(gap), &first, &second);
            let expected = BoundedSample {
                value: i64::try_from(gap).unwrap() * 1_000_000,
                low: low * 1_000_000,
                high: high * 1_000_000,
                unexcused: unexcused.map(|unexcused: i64| unexcused * 1_000_000),
            };
            assert_eq!(found, expected, "{gap} {first:?} {second:?}");
        }
    }

    #[test]
    fn held_up_is_the_delay_beyond_the_schedule() {
        let start = Instant::now();
        let held_up = |events: &[(u64, Option<u64>)]| {
            let mut stream = Stream::new(1);
            for (n, &(millis, due)) in events.iter().enumerate() {
                let stamps = ServerTimes { due_us: due.map(|ms| ms * 1_000), ..ServerTimes::default() };
                let arrival = Arrival::exact(start + Duration::from_millis(millis), n as u64);
                stream.arrive(Some(n as u64 + 1), Kind::Token, true, stamps, arrival, LIMIT);
            }
            stream.held_up.as_millis()
        };
        assert_eq!(
            held_up(&[(5, Some(0)), (905, Some(900)), (1_005, Some(1_000))]),
            0,
            "a long gap was drawn"
        );
        assert_eq!(held_up(&[(5, Some(0)), (905, Some(50)), (905, Some(100)), (955, Some(150))]), 850);
        assert_eq!(
            held_up(&[(0, None), (900, None), (1_900, Some(0))]),
            0,
            "without due times there is no delay"
        );
    }

    #[test]
    fn resumes_before_the_first_hole() {
        let arrival = Arrival::exact(Instant::now(), 1);
        let mut stream = Stream::new(1);
        assert_eq!(stream.contiguous(), 0);
        for seq in [1, 2, 5, 6] {
            stream.arrive(Some(seq), Kind::Token, true, ServerTimes::default(), arrival, LIMIT);
        }
        assert_eq!(stream.contiguous(), 2);
        assert!(stream.has(5) && !stream.has(4) && !stream.has(7));
        for seq in [3, 4] {
            stream.arrive(Some(seq), Kind::Token, true, ServerTimes::default(), arrival, LIMIT);
        }
        assert_eq!(stream.contiguous(), 6);
        stream.arrive(Some(7), Kind::Done, false, ServerTimes::default(), arrival, LIMIT);
        assert_eq!(stream.contiguous(), 7);
    }

    #[test]
    fn a_generation_has_one_terminator_and_no_event_after_it() {
        use Kind::{Done, Error, Token};
        let after = |generation, events: &[(u64, Kind)]| {
            let mut stream = Stream::new(generation);
            let arrival = Arrival::exact(Instant::now(), 1);
            for &(seq, kind) in events {
                stream.arrive(Some(seq), kind, true, ServerTimes::default(), arrival, LIMIT);
            }
            stream.after_terminator
        };
        assert_eq!(after(1, &[(1, Token), (2, Token), (3, Done)]), 0);
        assert_eq!(after(1, &[(1, Token), (3, Done), (2, Token)]), 0, "a late event before the terminator");
        assert_eq!(after(1, &[(1, Token), (2, Done), (3, Token)]), 1);
        assert_eq!(after(1, &[(1, Token), (2, Done), (3, Error), (4, Done)]), 2);
        assert_eq!(after(1, &[(1, Token), (3, Token), (2, Done)]), 1);
        assert_eq!(after(1, &[(1, Token), (3, Done), (2, Error)]), 1);
        assert_eq!(after(0, &[(1, Token), (2, Done), (3, Token)]), 1);
    }

    #[test]
    fn events_of_the_old_contract_have_no_numbers() {
        let arrival = Arrival::exact(Instant::now(), 1);
        let mut stream = Stream::new(0);
        for _ in 0..3 {
            stream.arrive(None, Kind::Token, true, ServerTimes::default(), arrival, LIMIT);
        }
        stream.arrive(None, Kind::Done, false, ServerTimes::default(), arrival, LIMIT);
        let tally = stream.ledger.observed();
        assert_eq!((tally.tokens_received, tally.events_received, tally.tokens_duplicated), (3, 4, 0));
    }
}
