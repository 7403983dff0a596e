//! Breaks a stack that Compose started, through Docker's command line. A container that was killed or stopped by order
//! stays down until it is started: its restart policy counts only ends of its own.

use super::{Action, Denial, Fault, Injected, Memory, Target, Which};
use crate::{
    docker::{self, Container},
    native::Role,
};
use anyhow::{Context, bail};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// The services that make a project a stack of ours.
const SERVICES: [&str; 4] = ["redis", "server", "wsproxy", "haproxy"];
/// What a container gets to become healthy.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// What a container gets to drain: Compose's `stop_grace_period`, and some.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);
/// What a rollback of Redis loses.
const LOST: Duration = Duration::from_secs(1);

/// Does it; answers when it is in force.
pub(super) fn inject(project: Option<&str>, fault: &Fault) -> anyhow::Result<Injected> {
    let start = Instant::now();
    let done = || -> anyhow::Result<_> {
        let (mut members, mut details) = (Vec::new(), Vec::new());
        for container in find(project, fault)? {
            details.push(act(&container, fault.action)?);
            members.push(container.name());
        }
        Ok((members, details.join("; ")))
    };
    let (members, detail) = done().with_context(|| fault.to_string())?;
    Ok(Injected { fault: fault.to_string(), took_ms: start.elapsed().as_secs_f64() * 1e3, detail, members })
}

/// Whether the project has the target.
pub(super) fn check(project: Option<&str>, fault: &Fault) -> anyhow::Result<()> {
    let named = || choose(docker::containers(project)?, project, fault.target).map(drop);
    named().with_context(|| fault.to_string())
}

/// Lists the servers by the names that they state, each with the name that faults give it. compose.yaml makes a server state its
/// container's host name, because Compose tells no container its number.
pub(super) fn servers(project: Option<&str>) -> anyhow::Result<BTreeMap<String, String>> {
    let servers = choose(docker::containers(project)?, project, Target::Instance(Role::Server, Which::All))?;
    let named = |container: &Container| {
        Ok((format!("server-{}", container.inspect("{{.Config.Hostname}}")?), container.name()))
    };
    servers.iter().map(named).collect()
}

fn find(project: Option<&str>, fault: &Fault) -> anyhow::Result<Vec<Container>> {
    let mut found = choose(docker::containers(project)?, project, fault.target)?;
    let Target::Instance(_, which @ (Which::Any | Which::All)) = fault.target else { return Ok(found) };
    found.retain(|container| check_state(container, fault.action).is_ok());
    if found.is_empty() {
        bail!("no container is in a state for {}: `docker ps` shows what runs", fault.action);
    }
    if which == Which::Any {
        found.truncate(1);
    }
    Ok(found)
}

/// The target's containers out of all there are; never none.
fn choose(all: Vec<Container>, project: Option<&str>, target: Target) -> anyhow::Result<Vec<Container>> {
    let mut ours = all;
    ours.retain(|container| SERVICES.contains(&container.service.as_str()));
    // Others may call a service `redis`: a gateway makes a project ours.
    let projects: BTreeSet<String> =
        ours.iter().filter(|container| container.service == "wsproxy").map(|c| c.project.clone()).collect();
    let names: Vec<&str> = projects.iter().map(String::as_str).collect();
    let chosen = match (project, &names[..]) {
        (Some(project), names) if names.contains(&project) => project,
        (Some(project), _) => {
            bail!("Compose has no stack called {project}: start it with `docker compose up -d`")
        }
        (None, []) => bail!("Compose has no stack here: start one with `docker compose up -d`"),
        (None, [one]) => one,
        (None, several) => {
            bail!("Compose has several stacks: give one as compose:PROJECT ({})", several.join(", "))
        }
    };
    ours.retain(|container| container.project == chosen);
    let (service, number) = match target {
        Target::Redis => ("redis".to_owned(), None),
        Target::Haproxy => ("haproxy".to_owned(), None),
        Target::Instance(role, Which::Number(number)) => (role.to_string(), Some(number)),
        Target::Instance(role, Which::Any | Which::All) => (role.to_string(), None),
        Target::Link(_) => {
            bail!("links can be broken in native stacks only (`streamstress stack up`), not in Compose's")
        }
    };
    let there: Vec<String> = ours.iter().map(Container::name).collect();
    ours.retain(|container| container.service == service && number.is_none_or(|n| n == container.number));
    if ours.is_empty() {
        bail!("{chosen} has no {target}: it has {}", there.join(", "));
    }
    Ok(ours)
}

