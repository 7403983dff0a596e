//! Writes what a server sends.

use serde::Serialize;
use std::fmt::Write as _;

/// The data of the last event of an OpenAI stream.
pub const DONE: &str = "[DONE]";

/// Extra fields of the simulator in the event of a token. Clients of the dialect ignore unknown fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Marks {
    /// The number of the token event in its answer, from 1. The terminator follows the last one.
    #[serde(rename = "x_seq")]
    pub seq: u64,
    /// When the event was due, in microseconds of `CLOCK_MONOTONIC`.
    #[serde(rename = "x_due_us")]
    pub due_us: u64,
    /// When the simulator handed it to the connection, in the same unit.
    #[serde(rename = "x_sent_us")]
    pub sent_us: u64,
}

/// A message of a stream. Over server-sent events it becomes an event, over a WebSocket its data becomes a text message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The name of the event, if the dialect names its events.
    pub event: Option<&'static str>,
    /// The number of the event in its stream, if the dialect numbers its events.
    pub number: Option<u64>,
    /// The data: JSON, or [`DONE`].
    pub data: String,
}

impl Frame {
    /// Creates a frame without a name and a number.
    #[must_use]
    pub const fn unnamed(data: String) -> Self {
        Self { event: None, number: None, data }
    }

    /// Appends the frame to `out` as a server-sent event: the line `event:` if it has a name, a line `data:` per line of its data, and
    /// an empty line. Lines end with LF alone, and a space follows the colon, because some clients need exactly that.
    pub fn write_to(&self, out: &mut String) {
        if let Some(event) = self.event {
            // Writing to a string never fails.
            let _ = writeln!(out, "event: {event}");
        }
        for line in self.data.split('\n') {
            out.push_str("data: ");
            out.push_str(line);
            out.push('\n');
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(event: Option<&'static str>, data: &str) -> String {
        let mut out = String::new();
        Frame { event, number: None, data: data.to_owned() }.write_to(&mut out);
        out
    }

    #[test]
    fn events_are_lines_that_end_with_an_empty_one() {
        assert_eq!(written(None, "{\"a\":1}"), "data: {\"a\":1}\n\n");
        assert_eq!(written(Some("error"), "{}"), "event: error\ndata: {}\n\n");
        assert_eq!(written(None, DONE), "data: [DONE]\n\n");
        assert_eq!(written(None, ""), "data: \n\n");
        assert_eq!(written(None, "a\nb"), "data: a\ndata: b\n\n");
    }
}
