//! Small requests to a process of the stack. Each has its own connection and limits on time and bytes, so no client library is needed.

use socket2::Socket;
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Time limit of each step of a small request.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_RESPONSE_BYTES: u64 = 4 << 20;

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// The body, without the marks of its chunks.
    pub body: String,
}

/// Sends `GET path`. Blocks for at most a few seconds.
///
/// # Errors
/// Nothing answers in time, or the response is not HTTP.
pub fn http_get(address: SocketAddr, path: &str) -> io::Result<HttpResponse> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let stream = TcpStream::connect_timeout(&address, REQUEST_TIMEOUT)?;
    parse(&exchange(stream, request.as_bytes())?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the response is not HTTP"))
}

/// Requests `/ready`, for the health check of a container: its image then needs no curl.
///
/// # Errors
/// The process does not answer in time, or is not ready.
pub fn check_ready(address: SocketAddr) -> io::Result<()> {
    let unreachable = |error: io::Error| {
        let seconds = REQUEST_TIMEOUT.as_secs();
        let why = match error.kind() {
            io::ErrorKind::ConnectionRefused => format!("nothing listens on {address}"),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("{address} does not answer within {seconds} s")
            }
            _ => format!("{address}: {error}"),
        };
        io::Error::new(error.kind(), why)
    };
    let HttpResponse { status, body } = http_get(address, "/ready").map_err(unreachable)?;
    let why = || io::Error::other(format!("{address} is not ready: {status} {body}"));
    if status == 200 { Ok(()) } else { Err(why()) }
}

/// Sends a request and returns everything up to the end of the connection. Blocks for at most a few seconds.
///
/// # Errors
/// The peer does not answer in time.
pub fn exchange(stream: impl Into<Socket>, request: &[u8]) -> io::Result<String> {
    let mut stream = stream.into();
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
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
    fn a_process_that_is_not_ready_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let silent = check_ready(address).unwrap_err().to_string();
        assert_eq!(silent, format!("{address} does not answer within 2 s"));
        drop(listener);
        let closed = check_ready(address).unwrap_err().to_string();
        assert_eq!(closed, format!("nothing listens on {address}"));
    }

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
