//! The server of the calibration tests: it plays a known schedule and records when it wrote each frame.

#[path = "../background/mod.rs"]
mod background;

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    routing::post,
    serve::ListenerExt,
};
use futures_util::{SinkExt, StreamExt};
use protocol::{CloseResponse, CreateResponse, Position, RunRequest, RunResponse, SessionId};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::tungstenite::{
    Message,
    handshake::server::{Request as Upgrade, Response as Upgraded},
};
use tokio_util::sync::DropGuard;
use uuid::Uuid;

/// The schedule of a server's queries.
#[derive(Clone, Copy, Debug)]
pub struct Play {
    pub tokens: u64,
    /// Range of the delay before the first token, in milliseconds, uniformly distributed.
    pub first: (u64, u64),
    /// Range of the delay after each token, in milliseconds, uniformly distributed.
    pub gap: (u64, u64),
}

/// When the server received a query and wrote its events.
#[derive(Clone, Debug)]
pub struct Truth {
    pub run_received: Instant,
    pub tokens_written: Vec<Instant>,
    pub done_written: Option<Instant>,
}

impl Truth {
    /// Returns the query's time to first token, its duration, its time per output token and the gaps between tokens, in milliseconds.
    #[allow(clippy::cast_precision_loss)]
    pub fn latencies(&self) -> (f64, f64, f64, Vec<f64>) {
        let ms = |from: Instant, to: Instant| to.duration_since(from).as_nanos() as f64 / 1e6;
        let written = &self.tokens_written;
        let (first, last) = (written[0], *written.last().unwrap());
        let gaps: Vec<_> = written.windows(2).map(|pair| ms(pair[0], pair[1])).collect();
        let (received, done) = (self.run_received, self.done_written.unwrap());
        (ms(received, first), ms(received, done), ms(first, last) / gaps.len() as f64, gaps)
    }
}

/// The queries by session and number of the query.
pub type Book = HashMap<(String, u64), Truth>;

/// A query on its way from `/run` to the session's socket.
#[derive(Debug)]
struct Order {
    key: (String, u64),
    generation: u64,
    /// Due times and frames in reverse order, because the next one is taken from the end.
    frames: Vec<(Instant, String)>,
}

#[derive(Clone)]
struct Ruler {
    play: Play,
    book: Arc<Mutex<Book>>,
    random: Arc<Mutex<SmallRng>>,
    sockets: Arc<Mutex<HashMap<String, mpsc::Sender<Order>>>>,
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ruler {
    /// Handles `/run`. Reads the clock before anything else.
    async fn run(
        State(ruler): State<Self>,
        Path(session): Path<String>,
        request: Request,
    ) -> Json<RunResponse> {
        let run_received = Instant::now();
        let body = axum::body::to_bytes(request.into_body(), 1 << 16).await.unwrap();
        let body: RunRequest = serde_json::from_slice(&body).unwrap();
        let query_id = body.query_id.unwrap_or_default();
        let order = ruler.order(&session, &query_id, run_received);
        let answer = RunResponse {
            status: "streaming".to_owned(),
            query_id: Some(query_id),
            generation: Some(order.generation),
            tokens: Some(ruler.play.tokens),
            boot_id: host::boot_id(),
            ..RunResponse::default()
        };
        let socket = locked(&ruler.sockets).get(&session).cloned().expect("the client connects first");
        socket.send(order).await.unwrap();
        Json(answer)
    }

    fn order(&self, session: &str, query_id: &str, run_received: Instant) -> Order {
        let (mut book, mut random) = (locked(&self.book), locked(&self.random));
        let number = 1 + book.keys().filter(|(of, _)| of == session).count() as u64;
        let key = (session.to_owned(), number);
        let truth = Truth { run_received, tokens_written: Vec::new(), done_written: None };
        book.insert(key.clone(), truth);
        let mut draw = |(least, most)| Duration::from_millis(random.random_range(least..=most));
        let mut due = run_received + draw(self.play.first);
        let mut frames = Vec::new();
        for seq in 1..=self.play.tokens {
            frames.push((due, token(number, seq, query_id)));
            due += draw(self.play.gap);
        }
        let mut done = Vec::new();
        let position = Position::new(number, self.play.tokens + 1);
        protocol::encode_done(&mut done, position, query_id, 0, 0);
        frames.push((due, String::from_utf8(done).unwrap()));
        frames.reverse();
        Order { key, generation: number, frames }
    }

    async fn create(State(_): State<Self>) -> Json<CreateResponse> {
        Json(CreateResponse { session_id: SessionId::new(Uuid::new_v4()), auth_token: "ruler".to_owned() })
    }

    async fn close(State(ruler): State<Self>, Path(session): Path<String>) -> Json<CloseResponse> {
        locked(&ruler.sockets).remove(&session);
        Json(CloseResponse { status: "closed".to_owned() })
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(self.clone().socket(stream));
        }
    }

