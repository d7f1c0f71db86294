//! `POST /v1/responses`: OpenAI's newer form (OpenAI, "Responses API" and "Streaming events"). Nothing
//! is stored, so a conversation is always sent whole.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use keeve_engine::chat::{Content, Part};
use keeve_engine::{Grammar, Message};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::common::{Choosing, Unused};
use super::response_events::Builder;
use super::tool_use::{
    NamedFunction, NamedTool, ToolChoice, ToolFunction, ToolKind, ToolMode, ToolUse,
};
use super::turn::{Running, Turn, joined};
use crate::app::{Shared, now};
use crate::body::Body;
use crate::error::{ApiError, ErrorBody};
use crate::images::Images;
use crate::models::Model;
use crate::sse::{self, Gone, Out};

/// What to answer. Fields that are not listed are refused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResponsesRequest {
    /// The model. May be left out where there is only one.
    #[serde(default)]
    pub model: String,
    /// A question, or a conversation.
    pub input: Input,
    /// The system prompt.
    pub instructions: Option<String>,
    /// Send the answer in pieces as it is generated.
    pub stream: Option<bool>,
    /// The most tokens to generate.
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<u32>,
    /// 0 takes the likeliest token each time.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    pub tools: Option<Vec<ResponseTool>>,
    pub tool_choice: Option<ResponseToolChoice>,
    /// Whether an answer may have several tool calls.
    pub parallel_tool_calls: Option<bool>,
    pub text: Option<TextOptions>,
    /// Only false: nothing runs in the background.
    pub background: Option<bool>,
    /// Only null: nothing is stored.
    pub previous_response_id: Option<String>,
    /// Only `disabled`: nothing is left out of a conversation that is too long.
    pub truncation: Option<String>,
    /// Has no effect: nothing is stored.
    #[serde(rename = "store")]
    pub _store: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "metadata")]
    pub _metadata: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "user")]
    pub _user: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "safety_identifier")]
    pub _safety_identifier: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "prompt_cache_key")]
    pub _prompt_cache_key: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "service_tier")]
    pub _service_tier: Option<Unused>,
}

/// A question, or a conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Input {
    /// A question.
    Text(String),
    /// A conversation.
    Items(Vec<InputItem>),
}

/// A message, a call that was made, or what it gave.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputItem {
    /// `message` (also if not given), `function_call`, `function_call_output` or `reasoning`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Of a message: `system`, `developer`, `user` or `assistant`.
    pub role: Option<String>,
    /// Of a message.
    pub content: Option<ItemContent>,
    /// Of a call.
    pub call_id: Option<String>,
    /// Of a call.
    pub name: Option<String>,
    /// Of a call: JSON text.
    pub arguments: Option<String>,
    /// What a call gave.
    pub output: Option<String>,
    /// Has no effect.
    #[serde(rename = "id")]
    pub _id: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "status")]
    pub _status: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "summary")]
    pub _summary: Option<Unused>,
}

/// Text or parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ItemContent {
    /// Text.
    Text(String),
    /// Parts in order.
    Parts(Vec<ItemPart>),
}

/// A part of a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ItemPart {
    /// `input_text`, `output_text` or `input_image`.
    #[serde(rename = "type")]
    pub kind: String,
    pub text: Option<String>,
    /// The image of an `input_image`: `data:image/...;base64,...`; also `http:` and `https:` where the
    /// server is told to fetch images.
    pub image_url: Option<String>,
    /// Has no effect.
    #[serde(rename = "detail")]
    pub _detail: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "annotations")]
    pub _annotations: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "logprobs")]
    pub _logprobs: Option<Unused>,
}

/// A tool.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResponseTool {
    /// `function`
    #[serde(rename = "type")]
    pub _kind: ToolKind,
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    pub description: Option<String>,
    /// A JSON schema.
    pub parameters: Option<Map<String, Value>>,
    /// Has no effect.
    #[serde(rename = "strict")]
    pub _strict: Option<bool>,
}

/// Whether the model has to call a tool.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ResponseToolChoice {
    /// `auto`, `none` or `required`.
    Mode(ToolMode),
    /// One tool, which must be called.
    Named(ChosenTool),
}

