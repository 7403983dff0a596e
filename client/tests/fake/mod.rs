//! The scripted server: a server and a gateway in one, whose behaviour and defects a test defines with a [`Script`].
//! It keeps the log of every session, so a replay sends the same frames again.
#![allow(dead_code, reason = "each test binary uses its part")]

#[path = "../background/mod.rs"]
pub mod background;
mod script;
mod socket;

pub use script::{Action, Script};
#[allow(unused_imports, reason = "each test binary uses its part")]
pub use script::{Edit, Extra, RolledEdit};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use protocol::{
    CreateResponse, GatewayStamps, Position, RolledTokens, RunRequest, RunResponse, SessionId, StampedToken,
    TokenPieces,
};
use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

/// The requests and sockets that the server has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub creates: u64,
    pub runs: u64,
    pub streams: u64,
    pub closes: u64,
    pub sockets: u64,
    pub resumed_after: Vec<String>,
    pub query_ids: Vec<String>,
    pub tokens: u64,
    pub rolled_frames: u64,
    /// Sockets that ended with the client's close frame.
    pub farewells: u64,
    /// Sockets that the client ended without a close frame.
    pub resets: u64,
    /// The addresses from which sockets were opened.
    pub peers: BTreeSet<IpAddr>,
    /// The target and headers of every call and upgrade.
    pub heads: Vec<(String, HeaderMap)>,
    /// How often a socket accepted no data for longer than [`Script::impatient`].
    pub out_of_patience: u64,
}

#[derive(Default)]
struct Session {
    log: Vec<(Position, String)>,
    generation: u64,
    answers: HashMap<String, RunResponse>,
    sockets: u64,
    closed: bool,
    /// Number of log entries that were sent to a socket which then ended with a close frame.
    handed_on: usize,
}

struct Fake {
    script: Script,
    seen: Mutex<Seen>,
    sessions: Mutex<HashMap<SessionId, Session>>,
    changed: watch::Sender<u64>,
    /// Number of streams that run.
    streams: AtomicUsize,
}

/// A running server. It ends when this value is dropped.
pub struct Running {
    pub api: String,
    pub ws: String,
    fake: Arc<Fake>,
    _end: DropGuard,
}

impl Running {
    pub fn start(script: Script) -> Self {
        let fake = Arc::new(Fake {
            script,
            seen: Mutex::default(),
            sessions: Mutex::default(),
            changed: watch::Sender::new(0),
            streams: AtomicUsize::new(0),
        });
        let served = Arc::clone(&fake);
        let ([http, ws], _end) = background::serve(|[http, ws]| async move {
            tokio::select! {
                _ = axum::serve(http, router(Arc::clone(&served))) => {}
                () = socket::accept(ws, served) => {}
            }
        });
        Self { api: format!("http://{http}"), ws: format!("ws://{ws}"), fake, _end }
    }

    pub fn seen(&self) -> Seen {
        self.fake.seen.lock().unwrap().clone()
    }
}

fn router(fake: Arc<Fake>) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/session/create", post(create))
        .route("/session/{id}/run", post(run))
        .route("/session/{id}/close", post(close))
        .layer(from_fn_with_state(Arc::clone(&fake), note))
        .with_state(fake)
}

async fn note(State(fake): State<Arc<Fake>>, request: Request, next: Next) -> Response {
    fake.seen.lock().unwrap().heads.push((request.uri().to_string(), request.headers().clone()));
    next.run(request).await
}

async fn ready(State(fake): State<Arc<Fake>>) -> Response {
    (StatusCode::from_u16(fake.script.ready).unwrap(), "<html><body><h1>as set</h1></body></html>")
        .into_response()
}

impl Fake {
    /// Returns whether the script leaves the call without a response.
    fn is_ignored(&self, call: &str, before: u64) -> bool {
        let calls = self.script.refuse.get(call);
        calls
            .and_then(|calls| calls.get(usize::try_from(before).unwrap()))
            .is_some_and(|&(status, _)| status == 0)
    }

    fn refusal(&self, call: &str, before: u64) -> Option<Response> {
        let (status, retry_after) = *self.script.refuse.get(call)?.get(usize::try_from(before).unwrap())?;
        if status == 200 {
            return None;
        }
        let mut headers = HeaderMap::new();
        if let Some(seconds) = retry_after {
            headers.insert(axum::http::header::RETRY_AFTER, seconds.parse().unwrap());
        }
        let body = Json(serde_json::json!({"detail": "set to refuse"}));
        Some((StatusCode::from_u16(status).unwrap(), headers, body).into_response())
    }

