//! How much context, and how large images, there is memory for.

use crate::error::Error;
use crate::load::EngineOptions;

/// What decides how much context there is room for.
pub(crate) struct Sizes {
    pub page_tokens: usize,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Bytes of weights.
    pub weights: u64,
    /// Positions that the model was made for.
    pub max_positions: usize,
    /// Bytes of free memory, where that is known.
    pub available: Option<u64>,
    /// What seeing takes, if the model sees.
    pub seeing: Option<Seeing>,
}

/// What seeing takes.
#[derive(Clone, Copy)]
pub(crate) struct Seeing {
    /// Bytes that are worked with for each token of the images that are seen together.
    pub token_bytes: u64,
    /// The most tokens of an image that is ever seen.
    pub tokens: usize,
    /// Tokens of small images that are seen together.
    pub together: usize,
}

impl Seeing {
    /// Bytes that seeing images of at most so many tokens takes.
    fn bytes(&self, tokens: usize) -> u64 {
        self.token_bytes.saturating_mul(tokens.max(self.together) as u64)
    }
}

/// How much context there is room for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    pub context: usize,
    pub pages: usize,
    /// The most tokens of an image; 0 where nothing is seen.
    pub image_tokens: usize,
    /// Bytes that seeing such an image takes.
    pub image_bytes: u64,
    pub note: Option<String>,
}

/// The fewest pages that a shortened context may have; with fewer, the model is refused.
const FEWEST_PAGES: usize = 8;

