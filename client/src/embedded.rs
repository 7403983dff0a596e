//! `--embedded`: runs the whole stack inside this process, on free loopback ports.

use crate::config::Config;
use anyhow::Context;
use load::watch::Member;

/// A running embedded stack. It ends when [`Stack::stop`] is called.
#[derive(Debug)]
pub struct Stack(stack::embedded::Embedded);

/// Starts a stack and makes it the target of `config`. Server and gateway accept at least as many connections as the run has clients.
///
/// # Errors
/// A part of the stack did not start.
pub fn start(config: &mut Config) -> anyhow::Result<Stack> {
    let mut options = stack::embedded::Options::new().context("cannot make a key for the embedded stack")?;
    let clients = usize::try_from(config.plan.load.clients).unwrap_or(usize::MAX);
    options.server.max_streams = options.server.max_streams.max(clients);
    options.wsproxy.max_connections = options.wsproxy.max_connections.max(clients);
    let stack = stack::embedded::Embedded::start(options).context("cannot start the embedded stack")?;
    let address = |url: String| {
        let parsed = url.parse().map(settings::address::Address::new);
        parsed.with_context(|| format!("the embedded stack has the invalid URL {url}"))
    };
    let target = &mut config.plan.target;
    (target.api, target.ws) = (address(stack.api_url())?, address(stack.ws_url())?);
    if target.foreign.is_some() {
        target.ws = target.api.clone();
    }
    target.more_api.clear();
    target.more_ws.clear();
    Ok(Stack(stack))
}

impl Stack {
    /// Returns the server and the gateways, each with its own address. They have no process id, because they run in this process.
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

    /// Stops the stack and waits until all its parts have ended.
    ///
    /// # Errors
    /// A part had failed, or did not end in time.
    pub fn stop(self) -> anyhow::Result<()> {
        self.0.stop()
    }
}
