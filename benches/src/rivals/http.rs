//! The little HTTP/1.1 that the drivers need: heads of responses, chunked bodies and events of a stream (SSE). Pure functions over bytes.

use anyhow::{Context, bail};

/// Longest head of a response, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// How the body of a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// After this number of bytes.
    Length(usize),
    /// With an empty chunk.
    Chunked,
    /// With the connection.
    ToTheEnd,
}

/// The head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Length of the head in bytes, with the empty line.
    pub(super) length: usize,
    pub(super) body: Body,
    /// The server closes the connection after this response.
    pub(super) closes: bool,
}

impl Head {
    /// Parses the head at the beginning of `bytes`. Returns `None` if it is not complete.
    ///
    /// # Errors
    /// The bytes are not a response of HTTP/1.1, or the head is longer than 16 KiB.
    pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            if bytes.len() > MAX_HEAD {
                bail!("the head of a response has more than {MAX_HEAD} bytes");
            }
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes[..end]).context("a response is not HTTP")?;
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.with_context(|| format!("`{line}` is not a status line"))?;
        let mut body = if status == 204 || status == 304 { Body::Length(0) } else { Body::ToTheEnd };
        let mut closes = false;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                body = Body::Length(value.trim().parse().context("a Content-Length is not a number")?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") && value.trim() == "chunked" {
                body = Body::Chunked;
            } else if name.eq_ignore_ascii_case("connection") {
                closes = value.trim().eq_ignore_ascii_case("close");
            }
        }
        Ok(Some(Self { status, length: end + 4, body, closes }))
    }
}

/// A whole response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    /// The server closes the connection after it.
    pub(super) closes: bool,
}

impl Response {
    /// Parses the response at the beginning of `bytes`. Returns it and its length, or `None` if it is not complete.
    ///
    /// # Errors
    /// The bytes are not a response, or its end cannot be known before the connection ends.
    pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Self, usize)>> {
        let Some(Head { status, length, body, closes }) = Head::parse(bytes)? else { return Ok(None) };
        let rest = &bytes[length..];
        match body {
            Body::Length(size) if rest.len() < size => Ok(None),
            Body::Length(size) => {
                Ok(Some((Self { status, body: rest[..size].to_vec(), closes }, length + size)))
            }
            Body::Chunked => {
                let (mut chunks, mut body) = (Chunks::default(), Vec::new());
                chunks.feed(rest, &mut body)?;
                Ok(chunks.ended.then_some((Self { status, body, closes }, bytes.len())))
            }
            Body::ToTheEnd => bail!("a response with status {status} has no Content-Length"),
        }
    }
}

/// Decodes a chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// The part of a line that has arrived: a chunk's size, or what ends the chunk.
    line: Vec<u8>,
    /// Bytes of the present chunk that have not arrived.
    missing: usize,
    /// The last chunk has arrived.
    pub(super) ended: bool,
}

impl Chunks {
    /// Appends the contents of `bytes` to `out`.
    ///
    /// # Errors
    /// A chunk's size is not a hexadecimal number.
    pub(super) fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
        while !bytes.is_empty() && !self.ended {
            if self.missing > 0 {
                let (data, rest) = bytes.split_at(self.missing.min(bytes.len()));
                out.extend_from_slice(data);
                self.missing -= data.len();
                bytes = rest;
                continue;
            }
            let (&byte, rest) = bytes.split_first().expect("the slice is not empty");
            bytes = rest;
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let text = String::from_utf8_lossy(&line);
            let size = text.trim().split(';').next().unwrap_or_default();
            // An empty line ends the chunk before it.
            if !size.is_empty() {
                self.missing = usize::from_str_radix(size, 16)
                    .with_context(|| format!("`{size}` is not the size of a chunk"))?;
                self.ended = self.missing == 0;
            }
        }
        Ok(())
    }
}

/// An event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
    pub(super) id: Option<String>,
}

/// Decodes an event stream.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    event: Event,
}

impl Events {
    /// Calls `take` with each event that `bytes` complete.
    ///
    /// # Errors
    /// A line is not UTF-8, or `take` returns an error.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&Event) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = std::str::from_utf8(&line).context("an event stream is not UTF-8")?;
                self.line(line.trim_end_matches(['\n', '\r']), &mut take)?;
            }
        }
        Ok(())
    }

    fn line(
        &mut self,
        line: &str,
        take: &mut impl FnMut(&Event) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return if event == Event::default() { Ok(()) } else { take(&event) };
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments keep a connection open.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_names_how_its_body_ends() {
        let check = |text: &str, status, body| {
            let head = Head::parse(text.as_bytes()).unwrap().unwrap();
            assert_eq!((head.status, head.length, head.body), (status, text.len(), body), "{text}");
        };
        check("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", 200, Body::Length(7));
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, Body::Chunked);
        check("HTTP/1.1 204 No Content\r\n\r\n", 204, Body::Length(0));
        check("HTTP/1.1 101 Switching Protocols\r\n\r\n", 101, Body::ToTheEnd);
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").unwrap().unwrap().closes);
        assert_eq!(Head::parse(b"HTTP/1.1 200 OK\r\n").unwrap(), None);
        assert!(Head::parse(b"nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn a_response_is_returned_when_it_is_complete() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n",
        ] {
            let (response, length) = Response::parse(text.as_bytes()).unwrap().unwrap();
            assert_eq!((response.status, response.body.as_slice(), length), (200, &b"hello"[..], text.len()));
            for cut in 0..text.len() - 2 {
                assert_eq!(Response::parse(&text.as_bytes()[..cut]).unwrap(), None, "{cut} of {text}");
            }
        }
        assert!(Response::parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "nothing says where it ends");
    }

    #[test]
    fn events_are_decoded_wherever_a_read_cuts_them() {
        let text = "event: batch\nid: 5,6\ndata: {\"a\":1}\n\n: comment\n\nevent:control\ndata:x\ndata:y\n\n";
        let event = |name: &str, data: &str, id: Option<&str>| Event {
            name: name.into(),
            data: data.into(),
            id: id.map(Into::into),
        };
        let expected = [event("batch", r#"{"a":1}"#, Some("5,6")), event("control", "x\ny", None)];
        for cut in 0..text.len() {
            let (mut events, mut seen) = (Events::default(), Vec::new());
            for part in [&text[..cut], &text[cut..]] {
                let chunk = format!("{:x}\r\n{part}\r\n", part.len());
                let (mut chunks, mut bytes) = (Chunks::default(), Vec::new());
                if !part.is_empty() {
                    for byte in chunk.as_bytes() {
                        chunks.feed(std::slice::from_ref(byte), &mut bytes).unwrap();
                    }
                }
                events
                    .feed(&bytes, |event| {
                        seen.push(event.clone());
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(seen, expected, "cut at {cut}");
        }
    }
}
