//! The members of a running stack: its processes or containers, their addresses, and whether they were restarted.
//! This module starts and ends nothing. What the supervisor or Docker does not report is absent, never guessed.

mod compose;
mod native;

use crate::{StackRef, native::Status};
use anyhow::{Context, bail};
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

/// A process or container of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name in faults: `redis`, `haproxy`, `server-1` or `wsproxy-2`. Several HAProxies are `haproxy-1`, `haproxy-2` …
    pub name: String,
    /// Process id on this machine. `None` while the member is down, and if its process runs on another machine.
    pub pid: Option<u32>,
    /// Whether child processes do a part of the work.
    pub has_children: bool,
    /// Address of `/health`, `/ready` and `/metrics`, for servers and gateways.
    pub http: Option<SocketAddr>,
    /// Text that differs after each start.
    pub incarnation: String,
    /// Whether the member has ended and has not been started again.
    pub ended: bool,
}

/// Returns the state of a native stack. `name` selects it as [`StackRef::find`] does.
///
/// # Errors
/// `name` is not the name of a native stack, or the stack does not respond within five seconds.
pub fn native_status(name: Option<&str>) -> anyhow::Result<Status> {
    match StackRef::find(name)? {
        StackRef::Native(state_dir) => native::status(&state_dir),
        StackRef::Compose { .. } => bail!("this is a Compose stack"),
    }
}

/// A running stack whose members can be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory(StackRef);

impl Inventory {
    /// Returns the inventory of a stack, running or not.
    #[must_use]
    pub const fn of(stack: StackRef) -> Self {
        Self(stack)
    }

    /// Finds the stack whose HTTP API is at `api_port` of this machine. `name` selects it as [`StackRef::find`] does. Without a name
    /// it is the native stack `default` or any Compose stack.
    ///
    /// # Errors
    /// There is no such stack, or its API has another port.
    pub fn find(name: Option<&str>, api_port: u16) -> anyhow::Result<Self> {
        let stack = StackRef::find(name)?;
        let native = match &stack {
            StackRef::Compose { project } => return Self::compose(project.as_deref(), api_port),
            StackRef::Native(state_dir) => native::has_api_port(state_dir, api_port),
        };
        let why = match native {
            Ok(true) => return Ok(Self(stack)),
            Ok(false) if name.is_some() => {
                bail!("the HTTP API of that stack is not at port {api_port}")
            }
            Err(error) if name.is_some() => return Err(error),
            Ok(false) => "the native stack has another port".to_owned(),
            Err(error) => format!("no native stack was found ({error:#})"),
        };
        Self::compose(None, api_port).context(why)
    }

    fn compose(project: Option<&str>, api_port: u16) -> anyhow::Result<Self> {
        let project = compose::project_with_api_port(project, api_port)?;
        Ok(Self(StackRef::Compose { project: Some(project) }))
    }

    /// Lists the members.
    ///
    /// # Errors
    /// The supervisor or Docker does not respond.
    pub fn members(&self) -> anyhow::Result<Vec<Member>> {
        match &self.0 {
            StackRef::Native(state_dir) => native::members(state_dir),
            StackRef::Compose { project } => compose::members(project.as_deref()),
        }
    }

    /// Returns the settings that the supervisor of a native stack knows: its options that change what a token costs. Empty for other stacks.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, String> {
        match &self.0 {
            StackRef::Native(state_dir) => {
                native::status(state_dir).map(|status| status.settings).unwrap_or_default()
            }
            StackRef::Compose { .. } => BTreeMap::new(),
        }
    }

    /// Returns a suitable interval between two lists. It is longer for Docker, which needs a process each time.
    #[must_use]
    pub const fn every(&self) -> Duration {
        match self.0 {
            StackRef::Native(_) => Duration::from_secs(1),
            StackRef::Compose { .. } => Duration::from_secs(2),
        }
    }
}
