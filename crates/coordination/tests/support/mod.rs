#![allow(dead_code, reason = "each test program uses another part of it")]
//! What the tests share: places where generators meet, teams of generators, and generators in processes.

pub mod private_redis;
pub mod process;
pub mod relay;

use coordination::{
    ClaimError, Claimed, Command, Coordinator, Event, Leadership, Run, Start, Timing,
    redis::Control,
    unix::{Child, Parent},
};
use private_redis::PrivateRedis;
use process::Process;
use std::{
    io::Write as _,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// Time limit of every wait. Nothing takes this long unless it never happens.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Short durations in the proportions of the defaults, except for the response of a busy machine.
pub fn timing() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(150),
        calm: Duration::from_millis(900),
        claim_expiry: Duration::from_millis(1500),
        barrier_poll: Duration::from_millis(20),
        start_delay: Duration::from_millis(600),
        local_start_delay: Duration::from_millis(300),
        response: Duration::from_millis(600),
        ..Timing::default()
    }
}

pub fn run(generators: u32) -> Run {
    Run { id: "test".to_owned(), generators, fingerprint: "plan-a".to_owned() }
}

/// A place where generators meet: one for each implementation.
pub trait Place {
    /// Opens a place for this run.
    fn open(run: &Run) -> Self
    where
        Self: Sized;

    fn coordinator(&self) -> Box<dyn Coordinator>;

    /// Returns the variables by which a process finds this place.
    fn variables(&self) -> Vec<(&'static str, String)>;

    /// Returns the leadership of the run. Waits until there is a leader among these generators.
    fn leadership(&mut self, claimed: &mut [Claimed]) -> Leadership;

    /// How long the claim of a dead generator may last.
    fn claim_expiry(&self) -> Duration;
}

/// The socket of a parent.
pub struct UnixPlace {
    path: PathBuf,
    leadership: Option<Leadership>,
    _directory: tempfile::TempDir,
}

impl UnixPlace {
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Opens a place whose parent uses other durations.
    pub fn with(run: &Run, timing: Timing) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("parent.sock");
        let leadership = Some(Parent::listen(&path, run, timing).expect("the parent listens"));
        Self { path, leadership, _directory: directory }
    }
}

impl Place for UnixPlace {
    fn open(run: &Run) -> Self {
        Self::with(run, timing())
    }

    fn coordinator(&self) -> Box<dyn Coordinator> {
        Box::new(Child::new(&self.path, timing()))
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![("TEST_SOCKET", self.path.display().to_string())]
    }

    fn leadership(&mut self, claimed: &mut [Claimed]) -> Leadership {
        for generator in claimed {
            generator.leadership.recv_timeout(PATIENCE).expect_err("children never lead");
        }
        self.leadership.take().expect("it is taken once")
    }

    fn claim_expiry(&self) -> Duration {
        Duration::ZERO
    }
}

/// A private control Redis.
pub struct RedisPlace {
    pub redis: PrivateRedis,
    pub control: Control,
}

impl RedisPlace {
    /// Opens a place with other durations.
    pub fn with(timing: Timing) -> Self {
        let redis = PrivateRedis::start();
        let control = Control::new(&redis.url(), timing).expect("a valid address");
        Self { redis, control }
    }
}

impl Place for RedisPlace {
    fn open(_: &Run) -> Self {
        Self::with(timing())
    }

    fn coordinator(&self) -> Box<dyn Coordinator> {
        Box::new(self.control.clone())
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![("TEST_CONTROL", self.redis.url())]
    }

    fn leadership(&mut self, claimed: &mut [Claimed]) -> Leadership {
        let leadership = claimed[0].leadership.recv_timeout(PATIENCE).expect("the lowest shard leads");
        for other in &claimed[1..] {
            other.leadership.try_recv().expect_err("one leads");
        }
        leadership
    }

    fn claim_expiry(&self) -> Duration {
        timing().claim_expiry
    }
}

/// Claims without a wish for `host`.
pub fn claim(place: &impl Place, run: &Run, host: &str) -> Result<Claimed, ClaimError> {
    place.coordinator().claim(run, host, None)
}

