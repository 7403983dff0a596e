//! A session's connection over time: one socket after another, and the waiting between them.
//! It decides nothing: it says that a socket was lost and why, and reconnects when told to.

use crate::{
    backoff::Backoff,
    connector::{Connector, Dial, OpenError, Opened},
    socket::{Arrival, Buffers, Chunk, Heard, Socket},
};
use measure::record::{Failure, FailureKind, LossCause};
use protocol::{Position, SessionId};
use settings::secret::Secret;
use std::{
    future::{Future, pending},
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// What a link has to say.
#[derive(Debug)]
pub enum LinkEvent {
    /// The socket was read: give it to [`Link::hear`] before anything else.
    Read(Chunk),
    /// The socket is gone.
    Lost(Loss),
    /// A new socket is open.
    Back {
        /// The attempt that succeeded.
        took: Took,
    },
    /// No socket could be opened in all attempts.
    Failed(Failure),
}

/// How long an attempt took that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// Until the answer arrived.
    pub time: Duration,
    /// How much of it may be the generator's own doing.
    pub slack: Duration,
}

/// How a socket ended.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Why.
    pub cause: LossCause,
    /// The close frame's text, or the error's.
    pub text: String,
    /// When it was lost: a silent socket when it was last heard of.
    pub at: Instant,
}

impl Loss {
    /// The close frame's code, where there was a close frame.
    pub const fn code(&self) -> Option<u16> {
        match self.cause {
            LossCause::Closed(code) => Some(code),
            LossCause::Broken | LossCause::Cut => None,
        }
    }

    /// Why the socket was lost, for a person: `closed with 1011: internal error`.
    pub fn describe(&self) -> String {
        match self.code() {
            Some(code) if self.text.is_empty() => format!("closed with {code}"),
            Some(code) => format!("closed with {code}: {}", self.text),
            None => self.text.clone(),
        }
    }
}

/// Who opens sockets for which session.
#[derive(Clone)]
pub struct Opener {
    /// To which gateway.
    pub connector: Arc<Connector>,
    /// Whose socket.
    pub session: SessionId,
    /// Opens it.
    pub token: Secret,
    /// From where, and how.
    pub dial: Dial,
    /// Told of every attempt to reconnect.
    pub on_attempt: Rc<dyn Fn()>,
    /// Where reads land.
    pub buffers: Rc<Buffers>,
}

/// When the client itself cuts its sockets.
pub struct Cuts {
    /// From a socket's opening to its cut.
    next: Box<dyn FnMut() -> Option<Duration>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Cuts {
    /// Draws the time of each socket with `next`.
    pub fn new(next: impl FnMut() -> Option<Duration> + 'static) -> Self {
        Self { next: Box::new(next), timer: None }
    }

    fn arm(&mut self) {
        self.timer = (self.next)().map(|time| Box::pin(tokio::time::sleep(time)));
    }
}

type Attempted = Result<(Socket, Took), Failure>;
type Opening = Pin<Box<dyn Future<Output = Attempted>>>;

#[allow(clippy::large_enum_variant, reason = "a link is boxed, and its socket is up as a rule")]
enum State {
    Up(Socket),
    Down,
    Opening(Opening),
}

/// A session's connection.
pub struct Link {
    opener: Opener,
    state: State,
    ping_timeout: Duration,
    silence: Pin<Box<Sleep>>,
    /// A silence counts from here at the earliest.
    listening_since: Instant,
    last_read: u64,
    cuts: Option<Cuts>,
}

impl Link {
    /// No socket yet.
    pub fn new(opener: Opener, ping_timeout: Duration, cuts: Option<Cuts>) -> Self {
        Self {
            opener,
            state: State::Down,
            ping_timeout,
            silence: Box::pin(tokio::time::sleep(ping_timeout)),
            listening_since: Instant::now(),
            last_read: 0,
            cuts,
        }
    }

    /// Opens the session's first socket. Answers how long the attempt took that succeeded. A `Retry-After` above `limit` is not
    /// waited for.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub async fn open(&mut self, backoff: Backoff, limit: Duration) -> Result<Took, Failure> {
        let (socket, took) = open(self.opener.clone(), backoff, limit, self.last_read).await?;
        self.up(socket);
        Ok(took)
    }

