//! The decoder section of a `tokenizer.json` as something that can be streamed.
//!
//! The `tokenizers` crate decodes a whole list of tokens at once: each decoder of a chain maps a list of texts to a list
//! of texts. Taken apart, all of them work on one token at a time, and need to know of its surroundings only
//! whether it is the first or the last ([`Place`]); `Fuse` and `ByteLevel` make one text of the list, of which what follows
//! changes the start, the end, or a fixed text within ([`Tail`]). What does not fit this is refused by name when
//! the tokenizer is loaded, not approximated. Order and behaviour: `tokenizers` 0.23, `src/decoders/`.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;
use tokenizers::Decoder as _;
use tokenizers::normalizers::replace::Replace;

use crate::guarded::guarded;
use crate::tokenizer::TokenizerError;
use crate::vocabulary::char_of_byte;

/// Where a token stands among those that are decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub first: bool,
    pub last: bool,
}

/// What is done to the text of each token.
#[derive(Debug)]
enum Stage {
    Replace(String, String),
    Pattern(Box<Replace>),
    /// All but the first lose the prefix or get a space.
    WordPiece {
        prefix: String,
        cleanup: bool,
    },
    /// The mark is a space; if `drops`, the first token loses it instead.
    Metaspace {
        mark: char,
        drops: bool,
    },
    /// The suffix is a space, and nothing at the end.
    Bpe {
        suffix: String,
    },
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    Ctc {
        padding: String,
        delimiter: String,
        cleanup: bool,
    },
    /// No decoder: tokens are joined by spaces.
    Spaced,
}

/// What is done to the whole text.
#[derive(Debug, Clone)]
pub(crate) enum Tail {
    /// At most so many of this character are taken from the start and the end.
    Strip { content: char, start: usize, stop: usize },
    /// A text within is another one.
    Replace { from: String, to: String },
}

/// What becomes of the texts of all tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    /// Bytes that are read as UTF-8, each ill-formed part becoming U+FFFD.
    Bytes {
        /// The very first token, skipped or not, loses one leading space (GGUF's `llama` model).
        first_loses_space: bool,
    },
    /// Whole characters. Runs of tokens such as `<0xE4>` are bytes, each of them U+FFFD if the run is ill-formed.
    Pieces,
}

/// How tokens become text.
#[derive(Debug)]
pub(crate) struct Decoding {
    stages: Vec<Stage>,
    byte_level: bool,
    byte_fallback: bool,
    /// What is done to each token and each run of bytes once there are such runs.
    late: Vec<Stage>,
    pub join: Join,
    pub tail: Vec<Tail>,
}

static BYTE_OF_CHAR: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| char_of_byte().into_iter().zip(0..=255u8).collect());

impl Decoding {
    /// Of tokens that are bytes already.
    pub fn of_bytes(first_loses_space: bool) -> Self {
        Self {
            stages: vec![],
            byte_level: false,
            byte_fallback: false,
            late: vec![],
            join: Join::Bytes { first_loses_space },
            tail: vec![],
        }
    }

    /// Reads the decoder section.
    ///
    /// # Errors
    /// [`TokenizerError::Decoder`] if it cannot be streamed.
    pub fn from_json(decoder: &Value) -> Result<Self, TokenizerError> {
        let mut flat = vec![];
        flatten(decoder, &mut flat);
        let refuse = || TokenizerError::Decoder { kind: describe(decoder) };
        let mut made = Self { join: Join::Pieces, ..Self::of_bytes(false) };
        let mut fused = false;
        for (at, component) in flat.iter().enumerate() {
            match kind(component) {
                "none" => made.stages.push(Stage::Spaced),
                "Fuse" => fused = true,
                "ByteLevel" if !fused && !made.byte_fallback => {
                    (made.byte_level, fused) = (true, true);
                    made.join = Join::Bytes { first_loses_space: false };
                }
                "ByteFallback" if !fused && !made.byte_fallback => made.byte_fallback = true,
                _ if fused => made.tail.push(Tail::read(component).ok_or_else(refuse)?),
                _ => {
                    let stage = Stage::read(component, at).ok_or_else(refuse)?;
                    // Tokens that vanish would change which one is the first.
                    let after_ctc = matches!(made.stages.first(), Some(Stage::Ctc { .. }));
                    if (after_ctc || made.byte_fallback) && stage.minds_place() {
                        return Err(refuse());
                    }
                    let stages = if made.byte_fallback { &mut made.late } else { &mut made.stages };
                    stages.push(stage);
                }
            }
        }
        Ok(made)
    }

