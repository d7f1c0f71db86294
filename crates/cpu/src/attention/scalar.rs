//! The oracle: the definition in [`super`], one row, one head and one token at a time.

use std::ops::Range;

use half::bf16;
use keeve_graph::Attention;

use crate::attention::{
    AttentionKernels, BLOCK, Numbers, Partial, Queries, SPLIT, base, pieces, whole,
};
use crate::kv_cache::{Head, KvShape, PAGE_TOKENS, SCALE_SPAN, to_f16};
use crate::reference::Scalar;
use crate::runtime::scratch::Scratch;

impl AttentionKernels for Scalar {
    fn blocks(
        &self,
        queries: &Queries<'_>,
        numbers: Numbers,
        out: &mut [&mut [f32]],
        scratch: &mut Scratch,
    ) {
        let spec = queries.spec;
        let len = Partial::len(spec);
        let [total, split, work] = scratch.take([len, len, BLOCK + 2 * spec.head_dim]);
        for (row, out) in out.iter_mut().enumerate() {
            let mut total = Partial::new(spec, total);
            total.clear();
            for tokens in pieces(queries.sees(row), SPLIT) {
                let mut split = Partial::new(spec, split);
                split.clear();
                for tokens in pieces(tokens, BLOCK) {
                    block(queries, row, numbers, tokens, &mut split, work);
                }
                total.add(&split);
            }
            total.finish(out);
        }
    }

    fn split(
        &self,
        queries: &Queries<'_>,
        tokens: Range<usize>,
        mut partial: Partial<'_>,
        work: &mut [f32],
    ) {
        partial.clear();
        block(queries, 0, Numbers::Float, tokens, &mut partial, work);
    }

    fn store(&self, shape: KvShape, bytes: &mut [u8], index: usize, values: &[f32]) {
        shape.store(bytes, index, values, to_f16);
    }
}

/// Adds tokens to the sums of a row. `work` has room for their scores and for two keys.
fn block(
    queries: &Queries<'_>,
    row: usize,
    numbers: Numbers,
    tokens: Range<usize>,
    sums: &mut Partial<'_>,
    work: &mut [f32],
) {
    let head_dim = queries.spec.head_dim;
    let (scores, rest) = work.split_at_mut(tokens.len());
    let (key, rest) = rest.split_at_mut(head_dim);
    let query = &mut rest[..head_dim];
    let round = |values: &mut [f32]| {
        if numbers == Numbers::Bf16 {
            values.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
        }
    };
    for (head, values) in sums.values.chunks_exact_mut(head_dim).enumerate() {
        let made = queries.part(row, head * head_dim..(head + 1) * head_dim, key);
        query.copy_from_slice(made);
        round(query);
        for (score, token) in scores.iter_mut().zip(tokens.clone()) {
            let page = queries.pages[token / PAGE_TOKENS];
            queries.kv.keys(page, queries.kv_head).read(token % PAGE_TOKENS, key);
            round(key);
            let dot: f32 = query.iter().zip(&*key).map(|(q, k)| q * k).sum();
            *score = capped(queries.spec, dot);
        }
        let mut largest = scores.iter().fold(sums.largest[head], |largest, &s| largest.max(s));
        if numbers == Numbers::Bf16 {
            largest = whole(largest);
        }
        let by = (sums.largest[head] - base(largest)).exp();
        scores.iter_mut().for_each(|score| *score = (*score - base(largest)).exp());
        sums.largest[head] = largest;
        sums.sums[head] = sums.sums[head] * by + scores.iter().sum::<f32>();
        values.iter_mut().for_each(|value| *value *= by);
        round(scores);
        for (weight, token) in scores.iter().zip(tokens.clone()) {
            let page = queries.pages[token / PAGE_TOKENS];
            queries.kv.values(page, queries.kv_head).read(token % PAGE_TOKENS, key);
            round(key);
            values.iter_mut().zip(&*key).for_each(|(sum, value)| *sum += weight * value);
        }
    }
}

/// The score of a product of query and key.
fn capped(spec: &Attention, dot: f32) -> f32 {
    let score = dot * spec.scale;
    spec.soft_cap.map_or(score, |cap| cap * (score / cap).tanh())
}

impl Head<'_> {
    /// The numbers of one token.
    pub fn read(&self, token: usize, out: &mut [f32]) {
        let range = token * out.len()..(token + 1) * out.len();
        match self {
            Head::F32(values) => out.copy_from_slice(&values[range]),
            Head::F16(values) => {
                out.iter_mut().zip(&values[range]).for_each(|(out, value)| *out = value.to_f32());
            }
            Head::Q8_0 { codes, scales } => {
                let scales = &scales[token * out.len().div_ceil(SCALE_SPAN)..];
                let runs = out.chunks_mut(SCALE_SPAN).zip(codes[range].chunks(SCALE_SPAN));
                for ((out, codes), scale) in runs.zip(scales) {
                    let scale = scale.to_f32();
                    out.iter_mut().zip(codes).for_each(|(out, &c)| *out = f32::from(c) * scale);
                }
            }
        }
    }
}
