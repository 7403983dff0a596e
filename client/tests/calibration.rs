//! The ruler is measured: a server that plays a known schedule, and notes when it really wrote each frame, against what
//! the client says of it. Run it alone, on a machine that does nothing else: it compares milliseconds.

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
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};
use tokio_tungstenite::tungstenite::{
    Message,
    handshake::server::{Request as Upgrade, Response as Upgraded},
};
use uuid::Uuid;

/// Which tokens the ruler spoils, counted over all queries from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    DropEvery(u64),
    DoubleEvery(u64),
    /// With the token after it.
    SwapEvery(u64),
}

/// What a ruler plays.
#[derive(Clone, Copy, Debug)]
struct Play {
    fault: Fault,
    tokens: u64,
    /// Before the first token, in milliseconds: drawn evenly.
    first: (u64, u64),
    /// After each token, in milliseconds: drawn evenly.
    gap: (u64, u64),
}

/// What really happened in a query.
#[derive(Clone, Debug)]
struct Truth {
    run_received: Instant,
    tokens_written: Vec<Instant>,
    done_written: Option<Instant>,
}

/// What the ruler did, all in all.
#[derive(Clone, Debug, Default)]
struct Book {
    /// By session and number of the query.
    queries: HashMap<(String, u64), Truth>,
    tokens: u64,
    dropped: u64,
    doubled: u64,
    swapped: u64,
}

impl Book {
    /// The sequence numbers of one query's tokens as they are sent: spoiled as the play wants it, and counted.
    fn sequence(&mut self, play: Play) -> Vec<u64> {
        let mut sequence = Vec::new();
        let mut swap = false;
        for seq in 1..=play.tokens {
            self.tokens += 1;
            let (count, swap_with_last) = (self.tokens, std::mem::take(&mut swap));
            match play.fault {
                Fault::DropEvery(every) if count.is_multiple_of(every) => {
                    self.dropped += 1;
                    continue;
                }
                Fault::DoubleEvery(every) if count.is_multiple_of(every) => {
                    self.doubled += 1;
                    sequence.push(seq);
                }
                Fault::SwapEvery(every) => swap = count.is_multiple_of(every) && seq < play.tokens,
                _ => {}
            }
            sequence.push(seq);
            if swap_with_last {
                self.swapped += 1;
                let last = sequence.len() - 1;
                sequence.swap(last - 1, last);
            }
        }
        sequence
    }
}

/// A query on its way from `/run` to the session's socket.
#[derive(Debug)]
struct Order {
    key: (String, u64),
    generation: u64,
    /// Due time and frame, the terminator first: they are taken from the end.
    frames: Vec<(Instant, String)>,
}

