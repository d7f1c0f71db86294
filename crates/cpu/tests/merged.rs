//! Values that are made where they are read, and not held, change no bit: against plans that hold every
//! value, because all of them are watched.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // These are tests.

mod common;

use common::{Named, Random, bits, load_with, tiers};
use keeve_codec::Codec;
use keeve_graph::{
    Activations, CompileOptions, Graph, OpProfile, Phase, Program, RowInput, Rows, SequenceRows,
    Step, Tap, ValueId, Want,
};
use serde_json::{Value, json};

const VOCABULARY: usize = 50;

fn configs() -> [Value; 4] {
    let with = |more: Value| {
        let mut config = json!({
            "hidden_size": 256, "intermediate_size": 512, "head_dim": 32, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": VOCABULARY,
            "rms_norm_eps": 1e-6, "rope_theta": 1e4, "max_position_embeddings": 256,
        });
        let (all, more) = (config.as_object_mut().unwrap(), more.as_object().unwrap());
        all.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
        config
    };
    [
        with(json!({ "model_type": "qwen3", "tie_word_embeddings": true })),
        with(json!({ "model_type": "qwen2", "tie_word_embeddings": false })),
        with(json!({ "model_type": "llama", "tie_word_embeddings": false })),
        with(json!({
            "model_type": "gemma3_text", "query_pre_attn_scalar": 32, "sliding_window": 16,
            "hidden_activation": "gelu_pytorch_tanh",
        })),
    ]
}

fn weights(graph: &Graph, codec: Codec) -> Named {
    let mut weights = Named::default();
    let mut random = Random(31);
    for weight in graph.weights() {
        let mut values = random.values(weight.rows * weight.cols);
        let codec = if weight.rows == 1 || weight.cols % 256 != 0 { Codec::F32 } else { codec };
        values.iter_mut().for_each(|value| *value *= if weight.rows == 1 { 1.0 } else { 0.2 });
        weights.add(&weight.name, codec, weight.rows, weight.cols, &values);
    }
    weights
}

/// Sees everything, and keeps nothing.
struct Watch(usize);

impl Tap for Watch {
    fn value(&mut self, _: ValueId, width: usize, data: &[f32]) {
        assert!(data.len().is_multiple_of(width));
        self.0 += 1;
    }
}

/// Logits of a step of prompt rows, one of both phases and one of generated rows; how many values were
/// seen, and the profile.
fn logits(program: &dyn Program, taps: Vec<ValueId>) -> (Vec<f32>, usize, Vec<OpProfile>) {
    let options = CompileOptions { taps, profile: true, ..CompileOptions::default() };
    let mut plan = program.compile(&options).unwrap();
    let mut state = program.state(16).unwrap();
    let (mut all, mut watch, mut past) = (vec![], Watch(0), 0);
    let mut random = Random(3);
    for (prompt, generated) in [(40, 0), (7, 5), (0, 1), (0, 3)] {
        let row = |index: usize, id: u32| {
            let phase = if index < prompt { Phase::Prompt } else { Phase::Generated };
            let text = RowInput::text(id % VOCABULARY as u32, (past + index) as u32, phase);
            RowInput { logits: index % 3 != 1, ..text }
        };
        let count = prompt + generated;
        let step = Step {
            rows: (0..count).map(|index| row(index, random.next())).collect(),
            sequences: vec![SequenceRows { rows: 0..count, past, pages: &[3, 9, 4] }],
            ..Step::default()
        };
        past += count;
        let mut outputs = plan.run(&step, &mut *state, Some(&mut watch)).unwrap();
        all.extend(outputs.take(Want::Logits).unwrap().1);
    }
    (all, watch.0, plan.profile())
}

#[test]
fn plans_that_hold_everything_give_the_same_bits() {
    let tiers = tiers("merged");
    let hidden = Rows::Wanted(Want::Hidden);
    for config in configs() {
        let graph = keeve_models::build(&config).unwrap().graph;
        for (codec, activations) in [
            ("q4_k", Activations::Auto),
            ("int8", Activations::Int8),
            ("bf16", Activations::Auto),
            ("q4_k", Activations::Float),
        ] {
            let weights = weights(&graph, codec.parse().unwrap());
            for &isa in &tiers {
                let what = format!("{isa} {codec} {activations:?} {config}");
                let program = load_with(activations, isa, 2, &graph, &weights);
                let (expected, seen, profile) = logits(&*program, graph.values().collect());
                let ran = graph.nodes().iter().filter(|node| node.shape.rows != hidden);
                assert_eq!(seen, 4 * ran.count(), "{what}");
                assert!(expected.iter().all(|value| value.is_finite()));
                let (found, seen, merged) = logits(&*program, vec![]);
                assert_eq!(seen, 0);
                assert!(bits(&found) == bits(&expected), "{what}");
                // Something is in fact left out.
                let calls =
                    |profile: &[OpProfile]| profile.iter().map(|row| row.calls).sum::<u64>();
                assert!(calls(&merged) < calls(&profile), "{what}");
            }
        }
    }
}
