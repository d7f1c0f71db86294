//! Attention over its tiers, recipes and codecs against plain loops in `f64`, and row invariance.
//!
//! Bounds of the relative Frobenius error:
//!
//! - Sums in `f32`, against exact sums of the numbers as stored: scores are below 10, so their roundings
//!   change weights by up to some 1e-6, in both directions; 3e-6 holds what is left of that after sums.
//! - bf16, against the same: it has 8 binary places, so roundings of queries, keys, values and weights
//!   are errors of up to 2e-3 each, of random sign, in numbers that partly cancel; 1e-2.
//! - bf16 against the oracle's bf16: the same numbers are rounded, but where they come out a few `f32`
//!   roundings apart (for AMX, 3e-6) some weight may become the neighbouring bf16 number; 3e-4.

pub(crate) mod growing;

use std::ops::Range;

use keeve_graph::{Attention, KvCodec, PageId, Phase, RowInput, SequenceRows, Step};

use crate::attention::{AttentionKernels, append, attend, attention_kernels};
use crate::isa::Isa;
use crate::kv_cache::{KeyValues, KvShape, PAGE_TOKENS};
use crate::ops::rows::{HeadSource, RowSource};
use crate::runtime::pool::Pool;
use crate::runtime::scratch::Scratch;

const FLOAT: f64 = 3e-6;
const BF16: f64 = 1e-2;
const BF16_ORACLE: f64 = 3e-4;

/// Numbers between -2 and 2, the same on every run.
fn values(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        // A 64-bit linear congruential generator with Knuth's MMIX constants.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as f32 / (1u64 << 30) as f32 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

fn spec(heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
    let scale = 1.0 / (head_dim as f32).sqrt();
    Attention { heads, kv_heads, head_dim, scale, window: None, soft_cap: None, causal: true }
}

/// Queries, keys and values of a whole sequence, and where its pages are.
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    tokens: usize,
    /// Tokens from here on are generated.
    generated: usize,
    pages: Vec<PageId>,
}

impl Sequence {
    fn new(
        spec: Attention,
        seed: u64,
        tokens: usize,
        generated: usize,
        pages: Vec<PageId>,
    ) -> Self {
        let width = spec.kv_heads * spec.head_dim;
        let q = values(seed, tokens * spec.heads * spec.head_dim);
        let (k, v) = (values(seed + 1, tokens * width), values(seed + 2, tokens * width));
        assert!(pages.len() * PAGE_TOKENS >= tokens);
        Self { q, k, v, tokens, generated, pages }
    }
}

/// Rows that are there.
struct Held<'a> {
    values: &'a [f32],
    width: usize,
}

impl RowSource for Held<'_> {
    fn room(&self) -> usize {
        0
    }

    fn row<'a>(&'a self, row: usize, _: &'a mut [f32]) -> &'a [f32] {
        &self.values[row * self.width..][..self.width]
    }
}

impl HeadSource for Held<'_> {
    fn heads<'a>(&'a self, row: usize, columns: Range<usize>, _: &'a mut [f32]) -> &'a [f32] {
        &self.values[row * self.width..][columns]
    }

    #[cfg(target_arch = "x86_64")]
    fn source(&self, row: usize, columns: Range<usize>) -> &[f32] {
        &self.values[row * self.width..][columns]
    }
}

/// How something runs.
#[derive(Clone, Copy)]
struct Mode<'a> {
    kernels: &'a dyn AttentionKernels,
    float: bool,
    codec: KvCodec,
    pool: &'a Pool,
}

fn mode<'a>(
    kernels: &'a dyn AttentionKernels,
    float: bool,
    codec: KvCodec,
    pool: &'a Pool,
) -> Mode<'a> {
    Mode { kernels, float, codec, pool }
}

