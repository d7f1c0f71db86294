//! A `tokenizer.json` as the tables that a GGUF file has.
//!
//! Which token is of what type, and which ids are special: ggml-org/llama.cpp `conversion/base.py`
//! (`get_vocab_base`) and `gguf-py/gguf/vocab.py` (`SpecialVocab`).

use std::collections::HashMap;

use keeve_checkpoint::Checkpoint;
use keeve_checkpoint::gguf::{Array, Value as Stored};
use serde_json::{Map, Value};

use super::metadata::Entries;
use crate::Error;

/// More tokens than this is an attack, not a model.
const MAX_TOKENS: usize = 1 << 24;

/// Token types of GGUF.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The entries `tokenizer.ggml.*` for a checkpoint's `tokenizer.json`, with placeholders for tokens up to `rows`.
///
/// # Errors
/// If there is no tokenizer, or it is none that llama.cpp knows.
pub fn vocabulary(checkpoint: &Checkpoint, rows: usize) -> Result<Entries, Error> {
    let path = checkpoint.path().join("tokenizer.json");
    let wrong = |problem: String| Error::File { path: path.clone(), problem };
    let Some(bytes) = checkpoint.tokenizer() else {
        return Err(wrong("is missing; a GGUF file holds the tokenizer".into()));
    };
    let json: Value = serde_json::from_slice(&bytes)
        .map_err(|error| wrong(format!("is not valid JSON: {error}")))?;
    let tables = Tables::read(&json, rows).map_err(wrong)?;
    let pre = match tables.kind {
        Kind::ByteLevel => {
            let found = keeve_engine::gguf_tokenizer::pre_tokenizer_name(&json);
            found.ok_or_else(|| {
                wrong("splits text in a way that llama.cpp has no name for".into())
            })?
        }
        Kind::Scored => "default",
    };
    let model = if tables.kind == Kind::ByteLevel { "gpt2" } else { "llama" };
    let mut entries: Entries = vec![
        ("tokenizer.ggml.model".into(), Stored::string(model)),
        ("tokenizer.ggml.pre".into(), Stored::string(pre)),
        ("tokenizer.ggml.tokens".into(), Stored::Array(Array::of_strings(&tables.tokens))),
    ];
    if tables.kind == Kind::Scored {
        let scores = Stored::Array(Array::of_f32(&tables.scores));
        entries.push(("tokenizer.ggml.scores".into(), scores));
    }
    let types = Stored::Array(Array::of_i32(&tables.types));
    entries.push(("tokenizer.ggml.token_type".into(), types));
    if tables.kind == Kind::ByteLevel {
        let merges = Stored::Array(Array::of_strings(&tables.merges));
        entries.push(("tokenizer.ggml.merges".into(), merges));
    }
    special(checkpoint, &json, &tables, &mut entries);
    if tables.kind == Kind::Scored {
        let prefix = tables.space_prefix;
        entries.push(("tokenizer.ggml.add_space_prefix".into(), Stored::Bool(prefix)));
    }
    Ok(entries)
}

/// The algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Merges of bytes written as letters.
    ByteLevel,
    /// Merges of characters by score, with bytes for what has no token.
    Scored,
}

struct Tables {
    kind: Kind,
    tokens: Vec<String>,
    types: Vec<i32>,
    scores: Vec<f32>,
    merges: Vec<String>,
    ids: HashMap<String, u32>,
    space_prefix: bool,
}

impl Tables {
    /// Reads the tables, with placeholders up to `rows` tokens.
    fn read(json: &Value, rows: usize) -> Result<Self, String> {
        let model = json.get("model").ok_or("has no 'model'")?;
        if model.get("type").and_then(Value::as_str) != Some("BPE") {
            return Err("is no BPE tokenizer, the only kind that can be written".into());
        }
        let vocab = model.get("vocab").and_then(Value::as_object);
        let vocab = vocab.ok_or("has no 'model.vocab'")?;
        let fallback = model.get("byte_fallback").and_then(Value::as_bool).unwrap_or(false);
        let kind = if fallback { Kind::Scored } else { Kind::ByteLevel };
        let no_tokens = Vec::new();
        let added = json.get("added_tokens").and_then(Value::as_array).unwrap_or(&no_tokens);
        let mut ids = HashMap::new();
        let id = |value: Option<&Value>| {
            let id = value.and_then(Value::as_u64).and_then(|id| usize::try_from(id).ok());
            id.filter(|id| *id < MAX_TOKENS).ok_or("has a token without a proper id")
        };
        let mut count = rows.min(MAX_TOKENS);
        for (text, value) in vocab {
            let id = id(Some(value))?;
            count = count.max(id + 1);
            ids.insert(text.clone(), id as u32);
        }
        for token in added {
            count = count.max(id(token.get("id"))? + 1);
        }
        // Ids far apart would ask for room without end.
        if count > vocab.len() + added.len() + (1 << 16) && count > rows {
            return Err(format!("has {count} ids for {} tokens", vocab.len() + added.len()));
        }
        let mut tokens: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; count];
        let unknown = model.get("unk_token").and_then(Value::as_str);
        for (text, &id) in &ids {
            tokens[id as usize].clone_from(text);
            types[id as usize] = match kind {
                Kind::Scored if is_byte(text) => BYTE,
                Kind::Scored if Some(text.as_str()) == unknown => UNKNOWN,
                _ => NORMAL,
            };
        }
        for token in added {
            let (id, text) = (id(token.get("id"))?, token.get("content").and_then(Value::as_str));
            let text = text.ok_or("has an added token without 'content'")?;
            let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            ids.insert(text.into(), id as u32);
            if types[id] == UNKNOWN {
                continue;
            }
            let control = special || looks_special(text);
            types[id] = if control { CONTROL } else { USER_DEFINED };
            tokens[id] = if control { text.into() } else { text.replace('\u{2581}', " ") };
        }
        let merges = merges(model)?;
        let mut scores = Vec::new();
        if kind == Kind::Scored {
            // A token's score is that of the merge that makes it: earlier merges come first.
            scores = vec![0.0; count];
            for (rank, (left, right)) in merges.iter().enumerate().rev() {
                if let Some(&id) = ids.get(&format!("{left}{right}")) {
                    scores[id as usize] = -(rank as f32);
                }
            }
        }
        // Spaces inside a part would be taken for the one between the parts.
        let spelled = |part: &str| part.replace(' ', "\u{120}");
        let merges = merges
            .iter()
            .map(|(left, right)| format!("{} {}", spelled(left), spelled(right)))
            .collect();
        Ok(Self { kind, tokens, types, scores, merges, ids, space_prefix: space_prefix(json) })
    }
}

