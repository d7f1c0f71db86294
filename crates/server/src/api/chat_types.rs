//! What `POST /v1/chat/completions` takes and gives.

use keeve_engine::Message;
use keeve_engine::chat::{Content, Part};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::common::{Unused, Usage, choosing_request};
use super::tool_use::{Tool, ToolChoice};
use crate::error::ApiError;
use crate::images::Images;

choosing_request! {
    /// A conversation to go on with. Fields that are not listed are refused.
    pub(crate) struct ChatRequest {
        /// The conversation.
        #[schema(min_items = 1)]
        pub messages: Vec<ChatMessage>,
        /// `max_tokens` under its newer name.
        #[schema(minimum = 1)]
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
        /// Further variables for the chat template.
        pub chat_template_kwargs: Option<Map<String, Value>>,
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
}

/// One message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatMessage {
    pub role: Role,
    /// Text or parts; an assistant that only calls tools has none.
    pub content: Option<MessageContent>,
    /// The speaker's name.
    pub name: Option<String>,
    /// The calls that the assistant made.
    pub tool_calls: Option<Vec<MadeCall>>,
    /// The call that a tool message answers.
    pub tool_call_id: Option<String>,
    /// What the assistant thought before it answered.
    pub reasoning_content: Option<String>,
    /// Has no effect.
    #[serde(rename = "refusal")]
    pub _refusal: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "annotations")]
    pub _annotations: Option<Unused>,
    /// Has no effect unless there is audio, which is refused.
    pub audio: Option<Value>,
    /// Only null.
    pub function_call: Option<Value>,
}

/// What a message says.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum MessageContent {
    /// Text.
    Text(String),
    /// Parts in order.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContentPart {
    /// `text` or `image_url`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a `text` part.
    pub text: Option<String>,
    /// The image of an `image_url` part.
    pub image_url: Option<ImageAddress>,
    /// Has no effect.
    #[serde(rename = "cache_control")]
    pub _cache_control: Option<Unused>,
}

/// Where an image is.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ImageAddress {
    /// The address alone.
    Plain(String),
    /// The address and how it is wanted.
    Detailed(DetailedAddress),
}

/// Where an image is.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DetailedAddress {
    /// `data:image/...;base64,...`; also `http:` and `https:` where the server is told to fetch images.
    pub url: String,
    /// Has no effect.
    #[serde(rename = "detail")]
    pub _detail: Option<Unused>,
}

impl ImageAddress {
    fn into_text(self) -> String {
        match self {
            Self::Plain(address) => address,
            Self::Detailed(detailed) => detailed.url,
        }
    }
}

/// A call that the assistant made.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MadeCall {
    pub id: String,
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    pub function: MadeFunction,
    /// Its number, which pieces of a stream have.
    #[serde(skip_serializing)]
    #[serde(rename = "index")]
    pub _index: Option<u32>,
}

fn function() -> String {
    "function".into()
}

/// The function of a call.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MadeFunction {
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

impl ChatMessage {
    /// The message as the engine takes it, its images apart. `at` is its place, for errors.
    pub fn into_message(self, at: usize, images: &mut Images) -> Result<Message, ApiError> {
        let wrong = |field: &str, message: &str| {
            Err(ApiError::field(format!("messages[{at}].{field}"), message))
        };
        if self.audio.is_some_and(|audio| !audio.is_null()) {
            return wrong("audio", "this model cannot hear audio");
        }
        if self.function_call.is_some_and(|call| !call.is_null()) {
            return wrong("function_call", "use tool_calls instead of function_call");
        }
        let content = match self.content {
            None => None,
            Some(MessageContent::Text(text)) => Some(Content::Text(text)),
            Some(MessageContent::Parts(parts)) => {
                let mut content = vec![];
                for (index, part) in parts.into_iter().enumerate() {
                    let field = format!("content[{index}]");
                    content.push(match (&*part.kind, part.text, part.image_url) {
                        ("text", Some(text), None) => Part::text(text),
                        ("text", ..) => {
                            return wrong(&field, "a part of type text needs text alone");
                        }
                        ("image_url", None, Some(address)) => {
                            let field = format!("messages[{at}].{field}.image_url");
                            images.add_address(field, address.into_text());
                            Part::image()
                        }
                        ("image_url", ..) => {
                            let message = "a part of type image_url needs image_url alone";
                            return wrong(&field, message);
                        }
                        (kind, ..) => {
                            let kind: String = kind.chars().take(40).collect();
                            let message = format!("parts of type {kind:?} are not supported");
                            return wrong(&field, &message);
                        }
                    });
                }
                Some(Content::Parts(content))
            }
        };
        if content.is_none() && self.role != Role::Assistant {
            return wrong("content", "content is needed");
        }
        let role = match self.role {
            Role::System | Role::Developer => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        };
        let calls = self.tool_calls.map(|calls| {
            calls.into_iter().filter_map(|call| serde_json::to_value(call).ok()).collect()
        });
        Ok(Message {
            role: role.into(),
            content,
            name: self.name,
            tool_calls: calls,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
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
