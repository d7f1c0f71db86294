//! Filling in the middle: a prompt of what is before and after the text that is wanted, by the model's own
//! tokens for that. Their order is that of ggml-org/llama.cpp, `tools/server/server-common.cpp`
//! (`format_prompt_infill`), and of the models' cards: prefix, suffix, middle, files of the repository before them.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::models::Model;

/// What is around the text that is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Middle {
    pub prefix: String,
    /// What the text begins with already.
    pub begun: String,
    pub suffix: String,
    /// Other files that the text may look at.
    pub files: Vec<OtherFile>,
}

/// A file that a text may look at.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct OtherFile {
    /// Its name; `tmp` if not given.
    pub filename: Option<String>,
    pub text: String,
}

/// The most such files.
const MOST_FILES: usize = 256;

impl Middle {
    /// Bytes of all texts.
    pub fn bytes(&self) -> usize {
        let files: usize = self.files.iter().map(|file| file.text.len()).sum();
        files + self.prefix.len() + self.begun.len() + self.suffix.len()
    }

    /// Token ids of the prompt. What is around the text becomes no special token.
    ///
    /// With `most`, what is farthest from the text is left out of a prompt of more tokens: other files first, then
    /// the beginning of what is before the text and the end of what is after it.
    ///
    /// # Errors
    /// If the model has no tokens for this; `field` is the one that asks for it.
    pub fn ids(
        &self,
        model: &Model,
        field: &str,
        most: Option<usize>,
    ) -> Result<Vec<u32>, ApiError> {
        let tokenizer = model.engine.tokenizer()?;
        let Some(fim) = tokenizer.fim() else {
            let message = "this model's tokenizer has no tokens for filling in the middle";
            return Err(ApiError::field(field, message));
        };
        if self.files.len() > MOST_FILES {
            let message = format!("there are more than {MOST_FILES} files");
            return Err(ApiError::field("input_extra", message));
        }
        model.engine.check_length(self.bytes())?;
        let encode = |text: &str, special: bool| {
            let ids = tokenizer.encode(text, special, false);
            ids.map_err(|error| ApiError::from(keeve_engine::Error::from(error)))
        };
        let mut files = vec![];
        if !self.files.is_empty() {
            if let Some(repository) = fim.repository {
                files.push(repository);
                files.extend(encode("project\n", false)?);
            }
            for file in &self.files {
                let name = file.filename.as_deref().unwrap_or("tmp");
                let text = format!("{name}\n{}", file.text);
                files.extend(fim.separator);
                files.extend(encode(&text, false)?);
                if fim.separator.is_none() {
                    files.extend(encode("\n\n", false)?);
                }
            }
            if let Some(separator) = fim.separator {
                files.push(separator);
                files.extend(encode("filename\n", false)?);
            }
        }
        let mut before = encode(&self.prefix, false)?;
        before.extend(encode(&self.begun, false)?);
        let mut after = encode(&self.suffix, false)?;
        // What the tokenizer puts at the beginning of a text is at that of the prompt.
        let mut ids = beginning(&encode("a", true)?, &encode("a", false)?);
        if let Some(most) = most {
            let room = most.saturating_sub(ids.len() + 3);
            // Three quarters for what is before the text, or what the other side leaves.
            let longest_after = (room / 4).max(room.saturating_sub(before.len()));
            after.truncate(longest_after);
            let longest_before = room - after.len();
            before.drain(..before.len().saturating_sub(longest_before));
            let left = room - after.len() - before.len();
            files.drain(..files.len().saturating_sub(left));
        }
        ids.append(&mut files);
        for (token, mut text) in [(fim.prefix, before), (fim.suffix, after)] {
            ids.push(token);
            ids.append(&mut text);
        }
        ids.push(fim.middle);
        Ok(ids)
    }
}

/// What a tokenizer puts in front of a text, given its tokens with and without.
fn beginning(with: &[u32], without: &[u32]) -> Vec<u32> {
    let at = with.windows(without.len().max(1)).position(|window| window == without);
    with[..at.unwrap_or(0)].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_front_of_a_text_is_at_the_beginning() {
        for (with, without, expected) in [
            (&[1, 5][..], &[5][..], &[1][..]),
            (&[1, 5, 2], &[5], &[1]),
            (&[5, 2], &[5], &[]),
            (&[5], &[5], &[]),
            (&[1], &[], &[]),
        ] {
            assert_eq!(beginning(with, without), expected);
        }
    }
}