/// The tool that must be called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChosenTool {
    /// `function`
    #[serde(rename = "type")]
    pub _kind: ToolKind,
    pub name: String,
}

/// What the text of an answer has to look like.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextOptions {
    pub format: Option<TextFormat>,
}

/// What the text of an answer has to look like.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum TextFormat {
    /// Anything.
    Text {},
    /// A JSON object.
    JsonObject {},
    /// A JSON value of a schema.
    JsonSchema {
        /// Has no effect.
        #[serde(rename = "name")]
        _name: Option<String>,
        /// Has no effect.
        #[serde(rename = "description")]
        _description: Option<String>,
        /// Has no effect: a schema is always followed to the letter.
        #[serde(rename = "strict")]
        _strict: Option<bool>,
        /// The schema.
        schema: Map<String, Value>,
    },
}

/// Answer a question or go on with a conversation.
#[utoipa::path(
    post, path = "/v1/responses", request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The answer, or its pieces as server-sent events.",
            content((Object = "application/json"), (Object = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong.", body = ErrorBody),
        (status = "5XX", description = "The server is at fault or busy.", body = ErrorBody),
    ),
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    Body(request): Body<ResponsesRequest>,
) -> Result<Response, ApiError> {
    refuse_unsupported(&request)?;
    let model = app.models.get(&request.model).await?;
    let stream = request.stream.unwrap_or(false);
    let frame = frame(&app, &model, &request);
    let running = turn(request)?.start(&app, &model).await?;
    let builder = Builder::new(frame, app);
    if stream {
        return Ok(sse::respond(move |out| async move { send(running, builder, &out).await }));
    }
    Ok(Json(whole(running, builder).await?).into_response())
}

fn refuse_unsupported(request: &ResponsesRequest) -> Result<(), ApiError> {
    if request.background == Some(true) {
        return Err(ApiError::field("background", "background is not supported"));
    }
    if request.previous_response_id.is_some() {
        let message = "previous_response_id is not supported: nothing is stored";
        return Err(ApiError::field("previous_response_id", message));
    }
    if request.truncation.as_ref().is_some_and(|mode| mode != "disabled") {
        return Err(ApiError::field("truncation", "truncation can only be disabled"));
    }
    Ok(())
}

/// The response without what is yet to come.
fn frame(app: &Shared, model: &Arc<Model>, request: &ResponsesRequest) -> Value {
    json!({
        "id": app.id("resp_"), "object": "response", "created_at": now(), "status": "in_progress",
        "model": model.name, "output": [], "error": null, "incomplete_details": null,
        "instructions": request.instructions, "metadata": {},
        "max_output_tokens": request.max_output_tokens,
        "parallel_tool_calls": request.parallel_tool_calls.unwrap_or(true),
        "previous_response_id": null, "temperature": request.temperature, "top_p": request.top_p,
        "tool_choice": "auto", "tools": [], "truncation": "disabled", "store": false,
        "text": { "format": { "type": "text" } }, "usage": null,
    })
}

fn turn(request: ResponsesRequest) -> Result<Turn, ApiError> {
    let mut messages: Vec<_> =
        request.instructions.iter().map(|text| Message::text("system", text)).collect();
    let mut images = Images::default();
    match request.input {
        Input::Text(text) => messages.push(Message::text("user", text)),
        Input::Items(items) => {
            for (at, item) in items.into_iter().enumerate() {
                add_item(&mut messages, &mut images, item, at)?;
            }
        }
    }
    if messages.iter().all(|message| message.role == "system") {
        return Err(ApiError::field("input", "input has no message"));
    }
    let tools = request.tools.into_iter().flatten().map(|tool| ToolFunction {
        name: tool.name,
        description: tool.description,
        parameters: tool.parameters,
        _strict: None,
    });
    let choice = request.tool_choice.map(|choice| match choice {
        ResponseToolChoice::Mode(mode) => ToolChoice::Mode(mode),
        ResponseToolChoice::Named(ChosenTool { name, .. }) => ToolChoice::Named(NamedTool {
            _kind: ToolKind::Function,
            function: NamedFunction { name },
        }),
    });
    let format = match request.text.and_then(|text| text.format) {
        None | Some(TextFormat::Text {}) => None,
        Some(TextFormat::JsonObject {}) => Some(json!({ "type": "object" })),
        Some(TextFormat::JsonSchema { schema, .. }) => Some(Value::Object(schema)),
    };
    Ok(Turn {
        messages,
        images,
        tools: ToolUse::new(tools.collect(), choice, request.parallel_tool_calls)?,
        format: format.map(Grammar::JsonSchema),
        template_args: Map::new(),
        choosing: Choosing {
            max_tokens: request.max_output_tokens,
            temperature: request.temperature,
            top_p: request.top_p,
            ..Choosing::default()
        },
    })
}

