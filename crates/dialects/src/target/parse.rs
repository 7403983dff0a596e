//! Reads a target file from TOML. `check.rs` tells what is missing or contradicts itself.

use super::{
    check,
    file::{
        Connect, Extract, FirstMessage, HttpCall, KeepAlive, Numbers, ReadRules, Request, Resume, Source,
        Submit, TargetFile, Variables,
    },
    pointer::Pointer,
    rule::{Condition, Is, Matcher, Rule},
    section::{Errors, Section, json, nearest},
    template::Template,
};
use crate::exchange::{Delivery, Transport};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The beginning of a variable whose value is that of an environment variable.
const FROM_ENVIRONMENT: &str = "env:";
/// The beginning of the place of a value in a response's header.
const FROM_HEADER: &str = "header:";
/// Headers that frame a message or belong to the upgrade. They cannot be replaced.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "expect",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "transfer-encoding",
    "upgrade",
];
/// The word for the `id` line of a server-sent event as the place of numbers.
const EVENT_ID: &str = "event-id";

/// A file that cannot be used. Lists everything that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadFile(pub Vec<String>);

impl TargetFile {
    /// Reads a file. `environment` returns the value of an environment variable.
    ///
    /// # Errors
    /// Lists everything that is wrong with it.
    pub fn parse(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, BadFile> {
        let table: toml::Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(error) => return Err(BadFile(vec![error.to_string().trim_end().to_owned()])),
        };
        let errors = Errors::default();
        let file = read(Section::new(table, String::new(), &errors), environment);
        // A file with wrong values would cause errors that only follow from these.
        if errors.borrow().is_empty() {
            check::check(&file, &errors);
        }
        let errors = errors.into_inner();
        if errors.is_empty() { Ok(file) } else { Err(BadFile(errors)) }
    }
}

fn read(mut file: Section<'_>, environment: &dyn Fn(&str) -> Option<String>) -> TargetFile {
    let transports =
        [("websocket", Transport::WebSocket), ("sse", Transport::Sse), ("json-lines", Transport::JsonLines)];
    let name = file.needed("name", "\"my-gateway\"");
    let about = file.text("about").unwrap_or_default();
    let transport = file.word("transport", &transports);
    if transport.is_none() && !file.has_error("transport") {
        file.error("transport", "is missing: expected websocket, sse or json-lines");
    }
    let transport = transport.unwrap_or(Transport::WebSocket);
    let deliveries = [("once", Delivery::Once), ("at-least-once", Delivery::AtLeastOnce)];
    let delivery = file.word("delivery", &deliveries).unwrap_or_default();
    let (api_url, ws_url) = (file.text("api_url"), file.text("ws_url"));
    let public = file.texts("public");
    let variables = variables(&mut file, environment);
    let create = file.section("create").map(|section| call(section, "POST"));
    let connect = file.section("connect").map(connect).unwrap_or_default();
    let submit = submit(&mut file, transport);
    let (read, kind) = file.section("read").map(read_rules).unwrap_or_default();
    let numbers = file.section("numbering").map(numbering);
    let rules =
        file.sections("rules").into_iter().filter_map(|section| rule(section, kind.as_ref())).collect();
    let resume = file.section("resume").and_then(resume);
    let stop = file.section("stop").and_then(stop);
    let keepalive = file.section("keepalive").map(keepalive).unwrap_or_default();
    file.finish();
    TargetFile {
        name,
        about,
        transport,
        delivery,
        api_url,
        ws_url,
        variables,
        public,
        create,
        connect,
        submit,
        read,
        numbers,
        rules,
        resume,
        stop,
        keepalive,
    }
}

