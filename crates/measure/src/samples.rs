//! Samples of one running query, kept until its end because only samples of complete queries count.
//! They also hold when each token arrived, from which the query's timeline is made.

use super::{Hop, HopSplit, ImpossibleTimes, Interval, Metric, bounds::BoundedSample};
use std::time::Duration;

/// Nanoseconds of the unit to which samples are rounded: a microsecond, the resolution of the histograms.
const UNIT_NS: i64 = 1_000;
/// Size of the first allocation and smallest growth, in bytes.
const MIN_GROWTH: usize = 64;

/// A record's tag: a gap between two tokens of one read.
const ITL: u8 = 0;
/// A gap between two tokens, which is also the gap between two reads.
const ITL_AND_FRAME_GAP: u8 = 1;
/// Flag for the tags of gaps: an unexcused lower bound follows.
const UNEXCUSED: u8 = 2;
const DELIVERY: u8 = 4;
const REPLAY_DELIVERY: u8 = 5;
/// The hops of a sampled token, with flags: which hops are missing, and whether a time was moved.
const HOPS: u8 = 8;
const NO_BUS: u8 = 1;
const NO_NETWORK: u8 = 2;
const CLAMPED: u8 = 4;
/// A sampled token whose times contradict each other.
const IMPOSSIBLE_HOPS: u8 = 16;
/// What only a timeline uses: when the first token arrived, in microseconds after the due instant.
const FIRST: u8 = 32;
/// The next token is this far from the expected position.
const JUMP: u8 = 33;
/// A gap between two tokens that is not a sample.
const UNSAMPLED_GAP: u8 = 34;
/// The next delivery or hops belong to the token with this number, from 0.
const OF_EARLIER: u8 = 35;

/// Bytes that are kept for the timeline after a query's samples were given up.
const ROOM_AFTER_DEFECT: u16 = 4_096;

/// A token at its first arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimedToken {
    /// Sequence number.
    pub seq: u64,
    /// Arrival, in microseconds after the due instant of the query.
    pub at_us: i64,
    /// Time from the server's sending to the arrival in microseconds, if both use one clock.
    pub delivery_us: Option<i64>,
    /// Whether it was sent before its socket was opened, and waited for that.
    pub is_replay: bool,
    /// Its time by hop, if it was sampled.
    pub hops: Option<HopSplit>,
}

/// The samples of a query, packed: a tag and numbers of variable length in whole microseconds.
///
/// Memory: a token takes 8 to 10 bytes as a rule (a tag, 1 to 3 bytes for the gap, one for each of its bounds; a tag and
/// 1 to 3 bytes for the delivery), at most 42, a sampled token 5 to 13 bytes more for its hops, and a quarter of that may be spare. 10,000 queries of 500 tokens that run
/// at once take some 55 MB. A query with a defect cannot end `ok`: its samples do not count any more, and only 4 KiB of further ones are
/// kept for its timeline, so that a server cannot fill the memory with tokens beyond the announced number.
#[derive(Clone, Debug, Default)]
pub struct QuerySamples {
    bytes: Vec<u8>,
    /// Number of tokens that arrived.
    tokens: u32,
    /// Sequence number of the last one.
    last_seq: u64,
    /// Bytes that may still be added, once the samples do not count any more.
    room: Option<u16>,
}

impl QuerySamples {
    /// Notes the first arrival of a token, before its samples. `seq` is its sequence number, `None` if the server does not number its
    /// events. `since_due` is called for the first token only.
    pub fn token(&mut self, seq: Option<u64>, since_due: impl FnOnce() -> Duration) {
        let expected = self.last_seq.wrapping_add(1);
        let seq = seq.unwrap_or(expected);
        if seq != expected {
            self.push(JUMP);
            self.number(zigzag(seq.wrapping_sub(expected).cast_signed()));
        }
        if self.tokens == 0 {
            self.push(FIRST);
            self.number(u64::try_from(since_due().as_micros()).unwrap_or(u64::MAX));
        }
        (self.tokens, self.last_seq) = (self.tokens.saturating_add(1), seq);
    }

