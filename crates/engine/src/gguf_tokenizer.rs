//! Tokenizers from GGUF metadata.
//!
//! A GGUF file carries a vocabulary, token types, merges and scores, and only *names* the rule that splits
//! text before merging (`pre_tokenizers.rs`). Defaults, what token types mean and which markers take white space with
//! them: ggml-org/llama.cpp `src/llama-vocab.cpp`.
//!
//! Like llama.cpp, and unlike the Hugging Face tokenizer of the Qwen models, text is not
//! NFC-normalised here: the file does not ask for it.
//!
//! What is amiss in a file and leaves no doubt about the model is taken as llama.cpp takes it, with a note where it may
//! cost something: a text that several tokens have becomes the first of them, empty and unused tokens are never made,
//! and what has no token is left out.

use std::borrow::Cow;
use std::collections::HashMap;

use keeve_checkpoint::gguf::tokenizer::{GgufTokenizer, TokenType};

use crate::bpe::{Bpe, BpeTables};
use crate::charsmap::Charsmap;
use crate::gguf_encoder::{Algorithm, GgufEncoder};
use crate::gguf_pieces::{bytes_of, is_special, kinds, piece};
use crate::least::Least;
use crate::plamo2::Plamo2;
pub use crate::pre_tokenizers::PreTokenizer;
use crate::pre_tokenizers::{GPT2, Splitter, name_of, pre_tokenizer};
use crate::prefixes::Prefixes;
use crate::rwkv::{Rwkv, unescaped};
use crate::special_tokens;
use crate::spm::{SpacePrefix, Spm};
use crate::tokenizer::{Facts, Tokenizer, TokenizerError};
use crate::unigram::{Normalizer, Unigram};
use crate::vocabulary::Vocabulary;
use crate::whole_tokens::{WholeToken, WholeTokens};
use crate::word_piece::WordPiece;

/// Why GGUF metadata does not describe a tokenizer this program can build.
#[derive(Debug, thiserror::Error)]
pub enum GgufTokenizerError {
    /// `tokenizer.ggml.model` is not supported.
    #[error(
        "tokenizer.ggml.model {0:?} is not supported (expected \"gpt2\", \"llama\", \"t5\", \"bert\", \"gemma4\", \"rwkv\", \"plamo2\" or \"whitespace\"); use the model's tokenizer.json"
    )]
    Model(String),
    /// A field contradicts itself or another one.
    #[error("tokenizer.ggml.{field}: {problem}")]
    Field {
        /// Key without its prefix.
        field: &'static str,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The tokenizer could not be built from the checked fields.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// The longest token, in bytes: some algorithms take the square of it.
const MAX_TOKEN: usize = 16 << 10;
/// The same where all lengths are tried at each place of a text.
const MAX_TRIED: usize = 1 << 10;

/// What a SentencePiece model says that GGUF has no key for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SentencePiece {
    /// The space before text is put at the start only.
    pub prefix_once: bool,
    /// That space is put after text.
    pub suffix: bool,
    /// Spaces are not written as U+2581.
    pub plain_spaces: bool,
    /// Text is normalized also where it is merged by score.
    pub normalizes: bool,
}

/// Builds the tokenizer.
///
/// Control and unknown tokens become special, user-defined tokens are recognised in all text.
///
/// # Errors
/// If `model` is not supported, lists differ in length, a byte's token is none, a score is not a number, or a character
/// map is damaged. The message names the field.
pub fn build(found: &GgufTokenizer) -> Result<Tokenizer, GgufTokenizerError> {
    build_from(found, SentencePiece::default())
}

/// [`build`], with what a SentencePiece model adds.
pub(crate) fn build_from(
    found: &GgufTokenizer,
    own: SentencePiece,
) -> Result<Tokenizer, GgufTokenizerError> {
    let found = &*within(found);
    let mut parts = Parts::read(found)?;
    let algorithm = match found.model.as_str() {
        "gpt2" | "gemma4" | "whitespace" => parts.by_rank()?,
        "llama" => parts.by_score(own)?,
        "t5" => parts.by_probability(own)?,
        "bert" => parts.by_word(),
        "rwkv" => parts.by_length(),
        "plamo2" => parts.by_cost()?,
        other => return Err(GgufTokenizerError::Model(other.into())),
    };
    parts.finish(algorithm)
}

