//! Failures grouped by kind and code: count, first and last time, one example.
//! Each group keeps one message, so memory does not grow with the number of failures.

use crate::record::{Failure, FailureKind, Moment};
use std::collections::BTreeMap;

/// All failures of one kind and code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureGroup {
    /// Number of failures.
    pub count: u64,
    /// Time of the first failure.
    pub first: Moment,
    /// Time of the last failure.
    pub last: Moment,
    /// Message of the first failure.
    pub example: String,
}

/// Failures by kind (`run`, `reconnect` …) and HTTP status or close code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures(BTreeMap<(&'static str, Option<u16>), FailureGroup>);

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
        let group = self.0.entry((failure.kind.name(), code)).or_insert_with(|| FailureGroup {
            count: 0,
            first: at,
            last: at,
            example: failure.message.clone(),
        });
        group.count += 1;
        group.first = group.first.min(at);
        group.last = group.last.max(at);
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
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Option<u16>, &FailureGroup)> {
        self.0.iter().map(|(&(kind, code), group)| (kind, code, group))
    }
}
