//! Complete runs against servers with an OpenAI-compatible API: the client must find exactly the defects that the server causes.
//! A slow machine may make these runs INVALID, so the tests do not require the verdict PASS.

mod fake;
mod openai;
mod runs;

use client::cli::RunArgs;
use openai::{End, OpenAi, Reply, chat, framed, responses};
use plan::Stop;
use runs::{check, read_summary, run};
use serde_json::{Value, json};

const WORDS: u64 = 20;
/// The connections of the check before a run.
const CHECKS: u64 = 1;

fn args(server: &OpenAi, dialect: &str) -> RunArgs {
    RunArgs {
        clients: Some(3),
        queries: Some(2),
        ramp_up: Some(0.02.into()),
        dialect: Some(dialect.into()),
        api_url: vec![format!("{}/v1", server.url)],
        model: Some("m".into()),
        ws_initial_backoff_seconds: Some(0.02.into()),
        ws_max_backoff_seconds: Some(0.1.into()),
        quiet: true,
        workers: Some(1),
        seed: Some(1),
        ..RunArgs::default()
    }
}

/// Performs a run and returns its summary.
fn summary(server: &OpenAi, dialect: &str, change: impl FnOnce(&mut RunArgs)) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(server, dialect);
    args.output_dir = Some(dir.path().to_owned());
    change(&mut args);
    run(args, &Stop::default()).unwrap();
    read_summary(dir.path())
}

/// Asks one question, with this answer.
fn one(dialect: &str, reply: Reply) -> Value {
    let server = OpenAi::start(move |_| reply.clone());
    summary(&server, dialect, |args| {
        args.clients = Some(1);
        args.queries = Some(1);
        args.query_timeout = Some(2.0.into());
    })
}

fn whole(frames: Vec<String>) -> Reply {
    Reply::Stream(frames, End::Whole)
}

fn failure(summary: &Value) -> String {
    summary["failures"].to_string()
}

#[test]
fn a_whole_run_of_chats_is_complete_and_unverified() {
    let server = OpenAi::start(|_| whole(chat(WORDS, false)));
    let summary = summary(&server, "openai-chat", |args| {
        args.api_key = Some("sk-hush".into());
        args.prompt = Some("Why?".into());
        args.max_tokens = Some(50);
    });
    let all = 6 * WORDS;
    check(
        &summary,
        &[
            ("queries_ok", 6),
            ("successful_sessions", 3),
            ("tokens_received", all),
            ("tokens_unverified", all),
            ("tokens_reported", all),
            ("tokens_expected", 0),
            ("tokens_lost", 0),
            ("total_reconnect_attempts", 0),
        ],
    );
    assert_ne!(summary["verdict"], "FAIL", "{summary:#}");
    assert_eq!(summary["integrity"], "unverified", "{summary:#}");
    assert_eq!(summary["metrics"]["ttft_ms"]["count"], 6);
    assert_eq!(summary["metrics"]["itl_ms"]["count"].as_u64(), Some(6 * (WORDS - 1)));
    assert_eq!(server.connections(), CHECKS + 3, "a session keeps its connection");
    let asked = server.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("POST", "/v1/chat/completions"));
    assert_eq!(asked[0].headers["authorization"], "Bearer sk-hush");
    let body = json!({
        "model": "m", "messages": [{"role": "user", "content": "Why?"}], "stream": true,
        "stream_options": {"include_usage": true}, "max_completion_tokens": 50,
    });
    assert_eq!(asked[0].body, body, "nothing else is sent to a foreign server");
    assert!(!summary.to_string().contains("sk-hush"));
}

