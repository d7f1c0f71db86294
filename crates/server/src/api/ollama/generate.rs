//! `POST /api/generate`: a question without a conversation, a text to go on with, or one to fill in.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use keeve_engine::chat::Part;
use keeve_engine::{Grammar, Message};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Asked, Source, Writer, done_reason, load_or_unload, respond};
use super::types::{Durations, GenerateRequest, Think, TokenReport, choosing, grammar};
use super::{Body, Failed, timestamp};
use crate::answer::Answers;
use crate::api::common::Choosing;
use crate::api::fields::Given;
use crate::api::middle::Middle;
use crate::api::tool_use::ToolUse;
use crate::api::turn::{Ending, Turn, Update};
use crate::app::Shared;
use crate::error::ApiError;
use crate::images::Images;
use crate::models::Model;
use crate::parse::Delta;

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
    pub durations: Durations,
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
    let unload = request.keep_alive.as_ref().map(|time| time.is_zero()).transpose()?;
    refuse_unsupported(&request)?;
    if request.prompt.is_empty() && request.suffix.is_empty() {
        choosing(request.options, request.top_logprobs)?.check()?;
        grammar(request.format)?;
        let done_reason = load_or_unload(&app, &request.model, unload == Some(true)).await?;
        let answer = GenerateAnswer {
            model: request.model,
            created_at: timestamp(),
            done: true,
            done_reason: Some(done_reason),
            ..GenerateAnswer::default()
        };
        return Ok(Json(answer).into_response());
    }
    let asked = Asked::of(&app, &request.model, request.logprobs).await?;
    let stream = request.stream.unwrap_or(true);
    let source = source(request, &app, &asked.model).await?;
    Ok(respond(source, GenerateWriter(asked), stream).await?)
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

async fn source(
    request: GenerateRequest,
    app: &Shared,
    model: &Arc<Model>,
) -> Result<Source, ApiError> {
    let format = grammar(request.format)?;
    let choosing = choosing(request.options, request.top_logprobs)?;
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
        let encode = move |model: &Model| model.template_ids(&prompt);
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

/// Begins to go on with a text of so many bytes.
async fn text(
    app: &Shared,
    model: &Arc<Model>,
    bytes: usize,
    encode: impl FnOnce(&Model) -> Result<Vec<u32>, ApiError> + Send + 'static,
    format: Option<Grammar>,
    choosing: Choosing,
) -> Result<Source, ApiError> {
    let prepared = model.prepare([bytes], format.is_some(), move |model| {
        let constraint = format.map(|grammar| model.engine.constraint(&grammar)).transpose();
        let constraint =
            constraint.map_err(|error| ApiError::field("format", error.to_string()))?;
        Ok((encode(model)?, constraint))
    });
    let (prompt, constraint) = prepared.await?;
    let mut requests = choosing.requests(app, model, prompt, constraint)?;
    for request in &mut requests {
        request.continues = true;
    }
    Ok(Source::Text(Box::new(Answers::start(model.clone(), requests)?)))
}

struct GenerateWriter(Asked);

impl Writer for GenerateWriter {
    type Piece = GenerateAnswer;

    fn pieces(&mut self, update: Update) -> Vec<GenerateAnswer> {
        let mut piece = GenerateAnswer {
            model: self.0.name.clone(),
            created_at: timestamp(),
            logprobs: self.0.reports(update.token),
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
        if let Some(end) = update.end {
            piece.done = true;
            piece.done_reason = Some(done_reason(&end));
            piece.durations = self.0.durations(&end);
        }
        let nothing = piece.response.is_empty()
            && piece.thinking.is_empty()
            && piece.logprobs.is_empty()
            && !piece.done;
        if nothing { vec![] } else { vec![piece] }
    }

    fn joined(whole: GenerateAnswer, mut piece: GenerateAnswer) -> GenerateAnswer {
        let (response, thinking, mut logprobs) = (whole.response, whole.thinking, whole.logprobs);
        logprobs.append(&mut piece.logprobs);
        GenerateAnswer {
            response: response + &piece.response,
            thinking: thinking + &piece.thinking,
            logprobs,
            ..piece
        }
    }
}
