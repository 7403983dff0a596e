//! Leads a run: a thread that polls all generators, reads their parts and appends commands.

use super::{
    clock::Clock,
    member::Member,
    server::{Keys, Link, Refused, Server, describe, is_full},
};
use crate::{
    leader::{CommandError, ConcludeError, Event, Leader, Leadership},
    run::{Command, MAX_COMMANDS, MAX_PAYLOAD, QUEUE, TooLarge},
    watch::Watch,
};
use parking_lot::{Condvar, Mutex};
use std::{
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Number of messages of each shard that are read at once.
const READ_AT_ONCE: usize = 16;

/// Largest number of requests that wait for the leader.
pub(super) const MAX_REQUESTS: usize = 16;
/// Length of the token at the beginning of a request, in bytes.
pub(super) const TOKEN_LENGTH: usize = 32;
/// Time to live of an answer, in milliseconds.
const ANSWER_TTL_MS: u64 = 60_000;

/// What the threads of a leader share.
pub(super) struct Leading {
    server: Arc<Server>,
    keys: Keys,
    generators: u32,
    /// The generator of this process, or `None` if the run is read from outside.
    member: Option<Arc<Member>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Number of the last command of earlier leaders, when it is known.
    earlier: Option<u64>,
    commands: Vec<Command>,
    /// Answers that are not stored yet, each with the token of its request.
    answers: Vec<(String, Vec<u8>)>,
    replaced: bool,
    closing: bool,
}

impl Leading {
    pub(super) fn of_generator(member: Arc<Member>) -> Self {
        let (server, keys, generators) = (member.server.clone(), member.keys.clone(), member.run.generators);
        Self {
            server,
            keys,
            generators,
            member: Some(member),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn from_outside(server: Arc<Server>, keys: Keys, generators: u32) -> Self {
        Self { server, keys, generators, member: None, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Returns the leader's name in scripts.
    fn name(&self) -> String {
        self.member.as_ref().map_or_else(String::new, |member| member.shard.to_string())
    }

    fn is_closing(&self) -> bool {
        self.state.lock().closing
    }

    fn replaced(&self) {
        self.state.lock().replaced = true;
    }
}

/// Leads a run over the control Redis, or reads it from outside.
pub(super) struct RedisLeader {
    leading: Arc<Leading>,
    polling: Option<JoinHandle<()>>,
}

impl RedisLeader {
    pub(super) fn start(leading: Leading) -> Leadership {
        let leading = Arc::new(leading);
        let (events, received) = sync_channel(QUEUE);
        let poller = Poller::new(leading.clone(), events);
        let polling = Some(thread::spawn(move || poller.run()));
        Leadership { leader: Arc::new(Self { leading, polling }), events: received }
    }
}

impl Leader for RedisLeader {
    fn command(&self, command: Command) -> Result<(), CommandError> {
        let payload = match &command {
            Command::Abort(reason) => reason.as_bytes(),
            Command::Custom(bytes) => bytes,
        };
        TooLarge::check("a command", payload, MAX_PAYLOAD)?;
        let mut state = self.leading.state.lock();
        if self.leading.member.is_none() || state.replaced {
            return Err(CommandError::NotLeading);
        }
        if state.earlier.unwrap_or_default() + state.commands.len() as u64 >= MAX_COMMANDS as u64 {
            return Err(CommandError::TooMany { limit: MAX_COMMANDS });
        }
        state.commands.push(command);
        self.leading.changed.notify_all();
        Ok(())
    }

    fn confirm(&self, within: Duration) -> bool {
        let leading = &self.leading;
        let deadline = Instant::now() + within;
        let mut link = Link::default();
        loop {
            let leader: redis::RedisResult<Option<String>> = link.call(&leading.server, |connection| {
                redis::cmd("HGET").arg(leading.keys.run()).arg("leader").query(connection)
            });
            match leader {
                Ok(Some(leader)) => return leader == leading.name(),
                // Away, or not restored yet.
                Ok(None) | Err(_) if Instant::now() < deadline => {
                    thread::sleep(leading.server.timing.barrier_poll);
                }
                Ok(None) | Err(_) => return false,
            }
        }
    }

    fn answer(&self, token: &str, answer: Vec<u8>) {
        self.leading.state.lock().answers.push((token.to_owned(), answer));
        self.leading.changed.notify_all();
    }

    fn conclude(&self, verdict: Vec<u8>, within: Duration) -> Result<(), ConcludeError> {
        TooLarge::check("a verdict", &verdict, MAX_PAYLOAD)?;
        let leading = &self.leading;
        let deadline = Instant::now() + within;
        let mut link = Link::default();
        let mut call = leading.server.scripts.conclude.key(leading.keys.all());
        call.arg(leading.name()).arg(verdict).arg(leading.server.ttl_ms());
        loop {
            let outcome = link.script(&leading.server, &call).and_then(|reply| reply.refused());
            let reason = match outcome {
                Ok(None) => return Ok(()),
                Ok(Some(Refused::Replaced(_))) => return Err(ConcludeError::NotLeading),
                Ok(Some(_)) => "it has lost its data".to_owned(),
                Err(error) => describe(&error),
            };
            if Instant::now() >= deadline {
                return Err(ConcludeError::Unreachable {
                    target: leading.server.target().to_owned(),
                    reason,
                });
            }
            thread::sleep(leading.server.timing.barrier_poll);
        }
    }
}

impl Drop for RedisLeader {
    fn drop(&mut self) {
        self.leading.state.lock().closing = true;
        self.leading.changed.notify_all();
        if let Some(polling) = self.polling.take() {
            let _ = polling.join();
        }
    }
}

/// What the leader knows of a shard.
#[derive(Default)]
struct Shard {
    is_announced: bool,
    /// Number of the last message that was read.
    last: u64,
    status: Vec<u8>,
    /// Why it is lost.
    lost: Option<String>,
    /// Its last event was sent.
    ended: bool,
}

/// What [`Poller::look`] reads of a shard: host, heartbeat, status, whether it has finished, and why it is lost.
type Seen = (Option<String>, Option<String>, Option<Vec<u8>>, Option<String>, Option<String>);

/// Why the polling ends or fails.
enum Stop {
    /// Another shard leads.
    Replaced(u32),
    /// The program does not want more events.
    Closing,
    /// Redis takes no more writes, because it is full.
    Full,
    /// Try again later.
    Failed(String),
}

impl From<redis::RedisError> for Stop {
    fn from(error: redis::RedisError) -> Self {
        if is_full(&error) { Self::Full } else { Self::Failed(error.to_string()) }
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Replaced(by) => Self::Replaced(by.unwrap_or_default()),
            Refused::Unknown | Refused::Lost(_) => Self::Failed("it has lost its data".to_owned()),
        }
    }
}

/// The thread of a leader.
struct Poller {
    leading: Arc<Leading>,
    link: Link,
    /// `None` when all shards have ended.
    events: Option<SyncSender<Event>>,
    shards: Vec<Shard>,
    watch: Watch<String>,
    started: bool,
    /// Number of this leader's commands that Redis has.
    appended: usize,
    failing: bool,
    /// When all generators could last be looked at.
    answered: Instant,
    /// Since when Redis has refused writes because it is full. It ends with the next heartbeat that was written.
    full: Option<Instant>,
}

impl Poller {
    fn new(leading: Arc<Leading>, events: SyncSender<Event>) -> Self {
        let watch = Watch::new(leading.generators, &leading.server.timing);
        let shards = (0..leading.generators).map(|_| Shard::default()).collect();
        Self {
            leading,
            link: Link::default(),
            events: Some(events),
            shards,
            watch,
            started: false,
            appended: 0,
            failing: false,
            answered: Instant::now(),
            full: None,
        }
    }

    fn run(mut self) {
        let timing = self.leading.server.timing.clone();
        let mut next_look = Instant::now();
        loop {
            let now = Instant::now();
            match self.step(now >= next_look) {
                Ok(()) => {
                    self.failing = false;
                    if now >= next_look {
                        next_look = now + timing.heartbeat;
                    }
                }
                Err(Stop::Failed(reason)) => {
                    self.watch.failed();
                    next_look = now + timing.barrier_poll;
                    if !std::mem::replace(&mut self.failing, true) {
                        let target = self.leading.server.target();
                        tracing::warn!(
                            "the leader cannot poll the control Redis {target} ({reason}), trying again"
                        );
                    }
                    if self.answered.elapsed() >= timing.give_up
                        && (self.started || self.leading.member.is_none())
                    {
                        self.give_up(&format!(
                            "did not answer for {} s: {reason}",
                            timing.give_up.as_secs_f64()
                        ));
                    }
                }
                Err(Stop::Full) => {
                    next_look = now + timing.heartbeat;
                    if self.full.is_none() {
                        self.full = Some(now);
                        let target = self.leading.server.target();
                        tracing::warn!("the control Redis {target} is full: raise its maxmemory");
                    }
                }
                Err(Stop::Replaced(by)) => {
                    self.leading.replaced();
                    let _ = self.emit(Event::Replaced { by });
                    return;
                }
                Err(Stop::Closing) => return self.close(),
            }
            if self.full.is_some_and(|since| since.elapsed() >= timing.give_up) {
                self.give_up(&format!("was full for {} s", timing.give_up.as_secs_f64()));
            }
            let mut state = self.leading.state.lock();
            if !state.closing {
                let wake = next_look.min(now + timing.heartbeat / 2);
                self.leading.changed.wait_until(&mut state, wake);
            }
            if state.closing {
                drop(state);
                return self.close();
            }
        }
    }

    /// Appends the commands that wait: one that ends the run must reach the generators.
    fn close(&mut self) {
        if self.appended == self.leading.state.lock().commands.len() {
            return;
        }
        if self.leading.state.lock().earlier.is_none() {
            // Their numbers are not known yet.
            let _ = self.look();
        }
        let _ = self.append_commands();
    }

    /// Ends the run, because the control Redis is of no use. The generators learn it if it ever is again.
    fn give_up(&mut self, why: &str) {
        let reason = format!("the control Redis {why}");
        for shard in 0..self.leading.generators {
            let known = &mut self.shards[shard as usize];
            if !std::mem::replace(&mut known.ended, true) {
                known.lost = Some(reason.clone());
                let _ = self.emit(Event::Lost { shard, reason: reason.clone() });
            }
        }
        self.end();
    }

    fn step(&mut self, looks: bool) -> Result<(), Stop> {
        let looked = if looks { self.look() } else { Ok(()) };
        let written = looked.and_then(|()| self.append_commands()).and_then(|()| self.store_answers());
        if matches!(written, Err(Stop::Replaced(_) | Stop::Closing)) {
            return written;
        }
        // Parts can be read although Redis takes no more writes, because it is full.
        self.receive(looks).and(written)
    }

    /// Reads parts and requests.
    fn receive(&mut self, looks: bool) -> Result<(), Stop> {
        if self.started && self.events.is_some() {
            self.read()?;
            self.end();
            if looks && self.leading.member.is_some() && self.events.is_some() {
                self.read_requests()?;
            }
        }
        Ok(())
    }

    /// Takes the requests to the leader out of their list.
    fn read_requests(&mut self) -> Result<(), Stop> {
        let leading = self.leading.clone();
        let mut call = redis::cmd("LPOP");
        call.arg(leading.keys.requests()).arg(MAX_REQUESTS);
        let requests: Option<Vec<Vec<u8>>> =
            self.link.call(&leading.server, |connection| call.query(connection))?;
        for request in requests.into_iter().flatten() {
            if let Some((token, bytes)) = request.split_at_checked(TOKEN_LENGTH) {
                let token = String::from_utf8_lossy(token).into_owned();
                self.emit(Event::Request { token, bytes: bytes.to_vec() })?;
            }
        }
        Ok(())
    }

    /// Stores the answers to requests for a minute.
    fn store_answers(&mut self) -> Result<(), Stop> {
        let leading = self.leading.clone();
        loop {
            let Some((token, answer)) = leading.state.lock().answers.first().cloned() else { return Ok(()) };
            let mut call = redis::cmd("SET");
            call.arg(leading.keys.answer(&token)).arg(answer).arg("PX").arg(ANSWER_TTL_MS);
            self.link.call(&leading.server, |connection| call.query::<()>(connection))?;
            leading.state.lock().answers.remove(0);
        }
    }

    /// Reads the state of all generators, and reports what has changed.
    fn look(&mut self) -> Result<(), Stop> {
        let leading = self.leading.clone();
        let mut call = leading.server.scripts.look.key(leading.keys.all());
        call.arg(leading.name()).arg(leading.server.ttl_ms());
        let reply = self.link.script(&leading.server, &call)?;
        if let Some(refused) = reply.refused()? {
            return Err(Stop::from(refused));
        }
        self.answered = Instant::now();
        self.commands_reached(reply.value(1)?, reply.value(3)?);
        let (start_us, seen): (Option<u64>, Vec<Seen>) = (reply.value(2)?, reply.value(4)?);
        for (shard, seen) in (0..).zip(&seen) {
            self.announce(shard, seen.0.as_deref())?;
        }
        if let Some(start_us) = start_us.filter(|_| !self.started) {
            let at = self.start(start_us)?;
            self.emit(Event::Started { at })?;
            self.started = true;
        }
        let now = Instant::now();
        if self.watch.saw(seen.iter().map(|(_, heartbeat, ..)| heartbeat.clone()), now)
            && self.full.take().is_some()
        {
            // The other generators need a moment to write theirs.
            self.watch.failed();
        }
        let leads = self.leading.member.is_some();
        // The leader of a run decides who is lost. Without any sign of life, the run has none: a generator that has finished lives as
        // long as it may have to lead.
        let all_silent = (0..leading.generators).all(|shard| self.watch.is_lost(shard, now));
        for (shard, (_, heartbeat, status, finished, lost)) in (0..).zip(seen) {
            self.note_status(shard, status.unwrap_or_default())?;
            let known = &self.shards[shard as usize];
            if self.started && (!known.ended || known.lost.is_some()) {
                // A full Redis takes no heartbeats.
                let silent = finished.is_none()
                    && self.full.is_none()
                    && self.watch.is_lost(shard, now)
                    && (leads || all_silent);
                self.consider_loss(shard, heartbeat.as_deref(), silent, lost)?;
            }
        }
        Ok(())
    }

    fn announce(&mut self, shard: u32, host: Option<&str>) -> Result<(), Stop> {
        if let Some(host) = host.filter(|_| !self.shards[shard as usize].is_announced) {
            self.emit(Event::Claimed { shard, host: host.to_owned() })?;
            self.shards[shard as usize].is_announced = true;
        }
        Ok(())
    }

    /// Returns the start by this process's clock.
    fn start(&mut self, start_us: u64) -> Result<Instant, Stop> {
        let known = self.leading.member.as_ref().and_then(|member| member.state.lock().start);
        if let Some(start) = known {
            return Ok(start.at);
        }
        let clock = Clock::measure(&self.leading.server, &mut self.link)?;
        Ok(clock.start(start_us).map_or_else(Instant::now, |start| start.at))
    }

    fn note_status(&mut self, shard: u32, status: Vec<u8>) -> Result<(), Stop> {
        let known = &mut self.shards[shard as usize];
        if known.ended || status.is_empty() || known.status == status {
            return Ok(());
        }
        known.status.clone_from(&status);
        self.emit(Event::Status { shard, bytes: status })
    }

    /// Marks a silent generator as lost. Reports a generator that is marked, after its last parts.
    fn consider_loss(
        &mut self,
        shard: u32,
        heartbeat: Option<&str>,
        silent: bool,
        marked: Option<String>,
    ) -> Result<(), Stop> {
        let known = self.shards[shard as usize].lost.clone();
        let timing = &self.leading.server.timing;
        let reason = match (marked, known) {
            (Some(reason), _) => reason,
            // Redis has lost the mark.
            (None, Some(reason)) if self.leading.member.is_some() => match self.lose(shard, "*", &reason)? {
                Some(reason) => reason,
                None => return Ok(()),
            },
            (None, Some(reason)) => reason,
            (None, None) if silent => {
                let reason = format!(
                    "no heartbeat for {} s",
                    (timing.heartbeat * timing.unchanged_polls).as_secs_f64()
                );
                if self.leading.member.is_none() {
                    reason
                } else {
                    match self.lose(shard, heartbeat.unwrap_or_default(), &reason)? {
                        Some(reason) => reason,
                        None => return Ok(()),
                    }
                }
            }
            (None, None) => return Ok(()),
        };
        if self.shards[shard as usize].ended {
            return Ok(());
        }
        self.shards[shard as usize].lost = Some(reason.clone());
        // A lost generator can append nothing more, so these are its last parts.
        self.read()?;
        if !std::mem::replace(&mut self.shards[shard as usize].ended, true) {
            self.emit(Event::Lost { shard, reason })?;
        }
        Ok(())
    }

    /// Marks a generator as lost. Returns the reason, or `None` if it lives or has finished.
    fn lose(&mut self, shard: u32, heartbeat: &str, reason: &str) -> Result<Option<String>, Stop> {
        let leading = self.leading.clone();
        let mut call = leading.server.scripts.lose.key(leading.keys.run());
        call.arg(leading.name()).arg(shard).arg(heartbeat).arg(reason);
        let reply = self.link.script(&leading.server, &call)?;
        match reply.refused()? {
            Some(Refused::Lost(reason)) => Ok(Some(reason)),
            Some(refused) => Err(Stop::from(refused)),
            None => Ok(None),
        }
    }

    /// Reads all new messages of all shards.
    fn read(&mut self) -> Result<(), Stop> {
        let leading = self.leading.clone();
        loop {
            let open: Vec<u32> =
                (0..leading.generators).filter(|&shard| !self.shards[shard as usize].ended).collect();
            if open.is_empty() {
                return Ok(());
            }
            let mut call = redis::cmd("XREAD");
            call.arg("COUNT").arg(READ_AT_ONCE).arg("STREAMS");
            for &shard in &open {
                call.arg(leading.keys.parts(shard));
            }
            for &shard in &open {
                call.arg(format!("{}-0", self.shards[shard as usize].last));
            }
            let streams: Option<Vec<Stream>> =
                self.link.call(&leading.server, |connection| call.query(connection))?;
            let Some(streams) = streams else { return Ok(()) };
            for (key, entries) in streams {
                let Some(shard) = open.iter().copied().find(|&shard| leading.keys.parts(shard) == key) else {
                    continue;
                };
                for (id, (kind, bytes)) in entries {
                    let number =
                        id.split('-').next().and_then(|number| number.parse().ok()).unwrap_or_default();
                    self.handle(shard, number, &kind, bytes)?;
                }
            }
        }
    }

    fn handle(&mut self, shard: u32, number: u64, kind: &str, bytes: Vec<u8>) -> Result<(), Stop> {
        let missing = number.saturating_sub(self.shards[shard as usize].last + 1);
        if missing > 0 {
            self.emit(Event::Dropped { shard, parts: missing })?;
        }
        self.shards[shard as usize].last = number;
        if kind == "report" {
            self.emit(Event::Finished { shard, bytes })?;
            self.shards[shard as usize].ended = true;
            Ok(())
        } else {
            self.emit(Event::Part { shard, number, bytes })
        }
    }

    /// Ends the events after the last shard.
    fn end(&mut self) {
        if self.shards.iter().all(|shard| shard.ended) {
            self.events = None;
        }
    }

    /// Notes the number of the last command in Redis, and the highest one that a generator has. Commands that Redis has lost are
    /// appended again.
    fn commands_reached(&mut self, last: u64, known: u64) {
        let own = self.leading.member.as_ref().map_or(0, |member| member.state.lock().last_command);
        let earlier = *self.leading.state.lock().earlier.get_or_insert(last.max(known).max(own));
        let present = usize::try_from(last.saturating_sub(earlier)).unwrap_or(usize::MAX);
        self.appended = self.appended.min(present);
    }

    /// Appends new commands, with the numbers behind those of earlier leaders.
    fn append_commands(&mut self) -> Result<(), Stop> {
        let leading = self.leading.clone();
        loop {
            let (number, command) = {
                let state = leading.state.lock();
                let (Some(earlier), Some(command)) = (state.earlier, state.commands.get(self.appended))
                else {
                    return Ok(());
                };
                (earlier + self.appended as u64 + 1, command.clone())
            };
            let (kind, bytes) = match &command {
                Command::Abort(reason) => ("abort", reason.as_bytes()),
                Command::Custom(bytes) => ("custom", &bytes[..]),
            };
            let mut call = leading.server.scripts.command.key(leading.keys.run());
            call.key(leading.keys.commands()).arg(leading.name()).arg(leading.server.ttl_ms());
            call.arg(number).arg(kind).arg(bytes);
            let reply = self.link.script(&leading.server, &call)?;
            if let Some(refused) = reply.refused()? {
                return Err(Stop::from(refused));
            }
            self.appended += 1;
        }
    }

    /// Hands an event to the program. Waits while too many events wait.
    fn emit(&mut self, mut event: Event) -> Result<(), Stop> {
        loop {
            let Some(events) = &self.events else { return Ok(()) };
            match events.try_send(event) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(back)) => event = back,
                Err(TrySendError::Disconnected(_)) => {
                    // The program only commands.
                    self.events = None;
                    return Ok(());
                }
            }
            if self.leading.is_closing() {
                return Err(Stop::Closing);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A stream of [`redis::cmd`] `XREAD`: its key, and its entries with one field each.
type Stream = (String, Vec<(String, (String, Vec<u8>))>);
