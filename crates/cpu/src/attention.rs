//! `attention`: every row of a step against its own sequence.

use keeve_graph::{Attention, Step};

use crate::kernels::Kernels;
use crate::pool::Pool;
use crate::shared_out::SharedOut;
use crate::state::{KeyValues, PAGE_TOKENS};

/// Appends the keys and values of the step's rows to their sequences.
pub(crate) fn append(kv: &mut KeyValues, step: &Step<'_>, keys: &[f32], values: &[f32]) {
    let width = keys.len() / step.rows.len();
    for sequence in &step.sequences {
        for (offset, row) in sequence.rows.clone().enumerate() {
            let token = sequence.past + offset;
            let range = row * width..(row + 1) * width;
            let page = sequence.pages[token / PAGE_TOKENS];
            kv.store(page, token % PAGE_TOKENS, &keys[range.clone()], &values[range]);
        }
    }
}

/// Attends each row of `q` to the tokens of its sequence up to itself. Padding rows give zeros.
///
/// A task is one row and one head of keys, with the query heads that share it. Tokens are taken in
/// their order, so where pages are and which rows run together changes nothing.
pub(crate) fn attend(
    kernels: &dyn Kernels,
    spec: &Attention,
    kv: &KeyValues,
    step: &Step<'_>,
    q: &[f32],
    out: &mut [f32],
    pool: &Pool,
) {
    out.fill(0.0);
    let Attention { heads, kv_heads, head_dim, .. } = *spec;
    let group = heads / kv_heads;
    let width = heads * head_dim;
    let owners: Vec<_> =
        step.sequences.iter().flat_map(|s| s.rows.clone().map(move |row| (row, s))).collect();
    let out = SharedOut::new(out, width);
    pool.run(owners.len() * kv_heads, |task, scratch| {
        let (row, sequence) = owners[task / kv_heads];
        let kv_head = task % kv_heads;
        let end = sequence.past + (row - sequence.rows.start) + 1;
        let first = spec.window.map_or(0, |window| end.saturating_sub(window));
        let tokens = end - first;
        let columns = kv_head * group * head_dim..(kv_head + 1) * group * head_dim;
        let queries = &q[row * width..][columns.clone()];
        // SAFETY: tasks differ in their row or in their heads.
        let out = unsafe { out.part(row, columns) };
        let [scores] = scratch.take([group * tokens]);
        for (page, range) in pages(first, end) {
            let keys = kv.keys(sequence.pages[page], kv_head);
            let keys = &keys[range.start * head_dim..range.end * head_dim];
            let token = page * PAGE_TOKENS + range.start - first;
            kernels.dots(keys, queries, head_dim, &mut scores[token..], tokens);
        }
        for (scores, out) in scores.chunks_exact_mut(tokens).zip(out.chunks_exact_mut(head_dim)) {
            let mut scale = spec.scale;
            if let Some(cap) = spec.soft_cap {
                scores.iter_mut().for_each(|score| *score = cap * (*score * scale / cap).tanh());
                scale = 1.0;
            }
            let sum = kernels.exp_sum(scores, scale);
            for (page, range) in pages(first, end) {
                let values = kv.values(sequence.pages[page], kv_head);
                let values = &values[range.start * head_dim..range.end * head_dim];
                let token = page * PAGE_TOKENS + range.start - first;
                kernels.accumulate(&scores[token..token + range.len()], values, out);
            }
            out.iter_mut().for_each(|out| *out /= sum);
        }
    });
}

/// The pages that hold tokens `first..end`, each with the range of its tokens that are meant.
fn pages(first: usize, end: usize) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    (first / PAGE_TOKENS..end.div_ceil(PAGE_TOKENS)).map(move |page| {
        let start = page * PAGE_TOKENS;
        (page, first.saturating_sub(start)..(end - start).min(PAGE_TOKENS))
    })
}
