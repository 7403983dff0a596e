//! The dialects of LLM token streams as pure values: what is sent to open, submit, resume and stop, and what a received message means.
//! No sockets, no clock, no runtime.

pub mod chat;
mod dialect;
pub mod errors;
mod exchange;
pub mod lines;
pub mod message;
pub mod request;
pub mod responses;
pub mod sse;
pub mod target;

pub use dialect::{Answer, Dialect};
pub use exchange::{Ask, Call, Delivery, Transport};
