//! The first messages of a WebSocket that a target file describes: the socket is ready for questions behind them.

use crate::{
    connector::OpenError,
    socket::{Arrival, Buffers, DataMessage, Socket},
};
use dialects::target::{Conversation, Greeting};
use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::time::timeout_at;

/// Time limit of all first messages together.
const GREETING_TIMEOUT: Duration = Duration::from_secs(15);
/// Upper limit in bytes of the messages that are kept meanwhile.
const MOST_KEPT: usize = 1 << 20;

/// A message that arrived before the socket was ready.
pub type KeptMessage = (String, Arrival);

/// Sends the first messages and waits for those that answer them. Returns the messages that belong to an answer.
///
/// # Errors
/// The server reports an error, or closes the socket, or the awaited message does not come.
pub(crate) async fn greet(
    mut socket: Socket,
    state: &RefCell<Conversation>,
    buffers: &Rc<Buffers>,
) -> Result<(Socket, Vec<KeptMessage>), OpenError> {
    let deadline = Instant::now() + GREETING_TIMEOUT;
    let mut kept: Vec<KeptMessage> = Vec::new();
    loop {
        let next = state.borrow_mut().greeting();
        let awaited = match next {
            Greeting::Done => return Ok((socket, kept)),
            Greeting::Send(text) => {
                socket.send_beside(&text);
                continue;
            }
            Greeting::Wait(awaited) => awaited,
        };
        let read = timeout_at(deadline.into(), socket.read(buffers)).await;
        let chunk = match read {
            Err(_) => {
                let within = GREETING_TIMEOUT.as_secs();
                let last = kept.last().map(|(text, _)| format!("; the last message was {}", cut(text)));
                return Err(failed(
                    state,
                    &format!(
                        "no message matched the `wait` of a first message within {within} s: {awaited}{}",
                        last.unwrap_or_default()
                    ),
                ));
            }
            Ok(Err(error)) => return Err(failed(state, &format!("the connection broke: {error}"))),
            Ok(Ok(chunk)) if chunk.bytes().is_empty() => {
                return Err(failed(
                    state,
                    &format!("the connection ended while a message was awaited: {awaited}"),
                ));
            }
            Ok(Ok(chunk)) => chunk,
        };
        let mut texts = Vec::new();
        let closed = socket.decode(&chunk, |message, arrival| {
            if let DataMessage::Text(text) = message {
                texts.push((text.to_owned(), arrival));
            }
        });
        for (text, arrival) in texts {
            // The borrow must end before `failed` begins another one.
            let greeted = state.borrow_mut().greeted(&text);
            let greeted = greeted.map_err(|why| failed(state, &why))?;
            greeted.replies.iter().for_each(|reply| socket.send_beside(reply));
            kept.extend(greeted.kept.into_iter().map(|text| (text, arrival)));
        }
        match closed {
            Ok(None) => {}
            Ok(Some(close)) => {
                let code = close.code.map(|code| format!(" with {code}")).unwrap_or_default();
                let text = close.text;
                return Err(failed(state, &format!("the server closed the socket{code}: {text}")));
            }
            Err(bad) => return Err(failed(state, &format!("protocol: {bad}"))),
        }
        if kept.iter().map(|(text, _)| text.len()).sum::<usize>() > MOST_KEPT {
            return Err(failed(
                state,
                &format!("the server sends other messages than the awaited one: {awaited}"),
            ));
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

fn failed(state: &RefCell<Conversation>, message: &str) -> OpenError {
    let state = state.borrow();
    let mut secrets = settings::secret::Secrets::default();
    state.secrets().for_each(|secret| secrets.add(secret));
    let message = format!("the first messages failed: {}", secrets.hide(message));
    // At the start of a session, another attempt would fail in the same way.
    let retry_after = state.was_ready().then_some(Duration::ZERO);
    OpenError { status: None, message, retry_after }
}
