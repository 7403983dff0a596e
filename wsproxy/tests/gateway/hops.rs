//! Sockets that ask for the gateway's times: sampled live tokens carry them, and nothing else changes.

use crate::{
    collector::collector,
    rig::{Client, Proxy, hops_request, soon, start, start_with},
};
use futures_util::StreamExt;
use protocol::{BOOT_ID_HEADER, Event, Frame, GatewayStamps, Kind};
use tokio_tungstenite::{client_async, tungstenite::Message};

/// Returns the texts of a client up to the end of the query.
async fn texts(client: &mut Client) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    while !texts.last().is_some_and(|text| text.contains(r#""type":"done""#)) {
        match soon(client.0.next()).await {
            Some(Ok(Message::Text(text))) => texts.push(text.to_string()),
            Some(Ok(Message::Ping(_))) => {}
            other => panic!("{other:?} after {texts:?}"),
        }
    }
    texts
}

fn event(text: &str) -> Event<'_> {
    match Frame::parse(text) {
        Ok(Frame::Event(event)) => event,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_nth_live_token_carries_the_times_and_a_replay_does_not() {
    let (mut writer, proxy) = start().await;
    let session = writer.session;
    let mut client = Client::open(proxy.address, hops_request(proxy.address, session, 4)).await.unwrap();
    let began = host::monotonic_us();
    writer.query(10).await;
    let live = texts(&mut client).await;
    let ended = host::monotonic_us();
    for (seq, text) in (1..).zip(&live) {
        let event = event(text);
        assert_eq!(event.position.unwrap().seq, seq);
        let is_sampled = event.kind == Kind::Token && [1, 5, 9].contains(&seq);
        assert_eq!(event.stamps.is_some(), is_sampled, "{text}");
        if let Some(GatewayStamps { received_us, written_us }) = event.stamps {
            assert!([began, received_us, written_us, ended].is_sorted(), "{text}");
        }
    }
    drop(client);
    let mut request = hops_request(proxy.address, session, 4);
    request.headers_mut().insert("last-event-id", "0".parse().unwrap());
    let mut client = Client::open(proxy.address, request).await.unwrap();
    let replayed = texts(&mut client).await;
    assert_eq!(replayed.len(), live.len());
    for (replayed, live) in replayed.iter().zip(&live) {
        assert_eq!(event(replayed).stamps, None);
        let plain = live.split(r#","recv_us""#).next().unwrap().trim_end_matches('}');
        assert_eq!(
            replayed.trim_end_matches('}'),
            plain,
            "apart from the times, frames are equal byte by byte"
        );
    }
}

/// Returns the clock that the response to an upgrade names.
async fn named_clock(
    proxy: &Proxy,
    request: tokio_tungstenite::tungstenite::handshake::client::Request,
) -> Option<String> {
    let stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    let (_, response) = soon(client_async(request, stream)).await.unwrap();
    response.headers().get(BOOT_ID_HEADER).map(|id| id.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_response_names_the_clock_of_the_times_to_those_who_asked() {
    let (writer, proxy) = start().await;
    assert_eq!(named_clock(&proxy, proxy.request(writer.session)).await, None);
    let asked = hops_request(proxy.address, writer.session, 16);
    assert_eq!(named_clock(&proxy, asked).await, host::boot_id());
    let mut rolled = hops_request(proxy.address, writer.session, 16);
    *rolled.uri_mut() = format!("{}&rollup=40", rolled.uri()).parse().unwrap();
    assert_eq!(named_clock(&proxy, rolled).await, None, "a rolled frame carries no times");
}

#[tokio::test]
async fn wrong_hops_are_refused_with_what_is_expected() {
    let (writer, proxy) = start().await;
    for every in [0, 1_000_001] {
        let (status, detail, _) = proxy.refusal(hops_request(proxy.address, writer.session, every)).await;
        assert_eq!((status, detail.contains("?hops=16")), (400, true), "{detail}");
    }
    proxy.metric(r#"wsproxy_upgrades_total{result="bad_hops"} 2"#).await;
}

/// Sampled tokens, upgrades and the event loop are measured, and a gateway pushes its last metrics when it ends.
#[tokio::test]
async fn what_a_gateway_measures_is_pushed_at_its_end() {
    let (address, exports) = collector("200 OK");
    let otlp = telemetry::push_url(&format!("http://{address}")).unwrap();
    let (mut writer, proxy) = start_with(|config| config.otlp = Some(otlp)).await;
    let mut client =
        Client::open(proxy.address, hops_request(proxy.address, writer.session, 4)).await.unwrap();
    writer.query(10).await;
    texts(&mut client).await;
    proxy.metric("wsproxy_sampled_token_seconds_count 3").await;
    proxy.metric("wsproxy_upgrade_seconds_count 1").await;
    drop(client);
    let Proxy { shutdown, .. } = &proxy;
    shutdown.cancel();
    let export =
        tokio::task::spawn_blocking(move || exports.recv_timeout(std::time::Duration::from_secs(20)));
    let export = export.await.unwrap().expect("an export");
    let export = String::from_utf8_lossy(&export);
    for name in ["wsproxy_upgrade_seconds", "wsproxy_events", "streamstress-wsproxy"] {
        assert!(export.contains(name), "{name} was not pushed");
    }
}
