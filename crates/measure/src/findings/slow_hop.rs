//! The hop that made tokens slower during the run.

use super::{FindingInputs, FindingList};
use crate::{Hop, HopGrowth};

/// Adds a finding for the hop that explains most of the growth between the calmest and the worst part of the run.
pub(super) fn find(measured: &FindingInputs<'_>, found: &mut FindingList) {
    let Some(growth) = &measured.hop_growth else { return };
    let HopGrowth { hop, calm, worst } = growth;
    let (who, title, advice) = match hop {
        Hop::Pace => {
            ("server", "the simulator handed tokens over late", "Give the simulators more CPU time.")
        }
        Hop::Bus if measured.bus_in_memory => {
            ("redis", "tokens waited on the bus", "The bus runs inside this process.")
        }
        Hop::Bus => (
            "redis",
            "tokens waited at Redis",
            "This hop ends when the gateway reads its connection: compare the CPU use of Redis and of the gateways.",
        ),
        Hop::Gateway => (
            "wsproxy",
            "tokens waited in the gateway",
            "This includes the time in the socket's queue: look for busy gateways and for slow consumers.",
        ),
        Hop::Network => (
            "haproxy",
            "tokens waited between gateway and client",
            "Load balancers, the network and the socket buffers are on this way.",
        ),
    };
    let evidence = format!(
        "From {} s to {} s a token took {:.1} ms on average, in the calmest part of the run ({} s to {} s) {:.1} ms. The hop `{}` grew from {:.1} to {:.1} ms, which is {:.0} % of the growth ({} and {} sampled tokens). {advice}",
        worst.from_s,
        worst.to_s,
        worst.total_ms,
        calm.from_s,
        calm.to_s,
        calm.total_ms,
        hop.metric().name_ms(),
        calm.hop_ms,
        worst.hop_ms,
        (growth.share() * 100.0).min(100.0),
        calm.samples,
        worst.samples,
    );
    found.under(measured.attribute(who, worst.from_s, worst.to_s), title.into(), evidence);
}
