//! The configuration of one server as typed values. Flags and environment are read in `args`.

use crate::{
    openai::AnswerDefaults,
    plan::Timing,
    text::{DEFAULT_TEXT, ResponseText},
};
use protocol::Secret;
use settings::{distribution::Distribution, secret};
use std::{path::PathBuf, time::Duration};
use telemetry::Url;

/// The configuration of one server. [`Config::new`] has the defaults; change the fields that differ.
#[derive(Clone, Debug)]
pub struct Config {
    /// The process's name, for its log and its answers.
    pub instance: String,
    /// The key that signs session tokens.
    pub secret: Secret,
    /// Lifetime of a session token. `None` for unlimited.
    pub token_ttl: Option<Duration>,
    /// The text of every answer.
    pub text: ResponseText,
    /// Distributions of the delays and of the number of tokens.
    pub timing: Timing,
    /// The seed of all schedules, together with each query's id.
    pub seed: u64,
    /// Number of workers that generate streams, at least 1.
    pub workers: usize,
    /// Largest number of running queries. Further ones get 429.
    pub max_streams: usize,
    /// Largest number of open connections. Further ones are closed.
    pub max_connections: usize,
    /// Time for running queries to end after the shutdown began.
    pub drain: Duration,
    /// Time limit for the head of a request, which includes the idle time before it, again for its body, and for a client that takes nothing
    /// of what it is sent.
    pub read_timeout: Duration,
    /// Bytes that all bodies may hold together while they are read.
    pub body_bytes: usize,
    /// The OpenTelemetry collector that metrics are pushed to.
    pub otlp: Option<Url>,
    /// The settings that the metrics state, as labels of `server_settings`. Empty if they state none.
    pub stated: Vec<(String, String)>,
    /// Bytes that may wait for the bus in one worker. Above it, the worker holds its streams back.
    pub outbox_bytes: usize,
    /// What concerns only the calls in OpenAI's dialects.
    pub openai: OpenAiConfig,
}

/// The part of a server's configuration that concerns only the calls in OpenAI's dialects.
#[derive(Clone, Debug)]
pub struct OpenAiConfig {
    /// The models that the server lists. It answers for every other name as well.
    pub models: Vec<String>,
    /// The key that clients must send. `None` for no check.
    pub api_key: Option<secret::Secret>,
    /// Limits of the kept responses.
    pub store: StoreLimits,
    /// The age at which a WebSocket is closed.
    pub max_socket_age: Duration,
    /// Schedule, form and faults of the answers whose requests do not name their own.
    pub defaults: AnswerDefaults,
    /// The file that records what each streamed answer sent and when. `None` for no record.
    pub record: Option<PathBuf>,
}

/// Limits of the responses that are kept for later calls.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Their largest number.
    pub number: usize,
    /// The bytes that they may hold together.
    pub bytes: usize,
    /// How long a response is kept.
    pub age: Duration,
}

impl Default for OpenAiConfig {
    fn default() -> Self {
        Self {
            models: vec!["sim".to_owned()],
            api_key: None,
            store: StoreLimits { number: 10_000, bytes: 64 << 20, age: Duration::from_secs(600) },
            max_socket_age: Duration::from_secs(3600),
            defaults: AnswerDefaults::default(),
            record: None,
        }
    }
}

impl Config {
    /// The largest value of [`Config::max_streams`].
    pub const MAX_STREAMS: usize = 1_000_000;

    /// Returns the defaults with this key.
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
            otlp: None,
            stated: Vec::new(),
            outbox_bytes: 64 << 20,
            openai: OpenAiConfig::default(),
        }
    }
}
