//! The messages between a parent and its children: a kind, a length, and fields.

use crate::{
    generator::ClaimError,
    run::{Command, MAX_PAYLOAD, Run},
};
use std::{
    io::{self, Read, Write},
    sync::Arc,
};

/// Bytes that a frame may have besides its payload.
const MAX_FIELDS: usize = 64 * 1024;

/// What a child sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FromChild {
    Claim { run: Run, host: String, wanted: Option<u32> },
    Ready,
    Heartbeat { status: Arc<[u8]> },
    Part { number: u64, bytes: Arc<[u8]> },
    Report { number: u64, bytes: Arc<[u8]> },
}

/// What the parent sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FromParent {
    Claimed {
        shard: u32,
    },
    Refused(ClaimError),
    /// Number of generators that are ready.
    Came(u32),
    /// The start, in microseconds of `CLOCK_MONOTONIC`.
    Start {
        at_us: u64,
    },
    Command(Command),
    /// The report was taken.
    Taken,
    Verdict(Arc<[u8]>),
}

/// A frame that is being written.
struct Frame(Vec<u8>);

impl Frame {
    fn new(kind: u8) -> Self {
        Self(vec![kind, 0, 0, 0, 0])
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        let mut frame = self.u32(u32::try_from(bytes.len()).expect("payloads have less than 4 GiB"));
        frame.0.extend_from_slice(bytes);
        frame
    }

    fn optional(self, value: Option<u32>) -> Self {
        self.u32(u32::from(value.is_some())).u32(value.unwrap_or_default())
    }

    fn write(mut self, out: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.0.len() - 5).expect("payloads have less than 4 GiB");
        self.0[1..5].copy_from_slice(&length.to_le_bytes());
        out.write_all(&self.0)
    }
}

/// A frame that is being read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| malformed("a field is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    fn bytes(&mut self) -> io::Result<Arc<[u8]>> {
        let length = self.u32()? as usize;
        Ok(self.take(length)?.into())
    }

    fn text(&mut self) -> io::Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| malformed("a text is not UTF-8"))
    }

    fn optional(&mut self) -> io::Result<Option<u32>> {
        let (is_some, value) = (self.u32()? != 0, self.u32()?);
        Ok(is_some.then_some(value))
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("malformed message ({what}): use the same version for parent and children"),
    )
}

/// Reads a frame into `body`. Returns its kind, or `None` at the end of the stream.
fn read_frame(input: &mut impl Read, body: &mut Vec<u8>) -> io::Result<Option<u8>> {
    let mut kind = [0];
    loop {
        match input.read(&mut kind) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_PAYLOAD + MAX_FIELDS {
        return Err(malformed("it is too long"));
    }
    body.clear();
    input.take(length as u64).read_to_end(body)?;
    if body.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Some(kind[0])) }
}

impl FromChild {
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let frame = match self {
            Self::Claim { run, host, wanted } => Frame::new(b'c')
                .text(&run.id)
                .u32(run.generators)
                .text(&run.fingerprint)
                .text(host)
                .optional(*wanted),
            Self::Ready => Frame::new(b'r'),
            Self::Heartbeat { status } => Frame::new(b'h').bytes(status),
            Self::Part { number, bytes } => Frame::new(b'p').u64(*number).bytes(bytes),
            Self::Report { number, bytes } => Frame::new(b'f').u64(*number).bytes(bytes),
        };
        frame.write(out)
    }

    /// Returns the next message, or `None` at the end of the stream.
    pub(super) fn read(input: &mut impl Read, body: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let Some(kind) = read_frame(input, body)? else { return Ok(None) };
        let mut fields = Fields(body);
        Ok(Some(match kind {
            b'c' => {
                let (id, generators, fingerprint) = (fields.text()?, fields.u32()?, fields.text()?);
                let run = Run { id, generators, fingerprint };
                Self::Claim { run, host: fields.text()?, wanted: fields.optional()? }
            }
            b'r' => Self::Ready,
            b'h' => Self::Heartbeat { status: fields.bytes()? },
            b'p' => Self::Part { number: fields.u64()?, bytes: fields.bytes()? },
            b'f' => Self::Report { number: fields.u64()?, bytes: fields.bytes()? },
            _ => return Err(malformed("unknown kind")),
        }))
    }
}

impl FromParent {
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let frame = match self {
            Self::Claimed { shard } => Frame::new(b'c').u32(*shard),
            Self::Refused(error) => refusal(error),
            Self::Came(came) => Frame::new(b'n').u32(*came),
            Self::Start { at_us } => Frame::new(b's').u64(*at_us),
            Self::Command(Command::Abort(reason)) => Frame::new(b'a').text(reason),
            Self::Command(Command::Custom(bytes)) => Frame::new(b'x').bytes(bytes),
            Self::Taken => Frame::new(b't'),
            Self::Verdict(bytes) => Frame::new(b'v').bytes(bytes),
        };
        frame.write(out)
    }

    /// Returns the next message, or `None` at the end of the stream.
    pub(super) fn read(input: &mut impl Read, body: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let Some(kind) = read_frame(input, body)? else { return Ok(None) };
        let mut fields = Fields(body);
        Ok(Some(match kind {
            b'c' => Self::Claimed { shard: fields.u32()? },
            b'e' => Self::Refused(read_refusal(&mut fields)?),
            b'n' => Self::Came(fields.u32()?),
            b's' => Self::Start { at_us: fields.u64()? },
            b'a' => Self::Command(Command::Abort(fields.text()?)),
            b'x' => Self::Command(Command::Custom(fields.bytes()?.to_vec())),
            b't' => Self::Taken,
            b'v' => Self::Verdict(fields.bytes()?),
            _ => return Err(malformed("unknown kind")),
        }))
    }
}

