//! Small requests to processes of the stack, over HTTP or the inline protocol of Redis. They show whether a process is ready.
//! Each request has its own connection and limits on time and bytes, so no client library is needed.

use crate::relay::Address;
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_RESPONSE_BYTES: u64 = 4 << 20;

/// An HTTP response.
#[derive(Clone, Debug)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Sends `GET path` from a thread that may block.
pub(crate) async fn get(address: SocketAddr, path: &'static str) -> io::Result<HttpResponse> {
    tokio::task::spawn_blocking(move || get_blocking(address, path)).await.map_err(io::Error::other)?
}

/// Sends one command to the Redis at `address`, from a thread that may block. Returns the reply in Redis's wire format.
pub(crate) async fn redis(address: &Address, command: &str) -> io::Result<String> {
    let request = format!("{command}\r\nQUIT\r\n");
    let address = address.clone();
    let send = move || {
        let reply = match &address {
            Address::Tcp(address) => exchange(*address, request.as_bytes())?,
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                send_and_read(stream, request.as_bytes())?
            }
        };
        match reply.strip_suffix("+OK\r\n") {
            Some("") | None => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(reply) => Ok(reply.to_owned()),
        }
    };
    tokio::task::spawn_blocking(send).await.map_err(io::Error::other)?
}

/// Sends `GET path`. Blocks for at most a few seconds.
pub(crate) fn get_blocking(address: SocketAddr, path: &str) -> io::Result<HttpResponse> {
    // HAProxy sends its statistics in chunks even to HTTP/1.0.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    parse(&exchange(address, request.as_bytes())?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the response is not HTTP"))
}

/// Repeats `GET path` until the status is 200. After `timeout` returns a description of the last response as the error.
pub(crate) fn wait_for_200_blocking(
    address: SocketAddr,
    path: &str,
    timeout: Duration,
) -> Result<(), String> {
    let deadline = Instant::now() + timeout;
    loop {
        let last = match get_blocking(address, path) {
            Ok(response) if response.status == 200 => return Ok(()),
            Ok(response) => {
                format!("GET http://{address}{path} returned {}: {}", response.status, response.body)
            }
            Err(error) => format!("GET http://{address}{path} failed: {error}"),
        };
        if Instant::now() > deadline {
            return Err(last);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Connects, sends a request and returns everything up to the end of the connection.
fn exchange(address: SocketAddr, request: &[u8]) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    send_and_read(stream, request)
}

fn send_and_read(mut stream: impl Read + Write, request: &[u8]) -> io::Result<String> {
    stream.write_all(request)?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

/// Reads an HTTP response.
fn parse(response: &str) -> Option<HttpResponse> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked");
    let body = if chunked { unchunk(body)? } else { body.to_owned() };
    Some(HttpResponse { status, body })
}

/// Joins the chunks of a body.
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
    fn responses_are_read() {
        let response = parse("HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\nno").unwrap();
        assert_eq!((response.status, response.body.as_str()), (503, "no"));
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunks).unwrap().body, "abcd");
        for cut in 0..chunks.len() - 2 {
            let _ = parse(&chunks[..cut]);
        }
        for text in ["", "HTTP/1.1\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "+PONG\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert!(parse(text).is_none(), "{text:?} was read as a response");
        }
    }
}
