//! What the tokens of a GGUF vocabulary are for, and which bytes they stand for.

use std::collections::HashMap;
use std::sync::LazyLock;

use keeve_checkpoint::gguf::tokenizer::{GgufTokenizer, TokenType};

use crate::special_tokens::{fim_ids, is_marker};
use crate::spm::SPACE;
use crate::vocabulary::char_of_byte;

/// Tokens that ordinary text never becomes.
pub(crate) fn is_special(kind: TokenType) -> bool {
    matches!(kind, TokenType::Unknown | TokenType::Control)
}

/// The type of each token: that of the file, but for markers that the file calls text.
///
/// Without types in the file, all tokens are text, except markers, bytes, and what the file names as special.
///
/// # Errors
/// If there are fewer types than tokens.
pub(crate) fn kinds(
    found: &GgufTokenizer,
    ids: &HashMap<String, u32>,
) -> Result<Vec<TokenType>, String> {
    let count = found.tokens.len();
    let mut kinds = found.token_types.clone();
    if kinds.is_empty() {
        kinds = vec![TokenType::Normal; count];
        if found.model != "gpt2" {
            for (kind, text) in kinds.iter_mut().zip(&found.tokens) {
                if byte_of(text).is_some() {
                    *kind = TokenType::Byte;
                }
            }
        }
        let fim = fim_ids(found.fim, |text| ids.get(text).copied());
        let control = [found.bos, found.eos, found.eot, found.eom, found.padding, found.separator];
        let more = [found.class, found.mask, fim.prefix, fim.suffix, fim.middle];
        for id in control.into_iter().chain(more).flatten().map(|id| id as usize) {
            // A model without markers may end its texts with an ordinary token.
            if found.tokens.get(id).is_some_and(|text| text.starts_with(['<', '['])) {
                kinds[id] = TokenType::Control;
            }
        }
        if let Some(kind) = found.unknown.and_then(|id| kinds.get_mut(id as usize)) {
            *kind = TokenType::Unknown;
        }
    }
    if kinds.len() < count {
        return Err(format!("{} entries for {count} tokens", kinds.len()));
    }
    kinds.truncate(count);
    // A tag of HTML that Gemma 4 and PLaMo have as text.
    let text_s = ["<|tool_response>", "<|plamo:eos|>"].iter().any(|text| ids.contains_key(*text));
    for (kind, text) in kinds.iter_mut().zip(&found.tokens) {
        if matches!(kind, TokenType::Normal | TokenType::UserDefined)
            && is_marker(text)
            && !(text_s && text == "</s>")
        {
            *kind = TokenType::Control;
        }
    }
    Ok(kinds)
}

/// The byte that a token such as `<0x0A>` stands for.
fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    let digits = digits.filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

/// The tokens of bytes: `<0x41>`, or else, of an ASCII character, the token of that.
pub(crate) fn bytes_of(
    found: &GgufTokenizer,
    ids: &HashMap<String, u32>,
) -> Box<[Option<u32>; 256]> {
    let mut bytes = Box::new([None; 256]);
    for (byte, id) in (0..=255u8).zip(bytes.iter_mut()) {
        let plain = || {
            let plain = char::from(byte).to_string();
            if byte.is_ascii() && found.model == "llama" { ids.get(&plain) } else { None }
        };
        *id = ids.get(&format!("<0x{byte:02X}>")).or_else(plain).copied();
    }
    bytes
}

/// The bytes of token `id`; `letters` if text is written with a letter for each byte.
///
/// # Errors
/// If a byte token is none.
pub(crate) fn piece(
    id: u32,
    text: &str,
    kind: TokenType,
    letters: bool,
) -> Result<Vec<u8>, String> {
    static BYTES: LazyLock<HashMap<char, u8>> =
        LazyLock::new(|| char_of_byte().into_iter().zip(0..=255u8).collect());
    match kind {
        TokenType::Normal if letters => {
            // A token with any character outside the alphabet stands for itself.
            let bytes = text.chars().map(|letter| BYTES.get(&letter).copied());
            Ok(bytes.collect::<Option<_>>().unwrap_or_else(|| text.into()))
        }
        TokenType::Normal => Ok(text.replace(SPACE, " ").into_bytes()),
        TokenType::Unknown | TokenType::Control | TokenType::UserDefined => Ok(text.into()),
        TokenType::Unused => Ok(vec![]),
        TokenType::Byte => byte_of(text)
            .map(|byte| vec![byte])
            .ok_or_else(|| format!("token {id} is {text:?}, expected a byte such as <0x0A>")),
    }
}
