//! The template language as huggingface/transformers sets it up.
//!
//! Source: `src/transformers/utils/chat_template_utils.py` there, `_compile_jinja_template`.

use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

use crate::chat_json::{JsonStyle, to_json};

/// Deepest nesting of macro calls and the like.
const MAX_RECURSION: usize = 200;

/// `raise_exception`'s message, carried through the template engine's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RaisedMessage(pub(crate) String);

/// The template language as transformers sets it up.
pub(crate) fn environment(max_steps: u64) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(max_steps));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    // Quadratic in the nesting depth, and of no use in a prompt.
    environment.remove_filter("pprint");
    environment.add_filter("tojson", tojson);
    // Templates ask this of variables that may be none (Qwen3-Coder's, `tools is iterable`).
    environment.add_test("iterable", |value: &Value| value.is_undefined() || is_collection(value));
    environment.add_test("sequence", |value: &Value| value.is_undefined() || is_collection(value));
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_function("raise_exception", |message: &str| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception")
            .with_source(RaisedMessage(message.to_owned())))
    });
    Ok(environment)
}

/// Texts, lists and maps: what Python iterates over.
fn is_collection(value: &Value) -> bool {
    use minijinja::value::ValueKind as Kind;
    matches!(value.kind(), Kind::String | Kind::Seq | Kind::Map | Kind::Iterable)
}

/// The `length` filter; what is undefined has none.
fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    let problem = || format!("cannot calculate length of value of type {}", value.kind());
    value.len().ok_or_else(|| Error::new(ErrorKind::InvalidOperation, problem()))
}

/// The `tojson` filter with the arguments of transformers' version.
fn tojson(value: &Value, arguments: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = arguments.get("indent")?;
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    let ensure_ascii: Option<bool> = arguments.get("ensure_ascii")?;
    let sort_keys: Option<bool> = arguments.get("sort_keys")?;
    arguments.assert_all_used()?;
    let invalid = |what: &'static str| Error::new(ErrorKind::InvalidOperation, what);
    let indent = match indent {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => match (value.as_str(), value.as_i64()) {
            (Some(text), _) if text.len() <= 64 => Some(text.to_owned()),
            (_, Some(count @ ..=64)) => Some(" ".repeat(usize::try_from(count).unwrap_or(0))),
            _ => return Err(invalid("tojson: indent must be at most 64 characters")),
        },
    };
    let (item_separator, key_separator) = match separators.as_deref() {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(invalid("tojson: separators must be a pair")),
    };
    let style = JsonStyle {
        indent,
        item_separator,
        key_separator,
        ensure_ascii: ensure_ascii.unwrap_or(false),
        sort_keys: sort_keys.unwrap_or(false),
    };
    to_json(value, &style)
}

/// Local time as `format` asks for it.
pub(crate) fn strftime_now(now: Option<DateTime>, format: &str) -> Result<String, Error> {
    let now = now.unwrap_or_else(|| jiff::Zoned::now().datetime());
    jiff::fmt::strtime::format(format, now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// Turns `{% generation %}` and `{% endgeneration %}` into tags of the plain language.
///
/// They become an `if` that is always taken, which keeps their white-space control.
pub(crate) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let start = tag.len() - tag.trim_start_matches(['-', '+']).trim_start().len();
        for (word, plain) in [("generation", "if true"), ("endgeneration", "endif")] {
            let Some(after) = tag[start..].strip_prefix(word) else { continue };
            if after.trim_start().trim_start_matches(['-', '+']).starts_with("%}") {
                out.push_str(&tag[..start]);
                out.push_str(plain);
                rest = after;
                break;
            }
        }
    }
    out.push_str(rest);
    out
}
