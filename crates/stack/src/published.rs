//! The ports that a container publishes on this machine, and what one of Docker's port proxies can carry.
//!
//! With its default settings Docker starts one process, a port proxy, for each published port of a loopback address. A
//! proxy copies every connection through itself and needs several descriptors for each. When they run out it ends, with all
//! its connections, and its port stays dead until the container is restarted. A container that publishes one port several
//! times has several proxies.

use crate::docker::{self, PortBinding, PublishedPorts};
use anyhow::Context;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

/// Descriptors of a port proxy for one connection: two sockets, and a pipe in each direction.
const DESCRIPTORS_PER_CONNECTION: u64 = 6;
/// Descriptors that a port proxy needs for itself, rounded up.
const OWN_DESCRIPTORS: u64 = 32;

/// Returns the loopback addresses that Docker publishes for the same container port as `address`, in order. The list is empty if
/// `address` does not belong to a container. Takes at most `timeout`. Blocks.
///
/// # Errors
/// Docker is not installed, does not respond in time, or returns an error.
pub fn siblings(address: SocketAddr, timeout: Duration) -> anyhow::Result<Vec<SocketAddr>> {
    let deadline = Instant::now() + timeout;
    let mut arguments = docker::words("ps --quiet --no-trunc --filter");
    arguments.push(format!("publish={}", address.port()));
    let containers = docker::read_within(&arguments, timeout)?;
    if containers.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mut arguments = docker::words("inspect --type container --format");
    arguments.push("{{json .NetworkSettings.Ports}}".to_owned());
    arguments.extend(containers.lines().map(str::to_owned));
    let answer = docker::read_within(&arguments, deadline.saturating_duration_since(Instant::now()))?;
    let mut found = Vec::new();
    for line in answer.lines() {
        let ports: PublishedPorts = serde_json::from_str(line)
            .context("unexpected output of `docker inspect`: expected a JSON table of ports")?;
        found.extend(same_container_port(&ports, address));
    }
    Ok(found)
}

/// Returns the loopback addresses of the container port to which `address` leads.
fn same_container_port(ports: &PublishedPorts, address: SocketAddr) -> Vec<SocketAddr> {
    let addresses = |bindings: &Vec<PortBinding>| -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = bindings.iter().filter_map(on_loopback).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    };
    let all =
        ports.iter().filter(|(port, _)| port.ends_with("/tcp")).filter_map(|(_, bindings)| bindings.as_ref());
    all.map(addresses).find(|addresses| addresses.contains(&address)).unwrap_or_default()
}

/// Returns the loopback address of a binding. `None` if it is bound to another address.
pub(crate) fn on_loopback(binding: &PortBinding) -> Option<SocketAddr> {
    let port = binding.host_port.parse().ok()?;
    let address = match binding.host_ip.as_str() {
        // All addresses of the host, with a single proxy.
        "" | "0.0.0.0" => Ipv4Addr::LOCALHOST.into(),
        other => other.parse::<IpAddr>().ok().filter(IpAddr::is_loopback)?,
    };
    Some(SocketAddr::new(address, port))
}

/// Estimates how many connections the port proxy of `address` can carry at once, from its limit of open files. `None` if no
/// proxy is found: Docker can publish ports without one.
#[must_use]
pub fn capacity(address: SocketAddr) -> Option<u64> {
    let processes =
        fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut pids = processes.filter_map(|name| name.parse().ok());
    let pid = pids
        .find(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_proxy_of(&line, address)))?;
    Some(connections(host::open_file_limit(pid)?))
}

/// Returns how many connections a proxy with this limit of descriptors can carry.
fn connections(descriptors: u64) -> u64 {
    descriptors.saturating_sub(OWN_DESCRIPTORS) / DESCRIPTORS_PER_CONNECTION
}

/// Returns whether a command line is that of the port proxy of `address`. Its words end with zero bytes.
fn is_proxy_of(command_line: &[u8], address: SocketAddr) -> bool {
    let words: Vec<_> = command_line.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
    let value = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1).map(AsRef::as_ref)
    };
    let is_proxy = words.first().is_some_and(|program| program.ends_with("docker-proxy"));
    let ip = value("-host-ip").and_then(|ip| ip.parse::<IpAddr>().ok());
    let same_ip = ip.is_some_and(|ip| ip == address.ip() || ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    is_proxy
        && same_ip
        && value("-proto") == Some("tcp")
        && value("-host-port") == Some(&address.port().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ports: &str, address: &str) -> Vec<String> {
        let found = same_container_port(&serde_json::from_str(ports).unwrap(), address.parse().unwrap());
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn finds_the_addresses_of_one_container_port() {
        let ports = r#"{
            "8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}],
            "8081/tcp": [
                {"HostIp": "127.0.0.2", "HostPort": "8081"},
                {"HostIp": "127.0.0.1", "HostPort": "8081"},
                {"HostIp": "", "HostPort": "9081"},
                {"HostIp": "192.0.2.7", "HostPort": "8081"},
                {"HostIp": "::", "HostPort": "9081"}
            ],
            "8404/tcp": null
        }"#;
        let all = ["127.0.0.1:8081", "127.0.0.1:9081", "127.0.0.2:8081"];
        assert_eq!(addresses(ports, "127.0.0.1:8081"), all);
        assert_eq!(addresses(ports, "127.0.0.1:9081"), all);
        assert_eq!(addresses(ports, "127.0.0.1:8080"), ["127.0.0.1:8080"]);
        assert!(addresses(ports, "127.0.0.3:8081").is_empty());
        assert!(addresses("{}", "127.0.0.1:8081").is_empty());
    }

    #[test]
    fn recognizes_a_port_proxy_and_its_limit() {
        let line = |ip: &str| {
            format!(
                "/usr/sbin/docker-proxy\0-proto\0tcp\0-host-ip\0{ip}\0-host-port\x008081\0-container-ip\x00172.18.0.2\0-container-port\x008081\0"
            )
        };
        let is_proxy = |line: &str| is_proxy_of(line.as_bytes(), "127.0.0.1:8081".parse().unwrap());
        assert!(is_proxy(&line("127.0.0.1")) && is_proxy(&line("0.0.0.0")));
        assert!(!is_proxy(&line("127.0.0.2")) && !is_proxy(&line("127.0.0.1").replace("8081", "8080")));
        assert!(!is_proxy(&line("127.0.0.1").replace("docker-proxy", "other")) && !is_proxy(""));
        assert_eq!(connections(20_000), 3328);
    }
}
