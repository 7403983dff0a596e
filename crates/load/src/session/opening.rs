//! The beginning of a session: its creation and its first socket.

use super::Session;
use crate::{
    connection::{AttemptTime, Connection, CutTimer, SocketOpener},
    endpoint::DialOptions,
};
use measure::{live::LiveCounters, record::Failure};
use plan::behaviour::SessionBehaviour;
use protocol::SessionId;
use settings::secret::Secret;
use std::{rc::Rc, sync::Arc, time::Instant};

impl Session {
    /// Creates the session and opens its first socket, unless that is opened late on purpose.
    pub(super) async fn prepare(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        let _opening = self.worker.run().active.opening.enter();
        let mut backoff = self.backoff();
        let created = self.worker.http().create(&mut backoff, started + self.time_limits().call()).await?;
        let time = created.at.saturating_duration_since(started);
        self.log.created(AttemptTime { time, slack: created.slack });
        let created = created.value;
        self.id = Some(created.session_id);
        let mut connection = Box::new(self.new_connection(created.session_id, created.token()));
        let is_late = self.behaviour.connects_late();
        if !is_late {
            let backoff = self.backoff();
            self.log.connected(connection.open(backoff, self.time_limits().call()).await?);
            LiveCounters::add(&self.worker.live().connects, 1);
            self.delivery.socket_opened(Instant::now());
            self.hops.socket_opened(connection.take_boot_id().map(|id| self.worker.clock_of(&id)));
        }
        self.connection.attach(connection, is_late);
        Ok(())
    }

    fn new_connection(&self, session: SessionId, token: Secret) -> Connection {
        let (worker, attempts, index) = (Rc::clone(&self.worker), self.log.attempts(), self.planned.index);
        let run = self.worker.run();
        let opener = SocketOpener {
            connector: Arc::clone(&run.connector),
            session,
            token,
            dial: DialOptions {
                from: run.connector.local_ip(index),
                narrow: self.behaviour.pauses(),
                endpoint: index,
            },
            on_attempt: Rc::new(move || {
                attempts.set(attempts.get() + 1);
                worker.recorder().reconnect_attempt(worker.moment(Instant::now()));
            }),
            buffers: Rc::clone(self.worker.buffers()),
        };
        let plan = &run.plan;
        let mut drawn = SessionBehaviour::draw(&plan.behaviour, &plan.load, index);
        let cuts = (plan.behaviour.drop_rate > 0.0).then(|| CutTimer::new(move || drawn.next_cut()));
        Connection::new(opener, plan.reconnect.ping_timeout, cuts)
    }
}
