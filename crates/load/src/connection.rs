//! A session's connection: one WebSocket or HTTP connection after another, and the delays between them.
//! It reports that a socket was lost and why. Whether to reconnect is the caller's decision.

use crate::{
    backoff::Backoff,
    connector::{Connector, OpenError, Opened},
    endpoint::DialOptions,
    greeting::{self, KeptMessage},
    socket::{Arrival, Buffers, Chunk, DataMessage, Socket},
};
use dialects::target::Conversation;
use measure::record::{Failure, FailureKind, LossCause};
use protocol::{Position, SessionId};
use settings::secret::Secret;
use std::{
    cell::RefCell,
    future::{Future, pending},
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// What happens on a connection.
#[derive(Debug)]
pub enum ConnectionEvent {
    /// The socket was read. Pass the chunk to [`Connection::decode`] before the next call to [`Connection::next`].
    Read(Chunk),
    /// The socket was lost.
    Lost(Loss),
    /// A new socket is open. Holds the time of the attempt that succeeded.
    Opened(AttemptTime),
    /// No attempt opened a socket.
    Failed(Failure),
}

/// The duration of an attempt that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct AttemptTime {
    /// Time from the start of the attempt to the arrival of the response.
    pub time: Duration,
    /// The part of `time` that the generator itself may have caused, at most.
    pub slack: Duration,
}

/// How a socket was lost.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The cause.
    pub cause: LossCause,
    /// The text of the close frame or of the error.
    pub text: String,
    /// When the socket was lost. For a silent socket: when it was last read.
    pub at: Instant,
}

impl Loss {
    /// Returns the close frame's code, if there was a close frame.
    pub const fn code(&self) -> Option<u16> {
        match self.cause {
            LossCause::Closed(code) => Some(code),
            LossCause::Broken | LossCause::Cut | LossCause::Limit => None,
        }
    }

    /// Describes the loss for people, for example `closed with 1011: internal error`.
    pub fn describe(&self) -> String {
        match self.code() {
            Some(code) if self.text.is_empty() => format!("closed with {code}"),
            Some(code) => format!("closed with {code}: {}", self.text),
            None => self.text.clone(),
        }
    }
}

/// Everything that is needed to open a session's sockets.
#[derive(Clone)]
pub struct SocketOpener {
    /// Opens sockets to the gateway.
    pub connector: Arc<Connector>,
    /// The session of the socket.
    pub session: SessionId,
    /// The token of the session.
    pub token: Secret,
    /// How the TCP connection is made.
    pub dial: DialOptions,
    /// Called before each attempt to reconnect.
    pub on_attempt: Rc<dyn Fn()>,
    /// The buffer for reads.
    pub buffers: Rc<Buffers>,
    /// The next reconnect needs a new key of the foreign server.
    pub renews: bool,
    /// What a target file tells the session to send.
    pub conversation: Option<Rc<RefCell<Conversation>>>,
}

/// The timer after which the client cuts its own socket.
pub struct CutTimer {
    /// Draws the time from a socket's opening to its cut.
    next: Box<dyn FnMut() -> Option<Duration>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl CutTimer {
    /// Creates a timer that draws the time of each socket with `next`. `None`: the socket is not cut.
    pub fn new(next: impl FnMut() -> Option<Duration> + 'static) -> Self {
        Self { next: Box::new(next), timer: None }
    }

    fn arm(&mut self) {
        self.timer = (self.next)().map(|time| Box::pin(tokio::time::sleep(time)));
    }
}

/// A message that is sent in equal intervals.
struct KeepAlive {
    every: Duration,
    timer: Pin<Box<Sleep>>,
}

/// A socket that is ready for questions.
struct Ready {
    socket: Socket,
    took: AttemptTime,
    /// Messages that arrived before it was ready and belong to an answer.
    kept: Vec<KeptMessage>,
}

type OpenResult = Result<Ready, Failure>;
type Opening = Pin<Box<dyn Future<Output = OpenResult>>>;

#[allow(clippy::large_enum_variant, reason = "a connection is boxed, and its socket is usually up")]
enum State {
    Up(Socket),
    Down,
    Opening(Opening),
}

/// The connection of one session.
pub struct Connection {
    opener: SocketOpener,
    state: State,
    ping_timeout: Duration,
    silence: Pin<Box<Sleep>>,
    /// The earliest start of a silence: while the session pauses reading, silence is its own doing.
    listening_since: Instant,
    /// The number of reads over all earlier sockets, so that read numbers stay unique within the session.
    last_read: u64,
    cuts: Option<CutTimer>,
    keepalive: Option<KeepAlive>,
    kept: Vec<KeptMessage>,
}

impl Connection {
    /// Creates a connection without a socket.
    pub fn new(opener: SocketOpener, ping_timeout: Duration, cuts: Option<CutTimer>) -> Self {
        Self {
            opener,
            state: State::Down,
            ping_timeout,
            silence: Box::pin(tokio::time::sleep(ping_timeout)),
            listening_since: Instant::now(),
            last_read: 0,
            cuts,
            keepalive: None,
            kept: Vec::new(),
        }
    }