/// Special ids that are no tokens are as absent.
fn within(found: &GgufTokenizer) -> Cow<'_, GgufTokenizer> {
    let mut found = Cow::Borrowed(found);
    let count = found.tokens.len();
    let past = |id: &Option<u32>| id.is_some_and(|id| id as usize >= count);
    fn ids(found: &mut GgufTokenizer) -> [&mut Option<u32>; 15] {
        let fim = &mut found.fim;
        [
            &mut found.bos,
            &mut found.eos,
            &mut found.eot,
            &mut found.eom,
            &mut found.unknown,
            &mut found.padding,
            &mut found.separator,
            &mut found.class,
            &mut found.mask,
            &mut fim.prefix,
            &mut fim.suffix,
            &mut fim.middle,
            &mut fim.padding,
            &mut fim.repository,
            &mut fim.separator,
        ]
    }
    // Those of a file are within; tables are large, so they are copied only if something is amiss.
    let named = [found.bos, found.eos, found.eot, found.eom, found.unknown, found.padding];
    let more = [found.separator, found.class, found.mask];
    let fim = [found.fim.prefix, found.fim.suffix, found.fim.middle];
    let rest = [found.fim.padding, found.fim.repository, found.fim.separator];
    if named.iter().chain(&more).chain(&fim).chain(&rest).any(past) {
        for id in ids(found.to_mut()) {
            *id = id.filter(|id| (*id as usize) < count);
        }
    }
    found
}

/// How the rule that GGUF files call `name` (`tokenizer.ggml.pre`) splits text; `None` if it is not known.
pub fn pre_tokenizer_rules(name: &str) -> Option<PreTokenizer> {
    pre_tokenizer(name)
}

/// The name that GGUF files have (`tokenizer.ggml.pre`) for the way in which a parsed `tokenizer.json`
/// splits text before merging; `None` if there is none, or it does not merge bytes.
pub fn pre_tokenizer_name(json: &serde_json::Value) -> Option<&'static str> {
    let is = |step: &serde_json::Value, kind: &str| step.get("type").is_some_and(|t| t == kind);
    let step = json.get("pre_tokenizer")?;
    let steps = match step.get("pretokenizers") {
        Some(steps) => steps.as_array()?.iter().collect(),
        None => vec![step],
    };
    let (last, splits) = steps.split_last()?;
    let mut patterns = Vec::new();
    for split in splits {
        match split.pointer("/pattern/Regex").and_then(serde_json::Value::as_str) {
            Some(pattern) if is(split, "Split") => patterns.push(pattern),
            // Each digit by itself, or runs of them.
            None if is(split, "Digits") => {
                let each = split.get("individual_digits").is_some_and(|each| each == true);
                patterns.push(if each { r"\p{N}" } else { r"\p{N}+" });
            }
            _ => return None,
        }
    }
    if !is(last, "ByteLevel") {
        return None;
    }
    if last.get("use_regex").is_none_or(|own| own == true) {
        patterns.push(GPT2);
    }
    let whole = json.pointer("/model/ignore_merges").is_some_and(|whole| whole == true);
    name_of(&patterns, whole)
}

/// What the algorithms share while a tokenizer is built.
struct Parts<'a> {
    found: &'a GgufTokenizer,
    kinds: Vec<TokenType>,
    /// Of a text that several tokens have, the first.
    ids: HashMap<String, u32>,
    notes: Vec<String>,
    /// Whether a BOS and an EOS are put around text if the file does not say.
    adds: (bool, bool),
    /// BOS and EOS.
    ends: (Option<u32>, Option<u32>),
    /// Whether the first token of decoded text loses a space.
    first_loses_space: bool,
    /// The pieces of the tokens are letters for bytes.
    letters: bool,
    /// A token comes of every byte.
    complete: bool,
}

impl<'a> Parts<'a> {
    fn read(found: &'a GgufTokenizer) -> Result<Self, GgufTokenizerError> {
        if u32::try_from(found.tokens.len()).is_err() {
            return Err(field("tokens", "more tokens than 32-bit ids".to_owned()));
        }
        let most = match &*found.model {
            "t5" | "bert" | "rwkv" | "plamo2" => MAX_TRIED,
            _ => MAX_TOKEN,
        };
        let long = found.tokens.iter().position(|text| text.len() > most);
        if let Some(id) = long {
            let length = found.tokens[id].len();
            let problem = format!("token {id} has {length} bytes, at most {most} are accepted");
            return Err(field("tokens", problem));
        }
        let mut ids = HashMap::with_capacity(found.tokens.len());
        for (id, text) in (0..).zip(&found.tokens) {
            if !text.is_empty() {
                ids.entry(text.clone()).or_insert(id);
            }
        }
        let kinds = kinds(found, &ids).map_err(|problem| field("token_type", problem))?;
        Ok(Self {
            kinds,
            ids,
            notes: found.notes.clone(),
            adds: (false, false),
            ends: (found.bos, found.eos),
            first_loses_space: false,
            letters: false,
            complete: false,
            found,
        })
    }

