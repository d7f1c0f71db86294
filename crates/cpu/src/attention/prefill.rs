//! Blocks of rows on vector registers. A lane is a query, so all of softmax is done on whole
//! registers, and a product of a query and a key is one chain of sums, in the order of its terms.

use std::ops::Range;

use crate::attention::lanes::{AttentionLanes, base, soft_cap, whole};
use crate::attention::load_kv::{round, unpack, unpack_values};
use crate::attention::{BLOCK, Numbers, PAGE_TOKENS, Queries, SPLIT, pieces, spoil};
use crate::runtime::scratch::Scratch;
use crate::simd::exp;

/// Keys whose scores, or numbers of a head whose sums, are made at the same time: enough chains to
/// hide the latency of one multiply-add behind others. Divides a page.
const CHAINS: usize = 8;

/// A block's keys or values, page by page; nothing where no row sees any of a page.
type Block<'a> = [&'a [f32]; BLOCK / PAGE_TOKENS];

/// A register full of queries: query `n` is head `n % group` of row `n / group`. Lanes past the last
/// query see nothing.
struct Tile<'a> {
    /// The first of its queries.
    first: usize,
    /// How many there are.
    count: usize,
    /// Queries: `[head_dim, lanes]`.
    queries: &'a mut [f32],
    /// Weighted values of the current split: `[head_dim, lanes]`.
    values: &'a mut [f32],
    /// Weighted values of the splits before.
    total: &'a mut [f32],
    /// `[6, lanes]`: see the constants below.
    numbers: &'a mut [f32],
}

/// In [`Tile::numbers`]: the largest score of the current split.
const LARGEST: usize = 0;
/// The sum of its weights.
const SUM: usize = 1;
/// The largest score of the splits before.
const TOTAL_LARGEST: usize = 2;
/// The sum of their weights.
const TOTAL_SUM: usize = 3;
/// The first token that a query sees, counted from the beginning of the current block.
const FROM: usize = 4;
/// The token after the last that it sees.
const TO: usize = 5;

/// Attends rows to all that they see.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
pub(super) unsafe fn blocks<V: AttentionLanes>(
    queries: &Queries<'_>,
    numbers: Numbers,
    out: &mut [&mut [f32]],
    scratch: &mut Scratch,
) {
    let (head_dim, group) = (queries.spec.head_dim, queries.group());
    let page_len = PAGE_TOKENS * head_dim;
    let per_tile = (3 * head_dim + 6) * V::COUNT;
    let count = (queries.rows() * group).div_ceil(V::COUNT);
    let [memory, scores, keys_room, values_room] =
        scratch.take([count * per_tile, BLOCK * V::COUNT, BLOCK * head_dim, BLOCK * head_dim]);
    let memory = memory.chunks_exact_mut(per_tile).enumerate();
    let room = &mut keys_room[..head_dim];
    let mut tiles: Vec<_> =
        memory.map(|(index, memory)| Tile::new::<V>(queries, index, memory, room)).collect();
    if numbers == Numbers::Bf16 {
        // SAFETY: the caller vouches for the instructions.
        tiles.iter_mut().for_each(|tile| unsafe { round::<V>(tile.queries) });
    }
    let mut wrong_pages = vec![];
    for split in pieces(queries.all_see(), SPLIT) {
        tiles.iter_mut().for_each(|tile| tile.start_split::<V>());
        for tokens in pieces(split, BLOCK) {
            let start = tokens.start / BLOCK * BLOCK;
            let (mut keys, mut values): (Block<'_>, Block<'_>) = Default::default();
            let rooms = keys_room.chunks_exact_mut(page_len);
            let rooms = rooms.zip(values_room.chunks_exact_mut(page_len));
            for (index, (keys_room, values_room)) in rooms.enumerate() {
                let page_start = start + index * PAGE_TOKENS;
                let seen = tokens.end.saturating_sub(page_start).min(PAGE_TOKENS);
                if seen == 0 || tokens.start >= page_start + PAGE_TOKENS {
                    continue;
                }
                let page = queries.pages[page_start / PAGE_TOKENS];
                let (of, head) = (queries.kv, queries.kv_head);
                // SAFETY: the caller vouches for the instructions.
                unsafe {
                    let (key, value) = (of.keys(page, head), of.values(page, head));
                    keys[index] = unpack::<V>(key, head_dim, seen, numbers, keys_room);
                    let (value, finite) =
                        unpack_values::<V>(value, head_dim, seen, numbers, values_room);
                    values[index] = value;
                    if !finite {
                        wrong_pages.push(page_start / PAGE_TOKENS);
                    }
                }
            }
            for tile in &mut tiles {
                let seen = tile.look_at::<V>(queries, start);
                if !seen.is_empty() {
                    // SAFETY: the caller vouches for the instructions. Tokens that some query of the
                    // tile sees are among those that some row sees, whose pages are here.
                    unsafe { tile.add::<V>(queries, numbers, seen, &keys, &values, scores) };
                }
            }
        }
        // SAFETY: the caller vouches for the instructions.
        tiles.iter_mut().for_each(|tile| unsafe { tile.end_split::<V>() });
    }
    for tile in &tiles {
        let sums = &tile.numbers[TOTAL_SUM * V::COUNT..];
        for (lane, sum) in sums[..tile.count].iter().enumerate() {
            let query = tile.first + lane;
            let out = &mut out[query / group][query % group * head_dim..][..head_dim];
            for (out, values) in out.iter_mut().zip(tile.total.chunks_exact(V::COUNT)) {
                *out = values[lane] / sum;
            }
        }
    }
    spoil(queries, numbers, &wrong_pages, out);
}

