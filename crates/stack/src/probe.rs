//! Small requests to processes of the stack, over HTTP or the inline protocol of Redis. They show whether a process is ready.

use crate::relay::Address;
use host::{HttpResponse, REQUEST_TIMEOUT, exchange, http_get};
use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// Sends `GET path` from a thread that may block.
pub(crate) async fn get(address: SocketAddr, path: &'static str) -> io::Result<HttpResponse> {
    tokio::task::spawn_blocking(move || http_get(address, path)).await.map_err(io::Error::other)?
}

/// Sends one command to the Redis at `address`, from a thread that may block. Returns the reply in Redis's wire format.
pub(crate) async fn redis(address: &Address, command: &str) -> io::Result<String> {
    let request = format!("{command}\r\nQUIT\r\n");
    let address = address.clone();
    let send = move || {
        let reply = match &address {
            Address::Tcp(address) => {
                exchange(TcpStream::connect_timeout(address, REQUEST_TIMEOUT)?, request.as_bytes())?
            }
            Address::Unix(path) => exchange(UnixStream::connect(path)?, request.as_bytes())?,
        };
        match reply.strip_suffix("+OK\r\n") {
            Some("") | None => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(reply) => Ok(reply.to_owned()),
        }
    };
    tokio::task::spawn_blocking(send).await.map_err(io::Error::other)?
}

/// Repeats `GET path` until the status is 200. After `timeout` returns a description of the last response as the error.
pub(crate) fn wait_for_200_blocking(
    address: SocketAddr,
    path: &str,
    timeout: Duration,
) -> Result<(), String> {
    let deadline = Instant::now() + timeout;
    loop {
        let last = match http_get(address, path) {
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
