//! The load generator: sessions, transports, workers, and the watch over the stack during a run.
//! It depends on neither the stack nor the simulator. What it needs of them is a trait that the program implements.

mod api;
pub mod backoff;
pub mod burst;
mod connection;
pub mod connector;
pub mod context;
pub mod cpu;
pub mod credentials;
mod downtime;
pub mod endpoint;
mod event_loop;
pub mod explain;
pub mod frames;
mod greeting;
pub mod http;
mod http1;
mod http_stream;
mod idle;
pub mod injection;
pub mod probe;
mod query;
mod session;
pub mod socket;
mod stream;
pub mod tcp;
pub mod timestamps;
pub mod tls;
pub mod watch;
pub mod worker;
