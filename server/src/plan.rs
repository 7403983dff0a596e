//! The schedule of one query: its number of tokens, and the due time of each after the start. It is a pure function of the seed, the
//! query's id and the timing.

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
use settings::distribution::Distribution;
use std::{ops::RangeInclusive, time::Duration};

/// The range of a query's number of tokens.
pub const TOKENS: RangeInclusive<u64> = 1..=1_000_000;

/// The range of a delay, in milliseconds: up to an hour.
pub const DELAY_MS: RangeInclusive<f64> = 0.0..=3_600_000.0;

/// The distributions of a query's delays and of its number of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Delay before the first token, in milliseconds.
    pub ttft_ms: Distribution,
    /// Delay after each token, in milliseconds.
    pub itl_ms: Distribution,
    /// Number of tokens.
    pub tokens: Distribution,
}

impl Timing {
    /// Returns [`TOKENS`] as a range of numbers for a distribution.
    #[must_use]
    pub const fn token_range() -> RangeInclusive<f64> {
        *TOKENS.start() as f64..=*TOKENS.end() as f64
    }
}

/// The schedule of one query. Equal seeds, query ids and timings give equal schedules in every process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    tokens: u64,
    offsets: Offsets,
}

/// The latencies of a query if nothing but its schedule took time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ideal {
    /// Time from the start to the first token.
    pub ttft: Duration,
    /// Time from the start to the terminator.
    pub e2el: Duration,
    /// Longest time between two events, or from the start to the first token.
    pub gap: Duration,
}

impl Plan {
    /// Draws the schedule of the query `query_id`.
    #[must_use]
    pub fn draw(timing: &Timing, seed: u64, query_id: &str) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed ^ fnv1a(query_id.as_bytes()));
        let tokens = (timing.tokens.draw(&mut rng).round() as u64).clamp(*TOKENS.start(), *TOKENS.end());
        let at_ns = delay_ns(&timing.ttft_ms, &mut rng);
        Self { tokens, offsets: Offsets { rng, itl_ms: Itl(timing.itl_ms), at_ns } }
    }

    /// Returns the number of tokens before the terminator.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Returns the due times of the events after the start: the tokens, then the terminator. The iterator does not end there.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        self.offsets.clone()
    }

    /// Returns the ideal latencies. Unless the delay is fixed, this draws one sample per token.
    #[must_use]
    pub fn ideal(&self) -> Ideal {
        let first = self.offsets.at_ns;
        let (last, gap) = if let Some(itl) = self.offsets.itl_ms.0.fixed() {
            let itl = milliseconds_to_ns(itl);
            (first + self.tokens * itl, first.max(itl))
        } else {
            let events = self.offsets().take(self.tokens as usize + 1).map(|at| at.as_nanos() as u64);
            events.fold((0, 0), |(before, gap), at| (at, gap.max(at - before)))
        };
        let [ttft, e2el, gap] = [first, last, gap].map(Duration::from_nanos);
        Ideal { ttft, e2el, gap }
    }

    /// Returns whether [`Plan::ideal`] is too slow for an event loop.
    #[must_use]
    pub const fn is_costly(&self) -> bool {
        self.tokens > 10_000 && self.offsets.itl_ms.0.fixed().is_none()
    }
}

/// The due times of a query's events after its start. Token `k`, counted from 0, is due at `ttft` plus `k` samples of `itl`, and the
/// terminator follows the last token. The times never decrease and never end. A clone continues with the same times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offsets {
    rng: Xoshiro256PlusPlus,
    itl_ms: Itl,
    at_ns: u64,
}

/// A distribution with `Eq`: its parameters are never NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Itl(Distribution);

impl Eq for Itl {}

impl Iterator for Offsets {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let at = Duration::from_nanos(self.at_ns);
        self.at_ns = self.at_ns.saturating_add(delay_ns(&self.itl_ms.0, &mut self.rng));
        Some(at)
    }
}

fn delay_ns(milliseconds: &Distribution, rng: &mut Xoshiro256PlusPlus) -> u64 {
    milliseconds_to_ns(milliseconds.draw(rng))
}

fn milliseconds_to_ns(milliseconds: f64) -> u64 {
    (milliseconds.clamp(*DELAY_MS.start(), *DELAY_MS.end()) * 1e6).round() as u64
}