    /// Begins to open a socket that resumes nothing.
    pub fn connect(&mut self, backoff: Backoff, limit: Duration) {
        self.state = State::Opening(Box::pin(open(self.opener.clone(), backoff, limit, self.last_read)));
    }

    fn up(&mut self, socket: Socket) {
        self.state = State::Up(socket);
        self.listen_again();
        if let Some(cuts) = &mut self.cuts {
            cuts.arm();
        }
    }

    /// Nobody listened until now: silence counts from here.
    pub fn listen_again(&mut self) {
        self.listening_since = Instant::now();
        self.silence.as_mut().reset((self.listening_since + self.ping_timeout).into());
    }

    /// From now on the client cuts nothing.
    pub fn cut_no_more(&mut self) {
        self.cuts = None;
    }

    /// A socket is open.
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Begins to reconnect after `loss`: first after `wait`, or after a backoff when there is none, resuming after `position`.
    /// A `wait` above `limit` is ignored, and a `Retry-After` above it is a failure.
    pub fn reconnect(
        &mut self,
        loss: &Loss,
        position: Option<Position>,
        wait: Option<Duration>,
        backoff: Backoff,
        limit: Duration,
    ) {
        let (opener, why) = (self.opener.clone(), loss.describe());
        let wait = wait.filter(|&wait| wait <= limit);
        let reopening = reopen(opener, why, position, wait, backoff, limit, self.last_read);
        self.state = State::Opening(Box::pin(reopening));
    }

    /// What happens next. May be dropped and called again at any time.
    pub async fn next(&mut self) -> LinkEvent {
        loop {
            match &mut self.state {
                State::Up(socket) => {
                    tokio::select! {
                        biased;
                        read = socket.read(&self.opener.buffers) => return self.was_read(read),
                        () = self.silence.as_mut() => {
                            let heard = socket.last().at.max(self.listening_since);
                            let deadline = heard + self.ping_timeout;
                            if Instant::now() < deadline {
                                self.silence.as_mut().reset(deadline.into());
                                continue;
                            }
                            let text = format!("nothing was heard for {} s", self.ping_timeout.as_secs_f64());
                            return self.lost_at(heard, LossCause::Broken, text);
                        }
                        () = due(&mut self.cuts) => {
                            socket.reset_when_dropped();
                            return self.lost(LossCause::Cut, "the client cut it".into());
                        }
                    }
                }
                State::Opening(opening) => {
                    let opened = opening.as_mut().await;
                    match opened {
                        Ok((socket, took)) => {
                            self.up(socket);
                            return LinkEvent::Back { took };
                        }
                        Err(failure) => {
                            self.state = State::Down;
                            return LinkEvent::Failed(failure);
                        }
                    }
                }
                State::Down => return pending().await,
            }
        }
    }

    /// What is in the socket by now, whether or not the runtime has noticed; `None`: nothing.
    pub fn next_now(&mut self) -> Option<LinkEvent> {
        let State::Up(socket) = &mut self.state else { return None };
        let read = socket.read_now(&self.opener.buffers)?;
        Some(self.was_read(read))
    }

    fn was_read(&mut self, read: io::Result<Chunk>) -> LinkEvent {
        match read {
            Ok(chunk) if chunk.bytes().is_empty() => {
                self.lost(LossCause::Broken, "the connection ended".into())
            }
            Ok(chunk) => LinkEvent::Read(chunk),
            Err(error) => self.lost(LossCause::Broken, format!("the connection broke: {error}")),
        }
    }

