//! The size that a picture is brought to.

use crate::error::Error;

/// The largest ratio between the sides of a picture, as in the reference.
const MAX_RATIO: usize = 200;

/// What sizes are allowed: sides that are multiples of `factor`, and between `least` and `most` pixels
/// as far as the factor and the picture's shape allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SizeRule {
    pub(crate) factor: usize,
    pub(crate) least: usize,
    pub(crate) most: usize,
}

impl SizeRule {
    /// Height and width for a picture of `height` x `width`.
    ///
    /// The rule and its roundings are those of `smart_resize` in huggingface/transformers
    /// (`src/transformers/models/qwen2_vl/image_processing_qwen2_vl.py`): halves are rounded to even, the
    /// lower bound only holds where the upper one did not apply.
    pub(crate) fn apply(&self, height: usize, width: usize) -> Result<(usize, usize), Error> {
        let (short, long) = (height.min(width), height.max(width));
        if short == 0 || long > short.saturating_mul(MAX_RATIO) {
            return Err(Error::Ratio { width, height, most: MAX_RATIO });
        }
        let factor = self.factor as f64;
        let (h, w) = (height as f64, width as f64);
        let nearest = |side: f64| (side / factor).round_ties_even() * factor;
        let (mut to_h, mut to_w) = (nearest(h), nearest(w));
        if to_h * to_w > self.most as f64 {
            let shrink = (h * w / self.most as f64).sqrt();
            to_h = ((h / shrink / factor).floor() * factor).max(factor);
            to_w = ((w / shrink / factor).floor() * factor).max(factor);
        } else if to_h * to_w < self.least as f64 {
            let grow = (self.least as f64 / (h * w)).sqrt();
            to_h = (h * grow / factor).ceil() * factor;
            to_w = (w * grow / factor).ceil() * factor;
        }
        // A side that is rounded to nothing cannot be told from a large picture by the bounds alone.
        Ok((to_h.max(factor) as usize, to_w.max(factor) as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QWEN3: SizeRule = SizeRule { factor: 32, least: 65_536, most: 16_777_216 };

    #[test]
    fn sizes_are_those_of_the_reference() {
        let small = SizeRule { factor: 32, least: 1024, most: 16_384 };
        assert_eq!(small.apply(60, 100).unwrap(), (64, 96));
        assert_eq!(small.apply(150, 150).unwrap(), (128, 128));
        assert_eq!(small.apply(96, 64).unwrap(), (96, 64));
        // 48 is half way: to even, so 64 (2) and not 32 (1); 80 (2.5) goes to 64.
        assert_eq!(small.apply(48, 80).unwrap(), (64, 64));
        assert_eq!(QWEN3.apply(1, 1).unwrap(), (256, 256));
        assert_eq!(QWEN3.apply(10, 1000).unwrap(), (32, 2560));
        assert_eq!(QWEN3.apply(16_000, 16_000).unwrap(), (4096, 4096));
    }

    #[test]
    fn long_pictures_are_refused() {
        assert!(QWEN3.apply(1, 200).is_ok());
        let error = QWEN3.apply(1, 50_000).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the image is 50000 x 1, expected no side over 200 times the other"
        );
        assert!(QWEN3.apply(0, 10).is_err());
    }

    #[test]
    fn every_size_is_a_multiple_within_bounds() {
        for (height, width) in [(1, 199), (199, 1), (33, 4000), (4000, 33), (17, 15), (9999, 9999)]
        {
            let (h, w) = QWEN3.apply(height, width).unwrap();
            assert!(h % 32 == 0 && w % 32 == 0 && h > 0 && w > 0, "{height} {width}");
            assert!(h * w <= 16_777_216 && h * w >= 65_536, "{height} {width}: {h} {w}");
        }
    }
}