#[derive(Clone)]
struct Ruler {
    play: Play,
    book: Arc<Mutex<Book>>,
    random: Arc<Mutex<SmallRng>>,
    sockets: Arc<Mutex<HashMap<String, mpsc::Sender<Order>>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ruler {
    /// Takes `/run` in: the time first, all else later.
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
            boot_id: protocol::boot_id(),
            ..RunResponse::default()
        };
        let socket = locked(&ruler.sockets).get(&session).cloned().expect("the client connects first");
        socket.send(order).await.unwrap();
        Json(answer)
    }

    fn order(&self, session: &str, query_id: &str, run_received: Instant) -> Order {
        let (mut book, mut random) = (locked(&self.book), locked(&self.random));
        let number = 1 + book.queries.keys().filter(|(of, _)| of == session).count() as u64;
        let key = (session.to_owned(), number);
        let truth = Truth { run_received, tokens_written: Vec::new(), done_written: None };
        book.queries.insert(key.clone(), truth);
        let mut draw = |(least, most)| Duration::from_millis(random.random_range(least..=most));
        let mut due = run_received + draw(self.play.first);
        let mut frames = Vec::new();
        for seq in book.sequence(self.play) {
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

    /// One session's socket: plays the orders that come, until the session is closed.
    async fn socket(self, stream: TcpStream) {
        let (orders, mut incoming) = mpsc::channel(4);
        let sockets = Arc::clone(&self.sockets);
        // Registered before the 101 goes out, or a fast client would submit to nobody.
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
        if let Some(truth) = locked(&self.book).queries.get_mut(key) {
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

/// A ruler on a thread of its own, until dropped.
struct Running {
    api: SocketAddr,
    ws: SocketAddr,
    book: Arc<Mutex<Book>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(play: Play) -> Self {
        let book = Arc::<Mutex<Book>>::default();
        let ruler = Ruler {
            play,
            book: Arc::clone(&book),
            random: Arc::new(Mutex::new(SmallRng::seed_from_u64(1906))),
            sockets: Arc::default(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let ws = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send((api.local_addr().unwrap(), ws.local_addr().unwrap())).unwrap();
                let router = Router::new()
                    .route("/session/create", post(Ruler::create))
                    .route("/session/{id}/run", post(Ruler::run))
                    .route("/session/{id}/close", post(Ruler::close))
                    .with_state(ruler.clone());
                let api = api.tap_io(|stream| stream.set_nodelay(true).unwrap());
                tokio::select! {
                    result = axum::serve(api, router) => result.unwrap(),
                    () = ruler.accept(ws) => {}
                    _ = stopped => {}
                }
            });
        });
        let (api, ws) = told.recv().unwrap();
        Self { api, ws, book, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the client wrote.
struct Report {
    exit_code: Option<i32>,
    output: String,
    summary: serde_json::Value,
    rows: Vec<HashMap<String, String>>,
}

impl Report {
    fn count(&self, key: &str) -> u64 {
        self.summary[key].as_u64().unwrap_or_else(|| panic!("no {key} in {}", self.summary))
    }
}

/// Runs the real client program against the ruler.
fn measure(ruler: &Running, clients: u64) -> Report {
    let results = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_client"))
        .env_clear()
        .args(["--clients", &clients.to_string(), "--queries", "2", "--seed", "1", "--workers", "1"])
        .args(["--api-url", &format!("http://{}", ruler.api), "--wsproxy-url", &format!("ws://{}", ruler.ws)])
        .arg("--output-dir")
        .arg(results.path())
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let file = |ending: &str| {
        let mut files = std::fs::read_dir(results.path()).unwrap().map(|entry| entry.unwrap().path());
        let found = files.find(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.strip_prefix("loadtest_").is_some_and(|rest| rest[15..] == *ending)
        });
        std::fs::read_to_string(found.unwrap_or_else(|| panic!("no {ending}: {text}"))).unwrap()
    };
    let rows = csv::Reader::from_reader(file(".csv").as_bytes()).deserialize().map(Result::unwrap).collect();
    let summary = serde_json::from_str(&file("_summary.json")).unwrap();
    Report { exit_code: output.status.code(), output: text, summary, rows }
}

/// Tests of this file take turns: each wants the machine for itself.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    locked(&TURN)
}

#[allow(clippy::cast_precision_loss)]
fn ms(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_nanos() as f64 / 1e6
}

/// The value at a quantile of a plain list.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn quantile(values: &mut [f64], quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (quantile * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

/// How far the client's figures were from the truth, in milliseconds: p50 and p99 of the differences.
fn errors(play: Play) -> Vec<(&'static str, f64, f64)> {
    let ruler = Running::start(play);
    let report = measure(&ruler, 100);
    assert_eq!(report.rows.len(), 200, "{}", report.output);
    for key in ["tokens_lost", "tokens_duplicated", "tokens_reordered"] {
        assert_eq!(report.count(key), 0, "{key}: {}", report.output);
    }
    let book = locked(&ruler.book).clone();
    let (mut ttft, mut e2el, mut tpot, mut gaps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in &report.rows {
        let value = |name: &str| row[name].parse::<f64>().unwrap_or_else(|_| panic!("{name}: {row:?}"));
        let number = row["query_num"].parse().unwrap();
        let truth = &book.queries[&(row["session_id"].clone(), number)];
        let written = &truth.tokens_written;
        let (first, last) = (written[0], *written.last().unwrap());
        ttft.push((value("ttft_ms") - ms(truth.run_received, first)).abs());
        e2el.push((value("e2el_ms") - ms(truth.run_received, truth.done_written.unwrap())).abs());
        #[allow(clippy::cast_precision_loss)]
        tpot.push((value("tpot_ms") - ms(first, last) / (written.len() - 1) as f64).abs());
        gaps.extend(written.windows(2).map(|pair| ms(pair[0], pair[1])));
    }
    let itl = &report.summary["metrics"]["itl_ms"];
    assert_eq!(itl["count"], gaps.len());
    let itl =
        |name: &str, at: f64, gaps: &mut [f64]| (itl[name].as_f64().unwrap() - quantile(gaps, at)).abs();
    let (itl_p50, itl_p99) = (itl("p50", 0.5, &mut gaps), itl("p99", 0.99, &mut gaps));
    vec![
        ("ttft", quantile(&mut ttft, 0.5), quantile(&mut ttft, 0.99)),
        ("e2el", quantile(&mut e2el, 0.5), quantile(&mut e2el, 0.99)),
        ("tpot", quantile(&mut tpot, 0.5), quantile(&mut tpot, 0.99)),
        ("itl", itl_p50, itl_p99),
    ]
}

/// Three attempts, all of them printed: whatever else the machine does adds to the errors, and a ruler that is wrong
/// by rule is wrong in every attempt. One that is wrong now and then needs a quiet machine and a look at the figures.
#[test]
fn what_is_measured_is_true() {
    let _turn = alone();
    let play = Play { fault: Fault::Nothing, tokens: 20, first: (5, 60), gap: (5, 40) };
    let within = |errors: &[(&str, f64, f64)]| errors.iter().all(|&(_, p50, p99)| p50 <= 2.0 && p99 <= 5.0);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let errors = errors(play);
        println!("errors in ms (p50, p99): {errors:?}");
        if within(&errors) {
            return;
        }
        seen.push(errors);
    }
    panic!("no run of three was within 2 ms at p50 and 5 ms at p99: {seen:?}");
}

fn check_fault(fault: Fault, key: &str, count: fn(&Book) -> u64) {
    let _turn = alone();
    let ruler = Running::start(Play { fault, tokens: 130, first: (1, 5), gap: (1, 4) });
    let report = measure(&ruler, 20);
    let book = locked(&ruler.book).clone();
    let truth = count(&book);
    assert!(truth > 0 && book.tokens == 20 * 2 * 130, "{book:?}");
    for other in ["tokens_lost", "tokens_duplicated", "tokens_reordered"] {
        let expected = if other == key { truth } else { 0 };
        assert_eq!(report.count(other), expected, "{other}: {}", report.output);
    }
    assert_eq!(report.count("tokens_expected"), book.tokens);
    assert_eq!(report.count("tokens_received"), book.tokens - book.dropped);
    let of_rows: u64 = report.rows.iter().map(|row| row[key].parse::<u64>().unwrap()).sum();
    assert_eq!(of_rows, truth);
    assert_eq!(report.summary["verdict"], "FAIL", "{}", report.output);
    assert_eq!(report.exit_code, Some(99), "{}", report.output);
}

#[test]
fn every_hundredth_token_dropped() {
    check_fault(Fault::DropEvery(100), "tokens_lost", |book| book.dropped);
}

#[test]
fn every_thousandth_token_doubled() {
    check_fault(Fault::DoubleEvery(1000), "tokens_duplicated", |book| book.doubled);
}

#[test]
fn two_tokens_swapped() {
    check_fault(Fault::SwapEvery(70), "tokens_reordered", |book| book.swapped);
}
