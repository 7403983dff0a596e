//! Injects faults into a Compose stack with Docker's command line. A container that Docker killed or stopped on request stays
//! down until it is started: its restart policy applies only if it ends by itself.

use super::compose_scaling;
use crate::{
    docker::{self, Container},
    fault::{Action, Fault, Injected, InstanceSelector, RestartData, Target, WriteRejection},
    role::Role,
    scaling::{Counts, Scaled},
};
use anyhow::{Context, bail};
use settings::plural::counted;
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// The services that are part of a stack.
const SERVICES: [&str; 4] = ["redis", "server", "wsproxy", "haproxy"];
/// Time limit for a container to become healthy.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between SIGTERM and SIGKILL of a drain. It is longer than `stop_grace_period` in compose.yaml.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Time whose writes a rollback of Redis loses.
const ROLLBACK_TIME: Duration = Duration::from_secs(1);

/// Injects a fault. Returns when it is in force.
pub(super) fn inject(project: Option<&str>, fault: &Fault) -> anyhow::Result<Injected> {
    let start = Instant::now();
    let apply = || -> anyhow::Result<_> {
        if let (Target::Instance(role, _), Action::Scale(counts)) = (fault.target, fault.action) {
            let scaled = scale(project, role, counts)?;
            let new = scaled.started.iter().map(|start| start.name.clone());
            let members: BTreeSet<_> = new.chain(scaled.removed.iter().cloned()).collect();
            return Ok((members.into_iter().collect(), scaled.sentence(), scaled.started));
        }
        let (mut members, mut details) = (Vec::new(), Vec::new());
        for container in find(project, fault)? {
            details.push(act(&container, fault.action)?);
            members.push(container.name());
        }
        Ok((members, details.join("; "), Vec::new()))
    };
    let (members, detail, started) = apply().with_context(|| fault.to_string())?;
    let took_ms = start.elapsed().as_secs_f64() * 1e3;
    Ok(Injected { fault: fault.to_string(), took_ms, detail, members, started })
}

/// Changes the number of containers of a role. Returns when the new ones are healthy and the removed ones have drained.
pub(super) fn scale(project: Option<&str>, role: Role, counts: Counts) -> anyhow::Result<Scaled> {
    compose_scaling::scale(role, counts, || containers(project, role))
}

/// Returns the containers of a role; at least one.
pub(crate) fn containers(project: Option<&str>, role: Role) -> anyhow::Result<Vec<Container>> {
    choose(docker::containers(project)?, project, Target::Instance(role, InstanceSelector::All))
}

/// Checks that the project has the target of a fault.
pub(super) fn check(project: Option<&str>, fault: &Fault) -> anyhow::Result<()> {
    let choose = || {
        if let (Target::Instance(role, _), Action::Scale(counts)) = (fault.target, fault.action) {
            compose_scaling::check(role, counts)?;
        }
        choose(docker::containers(project)?, project, fault.target).map(drop)
    };
    choose().with_context(|| fault.to_string())
}

/// Maps the names that servers state to their names in faults. With compose.yaml a server states the host name of its container,
/// because a container does not know its number.
pub(super) fn stated_names(project: Option<&str>) -> anyhow::Result<BTreeMap<String, String>> {
    let servers = containers(project, Role::Server)?;
    let named = |container: &Container| {
        Ok((format!("server-{}", container.inspect("{{.Config.Hostname}}")?), container.name()))
    };
    servers.iter().map(named).collect()
}

/// Returns the containers to which a fault applies; at least one.
fn find(project: Option<&str>, fault: &Fault) -> anyhow::Result<Vec<Container>> {
    let mut found = choose(docker::containers(project)?, project, fault.target)?;
    let (Target::Instance(_, selector) | Target::Haproxy(selector)) = fault.target else { return Ok(found) };
    // A single container gets the action in any state: its error says what the state is.
    if matches!(selector, InstanceSelector::Number(_)) || found.len() == 1 {
        return Ok(found);
    }
    found.retain(|container| check_state(container, fault.action).is_ok());
    if found.is_empty() {
        bail!("action {} applies to no container in its present state: see `docker ps --all`", fault.action);
    }
    if selector == InstanceSelector::Any {
        found.truncate(1);
    }
    Ok(found)
}

