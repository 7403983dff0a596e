//! The LLM simulator: it creates sessions over HTTP, draws a seeded schedule of tokens for every query, and appends the tokens to the bus
//! when they are due. Delivery to clients is the task of the gateways. In OpenAI's dialects it streams the tokens itself.

mod app;
mod args;
mod aside;
mod body;
mod config;
mod error;
mod http;
mod metrics;
mod openai;
mod outbox;
mod pacer;
mod permit;
mod plan;
pub mod program;
#[cfg(test)]
#[path = "../tests/recording/mod.rs"]
mod recording;
mod request;
mod runs;
mod serve;
mod stream;
mod text;
mod worker;

pub use args::Args;
pub use config::{Config, OpenAiConfig, StoreLimits};
pub use openai::{AnswerDefaults, InvalidDefaults};
pub use plan::{DELAY_MS, Ideal, Offsets, Plan, TOKENS, Timing};
pub use serve::run;
pub use settings::distribution::Distribution;
pub use text::{DEFAULT_TEXT, ResponseText};