    /// Returns the number of the last token, from 0 in the order of arrival.
    #[must_use]
    pub const fn last_token(&self) -> u32 {
        self.tokens.saturating_sub(1)
    }

    /// Notes a gap between two tokens that is not a sample, because the client did not read meanwhile.
    pub fn unsampled_gap(&mut self, ns: i64) {
        self.push(UNSAMPLED_GAP);
        self.number(zigzag(rounded(ns)));
    }

    /// Makes the delivery or the hops that are kept next belong to an earlier token.
    pub fn of_earlier(&mut self, token: u32) {
        self.push(OF_EARLIER);
        self.number(token.into());
    }

    /// Keeps the gap between two tokens. `is_frame_gap` tells whether they came in two reads.
    pub fn itl(&mut self, gap: BoundedSample, is_frame_gap: bool) {
        let tag = if is_frame_gap { ITL_AND_FRAME_GAP } else { ITL };
        self.push(if gap.unexcused.is_some() { tag | UNEXCUSED } else { tag });
        self.number(zigzag(rounded(gap.value)));
        self.number(rounded_up(gap.value.saturating_sub(gap.low)));
        self.number(rounded_up(gap.high.saturating_sub(gap.value)));
        if let Some(unexcused) = gap.unexcused {
            self.number(rounded_up(gap.value.saturating_sub(unexcused)));
        }
    }

    /// Keeps the delivery time of an event in nanoseconds. It may be negative.
    pub fn delivery(&mut self, ns: i64, is_replay: bool) {
        self.push(if is_replay { REPLAY_DELIVERY } else { DELIVERY });
        self.number(zigzag(rounded(ns)));
    }

    /// Keeps the time of a sampled token by hop.
    pub fn hops(&mut self, split: Result<HopSplit, ImpossibleTimes>) {
        let Ok(HopSplit { us: [pace, bus, gateway, network], clamped }) = split else {
            return self.push(IMPOSSIBLE_HOPS);
        };
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        self.push(
            HOPS | flag(bus.is_none(), NO_BUS) | flag(network.is_none(), NO_NETWORK) | flag(clamped, CLAMPED),
        );
        for us in [Some(pace.unwrap_or_default()), bus, Some(gateway.unwrap_or_default()), network] {
            us.into_iter().for_each(|us| self.number(us));
        }
    }

    /// Lets the samples not count, because the query cannot end `ok` any more. They are kept for its timeline.
    pub const fn give_up(&mut self) {
        if self.room.is_none() {
            self.room = Some(ROOM_AFTER_DEFECT);
        }
    }

    /// Returns the samples as bytes, at most about `limit` of them, for [`tokens`].
    pub(crate) fn packed(&self, limit: usize) -> Vec<u8> {
        let mut end = 0;
        let mut packed = Packed(&self.bytes);
        while packed.skip() && self.bytes.len() - packed.0.len() <= limit {
            end = self.bytes.len() - packed.0.len();
        }
        self.bytes[..end].to_vec()
    }

    /// Records all samples of a query that ended `ok`.
    pub fn record(&self, interval: &mut Interval) {
        if self.room.is_some() {
            return;
        }
        let mut packed = Packed(&self.bytes);
        while let Some(tag) = packed.tag() {
            if tag >= HOPS {
                if tag >= FIRST {
                    packed.number();
                } else {
                    interval.record_hops(packed.hops(tag));
                }
                continue;
            }
            let value = nanoseconds(unzigzag(packed.number()));
            match tag {
                DELIVERY => interval.record(Metric::Delivery, value),
                REPLAY_DELIVERY => interval.record(Metric::ReplayDelivery, value),
                _ => {
                    let low = value.saturating_sub(packed.distance());
                    let high = value.saturating_add(packed.distance());
                    let unexcused = (tag & UNEXCUSED != 0).then(|| value.saturating_sub(packed.distance()));
                    interval.record_bounded(Metric::Itl, BoundedSample { value, low, high, unexcused });
                    if tag & ITL_AND_FRAME_GAP != 0 {
                        interval.record(Metric::FrameGap, value);
                    }
                }
            }
        }
    }