    /// Opens the session's first socket. Returns the time of the attempt that succeeded. Fails if the gateway asks to wait for
    /// longer than `limit`.
    ///
    /// # Errors
    /// The failure of the last attempt.
    pub async fn open(&mut self, backoff: Backoff, limit: Duration) -> Result<AttemptTime, Failure> {
        let ready = open(self.opener.clone(), backoff, limit, self.last_read).await?;
        Ok(self.up(ready))
    }

    /// Takes the boot id of the host that the present socket's gateway named, if it did.
    pub fn take_boot_id(&mut self) -> Option<Box<str>> {
        match &mut self.state {
            State::Up(socket) => socket.take_boot_id(),
            State::Down | State::Opening(_) => None,
        }
    }

    /// Starts to open a socket that does not resume. [`Self::next`] reports the result.
    pub fn connect(&mut self, backoff: Backoff, limit: Duration) {
        self.state = State::Opening(Box::pin(open(self.opener.clone(), backoff, limit, self.last_read)));
    }

    fn up(&mut self, ready: Ready) -> AttemptTime {
        self.state = State::Up(ready.socket);
        self.kept = ready.kept;
        let every = self.opener.conversation.as_ref().and_then(|state| state.borrow().keepalive());
        self.keepalive = every.map(|every| KeepAlive { every, timer: Box::pin(tokio::time::sleep(every)) });
        self.restart_silence_timer();
        if let Some(cuts) = &mut self.cuts {
            cuts.arm();
        }
        ready.took
    }

    /// Takes the messages that arrived before the present socket was ready and belong to an answer.
    pub fn take_kept(&mut self) -> Vec<KeptMessage> {
        std::mem::take(&mut self.kept)
    }

    /// Sends a text message that is no question, if a WebSocket is open.
    pub fn send_beside(&mut self, text: &str) {
        if let State::Up(socket) = &mut self.state {
            socket.send_beside(text);
        }
    }

    /// Restarts the silence timer, after a time in which the session did not read.
    pub fn restart_silence_timer(&mut self) {
        self.listening_since = Instant::now();
        self.silence.as_mut().reset((self.listening_since + self.ping_timeout).into());
    }

    /// Stops cutting sockets.
    pub fn stop_cutting(&mut self) {
        self.cuts = None;
    }

    /// Returns whether a socket is open.
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    const fn is_http(&self) -> bool {
        matches!(&self.state, State::Up(socket) if socket.is_http())
    }

    /// Returns the socket if one is open and can take a request.
    pub fn idle_socket(&mut self) -> Option<&mut Socket> {
        match &mut self.state {
            State::Up(socket) if socket.is_idle() => Some(socket),
            State::Up(_) | State::Down | State::Opening(_) => None,
        }
    }

    /// Returns whether a socket is open and can take a request.
    pub const fn is_idle(&self) -> bool {
        matches!(&self.state, State::Up(socket) if socket.is_idle())
    }

    /// Drops the socket, if one is open, without a word.
    pub fn drop_socket(&mut self) {
        self.down();
    }

