//! `POST /v1/messages`: conversations in Anthropic's form (Anthropic, "Messages API" and "Streaming
//! Messages").

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use keeve_engine::chat::{Content, Part};
use keeve_engine::{Grammar, Message};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::common::{Choosing, Unused};
use super::tool_use::{
    NamedFunction, NamedTool, ToolChoice, ToolFunction, ToolKind, ToolMode, ToolUse,
};
use super::turn::{End, Running, Turn, joined};
use crate::app::Shared;
use crate::body::Body;
use crate::error::ApiError;
use crate::images::Images;
use crate::models::Model;
use crate::parse::Delta;
use crate::sse::{self, Gone, Out};

/// A conversation to go on with, in Anthropic's form. Fields that are not listed are refused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessagesRequest {
    /// The model.
    pub model: String,
    /// The conversation.
    #[schema(min_items = 1)]
    pub messages: Vec<InputMessage>,
    /// The most tokens to generate.
    #[schema(minimum = 1)]
    pub max_tokens: u32,
    /// The system prompt.
    pub system: Option<InputContent>,
    /// Texts that end the answer.
    pub stop_sequences: Option<Vec<String>>,
    /// Send the answer in pieces as it is generated.
    pub stream: Option<bool>,
    /// 0 takes the likeliest token each time.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    #[schema(minimum = 0)]
    pub top_k: Option<i64>,
    pub tools: Option<Vec<InputTool>>,
    pub tool_choice: Option<InputToolChoice>,
    /// Whether the model is to reason first, where its chat template lets that be chosen.
    pub thinking: Option<Thinking>,
    pub output_config: Option<OutputConfig>,
    /// Has no effect: beginnings that were computed are always found again.
    #[serde(rename = "cache_control")]
    pub _cache_control: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "metadata")]
    pub _metadata: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "service_tier")]
    pub _service_tier: Option<Unused>,
}

/// A message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputMessage {
    pub role: InputRole,
    pub content: InputContent,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum InputRole {
    User,
    Assistant,
}

/// Text or blocks.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum InputContent {
    /// Text.
    Text(String),
    /// Blocks in order.
    Blocks(Vec<InputBlock>),
}

/// A block of a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum InputBlock {
    /// Text.
    Text {
        /// The text.
        text: String,
        /// Has no effect.
        #[serde(rename = "cache_control")]
        _cache_control: Option<Unused>,
        /// Has no effect.
        #[serde(rename = "citations")]
        _citations: Option<Unused>,
    },
    /// A call that the assistant made.
    ToolUse {
        /// The call.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments.
        input: Map<String, Value>,
        /// Has no effect.
        #[serde(rename = "cache_control")]
        _cache_control: Option<Unused>,
        /// Has no effect.
        #[serde(rename = "caller")]
        _caller: Option<Unused>,
    },
    /// What a tool answered.
    ToolResult {
        /// The call.
        tool_use_id: String,
        /// The answer.
        #[schema(no_recursion)]
        content: Option<Box<InputContent>>,
        /// Has no effect: the answer says what went wrong.
        #[serde(rename = "is_error")]
        _is_error: Option<bool>,
        /// Has no effect.
        #[serde(rename = "cache_control")]
        _cache_control: Option<Unused>,
    },
    /// What the assistant thought.
    Thinking {
        /// The thought.
        thinking: String,
        /// Has no effect: thoughts are not signed here.
        #[serde(rename = "signature")]
        _signature: Option<String>,
    },
    /// An image.
    Image {
        /// The image.
        source: ImageSource,
        /// Has no effect.
        #[serde(rename = "cache_control")]
        _cache_control: Option<Unused>,
    },
}

/// Where an image is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum ImageSource {
    /// Here.
    Base64 {
        /// Has no effect: the image itself says what it is.
        #[serde(rename = "media_type")]
        _media_type: Option<Unused>,
        /// The image in base64.
        data: String,
    },
    /// Elsewhere.
    Url {
        /// `http:` and `https:`, where the server is told to fetch images.
        url: String,
    },
}

impl ImageSource {
    /// Adds the image to those of the request.
    fn add_to(self, images: &mut Images, field: &str) {
        match self {
            Self::Base64 { data, .. } => images.add_base64(format!("{field}.source.data"), data),
            Self::Url { url } => images.add_address(format!("{field}.source.url"), url),
        }
    }
}

/// A tool.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputTool {
    /// Only `custom`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    pub description: Option<String>,
    /// A JSON schema.
    pub input_schema: Map<String, Value>,
    /// Has no effect.
    #[serde(rename = "cache_control")]
    pub _cache_control: Option<Unused>,
    /// Has no effect: a forced call always follows the schema to the letter.
    #[serde(rename = "strict")]
    pub _strict: Option<bool>,
}

/// Whether the model has to use a tool.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum InputToolChoice {
    /// As it likes.
    Auto { disable_parallel_tool_use: Option<bool> },
    /// Some tool.
    Any { disable_parallel_tool_use: Option<bool> },
    /// This tool.
    Tool { name: String, disable_parallel_tool_use: Option<bool> },
    /// No tool.
    None {},
}

/// Whether the model is to reason first.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Thinking {
    /// Yes; the budget has no effect.
    Enabled {
        /// Has no effect.
        #[serde(rename = "budget_tokens")]
        _budget_tokens: Option<u64>,
    },
    /// As the chat template has it.
    Adaptive {},
    /// No.
    Disabled {},
}

