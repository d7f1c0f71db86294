//! What `POST /v1/chat/completions` takes and gives.

use keeve_engine::Message;
use keeve_engine::chat::{Content, Part};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::common::{Usage, choosing_request, effort_args};
use super::fields::{Given, TextOr, Unused, most_tokens, or_default};
use super::tool_use::{NamedFunction, Tool, ToolChoice, ToolFunction};
use crate::error::ApiError;
use crate::images::Images;

choosing_request! {
    /// A conversation to go on with. Fields that are not listed are left alone, and named in the response's
    /// `x-keeve-ignored`.
    pub(crate) struct ChatRequest {
        /// The conversation.
        #[schema(min_items = 1)]
        pub messages: Vec<ChatMessage>,
        /// `max_tokens` under its newer name.
        #[serde(default, deserialize_with = "most_tokens")]
        #[schema(minimum = -1)]
        pub max_completion_tokens: Option<u32>,
        /// Report the log probability of each token.
        pub logprobs: Option<bool>,
        /// How many alternatives to report with each token; needs `logprobs`.
        #[schema(maximum = 20)]
        pub top_logprobs: Option<u32>,
        pub tools: Option<Vec<Tool>>,
        pub tool_choice: Option<ToolChoice>,
        /// Whether an answer may have several tool calls.
        pub parallel_tool_calls: Option<bool>,
        /// Functions, as they were called before there were tools.
        pub functions: Option<Vec<ToolFunction>>,
        /// `none`, `auto`, or the function that must be called.
        pub function_call: Option<TextOr<NamedFunction>>,
        /// Given to the chat template (DashScope's and llama.cpp's clients).
        pub enable_thinking: Option<bool>,
        /// Given to the chat template as `enable_thinking` (DeepSeek's and GLM's clients).
        pub thinking: Option<ThinkingMode>,
        /// Given to the chat template as `reasoning_effort` and `enable_thinking` (OpenRouter's clients).
        pub reasoning: Option<ReasoningWish>,
        /// Further variables for the chat template.
        pub chat_template_kwargs: Option<Map<String, Value>>,
        /// Given to the chat template; `none` also as `enable_thinking` false.
        pub reasoning_effort: Option<String>,
        /// Given to the chat template.
        pub verbosity: Option<String>,
        /// Given to the chat template.
        pub documents: Option<Vec<Value>>,
        /// Whether the prompt ends with the beginning of an answer; true if not given.
        pub add_generation_prompt: Option<bool>,
        /// Whether the answer goes on with the last message.
        pub continue_final_message: Option<bool>,
        /// Only `text`.
        pub modalities: Option<Vec<String>>,
        /// Only false: chat templates say which special tokens a prompt has.
        pub add_special_tokens: Option<Given>,
        pub echo: Option<Given>,
        pub chat_template: Option<Given>,
        pub prompt_logprobs: Option<Given>,
        pub mm_processor_kwargs: Option<Given>,
        pub audio: Option<Given>,
        pub web_search_options: Option<Given>,
        pub moderation: Option<Given>,
        /// Only true: whether the reasoning is part of the response.
        pub include_reasoning: Option<bool>,
        /// Has no effect: guesses are made, but no text that is predicted is one of them.
        #[serde(rename = "prediction")]
        pub _prediction: Option<Unused>,
        /// Has no effect.
        #[serde(rename = "metadata")]
        pub _metadata: Option<Unused>,
        /// Has no effect.
        #[serde(rename = "store")]
        pub _store: Option<Unused>,
        /// Has no effect.
        #[serde(rename = "service_tier")]
        pub _service_tier: Option<Unused>,
        /// Has no effect.
        #[serde(rename = "safety_identifier")]
        pub _safety_identifier: Option<Unused>,
        /// Has no effect.
        #[serde(rename = "prompt_cache_key")]
        pub _prompt_cache_key: Option<Unused>,
        /// Has no effect.
        #[serde(rename = "prompt_cache_options")]
        pub _prompt_cache_options: Option<Unused>,
        /// Has no effect.
        #[serde(rename = "prompt_cache_retention")]
        pub _prompt_cache_retention: Option<Unused>,
    }
}

/// Whether the model is to reason first.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct ThinkingMode {
    /// `enabled` or `disabled`; others leave it to the chat template.
    #[serde(rename = "type")]
    pub kind: String,
}

/// Whether the model is to reason first, and how much.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct ReasoningWish {
    pub effort: Option<String>,
    pub enabled: Option<bool>,
}

