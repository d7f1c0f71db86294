//! Unpacking tiles to int8 panels, as [`crate::scheme`] defines them: the same codes as
//! [`crate::reference::oracle`] gives.

use std::mem::MaybeUninit;

use keeve_codec::{Float, Group, SUPER_BLOCK, Scaling};

use crate::gemv::bits::expand;
use crate::gemv::k_quants::integers_of_runs;
use crate::gemv::operands::load_floats;
use crate::packed::tiles::{BLOCK, INTEGERS_AT, LINE, Layout, group_bytes};
use crate::scheme::panel::{PANEL_COLS, PanelPart, TILE_ROWS};
use crate::scheme::{FRACTION_BITS, LEAST_PANEL_SCALE, PANEL_TOP, REST_SCALE, WIDE_FACTOR_BITS};
use crate::simd::ints::IntLanes;
use crate::simd::lanes::Lanes;

/// The most runs (columns with one scale) in a panel.
const MOST_RUNS: usize = PANEL_COLS / 16;
/// Vectors of a block.
const WORDS: usize = BLOCK / 4;

/// A number for each row.
type Rows<T> = [T; TILE_ROWS];

/// What turns the stored codes of a panel into its codes: a 16-bit factor and summand for each run and
/// row, twice in each 32 bits.
struct Factors {
    /// Columns of a run: two to the power of this.
    width_bits: u32,
    by: Each<i32>,
    plus: Each<i32>,
}

/// Scales and offsets of the runs of some columns.
pub(crate) struct Runs {
    count: usize,
    pub width: usize,
    pub scales: Each<f32>,
    pub offsets: Each<f32>,
}

impl Runs {
    /// Whether all weights are zero or normal numbers, and far from infinite: so they are if scales and offsets
    /// are zero or between `2^-100` and `2^100`, whose products with codes and the sums of these are multiples
    /// of `2^-124`.
    ///
    /// # Safety
    /// All runs must have been written.
    #[inline(always)]
    pub unsafe fn are_normal(&self) -> bool {
        const LEAST: u32 = (127 - 100) << 23;
        const SPAN: u32 = 200 << 23;
        // A sum for each row, so that compilers use registers of them.
        let mut others = [0u32; TILE_ROWS];
        for run in 0..self.count {
            // SAFETY: the caller's promise.
            for values in unsafe { [self.scales.get(run), self.offsets.get(run)] } {
                for (others, value) in others.iter_mut().zip(values) {
                    let size = value.to_bits() & 0x7fff_ffff;
                    *others |= u32::from((size.wrapping_sub(LEAST) > SPAN) & (size != 0));
                }
            }
        }
        others == [0; TILE_ROWS]
    }
}

/// Numbers for each run and row. Only those of runs that there are are ever written or read: clearing the
/// others would take longer than much of what is done with them.
pub(crate) struct Each<T>([MaybeUninit<Rows<T>>; MOST_RUNS]);

impl<T: Copy> Each<T> {
    fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; MOST_RUNS])
    }

    /// # Safety
    /// The run must have been written.
    #[inline(always)]
    pub unsafe fn get(&self, run: usize) -> &Rows<T> {
        // SAFETY: the caller's promise.
        unsafe { self.0[run].assume_init_ref() }
    }

    /// Where the numbers of a run are, to write.
    #[inline(always)]
    fn place(&mut self, run: usize) -> *mut T {
        self.0[run].as_mut_ptr().cast()
    }
}

/// Fills the codes of 16 weight rows by 256 columns, or those of what these leave, and their scales.
///
/// # Safety
/// The machine must have the instructions of `V`.
///
/// # Panics
/// If something does not fit the layout, or what codes of more than two bits leave is asked for.
#[inline(always)]
pub(crate) unsafe fn panel<V: IntLanes>(
    layout: &Layout,
    tile: &[u8],
    block: usize,
    part: PanelPart,
    codes: &mut [i8; TILE_ROWS * PANEL_COLS],
    scales: &mut Rows<f32>,
) {
    assert!(tile.len() == layout.tile_bytes() && block * PANEL_COLS < layout.padded());
    // SAFETY: the caller vouches for the instructions.
    unsafe {
        let runs = runs::<V>(layout, tile, block * PANEL_COLS, PANEL_COLS);
        if part == PanelPart::Rest {
            let factors = factors(layout, &runs, scales);
            scales.iter_mut().for_each(|scale| *scale *= REST_SCALE);
            return match layout.codes.bits {
                1 => requantize::<V, 1, true>(layout, tile, block, &factors, codes),
                2 => requantize::<V, 2, true>(layout, tile, block, &factors, codes),
                bits => unreachable!("no second part of codes of {bits} bits"),
            };
        }
        if layout.exact_panels() {
            *scales = *runs.scales.get(0);
            return match layout.codes.bits {
                2 => exact::<V, 2>(layout, tile, block, codes),
                4 => exact::<V, 4>(layout, tile, block, codes),
                _ => exact::<V, 8>(layout, tile, block, codes),
            };
        }
        let factors = factors(layout, &runs, scales);
        match layout.codes.bits {
            1 => requantize::<V, 1, false>(layout, tile, block, &factors, codes),
            2 => requantize::<V, 2, false>(layout, tile, block, &factors, codes),
            3 => requantize::<V, 3, false>(layout, tile, block, &factors, codes),
            4 => requantize::<V, 4, false>(layout, tile, block, &factors, codes),
            5 => requantize::<V, 5, false>(layout, tile, block, &factors, codes),
            6 => requantize::<V, 6, false>(layout, tile, block, &factors, codes),
            _ => requantize::<V, 8, false>(layout, tile, block, &factors, codes),
        }
    }
}

