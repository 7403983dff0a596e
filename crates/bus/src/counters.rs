//! Counters of a broker: plain atomics that are read as one snapshot.

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
            /// Returns the present counts.
            #[must_use]
            pub fn snapshot(&self) -> CountersSnapshot {
                CountersSnapshot { $($name: self.$name.load(Relaxed)),* }
            }
        }

        impl CountersSnapshot {
            /// Returns names and values, for an exporter.
            #[must_use]
            pub fn readings(&self) -> Vec<host::Reading> {
                let counter = |name, value| host::Reading::counter(name, "Counter of the bus", value);
                vec![$(counter(concat!("bus_", stringify!($name)), self.$name)),*]
            }
        }
    };
}

counters! {
    /// Events that were appended and acknowledged.
    appended,
    /// Events that had no subscriber when they were published.
    unheard,
    /// Events that lanes delivered.
    forwarded,
    /// Live events that a lane had delivered before, or left to a read of the log.
    skipped,
    /// Live messages for a session that has no lane here any more.
    no_lane,
    /// Messages and log entries that cannot be parsed.
    malformed,
    /// Times that a live lane fell behind.
    fell_behind,
    /// Pages read from logs.
    pages_read,
    /// Gaps announced.
    gaps,
    /// Lanes taken over by another connection.
    taken_over,
    /// Attachments that the broker executed after their deadline, and that changed nothing.
    late_attaches,
    /// Control messages dropped because their queue was full.
    control_dropped,
    /// Connections to the broker that were lost.
    disconnects,
    /// Times that this process restored its data in a broker that may have lost data.
    restorations,
    /// Sessions of which the broker lacked something in a restoration.
    restored_sessions,
    /// Sessions that were skipped in a restoration, a renewal or the end of a dead server's queries, because Redis
    /// refuses their commands. Each session counts once.
    refused_sessions,
    /// Sessions dropped from the acknowledged history because its size limit was reached.
    kept_dropped,
    /// Queries of dead servers, and queries that this server did not play, that this server ended.
    buried,
    /// Subscriptions that were reopened because nothing arrived on them.
    silences,
}

impl Counters {
    /// Sets a counter that is kept elsewhere.
    pub(crate) fn show(counter: &AtomicU64, count: u64) {
        counter.store(count, Relaxed);
    }

    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }
}
