//! What the page needs of the program: to call its commands, to start runs, and to open one session. `client` implements it.

use std::{
    io::{self, BufRead},
    path::PathBuf,
};
use tokio::sync::mpsc::Sender;

/// The program behind the page. All methods may block.
pub trait Program: Send + Sync {
    /// Runs a command to its end, for example `run --dry-run …` or `amend …`.
    ///
    /// # Errors
    /// It cannot be started.
    fn call(&self, arguments: &[String]) -> io::Result<Called>;

    /// Starts a run with these arguments of `streamstress run`. Its results go to `results`.
    ///
    /// # Errors
    /// It cannot be started. [`io::ErrorKind::ResourceBusy`]: a run of another page goes on at its target.
    fn start(&self, arguments: &[String]) -> io::Result<Box<dyn Run>>;

    /// Returns the names of the runs that go on on this machine, also those that the page did not start.
    fn going_on(&self) -> Vec<String>;

    /// Returns whether runs can be started. A page that belongs to one run starts no others.
    fn starts_runs(&self) -> bool;

    /// Returns the directory of the results.
    fn results(&self) -> PathBuf;

    /// Returns the names of the scenarios that can be used.
    fn scenarios(&self) -> Vec<String>;

    /// Returns the target at which one stream can be tried, in words.
    fn target(&self) -> String;

    /// Creates a session at the target of the page.
    ///
    /// # Errors
    /// Why the session cannot be opened.
    fn open_session(&self) -> Result<Box<dyn Session>, String>;
}

/// A command that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Called {
    /// Exit code. `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed on stdout.
    pub text: String,
    /// What it printed on stderr.
    pub messages: String,
}

/// A run that goes on.
pub trait Run: Send + Sync {
    /// Takes the events as lines. `None` if they were taken.
    fn events(&self) -> Option<Box<dyn BufRead + Send>>;

    /// Asks the run to end: the first time after its streams have ended, the second time at once.
    ///
    /// # Errors
    /// The run cannot be reached.
    fn interrupt(&self) -> io::Result<()>;

    /// Returns how often the run was asked to end before this page knew it.
    fn stops(&self) -> u8 {
        0
    }

    /// Keeps an event that is shown, so that a later page can show it again. `is_needed`: every browser needs it.
    fn keep(&self, _event: &str, _is_needed: bool) {}

    /// Waits for the end.
    fn wait(&self) -> RunEnd;
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunEnd {
    /// Exit code. `None` if a signal ended it, or if this page did not start it.
    pub code: Option<i32>,
    /// The last part of what it printed on stderr.
    pub messages: String,
}

/// One session at the target, for trying a stream. It is closed when dropped.
pub trait Session: Send + Sync {
    /// Asks a question with this number of tokens in the answer. Returns the response of the server as JSON.
    ///
    /// # Errors
    /// Why the server did not take it.
    fn ask(&self, tokens: u32) -> Result<String, String>;

    /// Opens a socket in the background, which sends its frames to `frames`. If the receiver is dropped, the socket is cut without a
    /// close frame.
    fn attach(&self, after: Option<String>, frames: Sender<Frame>);
}

/// What comes from the socket of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The socket is open.
    Opened,
    /// A text frame.
    Text(String),
    /// The end of the socket, with the reason.
    Ended(String),
}
