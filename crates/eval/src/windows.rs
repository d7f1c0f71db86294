//! How a text is cut: what the model sees, and what of it counts.

use std::ops::Range;

use crate::Error;

/// A stretch of tokens that a model sees with nothing before it.
///
/// Row `r` of it (the `r`-th input) predicts the token after that input: token `inputs.start + r + 1`
/// of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Which tokens of the text go in.
    pub inputs: Range<usize>,
    /// Whether the first of them is replaced by the tokenizer's BOS, if it has one.
    pub begins_with_bos: bool,
    /// The rows whose predictions count.
    pub scored: Range<usize>,
}

/// Windows of `window` inputs, each `stride` tokens after the one before. Together they predict every
/// token of the text but the first exactly once; where windows overlap, the earlier one does.
///
/// With a stride as long as the window this is the usual perplexity without overlap, the context
/// forgotten at each window.
///
/// # Errors
/// If there is nothing to predict, or the stride is zero or longer than the window.
pub fn plain(tokens: usize, window: usize, stride: usize) -> Result<Vec<Window>, Error> {
    if stride == 0 || stride > window {
        return Err(Error::Windows(format!(
            "the stride is {stride}, expected 1 to {window}, the window"
        )));
    }
    if tokens < 2 {
        return Err(Error::TooShort { tokens, least: 2 });
    }
    let inputs = tokens - 1;
    let (mut windows, mut start, mut predicted) = (vec![], 0, 0);
    while predicted < inputs {
        let end = start + window.min(inputs - start);
        windows.push(Window {
            inputs: start..end,
            begins_with_bos: start > 0,
            scored: predicted - start..end - start,
        });
        predicted = end;
        start += stride;
    }
    Ok(windows)
}

/// The chunks of llama.cpp's `llama-perplexity` (llama.cpp, `tools/perplexity/perplexity.cpp`,
/// `perplexity`): as many whole chunks of `context` tokens as the text has. In each, only predictions
/// made in the second half count, and not the one after the chunk's last token.
///
/// # Errors
/// If the text does not fill two chunks (llama.cpp asks for as many), or `context` is below 4.
pub fn llama_cpp(tokens: usize, context: usize) -> Result<Vec<Window>, Error> {
    if context < 4 {
        return Err(Error::Windows(format!("the window is {context}, expected at least 4")));
    }
    let least = context.saturating_mul(2);
    if tokens < least {
        return Err(Error::TooShort { tokens, least });
    }
    let chunk = |index: usize| {
        let start = index * context;
        Window {
            inputs: start..start + context - 1,
            begins_with_bos: true,
            scored: context / 2..context - 1,
        }
    };
    Ok((0..tokens / context).map(chunk).collect())
}

/// Keeps the first windows, so that no more than `most` predictions count.
pub fn limit(windows: &mut Vec<Window>, most: usize) {
    let mut left = most;
    for window in windows.iter_mut() {
        let kept = window.scored.len().min(left);
        left -= kept;
        if kept < window.scored.len() {
            window.scored.end = window.scored.start + kept;
            window.inputs.end = window.inputs.start + window.scored.end;
        }
    }
    windows.retain(|window| !window.scored.is_empty());
}

/// How many predictions count.
pub fn scored(windows: &[Window]) -> usize {
    windows.iter().map(|window| window.scored.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens that windows predict, in order.
    fn targets(windows: &[Window]) -> Vec<usize> {
        let of = |window: &Window| {
            assert!(window.scored.end <= window.inputs.len());
            let start = window.inputs.start + 1;
            window.scored.clone().map(move |row| start + row)
        };
        windows.iter().flat_map(of).collect()
    }

    #[test]
    fn every_token_but_the_first_is_predicted_once() {
        for tokens in 2..40 {
            for window in 1..20 {
                for stride in 1..=window {
                    let windows = plain(tokens, window, stride).unwrap();
                    assert_eq!(targets(&windows), Vec::from_iter(1..tokens));
                    assert!(windows.iter().all(|cut| (1..=window).contains(&cut.inputs.len())));
                    assert!(windows.iter().all(|cut| cut.inputs.start.is_multiple_of(stride)));
                    assert!(!windows[0].begins_with_bos);
                    assert_eq!(scored(&windows), tokens - 1);
                }
            }
        }
        // The windows of wikitext-2 in the demo model's card.
        assert_eq!(plain(363_869, 2048, 2048).unwrap().len(), 178);
    }

    #[test]
    fn windows_that_make_no_sense_are_refused() {
        for (tokens, window, stride) in [(10, 4, 0), (10, 4, 5), (10, 0, 0), (1, 4, 4), (0, 4, 4)] {
            assert!(plain(tokens, window, stride).is_err());
        }
        assert!(llama_cpp(7, 4).is_err() && llama_cpp(100, 3).is_err());
        assert!(llama_cpp(100, usize::MAX).is_err());
    }

    #[test]
    fn llama_cpp_scores_the_second_half_of_whole_chunks() {
        let windows = llama_cpp(26, 8).unwrap();
        // Rows 4, 5 and 6 of each chunk of 8 predict tokens 5, 6 and 7 of it.
        assert_eq!(targets(&windows), [5, 6, 7, 13, 14, 15, 21, 22, 23]);
        assert!(windows.iter().all(|window| window.begins_with_bos && window.inputs.len() == 7));
        // An odd context: llama.cpp halves downwards.
        assert_eq!(targets(&llama_cpp(10, 5).unwrap()), [3, 4, 8, 9]);
    }

    #[test]
    fn a_limit_cuts_the_last_window_short() {
        let mut windows = plain(21, 8, 8).unwrap();
        limit(&mut windows, 11);
        assert_eq!(targets(&windows), Vec::from_iter(1..12));
        assert_eq!((windows.len(), windows[1].inputs.clone()), (2, 8..11));
        limit(&mut windows, 0);
        assert!(windows.is_empty());
    }
}