/// The merges: pairs, or texts with a space between the parts.
fn merges(model: &Value) -> Result<Vec<(String, String)>, &'static str> {
    let wrong = "has a merge that is neither a pair nor 'left right'";
    let merges = model.get("merges").and_then(Value::as_array).ok_or("has no 'model.merges'")?;
    let pair = |merge: &Value| match merge {
        Value::String(text) => {
            // The first character may be a space itself.
            let at = text.char_indices().skip(1).find(|(_, letter)| *letter == ' ');
            let (at, _) = at.ok_or(wrong)?;
            Ok((text[..at].to_owned(), text[at + 1..].to_owned()))
        }
        Value::Array(parts) => match parts.as_slice() {
            [Value::String(left), Value::String(right)] => Ok((left.clone(), right.clone())),
            _ => Err(wrong),
        },
        _ => Err(wrong),
    };
    merges.iter().map(pair).collect()
}

/// Whether a token stands for a single byte: `<0xXX>`.
fn is_byte(text: &str) -> bool {
    text.len() == 6
        && text
            .strip_prefix("<0x")
            .and_then(|rest| rest.strip_suffix('>'))
            .is_some_and(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// Whether an added token is a marker whatever its file says: some models call their markers text.
fn looks_special(text: &str) -> bool {
    let between = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<\u{ff5c}", "\u{ff5c}>")
        || between("<unused", ">")
}

/// Whether text gets a space put before it.
fn space_prefix(json: &Value) -> bool {
    let steps = |step: &Value| match step.get("normalizers").and_then(Value::as_array) {
        Some(steps) => steps.clone(),
        None => vec![step.clone()],
    };
    let prepends = json
        .get("normalizer")
        .into_iter()
        .flat_map(steps)
        .any(|step| step.get("type").is_some_and(|kind| kind == "Prepend"));
    let scheme = json.pointer("/pre_tokenizer/prepend_scheme").and_then(Value::as_str);
    prepends || matches!(scheme, Some("always" | "first"))
}

/// The kinds of special tokens, in the order in which they are written.
const SPECIAL: [(&str, &str); 4] =
    [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")];

/// Adds the ids of special tokens and whether text begins and ends with them.
fn special(checkpoint: &Checkpoint, json: &Value, tables: &Tables, entries: &mut Entries) {
    let empty = Map::new();
    let config = checkpoint.tokenizer_config().and_then(Value::as_object).unwrap_or(&empty);
    let generation = checkpoint.generation_config();
    for (kind, name) in SPECIAL {
        let token = config.get(&format!("{kind}_token"));
        let text =
            token.and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
        let by_text = text.and_then(|text| tables.ids.get(text).copied());
        let field = format!("{kind}_token_id");
        let config = checkpoint.config();
        let configs = [Some(config), config.get("text_config"), generation];
        let by_config = configs.into_iter().flatten().find_map(|config| {
            let value = config.get(&field)?;
            let id = value.as_u64().or_else(|| value.as_array()?.first()?.as_u64())?;
            u32::try_from(id).ok().filter(|id| (*id as usize) < tables.tokens.len())
        });
        if let Some(id) = by_text.or(by_config) {
            entries.push((format!("tokenizer.ggml.{name}_token_id"), Stored::u32(id)));
        }
    }
    let template = |end: &str| {
        let steps = json.pointer("/post_processor").into_iter().flat_map(|step| {
            let steps = step.get("processors").and_then(Value::as_array);
            steps.map_or_else(|| vec![step], |steps| steps.iter().collect())
        });
        let mut known = None;
        for step in steps {
            match step.get("type").and_then(Value::as_str) {
                Some("ByteLevel") => known = known.or(Some(false)),
                Some("TemplateProcessing") => {
                    let single = step.get("single").and_then(Value::as_array);
                    let single = single.map(Vec::as_slice).unwrap_or_default();
                    let at = if end == "bos" { single.first() } else { single.last() };
                    if single.len() > 1 && at.is_some_and(|at| at.get("SpecialToken").is_some()) {
                        known = Some(true);
                    }
                }
                _ => {}
            }
        }
        known
    };
    for end in ["bos", "eos"] {
        let asked = config.get(&format!("add_{end}_token")).and_then(Value::as_bool);
        if let Some(adds) = asked.or_else(|| template(end)) {
            entries.push((format!("tokenizer.ggml.add_{end}_token"), Stored::Bool(adds)));
        }
    }
}
