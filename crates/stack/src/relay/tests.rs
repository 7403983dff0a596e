//! The relay between real sockets: what passes, what is held back, what breaks.

use super::*;
use std::net::Ipv4Addr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

const PATIENCE: Duration = Duration::from_secs(20);
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A relay before a listener of the test's own, over TCP or unix sockets.
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
        let far = timeout(PATIENCE, self.behind.accept()).await.expect("it connects").unwrap();
        (near, far)
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(Counts) -> bool) {
        let wait = async {
            while !holds(self.relay.counts()) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.relay));
    }
}

async fn says(from: &mut Stream, to: &mut Stream, text: &str) -> Duration {
    let start = Instant::now();
    from.write_all(text.as_bytes()).await.unwrap();
    let mut got = vec![0; text.len()];
    timeout(PATIENCE, to.read_exact(&mut got)).await.expect("it arrives").unwrap();
    assert_eq!(got, text.as_bytes());
    start.elapsed()
}

/// Nothing arrives, for as long as a test wants to wait for nothing.
async fn is_silent(stream: &mut Stream) {
    let mut byte = [0];
    let got = timeout(Duration::from_millis(150), stream.read(&mut byte)).await;
    assert!(got.is_err(), "{got:?} came");
}

async fn ends(stream: &mut Stream) -> io::Result<usize> {
    timeout(PATIENCE, stream.read(&mut [0])).await.expect("it ends")
}

#[tokio::test]
async fn everything_passes_both_ways_and_an_end_too() {
    for unix in [false, true] {
        let fixture = Fixture::new(unix);
        let (mut near, mut far) = fixture.connection().await;
        says(&mut near, &mut far, "there").await;
        says(&mut far, &mut near, "and back").await;
        let much = "x".repeat(5 << 20);
        let (sent, got) = tokio::join!(near.write_all(much.as_bytes()), async {
            let mut got = vec![0; much.len()];
            timeout(PATIENCE, far.read_exact(&mut got)).await.unwrap().unwrap();
            got
        });
        sent.unwrap();
        assert!(got == much.as_bytes());
        near.shutdown().await.unwrap();
        assert_eq!(ends(&mut far).await.unwrap(), 0);
        says(&mut far, &mut near, "the other way still works").await;
        drop(far);
        assert_eq!(ends(&mut near).await.unwrap(), 0);
        fixture.until("it is counted out", |counts| counts.open == 0).await;
        assert_eq!(fixture.relay.counts(), Counts { accepted: 1, ..Counts::default() });
    }
}

