//! `attention`: every row of a step against its own sequence.
//!
//! # What a number is
//!
//! Nothing here holds scores of more than a piece of the context. The tokens of a sequence are cut,
//! from its beginning, into splits of [`SPLIT`] and those into blocks of [`BLOCK`]. For one row and one
//! head, with `s[j]` the score of token `j` and only tokens that the row sees (itself and what came
//! before it, or the whole sequence where attention is not causal):
//!
//! ```text
//! for each split:  m = -inf, l = 0, o = 0
//!   for each block of it:  n = max(m, max s[j]);  c = e^(m - n);  p[j] = e^(s[j] - n)
//!                          l = l c + sum p[j];  o = o c + sum p[j] v[j];  m = n
//!   then, with N = max(M, m):  L = L e^(M - N) + l e^(m - N);  O likewise;  M = N
//! result: O / L
//! ```
//!
//! Where numbers are rounded to bf16, `n` and `N` are the nearest multiples of `ln 2`, so that how a weight
//! is rounded does not depend on them; nor does anything else but for rounding, so the tile unit's
//! kernel takes others (see `amx_weights.rs`).
//!
//! (The rescaled sums of "FlashAttention", Dao et al. 2022, twice over). Where blocks begin depends
//! on the sequence alone, and a token that the row does not see adds exactly nothing (`p = 0`; a block
//! or split of such tokens gives `c = 1`), so a row's result is the same whichever rows share its task.
//!
//! # Recipes
//!
//! | activations | rows | keys, values, queries and `p` (in its product with `v`) | sums |
//! |---|---|---|---|
//! | `float` | all | as stored, `f32` | `f32` |
//! | other | prompt | rounded to bf16 | `f32` |
//! | other | generated | as stored, `f32` | `f32`; a split is one block |
//!
//! Under `float` and in prompts, a kernel takes blocks of rows; generated rows are taken one by one,
//! over several splits at the same time if there are too few of them to occupy all threads.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx_runs;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx_steps;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx_weights;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod decode;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod lanes;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod load_kv;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod prefill;
pub(crate) mod scalar;
pub(crate) mod split_kv;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod tier;

use std::ops::Range;
use std::sync::Arc;

use keeve_graph::{Attention, PageId, Phase, SequenceRows, Step};

use crate::isa::Isa;
use crate::kv_cache::{KeyValues, KvShape, PAGE_TOKENS};
use crate::ops::rows::{HeadSource, RowSource};
use crate::runtime::disjoint::SharedOut;
use crate::runtime::pool::Pool;
use crate::runtime::scratch::Scratch;

/// Tokens whose scores are held at the same time: a multiple of a page.
const BLOCK: usize = 256;
/// Tokens whose sums are made apart from those of others: a multiple of [`BLOCK`].
const SPLIT: usize = 512;
/// Queries (rows by heads) that a task takes, about. More share the work of unpacking keys and
/// values; their sums have to stay in the second level of cache.
const TASK_QUERIES: usize = 1024;
/// Rows of a task are a multiple of this, if there are as many.
const TASK_ROWS: usize = 64;
/// Tasks that each thread should find, so that one that is held up delays little.
const TASKS_PER_THREAD: usize = 4;

/// Attention of one tier.
pub(crate) trait AttentionKernels: Send + Sync {
    /// Attends rows to all that they see. `out` has each row's part: `[group * head_dim]`.
    fn blocks(
        &self,
        queries: &Queries<'_>,
        numbers: Numbers,
        out: &mut [&mut [f32]],
        scratch: &mut Scratch,
    );

    /// Attends the first row to `tokens`, which lie in one split and which it sees, into `partial`.
    /// `work` has [`split_work`] values.
    fn split(
        &self,
        queries: &Queries<'_>,
        tokens: Range<usize>,
        partial: Partial<'_>,
        work: &mut [f32],
    );

    /// Stores one key, or value, at `index` of the bytes of its head in a page: [`KvShape::store`].
    fn store(&self, shape: KvShape, bytes: &mut [u8], index: usize, values: &[f32]);
}

/// The kernels of `isa`, if this machine (and this build) has them.
pub(crate) fn attention_kernels(isa: Isa) -> Option<Arc<dyn AttentionKernels>> {
    match isa {
        Isa::Scalar => Some(Arc::new(crate::reference::Scalar)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => crate::simd::Avx2::detect().map(|tier| Arc::new(tier) as _),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => crate::simd::Avx512::detect().map(|tier| Arc::new(tier) as _),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => amx::AmxAttention::detect().map(|tier| Arc::new(tier) as _),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 | Isa::Amx => None,
        // Attention multiplies no bytes: all have the same.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon | Isa::Dotprod | Isa::I8mm => {
            crate::simd::Neon::detect().map(|tier| Arc::new(tier) as _)
        }
        #[cfg(not(target_arch = "aarch64"))]
        Isa::Neon | Isa::Dotprod | Isa::I8mm => None,
    }
}

