//! Tests of the relay between real sockets.

use super::*;
use std::net::Ipv4Addr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

const TIMEOUT: Duration = Duration::from_secs(20);
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A relay and the listener behind it, over TCP or unix sockets.
struct Fixture {
    relay: Relay,
    behind: Listener,
    _directory: tempfile::TempDir,
}

impl Fixture {
    fn new(unix: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = |name: &str| match unix {
            true => Address::Unix(directory.path().join(name)),
            false => Address::Tcp(LOCAL),
        };
        let (behind, target) = Listener::bind(&address("behind.sock")).unwrap();
        let relay = Relay::start(&address("relay.sock"), target).unwrap();
        Self { relay, behind, _directory: directory }
    }

    async fn connection(&self) -> (Stream, Stream) {
        let near = connect(self.relay.address()).await.unwrap();
        let far = timeout(TIMEOUT, self.behind.accept()).await.expect("it connects").unwrap();
        (near, far)
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(Counts) -> bool) {
        let wait = async {
            while !holds(self.relay.counts()) {
                tokio::task::yield_now().await;
            }
        };
        timeout(TIMEOUT, wait).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.relay));
    }
}

/// Sends a text through the relay, checks that it arrives, and returns how long that took.
async fn passes(from: &mut Stream, to: &mut Stream, text: &str) -> Duration {
    let start = Instant::now();
    from.write_all(text.as_bytes()).await.unwrap();
    let mut got = vec![0; text.len()];
    timeout(TIMEOUT, to.read_exact(&mut got)).await.expect("it arrives").unwrap();
    assert_eq!(got, text.as_bytes());
    start.elapsed()
}

/// Checks that no data arrives for 150 ms.
async fn is_silent(stream: &mut Stream) {
    let mut byte = [0];
    let got = timeout(Duration::from_millis(150), stream.read(&mut byte)).await;
    assert!(got.is_err(), "{got:?} came");
}

/// Reads the end of a stream, or its error.
async fn ends(stream: &mut Stream) -> io::Result<usize> {
    timeout(TIMEOUT, stream.read(&mut [0])).await.expect("it ends")
}

#[tokio::test]
async fn data_and_ends_pass_in_both_directions() {
    for unix in [false, true] {
        let fixture = Fixture::new(unix);
        let (mut near, mut far) = fixture.connection().await;
        passes(&mut near, &mut far, "there").await;
        passes(&mut far, &mut near, "and back").await;
        let much = "x".repeat(5 << 20);
        let (sent, got) = tokio::join!(near.write_all(much.as_bytes()), async {
            let mut got = vec![0; much.len()];
            timeout(TIMEOUT, far.read_exact(&mut got)).await.unwrap().unwrap();
            got
        });
        sent.unwrap();
        assert!(got == much.as_bytes());
        near.shutdown().await.unwrap();
        assert_eq!(ends(&mut far).await.unwrap(), 0);
        passes(&mut far, &mut near, "the other way still works").await;
        drop(far);
        assert_eq!(ends(&mut near).await.unwrap(), 0);
        fixture.until("it is counted out", |counts| counts.open == 0).await;
        assert_eq!(fixture.relay.counts(), Counts { accepted: 1, ..Counts::default() });
    }
}

#[tokio::test]
async fn delay_and_jitter_keep_the_order() {
    let fixture = Fixture::new(true);
    let (mut near, mut far) = fixture.connection().await;
    let delay = Duration::from_millis(80);
    fixture.relay.set_delay(delay);
    assert!(passes(&mut near, &mut far, "later").await >= delay);
    assert!(passes(&mut far, &mut near, "both ways").await >= delay);
    fixture.relay.set_delay(Duration::ZERO);
    fixture.relay.set_jitter(Duration::from_millis(20));
    let text: String = (0..50).map(|n| format!("{n},")).collect();
    for piece in text.split_inclusive(',') {
        near.write_all(piece.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut got = vec![0; text.len()];
    timeout(TIMEOUT, far.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), text);
    fixture.relay.heal();
    assert_eq!(fixture.relay.impairment(), Impairment::default());
}

#[tokio::test]
async fn cut_closes_and_reset_resets() {
    for (unix, termination) in [
        (false, Termination::Close),
        (false, Termination::Reset),
        (true, Termination::Close),
        (true, Termination::Reset),
    ] {
        let fixture = Fixture::new(unix);
        let (mut near, mut far) = fixture.connection().await;
        passes(&mut near, &mut far, "open").await;
        assert_eq!(fixture.relay.end_connections(termination), 1);
        for stream in [&mut near, &mut far] {
            match (unix, termination, ends(stream).await) {
                (false, Termination::Reset, Err(error)) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                }
                (_, Termination::Close, Ok(0)) | (true, Termination::Reset, Ok(0)) => {}
                other => panic!("{other:?}"),
            }
        }
        fixture.until("it is counted", |counts| counts.broken == 1 && counts.open == 0).await;
        // New connections work.
        let (mut near, mut far) = fixture.connection().await;
        passes(&mut near, &mut far, "again").await;
    }
}

