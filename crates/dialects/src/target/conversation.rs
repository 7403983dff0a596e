//! What a session of a target file sends: its creation, its first messages, questions, resumes and stops. Opens no socket.

use super::{
    answer::{Earlier, FileAnswer, Incoming, ResumePoint},
    file::{Extract, HttpCall, Request, Resume, Source, Submit, TargetFile},
    pointer::{first_text, number, scalar},
    rule::{Is, Seen},
    template::{Template, Values, escaped},
};
use crate::{
    exchange::{Ask, Call},
    request::Question,
};
use serde_json::Value;
use std::{fmt, sync::Arc, time::Duration};

/// Upper limit of the secret values of one name that a session keeps.
const MOST_SECRETS: usize = 32;

/// What is said of a message that arrives while another one is awaited.
const NOT_AWAITED: &str = "not the awaited message";

/// The upgrade to a WebSocket: path and headers.
pub type Upgrade = Call;

/// What to do next at the start of a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Send this message.
    Send(String),
    /// Wait for a message. Holds what is awaited, in words.
    Wait(String),
    /// The socket is ready.
    Done,
}

/// What a message at the start of a WebSocket asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeted {
    /// Replies to pings.
    pub replies: Vec<String>,
    /// Messages that belong to an answer.
    pub kept: Vec<String>,
}

/// A message that was sent, or that arrived before the socket was ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The message.
    pub text: String,
    /// What a message that arrived was taken for. `None` if it was sent.
    pub what: Option<String>,
}

/// The state of a session.
#[derive(Clone)]
pub struct Conversation {
    file: Arc<TargetFile>,
    values: Values,
    /// Values that no output may contain, each with its name.
    secrets: Vec<(String, String)>,
    /// Number of messages sent.
    sent: u64,
    /// The present step at the start of a WebSocket.
    step: usize,
    is_step_sent: bool,
    is_resuming: bool,
    /// The last number before the next answer, if numbers continue.
    last_number: Option<u64>,
    /// How often a connection was opened without a resume.
    opening: u64,
    /// The question before.
    earlier: Option<Earlier>,
    /// The messages so far, if they are logged.
    log: Option<Vec<Logged>>,
    /// Messages that arrived while another one was awaited, if they are logged.
    unmatched: Vec<String>,
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversation").field("file", &self.file.name).finish_non_exhaustive()
    }
}

impl Conversation {
    /// Creates the state of session number `client` with this id.
    #[must_use]
    pub fn new(file: Arc<TargetFile>, session: &str, client: u64) -> Self {
        let mut values = Values::new(Arc::clone(&file.variables.derived));
        values.set("session", session.into());
        values.set("client", client.into());
        for (name, value) in &file.variables.secret {
            values.set(name, value.as_str().into());
        }
        let secrets =
            file.variables.secret.iter().map(|(name, value)| (name.clone(), escaped(value))).collect();
        Self {
            file,
            values,
            secrets,
            sent: 0,
            step: 0,
            is_step_sent: false,
            is_resuming: false,
            last_number: None,
            opening: 0,
            earlier: None,
            log: None,
            unmatched: Vec::new(),
        }
    }

    /// Keeps the messages that are sent, and those that arrive before the socket is ready.
    pub fn log_messages(&mut self) {
        self.log = Some(Vec::new());
    }

