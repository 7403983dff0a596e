//! Starting a query: permit, plan, claim, stream. A query is started once however often its call is repeated, and never
//! abandoned half-way because its caller hung up.

use crate::{
    config::Config,
    error::ApiError,
    metrics::Metrics,
    pacer::{Stream, StreamId},
    permit::Permit,
    plan::Plan,
    request::Query,
    text::ResponseText,
    worker::{self, Command},
};
use bus::{Batch, Broker, Claim, ClaimError, ClaimRequest, Control, Refusal};
use host::ClockAnchor;
use protocol::{Digester, Kind, Position, RunResponse, SessionId, encode_verified_error};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

/// How long a call waits for a bus that does not answer.
pub(crate) const BUS_PATIENCE: Duration = Duration::from_secs(5);

/// How long a claim whose outcome is unknown is asked about after its caller was sent away: the session is not free before.
const CLAIM_PATIENCE: Duration = Duration::from_secs(60);

/// Pauses between the questions: each is twice as long as the one before.
const CLAIM_BACKOFF: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_secs(2);

/// What starts queries. One a server.
pub(crate) struct Runs {
    pub(crate) bus: Arc<dyn Broker>,
    pub(crate) metrics: Metrics,
    anchor: ClockAnchor,
    boot_id: Option<String>,
    pub(crate) config: Config,
    text: Arc<ResponseText>,
    pub(crate) permits: Arc<Semaphore>,
    workers: Vec<mpsc::Sender<Command>>,
}

/// What the bus keeps with a claim, so that any server can answer a repeated call.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Answer {
    tokens: u64,
    boot_id: Option<String>,
    #[serde(default)]
    server: Option<String>,
    ideal_ttft_ms: f64,
    ideal_e2el_ms: f64,
    /// Names the attempt that made the claim. Whoever reads its own name here has made it, and lost the reply.
    attempt: Uuid,
}

impl Answer {
    fn read(session: SessionId, kept: &str) -> Result<Self, ApiError> {
        serde_json::from_str(kept).map_err(|error| {
            tracing::error!(%session, %error, "the kept answer of a repeated query is unreadable");
            ApiError::Internal
        })
    }

    fn into_response(self, query_id: String, generation: u64) -> RunResponse {
        RunResponse {
            status: "streaming".to_owned(),
            query_id: Some(query_id),
            generation: Some(generation),
            tokens: Some(self.tokens),
            boot_id: self.boot_id,
            server: self.server,
            ideal_ttft_ms: Some(self.ideal_ttft_ms),
            ideal_e2el_ms: Some(self.ideal_e2el_ms),
        }
    }
}

impl Runs {
    pub(crate) fn new(
        config: Config,
        bus: Arc<dyn Broker>,
        metrics: Metrics,
        anchor: ClockAnchor,
        workers: Vec<mpsc::Sender<Command>>,
    ) -> Self {
        Self {
            bus,
            metrics,
            anchor,
            boot_id: host::boot_id(),
            text: Arc::new(config.text.clone()),
            permits: Arc::new(Semaphore::new(config.max_streams)),
            config,
            workers,
        }
    }

    /// Starts a query, or answers as it was answered before.
    pub(crate) async fn run(
        self: Arc<Self>,
        session: SessionId,
        query: Query,
    ) -> Result<RunResponse, ApiError> {
        let Ok(place) = self.permits.clone().try_acquire_owned() else {
            return self.recall(session, &query, ApiError::Full(self.config.max_streams)).await;
        };
        let permit = Permit::new(place, self.bus.plays().claiming(session));
        // In a task of its own: a caller that hangs up, or is sent away, must not leave a claim without a stream.
        let started = tokio::spawn(self.start(session, query, permit));
        match timeout(BUS_PATIENCE, started).await {
            Ok(started) => started.unwrap_or(Err(ApiError::Internal)),
            Err(_) => Err(ApiError::BusUnreachable),
        }
    }

    /// Answers a repeated call as it was answered before; a new one gets the `refusal`.
    pub(crate) async fn recall(
        &self,
        session: SessionId,
        query: &Query,
        refusal: ApiError,
    ) -> Result<RunResponse, ApiError> {
        let Some(query_id) = &query.query_id else { return Err(refusal) };
        let recalled = timeout(BUS_PATIENCE, self.bus.recall(session, query_id)).await;
        let Ok(Ok(Some(Claim { generation, repeat_of: Some(kept) }))) = recalled else { return Err(refusal) };
        self.metrics.repeats.inc();
        Ok(Answer::read(session, &kept)?.into_response(query_id.clone(), generation))
    }

