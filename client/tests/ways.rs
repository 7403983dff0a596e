//! Connections to the API and to a gateway over TLS, from several local addresses, and through several ports.

mod fake;
mod runs;

use client::{cli::RunArgs, config::Config, engine};
use fake::{Running, Script, background::serve};
use load::{connector::Connector, endpoint::DialOptions, http::Http};
use plan::{Stop, Target};
use protocol::SessionId;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use runs::{args, check, everything_came, read_summary, run, summary};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use settings::secret::Secret;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use time::macros::datetime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A TLS proxy with its own certificate, in front of a server without TLS.
struct Tls {
    address: SocketAddr,
    _end: DropGuard,
}

impl Tls {
    fn start(certificate: &CertifiedKey<rcgen::KeyPair>, behind: SocketAddr) -> Self {
        Self::start_with_two(certificate, certificate, behind)
    }

    /// The first connection gets the certificate `first`, and all others `later`.
    fn start_with_two(
        first: &CertifiedKey<rcgen::KeyPair>,
        later: &CertifiedKey<rcgen::KeyPair>,
        behind: SocketAddr,
    ) -> Self {
        let mut next = Some(acceptor(first));
        let later = acceptor(later);
        let ([address], _end) = serve(move |[listener]| async move {
            while let Ok((outside, _)) = listener.accept().await {
                tokio::spawn(relay(next.take().unwrap_or_else(|| later.clone()), outside, behind));
            }
        });
        Self { address, _end }
    }
}

fn acceptor(certificate: &CertifiedKey<rcgen::KeyPair>) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn relay(acceptor: TlsAcceptor, outside: TcpStream, behind: SocketAddr) {
    // The handshake fails if the client does not trust the certificate.
    let Ok(mut outside) = acceptor.accept(outside).await else { return };
    let mut inside = TcpStream::connect(behind).await.unwrap();
    let _ = copy_bidirectional(&mut outside, &mut inside).await;
}

/// A port that forwards to a server. At connection number `dies_with` it ends with all its connections, as a port proxy of Docker does
/// when it has no descriptors left.
struct Port {
    address: SocketAddr,
    taken: Arc<AtomicUsize>,
    _end: DropGuard,
}

impl Port {
    fn start(behind: SocketAddr, dies_with: usize) -> Self {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        // All connections end with the runtime.
        let ([address], _end) = serve(move |[listener]| async move {
            while let Ok((mut outside, _)) = listener.accept().await {
                if count.fetch_add(1, SeqCst) + 1 == dies_with {
                    return;
                }
                tokio::spawn(async move {
                    let mut inside = TcpStream::connect(behind).await.unwrap();
                    let _ = copy_bidirectional(&mut outside, &mut inside).await;
                });
            }
        });
        Self { address, taken, _end }
    }

    fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    fn taken(&self) -> usize {
        self.taken.load(SeqCst)
    }
}

fn address(url: &str) -> SocketAddr {
    url.split_once("://").unwrap().1.parse().unwrap()
}

#[test]
fn tls_requires_a_trusted_certificate_and_delivers_every_token() {
    let server = Running::start(Script { close: Some((9, 4003, "draining")), ..Script::default() });
    let certificate = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let api = Tls::start(&certificate, address(&server.api));
    let ws = Tls::start(&certificate, address(&server.ws));
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, certificate.cert.pem()).unwrap();
    let mut args = args(&server, directory.path(), 5, 2);
    args.api_url = vec![format!("https://localhost:{}", api.address.port())];
    args.wsproxy_url = vec![format!("wss://localhost:{}", ws.address.port())];

    let error = run(args.clone(), &Stop::default()).map(|_| ()).unwrap_err().to_string();
    for part in ["https://localhost", "wss://localhost", "certificate is not", "--ca-file"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains("nothing answers"), "{error}");

    args.ca_file = Some(ca_file);
    run(args, &Stop::default()).unwrap();
    let summary = read_summary(directory.path());
    everything_came(&summary, 5, 2, 18);
    check(&summary, &[("total_reconnect_attempts", 5)]);
}

/// Nothing may be repeated at the same URL, so that only the other URL can save calls and sockets.
#[test]
fn calls_and_sockets_move_on_from_a_certificate_that_is_not_trusted() {
    let server = Running::start(Script { itl: Duration::ZERO, ..Script::default() });
    let [trusted, other] = [(); 2].map(|()| generate_simple_self_signed(["localhost".to_owned()]).unwrap());
    // The check before the run sees a trusted certificate.
    let [api, ws] = [&server.api, &server.ws].map(|url| Tls::start_with_two(&trusted, &other, address(url)));
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, trusted.cert.pem()).unwrap();
    let change = |args: &mut RunArgs| {
        args.api_url.insert(0, format!("https://localhost:{}", api.address.port()));
        args.wsproxy_url.insert(0, format!("wss://localhost:{}", ws.address.port()));
        args.ca_file = Some(ca_file);
        args.ws_max_reconnect_attempts = Some(0);
    };
    let summary = summary(&server, change, 4, 2);
    everything_came(&summary, 4, 2, 18);
}

