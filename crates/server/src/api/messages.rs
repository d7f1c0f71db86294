//! `POST /v1/messages`: conversations in Anthropic's form (Anthropic, "Messages API" and "Streaming
//! Messages").

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use keeve_engine::chat::{Content, Part};
use keeve_engine::{Grammar, Message};
use serde_json::{Map, Value, json};

use super::common::{Choosing, effort_args};
use super::fields::{Given, TextOr};
use super::messages_types::{
    InputBlock, InputContent, InputMessage, InputRole, InputToolChoice, MessagesAnswer,
    MessagesRequest, OutputBlock, OutputFormat, OutputUsage, TokenCount,
};
use super::tool_use::{
    NamedFunction, NamedTool, ToolChoice, ToolFunction, ToolKind, ToolMode, ToolUse,
};
use super::turn::{End, Ending, Running, Turn, joined};
use crate::app::Shared;
use crate::body::Body;
use crate::error::ApiError;
use crate::images::Images;
use crate::models::Model;
use crate::parse::Delta;
use crate::sse::{self, Gone, Out};

/// Go on with a conversation, in Anthropic's form.
#[utoipa::path(
    post, path = "/v1/messages", request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer, or its pieces as server-sent events.",
            content((MessagesAnswer = "application/json"), (Object = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong.", body = Object),
        (status = "5XX", description = "The server is at fault or busy.", body = Object),
    ),
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    body: Result<Body<MessagesRequest>, ApiError>,
) -> Response {
    match body {
        Err(error) => error.into_anthropic(),
        Ok(Body(request)) => answer(app, request).await.unwrap_or_else(ApiError::into_anthropic),
    }
}

/// Count the tokens of a conversation.
#[utoipa::path(
    post, path = "/v1/messages/count_tokens", request_body = MessagesRequest,
    responses(
        (status = 200, description = "How many there are.", body = TokenCount),
        (status = "4XX", description = "The request is wrong.", body = Object),
        (status = "5XX", description = "The server is at fault or busy.", body = Object),
    ),
)]
pub(crate) async fn count(
    State(app): State<Shared>,
    body: Result<Body<MessagesRequest>, ApiError>,
) -> Response {
    let counted = async {
        let Body(request) = body?;
        let model = app.models.get(&request.model).await?;
        let input_tokens = turn(request)?.prompt_tokens(&app, &model).await?;
        Ok(Json(TokenCount { input_tokens }).into_response())
    };
    counted.await.unwrap_or_else(ApiError::into_anthropic)
}

async fn answer(app: Shared, request: MessagesRequest) -> Result<Response, ApiError> {
    if request.max_tokens.is_none() {
        return Err(ApiError::field("max_tokens", "max_tokens is needed"));
    }
    let model = app.models.get(&request.model).await?;
    let stream = request.stream.unwrap_or(false);
    let stops = request.stop_sequences.clone().unwrap_or_default();
    let running = turn(request)?.start(&app, &model).await?;
    let id = app.id("msg_");
    let reply = Reply { id, app, model, stops };
    if stream {
        Ok(sse::respond(move |out| async move { reply.stream(running, &out).await }))
    } else {
        Ok(Json(reply.whole(running).await?).into_response())
    }
}

