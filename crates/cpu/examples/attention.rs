//! Times of attention alone, at the shape of Qwen3-0.6B (16 heads, 8 of keys, 128 numbers each, queries and
//! keys normalized and turned), and what part of the machine's read bandwidth generated rows get out of keys
//! and values: `cargo run --release -p keeve-cpu --example attention -- [float|auto] [KV_CODEC] [THREADS]
//! [ROWS]`; with ROWS only prompts of so many, without other tokens before them.

#![allow(clippy::print_stdout)] // That is what it is for.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use keeve_codec::{Codec, EncodeOptions, PackedTensor, encode};
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{
    Activations, Attention, Backend, CompileOptions, Graph, KvCodec, LoadOptions, Phase, Plan,
    Program, Rope, RowInput, SequenceRows, Slot, State, Step, Want, Weights,
};

const HEADS: usize = 16;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
/// Width of the given that queries, keys and values are made of: any will do.
const WIDTH: usize = 64;
const VOCABULARY: usize = 4096;
/// Enough for keys and values not to stay in the second level of cache from one token to the next.
const LAYERS: usize = 28;
const RUNS: usize = 15;

/// Weights of no meaning.
struct Random<'a>(&'a Graph);

impl Weights for Random<'_> {
    fn weight(&self, name: &str) -> Result<PackedTensor, Box<dyn Error + Send + Sync>> {
        let weight = self.0.weights().iter().find(|weight| weight.name == name);
        let weight = weight.ok_or_else(|| format!("no {name}"))?;
        let mut seed = 1u32;
        let values: Vec<f32> = (0..weight.rows * weight.cols)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        let options = EncodeOptions::default();
        Ok(encode(Codec::F32, weight.rows, weight.cols, &values, options)?.tensor)
    }
}

/// Layers of nothing but attention, without products but those that queries, keys and values are of.
fn graph() -> Result<Graph, Box<dyn Error + Send + Sync>> {
    let mut graph = Graph::new();
    let x = graph.embed("table", VOCABULARY, WIDTH)?;
    let rope = graph.rope_table(Rope {
        frequencies: (0..HEAD_DIM / 2).map(|i| (-(i as f32) / 5.0).exp()).collect(),
        axes: vec![0; HEAD_DIM / 2],
        amplitude: 1.0,
    })?;
    let spec = Attention {
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        scale: 1.0 / (HEAD_DIM as f32).sqrt(),
        window: None,
        soft_cap: None,
        causal: true,
    };
    let mut sum = None;
    for _ in 0..LAYERS {
        let state = graph.state(Slot::Paged { kv_heads: KV_HEADS, head_dim: HEAD_DIM });
        let q = graph.linear(x, "q", HEADS * HEAD_DIM, false)?;
        let q = graph.rms_norm(q, "q_norm", HEAD_DIM, 1e-6)?;
        let q = graph.rope(q, rope, HEAD_DIM)?;
        let k = graph.linear(x, "k", KV_HEADS * HEAD_DIM, false)?;
        let k = graph.rms_norm(k, "k_norm", HEAD_DIM, 1e-6)?;
        let k = graph.rope(k, rope, HEAD_DIM)?;
        let v = graph.linear(x, "v", KV_HEADS * HEAD_DIM, false)?;
        let (y, _) = graph.attention((q, k, v), state, spec)?;
        sum = Some(match sum {
            Some(sum) => graph.add(sum, y)?,
            None => y,
        });
    }
    let wanted = graph.select_rows(sum.ok_or("no layers")?, Want::Logits)?;
    graph.output(Want::Logits, wanted)?;
    Ok(graph)
}

/// What one layer took.
struct Taken {
    /// Milliseconds of attention, keys and values appended.
    attention: f64,
    /// Milliseconds of turning queries, where that is done apart.
    turning: f64,
    /// Bytes of keys and values that attention read.
    bytes: f64,
}

