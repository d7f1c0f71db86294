//! Codes out of blocks of tiles, and products with them.
//!
//! Weights are read at the rate of memory only if lines are asked for evenly: asked for in bursts (all of a block,
//! and then its products) they come a sixth slower or worse, however far ahead. So what a line holds is used up
//! before the next is touched.

use crate::gemv::operands::RowAt;
use crate::packed::tiles::{BLOCK, LINE};
use crate::simd::ints::IntLanes;
use crate::simd::prefetch::ask_ahead;

/// Vectors of a block.
pub(crate) const WORDS: usize = BLOCK / 4;

/// A register of weights; asks for what comes later.
///
/// # Safety
/// The machine must have the instructions of `V`; there must be as many bytes at `at`.
#[inline(always)]
pub(crate) unsafe fn load<V: IntLanes>(at: *const u8) -> V {
    ask_ahead(at);
    // SAFETY: the caller's promise.
    unsafe { V::load(at) }
}

/// Does `$body` with each word of the block of codes at `$at`: `$word`, a register of the codes of four columns,
/// counted from zero if `$flip` is zero, which is the word `$index`. Needs the promises of [`expand`].
///
/// A macro, since shifts have to be literals and a closure would not have the instructions of `V`.
macro_rules! for_each_word {
    ($V:ident, $BITS:ident, $at:expr, $flip:expr, |$index:ident, $word:ident| $body:block) => {
        for_each_word!([0 1 2 3 4 5 6 7] $V, $BITS, $at, $flip, |$index, $word| $body)
    };
    ([$($i:literal)+] $V:ident, $BITS:ident, $at:expr, $flip:expr, |$index:ident, $word:ident| $body:block) => {
        // Planes: four bits of each code, then two, then one, as `BITS` has them; each is loaded where the first
        // word needs it.
        let (at, flip): (*const u8, $V) = ($at, $flip);
        let nothing = $V::splat(0);
        let (mut fours, mut twos, mut ones) = (nothing, nothing, nothing);
        $({
            let mut $word = nothing;
            if $BITS == 8 {
                $word = load::<$V>(at.add($i * LINE)).xor(flip);
            }
            if $BITS & 4 != 0 {
                if $i % 2 == 0 {
                    fours = load::<$V>(at.add($i / 2 * LINE));
                }
                $word = fours.shift16::<{ -4 * ($i % 2) }>().and($V::splat(0x0f0f_0f0f));
            }
            if $BITS & 2 != 0 {
                if $i % 4 == 0 {
                    twos = load::<$V>(at.add(($BITS - 2 - $BITS % 2 + $i / 4) * LINE));
                }
                let part = match $BITS {
                    6 => twos.shift16::<{ 4 - 2 * ($i % 4) }>().and($V::splat(0x3030_3030)),
                    _ => twos.shift16::<{ -2 * ($i % 4) }>().and($V::splat(0x0303_0303)),
                };
                $word = $word.or(part);
            }
            if $BITS & 1 != 0 {
                if $i == 0 {
                    ones = load::<$V>(at.add(($BITS - 1) * LINE));
                }
                let part = match $BITS {
                    5 => ones.shift16::<{ 4 - $i }>().and($V::splat(0x1010_1010)),
                    3 => ones.shift16::<{ 2 - $i }>().and($V::splat(0x0404_0404)),
                    _ => ones.shift16::<{ -$i }>().and($V::splat(0x0101_0101)),
                };
                $word = $word.or(part);
            }
            let $index: usize = $i;
            $body
        })+
        // Read by no later word.
        let _ = (fours, twos, ones);
    };
}

pub(crate) use for_each_word;

/// The codes of a block, a register for each four columns, counted from zero if `flip` is zero.
///
/// # Safety
/// The machine must have the instructions of `V`; there must be a block of codes of `BITS` bits at `at`,
/// of which this takes the lanes that begin there.
#[inline(always)]
pub(crate) unsafe fn expand<V: IntLanes, const BITS: usize>(at: *const u8, flip: V) -> [V; WORDS] {
    // SAFETY: the caller's promise; a block has `BITS` lines.
    unsafe {
        let mut words = [flip; WORDS];
        for_each_word!(V, BITS, at, flip, |index, word| {
            words[index] = word;
        });
        words
    }
}

/// Adds the products of a block of codes with the block `block` of each row: those of its columns' first part to the
/// first sum, and so on.
///
/// # Safety
/// That of [`expand`]; rows must have such a block.
#[inline(always)]
pub(crate) unsafe fn add_products<
    V: IntLanes,
    const BITS: usize,
    const ROWS: usize,
    const PARTS: usize,
>(
    at: *const u8,
    flip: V,
    x: &[RowAt; ROWS],
    block: usize,
    sums: &mut [[V; PARTS]; ROWS],
) {
    // SAFETY: the caller's promise.
    unsafe {
        for_each_word!(V, BITS, at, flip, |index, word| {
            for (x, sums) in x.iter().zip(sums.iter_mut()) {
                let four = x.codes.add(block * BLOCK + 4 * index).cast::<i32>().read_unaligned();
                let sum = &mut sums[index * PARTS / WORDS];
                // Codes of up to six bits are below 64.
                *sum = match BITS {
                    8 => sum.dot::<false>(word, V::splat(four)),
                    _ => sum.dot::<true>(word, V::splat(four)),
                };
            }
        });
    }
}