    /// Returns the pause after an event.
    fn pause(&self) -> Duration {
        let crowded = self.script.places.is_some_and(|places| self.streams.load(Relaxed) > places);
        self.script.itl * if crowded { 4 } else { 1 }
    }

    /// Appends the tokens that wait as one frame. A single token has a frame of its own.
    fn append_rolled(&self, session: SessionId, rolled: Option<RolledTokens>) {
        let Some(rolled) = rolled else { return };
        let frame = String::from_utf8(rolled.encode()).unwrap();
        let frames = if rolled.count() > 1 {
            let number = {
                let mut seen = self.seen.lock().unwrap();
                seen.rolled_frames += 1;
                seen.rolled_frames
            };
            (self.script.rolled)(number, frame)
        } else {
            vec![frame]
        };
        for frame in frames {
            self.append(session, rolled.last(), frame, 1);
        }
    }

    fn append(&self, session: SessionId, position: Position, frame: String, copies: usize) {
        let mut sessions = self.sessions.lock().unwrap();
        let log = &mut sessions.get_mut(&session).unwrap().log;
        log.extend(std::iter::repeat_n((position, frame), copies));
        self.changed.send_modify(|version| *version += 1);
    }
}

async fn create(State(fake): State<Arc<Fake>>) -> Response {
    let before = fake.seen.lock().unwrap().creates;
    fake.seen.lock().unwrap().creates += 1;
    if let Some(refusal) = fake.refusal("create", before) {
        return refusal;
    }
    let session_id = SessionId::new(uuid::Uuid::new_v4());
    fake.sessions.lock().unwrap().insert(session_id, Session::default());
    if fake.script.no_token {
        return Json(serde_json::json!({"session_id": session_id})).into_response();
    }
    Json(CreateResponse { session_id, auth_token: "token".into() }).into_response()
}

async fn run(
    State(fake): State<Arc<Fake>>,
    Path(id): Path<SessionId>,
    Json(body): Json<RunRequest>,
) -> Response {
    let query_id = body.query_id.unwrap();
    let before = {
        let mut seen = fake.seen.lock().unwrap();
        seen.runs += 1;
        seen.query_ids.push(query_id.clone());
        seen.runs - 1
    };
    if fake.is_ignored("run", before) {
        return std::future::pending().await;
    }
    if let Some(refusal) = fake.refusal("run", before) {
        return refusal;
    }
    let old = fake.script.old_contract;
    let (answer, fresh) = {
        let mut sessions = fake.sessions.lock().unwrap();
        let session = sessions.get_mut(&id).unwrap();
        if let Some(answer) = session.answers.get(&query_id) {
            (answer.clone(), false)
        } else {
            session.generation += 1;
            let answer = RunResponse {
                status: "streaming".into(),
                query_id: (!old).then(|| query_id.clone()),
                generation: (!old).then_some(session.generation),
                tokens: (!old).then_some(fake.script.tokens),
                boot_id: host::boot_id().filter(|_| !old),
                server: None,
                ideal_ttft_ms: (!old).then_some(0.0),
                ideal_e2el_ms: (!old)
                    .then_some(fake.script.itl.as_secs_f64() * 1e3 * fake.script.tokens as f64),
                ideal_gap_ms: (!old).then_some(fake.script.itl.as_secs_f64() * 1e3),
            };
            session.answers.insert(query_id.clone(), answer.clone());
            (answer, true)
        }
    };
    if fresh {
        fake.seen.lock().unwrap().streams += 1;
        let generation = fake.sessions.lock().unwrap()[&id].generation;
        let streaming = Arc::clone(&fake);
        tokio::spawn(async move {
            streaming.streams.fetch_add(1, Relaxed);
            stream(Arc::clone(&streaming), id, generation, query_id).await;
            streaming.streams.fetch_sub(1, Relaxed);
        });
        if fake.script.lose_first_answer {
            return StatusCode::BAD_GATEWAY.into_response();
        }
    }
    if let Some(body) = fake.script.bare_answer {
        return body.into_response();
    }
    Json(answer).into_response()
}

impl Fake {
    /// Writes the frame of a token, with the gateway's times if the script has them.
    fn token(&self, frame: &mut Vec<u8>, position: Position, content: &str, query_id: &str, now: u64) {
        let Some(before) = self.script.stamped else {
            return protocol::encode_token(frame, position, content, query_id, now, now);
        };
        let [due, sent, received_us, written_us] = before.map(|ms| now - ms * 1_000);
        protocol::encode_token(frame, position, content, query_id, due, sent);
        if position.seq % 16 == 1 {
            let stamps = GatewayStamps { received_us, written_us };
            *frame = StampedToken::new(frame, stamps).unwrap().into_frame();
        }
    }
}

