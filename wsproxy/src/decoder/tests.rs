use super::*;
use guard::Budget;
use prometheus_client::metrics::gauge::Gauge;
use proptest::prelude::*;
use std::io::{self, Cursor, Read, Write};
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket,
    error::ProtocolError,
    protocol::{Role, WebSocketConfig},
};

const MAX: usize = 3000;
const PLENTY: usize = 1 << 20;

fn decoder(budget: usize) -> (Decoder, Gauge) {
    let taken = Gauge::default();
    (Decoder::new(MAX, Room::new(Budget::new(budget, taken.clone()))), taken)
}

/// A masked frame with this first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut wire = vec![first];
    match payload.len() {
        short @ 0..=125 => wire.push(0x80 | short as u8),
        long => {
            wire.push(0x80 | 126);
            wire.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    let mask = [7, 99, 0, 200];
    wire.extend_from_slice(&mask);
    wire.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    wire
}

/// Everything that comes of `wire` when it arrives in pieces of these lengths, and then at once.
fn read(decoder: &mut Decoder, wire: &[u8], pieces: &[usize]) -> Result<Vec<Item>, CloseReason> {
    let mut items = Vec::new();
    let mut rest = wire;
    for piece in pieces.iter().copied().chain([wire.len()]) {
        let (mut input, after) = rest.split_at(piece.min(rest.len()));
        rest = after;
        // A part of it is read directly, as from a socket.
        if let Some(space) = decoder.space(2) {
            let count = space.len().min(input.len());
            space[..count].copy_from_slice(&input[..count]);
            input = &input[count..];
            decoder.read_direct(count);
        }
        while let Some(item) = decoder.next(&mut input)? {
            items.push(item);
            decoder.settle();
        }
        assert!(input.is_empty(), "all was read");
    }
    Ok(items)
}

fn whole(wire: &[u8]) -> Result<Vec<Item>, CloseReason> {
    read(&mut decoder(PLENTY).0, wire, &[])
}

#[test]
fn messages_of_one_frame_and_of_several_are_read() {
    let wire = [
        frame(0x81, b"{}"),
        frame(0x01, b"{\"a\":"),
        frame(0x89, b"between"),
        frame(0x00, b""),
        frame(0x80, b"1}"),
        frame(0x8a, b""),
        frame(0x88, &[3, 232, b'x']),
    ]
    .concat();
    let expected = [
        Item::Text("{}".into()),
        Item::Ping(b"between".into()),
        Item::Text("{\"a\":1}".into()),
        Item::Pong,
        Item::Close(vec![3, 232, b'x']),
    ];
    for piece in [1, 2, 7, 1000] {
        let (mut decoder, taken) = decoder(PLENTY);
        let items = read(&mut decoder, &wire, &vec![piece; wire.len()]).unwrap();
        assert_eq!(items, expected, "pieces of {piece}");
        assert!(!decoder.is_unfinished() && taken.get() == 0);
        assert_eq!((decoder.message.capacity(), decoder.control.capacity()), (0, 0), "it holds nothing");
    }
}

#[test]
fn frames_that_break_a_rule_are_refused() {
    use CloseReason::{BadUtf8, Binary, Protocol, TooLarge};
    let endless = vec![0x81, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4];
    for (what, wire, reason) in [
        ("a reserved bit", frame(0xc1, b"{}"), Protocol),
        ("a reserved opcode", frame(0x83, b""), Protocol),
        ("a reserved control opcode", frame(0x8b, b""), Protocol),
        ("no mask", vec![0x81, 0x02], Protocol),
        ("a continuation of nothing", frame(0x80, b"{}"), Protocol),
        ("a message inside of one", [frame(0x01, b"{"), frame(0x81, b"{}")].concat(), Protocol),
        ("a ping in parts", frame(0x09, b""), Protocol),
        ("a long ping", frame(0x89, &[0; 126]), Protocol),
        ("half a code", frame(0x88, &[3]), Protocol),
        ("a code that must not be sent", frame(0x88, &[3, 237]), Protocol),
        ("a closing text that is not UTF-8", frame(0x88, &[3, 232, 0xff]), BadUtf8),
        ("a text that is not UTF-8", frame(0x81, b"{\"\xff\"}"), BadUtf8),
        ("binary", frame(0x82, b"{}"), Binary),
        ("too long", frame(0x81, &[b'x'; MAX + 1]), TooLarge),
        ("too long in parts", [frame(0x01, &[b'x'; MAX]), frame(0x80, b"x")].concat(), TooLarge),
        ("as long as can be", endless, TooLarge),
    ] {
        assert_eq!(whole(&wire), Err(reason), "{what}");
    }
    assert_eq!(whole(&frame(0x81, &[b'x'; MAX])), Ok(vec![Item::Text("x".repeat(MAX))]));
}

#[test]
fn a_header_takes_no_memory_and_a_payload_as_much_as_arrived() {
    let (mut decoder, taken) = decoder(PLENTY);
    let wire = frame(0x81, &[b'x'; MAX]);
    let mut taken_bytes = Vec::new();
    for byte in &wire {
        let mut input = std::slice::from_ref(byte);
        let item = decoder.next(&mut input).unwrap();
        assert!(item.is_some() || decoder.is_unfinished());
        taken_bytes.push(taken.get() as usize);
    }
    assert_eq!(
        (taken_bytes[7], taken_bytes[8], taken_bytes[8 + 512], taken_bytes[8 + 1024]),
        (0, 512, 1024, 2048)
    );
    assert_eq!(*taken_bytes.last().unwrap(), MAX, "until the message has been dealt with");
    decoder.settle();
    assert_eq!(taken.get(), 0);
}

#[test]
fn a_message_without_room_is_dropped_and_the_next_one_is_read() {
    let (mut decoder, taken) = decoder(1000);
    let wire = [frame(0x01, &[b'x'; 900]), frame(0x80, &[b'x'; 900]), frame(0x81, b"{}")].concat();
    for piece in [1, 100, 5000] {
        let items = read(&mut decoder, &wire, &vec![piece; wire.len()]);
        assert_eq!(items, Ok(vec![Item::NoRoom, Item::Text("{}".into())]), "pieces of {piece}");
        assert_eq!(taken.get(), 0);
    }
    let endless = [frame(0x01, &[b'x'; 2000]), frame(0x00, &[b'x'; 2000])].concat();
    assert_eq!(read(&mut decoder, &endless, &[]), Err(CloseReason::TooLarge), "also while it is thrown away");
}

#[test]
fn an_unfinished_message_keeps_its_bytes_until_its_socket_ends() {
    let (mut decoder, taken) = decoder(PLENTY);
    let wire = [frame(0x01, &[b'x'; 2000]), frame(0x8a, b"")].concat();
    assert_eq!(read(&mut decoder, &wire, &[100; 30]), Ok(vec![Item::Pong]));
    assert!(decoder.is_unfinished() && taken.get() == 2000);
    drop(decoder);
    assert_eq!(taken.get(), 0);
}

/// Bytes to read; what is written is forgotten.
struct Wire(Cursor<Vec<u8>>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite makes of the same bytes, and whether it found a rule broken.
fn reference(wire: &[u8]) -> (Vec<Item>, bool) {
    let config = WebSocketConfig::default().max_message_size(Some(MAX)).max_frame_size(Some(MAX));
    let mut socket = WebSocket::from_raw_socket(Wire(Cursor::new(wire.to_vec())), Role::Server, Some(config));
    let mut items = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => items.push(Item::Text(text.as_str().into())),
            Ok(Message::Ping(payload)) => items.push(Item::Ping(payload.into())),
            Ok(Message::Pong(_)) => items.push(Item::Pong),
            Ok(other) => panic!("not sent here: {other:?}"),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return (items, false),
            Err(_) => return (items, true),
        }
    }
}

