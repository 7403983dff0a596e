//! The end of a session, and the end of a socket that belongs to one query.

use super::{Session, Stage};
use measure::record::FailureKind;
use std::{
    rc::Rc,
    time::{Duration, Instant},
};

/// How long the session waits for the gateway to answer its close frame, or to close the socket of a closed session.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

impl Session {
    /// Closes the session, and waits until the gateway has closed its socket.
    pub(super) async fn close(&mut self) {
        self.stage = Stage::Closing;
        self.connection.stop_cutting();
        if self.is_foreign() {
            // These dialects have no call that closes a session.
            self.connection.close().await;
            return;
        }
        let failure = self.log.failure();
        let is_taken_over = failure.is_some_and(|failure| failure.kind == FailureKind::Closed(4001));
        // Neither needs the call: another connection owns the session, or the session is closed.
        let needs_call = !is_taken_over && !self.connection.is_session_closed();
        let Some(session) = self.id.filter(|_| needs_call) else { return };
        let worker = Rc::clone(&self.worker);
        let mut backoff = self.backoff();
        let started = Instant::now();
        let until = started + self.time_limits().call();
        let mut call = Box::pin(async move { worker.http().close(session, &mut backoff, until).await });
        let result = loop {
            tokio::select! {
                biased;
                event = self.connection.next() => self.handle(event),
                result = &mut call => break result,
            }
        };
        match result {
            Ok(()) => self.log.closed(started.elapsed()),
            Err(failure) => self.log.fail(failure),
        }
        self.wait_for_close().await;
        self.connection.close().await;
    }

    /// Handles events until the socket is closed. Returns false if that takes longer than 1 s.
    async fn wait_for_close(&mut self) -> bool {
        let mut timeout = Box::pin(tokio::time::sleep(CLOSE_TIMEOUT));
        while self.connection.is_up() {
            tokio::select! {
                biased;
                event = self.connection.next() => self.handle(event),
                () = &mut timeout => return false,
            }
        }
        true
    }

    /// Closes the query's own socket with a close frame, so that the gateway knows what arrived.
    pub(super) async fn close_socket(&mut self) {
        self.connection.send_close().await;
        self.stage = Stage::ClosingSocket;
        let was_up = self.connection.is_up();
        let is_clean = self.wait_for_close().await && was_up;
        self.connection.close().await;
        self.stage = Stage::Open;
        self.connection.closed_between_queries(is_clean);
    }
}