impl Thinking {
    /// What the chat template is told; `None`: nothing.
    fn enabled(&self) -> Option<bool> {
        match self {
            Self::Enabled { .. } => Some(true),
            Self::Adaptive {} => None,
            Self::Disabled {} => Some(false),
        }
    }
}

/// What an answer has to look like.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputConfig {
    pub format: Option<OutputFormat>,
}

/// What the text of an answer has to look like.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum OutputFormat {
    /// A JSON value of a schema.
    JsonSchema {
        /// The schema.
        schema: Map<String, Value>,
    },
}

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessagesAnswer {
    pub id: String,
    /// `message`
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `assistant`
    pub role: &'static str,
    pub model: String,
    pub content: Vec<OutputBlock>,
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`.
    pub stop_reason: Option<&'static str>,
    /// The stop sequence that ended the answer.
    pub stop_sequence: Option<String>,
    pub usage: OutputUsage,
}

/// A block of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum OutputBlock {
    /// Text.
    Text { text: String },
    /// What the model thought.
    Thinking { thinking: String, signature: String },
    /// A call.
    ToolUse { id: String, name: String, input: Map<String, Value> },
}

/// What was used.
#[derive(Debug, Default, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct OutputUsage {
    pub input_tokens: usize,
    pub output_tokens: usize,
    pub cache_read_input_tokens: usize,
}

impl From<&End> for OutputUsage {
    fn from(end: &End) -> Self {
        let cached = end.timings.cached_tokens;
        Self {
            input_tokens: end.timings.prompt_tokens - cached,
            output_tokens: end.timings.decode_tokens,
            cache_read_input_tokens: cached,
        }
    }
}

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

async fn answer(app: Shared, request: MessagesRequest) -> Result<Response, ApiError> {
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
    if request.messages.is_empty() {
        return Err(ApiError::field("messages", "messages is empty"));
    }
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
        if tool.kind.is_some_and(|kind| kind != "custom") {
            let message = "only tools of type custom are supported";
            return Err(ApiError::field(format!("tools[{at}].type"), message));
        }
        tools.push(ToolFunction {
            name: tool.name,
            description: tool.description,
            parameters: Some(tool.input_schema),
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
    let mut template_args = Map::new();
    if let Some(enabled) = request.thinking.and_then(|thinking| thinking.enabled()) {
        template_args.insert("enable_thinking".into(), enabled.into());
    }
    let format = request.output_config.and_then(|config| config.format);
    let format = format
        .map(|OutputFormat::JsonSchema { schema }| Grammar::JsonSchema(Value::Object(schema)));
    Ok(Turn {
        messages,
        images,
        tools: ToolUse::new(tools, choice, single.map(|single| !single))?,
        format,
        template_args,
        choosing: Choosing {
            stop: request.stop_sequences.unwrap_or_default(),
            max_tokens: Some(request.max_tokens),
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
        InputContent::Text(text) => return Ok(Content::Text(text)),
        InputContent::Blocks(blocks) => blocks,
    };
    let mut parts = vec![];
    for (index, block) in blocks.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        parts.push(match (block, &mut images) {
            (InputBlock::Text { text, .. }, _) => Part::text(text),
            (InputBlock::Image { source, .. }, Some(images)) => {
                source.add_to(images, &field);
                Part::image()
            }
            _ => return Err(ApiError::field(field, "a block of this type cannot stand here")),
        });
    }
    Ok(joined(parts))
}

fn add_message(
    messages: &mut Vec<Message>,
    images: &mut Images,
    message: InputMessage,
    at: usize,
) -> Result<(), ApiError> {
    let field = format!("messages[{at}].content");
    let role = if message.role == InputRole::User { "user" } else { "assistant" };
    let blocks = match message.content {
        InputContent::Text(text) => {
            messages.push(Message::text(role, text));
            return Ok(());
        }
        InputContent::Blocks(blocks) => blocks,
    };
    let (mut parts, mut calls, mut thoughts) = (vec![], vec![], vec![]);
    let mut own = Images::default();
    for (index, block) in blocks.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        match block {
            InputBlock::Text { text, .. } => parts.push(Part::text(text)),
            InputBlock::Thinking { thinking, .. } => thoughts.push(thinking),
            InputBlock::Image { source, .. } => {
                source.add_to(&mut own, &field);
                parts.push(Part::image());
            }
            InputBlock::ToolUse { id, name, input, .. } => calls.push(json!({
                "id": id, "type": "function",
                "function": { "name": name, "arguments": Value::Object(input).to_string() },
            })),
            // Results come before what the user says next, and so do their images.
            InputBlock::ToolResult { tool_use_id, content, .. } => {
                let content = content.map_or(Ok(Content::Text(String::new())), |content| {
                    content_of(*content, &format!("{field}.content"), Some(images))
                });
                messages.push(Message {
                    content: Some(content?),
                    tool_call_id: Some(tool_use_id),
                    ..Message::text("tool", "")
                });
            }
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
                    (Delta::ToolStart { name, .. }, _) => {
                        arguments.clear();
                        let id = self.app.id("toolu_");
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
        out.event("message_start", &json!({ "type": "message_start", "message": self.empty() }))
            .await?;
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
            Delta::ToolStart { name, .. } => {
                let block = json!({ "type": "tool_use", "id": app.id("toolu_"), "name": name,
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
