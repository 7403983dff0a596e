//! HTTP/1.1 responses of a connection that is read directly, so that each byte keeps its arrival time.
//! The heads are parsed by `httparse`; the framing of bodies (length, chunks, end of the connection) is here. Opens no socket.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Upper limit in bytes of a response's head, and of the trailers behind its body.
const MAX_HEAD: usize = 64 << 10;
/// Upper limit of the headers of a response.
const MAX_HEADERS: usize = 100;

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// The headers. Values that are not valid are left out.
    pub headers: HeaderMap,
}

impl ResponseHead {
    /// Returns the text of a header.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns whether a comma-separated header has this word.
    fn has_word(&self, name: &str, word: &str) -> bool {
        let mut values = self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
    }
}

/// A part of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// The head is complete.
    Head(&'a ResponseHead),
    /// Bytes of the body.
    Body(&'a [u8]),
    /// The response is complete.
    End {
        /// Another request can be sent over the connection.
        is_reusable: bool,
    },
}

/// A violation of HTTP/1.1 by the server. Nothing more can be read from the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum BadResponse {
    #[error("the head of a response has more than {MAX_HEAD} bytes or {MAX_HEADERS} headers")]
    HeadTooLong,
    #[error("the response is not HTTP/1.1")]
    Head,
    #[error("the length of the body is invalid")]
    Length,
    #[error("a chunk of the body is invalid")]
    Chunk,
    #[error("bytes arrived that belong to no response")]
    Unexpected,
}

#[derive(Debug, Default)]
enum State {
    /// No response is awaited.
    #[default]
    Idle,
    /// The bytes of a head whose end has not arrived.
    Head(Vec<u8>),
    /// A body of known length: the bytes that are missing.
    Length(u64),
    Chunk(Chunk),
    /// A body that the end of the connection ends.
    UntilEnd,
}

/// The place inside a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size {
        size: u64,
        digits: u8,
    },
    /// An extension behind the size.
    Extension {
        size: u64,
    },
    /// LF behind the size.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    /// CR and LF behind the data.
    DataEnd {
        seen_cr: bool,
    },
    /// The trailers: the bytes of the present line, and of all lines.
    Trailers {
        line: usize,
        all: usize,
    },
}

/// Reads the responses of one connection, one after another.
#[derive(Debug, Default)]
pub struct Responses {
    state: State,
    is_reusable: bool,
}

impl Responses {
    /// Notes that a request was sent, whose response follows.
    pub fn await_response(&mut self) {
        self.state = State::Head(Vec::new());
        self.is_reusable = false;
    }

