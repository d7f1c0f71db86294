//! Blocks of rows on the tile unit AMX, in bf16.
//!
//! Products are made transposed: rows of a tile are keys (then numbers of the head), its columns are
//! queries. So softmax works on whole registers whose lanes are queries, keys need no rearrangement,
//! and only values have to be transposed, once for all rows of a task. A task unpacks a split of the
//! context and keeps it in the second level of cache while its queries go over it.

use std::arch::x86_64::__m512;
use std::ops::Range;

use super::amx_steps::{
    Factors, KEYS, LANES, Operand, PAIR, Seen, TILE, add_fresh, add_split, finish, pack_keys,
    pack_queries, pack_values, products, softmax,
};
use super::stage::unpack;
use super::{AttentionKernels, BLOCK, Numbers, PAGE_TOKENS, Partial, Queries, SPLIT, pieces};
use crate::gemm::Amx;
use crate::scratch::Scratch;
use crate::vector::Avx512;

/// Attention of the tier: products of bf16 on the tile unit, all else as AVX-512 has it.
pub(super) struct AmxAttention {
    amx: Amx,
    vectors: &'static Avx512,
}

impl AmxAttention {
    /// The tier, if this machine has it.
    pub fn detect() -> Option<Self> {
        let (amx, vectors) = (Amx::detect()?, Avx512::detect()?);
        is_x86_feature_detected!("avx512bf16").then_some(Self { amx, vectors })
    }
}

impl AttentionKernels for AmxAttention {
    fn blocks(
        &self,
        queries: &Queries<'_>,
        numbers: Numbers,
        out: &mut [&mut [f32]],
        scratch: &mut Scratch,
    ) {
        if numbers == Numbers::Float {
            return self.vectors.blocks(queries, numbers, out, scratch);
        }
        let _configured = self.amx.tiles();
        let mut task = Task::new(queries, scratch);
        // SAFETY: `self` exists, so the machine has the instructions, and tiles are configured.
        unsafe {
            task.pack_queries();
            for split in pieces(queries.all_see(), SPLIT) {
                task.pack_split(&split);
                for pair in 0..task.pairs {
                    task.add(pair, &split);
                }
            }
            task.finish(out);
        }
    }

    fn split(
        &self,
        queries: &Queries<'_>,
        tokens: Range<usize>,
        partial: Partial<'_>,
        work: &mut [f32],
    ) {
        self.vectors.split(queries, tokens, partial, work);
    }
}

/// Some rows and what is known of them so far. Query `n` is head `n % group` of row `n / group`; it is
/// lane `n % LANES` of tile `n / LANES`; two tiles are a pair. Lanes past the last query hold zeros,
/// and nobody looks at what becomes of them.
struct Task<'a> {
    queries: &'a Queries<'a>,
    pairs: usize,
    /// Pieces of [`KEYS`] numbers that the product of a query and a key is made in.
    steps: usize,
    /// Pieces of [`LANES`] numbers of a value: twice as many.
    tiles: usize,
    /// For each pair and tile, `steps` tiles of queries.
    packed: &'a mut [f32],
    /// For each pair and tile, the sums of the splits before: values `[tiles * LANES, LANES]`, the
    /// largest score `[LANES]`, the sum of weights `[LANES]`.
    totals: &'a mut [f32],
    /// The current split's keys: for each 16 of them, `steps` tiles.
    keys: &'a mut [f32],
    /// The current split's values: for each 32 of them, `tiles` tiles.
    values: &'a mut [f32],
    /// The current pair's sums of the current split, as `totals`.
    sums: &'a mut [f32],
    /// The current block's scores: for each tile of the pair `[BLOCK, LANES]`.
    scores: &'a mut [f32],
    /// Its weights: for each tile of the pair and each 32 keys, a tile.
    weights: &'a mut [f32],
    /// Its weighted values: for each tile of the pair `[tiles * LANES, LANES]`.
    fresh: &'a mut [f32],
    /// A page unpacked.
    room: &'a mut [f32],
}

