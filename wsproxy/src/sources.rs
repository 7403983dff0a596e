//! Where a request came from, and how many bad tokens came from there. A flood of them from one address costs that address its answers
//! and nobody else anything: good tokens never pay for bad ones, not even those from the same address.

use crate::rate::{Rate, whole_seconds};
use http::HeaderMap;
use ipnet::IpNet;
use prometheus_client::metrics::gauge::Gauge;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

/// Addresses that are told apart at a time; all others share one budget.
const MAX_SOURCES: usize = 4096;

/// How often a full table is searched for addresses whose budget is full again.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Ip(IpAddr),
    /// A process on this host, through the gateway's unix socket.
    Unix,
}

/// Where requests come from. Of IPv6 the network of 64 bits, all of which one client may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Ip(IpAddr),
    Unix,
}

impl From<Peer> for Source {
    fn from(peer: Peer) -> Self {
        match peer {
            Peer::Unix => Self::Unix,
            Peer::Ip(ip) => Self::Ip(match ip.to_canonical() {
                IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
                v4 @ IpAddr::V4(_) => v4,
            }),
        }
    }
}

/// The proxies whose `X-Forwarded-For` is believed: a comma-separated list of addresses, networks, and `unix` for whoever
/// connects to the gateway's unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    unix: bool,
    networks: Vec<IpNet>,
}

/// An entry is not an address, a network or `unix`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a proxy: give addresses, networks or `unix`, separated by commas, for example unix,10.0.0.0/8"
)]
pub struct ParseProxyError(String);

impl FromStr for TrustedProxies {
    type Err = ParseProxyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut proxies = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if entry == "unix" {
                proxies.unix = true;
                continue;
            }
            let network = entry.parse().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
            proxies.networks.push(network.map_err(|_| ParseProxyError(entry.to_owned()))?);
        }
        Ok(proxies)
    }
}

impl TrustedProxies {
    /// Returns where a request of `peer` came from. If `peer` is a trusted proxy, this is the last address in `X-Forwarded-For` that
    /// is not itself a trusted proxy: a client may have written what is further left. Else it is `peer`.
    pub(crate) fn source(&self, peer: Peer, headers: &HeaderMap) -> Source {
        let mut client = peer;
        let values = headers.get_all("x-forwarded-for").into_iter().rev();
        let mut hops = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        while self.trusts(client) {
            match hops.next().and_then(parse_hop) {
                Some(hop) => client = Peer::Ip(hop),
                None => break,
            }
        }
        client.into()
    }

    fn trusts(&self, peer: Peer) -> bool {
        match peer {
            Peer::Unix => self.unix,
            Peer::Ip(ip) => self.networks.iter().any(|network| network.contains(&ip.to_canonical())),
        }
    }
}

/// Reads an address, with or without a port.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// How many bad tokens each address may still send.
#[derive(Debug)]
pub(crate) struct BadTokens {
    rate: Rate,
    spent: HashMap<Source, Duration>,
    /// What all addresses without a place in the table have spent together.
    others: Duration,
    pruned: Duration,
    shown: Gauge,
}

impl BadTokens {
    /// `shown` tells how many addresses are being watched.
    pub(crate) fn new(rate: Rate, shown: Gauge) -> Self {
        Self { rate, spent: HashMap::new(), others: Duration::ZERO, pruned: Duration::ZERO, shown }
    }

