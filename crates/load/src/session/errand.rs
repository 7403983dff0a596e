//! What a session does of its own accord while a query runs: it opens its socket late, or stops reading for a while.
//! Each at its drawn moment and once; the query's deadline allows for it.

use super::{Session, query::Deadline};
use crate::{link::Link, query::millis};
use std::{
    future::pending,
    pin::Pin,
    time::{Duration, Instant},
};
use tokio::time::Sleep;

/// How long a query's own socket waits for the gateway's farewell.
const FAREWELL: Duration = Duration::from_secs(1);
/// A pause whose moment finds no socket begins so much later.
const NO_SOCKET: Duration = Duration::from_millis(100);

/// What is done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Errand {
    /// The query's socket is opened.
    Connect,
    /// The session stops reading for this long.
    Pause(Duration),
    /// It reads again.
    ReadOn,
}

/// What is done next, and when.
pub(super) struct Planned {
    timer: Pin<Box<Sleep>>,
    errand: Errand,
}

impl Planned {
    fn at(at: Instant, errand: Errand) -> Self {
        Self { timer: Box::pin(tokio::time::sleep_until(at.into())), errand }
    }
}

/// Waits for the moment of what is planned; for ever where nothing is.
pub(super) async fn due(planned: &mut Option<Planned>) -> Errand {
    match planned {
        Some(Planned { timer, errand }) => {
            timer.as_mut().await;
            *errand
        }
        None => pending().await,
    }
}

impl Session {
    /// The query was accepted: what the session will do in it.
    pub(super) fn plan_errand(&mut self, sent: Instant, deadline: &mut Deadline) {
        self.errand = match self.habits.next_connect_delay() {
            Some(lateness) => {
                deadline.extend(lateness);
                Some(Planned::at(Instant::now() + lateness, Errand::Connect))
            }
            None => self.planned_pause(sent),
        };
    }

    fn planned_pause(&self, from: Instant) -> Option<Planned> {
        let query = self.current.as_ref()?;
        let pause = self.habits.pause().filter(|pause| pause.query == query.num)?;
        let ideal = query.answer.as_ref().and_then(|answer| millis(answer.ideal_e2el_ms));
        Some(Planned::at(from + pause.after(ideal), Errand::Pause(pause.duration)))
    }

    /// The moment has come.
    pub(super) fn run_errand(&mut self, errand: Errand, deadline: &mut Deadline) {
        let now = Instant::now();
        self.errand = match errand {
            Errand::Connect => {
                let (backoff, limit) = (self.backoff(), self.limit());
                if let Some(link) = &mut self.link {
                    link.connect(backoff, limit);
                }
                self.planned_pause(now)
            }
            Errand::Pause(_) if !self.link.as_deref().is_some_and(Link::is_up) => {
                Some(Planned::at(now + NO_SOCKET, errand))
            }
            Errand::Pause(length) => {
                (self.paused_since, self.paused) = (Some(now), true);
                if let Some(query) = &mut self.current {
                    query.paused = length;
                }
                deadline.extend(length);
                Some(Planned::at(now + length, Errand::ReadOn))
            }
            Errand::ReadOn => {
                self.read_on();
                None
            }
        };
    }

    fn read_on(&mut self) {
        if let (Some(since), Some(query)) = (self.paused_since.take(), &mut self.current) {
            query.paused = since.elapsed();
            if let Some(link) = &mut self.link {
                link.listen_again();
            }
        }
    }

    /// The query is over: nothing is done in it any more.
    pub(super) fn drop_errands(&mut self) {
        self.errand = None;
        self.read_on();
    }

    /// A socket a query: this one ends with a farewell, so that the gateway keeps what it handed on.
    pub(super) async fn leave(&mut self) {
        if let Some(link) = &mut self.link {
            link.say_goodbye().await;
        }
        self.leaving = true;
        let mut farewell = Box::pin(tokio::time::sleep(FAREWELL));
        let mut clean = self.link.as_deref().is_some_and(Link::is_up);
        while let Some(link) = self.link.as_mut().filter(|link| link.is_up()) {
            tokio::select! {
                biased;
                event = link.next() => self.take(event),
                () = &mut farewell => {
                    clean = false;
                    break;
                }
            }
        }
        if let Some(link) = &mut self.link {
            link.hang_up().await;
        }
        self.leaving = false;
        self.lost_by = None;
        self.unclean &= !clean;
        self.downtime.begin(Instant::now());
    }
}
