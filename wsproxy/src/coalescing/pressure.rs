//! From the event loop's lag, and from what its peers have not read, to the number of events that a segment carries. Pure: it
//! knows neither clock nor socket.

use std::time::Duration;

/// A loop that usually wakes this much too late is behind.
const BEHIND: Duration = Duration::from_millis(10);
/// A loop that wakes this much too late time after time is so far behind that small steps would come too late.
const FAR_BEHIND: Duration = Duration::from_millis(40);
/// Peers are behind when usually so many of a hundred have not read the last token of a session as its next one comes.
const UNREAD: u64 = 25;
/// Looks of which the median counts: a machine that stood still for a moment is late once, and nobody's overload.
const LOOKS: usize = 15;
/// Of these the best counts for a loop that is far behind: it has less time for looks.
const LAST_LOOKS: usize = 3;
/// Time for a change to show before the next one.
const SETTLE: Duration = Duration::from_millis(400);
/// The same for a loop that is far behind.
const SETTLE_FAR_BEHIND: Duration = Duration::from_millis(100);
/// How long the loop has to keep up before segments shrink again: at first, and at most after attempts that failed.
const CALM: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(16);
/// Events a segment at most.
const MOST: u32 = 8;

/// Peers that were asked whether they had read what they were sent, and those that had not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peers {
    pub(crate) asked: u32,
    pub(crate) behind: u32,
}

/// The last values of something, and the one in their middle.
#[derive(Debug, Default)]
struct Recent {
    values: [u64; LOOKS],
    next: usize,
}

impl Recent {
    const fn push(&mut self, value: u64) {
        self.values[self.next] = value;
        self.next = (self.next + 1) % LOOKS;
    }

    /// The least of the last few.
    fn least(&self) -> u64 {
        let last = (1..=LAST_LOOKS).map(|back| self.values[(self.next + LOOKS - back) % LOOKS]);
        last.min().unwrap_or(0)
    }

    fn median(&self) -> u64 {
        let mut values = self.values;
        *values.select_nth_unstable(LOOKS / 2).1
    }
}

/// How far the gateway is behind, as it has been lately.
#[derive(Debug)]
pub(super) struct Pressure {
    batch: u32,
    /// Lags of the loop, in microseconds.
    lags: Recent,
    /// Peers that had not read, in a hundred.
    unread: Recent,
    changed: Duration,
    last_behind: Duration,
    /// How long it has to be calm now.
    calm: Duration,
    /// Segments shrank at the last change.
    shrank: bool,
}

impl Default for Pressure {
    fn default() -> Self {
        Self {
            batch: 1,
            lags: Recent::default(),
            unread: Recent::default(),
            changed: Duration::ZERO,
            last_behind: Duration::ZERO,
            calm: *CALM.start(),
            shrank: false,
        }
    }
}

impl Pressure {
    /// The loop's lag: the median of the last looks.
    pub(super) fn lag(&self) -> Duration {
        Duration::from_micros(self.lags.median())
    }

    /// The loop woke `lag` after it meant to, at `now`, and found that of the peers asked since the last look so many had
    /// not read; answers how many events a segment carries from here on.
    pub(super) fn look(&mut self, now: Duration, lag: Duration, peers: Peers) -> u32 {
        self.lags.push(u64::try_from(lag.as_micros()).unwrap_or(u64::MAX));
        // Where nobody was asked, nobody writes, and nobody is behind.
        self.unread.push((u64::from(peers.behind) * 100).checked_div(peers.asked.into()).unwrap_or(0));
        let far_behind = Duration::from_micros(self.lags.least()) >= FAR_BEHIND;
        if far_behind || self.lag() >= BEHIND || self.unread.median() >= UNREAD {
            self.last_behind = now;
            let (settle, step) = if far_behind { (SETTLE_FAR_BEHIND, self.batch) } else { (SETTLE, 1) };
            if self.batch < MOST && now.saturating_sub(self.changed) >= settle {
                self.grow(now, step);
            }
        } else if self.batch > 1 && now.saturating_sub(self.last_behind.max(self.changed)) >= self.calm {
            self.batch /= 2;
            (self.changed, self.shrank) = (now, true);
        }
        self.batch
    }

