//! Limits on what foreign peers can occupy: a budget of bytes that arrive, and accepting connections without free file descriptors.
//! Server and gateway share it. It knows neither HTTP nor WebSockets.

mod accept;
mod budget;

pub use accept::{Acceptor, Failed, accept_now};
pub use budget::{Budget, Room};
