//! `--embedded`: the whole stack in this process, on ports of its own.

use crate::config::{Config, ConfigErrors};
use crate::engine::RunError;
use load::watch::Member;

/// A stack in this process.
#[derive(Debug)]
pub struct Stack(stack::embedded::Embedded);

/// Starts a stack and aims `config` at it.
///
/// # Errors
/// A part did not start.
pub fn start(config: &mut Config) -> Result<Stack, RunError> {
    use anyhow::Context;
    let mut options = stack::embedded::Options::new().context("cannot make a key for the embedded stack")?;
    let clients = usize::try_from(config.plan.load.clients).unwrap_or(usize::MAX);
    options.server.max_streams = options.server.max_streams.max(clients);
    options.wsproxy.max_connections = options.wsproxy.max_connections.max(clients);
    let stack = stack::embedded::Embedded::start(options).context("cannot start the embedded stack")?;
    let aim = |url: String| {
        let parsed = url.parse().map(settings::address::Address::new);
        parsed.map_err(|error| ConfigErrors(vec![format!("the stack's URL {url}: {error}")]))
    };
    config.plan.target.api = aim(stack.api_url())?;
    config.plan.target.ws = aim(stack.ws_url())?;
    Ok(Stack(stack))
}

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
