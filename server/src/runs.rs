//! Starts queries in four steps: permit, plan, claim, stream. A query starts once, however often its call is repeated. A start continues
//! when its caller disconnects.

use crate::{
    config::Config,
    error::ApiError,
    metrics::Metrics,
    permit::Permit,
    plan::Plan,
    request::Query,
    stream::{Stream, StreamId},
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

/// How long a call waits for the bus.
pub(crate) const BUS_PATIENCE: Duration = Duration::from_secs(5);

/// How long a claim of unknown outcome is retried after its caller got an error. Until then the session may be claimed.
const CLAIM_PATIENCE: Duration = Duration::from_secs(60);

/// The first and the longest pause between claims. Each is twice as long as the one before.
const CLAIM_BACKOFF: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_secs(2);

/// Starts the queries of one server.
pub(crate) struct Runs {
    pub(crate) bus: Arc<dyn Broker>,
    pub(crate) metrics: Metrics,
    pub(crate) anchor: ClockAnchor,
    boot_id: Option<String>,
    pub(crate) config: Config,
    text: Arc<ResponseText>,
    pub(crate) permits: Arc<Semaphore>,
    workers: Vec<mpsc::Sender<Command>>,
}

/// The response to a run call as the bus stores it with the claim, so that any server can answer a repeated call.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredResponse {
    tokens: u64,
    boot_id: Option<String>,
    #[serde(default)]
    server: Option<String>,
    ideal_ttft_ms: f64,
    ideal_e2el_ms: f64,
    /// Stored by older servers without it.
    #[serde(default)]
    ideal_gap_ms: Option<f64>,
    /// Identifies the call that made the claim. A call that reads its own id here made the claim and lost the reply.
    attempt: Uuid,
}

