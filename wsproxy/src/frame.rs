//! Encodes the frames that the gateway sends: unmasked and unfragmented. Header and payload are separate, so that a payload is not
//! copied for its header. `decoder` reads the frames of clients.

use protocol::CloseReason;

/// The first byte of a frame: its type with the final bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A complete text message.
    Text = 0x81,
    /// A close frame.
    Close = 0x88,
    /// A ping, which the peer answers with a pong.
    Ping = 0x89,
    /// The answer to a ping.
    Pong = 0x8a,
}

/// The longest payload of a control frame, in bytes.
const MAX_CONTROL_PAYLOAD: usize = 125;

/// A frame's header: 2, 4 or 10 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; 10],
    len: usize,
}

impl Header {
    /// Encodes the header of a frame with `payload` bytes.
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

    /// Returns the encoded header.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Encodes a close frame's payload: the code, then the text, cut to what a control frame can hold.
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

    /// Returns the message that a client reads from these bytes.
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