    /// Makes the next reconnect renew the key of the foreign server: the present one has expired.
    pub const fn renew_key(&mut self) {
        self.opener.renews = true;
    }

    /// Starts to open another socket in place of one that was lost between two answers. Its attempts do not count as those of a reconnect.
    pub fn replace(&mut self, loss: &Loss, wait: Option<Duration>, backoff: Backoff, limit: Duration) {
        let opener = SocketOpener { on_attempt: Rc::new(|| {}), ..self.opener.clone() };
        self.opener.renews = false;
        let reopening = reopen(opener, loss.describe(), None, wait, backoff, limit, self.last_read);
        self.state = State::Opening(Box::pin(reopening));
    }

    /// Starts to reconnect after `loss`, resuming after `position`. [`Self::next`] reports the result.
    ///
    /// The first attempt comes after `wait`, or after a backoff if `wait` is `None` or longer than `limit`. A `Retry-After` longer
    /// than `limit` is a failure.
    pub fn reconnect(
        &mut self,
        loss: &Loss,
        position: Option<Position>,
        wait: Option<Duration>,
        backoff: Backoff,
        limit: Duration,
    ) {
        let (opener, why) = (self.opener.clone(), loss.describe());
        self.opener.renews = false;
        let wait = wait.filter(|&wait| wait <= limit);
        let reopening = reopen(opener, why, position, wait, backoff, limit, self.last_read);
        self.state = State::Opening(Box::pin(reopening));
    }

    /// Waits for the next event. Cancel safe: the future may be dropped and created again at any time.
    pub async fn next(&mut self) -> ConnectionEvent {
        loop {
            match &mut self.state {
                State::Up(socket) => {
                    tokio::select! {
                        biased;
                        read = socket.read(&self.opener.buffers) => return self.was_read(read),
                        () = self.silence.as_mut() => {
                            // Between two answers, nothing is expected on an HTTP connection.
                            let is_waiting = socket.is_http() && socket.is_idle();
                            if is_waiting {
                                self.listening_since = Instant::now();
                            }
                            let heard = socket.last().at.max(self.listening_since);
                            let deadline = heard + self.ping_timeout;
                            if Instant::now() < deadline {
                                self.silence.as_mut().reset(deadline.into());
                                continue;
                            }
                            let text = format!("nothing was received for {} s", self.ping_timeout.as_secs_f64());
                            return self.lost_at(heard, LossCause::Broken, text);
                        }
                        () = keepalive_due(&mut self.keepalive) => {
                            let state = self.opener.conversation.as_ref();
                            if let Some(text) = state.and_then(|state| state.borrow_mut().keepalive_message()) {
                                socket.send_beside(&text);
                            }
                        }
                        () = due(&mut self.cuts) => {
                            socket.reset_when_dropped();
                            return self.lost(LossCause::Cut, "the client cut the socket".into());
                        }
                    }
                }
                State::Opening(opening) => {
                    let opened = opening.as_mut().await;
                    match opened {
                        Ok(ready) => return ConnectionEvent::Opened(self.up(ready)),
                        Err(failure) => {
                            self.state = State::Down;
                            return ConnectionEvent::Failed(failure);
                        }
                    }
                }
                State::Down => return pending().await,
            }
        }
    }

    /// Reads what is in the socket now, even if the runtime has not noticed it. `None` if there is nothing.
    pub fn next_now(&mut self) -> Option<ConnectionEvent> {
        let State::Up(socket) = &mut self.state else { return None };
        let read = socket.read_now(&self.opener.buffers)?;
        Some(self.was_read(read))
    }

    fn was_read(&mut self, read: io::Result<Chunk>) -> ConnectionEvent {
        match read {
            // The end of the connection may complete an HTTP response, and is passed on.
            Ok(chunk) if chunk.bytes().is_empty() && !self.is_http() => {
                self.lost(LossCause::Broken, "the connection ended".into())
            }
            Ok(chunk) => ConnectionEvent::Read(chunk),
            Err(error) => self.lost(LossCause::Broken, format!("the connection broke: {error}")),
        }
    }