    /// Writes a number with seven bits per byte, lowest first. The highest bit marks that more bytes follow.
    fn number(&mut self, mut number: u64) {
        #[allow(clippy::cast_possible_truncation, reason = "seven bits")]
        while number >= 0x80 {
            self.push(number as u8 | 0x80);
            number >>= 7;
        }
        #[allow(clippy::cast_possible_truncation, reason = "below 0x80")]
        self.push(number as u8);
    }

    fn push(&mut self, byte: u8) {
        match &mut self.room {
            None => {}
            Some(0) => return,
            Some(room) => *room -= 1,
        }
        if self.bytes.len() == self.bytes.capacity() {
            // A vector doubles by default, which wastes memory: thousands of these exist at once.
            self.bytes.reserve_exact(MIN_GROWTH.max(self.bytes.len() / 4));
        }
        self.bytes.push(byte);
    }
}

/// Returns the tokens of packed samples in the order of their arrival. Bytes after the first ones that make no sense are ignored.
pub(crate) fn tokens(bytes: &[u8]) -> Vec<TimedToken> {
    let (mut packed, mut tokens) = (Packed(bytes), Vec::<TimedToken>::new());
    let (mut jump, mut earlier) = (0, None);
    while let Some(tag) = packed.tag() {
        let begins = |us: i64, tokens: &mut Vec<TimedToken>, jump: &mut i64| {
            let last = tokens.last();
            let at_us = last.map_or(0, |last| last.at_us).saturating_add(us);
            let seq = last.map_or(0, |last| last.seq).wrapping_add(1).wrapping_add_signed(*jump);
            *jump = 0;
            tokens.push(TimedToken { seq, at_us, ..TimedToken::default() });
        };
        match tag {
            FIRST => begins(packed.number().cast_signed(), &mut tokens, &mut jump),
            JUMP => jump = unzigzag(packed.number()),
            OF_EARLIER => earlier = usize::try_from(packed.number()).ok(),
            UNSAMPLED_GAP => begins(unzigzag(packed.number()), &mut tokens, &mut jump),
            ITL..DELIVERY => {
                let gap = unzigzag(packed.number());
                packed.skip_numbers(2 + u8::from(tag & UNEXCUSED != 0));
                begins(gap, &mut tokens, &mut jump);
            }
            _ => {
                let index = earlier.take().unwrap_or(tokens.len().wrapping_sub(1));
                let mut unknown = TimedToken::default();
                let token = tokens.get_mut(index).unwrap_or(&mut unknown);
                match tag {
                    DELIVERY | REPLAY_DELIVERY => {
                        let us = unzigzag(packed.number());
                        // The delivery of the terminator follows that of the last token.
                        if token.delivery_us.is_none() {
                            (token.delivery_us, token.is_replay) = (Some(us), tag == REPLAY_DELIVERY);
                        }
                    }
                    HOPS..=IMPOSSIBLE_HOPS => token.hops = packed.hops(tag).ok(),
                    _ => return tokens,
                }
            }
        }
    }
    tokens
}

/// Reader of packed samples.
struct Packed<'a>(&'a [u8]);

