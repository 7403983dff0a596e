//! Runs against backends that target files describe: the examples with the server that they bring along, and Centrifugo's protocol.
//! A slow machine may make these runs INVALID, so the tests do not require the verdict PASS.

mod centrifugo;
mod fake;
mod runs;

use centrifugo::Centrifugo;
use client::cli::RunArgs;
use plan::Stop;
use runs::{check, read_summary, run};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

const TOKENS: u64 = 20;

/// The server of the examples. It ends when this value is dropped.
struct Example {
    server: Child,
    url: String,
}

impl Example {
    fn start(options: &[&str]) -> Self {
        let mut server = Command::new("python3")
            .arg(examples().join("server.py"))
            .args(["--port", "0", "--delay-ms", "4"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 is needed");
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(' ').next().unwrap();
        Self { url: format!("http://127.0.0.1:{port}"), server }
    }
}

impl Example {
    /// Returns the body of a response.
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\n\r\n").unwrap();
        let (mut response, mut buffer) = (String::new(), [0; 1024]);
        while !response.contains("\r\n\r\n") || response.ends_with("\r\n\r\n") {
            let length = stream.read(&mut buffer).unwrap();
            response += std::str::from_utf8(&buffer[..length]).unwrap();
        }
        response.rsplit("\r\n").next().unwrap().to_owned()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/targets")
}

fn example(name: &str) -> String {
    examples().join(name).to_str().unwrap().to_owned()
}

/// Performs a run and returns its summary.
fn summary(target: &str, url: &str, change: impl FnOnce(&mut RunArgs)) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let ws = url.replace("http", "ws");
    let has_sockets = target.ends_with("websocket.toml") || target == "centrifugo";
    let mut args = RunArgs {
        clients: Some(3),
        queries: Some(2),
        ramp_up: Some(0.02.into()),
        target: Some(target.to_owned()),
        api_url: vec![url.to_owned()],
        wsproxy_url: if has_sockets { vec![ws] } else { Vec::new() },
        ws_initial_backoff_seconds: Some(0.02.into()),
        ws_max_backoff_seconds: Some(0.1.into()),
        query_timeout: Some(10.0.into()),
        quiet: true,
        workers: Some(1),
        seed: Some(1),
        output_dir: Some(dir.path().to_owned()),
        ..RunArgs::default()
    };
    change(&mut args);
    run(args, &Stop::default()).unwrap();
    read_summary(dir.path())
}

/// Checks a file with the program. Returns the exit code and what it printed.
fn checked(file: &str, url: &str, options: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamstress"));
    command.args(["target", "check", file, "--api-url", url, "--timeout", "3s"]).args(options);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code(), text)
}

const NUMBERED: [&str; 2] = ["websocket.toml", "sse.toml"];

#[test]
fn each_example_is_played_and_verified_as_far_as_it_can_be() {
    let server = Example::start(&[]);
    for name in ["websocket.toml", "sse.toml", "json_lines.toml"] {
        let summary = summary(&example(name), &server.url, |_| {});
        let all = 6 * TOKENS;
        let is_numbered = NUMBERED.contains(&name);
        check(
            &summary,
            &[
                ("queries_ok", 6),
                ("successful_sessions", 3),
                ("tokens_received", all),
                ("tokens_reported", all),
                ("tokens_expected", if is_numbered { all } else { 0 }),
                ("tokens_unverified", if is_numbered { 0 } else { all }),
                ("tokens_lost", 0),
                ("total_reconnect_attempts", 0),
            ],
        );
        assert_eq!(summary["integrity"], if is_numbered { "verified" } else { "unverified" }, "{name}");
        assert_ne!(summary["verdict"], "FAIL", "{name}: {summary:#}");
        assert_eq!(summary["metrics"]["ttft_ms"]["count"], 6);
        let unverified = summary["config"]["target_unverified"].as_array().unwrap();
        assert_eq!(unverified.len(), if is_numbered { 0 } else { 2 }, "{unverified:?}");
    }
}

#[test]
fn an_expired_key_is_renewed_and_secret() {
    let server = Example::start(&["--api-key", "right/key"]);
    let renewed = summary(&example("json_lines.toml"), &server.url, |args| {
        args.api_key = Some("wrong/key".into());
        args.token_command = Some("echo right/key".into());
    });
    check(&renewed, &[("queries_ok", 6)]);
    let refused = summary(&example("json_lines.toml"), &server.url, |args| {
        args.api_key = Some("wrong/key".into());
    });
    check(&refused, &[("queries_rejected", 6)]);
    assert!(refused["failures"].to_string().contains("401 Unauthorized"), "{}", refused["failures"]);
    assert!(![renewed, refused].iter().any(|summary| summary.to_string().contains("/key")));
}