fn turn(request: MessagesRequest) -> Result<Turn, ApiError> {
    for (given, name, why) in [
        (&request.container, "container", "nothing is run here"),
        (&request.mcp_servers, "mcp_servers", "this server calls no tools itself"),
        (&request.thread, "thread", "nothing is stored"),
        (&request.compaction, "compaction", "conversations are never shortened"),
    ] {
        Given::refuse(given.as_ref(), f64::NAN, name, why)?;
    }
    let Some(last) = request.messages.last() else {
        return Err(ApiError::field("messages", "messages is empty"));
    };
    // Anthropic, "Prefill Claude's response".
    let ending = match last.role {
        InputRole::Assistant => Ending::Continued,
        InputRole::User | InputRole::System => Ending::Answer,
    };
    let mut messages = vec![];
    let mut images = Images::default();
    if let Some(system) = request.system {
        let content = Some(content_of(system, "system", None)?);
        messages.push(Message { content, ..Message::text("system", "") });
    }
    for (at, message) in request.messages.into_iter().enumerate() {
        add_message(&mut messages, &mut images, message, at)?;
    }
    let mut tools = vec![];
    for (at, tool) in request.tools.into_iter().flatten().enumerate() {
        if let Some(kind) = tool.kind.filter(|kind| kind != "custom") {
            let kind: String = kind.chars().take(40).collect();
            let message = format!("tools of type {kind:?} are not supported, only custom ones");
            return Err(ApiError::field(format!("tools[{at}].type"), message));
        }
        if tool.input_schema.is_none() {
            let message = "a tool needs an input_schema";
            return Err(ApiError::field(format!("tools[{at}].input_schema"), message));
        }
        tools.push(ToolFunction {
            name: tool.name,
            description: tool.description,
            parameters: tool.input_schema,
            _strict: None,
        });
    }
    let (choice, single) = match request.tool_choice {
        None => (None, None),
        Some(InputToolChoice::Auto { disable_parallel_tool_use }) => {
            (Some(ToolChoice::Mode(ToolMode::Auto)), disable_parallel_tool_use)
        }
        Some(InputToolChoice::Any { disable_parallel_tool_use }) => {
            (Some(ToolChoice::Mode(ToolMode::Required)), disable_parallel_tool_use)
        }
        Some(InputToolChoice::None {}) => (Some(ToolChoice::Mode(ToolMode::None)), None),
        Some(InputToolChoice::Tool { name, disable_parallel_tool_use }) => {
            let function = NamedFunction { name };
            let named = NamedTool { _kind: ToolKind::Function, function };
            (Some(ToolChoice::Named(named)), disable_parallel_tool_use)
        }
    };
    let config = request.output_config.unwrap_or_default();
    let mut template_args = effort_args(config.effort);
    if let Some(enabled) = request.thinking.and_then(|thinking| thinking.kind.enabled()) {
        template_args.insert("enable_thinking".into(), enabled.into());
    }
    let format = config.format;
    let format = format
        .map(|OutputFormat::JsonSchema { schema }| Grammar::JsonSchema(Value::Object(schema)));
    Ok(Turn {
        messages,
        images,
        tools: ToolUse::new(tools, choice, single.map(|single| !single))?,
        format,
        template_args,
        ending,
        choosing: Choosing {
            stop: request.stop_sequences.unwrap_or_default(),
            max_tokens: request.max_tokens,
            temperature: request.temperature,
            top_p: request.top_p,
            top_k: request.top_k,
            ..Choosing::default()
        },
    })
}

/// What a system prompt or a tool says: blocks of text, and where `images` are given also those.
fn content_of(
    content: InputContent,
    field: &str,
    mut images: Option<&mut Images>,
) -> Result<Content, ApiError> {
    let blocks = match content {
        TextOr::Text(text) => return Ok(Content::Text(text)),
        TextOr::Other(blocks) => blocks,
    };
    let mut parts = vec![];
    for (index, block) in blocks.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        let images = images.as_deref_mut();
        parts.push(part_of(block, &field, images)?);
    }
    Ok(joined(parts))
}

/// A block that says or shows something.
fn part_of(block: InputBlock, field: &str, images: Option<&mut Images>) -> Result<Part, ApiError> {
    let wrong = |problem: &str| Err(ApiError::field(field, problem));
    match (&*block.kind, images) {
        ("text", _) => match block.text {
            Some(text) => Ok(Part::text(text)),
            None => wrong("a block of type text needs text"),
        },
        ("image", Some(images)) => match block.source.is_some_and(|it| it.add_to(images, field)) {
            true => Ok(Part::image()),
            false => wrong("an image needs a source of type base64 with data, or url with url"),
        },
        ("document", _) => {
            let text = match block.source.map(|source| (source.kind, source.data, source.content)) {
                Some((kind, Some(text), _)) if kind == "text" => text,
                Some((kind, _, Some(content))) if kind == "content" => {
                    match content_of(*content, &format!("{field}.source.content"), None)? {
                        Content::Text(text) => text,
                        Content::Parts(_) => return wrong("only text can stand here"),
                    }
                }
                _ => return wrong("only documents of text are supported"),
            };
            let heading = block.title.into_iter().chain(block.context);
            let lines: Vec<_> = heading.chain([text]).collect();
            Ok(Part::text(lines.join("\n")))
        }
        (kind, _) => {
            let kind: String = kind.chars().take(40).collect();
            wrong(&format!("a block of type {kind:?} cannot stand here"))
        }
    }
}

