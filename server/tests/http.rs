//! The HTTP contract over a real listener, on the recording bus and on the bus in memory.

#[path = "../../crates/telemetry/tests/collector/mod.rs"]
mod collector;
mod recording;

use bus::{Broker, BusConfig, MemoryBroker};
use parking_lot::Mutex;
use protocol::{Kind, Position, Prefix, RunResponse, Secret, SessionId, Verifier};
use recording::{Failure, RecordingBroker, shape};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use server::{Config, DEFAULT_TEXT};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const KEY: &str = "a key of thirty-two bytes or more";
const PATIENCE: Duration = Duration::from_secs(10);

struct Server {
    address: SocketAddr,
    client: Client,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

fn config() -> Config {
    Config { seed: 1, read_timeout: Duration::from_secs(2), ..Config::new(Secret::new(KEY).unwrap()) }
}

async fn serve(bus: Arc<dyn Broker>, config: Config) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(server::run(listener, config, bus, shutdown.clone()));
    Server { address, client: Client::builder().no_proxy().build().unwrap(), shutdown, task }
}

async fn recorded(config: Config) -> (Arc<RecordingBroker>, Server) {
    let bus = Arc::new(RecordingBroker::default());
    let server = serve(bus.clone(), config).await;
    (bus, server)
}

impl Server {
    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.client.post(format!("http://{}{path}", self.address)).body(body).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("http://{}{path}", self.address)).send().await.unwrap()
    }

    async fn create(&self) -> SessionId {
        let answer: Value = self.post("/session/create", "").await.json().await.unwrap();
        answer["session_id"].as_str().unwrap().parse().unwrap()
    }

    async fn run(&self, session: SessionId, body: Value) -> Response {
        self.post(&format!("/session/{session}/run"), body.to_string()).await
    }

    async fn accepted(&self, session: SessionId, body: Value) -> RunResponse {
        let response = self.run(session, body).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }

    async fn check(&self, path: &str, body: impl Into<reqwest::Body>, status: u16, detail: &str) {
        refused(self.post(path, body).await, status, detail).await;
    }

    async fn end(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.expect("the server ends").unwrap().unwrap();
    }
}

async fn refused(response: Response, status: u16, detail: &str) {
    assert_eq!(response.status().as_u16(), status);
    let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(retry_after.is_some(), matches!(status, 429 | 503), "{status}: {retry_after:?}");
    assert!(retry_after.is_none_or(|seconds| seconds.parse::<u64>().is_ok()));
    let body: Value = response.json().await.unwrap();
    let said = body["detail"].as_str().unwrap();
    assert!(said.contains(detail), "{said} does not contain {detail}");
}

