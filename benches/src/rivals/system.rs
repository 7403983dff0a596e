//! A rival with everything that it needs: how it is started, read, published to, killed and started again.

use super::{
    lanes,
    programs::{Alone, BASIN, SOCKUDO},
    requests::{self, Requests},
    stream::{DurableStreams, EventStream, Nchan, Positions, S2, Socket, Sockudo, Stream},
};
use crate::{
    args::{Gateways, Rival, Rivals, Target, Way},
    dial::Address,
    pace::Pace,
    publisher::{Published, Publisher, Source},
    rig::Rig,
    usage::Watched,
};
use anyhow::bail;
use protocol::SessionId;
use std::{net::SocketAddr, ops::Range};

/// Lanes to Sockudo, whose requests carry events of several channels.
const SOCKUDO_LANES: usize = 16;

/// A running rival.
pub(super) enum System {
    /// A gateway of a native stack with Redis, and its sessions.
    Stack { rig: Box<Rig>, gateway: Gateways, sessions: Vec<SessionId> },
    /// A program that takes publications itself.
    Alone { rival: Rival, alone: Box<Alone> },
}

impl System {
    pub(super) async fn start(options: &Rivals) -> anyhow::Result<Self> {
        let (rival, path) = (options.rival, &options.search_path);
        let gateway = match rival {
            Rival::Wsproxy => Gateways::Wsproxy,
            Rival::Tungstenite => Gateways::TungsteniteSmall,
            Rival::Nchan => Gateways::NchanLong,
            Rival::Sockudo => {
                return Ok(Self::Alone { rival, alone: Box::new(Alone::sockudo(path, false).await?) });
            }
            Rival::SockudoPostgres => {
                return Ok(Self::Alone { rival, alone: Box::new(Alone::sockudo(path, true).await?) });
            }
            Rival::DurableStreams => {
                return Ok(Self::Alone { rival, alone: Box::new(Alone::durable_streams(path).await?) });
            }
            Rival::S2 => return Ok(Self::Alone { rival, alone: Box::new(Alone::s2(path).await?) }),
        };
        let target = Target::direct(gateway, options.bin_dir.clone(), options.search_path.clone());
        let rig = Box::new(Rig::start(&target).await?);
        Ok(Self::Stack { rig, gateway, sessions: Vec::new() })
    }

    /// Creates the sessions or streams of all connections.
    pub(super) async fn prepare(&mut self, connections: usize) -> anyhow::Result<()> {
        match self {
            Self::Stack { rig, sessions, .. } => *sessions = rig.create(connections).await?,
            Self::Alone { rival: Rival::DurableStreams, alone } => {
                for index in 0..connections {
                    alone.put(&stream_path(index), "application/json", "").await?;
                }
            }
            // Channels of Sockudo and streams of s2 begin to exist when they are used.
            Self::Alone { .. } => {}
        }
        Ok(())
    }

    pub(super) fn address(&self) -> anyhow::Result<SocketAddr> {
        match self {
            Self::Alone { alone, .. } => Ok(alone.address),
            Self::Stack { rig, .. } => match rig.address(Way::Tcp)? {
                Address::Tcp(address) => Ok(address),
                Address::Unix(path) => bail!("{} is not an address over TCP", path.display()),
            },
        }
    }

    pub(super) fn watched(&self) -> Vec<Watched> {
        match self {
            Self::Stack { rig, .. } => rig.watched(),
            Self::Alone { alone, .. } => alone.watched(),
        }
    }

    /// Returns the reader's side of every connection.
    pub(super) fn streams(&self, connections: usize) -> Vec<Box<dyn Stream>> {
        (0..connections).map(|index| self.stream(index)).collect()
    }

    fn stream(&self, index: usize) -> Box<dyn Stream> {
        match self {
            Self::Stack { rig, gateway, sessions } => {
                let head = rig.request(sessions[index]);
                match gateway.is_nchan() {
                    true => Box::new(Socket::new(Nchan { head, last: None })),
                    false => {
                        let resumes = *gateway == Gateways::Wsproxy;
                        Box::new(Socket::new(Positions { head, resumes, last: None }))
                    }
                }
            }
            Self::Alone { rival: Rival::DurableStreams, .. } => {
                Box::new(EventStream::new(DurableStreams { path: stream_path(index), offset: "-1".into() }))
            }
            Self::Alone { rival: Rival::S2, .. } => {
                Box::new(EventStream::new(S2 { basin: BASIN, path: records_path(index), last: None }))
            }
            Self::Alone { .. } => Box::new(Socket::new(Sockudo::new(SOCKUDO[1], format!("c{index}")))),
        }
    }

    /// Publishes everything.
    pub(super) async fn publish(
        &self,
        connections: usize,
        pace: Pace,
        start_us: u64,
        window: Range<u64>,
    ) -> anyhow::Result<Published> {
        match self {
            Self::Stack { rig, sessions, .. } => {
                let generations = rig.claim(sessions).await?;
                let sources =
                    std::iter::zip(sessions, generations).map(|(&id, own)| Source::new(id, own)).collect();
                Publisher::new(rig.outlet().await?, sources, pace, start_us, window).run().await
            }
            Self::Alone { rival, alone } => {
                lanes::publish(alone.address, lanes_of(*rival, connections), pace, start_us, window).await
            }
        }
    }

    /// Kills the gateway with SIGKILL.
    pub(super) async fn kill(&self) -> anyhow::Result<()> {
        match self {
            Self::Stack { rig, .. } => rig.inject("wsproxy-1:kill").await,
            Self::Alone { alone, .. } => alone.kill().await,
        }
    }

    /// Starts the gateway again. Does not wait until it is ready: its clients find out.
    pub(super) async fn restart(&self) -> anyhow::Result<()> {
        match self {
            Self::Stack { rig, .. } => rig.inject("wsproxy-1:start").await,
            Self::Alone { alone, .. } => alone.restart(),
        }
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Stack { rig, .. } => rig.stop().await,
            Self::Alone { alone, .. } => alone.stop().await?,
        }
        Ok(())
    }
}

/// Returns the lanes in which a rival takes publications.
fn lanes_of(rival: Rival, connections: usize) -> Vec<Box<dyn Requests>> {
    let lane = |index| -> Box<dyn Requests> {
        match rival {
            Rival::DurableStreams => {
                Box::new(requests::DurableStreams { path: stream_path(index), epoch: 0, seq: 0 })
            }
            Rival::S2 => Box::new(requests::S2 { basin: BASIN, path: records_path(index), next: 0 }),
            _ => {
                let [app, key, secret] = SOCKUDO;
                let (timestamp, keys) = (host::unix_time().as_secs(), rival == Rival::SockudoPostgres);
                Box::new(requests::Sockudo { app, key, secret, timestamp, keys })
            }
        }
    };
    let count = match rival {
        Rival::DurableStreams | Rival::S2 => connections,
        _ => SOCKUDO_LANES.min(connections),
    };
    (0..count).map(lane).collect()
}

/// Path of a stream of the durable-streams server.
fn stream_path(index: usize) -> String {
    format!("/s{index}")
}

/// Path of the records of a stream of `s2 lite`.
fn records_path(index: usize) -> String {
    format!("/v1/streams/s{index}/records")
}
