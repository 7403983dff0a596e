//! Decodes the frames that a client sends (RFC 6455, section 5), in pieces of any size. It does no I/O.
//!
//! Memory grows as payload arrives and not when a header announces it. Every byte of a message is taken from the gateway's budget first.
//! Between two messages a decoder holds no memory.

use guard::Room;
use protocol::CloseReason;

/// Memory for the start of a message, in bytes. It doubles as more arrives.
const FIRST_STEP: usize = 512;

/// The longest head of a client's frame, in bytes: 2, a length of 8 and a mask of 4.
const MAX_HEAD: usize = 14;

/// The longest payload of a control frame, in bytes.
const MAX_CONTROL: usize = 125;

mod opcode {
    pub(super) const CONTINUATION: u8 = 0;
    pub(super) const TEXT: u8 = 1;
    pub(super) const BINARY: u8 = 2;
    pub(super) const CLOSE: u8 = 8;
    pub(super) const PING: u8 = 9;
    pub(super) const PONG: u8 = 10;
}

/// A message or control frame that a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A complete text message. Its bytes stay taken from the budget until [`Decoder::settle`].
    Text(String),
    /// A complete message that was dropped as it arrived, because the budget was exhausted.
    NoRoom,
    Ping(Vec<u8>),
    Pong,
    /// A close frame. The answer repeats its payload.
    Close(Vec<u8>),
}

/// A frame whose head has been read.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: u8,
    last: bool,
    mask: [u8; 4],
    /// Bytes of its payload that have been read.
    read: usize,
    /// Bytes of its payload that are still to come.
    left: usize,
}

/// The decoder of one client's frames.
#[derive(Debug)]
pub(crate) struct Decoder {
    room: Room,
    /// The longest message, in bytes.
    max: usize,
    head: [u8; MAX_HEAD],
    /// Bytes of the head that have been read.
    has: u8,
    frame: Option<Frame>,
    /// A message has begun and its last frame has not ended.
    in_message: bool,
    /// The budget was exhausted, so the message is dropped.
    skips: bool,
    /// Bytes that the headers of the message's frames have announced so far.
    announced: usize,
    /// The message so far, and space for more.
    message: Vec<u8>,
    filled: usize,
    control: Vec<u8>,
}

impl Decoder {
    /// Creates a decoder of messages of at most `max` bytes, which takes memory from the budget of `room`.
    pub(crate) const fn new(max: usize, room: Room) -> Self {
        Self {
            room,
            max,
            head: [0; MAX_HEAD],
            has: 0,
            frame: None,
            in_message: false,
            skips: false,
            announced: 0,
            message: Vec::new(),
            filled: 0,
            control: Vec::new(),
        }
    }

    /// Returns whether a frame or a message has begun and not ended.
    pub(crate) const fn is_unfinished(&self) -> bool {
        self.in_message || self.frame.is_some() || self.has > 0
    }

    /// Returns the bytes of a handled message to the budget. Those of an arriving message stay taken.
    pub(crate) fn settle(&mut self) {
        if !self.in_message {
            self.room.clear();
        }
    }

