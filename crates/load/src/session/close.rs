//! A session's end: the call that closes it, and the wait for the gateway to close its socket.
//! It hands nothing in.

use super::{Session, next};
use crate::link::Link;
use measure::record::FailureKind;
use std::{
    rc::Rc,
    time::{Duration, Instant},
};

/// How long a closed session waits for its socket to be closed.
const FAREWELL: Duration = Duration::from_secs(1);

impl Session {
    pub(super) async fn close(&mut self) {
        self.closing = true;
        if let Some(link) = &mut self.link {
            link.cut_no_more();
        }
        let taken_over = matches!(&self.failure, Some(failure) if failure.kind == FailureKind::Closed(4001));
        let Some(session) = self.id.filter(|_| !taken_over && !self.already_closed) else { return };
        let worker = Rc::clone(&self.worker);
        let mut backoff = self.backoff();
        let started = Instant::now();
        let until = started + self.patience();
        let mut call = Box::pin(async move { worker.http.close(session, &mut backoff, until).await });
        let answer = loop {
            tokio::select! {
                biased;
                event = next(&mut self.link) => self.take(event),
                answer = &mut call => break answer,
            }
        };
        match answer {
            Ok(()) => self.close = Some(started.elapsed()),
            Err(failure) => {
                self.failure.get_or_insert(failure);
            }
        }
        let mut farewell = Box::pin(tokio::time::sleep(FAREWELL));
        while self.link.as_deref().is_some_and(Link::is_up) {
            tokio::select! {
                biased;
                event = next(&mut self.link) => self.take(event),
                () = &mut farewell => break,
            }
        }
        if let Some(link) = &mut self.link {
            link.hang_up().await;
        }
    }
}
