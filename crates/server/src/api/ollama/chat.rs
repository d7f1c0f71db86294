//! `POST /api/chat`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use keeve_engine::Message;
use keeve_engine::chat::{Content, Part};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::answer::{Asked, Source, Writer, done_reason, load_or_unload, respond};
use super::types::{
    ChatMessage, ChatRequest, Durations, MadeCall, MadeFunction, Think, TokenReport, choosing,
    grammar,
};
use super::{Body, Failed, timestamp};
use crate::api::tool_use::ToolUse;
use crate::api::turn::{Ending, Turn, Update};
use crate::app::Shared;
use crate::error::ApiError;
use crate::images::Images;
use crate::parse::Delta;

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
    pub durations: Durations,
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
    let unload = request.keep_alive.as_ref().map(|time| time.is_zero()).transpose()?;
    if request.messages.as_ref().is_none_or(Vec::is_empty) {
        let model = request.model.clone();
        turn(request)?.choosing.check()?;
        let done_reason = load_or_unload(&app, &model, unload == Some(true)).await?;
        let answer = ChatAnswer {
            done: true,
            done_reason: Some(done_reason),
            ..ChatAnswer::new(model, AnswerMessage::default())
        };
        return Ok(Json(answer).into_response());
    }
    let asked = Asked::of(&app, &request.model, request.logprobs).await?;
    let stream = request.stream.unwrap_or(true);
    let running = turn(request)?.start(&app, &asked.model).await?;
    let writer = ChatWriter { asked, app, call: None, calls: 0 };
    Ok(respond(Source::Talk(Box::new(running)), writer, stream).await?)
}

impl ChatAnswer {
    fn new(model: String, message: AnswerMessage) -> Self {
        let message = AnswerMessage { role: "assistant", ..message };
        Self { model, created_at: timestamp(), message, ..Self::default() }
    }
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
    Ok(Turn {
        messages,
        images,
        tools: ToolUse::new(tools, None, None)?,
        format: grammar(request.format)?,
        template_args: Think::args(request.think),
        ending,
        choosing: choosing(request.options, request.top_logprobs)?,
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

struct ChatWriter {
    asked: Asked,
    app: Shared,
    /// The call that is being written: its name and arguments so far. Clients take whole calls.
    call: Option<(String, String)>,
    calls: usize,
}

impl ChatWriter {
    fn piece(&self, message: AnswerMessage) -> ChatAnswer {
        ChatAnswer::new(self.asked.name.clone(), message)
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
}

impl Writer for ChatWriter {
    type Piece = ChatAnswer;

    fn pieces(&mut self, update: Update) -> Vec<ChatAnswer> {
        let logprobs = self.asked.reports(update.token);
        let mut message = self.message(update.deltas);
        if update.end.is_some() {
            message.tool_calls.extend(self.end_call());
        }
        let nothing = message.content.is_empty()
            && message.thinking.is_empty()
            && message.tool_calls.is_empty()
            && logprobs.is_empty();
        let piece = (!nothing).then(|| ChatAnswer { logprobs, ..self.piece(message) });
        let last = update.end.map(|end| ChatAnswer {
            done: true,
            done_reason: Some(done_reason(&end)),
            durations: self.asked.durations(&end),
            ..self.piece(AnswerMessage::default())
        });
        piece.into_iter().chain(last).collect()
    }

    fn joined(whole: ChatAnswer, mut piece: ChatAnswer) -> ChatAnswer {
        let (mut message, mut logprobs) = (whole.message, whole.logprobs);
        message.role = piece.message.role;
        message.content.push_str(&piece.message.content);
        message.thinking.push_str(&piece.message.thinking);
        message.tool_calls.append(&mut piece.message.tool_calls);
        logprobs.append(&mut piece.logprobs);
        ChatAnswer { message, logprobs, ..piece }
    }
}
