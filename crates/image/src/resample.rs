//! Bicubic resampling of 8-bit pictures, antialiased.
//!
//! The arithmetic is that of pytorch's `upsample_bicubic2d_aa` on bytes (pytorch/pytorch,
//! `aten/src/ATen/native/cpu/UpSampleKernel.cpp`), which torchvision's `resize` calls: weights are
//! 16-bit integers with as many fraction bits as the largest allows, first rows are resampled and
//! rounded to bytes, then columns. Pillow's is the same but for the width of the weights.

/// The bicubic kernel's free parameter, where antialiasing is on.
const A: f64 = -0.5;

/// Source pixels that the kernel covers, at a scale of one.
const REACH: f64 = 4.0;

/// Brings `rgb` from `from` to `to` (height, width). Rows are `width * 3` bytes.
///
/// `rgb` must be of the size that `from` says, and no side may be zero.
pub(crate) fn resize(rgb: Vec<u8>, from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let wide =
        if from.1 == to.1 { rgb } else { resample_rows(&rgb, from.1, &Kernel::new(from.1, to.1)) };
    if from.0 == to.0 {
        wide
    } else {
        resample_columns(&wide, to.1 * 3, &Kernel::new(from.0, to.0))
    }
}

/// What each pixel of a resampled line is made of.
struct Kernel {
    /// For each pixel: the first source pixel and how many follow it.
    spans: Vec<(usize, usize)>,
    /// The weights of all pixels, one after another.
    weights: Vec<i16>,
    /// Fraction bits of the weights.
    precision: u32,
}

impl Kernel {
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let (support, inverse) =
            if scale >= 1.0 { (REACH * 0.5 * scale, 1.0 / scale) } else { (REACH * 0.5, 1.0) };
        let mut spans = Vec::with_capacity(to);
        let mut exact: Vec<f64> = Vec::new();
        for pixel in 0..to {
            let center = scale * (pixel as f64 + 0.5);
            // Casts of floats cut towards zero and never below it here, as the reference means them to.
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            let start = exact.len();
            exact
                .extend((first..end).map(|source| cubic((source as f64 - center + 0.5) * inverse)));
            let total: f64 = exact[start..].iter().sum();
            if total != 0.0 {
                exact[start..].iter_mut().for_each(|weight| *weight /= total);
            }
            spans.push((first, end.saturating_sub(first)));
        }
        let largest = exact.iter().copied().fold(0.0, f64::max);
        let fits = |bits: u32| round_away(largest * f64::from(1 << bits)) < 1 << 15;
        let precision = (0..22).find(|&bits| !fits(bits + 1)).unwrap_or(22);
        let one = f64::from(1 << precision);
        let weights = exact.iter().map(|weight| round_away(weight * one) as i16).collect();
        Self { spans, weights, precision }
    }

    /// Each pixel's first source pixel and weights.
    fn pixels(&self) -> impl Iterator<Item = (usize, &[i16])> {
        let mut start = 0;
        self.spans.iter().map(move |&(first, count)| {
            let weights = &self.weights[start..start + count];
            start += count;
            (first, weights)
        })
    }

    /// A sum of weighted bytes, rounded to a byte.
    fn round(&self, sum: i32) -> u8 {
        (sum >> self.precision).clamp(0, 255) as u8
    }

    /// What a sum starts at, so that it is rounded and not cut.
    fn half(&self) -> i32 {
        1 << (self.precision - 1)
    }
}

/// Rounds halves away from zero.
fn round_away(value: f64) -> i32 {
    if value < 0.0 { (value - 0.5) as i32 } else { (value + 0.5) as i32 }
}

/// The bicubic kernel (Keys, "Cubic convolution interpolation for digital image processing", 1981).
fn cubic(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Brings rows of `from` pixels to the kernel's width.
fn resample_rows(rgb: &[u8], from: usize, kernel: &Kernel) -> Vec<u8> {
    let mut out = Vec::with_capacity(rgb.len() / from * kernel.spans.len());
    for row in rgb.chunks_exact(from * 3) {
        for (first, weights) in kernel.pixels() {
            let mut sums = [kernel.half(); 3];
            for (pixel, &weight) in row[first * 3..].chunks_exact(3).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(weight) * i32::from(value);
                }
            }
            out.extend(sums.map(|sum| kernel.round(sum)));
        }
    }
    out
}

/// Brings columns to the kernel's height. Rows are `width` bytes.
fn resample_columns(rgb: &[u8], width: usize, kernel: &Kernel) -> Vec<u8> {
    let mut out = Vec::with_capacity(kernel.spans.len() * width);
    let mut sums = vec![0; width];
    for (first, weights) in kernel.pixels() {
        sums.fill(kernel.half());
        for (row, &weight) in rgb[first * width..].chunks_exact(width).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(weight) * i32::from(value);
            }
        }
        out.extend(sums.iter().map(|&sum| kernel.round(sum)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_pictures_stay_flat() {
        for (from, to) in [((7, 5), (32, 64)), ((200, 3), (32, 32)), ((33, 90), (64, 32))] {
            for value in [0, 1, 128, 255] {
                let out = resize(vec![value; from.0 * from.1 * 3], from, to);
                assert_eq!(out.len(), to.0 * to.1 * 3);
                assert!(out.iter().all(|&v| v == value), "{from:?} {to:?} {value}");
            }
        }
    }

    #[test]
    fn weights_add_up_to_about_one() {
        for (from, to) in [(1, 32), (32, 31), (16_384, 32), (3, 4096), (100, 96)] {
            let kernel = Kernel::new(from, to);
            for (first, weights) in kernel.pixels() {
                assert!(first + weights.len() <= from);
                let sum: i32 = weights.iter().map(|&w| i32::from(w)).sum();
                let off = (sum - (1 << kernel.precision)).abs();
                assert!(off <= weights.len() as i32, "{from} {to}: {off}");
            }
        }
    }

    #[test]
    fn turning_a_picture_by_half_turns_its_copy() {
        let from = (23, 41);
        let picture: Vec<u8> =
            (0..from.0 * from.1).flat_map(|n| [n as u8, (n * 7) as u8, (n / 3) as u8]).collect();
        let turned = |rgb: &[u8]| -> Vec<u8> { rgb.chunks(3).rev().flatten().copied().collect() };
        let one = resize(picture.clone(), from, (32, 32));
        let other = resize(turned(&picture), from, (32, 32));
        assert_eq!(turned(&one), other);
    }
}