#[tokio::test]
async fn bad_input_gets_a_clear_error() {
    let (bus, server) = recorded(config()).await;
    let session = server.create().await;
    let run = format!("/session/{session}/run");
    let unknown = "/session/0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11";
    let query = r#"{"query":"x"}"#;
    server.check(&format!("{unknown}/run"), query, 404, "Session not found").await;
    server.check(&format!("{unknown}/close"), "", 404, "Session not found").await;
    for id in ["x", "*", "%00", "%ff", "..%2f", "0b8a1c523b0e4f579d1f5b7f8a2c9e11"] {
        server.check(&format!("/session/{id}/run"), query, 404, "Session not found").await;
        server.check(&format!("/session/{id}/close"), "", 404, "Session not found").await;
    }
    server.check("/nowhere", "", 404, "Not Found").await;
    refused(server.get(&run).await, 405, "Method Not Allowed").await;
    for (body, detail) in [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ("{}", "`query` is missing"),
        (r#"{"query":1}"#, "`query` must be a string, not 1"),
        (r#"{"query":"x","tokens":0}"#, "`tokens` must be a whole number from 1 to 1000000, not 0"),
        (r#"{"query":"x","ttft_ms":-1}"#, "`ttft_ms` must be"),
        (r#"{"query":"x","itl_ms":3600001}"#, "`itl_ms` must be"),
        (r#"{"query":"x","query_id":""}"#, "`query_id` must be"),
    ] {
        server.check(&run, body, 422, detail).await;
    }
    server.check(&run, vec![0xff; 10], 422, "not JSON").await;
    server.check(&run, vec![b' '; (1 << 20) + 1], 413, "larger than 1048576 bytes").await;
    server.check("/session/create", vec![b' '; (1 << 20) + 1], 413, "larger").await;
    assert!(bus.events().is_empty());
    server.end().await;
}

#[tokio::test]
async fn a_session_from_create_to_close() {
    let (bus, server) = recorded(config()).await;
    let created: Value = server.post("/session/create", "").await.json().await.unwrap();
    let session: SessionId = created["session_id"].as_str().unwrap().parse().unwrap();
    let verifier = Verifier::new(&Secret::new(KEY).unwrap());
    let token = created["auth_token"].as_str().unwrap();
    assert_eq!(verifier.verify(token, session, host::unix_time()).unwrap().until, None);

    let query = json!({"query": "hello", "query_id": "q1", "tokens": 20, "ttft_ms": 3, "itl_ms": 1.5});
    let answer = server.accepted(session, query.clone()).await;
    assert_eq!((answer.status.as_str(), answer.tokens), ("streaming", Some(20)));
    let ideal = [answer.ideal_ttft_ms, answer.ideal_e2el_ms, answer.ideal_gap_ms];
    assert_eq!(ideal, [Some(3.0), Some(33.0), Some(3.0)]);
    assert_eq!((answer.query_id.as_deref(), answer.boot_id.clone()), (Some("q1"), host::boot_id()));
    let events = bus.until_terminated(session).await;
    assert_eq!(shape(&events), (20, Some(Kind::Done)));
    assert_eq!(Some(events[0].0.position.generation), answer.generation);

    assert_eq!(server.accepted(session, query).await, answer, "a repeated call must get the same response");
    assert_eq!(bus.events_of(session).len(), 21, "a repeated call must not start a stream");

    let next = server.accepted(session, json!({"query": "", "query_id": "q2", "itl_ms": 60_000})).await;
    assert!(next.generation > answer.generation);
    refused(server.run(session, json!({"query": "x"})).await, 409, "running").await;
    bus.until("the first token", |bus| bus.events_of(session).len() == 22).await;
    for _ in 0..2 {
        let closed: Value = server.post(&format!("/session/{session}/close"), "").await.json().await.unwrap();
        assert_eq!(closed, json!({"status": "closed"}));
    }
    let events = bus.until_terminated(session).await;
    assert!(events.last().unwrap().1.contains(r#""code":"closed""#));
    refused(server.run(session, json!({"query": "x"})).await, 409, "closed").await;

    let page = server.get("/metrics").await.text().await.unwrap();
    for line in [
        "server_tokens_total 21",
        "server_runs_repeated_total 1",
        "server_streams_ended_total{outcome=\"closed\"} 1",
        "server_pace_lag_seconds_count 22",
        "bus_appended_total 23",
    ] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    server.end().await;
}

/// A claim whose reply was lost is repeated, and its stream starts once.
#[tokio::test]
async fn a_lost_claim_is_recognised() {
    let (bus, server) = recorded(config()).await;
    let session = server.create().await;
    bus.fail_claims(&[Failure::Lost, Failure::AnswerLost]);
    server.accepted(session, json!({"query": "x", "query_id": "q", "itl_ms": 0})).await;
    assert_eq!(shape(&bus.until_terminated(session).await), (18, Some(Kind::Done)));
    server.end().await;
}

#[tokio::test]
async fn an_absent_bus_and_full_streams_are_temporary() {
    let (bus, server) = recorded(Config { max_streams: 1, ..config() }).await;
    bus.set_ready(false);
    server.check("/session/create", "", 503, "the bus").await;
    refused(server.get("/ready").await, 503, "the bus").await;
    assert_eq!(server.get("/health").await.status(), 200);
    bus.set_ready(true);
    assert_eq!(server.get("/ready").await.status(), 200);
    let (a, b) = (server.create().await, server.create().await);
    let first = server.accepted(a, json!({"query": "x", "query_id": "q", "itl_ms": 60_000})).await;
    refused(server.run(b, json!({"query": "x"})).await, 429, "MAX_STREAMS=1").await;
    let repeated = server.accepted(a, json!({"query": "x", "query_id": "q"})).await;
    assert_eq!(
        repeated.generation, first.generation,
        "a repeated call for a running query must succeed even if all streams are in use"
    );
    server.post(&format!("/session/{a}/close"), "").await;
    bus.until_terminated(a).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while server.run(b, json!({"query": "x", "itl_ms": 0})).await.status() != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the stream did not return its permit");
    }
    server.end().await;
}

#[tokio::test]
async fn a_drain_finishes_running_queries_and_refuses_new_ones() {
    let (bus, server) = recorded(config()).await;
    let session = server.create().await;
    let first =
        server.accepted(session, json!({"query_id": "q", "query": "x", "tokens": 10, "itl_ms": 30})).await;
    server.shutdown.cancel();
    refused(server.get("/ready").await, 503, "shutting down").await;
    let repeated = server.accepted(session, json!({"query": "x", "query_id": "q"})).await;
    assert_eq!(repeated.generation, first.generation);
    server.check("/session/create", "", 503, "shutting down").await;
    refused(server.run(session, json!({"query": "y"})).await, 503, "shutting down").await;
    assert_eq!(server.get("/health").await.status(), 200);
    let address = server.address;
    server.end().await;
    assert_eq!(bus.shape_of(session), (10, Some(Kind::Done)));
    assert!(TcpStream::connect(address).await.is_err(), "the listener must be closed");
}

/// Returns a server that drains for 50 ms, and a session whose query has sent its first token and does not end by itself.
async fn draining_soon() -> (Arc<RecordingBroker>, Server, SessionId) {
    let (bus, server) = recorded(Config { drain: Duration::from_millis(50), ..config() }).await;
    let session = server.create().await;
    server.accepted(session, json!({"query": "x", "itl_ms": 60_000})).await;
    bus.until("the first token", |bus| bus.events_of(session).len() == 1).await;
    (bus, server, session)
}

#[tokio::test]
async fn a_drain_ends_in_time() {
    let (bus, server, session) = draining_soon().await;
    server.end().await;
    let events = bus.events_of(session);
    assert_eq!(shape(&events), (1, Some(Kind::Error)));
    assert!(events[1].1.contains(r#""code":"shutdown""#));
    assert!(bus.has_left(), "the server must leave, so that others do not wait for it");
}

/// Other servers end a query whose last events the bus did not accept, because this server is still listed.
#[tokio::test]
async fn a_server_does_not_leave_before_its_last_event_is_acknowledged() {
    let (bus, server, session) = draining_soon().await;
    bus.open_gate(false);
    server.end().await;
    assert_eq!(bus.shape_of(session), (1, None));
    assert!(!bus.has_left());
}

/// Connections without a request, and with a request that arrives too slowly, are closed.
#[tokio::test]
async fn silent_and_slow_connections_are_closed() {
    let (_, server) = recorded(Config { read_timeout: Duration::from_millis(100), ..config() }).await;
    let create = "POST /session/create HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nx";
    for (sent, expected) in [("", ""), ("GET /hea", ""), (create, "HTTP/1.1 408")] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer))
            .await
            .expect("the server closes the connection")
            .unwrap();
        assert!(answer.starts_with(expected), "{sent:?}: {answer}");
    }
    server.end().await;
}

#[tokio::test]
async fn connections_have_a_limit() {
    let (_, server) = recorded(Config { max_connections: 2, ..config() }).await;
    let health = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let ask = async || {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let _ = socket.write_all(health.as_bytes()).await;
        let mut answer = String::new();
        let _ = timeout(PATIENCE, socket.read_to_string(&mut answer)).await.expect("an end");
        answer
    };
    let held = [
        TcpStream::connect(server.address).await.unwrap(),
        TcpStream::connect(server.address).await.unwrap(),
    ];
    // The server accepts connections in order, so these two are accepted before the next one.
    assert_eq!(ask().await, "");
    drop(held);
    timeout(PATIENCE, async { while !ask().await.starts_with("HTTP/1.1 200") {} }).await.expect("room again");
    let page = server.get("/metrics").await.text().await.unwrap();
    assert!(page.contains(r#"server_not_accepted_total{reason="too_many_connections"}"#), "{page}");
    server.end().await;
}

/// The bytes of bodies that arrive slowly count towards one budget of all connections.
#[tokio::test]
async fn slow_bodies_share_a_budget() {
    let (_, server) = recorded(Config { body_bytes: 80_000, ..config() }).await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /session/create HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(&[b' '; 60_000]).await.unwrap();
    let metric = async |line: &str| {
        let shown = async {
            while !server.get("/metrics").await.text().await.unwrap().lines().any(|found| found == line) {}
        };
        timeout(PATIENCE, shown).await.unwrap_or_else(|_| panic!("no {line}"));
    };
    metric("server_body_bytes 60000").await;
    server.check("/session/create", vec![b' '; 30_000], 503, "too many bodies").await;
    assert_eq!(
        server.post("/session/create", "{}").await.status(),
        200,
        "small bodies must still fit into the budget"
    );
    drop(slow);
    metric("server_body_bytes 0").await;
    server.end().await;
}

/// A stream is measured as a whole, and a server pushes its last metrics when it ends.
#[tokio::test]
async fn streams_are_measured_and_their_metrics_are_pushed() {
    let (address, exports) = collector::collector("200 OK");
    let otlp = Some(telemetry::push_url(&format!("http://{address}")).unwrap());
    let (bus, server) = recorded(Config { otlp, ..config() }).await;
    let session = server.create().await;
    server.accepted(session, json!({"query": "x", "tokens": 4})).await;
    bus.until_terminated(session).await;
    let page = server.get("/metrics").await.text().await.unwrap();
    for line in [
        "server_ttft_seconds_count 1",
        "server_tpot_seconds_bucket{le=\"0.04\"} 0",
        "server_tpot_seconds_bucket{le=\"0.1\"} 1",
        "server_stream_seconds_bucket{le=\"0.1\"} 0",
        "server_stream_seconds_count 1",
        "otlp_exports_total 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert!(
        page.contains("\nserver_append_seconds_count ") && page.contains("\nprocess_open_fds "),
        "{page}"
    );
    server.end().await;
    let export = exports.recv_timeout(PATIENCE).expect("an export");
    let export = String::from_utf8_lossy(&export);
    for name in [
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.request.duration",
        "server_tokens",
        "service.name",
    ] {
        assert!(export.contains(name), "{name} was not pushed");
    }
}

#[derive(Default)]
struct Collector(Mutex<Vec<(Prefix, String)>>);

impl bus::Outlet for Collector {
    fn event(&self, prefix: Prefix, frame: &[u8]) {
        self.0.lock().push((prefix, String::from_utf8(frame.to_vec()).unwrap()));
    }
    fn gap(&self, from: Position, to: Position) {
        panic!("a gap from {from} to {to}");
    }
    fn behind(&self) {}
    fn end(&self, _: bus::LaneEnd) {}
}

/// The default text of the simulator arrives at a lane after a run call.
#[tokio::test]
async fn the_text_arrives_on_the_bus_in_memory() {
    let bus = Arc::new(MemoryBroker::new(BusConfig::new("memory://", "test")));
    let server = serve(bus.clone(), config()).await;
    let session = server.create().await;
    let collector = Arc::new(Collector::default());
    let start = bus::Start::After(Position::ZERO);
    let attachment = bus.attach(session, start, collector.clone()).await.unwrap();
    attachment.catch_up(100).await.unwrap();
    server.accepted(session, json!({"query": "x", "itl_ms": 1})).await;
    server.end().await;
    let events = collector.0.lock().clone();
    assert_eq!(shape(&events), (18, Some(Kind::Done)));
    let contents = events.iter().map(|(_, frame)| {
        serde_json::from_str::<Value>(frame).unwrap()["content"].as_str().unwrap().to_owned()
    });
    assert_eq!(contents.collect::<String>(), DEFAULT_TEXT);
}