/// Claims all shards of a run in order.
pub fn claim_all(place: &impl Place, run: &Run) -> Vec<Claimed> {
    (0..run.generators)
        .map(|shard| {
            let claimed =
                place.coordinator().claim(run, &format!("host-{shard}"), Some(shard)).expect("a free shard");
            assert_eq!((claimed.shard, claimed.generator.shard()), (shard, shard));
            claimed
        })
        .collect()
}

/// Passes the barrier with all of these generators.
pub fn start_all(claimed: &[Claimed]) -> Vec<Start> {
    thread::scope(|scope| {
        let waiting: Vec<_> =
            claimed.iter().map(|one| scope.spawn(|| one.generator.ready(PATIENCE, &mut |_| true))).collect();
        waiting.into_iter().map(|one| one.join().expect("no panic").expect("all came")).collect()
    })
}

/// A run that has started, led by this process.
pub struct Team<P> {
    pub claimed: Vec<Claimed>,
    pub leadership: Leadership,
    pub place: P,
}

impl<P: Place> Team<P> {
    /// Starts a run of generators in this process.
    pub fn start(generators: u32) -> Self {
        let run = run(generators);
        let mut place = P::open(&run);
        let mut claimed = claim_all(&place, &run);
        start_all(&claimed);
        let leadership = place.leadership(&mut claimed);
        Self { claimed, leadership, place }
    }

    /// Waits for an event that `wanted` accepts. Returns it and those before it.
    pub fn until(&self, wanted: impl FnMut(&Event) -> bool) -> Vec<Event> {
        until(&self.leadership.events, wanted)
    }

    /// Returns all events to the end of the channel.
    pub fn rest(&self) -> Vec<Event> {
        rest(&self.leadership.events)
    }
}

/// Waits for an event that `wanted` accepts. Returns it and those before it.
pub fn until(events: &Receiver<Event>, mut wanted: impl FnMut(&Event) -> bool) -> Vec<Event> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => {
                let found = wanted(&event);
                seen.push(event);
                if found {
                    return seen;
                }
            }
            Err(error) => panic!("waited for an event ({error}) after {}", describe(&seen)),
        }
    }
}

/// Returns all events to the end of the channel.
pub fn rest(events: &Receiver<Event>) -> Vec<Event> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => seen.push(event),
            Err(RecvTimeoutError::Disconnected) => return seen,
            Err(RecvTimeoutError::Timeout) => panic!("the events do not end after {}", describe(&seen)),
        }
    }
}

/// Waits until this holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Returns all events of this duration.
pub fn during(events: &Receiver<Event>, time: Duration) -> Vec<Event> {
    let deadline = Instant::now() + time;
    let mut seen = Vec::new();
    while let Ok(event) = events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        seen.push(event);
    }
    seen
}

fn describe(events: &[Event]) -> String {
    let last = events.len().saturating_sub(20);
    format!("{} events, at last {:?}", events.len(), &events[last..])
}

