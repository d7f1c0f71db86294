//! Settings of a server as YAML: flags by their names, as in TOML, or the `config.yaml` of Cider's
//! `vlm_service` (`model_name_or_path`, `sampling`, `server` and `w8a8`), or both.

use serde_json::{Map, Value as Json};
use toml::{Table, Value};

/// Where a setting of `vlm_service` goes.
const PLACES: [(&str, &str, &str); 11] = [
    ("sampling", "max_new_tokens", "max-tokens"),
    ("sampling", "max_tokens", "max-tokens"),
    ("sampling", "temperature", "temp"),
    ("sampling", "top_p", "top-p"),
    ("sampling", "top_k", "top-k"),
    ("sampling", "min_p", "min-p"),
    ("sampling", "repetition_penalty", "repetition-penalty"),
    ("server", "host", "host"),
    ("server", "port", "port"),
    ("server", "ttl", "ttl"),
    ("w8a8", "mode", "activations"),
];

/// A YAML text as a table of flags.
///
/// # Errors
/// What is no YAML, and keys and values that are no settings, by their names.
pub fn settings(text: &str) -> Result<Table, String> {
    let document: Option<Map<String, Json>> = serde_saphyr::from_str(text)
        .map_err(|error| format!("is no YAML of settings: {}", first_line(&error.to_string())))?;
    let mut table = Table::new();
    for (key, value) in document.into_iter().flatten() {
        match (&*key, value) {
            (_, Json::Null) => {}
            ("model_name_or_path", value) => add(&mut table, "model", &key, value)?,
            ("ttl", value) => add_ttl(&mut table, &key, value)?,
            (group @ ("sampling" | "server" | "w8a8"), Json::Object(own)) => {
                for (name, value) in own {
                    let full = format!("{key}.{name}");
                    let place = PLACES.iter().find(|place| place.0 == group && place.1 == name);
                    match (place.map(|place| place.2), value) {
                        (None, _) => return Err(format!("there is no setting '{full}'")),
                        (Some(_), Json::Null) => {}
                        (Some("ttl"), value) => add_ttl(&mut table, &full, value)?,
                        (Some("activations"), value) => {
                            let mode = activations(&full, &value)?;
                            add(&mut table, "activations", &full, mode.into())?;
                        }
                        (Some(flag), value) => add(&mut table, flag, &full, value)?,
                    }
                }
            }
            ("sampling" | "server" | "w8a8", _) => {
                return Err(format!("'{key}' is no group of settings"));
            }
            (_, value) => add(&mut table, &key, &key, value)?,
        }
    }
    Ok(table)
}

/// How activations enter products, by Cider's W8A8 mode: `on` rounds them to 8 bits, `off` to none so few, `auto`
/// decides by codec and phase. (YAML 1.1 reads `on` and `off` as true and false.)
fn activations(name: &str, mode: &Json) -> Result<&'static str, String> {
    match mode {
        Json::String(text) if text == "auto" => Ok("auto"),
        Json::String(text) if text == "on" => Ok("int8"),
        Json::String(text) if text == "off" => Ok("bf16"),
        Json::Bool(true) => Ok("int8"),
        Json::Bool(false) => Ok("bf16"),
        other => Err(format!("{name} is {other}, expected auto, on or off")),
    }
}

/// A time to live; 0 is none.
fn add_ttl(table: &mut Table, name: &str, value: Json) -> Result<(), String> {
    match value.as_u64() {
        Some(0) => Ok(()),
        _ => add(table, "ttl", name, value),
    }
}

fn add(table: &mut Table, flag: &str, name: &str, value: Json) -> Result<(), String> {
    let value = toml(name, value)?;
    match table.insert(flag.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(format!("'{name}' is given twice, as '{flag}' too")),
    }
}

fn toml(name: &str, value: Json) -> Result<Value, String> {
    Ok(match value {
        Json::Bool(value) => Value::Boolean(value),
        Json::String(text) => Value::String(text),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::Integer(whole),
            (None, Some(broken)) => Value::Float(broken),
            (None, None) => return Err(format!("'{name}' is {number}, which is too large")),
        },
        Json::Array(list) => {
            Value::Array(list.into_iter().map(|value| toml(name, value)).collect::<Result<_, _>>()?)
        }
        Json::Object(own) => {
            let pairs = own.into_iter().map(|(key, value)| {
                let value = toml(&format!("{name}.{key}"), value)?;
                Ok::<_, String>((key, value))
            });
            Value::Table(pairs.collect::<Result<_, _>>()?)
        }
        Json::Null => return Err(format!("'{name}' has no value")),
    })
}

/// The library shows the place in the text on further lines.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_of_vlm_service_is_flags() {
        let text = "model_name_or_path: /models/x   # a comment\nsampling:\n  max_new_tokens: 1024\n  \
            temperature: 1.0\n  top_p: 0.95\nserver:\n  host: 0.0.0.0\n  port: 8341\n  ttl: 1800\nw8a8:\n  \
            mode: 'off'   # 'auto' | 'on' | 'off'\n";
        let expected = "model = \"/models/x\"\nmax-tokens = 1024\ntemp = 1.0\ntop-p = 0.95\nhost = \"0.0.0.0\"\n\
            port = 8341\nttl = 1800\nactivations = \"bf16\"";
        assert_eq!(settings(text).unwrap(), expected.parse::<Table>().unwrap());
        for (mode, expected) in
            [("auto", "auto"), ("on", "int8"), ("off", "bf16"), ("'on'", "int8"), ("false", "bf16")]
        {
            let table = settings(&format!("w8a8: {{mode: {mode}}}\n")).unwrap();
            assert_eq!(table["activations"].as_str(), Some(expected), "{mode}");
        }
        for none in ["", "# nothing\n", "server:\n  ttl: 0\n", "ttl: null\n", "server: {ttl: }\n"] {
            assert!(settings(none).unwrap().is_empty(), "{none}");
        }
    }

    #[test]
    fn flags_have_their_own_names_too() {
        let table =
            settings("model: x\nalias: [a, b]\nmodels:\n  big: /y\nmax-queue: 5\n").unwrap();
        let expected =
            "model = \"x\"\nalias = [\"a\", \"b\"]\nmax-queue = 5\n[models]\nbig = \"/y\"";
        assert_eq!(table, expected.parse::<Table>().unwrap());
    }

    #[test]
    fn what_is_no_setting_is_named() {
        for (text, named) in [
            ("sampling:\n  beams: 4\n", "'sampling.beams'"),
            ("server: 3\n", "'server'"),
            ("w8a8:\n  mode: maybe\n", "w8a8.mode"),
            ("w8a8:\n  bits: 8\n", "'w8a8.bits'"),
            ("model: a\nmodel_name_or_path: b\n", "given twice"),
            ("- a\n- b\n", "no YAML of settings"),
            ("a: [\n", "no YAML of settings"),
            ("a: &a [*a]\n", ""),
        ] {
            let problem = settings(text).unwrap_err();
            assert!(problem.contains(named) && !problem.contains('\n'), "{problem}");
        }
        // A billion laughs.
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let last = level - 1;
            let list = vec![format!("*a{last}"); 10].join(", ");
            text += &format!("a{level}: &a{level} [{list}]\n");
        }
        assert!(settings(&text).is_err());
        assert!(settings(&"[".repeat(100_000)).is_err());
    }
}
