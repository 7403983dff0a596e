//! Decides the number of events per segment from the event loop's lag and from what peers have not read. It is pure.

use std::time::Duration;

/// The event loop is behind if its median lag is at least this.
const BEHIND: Duration = Duration::from_millis(10);
/// The event loop is far behind if each of its last lags is at least this. Small steps would then come too late.
const FAR_BEHIND: Duration = Duration::from_millis(40);
/// Peers are behind if the median share of those that have not read the last token when the next one comes is at least this, in percent.
const UNREAD: u64 = 25;
/// Number of samples in the median. A single pause of the machine does not count as overload.
const LOOKS: usize = 15;
/// Number of last samples that decide about far behind. A loop that is far behind takes few samples.
const LAST_LOOKS: usize = 3;
/// Time between two changes, so that the effect of the first is visible.
const SETTLE: Duration = Duration::from_millis(400);
/// Time between two changes while the event loop is far behind.
const SETTLE_FAR_BEHIND: Duration = Duration::from_millis(100);
/// How long the loop has to keep up before segments shrink: at first, and at most after failed attempts.
const CALM: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(16);
/// Largest number of events per segment.
const MOST: u32 = 8;

/// Numbers of peers that were checked and of those that had not read what they were sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peers {
    pub(crate) asked: u32,
    pub(crate) behind: u32,
}

/// The last samples of a value.
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

    /// Returns the least of the last few samples.
    fn least(&self) -> u64 {
        let last = (1..=LAST_LOOKS).map(|back| self.values[(self.next + LOOKS - back) % LOOKS]);
        last.min().unwrap_or(0)
    }

    fn median(&self) -> u64 {
        let mut values = self.values;
        *values.select_nth_unstable(LOOKS / 2).1
    }
}

/// The recent overload of a gateway, and its response to it.
#[derive(Debug)]
pub(super) struct Pressure {
    batch: u32,
    /// Lags of the event loop, in microseconds.
    lags: Recent,
    /// Shares of peers that had not read, in percent.
    unread: Recent,
    changed: Duration,
    last_behind: Duration,
    /// How long the loop has to keep up before segments shrink next.
    calm: Duration,
    /// The last change was a shrink.
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
    /// Returns the median lag of the event loop.
    pub(super) fn lag(&self) -> Duration {
        Duration::from_micros(self.lags.median())
    }

    /// Adds a sample at `now`: the event loop woke `lag` too late, and `peers` were checked since the last sample. Returns the number of
    /// events per segment from now on.
    pub(super) fn look(&mut self, now: Duration, lag: Duration, peers: Peers) -> u32 {
        self.lags.push(u64::try_from(lag.as_micros()).unwrap_or(u64::MAX));
        // Without checks there were no writes, so no peer is behind.
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

    /// Increases the number of events per segment. If the last shrink was soon followed by overload, the next one waits twice as long.
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

    /// Samples for `seconds` every 20 ms a loop whose lag is `lag(now, batch)`. Returns the events per segment at each sample.
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
    fn a_gateway_that_keeps_up_merges_nothing() {
        assert!(drive(60, |_, _| 6).iter().all(|&batch| batch == 1));
        let hiccups = drive(60, |now, _| if now.as_millis() % 300 < 40 { 200 } else { 0 });
        assert!(hiccups.iter().all(|&batch| batch == 1), "occasional late wake-ups are not an overload");
    }

    #[test]
    fn a_gateway_that_is_behind_merges_as_much_as_helps() {
        let batches = drive(10, |_, batch| if batch < 3 { 30 } else { 5 });
        assert_eq!(batches[50], 3, "within a second");
        assert!(batches.iter().all(|&batch| batch <= 3), "no more than helps");
        let hopeless = drive(10, |_, _| 50);
        assert_eq!(hopeless.last(), Some(&MOST));
    }

    #[test]
    fn a_gateway_that_is_far_behind_merges_at_once() {
        // A loop this late takes a sample every 170 ms.
        let mut pressure = Pressure::default();
        let late = Duration::from_millis(150);
        let batches: Vec<_> =
            (1..=6).map(|n| pressure.look((LOOK + late) * n, late, Peers::default())).collect();
        assert_eq!(batches, [1, 1, 2, 4, 8, 8]);
    }

    #[test]
    fn failing_attempts_to_merge_less_become_rare() {
        let batches = drive(120, |_, batch| if batch < 2 { 30 } else { 0 });
        let alone = batches[..].windows(2).filter(|pair| pair[0] == 2 && pair[1] == 1).count();
        assert!((5..=12).contains(&alone), "{alone} attempts in two minutes");
        let share = batches.iter().filter(|&&batch| batch == 2).count() * 100 / batches.len();
        assert!(share > 95, "{share} % of the time it merges what it has to");
    }

    #[test]
    fn failing_attempts_become_rare_if_recovery_takes_several_steps() {
        let batches = drive(120, |_, batch| if batch < 3 { 30 } else { 0 });
        let attempts = batches[..].windows(2).filter(|pair| pair[0] > pair[1]).count();
        assert!((5..=14).contains(&attempts), "{attempts} attempts in two minutes");
    }

    #[test]
    fn peers_that_do_not_read_cause_merging() {
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
        assert_eq!((batches.iter().max(), batches.last()), (Some(&2), Some(&1)), "there are no more writes");
    }

    #[test]
    fn merging_ends_after_the_overload() {
        let batches = drive(30, |now, _| if now < Duration::from_secs(5) { 50 } else { 0 });
        assert_eq!(batches[5 * 50 - 1], MOST);
        assert_eq!(batches.last(), Some(&1));
    }
}