fn check_state(container: &Container, action: Action) -> anyhow::Result<()> {
    let name = container.name();
    match (container.state.as_str(), action) {
        ("paused", Action::Resume) => Ok(()),
        (_, Action::Resume) => bail!("{name} is not paused"),
        ("running" | "paused", Action::Start) => bail!("{name} runs already: kill or stop it first"),
        ("paused", _) => bail!("{name} is paused: resume it first"),
        ("running", _) | (_, Action::Start) => Ok(()),
        (state, _) => bail!("{name} is down already ({state}): start it first"),
    }
}

fn act(container: &Container, action: Action) -> anyhow::Result<String> {
    check_state(container, action)?;
    let name = container.name();
    let start = || {
        container.docker("start")?;
        container.until_ready(READY_PATIENCE)
    };
    match action {
        Action::Kill => {
            container.docker("kill --signal KILL")?;
            Ok(format!("{name} is killed"))
        }
        Action::Stop => {
            container.docker("kill --signal TERM")?;
            Ok(format!("{name} is told to end"))
        }
        Action::Start => {
            start()?;
            Ok(format!("{name} runs again"))
        }
        Action::Restart(None) => {
            container.docker("kill --signal KILL")?;
            start()?;
            Ok(format!("{name} was killed and runs again"))
        }
        Action::Restart(Some(memory)) => restart_redis(container, memory),
        Action::Drain => {
            let begun = Instant::now();
            container.docker(&format!("stop --time {}", DRAIN_PATIENCE.as_secs()))?;
            let drained = begun.elapsed().as_millis();
            start()?;
            Ok(format!("{name} drained in {drained} ms and runs again"))
        }
        Action::Pause(time) => {
            container.docker("pause")?;
            if let Some(time) = time {
                resume_later(container, time)?;
                return Ok(format!("{name} stands still for {time:?}"));
            }
            Ok(format!("{name} stands still"))
        }
        Action::Resume => {
            container.docker("unpause")?;
            Ok(format!("{name} goes on"))
        }
        Action::CutPubsub => {
            let closed = redis(container, &["CLIENT", "KILL", "TYPE", "pubsub"])?;
            Ok(format!("{closed} subscribers' connections are closed"))
        }
        Action::Refuse(time) | Action::Demote(time) | Action::Full(time) => {
            deny_writes(container, action, time)
        }
        Action::Reload => {
            container.docker("kill --signal USR2")?;
            Ok(format!("{name} is told to take a new worker"))
        }
        _ => bail!("{name} is no link: {action} is for links"),
    }
}

fn resume_later(container: &Container, time: Duration) -> anyhow::Result<()> {
    docker_later(time, &["unpause", &container.id])
}

