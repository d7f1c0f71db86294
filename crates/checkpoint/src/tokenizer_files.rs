//! Where chat templates hide.

use std::path::Path;

use serde_json::Value;

use crate::Error;
use crate::files::Files;

/// The chat template of a folder: `chat_template.jinja`, else `chat_template.json`, else
/// `chat_template` in `tokenizer_config.json`, which is a text or a list of `{name, template}`.
pub(crate) fn chat_template(
    files: &dyn Files,
    tokenizer_config: Option<&Value>,
) -> Result<Option<String>, Error> {
    let jinja = "chat_template.jinja";
    if let Some(bytes) = files.open(jinja)? {
        let text = std::str::from_utf8(&bytes);
        let text = text.map_err(|_| Error::file(&files.path().join(jinja), "is not UTF-8"))?;
        return Ok(Some(text.into()));
    }
    let json = "chat_template.json";
    if let Some(value) = files.json(json)? {
        return template_of(&value, &files.path().join(json));
    }
    match tokenizer_config {
        Some(config) => template_of(config, &files.path().join("tokenizer_config.json")),
        None => Ok(None),
    }
}

fn template_of(value: &Value, path: &Path) -> Result<Option<String>, Error> {
    let field = "chat_template";
    match value.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(templates)) => {
            let default = templates
                .iter()
                .find(|template| template.get("name").is_some_and(|name| name == "default"));
            let text = default.and_then(|template| template.get("template"));
            match text.and_then(Value::as_str) {
                Some(text) => Ok(Some(text.into())),
                None => Err(Error::field(path, field, "has no template named 'default'")),
            }
        }
        Some(_) => Err(Error::field(path, field, "is neither a text nor a list of templates")),
    }
}
