//! Target files as state machines, without sockets: errors of files, what is sent, and what messages mean.

use dialects::{
    Ask, Delivery, Dialect, Transport,
    message::{End, Fault, Numbering},
    request::Question,
    target::{
        BUILTIN, Conversation, FileAnswer, Greeting, Incoming, Is, Places, TargetFile, describe, mismatches,
        wrong_scope,
    },
};
use serde_json::{Value, json};
use std::sync::Arc;

/// A small file over a WebSocket, with more lines behind it.
fn websocket(more: &str) -> String {
    format!(
        r#"
name = "test"
transport = "websocket"
[connect]
path = "/ws/{{{{session}}}}"
[submit]
message = {{ type = "ask", id = "{{{{query}}}}", text = "{{{{prompt}}}}" }}
[read]
type = "/type"
text = "/text"
query = "/id"
code = "/code"
[[rules]]
is = "token"
type = "token"
[[rules]]
is = "end"
type = "done"
[[rules]]
is = "error"
type = "error"
[[rules]]
is = "ignore"
type = ["accepted", "note"]
{more}"#
    )
}

fn parse(text: &str) -> Result<Arc<TargetFile>, Vec<String>> {
    let environment = |name: &str| (name == "TEST_KEY").then(|| "key-from-environment".to_owned());
    TargetFile::parse(text, &environment).map(Arc::new).map_err(|bad| bad.0)
}

fn file(more: &str) -> Arc<TargetFile> {
    parse(&websocket(more)).unwrap()
}

fn asked(file: &Arc<TargetFile>) -> (Conversation, FileAnswer) {
    let mut conversation = Conversation::new(Arc::clone(file), "s-1", 7);
    let question = Question { prompt: "why?", ..Question::default() };
    assert_eq!(conversation.greeting(), Greeting::Done);
    conversation.begin(1, "q-1", &question, None);
    let answer = conversation.answer();
    (conversation, answer)
}

