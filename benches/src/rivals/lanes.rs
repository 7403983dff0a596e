//! Publishes over HTTP/1.1, in lanes: the tokens of a connection always take the same lane, and a lane has one request in flight, so that
//! their order is kept. What becomes due meanwhile forms the lane's next request. A request without a response is sent again.

use super::{
    http::Response,
    requests::{Requests, Settled, Token},
};
use crate::{
    latency::histogram,
    pace::{Due, Pace},
    publisher::Published,
};
use anyhow::{Context, bail};
use host::monotonic_us;
use parking_lot::Mutex;
use std::{collections::VecDeque, net::SocketAddr, ops::Range, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

const TICK: Duration = Duration::from_millis(1);
/// Tokens that may wait in one lane. The run fails beyond that.
const QUEUE: usize = 4096;
/// Time before a request is sent again.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest time for which a response is awaited.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time after the last token at which lanes give up.
const GRACE: Duration = Duration::from_secs(15);

/// What every lane needs.
#[derive(Clone)]
struct Common {
    address: SocketAddr,
    window: Range<u64>,
    published: Arc<Mutex<Published>>,
}

/// Publishes everything through `lanes`: connection `c` uses lane `c mod n`. Returns when every token was accepted or refused, or 15 s
/// after the last one. Tokens that were not accepted by then are counted in `untaken`.
///
/// # Errors
/// More tokens wait in a lane than it may hold.
pub(super) async fn publish(
    address: SocketAddr,
    lanes: Vec<Box<dyn Requests>>,
    mut pace: Pace,
    start_us: u64,
    window: Range<u64>,
) -> anyhow::Result<Published> {
    let published = Published { pace_lag: histogram(), bus_lag: histogram(), sent: 0, untaken: 0 };
    let common = Common { address, window, published: Arc::new(Mutex::new(published)) };
    let (mut queues, mut tasks) = (Vec::new(), JoinSet::new());
    for requests in lanes {
        let (queue, tokens) = mpsc::channel(QUEUE);
        queues.push(queue);
        tasks.spawn(Lane { common: common.clone(), requests, connection: None }.run(tokens));
    }
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !pace.is_over() {
        ticks.tick().await;
        let now_us = monotonic_us();
        if now_us < start_us {
            continue;
        }
        let mut published = common.published.lock();
        while let Some(Due { connection, seq, due_us }) = pace.next_due(now_us - start_us) {
            let due_us = start_us + due_us;
            let token = Token { connection, seq, due_us, sent_us: now_us };
            published.sent += 1;
            if common.window.contains(&due_us) {
                published.pace_lag.saturating_record((now_us - due_us).max(1));
            }
            if queues[connection % queues.len()].try_send(token).is_err() {
                bail!("the rival is too slow: {QUEUE} tokens wait for it in one lane");
            }
        }
    }
    drop(queues);
    // Lanes that are still busy after that are ended with the set.
    let _ = timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    drop(tasks);
    let mut published = common.published.lock();
    let empty = Published { pace_lag: histogram(), bus_lag: histogram(), sent: 0, untaken: 0 };
    Ok(std::mem::replace(&mut *published, empty))
}

struct Lane {
    common: Common,
    requests: Box<dyn Requests>,
    connection: Option<Connection>,
}

impl Lane {
    async fn run(mut self, mut tokens: mpsc::Receiver<Token>) {
        let (mut waiting, mut repeats) = (VecDeque::new(), false);
        loop {
            if waiting.is_empty() {
                match tokens.recv().await {
                    Some(token) => waiting.push_back(token),
                    None => return,
                }
            }
            // A request that is repeated carries the same tokens: the rival may have taken them without a response.
            while !repeats && let Ok(token) = tokens.try_recv() {
                waiting.push_back(token);
            }
            let (request, count) = self.requests.request(&waiting);
            let began_us = monotonic_us();
            let settled = match self.exchange(&request).await {
                Ok(response) => {
                    if response.closes {
                        self.connection = None;
                    }
                    self.requests.settle(count, &response)
                }
                Err(_) => {
                    // The rival was killed.
                    self.connection = None;
                    Settled::Again
                }
            };
            repeats = settled == Settled::Again;
            match settled {
                Settled::Again => sleep(PAUSE).await,
                Settled::Accepted | Settled::Refused => {
                    waiting.drain(..count);
                    self.record(began_us, if settled == Settled::Refused { count as u64 } else { 0 });
                }
            }
        }
    }

    fn record(&self, began_us: u64, refused: u64) {
        let mut published = self.common.published.lock();
        if self.common.window.contains(&began_us) {
            published.bus_lag.saturating_record((monotonic_us() - began_us).max(1));
        }
        published.untaken += refused;
    }

    async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Response> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(Connection::open(self.common.address).await?),
        };
        timeout(PATIENCE, connection.exchange(request)).await.context("no response")?
    }
}

/// A kept connection.
pub(super) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// Sends a request and reads its response.
    ///
    /// # Errors
    /// The connection ends, or the response is not HTTP.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Response> {
        self.stream.write_all(request).await?;
        loop {
            if let Some((response, length)) = Response::parse(&self.unread)? {
                self.unread.drain(..length);
                return Ok(response);
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                bail!("the connection ended before a response");
            }
        }
    }
}
