//! `--embedded`: the whole stack in this process, on ports of its own.
//! Without the feature of that name it only says so.

use crate::config::{Config, Faults};
use crate::engine::RunError;
use crate::watch::Member;

/// A stack in this process.
#[cfg(feature = "embedded")]
#[derive(Debug)]
pub struct Stack(stack::embedded::Embedded);

/// Starts a stack and aims `config` at it.
///
/// # Errors
/// A part did not start.
#[cfg(feature = "embedded")]
pub fn start(config: &mut Config) -> Result<Stack, RunError> {
    use anyhow::Context;
    let mut options = stack::embedded::Options::new().context("cannot make a key for the embedded stack")?;
    let clients = usize::try_from(config.load.clients).unwrap_or(usize::MAX);
    options.server.max_streams = options.server.max_streams.max(clients);
    options.wsproxy.max_connections = options.wsproxy.max_connections.max(clients);
    let stack = stack::embedded::Embedded::start(options).context("cannot start the embedded stack")?;
    let aim = |url: String| {
        let parsed = url.parse().map(crate::address::Address::new);
        parsed.map_err(|error| Faults(vec![format!("the stack's URL {url}: {error}")]))
    };
    config.target.api = aim(stack.api_url())?;
    config.target.ws = aim(stack.ws_url())?;
    Ok(Stack(stack))
}

#[cfg(feature = "embedded")]
impl Stack {
    /// Its parts: they have this process, and addresses of their own.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let gateways = self.0.ws_urls();
        let gateways =
            gateways.iter().enumerate().map(|(index, url)| (format!("wsproxy-{}", index + 1), url.clone()));
        let parts = std::iter::once(("server-1".to_owned(), self.0.api_url())).chain(gateways);
        let member = |(name, url): (String, String)| Member {
            name,
            pid: None,
            has_children: false,
            http: url.split_once("://").and_then(|(_, address)| address.parse().ok()),
            life: String::new(),
            ended: false,
        };
        parts.map(member).collect()
    }

    /// Ends it; returns when nothing of it runs.
    ///
    /// # Errors
    /// A part had failed, or did not end in time.
    pub fn stop(self) -> anyhow::Result<()> {
        self.0.stop()
    }
}

/// No stack is in this build.
#[cfg(not(feature = "embedded"))]
#[derive(Debug)]
pub enum Stack {}

/// Says what is missing.
///
/// # Errors
/// Always.
#[cfg(not(feature = "embedded"))]
pub fn start(_: &mut Config) -> Result<Stack, RunError> {
    let fault = "this build has no stack in it: build with `--features embedded`, or name one with --api-url";
    Err(Faults(vec![fault.to_owned()]).into())
}

#[cfg(not(feature = "embedded"))]
impl Stack {
    /// There are none.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        match *self {}
    }

    /// There is none.
    ///
    /// # Errors
    /// Never.
    pub fn stop(self) -> anyhow::Result<()> {
        match self {}
    }
}
