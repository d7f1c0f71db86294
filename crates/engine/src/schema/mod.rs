//! JSON schemas as grammars.
//!
//! A schema (JSON Schema drafts 4 to 2020-12, <https://json-schema.org/specification>) becomes text in
//! llguidance's variant of Lark. Whatever the grammar lets through is valid; some ways to write a
//! valid value are left out, which costs an answer nothing:
//!
//! * properties come in the order of the schema, each name once; further names after them;
//! * numbers with bounds have no exponent, integers no fraction, `const` and `enum` the shortest form;
//! * characters of strings are escaped only where JSON asks for it, `/` never.
//!
//! A keyword is enforced, an annotation, or refused with its place. `docs/schemas.md` has the table.
//!
//! How it works: what a value must satisfy is a set of schemas, each as it is or negated
//! ([`read::Conj`]). Such a set is read into alternatives, one for each type, whose parts are sets again,
//! so recursion through `$ref`, `allOf`, `not` and their likes ends by itself: there are only so many
//! sets ([`read`], [`emit`]).

mod alternatives;
mod document;
mod emit;
mod format;
mod list;
mod number;
mod pattern;
mod read;
mod read_not;
mod record;
mod rules;
mod uri;

use serde_json::Value;

/// Why a schema cannot be followed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("schema at {}: {}", cut(place, 120), cut(problem, 200))]
pub(crate) struct Refusal {
    /// A JSON pointer to the schema, as a fragment.
    place: String,
    /// Names the keyword.
    problem: String,
}

/// A text in an error: it is the client's, who may have written much.
pub(crate) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// What may stand between the parts of a value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Whitespace {
    /// Nothing.
    None,
    /// What this regular expression matches, once.
    Pattern(String),
}

/// Lark text whose rule `start` matches the values that a schema accepts.
///
/// # Errors
/// If the schema is malformed, too large, says what a grammar cannot, or accepts nothing.
pub(crate) fn lark(schema: &Value, whitespace: &Whitespace) -> Result<String, Refusal> {
    let mut whitespace = whitespace.clone();
    // llguidance's own way to say how JSON is laid out.
    if let Some(options) = schema.get("x-guidance").and_then(Value::as_object) {
        for (name, value) in options {
            match (name.as_str(), value) {
                ("whitespace_flexible", Value::Bool(true)) => {}
                ("whitespace_flexible", Value::Bool(false)) => whitespace = Whitespace::None,
                ("whitespace_pattern", Value::String(pattern)) => {
                    if let Some(problem) = pattern::malformed(pattern) {
                        let problem = format!("x-guidance: whitespace_pattern: {problem}");
                        return Err(Refusal { place: "#".into(), problem });
                    }
                    whitespace = Whitespace::Pattern(pattern.clone());
                }
                _ => {
                    let (name, value) = (cut(name, 40), read::shown(value));
                    let problem = format!(
                        "x-guidance has {name}: {value}, expected whitespace_flexible or whitespace_pattern"
                    );
                    return Err(Refusal { place: "#".into(), problem });
                }
            }
        }
    }
    emit::grammar(schema, &whitespace)
}

/// Whether a format is more than an annotation.
#[cfg(test)]
pub(crate) fn enforces_format(name: &str) -> bool {
    format::expression(name).is_some()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod costs;