    /// Decodes until an item is complete, and leaves the rest of `input`. Returns `None` if all of `input` was read without one.
    ///
    /// # Errors
    /// The rule that the client broke. Do not decode further input after that.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Item>, CloseReason> {
        loop {
            let Some(frame) = self.frame else {
                if self.read_head(input)? {
                    continue;
                }
                return Ok(None);
            };
            let (payload, rest) = input.split_at(frame.left.min(input.len()));
            *input = rest;
            self.read_payload(frame, payload);
            let Some(frame) = self.frame.take_if(|frame| frame.left == 0) else { return Ok(None) };
            if let Some(item) = self.end(frame)? {
                return Ok(Some(item));
            }
        }
    }

    /// Returns the memory into which the payload of a message can be read directly, if the frame has `at_least` bytes to come.
    /// Call [`Decoder::read_direct`] with the number of bytes read.
    pub(crate) fn space(&mut self, at_least: usize) -> Option<&mut [u8]> {
        let frame = self.frame.filter(|frame| frame.opcode < opcode::CLOSE && frame.left >= at_least)?;
        if self.skips || !self.make_space(frame.left) {
            return None;
        }
        let end = self.message.len().min(self.filled + frame.left);
        Some(&mut self.message[self.filled..end])
    }

    /// Decodes `count` bytes that were read into [`Decoder::space`].
    pub(crate) fn read_direct(&mut self, count: usize) {
        if let Some(frame) = &mut self.frame {
            let payload = &mut self.message[self.filled..self.filled + count];
            unmask(payload, frame.mask, frame.read);
            frame.read += count;
            frame.left -= count;
            self.filled += count;
        }
    }

    /// Reads a frame's head. Returns false if `input` ends before it is complete.
    fn read_head(&mut self, input: &mut &[u8]) -> Result<bool, CloseReason> {
        while let Some((&byte, rest)) = input.split_first() {
            *input = rest;
            self.head[usize::from(self.has)] = byte;
            self.has += 1;
            if self.has == 2 {
                self.check_start()?;
            }
            if self.has >= 2 && usize::from(self.has) == head_len(self.head[1]) {
                self.has = 0;
                self.begin()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Checks the first two bytes of a head.
    const fn check_start(&self) -> Result<(), CloseReason> {
        let [first, second, ..] = self.head;
        let (opcode, last, len) = (first & 0x0f, first & 0x80 != 0, (second & 0x7f) as usize);
        let is_masked = second & 0x80 != 0;
        let fits = match opcode {
            opcode::CONTINUATION => self.in_message,
            opcode::TEXT | opcode::BINARY => !self.in_message,
            opcode::CLOSE..=opcode::PONG => last && len <= MAX_CONTROL,
            _ => false,
        };
        if !fits || !is_masked || first & 0x70 != 0 {
            return Err(CloseReason::Protocol);
        }
        if opcode == opcode::BINARY { Err(CloseReason::Binary) } else { Ok(()) }
    }

    /// Begins the frame whose head is complete.
    fn begin(&mut self) -> Result<(), CloseReason> {
        let head = self.head;
        let (opcode, len) = (head[0] & 0x0f, head_len(head[1]));
        let payload = match head[1] & 0x7f {
            127 => {
                u64::from_be_bytes([head[2], head[3], head[4], head[5], head[6], head[7], head[8], head[9]])
            }
            126 => u16::from_be_bytes([head[2], head[3]]).into(),
            short => short.into(),
        };
        let left = usize::try_from(payload).map_err(|_| CloseReason::TooLarge)?;
        if opcode < opcode::CLOSE {
            self.announced = self.announced.saturating_add(left);
            if self.announced > self.max {
                return Err(CloseReason::TooLarge);
            }
            self.in_message = true;
        }
        let mask = [head[len - 4], head[len - 3], head[len - 2], head[len - 1]];
        self.frame = Some(Frame { opcode, last: head[0] & 0x80 != 0, mask, read: 0, left });
        Ok(())
    }

    fn read_payload(&mut self, frame: Frame, mut payload: &[u8]) {
        if let Some(frame) = &mut self.frame {
            frame.read += payload.len();
            frame.left -= payload.len();
        }
        if frame.opcode >= opcode::CLOSE {
            let begin = self.control.len();
            self.control.extend_from_slice(payload);
            return unmask(&mut self.control[begin..], frame.mask, frame.read);
        }
        let (mut read, mut left) = (frame.read, frame.left);
        while !payload.is_empty() && !self.skips && self.make_space(left) {
            let count = payload.len().min(self.message.len() - self.filled);
            let space = &mut self.message[self.filled..self.filled + count];
            space.copy_from_slice(&payload[..count]);
            unmask(space, frame.mask, read);
            (read, left) = (read + count, left - count);
            self.filled += count;
            payload = &payload[count..];
        }
    }

    /// Makes space for some of the `left` bytes of a frame. Returns false if the budget is exhausted, and drops the message.
    fn make_space(&mut self, left: usize) -> bool {
        if self.filled < self.message.len() {
            return true;
        }
        let wanted = (2 * self.filled).max(FIRST_STEP).min(self.filled + left);
        if !self.room.grow(wanted) {
            self.skips = true;
            (self.message, self.filled) = (Vec::new(), 0);
            self.room.clear();
            return false;
        }
        self.message.reserve_exact(wanted - self.filled);
        self.message.resize(wanted, 0);
        true
    }

    /// Ends a frame whose payload is complete.
    fn end(&mut self, frame: Frame) -> Result<Option<Item>, CloseReason> {
        let control = std::mem::take(&mut self.control);
        match frame.opcode {
            opcode::CLOSE => check_close(&control).map(|()| Some(Item::Close(control))),
            opcode::PING => Ok(Some(Item::Ping(control))),
            opcode::PONG => Ok(Some(Item::Pong)),
            _ if !frame.last => Ok(None),
            _ => {
                (self.in_message, self.announced) = (false, 0);
                let mut message = std::mem::take(&mut self.message);
                message.truncate(std::mem::take(&mut self.filled));
                if std::mem::take(&mut self.skips) {
                    return Ok(Some(Item::NoRoom));
                }
                String::from_utf8(message)
                    .map(|text| Some(Item::Text(text)))
                    .map_err(|_| CloseReason::BadUtf8)
            }
        }
    }
}

/// Returns the length of a head with this second byte. A head without a mask has been refused before.
const fn head_len(second: u8) -> usize {
    match second & 0x7f {
        127 => 14,
        126 => 8,
        _ => 6,
    }
}

/// Removes the mask from a part of a payload that begins at `offset`.
fn unmask(part: &mut [u8], mask: [u8; 4], offset: usize) {
    let masks = mask.into_iter().cycle().skip(offset % 4);
    part.iter_mut().zip(masks).for_each(|(byte, mask)| *byte ^= mask);
}

/// Checks a close frame's payload, which is empty or a code and a text.
fn check_close(payload: &[u8]) -> Result<(), CloseReason> {
    let Some((code, text)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(()) } else { Err(CloseReason::Protocol) };
    };
    match u16::from_be_bytes(*code) {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(CloseReason::Protocol),
    }
    std::str::from_utf8(text).map(|_| ()).map_err(|_| CloseReason::BadUtf8)
}

#[cfg(test)]
mod tests;
