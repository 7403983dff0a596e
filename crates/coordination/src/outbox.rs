//! What a generator has sent and may have to send again, with limits. Pure: the caller passes the time.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

/// Number of bytes that an outbox keeps at most.
const MAX_BYTES: usize = 128 * 1024 * 1024;
/// Largest number of messages and of bytes that are delivered at once. One message may have more bytes.
const BATCH_MESSAGES: usize = 16;
const BATCH_BYTES: usize = 4 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Part,
    Report,
}

/// A part or the report, with its number in the shard, which counts from 1.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) bytes: Arc<[u8]>,
    at: Instant,
}

/// Messages to deliver next.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Number of the last message that was delivered.
    pub(crate) delivered: u64,
    /// Number of the oldest message that the outbox still has.
    pub(crate) oldest: u64,
    pub(crate) messages: Vec<Message>,
}

/// Numbered messages of one generator.
#[derive(Debug)]
pub(crate) struct Outbox {
    messages: VecDeque<Message>,
    bytes: usize,
    /// Number of the last message.
    last: u64,
    delivered: u64,
    dropped: u64,
    keep: Duration,
    /// Delivered messages stay until they are old, because the receiver may lose them.
    retains: bool,
}

impl Outbox {
    pub(crate) const fn new(keep: Duration, retains: bool) -> Self {
        Self { messages: VecDeque::new(), bytes: 0, last: 0, delivered: 0, dropped: 0, keep, retains }
    }

    /// Adds a message. Old parts may be dropped for it.
    pub(crate) fn push(&mut self, kind: Kind, bytes: Vec<u8>, now: Instant) {
        self.last += 1;
        self.bytes += bytes.len();
        self.messages.push_back(Message { number: self.last, kind, bytes: bytes.into(), at: now });
        while self.messages.front().is_some_and(|oldest| {
            oldest.kind == Kind::Part && (now - oldest.at > self.keep || self.bytes > MAX_BYTES)
        }) {
            self.drop_oldest();
        }
    }

    /// Counts a part that was refused. It takes a number, so that the receiver notices.
    pub(crate) fn refuse(&mut self) {
        self.last += 1;
        self.dropped += 1;
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.messages.pop_front() {
            self.bytes -= oldest.bytes.len();
            self.dropped += u64::from(oldest.number > self.delivered);
        }
    }

    /// Returns the messages to deliver next, or `None` if all are delivered.
    pub(crate) fn batch(&self) -> Option<Batch> {
        let mut bytes = 0;
        let messages: Vec<Message> = self
            .undelivered()
            .take(BATCH_MESSAGES)
            .take_while(|message| {
                let first = bytes == 0;
                bytes += message.bytes.len().max(1);
                first || bytes <= BATCH_BYTES
            })
            .cloned()
            .collect();
        let oldest = self.messages.front()?.number;
        (!messages.is_empty()).then_some(Batch { delivered: self.delivered, oldest, messages })
    }

    fn undelivered(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().skip_while(|message| message.number <= self.delivered)
    }

    /// Notes the number of the last message that the receiver has. A smaller one than before means that the receiver lost messages:
    /// those that the outbox still has are delivered again.
    pub(crate) fn received(&mut self, last: u64) {
        self.delivered = last;
        if !self.retains {
            while self.messages.front().is_some_and(|oldest| oldest.number <= last) {
                self.drop_oldest();
            }
        }
    }

    /// Notes a number that the receiver had a moment ago. Returns whether it lost messages since they were delivered, or only was not
    /// asked in order: then they are delivered again.
    pub(crate) const fn may_lack(&mut self, last: u64) -> bool {
        let lacks = last < self.delivered;
        if lacks {
            self.delivered = last;
        }
        lacks
    }

    pub(crate) fn waiting(&self) -> usize {
        self.undelivered().count()
    }

    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn numbers(outbox: &Outbox) -> Vec<u64> {
        outbox
            .batch()
            .map(|batch| batch.messages.iter().map(|message| message.number).collect())
            .unwrap_or_default()
    }

    #[test]
    fn parts_are_kept_for_the_given_time_and_then_counted() {
        let start = Instant::now();
        let mut outbox = Outbox::new(KEEP, true);
        for second in 0..=60 {
            outbox.push(Kind::Part, vec![1], start + Duration::from_secs(second));
        }
        assert_eq!((outbox.waiting(), outbox.dropped()), (61, 0));
        outbox.push(Kind::Part, vec![1], start + Duration::from_millis(61_500));
        assert_eq!((outbox.waiting(), outbox.dropped()), (60, 2));
        assert_eq!(numbers(&outbox), (3..19).collect::<Vec<_>>());
        // The report waits however old it is.
        outbox.push(Kind::Report, vec![1], start + Duration::from_secs(62));
        outbox.push(Kind::Report, vec![1], start + Duration::from_secs(1000));
        assert_eq!((outbox.waiting(), outbox.dropped()), (2, 62));
    }

    #[test]
    fn the_bytes_are_limited() {
        let now = Instant::now();
        let mut outbox = Outbox::new(KEEP, true);
        for _ in 0..9 {
            outbox.push(Kind::Part, vec![0; MAX_BYTES / 8], now);
        }
        assert_eq!((outbox.waiting(), outbox.dropped(), outbox.bytes), (8, 1, MAX_BYTES));
        // Each is larger than a batch.
        assert_eq!(numbers(&outbox), [2]);
        outbox.refuse();
        assert_eq!(outbox.dropped(), 2);
    }

    #[test]
    fn a_receiver_that_lost_messages_gets_them_again() {
        let now = Instant::now();
        let mut outbox = Outbox::new(KEEP, true);
        for _ in 0..5 {
            outbox.push(Kind::Part, vec![7], now);
        }
        outbox.received(5);
        assert_eq!((outbox.waiting(), numbers(&outbox)), (0, vec![]));
        outbox.received(2);
        assert_eq!(numbers(&outbox), [3, 4, 5]);
        let batch = outbox.batch().expect("three messages");
        assert_eq!((batch.delivered, batch.oldest), (2, 1));
        // Without retention they are gone.
        let mut outbox = Outbox::new(KEEP, false);
        outbox.push(Kind::Part, vec![7], now);
        outbox.received(1);
        assert_eq!((outbox.waiting(), outbox.bytes, outbox.dropped()), (0, 0, 0));
    }

    proptest! {
        /// Every part is either received or counted, and no part is received twice.
        #[test]
        fn every_part_is_received_or_counted(
            steps in prop::collection::vec((0u64..40, any::<bool>(), prop::bool::weighted(0.1)), 1..200),
            retains: bool,
        ) {
            let mut now = Instant::now();
            let mut outbox = Outbox::new(KEEP, retains);
            let mut received = Vec::new();
            let mut sent = 0;
            for (seconds, delivers, refuses) in steps {
                now += Duration::from_secs(seconds);
                sent += 1;
                if refuses { outbox.refuse() } else { outbox.push(Kind::Part, vec![0], now) }
                if delivers {
                    while let Some(batch) = outbox.batch() {
                        received.extend(batch.messages.iter().map(|message| message.number));
                        outbox.received(*received.last().expect("a batch is not empty"));
                    }
                }
            }
            prop_assert!(received.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(received.len() as u64 + outbox.dropped() + outbox.waiting() as u64, sent);
        }
    }
}
