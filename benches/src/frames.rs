//! Cuts what a server sent into WebSocket frames where it lies, and keeps what is cut off by the end of a read.
//! It copies no whole frame, and takes neither masked nor fragmented ones, which no gateway here sends.

use anyhow::bail;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text,
    Close,
    Ping,
    Other,
}

/// The beginning of a frame whose end has not come yet: empty as a rule.
#[derive(Debug, Default)]
pub(crate) struct Carry(Vec<u8>);

impl Carry {
    /// Shows every whole frame of what was kept and `bytes`, in order, to `take`; keeps the rest.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(Opcode, &[u8])) -> anyhow::Result<()> {
        if self.0.is_empty() {
            let used = cut(bytes, &mut take)?;
            self.0.extend_from_slice(&bytes[used..]);
        } else {
            self.0.extend_from_slice(bytes);
            let used = cut(&self.0, &mut take)?;
            self.0.drain(..used);
        }
        Ok(())
    }
}

/// Shows every whole frame; how many bytes they took.
fn cut(bytes: &[u8], take: &mut impl FnMut(Opcode, &[u8])) -> anyhow::Result<usize> {
    let mut at = 0;
    while let Some((header, length)) = header(&bytes[at..])? {
        let Some(payload) = bytes.get(at + header..at + header + length) else { break };
        take(opcode(bytes[at]), payload);
        at += header + length;
    }
    Ok(at)
}

/// Lengths of the header and the payload, if the header is there.
fn header(bytes: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    if first & 0x80 == 0 || second & 0x80 != 0 {
        bail!("a frame that begins with {first:#04x} {second:#04x} is fragmented or masked");
    }
    Ok(match (second, rest) {
        (126, [a, b, ..]) => Some((4, usize::from(u16::from_be_bytes([*a, *b])))),
        (127, [0, 0, 0, 0, a, b, c, d, ..]) => Some((10, u32::from_be_bytes([*a, *b, *c, *d]) as usize)),
        (127, [_, _, _, _, _, _, _, _, ..]) => bail!("a frame is longer than 4 GiB"),
        (126 | 127, _) => None,
        (short, _) => Some((2, usize::from(short))),
    })
}

const fn opcode(first: u8) -> Opcode {
    match first & 0x0f {
        1 => Opcode::Text,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        _ => Opcode::Other,
    }
}

/// A client's answer to a ping: the same payload, masked with zeros.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    let length = payload.len().min(125);
    let mut frame = vec![0x8a, 0x80 | length as u8, 0, 0, 0, 0];
    frame.extend_from_slice(&payload[..length]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::{
        Message, WebSocket,
        protocol::{
            Role,
            frame::Frame,
            frame::coding::{Data, OpCode},
        },
    };

    fn wire(texts: &[String]) -> Vec<u8> {
        let mut wire = Vec::new();
        for text in texts {
            let frame = Frame::message(text.clone().into_bytes(), OpCode::Data(Data::Text), true);
            frame.format(&mut wire).unwrap();
        }
        wire
    }

    proptest! {
        /// However the stream is cut into reads, the frames are those that tungstenite wrote.
        #[test]
        fn frames_come_whole_however_they_are_read(
            lengths in prop::collection::vec(prop_oneof![0usize..200, 60_000usize..70_000], 1..6), size in 1usize..3_000,
        ) {
            let texts: Vec<String> = lengths.iter().map(|&length| "x".repeat(length)).collect();
            let (mut carry, mut seen) = (Carry::default(), Vec::new());
            for read in wire(&texts).chunks(size) {
                carry.feed(read, |opcode, payload| seen.push((opcode, payload.len()))).unwrap();
            }
            let expected: Vec<_> = lengths.iter().map(|&length| (Opcode::Text, length)).collect();
            prop_assert_eq!(seen, expected);
            prop_assert!(carry.0.is_empty());
        }
    }

    #[test]
    fn what_no_gateway_sends_is_an_error() {
        for bytes in [[0x01, 0x00], [0x81, 0x80]] {
            assert!(Carry::default().feed(&bytes, |_, _| ()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_server_reads_the_pong() {
        let frame = std::io::Cursor::new(pong(b"1234"));
        let message = WebSocket::from_raw_socket(frame, Role::Server, None).read().unwrap();
        assert_eq!(message, Message::Pong(b"1234".to_vec().into()));
    }
}
