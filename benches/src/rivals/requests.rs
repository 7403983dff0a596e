//! How tokens are published to the rivals that take them over HTTP: one state machine per lane that makes requests and judges the
//! responses. A request is repeated until it has a response, and carries what the rival offers against repeats. Opens no socket.

use super::{http::Response, json};
use aws_lc_rs::hmac;
use md5::{Digest as _, Md5};
use protocol::{Position, encode_token};
use serde::Deserialize;
use std::{
    collections::VecDeque,
    fmt::{Debug, Write as _},
};

/// Most events of one request to Sockudo, by its default.
const SOCKUDO_BATCH: usize = 10;
/// Most tokens of one request to the others.
const BATCH: usize = 100;
/// The query of every token, as long as a real one.
const QUERY_ID: &str = "7b0d7c5e-31fd-4b83-a8a5-3a1a77d5d4a1";

/// A token on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) connection: usize,
    pub(super) seq: u64,
    pub(super) due_us: u64,
    pub(super) sent_us: u64,
}

impl Token {
    /// Returns the JSON text that every rival delivers.
    pub(super) fn text(&self) -> String {
        let mut out = Vec::new();
        encode_token(&mut out, Position::new(1, self.seq), "token ", QUERY_ID, self.due_us, self.sent_us);
        String::from_utf8(out).expect("a token is UTF-8")
    }
}

/// What a response means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// The rival has the tokens.
    Accepted,
    /// The request must be made anew.
    Again,
    /// The rival refuses the tokens for good.
    Refused,
}

impl Settled {
    /// Judges a status that the rival's protocol gives no special meaning.
    const fn by_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Accepted,
            429 | 500..=599 => Self::Again,
            _ => Self::Refused,
        }
    }
}

/// The requests of one lane, one after another.
pub(super) trait Requests: Debug + Send {
    /// Returns a request for the first waiting tokens, and their number. There is at least one.
    fn request(&mut self, waiting: &VecDeque<Token>) -> (Vec<u8>, usize);

    /// Takes the response to a request with `count` tokens.
    fn settle(&mut self, count: usize, response: &Response) -> Settled;
}

fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Batches of signed events.
#[derive(Debug)]
pub(super) struct Sockudo {
    pub(super) app: &'static str,
    pub(super) key: &'static str,
    pub(super) secret: &'static str,
    /// Unix time of the signatures. Sockudo accepts ten minutes.
    pub(super) timestamp: u64,
    /// Whether each event has a key against repeats.
    pub(super) keys: bool,
}

impl Sockudo {
    /// Returns the path with the signature of a body.
    fn signed(&self, body: &str) -> String {
        let Self { app, key, secret, timestamp, .. } = self;
        let path = format!("/apps/{app}/batch_events");
        let md5 = hex(&Md5::digest(body.as_bytes()));
        let query = format!("auth_key={key}&auth_timestamp={timestamp}&auth_version=1.0&body_md5={md5}");
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signature = hmac::sign(&key, format!("POST\n{path}\n{query}").as_bytes());
        format!("{path}?{query}&auth_signature={}", hex(signature.as_ref()))
    }
}

