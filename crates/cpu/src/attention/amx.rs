//! Blocks of rows on the tile unit AMX, in bf16.
//!
//! Products are made transposed: rows of a tile are keys (then numbers of the head), its columns are
//! queries. So softmax works on whole registers whose lanes are queries, keys need no rearrangement,
//! and only values have to be transposed, once for all rows of a task. A task unpacks a split of the
//! context and keeps it in the second level of cache while its queries go over it.
//!
//! The tile unit works on its own once it has its instructions: while the vector units turn the scores
//! of one run of keys into weights, it makes those of the next, and adds up values by the weights of the
//! block before. What is between, and the sums, stays in the first level of cache.
//!
//! Blocks are shorter here than [`super`] says, and splits only say what is packed at the same time: sums
//! go on from one to the next, since what scores are made smaller by hardly ever changes (see
//! [`crate::attention::amx_weights`]).

use std::arch::x86_64::__m512;
use std::mem::take;
use std::ops::Range;

use crate::attention::amx_runs::{RUNS, Run, Shared, runs};
use crate::attention::amx_steps::{
    KEYS, LANES, Operand, PAIR, Product, Results, TILE, finish, pack_keys, pack_queries,
    pack_values,
};
use crate::attention::amx_weights::{Factors, Seen, Weighed, rescale, rescale_weights, softmax};
use crate::attention::load_kv::{all_finite, all_finite_f16, fill, remove_infinite};
use crate::attention::{
    AttentionKernels, Numbers, PAGE_TOKENS, Partial, Queries, SPLIT, pieces, spoil,
};
use crate::gemm::Amx;
use crate::kv_cache::{Head, KvShape};
use crate::runtime::scratch::Scratch;
use crate::simd::Avx512;

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
    /// How many pairs there are places for: each has one, unless all that the queries see lies in one
    /// split: then a pair is done before the third after it begins.
    places: usize,
    /// For each place and tile of a pair, `steps` tiles of queries.
    packed: Shared<'a>,
    /// For each place and tile of a pair, the weighted values: `2 * steps` tiles of numbers by queries.
    sums: Shared<'a>,
    /// For each place and tile of a pair, what [`Weighed`] has.
    weighed: &'a mut [f32],
    /// The current split's keys: for each 16 of them, `steps` tiles.
    keys: Shared<'a>,
    /// The current split's values: for each [`RUNS`] of [`KEYS`] of them, for each two of the `2 * steps` pieces
    /// of numbers, for each of the runs, two tiles: what a product reads lies together.
    values: Shared<'a>,
    /// Scores of a run of keys, and of the next one: for each tile of the pair two tiles.
    scores: Shared<'a>,
    /// Weights of a block, and of the one before: for each tile of the pair and each run a tile.
    weights: Shared<'a>,
    /// A page unpacked, or queries of a tile: a page has more tokens.
    room: &'a mut [f32],
}

/// A block whose weights are made, and whose values are being added up.
struct Pending {
    /// Its last run.
    end: Run,
    /// How many runs it has.
    count: usize,
    /// Where its weights are.
    weights: usize,
    /// The next of the tiles of numbers, two at a time.
    tile: usize,
}

/// What the tile unit has to do.
struct Work<'a, 'b> {
    task: &'b Task<'a>,
    product: Option<Product>,
    pending: Option<Pending>,
}

impl Work<'_, '_> {
    /// Has the next step of the current product made, if there is one.
    ///
    /// # Safety
    /// Tiles must be configured.
    #[inline(always)]
    unsafe fn step(&mut self) {
        if let Some(product) = &mut self.product {
            // SAFETY: the caller has configured tiles, and a product is over before the next one begins.
            // Vectors work on other scores and weights than products.
            let over = unsafe { product.step() };
            if over {
                self.product = None;
            }
        }
    }

