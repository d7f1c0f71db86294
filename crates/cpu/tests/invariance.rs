//! Row invariance: the logits of a sequence have the same bits however its rows are cut into steps,
//! whatever runs beside them, and on any number of threads; with float activations as with quantized ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // These are tests.

mod common;

use common::{Named, Random, bits, load_with, tiers};
use keeve_codec::Codec;
use keeve_cpu::Isa;
use keeve_graph::{Activations, Graph, Phase, Program, RowInput, SequenceRows, Step, Want};

const TOKENS: usize = 70;
const VOCABULARY: usize = 97;
const ACTIVATIONS: [Activations; 4] =
    [Activations::Float, Activations::Bf16, Activations::Int8, Activations::Auto];

fn model(architecture: &str) -> (Graph, Named) {
    let config = serde_json::json!({
        "model_type": architecture, "hidden_size": 256, "intermediate_size": 512, "head_dim": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
        "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "tie_word_embeddings": true, "max_position_embeddings": 256,
        "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
    });
    let graph = keeve_models::build(&config).unwrap().graph;
    let codecs: Vec<Codec> =
        ["q4_k", "q6_k", "affine4-g64", "int8", "q8_0", "affine8-g32-f16", "q3_k", "bf16"]
            .map(|name| name.parse().unwrap())
            .to_vec();
    let mut weights = Named::default();
    let mut random = Random(31);
    for (index, weight) in graph.weights().iter().enumerate() {
        let mut values = random.values(weight.values() as usize);
        let codec = if weight.rows == 1 { Codec::F32 } else { codecs[index % codecs.len()] };
        values.iter_mut().for_each(|value| *value *= if weight.rows == 1 { 1.0 } else { 0.2 });
        weights.add_for(weight, codec, &values);
    }
    (graph, weights)
}

fn ids(seed: u64, count: usize) -> Vec<u32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.next() % VOCABULARY as u32).collect()
}

/// The phase of a token: as if every sequence had been prompted twice.
fn phase(at: usize) -> Phase {
    if (20..31).contains(&at) || at >= 50 { Phase::Generated } else { Phase::Prompt }
}

/// A sequence and how many of its tokens each step takes.
struct Run {
    ids: Vec<u32>,
    pages: Vec<u32>,
    chunk: usize,
}

/// Runs sequences side by side to their ends; gives the logits of all rows of the first.
fn logits(program: &dyn Program, runs: &[Run]) -> Vec<f32> {
    let mut plan = program.compile(&Default::default()).unwrap();
    let mut state = program.state(16).unwrap();
    let mut done = vec![0; runs.len()];
    let mut logits = vec![];
    while done[0] < runs[0].ids.len() {
        let mut step = Step::default();
        // The first sequence comes last, so that it is not where the rows begin.
        for (index, run) in runs.iter().enumerate().rev() {
            let (past, start) = (done[index], step.rows.len());
            let tokens = past..(past + run.chunk).min(run.ids.len());
            if tokens.is_empty() {
                continue;
            }
            done[index] = tokens.end;
            step.rows.extend(tokens.map(|at| RowInput {
                logits: index == 0,
                ..RowInput::text(run.ids[at], at as u32, phase(at))
            }));
            let rows = start..step.rows.len();
            step.sequences.push(SequenceRows { rows, past, pages: &run.pages });
        }
        let mut outputs = plan.run(&step, &mut *state, None).unwrap();
        logits.extend(outputs.take(Want::Logits).unwrap().1);
    }
    logits
}

#[test]
fn chunks_batches_and_threads_change_no_bit() {
    check_invariance("qwen3", &ACTIVATIONS);
}

#[test]
fn nor_do_they_where_rows_choose_experts() {
    check_invariance("qwen3_moe", &[Activations::Float, Activations::Auto]);
}

fn check_invariance(architecture: &str, activations: &[Activations]) {
    let (graph, weights) = model(architecture);
    let tiers = tiers("row invariance");
    let modes = tiers.into_iter().flat_map(|isa| activations.iter().map(move |&mode| (isa, mode)));
    for (isa, activations) in modes {
        let load = |threads| load_with(activations, isa, threads, &graph, &weights);
        let run = |chunk: usize| Run { ids: ids(41, TOKENS), pages: vec![3, 9, 4], chunk };
        let whole = logits(&*load(1), &[run(TOKENS)]);
        assert_eq!(whole.len(), TOKENS * VOCABULARY);
        assert!(whole.iter().all(|value| value.is_finite()));
        let distinct: std::collections::HashSet<_> = bits(&whole).into_iter().collect();
        assert!(
            distinct.len() > whole.len() / 2,
            "{isa} {activations:?}: the logits hardly differ"
        );
        let same = |what: String, found: Vec<f32>| {
            assert!(bits(&found) == bits(&whole), "{isa} {activations:?}: {what} gives other bits");
        };
        let program = load(2);
        // The scalar tier multiplies quantized rows by the sixteen, which takes its time.
        let slow = isa == Isa::Scalar && activations != Activations::Float;
        for chunk in if slow { vec![7] } else { vec![1, 2, 3, 7] } {
            same(format!("chunks of {chunk}"), logits(&*program, &[run(chunk)]));
        }
        let elsewhere = Run { pages: vec![15, 0, 1], ..run(33) };
        same("other pages".into(), logits(&*program, &[elsewhere]));
        let beside = |seed, count, pages: &[u32], chunk| Run {
            ids: ids(seed, count),
            pages: pages.to_vec(),
            chunk,
        };
        for chunk in if slow { vec![TOKENS] } else { vec![5, TOKENS] } {
            let others = [
                run(chunk),
                beside(42, 50, &[0, 1], 1),
                beside(43, 90, &[5, 6, 7], 11),
                beside(44, 3, &[8], 3),
            ];
            same(format!("a batch by {chunk}"), logits(&*program, &others));
        }
        for threads in if slow { vec![3] } else { vec![2, 3, 5] } {
            let program = load(threads);
            same(format!("{threads} threads"), logits(&*program, &[run(TOKENS)]));
            same(format!("{threads} threads, chunks of 7"), logits(&*program, &[run(7)]));
        }
    }
}

#[test]
fn tiers_agree() {
    let (graph, weights) = model("qwen3");
    let run = || [Run { ids: ids(41, TOKENS), pages: vec![3, 9, 4], chunk: TOKENS }];
    let tiers = tiers("whole model");
    let [float, ..] = ACTIVATIONS.map(|activations| {
        let load = |isa| load_with(activations, isa, 2, &graph, &weights);
        let oracle: Vec<_> =
            logits(&*load(Isa::Scalar), &run()).into_iter().map(f64::from).collect();
        for &isa in &tiers {
            // Two layers of f32 sums in another order, in a model that amplifies little. Products of
            // quantized activations have the same bits, but what a tier makes of the values between
            // them may round to another code, a 127th of the largest of its neighbours away, or (in
            // attention, whose keys, values and weights are rounded too) to another bf16.
            let bound = if activations == Activations::Float { 1e-5 } else { 2e-2 };
            let error = common::error(&logits(&*load(isa), &run()), &oracle);
            println!("{isa} {activations:?}: {error:.1e} from the oracle");
            assert!(error < bound, "{isa} {activations:?}: {error:e}");
        }
        oracle
    });
    for activations in [Activations::Int8, Activations::Auto] {
        let program = load_with(activations, Isa::Scalar, 2, &graph, &weights);
        let error = common::error(&logits(&*program, &run()), &float);
        assert!((1e-4..5e-2).contains(&error), "{activations:?}: {error:e} from float");
    }
}
