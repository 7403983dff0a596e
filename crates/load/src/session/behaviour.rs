//! What a session does on purpose while a query runs: it opens its socket late, or pauses reading. Each is done once per query
//! at its drawn time, and the query's deadline allows for it.

use plan::behaviour::SessionBehaviour;
use std::{
    future::pending,
    pin::Pin,
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// The delay of a pause that is due while no socket is open.
const NO_SOCKET: Duration = Duration::from_millis(100);

/// An action on purpose.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// Open the query's socket.
    Connect,
    /// Stop reading for this long.
    Pause(Duration),
    /// Read again.
    Resume,
}

struct PlannedAction {
    timer: Pin<Box<Sleep>>,
    action: Action,
}

/// The drawn behaviour of a session, and its next action.
pub(super) struct Behaviour {
    drawn: SessionBehaviour,
    next: Option<PlannedAction>,
    paused_since: Option<Instant>,
    last_cut: Option<Instant>,
}

impl Behaviour {
    /// Creates the behaviour of a session without a planned action.
    pub(super) const fn new(drawn: SessionBehaviour) -> Self {
        Self { drawn, next: None, paused_since: None, last_cut: None }
    }

    /// Returns whether each query has its own socket, opened after the query was sent.
    pub(super) const fn connects_late(&self) -> bool {
        self.drawn.connects_late()
    }

    /// Returns whether the session names its last position when it reconnects.
    pub(super) const fn resumes(&self) -> bool {
        self.drawn.resumes()
    }

    /// Returns whether the session pauses reading during one of its queries.
    pub(super) const fn pauses(&self) -> bool {
        self.drawn.pause().is_some()
    }

    /// Returns whether the session pauses reading now.
    pub(super) const fn is_paused(&self) -> bool {
        self.paused_since.is_some()
    }

    /// Notes that the client cut its socket at `at`.
    pub(super) const fn socket_cut(&mut self, at: Instant) {
        self.last_cut = Some(at);
    }

    /// Returns whether the client cut a socket at or after `from`.
    pub(super) fn has_cut_since(&self, from: Instant) -> bool {
        self.last_cut.is_some_and(|cut| cut >= from)
    }

    /// Plans the first action of query `num`, which was sent at `sent` and has the ideal duration `ideal`. Returns by how much
    /// the action delays the query.
    pub(super) fn plan(&mut self, num: u32, sent: Instant, ideal: Option<Duration>) -> Duration {
        if let Some(delay) = self.drawn.next_connect_delay() {
            self.set(Instant::now() + delay, Action::Connect);
            return delay;
        }
        self.plan_pause(num, sent, ideal);
        Duration::ZERO
    }

    /// Plans the pause of query `num`, if the session pauses in it. The time of the pause counts from `from`.
    pub(super) fn plan_pause(&mut self, num: u32, from: Instant, ideal: Option<Duration>) {
        if let Some(pause) = self.drawn.pause().filter(|pause| pause.query == num) {
            self.set(from + pause.after(ideal), Action::Pause(pause.duration));
        }
    }

    /// Plans `action` again a little later, because it needs a socket and none is open.
    pub(super) fn postpone(&mut self, action: Action, now: Instant) {
        self.set(now + NO_SOCKET, action);
    }

    /// Starts a pause of length `duration`.
    pub(super) fn pause(&mut self, now: Instant, duration: Duration) {
        self.paused_since = Some(now);
        self.set(now + duration, Action::Resume);
    }

    /// Cancels the planned action and ends a pause. Returns how long the pause was.
    pub(super) fn stop(&mut self) -> Option<Duration> {
        self.next = None;
        self.paused_since.take().map(|since| since.elapsed())
    }

    fn set(&mut self, at: Instant, action: Action) {
        self.next = Some(PlannedAction { timer: Box::pin(tokio::time::sleep_until(at.into())), action });
    }

    /// Waits until the planned action is due. Waits forever if there is none. Cancel safe.
    pub(super) async fn due(&mut self) -> Action {
        let action = match &mut self.next {
            Some(PlannedAction { timer, action }) => {
                timer.as_mut().await;
                *action
            }
            None => pending().await,
        };
        self.next = None;
        action
    }
}