    /// Calls `take` with each message that the read completed and with its arrival. Returns the loss of the socket if the read
    /// ended it.
    pub fn decode(
        &mut self,
        chunk: &Chunk,
        take: impl FnMut(DataMessage<'_>, Arrival),
    ) -> Option<ConnectionEvent> {
        let State::Up(socket) = &mut self.state else { return None };
        match socket.decode(chunk, take) {
            Ok(None) if chunk.bytes().is_empty() => {
                Some(self.lost(LossCause::Broken, "the connection ended".into()))
            }
            Ok(None) => None,
            Ok(Some(close)) => {
                // Sends the reply to the close frame, if the socket accepts it at once. Nothing waits for it.
                socket.send_now();
                let cause = close.code.map_or(LossCause::Broken, LossCause::Closed);
                Some(self.lost(cause, close.text))
            }
            Err(bad) => Some(self.lost(LossCause::Broken, format!("protocol: {bad}"))),
        }
    }

    fn lost(&mut self, cause: LossCause, text: String) -> ConnectionEvent {
        self.lost_at(Instant::now(), cause, text)
    }

    fn lost_at(&mut self, at: Instant, cause: LossCause, text: String) -> ConnectionEvent {
        self.down();
        ConnectionEvent::Lost(Loss { cause, text, at })
    }

    fn down(&mut self) {
        if let State::Up(socket) = &self.state {
            self.last_read = socket.last().read;
        }
        self.state = State::Down;
    }

    /// Sends a close frame if a socket is open, within at most 1 s. The socket stays open for reads.
    pub async fn send_close(&mut self) {
        if let State::Up(socket) = &mut self.state {
            let _ = tokio::time::timeout(Duration::from_secs(1), socket.send_close()).await;
        }
    }

    /// Sends a close frame if a socket is open, and drops the socket.
    pub async fn close(&mut self) {
        self.send_close().await;
        self.down();
    }
}

async fn due(cuts: &mut Option<CutTimer>) {
    match cuts.as_mut().and_then(|cuts| cuts.timer.as_mut()) {
        Some(timer) => timer.as_mut().await,
        None => pending().await,
    }
}

/// Waits until a message is to be sent, and plans the next one. Waits forever if there is none. Cancel safe.
async fn keepalive_due(keepalive: &mut Option<KeepAlive>) {
    match keepalive {
        Some(KeepAlive { every, timer }) => {
            timer.as_mut().await;
            timer.as_mut().reset(tokio::time::Instant::now() + *every);
        }
        None => pending().await,
    }
}

/// Opens a socket that does not resume.
async fn open(mut opener: SocketOpener, mut backoff: Backoff, limit: Duration, last_read: u64) -> OpenResult {
    let mut key = KeyRenewal::default();
    loop {
        let started = Instant::now();
        key.before(&opener).await.map_err(|message| failed_renewal(FailureKind::Connect, message))?;
        match attempt(&opener, None, last_read, started).await {
            Ok(ready) => return Ok(ready),
            Err(error) if key.was_refused(&opener, &error) => {}
            Err(error) => {
                opener.dial.use_next_endpoint();
                let error = within(limit, error);
                match error.retry_after.and_then(|requested| backoff.next(Some(requested))) {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => return Err(failure(FailureKind::Connect, error)),
                }
            }
        }
    }
}

/// Opens a socket after a loss. `why` describes the loss.
async fn reopen(
    mut opener: SocketOpener,
    why: String,
    position: Option<Position>,
    wait: Option<Duration>,
    mut backoff: Backoff,
    limit: Duration,
    last_read: u64,
) -> OpenResult {
    let mut last = None;
    let mut wait = wait;
    let mut requested = None;
    let mut key = KeyRenewal { is_due: opener.renews, ..KeyRenewal::default() };
    loop {
        // Drawn even if `wait` replaces it: each attempt counts against the limit of attempts.
        let drawn = backoff.next(requested);
        let Some(delay) = wait.take().or(drawn).filter(|_| drawn.is_some()) else {
            return Err(last.unwrap_or_else(|| Failure {
                kind: FailureKind::Reconnect,
                code: None,
                message: format!("the socket was lost ({why}), and no attempt to reconnect is allowed"),
            }));
        };
        tokio::time::sleep(delay).await;
        (opener.on_attempt)();
        key.before(&opener).await.map_err(|message| failed_renewal(FailureKind::Reconnect, message))?;
        let started = Instant::now();
        match attempt(&opener, position, last_read, started).await {
            Ok(ready) => return Ok(ready),
            Err(error) if key.was_refused(&opener, &error) => wait = Some(Duration::ZERO),
            Err(error) => {
                opener.dial.use_next_endpoint();
                let error = within(limit, error);
                requested = error.retry_after;
                let failed = failure(FailureKind::Reconnect, error);
                if requested.is_none() {
                    return Err(failed);
                }
                last = Some(failed);
            }
        }
    }
}

/// The renewal of a foreign server's key while a socket is opened: once, if the server refuses the present one.
#[derive(Default)]
struct KeyRenewal {
    is_due: bool,
    is_done: bool,
    /// The renewal whose key was refused.
    refused: u64,
}

impl KeyRenewal {
    /// Renews the key before an attempt if that is due.
    async fn before(&mut self, opener: &SocketOpener) -> Result<(), String> {
        let credentials = opener.connector.credentials();
        if std::mem::take(&mut self.is_due) && credentials.can_renew() {
            self.is_done = true;
            let refused = if self.refused == 0 { credentials.key().1 } else { self.refused };
            credentials.renew(refused).await?;
        }
        self.refused = credentials.key().1;
        Ok(())
    }

