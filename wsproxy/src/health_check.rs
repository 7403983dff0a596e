//! The health check of a container: requests `/ready` from the gateway on this host, so that the image needs no curl.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

/// Time limit of each step.
const PATIENCE: Duration = Duration::from_secs(3);

/// Returns whether the gateway on this host's `port` answers `/ready` with 200.
///
/// # Errors
/// The port is closed, or the gateway does not answer in time.
pub fn health_check(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    Ok(status.ends_with(b" 200"))
}
