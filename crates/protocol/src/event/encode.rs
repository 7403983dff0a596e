//! Encodes events and the gateway's own frames. `id` and `type` come first, times last.
//!
//! All functions with an `out` append to it. Times are microseconds of `CLOCK_MONOTONIC`.

use crate::{Digest, Position};
use std::io::Write;

/// Writes a token's frame.
pub fn encode_token(
    out: &mut Vec<u8>,
    position: Position,
    content: &str,
    query_id: &str,
    due_us: u64,
    sent_us: u64,
) {
    // Room for all, so that a new vector grows once.
    out.reserve(content.len() + query_id.len() + 160);
    open(out, position, "token");
    close_answer(out, content, query_id, due_us, sent_us);
}

/// Writes the frame that ends an answer, without a digest.
pub fn encode_done(out: &mut Vec<u8>, position: Position, query_id: &str, due_us: u64, sent_us: u64) {
    open(out, position, "done");
    close_answer(out, "", query_id, due_us, sent_us);
}

/// Writes the frame that ends an answer with the digest of the tokens that were sent.
pub fn encode_verified_done(
    out: &mut Vec<u8>,
    position: Position,
    digest: Digest,
    query_id: &str,
    due_us: u64,
    sent_us: u64,
) {
    open(out, position, "done");
    text(out, format_args!(r#","content":"","digest":"{digest}""#));
    close_event(out, query_id, due_us, sent_us);
}

/// Returns `frame` with the position `to` in place of its position `from`.
#[must_use]
pub fn with_position(frame: &[u8], from: Position, to: Position) -> Vec<u8> {
    let old = format!(r#"{{"id":"{from}""#);
    let rest = frame.strip_prefix(old.as_bytes()).unwrap_or(frame);
    [format!(r#"{{"id":"{to}""#).as_bytes(), rest].concat()
}

/// Writes the frame that ends a failed answer, without a digest. A peer writes it that does not know the tokens sent.
pub fn encode_error(
    out: &mut Vec<u8>,
    position: Position,
    code: &str,
    message: &str,
    query_id: &str,
    due_us: u64,
    sent_us: u64,
) {
    open_error(out, position, code, message);
    close_answer(out, "", query_id, due_us, sent_us);
}

/// Writes the frame that ends a failed answer, with the digest of the tokens that were sent.
#[allow(clippy::too_many_arguments, reason = "a frame has these fields")]
pub fn encode_verified_error(
    out: &mut Vec<u8>,
    position: Position,
    code: &str,
    message: &str,
    digest: Digest,
    query_id: &str,
    due_us: u64,
    sent_us: u64,
) {
    open_error(out, position, code, message);
    text(out, format_args!(r#","content":"","digest":"{digest}""#));
    close_event(out, query_id, due_us, sent_us);
}

fn open_error(out: &mut Vec<u8>, position: Position, code: &str, message: &str) {
    open(out, position, "error");
    out.extend_from_slice(br#","code":"#);
    json_string(out, code);
    out.extend_from_slice(br#","message":"#);
    json_string(out, message);
}

/// Writes the fence of a claim. `prev` is the last position before it, or `None` if that is not known.
pub fn encode_fence(out: &mut Vec<u8>, generation: u64, prev: Option<Position>) {
    open(out, Position::new(generation, 0), "fence");
    match prev {
        Some(prev) => text(out, format_args!(r#","prev":"{prev}"}}"#)),
        None => out.extend_from_slice(br#","prev":null}"#),
    }
}

/// Writes the log entry in place of the lost events after `from`, up to and including `to`.
pub fn encode_gap_entry(out: &mut Vec<u8>, from: Position, to: Position) {
    open(out, to, "gap");
    text(out, format_args!(r#","from":"{from}"}}"#));
}

/// Writes the last log entry of a session that was closed.
pub fn encode_closed(out: &mut Vec<u8>, position: Position) {
    open(out, position, "closed");
    out.push(b'}');
}

/// Returns the gateway's frame that ends a replay: everything up to `to` was sent, and live events follow.
#[must_use]
pub fn encode_resumed(to: Position) -> String {
    format!(r#"{{"type":"resumed","to":"{to}"}}"#)
}

/// Returns the gateway's frame that announces a gap: the events after `from`, up to and including `to`, cannot be delivered.
#[must_use]
pub fn encode_gap(from: Position, to: Position) -> String {
    format!(r#"{{"type":"gap","from":"{from}","to":"{to}"}}"#)
}

/// Writes the first two fields of a frame.
pub(super) fn open(out: &mut Vec<u8>, at: Position, kind: &str) {
    out.extend_from_slice(br#"{"id":""#);
    position(out, at);
    out.extend_from_slice(br#"","type":""#);
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
}

pub(super) fn position(out: &mut Vec<u8>, position: Position) {
    decimal(out, position.generation);
    out.push(b'-');
    decimal(out, position.seq);
}

fn close_answer(out: &mut Vec<u8>, content: &str, query_id: &str, due_us: u64, sent_us: u64) {
    out.extend_from_slice(br#","content":"#);
    json_string(out, content);
    close_event(out, query_id, due_us, sent_us);
}

fn close_event(out: &mut Vec<u8>, query_id: &str, due_us: u64, sent_us: u64) {
    out.extend_from_slice(br#","query_id":"#);
    json_string(out, query_id);
    out.extend_from_slice(br#","due_us":"#);
    decimal(out, due_us);
    out.extend_from_slice(br#","sent_us":"#);
    decimal(out, sent_us);
    out.push(b'}');
}

/// Writes a number. The formatting of the standard library takes several times as long, for every token.
pub(super) fn decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn text(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a vector takes every write");
}

fn json_string(out: &mut Vec<u8>, string: &str) {
    serde_json::to_writer(out, string).expect("a string always encodes");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Kind, Prefix, tests::parsed};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_encoded_token_is_read_back(
            generation: u64, seq: u64, content in ".{0,40}", query_id in ".{0,40}", due_us: u64, sent_us: u64,
        ) {
            let position = Position::new(generation, seq);
            let mut frame = Vec::new();
            encode_token(&mut frame, position, &content, &query_id, due_us, sent_us);
            prop_assert_eq!(Prefix::parse(&frame), Some(Prefix { position, kind: Kind::Token }));
            let event = parsed(&frame);
            prop_assert_eq!(event.position, Some(position));
            prop_assert_eq!(event.content, content);
            prop_assert_eq!(event.query_id.as_deref(), Some(query_id.as_str()));
            prop_assert_eq!((event.due_us, event.sent_us), (Some(due_us), Some(sent_us)));
        }
    }
}