impl<'a> Tile<'a> {
    /// The tile `index` of the queries, which has seen nothing. `room` is for a head.
    #[inline(always)]
    fn new<V: AttentionLanes>(
        queries: &Queries<'_>,
        index: usize,
        memory: &'a mut [f32],
        room: &mut [f32],
    ) -> Self {
        let (head_dim, group) = (queries.spec.head_dim, queries.group());
        let len = head_dim * V::COUNT;
        let (own, rest) = memory.split_at_mut(len);
        let (values, rest) = rest.split_at_mut(len);
        let (total, numbers) = rest.split_at_mut(len);
        let first = index * V::COUNT;
        let count = (queries.rows() * group - first).min(V::COUNT);
        own.fill(0.0);
        for lane in 0..count {
            let (row, member) = ((first + lane) / group, (first + lane) % group);
            let query = queries.part(row, member * head_dim..(member + 1) * head_dim, room);
            for (to, from) in own.chunks_exact_mut(V::COUNT).zip(query) {
                to[lane] = *from;
            }
        }
        total.fill(0.0);
        numbers.fill(0.0);
        numbers[TOTAL_LARGEST * V::COUNT..][..V::COUNT].fill(f32::NEG_INFINITY);
        Self { first, count, queries: own, values, total, numbers }
    }

    #[inline(always)]
    fn start_split<V: AttentionLanes>(&mut self) {
        self.values.fill(0.0);
        self.numbers[LARGEST * V::COUNT..][..V::COUNT].fill(f32::NEG_INFINITY);
        self.numbers[SUM * V::COUNT..][..V::COUNT].fill(0.0);
    }

    /// Notes what each query sees of the block that begins at `start`; gives what any of them sees.
    #[inline(always)]
    fn look_at<V: AttentionLanes>(&mut self, queries: &Queries<'_>, start: usize) -> Range<usize> {
        let within = |token: usize| token.saturating_sub(start).min(BLOCK);
        let mut any = Range { start: BLOCK, end: 0 };
        for lane in 0..self.count {
            let seen = queries.sees((self.first + lane) / queries.group());
            let seen = within(seen.start)..within(seen.end);
            self.numbers[FROM * V::COUNT + lane] = seen.start as f32;
            self.numbers[TO * V::COUNT + lane] = seen.end as f32;
            if !seen.is_empty() {
                any = any.start.min(seen.start)..any.end.max(seen.end);
            }
        }
        any
    }