/// Runs sequences side by side, `chunks` tokens of each at a time with `padding` rows before each; gives
/// the results of all rows of each, and what was stored.
fn run(
    mode: Mode<'_>,
    spec: Attention,
    sequences: &[Sequence],
    chunks: &[usize],
    padding: usize,
) -> (Vec<Vec<f32>>, KeyValues) {
    let pages =
        sequences.iter().flat_map(|sequence| &sequence.pages).max().map_or(0, |&page| page + 1);
    let shape = KvShape { kv_heads: spec.kv_heads, head_dim: spec.head_dim, codec: mode.codec };
    let mut kv = KeyValues::slots(&[shape], pages as usize).expect("memory").remove(0);
    // What other sequences have left behind must not matter.
    for page in 0..pages {
        kv.page_mut(page).fill(0xff);
    }
    let (width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let mut results: Vec<_> = sequences.iter().map(|_| vec![]).collect();
    let mut past = vec![0; sequences.len()];
    while past.iter().zip(sequences).any(|(&past, sequence)| past < sequence.tokens) {
        let mut step = Step::default();
        let (mut q, mut k, mut v) = (vec![], vec![], vec![]);
        let mut parts: Vec<(usize, Range<usize>)> = vec![];
        let pad = |step: &mut Step<'_>, q: &mut Vec<f32>, k: &mut Vec<f32>, v: &mut Vec<f32>| {
            step.rows.extend((0..padding).map(|_| RowInput::text(0, 0, Phase::Prompt)));
            q.resize(step.rows.len() * width, f32::NAN);
            k.resize(step.rows.len() * kv_width, f32::NAN);
            v.resize(step.rows.len() * kv_width, f32::NAN);
        };
        for (index, sequence) in sequences.iter().enumerate() {
            let tokens = past[index]..(past[index] + chunks[index]).min(sequence.tokens);
            if tokens.is_empty() {
                continue;
            }
            pad(&mut step, &mut q, &mut k, &mut v);
            let start = step.rows.len();
            for token in tokens.clone() {
                let generated = token >= sequence.generated;
                let phase = if generated { Phase::Generated } else { Phase::Prompt };
                step.rows.push(RowInput::text(0, token as u32, phase));
            }
            q.extend_from_slice(&sequence.q[tokens.start * width..tokens.end * width]);
            k.extend_from_slice(&sequence.k[tokens.start * kv_width..tokens.end * kv_width]);
            v.extend_from_slice(&sequence.v[tokens.start * kv_width..tokens.end * kv_width]);
            let rows = start..step.rows.len();
            step.sequences.push(SequenceRows {
                rows: rows.clone(),
                past: tokens.start,
                pages: &sequence.pages,
            });
            parts.push((index, rows));
            past[index] = tokens.end;
        }
        pad(&mut step, &mut q, &mut k, &mut v);
        let (k, v) = (Held { values: &k, width: kv_width }, Held { values: &v, width: kv_width });
        append(mode.kernels, &mut kv, &step, &k, &v, mode.pool);
        let mut out = vec![f32::NAN; step.rows.len() * width];
        let q = Held { values: &q, width };
        attend(mode.kernels, mode.float, &spec, &kv, &step, &q, &mut out, mode.pool);
        let mut owned = vec![false; step.rows.len()];
        for (index, rows) in parts {
            owned[rows.clone()].fill(true);
            results[index].extend_from_slice(&out[rows.start * width..rows.end * width]);
        }
        for (row, _) in owned.iter().enumerate().filter(|(_, owned)| !**owned) {
            assert!(out[row * width..(row + 1) * width].iter().all(|&value| value == 0.0));
        }
    }
    (results, kv)
}

/// What a row of a sequence should get, in `f64`, from keys and values as they are stored.
fn naive(spec: Attention, kv: &KeyValues, sequence: &Sequence, row: usize) -> Vec<f64> {
    let Attention { heads, kv_heads, head_dim, scale, window, soft_cap, .. } = spec;
    let mut out = vec![];
    let mut number = vec![0.0; head_dim];
    for head in 0..heads {
        let kv_head = head / (heads / kv_heads);
        let query = &sequence.q[(row * heads + head) * head_dim..][..head_dim];
        let seen = window.map_or(0, |window| (row + 1).saturating_sub(window))..row + 1;
        let mut sums = vec![0.0; head_dim];
        let mut sum = 0.0;
        for token in seen {
            let page = sequence.pages[token / PAGE_TOKENS];
            kv.keys(page, kv_head).read(token % PAGE_TOKENS, &mut number);
            let pairs = query.iter().zip(&number);
            let dot: f64 = pairs.map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
            let score = dot * f64::from(scale);
            let score =
                soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
            let weight = score.exp();
            kv.values(page, kv_head).read(token % PAGE_TOKENS, &mut number);
            sums.iter_mut().zip(&number).for_each(|(sum, &v)| *sum += weight * f64::from(v));
            sum += weight;
        }
        out.extend(sums.into_iter().map(|value| value / sum));
    }
    out
}

