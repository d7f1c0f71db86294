//! Tokens that are known by what they are for: those that a model fills the middle of a text by, and those that end
//! an answer.
//!
//! Files name few of them, so they are also known by their texts, which models share. Texts and rules:
//! ggml-org/llama.cpp `src/llama-vocab.cpp` (`llama_vocab::impl::load`).

use keeve_checkpoint::gguf::tokenizer::{FimIds, GgufTokenizer};

/// The tokens of fill-in-the-middle. A prompt is `prefix`, the text before the gap, `suffix`, the text after it,
/// `middle`; the answer is what fills the gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fim {
    /// Before the text that comes before the gap.
    pub prefix: u32,
    /// Before the text that comes after the gap.
    pub suffix: u32,
    /// Before what fills the gap.
    pub middle: u32,
    /// Padding, if there is such a token: it ends an answer.
    pub padding: Option<u32>,
    /// Before the name of a repository, if there is such a token: it ends an answer.
    pub repository: Option<u32>,
    /// Between files, if there is such a token: it ends an answer.
    pub separator: Option<u32>,
}

const PREFIX: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<\u{ff5c}fim\u{2581}begin\u{ff5c}>",
    "<PRE>",
    "\u{2581}<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const SUFFIX: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<\u{ff5c}fim\u{2581}hole\u{ff5c}>",
    "<SUF>",
    "\u{2581}<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const MIDDLE: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<\u{ff5c}fim\u{2581}end\u{ff5c}>",
    "<MID>",
    "\u{2581}<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
const PADDING: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const REPOSITORY: &[&str] =
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const SEPARATOR: &[&str] = &["<|file_sep|>"];

/// The end of a turn, where the file does not name it.
const TURN_ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<end_of_utterance>",
];

/// What ends an answer wherever there is such a token. All but the last are llama.cpp's.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "[e~[",
    "<|end_of_turn|>",
];

/// The tokens for filling the middle: those that the file names, else those with a known text.
pub(crate) fn fim_ids(named: FimIds, token_id: impl Fn(&str) -> Option<u32>) -> FimIds {
    let known = |named: Option<u32>, texts: &[&str]| {
        named.or_else(|| texts.iter().find_map(|text| token_id(text)))
    };
    FimIds {
        prefix: known(named.prefix, PREFIX),
        suffix: known(named.suffix, SUFFIX),
        middle: known(named.middle, MIDDLE),
        padding: known(named.padding, PADDING),
        repository: known(named.repository, REPOSITORY),
        separator: known(named.separator, SEPARATOR),
    }
}

/// [`Fim`], if all three markers are there and differ.
pub(crate) fn fim(ids: FimIds) -> Option<Fim> {
    let (prefix, suffix, middle) = (ids.prefix?, ids.suffix?, ids.middle?);
    let distinct = prefix != suffix && suffix != middle && prefix != middle;
    distinct.then_some(Fim {
        prefix,
        suffix,
        middle,
        padding: ids.padding,
        repository: ids.repository,
        separator: ids.separator,
    })
}

/// The tokens that end an answer of a GGUF file's model, by the rules of llama.cpp.
///
/// Two texts are ends in some vocabularies and not in others: `<|end|>` ends a message, not an answer, where there
/// are `<|return|>` and `<|call|>` (gpt-oss) or `<|flush|>` and `<|calls|>` (Solar); `</s>` is text where there is
/// `<|tool_response>` (Gemma 4) or `<|plamo:eos|>`.
pub(crate) fn end_ids(found: &GgufTokenizer, token_id: impl Fn(&str) -> Option<u32>) -> Vec<u32> {
    let fim = fim_ids(found.fim, &token_id);
    let mut ids: Vec<u32> =
        [fim.padding, fim.repository, fim.separator].into_iter().flatten().collect();
    ids.extend(ENDS.iter().filter_map(|text| token_id(text)));
    let eot = found.eot.or_else(|| TURN_ENDS.iter().find_map(|text| token_id(text)));
    ids.extend([found.eos, eot, found.eom].into_iter().flatten());
    let ends = |text: &str| token_id(text).is_some_and(|id| ids.contains(&id));
    let call = ends("<|call|>") || ends("<|calls|>");
    let message_end = call && (ends("<|return|>") || ends("<|flush|>"));
    let normal_s = ends("<|tool_response>") || ends("<|plamo:eos|>");
    let dropped = [("<|end|>", message_end), ("</s>", normal_s)];
    for id in dropped.into_iter().filter_map(|(text, drop)| token_id(text).filter(|_| drop)) {
        ids.retain(|other| *other != id);
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Whether a token is a marker whatever the type that the file gives it: llama.cpp calls that a bug of the file.
pub(crate) fn is_marker(text: &str) -> bool {
    [TURN_ENDS, ENDS, PREFIX, SUFFIX, MIDDLE, PADDING, REPOSITORY, SEPARATOR]
        .iter()
        .any(|texts| texts.contains(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids_of(texts: &[&str]) -> impl Fn(&str) -> Option<u32> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        move |text| texts.iter().position(|known| known == text).map(|id| id as u32)
    }

    #[test]
    fn named_ids_go_before_texts() {
        let lookup = ids_of(&["<PRE>", "<SUF>", "<MID>", "x"]);
        let named = FimIds { prefix: Some(3), ..FimIds::default() };
        let ids = fim_ids(named, &lookup);
        assert_eq!(
            (ids.prefix, ids.suffix, ids.middle, ids.padding),
            (Some(3), Some(1), Some(2), None)
        );
        assert_eq!(fim(ids).map(|fim| (fim.prefix, fim.suffix, fim.middle)), Some((3, 1, 2)));
        let same = FimIds { prefix: Some(1), ..FimIds::default() };
        assert_eq!(fim(fim_ids(same, &lookup)), None);
        assert_eq!(fim(fim_ids(FimIds::default(), ids_of(&["<PRE>"]))), None);
    }

    #[test]
    fn two_ends_depend_on_their_company() {
        let found = GgufTokenizer::default();
        assert_eq!(end_ids(&found, ids_of(&["<|end|>", "</s>", "x"])), [0, 1]);
        assert_eq!(end_ids(&found, ids_of(&["<|end|>", "<|return|>", "<|call|>"])), [1, 2]);
        assert_eq!(end_ids(&found, ids_of(&["<|end|>", "<|return|>"])), [0, 1]);
        assert_eq!(end_ids(&found, ids_of(&["</s>", "<|tool_response>", "<eos>"])), [1, 2]);
        let named = GgufTokenizer { eos: Some(7), eom: Some(8), ..found };
        assert_eq!(end_ids(&named, ids_of(&["<|file_sep|>"])), [0, 7, 8]);
    }
}