    /// Adds the tokens `seen` of a block, of which a query may see a part.
    ///
    /// # Safety
    /// The machine must have the instructions of `V`.
    ///
    /// # Panics
    /// If a page that has tokens in `seen` is missing.
    #[inline(always)]
    unsafe fn add<V: AttentionLanes>(
        &mut self,
        queries: &Queries<'_>,
        numbers: Numbers,
        seen: Range<usize>,
        keys: &Block<'_>,
        values: &Block<'_>,
        scores: &mut [f32],
    ) {
        let (spec, head_dim) = (queries.spec, queries.spec.head_dim);
        assert!(scores.len() == BLOCK * V::COUNT && seen.end <= BLOCK);
        // Whole groups of keys; those that nobody sees count for nothing.
        let groups = seen.start / CHAINS..seen.end.div_ceil(CHAINS);
        for group in groups {
            let page = keys[group * CHAINS / PAGE_TOKENS];
            let keys = &page[group * CHAINS % PAGE_TOKENS * head_dim..][..CHAINS * head_dim];
            let scores = &mut scores[group * CHAINS * V::COUNT..][..CHAINS * V::COUNT];
            // SAFETY: the caller vouches for the instructions.
            unsafe { products::<V>(self.queries, keys, head_dim, scores) };
        }
        let scores = &mut scores[seen.start * V::COUNT..seen.end * V::COUNT];
        let at = self.numbers.as_mut_ptr();
        // SAFETY: the caller vouches for the instructions; `numbers` has six registers, and the
        // chunks of `scores` have one each.
        let (by, largest) = unsafe {
            let from = V::load(at.add(FROM * V::COUNT));
            let to = V::load(at.add(TO * V::COUNT));
            let unseen = V::splat(f32::NEG_INFINITY);
            let scale = V::splat(spec.scale);
            let before = V::load(at.add(LARGEST * V::COUNT));
            let mut largest = before;
            for (token, score) in seen.clone().zip(scores.chunks_exact_mut(V::COUNT)) {
                let mut value = V::load(score.as_ptr()).mul(scale);
                if let Some(cap) = spec.soft_cap {
                    value = soft_cap(value, cap);
                }
                let token = V::splat(token as f32);
                value = V::where_less(token, to, value, unseen);
                value = V::where_less(token, from, unseen, value);
                value.store(score.as_mut_ptr());
                largest = value.max(largest);
            }
            if numbers == Numbers::Bf16 {
                largest = whole(largest);
            }
            largest.store(at.add(LARGEST * V::COUNT));
            let base = base(largest);
            (exp(before.sub(base)), base)
        };
        // SAFETY: as above.
        unsafe {
            let mut sum = V::splat(0.0);
            for score in scores.chunks_exact_mut(V::COUNT) {
                let mut weight = exp(V::load(score.as_ptr()).sub(largest));
                sum = sum.add(weight);
                if numbers == Numbers::Bf16 {
                    weight = weight.round_to_bf16();
                }
                weight.store(score.as_mut_ptr());
            }
            V::load(at.add(SUM * V::COUNT)).mul_add(by, sum).store(at.add(SUM * V::COUNT));
        }
        // In order of tokens, page by page.
        let mut by = by;
        for tokens in pieces(seen.clone(), PAGE_TOKENS) {
            let first = tokens.start % PAGE_TOKENS * head_dim;
            let page = &values[tokens.start / PAGE_TOKENS][first..][..tokens.len() * head_dim];
            let from = (tokens.start - seen.start) * V::COUNT;
            let weights = &scores[from..from + tokens.len() * V::COUNT];
            // SAFETY: the caller vouches for the instructions.
            unsafe {
                accumulate::<V>(weights, page, head_dim, by, self.values);
                by = V::splat(1.0);
            }
        }
    }

