//! What a `tokenizer.json` may do to a text and to memory, known from reading it.
//!
//! The file is untrusted, and the `tokenizers` crate does what it says: twelve replacements of "a" by ten times "a"
//! make a gigabyte of nine letters. So each component's worst case is worked out before the file is handed on, and
//! a text is refused if the worst case of all components together is out of proportion.
//!
//! The same reading says how few tokens a text can become, which lets a prompt be refused before it is tokenized.

use base64::Engine as _;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::post_processor::Around;
use crate::tokenizer::TokenizerError;

/// The largest file. The largest that are published have 35 MB.
const MAX_FILE: usize = 256 << 20;
/// The most components of normalizers, pre-tokenizers, decoders or post-processors. Published files have a dozen.
const MAX_COMPONENTS: usize = 128;
/// The longest text within a component, except a precompiled character map.
const MAX_TEXT: usize = 16 << 10;
/// The most bytes of all regular expressions of a file.
const MAX_PATTERNS: usize = 64 << 10;
/// The most bytes of all added tokens together.
const MAX_ADDED: usize = 8 << 20;
/// The longest token of a Unigram model in bytes, published ones have 64: the library keeps them in a tree with a level for each byte
/// and frees it by recursion.
const MAX_UNIGRAM_TOKEN: usize = 512;
/// The most bytes of all tokens that a token of a Unigram model begins with: at each place of a text the library copies those
/// that it finds. Published models have some hundred.
const MAX_UNIGRAM_CHAIN: usize = 16 << 10;
/// The longest word that WordPiece may take apart, in characters, published ones have 100: it tries all parts of a word.
const MAX_WORD: u64 = 256;
/// The longest text that is put around a part of a word, each time a token is looked for.
const MAX_AFFIX: usize = 64;
/// How many times as long as itself a text may at worst become. Published files reach 200.
const MAX_GROWTH: u64 = 4096;
/// What a text may become at worst without being looked at: bytes.
const FREE_GROWTH: u64 = 64 << 20;

/// The fields of `tokenizer.json` that are checked before the file is handed on.
#[derive(Debug, Deserialize)]
pub(crate) struct Header {
    #[serde(default)]
    pub added_tokens: Vec<AddedTokenHeader>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    #[serde(default)]
    pub decoder: Value,
    pub model: ModelHeader,
}

#[derive(Debug, Deserialize)]
pub(crate) struct AddedTokenHeader {
    pub id: u64,
    pub content: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ModelHeader {
    #[serde(default)]
    pub dropout: Option<f32>,
    #[serde(default)]
    pub unk_token: Option<String>,
    #[serde(default)]
    pub fuse_unk: Option<bool>,
    #[serde(default)]
    pub byte_fallback: Option<bool>,
    #[serde(default)]
    max_input_chars_per_word: Option<u64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    vocab: Vocab,
    #[serde(default)]
    merges: Longest,
}

/// The tokens of a model.
#[derive(Debug, Default)]
struct Vocab {
    longest: usize,
    /// Those of a Unigram model, the only one that has a list of them.
    listed: Vec<Box<str>>,
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(VocabVisitor)
    }
}

struct VocabVisitor;

