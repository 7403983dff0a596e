//! Reads what a server sends: bytes become events, wherever the bytes were cut. Follows the HTML standard: lines end with LF, CR or CRLF,
//! an empty line ends an event, comments are skipped, and several `data` lines are joined. Memory is limited.

/// Upper limit in bytes of a line and of an event's data.
pub const MAX_EVENT: usize = 1 << 20;
/// Upper limit in bytes of an event's name, and of its id.
const MAX_NAME: usize = 256;
/// Buffers above this size are freed after their event.
const KEPT: usize = 16 << 10;

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The `event` field. Empty if there is none.
    pub name: &'a str,
    /// The `data` lines, joined by line feeds.
    pub data: &'a str,
    /// The `id` field. Empty if there is none.
    pub id: &'a str,
}

/// A stream that cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadStream {
    /// The server sends a line or an event without an end.
    #[error("an event has more than {MAX_EVENT} bytes")]
    TooLong,
    /// The data of an event is not text.
    #[error("an event is not UTF-8")]
    NotText,
}

/// Splits a stream of bytes into events.
#[derive(Debug, Default)]
pub struct SseReader {
    /// A line whose end has not arrived.
    line: Vec<u8>,
    /// The data of the present event, each line with a line feed behind it.
    data: Vec<u8>,
    name: String,
    id: String,
    has_data: bool,
    /// The last byte was CR, so that LF belongs to it.
    after_cr: bool,
    /// A byte of the stream arrived, so that no byte order mark can follow.
    has_begun: bool,
}