#[tokio::test]
async fn delay_and_jitter_come_later_and_in_order() {
    let fixture = Fixture::new(true);
    let (mut near, mut far) = fixture.connection().await;
    let delay = Duration::from_millis(80);
    fixture.relay.set_delay(delay);
    assert!(says(&mut near, &mut far, "later").await >= delay);
    assert!(says(&mut far, &mut near, "both ways").await >= delay);
    fixture.relay.set_delay(Duration::ZERO);
    fixture.relay.set_jitter(Duration::from_millis(20));
    let text: String = (0..50).map(|n| format!("{n},")).collect();
    for piece in text.split_inclusive(',') {
        near.write_all(piece.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut got = vec![0; text.len()];
    timeout(PATIENCE, far.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), text);
    fixture.relay.heal();
    assert_eq!(fixture.relay.conduct(), Conduct::default());
}

#[tokio::test]
async fn cut_closes_and_reset_resets() {
    for (unix, how) in
        [(false, Break::Close), (false, Break::Reset), (true, Break::Close), (true, Break::Reset)]
    {
        let fixture = Fixture::new(unix);
        let (mut near, mut far) = fixture.connection().await;
        says(&mut near, &mut far, "open").await;
        assert_eq!(fixture.relay.sever(how), 1);
        for stream in [&mut near, &mut far] {
            match (unix, how, ends(stream).await) {
                (false, Break::Reset, Err(error)) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
                (_, Break::Close, Ok(0)) | (true, Break::Reset, Ok(0)) => {}
                other => panic!("{other:?}"),
            }
        }
        fixture.until("it is counted", |counts| counts.broken == 1 && counts.open == 0).await;
        // The next ones pass.
        let (mut near, mut far) = fixture.connection().await;
        says(&mut near, &mut far, "again").await;
    }
}

#[tokio::test]
async fn half_open_holds_everything_back_and_then_passes_it_on() {
    let fixture = Fixture::new(false);
    let (mut near, mut far) = fixture.connection().await;
    says(&mut near, &mut far, "before").await;
    fixture.relay.set_flow(Flow::HalfOpen, None);
    near.write_all(b"held").await.unwrap();
    far.write_all(b"back").await.unwrap();
    // A newcomer is let in and hears nothing; an end is held back as well.
    let mut newcomer = connect(fixture.relay.address()).await.unwrap();
    newcomer.write_all(b"hello").await.unwrap();
    near.shutdown().await.unwrap();
    is_silent(&mut far).await;
    is_silent(&mut near).await;
    is_silent(&mut newcomer).await;

    fixture.relay.set_flow(Flow::HalfOpen, Some(Duration::from_millis(50)));
    let mut four = [0; 4];
    timeout(PATIENCE, far.read_exact(&mut four)).await.expect("it passes on by itself").unwrap();
    assert_eq!(&four, b"held");
    timeout(PATIENCE, near.read_exact(&mut four)).await.unwrap().unwrap();
    assert_eq!(&four, b"back");
    assert_eq!(ends(&mut far).await.unwrap(), 0);
    let mut met = timeout(PATIENCE, fixture.behind.accept()).await.unwrap().unwrap();
    let mut five = [0; 5];
    timeout(PATIENCE, met.read_exact(&mut five)).await.unwrap().unwrap();
    assert_eq!(&five, b"hello");
}

#[tokio::test]
async fn what_is_held_back_is_bounded() {
    let fixture = Fixture::new(true);
    let (mut near, far) = fixture.connection().await;
    fixture.relay.set_flow(Flow::Slow, None);
    let piece = vec![0; 64 << 10];
    let mut taken = 0;
    while let Ok(wrote) = timeout(Duration::from_millis(200), near.write(&piece)).await {
        taken += wrote.unwrap();
        assert!(taken < 8 << 20, "{taken} bytes are under way");
    }
    drop(far);
}

#[tokio::test(start_paused = true)]
async fn slow_is_a_byte_a_second_until_it_is_healed() {
    let (mut client, near) = tokio::io::duplex(64);
    let (far, mut server) = tokio::io::duplex(64);
    let conduct = watch::Sender::new(Conduct { flow: Flow::Slow, ..Conduct::default() });
    let carried = tokio::spawn(pump(near, far, conduct.subscribe()));
    client.write_all(b"abcdefgh").await.unwrap();
    let start = Instant::now();
    let mut got = [0; 4];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!((&got, start.elapsed().as_secs()), (b"abcd", 3));
    conduct.send_replace(Conduct::default());
    server.read_exact(&mut got).await.unwrap();
    assert_eq!((&got, start.elapsed().as_secs()), (b"efgh", 3));
    drop(client);
    carried.await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_behind_is_counted_as_refused_and_closed() {
    let directory = tempfile::tempdir().unwrap();
    let relay = Relay::start(&Address::Tcp(LOCAL), Address::Unix(directory.path().join("nobody"))).unwrap();
    let mut near = connect(relay.address()).await.unwrap();
    assert_eq!(ends(&mut near).await.unwrap(), 0);
    assert_eq!(relay.counts().refused, 1);
}

#[tokio::test]
async fn dropped_it_ends_with_its_connections() {
    let fixture = Fixture::new(false);
    let (mut near, mut far) = fixture.connection().await;
    says(&mut near, &mut far, "open").await;
    fixture.relay.set_flow(Flow::HalfOpen, None);
    let Fixture { relay, .. } = fixture;
    drop(relay);
    assert_eq!(ends(&mut near).await.unwrap(), 0);
    assert_eq!(ends(&mut far).await.unwrap(), 0);
}
