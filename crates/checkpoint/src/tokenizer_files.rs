//! Where chat templates hide, and the names of special tokens.

use std::path::Path;

use serde_json::{Map, Value};

use crate::Error;
use crate::files::Files;
use crate::gguf::Metadata;

/// What the template without a name is called.
pub(crate) const DEFAULT: &str = "default";

/// Names of templates that may be files of their own (huggingface/transformers `src/transformers/utils/hub.py`,
/// `list_repo_templates`): those that a model chooses by itself.
const SEPARATE: [&str; 2] = ["tool_use", "rag"];

/// The settings of a folder's tokenizer.
pub(crate) const CONFIG: &str = "tokenizer_config.json";

/// Their special tokens, as transformers once wrote them apart.
const SPECIAL: &str = "special_tokens_map.json";

/// `tokenizer_config.json` of a folder, as transformers reads it: where it has no `added_tokens_decoder`, the
/// special tokens of `special_tokens_map.json` prevail (huggingface/transformers
/// `src/transformers/tokenization_utils_base.py`, `_from_pretrained`).
pub(crate) fn tokenizer_config(files: &dyn Files) -> Result<Option<Value>, Error> {
    let config = files.json(CONFIG)?;
    let decoder = config.as_ref().and_then(|config| config.get("added_tokens_decoder"));
    let Some(special) = (if decoder.is_none() { files.json(SPECIAL)? } else { None }) else {
        return Ok(config);
    };
    let mut fields = match config {
        None => Map::new(),
        Some(Value::Object(fields)) => fields,
        other => return Ok(other),
    };
    let Value::Object(special) = special else {
        return Err(Error::file(&files.path().join(SPECIAL), "is no JSON object"));
    };
    for (name, value) in special {
        // Two lists of further tokens are one, their own first.
        match (fields.get_mut(&name), value) {
            (Some(Value::Array(list)), Value::Array(more)) => {
                let new: Vec<_> = more.into_iter().filter(|token| !list.contains(token)).collect();
                list.extend(new);
            }
            (_, value) => {
                fields.insert(name, value);
            }
        }
    }
    Ok(Some(Value::Object(fields)))
}

/// The chat templates of a folder with their names: `chat_template.jinja` and
/// `additional_chat_templates/NAME.jinja`, else `chat_template.json`, else `chat_template` in
/// `tokenizer_config.json`. The last two have a text or a list of `{name, template}`.
pub(crate) fn chat_templates(
    files: &dyn Files,
    tokenizer_config: Option<&Value>,
) -> Result<Vec<(String, String)>, Error> {
    let mut found = Vec::new();
    let separate = SEPARATE.map(|name| (name, format!("additional_chat_templates/{name}.jinja")));
    for (name, file) in [(DEFAULT, "chat_template.jinja".to_owned())].into_iter().chain(separate) {
        if let Some(bytes) = files.open(&file)? {
            let text = std::str::from_utf8(&bytes);
            let text = text.map_err(|_| Error::file(&files.path().join(&file), "is not UTF-8"))?;
            found.push((name.to_owned(), text.to_owned()));
        }
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let json = "chat_template.json";
    if let Some(value) = files.json(json)? {
        return templates_of(&value, &files.path().join(json));
    }
    match tokenizer_config {
        Some(config) => templates_of(config, &files.path().join("tokenizer_config.json")),
        None => Ok(found),
    }
}

fn templates_of(value: &Value, path: &Path) -> Result<Vec<(String, String)>, Error> {
    let field = "chat_template";
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match value.get(field) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(template)) => Ok(vec![(DEFAULT.to_owned(), template.clone())]),
        Some(Value::Array(templates)) => {
            let pair = |of: &Value| Some((text(of.get("name")?)?, text(of.get("template")?)?));
            let found: Option<Vec<_>> = templates.iter().map(pair).collect();
            match found {
                Some(found) if !found.is_empty() => Ok(found),
                _ => Err(Error::field(
                    path,
                    field,
                    "has no template named 'default' (expected a text or a list of {name, template})",
                )),
            }
        }
        Some(_) => Err(Error::field(path, field, "is neither a text nor a list of templates")),
    }
}

/// The chat templates of a GGUF file: `tokenizer.chat_template`, and those with `.NAME` behind that.
pub(crate) fn gguf_chat_templates(metadata: &Metadata) -> Result<Vec<(String, String)>, Error> {
    let key = "tokenizer.chat_template";
    let mut found = Vec::new();
    if let Some(template) = metadata.string(key)? {
        found.push((DEFAULT.to_owned(), template.to_owned()));
    }
    for (other, _) in metadata.iter() {
        let name = other.strip_prefix(key).and_then(|rest| rest.strip_prefix('.'));
        if let Some(name) = name
            && let Some(template) = metadata.string(other)?
        {
            found.push((name.to_owned(), template.to_owned()));
        }
    }
    Ok(found)
}
