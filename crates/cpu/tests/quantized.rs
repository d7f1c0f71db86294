//! `linear` with quantized activations: every codec, on every tier, with every number of rows, in both
//! phases. The scalar tier computes with weights as they are stored, in plain loops; all others must give
//! its bits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

mod common;

use common::{Named, Random, bits, error, given, load_by, load_with, run_once, tiers};
use keeve_codec::{Codec, Float, Group};
use keeve_cpu::Isa;
use keeve_graph::{Activations, Graph, Phase, ProductRule, Scheme, Step, Want};

/// Ways to make products that give the same bits on every tier.
const RULES: [ProductRule; 3] = [
    ProductRule::Mode(Activations::Int8),
    ProductRule::Mode(Activations::Fast),
    ProductRule::Scheme(Scheme::Fine),
];

const ROWS: [usize; 10] = [1, 2, 3, 7, 8, 9, 16, 33, 64, 129];
/// Codes of 8 bits for values that are spread evenly are off by a 440th of the largest value, a 254th of
/// the standard deviation; weights in panels by as much again.
const BOUND: f64 = 0.01;

fn graph(n: usize, k: usize, bias: bool) -> Graph {
    let mut graph = Graph::new();
    let x = graph.embed("table", 1, k).unwrap();
    let rows = graph.select_rows(x, Want::Logits).unwrap();
    let y = graph.linear(rows, "head", n, bias).unwrap();
    graph.output(Want::Logits, y).unwrap();
    graph
}

fn codecs() -> Vec<Codec> {
    let mut codecs = Codec::PLAIN.to_vec();
    codecs.retain(|codec| codec.has_encoder());
    for bits in Codec::AFFINE_BITS {
        let floats = [Float::Bf16, Float::F16, Float::F32];
        for (group, scale) in Codec::AFFINE_GROUPS.into_iter().zip(floats) {
            codecs.push(Codec::Affine { bits, group, scale });
        }
    }
    let groups = [Group::Row].into_iter().chain(Codec::INT_GROUPS.map(Group::Of));
    for group in groups {
        for scale in [Float::F32, Float::F16] {
            codecs.extend([Codec::Int8 { group, scale }, Codec::Int4 { group, scale }]);
        }
    }
    codecs
}

/// Rows in the phases that `phase` gives.
fn in_phases<'a>(mut step: Step<'a>, phase: fn(usize) -> Phase) -> Step<'a> {
    for (at, row) in step.rows.iter_mut().enumerate() {
        row.phase = phase(at);
    }
    step
}

/// The phase of a row.
type PhaseOf = fn(usize) -> Phase;

const PHASES: [(&str, PhaseOf); 3] = [
    ("prompt", |_| Phase::Prompt),
    ("generated", |_| Phase::Generated),
    ("mixed", |at| if at % 3 == 1 { Phase::Generated } else { Phase::Prompt }),
];

fn check(codec: Codec, n: usize, k: usize, row_counts: &[usize], random: &mut Random) {
    let mut weights = Named::default();
    weights.add("table", Codec::F32, 1, k, &vec![0.0; k]);
    weights.add("head.weight", codec, n, k, &random.values(n * k));
    let bias = n % 4 == 3;
    weights.add("head.bias", Codec::F32, 1, n, &random.values(n));
    let most = row_counts[row_counts.len() - 1];
    let x = random.values(most * k);
    let graph = graph(n, k, bias);
    let pages: Vec<u32> = (0..5).collect();
    for rule in RULES {
        if codec.is_float() && matches!(rule, ProductRule::Scheme(_)) {
            continue;
        }
        let load = |rule, isa| load_by(rule, isa, 2, &graph, &weights);
        let float = load(ProductRule::Mode(Activations::Float), Isa::Scalar);
        let float = run_once(&*float, &given(&x, k, &pages), 5);
        let float: Vec<_> = float.values[0].2.iter().map(|&y| f64::from(y)).collect();
        let scalar = load(rule, Isa::Scalar);
        for (name, phase) in PHASES {
            let what = format!("{rule:?} {codec} {n}x{k} {name}");
            let step = in_phases(given(&x, k, &pages), phase);
            let oracle = run_once(&*scalar, &step, 5).values.remove(0).2;
            let off = error(&oracle, &float);
            // Few numbers may be off by more than many are.
            let bound = if k * n < 512 { 5.0 * BOUND } else { BOUND };
            assert!(off < bound, "{what}: {off:e} from float");
            let bf16 = codec == Codec::BF16;
            let float = codec.is_float() && !bf16 || codec.codes().is_none() && name == "generated";
            assert!(off > 0.0 || float, "{what}: nothing was quantized");
            for isa in Isa::found() {
                // Those sum up in another order; tests of float activations see to them.
                let mixed = codec.codes().is_none() && name == "mixed";
                if (float || mixed) && !bf16 && isa != Isa::Scalar {
                    continue;
                }
                let program = load(rule, isa);
                for &rows in row_counts {
                    let step = in_phases(given(&x[..rows * k], k, &pages), phase);
                    let found = run_once(&*program, &step, 5).values.remove(0).2;
                    let expected = &oracle[..rows * n];
                    assert!(bits(&found) == bits(expected), "{isa} {what}: {rows} rows");
                }
            }
        }
    }
}