    /// Returns whether the key was refused and can be renewed for another attempt.
    fn was_refused(&mut self, opener: &SocketOpener, error: &OpenError) -> bool {
        self.is_due =
            error.status == Some(401) && opener.connector.credentials().can_renew() && !self.is_done;
        self.is_due
    }
}

fn failed_renewal(kind: FailureKind, message: String) -> Failure {
    Failure { kind, code: Some(401), message }
}

/// Makes the error final if the gateway asks to wait for longer than `limit`.
fn within(limit: Duration, error: OpenError) -> OpenError {
    match error.retry_after {
        Some(requested) if requested > limit => OpenError {
            message: format!(
                "{}; not repeated: the requested delay of {} s is longer than the query timeout of {} s",
                error.message,
                requested.as_secs_f64(),
                limit.as_secs_f64()
            ),
            retry_after: None,
            ..error
        },
        _ => error,
    }
}

/// Opens a socket once, and makes it ready for questions.
async fn attempt(
    opener: &SocketOpener,
    position: Option<Position>,
    last_read: u64,
    started: Instant,
) -> Result<Ready, OpenError> {
    let SocketOpener { connector, session, token, dial, conversation, buffers, .. } = opener;
    let upgrade = conversation.as_ref().map(|state| {
        let mut state = state.borrow_mut();
        state.set_key(connector.credentials().key().0.as_ref().map(Secret::reveal));
        state.open()
    });
    let opened = connector.open(*session, token, position, last_read, *dial, upgrade.as_ref()).await?;
    let Opened { socket, at, slack } = opened;
    let ready = |socket, at: Instant, slack, kept| {
        let took = AttemptTime { time: at.saturating_duration_since(started), slack };
        Ready { socket, took, kept }
    };
    match conversation {
        Some(state) if !socket.is_http() => {
            let greeted = greeting::greet(socket, state, buffers).await;
            let (socket, kept) = greeted.map_err(|mut error| {
                error.message = connector.hide(&error.message);
                error
            })?;
            // Without first messages, the socket is ready with the response to its upgrade.
            let at = socket.last().at.max(at);
            let slack = slack.max(socket.last().slack);
            Ok(ready(socket, at, slack, kept))
        }
        _ => Ok(ready(socket, at, slack, Vec::new())),
    }
}

fn failure(kind: FailureKind, error: OpenError) -> Failure {
    Failure { kind, code: error.status, message: error.message }
}