#[test]
fn tokens_that_the_simulator_numbers_are_verified_and_each_defect_is_found() {
    let run = |edit: fn(&mut Vec<String>)| {
        let server = OpenAi::start(move |_| {
            let mut frames = chat(WORDS, true);
            edit(&mut frames);
            whole(frames)
        });
        summary(&server, "openai-chat", |args| {
            args.simulator = true;
            args.answer_tokens = Some(settings::distribution::Distribution::Fixed(WORDS as f64));
            args.query_timeout = Some(5.0.into());
        })
    };
    let fine = run(|_| {});
    check(
        &fine,
        &[
            ("queries_ok", 6),
            ("tokens_expected", 6 * WORDS),
            ("tokens_received", 6 * WORDS),
            ("tokens_lost", 0),
        ],
    );
    assert_eq!(fine["integrity"], "verified");
    // The first word is frame 2.
    let lost = run(|frames| drop(frames.remove(7)));
    check(&lost, &[("queries_ok", 0), ("tokens_lost", 6), ("tokens_received", 6 * (WORDS - 1))]);
    let last = run(|frames| drop(frames.remove(1 + WORDS as usize)));
    check(&last, &[("queries_ok", 0), ("tokens_lost", 6)]);
    let all = run(|frames| drop(frames.drain(2..2 + WORDS as usize)));
    check(&all, &[("queries_ok", 0), ("tokens_lost", 6 * WORDS), ("tokens_received", 0)]);
    let doubled = run(|frames| frames.insert(7, frames[7].clone()));
    check(&doubled, &[("queries_ok", 0), ("tokens_duplicated", 6), ("tokens_lost", 0)]);
    let swapped = run(|frames| frames.swap(7, 8));
    check(&swapped, &[("queries_ok", 0), ("tokens_reordered", 6), ("tokens_lost", 0)]);
    assert!([&lost, &last, &all, &doubled, &swapped].iter().all(|summary| summary["verdict"] == "FAIL"));
}

#[test]
fn bad_ends_of_a_chat_are_failures() {
    let frames = chat(WORDS, false);
    let text = frames[..8].to_vec();
    let error = r#"data: {"error":{"message":"boom","type":"server_error","code":"overloaded"}}"#;
    let with_error = [&text[..], &[format!("{error}\n\n"), "data: [DONE]\n\n".into()]].concat();
    for (frames, end, code, words) in [
        (with_error, End::Whole, "overloaded", "boom"),
        (text.clone(), End::Whole, "truncated", "without finish_reason and"),
        (frames[..frames.len() - 1].to_vec(), End::Whole, "truncated", "without `data: [DONE]`"),
        (text.clone(), End::Abort, "truncated", "truncated after 6 events with text"),
        ([&text[..], &["data: [DONE]\n\n".into()]].concat(), End::Whole, "no_finish_reason", "finish_reason"),
    ] {
        let summary = one("openai-chat", Reply::Stream(frames.clone(), end));
        let received = frames.iter().filter(|frame| frame.contains("rd")).count() as u64;
        check(&summary, &[("queries_ok", 0), ("queries_error", 1), ("tokens_received", received)]);
        assert_eq!(summary["queries_error_by_code"][code], 1, "{summary:#}");
        assert!(failure(&summary).contains(words), "{words} in {}", failure(&summary));
        assert_eq!(summary["verdict"], "FAIL");
    }
    let hung = one("openai-chat", Reply::Stream(text, End::Hang));
    check(&hung, &[("queries_timeout", 1)]);
}

#[test]
fn a_last_frame_without_its_empty_line_and_a_late_frame() {
    let mut frames = chat(WORDS, false);
    *frames.last_mut().unwrap() = "data: [DONE]".into();
    check(&one("openai-chat", whole(frames.clone())), &[("queries_ok", 1)]);
    let late = frames[5].clone();
    frames.insert(frames.len() - 1, late);
    let summary = one("openai-chat", whole(frames));
    check(&summary, &[("queries_ok", 0), ("events_after_terminator", 1)]);
}

