//! Tools: what the model is told about them, and what its answer must then look like.

use std::fmt::Write;

use keeve_engine::Message;
use keeve_engine::chat::Content;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::parse::{AnswerStyle, CallIds, HERMES, Notation, ToolList, forced, write_calls};

/// A tool that the model may call. Clients put marks of their own beside and into it, which are left alone.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct Tool {
    /// `function`
    #[serde(rename = "type")]
    pub _kind: ToolKind,
    pub function: ToolFunction,
}

/// The kind of a tool.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ToolKind {
    Function,
}

/// A function.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct ToolFunction {
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
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ToolChoice {
    /// `auto`, `none` or `required`.
    Mode(ToolMode),
    /// One tool, which must be called.
    Named(NamedTool),
}

/// Whether the model has to call a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ToolMode {
    /// As it likes.
    Auto,
    /// It must not.
    None,
    /// It must call one at least.
    Required,
}

/// The tool that must be called.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedTool {
    /// `function`
    #[serde(rename = "type")]
    pub _kind: ToolKind,
    pub function: NamedFunction,
}

/// The function that must be called.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedFunction {
    pub name: String,
}

/// Tools of a request, most of all whether one must be called.
#[derive(Debug, Clone, Default)]
pub(crate) struct ToolUse {
    pub tools: Vec<ToolFunction>,
    /// One of these must be called.
    pub forced: Option<Vec<usize>>,
    pub several: bool,
}

/// The most tools of a request.
const MOST_TOOLS: usize = 128;

impl ToolUse {
    /// What a request says about tools.
    pub fn new(
        tools: Vec<ToolFunction>,
        choice: Option<ToolChoice>,
        several: Option<bool>,
    ) -> Result<Self, ApiError> {
        if tools.len() > MOST_TOOLS {
            let message =
                format!("there are {} tools (expected at most {MOST_TOOLS})", tools.len());
            return Err(ApiError::field("tools", message));
        }
        for (index, tool) in tools.iter().enumerate() {
            if tool.name.is_empty() || tool.name.len() > 128 {
                let message = "a tool's name has 1 to 128 bytes";
                return Err(ApiError::field(format!("tools[{index}].function.name"), message));
            }
        }
        let all = (0..tools.len()).collect();
        let forced = match choice {
            None | Some(ToolChoice::Mode(ToolMode::Auto)) => None,
            Some(ToolChoice::Mode(ToolMode::None)) => return Ok(Self::default()),
            Some(ToolChoice::Mode(ToolMode::Required)) => Some(all),
            Some(ToolChoice::Named(named)) => {
                let name = named.function.name;
                match tools.iter().position(|tool| tool.name == name) {
                    Some(index) => Some(vec![index]),
                    None => {
                        let message = "tool_choice names a tool that is not among the tools";
                        return Err(ApiError::field("tool_choice", message));
                    }
                }
            }
        };
        if forced.is_some() && tools.is_empty() {
            return Err(ApiError::field("tool_choice", "tool_choice needs tools"));
        }
        Ok(Self { tools, forced, several: several.unwrap_or(true) })
    }

    /// The tools as chat templates expect them.
    pub fn for_template(&self) -> Option<Vec<Value>> {
        let one = |tool: &ToolFunction| {
            let parameters = tool.parameters.clone().map_or_else(no_parameters, Value::Object);
            let mut function = json!({ "name": tool.name });
            // What was not given is not there, as in transformers: templates print whole tools.
            if let Some(description) = &tool.description {
                function["description"] = json!(description);
            }
            function["parameters"] = parameters;
            json!({ "type": "function", "function": function })
        };
        (!self.tools.is_empty()).then(|| self.tools.iter().map(one).collect())
    }

    /// The rules of an answer that must call a tool, if it must; the first is `calls`.
    pub fn rules(&self, style: &AnswerStyle) -> Option<String> {
        let functions: Vec<_> = self
            .forced
            .as_ref()?
            .iter()
            .map(|&index| {
                let tool = &self.tools[index];
                let parameters = tool.parameters.clone().map_or_else(no_parameters, Value::Object);
                (tool.name.as_str(), parameters)
            })
            .collect();
        Some(forced(style, &functions, self.several))
    }

