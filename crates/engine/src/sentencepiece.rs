//! SentencePiece models (`tokenizer.model`): a protobuf message with pieces, and how text is made ready for them.
//!
//! Fields and defaults: google/sentencepiece `src/sentencepiece_model.proto`. Of the kinds, `bpe` and `unigram` are
//! read; they become the tables of a GGUF file of kind `llama` and `t5`, which are made from such models.

use keeve_checkpoint::gguf::tokenizer::{GgufTokenizer, TokenType};
use serde_json::Value;

use crate::gguf_tokenizer::{SentencePiece, build_from};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// More tokens than this is an attack, not a model.
const MAX_TOKENS: usize = 1 << 24;

/// The tokenizer of a SentencePiece model, with what `tokenizer_config.json` and `added_tokens.json` add.
///
/// # Errors
/// If the message is damaged, of another kind, or the config's class numbers pieces otherwise.
pub(crate) fn build(
    bytes: &[u8],
    config: Option<&Value>,
    added: Option<&Value>,
) -> Result<Tokenizer, TokenizerError> {
    let empty = Value::Null;
    let config = config.unwrap_or(&empty);
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    if SHIFTED.iter().any(|prefix| class.starts_with(prefix)) {
        return Err(TokenizerError::Limit(format!(
            "{class} numbers the pieces of its SentencePiece model otherwise than the model; {WAY_OUT}"
        )));
    }
    let model = Model::read(bytes).map_err(TokenizerError::Parse)?;
    let (found, own) = model.tables(config, added, class)?;
    build_from(&found, own).map_err(|error| TokenizerError::Parse(error.to_string()))
}

/// What makes a `tokenizer.json` of whatever there is.
pub(crate) const WAY_OUT: &str = "make a tokenizer.json of it: python -c \"from transformers import AutoTokenizer as T; \
     T.from_pretrained('FOLDER').save_pretrained('FOLDER')\"";

/// Classes of transformers whose ids are not the numbers of pieces: they come from fairseq and its like.
const SHIFTED: [&str; 12] = [
    "XLMRoberta",
    "Camembert",
    "Barthez",
    "MBart",
    "Nllb",
    "M2M",
    "Speech2Text",
    "Pegasus",
    "XGLM",
    "XLNet",
    "Deberta",
    "SeamlessM4T",
];

/// A value of a protobuf field.
enum Field<'a> {
    Number(u64),
    Fixed([u8; 4]),
    Bytes(&'a [u8]),
}

/// The fields of a message, with their numbers; an error where it is damaged.
fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u64, Field<'_>), String>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next_field(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field.ok_or_else(|| "it is no SentencePiece model, or is cut short".to_owned()))
    })
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = varint(rest)?;
    let field = match tag & 7 {
        0 => Field::Number(varint(rest)?),
        1 => {
            *rest = rest.get(8..)?;
            Field::Number(0)
        }
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            let (bytes, tail) = rest.split_at_checked(length)?;
            *rest = tail;
            Field::Bytes(bytes)
        }
        5 => {
            let (bytes, tail) = rest.split_first_chunk::<4>()?;
            *rest = tail;
            Field::Fixed(*bytes)
        }
        _ => return None,
    };
    Some((tag >> 3, field))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// What is used of a model.
struct Model {
    tokens: Vec<String>,
    types: Vec<TokenType>,
    scores: Vec<f32>,
    kind: u64,
    unknown: u64,
    bos: u64,
    eos: u64,
    padding: u64,
    suffix: bool,
    charsmap: Vec<u8>,
    prefix: bool,
    merges_spaces: bool,
    marks: bool,
}

