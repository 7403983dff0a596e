//! What a server needs to know, in its own types. Where the values come from is the caller's business.

use crate::{
    distribution::Distribution,
    plan::Timing,
    text::{DEFAULT_TEXT, ResponseText},
};
use protocol::Secret;
use std::time::Duration;

/// The configuration of one server. [`Config::new`] has the defaults; change the fields that differ.
#[derive(Clone, Debug)]
pub struct Config {
    /// The process's name, for its log.
    pub instance: String,
    /// Signs the sessions' tokens.
    pub secret: Secret,
    /// How long a token opens its session; `None`: for ever.
    pub token_ttl: Option<Duration>,
    /// What the simulator says.
    pub text: ResponseText,
    /// When it says it.
    pub timing: Timing,
    /// All schedules are drawn from it and their query's id.
    pub seed: u64,
    /// How many workers play the streams, 1 at least.
    pub workers: usize,
    /// How many queries run at once; more are refused with 429.
    pub max_streams: usize,
    /// How many connections are held at once; more are closed unanswered.
    pub max_connections: usize,
    /// How long running queries may take to end after the shutdown began.
    pub drain: Duration,
    /// How long a connection may take over the head of a request, or say nothing between two; a body takes as long at most.
    pub read_timeout: Duration,
    /// What the bodies of all requests take together while they are read, in bytes.
    pub body_bytes: usize,
    /// Bytes that may wait for the bus in one worker before its streams are held back.
    pub outbox_bytes: usize,
}

impl Config {
    /// The most queries that may run at once.
    pub const MAX_STREAMS: usize = 1_000_000;

    /// The defaults, with this key.
    ///
    /// # Panics
    /// Never: the default text has words.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        let text = ResponseText::new(DEFAULT_TEXT).expect("the default text has words");
        let timing = Timing {
            ttft_ms: Distribution::Fixed(0.0),
            itl_ms: Distribution::Fixed(50.0),
            tokens: Distribution::Fixed(text.words() as f64),
        };
        Self {
            instance: "server".to_owned(),
            secret,
            token_ttl: None,
            text,
            timing,
            seed: rand::random(),
            workers: 1,
            max_streams: 10_000,
            max_connections: 10_000,
            drain: Duration::from_secs(30),
            read_timeout: Duration::from_secs(60),
            body_bytes: 64 << 20,
            outbox_bytes: 64 << 20,
        }
    }
}
