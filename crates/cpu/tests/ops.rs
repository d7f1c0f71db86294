//! The other operations against their definitions in `f64`, on every tier.
//!
//! Bound: each number is some ten roundings of 6e-8 away from the exact one; 1e-6 of the Frobenius
//! norm is above that and far below any mistake. Angles are compared as `f32` products, which is how
//! rotary embeddings are defined.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // These are tests.

mod common;

use common::{Named, Random, bits, error, given, load, run_once, tiers};
use keeve_codec::Codec;
use keeve_graph::{
    BinaryOp, CompileOptions, Graph, Phase, Rope, RowInput, SequenceRows, Step, Tap, UnaryOp,
    ValueId, Want,
};

const BOUND: f64 = 1e-6;

/// A graph that gives `build` of the rows.
fn graph(width: usize, build: impl FnOnce(&mut Graph, ValueId) -> ValueId) -> Graph {
    let mut graph = Graph::new();
    let x = graph.embed("table", 1, width).unwrap();
    let y = build(&mut graph, x);
    let rows = graph.select_rows(y, Want::Logits).unwrap();
    graph.output(Want::Logits, rows).unwrap();
    graph
}

fn weights(width: usize) -> Named {
    let mut weights = Named::default();
    weights.add("table", Codec::F32, 1, width, &vec![0.0; width]);
    weights
}

/// What the graph makes of `x`, on each tier, against `expected`.
fn check(what: &str, graph: &Graph, weights: &Named, x: &[f32], width: usize, expected: &[f64]) {
    let pages: Vec<u32> = (0..64).collect();
    for isa in tiers(what) {
        let program = load(isa, 2, graph, weights);
        let found = run_once(&*program, &given(x, width, &pages), 64).values.remove(0).2;
        let error = error(&found, expected);
        assert!(error < BOUND, "{isa} {what}: {error:e}");
    }
}

#[test]
fn rms_norm_of_rows_and_of_heads() {
    let mut random = Random(51);
    for (width, length) in [(96, 96), (96, 32), (70, 7), (33, 33)] {
        let mut weights = weights(width);
        let gain = random.values(length);
        weights.add("norm.weight", Codec::F16, 1, length, &gain);
        let mut stored = vec![0.0; length];
        keeve_codec::row_values(&weights.0["norm.weight"], 0, &mut stored);
        let x = random.values(9 * width);
        let mut expected = vec![];
        for run in x.chunks_exact(length) {
            let mean = run.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / length as f64;
            let factor = 1.0 / (mean + f64::from(1e-3f32)).sqrt();
            expected.extend(
                run.iter().zip(&stored).map(|(x, gain)| f64::from(*x) * factor * f64::from(*gain)),
            );
        }
        let graph = graph(width, |graph, x| graph.rms_norm(x, "norm", length, 1e-3).unwrap());
        check("rms_norm", &graph, &weights, &x, width, &expected);
    }
}

#[test]
fn layer_norm_of_rows_and_of_runs() {
    let mut random = Random(55);
    for (width, length) in [(96, 96), (96, 32), (70, 7), (33, 33)] {
        let mut weights = weights(width);
        let (gain, bias) = (random.values(length), random.values(length));
        weights.add("norm.weight", Codec::F32, 1, length, &gain);
        weights.add("norm.bias", Codec::F32, 1, length, &bias);
        // Away from zero, so that it matters what is subtracted first.
        let x: Vec<_> = random.values(9 * width).iter().map(|x| x + 3.0).collect();
        let mut expected = vec![];
        for run in x.chunks_exact(length) {
            let mean = run.iter().copied().map(f64::from).sum::<f64>() / length as f64;
            let squares = run.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
            let factor = 1.0 / (squares / length as f64 + f64::from(1e-3f32)).sqrt();
            expected.extend(run.iter().zip(gain.iter().zip(&bias)).map(|(x, (gain, bias))| {
                (f64::from(*x) - mean) * factor * f64::from(*gain) + f64::from(*bias)
            }));
        }
        let graph = graph(width, |graph, x| graph.layer_norm(x, "norm", length, 1e-3).unwrap());
        check("layer_norm", &graph, &weights, &x, width, &expected);
    }
}

#[test]
fn gains_may_be_one_plus_the_weight() {
    let mut weights = weights(2);
    weights.add("norm.weight", Codec::F32, 1, 2, &[0.5, -3.0]);
    let graph = graph(2, |graph, x| graph.rms_norm_one_plus(x, "norm", 2, 1.0).unwrap());
    // The mean of squares is 3, so both are halved.
    let x = [2f32.sqrt(), 2.0];
    check("rms_norm", &graph, &weights, &x, 2, &[0.75 * 2f64.sqrt(), -2.0]);
}

