//! The task of one WebSocket: it reads requests, and plays the responses of all its lanes when their events are due.

use crate::{
    body::MAX_BODY_BYTES,
    metrics::Outcome,
    openai::{
        active::Active,
        compose::Wire,
        lanes::{Lanes, Name, Waiting},
        playback::{SPLIT_PAUSE, inside_a_character, observe_lateness, outcome},
        player::{Ending, Part, Player},
        problem::Problem,
        responses_request::{Message as Create, ResponsesRequest},
        state::OpenAi,
        store::Kept,
        turn::Turn,
    },
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::{future, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{
            CloseFrame, Role, WebSocketConfig,
            frame::{
                Frame,
                coding::{CloseCode, Data, OpCode},
            },
        },
    },
};

/// The number of events of a response that are sent before another response has its turn.
const EVENTS_PER_TURN: usize = 256;

/// Time for a client to answer a close frame.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The socket has ended.
struct Gone;

/// A response that is played.
struct Running {
    lane: Name,
    player: Player,
    start: Instant,
    active: Active,
    kept: Arc<Kept>,
}

struct Socket {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    openai: Arc<OpenAi>,
    lanes: Lanes,
    running: Vec<Running>,
}

/// Serves a socket until it ends.
pub(super) async fn run(io: TokioIo<Upgraded>, openai: Arc<OpenAi>) {
    // A write waits while the buffer is not empty, so it holds at most one message more than its size.
    let config = WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(16 << 10)
        .max_message_size(Some(MAX_BODY_BYTES))
        .max_frame_size(Some(MAX_BODY_BYTES));
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let socket = Socket { socket, openai, lanes: Lanes::default(), running: Vec::new() };
    // Every way out of it is an end of the socket.
    let Err(Gone) = socket.serve().await;
}

impl Socket {
    async fn serve(mut self) -> Result<std::convert::Infallible, Gone> {
        let limit = Instant::now() + self.openai.max_socket_age;
        let (draining, stop) = (self.openai.draining.clone(), self.openai.stop.clone());
        loop {
            self.start_waiting().await?;
            if draining.is_cancelled() && self.running.is_empty() {
                return Err(self.close(CloseCode::Away, "the server is shutting down").await);
            }
            let next = self.next_due();
            tokio::select! {
                () = until(next) => self.play_due().await?,
                message = self.socket.next() => match message {
                    Some(Ok(message)) => self.receive(message).await?,
                    Some(Err(error)) => {
                        tracing::debug!(%error, "a WebSocket ended early");
                        return Err(Gone);
                    }
                    None => return Err(Gone),
                },
                () = draining.cancelled(), if !draining.is_cancelled() => {}
                () = stop.cancelled() => return Err(self.interrupt().await),
                () = sleep_until(limit) => {
                    let problem = Problem::SocketTooOld(self.openai.max_socket_age.as_secs());
                    self.send(Message::text(problem.socket_event(None))).await?;
                    return Err(self.close(CloseCode::Normal, "the socket has reached its age limit").await);
                }
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.running.iter().filter_map(|running| Some(running.start + running.player.due()?)).min()
    }

    async fn receive(&mut self, message: Message) -> Result<(), Gone> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => {
                let problem = Problem::Malformed("a message must be text, not binary".to_owned());
                return self.send(Message::text(problem.socket_event(None))).await;
            }
            // The library answers pings and close frames by itself, when it is polled next.
            _ => return Ok(()),
        };
        let parsed =
            Create::parse(&text).and_then(|create| Ok((create.lane?, create.request, create.previous)));
        let (lane, request, previous) = match parsed {
            Ok(parsed) => parsed,
            Err(problem) => return self.send(Message::text(problem.socket_event(None))).await,
        };
        let waiting = Waiting { request, previous, bytes: text.len() };
        match self.lanes.push(lane.clone(), waiting) {
            Ok(()) => Ok(()),
            Err(problem) => self.send(Message::text(problem.socket_event(lane.as_deref()))).await,
        }
    }

    /// Starts the requests whose lanes are idle.
    async fn start_waiting(&mut self) -> Result<(), Gone> {
        while let Some((lane, Waiting { request, previous, .. })) = self.lanes.next() {
            let started = match request {
                Ok(request) => self.start(lane.clone(), &request).await?,
                Err(problem) => Err(problem),
            };
            if let Err(problem) = started {
                self.lanes.fail(&lane, previous.as_deref());
                self.send(Message::text(problem.socket_event(lane.as_deref()))).await?;
            }
        }
        Ok(())
    }