/// `|found - expected| / |expected|`, Frobenius.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let difference: f64 = pairs.map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    (difference / expected.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

fn tiers(test: &str) -> Vec<(Isa, std::sync::Arc<dyn AttentionKernels>)> {
    println!("{test}: {}", Isa::found().map(Isa::name).collect::<Vec<_>>().join(", "));
    Isa::found().map(|isa| (isa, attention_kernels(isa).expect("a tier that was found"))).collect()
}

/// Three sequences of which one begins generating, in steps that cut pages, with padding.
fn check(spec: Attention) {
    let pool = Pool::new(2).expect("threads");
    let sequences = || {
        [
            Sequence::new(spec, 3, 70, 61, vec![7, 2, 9]),
            Sequence::new(spec, 13, 45, 45, vec![0, 8]),
            Sequence::new(spec, 23, 100, 64, vec![5, 1, 6, 3]),
        ]
    };
    let chunks = [33, 1, 40];
    for codec in KvCodec::ALL {
        for float in [true, false] {
            let mut oracle: Option<Vec<f64>> = None;
            for (isa, kernels) in Isa::found().map(|isa| (isa, attention_kernels(isa).expect("it")))
            {
                let mode = Mode { kernels: &*kernels, float, codec, pool: &pool };
                let sequences = sequences();
                let (found, kv) = run(mode, spec, &sequences, &chunks, 2);
                let what = format!("{isa} {codec} float={float} {spec:?}");
                for (found, sequence) in found.iter().zip(&sequences) {
                    let split = sequence.generated * spec.heads * spec.head_dim;
                    let (prompt, generated) = found.split_at(split);
                    let expected =
                        |rows: Range<usize>| rows.flat_map(|row| naive(spec, &kv, sequence, row));
                    let expected_prompt: Vec<_> = expected(0..sequence.generated).collect();
                    let expected_generated: Vec<_> =
                        expected(sequence.generated..sequence.tokens).collect();
                    let (bound, off) =
                        (if float { FLOAT } else { BF16 }, error(prompt, &expected_prompt));
                    assert!(off < bound, "{what} prompt: {off:e}");
                    if !generated.is_empty() {
                        let off = error(generated, &expected_generated);
                        assert!(off < FLOAT, "{what} generated: {off:e}");
                    }
                }
                let all = found.concat();
                let oracle = oracle.get_or_insert_with(|| widened(&all));
                let off = error(&all, oracle);
                assert!(off < if float { FLOAT } else { BF16_ORACLE }, "{what}, oracle: {off:e}");
            }
        }
    }
}

#[test]
fn grouped_heads_windows_and_soft_caps() {
    tiers("attention");
    for (heads, kv_heads, head_dim) in [(4, 2, 64), (6, 2, 20), (3, 3, 5), (5, 1, 96)] {
        for window in [None, Some(1), Some(5), Some(40), Some(1000)] {
            for soft_cap in [None, Some(3.0)] {
                check(Attention { window, soft_cap, ..spec(heads, kv_heads, head_dim) });
            }
        }
    }
}

