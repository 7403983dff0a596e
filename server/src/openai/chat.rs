//! `POST /v1/chat/completions` and `POST /v1/completions`.

use crate::openai::{
    cancelling::Cancelling,
    chat_request::ChatRequest,
    compose,
    playback::Playback,
    player::{Manner, Player},
    problem::Problem,
    state::{OpenAi, new_id},
};
use axum::{
    body::Body,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use dialects::chat::write::{Finish, Head, Shape, Writer};
use std::sync::Arc;
use tokio::time::Instant;

pub(super) async fn chat(State(openai): State<Arc<OpenAi>>, body: Body) -> Result<Response, Problem> {
    answer(&openai, body, Shape::Chat).await
}

pub(super) async fn text(State(openai): State<Arc<OpenAi>>, body: Body) -> Result<Response, Problem> {
    answer(&openai, body, Shape::Text).await
}

async fn answer(openai: &Arc<OpenAi>, body: Body, shape: Shape) -> Result<Response, Problem> {
    let request = ChatRequest::parse(&openai.read(body).await?, shape)?;
    let active = openai.admit()?;
    let start = Instant::now();
    let (call, prefix) = if shape == Shape::Chat { ("chat", "chatcmpl-") } else { ("text", "cmpl-") };
    let id = new_id(prefix);
    let extension = openai.extension(request.extension.as_ref());
    let answer = openai.answer(&extension, request.limit, &id);
    let active = active.traced(openai.trace(call, &id, start).filter(|_| request.stream));
    let writer = Writer::new(Head {
        shape,
        id,
        created: host::unix_time().as_secs(),
        model: request.model,
        prompt_tokens: request.prompt_tokens,
        usage: request.usage,
    });
    let finish = if answer.is_limited() { Finish::Length } else { Finish::Stop };
    if !request.stream {
        let end = OpenAi::end(&answer).await?;
        openai.wait(&answer, &end, start, active).await?;
        let json = [(CONTENT_TYPE, "application/json")];
        return Ok((json, writer.whole(&answer.whole(), answer.tokens(), finish)).into_response());
    }
    let manner = Manner { opening: extension.opening, marks: extension.marks, start_us: openai.us(start) };
    let composer = compose::Chat { writer, finish, finish_at: extension.finish_at };
    let player = Player::new(Box::new(composer), answer, manner, extension.faults);
    let playback = Playback {
        player,
        start,
        active: Some(active),
        after: None,
        cancelling: Cancelling::default(),
        when_whole: None,
    };
    Ok(playback.response(openai))
}