/// Compares weights and state with the memory there is.
///
/// # Errors
/// If they, the least context and small images do not fit into it together.
pub(crate) fn fit(sizes: &Sizes, options: &EngineOptions) -> Result<Fit, Error> {
    let Sizes { page_tokens, weights, max_positions, available, seeing, .. } = *sizes;
    let page_bytes = sizes.page_bytes.max(1);
    // Positions and page numbers have 32 bits.
    let limit = u32::MAX as usize;
    let mut context = options.max_context.unwrap_or(max_positions).clamp(1, limit);
    let mut notes = vec![];
    if context > max_positions {
        notes.push(format!("the model was made for {max_positions} tokens, not {context}"));
    }
    if let Some(pages) = options.kv_pages {
        context = context.min(pages.max(1).saturating_mul(page_tokens));
    }
    let mut pages = context.div_ceil(page_tokens).max(options.kv_pages.unwrap_or(0).min(limit));
    // Weights are not in memory yet: they come from the mapped file as they are used.
    let free = available.map(|bytes| bytes.saturating_sub(weights));
    // Small images are always seen. Large ones come before a context that nobody asked for, up to a quarter of
    // the memory.
    let asked = options.max_context.is_some() || options.kv_pages.is_some();
    let least = seeing.map_or(0, |seeing| seeing.bytes(seeing.together.min(seeing.tokens)));
    let reserved = |free: u64| match seeing.filter(|_| !asked) {
        None => least,
        // No image of a prompt has more tokens than there is context.
        Some(seeing) => seeing.bytes(seeing.tokens.min(context)).min(free / 4).max(least),
    };
    let room = free.map(|free| free.saturating_sub(reserved(free)) / page_bytes);
    let room = room.map(|pages| usize::try_from(pages).unwrap_or(limit).min(limit));
    if let Some(room) = room.filter(|&room| pages > room) {
        if asked || room < FEWEST_PAGES {
            return Err(Error::Memory {
                weights,
                state: (pages as u64).saturating_mul(page_bytes),
                images: least,
                context,
                available: available.unwrap_or(0),
            });
        }
        let wanted = context;
        (pages, context) = (room, room.saturating_mul(page_tokens));
        notes.push(format!("the context is {context} tokens instead of {wanted}: memory is short"));
    }
    if options.kv_pages.is_none() {
        // Pages cost nothing until they are used, but all of them may be. Where free memory is not
        // known, one sequence of full length must do.
        let several = pages.saturating_mul(options.max_sequences.max(1));
        pages = several.min(room.unwrap_or(0) / 2).max(pages);
    }
    let state = (pages as u64).saturating_mul(page_bytes);
    let left = free.map(|bytes| bytes.saturating_sub(state));
    let image_tokens = seeing.map_or(0, |seeing| {
        let wanted = seeing.tokens.min(context);
        let fitting = left.map(|bytes| bytes / seeing.token_bytes.max(1));
        let fitting = fitting.map_or(wanted, |tokens| usize::try_from(tokens).unwrap_or(wanted));
        let most = wanted.min(fitting.max(seeing.together));
        if most < wanted {
            notes.push(format!("images have at most {most} tokens: memory is short"));
        }
        most
    });
    let image_bytes = seeing.map_or(0, |seeing| seeing.bytes(image_tokens));
    let note = (!notes.is_empty()).then(|| notes.join("; "));
    Ok(Fit { context, pages, image_tokens, image_bytes, note })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(available: Option<u64>) -> Sizes {
        let seeing = None;
        let (page_tokens, page_bytes, weights, max_positions) = (16, 1000, 5000, 1600);
        Sizes { page_tokens, page_bytes, weights, max_positions, available, seeing }
    }

    #[test]
    fn pages_are_for_several_sequences_but_at_most_half_of_free_memory() {
        let options = EngineOptions::default();
        let fits = |available| fit(&sizes(available), &options).map(|fit| (fit.context, fit.pages));
        assert_eq!(fits(Some(u64::MAX)).ok(), Some((1600, 1600)));
        assert_eq!(fits(Some(1_005_000)).ok(), Some((1600, 500)));
        assert_eq!(fits(Some(105_000)).ok(), Some((1600, 100)));
        assert_eq!(fits(None).ok(), Some((1600, 100)));
    }

    #[test]
    fn a_context_that_was_not_asked_for_shrinks_and_one_that_was_is_refused() {
        let mut options = EngineOptions::default();
        let shrunk = fit(&sizes(Some(55_999)), &options).expect("a smaller context");
        assert_eq!((shrunk.context, shrunk.pages), (800, 50));
        assert!(shrunk.note.is_some_and(|note| note.contains("800 tokens instead of 1600")));
        assert!(fit(&sizes(Some(12_000)), &options).is_err());
        options.max_context = Some(1600);
        let error = fit(&sizes(Some(55_999)), &options).expect_err("too little").to_string();
        assert!(error.contains("100000 bytes for a context of 1600"), "{error}");
    }

    #[test]
    fn any_options_are_answered_without_overflow() {
        let numbers = [1, 15, 16, 17, 1 << 31, u32::MAX as usize, usize::MAX];
        for (&context, &pages) in numbers.iter().flat_map(|a| numbers.iter().map(move |b| (a, b))) {
            for available in [None, Some(0), Some(1 << 20), Some(u64::MAX)] {
                let options = EngineOptions {
                    max_context: Some(context),
                    kv_pages: Some(pages),
                    max_sequences: usize::MAX,
                    ..EngineOptions::default()
                };
                let Ok(fit) = fit(&sizes(available), &options) else { continue };
                assert!(fit.context <= context && fit.context <= fit.pages * 16);
                assert!(fit.pages <= u32::MAX as usize);
            }
        }
    }

    #[test]
    fn a_context_beyond_the_model_is_noted_and_few_pages_bound_it() {
        let mut options = EngineOptions { max_context: Some(3200), ..EngineOptions::default() };
        let long = fit(&sizes(None), &options).expect("a context");
        assert_eq!((long.context, long.pages), (3200, 200));
        assert!(long.note.is_some_and(|note| note.contains("made for 1600 tokens, not 3200")));
        options = EngineOptions { kv_pages: Some(3), ..EngineOptions::default() };
        let few = fit(&sizes(None), &options).expect("a context");
        assert_eq!((few.context, few.pages, few.image_tokens, few.note), (48, 3, 0, None));
    }

    #[test]
    fn seeing_has_its_room_and_images_shrink_before_a_model_is_refused() {
        let seeing = Seeing { token_bytes: 100, tokens: 5000, together: 200 };
        let sizes = |available| Sizes { seeing: Some(seeing), ..sizes(available) };
        let options = EngineOptions { max_sequences: 1, ..EngineOptions::default() };
        let fits = |available| {
            let found = fit(&sizes(available), &options);
            found.map(|fit| (fit.context, fit.image_tokens, fit.image_bytes, fit.note))
        };
        // Images are bounded by the context, of 100 pages here.
        assert_eq!(fits(None).ok(), Some((1600, 1600, 160_000, None)));
        assert_eq!(fits(Some(265_000)).ok(), Some((1600, 1600, 160_000, None)));
        let short = |available| {
            let (context, tokens, bytes, note) = fits(Some(available)).expect("room");
            (context, tokens, bytes, note.unwrap_or_default())
        };
        let note = "images have at most 1599 tokens: memory is short".to_owned();
        assert_eq!(short(264_999), (1600, 1599, 159_900, note));
        let (context, tokens, bytes, note) = short(55_000);
        assert_eq!((context, tokens, bytes), (480, 200, 20_000));
        assert!(note.contains("480 tokens instead of 1600") && note.contains("at most 200"));
        // A quarter of the memory for images, the rest for the context.
        let (context, tokens, bytes, _) = short(110_000);
        assert_eq!((context, tokens, bytes), (1248, 270, 27_000));
        // Weights, 8 pages and small images.
        assert!(fits(Some(33_000)).is_ok());
        let error = fits(Some(32_999)).expect_err("too little").to_string();
        assert!(error.contains("20000 bytes to see images"), "{error}");
        let asked = EngineOptions { max_context: Some(1600), ..options.clone() };
        assert!(fit(&sizes(Some(124_999)), &asked).is_err());
        assert!(fit(&sizes(Some(125_000)), &asked).is_ok());
    }
}
