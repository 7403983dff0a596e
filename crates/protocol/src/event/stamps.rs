//! The gateway's two times in the frames of sampled tokens: when it received the token from the bus, and when it passed the frame to the
//! socket. A client asks for them. A token that is not sampled keeps its frame byte by byte.

use super::encode::decimal;
use crate::{Kind, Prefix};
use std::num::NonZeroU32;

/// The header of the response to an upgrade with `?hops=N` that holds the boot id of the gateway's host: which clock its times come from.
pub const BOOT_ID_HEADER: &str = "streamstress-boot-id";

/// Largest number of tokens from one sampled token to the next that a client may ask for.
pub const MAX_HOPS: u32 = 1_000_000;

/// The name of the second time with its separators. Its digits are the last ones of the frame.
const WRITTEN: &[u8] = br#","write_us":"#;

/// The gateway's times of a token, in microseconds of the gateway's `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayStamps {
    /// When the gateway received the token from the bus (`recv_us`).
    pub received_us: u64,
    /// When the gateway passed the frame to the socket (`write_us`).
    pub written_us: u64,
}

/// The frame of a token with the gateway's times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StampedToken {
    frame: Vec<u8>,
    written_digits: usize,
}

impl StampedToken {
    /// Adds the times to a token's frame. Returns `None` if the frame does not end as a JSON object does.
    #[must_use]
    pub fn new(frame: &[u8], stamps: GatewayStamps) -> Option<Self> {
        let open = frame.strip_suffix(b"}")?;
        let mut out = Vec::with_capacity(frame.len() + 64);
        out.extend_from_slice(open);
        out.extend_from_slice(br#","recv_us":"#);
        decimal(&mut out, stamps.received_us);
        out.extend_from_slice(WRITTEN);
        let before = out.len();
        decimal(&mut out, stamps.written_us);
        let written_digits = out.len() - before;
        out.push(b'}');
        Some(Self { frame: out, written_digits })
    }

    /// Returns the frame's bytes.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Returns the frame's bytes and drops the rest.
    #[must_use]
    pub fn into_frame(self) -> Vec<u8> {
        self.frame
    }

    /// Returns the number of digits of the second time. They end one byte before the end of the frame.
    #[must_use]
    pub const fn written_digits(&self) -> usize {
        self.written_digits
    }
}

/// Returns whether an event is sampled if every `every`-th token is: the first token of a query, and every `every`-th after it.
#[must_use]
pub const fn is_sampled(event: Prefix, every: NonZeroU32) -> bool {
    matches!(event.kind, Kind::Token)
        && event.position.seq > 0
        && (event.position.seq - 1).is_multiple_of(every.get() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Position, event::encode_token};
    use proptest::prelude::*;

    proptest! {
        /// The event of a stamped frame is that of the token, with the times.
        #[test]
        fn a_stamped_frame_is_its_token_with_the_times(
            generation: u64, seq: u64, content in ".{0,20}", received_us: u64, written_us: u64,
        ) {
            let mut frame = Vec::new();
            encode_token(&mut frame, Position::new(generation, seq), &content, "q", 5, 6);
            let stamps = GatewayStamps { received_us, written_us };
            let stamped = StampedToken::new(&frame, stamps).unwrap();
            let bytes = stamped.frame();
            let end = bytes.len() - 1;
            let digits = written_us.to_string();
            prop_assert_eq!(&bytes[end - stamped.written_digits()..end], digits.as_bytes());
            prop_assert_eq!(Prefix::parse(bytes), Prefix::parse(&frame));
            let mut event = crate::event::tests::parsed(bytes);
            prop_assert_eq!(event.stamps.take(), Some(stamps));
            prop_assert_eq!(event, crate::event::tests::parsed(&frame));
        }
    }

    #[test]
    fn the_first_token_and_every_nth_after_it_are_sampled() {
        let sampled = |every, kind| {
            let every = NonZeroU32::new(every).unwrap();
            let prefix = |seq| Prefix { position: Position::new(7, seq), kind };
            (0..=10).filter(|&seq| is_sampled(prefix(seq), every)).collect::<Vec<u64>>()
        };
        assert_eq!(sampled(4, Kind::Token), [1, 5, 9]);
        assert_eq!(sampled(1, Kind::Token), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(sampled(u32::MAX, Kind::Token), [1]);
        assert_eq!(sampled(1, Kind::Done), [] as [u64; 0]);
    }

    #[test]
    fn a_time_that_is_missing_or_no_number_makes_no_stamps() {
        for rest in [
            r#","recv_us":7"#,
            r#","write_us":7"#,
            r#","recv_us":-1,"write_us":7"#,
            r#","recv_us":"7","write_us":8"#,
            r#","recv_us":null,"write_us":8"#,
        ] {
            let frame = format!(
                r#"{{"id":"7-2","type":"token","content":"a","query_id":"q","due_us":1,"sent_us":2{rest}}}"#
            );
            assert_eq!(crate::event::tests::parsed(frame.as_bytes()).stamps, None, "{frame}");
        }
        assert_eq!(StampedToken::new(b"[]", GatewayStamps { received_us: 1, written_us: 2 }), None);
    }
}
