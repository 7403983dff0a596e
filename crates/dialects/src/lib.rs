//! The dialects of LLM token streams as pure values: what is sent to open, submit, resume and stop, and what a received message means.
//! No sockets, no clock, no runtime.

pub mod chat;
pub mod responses;
pub mod sse;
