//! The responses of an HTTP connection as a session needs them: server-sent events, refusals, and their ends. Opens no socket.

use crate::http1::{BadResponse, Part, ResponseHead, Responses};
use dialects::{
    lines::LineReader,
    sse::read::{BadStream, SseEvent, SseReader},
};

/// Upper limit in bytes of the body of a refusal that is kept.
const MAX_REFUSAL: usize = 16 << 10;

/// What a response brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamPart<'a> {
    /// The server accepted the request, and events follow.
    Accepted(&'a ResponseHead),
    /// An event, or a line as one without name and id.
    Event(SseEvent<'a>),
    /// The response is complete and is not a stream of events. Holds the start of its body.
    Refused(&'a ResponseHead, &'a [u8]),
    /// The response is complete.
    End {
        /// Another request can be sent over the connection.
        is_reusable: bool,
    },
}

/// A violation by the server. Nothing more can be read from the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum BadHttp {
    #[error(transparent)]
    Response(#[from] BadResponse),
    #[error(transparent)]
    Events(#[from] BadStream),
}

#[derive(Debug, Default)]
enum Body {
    #[default]
    None,
    Events(SseReader),
    Lines(LineReader),
    Refusal(ResponseHead, Vec<u8>),
}

/// Reads the responses of one connection.
#[derive(Debug, Default)]
pub struct HttpStream {
    responses: Responses,
    body: Body,
    has_lines: bool,
}

impl HttpStream {
    /// Reads the lines of each response, whatever its type, instead of server-sent events.
    #[must_use]
    pub fn of_lines() -> Self {
        Self { has_lines: true, ..Self::default() }
    }

    /// Notes that a request was sent, whose response follows.
    pub fn await_response(&mut self) {
        self.responses.await_response();
        self.body = Body::None;
    }

    /// Returns whether no response is awaited.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.responses.is_idle()
    }

    /// Calls `take` with each part that `bytes` complete, in order. The second argument is true if no byte of a body follows.
    ///
    /// # Errors
    /// The first violation by the server. `take` was called with the parts before it.
    pub fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(StreamPart<'_>, bool)) -> Result<(), BadHttp> {
        let Self { responses, body, has_lines } = self;
        let mut bad = None;
        responses.feed(bytes, |part, is_end| {
            if bad.is_none() {
                bad = body.part(part, is_end, *has_lines, &mut take).err();
            }
        })?;
        bad.map_or(Ok(()), |bad| Err(bad.into()))
    }

    /// Ends the connection, which may complete the response.
    ///
    /// # Errors
    /// The last event cannot be read.
    pub fn finish(&mut self, mut take: impl FnMut(StreamPart<'_>, bool)) -> Result<(), BadHttp> {
        let Self { responses, body, has_lines } = self;
        let mut bad = None;
        responses.finish(|part, is_end| bad = body.part(part, is_end, *has_lines, &mut take).err());
        bad.map_or(Ok(()), |bad| Err(bad.into()))
    }
}

impl Body {
    fn part(
        &mut self,
        part: Part<'_>,
        is_end: bool,
        has_lines: bool,
        take: &mut impl FnMut(StreamPart<'_>, bool),
    ) -> Result<(), BadStream> {
        match (part, &mut *self) {
            (Part::Head(head), _) => {
                let is_stream = head
                    .text("content-type")
                    .is_some_and(|kind| kind.trim_start().starts_with("text/event-stream"));
                let is_success = (200..300).contains(&head.status) && head.status != 204;
                *self = match (is_success, has_lines, is_stream) {
                    (true, true, _) => Self::Lines(LineReader::default()),
                    (true, false, true) => Self::Events(SseReader::default()),
                    _ => Self::Refusal(head.clone(), Vec::new()),
                };
                if !matches!(self, Self::Refusal(..)) {
                    take(StreamPart::Accepted(head), is_end);
                }
            }
            (Part::Body(bytes), Self::Events(reader)) => {
                reader.feed(bytes, |event, ends| take(StreamPart::Event(event), ends && is_end))?;
            }
            (Part::Body(bytes), Self::Lines(reader)) => {
                reader.feed(bytes, |line, ends| take(line_part(line), ends && is_end))?;
            }
            (Part::Body(bytes), Self::Refusal(_, kept)) => {
                let room = MAX_REFUSAL - kept.len();
                kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            (Part::Body(_), Self::None) => {}
            (Part::End { is_reusable }, body) => {
                match std::mem::take(body) {
                    Self::Events(mut reader) => {
                        reader.finish(|event, ends| take(StreamPart::Event(event), ends))?;
                    }
                    Self::Lines(mut reader) => reader.finish(|line, ends| take(line_part(line), ends))?,
                    Self::Refusal(head, kept) => take(StreamPart::Refused(&head, &kept), true),
                    Self::None => {}
                }
                take(StreamPart::End { is_reusable }, true);
            }
        }
        Ok(())
    }
}

const fn line_part(line: &str) -> StreamPart<'_> {
    StreamPart::Event(SseEvent { name: "", data: line, id: "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(response: &str) -> Result<Vec<String>, BadHttp> {
        read_with(HttpStream::default(), response)
    }

    fn read_with(mut stream: HttpStream, response: &str) -> Result<Vec<String>, BadHttp> {
        let mut parts = Vec::new();
        stream.await_response();
        let mut take = |part: StreamPart<'_>, _| {
            parts.push(match part {
                StreamPart::Accepted(head) => head.status.to_string(),
                StreamPart::Event(event) => event.data.to_owned(),
                StreamPart::Refused(head, body) => {
                    format!("{}: {}", head.status, String::from_utf8_lossy(body))
                }
                StreamPart::End { is_reusable } => format!("end {is_reusable}"),
            });
        };
        stream.feed(response.as_bytes(), &mut take)?;
        stream.finish(&mut take)?;
        Ok(parts)
    }

    #[test]
    fn lines_of_a_response_of_any_type() {
        let read = |response: &str| read_with(HttpStream::of_lines(), response).unwrap();
        let stream = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n{}\n{\"a\":1}";
        assert_eq!(read(stream), ["200", "{}", "{\"a\":1}", "end false"]);
        let refusal = "HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nno\n";
        assert_eq!(read(refusal), ["404: no\n", "end true"]);
    }

    #[test]
    fn events_refusals_and_ends() {
        let stream = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n";
        let chunked = format!(
            "{stream}transfer-encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n7\r\ndata: b\r\n0\r\n\r\n"
        );
        assert_eq!(
            read(&chunked).unwrap(),
            ["200", "a", "b", "end true"],
            "the end completes the last event"
        );
        assert_eq!(read(&format!("{stream}\r\ndata: a")).unwrap(), ["200", "a", "end false"]);
        let cut = format!("{stream}transfer-encoding: chunked\r\n\r\n9\r\ndata: ");
        assert_eq!(read(&cut).unwrap(), ["200"], "a cut response does not end");
        let refusal =
            "HTTP/1.1 429 Too Many\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(read(refusal).unwrap(), ["429: {}", "end true"]);
        let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 3\r\n\r\n<p>";
        assert_eq!(read(page).unwrap(), ["200: <p>", "end true"]);
        assert!(read(&format!("{stream}\r\ndata: {}\n\n", "x".repeat(2 << 20))).is_err());
    }
}
