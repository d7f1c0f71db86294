//! Vocabularies of made-up words, as large as real ones: what reading one costs does not depend on what its
//! words mean.

use std::collections::HashSet;

use keeve_checkpoint::gguf::{Array, Value};

use crate::codes::Random;

/// Bytes of a word at most.
const LONGEST: usize = 12;
/// The token that ends answers, the last one.
const END: &str = "<|endoftext|>";

/// The metadata of a GGUF tokenizer of `size` tokens: the 256 bytes, words that are each merged of two
/// earlier tokens, and one that ends answers. The same size gives the same words. `None` if the bytes and the
/// end are more than `size` tokens.
pub(crate) fn metadata(size: usize) -> Option<Vec<(String, Value)>> {
    let words = size.checked_sub(256 + 1)?;
    let mut tokens: Vec<String> = (0..=u8::MAX).map(|byte| char_of(byte).to_string()).collect();
    let mut known: HashSet<String> = tokens.iter().cloned().collect();
    let (mut merges, mut random) = (Vec::with_capacity(words), Random::new(1));
    while tokens.len() < 256 + words {
        // Short words are the ones that others are made of.
        let most = tokens.len().min(20_000) as u64;
        let [first, second] = [(); 2].map(|()| tokens[(random.next() % most) as usize].as_str());
        let word = format!("{first}{second}");
        if word.chars().count() <= LONGEST && !known.contains(&word) {
            merges.push(format!("{first} {second}"));
            known.insert(word.clone());
            tokens.push(word);
        }
    }
    tokens.push(END.into());
    // As ggml-org/llama.cpp `gguf-py/gguf/constants.py` has them: 1 is a normal token, 3 a control token.
    let mut types = vec![1; size - 1];
    types.push(3);
    let end = u32::try_from(size - 1).ok()?;
    let fields = [
        ("model", Value::string("gpt2")),
        ("pre", Value::string("qwen2")),
        ("tokens", Value::Array(Array::of_strings(&tokens))),
        ("token_type", Value::Array(Array::of_i32(&types))),
        ("merges", Value::Array(Array::of_strings(&merges))),
        ("eos_token_id", Value::u32(end)),
    ];
    Some(fields.map(|(name, value)| (format!("tokenizer.ggml.{name}"), value)).into())
}

/// The character that stands for a byte, as GPT-2 has it: itself if it can be printed, else one of those from
/// 256 on. Source: openai/gpt-2 `src/encoder.py`, `bytes_to_unicode`.
fn char_of(byte: u8) -> char {
    let printed = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printed(byte) {
        return byte.into();
    }
    let before = (0..byte).filter(|&byte| !printed(byte)).count() as u32;
    char::from_u32(256 + before).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_different_and_merged_of_earlier_ones() {
        let size = 3000;
        let fields = metadata(size).unwrap();
        let strings = |name: &str| -> Vec<String> {
            let (_, value) = fields.iter().find(|(key, _)| key.ends_with(name)).unwrap();
            let Value::Array(array) = value else { panic!("{name}") };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            array.strings().unwrap().map(text).collect()
        };
        let (tokens, merges) = (strings(".tokens"), strings(".merges"));
        assert_eq!((tokens.len(), merges.len()), (size, size - 257));
        assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), size);
        for (index, merge) in merges.iter().enumerate() {
            let parts: Vec<_> = merge.split(' ').collect();
            assert_eq!(parts.concat(), tokens[256 + index], "{merge}");
            let earlier = &tokens[..256 + index];
            assert!(parts.iter().all(|part| earlier.contains(&(*part).to_owned())), "{merge}");
        }
        assert_eq!(tokens[size - 1], END);
        assert_eq!((char_of(b' '), char_of(b'a'), char_of(0)), ('\u{120}', 'a', '\u{100}'));
        assert!(metadata(256).is_none());
    }
}