    /// Handles the socket of one session: plays its queries until the session is closed.
    async fn socket(self, stream: TcpStream) {
        let (orders, mut incoming) = mpsc::channel(4);
        let sockets = Arc::clone(&self.sockets);
        // Registers the socket before the client gets the response 101, because a fast client submits its query at once.
        #[allow(clippy::result_large_err)]
        let register = move |request: &Upgrade, response: Upgraded| {
            let session = request.uri().path().rsplit('/').next().unwrap_or_default();
            locked(&sockets).insert(session.to_owned(), orders);
            Ok(response)
        };
        let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, register).await else { return };
        let mut playing: Option<Order> = None;
        loop {
            let due = playing.as_ref().and_then(|order| order.frames.last()).map(|(due, _)| *due);
            tokio::select! {
                order = incoming.recv(), if playing.is_none() => match order {
                    Some(order) => playing = Some(order),
                    None => {
                        let _ = socket.close(None).await;
                        return;
                    }
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    let order = playing.as_mut().expect("something is due");
                    let (_, frame) = order.frames.pop().expect("something is due");
                    let is_done = order.frames.is_empty();
                    let written = Instant::now();
                    if socket.send(Message::text(frame)).await.is_err() {
                        return;
                    }
                    self.note(&order.key, written, is_done);
                    if is_done {
                        playing = None;
                    }
                }
                message = socket.next() => if !matches!(message, Some(Ok(_))) { return },
            }
        }
    }

    fn note(&self, key: &(String, u64), written: Instant, is_done: bool) {
        if let Some(truth) = locked(&self.book).get_mut(key) {
            if is_done {
                truth.done_written = Some(written);
            } else {
                truth.tokens_written.push(written);
            }
        }
    }
}

fn token(generation: u64, seq: u64, query_id: &str) -> String {
    let mut frame = Vec::new();
    protocol::encode_token(&mut frame, Position::new(generation, seq), "word", query_id, 0, 0);
    String::from_utf8(frame).unwrap()
}

/// A running server on its own thread. It ends when this value is dropped.
pub struct Running {
    pub api: SocketAddr,
    pub ws: SocketAddr,
    pub book: Arc<Mutex<Book>>,
    _end: DropGuard,
}

impl Running {
    pub fn start(play: Play) -> Self {
        let book = Arc::<Mutex<Book>>::default();
        let ruler = Ruler {
            play,
            book: Arc::clone(&book),
            random: Arc::new(Mutex::new(SmallRng::seed_from_u64(1906))),
            sockets: Arc::default(),
        };
        let ([api, ws], _end) = background::serve(|[api, ws]| async {
            let router = Router::new()
                .route("/session/create", post(Ruler::create))
                .route("/session/{id}/run", post(Ruler::run))
                .route("/session/{id}/close", post(Ruler::close))
                .with_state(ruler.clone());
            let api = api.tap_io(|stream| stream.set_nodelay(true).unwrap());
            tokio::select! {
                result = axum::serve(api, router) => result.unwrap(),
                () = ruler.accept(ws) => {}
            }
        });
        Self { api, ws, book, _end }
    }
}