#[test]
fn refusals_before_the_stream_are_clear() {
    let body =
        r#"{"error":{"message":"no such model","type":"invalid_request_error","code":"model_not_found"}}"#;
    let summary = one("openai-chat", Reply::Refuse(404, Vec::new(), body.into()));
    check(&summary, &[("queries_rejected", 1)]);
    assert!(
        failure(&summary).contains("404 Not Found: model_not_found: no such model"),
        "{}",
        failure(&summary)
    );
    let page = one("openai-chat", Reply::Refuse(200, Vec::new(), "<title>Hi</title>".into()));
    assert!(failure(&page).contains("instead of text/event-stream"), "{}", failure(&page));
}

#[test]
fn a_question_that_was_refused_for_now_is_repeated() {
    let server = OpenAi::start(|asked| match asked.number {
        1 => Reply::Refuse(429, vec![("retry-after-ms", "60")], String::new()),
        _ => whole(chat(WORDS, false)),
    });
    let summary = summary(&server, "openai-chat", |args| (args.clients, args.queries) = (Some(1), Some(1)));
    check(&summary, &[("queries_ok", 1)]);
    assert_eq!(server.asked().len(), 2);
    let ttft = summary["metrics"]["ttft_ms"]["min"].as_f64().unwrap();
    assert!(ttft > 60.0, "the time counts from the first attempt: {ttft}");
    assert_eq!(server.connections(), CHECKS + 1);
}

