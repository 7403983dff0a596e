//! A client of one session: create, connect, run, read every event, close. Any event out of its place fails the test.

use super::PATIENCE;
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
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Session {
    pub async fn open(api_url: &str, ws_url: &str) -> Self {
        let http = reqwest::Client::new();
        let answer = http.post(format!("{api_url}/session/create")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let CreateResponse { session_id, auth_token } = answer.json().await.unwrap();
        let mut request = format!("{ws_url}/agent/ws/{session_id}").into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {auth_token}").parse().unwrap());
        let (socket, _) = timeout(PATIENCE, connect_async(request)).await.unwrap().unwrap();
        Self { http, url: format!("{api_url}/session/{session_id}"), socket }
    }

    /// Starts a query of `tokens` tokens, `itl_ms` apart.
    pub async fn run(&self, tokens: u32, itl_ms: f64) -> RunResponse {
        self.request(RunRequest { tokens: Some(tokens), itl_ms: Some(itl_ms), ..RunRequest::default() }).await
    }

    pub async fn request(&self, request: RunRequest) -> RunResponse {
        let answer = self.http.post(format!("{}/run", self.url)).json(&request).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    /// Reads the next event of `run`, which must be number `seq`.
    pub async fn event(&mut self, run: &RunResponse, seq: u64) -> (Kind, String) {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("an event in time");
            match message.expect("the socket is open").expect("the socket is whole") {
                Message::Text(text) => {
                    let Ok(Frame::Event(event)) = Frame::parse(&text) else { panic!("no event: {text}") };
                    assert_eq!(event.position, Some(Position::new(run.generation.unwrap(), seq)), "{text}");
                    return (event.kind, event.content.into_owned());
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("expected event {seq}, got {other:?}"),
            }
        }
    }

    /// Reads all of `run` from event `first` on, and answers the contents of its tokens.
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

    /// Plays a query of `tokens` tokens, from the first one to the terminator.
    pub async fn plays(&mut self, tokens: u32) {
        let run = self.run(tokens, 1.0).await;
        assert_eq!(self.rest(&run, 1).await.len(), tokens as usize);
    }

    /// Reads on until the socket ends; true where nobody said goodbye.
    pub async fn ends_without_goodbye(mut self) -> bool {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(_))) => return false,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return true,
            }
        }
    }

    /// Closes the session; its socket must end with 1000.
    pub async fn close(mut self) {
        let answer = self.http.post(format!("{}/close", self.url)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("a close in time") {
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