impl Model {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self {
            tokens: vec![],
            types: vec![],
            scores: vec![],
            kind: 1,
            unknown: 0,
            bos: 1,
            eos: 2,
            padding: u64::MAX,
            suffix: false,
            charsmap: vec![],
            prefix: true,
            merges_spaces: true,
            marks: true,
        };
        for field in fields(bytes) {
            match field? {
                (1, Field::Bytes(piece)) => model.piece(piece)?,
                (2, Field::Bytes(trainer)) => {
                    for field in fields(trainer) {
                        match field? {
                            (3, Field::Number(kind)) => model.kind = kind,
                            (24, Field::Number(suffix)) => model.suffix = suffix != 0,
                            (40, Field::Number(id)) => model.unknown = id,
                            (41, Field::Number(id)) => model.bos = id,
                            (42, Field::Number(id)) => model.eos = id,
                            (43, Field::Number(id)) => model.padding = id,
                            _ => {}
                        }
                    }
                }
                (3, Field::Bytes(normalizer)) => {
                    for field in fields(normalizer) {
                        match field? {
                            (2, Field::Bytes(map)) => model.charsmap = map.to_vec(),
                            (3, Field::Number(flag)) => model.prefix = flag != 0,
                            (4, Field::Number(flag)) => model.merges_spaces = flag != 0,
                            (5, Field::Number(flag)) => model.marks = flag != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if model.tokens.is_empty() {
            return Err("it is no SentencePiece model: it has no pieces".to_owned());
        }
        Ok(model)
    }

    fn piece(&mut self, piece: &[u8]) -> Result<(), String> {
        let (mut text, mut score, mut kind) = (&[][..], 0.0, TokenType::Normal);
        for field in fields(piece) {
            match field? {
                (1, Field::Bytes(bytes)) => text = bytes,
                (2, Field::Fixed(bytes)) => score = f32::from_le_bytes(bytes),
                (3, Field::Number(number)) => {
                    kind = match number {
                        2 => TokenType::Unknown,
                        3 => TokenType::Control,
                        4 => TokenType::UserDefined,
                        5 => TokenType::Unused,
                        6 => TokenType::Byte,
                        _ => TokenType::Normal,
                    }
                }
                _ => {}
            }
        }
        if self.tokens.len() >= MAX_TOKENS {
            return Err(format!("it has more than {MAX_TOKENS} pieces"));
        }
        self.tokens.push(String::from_utf8_lossy(text).into_owned());
        self.scores.push(score);
        self.types.push(kind);
        Ok(())
    }

    fn tables(
        self,
        config: &Value,
        added: Option<&Value>,
        class: &str,
    ) -> Result<(GgufTokenizer, SentencePiece), TokenizerError> {
        let merges = match self.kind {
            1 => false,
            2 => true,
            kind => {
                let name = if kind == 3 { "word" } else { "char" };
                return Err(TokenizerError::Limit(format!(
                    "SentencePiece models of kind '{name}' are not supported (expected bpe or unigram)"
                )));
            }
        };
        let count = self.tokens.len() as u64;
        let id = |id: u64| Some(id).filter(|id| *id < count).map(|id| id as u32);
        let flag = |name: &str| config.get(name).and_then(Value::as_bool);
        let llama = merges || class.starts_with("Llama") || class.starts_with("CodeLlama");
        let bos = id(self.bos);
        let mut found = GgufTokenizer {
            model: if merges { "llama" } else { "t5" }.to_owned(),
            bos,
            eos: id(self.eos),
            unknown: id(self.unknown),
            padding: id(self.padding),
            add_bos: Some(flag("add_bos_token").unwrap_or(llama && bos.is_some())),
            add_eos: Some(flag("add_eos_token").unwrap_or(!llama)),
            add_space_prefix: Some(flag("add_prefix_space").unwrap_or(self.prefix)),
            remove_extra_whitespaces: Some(self.merges_spaces),
            tokens: self.tokens,
            token_types: self.types,
            scores: self.scores,
            charsmap: self.charsmap,
            ..GgufTokenizer::default()
        };
        add_tokens(&mut found, config, added)?;
        let own = SentencePiece {
            prefix_once: flag("legacy") == Some(false),
            suffix: self.suffix,
            plain_spaces: !self.marks,
            normalizes: merges && (!found.charsmap.is_empty() || self.merges_spaces || !self.marks),
        };
        Ok((found, own))
    }
}

/// Adds the tokens that transformers' own files name.
fn add_tokens(
    found: &mut GgufTokenizer,
    config: &Value,
    added: Option<&Value>,
) -> Result<(), TokenizerError> {
    let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
    let decoder = decoder.into_iter().flatten().filter_map(|(id, token)| {
        let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
        Some((id.parse().ok()?, token.get("content")?.as_str()?, special))
    });
    let named = crate::text::special_texts(config);
    let added = added.and_then(Value::as_object);
    let added = added.into_iter().flatten().filter_map(|(text, id)| {
        Some((usize::try_from(id.as_u64()?).ok()?, text.as_str(), named.contains(text)))
    });
    let mut tokens: Vec<(usize, &str, bool)> = added.chain(decoder).collect();
    tokens.sort_unstable();
    let most = found.tokens.len() + tokens.len() + (1 << 16);
    for (id, text, special) in tokens {
        if id >= most {
            return Err(TokenizerError::SparseIds { largest: id, count: found.tokens.len() });
        }
        if id >= found.tokens.len() {
            found.tokens.resize(id + 1, String::new());
            found.token_types.resize(id + 1, TokenType::Unused);
            found.scores.resize(id + 1, 0.0);
        }
        found.tokens[id] = text.to_owned();
        if found.token_types[id] != TokenType::Unknown {
            found.token_types[id] =
                if special { TokenType::Control } else { TokenType::UserDefined };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Models and ids: `tests/data/sentencepiece/make.py`.
    #[test]
    fn models_of_every_kind_give_the_ids_of_sentencepiece() {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sentencepiece");
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let reference: Value = serde_json::from_slice(&read("reference.json")).unwrap();
        for (name, cases) in reference.as_object().unwrap() {
            let tokenizer = build(&read(&format!("{name}.model")), None, None).unwrap();
            for case in cases.as_array().unwrap() {
                let text = case["text"].as_str().unwrap();
                let ids = tokenizer.encode(text, false, false).unwrap();
                assert_eq!(Value::from(ids.clone()), case["ids"], "{name}: {text:?}");
                assert!(tokenizer.least_tokens(text) <= ids.len());
                // SentencePiece shows the unknown token by a sign of its own, and leaves out marks that a text
                // begins with itself.
                if !ids.contains(&0) && !text.starts_with('\u{2581}') {
                    let decoded = tokenizer.decode(&ids, false).unwrap();
                    assert_eq!(Value::from(decoded), case["decoded"], "{name}: {text:?}");
                }
            }
        }
    }

    #[test]
    fn transformers_files_add_tokens_and_say_what_goes_around() {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sentencepiece");
        let bytes = std::fs::read(folder.join("bpe_bytes.model")).unwrap();
        let config = serde_json::json!({"legacy": false, "add_eos_token": true, "added_tokens_decoder": {
            "600": {"content": "<|im_end|>", "special": true}, "601": {"content": "<tool>", "special": false}}});
        let added = serde_json::json!({"<extra>": 602});
        let tokenizer = build(&bytes, Some(&config), Some(&added)).unwrap();
        assert!(
            tokenizer.is_special(600) && !tokenizer.is_special(601) && !tokenizer.is_special(602)
        );
        let ids = tokenizer.encode("hello<|im_end|>hello<tool><extra>", true, true).unwrap();
        let plain = build(&bytes, None, None).unwrap();
        let first = plain.encode("hello", false, false).unwrap();
        assert_eq!((ids[0], *ids.last().unwrap()), (1, 2));
        assert_eq!(ids[1..=first.len()], first);
        // No space goes before text after a marker.
        assert_ne!(ids[first.len() + 2], first[0]);
        assert_eq!(ids[ids.len() - 3..], [601, 602, 2]);
        let far = serde_json::json!({"added_tokens_decoder": {"4000000000": {"content": "x", "special": true}}});
        assert!(build(&bytes, Some(&far), None).unwrap_err().to_string().contains("4000000000"));
    }

    #[test]
    fn damaged_models_are_refused_in_one_line() {
        for bytes in [&b""[..], b"\xff\xff", b"{}", b"\x0a\x05ab", b"IQ== 0\nIg== 1\n", b"\x12\x00"]
        {
            let error = build(bytes, None, None).unwrap_err().to_string();
            assert!(error.contains("SentencePiece model") && !error.contains('\n'), "{error}");
        }
        let config = serde_json::json!({"tokenizer_class": "XLMRobertaTokenizer"});
        let error = build(b"", Some(&config), None).unwrap_err().to_string();
        assert!(
            error.contains("XLMRobertaTokenizer") && error.contains("save_pretrained"),
            "{error}"
        );
    }
}
