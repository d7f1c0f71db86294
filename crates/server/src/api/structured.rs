//! What an answer has to look like, in all the fields that say so: OpenAI's `response_format`, vLLM's
//! `structured_outputs` and `guided_*` (vllm-project/vllm, `docs/features/structured_outputs.md`) and
//! llama.cpp's `json_schema` (ggml-org/llama.cpp, `tools/server/README.md`).

use keeve_engine::Grammar;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::fields::Given;
use super::format::ResponseFormat;
use crate::error::ApiError;

/// What an answer has to look like, as vLLM takes it: one of these.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub(crate) struct StructuredOutputs {
    /// A JSON schema, or its text.
    pub json: Option<Value>,
    /// Any JSON object.
    pub json_object: Option<bool>,
    /// A regular expression.
    pub regex: Option<String>,
    /// The answers to choose among.
    pub choice: Option<Vec<String>>,
    pub grammar: Option<Given>,
    pub structural_tag: Option<Given>,
    pub whitespace_pattern: Option<Given>,
}

/// The most answers to choose among.
const MOST_CHOICES: usize = 1024;

/// All fields of a request that say what its answer has to look like.
#[derive(Debug, Default)]
pub(crate) struct Forms {
    pub response_format: Option<ResponseFormat>,
    pub guided_json: Option<Value>,
    pub guided_regex: Option<String>,
    pub guided_choice: Option<Vec<String>>,
    pub structured_outputs: Option<StructuredOutputs>,
    pub json_schema: Option<Value>,
}

impl Forms {
    /// The grammar of the answer; `None` for any text.
    ///
    /// # Errors
    /// If two fields say what it is, or one makes no sense.
    pub fn grammar(self) -> Result<Option<Grammar>, ApiError> {
        let mut found: Option<(&str, Grammar)> = None;
        let mut add = |name: &'static str, grammar: Option<Grammar>| {
            let Some(grammar) = grammar else { return Ok(()) };
            if let Some((first, _)) = &found {
                let message = format!("{first} and {name} cannot both bind the answer");
                return Err(ApiError::field(name, message));
            }
            found = Some((name, grammar));
            Ok(())
        };
        add("response_format", self.response_format.and_then(ResponseFormat::grammar))?;
        add(
            "guided_json",
            self.guided_json.map(|given| schema("guided_json", given)).transpose()?,
        )?;
        add("guided_regex", self.guided_regex.map(Grammar::Regex))?;
        let list = self.guided_choice.map(|list| choice("guided_choice", &list));
        add("guided_choice", list.transpose()?)?;
        add(
            "json_schema",
            self.json_schema.map(|given| schema("json_schema", given)).transpose()?,
        )?;
        let Some(own) = self.structured_outputs else {
            return Ok(found.map(|(_, grammar)| grammar));
        };
        let json = own.json.map(|given| schema("structured_outputs.json", given)).transpose()?;
        add("structured_outputs.json", json)?;
        let any = (own.json_object == Some(true)).then(|| json!({ "type": "object" }));
        add("structured_outputs.json_object", any.map(Grammar::JsonSchema))?;
        add("structured_outputs.regex", own.regex.map(Grammar::Regex))?;
        let list = own.choice.map(|list| choice("structured_outputs.choice", &list));
        add("structured_outputs.choice", list.transpose()?)?;
        for (given, name) in [
            (own.grammar, "structured_outputs.grammar"),
            (own.structural_tag, "structured_outputs.structural_tag"),
            (own.whitespace_pattern, "structured_outputs.whitespace_pattern"),
        ] {
            let why = "response_format takes JSON schemas, expressions and Lark grammars";
            Given::refuse(given.as_ref(), f64::NAN, name, why)?;
        }
        Ok(found.map(|(_, grammar)| grammar))
    }
}

/// A JSON schema, which may be given as text.
pub(crate) fn schema(name: &str, given: Value) -> Result<Grammar, ApiError> {
    let schema = match given {
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|error| ApiError::field(name, format!("{name} is no JSON: {error}")))?,
        value => value,
    };
    match schema {
        Value::Object(_) | Value::Bool(true) => Ok(Grammar::JsonSchema(schema)),
        _ => Err(ApiError::field(name, format!("{name} is no JSON schema: expected an object"))),
    }
}

/// The expression that matches each of these texts.
fn choice(name: &str, list: &[String]) -> Result<Grammar, ApiError> {
    if list.is_empty() || list.len() > MOST_CHOICES {
        let message = format!("{name} has {} texts, expected 1 to {MOST_CHOICES}", list.len());
        return Err(ApiError::field(name, message));
    }
    let escaped = list.iter().map(|text| {
        let mut escaped = String::new();
        for character in text.chars() {
            if r"\.+*?()|[]{}^$#&-~".contains(character) {
                escaped.push('\\');
            }
            escaped.push(character);
        }
        escaped
    });
    Ok(Grammar::Regex(format!("({})", escaped.collect::<Vec<_>>().join("|"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grammar(forms: Forms) -> Result<Option<Grammar>, String> {
        forms.grammar().map_err(|error| error.param.unwrap_or_default())
    }

    #[test]
    fn one_field_binds_the_answer() {
        assert!(matches!(grammar(Forms::default()), Ok(None)));
        let text = Some(Value::from(r#"{"type": "object"}"#));
        let forms = || Forms { guided_json: text.clone(), ..Forms::default() };
        assert!(matches!(grammar(forms()), Ok(Some(Grammar::JsonSchema(Value::Object(_))))));
        let both = Forms { guided_regex: Some("a".into()), ..forms() };
        assert_eq!(grammar(both).unwrap_err(), "guided_regex");
        let twice = StructuredOutputs { regex: Some("a".into()), ..Default::default() };
        let both = Forms { structured_outputs: Some(twice), ..forms() };
        assert_eq!(grammar(both).unwrap_err(), "structured_outputs.regex");
        let wrong = Forms { guided_json: Some("{".into()), ..Forms::default() };
        assert_eq!(grammar(wrong).unwrap_err(), "guided_json");
    }

    #[test]
    fn choices_are_texts_and_no_expressions() {
        let list = vec!["a.b".to_owned(), "(c|/)".to_owned()];
        let forms = Forms { guided_choice: Some(list), ..Forms::default() };
        let Ok(Some(Grammar::Regex(regex))) = grammar(forms) else { panic!("expected a regex") };
        assert_eq!(regex, r"(a\.b|\(c\|/\))");
        assert!(grammar(Forms { guided_choice: Some(vec![]), ..Forms::default() }).is_err());
    }
}
