//! What `POST /v1/responses` takes.

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::fields::{Given, TextOr, Unused, or_default};
use super::tool_use::ToolMode;

/// What to answer. Fields that are not listed are left alone, and named in the response's
/// `x-keeve-ignored`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ResponsesRequest {
    /// The model. May be left out where there is only one.
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub model: String,
    /// A question, or a conversation.
    pub input: TextOr<Vec<InputItem>>,
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
    /// `auto`, `none`, `required`, or the tool that must be called.
    pub tool_choice: Option<TextOr<ChosenTool>>,
    /// Whether an answer may have several tool calls.
    pub parallel_tool_calls: Option<bool>,
    pub text: Option<TextOptions>,
    /// Only false: nothing runs in the background.
    pub background: Option<bool>,
    /// Only null: nothing is stored.
    pub previous_response_id: Option<String>,
    /// `auto` or `disabled`, without effect: a conversation that is too long is refused, never cut.
    pub truncation: Option<String>,
    pub reasoning: Option<ReasoningOptions>,
    pub conversation: Option<Given>,
    pub prompt: Option<Given>,
    pub context_management: Option<Given>,
    pub moderation: Option<Given>,
    /// Only 0: log probabilities are those of `/v1/chat/completions`.
    pub top_logprobs: Option<Given>,
    /// What else the response is to have. Only `message.output_text.logprobs` could be had here, and is
    /// refused; the others have no effect.
    pub include: Option<Vec<String>>,
    /// Has no effect: no tool is called here.
    #[serde(rename = "max_tool_calls")]
    pub _max_tool_calls: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "stream_options")]
    pub _stream_options: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "background_options")]
    pub _background_options: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "prompt_cache_options")]
    pub _prompt_cache_options: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "prompt_cache_retention")]
    pub _prompt_cache_retention: Option<Unused>,
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

/// A message, a call that was made, or what it gave.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct InputItem {
    /// `message` (also if not given), `function_call`, `function_call_output` or `reasoning`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Of a message: `system`, `developer`, `user` or `assistant`.
    pub role: Option<String>,
    /// Of a message.
    pub content: Option<TextOr<Vec<ItemPart>>>,
    /// Of a call.
    pub call_id: Option<String>,
    /// Of a call.
    pub name: Option<String>,
    /// Of a call: JSON text.
    pub arguments: Option<String>,
    /// What a call gave.
    pub output: Option<TextOr<Vec<ItemPart>>>,
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

/// A part of a message.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ItemPart {
    /// `input_text`, `output_text`, `refusal` or `input_image`.
    #[serde(rename = "type")]
    pub kind: String,
    pub text: Option<String>,
    /// The text of a `refusal`.
    pub refusal: Option<String>,
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
pub(crate) struct ResponseTool {
    /// `function`
    #[serde(rename = "type")]
    pub kind: String,
    #[schema(min_length = 1, max_length = 128)]
    pub name: Option<String>,
    pub description: Option<String>,
    /// A JSON schema.
    pub parameters: Option<Map<String, Value>>,
    /// Has no effect.
    #[serde(rename = "strict")]
    pub _strict: Option<bool>,
}

/// The tool that must be called.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ChosenTool {
    /// `function`, or `allowed_tools`.
    #[serde(rename = "type")]
    pub kind: String,
    pub name: Option<String>,
    /// Of `allowed_tools`: `auto` or `required`.
    pub mode: Option<ToolMode>,
    /// Of `allowed_tools`: those that may be called.
    #[schema(no_recursion)]
    pub tools: Option<Vec<ChosenTool>>,
}

/// How the model is to reason.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ReasoningOptions {
    /// Given to the chat template as `reasoning_effort`; `none` also as `enable_thinking` false.
    pub effort: Option<String>,
    /// Has no effect: the reasoning itself is part of the response.
    #[serde(rename = "summary")]
    pub _summary: Option<Unused>,
    /// Has no effect.
    #[serde(rename = "generate_summary")]
    pub _generate_summary: Option<Unused>,
}

/// What the text of an answer has to look like.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct TextOptions {
    pub format: Option<TextFormat>,
    /// Given to the chat template.
    pub verbosity: Option<String>,
}

/// What the text of an answer has to look like.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
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