fn variables(file: &mut Section<'_>, environment: &dyn Fn(&str) -> Option<String>) -> Variables {
    let (mut secret, mut derived) = (BTreeMap::new(), BTreeMap::new());
    for (name, text) in file.named_texts("variables") {
        if let Some(variable) = text.strip_prefix(FROM_ENVIRONMENT) {
            match environment(variable) {
                Some(value) => drop(secret.insert(name, value)),
                None => file.error(
                    &format!("variables.{name}"),
                    &format!("the environment variable {variable} is not set"),
                ),
            }
        } else if let Some(template) = file.valid(&format!("variables.{name}"), Template::parse(&text)) {
            derived.insert(name, template);
        }
    }
    Variables { secret, derived: Arc::new(derived) }
}

fn call(mut section: Section<'_>, method: &'static str) -> HttpCall {
    let call = call_of(&mut section, method);
    section.finish();
    call
}

fn call_of(section: &mut Section<'_>, method: &'static str) -> HttpCall {
    let given = section.text("method");
    let is_method = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
    if let Some(given) = given.as_ref().filter(|given| !is_method(given)) {
        section.error("method", &format!("invalid method \"{given}\": expected for example POST"));
    }
    HttpCall {
        method: given.unwrap_or_else(|| method.to_owned()),
        path: path(section),
        headers: headers(section),
        body: section.json("body"),
        extract: extract(section),
    }
}

fn path(section: &mut Section<'_>) -> Template {
    let text = section.needed("path", "\"/chats/{{session}}\"");
    if !text.is_empty() && !text.starts_with('/') {
        section.error(
            "path",
            &format!(
                "invalid path \"{text}\": expected a leading `/`; the host is in `api_url` and `ws_url`"
            ),
        );
    }
    section.valid("path", Template::parse(&text)).unwrap_or_default()
}

fn headers(section: &mut Section<'_>) -> Vec<(String, Template)> {
    let mut headers = Vec::new();
    for (name, text) in section.named_texts("headers") {
        let is_name = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if FRAMING.contains(&name.to_ascii_lowercase().as_str()) {
            section.error(
                "headers",
                &format!("`{name}` cannot be set, because it frames the messages: remove it"),
            );
        } else if !is_name {
            section.error("headers", &format!("invalid name \"{name}\": expected for example Authorization"));
        } else if let Some(template) = section.valid(&format!("headers.{name}"), Template::parse(&text)) {
            headers.push((name, template));
        }
    }
    headers
}

fn extract(section: &mut Section<'_>) -> Vec<Extract> {
    let Some(mut table) = section.section("extract") else { return Vec::new() };
    let mut all = Vec::new();
    for (name, value) in table.take_all() {
        let (at, default) = match value {
            toml::Value::String(at) => (at, None),
            toml::Value::Table(mut value) => {
                let at = value.remove("at").and_then(|at| at.as_str().map(str::to_owned));
                let default = value.remove("default").map(json);
                let (Some(at), true) = (at, value.is_empty()) else {
                    table.error(&name, "expected a JSON pointer, or { at = \"/pointer\", default = … }");
                    continue;
                };
                (at, default)
            }
            other => {
                table.error(&name, &format!("expected a JSON pointer, not {}", other.type_str()));
                continue;
            }
        };
        let source = match at.strip_prefix(FROM_HEADER) {
            Some(header) => Some(Source::Header(header.trim().to_ascii_lowercase())),
            None => table.valid(&name, Pointer::parse(&at)).map(Source::Body),
        };
        all.extend(source.map(|source| Extract { name, source, default }));
    }
    all
}

fn connect(mut section: Section<'_>) -> Connect {
    let (path, headers) = (path(&mut section), headers(&mut section));
    let subprotocols = section.texts("subprotocols");
    let subprotocols =
        subprotocols.iter().filter_map(|text| section.valid("subprotocols", Template::parse(text))).collect();
    let first = section.sections("first").into_iter().map(first).collect();
    section.finish();
    Connect { path, headers, subprotocols, first, is_given: true }
}