#[test]
fn rope_turns_each_pair_by_its_axis() {
    let mut random = Random(52);
    let frequencies = vec![1.0, 0.31, 0.1, 0.031, 0.01];
    let axes = vec![0, 1, 2, 0, 1];
    let rope = Rope { frequencies: frequencies.clone(), axes: axes.clone(), amplitude: 1.25 };
    let (heads, head_dim, n) = (3, 12, 5);
    let width = heads * head_dim;
    let graph = graph(width, |graph, x| {
        let table = graph.rope_table(rope).unwrap();
        graph.rope(x, table, head_dim).unwrap()
    });
    let x = random.values(6 * width);
    let positions: [[u32; 3]; 6] =
        [[0; 3], [1; 3], [2, 5, 9], [1000, 3, 77], [40_000, 1, 0], [7, 131_071, 8]];
    let mut expected: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    for (row, position) in expected.chunks_exact_mut(width).zip(positions) {
        for head in row.chunks_exact_mut(head_dim) {
            for i in 0..n {
                let angle = f64::from(position[usize::from(axes[i])] as f32 * frequencies[i]);
                let (low, high) = (head[i], head[i + n]);
                head[i] = 1.25 * (low * angle.cos() - high * angle.sin());
                head[i + n] = 1.25 * (high * angle.cos() + low * angle.sin());
            }
        }
    }
    for isa in tiers("rope") {
        let program = load(isa, 2, &graph, &weights(width));
        let mut step = given(&x, width, &[0]);
        for (row, position) in step.rows.iter_mut().zip(positions) {
            row.position = position;
        }
        let found = run_once(&*program, &step, 1).values.remove(0).2;
        let error = error(&found, &expected);
        assert!(error < BOUND, "{isa}: {error:e}");
    }
}

#[test]
fn unary_binary_and_scale() {
    let mut random = Random(53);
    // More values than one task takes, in rows that do not fill registers.
    for (width, rows) in [(1, 1), (37, 3), (130, 300)] {
        let x: Vec<_> = random.values(rows * width).iter().map(|x| 6.0 * x).collect();
        let exact = |function: &dyn Fn(f64) -> f64| -> Vec<f64> {
            x.iter().map(|x| function(f64::from(*x))).collect()
        };
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let gelu = |x: f64| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        };
        let run = |what: &str, graph: Graph, expected: Vec<f64>| {
            check(what, &graph, &weights(width), &x, width, &expected);
        };
        for (function, expected) in [
            (UnaryOp::Silu, exact(&silu)),
            (UnaryOp::GeluTanh, exact(&gelu)),
            (UnaryOp::Gelu, exact(&|x| 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())))),
            (UnaryOp::Tanh, exact(&f64::tanh)),
        ] {
            let what = format!("{function:?}");
            let in_place = graph(width, |graph, x| graph.unary(x, function).unwrap());
            run(&what, in_place, expected.clone());
            // Not in place: the operand is read again, on both sides of a sum.
            let (left, right) = (expected.iter().zip(&x), expected.iter().zip(&x));
            let sum: Vec<_> = left.map(|(y, x)| y + f64::from(*x)).collect();
            let product: Vec<_> = right.map(|(y, x)| y * f64::from(*x)).collect();
            for (op, expected) in [(BinaryOp::Add, sum), (BinaryOp::Mul, product)] {
                for swap in [false, true] {
                    let graph = graph(width, |graph, x| {
                        let y = graph.unary(x, function).unwrap();
                        let (a, b) = if swap { (y, x) } else { (x, y) };
                        graph.binary(a, b, op).unwrap()
                    });
                    run(&format!("{what} {op:?}"), graph, expected.clone());
                }
            }
        }
        run("x + x", graph(width, |graph, x| graph.add(x, x).unwrap()), exact(&|x| x + x));
        let square_kept = graph(width, |graph, x| {
            let square = graph.mul(x, x).unwrap();
            graph.add(square, x).unwrap()
        });
        run("x * x + x", square_kept, exact(&|x| x * x + x));
        let scaled = graph(width, |graph, x| {
            let scaled = graph.scale(x, -0.375).unwrap();
            graph.mul(scaled, x).unwrap()
        });
        run("scale", scaled, exact(&|x| -0.375 * x * x));
    }
}

