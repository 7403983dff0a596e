//! The behaviour of the scripted server, as a test defines it.

use std::{collections::HashMap, time::Duration};

/// Chooses what happens to an event by its number, counted from 1 over all sessions.
pub type Edit = fn(u64) -> Action;

/// Returns an additional frame for an event by its number, counted from 1 over all sessions.
pub type Extra = fn(u64) -> Option<&'static str>;

/// Returns what is sent instead of a rolled frame, by the frame's number, counted from 1 over all sessions.
pub type RolledEdit = fn(u64, String) -> Vec<String>;

/// What happens to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Send,
    Drop,
    Double,
    /// Sends it after the event that follows it.
    Swap,
    /// Sends it with a text that does not match the digest.
    Garble,
}

/// The behaviour of the server.
#[derive(Clone)]
pub struct Script {
    pub tokens: u64,
    pub itl: Duration,
    /// Sends neither generations nor positions.
    pub old_contract: bool,
    /// Applies to tokens, counted from 1 over all sessions.
    pub edit: Edit,
    /// Closes the first socket of a session after this number of events, with this code and text. Code 0 ends it without a close frame.
    pub close: Option<(usize, u16, &'static str)>,
    /// Closes every socket with this code and text after a `done` event.
    pub close_after: Option<(u16, &'static str)>,
    /// The status of the response to `GET /ready`.
    pub ready: u16,
    /// The status of the response to close.
    pub closed: u16,
    /// The response to create has no token.
    pub no_token: bool,
    /// The `authorization` header that sockets must send. `None` accepts any.
    pub authorization: Option<&'static str>,
    /// Streams begin and never send an event.
    pub silent: bool,
    /// Status and `Retry-After` of the responses to the first calls of each kind, in order. Status 200 does not refuse the
    /// call. A run call with status 0 gets no response.
    pub refuse: HashMap<&'static str, Vec<(u16, Option<&'static str>)>>,
    /// The first run call of each session starts its stream, but gets a 502 response.
    pub lose_first_answer: bool,
    /// The body of every response to run, with status 200.
    pub bare_answer: Option<&'static str>,
    /// The text of each token.
    pub content: String,
    /// Sends this many tokens as one frame, except the first token of a query. Each token then has a text of its own.
    pub rollup: Option<u64>,
    pub rolled: RolledEdit,
    /// The gateway adds its times to tokens 1, 17 … of a query if it is asked for hops. How long before the present each token was due, handed
    /// over, received and written, in milliseconds.
    pub stamped: Option<[u64; 4]>,
    /// The stream ends with an error event of this code.
    pub error: Option<&'static str>,
    /// A frame to send before a token. If it begins with `\0`, the rest is sent as a binary message; if it begins with `\x01`, as a frame
    /// with a reserved bit.
    pub extra: Extra,
    /// The frames of each query, one per line, instead of tokens and a terminator.
    pub frames: Option<&'static str>,
    /// The terminator carries the digest of the tokens.
    pub digest: bool,
    /// The JSON value to send instead of the digest.
    pub digest_as: Option<&'static str>,
    /// Sends one more token after the terminator.
    pub token_after_end: bool,
    /// A socket that resumes gets no frame at the end of its replay.
    pub mute: bool,
    /// Ignores the position of a resume and sends the whole log again.
    pub forgetful: bool,
    /// While more streams than this run, each of them is four times as slow.
    pub places: Option<usize>,
    /// A stream that begins while this number of others run stops after half of its tokens and sends nothing more.
    pub stops_above: Option<usize>,
    /// Uses the smallest possible buffers, and resets a socket that accepts no data for this long.
    pub impatient: Option<Duration>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            tokens: 18,
            itl: Duration::from_millis(2),
            old_contract: false,
            edit: |_| Action::Send,
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
            rollup: None,
            rolled: |_, frame| vec![frame],
            stamped: None,
            error: None,
            extra: |_| None,
            frames: None,
            digest: true,
            digest_as: None,
            token_after_end: false,
            mute: false,
            forgetful: false,
            places: None,
            stops_above: None,
            impatient: None,
        }
    }
}