    /// Makes the rest of the current product.
    ///
    /// # Safety
    /// Tiles must be configured.
    unsafe fn end_product(&mut self) {
        while self.product.is_some() {
            // SAFETY: the caller has configured tiles.
            unsafe { self.step() };
        }
    }

    /// Makes all that is left to do.
    ///
    /// # Safety
    /// Tiles must be configured.
    unsafe fn end_products(&mut self) {
        // SAFETY: the caller has configured tiles; one product is over before the next begins.
        unsafe {
            self.end_product();
            while self.begin() {
                self.end_product();
            }
        }
    }

    /// Begins the next product of the pending block; whether there was one.
    ///
    /// # Safety
    /// As for [`Product::new`].
    unsafe fn begin(&mut self) -> bool {
        // SAFETY: the caller's promise.
        self.product = unsafe { self.next() };
        self.product.is_some()
    }

    /// The next product of the pending block.
    ///
    /// # Safety
    /// As for [`Product::new`].
    unsafe fn next(&mut self) -> Option<Product> {
        let Task { steps, sums, values, weights, .. } = *self.task;
        let Pending { end, count, weights: place, tile } = self.pending.as_mut()?;
        let tiles = 2 * steps;
        if *tile >= tiles {
            return None;
        }
        let block = end.index % (SPLIT / KEYS) / RUNS * RUNS * tiles;
        let first = end.index % RUNS + 1 - *count;
        let values = values.from((block + RUNS * *tile + 2 * first) * TILE, *count * 2 * TILE);
        let weights = weights.from(*place + first * TILE, (RUNS + *count) * TILE);
        let out = sums.from((end.place * PAIR * tiles + *tile) * TILE, (tiles + 2) * TILE);
        let values = Operand { at: values, step: 2 * TILE, other: TILE };
        let weights = Operand { at: weights, step: TILE, other: RUNS * TILE };
        let out = Results { at: out, row: TILE, col: tiles * TILE };
        let to_zeros = self.task.starts(*end, *count);
        *tile += 2;
        // SAFETY: the caller's promise.
        Some(unsafe { Product::new(values, weights, *count, out, to_zeros) })
    }

    /// Products of the queries of a run with its keys, which go to the scores at `to`.
    ///
    /// # Safety
    /// As for [`Product::new`].
    unsafe fn score(&mut self, run: Run, to: usize) {
        let Task { steps, packed, keys, scores, .. } = *self.task;
        let queries = packed.from(run.place * PAIR * steps * TILE, PAIR * steps * TILE);
        let keys = keys.from(run.index % (SPLIT / KEYS) * 2 * steps * TILE, 2 * steps * TILE);
        let queries = Operand { at: queries, step: TILE, other: steps * TILE };
        let keys = Operand { at: keys, ..queries };
        let out = Results { at: scores.from(to, PAIR * 2 * TILE), row: TILE, col: 2 * TILE };
        // SAFETY: the caller's promise.
        self.product = Some(unsafe { Product::new(keys, queries, steps, out, true) });
    }

    /// Ends what is pending, and writes results if that was the last of a pair.
    ///
    /// # Safety
    /// Tiles must be configured, and no product be begun but of what is pending.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn end_pending(&mut self, weighed: &[f32], out: &mut [&mut [f32]]) {
        // SAFETY: the caller's promise.
        unsafe { self.end_products() };
        let Some(Pending { end, .. }) = self.pending.take() else { return };
        if !end.last {
            return;
        }
        let Task { queries, steps, sums, .. } = *self.task;
        let place = end.place * PAIR;
        for index in 0..PAIR {
            let len = 2 * steps * TILE;
            // SAFETY: nothing is pending.
            let values = unsafe { sums.part((place + index) * len, len) };
            let sums = &weighed[(place + index) * Weighed::LEN..][LANES..2 * LANES];
            finish(queries, (end.pair * PAIR + index) * LANES, values, sums, out);
        }
    }
}