#[test]
fn an_expired_key_is_renewed_for_a_call_beside_the_socket() {
    let server = Example::start(&["--api-key", "right/key"]);
    let dir = tempfile::tempdir().unwrap();
    let path = "path = \"/sessions\"";
    let create = |key: &str| format!("{path}\nheaders = {{ X-Api-Key = \"{key}\" }}");
    for key in ["{{api_key}}", "right/key"] {
        let create = create(key);
        let file = changed(dir.path(), "websocket.toml", &[(path, create.as_str()), (BY_MESSAGE, BY_HTTP)]);
        let renewed = summary(&file, &server.url, |args| {
            args.api_key = Some("wrong/key".into());
            args.token_command = Some("echo right/key".into());
        });
        check(&renewed, &[("queries_ok", 6), ("tokens_received", 6 * TOKENS), ("tokens_lost", 0)]);
    }
}

/// Starts a server of JSON lines. It refuses the first question and ends the connection, and answers the others with two tokens.
fn busy_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU64::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let asked = Arc::clone(&asked);
            std::thread::spawn(move || answer_after_a_refusal(stream.unwrap(), &asked));
        }
    });
    url
}

fn answer_after_a_refusal(mut stream: TcpStream, asked: &AtomicU64) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or_default() == 0 {
                return;
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
        if asked.fetch_add(1, Relaxed) == 0 {
            let refusal = "HTTP/1.1 429 Too Many Requests\r\nRetry-After-Ms: 300\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(refusal.as_bytes()).unwrap();
            return;
        }
        let body = "{\"response\":\"a \"}\n{\"response\":\"b \"}\n{\"done\":true}\n";
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson";
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    }
}

#[test]
fn a_refused_question_is_asked_again_over_a_new_connection() {
    let summary = summary(&example("json_lines.toml"), &busy_server(), |args| {
        (args.clients, args.queries) = (Some(1), Some(1));
    });
    check(&summary, &[("queries_ok", 1), ("tokens_received", 2)]);
    assert_ne!(summary["verdict"], "FAIL", "{summary:#}");
}

#[test]
fn a_numbered_example_is_resumed_without_loss() {
    let server = Example::start(&["--cut-after", "7"]);
    for name in NUMBERED {
        let summary = summary(&example(name), &server.url, |_| {});
        check(
            &summary,
            &[
                ("queries_ok", 6),
                ("tokens_received", 6 * TOKENS),
                ("tokens_lost", 0),
                ("tokens_duplicated", 0),
                ("total_successful_reconnects", 6),
            ],
        );
    }
    let cut = summary(&example("json_lines.toml"), &server.url, |_| {});
    assert_eq!(cut["queries_error_by_code"]["truncated"], 6, "nothing can be resumed: {cut:#}");
}