impl ChatRequest {
    /// What the chat template is told of how much the model is to reason, whichever fields say so; the plainest
    /// prevails.
    pub fn reasoning_args(&self) -> Map<String, Value> {
        let wish = self.reasoning.as_ref();
        let effort = self.reasoning_effort.clone();
        let mut args = effort_args(effort.or_else(|| wish.and_then(|wish| wish.effort.clone())));
        let of_mode = |mode: &ThinkingMode| match &*mode.kind {
            "enabled" => Some(true),
            "disabled" => Some(false),
            _ => None,
        };
        let enabled = self.enable_thinking.or_else(|| self.thinking.as_ref().and_then(of_mode));
        let enabled = enabled.or_else(|| wish.and_then(|wish| wish.enabled));
        args.extend(enabled.map(|enabled| ("enable_thinking".to_owned(), enabled.into())));
        args
    }
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    System,
    /// The same as `system`.
    Developer,
    User,
    Assistant,
    Tool,
    /// What a function gave, as it was before there were tools.
    Function,
}

/// One message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct ChatMessage {
    pub role: Role,
    /// Text or parts; an assistant that only calls tools has none.
    pub content: Option<TextOr<Vec<ContentPart>>>,
    /// The speaker's name.
    pub name: Option<String>,
    /// The calls that the assistant made.
    pub tool_calls: Option<Vec<MadeCall>>,
    /// The call that a tool message answers.
    pub tool_call_id: Option<String>,
    /// What the assistant thought before it answered.
    #[serde(alias = "reasoning")]
    pub reasoning_content: Option<String>,
    /// What the assistant said when it refused: text of its message where there is no other.
    pub refusal: Option<String>,
    /// The call that the assistant made, as it was before there were tools.
    pub function_call: Option<MadeFunction>,
    /// Of the last message: whether the answer goes on with it.
    pub prefix: Option<bool>,
    /// Has no effect.
    #[serde(rename = "annotations")]
    pub _annotations: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "id")]
    pub _id: Option<Unused>,
    /// Refused unless there is none.
    pub audio: Option<Given>,
}

/// A part of a message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct ContentPart {
    /// `text` (also `input_text` and `output_text`), `refusal` or `image_url` (also `input_image`).
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a `text` part.
    pub text: Option<String>,
    /// The text of a `refusal` part.
    pub refusal: Option<String>,
    /// The image of an `image_url` part.
    pub image_url: Option<TextOr<DetailedAddress>>,
    /// Has no effect.
    #[serde(rename = "cache_control")]
    pub _cache_control: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "detail")]
    pub _detail: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "annotations")]
    pub _annotations: Option<Unused>,
}

/// Where an image is.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct DetailedAddress {
    /// `data:image/...;base64,...`; also `http:` and `https:` where the server is told to fetch images.
    pub url: String,
    /// Has no effect.
    #[serde(rename = "detail")]
    pub _detail: Option<Unused>,
}

impl ContentPart {
    /// The part as the engine takes it. `field` is its place, for errors.
    pub fn into_part(self, field: &str, images: &mut Images) -> Result<Part, ApiError> {
        let wrong = |message: String| Err(ApiError::field(field, message));
        match (&*self.kind, self.text, self.refusal, self.image_url) {
            ("text" | "input_text" | "output_text", Some(text), None, None)
            | ("refusal", None, Some(text), None) => Ok(Part::text(text)),
            ("image_url" | "input_image", None, None, Some(address)) => {
                let address = match address {
                    TextOr::Text(address) => address,
                    TextOr::Other(detailed) => detailed.url,
                };
                images.add_address(format!("{field}.image_url"), address);
                Ok(Part::image())
            }
            (kind @ ("text" | "input_text" | "output_text"), ..) => {
                wrong(format!("a part of type {kind} needs text alone"))
            }
            ("refusal", ..) => wrong("a part of type refusal needs refusal alone".into()),
            (kind @ ("image_url" | "input_image"), ..) => {
                wrong(format!("a part of type {kind} needs image_url alone"))
            }
            (kind, ..) => {
                let kind: String = kind.chars().take(40).collect();
                wrong(format!("parts of type {kind:?} are not supported"))
            }
        }
    }
}

