//! Metrics over real sockets: a scrape, and pushes to collectors that accept, refuse and never answer.

mod collector;

use collector::collector;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message;
use std::{
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};
use telemetry::{MetricsServer, Push, PushCounts, Resource, push_url};

const TEXT: &str = "# HELP a_things Things.\n# TYPE a_things counter\na_things_total 4\n# EOF\n";

fn resource() -> Resource {
    Resource { service: "streamstress-test", instance: "test-1".into(), version: "0" }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn push_to(address: SocketAddr) -> Push {
    let url = push_url(&format!("http://{address}")).unwrap();
    Push::start(&url, resource(), PushCounts::default(), || TEXT.to_owned()).unwrap()
}

#[test]
fn the_last_values_are_pushed_at_the_end() {
    let (address, bodies) = collector("200 OK");
    let counts = push_to(address).end();
    let body = bodies.recv_timeout(Duration::from_secs(10)).unwrap();
    let request = ExportMetricsServiceRequest::decode(body.as_slice()).unwrap();
    assert_eq!(request.resource_metrics[0].scope_metrics[0].metrics[0].name, "a_things");
    assert_eq!((counts.ok(), counts.failed()), (1, 0));
}

#[test]
fn a_refusal_is_counted() {
    let (address, bodies) = collector("503 Service Unavailable");
    let counts = push_to(address).end();
    bodies.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!((counts.ok(), counts.failed()), (0, 1));
}

#[test]
fn the_end_waits_two_seconds_for_a_collector_that_never_answers() {
    let (_listener, address) = listen();
    let began = Instant::now();
    let counts = push_to(address).end();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!((counts.ok(), counts.failed()), (0, 1));
}

#[test]
fn a_drop_does_not_wait() {
    let (_listener, address) = listen();
    let began = Instant::now();
    drop(push_to(address));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn metrics_are_served_until_the_drop() {
    let (listener, address) = listen();
    let server = MetricsServer::start(listener, || TEXT.to_owned()).unwrap();
    assert_eq!(server.address(), address);
    let response = host::http_get(address, "/metrics").unwrap();
    assert_eq!((response.status, response.body.as_str()), (200, TEXT));
    assert_eq!(host::http_get(address, "/other").unwrap().status, 404);
    let mut idle = TcpStream::connect(address).unwrap();
    drop(server);
    idle.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(!matches!(idle.read(&mut [0]), Ok(1..)), "the connection is closed");
    assert!(TcpStream::connect(address).is_err());
}