fn add_item(
    messages: &mut Vec<Message>,
    images: &mut Images,
    item: InputItem,
    at: usize,
) -> Result<(), ApiError> {
    let wrong = |field: &str, message: String| {
        Err(ApiError::field(format!("input[{at}].{field}"), message))
    };
    match item.kind.as_deref().unwrap_or("message") {
        "message" => {
            let role = match item.role.as_deref() {
                Some("system" | "developer") => "system",
                Some("user") => "user",
                Some("assistant") => "assistant",
                _ => return wrong("role", "expected system, developer, user or assistant".into()),
            };
            let content = match item.content {
                None => return wrong("content", "a message needs content".into()),
                Some(ItemContent::Text(text)) => Content::Text(text),
                Some(ItemContent::Parts(parts)) => {
                    let mut content = vec![];
                    for (index, part) in parts.into_iter().enumerate() {
                        let field = format!("content[{index}]");
                        content.push(match (&*part.kind, part.text, part.image_url) {
                            ("input_text" | "output_text" | "text", Some(text), None) => {
                                Part::text(text)
                            }
                            ("input_image", None, Some(address)) => {
                                images
                                    .add_address(format!("input[{at}].{field}.image_url"), address);
                                Part::image()
                            }
                            ("input_image", ..) => {
                                let message = "a part of type input_image needs image_url alone";
                                return wrong(&field, message.into());
                            }
                            (kind, ..) => {
                                let kind: String = kind.chars().take(40).collect();
                                let message = format!("parts of type {kind:?} are not supported");
                                return wrong(&field, message);
                            }
                        });
                    }
                    joined(content)
                }
            };
            messages.push(Message { content: Some(content), ..Message::text(role, "") });
        }
        "function_call" => {
            let (Some(id), Some(name), Some(arguments)) = (item.call_id, item.name, item.arguments)
            else {
                return wrong("type", "a call needs call_id, name and arguments".into());
            };
            let call = json!({ "id": id, "type": "function",
                "function": { "name": name, "arguments": arguments } });
            match messages.last_mut().filter(|last| last.role == "assistant") {
                Some(last) => last.tool_calls.get_or_insert_default().push(call),
                None => {
                    let mut message = Message::text("assistant", "");
                    message.tool_calls = Some(vec![call]);
                    messages.push(message);
                }
            }
        }
        "function_call_output" => {
            let (Some(id), Some(output)) = (item.call_id, item.output) else {
                return wrong("type", "a call's output needs call_id and output".into());
            };
            let mut message = Message::text("tool", output);
            message.tool_call_id = Some(id);
            messages.push(message);
        }
        // Templates leave the reasoning of earlier answers out.
        "reasoning" => {}
        kind => {
            let kind: String = kind.chars().take(40).collect();
            return wrong("type", format!("items of type {kind:?} are not supported"));
        }
    }
    Ok(())
}

async fn whole(mut running: Running, mut builder: Builder) -> Result<Value, ApiError> {
    while let Some(update) = running.next().await {
        builder.update(update?);
        builder.take_events();
    }
    Ok(builder.into_response())
}

async fn send(mut running: Running, mut builder: Builder, out: &Out) -> Result<(), Gone> {
    builder.begin();
    loop {
        for event in builder.take_events() {
            let name = event["type"].as_str().unwrap_or_default().to_owned();
            out.event(&name, &event).await?;
        }
        let update = tokio::select! {
            update = running.next() => update,
            () = out.closed() => return Err(Gone),
        };
        match update {
            None => return Ok(()),
            Some(Ok(update)) => builder.update(update),
            Some(Err(error)) => {
                let event = builder.failed(&error);
                return out.event("response.failed", &event).await;
            }
        }
    }
}