fn first(mut section: Section<'_>) -> FirstMessage {
    let message = FirstMessage {
        send: section.json("send"),
        resume: section.json("resume"),
        wait: section.section("wait").map(|mut wait| Matcher { when: when(&mut wait), ..Matcher::default() }),
        extract: extract(&mut section),
    };
    if message.send.is_none() && message.wait.is_none() {
        section.error("send", "is missing: expected `send`, `wait` or both");
    }
    if message.wait.is_none() && !message.extract.is_empty() {
        section.error("extract", "needs `wait`, which tells the message that has the values");
    }
    section.finish();
    message
}

/// Reads the conditions on values: all keys of the table are pointers.
fn when(section: &mut Section<'_>) -> Vec<(Pointer, Condition)> {
    let mut all = Vec::new();
    for (key, value) in section.take_all() {
        let pointer = section.valid(&key, Pointer::parse(&key));
        let condition = section.valid(&key, condition(value));
        all.extend(pointer.zip(condition));
    }
    all
}

fn condition(value: toml::Value) -> Result<Condition, String> {
    let table = match value {
        toml::Value::Table(table) => table,
        value => return Ok(Condition::Equals(json(value))),
    };
    let expected = "expected a value, or one of { not = … }, { one_of = […] }, { prefix = \"…\" }, { exists = true } and { nonempty = true }";
    let mut members = table.into_iter();
    let (Some((name, value)), None) = (members.next(), members.next()) else {
        return Err(expected.to_owned());
    };
    match (name.as_str(), json(value)) {
        ("not", value) => Ok(Condition::Not(value)),
        ("one_of", Value::Array(all)) => Ok(Condition::OneOf(all)),
        ("prefix", Value::String(text)) => Ok(Condition::Prefix(text)),
        ("exists", Value::Bool(is)) => Ok(Condition::Exists(is)),
        ("nonempty", Value::Bool(is)) => Ok(Condition::NonEmpty(is)),
        (name, _) => {
            let near = nearest(name, &["not", "one_of", "prefix", "exists", "nonempty"]);
            let advice = near.map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"));
            Err(format!("invalid condition `{name}`{advice}: {expected}"))
        }
    }
}

fn submit(file: &mut Section<'_>, transport: Transport) -> Submit {
    let none = || Submit::Stream(HttpCall::default());
    let Some(mut section) = file.section("submit") else {
        file.error("submit", "is missing: expected a table [submit] that tells how a question is asked");
        return none();
    };
    let vias = [("message", 0), ("http", 1), ("stream", 2)];
    let default = if transport == Transport::WebSocket { 0 } else { 2 };
    let submit = match section.word("via", &vias).unwrap_or(default) {
        0 => match section.json("message") {
            Some(message) => Submit::Message(message),
            None => {
                section.error(
                    "message",
                    "is missing: expected for example { type = \"ask\", text = \"{{prompt}}\" }",
                );
                none()
            }
        },
        1 => Submit::Call(call_of(&mut section, "POST")),
        _ => Submit::Stream(call_of(&mut section, "POST")),
    };
    section.finish();
    submit
}

/// Reads where the parts of a message are. Also returns where its type is, which only rules need.
fn read_rules(mut section: Section<'_>) -> (ReadRules, Option<Pointer>) {
    let kind = section.pointer("type");
    let lines = section.flag("lines");
    let rules = ReadRules {
        lines,
        inside: section.pointers("inside"),
        text: section.pointer("text"),
        query: section.pointer("query"),
        usage: section.pointer("usage"),
        code: section.pointers("code"),
        message: section.pointers("message"),
    };
    section.finish();
    (rules, kind)
}