    /// Takes the logged messages.
    pub fn take_log(&mut self) -> Vec<Logged> {
        self.log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn log(&mut self, text: &str, what: Option<&str>) {
        if let Some(log) = &mut self.log {
            log.push(Logged { text: text.to_owned(), what: what.map(str::to_owned) });
            if what == Some(NOT_AWAITED) {
                self.unmatched.push(text.to_owned());
            }
        }
    }

    /// Explains why the message that is awaited has not come. `None` if none is awaited. `hide` removes secrets, before texts are cut.
    #[must_use]
    pub fn explain_wait(&self, hide: &dyn Fn(&str) -> String) -> Option<Vec<String>> {
        let wait = self.file.connect.first.get(self.step).filter(|_| self.is_step_sent)?.wait.as_ref()?;
        let place = format!("connect.first[{}]", self.step + 1);
        let unmatched: Vec<_> = self.unmatched.iter().map(|text| hide(text)).collect();
        Some(super::hints::unmatched_wait(&place, wait, &unmatched))
    }

    /// Returns the file.
    #[must_use]
    pub const fn file(&self) -> &Arc<TargetFile> {
        &self.file
    }

    /// Sets the key of the run.
    pub fn set_key(&mut self, key: Option<&str>) {
        match key {
            Some(key) => {
                self.values.set("api_key", key.into());
                let escaped = escaped(key);
                if escaped != key {
                    self.add_secret("api_key", escaped);
                }
            }
            None => self.values.remove("api_key"),
        }
    }

    /// Returns the values that the backend gave and that no output may contain.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(|(_, text)| text.as_str())
    }

    /// Returns the call that creates the session, if there is one.
    #[must_use]
    pub fn create(&self) -> Option<Call> {
        self.file.create.as_ref().map(|call| self.call(call))
    }

    /// Reads the response to that call.
    ///
    /// # Errors
    /// A value is missing.
    pub fn created(&mut self, header: &dyn Fn(&str) -> Option<String>, body: &[u8]) -> Result<(), String> {
        let file = Arc::clone(&self.file);
        let extract = file.create.as_ref().map_or(&[][..], |call| &call.extract);
        self.extract_response(extract, header, body, "create")
    }

    /// Starts to open a connection, and returns its upgrade.
    pub fn open(&mut self) -> Upgrade {
        (self.step, self.is_step_sent) = (0, false);
        let connect = &self.file.connect;
        let mut upgrade = Call {
            method: "GET".into(),
            path: connect.path.render_url(&self.values),
            headers: self.headers(&connect.headers),
            body: None,
        };
        let subprotocols = connect.subprotocols.iter();
        let subprotocols: Vec<_> = subprotocols.filter_map(|text| text.render(&self.values)).collect();
        if !subprotocols.is_empty() {
            upgrade.headers.push(("sec-websocket-protocol".into(), subprotocols.join(", ")));
        }
        if let (Some(Resume::Connect { path, headers }), true) = (&self.file.resume, self.is_resuming) {
            if let Some(path) = path {
                upgrade.path = path.render_url(&self.values);
            }
            upgrade.headers.extend(self.headers(headers));
        }
        upgrade
    }

    /// Returns what to do next at the start of a WebSocket.
    pub fn greeting(&mut self) -> Greeting {
        loop {
            let file = Arc::clone(&self.file);
            let Some(first) = file.connect.first.get(self.step) else {
                self.opened();
                return Greeting::Done;
            };
            if !std::mem::replace(&mut self.is_step_sent, true) {
                let resume = first.resume.as_ref().filter(|_| self.is_resuming);
                if let Some(message) = resume.or(first.send.as_ref()) {
                    return Greeting::Send(self.message(message));
                }
            }
            if let Some(wait) = &first.wait {
                let conditions =
                    wait.when.iter().map(|(pointer, condition)| format!("{pointer} = {condition}"));
                return Greeting::Wait(conditions.collect::<Vec<_>>().join(" and "));
            }
            (self.step, self.is_step_sent) = (self.step + 1, false);
        }
    }

