//! Plays a stream into the body of an HTTP response. The connection asks for the next piece when it has room, so nothing is queued, and
//! dropping the body ends the stream.

use crate::{
    metrics::{Metrics, Outcome},
    openai::{
        active::Active,
        cancelling::Cancelling,
        player::{Ending, Part, Played, Player},
        problem::Problem,
        state::OpenAi,
    },
};
use axum::{
    body::{Body, Bytes},
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use futures_util::stream;
use host::ClockAnchor;
use std::{io, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// A piece of a body that is at least this long is handed over, even if more is due.
const PIECE: usize = 64 << 10;

/// Pause between the two pieces of a split character, so that they leave in two segments.
pub(super) const SPLIT_PAUSE: Duration = Duration::from_millis(20);

/// The response header that tells whether two processes share a clock.
pub(super) const BOOT_ID: HeaderName = HeaderName::from_static("x-boot-id");

/// A stream on its way to one client.
pub(super) struct Playback {
    pub(super) player: Player,
    pub(super) start: Instant,
    /// The place of the stream. `None` if the stream runs without this connection.
    pub(super) active: Option<Active>,
    /// Events up to this number are not sent, because the client has them.
    pub(super) after: Option<u64>,
    /// Ends the stream without a terminator.
    pub(super) cancelling: Cancelling,
    /// Called when the stream has ended with its terminator.
    pub(super) when_whole: Option<Box<dyn FnOnce() + Send>>,
}

impl Playback {
    /// Returns the response that plays the stream as server-sent events.
    pub(super) fn response(self, openai: &Arc<OpenAi>) -> Response {
        let (metrics, anchor) = (openai.metrics.clone(), openai.anchor);
        let (counts_tokens, joined) = (self.active.is_some(), Instant::now());
        let sending = Sending {
            playback: self,
            metrics,
            anchor,
            counts_tokens,
            joined,
            stop: openai.stop.clone(),
            rest: Bytes::new(),
            ended: None,
        };
        let pieces = stream::unfold(sending, async |mut sending| {
            let piece = sending.piece().await?;
            Some((piece, sending))
        });
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(id) = openai.boot_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(BOOT_ID, id);
        }
        (headers, Body::from_stream(pieces)).into_response()
    }
}

struct Sending {
    playback: Playback,
    metrics: Metrics,
    anchor: ClockAnchor,
    /// The tokens of a stream that runs without this connection are counted where it runs.
    counts_tokens: bool,
    /// What was due before is sent late on purpose, because it is read again.
    joined: Instant,
    stop: CancellationToken,
    /// The second piece of a split character, and what follows it.
    rest: Bytes,
    ended: Option<Ending>,
}

impl Sending {
    /// Waits until something is due. Returns all that is, or `None` at the end. An error breaks the connection.
    async fn piece(&mut self) -> Option<io::Result<Bytes>> {
        if !self.rest.is_empty() {
            sleep(SPLIT_PAUSE).await;
            return Some(Ok(std::mem::take(&mut self.rest)));
        }
        loop {
            match self.ended {
                None => {}
                Some(Ending::Abort) => return Some(Err(io::ErrorKind::ConnectionAborted.into())),
                Some(_) => return None,
            }
            let due = self.playback.start + self.playback.player.due()?;
            if due > Instant::now() {
                tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.playback.cancelling.cancelled() => return None,
                    () = self.stop.cancelled() => return self.interrupt(),
                }
            } else if self.stop.is_cancelled() {
                return self.interrupt();
            }
            let mut piece = Piece::default();
            self.fill(&mut piece);
            if !piece.text.is_empty() {
                let mut bytes = Bytes::from(piece.text);
                if let Some(at) = piece.split {
                    self.rest = bytes.split_off(at);
                }
                return Some(Ok(bytes));
            }
        }
    }

    /// Writes what is due.
    fn fill(&mut self, piece: &mut Piece) {
        while piece.has_room() && self.ended.is_none() {
            let now = Instant::now();
            let Some(due) = self.playback.player.due() else { return };
            let due = self.playback.start + due;
            if due > now {
                return;
            }
            if self.playback.cancelling.was_before(due) {
                self.ended = Some(Ending::Cut);
                return;
            }
            let played = self.playback.player.play(self.anchor.us(now.into_std()));
            if let Some(active) = &mut self.playback.active {
                active.note(&played, now - self.playback.start);
            }
            if self.counts_tokens {
                self.metrics.tokens.inc_by(played.tokens);
            }
            if due >= self.joined || self.counts_tokens {
                observe_lateness(&self.metrics, &played, now - self.playback.start);
            }
            for part in played.parts {
                if part
                    .frame
                    .number
                    .is_none_or(|number| self.playback.after.is_none_or(|after| number > after))
                {
                    piece.add(&part);
                }
            }
            if let Some(ending) = played.ending {
                self.end(ending);
            }
        }
    }

    fn end(&mut self, ending: Ending) {
        self.ended = Some(ending);
        if let Some(active) = self.playback.active.take() {
            active.end(outcome(ending));
        }
        if let Some(call) = self.playback.when_whole.take()
            && ending == Ending::Whole
        {
            call();
        }
    }

    fn interrupt(&mut self) -> Option<io::Result<Bytes>> {
        let mut piece = Piece::default();
        self.playback.player.interrupt(&Problem::Draining).iter().for_each(|part| piece.add(part));
        self.ended = Some(Ending::Failed);
        if let Some(active) = self.playback.active.take() {
            active.end(Outcome::Shutdown);
        }
        Some(Ok(Bytes::from(piece.text)))
    }
}

/// Counts how late an event was handed over, `after` the start.
pub(super) fn observe_lateness(metrics: &Metrics, played: &Played, after: Duration) {
    if let Some(due) = played.due {
        metrics.pace_lag.observe(after.saturating_sub(due));
    }
}

/// Returns the outcome of a stream for the metrics.
pub(super) const fn outcome(ending: Ending) -> Outcome {
    match ending {
        Ending::Whole => Outcome::Done,
        Ending::Failed | Ending::Cut | Ending::Abort => Outcome::Injected,
    }
}

/// Frames as text.
#[derive(Default)]
struct Piece {
    text: String,
    /// Where the text is cut, inside a character.
    split: Option<usize>,
}

impl Piece {
    fn has_room(&self) -> bool {
        self.text.len() < PIECE && self.split.is_none()
    }

    fn add(&mut self, part: &Part) {
        let begin = self.text.len();
        part.frame.write_to(&mut self.text);
        if part.is_split && self.split.is_none() {
            self.split = inside_a_character(&self.text[begin..]).map(|at| begin + at);
        }
    }
}

/// Returns a position inside the first character that has several bytes.
pub(super) fn inside_a_character(text: &str) -> Option<usize> {
    text.bytes().position(|byte| !byte.is_ascii()).map(|at| at + 1)
}