async fn stream(fake: Arc<Fake>, session: SessionId, generation: u64, query_id: String) {
    if fake.script.silent {
        return;
    }
    if let Some(frames) = fake.script.frames {
        for (seq, frame) in (1..).zip(frames.lines()) {
            fake.append(session, Position::new(generation, seq), frame.to_owned(), 1);
        }
        return;
    }
    if fake.script.stamped.is_some() {
        // The first token must not seem to be older than its socket.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let stops = fake.script.stops_above.is_some_and(|most| fake.streams.load(Relaxed) > most);
    let mut digester = protocol::Digester::default();
    let mut held: Option<(Position, String)> = None;
    let mut rolled: Option<RolledTokens> = None;
    for seq in 1..=fake.script.tokens + 1 {
        if stops && seq > fake.script.tokens / 2 {
            return;
        }
        let position = Position::new(generation, seq);
        let done = seq > fake.script.tokens;
        let now = host::monotonic_us();
        let mut frame = Vec::new();
        let action = if done {
            match fake.script.error {
                Some(code) => {
                    protocol::encode_error(&mut frame, position, code, "set to", &query_id, now, now);
                }
                None if fake.script.digest => {
                    let digest = digester.digest();
                    protocol::encode_verified_done(&mut frame, position, digest, &query_id, now, now);
                }
                None => protocol::encode_done(&mut frame, position, &query_id, now, now),
            }
            Action::Send
        } else {
            let content = match fake.script.rollup {
                Some(_) => format!("{}{seq} ", fake.script.content),
                None => fake.script.content.clone(),
            };
            fake.token(&mut frame, position, &content, &query_id, now);
            let number = {
                let mut seen = fake.seen.lock().unwrap();
                seen.tokens += 1;
                seen.tokens
            };
            let action = (fake.script.edit)(number);
            if let Some(extra) = (fake.script.extra)(number) {
                fake.append(session, position, extra.to_owned(), 1);
            }
            let sent = if action == Action::Garble { "other " } else { &content };
            digester.token(sent);
            action
        };
        let mut frame = String::from_utf8(frame).unwrap();
        if let Some(digest) = fake.script.digest_as {
            frame = frame.replace(&format!("\"{}\"", digester.digest()), digest);
        }
        if fake.script.old_contract {
            frame = format!(
                r#"{{"type":"{}","content":"{}"}}"#,
                if done { "done" } else { "token" },
                if done { "" } else { "x" }
            );
        }
        match action {
            Action::Send if fake.script.rollup.is_some() && seq > 1 && !done => {
                let token = TokenPieces::split(frame.as_bytes()).unwrap();
                match &mut rolled {
                    Some(rolled) => assert!(rolled.push(token)),
                    None => rolled = Some(RolledTokens::new(token)),
                }
                if rolled.as_ref().map(RolledTokens::count) == fake.script.rollup {
                    fake.append_rolled(session, rolled.take());
                }
            }
            Action::Send | Action::Garble if rolled.is_some() => {
                fake.append_rolled(session, rolled.take());
                fake.append(session, position, frame, 1);
            }
            Action::Send | Action::Garble => fake.append(session, position, frame, 1),
            Action::Double => fake.append(session, position, frame, 2),
            Action::Drop => {}
            Action::Swap => {
                held = Some((position, frame));
                tokio::time::sleep(fake.pause()).await;
                continue;
            }
        }
        if let Some((position, frame)) = held.take() {
            fake.append(session, position, frame, 1);
        }
        if done && fake.script.token_after_end {
            let (position, mut frame) = (Position::new(generation, seq + 1), Vec::new());
            protocol::encode_token(&mut frame, position, "more ", &query_id, now, now);
            fake.append(session, position, String::from_utf8(frame).unwrap(), 1);
        }
        // The terminator ends the stream.
        if !done {
            tokio::time::sleep(fake.pause()).await;
        }
    }
}

async fn close(State(fake): State<Arc<Fake>>, Path(id): Path<SessionId>) -> Response {
    let before = fake.seen.lock().unwrap().closes;
    fake.seen.lock().unwrap().closes += 1;
    if let Some(refusal) = fake.refusal("close", before) {
        return refusal;
    }
    fake.sessions.lock().unwrap().get_mut(&id).unwrap().closed = true;
    fake.changed.send_modify(|version| *version += 1);
    match fake.script.closed {
        200 => Json(serde_json::json!({"status": "closed"})).into_response(),
        status => StatusCode::from_u16(status).unwrap().into_response(),
    }
}