fn sent(conversation: &mut Conversation) -> Value {
    match conversation.ask() {
        Ask::Message(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

const NUMBERED: &str = "[numbering]\nnumber = \"/seq\"\n";

#[test]
fn built_in_files_are_valid() {
    for built_in in BUILTIN {
        let file = parse(built_in.text).unwrap_or_else(|errors| panic!("{}: {errors:?}", built_in.name));
        assert_eq!((file.name.as_str(), file.about.as_str()), (built_in.name, built_in.about));
    }
}

#[test]
fn unknown_names_are_refused_with_the_nearest_known_one() {
    let error = |text: &str| parse(text).unwrap_err().join("\n");
    let base = websocket("");
    for (from, to, expected) in [
        ("transport =", "transports =", "unknown key `transports`: did you mean `transport`?"),
        ("path = ", "paths = ", "unknown key `connect.paths`: did you mean `path`?"),
        ("text = \"/text\"", "texts = \"/text\"", "unknown key `read.texts`: did you mean `text`?"),
        ("is = \"end\"", "is = \"ended\"", "rules[2].is: unknown word \"ended\": expected token,"),
        (
            "{{prompt}}",
            "{{prompts}}",
            "submit.message: unknown placeholder {{prompts}}: did you mean {{prompt}}?",
        ),
        ("{{session}}", "{{token}}", "connect.path: unknown placeholder {{token}}"),
        ("\"/text\"", "\"text\"", "read.text: invalid JSON pointer \"text\": expected for example \"/text\""),
        ("\"/ws", "\"ws", "connect.path: invalid path \"ws/{{session}}\""),
        ("type = \"token\"", "when = { \"/type\" = { prefixed = \"t\" } }", "did you mean `prefix`?"),
        ("type = \"token\"", "types = \"token\"", "unknown key `rules[1].types`: did you mean `type`?"),
        (
            "\"websocket\"",
            "\"http\"",
            "transport: unknown word \"http\": expected websocket, sse, json-lines",
        ),
        ("name = \"test\"", "", "name: is missing"),
        ("is = \"end\"", "is = \"ignore\"", "rules: none says when an answer is complete"),
        ("[submit]", "[submit]\nvia = \"stream\"\npath = \"/x\"", "unknown key `submit.message`"),
    ] {
        let text = base.replacen(from, to, 1);
        assert_ne!(text, base, "{from}");
        assert!(error(&text).contains(expected), "{expected} in:\n{}", error(&text));
    }
    assert!(error("name = ").contains("name"), "a syntax error of TOML names the line");
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    for (more, expected) in [
        ("[[rules]]\nis = \"ping\"\ndata = \"p\"", "`ping` needs `reply`"),
        ("[[rules]]\nis = \"lost\"\ntype = \"x\"", "`lost` needs a table [resume]"),
        ("[[rules]]\nis = \"ignore\"\nevent = \"x\"", "event: needs transport = \"sse\""),
        ("[numbering]\nnumber = \"event-id\"", "event-id needs transport = \"sse\""),
        ("[numbering]\nnumber = \"/n\"\nscope = \"session\"\nfirst = 1", "first: has no meaning"),
        (
            "[numbering]\nnumber = \"/n\"\nscope = \"session\"\nstart = \"offset\"",
            "no `extract` gives a value `offset`",
        ),
        ("[numbering]\nnumber = \"/n\"\nstart = \"offset\"", "needs scope = \"session\""),
        ("[resume]\nvia = \"connect\"", "nothing tells the server what to send"),
        ("[resume]\nvia = \"stream\"\npath = \"/x\"", "stream needs transport"),
        ("[keepalive]\nevery = \"1s\"", "needs `every`"),
        ("[keepalive]\nsilence = \"soon\"", "invalid duration \"soon\""),
        ("[variables]\nk = \"env:NOT_SET\"", "the environment variable NOT_SET is not set"),
        ("[create]\npath = \"/s\"\nheaders = { Upgrade = \"x\" }", "`Upgrade` cannot be set"),
        ("[create]\npath = \"/s\"\nmethod = \"\"", "invalid method \"\""),
        ("[create]\npath = \"/s\"\nextract = { a = 5 }", "expected a JSON pointer, not integer"),
    ] {
        let errors = parse(&websocket(more)).unwrap_err().join("\n");
        assert!(errors.contains(expected), "{expected} in:\n{errors}");
    }
    let top = websocket("").replace("name = ", "delivery = \"at-least-once\"\nname = ");
    assert!(parse(&top).unwrap_err()[0].contains("needs a table [numbering]"));
}

#[test]
fn a_question_and_its_answer() {
    let file = file(NUMBERED);
    let (mut conversation, mut answer) = asked(&file);
    assert_eq!(conversation.open().path, "/ws/s-1");
    assert_eq!(sent(&mut conversation), json!({"type": "ask", "id": "q-1", "text": "why?"}));
    assert_eq!(answer.numbering(), Numbering::Tokens);
    let mut read = |text: &str| {
        let reads = answer.read(Incoming::text(text));
        assert_eq!(reads.len(), 1);
        reads.into_iter().next().unwrap()
    };
    assert_eq!(read(r#"{"type":"accepted"}"#).is, Some(Is::Ignore));
    let token = read(r#"{"type":"token","id":"q-1","seq":1,"text":"Hi"}"#);
    assert_eq!((token.meaning.seq, &*token.meaning.text, token.rule), (Some(1), "Hi", Some(0)));
    for (text, fault) in [
        (r#"{"type":"token","id":"q-2","seq":2,"text":"a"}"#, Fault::Foreign),
        (r#"{"type":"token","seq":2}"#, Fault::Unreadable),
        (r#"{"type":"token","text":"a"}"#, Fault::Unreadable),
        (r#"{"type":"token","text":"a","seq":0}"#, Fault::Unreadable),
        (r#"{"type":"done"}"#, Fault::Unreadable),
        (r#"{"type":"other"}"#, Fault::Unknown),
        ("nonsense", Fault::Unreadable),
    ] {
        assert_eq!(read(text).meaning.fault, Some(fault), "{text}");
    }
    let end = read(r#"{"type":"done","id":"q-1","seq":2}"#).meaning;
    assert_eq!((end.seq, end.end), (Some(2), Some(End::Good)));
    let late = read(r#"{"type":"token","id":"q-1","seq":3,"text":"x"}"#);
    assert_eq!(late.meaning.fault, Some(Fault::AfterEnd));
    assert_eq!(answer.missing_end(), None);
}

#[test]
fn errors_have_the_servers_code() {
    let (_, mut answer) = asked(&file(NUMBERED));
    let end = answer.read(Incoming::text(r#"{"type":"error","code":"overloaded"}"#)).remove(0).meaning;
    let Some(End::Failed(failed)) = end.end else { panic!("{end:?}") };
    assert_eq!((failed.code.as_str(), end.seq), ("overloaded", Some(1)), "an error needs no number");
}

#[test]
fn the_last_token_may_end_the_answer() {
    let text = websocket(NUMBERED).replace("is = \"end\"", "is = \"last\"");
    let (_, mut answer) = asked(&parse(&text).unwrap());
    answer.read(Incoming::text(r#"{"type":"token","seq":1,"text":"a"}"#));
    let reads = answer.read(Incoming::text(r#"{"type":"done","seq":2,"text":"b"}"#));
    let parts: Vec<_> = reads.iter().map(|read| (read.meaning.seq, &*read.meaning.text)).collect();
    assert_eq!(parts[0], (Some(2), "b"));
    assert_eq!((reads[1].meaning.seq, &reads[1].meaning.end), (Some(3), &Some(End::Good)));
}

#[test]
fn a_total_in_the_end_shows_the_loss_of_the_last_token() {
    let (_, mut answer) = asked(&file("[numbering]\nnumber = \"/seq\"\nfirst = 0\ntotal = \"/total\"\n"));
    answer.read(Incoming::text(r#"{"type":"token","seq":0,"text":"a"}"#));
    let end = answer.read(Incoming::text(r#"{"type":"done","total":3}"#)).remove(0).meaning;
    assert_eq!(end.seq, Some(4), "two tokens are missing before the end");
    let blind = file("[numbering]\nnumber = \"/seq\"\nunnumbered_end = true\n");
    assert!(blind.unverified()[0].contains("last tokens"));
    let (_, mut answer) = asked(&blind);
    answer.read(Incoming::text(r#"{"type":"token","seq":1,"text":"a"}"#));
    assert_eq!(answer.read(Incoming::text(r#"{"type":"done"}"#)).remove(0).meaning.seq, Some(2));
}

#[test]
fn values_of_the_backend_are_sent_and_secret() {
    let file = file(
        r#"
[create]
path = "/sessions"
headers = { Authorization = "Bearer {{key}}", X-None = "{{api_key}}" }
body = { user = "{{client}}" }
extract = { session = "/session/id", ticket = "/ticket", place = "header:X-Place" }
[variables]
key = "env:TEST_KEY"
room = "room-{{session}}"
"#,
    );
    let mut conversation = Conversation::new(Arc::clone(&file), "own-id", 7);
    let create = conversation.create().unwrap();
    assert_eq!((&*create.method, create.path.as_str()), ("POST", "/sessions"));
    assert_eq!(create.headers, [("Authorization".to_owned(), "Bearer key-from-environment".to_owned())]);
    assert_eq!(create.body.unwrap(), r#"{"user":7}"#);
    let none = |_: &str| None;
    let missing = conversation.created(&none, br#"{"session":{"id":"a/b"}}"#).unwrap_err();
    assert!(missing.contains("has no header x-place"), "{missing}");
    let place = |name: &str| (name == "x-place").then(|| "here".to_owned());
    let missing = conversation.created(&place, br#"{"session":{"id":"a/b"}}"#).unwrap_err();
    assert!(missing.contains("no /ticket") && missing.contains("/session/id"), "{missing}");
    conversation.created(&place, br#"{"session":{"id":"a/b"},"ticket":"hush"}"#).unwrap();
    assert_eq!(conversation.open().path, "/ws/a%2Fb");
    let secrets: Vec<_> = conversation.secrets().collect();
    assert!(["hush", "a/b", "a%2Fb"].iter().all(|secret| secrets.contains(secret)), "{secrets:?}");
    assert!(!format!("{file:?} {conversation:?}").contains("key-from-environment"));
    assert_eq!(file.secrets().collect::<Vec<_>>(), ["key-from-environment"]);
}

#[test]
fn a_message_is_awaited_before_the_first_question() {
    let text = websocket("[keepalive]\nreply = \"pong\"\n").replace(
        "[submit]",
        "[[connect.first]]\nsend = { type = \"hello\" }\nwait = { \"/type\" = \"ready\" }\nextract = { node = \"/node\" }\n[submit]",
    );
    let text = text.replacen("[[rules]]", "[[rules]]\nis = \"ping\"\ndata = \"ping\"\n[[rules]]", 1);
    let mut conversation = Conversation::new(parse(&text).unwrap(), "s", 0);
    conversation.open();
    assert_eq!(conversation.greeting(), Greeting::Send(r#"{"type":"hello"}"#.into()));
    assert!(matches!(conversation.greeting(), Greeting::Wait(awaited) if awaited.contains("ready")));
    let greeted = conversation.greeted("ping").unwrap();
    assert_eq!(greeted.replies, ["pong"]);
    assert_eq!(conversation.greeted(r#"{"type":"token","text":"x"}"#).unwrap().kept.len(), 1);
    assert!(conversation.greeted(r#"{"type":"error","code":"full"}"#).unwrap_err().contains("full"));
    assert!(conversation.greeted(r#"{"type":"ready"}"#).unwrap_err().contains("no /node"));
    assert!(conversation.greeted(r#"{"type":"ready","node":"n-1"}"#).unwrap().kept.is_empty());
    assert_eq!(conversation.greeting(), Greeting::Done);
}

#[test]
fn an_answer_is_resumed_behind_its_last_number() {
    let resume = "[resume]\nvia = \"message\"\nmessage = { after = \"{{last}}\", from = \"{{next}}\", query = \"{{query}}\" }\n";
    let file = file(&format!("{NUMBERED}first = 0\n{resume}"));
    let (mut conversation, mut answer) = asked(&file);
    let resumed = |conversation: &mut Conversation, answer: &FileAnswer, position| {
        conversation.begin_resume(answer.resume_point(position));
        match conversation.resume() {
            Some(Ask::Message(text)) => serde_json::from_str::<Value>(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let point = resumed(&mut conversation, &answer, 0);
    assert_eq!(point, json!({"after": -1, "from": 0, "query": "q-1"}), "nothing has arrived");
    answer.read(Incoming::text(r#"{"type":"token","seq":0,"text":"a"}"#));
    answer.read(Incoming::text(r#"{"type":"token","seq":1,"text":"a"}"#));
    assert_eq!(resumed(&mut conversation, &answer, 2)["after"], 1);
}

/// Server-sent events whose ids have the numbers.
const EVENTS: &str = r#"
name = "events"
transport = "sse"
[submit]
path = "/ask"
body = { text = "{{prompt}}" }
[read]
text = "/delta"
[numbering]
number = "event-id"
[[rules]]
is = "token"
event = "delta"
[[rules]]
is = "end"
event = "done"
"#;

#[test]
fn events_are_numbered_by_their_id() {
    let resume = r#"
[resume]
via = "stream"
path = "/ask/{{query}}"
headers = { Last-Event-ID = "{{last_id}}" }
"#;
    let counted = EVENTS.replace("number = \"event-id\"", "number = \"event-id\"\ncounts = \"messages\"");
    let text = ["delivery = \"at-least-once\"", &counted, resume].concat();
    let file = parse(&text).unwrap();
    assert_eq!((file.transport, file.delivery), (Transport::Sse, Delivery::AtLeastOnce));
    let (mut conversation, mut answer) = asked(&file);
    let stream = |ask: Option<Ask>| match ask {
        Some(Ask::Stream(call)) => (call.method.to_string(), call.path, call.headers),
        other => panic!("{other:?}"),
    };
    assert_eq!(stream(Some(conversation.ask())).0, "POST");
    fn event<'a>(id: &'a str, event: &'a str) -> Incoming<'a> {
        Incoming { data: r#"{"delta":"a"}"#, event, id }
    }
    for number in 1..=3 {
        let id = format!("run-{number}");
        assert_eq!(answer.read(event(&id, "delta"))[0].meaning.seq, Some(number));
    }
    conversation.begin_resume(answer.resume_point(2));
    let (method, path, headers) = stream(conversation.resume());
    assert_eq!((method.as_str(), path.as_str()), ("GET", "/ask/q-1"));
    assert_eq!(headers, [("Last-Event-ID".to_owned(), "run-2".to_owned())]);
    assert_eq!(answer.read(event("", "delta"))[0].meaning.fault, Some(Fault::Unreadable));
    let without_data = |event, id| Incoming { data: "", event, id };
    assert_eq!(answer.read(without_data("keep", "run-4"))[0].meaning.fault, Some(Fault::Unknown));
    assert_eq!(answer.clone().read(without_data("done", "run-4"))[0].is, Some(Is::End));
    assert_eq!(answer.read(event("run-4", "done"))[0].meaning.seq, Some(4));
}

#[test]
fn ids_with_leading_zeros_keep_their_length() {
    let (_, mut answer) = asked(&parse(EVENTS).unwrap());
    for id in ["evt_0098", "evt_0099", "evt_0100"] {
        answer.read(Incoming { data: r#"{"delta":"a"}"#, event: "delta", id });
    }
    assert_eq!(answer.resume_point(99).last_id.as_deref(), Some("evt_0099"));
    assert_eq!(answer.resume_point(100).last_id.as_deref(), Some("evt_0100"));
}

fn token(query: &str, seq: u64) -> String {
    json!({"type": "token", "id": query, "seq": seq, "text": "a"}).to_string()
}

/// Opens another connection, which resumes nothing.
fn reopen(conversation: &mut Conversation) {
    conversation.end_resume();
    conversation.open();
    assert_eq!(conversation.greeting(), Greeting::Done);
}

#[test]
fn late_messages_of_the_question_before_are_no_defects_of_the_next_one() {
    let (mut conversation, mut answer) = asked(&file(NUMBERED));
    answer.read(Incoming::text(&token("q-1", 1)));
    reopen(&mut conversation);
    let mut idle = conversation.idle_after(&answer);
    let late = idle.read(Incoming::text(&token("q-1", 2))).remove(0);
    assert!(late.meaning.fault.is_none() && !late.is_of_answer(), "{late:?}");
    conversation.begin(2, "q-2", &Question::default(), Some(&idle));
    let mut next = conversation.answer();
    assert_eq!(next.read(Incoming::text(&token("q-1", 3)))[0].meaning.fault, None);
    assert_eq!(next.read(Incoming::text(&token("q-9", 3)))[0].meaning.fault, Some(Fault::Foreign));
    assert_eq!(next.read(Incoming::text(&token("q-2", 1)))[0].meaning.seq, Some(1));
}

const CONTINUED: &str = "[numbering]\nnumber = \"/seq\"\nscope = \"session\"\n";

#[test]
fn numbers_that_continue_are_known_after_a_reconnect() {
    let (mut conversation, mut answer) = asked(&file(CONTINUED));
    answer.read(Incoming::text(&token("q-1", 20)));
    conversation.begin(2, "q-2", &Question::default(), Some(&answer));
    let mut answer = conversation.answer();
    answer.read(Incoming::text(&token("q-2", 21)));
    reopen(&mut conversation);
    let idle = conversation.idle_after(&answer);
    conversation.begin(3, "q-3", &Question::default(), Some(&idle));
    assert_eq!(conversation.answer().read(Incoming::text(&token("q-3", 22)))[0].meaning.seq, Some(1));
}

#[test]
fn events_before_a_reconnect_may_be_repeated_once_behind_their_answer() {
    for (delivery, expected) in [("once", Some(Fault::AfterEnd)), ("at-least-once", None)] {
        let text = websocket(CONTINUED).replace("name = ", &format!("delivery = \"{delivery}\"\nname = "));
        let (mut conversation, mut answer) = asked(&parse(&text).unwrap());
        let message = |seq: u64| json!({"type": "token", "seq": seq, "text": "a"}).to_string();
        answer.read(Incoming::text(&message(1)));
        answer.read(Incoming::text(&message(2)));
        answer.read(Incoming::text(r#"{"type":"done","seq":3}"#));
        reopen(&mut conversation);
        let mut idle = conversation.idle_after(&answer);
        let mut fault = |seq| idle.read(Incoming::text(&message(seq))).remove(0).meaning.fault;
        assert_eq!(fault(2), expected, "{delivery}");
        assert_eq!(fault(2), Some(Fault::AfterEnd), "a second repeat");
        assert_eq!(fault(4), Some(Fault::AfterEnd), "a new event");
    }
}

#[test]
fn first_numbers_that_nothing_states_are_unverified() {
    let unverified = |more: &str| file(more).unverified().join("; ");
    assert!(unverified(CONTINUED).contains("first tokens of a session"), "{}", unverified(CONTINUED));
    assert!(!unverified(NUMBERED).contains("first tokens"));
}

#[test]
fn only_parts_of_the_answer_count_as_its_events() {
    let text = websocket("[keepalive]\nreply = \"pong\"\n");
    let text = text.replacen("[[rules]]", "[[rules]]\nis = \"ping\"\ndata = \"ping\"\n[[rules]]", 1);
    let (_, mut answer) = asked(&parse(&text).unwrap());
    for (text, expected) in [
        (r#"{"type":"note"}"#, false),
        (r#"{"type":"other"}"#, false),
        ("ping", false),
        (r#"{"type":"token","text":"a"}"#, true),
        (r#"{"type":"done"}"#, true),
        (r#"{"type":"token","text":"a"}"#, false),
    ] {
        assert_eq!(answer.read(Incoming::text(text))[0].is_of_answer(), expected, "{text}");
    }
}

#[test]
fn values_that_come_with_each_question_drop_no_other_secret() {
    let text = websocket(
        "[create]\npath = \"/sessions\"\nheaders = { Authorization = \"{{key}}\" }\nextract = { ticket = \"/ticket\" }\n[variables]\nkey = \"env:TEST_KEY\"\n",
    );
    let message = "message = { type = \"ask\", id = \"{{query}}\", text = \"{{prompt}}\" }";
    assert!(text.contains(message));
    let by_call = "via = \"http\"\npath = \"/ask\"\nextract = { query = \"/id\" }";
    let file = parse(&text.replace(message, by_call)).unwrap();
    let (mut conversation, mut answer) = asked(&file);
    conversation.created(&|_| None, br#"{"ticket":"hush"}"#).unwrap();
    for number in 0..100 {
        let body = json!({"id": format!("question-{number}")}).to_string();
        conversation.submitted(&|_| None, body.as_bytes(), &mut answer).unwrap();
    }
    let secrets: Vec<_> = conversation.secrets().collect();
    let kept = ["hush", "key-from-environment", "question-99"];
    assert!(kept.iter().all(|secret| secrets.contains(secret)), "{secrets:?}");
    assert!(secrets.len() < 50, "older values of the same name are dropped");
}

#[test]
fn hints_name_what_to_change() {
    let file = file(NUMBERED);
    let (_, mut answer) = asked(&file);
    let mut hints = |text: &str| {
        let reads = answer.read(Incoming::text(text));
        mismatches(&answer, Incoming::text(text), &reads[0]).join("\n")
    };
    let moved = hints(r#"{"kind":"token","text":"a","seq":1}"#);
    assert!(moved.contains("change the pointer to \"/kind\""), "{moved}");
    let text = hints(r#"{"type":"token","delta":"a","seq":1}"#);
    assert!(text.contains("expects a text at /text") && text.contains("/delta = \"a\""), "{text}");
    let number = hints(r#"{"type":"token","text":"a","index":4}"#);
    assert!(number.contains("expects a number at /seq") && number.contains("/index = 4"), "{number}");
    let first = hints(r#"{"type":"token","text":"a","seq":0}"#);
    assert!(first.contains("below the first one, 1: set `first`"), "{first}");
    let unknown = hints(r#"{"type":"progress","percent":4}"#);
    assert!(unknown.contains("no rule matches") && unknown.contains("add a rule"), "{unknown}");
    assert!(unknown.contains("\"done\" (rule 2, end)") && unknown.contains("has \"progress\""), "{unknown}");
    assert!(hints(r#"{"type":"done"}"#).contains("`total`"));
    assert_eq!(hints(r#"{"type":"token","text":"a","seq":1}"#), "");
}

fn centrifugo() -> (Conversation, FileAnswer) {
    let file = parse(BUILTIN[0].text).unwrap();
    let mut conversation = Conversation::new(Arc::clone(&file), "s-1", 0);
    conversation.set_key(Some("jwt"));
    assert_eq!(conversation.open().path, "/connection/websocket");
    let Greeting::Send(connect) = conversation.greeting() else { panic!() };
    assert_eq!(connect, r#"{"connect":{"name":"streamstress","token":"jwt"},"id":1}"#);
    conversation.greeting();
    let replied = r#"{"id":1,"connect":{"client":"c","version":"6.0.0","ping":25,"pong":true}}"#;
    conversation.greeted(replied).unwrap();
    let Greeting::Send(subscribe) = conversation.greeting() else { panic!() };
    assert_eq!(subscribe, r#"{"id":2,"subscribe":{"channel":"chat:s-1"}}"#);
    conversation.greeting();
    conversation
        .greeted(r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"x7","offset":14,"positioned":true}}"#)
        .unwrap();
    assert_eq!(conversation.greeting(), Greeting::Done);
    conversation.begin(1, "q-1", &Question { prompt: "hi", ..Question::default() }, None);
    let answer = conversation.answer();
    (conversation, answer)
}

#[test]
fn a_secret_is_hidden_before_a_text_is_cut() {
    let file = file(NUMBERED);
    let (_, mut answer) = asked(&file);
    let secret = "0123456789".repeat(7);
    let hide = |text: &str| text.replace(&secret, "redacted");
    for value in [
        json!({"type": "token", "seq": 1, "text": secret}),
        json!({"type": "token", "seq": "none", "text": {"key": secret}}),
    ] {
        let text = value.to_string();
        let read = answer.read(Incoming::text(&text)).remove(0).with_texts(&hide);
        let shown = describe(&read) + &mismatches(&answer, Incoming::text(&text), &read).join("\n");
        assert!(!shown.contains("01234567") && shown.contains("redacted"), "{shown}");
    }
}

#[test]
fn a_hint_tells_that_numbers_begin_anew() {
    let (_, mut answer) = centrifugo();
    let restarted = push(1, json!({"type": "token", "query": "q-1", "text": "a"}));
    let read = answer.read(Incoming::text(&restarted)).remove(0);
    let hints = mismatches(&answer, Incoming::text(&restarted), &read).join("\n");
    assert!(hints.contains("number 1 is not above 14") && hints.contains("scope = \"query\""), "{hints}");
}

#[test]
fn a_wrong_scope_shows_in_the_second_answer() {
    let per_query = file(NUMBERED);
    assert!(wrong_scope(&per_query, Some(5), 4).unwrap().contains("scope = \"session\""));
    assert_eq!(wrong_scope(&per_query, Some(1), 4), None);
    assert_eq!(wrong_scope(&per_query, Some(2), 4), None, "the first event may be lost");
    let per_session = parse(BUILTIN[0].text).unwrap();
    assert!(wrong_scope(&per_session, None, 4).unwrap().contains("scope = \"query\""));
    assert_eq!(wrong_scope(&per_session, Some(1), 4), None);
}

#[test]
fn places_that_no_message_has_are_named() {
    let text = websocket("[numbering]\nnumber = \"/seq\"\ntotal = \"/total\"\n");
    let text = text.replace("code = ", "usage = \"/usage/tokens\"\ncode = ");
    let mut places = Places::new(&parse(&text).unwrap());
    places.see(&json!({"type": "token", "usage": {"tokens": "none"}}));
    let missing = places.missing();
    assert_eq!(missing.len(), 3, "{missing:?}");
    assert!(missing[1].contains("no message has a number at /usage/tokens, which `usage` in [read] names"));
    places.see(&json!({"id": "q-1", "usage": {"tokens": 4}}));
    places.see(&json!({"total": 4}));
    assert!(places.missing().is_empty());
}

#[test]
fn a_message_that_a_wrong_wait_does_not_match_gives_no_secret_away() {
    let text = websocket(
        "[[connect.first]]\nsend = { type = \"hello\" }\nwait = { \"/type\" = \"welcome\" }\nextract = { ticket = \"/ticket\" }\n",
    );
    let mut conversation = Conversation::new(parse(&text).unwrap(), "s-1", 0);
    conversation.log_messages();
    conversation.open();
    conversation.greeting();
    conversation.greeted(r#"{"type":"ready","ticket":"hush-hush"}"#).unwrap();
    assert!(conversation.secrets().any(|secret| secret == "hush-hush"));
}

#[allow(clippy::needless_pass_by_value, reason = "the data are made for the call")]
fn push(offset: u64, data: Value) -> String {
    json!({"push": {"channel": "chat:s-1", "pub": {"data": data, "offset": offset}}}).to_string()
}

#[test]
fn centrifugo_numbers_publications_and_recovers_them() {
    let (mut conversation, mut answer) = centrifugo();
    let token = |offset| push(offset, json!({"type": "token", "query": "q-1", "text": "a"}));
    let frame = format!("{}\n{}\n{{}}\n", token(15), token(16));
    let reads = answer.read(Incoming::text(&frame));
    assert_eq!(reads.iter().map(|read| read.meaning.seq).collect::<Vec<_>>(), [Some(1), Some(2), None]);
    assert!(reads[2].is_ping());
    assert_eq!(answer.read(Incoming::text(r#"{"id":3,"rpc":{"data":{}}}"#))[0].is, Some(Is::Ignore));
    conversation.begin_resume(answer.resume_point(2));
    conversation.open();
    conversation.greeting();
    conversation.greeting();
    conversation.greeted(r#"{"id":1,"connect":{"client":"d"}}"#).unwrap();
    let Greeting::Send(subscribe) = conversation.greeting() else { panic!() };
    let expected =
        json!({"id": 2, "subscribe": {"channel": "chat:s-1", "recover": true, "epoch": "x7", "offset": 16}});
    assert_eq!(serde_json::from_str::<Value>(&subscribe).unwrap(), expected);
    conversation.greeting();
    let data = json!({"type": "token", "query": "q-1", "text": "b"});
    let reply = json!({"id": 2, "subscribe": {"recoverable": true, "epoch": "x7", "offset": 18, "recovered": true, "was_recovering": true,
        "publications": [{"data": data, "offset": 17}, {"data": {"type": "done", "query": "q-1"}, "offset": 18}]}});
    let kept = conversation.greeted(&reply.to_string()).unwrap().kept;
    assert_eq!((kept.len(), conversation.resume()), (1, None));
    assert_eq!(conversation.greeting(), Greeting::Done);
    let reads = answer.read(Incoming::text(&kept[0]));
    assert_eq!((reads[0].meaning.seq, &reads[1].meaning.end), (Some(3), &Some(End::Good)));
    // The next answer begins behind the last publication, and another one in between is no gap.
    answer.read(Incoming::text(&push(19, json!({"type": "presence"}))));
    conversation.begin(2, "q-2", &Question::default(), Some(&answer));
    let mut next = conversation.answer();
    let token = push(20, json!({"type": "token", "query": "q-2", "text": "c"}));
    assert_eq!(next.read(Incoming::text(&token))[0].meaning.seq, Some(1));
    let repeat = push(17, json!({"type": "token", "query": "q-2", "text": "c"}));
    assert_eq!(next.read(Incoming::text(&repeat))[0].meaning.fault, Some(Fault::AfterEnd));
}

#[test]
fn numbers_that_continue_begin_behind_the_last_real_one() {
    let file = file("[numbering]\nnumber = \"/seq\"\nscope = \"session\"\ntotal = \"/total\"\n");
    let (mut conversation, mut answer) = asked(&file);
    for seq in [40, 41] {
        answer.read(Incoming::text(&format!(r#"{{"type":"token","seq":{seq},"text":"a"}}"#)));
    }
    let end = answer.read(Incoming::text(r#"{"type":"done","total":2}"#)).remove(0).meaning;
    assert_eq!((end.seq, end.end), (Some(3), Some(End::Good)));
    conversation.begin(2, "q-2", &Question::default(), Some(&answer));
    let mut next = conversation.answer();
    let read = |answer: &mut FileAnswer, seq: u64| {
        let token = format!(r#"{{"type":"token","seq":{seq},"text":"a"}}"#);
        answer.read(Incoming::text(&token)).remove(0).meaning.seq
    };
    assert_eq!(read(&mut next, 43), Some(2), "number 42 is missing");
    conversation.begin(3, "q-3", &Question::default(), Some(&next));
    assert_eq!(read(&mut conversation.answer(), 44), Some(1));
}

#[test]
fn centrifugo_tells_what_cannot_be_recovered_and_refused() {
    let (mut conversation, mut answer) = centrifugo();
    conversation.begin_resume(answer.resume_point(0));
    conversation.open();
    conversation.greeting();
    conversation.greeting();
    conversation.greeted(r#"{"id":1,"connect":{"client":"d"}}"#).unwrap();
    conversation.greeting();
    conversation.greeting();
    let gone = r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"y8","offset":3,"was_recovering":true}}"#;
    let kept = conversation.greeted(gone).unwrap().kept;
    let end = answer.read(Incoming::text(&kept[0])).remove(0).meaning.end;
    assert!(matches!(&end, Some(End::Failed(failed)) if failed.code == "not_resumable"), "{end:?}");
    // The new epoch has numbers of its own, and what still arrives of the lost answer is no defect of the next one.
    assert_eq!(conversation.greeting(), Greeting::Done);
    let late = push(4, json!({"type": "token", "query": "q-1", "text": "c"}));
    assert_eq!(answer.read(Incoming::text(&late))[0].meaning.fault, None);
    conversation.begin(2, "q-2", &Question::default(), Some(&answer));
    let token = push(5, json!({"type": "token", "query": "q-2", "text": "c"}));
    assert_eq!(conversation.answer().read(Incoming::text(&token))[0].meaning.seq, Some(1));
    let (mut conversation, _) = centrifugo();
    let refused = r#"{"id":1,"error":{"code":101,"message":"unauthorized"}}"#;
    assert!(conversation.greeted(refused).unwrap_err().contains("101: unauthorized"));
}

#[test]
fn a_file_is_a_dialect() {
    let dialect = Dialect::File(file(NUMBERED));
    assert_eq!((dialect.name(), dialect.transport()), ("test", Transport::WebSocket));
    assert!(!dialect.can_resume() && dialect.answer().missing_end().is_some());
    assert_eq!(Dialect::named("test"), None);
}

#[test]
fn a_part_of_a_complete_earlier_answer_is_behind_its_end() {
    let file = file("");
    let question = Question { prompt: "why?", ..Question::default() };
    let token = r#"{"type":"token","id":"q-1","text":"again"}"#;
    for (end, fault) in [(Some(r#"{"type":"done","id":"q-1"}"#), Some(Fault::AfterEnd)), (None, None)] {
        let (mut conversation, mut answer) = asked(&file);
        for message in [Some(token), end].into_iter().flatten() {
            answer.read(Incoming::text(message));
        }
        conversation.begin(2, "q-2", &question, Some(&answer));
        let mut next = conversation.answer();
        assert_eq!(next.read(Incoming::text(token))[0].meaning.fault, fault);
        assert_eq!(
            next.read(Incoming::text(r#"{"type":"token","id":"q-2","text":"new"}"#))[0].meaning.fault,
            None
        );
    }
}