    async fn start(
        self: Arc<Self>,
        session: SessionId,
        query: Query,
        mut permit: Permit,
    ) -> Result<RunResponse, ApiError> {
        let query_id = query.query_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let plan = Plan::draw(&query.timing(&self.config.timing), self.config.seed, &query_id);
        let answer = self.answer(&plan).await?;
        let claimed = self.claim(session, &query_id, &answer).await;
        match &claimed {
            Ok(Claimed::Now(generation)) => permit.claimed((session, *generation)),
            // Its claim may still arrive.
            Err(ApiError::BusUnreachable) => {}
            Ok(Claimed::Before(..)) | Err(_) => permit.declined(),
        }
        match claimed? {
            Claimed::Now(generation) => {
                self.play((session, generation), query_id.clone(), &plan, permit).await?;
                Ok(answer.into_response(query_id, generation))
            }
            Claimed::Before(generation, answer) => {
                self.metrics.repeats.inc();
                Ok(answer.into_response(query_id, generation))
            }
        }
    }

    async fn answer(&self, plan: &Plan) -> Result<Answer, ApiError> {
        let ideal = if plan.is_costly() {
            let plan = plan.clone();
            let ideal = tokio::task::spawn_blocking(move || plan.ideal()).await;
            ideal.map_err(|_| ApiError::Internal)?
        } else {
            plan.ideal()
        };
        Ok(Answer {
            tokens: plan.tokens(),
            boot_id: self.boot_id.clone(),
            server: Some(self.config.instance.clone()),
            ideal_ttft_ms: ideal.ttft.as_secs_f64() * 1e3,
            ideal_e2el_ms: ideal.e2el.as_secs_f64() * 1e3,
            attempt: Uuid::new_v4(),
        })
    }

    /// Claims the session. After an error nothing is known, so the claim is made again, and the kept answer tells whether
    /// the first one had succeeded.
    async fn claim(&self, session: SessionId, query_id: &str, answer: &Answer) -> Result<Claimed, ApiError> {
        let request = ClaimRequest {
            query_id: query_id.to_owned(),
            answer: serde_json::to_string(answer).map_err(|_| ApiError::Internal)?,
        };
        let deadline = Instant::now() + CLAIM_PATIENCE;
        let mut backoff = CLAIM_BACKOFF.start;
        loop {
            let error = match self.bus.claim(session, request.clone()).await {
                Ok(Claim { generation, repeat_of: None }) => return Ok(Claimed::Now(generation)),
                Ok(Claim { generation, repeat_of: Some(kept) }) => {
                    let kept = Answer::read(session, &kept)?;
                    let own = kept.attempt == answer.attempt;
                    return Ok(if own {
                        Claimed::Now(generation)
                    } else {
                        Claimed::Before(generation, kept)
                    });
                }
                Err(ClaimError::Unknown) => return Err(ApiError::UnknownSession),
                Err(ClaimError::Past) => return Err(ApiError::Past),
                Err(ClaimError::Closed) => return Err(ApiError::Closed),
                Err(ClaimError::Busy) => return Err(ApiError::Busy),
                Err(ClaimError::Bus(error)) => error,
            };
            // Asked again, a bus that refuses for good only keeps the place taken.
            let refused = error.refusal() == Some(Refusal::Final);
            if refused || Instant::now() + backoff >= deadline {
                self.metrics.claims_unsettled.inc();
                tracing::warn!(%session, %error, "gave a claim up, its outcome is unknown");
                return Err(ApiError::BusUnreachable);
            }
            // Spread, so that all who lost Redis at once do not come back at once.
            sleep(backoff.mul_f64(rand::random_range(0.5..1.0))).await;
            backoff = (backoff * 2).min(CLAIM_BACKOFF.end);
        }
    }