    /// Returns whether no response is awaited.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Calls `take` with each part that `bytes` bring, in order. The second argument is true if no byte of a body follows in `bytes`.
    ///
    /// # Errors
    /// The first violation of the protocol. `take` was called with the parts before it.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(Part<'_>, bool),
    ) -> Result<(), BadResponse> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Idle => return Err(BadResponse::Unexpected),
                State::Head(begun) => {
                    let before = begun.len();
                    begun.extend_from_slice(&bytes[..bytes.len().min(MAX_HEAD + 1 - before.min(MAX_HEAD))]);
                    let Some((head, length)) = parse_head(begun)? else {
                        if begun.len() > MAX_HEAD {
                            return Err(BadResponse::HeadTooLong);
                        }
                        return Ok(());
                    };
                    bytes = &bytes[length - before..];
                    self.begin(&head, &mut take)?;
                }
                State::Length(left) => {
                    let now = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (body, rest) = bytes.split_at(now);
                    *left -= now as u64;
                    let is_over = *left == 0;
                    take(Part::Body(body), true);
                    bytes = rest;
                    if is_over {
                        self.end(&mut take);
                    }
                }
                State::UntilEnd => {
                    take(Part::Body(bytes), true);
                    return Ok(());
                }
                State::Chunk(Chunk::Data { left }) => {
                    let now = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (body, rest) = bytes.split_at(now);
                    let left = *left - now as u64;
                    take(Part::Body(body), !has_body(rest));
                    bytes = rest;
                    self.state = State::Chunk(match left {
                        0 => Chunk::DataEnd { seen_cr: false },
                        left => Chunk::Data { left },
                    });
                }
                State::Chunk(chunk) => {
                    match chunk.framing(bytes[0])? {
                        Some(next) => *chunk = next,
                        None => self.end(&mut take),
                    }
                    bytes = &bytes[1..];
                }
            }
        }
        Ok(())
    }

    /// Ends the connection. Returns whether the response that was being read is complete with it. Calls `take` with its end then.
    pub fn finish(&mut self, mut take: impl FnMut(Part<'_>, bool)) -> bool {
        let is_complete = matches!(self.state, State::UntilEnd);
        if is_complete {
            self.is_reusable = false;
            self.end(&mut take);
        }
        is_complete
    }

    fn begin(
        &mut self,
        head: &ResponseHead,
        take: &mut impl FnMut(Part<'_>, bool),
    ) -> Result<(), BadResponse> {
        if (100..200).contains(&head.status) {
            self.state = State::Head(Vec::new());
            return Ok(());
        }
        let is_chunked = head.has_word("transfer-encoding", "chunked");
        let lengths: Vec<_> = head.headers.get_all("content-length").iter().collect();
        let length = match lengths.as_slice() {
            _ if is_chunked => None,
            [] => None,
            [first, rest @ ..] if rest.iter().all(|length| length == first) => {
                let length = first.to_str().ok().and_then(|text| text.trim().parse().ok());
                Some(length.ok_or(BadResponse::Length)?)
            }
            _ => return Err(BadResponse::Length),
        };
        self.is_reusable = !head.has_word("connection", "close");
        let is_empty = matches!(head.status, 204 | 304);
        self.state = match length {
            _ if is_empty => State::Length(0),
            _ if is_chunked => State::Chunk(Chunk::Size { size: 0, digits: 0 }),
            Some(length) => State::Length(length),
            None => State::UntilEnd,
        };
        take(Part::Head(head), true);
        if matches!(self.state, State::Length(0)) {
            self.end(take);
        }
        Ok(())
    }

    fn end(&mut self, take: &mut impl FnMut(Part<'_>, bool)) {
        self.state = State::Idle;
        take(Part::End { is_reusable: self.is_reusable }, true);
    }
}

impl Chunk {
    /// Takes one byte outside a chunk's data. `None`: the body is complete.
    fn framing(self, byte: u8) -> Result<Option<Self>, BadResponse> {
        let next = match (self, byte) {
            (Self::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < 16 => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                Self::Size { size: (size << 4) | digit, digits: digits + 1 }
            }
            (Self::Size { size, digits: 1.. } | Self::Extension { size }, b'\r') => Self::SizeEnd { size },
            // Some servers end lines with LF alone.
            (Self::Size { size, digits: 1.. } | Self::Extension { size } | Self::SizeEnd { size }, b'\n') => {
                match size {
                    0 => Self::Trailers { line: 0, all: 0 },
                    left => Self::Data { left },
                }
            }
            (Self::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => Self::Extension { size },
            (Self::Extension { size }, _) => Self::Extension { size },
            (Self::DataEnd { seen_cr: false }, b'\r') => Self::DataEnd { seen_cr: true },
            (Self::DataEnd { .. }, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::Trailers { line: 0, .. }, b'\n') => return Ok(None),
            (Self::Trailers { all, .. }, b'\n') => Self::Trailers { line: 0, all },
            (Self::Trailers { line, all }, b'\r') => Self::Trailers { line, all },
            (Self::Trailers { line, all }, _) if all < MAX_HEAD => {
                Self::Trailers { line: line + 1, all: all + 1 }
            }
            _ => return Err(BadResponse::Chunk),
        };
        Ok(Some(next))
    }
}

/// Returns whether bytes of a body follow the data of a chunk in what was read with it. A server writes the end of a chunk, and often
/// the end of the body, together with the data before it.
fn has_body(rest: &[u8]) -> bool {
    !matches!(
        rest,
        b"" | b"\r" | b"\r\n" | b"\r\n0" | b"\r\n0\r" | b"\r\n0\r\n" | b"\r\n0\r\n\r" | b"\r\n0\r\n\r\n"
    )
}

/// Parses a head. `None` if its end has not arrived. Also returns its length in bytes.
fn parse_head(bytes: &[u8]) -> Result<Option<(ResponseHead, usize)>, BadResponse> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let valid = response.headers.iter().filter_map(|header| {
                let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
                Some((name, HeaderValue::from_bytes(header.value).ok()?))
            });
            let mut headers = HeaderMap::new();
            valid.for_each(|(name, value)| {
                headers.append(name, value);
            });
            Ok(Some((ResponseHead { status: response.code.ok_or(BadResponse::Head)?, headers }, length)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(BadResponse::HeadTooLong),
        Err(_) => Err(BadResponse::Head),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the status, body and end of a response that is read in pieces: `Some(reusable)` if it ended.
    fn read(pieces: &[&[u8]]) -> Result<(u16, Vec<u8>, Option<bool>), BadResponse> {
        let mut responses = Responses::default();
        responses.await_response();
        let (mut status, mut body, mut end) = (0, Vec::new(), None);
        let mut take = |part: Part<'_>, _| match part {
            Part::Head(head) => status = head.status,
            Part::Body(bytes) => body.extend_from_slice(bytes),
            Part::End { is_reusable } => end = Some(is_reusable),
        };
        for piece in pieces {
            responses.feed(piece, &mut take)?;
        }
        responses.finish(&mut take);
        Ok((status, body, end))
    }

    #[test]
    fn bodies_of_each_framing() {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
        for (rest, body, end) in [
            ("Content-Length: 3\r\n\r\nabc", "abc", Some(true)),
            ("Content-Length: 4\r\n\r\nabc", "abc", None),
            ("Content-Length: 0\r\n\r\n", "", Some(true)),
            ("\r\nabc", "abc", Some(false)),
            ("Connection: close\r\nContent-Length: 1\r\n\r\na", "a", Some(false)),
            (
                "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
                "abc0123456789",
                Some(true),
            ),
            ("Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Trailer: 1\r\n\r\n", "a", Some(true)),
            ("Transfer-Encoding: chunked\r\n\r\n3\r\nab", "ab", None),
            ("Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", "a", None),
        ] {
            let response = format!("{head}{rest}");
            assert_eq!(read(&[response.as_bytes()]), Ok((200, body.into(), end)), "{rest}");
        }
        let after_hint =
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(read(&[after_hint]), Ok((429, Vec::new(), Some(true))));
        assert_eq!(read(&[b"HTTP/1.1 204 No Content\r\n\r\n"]), Ok((204, Vec::new(), Some(true))));
    }

    #[test]
    fn violations_are_named_and_memory_is_limited() {
        let head = "HTTP/1.1 200 OK\r\n";
        for (response, bad) in [
            ("SSH-2.0-x\r\n".to_owned(), BadResponse::Head),
            (format!("{head}Content-Length: x\r\n\r\n"), BadResponse::Length),
            (format!("{head}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"), BadResponse::Length),
            (format!("{head}Transfer-Encoding: chunked\r\n\r\nxyz\r\n"), BadResponse::Chunk),
            (format!("{head}Transfer-Encoding: chunked\r\n\r\n11112222333344445\r\n"), BadResponse::Chunk),
            (format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n"), BadResponse::Chunk),
            (format!("{head}Content-Length: 1\r\n\r\nab"), BadResponse::Unexpected),
            (format!("{head}X: {}", "x".repeat(MAX_HEAD)), BadResponse::HeadTooLong),
            (format!("{head}{}\r\n", "X: y\r\n".repeat(MAX_HEADERS + 1)), BadResponse::HeadTooLong),
            (
                format!("{head}Transfer-Encoding: chunked\r\n\r\n0\r\n{}", "x".repeat(MAX_HEAD + 1)),
                BadResponse::Chunk,
            ),
        ] {
            assert_eq!(read(&[response.as_bytes()]), Err(bad), "{:.60}", response);
        }
        assert_eq!(Responses::default().feed(b"x", |_, _| {}), Err(BadResponse::Unexpected));
    }

    #[test]
    fn framing_alone_does_not_follow_a_body() {
        let mut ends = Vec::new();
        let mut responses = Responses::default();
        responses.await_response();
        let response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n";
        let take = |part: Part<'_>, is_end| {
            if matches!(part, Part::Body(_)) {
                ends.push(is_end);
            }
        };
        responses.feed(response, take).unwrap();
        assert_eq!(ends, [false, true]);
        assert!(responses.is_idle());
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..10), cuts in prop::collection::vec(1usize..30, 1..30),
        ) {
            let mut response = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                response.extend(format!("{:x}\r\n", chunk.len()).bytes().chain(chunk.iter().copied()).chain(*b"\r\n"));
            }
            response.extend(b"0\r\n\r\n");
            let (mut pieces, mut rest, mut cuts) = (Vec::new(), &response[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                pieces.push(piece);
                rest = more;
            }
            prop_assert_eq!(read(&pieces), Ok((200, chunks.concat(), Some(true))));
        }

        #[test]
        fn nothing_panics_on_noise(bytes in prop::collection::vec(any::<u8>(), 0..200), chunked: bool) {
            let head: &[u8] = if chunked { b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" } else { b"" };
            let _ = read(&[head, &bytes]);
        }
    }
}