/// Chooses the containers of a target; at least one.
fn choose(all: Vec<Container>, project: Option<&str>, target: Target) -> anyhow::Result<Vec<Container>> {
    let mut ours = all;
    ours.retain(|container| SERVICES.contains(&container.service.as_str()));
    // Other projects may have a service `redis` as well. A gateway makes a project a stack.
    let projects: BTreeSet<String> =
        ours.iter().filter(|container| container.service == "wsproxy").map(|c| c.project.clone()).collect();
    let names: Vec<&str> = projects.iter().map(String::as_str).collect();
    let chosen = match (project, &names[..]) {
        (Some(project), names) if names.contains(&project) => project,
        (Some(project), _) => {
            bail!("there is no Compose stack `{project}`: start it with `docker compose up -d`")
        }
        (None, []) => bail!("there is no Compose stack: start one with `docker compose up -d`"),
        (None, [one]) => one,
        (None, several) => {
            bail!("there are several Compose stacks ({}): select one as compose:PROJECT", several.join(", "))
        }
    };
    ours.retain(|container| container.project == chosen);
    let (service, number) = match target {
        Target::Redis => ("redis".to_owned(), None),
        Target::Haproxy(selector) => ("haproxy".to_owned(), number(selector)),
        Target::Instance(role, selector) => (role.to_string(), number(selector)),
        Target::Link(_) => {
            bail!("faults of links work in native stacks only: start one with `streamstress stack up`")
        }
    };
    let existing: Vec<String> = ours.iter().map(Container::name).collect();
    ours.retain(|container| container.service == service && number.is_none_or(|n| n == container.number));
    if ours.is_empty() {
        bail!("Compose stack {chosen} has no {target}: expected one of {}", existing.join(", "));
    }
    Ok(ours)
}

/// Returns the number of the only container that a selector means.
fn number(selector: InstanceSelector) -> Option<u16> {
    match selector {
        InstanceSelector::Number(number) => Some(number),
        InstanceSelector::Any | InstanceSelector::All => None,
    }
}

/// Checks that an action applies to a container in its present state.
fn check_state(container: &Container, action: Action) -> anyhow::Result<()> {
    let name = container.name();
    match (container.state.as_str(), action) {
        ("paused", Action::Resume) => Ok(()),
        (_, Action::Resume) => bail!("{name} is not paused"),
        ("running" | "paused", Action::Start) => bail!("{name} is running already: kill or stop it first"),
        ("paused", _) => bail!("{name} is paused: resume it first"),
        ("running", _) | (_, Action::Start) => Ok(()),
        (state, _) => bail!("{name} is down already ({state}): start it first"),
    }
}

/// Applies an action to a container. Returns what was done, for the user.
fn act(container: &Container, action: Action) -> anyhow::Result<String> {
    check_state(container, action)?;
    let name = container.name();
    match action {
        Action::Kill => {
            kill(container)?;
            Ok(format!("{name} was killed"))
        }
        Action::Stop => {
            container.docker("kill --signal TERM")?;
            Ok(format!("SIGTERM was sent to {name}"))
        }
        Action::Start => {
            start(container)?;
            Ok(format!("{name} was started"))
        }
        Action::Restart(None) => {
            kill(container)?;
            start(container)?;
            Ok(format!("{name} was killed and started again"))
        }
        Action::Restart(Some(data)) => restart_redis(container, data),
        Action::Drain => {
            let begun = Instant::now();
            container.docker(&format!("stop --time {}", DRAIN_TIMEOUT.as_secs()))?;
            let drained = begun.elapsed().as_millis();
            start(container)?;
            Ok(format!("{name} drained in {drained} ms and was started again"))
        }
        Action::Pause(time) => {
            container.docker("pause")?;
            if let Some(time) = time {
                docker_later(time, &["unpause", &container.id])?;
                return Ok(format!("{name} is paused for {time:?}"));
            }
            Ok(format!("{name} is paused"))
        }
        Action::Resume => {
            container.docker("unpause")?;
            Ok(format!("{name} was resumed"))
        }
        Action::CutPubsub => {
            let closed = redis(container, &["CLIENT", "KILL", "TYPE", "pubsub"])?;
            let closed: u64 =
                closed.parse().with_context(|| format!("unexpected reply of redis: {closed}"))?;
            Ok(counted(closed, "subscriber connections were closed"))
        }
        Action::Refuse(time) | Action::Demote(time) | Action::Full(time) => {
            reject_writes(container, action, time)
        }
        Action::Reload => {
            container.docker("kill --signal USR2")?;
            Ok(format!("SIGUSR2 was sent to {name}: it starts a new worker"))
        }
        _ => bail!("action {action} applies to links only, and {name} is a process"),
    }
}

