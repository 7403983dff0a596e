//! One session at the target of the page, over the HTTP client and the connector that a run uses.

use crate::{cli::RunArgs, config::Config, connect, embedded, endpoints, preflight};
use load::{
    backoff::Backoff,
    connector::Connector,
    endpoint::DialOptions,
    http::Http,
    socket::{Buffers, CloseFrame, DataMessage},
};
use parking_lot::Mutex;
use plan::{Reconnect, Stop};
use protocol::{Position, RunRequest, SessionId};
use settings::secret::Secret;
use std::{
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, sync::mpsc::Sender};
use web::{Frame, Session};

/// Time for a call to the API, and for the last one.
const CALL: Duration = Duration::from_secs(10);
const CLOSE: Duration = Duration::from_secs(2);

/// Returns the target in words.
pub(super) fn target(run: &RunArgs) -> String {
    if run.embedded {
        return "an embedded stack".to_owned();
    }
    config(run).map_or_else(|why| why, |config| config.plan.target.ws.to_string())
}

fn config(run: &RunArgs) -> Result<Config, String> {
    // Only the target of the run matters.
    let target = RunArgs {
        api_url: run.api_url.clone(),
        wsproxy_url: run.wsproxy_url.clone(),
        embedded: run.embedded,
        i_am_allowed_to_load_test: run.i_am_allowed_to_load_test.clone(),
        auth_token: run.auth_token.clone(),
        headers: run.headers.clone(),
        ws_path: run.ws_path.clone(),
        agent: run.agent.clone(),
        ca_file: run.ca_file.clone(),
        clients: Some(1),
        queries: Some(1),
        hops: Some(0),
        ..RunArgs::default()
    };
    Config::new(target, 1, 1).map_err(|errors| errors.to_string())
}

/// Creates a session.
///
/// # Errors
/// The target does not answer, or must not be used.
pub(super) fn open(run: &RunArgs) -> Result<Box<dyn Session>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut config = config(run)?;
    preflight::host(&config).map_err(|errors| text(&errors))?;
    endpoints::find(&mut config);
    let stack = config.embedded.then(|| embedded::start(&mut config)).transpose();
    let stack = stack.map_err(|error| format!("{error:#}"))?;
    let tls = connect::tls(&config).map_err(|error| text(&error))?;
    let connector = connect::connect(&config, &tls, &Stop::default()).map_err(|error| text(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| text(&error))?;
    let http = Http::new(&config.plan.target, 1, tls);
    let once = Reconnect { attempts: 0, ..config.plan.reconnect };
    let created = runtime.block_on(http.create(&mut Backoff::new(once, 1), Instant::now() + CALL));
    let created = created.map_err(|failure| failure.message)?.value;
    let (id, token) = (created.session_id, created.token());
    let calls = Mutex::new(Some(Calls { http, runtime, once, stack }));
    Ok(Box::new(TrialSession { id, token, connector, calls }))
}

/// Makes the calls of a session, each once.
struct Calls {
    http: Http,
    runtime: Runtime,
    once: Reconnect,
    /// The embedded stack, if the page tries one.
    stack: Option<embedded::Stack>,
}

struct TrialSession {
    id: SessionId,
    token: Secret,
    connector: Arc<Connector>,
    /// `None` when the session is dropped.
    calls: Mutex<Option<Calls>>,
}

impl Session for TrialSession {
    fn ask(&self, tokens: u32) -> Result<String, String> {
        let calls = self.calls.lock();
        let Calls { http, runtime, once, .. } = calls.as_ref().ok_or("the session is closed")?;
        let body = RunRequest {
            query: "Try one stream".to_owned(),
            query_id: Some(format!("trial-{:016x}", rand::random::<u64>())),
            tokens: Some(tokens),
            ..RunRequest::default()
        };
        let mut backoff = Backoff::new(*once, 1);
        let asked = http.run(self.id, &body, &mut backoff, Instant::now() + CALL, |_| {});
        let response = runtime.block_on(asked).map_err(|failure| failure.message)?;
        serde_json::to_string(&response).map_err(|error| error.to_string())
    }

    fn attach(&self, after: Option<String>, frames: Sender<Frame>) {
        let resume = after.and_then(|id| if id == "0" { Some(Position::ZERO) } else { id.parse().ok() });
        let (connector, id, token) = (Arc::clone(&self.connector), self.id, self.token.clone());
        let relay = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(relay(&connector, id, &token, resume, frames));
            }
        };
        // Without a thread, the receiver sees the end of its frames.
        let _ = thread::Builder::new().name("trial".into()).spawn(relay);
    }
}

impl Drop for TrialSession {
    fn drop(&mut self) {
        let (id, calls) = (self.id, self.calls.lock().take());
        let close = move || {
            let Some(Calls { http, runtime, once, stack }) = calls else { return };
            let _ = runtime.block_on(http.close(id, &mut Backoff::new(once, 1), Instant::now() + CLOSE));
            if let Some(stack) = stack {
                let _ = stack.stop();
            }
        };
        // On a thread, because a runtime may drop the session.
        if let Ok(closing) = thread::Builder::new().name("trial".into()).spawn(close) {
            let _ = closing.join();
        }
    }
}

/// Opens a socket and sends its frames, until it ends or the receiver is dropped: then the socket is cut.
async fn relay(
    connector: &Connector,
    session: SessionId,
    token: &Secret,
    resume: Option<Position>,
    frames: Sender<Frame>,
) {
    let opened = connector.open(session, token, resume, 0, DialOptions::default(), None).await;
    let mut socket = match opened {
        Ok(opened) => opened.socket,
        Err(error) => return drop(frames.send(Frame::Ended(error.message)).await),
    };
    socket.reset_when_dropped();
    if frames.send(Frame::Opened).await.is_err() {
        return;
    }
    let buffers = Rc::<Buffers>::default();
    loop {
        let chunk = tokio::select! {
            chunk = socket.read(&buffers) => chunk,
            () = frames.closed() => return,
        };
        let mut received = Vec::new();
        let ended = match chunk {
            Err(error) => Some(error.to_string()),
            Ok(chunk) if chunk.bytes().is_empty() => Some("the gateway ended the connection".to_owned()),
            Ok(chunk) => {
                let decoded = socket.decode(&chunk, |message, _| {
                    if let DataMessage::Text(text) = message {
                        received.push(Frame::Text(text.to_owned()));
                    }
                });
                match decoded {
                    Ok(None) => None,
                    Ok(Some(CloseFrame { code, text })) => {
                        let code = code.map_or_else(|| "no code".to_owned(), |code| code.to_string());
                        Some(format!("the gateway closed the socket with {code} {text}"))
                    }
                    Err(error) => Some(error.to_string()),
                }
            }
        };
        socket.send_now();
        received.extend(ended.clone().map(Frame::Ended));
        for frame in received {
            if frames.send(frame).await.is_err() {
                return;
            }
        }
        if ended.is_some() {
            return;
        }
    }
}
