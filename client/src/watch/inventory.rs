//! What runs in a stack of ours, where this build has the stack in it.
//! Without the feature `embedded` it only says so.

#[cfg(feature = "embedded")]
pub use stack::inventory::{Inventory, Member};

#[cfg(not(feature = "embedded"))]
pub use absent::{Inventory, Member};

/// The same shapes, of nothing.
#[cfg(not(feature = "embedded"))]
#[allow(missing_docs)]
mod absent {
    use std::{net::SocketAddr, time::Duration};

    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Member {
        pub name: String,
        pub pid: Option<u32>,
        pub has_children: bool,
        pub http: Option<SocketAddr>,
        pub life: String,
        pub ended: bool,
    }

    #[derive(Debug)]
    pub enum Inventory {}

    impl Inventory {
        pub fn find(_: Option<&str>, _: u16) -> anyhow::Result<Self> {
            anyhow::bail!("this build has no stack in it")
        }

        pub fn members(&self) -> anyhow::Result<Vec<Member>> {
            match *self {}
        }

        pub fn every(&self) -> Duration {
            match *self {}
        }
    }
}
