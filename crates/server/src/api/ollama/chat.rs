//! `POST /api/chat`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use keeve_engine::Message;
use keeve_engine::chat::{Content, Part};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::types::{
    ChatMessage, ChatRequest, Durations, MadeCall, MadeFunction, Think, TokenReport, grammar,
};
use super::{Body, Failed, model, plain, timestamp};
use crate::api::common::{Choosing, Spelling};
use crate::api::tool_use::ToolUse;
use crate::api::turn::{Chosen, End, Ending, Running, Turn};
use crate::app::Shared;
use crate::error::ApiError;
use crate::images::Images;
use crate::models::Model;
use crate::parse::Delta;
use crate::sse;

/// An answer, or a piece of it.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ollama::ChatAnswer)]
pub(crate) struct ChatAnswer {
    pub model: String,
    pub created_at: String,
    pub message: AnswerMessage,
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

/// What the assistant says.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ollama::AnswerMessage)]
pub(crate) struct AnswerMessage {
    /// `assistant`
    pub role: &'static str,
    pub content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub thinking: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<MadeCall>,
}

/// Go on with a conversation, in Ollama's form.
#[utoipa::path(
    post, path = "/api/chat", request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer, or its pieces, one on each line.",
            content((ChatAnswer = "application/json"), (ChatAnswer = "application/x-ndjson"))),
        (status = "4XX", description = "The request is wrong.", body = Object),
        (status = "5XX", description = "The server is at fault or busy.", body = Object),
    ),
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    Body(request): Body<ChatRequest>,
) -> Result<Response, Failed> {
    let begun = Instant::now();
    let unload = request.keep_alive.as_ref().map(|time| time.is_zero()).transpose()?;
    if request.messages.as_ref().is_none_or(Vec::is_empty) {
        let name = plain(&app, &request.model).to_owned();
        let done_reason = Some(load_or_unload(&app, &name, unload == Some(true)).await?);
        let message = AnswerMessage { role: "assistant", ..AnswerMessage::default() };
        let (model, created_at) = (request.model, timestamp());
        let answer = ChatAnswer {
            model,
            created_at,
            message,
            done: true,
            done_reason,
            ..Default::default()
        };
        return Ok(Json(answer).into_response());
    }
    let (model, load) = model(&app, &request.model).await?;
    let (stream, report) = (request.stream.unwrap_or(true), request.logprobs == Some(true));
    let name = if request.model.is_empty() { model.name.clone() } else { request.model.clone() };
    let running = turn(request)?.start(&app, &model).await?;
    let reply = Reply { name, app, model, begun, load, report, call: None, calls: 0 };
    match stream {
        true => Ok(reply.stream(running)),
        false => Ok(Json(reply.whole(running).await?).into_response()),
    }
}

/// Loads a model, or unloads it, and says which in Ollama's words.
pub(super) async fn load_or_unload(
    app: &Shared,
    name: &str,
    unload: bool,
) -> Result<&'static str, ApiError> {
    if unload {
        app.models.unload_by_name(name).await?;
        return Ok("unload");
    }
    app.models.get(name).await?;
    Ok("load")
}

fn turn(request: ChatRequest) -> Result<Turn, ApiError> {
    let mut images = Images::default();
    let messages = request.messages.unwrap_or_default();
    // As Ollama has it: an answer that is given goes on.
    let ending = match messages.last() {
        Some(last) if last.role == "assistant" && !last.content.trim().is_empty() => {
            Ending::Continued
        }
        _ => Ending::Answer,
    };
    let messages = messages.into_iter().enumerate();
    let messages = messages.map(|(at, message)| into_message(message, at, &mut images));
    let messages = messages.collect::<Result<_, _>>()?;
    let tools = request.tools.into_iter().flatten().map(|tool| tool.function).collect();
    let choosing = request.options.unwrap_or_default().choosing()?;
    Ok(Turn {
        messages,
        images,
        tools: ToolUse::new(tools, None, None)?,
        format: grammar(request.format)?,
        template_args: Think::args(request.think),
        ending,
        choosing: Choosing { top_logprobs: request.top_logprobs.unwrap_or(0) as usize, ..choosing },
    })
}

fn into_message(message: ChatMessage, at: usize, images: &mut Images) -> Result<Message, ApiError> {
    if !["system", "user", "assistant", "tool"].contains(&&*message.role) {
        let problem = "expected system, user, assistant or tool";
        return Err(ApiError::field(format!("messages[{at}].role"), problem));
    }
    let shown = message.images.unwrap_or_default();
    let content = match shown.is_empty() {
        true => Content::Text(message.content),
        false => {
            let mut parts = vec![];
            for (index, image) in shown.into_iter().enumerate() {
                images.add_base64(format!("messages[{at}].images[{index}]"), image);
                parts.push(Part::image());
            }
            parts.push(Part::text(message.content));
            Content::Parts(parts)
        }
    };
    let calls = message.tool_calls.into_iter().flatten();
    let calls: Vec<_> = calls
        .map(|call| {
            let arguments = Value::Object(call.function.arguments).to_string();
            let mut made = json!({ "type": "function",
                "function": { "name": call.function.name, "arguments": arguments } });
            if let Some(id) = call.id {
                made["id"] = id.into();
            }
            made
        })
        .collect();
    Ok(Message {
        role: message.role,
        content: Some(content),
        name: message.tool_name,
        tool_calls: (!calls.is_empty()).then_some(calls),
        tool_call_id: message.tool_call_id,
        reasoning_content: message.thinking.filter(|thought| !thought.is_empty()),
        other: Map::new(),
    })
}

