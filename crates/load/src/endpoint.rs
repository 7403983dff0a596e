//! One address of the gateway, as a URL or as a port that a container publishes, and how it fared during the run.

use crate::{connector::Dial, socket::Transport, tcp::Tcp};
use anyhow::Context as _;
use http::HeaderValue;
use measure::observations::EndpointHistory;
#[cfg(target_os = "linux")]
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustls::pki_types::ServerName;
use settings::address::Address;
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use url::Url;

/// Some tens of tokens: a reader who stops is felt at the other end within seconds.
const NARROW_BUFFER: u32 = 4096;

/// An address of the gateway.
pub struct Endpoint {
    addresses: Vec<SocketAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Scheme, authority and prefix, for messages.
    pub(crate) base: String,
    /// The URL that it is reached by.
    pub(crate) address: Address,
    /// The `Host` header.
    pub(crate) host: HeaderValue,
    /// Whether it is one of the ports that a container publishes.
    is_published: bool,
    pub(crate) log: Log,
}

impl Endpoint {
    /// Resolves the host of `address`.
    ///
    /// # Errors
    /// The host has no address, or its name cannot stand in a certificate.
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

    /// The published port `port` of the gateway at `address`.
    ///
    /// # Errors
    /// The name of the URL's host cannot stand in a certificate.
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
        let is_secure = url.scheme() == "wss";
        Ok(Self {
            addresses,
            tls: if is_secure { Some((TlsConnector::from(Arc::clone(tls)), name()?)) } else { None },
            base: address.base(),
            host: HeaderValue::from_str(&address.authority())?,
            address: address.clone(),
            is_published: false,
            log: Log::new(),
        })
    }

    /// Connects to the first address that takes it.
    pub(crate) async fn connect(&self, dial: Dial) -> io::Result<TcpStream> {
        let mut failed = no_address();
        for &address in &self.addresses {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if dial.narrow {
                // Before the connection is made: the window is agreed upon then.
                socket.set_recv_buffer_size(NARROW_BUFFER)?;
            }
            if let Some(from) = dial.from {
                if from.is_ipv4() != address.is_ipv4() {
                    continue;
                }
                // The port is chosen with the connection, as without an address: one that rests from another may be used.
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

    /// Adds TLS where the URL asks for it.
    pub(crate) async fn secure(&self, stream: TcpStream) -> io::Result<Transport> {
        let stream = Tcp::new(stream);
        match &self.tls {
            None => Ok(Transport::Plain(stream)),
            Some((tls, name)) => Ok(Transport::Tls(Box::new(tls.connect(name.clone(), stream).await?))),
        }
    }

    /// Whether it is one of several ports that a container publishes.
    pub(crate) const fn is_published(&self) -> bool {
        self.is_published
    }

    /// How it fared.
    #[must_use]
    pub fn history(&self) -> EndpointHistory {
        EndpointHistory {
            name: self.base.clone(),
            is_published: self.is_published,
            connected: self.log.connected.load(Relaxed),
            failed: self.log.failed.load(Relaxed),
            is_dead: self.log.is_dead(),
        }
    }
}

/// None of the addresses is of the family that is connected from.
pub(crate) fn no_address() -> io::Error {
    io::Error::new(io::ErrorKind::AddrNotAvailable, "the gateway has no address of the same family")
}

/// The URL's host without the brackets of an IPv6 address.
fn bare_host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

/// Counts connections of one endpoint. Times are nanoseconds since it was made.
pub(crate) struct Log {
    made: Instant,
    connected: AtomicU64,
    failed: AtomicU64,
    last_connected: AtomicU64,
    last_failed: AtomicU64,
}

impl Log {
    fn new() -> Self {
        let [connected, failed, last_connected, last_failed] = Default::default();
        Self { made: Instant::now(), connected, failed, last_connected, last_failed }
    }

    pub(crate) fn connected(&self) {
        self.connected.fetch_add(1, Relaxed);
        self.last_connected.fetch_max(self.now(), Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
        self.last_failed.fetch_max(self.now(), Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn is_dead(&self) -> bool {
        let (connected, failed) = (self.last_connected.load(Relaxed), self.last_failed.load(Relaxed));
        connected > 0 && failed > connected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_is_what_took_connections_and_does_not_any_more() {
        let log = Log::new();
        assert!(!log.is_dead());
        log.failed();
        assert!(!log.is_dead(), "it never took one");
        log.connected();
        assert!(!log.is_dead(), "it came back");
        log.failed();
        assert!(log.is_dead());
    }
}
