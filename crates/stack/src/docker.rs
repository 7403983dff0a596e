//! Docker's command line, as far as faults and the inventory need it: which containers a Compose project has, and a command
//! on one of them.
//! It starts no project and removes nothing.

mod bounded;

use anyhow::{Context, bail};
use std::{
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For a question.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a change: the longest is a container's end, which has a minute.
const ORDER_PATIENCE: Duration = Duration::from_secs(120);

/// A container of a Compose project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) project: String,
    pub(crate) service: String,
    pub(crate) number: u16,
    /// `running`, `paused`, `exited`, …
    pub(crate) state: String,
}

const COLUMNS: &str = concat!(
    "{{.ID}}\t{{.State}}\t{{.Label \"com.docker.compose.project\"}}",
    "\t{{.Label \"com.docker.compose.service\"}}\t{{.Label \"com.docker.compose.container-number\"}}"
);

/// The containers of Compose's services, running or not, by service and number.
pub(crate) fn containers(project: Option<&str>) -> anyhow::Result<Vec<Container>> {
    let mut containers = parse(&ask(&list(project))?);
    containers.sort_by(|a, b| (&a.service, a.number).cmp(&(&b.service, b.number)));
    Ok(containers)
}

fn list(project: Option<&str>) -> Vec<String> {
    let mut arguments = words("ps --all --no-trunc --filter label=com.docker.compose.oneoff=False --filter");
    arguments.push(match project {
        Some(project) => format!("label=com.docker.compose.project={project}"),
        None => "label=com.docker.compose.project".to_owned(),
    });
    arguments.extend(["--format".to_owned(), COLUMNS.to_owned()]);
    arguments
}

fn parse(listing: &str) -> Vec<Container> {
    listing
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
            })
        })
        .collect()
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Changes something; answers what `docker` says.
pub(crate) fn order(arguments: &[String]) -> anyhow::Result<String> {
    call(arguments, ORDER_PATIENCE, &arguments.join(" "))
}

/// Asks something, which an engine that hangs does not answer.
pub(crate) fn ask(arguments: &[String]) -> anyhow::Result<String> {
    ask_within(arguments, PATIENCE)
}

/// Asks something, and waits at most `patience` for the answer.
pub(crate) fn ask_within(arguments: &[String], patience: Duration) -> anyhow::Result<String> {
    call(arguments, patience, &arguments[0])
}

/// `shown` stands for the arguments in messages.
fn call(arguments: &[String], patience: Duration, shown: &str) -> anyhow::Result<String> {
    let output = bounded::output(Command::new("docker").args(arguments), patience)
        .with_context(|| format!("docker {shown} has no answer"))?;
    if !output.status.success() {
        bail!("docker {shown} fails: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Container {
    /// `wsproxy-2`, `redis`.
    pub(crate) fn name(&self) -> String {
        Self::name_of(&self.service, self.number)
    }

    /// The same of a service's container.
    pub(crate) fn name_of(service: &str, number: u16) -> String {
        match service {
            "redis" | "haproxy" => service.to_owned(),
            service => format!("{service}-{number}"),
        }
    }

    /// `docker COMMAND… ID`.
    pub(crate) fn docker(&self, command: &str) -> anyhow::Result<String> {
        let mut arguments = words(command);
        arguments.push(self.id.clone());
        order(&arguments)
    }

    /// A command within it.
    pub(crate) fn exec(&self, command: &[&str]) -> anyhow::Result<String> {
        order(&self.within(command))
    }

    fn within(&self, command: &[&str]) -> Vec<String> {
        ["exec", &self.id].iter().chain(command).map(|&word| word.to_owned()).collect()
    }

    /// A shell's script over its volumes, in a container of its own: for while this one is down.
    pub(crate) fn over_its_volumes(&self, script: &str) -> anyhow::Result<String> {
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
        order(&arguments)
    }

    pub(crate) fn inspect(&self, what: &str) -> anyhow::Result<String> {
        let arguments = ["inspect", "--format", what, &self.id].map(str::to_owned);
        Ok(ask(&arguments)?.trim_end().to_owned())
    }

    /// Waits until its own health check says yes, asked more often than the engine does.
    pub(crate) fn until_ready(&self, patience: Duration) -> anyhow::Result<()> {
        let check = self.inspect("{{json .Config.Healthcheck}}")?;
        // Without one, a container that was started runs.
        let Some(command) = health_command(&check) else { return Ok(()) };
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let deadline = Instant::now() + patience;
        while let Err(error) = ask(&self.within(&command)) {
            if Instant::now() > deadline {
                return Err(error)
                    .with_context(|| format!("{} is not ready after {patience:?}", self.name()));
            }
            sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

/// The command of a health check, as `docker inspect` shows it.
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
    fn containers_are_read_from_the_listing() {
        let listing =
            "abc\trunning\tload\twsproxy\t2\ndef\texited\tload\tredis\t1\n\nghi\trunning\tload\tredis\n";
        let container = |id: &str, state: &str, service: &str, number| Container {
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
