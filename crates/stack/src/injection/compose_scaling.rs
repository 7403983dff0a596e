//! Changes the number of containers of a Compose service with `docker compose up --scale`. HAProxy finds new containers by itself, in the
//! DNS of Docker. A container that is removed gets SIGTERM and drains; Compose waits for it.

use crate::{
    docker::{self, Container},
    role::Role,
    scaling::{ColdStart, Counts, STEP, Scaled},
};
use anyhow::{Context, bail};
use host::unix_time;
use std::{
    collections::BTreeSet,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// Time limit for a new container to become healthy.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of containers that HAProxy has room for: the slots in backends-docker.cfg.
const MAX_CONTAINERS: u16 = 64;

/// Where Compose finds the configuration of a project, from the labels of its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    project: String,
    directory: String,
    files: String,
}

impl Source {
    fn of(container: &Container) -> anyhow::Result<Self> {
        let label = |name: &str| {
            let value = container
                .inspect(&format!("{{{{index .Config.Labels \"com.docker.compose.project.{name}\"}}}}"))?;
            if value.is_empty() {
                bail!(
                    "Docker does not know the {name} of Compose project {}: use `docker compose up -d --no-recreate --scale` yourself",
                    container.project
                );
            }
            anyhow::Ok(value)
        };
        Ok(Self {
            project: container.project.clone(),
            directory: label("working_dir")?,
            files: label("config_files")?,
        })
    }

    /// Returns the arguments of `docker compose` that set the number of a role's containers. Other services are left alone, and
    /// containers that run are not replaced.
    fn arguments(&self, role: Role, count: u16) -> Vec<String> {
        let mut arguments = vec!["--project-name".to_owned(), self.project.clone()];
        arguments.extend(["--project-directory".to_owned(), self.directory.clone()]);
        for file in self.files.split(',') {
            // docker-compose 1 stores names relative to the directory.
            let path = Path::new(&self.directory).join(file);
            arguments.extend(["--file".to_owned(), path.to_string_lossy().into_owned()]);
        }
        arguments.extend(docker::words(&format!(
            "up --detach --no-recreate --no-deps --no-build --scale {role}={count} {role}"
        )));
        arguments
    }
}

/// Changes the number of containers of a role, at once or in steps. `containers`: lists those of the role. A step begins a second after
/// the previous one, or later if that one takes longer, as it does while a container drains.
pub(super) fn scale(
    role: Role,
    counts: Counts,
    containers: impl Fn() -> anyhow::Result<Vec<Container>>,
) -> anyhow::Result<Scaled> {
    check(role, counts)?;
    let mut all: Option<Scaled> = None;
    let mut due = Instant::now();
    for count in counts.steps() {
        sleep(due.saturating_duration_since(Instant::now()));
        due = Instant::now() + STEP;
        let step = scale_once(role, count, &containers)?;
        all = Some(match all {
            Some(before) => before.then(step),
            None => step,
        });
    }
    all.with_context(|| format!("scale={counts} has no step: expected for example scale=6"))
}

/// Checks the numbers of a change.
pub(super) fn check(role: Role, counts: Counts) -> anyhow::Result<()> {
    match counts.all().find(|count| !(1..=MAX_CONTAINERS).contains(count)) {
        Some(count) => bail!("invalid number of {role} containers {count}: expected 1 to {MAX_CONTAINERS}"),
        None => Ok(()),
    }
}

fn scale_once(
    role: Role,
    count: u16,
    containers: impl Fn() -> anyhow::Result<Vec<Container>>,
) -> anyhow::Result<Scaled> {
    let (commanded, commanded_unix) = (Instant::now(), unix_time());
    let elapsed_ms = || commanded.elapsed().as_secs_f64() * 1e3;
    let before = containers()?;
    let source = Source::of(before.first().context("the service has no container")?)?;
    docker::compose(&source.arguments(role, count))?;
    let after = containers()?;
    let (new, removed) = changes(&before, &after);
    let mut started = Vec::new();
    for container in new {
        container.wait_until_healthy(READY_TIMEOUT)?;
        started.push(ColdStart {
            name: container.name(),
            commanded_unix_ms: u64::try_from(commanded_unix.as_millis()).unwrap_or(u64::MAX),
            ready_ms: elapsed_ms(),
            serving_ms: None,
            first_served_ms: None,
        });
    }
    let number = |containers: &[Container]| u16::try_from(containers.len()).unwrap_or(u16::MAX);
    Ok(Scaled {
        role,
        before: number(&before),
        after: number(&after),
        started,
        removed,
        took_ms: elapsed_ms(),
    })
}

/// Returns the containers that a change added, and the names of those that it removed.
fn changes<'a>(before: &[Container], after: &'a [Container]) -> (Vec<&'a Container>, Vec<String>) {
    let ids = |containers: &[Container]| containers.iter().map(|c| c.id.clone()).collect::<BTreeSet<_>>();
    let (old, new) = (ids(before), ids(after));
    let added = after.iter().filter(|container| !old.contains(&container.id)).collect();
    let removed =
        before.iter().filter(|container| !new.contains(&container.id)).map(Container::name).collect();
    (added, removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(number: u16) -> Container {
        Container {
            id: format!("id{number}"),
            project: "load".into(),
            service: "wsproxy".into(),
            number,
            state: "running".into(),
            is_only: false,
        }
    }

    #[test]
    fn the_command_leaves_other_containers_alone() {
        let source = Source {
            project: "load".into(),
            directory: "/srv/x".into(),
            files: "compose.yaml,/etc/more.yaml".into(),
        };
        let expected = "--project-name load --project-directory /srv/x --file /srv/x/compose.yaml --file /etc/more.yaml \
                        up --detach --no-recreate --no-deps --no-build --scale wsproxy=6 wsproxy";
        assert_eq!(source.arguments(Role::Wsproxy, 6).join(" "), expected);
    }

    #[test]
    fn added_and_removed_containers_are_found_by_their_ids() {
        let two: Vec<_> = [1, 2].map(container).into();
        let mut other = vec![container(2), container(3)];
        let (added, removed) = changes(&two, &other);
        assert_eq!(
            (added.len(), added[0].name(), removed),
            (1, "wsproxy-3".to_owned(), vec!["wsproxy-1".to_owned()])
        );
        other[0].id = "replaced".into();
        assert_eq!(changes(&two, &other).0.len(), 2);
    }

    #[test]
    fn numbers_beyond_the_slots_of_haproxy_are_refused() {
        for text in ["0", "65", "1..65", "0..3"] {
            let error = check(Role::Wsproxy, Counts::parse(text).unwrap()).unwrap_err().to_string();
            assert!(error.contains("expected 1 to 64"), "{text}: {error}");
        }
        assert!(check(Role::Server, Counts::parse("1..64").unwrap()).is_ok());
    }
}
