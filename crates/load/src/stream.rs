//! One generation's events as they arrive: checked off in a ledger, their gaps measured.
//! It knows neither sockets nor whole queries, and keeps nothing a token.

use crate::socket::Arrival;
use measure::{BoundedSample, contents::ContentVerifier, nanos, record::Uncertainty};
use protocol::{Kind, Ledger, Observation};
use std::time::{Duration, Instant};

/// The events of one generation.
#[derive(Debug)]
pub struct Stream {
    /// 0: a server of the old contract, which numbers nothing.
    pub generation: u64,
    /// What came and what did not.
    pub ledger: Ledger,
    /// What it says, against the server's digest.
    pub contents: ContentVerifier,
    /// The beginning of its first frame, while it is unknown whose events these are.
    pub begun_with: Option<Box<str>>,
    /// The first token with text.
    pub first_token: Option<Instant>,
    /// The last token's arrival.
    pub last_token: Option<Arrival>,
    /// The terminator's arrival.
    pub done: Option<Instant>,
    /// How much earlier each of these may have come.
    pub first_uncertainty: Uncertainty,
    /// Of the last token.
    pub last_uncertainty: Uncertainty,
    /// Of the terminator.
    pub done_uncertainty: Uncertainty,
    /// Gaps over the limit.
    pub stall_count: u64,
    /// Their excess, summed.
    pub stall: Duration,
    /// An error terminator's text.
    pub error: Option<String>,
    /// An error terminator's code.
    pub error_code: Option<String>,
    /// Events behind the terminator's place, and terminators beyond the first.
    pub after_terminator: u64,
    /// The longest time between two events in a row.
    pub longest_gap: Option<Duration>,
    /// How much further apart two events in a row arrived than they were due, at most; nothing without due times.
    pub held_up: Duration,
    /// The last event's arrival, terminators included.
    pub last_event: Option<Instant>,
    /// When it was due.
    last_due_us: Option<u64>,
    /// Where the terminator is.
    terminator: Option<u64>,
    /// Up to here the gateway announced that something is missing.
    pub announced_gap: u64,
}

/// When the server says that an event was due and sent, in microseconds of wire time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamps {
    /// By the query's drawn schedule.
    pub due_us: Option<u64>,
    /// Handed to the bus.
    pub sent_us: Option<u64>,
    /// Whether a planned fault of its own server made it late; `None` in a run that plans no such fault.
    pub excused: Option<bool>,
}

impl Stamps {
    /// How late the simulator itself was.
    fn lateness(&self) -> Duration {
        let late_us = self.sent_us.zip(self.due_us).map_or(0, |(sent, due)| sent.saturating_sub(due));
        Duration::from_micros(late_us)
    }
}

/// What a token's arrival measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// To the event before, whatever it is; nothing before the first.
    pub silence: Option<Duration>,
    /// To the token before.
    pub itl: Option<BoundedSample>,
    /// Whether that is also the gap to the read before that carried tokens: once a read.
    pub is_frame_gap: bool,
}