    /// Hands a claimed query to its worker. The stream starts now.
    async fn play(
        &self,
        id: StreamId,
        query_id: String,
        plan: &Plan,
        permit: Permit,
    ) -> Result<(), ApiError> {
        let start_us = self.anchor.us(Instant::now().into_std());
        let stream = Stream::new(id, query_id.clone(), self.text.clone(), plan, start_us, permit);
        if self.worker_of(id.0).send(Command::Start(Box::new(stream))).await.is_ok() {
            return Ok(());
        }
        self.end_unplayed(id, &query_id, start_us).await;
        Err(ApiError::Draining)
    }

    /// Ends a claim whose worker has gone in the meantime. What is not taken now, a peer ends.
    async fn end_unplayed(&self, (session, generation): StreamId, query_id: &str, now_us: u64) {
        let position = Position::new(generation, 1);
        let mut batch = Batch::default();
        batch.push(session, position, Kind::Error, |out| {
            let nothing = Digester::default().digest();
            let message = worker::SHUTDOWN;
            encode_verified_error(out, position, "shutdown", message, nothing, query_id, now_us, now_us);
        });
        if let Err(error) = self.bus.append(&batch).await {
            tracing::warn!(%session, %error, "a query that was claimed too late was not ended, a peer will");
        }
    }

    fn worker_of(&self, session: SessionId) -> &mpsc::Sender<Command> {
        let n = session.uuid().as_u128() % self.workers.len() as u128;
        &self.workers[n as usize]
    }

    /// Passes on what other processes tell this one, until the bus ends.
    pub(crate) async fn obey(self: Arc<Self>, mut control: mpsc::Receiver<Control>) {
        while let Some(message) = control.recv().await {
            match message {
                Control::Cancel { session, generation } => {
                    // A worker that is gone has no streams to cancel.
                    let _ = self.worker_of(session).send(Command::Cancel((session, generation))).await;
                }
            }
        }
    }
}

enum Claimed {
    /// By this call: play it.
    Now(u64),
    /// By an earlier call, with this answer: start nothing.
    Before(u64, Answer),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{Failure, RecordingBroker};
    use protocol::Secret;

    const KEY: &str = "a key of thirty-two bytes or more";

    async fn give_up(failures: &[Failure]) -> (Vec<Duration>, u64) {
        let bus = Arc::new(RecordingBroker::default());
        bus.fail_claims(failures);
        let config = Config::new(Secret::new(KEY).expect("long enough"));
        let metrics = Metrics::default();
        let runs = Runs::new(config, bus.clone(), metrics.clone(), ClockAnchor::now(), Vec::new());
        let session = SessionId::new(Uuid::from_u128(1));
        let answer = Answer {
            tokens: 1,
            boot_id: None,
            server: None,
            ideal_ttft_ms: 0.0,
            ideal_e2el_ms: 0.0,
            attempt: Uuid::from_u128(2),
        };
        let claimed = runs.claim(session, "q", &answer).await;
        assert!(matches!(claimed, Err(ApiError::BusUnreachable)));
        let at = bus.claimed_at();
        (at.windows(2).map(|two| two[1] - two[0]).collect(), metrics.claims_unsettled.get())
    }

    /// The pauses double up to a bound, each shortened at random by at most a half, and end after a minute.
    #[tokio::test(start_paused = true)]
    async fn a_claim_in_doubt_is_made_again_ever_more_slowly() {
        let (pauses, unsettled) = give_up(&[Failure::Lost; 1_000]).await;
        let mut longest = CLAIM_BACKOFF.start;
        for (n, pause) in pauses.iter().enumerate() {
            // The runtime's timers go by whole milliseconds.
            let most = longest + Duration::from_millis(2);
            assert!(
                *pause >= longest / 2 && *pause <= most,
                "pause {n} is {pause:?}, and not up to {longest:?}"
            );
            longest = (longest * 2).min(CLAIM_BACKOFF.end);
        }
        let distinct: std::collections::BTreeSet<_> = pauses.iter().skip(6).collect();
        assert!(distinct.len() > pauses.len() / 2, "callers must not come back at once: {pauses:?}");
        let all: Duration = pauses.iter().sum();
        assert!(all <= CLAIM_PATIENCE && all > CLAIM_PATIENCE - 2 * CLAIM_BACKOFF.end, "{all:?}");
        assert_eq!(unsettled, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_is_refused_for_good_is_given_up_at_once() {
        let (pauses, unsettled) = give_up(&[Failure::Lost, Failure::Refused, Failure::Lost]).await;
        assert_eq!((pauses.len(), unsettled), (1, 1));
    }
}
