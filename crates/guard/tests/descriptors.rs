//! A process without free file descriptors. The limit applies to the whole process, so this file has one test.

#![allow(missing_docs)]

use guard::{Acceptor, Failed, accept_now};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::{
    fs::File,
    io::{ErrorKind, Read},
    net::TcpStream,
    time::Duration,
};
use tokio::net::TcpListener;

#[tokio::test]
async fn clients_are_refused_at_once_while_there_is_no_descriptor_and_served_afterwards() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(256), hard).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut acceptor = Acceptor::default();
    let mut clients: Vec<_> = (0..4).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut hoard: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    for client in &mut clients[..3] {
        let error = listener.accept().await.unwrap_err();
        let failed = acceptor.failed(&error, || accept_now(listener.accept())).await;
        assert_eq!(failed, Failed::NoDescriptor);
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        match client.read(&mut [0]) {
            Ok(count) => assert_eq!(count, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    hoard.pop();
    let (_, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, clients[3].local_addr().unwrap());
}
