//! Blocks of rows on the tile unit AMX, in bf16.
//!
//! Products are made transposed: rows of a tile are keys (then numbers of the head), its columns are
//! queries. So softmax works on whole registers whose lanes are queries, keys need no rearrangement,
//! and only values have to be transposed, once for all rows of a task. A task unpacks a split of the
//! context and keeps it in the second level of cache while its queries go over it.
//!
//! The tile unit works on its own once it has its instructions: while the vector units turn the scores
//! of one block into weights, it makes those of the next.

use std::arch::x86_64::__m512;
use std::ops::Range;

use super::amx_steps::{
    Factors, KEYS, LANES, Operand, PAIR, Seen, TILE, add_fresh, add_split, finish, pack_keys,
    pack_queries, pack_values, products, softmax,
};
use super::stage::{all_finite, all_finite_f16, fill, remove_infinite};
use super::{
    AttentionKernels, BLOCK, Numbers, PAGE_TOKENS, Partial, Queries, SPLIT, pieces, spoil,
};
use crate::gemm::Amx;
use crate::key_values::{Head, KvShape};
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
        // SAFETY: `self` exists, so the machine has the instructions, and tiles are configured.
        unsafe { Task::new(queries, scratch).run(out) }
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

    fn store(&self, shape: KvShape, bytes: &mut [u8], index: usize, values: &[f32]) {
        self.vectors.store(shape, bytes, index, values);
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
    /// Whether all that the queries see lies in one split: then what belongs to a pair is not kept longer
    /// than it takes.
    once: bool,
    /// For each pair (for every other one and the rest, if `once`) and tile, `steps` tiles of queries.
    packed: &'a mut [f32],
    /// For each pair and tile, the sums of the splits before: values `[tiles * LANES, LANES]`, the
    /// largest score `[LANES]`, the sum of weights `[LANES]`. Nothing if `once`.
    totals: &'a mut [f32],
    /// The current split's keys: for each 16 of them, `steps` tiles.
    keys: &'a mut [f32],
    /// The current split's values: for each 32 of them, `tiles` tiles.
    values: &'a mut [f32],
    /// The current pair's sums of the current split, as `totals`.
    sums: &'a mut [f32],
    /// Scores of a block, and of the next one: for each tile of the pair `[BLOCK, LANES]`.
    scores: [&'a mut [f32]; 2],
    /// The block's weights: for each tile of the pair and each 32 keys, a tile.
    weights: &'a mut [f32],
    /// Weighted values of the block, 32 numbers of them, and the next 32: for each tile of the pair two
    /// tiles.
    fresh: [&'a mut [f32]; 2],
    /// A page unpacked.
    room: &'a mut [f32],
}

/// A block of keys, as a pair of tiles of queries sees it.
struct View {
    pair: usize,
    /// The block's first token.
    start: usize,
    /// Runs of [`KEYS`] keys of which some query sees some.
    runs: Range<usize>,
    /// Whether every query sees all keys of these.
    full: bool,
    /// Whether it is the pair's first block of the split.
    first: bool,
    /// Whether it is the last.
    last: bool,
}

/// What the queries of `pair` see of `split`.
fn views(
    queries: &Queries<'_>,
    pair: usize,
    split: Range<usize>,
) -> impl Iterator<Item = View> + use<> {
    let group = queries.group();
    let first = pair * PAIR * LANES;
    let last = (first + PAIR * LANES).min(queries.rows() * group) - 1;
    let (first_sees, last_sees) = (queries.sees(first / group), queries.sees(last / group));
    let start = first_sees.start.max(split.start);
    let seen = start..last_sees.end.min(split.end).max(start);
    pieces(seen.clone(), BLOCK).map(move |tokens| {
        let start = tokens.start / BLOCK * BLOCK;
        let runs = (tokens.start - start) / KEYS..(tokens.end - start).div_ceil(KEYS);
        let full = first_sees.end >= start + runs.end * KEYS
            && last_sees.start <= start + runs.start * KEYS;
        let (first, last) = (tokens.start == seen.start, tokens.end == seen.end);
        View { pair, start, runs, full, first, last }
    })
}

impl<'a> Task<'a> {
    fn new(queries: &'a Queries<'a>, scratch: &'a mut Scratch) -> Self {
        let head_dim = queries.spec.head_dim;
        let steps = head_dim.div_ceil(KEYS);
        let tiles = 2 * steps;
        let pairs = (queries.rows() * queries.group()).div_ceil(PAIR * LANES);
        let sums_len = (tiles * LANES + 2) * LANES;
        let once = pieces(queries.all_see(), SPLIT).count() < 2;
        let (packed, kept) = if once { (2, 0) } else { (pairs, pairs) };
        let lengths = [
            packed * PAIR * steps * TILE,
            kept * PAIR * sums_len,
            SPLIT / LANES * steps * TILE,
            SPLIT / KEYS * tiles * TILE,
            PAIR * sums_len,
            PAIR * BLOCK * LANES,
            PAIR * BLOCK * LANES,
            PAIR * BLOCK / KEYS * TILE,
            PAIR * 2 * TILE,
            PAIR * 2 * TILE,
            (PAGE_TOKENS * head_dim).next_multiple_of(LANES),
        ];
        // A row of a tile is a line of cache; one that lies across two is read twice. All lengths are
        // whole lines.
        let [memory] = scratch.take([lengths.iter().sum::<usize>() + LANES]);
        let skipped = memory.as_ptr().align_offset(64).min(LANES);
        let mut rest = &mut memory[skipped..];
        let parts = lengths.map(|len| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
            rest = after;
            part
        });
        let [
            packed,
            totals,
            keys,
            values,
            sums,
            scores,
            next_scores,
            weights,
            fresh,
            fresher,
            room,
        ] = parts;
        let room = &mut room[..PAGE_TOKENS * head_dim];
        let (scores, fresh) = ([scores, next_scores], [fresh, fresher]);
        Self {
            queries,
            pairs,
            steps,
            tiles,
            once,
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

    /// Attends the rows to all that they see.
    ///
    /// # Safety
    /// Tiles must be configured.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run(mut self, out: &mut [&mut [f32]]) {
        let len = (self.tiles * LANES + 2) * LANES;
        if !self.once {
            for (index, tiles) in self.packed.chunks_exact_mut(self.steps * TILE).enumerate() {
                pack_queries(self.queries, index * LANES, tiles);
            }
            self.totals.chunks_exact_mut(len).for_each(start);
        }
        let mut wrong_pages = vec![];
        for split in pieces(self.queries.all_see(), SPLIT) {
            self.pack_split(&split, &mut wrong_pages);
            // SAFETY: the caller has configured tiles.
            unsafe { self.add(&split, out) };
        }
        for (index, total) in self.totals.chunks_exact(len).enumerate() {
            finish(self.queries, index * LANES, total, out);
        }
        spoil(self.queries, Numbers::Bf16, &wrong_pages, out);
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn pack_split(&mut self, split: &Range<usize>, wrong_pages: &mut Vec<usize>) {
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
            // Packing rounds them.
            match keys {
                Head::F32(keys) => pack_keys(&keys[..used], head_dim, key_tiles),
                Head::F16(keys) => pack_keys(&keys[..used], head_dim, key_tiles),
                Head::Q8_0 { .. } => {
                    // SAFETY: this function has the instructions.
                    unsafe { fill::<__m512>(keys, head_dim, count, self.room) };
                    pack_keys(&self.room[..used], head_dim, key_tiles);
                }
            }
            match values {
                Head::F32(values) if all_finite(&values[..used], Numbers::Bf16) => {
                    pack_values(&values[..used], head_dim, value_tiles);
                }
                Head::F16(values) if all_finite_f16(&values[..used]) => {
                    pack_values(&values[..used], head_dim, value_tiles);
                }
                _ => {
                    // SAFETY: this function has the instructions.
                    unsafe { fill::<__m512>(values, head_dim, count, self.room) };
                    if !remove_infinite(&mut self.room[..used], Numbers::Bf16) {
                        wrong_pages.push(page);
                    }
                    pack_values(&self.room[..used], head_dim, value_tiles);
                }
            }
        }
    }

    /// Adds what the queries see of `split`, which is packed; if it is all that they see, writes their
    /// results.
    ///
    /// # Safety
    /// Tiles must be configured.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn add(&mut self, split: &Range<usize>, out: &mut [&mut [f32]]) {
        let Self { queries, steps, tiles, pairs, once, .. } = *self;
        let [coming, current] = &mut self.scores;
        let (mut coming, mut current) = (&mut **coming, &mut **current);
        let (packed, keys) = (&mut *self.packed, &*self.keys);
        let pair_len = PAIR * steps * TILE;
        // Where the queries of a view are.
        let place = |view: &View| (if once { view.pair % 2 } else { view.pair }) * pair_len;
        // Packs them.
        let pack = |view: &View, packed: &mut [f32]| {
            if once && view.first {
                let tiles = packed[place(view)..][..pair_len].chunks_exact_mut(steps * TILE);
                for (index, tiles) in tiles.enumerate() {
                    pack_queries(queries, (view.pair * PAIR + index) * LANES, tiles);
                }
            }
        };
        // Products of the queries of a view with a run of keys.
        let score = |view: &View, run: usize, packed: &[f32], scores: &mut [f32]| {
            let queries = &packed[place(view)..][..pair_len];
            let queries = Operand { tiles: queries, step: TILE, other: steps * TILE };
            let run_keys = &keys[(view.start % SPLIT / KEYS + run) * 2 * steps * TILE..];
            let run_keys = Operand { tiles: run_keys, ..queries };
            let scores = &mut scores[run * 2 * TILE..];
            // SAFETY: the caller has configured tiles.
            unsafe { products(run_keys, queries, steps, scores, TILE, BLOCK * LANES) };
        };
        let factors = Factors::new(queries.spec);
        let sums_len = self.sums.len() / PAIR;
        let mut views = (0..pairs).flat_map(|pair| views(queries, pair, split.clone()));
        let mut next = views.next();
        if let Some(view) = &next {
            pack(view, packed);
            view.runs.clone().for_each(|run| score(view, run, packed, coming));
        }
        while let Some(view) = next {
            std::mem::swap(&mut coming, &mut current);
            next = views.next();
            if let Some(next) = &next {
                pack(next, packed);
            }
            if view.first {
                self.sums.chunks_exact_mut(sums_len).for_each(start);
            }
            let mut runs =
                next.iter().flat_map(|next| next.runs.clone().map(move |run| (next, run)));
            let mut score_next = || runs.next().map(|(next, run)| score(next, run, packed, coming));
            let mut by = [[0.0; LANES]; PAIR];
            let from = view.start + view.runs.start * KEYS;
            for (index, by) in by.iter_mut().enumerate() {
                let numbers = &mut self.sums[index * sums_len + tiles * TILE..][..2 * LANES];
                let scores = &mut current[index * BLOCK * LANES..];
                let scores =
                    &mut scores[view.runs.start * KEYS * LANES..view.runs.end * KEYS * LANES];
                let weights = &mut self.weights[index * BLOCK / KEYS * TILE..];
                let weights = &mut weights[..view.runs.len() * TILE];
                let first = (view.pair * PAIR + index) * LANES;
                let seen = (!view.full).then(|| Seen::new(queries, first, from));
                *by = softmax(scores, &factors, seen, numbers, weights, || {
                    score_next();
                });
            }
            while score_next().is_some() {}
            let first_run = view.start % SPLIT / KEYS + view.runs.start;
            let weights = Operand { tiles: self.weights, step: TILE, other: BLOCK / KEYS * TILE };
            let mut add = |tile: usize, fresh: &[f32]| {
                let fresh = fresh.chunks_exact(2 * TILE).zip(&by);
                for ((fresh, by), sums) in fresh.zip(self.sums.chunks_exact_mut(sums_len)) {
                    add_fresh(fresh, by, &mut sums[tile * TILE..][..2 * TILE]);
                }
            };
            let [fresh, before] = &mut self.fresh;
            for tile in (0..tiles).step_by(2) {
                let values = &self.values[(first_run * tiles + tile) * TILE..];
                let values = Operand { tiles: values, step: tiles * TILE, other: TILE };
                // SAFETY: the caller has configured tiles.
                unsafe { products(values, weights, view.runs.len(), fresh, TILE, 2 * TILE) };
                if tile > 0 {
                    add(tile - 2, before);
                }
                std::mem::swap(fresh, before);
            }
            add(tiles - 2, before);
            if !view.last {
                continue;
            }
            for (index, sums) in self.sums.chunks_exact(sums_len).enumerate() {
                let index = view.pair * PAIR + index;
                if once {
                    finish(queries, index * LANES, sums, out);
                } else {
                    add_split(sums, &mut self.totals[index * sums_len..][..sums_len]);
                }
            }
        }
    }
}

/// Sums of nothing.
fn start(sums: &mut [f32]) {
    sums.fill(0.0);
    let at = sums.len() - 2 * LANES;
    sums[at..][..LANES].fill(f32::NEG_INFINITY);
}
