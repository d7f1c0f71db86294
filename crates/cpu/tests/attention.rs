//! `attention` against plain loops in `f64` over whole histories.
//!
//! Bound: scores are below 10, so their roundings change weights by up to some 1e-6, in both
//! directions; 3e-6 of the Frobenius norm holds what is left of that after sums.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // These are tests.

mod common;

use common::{Named, Random, bits, error, given, load, run_once, tiers};
use keeve_codec::Codec;
use keeve_graph::{Attention, Graph, Phase, RowInput, SequenceRows, Slot, Step, ValueId, Want};

const BOUND: f64 = 3e-6;

/// A graph whose rows are queries, keys and values one after another.
fn graph(spec: Attention) -> Graph {
    let Attention { heads, kv_heads, head_dim, .. } = spec;
    let mut graph = Graph::new();
    let x = graph.embed("table", 1, (heads + 2 * kv_heads) * head_dim).unwrap();
    let mut part = |name: &str, heads| graph.linear(x, name, heads * head_dim, false).unwrap();
    let operands: (ValueId, ValueId, ValueId) =
        (part("q", heads), part("k", kv_heads), part("v", kv_heads));
    let state = graph.state(Slot::Paged { kv_heads, head_dim });
    let (y, _) = graph.attention(operands, state, spec).unwrap();
    let rows = graph.select_rows(y, Want::Logits).unwrap();
    graph.output(Want::Logits, rows).unwrap();
    graph
}

/// Weights that pick the parts.
fn weights(spec: Attention) -> Named {
    let Attention { heads, kv_heads, head_dim, .. } = spec;
    let width = (heads + 2 * kv_heads) * head_dim;
    let mut weights = Named::default();
    weights.add("table", Codec::F32, 1, width, &vec![0.0; width]);
    let mut start = 0;
    for (name, heads) in [("q.weight", heads), ("k.weight", kv_heads), ("v.weight", kv_heads)] {
        let rows = heads * head_dim;
        let mut values = vec![0.0; rows * width];
        for row in 0..rows {
            values[row * width + start + row] = 1.0;
        }
        weights.add(name, Codec::F32, rows, width, &values);
        start += rows;
    }
    weights
}