impl Packed<'_> {
    /// Skips one sample. Returns false at the end.
    fn skip(&mut self) -> bool {
        let Some(tag) = self.tag() else { return false };
        match tag {
            ITL..DELIVERY => self.skip_numbers(3 + u8::from(tag & UNEXCUSED != 0)),
            HOPS..=IMPOSSIBLE_HOPS => _ = self.hops(tag),
            _ => self.skip_numbers(1),
        }
        true
    }

    fn skip_numbers(&mut self, count: u8) {
        for _ in 0..count {
            self.number();
        }
    }

    fn tag(&mut self) -> Option<u8> {
        let (tag, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*tag)
    }

    fn hops(&mut self, tag: u8) -> Result<HopSplit, ImpossibleTimes> {
        if tag == IMPOSSIBLE_HOPS {
            return Err(ImpossibleTimes);
        }
        let missing = [0, NO_BUS, 0, NO_NETWORK];
        let us: [Option<u64>; Hop::COUNT] =
            std::array::from_fn(|hop| (tag & missing[hop] == 0).then(|| self.number()));
        Ok(HopSplit { us, clamped: tag & CLAMPED != 0 })
    }

    fn number(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        while let Some(byte) = self.tag() {
            number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        number
    }

    /// Reads a distance from the value, in nanoseconds.
    fn distance(&mut self) -> i64 {
        nanoseconds(i64::try_from(self.number()).unwrap_or(i64::MAX))
    }
}

const fn nanoseconds(us: i64) -> i64 {
    us.saturating_mul(UNIT_NS)
}

/// Rounds to the nearest microsecond.
const fn rounded(ns: i64) -> i64 {
    ns.saturating_add(UNIT_NS / 2).div_euclid(UNIT_NS)
}

/// Rounds up, so that bounds only move outwards.
fn rounded_up(ns: i64) -> u64 {
    u64::try_from(ns).unwrap_or_default().div_ceil(UNIT_NS.unsigned_abs())
}

/// Maps numbers of small magnitude, positive or negative, to small unsigned numbers (zigzag encoding).
#[allow(clippy::cast_sign_loss, reason = "the bits are meant")]
const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