#[test]
fn every_codec_tier_phase_and_number_of_rows() {
    tiers("quantized activations");
    let mut random = Random(51);
    for codec in codecs() {
        check(codec, 19, 512.max(codec.column_step()), &ROWS, &mut random);
    }
}

#[test]
fn odd_shapes() {
    tiers("quantized activations, odd shapes");
    let mut random = Random(52);
    for codec in codecs().into_iter().filter(|codec| !codec.is_float()) {
        let step = codec.column_step();
        let widths = [step, 3 * step, 7 * step, 33 * step, 288, 259, 1000];
        for (index, k) in widths.into_iter().enumerate() {
            if k % step == 0 && k <= 1024 {
                check(codec, [35, 1, 16, 47][index % 4], k, &[1, 2, 5, 17], &mut random);
            }
        }
    }
}

#[test]
fn values_that_are_no_numbers_are_not_hidden() {
    let mut random = Random(53);
    let (n, k) = (19, 512);
    for codec in [Codec::Q4K, Codec::Q8_0, "int8".parse().unwrap(), "affine4".parse().unwrap()] {
        let mut weights = Named::default();
        weights.add("table", Codec::F32, 1, k, &vec![0.0; k]);
        weights.add("head.weight", codec, n, k, &random.values(n * k));
        let mut x = random.values(3 * k);
        (x[k + 40], x[2 * k + 300]) = (f32::NAN, f32::INFINITY);
        for rule in RULES {
            for isa in Isa::found() {
                let program = load_by(rule, isa, 1, &graph(n, k, false), &weights);
                for (name, phase) in PHASES {
                    let step = in_phases(given(&x, k, &[0]), phase);
                    let y = run_once(&*program, &step, 1).values.remove(0).2;
                    let what = format!("{isa} {rule:?} {codec} {name}");
                    assert!(y[..n].iter().all(|y| y.is_finite()), "{what}: a row of numbers");
                    assert!(y[n..].iter().all(|y| y.is_nan()), "{what}: rows with others");
                }
            }
        }
    }
}

#[test]
fn bf16_is_float_but_for_the_rounding() {
    let mut random = Random(54);
    for codec in codecs() {
        let (n, k) = (19, 512.max(codec.column_step()));
        let mut weights = Named::default();
        weights.add("table", Codec::F32, 1, k, &vec![0.0; k]);
        weights.add("head.weight", codec, n, k, &random.values(n * k));
        let x = random.values(9 * k);
        let graph = graph(n, k, false);
        let run_in = |phase: fn(usize) -> Phase, activations, isa, rows: usize| {
            let program = load_with(activations, isa, 2, &graph, &weights);
            let step = in_phases(given(&x[..rows * k], k, &[0]), phase);
            run_once(&*program, &step, 1).values.remove(0).2
        };
        let run = |activations, isa, rows| run_in(|_| Phase::Prompt, activations, isa, rows);
        let float: Vec<_> =
            run(Activations::Float, Isa::Scalar, 9).into_iter().map(f64::from).collect();
        let oracle = run(Activations::Bf16, Isa::Scalar, 9);
        // Two roundings of up to 2^-9 each, of every product.
        let off = error(&oracle, &float);
        assert!(off > 0.0 && off < 4e-3, "{codec}: {off:e}");
        for isa in Isa::found() {
            for rows in [1, 9] {
                let found = run(Activations::Bf16, isa, rows);
                assert!(bits(&found) == bits(&oracle[..rows * n]), "{isa} {codec}: {rows} rows");
            }
            // Nothing is rounded for generated tokens.
            let [one, nine] =
                [1, 9].map(|rows| run_in(|_| Phase::Generated, Activations::Bf16, isa, rows));
            assert!(bits(&one) == bits(&nine[..n]), "{isa} {codec}: a row alone");
            let off = error(&nine, &float);
            assert!(off < 1e-5, "{isa} {codec}, generated: {off:e}");
        }
    }
}
