//! OpenAI's dialects over real sockets, on the bus in memory.

use bus::{BusConfig, MemoryBroker};
use futures_util::{SinkExt, StreamExt};
use protocol::Secret;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use server::{Config, OpenAiConfig};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
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

async fn serve(config: Config) -> Server {
    let bus = Arc::new(MemoryBroker::new(BusConfig::new("memory://", "test")));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(server::run(listener, config, bus, shutdown.clone()));
    Server { address, client: Client::builder().no_proxy().build().unwrap(), shutdown, task }
}

impl Server {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn request(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(self.url(path)).body(body.to_string())
    }

    async fn post(&self, path: &str, body: Value) -> Response {
        self.request(path, &body).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    /// Returns the data of a stream's events, and checks its content type.
    async fn events(&self, path: &str, body: Value) -> Vec<String> {
        events(self.post(path, body).await).await
    }

    /// Waits until a line of the metrics is there.
    async fn metric(&self, line: &str) {
        let waiting = async {
            while !self.get("/metrics").await.text().await.unwrap().contains(line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{line} is not in the metrics"));
    }

    async fn socket(&self) -> Socket {
        let request = format!("ws://{}/v1/responses", self.address).into_client_request().unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        Socket(client_async(request, stream).await.unwrap().0)
    }

    async fn end(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.expect("the server ends").unwrap().unwrap();
    }
}

async fn events(response: Response) -> Vec<String> {
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let body = timeout(PATIENCE, response.text()).await.unwrap().unwrap();
    let blocks = body.strip_suffix("\n\n").unwrap_or(&body).split("\n\n");
    blocks.map(|block| block.lines().last().unwrap().strip_prefix("data: ").unwrap().to_owned()).collect()
}

fn parsed(events: &[String]) -> Vec<Value> {
    events.iter().filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn chat(extension: &Value) -> Value {
    json!({"model": "sim", "stream": true, "messages": [{"role": "user", "content": "say hello"}], "streamstress": extension})
}

/// Returns the text of a chat's events.
fn text(events: &[String]) -> String {
    parsed(events).iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn send(&mut self, fields: Value) {
        let mut message = json!({"type": "response.create", "model": "sim", "input": "one two"});
        message.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    /// Returns the next event, or `None` after the end.
    async fn next(&mut self) -> Option<Value> {
        match timeout(PATIENCE, self.0.next()).await.expect("an event") {
            Some(Ok(Message::Text(text))) => Some(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => None,
            Some(Ok(other)) => panic!("unexpected {other:?}"),
        }
    }

    /// Returns the last event of a response, and checks that all are numbered.
    async fn response(&mut self) -> Value {
        for number in 0.. {
            let event = self.next().await.expect("a terminal event");
            assert_eq!(event["sequence_number"], number);
            if matches!(
                event["type"].as_str(),
                Some("response.completed" | "response.incomplete" | "response.failed")
            ) {
                return event;
            }
        }
        unreachable!()
    }

    async fn error(&mut self) -> String {
        let event = self.next().await.expect("an error");
        assert_eq!(event["type"], "error", "{event}");
        event["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

#[tokio::test]
async fn a_chat_follows_its_schedule() {
    let server = serve(config()).await;
    let body = json!({
        "model": "sim", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 5, "ignore_eos": true,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "one two three"}]}],
        "streamstress": {"ttft_ms": 30, "itl_ms": 10, "marks": true},
    });
    let began = host::monotonic_us();
    let response = server.post("/v1/chat/completions", body).await;
    assert_eq!(response.headers()["x-boot-id"].to_str().unwrap(), host::boot_id().unwrap());
    let events = events(response).await;
    let took = Duration::from_micros(host::monotonic_us() - began);
    assert!(took >= Duration::from_millis(80), "{took:?}");
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks = parsed(&events);
    assert_eq!(chunks.len(), 7, "the role, five tokens and the usage");
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(text(&events), "This is a simulated answer");
    assert_eq!(chunks[5]["choices"][0]["finish_reason"], "length");
    assert_eq!(chunks[5]["usage"], Value::Null);
    assert_eq!(chunks[6]["usage"], json!({"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}));
    let number = |chunk: &Value, name: &str| chunk[name].as_u64().unwrap();
    let start = number(&chunks[1], "x_due_us") - 30_000;
    assert!(start >= began && start < began + 5_000_000);
    for (index, chunk) in chunks[1..6].iter().enumerate() {
        let index = index as u64;
        assert_eq!(number(chunk, "x_seq"), index + 1);
        assert_eq!(number(chunk, "x_due_us"), start + 30_000 + index * 10_000);
        assert!(number(chunk, "x_sent_us") >= number(chunk, "x_due_us"));
    }
    server.metric("server_streams_ended_total{outcome=\"done\"} 1").await;
    server.metric("server_tokens_total 5").await;
    server.end().await;
}

/// Foreign load tools cannot add a field to their requests: the server's settings decide, and its record is the truth to compare with.
#[tokio::test]
async fn defaults_count_for_requests_without_a_schedule_and_a_record_tells_what_was_sent() {
    let directory = tempfile::tempdir().unwrap();
    let record = directory.path().join("record.jsonl");
    let defaults = r#"{"ttft_ms": 20, "itl_ms": 5, "role": "early", "faults": [{"kind": "error", "at": 3, "every": 2}]}"#;
    let defaults = defaults.parse().unwrap();
    let openai = OpenAiConfig { defaults, record: Some(record.clone()), ..OpenAiConfig::default() };
    let server = serve(Config { openai, ..config() }).await;
    let plain = json!({"model": "sim", "stream": true, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]});
    let began = host::monotonic_us();
    let mut streams = Vec::new();
    for body in [plain.clone(), plain.clone(), plain, chat(&json!({"tokens": 2, "itl_ms": 1}))] {
        streams.push(server.events("/v1/chat/completions", body).await);
    }
    let failed =
        |events: &[String]| parsed(events).iter().any(|chunk| chunk["error"]["code"] == "server_error");
    assert_eq!(streams.iter().map(|events| failed(events)).collect::<Vec<_>>(), [false, true, false, false]);
    let mut socket = server.socket().await;
    socket.send(json!({"max_output_tokens": 2})).await;
    socket.response().await;
    server.end().await;

    let lines = std::fs::read_to_string(record).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts = |name: &str| lines.iter().map(|line| line[name].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(texts("call"), ["chat", "chat", "chat", "chat", "responses-ws"]);
    assert_eq!(texts("ending"), ["whole", "error", "whole", "whole", "whole"]);
    assert_eq!(texts("outcome"), ["done", "injected", "done", "done", "done"]);
    assert_eq!(lines[0]["due_us"], json!([20_000, 25_000, 30_000, 35_000]));
    assert_eq!(lines[1]["due_us"], json!([20_000, 25_000]));
    assert!(lines[0]["opened_us"].as_u64().unwrap() < 20_000, "the role was early");
    assert_eq!(lines[3]["due_us"], json!([0, 1_000]));
    for line in &lines {
        assert!((began..host::monotonic_us()).contains(&line["arrived_us"].as_u64().unwrap()));
        let times =
            |name: &str| line[name].as_array().unwrap().iter().map(|at| at.as_u64().unwrap()).collect();
        let (due, sent): (Vec<u64>, Vec<u64>) = (times("due_us"), times("sent_us"));
        assert!(due.iter().zip(&sent).all(|(due, sent)| sent >= due) && sent.is_sorted(), "{line}");
        assert!(line["ended_us"].as_u64() >= sent.last().copied());
    }
}

#[tokio::test]
async fn answers_that_are_not_streamed_are_whole() {
    let server = serve(config()).await;
    let fast = json!({"itl_ms": 1});
    let body = json!({"model": "sim", "messages": [{"role": "user", "content": "hi"}], "streamstress": fast});
    let answer: Value = server.post("/v1/chat/completions", body).await.json().await.unwrap();
    assert_eq!(answer["choices"][0]["message"]["content"], server::DEFAULT_TEXT);
    assert_eq!(
        (&answer["choices"][0]["finish_reason"], &answer["usage"]["completion_tokens"]),
        (&json!("stop"), &json!(18))
    );
    let body = json!({"model": "sim", "prompt": "hi", "max_tokens": 2, "streamstress": fast});
    let answer: Value = server.post("/v1/completions", body).await.json().await.unwrap();
    assert_eq!(
        (&answer["object"], &answer["choices"][0]["text"]),
        (&json!("text_completion"), &json!("This is"))
    );
    let body = json!({"model": "sim", "input": "hi", "instructions": "be brief", "streamstress": fast});
    let answer: Value = server.post("/v1/responses", body).await.json().await.unwrap();
    assert_eq!((&answer["status"], &answer["usage"]["total_tokens"]), (&json!("completed"), &json!(21)));
    assert_eq!(answer["output"][0]["content"][0]["text"], server::DEFAULT_TEXT);
    let id = answer["id"].as_str().unwrap();
    let again: Value = server.get(&format!("/v1/responses/{id}")).await.json().await.unwrap();
    assert_eq!(again, answer);
    server.end().await;
}

#[tokio::test]
async fn a_seed_decides_the_schedule() {
    let server = serve(Config { timing: random_timing(), ..config() }).await;
    let times = async |extension: Value| {
        let chunks = parsed(&server.events("/v1/chat/completions", chat(&extension)).await);
        let due: Vec<_> = chunks.iter().filter_map(|chunk| chunk["x_due_us"].as_u64()).collect();
        due.windows(2).map(|two| two[1] - two[0]).collect::<Vec<_>>()
    };
    let seeded = times(json!({"seed": 7, "marks": true})).await;
    assert_eq!(seeded, times(json!({"seed": 7, "marks": true})).await);
    assert_ne!(seeded, times(json!({"seed": 8, "marks": true})).await);
    let by_id = times(json!({"query_id": "q", "marks": true})).await;
    assert_eq!(by_id, times(json!({"query_id": "q", "marks": true})).await);
    server.end().await;
}

fn random_timing() -> server::Timing {
    use server::Distribution::{Fixed, Uniform};
    server::Timing { ttft_ms: Fixed(0.0), itl_ms: Uniform(0.0, 3.0), tokens: Uniform(10.0, 30.0) }
}

#[tokio::test]
async fn faults_reach_the_wire() {
    let server = serve(config()).await;
    let play = async |faults: Value| {
        let extension = json!({"tokens": 4, "itl_ms": 1, "text": "numbered", "faults": faults});
        server.events("/v1/chat/completions", chat(&extension)).await
    };
    assert_eq!(text(&play(json!([{"kind": "drop", "at": 2}])).await), "t1 t3 t4 ");
    assert_eq!(text(&play(json!([{"kind": "duplicate", "at": 2}])).await), "t1 t2 t2 t3 t4 ");
    assert_eq!(text(&play(json!([{"kind": "swap", "at": 2}])).await), "t1 t3 t2 t4 ");
    assert_eq!(text(&play(json!([{"kind": "split", "at": 2}])).await), "t1 ét2 t3 t4 ");
    let cut = play(json!([{"kind": "cut", "at": 3}])).await;
    assert_eq!((text(&cut).as_str(), cut.contains(&"[DONE]".to_owned())), ("t1 t2 ", false));
    let failed = play(json!([{"kind": "error", "at": 3}])).await;
    assert_eq!((text(&failed).as_str(), failed.last().unwrap().as_str()), ("t1 t2 ", "[DONE]"));
    assert_eq!(parsed(&failed).last().unwrap()["error"]["code"], "server_error");
    let abort = chat(&json!({"tokens": 4, "itl_ms": 1, "faults": [{"kind": "abort", "at": 3}]}));
    let response = server.post("/v1/chat/completions", abort).await;
    assert!(response.text().await.is_err(), "the connection breaks");
    server.metric("server_streams_ended_total{outcome=\"injected\"} 3").await;

    let refused =
        server.post("/v1/chat/completions", chat(&json!({"faults": [{"kind": "lose", "at": 1}]}))).await;
    let status = refused.status().as_u16();
    let error: Value = refused.json().await.unwrap();
    assert_eq!((status, &error["error"]["param"]), (400, &json!("streamstress")));
    server.end().await;
}

/// A split character arrives in two reads, because the pieces are written apart.
#[tokio::test]
async fn a_split_character_arrives_in_two_pieces() {
    let server = serve(config()).await;
    let body = chat(&json!({"tokens": 2, "itl_ms": 1, "faults": [{"kind": "split", "at": 1}]}));
    let mut response = server.post("/v1/chat/completions", body).await;
    let mut ends = Vec::new();
    while let Some(piece) = timeout(PATIENCE, response.chunk()).await.unwrap().unwrap() {
        ends.push(std::str::from_utf8(&piece).is_ok());
    }
    assert!(ends.contains(&false), "no piece ends inside a character: {ends:?}");
    server.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_generation() {
    let server = serve(Config { max_streams: 1, ..config() }).await;
    let slow = chat(&json!({"tokens": 1000, "itl_ms": 20}));
    let mut stream = server.post("/v1/chat/completions", slow.clone()).await;
    assert!(stream.chunk().await.unwrap().is_some());
    let full = server.post("/v1/chat/completions", slow).await;
    assert_eq!((full.status().as_u16(), full.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    let error: Value = full.json().await.unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["type"]),
        (&json!("rate_limit_exceeded"), &json!("rate_limit_error"))
    );
    drop(stream);
    server.metric("server_streams_ended_total{outcome=\"disconnected\"} 1").await;
    server.metric("server_streams_active 0").await;
    let whole = server.events("/v1/chat/completions", chat(&json!({"tokens": 1}))).await;
    assert_eq!(text(&whole), "This");
    server.end().await;
}

/// The client's buffers and the server's fill up, and the kernel breaks the connection.
#[tokio::test]
async fn a_client_that_does_not_read_loses_its_stream() {
    let server = serve(Config { read_timeout: Duration::from_millis(500), ..config() }).await;
    let endless = json!({"tokens": 1_000_000, "ttft_ms": 0, "itl_ms": 0});
    let response = server.post("/v1/chat/completions", chat(&endless)).await;
    let mut socket = server.socket().await;
    socket.send(json!({"streamstress": endless})).await;
    server.metric("server_streams_ended_total{outcome=\"disconnected\"} 2").await;
    drop((response, socket));
    server.end().await;
}

#[tokio::test]
async fn a_shutdown_ends_streams_with_an_error_and_refuses_new_ones() {
    let server = serve(Config { drain: Duration::from_millis(200), ..config() }).await;
    let mut socket = server.socket().await;
    let mut idle = server.socket().await;
    let long = json!({"tokens": 1000, "itl_ms": 20});
    socket.send(json!({"streamstress": long})).await;
    assert_eq!(socket.next().await.unwrap()["type"], "response.created");
    let response = server.post("/v1/chat/completions", chat(&long)).await;
    server.shutdown.cancel();
    assert_eq!(idle.next().await, None);
    let refused = server
        .client
        .post(server.url("/v1/chat/completions"))
        .body(chat(&json!({})).to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status().as_u16(), 503);
    let events = events(response).await;
    assert_eq!(parsed(&events).last().unwrap()["error"]["code"], "service_unavailable");
    let mut last = Value::Null;
    while let Some(event) = socket.next().await {
        last = event;
    }
    assert_eq!(
        (&last["type"], &last["response"]["error"]["code"]),
        (&json!("response.failed"), &json!("service_unavailable"))
    );
    server.end().await;
}

#[tokio::test]
async fn errors_have_openais_form() {
    let api_key = Some(settings::secret::Secret::new("sk-test"));
    let server =
        serve(Config { openai: OpenAiConfig { api_key, ..OpenAiConfig::default() }, ..config() }).await;
    let check = async |request: RequestBuilder, status: u16, code: Value| {
        let response = request.send().await.unwrap();
        let found = response.status().as_u16();
        let error: Value = response.json().await.unwrap();
        assert_eq!((found, &error["error"]["code"]), (status, &code), "{error}");
        assert!(error["error"]["message"].is_string() && error["error"]["type"].is_string());
    };
    let models = || server.client.get(server.url("/v1/models"));
    check(models(), 401, json!("invalid_api_key")).await;
    check(models().bearer_auth("sk-wrong"), 401, json!("invalid_api_key")).await;
    check(server.request("/v1/chat/completions", &json!({})), 401, json!("invalid_api_key")).await;
    assert_eq!(models().bearer_auth("sk-test").send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(models().header("api-key", "sk-test").send().await.unwrap().status(), StatusCode::OK);
    let call = |path: &str, body: &str| {
        server.client.post(server.url(path)).bearer_auth("sk-test").body(body.to_owned())
    };
    check(call("/v1/nothing", ""), 404, json!("unknown_url")).await;
    check(call("/v1/models", ""), 405, Value::Null).await;
    check(call("/v1/chat/completions", "{"), 400, Value::Null).await;
    check(call("/v1/chat/completions", r#"{"messages":[]}"#), 400, Value::Null).await;
    check(call("/v1/chat/completions", &" ".repeat((1 << 20) + 1)), 413, Value::Null).await;
    let unknown = r#"{"model":"m","input":"x","previous_response_id":"resp_x"}"#;
    check(call("/v1/responses", unknown), 400, json!("previous_response_not_found")).await;
    check(call("/v1/responses", r#"{"model":"m","generate":false}"#), 400, Value::Null).await;
    check(call("/v1/responses/resp_x/cancel", ""), 404, Value::Null).await;
    let get = |path: &str| server.client.get(server.url(path)).bearer_auth("sk-test");
    check(get("/v1/responses"), 400, Value::Null).await;
    check(get("/v1/responses/resp_x"), 404, Value::Null).await;
    check(get("/v1/models/gpt"), 404, json!("model_not_found")).await;
    server.end().await;
}

#[tokio::test]
async fn what_other_tools_probe_is_answered() {
    let server = serve(config()).await;
    for path in ["/", "/health", "/ready", "/metrics", "/ping", "/version", "/v1/models/sim"] {
        assert_eq!(server.get(path).await.status(), StatusCode::OK, "{path}");
    }
    let models: Value = server.get("/v1/models").await.json().await.unwrap();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("sim")));
    let words: Value =
        server.post("/detokenize", json!({"model": "sim", "tokens": [5, 17]})).await.json().await.unwrap();
    assert_eq!(words["prompt"], "w5 w17");
    let tokens: Value = server
        .post("/tokenize", json!({"model": "sim", "prompt": "w5 w17 other"}))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        (&tokens["count"], &tokens["tokens"][0], &tokens["tokens"][1]),
        (&json!(3), &json!(5), &json!(17))
    );
    server.end().await;
}

#[tokio::test]
async fn a_response_is_numbered_and_repeats_its_text() {
    let server = serve(config()).await;
    let body = json!({"model": "sim", "stream": true, "input": [{"role": "user", "content": "one two"}],
        "streamstress": {"tokens": 5, "itl_ms": 1, "marks": true}});
    let events = parsed(&server.events("/v1/responses", body).await);
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds[..5],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta"
        ]
    );
    assert_eq!(
        kinds[9..],
        [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    let joined: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(
        (joined.as_str(), &events[9]["text"]),
        ("This is a simulated answer", &json!("This is a simulated answer"))
    );
    let ended = &events[12]["response"];
    assert_eq!(
        (&ended["status"], &ended["usage"]["input_tokens"], &ended["usage"]["output_tokens"]),
        (&json!("completed"), &json!(2), &json!(5))
    );
    assert_eq!((&events[4]["x_seq"], &events[8]["x_seq"]), (&json!(1), &json!(5)));

    let next = json!({"model": "sim", "input": "three", "previous_response_id": ended["id"], "max_output_tokens": 2, "streamstress": {"itl_ms": 1}});
    let next: Value = server.post("/v1/responses", next).await.json().await.unwrap();
    assert_eq!(
        (&next["status"], &next["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    assert_eq!(next["usage"]["input_tokens"], 8, "two words, five of the answer, one word");
    let id = next["id"].as_str().unwrap();
    assert_eq!(
        server.get(&format!("/v1/responses/{id}?stream=true")).await.status(),
        404,
        "not in the background"
    );
    let deleted = server.client.delete(server.url(&format!("/v1/responses/{id}"))).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::OK);
    assert_eq!(server.get(&format!("/v1/responses/{id}")).await.status(), 404);
    server.end().await;
}

#[tokio::test]
async fn a_response_in_the_background_is_read_again_from_any_event() {
    let server = serve(config()).await;
    let extension = json!({"tokens": 20, "itl_ms": 10, "faults": [{"kind": "cut", "at": 3}]});
    let body =
        json!({"model": "sim", "input": "x", "background": true, "stream": true, "streamstress": extension});
    let first = parsed(&server.events("/v1/responses", body).await);
    assert_eq!(first.len(), 6, "the stream is cut before its third token");
    let id = first[0]["response"]["id"].as_str().unwrap().to_owned();
    let running: Value = server.get(&format!("/v1/responses/{id}")).await.json().await.unwrap();
    assert_eq!(running["status"], "in_progress");
    let rest =
        parsed(&events(server.get(&format!("/v1/responses/{id}?stream=true&starting_after=5")).await).await);
    assert_eq!(rest[0]["sequence_number"], 6);
    assert_eq!(rest.last().unwrap()["type"], "response.completed");
    let all = parsed(&events(server.get(&format!("/v1/responses/{id}?stream=true")).await).await);
    assert_eq!((&all[..6], &all[6..]), (&first[..], &rest[..]));
    let ended: Value = server.get(&format!("/v1/responses/{id}")).await.json().await.unwrap();
    assert_eq!(&ended, &rest.last().unwrap()["response"]);
    let bad = server.get(&format!("/v1/responses/{id}?stream=true&starting_after=x")).await;
    assert_eq!(bad.status(), 400);
    server.metric("server_streams_ended_total{outcome=\"done\"} 1").await;
    server.end().await;
}

#[tokio::test]
async fn a_response_fails_with_an_error_and_its_terminal_event() {
    let server = serve(config()).await;
    let schedule = json!({"tokens": 5, "itl_ms": 1, "faults": [{"kind": "error", "at": 3}]});
    let body =
        json!({"model": "sim", "input": "x", "background": true, "stream": true, "streamstress": schedule});
    let events = parsed(&server.events("/v1/responses", body).await);
    let [.., error, failed] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("server_error")));
    assert_eq!((&failed["type"], &failed["sequence_number"]), (&json!("response.failed"), &json!(7)));
    let id = failed["response"]["id"].as_str().unwrap();
    let kept: Value = server.get(&format!("/v1/responses/{id}")).await.json().await.unwrap();
    assert_eq!(kept, failed["response"]);
    let whole = json!({"model": "sim", "input": "x", "streamstress": schedule});
    assert_eq!(server.post("/v1/responses", whole).await.status(), 500);
    server.end().await;
}

#[tokio::test]
async fn a_response_in_the_background_can_be_cancelled() {
    let server = serve(config()).await;
    let body = json!({"model": "sim", "input": "x", "background": true, "streamstress": {"tokens": 1000, "itl_ms": 10}});
    let created: Value = server.post("/v1/responses", body).await.json().await.unwrap();
    assert_eq!((&created["status"], &created["background"]), (&json!("in_progress"), &json!(true)));
    let path = format!("/v1/responses/{}", created["id"].as_str().unwrap());
    let stream = server.get(&format!("{path}?stream=true")).await;
    for _ in 0..2 {
        let cancelled: Value = server.post(&format!("{path}/cancel"), json!({})).await.json().await.unwrap();
        assert_eq!(cancelled["status"], "cancelled");
    }
    let seen = parsed(&events(stream).await);
    assert!(seen.last().unwrap()["type"] != "response.completed");
    let again = parsed(&events(server.get(&format!("{path}?stream=true")).await).await);
    assert!(again.len() >= 2 && again.len() < 900, "only what was due before: {}", again.len());
    server.metric("server_streams_ended_total{outcome=\"cancelled\"} 1").await;
    server.metric("server_streams_active 0").await;
    server.end().await;
}

#[tokio::test]
async fn a_socket_has_several_turns_that_continue_each_other() {
    let server = serve(config()).await;
    let mut socket = server.socket().await;
    let fast = json!({"tokens": 3, "itl_ms": 1});
    socket.send(json!({"store": false, "streamstress": fast})).await;
    let first = socket.response().await;
    assert_eq!((&first["type"], first.get("stream_id")), (&json!("response.completed"), None));
    let id = &first["response"]["id"];
    socket.send(json!({"store": false, "previous_response_id": id, "streamstress": fast})).await;
    let second = socket.response().await;
    assert_eq!(
        (&second["response"]["previous_response_id"], &second["response"]["usage"]["input_tokens"]),
        (id, &json!(7))
    );

    // Another connection does not know a response that is not stored.
    let mut other = server.socket().await;
    other.send(json!({"previous_response_id": second["response"]["id"]})).await;
    assert_eq!(other.error().await, "previous_response_not_found");
    other.send(json!({"generate": false, "store": true})).await;
    let warm = other.response().await;
    assert_eq!(
        (&warm["response"]["output"], &warm["response"]["usage"]["output_tokens"]),
        (&json!([]), &json!(0))
    );
    socket.send(json!({"previous_response_id": warm["response"]["id"], "streamstress": fast})).await;
    assert_eq!(socket.response().await["type"], "response.completed");

    for bad in ["{", r#"{"type":"response.steer"}"#, r#"{"type":"response.create"}"#] {
        socket.0.send(Message::text(bad)).await.unwrap();
        assert_eq!(socket.next().await.unwrap()["error"]["type"], "invalid_request_error");
    }
    server.end().await;
}

#[tokio::test]
async fn a_failed_continuation_is_forgotten() {
    let server = serve(config()).await;
    let mut socket = server.socket().await;
    let fast = json!({"tokens": 3, "itl_ms": 1});
    socket.send(json!({"store": false, "streamstress": fast})).await;
    let id = socket.response().await["response"]["id"].clone();
    let output = json!([{"type": "function_call_output", "call_id": "call_1", "output": "x"}]);
    socket.send(json!({"store": false, "previous_response_id": id, "input": output})).await;
    assert_eq!(socket.next().await.unwrap()["status"], 400);
    socket.send(json!({"store": false, "previous_response_id": id, "streamstress": fast})).await;
    assert_eq!(socket.error().await, "previous_response_not_found");
    server.end().await;
}

#[tokio::test]
async fn lanes_interleave_and_carry_their_name() {
    let server = serve(config()).await;
    let mut socket = server.socket().await;
    let schedule = json!({"tokens": 10, "itl_ms": 5});
    for lane in ["a", "b"] {
        socket.send(json!({"stream_id": lane, "streamstress": schedule})).await;
    }
    socket.send(json!({"stream_id": "not allowed"})).await;
    let (mut order, mut ended, mut refused) = (Vec::new(), 0, 0);
    while ended < 2 {
        let event = socket.next().await.unwrap();
        if event["type"] == "error" {
            assert_eq!(
                (&event["error"]["code"], event.get("stream_id")),
                (&json!("invalid_stream_id"), None)
            );
            refused += 1;
            continue;
        }
        order.push(event["stream_id"].as_str().unwrap().to_owned());
        ended += usize::from(event["type"] == "response.completed");
    }
    assert_eq!((order.len(), refused), (2 * 18, 1));
    assert!(order.windows(2).filter(|two| two[0] != two[1]).count() > 5, "they take turns: {order:?}");
    server.end().await;
}

#[tokio::test]
async fn a_socket_ends_at_its_age_and_by_faults() {
    let openai = OpenAiConfig { max_socket_age: Duration::from_millis(300), ..OpenAiConfig::default() };
    let server = serve(Config { openai, ..config() }).await;
    let began = Instant::now();
    let mut socket = server.socket().await;
    assert_eq!(socket.error().await, "websocket_connection_limit_reached");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(socket.next().await, None);

    let mut split = server.socket().await;
    split
        .send(json!({"streamstress": {"tokens": 2, "itl_ms": 1, "faults": [{"kind": "split", "at": 1}]}}))
        .await;
    assert_eq!(split.response().await["response"]["output"][0]["content"][0]["text"], "éThis is");
    for kind in ["cut", "abort"] {
        let mut socket = server.socket().await;
        socket
            .send(json!({"streamstress": {"tokens": 2, "itl_ms": 1, "faults": [{"kind": kind, "at": 2}]}}))
            .await;
        let mut seen = 0;
        while socket.next().await.is_some() {
            seen += 1;
        }
        assert_eq!(seen, 5, "{kind}");
    }
    // A message is refused with the event `error`, so a response that fails has its terminal event alone.
    let mut failed = server.socket().await;
    failed
        .send(json!({"streamstress": {"tokens": 2, "itl_ms": 1, "faults": [{"kind": "error", "at": 2}]}}))
        .await;
    let last = failed.response().await;
    assert_eq!(
        (&last["type"], &last["response"]["error"]["code"]),
        (&json!("response.failed"), &json!("server_error"))
    );
    server.end().await;
}

#[tokio::test]
async fn old_responses_make_room() {
    let store = server::StoreLimits { number: 1, ..OpenAiConfig::default().store };
    let server =
        serve(Config { openai: OpenAiConfig { store, ..OpenAiConfig::default() }, ..config() }).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let body = json!({"model": "sim", "input": "x", "streamstress": {"tokens": 1, "itl_ms": 0}});
        let answer: Value = server.post("/v1/responses", body).await.json().await.unwrap();
        ids.push(format!("/v1/responses/{}", answer["id"].as_str().unwrap()));
    }
    assert_eq!(
        (server.get(&ids[0]).await.status().as_u16(), server.get(&ids[1]).await.status().as_u16()),
        (404, 200)
    );
    server.end().await;
}
