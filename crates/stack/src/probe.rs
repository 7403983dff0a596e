//! Asks a process of the stack over HTTP or Redis's inline protocol: enough to see whether it is ready.
//! No client library: one request a connection, bounded in time and bytes.

use crate::relay::Address;
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// What an HTTP call came to.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// `GET path`, on a thread that may block.
pub(crate) async fn get(address: SocketAddr, path: &'static str) -> io::Result<Answer> {
    tokio::task::spawn_blocking(move || get_blocking(address, path)).await.map_err(io::Error::other)?
}

/// Sends one command to the Redis at `address`, on a thread that may block; answers its reply as it came over the wire.
pub(crate) async fn redis(address: &Address, command: &str) -> io::Result<String> {
    let request = format!("{command}\r\nQUIT\r\n");
    let address = address.clone();
    let ask = move || {
        let answer = match &address {
            Address::Tcp(address) => exchange(*address, request.as_bytes())?,
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                converse(stream, request.as_bytes())?
            }
        };
        match answer.strip_suffix("+OK\r\n") {
            Some("") | None => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(reply) => Ok(reply.to_owned()),
        }
    };
    tokio::task::spawn_blocking(ask).await.map_err(io::Error::other)?
}

/// `GET path`.
pub(crate) fn get_blocking(address: SocketAddr, path: &str) -> io::Result<Answer> {
    // HTTP/1.0, though HAProxy's statistics come in chunks all the same.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    parse(&exchange(address, request.as_bytes())?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP"))
}

/// Asks `GET path` until it answers 200; after `patience`, answers what came last.
pub(crate) fn wait_for_200_blocking(
    address: SocketAddr,
    path: &str,
    patience: Duration,
) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    loop {
        let last = match get_blocking(address, path) {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) => format!("GET http://{address}{path} answers {}: {}", answer.status, answer.body),
            Err(error) => format!("GET http://{address}{path} fails: {error}"),
        };
        if Instant::now() > deadline {
            return Err(last);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn exchange(address: SocketAddr, request: &[u8]) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    converse(stream, request)
}

fn converse(mut stream: impl Read + Write, request: &[u8]) -> io::Result<String> {
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked");
    let body = if chunked { unchunk(body)? } else { body.to_owned() };
    Some(Answer { status, body })
}

fn unchunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, data) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(data.get(..size)?);
        rest = data.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let answer = parse("HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\nno").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "no"));
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunks).unwrap().body, "abcd");
        for cut in 0..chunks.len() - 2 {
            let _ = parse(&chunks[..cut]);
        }
        for text in ["", "HTTP/1.1\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "+PONG\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert!(parse(text).is_none(), "{text:?} was taken for an answer");
        }
    }
}