    async fn start(&mut self, lane: Name, request: &ResponsesRequest) -> Result<Result<(), Problem>, Gone> {
        let context = match &request.previous {
            None => 0,
            Some(id) => {
                let stored = || Some(self.openai.store.get(id, Instant::now())?.context());
                match self.lanes.context(id).or_else(stored) {
                    Some(context) => context,
                    None => return Ok(Err(Problem::UnknownPrevious(id.clone()))),
                }
            }
        };
        let active = match self.openai.admit() {
            Ok(active) => active,
            Err(problem) => return Ok(Err(problem)),
        };
        let turn = Turn::begin(&self.openai, request, context, lane.clone());
        let kept = match turn.kept().await {
            Ok(kept) => kept,
            Err(problem) => return Ok(Err(problem)),
        };
        if let Some(player) = turn.player(Wire::Socket) {
            let active = active.traced(self.openai.trace("responses-ws", &turn.head.id, turn.start));
            self.running.push(Running { lane, player, start: turn.start, active, kept });
            return Ok(Ok(()));
        }
        for frame in turn.warm_up() {
            self.feed(Message::text(frame.data)).await?;
        }
        self.flush().await?;
        self.succeed(&lane, kept);
        active.end(Outcome::Done);
        Ok(Ok(()))
    }

    fn succeed(&mut self, lane: &Name, kept: Arc<Kept>) {
        self.lanes.succeed(lane, (kept.head.id.clone(), kept.context()));
        if kept.head.store {
            self.openai.store.keep(kept, Instant::now());
        }
    }

    /// Sends what is due.
    async fn play_due(&mut self) -> Result<(), Gone> {
        let mut index = 0;
        while index < self.running.len() {
            match self.play(index).await? {
                None => index += 1,
                Some(ending) => self.end(index, ending).await?,
            }
        }
        self.flush().await
    }

    /// Sends what is due of one response. Returns how it ended, if it did.
    async fn play(&mut self, index: usize) -> Result<Option<Ending>, Gone> {
        for _ in 0..EVENTS_PER_TURN {
            let running = &mut self.running[index];
            let now = Instant::now();
            if running.player.due().is_none_or(|due| running.start + due > now) {
                return Ok(None);
            }
            let played = running.player.play(self.openai.us(now));
            self.openai.metrics.tokens.inc_by(played.tokens);
            running.active.note(&played, now - running.start);
            observe_lateness(&self.openai.metrics, &played, now - running.start);
            for part in played.parts {
                self.feed_part(part).await?;
            }
            if played.ending.is_some() {
                return Ok(played.ending);
            }
        }
        Ok(None)
    }

    /// Ends a response.
    async fn end(&mut self, index: usize, ending: Ending) -> Result<(), Gone> {
        let Running { lane, active, kept, .. } = self.running.remove(index);
        active.end(outcome(ending));
        match ending {
            Ending::Whole => {
                self.succeed(&lane, kept);
                Ok(())
            }
            Ending::Failed => {
                self.lanes.fail(&lane, kept.head.previous_response_id.as_deref());
                Ok(())
            }
            Ending::Cut => Err(self.close(CloseCode::Normal, "the request asked for this end").await),
            Ending::Abort => {
                self.flush().await?;
                Err(Gone)
            }
        }
    }

    /// Ends all responses, because the server ends.
    async fn interrupt(mut self) -> Gone {
        for mut running in std::mem::take(&mut self.running) {
            for part in running.player.interrupt(&Problem::Draining) {
                if self.feed_part(part).await.is_err() {
                    return Gone;
                }
            }
            running.active.end(Outcome::Shutdown);
        }
        self.close(CloseCode::Away, "the server is shutting down").await
    }

    async fn feed_part(&mut self, part: Part) -> Result<(), Gone> {
        let text = part.frame.data;
        let Some(at) = part.is_split.then(|| inside_a_character(&text)).flatten() else {
            return self.feed(Message::text(text)).await;
        };
        let mut first = Bytes::from(text);
        let second = first.split_off(at);
        let first = Frame::message(first, OpCode::Data(Data::Text), false);
        self.send(Message::Frame(first)).await?;
        sleep(SPLIT_PAUSE).await;
        self.send(Message::Frame(Frame::message(second, OpCode::Data(Data::Continue), true))).await
    }

    async fn feed(&mut self, message: Message) -> Result<(), Gone> {
        let limit = self.openai.write_timeout();
        within(limit, self.socket.feed(message)).await
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        let limit = self.openai.write_timeout();
        within(limit, self.socket.flush()).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Gone> {
        let limit = self.openai.write_timeout();
        within(limit, self.socket.send(message)).await
    }

    /// Closes the socket, and reads until the client has answered: a connection that is closed with unread bytes loses those on their way
    /// to the client.
    async fn close(&mut self, code: CloseCode, reason: &'static str) -> Gone {
        let frame = CloseFrame { code, reason: reason.into() };
        let closing = async {
            let _ = self.socket.close(Some(frame)).await;
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        let _ = timeout(LAST_WORDS, closing).await;
        Gone
    }
}

/// Waits for a write. A client that takes nothing for too long counts as gone.
async fn within<E>(limit: Duration, write: impl Future<Output = Result<(), E>>) -> Result<(), Gone> {
    match timeout(limit, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone),
    }
}

/// Waits until an instant, and for ever if there is none.
async fn until(wake: Option<Instant>) {
    match wake {
        Some(instant) => sleep_until(instant).await,
        None => future::pending().await,
    }
}