#[allow(clippy::cast_possible_wrap, reason = "the bits are meant")]
const fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recorded(samples: &QuerySamples) -> Interval {
        let mut interval = Interval::default();
        samples.record(&mut interval);
        interval
    }

    fn split() -> impl Strategy<Value = Result<HopSplit, ImpossibleTimes>> {
        let us = || 0u64..3_000_000;
        let split = (us(), prop::option::of(us()), us(), prop::option::of(us()), any::<bool>());
        let split = split.prop_map(|(pace, bus, gateway, network, clamped)| HopSplit {
            us: [Some(pace), bus, Some(gateway), network],
            clamped,
        });
        prop_oneof![9 => split.prop_map(Ok), 1 => Just(Err(ImpossibleTimes))]
    }

    proptest! {
        #[test]
        fn damaged_samples_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = tokens(&bytes);
        }

        /// Keeping samples and recording them later gives the same result as recording them at once, in whole microseconds.
        #[test]
        fn what_is_kept_is_what_is_recorded(
            gaps in prop::collection::vec(
                (0i64..3_000_000, 0i64..400_000, 0i64..400_000, prop::option::of(0i64..3_000_000), any::<bool>()), 0..60,
            ),
            deliveries in prop::collection::vec((-400_000i64..3_000_000, any::<bool>()), 0..60),
            splits in prop::collection::vec(split(), 0..20),
        ) {
            let (mut samples, mut at_once) = (QuerySamples::default(), Interval::default());
            for &(value, below, above, unexcused, is_frame_gap) in &gaps {
                let gap = BoundedSample {
                    value: value * UNIT_NS,
                    low: (value - below) * UNIT_NS,
                    high: (value + above) * UNIT_NS,
                    unexcused: unexcused.map(|unexcused| (value - unexcused) * UNIT_NS),
                };
                samples.itl(gap, is_frame_gap);
                at_once.record_bounded(Metric::Itl, gap);
                if is_frame_gap {
                    at_once.record(Metric::FrameGap, gap.value);
                }
            }
            for &split in &splits {
                samples.hops(split);
                at_once.record_hops(split);
            }
            for &(us, is_replay) in &deliveries {
                samples.delivery(us * UNIT_NS, is_replay);
                let metric = if is_replay { Metric::ReplayDelivery } else { Metric::Delivery };
                at_once.record(metric, us * UNIT_NS);
            }
            prop_assert_eq!(recorded(&samples), at_once);
            prop_assert!(samples.bytes.capacity() <= MIN_GROWTH + samples.bytes.len() * 5 / 4);
        }

        /// No time of a server overflows, and a bound never moves inwards by more than the rounding.
        #[test]
        fn no_value_is_too_large(value: i64, low: i64, high: i64, unexcused: Option<i64>) {
            let mut samples = QuerySamples::default();
            samples.itl(BoundedSample { value, low, high, unexcused }, true);
            samples.delivery(value, false);
            let interval = recorded(&samples);
            prop_assert_eq!(interval.get(Metric::Itl).count(), 1);
            prop_assert_eq!(interval.get(Metric::Delivery).count(), 1);
            prop_assert!(samples.bytes.len() <= 42);
        }
    }

    #[test]
    fn what_was_given_up_does_not_count_and_takes_little() {
        let mut samples = QuerySamples::default();
        samples.itl(BoundedSample::exact(50_000_000), true);
        assert_eq!(samples.bytes.len(), 6, "a tag, three bytes of 50 ms zigzagged, two bounds");
        for _ in 0..10_000 {
            samples.give_up();
            samples.token(None, || Duration::ZERO);
            samples.itl(BoundedSample::exact(50_000_000), true);
            samples.delivery(1_000, false);
        }
        assert_eq!(samples.bytes.len(), 6 + usize::from(ROOM_AFTER_DEFECT));
        assert!(recorded(&samples).is_empty());
    }

    #[test]
    fn the_timeline_has_every_token_with_its_own_times() {
        let mut samples = QuerySamples::default();
        let split = HopSplit { us: [Some(1), None, Some(3), Some(4)], clamped: false };
        samples.token(Some(1), || Duration::from_millis(300));
        samples.token(Some(2), || unreachable!("only for the first token"));
        samples.itl(BoundedSample::exact(20_000_000), true);
        samples.delivery(500_000, false);
        samples.delivery(900_000, true);
        samples.of_earlier(0);
        samples.delivery(700_000, true);
        samples.of_earlier(0);
        samples.hops(Ok(split));
        samples.token(Some(6), || Duration::ZERO);
        samples.unsampled_gap(1_000_000);
        samples.hops(Ok(split));
        samples.token(Some(3), || Duration::ZERO);
        let gap = BoundedSample { unexcused: Some(1_000_000), ..BoundedSample::exact(2_000_000) };
        samples.itl(gap, false);
        samples.hops(Err(ImpossibleTimes));
        samples.token(None, || Duration::ZERO);
        samples.itl(BoundedSample::exact(0), false);
        let found = tokens(&samples.packed(usize::MAX));
        let times: Vec<_> = found.iter().map(|token| (token.seq, token.at_us)).collect();
        assert_eq!(times, [(1, 300_000), (2, 320_000), (6, 321_000), (3, 323_000), (4, 323_000)]);
        let deliveries: Vec<_> = found.iter().map(|token| (token.delivery_us, token.is_replay)).collect();
        assert_eq!(deliveries[..2], [(Some(700), true), (Some(500), false)]);
        let hops: Vec<_> = found.iter().map(|token| token.hops.map(|split| split.us)).collect();
        assert_eq!(hops, [Some(split.us), None, Some(split.us), None, None]);
        let cut = tokens(&samples.packed(25));
        let cut: Vec<_> = cut.iter().map(|token| (token.seq, token.at_us)).collect();
        assert!(cut.len() < times.len() && times.starts_with(&cut), "{cut:?}");
    }
}
