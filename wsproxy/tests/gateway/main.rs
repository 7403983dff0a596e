//! Tests of the gateway over real sockets, with the memory bus or a real Redis.

mod admission;
mod closes;
#[path = "../../../crates/telemetry/tests/collector/mod.rs"]
mod collector;
mod drains;
mod hops;
mod inbound;
#[allow(dead_code, reason = "other tests stop and restart it")]
#[path = "../../../crates/bus/tests/brokers/support/private_redis.rs"]
mod private_redis;
mod rig;
mod rollups;
mod slow;
mod streams;
mod takeovers;