/// Where the codes of 32 columns are in a tile; `None` for columns that it does not have.
#[inline(always)]
pub(crate) fn block_at(layout: &Layout, column: usize) -> Option<usize> {
    let (record, within) = (column / layout.span, column % layout.span);
    let at = record * layout.record + layout.header + within / BLOCK * layout.block_bytes();
    (record < layout.records).then_some(at)
}

/// Copies 16 floats to `to`.
///
/// # Safety
/// The machine must have the instructions of `V`, and `to` room for 16 numbers.
///
/// # Panics
/// If there are not as many in `bytes`.
#[inline(always)]
unsafe fn floats<V: IntLanes>(float: Float, bytes: &[u8], to: *mut f32) {
    for row in (0..TILE_ROWS).step_by(V::COUNT) {
        let from = &bytes[row * float.bytes()..][..V::COUNT * float.bytes()];
        // SAFETY: the caller vouches for the instructions and the room; a register of floats is at `from`.
        unsafe { load_floats::<V::Floats>(float, from.as_ptr()).store(to.add(row)) };
    }
}

/// The scales and offsets of the `columns` columns from `first` on, a multiple of `columns`, which are 64, 128 or
/// 256.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(crate) unsafe fn runs<V: IntLanes>(
    layout: &Layout,
    tile: &[u8],
    first: usize,
    columns: usize,
) -> Runs {
    let mut runs = Runs { count: 0, width: columns, scales: Each::new(), offsets: Each::new() };
    let columns = columns.min(layout.padded() - first);
    match layout.codes.scaling {
        Scaling::Groups { group, float, offset } => {
            let len = match group {
                Group::Row => layout.span,
                Group::Of(len) => usize::from(len),
            };
            runs.width = len.min(runs.width);
            runs.count = columns.div_ceil(runs.width);
            for index in 0..runs.count {
                let column = first + index * runs.width;
                let header = &tile[column / layout.span * layout.record..][..layout.header];
                let bytes = group_bytes(float, offset);
                let place = &header[column % layout.span / len * bytes..][..bytes];
                // SAFETY: the caller vouches for the instructions; a place is for 16 numbers.
                unsafe {
                    floats::<V>(float, place, runs.scales.place(index));
                    if offset {
                        floats::<V>(float, &place[bytes / 2..], runs.offsets.place(index));
                    } else {
                        runs.offsets.place(index).cast::<Rows<f32>>().write([-0.0; TILE_ROWS]);
                    }
                }
            }
        }
        Scaling::SuperBlocks { run, minimum } => {
            runs.width = run.into();
            runs.count = columns / runs.width;
            let header = &tile[first / SUPER_BLOCK * layout.record..][..layout.header];
            let skip = first % SUPER_BLOCK / runs.width;
            let integers = &header[INTEGERS_AT..][..256];
            for row in (0..TILE_ROWS).step_by(V::COUNT) {
                // SAFETY: the caller vouches for the instructions. There are 16 rows of both floats, and
                // as many bytes for each run, or two for each of eight, in a header.
                unsafe {
                    let at = |first: usize| header[2 * (first + row)..].as_ptr();
                    let scale = V::Floats::load_f16(at(0));
                    let less = V::Floats::splat(0.0).sub(V::Floats::load_f16(at(TILE_ROWS)));
                    /// Stores what a run is scaled by. No closure, which may not become part of the function.
                    macro_rules! put {
                        ($index:expr, $by:expr, $minus:expr) => {
                            scale.mul($by).store(runs.scales.place($index).add(row));
                            less.mul($minus).store(runs.offsets.place($index).add(row));
                        };
                    }
                    let nothing = V::Floats::splat(-1.0);
                    let at = |index: usize| integers[(skip + index) * TILE_ROWS + row..].as_ptr();
                    match (run, layout.codes.bits) {
                        (32, _) => {
                            for index in 0..runs.count {
                                let minus = V::Floats::load_u8(at(8 + index));
                                put!(index, V::Floats::load_u8(at(index)), minus);
                            }
                        }
                        (_, 4..) => {
                            for index in 0..runs.count {
                                put!(index, V::Floats::load_i8(at(index).cast()), nothing);
                            }
                        }
                        _ => {
                            let fours = &integers.as_chunks::<LINE>().0[skip / 4..];
                            for (index, fours) in fours[..runs.count / 4].iter().enumerate() {
                                let fours = V::load(fours[4 * row..].as_ptr());
                                let pairs = if minimum {
                                    integers_of_runs::<V, true>(fours)
                                } else {
                                    integers_of_runs::<V, false>(fours)
                                };
                                for (index, (scales, minimums)) in
                                    (4 * index..).step_by(2).zip(pairs)
                                {
                                    for which in 0..2 {
                                        // One of both by itself.
                                        let one = V::splat(1 << (16 * which));
                                        let by = scales.dot_pairs(one).to_floats();
                                        let minus = if minimum {
                                            minimums.dot_pairs(one).to_floats()
                                        } else {
                                            nothing
                                        };
                                        put!(index + which, by, minus);
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    runs
}

/// The nearest whole number, ties to even, in the lower 16 bits. It must fit.
#[inline(always)]
fn nearest(value: f32) -> i32 {
    /// Adding this leaves the number in the lowest bits.
    const ROUND: f32 = 3.0 * (1 << 22) as f32;
    (value + ROUND).to_bits() as i32
}

/// The scales of a panel and what its codes are made with.
///
/// # Safety
/// All runs must have been written.
#[inline(always)]
unsafe fn factors(layout: &Layout, runs: &Runs, scales: &mut Rows<f32>) -> Factors {
    let (bits, zero) = (u32::from(layout.codes.bits), f32::from(layout.codes.zero));
    let signed = layout.codes.signed;
    let top = if signed { PANEL_TOP } else { ((1u32 << bits) - 1) as f32 - zero };
    let bottom = if signed { -PANEL_TOP } else { -zero };
    // Without their sign, floats are ordered as their bits are, and NaN comes last.
    let mut largest = [0u32; TILE_ROWS];
    for index in 0..runs.count {
        // SAFETY: the caller's promise.
        let (run_scales, offsets) = unsafe { (runs.scales.get(index), runs.offsets.get(index)) };
        for (largest, (scale, &offset)) in largest.iter_mut().zip(run_scales.iter().zip(offsets)) {
            let high = scale.mul_add(top, offset).abs().to_bits();
            let low = scale.mul_add(bottom, offset).abs().to_bits();
            *largest = (*largest).max(high).max(low);
        }
    }
    let mut inverse = [0.0; TILE_ROWS];
    for ((scale, largest), inverse) in scales.iter_mut().zip(largest).zip(&mut inverse) {
        *scale = f32::from_bits(largest) / PANEL_TOP;
        let usable = (LEAST_PANEL_SCALE..f32::INFINITY).contains(scale);
        *inverse = if usable { 1.0 / *scale } else { 0.0 };
    }
    let wide = bits == 8;
    let one = (1u32 << FRACTION_BITS) as f32;
    let half = 1 << (FRACTION_BITS - 1);
    let width_bits = runs.width.trailing_zeros();
    let mut made = Factors { width_bits, by: Each::new(), plus: Each::new() };
    for index in 0..runs.count {
        // SAFETY: the caller's promise.
        let (run_scales, offsets) = unsafe { (runs.scales.get(index), runs.offsets.get(index)) };
        let (mut by, mut plus) = ([0; TILE_ROWS], [0; TILE_ROWS]);
        let both = run_scales.iter().zip(offsets).zip(&inverse);
        for (((&scale, &offset), &inverse), (by, plus)) in both.zip(by.iter_mut().zip(&mut plus)) {
            // Of panels that are zeros, scales may be anything, even no numbers.
            let (scale, offset) = if inverse == 0.0 { (0.0, 0.0) } else { (scale, offset) };
            if wide {
                let middle = if signed { 0.0 } else { 128.0 };
                let factor = scale * inverse * (1u32 << WIDE_FACTOR_BITS) as f32;
                *by = nearest(factor.clamp(-32767.0, 32767.0));
                *plus = nearest((middle - zero).mul_add(scale, offset) * inverse * one) + half;
            } else {
                *by = nearest(scale * inverse * one);
                let zero = i32::from(layout.codes.zero).wrapping_mul(*by);
                *plus = nearest(offset * inverse * one).wrapping_sub(zero).wrapping_add(half);
            }
            (*by, *plus) = (*by & 0xffff | *by << 16, *plus & 0xffff | *plus << 16);
        }
        // SAFETY: a place is for 16 numbers.
        unsafe {
            made.by.place(index).cast::<Rows<i32>>().write(by);
            made.plus.place(index).cast::<Rows<i32>>().write(plus);
        }
    }
    made
}

/// Codes that are the weights over one scale.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
unsafe fn exact<V: IntLanes, const BITS: usize>(
    layout: &Layout,
    tile: &[u8],
    block: usize,
    codes: &mut [i8; TILE_ROWS * PANEL_COLS],
) {
    for (index, out) in codes.chunks_exact_mut(TILE_ROWS * BLOCK).enumerate() {
        let Some(at) = block_at(layout, block * PANEL_COLS + index * BLOCK) else {
            out.fill(0);
            continue;
        };
        let from = &tile[at..][..layout.block_bytes()];
        for row in (0..TILE_ROWS).step_by(V::COUNT) {
            // SAFETY: the caller vouches for the instructions; a block of codes is at `from`, and of
            // `WORDS` lines at `out`.
            unsafe {
                let words = expand::<V, BITS>(from.as_ptr().add(4 * row), V::splat(0));
                for (word, words) in words.into_iter().enumerate() {
                    // Signed bytes minus the code of zero, without carries: the sum with the upper bit
                    // left out, then that bit by itself.
                    let less = (layout.codes.zero as i8).wrapping_neg() as u8;
                    let less = V::splat(i32::from_le_bytes([less; 4]));
                    let low = V::splat(0x7f7f_7f7f);
                    let sum = words.and(low).add(less.and(low));
                    let upper = words.xor(less).and(V::splat(0x8080_8080_u32 as i32));
                    sum.xor(upper).store(out.as_mut_ptr().cast::<u8>().add(word * LINE + 4 * row));
                }
            }
        }
    }
}

/// Codes made by fixed-point arithmetic in 16 bits: the whole part, or what it leaves.
///
/// # Safety
/// The machine must have the instructions of `V`, and the factors must be those of the panel.
#[inline(always)]
unsafe fn requantize<V: IntLanes, const BITS: usize, const REST: bool>(
    layout: &Layout,
    tile: &[u8],
    block: usize,
    factors: &Factors,
    codes: &mut [i8; TILE_ROWS * PANEL_COLS],
) {
    // SAFETY: the caller vouches for the instructions.
    let (low, high, flip, middle) = unsafe {
        // Unsigned codes of eight bits are counted from 128.
        let flip = if BITS == 8 && !layout.codes.signed { 0x8080_8080_u32 as i32 } else { 0 };
        let middle = V::splat(0x8080_8080_u32 as i32);
        (V::splat(0x00ff_00ff), V::splat(0xff00_ff00_u32 as i32), V::splat(flip), middle)
    };
    for (index, out) in codes.chunks_exact_mut(TILE_ROWS * BLOCK).enumerate() {
        let Some(at) = block_at(layout, block * PANEL_COLS + index * BLOCK) else {
            out.fill(0);
            continue;
        };
        let from = &tile[at..][..layout.block_bytes()];
        for row in (0..TILE_ROWS).step_by(V::COUNT) {
            // SAFETY: the caller vouches for the instructions and the factors; a block of codes is at
            // `from`, and of `WORDS` lines at `out`.
            unsafe {
                let words = expand::<V, BITS>(from.as_ptr().add(4 * row), flip);
                for half in 0..2 {
                    let run = (index * BLOCK + half * BLOCK / 2) >> factors.width_bits;
                    let by = V::load(factors.by.get(run)[row..].as_ptr().cast());
                    let plus = V::load(factors.plus.get(run)[row..].as_ptr().cast());
                    let first = half * WORDS / 2;
                    for (word, code) in (first..).zip(&words[first..first + WORDS / 2]) {
                        let (even, odd) = if BITS == 8 {
                            let (even, odd) = (code.shift16::<8>(), code.and(high));
                            (
                                even.mul_high16(by).add_saturating16(plus),
                                odd.mul_high16(by).add_saturating16(plus),
                            )
                        } else {
                            let (even, odd) = (code.and(low), code.shift16::<-8>());
                            (even.mul_low16(by).add16(plus), odd.mul_low16(by).add16(plus))
                        };
                        let code = if REST {
                            // Each was half a step too large.
                            even.and(low).or(odd.shift16::<8>()).xor(middle)
                        } else {
                            // The whole part of each, in its byte.
                            even.shift16::<{ -(FRACTION_BITS as i32) }>().or(odd.and(high))
                        };
                        code.store(out.as_mut_ptr().cast::<u8>().add(word * LINE + 4 * row));
                    }
                }
            }
        }
    }
}
