//! What a test tells the server to do.

use std::{collections::HashMap, time::Duration};

/// What becomes of an event, counted from 1 over all sessions.
pub type Edit = fn(u64) -> Deed;

/// What is sent beside an event, counted from 1 over all sessions.
pub type Extra = fn(u64) -> Option<&'static str>;

/// What is done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Send,
    Drop,
    Double,
    /// Behind the one after it.
    Swap,
    /// With another text than the server means to send.
    Garble,
}

/// What the server does.
#[derive(Clone)]
pub struct Script {
    pub tokens: u64,
    pub itl: Duration,
    /// Neither generation nor positions.
    pub old_contract: bool,
    /// Applies to tokens, counted from 1 over all sessions.
    pub edit: Edit,
    /// The session's first socket is closed with this after so many events; code 0: without a close frame.
    pub close: Option<(usize, u16, &'static str)>,
    /// Every socket is closed with this behind a terminator.
    pub close_after: Option<(u16, &'static str)>,
    /// The status of `GET /ready`, and of a call to close.
    pub ready: u16,
    pub closed: u16,
    /// The answer to create has no token.
    pub no_token: bool,
    /// What sockets must bring; nothing: it is not looked at.
    pub authorization: Option<&'static str>,
    /// Streams begin, and nothing is ever sent.
    pub silent: bool,
    /// Answers to the first calls of each kind, in order.
    pub refuse: HashMap<&'static str, Vec<(u16, Option<&'static str>)>>,
    /// The first answer to each session's run is lost: the stream runs, the answer is a 502.
    pub lose_first_answer: bool,
    /// Calls to run are answered with 200 and this body.
    pub bare_answer: Option<&'static str>,
    /// A token's text.
    pub content: String,
    /// The stream ends in an error event with this code.
    pub error: Option<&'static str>,
    /// Sent before the token of that number, counted from 1 over all sessions; from `\0` on as a binary message,
    /// from `\x01` on as a frame with a reserved bit.
    pub extra: Extra,
    /// What each query is answered with, a frame per line, instead of tokens and a terminator.
    pub frames: Option<&'static str>,
    /// The terminator says which tokens were sent.
    pub digest: bool,
    /// What is there instead of that digest, as JSON.
    pub digest_as: Option<&'static str>,
    /// A token behind the terminator.
    pub encore: bool,
    /// A socket that resumes is not told when its replay is over.
    pub mute: bool,
    /// Where a client resumes is not looked at: it gets everything again.
    pub forgetful: bool,
    /// Buffers as small as can be, and a socket that takes nothing for this long is reset.
    pub impatient: Option<Duration>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            tokens: 18,
            itl: Duration::from_millis(2),
            old_contract: false,
            edit: |_| Deed::Send,
            close: None,
            close_after: None,
            ready: 200,
            closed: 200,
            no_token: false,
            authorization: Some("Bearer token"),
            silent: false,
            refuse: HashMap::new(),
            lose_first_answer: false,
            bare_answer: None,
            content: "word ".to_owned(),
            error: None,
            extra: |_| None,
            frames: None,
            digest: true,
            digest_as: None,
            encore: false,
            mute: false,
            forgetful: false,
            impatient: None,
        }
    }
}