/// What enters the products of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// What is stored.
    Float,
    /// All of it rounded to bf16.
    Bf16,
}

/// Values of `work` that [`AttentionKernels::split`] asks for: scores, a page unpacked, and queries.
fn split_work(spec: &Attention) -> usize {
    let group = spec.heads / spec.kv_heads;
    group * SPLIT + (PAGE_TOKENS + group) * spec.head_dim
}

/// Consecutive rows of one sequence, and the query heads that share one head of keys.
pub(crate) struct Queries<'a> {
    spec: &'a Attention,
    kv: &'a KeyValues,
    pages: &'a [PageId],
    kv_head: usize,
    /// The place of the first row's token in its sequence.
    position: usize,
    /// Tokens of the sequence, all rows of the step included.
    tokens: usize,
    /// Queries of all rows of the step: `[rows, heads * head_dim]`.
    q: &'a dyn HeadSource,
    /// Which rows these are.
    rows: Range<usize>,
}

impl Queries<'_> {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Query heads that share the head of keys.
    fn group(&self) -> usize {
        self.spec.heads / self.spec.kv_heads
    }

    /// The tokens that a row sees.
    fn sees(&self, row: usize) -> Range<usize> {
        if !self.spec.causal {
            return 0..self.tokens;
        }
        let end = self.position + row + 1;
        self.spec.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// The tokens that some row sees.
    fn all_see(&self) -> Range<usize> {
        self.sees(0).start..self.sees(self.rows().saturating_sub(1)).end
    }

    /// Some heads of the group in a row: those whose numbers are `columns` of the `[group * head_dim]`. They may
    /// be made in `room`.
    fn part<'b>(&'b self, row: usize, columns: Range<usize>, room: &'b mut [f32]) -> &'b [f32] {
        let start = self.columns().start;
        self.q.heads(self.rows.start + row, start + columns.start..start + columns.end, room)
    }

    /// What [`Self::part`] reads.
    #[cfg(target_arch = "x86_64")]
    fn source(&self, row: usize, columns: Range<usize>) -> &[f32] {
        let start = self.columns().start;
        self.q.source(self.rows.start + row, start + columns.start..start + columns.end)
    }

    /// Where the heads are in a row.
    fn columns(&self) -> Range<usize> {
        let width = self.group() * self.spec.head_dim;
        self.kv_head * width..(self.kv_head + 1) * width
    }
}

/// The largest score `m`, the sum `l` and the weighted values `o` of some tokens, for each query head
/// of a group: `[group]`, `[group]`, `[group, head_dim]`.
pub(crate) struct Partial<'a> {
    largest: &'a mut [f32],
    sums: &'a mut [f32],
    values: &'a mut [f32],
}

impl<'a> Partial<'a> {
    /// How many numbers it is.
    fn len(spec: &Attention) -> usize {
        spec.heads / spec.kv_heads * (spec.head_dim + 2)
    }

    /// A view of [`Partial::len`] numbers.
    fn new(spec: &Attention, numbers: &'a mut [f32]) -> Self {
        let group = spec.heads / spec.kv_heads;
        let (largest, rest) = numbers.split_at_mut(group);
        let (sums, values) = rest.split_at_mut(group);
        Self { largest, sums, values }
    }

    /// Of no tokens.
    fn clear(&mut self) {
        self.largest.fill(f32::NEG_INFINITY);
        self.sums.fill(0.0);
        self.values.fill(0.0);
    }

    /// Adds later tokens.
    fn add(&mut self, later: &Partial<'_>) {
        let head_dim = self.values.len() / self.sums.len();
        let values = self.values.chunks_exact_mut(head_dim);
        let pairs = values.zip(later.values.chunks_exact(head_dim)).enumerate();
        for (head, (values, later_values)) in pairs {
            let largest = self.largest[head].max(later.largest[head]);
            let by = (self.largest[head] - base(largest)).exp();
            let later_by = (later.largest[head] - base(largest)).exp();
            self.largest[head] = largest;
            self.sums[head] = self.sums[head] * by + later.sums[head] * later_by;
            for (value, later) in values.iter_mut().zip(later_values) {
                *value = *value * by + later * later_by;
            }
        }
    }

