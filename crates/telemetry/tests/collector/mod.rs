//! A collector for one export.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

/// Answers one request with `status`, and sends its body.
pub fn collector(status: &'static str) -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (send, bodies) = channel();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        let (head, length) = loop {
            let count = socket.read(&mut piece).unwrap();
            assert!(count > 0, "the request ends early");
            bytes.extend_from_slice(&piece[..count]);
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
                assert!(head.starts_with("post /v1/metrics "), "{head}");
                assert!(head.contains("content-type: application/x-protobuf"), "{head}");
                let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
                break (end + 4, length.parse::<usize>().unwrap());
            }
        };
        while bytes.len() < head + length {
            let count = socket.read(&mut piece).unwrap();
            bytes.extend_from_slice(&piece[..count]);
        }
        write!(socket, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
        send.send(bytes[head..].to_vec()).unwrap();
    });
    (address, bodies)
}