#[test]
fn sockets_come_from_all_given_addresses() {
    let server = Running::start(Script { itl: Duration::ZERO, ..Script::default() });
    let summary = summary(&server, |args| args.local_ips = Some("127.0.0.2-127.0.0.4".into()), 6, 1);
    everything_came(&summary, 6, 1, 18);
    let peers: Vec<_> = server.seen().peers.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
}

#[test]
fn sockets_are_spread_over_all_urls() {
    let server = Running::start(Script { itl: Duration::ZERO, ..Script::default() });
    let ports = [0; 3].map(|_| Port::start(address(&server.ws), usize::MAX));
    let summary = summary(&server, |args| args.wsproxy_url = ports.iter().map(Port::url).collect(), 6, 1);
    everything_came(&summary, 6, 1, 18);
    check(&summary, &[("total_reconnect_attempts", 0)]);
    assert!(!summary["findings"].to_string().contains("stopped accepting connections"), "{summary:#}");
    // Each port gets two sockets and the check before the run.
    assert_eq!(ports.each_ref().map(Port::taken), [3; 3]);
}

/// Starts a port that forwards to a server. When a request contains `fatal`, the port ends with all its connections.
fn port_that_dies_of(fatal: &'static str, behind: SocketAddr) -> (String, DropGuard) {
    let ([port], end) = serve(move |[listener]| async move {
        let died = CancellationToken::new();
        while let Some(Ok((outside, _))) = died.run_until_cancelled(listener.accept()).await {
            let died = died.clone();
            tokio::spawn(async move {
                let (mut requests, mut responses) = outside.into_split();
                let (mut from, mut to) = TcpStream::connect(behind).await.unwrap().into_split();
                tokio::spawn(async move { copy(&mut from, &mut responses).await });
                let mut request = [0; 1024];
                while let Ok(length @ 1..) = requests.read(&mut request).await {
                    if String::from_utf8_lossy(&request[..length]).contains(fatal) {
                        return died.cancel();
                    }
                    to.write_all(&request[..length]).await.unwrap();
                }
            });
        }
    });
    (format!("http://{port}"), end)
}

/// No attempt may be repeated, so that only the other URL can save a call. The calls of one session use the URLs in turn: its second
/// `/run` and its `/close` are sent to the URL that dies.
#[test]
fn a_call_without_a_response_goes_to_the_next_url() {
    for fatal in ["/run ", "/close "] {
        let server = Running::start(Script { itl: Duration::ZERO, ..Script::default() });
        let (dies, _end) = port_that_dies_of(fatal, address(&server.api));
        let change = |args: &mut RunArgs| {
            args.api_url.insert(0, dies);
            args.ws_max_reconnect_attempts = Some(0);
        };
        let summary = summary(&server, change, 1, 3);
        everything_came(&summary, 1, 3, 18);
        let more_urls = serde_json::json!([format!("{}/", server.api)]);
        assert_eq!(summary["config"]["more_api_urls"], more_urls);
        let seen = server.seen();
        assert_eq!((seen.creates, seen.runs, seen.closes), (1, 3, 1), "{fatal}: {summary:#}");
    }
}

/// The server may have created a session, although the response is missing.
#[test]
fn a_session_is_not_created_at_the_next_url_unless_calls_may_be_repeated() {
    for (attempts, created) in [(0, 1), (1, 2)] {
        let server = Running::start(Script { itl: Duration::ZERO, ..Script::default() });
        let (dies, _end) = port_that_dies_of("/create ", address(&server.api));
        let change = |args: &mut RunArgs| {
            args.api_url.insert(0, dies);
            args.ws_max_reconnect_attempts = Some(attempts);
            args.workers = Some(1);
        };
        let summary = summary(&server, change, 2, 3);
        check(&summary, &[("successful_sessions", created), ("queries_ok", created * 3)]);
        assert_eq!(server.seen().creates, created);
    }
}

#[test]
fn every_url_of_the_api_must_answer_before_the_run() {
    let server = Running::start(Script::default());
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut args = args(&server, directory.path(), 1, 1);
    args.api_url.push(format!("http://{dead}"));
    let error = run(args, &Stop::default()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(&format!("nothing answers at http://{dead}")), "{error}");
    assert!(!error.contains(&server.api), "{error}");
}

#[test]
fn a_port_that_dies_costs_no_token_and_becomes_a_finding() {
    let server = Running::start(Script::default());
    let [lives, dies] = [usize::MAX, 3].map(|most| Port::start(address(&server.ws), most));
    let urls = vec![lives.url(), dies.url()];
    let summary = summary(&server, |args| args.wsproxy_url = urls, 6, 2);
    everything_came(&summary, 6, 2, 18);
    assert!(summary["total_successful_reconnects"].as_u64() >= Some(1), "{summary:#}");
    let title = format!("{} stopped accepting connections", dies.url());
    let mut findings = summary["findings"].as_array().unwrap().iter();
    let died = findings.find(|finding| finding["title"] == title);
    let evidence = died.unwrap_or_else(|| panic!("{summary:#}"))["evidence"].as_str().unwrap();
    assert!(evidence.contains("to connect failed"), "{evidence}");
}