/// What a layer takes when `count` tokens follow `past` ones, several times.
fn measure(
    program: &dyn Program,
    state: &mut dyn State,
    phase: Phase,
    past: usize,
    count: usize,
    runs: usize,
) -> Result<Vec<Taken>, Box<dyn Error + Send + Sync>> {
    let pages: Vec<u32> = (0..(past + count).div_ceil(program.page_tokens()) as u32).collect();
    let rows = (past..past + count)
        .map(|at| RowInput::text((at * 7 % VOCABULARY) as u32, at as u32, phase))
        .collect();
    let sequences = vec![SequenceRows { rows: 0..count, past, pages: &pages }];
    let step = Step { rows, sequences, ..Step::default() };
    let options = CompileOptions { profile: true, ..CompileOptions::default() };
    let mut plan = program.compile(&options)?;
    let total = |plan: &dyn Plan, op: &str| {
        let profile = plan.profile();
        let row = profile.iter().find(|row| row.op == op);
        row.map_or((0.0, 0.0), |row| (row.nanoseconds as f64 / 1e6, row.bytes as f64))
    };
    let mut taken = vec![];
    // The first comes to memory that the system has yet to give.
    for run in 0..=runs {
        let (attention, bytes) = total(&*plan, "attention");
        let (turning, _) = total(&*plan, "rope");
        plan.run(&step, state, None)?;
        let (attention_now, bytes_now) = total(&*plan, "attention");
        let (turning_now, _) = total(&*plan, "rope");
        if run > 0 {
            taken.push(Taken {
                attention: (attention_now - attention) / LAYERS as f64,
                turning: (turning_now - turning) / LAYERS as f64,
                bytes: (bytes_now - bytes) / LAYERS as f64,
            });
        }
    }
    Ok(taken)
}

/// The smallest, middle and largest of several numbers.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

/// Bytes per second that `threads` threads read of memory that no cache holds; the best of five.
fn bandwidth(threads: usize) -> f64 {
    let memory = vec![1u64; (2 << 30) / size_of::<u64>()];
    let pass = || {
        let start = Instant::now();
        let sum: u64 = std::thread::scope(|scope| {
            let parts = memory.chunks(memory.len().div_ceil(threads));
            let sums = parts.map(|part| scope.spawn(move || part.iter().sum::<u64>()));
            let sums: Vec<_> = sums.collect();
            sums.into_iter().filter_map(|sum| sum.join().ok()).sum()
        });
        assert_eq!(sum, memory.len() as u64);
        size_of_val(&*memory) as f64 / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| pass()).fold(0.0, f64::max)
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut args = std::env::args().skip(1);
    let activations = match args.next().as_deref() {
        None | Some("auto") => Activations::Auto,
        Some("float") => Activations::Float,
        Some(other) => return Err(format!("'{other}' is neither float nor auto").into()),
    };
    let kv_codec = args.next().map(|name| name.parse::<KvCodec>()).transpose()?;
    let threads = args.next().map_or(Ok(2), |count| count.parse())?;
    let rows = args.next().map(|count| count.parse::<usize>()).transpose()?;
    let isa = Isa::choose()?;
    let options = LoadOptions { activations, kv_codec, ..LoadOptions::default() };
    let graph = Arc::new(graph()?);
    let cpu = Cpu::new(CpuOptions { threads, isa })?;
    let program = cpu.load(graph.clone(), &Random(&graph), &options)?;
    let mut state = program.state(8192 / program.page_tokens() + 1)?;
    let read = if rows.is_none() { bandwidth(threads) } else { f64::NAN };
    let name = options.chosen_kv_codec();
    println!("{isa} {activations:?} {name} threads={threads}, memory reads {:.1} GB/s", read / 1e9);
    println!("of one layer, ms: min / median / max of {RUNS}");
    let all = [
        (Phase::Prompt, 0, 128),
        (Phase::Prompt, 0, 512),
        (Phase::Prompt, 512, 512),
        (Phase::Prompt, 1024, 512),
        (Phase::Prompt, 1536, 512),
        (Phase::Generated, 512, 1),
        (Phase::Generated, 2048, 1),
        (Phase::Prompt, 2048, 2048),
        (Phase::Prompt, 4096, 4095),
        (Phase::Generated, 8191, 1),
    ];
    let one = rows.map(|rows| (Phase::Prompt, 0, rows));
    for (phase, past, count) in one.map_or(all.to_vec(), |case| vec![case]) {
        let runs = if count > 512 { 2 } else { RUNS };
        let taken = measure(&*program, &mut *state, phase, past, count, runs)?;
        let [least, middle, most] = spread(taken.iter().map(|taken| taken.attention).collect());
        let [_, turning, _] = spread(taken.iter().map(|taken| taken.turning).collect());
        let rate = taken[0].bytes / middle * 1e3;
        println!(
            "{:9} {count:4} after {past:4}: {least:7.3} / {middle:7.3} / {most:7.3}   \
             {:5.1} GB/s, {:3.0} % of reads; turning queries {turning:.3}",
            format!("{phase:?}"),
            rate / 1e9,
            rate / read * 100.0
        );
    }
    Ok(())
}