impl<'de> Visitor<'de> for VocabVisitor {
    type Value = Vocab;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a vocabulary: an object, or a list of tokens and their scores")
    }

    fn visit_unit<E>(self) -> Result<Vocab, E> {
        Ok(Vocab::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocab, A::Error> {
        let mut vocab = Vocab::default();
        while let Some((text, _)) = seq.next_element::<(Box<str>, IgnoredAny)>()? {
            vocab.longest = vocab.longest.max(text.len());
            vocab.listed.push(text);
        }
        Ok(vocab)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
        let mut vocab = Vocab::default();
        while let Some((key, Longest(value))) = map.next_entry::<Longest, Longest>()? {
            vocab.longest = vocab.longest.max(key.0).max(value);
        }
        Ok(vocab)
    }
}

/// The most bytes of all texts that one of them begins with, itself included.
fn longest_chain(texts: &[Box<str>]) -> usize {
    let mut sorted: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let (mut open, mut bytes, mut most) = (Vec::<&str>::new(), 0usize, 0usize);
    for text in sorted {
        while let Some(last) = open.pop_if(|last| !text.starts_with(*last)) {
            bytes -= last.len();
        }
        open.push(text);
        bytes += text.len();
        most = most.max(bytes);
    }
    most
}

impl ModelHeader {
    /// What a model may cost for each byte of a text, and the stack that its tokens take.
    fn check(&self) -> Result<(), TokenizerError> {
        for (name, longest, most) in
            [("vocab", self.vocab.longest, MAX_TEXT), ("merges", self.merges.0, 2 * MAX_TEXT)]
        {
            if longest > most {
                return Err(limit(format!(
                    "model.{name} has a text of {longest} bytes, at most {most} are accepted"
                )));
            }
        }
        if !self.vocab.listed.is_empty() && self.vocab.longest > MAX_UNIGRAM_TOKEN {
            return Err(limit(format!(
                "model.vocab has a text of {} bytes, at most {MAX_UNIGRAM_TOKEN} are accepted of a Unigram model",
                self.vocab.longest
            )));
        }
        let chain = longest_chain(&self.vocab.listed);
        if chain > MAX_UNIGRAM_CHAIN {
            return Err(limit(format!(
                "model.vocab has tokens of {chain} bytes together that begin one another, at most {MAX_UNIGRAM_CHAIN} are accepted"
            )));
        }
        if let Some(most) = self.max_input_chars_per_word.filter(|most| *most > MAX_WORD) {
            return Err(limit(format!(
                "model.max_input_chars_per_word is {most}, at most {MAX_WORD} is accepted"
            )));
        }
        for (name, text) in [
            ("continuing_subword_prefix", &self.continuing_subword_prefix),
            ("end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            if let Some(text) = text.as_ref().filter(|text| text.len() > MAX_AFFIX) {
                return Err(limit(format!(
                    "model.{name} has {} bytes, at most {MAX_AFFIX} are accepted",
                    text.len()
                )));
            }
        }
        Ok(())
    }
}

/// The length of the longest text in a value of any form; the value is not kept.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Longest(usize);

impl<'de> Deserialize<'de> for Longest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LongestVisitor)
    }
}

struct LongestVisitor;

