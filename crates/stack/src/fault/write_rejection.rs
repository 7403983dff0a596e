//! Commands that make Redis reject writes and accept them again. Every Redis version has them.
//! Settings are read before they are changed, so that the end restores the former values.

use super::Action;
use anyhow::bail;

/// A setting of Redis and its value while writes are refused.
type Setting = (&'static str, &'static str);

/// A way to make Redis reject writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteRejection {
    /// The state of Redis meanwhile, as a sentence for the user.
    pub(crate) description: &'static str,
    means: Means,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    Settings(&'static [Setting]),
    Replica,
}

impl WriteRejection {
    /// Returns the way in which an action makes Redis reject writes. `None` for other actions.
    pub(crate) const fn of(action: Action) -> Option<Self> {
        match action {
            Action::Refuse(_) => Some(Self {
                description: "redis rejects writes for lack of replicas",
                means: Means::Settings(&[("min-replicas-to-write", "1")]),
            }),
            Action::Demote(_) => Some(Self {
                description: "redis is a replica of an unreachable instance",
                means: Means::Replica,
            }),
            Action::Full(_) => Some(Self {
                description: "redis is out of memory",
                // The memory limit of clients is a share of `maxmemory`: with 1 byte it would close every client.
                means: Means::Settings(&[("maxmemory-clients", "0"), ("maxmemory", "1")]),
            }),
            _ => None,
        }
    }

    /// Lists the settings to read before the rejection begins. `end` takes their values in this order.
    pub(crate) fn settings(self) -> impl Iterator<Item = &'static str> {
        let settings = match self.means {
            Means::Settings(settings) => settings,
            Means::Replica => &[],
        };
        settings.iter().map(|(name, _)| *name)
    }

    /// Returns the command that begins the rejection.
    pub(crate) fn begin(self) -> String {
        match self.means {
            Means::Settings(settings) => set(settings.iter().copied()),
            Means::Replica => "REPLICAOF 127.0.0.1 1".to_owned(),
        }
    }

    /// Returns the command that ends the rejection: it restores the former values of the settings, or makes Redis a primary again.
    ///
    /// # Errors
    /// The values are those of a rejection that has not ended yet, so the values before it are not known here.
    pub(crate) fn end(self, before: &[String]) -> anyhow::Result<String> {
        let Means::Settings(settings) = self.means else { return Ok("REPLICAOF NO ONE".to_owned()) };
        let former = || settings.iter().zip(before);
        if former().all(|((_, during), before)| during == before) {
            bail!("{} already: wait until that has ended", self.description);
        }
        Ok(set(former().map(|((name, _), before)| (*name, before.as_str()))))
    }
}

fn set<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    settings.fold("CONFIG SET".to_owned(), |command, (name, value)| format!("{command} {name} {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_end_restores_the_former_values() {
        let time = Duration::from_secs(1);
        for (action, settings, values, begin, end) in [
            (
                Action::Full(time),
                &["maxmemory-clients", "maxmemory"][..],
                &["30%", "805306368"][..],
                "CONFIG SET maxmemory-clients 0 maxmemory 1",
                "CONFIG SET maxmemory-clients 30% maxmemory 805306368",
            ),
            (
                Action::Refuse(time),
                &["min-replicas-to-write"],
                &["0"],
                "CONFIG SET min-replicas-to-write 1",
                "CONFIG SET min-replicas-to-write 0",
            ),
            (Action::Demote(time), &[], &[], "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ] {
            let rejection = WriteRejection::of(action).unwrap();
            assert_eq!(rejection.settings().collect::<Vec<_>>(), settings);
            let values: Vec<_> = values.iter().map(|&value| value.to_owned()).collect();
            assert_eq!((rejection.begin().as_str(), rejection.end(&values).unwrap().as_str()), (begin, end));
        }
        assert_eq!(WriteRejection::of(Action::Kill), None);
    }

    #[test]
    fn a_second_rejection_is_refused() {
        let rejection = WriteRejection::of(Action::Full(Duration::from_secs(1))).unwrap();
        let refused = rejection.end(&["0".to_owned(), "1".to_owned()]).unwrap_err().to_string();
        assert_eq!(refused, "redis is out of memory already: wait until that has ended");
    }
}
