//! `POST /v1/responses`: OpenAI's newer form (OpenAI, "Responses API" and "Streaming events"). Nothing
//! is stored, so a conversation is always sent whole.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use keeve_engine::chat::{Content, Part};
use keeve_engine::{Grammar, Message};
use serde_json::{Value, json};

use super::common::{Choosing, effort_args};
use super::fields::{Given, TextOr};
use super::response_events::Builder;
use super::responses_types::{ChosenTool, InputItem, ItemPart, ResponsesRequest, TextFormat};
use super::tool_use::{
    NamedFunction, NamedTool, ToolChoice, ToolFunction, ToolKind, ToolMode, ToolUse,
};
use super::turn::{Ending, Running, Turn, joined};
use crate::app::{Shared, now};
use crate::body::Body;
use crate::error::{ApiError, ErrorBody};
use crate::images::Images;
use crate::models::Model;
use crate::sse::{self, Gone, Out};

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
    for (given, neutral, name, why) in [
        (&request.conversation, f64::NAN, "conversation", "nothing is stored"),
        (&request.prompt, f64::NAN, "prompt", "nothing is stored"),
        (&request.context_management, f64::NAN, "context_management", "nothing is left out"),
        (&request.moderation, f64::NAN, "moderation", "this server moderates nothing"),
        (&request.top_logprobs, 0.0, "top_logprobs", "/v1/chat/completions reports them"),
    ] {
        Given::refuse(given.as_ref(), neutral, name, why)?;
    }
    if request.include.iter().flatten().any(|what| what == "message.output_text.logprobs") {
        let message = "log probabilities are those of /v1/chat/completions";
        return Err(ApiError::field("include", message));
    }
    if request.truncation.as_ref().is_some_and(|mode| mode != "disabled" && mode != "auto") {
        return Err(ApiError::field("truncation", "truncation is auto or disabled"));
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
        TextOr::Text(text) => messages.push(Message::text("user", text)),
        TextOr::Other(items) => {
            for (at, item) in items.into_iter().enumerate() {
                add_item(&mut messages, &mut images, item, at)?;
            }
        }
    }
    if messages.iter().all(|message| message.role == "system") {
        return Err(ApiError::field("input", "input has no message"));
    }
    let mut tools = vec![];
    for (at, tool) in request.tools.into_iter().flatten().enumerate() {
        if tool.kind != "function" {
            let kind: String = tool.kind.chars().take(40).collect();
            let message = format!("tools of type {kind:?} are not supported, only functions");
            return Err(ApiError::field(format!("tools[{at}].type"), message));
        }
        let Some(name) = tool.name else {
            return Err(ApiError::field(format!("tools[{at}].name"), "a function needs a name"));
        };
        let (description, parameters) = (tool.description, tool.parameters);
        tools.push(ToolFunction { name, description, parameters, _strict: None });
    }
    let choice = request.tool_choice.map(|choice| chosen(choice, &mut tools)).transpose()?;
    let text = request.text.unwrap_or_default();
    let format = match text.format {
        None | Some(TextFormat::Text {}) => None,
        Some(TextFormat::JsonObject {}) => Some(json!({ "type": "object" })),
        Some(TextFormat::JsonSchema { schema, .. }) => Some(Value::Object(schema)),
    };
    let mut template_args = effort_args(request.reasoning.and_then(|options| options.effort));
    template_args.extend(text.verbosity.map(|level| ("verbosity".into(), level.into())));
    Ok(Turn {
        messages,
        images,
        tools: ToolUse::new(tools, choice, request.parallel_tool_calls)?,
        format: format.map(Grammar::JsonSchema),
        template_args,
        ending: Ending::Answer,
        choosing: Choosing {
            max_tokens: request.max_output_tokens,
            temperature: request.temperature,
            top_p: request.top_p,
            ..Choosing::default()
        },
    })
}

/// Whether a tool must be called. Tools that may not be are taken from the list.
fn chosen(
    choice: TextOr<ChosenTool>,
    tools: &mut Vec<ToolFunction>,
) -> Result<ToolChoice, ApiError> {
    let wrong = |message: &str| Err(ApiError::field("tool_choice", message));
    match choice {
        TextOr::Text(mode) => Ok(ToolChoice::Mode(match &*mode {
            "auto" => ToolMode::Auto,
            "none" => ToolMode::None,
            "required" => ToolMode::Required,
            _ => return wrong("tool_choice is auto, none, required, or a function"),
        })),
        TextOr::Other(ChosenTool { kind, name: Some(name), .. }) if kind == "function" => {
            let function = NamedFunction { name };
            Ok(ToolChoice::Named(NamedTool { _kind: ToolKind::Function, function }))
        }
        TextOr::Other(ChosenTool { kind, mode, tools: Some(allowed), .. })
            if kind == "allowed_tools" =>
        {
            let names: Vec<_> = allowed.into_iter().filter_map(|tool| tool.name).collect();
            if let Some(name) =
                names.iter().find(|name| tools.iter().all(|tool| tool.name != **name))
            {
                let name: String = name.chars().take(100).collect();
                return wrong(&format!("{name:?} is not among the tools"));
            }
            tools.retain(|tool| names.contains(&tool.name));
            Ok(ToolChoice::Mode(mode.unwrap_or(ToolMode::Auto)))
        }
        TextOr::Other(_) => wrong("only functions and allowed_tools can be chosen"),
    }
}

/// What a message or a call's output says. `field` is its place, for errors.
fn content_of(
    content: TextOr<Vec<ItemPart>>,
    field: &str,
    images: &mut Images,
) -> Result<Content, ApiError> {
    let parts = match content {
        TextOr::Text(text) => return Ok(Content::Text(text)),
        TextOr::Other(parts) => parts,
    };
    let mut content = vec![];
    for (index, part) in parts.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        content.push(match (&*part.kind, part.text, part.refusal, part.image_url) {
            ("input_text" | "output_text" | "text", Some(text), None, None)
            | ("refusal", None, Some(text), None) => Part::text(text),
            ("input_image", None, None, Some(address)) => {
                images.add_address(format!("{field}.image_url"), address);
                Part::image()
            }
            ("input_image", ..) => {
                let message = "a part of type input_image needs image_url alone";
                return Err(ApiError::field(field, message));
            }
            (kind, ..) => {
                let kind: String = kind.chars().take(40).collect();
                let message = format!("parts of type {kind:?} are not supported");
                return Err(ApiError::field(field, message));
            }
        });
    }
    Ok(joined(content))
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
            let Some(content) = item.content else {
                return wrong("content", "a message needs content".into());
            };
            let content = content_of(content, &format!("input[{at}].content"), images)?;
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
            let content = content_of(output, &format!("input[{at}].output"), images)?;
            let message = Message { content: Some(content), ..Message::text("tool", "") };
            messages.push(Message { tool_call_id: Some(id), ..message });
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
