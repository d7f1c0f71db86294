//! What `POST /v1/messages` takes and gives.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::fields::{Given, TextOr, Unused, or_default};
use super::turn::End;
use crate::images::Images;

/// A conversation to go on with, in Anthropic's form. Fields that are not listed are left
/// alone, and named in the response's `x-keeve-ignored`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct MessagesRequest {
    /// The model. May be left out where there is only one.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub model: String,
    /// The conversation.
    #[schema(min_items = 1)]
    pub messages: Vec<InputMessage>,
    /// The most tokens to generate. Needed but where tokens are only counted.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u32>,
    /// The system prompt.
    #[schema(value_type = Option<TextOr<Vec<InputBlock>>>)]
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
    pub container: Option<Given>,
    pub mcp_servers: Option<Given>,
    pub thread: Option<Given>,
    pub compaction: Option<Given>,
    /// Has no effect: nothing is left out of a conversation; one that is too long is refused.
    #[serde(rename = "context_management")]
    pub _context_management: Option<Unused>,
    /// Has no effect: beginnings that were computed are always found again.
    #[serde(rename = "cache_control")]
    pub _cache_control: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "metadata")]
    pub _metadata: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "service_tier")]
    pub _service_tier: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "speed")]
    pub _speed: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "inference_geo")]
    pub _inference_geo: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "diagnostics")]
    pub _diagnostics: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "user_profile_id")]
    pub _user_profile_id: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "workspace_id")]
    pub _workspace_id: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "betas")]
    pub _betas: Option<Unused>,
    /// Has no effect: there is no other model to fall back to.
    #[serde(rename = "fallbacks")]
    pub _fallbacks: Option<Unused>,
}

/// A message.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct InputMessage {
    pub role: InputRole,
    #[schema(value_type = TextOr<Vec<InputBlock>>)]
    pub content: InputContent,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum InputRole {
    User,
    Assistant,
    System,
}

/// Text or blocks.
pub(crate) type InputContent = TextOr<Vec<InputBlock>>;

/// A block of a message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct InputBlock {
    /// `text`, `image`, `document`, `thinking`, `redacted_thinking`, `tool_use` or `tool_result`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of a `text`.
    pub text: Option<String>,
    /// Of an `image` or `document`.
    pub source: Option<Source>,
    /// Of a `document`.
    pub title: Option<String>,
    /// Of a `document`.
    pub context: Option<String>,
    /// Of a `thinking`.
    pub thinking: Option<String>,
    /// Of a `tool_use`: the call.
    pub id: Option<String>,
    /// Of a `tool_use`: the tool.
    pub name: Option<String>,
    /// Of a `tool_use`: its arguments.
    pub input: Option<Map<String, Value>>,
    /// Of a `tool_result`: the call.
    pub tool_use_id: Option<String>,
    /// Of a `tool_result`: what the tool answered.
    #[schema(value_type = Option<Object>)]
    pub content: Option<Box<InputContent>>,
    /// Has no effect: the answer says what went wrong.
    #[serde(rename = "is_error")]
    pub _is_error: Option<bool>,
    /// Has no effect: thoughts are not signed here.
    #[serde(rename = "signature")]
    pub _signature: Option<Unused>,
    /// Has no effect: what is hidden cannot be shown to the model.
    #[serde(rename = "data")]
    pub _data: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "cache_control")]
    pub _cache_control: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "citations")]
    pub _citations: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "caller")]
    pub _caller: Option<Unused>,
}

/// An image or a document.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct Source {
    /// `base64` or `url`; of a document `text` or `content`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The image in base64, or the document's text.
    pub data: Option<String>,
    /// `http:` and `https:`, where the server is told to fetch images.
    pub url: Option<String>,
    /// Of a document of blocks.
    #[schema(value_type = Option<Object>)]
    pub content: Option<Box<InputContent>>,
    /// Has no effect: the image itself says what it is.
    #[serde(rename = "media_type")]
    pub _media_type: Option<Unused>,
}

impl Source {
    /// Adds the image to those of the request; false if it is none.
    pub fn add_to(self, images: &mut Images, field: &str) -> bool {
        match (&*self.kind, self.data, self.url) {
            ("base64", Some(data), _) => {
                images.add_base64(format!("{field}.source.data"), data);
                true
            }
            ("url", _, Some(url)) => {
                images.add_address(format!("{field}.source.url"), url);
                true
            }
            _ => false,
        }
    }
}

/// A tool.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct InputTool {
    /// Only `custom`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    pub description: Option<String>,
    /// A JSON schema.
    pub input_schema: Option<Map<String, Value>>,
    /// Has no effect.
    #[serde(rename = "cache_control")]
    pub _cache_control: Option<Unused>,
    /// Has no effect: a forced call always follows the schema to the letter.
    #[serde(rename = "strict")]
    pub _strict: Option<bool>,
}

/// Whether the model has to use a tool.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
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
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct Thinking {
    /// `enabled`, `disabled`, or `adaptive` or `between_tools`, which leave it to the chat template.
    #[serde(rename = "type")]
    pub kind: ThinkingKind,
    /// Has no effect.
    #[serde(rename = "budget_tokens")]
    pub _budget_tokens: Option<u64>,
    /// Has no effect: thoughts are always shown.
    #[serde(rename = "display")]
    pub _display: Option<Unused>,
}

/// Whether the model is to reason first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ThinkingKind {
    Enabled,
    Disabled,
    Adaptive,
    BetweenTools,
}

impl ThinkingKind {
    /// What the chat template is told; `None`: nothing.
    pub fn enabled(self) -> Option<bool> {
        match self {
            Self::Enabled => Some(true),
            Self::Disabled => Some(false),
            Self::Adaptive | Self::BetweenTools => None,
        }
    }
}

/// What an answer has to look like.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct OutputConfig {
    pub format: Option<OutputFormat>,
    /// Given to the chat template as `reasoning_effort`.
    pub effort: Option<String>,
}

/// What the text of an answer has to look like.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
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
    /// 0: beginnings are kept without being told to.
    pub cache_creation_input_tokens: usize,
}

/// How long a conversation is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenCount {
    pub input_tokens: usize,
}

impl From<&End> for OutputUsage {
    fn from(end: &End) -> Self {
        let cached = end.timings.cached_tokens;
        Self {
            input_tokens: end.timings.prompt_tokens - cached,
            output_tokens: end.timings.decode_tokens,
            cache_read_input_tokens: cached,
            cache_creation_input_tokens: 0,
        }
    }
}
