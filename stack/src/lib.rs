//! Starts, watches and ends a whole stack: embedded in one process, or native with real Redis and HAProxy.
//! It serves no token itself and measures nothing.

mod limits;
pub mod native;
mod probe;
mod secret;

pub use limits::raise_open_files;
pub use secret::JwtSecret;
