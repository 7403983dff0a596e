//! What runs in a stack, whoever started it: its processes, where each answers, and which of its lives this is.
//! It starts and ends nothing, and what the supervisor or Docker does not say is absent, never guessed.

mod compose;
mod native;

use crate::fault::Place;
use anyhow::{Context, bail};
use std::{net::SocketAddr, time::Duration};

/// A part of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `redis`, `haproxy`, `server-1`, `wsproxy-2`.
    pub name: String,
    /// Its process on this machine; none while it is down, or where it runs elsewhere.
    pub pid: Option<u32>,
    /// Its children do its work, or some of it.
    pub has_children: bool,
    /// Where it alone answers `/health`, `/ready` and `/metrics`: servers and gateways.
    pub http: Option<SocketAddr>,
    /// Another one each time that it was started.
    pub life: String,
    /// It has ended, and nothing took its place.
    pub ended: bool,
}

/// A stack that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory(Place);

impl Inventory {
    /// The stack of that name, as [`Place::find`] understands it, where its API is behind `api_port` of this machine; without
    /// a name, the native one of the usual name, or whichever of Compose's has that port.
    ///
    /// # Errors
    /// Why there is none, for a person.
    pub fn find(name: Option<&str>, api_port: u16) -> anyhow::Result<Self> {
        let place = Place::find(name)?;
        let native = match &place {
            Place::Compose { project } => return Self::compose(project.as_deref(), api_port),
            Place::Native(state_dir) => native::has_door(state_dir, api_port),
        };
        let why = match native {
            Ok(true) => return Ok(Self(place)),
            Ok(false) if name.is_some() => {
                bail!("the stack of that name has its API elsewhere than at port {api_port}")
            }
            Err(error) if name.is_some() => return Err(error),
            Ok(false) => "no native stack has that port".to_owned(),
            Err(error) => format!("no native stack is seen ({error:#})"),
        };
        Self::compose(None, api_port).context(why)
    }

    fn compose(project: Option<&str>, api_port: u16) -> anyhow::Result<Self> {
        let project = compose::project_with_door(project, api_port)?;
        Ok(Self(Place::Compose { project: Some(project) }))
    }

    /// What there is now.
    ///
    /// # Errors
    /// Nobody answers who could tell.
    pub fn members(&self) -> anyhow::Result<Vec<Member>> {
        match &self.0 {
            Place::Native(state_dir) => native::members(state_dir),
            Place::Compose { project } => compose::members(project.as_deref()),
        }
    }

    /// How often to look: asking Docker is a process each time.
    #[must_use]
    pub const fn every(&self) -> Duration {
        match self.0 {
            Place::Native(_) => Duration::from_secs(1),
            Place::Compose { .. } => Duration::from_secs(2),
        }
    }
}