    /// Whether text may become the token, by id.
    fn text_tokens(&self) -> Vec<bool> {
        self.kinds.iter().map(|kind| !is_special(*kind) && *kind != TokenType::Byte).collect()
    }

    /// The id that a vocabulary of the kind has by custom, where there is such a token.
    fn by_custom(&self, named: Option<u32>, id: u32) -> Option<u32> {
        named.or(Some(id).filter(|id| (*id as usize) < self.found.tokens.len()))
    }

    fn by_rank(&mut self) -> Result<Algorithm, GgufTokenizerError> {
        let found = self.found;
        let named = match found.model.as_str() {
            // Whatever the file says.
            "gemma4" => "gemma4",
            _ => found.pre.as_deref().unwrap_or_default(),
        };
        let pre = pre_tokenizer(named).or_else(|| {
            let problem = match named {
                "" => "is missing".to_owned(),
                name => format!("is {name:?}, which is not known"),
            };
            self.notes.push(format!(
                "'tokenizer.ggml.pre' {problem}: text is split by the default rule; if that is not the model's own, its \
                 answers are worse. A newer conversion of the model names its rule"
            ));
            pre_tokenizer("default")
        });
        let pre = pre.ok_or_else(|| field("pre", "has no default".into()))?;
        let splitter = Splitter::new(pre.patterns, found.model == "whitespace")
            .map_err(|problem| field("pre", problem))?;
        let characters = pre.characters.then(|| (bytes_of(found, &self.ids), pre.marks));
        let (bpe, no_pairs) = Bpe::new(BpeTables {
            splitter,
            ids: &self.ids,
            plain: self.text_tokens(),
            merges: &found.merges,
            characters,
            whole_words: pre.ignore_merges,
            whole_newlines: pre.whole_newlines,
        });
        if no_pairs > 0 {
            self.notes.push(format!(
                "'tokenizer.ggml.merges': {no_pairs} of {} are no pairs and are left out",
                found.merges.len()
            ));
        }
        self.adds.0 = pre.add_bos;
        self.letters = bpe.has_letters();
        self.complete = bpe.is_complete() && found.model != "whitespace";
        Ok(Algorithm::Bpe(Box::new(bpe)))
    }

    fn by_score(&mut self, own: SentencePiece) -> Result<Algorithm, GgufTokenizerError> {
        let found = self.found;
        self.adds = (true, false);
        self.ends = (self.by_custom(found.bos, 1), self.by_custom(found.eos, 2));
        let bytes = *bytes_of(found, &self.ids);
        // Bytes that are in no text need no token.
        self.complete = (0..=255u8)
            .zip(&bytes)
            .all(|(byte, id)| id.is_some() || matches!(byte, 0xc0 | 0xc1 | 0xf5..));
        let prefix = self.prefix(found.add_space_prefix.unwrap_or(true), own);
        let normalizer = if own.normalizes { Some(self.normalizer(own)?) } else { None };
        self.complete &= normalizer.is_none();
        // As SentencePiece does where a model has no bytes.
        let unknown = found.unknown.filter(|_| !self.kinds.contains(&TokenType::Byte));
        let spm = Spm { ranks: self.ranks()?, bytes, unknown, prefix, normalizer };
        Ok(Algorithm::Spm(Box::new(spm)))
    }

    fn by_probability(&mut self, own: SentencePiece) -> Result<Algorithm, GgufTokenizerError> {
        let found = self.found;
        self.adds = (false, true);
        self.ends.1 = self.by_custom(found.eos, 1);
        let unknown = self.by_custom(found.unknown, 2);
        let unknown = unknown.ok_or_else(|| {
            field("unknown_token_id", "absent, but text may become it".to_owned())
        })?;
        let scores = self.scores()?;
        let kinds = || self.kinds.iter().zip(&scores);
        let normal = kinds().filter(|(kind, _)| **kind == TokenType::Normal);
        let lowest = normal.map(|(_, score)| *score).fold(f32::MAX, f32::min).min(0.0);
        let counted = kinds().map(|(kind, score)| match kind {
            TokenType::UserDefined => 0.0,
            _ => f64::from(*score),
        });
        let counted = counted.collect();
        let texts = |wanted: fn(TokenType) -> bool| {
            let of = (0..).zip(&found.tokens).zip(&self.kinds);
            let of = of.filter(move |(_, kind)| wanted(**kind));
            Prefixes::new(of.map(|((id, text), _)| (text.clone().into_bytes(), id)))
        };
        let tokens = texts(|kind| {
            matches!(kind, TokenType::Normal | TokenType::UserDefined | TokenType::Unused)
        });
        let bytes = self.kinds.contains(&TokenType::Byte).then(|| {
            let bytes = bytes_of(found, &self.ids);
            Box::new(bytes.map(|id| id.unwrap_or(unknown)))
        });
        let prefix = self.prefix(found.add_space_prefix.unwrap_or(false), own);
        let normalizer = self.normalizer(own)?;
        let unigram = Unigram::new(normalizer, prefix, tokens, counted, lowest, unknown, bytes);
        Ok(Algorithm::Unigram(Box::new(unigram)))
    }

