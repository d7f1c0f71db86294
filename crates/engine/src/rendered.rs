//! A prompt as people may want to see it.

use crate::chat::{ChatTemplate, Message, RenderOptions, Segment};
use crate::error::Error;
use crate::tokenizer::Tokenizer;

/// A prompt: its text, and what the model gets of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Its token ids.
    pub ids: Vec<u32>,
    /// Which of the ids are special tokens: places in `ids`, counted from 0.
    pub special: Vec<usize>,
}

impl Rendered {
    /// Renders messages and encodes the prompt.
    ///
    /// # Errors
    /// If the template refuses the messages or fails, or the text cannot be encoded.
    pub fn new(
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Self, Error> {
        let segments = template.render_segments(messages, options)?;
        let ids = tokenizer.encode_segments(&segments, false)?;
        Ok(Self::of(segments, ids, tokenizer))
    }

    /// A prompt whose segments have become `ids`.
    pub(crate) fn of(segments: Vec<Segment>, ids: Vec<u32>, tokenizer: &Tokenizer) -> Self {
        let special = (0..).zip(&ids).filter(|(_, id)| tokenizer.is_special(**id));
        let special = special.map(|(place, _)| place).collect();
        let text = segments.into_iter().map(|segment| segment.text).collect();
        Self { text, ids, special }
    }
}
