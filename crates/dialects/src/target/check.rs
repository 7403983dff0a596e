//! Checks that the parts of a target file fit together.

use super::{
    file::{Extract, HttpCall, Request, Resume, Submit, TargetFile},
    rule::Is,
    section::{Errors, nearest},
    template::{JsonTemplate, Template},
};
use crate::exchange::{Delivery, Transport};

/// Placeholders that every file may use.
const ALWAYS: [&str; 9] =
    ["api_key", "client", "id", "max_tokens", "model", "number", "prompt", "query", "session"];
/// Placeholders of a resume.
const OF_RESUME: [&str; 3] = ["last", "last_id", "next"];

/// Notes everything that is missing or contradicts itself.
pub(super) fn check(file: &TargetFile, errors: &Errors) {
    let mut error = |text: String| errors.borrow_mut().push(text);
    transport(file, &mut error);
    rules(file, &mut error);
    numbering(file, &mut error);
    placeholders(file, &mut error);
}

fn transport(file: &TargetFile, error: &mut dyn FnMut(String)) {
    let is_ws = file.transport == Transport::WebSocket;
    if is_ws && !file.connect.is_given {
        error("connect: is missing: expected a table [connect] with the `path` of the WebSocket".into());
    }
    if !is_ws && file.connect.is_given {
        error("connect: only a WebSocket has it: the request of [submit] opens the stream".into());
    }
    match (&file.submit, is_ws) {
        (Submit::Stream(_), true) => {
            error(
                "submit.via: stream needs transport = \"sse\" or \"json-lines\": expected message or http"
                    .into(),
            );
        }
        (Submit::Message(_) | Submit::Call(_), false) => {
            error("submit.via: expected stream: the response to the question is the answer".into());
        }
        _ => {}
    }
    match (&file.resume, is_ws) {
        (Some(Resume::Stream(_)), true) => {
            error(
                "resume.via: stream needs transport = \"sse\" or \"json-lines\": expected message or connect"
                    .into(),
            );
        }
        (Some(Resume::Message(_) | Resume::Connect { .. }), false) => {
            error(
                "resume.via: expected stream, an HTTP call whose response is the rest of the answer".into(),
            );
        }
        (Some(Resume::Connect { path: None, headers }), true)
            if headers.is_empty() && file.connect.first.iter().all(|first| first.resume.is_none()) =>
        {
            error("resume: nothing tells the server what to send: add `path`, `headers`, or `resume` in a [[connect.first]]".into());
        }
        _ => {}
    }
    if !matches!(file.resume, Some(Resume::Connect { .. }))
        && file.connect.first.iter().any(|first| first.resume.is_some())
    {
        error("connect.first: `resume` needs a table [resume] with via = \"connect\"".into());
    }
    if !is_ws {
        for (is_given, key) in [
            (matches!(file.stop, Some(Request::Message(_))), "stop.via: message"),
            (file.keepalive.send.is_some(), "keepalive.send"),
            (file.keepalive.reply.is_some(), "keepalive.reply"),
            (file.read.lines, "read.lines"),
        ] {
            if is_given {
                error(format!("{key} needs transport = \"websocket\""));
            }
        }
    }
}

fn rules(file: &TargetFile, error: &mut dyn FnMut(String)) {
    let has = |wanted: &dyn Fn(Is) -> bool| file.rules.iter().any(|rule| wanted(rule.is));
    if !has(&|is| matches!(is, Is::Token | Is::Last)) {
        error("rules: none says what a token is: add [[rules]] with is = \"token\"".into());
    }
    if !has(&Is::is_good_end) {
        error(
            "rules: none says when an answer is complete: add [[rules]] with is = \"end\" or \"last\"".into(),
        );
    }
    if file.read.text.is_none() {
        error(
            "read.text: is missing: expected the JSON pointer of a token's text, for example \"/content\""
                .into(),
        );
    }
    if has(&|is| is == Is::Ping) && file.keepalive.reply.is_none() {
        error(
            "rules: `ping` needs `reply` in [keepalive]: use is = \"ignore\" if the server expects no reply"
                .into(),
        );
    }
    if has(&|is| is == Is::Lost) && file.resume.is_none() {
        error("rules: `lost` needs a table [resume]".into());
    }
    for (index, rule) in file.rules.iter().enumerate() {
        let matcher = &rule.matcher;
        let is_open = matcher.event.is_none() && matcher.data.is_none() && matcher.when.is_empty();
        if is_open && index + 1 < file.rules.len() {
            error(format!(
                "rules[{}]: matches every message, so that the rules behind it have no effect",
                index + 1
            ));
        }
        if matcher.event.is_some() && file.transport != Transport::Sse {
            error(format!("rules[{}].event: needs transport = \"sse\"", index + 1));
        }
    }
}

