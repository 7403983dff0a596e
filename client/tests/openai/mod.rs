//! A server with an OpenAI-compatible API whose answers and defects a test defines. Bodies are cut at random bytes.
#![allow(dead_code, reason = "each test binary uses its part")]

use crate::fake::background;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    serve::ListenerExt,
};
use futures_util::{SinkExt, StreamExt, stream};
use serde_json::{Value, json};
use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::{
    Message,
    handshake::server::{ErrorResponse, Request as Upgrade, Response as Upgraded},
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tokio_util::sync::DropGuard;

/// A request, as a script sees it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The number of the request, from 1.
    pub number: u64,
    pub method: String,
    /// Path and query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A stream of these frames, with a pause before each, and its end.
    Stream(Vec<String>, End),
    /// A stream of these frames, after which the server closes the connection.
    Closing(Vec<String>),
    /// A response in one write, with this status, headers and body: a refusal, unless the status is 200.
    Refuse(u16, Vec<(&'static str, &'static str)>, String),
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The response ends in order, over HTTP, or nothing happens, over a WebSocket.
    Whole,
    /// The connection breaks, over a WebSocket without a close frame.
    Abort,
    /// A close frame with this code.
    Close(u16),
    /// Nothing more is sent, and the connection stays open.
    Hang,
}

type Script = dyn Fn(&Asked) -> Reply + Send + Sync;

struct Server {
    script: Box<Script>,
    asked: Mutex<Vec<Asked>>,
    connections: AtomicU64,
    /// Upgrades are refused unless they carry this key.
    key: Option<&'static str>,
    refused: AtomicU64,
}

/// A running server. It ends when this value is dropped.
pub struct OpenAi {
    pub url: String,
    server: Arc<Server>,
    _end: DropGuard,
}

impl OpenAi {
    pub fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(
            script,
            |listener, server| async move {
                let counted = Arc::clone(&server);
                let listener = listener.tap_io(move |_| {
                    counted.connections.fetch_add(1, Relaxed);
                });
                let app = Router::new().fallback(answer).with_state(server);
                axum::serve(listener, app).await.unwrap();
            },
            None,
        )
    }

    /// Starts a server that speaks over WebSockets. With a `key`, upgrades need it.
    pub fn start_ws(
        key: Option<&'static str>,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(
            script,
            |listener, server| async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(socket(stream, Arc::clone(&server)));
                }
            },
            key,
        )
    }

    fn serve<F: Future<Output = ()>>(
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
        serve: impl FnOnce(TcpListener, Arc<Server>) -> F + Send + 'static,
        key: Option<&'static str>,
    ) -> Self {
        let server = Arc::new(Server {
            script: Box::new(script),
            asked: Mutex::default(),
            connections: AtomicU64::new(0),
            key,
            refused: AtomicU64::new(0),
        });
        let served = Arc::clone(&server);
        let ([address], _end) = background::serve(|[listener]| serve(listener, served));
        Self { url: format!("http://{address}"), server, _end }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.server.asked.lock().unwrap().clone()
    }

    pub fn connections(&self) -> u64 {
        self.server.connections.load(Relaxed)
    }

    /// How many upgrades were refused.
    pub fn refused(&self) -> u64 {
        self.server.refused.load(Relaxed)
    }
}

impl Server {
    fn reply(&self, method: &str, path: &str, headers: &HeaderMap, body: Value) -> Reply {
        let asked = {
            let mut all = self.asked.lock().unwrap();
            let number = all.len() as u64 + 1;
            let asked =
                Asked { number, method: method.into(), path: path.into(), headers: headers.clone(), body };
            all.push(asked.clone());
            asked
        };
        (self.script)(&asked)
    }
}

