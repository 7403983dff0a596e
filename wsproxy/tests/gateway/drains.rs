//! Drains: the gateway closes its clients one after the other, and a stream pauses only for a reconnect.

use crate::rig::{Client, Proxy, Seen, Writer, soon, start_with};
use protocol::{CloseReason, Kind, Position};
use std::time::{Duration, Instant};

const MILLISECOND: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_drain_closes_every_client_and_loses_nothing() {
    let mut writer = Writer::new().await;
    let other = Writer::on(&writer.bus).await;
    let mut proxy =
        Proxy::start_with(&writer.bus, |config| config.drain_window = Duration::from_millis(500)).await;
    let (mut client, mut second) = (proxy.connect(writer.session).await, proxy.connect(other.session).await);
    writer.claim().await;
    writer.tokens(3, 5).await;
    proxy.shutdown.cancel();
    // The gateway waits, because the clients have not responded to the close frame yet.
    proxy.unready().await;
    assert_eq!(proxy.get("/health").await.0, 200);
    let (status, _, headers) = proxy.refusal(proxy.request(writer.session)).await;
    assert_eq!((status, headers.contains_key("retry-after")), (503, true));
    let (tokens, close) = client.query().await;
    assert_eq!(tokens, writer.positions(1, 3));
    let delay = |close: Seen| match close {
        Seen::Close(1012, text) => CloseReason::reconnect_after_ms(&text).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_ne!(delay(close), delay(second.next().await), "the clients must get different delays");
    assert_eq!((client.next().await, second.next().await), (Seen::End, Seen::End));
    soon(&mut proxy.task).await.unwrap().unwrap();
    let next = Proxy::start(&writer.bus).await;
    let mut client = next.connect(writer.session).await;
    writer.tokens(2, 5).await;
    writer.done().await;
    assert_eq!(client.query().await.0, writer.positions(4, 6));
}

#[tokio::test]
async fn a_drain_has_a_time_limit() {
    let (writer, mut proxy) = start_with(|config| config.drain = Duration::from_millis(50)).await;
    let _silent = proxy.connect(writer.session).await;
    proxy.shutdown.cancel();
    soon(&mut proxy.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn sockets_stay_open_while_the_balancer_notices() {
    let (mut writer, mut proxy) = start_with(|config| {
        config.drain_delay = 400 * MILLISECOND;
        config.drain_window = Duration::ZERO;
    })
    .await;
    let mut client = proxy.connect(writer.session).await;
    writer.claim().await;
    let cancelled = Instant::now();
    proxy.shutdown.cancel();
    proxy.unready().await;
    assert_eq!(proxy.refusal(proxy.request(writer.session)).await.0, 503);
    writer.tokens(1, 5).await;
    assert_eq!(client.next().await, Seen::Event(writer.positions(1, 1)[0], Kind::Token));
    let close = client.next().await;
    assert!(matches!(close, Seen::Close(1012, _)), "{close:?}");
    assert!(cancelled.elapsed() >= 400 * MILLISECOND, "closed after {:?}", cancelled.elapsed());
    assert_eq!(client.next().await, Seen::End);
    soon(&mut proxy.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_without_sockets_ends_at_once() {
    let (_writer, mut proxy) = start_with(|config| config.drain_delay = Duration::from_secs(100)).await;
    proxy.shutdown.cancel();
    let before = Instant::now();
    soon(&mut proxy.task).await.unwrap().unwrap();
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
}

/// Returns when each client got its close frame, and the delay in it in milliseconds, sorted by time.
async fn close_frames(clients: Vec<Client>) -> Vec<(Instant, u64)> {
    let mut waiting = tokio::task::JoinSet::new();
    for mut client in clients {
        waiting.spawn(async move {
            let Seen::Close(1012, text) = client.next().await else {
                panic!("expected a close frame with code 1012")
            };
            let at = Instant::now();
            assert_eq!(client.next().await, Seen::End);
            (at, CloseReason::reconnect_after_ms(&text).unwrap())
        });
    }
    let mut frames = soon(waiting.join_all()).await;
    frames.sort();
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_close_frames_have_no_peak() {
    const SOCKETS: usize = 200;
    let (writer, mut proxy) = start_with(|config| config.drain_window = Duration::from_secs(2)).await;
    let mut clients = Vec::new();
    for _ in 0..SOCKETS {
        clients.push(proxy.connect(Writer::on(&writer.bus).await.session).await);
    }
    proxy.shutdown.cancel();
    let frames = close_frames(clients).await;
    let span = frames[SOCKETS - 1].0 - frames[0].0;
    assert!(span >= Duration::from_millis(1900), "all close frames arrived within {span:?}");
    // The gateway closes five clients per slice of 50 ms, and 100 ms overlap three slices. The limit is higher because a busy machine may
    // delay the clients of this test.
    let peak = (0..SOCKETS)
        .map(|from| {
            frames[from..].iter().take_while(|(at, _)| *at - frames[from].0 < 100 * MILLISECOND).count()
        })
        .max();
    assert!(peak <= Some(40), "{peak:?} of {SOCKETS} close frames arrived within 100 ms");
    let delays: std::collections::BTreeSet<_> = frames.iter().map(|(_, delay)| *delay).collect();
    assert!(delays.len() > 25 && delays.iter().all(|delay| *delay < 50), "{delays:?}");
    soon(&mut proxy.task).await.unwrap().unwrap();
}

/// A request that is in progress when the drain begins still becomes a socket. The gateway closes it with 1012 before it ends.
#[tokio::test]
async fn a_socket_that_opens_during_the_drain_is_closed_too() {
    let writer = Writer::new().await;
    let (first, mut draining) = (Proxy::start(&writer.bus).await, Proxy::start(&writer.bus).await);
    // The next socket waits until this client responds to its close frame, which it never does.
    let _deaf = first.connect(writer.session).await;
    let (address, request) = (draining.address, draining.request(writer.session));
    let opening = tokio::spawn(async move { Client::open(address, request).await.unwrap() });
    first.metric(r#"wsproxy_closes_total{reason="taken_over"} 1"#).await;
    draining.shutdown.cancel();
    let mut client = soon(opening).await.unwrap();
    assert!(matches!(client.next().await, Seen::Close(1012, _)));
    // The client has not responded to the close frame yet.
    tokio::time::sleep(100 * MILLISECOND).await;
    assert!(!draining.task.is_finished(), "the gateway ended before its last socket");
    assert_eq!(client.next().await, Seen::End);
    soon(&mut draining.task).await.unwrap().unwrap();
}

/// Streams continue during a drain: each client reconnects to another gateway when it is closed, and gets every token once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_streams_continue_elsewhere_without_a_loss() {
    const STREAMS: usize = 20;
    const TOKENS: u64 = 100;
    let first = Writer::new().await;
    let mut old = Proxy::start_with(&first.bus, |config| {
        config.drain_delay = 100 * MILLISECOND;
        config.drain_window = 500 * MILLISECOND;
    })
    .await;
    let next = Proxy::start(&first.bus).await;
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let mut writer = Writer::on(&first.bus).await;
        let mut client = old.connect(writer.session).await;
        let (session, address) = (writer.session, next.address);
        let reading = tokio::spawn(async move {
            let (mut have, mut moved) = (Vec::new(), None::<Client>);
            loop {
                let (tokens, then) = moved.as_mut().unwrap_or(&mut client).query().await;
                have.extend(tokens);
                match then {
                    Seen::Event(..) => return (have, moved.is_some()),
                    Seen::Resumed(_) => {}
                    Seen::Close(1012, _) => {
                        let after = have.last().map_or("0".to_owned(), Position::to_string);
                        let mut request = crate::rig::request(address, session);
                        request.headers_mut().insert("last-event-id", after.parse().unwrap());
                        moved = Some(Client::open(address, request).await.unwrap());
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        streams.spawn(async move {
            writer.claim().await;
            for _ in 0..TOKENS {
                writer.tokens(1, 5).await;
                tokio::time::sleep(10 * MILLISECOND).await;
            }
            writer.done().await;
            let (have, moved) = soon(reading).await.unwrap();
            assert_eq!(have, writer.positions(1, TOKENS + 1));
            moved
        });
    }
    old.shutdown.cancel();
    let moved = soon(streams.join_all()).await;
    assert_eq!(
        moved.iter().filter(|moved| **moved).count(),
        STREAMS,
        "every client must have been closed while its stream ran"
    );
    soon(&mut old.task).await.unwrap().unwrap();
}
