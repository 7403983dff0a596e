//! A response from its request on: what it says and when, ready to be played over HTTP or over a WebSocket.

use crate::openai::{
    answer::Answer,
    cancelling::Cancelling,
    compose::{self, Wire},
    extension::Opening,
    faults::Faults,
    player::{Manner, Player},
    problem::Problem,
    responses_request::ResponsesRequest,
    state::{OpenAi, new_id},
    store::Kept,
};
use dialects::{
    responses::write::{Head, Output, Status, Writer},
    sse::write::Frame,
};
use std::sync::Arc;
use tokio::time::Instant;

/// A response to play.
pub(super) struct Turn {
    pub(super) head: Head,
    /// What it says. `None` for a warm-up.
    pub(super) answer: Option<Answer>,
    pub(super) start: Instant,
    pub(super) manner: Manner,
}

impl Turn {
    /// Begins a response now. `context` is the number of tokens of the response that it continues.
    pub(super) fn begin(
        openai: &OpenAi,
        request: &ResponsesRequest,
        context: u64,
        lane: Option<String>,
    ) -> Self {
        let id = new_id("resp_");
        let extension = openai.extension(request.extension.as_ref());
        let answer = request.generate.then(|| openai.answer(&extension, request.limit, &id));
        let start = Instant::now();
        let head = Head {
            id,
            item_id: new_id("msg_"),
            stream_id: lane,
            created_at: host::unix_time().as_secs(),
            model: request.model.clone(),
            previous_response_id: request.previous.clone(),
            instructions: request.instructions.clone(),
            metadata: request.metadata.clone(),
            max_output_tokens: request.limit,
            temperature: request.temperature,
            top_p: request.top_p,
            store: request.store,
            background: request.background,
            input_tokens: context + request.input_tokens,
        };
        let manner = Manner {
            // A response cannot have a token without the message around it.
            opening: match extension.opening {
                Opening::Never => Opening::WithFirst,
                opening => opening,
            },
            marks: extension.marks,
            start_us: openai.us(start),
        };
        Self { head, answer, start, manner }
    }

    /// Returns what is kept of the response.
    pub(super) async fn kept(&self) -> Result<Arc<Kept>, Problem> {
        let answer = match &self.answer {
            Some(answer) => Some((answer.clone(), OpenAi::end(answer).await?)),
            None => None,
        };
        let head = Head { stream_id: None, ..self.head.clone() };
        let cancelling = Cancelling::default();
        Ok(Arc::new(Kept { head, answer, start: self.start, manner: self.manner, cancelling }))
    }

    /// Returns the player of the response, with the faults that its request asks for. `None` for a warm-up.
    pub(super) fn player(&self, wire: Wire) -> Option<Player> {
        let answer = self.answer.clone()?;
        let faults = answer.faults().clone();
        Some(player(&self.head, answer, self.manner, faults, wire))
    }

    /// Returns all events of a warm-up, which has no output.
    pub(super) fn warm_up(&self) -> Vec<Frame> {
        let mut writer = Writer::new(self.head.clone());
        let nothing = Output { text: None, tokens: 0, ended_at: self.head.created_at };
        writer.begin().into_iter().chain(writer.end(Status::Completed(nothing))).collect()
    }
}

/// Returns a player that sends the events of a kept response again, without the faults of its first connection.
pub(super) fn player_again(kept: &Kept) -> Option<Player> {
    let (answer, _) = kept.answer.clone()?;
    let faults = answer.faults().of_the_answer();
    Some(player(&kept.head, answer, kept.manner, faults, Wire::Http))
}

fn player(head: &Head, answer: Answer, manner: Manner, faults: Faults, wire: Wire) -> Player {
    let writer = Writer::new(head.clone());
    let composer = compose::Responses { writer, created_at: head.created_at, wire };
    Player::new(Box::new(composer), answer, manner, faults)
}