/// Writes a refusal: its code and all fields that any refusal of a parent has.
fn refusal(error: &ClaimError) -> Frame {
    let frame = |code, number, other, first: &str, second: &str, third: &str| {
        Frame::new(b'e').u32(code).u32(number).u32(other).text(first).text(second).text(third)
    };
    match error {
        ClaimError::DifferentPlan { id, ours, theirs } => frame(1, 0, 0, id, ours, theirs),
        ClaimError::DifferentNumber { id, ours, theirs } => frame(2, *ours, *theirs, id, "", ""),
        ClaimError::Taken { shard, by } => frame(3, *shard, 0, by, "", ""),
        ClaimError::NoFreeShard { of } => frame(4, *of, 0, "", "", ""),
        ClaimError::AlreadyStarted { id } => frame(5, 0, 0, id, "", ""),
        ClaimError::Finished { id, shard: None } => frame(6, 0, 0, id, "", ""),
        ClaimError::Finished { id, shard: Some(shard) } => frame(7, *shard, 0, id, "", ""),
        ClaimError::OutOfRange { shard, of } => frame(8, *shard, *of, "", "", ""),
        ClaimError::InvalidRunId(id) => frame(9, 0, 0, id, "", ""),
        ClaimError::HoldsBus { target, mark } => frame(10, 0, 0, target, mark, ""),
        ClaimError::Unreachable { target, reason } => frame(11, 0, 0, target, reason, ""),
    }
}

fn read_refusal(fields: &mut Fields<'_>) -> io::Result<ClaimError> {
    let (code, number, other) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let (first, second, third) = (fields.text()?, fields.text()?, fields.text()?);
    Ok(match code {
        1 => ClaimError::DifferentPlan { id: first, ours: second, theirs: third },
        2 => ClaimError::DifferentNumber { id: first, ours: number, theirs: other },
        3 => ClaimError::Taken { shard: number, by: first },
        4 => ClaimError::NoFreeShard { of: number },
        5 => ClaimError::AlreadyStarted { id: first },
        6 => ClaimError::Finished { id: first, shard: None },
        7 => ClaimError::Finished { id: first, shard: Some(number) },
        8 => ClaimError::OutOfRange { shard: number, of: other },
        9 => ClaimError::InvalidRunId(first),
        10 => ClaimError::HoldsBus { target: first, mark: second },
        11 => ClaimError::Unreachable { target: first, reason: second },
        _ => return Err(malformed("unknown refusal")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_from_child() -> Vec<FromChild> {
        let run = Run { id: "run".to_owned(), generators: 8, fingerprint: "abc".to_owned() };
        vec![
            FromChild::Claim { run: run.clone(), host: "host".to_owned(), wanted: Some(7) },
            FromChild::Claim { run, host: String::new(), wanted: None },
            FromChild::Ready,
            FromChild::Heartbeat { status: vec![1, 2].into() },
            FromChild::Part { number: 1 << 40, bytes: vec![0; MAX_PAYLOAD].into() },
            FromChild::Report { number: 2, bytes: vec![].into() },
        ]
    }

    fn all_from_parent() -> Vec<FromParent> {
        let text = str::to_owned;
        let refusals = [
            ClaimError::DifferentPlan { id: text("a"), ours: text("b"), theirs: text("c") },
            ClaimError::DifferentNumber { id: text("a"), ours: 1, theirs: 2 },
            ClaimError::Taken { shard: 3, by: text("a") },
            ClaimError::NoFreeShard { of: 4 },
            ClaimError::AlreadyStarted { id: text("a") },
            ClaimError::Finished { id: text("a"), shard: None },
            ClaimError::Finished { id: text("a"), shard: Some(5) },
            ClaimError::OutOfRange { shard: 6, of: 7 },
            ClaimError::InvalidRunId(text("a")),
            ClaimError::HoldsBus { target: text("a"), mark: text("b") },
            ClaimError::Unreachable { target: text("a"), reason: text("b") },
        ];
        let mut all: Vec<FromParent> = refusals.into_iter().map(FromParent::Refused).collect();
        all.extend([
            FromParent::Claimed { shard: 9 },
            FromParent::Came(3),
            FromParent::Start { at_us: 1 << 50 },
            FromParent::Command(Command::Abort(text("why"))),
            FromParent::Command(Command::Custom(vec![0, 255])),
            FromParent::Taken,
            FromParent::Verdict(vec![5].into()),
        ]);
        all
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let (mut down, mut up) = (Vec::new(), Vec::new());
        all_from_child().iter().for_each(|message| message.write(&mut up).expect("a vector"));
        all_from_parent().iter().for_each(|message| message.write(&mut down).expect("a vector"));
        let (mut up, mut down, mut body) = (&up[..], &down[..], Vec::new());
        for message in all_from_child() {
            assert_eq!(FromChild::read(&mut up, &mut body).expect("it is well-formed"), Some(message));
        }
        for message in all_from_parent() {
            assert_eq!(FromParent::read(&mut down, &mut body).expect("it is well-formed"), Some(message));
        }
        assert_eq!(FromChild::read(&mut up, &mut body).expect("the end"), None);
        assert_eq!(FromParent::read(&mut down, &mut body).expect("the end"), None);
    }

    #[test]
    fn malformed_messages_are_refused() {
        let mut body = Vec::new();
        let mut whole = Vec::new();
        all_from_child()[0].write(&mut whole).expect("a vector");
        for bytes in
            [&b"z\0\0\0\0"[..], b"p\x04\0\0\0abcd", b"p\xff\xff\xff\xff", b"p\0", &whole[..whole.len() - 1]]
        {
            assert!(FromChild::read(&mut &bytes[..], &mut body).is_err(), "{bytes:?}");
        }
    }
}
