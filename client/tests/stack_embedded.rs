//! The embedded stack over real sockets.

mod rig;

use protocol::RunRequest;
use rig::traffic::Session;
use stack::embedded::{Embedded, Options};
use std::{net::TcpStream, time::Duration};

fn quick() -> Options {
    Options::new().unwrap().token_delay(Duration::from_millis(1))
}

#[tokio::test]
async fn every_token_arrives_in_order() {
    let stack = Embedded::start(quick().response_text("one two three four").unwrap()).unwrap();
    let mut session = Session::open(&stack.api_url(), &stack.ws_url()).await;
    for _ in 0..3 {
        let run = session.request(RunRequest::default()).await;
        assert_eq!(session.rest(&run, 1).await.concat(), "one two three four");
    }
    session.close().await;
    stack.stop().unwrap();
}

#[tokio::test]
async fn sessions_over_two_gateways_are_independent() {
    let stack = Embedded::start(Options { proxies: 2, ..quick() }).unwrap();
    let urls = stack.ws_urls();
    let mut sessions = Vec::new();
    for n in 0..40 {
        sessions.push(Session::open(&stack.api_url(), &urls[n % 2]).await);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for mut session in sessions {
        tasks.spawn(async move {
            let run = session.run(50, 2.0).await;
            assert_eq!(session.rest(&run, 1).await.len(), 50);
            session.close().await;
        });
    }
    tasks.join_all().await;
    stack.stop().unwrap();
}

#[tokio::test]
async fn a_running_query_does_not_prevent_the_end() {
    let stack = Embedded::start(quick()).unwrap();
    let session = Session::open(&stack.api_url(), &stack.ws_url()).await;
    session.run(100_000, 1_000.0).await;
    let address = stack.api_url().strip_prefix("http://").unwrap().to_owned();
    stack.stop().unwrap();
    assert!(TcpStream::connect(address).is_err(), "something still listens");
}

#[test]
fn a_dropped_stack_ends() {
    let stack = Embedded::start(quick()).unwrap();
    let address = stack.ws_url().strip_prefix("ws://").unwrap().to_owned();
    drop(stack);
    assert!(TcpStream::connect(address).is_err(), "something still listens");
}

#[test]
fn a_number_of_gateways_out_of_range_is_refused() {
    let message = Embedded::start(Options { proxies: 0, ..quick() }).unwrap_err().to_string();
    assert!(message.contains("1 to 16"), "{message}");
}
