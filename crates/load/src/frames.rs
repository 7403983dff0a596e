//! WebSocket frames of a client (RFC 6455, section 5): decodes what a server sent, and encodes control frames.
//! Messages are decoded in place; only a frame that two reads split is copied. Nothing here reads a socket.

use rand::RngExt;

/// Upper limit of a message in bytes.
const MAX_MESSAGE: usize = 16 << 20;
/// Upper limit of a control frame's payload in bytes.
const MAX_CONTROL_PAYLOAD: usize = 125;

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

mod opcode {
    pub(super) const CONTINUATION: u8 = 0x0;
    pub(super) const TEXT: u8 = 0x1;
    pub(super) const BINARY: u8 = 0x2;
    pub(super) const CLOSE: u8 = 0x8;
    pub(super) const PING: u8 = 0x9;
    pub(super) const PONG: u8 = 0xa;
}

/// A message or control frame from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A complete text message.
    Text(&'a str),
    /// A ping, to be answered by [`encode_pong`] with the same payload.
    Ping(&'a [u8]),
    /// The close frame: its code, if it has one, and its text.
    Close(Option<u16>, &'a str),
    /// A complete binary message.
    Binary(&'a [u8]),
    /// A pong.
    Pong,
}

/// A violation of the protocol by the server. Nothing more can be read from the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum BadFrame {
    #[error("a server's frame is masked")]
    Masked,
    #[error("a frame has reserved bits set, and no extension was agreed on")]
    Reserved,
    #[error("a frame has the unknown opcode {0:#x}")]
    Unknown(u8),
    #[error("a control frame is fragmented or longer than {MAX_CONTROL_PAYLOAD} bytes")]
    Control,
    #[error("a message starts inside another one, or a continuation frame has no start")]
    Fragments,
    #[error("a message has more than {MAX_MESSAGE} bytes")]
    TooLong,
    #[error("a text message is not UTF-8")]
    NotText,
    #[error("a close frame has an incomplete code")]
    Close,
}

/// Decodes a stream of frames. Between two reads it usually keeps no bytes.
#[derive(Debug, Default)]
pub struct Frames {
    /// The bytes of a frame whose end has not arrived.
    incomplete: Vec<u8>,
    message: PartialMessage,
}

/// The state between two frames.
#[derive(Debug, Default)]
struct PartialMessage {
    /// The fragments of a message so far, and whether it is a text message.
    fragments: Option<(bool, Vec<u8>)>,
    /// The close frame arrived.
    closed: bool,
}

impl Frames {
    /// Calls `take` with each message that `bytes` complete, in order, and keeps an incomplete frame. Bytes after a close frame
    /// are ignored. The second argument of `take` is true if the message ends with the last byte of `bytes`.
    ///
    /// # Errors
    /// The first violation of the protocol. `take` was called with the messages before it.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(Message<'_>, bool),
    ) -> Result<(), BadFrame> {
        while !self.incomplete.is_empty() && !bytes.is_empty() {
            // Reads the header byte by byte, because its length depends on its second byte, then the payload at once.
            let have = self.incomplete.len();
            let missing =
                Header::read(&self.incomplete)?.map_or(1, |header| header.length + header.payload - have);
            let (more, rest) = bytes.split_at(missing.min(bytes.len()));
            self.incomplete.extend_from_slice(more);
            bytes = rest;
            let is_end = bytes.is_empty();
            if cut(&self.incomplete, &mut self.message, &mut |message, ends| take(message, ends && is_end))?
                > 0
            {
                self.incomplete = Vec::new();
            }
        }
        let used = cut(bytes, &mut self.message, &mut take)?;
        self.incomplete.extend_from_slice(&bytes[used..]);
        Ok(())
    }
}

/// Calls `take` with each message that ends in `bytes`. Returns how many bytes the complete frames have.
fn cut(
    bytes: &[u8],
    PartialMessage { fragments, closed }: &mut PartialMessage,
    take: &mut impl FnMut(Message<'_>, bool),
) -> Result<usize, BadFrame> {
    if *closed {
        return Ok(bytes.len());
    }
    let mut at = 0;
    while let Some(header) = Header::read(&bytes[at..])? {
        let Some(payload) = bytes.get(at + header.length..at + header.length + header.payload) else { break };
        at += header.length + header.payload;
        let ends = at == bytes.len();
        match (header.opcode, fragments.take()) {
            (opcode::CLOSE, _) => {
                take(close(payload)?, ends);
                *closed = true;
                return Ok(bytes.len());
            }
            (opcode::PING, before) => {
                *fragments = before;
                take(Message::Ping(payload), ends);
            }
            (opcode::PONG, before) => {
                *fragments = before;
                take(Message::Pong, ends);
            }
            (opcode::CONTINUATION, Some((is_text, mut message))) => {
                if message.len() + payload.len() > MAX_MESSAGE {
                    return Err(BadFrame::TooLong);
                }
                message.extend_from_slice(payload);
                if header.is_final {
                    take(whole(is_text, &message)?, ends);
                } else {
                    *fragments = Some((is_text, message));
                }
            }
            (opcode::TEXT | opcode::BINARY, None) => {
                let is_text = header.opcode == opcode::TEXT;
                if header.is_final {
                    take(whole(is_text, payload)?, ends);
                } else {
                    *fragments = Some((is_text, payload.to_vec()));
                }
            }
            _ => return Err(BadFrame::Fragments),
        }
    }
    Ok(at)
}

/// Returns a complete message.
fn whole(is_text: bool, message: &[u8]) -> Result<Message<'_>, BadFrame> {
    if !is_text {
        return Ok(Message::Binary(message));
    }
    std::str::from_utf8(message).map(Message::Text).map_err(|_| BadFrame::NotText)
}

/// Reads the payload of a close frame.
fn close(payload: &[u8]) -> Result<Message<'_>, BadFrame> {
    match payload {
        [] => Ok(Message::Close(None, "")),
        &[high, low, ref text @ ..] => {
            let text = std::str::from_utf8(text).map_err(|_| BadFrame::NotText)?;
            Ok(Message::Close(Some(u16::from_be_bytes([high, low])), text))
        }
        [_] => Err(BadFrame::Close),
    }
}

