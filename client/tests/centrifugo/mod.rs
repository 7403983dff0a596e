//! A scripted server that follows Centrifugo's published JSON protocol: connect, subscribe with recovery, RPC, publications with offsets
//! and an epoch, pings as empty objects, and several messages per frame.
#![allow(dead_code, reason = "each test binary uses its part")]

use crate::fake::background;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::broadcast,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
use tokio_util::sync::DropGuard;

const TOKENS: u64 = 20;
const EPOCH: &str = "xyZ7";

/// What the server does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The first socket of each answer breaks behind this token.
    pub cut_after: Option<u64>,
    /// It keeps no history, so that nothing can be recovered.
    pub forgets: bool,
    /// It refuses each connection.
    pub refuses: bool,
    /// This token of each answer is not delivered.
    pub drop: Option<u64>,
}

/// A channel: its publications and who listens.
struct Channel {
    history: Vec<(u64, Value)>,
    offset: u64,
    live: broadcast::Sender<(u64, Value)>,
}

struct State {
    faults: Faults,
    channels: Mutex<HashMap<String, Channel>>,
    tokens: Mutex<Vec<String>>,
    pongs: AtomicU64,
    recovered: AtomicU64,
}

/// A running server. It ends when this value is dropped.
pub struct Centrifugo {
    pub url: String,
    state: Arc<State>,
    _end: DropGuard,
}

impl Centrifugo {
    pub fn start(faults: Faults) -> Self {
        let state = Arc::new(State {
            faults,
            channels: Mutex::default(),
            tokens: Mutex::default(),
            pongs: AtomicU64::new(0),
            recovered: AtomicU64::new(0),
        });
        let served = Arc::clone(&state);
        let ([address], _end) = background::serve(|[listener]: [TcpListener; 1]| async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&served)));
            }
        });
        Self { url: format!("http://{address}"), state, _end }
    }

    /// How many pings were answered.
    pub fn pongs(&self) -> u64 {
        self.state.pongs.load(Relaxed)
    }

    /// How many subscriptions recovered publications.
    pub fn recovered(&self) -> u64 {
        self.state.recovered.load(Relaxed)
    }

    /// The tokens of all connections that had one.
    pub fn tokens(&self) -> Vec<String> {
        self.state.tokens.lock().unwrap().clone()
    }
}

type Socket = WebSocketStream<TcpStream>;

async fn serve(stream: TcpStream, state: Arc<State>) {
    // The check before a run connects and says nothing.
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    let mut live: Option<(String, broadcast::Receiver<(u64, Value)>)> = None;
    let mut tokens = 0;
    loop {
        let published = async {
            match &mut live {
                Some((_, live)) => live.recv().await.ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            message = socket.next() => {
                let Some(Ok(Message::Text(text))) = message else { return };
                for command in text.lines() {
                    let command: Value = serde_json::from_str(command).unwrap();
                    handle(&mut socket, &state, &mut live, &command).await;
                }
            }
            publication = published => {
                let Some((offset, data)) = publication else { return };
                let channel = live.as_ref().map(|(name, _)| name.clone()).unwrap_or_default();
                tokens += u64::from(data["type"] == "token");
                if state.faults.drop.is_none_or(|drop| data["n"] != drop) {
                    let push = json!({"push": {"channel": channel, "pub": {"data": data, "offset": offset}}});
                    // As a busy server does: a message and a ping in one frame.
                    let frame = if tokens % 9 == 0 { format!("{push}\n{{}}") } else { push.to_string() };
                    if socket.send(Message::text(frame)).await.is_err() {
                        return;
                    }
                }
                if state.faults.cut_after.is_some_and(|cut| data["n"] == cut) {
                    return;
                }
            }
        }
    }
}

async fn handle(
    socket: &mut Socket,
    state: &Arc<State>,
    live: &mut Option<(String, broadcast::Receiver<(u64, Value)>)>,
    command: &Value,
) {
    let id = &command["id"];
    let reply = if *command == json!({}) {
        state.pongs.fetch_add(1, Relaxed);
        return;
    } else if let Some(connect) = command.get("connect") {
        state.tokens.lock().unwrap().extend(connect["token"].as_str().map(str::to_owned));
        let refusal = json!({"id": id, "error": {"code": 109, "message": "token expired"}});
        if state.faults.refuses {
            let _ = socket.send(Message::text(refusal.to_string())).await;
            return;
        }
        json!({"id": id, "connect": {"client": "c-1", "version": "6.2.0", "ping": 25, "pong": true}})
    } else if let Some(subscribe) = command.get("subscribe") {
        let name = subscribe["channel"].as_str().unwrap().to_owned();
        let (result, receiver) = subscribed(state, &name, subscribe);
        // Before the question, there is something else in the channel.
        publish(state, &name, json!({"type": "presence"}));
        *live = Some((name, receiver));
        json!({"id": id, "subscribe": result})
    } else if let (Some(rpc), Some((name, _))) = (command.get("rpc"), live.as_ref()) {
        tokio::spawn(answer(Arc::clone(state), name.clone(), rpc["data"]["query"].clone()));
        json!({"id": id, "rpc": {"data": {"accepted": true}}})
    } else {
        json!({"id": id, "error": {"code": 107, "message": "bad request"}})
    };
    let _ = socket.send(Message::text(format!("{reply}\n{{}}"))).await;
}

/// Subscribes. Fields whose value is zero or false are left out, as in Centrifugo's JSON.
fn subscribed(state: &State, name: &str, subscribe: &Value) -> (Value, broadcast::Receiver<(u64, Value)>) {
    let mut channels = state.channels.lock().unwrap();
    let channel = channels.entry(name.to_owned()).or_insert_with(|| Channel {
        history: Vec::new(),
        offset: 0,
        live: broadcast::channel(1024).0,
    });
    let mut result = json!({"recoverable": true, "epoch": EPOCH, "positioned": true});
    if channel.offset > 0 {
        result["offset"] = channel.offset.into();
    }
    if subscribe["recover"] == true {
        result["was_recovering"] = true.into();
        let after = subscribe["offset"].as_u64().unwrap_or_default();
        let missed: Vec<_> = channel.history.iter().filter(|(offset, _)| *offset > after).collect();
        let is_whole = missed.len() as u64 == channel.offset - after && subscribe["epoch"] == EPOCH;
        if is_whole {
            result["recovered"] = true.into();
            state.recovered.fetch_add(1, Relaxed);
            let missed: Vec<_> =
                missed.iter().map(|(offset, data)| json!({"data": data, "offset": offset})).collect();
            if !missed.is_empty() {
                result["publications"] = missed.into();
            }
        }
    }
    (result, channel.live.subscribe())
}

/// Publishes the answer to a question.
async fn answer(state: Arc<State>, name: String, query: Value) {
    for n in 1..=TOKENS {
        publish(&state, &name, json!({"type": "token", "query": query, "text": format!("t{n} "), "n": n}));
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    publish(&state, &name, json!({"type": "done", "query": query}));
    // Something else in the channel, between two answers.
    publish(&state, &name, json!({"type": "presence"}));
}

fn publish(state: &State, name: &str, data: Value) {
    let mut channels = state.channels.lock().unwrap();
    let channel = channels.get_mut(name).unwrap();
    channel.offset += 1;
    if !state.faults.forgets {
        channel.history.push((channel.offset, data.clone()));
    }
    let _ = channel.live.send((channel.offset, data));
}