#[test]
fn long_contexts() {
    let tokens = 3000usize;
    let pages =
        |first: u32| (0..tokens.div_ceil(PAGE_TOKENS) as u32).map(move |page| first + 2 * page);
    for window in [None, Some(700)] {
        let spec = Attention { window, ..spec(2, 1, 32) };
        for (isa, kernels) in tiers("long contexts") {
            for (float, codec) in
                [(true, KvCodec::F32), (false, KvCodec::F16), (false, KvCodec::Q8_0)]
            {
                let pool = Pool::new(2).expect("threads");
                let mode = Mode { kernels: &*kernels, float, codec, pool: &pool };
                let sequence = Sequence::new(spec, 5, tokens, tokens - 3, pages(1).collect());
                let (found, kv) = run(mode, spec, std::slice::from_ref(&sequence), &[512], 0);
                for row in [0, 511, 512, 513, 1023, 1700, 2559, 2560, tokens - 4, tokens - 1] {
                    let width = spec.heads * spec.head_dim;
                    let found = &found[0][row * width..(row + 1) * width];
                    let off = error(found, &naive(spec, &kv, &sequence, row));
                    let bf16 = !float && row < sequence.generated;
                    let bound = if bf16 { 2.0 * BF16 } else { FLOAT };
                    assert!(off < bound, "{isa} {codec} float={float} row {row}: {off:e}");
                }
            }
        }
    }
}

/// Chunks, batches, pages and threads change no bit.
#[test]
fn rows_are_invariant() {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let tokens = 600;
    let pages = |first: u32| -> Vec<u32> { (0..19).map(|page| first + 3 * page).collect() };
    for window in [None, Some(90)] {
        let spec = Attention { window, ..spec(6, 2, 32) };
        let sequence = |pages| Sequence::new(spec, 5, tokens, tokens - 20, pages);
        for (isa, kernels) in tiers("row invariance") {
            for codec in KvCodec::ALL {
                for float in [true, false] {
                    let one = Pool::new(1).expect("a thread");

                    let (whole, _) = run(
                        mode(&*kernels, float, codec, &one),
                        spec,
                        &[sequence(pages(0))],
                        &[tokens],
                        0,
                    );
                    let whole = bits(&whole[0]);
                    assert!(whole.iter().all(|&bits| f32::from_bits(bits).is_finite()));
                    let what = format!("{isa} {codec} float={float} {window:?}");
                    for threads in [1, 2, 3] {
                        let pool = Pool::new(threads).expect("threads");
                        for chunk in [1, 2, 3, 7, 64, tokens] {
                            if isa == Isa::Scalar && chunk < 7 {
                                continue;
                            }
                            let (found, _) = run(
                                mode(&*kernels, float, codec, &pool),
                                spec,
                                &[sequence(pages(1))],
                                &[chunk],
                                0,
                            );
                            assert!(
                                bits(&found[0]) == whole,
                                "{what}: chunks of {chunk}, {threads} threads"
                            );
                        }
                        let batch = [
                            Sequence::new(spec, 50, 40, 20, pages(2)),
                            sequence(pages(0)),
                            Sequence::new(spec, 60, 300, 290, pages(1)),
                        ];
                        let (found, _) = run(
                            mode(&*kernels, float, codec, &pool),
                            spec,
                            &batch,
                            &[1, 100, 33],
                            1,
                        );
                        assert!(bits(&found[1]) == whole, "{what}: a batch, {threads} threads");
                    }
                }
            }
        }
    }
}

/// Keys and values are rounded as their codec says, and tokens see themselves rounded.
#[test]
fn codecs_round_by_what_they_state() {
    let spec = spec(2, 2, 40);
    let pool = Pool::new(1).expect("a thread");
    let kernels = attention_kernels(Isa::Scalar).expect("the oracle");
    for codec in KvCodec::ALL {
        let sequence = Sequence::new(spec, 7, 50, 50, vec![1, 0]);
        let mode = Mode { kernels: &*kernels, float: true, codec, pool: &pool };
        let (found, kv) = run(mode, spec, std::slice::from_ref(&sequence), &[50], 0);
        let mut stored = vec![0.0; 40];
        for (index, expected) in sequence.v.chunks_exact(40).enumerate() {
            let (token, head) = (index / 2, index % 2);
            let page = sequence.pages[token / PAGE_TOKENS];
            kv.values(page, head).read(token % PAGE_TOKENS, &mut stored);
            let runs = stored.chunks(32).zip(expected.chunks(32));
            for (stored, expected) in runs {
                let largest =
                    expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                for (stored, expected) in stored.iter().zip(expected) {
                    let bound = match codec {
                        KvCodec::F32 => 0.0,
                        KvCodec::F16 => expected.abs() / 2048.0 + f32::MIN_POSITIVE,
                        // Half a step, and the rounding of the scale.
                        KvCodec::Q8_0 => largest / 127.0 * 0.5 + largest / 2048.0,
                    };
                    assert!((stored - expected).abs() <= bound, "{codec}: {expected} as {stored}");
                }
            }
            if token == 0 {
                // The first token sees nothing but itself.
                assert_eq!(found[0][head * 40..(head + 1) * 40], stored, "{codec}");
            }
        }
    }
}

