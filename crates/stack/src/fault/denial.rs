//! How Redis is made to refuse writes, and to take them again: commands that every Redis knows.
//! Settings are read before they are changed, so that the end gives back what was there.

use super::Action;
use anyhow::bail;

/// A setting of Redis and its value while writes are refused.
type Setting = (&'static str, &'static str);

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    /// What Redis is or does then, for a person.
    pub(crate) what: &'static str,
    means: Means,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    Settings(&'static [Setting]),
    Replica,
}

impl Denial {
    /// Returns how this action refuses writes, if it does.
    pub(crate) const fn of(action: Action) -> Option<Self> {
        match action {
            Action::Refuse(_) => Some(Self {
                what: "redis refuses writes for want of replicas",
                means: Means::Settings(&[("min-replicas-to-write", "1")]),
            }),
            Action::Demote(_) => Some(Self {
                what: "redis is a replica of an instance that is not there",
                means: Means::Replica,
            }),
            Action::Full(_) => Some(Self {
                what: "redis is out of memory",
                // The clients' share goes by the limit, and would close every client.
                means: Means::Settings(&[("maxmemory-clients", "0"), ("maxmemory", "1")]),
            }),
            _ => None,
        }
    }

    /// Lists the settings that must be read before it begins; `end` wants their values in this order.
    pub(crate) fn settings(self) -> impl Iterator<Item = &'static str> {
        let settings = match self.means {
            Means::Settings(settings) => settings,
            Means::Replica => &[],
        };
        settings.iter().map(|(name, _)| *name)
    }

    /// Returns the command that begins it.
    pub(crate) fn begin(self) -> String {
        match self.means {
            Means::Settings(settings) => set(settings.iter().copied()),
            Means::Replica => "REPLICAOF 127.0.0.1 1".to_owned(),
        }
    }

    /// Returns the command that gives the settings these former values, or makes Redis a primary again.
    ///
    /// # Errors
    /// The values are those of a denial that has not ended yet: its own end could not give back what was there before.
    pub(crate) fn end(self, before: &[String]) -> anyhow::Result<String> {
        let Means::Settings(settings) = self.means else { return Ok("REPLICAOF NO ONE".to_owned()) };
        let former = || settings.iter().zip(before);
        if former().all(|((_, denied), before)| denied == before) {
            bail!("{} already: wait until that has ended", self.what);
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
    fn the_end_gives_back_what_was_there() {
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
            let denial = Denial::of(action).unwrap();
            assert_eq!(denial.settings().collect::<Vec<_>>(), settings);
            let values: Vec<_> = values.iter().map(|&value| value.to_owned()).collect();
            assert_eq!((denial.begin().as_str(), denial.end(&values).unwrap().as_str()), (begin, end));
        }
        assert_eq!(Denial::of(Action::Kill), None);
    }

    #[test]
    fn a_denial_within_a_denial_is_refused() {
        let denial = Denial::of(Action::Full(Duration::from_secs(1))).unwrap();
        let refused = denial.end(&["0".to_owned(), "1".to_owned()]).unwrap_err().to_string();
        assert_eq!(refused, "redis is out of memory already: wait until that has ended");
    }
}
