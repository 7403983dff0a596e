//! A WebSocket's frames as a client has them (RFC 6455, section 5): what a server sent is cut into messages where it lies, and
//! what a client sends by itself is encoded. It opens nothing, reads nothing, and copies only what a read cut in two.

use rand::RngExt;

/// A message longer than this is refused.
const MAX_MESSAGE: usize = 16 << 20;
/// The longest payload of a control frame.
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

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A whole text message.
    Text(&'a str),
    /// Wants [`pong`] with the same payload.
    Ping(&'a [u8]),
    /// The peer's last frame: its code, where it gave one, and its text.
    Close(Option<u16>, &'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A pong.
    Pong,
}

/// The peer broke the protocol; nothing more can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says it itself")]
pub enum BadFrame {
    #[error("a server's frame is masked")]
    Masked,
    #[error("a frame has reserved bits set, and no extension was agreed on")]
    Reserved,
    #[error("a frame is of the unknown kind {0:#x}")]
    Unknown(u8),
    #[error("a control frame is fragmented or longer than {MAX_CONTROL_PAYLOAD} bytes")]
    Control,
    #[error("a message begins inside another one, or goes on that never began")]
    Fragments,
    #[error("a message has more than {MAX_MESSAGE} bytes")]
    TooLong,
    #[error("a text is no UTF-8")]
    NotText,
    #[error("a close frame has half a code")]
    Close,
}

/// What is kept of a stream of frames between two reads: nothing as a rule.
#[derive(Debug, Default)]
pub struct Frames {
    /// The beginning of a frame whose end has not come.
    cut_off: Vec<u8>,
    message: Unfinished,
}

/// How far messages are.
#[derive(Debug, Default)]
struct Unfinished {
    /// The fragments of a message so far, and whether it is a text.
    fragments: Option<(bool, Vec<u8>)>,
    /// The close frame came.
    closed: bool,
}

impl Frames {
    /// Shows every message that `bytes` complete to `take`, in order, and keeps the rest. Nothing is read behind a close frame.
    /// `take` also learns whether the message ends where `bytes` end: then it arrived with their last byte.
    ///
    /// # Errors
    /// The first fault; what came before it was shown.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(Message<'_>, bool),
    ) -> Result<(), BadFrame> {
        while !self.cut_off.is_empty() && !bytes.is_empty() {
            // The header byte by byte, then all that it promises.
            let have = self.cut_off.len();
            let missing =
                Header::read(&self.cut_off)?.map_or(1, |header| header.length + header.payload - have);
            let (more, rest) = bytes.split_at(missing.min(bytes.len()));
            self.cut_off.extend_from_slice(more);
            bytes = rest;
            let is_end = bytes.is_empty();
            if cut(&self.cut_off, &mut self.message, &mut |message, ends| take(message, ends && is_end))? > 0
            {
                self.cut_off = Vec::new();
            }
        }
        let used = cut(bytes, &mut self.message, &mut take)?;
        self.cut_off.extend_from_slice(&bytes[used..]);
        Ok(())
    }
}

/// Shows every message that ends in `bytes`; how many of them its frames took.
fn cut(
    bytes: &[u8],
    Unfinished { fragments, closed }: &mut Unfinished,
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

fn whole(is_text: bool, message: &[u8]) -> Result<Message<'_>, BadFrame> {
    if !is_text {
        return Ok(Message::Binary(message));
    }
    std::str::from_utf8(message).map(Message::Text).map_err(|_| BadFrame::NotText)
}

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

struct Header {
    opcode: u8,
    is_final: bool,
    /// Bytes of the header itself.
    length: usize,
    /// Bytes behind it.
    payload: usize,
}

impl Header {
    /// The header at the beginning of `bytes`, if all of it is there.
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

/// Writes the answer to a ping behind what `out` holds.
pub fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    control(out, opcode::PONG, payload);
}

/// Writes a close frame, without a code where there is none to give, behind what `out` holds.
pub fn farewell(out: &mut Vec<u8>, code: Option<u16>) {
    match code {
        Some(code) => control(out, opcode::CLOSE, &code.to_be_bytes()),
        None => control(out, opcode::CLOSE, &[]),
    }
}

/// A control frame, masked as every frame of a client is.
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

    /// A message, and the lengths of the fragments that it comes in.
    fn message() -> impl Strategy<Value = (String, Vec<usize>)> {
        let text = prop_oneof![".{0,60}", ".{100,200}".prop_map(|text: String| text.repeat(600))];
        (text, prop::collection::vec(0usize..200, 0..3))
    }

    /// What a server writes, by tungstenite: pings between the fragments, as they may come.
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
        /// However the stream is cut into reads and fragments, the messages are those that were sent.
        #[test]
        fn messages_come_whole_however_they_are_read(
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
            prop_assert!(frames.cut_off.is_empty() && frames.message.fragments.is_none());
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
            pong(&mut wire, &payload);
            farewell(&mut wire, Some(code));
            let mut server = WebSocket::from_raw_socket(Cursor::new(wire), Role::Server, None);
            prop_assert_eq!(server.read().unwrap(), tungstenite::Message::Pong(payload.into()));
            let tungstenite::Message::Close(Some(frame)) = server.read().unwrap() else { panic!("no close frame") };
            prop_assert_eq!(u16::from(frame.code), code);
        }
    }

    #[test]
    fn a_close_frame_is_the_last_thing_that_is_read() {
        let mut wire = vec![0x88, 6, 0x0f, 0xa2];
        wire.extend_from_slice(b"slow\x81\x01x");
        assert_eq!(fed(&mut Frames::default(), &wire), Ok(vec![r#"Close(Some(4002), "slow")"#.to_owned()]));
        assert_eq!(fed(&mut Frames::default(), &[0x88, 0]), Ok(vec![r#"Close(None, "")"#.to_owned()]));
    }

    #[test]
    fn what_breaks_the_protocol_is_named() {
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