#[tokio::test]
async fn half_open_holds_data_and_ends_and_passes_them_on_later() {
    let fixture = Fixture::new(false);
    let (mut near, mut far) = fixture.connection().await;
    passes(&mut near, &mut far, "before").await;
    fixture.relay.set_flow(Flow::HalfOpen, None);
    near.write_all(b"held").await.unwrap();
    far.write_all(b"back").await.unwrap();
    // A new connection is accepted and gets no data. The end of a stream is held as well.
    let mut newcomer = connect(fixture.relay.address()).await.unwrap();
    newcomer.write_all(b"hello").await.unwrap();
    near.shutdown().await.unwrap();
    is_silent(&mut far).await;
    is_silent(&mut near).await;
    is_silent(&mut newcomer).await;

    fixture.relay.set_flow(Flow::HalfOpen, Some(Duration::from_millis(50)));
    let mut four = [0; 4];
    timeout(TIMEOUT, far.read_exact(&mut four)).await.expect("it passes on by itself").unwrap();
    assert_eq!(&four, b"held");
    timeout(TIMEOUT, near.read_exact(&mut four)).await.unwrap().unwrap();
    assert_eq!(&four, b"back");
    assert_eq!(ends(&mut far).await.unwrap(), 0);
    let mut met = timeout(TIMEOUT, fixture.behind.accept()).await.unwrap().unwrap();
    let mut five = [0; 5];
    timeout(TIMEOUT, met.read_exact(&mut five)).await.unwrap().unwrap();
    assert_eq!(&five, b"hello");
}

#[tokio::test]
async fn held_data_is_limited() {
    let fixture = Fixture::new(true);
    let (mut near, far) = fixture.connection().await;
    fixture.relay.set_flow(Flow::Slow, None);
    let piece = vec![0; 64 << 10];
    let mut taken = 0;
    while let Ok(wrote) = timeout(Duration::from_millis(200), near.write(&piece)).await {
        taken += wrote.unwrap();
        assert!(taken < 8 << 20, "{taken} bytes are held");
    }
    drop(far);
}

#[tokio::test(start_paused = true)]
async fn slow_is_one_byte_per_second_until_heal() {
    let (mut client, near) = tokio::io::duplex(64);
    let (far, mut server) = tokio::io::duplex(64);
    let impairment = watch::Sender::new(Impairment { flow: Flow::Slow, ..Impairment::default() });
    let pumping = tokio::spawn(pump(near, far, impairment.subscribe()));
    client.write_all(b"abcdefgh").await.unwrap();
    let start = Instant::now();
    let mut got = [0; 4];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!((&got, start.elapsed().as_secs()), (b"abcd", 3));
    impairment.send_replace(Impairment::default());
    server.read_exact(&mut got).await.unwrap();
    assert_eq!((&got, start.elapsed().as_secs()), (b"efgh", 3));
    drop(client);
    pumping.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_a_listener_at_the_target_connections_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let relay = Relay::start(&Address::Tcp(LOCAL), Address::Unix(directory.path().join("nobody"))).unwrap();
    let mut near = connect(relay.address()).await.unwrap();
    assert_eq!(ends(&mut near).await.unwrap(), 0);
    assert_eq!(relay.counts().refused, 1);
}

#[tokio::test]
async fn a_dropped_relay_ends_its_connections() {
    let fixture = Fixture::new(false);
    let (mut near, mut far) = fixture.connection().await;
    passes(&mut near, &mut far, "open").await;
    fixture.relay.set_flow(Flow::HalfOpen, None);
    let Fixture { relay, .. } = fixture;
    drop(relay);
    assert_eq!(ends(&mut near).await.unwrap(), 0);
    assert_eq!(ends(&mut far).await.unwrap(), 0);
}
