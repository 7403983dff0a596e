//! Changes of the number of instances as values: how to count, what changed, and how long a new instance took until it served.
//! This module starts and ends nothing.

use crate::role::Role;
use serde::{Deserialize, Serialize};
use settings::plural::counted;
use std::{fmt, time::Duration};

/// Time between two steps of a change such as `scale=3..6`.
pub const STEP: Duration = Duration::from_secs(1);

/// The number of instances to have: at once (`6`), or in steps of one instance per second (`3..6`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Number to begin with, for a change in steps. It differs from `to`.
    pub from: Option<u16>,
    /// Number at the end.
    pub to: u16,
}

impl Counts {
    /// Returns a change that is made at once.
    #[must_use]
    pub const fn at_once(to: u16) -> Self {
        Self { from: None, to }
    }

    /// Reads `6` or `3..6`. Returns `None` for any other text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let Some((from, to)) = text.split_once("..") else { return text.parse().ok().map(Self::at_once) };
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        (from != to).then_some(Self { from: Some(from), to })
    }

    /// Returns the numbers at the beginning and at the end.
    pub(crate) fn all(self) -> impl Iterator<Item = u16> {
        self.from.into_iter().chain([self.to])
    }

    /// Returns the numbers in their order: one second lies between two of them.
    pub fn steps(self) -> impl Iterator<Item = u16> {
        let (from, to) = (self.from.unwrap_or(self.to), self.to);
        let down = (0..from.saturating_sub(to)).map(move |removed| from - removed);
        (from..to).chain(down).chain([to])
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            Some(from) => write!(f, "{from}..{}", self.to),
            None => write!(f, "{}", self.to),
        }
    }
}

/// How long an instance took from the command that started it until it served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColdStart {
    /// Name of the instance, for example `wsproxy-4`.
    pub name: String,
    /// When the command came, in milliseconds since the Unix epoch.
    pub commanded_unix_ms: u64,
    /// Time until the process reported that it is ready, in milliseconds.
    pub ready_ms: f64,
    /// Time until every load balancer sent to it, in milliseconds. `None` if that was not observed.
    #[serde(default)]
    pub serving_ms: Option<f64>,
    /// Time until it served its first session (a gateway) or its first query (a server), in milliseconds. `None` if it has served none.
    #[serde(default)]
    pub first_served_ms: Option<f64>,
}

impl fmt::Display for ColdStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ready after {:.0} ms", self.ready_ms)?;
        if let Some(serving) = self.serving_ms {
            write!(f, ", gets connections after {serving:.0} ms")?;
        }
        let what = if self.name.starts_with("server") { "query" } else { "session" };
        match self.first_served_ms {
            Some(served) => write!(f, ", first {what} after {served:.0} ms"),
            None => write!(f, ", no {what} yet"),
        }
    }
}

/// What a change of the number of instances did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaled {
    /// Role of the instances.
    pub role: Role,
    /// Number before the change.
    pub before: u16,
    /// Number after it.
    pub after: u16,
    /// The new instances. All of them get connections.
    pub started: Vec<ColdStart>,
    /// Names of the instances that left. They get no new connections; their open sockets end as they drain.
    pub removed: Vec<String>,
    /// Time that the change took, in milliseconds.
    pub took_ms: f64,
}

impl Scaled {
    /// Adds a later change of the same role. An instance that came and left, or the other way round, is in both lists.
    #[must_use]
    pub(crate) fn then(mut self, later: Self) -> Self {
        self.after = later.after;
        self.started.extend(later.started);
        self.removed.extend(later.removed);
        self.took_ms += later.took_ms;
        self
    }

    /// Returns the change as a sentence without the times of the instances.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("the number of {} instances changed from {} to {}", self.role, self.before, self.after)
    }
}

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.started.is_empty() && self.removed.is_empty() {
            return write!(f, "{}: {} already", self.role, counted(self.after, "instances are running"));
        }
        write!(f, "{}: {} -> {} ({:.0} ms)", self.role, self.before, self.after, self.took_ms)?;
        for start in &self.started {
            write!(f, "\n  + {}  {start}", start.name)?;
        }
        for name in &self.removed {
            write!(f, "\n  - {name}  drains; it gets no new connections")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn steps_go_up_and_down_by_one() {
        let steps = |text: &str| Counts::parse(text).unwrap().steps().collect::<Vec<_>>();
        assert_eq!(steps("6"), [6]);
        assert_eq!(steps("3..6"), [3, 4, 5, 6]);
        assert_eq!(steps("6..4"), [6, 5, 4]);
        for text in ["", "x", "3..3", "..6", "3..", "3..x", "-1..2", "1..2..3", "99999"] {
            assert_eq!(Counts::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_changed_is_shown_with_its_times() {
        let start = ColdStart {
            name: "wsproxy-3".into(),
            commanded_unix_ms: 1,
            ready_ms: 80.4,
            serving_ms: Some(210.0),
            first_served_ms: None,
        };
        let up = Scaled {
            role: Role::Wsproxy,
            before: 2,
            after: 3,
            started: vec![start],
            removed: Vec::new(),
            took_ms: 215.0,
        };
        let text = "wsproxy: 2 -> 3 (215 ms)\n  + wsproxy-3  ready after 80 ms, gets connections after 210 ms, no session yet";
        assert_eq!(up.to_string(), text);
        let down = Scaled {
            role: Role::Wsproxy,
            took_ms: 5.0,
            before: 3,
            after: 2,
            started: Vec::new(),
            removed: vec!["wsproxy-3".into()],
        };
        let both = up.then(down);
        assert_eq!((both.before, both.after), (2, 2));
        assert!(both.to_string().ends_with("- wsproxy-3  drains; it gets no new connections"), "{both}");
        let nothing = Scaled { started: Vec::new(), removed: Vec::new(), ..both };
        assert_eq!(nothing.to_string(), "wsproxy: 2 instances are running already");
    }

    proptest! {
        #[test]
        fn steps_begin_and_end_as_asked(from in 0..=u16::MAX, distance in -300..300_i32) {
            let to = u16::try_from(i32::from(from) + distance).unwrap_or(7);
            prop_assume!(from != to && from.abs_diff(to) < 500);
            let counts = Counts { from: Some(from), to };
            prop_assert_eq!(Counts::parse(&counts.to_string()), Some(counts));
            let steps: Vec<_> = counts.steps().collect();
            prop_assert_eq!((steps[0], *steps.last().unwrap()), (from, to));
            prop_assert!(steps.windows(2).all(|pair| pair[0].abs_diff(pair[1]) == 1));
        }
    }
}
