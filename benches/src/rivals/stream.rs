//! What a reader does on one connection: a state machine per rival that turns bytes into tokens, and resumes after the connection broke
//! as far as the rival's protocol allows. Opens no socket.

use super::{
    http::{Body, Chunks, Event, Events, Head},
    json,
};
use anyhow::{Context, bail};
use load::frames::{self, Frames, Message};
use protocol::{Position, Prefix};
use serde::Deserialize;
use std::{
    borrow::Cow,
    collections::HashSet,
    fmt::{Debug, Write as _},
};

/// Takes the JSON text of one token.
pub(super) type Take<'a> = &'a mut dyn FnMut(&str);

/// The reader's side of one connection.
pub(super) trait Stream: Debug + Send {
    /// Begins a new connection. Returns the request that opens it, which names the last position if the protocol can.
    fn open(&mut self) -> Vec<u8>;

    /// Takes what was read: calls `take` with each token, and appends to `reply` what must be sent back.
    ///
    /// # Errors
    /// The server refused the request or broke the protocol. The connection must be opened again.
    fn feed(&mut self, bytes: &[u8], reply: &mut Vec<u8>, take: Take<'_>) -> anyhow::Result<()>;

    /// Returns whether tokens that are published now arrive.
    fn is_live(&self) -> bool;
}

/// What the messages on a WebSocket mean.
pub(super) trait Dialect: Debug + Send {
    /// Returns the head of the request.
    fn request(&self) -> Vec<u8>;

    /// Takes a message. Returns whether the connection is live after it.
    ///
    /// # Errors
    /// The message breaks the rival's protocol.
    fn message(&mut self, text: &str, reply: &mut Vec<u8>, take: Take<'_>) -> anyhow::Result<bool>;

    /// Returns whether the connection is live as soon as it is open.
    fn live_at_once(&self) -> bool {
        true
    }
}

/// Tokens over a WebSocket.
#[derive(Debug)]
pub(super) struct Socket<D> {
    dialect: D,
    /// The bytes before the end of the response's head, `None` behind it.
    head: Option<Vec<u8>>,
    frames: Frames,
    live: bool,
}

impl<D: Dialect> Socket<D> {
    pub(super) fn new(dialect: D) -> Self {
        Self { dialect, head: Some(Vec::new()), frames: Frames::default(), live: false }
    }

    fn frames(&mut self, bytes: &[u8], reply: &mut Vec<u8>, take: Take<'_>) -> anyhow::Result<()> {
        let Self { dialect, frames, live, .. } = self;
        let mut outcome = Ok(());
        frames.feed(bytes, |message, _| match message {
            Message::Text(text) => match dialect.message(text, reply, take) {
                Ok(now_live) => *live |= now_live,
                Err(error) => outcome = Err(error),
            },
            Message::Ping(payload) => frames::encode_pong(reply, payload),
            Message::Close(code, text) => {
                outcome = Err(anyhow::anyhow!("the gateway closed the socket: {code:?} {text}"));
            }
            Message::Binary(_) | Message::Pong => {}
        })?;
        outcome
    }
}

impl<D: Dialect> Stream for Socket<D> {
    fn open(&mut self) -> Vec<u8> {
        (self.head, self.frames, self.live) = (Some(Vec::new()), Frames::default(), false);
        self.dialect.request()
    }

    fn feed(&mut self, bytes: &[u8], reply: &mut Vec<u8>, take: Take<'_>) -> anyhow::Result<()> {
        let Some(head) = &mut self.head else { return self.frames(bytes, reply, take) };
        head.extend_from_slice(bytes);
        let Some(Head { status, length, .. }) = Head::parse(head)? else { return Ok(()) };
        if status != 101 {
            bail!("the gateway returned status {status} instead of 101");
        }
        let rest = head.split_off(length);
        self.head = None;
        self.live = self.dialect.live_at_once();
        self.frames(&rest, reply, take)
    }

