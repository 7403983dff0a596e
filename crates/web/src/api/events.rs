//! Server-sent events. A browser continues after its `Last-Event-ID`. It reads from the common log, so that it delays no other reader.

use crate::{feed::Entry, page::Page, refusal::Refusal};
use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::{Stream, stream::unfold};
use serde_json::json;
use std::{
    convert::Infallible,
    fmt::Write,
    sync::{Arc, LazyLock},
    time::Duration,
};
use tokio::time::sleep;

/// Most events in one piece.
const PIECE: usize = 64;
/// Time after which a stream without events sends a comment, so that a connection that is gone is found.
const ALIVE: Duration = Duration::from_secs(15);
/// Tells the positions of this process from those of an earlier one.
static PROCESS: LazyLock<String> = LazyLock::new(|| format!("{:08x}", rand::random::<u32>()));

pub(super) async fn events(State(page): State<Arc<Page>>, headers: HeaderMap) -> Result<Response, Refusal> {
    let permit = page.stream()?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let position = last.and_then(position_of).unwrap_or(0);
    let newest = page.runs.feed().newest();
    let begin = (page, position, newest, permit);
    let stream = unfold(begin, |(page, mut position, mut newest, permit)| async move {
        let batch = page.runs.feed().after(position, PIECE);
        let piece = if batch.entries.is_empty() {
            tokio::select! {
                changed = newest.changed() => { changed.ok()?; String::new() }
                () = sleep(ALIVE) => ":\n\n".to_owned(),
                () = page.shutdown.cancelled() => return None,
            }
        } else {
            position = batch.entries.last().map_or(position, |(at, _)| *at);
            piece(batch.missed, &batch.entries)
        };
        Some((piece, (page, position, newest, permit)))
    });
    Ok(server_sent(stream))
}

fn position_of(id: &str) -> Option<u64> {
    id.strip_prefix(PROCESS.as_str())?.strip_prefix('-')?.parse().ok()
}

fn piece(missed: u64, entries: &[Entry]) -> String {
    let mut text = String::new();
    if missed > 0 {
        let _ = write!(text, "data: {}\n\n", json!({ "type": "page", "missed": missed }));
    }
    for (at, event) in entries {
        let _ = write!(text, "id: {}-{at}\ndata: {event}\n\n", *PROCESS);
    }
    text
}

/// Returns the response that sends these pieces.
pub(super) fn server_sent(pieces: impl Stream<Item = String> + Send + 'static) -> Response {
    use futures_util::StreamExt;
    let pieces = pieces.map(|piece| Ok::<_, Infallible>(Bytes::from(piece)));
    ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces)).into_response()
}
