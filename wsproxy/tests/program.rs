//! Tests of the program: its environment, its help and its end.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use protocol::{Claims, Secret, SessionId, Signer};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use uuid::Uuid;

const KEY: &str = "a key of thirty-two bytes or more";

/// A process of the gateway with a memory bus. Dropping it kills the process.
struct Program {
    child: Child,
    log: std::sync::mpsc::Receiver<String>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wsproxy"));
        command.env_clear().envs([("REDIS_URL", "memory://"), ("JWT_SECRET", KEY), ("HOST", "127.0.0.1")]);
        command.env("PORT", "0").envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (lines, log) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line))
        });
        Self { child, log }
    }

    /// Returns the log's first line with this text. Panics with the log if there is none.
    fn says(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(Duration::from_secs(20)) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("`{text}` is not in the log ({error}): {seen:#?}"),
            }
        }
    }

    fn terminate(&self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
    }

    fn ends(&mut self) -> Option<i32> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status.code(),
                None if Instant::now() > until => panic!("the program did not end"),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

#[test]
fn empty_variables_count_as_unset() {
    let names =
        ["MAX_CONNECTIONS", "MAX_CONNECT_RATE", "DRAIN_SECONDS", "WS_THREADS", "DELIVERY", "INSTANCE"];
    let mut program = Program::start(&names.map(|name| (name, "")));
    program.says("listening on 127.0.0.1");
    program.terminate();
    assert_eq!(program.ends(), Some(0));
}

/// A client that does not answer cannot delay the end of the program, and gets its close frame.
#[test]
fn a_drain_ends_in_time() {
    let mut program = Program::start(&[("DRAIN_SECONDS", "2")]);
    let address = program.says("listening on").rsplit(' ').next().unwrap().to_owned();
    let session = SessionId::new(Uuid::new_v4());
    let claims = Claims { session_id: session, iat: 1, exp: None };
    let token = Signer::new(&Secret::new(KEY).unwrap()).sign(&claims);
    let mut socket = TcpStream::connect(&address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(
        socket,
        "GET /agent/ws/{session} HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    )
    .unwrap();
    let mut head = [0; 12];
    socket.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    let terminated = Instant::now();
    program.terminate();
    assert_eq!(program.ends(), Some(0));
    assert!(
        terminated.elapsed() < Duration::from_secs(4),
        "the program ended after {:?}",
        terminated.elapsed()
    );
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    assert!(String::from_utf8_lossy(&rest).contains("reconnect_after_ms="));
}

#[test]
fn a_warning_is_logged_if_sockets_exceed_open_files() {
    let program = Program::start(&[("MAX_CONNECTIONS", "10000000")]);
    let warning = program.says("MAX_CONNECTIONS=10000000");
    assert!(warning.contains("lower it to"), "{warning}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", program.child.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<_> = files.split_whitespace().collect();
    assert_eq!(words[3], words[4], "the program must raise the soft limit to the hard one: {files}");
}

#[test]
fn the_help_names_every_setting() {
    let help = Command::new(env!("CARGO_BIN_EXE_wsproxy")).arg("--help").env_clear().output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for name in [
        "MAX_CONNECT_RATE",
        "CONNECT_BURST",
        "MAX_MESSAGE_SIZE_BYTES",
        "INBOUND_BYTES",
        "MESSAGE_TIMEOUT_SECONDS",
        "MAX_UP_RATE",
        "BAD_TOKEN_RATE",
        "TRUSTED_PROXIES",
        "REPLAY_BYTES",
        "DRAIN_SECONDS",
        "DRAIN_DELAY_MS",
        "DRAIN_WINDOW_SECONDS",
    ] {
        assert!(help.contains(name), "{name} is not in {help}");
    }
}