/// Mostly frames that fit together; binary messages and closes are answered otherwise.
fn first_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        8 => Just(0x81),
        4 => Just(0x01),
        4 => Just(0x00),
        4 => Just(0x80),
        2 => Just(0x89),
        1 => Just(0x8a),
        1 => any::<u8>().prop_filter("not compared", |first| !matches!(first & 0x0f, 2 | 8)),
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[ -~ä]{0,40}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..300),
        1 => (100usize..1500).prop_map(|len| vec![b'x'; len]),
    ]
}

proptest! {
    /// Frames of all kinds, well formed or not, in any pieces: the same messages as tungstenite reads.
    #[test]
    fn tungstenite_reads_the_same(
        frames in proptest::collection::vec((first_byte(), payload()), 0..12),
        pieces in proptest::collection::vec(1usize..600, 0..40),
    ) {
        let wire: Vec<u8> = frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect();
        let (expected, broken) = reference(&wire);
        let (mut decoder, _) = decoder(PLENTY);
        match read(&mut decoder, &wire, &pieces) {
            // It looks at a text's UTF-8 before the message is whole.
            Ok(items) if broken => prop_assert!(items.starts_with(&expected) && decoder.is_unfinished()),
            Ok(items) => prop_assert_eq!(items, expected),
            Err(reason) => prop_assert!(broken, "{:?} where tungstenite reads on: {:?}", reason, expected),
        }
    }

    #[test]
    fn no_bytes_panic(
        wire in proptest::collection::vec(any::<u8>(), 0..400),
        pieces in proptest::collection::vec(1usize..50, 0..40),
    ) {
        let _ = read(&mut decoder(800).0, &wire, &pieces);
    }
}