/// Computes FNV-1a with 64 bits, which is equal in every process, unlike the standard library's hashers.
/// <http://www.isthe.com/chongo/tech/comp/fnv/>
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use settings::distribution::Unit;

    pub(crate) fn timing(ttft: &str, itl: &str, tokens: &str) -> Timing {
        let parse = |text| Distribution::parse(text, Unit::None).unwrap();
        Timing { ttft_ms: parse(ttft), itl_ms: parse(itl), tokens: parse(tokens) }
    }

    fn any_timing() -> impl Strategy<Value = Timing> {
        let delay = prop::sample::select(vec![
            "0",
            "50",
            "uniform:0,80",
            "normal:5,10",
            "lognormal:20,1.5",
            "lognormal:3600000,3",
            "3600000",
        ]);
        let length = prop::sample::select(vec![
            "1",
            "18",
            "uniform:1,300",
            "normal:50,100",
            "lognormal:30,1",
            "exp:20",
        ]);
        (delay.clone(), delay, length).prop_map(|(ttft, itl, tokens)| timing(ttft, itl, tokens))
    }

    proptest! {
        #[test]
        fn schedules_are_monotone_repeatable_and_have_their_ideal_latencies(
            timing in any_timing(), seed: u64, query_id in ".{1,40}",
        ) {
            let plan = Plan::draw(&timing, seed, &query_id);
            prop_assert!(TOKENS.contains(&plan.tokens()));
            prop_assert_eq!(&Plan::draw(&timing, seed, &query_id), &plan);
            let offsets: Vec<_> = plan.offsets().take(plan.tokens() as usize + 1).collect();
            prop_assert!(offsets.is_sorted());
            let ideal = plan.ideal();
            prop_assert_eq!((ideal.ttft, ideal.e2el), (offsets[0], *offsets.last().unwrap()));
            let gaps = offsets.windows(2).map(|pair| pair[1] - pair[0]);
            prop_assert_eq!(ideal.gap, gaps.chain([offsets[0]]).max().unwrap());
        }

        #[test]
        fn another_query_draws_another_schedule(seed: u64, a in "[a-z]{8}", b in "[a-z]{8}") {
            prop_assume!(a != b);
            let timing = timing("uniform:0,1000", "uniform:0,1000", "uniform:1,1000000");
            prop_assert_ne!(Plan::draw(&timing, seed, &a), Plan::draw(&timing, seed, &b));
        }
    }

    #[test]
    fn the_default_schedule_has_a_token_every_50_ms() {
        let plan = Plan::draw(&timing("0", "50", "18"), 1, "q");
        let expected: Vec<_> = (0..=18).map(|k| Duration::from_millis(k * 50)).collect();
        assert_eq!(plan.offsets().take(19).collect::<Vec<_>>(), expected);
        assert_eq!(
            plan.ideal(),
            Ideal { ttft: Duration::ZERO, e2el: Duration::from_millis(900), gap: Duration::from_millis(50) }
        );
    }

    #[test]
    fn the_longest_schedule_does_not_overflow() {
        let plan = Plan::draw(&timing("3600000", "3600000", "1000000"), 1, "q");
        assert_eq!(plan.ideal().e2el, Duration::from_secs(3600 * 1_000_001));
    }

    /// Compares means over 4,000 queries of one seed with those of the distributions.
    #[test]
    fn means_over_queries_are_those_of_the_distributions() {
        let timing = timing("lognormal:200,0.3", "normal:50,10", "uniform:10,90");
        let plans: Vec<_> = (0..4000).map(|n| Plan::draw(&timing, 3, &format!("query-{n}"))).collect();
        let mean = |f: &dyn Fn(&Plan) -> f64| plans.iter().map(f).sum::<f64>() / plans.len() as f64;
        let tokens = mean(&|plan| plan.tokens() as f64);
        assert!((tokens - 50.0).abs() < 1.5, "{tokens}");
        let ttft = mean(&|plan| plan.ideal().ttft.as_secs_f64() * 1e3);
        assert!((ttft - 200.0 * 0.045f64.exp()).abs() < 4.0, "{ttft}");
        let itl = mean(&|plan| {
            let ideal = plan.ideal();
            (ideal.e2el - ideal.ttft).as_secs_f64() * 1e3 / plan.tokens() as f64
        });
        assert!((itl - 50.0).abs() < 0.5, "{itl}");
    }

    /// A seed gives the same schedule in every version: the samples must not change with an update of a library.
    #[test]
    fn a_seed_gives_a_known_schedule() {
        let plan = Plan::draw(&timing("uniform:0,100", "lognormal:50,0.5", "uniform:10,20"), 42, "query-1");
        let drawn: Vec<_> = plan.offsets().take(3).map(|at| at.as_micros()).collect();
        assert_eq!((plan.tokens(), &drawn[..]), (17, &[38_978, 111_144, 148_669][..]));
    }
}
