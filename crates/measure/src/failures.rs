//! Failures grouped by kind and code: count, first and last time, one example.
//! Each group keeps one message, so memory does not grow with the number of failures.

use crate::record::{Failure, FailureKind, Moment};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
};

/// All failures of one kind and code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureGroup {
    /// Number of failures.
    pub count: u64,
    /// Time of the first failure.
    pub first: Moment,
    /// Time of the last failure.
    pub last: Moment,
    /// Message of the first failure. Of several at the same time, the one that sorts first.
    pub example: String,
}

/// Failures by kind (`run`, `reconnect` …) and HTTP status or close code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures(BTreeMap<(Cow<'static, str>, Option<u16>), FailureGroup>);

impl FailureKind {
    /// Returns the name in every output.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Connect => "connect",
            Self::Reconnect => "reconnect",
            Self::Run => "run",
            Self::Stream => "stream",
            Self::Timeout => "timeout",
            Self::Close => "close",
            Self::Closed(_) => "closed",
        }
    }
}

impl Failures {
    /// Adds a failure that happened at `at`.
    pub fn add(&mut self, failure: &Failure, at: Moment) {
        let code = match failure.kind {
            FailureKind::Closed(code) => Some(code),
            _ => failure.code,
        };
        let group = FailureGroup { count: 1, first: at, last: at, example: failure.message.clone() };
        self.add_group((failure.kind.name().into(), code), group);
    }

    /// Adds the failures of `other`. The order of merging does not matter.
    pub fn merge(&mut self, other: &Self) {
        for (key, group) in &other.0 {
            self.add_group(key.clone(), group.clone());
        }
    }

    fn add_group(&mut self, key: (Cow<'static, str>, Option<u16>), group: FailureGroup) {
        match self.0.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(group);
            }
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.count += group.count;
                known.last = known.last.max(group.last);
                if (group.first, &group.example) < (known.first, &known.example) {
                    (known.first, known.example) = (group.first, group.example);
                }
            }
        }
    }

    /// Returns the groups with the most failures first. Names consist of kind and code, for example `run 429`.
    #[must_use]
    pub fn by_count(&self) -> Vec<(String, &FailureGroup)> {
        let named = |(kind, code, group): (&str, Option<u16>, _)| match code {
            Some(code) => (format!("{kind} {code}"), group),
            None => (kind.to_owned(), group),
        };
        let mut groups: Vec<_> = self.iter().map(named).collect();
        groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.count));
        groups
    }

    /// Iterates over kind, code and group, sorted by kind and code.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<u16>, &FailureGroup)> {
        self.0.iter().map(|((kind, code), group)| (&**kind, *code, group))
    }
}
