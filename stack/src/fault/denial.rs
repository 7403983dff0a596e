//! How Redis is made to refuse writes, and to take them again: commands that every Redis knows.

use super::Action;

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    /// What Redis is or does then, for a person.
    pub(crate) what: &'static str,
    /// The command that begins it.
    pub(crate) begin: &'static str,
    end: &'static str,
}

impl Denial {
    /// What this action stands for, if it denies writes.
    pub(crate) const fn of(action: Action) -> Option<Self> {
        match action {
            Action::Refuse(_) => Some(Self {
                what: "redis refuses writes for want of replicas",
                begin: "CONFIG SET min-replicas-to-write 1",
                end: "CONFIG SET min-replicas-to-write 0",
            }),
            Action::Demote(_) => Some(Self {
                what: "redis is a replica of an instance that is not there",
                begin: "REPLICAOF 127.0.0.1 1",
                end: "REPLICAOF NO ONE",
            }),
            Action::Full(_) => Some(Self {
                what: "redis is out of memory",
                begin: "CONFIG SET maxmemory-clients 0 maxmemory 1",
                end: "CONFIG SET maxmemory",
            }),
            _ => None,
        }
    }

    /// The command that ends it; `maxmemory` was the limit before.
    pub(crate) fn end(self, maxmemory: &str) -> String {
        match self.end {
            // The clients' share is the one of docker/redis.conf. It goes by the limit, and would have closed every client.
            "CONFIG SET maxmemory" => format!("{} {maxmemory} maxmemory-clients 50%", self.end),
            end => end.to_owned(),
        }
    }
}
