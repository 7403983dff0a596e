//! Encodes the frames that the gateway sends by itself: unmasked, unfragmented, header and payload apart so that a
//! payload is never copied for its header. What a client sends, `decoder` reads.

use protocol::CloseReason;

/// What a frame is, with the final bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A whole text message.
    Text = 0x81,
    /// The end of the conversation.
    Close = 0x88,
    /// Wants a pong.
    Ping = 0x89,
    /// Answers a ping.
    Pong = 0x8a,
}

/// The longest payload of a control frame.
const MAX_CONTROL_PAYLOAD: usize = 125;

/// A frame's header: 2, 4 or 10 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; 10],
    len: usize,
}

impl Header {
    /// The header before `payload` bytes.
    #[must_use]
    pub fn new(opcode: Opcode, payload: usize) -> Self {
        let mut bytes = [0; 10];
        bytes[0] = opcode as u8;
        let len = match (u8::try_from(payload), u16::try_from(payload)) {
            (Ok(short @ 0..=125), _) => {
                bytes[1] = short;
                2
            }
            (_, Ok(medium)) => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&medium.to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..].copy_from_slice(&(payload as u64).to_be_bytes());
                10
            }
        };
        Self { bytes, len }
    }

    /// What goes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A close frame's payload: the code, then the text, cut at what a control frame holds.
pub(crate) fn close_payload(reason: CloseReason, text: &str) -> Vec<u8> {
    let mut payload = reason.code().to_be_bytes().to_vec();
    let mut end = text.len().min(MAX_CONTROL_PAYLOAD - payload.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    payload.extend_from_slice(&text.as_bytes()[..end]);
    payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::{Message, WebSocket, protocol::Role};

    /// What a client reads out of these bytes.
    fn read(wire: Vec<u8>) -> Message {
        WebSocket::from_raw_socket(std::io::Cursor::new(wire), Role::Client, None).read().unwrap()
    }

    #[test]
    fn every_length_has_its_header() {
        for (payload, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            assert_eq!(Header::new(Opcode::Text, payload).as_bytes().len(), header, "{payload}");
        }
    }

    #[test]
    fn a_client_reads_a_close_frame() {
        for reason in CloseReason::ALL {
            let payload = close_payload(reason, &"ä".repeat(100));
            assert!(payload.len() <= MAX_CONTROL_PAYLOAD);
            let mut wire = Header::new(Opcode::Close, payload.len()).as_bytes().to_vec();
            wire.extend_from_slice(&payload);
            let Message::Close(Some(frame)) = read(wire) else { panic!("no close frame") };
            assert_eq!(u16::from(frame.code), reason.code());
        }
    }

    proptest! {
        #[test]
        fn a_client_reads_a_text_frame(text in ".{0,200}", repeat in 1usize..700) {
            let text = text.repeat(repeat);
            let mut wire = Header::new(Opcode::Text, text.len()).as_bytes().to_vec();
            wire.extend_from_slice(text.as_bytes());
            prop_assert_eq!(read(wire), Message::text(text));
        }
    }
}
