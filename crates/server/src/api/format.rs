//! What an answer has to look like.

use keeve_engine::Grammar;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::error::ApiError;

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

/// A grammar's rules as Lark text, whose first one is `body`, for use inside another grammar.
fn lark_body(grammar: &Grammar) -> Option<String> {
    match grammar {
        Grammar::JsonSchema(schema) => Some(format!("body: %json {schema}")),
        Grammar::Regex(regex) => Some(format!("body: /{}/", regex.replace('/', "\\/"))),
        Grammar::Lark(_) => None,
    }
}

/// The grammar of an answer that ends its reasoning first.
///
/// # Errors
/// If the grammar is one that cannot be made part of another.
pub(crate) fn after_reasoning(grammar: Grammar) -> Result<Grammar, ApiError> {
    let body = match &grammar {
        // Tool calls come as rules whose first one is `start`.
        Grammar::Lark(rules) => {
            rules.strip_prefix("start: calls\n").map(|rules| format!("body: calls\n{rules}"))
        }
        other => lark_body(other),
    };
    let Some(body) = body else {
        let message = "a Lark grammar cannot be combined with reasoning: turn thinking off";
        return Err(ApiError::field("response_format", message));
    };
    let reasoning = "reasoning[lazy]: /(.|\\n)*<\\/think>/";
    Ok(Grammar::Lark(format!("start: reasoning /\\n{{0,2}}/ body\n{reasoning}\n{body}\n")))
}
