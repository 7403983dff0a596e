//! Failures grouped by kind and code: how many, when first and last, one example.
//! It keeps one message a group, so an hour of failures takes as much memory as the first few.

use crate::record::{Failure, FailureKind, Moment};
use std::collections::BTreeMap;

/// All failures of one kind and code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureGroup {
    /// How many.
    pub count: u64,
    /// When the first happened.
    pub first: Moment,
    /// When the last happened.
    pub last: Moment,
    /// The first one's message.
    pub example: String,
}

/// Failures by kind (`run`, `reconnect` …) and HTTP status or close code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures(BTreeMap<(&'static str, Option<u16>), FailureGroup>);

impl FailureKind {
    /// The name in every output.
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
    /// One more.
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

    /// Kind, code and group, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Option<u16>, &FailureGroup)> {
        self.0.iter().map(|(&(kind, code), group)| (kind, code, group))
    }
}
