//! What a target file tells a session, around its questions: creation, messages outside an answer, replies, secrets, stops.

use super::{Session, asking::UNAUTHORIZED, turn::Turn};
use crate::connection::AttemptTime;
use dialects::{
    Answer, Ask, Dialect,
    target::{Conversation, FileAnswer},
};
use measure::record::{Failure, FailureKind};
use protocol::SessionId;
use settings::secret::{Secret, Secrets};
use std::{
    cell::{RefCell, RefMut},
    rc::Rc,
    time::{Duration, Instant},
};

/// Time limit of the call that ends an answer.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of a session that a target file describes.
pub(super) struct Described {
    state: Rc<RefCell<Conversation>>,
    /// Reads messages before the first question.
    idle: FileAnswer,
}

impl Described {
    fn new(state: Conversation) -> Self {
        let idle = state.idle();
        Self { state: Rc::new(RefCell::new(state)), idle }
    }

    /// Returns the state, which the connection shares.
    pub(super) fn state(&self) -> Rc<RefCell<Conversation>> {
        Rc::clone(&self.state)
    }

    /// Returns the state. The borrow must end before the next await.
    pub(super) fn borrow(&self) -> RefMut<'_, Conversation> {
        self.state.borrow_mut()
    }

    /// Returns the reader of messages before the first question.
    pub(super) const fn idle_reader(&mut self) -> &mut FileAnswer {
        &mut self.idle
    }

    /// Returns the reader of messages before the first question.
    pub(super) const fn idle(&self) -> &FileAnswer {
        &self.idle
    }

    /// Returns the reply to a ping.
    pub(super) fn reply(&self) -> Option<String> {
        self.borrow().reply()
    }

    /// Returns `text` without the secrets that the backend gave.
    pub(super) fn hide(&self, text: &str) -> String {
        let mut secrets = Secrets::default();
        self.borrow().secrets().for_each(|secret| secrets.add(secret));
        secrets.hide(text)
    }
}

impl Session {
    /// Makes the target file that describes the backend, if there is one, known to the session with this id.
    pub(super) fn describe(&mut self, id: SessionId) {
        let file = Self::foreign(&self.worker).and_then(|foreign| foreign.dialect.file()).cloned();
        let state = file.map(|file| Conversation::new(file, &id.to_string(), self.planned.index));
        self.described = state.map(Described::new);
    }

    /// Makes the call that creates the session, if the target file has one.
    pub(super) async fn create_described(&mut self, started: Instant) -> Result<(), Failure> {
        let worker = Rc::clone(&self.worker);
        self.set_key();
        let Some(state) = self.described.as_ref().map(Described::state) else { return Ok(()) };
        let Some(mut call) = state.borrow().create() else { return Ok(()) };
        let mut backoff = self.backoff();
        let until = started + self.time_limits().call();
        let credentials = worker.run().connector.credentials();
        let (_, renewal) = credentials.key();
        let kind = FailureKind::Create;
        let mut created = worker.http().call(kind.clone(), &call, &mut backoff, until, |_| {}).await;
        if created.as_ref().is_err_and(|failure| failure.code == Some(UNAUTHORIZED))
            && credentials.can_renew()
        {
            let code = Some(UNAUTHORIZED);
            let renewed = credentials.renew(renewal).await;
            renewed.map_err(|message| Failure { kind: kind.clone(), code, message })?;
            self.set_key();
            call = state.borrow().create().unwrap_or(call);
            created = worker.http().call(kind, &call, &mut backoff, until, |_| {}).await;
        }
        let created = created?;
        let time = created.at.saturating_duration_since(started);
        self.log.created(AttemptTime { time, slack: created.slack });
        let response = created.value;
        let header = |name: &str| response.header(name).map(str::to_owned);
        let read = state.borrow_mut().created(&header, response.body());
        read.map_err(|why| Failure {
            kind: FailureKind::Create,
            code: None,
            message: format!("{} {}: {why}", call.method, call.path),
        })
    }

    /// A connection was opened. Unless it resumes an answer, what arrives on it before the next question belongs to none, and numbers that
    /// continue may begin anew.
    pub(super) fn opened_described(&mut self) {
        let Self { described, turn, .. } = self;
        let Some(described) = described.as_mut().filter(|described| !described.borrow().is_resuming()) else {
            return;
        };
        match turn.as_deref_mut() {
            // The rest of an answer is read as its beginning was.
            Some(turn) if turn.is_unasked() && turn.resume.is_some() => {}
            Some(turn) if turn.is_unasked() => {
                turn.answer = Answer::File(Box::new(described.borrow().answer()));
            }
            Some(Turn { answer: Answer::File(answer), .. }) => {
                **answer = described.borrow().idle_after(answer);
            }
            Some(_) => {}
            None => described.idle = described.state.borrow_mut().idle_after(&described.idle),
        }
    }

    /// Makes the present key known to the target file.
    pub(super) fn set_key(&self) {
        if let Some(described) = &self.described {
            let (key, _) = self.worker.run().connector.credentials().key();
            described.borrow().set_key(key.as_ref().map(Secret::reveal));
        }
    }

    /// Sends what ends the present answer, if the target file has that. Returns whether an end may follow on the same connection.
    pub(super) fn stop_described(&mut self) -> bool {
        self.set_key();
        let Some(stop) = self.described.as_ref().and_then(|described| described.borrow().stop()) else {
            return false;
        };
        match stop {
            Ask::Message(text) => self.connection.send_beside(&text),
            Ask::Call(call) | Ask::Stream(call) => {
                let worker = Rc::clone(&self.worker);
                let (mut backoff, until) = (self.backoff(), Instant::now() + STOP_TIMEOUT);
                tokio::task::spawn_local(async move {
                    // Its result is ignored: the answer may have ended meanwhile.
                    let stopping = worker.http().call(FailureKind::Run, &call, &mut backoff, until, |_| {});
                    let _ = tokio::time::timeout(STOP_TIMEOUT, stopping).await;
                });
            }
        }
        true
    }

    /// Returns whether the target is described by a file that can resume.
    pub(super) fn can_resume_described(&self) -> bool {
        Self::foreign(&self.worker)
            .map(|foreign| &foreign.dialect)
            .is_some_and(|dialect| dialect.file().is_some() && Dialect::can_resume(dialect))
    }
}
