//! Tokens per second of a model of the demo model's size, with weights of no meaning:
//! `cargo run --release -p keeve-cpu --example speed -- [CODEC] [THREADS] [PROMPT] [GENERATED]`.

#![allow(clippy::print_stdout)] // That is what it is for.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use keeve_codec::{Codec, EncodeOptions, PackedTensor, encode};
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{
    Backend, CompileOptions, Graph, LoadOptions, Phase, RowInput, SequenceRows, Step, Weights,
};

struct Random<'a> {
    graph: &'a Graph,
    codec: Codec,
}

impl Weights for Random<'_> {
    fn weight(&self, name: &str) -> Result<PackedTensor, Box<dyn Error + Send + Sync>> {
        let weight = self.graph.weights().iter().find(|weight| weight.name == name);
        let weight = weight.ok_or_else(|| format!("no {name}"))?;
        let mut seed = 1u32;
        let values: Vec<f32> = (0..weight.rows * weight.cols)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .map(|value| if weight.rows == 1 { 1.0 } else { value * 0.1 })
            .collect();
        let codec = if weight.rows == 1 { Codec::F32 } else { self.codec };
        Ok(encode(codec, weight.rows, weight.cols, &values, EncodeOptions::default())?.tensor)
    }
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut args = std::env::args().skip(1);
    let codec: Codec = args.next().unwrap_or_else(|| "q4_k".into()).parse()?;
    let mut number = |default: &str| args.next().unwrap_or_else(|| default.into()).parse::<usize>();
    let (threads, prompt, generated) = (number("2")?, number("512")?, number("64")?);
    let config = serde_json::json!({
        "model_type": "qwen3", "hidden_size": 512, "intermediate_size": 1536, "head_dim": 64,
        "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 10,
        "vocab_size": 8192, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": true,
        "max_position_embeddings": 2048,
    });
    let graph = Arc::new(keeve_models::build(&config)?.graph);
    let isa = Isa::choose()?;
    let cpu = Cpu::new(CpuOptions { threads, isa })?;
    let weights = Random { graph: &graph, codec };
    let program = cpu.load(graph.clone(), &weights, &LoadOptions::default())?;
    let options = CompileOptions { profile: true, ..CompileOptions::default() };
    let mut state = program.state(128)?;
    let pages: Vec<u32> = (0..128).collect();
    println!("{codec} {isa} threads={threads}");
    let step = |past: usize, count: usize| {
        let mut rows: Vec<_> = (past..past + count)
            .map(|at| RowInput::text(at as u32 * 7 % 8192, at as u32, Phase::Prompt))
            .collect();
        if let Some(last) = rows.last_mut() {
            last.logits = true;
        }
        let sequences = vec![SequenceRows { rows: 0..count, past, pages: &pages }];
        Step { rows, sequences, ..Step::default() }
    };
    for _ in 0..3 {
        let mut plan = program.compile(&options)?;
        let start = Instant::now();
        plan.run(&step(0, prompt), &mut *state, None)?;
        let speed = prompt as f64 / start.elapsed().as_secs_f64();
        println!("prompt of {prompt}: {speed:.0} tok/s");
        for row in plan.profile().iter().take(4) {
            println!("    {:16} {:6} calls {:9} us", row.op, row.calls, row.nanoseconds / 1000);
        }
        let mut plan = program.compile(&options)?;
        let start = Instant::now();
        for token in 0..generated {
            plan.run(&step(prompt + token, 1), &mut *state, None)?;
        }
        let speed = generated as f64 / start.elapsed().as_secs_f64();
        println!("generated {generated}: {speed:.0} tok/s");
        for row in plan.profile().iter().take(4) {
            println!("    {:16} {:6} calls {:9} us", row.op, row.calls, row.nanoseconds / 1000);
        }
    }
    Ok(())
}