    fn by_word(&mut self) -> Algorithm {
        let found = self.found;
        self.adds = (true, true);
        self.ends =
            (self.by_custom(found.bos.or(found.class), 101), self.by_custom(found.separator, 102));
        self.first_loses_space = true;
        let lowercase = found.lowercase.unwrap_or(true);
        let strip_accents = found.strip_accents.unwrap_or(lowercase);
        let longest = found.tokens.iter().map(String::len).max().unwrap_or(0);
        let unknown = self.by_custom(found.unknown, 100);
        Algorithm::WordPiece(WordPiece::new(
            lowercase,
            strip_accents,
            longest,
            self.text_tokens(),
            unknown,
        ))
    }

    fn by_length(&mut self) -> Algorithm {
        let texts = (0..).zip(&self.found.tokens).zip(self.text_tokens());
        let texts = texts.filter(|(_, is_text)| *is_text);
        let tokens = Prefixes::new(texts.map(|((id, text), _)| (unescaped(text), id)));
        Algorithm::Rwkv(Rwkv { tokens, unknown: self.found.unknown })
    }

    fn by_cost(&mut self) -> Result<Algorithm, GgufTokenizerError> {
        let found = self.found;
        self.ends = (self.by_custom(found.bos, 1), self.by_custom(found.eos, 2));
        let texts = (0..).zip(&found.tokens).zip(self.text_tokens());
        let texts = texts.filter(|(_, is_text)| *is_text);
        let tokens = Prefixes::new(texts.map(|((id, text), _)| (text.clone().into_bytes(), id)));
        let bytes = bytes_of(found, &self.ids);
        self.complete = bytes.iter().all(Option::is_some);
        let scores = match found.scores.is_empty() {
            true => vec![0.0; found.tokens.len()],
            false => found.scores.clone(),
        };
        Ok(Algorithm::Plamo2(Plamo2::new(tokens, &scores, bytes)))
    }

    /// Where a space is put before text, which decoding takes away again.
    fn prefix(&mut self, wanted: bool, own: SentencePiece) -> SpacePrefix {
        self.first_loses_space = wanted && !own.suffix;
        match (wanted, own.prefix_once) {
            (false, _) => SpacePrefix::Never,
            (true, false) => SpacePrefix::Each,
            (true, true) => SpacePrefix::Start,
        }
    }

    fn normalizer(&self, own: SentencePiece) -> Result<Normalizer, GgufTokenizerError> {
        let found = self.found;
        let charsmap = Charsmap::read(&found.charsmap)
            .map_err(|problem| field("precompiled_charsmap", problem))?;
        let kept = (0..).zip(&found.tokens).zip(&self.kinds);
        let kept = kept.filter(|(_, kind)| **kind == TokenType::UserDefined);
        Ok(Normalizer {
            charsmap,
            kept: Prefixes::new(kept.map(|((id, text), _)| (text.clone().into_bytes(), id))),
            merges_spaces: found.remove_extra_whitespaces.unwrap_or(false),
            marks: !own.plain_spaces,
            suffix: own.suffix,
        })
    }

    /// The scores; all 0 if there are none.
    fn scores(&mut self) -> Result<Vec<f32>, GgufTokenizerError> {
        let (scores, count) = (&self.found.scores, self.found.tokens.len());
        if scores.is_empty() && count > 0 {
            self.notes.push(
                "'tokenizer.ggml.scores' is missing: all tokens count alike, so text is split otherwise than in training"
                    .into(),
            );
            return Ok(vec![0.0; count]);
        }
        if scores.len() != count {
            return Err(field("scores", format!("{} entries for {count} tokens", scores.len())));
        }
        match scores.iter().position(|score| score.is_nan()) {
            Some(id) => {
                Err(field("scores", format!("token {id} has a score that is not a number")))
            }
            None => Ok(scores.clone()),
        }
    }

