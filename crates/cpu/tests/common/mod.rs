//! What the tests share: random numbers, weights from memory, and running a graph once.

#![allow(dead_code)] // Each test binary uses a part.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use keeve_codec::{Codec, EncodeOptions, PackedTensor, encode};
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{
    Activations, Backend, Graph, LoadOptions, Outputs, Phase, ProductRule, Program, RowInput,
    SequenceRows, Step, Weights,
};

/// Numbers that are the same on every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        // A 64-bit linear congruential generator with Knuth's MMIX constants.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// Numbers between -1 and 1.
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next() as f32 / (1u64 << 31) as f32 - 1.0).collect()
    }
}

/// Weights by name.
#[derive(Default)]
pub struct Named(pub HashMap<String, PackedTensor>);

impl Named {
    pub fn add(&mut self, name: &str, codec: Codec, rows: usize, cols: usize, values: &[f32]) {
        let encoded = encode(codec, rows, cols, values, EncodeOptions::default());
        self.0.insert(name.into(), encoded.expect("weights that can be encoded").tensor);
    }

    /// The weight of a graph: a vector, a matrix or a stack of experts' matrices.
    pub fn add_for(&mut self, weight: &keeve_graph::Weight, codec: Codec, values: &[f32]) {
        let experts = weight.experts.unwrap_or(1);
        self.add(&weight.name, codec, experts * weight.rows, weight.cols, values);
        if weight.experts.is_some() {
            let (rows, cols) = (weight.rows, weight.cols);
            let parts = self.0[&weight.name].parts().clone();
            let stack = PackedTensor::new(codec, experts, rows, cols, parts).expect("a stack");
            self.0.insert(weight.name.clone(), stack);
        }
    }
}

impl Weights for Named {
    fn weight(&self, name: &str) -> Result<PackedTensor, Box<dyn Error + Send + Sync>> {
        self.0.get(name).cloned().ok_or_else(|| format!("there is no tensor {name}").into())
    }
}

/// The tiers that this machine has; prints them.
pub fn tiers(test: &str) -> Vec<Isa> {
    let tiers: Vec<_> = Isa::found().collect();
    println!("{test}: {}", tiers.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "));
    tiers
}

pub fn load(isa: Isa, threads: usize, graph: &Graph, weights: &Named) -> Box<dyn Program> {
    load_with(Activations::Float, isa, threads, graph, weights)
}

pub fn load_with(
    activations: Activations,
    isa: Isa,
    threads: usize,
    graph: &Graph,
    weights: &Named,
) -> Box<dyn Program> {
    load_by(ProductRule::Mode(activations), isa, threads, graph, weights)
}

/// The same with products by a rule. What [`Activations::Auto`] is differs from machine to machine: tests that compare
/// tiers name its schemes.
pub fn load_by(
    rule: ProductRule,
    isa: Isa,
    threads: usize,
    graph: &Graph,
    weights: &Named,
) -> Box<dyn Program> {
    let cpu = Cpu::new(CpuOptions { threads, isa }).expect("a CPU");
    let activations = match rule {
        ProductRule::Mode(mode) => mode,
        ProductRule::Scheme(_) => Activations::Auto,
    };
    let products = |_: &str| rule;
    let options = LoadOptions { activations, products: Some(&products), ..LoadOptions::default() };
    cpu.load(Arc::new(graph.clone()), weights, &options).expect("a program")
}

/// A step of one sequence without a past, whose rows are given as embeddings and want logits.
pub fn given<'a>(x: &'a [f32], width: usize, pages: &'a [u32]) -> Step<'a> {
    let embeddings: Vec<_> = x.chunks_exact(width).enumerate().collect();
    let row = |position| RowInput { logits: true, ..RowInput::text(0, position, Phase::Prompt) };
    let rows: Vec<_> = (0..embeddings.len() as u32).map(row).collect();
    let sequences = vec![SequenceRows { rows: 0..rows.len(), past: 0, pages }];
    Step { rows, sequences, given: embeddings, ..Step::default() }
}

/// Runs one step in fresh state.
pub fn run_once(program: &dyn Program, step: &Step<'_>, pages: usize) -> Outputs {
    let mut plan = program.compile(&Default::default()).expect("a plan");
    let mut state = program.state(pages).expect("memory");
    plan.run(step, &mut *state, None).expect("a step that fits")
}

/// `|found - expected| / |expected|`, Frobenius.
pub fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    let difference: f64 = pairs.map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let size: f64 = expected.iter().map(|b| b * b).sum();
    if difference == 0.0 { 0.0 } else { (difference / size).sqrt() }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