/// A call that the assistant made.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub(crate) struct MadeCall {
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    #[schema(value_type = Option<String>)]
    pub id: String,
    /// `function`
    #[serde(rename = "type", default)]
    pub kind: CallKind,
    pub function: MadeFunction,
    /// Its number, which pieces of a stream have.
    #[serde(skip_serializing)]
    #[serde(rename = "index")]
    pub _index: Option<u32>,
}

/// The kind of a call.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CallKind {
    #[default]
    Function,
}

/// The function of a call.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub(crate) struct MadeFunction {
    pub name: String,
    /// JSON text. An object is taken too.
    #[serde(default, deserialize_with = "json_text")]
    pub arguments: String,
}

/// JSON text, or the object that it would be the text of.
fn json_text<'de, D: serde::Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    Ok(match Option::<TextOr<Map<String, Value>>>::deserialize(source)? {
        None => String::new(),
        Some(TextOr::Text(text)) => text,
        Some(TextOr::Other(object)) => Value::Object(object).to_string(),
    })
}

impl ChatMessage {
    /// The message as the engine takes it, its images apart. `at` is its place, for errors.
    pub fn into_message(self, at: usize, images: &mut Images) -> Result<Message, ApiError> {
        let wrong = |field: &str, message: &str| {
            Err(ApiError::field(format!("messages[{at}].{field}"), message))
        };
        if !matches!(self.audio, None | Some(Given::Nothing)) {
            return wrong("audio", "this model cannot hear audio");
        }
        let mut calls: Vec<_> = self.tool_calls.into_iter().flatten().collect();
        calls.extend(self.function_call.map(|function| MadeCall {
            id: String::new(),
            kind: CallKind::Function,
            function,
            _index: None,
        }));
        let content = match self.content {
            None => self.refusal.map(Content::Text),
            Some(TextOr::Text(text)) => Some(Content::Text(text)),
            Some(TextOr::Other(parts)) => {
                let part = |(index, part): (usize, ContentPart)| {
                    part.into_part(&format!("messages[{at}].content[{index}]"), images)
                };
                let parts = parts.into_iter().enumerate().map(part);
                Some(Content::Parts(parts.collect::<Result<_, _>>()?))
            }
        };
        let content = match (self.role, content) {
            (Role::Tool | Role::Function, None) => Some(Content::Text(String::new())),
            (Role::System | Role::Developer | Role::User, None) => {
                return wrong("content", "content is needed");
            }
            (_, content) => content,
        };
        let role = match self.role {
            Role::System | Role::Developer => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool | Role::Function => "tool",
        };
        let calls = calls.into_iter().filter_map(|call| serde_json::to_value(call).ok());
        let calls: Vec<_> = calls.collect();
        Ok(Message {
            role: role.into(),
            content,
            name: self.name,
            tool_calls: (!calls.is_empty()).then_some(calls),
            tool_call_id: self.tool_call_id,
            reasoning_content: self.reasoning_content,
            other: Map::new(),
        })
    }
}

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    pub id: String,
    /// `chat.completion`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub choices: Vec<ChatChoice>,
    pub usage: Usage,
}

/// One of the answers.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ChatChoice {
    pub index: usize,
    pub message: AnswerMessage,
    pub logprobs: Option<Logprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: String,
}

/// What the assistant said.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct AnswerMessage {
    /// `assistant`
    pub role: String,
    pub content: Option<String>,
    pub refusal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<MadeCall>>,
    /// In place of `tool_calls` where the request has `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<MadeFunction>,
}

/// A piece of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatChunk<'a> {
    pub id: &'a str,
    /// `chat.completion.chunk`
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    pub choices: Vec<ChunkChoice>,
    /// Where the request asks for it: null but in the last piece, or of the answer so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// A piece of one of the answers.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ChunkChoice {
    pub index: usize,
    pub delta: ChunkDelta,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Logprobs>,
    pub finish_reason: Option<&'static str>,
}

/// What is new.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ChunkDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<CallDelta>>,
    /// In place of `tool_calls` where the request has `functions`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_call: Option<FunctionDelta>,
}

/// A piece of a tool call.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CallDelta {
    pub index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    pub function: FunctionDelta,
}

/// A piece of a call's function.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub arguments: String,
}

/// Log probabilities of an answer's tokens.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct Logprobs {
    pub content: Vec<TokenReport>,
    pub refusal: Option<String>,
}

/// A token and its alternatives.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TokenReport {
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    pub bytes: Vec<u8>,
    pub top_logprobs: Vec<Alternative>,
}

/// A token that might have been chosen.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Alternative {
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    pub bytes: Vec<u8>,
}
