//! Publishes through nchan's front end, as its users do: HTTP POSTs on kept connections, all of a batch at once. Each session
//! always uses the same connection, so its tokens keep their order. The number of subscribers is not checked.

use crate::dial::Address;
use anyhow::{Context, bail};
use bus::Batch;
use futures_util::future::try_join_all;
use std::io::Write as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split},
    net::{TcpStream, UnixStream},
    sync::Mutex,
    try_join,
};

/// Number of connections. nginx handles the requests of one connection one after another.
const CONNECTIONS: usize = 64;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connections to the front end.
pub(crate) struct Posts(Mutex<Vec<Connection>>);

struct Connection {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    requests: Vec<u8>,
    unanswered: usize,
    answers: Vec<u8>,
}

impl Posts {
    pub(crate) async fn connect(address: &Address) -> anyhow::Result<Self> {
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            connections.push(Connection::open(address).await.context("cannot reach nchan's front end")?);
        }
        Ok(Self(Mutex::new(connections)))
    }

    /// Publishes a batch and waits for all responses. Returns the number of refused messages.
    ///
    /// # Errors
    /// The front end closed a connection, or its response is not HTTP.
    pub(crate) async fn append(&self, batch: &Batch) -> anyhow::Result<u64> {
        let mut connections = self.0.lock().await;
        for entry in batch.iter() {
            let index = (entry.session.uuid().as_u128() % CONNECTIONS as u128) as usize;
            let Connection { requests, unanswered, .. } = &mut connections[index];
            let (session, length) = (entry.session, entry.frame.len());
            write!(
                requests,
                "POST /publish?session={session} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n"
            )?;
            requests.extend_from_slice(entry.frame);
            *unanswered += 1;
        }
        let busy = connections.iter_mut().filter(|connection| connection.unanswered > 0);
        Ok(try_join_all(busy.map(Connection::exchange)).await?.into_iter().sum())
    }
}

impl Connection {
    async fn open(address: &Address) -> std::io::Result<Self> {
        let stream: Box<dyn Stream> = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        };
        Ok(Self::over(stream))
    }

    fn over(stream: Box<dyn Stream>) -> Self {
        let (reader, writer) = split(stream);
        Self { reader, writer, requests: Vec::new(), unanswered: 0, answers: Vec::new() }
    }

    /// Sends the requests and reads as many responses at the same time, so that neither side waits for the other to read.
    /// Returns the number of refused messages.
    async fn exchange(&mut self) -> anyhow::Result<u64> {
        let Self { reader, writer, requests, unanswered, answers } = self;
        let sending = async { writer.write_all(requests).await.context("cannot write to the front end") };
        let reading = async {
            let mut refused = 0;
            while *unanswered > 0 {
                let Some((status, length)) = answer(answers)? else {
                    if reader.read_buf(answers).await? == 0 {
                        bail!("the front end closed the connection with {unanswered} messages unanswered");
                    }
                    continue;
                };
                answers.drain(..length);
                *unanswered -= 1;
                refused += u64::from(!(200..300).contains(&status));
            }
            Ok(refused)
        };
        let ((), refused) = try_join!(sending, reading)?;
        self.requests.clear();
        Ok(refused)
    }
}

/// Returns the status of the first response and its length in bytes, or `None` if it is not complete.
fn answer(bytes: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).context("the front end's response is not HTTP")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let length = lines.find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
    let (Some(status), Some(length)) = (status, length) else {
        bail!("the front end returned `{head}` without status or Content-Length")
    };
    let whole = end + 4 + length;
    Ok((bytes.len() >= whole).then_some((status, whole)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Kind, Position, SessionId};
    use uuid::Uuid;

    fn batch(frames: &[&str]) -> Batch {
        let mut batch = Batch::default();
        for (seq, frame) in (1..).zip(frames) {
            let position = Position::new(1, seq);
            let session = SessionId::new(Uuid::from_u128(7));
            batch.push(session, position, Kind::Token, |out| out.extend_from_slice(frame.as_bytes()));
        }
        batch
    }

    #[tokio::test]
    async fn messages_of_a_session_keep_their_order_and_refusals_are_counted() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let posts = Posts(Mutex::new(Vec::new()));
        let elsewhere = || Connection::over(Box::new(tokio::io::duplex(1).0));
        *posts.0.lock().await = (0..CONNECTIONS).map(|_| elsewhere()).collect();
        posts.0.lock().await[7] = Connection::over(Box::new(ours));
        let server = tokio::spawn(async move {
            let answers = ["201 Created", "507 Insufficient Storage", "202 Accepted"]
                .map(|status| format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok"));
            theirs.write_all(answers.concat().as_bytes()).await.unwrap();
            let mut requests = String::new();
            theirs.read_to_string(&mut requests).await.unwrap();
            requests
        });
        assert_eq!(posts.append(&batch(&["one", "two", "three"])).await.unwrap(), 1);
        drop(posts);
        let requests = server.await.unwrap();
        let bodies: Vec<_> =
            requests.split("POST ").filter_map(|one| one.rsplit("\r\n\r\n").next()).collect();
        assert_eq!(bodies, ["", "one", "two", "three"], "{requests}");
        assert!(requests.contains("/publish?session=00000000-0000-0000-0000-000000000007 "), "{requests}");
    }

    #[test]
    fn a_response_is_taken_when_it_is_complete() {
        let first = "HTTP/1.1 201 Created\r\nServer: nginx\r\nContent-Length: 5\r\n\r\nhello";
        let text = format!("{first}HTTP/1.1 5");
        assert_eq!(answer(text.as_bytes()).unwrap(), Some((201, first.len())));
        for cut in 0..first.len() {
            assert_eq!(answer(&text.as_bytes()[..cut]).unwrap(), None, "{cut}");
        }
        for wrong in ["HTTP/1.1 200 OK\r\n\r\n", "nonsense\r\nContent-Length: 0\r\n\r\n"] {
            assert!(answer(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