    /// The tools as parsers need them.
    pub fn list(&self) -> ToolList {
        let one = |tool: &ToolFunction| (tool.name.clone(), tool.parameters.clone());
        ToolList(self.tools.iter().map(one).collect())
    }

    /// Tells a model about tools whose chat template does not, and writes earlier calls and their
    /// results as text.
    pub fn write_into(&self, messages: &mut Vec<Message>) {
        for message in messages.iter_mut() {
            if message.role == "tool" {
                let text = plain(message.content.take());
                let text = format!("<tool_response>\n{text}\n</tool_response>");
                *message = Message::text("user", text);
            }
        }
        calls_as_text(messages, HERMES);
        let Some(tools) = self.for_template() else { return };
        let mut text = String::from("You can call these functions, given as JSON:\n");
        for tool in tools {
            let _ = writeln!(text, "{}", tool["function"]);
        }
        text.push_str(
            "To call one, answer with\n<tool_call>\n{\"name\": NAME, \"arguments\": OBJECT}\n</tool_call>",
        );
        match messages.first_mut().filter(|first| first.role == "system") {
            Some(first) => {
                let before = plain(first.content.take());
                first.content = Some(Content::Text(format!("{before}\n\n{text}")));
            }
            None => messages.insert(0, Message::text("system", text)),
        }
    }
}

/// Writes earlier calls as text, where a chat template would leave them out.
pub(crate) fn calls_as_text(messages: &mut [Message], notation: &Notation) {
    for message in messages {
        let Some(calls) = message.tool_calls.take() else { continue };
        let mut text = plain(message.content.take());
        let calls: Vec<_> = calls.iter().filter_map(named_call).collect();
        if !calls.is_empty() {
            let between = if text.is_empty() { "" } else { "\n" };
            let _ = write!(text, "{between}{}", write_calls(notation, &calls));
        }
        message.content = Some(Content::Text(text));
    }
}

/// A call's function and its arguments.
fn named_call(call: &Value) -> Option<(&str, Value)> {
    let function = call.get("function")?;
    let arguments = match function.get("arguments") {
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| json!({})),
        Some(value) => value.clone(),
        None => json!({}),
    };
    Some((function.get("name")?.as_str()?, arguments))
}

/// Gives calls of earlier turns identifiers that a chat template takes, results likewise. The client
/// may have got them from elsewhere.
pub(crate) fn fit_ids(messages: &mut [Message], ids: CallIds) {
    let mut count = 0;
    let mut known: Vec<(String, String)> = vec![];
    for message in messages {
        for call in message.tool_calls.iter_mut().flatten() {
            let name = call["function"]["name"].as_str().unwrap_or_default().to_owned();
            let Some(Value::String(id)) = call.get_mut("id") else { continue };
            let fitted = fitting(id, ids, &name, count);
            count += 1;
            known.push((std::mem::replace(id, fitted.clone()), fitted));
        }
        if let Some(id) = &mut message.tool_call_id {
            let call = known.iter().rev().find(|(given, _)| given == id);
            *id = call.map_or_else(|| fitting(id, ids, "", count), |(_, fitted)| fitted.clone());
        }
    }
}

/// An identifier as the template takes it, the same for the same.
fn fitting(id: &str, ids: CallIds, name: &str, count: usize) -> String {
    match ids {
        CallIds::Nine if id.len() != 9 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            // FNV-1a (Fowler, Noll, Vo): any mixing will do, as long as it stays what it is.
            let mix = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            let sum = id.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
            format!("{:09x}", sum >> 28)
        }
        CallIds::Qualified if !name.is_empty() && !id.starts_with("functions.") => {
            format!("functions.{name}:{count}")
        }
        _ => id.to_owned(),
    }
}

fn no_parameters() -> Value {
    json!({ "type": "object", "properties": {} })
}

fn plain(content: Option<Content>) -> String {
    match content {
        None => String::new(),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            parts.into_iter().filter_map(|part| part.text).collect::<Vec<_>>().join("\n")
        }
    }
}
