//! Mixtures of experts against their definition in `f64`, on every tier, and what they read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // These are tests.

mod common;

use common::{Named, Random, error, given, load, load_with, run_once, tiers};
use keeve_codec::{Codec, row_values};
use keeve_cpu::Isa;
use keeve_graph::{Activations, CompileOptions, Graph, Step, UnaryOp, Want};

const EXPERTS: usize = 6;
const CHOSEN: usize = 3;
const HIDDEN: usize = 256;
const WIDTH: usize = 64;

/// What a layer of experts makes of the rows that a step gives.
fn graph(normalize: bool) -> Graph {
    let mut graph = Graph::new();
    let x = graph.embed("table", 1, HIDDEN).unwrap();
    let scores = graph.linear(x, "gate", EXPERTS, false).unwrap();
    let router = graph.router(scores, CHOSEN, normalize).unwrap();
    let up = graph.expert_linear((x, false), router, "up", WIDTH).unwrap();
    let up = graph.unary(up, UnaryOp::Silu).unwrap();
    let down = graph.expert_linear((up, true), router, "down", HIDDEN).unwrap();
    let sum = graph.expert_sum(down, router).unwrap();
    let rows = graph.select_rows(sum, Want::Logits).unwrap();
    graph.output(Want::Logits, rows).unwrap();
    graph
}

fn weights(graph: &Graph, codec: Codec, random: &mut Random) -> Named {
    let mut weights = Named::default();
    for weight in graph.weights() {
        let values: Vec<f32> =
            random.values(weight.values() as usize).iter().map(|value| value * 0.2).collect();
        // Rows of the second product are shorter than the blocks of some codecs.
        let codec = if weight.name == "up.weight" { codec } else { Codec::F32 };
        weights.add_for(weight, codec, &values);
    }
    weights
}

/// `x . rows`, for each row of a matrix.
fn products(x: &[f64], matrix: &[f32]) -> Vec<f64> {
    let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
    matrix.chunks_exact(x.len()).map(dot).collect()
}

fn expected(weights: &Named, x: &[f32], normalize: bool) -> Vec<f64> {
    let matrix = |name: &str| {
        let tensor = &weights.0[name];
        let mut values = vec![0.0; tensor.len()];
        for (index, row) in values.chunks_exact_mut(tensor.cols()).enumerate() {
            row_values(tensor, index, row);
        }
        values
    };
    let (gate, up, down) = (matrix("gate.weight"), matrix("up.weight"), matrix("down.weight"));
    let mut all = vec![];
    for x in x.chunks_exact(HIDDEN) {
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let scores: Vec<f64> = products(&x, &gate).iter().map(|score| score.exp()).collect();
        let total: f64 = scores.iter().sum();
        let mut order: Vec<usize> = (0..EXPERTS).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let chosen = &order[..CHOSEN];
        let of_chosen: f64 = chosen.iter().map(|expert| scores[*expert]).sum();
        let divisor = if normalize { of_chosen } else { total };
        let mut out = vec![0.0; HIDDEN];
        for &expert in chosen {
            let part = |all: &[f32]| {
                let length = all.len() / EXPERTS;
                all[expert * length..(expert + 1) * length].to_vec()
            };
            let inner = products(&x, &part(&up));
            let inner: Vec<f64> = inner.iter().map(|x| x / (1.0 + (-x).exp())).collect();
            let weight = scores[expert] / divisor;
            for (out, value) in out.iter_mut().zip(products(&inner, &part(&down))) {
                *out += weight * value;
            }
        }
        all.extend(out);
    }
    all
}

#[test]
fn every_row_gets_the_weighted_sum_of_its_experts() {
    let mut random = Random(71);
    let pages: Vec<u32> = (0..8).collect();
    for codec in ["f32", "bf16", "q4_k", "q6_k", "q8_0", "affine4-g64", "mxfp4", "int8", "iq4_xs"] {
        let codec: Codec = codec.parse().unwrap();
        for (rows, normalize) in [(1, true), (2, false), (37, true)] {
            let graph = graph(normalize);
            let weights = weights(&graph, codec, &mut random);
            let x = random.values(rows * HIDDEN);
            let expected = expected(&weights, &x, normalize);
            for isa in tiers("experts") {
                let program = load(isa, 2, &graph, &weights);
                let step = given(&x, HIDDEN, &pages);
                let found = run_once(&*program, &step, 8).values.remove(0).2;
                let error = error(&found, &expected);
                assert!(error < 1e-5, "{isa} {codec} {rows} rows: {error:e}");
            }
        }
    }
}

/// The bytes that products with experts count for one step.
fn bytes(
    activations: Activations,
    isa: Isa,
    graph: &Graph,
    weights: &Named,
    step: &Step<'_>,
) -> u64 {
    let program = load_with(activations, isa, 1, graph, weights);
    let options = CompileOptions { profile: true, ..CompileOptions::default() };
    let mut plan = program.compile(&options).unwrap();
    let mut state = program.state(8).unwrap();
    plan.run(step, &mut *state, None).unwrap();
    let profile = plan.profile();
    let of_experts = profile.iter().filter(|row| row.op.starts_with("expert_linear"));
    of_experts.map(|row| row.bytes).sum()
}

#[test]
fn one_row_reads_its_experts_only() {
    let mut random = Random(72);
    let graph = graph(true);
    let weights = weights(&graph, "q8_0".parse().unwrap(), &mut random);
    let stack = |name: &str| weights.0[name].bytes() as u64;
    let all = stack("up.weight") + stack("down.weight");
    let (one, many) = (random.values(HIDDEN), random.values(64 * HIDDEN));
    let pages: Vec<u32> = (0..8).collect();
    for isa in tiers("bytes of experts") {
        let count = |x: &[f32], activations| {
            bytes(activations, isa, &graph, &weights, &given(x, HIDDEN, &pages))
        };
        assert_eq!(count(&one, Activations::Float) * EXPERTS as u64, all * CHOSEN as u64);
        // Every expert is chosen by one of so many rows, and read once.
        assert_eq!(count(&many, Activations::Float), all);
        let packed = count(&many, Activations::Int8);
        assert_eq!(count(&one, Activations::Int8) * EXPERTS as u64, packed * CHOSEN as u64);
    }
}

#[test]
fn stacks_of_another_size_are_refused() {
    let graph = graph(true);
    let mut weights = weights(&graph, Codec::F32, &mut Random(73));
    let stack = &weights.0["up.weight"];
    let parts = keeve_codec::Parts::data(stack.parts().data[..4 * WIDTH * HIDDEN * 4].to_vec());
    let fewer = keeve_codec::PackedTensor::new(Codec::F32, 4, WIDTH, HIDDEN, parts).unwrap();
    weights.0.insert("up.weight".into(), fewer);
    let cpu = keeve_cpu::Cpu::new(keeve_cpu::CpuOptions { threads: 1, isa: Isa::Scalar }).unwrap();
    let loaded = keeve_graph::Backend::load(
        &cpu,
        std::sync::Arc::new(graph),
        &weights,
        &keeve_graph::LoadOptions::default(),
    );
    let error = loaded.err().unwrap().to_string();
    assert!(error.contains("up.weight") && error.contains("4 experts, expected 6"), "{error}");
}
