//! The configuration of a Compose project, as far as changes of its containers need it.

use super::{Container, words};
use crate::role::Role;
use anyhow::bail;
use std::path::Path;

/// Where Compose finds the configuration of a project, from the labels of its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) project: String,
    pub(crate) directory: String,
    pub(crate) files: String,
}

impl Source {
    /// Reads the labels of a container.
    pub(crate) fn of(container: &Container) -> anyhow::Result<Self> {
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

    /// Returns the arguments of `docker compose` that set the numbers of containers. Other services are left alone. `more`: further
    /// options of `up`.
    pub(crate) fn up(&self, more: &str, counts: &[(Role, u16)]) -> Vec<String> {
        let mut arguments = vec!["--project-name".to_owned(), self.project.clone()];
        arguments.extend(["--project-directory".to_owned(), self.directory.clone()]);
        for file in self.files.split(',') {
            // docker-compose 1 stores names relative to the directory.
            let path = Path::new(&self.directory).join(file);
            arguments.extend(["--file".to_owned(), path.to_string_lossy().into_owned()]);
        }
        arguments.extend(words(&format!("up --detach --no-deps --no-build {more}")));
        arguments.extend(counts.iter().map(|(role, count)| format!("--scale={role}={count}")));
        arguments.extend(counts.iter().map(|(role, _)| role.to_string()));
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source {
            project: "load".into(),
            directory: "/srv/x".into(),
            files: "compose.yaml,/etc/more.yaml".into(),
        }
    }

    #[test]
    fn the_command_names_files_and_services() {
        let start = "--project-name load --project-directory /srv/x --file /srv/x/compose.yaml --file /etc/more.yaml \
                     up --detach --no-deps --no-build";
        assert_eq!(
            source().up("--no-recreate", &[(Role::Wsproxy, 6)]).join(" "),
            format!("{start} --no-recreate --scale=wsproxy=6 wsproxy")
        );
        assert_eq!(
            source().up("", &[(Role::Server, 1), (Role::Wsproxy, 2)]).join(" "),
            format!("{start} --scale=server=1 --scale=wsproxy=2 server wsproxy")
        );
    }
}
