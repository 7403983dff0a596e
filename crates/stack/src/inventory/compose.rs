//! The members of a Compose stack, from Docker's command line.
//! The environment of containers is not read, because it contains keys.

use super::Member;
use crate::docker::{self, Container, PublishedPorts};
use anyhow::{Context, bail};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
};

/// Template for `docker inspect`: one line of JSON per container.
const TEMPLATE: &str = concat!(
    "{\"id\":{{json .Id}},\"state\":{{json .State}},\"restarts\":{{json .RestartCount}},",
    "\"labels\":{{json .Config.Labels}},\"networks\":{{json .NetworkSettings.Networks}},\"ports\":{{json .NetworkSettings.Ports}}}"
);

/// Port of HAProxy's container for HTTP calls.
const API_PORT: &str = "8080/tcp";

#[derive(Debug, Deserialize)]
struct Inspected {
    id: String,
    state: State,
    restarts: u64,
    labels: BTreeMap<String, String>,
    #[serde(default)]
    networks: BTreeMap<String, Network>,
    #[serde(default)]
    ports: PublishedPorts,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    pid: u32,
    running: bool,
    started_at: String,
}

#[derive(Debug, Deserialize)]
struct Network {
    #[serde(rename = "IPAddress")]
    address: String,
}

/// Lists the members.
pub(super) fn members(project: Option<&str>) -> anyhow::Result<Vec<Member>> {
    let mut members = to_members(inspect(project)?);
    for member in &mut members {
        member.0.pid = member.0.pid.filter(|&pid| is_of(pid, &member.1));
    }
    Ok(members.into_iter().map(|(member, _)| member).collect())
}

/// Returns the members among the containers of one project, each with the id of its container.
fn to_members(containers: Vec<Inspected>) -> Vec<(Member, String)> {
    let haproxies = containers.iter().filter(|container| container.service() == "haproxy");
    let one_haproxy = haproxies.clone().count() == 1;
    let networks: BTreeSet<_> = haproxies.flat_map(|haproxy| haproxy.networks.keys().cloned()).collect();
    containers.into_iter().filter_map(|container| container.member(one_haproxy, &networks)).collect()
}

/// Returns the project whose HTTP API is at `api_port` of the host. `None` searches all projects.
pub(super) fn project_with_api_port(project: Option<&str>, api_port: u16) -> anyhow::Result<String> {
    project_of_port(&inspect(project)?, api_port)
        .map(str::to_owned)
        .with_context(|| format!("no Compose stack has its HTTP API at port {api_port} of this machine"))
}

fn inspect(project: Option<&str>) -> anyhow::Result<Vec<Inspected>> {
    let containers = docker::containers(project)?;
    if containers.is_empty() {
        bail!("there is no Compose stack");
    }
    let mut arguments = docker::words("inspect --type container --format");
    arguments.push(TEMPLATE.to_owned());
    arguments.extend(containers.into_iter().map(|container| container.id));
    parse(&docker::read(&arguments)?)
}

fn parse(lines: &str) -> anyhow::Result<Vec<Inspected>> {
    let line = |line| {
        serde_json::from_str(line)
            .context("unexpected output of `docker inspect`: expected one line of JSON per container")
    };
    lines.lines().map(line).collect()
}

fn project_of_port(containers: &[Inspected], api_port: u16) -> Option<&str> {
    let has_it = |container: &&Inspected| {
        let bound = container.ports.get(API_PORT).and_then(Option::as_ref);
        container.service() == "haproxy"
            && bound.is_some_and(|bound| bound.iter().any(|b| b.host_port == api_port.to_string()))
    };
    containers.iter().find(has_it)?.labels.get("com.docker.compose.project").map(String::as_str)
}

impl Inspected {
    fn service(&self) -> &str {
        self.labels.get("com.docker.compose.service").map_or("", String::as_str)
    }

    /// Returns the member and the id of its container. `None` for services that are not part of a stack. `one_haproxy`: the stack has
    /// only one HAProxy, whose name has no number. Its address is the one in the first of `networks`, those of HAProxy, or else in any.
    fn member(self, one_haproxy: bool, networks: &BTreeSet<String>) -> Option<(Member, String)> {
        let port = match self.service() {
            "server" => Some(8000),
            "wsproxy" => Some(4040),
            "redis" | "haproxy" => None,
            _ => return None,
        };
        let number = self.labels.get("com.docker.compose.container-number")?.parse().ok()?;
        let of_haproxy = networks.iter().filter_map(|name| self.networks.get(name));
        let address = of_haproxy
            .chain(self.networks.values())
            .find_map(|network| network.address.parse::<IpAddr>().ok());
        let member = Member {
            name: Container::name_of(self.service(), number, one_haproxy),
            pid: self.state.running.then_some(self.state.pid),
            // A container's first process may be a shell or a master.
            has_children: true,
            http: address.zip(port).map(SocketAddr::from),
            incarnation: format!("{} {} {}", self.id, self.state.started_at, self.restarts),
            ended: !self.state.running,
        };
        Some((member, self.id))
    }
}

/// Returns whether a process of this machine belongs to the container. If Docker runs in a virtual machine, the process ids that
/// it reports mean other processes here.
fn is_of(pid: u32, container: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|cgroup| cgroup.contains(container))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured from a Docker engine: a gateway and HAProxy that run, and a server that was killed.
    const CAPTURED: &str = include_str!("captured.jsonl");

    #[test]
    fn members_are_read_from_docker_inspect() {
        let members: Vec<_> =
            to_members(parse(CAPTURED).unwrap()).into_iter().map(|(member, _)| member).collect();
        let shown = |member: &Member| {
            (member.name.clone(), member.pid, member.http.map(|at| at.to_string()), member.ended)
        };
        assert_eq!(
            members.iter().map(shown).collect::<Vec<_>>(),
            [
                ("wsproxy-1".to_owned(), Some(30298), Some("172.18.0.2:4040".to_owned()), false),
                ("haproxy".to_owned(), Some(30413), None, false),
                ("server-2".to_owned(), None, None, true),
            ]
        );
        assert!(
            members[0].incarnation.contains("2026-11-21T07:05:45.27800625Z 0"),
            "{}",
            members[0].incarnation
        );
    }

    #[test]
    fn a_project_is_found_by_its_api_port() {
        let containers = parse(CAPTURED).unwrap();
        assert_eq!(project_of_port(&containers, 28080), Some("watch-probe"));
        assert_eq!(project_of_port(&containers, 28081), None, "that is the port for WebSockets");
        assert_eq!(project_of_port(&[], 28080), None);
    }

    #[test]
    fn other_services_and_other_answers() {
        let other = CAPTURED.replace("\"wsproxy\"", "\"grafana\"");
        assert_eq!(to_members(parse(&other).unwrap()).len(), 2);
        assert!(parse("{}").is_err() && parse("<html>").is_err());
        assert!(!is_of(std::process::id(), "697d8b1ee5f2"), "this test does not run in that container");
    }
}