/// What row `now` of `history` gets.
fn naive(spec: Attention, history: &[&[f32]], now: usize) -> Vec<f64> {
    let Attention { heads, kv_heads, head_dim, scale, window, soft_cap, .. } = spec;
    let at = |token: usize, head: usize, i: usize| f64::from(history[token][head * head_dim + i]);
    let mut out = vec![];
    for head in 0..heads {
        let shared = head / (heads / kv_heads);
        let (key, value) = (heads + shared, heads + kv_heads + shared);
        let end = if spec.causal { now + 1 } else { history.len() };
        let seen: Vec<_> = (0..end).filter(|&j| window.is_none_or(|w| j + w > now)).collect();
        let score = |&token: &usize| {
            let dot: f64 = (0..head_dim).map(|i| at(now, head, i) * at(token, key, i)).sum();
            let score = dot * f64::from(scale);
            soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let weights: Vec<_> = seen.iter().map(|token| score(token).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for i in 0..head_dim {
            let terms = seen.iter().zip(&weights).map(|(&token, w)| w / sum * at(token, value, i));
            out.push(terms.sum());
        }
    }
    out
}

/// Steps of three sequences: (sequence, rows), `None` for rows of padding.
const STEPS: [&[(Option<usize>, usize)]; 5] = [
    &[(Some(0), 37), (None, 3), (Some(1), 5)],
    &[(Some(1), 30), (Some(2), 1), (Some(0), 2)],
    &[(Some(0), 1), (Some(1), 1), (Some(2), 1), (None, 1)],
    &[(None, 1), (Some(2), 70)],
    &[(Some(2), 1), (Some(1), 3), (Some(0), 25)],
];

fn check(spec: Attention, threads: usize) {
    let width = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
    let pages: [&[u32]; 3] = [&[7, 2, 9], &[0, 8], &[5, 1, 6, 3]];
    for isa in keeve_cpu::Isa::found() {
        let program = load(isa, threads, &graph(spec), &weights(spec));
        let mut plan = program.compile(&Default::default()).unwrap();
        let mut state = program.state(10).unwrap();
        let mut random = Random(21);
        let mut histories: [Vec<Vec<f32>>; 3] = Default::default();
        for parts in STEPS {
            let count = parts.iter().map(|(_, rows)| rows).sum();
            let x: Vec<_> = random.values(count * width).iter().map(|x| 2.0 * x).collect();
            let x: Vec<_> = x.chunks_exact(width).collect();
            let mut step = Step {
                rows: vec![RowInput { logits: true, ..RowInput::text(0, 0, Phase::Prompt) }; count],
                sequences: vec![],
                given: x.iter().copied().enumerate().collect(),
                ..Step::default()
            };
            let mut expected = vec![];
            let mut row = 0;
            for &(owner, rows) in parts {
                let Some(index) = owner else {
                    expected.extend(vec![0.0; rows * spec.heads * spec.head_dim]);
                    row += rows;
                    continue;
                };
                let past = histories[index].len();
                let range = row..row + rows;
                for x in &x[range.clone()] {
                    histories[index].push(x.to_vec());
                    let history: Vec<_> = histories[index].iter().map(Vec::as_slice).collect();
                    expected.extend(naive(spec, &history, history.len() - 1));
                }
                step.sequences.push(SequenceRows { rows: range, past, pages: pages[index] });
                row += rows;
            }
            let found = plan.run(&step, &mut *state, None).unwrap().values.remove(0).2;
            let error = error(&found, &expected);
            assert!(error < BOUND, "{isa} {spec:?}: {error:e}");
            let width = spec.heads * spec.head_dim;
            for (found, expected) in found.chunks_exact(width).zip(expected.chunks_exact(width)) {
                let padding = expected.iter().all(|&value| value == 0.0);
                assert!(!padding || found.iter().all(|&value| value == 0.0), "{isa} {spec:?}");
            }
        }
    }
}

#[test]
fn grouped_heads_windows_and_soft_caps_over_pages_in_any_order() {
    tiers("attention");
    for (heads, kv_heads, head_dim) in [(4, 2, 64), (6, 2, 20), (3, 3, 5), (8, 1, 16)] {
        for window in [None, Some(1), Some(5), Some(32), Some(40), Some(1000)] {
            for soft_cap in [None, Some(3.0)] {
                let scale = 1.0 / (head_dim as f32).sqrt();
                let causal = true;
                let spec = Attention { heads, kv_heads, head_dim, scale, window, soft_cap, causal };
                check(spec, 2);
            }
        }
    }
}

/// Sequences of one step that see all of themselves, alone and beside others: shorter and longer than a
/// block, and than a split.
#[test]
fn attention_both_ways_sees_the_whole_sequence_and_no_other() {
    let spec = Attention {
        heads: 4,
        kv_heads: 2,
        head_dim: 20,
        scale: 0.2,
        window: None,
        soft_cap: None,
        causal: false,
    };
    let width = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
    let lengths = [1, 37, 300, 530];
    let pages: Vec<u32> = (0..40).map(|page| page * 7 % 40).collect();
    for isa in tiers("attention both ways") {
        let program = load(isa, 2, &graph(spec), &weights(spec));
        let mut random = Random(22);
        let x: Vec<_> = random.values(lengths.iter().sum::<usize>() * width);
        let rows_of =
            |x: &[f32]| -> Vec<Vec<f32>> { x.chunks_exact(width).map(<[f32]>::to_vec).collect() };
        let run = |x: &[f32], lengths: &[usize]| {
            let given: Vec<_> = x.chunks_exact(width).enumerate().collect();
            let row = RowInput { logits: true, ..RowInput::text(0, 0, Phase::Prompt) };
            let mut step = Step { rows: vec![row; given.len()], given, ..Step::default() };
            let (mut first, mut page) = (0, 0);
            for &length in lengths {
                let held = length.div_ceil(program.page_tokens());
                let pages = &pages[page..page + held];
                step.sequences.push(SequenceRows { rows: first..first + length, past: 0, pages });
                (first, page) = (first + length, page + held);
            }
            run_once(&*program, &step, 40).values.remove(0).2
        };
        let found = run(&x, &lengths);
        let (mut first, out) = (0, spec.heads * spec.head_dim);
        for length in lengths {
            let rows = first..first + length;
            let own = &x[rows.start * width..rows.end * width];
            let history = rows_of(own);
            let history: Vec<_> = history.iter().map(Vec::as_slice).collect();
            let found = &found[rows.start * out..rows.end * out];
            assert_eq!(bits(found), bits(&run(own, &[length])), "{isa}: {length} rows alone");
            for now in [0, length / 2, length - 1] {
                let error = error(&found[now * out..][..out], &naive(spec, &history, now));
                assert!(error < BOUND, "{isa}: row {now} of {length}: {error:e}");
            }
            first += length;
        }
    }
}

/// Rows that see each other cannot come one after another.
#[test]
fn sequences_that_must_come_whole_are_refused_in_parts() {
    let spec = Attention {
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        scale: 0.5,
        window: None,
        soft_cap: None,
        causal: false,
    };
    let isa = tiers("refusals")[0];
    let program = load(isa, 1, &graph(spec), &weights(spec));
    let values = [0.5; 12];
    let mut step = given(&values, 12, &[0]);
    step.sequences[0].past = 1;
    let mut plan = program.compile(&Default::default()).unwrap();
    let mut state = program.state(1).unwrap();
    let error = plan.run(&step, &mut *state, None).unwrap_err().to_string();
    assert!(error.contains("does not come whole"), "{error}");
}
