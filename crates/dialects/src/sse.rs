//! Server-sent events: the framing of the HTML standard.

pub mod read;
pub mod write;