impl<'a> Task<'a> {
    fn new(queries: &'a Queries<'a>, scratch: &'a mut Scratch) -> Self {
        let head_dim = queries.spec.head_dim;
        let steps = head_dim.div_ceil(KEYS);
        let tiles = 2 * steps;
        let pairs = (queries.rows() * queries.group()).div_ceil(PAIR * LANES);
        let one_split = pieces(queries.all_see(), SPLIT).count() < 2;
        let places = if one_split { 3 } else { pairs };
        let lengths = [
            places * PAIR * steps * TILE,
            places * PAIR * tiles * TILE,
            places * PAIR * Weighed::LEN,
            SPLIT / LANES * steps * TILE,
            SPLIT / KEYS * tiles * TILE,
            2 * PAIR * 2 * TILE,
            2 * PAIR * RUNS * TILE,
            (PAGE_TOKENS * head_dim).next_multiple_of(LANES),
        ];
        // A row of a tile is a line of cache; one that lies across two is read twice. All lengths are
        // whole lines.
        let [memory] = scratch.take([lengths.iter().sum::<usize>() + LANES]);
        let skipped = memory.as_ptr().align_offset(64).min(LANES);
        let mut rest = &mut memory[skipped..];
        let [packed, sums, weighed, keys, values, scores, weights, room] = lengths.map(|len| {
            let (part, after) = take(&mut rest).split_at_mut(len);
            rest = after;
            part
        });
        Self {
            queries,
            pairs,
            steps,
            places,
            packed: Shared::new(packed),
            sums: Shared::new(sums),
            weighed,
            keys: Shared::new(keys),
            values: Shared::new(values),
            scores: Shared::new(scores),
            weights: Shared::new(weights),
            room: &mut room[..PAGE_TOKENS * head_dim],
        }
    }

    /// Whether the block of `count` runs that ends with `end` is the first that its pair sees.
    fn starts(&self, end: Run, count: usize) -> bool {
        let first = end.pair * PAIR * LANES / self.queries.group();
        end.index + 1 - count == self.queries.sees(first).start / KEYS
    }