impl Requests for Sockudo {
    fn request(&mut self, waiting: &VecDeque<Token>) -> (Vec<u8>, usize) {
        let count = waiting.len().min(SOCKUDO_BATCH);
        let events = waiting.iter().take(count).map(|token| {
            let (Token { connection, seq, .. }, text) = (token, json::text(&token.text()));
            let key =
                if self.keys { format!(r#","idempotency_key":"{connection}-{seq}""#) } else { String::new() };
            format!(r#"{{"name":"token","channel":"c{connection}","data":{text}{key}}}"#)
        });
        let body = format!(r#"{{"batch":[{}]}}"#, events.collect::<Vec<_>>().join(","));
        (post(&self.signed(&body), "", &body), count)
    }

    fn settle(&mut self, _: usize, response: &Response) -> Settled {
        Settled::by_status(response.status)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes every write");
        text
    })
}

/// Appends of an idempotent producer to one stream. If the server no longer knows the producer's number, the producer begins a new epoch,
/// as the protocol asks.
#[derive(Debug)]
pub(super) struct DurableStreams {
    pub(super) path: String,
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

impl Requests for DurableStreams {
    fn request(&mut self, waiting: &VecDeque<Token>) -> (Vec<u8>, usize) {
        let Self { path, epoch, seq } = self;
        let count = waiting.len().min(BATCH);
        let texts: Vec<_> = waiting.iter().take(count).map(Token::text).collect();
        let headers = format!("Producer-Id: bench\r\nProducer-Epoch: {epoch}\r\nProducer-Seq: {seq}\r\n");
        (post(path, &headers, &format!("[{}]", texts.join(","))), count)
    }

    fn settle(&mut self, _: usize, response: &Response) -> Settled {
        match response.status {
            409 | 403 => {
                (self.epoch, self.seq) = (self.epoch + 1, 0);
                Settled::Again
            }
            status => {
                let settled = Settled::by_status(status);
                self.seq += u64::from(settled == Settled::Accepted);
                settled
            }
        }
    }
}

/// Appends to one stream of `s2 lite` that name the number of their first record, so that a repeat is refused.
#[derive(Debug)]
pub(super) struct S2 {
    pub(super) basin: &'static str,
    pub(super) path: String,
    pub(super) next: u64,
}

impl Requests for S2 {
    fn request(&mut self, waiting: &VecDeque<Token>) -> (Vec<u8>, usize) {
        let Self { basin, path, next } = self;
        let count = waiting.len().min(BATCH);
        let records =
            waiting.iter().take(count).map(|token| format!(r#"{{"body":{}}}"#, json::text(&token.text())));
        let records = records.collect::<Vec<_>>().join(",");
        let body = format!(r#"{{"records":[{records}],"match_seq_num":{next}}}"#);
        (post(path, &format!("S2-Basin: {basin}\r\n"), &body), count)
    }

    fn settle(&mut self, count: usize, response: &Response) -> Settled {
        #[derive(Deserialize)]
        struct Mismatch {
            seq_num_mismatch: u64,
        }
        let settled = if response.status == 412 {
            match serde_json::from_slice(&response.body) {
                // The lane is the only writer, so that its lost request was carried out.
                Ok(Mismatch { seq_num_mismatch }) if seq_num_mismatch == self.next + count as u64 => {
                    Settled::Accepted
                }
                Ok(Mismatch { seq_num_mismatch }) => {
                    self.next = seq_num_mismatch;
                    Settled::Again
                }
                Err(_) => Settled::Refused,
            }
        } else {
            Settled::by_status(response.status)
        };
        self.next += if settled == Settled::Accepted { count as u64 } else { 0 };
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(count: u64) -> VecDeque<Token> {
        (1..=count).map(|seq| Token { connection: 7, seq, due_us: 5, sent_us: 6 }).collect()
    }

    fn response(status: u16, body: &str) -> Response {
        Response { status, body: body.into(), closes: false }
    }

    fn text(request: Vec<u8>) -> String {
        String::from_utf8(request).unwrap()
    }

    #[test]
    fn requests_to_sockudo_are_signed_and_limited() {
        let mut lane = Sockudo {
            app: "3",
            key: "278d425bdf160c739803",
            secret: "7ad3773142a6692b25b8",
            timestamp: 1,
            keys: true,
        };
        // The value of MD5 is that of the Pusher documentation's example.
        let body = r#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        assert!(lane.signed(body).contains("body_md5=ec365a775a4cd0599faeb73354201b6f&auth_signature="));
        let (request, count) = lane.request(&waiting(12));
        assert_eq!(count, 10);
        let request = text(request);
        assert!(request.contains(r#""channel":"c7","data":"{\"id\":\"1-1\",\"#), "{request}");
        assert!(request.contains(r#""idempotency_key":"7-10""#), "{request}");
        for (status, settled) in [(200, Settled::Accepted), (503, Settled::Again), (401, Settled::Refused)] {
            assert_eq!(lane.settle(10, &response(status, "")), settled);
        }
    }

    #[test]
    fn a_forgotten_producer_begins_a_new_epoch() {
        let mut lane = DurableStreams { path: "/s7".into(), epoch: 0, seq: 0 };
        assert_eq!(lane.request(&waiting(2)).1, 2);
        assert_eq!(lane.settle(2, &response(200, "")), Settled::Accepted);
        assert!(text(lane.request(&waiting(1)).0).contains("Producer-Epoch: 0\r\nProducer-Seq: 1\r\n"));
        assert_eq!(lane.settle(1, &response(409, "")), Settled::Again);
        let request = text(lane.request(&waiting(1)).0);
        assert!(request.contains("Producer-Epoch: 1\r\nProducer-Seq: 0\r\n"), "{request}");
        assert!(request.ends_with("\"sent_us\":6}]"), "{request}");
        assert_eq!(lane.settle(1, &response(204, "")), Settled::Accepted, "it was a repeat");
    }

    #[test]
    fn an_append_that_was_carried_out_is_not_repeated() {
        let mut lane = S2 { basin: "b", path: "/v1/streams/s7/records".into(), next: 0 };
        let request = text(lane.request(&waiting(3)).0);
        assert!(
            request.contains("S2-Basin: b\r\n") && request.ends_with(r#","match_seq_num":0}"#),
            "{request}"
        );
        assert_eq!(lane.settle(3, &response(200, "{}")), Settled::Accepted);
        assert_eq!(lane.settle(2, &response(412, r#"{"seq_num_mismatch":5}"#)), Settled::Accepted);
        assert_eq!(lane.next, 5);
        assert_eq!(lane.settle(2, &response(412, r#"{"seq_num_mismatch":4}"#)), Settled::Again);
        assert_eq!(lane.next, 4, "the server has lost a record");
        assert_eq!(lane.settle(2, &response(412, r#"{"fencing_token_mismatch":""}"#)), Settled::Refused);
    }
}
