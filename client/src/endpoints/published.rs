//! Spreads sockets over the ports that a container publishes for the gateway, and warns if these cannot carry the run.
//!
//! Each of Docker's port proxies carries a few thousand connections (see [`stack::published`]). Docker is asked once, before the
//! run. Without Docker nothing changes.

use crate::config::Config;
use plan::Estimate;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use url::{Host, Url};

/// Finds all published ports of the gateway's container if the target is a port of this machine, and adds them to the plan.
pub(crate) fn find(config: &mut Config) {
    /// Limit for all requests to Docker together.
    const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
    if config.embedded || !config.plan.target.more_ws.is_empty() {
        return;
    }
    let Some(address) = on_loopback(config.plan.target.ws.url()) else { return };
    let ports = stack::published::siblings(address, TIMEOUT).unwrap_or_default();
    if ports.len() > 1 {
        config.plan.target.published = ports;
    }
    let api = on_loopback(config.plan.target.api.url());
    let sockets = ports_or(&config.plan.target.published, address);
    let carried: Option<u64> = sockets.iter().map(|&port| stack::published::capacity(port)).sum();
    let calls = api.and_then(stack::published::capacity);
    config.warnings.extend(too_narrow(config, carried, calls));
}

fn ports_or(published: &[SocketAddr], address: SocketAddr) -> Vec<SocketAddr> {
    if published.is_empty() { vec![address] } else { published.to_vec() }
}

/// Returns the address of a URL whose host is a loopback address or `localhost`.
fn on_loopback(url: &Url) -> Option<SocketAddr> {
    let ip = match url.host()? {
        Host::Ipv4(ip) => IpAddr::V4(ip),
        Host::Ipv6(ip) => IpAddr::V6(ip),
        Host::Domain(name) if name.eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST.into(),
        Host::Domain(_) => return None,
    };
    ip.is_loopback().then_some(SocketAddr::new(ip, url.port_or_known_default()?))
}

/// Returns warnings if the run needs more connections than the port proxies carry: `sockets` WebSockets and `calls` HTTP
/// connections, as far as these capacities are known.
fn too_narrow(config: &Config, sockets: Option<u64>, calls: Option<u64>) -> Vec<String> {
    let wanted = Estimate::of(&config.plan).sockets;
    let http = wanted.min(config.plan.target.http_connections as u64);
    let warning = |wanted, carried, what, also| {
        format!(
            "Docker's port proxies carry about {carried} connections, because a proxy exits when it runs out of file descriptors. This run \
             opens up to {wanted} {what}: run the client in a container (docker compose run --rm client …){also}"
        )
    };
    let narrow = |wanted, carried: Option<u64>| carried.filter(|&carried| carried < wanted);
    let sockets = narrow(wanted, sockets).map(|carried| {
        warning(wanted, carried, "WebSockets", ", or publish HAProxy's port 8081 more often in compose.yaml")
    });
    let calls = narrow(http, calls)
        .map(|carried| warning(http, carried, "HTTP connections", ", or lower --http-connections"));
    sockets.into_iter().chain(calls).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::RunArgs;

    #[test]
    fn only_loopback_addresses_count() {
        let address = |url: &str| on_loopback(&url.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(address("ws://127.0.0.1:8081").as_deref(), Some("127.0.0.1:8081"));
        assert_eq!(address("ws://localhost").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(address("wss://[::1]").as_deref(), Some("[::1]:443"));
        assert_eq!(address("ws://gateway.example:8081"), None);
        assert_eq!(address("ws://192.0.2.1:8081"), None);
    }

    #[test]
    fn warns_if_the_proxies_cannot_carry_the_run() {
        let config = Config::new(RunArgs { clients: Some(5000), ..RunArgs::default() }, 2, 1).unwrap();
        let warnings = too_narrow(&config, Some(3328), Some(900));
        assert!(warnings[0].contains("carry about 3328 connections"), "{warnings:?}");
        assert!(warnings[0].contains("up to 5000 WebSockets: run the client in a container"), "{warnings:?}");
        assert!(warnings[1].contains("up to 1000 HTTP connections"), "{warnings:?}");
        assert!(too_narrow(&config, Some(5000), Some(1000)).is_empty());
        assert!(too_narrow(&config, None, None).is_empty(), "no proxy was seen");
    }
}