    /// Handles a message at the start of a WebSocket.
    ///
    /// # Errors
    /// The server reports an error, or a value is missing.
    pub fn greeted(&mut self, text: &str) -> Result<Greeted, String> {
        let file = Arc::clone(&self.file);
        let mut greeted = Greeted::default();
        let lines: Vec<&str> = match file.read.lines {
            true => text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect(),
            false => vec![text],
        };
        for line in lines {
            let value: Value = serde_json::from_str(line).unwrap_or_default();
            let seen = Seen { value: &value, data: line, event: "" };
            let first = file.connect.first.get(self.step).filter(|_| self.is_step_sent);
            let wait = first.and_then(|first| first.wait.as_ref());
            if let (Some(first), true) = (first, wait.is_some_and(|wait| wait.matches(seen))) {
                self.extract(&first.extract, &|_| None, &value, "the message")?;
                self.log(line, Some("the awaited message"));
                (self.step, self.is_step_sent) = (self.step + 1, false);
                if !file.has_items(&value) && self.is_of_no_interest(seen) {
                    continue;
                }
            }
            let is = file.rules.iter().find(|rule| rule.matcher.matches(seen)).map(|rule| rule.is);
            if let Some(first) = first.filter(|_| self.log.is_some()) {
                // It may be the awaited message, although `wait` is wrong.
                self.hide_values(&first.extract, &value);
            }
            if wait.is_none_or(|wait| !wait.matches(seen)) {
                self.log(line, Some(is.map_or(NOT_AWAITED, Is::name)));
            }
            match is {
                _ if file.has_items(&value) => greeted.kept.push(line.to_owned()),
                Some(Is::Ping) => greeted.replies.extend(self.reply()),
                Some(Is::Error) => return Err(self.error_in(&value)),
                Some(Is::Ignore) => {}
                _ => greeted.kept.push(line.to_owned()),
            }
        }
        Ok(greeted)
    }

    /// Returns whether a message that was awaited says nothing else: it matches no rule, or one that ignores it.
    fn is_of_no_interest(&self, seen: Seen<'_>) -> bool {
        let rule = self.file.rules.iter().find(|rule| rule.matcher.matches(seen));
        rule.is_none_or(|rule| rule.is == Is::Ignore)
    }

    fn error_in(&self, value: &Value) -> String {
        let parts = [&self.file.read.code, &self.file.read.message].map(|at| first_text(at, value));
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        let what =
            if parts.is_empty() { value.to_string().chars().take(200).collect() } else { parts.join(": ") };
        format!("the server reports an error: {what}")
    }

    fn opened(&mut self) {
        if self.is_resuming {
            return;
        }
        self.opening += 1;
        let start = self.file.numbers.as_ref().and_then(|numbers| numbers.start.as_ref());
        if let Some(start) = start.and_then(|name| self.values.get(name)) {
            self.last_number = number(&start);
        }
    }

    /// Keeps what the next answer needs to know of the messages that `answer` read.
    fn note(&mut self, answer: &FileAnswer) {
        self.earlier = answer.as_earlier().or(self.earlier.take());
        let states_start = self.file.numbers.as_ref().is_some_and(|numbers| numbers.start.is_some());
        let mut is_known = !states_start;
        if answer.is_lost() {
            // Numbers go on as the connection stated when the resume failed.
            self.end_resume();
            self.last_number = None;
            self.opened();
            is_known = true;
        }
        let opening = self.opening;
        if let Some((_, last)) = answer.highest().filter(|(other, _)| is_known || *other == opening) {
            self.last_number = self.last_number.max(Some(last));
        }
    }

    /// Begins question `number` of the session. `answer` read the messages so far.
    pub fn begin(&mut self, number: u32, id: &str, question: &Question<'_>, answer: Option<&FileAnswer>) {
        if let Some(answer) = answer {
            self.note(answer);
        }
        let values = &mut self.values;
        values.set("number", number.into());
        values.set("query", id.into());
        values.set("prompt", question.prompt.into());
        match question.model {
            "" => values.remove("model"),
            model => values.set("model", model.into()),
        }
        match question.max_tokens {
            Some(most) => values.set("max_tokens", most.into()),
            None => values.remove("max_tokens"),
        }
        self.end_resume();
    }

    /// Returns what asks the question.
    pub fn ask(&mut self) -> Ask {
        let file = Arc::clone(&self.file);
        match &file.submit {
            Submit::Message(message) => Ask::Message(self.message(message)),
            Submit::Call(call) => Ask::Call(self.call(call)),
            Submit::Stream(call) => Ask::Stream(self.call(call)),
        }
    }

    /// Reads the response to the call that asked.
    ///
    /// # Errors
    /// A value is missing.
    pub fn submitted(
        &mut self,
        header: &dyn Fn(&str) -> Option<String>,
        body: &[u8],
        answer: &mut FileAnswer,
    ) -> Result<(), String> {
        let file = Arc::clone(&self.file);
        let Submit::Call(call) = &file.submit else { return Ok(()) };
        self.extract_response(&call.extract, header, body, "submit")?;
        if self.names_queries() {
            answer.set_query(self.values.get("query").as_ref().and_then(scalar));
        }
        Ok(())
    }

