//! Functions of single values and of rows, written once over [`Lanes`], and dot products.

use crate::kernels::{GELU_CUBE, SQRT_2_OVER_PI};
use crate::simd::lanes::Lanes;

/// Rows of a tile of [`dots`].
const TILE_ROWS: usize = 4;
/// Weight rows of a tile where there is a single row of `x`: enough sums to hide the latency of
/// one multiply-add behind others.
const TILE_FOR_ONE_ROW: usize = 8;

/// `out[c * stride + r] = x[r] . weights[c]`, in tiles of [`TILE_ROWS`] by `COLS`.
///
/// Whatever the tile, a sum is made in one way: lane `l` adds up the products at `l`, `l + COUNT`,
/// and so on, then the lanes are added. So it does not depend on the rows beside it.
///
/// # Safety
/// The machine must have the instructions of `V`.
///
/// # Panics
/// If the lengths do not fit.
#[inline(always)]
pub(crate) unsafe fn dots<V: Lanes, const COLS: usize>(
    x: &[f32],
    weights: &[f32],
    k: usize,
    out: &mut [f32],
    stride: usize,
) {
    if k == 0 {
        return out.fill(0.0);
    }
    let (rows, cols) = (x.len() / k, weights.len() / k);
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(rows * k == x.len() && cols * k == weights.len(), "rows of {k} values");
    assert!(rows <= stride && out.len() >= (cols - 1) * stride + rows, "room for the sums");
    let mut row = 0;
    while row < rows {
        let tall = rows - row >= TILE_ROWS;
        let mut col = 0;
        while col < cols {
            let left = cols - col;
            // SAFETY: the caller vouches for the instructions. The tiles start at row `row` and
            // column `col` and end at or before `rows` and `cols`, for which the slices have room
            // by the assertions.
            unsafe {
                let x = x.as_ptr().add(row * k);
                let weights = weights.as_ptr().add(col * k);
                let out = out.as_mut_ptr().add(col * stride + row);
                if tall && left >= COLS {
                    tile::<V, TILE_ROWS, COLS>(x, weights, k, out, stride);
                    col += COLS;
                } else if tall {
                    tile::<V, TILE_ROWS, 1>(x, weights, k, out, stride);
                    col += 1;
                } else if left >= TILE_FOR_ONE_ROW {
                    tile::<V, 1, TILE_FOR_ONE_ROW>(x, weights, k, out, stride);
                    col += TILE_FOR_ONE_ROW;
                } else {
                    tile::<V, 1, 1>(x, weights, k, out, stride);
                    col += 1;
                }
            }
        }
        row += if tall { TILE_ROWS } else { 1 };
    }
}

