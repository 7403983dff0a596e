//! OpenAI Chat Completions: `POST /v1/chat/completions`, over server-sent events.

pub mod read;
pub mod write;