    /// Returns whether the backend chooses the ids of questions.
    fn names_queries(&self) -> bool {
        matches!(&self.file.submit, Submit::Call(call) if call.extract.iter().any(|value| value.name == "query"))
    }

    /// Returns the state machine that reads the answer to the present question.
    #[must_use]
    pub fn answer(&self) -> FileAnswer {
        let query = self.values.get("query").as_ref().and_then(scalar).filter(|_| !self.names_queries());
        FileAnswer::new(Arc::clone(&self.file), query, self.earlier.clone(), self.base(), self.opening)
    }

    /// Returns a reader of messages before the first question.
    #[must_use]
    pub fn idle(&self) -> FileAnswer {
        FileAnswer::idle(Arc::clone(&self.file), self.earlier.clone(), self.base(), self.opening)
    }

    /// Returns a reader of messages between two questions, on a new connection. `before` read those of the connection before.
    #[must_use]
    pub fn idle_after(&mut self, before: &FileAnswer) -> FileAnswer {
        self.note(before);
        let mut idle = self.idle();
        idle.permit_repeats(before);
        idle
    }

    /// Returns the number at position 1 of the next answer, if numbers continue and the last one is known.
    fn base(&self) -> Option<u64> {
        let is_per_session = self.file.numbers.as_ref().is_some_and(|numbers| numbers.is_per_session);
        self.last_number.filter(|_| is_per_session).and_then(|last| last.checked_add(1))
    }

    /// Makes the next connection resume the present answer.
    pub fn begin_resume(&mut self, point: ResumePoint) {
        self.is_resuming = true;
        let last = point.last;
        for (name, value) in [
            ("last", last.map(Value::from)),
            ("next", last.map(|last| Value::from(last + 1))),
            ("last_id", point.last_id.map(Value::from)),
        ] {
            match value {
                Some(value) => self.values.set(name, value),
                None => self.values.remove(name),
            }
        }
    }

    /// Returns whether the present connection resumes an answer.
    #[must_use]
    pub const fn is_resuming(&self) -> bool {
        self.is_resuming
    }

    /// Returns whether a connection was ready for questions before.
    #[must_use]
    pub const fn was_ready(&self) -> bool {
        self.opening > 0
    }

    /// Makes the next connection a new one.
    pub const fn end_resume(&mut self) {
        self.is_resuming = false;
    }

    /// Returns what asks for the rest of an answer, over the new connection. `None`: opening the connection asked for it.
    pub fn resume(&mut self) -> Option<Ask> {
        let file = Arc::clone(&self.file);
        match file.resume.as_ref()? {
            Resume::Message(message) => Some(Ask::Message(self.message(message))),
            Resume::Stream(call) => Some(Ask::Stream(self.call(call))),
            Resume::Connect { .. } => None,
        }
    }

    /// Returns what ends the present answer.
    pub fn stop(&mut self) -> Option<Ask> {
        let file = Arc::clone(&self.file);
        Some(match file.stop.as_ref()? {
            Request::Message(message) => Ask::Message(self.message(message)),
            Request::Call(call) => Ask::Call(self.call(call)),
        })
    }

    /// Returns how often a message keeps the connection alive.
    #[must_use]
    pub fn keepalive(&self) -> Option<Duration> {
        self.file.keepalive.send.as_ref().map(|(every, _)| *every)
    }

    /// Returns the message that keeps the connection alive.
    pub fn keepalive_message(&mut self) -> Option<String> {
        let file = Arc::clone(&self.file);
        file.keepalive.send.as_ref().map(|(_, message)| self.message(message))
    }

    /// Returns the reply to a ping.
    pub fn reply(&mut self) -> Option<String> {
        let file = Arc::clone(&self.file);
        file.keepalive.reply.as_ref().map(|message| self.message(message))
    }