/// Rows of a table, some of which the step gives instead.
#[test]
fn embeddings_take_the_place_of_ids() {
    let mut random = Random(54);
    let (vocabulary, width) = (11, 64);
    let mut weights = Named::default();
    weights.add("table", Codec::Q4_0, vocabulary, width, &random.values(vocabulary * width));
    let mut graph = Graph::new();
    let x = graph.embed("table", vocabulary, width).unwrap();
    for want in [Want::Logits, Want::Hidden] {
        let rows = graph.select_rows(x, want).unwrap();
        graph.output(want, rows).unwrap();
    }
    let images = random.values(2 * width);
    let images: Vec<_> = images.chunks_exact(width).collect();
    for isa in tiers("embed") {
        let program = load(isa, 2, &graph, &weights);
        // Ids of given rows are ignored, whatever they are.
        let ids = [3, u32::MAX, 10, 0, u32::MAX];
        let mut rows: Vec<_> = ids.iter().map(|&id| RowInput::text(id, 0, Phase::Prompt)).collect();
        rows[1].logits = true;
        rows[2].logits = true;
        rows[3].hidden = true;
        rows[4].logits = true;
        let sequences = vec![SequenceRows { rows: 0..5, past: 0, pages: &[0] }];
        let step = Step {
            rows,
            sequences,
            given: vec![(1, images[0]), (4, images[1])],
            ..Step::default()
        };
        let outputs = run_once(&*program, &step, 1);
        let stored = |row: usize| {
            let mut values = vec![0.0; width];
            keeve_codec::row_values(&weights.0["table"], row, &mut values);
            values
        };
        let logits: Vec<_> = outputs.rows(Want::Logits).map(bits).collect();
        assert_eq!(logits, [bits(images[0]), bits(&stored(10)), bits(images[1])], "{isa}");
        let hidden: Vec<_> = outputs.rows(Want::Hidden).map(bits).collect();
        assert_eq!(hidden, [bits(&stored(0))], "{isa}");
    }
}

/// Columns of given rows, and zeros where nothing is given: held, or made as they are read.
#[test]
fn given_columns_are_those_of_the_step() {
    let mut random = Random(56);
    let (width, more) = (20, 12);
    let mut weights = Named::default();
    weights.add("table", Codec::F32, 3, width, &random.values(3 * width));
    let mut graph = Graph::new();
    let x = graph.embed("table", 3, width).unwrap();
    let added = graph.given(width..width + more).unwrap();
    let first = graph.slice(x, 0..more).unwrap();
    let sum = graph.add(first, added).unwrap();
    for (want, value) in [(Want::Hidden, added), (Want::Logits, sum)] {
        let rows = graph.select_rows(value, want).unwrap();
        graph.output(want, rows).unwrap();
    }
    let image = random.values(width + more);
    for isa in tiers("given") {
        let program = load(isa, 2, &graph, &weights);
        let row =
            |id| RowInput { logits: true, hidden: true, ..RowInput::text(id, 0, Phase::Prompt) };
        let sequences = vec![SequenceRows { rows: 0..3, past: 0, pages: &[0] }];
        let step = Step {
            rows: [2, 7, 1].map(row).into(),
            sequences,
            given: vec![(1, &image)],
            ..Step::default()
        };
        let outputs = run_once(&*program, &step, 1);
        let hidden: Vec<_> = outputs.rows(Want::Hidden).collect();
        assert_eq!(hidden, [&vec![0.0; more][..], &image[width..], &vec![0.0; more]], "{isa}");
        let table = |id: usize| {
            let mut values = vec![0.0; width];
            keeve_codec::row_values(&weights.0["table"], id, &mut values);
            values[..more].to_vec()
        };
        let both = image[..more].iter().zip(&image[width..]).map(|(a, b)| a + b).collect();
        let logits: Vec<_> = outputs.rows(Want::Logits).map(<[f32]>::to_vec).collect();
        assert_eq!(logits, [table(2), both, table(1)], "{isa}");
    }
}

#[derive(Default)]
struct Seen(Vec<(ValueId, usize, Vec<f32>)>);

impl Tap for Seen {
    fn value(&mut self, value: ValueId, width: usize, data: &[f32]) {
        self.0.push((value, width, data.to_vec()));
    }
}

/// A chain whose operations share buffers: every value is seen as it was made.
#[test]
fn taps_see_values_that_are_overwritten_later() {
    let width = 5;
    let x: Vec<f32> = (0..15).map(|i| i as f32 - 7.0).collect();
    let mut values = vec![];
    let graph = graph(width, |graph, mut x| {
        for _ in 0..4 {
            values.push(x);
            x = graph.scale(x, 2.0).unwrap();
        }
        x
    });
    for isa in tiers("taps") {
        let program = load(isa, 2, &graph, &weights(width));
        let watched = vec![values[3], values[1]];
        let options = CompileOptions { taps: watched.clone(), ..CompileOptions::default() };
        let mut plan = program.compile(&options).unwrap();
        let mut state = program.state(1).unwrap();
        let mut seen = Seen::default();
        plan.run(&given(&x, width, &[0]), &mut *state, Some(&mut seen)).unwrap();
        let times = |by: f32| x.iter().map(|x| by * x).collect::<Vec<_>>();
        assert_eq!(seen.0, [(values[1], width, times(2.0)), (values[3], width, times(8.0))]);
        assert!(plan.profile().is_empty(), "nobody asked for a profile");
    }
}

