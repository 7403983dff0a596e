//! Servers for tests: one that can be stopped, and one that consists of heartbeats only.

use super::{Adjust, Fixture, PATIENCE, PrivateRedis, ask, eventually, key, ready};
use bus::Broker;
use protocol::SessionId;
use redis::aio::MultiplexedConnection;
use std::{
    collections::HashMap,
    sync::{Arc, mpsc},
    time::Duration,
};

/// A server in a separate runtime that can be stopped for a while, like a stopped process.
pub struct PausableServer {
    orders: mpsc::Sender<Option<Duration>>,
    pub server: Arc<dyn Broker>,
    runtime: Option<std::thread::JoinHandle<()>>,
}

impl PausableServer {
    pub fn start(bus: &Fixture, adjust: Adjust) -> Self {
        let (orders, inbox) = mpsc::channel::<Option<Duration>>();
        let (give, take) = mpsc::channel();
        let url = bus.redis_server().url();
        let runtime = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let mut config = bus::BusConfig::new(url, "pausable");
                config.name_prefix = "test:".to_owned();
                adjust(&mut config);
                let server = bus::open(config).expect("a bus");
                ready(&server).await;
                give.send(server).expect("the test waits for the server");
                loop {
                    match inbox.try_recv() {
                        Ok(Some(time)) => std::thread::sleep(time),
                        Ok(None) | Err(mpsc::TryRecvError::Disconnected) => return,
                        Err(mpsc::TryRecvError::Empty) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            });
        });
        let server = take.recv_timeout(PATIENCE).expect("the server is ready");
        Self { orders, server, runtime: Some(runtime) }
    }

    /// Stops the server for this time.
    pub fn pause(&self, time: Duration) {
        self.orders.send(Some(time)).expect("the server runs");
    }
}

impl Drop for PausableServer {
    fn drop(&mut self) {
        let _ = self.orders.send(None);
        if let Some(runtime) = self.runtime.take() {
            let _ = runtime.join();
        }
    }
}

/// Another server, represented by its heartbeats only.
pub struct Peer {
    connection: MultiplexedConnection,
    beat: u64,
}

impl Peer {
    pub async fn start(redis: &PrivateRedis) -> Self {
        let mut peer = Self { connection: redis.connection().await, beat: 0 };
        peer.beat("old").await;
        peer
    }

    pub async fn beat(&mut self, restored: &str) {
        self.beat += 1;
        let mut beat = redis::cmd("HSET");
        beat.arg("test:servers").arg("peer").arg(format!("{} restored={restored}", self.beat));
        let () = beat.query_async(&mut self.connection).await.expect("HSET");
    }

    pub async fn mark(&mut self) -> String {
        ask(&mut self.connection, "GET test:bus:mark").await
    }

    /// Returns the fence at the beginning of the session's log.
    pub async fn first_fence(&mut self, session: SessionId) -> String {
        let range = format!("XRANGE {} - + COUNT 1", key(session, "log"));
        let entries: Vec<(String, (String, String))> = ask(&mut self.connection, &range).await;
        entries[0].1.1.clone()
    }
}

/// Waits until the server has written two more heartbeats.
pub async fn polled_twice(bus: &Fixture) {
    let mut connection = bus.connection().await;
    let (mut first, mut changes) = (None, 0);
    eventually("two polls", async || {
        let beats: HashMap<String, String> = ask(&mut connection, "HGETALL test:servers").await;
        let own = beats.into_iter().find(|(name, _)| name.starts_with("server."));
        changes += i32::from(first.is_some() && own != first);
        first = own;
        changes == 2
    })
    .await;
}

/// Returns the instance names of the servers that Redis lists.
pub async fn servers(bus: &Fixture) -> Vec<String> {
    let mut connection = bus.connection().await;
    let mut names: Vec<String> = ask(&mut connection, "HKEYS test:servers").await;
    names.iter_mut().for_each(|name| name.truncate(name.find('.').unwrap_or(name.len())));
    names.sort();
    names
}