impl<'a> Task<'a> {
    fn new(queries: &'a Queries<'a>, scratch: &'a mut Scratch) -> Self {
        let head_dim = queries.spec.head_dim;
        let steps = head_dim.div_ceil(KEYS);
        let tiles = 2 * steps;
        let pairs = (queries.rows() * queries.group()).div_ceil(PAIR * LANES);
        let sums_len = (tiles * LANES + 2) * LANES;
        let lengths = [
            pairs * PAIR * steps * TILE,
            pairs * PAIR * sums_len,
            SPLIT / LANES * steps * TILE,
            SPLIT / KEYS * tiles * TILE,
            PAIR * sums_len,
            PAIR * BLOCK * LANES,
            PAIR * BLOCK / KEYS * TILE,
            PAIR * tiles * TILE,
            (PAGE_TOKENS * head_dim).next_multiple_of(LANES),
        ];
        // A row of a tile is a line of cache; one that lies across two is read twice. All lengths are
        // whole lines.
        let [memory] = scratch.take([lengths.iter().sum::<usize>() + LANES]);
        let skipped = memory.as_ptr().align_offset(64).min(LANES);
        let mut rest = &mut memory[skipped..];
        let [packed, totals, keys, values, sums, scores, weights, fresh, room] =
            lengths.map(|len| {
                let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
                rest = after;
                part
            });
        let room = &mut room[..PAGE_TOKENS * head_dim];
        Self {
            queries,
            pairs,
            steps,
            tiles,
            packed,
            totals,
            keys,
            values,
            sums,
            scores,
            weights,
            fresh,
            room,
        }
    }

    /// # Safety
    /// The machine must have the instructions.
    unsafe fn pack_queries(&mut self) {
        let tiles = self.packed.chunks_exact_mut(self.steps * TILE).enumerate();
        // SAFETY: the caller vouches for the instructions.
        tiles.for_each(|(index, tile)| unsafe { pack_queries(self.queries, index * LANES, tile) });
        let len = self.totals.len() / (self.pairs * PAIR);
        self.totals.chunks_exact_mut(len).for_each(start);
    }

    /// # Safety
    /// The machine must have the instructions.
    unsafe fn pack_split(&mut self, split: &Range<usize>) {
        let Queries { kv, kv_head, pages, spec, .. } = *self.queries;
        let head_dim = spec.head_dim;
        for tokens in pieces(split.clone(), PAGE_TOKENS) {
            let page = tokens.start / PAGE_TOKENS;
            let count = tokens.end - page * PAGE_TOKENS;
            let index = page % (SPLIT / PAGE_TOKENS);
            let (keys, values) = (kv.keys(pages[page], kv_head), kv.values(pages[page], kv_head));
            let len = 2 * self.steps * TILE;
            let key_tiles = &mut self.keys[index * len..][..len];
            let value_tiles = &mut self.values[index * len..][..len];
            let used = count * head_dim;
            // SAFETY: the caller vouches for the instructions.
            unsafe {
                let keys = unpack::<__m512>(keys, head_dim, count, Numbers::Float, self.room);
                pack_keys(&keys[..used], head_dim, key_tiles);
                let values = unpack::<__m512>(values, head_dim, count, Numbers::Float, self.room);
                pack_values(&values[..used], head_dim, value_tiles);
            }
        }
    }

