//! What the gateway answers over HTTP: its health, its metrics, and the upgrade that opens a socket. It reads no body.

use crate::{
    admission::{Admission, Refusal, knock},
    gateway::{Gateway, tell_to_move},
    outbox::Outbox,
    session::{self, Session},
    sources::Peer,
};
use bus::{AttachError, Start};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use protocol::ErrorBody;
use std::sync::Arc;
use tracing::debug;

pub(crate) type Answer = Response<Full<Bytes>>;

/// Answers one request of `peer`.
pub(crate) async fn answer<B>(gateway: &Arc<Gateway>, peer: Peer, mut request: Request<B>) -> Answer {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/health" if reads => status("alive"),
        "/ready" if reads => match gateway.unready() {
            None => status("ready"),
            Some(why) => fault(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        "/metrics" if reads => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            body(StatusCode::OK, kind, gateway.exporter.text())
        }
        _ => match upgrade(gateway, peer, &mut request).await {
            Ok(answer) => {
                gateway.terms.metrics.upgrade("ok");
                answer
            }
            Err(refusal) => {
                gateway.terms.metrics.upgrade(refusal.label());
                refuse(&refusal)
            }
        },
    }
}

/// Admits the request, attaches its session, and leaves the rest to the session's task.
async fn upgrade<B>(gateway: &Arc<Gateway>, peer: Peer, request: &mut Request<B>) -> Result<Answer, Refusal> {
    // Before the drain is looked at: one that begins later waits for this answer and its socket.
    let _opening = gateway.sessions.token();
    if gateway.draining.is_cancelled() {
        return Err(Refusal::Draining);
    }
    // The token comes first: only a good one takes a place from others.
    let admitted = knock(request)?.admit(request, &gateway.verifier);
    let Admission { session, start, expires, accept, subprotocol } =
        admitted.map_err(|refusal| match refusal {
            Refusal::NoToken | Refusal::Token(_) => gateway.refuse_token(peer, request.headers(), refusal),
            other => other,
        })?;
    let permit = gateway.slots.clone().try_acquire_owned().map_err(|_| Refusal::Full)?;
    gateway.enter()?;
    let outbox = Outbox::new(gateway.terms.clone(), expires);
    let attachment = gateway.bus.attach(session, start, outbox.clone()).await.map_err(|error| {
        debug!(%session, "not attached: {error}");
        match error {
            AttachError::Beyond { .. } => Refusal::BeyondTheEnd(error.to_string()),
            AttachError::Bus(_) => Refusal::BusDown,
        }
    })?;
    outbox.start_at(attachment.start());
    let seat = gateway.roster.seat(outbox.clone());
    if gateway.moving.is_cancelled() {
        // The drain may have read the roster just before.
        tell_to_move(&outbox, 0);
    }
    let resumes = matches!(start, Start::After(_));
    let session = Session { id: session, resumes, attachment, outbox, seat, permit };
    let upgrade = hyper::upgrade::on(request);
    gateway.sessions.spawn(session::run(gateway.clone(), session, upgrade));
    Ok(switching_protocols(&accept, subprotocol))
}

fn switching_protocols(accept: &str, subprotocol: bool) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("bearer"));
    }
    answer
}

fn refuse(refusal: &Refusal) -> Answer {
    let mut answer = fault(refusal.status(), &refusal.to_string());
    if let Some((name, value)) = refusal.header() {
        answer.headers_mut().insert(name, value);
    }
    if let Some(wait) = refusal.retry_after_ms() {
        answer.headers_mut().insert("retry-after-ms", wait.into());
    }
    let connection = match refusal.status() {
        StatusCode::UPGRADE_REQUIRED => Some("upgrade"),
        // The next attempt costs a connection.
        StatusCode::TOO_MANY_REQUESTS => Some("close"),
        _ => None,
    };
    if let Some(value) = connection {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static(value));
    }
    answer
}

fn fault(status: StatusCode, detail: &str) -> Answer {
    let detail = ErrorBody { detail: detail.to_owned() };
    body(status, "application/json", serde_json::to_string(&detail).expect("a string always encodes"))
}

fn status(word: &str) -> Answer {
    body(StatusCode::OK, "application/json", format!(r#"{{"status":"{word}"}}"#))
}

fn body(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut answer = Answer::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
