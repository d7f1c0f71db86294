//! `POST /v1/completions`: text to go on with, without a chat template.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use keeve_engine::sampling::TokenLogprob;
use keeve_engine::{Event, FinishReason};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::common::{Choosing, Delivery, Usage, choosing_request, finish_reason, token_text};
use super::format::ResponseFormat;
use crate::answer::Answers;
use crate::app::{Shared, now};
use crate::body::Body;
use crate::error::{ApiError, ErrorBody};
use crate::models::Model;
use crate::sse;

choosing_request! {
    /// A text to go on with; 16 tokens if `max_tokens` is not given. Fields that are not listed are
    /// refused.
    pub(crate) struct CompletionRequest {
        /// The text or texts, or their token ids.
        pub prompt: Prompts,
        /// Report the log probability of each token with so many alternatives.
        #[schema(maximum = 20)]
        pub logprobs: Option<u32>,
        /// Only false: the prompt is not repeated.
        pub echo: Option<bool>,
        /// Only 1, or the same as `n`.
        pub best_of: Option<u32>,
        /// Only null or empty: text cannot be filled in.
        pub suffix: Option<String>,
    }
}

/// Prompts as text or as token ids.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Prompts {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The token ids of one prompt.
    Ids(Vec<u32>),
    /// The token ids of several prompts.
    ManyIds(Vec<Vec<u32>>),
}

/// The answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion {
    pub id: String,
    /// `text_completion`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One of the answers, or a piece of it.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct CompletionChoice {
    pub index: usize,
    pub text: String,
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; null in pieces before the last.
    pub finish_reason: Option<String>,
}

/// Log probabilities, one entry a token.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct CompletionLogprobs {
    pub tokens: Vec<String>,
    pub token_logprobs: Vec<f32>,
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where in the answer's text a token begins, in bytes of whole tokens.
    pub text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    fn push(&mut self, model: &Model, id: u32, logprob: f32, others: &[TokenLogprob], at: usize) {
        self.tokens.push(token_text(model, id).0);
        self.token_logprobs.push(logprob);
        let other = |other: &TokenLogprob| (token_text(model, other.id).0, other.logprob);
        self.top_logprobs.push(others.iter().map(other).collect());
        self.text_offset.push(at);
    }
}

/// Go on with a text.
#[utoipa::path(
    post, path = "/v1/completions", request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answers, or their pieces as server-sent events.",
            content((Completion = "application/json"), (Object = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong.", body = ErrorBody),
        (status = "5XX", description = "The server is at fault or busy.", body = ErrorBody),
    ),
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    Body(request): Body<CompletionRequest>,
) -> Result<Response, ApiError> {
    refuse_unsupported(&request)?;
    let model = app.models.get(&request.model).await?;
    let delivery = Delivery::new(request.stream, request.stream_options.as_ref())?;
    let (owner, prompts) = (model.clone(), request.prompt.clone());
    let format = request.response_format.clone().and_then(ResponseFormat::grammar);
    let bytes = prompts.bytes();
    let prepared = model.lanes.clone().prepare(bytes, format.is_some(), move || {
        let prompts = prompts.ids(&owner)?;
        let constraint = format.map(|grammar| owner.engine.constraint(&grammar)).transpose();
        let constraint =
            constraint.map_err(|error| ApiError::field("response_format", error.to_string()))?;
        Ok::<_, ApiError>((prompts, constraint))
    });
    let (prompts, constraint) = prepared.await??;
    if prompts.is_empty() || prompts.len() > app.config.max_choices {
        let message = format!("expected 1 to {} prompts", app.config.max_choices);
        return Err(ApiError::field("prompt", message));
    }
    let report = request.logprobs.is_some();
    /// As in the OpenAI API.
    const MAX_TOKENS: u32 = 16;
    let choosing = Choosing {
        max_tokens: request.max_tokens.or(Some(MAX_TOKENS)),
        top_logprobs: request.logprobs.unwrap_or(0) as usize,
        ..request.choosing()
    };
    let each = choosing.n.unwrap_or(1) as usize;
    let mut requests = vec![];
    for prompt in prompts {
        requests.extend(choosing.clone().requests(&app, &model, prompt, constraint.clone())?);
    }
    let count = requests.len();
    if count > app.config.max_choices {
        let message = format!("more than {} answers asked for", app.config.max_choices);
        return Err(ApiError::field("n", message));
    }
    let answers = Answers::start(model.clone(), requests)?;
    let choices = (0..count).map(|_| Written::default()).collect();
    let id = app.id("cmpl-");
    let reply = Reply { id, created: now(), model, answers, choices, each, report };
    match delivery {
        Delivery::Stream { usage } => Ok(reply.stream(usage)),
        Delivery::Whole => Ok(Json(reply.whole().await?).into_response()),
    }
}