fn numbering(file: &TargetFile, error: &mut dyn FnMut(String)) {
    let Some(numbers) = &file.numbers else {
        if file.delivery == Delivery::AtLeastOnce {
            error("delivery: at-least-once needs a table [numbering]: without numbers, repeats cannot be recognized".into());
        }
        return;
    };
    if numbers.number.is_none() && file.transport != Transport::Sse {
        error("numbering.number: event-id needs transport = \"sse\": expected a JSON pointer".into());
    }
    if numbers.counts_messages && (numbers.total.is_some() || numbers.unnumbered_end) {
        error("numbering: `total` and `unnumbered_end` need counts = \"tokens\": otherwise the end has a number".into());
    }
    if let Some(start) = &numbers.start
        && !extracted(file).contains(&start.as_str())
    {
        error(format!("numbering.start: no `extract` gives a value `{start}`"));
    }
}

/// Returns the names of the values that the backend gives.
fn extracted(file: &TargetFile) -> Vec<&str> {
    let mut all: Vec<&Extract> = Vec::new();
    all.extend(file.create.iter().flat_map(|call| &call.extract));
    all.extend(file.connect.first.iter().flat_map(|first| &first.extract));
    if let Submit::Call(call) = &file.submit {
        all.extend(&call.extract);
    }
    all.into_iter().map(|value| value.name.as_str()).collect()
}

fn placeholders(file: &TargetFile, error: &mut dyn FnMut(String)) {
    let given = extracted(file);
    for name in &file.public {
        if !given.contains(&name.as_str()) {
            error(format!("public: no `extract` gives a value `{name}`"));
        }
    }
    let mut known: Vec<&str> = ALWAYS.to_vec();
    known.extend(&given);
    known.extend(file.variables.secret.keys().map(String::as_str));
    let not_derived = known.clone();
    known.extend(file.variables.derived.keys().map(String::as_str));
    let with_resume: Vec<&str> = known.iter().copied().chain(OF_RESUME).collect();
    let mut unknown = |place: &str, name: &str, known: &[&str]| {
        if !known.contains(&name) {
            let near = nearest(name, known);
            let advice = near.map_or_else(
                || format!("expected one of {}, or a name in [variables]", known.join(", ")),
                |near| format!("did you mean {{{{{near}}}}}?"),
            );
            error(format!("{place}: unknown placeholder {{{{{name}}}}}: {advice}"));
        }
    };
    for (name, template) in file.variables.derived.iter() {
        template.names(&mut |used| unknown(&format!("variables.{name}"), used, &not_derived));
    }
    each_template(file, &mut |place, part, is_resume| {
        let known = if is_resume { &with_resume } else { &known };
        part.names(&mut |name| unknown(place, name, known));
    });
}

/// A part of the file with placeholders.
enum Part<'a> {
    Text(&'a Template),
    Json(&'a JsonTemplate),
}

impl Part<'_> {
    fn names(&self, take: &mut dyn FnMut(&str)) {
        match self {
            Self::Text(template) => template.names(take),
            Self::Json(template) => template.names(take),
        }
    }
}

/// Calls `take` with the place of each part, the part, and whether it belongs to a resume.
fn each_template<'a>(file: &'a TargetFile, take: &mut dyn FnMut(&str, Part<'a>, bool)) {
    if let Some(create) = &file.create {
        each_of_call("create", create, false, take);
    }
    let connect = &file.connect;
    take("connect.path", Part::Text(&connect.path), false);
    connect.headers.iter().for_each(|(_, text)| take("connect.headers", Part::Text(text), false));
    connect.subprotocols.iter().for_each(|text| take("connect.subprotocols", Part::Text(text), false));
    for first in &connect.first {
        first.send.iter().for_each(|json| take("connect.first.send", Part::Json(json), false));
        first.resume.iter().for_each(|json| take("connect.first.resume", Part::Json(json), true));
    }
    match &file.submit {
        Submit::Message(json) => take("submit.message", Part::Json(json), false),
        Submit::Call(call) | Submit::Stream(call) => each_of_call("submit", call, false, take),
    }
    match &file.resume {
        Some(Resume::Message(json)) => take("resume.message", Part::Json(json), true),
        Some(Resume::Stream(call)) => each_of_call("resume", call, true, take),
        Some(Resume::Connect { path, headers }) => {
            path.iter().for_each(|text| take("resume.path", Part::Text(text), true));
            headers.iter().for_each(|(_, text)| take("resume.headers", Part::Text(text), true));
        }
        None => {}
    }
    match &file.stop {
        Some(Request::Message(json)) => take("stop.message", Part::Json(json), false),
        Some(Request::Call(call)) => each_of_call("stop", call, false, take),
        None => {}
    }
    let keepalive = &file.keepalive;
    keepalive.send.iter().for_each(|(_, json)| take("keepalive.send", Part::Json(json), false));
    keepalive.reply.iter().for_each(|json| take("keepalive.reply", Part::Json(json), false));
}

fn each_of_call<'a>(
    place: &str,
    call: &'a HttpCall,
    is_resume: bool,
    take: &mut dyn FnMut(&str, Part<'a>, bool),
) {
    take(&format!("{place}.path"), Part::Text(&call.path), is_resume);
    call.headers.iter().for_each(|(_, text)| take(&format!("{place}.headers"), Part::Text(text), is_resume));
    call.body.iter().for_each(|json| take(&format!("{place}.body"), Part::Json(json), is_resume));
}
