//! Changes the number of containers of a Compose service with `docker compose up --scale`. HAProxy finds new containers by itself, in the
//! DNS of Docker. A container that is removed gets SIGTERM and drains; Compose waits for it.

use crate::{
    docker::{self, Container, Source},
    role::Role,
    scaling::{ColdStart, Counts, STEP, Scaled},
};
use anyhow::{Context, bail};
use host::unix_time;
use std::{
    collections::BTreeSet,
    thread::sleep,
    time::{Duration, Instant},
};

/// Time limit for a new container to become healthy.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of containers that HAProxy has room for: the slots in backends-docker.cfg.
const MAX_CONTAINERS: u16 = 64;

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
    // Containers that run are not replaced.
    docker::compose(&source.up("--no-recreate", &[(role, count)]), &[])?;
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
