//! What must hold before the first session starts: hosts that may be tested, descriptors, ports, something that answers.
//! It starts no load and repairs nothing but the soft limit of descriptors; every fault names the next step.

use crate::config::{Config, ConfigErrors};
use load::{
    connector::Connector,
    explain::{TransportError, describe},
    http::Http,
    injection::Injector,
};
use plan::PlannedFault;
use report::{messages, screen};
use std::{
    net::{IpAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

/// A target that does not answer within this is not there.
const PATIENCE: Duration = Duration::from_secs(5);
/// Descriptors for files, runtimes, the terminal.
const SPARE_DESCRIPTORS: u64 = 128;

/// What this machine allows a process.
#[derive(Clone, Copy, Debug)]
struct Room {
    descriptors: u64,
    /// Outgoing ports to one destination; `None` where the system does not tell.
    ports: Option<u64>,
}

/// Checks what needs no network, and raises the soft limit of descriptors to the hard one.
///
/// # Errors
/// Everything that does not fit.
pub fn local(config: &Config) -> Result<(), ConfigErrors> {
    let room = Room { descriptors: host::raise_open_files(), ports: outgoing_ports() };
    let mut faults = does_not_fit(config, room);
    faults.extend(hosts_not_allowed(config));
    if faults.is_empty() { Ok(()) } else { Err(ConfigErrors(faults)) }
}

/// Checks that there is a terminal for what is to be shown on it.
///
/// # Errors
/// There is none.
pub fn terminal(config: &Config) -> Result<(), ConfigErrors> {
    if config.output.tui {
        screen::check().map_err(|fault| ConfigErrors(vec![fault]))?;
    }
    Ok(())
}

/// Checks that everything that is to be broken is there.
///
/// # Errors
/// Everything that is not.
pub fn faults(config: &Config, injector: &dyn Injector) -> Result<(), ConfigErrors> {
    let missing = |fault: &PlannedFault| {
        let error = injector.check(&fault.spec).err()?;
        Some(format!(
            "--fault `{}` cannot be injected: {error:#} (--fault-stack names another stack)",
            fault.spec
        ))
    };
    let faults: Vec<_> = config.plan.faults.planned.iter().filter_map(missing).collect();
    if faults.is_empty() { Ok(()) } else { Err(ConfigErrors(faults)) }
}

fn outgoing_ports() -> Option<u64> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = range.split_ascii_whitespace().map(str::parse::<u64>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

/// The descriptors that the run opens at most.
#[must_use]
pub fn descriptors(config: &Config) -> u64 {
    let clients = config.plan.load.clients;
    let http = clients.min(config.plan.target.http_connections as u64);
    let ends = if config.embedded { 2 } else { 1 };
    (clients + http) * ends + SPARE_DESCRIPTORS
}

fn does_not_fit(config: &Config, room: Room) -> Vec<String> {
    let clients = config.plan.load.clients;
    let http = clients.min(config.plan.target.http_connections as u64);
    let ends = if config.embedded { 2 } else { 1 };
    let needed = descriptors(config);
    let mut faults = Vec::new();
    if needed > room.descriptors {
        let fit = (room.descriptors.saturating_sub(SPARE_DESCRIPTORS) / ends).saturating_sub(http);
        let both =
            if config.embedded { ", and with --embedded both ends of each are in this process" } else { "" };
        faults.push(format!(
            "{clients} clients and {http} HTTP connections need {needed} descriptors{both}, and this process may have {}: \
             raise the limit (`ulimit -n {needed}`), or lower --http-connections, or run at most {fit} clients",
            room.descriptors
        ));
    }
    let addresses = config.plan.target.local_ips.len().max(1) as u64;
    if let Some(ports) = room.ports.map(|ports| ports * addresses).filter(|&ports| clients > ports) {
        faults.push(format!(
            "{clients} clients need as many outgoing ports to one address, and this machine has {ports}: \
             widen net.ipv4.ip_local_port_range, give more --local-ips, or run at most {ports} clients"
        ));
    }
    let foreign = |&&address: &&IpAddr| TcpListener::bind((address, 0)).is_err();
    if let Some(address) = config.plan.target.local_ips.iter().find(foreign) {
        faults.push(format!("--local-ips: {address} is no address of this machine"));
    }
    faults
}

fn hosts_not_allowed(config: &Config) -> Vec<String> {
    if config.embedded {
        return Vec::new();
    }
    let target = &config.plan.target;
    let addresses = [&target.api, &target.ws].into_iter().chain(&target.more_ws);
    let mut hosts: Vec<&str> = addresses.filter_map(|address| address.url().host_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
        .into_iter()
        .filter(|host| !is_loopback(host))
        .filter(|host| !target.allowed_hosts.iter().any(|allowed| allowed.trim().eq_ignore_ascii_case(host)))
        .map(|host| {
            format!(
                "{host} is not this machine: if you may load-test it, say so with --i-am-allowed-to-load-test {host}"
            )
        })
        .collect()
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Checks that both targets answer. Answers how sockets are opened from then on.
///
/// # Errors
/// Everything that does not answer.
pub async fn network(config: &Config, tls: &rustls::ClientConfig) -> Result<Arc<Connector>, ConfigErrors> {
    let (api, ws) = tokio::join!(api_answers(config, tls), ws_answers(config, tls));
    match (api, ws) {
        (Ok(()), Ok(connector)) => Ok(connector),
        (api, ws) => Err(ConfigErrors(api.err().into_iter().chain(ws.err()).collect())),
    }
}

async fn api_answers(config: &Config, tls: &rustls::ClientConfig) -> Result<(), String> {
    let api = &config.plan.target.api;
    let http = Http::new(&config.plan.target, 1, tls.clone());
    match tokio::time::timeout(PATIENCE, http.ready()).await {
        Err(_) => Err(unreachable(api, &format!("no answer within {} s", PATIENCE.as_secs()))),
        Ok(Err(error)) => Err(refused(api, &describe(&*error))),
        // Other people's servers need not have such a page, or not for everybody.
        Ok(Ok(answer)) if !answer.status.is_server_error() => Ok(()),
        Ok(Ok(answer)) => Err(format!(
            "{api} is there but not ready ({}): wait until its /ready answers 200, and see what it logs",
            http.explain(&answer)
        )),
    }
}

async fn ws_answers(config: &Config, tls: &rustls::ClientConfig) -> Result<Arc<Connector>, String> {
    let ws = &config.plan.target.ws;
    let connector = Connector::resolve(&config.plan.target, Arc::new(tls.clone()))
        .await
        .map_err(|error| unreachable(ws, &format!("{error:#}")))?;
    for from in one_of_each_family(&config.plan.target.local_ips) {
        let (endpoint, error) = match tokio::time::timeout(PATIENCE, connector.reach(from)).await {
            Ok(Ok(dead)) => {
                dead.iter().for_each(warn_of_dead_port);
                continue;
            }
            Ok(Err(refused)) => refused,
            Err(_) => {
                let text = format!("no answer within {} s", PATIENCE.as_secs());
                (ws.to_string(), TransportError { text, is_permanent: false })
            }
        };
        return Err(match from {
            Some(from) => {
                format!("--local-ips: {endpoint} cannot be reached from {from} ({})", error.text)
            }
            None => refused(&endpoint, &error),
        });
    }
    Ok(Arc::new(connector))
}

fn warn_of_dead_port((port, error): &(String, TransportError)) {
    messages::print_stderr(&format!(
        "warning: {port} takes no connection ({}), so sockets go to the other published ports: Docker's port proxy has \
         probably ended; restart the container to get the port back",
        error.text
    ));
}

/// From where the gateway must be reached: nowhere in particular, where nothing is said.
fn one_of_each_family(local_ips: &[IpAddr]) -> Vec<Option<IpAddr>> {
    let first = |is_v4: bool| local_ips.iter().copied().find(|address| address.is_ipv4() == is_v4);
    if local_ips.is_empty() {
        vec![None]
    } else {
        [first(true), first(false)].into_iter().flatten().map(Some).collect()
    }
}

fn refused(target: &dyn std::fmt::Display, error: &TransportError) -> String {
    if error.is_permanent {
        return format!("{target}: {}", error.text);
    }
    unreachable(target, &error.text)
}

fn unreachable(target: &dyn std::fmt::Display, why: &str) -> String {
    format!(
        "nothing answers at {target} ({why}): start a stack with `streamstress stack up --detach` or \
         `docker compose up -d`, or run with --embedded"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::RunArgs;

    fn config(args: RunArgs) -> Config {
        Config::new(args, 2, 1).unwrap()
    }

    #[test]
    fn says_what_does_not_fit() {
        let room = Room { descriptors: 20_000, ports: Some(28_000) };
        let run = |clients, embedded| {
            does_not_fit(&config(RunArgs { clients: Some(clients), embedded, ..RunArgs::default() }), room)
        };
        assert!(run(18_000, false).is_empty());
        assert!(run(19_000, false)[0].contains("20128 descriptors"));
        assert!(run(8_900, true).is_empty());
        assert!(run(9_900, true)[0].contains("both ends"));
        let faults = run(30_000, false);
        assert!(faults[0].contains("at most 18872 clients"), "{faults:?}");
        assert!(faults[1].contains("at most 28000 clients"), "{faults:?}");
    }

    #[test]
    fn more_addresses_have_more_ports_and_are_this_machines() {
        let room = Room { descriptors: u64::MAX, ports: Some(28_000) };
        let faults = |local_ips: &str| {
            let local_ips = Some(local_ips.to_owned());
            does_not_fit(&config(RunArgs { clients: Some(50_000), local_ips, ..RunArgs::default() }), room)
        };
        assert!(faults("127.0.0.1-127.0.0.2").is_empty());
        assert!(faults("127.0.0.1")[0].contains("--local-ips"));
        assert_eq!(faults("127.0.0.1, 192.0.2.1"), ["--local-ips: 192.0.2.1 is no address of this machine"]);
    }

    #[test]
    fn only_this_machine_unless_allowed() {
        let hosts = |url: &str, allowed: &[&str]| {
            hosts_not_allowed(&config(RunArgs {
                api_url: Some(format!("http://{url}")),
                wsproxy_url: vec![format!("ws://{url}")],
                i_am_allowed_to_load_test: allowed.iter().map(|&host| host.to_owned()).collect(),
                ..RunArgs::default()
            }))
        };
        for here in ["localhost:1", "127.0.0.1", "127.9.9.9:80", "[::1]:8080", "LOCALHOST"] {
            assert!(hosts(here, &[]).is_empty(), "{here}");
        }
        for elsewhere in ["haproxy:8080", "10.0.0.1", "localhost.example.com", "0.0.0.0", "[::2]"] {
            assert_eq!(hosts(elsewhere, &["other"]).len(), 1, "{elsewhere}");
        }
        assert!(hosts("haproxy:8080", &["other", "HAProxy"]).is_empty());
    }
}
