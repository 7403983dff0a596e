//! Plays questions to a backend that a target file describes, and reports each message with its meaning.

use crate::{
    backoff::Backoff,
    connection::{Connection, ConnectionEvent, SocketOpener},
    connector::Connector,
    credentials::Credentials,
    endpoint::DialOptions,
    explain,
    http::{Http, HttpResponse},
    http_stream::StreamPart,
    socket::DataMessage,
};
use dialects::{
    Ask, Call,
    message::End,
    request::Question,
    target::{
        Conversation, FileAnswer, Incoming, Places, Read, TargetFile, describe, mismatches, missing_end,
        wrong_scope,
    },
};
use http::StatusCode;
use measure::record::FailureKind;
use plan::{Reconnect, Target};
use protocol::{ExpectedRange, Kind, Ledger, SessionId};
use settings::{
    plural::counted,
    secret::{Secret, Secrets},
};
use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// Upper limit in characters of a message that is shown.
const LONGEST: usize = 400;
/// How often a connection may be silent in the check.
const SILENCE: Duration = Duration::from_secs(3600);
/// Time between an answer and the next question, in which a message that does not belong there can arrive.
const PAUSE: Duration = Duration::from_millis(100);

/// What the check of a target file reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// Question 2 or a later one begins.
    Question(u32),
    /// Something was sent: a call, an upgrade or a message.
    Sent(String),
    /// The result of what was sent.
    Result(String),
    /// A message arrived.
    Received {
        /// The message.
        text: String,
        /// What each of its parts means.
        meanings: Vec<String>,
        /// What does not match, and what to change.
        hints: Vec<String>,
    },
}

/// How a check ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// Answers that were complete before the first problem.
    pub answers: u32,
    /// Tokens that arrived.
    pub tokens: u64,
    /// Everything that is wrong. Empty if the file fits the backend.
    pub problems: Vec<String>,
    /// What may be wrong.
    pub warnings: Vec<String>,
    /// What the file cannot express.
    pub unverified: Vec<String>,
}

/// A check in progress.
struct Probe<'a> {
    target: &'a Target,
    connector: Arc<Connector>,
    http: Http,
    state: Rc<RefCell<Conversation>>,
    report: &'a mut dyn FnMut(ProbeStep),
    /// The numbers of the present answer.
    numbers: Numbers,
    /// The last position of the answer before.
    before: Option<u64>,
    is_good: bool,
    /// Tokens of the present answer.
    tokens: u64,
    places: Places,
    probed: Probed,
}

/// The positions that the messages of one answer had.
#[derive(Default)]
struct Numbers {
    ledger: Ledger,
    first: Option<u64>,
    last: u64,
}

/// Plays questions one after the other, and reports each step. Takes `limit` at most.
pub async fn probe(
    target: &Target,
    connector: Arc<Connector>,
    tls: rustls::ClientConfig,
    question: &Question<'_>,
    (questions, limit): (u32, Duration),
    report: &mut dyn FnMut(ProbeStep),
) -> Probed {
    let Some(file) = target.foreign.as_ref().and_then(|foreign| foreign.dialect.file()) else {
        return Probed {
            problems: vec!["the target is not described by a file".into()],
            ..Probed::default()
        };
    };
    let session = uuid::Uuid::new_v4().to_string();
    let mut state = Conversation::new(Arc::clone(file), &session, 0);
    state.log_messages();
    let mut probe = Probe {
        target,
        http: Http::new(target, 1, tls),
        connector,
        state: Rc::new(RefCell::new(state)),
        report,
        numbers: Numbers::default(),
        before: None,
        is_good: false,
        tokens: 0,
        places: Places::new(file),
        probed: Probed::default(),
    };
    let deadline = Instant::now() + limit;
    let playing = probe.play(file, question, (questions, deadline));
    let played = tokio::time::timeout_at(deadline.into(), playing).await;
    probe.report_log();
    match played {
        // Only whole answers show which places are empty.
        Ok(Ok(())) => probe.probed.warnings = probe.places.missing(),
        Ok(Err(why)) => probe.problem(&why),
        Err(_) => probe.timed_out(file, limit),
    }
    probe.probed.unverified = file.unverified().into_iter().map(str::to_owned).collect();
    probe.probed
}