async fn answer(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let (reply, closes) = match server.reply(head.method.as_str(), &path, &head.headers, body) {
        Reply::Closing(frames) => (Reply::Stream(frames, End::Whole), true),
        reply => (reply, false),
    };
    match reply {
        Reply::Closing(_) => unreachable!(),
        Reply::Refuse(status, headers, body) => {
            let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
            response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Reply::Stream(frames, end) => {
            let pieces = stream::unfold((pieces(&frames), 0), move |(pieces, at)| async move {
                let Some(piece) = pieces.get(at).cloned() else {
                    match end {
                        End::Hang => std::future::pending::<()>().await,
                        End::Whole => return None,
                        End::Abort | End::Close(_) => {
                            // So that what was sent before leaves first.
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                    return Some((Err(io::Error::other("the test breaks the connection")), (pieces, at)));
                };
                tokio::time::sleep(Duration::from_micros(300)).await;
                Some((Ok::<_, io::Error>(piece), (pieces, at + 1)))
            });
            let headers = [("content-type", "text/event-stream"), ("x-boot-id", "another-host")];
            let mut response = (headers, Body::from_stream(pieces)).into_response();
            if closes {
                response.headers_mut().insert(header::CONNECTION, "close".parse().unwrap());
            }
            response
        }
    }
}

/// Cuts frames into pieces of random length. Equal frames have equal cuts.
fn pieces(frames: &[String]) -> Vec<Bytes> {
    let all: Vec<u8> = frames.concat().into_bytes();
    let (mut rest, mut pieces, mut random) = (&all[..], Vec::new(), all.len() as u64 | 1);
    while !rest.is_empty() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (piece, more) = rest.split_at(rest.len().min(1 + (random >> 33) as usize % 150));
        pieces.push(Bytes::copy_from_slice(piece));
        rest = more;
    }
    pieces
}

#[allow(clippy::result_large_err, reason = "tungstenite's signature")]
async fn socket(stream: tokio::net::TcpStream, server: Arc<Server>) {
    let mut headers = HeaderMap::new();
    let mut path = String::new();
    let check = |upgrade: &Upgrade, response: Upgraded| {
        headers = upgrade.headers().clone();
        path = upgrade.uri().path().to_owned();
        let is_allowed = server.key.is_none_or(|key| {
            headers
                .get("authorization")
                .is_some_and(|value| value.as_bytes() == format!("Bearer {key}").as_bytes())
        });
        if is_allowed {
            return Ok(response);
        }
        server.refused.fetch_add(1, Relaxed);
        let mut refusal = ErrorResponse::new(Some("wrong key".into()));
        *refusal.status_mut() = StatusCode::UNAUTHORIZED;
        Err(refusal)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, check).await else { return };
    server.connections.fetch_add(1, Relaxed);
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let body = serde_json::from_str(&text).unwrap();
        let Reply::Stream(frames, end) = server.reply("MESSAGE", &path, &headers, body) else { continue };
        for frame in frames {
            if socket.send(Message::text(frame)).await.is_err() {
                return;
            }
        }
        match end {
            End::Whole | End::Hang => {}
            End::Abort => return,
            End::Close(code) => {
                let frame = CloseFrame { code: CloseCode::from(code), reason: "the test closes it".into() };
                let _ = socket.close(Some(frame)).await;
            }
        }
    }
}

/// The frames of a chat answer with so many words. With `numbered`, as the simulator sends them.
pub fn chat(words: u64, numbered: bool) -> Vec<String> {
    let chunk = |choices: Value, more: Value| {
        let mut chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, "usage": null});
        chunk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format!("data: {chunk}\n\n")
    };
    let delta = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    let mut frames = vec![": comment\n\n".to_owned()];
    frames.push(chunk(delta(json!({"role": "assistant", "content": ""}), Value::Null), json!({})));
    for word in 1..=words {
        let more = if numbered { json!({"x_seq": word}) } else { json!({}) };
        frames.push(chunk(delta(json!({"content": format!("wörd{word} ")}), Value::Null), more));
    }
    frames.push(chunk(delta(json!({}), json!("stop")), json!({})));
    let usage = json!({"usage": {"prompt_tokens": 3, "completion_tokens": words, "total_tokens": words + 3}});
    frames.push(chunk(json!([]), usage));
    frames.push("data: [DONE]\n\n".to_owned());
    frames
}

/// The events of an answer of Responses with so many words, as JSON.
pub fn responses(id: &str, words: u64) -> Vec<String> {
    let mut events = Vec::new();
    let mut push = |kind: &str, mut event: Value| {
        event["type"] = kind.into();
        event["sequence_number"] = (events.len() as u64).into();
        events.push(event.to_string());
    };
    let response = |status: &str, usage: Value| json!({"response": {"id": id, "object": "response", "status": status, "output": [], "usage": usage}});
    push("response.created", response("in_progress", Value::Null));
    push("response.in_progress", response("in_progress", Value::Null));
    push(
        "response.output_item.added",
        json!({"output_index": 0, "item": {"id": "msg_1", "type": "message"}}),
    );
    let place = json!({"item_id": "msg_1", "output_index": 0, "content_index": 0});
    let placed = |name: &str, value: Value| {
        let mut event = place.clone();
        event[name] = value;
        event
    };
    push("response.content_part.added", placed("part", json!({"type": "output_text", "text": ""})));
    let texts: Vec<_> = (1..=words).map(|word| format!("wörd{word} ")).collect();
    for text in &texts {
        push("response.output_text.delta", placed("delta", text.as_str().into()));
    }
    push("response.output_text.done", placed("text", texts.concat().into()));
    push(
        "response.content_part.done",
        placed("part", json!({"type": "output_text", "text": texts.concat()})),
    );
    push("response.output_item.done", json!({"output_index": 0, "item": {"id": "msg_1"}}));
    push(
        "response.completed",
        response("completed", json!({"input_tokens": 3, "output_tokens": words, "total_tokens": words + 3})),
    );
    events
}

/// Frames of server-sent events for these events.
pub fn framed(events: &[String]) -> Vec<String> {
    let frame = |event: &String| {
        let value: Value = serde_json::from_str(event).unwrap();
        format!("event: {}\ndata: {event}\n\n", value["type"].as_str().unwrap())
    };
    events.iter().map(frame).collect()
}