    /// Shows the messages that the read completed to `take`, and when each arrived; the socket's end, if it came with them.
    pub fn hear(&mut self, chunk: &Chunk, take: impl FnMut(Heard<'_>, Arrival)) -> Option<LinkEvent> {
        let State::Up(socket) = &mut self.state else { return None };
        match socket.hear(chunk, take) {
            Ok(None) => None,
            Ok(Some(farewell)) => {
                // The answer to the close frame, if the socket takes it at once.
                socket.send_now();
                let cause = farewell.code.map_or(LossCause::Broken, LossCause::Closed);
                Some(self.lost(cause, farewell.text))
            }
            Err(bad) => Some(self.lost(LossCause::Broken, format!("protocol: {bad}"))),
        }
    }

    fn lost(&mut self, cause: LossCause, text: String) -> LinkEvent {
        self.lost_at(Instant::now(), cause, text)
    }

    fn lost_at(&mut self, at: Instant, cause: LossCause, text: String) -> LinkEvent {
        self.down();
        LinkEvent::Lost(Loss { cause, text, at })
    }

    fn down(&mut self) {
        if let State::Up(socket) = &self.state {
            self.last_read = socket.last().read;
        }
        self.state = State::Down;
    }

    /// Says that the socket ends, where there is one, and leaves it open for what still comes.
    pub async fn say_goodbye(&mut self) {
        if let State::Up(socket) = &mut self.state {
            let _ = tokio::time::timeout(Duration::from_secs(1), socket.say_farewell()).await;
        }
    }

    /// Ends the socket with a close frame, where there is one.
    pub async fn hang_up(&mut self) {
        self.say_goodbye().await;
        self.down();
    }
}

async fn due(cuts: &mut Option<Cuts>) {
    match cuts.as_mut().and_then(|cuts| cuts.timer.as_mut()) {
        Some(timer) => timer.as_mut().await,
        None => pending().await,
    }
}

/// A socket that resumes nothing, and how long the attempt took that succeeded.
async fn open(opener: Opener, mut backoff: Backoff, limit: Duration, last_read: u64) -> Attempted {
    loop {
        let started = Instant::now();
        match opener.connector.open(opener.session, &opener.token, None, last_read, opener.dial).await {
            Ok(opened) => return Ok(took(opened, started)),
            Err(error) => {
                let error = within(limit, error);
                match error.again.and_then(|told| backoff.next(Some(told))) {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => return Err(failure(FailureKind::Connect, error)),
                }
            }
        }
    }
}

async fn reopen(
    opener: Opener,
    why: String,
    position: Option<Position>,
    wait: Option<Duration>,
    mut backoff: Backoff,
    limit: Duration,
    last_read: u64,
) -> Attempted {
    let mut last = None;
    let mut wait = wait;
    let mut told = None;
    loop {
        let drawn = backoff.next(told);
        let Some(delay) = wait.take().or(drawn).filter(|_| drawn.is_some()) else {
            return Err(last.unwrap_or_else(|| Failure {
                kind: FailureKind::Reconnect,
                code: None,
                message: format!("the socket was lost ({why}), and no attempt to reconnect is allowed"),
            }));
        };
        tokio::time::sleep(delay).await;
        (opener.on_attempt)();
        let started = Instant::now();
        let opening = opener.connector.open(opener.session, &opener.token, position, last_read, opener.dial);
        match opening.await {
            Ok(opened) => return Ok(took(opened, started)),
            Err(error) => {
                let error = within(limit, error);
                told = error.again;
                let worth_it = told.is_some();
                let failed = failure(FailureKind::Reconnect, error);
                if !worth_it {
                    return Err(failed);
                }
                last = Some(failed);
            }
        }
    }
}

/// Gives up where the gateway asks for a wait that is longer than `limit`.
fn within(limit: Duration, error: OpenError) -> OpenError {
    match error.again {
        Some(told) if told > limit => OpenError {
            message: format!(
                "{}; not tried again: the told wait of {} s is longer than the query timeout of {} s",
                error.message,
                told.as_secs_f64(),
                limit.as_secs_f64()
            ),
            again: None,
            ..error
        },
        _ => error,
    }
}

fn took(opened: Opened, started: Instant) -> (Socket, Took) {
    let Opened { socket, at, slack } = opened;
    (socket, Took { time: at.saturating_duration_since(started), slack })
}

fn failure(kind: FailureKind, error: OpenError) -> Failure {
    Failure { kind, code: error.status, message: error.message }
}
