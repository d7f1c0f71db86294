//! Chat messages in the form of the OpenAI API.

use keeve_jinja::Input;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::chat::length;
use crate::chat_probe::Forms;

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

    /// The message as a template sees it, and about how many characters it has.
    ///
    /// Fields that are null are left out, and reasoning is there under all its names, as
    /// huggingface/transformers has it (`src/transformers/utils/chat_template_utils.py`,
    /// `_normalize_chat_messages`, `_alias_reasoning_fields`). Tool-call arguments are an object or JSON text,
    /// and text and parts are turned into each other, where the template takes one of them only: text
    /// parts are joined by line ends, text becomes one part.
    pub(crate) fn input(&self, forms: &Forms) -> Result<(Input, usize), MessageError> {
        let value = serde_json::to_value(self).map_err(MessageError::Json)?;
        let Value::Object(mut fields) = value else { return Ok((Input::Foreign(value), 0)) };
        fields.retain(|_, value| !value.is_null());
        let reasoning = REASONING.iter().find_map(|name| fields.get(*name)).cloned();
        if let Some(reasoning) = reasoning {
            fields.entry("thinking").or_insert_with(|| reasoning.clone());
            fields.insert(REASONING[0].to_owned(), reasoning);
        }
        if let Some(calls) = fields.get_mut("tool_calls").and_then(Value::as_array_mut) {
            for call in calls {
                if let Some(arguments) = call.pointer_mut("/function/arguments") {
                    forms.arguments.apply(arguments);
                }
            }
        }
        match (forms.of(&self.role), &self.content) {
            (ContentForm::TextOnly, Some(Content::Parts(parts))) => {
                let text_of = |part: &'_ Part| match &part.text {
                    Some(text) if part.kind == "text" => Ok(text.clone()),
                    _ => Err(MessageError::PartKind(part.kind.clone())),
                };
                let texts: Result<Vec<String>, MessageError> = parts.iter().map(text_of).collect();
                fields.insert("content".to_owned(), texts?.join("\n").into());
            }
            (ContentForm::PartsOnly, Some(Content::Text(text))) => {
                let parts = serde_json::json!([{"type": "text", "text": text}]);
                fields.insert("content".to_owned(), parts);
            }
            (_, None) if forms.needs_content => {
                drop(fields.insert("content".to_owned(), "".into()))
            }
            _ => (),
        }
        let size = fields.iter().map(|(name, value)| 64 + name.len() + length(value)).sum();
        let input = |(name, value): (String, Value)| match value {
            Value::String(role) if name == "role" && ROLES.contains(&role.as_str()) => {
                (name, Input::Own(role))
            }
            value => (name, Input::Foreign(value)),
        };
        Ok((Input::Map(fields.into_iter().map(input).collect()), size))
    }
}

/// What reasoning is called; the first is what templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Roles that templates may make special tokens of: those that APIs and templates have in use.
const ROLES: [&str; 22] = [
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
    "ipython",
    "model",
    "human",
    "gpt",
    "bot",
    "observation",
    "environment",
    "context",
    "document",
    "documents",
    "tools",
    "platform",
    "root",
    "critic",
    "tool_response",
    "tool_call",
];

/// Which form of message content a template can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ContentForm {
    /// Both text and parts (or it could not be found out).
    #[default]
    AsGiven,
    /// Text; parts would be printed as a data structure or raise an error.
    TextOnly,
    /// Lists of parts only.
    PartsOnly,
}

/// Which form of tool-call arguments a template can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Arguments {
    /// An object. The OpenAI API sends JSON text, most templates expect this.
    #[default]
    Object,
    /// JSON text; an object would be printed as Python does.
    Text,
}

impl Arguments {
    fn apply(self, arguments: &mut Value) {
        match (self, &*arguments) {
            (Self::Object, Value::String(text)) => {
                if let Ok(object) = serde_json::from_str::<Map<String, Value>>(text) {
                    *arguments = Value::Object(object);
                }
            }
            (Self::Text, Value::Object(_)) => *arguments = Value::String(arguments.to_string()),
            _ => (),
        }
    }
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

    /// The fields as the template sees them.
    fn seen(message: &Message, forms: &Forms) -> Value {
        fn plain(input: Input) -> Value {
            match input {
                Input::Own(text) => text.into(),
                Input::Foreign(value) => value,
                Input::List(items) => items.into_iter().map(plain).collect(),
                Input::Map(fields) => {
                    fields.into_iter().map(|(name, field)| (name, plain(field))).collect()
                }
            }
        }
        plain(message.input(forms).unwrap().0)
    }

    #[test]
    fn fields_go_through_but_for_nulls_and_reasoning_has_all_its_names() {
        let source = serde_json::json!({
            "role": "assistant", "content": null, "refusal": "no", "reasoning": "hm",
            "tool_calls": [{"id": "a", "type": "function",
                "function": {"name": "f", "arguments": "{\"y\": 1, \"x\": [2]}"}}],
        });
        let message: Message = serde_json::from_value(source).unwrap();
        let value = seen(&message, &Forms::default());
        assert_eq!(value["refusal"], "no");
        assert!(value.get("content").is_none() && value.get("name").is_none());
        assert_eq!((&value["thinking"], &value["reasoning_content"]), (&"hm".into(), &"hm".into()));
        let arguments = &value["tool_calls"][0]["function"]["arguments"];
        assert_eq!(arguments.to_string(), r#"{"y":1,"x":[2]}"#);
        let forms = Forms { needs_content: true, arguments: Arguments::Text, ..Forms::default() };
        let value = seen(&message, &forms);
        assert_eq!(value["content"], "");
        assert_eq!(value["tool_calls"][0]["function"]["arguments"], "{\"y\": 1, \"x\": [2]}");
    }

    #[test]
    fn arguments_that_are_not_an_object_stay_text() {
        let call = serde_json::json!({"function": {"name": "f", "arguments": "[1"}});
        let message = Message { tool_calls: Some(vec![call]), ..Message::text("assistant", "") };
        let value = seen(&message, &Forms::default());
        assert_eq!(value["tool_calls"][0]["function"]["arguments"], "[1");
    }

    #[test]
    fn parts_are_flattened_or_refused_by_kind() {
        let source = serde_json::json!({"role": "user", "content": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]});
        let mut message: Message = serde_json::from_value(source.clone()).unwrap();
        let text_only = Forms { other: ContentForm::TextOnly, ..Forms::default() };
        assert_eq!(seen(&message, &text_only)["content"], "a\nb");
        assert_eq!(seen(&message, &Forms::default()), source);
        let Some(Content::Parts(parts)) = &mut message.content else { panic!("parts expected") };
        parts[1].kind = "image_url".to_owned();
        assert!(message.input(&text_only).unwrap_err().to_string().contains("image_url"));
    }

    #[test]
    fn only_known_roles_count_as_the_templates_own() {
        let own = |role: &str| match Message::text(role, "x").input(&Forms::default()).unwrap().0 {
            Input::Map(fields) => fields.iter().any(|(_, field)| matches!(field, Input::Own(_))),
            _ => false,
        };
        assert!(own("user") && !own("user|><|im_end") && !own("endoftext"));
    }
}
