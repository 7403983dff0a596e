//! Checks before the first session: allowed hosts, file descriptors, outgoing ports, and whether the target answers.
//! Every error names the next step. The only thing that is changed is the soft limit of file descriptors.

use crate::{
    config::{Config, ConfigErrors, Division},
    stack_faults,
};
use futures_util::future::join_all;
use load::{
    connector::Connector,
    explain::{TransportError, describe},
    http::Http,
    injection::Injector,
};
use plan::{PlannedFault, Shard, Target};
use report::{messages, screen};
use settings::{address::Address, plural::counted};
use std::{
    net::{IpAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

/// Time for the API to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Descriptors for result files, runtimes and the terminal.
const SPARE_DESCRIPTORS: u64 = 128;

/// Limits of this machine.
#[derive(Clone, Copy, Debug)]
struct HostLimits {
    descriptors: u64,
    /// Outgoing ports per local address and destination; `None` if the system does not say.
    ports: Option<u64>,
}

/// Checks that this host meets the needs of the part of the run that one process plays.
///
/// # Errors
/// Lists every limit that is too low and every host that is not allowed.
pub(crate) fn host(config: &Config) -> Result<(), ConfigErrors> {
    local(&of_one_process(config))
}

/// Returns the configuration whose needs this host must meet: that of the largest part of the run that one process plays. With an
/// embedded stack and several generators, this process has one end of every socket.
fn of_one_process(config: &Config) -> Config {
    match &config.division {
        Division::Whole => config.clone(),
        Division::Shard(shard) => config.part(*shard),
        Division::Processes(_) if config.embedded => {
            let mut one_end = config.clone();
            one_end.embedded = false;
            one_end
        }
        Division::Processes(_) | Division::Control(_) => Shard::new(0, config.division.generators())
            .map_or_else(|| config.clone(), |first| config.part(first)),
    }
}

/// Raises the soft limit of file descriptors to the hard one, then checks everything that needs no network.
///
/// # Errors
/// Lists every limit that is too low and every host that is not allowed.
fn local(config: &Config) -> Result<(), ConfigErrors> {
    let limits = HostLimits { descriptors: host::raise_open_files(), ports: outgoing_ports() };
    let mut errors = exceeded_limits(config, limits);
    errors.extend(hosts_not_allowed(config));
    if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
}

/// Checks that stdout is a terminal if the live view is requested.
///
/// # Errors
/// It is not a terminal.
pub fn terminal(config: &Config) -> Result<(), ConfigErrors> {
    if config.output.tui {
        screen::check().map_err(|error| ConfigErrors(vec![error]))?;
    }
    Ok(())
}

/// Returns what injects the planned faults, or `None` if there are none.
///
/// # Errors
/// No stack runs into which they can be injected.
pub(crate) fn injector(config: &Config) -> Result<Option<Arc<dyn Injector>>, ConfigErrors> {
    let faults = &config.plan.faults;
    let injector = (!faults.planned.is_empty()).then(|| stack_faults::injector(faults.stack.as_deref()));
    injector.transpose().map_err(|error| ConfigErrors(vec![error]))
}

/// Checks that the stack can inject every planned fault.
///
/// # Errors
/// Lists every fault that it cannot inject.
pub fn faults(config: &Config, injector: &dyn Injector) -> Result<(), ConfigErrors> {
    let refusal = |fault: &PlannedFault| {
        let error = injector.check(&fault.spec).err()?;
        Some(format!(
            "--fault `{}` cannot be injected: {error:#} (--fault-stack names another stack)",
            fault.spec
        ))
    };
    let errors: Vec<_> = config.plan.faults.planned.iter().filter_map(refusal).collect();
    if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
}

fn outgoing_ports() -> Option<u64> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut ends = range.split_ascii_whitespace().map(str::parse::<u64>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

/// Returns the upper limit of open sessions at a time in this process.
fn sessions(config: &Config) -> u64 {
    config.plan.schedule.most_concurrent().max(1)
}

/// Returns the largest number of file descriptors that the run opens.
#[must_use]
pub fn descriptors(config: &Config) -> u64 {
    let ends = if config.embedded { 2 } else { 1 };
    (sessions(config) + http_connections(config)) * ends + SPARE_DESCRIPTORS
}

/// Returns the largest number of HTTP connections. Each address of the API has its own, because idle ones stay open.
fn http_connections(config: &Config) -> u64 {
    let target = &config.plan.target;
    let has_calls = |foreign: &plan::Foreign| foreign.dialect.file().is_some_and(|file| file.has_calls());
    if target.foreign.as_ref().is_some_and(|foreign| !has_calls(foreign)) {
        // Every call goes over the session's own connection.
        return 0;
    }
    let addresses = if config.embedded { 1 } else { 1 + target.more_api.len() as u64 };
    sessions(config).min(target.http_connections as u64) * addresses
}

fn exceeded_limits(config: &Config, limits: HostLimits) -> Vec<String> {
    let clients = sessions(config);
    let http = http_connections(config);
    let ends = if config.embedded { 2 } else { 1 };
    let needed = descriptors(config);
    let mut errors = Vec::new();
    if needed > limits.descriptors {
        let fit = (limits.descriptors.saturating_sub(SPARE_DESCRIPTORS) / ends).saturating_sub(http);
        let both =
            if config.embedded { ", because --embedded has both ends of each in this process" } else { "" };
        errors.push(format!(
            "{} and {} need {needed} descriptors{both}, but the limit is {}: \
             raise the limit (`ulimit -n {needed}`), or lower --http-connections, or run at most {}",
            counted(clients, "clients"),
            counted(http, "HTTP connections"),
            limits.descriptors,
            counted(fit, "clients")
        ));
    }
    let addresses = config.plan.target.local_ips.len().max(1) as u64;
    if let Some(ports) = limits.ports.map(|ports| ports * addresses).filter(|&ports| clients > ports) {
        errors.push(format!(
            "{clients} clients need as many outgoing ports to one address, but this machine has {ports}: \
             widen net.ipv4.ip_local_port_range, give more --local-ips, or run at most {ports} clients"
        ));
    }
    let foreign = |&&address: &&IpAddr| TcpListener::bind((address, 0)).is_err();
    if let Some(address) = config.plan.target.local_ips.iter().find(foreign) {
        errors
            .push(format!("invalid address {address} for --local-ips: expected an address of this machine"));
    }
    errors
}

fn hosts_not_allowed(config: &Config) -> Vec<String> {
    if config.embedded {
        return Vec::new();
    }
    let target = &config.plan.target;
    let addresses = [&target.api, &target.ws].into_iter().chain(&target.more_api).chain(&target.more_ws);
    let mut hosts: Vec<&str> = addresses.filter_map(|address| address.url().host_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts
        .into_iter()
        .filter(|host| !is_loopback(host))
        .filter(|host| !target.allowed_hosts.iter().any(|allowed| allowed.trim().eq_ignore_ascii_case(host)))
        .map(|host| {
            format!(
                "{host} is not this machine: if you are allowed to load-test it, add --i-am-allowed-to-load-test {host}"
            )
        })
        .collect()
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Checks that every address of the API and of the gateway answers. Returns the connector that opens the run's sockets.
///
/// # Errors
/// Lists each address of the API that does not answer, and the first one of the gateway.
pub async fn network(config: &Config, tls: &rustls::ClientConfig) -> Result<Arc<Connector>, ConfigErrors> {
    let target = &config.plan.target;
    if let Some(foreign) = &target.foreign {
        // Such a server may charge for calls, and need not have a page that tells whether it is ready.
        let connector = ws_answers(config, tls).await.map_err(|refusal| {
            ConfigErrors(match refusal {
                Refusal::NoAnswer { url, why } if !foreign.is_simulator => {
                    vec![format!("nothing answers at {url} ({why}): start the server, or check its URL")]
                }
                refusal => messages_of(vec![refusal]),
            })
        })?;
        connector.credentials().prepare().await.map_err(|error| ConfigErrors(vec![error]))?;
        return Ok(connector);
    }
    let apis = [&target.api].into_iter().chain(&target.more_api);
    let apis = join_all(apis.map(|api| api_answers(target, api, tls)));
    let (apis, ws) = tokio::join!(apis, ws_answers(config, tls));
    let mut refusals: Vec<_> = apis.into_iter().filter_map(Result::err).collect();
    match ws {
        Ok(connector) if refusals.is_empty() => Ok(connector),
        ws => {
            refusals.extend(ws.err());
            Err(ConfigErrors(messages_of(refusals)))
        }
    }
}

/// Why a URL of the target cannot be used.
#[derive(Debug)]
enum Refusal {
    /// Nothing answers there.
    NoAnswer { url: String, why: String },
    /// Another reason, as a message.
    Other(String),
}

impl Refusal {
    fn no_answer(url: &dyn std::fmt::Display, why: impl Into<String>) -> Self {
        Self::NoAnswer { url: url.to_string(), why: why.into() }
    }

    fn of(url: &dyn std::fmt::Display, error: &TransportError) -> Self {
        if error.is_permanent {
            return Self::Other(format!("{url}: {}", error.text));
        }
        Self::no_answer(url, error.text.as_str())
    }
}

/// Returns the messages: one for all URLs where nothing answers, because one stack serves all of them, and the others.
fn messages_of(refusals: Vec<Refusal>) -> Vec<String> {
    let (mut dead, mut others) = (Vec::new(), Vec::new());
    for refusal in refusals {
        match refusal {
            Refusal::NoAnswer { url, why } => dead.push((url, why)),
            Refusal::Other(message) => others.push(message),
        }
    }
    if let Some((_, first)) = dead.first() {
        let places = if dead.iter().all(|(_, why)| why == first) {
            let urls: Vec<_> = dead.iter().map(|(url, _)| url.as_str()).collect();
            format!("{} ({first})", urls.join(" and "))
        } else {
            let places: Vec<_> = dead.iter().map(|(url, why)| format!("{url} ({why})")).collect();
            places.join(" and ")
        };
        others.insert(
            0,
            format!(
                "nothing answers at {places}: start a stack with `streamstress stack up --detach` or `docker compose up -d`, or run \
                 with --embedded"
            ),
        );
    }
    others
}

/// Checks that one address of the API answers.
async fn api_answers(target: &Target, api: &Address, tls: &rustls::ClientConfig) -> Result<(), Refusal> {
    let only = Target { api: api.clone(), more_api: Vec::new(), ..target.clone() };
    let http = Http::new(&only, 1, tls.clone());
    match tokio::time::timeout(TIMEOUT, http.ready()).await {
        Err(_) => Err(Refusal::no_answer(api, format!("no answer within {} s", TIMEOUT.as_secs()))),
        Ok(Err(error)) => Err(Refusal::of(api, &describe(&*error))),
        // Foreign servers may lack /ready or protect it, so only 5xx means "not ready".
        Ok(Ok(answer)) if !answer.status.is_server_error() => Ok(()),
        Ok(Ok(answer)) => Err(Refusal::Other(format!(
            "{api} answers but is not ready ({}): wait until its /ready returns 200, or read its log",
            http.explain(&answer)
        ))),
    }
}

async fn ws_answers(config: &Config, tls: &rustls::ClientConfig) -> Result<Arc<Connector>, Refusal> {
    let ws = &config.plan.target.ws;
    let connector = Connector::resolve(&config.plan.target, Arc::new(tls.clone()))
        .await
        .map_err(|error| Refusal::no_answer(ws, format!("{error:#}")))?;
    for from in one_of_each_family(&config.plan.target.local_ips) {
        let (endpoint, error) = match connector.reach(from).await {
            Ok(dead) => {
                dead.iter().for_each(warn_of_dead_port);
                continue;
            }
            Err(refused) => refused,
        };
        return Err(match from {
            Some(from) => Refusal::Other(format!(
                "--local-ips: {endpoint} cannot be reached from {from} ({})",
                error.text
            )),
            None => Refusal::of(&endpoint, &error),
        });
    }
    Ok(Arc::new(connector))
}

fn warn_of_dead_port((port, error): &(String, TransportError)) {
    messages::print_stderr(&format!(
        "warning: {port} accepts no connection ({}). Sockets go to the other published ports. Docker's port proxy has probably \
         exited: restart the container to restore the port",
        error.text
    ));
}

/// Returns one local address per address family, from which the gateway must be reachable. `None` means any address.
fn one_of_each_family(local_ips: &[IpAddr]) -> Vec<Option<IpAddr>> {
    let first = |is_v4: bool| local_ips.iter().copied().find(|address| address.is_ipv4() == is_v4);
    if local_ips.is_empty() {
        vec![None]
    } else {
        [first(true), first(false)].into_iter().flatten().map(Some).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::RunArgs;

    fn config(args: RunArgs) -> Config {
        Config::new(args, 2, 1).unwrap()
    }

    #[test]
    fn lists_exceeded_limits_with_the_next_step() {
        let limits = HostLimits { descriptors: 20_000, ports: Some(28_000) };
        let run = |clients, embedded| {
            exceeded_limits(
                &config(RunArgs { clients: Some(clients), embedded, ..RunArgs::default() }),
                limits,
            )
        };
        assert!(run(18_000, false).is_empty());
        assert!(run(19_000, false)[0].contains("20128 descriptors"));
        let mut several = config(RunArgs { clients: Some(18_000), ..RunArgs::default() });
        several.plan.target.more_api = vec![several.plan.target.api.clone(); 2];
        // 18000 sockets, 3 × 1000 HTTP connections and 128 others.
        assert!(exceeded_limits(&several, limits)[0].contains("21128 descriptors"));
        assert!(run(8_900, true).is_empty());
        assert!(run(9_900, true)[0].contains("both ends"));
        let errors = run(30_000, false);
        assert!(errors[0].contains("at most 18872 clients"), "{errors:?}");
        assert!(errors[1].contains("at most 28000 clients"), "{errors:?}");
    }

    #[test]
    fn urls_where_nothing_answers_share_one_message() {
        let refused = |url: &str, why: &str| Refusal::no_answer(&url, why);
        let other = Refusal::Other("https://b: bad certificate".into());
        let messages = messages_of(vec![refused("http://a", "refused"), other, refused("ws://a", "refused")]);
        assert!(
            messages[0].starts_with("nothing answers at http://a and ws://a (refused): start a stack"),
            "{messages:?}"
        );
        assert_eq!(messages[1..], ["https://b: bad certificate"]);
        let messages = messages_of(vec![refused("http://a", "refused"), refused("ws://b", "no answer")]);
        assert!(
            messages[0].starts_with("nothing answers at http://a (refused) and ws://b (no answer): "),
            "{messages:?}"
        );
        assert_eq!(messages.len(), 1);
    }

    #[test]
    fn each_local_address_adds_ports_and_must_exist() {
        let limits = HostLimits { descriptors: u64::MAX, ports: Some(28_000) };
        let errors = |local_ips: &str| {
            let local_ips = Some(local_ips.to_owned());
            exceeded_limits(
                &config(RunArgs { clients: Some(50_000), local_ips, ..RunArgs::default() }),
                limits,
            )
        };
        assert!(errors("127.0.0.1-127.0.0.2").is_empty());
        assert!(errors("127.0.0.1")[0].contains("--local-ips"));
        let expected = "invalid address 192.0.2.1 for --local-ips: expected an address of this machine";
        assert_eq!(errors("127.0.0.1, 192.0.2.1"), [expected]);
    }

    #[test]
    fn only_this_machine_unless_allowed() {
        let hosts = |url: &str, allowed: &[&str]| {
            hosts_not_allowed(&config(RunArgs {
                api_url: vec![format!("http://{url}")],
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