/// The sums of `ROWS` rows of `x` by `COLS` rows of `weights`.
///
/// # Safety
/// The machine must have the instructions of `V`; `x` must have `ROWS * k` values, `weights`
/// `COLS * k`, and `out` room at `c * stride + r` for each column and row.
#[inline(always)]
unsafe fn tile<V: Lanes, const ROWS: usize, const COLS: usize>(
    x: *const f32,
    weights: *const f32,
    k: usize,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: `at` is at most the last whole register of a row, and what the last part reads ends
    // with the row; all else is the caller's promise.
    unsafe {
        let mut sums = [[V::splat(0.0); COLS]; ROWS];
        let mut at = 0;
        while at + V::COUNT <= k {
            let mut columns = [V::splat(0.0); COLS];
            for (c, column) in columns.iter_mut().enumerate() {
                *column = V::load(weights.add(c * k + at));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let row = V::load(x.add(r * k + at));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = row.mul_add(column, *sum);
                }
            }
            at += V::COUNT;
        }
        if at < k {
            for (r, sums) in sums.iter_mut().enumerate() {
                let row = V::load_part(x.add(r * k + at), k - at);
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum = row.mul_add(V::load_part(weights.add(c * k + at), k - at), *sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (c, sum) in sums.iter().enumerate() {
                *out.add(c * stride + r) = sum.sum();
            }
        }
    }
}

/// `out = x / sqrt(mean(x^2) + eps) * gain`.
///
/// # Safety
/// The machine must have the instructions of `V`.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(crate) unsafe fn rms_norm<V: Lanes>(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let width = x.len();
    assert!(gain.len() == width && out.len() == width, "rows of {width} values");
    let (whole, part) = (width - width % V::COUNT, width % V::COUNT);
    let (x, gain, out) = (x.as_ptr(), gain.as_ptr(), out.as_mut_ptr());
    // SAFETY: the caller vouches for the instructions; `at` ends at the last whole register of the
    // three slices, and what the last part touches ends with them.
    unsafe {
        let mut squares = V::splat(0.0);
        for at in (0..whole).step_by(V::COUNT) {
            let x = V::load(x.add(at));
            squares = x.mul_add(x, squares);
        }
        if part > 0 {
            let x = V::load_part(x.add(whole), part);
            squares = x.mul_add(x, squares);
        }
        let factor = V::splat(1.0 / (squares.sum() / width as f32 + eps).sqrt());
        for at in (0..whole).step_by(V::COUNT) {
            V::load(x.add(at)).mul(factor).mul(V::load(gain.add(at))).store(out.add(at));
        }
        if part > 0 {
            let x = V::load_part(x.add(whole), part);
            let gain = V::load_part(gain.add(whole), part);
            x.mul(factor).mul(gain).store_part(out.add(whole), part);
        }
    }
}

/// `out = (x - mean(x)) / sqrt(variance(x) + eps) * gain + bias`.
///
/// # Safety
/// The machine must have the instructions of `V`.
///
/// # Panics
/// If the lengths differ.
#[inline(always)]
pub(crate) unsafe fn layer_norm<V: Lanes>(
    x: &[f32],
    gain: &[f32],
    bias: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let width = x.len();
    let same = [gain.len(), bias.len(), out.len()].iter().all(|&len| len == width);
    assert!(same, "rows of {width} values");
    let (whole, part) = (width - width % V::COUNT, width % V::COUNT);
    let (x, gain, bias, out) = (x.as_ptr(), gain.as_ptr(), bias.as_ptr(), out.as_mut_ptr());
    // SAFETY: the caller vouches for the instructions; `at` ends at the last whole register of the
    // four slices, and what the last part touches ends with them.
    unsafe {
        let mut sum = V::splat(0.0);
        for at in (0..whole).step_by(V::COUNT) {
            sum = sum.add(V::load(x.add(at)));
        }
        if part > 0 {
            sum = sum.add(V::load_part(x.add(whole), part));
        }
        let mean = V::splat(sum.sum() / width as f32);
        let mut squares = V::splat(0.0);
        for at in (0..whole).step_by(V::COUNT) {
            let apart = V::load(x.add(at)).sub(mean);
            squares = apart.mul_add(apart, squares);
        }
        if part > 0 {
            // Lanes past the end are not part of the sum.
            let apart = V::load_part(x.add(whole), part).sub(mean).first(part, V::splat(0.0));
            squares = apart.mul_add(apart, squares);
        }
        let factor = V::splat(1.0 / (squares.sum() / width as f32 + eps).sqrt());
        for at in (0..whole).step_by(V::COUNT) {
            let apart = V::load(x.add(at)).sub(mean).mul(factor);
            apart.mul_add(V::load(gain.add(at)), V::load(bias.add(at))).store(out.add(at));
        }
        if part > 0 {
            let apart = V::load_part(x.add(whole), part).sub(mean).mul(factor);
            let gain = V::load_part(gain.add(whole), part);
            let bias = V::load_part(bias.add(whole), part);
            apart.mul_add(gain, bias).store_part(out.add(whole), part);
        }
    }
}

