//! `POST /api/generate`: a question without a conversation, a text to go on with, or one to fill in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use keeve_engine::chat::Part;
use keeve_engine::{Event, FinishReason, Grammar, Message};
use serde::Serialize;
use utoipa::ToSchema;

use super::chat::load_or_unload;
use super::types::{Durations, GenerateRequest, Think, TokenReport, grammar};
use super::{Body, Failed, model, plain, timestamp};
use crate::answer::Answers;
use crate::api::common::{Choosing, Spelling, finish_reason};
use crate::api::fields::Given;
use crate::api::middle::Middle;
use crate::api::tool_use::ToolUse;
use crate::api::turn::{Chosen, End, Ending, Running, Turn, Update};
use crate::app::Shared;
use crate::error::ApiError;
use crate::images::Images;
use crate::models::Model;
use crate::parse::Delta;
use crate::sse;

/// An answer, or a piece of it.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ollama::GenerateAnswer)]
pub(crate) struct GenerateAnswer {
    pub model: String,
    pub created_at: String,
    pub response: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub thinking: String,
    /// Whether this is the end.
    pub done: bool,
    /// `stop`, `length`, `load` or `unload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenReport>,
    #[serde(flatten)]
    pub durations: Option<Durations>,
}

/// Answer a text, go on with it or fill it in, in Ollama's form.
#[utoipa::path(
    post, path = "/api/generate", request_body = GenerateRequest,
    responses(
        (status = 200, description = "The answer, or its pieces, one on each line.",
            content((GenerateAnswer = "application/json"), (GenerateAnswer = "application/x-ndjson"))),
        (status = "4XX", description = "The request is wrong.", body = Object),
        (status = "5XX", description = "The server is at fault or busy.", body = Object),
    ),
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    Body(request): Body<GenerateRequest>,
) -> Result<Response, Failed> {
    let begun = Instant::now();
    let unload = request.keep_alive.as_ref().map(|time| time.is_zero()).transpose()?;
    refuse_unsupported(&request)?;
    if request.prompt.is_empty() && request.suffix.is_empty() {
        let name = plain(&app, &request.model).to_owned();
        let done_reason = Some(load_or_unload(&app, &name, unload == Some(true)).await?);
        let (model, created_at) = (request.model, timestamp());
        let answer =
            GenerateAnswer { model, created_at, done: true, done_reason, ..Default::default() };
        return Ok(Json(answer).into_response());
    }
    let (model, load) = model(&app, &request.model).await?;
    let (stream, report) = (request.stream.unwrap_or(true), request.logprobs == Some(true));
    let name = if request.model.is_empty() { model.name.clone() } else { request.model.clone() };
    let source = source(request, &app, &model).await?;
    let reply = Reply { name, model, begun, load, report, source };
    match stream {
        true => Ok(reply.stream()),
        false => Ok(Json(reply.whole().await?).into_response()),
    }
}

fn refuse_unsupported(request: &GenerateRequest) -> Result<(), ApiError> {
    for (given, name, why) in [
        (&request.template, "template", "only who starts the server chooses the template"),
        (&request.context, "context", "/api/chat takes whole conversations"),
        (&request.width, "width", "answers are text"),
        (&request.height, "height", "answers are text"),
        (&request.steps, "steps", "answers are text"),
    ] {
        Given::refuse(given.as_ref(), 0.0, name, why)?;
    }
    let raw = request.raw == Some(true);
    let shows = request.images.as_ref().is_some_and(|images| !images.is_empty());
    for (given, field) in [(shows, "images"), (!request.system.is_empty(), "system")] {
        if given && (raw || !request.suffix.is_empty()) {
            let message = format!("{field} needs the chat template, so neither raw nor suffix");
            return Err(ApiError::field(field, message));
        }
    }
    Ok(())
}

/// Where an answer comes from: a conversation of one question, or a text.
enum Source {
    Talk(Box<Running>),
    Text(Box<Answers>),
}

async fn source(
    request: GenerateRequest,
    app: &Shared,
    model: &Arc<Model>,
) -> Result<Source, ApiError> {
    let format = grammar(request.format)?;
    let top_logprobs = request.top_logprobs.unwrap_or(0) as usize;
    let choosing = request.options.unwrap_or_default().choosing()?;
    let choosing = Choosing { top_logprobs, ..choosing };
    if !request.suffix.is_empty() {
        let (prefix, suffix) = (request.prompt, request.suffix);
        let middle = Middle { prefix, suffix, ..Middle::default() };
        let bytes = middle.bytes();
        let encode = move |model: &Model| middle.ids(model, "suffix", None);
        return text(app, model, bytes, encode, format, choosing).await;
    }
    if request.raw == Some(true) {
        let prompt = request.prompt;
        let bytes = prompt.len();
        let encode = move |model: &Model| raw_ids(model, &prompt);
        return text(app, model, bytes, encode, format, choosing).await;
    }
    let mut messages = vec![];
    if !request.system.is_empty() {
        messages.push(Message::text("system", request.system));
    }
    let mut images = Images::default();
    let shown = request.images.unwrap_or_default();
    if shown.is_empty() {
        messages.push(Message::text("user", request.prompt));
    } else {
        let mut parts = vec![];
        for (index, image) in shown.into_iter().enumerate() {
            images.add_base64(format!("images[{index}]"), image);
            parts.push(Part::image());
        }
        parts.push(Part::text(request.prompt));
        messages.push(Message::parts("user", parts));
    }
    let template_args = Think::args(request.think);
    let (tools, ending) = (ToolUse::default(), Ending::Answer);
    let turn = Turn { messages, images, tools, format, template_args, ending, choosing };
    Ok(Source::Talk(Box::new(turn.start(app, model).await?)))
}