impl<'de> Visitor<'de> for LongestVisitor {
    type Value = Longest;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E>(self, text: &str) -> Result<Longest, E> {
        Ok(Longest(text.len()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Longest, E> {
        Ok(Longest(0))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Longest, E> {
        Ok(Longest(0))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Longest, E> {
        Ok(Longest(0))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Longest, E> {
        Ok(Longest(0))
    }

    fn visit_unit<E>(self) -> Result<Longest, E> {
        Ok(Longest(0))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Longest, A::Error> {
        let mut longest = Longest(0);
        while let Some(inner) = seq.next_element()? {
            longest = longest.max(inner);
        }
        Ok(longest)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Longest, A::Error> {
        let mut longest = Longest(0);
        while let Some((key, value)) = map.next_entry::<Longest, Longest>()? {
            longest = longest.max(key).max(value);
        }
        Ok(longest)
    }
}

/// What a tokenizer may at worst make of a text before it looks for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Bytes that normalizing makes of a byte, at most.
    pub normalizer: u64,
    /// Bytes that splitting makes of a byte, at most.
    pub pre_tokenizer: u64,
    /// Bytes that become one byte, at most; `None` if text may vanish.
    pub shrink: Option<u64>,
    /// White space may vanish.
    pub drops_spaces: bool,
}

impl Reach {
    const NONE: Self =
        Self { normalizer: 1, pre_tokenizer: 1, shrink: Some(1), drops_spaces: false };

    /// Whether a text of `bytes` needs no closer look.
    pub fn is_harmless(&self, bytes: usize) -> bool {
        let worst = self.normalizer.saturating_mul(self.pre_tokenizer);
        (bytes as u64).saturating_mul(worst) <= FREE_GROWTH
    }

    /// Checks what a text of `bytes` that becomes `normalized` bytes takes.
    pub fn check(&self, bytes: usize, normalized: u64) -> Result<(), TokenizerError> {
        let allowed = FREE_GROWTH.saturating_add((bytes as u64).saturating_mul(8));
        if normalized.saturating_mul(self.pre_tokenizer) > allowed {
            return Err(TokenizerError::Encode(format!(
                "the tokenizer makes {normalized} bytes or more of the text's {bytes}"
            )));
        }
        Ok(())
    }
}

impl Header {
    /// Reads the fields and checks them.
    ///
    /// # Errors
    /// If the file is no JSON of this form, or could make a text or the tokenizer grow out of proportion.
    pub fn read(bytes: &[u8]) -> Result<(Self, Reach), TokenizerError> {
        if bytes.len() > MAX_FILE {
            return Err(limit(format!(
                "the file has {} bytes, at most {MAX_FILE} are read",
                bytes.len()
            )));
        }
        let header: Self = serde_json::from_slice(bytes)
            .map_err(|error| TokenizerError::Parse(error.to_string()))?;
        let reach = header.check()?;
        Ok((header, reach))
    }

    fn check(&self) -> Result<Reach, TokenizerError> {
        self.model.check()?;
        let mut walk = Walk { components: 0, patterns: 0, reach: Reach::NONE };
        walk.normalizer(&self.normalizer)?;
        walk.pre_tokenizer(&self.pre_tokenizer)?;
        walk.texts("post_processor", &self.post_processor)?;
        walk.texts("decoder", &self.decoder)?;
        // Before the library, which panics at what is wrong here.
        Around::from_json(&self.post_processor)?;
        let Walk { reach, .. } = walk;
        let growth = reach.normalizer.saturating_mul(reach.pre_tokenizer);
        if growth > MAX_GROWTH {
            return Err(limit(format!(
                "its normalizer and pre_tokenizer can make a text {growth} times as long, at most {MAX_GROWTH} times is accepted"
            )));
        }
        let mut added = 0usize;
        for token in &self.added_tokens {
            if token.content.len() > MAX_TEXT {
                let (id, length) = (token.id, token.content.len());
                return Err(limit(format!(
                    "added token {id} has {length} bytes, at most {MAX_TEXT} are accepted"
                )));
            }
            added = added.saturating_add(token.content.len());
        }
        if added > MAX_ADDED || !reach.is_harmless(added) {
            return Err(limit(format!(
                "its added tokens have {added} bytes, at most {MAX_ADDED} are accepted and fewer where they grow"
            )));
        }
        Ok(reach)
    }
}

fn limit(problem: String) -> TokenizerError {
    TokenizerError::Limit(problem)
}

/// A component's type name.
fn kind(component: &Value) -> &str {
    component.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Walks over components, counting them.
struct Walk {
    components: usize,
    patterns: usize,
    reach: Reach,
}

impl Walk {
    fn count(&mut self, field: &str) -> Result<(), TokenizerError> {
        self.components += 1;
        if self.components > MAX_COMPONENTS {
            return Err(limit(format!(
                "it has more than {MAX_COMPONENTS} components (the last is in {field})"
            )));
        }
        Ok(())
    }

    /// Looks at one component: nothing in it may be large, but its own parts.
    fn own(&mut self, field: &str, component: &Value) -> Result<(), TokenizerError> {
        self.count(field)?;
        for (name, value) in component.as_object().into_iter().flatten() {
            let text = match value {
                Value::String(text) if name != "precompiled_charsmap" => text,
                Value::Object(pattern) if name == "pattern" => {
                    match pattern.get("Regex").or_else(|| pattern.get("String")) {
                        Some(Value::String(text)) => text,
                        _ => continue,
                    }
                }
                _ => continue,
            };
            if text.len() > MAX_TEXT {
                return Err(limit(format!(
                    "{field}: '{name}' of {} has {} bytes, at most {MAX_TEXT} are accepted",
                    kind(component),
                    text.len()
                )));
            }
            if name == "pattern" {
                self.patterns += text.len();
            }
        }
        if self.patterns > MAX_PATTERNS {
            return Err(limit(format!(
                "{field}: its patterns have more than {MAX_PATTERNS} bytes"
            )));
        }
        Ok(())
    }

    /// Components of which only number and size matter.
    fn texts(&mut self, field: &str, component: &Value) -> Result<(), TokenizerError> {
        self.own(field, component)?;
        for name in ["decoders", "processors", "single", "pair"] {
            for inner in component.get(name).and_then(Value::as_array).into_iter().flatten() {
                self.texts(field, inner)?;
            }
        }
        Ok(())
    }

    fn grows(&mut self, times: u64) {
        self.reach.normalizer = self.reach.normalizer.saturating_mul(times.max(1));
    }

    fn shrinks(&mut self, times: Option<u64>) {
        let both = self.reach.shrink.zip(times);
        self.reach.shrink = both.and_then(|(so_far, times)| so_far.checked_mul(times));
    }

    /// The factors are the largest over all characters (Unicode 15), sequences and singletons included.
    fn normalizer(&mut self, component: &Value) -> Result<(), TokenizerError> {
        if component.is_null() {
            return Ok(());
        }
        self.own("normalizer", component)?;
        let text = |name: &str| component.get(name).and_then(Value::as_str).unwrap_or_default();
        match kind(component) {
            "Sequence" => {
                let inner = component.get("normalizers").and_then(Value::as_array);
                for inner in inner.into_iter().flatten() {
                    self.normalizer(inner)?;
                }
            }
            "BertNormalizer" => {
                self.grows(12);
                self.shrinks(None);
            }
            "StripAccents" | "Nmt" => self.shrinks(None),
            "Strip" => self.reach.drops_spaces = true,
            "NFC" => {
                self.grows(3);
                self.shrinks(Some(4));
            }
            "NFD" => {
                self.grows(3);
                self.shrinks(Some(3));
            }
            "NFKC" | "NFKD" => {
                self.grows(11);
                self.shrinks(Some(5));
            }
            "Lowercase" => {
                self.grows(2);
                self.shrinks(Some(3));
            }
            "ByteLevel" => self.grows(2),
            "Prepend" => self.grows(1 + text("prepend").len() as u64),
            "Replace" => {
                let content = text("content").len() as u64;
                let pattern = component.pointer("/pattern/String").and_then(Value::as_str);
                match pattern.map(|pattern| pattern.len() as u64).filter(|length| *length > 0) {
                    Some(length) => {
                        self.grows(content.div_ceil(length));
                        self.shrinks((content > 0).then(|| length.div_ceil(content.max(1))));
                    }
                    // What matches nothing matches between all bytes.
                    None => {
                        self.grows(content + 1);
                        self.shrinks(None);
                    }
                }
            }
            "Precompiled" => {
                self.grows(longest_replacement(text("precompiled_charsmap"))?);
                self.shrinks(None);
            }
            // The library refuses it, or it is newer than this list.
            _ => self.shrinks(None),
        }
        Ok(())
    }

    fn pre_tokenizer(&mut self, component: &Value) -> Result<(), TokenizerError> {
        if component.is_null() {
            return Ok(());
        }
        self.own("pre_tokenizer", component)?;
        let mut grows = 1;
        match kind(component) {
            "Sequence" => {
                let inner = component.get("pretokenizers").and_then(Value::as_array);
                for inner in inner.into_iter().flatten() {
                    self.pre_tokenizer(inner)?;
                }
            }
            "ByteLevel" => {
                let prefix = component.get("add_prefix_space").and_then(Value::as_bool);
                grows = if prefix.unwrap_or(true) { 4 } else { 2 };
            }
            // A space becomes the mark, and another mark may be put before each piece.
            "Metaspace" => grows = 6,
            "Whitespace" | "WhitespaceSplit" | "BertPreTokenizer" => self.reach.drops_spaces = true,
            "CharDelimiterSplit" => self.shrinks(None),
            "Split" | "Punctuation"
                if component.get("behavior").is_some_and(|behavior| behavior == "Removed") =>
            {
                self.shrinks(None);
            }
            _ => {}
        }
        self.reach.pre_tokenizer = self.reach.pre_tokenizer.saturating_mul(grows);
        Ok(())
    }
}

/// The longest text that a `precompiled_charsmap` puts in the place of something.
///
/// # Errors
/// If it is not what it says: a size, so many bytes of a trie in units of four, then texts that end with 0.
fn longest_replacement(encoded: &str) -> Result<u64, TokenizerError> {
    let wrong = |problem: String| {
        TokenizerError::Parse(format!("normalizer: 'precompiled_charsmap' {problem}"))
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .map_err(|error| wrong(format!("is not base64: {error}")))?;
    let (_, texts) = crate::charsmap::split(&bytes).map_err(wrong)?;
    let longest = texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    Ok(longest as u64)
}
