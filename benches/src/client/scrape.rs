//! Reads from the gateways' `/metrics` how many sockets are open and how much was sent. The counts of a peer are compared with
//! these.

use crate::rig::Rig;
use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Counters, summed over all gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scrape {
    /// Sockets that are open.
    pub(super) connections: u64,
    /// Events handed to sockets.
    pub(super) events: u64,
    /// Bytes of frames that sockets took, their headers included.
    pub(super) bytes: u64,
}

impl Scrape {
    pub(super) async fn of(rig: &Rig) -> anyhow::Result<Self> {
        let mut sum = Self::default();
        for port in rig.gateway_ports() {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            let one = Self::parse(&text).with_context(|| format!("the gateway on port {port}"))?;
            sum.connections += one.connections;
            sum.events += one.events;
            sum.bytes += one.bytes;
        }
        Ok(sum)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let value = |name: &str| {
            let found =
                text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
            let Some(value) = found else {
                bail!("it has no metric {name}: tsung and k6 can only be measured with --gateway wsproxy")
            };
            Ok(value)
        };
        Ok(Self {
            connections: value("wsproxy_connections")?,
            events: value("wsproxy_events_total")?,
            bytes: value("wsproxy_out_bytes_total")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_by_their_whole_names() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# TYPE wsproxy_connections gauge\nwsproxy_connections 3\n\
                    wsproxy_events_total 10100\nwsproxy_events_per_segment 1\nwsproxy_out_bytes_total 1548100\n";
        let expected = Scrape { connections: 3, events: 10_100, bytes: 1_548_100 };
        assert_eq!(Scrape::parse(text).unwrap(), expected);
        let error = Scrape::parse("HTTP/1.1 200 OK\r\n\r\n").unwrap_err().to_string();
        assert!(error.contains("wsproxy_connections"), "{error}");
    }
}
