//! The load client: drives sessions through a gateway, checks every token, judges the run.
//! It never counts silence as success, and distrusts its own figures first.

mod backoff;
mod burst;
pub mod cli;
pub mod compare;
pub mod config;
mod cpu;
mod downtime;
mod embedded;
pub mod engine;
mod estimate;
pub mod faults;
mod habits;
mod http;
mod link;
mod listen;
mod live;
pub mod measure;
pub mod output;
mod pool;
mod preflight;
pub mod program;
mod progress;
mod query;
pub mod record;
pub mod report;
pub mod scenario;
pub mod schedule;
mod secret;
mod session;
pub mod signals;
mod socket;
mod stream;
mod tls;
pub mod users;
mod worker;
