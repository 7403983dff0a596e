//! The beginning of a session: its creation and its first socket.

use super::{Session, described::Described};
use crate::{
    connection::{AttemptTime, Connection, CutTimer, SocketOpener},
    endpoint::DialOptions,
};
use measure::{live::LiveCounters, record::Failure};
use plan::behaviour::SessionBehaviour;
use protocol::SessionId;
use settings::secret::Secret;
use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a foreign server may be silent: longer than a run.
const SILENT_SERVER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Largest time that opening a socket takes beyond its only attempt. After a failed one it is longer: the pauses between attempts are.
const ONE_ATTEMPT: Duration = Duration::from_millis(20);

impl Session {
    /// Creates the session and opens its first socket, unless that is opened late on purpose.
    pub(super) async fn prepare(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        let _opening = self.worker.run().active.opening.enter();
        let (id, token) = if self.is_foreign() {
            // The id stands in the results. Only a target file may send it.
            let id = SessionId::new(uuid::Uuid::new_v4());
            self.describe(id);
            self.create_described(started).await?;
            (id, Secret::new(""))
        } else {
            let mut backoff = self.backoff();
            let created =
                self.worker.http().create(&mut backoff, started + self.time_limits().call()).await?;
            let time = created.at.saturating_duration_since(started);
            self.log.created(AttemptTime { time, slack: created.slack });
            (created.value.session_id, created.value.token())
        };
        self.id = Some(id);
        let mut connection = Box::new(self.new_connection(id, token));
        let is_late = self.behaviour.connects_late();
        if !is_late {
            let (backoff, opening) = (self.backoff(), Instant::now());
            let last_attempt = connection.open(backoff, self.time_limits().call()).await?;
            let waited = opening.elapsed();
            if waited > last_attempt.time + last_attempt.slack + ONE_ATTEMPT {
                self.log.waited_for_first_socket(waited);
            }
            self.log.connected(last_attempt);
            LiveCounters::add(&self.worker.live().connects, 1);
            self.delivery.socket_opened(Instant::now());
            self.host_named(connection.take_boot_id());
        }
        self.connection.attach(connection, is_late);
        self.opened_described();
        self.handle_kept();
        Ok(())
    }

    /// Notes the boot id of the host behind a new socket, if it named one: a gateway, or the simulator itself in a foreign dialect.
    pub(super) fn host_named(&mut self, boot_id: Option<Box<str>>) {
        if self.is_foreign() && boot_id.is_some() {
            self.compare_clocks(boot_id.as_deref());
        }
        self.hops.socket_opened(boot_id.map(|id| self.worker.clock_of(&id)));
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
            renews: false,
            conversation: self.described.as_ref().map(Described::state),
        };
        let plan = &run.plan;
        let mut drawn = SessionBehaviour::draw(&plan.behaviour, &plan.load, index);
        let cuts = (plan.behaviour.drop_rate > 0.0).then(|| CutTimer::new(move || drawn.next_cut()));
        // A foreign server need not send pings, and may think for long.
        let ping_timeout = match &plan.target.foreign {
            Some(foreign) => foreign.dialect.file().and_then(|file| file.silence()).unwrap_or(SILENT_SERVER),
            None => plan.reconnect.ping_timeout,
        };
        Connection::new(opener, ping_timeout, cuts)
    }
}
