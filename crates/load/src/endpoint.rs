//! One address of the gateway, given as a URL or as a port that a container publishes, and its connection counts.

use crate::{socket::Transport, tcp::Tcp};
use anyhow::Context as _;
use http::HeaderValue;
use measure::observations::EndpointHistory;
#[cfg(target_os = "linux")]
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustls::pki_types::ServerName;
use settings::address::Address;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use url::Url;

/// Receive buffer in bytes of a session that pauses reading: some tens of tokens, so that the gateway notices within seconds.
const NARROW_BUFFER: u32 = 4096;

/// How a TCP connection is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct DialOptions {
    /// The local address to connect from. `None`: the system chooses.
    pub from: Option<IpAddr>,
    /// Use a small receive buffer, so that the gateway notices within seconds when the session pauses reading.
    pub narrow: bool,
    /// Number of the endpoint, modulo their count. If no connection to it can be made, the next ones are tried.
    pub endpoint: u64,
}

impl DialOptions {
    /// Chooses the next endpoint, after an attempt that failed at this one.
    pub(crate) const fn use_next_endpoint(&mut self) {
        self.endpoint = self.endpoint.wrapping_add(1);
    }
}

/// An address of the gateway.
pub struct Endpoint {
    addresses: Vec<SocketAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Scheme, authority and path prefix, for messages.
    pub(crate) base: String,
    /// The URL of the endpoint.
    pub(crate) address: Address,
    /// The `Host` header.
    pub(crate) host: HeaderValue,
    /// Whether the endpoint is one of several ports that a container publishes.
    is_published: bool,
    pub(crate) counts: ConnectionCounts,
}

impl Endpoint {
    /// Resolves the host of `address`.
    ///
    /// # Errors
    /// The host has no address, or its name is not a valid server name.
    pub(crate) async fn resolve(address: &Address, tls: &Arc<rustls::ClientConfig>) -> anyhow::Result<Self> {
        let url = address.url();
        let port = url.port_or_known_default().unwrap_or(80);
        let addresses: Vec<_> = tokio::net::lookup_host((bare_host(url), port))
            .await
            .with_context(|| format!("cannot resolve the host of {address}"))?
            .collect();
        anyhow::ensure!(!addresses.is_empty(), "the host of {address} has no address");
        Self::new(address, addresses, tls)
    }

    /// Creates the endpoint for the published port `port` of the gateway at `address`.
    ///
    /// # Errors
    /// The host's name is not a valid server name.
    pub(crate) fn published(
        address: &Address,
        port: SocketAddr,
        tls: &Arc<rustls::ClientConfig>,
    ) -> anyhow::Result<Self> {
        let endpoint = Self::new(address, vec![port], tls)?;
        let base = format!("{}://{port}{}", address.url().scheme(), address.prefix());
        Ok(Self { base, is_published: true, ..endpoint })
    }

    fn new(
        address: &Address,
        addresses: Vec<SocketAddr>,
        tls: &Arc<rustls::ClientConfig>,
    ) -> anyhow::Result<Self> {
        let (url, bare) = (address.url(), bare_host(address.url()));
        let name =
            || ServerName::try_from(bare.to_owned()).with_context(|| format!("{bare} is not a server name"));
        let is_secure = matches!(url.scheme(), "wss" | "https");
        Ok(Self {
            addresses,
            tls: if is_secure { Some((TlsConnector::from(Arc::clone(tls)), name()?)) } else { None },
            base: address.base(),
            host: HeaderValue::from_str(&address.authority())?,
            address: address.clone(),
            is_published: false,
            counts: ConnectionCounts::new(),
        })
    }

    /// Connects to the first address that accepts the connection.
    pub(crate) async fn connect(&self, dial: DialOptions) -> io::Result<TcpStream> {
        let mut failed = no_address();
        for &address in &self.addresses {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if dial.narrow {
                // Set before connecting, because TCP negotiates the window scale during the handshake.
                socket.set_recv_buffer_size(NARROW_BUFFER)?;
            }
            if let Some(from) = dial.from {
                if from.is_ipv4() != address.is_ipv4() {
                    continue;
                }
                // Lets the kernel choose the port when it connects. Then it may reuse a port that is in TIME_WAIT or connected
                // to another address, so that ports do not run out.
                #[cfg(target_os = "linux")]
                setsockopt(&socket, IpBindAddressNoPort, &true)?;
                socket.bind((from, 0).into())?;
            }
            match socket.connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Wraps the connection in TLS if the URL's scheme asks for it.
    pub(crate) async fn secure(&self, stream: TcpStream) -> io::Result<Transport> {
        let stream = Tcp::new(stream);
        match &self.tls {
            None => Ok(Transport::Plain(stream)),
            Some((tls, name)) => Ok(Transport::Tls(Box::new(tls.connect(name.clone(), stream).await?))),
        }
    }

    /// Returns whether the endpoint is one of several ports that a container publishes.
    pub(crate) const fn is_published(&self) -> bool {
        self.is_published
    }

    /// Returns how many connections succeeded and failed.
    #[must_use]
    pub fn history(&self) -> EndpointHistory {
        EndpointHistory {
            name: self.base.clone(),
            is_published: self.is_published,
            connected: self.counts.connected.load(Relaxed),
            failed: self.counts.failed.load(Relaxed),
            is_dead: self.counts.is_dead(),
        }
    }
}

/// Returns the error for a gateway without an address of the local address's family.
pub(crate) fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::AddrNotAvailable, "the gateway has no address of the same family")
}

/// Returns the URL's host without the brackets of an IPv6 address.
fn bare_host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

/// Counts the connections of one endpoint. Times are nanoseconds since its creation.
pub(crate) struct ConnectionCounts {
    created: Instant,
    connected: AtomicU64,
    failed: AtomicU64,
    last_connected: AtomicU64,
    last_failed: AtomicU64,
}

impl ConnectionCounts {
    fn new() -> Self {
        let [connected, failed, last_connected, last_failed] = Default::default();
        Self { created: Instant::now(), connected, failed, last_connected, last_failed }
    }

    /// Counts a connection that succeeded.
    pub(crate) fn connected(&self) {
        self.connected.fetch_add(1, Relaxed);
        self.last_connected.fetch_max(self.since_creation(Instant::now()), Relaxed);
    }

    /// Counts an attempt to connect that began at `started` and failed. It may have ended later than attempts that succeeded meanwhile.
    pub(crate) fn failed(&self, started: Instant) {
        self.failed.fetch_add(1, Relaxed);
        self.last_failed.fetch_max(self.since_creation(started), Relaxed);
    }

    fn since_creation(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.created).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns whether connections succeeded at first, and none since the beginning of the last attempt that failed.
    fn is_dead(&self) -> bool {
        let (connected, failed) = (self.last_connected.load(Relaxed), self.last_failed.load(Relaxed));
        connected > 0 && failed > connected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_dead_if_it_stopped_accepting() {
        let counts = ConnectionCounts::new();
        assert!(!counts.is_dead());
        let before = Instant::now();
        counts.failed(before);
        assert!(!counts.is_dead(), "it never accepted a connection");
        counts.connected();
        assert!(!counts.is_dead(), "it recovered");
        counts.failed(before);
        assert!(!counts.is_dead(), "a connection succeeded while this attempt waited");
        counts.failed(Instant::now());
        assert!(counts.is_dead());
    }
}