    /// Writes the result.
    fn finish(&self, out: &mut [f32]) {
        let head_dim = self.values.len() / self.sums.len();
        let heads = out.chunks_exact_mut(head_dim).zip(self.values.chunks_exact(head_dim));
        for ((out, values), sum) in heads.zip(&*self.sums) {
            out.iter_mut().zip(values).for_each(|(out, value)| *out = value / sum);
        }
    }
}

impl Numbers {
    /// The smallest magnitude, as bits, that does not enter products as a finite number.
    fn infinite(self) -> u32 {
        match self {
            Self::Float => 0x7f80_0000,
            // Halfway from the largest bf16 number to what would come after it.
            Self::Bf16 => 0x7f7f_8000,
        }
    }
}

/// Makes NaN of every number of `out` that values of `wrong_pages` (pages in order of the sequence) enter
/// which are not finite. Products are made without them: times a weight of zero they would be NaN in
/// rows that do not see them too.
fn spoil(queries: &Queries<'_>, numbers: Numbers, wrong_pages: &[usize], out: &mut [&mut [f32]]) {
    let mut value = vec![0.0f32; queries.spec.head_dim];
    for &page in wrong_pages {
        let values = queries.kv.values(queries.pages[page], queries.kv_head);
        let tokens = page * PAGE_TOKENS..(page + 1) * PAGE_TOKENS;
        for token in
            tokens.start.max(queries.all_see().start)..tokens.end.min(queries.all_see().end)
        {
            values.read(token % PAGE_TOKENS, &mut value);
            let wrong = |value: &f32| value.abs().to_bits() >= numbers.infinite();
            if !value.iter().any(wrong) {
                continue;
            }
            let rows =
                out.iter_mut().enumerate().filter(|(row, _)| queries.sees(*row).contains(&token));
            for head in rows.flat_map(|(_, out)| out.chunks_exact_mut(value.len())) {
                let pairs = head.iter_mut().zip(&value).filter(|(_, value)| wrong(value));
                pairs.for_each(|(out, _)| *out = f32::NAN);
            }
        }
    }
}

/// What scores are made smaller by: the largest of them, or where there are none yet, a number that
/// leaves minus infinity what it is.
fn base(largest: f32) -> f32 {
    largest.max(f32::MIN)
}

/// The nearest multiple of `ln 2`. Weights that are made smaller by such differ by powers of two from others
/// made so: in bf16 they are rounded as these are.
fn whole(largest: f32) -> f32 {
    (largest * std::f32::consts::LOG2_E).round() * std::f32::consts::LN_2
}

/// Appends the keys and values of the step's rows to their sequences.
pub(crate) fn append(
    kernels: &dyn AttentionKernels,
    kv: &mut KeyValues,
    step: &Step<'_>,
    keys: &dyn RowSource,
    values: &dyn RowSource,
    pool: &Pool,
) {
    // A task is what a sequence puts into one page.
    let of_sequence = |sequence: &SequenceRows<'_>| {
        let (past, rows) = (sequence.past, sequence.rows.clone());
        pages(past..past + rows.len()).map(move |(page, tokens)| {
            let row = rows.start + page * PAGE_TOKENS + tokens.start - past;
            (page, tokens, row)
        })
    };
    let tasks: Vec<_> = step
        .sequences
        .iter()
        .flat_map(|sequence| of_sequence(sequence).map(move |task| (sequence, task)))
        .collect();
    let writer = kv.writer();
    pool.run(tasks.len(), |index, scratch| {
        let (sequence, (page, tokens, row)) = &tasks[index];
        let [key_room, value_room] = scratch.take([keys.room(), values.room()]);
        for (row, token) in (*row..).zip(tokens.clone()) {
            let (key, value) = (keys.row(row, key_room), values.row(row, value_room));
            // SAFETY: a step is checked to write to a page for one sequence only, and a sequence's
            // tasks are of different pages.
            unsafe {
                writer.store(sequence.pages[*page], token, key, value, |shape, bytes, token, x| {
                    kernels.store(shape, bytes, token, x);
                });
            }
        }
    });
}