/// Writes a changed copy of an example. Returns its path.
fn changed(dir: &Path, name: &str, changes: &[(&str, &str)]) -> String {
    let mut text = std::fs::read_to_string(examples().join(name)).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_resume_may_repeat_events_only_if_the_file_says_so() {
    let server = Example::start(&["--cut-after", "7", "--repeat", "3"]);
    let dir = tempfile::tempdir().unwrap();
    for name in NUMBERED {
        let once = summary(&example(name), &server.url, |_| {});
        check(&once, &[("queries_ok", 0), ("tokens_duplicated", 18), ("tokens_lost", 0)]);
        let again = [("transport =", "delivery = \"at-least-once\"\ntransport =")];
        let repeated = summary(&changed(dir.path(), name, &again), &server.url, |_| {});
        check(
            &repeated,
            &[
                ("queries_ok", 6),
                ("tokens_received", 6 * TOKENS),
                ("tokens_duplicated", 0),
                ("tokens_lost", 0),
            ],
        );
    }
}

/// How the example over a WebSocket asks, and how it could by HTTP.
const BY_MESSAGE: &str =
    "via = \"message\"\nmessage = { type = \"ask\", request_id = \"{{query}}\", text = \"{{prompt}}\" }";
const BY_HTTP: &str = "via = \"http\"\npath = \"/ws/{{session}}/ask\"\nheaders = { X-Api-Key = \"{{api_key}}\" }\nbody = { text = \"{{prompt}}\" }\nextract = { query = \"/message_id\" }";

#[test]
fn a_question_may_be_asked_by_http_and_get_its_id_from_the_backend() {
    let server = Example::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let by_http = [(BY_MESSAGE, BY_HTTP), ("every = \"20s\"", "every = \"10ms\"")];
    let file = changed(dir.path(), "websocket.toml", &by_http);
    let fine = summary(&file, &server.url, |_| {});
    check(&fine, &[("queries_ok", 6), ("tokens_expected", 6 * TOKENS), ("tokens_lost", 0)]);
    assert_eq!(fine["integrity"], "verified", "{fine:#}");
    let (code, text) = checked(&file, &server.url, &[]);
    assert!(code == Some(0) && text.contains("202 Accepted"), "{text}");
}

#[test]
fn an_answer_is_resumed_although_its_call_has_no_response_yet() {
    let server = Example::start(&["--cut-after", "1", "--late-ms", "150"]);
    let dir = tempfile::tempdir().unwrap();
    let file = changed(dir.path(), "websocket.toml", &[(BY_MESSAGE, BY_HTTP)]);
    let resumed = summary(&file, &server.url, |_| {});
    check(&resumed, &[("queries_ok", 6), ("tokens_received", 6 * TOKENS), ("tokens_lost", 0)]);
}

#[test]
fn a_silent_connection_is_lost_and_the_answer_goes_on() {
    // The cut socket of this server is silent instead: nothing arrives for as long as a token takes.
    let server = Example::start(&["--tokens", "3", "--delay-ms", "300"]);
    let dir = tempfile::tempdir().unwrap();
    let silent = [("reply = ", "silence = \"150ms\"\nreply = ")];
    let summary = summary(&changed(dir.path(), "websocket.toml", &silent), &server.url, |args| {
        (args.clients, args.queries) = (Some(1), Some(1));
    });
    check(&summary, &[("queries_ok", 1), ("tokens_received", 3), ("tokens_lost", 0)]);
    assert!(summary["total_successful_reconnects"].as_u64() >= Some(1), "{summary:#}");
}

#[test]
fn a_lost_token_of_a_numbered_example_is_found() {
    let server = Example::start(&["--drop", "5"]);
    for name in NUMBERED {
        let summary = summary(&example(name), &server.url, |_| {});
        check(&summary, &[("queries_ok", 0), ("tokens_lost", 6), ("tokens_received", 6 * (TOKENS - 1))]);
        assert_eq!(summary["verdict"], "FAIL");
    }
}

#[test]
fn an_answer_that_takes_too_long_is_stopped() {
    let server = Example::start(&["--delay-ms", "50"]);
    for name in NUMBERED {
        let summary = summary(&example(name), &server.url, |args| {
            args.query_timeout = Some(0.3.into());
            (args.clients, args.queries) = (Some(1), Some(2));
        });
        check(&summary, &[("queries_timeout", 2), ("queries_ok", 0)]);
    }
    let mut stopped = String::new();
    for _ in 0..200 {
        stopped = server.get("/stopped");
        if stopped == "4" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(stopped, "4", "each answer was stopped");
}

#[test]
fn a_check_prints_each_message_and_what_it_means() {
    let server = Example::start(&["--tokens", "3"]);
    let (code, text) = checked(&example("websocket.toml"), &server.url, &[]);
    assert_eq!(code, Some(0), "{text}");
    for expected in [
        "> POST http://127.0.0.1:",
        "= the awaited message",
        "= ignore (rule 6)",
        "= token (rule 1), position 1: \"This \"",
        "= end (rule 2), position 4: 3 tokens",
        "All 2 answers are complete: 6 tokens.",
    ] {
        assert!(text.contains(expected), "{expected} in:\n{text}");
    }
    assert!(text.contains("\"access_token\": \"redacted\""), "a token of the backend is secret:\n{text}");
    let (code, text) = checked(&example("sse.toml"), &server.url, &[]);
    assert!(code == Some(0) && text.contains("event: delta  id: 1"), "{text}");
    let (code, text) = checked(&example("json_lines.toml"), &server.url, &["--api-key", "sk-hush"]);
    assert!(code == Some(0) && text.contains("unverified: numbering"), "{text}");
    assert!(!text.contains("sk-hush"));
}

#[test]
fn a_check_explains_what_does_not_match() {
    let server = Example::start(&["--tokens", "3"]);
    let dir = tempfile::tempdir().unwrap();
    let wrong = |name: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(examples().join(name)).unwrap();
        assert!(text.contains(from), "{from}");
        let file = dir.path().join(name);
        std::fs::write(&file, text.replacen(from, to, 1)).unwrap();
        let (code, text) = checked(file.to_str().unwrap(), &server.url, &[]);
        (code.unwrap(), text)
    };
    for (name, from, to, expected_code, expected) in [
        ("websocket.toml", "type = \"/type\"", "type = \"/kind\"", 99, "change the pointer to \"/type\""),
        ("websocket.toml", "text = \"/content\"", "text = \"/text\"", 99, "/content = \"This \""),
        (
            "websocket.toml",
            "number = \"/seq\"",
            "number = \"/sequence\"",
            99,
            "the message has these numbers: /seq = 1",
        ),
        (
            "websocket.toml",
            "number = \"/seq\"",
            "number = \"/seq\"\nfirst = 0",
            99,
            "1 numbered event is missing",
        ),
        (
            "websocket.toml",
            "\"/type\" = \"ready\"",
            "\"/type\" = \"welcome\"",
            99,
            "no message matched `wait` of connect.first[1]",
        ),
        ("websocket.toml", "\"/access_token\"", "\"/token\"", 99, "has no /token"),
        ("websocket.toml", "[\"chat.v1\"]", "[\"chat.v2\"]", 99, "expected the subprotocol chat.v1"),
        ("websocket.toml", "path = \"/sessions\"", "path = \"/session\"", 99, "404 Not Found"),
        ("websocket.toml", "transport = ", "transports = ", 104, "did you mean `transport`?"),
        ("sse.toml", "event = \"done\"", "event = \"finished\"", 99, "rule 2 (end): event = \"finished\""),
        ("json_lines.toml", "\"json-lines\"", "\"sse\"", 99, "use transport = \"json-lines\""),
        ("json_lines.toml", "{{prompt}}", "", 99, "no prompt"),
    ] {
        let (code, text) = wrong(name, from, to);
        assert_eq!(code, expected_code, "{name} with {to}:\n{text}");
        assert!(text.contains(expected), "{expected} in:\n{text}");
        assert!(!text.contains("use --queries 1"), "the first answer is wrong:\n{text}");
    }
}

#[test]
fn a_check_asks_a_second_question_that_shows_a_wrong_scope() {
    let dir = tempfile::tempdir().unwrap();
    let number = "number = \"/seq\"";
    let per_session =
        changed(dir.path(), "websocket.toml", &[(number, "number = \"/seq\"\nscope = \"session\"")]);
    let restarts = Example::start(&["--tokens", "3"]);
    let (code, text) = checked(&per_session, &restarts.url, &[]);
    assert!(code == Some(99) && text.contains("set scope = \"query\""), "{text}");
    assert!(text.contains("use --queries 1"), "{text}");
    let (code, text) = checked(&per_session, &restarts.url, &["--queries", "1"]);
    assert!(code == Some(0) && text.contains("The answer is complete: 3 tokens."), "{text}");
    let goes_on = Example::start(&["--tokens", "3", "--go-on"]);
    let (code, text) = checked(&example("websocket.toml"), &goes_on.url, &[]);
    assert!(code == Some(99) && text.contains("set scope = \"session\""), "{text}");
    let (code, text) = checked(&per_session, &goes_on.url, &["--queries", "3"]);
    assert!(code == Some(0) && text.contains("All 3 answers are complete: 9 tokens."), "{text}");
    let session = summary(&per_session, &goes_on.url, |_| {});
    check(&session, &[("queries_ok", 6), ("tokens_received", 18), ("tokens_lost", 0)]);
}

#[test]
fn a_check_opens_another_connection_if_the_backend_closes_it_after_each_answer() {
    let server = Example::start(&["--tokens", "3", "--close"]);
    for name in ["websocket.toml", "json_lines.toml"] {
        let (code, text) = checked(&example(name), &server.url, &[]);
        assert!(code == Some(0) && text.contains("All 2 answers are complete"), "{text}");
        assert!(text.contains("the backend closed the connection after the answer"), "{text}");
    }
}

#[test]
fn a_check_warns_of_places_that_no_message_has() {
    let server = Example::start(&["--tokens", "3"]);
    let dir = tempfile::tempdir().unwrap();
    let wrong =
        [("/usage/output_tokens", "/usage/tokens"), ("query = \"/request_id\"", "query = \"/question\"")];
    let (code, text) = checked(&changed(dir.path(), "websocket.toml", &wrong), &server.url, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("! no message has a value at /question, which `query` in [read] names"), "{text}");
    assert!(text.contains("! no message has a number at /usage/tokens"), "{text}");
}

#[test]
fn a_wrong_url_is_reported_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = [("api_url = \"http://", "api_url = \"htp://")];
    let file = changed(dir.path(), "websocket.toml", &wrong);
    let output =
        Command::new(env!("CARGO_BIN_EXE_streamstress")).args(["target", "check", &file]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("for `api_url` or `ws_url` in the target file: expected"), "{text}");
    let (_, text) = checked(&file, "htp://127.0.0.1:1", &[]);
    assert!(text.contains("for --api-url: expected"), "{text}");
}