fn add_message(
    messages: &mut Vec<Message>,
    images: &mut Images,
    message: InputMessage,
    at: usize,
) -> Result<(), ApiError> {
    let field = format!("messages[{at}].content");
    let role = match message.role {
        InputRole::User => "user",
        InputRole::Assistant => "assistant",
        InputRole::System => "system",
    };
    let blocks = match message.content {
        TextOr::Text(text) => {
            messages.push(Message::text(role, text));
            return Ok(());
        }
        TextOr::Other(blocks) => blocks,
    };
    let (mut parts, mut calls, mut thoughts) = (vec![], vec![], vec![]);
    let mut own = Images::default();
    for (index, block) in blocks.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        let wrong = |problem: &str| Err(ApiError::field(&field, problem));
        match &*block.kind {
            "thinking" => match block.thinking {
                Some(thinking) => thoughts.push(thinking),
                None => return wrong("a block of type thinking needs thinking"),
            },
            // What another server hid cannot be shown to this model.
            "redacted_thinking" => {}
            "tool_use" => {
                let (Some(id), Some(name)) = (block.id, block.name) else {
                    return wrong("a block of type tool_use needs id, name and input");
                };
                let arguments = Value::Object(block.input.unwrap_or_default()).to_string();
                calls.push(json!({ "id": id, "type": "function",
                    "function": { "name": name, "arguments": arguments } }));
            }
            // Results come before what the user says next, and so do their images.
            "tool_result" => {
                let Some(id) = block.tool_use_id else {
                    return wrong("a block of type tool_result needs tool_use_id");
                };
                let content = block.content.map_or(Ok(Content::Text(String::new())), |content| {
                    content_of(*content, &format!("{field}.content"), Some(images))
                });
                messages.push(Message {
                    content: Some(content?),
                    tool_call_id: Some(id),
                    ..Message::text("tool", "")
                });
            }
            _ => parts.push(part_of(block, &field, Some(&mut own))?),
        }
    }
    if !parts.is_empty() || !calls.is_empty() || !thoughts.is_empty() {
        messages.push(Message {
            content: Some(joined(parts)),
            tool_calls: (!calls.is_empty()).then_some(calls),
            reasoning_content: (!thoughts.is_empty()).then(|| thoughts.join("\n")),
            ..Message::text(role, "")
        });
    }
    images.append(own);
    Ok(())
}

struct Reply {
    id: String,
    app: Shared,
    model: Arc<Model>,
    stops: Vec<String>,
}

impl Reply {
    fn empty(&self) -> MessagesAnswer {
        MessagesAnswer {
            id: self.id.clone(),
            kind: "message",
            role: "assistant",
            model: self.model.name.clone(),
            content: vec![],
            stop_reason: None,
            stop_sequence: None,
            usage: OutputUsage::default(),
        }
    }

    /// Why the answer ended, and the stop sequence if it was one.
    fn ending(&self, end: &End) -> (&'static str, Option<String>) {
        let stop = end.stop_text.and_then(|index| self.stops.get(index)).cloned();
        let reason = match end.reason {
            "tool_calls" => "tool_use",
            "length" => "max_tokens",
            _ if stop.is_some() => "stop_sequence",
            _ => "end_turn",
        };
        (reason, stop)
    }

