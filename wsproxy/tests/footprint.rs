//! Heap use per token and per socket, measured by a counting allocator. The counts cover the whole process, so this file has one test.

#![allow(missing_docs)]
#![allow(clippy::print_stdout, reason = "figures for people who run the test")]

#[allow(dead_code)]
#[path = "gateway/rig.rs"]
mod rig;

use async_trait::async_trait;
use bus::{
    Appended, AttachError, Attachment, Batch, Broker, BusConfig, BusError, Claim, ClaimError, ClaimRequest,
    Control, CountersSnapshot, Lanes, Outlet, Plays, Start,
};
use bytes::Bytes;
use protocol::{Kind, Names, Position, Prefix, SessionId, encode_fence, encode_token};
use rig::{Proxy, Seen, Writer, raw_request};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Number of sockets over which the use is averaged.
const SOCKETS: usize = 200;
/// Limit of the heap use per socket, in bytes: its task, outbox, lane and share of the runtime.
const SOCKET_BYTES: usize = 1_600;

/// A bus that gives the test access to the outlet of a session, so the test can call it directly as the reader of the bus does.
struct Tapped {
    bus: Arc<dyn Broker>,
    outlet: Mutex<Option<Arc<dyn Outlet>>>,
}

#[async_trait]
impl Broker for Tapped {
    async fn create(&self, session: SessionId) -> Result<(), BusError> {
        self.bus.create(session).await
    }

    async fn claim(&self, session: SessionId, request: ClaimRequest) -> Result<Claim, ClaimError> {
        self.bus.claim(session, request).await
    }

    async fn recall(&self, session: SessionId, query_id: &str) -> Result<Option<Claim>, BusError> {
        self.bus.recall(session, query_id).await
    }

    async fn append(&self, batch: &Batch) -> Result<Appended, BusError> {
        self.bus.append(batch).await
    }

    async fn release_claims(&self, terminators: &Batch) -> Result<Appended, BusError> {
        self.bus.release_claims(terminators).await
    }

    fn plays(&self) -> &Arc<Plays> {
        self.bus.plays()
    }

    async fn close(&self, session: SessionId) -> Result<bool, BusError> {
        self.bus.close(session).await
    }

    async fn attach(
        &self,
        session: SessionId,
        start: Start,
        outlet: Arc<dyn Outlet>,
    ) -> Result<Attachment, AttachError> {
        *self.outlet.lock().unwrap() = Some(outlet.clone());
        self.bus.attach(session, start, outlet).await
    }

    async fn send_up(&self, session: SessionId, message: Bytes) -> Result<(), BusError> {
        self.bus.send_up(session, message).await
    }

    fn control(&self) -> Option<mpsc::Receiver<Control>> {
        self.bus.control()
    }

    async fn leave(&self) -> Result<bool, BusError> {
        self.bus.leave().await
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.bus.ready()
    }

    fn counters(&self) -> CountersSnapshot {
        self.bus.counters()
    }
}

/// Returns the number of heap blocks that were allocated while `work` ran.
fn blocks(work: impl FnOnce()) -> u64 {
    let before = dhat::HeapStats::get().total_blocks;
    work();
    dhat::HeapStats::get().total_blocks - before
}

fn token(generation: u64, seq: u64) -> (Prefix, Vec<u8>) {
    let position = Position::new(generation, seq);
    let mut frame = Vec::new();
    encode_token(&mut frame, position, "a word ", "0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11", 1, 2);
    (Prefix { position, kind: Kind::Token }, frame)
}

