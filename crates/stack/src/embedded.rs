//! A whole stack in this process over the memory bus: one server and its gateways, each on a thread of its own, behind
//! loopback sockets on free ports. No Redis, no HAProxy: it shows the parts at their best, not a deployment.

use crate::probe;
use anyhow::{Context, bail};
use bus::{Broker, BusConfig};
use protocol::{Secret, SecretError};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How long the parts have to become ready.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a part gets beyond its own drain before it is given up.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What to start. The configurations are the parts' own; both carry one random key that nobody else learns.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many gateways, 1 to 16.
    pub proxies: usize,
    /// The server's configuration.
    pub server: server::Config,
    /// Every gateway's configuration.
    pub wsproxy: wsproxy::Config,
}

impl Options {
    /// One gateway, both parts' defaults, short drains.
    ///
    /// # Errors
    /// Never: a random key is long enough.
    pub fn new() -> Result<Self, SecretError> {
        let secret = Secret::new(crate::JwtSecret::random().expose())?;
        let mut server = server::Config::new(secret.clone());
        server.drain = Duration::from_secs(2);
        let mut wsproxy = wsproxy::Config::new(secret);
        wsproxy.drain = Duration::from_secs(2);
        wsproxy.drain_window = Duration::ZERO;
        Ok(Self { proxies: 1, server, wsproxy })
    }

    /// The same delay after every token.
    #[must_use]
    pub fn token_delay(mut self, delay: Duration) -> Self {
        self.server.timing.itl_ms = server::Distribution::Fixed(delay.as_secs_f64() * 1e3);
        self
    }

    /// What the simulator says, a token a word.
    ///
    /// # Errors
    /// The text has no word.
    pub fn response_text(mut self, text: &str) -> anyhow::Result<Self> {
        let text = server::ResponseText::new(text).context("the response text is empty")?;
        self.server.timing.tokens = server::Distribution::Fixed(text.words() as f64);
        self.server.text = text;
        Ok(self)
    }
}

/// A running stack. Dropped, it is stopped.
#[derive(Debug)]
pub struct Embedded {
    api: SocketAddr,
    ws: Vec<SocketAddr>,
    shutdown: CancellationToken,
    parts: Vec<Part>,
    patience: Duration,
}

impl Embedded {
    /// Starts everything; returns when all of it is ready. Blocks meanwhile.
    ///
    /// # Errors
    /// A part did not start or did not become ready.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let Options { proxies, server, wsproxy } = options;
        if !(1..=16).contains(&proxies) {
            bail!("{proxies} gateways in one process are out of range: give 1 to 16");
        }
        let shutdown = CancellationToken::new();
        let mut stack = Self {
            api: (Ipv4Addr::LOCALHOST, 0).into(),
            ws: Vec::new(),
            shutdown: shutdown.clone(),
            patience: server.drain.max(wsproxy.drain) + STOP_GRACE,
            parts: Vec::new(),
        };
        let (give, take) = mpsc::sync_channel(1);
        let token = shutdown.clone();
        stack.api = stack.launch("server".into(), async move |listener| {
            let bus = bus::open(BusConfig::new("memory://", "embedded"))?;
            // Nobody takes it when the starter has failed: then `shutdown` is cancelled too.
            let _ = give.send(Arc::clone(&bus));
            server::run(listener, server, bus, token).await
        })?;
        let bus: Arc<dyn Broker> = match take.recv_timeout(PATIENCE) {
            Ok(bus) => bus,
            Err(_) => return Err(stack.failure("the server opened no bus".into())),
        };
        for number in 1..=proxies {
            let (config, bus, token) = (wsproxy.clone(), Arc::clone(&bus), shutdown.clone());
            let address = stack.launch(format!("wsproxy-{number}"), async move |listener| {
                wsproxy::run(listener, config, bus, token).await
            })?;
            stack.ws.push(address);
        }
        for address in std::iter::once(stack.api).chain(stack.ws.clone()) {
            if let Err(last) = probe::wait_for_200_blocking(address, "/ready", PATIENCE) {
                return Err(stack.failure(last));
            }
        }
        Ok(stack)
    }

    /// `http://127.0.0.1:…`
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// `ws://127.0.0.1:…`, the first gateway's.
    #[must_use]
    pub fn ws_url(&self) -> String {
        self.ws_urls().swap_remove(0)
    }

    /// Every gateway's URL.
    #[must_use]
    pub fn ws_urls(&self) -> Vec<String> {
        self.ws.iter().map(|address| format!("ws://{address}")).collect()
    }

    /// Drains every part and waits for its end, within the longer drain and five seconds. Blocks meanwhile.
    ///
    /// # Errors
    /// A part had failed, or did not end in time.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn launch<F, R>(&mut self, name: String, serve: F) -> anyhow::Result<SocketAddr>
    where
        F: FnOnce(TcpListener) -> R + Send + 'static,
        R: Future<Output = anyhow::Result<()>>,
    {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (tell, outcome) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                // Nobody listens any more after a stop that gave up.
                let _ = tell.send(live(listener, serve));
            })
            .with_context(|| format!("cannot start a thread for {name}"))?;
        self.parts.push(Part { name, outcome });
        Ok(address)
    }

    /// The reason why the start failed: what a part said when it ended, else `symptom`.
    fn failure(&mut self, symptom: String) -> anyhow::Error {
        match self.end() {
            Err(cause) => cause.context(symptom),
            Ok(()) => anyhow::Error::msg(symptom),
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let deadline = Instant::now() + self.patience;
        let mut worst = Ok(());
        for Part { name, outcome } in self.parts.drain(..) {
            let ended = match outcome.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(ended) => ended.with_context(|| format!("the embedded {name} failed")),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    Err(anyhow::anyhow!("the embedded {name} did not end within {:?}", self.patience))
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    Err(anyhow::anyhow!("the embedded {name} panicked"))
                }
            };
            worst = worst.and(ended);
        }
        worst
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
struct Part {
    name: String,
    outcome: mpsc::Receiver<anyhow::Result<()>>,
}

/// Runs one part on this thread until it ends.
fn live<F, R>(listener: std::net::TcpListener, serve: F) -> anyhow::Result<()>
where
    F: FnOnce(TcpListener) -> R,
    R: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async { serve(TcpListener::from_std(listener)?).await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}
