//! Handles HTTP requests: health, metrics, and the upgrade to a WebSocket. It reads no bodies.

use crate::{
    admission::Admission,
    gateway::{Gateway, close_for_drain},
    handshake::check_handshake,
    outbox::{Form, Outbox},
    refusal::Refusal,
    session::{self, Session},
    sources::Peer,
};
use bus::{AttachError, Start};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use protocol::{BOOT_ID_HEADER, ErrorBody};
use std::{sync::Arc, time::Instant};
use tracing::debug;

pub(crate) type HttpResponse = Response<Full<Bytes>>;

/// Returns the response to one request of `peer`.
pub(crate) async fn respond<B>(gateway: &Arc<Gateway>, peer: Peer, mut request: Request<B>) -> HttpResponse {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/health" if is_read => status("alive"),
        "/ready" if is_read => match gateway.unready() {
            None => status("ready"),
            Some(why) => error_response(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        "/metrics" if is_read => body(StatusCode::OK, host::METRICS_TYPE, gateway.exporter.text()),
        _ => match (Instant::now(), upgrade(gateway, peer, &mut request).await) {
            (began, Ok(answer)) => {
                gateway.shared.metrics.upgrade_time.observe(began.elapsed());
                gateway.shared.metrics.upgrade("ok");
                answer
            }
            (_, Err(refusal)) => {
                gateway.shared.metrics.upgrade(refusal.label());
                refuse(&refusal)
            }
        },
    }
}

/// Admits the request, attaches its session, and starts the session's task.
///
/// # Errors
/// The first check that failed.
async fn upgrade<B>(
    gateway: &Arc<Gateway>,
    peer: Peer,
    request: &mut Request<B>,
) -> Result<HttpResponse, Refusal> {
    // Taken before the check of `draining`, so that a drain that begins later waits for this response and its socket.
    let _opening = gateway.sessions.token();
    if gateway.draining.is_cancelled() {
        return Err(Refusal::Draining);
    }
    // The token is checked first, so that only valid requests use permits and count for the rate.
    let admitted = Admission::check(check_handshake(request)?, request, &gateway.verifier);
    let Admission { session, start, rollup, hops, expires, accept, subprotocol } =
        admitted.map_err(|refusal| match refusal {
            Refusal::NoToken | Refusal::Token(_) => gateway.refuse_token(peer, request.headers(), refusal),
            other => other,
        })?;
    let permit = gateway.slots.clone().try_acquire_owned().map_err(|_| Refusal::Full)?;
    gateway.enter()?;
    let outbox = Outbox::new(gateway.shared.clone(), expires, Form { rollup, hops });
    let attachment = gateway.bus.attach(session, start, outbox.clone()).await.map_err(|error| {
        debug!(%session, "the session could not be attached: {error}");
        match error {
            AttachError::Beyond { .. } => Refusal::BeyondTheEnd(error.to_string()),
            AttachError::Bus(_) => Refusal::BusDown,
        }
    })?;
    outbox.start_at(attachment.start());
    let entry = gateway.sockets.add(outbox.clone());
    gateway.shared.metrics.serves_session();
    if gateway.closing.is_cancelled() {
        // The drain may have read the table before this socket was added.
        close_for_drain(&outbox, 0);
    }
    let resumes = matches!(start, Start::After(_));
    let session = Session { id: session, resumes, attachment, outbox, entry, permit };
    let upgrade = hyper::upgrade::on(request);
    gateway.sessions.spawn(session::run(gateway.clone(), session, upgrade));
    let mut answer = switching_protocols(&accept, subprotocol);
    if let (Some(_), Some(boot_id)) = (hops, &gateway.boot_id) {
        answer.headers_mut().insert(BOOT_ID_HEADER, boot_id.clone());
    }
    Ok(answer)
}

fn switching_protocols(accept: &str, subprotocol: bool) -> HttpResponse {
    let mut answer = HttpResponse::default();
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

fn refuse(refusal: &Refusal) -> HttpResponse {
    let mut answer = error_response(refusal.status(), &refusal.to_string());
    if let Some((name, value)) = refusal.header() {
        answer.headers_mut().insert(name, value);
    }
    if let Some(wait) = refusal.retry_after_ms() {
        answer.headers_mut().insert("retry-after-ms", wait.into());
    }
    let connection = match refusal.status() {
        StatusCode::UPGRADE_REQUIRED => Some("upgrade"),
        // Closing makes each further attempt cost a connection.
        StatusCode::TOO_MANY_REQUESTS => Some("close"),
        _ => None,
    };
    if let Some(value) = connection {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static(value));
    }
    answer
}

fn error_response(status: StatusCode, detail: &str) -> HttpResponse {
    let detail = ErrorBody { detail: detail.to_owned() };
    body(status, "application/json", serde_json::to_string(&detail).expect("a string always encodes"))
}

fn status(word: &str) -> HttpResponse {
    body(StatusCode::OK, "application/json", format!(r#"{{"status":"{word}"}}"#))
}

fn body(status: StatusCode, kind: &'static str, text: String) -> HttpResponse {
    let mut answer = HttpResponse::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
