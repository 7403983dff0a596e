//! Protects the page from other sites in the user's browser and from other users of the machine or the network. Every request passes
//! [`protect`] before anything else looks at it.
//!
//! - The `Host` must be a name of this page: a site whose name was rebound to this address has another one.
//! - The `Origin`, if there is one, must be the page's. Requests that change something must have one.
//! - Everything under `/api/` needs the access token in a header, which a browser never adds by itself.
//! - Bodies are small, complete within seconds, and JSON.

use crate::{connections::Connection, page::Page, refusal::Refusal};
use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, ORIGIN,
            REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// Largest body in bytes.
const LARGEST_BODY: usize = 64 << 10;
/// Time for the body to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// What the page may load. It has no inline scripts or styles, and loads nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const OTHERS: [(HeaderName, &str); 4] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Refuses a request that does not come from the page, and adds the headers that protect every answer.
pub(crate) async fn protect(State(page): State<Arc<Page>>, request: Request, next: Next) -> Response {
    let mut response = match check(&page, request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    headers.entry(X_FRAME_OPTIONS).or_insert(HeaderValue::from_static("DENY"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in OTHERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn check(page: &Page, request: Request) -> Result<Request, Refusal> {
    let forbidden = |detail: &str| Refusal::new(StatusCode::FORBIDDEN, detail);
    let (head, body) = request.into_parts();
    if head.uri.authority().is_some() {
        return Err(Refusal::bad("this server is not a proxy: expected a path"));
    }
    let host = only(&head.headers, &HOST).filter(|host| page.settings.is_own(host)).ok_or_else(|| {
        Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "unknown Host: open the page by the address that it printed, or allow the name with --web-allow",
        )
    })?;
    let changes = !matches!(head.method, Method::GET | Method::HEAD);
    let is_api = head.uri.path().starts_with("/api/");
    match only(&head.headers, &ORIGIN) {
        Some(origin) if origin != page.settings.origin(host) => {
            return Err(forbidden("this request comes from another site"));
        }
        None if changes || head.headers.contains_key(ORIGIN) => {
            return Err(forbidden("a request that changes something must have an Origin"));
        }
        _ => {}
    }
    let site = head.headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if is_api && site.is_some_and(|site| site != b"same-origin") {
        return Err(forbidden("this request comes from another site"));
    }
    if is_api {
        if !page.token.is_in(head.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)) {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "missing or wrong access token: open the page by the address that it printed",
            ));
        }
        if let Some(connection) = head.extensions.get::<Arc<Connection>>() {
            connection.trust();
        }
    } else if changes {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only /api/ changes anything"));
    }
    let bytes = match timeout(BODY_WITHIN, to_bytes(body, LARGEST_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let detail = format!("the body is longer than {LARGEST_BODY} bytes, or broke off");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        Err(_) => return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    };
    let is_json = only(&head.headers, &CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !bytes.is_empty() && !is_json {
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected application/json"));
    }
    Ok(Request::from_parts(head, Body::from(bytes)))
}

/// Returns the value of a header that is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().filter(|_| values.next().is_none())?;
    first.to_str().ok()
}