#[test]
fn an_expired_key_is_renewed() {
    let server = OpenAi::start(|asked| match asked.headers["authorization"].to_str().unwrap() {
        "Bearer new-key" => whole(chat(WORDS, false)),
        _ => {
            Reply::Refuse(401, Vec::new(), r#"{"error":{"message":"expired","code":"token_expired"}}"#.into())
        }
    });
    let renewed = summary(&server, "openai-chat", |args| {
        args.api_key = Some("old-key".into());
        args.token_command = Some("echo new-key".into());
    });
    check(&renewed, &[("queries_ok", 6)]);
    assert!(!renewed.to_string().contains("new-key"));
    let refused = summary(&server, "openai-chat", |args| args.api_key = Some("old-key".into()));
    check(&refused, &[("queries_rejected", 6)]);
    assert!(failure(&refused).contains("token_expired"), "{}", failure(&refused));
}

/// A server without delays, or a proxy that buffers, sends head, answer and end in one write.
#[test]
fn an_answer_that_arrives_in_one_read_is_whole() {
    for (dialect, frames) in
        [("openai-chat", chat(WORDS, false)), ("openai-responses", framed(&responses("resp_1", WORDS)))]
    {
        let at_once = Reply::Refuse(200, vec![("content-type", "text/event-stream")], frames.concat());
        let summary = one(dialect, at_once);
        check(&summary, &[("queries_ok", 1), ("tokens_received", WORDS)]);
    }
}

#[test]
fn a_server_that_closes_after_each_answer_costs_no_failure() {
    let server = OpenAi::start(|_| Reply::Closing(chat(WORDS, false)));
    let summary = summary(&server, "openai-chat", |_| {});
    check(&summary, &[("queries_ok", 6), ("successful_sessions", 3), ("total_reconnect_attempts", 0)]);
    assert_eq!(server.connections(), CHECKS + 6);
}

#[test]
fn a_whole_run_of_responses_is_verified() {
    let server = OpenAi::start(|_| whole(framed(&responses("resp_1", WORDS))));
    let summary = summary(&server, "openai-responses", |_| {});
    let all = 6 * WORDS;
    check(
        &summary,
        &[
            ("queries_ok", 6),
            ("tokens_expected", all),
            ("tokens_received", all),
            ("tokens_lost", 0),
            ("tokens_reported", all),
            ("contents_unverified", 0),
            ("events_received", 6 * (WORDS + 8)),
        ],
    );
    assert_eq!(summary["integrity"], "verified", "{summary:#}");
    assert_ne!(summary["verdict"], "FAIL", "{summary:#}");
    assert_eq!(server.asked()[0].path, "/v1/responses");
}

#[test]
fn each_defect_of_numbered_events_is_found() {
    let run = |edit: fn(&mut Vec<String>)| {
        let mut events = responses("resp_1", WORDS);
        edit(&mut events);
        one("openai-responses", whole(framed(&events)))
    };
    check(&run(|events| drop(events.remove(9))), &[("queries_ok", 0), ("tokens_lost", 1)]);
    check(&run(|events| drop(events.remove(2))), &[("queries_ok", 0), ("tokens_lost", 1)]);
    check(&run(|events| events.insert(9, events[9].clone())), &[("queries_ok", 0), ("events_duplicated", 1)]);
    check(&run(|events| events.insert(2, events[2].clone())), &[("queries_ok", 0), ("events_duplicated", 1)]);
    check(&run(|events| events.swap(9, 10)), &[("queries_ok", 0), ("events_reordered", 1)]);
    let corrupt = run(|events| events[9] = events[9].replace("wörd6", "other"));
    check(&corrupt, &[("queries_ok", 0), ("queries_corrupt", 1), ("tokens_lost", 0)]);
    let cut = run(|events| events.truncate(10));
    assert_eq!(cut["queries_error_by_code"]["truncated"], 1, "{cut:#}");
    let failed = run(|events| {
        let last = events.last_mut().unwrap();
        *last = last
            .replace("response.completed", "response.failed")
            .replace(r#""usage""#, r#""error":{"code":"server_error","message":"m"},"usage""#);
    });
    assert_eq!(failed["queries_error_by_code"]["server_error"], 1, "{failed:#}");
}

#[test]
fn a_lost_stream_of_a_kept_answer_is_resumed_behind_the_last_event() {
    let server = OpenAi::start(|asked| {
        let events = framed(&responses("resp_7", WORDS));
        match asked.path.split_once("starting_after=") {
            Some((_, after)) => whole(events[after.parse::<usize>().unwrap() + 1..].to_vec()),
            None => Reply::Stream(events[..11].to_vec(), End::Abort),
        }
    });
    let summary = summary(&server, "openai-responses", |args| {
        args.background = true;
        (args.clients, args.queries) = (Some(2), Some(2));
    });
    check(
        &summary,
        &[
            ("queries_ok", 4),
            ("tokens_received", 4 * WORDS),
            ("tokens_lost", 0),
            ("tokens_duplicated", 0),
            ("total_successful_reconnects", 4),
            ("contents_unverified", 0),
        ],
    );
    let asked = server.asked();
    assert_eq!((&asked[0].body["background"], &asked[0].body["store"]), (&json!(true), &json!(true)));
    let resumed: Vec<_> = asked.iter().filter(|asked| asked.method == "GET").collect();
    assert_eq!(resumed.len(), 4);
    assert!(
        resumed.iter().all(|asked| asked.path == "/v1/responses/resp_7?stream=true&starting_after=10"),
        "{resumed:?}"
    );
}

#[test]
fn a_kept_answer_that_takes_too_long_is_cancelled() {
    let server = OpenAi::start(|asked| match asked.method.as_str() {
        "GET" => whole(Vec::new()),
        _ if asked.path.ends_with("/cancel") => Reply::Refuse(200, Vec::new(), "{}".into()),
        _ => Reply::Stream(framed(&responses("resp_7", WORDS))[..9].to_vec(), End::Hang),
    });
    let summary = summary(&server, "openai-responses", |args| {
        args.background = true;
        args.query_timeout = Some(0.3.into());
        args.think_time = Some(settings::distribution::Distribution::Fixed(0.3));
        (args.clients, args.queries) = (Some(1), Some(2));
    });
    check(&summary, &[("queries_timeout", 2)]);
    let cancelled =
        server.asked().into_iter().filter(|asked| asked.path == "/v1/responses/resp_7/cancel").count();
    assert!(cancelled >= 1, "{:?}", server.asked());
}

#[test]
fn a_resumed_stream_that_repeats_or_skips_events_is_found() {
    for (shift, name) in [(0, "events_duplicated"), (2, "tokens_lost")] {
        let server = OpenAi::start(move |asked| {
            let events = framed(&responses("resp_7", WORDS));
            match asked.path.split_once("starting_after=") {
                Some((_, after)) => whole(events[after.parse::<usize>().unwrap() + shift..].to_vec()),
                None => Reply::Stream(events[..11].to_vec(), End::Abort),
            }
        });
        let summary = summary(&server, "openai-responses", |args| {
            args.background = true;
            (args.clients, args.queries) = (Some(1), Some(1));
        });
        check(&summary, &[("queries_ok", 0), (name, 1)]);
    }
}

#[test]
fn turns_over_a_websocket_name_the_answer_before() {
    let server =
        OpenAi::start_ws(Some("sk-1"), |asked| whole(responses(&format!("resp_{}", asked.number), WORDS)));
    let summary = summary(&server, "openai-responses-ws", |args| {
        args.api_key = Some("sk-1".into());
        (args.clients, args.queries) = (Some(1), Some(3));
    });
    check(
        &summary,
        &[
            ("queries_ok", 3),
            ("tokens_received", 3 * WORDS),
            ("tokens_expected", 3 * WORDS),
            ("contents_unverified", 0),
        ],
    );
    assert_eq!((summary["integrity"].as_str(), server.connections()), (Some("verified"), 1));
    let asked = server.asked();
    assert!(
        asked.iter().all(|asked| asked.body["type"] == "response.create" && asked.path == "/v1/responses")
    );
    let previous: Vec<_> = asked.iter().map(|asked| asked.body["previous_response_id"].clone()).collect();
    assert_eq!(previous, [Value::Null, "resp_1".into(), "resp_2".into()]);
}

#[test]
fn the_age_limit_of_a_socket_is_a_planned_reconnect() {
    let limit = r#"{"type":"error","status":400,"error":{"type":"invalid_request_error","code":"websocket_connection_limit_reached","message":"60 minutes"}}"#;
    let server = OpenAi::start_ws(None, move |asked| match asked.number {
        3 => Reply::Stream(vec![limit.into()], End::Close(1000)),
        number => whole(responses(&format!("resp_{number}"), WORDS)),
    });
    let summary =
        summary(&server, "openai-responses-ws", |args| (args.clients, args.queries) = (Some(1), Some(4)));
    check(&summary, &[("queries_ok", 4), ("successful_sessions", 1), ("total_successful_reconnects", 1)]);
    assert_eq!(server.connections(), 2);
    let asked = server.asked();
    assert_eq!(asked[2].body["previous_response_id"], "resp_2");
    assert!(
        asked[3].body["previous_response_id"].is_null(),
        "the new socket does not know the answer before"
    );
    assert_eq!(asked[4].body["previous_response_id"], "resp_4");
}

#[test]
fn an_age_limit_in_the_middle_of_an_answer_truncates_it() {
    let limit = r#"{"type":"error","status":400,"error":{"type":"invalid_request_error","code":"websocket_connection_limit_reached","message":"60 minutes"}}"#;
    // With numbers and an id, and with neither: an answer that has begun must not be asked for again.
    for is_numbered in [true, false] {
        let server = OpenAi::start_ws(None, move |asked| {
            let mut events = responses(&format!("resp_{}", asked.number), WORDS);
            if asked.number == 2 {
                events.truncate(7);
                events.push(limit.into());
            }
            if !is_numbered {
                let bare = |event: &String| {
                    let mut event: Value = serde_json::from_str(event).unwrap();
                    event.as_object_mut().unwrap().remove("sequence_number");
                    if let Some(response) = event["response"].as_object_mut() {
                        response.remove("id");
                    }
                    event.to_string()
                };
                events = events.iter().map(bare).collect();
            }
            Reply::Stream(events, if asked.number == 2 { End::Close(1000) } else { End::Whole })
        });
        let summary =
            summary(&server, "openai-responses-ws", |args| (args.clients, args.queries) = (Some(1), Some(3)));
        check(&summary, &[("queries_ok", 2), ("queries_timeout", 0)]);
        assert_eq!(server.asked().len(), 3, "asked again: {summary:#}");
    }
}

#[test]
fn a_socket_whose_key_expired_is_opened_again_with_a_new_one() {
    let server = OpenAi::start_ws(Some("sk-1"), |asked| {
        let end = if asked.number == 1 { End::Close(4004) } else { End::Whole };
        Reply::Stream(responses(&format!("resp_{}", asked.number), WORDS), end)
    });
    let summary = summary(&server, "openai-responses-ws", |args| {
        args.token_command = Some("echo sk-1".into());
        (args.clients, args.queries) = (Some(1), Some(2));
        args.think_time = Some(settings::distribution::Distribution::Fixed(0.1));
    });
    check(&summary, &[("queries_ok", 2), ("successful_sessions", 1)]);
    assert_eq!((server.connections(), server.refused()), (2, 0));
    let wrong = OpenAi::start_ws(Some("sk-2"), |_| whole(responses("resp_1", WORDS)));
    let renewed = crate::summary(&wrong, "openai-responses-ws", |args| {
        args.api_key = Some("sk-1".into());
        args.token_command = Some("echo sk-2".into());
    });
    check(&renewed, &[("queries_ok", 6)]);
}

#[test]
fn defects_over_a_websocket_are_found() {
    let run = |edit: fn(&mut Vec<String>), end| {
        let server = OpenAi::start_ws(None, move |_| {
            let mut events = responses("resp_1", WORDS);
            edit(&mut events);
            Reply::Stream(events, end)
        });
        summary(&server, "openai-responses-ws", |args| {
            (args.clients, args.queries) = (Some(1), Some(1));
            args.query_timeout = Some(3.0.into());
        })
    };
    check(&run(|events| drop(events.remove(9)), End::Whole), &[("queries_ok", 0), ("tokens_lost", 1)]);
    check(
        &run(|events| events.insert(9, events[9].clone()), End::Whole),
        &[("queries_ok", 0), ("events_duplicated", 1)],
    );
    let cut = run(|events| events.truncate(9), End::Abort);
    assert_eq!(cut["queries_error_by_code"]["truncated"], 1, "{cut:#}");
}

#[test]
fn cuts_by_the_client_fail_answers_and_no_session() {
    let server = OpenAi::start(|_| whole(chat(400, false)));
    let summary = summary(&server, "openai-chat", |args| {
        args.cut_rate = Some(8.0);
        (args.clients, args.queries) = (Some(4), Some(3));
    });
    let cut = summary["queries_error_by_code"]["truncated"].as_u64().unwrap_or_default();
    assert!(cut > 0, "{summary:#}");
    check(&summary, &[("queries_total", 12), ("queries_ok", 12 - cut)]);
}

#[test]
fn an_open_model_and_a_pause_in_reading_work_as_with_the_own_contract() {
    let server = OpenAi::start(|_| whole(chat(WORDS, false)));
    let open = summary(&server, "openai-chat", |args| {
        (args.clients, args.queries) = (Some(20), None);
        args.arrival = Some(client::cli::ArrivalOf::Queries);
        args.arrival_rate = Some(20.0);
        args.duration = Some(1.0.into());
    });
    check(&open, &[("queries_ok", 20), ("dropped_iterations", 0)]);
    let long = OpenAi::start(|_| whole(chat(300, false)));
    let paused = summary(&long, "openai-chat", |args| {
        (args.clients, args.queries) = (Some(2), Some(1));
        args.pause_readers = Some("1:300ms".into());
    });
    check(&paused, &[("queries_ok", 2), ("tokens_received", 600)]);
    assert_eq!(paused["metrics"]["ttft_ms"]["count"], 1, "a query with a pause has no latency");
}
