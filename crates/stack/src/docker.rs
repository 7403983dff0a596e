//! Docker's command line, as far as faults, scaling and the inventory need it: the containers of a Compose project, and commands on one
//! container. It starts no project.

mod bounded;
mod source;

use anyhow::{Context, bail};
use serde::Deserialize;
pub(crate) use source::Source;
use std::{
    collections::BTreeMap,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time limit of a command that only reads.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit of a command that changes something. The longest waits a minute until a container has drained.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(120);

/// A container of a Compose project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) service: String,
    pub(crate) number: u16,
    /// `running`, `paused`, `exited`, …
    pub(crate) state: String,
    /// Whether the project has no other container of this service.
    pub(crate) is_only: bool,
}

/// The published ports of a container: the addresses of the host by container port, for example `8080/tcp`.
pub(crate) type PublishedPorts = BTreeMap<String, Option<Vec<PortBinding>>>;

/// An address of the host that leads to a container port.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PortBinding {
    #[serde(default)]
    pub(crate) host_ip: String,
    pub(crate) host_port: String,
}

const COLUMNS: &str = concat!(
    "{{.ID}}\t{{.State}}\t{{.Label \"com.docker.compose.project\"}}",
    "\t{{.Label \"com.docker.compose.service\"}}\t{{.Label \"com.docker.compose.container-number\"}}"
);

/// Lists the containers of Compose services, running or not, by service and number. `None` lists those of all projects.
pub(crate) fn containers(project: Option<&str>) -> anyhow::Result<Vec<Container>> {
    let mut containers = parse(&read(&list(project))?);
    containers.sort_by(|a, b| (&a.service, a.number).cmp(&(&b.service, b.number)));
    Ok(containers)
}

/// Returns the arguments of `docker ps`.
fn list(project: Option<&str>) -> Vec<String> {
    let mut arguments = words("ps --all --no-trunc --filter label=com.docker.compose.oneoff=False --filter");
    arguments.push(match project {
        Some(project) => format!("label=com.docker.compose.project={project}"),
        None => "label=com.docker.compose.project".to_owned(),
    });
    arguments.extend(["--format".to_owned(), COLUMNS.to_owned()]);
    arguments
}

/// Reads the output of `docker ps`. Skips lines without a project, a service or a number.
fn parse(listing: &str) -> Vec<Container> {
    let mut containers: Vec<Container> = listing
        .lines()
        .filter_map(|line| {
            let [id, state, project, service, number] = line.split('\t').collect::<Vec<_>>()[..] else {
                return None;
            };
            let own = |text: &str| text.to_owned();
            let number = number.parse().ok()?;
            Some(Container {
                id: own(id),
                project: own(project),
                service: own(service),
                number,
                state: own(state),
                is_only: true,
            })
        })
        .collect();
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for container in &containers {
        *counts.entry((container.project.clone(), container.service.clone())).or_default() += 1;
    }
    for container in &mut containers {
        container.is_only = counts[&(container.project.clone(), container.service.clone())] == 1;
    }
    containers
}

/// Splits a command line at white space.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Runs a Docker command that changes something. Returns its output. Takes at most two minutes.
pub(crate) fn change(arguments: &[String]) -> anyhow::Result<String> {
    call(arguments, CHANGE_TIMEOUT, &arguments.join(" "))
}

/// Runs a Docker command that only reads. Returns its output. Takes at most ten seconds.
pub(crate) fn read(arguments: &[String]) -> anyhow::Result<String> {
    read_within(arguments, READ_TIMEOUT)
}

/// Runs a Docker command that only reads, for at most `timeout`. Returns its output.
pub(crate) fn read_within(arguments: &[String], timeout: Duration) -> anyhow::Result<String> {
    call(arguments, timeout, &arguments[0])
}

/// Runs `docker compose` with these arguments and further variables, or `docker-compose` if Docker does not have that command. Takes at
/// most two minutes.
pub(crate) fn compose(arguments: &[String], variables: &[(String, String)]) -> anyhow::Result<()> {
    let has_plugin = bounded::output(Command::new("docker").args(["compose", "version"]), READ_TIMEOUT)
        .is_ok_and(|output| output.status.success());
    let (program, first) = if has_plugin { ("docker", Some("compose")) } else { ("docker-compose", None) };
    let mut command = Command::new(program);
    command.args(first).args(arguments).envs(variables.iter().cloned());
    run(&mut command, CHANGE_TIMEOUT, &format!("docker compose {}", arguments.join(" "))).map(drop)
}

/// Runs a Docker command. Messages show `shown` for its arguments.
fn call(arguments: &[String], timeout: Duration, shown: &str) -> anyhow::Result<String> {
    run(Command::new("docker").args(arguments), timeout, &format!("docker {shown}"))
}