    /// Counts one bad token from `source` at `now`, which never runs backwards.
    ///
    /// # Errors
    /// There were too many: the whole seconds until the next one is answered.
    pub(crate) fn enter(&mut self, source: Source, now: Duration) -> Result<(), u64> {
        if self.spent.len() >= MAX_SOURCES && now >= self.pruned + PRUNE_EVERY {
            self.pruned = now;
            self.spent.retain(|_, spent| *spent > now);
        }
        let has_place = self.spent.len() < MAX_SOURCES || self.spent.contains_key(&source);
        let spent = if has_place { self.spent.entry(source).or_default() } else { &mut self.others };
        let after = self.rate.after(*spent, now);
        let excess = self.rate.excess(after, now);
        if excess.is_zero() {
            *spent = after;
        }
        self.shown.set(i64::try_from(self.spent.len()).unwrap_or(i64::MAX));
        if excess.is_zero() { Ok(()) } else { Err(whole_seconds(excess)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Peer {
        Peer::Ip(text.parse().unwrap())
    }

    fn source(trusted: &str, peer: Peer, forwarded: &[&str]) -> Source {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        trusted.parse::<TrustedProxies>().unwrap().source(peer, &headers)
    }

    #[test]
    fn only_a_trusted_proxy_speaks_for_others() {
        for (trusted, peer, forwarded, expected) in [
            ("", ip("192.0.2.1"), &["198.51.100.7"][..], ip("192.0.2.1")),
            ("", Peer::Unix, &["198.51.100.7"], Peer::Unix),
            ("unix", Peer::Unix, &["198.51.100.7"], ip("198.51.100.7")),
            ("unix", Peer::Unix, &[], Peer::Unix),
            ("unix", Peer::Unix, &[""], Peer::Unix),
            ("unix", ip("127.0.0.1"), &["198.51.100.7"], ip("127.0.0.1")),
            ("10.0.0.0/8", ip("10.1.2.3"), &["198.51.100.7"], ip("198.51.100.7")),
            ("10.1.2.3", ip("::ffff:10.1.2.3"), &["198.51.100.7"], ip("198.51.100.7")),
            ("2001:db8::/32, 10.0.0.1", ip("2001:db8::5"), &["198.51.100.7:4711"], ip("198.51.100.7")),
            ("10.0.0.1", ip("10.0.0.1"), &["[2001:db8::1]:80"], ip("2001:db8::")),
        ] {
            assert_eq!(source(trusted, peer, forwarded), expected.into(), "{trusted} {peer:?} {forwarded:?}");
        }
    }

    #[test]
    fn what_a_client_wrote_further_left_counts_for_nothing() {
        let lists =
            [&["203.0.113.9, 198.51.100.7, 10.0.0.2"][..], &["203.0.113.9", "198.51.100.7", "10.0.0.2"]];
        for forwarded in lists {
            assert_eq!(source("10.0.0.0/8", ip("10.0.0.1"), forwarded), ip("198.51.100.7").into());
        }
        let torn = &["203.0.113.9, nonsense, 10.0.0.2"];
        assert_eq!(source("10.0.0.0/8", ip("10.0.0.1"), torn), ip("10.0.0.2").into());
        assert_eq!(source("10.0.0.0/8", ip("10.0.0.1"), &["10.0.0.3, 10.0.0.2"]), ip("10.0.0.3").into());
    }

    #[test]
    fn an_entry_that_is_not_a_proxy_is_named() {
        for text in ["haproxy", "10.0.0.0/33", "10.0.0.0/8,-", "unix:/x"] {
            let told = text.parse::<TrustedProxies>().unwrap_err().to_string();
            assert!(told.contains("unix,10.0.0.0/8"), "{told}");
        }
    }

    #[test]
    fn a_client_has_a_whole_network_of_ipv6() {
        assert_eq!(Source::from(ip("2001:db8::1")), Source::from(ip("2001:db8::2:3:4")));
        assert_ne!(Source::from(ip("2001:db8::1")), Source::from(ip("2001:db8:0:1::1")));
        assert_eq!(Source::from(ip("::ffff:192.0.2.1")), Source::from(ip("192.0.2.1")));
    }

    fn numbered(n: u32) -> Source {
        Source::Ip(IpAddr::V4(n.into()))
    }

    #[test]
    fn each_address_has_a_budget_and_gets_it_back() {
        let mut bad = BadTokens::new(Rate::new(5, 20).unwrap(), Gauge::default());
        let now = Duration::from_secs(100);
        let taken =
            |bad: &mut BadTokens, source, now| (0..1000).filter(|_| bad.enter(source, now).is_ok()).count();
        assert_eq!(taken(&mut bad, numbered(1), now), 20);
        assert_eq!(taken(&mut bad, numbered(2), now), 20, "the neighbour's budget is its own");
        assert_eq!(bad.enter(numbered(1), now), Err(1));
        assert_eq!(taken(&mut bad, numbered(1), now + Duration::from_secs(1)), 5);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_has_become_quiet() {
        let shown = Gauge::default();
        let mut bad = BadTokens::new(Rate::new(5, 20).unwrap(), shown.clone());
        let now = Duration::from_secs(100);
        let taken = (0..100_000).filter(|&n| bad.enter(numbered(n), now).is_ok()).count();
        assert_eq!(taken, MAX_SOURCES + 20, "those without a place share one budget");
        assert_eq!((bad.spent.len(), shown.get()), (MAX_SOURCES, MAX_SOURCES as i64));
        assert!(bad.enter(numbered(100_000), now + Duration::from_secs(30)).is_ok());
        assert_eq!(bad.spent.len(), 1);
    }
}
