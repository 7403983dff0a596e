//! The metrics: measured durations and their names, one list for all outputs.

use crate::record::LagKind;

/// A measured duration, named as in every output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Metric {
    /// Actual send − scheduled send of a query.
    Queue,
    /// First token − request sent.
    Ttft,
    /// First token − scheduled send.
    TtftSched,
    /// Terminator − request sent.
    E2el,
    /// Terminator − scheduled send.
    E2elSched,
    /// (Last token − first token) / (tokens − 1).
    Tpot,
    /// Gap between consecutive tokens.
    Itl,
    /// Gap between reads that carried tokens.
    FrameGap,
    /// Received − sent by the simulator, one way.
    Delivery,
    /// Received − sent by the simulator, for replayed events.
    ReplayDelivery,
    /// Lateness of the simulator.
    PaceLag,
    /// `ttft` − ideal by the drawn schedule; may be negative.
    TtftOverhead,
    /// `e2el` − ideal by the drawn schedule; may be negative.
    E2elOverhead,
    /// `POST /session/create`.
    Create,
    /// TCP + upgrade + JWT + subscription live.
    Connect,
    /// `POST /session/{id}/close`.
    Close,
    /// Loss of a socket to the next 101.
    ReconnectGap,
    /// Actual start − scheduled start, of sessions and queries alike.
    ScheduleLag,
    /// Actual − intended wake-up of the client's event loop.
    LoopLag,
    /// Time between the due time and the send of a query during which the socket was down.
    SocketWait,
    /// A sampled token's time in the simulator: handed over − due.
    HopPace,
    /// A sampled token's time on the bus: read by the gateway − handed over.
    HopBus,
    /// A sampled token's time in the gateway: passed to the socket − read by the gateway.
    HopGateway,
    /// A sampled token's time in the network: received − passed to the socket.
    HopNetwork,
    /// First text of the model's reasoning − request sent, in a foreign dialect.
    TtftReasoning,
    /// First failed attempt to open a session's first socket to the opening of that socket.
    FirstSocket,
}

impl Metric {
    /// Number of metrics.
    pub const COUNT: usize = Self::ALL.len();

    /// All metrics, in the order of the outputs.
    pub const ALL: [Self; 26] = [
        Self::Queue,
        Self::Ttft,
        Self::TtftSched,
        Self::E2el,
        Self::E2elSched,
        Self::Tpot,
        Self::Itl,
        Self::FrameGap,
        Self::Delivery,
        Self::ReplayDelivery,
        Self::PaceLag,
        Self::TtftOverhead,
        Self::E2elOverhead,
        Self::Create,
        Self::Connect,
        Self::Close,
        Self::ReconnectGap,
        Self::ScheduleLag,
        Self::LoopLag,
        Self::SocketWait,
        Self::HopPace,
        Self::HopBus,
        Self::HopGateway,
        Self::HopNetwork,
        Self::TtftReasoning,
        Self::FirstSocket,
    ];

    /// The primary latencies: each sample has bounds, and each figure is trusted or not.
    pub const PRIMARY: [Self; 8] = [
        Self::Ttft,
        Self::TtftSched,
        Self::E2el,
        Self::E2elSched,
        Self::Itl,
        Self::Tpot,
        Self::Connect,
        Self::Create,
    ];

    /// Returns the index in [`Metric::PRIMARY`].
    #[must_use]
    pub fn primary(self) -> Option<usize> {
        Self::PRIMARY.iter().position(|&primary| primary == self)
    }

    /// Returns whether samples can be too low as well as too high, because both ends are arrivals.
    #[must_use]
    pub const fn errs_both_ways(self) -> bool {
        matches!(self, Self::Itl | Self::Tpot)
    }

    /// Returns the name with its unit: `ttft_ms`, `itl_ms`, `e2el_ms` …
    #[must_use]
    pub fn name_ms(self) -> String {
        format!("{}_ms", self.name())
    }

    /// Returns the name without its unit: `ttft`, `itl`, `e2el` …
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Ttft => "ttft",
            Self::TtftSched => "ttft_sched",
            Self::E2el => "e2el",
            Self::E2elSched => "e2el_sched",
            Self::Tpot => "tpot",
            Self::Itl => "itl",
            Self::FrameGap => "frame_gap",
            Self::Delivery => "delivery",
            Self::ReplayDelivery => "replay_delivery",
            Self::PaceLag => "pace_lag",
            Self::TtftOverhead => "ttft_overhead",
            Self::E2elOverhead => "e2el_overhead",
            Self::Create => "create",
            Self::Connect => "connect",
            Self::Close => "close",
            Self::ReconnectGap => "reconnect_gap",
            Self::ScheduleLag => "schedule_lag",
            Self::LoopLag => "loop_lag",
            Self::SocketWait => "socket_wait",
            Self::HopPace => "hop_pace",
            Self::HopBus => "hop_bus",
            Self::HopGateway => "hop_gateway",
            Self::HopNetwork => "hop_network",
            Self::TtftReasoning => "ttft_reasoning",
            Self::FirstSocket => "first_socket",
        }
    }
}

impl From<LagKind> for Metric {
    fn from(sample: LagKind) -> Self {
        match sample {
            LagKind::PaceLag => Self::PaceLag,
            LagKind::LoopLag => Self::LoopLag,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_the_order_of_the_discriminants() {
        for (index, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric as usize, index, "{}", metric.name());
        }
    }
}