struct Reply {
    name: String,
    app: Shared,
    model: Arc<Model>,
    begun: Instant,
    load: Duration,
    report: bool,
    /// The call that is being written: its name and arguments so far. Clients take whole calls.
    call: Option<(String, String)>,
    calls: usize,
}

impl Reply {
    fn piece(&self, message: AnswerMessage) -> ChatAnswer {
        ChatAnswer {
            model: self.name.clone(),
            created_at: timestamp(),
            message: AnswerMessage { role: "assistant", ..message },
            ..ChatAnswer::default()
        }
    }

    /// What is new, as a message.
    fn message(&mut self, deltas: Vec<Delta>) -> AnswerMessage {
        let mut message = AnswerMessage::default();
        for delta in deltas {
            match delta {
                Delta::Text(text) => message.content.push_str(&text),
                Delta::Reasoning(text) => message.thinking.push_str(&text),
                Delta::ToolStart { name, .. } => {
                    message.tool_calls.extend(self.end_call());
                    self.call = Some((name, String::new()));
                }
                Delta::ToolArguments { text, .. } => {
                    if let Some((_, arguments)) = &mut self.call {
                        arguments.push_str(&text);
                    }
                }
            }
        }
        message
    }

    /// The call that was being written. Arguments that broke off are none.
    fn end_call(&mut self) -> Option<MadeCall> {
        let (name, arguments) = self.call.take()?;
        let index = Some(self.calls);
        self.calls += 1;
        let arguments = serde_json::from_str(&arguments).unwrap_or_default();
        Some(MadeCall {
            id: Some(self.app.id("call_")),
            function: MadeFunction { index, name, arguments },
        })
    }

    fn report(&self, token: &Chosen) -> TokenReport {
        let one = |id, logprob, top_logprobs| {
            let (token, bytes) = Spelling::Text.token(&self.model, id);
            TokenReport { token, logprob, bytes, top_logprobs }
        };
        let others = token.alternatives.iter().map(|other| one(other.id, other.logprob, vec![]));
        one(token.id, token.logprob, others.collect())
    }

    fn end(&mut self, end: &End) -> ChatAnswer {
        let tool_calls = self.end_call().into_iter().collect();
        ChatAnswer {
            done: true,
            done_reason: Some(if end.reason == "length" { "length" } else { "stop" }),
            durations: Some(Durations::of(&end.timings, self.begun, self.load)),
            ..self.piece(AnswerMessage { tool_calls, ..AnswerMessage::default() })
        }
    }

    async fn whole(mut self, mut running: Running) -> Result<ChatAnswer, ApiError> {
        let mut answer = self.piece(AnswerMessage::default());
        while let Some(update) = running.next().await {
            let update = update?;
            if let Some(token) = update.token.filter(|_| self.report) {
                answer.logprobs.push(self.report(&token));
            }
            let mut add = |mut more: AnswerMessage| {
                answer.message.content.push_str(&more.content);
                answer.message.thinking.push_str(&more.thinking);
                answer.message.tool_calls.append(&mut more.tool_calls);
            };
            add(self.message(update.deltas));
            if let Some(end) = update.end {
                let end = self.end(&end);
                add(end.message);
                answer.done = true;
                answer.done_reason = end.done_reason;
                answer.durations = end.durations;
            }
        }
        Ok(answer)
    }

    fn stream(mut self, mut running: Running) -> Response {
        sse::respond_lines(move |out| async move {
            loop {
                let update = tokio::select! {
                    update = running.next() => update,
                    () = out.closed() => return Err(sse::Gone),
                };
                let update = match update {
                    None => return Ok(()),
                    Some(Ok(update)) => update,
                    Some(Err(error)) => return out.json_line(&error.ollama()).await,
                };
                let token = update.token.filter(|_| self.report);
                let logprobs: Vec<_> = token.iter().map(|token| self.report(token)).collect();
                let message = self.message(update.deltas);
                let nothing = message.content.is_empty()
                    && message.thinking.is_empty()
                    && message.tool_calls.is_empty()
                    && logprobs.is_empty();
                if !nothing {
                    out.json_line(&ChatAnswer { logprobs, ..self.piece(message) }).await?;
                }
                if let Some(end) = update.end {
                    let mut last = self.end(&end);
                    let tool_calls = std::mem::take(&mut last.message.tool_calls);
                    if !tool_calls.is_empty() {
                        let message = AnswerMessage { tool_calls, ..AnswerMessage::default() };
                        out.json_line(&self.piece(message)).await?;
                    }
                    out.json_line(&last).await?;
                }
            }
        })
    }
}