    /// Whether vocabulary texts are bytes written as letters.
    pub fn is_byte_level(&self) -> bool {
        self.byte_level
    }

    /// Whether a token's text depends on being the first.
    pub fn minds_first(&self) -> bool {
        let minds = |stage: &Stage| match stage {
            Stage::WordPiece { .. } | Stage::Spaced => true,
            Stage::Metaspace { drops, .. } => *drops,
            _ => false,
        };
        self.stages.iter().any(minds)
    }

    /// Whether a token's text depends on being the last.
    pub fn minds_last(&self) -> bool {
        self.stages.iter().any(|stage| matches!(stage, Stage::Bpe { .. }))
    }

    /// Whether a token that is the same as the one before says nothing.
    pub fn drops_repeats(&self) -> bool {
        matches!(self.stages.first(), Some(Stage::Ctc { .. }))
    }

    /// Appends the bytes of a token; true if it is one byte of a run.
    pub fn append(&self, text: &str, place: Place, out: &mut Vec<u8>) -> bool {
        let mut piece = text.to_owned();
        for stage in &self.stages {
            piece = stage.apply(piece, place);
        }
        if self.byte_level {
            // A token with any character outside the alphabet (an added token) stands for itself.
            let mapped: Option<Vec<u8>> =
                piece.chars().map(|letter| BYTE_OF_CHAR.get(&letter).copied()).collect();
            match mapped {
                Some(bytes) => out.extend(bytes),
                None => out.extend(piece.as_bytes()),
            }
            return false;
        }
        if self.byte_fallback
            && piece.len() == 6
            && let Some(hex) = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'))
            && let Ok(byte) = u8::from_str_radix(hex, 16)
        {
            out.push(byte);
            return true;
        }
        out.extend(self.late(piece).as_bytes());
        false
    }

    /// The text of a run of bytes.
    pub fn run(&self, bytes: Vec<u8>) -> String {
        match String::from_utf8(bytes) {
            Ok(text) if text.is_empty() => text,
            Ok(text) => self.late(text),
            Err(error) => self.late("\u{fffd}".to_owned()).repeat(error.as_bytes().len()),
        }
    }

    fn late(&self, mut piece: String) -> String {
        for stage in &self.late {
            piece = stage.apply(piece, Place::default());
        }
        piece
    }
}

impl Stage {
    fn read(component: &Value, at: usize) -> Option<Self> {
        let text = |name: &str| Some(component.get(name)?.as_str()?.to_owned());
        let count = |name: &str| usize::try_from(component.get(name)?.as_u64()?).ok();
        let flag = |name: &str| component.get(name).and_then(Value::as_bool);
        Some(match kind(component) {
            "Replace" => match component.pointer("/pattern/String").and_then(Value::as_str) {
                Some(from) if !from.is_empty() => Self::Replace(from.to_owned(), text("content")?),
                _ => {
                    let replace = serde_json::from_value(component.clone()).ok()?;
                    Self::Pattern(Box::new(replace))
                }
            },
            "WordPiece" => Self::WordPiece { prefix: text("prefix")?, cleanup: flag("cleanup")? },
            "Metaspace" => Self::Metaspace {
                mark: text("replacement")?.chars().next()?,
                drops: component.get("prepend_scheme").is_none_or(|scheme| scheme != "never"),
            },
            "BPEDecoder" => {
                Self::Bpe { suffix: text("suffix").filter(|suffix| !suffix.is_empty())? }
            }
            "Strip" => Self::Strip {
                content: text("content")?.chars().next()?,
                start: count("start")?,
                stop: count("stop")?,
            },
            // It looks at what tokens were before anything else was done to them.
            "CTC" if at == 0 => Self::Ctc {
                padding: text("pad_token")?,
                delimiter: text("word_delimiter_token")?,
                cleanup: flag("cleanup")?,
            },
            _ => return None,
        })
    }

    fn minds_place(&self) -> bool {
        matches!(
            self,
            Self::WordPiece { .. }
                | Self::Spaced
                | Self::Bpe { .. }
                | Self::Metaspace { drops: true, .. }
        )
    }

