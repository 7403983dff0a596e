//! The load generator: sessions, transports, workers, and the watch over the stack beside them.
//! It knows neither the stack nor the simulator: what it needs of them is a trait that the program fills in.

mod backoff;
pub mod burst;
pub mod connector;
pub mod cpu;
mod downtime;
pub mod endpoint;
pub mod explain;
pub mod frames;
pub mod http;
pub mod injection;
mod link;
mod listen;
mod pool;
mod pulse;
mod query;
mod session;
mod socket;
pub mod stamps;
mod stream;
pub mod tcp;
pub mod tls;
pub mod watch;
pub mod worker;