impl Probe<'_> {
    async fn play(
        &mut self,
        file: &Arc<TargetFile>,
        question: &Question<'_>,
        (questions, deadline): (u32, Instant),
    ) -> Result<(), String> {
        self.create(deadline).await?;
        let mut connection = self.open(deadline).await?;
        let mut answer = self.state.borrow().idle();
        self.take_kept(&mut connection, &mut answer);
        for number in 1..=questions {
            if number > 1 {
                self.send(ProbeStep::Question(number));
                self.make_ready(&mut connection, &mut answer, deadline).await?;
            }
            (self.numbers, self.is_good, self.tokens) = (Numbers::default(), false, 0);
            let query = uuid::Uuid::new_v4().to_string();
            self.state.borrow_mut().begin(number, &query, question, Some(&answer));
            answer = self.state.borrow().answer();
            let ask = self.state.borrow_mut().ask();
            self.ask(ask, &mut connection, &mut answer, deadline).await?;
            self.read(file, &mut connection, &mut answer).await?;
            self.judge(file, &answer);
            self.probed.answers += u32::from(self.is_good && self.probed.problems.is_empty());
        }
        connection.close().await;
        Ok(())
    }

    fn take_kept(&mut self, connection: &mut Connection, answer: &mut FileAnswer) {
        for (text, _) in connection.take_kept() {
            self.received(answer, Incoming::text(&text));
        }
    }

    /// Waits until the connection can take the next question, and opens another one if the backend closed it.
    async fn make_ready(
        &mut self,
        connection: &mut Connection,
        answer: &mut FileAnswer,
        deadline: Instant,
    ) -> Result<(), String> {
        let settled = async {
            while connection.is_up() {
                self.next(connection, answer).await?;
            }
            Ok::<(), String>(())
        };
        tokio::time::timeout(PAUSE, settled).await.unwrap_or(Ok(()))?;
        if connection.is_idle() {
            return Ok(());
        }
        self.send(ProbeStep::Result(match connection.is_up() {
            true => "the response goes on after the end of the answer: another connection is opened".into(),
            false => "the backend closed the connection after the answer".into(),
        }));
        *connection = self.open(deadline).await?;
        *answer = self.state.borrow_mut().idle_after(answer);
        self.take_kept(connection, answer);
        Ok(())
    }

    async fn create(&mut self, deadline: Instant) -> Result<(), String> {
        self.set_key();
        let call = self.state.borrow().create();
        let Some(call) = call else { return Ok(()) };
        let response = self.call(FailureKind::Create, &call, deadline).await?;
        let header = |name: &str| response.header(name).map(str::to_owned);
        let created = self.state.borrow_mut().created(&header, response.body());
        self.responded(&response, created.is_ok());
        created.map_err(|why| format!("[create]: {why}"))
    }

    /// Makes a call beside the connection.
    async fn call(
        &mut self,
        kind: FailureKind,
        call: &Call,
        deadline: Instant,
    ) -> Result<HttpResponse, String> {
        self.sent_call(call);
        let mut backoff = Backoff::new(once(), 0);
        let called = self.http.call(kind, call, &mut backoff, deadline, |_| {}).await;
        Ok(called.map_err(|failure| failure.message)?.value)
    }

    /// Reports the response to a call. Its body is shown only after its secrets are known.
    fn responded(&mut self, response: &HttpResponse, is_read: bool) {
        let body = String::from_utf8_lossy(response.body());
        let body = if is_read { format!(" {}", cut(&body)) } else { String::new() };
        self.send(ProbeStep::Result(format!("{}{body}", response.status)));
    }

    async fn open(&mut self, deadline: Instant) -> Result<Connection, String> {
        let upgrade = {
            self.set_key();
            self.state.borrow_mut().open()
        };
        if !upgrade.path.is_empty() {
            self.sent_call(&upgrade);
        }
        let opener = SocketOpener {
            connector: Arc::clone(&self.connector),
            session: SessionId::new(uuid::Uuid::nil()),
            token: Secret::new(""),
            dial: DialOptions::default(),
            on_attempt: Rc::new(|| {}),
            buffers: Rc::default(),
            renews: false,
            conversation: Some(Rc::clone(&self.state)),
        };
        let mut connection = Connection::new(opener, SILENCE, None);
        let limit = deadline.saturating_duration_since(Instant::now());
        let opened = connection.open(Backoff::new(once(), 0), limit).await;
        self.report_log();
        let took = opened.map_err(|failure| failure.message)?;
        self.send(ProbeStep::Result(format!("connected after {:.2} ms", took.time.as_secs_f64() * 1e3)));
        Ok(connection)
    }

    async fn ask(
        &mut self,
        ask: Ask,
        connection: &mut Connection,
        answer: &mut FileAnswer,
        deadline: Instant,
    ) -> Result<(), String> {
        match ask {
            Ask::Message(text) => {
                self.report_log();
                connection.send_beside(&text);
            }
            Ask::Stream(call) => {
                self.sent_call(&call);
                let socket = connection.idle_socket().ok_or("the connection cannot take a request")?;
                let bytes =
                    self.connector.call(socket.endpoint(), &call).map_err(|error| error.to_string())?;
                socket.send(&bytes);
            }
            Ask::Call(call) => {
                let response = self.call(FailureKind::Run, &call, deadline).await?;
                let header = |name: &str| response.header(name).map(str::to_owned);
                let read = self.state.borrow_mut().submitted(&header, response.body(), answer);
                self.responded(&response, read.is_ok());
                read.map_err(|why| format!("[submit]: {why}"))?;
            }
        }
        Ok(())
    }

    /// Reads until the answer or the connection has ended.
    async fn read(
        &mut self,
        file: &Arc<TargetFile>,
        connection: &mut Connection,
        answer: &mut FileAnswer,
    ) -> Result<(), String> {
        while answer.missing_end().is_some() {
            if let Some(why) = self.next(connection, answer).await?
                && answer.missing_end().is_some()
            {
                return Err(self.early_end(file, &why));
            }
        }
        Ok(())
    }

    /// Waits for what arrives next, and reports it. Returns why nothing more will come, if so. Cancel safe.
    async fn next(
        &mut self,
        connection: &mut Connection,
        answer: &mut FileAnswer,
    ) -> Result<Option<String>, String> {
        let chunk = match connection.next().await {
            ConnectionEvent::Read(chunk) => chunk,
            ConnectionEvent::Lost(loss) => return Ok(Some(loss.describe())),
            ConnectionEvent::Opened(_) => return Ok(None),
            ConnectionEvent::Failed(failure) => return Err(failure.message),
        };
        let (mut pings, mut refused, mut ended) = (0, None, false);
        let lost = connection.decode(&chunk, |message, _| match message {
            DataMessage::Text(text) => pings += self.received(answer, Incoming::text(text)),
            DataMessage::Binary(_) => {
                self.problem("a binary message arrived: target files describe text");
            }
            DataMessage::Http(StreamPart::Event(event)) => {
                let incoming = Incoming { data: event.data, event: event.name, id: event.id };
                pings += self.received(answer, incoming);
            }
            DataMessage::Http(StreamPart::Accepted(head)) => {
                let kind = head.text("content-type").unwrap_or("no content-type");
                self.send(ProbeStep::Result(format!("{} {kind}", head.status)));
            }
            DataMessage::Http(StreamPart::Refused(head, body)) => {
                let status = StatusCode::from_u16(head.status).unwrap_or(StatusCode::BAD_GATEWAY);
                refused = Some(explain_refusal(status, head.text("content-type"), &head.headers, body));
            }
            DataMessage::Http(StreamPart::End { .. }) => ended = true,
        });
        for _ in 0..pings {
            let reply = self.state.borrow_mut().reply();
            reply.iter().for_each(|reply| connection.send_beside(reply));
        }
        self.report_log();
        if let Some(refused) = refused {
            return Err(refused);
        }
        Ok(match lost {
            Some(ConnectionEvent::Lost(loss)) => Some(loss.describe()),
            _ => ended.then(|| "the response ended".to_owned()),
        })
    }

    fn early_end(&self, file: &TargetFile, why: &str) -> String {
        let hints = missing_end(file, self.tokens > 0);
        format!("{why} before the answer did.\n{}", hints.join("\n"))
    }

    fn timed_out(&mut self, file: &TargetFile, limit: Duration) {
        let hints = self.state.borrow().explain_wait(&|text| self.hide(text));
        let hints = hints.unwrap_or_else(|| missing_end(file, self.tokens > 0));
        self.problem(&format!("not complete within {} s.\n{}", limit.as_secs_f64(), hints.join("\n")));
    }

    /// Notes what is wrong, once.
    fn problem(&mut self, why: &str) {
        let why = self.hide(why);
        if !self.probed.problems.contains(&why) {
            self.probed.problems.push(why);
        }
    }

    /// Reports a message. Returns how many replies the server asks for.
    fn received(&mut self, answer: &mut FileAnswer, incoming: Incoming<'_>) -> usize {
        let reads = answer.read(incoming);
        // Before a text is cut: a part of a secret could not be recognised.
        let shown: Vec<_> = reads.iter().map(|read| read.with_texts(&|text| self.hide(text))).collect();
        let meanings = shown.iter().map(|read| self.hide(&describe(read))).collect();
        let hints: Vec<_> = shown
            .iter()
            .flat_map(|read| mismatches(answer, incoming, read))
            .map(|hint| self.hide(&hint))
            .collect();
        let mut text = cut(incoming.data);
        for (name, line) in [("id", incoming.id), ("event", incoming.event)] {
            if !line.is_empty() {
                text = format!("{name}: {line}  {text}");
            }
        }
        self.send(ProbeStep::Received { text, meanings, hints: hints.clone() });
        if let Some(first) = hints.first() {
            self.problem(&format!("a message does not match: {first}"));
        }
        reads.iter().map(|read| self.count(read)).sum()
    }

    fn count(&mut self, read: &Read) -> usize {
        let meaning = &read.meaning;
        self.places.see(&read.value);
        self.tokens += u64::from(!meaning.text.is_empty());
        self.probed.tokens += u64::from(!meaning.text.is_empty());
        match &meaning.end {
            Some(End::Good) => self.is_good = true,
            Some(End::Failed(failed)) => {
                self.problem(&format!("the answer failed: {}: {}", failed.code, failed.message));
            }
            None => {}
        }
        if let Some(seq) = meaning.seq {
            let Numbers { ledger, first, last } = &mut self.numbers;
            first.get_or_insert(seq);
            *last = seq.max(*last);
            match (&meaning.end, meaning.text.is_empty()) {
                (Some(_), _) => drop(ledger.observe(seq, Kind::Done, None)),
                (None, true) => drop(ledger.observe_other(seq, None)),
                (None, false) => drop(ledger.observe(seq, Kind::Token, None)),
            }
        }
        usize::from(read.is_ping())
    }

    /// Judges the numbers of an answer that has ended.
    fn judge(&mut self, file: &TargetFile, answer: &FileAnswer) {
        if self.is_good && self.tokens == 0 {
            self.problem("the answer is complete and no token arrived");
        }
        if answer.numbering() == dialects::message::Numbering::None {
            return;
        }
        let Numbers { ledger, first, last } = &self.numbers;
        let before = self.before.replace(*last);
        if let Some(why) = before.and_then(|before| wrong_scope(file, *first, before)) {
            self.problem(&why);
            return;
        }
        let counts = ledger.counts(ledger.last_token(), ExpectedRange::Announced);
        for (count, what) in [
            (counts.events_lost.max(counts.tokens_lost), "numbered events are missing"),
            (counts.events_duplicated, "numbered events came twice"),
            (counts.events_reordered, "numbered events came out of order"),
        ] {
            if count > 0 {
                let what = counted(count, what);
                self.problem(&format!(
                    "{what}: check `number`, `first` and `counts` in [numbering], or the backend loses events"
                ));
            }
        }
    }

    fn set_key(&self) {
        let (key, _) = Credentials::key(self.connector.credentials());
        self.state.borrow_mut().set_key(key.as_ref().map(Secret::reveal));
    }

    fn sent_call(&mut self, call: &Call) {
        let body = call.body.as_deref().map(|body| format!(" {}", cut(body))).unwrap_or_default();
        let headers: Vec<_> = call.headers.iter().map(|(name, _)| name.as_str()).collect();
        let headers = match headers.len() {
            0 => String::new(),
            many => format!(" ({}: {})", counted(many as u64, "headers"), headers.join(", ")),
        };
        let base = match call.method.as_ref() {
            "GET" if self.state.borrow().file().transport == dialects::Transport::WebSocket => {
                self.target.ws.base()
            }
            _ => self.target.api.base(),
        };
        self.send(ProbeStep::Sent(format!("{} {base}{}{headers}{body}", call.method, call.path)));
    }

    /// Reports the messages that the conversation has logged.
    fn report_log(&mut self) {
        let log = self.state.borrow_mut().take_log();
        for logged in log {
            let text = cut(&logged.text);
            self.send(match logged.what {
                None => ProbeStep::Sent(text),
                Some(what) => ProbeStep::Received { text, meanings: vec![what], hints: Vec::new() },
            });
        }
    }

    fn send(&mut self, step: ProbeStep) {
        let step = match step {
            ProbeStep::Question(number) => ProbeStep::Question(number),
            ProbeStep::Sent(text) => ProbeStep::Sent(self.hide(&text)),
            ProbeStep::Result(text) => ProbeStep::Result(self.hide(&text)),
            ProbeStep::Received { text, meanings, hints } => {
                ProbeStep::Received { text: self.hide(&text), meanings, hints }
            }
        };
        (self.report)(step);
    }

    fn hide(&self, text: &str) -> String {
        let mut secrets = Secrets::default();
        self.state.borrow().secrets().for_each(|secret| secrets.add(secret));
        secrets.hide(&self.connector.hide(text))
    }
}

fn explain_refusal(status: StatusCode, kind: Option<&str>, headers: &http::HeaderMap, body: &[u8]) -> String {
    if status.is_success() {
        let kind = kind.unwrap_or("no content-type");
        return format!(
            "the response has {kind} instead of text/event-stream{}: check `path` in [submit], or use transport = \"json-lines\"",
            explain::detail(body)
        );
    }
    explain::refusal(status, headers, body)
}

fn cut(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        text.to_owned()
    } else {
        text.chars().take(LONGEST).collect::<String>() + "…"
    }
}

/// One attempt, without repeats.
const fn once() -> Reconnect {
    Reconnect { initial: Duration::ZERO, max: Duration::ZERO, attempts: 0, ping_timeout: SILENCE }
}
