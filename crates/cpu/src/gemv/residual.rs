//! Products of few rows of activations in two parts with codes of one or two bits, by groups: exact in `i32`
//! within a group. The order of `f32` operations is that of [`crate::reference::oracle`].
//!
//! Codes are not moved to the lowest bits of their bytes: products with those two bits up are four times as
//! large, and have sums of their own.

use crate::gemv::bits::{WORDS, load};
use crate::gemv::operands::{RowAt, Scales, TileAt};
use crate::packed::tiles::{BLOCK, LINE, Layout};
use crate::scheme::activations::SUM_COLS;
use crate::scheme::panel::PANEL_COLS;
use crate::simd::ints::IntLanes;
use crate::simd::lanes::Lanes;

/// Parts of activations.
const PARTS: usize = 2;
/// Sums of a part: of codes in their place, and of codes times four.
const SUMS: usize = 2;

/// The codes of a block, a register for each four columns: of codes in their place, or times four, as
/// [`sum_of`] says.
///
/// # Safety
/// The machine must have the instructions of `V`; there must be a block of codes of `BITS` bits (one or two)
/// at `at`, of which this takes the lanes that begin there.
#[inline(always)]
unsafe fn in_place<V: IntLanes, const BITS: usize>(at: *const u8) -> [V; WORDS] {
    // SAFETY: the caller's promise; a block has `BITS` lines.
    unsafe {
        if BITS == 1 {
            let (one, four) = (V::splat(0x0101_0101), V::splat(0x0404_0404));
            let all = load::<V>(at);
            let (by1, by4, by5) = (all.shift16::<-1>(), all.shift16::<-4>(), all.shift16::<-5>());
            return [
                all.and(one),
                by1.and(one),
                all.and(four),
                by1.and(four),
                by4.and(one),
                by5.and(one),
                by4.and(four),
                by5.and(four),
            ];
        }
        let (one, four) = (V::splat(0x0303_0303), V::splat(0x0c0c_0c0c));
        let (first, second) = (load::<V>(at), load::<V>(at.add(LINE)));
        let (first_by4, second_by4) = (first.shift16::<-4>(), second.shift16::<-4>());
        [
            first.and(one),
            first.and(four),
            first_by4.and(one),
            first_by4.and(four),
            second.and(one),
            second.and(four),
            second_by4.and(one),
            second_by4.and(four),
        ]
    }
}

/// Which sum the products with a register of [`in_place`] go to.
const fn sum_of(bits: usize, word: usize) -> usize {
    if bits == 1 { word / 2 % 2 } else { word % 2 }
}

/// Codecs of one or two bits that scale by groups (of at most 256 columns), activations in two parts.
///
/// # Safety
/// The machine must have the instructions of `V`; the tile and the rows must be as the layout says.
#[inline(always)]
pub(crate) unsafe fn groups<V: IntLanes, const BITS: usize, const ROWS: usize>(
    layout: &Layout,
    scales: Scales,
    tile: TileAt,
    x: [RowAt; ROWS],
) -> [V::Floats; ROWS] {
    // SAFETY: the caller's promise. A block of 32 columns is in one block of 256, whose parts come after
    // each other.
    unsafe {
        let mut sums = [V::Floats::splat(0.0); ROWS];
        let zero = i32::from(layout.codes.zero);
        let mut column = 0;
        for record in 0..layout.records {
            let header = tile.at.add(record * layout.record);
            let mut codes = header.add(layout.header + 4 * tile.row);
            for index in 0..layout.span / scales.width {
                let mut products = [[[V::splat(0); SUMS]; PARTS]; ROWS];
                let mut totals = [[0; PARTS]; ROWS];
                let parts = column / PANEL_COLS * PARTS;
                for _ in 0..scales.width / BLOCK {
                    let words = in_place::<V, BITS>(codes);
                    for (x, (products, totals)) in
                        x.iter().zip(products.iter_mut().zip(&mut totals))
                    {
                        for (part, (products, total)) in products.iter_mut().zip(totals).enumerate()
                        {
                            let at = (parts + part) * PANEL_COLS + column % PANEL_COLS;
                            let of_sixteen = x.sums.add(at / SUM_COLS);
                            *total += i32::from(*of_sixteen) + i32::from(*of_sixteen.add(1));
                            // Started anew, so that a block whose codes are late holds up no other.
                            let mut fresh = [V::splat(0); SUMS];
                            for (word, &codes) in words.iter().enumerate() {
                                let by = x.codes.add(at + 4 * word).cast::<i32>().read_unaligned();
                                let to = &mut fresh[sum_of(BITS, word)];
                                *to = to.dot::<true>(codes, V::splat(by));
                            }
                            for (sum, fresh) in products.iter_mut().zip(fresh) {
                                *sum = sum.add(fresh);
                            }
                        }
                    }
                    codes = codes.add(layout.block_bytes());
                    column += BLOCK;
                }
                let (scale, offset) = scales.of_group::<V::Floats>(header, index, tile.row);
                for (row, sum) in sums.iter_mut().enumerate() {
                    let nothing = V::Floats::splat(0.0);
                    let (mut product, mut added) = (nothing, 0.0);
                    for part in 0..PARTS {
                        let [one, four] = products[row][part];
                        let total = totals[row][part];
                        // Four times the product, which is scaled by a fourth: the same bits.
                        let one = one.add(V::splat(-zero * total));
                        let one = one.add(one);
                        let four = four.add(one.add(one)).to_floats();
                        let by = *x[row].scales.add(parts + part);
                        product = four.mul_add(V::Floats::splat(0.25 * by), product);
                        added = (total as f32).mul_add(by, added);
                    }
                    *sum = scale.mul_add(product, *sum);
                    if scales.offset {
                        *sum = offset.mul_add(V::Floats::splat(added), *sum);
                    }
                }
            }
        }
        sums
    }
}
