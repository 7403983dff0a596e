//! The members of a stack. The program that knows the stack lists them.

use std::{collections::BTreeMap, fmt::Debug, net::SocketAddr, time::Duration};

/// A part of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name: `redis`, `haproxy`, `server-1`, `wsproxy-2`.
    pub name: String,
    /// Its process on this machine. `None` while it is down, or if it runs elsewhere.
    pub pid: Option<u32>,
    /// Child processes do its work, or a part of it.
    pub has_children: bool,
    /// The address where this part alone serves `/health`, `/ready` and `/metrics`. Servers and gateways have one.
    pub http: Option<SocketAddr>,
    /// Changes each time the part is started.
    pub life: String,
    /// The part has ended and nothing has replaced it.
    pub ended: bool,
}

/// Lists the members of a stack. The program implements it for the stacks that it knows.
pub trait Inventory: Debug + Send {
    /// Returns the present members.
    ///
    /// # Errors
    /// The stack cannot be asked.
    fn members(&self) -> anyhow::Result<Vec<Member>>;

    /// Returns the settings of the stack that none of its servers and gateways state, by name. Empty if they are not known.
    fn settings(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Returns how often it makes sense to ask.
    fn every(&self) -> Duration;
}

/// The source of the members of the stack behind the target.
#[derive(Debug)]
pub enum Source {
    /// The stack runs in this process and consists of these parts.
    Here(Vec<Member>),
    /// A stack on this machine that can be asked.
    Inventory(Box<dyn Inventory>),
    /// No stack can be asked, for this reason. The watch observes only the public addresses and the client.
    Unknown(String),
}
