//! What a broker counts: plain atomics, read as one snapshot.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counts since the broker was opened.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: AtomicU64),* }

        /// The counts at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        pub struct CountersSnapshot { $($(#[$doc])* pub $name: u64),* }

        impl Counters {
            /// The counts now.
            #[must_use]
            pub fn snapshot(&self) -> CountersSnapshot {
                CountersSnapshot { $($name: self.$name.load(Relaxed)),* }
            }
        }

        impl CountersSnapshot {
            /// Names and values, for an exporter.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Events appended and acknowledged.
    appended,
    /// Events that nobody was subscribed to.
    unheard,
    /// Events that lanes handed on.
    forwarded,
    /// Live events that a lane had handed on before, or left to the log.
    skipped,
    /// Live messages for a session that has no lane here any more.
    no_lane,
    /// Live messages that are no event of ours.
    malformed,
    /// Times that a live lane fell behind.
    fell_behind,
    /// Pages read from logs.
    pages_read,
    /// Gaps announced.
    gaps,
    /// Lanes taken over by another connection.
    taken_over,
    /// Attachments that the broker executed too late, and that changed nothing.
    late_attaches,
    /// Control messages dropped because their queue was full.
    control_dropped,
    /// Connections to the broker that were lost.
    disconnects,
    /// Times that this process gave back what it knew to a broker that may have forgotten.
    restorations,
    /// Sessions of which the broker lacked something then.
    restored_sessions,
    /// Sessions that were left out of a restoration, a renewal or the end of a dead server's queries, because Redis refuses
    /// their commands. Each session counts once.
    refused_sessions,
    /// Sessions that were not kept any longer for a broker that forgets, for want of room.
    kept_dropped,
    /// Queries of servers that were gone, ended by this one.
    buried,
    /// Subscriptions that were silent and were opened again.
    silences,
}

impl Counters {
    /// Of what is counted elsewhere: the count now.
    pub(crate) fn show(counter: &AtomicU64, count: u64) {
        counter.store(count, Relaxed);
    }

    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }
}