impl SseReader {
    /// Calls `take` with each event that `bytes` complete, in order. The second argument is true if no byte follows the event.
    ///
    /// # Errors
    /// The stream cannot be read on. `take` was called with the events before that.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(SseEvent<'_>, bool),
    ) -> Result<(), BadStream> {
        if std::mem::take(&mut self.after_cr) {
            // The LF of a CRLF that was cut. It does not end another line.
            match bytes.split_first() {
                Some((b'\n', rest)) => bytes = rest,
                Some(_) => {}
                None => self.after_cr = true,
            }
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, rest) = bytes.split_at(end);
            let is_cr = rest[0] == b'\r';
            bytes = match rest {
                [b'\r', b'\n', rest @ ..] => rest,
                [_, rest @ ..] => {
                    self.after_cr = is_cr && rest.is_empty();
                    rest
                }
                [] => rest,
            };
            if self.line.is_empty() {
                self.take_line(line, bytes.is_empty(), &mut take)?;
            } else {
                self.grow(line)?;
                let whole = std::mem::take(&mut self.line);
                self.take_line(&whole, bytes.is_empty(), &mut take)?;
            }
        }
        self.grow(bytes)
    }

    /// Ends the stream. Calls `take` with the last event if it lacks its empty line.
    ///
    /// # Errors
    /// The last event cannot be read.
    pub fn finish(&mut self, mut take: impl FnMut(SseEvent<'_>, bool)) -> Result<(), BadStream> {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.take_line(&line, true, &mut take)?;
        }
        self.take_line(b"", true, &mut take)
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<(), BadStream> {
        if self.line.len() + bytes.len() > MAX_EVENT {
            return Err(BadStream::TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn take_line(
        &mut self,
        line: &[u8],
        is_end: bool,
        take: &mut impl FnMut(SseEvent<'_>, bool),
    ) -> Result<(), BadStream> {
        let line = if std::mem::replace(&mut self.has_begun, true) {
            line
        } else {
            line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
        };
        if line.is_empty() {
            return self.dispatch(is_end, take);
        }
        let (field, value) = match line.iter().position(|&byte| byte == b':') {
            // A comment.
            Some(0) => return Ok(()),
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.data.len() + value.len() >= MAX_EVENT {
                    return Err(BadStream::TooLong);
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" if value.len() <= MAX_NAME => {
                self.name.clear();
                self.name.push_str(std::str::from_utf8(value).map_err(|_| BadStream::NotText)?);
            }
            b"id" if value.len() <= MAX_NAME => {
                self.id.clear();
                self.id.push_str(std::str::from_utf8(value).map_err(|_| BadStream::NotText)?);
            }
            // `retry` belongs to browsers that reconnect by themselves. Other fields are ignored by the standard.
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self, is_end: bool, take: &mut impl FnMut(SseEvent<'_>, bool)) -> Result<(), BadStream> {
        let has_data = std::mem::take(&mut self.has_data);
        self.data.pop();
        // Keep-alives are events without name and id whose data is empty.
        let is_named = !self.name.is_empty() || !self.id.is_empty();
        if has_data && (is_named || !self.data.is_empty()) {
            let data = std::str::from_utf8(&self.data).map_err(|_| BadStream::NotText)?;
            take(SseEvent { name: &self.name, data, id: &self.id }, is_end);
        }
        self.data.clear();
        self.name.clear();
        self.id.clear();
        if self.data.capacity() > KEPT {
            self.data = Vec::new();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<(String, String)>, BadStream> {
        let (mut reader, mut events) = (SseReader::default(), Vec::new());
        for piece in pieces {
            reader.feed(piece, |event, _| events.push((event.name.to_owned(), event.data.to_owned())))?;
        }
        reader.finish(|event, _| events.push((event.name.to_owned(), event.data.to_owned())))?;
        Ok(events)
    }

    fn data(text: &str) -> Vec<String> {
        read(&[text.as_bytes()]).unwrap().into_iter().map(|(_, data)| data).collect()
    }

    #[test]
    fn fields_comments_and_line_ends() {
        assert_eq!(data("data: a\n\ndata:b\n\n"), ["a", "b"]);
        assert_eq!(data("data:  two spaces\n\n"), [" two spaces"]);
        assert_eq!(data(": ping\n\ndata\n\ndata:\n\ndata: x\n\n"), ["x"], "keep-alives are no events");
        let named = read(&[b"event: done\ndata:\n\nevent: none\n\n"]).unwrap();
        assert_eq!(named, [("done".into(), String::new())], "a name may say all");
        assert_eq!(data("data: a\r\n\r\ndata: b\r\rdata: c\n\r\n"), ["a", "b", "c"]);
        assert_eq!(data("data: 1\ndata: 2\nid: 7\nretry: 5\nother\n\n"), ["1\n2"]);
        assert_eq!(data("\u{feff}data: a\n\n"), ["a"]);
        assert_eq!(data("data: last"), ["last"], "the end of the stream ends the event");
        assert_eq!(data("data: last\n"), ["last"]);
        let named = read(&[b"event: response.created\ndata: {}\n\ndata: y\n\n"]).unwrap();
        assert_eq!(
            named,
            [("response.created".into(), "{}".into()), (String::new(), "y".into())],
            "a name belongs to one event"
        );
    }

    #[test]
    fn an_id_belongs_to_one_event() {
        let mut ids = Vec::new();
        let stream = b"id: a-7\ndata: x\n\ndata: y\n\nid\ndata: z\n\n";
        SseReader::default().feed(stream, |event, _| ids.push(event.id.to_owned())).unwrap();
        assert_eq!(ids, ["a-7", "", ""]);
    }

    #[test]
    fn whether_bytes_follow_is_known() {
        let mut ends = Vec::new();
        SseReader::default().feed(b"data: a\n\ndata: b\n\n", |_, is_end| ends.push(is_end)).unwrap();
        assert_eq!(ends, [false, true]);
    }

    #[test]
    fn memory_is_limited() {
        let long = vec![b'x'; MAX_EVENT + 1];
        assert_eq!(read(&[b"data: ", &long]), Err(BadStream::TooLong));
        let lines = "data: 0123456789012345678901234567890123456789\n".repeat(1 << 15);
        assert_eq!(read(&[lines.as_bytes()]), Err(BadStream::TooLong));
        assert_eq!(read(&[b"data: \xff\n\n"]), Err(BadStream::NotText));
        let mut reader = SseReader::default();
        let event = [b"data: ", &long[..MAX_EVENT / 2], b"\n\n"].concat();
        for _ in 0..4 {
            reader.feed(&event, |_, _| {}).unwrap();
        }
        assert!(reader.data.capacity() <= KEPT && reader.line.capacity() <= KEPT);
    }

    proptest! {
        /// A stream has the same events wherever it is cut, also inside a character and between CR and LF.
        #[test]
        fn cuts_change_nothing(
            texts in prop::collection::vec("[a-zä€😀 :]{1,12}", 1..20), ends in prop::collection::vec(0usize..3, 1..20), cuts in prop::collection::vec(1usize..9, 1..40),
        ) {
            let mut stream = String::new();
            for (text, end) in texts.iter().zip(ends.iter().cycle()) {
                let end = ["\n", "\r\n", "\r"][*end];
                stream += &format!(": comment{end}event: e{end}data: {text}{end}data:{text}{end}{end}");
            }
            let mut pieces = Vec::new();
            let mut rest = stream.as_bytes();
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                pieces.push(piece);
                rest = more;
            }
            let whole = read(&[stream.as_bytes()]).unwrap();
            prop_assert_eq!(&read(&pieces).unwrap(), &whole);
            prop_assert_eq!(whole.len(), texts.len());
            for (text, (name, data)) in texts.iter().zip(whole) {
                let bare = text.strip_prefix(' ').unwrap_or(text);
                prop_assert_eq!((name.as_str(), data), ("e", format!("{text}\n{bare}")));
            }
        }

        #[test]
        fn nothing_panics_on_noise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&[&bytes]);
        }
    }
}
