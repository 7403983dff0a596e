//! Reads the memory of Redis and its limit, for the metrics of servers.

use super::Inner;
use crate::StoreMemory;
use redis::{InfoDict, RedisResult, aio::MultiplexedConnection};
use std::{sync::Arc, time::Duration};

/// Time between two readings.
const EVERY: Duration = Duration::from_secs(5);

/// Reads the memory again and again. It is not known while there is no connection.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        if inner.commands.connection().is_err() {
            *inner.memory.lock() = None;
        }
        let mut connection = inner.commands.connected().await;
        let reading = read(&mut connection).await;
        *inner.memory.lock() = reading;
        tokio::time::sleep(EVERY).await;
    }
}

async fn read(connection: &mut MultiplexedConnection) -> Option<StoreMemory> {
    let info: RedisResult<InfoDict> = redis::cmd("INFO").arg("memory").query_async(connection).await;
    let info = info.ok()?;
    Some(StoreMemory { used: info.get("used_memory")?, limit: info.get("maxmemory")? })
}
