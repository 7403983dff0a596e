//! Reads JSON lines: bytes become lines, wherever the bytes were cut. Memory is limited.

use crate::sse::read::{BadStream, MAX_EVENT};

/// Splits a stream of bytes into lines that are not empty.
#[derive(Debug, Default)]
pub struct LineReader {
    /// A line whose end has not arrived.
    line: Vec<u8>,
}

impl LineReader {
    /// Calls `take` with each line that `bytes` complete, in order. The second argument is true if no byte follows the line.
    ///
    /// # Errors
    /// The stream cannot be read on. `take` was called with the lines before that.
    pub fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(&str, bool)) -> Result<(), BadStream> {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.line.is_empty() {
                take_line(line, rest.is_empty(), &mut take)?;
            } else {
                self.grow(line)?;
                take_line(&std::mem::take(&mut self.line), rest.is_empty(), &mut take)?;
            }
            bytes = rest;
        }
        self.grow(bytes)
    }

    /// Ends the stream. Calls `take` with the last line if it lacks its end.
    ///
    /// # Errors
    /// The last line is not text.
    pub fn finish(&mut self, mut take: impl FnMut(&str, bool)) -> Result<(), BadStream> {
        take_line(&std::mem::take(&mut self.line), true, &mut take)
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<(), BadStream> {
        if self.line.len() + bytes.len() > MAX_EVENT {
            return Err(BadStream::TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }
}

fn take_line(line: &[u8], is_end: bool, take: &mut impl FnMut(&str, bool)) -> Result<(), BadStream> {
    let line = line.trim_ascii();
    if line.len() > MAX_EVENT {
        return Err(BadStream::TooLong);
    }
    if !line.is_empty() {
        take(std::str::from_utf8(line).map_err(|_| BadStream::NotText)?, is_end);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, BadStream> {
        let (mut reader, mut lines) = (LineReader::default(), Vec::new());
        for piece in pieces {
            reader.feed(piece, |line, _| lines.push(line.to_owned()))?;
        }
        reader.finish(|line, _| lines.push(line.to_owned()))?;
        Ok(lines)
    }

    #[test]
    fn lines_and_limits() {
        assert_eq!(read(&[b"a\r\n\n  b  \nc"]).unwrap(), ["a", "b", "c"]);
        assert_eq!(read(&[b"\xff\n"]), Err(BadStream::NotText));
        assert_eq!(read(&[&vec![b'x'; MAX_EVENT], b"x"]), Err(BadStream::TooLong));
        let mut ends = Vec::new();
        LineReader::default().feed(b"a\nb\n", |_, is_end| ends.push(is_end)).unwrap();
        assert_eq!(ends, [false, true]);
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(text in "[a€\n]{0,60}", size in 1usize..9) {
            let pieces: Vec<_> = text.as_bytes().chunks(size).collect();
            prop_assert_eq!(read(&pieces), read(&[text.as_bytes()]));
        }
    }
}