#[test]
fn built_in_files_are_listed_and_shown() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_streamstress")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, list) = run(&["target", "list"]);
    assert!(code == Some(0) && list.starts_with("centrifugo "), "{list}");
    assert!(run(&["target", "show", "centrifugo"]).1.contains("[numbering]"));
    assert_eq!(run(&["target", "show", "centrifuge"]).0, Some(104));
}

#[test]
fn publications_of_centrifugo_are_verified() {
    let server = Centrifugo::start(centrifugo::Faults::default());
    let fine = summary("centrifugo", &server.url, |args| args.api_key = Some("jwt-hush".into()));
    check(
        &fine,
        &[
            ("queries_ok", 6),
            ("tokens_expected", 6 * TOKENS),
            ("tokens_received", 6 * TOKENS),
            ("tokens_lost", 0),
        ],
    );
    assert_eq!(fine["integrity"], "verified", "{fine:#}");
    assert_ne!(fine["verdict"], "FAIL", "{fine:#}");
    assert!(!fine.to_string().contains("jwt-hush"));
    assert!(server.pongs() >= 3, "each ping is answered");
    assert!(server.tokens().iter().all(|token| token == "jwt-hush"), "{:?}", server.tokens());
}

#[test]
fn missed_publications_of_centrifugo_are_recovered() {
    let server = Centrifugo::start(centrifugo::Faults { cut_after: Some(7), ..Default::default() });
    let recovered = summary("centrifugo", &server.url, |_| {});
    check(
        &recovered,
        &[
            ("queries_ok", 6),
            ("tokens_received", 6 * TOKENS),
            ("tokens_lost", 0),
            ("tokens_duplicated", 0),
            ("total_successful_reconnects", 6),
        ],
    );
    assert_eq!(server.recovered(), 6);
}