/// A prompt as whoever writes templates writes it: special tokens by their names, and what the tokenizer puts in
/// front unless it is there.
fn raw_ids(model: &Model, prompt: &str) -> Result<Vec<u32>, ApiError> {
    let ids = model.engine.text_prompt(prompt, true, true)?;
    let tokenizer = model.engine.tokenizer()?;
    let twice =
        matches!(ids[..], [first, second, ..] if first == second && tokenizer.is_special(first));
    Ok(if twice { ids[1..].to_vec() } else { ids })
}

/// Begins to go on with a text of so many bytes.
async fn text(
    app: &Shared,
    model: &Arc<Model>,
    bytes: usize,
    encode: impl FnOnce(&Model) -> Result<Vec<u32>, ApiError> + Send + 'static,
    format: Option<Grammar>,
    choosing: Choosing,
) -> Result<Source, ApiError> {
    let owner = model.clone();
    let prepared = model.lanes.clone().prepare(bytes, format.is_some(), move || {
        let constraint = format.map(|grammar| owner.engine.constraint(&grammar)).transpose();
        let constraint =
            constraint.map_err(|error| ApiError::field("format", error.to_string()))?;
        Ok::<_, ApiError>((encode(&owner)?, constraint))
    });
    let (prompt, constraint) = prepared.await??;
    let mut requests = choosing.requests(app, model, prompt, constraint)?;
    for request in &mut requests {
        request.continues = true;
    }
    Ok(Source::Text(Box::new(Answers::start(model.clone(), requests)?)))
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
                    update(
                        text,
                        None,
                        Some(End { reason, stop_text, timings, reasoning_tokens: 0 }),
                    )
                }
                Event::Failed(error) => Some(Err(error.as_ref().into())),
            };
        }
    }
}

struct Reply {
    name: String,
    model: Arc<Model>,
    begun: Instant,
    load: Duration,
    report: bool,
    source: Source,
}

impl Reply {
    /// A piece of the answer.
    fn piece(&self, update: Update) -> GenerateAnswer {
        let mut piece = GenerateAnswer {
            model: self.name.clone(),
            created_at: timestamp(),
            ..GenerateAnswer::default()
        };
        for delta in update.deltas {
            match delta {
                Delta::Text(text) => piece.response.push_str(&text),
                Delta::Reasoning(text) => piece.thinking.push_str(&text),
                // There are no tools here.
                Delta::ToolStart { .. } | Delta::ToolArguments { .. } => {}
            }
        }
        if let Some(token) = update.token.filter(|_| self.report) {
            let one = |id, logprob, top_logprobs| {
                let (token, bytes) = Spelling::Text.token(&self.model, id);
                TokenReport { token, logprob, bytes, top_logprobs }
            };
            let others = token.alternatives.iter();
            let others = others.map(|other| one(other.id, other.logprob, vec![])).collect();
            piece.logprobs.push(one(token.id, token.logprob, others));
        }
        if let Some(end) = update.end {
            piece.done = true;
            piece.done_reason = Some(if end.reason == "length" { "length" } else { "stop" });
            piece.durations = Some(Durations::of(&end.timings, self.begun, self.load));
        }
        piece
    }

    async fn whole(mut self) -> Result<GenerateAnswer, ApiError> {
        let mut answer = GenerateAnswer::default();
        while let Some(update) = self.source.next().await {
            let mut piece = self.piece(update?);
            answer.logprobs.append(&mut piece.logprobs);
            let (response, thinking) = (answer.response, answer.thinking);
            answer = GenerateAnswer {
                response: response + &piece.response,
                thinking: thinking + &piece.thinking,
                logprobs: answer.logprobs,
                ..piece
            };
        }
        Ok(answer)
    }

    fn stream(mut self) -> Response {
        sse::respond_lines(move |out| async move {
            loop {
                let update = tokio::select! {
                    update = self.source.next() => update,
                    () = out.closed() => return Err(sse::Gone),
                };
                let piece = match update {
                    None => return Ok(()),
                    Some(Ok(update)) => self.piece(update),
                    Some(Err(error)) => return out.json_line(&error.ollama()).await,
                };
                let nothing = piece.response.is_empty()
                    && piece.thinking.is_empty()
                    && piece.logprobs.is_empty()
                    && !piece.done;
                if !nothing {
                    out.json_line(&piece).await?;
                }
            }
        })
    }
}
