//! Computes which token of which connection is due when. All connections take turns at an even rate. Pure arithmetic over
//! elapsed time, without a clock.

/// An even pace over `n` connections: token `k` belongs to connection `k mod n` and has the sequence number `k / n + 1`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    connections: u64,
    /// Tokens per second, summed over all connections.
    rate: f64,
    total: u64,
    handed_out: u64,
}

/// One token that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// Index of its connection.
    pub(crate) connection: usize,
    /// Its sequence number on the connection, from 1.
    pub(crate) seq: u64,
    /// Due time in microseconds since the start.
    pub(crate) due_us: u64,
}

impl Pace {
    /// Creates a pace of `rate` tokens per second for at least `duration_us` microseconds, rounded up so that each connection has
    /// the same number of tokens.
    pub(crate) fn new(connections: usize, rate: f64, duration_us: u64) -> Self {
        let connections = connections.max(1) as u64;
        let rounds = (rate * duration_us as f64 / 1e6 / connections as f64).ceil().max(1.0) as u64;
        Self { connections, rate, total: rounds * connections, handed_out: 0 }
    }

    /// Returns the number of all tokens.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// Returns the number of tokens of one connection.
    pub(crate) const fn rounds(&self) -> u64 {
        self.total / self.connections
    }

    pub(crate) const fn is_over(&self) -> bool {
        self.handed_out == self.total
    }

    /// Returns the next token if it is due.
    pub(crate) fn next_due(&mut self, elapsed_us: u64) -> Option<Due> {
        if self.is_over() {
            return None;
        }
        let due_us = (self.handed_out as f64 * 1e6 / self.rate) as u64;
        if due_us > elapsed_us {
            return None;
        }
        let connection = (self.handed_out % self.connections) as usize;
        let seq = self.handed_out / self.connections + 1;
        self.handed_out += 1;
        Some(Due { connection, seq, due_us })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn connections_are_staggered_over_their_interval() {
        let mut pace = Pace::new(4, 80.0, 100_000);
        let due: Vec<_> = std::iter::from_fn(|| pace.next_due(60_000)).collect();
        let at = |connection, seq, due_us| Due { connection, seq, due_us };
        assert_eq!(
            due,
            [at(0, 1, 0), at(1, 1, 12_500), at(2, 1, 25_000), at(3, 1, 37_500), at(0, 2, 50_000)]
        );
        assert_eq!((pace.total(), pace.rounds(), pace.is_over()), (8, 2, false));
    }

    proptest! {
        /// For any steps of the clock: every token comes once, in order on its connection, and none early.
        #[test]
        fn everything_comes_once_in_order_and_never_early(
            connections in 1usize..20, rate in 1.0f64..5_000.0, steps in prop::collection::vec(0u64..50_000, 1..40),
        ) {
            let mut pace = Pace::new(connections, rate, 500_000);
            let mut next = vec![1; connections];
            let mut elapsed = 0;
            for step in steps.into_iter().chain([u64::MAX / 2]) {
                elapsed += step;
                while let Some(due) = pace.next_due(elapsed) {
                    prop_assert!(due.due_us <= elapsed);
                    prop_assert_eq!(due.seq, next[due.connection]);
                    next[due.connection] += 1;
                }
            }
            prop_assert!(pace.is_over() && next.iter().all(|&next| next == pace.rounds() + 1));
        }
    }
}