/// The header of a frame.
struct Header {
    opcode: u8,
    is_final: bool,
    /// Length of the header in bytes.
    length: usize,
    /// Length of the payload in bytes.
    payload: usize,
}

impl Header {
    /// Reads the header at the start of `bytes`. `None` if it is incomplete.
    fn read(bytes: &[u8]) -> Result<Option<Self>, BadFrame> {
        let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
        let (opcode, is_final) = (first & 0x0f, first & FINAL != 0);
        let is_control = opcode & 0x8 != 0;
        if first & RESERVED != 0 {
            return Err(BadFrame::Reserved);
        }
        if second & MASKED != 0 {
            return Err(BadFrame::Masked);
        }
        if !matches!(opcode, opcode::CONTINUATION..=opcode::BINARY | opcode::CLOSE..=opcode::PONG) {
            return Err(BadFrame::Unknown(opcode));
        }
        if is_control && (!is_final || usize::from(second) > MAX_CONTROL_PAYLOAD) {
            return Err(BadFrame::Control);
        }
        let (length, payload) = match (second, rest) {
            (126, &[a, b, ..]) => (4, u64::from(u16::from_be_bytes([a, b]))),
            (127, &[a, b, c, d, e, f, g, h, ..]) => (10, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            (126 | 127, _) => return Ok(None),
            (short, _) => (2, u64::from(short)),
        };
        match usize::try_from(payload) {
            Ok(payload) if payload <= MAX_MESSAGE => Ok(Some(Self { opcode, is_final, length, payload })),
            _ => Err(BadFrame::TooLong),
        }
    }
}

/// Appends a pong with `payload` to `out`.
pub fn encode_pong(out: &mut Vec<u8>, payload: &[u8]) {
    control(out, opcode::PONG, payload);
}

/// Appends a close frame, with `code` if there is one, to `out`.
pub fn encode_close(out: &mut Vec<u8>, code: Option<u16>) {
    match code {
        Some(code) => control(out, opcode::CLOSE, &code.to_be_bytes()),
        None => control(out, opcode::CLOSE, &[]),
    }
}

/// Appends a text message to `out`.
pub fn encode_text(out: &mut Vec<u8>, text: &[u8]) {
    let mask: [u8; 4] = rand::rng().random();
    out.push(FINAL | opcode::TEXT);
    #[allow(clippy::cast_possible_truncation, reason = "each length fits the bytes that are chosen for it")]
    match text.len() {
        short @ ..126 => out.push(MASKED | short as u8),
        middle @ ..0x1_0000 => {
            out.push(MASKED | 126);
            out.extend((middle as u16).to_be_bytes());
        }
        long => {
            out.push(MASKED | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(text.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Appends a control frame to `out`. It is masked, as all frames of a client must be.
fn control(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let payload = &payload[..payload.len().min(MAX_CONTROL_PAYLOAD)];
    let mask: [u8; 4] = rand::rng().random();
    #[allow(clippy::cast_possible_truncation, reason = "a control frame's payload has 125 bytes at most")]
    out.extend_from_slice(&[FINAL | opcode, MASKED | payload.len() as u8]);
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;
    use tokio_tungstenite::tungstenite::{
        self, WebSocket,
        protocol::{
            Role,
            frame::{
                Frame,
                coding::{Data, OpCode},
            },
        },
    };

    /// Generates a message and the lengths of its fragments.
    fn message() -> impl Strategy<Value = (String, Vec<usize>)> {
        let text = prop_oneof![".{0,60}", ".{100,200}".prop_map(|text: String| text.repeat(600))];
        (text, prop::collection::vec(0usize..200, 0..3))
    }

    /// Encodes messages as a server does, with pings between the fragments.
    fn wire(messages: &[(String, Vec<usize>)]) -> Vec<u8> {
        let mut wire = Vec::new();
        for (text, cuts) in messages {
            let (mut rest, mut opcode) = (text.as_bytes(), OpCode::Data(Data::Text));
            for &cut in cuts {
                let (fragment, behind) = rest.split_at(cut.min(rest.len()));
                Frame::message(fragment.to_vec(), opcode, false).format(&mut wire).unwrap();
                Frame::ping(b"?".to_vec()).format(&mut wire).unwrap();
                (rest, opcode) = (behind, OpCode::Data(Data::Continue));
            }
            Frame::message(rest.to_vec(), opcode, true).format(&mut wire).unwrap();
        }
        wire
    }

    fn fed(frames: &mut Frames, bytes: &[u8]) -> Result<Vec<String>, BadFrame> {
        let mut seen = Vec::new();
        frames.feed(bytes, |message, _| seen.push(format!("{message:?}")))?;
        Ok(seen)
    }

    proptest! {
        /// The decoded messages do not depend on how the stream is divided into reads and fragments.
        #[test]
        fn messages_are_complete_for_every_division_into_reads(
            messages in prop::collection::vec(message(), 1..5), size in 1usize..3_000,
        ) {
            let (mut frames, mut texts, mut pings) = (Frames::default(), Vec::new(), 0);
            for read in wire(&messages).chunks(size) {
                frames
                    .feed(read, |message, _| match message {
                        Message::Text(text) => texts.push(text.to_owned()),
                        Message::Ping(payload) => pings += usize::from(payload == b"?"),
                        other => panic!("{other:?}"),
                    })
                    .unwrap();
            }
            prop_assert_eq!(pings, messages.iter().map(|(_, cuts)| cuts.len()).sum::<usize>());
            prop_assert_eq!(texts, messages.into_iter().map(|(text, _)| text).collect::<Vec<_>>());
            prop_assert!(frames.incomplete.is_empty() && frames.message.fragments.is_none());
        }

        #[test]
        fn nothing_panics_on_noise(reads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8)) {
            let mut frames = Frames::default();
            for read in reads {
                if frames.feed(&read, |_, _| ()).is_err() {
                    break;
                }
            }
        }

        #[test]
        fn a_server_reads_what_a_client_sends(payload in prop::collection::vec(any::<u8>(), 0..=125), code in 3000u16..5000) {
            let mut wire = Vec::new();
            encode_pong(&mut wire, &payload);
            encode_close(&mut wire, Some(code));
            let mut server = WebSocket::from_raw_socket(Cursor::new(wire), Role::Server, None);
            prop_assert_eq!(server.read().unwrap(), tungstenite::Message::Pong(payload.into()));
            let tungstenite::Message::Close(Some(frame)) = server.read().unwrap() else { panic!("no close frame") };
            prop_assert_eq!(u16::from(frame.code), code);
        }
    }

    #[test]
    fn nothing_is_read_after_a_close_frame() {
        let mut wire = vec![0x88, 6, 0x0f, 0xa2];
        wire.extend_from_slice(b"slow\x81\x01x");
        assert_eq!(fed(&mut Frames::default(), &wire), Ok(vec![r#"Close(Some(4002), "slow")"#.to_owned()]));
        assert_eq!(fed(&mut Frames::default(), &[0x88, 0]), Ok(vec![r#"Close(None, "")"#.to_owned()]));
    }

    #[test]
    fn violations_of_the_protocol_are_named() {
        let long = [0x82, 127, 0, 0, 0, 0, 1, 0, 0, 1];
        for (wire, fault) in [
            (&[0x81, 0x80][..], BadFrame::Masked),
            (&[0xc1, 0x00], BadFrame::Reserved),
            (&[0x83, 0x00], BadFrame::Unknown(3)),
            (&[0x09, 0x00], BadFrame::Control),
            (&[0x89, 126, 0, 126], BadFrame::Control),
            (&[0x80, 0x00], BadFrame::Fragments),
            (&[0x01, 0x00, 0x81, 0x00], BadFrame::Fragments),
            (&[0x81, 0x01, 0xff], BadFrame::NotText),
            (&[0x88, 0x01, 0x03], BadFrame::Close),
            (&long, BadFrame::TooLong),
        ] {
            assert_eq!(fed(&mut Frames::default(), wire), Err(fault), "{wire:?}");
        }
    }
}