/// The way from the outbox into the socket.
async fn a_token_allocates_nothing_in_the_outbox() {
    let inner = bus::open(BusConfig::new("memory://", "test")).unwrap();
    let tapped = Arc::new(Tapped { bus: inner, outlet: Mutex::default() });
    let bus: Arc<dyn Broker> = tapped.clone();
    let mut writer = Writer::on(&bus).await;
    // On a busy machine the gateway would hold tokens back, in a queue that it allocates.
    let proxy = Proxy::start_with(&bus, |config| config.max_coalesce = Duration::ZERO).await;
    let mut client = proxy.connect(writer.session).await;
    writer.query(1).await;
    let (positions, _) = client.query().await;
    let generation = positions[0].generation + 1;
    let outlet = tapped.outlet.lock().unwrap().clone().unwrap();
    for round in 0..20 {
        let events: Vec<_> = (1..=100).map(|seq| token(generation, round * 100 + seq)).collect();
        let taken = blocks(|| events.iter().for_each(|(prefix, frame)| outlet.event(*prefix, frame)));
        for (prefix, _) in &events {
            assert_eq!(client.next().await, Seen::Event(prefix.position, Kind::Token));
        }
        assert_eq!(taken, 0, "heap blocks for 100 tokens, in round {round}");
    }
}

/// The way from a message of Redis, found by the name of its channel, to the outlet.
fn a_token_allocates_nothing_in_its_lane() {
    struct Nowhere;
    impl Outlet for Nowhere {
        fn event(&self, _: Prefix, _: &[u8]) {}
        fn gap(&self, _: Position, _: Position) {}
        fn behind(&self) {}
        fn end(&self, _: bus::LaneEnd) {}
    }
    let session = SessionId::new(Uuid::new_v4());
    let lanes = Lanes::default();
    lanes.open(session, Arc::new(Nowhere));
    let channel = Names::default().down(session);
    let mut fence = Vec::new();
    encode_fence(&mut fence, 7, Some(Position::ZERO));
    assert!(lanes.message(channel.as_bytes(), &fence));
    let events: Vec<_> = (1..=100).map(|seq| token(7, seq).1).collect();
    let taken = blocks(|| {
        for frame in &events {
            assert!(lanes.message(channel.as_bytes(), frame));
        }
    });
    assert_eq!(taken, 0, "heap blocks for 100 tokens");
}

/// Opens a socket with a client that has no memory on the measured heap.
fn open(address: SocketAddr, session: SessionId) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(raw_request(session).as_bytes()).unwrap();
    let mut answer = [0; 512];
    let count = stream.read(&mut answer).unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer[..count]));
    stream
}

/// Measures the heap use per idle socket, after the upgrade.
async fn a_socket_stays_below_its_limit() {
    let bus = bus::open(BusConfig::new("memory://", "test")).unwrap();
    let proxy = Proxy::start(&bus).await;
    let mut sessions = Vec::with_capacity(2 * SOCKETS);
    for _ in 0..2 * SOCKETS {
        let session = SessionId::new(Uuid::new_v4());
        bus.create(session).await.unwrap();
        sessions.push(session);
    }
    let mut held = Vec::with_capacity(2 * SOCKETS);
    let mut before = 0;
    // The first half also allocates what all sockets share, so only the second half is measured.
    for half in sessions.chunks(SOCKETS) {
        before = dhat::HeapStats::get().curr_bytes;
        let (address, half) = (proxy.address, half.to_vec());
        let open = move || half.into_iter().map(|session| open(address, session)).collect::<Vec<_>>();
        held.extend(tokio::task::spawn_blocking(open).await.unwrap());
        proxy.metric(&format!("wsproxy_connections {}", held.len())).await;
    }
    let each = (dhat::HeapStats::get().curr_bytes - before) / SOCKETS;
    println!("{each} bytes per socket");
    assert!(each <= SOCKET_BYTES, "{each} bytes per socket, expected at most {SOCKET_BYTES}");
}

#[test]
fn what_a_token_and_a_socket_take_from_the_heap() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    a_token_allocates_nothing_in_its_lane();
    runtime.block_on(a_token_allocates_nothing_in_the_outbox());
    runtime.block_on(a_socket_stays_below_its_limit());
}
