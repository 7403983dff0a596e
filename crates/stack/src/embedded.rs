//! A whole stack in this process: one server and its gateways over the memory bus, each on a separate thread and a free loopback
//! port. There is no Redis and no HAProxy, so results are better than those of a deployment.

use crate::probe;
use anyhow::{Context, bail};
use bus::{Broker, BusConfig};
use protocol::{Secret, SecretError, Verifier};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Time limit for each component to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a component has to end in addition to its drain.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Connections of a component that wait to be accepted.
const BACKLOG: i32 = 4096;

/// Configuration of an embedded stack. Server and gateways share one random JWT key that never leaves this process.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of gateways, 1 to 16.
    pub proxies: usize,
    /// Configuration of the server.
    pub server: server::Config,
    /// Configuration of each gateway.
    pub wsproxy: wsproxy::Config,
}

impl Options {
    /// Returns a configuration with one gateway, the defaults of server and gateway, and drains of two seconds.
    ///
    /// # Errors
    /// None in practice: a random key is long enough.
    pub fn new() -> Result<Self, SecretError> {
        let secret = Secret::new(crate::JwtSecret::random().expose())?;
        let mut server = server::Config::new(secret);
        server.drain = Duration::from_secs(2);
        let wsproxy = wsproxy::Config {
            drain: Duration::from_secs(2),
            drain_window: Duration::ZERO,
            ..wsproxy::Config::default()
        };
        Ok(Self { proxies: 1, server, wsproxy })
    }

    /// Sets a fixed delay between tokens.
    #[must_use]
    pub fn token_delay(mut self, delay: Duration) -> Self {
        self.server.timing.itl_ms = server::Distribution::Fixed(delay.as_secs_f64() * 1e3);
        self
    }

    /// Sets the text of all responses, one token per word.
    ///
    /// # Errors
    /// The text has no words.
    pub fn response_text(mut self, text: &str) -> anyhow::Result<Self> {
        let text = server::ResponseText::new(text).context("the response text has no words")?;
        self.server.timing.tokens = server::Distribution::Fixed(text.words() as f64);
        self.server.text = text;
        Ok(self)
    }
}

/// A running stack. Dropping it stops it.
#[derive(Debug)]
pub struct Embedded {
    api: SocketAddr,
    ws: Vec<SocketAddr>,
    shutdown: CancellationToken,
    components: Vec<Component>,
    stop_timeout: Duration,
}

impl Embedded {
    /// Starts a stack and blocks until all of it is ready.
    ///
    /// # Errors
    /// The number of gateways is out of range, or a component did not start or become ready.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let Options { proxies, server, wsproxy } = options;
        let secret = server.secret.clone();
        if !(1..=16).contains(&proxies) {
            bail!("invalid number of gateways {proxies} in one process: expected 1 to 16");
        }
        let shutdown = CancellationToken::new();
        let mut stack = Self {
            api: (Ipv4Addr::LOCALHOST, 0).into(),
            ws: Vec::new(),
            shutdown: shutdown.clone(),
            stop_timeout: server.drain.max(wsproxy.drain) + STOP_GRACE,
            components: Vec::new(),
        };
        let (bus_sender, bus_receiver) = mpsc::sync_channel(1);
        let token = shutdown.clone();
        stack.api = stack.start_component("server".into(), async move |listener| {
            let bus = bus::open(BusConfig::new("memory://", "embedded"))?;
            // The receiver is gone if the start has failed. Then `shutdown` is cancelled as well.
            let _ = bus_sender.send(Arc::clone(&bus));
            server::run(listener, server, bus, token).await
        })?;
        let bus: Arc<dyn Broker> = match bus_receiver.recv_timeout(READY_TIMEOUT) {
            Ok(bus) => bus,
            Err(_) => return Err(stack.failure("the server opened no bus".into())),
        };
        for number in 1..=proxies {
            let (config, bus, token) = (wsproxy.clone(), Arc::clone(&bus), shutdown.clone());
            let verifier = Verifier::new(&secret);
            let address = stack.start_component(format!("wsproxy-{number}"), async move |listener| {
                wsproxy::run(listener, verifier, config, bus, token).await
            })?;
            stack.ws.push(address);
        }
        for address in std::iter::once(stack.api).chain(stack.ws.clone()) {
            if let Err(symptom) = probe::wait_for_200_blocking(address, "/ready", READY_TIMEOUT) {
                return Err(stack.failure(symptom));
            }
        }
        Ok(stack)
    }

    /// Returns the URL of the HTTP API.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// Returns the WebSocket URL of the first gateway.
    #[must_use]
    pub fn ws_url(&self) -> String {
        self.ws_urls().swap_remove(0)
    }

    /// Returns the WebSocket URL of each gateway.
    #[must_use]
    pub fn ws_urls(&self) -> Vec<String> {
        self.ws.iter().map(|address| format!("ws://{address}")).collect()
    }

    /// Drains all components and blocks until they have ended, for at most the longer drain plus five seconds.
    ///
    /// # Errors
    /// A component has failed, or did not end in time.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    /// Runs `serve` on a new thread, with a listener on a free port. Returns its address.
    fn start_component<F, R>(&mut self, name: String, serve: F) -> anyhow::Result<SocketAddr>
    where
        F: FnOnce(TcpListener) -> R + Send + 'static,
        R: Future<Output = anyhow::Result<()>>,
    {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        // The standard library's queue holds 128 connections. A client that finds it full repeats its SYN only after a second.
        socket2::SockRef::from(&listener).listen(BACKLOG)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (sender, outcome) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                // The receiver is gone if the stop timed out.
                let _ = sender.send(run_component(listener, serve));
            })
            .with_context(|| format!("cannot start a thread for {name}"))?;
        self.components.push(Component { name, outcome });
        Ok(address)
    }

    /// Ends the stack after a failed start. Returns the error of a component in the context of `symptom`, or `symptom` alone.
    fn failure(&mut self, symptom: String) -> anyhow::Error {
        match self.end() {
            Err(cause) => cause.context(symptom),
            Ok(()) => anyhow::Error::msg(symptom),
        }
    }

    /// Ends all components. Returns the first error.
    fn end(&mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let deadline = Instant::now() + self.stop_timeout;
        let mut first_error = Ok(());
        for Component { name, outcome } in self.components.drain(..) {
            let ended = match outcome.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(ended) => ended.with_context(|| format!("the embedded {name} failed")),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    Err(anyhow::anyhow!("the embedded {name} did not end within {:?}", self.stop_timeout))
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    Err(anyhow::anyhow!("the embedded {name} panicked"))
                }
            };
            first_error = first_error.and(ended);
        }
        first_error
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            warn!("{error:#}");
        }
    }
}

#[derive(Debug)]
struct Component {
    name: String,
    outcome: mpsc::Receiver<anyhow::Result<()>>,
}

/// Runs a component on this thread until it ends.
fn run_component<F, R>(listener: std::net::TcpListener, serve: F) -> anyhow::Result<()>
where
    F: FnOnce(TcpListener) -> R,
    R: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async { serve(TcpListener::from_std(listener)?).await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}