    fn apply(&self, piece: String, place: Place) -> String {
        match self {
            Self::Replace(from, to) => piece.replace(from, to),
            Self::Pattern(replace) => {
                let replaced = guarded(|| replace.decode_chain(vec![piece.clone()]));
                replaced.map_or(piece, |pieces| pieces.concat())
            }
            Self::WordPiece { prefix, cleanup } => {
                let piece = match piece.strip_prefix(prefix.as_str()) {
                    _ if place.first => piece,
                    Some(rest) => rest.to_owned(),
                    None => format!(" {piece}"),
                };
                if *cleanup { clean(&piece) } else { piece }
            }
            Self::Metaspace { mark, drops } if *drops && place.first => {
                piece.chars().filter(|letter| letter != mark).collect()
            }
            Self::Metaspace { mark, .. } => piece.replace(*mark, " "),
            Self::Bpe { suffix } => piece.replace(suffix, if place.last { "" } else { " " }),
            Self::Strip { content, start, stop } => {
                let mut rest = piece.as_str();
                // The counts are the file's, and may be any.
                for _ in 0..*start {
                    let Some(shorter) = rest.strip_prefix(*content) else { break };
                    rest = shorter;
                }
                for _ in 0..*stop {
                    let Some(shorter) = rest.strip_suffix(*content) else { break };
                    rest = shorter;
                }
                rest.to_owned()
            }
            Self::Ctc { padding, delimiter, cleanup } => {
                let piece = if padding.is_empty() { piece } else { piece.replace(padding, "") };
                if *cleanup && !delimiter.is_empty() {
                    clean(&piece).replace(delimiter, " ")
                } else {
                    piece
                }
            }
            Self::Spaced if place.first => piece,
            Self::Spaced => format!(" {piece}"),
        }
    }
}

impl Tail {
    fn read(component: &Value) -> Option<Self> {
        let text = |name: &str| component.get(name).and_then(Value::as_str);
        let count = |name: &str| usize::try_from(component.get(name)?.as_u64()?).ok();
        match kind(component) {
            "Strip" => Some(Self::Strip {
                content: text("content")?.chars().next()?,
                start: count("start")?,
                stop: count("stop")?,
            }),
            "Replace" => {
                let from = component.pointer("/pattern/String").and_then(Value::as_str)?;
                let (from, to) = (from.to_owned(), text("content")?.to_owned());
                (!from.is_empty()).then_some(Self::Replace { from, to })
            }
            _ => None,
        }
    }
}

/// What tokenizing put apart: spaces before punctuation and in English contractions.
fn clean(piece: &str) -> String {
    const PAIRS: [(&str, &str); 11] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    PAIRS.iter().fold(piece.to_owned(), |piece, (from, to)| piece.replace(from, to))
}

/// The components in order, without the sequences around them.
fn flatten<'a>(decoder: &'a Value, out: &mut Vec<&'a Value>) {
    match decoder.get("decoders").and_then(Value::as_array) {
        Some(inner) if kind(decoder) == "Sequence" => {
            inner.iter().for_each(|inner| flatten(inner, out));
        }
        _ => out.push(decoder),
    }
}

fn kind(decoder: &Value) -> &str {
    decoder["type"].as_str().unwrap_or("none")
}

/// The decoder's type names, for an error message.
fn describe(decoder: &Value) -> String {
    let mut flat = vec![];
    flatten(decoder, &mut flat);
    let kinds: Vec<&str> = flat.iter().take(8).map(|component| kind(component)).collect();
    match kind(decoder) {
        "Sequence" => format!("Sequence [{}]", kinds.join(", ")),
        kind => kind.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_stream_is_refused_by_name() {
        let fuse = serde_json::json!({"type": "Fuse"});
        let word_piece = serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
        let ctc = serde_json::json!({"type": "CTC", "pad_token": "p", "word_delimiter_token": "|", "cleanup": true});
        let pattern =
            serde_json::json!({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""});
        for (stages, named) in [
            ([&fuse, &word_piece], "Sequence [Fuse, WordPiece]"),
            ([&fuse, &pattern], "Sequence [Fuse, Replace]"),
            ([&word_piece, &ctc], "Sequence [WordPiece, CTC]"),
            ([&ctc, &word_piece], "Sequence [CTC, WordPiece]"),
        ] {
            let decoder = serde_json::json!({"type": "Sequence", "decoders": stages});
            let error = Decoding::from_json(&decoder).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
