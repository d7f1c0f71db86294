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
    pool.run(owners.len() * kv_heads, |task| {
        let (row, sequence) = owners[task / kv_heads];
        let kv_head = task % kv_heads;
        let tokens = sequence.past + (row - sequence.rows.start) + 1;
        let first = spec.window.map_or(0, |window| tokens.saturating_sub(window));
        let mut scores = vec![0.0; tokens - first];
        for head in kv_head * group..(kv_head + 1) * group {
            let columns = head * head_dim..(head + 1) * head_dim;
            let query = &q[row * width..][columns.clone()];
            for (page, range) in pages(first, tokens) {
                let keys = &kv.keys(sequence.pages[page], kv_head)
                    [range.start * head_dim..range.end * head_dim];
                let token = page * PAGE_TOKENS + range.start - first;
                kernels.dots(keys, query, &mut scores[token..token + range.len()]);
            }
            for score in &mut scores {
                *score *= spec.scale;
                if let Some(cap) = spec.soft_cap {
                    *score = cap * (*score / cap).tanh();
                }
            }
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum = kernels.exp_sum(&mut scores, max);
            // SAFETY: tasks differ in their row or in their heads.
            let out = unsafe { out.part(row, columns) };
            for (page, range) in pages(first, tokens) {
                let values = kv.values(sequence.pages[page], kv_head);
                for index in range {
                    let weight = scores[page * PAGE_TOKENS + index - first] / sum;
                    kernels.add_scaled(
                        weight,
                        &values[index * head_dim..(index + 1) * head_dim],
                        out,
                    );
                }
            }
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
