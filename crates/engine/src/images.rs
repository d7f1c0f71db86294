//! Prompts with images: which tokens stand for which image, and the positions of all of them.

use std::ops::Range;
use std::sync::Arc;

use keeve_image::Patches;
use keeve_models::Vision;

use crate::error::Error;
use crate::vision::Features;

/// What prompts have to know of a model that sees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    /// The token that stands for an image.
    token: u32,
    /// Values of a patch.
    patch_width: usize,
    /// Patches along each side that become one token.
    merge: usize,
    /// The most tokens of an image.
    pub most: usize,
}

/// An image of a sequence.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    /// The tokens that stand for it.
    pub tokens: Range<usize>,
    /// What is seen.
    pub patches: Arc<Patches>,
    /// What the language model is given for its tokens, once that is made and until they have run.
    pub features: Option<Arc<Features>>,
}

/// A prompt as it runs.
#[derive(Debug, Default)]
pub(crate) struct Prompt {
    /// Tokens, each image's repeated as often as it takes.
    pub tokens: Vec<u32>,
    /// Its images, in order.
    pub images: Vec<Placed>,
    pub positions: Positions,
}

/// Positions of the tokens of a sequence: time, height, width.
///
/// Text counts on all three. The tokens of an image are where they are in it, counted on from the
/// text before, and the text after goes on after the largest number of the image:
/// huggingface/transformers `models/qwen3_vl/modeling_qwen3_vl.py`, `get_rope_index`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Positions {
    /// Those up to the end of the last image.
    first: Vec<[u32; 3]>,
    /// How far the tokens after that are behind their places.
    behind: usize,
}

impl Positions {
    /// The position of the token at `index`.
    pub fn at(&self, index: usize) -> [u32; 3] {
        let known = self.first.get(index).copied();
        // Contexts are at most as long as positions go.
        known.unwrap_or_else(|| [(index - self.behind) as u32; 3])
    }

    /// Adds `count` tokens of text.
    fn text(&mut self, count: usize) {
        let start = self.first.len();
        for index in start..start + count {
            self.first.push([(index - self.behind) as u32; 3]);
        }
    }

    /// Adds an image of `height` by `width` tokens.
    fn image(&mut self, height: usize, width: usize) {
        let start = self.first.len() - self.behind;
        for row in 0..height {
            let at = |column| [start as u32, (start + row) as u32, (start + column) as u32];
            self.first.extend((0..width).map(at));
        }
        self.behind = self.first.len() - (start + height.max(width));
    }
}

impl Sight {
    /// For images of at most `most` tokens.
    pub fn new(vision: &Vision, most: usize) -> Self {
        let Vision { image_token, patch_width, merge, .. } = *vision;
        Self { token: image_token, patch_width, merge, most }
    }

    /// A prompt in which one token stands for each of `images`, as it runs.
    ///
    /// # Errors
    /// If there is not one such token for each image, an image does not fit the model, or the prompt has
    /// more than `context` tokens.
    pub fn prompt(
        &self,
        ids: &[u32],
        images: Vec<Arc<Patches>>,
        context: usize,
    ) -> Result<Prompt, Error> {
        let places = ids.iter().filter(|&&id| id == self.token).count();
        if places != images.len() {
            return Err(Error::ImageCount { places, images: images.len() });
        }
        if images.is_empty() {
            return Ok(Prompt { tokens: ids.into(), ..Prompt::default() });
        }
        let sizes = images.iter().map(|image| self.size(image)).collect::<Result<Vec<_>, _>>()?;
        // No overflow: each image has few tokens.
        let more: usize = sizes.iter().map(|(height, width)| height * width - 1).sum();
        let tokens = ids.len() + more;
        if tokens > context {
            return Err(Error::PromptTooLong { tokens, context });
        }
        let mut prompt = Prompt { tokens: Vec::with_capacity(tokens), ..Prompt::default() };
        let mut images = images.into_iter().zip(sizes);
        for part in ids.split_inclusive(|&id| id == self.token) {
            let ends = part.last() == Some(&self.token);
            let next = if ends { images.next() } else { None };
            let Some((patches, (height, width))) = next else {
                prompt.tokens.extend_from_slice(part);
                break;
            };
            let text = &part[..part.len() - 1];
            prompt.tokens.extend_from_slice(text);
            prompt.positions.text(text.len());
            let start = prompt.tokens.len();
            prompt.tokens.resize(start + height * width, self.token);
            prompt.positions.image(height, width);
            let tokens = start..prompt.tokens.len();
            prompt.images.push(Placed { tokens, patches, features: None });
        }
        Ok(prompt)
    }

