//! A relay in front of a private Redis, whose connections can be made to stall.

use super::private_redis::PrivateRedis;
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

pub struct Relay {
    address: String,
    accepted: Arc<AtomicUsize>,
    /// The first connections, which carry nothing any more. They stay open.
    stalled: Arc<AtomicUsize>,
}

impl Relay {
    /// Accepts connections until the test ends.
    pub fn start(redis: &PrivateRedis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let (accepted, stalled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let socket = redis.url().split_once("unix://").expect("a unix socket").1.to_owned();
        let relay = Self { address, accepted: accepted.clone(), stalled: stalled.clone() };
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = UnixStream::connect(&socket) else { continue };
                let number = accepted.fetch_add(1, SeqCst);
                let both = client.try_clone().and_then(|other| Ok((other, server.try_clone()?)));
                let (client_too, server_too) = both.expect("there are descriptors");
                let (there, back) = (stalled.clone(), stalled.clone());
                thread::spawn(move || {
                    copy(client_too, server, number, &there);
                });
                thread::spawn(move || {
                    copy(server_too, &client, number, &back);
                    let _ = TcpStream::shutdown(&client, Shutdown::Both);
                });
            }
        });
        relay
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Carries nothing more on the present connections.
    pub fn stall(&self) {
        self.stalled.store(self.accepted.load(SeqCst), SeqCst);
    }
}

fn copy(mut from: impl Read, mut to: impl Write, number: usize, stalled: &AtomicUsize) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if number >= stalled.load(SeqCst) && to.write_all(&bytes[..read]).is_err() {
            return;
        }
    }
}
