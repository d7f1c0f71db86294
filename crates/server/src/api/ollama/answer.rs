//! What answers to `/api/chat` and `/api/generate` have in common: where they come from, and how they are sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::response::{IntoResponse, Response};
use keeve_engine::{Event, FinishReason};
use serde::Serialize;

use super::types::{Durations, TokenReport};
use super::{model, plain};
use crate::answer::Answers;
use crate::api::common::{Spelling, finish_reason};
use crate::api::turn::{Chosen, End, Running, Update};
use crate::app::Shared;
use crate::error::ApiError;
use crate::models::Model;
use crate::parse::Delta;
use crate::sse;

/// Where an answer comes from: a conversation, or a text that goes on.
pub(super) enum Source {
    Talk(Box<Running>),
    Text(Box<Answers>),
}

impl Source {
    /// What is new next; `None` after the end.
    async fn next(&mut self) -> Option<Result<Update, ApiError>> {
        let answers = match self {
            Self::Talk(running) => return running.next().await,
            Self::Text(answers) => answers,
        };
        loop {
            let (index, event) = match answers.next().await? {
                (index, Ok(event)) => (index, event),
                (_, Err(error)) => return Some(Err(error)),
            };
            let update = |text, token, end| {
                Some(Ok(Update { index, deltas: vec![Delta::Text(text)], token, end }))
            };
            return match event {
                Event::PromptLogits { .. } | Event::Embedding(_) => continue,
                Event::Token { id, logprob, alternatives, text } => {
                    update(text, Some(Chosen { id, logprob, alternatives }), None)
                }
                Event::Finished { reason: FinishReason::TimedOut, .. } => {
                    Some(Err(ApiError::timed_out()))
                }
                Event::Finished { reason, text, stop_text, timings } => {
                    let reason = finish_reason(reason);
                    let end = End { reason, stop_text, timings, reasoning_tokens: 0 };
                    update(text, None, Some(end))
                }
                Event::Failed(error) => Some(Err(error.as_ref().into())),
            };
        }
    }
}

/// What is asked, and since when.
pub(super) struct Asked {
    /// The model as the request names it.
    pub name: String,
    pub model: Arc<Model>,
    begun: Instant,
    load: Duration,
    /// Whether log probabilities are reported.
    report: bool,
}

impl Asked {
    /// A question to the model of this name, which is loaded if need be.
    pub async fn of(app: &Shared, name: &str, logprobs: Option<bool>) -> Result<Self, ApiError> {
        let begun = Instant::now();
        let (model, load) = model(app, name).await?;
        let name = if name.is_empty() { model.name.clone() } else { name.to_owned() };
        Ok(Self { name, model, begun, load, report: logprobs == Some(true) })
    }

    /// What is reported of a token.
    pub fn reports(&self, token: Option<Chosen>) -> Vec<TokenReport> {
        let one = |id, logprob, top_logprobs| {
            let (token, bytes) = Spelling::Text.token(&self.model, id);
            TokenReport { token, logprob, bytes, top_logprobs }
        };
        let token = token.filter(|_| self.report);
        let report = |token: &Chosen| {
            let others = token.alternatives.iter();
            let others = others.map(|other| one(other.id, other.logprob, vec![])).collect();
            one(token.id, token.logprob, others)
        };
        token.iter().map(report).collect()
    }

    /// How long everything took.
    pub fn durations(&self, end: &End) -> Durations {
        Durations::of(&end.timings, self.begun, self.load)
    }
}

/// Why an answer ended, in Ollama's words.
pub(super) fn done_reason(end: &End) -> &'static str {
    if end.reason == "length" { "length" } else { "stop" }
}

/// Loads a model, or unloads it, and says which in Ollama's words.
pub(super) async fn load_or_unload(
    app: &Shared,
    name: &str,
    unload: bool,
) -> Result<&'static str, ApiError> {
    let name = plain(app, name);
    if unload {
        app.models.unload_by_name(name).await?;
        return Ok("unload");
    }
    app.models.get(name).await?;
    Ok("load")
}

/// Writes an answer in an endpoint's form.
pub(super) trait Writer: Send + 'static {
    type Piece: Serialize + Default + Send + Sync;

    /// What a client is sent of something new: nothing where that is nothing to it.
    fn pieces(&mut self, update: Update) -> Vec<Self::Piece>;

    /// Adds a piece to those before it.
    fn joined(whole: Self::Piece, piece: Self::Piece) -> Self::Piece;
}

/// The response that an answer becomes: its pieces, one a line, or all of them as one.
pub(super) async fn respond<W: Writer>(
    mut source: Source,
    mut writer: W,
    stream: bool,
) -> Result<Response, ApiError> {
    if !stream {
        let mut whole = W::Piece::default();
        while let Some(update) = source.next().await {
            whole = writer.pieces(update?).into_iter().fold(whole, W::joined);
        }
        return Ok(Json(whole).into_response());
    }
    Ok(sse::respond_lines(move |out| async move {
        loop {
            let update = tokio::select! {
                update = source.next() => update,
                () = out.closed() => return Err(sse::Gone),
            };
            match update {
                None => return Ok(()),
                Some(Ok(update)) => {
                    for piece in writer.pieces(update) {
                        out.json_line(&piece).await?;
                    }
                }
                Some(Err(error)) => return out.json_line(&error.ollama()).await,
            }
        }
    }))
}