    async fn whole(&self, mut running: Running) -> Result<MessagesAnswer, ApiError> {
        let mut answer = self.empty();
        let mut arguments = String::new();
        while let Some(update) = running.next().await {
            let update = update?;
            for delta in update.deltas {
                let content = &mut answer.content;
                match (delta, content.last_mut()) {
                    (Delta::Text(more), Some(OutputBlock::Text { text })) => text.push_str(&more),
                    (Delta::Text(text), _) => content.push(OutputBlock::Text { text }),
                    (Delta::Reasoning(more), Some(OutputBlock::Thinking { thinking, .. })) => {
                        thinking.push_str(&more);
                    }
                    (Delta::Reasoning(thinking), _) => {
                        content.push(OutputBlock::Thinking { thinking, signature: String::new() });
                    }
                    (Delta::ToolStart { id, name, .. }, _) => {
                        arguments.clear();
                        let id = id.unwrap_or_else(|| self.app.id("toolu_"));
                        content.push(OutputBlock::ToolUse { id, name, input: Map::new() });
                    }
                    (Delta::ToolArguments { text, .. }, last) => {
                        arguments.push_str(&text);
                        if let (Some(OutputBlock::ToolUse { input, .. }), Ok(whole)) =
                            (last, serde_json::from_str(&arguments))
                        {
                            *input = whole;
                        }
                    }
                }
            }
            if let Some(end) = update.end {
                let (reason, stop) = self.ending(&end);
                answer.stop_reason = Some(reason);
                answer.stop_sequence = stop;
                answer.usage = (&end).into();
            }
        }
        Ok(answer)
    }

    async fn stream(&self, mut running: Running, out: &Out) -> Result<(), Gone> {
        let mut begun = self.empty();
        begun.usage.input_tokens = running.prompt_tokens;
        out.event("message_start", &json!({ "type": "message_start", "message": begun })).await?;
        let mut blocks = Blocks { out, open: None, count: 0 };
        loop {
            let update = tokio::select! {
                update = running.next() => update,
                () = out.closed() => return Err(Gone),
            };
            let update = match update {
                None => return Ok(()),
                Some(Ok(update)) => update,
                Some(Err(error)) => return out.event("error", &error.anthropic()).await,
            };
            for delta in update.deltas {
                blocks.add(delta, &self.app).await?;
            }
            if let Some(end) = update.end {
                blocks.close().await?;
                let (reason, stop) = self.ending(&end);
                let usage = OutputUsage::from(&end);
                out.event(
                    "message_delta",
                    &json!({ "type": "message_delta", "usage": usage,
                        "delta": { "stop_reason": reason, "stop_sequence": stop } }),
                )
                .await?;
                out.event("message_stop", &json!({ "type": "message_stop" })).await?;
            }
        }
    }
}

/// The blocks of a stream.
struct Blocks<'a> {
    out: &'a Out,
    /// The type of the block that is open.
    open: Option<&'static str>,
    count: usize,
}

impl Blocks<'_> {
    async fn open(&mut self, kind: &'static str, block: Value) -> Result<(), Gone> {
        self.close().await?;
        self.open = Some(kind);
        let event = json!({ "type": "content_block_start", "index": self.count,
            "content_block": block });
        self.out.event("content_block_start", &event).await
    }

    async fn close(&mut self) -> Result<(), Gone> {
        if self.open.take().is_none() {
            return Ok(());
        }
        let event = json!({ "type": "content_block_stop", "index": self.count });
        self.count += 1;
        self.out.event("content_block_stop", &event).await
    }

    async fn add(&mut self, delta: Delta, app: &Shared) -> Result<(), Gone> {
        let delta = match delta {
            Delta::Text(text) => {
                if self.open != Some("text") {
                    self.open("text", json!({ "type": "text", "text": "" })).await?;
                }
                json!({ "type": "text_delta", "text": text })
            }
            Delta::Reasoning(text) => {
                if self.open != Some("thinking") {
                    let block = json!({ "type": "thinking", "thinking": "", "signature": "" });
                    self.open("thinking", block).await?;
                }
                json!({ "type": "thinking_delta", "thinking": text })
            }
            Delta::ToolStart { id, name, .. } => {
                let id = id.unwrap_or_else(|| app.id("toolu_"));
                let block = json!({ "type": "tool_use", "id": id, "name": name,
                    "input": {} });
                return self.open("tool_use", block).await;
            }
            Delta::ToolArguments { text, .. } => {
                json!({ "type": "input_json_delta", "partial_json": text })
            }
        };
        let event = json!({ "type": "content_block_delta", "index": self.count, "delta": delta });
        self.out.event("content_block_delta", &event).await
    }
}
