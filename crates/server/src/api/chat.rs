//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use keeve_engine::Rendered;
use serde::Serialize;
use utoipa::ToSchema;

use super::chat_types::{
    Alternative, AnswerMessage, CallDelta, CallKind, ChatChoice, ChatChunk, ChatCompletion,
    ChatRequest, ChunkChoice, ChunkDelta, FunctionDelta, Logprobs, MadeCall, MadeFunction,
    TokenReport,
};
use super::common::{Choosing, Delivery, Spelling, Usage, UsageReports};
use super::fields::{Given, TextOr};
use super::tool_use::{NamedTool, ToolChoice, ToolKind, ToolMode, ToolUse};
use super::turn::{Chosen, Ending, Running, Turn};
use crate::app::{Shared, now};
use crate::body::Body;
use crate::error::{ApiError, ErrorBody};
use crate::images::Images;
use crate::models::Model;
use crate::parse::Delta;
use crate::sse;

/// Go on with a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer, or its pieces as server-sent events.",
            content((ChatCompletion = "application/json"), (Object = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong.", body = ErrorBody),
        (status = "5XX", description = "The server is at fault or busy.", body = ErrorBody),
    ),
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    Body(request): Body<ChatRequest>,
) -> Result<Response, ApiError> {
    refuse_unsupported(&request)?;
    let model = app.models.get(&request.model).await?;
    let delivery = Delivery::new(request.stream, request.stream_options.as_ref())?;
    let logprobs = request.logprobs.unwrap_or(false);
    let count = request.n.unwrap_or(1) as usize;
    let spelling = Spelling::of(request.return_tokens_as_token_ids);
    let functions = request.functions.is_some();
    let running = turn(request)?.start(&app, &model).await?;
    let id = app.id("chatcmpl-");
    let reply = Reply { id, created: now(), model, logprobs, spelling, functions, app };
    match delivery {
        Delivery::Stream(reports) => Ok(reply.stream(running, count, reports)),
        Delivery::Whole => Ok(Json(reply.whole(running, count).await?).into_response()),
    }
}

/// A prompt.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RenderedPrompt {
    pub text: String,
    /// Its token ids.
    pub ids: Vec<u32>,
    /// Which of the ids are special tokens: places in `ids`, counted from 0.
    pub special: Vec<usize>,
}

/// The prompt of a chat, which no model is asked.
#[utoipa::path(
    post, path = "/v1/chat/completions/render", request_body = ChatRequest,
    responses(
        (status = 200, description = "The prompt.", body = RenderedPrompt),
        (status = "4XX", description = "The request is wrong.", body = ErrorBody),
    ),
)]
pub(crate) async fn render(
    State(app): State<Shared>,
    Body(request): Body<ChatRequest>,
) -> Result<Json<RenderedPrompt>, ApiError> {
    let model = app.models.get(&request.model).await?;
    let Rendered { text, ids, special } = turn(request)?.rendered(&app, &model).await?;
    Ok(Json(RenderedPrompt { text, ids, special }))
}

/// A prompt as llama.cpp's server shows it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AppliedTemplate {
    pub prompt: String,
}

/// The same in the form of llama.cpp's server.
#[utoipa::path(
    post, path = "/apply-template", request_body = ChatRequest,
    responses(
        (status = 200, description = "The prompt.", body = AppliedTemplate),
        (status = "4XX", description = "The request is wrong.", body = ErrorBody),
    ),
)]
pub(crate) async fn apply_template(
    state: State<Shared>,
    body: Body<ChatRequest>,
) -> Result<Json<AppliedTemplate>, ApiError> {
    let Json(rendered) = render(state, body).await?;
    Ok(Json(AppliedTemplate { prompt: rendered.text }))
}

fn refuse_unsupported(request: &ChatRequest) -> Result<(), ApiError> {
    request.refuse_unsupported()?;
    for (given, name, why) in [
        (&request.audio, "audio", "answers are text"),
        (&request.web_search_options, "web_search_options", "this server searches nothing"),
        (&request.moderation, "moderation", "this server moderates nothing"),
        (&request.echo, "echo", "/v1/completions repeats prompts"),
        (&request.add_special_tokens, "add_special_tokens", "the chat template adds them"),
        (&request.chat_template, "chat_template", "only who starts the server chooses it"),
        (&request.prompt_logprobs, "prompt_logprobs", "/v1/completions reports them"),
        (&request.mm_processor_kwargs, "mm_processor_kwargs", "the model's own settings hold"),
    ] {
        Given::refuse(given.as_ref(), f64::NAN, name, why)?;
    }
    if request.modalities.iter().flatten().any(|kind| kind != "text") {
        return Err(ApiError::field("modalities", "answers are text: modalities can only be text"));
    }
    if request.include_reasoning == Some(false) {
        let message = "the reasoning is always part of the response";
        return Err(ApiError::field("include_reasoning", message));
    }
    if request.functions.is_some() && request.tools.is_some() {
        return Err(ApiError::field("functions", "functions and tools cannot both be given"));
    }
    Ok(())
}

