//! Clients that read too slowly: they are closed, resume, and delay no other client.

use crate::rig::{Client, Proxy, Seen, Writer};
use protocol::{Kind, Position};
use std::time::{Duration, Instant};

const TOKENS: u64 = 400;
const TOKEN_BYTES: usize = 4096;

async fn small_buffers(writer: &Writer) -> Proxy {
    Proxy::start_with(&writer.bus, |config| {
        config.send_buffer_bytes = Some(8192);
        config.outbox_bytes = 64 << 10;
    })
    .await
}

/// Reads until the query is done, and resumes after each close. Returns the positions that arrived and the number of closes.
async fn collect(proxy: &Proxy, writer: &Writer, mut client: Client) -> (Vec<Position>, u32) {
    let (mut have, mut closes) = (Vec::new(), 0);
    loop {
        match client.next().await {
            Seen::Event(position, kind) => {
                have.push(position);
                if kind == Kind::Done {
                    return (have, closes);
                }
            }
            Seen::Resumed(_) => {}
            Seen::Close(4002, _) => {
                closes += 1;
                let last = have.last().map_or("0".to_owned(), Position::to_string);
                client = proxy.resume(writer.session, &last).await;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_resumes_and_delays_no_other() {
    let mut slow = Writer::new().await;
    let mut quick = Writer::on(&slow.bus).await;
    let proxy = small_buffers(&slow).await;
    let stuck = Client::open_narrow(proxy.address, proxy.request(slow.session)).await;
    let mut reader = proxy.connect(quick.session).await;
    slow.claim().await;
    quick.claim().await;
    let mut worst = Duration::ZERO;
    for _ in 0..TOKENS {
        slow.tokens(1, TOKEN_BYTES).await;
        let sent = Instant::now();
        quick.tokens(1, TOKEN_BYTES).await;
        assert!(matches!(reader.next().await, Seen::Event(..)));
        worst = worst.max(sent.elapsed());
    }
    slow.done().await;
    quick.done().await;
    assert!(worst < Duration::from_millis(500), "the other client waited {worst:?}");
    assert!(matches!(reader.next().await, Seen::Event(_, Kind::Done)));
    proxy.metric("wsproxy_outbox_overflows_total 1").await;
    let (have, closes) = collect(&proxy, &slow, stuck).await;
    assert_eq!(have, slow.positions(1, TOKENS + 1));
    assert_eq!(closes, 1, "a client that reads its replay must not be closed");
}

#[tokio::test]
async fn a_long_replay_is_read_in_pages_that_fit_the_outbox() {
    let mut writer = Writer::new().await;
    let proxy = small_buffers(&writer).await;
    writer.claim().await;
    writer.tokens(TOKENS, TOKEN_BYTES).await;
    writer.done().await;
    let request = proxy.request_with(writer.session, "last-event-id", "0");
    let client = Client::open_narrow(proxy.address, request).await;
    let (have, closes) = collect(&proxy, &writer, client).await;
    assert_eq!((have, closes), (writer.positions(1, TOKENS + 1), 0));
}

#[tokio::test]
async fn an_event_larger_than_the_outbox_passes() {
    let mut writer = Writer::new().await;
    let proxy = small_buffers(&writer).await;
    let mut client = proxy.connect(writer.session).await;
    writer.claim().await;
    writer.tokens(1, 300 << 10).await;
    let first = client.next().await;
    assert_eq!(first, Seen::Event(writer.positions(1, 1)[0], Kind::Token));
    writer.done().await;
    assert_eq!(client.query().await.0, writer.positions(2, 2));
}

/// Many clients that do not read do not delay one that does, and each of them gets the rest when it resumes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_slow_clients_delay_no_other_and_lose_nothing() {
    const SLOW: usize = 20;
    const ROUNDS: u64 = 200;
    let mut quick = Writer::new().await;
    let proxy = small_buffers(&quick).await;
    let mut stuck = Vec::new();
    for _ in 0..SLOW {
        let mut writer = Writer::on(&quick.bus).await;
        let client = Client::open_narrow(proxy.address, proxy.request(writer.session)).await;
        writer.claim().await;
        stuck.push((writer, client));
    }
    let mut reader = proxy.connect(quick.session).await;
    quick.claim().await;
    let mut waits = Vec::new();
    for _ in 0..ROUNDS {
        for (writer, _) in &mut stuck {
            writer.tokens(1, TOKEN_BYTES).await;
        }
        let sent = Instant::now();
        quick.tokens(1, 50).await;
        assert!(matches!(reader.next().await, Seen::Event(..)));
        waits.push(sent.elapsed());
    }
    waits.sort_unstable();
    let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    assert!(median < Duration::from_millis(20), "the reader waited {median:?} in the median");
    assert!(worst < Duration::from_millis(500), "the reader waited {worst:?} in the worst case");
    proxy.metric(&format!("wsproxy_outbox_overflows_total {SLOW}")).await;
    proxy.metric(&format!(r#"wsproxy_closes_total{{reason="slow_consumer"}} {SLOW}"#)).await;
    for (mut writer, client) in stuck {
        writer.done().await;
        let (have, closes) = collect(&proxy, &writer, client).await;
        assert_eq!((have, closes), (writer.positions(1, ROUNDS + 1), 1));
    }
    proxy.metric("wsproxy_replay_in_flight_bytes 0").await;
}

/// With a budget of one page, all clients are served one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replays_share_a_budget_of_one_page() {
    let mut writers = vec![Writer::new().await];
    let proxy = Proxy::start_with(&writers[0].bus, |config| config.replay_bytes = 1).await;
    for _ in 1..20 {
        writers.push(Writer::on(&writers[0].bus).await);
    }
    let mut replays = tokio::task::JoinSet::new();
    for mut writer in writers {
        writer.claim().await;
        writer.tokens(TOKENS, 100).await;
        writer.done().await;
        let client = proxy.resume(writer.session, "0").await;
        replays.spawn(async move {
            let mut client = client;
            assert_eq!(client.query().await.0, writer.positions(1, TOKENS + 1));
        });
    }
    crate::rig::soon(replays.join_all()).await;
    proxy.metric("wsproxy_replay_in_flight_bytes 0").await;
}
