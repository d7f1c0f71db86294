//! What an answer has to look like.

use keeve_engine::Grammar;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::parse::{AnswerStyle, front};

/// What the answer has to look like.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ResponseFormat {
    /// Anything.
    Text {},
    /// A JSON object.
    JsonObject {},
    /// A JSON value of a schema.
    JsonSchema {
        /// The schema with its name.
        json_schema: NamedSchema,
    },
    /// Text of a regular expression.
    Regex {
        /// The expression, which matches the whole answer.
        regex: String,
    },
    /// Text of a grammar in llguidance's variant of Lark.
    Lark {
        /// The grammar.
        grammar: String,
    },
}

/// A JSON schema with its name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedSchema {
    /// Has no effect.
    #[serde(rename = "name")]
    pub _name: Option<String>,
    /// Has no effect.
    #[serde(rename = "description")]
    pub _description: Option<String>,
    /// The schema.
    pub schema: Option<Map<String, Value>>,
    /// Has no effect: a schema is always followed to the letter.
    #[serde(rename = "strict")]
    pub _strict: Option<bool>,
}

impl ResponseFormat {
    /// The grammar of the answer; `None` for any text.
    pub fn grammar(self) -> Option<Grammar> {
        match self {
            Self::Text {} => None,
            Self::JsonObject {} => Some(Grammar::JsonSchema(json!({ "type": "object" }))),
            Self::JsonSchema { json_schema } => Some(Grammar::JsonSchema(
                json_schema.schema.map_or_else(|| json!({ "type": "object" }), Value::Object),
            )),
            Self::Regex { regex } => Some(Grammar::Regex(regex)),
            Self::Lark { grammar } => Some(Grammar::Lark(grammar)),
        }
    }
}

/// What binds an answer.
pub(crate) enum Bound {
    /// Rules of tool calls, the first of which is `calls`.
    Calls(String),
    /// What the client asked for.
    Format(Grammar),
}

/// The grammar of an answer that may have to end its reasoning first (`begun`).
pub(crate) fn after_reasoning(bound: Bound, style: &AnswerStyle, begun: bool) -> Grammar {
    let calls = matches!(bound, Bound::Calls(_));
    let answer = match bound {
        Bound::Calls(rules) => Grammar::Lark(format!("start: calls\n{rules}")),
        Bound::Format(grammar) => grammar,
    };
    match front(style, begun, calls, calls) {
        None => answer,
        Some((front, rules)) => Grammar::After { front, rules, answer: Box::new(answer) },
    }
}