    /// The places of the scores among all scores; `None` for tokens that are not made by merging.
    fn ranks(&mut self) -> Result<Vec<Option<u32>>, GgufTokenizerError> {
        let scores = self.scores()?;
        // Adding 0 makes the two zeros one.
        let mut sorted: Vec<f32> = scores.iter().map(|score| score + 0.0).collect();
        sorted.sort_by(f32::total_cmp);
        sorted.dedup();
        let rank = |score: f32| sorted.partition_point(|other| *other < score) as u32;
        let both = scores.iter().zip(self.text_tokens());
        Ok(both.map(|(score, is_text)| is_text.then(|| rank(*score))).collect())
    }

    /// The tokens to put before and after text.
    fn around(&mut self) -> (Option<u32>, Option<u32>) {
        let (bos, eos) = self.ends;
        let asked = [
            ("bos_token_id", bos, self.found.add_bos, self.adds.0),
            ("eos_token_id", eos, self.found.add_eos, self.adds.1),
        ];
        let [before, after] = asked.map(|(name, id, asked, by_default)| {
            if asked == Some(true) && id.is_none() {
                self.notes.push(format!(
                    "'tokenizer.ggml.{name}' is absent, but text is to have that token; it gets none"
                ));
            }
            id.filter(|_| asked.unwrap_or(by_default))
        });
        (before, after)
    }

    fn finish(mut self, algorithm: Algorithm) -> Result<Tokenizer, GgufTokenizerError> {
        let (mut before, after) = self.around();
        if matches!(&algorithm, Algorithm::Bpe(bpe) if !bpe.has_letters()) && self.adds.0 {
            // llama.cpp puts it there even where the file says not to (PR 21500).
            before = self.ends.0;
        }
        let found = self.found;
        let whole = (0..)
            .zip(&found.tokens)
            .zip(&self.kinds)
            .filter(|((id, text), _)| self.ids.get(*text) == Some(id))
            .filter(|(_, kind)| is_special(**kind) || **kind == TokenType::UserDefined)
            .map(|((id, text), kind)| {
                let (strips_left, strips_right) = strips(found, &self.ids, text);
                let special = is_special(*kind);
                WholeToken { id, text: text.clone(), special, strips_left, strips_right }
            });
        let whole =
            WholeTokens::new(whole.collect()).map_err(|problem| field("tokens", problem))?;
        let mut pieces = Vec::with_capacity(found.tokens.len());
        for ((id, text), kind) in (0..).zip(&found.tokens).zip(&self.kinds) {
            let bytes = match found.model.as_str() {
                "rwkv" => unescaped(text),
                _ => piece(id, text, *kind, self.letters)
                    .map_err(|problem| field("tokens", problem))?,
            };
            pieces.push((bytes, is_special(*kind)));
        }
        let longest = found.tokens.iter().map(String::len).max().unwrap_or(0);
        let least = self.complete.then(|| Least { bytes: longest, but_spaces: whole.strip() });
        let vocabulary = Vocabulary::of_bytes(pieces.into_iter(), self.first_loses_space);
        let facts = Facts {
            least,
            fim: found.fim,
            ends: special_tokens::end_ids(found, |text| self.ids.get(text).copied()),
            notes: self.notes,
        };
        let tokens = found.tokens.clone();
        let encoder = GgufEncoder { tokens, ids: self.ids, whole, before, after, algorithm };
        Ok(Tokenizer::from_gguf(encoder, vocabulary, facts))
    }
}

/// Whether white space on the left and right of a marker belongs to it.
///
/// GGUF files do not say it. llama.cpp goes by names: of the pre-tokenizer, of the architecture and, for Phi-3, of the
/// model (`general.name`). A model's name is anybody's choice, so Phi-3 is known here by its architecture with a
/// SentencePiece vocabulary (Phi-4 has the same architecture and a byte-level one), or by the markers that only this
/// vocabulary has, under whatever architecture.
fn strips(found: &GgufTokenizer, ids: &HashMap<String, u32>, text: &str) -> (bool, bool) {
    let pre = found.pre.as_deref().unwrap_or_default();
    let architecture = found.architecture.as_deref().unwrap_or_default();
    let mask = ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|name| pre.contains(name))
        || ["nomic-bert-moe", "jina-bert-v3"].iter().any(|name| architecture.contains(name));
    let phi3 = ["<|user|>", "<|assistant|>", "<|end|>", "<|placeholder1|>"];
    let phi3 = found.model == "llama"
        && (architecture == "phi3" || phi3.iter().all(|marker| ids.contains_key(*marker)));
    let left = mask && text == "<mask>" || pre == "modern-bert" && text == "[MASK]";
    let right = phi3 && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
    (left, right)
}

fn field(field: &'static str, problem: String) -> GgufTokenizerError {
    GgufTokenizerError::Field { field, problem }
}