    /// Attends the rows to all that they see.
    ///
    /// # Safety
    /// Tiles must be configured.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run(mut self, out: &mut [&mut [f32]]) {
        let mut wrong_pages = vec![];
        for split in pieces(self.queries.all_see(), SPLIT) {
            self.pack_split(&split, &mut wrong_pages);
            let (weighed, room) = (take(&mut self.weighed), take(&mut self.room));
            // SAFETY: the caller has configured tiles.
            unsafe { self.add(&split, weighed, room, out) };
            (self.weighed, self.room) = (weighed, room);
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
            // SAFETY: no product is begun.
            let key_tiles = unsafe { self.keys.part(index * len, len) };
            let mut value_tiles = (0..self.steps).map(|tile| {
                let at = index / RUNS * RUNS * len + (tile * RUNS + index % RUNS) * 2 * TILE;
                // SAFETY: as above.
                unsafe { self.values.part(at, 2 * TILE) }
            });
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
                    pack_values(&values[..used], head_dim, &mut value_tiles);
                }
                Head::F16(values) if all_finite_f16(&values[..used]) => {
                    pack_values(&values[..used], head_dim, &mut value_tiles);
                }
                _ => {
                    // SAFETY: this function has the instructions.
                    unsafe { fill::<__m512>(values, head_dim, count, self.room) };
                    if !remove_infinite(&mut self.room[..used], Numbers::Bf16) {
                        wrong_pages.push(page);
                    }
                    pack_values(&self.room[..used], head_dim, &mut value_tiles);
                }
            }
        }
    }

    /// Adds what the queries see of `split`, which is packed, and writes the results of those that see no
    /// more.
    ///
    /// # Safety
    /// Tiles must be configured.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn add(
        &self,
        split: &Range<usize>,
        weighed: &mut [f32],
        room: &mut [f32],
        out: &mut [&mut [f32]],
    ) {
        let Self { queries, steps, pairs, .. } = *self;
        let factors = Factors::new(queries.spec);
        let (scores_len, weights_len) = (PAIR * 2 * TILE, PAIR * RUNS * TILE);
        let (mut to, mut weights, mut count) = (0, 0, 0);
        let mut work = Work { task: self, product: None, pending: None };
        let mut all = (0..pairs).flat_map(|pair| runs(queries, pair, self.places, split.clone()));
        let mut next = all.next();
        if let Some(run) = next {
            self.start(run, weighed, room);
            // SAFETY: the caller has configured tiles; nothing else is begun.
            unsafe {
                work.score(run, to);
                work.end_product();
            }
        }
        let (mut seen, mut seen_by) = ([Seen::new(queries, 0), Seen::new(queries, LANES)], Some(0));
        while let Some(run) = next {
            let from = to;
            to = scores_len - from;
            next = all.next();
            if let Some(next) = next {
                if next.first {
                    self.start(next, weighed, room);
                }
                // SAFETY: the product before is over; nobody reads these scores any more.
                unsafe { work.score(next, to) };
            }
            count += 1;
            for index in 0..PAIR {
                let place = run.place * PAIR + index;
                let weighed = &mut weighed[place * Weighed::LEN..][..Weighed::LEN];
                let mut weighed = Weighed::new(weighed);
                let tile = weights + (index * RUNS + run.index % RUNS) * TILE;
                // SAFETY: products write other scores and read other weights.
                let (scores, tile) = unsafe {
                    (
                        self.scores.part(from + index * 2 * TILE, 2 * TILE),
                        self.weights.part(tile, TILE),
                    )
                };
                let seen = if run.full {
                    None
                } else {
                    if seen_by != Some(run.pair) {
                        let first = run.pair * PAIR * LANES;
                        seen = [Seen::new(queries, first), Seen::new(queries, first + LANES)];
                        seen_by = Some(run.pair);
                    }
                    Some((&seen[index], run.index * KEYS))
                };
                let by = softmax(scores, &factors, seen, &mut weighed, tile, || {
                    // SAFETY: the caller has configured tiles.
                    unsafe { work.step() };
                });
                // SAFETY: the caller has configured tiles.
                unsafe {
                    work.end_product();
                    if index == 0 {
                        work.begin();
                    }
                }
                if let Some(by) = by {
                    // SAFETY: the caller has configured tiles. What is pending is of this pair or of one
                    // before; after it nobody uses its sums, and nobody yet the block's weights.
                    unsafe {
                        work.end_products();
                        let before = weights + (index * RUNS + run.index % RUNS + 1 - count) * TILE;
                        rescale_weights(self.weights.part(before, (count - 1) * TILE), &by);
                        if !self.starts(run, count) {
                            let len = 2 * steps * TILE;
                            rescale(self.sums.part(place * len, len), &by);
                        }
                    }
                }
            }
            if run.ends_block {
                // SAFETY: as above; no product is begun.
                unsafe { work.end_pending(weighed, out) };
                work.pending = Some(Pending { end: run, count, weights, tile: 0 });
                (weights, count) = (weights_len - weights, 0);
            }
        }
        // SAFETY: as above.
        unsafe { work.end_pending(weighed, out) };
    }

    /// Prepares what belongs to the pair of `run`, which is its first.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn start(&self, run: Run, weighed: &mut [f32], room: &mut [f32]) {
        if !run.first {
            return;
        }
        let (place, len) = (run.place * PAIR, self.steps * TILE);
        for index in 0..PAIR {
            Weighed::new(&mut weighed[(place + index) * Weighed::LEN..][..Weighed::LEN]).clear();
            // SAFETY: products of the pair before last are over.
            let tiles = unsafe { self.packed.part((place + index) * len, len) };
            pack_queries(self.queries, (run.pair * PAIR + index) * LANES, room, tiles);
        }
    }
}
