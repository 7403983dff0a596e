//! A session's connection over time: one socket after another, and the waiting between them.
//! It decides nothing: it says that a socket was lost and why, and reconnects when told to.

use crate::{
    backoff::Backoff,
    record::{Failure, FailureKind},
    secret::Secret,
    socket::{Arrival, Connector, OpenError, Socket},
};
use futures_util::{FutureExt, SinkExt, StreamExt};
use protocol::{Position, SessionId};
use std::{
    cell::Cell,
    future::{Future, pending},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::Sleep;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

/// What a link has to say.
#[derive(Debug)]
pub enum LinkEvent {
    /// A text frame.
    Frame(Utf8Bytes, Arrival),
    /// The socket is gone.
    Lost(Loss),
    /// A new socket is open.
    Back,
    /// No socket could be opened in all attempts.
    Failed(Failure),
}

/// How a socket ended.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The close frame's code; `None` when there was no close frame.
    pub code: Option<u16>,
    /// The close frame's text, or the error's.
    pub text: String,
    /// When it was lost: a silent socket when it was last heard of.
    pub at: Instant,
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
}

type Opening = Pin<Box<dyn Future<Output = Result<Socket, Failure>>>>;

enum State {
    Up(Box<Socket>),
    Down,
    Opening(Opening),
}

/// A session's connection.
pub struct Link {
    opener: Opener,
    state: State,
    ping_timeout: Duration,
    silence: Pin<Box<Sleep>>,
    last_read: u64,
    attempts: Rc<Cell<u64>>,
}

impl Link {
    /// Opens the session's first socket. Answers how long the attempt took that succeeded.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub async fn open(
        opener: Opener,
        mut backoff: Backoff,
        ping_timeout: Duration,
    ) -> Result<(Self, Duration), Failure> {
        loop {
            let started = Instant::now();
            match opener.connector.open(opener.session, &opener.token, None, 0).await {
                Ok(socket) => {
                    let silence = Box::pin(tokio::time::sleep(ping_timeout));
                    let state = State::Up(Box::new(socket));
                    let link =
                        Self { opener, state, ping_timeout, silence, last_read: 0, attempts: Rc::default() };
                    return Ok((link, started.elapsed()));
                }
                Err(error) => match error.again.and_then(|told| backoff.next(Some(told))) {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => return Err(failure(FailureKind::Connect, error)),
                },
            }
        }
    }

    /// A socket is open.
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// How often a socket was tried to be opened again.
    pub fn attempts(&self) -> u64 {
        self.attempts.get()
    }

    /// Begins to reconnect: first after `wait`, or after a backoff when there is none, resuming after `position`.
    pub fn reconnect(&mut self, position: Position, wait: Option<Duration>, backoff: Backoff) {
        let (opener, last_read, attempts) = (self.opener.clone(), self.last_read, Rc::clone(&self.attempts));
        self.state = State::Opening(Box::pin(reopen(opener, position, wait, backoff, last_read, attempts)));
    }

    /// What happens next. May be dropped and called again at any time.
    pub async fn next(&mut self) -> LinkEvent {
        loop {
            match &mut self.state {
                State::Up(socket) => {
                    let message = tokio::select! {
                        biased;
                        message = socket.next() => message,
                        () = self.silence.as_mut() => {
                            let heard = socket.get_ref().last().at;
                            let deadline = heard + self.ping_timeout;
                            if Instant::now() < deadline {
                                self.silence.as_mut().reset(deadline.into());
                                continue;
                            }
                            let text = format!("nothing was heard for {} s", self.ping_timeout.as_secs_f64());
                            self.last_read = socket.get_ref().last().read;
                            self.state = State::Down;
                            return LinkEvent::Lost(Loss { code: None, text, at: heard });
                        }
                    };
                    let arrival = socket.get_ref().last();
                    match message {
                        Some(Ok(Message::Text(text))) => return LinkEvent::Frame(text, arrival),
                        Some(Ok(Message::Close(frame))) => {
                            // The answer to the close frame, if the socket takes it at once.
                            let _ = socket.flush().now_or_never();
                            let (code, text) = frame.map_or((None, String::new()), |frame| {
                                (Some(u16::from(frame.code)), frame.reason.as_str().to_owned())
                            });
                            return self.lost(code, text, arrival.read);
                        }
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return self.lost(None, describe(&error), arrival.read),
                        None => return self.lost(None, "the connection ended".into(), arrival.read),
                    }
                }
                State::Opening(opening) => {
                    let opened = opening.as_mut().await;
                    match opened {
                        Ok(socket) => {
                            self.state = State::Up(Box::new(socket));
                            self.silence.as_mut().reset((Instant::now() + self.ping_timeout).into());
                            return LinkEvent::Back;
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

    fn lost(&mut self, code: Option<u16>, text: String, last_read: u64) -> LinkEvent {
        self.last_read = last_read;
        self.state = State::Down;
        LinkEvent::Lost(Loss { code, text, at: Instant::now() })
    }

    /// Ends the socket with a close frame, where there is one.
    pub async fn hang_up(&mut self) {
        if let State::Up(socket) = &mut self.state {
            let _ = tokio::time::timeout(Duration::from_secs(1), (**socket).close(None)).await;
        }
        self.state = State::Down;
    }
}

async fn reopen(
    opener: Opener,
    position: Position,
    wait: Option<Duration>,
    mut backoff: Backoff,
    last_read: u64,
    attempts: Rc<Cell<u64>>,
) -> Result<Socket, Failure> {
    let mut last = None;
    let mut wait = wait;
    let mut told = None;
    loop {
        let drawn = backoff.next(told);
        let Some(delay) = wait.take().or(drawn).filter(|_| drawn.is_some()) else {
            return Err(last.unwrap_or_else(|| Failure {
                kind: FailureKind::Reconnect,
                code: None,
                message: "the socket was lost, and no attempt to reconnect is allowed".into(),
            }));
        };
        tokio::time::sleep(delay).await;
        attempts.set(attempts.get() + 1);
        match opener.connector.open(opener.session, &opener.token, Some(position), last_read).await {
            Ok(socket) => return Ok(socket),
            Err(error) => {
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

fn failure(kind: FailureKind, error: OpenError) -> Failure {
    Failure { kind, code: error.status, message: error.message }
}

fn describe(error: &Error) -> String {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => "the connection ended".into(),
        error => format!("the connection broke: {error}"),
    }
}