fn deny_writes(container: &Container, action: Action, time: Duration) -> anyhow::Result<String> {
    let denial = Denial::of(action).with_context(|| format!("{action} denies no writes"))?;
    let words = |command: &str| docker::words(command);
    let value = |setting: &str| {
        let answer = redis(container, &["CONFIG", "GET", setting])?;
        let value = answer.lines().nth(1).with_context(|| format!("redis has no setting {setting}"))?;
        anyhow::Ok(value.trim().to_owned())
    };
    let before = denial.settings().map(value).collect::<anyhow::Result<Vec<_>>>()?;
    let end = denial.end(&before)?;
    let begin = words(&denial.begin());
    redis(container, &begin.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut later = vec!["exec", &container.id, "redis-cli"];
    later.extend(end.split(' '));
    docker_later(time, &later)?;
    Ok(format!("{} for {time:?}", denial.what))
}

/// Runs a command of Docker's after this time, by a process of its own, so that it also comes when this one ends before.
fn docker_later(time: Duration, command: &[&str]) -> anyhow::Result<()> {
    Command::new("/bin/sh")
        .args(["-c", "sleep \"$1\"; shift; exec docker \"$@\"", "later"])
        .arg(time.as_secs_f64().to_string())
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl+C is not for it.
        .process_group(0)
        .spawn()
        .map(drop)
        .context("cannot run /bin/sh to end the fault later")
}

/// Sends Redis one command. With `-e` an error of Redis is one of the command's.
fn redis(container: &Container, command: &[&str]) -> anyhow::Result<String> {
    let answer = container.exec(&[&["redis-cli", "-e"], command].concat());
    let answer = answer.with_context(|| format!("redis refuses {}", command.join(" ")))?;
    Ok(answer.trim_end().to_owned())
}

/// Redis's data is in the volume at /data. It reads a snapshot there when it appends to nothing, and its log when it does.
fn restart_redis(container: &Container, memory: Memory) -> anyhow::Result<String> {
    let redis = |command: &[&str]| redis(container, command);
    let appends = redis(&["CONFIG", "GET", "appendonly"])?.ends_with("yes");
    let kill = || container.docker("kill --signal KILL").map(drop);
    let start = || {
        container.docker("start")?;
        container.until_ready(READY_PATIENCE)
    };
    match (memory, appends) {
        (Memory::Keep, true) => {
            redis(&["CONFIG", "SET", "appendfsync", "always"])?;
            kill()?;
            start()?;
        }
        (Memory::Keep, false) => {
            // Nothing is acknowledged between the snapshot and the end.
            redis(&["CLIENT", "PAUSE", "60000", "WRITE"])?;
            redis(&["SAVE"])?;
            kill()?;
            start()?;
        }
        (Memory::Empty, _) => {
            kill()?;
            container.over_its_volumes("rm -rf /data/*")?;
            start()?;
        }
        (Memory::Rollback, true) => {
            container.exec(&["sh", "-euc", "rm -rf /data/then; cp -a /data/appendonlydir /data/then"])?;
            sleep(LOST);
            kill()?;
            container.over_its_volumes("cd /data; rm -rf appendonlydir; mv then appendonlydir")?;
            start()?;
        }
        (Memory::Rollback, false) => {
            redis(&["BGSAVE"])?;
            let snapshot = Instant::now();
            while !redis(&["INFO", "persistence"])?.contains("rdb_bgsave_in_progress:0") {
                sleep(Duration::from_millis(20));
            }
            sleep(LOST.saturating_sub(snapshot.elapsed()));
            kill()?;
            start()?;
        }
    }
    if !appends {
        // Or a later start would find it.
        container.exec(&["rm", "-f", "/data/dump.rdb"])?;
    }
    Ok(match memory {
        Memory::Keep => "redis was killed and is back with everything".into(),
        Memory::Empty => "redis was killed and is empty again".into(),
        Memory::Rollback => "redis was killed and is back without its last second".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(project: &str, service: &str, number: u16, state: &str) -> Container {
        let own = |text: &str| text.to_owned();
        let id = format!("{project}{service}{number}");
        Container { id, project: own(project), service: own(service), number, state: own(state) }
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
        assert!(chosen(&all, None, "wsproxy-3:kill").unwrap_err().contains("wsproxy-1, wsproxy-2"));
        assert!(chosen(&all, None, "link:wsproxy-1:cut").unwrap_err().contains("native stacks only"));
        assert!(chosen(&all, Some("other"), "redis:kill").unwrap_err().contains("docker compose up"));
        assert!(chosen(&[], None, "redis:kill").unwrap_err().contains("docker compose up"));
        all.extend(stack("second"));
        assert!(chosen(&all, None, "redis:kill").unwrap_err().contains("load, second"));
        assert_eq!(chosen(&all, Some("second"), "redis:kill").unwrap(), ["secondredis1"]);
    }

    #[test]
    fn a_containers_state_says_what_can_be_done() {
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
