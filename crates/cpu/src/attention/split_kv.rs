//! Generated rows: one at a time, split by split.

use std::cmp::Reverse;

use crate::attention::{
    AttentionKernels, Data, Partial, Run, SPLIT, TASKS_PER_THREAD, pieces, split_work,
};
use crate::runtime::disjoint::SharedOut;
use crate::runtime::pool::Pool;

/// Attends rows (each run is one) to all that they see.
///
/// Sums of splits are added in their order, so it makes no difference whether a thread makes all
/// splits of a row itself or several threads make some of them at the same time.
pub(super) fn attend(
    kernels: &dyn AttentionKernels,
    data: &Data<'_>,
    runs: &[Run<'_>],
    out: &SharedOut<'_>,
    pool: &Pool,
) {
    let kv_heads = data.spec.kv_heads;
    let wanted = TASKS_PER_THREAD * pool.threads();
    let at_once = wanted.div_ceil(runs.len() * kv_heads);
    if at_once == 1 || pool.threads() == 1 {
        whole_rows(kernels, data, runs, out, pool);
    } else {
        rounds(kernels, data, runs, at_once, out, pool);
    }
}

/// A task is a row and a head of keys.
fn whole_rows(
    kernels: &dyn AttentionKernels,
    data: &Data<'_>,
    runs: &[Run<'_>],
    out: &SharedOut<'_>,
    pool: &Pool,
) {
    let (spec, kv_heads) = (data.spec, data.spec.kv_heads);
    let mut order: Vec<_> = runs.iter().collect();
    order.sort_by_key(|run| Reverse(run.position()));
    pool.run(order.len() * kv_heads, |index, scratch| {
        let run = order[index / kv_heads];
        let queries = data.queries(run, index % kv_heads);
        let len = Partial::len(spec);
        let [total, split, work] = scratch.take([len, len, split_work(spec)]);
        let mut total = Partial::new(spec, total);
        total.clear();
        for tokens in pieces(queries.sees(0), SPLIT) {
            kernels.split(&queries, tokens, Partial::new(spec, split), work);
            total.add(&Partial::new(spec, split));
        }
        // SAFETY: tasks differ in their row or in their heads.
        total.finish(unsafe { out.part(run.rows.start, queries.columns()) });
    });
}

/// A task is a row, a head of keys and a split; rounds of `at_once` splits follow each other, so that
/// memory for their sums does not grow with the context.
fn rounds(
    kernels: &dyn AttentionKernels,
    data: &Data<'_>,
    runs: &[Run<'_>],
    at_once: usize,
    out: &SharedOut<'_>,
    pool: &Pool,
) {
    let spec = data.spec;
    let len = Partial::len(spec);
    let heads: Vec<_> = runs
        .iter()
        .flat_map(|run| (0..spec.kv_heads).map(|head| (run.rows.start, data.queries(run, head))))
        .collect();
    let splits = |index: usize| pieces(heads[index].1.sees(0), SPLIT);
    let count = (0..heads.len()).map(|index| splits(index).count()).max().unwrap_or(0);
    let at_once = at_once.min(count.max(1));
    let mut totals = vec![0.0; heads.len() * len];
    totals.chunks_exact_mut(len).for_each(|total| Partial::new(spec, total).clear());
    let mut parts = vec![0.0; heads.len() * at_once * len];
    for first in (0..count).step_by(at_once) {
        let shared = SharedOut::new(&mut parts, len);
        pool.run(heads.len() * at_once, |index, scratch| {
            let (head, split) = (index / at_once, first + index % at_once);
            if let Some(tokens) = splits(head).nth(split) {
                let [work] = scratch.take([split_work(spec)]);
                // SAFETY: tasks differ in their index.
                let part = unsafe { shared.part(index, 0..len) };
                kernels.split(&heads[head].1, tokens, Partial::new(spec, part), work);
            }
        });
        let of_heads = parts.chunks_exact_mut(at_once * len).zip(totals.chunks_exact_mut(len));
        for (head, (parts, total)) in of_heads.enumerate() {
            let mut total = Partial::new(spec, total);
            let made = splits(head).skip(first).zip(parts.chunks_exact_mut(len));
            made.for_each(|(_, part)| total.add(&Partial::new(spec, part)));
        }
    }
    for ((row, queries), total) in heads.iter().zip(totals.chunks_exact_mut(len)) {
        // SAFETY: each pair of a row and a head of keys is here once.
        let out = unsafe { out.part(*row, queries.columns()) };
        Partial::new(spec, total).finish(out);
    }
}
