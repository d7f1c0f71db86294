//! Whether a text can fit the context, before all of it is tokenized.
//!
//! Tokenizing takes hundreds of bytes of memory for each byte of text, so a text that is too long is
//! refused by its bytes alone where that is clear, else piece by piece as soon as it is.

use crate::chat::Segment;
use crate::error::Error;
use crate::tokenizer::Tokenizer;
use crate::wanted;

/// Bytes that are tokenized at a time to find out how many tokens a text has.
const PIECE: usize = 64 << 10;

/// Bytes that one token stands for at least in this bound. Some tokenizers drop white space or take a
/// long word for one unknown token, so that there is no real bound.
const GENEROUS: usize = 64;

/// Bytes of a tokenizer's longest token.
pub(crate) fn longest_token(tokenizer: &Tokenizer) -> usize {
    let ids = 0..tokenizer.vocab_size() as u32;
    ids.filter_map(|id| tokenizer.token_bytes(id)).map(<[u8]>::len).max().unwrap_or(0)
}

/// Whether a text of so many bytes may have at most `context` tokens, each of which has at most
/// `longest` bytes.
///
/// # Errors
/// If it must have more.
pub(crate) fn check_bytes(bytes: usize, longest: usize, context: usize) -> Result<(), Error> {
    let most = longest.max(GENEROUS).saturating_mul(context.saturating_add(1));
    if bytes > most { Err(Error::TextTooLong { bytes, most, context }) } else { Ok(()) }
}

/// Whether a text may have at most `context` tokens.
///
/// # Errors
/// If it has more, or nobody wants to know any more.
pub(crate) fn check(
    tokenizer: &Tokenizer,
    segments: &[Segment],
    context: usize,
) -> Result<(), Error> {
    let bytes: usize = segments.iter().map(|segment| segment.text.len()).sum();
    let tokens = segments.iter().map(|segment| tokenizer.least_tokens(&segment.text)).sum();
    if tokens > context {
        return Err(Error::PromptTooLong { tokens, context });
    }
    // Most texts have more than two bytes a token, and these are short enough anyway.
    if bytes <= PIECE || bytes / 2 <= context {
        return Ok(());
    }
    // A piece may be cut inside what would be one token, hence the tolerance.
    let tolerance = context / 8 + 64;
    let mut tokens = 0;
    for segment in segments {
        let mut rest = segment.text.as_str();
        while !rest.is_empty() {
            wanted::check()?;
            let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
            tokens += tokenizer.encode(piece, false, segment.trusted)?.len();
            if tokens > context + tolerance {
                return Err(Error::PromptTooLong { tokens, context });
            }
            rest = after;
        }
    }
    wanted::check()
}

/// The beginning of a text, with at least `context` tokens where the text has so many.
///
/// # Errors
/// If it cannot be encoded, or nobody wants to know any more.
pub(crate) fn beginning<'a>(
    tokenizer: &Tokenizer,
    text: &'a str,
    context: usize,
) -> Result<&'a str, Error> {
    let (mut end, mut tokens) = (0, 0);
    while end < text.len() && tokens <= context + context / 8 + 64 {
        wanted::check()?;
        let next = text.floor_char_boundary(end + PIECE);
        tokens += tokenizer.encode(&text[end..next], false, false)?.len();
        end = next;
    }
    Ok(&text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let json = include_bytes!("../../../testdata/tokenizers/tok_qwen/tokenizer.json");
        Tokenizer::from_json(json, &[]).unwrap()
    }

    fn checked(text: String, context: usize) -> Result<(), Error> {
        let tokenizer = tokenizer();
        let longest = longest_token(&tokenizer);
        check_bytes(text.len(), longest, context)?;
        check(&tokenizer, &[Segment { text, trusted: false }], context)
    }

    #[test]
    fn texts_that_cannot_fit_are_refused_by_their_bytes_or_by_a_part() {
        let digits = |count: usize| "1".repeat(count);
        assert!(checked(digits(1000), 2000).is_ok());
        // Short enough to be tokenized as a whole, which says how long it is.
        assert!(checked(digits(1000), 500).is_ok());
        assert!(matches!(checked(digits(64 << 20), 2048), Err(Error::TextTooLong { .. })));
        let tokens = match checked(digits(4 << 20), 100_000) {
            Err(Error::PromptTooLong { tokens, .. }) => tokens,
            other => panic!("{other:?}"),
        };
        // It was not read to its end.
        assert!(tokens < 300_000, "{tokens}");
        assert!(checked("the cat sat on the mat. ".repeat(8000), 100_000).is_ok());
    }

    #[test]
    fn the_beginning_of_a_text_has_as_many_tokens_as_the_context() {
        let (tokenizer, text) = (tokenizer(), "12 ".repeat(200_000));
        let cut = beginning(&tokenizer, &text, 1000).unwrap();
        assert_eq!(cut.len(), PIECE);
        assert!(tokenizer.encode(cut, false, false).unwrap().len() > 1000);
        assert_eq!(beginning(&tokenizer, "short", 1000).unwrap(), "short");
    }

    #[test]
    fn nothing_is_tokenized_for_who_has_gone() {
        let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let outcome = wanted::until(flag, || checked("1".repeat(200_000), 90_000));
        assert!(matches!(outcome, Err(Error::GivenUp)), "{outcome:?}");
    }
}
