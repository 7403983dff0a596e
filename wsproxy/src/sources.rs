//! Finds a request's source address and limits invalid tokens per source. A flood of invalid tokens affects only the answers to further
//! invalid tokens of its source: valid tokens are never refused for it.

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

/// Number of sources with separate budgets. All others share one budget.
const MAX_SOURCES: usize = 4096;

/// Shortest time between searches of a full table for sources whose budget is full again.
const PRUNE_EVERY: Duration = Duration::from_secs(1);

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Ip(IpAddr),
    /// A process on this host, through the gateway's unix socket.
    Unix,
}

/// The source of requests: an IPv4 address, or an IPv6 network of 64 bits, because one client can own all of its addresses.
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

/// The proxies whose `X-Forwarded-For` is trusted. The text form is a comma-separated list of addresses, networks, and `unix` for peers of
/// the gateway's unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    unix: bool,
    networks: Vec<IpNet>,
}

/// An entry is not an address, a network or `unix`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid proxy `{0}`: expected comma-separated addresses, networks or `unix`, for example unix,10.0.0.0/8"
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
    /// Returns the source of a request of `peer`. For a trusted proxy it is the last address in `X-Forwarded-For` that is not a trusted proxy
    /// too. Addresses further left may be invented by the client. For any other peer it is `peer`.
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

/// Parses an address with or without a port.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// The limiter of invalid tokens per source.
#[derive(Debug)]
pub(crate) struct BadTokens {
    rate: Rate,
    spent: HashMap<Source, Duration>,
    /// `spent` of all sources without a place in the table.
    others: Duration,
    pruned: Duration,
    shown: Gauge,
}

impl BadTokens {
    /// Creates the limiter. `shown` is set to the number of sources in the table.
    pub(crate) fn new(rate: Rate, shown: Gauge) -> Self {
        Self { rate, spent: HashMap::new(), others: Duration::ZERO, pruned: Duration::ZERO, shown }
    }

    /// Counts one invalid token from `source` at `now`, which must not decrease.
    ///
    /// # Errors
    /// The limit is exceeded: the whole seconds until the next one is explained.
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
    fn only_a_trusted_proxies_header_counts() {
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
    fn addresses_invented_by_a_client_are_ignored() {
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
    fn an_invalid_proxy_is_refused_with_an_example() {
        for text in ["haproxy", "10.0.0.0/33", "10.0.0.0/8,-", "unix:/x"] {
            let error = text.parse::<TrustedProxies>().unwrap_err().to_string();
            assert!(error.contains("unix,10.0.0.0/8"), "{error}");
        }
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        assert_eq!(Source::from(ip("2001:db8::1")), Source::from(ip("2001:db8::2:3:4")));
        assert_ne!(Source::from(ip("2001:db8::1")), Source::from(ip("2001:db8:0:1::1")));
        assert_eq!(Source::from(ip("::ffff:192.0.2.1")), Source::from(ip("192.0.2.1")));
    }

    fn numbered(n: u32) -> Source {
        Source::Ip(IpAddr::V4(n.into()))
    }

    #[test]
    fn each_source_has_its_own_budget_that_refills() {
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
    fn the_table_is_bounded_and_forgets_quiet_sources() {
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