/// The tools of a request, and whether one must be called, whichever fields say so.
fn tools(request: &mut ChatRequest) -> Result<ToolUse, ApiError> {
    let Some(functions) = request.functions.take() else {
        if request.function_call.is_some() {
            return Err(ApiError::field("function_call", "function_call needs functions"));
        }
        let tools = request.tools.take().into_iter().flatten().map(|tool| tool.function);
        let several = request.parallel_tool_calls;
        return ToolUse::new(tools.collect(), request.tool_choice.take(), several);
    };
    let choice = match request.function_call.take() {
        None => None,
        Some(TextOr::Text(mode)) => Some(ToolChoice::Mode(match &*mode {
            "auto" => ToolMode::Auto,
            "none" => ToolMode::None,
            _ => {
                let message = "function_call is none, auto or {\"name\": NAME}";
                return Err(ApiError::field("function_call", message));
            }
        })),
        Some(TextOr::Other(function)) => {
            Some(ToolChoice::Named(NamedTool { _kind: ToolKind::Function, function }))
        }
    };
    // There was one call in an answer, before there were tools.
    ToolUse::new(functions, choice, Some(false))
}

fn turn(mut request: ChatRequest) -> Result<Turn, ApiError> {
    if request.messages.is_empty() {
        return Err(ApiError::field("messages", "messages is empty"));
    }
    let top_logprobs = request.top_logprobs.unwrap_or(0);
    if top_logprobs > 0 && request.logprobs != Some(true) {
        return Err(ApiError::field("top_logprobs", "top_logprobs needs logprobs"));
    }
    let choosing = Choosing {
        max_tokens: request.max_completion_tokens.or(request.max_tokens),
        top_logprobs: top_logprobs as usize,
        ..request.choosing()
    };
    let tools = tools(&mut request)?;
    let format = request.form()?;
    let reasoning = request.reasoning_args();
    let prefixed = request.messages.last().is_some_and(|last| last.prefix == Some(true));
    let ending = match (request.continue_final_message, request.add_generation_prompt) {
        (Some(true), Some(true)) => {
            let message = "continue_final_message and add_generation_prompt cannot both be true";
            return Err(ApiError::field("continue_final_message", message));
        }
        (Some(true), _) => Ending::Continued,
        (_, Some(false)) => Ending::Bare,
        _ if prefixed => Ending::Continued,
        _ => Ending::Answer,
    };
    let mut images = Images::default();
    let messages = request.messages.into_iter().enumerate();
    let messages = messages.map(|(at, message)| message.into_message(at, &mut images));
    let messages = messages.collect::<Result<_, _>>()?;
    let mut template_args = reasoning;
    template_args.extend(request.verbosity.map(|level| ("verbosity".into(), level.into())));
    template_args.extend(request.documents.map(|list| ("documents".into(), list.into())));
    template_args.extend(request.chat_template_kwargs.unwrap_or_default());
    Ok(Turn { messages, images, tools, format, template_args, ending, choosing })
}

/// What all pieces of a response share.
struct Reply {
    id: String,
    created: u64,
    model: Arc<Model>,
    logprobs: bool,
    spelling: Spelling,
    /// Whether calls are told as they were before there were tools.
    functions: bool,
    app: Shared,
}

impl Reply {
    async fn whole(&self, mut running: Running, count: usize) -> Result<ChatCompletion, ApiError> {
        let mut usage = Usage::default();
        let mut choices: Vec<_> = (0..count).map(|index| self.empty_choice(index)).collect();
        while let Some(update) = running.next().await {
            let update = update?;
            let choice = &mut choices[update.index];
            for delta in update.deltas {
                self.add(&mut choice.message, delta);
            }
            if let (Some(logprobs), Some(token)) = (&mut choice.logprobs, update.token) {
                logprobs.content.push(self.report(&token));
            }
            if let Some(end) = update.end {
                choice.finish_reason = self.finish_reason(end.reason).into();
                usage.add(&end.timings, end.reasoning_tokens, update.index == 0);
            }
        }
        for choice in &mut choices {
            let message = &mut choice.message;
            if self.functions {
                let calls = message.tool_calls.take().into_iter().flatten();
                message.function_call = calls.map(|call| call.function).next();
            }
            if message.tool_calls.is_none() && message.function_call.is_none() {
                message.content.get_or_insert_default();
            }
        }
        Ok(ChatCompletion {
            id: self.id.clone(),
            object: "chat.completion",
            created: self.created,
            model: self.model.name.clone(),
            choices,
            usage,
        })
    }

    fn empty_choice(&self, index: usize) -> ChatChoice {
        let message = AnswerMessage { role: "assistant".into(), ..AnswerMessage::default() };
        let logprobs = self.logprobs.then(Logprobs::default);
        ChatChoice { index, message, logprobs, finish_reason: String::new() }
    }