#[test]
fn memory_does_not_grow_with_the_context() {
    let spec = spec(4, 2, 64);
    for (isa, kernels) in tiers("memory") {
        for codec in KvCodec::ALL {
            let shape = KvShape { kv_heads: 2, head_dim: 64, codec };
            let kv = KeyValues::slots(&[shape], 1).expect("memory").remove(0);
            let taken = |position: usize| {
                // The same page again and again: only lengths matter.
                let pages = vec![0; position / PAGE_TOKENS + 3];
                let q = vec![0.0; 64 * 4 * 64];
                let queries = crate::attention::Queries {
                    spec: &spec,
                    kv: &kv,
                    pages: &pages,
                    kv_head: 1,
                    position,
                    tokens: position + 64,
                    q: &Held { values: &q, width: 4 * 64 },
                    rows: 0..64,
                };
                let mut scratch = Scratch::default();
                for numbers in [crate::attention::Numbers::Float, crate::attention::Numbers::Bf16] {
                    let mut out = vec![vec![0.0; 2 * 64]; 64];
                    let mut out: Vec<_> = out.iter_mut().map(Vec::as_mut_slice).collect();
                    kernels.blocks(&queries, numbers, &mut out, &mut scratch);
                }
                scratch.len()
            };
            assert_eq!(taken(600), taken(32_768), "{isa} {codec}");
        }
    }
}

/// What a token says that is not finite reaches those rows that see it, and no others: times a weight of
/// zero it would reach all that share a task with them.
#[test]
fn tokens_that_are_not_finite_leave_rows_before_them_alone() {
    let spec = spec(6, 2, 32);
    let (tokens, wrong) = (90, 50);
    let width = spec.heads * spec.head_dim;
    for (isa, kernels) in tiers("not finite") {
        for codec in KvCodec::ALL {
            for float in [true, false] {
                let pool = Pool::new(2).expect("threads");
                let what = format!("{isa} {codec} float={float}");
                let results = |sequence| {
                    let mode = mode(&*kernels, float, codec, &pool);
                    run(mode, spec, &[sequence], &[tokens], 0).0.remove(0)
                };
                let sequence = || Sequence::new(spec, 5, tokens, tokens - 5, vec![2, 0, 1]);
                let clean = results(sequence());
                for bad in [f32::NAN, f32::INFINITY, f32::MIN] {
                    for key in [true, false] {
                        let mut sequence = sequence();
                        let at = (wrong * spec.kv_heads + 1) * spec.head_dim + 7;
                        (if key { &mut sequence.k } else { &mut sequence.v })[at] = bad;
                        let found = results(sequence);
                        let (before, _) = found.split_at(wrong * width);
                        assert!(before == &clean[..before.len()], "{what} {bad} key={key}");
                        // The rows that see it are changed where it is stored as it was given.
                        let stored = codec == KvCodec::F32 || codec == KvCodec::F16 && bad.is_nan();
                        if stored && !key && !(bad == f32::MIN) {
                            for row in wrong..tokens {
                                for head in 3..6 {
                                    let number = found[row * width + head * spec.head_dim + 7];
                                    assert!(!number.is_finite(), "{what} {bad}, row {row}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