    fn is_live(&self) -> bool {
        self.live
    }
}

/// Adds a header to the head of a request.
fn with_header(head: &[u8], name: &str, value: &str) -> Vec<u8> {
    let mut head = head.strip_suffix(b"\r\n").unwrap_or(head).to_vec();
    head.extend_from_slice(format!("{name}: {value}\r\n\r\n").as_bytes());
    head
}

/// The frames of `wsproxy`, which resumes after a position, or of a gateway that does not.
#[derive(Debug)]
pub(super) struct Positions {
    pub(super) head: Vec<u8>,
    pub(super) resumes: bool,
    pub(super) last: Option<Position>,
}

impl Dialect for Positions {
    fn request(&self) -> Vec<u8> {
        match self.last.filter(|_| self.resumes) {
            Some(last) => with_header(&self.head, "Last-Event-ID", &last.to_string()),
            None => self.head.clone(),
        }
    }

    fn message(&mut self, text: &str, _: &mut Vec<u8>, take: Take<'_>) -> anyhow::Result<bool> {
        if let Some(prefix) = Prefix::parse(text.as_bytes()) {
            self.last = Some(prefix.position);
            take(text);
        }
        Ok(true)
    }
}

/// nchan's subprotocol `ws+meta.nchan`, whose messages begin with an id. A reconnect names the last one.
#[derive(Debug)]
pub(super) struct Nchan {
    pub(super) head: Vec<u8>,
    pub(super) last: Option<String>,
}

impl Dialect for Nchan {
    fn request(&self) -> Vec<u8> {
        let head = with_header(&self.head, "Sec-WebSocket-Protocol", "ws+meta.nchan");
        match &self.last {
            Some(last) => with_header(&head, "Last-Event-ID", last),
            None => head,
        }
    }

    fn message(&mut self, text: &str, _: &mut Vec<u8>, take: Take<'_>) -> anyhow::Result<bool> {
        let (meta, payload) = text.split_once("\n\n").context("a message of nchan has no meta data")?;
        if let Some(id) = meta.lines().find_map(|line| line.strip_prefix("id: ")) {
            self.last = Some(id.to_owned());
        }
        take(payload);
        Ok(true)
    }
}

/// Sockudo's protocol V2: subscribes to one channel after the connection is established, and asks to resume after the last serial
/// number. Like its client libraries, it drops a message whose id it has seen.
#[derive(Debug)]
pub(super) struct Sockudo {
    pub(super) key: &'static str,
    pub(super) channel: String,
    pub(super) last: Option<SockudoPosition>,
    pub(super) seen: HashSet<String>,
}

/// A position on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SockudoPosition {
    stream_id: Option<String>,
    serial: u64,
    message_id: Option<String>,
}

/// A frame of Sockudo.
#[derive(Debug, Deserialize)]
struct SockudoFrame<'a> {
    event: String,
    #[serde(borrow, default)]
    data: Option<SockudoData<'a>>,
    #[serde(default)]
    stream_id: Option<String>,
    #[serde(default)]
    serial: Option<u64>,
    #[serde(default)]
    message_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum SockudoData<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Other(serde::de::IgnoredAny),
}

impl Sockudo {
    pub(super) fn new(key: &'static str, channel: String) -> Self {
        Self { key, channel, last: None, seen: HashSet::new() }
    }