    fn add(&self, message: &mut AnswerMessage, delta: Delta) {
        match delta {
            Delta::Text(text) => message.content.get_or_insert_default().push_str(&text),
            Delta::Reasoning(text) => {
                message.reasoning_content.get_or_insert_default().push_str(&text);
            }
            Delta::ToolStart { id, name, .. } => {
                let function = MadeFunction { name, arguments: String::new() };
                let id = id.unwrap_or_else(|| self.app.id("call_"));
                let kind = CallKind::Function;
                let call = MadeCall { id, kind, function, _index: None };
                message.tool_calls.get_or_insert_default().push(call);
            }
            Delta::ToolArguments { text, .. } => {
                if let Some(call) = message.tool_calls.as_mut().and_then(|calls| calls.last_mut()) {
                    call.function.arguments.push_str(&text);
                }
            }
        }
    }

    /// Why an answer ended, as the request's form has it.
    fn finish_reason(&self, reason: &'static str) -> &'static str {
        if self.functions && reason == "tool_calls" { "function_call" } else { reason }
    }

    fn report(&self, token: &Chosen) -> TokenReport {
        let (text, bytes) = self.spelling.token(&self.model, token.id);
        let alternatives = token.alternatives.iter().map(|other| {
            let (token, bytes) = self.spelling.token(&self.model, other.id);
            Alternative { token, logprob: other.logprob, bytes }
        });
        let top_logprobs = alternatives.collect();
        TokenReport { token: text, logprob: token.logprob, bytes, top_logprobs }
    }

    fn stream(self, mut running: Running, count: usize, reports: UsageReports) -> Response {
        sse::respond(move |out| async move {
            for index in 0..count {
                let delta = ChunkDelta {
                    role: Some("assistant"),
                    content: Some(String::new()),
                    ..ChunkDelta::default()
                };
                let choice = ChunkChoice { index, delta, ..ChunkChoice::default() };
                let usage = reports.of_piece(|| running.usage(index));
                out.data(&self.chunk(vec![choice], usage)).await?;
            }
            let mut usage = Usage::default();
            let mut held: Vec<Logprobs> = vec![Logprobs::default(); count];
            loop {
                let update = tokio::select! {
                    update = running.next() => update,
                    () = out.closed() => return Err(sse::Gone),
                };
                let update = match update {
                    None => break,
                    Some(Ok(update)) => update,
                    Some(Err(error)) => {
                        out.data(&error.openai()).await?;
                        return Ok(());
                    }
                };
                let index = update.index;
                if let Some(token) = update.token.filter(|_| self.logprobs) {
                    held[index].content.push(self.report(&token));
                }
                for delta in update.deltas {
                    let logprobs = std::mem::take(&mut held[index]);
                    let logprobs = (!logprobs.content.is_empty()).then_some(logprobs);
                    let delta = self.delta(delta);
                    let choice = ChunkChoice { index, delta, logprobs, finish_reason: None };
                    let usage = reports.of_piece(|| running.usage(index));
                    out.data(&self.chunk(vec![choice], usage)).await?;
                }
                if let Some(end) = update.end {
                    usage.add(&end.timings, end.reasoning_tokens, index == 0);
                    let logprobs = std::mem::take(&mut held[index]);
                    let choice = ChunkChoice {
                        index,
                        logprobs: (!logprobs.content.is_empty()).then_some(logprobs),
                        finish_reason: Some(self.finish_reason(end.reason)),
                        ..ChunkChoice::default()
                    };
                    let usage = reports.of_piece(|| running.usage(index));
                    out.data(&self.chunk(vec![choice], usage)).await?;
                }
            }
            if reports.at_end() {
                out.data(&self.chunk(vec![], Some(Some(usage)))).await?;
            }
            out.line("[DONE]").await
        })
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Option<Usage>>) -> ChatChunk<'_> {
        ChatChunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model.name,
            choices,
            usage,
        }
    }

    fn delta(&self, delta: Delta) -> ChunkDelta {
        let mut chunk = ChunkDelta::default();
        match delta {
            Delta::Text(text) => chunk.content = Some(text),
            Delta::Reasoning(text) => chunk.reasoning_content = Some(text),
            Delta::ToolStart { name, .. } if self.functions => {
                let arguments = String::new();
                chunk.function_call = Some(FunctionDelta { name: Some(name), arguments });
            }
            Delta::ToolArguments { text, .. } if self.functions => {
                chunk.function_call = Some(FunctionDelta { name: None, arguments: text });
            }
            Delta::ToolStart { index, id, name } => {
                chunk.tool_calls = Some(vec![CallDelta {
                    index,
                    id: Some(id.unwrap_or_else(|| self.app.id("call_"))),
                    kind: Some("function"),
                    function: FunctionDelta { name: Some(name), arguments: String::new() },
                }]);
            }
            Delta::ToolArguments { index, text } => {
                let function = FunctionDelta { name: None, arguments: text };
                chunk.tool_calls = Some(vec![CallDelta { index, id: None, kind: None, function }]);
            }
        }
        chunk
    }
}