/// Returns the contents of a shard's parts.
pub fn parts(events: &[Event], of: u32) -> Vec<u64> {
    let part = |event: &Event| match event {
        Event::Part { shard, bytes, .. } if *shard == of => {
            Some(u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")))
        }
        _ => None,
    };
    events.iter().filter_map(part).collect()
}

/// Returns the number of a shard's dropped parts.
pub fn dropped(events: &[Event], of: u32) -> u64 {
    let parts = |event: &Event| match event {
        Event::Dropped { shard, parts } if *shard == of => *parts,
        _ => 0,
    };
    events.iter().map(parts).sum()
}

/// Returns the losses, each with its reason.
pub fn losses(events: &[Event]) -> Vec<(u32, &str)> {
    let mut losses = Vec::new();
    for event in events {
        if let Event::Lost { shard, reason } = event {
            losses.push((*shard, reason.as_str()));
        }
    }
    losses
}

pub fn is_finished(event: &Event) -> bool {
    matches!(event, Event::Finished { .. })
}

pub fn is_lost(event: &Event) -> bool {
    matches!(event, Event::Lost { .. })
}

pub fn number(part: u64) -> Vec<u8> {
    part.to_le_bytes().to_vec()
}

/// Waits for the next command.
pub fn next(commands: &Receiver<Command>) -> Command {
    commands.recv_timeout(PATIENCE).expect("a command")
}

/// Returns the coordinator that the variables of a process name.
pub fn coordinator_of_process() -> Box<dyn Coordinator> {
    match (std::env::var("TEST_SOCKET"), std::env::var("TEST_CONTROL")) {
        (Ok(socket), _) => Box::new(Child::new(socket.as_ref(), timing())),
        (_, Ok(url)) => Box::new(Control::new(&url, timing()).expect("a valid address")),
        _ => panic!("the test that started this sets one of them"),
    }
}

/// Starts a process that claims this shard.
pub fn start_process(place: &impl Place, generators: u32, shard: u32) -> Process {
    let mut variables = place.variables();
    variables.push(("TEST_GENERATORS", generators.to_string()));
    variables.push(("TEST_SHARD", shard.to_string()));
    // Every test program has this test.
    let mut process = Process::start("generator_process", &variables);
    assert_eq!(process.expect("claimed"), shard.to_string());
    process
}

/// Starts a run whose last generator is a process.
pub fn start_with_process<P: Place>(generators: u32) -> (Team<P>, Process) {
    let run = run(generators);
    let mut place = P::open(&run);
    let mut claimed: Vec<_> =
        (0..generators - 1).map(|_| claim(&place, &run, "here").expect("a free shard")).collect();
    let mut process = start_process(&place, generators, generators - 1);
    start_all(&claimed);
    process.expect("started");
    let leadership = place.leadership(&mut claimed);
    (Team { claimed, leadership, place }, process)
}

/// Prints a line for the test that started this process.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").and_then(|()| out.flush()).expect("the test reads this");
}

/// Is the process of a generator: sends a part every 20 ms, and prints what happens, until the command to finish or abort. If it leads, it
/// sends two commands.
pub fn be_a_generator() {
    let variable = |name: &str| std::env::var(name).expect("the test that started this sets it");
    let number_of = |name: &str| variable(name).parse().expect("a number");
    let (run, shard) = (run(number_of("TEST_GENERATORS")), number_of("TEST_SHARD"));
    let claimed = coordinator_of_process()
        .claim(&run, "process", Some(shard))
        .unwrap_or_else(|error| panic!("{error}"));
    say(&format!("claimed {}", claimed.shard));
    claimed.generator.ready(PATIENCE, &mut |_| true).unwrap_or_else(|error| panic!("{error}"));
    say("started");
    let leadership = claimed.leadership;
    let leading = thread::spawn(move || leadership.recv().map(lead).unwrap_or_default());
    let mut part = 0;
    loop {
        match claimed.commands.recv_timeout(Duration::from_millis(20)) {
            Ok(Command::Custom(bytes)) if bytes == b"finish" => break,
            Ok(Command::Custom(bytes)) => say(&format!("command {}", String::from_utf8_lossy(&bytes))),
            Ok(Command::Abort(reason)) => {
                drop(claimed.generator);
                leading.join().expect("no panic");
                return say(&format!("abort {reason}"));
            }
            Err(_) => {
                part += 1;
                claimed.generator.send(number(part)).expect("it is small");
                say(&format!("part {part}"));
            }
        }
    }
    claimed.generator.finish(number(part), PATIENCE).unwrap_or_else(|error| panic!("{error}"));
    say("finished");
}

/// Leads until another process does.
fn lead(leadership: Leadership) {
    for command in ["first", "second"] {
        leadership.leader.command(Command::Custom(command.as_bytes().to_vec())).expect("there is room");
    }
    say("leads");
    for event in leadership.events {
        if let Event::Replaced { by } = event {
            say(&format!("replaced {by}"));
        }
    }
    let error = leadership.leader.conclude(b"PASS".to_vec(), PATIENCE).expect_err("another process leads");
    say(&format!("conclude {error}"));
}