impl StoredResponse {
    /// Decodes a stored response.
    fn read(session: SessionId, kept: &str) -> Result<Self, ApiError> {
        serde_json::from_str(kept).map_err(|error| {
            tracing::error!(%session, %error, "the stored response of a repeated query is unreadable");
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
            ideal_gap_ms: self.ideal_gap_ms,
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

    /// Starts a query. A repeated call gets the response of the first one.
    pub(crate) async fn run(
        self: Arc<Self>,
        session: SessionId,
        query: Query,
    ) -> Result<RunResponse, ApiError> {
        let Ok(place) = self.permits.clone().try_acquire_owned() else {
            return self.recall(session, &query, ApiError::Full(self.config.max_streams)).await;
        };
        let permit = Permit::new(place, self.bus.plays().claiming(session));
        // A separate task, because a caller that disconnects or times out must not leave a claim without a stream.
        let started = tokio::spawn(self.start(session, query, permit));
        match timeout(BUS_PATIENCE, started).await {
            Ok(started) => started.unwrap_or(Err(ApiError::Internal)),
            Err(_) => Err(ApiError::BusUnreachable),
        }
    }

    /// Returns the response of the first call if this one repeats it, and `refusal` if it is new.
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
        Ok(StoredResponse::read(session, &kept)?.into_response(query_id.clone(), generation))
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
            Ok(Claimed::Now(generation)) => permit.claimed(*generation),
            // The claim may still be executed, so the query stays registered.
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

    async fn answer(&self, plan: &Plan) -> Result<StoredResponse, ApiError> {
        let ideal = if plan.is_costly() {
            let plan = plan.clone();
            let ideal = tokio::task::spawn_blocking(move || plan.ideal()).await;
            ideal.map_err(|_| ApiError::Internal)?
        } else {
            plan.ideal()
        };
        Ok(StoredResponse {
            tokens: plan.tokens(),
            boot_id: self.boot_id.clone(),
            server: Some(self.config.instance.clone()),
            ideal_ttft_ms: ideal.ttft.as_secs_f64() * 1e3,
            ideal_e2el_ms: ideal.e2el.as_secs_f64() * 1e3,
            ideal_gap_ms: Some(ideal.gap.as_secs_f64() * 1e3),
            attempt: Uuid::new_v4(),
        })
    }

    /// Claims the session. After an error the outcome is unknown, so the claim is repeated. The stored response then shows whether the
    /// first claim succeeded.
    async fn claim(
        &self,
        session: SessionId,
        query_id: &str,
        answer: &StoredResponse,
    ) -> Result<Claimed, ApiError> {
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
                    let kept = StoredResponse::read(session, &kept)?;
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
            // After a final refusal, further claims would only occupy the permit.
            let refused = error.refusal() == Some(Refusal::Final);
            if refused || Instant::now() + backoff >= deadline {
                self.metrics.claims_unsettled.inc();
                tracing::warn!(%session, %error, "gave up a claim of unknown outcome");
                return Err(ApiError::BusUnreachable);
            }
            // Random pauses, so that claims that lost Redis together do not return together.
            sleep(backoff.mul_f64(rand::random_range(0.5..1.0))).await;
            backoff = (backoff * 2).min(CLAIM_BACKOFF.end);
        }
    }

    /// Hands a claimed query to its worker. Its stream starts now.
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

    /// Ends a claimed query whose worker has stopped. If the bus does not accept the terminator, a peer ends the query.
    async fn end_unplayed(&self, (session, generation): StreamId, query_id: &str, now_us: u64) {
        let position = Position::new(generation, 1);
        let mut batch = Batch::default();
        batch.push(session, position, Kind::Error, |out| {
            let nothing = Digester::default().digest();
            let message = worker::SHUTDOWN;
            encode_verified_error(out, position, "shutdown", message, nothing, query_id, now_us, now_us);
        });
        if let Err(error) = self.bus.append(&batch).await {
            tracing::warn!(%session, %error, "a query claimed during the shutdown could not be ended, a peer will end it");
        }
    }

    fn worker_of(&self, session: SessionId) -> &mpsc::Sender<Command> {
        let n = session.uuid().as_u128() % self.workers.len() as u128;
        &self.workers[n as usize]
    }

    /// Passes the messages of other processes to the workers, until the bus closes.
    pub(crate) async fn handle_control(self: Arc<Self>, mut control: mpsc::Receiver<Control>) {
        while let Some(message) = control.recv().await {
            match message {
                Control::Cancel { session, generation } => {
                    // A worker that has stopped has no streams to cancel.
                    let _ = self.worker_of(session).send(Command::Cancel((session, generation))).await;
                }
            }
        }
    }
}

/// A session that is claimed for the query.
enum Claimed {
    /// Claimed by this call, which starts the stream.
    Now(u64),
    /// Claimed by an earlier call, which started the stream and stored this response.
    Before(u64, StoredResponse),
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
        let answer = StoredResponse {
            tokens: 1,
            boot_id: None,
            server: None,
            ideal_ttft_ms: 0.0,
            ideal_e2el_ms: 0.0,
            ideal_gap_ms: None,
            attempt: Uuid::from_u128(2),
        };
        let claimed = runs.claim(session, "q", &answer).await;
        assert!(matches!(claimed, Err(ApiError::BusUnreachable)));
        let at = bus.claimed_at();
        (at.windows(2).map(|two| two[1] - two[0]).collect(), metrics.claims_unsettled.get())
    }

    /// The pauses double up to a bound, are shortened at random by at most a half, and end after a minute.
    #[tokio::test(start_paused = true)]
    async fn a_claim_of_unknown_outcome_is_repeated_with_growing_pauses() {
        let (pauses, unsettled) = give_up(&[Failure::Lost; 1_000]).await;
        let mut longest = CLAIM_BACKOFF.start;
        for (n, pause) in pauses.iter().enumerate() {
            // Timers of the runtime have a resolution of 1 ms.
            let most = longest + Duration::from_millis(2);
            assert!(
                *pause >= longest / 2 && *pause <= most,
                "pause {n} is {pause:?}, and not up to {longest:?}"
            );
            longest = (longest * 2).min(CLAIM_BACKOFF.end);
        }
        let distinct: std::collections::BTreeSet<_> = pauses.iter().skip(6).collect();
        assert!(distinct.len() > pauses.len() / 2, "claims must not return together: {pauses:?}");
        let all: Duration = pauses.iter().sum();
        assert!(all <= CLAIM_PATIENCE && all > CLAIM_PATIENCE - 2 * CLAIM_BACKOFF.end, "{all:?}");
        assert_eq!(unsettled, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_finally_refused_claim_is_given_up_at_once() {
        let (pauses, unsettled) = give_up(&[Failure::Lost, Failure::Refused, Failure::Lost]).await;
        assert_eq!((pauses.len(), unsettled), (1, 1));
    }
}