impl Stream {
    /// Nothing came yet.
    #[must_use]
    pub fn new(generation: u64) -> Self {
        Self {
            generation,
            ledger: Ledger::default(),
            contents: ContentVerifier::default(),
            begun_with: None,
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

    /// Event `seq` arrived; without a number it is the next one. `None`: it came before.
    pub fn arrive(
        &mut self,
        seq: Option<u64>,
        kind: Kind,
        has_text: bool,
        stamps: Stamps,
        arrival: Arrival,
        stall_limit: Duration,
    ) -> Option<Gaps> {
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
        let gaps = Gaps { silence, ..Gaps::default() };
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
            return Some(Gaps { itl, ..gaps });
        }
        if let Some(excess) = gap.checked_sub(stall_limit).filter(|excess| !excess.is_zero()) {
            self.stall_count += 1;
            self.stall += excess;
        }
        Some(Gaps { itl, is_frame_gap: true, ..gaps })
    }

    /// How many events came out of order, and how many behind the terminator.
    #[must_use]
    pub const fn out_of_place(&self) -> (u64, u64) {
        (self.ledger.observed().events_reordered, self.after_terminator)
    }

    /// A generation has one terminator, and nothing behind it.
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

    /// Whether no event can be at `seq`: the terminator is before it.
    #[must_use]
    pub fn is_behind_terminator(&self, seq: u64) -> bool {
        self.terminator.is_some_and(|end| seq > end)
    }

    /// The highest sequence number below which nothing is missing.
    #[must_use]
    pub fn contiguous(&self) -> u64 {
        // With 0 tokens announced, what is missing below the highest is what is missing at all.
        let highest = self.ledger.highest();
        let holes = self.ledger.missing(0);
        holes
            .iter()
            .map(|hole| hole.first)
            .filter(|&first| first <= highest)
            .min()
            .map_or(highest, |first| first - 1)
    }

    /// Whether `seq` came.
    #[must_use]
    pub fn has(&self, seq: u64) -> bool {
        seq <= self.ledger.highest()
            && !self.ledger.missing(0).iter().any(|hole| (hole.first..=hole.last).contains(&seq))
    }
}

/// A gap between two tokens that may both have come earlier. The second did not overtake the first on its way.
fn between(gap: Duration, first: &Uncertainty, second: &Uncertainty) -> BoundedSample {
    let value = nanos(gap);
    let arrived = nanos(gap.saturating_sub(second.arrival));
    let low = |simulator: Duration| arrived.saturating_sub(nanos(simulator));
    BoundedSample {
        value,
        low: low(second.most().saturating_sub(second.arrival)),
        high: value.saturating_add(nanos(first.most())),
        unexcused: second.unexcused().map(|_| low(second.simulator)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(250);

    #[test]
    fn gaps_inside_a_read_are_none_and_the_whole_gap_lies_before() {
        let start = Instant::now();
        let mut stream = Stream::new(1);
        let mut token = |seq, millis, read| {
            let arrival = Arrival::exact(start + Duration::from_millis(millis), read);
            stream.arrive(Some(seq), Kind::Token, true, Stamps::default(), arrival, LIMIT)
        };
        let gap = |millis| Some(Duration::from_millis(millis));
        let itl = |millis: i64| Some(BoundedSample::exact(millis * 1_000_000));
        assert_eq!(token(1, 0, 1), Some(Gaps::default()));
        assert_eq!(token(2, 50, 2), Some(Gaps { silence: gap(50), itl: itl(50), is_frame_gap: true }));
        assert_eq!(token(3, 50, 2), Some(Gaps { silence: gap(0), itl: itl(0), is_frame_gap: false }));
        assert_eq!(token(3, 60, 3), None, "a duplicate has no gap");
        assert_eq!(token(4, 450, 4), Some(Gaps { silence: gap(400), itl: itl(400), is_frame_gap: true }));
        assert_eq!(stream.longest_gap, gap(400));
        assert_eq!((stream.stall_count, stream.stall), (1, Duration::from_millis(150)));
    }

    /// The truth is one of `first` and `second` sooner each; the second token never comes before the first.
    #[test]
    fn a_gap_errs_by_the_doubts_of_both_its_ends() {
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
    fn held_up_is_what_no_schedule_asked_for() {
        let start = Instant::now();
        let held_up = |events: &[(u64, Option<u64>)]| {
            let mut stream = Stream::new(1);
            for (n, &(millis, due)) in events.iter().enumerate() {
                let stamps = Stamps { due_us: due.map(|ms| ms * 1_000), ..Stamps::default() };
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
            "nobody knows when they were due"
        );
    }

    #[test]
    fn resumes_before_the_first_hole() {
        let arrival = Arrival::exact(Instant::now(), 1);
        let mut stream = Stream::new(1);
        assert_eq!(stream.contiguous(), 0);
        for seq in [1, 2, 5, 6] {
            stream.arrive(Some(seq), Kind::Token, true, Stamps::default(), arrival, LIMIT);
        }
        assert_eq!(stream.contiguous(), 2);
        assert!(stream.has(5) && !stream.has(4) && !stream.has(7));
        for seq in [3, 4] {
            stream.arrive(Some(seq), Kind::Token, true, Stamps::default(), arrival, LIMIT);
        }
        assert_eq!(stream.contiguous(), 6);
        stream.arrive(Some(7), Kind::Done, false, Stamps::default(), arrival, LIMIT);
        assert_eq!(stream.contiguous(), 7);
    }

    #[test]
    fn a_generation_has_one_terminator_and_nothing_behind_it() {
        use Kind::{Done, Error, Token};
        let after = |generation, events: &[(u64, Kind)]| {
            let mut stream = Stream::new(generation);
            let arrival = Arrival::exact(Instant::now(), 1);
            for &(seq, kind) in events {
                stream.arrive(Some(seq), kind, true, Stamps::default(), arrival, LIMIT);
            }
            stream.after_terminator
        };
        assert_eq!(after(1, &[(1, Token), (2, Token), (3, Done)]), 0);
        assert_eq!(after(1, &[(1, Token), (3, Done), (2, Token)]), 0, "late is not behind");
        assert_eq!(after(1, &[(1, Token), (2, Done), (3, Token)]), 1);
        assert_eq!(after(1, &[(1, Token), (2, Done), (3, Error), (4, Done)]), 2);
        assert_eq!(after(1, &[(1, Token), (3, Token), (2, Done)]), 1);
        assert_eq!(after(1, &[(1, Token), (3, Done), (2, Error)]), 1);
        assert_eq!(after(0, &[(1, Token), (2, Done), (3, Token)]), 1);
    }

    #[test]
    fn the_old_contract_numbers_nothing() {
        let arrival = Arrival::exact(Instant::now(), 1);
        let mut stream = Stream::new(0);
        for _ in 0..3 {
            stream.arrive(None, Kind::Token, true, Stamps::default(), arrival, LIMIT);
        }
        stream.arrive(None, Kind::Done, false, Stamps::default(), arrival, LIMIT);
        let tally = stream.ledger.observed();
        assert_eq!((tally.tokens_received, tally.events_received, tally.tokens_duplicated), (3, 4, 0));
    }
}
