//! Images of noise, in prompts.

use std::sync::Arc;

use keeve_image::Patches;
use keeve_models::Vision;

use crate::Error;
use crate::codes::Random;
use crate::random::token_ids;

/// Patches along each side of an image: 1,024 pixels where a patch has 16.
const SIDE: usize = 64;

/// What a model has to say about images.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    /// The token that stands for an image.
    token: u32,
    /// Values of a patch.
    width: usize,
    /// Tokens of an image.
    tokens: usize,
}

impl Sight {
    pub fn of(vision: &Vision) -> Self {
        let tokens = SIDE * SIDE / vision.merged().max(1);
        Self { token: vision.image_token, width: vision.patch_width, tokens }
    }

    /// A prompt that is `tokens` long when each of `images` has its tokens: images first, then random
    /// text.
    ///
    /// # Errors
    /// If the images alone are longer.
    pub fn prompt(
        &self,
        tokens: usize,
        images: usize,
        vocabulary: usize,
        seed: u64,
    ) -> Result<Vec<u32>, Error> {
        let taken = images.saturating_mul(self.tokens);
        let text = tokens.checked_sub(taken).filter(|&text| text > 0);
        let text = text.ok_or(Error::ShortPrompt { tokens, images, taken })?;
        let other = |id| if id == self.token { 0 } else { id };
        let text = token_ids(text, vocabulary, seed).into_iter().map(other);
        Ok(std::iter::repeat_n(self.token, images).chain(text).collect())
    }

    /// Images, others for each `seed`.
    pub fn images(&self, count: usize, seed: u64) -> Vec<Arc<Patches>> {
        let image = |index: usize| {
            let mut random = Random::new(seed ^ (index as u64 + 1) << 32);
            let values = (0..SIDE * SIDE * self.width).map(|_| 2.0 * random.around_one() - 2.0);
            Arc::new(Patches::new(values.collect(), [1, SIDE, SIDE]))
        };
        (0..count).map(image).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_as_long_as_asked_and_images_differ() {
        let sight = Sight { token: 3, width: 2, tokens: 1024 };
        let prompt = sight.prompt(2050, 2, 8, 1).unwrap();
        assert_eq!(prompt.len(), 4);
        assert_eq!(prompt.iter().filter(|&&id| id == 3).count(), 2);
        assert!(matches!(sight.prompt(2048, 2, 8, 1), Err(Error::ShortPrompt { taken: 2048, .. })));
        let [one, other] = &sight.images(2, 5)[..] else { panic!("two images expected") };
        assert_ne!(one.hash, other.hash);
        assert_eq!(one.hash, sight.images(1, 5)[0].hash);
        assert_ne!(one.hash, sight.images(1, 6)[0].hash);
        assert!(one.pixels.iter().all(|value| value.abs() <= 1.0));
    }
}