    /// Appends the frames that subscribe and resume.
    fn subscribe(&self, reply: &mut Vec<u8>) {
        let channel = &self.channel;
        text_frame(reply, &format!(r#"{{"event":"sockudo:subscribe","data":{{"channel":"{channel}"}}}}"#));
        if let Some(SockudoPosition { stream_id, serial, message_id }) = &self.last {
            let mut position = format!(r#"{{"serial":{serial}"#);
            for (name, value) in [("stream_id", stream_id), ("last_message_id", message_id)] {
                if let Some(value) = value {
                    write!(position, r#","{name}":{}"#, json::text(value))
                        .expect("a string takes every write");
                }
            }
            let data = format!(r#"{{"channel_positions":{{"{channel}":{position}}}}}}}"#);
            text_frame(reply, &format!(r#"{{"event":"sockudo:resume","data":{}}}"#, json::text(&data)));
        }
    }
}

impl Dialect for Sockudo {
    fn request(&self) -> Vec<u8> {
        upgrade(&format!("/app/{}?protocol=2&client=bench&version=1.0", self.key))
    }

    fn live_at_once(&self) -> bool {
        false
    }

    fn message(&mut self, text: &str, reply: &mut Vec<u8>, take: Take<'_>) -> anyhow::Result<bool> {
        let frame: SockudoFrame<'_> =
            serde_json::from_str(text).with_context(|| format!("not a frame of Sockudo: {text}"))?;
        match frame.event.as_str() {
            "sockudo:connection_established" => self.subscribe(reply),
            "sockudo:ping" => text_frame(reply, r#"{"event":"sockudo:pong","data":{}}"#),
            "sockudo_internal:subscription_succeeded" => return Ok(true),
            "sockudo:resume_failed" => self.last = None,
            "sockudo:error" => bail!("Sockudo reports an error: {text}"),
            "token" => {
                if let Some(serial) = frame.serial {
                    let (stream_id, message_id) = (frame.stream_id, frame.message_id.clone());
                    self.last = Some(SockudoPosition { stream_id, serial, message_id });
                }
                let is_new = frame.message_id.is_none_or(|id| self.seen.insert(id));
                if let (true, Some(SockudoData::Text(payload))) = (is_new, &frame.data) {
                    take(payload);
                }
            }
            _ => {}
        }
        Ok(false)
    }
}

/// Returns a request that opens a WebSocket.
fn upgrade(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// Appends a text frame of a client. Its mask is zero, which changes no byte.
fn text_frame(out: &mut Vec<u8>, text: &str) {
    out.push(0x81);
    match u8::try_from(text.len()) {
        Ok(length @ ..=125) => out.push(0x80 | length),
        _ => {
            out.push(0x80 | 126);
            let length = u16::try_from(text.len()).expect("requests of the benchmark are short");
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(text.as_bytes());
}

/// What the events of a stream mean.
pub(super) trait Log: Debug + Send {
    /// Returns the request that reads after the last position.
    fn request(&self) -> String;

    /// Takes an event.
    ///
    /// # Errors
    /// The event breaks the rival's protocol, or reports an error.
    fn event(&mut self, event: &Event, take: Take<'_>) -> anyhow::Result<()>;
}

/// Tokens over an HTTP response that does not end (SSE).
#[derive(Debug)]
pub(super) struct EventStream<L> {
    log: L,
    head: Option<Vec<u8>>,
    body: Body,
    chunks: Chunks,
    events: Events,
}

impl<L: Log> EventStream<L> {
    pub(super) fn new(log: L) -> Self {
        let (chunks, events) = Default::default();
        Self { log, head: Some(Vec::new()), body: Body::ToTheEnd, chunks, events }
    }

    fn body(&mut self, bytes: &[u8], take: Take<'_>) -> anyhow::Result<()> {
        let Self { log, body, chunks, events, .. } = self;
        if *body != Body::Chunked {
            return events.feed(bytes, |event| log.event(event, take));
        }
        let mut contents = Vec::with_capacity(bytes.len());
        chunks.feed(bytes, &mut contents)?;
        events.feed(&contents, |event| log.event(event, take))?;
        if chunks.ended {
            bail!("the server ended the event stream");
        }
        Ok(())
    }
}

impl<L: Log> Stream for EventStream<L> {
    fn open(&mut self) -> Vec<u8> {
        (self.chunks, self.events) = Default::default();
        self.head = Some(Vec::new());
        self.log.request().into_bytes()
    }

    fn feed(&mut self, bytes: &[u8], _: &mut Vec<u8>, take: Take<'_>) -> anyhow::Result<()> {
        let Some(head) = &mut self.head else { return self.body(bytes, take) };
        head.extend_from_slice(bytes);
        let Some(Head { status, length, body, .. }) = Head::parse(head)? else { return Ok(()) };
        if status != 200 {
            bail!("the server returned status {status} instead of 200");
        }
        let rest = head.split_off(length);
        (self.head, self.body) = (None, body);
        self.body(&rest, take)
    }

    fn is_live(&self) -> bool {
        // A read begins at a position, so nothing is missed from its response on.
        self.head.is_none()
    }
}

/// A stream of the durable-streams protocol. Each control event names the offset after the data before it.
#[derive(Debug)]
pub(super) struct DurableStreams {
    pub(super) path: String,
    pub(super) offset: String,
}

impl Log for DurableStreams {
    fn request(&self) -> String {
        let Self { path, offset } = self;
        format!(
            "GET {path}?offset={offset}&live=sse HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        )
    }

    fn event(&mut self, event: &Event, take: Take<'_>) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Control {
            stream_next_offset: String,
        }
        match event.name.as_str() {
            "data" => json::objects(&event.data).for_each(take),
            "control" => {
                let control: Control = serde_json::from_str(&event.data).context("not a control event")?;
                self.offset = control.stream_next_offset;
            }
            name => bail!("the event `{name}` is not of the durable-streams protocol"),
        }
        Ok(())
    }
}

/// A stream of `s2 lite`. The id of an event is the position of its last record.
#[derive(Debug)]
pub(super) struct S2 {
    pub(super) basin: &'static str,
    pub(super) path: String,
    pub(super) last: Option<String>,
}

impl Log for S2 {
    fn request(&self) -> String {
        let Self { basin, path, last } = self;
        let last = last.as_ref().map(|last| format!("Last-Event-ID: {last}\r\n")).unwrap_or_default();
        format!(
            "GET {path}?seq_num=0 HTTP/1.1\r\nHost: localhost\r\nS2-Basin: {basin}\r\n\
             Accept: text/event-stream\r\n{last}\r\n"
        )
    }

    fn event(&mut self, event: &Event, take: Take<'_>) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Batch<'a> {
            #[serde(borrow)]
            records: Vec<Record<'a>>,
        }
        #[derive(Deserialize)]
        struct Record<'a> {
            #[serde(borrow, default)]
            body: Cow<'a, str>,
        }
        match event.name.as_str() {
            "batch" => {
                let batch: Batch<'_> = serde_json::from_str(&event.data).context("not a batch of records")?;
                batch.records.iter().for_each(|record| take(&record.body));
                self.last.clone_from(&event.id);
            }
            "error" => bail!("s2 reports an error: {}", event.data),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
    const STREAMS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

    /// A text frame of a server.
    fn frame(text: &str) -> Vec<u8> {
        let mut out = vec![0x81, 126];
        out.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
        out.extend_from_slice(text.as_bytes());
        out
    }

    /// Feeds all bytes at once. Returns the tokens and the reply.
    fn feed(stream: &mut impl Stream, bytes: &[u8]) -> (Vec<String>, String) {
        let (mut tokens, mut reply) = (Vec::new(), Vec::new());
        stream.feed(bytes, &mut reply, &mut |token| tokens.push(token.to_owned())).unwrap();
        (tokens, String::from_utf8_lossy(&reply).into_owned())
    }

    fn opening(stream: &mut impl Stream) -> String {
        String::from_utf8(stream.open()).unwrap()
    }

    #[test]
    fn a_gateway_with_positions_resumes_after_the_last_one() {
        let head = b"GET / HTTP/1.1\r\n\r\n".to_vec();
        for resumes in [true, false] {
            let dialect = Positions { head: head.clone(), resumes, last: None };
            let mut socket = Socket::new(dialect);
            assert_eq!(socket.open(), head);
            assert!(!socket.is_live());
            let token = r#"{"id":"7-3","type":"token","content":"x"}"#;
            let bytes = [OPENED, &frame(token), &frame(r#"{"type":"resumed","to":"7-3"}"#)].concat();
            assert_eq!(feed(&mut socket, &bytes).0, [token]);
            assert!(socket.is_live());
            assert_eq!(opening(&mut socket).contains("\r\nLast-Event-ID: 7-3\r\n\r\n"), resumes);
        }
    }

    #[test]
    fn nchan_resumes_after_the_last_id() {
        let dialect = Nchan { head: b"GET / HTTP/1.1\r\n\r\n".to_vec(), last: None };
        let mut socket = Socket::new(dialect);
        assert!(opening(&mut socket).ends_with("\r\nSec-WebSocket-Protocol: ws+meta.nchan\r\n\r\n"));
        let bytes = [OPENED, &frame("id: 17:0\ncontent-type: text/plain\n\n{}")].concat();
        assert_eq!(feed(&mut socket, &bytes).0, ["{}"]);
        assert!(opening(&mut socket).ends_with("\r\nLast-Event-ID: 17:0\r\n\r\n"));
    }

    #[test]
    fn sockudo_subscribes_resumes_and_drops_repeats() {
        let mut socket = Socket::new(Sockudo::new("k", "c1".into()));
        assert!(opening(&mut socket).starts_with("GET /app/k?protocol=2&"));
        let established =
            frame(r#"{"event":"sockudo:connection_established","data":"{\"socket_id\":\"1.2\"}"}"#);
        let (_, reply) = feed(&mut socket, &[OPENED, &established].concat());
        assert!(reply.contains(r#""channel":"c1""#) && !reply.contains("resume"), "{reply}");
        assert!(!socket.is_live());
        feed(
            &mut socket,
            &frame(r#"{"event":"sockudo_internal:subscription_succeeded","channel":"c1","data":{}}"#),
        );
        assert!(socket.is_live());
        let token = frame(
            r#"{"event":"token","channel":"c1","data":"{\"id\":\"1-1\"}","serial":4,"stream_id":"s","message_id":"m"}"#,
        );
        assert_eq!(feed(&mut socket, &token).0, [r#"{"id":"1-1"}"#]);
        socket.open();
        let (tokens, reply) = feed(&mut socket, &[OPENED, &established, &token].concat());
        assert!(tokens.is_empty(), "the id was seen");
        let resume = r#"{\"channel_positions\":{\"c1\":{\"serial\":4,\"stream_id\":\"s\",\"last_message_id\":\"m\"}}}"#;
        assert!(reply.contains(resume), "{reply}");
        feed(&mut socket, &frame(r#"{"event":"sockudo:resume_failed","channel":"c1","data":{}}"#));
        socket.open();
        assert!(!feed(&mut socket, &[OPENED, &established].concat()).1.contains("resume"));
    }

    #[test]
    fn durable_streams_continues_at_the_next_offset() {
        let log = DurableStreams { path: "/s1".into(), offset: "-1".into() };
        let mut stream = EventStream::new(log);
        assert!(opening(&mut stream).starts_with("GET /s1?offset=-1&live=sse HTTP/1.1\r\n"));
        let body = "event: data\ndata:[{\"a\":1},{\"a\":2}]\n\nevent: control\ndata:{\"streamNextOffset\":\"0_9\",\"upToDate\":true}\n\n";
        let (tokens, _) = feed(&mut stream, format!("{STREAMS}{body}").as_bytes());
        assert_eq!(tokens, [r#"{"a":1}"#, r#"{"a":2}"#]);
        assert!(opening(&mut stream).starts_with("GET /s1?offset=0_9&"));
    }

    #[test]
    fn s2_continues_after_the_last_event() {
        let mut stream =
            EventStream::new(S2 { basin: "b", path: "/v1/streams/s1/records".into(), last: None });
        assert!(!opening(&mut stream).contains("Last-Event-ID"));
        let body = "event: batch\nid: 1,2,30\ndata: {\"records\":[{\"seq_num\":0,\"body\":\"{\\\"a\\\":1}\"},{\"seq_num\":1}]}\n\n";
        let (tokens, _) = feed(&mut stream, format!("{STREAMS}{body}event: ping\ndata: {{}}\n\n").as_bytes());
        assert_eq!(tokens, [r#"{"a":1}"#, ""]);
        assert!(opening(&mut stream).contains("\r\nLast-Event-ID: 1,2,30\r\n\r\n"));
        let error = b"HTTP/1.1 200 OK\r\n\r\nevent: error\ndata: gone\n\n";
        assert!(stream.feed(error, &mut Vec::new(), &mut |_| {}).is_err());
    }

    #[test]
    fn a_refusal_is_an_error() {
        let mut socket = Socket::new(Sockudo::new("k", "c".into()));
        let mut stream = EventStream::new(DurableStreams { path: "/".into(), offset: "-1".into() });
        for stream in [&mut socket as &mut dyn Stream, &mut stream] {
            let refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
            let error = stream.feed(refusal, &mut Vec::new(), &mut |_| {}).unwrap_err();
            assert!(error.to_string().contains("503"), "{error}");
        }
    }

    #[test]
    fn long_texts_have_a_long_length() {
        for length in [5, 125, 126, 300] {
            let (text, mut out) = ("x".repeat(length), Vec::new());
            text_frame(&mut out, &text);
            let header = if length <= 125 { 2 } else { 4 };
            assert_eq!(out.len(), header + 4 + length);
            assert!(out.ends_with(text.as_bytes()));
        }
    }
}
