//! Chat messages in the form of the OpenAI API.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation. Fields not named here go through to the template unchanged.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// The text, or a list of parts; absent or null for an assistant that only calls tools.
    #[serde(default)]
    pub content: Option<Content>,
    /// Name of the speaker or tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Tool calls the assistant made, as objects with `id`, `type` and `function`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// The call a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What the assistant thought before its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Every other field.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Text, images and other parts, in order.
    Parts(Vec<Part>),
}

/// One part of a message: `{"type": "text", "text": ...}`, `{"type": "image"}` and so on. Images
/// themselves are given to the engine beside the prompt, in the order of their parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// What the part is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a `text` part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Every other field, such as `image_url`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Part {
    /// A piece of text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { kind: "text".to_owned(), text: Some(text.into()), other: Map::new() }
    }

    /// The place of an image.
    pub fn image() -> Self {
        Self { kind: IMAGE.to_owned(), text: None, other: Map::new() }
    }
}

/// What templates call the part that is an image (huggingface/transformers,
/// `docs/source/en/chat_templating_multimodal.md`).
const IMAGE: &str = "image";

impl Message {
    /// A message of parts.
    pub fn parts(role: impl Into<String>, parts: Vec<Part>) -> Self {
        Self { role: role.into(), content: Some(Content::Parts(parts)), ..Self::default() }
    }

    /// How many images the message has.
    pub fn images(&self) -> usize {
        match &self.content {
            Some(Content::Parts(parts)) => parts.iter().filter(|part| part.kind == IMAGE).count(),
            _ => 0,
        }
    }

    /// A message of plain text.
    pub fn text(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(Content::Text(text.into())), ..Self::default() }
    }

    /// The message as a template sees it.
    ///
    /// Tool-call arguments that are JSON text of an object become that object: the OpenAI API sends
    /// text, templates written for Hugging Face transformers expect the object. Text and parts are
    /// turned into each other where the template takes one of them only: text parts are joined by
    /// line ends, text becomes one part.
    pub(crate) fn to_value(&self, form: ContentForm) -> Result<Value, MessageError> {
        let mut value = serde_json::to_value(self).map_err(MessageError::Json)?;
        if let Some(calls) = value.get_mut("tool_calls").and_then(Value::as_array_mut) {
            for call in calls {
                let Some(function) = call.get_mut("function") else { continue };
                let Some(Value::String(text)) = function.get("arguments") else { continue };
                if let Ok(object) = serde_json::from_str::<Map<String, Value>>(text) {
                    function["arguments"] = Value::Object(object);
                }
            }
        }
        match (form, &self.content) {
            (ContentForm::TextOnly, Some(Content::Parts(parts))) => {
                let text_of = |part: &'_ Part| match &part.text {
                    Some(text) if part.kind == "text" => Ok(text.clone()),
                    _ => Err(MessageError::PartKind(part.kind.clone())),
                };
                let texts: Result<Vec<String>, MessageError> = parts.iter().map(text_of).collect();
                value["content"] = Value::String(texts?.join("\n"));
            }
            (ContentForm::PartsOnly, Some(Content::Text(text))) => {
                value["content"] = serde_json::json!([{"type": "text", "text": text}]);
            }
            _ => (),
        }
        Ok(value)
    }
}

/// Which form of message content a template can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentForm {
    /// Both text and parts (or it could not be found out).
    AsGiven,
    /// Text; parts would be printed as a data structure or raise an error.
    TextOnly,
    /// Lists of parts only.
    PartsOnly,
}

/// Why a message cannot be given to a template.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The message has no JSON form.
    #[error("message cannot be written as JSON: {0}")]
    Json(serde_json::Error),
    /// The template takes text only.
    #[error(
        "content part of type {0:?} is not supported by this model's chat template (expected text)"
    )]
    PartKind(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openai_messages_keep_their_unknown_fields() {
        let source = serde_json::json!({
            "role": "assistant", "content": null, "refusal": "no", "reasoning_content": "hm",
            "tool_calls": [{"id": "a", "type": "function",
                "function": {"name": "f", "arguments": "{\"y\": 1, \"x\": [2]}"}}],
        });
        let message: Message = serde_json::from_value(source).unwrap();
        let value = message.to_value(ContentForm::AsGiven).unwrap();
        assert_eq!(value["refusal"], "no");
        assert_eq!(value["content"], Value::Null);
        assert_eq!(
            value["tool_calls"][0]["function"]["arguments"].to_string(),
            r#"{"y":1,"x":[2]}"#
        );
    }

    #[test]
    fn arguments_that_are_not_an_object_stay_text() {
        let call = serde_json::json!({"function": {"name": "f", "arguments": "[1"}});
        let message = Message { tool_calls: Some(vec![call]), ..Message::text("assistant", "") };
        assert_eq!(
            message.to_value(ContentForm::AsGiven).unwrap()["tool_calls"][0]["function"]["arguments"],
            "[1"
        );
    }

    #[test]
    fn parts_are_flattened_or_refused_by_kind() {
        let source = serde_json::json!({"role": "user", "content": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
        let mut message: Message = serde_json::from_value(source.clone()).unwrap();
        assert_eq!(message.to_value(ContentForm::TextOnly).unwrap()["content"], "a\nb");
        assert_eq!(message.to_value(ContentForm::AsGiven).unwrap(), source);
        let Some(Content::Parts(parts)) = &mut message.content else { panic!("parts expected") };
        parts[1].kind = "image_url".to_owned();
        assert!(
            message.to_value(ContentForm::TextOnly).unwrap_err().to_string().contains("image_url")
        );
    }
}