fn refuse_unsupported(request: &CompletionRequest) -> Result<(), ApiError> {
    if request.echo == Some(true) {
        return Err(ApiError::field("echo", "echo is not supported"));
    }
    if request.best_of.is_some_and(|best| best != request.n.unwrap_or(1)) {
        return Err(ApiError::field("best_of", "best_of is not supported"));
    }
    if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::field("suffix", "suffix is not supported"));
    }
    Ok(())
}

impl Prompts {
    /// Bytes of all texts.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Texts(texts) => texts.iter().map(String::len).sum(),
            Self::Ids(_) | Self::ManyIds(_) => 0,
        }
    }

    /// Token ids of each prompt. Text is a person's: it becomes no special token.
    pub fn ids(self, model: &Model) -> Result<Vec<Vec<u32>>, ApiError> {
        let encode = |text: &String| -> Result<Vec<u32>, ApiError> {
            Ok(model.engine.text_prompt(text, true)?)
        };
        match self {
            Self::Text(text) => Ok(vec![encode(&text)?]),
            Self::Texts(texts) => texts.iter().map(encode).collect(),
            Self::Ids(ids) => Ok(vec![ids]),
            Self::ManyIds(prompts) => Ok(prompts),
        }
    }
}

/// What was sent of an answer.
#[derive(Default)]
struct Written {
    bytes: usize,
}

struct Reply {
    id: String,
    created: u64,
    model: Arc<Model>,
    answers: Answers,
    choices: Vec<Written>,
    /// Answers to each prompt.
    each: usize,
    report: bool,
}

impl Reply {
    /// The next piece, and what it used if it is an answer's last.
    async fn next(&mut self, usage: &mut Usage) -> Option<Result<CompletionChoice, ApiError>> {
        loop {
            let (index, event) = match self.answers.next().await? {
                (index, Ok(event)) => (index, event),
                (_, Err(error)) => return Some(Err(error)),
            };
            let mut piece = CompletionChoice { index, ..CompletionChoice::default() };
            match event {
                Event::Token { id, logprob, alternatives, text } => {
                    piece.text = text;
                    if self.report {
                        let logprobs = piece.logprobs.get_or_insert_default();
                        let written = &mut self.choices[index];
                        logprobs.push(&self.model, id, logprob, &alternatives, written.bytes);
                        written.bytes += token_text(&self.model, id).1.len();
                    }
                }
                Event::Finished { reason: FinishReason::TimedOut, .. } => {
                    return Some(Err(ApiError::timed_out()));
                }
                Event::Finished { reason, text, timings, .. } => {
                    piece.text = text;
                    piece.finish_reason = Some(finish_reason(reason).into());
                    usage.add(&timings, 0, index.is_multiple_of(self.each));
                }
                Event::PromptLogits { .. } | Event::Embedding(_) => continue,
                Event::Failed(error) => return Some(Err(error.as_ref().into())),
            }
            return Some(Ok(piece));
        }
    }

    fn with(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.name.clone(),
            choices,
            usage,
        }
    }

    async fn whole(mut self) -> Result<Completion, ApiError> {
        let mut usage = Usage::default();
        let mut choices: Vec<_> = (0..self.choices.len())
            .map(|index| CompletionChoice { index, ..CompletionChoice::default() })
            .collect();
        while let Some(piece) = self.next(&mut usage).await {
            let piece = piece?;
            let choice = &mut choices[piece.index];
            choice.text.push_str(&piece.text);
            if let Some(more) = piece.logprobs {
                let all = choice.logprobs.get_or_insert_default();
                all.tokens.extend(more.tokens);
                all.token_logprobs.extend(more.token_logprobs);
                all.top_logprobs.extend(more.top_logprobs);
                all.text_offset.extend(more.text_offset);
            }
            choice.finish_reason = piece.finish_reason.or(choice.finish_reason.take());
        }
        Ok(self.with(choices, Some(usage)))
    }

    fn stream(mut self, include_usage: bool) -> Response {
        sse::respond(move |out| async move {
            let mut usage = Usage::default();
            loop {
                let piece = tokio::select! {
                    piece = self.next(&mut usage) => piece,
                    () = out.closed() => return Err(sse::Gone),
                };
                match piece {
                    None => break,
                    Some(Ok(piece)) => {
                        let nothing = piece.text.is_empty()
                            && piece.logprobs.is_none()
                            && piece.finish_reason.is_none();
                        if !nothing {
                            out.data(&self.with(vec![piece], None)).await?;
                        }
                    }
                    Some(Err(error)) => {
                        out.data(&error.openai()).await?;
                        return Ok(());
                    }
                }
            }
            if include_usage {
                out.data(&self.with(vec![], Some(usage))).await?;
            }
            out.line("[DONE]").await
        })
    }
}
