//! Adds the gateway's times to the tokens that the client asked for, while they are live. A token that waits in the queue gets its second
//! time anew before each write, so that its wait counts as time in the gateway.

use super::Outbox;
use protocol::{GatewayStamps, Prefix, StampedToken};

impl Outbox {
    /// Sends a token with the gateway's times.
    #[cold]
    pub(super) fn sampled(&self, prefix: Prefix, frame: &[u8]) {
        let received_us = host::monotonic_us();
        let mut state = self.state.lock();
        let stamps = GatewayStamps { received_us, written_us: host::monotonic_us() };
        let Some(stamped) = StampedToken::new(frame, stamps) else {
            return self.deliver(&mut state, prefix, frame);
        };
        self.deliver(&mut state, prefix, stamped.frame());
        state.queue.stamped(prefix.position, stamped.written_digits());
        let spent_us = host::monotonic_us().saturating_sub(received_us);
        self.shared.metrics.sampled.observe_us(spent_us, 1);
    }
}