/// `e^x`. Zero and infinity where the result is too small or too large, NaN for NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, and the Taylor series of `e^r` up to `r^7 / 7!`: what
/// is left out is below `6e-9`, a tenth of a rounding.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn exp<V: Lanes>(x: V) -> V {
    /// `ln 2` to nine bits; the rest comes after.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = (std::f64::consts::LN_2 - LN_2_HIGH as f64) as f32;
    const SERIES: [f32; 8] =
        [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        // Beyond these ends `e^x` is zero or infinite. NaN passes, as the second operand.
        let x = V::splat(88.75).min(V::splat(-104.0).max(x));
        let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
        let r = n.mul_add(V::splat(-LN_2_HIGH), x);
        let r = n.mul_add(V::splat(-LN_2_LOW), r);
        let mut sum = V::splat(SERIES[0]);
        for coefficient in &SERIES[1..] {
            sum = sum.mul_add(r, V::splat(*coefficient));
        }
        sum.times_power_of_two(n)
    }
}

/// Replaces each `x`, of which there are whole registers, by [`exp`] of it.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[cfg(test)]
#[inline(always)]
pub(crate) unsafe fn exp_all<V: Lanes>(x: &mut [f32]) {
    for x in x.chunks_exact_mut(V::COUNT) {
        // SAFETY: the caller vouches for the instructions; a chunk is a register.
        unsafe { exp(V::load(x.as_ptr())).store(x.as_mut_ptr()) };
    }
}

/// A function of one register. Not a closure: closures do not have the instructions of who calls them, so
/// that nothing is inlined into them.
trait Function {
    /// Its value.
    ///
    /// # Safety
    /// The machine must have the instructions of `V`.
    unsafe fn of<V: Lanes>(x: V) -> V;
}

/// Replaces each `x` by what a function makes of it, a register at a time.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
unsafe fn each<V: Lanes, F: Function>(x: &mut [f32]) {
    let (whole, part) = (x.len() - x.len() % V::COUNT, x.len() % V::COUNT);
    let x = x.as_mut_ptr();
    // SAFETY: the caller vouches for the instructions; `at` ends at the last whole register of the
    // slice, and what the last part touches ends with it.
    unsafe {
        for at in (0..whole).step_by(V::COUNT) {
            F::of(V::load(x.add(at))).store(x.add(at));
        }
        if part > 0 {
            F::of(V::load_part(x.add(whole), part)).store_part(x.add(whole), part);
        }
    }
}

struct Silu;

impl Function for Silu {
    #[inline(always)]
    unsafe fn of<V: Lanes>(x: V) -> V {
        // SAFETY: the caller vouches for the instructions.
        unsafe { silu_of(x) }
    }
}

struct GeluTanh;

impl Function for GeluTanh {
    #[inline(always)]
    unsafe fn of<V: Lanes>(x: V) -> V {
        const LINEAR: f32 = -2.0 * SQRT_2_OVER_PI;
        const CUBIC: f32 = LINEAR * GELU_CUBE;
        // SAFETY: the caller vouches for the instructions.
        unsafe {
            let factor = x.mul(x).mul_add(V::splat(CUBIC), V::splat(LINEAR));
            x.div(V::splat(1.0).add(exp(x.mul(factor))))
        }
    }
}

/// Replaces each `x` by `x * sigmoid(x)`.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn silu<V: Lanes>(x: &mut [f32]) {
    // SAFETY: the caller vouches for the instructions.
    unsafe { each::<V, Silu>(x) }
}

/// `x * sigmoid(x)`.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn silu_of<V: Lanes>(x: V) -> V {
    // SAFETY: the caller vouches for the instructions.
    unsafe { x.div(V::splat(1.0).add(exp(V::splat(0.0).sub(x)))) }
}

/// Replaces each `x` by `x / 2 * (1 + tanh(u))` with `u = sqrt(2 / pi) * (x + GELU_CUBE * x^3)`, which is
/// `x * sigmoid(2 u)`.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn gelu_tanh<V: Lanes>(x: &mut [f32]) {
    // SAFETY: the caller vouches for the instructions.
    unsafe { each::<V, GeluTanh>(x) }
}
