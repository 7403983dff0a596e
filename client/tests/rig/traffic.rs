//! A client of one session: it creates, connects, runs queries, reads every event and closes. An unexpected event fails the test.

use super::TIMEOUT;
use futures_util::StreamExt;
use protocol::{CreateResponse, Frame, Kind, Position, RunRequest, RunResponse};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

pub struct Session {
    http: reqwest::Client,
    url: String,
    /// Path of the socket, and the `Authorization` header.
    path: String,
    authorization: String,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

async fn connect(
    ws_url: &str,
    path: &str,
    authorization: &str,
) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let mut request = format!("{ws_url}{path}").into_client_request().unwrap();
    request.headers_mut().insert("authorization", authorization.parse().unwrap());
    timeout(TIMEOUT, connect_async(request)).await.unwrap().unwrap().0
}

impl Session {
    pub async fn open(api_url: &str, ws_url: &str) -> Self {
        let http = reqwest::Client::new();
        let response = http.post(format!("{api_url}/session/create")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let CreateResponse { session_id, auth_token } = response.json().await.unwrap();
        let (path, authorization) = (format!("/agent/ws/{session_id}"), format!("Bearer {auth_token}"));
        let socket = connect(ws_url, &path, &authorization).await;
        Self { http, url: format!("{api_url}/session/{session_id}"), path, authorization, socket }
    }

    /// Opens another socket of the session, which replaces the present one.
    pub async fn move_to(&mut self, ws_url: &str) {
        self.socket = connect(ws_url, &self.path, &self.authorization).await;
    }

    /// Starts a query of `tokens` tokens, `itl_ms` apart.
    pub async fn run(&self, tokens: u32, itl_ms: f64) -> RunResponse {
        self.request(RunRequest { tokens: Some(tokens), itl_ms: Some(itl_ms), ..RunRequest::default() }).await
    }

    pub async fn request(&self, request: RunRequest) -> RunResponse {
        let response = self.http.post(format!("{}/run", self.url)).json(&request).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    /// Reads the next event of a query, which must have the sequence `seq`.
    pub async fn event(&mut self, run: &RunResponse, seq: u64) -> (Kind, String) {
        loop {
            let message = timeout(TIMEOUT, self.socket.next()).await.expect("an event in time");
            match message.expect("the socket is open").expect("the socket has no error") {
                Message::Text(text) => {
                    let Ok(Frame::Event(event)) = Frame::parse(&text) else { panic!("not an event: {text}") };
                    assert_eq!(event.position, Some(Position::new(run.generation.unwrap(), seq)), "{text}");
                    return (event.kind, event.content.into_owned());
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("expected event {seq}, got {other:?}"),
            }
        }
    }

    /// Reads a query from the event `first` to the terminator. Returns the contents of its tokens.
    pub async fn rest(&mut self, run: &RunResponse, first: u64) -> Vec<String> {
        let tokens = run.tokens.unwrap();
        let mut contents = Vec::new();
        for seq in first..=tokens {
            let (kind, content) = self.event(run, seq).await;
            assert_eq!(kind, Kind::Token);
            contents.push(content);
        }
        assert_eq!(self.event(run, tokens + 1).await.0, Kind::Done);
        contents
    }

    /// Runs a query of `tokens` tokens and reads all its events.
    pub async fn completes(&mut self, tokens: u32) {
        let run = self.run(tokens, 1.0).await;
        assert_eq!(self.rest(&run, 1).await.len(), tokens as usize);
    }

    /// Reads until the socket ends. Returns whether it ended without a close frame.
    pub async fn ends_without_close_frame(mut self) -> bool {
        loop {
            match timeout(TIMEOUT, self.socket.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(_))) => return false,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return true,
            }
        }
    }

    /// Closes the session. Its socket must end with code 1000.
    pub async fn close(mut self) {
        let response = self.http.post(format!("{}/close", self.url)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        loop {
            match timeout(TIMEOUT, self.socket.next()).await.expect("a close in time") {
                Some(Ok(Message::Close(Some(frame)))) => {
                    assert_eq!(u16::from(frame.code), 1000, "{frame:?}");
                    return;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("expected close 1000, got {other:?}"),
            }
        }
    }
}