    /// Adds what the queries of `pair` see of `split`.
    ///
    /// # Safety
    /// The machine must have the instructions; tiles must be configured.
    unsafe fn add(&mut self, pair: usize, split: &Range<usize>) {
        let Self { queries, steps, tiles, .. } = *self;
        let group = queries.group();
        let first = pair * PAIR * LANES;
        let last = (first + PAIR * LANES).min(queries.rows() * group) - 1;
        let (first_sees, last_sees) = (queries.sees(first / group), queries.sees(last / group));
        let seen = first_sees.start.max(split.start)..last_sees.end.min(split.end);
        if seen.is_empty() {
            return;
        }
        let factors = Factors::new(queries.spec);
        let sums_len = self.sums.len() / PAIR;
        self.sums.chunks_exact_mut(sums_len).for_each(start);
        let packed = &self.packed[pair * PAIR * steps * TILE..][..PAIR * steps * TILE];
        for tokens in pieces(seen, BLOCK) {
            let block = tokens.start / BLOCK * BLOCK;
            // Runs of 32 keys of which somebody sees some.
            let runs = (tokens.start - block) / KEYS..(tokens.end - block).div_ceil(KEYS);
            let all_see = first_sees.end >= block + runs.end * KEYS
                && last_sees.start <= block + runs.start * KEYS;
            let first_run = block % SPLIT / KEYS + runs.start;
            let packed = Operand { tiles: packed, step: TILE, other: steps * TILE };
            for (at, run) in runs.clone().enumerate() {
                let keys = &self.keys[(first_run + at) * 2 * steps * TILE..];
                let keys = Operand { tiles: keys, ..packed };
                let scores = &mut self.scores[run * 2 * TILE..];
                // SAFETY: the caller vouches for instructions and tiles.
                unsafe { products(keys, packed, steps, scores, TILE, BLOCK * LANES) };
            }
            let mut by = [[0.0; LANES]; PAIR];
            for (index, by) in by.iter_mut().enumerate() {
                let numbers = &mut self.sums[index * sums_len + tiles * TILE..][..2 * LANES];
                let scores = &mut self.scores[index * BLOCK * LANES..][..BLOCK * LANES];
                let weights = &mut self.weights[index * BLOCK / KEYS * TILE..];
                let keys = runs.start * KEYS * LANES..runs.end * KEYS * LANES;
                let weights = &mut weights[..runs.len() * TILE];
                let seen = (!all_see)
                    .then(|| Seen::new(queries, first + index * LANES, block + runs.start * KEYS));
                // SAFETY: the caller vouches for the instructions.
                unsafe { *by = softmax(&mut scores[keys], &factors, seen, numbers, weights) };
            }
            let weights = Operand { tiles: self.weights, step: TILE, other: BLOCK / KEYS * TILE };
            for tile in (0..tiles).step_by(2) {
                let values = &self.values[(first_run * tiles + tile) * TILE..];
                let values = Operand { tiles: values, step: tiles * TILE, other: TILE };
                let fresh = &mut self.fresh[tile * TILE..];
                // SAFETY: the caller vouches for instructions and tiles.
                unsafe { products(values, weights, runs.len(), fresh, TILE, tiles * TILE) };
            }
            for (index, by) in by.iter().enumerate() {
                let fresh = &self.fresh[index * tiles * TILE..][..tiles * TILE];
                let sums = &mut self.sums[index * sums_len..][..tiles * TILE];
                // SAFETY: the caller vouches for the instructions.
                unsafe { add_fresh(fresh, by, sums) };
            }
        }
        let totals = self.totals[pair * PAIR * sums_len..].chunks_exact_mut(sums_len);
        for (total, sums) in totals.zip(self.sums.chunks_exact(sums_len)) {
            // SAFETY: the caller vouches for the instructions.
            unsafe { add_split(sums, total) };
        }
    }

    /// # Safety
    /// The machine must have the instructions.
    unsafe fn finish(&self, out: &mut [&mut [f32]]) {
        let len = self.totals.len() / (self.pairs * PAIR);
        for (index, total) in self.totals.chunks_exact(len).enumerate() {
            // SAFETY: the caller vouches for the instructions.
            unsafe { finish(self.queries, index * LANES, total, out) };
        }
    }
}

/// Sums of nothing.
fn start(sums: &mut [f32]) {
    sums.fill(0.0);
    let at = sums.len() - 2 * LANES;
    sums[at..][..LANES].fill(f32::NEG_INFINITY);
}