    /// Height and width of an image in tokens.
    fn size(&self, image: &Patches) -> Result<(usize, usize), Error> {
        let [time, height, width] = image.grid;
        let wrong = |problem: String| Err(Error::Image(problem));
        if time != 1 {
            return wrong(format!("has {time} frames; only still images are supported"));
        }
        let whole = |side: usize| side > 0 && side.is_multiple_of(self.merge);
        if !whole(height) || !whole(width) {
            let merge = self.merge;
            return wrong(format!("is {height} by {width} patches, not multiples of {merge}"));
        }
        let tokens = (height / self.merge).checked_mul(width / self.merge);
        let Some(tokens) = tokens.filter(|&tokens| tokens <= self.most) else {
            let most = self.most;
            return wrong(format!("is {height} by {width} patches, more than {most} tokens"));
        };
        // No overflow: tokens are few, and so are the patches and values of each.
        let values = tokens * self.merge * self.merge * self.patch_width;
        if image.pixels.len() != values {
            let found = image.pixels.len();
            return wrong(format!("has {found} values, but the model takes {values} of its size"));
        }
        Ok((height / self.merge, width / self.merge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAD: u32 = 9;

    fn sight() -> Sight {
        Sight { token: PAD, patch_width: 3, merge: 2, most: 12 }
    }

    fn image(height: usize, width: usize) -> Arc<Patches> {
        Arc::new(Patches::new(vec![0.5; height * width * 3], [1, height, width]))
    }

    #[test]
    fn tokens_are_repeated_and_positions_follow_the_images() {
        let images = vec![image(4, 6), image(2, 2)];
        let prompt = sight().prompt(&[1, PAD, 2, 3, PAD, PAD - 1], images, 100).unwrap();
        assert_eq!(prompt.tokens, [1, 9, 9, 9, 9, 9, 9, 2, 3, 9, 8]);
        let spans: Vec<_> = prompt.images.iter().map(|image| image.tokens.clone()).collect();
        assert_eq!(spans, [1..7, 9..10]);
        let positions: Vec<_> = (0..13).map(|index| prompt.positions.at(index)).collect();
        let image = [[1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 2, 1], [1, 2, 2], [1, 2, 3]];
        assert_eq!(positions[0], [0; 3]);
        assert_eq!(positions[1..7], image);
        assert_eq!(positions[7..], [[4; 3], [5; 3], [6; 3], [7; 3], [8; 3], [9; 3]]);
    }

    #[test]
    fn images_side_by_side_and_at_the_ends_are_told_apart() {
        let prompt = sight().prompt(&[PAD, PAD], vec![image(2, 4), image(2, 2)], 3).unwrap();
        assert_eq!(prompt.tokens, [PAD; 3]);
        let positions: Vec<_> = (0..4).map(|index| prompt.positions.at(index)).collect();
        assert_eq!(positions, [[0, 0, 0], [0, 0, 1], [2; 3], [3; 3]]);
        assert_eq!(prompt.images[1].tokens, 2..3);
    }

    #[test]
    fn text_alone_stays_as_it_is() {
        let prompt = sight().prompt(&[1, 2, 3], vec![], 2).unwrap();
        assert_eq!((prompt.tokens, prompt.images.len()), (vec![1, 2, 3], 0));
        assert_eq!(prompt.positions.at(70), [70; 3]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |ids: &[u32], images: Vec<Arc<Patches>>, expected: &str| {
            let error = sight().prompt(ids, images, 20).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        refused(&[1], vec![image(2, 2)], "0 places for images and 1 images");
        refused(&[PAD, PAD], vec![image(2, 2)], "2 places for images and 1 images");
        refused(&[PAD], vec![], "1 places for images and 0 images");
        refused(&[PAD], vec![image(3, 2)], "not multiples of 2");
        refused(&[PAD], vec![image(0, 2)], "not multiples of 2");
        refused(&[PAD], vec![image(2, 26)], "more than 12 tokens");
        refused(&[PAD, PAD], vec![image(8, 6), image(6, 6)], "the prompt has 21 tokens");
        let still = |grid, values| vec![Arc::new(Patches::new(vec![0.0; values], grid))];
        refused(&[PAD], still([2, 2, 2], 24), "has 2 frames");
        refused(&[PAD], still([1, 2, 2], 13), "has 13 values, but the model takes 12");
        refused(&[PAD], still([1, usize::MAX - 1, usize::MAX - 1], 12), "more than 12 tokens");
    }
}
