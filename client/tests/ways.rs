//! Connections to a gateway over TLS, from several local addresses, and through several ports.

mod fake;
mod runs;

use client::{cli::RunArgs, config::Config, engine};
use fake::{Running, Script, background::serve};
use plan::Stop;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use runs::{args, check, everything_came, read_summary, run, summary};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use time::macros::datetime;
use tokio::{io::copy_bidirectional, net::TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::DropGuard;

/// A TLS proxy with its own certificate, in front of a server without TLS.
struct Tls {
    address: SocketAddr,
    _end: DropGuard,
}

impl Tls {
    fn start(certificate: &CertifiedKey<rcgen::KeyPair>, behind: SocketAddr) -> Self {
        let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let ([address], _end) = serve(move |[listener]| async move {
            while let Ok((outside, _)) = listener.accept().await {
                tokio::spawn(relay(acceptor.clone(), outside, behind));
            }
        });
        Self { address, _end }
    }
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

    fn http_url(&self) -> String {
        format!("http://{}", self.address)
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

/// No attempt may be repeated, so that only the other URL can save a call.
#[test]
fn a_call_without_a_response_goes_to_the_next_url() {
    let server = Running::start(Script { itl: Duration::ZERO, ..Script::default() });
    let [lives, dies] = [usize::MAX, 3].map(|most| Port::start(address(&server.api), most));
    let change = |args: &mut RunArgs| {
        args.api_url = vec![dies.http_url(), lives.http_url()];
        args.ws_max_reconnect_attempts = Some(0);
    };
    let summary = summary(&server, change, 6, 4);
    everything_came(&summary, 6, 4, 18);
    assert_eq!(dies.taken(), 3);
    assert_eq!(summary["config"]["more_api_urls"], serde_json::json!([format!("{}/", lives.http_url())]));
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
    assert!(evidence.contains("then refused"), "{evidence}");
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