fn kill(container: &Container) -> anyhow::Result<()> {
    container.docker("kill --signal KILL").map(drop)
}

/// Starts a container and waits until it is healthy.
fn start(container: &Container) -> anyhow::Result<()> {
    container.docker("start")?;
    container.wait_until_healthy(READY_TIMEOUT)
}

/// Lets Redis reject writes for `time`.
fn reject_writes(container: &Container, action: Action, time: Duration) -> anyhow::Result<String> {
    let rejection =
        WriteRejection::of(action).with_context(|| format!("action {action} does not reject writes"))?;
    let words = |command: &str| docker::words(command);
    let value = |setting: &str| {
        let answer = redis(container, &["CONFIG", "GET", setting])?;
        let value =
            answer.lines().nth(1).with_context(|| format!("this Redis version has no setting {setting}"))?;
        anyhow::Ok(value.trim().to_owned())
    };
    let before = rejection.settings().map(value).collect::<anyhow::Result<Vec<_>>>()?;
    let end = rejection.end(&before)?;
    let begin = words(&rejection.begin());
    redis(container, &begin.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut later = vec!["exec", &container.id, "redis-cli"];
    later.extend(end.split(' '));
    docker_later(time, &later)?;
    Ok(format!("{} for {time:?}", rejection.description))
}

/// Runs a Docker command after this time, in a separate process, so that it also runs if this process ends earlier.
fn docker_later(time: Duration, command: &[&str]) -> anyhow::Result<()> {
    Command::new("/bin/sh")
        .args(["-c", "sleep \"$1\"; shift; exec docker \"$@\"", "later"])
        .arg(time.as_secs_f64().to_string())
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // So that Ctrl+C does not end it.
        .process_group(0)
        .spawn()
        .map(drop)
        .context("cannot run /bin/sh, which would end the fault later")
}

/// Sends one command to Redis. With `-e`, redis-cli fails if Redis returns an error.
fn redis(container: &Container, command: &[&str]) -> anyhow::Result<String> {
    let answer = container.exec(&[&["redis-cli", "-e"], command].concat());
    let answer = answer.with_context(|| format!("cannot send `{}` to redis", command.join(" ")))?;
    Ok(answer.trim_end().to_owned())
}

/// Restarts Redis. Its data is in the volume at /data. With an append-only file Redis starts from that, otherwise from a snapshot.
fn restart_redis(container: &Container, data: RestartData) -> anyhow::Result<String> {
    let redis = |command: &[&str]| redis(container, command);
    let appends = redis(&["CONFIG", "GET", "appendonly"])?.ends_with("yes");
    match (data, appends) {
        (RestartData::Keep, true) => {
            redis(&["CONFIG", "SET", "appendfsync", "always"])?;
            kill(container)?;
            start(container)?;
        }
        (RestartData::Keep, false) => {
            // So that no write is acknowledged between the snapshot and the end.
            redis(&["CLIENT", "PAUSE", "60000", "WRITE"])?;
            redis(&["SAVE"])?;
            kill(container)?;
            start(container)?;
        }
        (RestartData::Empty, _) => {
            kill(container)?;
            container.run_with_volumes("rm -rf /data/*")?;
            start(container)?;
        }
        (RestartData::Rollback, true) => {
            container.exec(&["sh", "-euc", "rm -rf /data/then; cp -a /data/appendonlydir /data/then"])?;
            sleep(ROLLBACK_TIME);
            kill(container)?;
            container.run_with_volumes("cd /data; rm -rf appendonlydir; mv then appendonlydir")?;
            start(container)?;
        }
        (RestartData::Rollback, false) => {
            redis(&["BGSAVE"])?;
            let snapshot = Instant::now();
            while !redis(&["INFO", "persistence"])?.contains("rdb_bgsave_in_progress:0") {
                sleep(Duration::from_millis(20));
            }
            sleep(ROLLBACK_TIME.saturating_sub(snapshot.elapsed()));
            kill(container)?;
            start(container)?;
        }
    }
    if !appends {
        // A later start would read it.
        container.exec(&["rm", "-f", "/data/dump.rdb"])?;
    }
    Ok(match data {
        RestartData::Keep => "redis was killed and started with all its data".into(),
        RestartData::Empty => "redis was killed and started without data".into(),
        RestartData::Rollback => "redis was killed and started without its last second of writes".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(project: &str, service: &str, number: u16, state: &str) -> Container {
        let own = |text: &str| text.to_owned();
        let id = format!("{project}{service}{number}");
        Container {
            id,
            project: own(project),
            service: own(service),
            number,
            state: own(state),
            is_only: true,
        }
    }

    fn stack(project: &str) -> Vec<Container> {
        let one = |service, number| container(project, service, number, "running");
        vec![one("haproxy", 1), one("redis", 1), one("server", 1), one("wsproxy", 1), one("wsproxy", 2)]
    }

    fn chosen(all: &[Container], project: Option<&str>, fault: &str) -> Result<Vec<String>, String> {
        let fault: Fault = fault.parse().unwrap();
        let found = choose(all.to_vec(), project, fault.target).map_err(|error| error.to_string())?;
        Ok(found.iter().map(|container| container.id.clone()).collect())
    }

    #[test]
    fn containers_are_chosen_by_project_service_and_number() {
        let mut all = stack("load");
        all.push(container("other", "redis", 1, "running"));
        assert_eq!(chosen(&all, None, "wsproxy-2:kill").unwrap(), ["loadwsproxy2"]);
        assert_eq!(chosen(&all, None, "wsproxies:kill").unwrap(), ["loadwsproxy1", "loadwsproxy2"]);
        assert_eq!(chosen(&all, Some("load"), "redis:restart=keep").unwrap(), ["loadredis1"]);
        assert_eq!(chosen(&all, None, "haproxy:reload").unwrap(), ["loadhaproxy1"]);
        assert_eq!(chosen(&all, None, "haproxy-1:kill").unwrap(), ["loadhaproxy1"]);
        assert!(chosen(&all, None, "haproxy-2:kill").unwrap_err().contains("has no haproxy-2"));
        let mut two = all.clone();
        two.push(container("load", "haproxy", 2, "running"));
        assert_eq!(chosen(&two, None, "haproxy-2:kill").unwrap(), ["loadhaproxy2"]);
        assert_eq!(chosen(&two, None, "haproxy:kill").unwrap(), ["loadhaproxy1", "loadhaproxy2"]);
        assert!(chosen(&all, None, "wsproxy-3:kill").unwrap_err().contains("wsproxy-1, wsproxy-2"));
        assert!(chosen(&all, None, "link:wsproxy-1:cut").unwrap_err().contains("native stacks only"));
        assert!(chosen(&all, Some("other"), "redis:kill").unwrap_err().contains("docker compose up"));
        assert!(chosen(&[], None, "redis:kill").unwrap_err().contains("docker compose up"));
        all.extend(stack("second"));
        assert!(chosen(&all, None, "redis:kill").unwrap_err().contains("load, second"));
        assert_eq!(chosen(&all, Some("second"), "redis:kill").unwrap(), ["secondredis1"]);
    }

    #[test]
    fn the_state_of_a_container_limits_the_actions() {
        for (state, fits, refused) in [
            ("running", Action::Kill, Action::Start),
            ("running", Action::Pause(None), Action::Resume),
            ("paused", Action::Resume, Action::Kill),
            ("exited", Action::Start, Action::Kill),
        ] {
            let container = container("load", "server", 1, state);
            assert!(check_state(&container, fits).is_ok(), "{state}: {fits}");
            assert!(check_state(&container, refused).is_err(), "{state}: {refused}");
        }
    }
}