fn numbering(mut section: Section<'_>) -> Numbers {
    let text = section.needed("number", "\"/seq\", or \"event-id\" for the id line of a server-sent event");
    let number = if text == EVENT_ID { None } else { section.valid("number", Pointer::parse(&text)) };
    let first = section.number("first");
    let counts_messages = section.word("counts", &[("tokens", false), ("messages", true)]);
    let is_per_session = section.word("scope", &[("query", false), ("session", true)]).unwrap_or_default();
    let start = section.text("start");
    if is_per_session && first.is_some() {
        section
            .error("first", "has no meaning with scope = \"session\", where numbers continue: use `start`");
    }
    if !is_per_session && start.is_some() {
        section.error("start", "needs scope = \"session\": use `first` for numbers that begin anew");
    }
    let numbers = Numbers {
        number,
        first: first.unwrap_or(1),
        counts_messages: counts_messages.unwrap_or_default(),
        is_per_session,
        start,
        total: section.pointer("total"),
        unnumbered_end: section.flag("unnumbered_end"),
    };
    section.finish();
    numbers
}

fn rule(mut section: Section<'_>, kind: Option<&Pointer>) -> Option<Rule> {
    let is = section.word("is", &Is::NAMES);
    if is.is_none() && !section.has_error("is") {
        section.error("is", "is missing: expected for example token, end or ignore");
    }
    let mut matcher = Matcher { event: section.text("event"), data: section.text("data"), when: Vec::new() };
    if let Some(value) = section.take("type") {
        match (kind, json(value)) {
            (None, _) => section.error("type", "needs `type` in [read], which tells where the type is"),
            (Some(kind), Value::Array(all)) => matcher.when.push((kind.clone(), Condition::OneOf(all))),
            (Some(kind), value) => matcher.when.push((kind.clone(), Condition::Equals(value))),
        }
    }
    if let Some(mut table) = section.section("when") {
        matcher.when.extend(when(&mut table));
    }
    section.finish();
    is.map(|is| Rule { is, matcher })
}

fn resume(mut section: Section<'_>) -> Option<Resume> {
    let vias = [("message", 0), ("stream", 1), ("connect", 2)];
    let Some(via) = section.word("via", &vias) else {
        if !section.has_error("via") {
            section.error("via", "is missing: expected message, stream or connect");
        }
        return None;
    };
    let resume = match via {
        0 => section.json("message").map(Resume::Message),
        1 => Some(Resume::Stream(call_of(&mut section, "GET"))),
        _ => {
            let path = section.template("path");
            Some(Resume::Connect { path, headers: headers(&mut section) })
        }
    };
    if resume.is_none() {
        section
            .error("message", "is missing: expected for example { type = \"resume\", after = \"{{last}}\" }");
    }
    section.finish();
    resume
}

fn stop(mut section: Section<'_>) -> Option<Request> {
    let stop = match section.word("via", &[("message", 0), ("http", 1)]) {
        Some(0) => section.json("message").map(Request::Message),
        Some(_) => Some(Request::Call(call_of(&mut section, "POST"))),
        None => None,
    };
    if stop.is_none() && !section.has_error("via") {
        section.error("via", "expected via = \"message\" with a `message`, or via = \"http\" with a `path`");
    }
    section.finish();
    stop
}

fn keepalive(mut section: Section<'_>) -> KeepAlive {
    let (every, send) = (duration(&mut section, "every"), section.json("send"));
    if every.is_some() != send.is_some() {
        section.error("send", "needs `every`, and `every` needs `send`");
    }
    let keepalive = KeepAlive {
        send: every.zip(send),
        reply: section.json("reply"),
        silence: duration(&mut section, "silence"),
    };
    section.finish();
    keepalive
}

/// Reads a duration, for example `20s` or `500ms`.
fn duration(section: &mut Section<'_>, key: &'static str) -> Option<Duration> {
    let text = section.text(key)?;
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    let ms = unit.zip(number.parse::<u64>().ok()).and_then(|(unit, number)| number.checked_mul(unit));
    let ms = ms.filter(|ms| (1..=86_400_000).contains(ms));
    if ms.is_none() {
        section.error(key, &format!("invalid duration \"{text}\": expected for example 20s, 500ms or 2m"));
    }
    ms.map(Duration::from_millis)
}