    /// Where shrinking was soon followed by falling behind, the next attempt waits for twice as long.
    fn grow(&mut self, now: Duration, step: u32) {
        if self.shrank {
            let failed = now.saturating_sub(self.changed) < *CALM.start();
            self.calm = if failed { (self.calm * 2).min(*CALM.end()) } else { *CALM.start() };
        }
        self.batch = (self.batch + step).min(MOST);
        (self.changed, self.shrank) = (now, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(20);

    /// Looks every 20 ms at a loop that has `lag(batch)`, for `seconds`; the size of a segment at each look.
    fn drive(seconds: u64, lag: impl Fn(Duration, u32) -> u64) -> Vec<u32> {
        let mut pressure = Pressure::default();
        let mut batch = 1;
        (1..=seconds * 50)
            .map(|n| {
                let now = LOOK * n as u32;
                batch = pressure.look(now, Duration::from_millis(lag(now, batch)), Peers::default());
                batch
            })
            .collect()
    }

    #[test]
    fn who_keeps_up_merges_nothing() {
        assert!(drive(60, |_, _| 6).iter().all(|&batch| batch == 1));
        let hiccups = drive(60, |now, _| if now.as_millis() % 300 < 40 { 200 } else { 0 });
        assert!(hiccups.iter().all(|&batch| batch == 1), "late wake-ups now and then are nobody's overload");
    }

    #[test]
    fn who_is_behind_merges_as_much_as_helps() {
        let batches = drive(10, |_, batch| if batch < 3 { 30 } else { 5 });
        assert_eq!(batches[50], 3, "within a second");
        assert!(batches.iter().all(|&batch| batch <= 3), "no more than helps");
        let hopeless = drive(10, |_, _| 50);
        assert_eq!(hopeless.last(), Some(&MOST));
    }

    #[test]
    fn who_is_far_behind_merges_at_once() {
        // A loop this late has a look every 170 ms.
        let mut pressure = Pressure::default();
        let late = Duration::from_millis(150);
        let batches: Vec<_> =
            (1..=6).map(|n| pressure.look((LOOK + late) * n, late, Peers::default())).collect();
        assert_eq!(batches, [1, 1, 2, 4, 8, 8]);
    }

    #[test]
    fn attempts_to_merge_less_become_rare_while_they_fail() {
        let batches = drive(120, |_, batch| if batch < 2 { 30 } else { 0 });
        let alone = batches[..].windows(2).filter(|pair| pair[0] == 2 && pair[1] == 1).count();
        assert!((5..=12).contains(&alone), "{alone} attempts in two minutes");
        let share = batches.iter().filter(|&&batch| batch == 2).count() * 100 / batches.len();
        assert!(share > 95, "{share} % of the time it merges what it has to");
    }

    #[test]
    fn they_become_rare_too_where_recovery_takes_several_steps() {
        let batches = drive(120, |_, batch| if batch < 3 { 30 } else { 0 });
        let attempts = batches[..].windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert!((5..=14).contains(&attempts), "{attempts} attempts in two minutes");
    }

    #[test]
    fn peers_that_do_not_read_count_as_much() {
        let largest = |behind: fn(u32) -> u32| {
            let mut pressure = Pressure::default();
            let mut batch = 1;
            let looks = (1..=200).map(|n| {
                let peers = Peers { asked: 10, behind: behind(batch) };
                batch = pressure.look(LOOK * n, Duration::ZERO, peers);
                batch
            });
            looks.max()
        };
        assert_eq!(largest(|_| 1), Some(1), "one in ten is slow by itself");
        assert_eq!(largest(|batch| if batch < 3 { 8 } else { 0 }), Some(3));
        let mut pressure = Pressure::default();
        let behind = |n| Peers { asked: 10, behind: if n < 30 { 8 } else { 0 } };
        let then_silent = |n| if n < 30 { behind(n) } else { Peers::default() };
        let batches: Vec<_> =
            (1..=150).map(|n| pressure.look(LOOK * n, Duration::ZERO, then_silent(n))).collect();
        assert_eq!((batches.iter().max(), batches.last()), (Some(&2), Some(&1)), "nobody writes any more");
    }

    #[test]
    fn calm_brings_the_single_token_back() {
        let batches = drive(30, |now, _| if now < Duration::from_secs(5) { 50 } else { 0 });
        assert_eq!(batches[5 * 50 - 1], MOST);
        assert_eq!(batches.last(), Some(&1));
    }
}