#[test]
fn profiles_count_calls_and_bytes_by_codec() {
    let (width, n) = (256, 7);
    let mut weights = weights(width);
    let mut random = Random(55);
    let mut graph = Graph::new();
    let x = graph.embed("table", 1, width).unwrap();
    let rows = graph.select_rows(x, Want::Logits).unwrap();
    let mut sum = None;
    for (name, codec) in [("a", Codec::Q4K), ("b", Codec::Q4K), ("c", Codec::Q8_0)] {
        weights.add(&format!("{name}.weight"), codec, n, width, &random.values(n * width));
        let y = graph.linear(rows, name, n, false).unwrap();
        sum = Some(sum.map_or(y, |sum| graph.add(sum, y).unwrap()));
    }
    graph.output(Want::Logits, sum.unwrap()).unwrap();
    for isa in tiers("profile") {
        let program = load(isa, 1, &graph, &weights);
        let options = CompileOptions { profile: true, ..CompileOptions::default() };
        let mut plan = program.compile(&options).unwrap();
        let mut state = program.state(1).unwrap();
        let x = random.values(3 * width);
        plan.run(&given(&x, width, &[0]), &mut *state, None).unwrap();
        plan.run(&given(&x[..width], width, &[0]), &mut *state, None).unwrap();
        let mut quiet = given(&x, width, &[0]);
        quiet.rows.iter_mut().for_each(|row| row.logits = false);
        plan.run(&quiet, &mut *state, None).unwrap();
        let profile = plan.profile();
        let count = |op: &str| {
            let row = profile.iter().find(|row| row.op == op);
            row.map(|row| (row.calls, row.bytes))
        };
        let bytes = |name: &str| weights.0[name].bytes() as u64;
        assert_eq!(count("linear q4_k"), Some((2, 2 * bytes("a.weight"))), "{isa}");
        // Sums are made where their second products are.
        assert_eq!(count("linear + add q4_k"), Some((2, 2 * bytes("b.weight"))), "{isa}");
        assert_eq!(count("linear + add q8_0"), Some((2, 2 * bytes("c.weight"))), "{isa}");
        assert_eq!(count("embed"), Some((3, (3 + 1 + 3) * width as u64 * 4)));
        // Rows are selected where products read them.
        assert_eq!((count("select_rows"), count("binary")), (None, None));
        assert!(profile.windows(2).all(|pair| pair[0].nanoseconds >= pair[1].nanoseconds));
        assert!(profile.iter().all(|row| row.nanoseconds > 0));
    }
}

#[test]
fn slices_scaled_rows_and_rounded_rows() {
    let mut random = Random(58);
    let (width, rows) = (70, 9);
    let x = random.values(rows * width);
    let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    let sliced = graph(width, |graph, x| graph.slice(x, 7..40).unwrap());
    let expected: Vec<f64> = x.chunks_exact(width).flat_map(|row| wide(&row[7..40])).collect();
    check("slice", &sliced, &weights(width), &x, width, &expected);

    let scaled = graph(width, |graph, x| {
        let by = graph.slice(x, 3..4).unwrap();
        graph.scale_rows(x, by).unwrap()
    });
    let times = |row: &[f32]| wide(row).iter().map(|x| x * f64::from(row[3])).collect::<Vec<_>>();
    let expected: Vec<f64> = x.chunks_exact(width).flat_map(times).collect();
    check("scale_rows", &scaled, &weights(width), &x, width, &expected);

    let rounded = graph(width, |graph, x| graph.round_rows(x).unwrap());
    let round = |row: &[f32]| {
        let largest = row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = 127.0 / largest;
        row.iter().map(|x| f64::from((x * scale).round_ties_even() / scale)).collect::<Vec<_>>()
    };
    let expected: Vec<f64> = x.chunks_exact(width).flat_map(round).collect();
    check("round_rows", &rounded, &weights(width), &x, width, &expected);
}

#[test]
fn sigmoid_and_squared_relu() {
    let mut random = Random(59);
    let x: Vec<f32> = random.values(300).iter().map(|x| x * 20.0).collect();
    for (function, exact) in [
        (UnaryOp::Sigmoid, (|x| 1.0 / (1.0 + (-x).exp())) as fn(f64) -> f64),
        (UnaryOp::SquaredRelu, |x| x.max(0.0) * x.max(0.0)),
    ] {
        let graph = graph(30, |graph, x| graph.unary(x, function).unwrap());
        let expected: Vec<f64> = x.iter().map(|x| exact(f64::from(*x))).collect();
        check(&format!("{function:?}"), &graph, &weights(30), &x, 30, &expected);
    }
}