    /// Adds the current split to those before.
    ///
    /// # Safety
    /// The machine must have the instructions of `V`.
    #[inline(always)]
    unsafe fn end_split<V: AttentionLanes>(&mut self) {
        let at = self.numbers.as_mut_ptr();
        // SAFETY: the caller vouches for the instructions; `numbers` has six registers, and the chunks
        // have one each.
        unsafe {
            let (before, own) =
                (V::load(at.add(TOTAL_LARGEST * V::COUNT)), V::load(at.add(LARGEST * V::COUNT)));
            let largest = own.max(before);
            let by = exp(before.sub(base(largest)));
            let own_by = exp(own.sub(base(largest)));
            largest.store(at.add(TOTAL_LARGEST * V::COUNT));
            let sum = V::load(at.add(SUM * V::COUNT)).mul(own_by);
            let total = at.add(TOTAL_SUM * V::COUNT);
            V::load(total).mul_add(by, sum).store(total);
            let values = self.values.chunks_exact(V::COUNT);
            for (total, own) in self.total.chunks_exact_mut(V::COUNT).zip(values) {
                let own = V::load(own.as_ptr()).mul(own_by);
                V::load(total.as_ptr()).mul_add(by, own).store(total.as_mut_ptr());
            }
        }
    }
}

/// Products of a register of queries (`[head_dim, lanes]`) with [`CHAINS`] keys (`[.., head_dim]`).
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
unsafe fn products<V: AttentionLanes>(
    queries: &[f32],
    keys: &[f32],
    head_dim: usize,
    out: &mut [f32],
) {
    assert!(queries.len() == head_dim * V::COUNT && keys.len() == head_dim * CHAINS);
    assert!(out.len() == CHAINS * V::COUNT);
    // SAFETY: the caller vouches for the instructions; all reads and writes are within the lengths
    // asserted above.
    unsafe {
        let mut sums = [V::splat(0.0); CHAINS];
        for i in 0..head_dim {
            let query = V::load(queries.as_ptr().add(i * V::COUNT));
            for (key, sum) in sums.iter_mut().enumerate() {
                *sum = query.mul_add(V::splat(*keys.as_ptr().add(key * head_dim + i)), *sum);
            }
        }
        for (key, sum) in sums.iter().enumerate() {
            sum.store(out.as_mut_ptr().add(key * V::COUNT));
        }
    }
}

/// `sums = sums * by + sum of weights[token] * values[token]`: weights `[tokens, lanes]`, values
/// `[tokens, head_dim]`, sums `[head_dim, lanes]`.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
unsafe fn accumulate<V: AttentionLanes>(
    weights: &[f32],
    values: &[f32],
    head_dim: usize,
    by: V,
    sums: &mut [f32],
) {
    let tokens = weights.len() / V::COUNT;
    assert!(weights.len() == tokens * V::COUNT && values.len() == tokens * head_dim);
    assert!(sums.len() == head_dim * V::COUNT);
    let mut i = 0;
    while i < head_dim {
        // SAFETY: the caller vouches for the instructions; `i + CHAINS`, or `i + 1`, is at most
        // `head_dim`, and lengths are asserted above.
        unsafe {
            let (values, sums) = (values.as_ptr().add(i), sums.as_mut_ptr().add(i * V::COUNT));
            if head_dim - i >= CHAINS {
                chains::<V, CHAINS>(weights, values, head_dim, by, sums);
                i += CHAINS;
            } else {
                chains::<V, 1>(weights, values, head_dim, by, sums);
                i += 1;
            }
        }
    }
}

/// [`accumulate`] for `N` numbers of the head.
///
/// # Safety
/// The machine must have the instructions of `V`; there must be `N` values at `values` plus
/// `head_dim` for each token, and `N` registers at `sums`.
#[inline(always)]
unsafe fn chains<V: AttentionLanes, const N: usize>(
    weights: &[f32],
    values: *const f32,
    head_dim: usize,
    by: V,
    sums: *mut f32,
) {
    // SAFETY: the caller's promise; the chunks have a register each.
    unsafe {
        let mut chains = [V::splat(0.0); N];
        for (i, chain) in chains.iter_mut().enumerate() {
            *chain = V::load(sums.add(i * V::COUNT)).mul(by);
        }
        for (token, weight) in weights.chunks_exact(V::COUNT).enumerate() {
            let weight = V::load(weight.as_ptr());
            for (i, chain) in chains.iter_mut().enumerate() {
                *chain = weight.mul_add(V::splat(*values.add(token * head_dim + i)), *chain);
            }
        }
        for (i, chain) in chains.iter().enumerate() {
            chain.store(sums.add(i * V::COUNT));
        }
    }
}
