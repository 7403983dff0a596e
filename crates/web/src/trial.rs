//! One session at the target, so that a user sees a stream, cuts it and resumes it.
//!
//! The page's server holds the session and its token, and passes the frames on. The browser's own connection for them is the one that it
//! cuts: the server then cuts the gateway's socket without a close frame. So no token of the target reaches the browser, no other origin
//! must be allowed in the page, and it works with every target that the load generator reaches.

use crate::{program::Session, refusal::Refusal};
use parking_lot::Mutex;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Most tokens of an answer.
const MOST_TOKENS: u32 = 2_000;
/// Shortest time between two sessions, so that the page does not become a load generator.
const PAUSE: Duration = Duration::from_millis(250);

/// The session for trying a stream. There is at most one; a new one replaces it.
#[derive(Default)]
pub(crate) struct Trial(Mutex<State>);

#[derive(Default)]
struct State {
    session: Option<Arc<dyn Session>>,
    opened: Option<Instant>,
}

impl Trial {
    /// Notes that a session is about to be opened.
    ///
    /// # Errors
    /// The last one was opened a moment ago.
    pub(crate) fn may_open(&self) -> Result<(), Refusal> {
        let mut state = self.0.lock();
        if state.opened.is_some_and(|opened| opened.elapsed() < PAUSE) {
            return Err(Refusal::conflict("a session was opened a moment ago: try again"));
        }
        state.opened = Some(Instant::now());
        Ok(())
    }

    /// Sets the session, or removes it. Returns the earlier one: dropping it blocks.
    pub(crate) fn replace(&self, session: Option<Box<dyn Session>>) -> Option<Arc<dyn Session>> {
        std::mem::replace(&mut self.0.lock().session, session.map(Arc::from))
    }

    /// Returns the session.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn session(&self) -> Result<Arc<dyn Session>, Refusal> {
        self.0.lock().session.clone().ok_or_else(|| Refusal::conflict("no session is open: open one first"))
    }
}

/// Checks the number of tokens of an answer.
///
/// # Errors
/// It is out of range.
pub(crate) fn tokens(count: u32) -> Result<u32, Refusal> {
    let invalid = || Refusal::bad(format!("invalid number of tokens {count}: expected 1 to {MOST_TOKENS}"));
    (1..=MOST_TOKENS).contains(&count).then_some(count).ok_or_else(invalid)
}
