//! Bounds on what strangers may hold of a process: bytes on their way in, and connections that wait to be accepted. Shared by the
//! server and the gateway; it knows neither HTTP nor WebSockets.

mod accept;
mod budget;

pub use accept::{Acceptor, Failed, accept_now};
pub use budget::{Budget, Room};
