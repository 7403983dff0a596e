//! Which requests become sockets, and the responses to the others.

use crate::rig::{Client, KEY, Proxy, Writer, sign, soon, start, start_with, token_for, unix_seconds};
use protocol::{Claims, SessionId};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

#[tokio::test]
async fn bad_tokens() {
    let (writer, proxy) = start().await;
    let session = writer.session;
    let claims = Claims { session_id: session, iat: unix_seconds(), exp: None };
    let good = token_for(session);
    let (_, rest) = good.split_once('.').unwrap();
    let (payload, _) = rest.split_once('.').unwrap();
    let other = Claims { session_id: SessionId::new(Uuid::new_v4()), ..claims.clone() };
    for (what, token, detail) in [
        ("malformed", "a.b.c".to_owned(), "malformed"),
        // {"typ":"JWT","alg":"none"} and {"typ":"JWT","alg":"HS512"}
        ("alg none", format!("eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.{payload}."), "token"),
        ("other algorithm", format!("eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzUxMiJ9.{rest}"), "not signed"),
        ("other key", sign("another key of thirty-two bytes!!", &claims), "not signed"),
        ("other session", sign(KEY, &other), "another session"),
        ("expired", sign(KEY, &Claims { exp: Some(1000), ..claims.clone() }), "expired"),
        ("huge", "x".repeat(5000), "longer than"),
    ] {
        let request = proxy.request_with(session, "authorization", &format!("Bearer {token}"));
        let (status, said, _) = proxy.refusal(request).await;
        assert_eq!(status, 403, "{what}");
        assert!(said.contains(detail), "{what}: {said}");
        assert!(!said.contains(&token), "{what}: {said}");
    }
    let (status, _, headers) = proxy.refusal(proxy.bare_request(&format!("/agent/ws/{session}"))).await;
    assert_eq!((status, headers["www-authenticate"].to_str().unwrap()), (401, "Bearer"));
    proxy.metric(r#"wsproxy_upgrades_total{result="bad_token"} 7"#).await;
    proxy.metric("wsproxy_connections 0").await;
}

#[tokio::test]
async fn a_browser_offers_its_token_as_a_subprotocol() {
    let (writer, proxy) = start().await;
    let mut request = proxy.bare_request(&format!("/agent/ws/{}?last_event_id=0", writer.session));
    let offer = format!("bearer, {}", token_for(writer.session));
    request.headers_mut().insert("sec-websocket-protocol", offer.parse().unwrap());
    // The client rejects a response that names none of its subprotocols.
    Client::open(proxy.address, request).await.unwrap();
}

#[tokio::test]
async fn bad_paths_and_positions() {
    let (writer, proxy) = start().await;
    for path in ["/", "/agent", "/agent/ws/", "/agent/ws/not-a-uuid", "/agent/ws/*", "/agent/x/y/z"] {
        assert_eq!(proxy.refusal(proxy.bare_request(path)).await.0, 404, "{path}");
    }
    for position in ["x", "1", "1-2-3", "99999999999999-1"] {
        let request = proxy.request_with(writer.session, "last-event-id", position);
        let (status, said, _) = proxy.refusal(request).await;
        assert_eq!(status, 400, "{position}");
        assert!(said.contains(position), "{said}");
    }
}

/// A resume after a position that does not exist yet is refused, and the response names the position. The open socket of the session
/// continues.
#[tokio::test]
async fn a_position_beyond_the_end_is_refused() {
    let (mut writer, proxy) = start().await;
    let mut open = proxy.connect(writer.session).await;
    writer.query(3).await;
    assert_eq!(open.query().await.0, writer.positions(1, 4));
    let beyond = writer.positions(5, 5)[0].to_string();
    let request = proxy.request_with(writer.session, "last-event-id", &beyond);
    let (status, said, _) = proxy.refusal(request).await;
    assert_eq!(status, 400, "{said}");
    assert!(said.contains(&beyond) && said.contains(&writer.positions(4, 4)[0].to_string()), "{said}");
    proxy.metric(r#"wsproxy_upgrades_total{result="bad_position"} 1"#).await;
    writer.query(2).await;
    assert_eq!(open.query().await.0, writer.positions(1, 3));
}

#[tokio::test]
async fn plain_http_gets_a_response() {
    let (writer, proxy) = start().await;
    assert_eq!(proxy.get("/health").await.0, 200);
    assert_eq!(proxy.get("/ready").await.0, 200);
    assert_eq!(proxy.get(&format!("/agent/ws/{}", writer.session)).await.0, 426);
    let (status, metrics) = proxy.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.ends_with("# EOF\n") && metrics.contains("bus_appended_total"), "{metrics}");
    let address = proxy.address;
    tokio::task::spawn_blocking(move || host::check_ready(address)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_gateway_sends_retry_after_and_still_answers_probes() {
    let (writer, proxy) = start_with(|config| config.max_connections = 1).await;
    let first = proxy.connect(writer.session).await;
    let (status, _, headers) = proxy.refusal(proxy.request(writer.session)).await;
    assert_eq!((status, headers.contains_key("retry-after")), (503, true));
    assert_eq!(proxy.get("/ready").await.0, 200);
    first.close().await;
    proxy.metric("wsproxy_connections 0").await;
    soon(async {
        while Client::open(proxy.address, proxy.request(writer.session)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Checks that the gateway closes a connection whose request never ends.
async fn cut_off(mut drip: impl FnMut() -> Option<&'static [u8]>) {
    let writer = Writer::new().await;
    let header_timeout = Duration::from_millis(100);
    let proxy = Proxy::start_with(&writer.bus, |config| config.header_timeout = header_timeout).await;
    let mut stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    soon(async {
        let mut answer = [0; 512];
        loop {
            tokio::select! {
                read = stream.read(&mut answer) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                },
                () = tokio::time::sleep(Duration::from_millis(20)) => {
                    if let Some(bytes) = drip() && stream.write_all(bytes).await.is_err() {
                        return;
                    }
                }
            }
        }
    })
    .await;
    assert_eq!(proxy.get("/health").await.0, 200);
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    cut_off(|| None).await;
}

#[tokio::test]
async fn a_connection_that_sends_a_byte_at_a_time_is_closed() {
    let mut request = b"GET / HTTP/1.1\r\nX-Endless: ".chunks(1);
    cut_off(move || Some(request.next().unwrap_or(b"x"))).await;
}

#[tokio::test]
async fn a_head_that_never_fits_is_refused() {
    let (_writer, proxy) = start().await;
    let mut stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    let head = format!("GET /health HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn upgrades_above_the_rate_are_refused_with_a_time_to_retry() {
    let (writer, proxy) = start_with(|config| {
        config.connect_rate = 1;
        config.connect_burst = 3;
    })
    .await;
    // Neither a probe nor a request that can never become a socket counts towards the rate.
    for _ in 0..4 {
        assert_eq!(proxy.get("/ready").await.0, 200);
        assert_eq!(proxy.refusal(proxy.bare_request("/nowhere")).await.0, 404);
    }
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(proxy.connect(Writer::on(&writer.bus).await.session).await);
    }
    let mut waits = Vec::new();
    for _ in 0..3 {
        let (status, detail, headers) = proxy.refusal(proxy.request(writer.session)).await;
        assert_eq!(status, 503, "{detail}");
        waits.push(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap());
        let exact = headers["retry-after-ms"].to_str().unwrap().parse::<u64>().unwrap();
        assert!(exact <= waits[waits.len() - 1] * 1000, "{exact} ms");
    }
    assert!(waits.is_sorted() && waits[0] >= 1 && waits[2] > waits[0], "the delays must grow: {waits:?}");
    proxy.metric(r#"wsproxy_upgrades_total{result="rate"} 3"#).await;
}

/// Returns the refusal of a request with a bad token, as a proxy forwards it for `client`.
async fn bad_token(proxy: &Proxy, session: SessionId, client: &str) -> (u16, String, http::HeaderMap) {
    let mut request = proxy.request_with(session, "authorization", "Bearer not-a-token");
    request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
    proxy.refusal(request).await
}

#[tokio::test]
async fn a_flood_of_bad_tokens_affects_its_own_address_alone() {
    let (writer, proxy) = start_with(|config| {
        config.connect_rate = 1;
        config.connect_burst = 3;
        config.bad_token_rate = 1;
        config.trusted_proxies = "127.0.0.1".parse().unwrap();
    })
    .await;
    let mut statuses = Vec::new();
    for _ in 0..30 {
        let (status, detail, headers) = bad_token(&proxy, writer.session, "198.51.100.7").await;
        statuses.push(status);
        assert_eq!(status == 429, headers.contains_key("retry-after"), "{detail}");
    }
    assert_eq!((statuses[0], statuses[3], statuses[29]), (403, 403, 429), "{statuses:?}");
    let (status, ..) = bad_token(&proxy, writer.session, "198.51.100.8").await;
    assert_eq!(status, 403, "another address must get the reason of its refusal");
    // The flood does not affect clients with valid tokens, even from the same address.
    for _ in 0..3 {
        let request =
            proxy.request_with(Writer::on(&writer.bus).await.session, "x-forwarded-for", "198.51.100.7");
        Client::open(proxy.address, request).await.unwrap();
    }
    proxy.metric("wsproxy_bad_token_sources 2").await;
}

#[tokio::test]
async fn an_address_from_an_untrusted_proxy_is_ignored() {
    let (writer, proxy) = start_with(|config| config.bad_token_rate = 1).await;
    let mut statuses = Vec::new();
    for n in 0..30 {
        statuses.push(bad_token(&proxy, writer.session, &format!("198.51.100.{n}")).await.0);
    }
    assert_eq!(statuses[29], 429, "{statuses:?}");
    proxy.metric("wsproxy_bad_token_sources 1").await;
}

#[tokio::test]
async fn an_upgrade_with_a_body_is_refused() {
    let (writer, proxy) = start().await;
    let request = proxy.request_with(writer.session, "content-length", "5");
    let (status, detail, _) = proxy.refusal(request).await;
    assert_eq!(status, 400, "{detail}");
    assert!(detail.contains("no body"), "{detail}");
}

/// Connections without a request are closed to make room for those with one.
#[tokio::test]
async fn silent_connections_do_not_lock_others_out() {
    let (writer, proxy) = start_with(|config| config.max_connections = 1).await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(tokio::net::TcpStream::connect(proxy.address).await.unwrap());
    }
    let client = proxy.connect(writer.session).await;
    assert_eq!(
        soon(silent[0].read(&mut [0])).await.unwrap_or(0),
        0,
        "the oldest silent connection must be closed"
    );
    let (_, metrics) = proxy.get("/metrics").await;
    assert!(metrics.contains(r#"wsproxy_not_accepted_total{reason="silent"}"#), "{metrics}");
    client.close().await;
}
