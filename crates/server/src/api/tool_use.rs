//! Tools: what the model is told about them, and what its answer must then look like.

use std::fmt::Write;

use keeve_engine::chat::Content;
use keeve_engine::{Grammar, Message};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::parse::ToolStyle;

/// A tool that the model may call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields)]
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
            let description = tool.description.clone().unwrap_or_default();
            json!({ "type": "function", "function": {
                "name": tool.name, "description": description, "parameters": parameters } })
        };
        (!self.tools.is_empty()).then(|| self.tools.iter().map(one).collect())
    }

    /// The grammar of an answer that must call a tool. Its first line is `start: calls`.
    pub fn grammar(&self, style: ToolStyle) -> Option<Grammar> {
        let forced = self.forced.as_ref()?;
        let (open, close, between, arguments) = match style {
            ToolStyle::Tagged => ("<tool_call>\\n", "\\n</tool_call>", "\\n", "arguments"),
            ToolStyle::Bare => ("", "", "; ", "parameters"),
        };
        let quoted =
            |text: &str| if text.is_empty() { String::new() } else { format!("\"{text}\" ") };
        let mut rules = String::from("start: calls\n");
        let more = if self.several { format!(" (\"{between}\" call)*") } else { String::new() };
        // Writing to a String cannot fail.
        let _ = writeln!(rules, "calls: call{more}");
        let _ = writeln!(rules, "call: {}object {}", quoted(open), quoted(close));
        let objects: Vec<_> = forced.iter().map(|index| format!("object_{index}")).collect();
        let _ = writeln!(rules, "object: {}", objects.join(" | "));
        for &index in forced {
            let tool = &self.tools[index];
            let parameters = tool.parameters.clone().map_or_else(no_parameters, Value::Object);
            let schema = json!({
                "type": "object", "additionalProperties": false, "required": ["name", arguments],
                "properties": { "name": { "const": tool.name }, arguments: parameters },
                "x-guidance": { "whitespace_flexible": false },
            });
            let _ = writeln!(rules, "object_{index}: %json {schema}");
        }
        Some(Grammar::Lark(rules))
    }

    /// Tells a model about tools whose chat template does not, and writes earlier calls and their
    /// results as text.
    pub fn write_into(&self, messages: &mut Vec<Message>) {
        for message in messages.iter_mut() {
            if message.role == "tool" {
                let text = plain(message.content.take());
                let text = format!("<tool_response>\n{text}\n</tool_response>");
                *message = Message::text("user", text);
            } else if let Some(calls) = message.tool_calls.take() {
                let mut text = plain(message.content.take());
                for call in calls {
                    let function = &call["function"];
                    let arguments = function["arguments"].as_str().unwrap_or("{}");
                    let name = &function["name"];
                    let _ = write!(
                        text,
                        "\n<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>"
                    );
                }
                message.content = Some(Content::Text(text.trim_start().to_owned()));
            }
        }
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