/// Attends each row of `q` to the tokens of its sequence that it sees. Padding rows give zeros.
/// `float` says that activations are not rounded.
#[allow(clippy::too_many_arguments)] // Where to, from what, by whom.
pub(crate) fn attend(
    kernels: &dyn AttentionKernels,
    float: bool,
    spec: &Attention,
    kv: &KeyValues,
    step: &Step<'_>,
    q: &dyn HeadSource,
    out: &mut [f32],
    pool: &Pool,
) {
    let width = spec.heads * spec.head_dim;
    let mut owned = 0;
    for sequence in &step.sequences {
        out[owned * width..sequence.rows.start * width].fill(0.0);
        owned = sequence.rows.end;
    }
    out[owned * width..].fill(0.0);

    let (mut blocks, mut singles) = (vec![], vec![]);
    for sequence in &step.sequences {
        for (phase, rows) in runs(step, sequence.rows.clone()) {
            let run = Run { sequence, rows };
            match phase {
                Phase::Generated if !float => {
                    singles.extend(run.rows.clone().map(|row| Run { rows: row..row + 1, ..run }));
                }
                Phase::Generated | Phase::Prompt => blocks.push(run),
            }
        }
    }
    let data = Data { spec, kv, q };
    let out = SharedOut::new(out, width);
    if !blocks.is_empty() {
        let numbers = if float { Numbers::Float } else { Numbers::Bf16 };
        attend_blocks(kernels, numbers, &data, &blocks, &out, pool);
    }
    if !singles.is_empty() {
        split_kv::attend(kernels, &data, &singles, &out, pool);
    }
}

/// Rows of a step that belong to one sequence.
#[derive(Clone)]
struct Run<'a> {
    sequence: &'a SequenceRows<'a>,
    rows: Range<usize>,
}

impl Run<'_> {
    /// The place of the first row's token in its sequence.
    fn position(&self) -> usize {
        self.sequence.past + self.rows.start - self.sequence.rows.start
    }
}

/// What all tasks read.
struct Data<'a> {
    spec: &'a Attention,
    kv: &'a KeyValues,
    q: &'a dyn HeadSource,
}

impl<'a> Data<'a> {
    fn queries(&self, run: &Run<'a>, kv_head: usize) -> Queries<'a> {
        Queries {
            spec: self.spec,
            kv: self.kv,
            pages: run.sequence.pages,
            kv_head,
            position: run.position(),
            tokens: run.sequence.past + run.sequence.rows.len(),
            q: self.q,
            rows: run.rows.clone(),
        }
    }
}

/// Attends rows in blocks.
fn attend_blocks(
    kernels: &dyn AttentionKernels,
    numbers: Numbers,
    data: &Data<'_>,
    runs: &[Run<'_>],
    out: &SharedOut<'_>,
    pool: &Pool,
) {
    let Attention { heads, kv_heads, .. } = *data.spec;
    let rows: usize = runs.iter().map(|run| run.rows.len()).sum();
    let most = (TASK_QUERIES / (heads / kv_heads)).max(1);
    // Smaller tasks if there would be too few; results do not depend on it.
    let wanted = (TASKS_PER_THREAD * pool.threads()).div_ceil(kv_heads);
    let rows_per_task = rows.div_ceil(wanted).next_multiple_of(TASK_ROWS).min(most);
    let mut tasks = vec![];
    for run in runs {
        for start in run.rows.clone().step_by(rows_per_task) {
            let rows = start..(start + rows_per_task).min(run.rows.end);
            tasks.push(Run { rows, ..*run });
        }
    }
    // The longest first, so that none is left for the end.
    tasks.sort_by_key(|task| std::cmp::Reverse(task.position() + task.rows.len()));
    pool.run(tasks.len() * kv_heads, |index, scratch| {
        let task = &tasks[index / kv_heads];
        let queries = data.queries(task, index % kv_heads);
        let part = |row| {
            // SAFETY: tasks differ in their rows or in their heads.
            unsafe { out.part(row, queries.columns()) }
        };
        let mut out: Vec<_> = task.rows.clone().map(part).collect();
        kernels.blocks(&queries, numbers, &mut out, scratch);
    });
}

/// Runs of rows of the same phase.
fn runs(step: &Step<'_>, rows: Range<usize>) -> impl Iterator<Item = (Phase, Range<usize>)> {
    let mut start = rows.start;
    step.rows[rows].chunk_by(|a, b| a.phase == b.phase).map(move |run| {
        let rows = start..start + run.len();
        start = rows.end;
        (run[0].phase, rows)
    })
}

/// The pages that hold `tokens`, each with the range of its tokens that are meant.
fn pages(tokens: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
    (tokens.start / PAGE_TOKENS..tokens.end.div_ceil(PAGE_TOKENS)).map(move |page| {
        let start = page * PAGE_TOKENS;
        (page, tokens.start.saturating_sub(start)..(tokens.end - start).min(PAGE_TOKENS))
    })
}

/// The pieces of `tokens` that lie in different runs of `len` tokens.
fn pieces(tokens: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    (tokens.start / len..tokens.end.div_ceil(len))
        .map(move |piece| tokens.start.max(piece * len)..tokens.end.min((piece + 1) * len))
}

#[cfg(test)]
mod tests;
