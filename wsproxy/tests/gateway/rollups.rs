//! Sockets with a rollup: the tokens of a window are one frame, and nothing is lost, repeated or late. The bus is a real Redis.

use crate::{
    private_redis::PrivateRedis,
    rig::{Client, Proxy, Seen, Writer, rollup_request, soon},
};
use bus::{Broker, BusConfig, ClaimRequest, Role};
use futures_util::StreamExt;
use protocol::{Kind, Position, SessionId};
use std::{sync::Arc, time::Duration};
use tokio_tungstenite::tungstenite::{Message, handshake::client::Request};
use uuid::Uuid;
use wsproxy::Config;

/// A window that does not end while a test writes.
const LONG: u32 = 1000;

/// A Redis with the bus of a server and that of a gateway. The Redis is last, so that it outlives its clients.
struct Stack {
    server: Arc<dyn Broker>,
    gateway: Arc<dyn Broker>,
    redis: PrivateRedis,
}

impl Stack {
    async fn start() -> Self {
        let redis = PrivateRedis::start();
        let (server, gateway) =
            (open(&redis, "server", Role::Server).await, open(&redis, "gateway", Role::Gateway).await);
        let stack = Self { server, gateway, redis };
        // A new server takes claims as soon as it knows that no other one has data to restore.
        let session = SessionId::new(Uuid::new_v4());
        soon(async {
            while stack.server.create(session).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let request = || ClaimRequest { query_id: "first".into(), answer: String::new() };
            while stack.server.claim(session, request()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        stack
    }

    async fn proxy(&self, change: impl FnOnce(&mut Config)) -> Proxy {
        Proxy::start_with(&self.gateway, change).await
    }
}

async fn open(redis: &PrivateRedis, instance: &str, role: Role) -> Arc<dyn Broker> {
    let mut config = BusConfig::new(redis.url(), instance);
    config.role = role;
    let bus = bus::open(config).unwrap();
    soon(bus.ready().wait_for(|&ready| ready)).await.unwrap();
    bus
}

async fn rolled(proxy: &Proxy, session: SessionId, ms: u32) -> Client {
    Client::open(proxy.address, rollup_request(proxy.address, session, ms)).await.unwrap()
}

async fn resumed(proxy: &Proxy, session: SessionId, after: Position) -> Client {
    let request = after_position(rollup_request(proxy.address, session, LONG), after);
    Client::open(proxy.address, request).await.unwrap()
}

fn after_position(mut request: Request, after: Position) -> Request {
    request.headers_mut().insert("last-event-id", after.to_string().parse().unwrap());
    request
}

#[tokio::test]
async fn a_socket_gets_rolled_frames_only_if_it_asked_for_them() {
    let stack = Stack::start().await;
    let proxy = stack.proxy(|_| {}).await;
    let mut plain = Writer::on(&stack.server).await;
    let mut asked = Writer::on(&stack.server).await;
    let mut clients = [proxy.connect(plain.session).await, rolled(&proxy, asked.session, LONG).await];
    for writer in [&mut plain, &mut asked] {
        writer.claim().await;
        writer.batch(50).await;
        writer.done().await;
    }
    let mut texts = [Vec::new(), Vec::new()];
    for (client, texts) in std::iter::zip(&mut clients, &mut texts) {
        while !texts.last().is_some_and(|text: &String| text.contains(r#""type":"done""#)) {
            let Some(Ok(Message::Text(text))) = soon(client.0.next()).await else { panic!("{texts:?}") };
            texts.push(text.to_string());
        }
    }
    let [verbatim, rolled] = texts;
    let generation = plain.positions(1, 1)[0].generation;
    let token = |seq: u64| {
        format!(
            r#"{{"id":"{generation}-{seq}","type":"token","content":"word ","query_id":"q","due_us":{seq},"sent_us":{}}}"#,
            seq + 1
        )
    };
    assert_eq!(verbatim[..50], (1..=50).map(token).collect::<Vec<_>>()[..]);
    let generation = asked.positions(1, 1)[0].generation;
    assert!(
        rolled[0].starts_with(&format!(r#"{{"id":"{generation}-1","type":"token","content":"#)),
        "{}",
        rolled[0]
    );
    let start = format!(r#","type":"tokens","first":"{generation}-2","content":["word ","word ""#);
    assert!(rolled[1].contains(&start), "{}", rolled[1]);
    assert!(rolled[1].contains(r#"],"query_id":"q","due_us":[2,3"#), "{}", rolled[1]);
    assert!(rolled[1].contains(r#"],"sent_us":[3,4"#), "{}", rolled[1]);
    let frames = proxy.value("wsproxy_rolled_frames_total").await;
    let tokens = proxy.value("wsproxy_rolled_tokens_total").await;
    assert!((1..=2).contains(&frames) && tokens > 40, "{tokens} tokens in {frames} frames");
    assert_eq!(proxy.value("wsproxy_events_total").await, 102, "events are counted one by one");
}

#[tokio::test]
async fn a_window_ends_without_further_events() {
    let stack = Stack::start().await;
    let proxy = stack.proxy(|_| {}).await;
    let mut writer = Writer::on(&stack.server).await;
    // The windows of other sockets end later and earlier.
    let mut others = Vec::new();
    for ms in [1000, 7] {
        let mut other = Writer::on(&stack.server).await;
        others.push((rolled(&proxy, other.session, ms).await, ms));
        other.claim().await;
        other.batch(3).await;
    }
    let mut client = rolled(&proxy, writer.session, 40).await;
    writer.claim().await;
    for round in 0..3 {
        writer.batch(4).await;
        let mut have = Vec::new();
        while have.len() < 4 {
            match client.next().await {
                Seen::Event(position, Kind::Token) => have.push(position),
                Seen::Tokens(positions) => have.extend(positions),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(have, writer.positions(4 * round + 1, 4 * round + 4));
    }
    for (mut other, ms) in others {
        let mut count = 0;
        while count < 3 {
            count += match other.next().await {
                Seen::Event(_, Kind::Token) => 1,
                Seen::Tokens(positions) => positions.len(),
                seen => panic!("{ms}: {seen:?}"),
            };
        }
    }
}

#[tokio::test]
async fn a_client_resumes_inside_a_rolled_frame_and_behind_one() {
    let stack = Stack::start().await;
    let proxy = stack.proxy(|_| {}).await;
    let mut writer = Writer::on(&stack.server).await;
    let mut client = rolled(&proxy, writer.session, 20).await;
    writer.claim().await;
    writer.batch(20).await;
    let mut have = Vec::new();
    while have.len() < 20 {
        match client.next().await {
            Seen::Event(position, Kind::Token) => have.push(position),
            Seen::Tokens(positions) => have.extend(positions),
            other => panic!("{other:?}"),
        }
    }
    drop(client);
    for after in [1, 7, 20] {
        let mut client = resumed(&proxy, writer.session, have[after - 1]).await;
        let (replayed, then) = client.query().await;
        assert_eq!(replayed, have[after..]);
        assert_eq!(then, Seen::Resumed(have[19]), "the end of the replay follows what waits");
    }
    let mut client = resumed(&proxy, writer.session, have[9]).await;
    writer.batch(20).await;
    writer.done().await;
    let (mut all, mut then) = client.query().await;
    while !matches!(then, Seen::Event(..)) {
        let (more, next) = client.query().await;
        all.extend(more);
        then = next;
    }
    assert_eq!(all, writer.positions(11, 41));
}

/// Whatever ends the socket while tokens wait: the next socket gets them, once.
#[tokio::test]
async fn tokens_that_wait_when_the_socket_ends_come_with_the_next_one() {
    let stack = Stack::start().await;
    let proxy = stack.proxy(|_| {}).await;
    let next = Proxy::start(&open(&stack.redis, "other-gateway", Role::Gateway).await).await;
    for end in ["lost", "closed", "taken over"] {
        let mut writer = Writer::on(&stack.server).await;
        let mut client = rolled(&proxy, writer.session, LONG).await;
        writer.claim().await;
        writer.batch(6).await;
        let first = client.next().await;
        assert_eq!(first, Seen::Event(writer.positions(1, 1)[0], Kind::Token), "{end}");
        let mut have = writer.positions(1, 1);
        let mut client = match end {
            "lost" => {
                drop(client);
                resumed(&next, writer.session, have[0]).await
            }
            "closed" => {
                client.close().await;
                rolled(&next, writer.session, LONG).await
            }
            _ => {
                let opening = rolled(&next, writer.session, LONG);
                let (opened, (tokens, then)) = tokio::join!(opening, async {
                    let seen = client.query().await;
                    assert_eq!(client.next().await, Seen::End);
                    seen
                });
                assert!(matches!(then, Seen::Close(4001, _)), "{then:?}");
                have.extend(tokens);
                opened
            }
        };
        writer.done().await;
        loop {
            match client.query().await {
                (tokens, Seen::Resumed(_)) => have.extend(tokens),
                (tokens, Seen::Event(..)) => break have.extend(tokens),
                (_, other) => panic!("{end}: {other:?}"),
            }
        }
        assert_eq!(have, writer.positions(1, 7), "{end}");
    }
}

#[tokio::test]
async fn a_drain_sends_what_waits_before_its_close_frame() {
    let stack = Stack::start().await;
    let mut proxy = stack
        .proxy(|config| (config.drain_delay, config.drain_window) = (Duration::ZERO, Duration::ZERO))
        .await;
    let mut writer = Writer::on(&stack.server).await;
    let mut client = rolled(&proxy, writer.session, LONG).await;
    writer.claim().await;
    writer.batch(6).await;
    proxy.metric("wsproxy_events_total 6").await;
    proxy.shutdown.cancel();
    let (tokens, close) = client.query().await;
    assert_eq!(tokens, writer.positions(1, 6));
    assert!(matches!(close, Seen::Close(1012, _)), "{close:?}");
    assert_eq!(client.next().await, Seen::End);
    soon(&mut proxy.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_slow_consumer_is_noticed_and_loses_nothing() {
    const TOKENS: u64 = 400;
    let stack = Stack::start().await;
    let proxy =
        stack.proxy(|config| (config.send_buffer_bytes, config.outbox_bytes) = (Some(8192), 64 << 10)).await;
    let mut writer = Writer::on(&stack.server).await;
    let request = after_position(rollup_request(proxy.address, writer.session, 20), Position::ZERO);
    let mut client = Client::open_narrow(proxy.address, request).await;
    // A lane that still reads the log when the tokens begin would go on reading it, at the client's pace.
    assert!(matches!(client.next().await, Seen::Resumed(_)));
    writer.claim().await;
    writer.tokens(TOKENS, 4096).await;
    writer.done().await;
    proxy.metric("wsproxy_outbox_overflows_total 1").await;
    let (mut have, mut closes) = (Vec::new(), 0);
    loop {
        let (tokens, then) = client.query().await;
        have.extend(tokens);
        match then {
            Seen::Event(..) => break,
            Seen::Resumed(_) => {}
            Seen::Close(4002, _) => {
                closes += 1;
                client =
                    resumed(&proxy, writer.session, have.last().copied().unwrap_or(Position::ZERO)).await;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((have, closes), (writer.positions(1, TOKENS + 1), 1));
    assert!(proxy.value("wsproxy_rolled_frames_total").await > 0);
}

#[tokio::test]
async fn a_wrong_rollup_is_refused_with_what_is_expected() {
    let (writer, proxy) = crate::rig::start().await;
    for ms in [0, 1001] {
        let (status, detail, _) = proxy.refusal(rollup_request(proxy.address, writer.session, ms)).await;
        assert_eq!((status, detail.contains("?rollup=40")), (400, true), "{detail}");
    }
    proxy.metric(r#"wsproxy_upgrades_total{result="bad_rollup"} 2"#).await;
}