#[test]
fn a_connection_that_centrifugo_refuses_fails_with_its_reason() {
    let server = Centrifugo::start(centrifugo::Faults { refuses: true, ..Default::default() });
    let refused = summary("centrifugo", &server.url, |_| {});
    check(&refused, &[("successful_sessions", 0), ("queries_ok", 0)]);
    assert!(refused["failures"].to_string().contains("109: token expired"), "{}", refused["failures"]);
    let ws = server.url.replace("http", "ws");
    let (code, text) = checked("centrifugo", &server.url, &["--wsproxy-url", &ws]);
    assert!(code == Some(99) && text.contains("109: token expired"), "{code:?}: {text}");
}

#[test]
fn what_centrifugo_cannot_recover_and_loses_is_found() {
    let forgets = centrifugo::Faults { cut_after: Some(7), forgets: true, ..Default::default() };
    let server = Centrifugo::start(forgets);
    let lost = summary("centrifugo", &server.url, |_| {});
    assert_eq!(lost["queries_error_by_code"]["not_resumable"], 6, "{lost:#}");
    let server = Centrifugo::start(centrifugo::Faults { drop: Some(5), ..Default::default() });
    let dropped = summary("centrifugo", &server.url, |_| {});
    check(&dropped, &[("queries_ok", 0), ("tokens_lost", 6)]);
    assert_eq!(dropped["verdict"], "FAIL");
}
