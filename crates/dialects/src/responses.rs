//! OpenAI Responses: `POST /v1/responses` over server-sent events, and the same events over a WebSocket.

pub mod read;
pub mod write;