/// One attempt may be repeated, so that it must go to the other URL.
#[test]
fn a_socket_whose_upgrade_fails_is_opened_at_the_next_url() {
    let server = Running::start(Script { close: Some((9, 4003, "draining")), ..Script::default() });
    // It accepts connections and closes them, as a load balancer does whose gateways are gone.
    let ([closes], _end) = serve(|[listener]| async move { while listener.accept().await.is_ok() {} });
    let change = |args: &mut RunArgs| {
        args.wsproxy_url.insert(0, format!("ws://{closes}"));
        args.ws_max_reconnect_attempts = Some(2);
    };
    let summary = summary(&server, change, 4, 2);
    everything_came(&summary, 4, 2, 18);
    check(&summary, &[("total_successful_reconnects", 4)]);
}

/// Starts a port that lets every connection wait: its queue is full, and nothing accepts.
async fn port_that_never_accepts() -> (SocketAddr, impl Sized) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    (address, (listener, queued))
}

/// Reads URLs as a run does.
fn target(api: &[&str], ws: &[&str]) -> Target {
    let owned = |urls: &[&str]| urls.iter().map(|&url| url.to_owned()).collect();
    let args = RunArgs { api_url: owned(api), wsproxy_url: owned(ws), ..RunArgs::default() };
    Config::new(args, 2, 1).unwrap().plan.target
}

fn tls() -> rustls::ClientConfig {
    load::tls::client_config(None).unwrap()
}

/// Opens a socket within 8 s. Returns whether the attempt has ended, and the connections of each endpoint.
async fn open(urls: [&str; 2]) -> (bool, Vec<u64>) {
    let connector = Connector::resolve(&target(&[], &urls), Arc::new(tls())).await.unwrap();
    let (session, token) = (SessionId::new(uuid::Uuid::new_v4()), Secret::new("x"));
    let opening = connector.open(session, &token, None, 0, DialOptions::default(), None);
    let has_ended = timeout(Duration::from_secs(8), opening).await.is_ok();
    (has_ended, connector.endpoints().iter().map(|endpoint| endpoint.history().connected).collect())
}

/// The last endpoint has the whole time of the attempt.
#[tokio::test]
async fn an_endpoint_that_never_accepts_is_left_after_five_seconds_if_another_is_left() {
    let server = Running::start(Script::default());
    let (silent, _listener) = port_that_never_accepts().await;
    let silent = format!("ws://{silent}");
    let refuses = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refuses = format!("ws://{refuses}");
    let started = Instant::now();
    let first = async {
        assert_eq!(open([&silent, &server.ws]).await, (true, vec![0, 1]));
        assert!(started.elapsed() >= Duration::from_secs(5));
    };
    let ((), last) = tokio::join!(first, open([&refuses, &silent]));
    assert_eq!(last, (false, vec![0, 0]));
}

#[tokio::test]
async fn the_checks_before_the_run_name_the_url_that_never_accepts() {
    let server = Running::start(Script::default());
    let (silent, _listener) = port_that_never_accepts().await;
    let (http, ws) = (format!("http://{silent}"), format!("ws://{silent}"));
    let connector = Connector::resolve(&target(&[], &[&server.ws, &ws]), Arc::new(tls())).await.unwrap();
    let api = Http::new(&target(&[&http, &server.api], &[]), 1, tls());
    let within = Duration::from_secs(8);
    let (gateway, api) = tokio::join!(timeout(within, connector.reach(None)), timeout(within, api.ready()));
    let (endpoint, error) = gateway.unwrap().unwrap_err();
    assert_eq!((endpoint, error.text.as_str()), (ws, "no answer within 5 s"));
    api.expect("a connection takes 5 s at most if there is another URL").unwrap_err();
}

#[test]
fn a_published_port_that_is_dead_before_the_run_is_passed_over() {
    let server = Running::start(Script { itl: Duration::ZERO, ..Script::default() });
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = |published: &[SocketAddr]| {
        let mut config = Config::new(args(&server, directory.path(), 4, 1), 2, 1).unwrap();
        config.plan.target.published = published.to_vec();
        config
    };
    let start = datetime!(2026-11-21 00:00 UTC);
    let error = engine::run(config(&[dead, dead]), &Stop::default(), start).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains(&format!("nothing answers at ws://{dead}")), "{error}");
    engine::run(config(&[address(&server.ws), dead]), &Stop::default(), start).unwrap();
    everything_came(&read_summary(directory.path()), 4, 1, 18);
}