/// Runs a command. Messages show `shown`.
fn run(command: &mut Command, timeout: Duration, shown: &str) -> anyhow::Result<String> {
    let output = bounded::output(command, timeout).with_context(|| format!("`{shown}` did not finish"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Container {
    /// Returns the name of the container in faults: `wsproxy-2` or `redis`.
    pub(crate) fn name(&self) -> String {
        Self::name_of(&self.service, self.number, self.is_only)
    }

    /// Returns the name in faults of the container with this number of a service. `is_only`: the service has no other container.
    pub(crate) fn name_of(service: &str, number: u16, is_only: bool) -> String {
        match service {
            "redis" => service.to_owned(),
            "haproxy" if is_only => service.to_owned(),
            service => format!("{service}-{number}"),
        }
    }

    /// Runs `docker COMMAND… ID`. Returns its output.
    pub(crate) fn docker(&self, command: &str) -> anyhow::Result<String> {
        let mut arguments = words(command);
        arguments.push(self.id.clone());
        change(&arguments)
    }

    /// Runs a command in the container. Returns its output.
    pub(crate) fn exec(&self, command: &[&str]) -> anyhow::Result<String> {
        change(&self.exec_arguments(command))
    }

    fn exec_arguments(&self, command: &[&str]) -> Vec<String> {
        ["exec", &self.id].iter().chain(command).map(|&word| word.to_owned()).collect()
    }

    /// Runs a shell script in another container with the volumes of this one, which may be down. Returns its output.
    pub(crate) fn run_with_volumes(&self, script: &str) -> anyhow::Result<String> {
        let image = self.inspect("{{.Image}}")?;
        let mut arguments = words("run --rm --network none --user 0:0 --volumes-from");
        arguments.extend([
            self.id.clone(),
            "--entrypoint".into(),
            "/bin/sh".into(),
            image,
            "-euc".into(),
            script.into(),
        ]);
        change(&arguments)
    }

    /// Returns what `docker inspect` prints for this template.
    pub(crate) fn inspect(&self, template: &str) -> anyhow::Result<String> {
        let arguments = ["inspect", "--format", template, &self.id].map(str::to_owned);
        Ok(read(&arguments)?.trim_end().to_owned())
    }

    /// Waits until the health check of the container passes. Runs the check more often than Docker does. Returns at once for a
    /// container without one.
    pub(crate) fn wait_until_healthy(&self, timeout: Duration) -> anyhow::Result<()> {
        let check = self.inspect("{{json .Config.Healthcheck}}")?;
        let Some(command) = health_command(&check) else { return Ok(()) };
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let deadline = Instant::now() + timeout;
        while let Err(error) = read(&self.exec_arguments(&command)) {
            if Instant::now() > deadline {
                return Err(error).with_context(|| {
                    format!("{} is not healthy after {timeout:?}: see `docker logs {}`", self.name(), self.id)
                });
            }
            sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}

/// Returns the command of a health check, from the JSON that `docker inspect` prints.
fn health_command(check: &str) -> Option<Vec<String>> {
    let check: serde_json::Value = serde_json::from_str(check).ok()?;
    let test: Vec<String> = serde_json::from_value(check.get("Test")?.clone()).ok()?;
    match test.split_first()? {
        (form, [script]) if form == "CMD-SHELL" => {
            Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec())
        }
        (form, command) if form == "CMD" && !command.is_empty() => Some(command.to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_read_from_the_list() {
        let listing =
            "abc\trunning\tload\twsproxy\t2\ndef\texited\tload\tredis\t1\n\nghi\trunning\tload\tredis\n";
        let container = |id: &str, state: &str, service: &str, number| Container {
            is_only: true,
            id: id.into(),
            project: "load".into(),
            service: service.into(),
            number,
            state: state.into(),
        };
        let expected = [container("abc", "running", "wsproxy", 2), container("def", "exited", "redis", 1)];
        assert_eq!(parse(listing), expected);
        assert_eq!(expected.map(|container| container.name()), ["wsproxy-2", "redis"]);
    }

    #[test]
    fn several_load_balancers_of_a_project_are_numbered() {
        let listing =
            "a\trunning\tone\thaproxy\t1\nb\trunning\ttwo\thaproxy\t1\nc\texited\ttwo\thaproxy\t2\n";
        let names: Vec<_> = parse(listing).iter().map(Container::name).collect();
        assert_eq!(names, ["haproxy", "haproxy-1", "haproxy-2"]);
    }

    #[test]
    fn a_health_check_is_a_command_or_a_script() {
        let command = health_command(r#"{"Test":["CMD","server","--health-check"],"Interval":15}"#);
        assert_eq!(command.unwrap(), ["server", "--health-check"]);
        let script = health_command(r#"{"Test":["CMD-SHELL","redis-cli ping"]}"#);
        assert_eq!(script.unwrap(), ["/bin/sh", "-c", "redis-cli ping"]);
        for none in ["null", "", "{}", r#"{"Test":["NONE"]}"#, r#"{"Test":["CMD"]}"#, r#"{"Test":[1]}"#] {
            assert_eq!(health_command(none), None, "{none}");
        }
    }

    #[test]
    fn the_listing_takes_one_project_or_all() {
        assert!(list(Some("load")).contains(&"label=com.docker.compose.project=load".to_owned()));
        assert!(list(None).contains(&"label=com.docker.compose.project".to_owned()));
    }
}