    /// Reads a message as rules see it, for messages outside an answer.
    #[must_use]
    pub fn is_ping(&self, incoming: Incoming<'_>) -> bool {
        let value: Value = serde_json::from_str(incoming.data).unwrap_or_default();
        let seen = Seen { value: &value, data: incoming.data, event: incoming.event };
        let rule = self.file.rules.iter().find(|rule| rule.matcher.matches(seen));
        rule.is_some_and(|rule| rule.is == Is::Ping)
    }

    fn message(&mut self, message: &super::template::JsonTemplate) -> String {
        self.sent += 1;
        self.values.set("id", self.sent.into());
        let text = message.message(&self.values);
        self.log(&text, None);
        text
    }

    fn call(&self, call: &HttpCall) -> Call {
        Call {
            method: call.method.clone().into(),
            path: call.path.render_url(&self.values),
            headers: self.headers(&call.headers),
            body: call.body.as_ref().map(|body| body.message(&self.values)),
        }
    }

    /// Returns headers with their values. Those whose value is missing or empty are left out.
    fn headers(&self, headers: &[(String, Template)]) -> Vec<(String, String)> {
        let one = |(name, text): &(String, Template)| Some((name.clone(), text.render(&self.values)?));
        headers.iter().filter_map(one).filter(|(_, text)| !text.is_empty()).collect()
    }

    /// Keeps a secret. An older value of the same name may be dropped for it, but none of another name.
    fn add_secret(&mut self, name: &str, text: String) {
        if self.secrets.iter().any(|(_, known)| *known == text) {
            return;
        }
        let is_same = |(other, _): &(String, String)| other == name;
        if self.secrets.iter().filter(|secret| is_same(secret)).count() >= MOST_SECRETS
            && let Some(oldest) = self.secrets.iter().position(is_same)
        {
            self.secrets.remove(oldest);
        }
        self.secrets.push((name.to_owned(), text));
    }

    /// Makes the values that `extract` would take from a message secret.
    fn hide_values(&mut self, extract: &[Extract], value: &Value) {
        for Extract { name, source, .. } in extract {
            let Source::Body(pointer) = source else { continue };
            if let Some(text) = pointer.text(value) {
                self.hide_value(name, text);
            }
        }
    }

    /// Makes a value secret, unless the file says that it is public.
    fn hide_value(&mut self, name: &str, text: String) {
        if !self.file.public.iter().any(|public| public == name) {
            // A path has it in another form.
            self.add_secret(name, escaped(&text));
            self.add_secret(name, text);
        }
    }

    fn extract_response(
        &mut self,
        sources: &[Extract],
        header: &dyn Fn(&str) -> Option<String>,
        body: &[u8],
        what: &str,
    ) -> Result<(), String> {
        if sources.is_empty() {
            return Ok(());
        }
        let value: Value = match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(_) if sources.iter().all(|value| matches!(value.source, Source::Header(_))) => Value::Null,
            Err(error) => return Err(format!("the response to [{what}] is not JSON: {error}")),
        };
        self.extract(sources, header, &value, "the response")
    }

    fn extract(
        &mut self,
        sources: &[Extract],
        header: &dyn Fn(&str) -> Option<String>,
        value: &Value,
        what: &str,
    ) -> Result<(), String> {
        for Extract { name, source, default } in sources {
            let (found, place) = match source {
                Source::Body(pointer) => (pointer.of(value).cloned(), pointer.to_string()),
                Source::Header(header_name) => {
                    (header(header_name).map(Value::String), format!("header {header_name}"))
                }
            };
            let found = found.filter(|found| !found.is_null()).or_else(|| default.clone());
            let Some(found) = found else {
                let mut known = Vec::new();
                super::pointer::each_scalar(value, &mut |pointer, _| known.push(pointer.to_owned()));
                known.truncate(12);
                let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
                return Err(format!(
                    "{what} has no {place}, which `extract` needs for `{name}`: it has {known}"
                ));
            };
            if let Some(text) = scalar(&found) {
                self.hide_value(name, text);
            }
            self.values.set(name, found);
        }
        Ok(())
    }
}
