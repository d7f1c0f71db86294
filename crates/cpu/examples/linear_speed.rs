//! Speed of products with packed weights, activations quantized:
//! `cargo run --release -p keeve-cpu --example linear_speed -- [THREADS] [ROWS] [PHASE[:MODE,...]] [CODEC ...]`.
//!
//! PHASE is `generated` (then ROWS should be few) or `prompt`. MODE is how activations enter (`auto`, `bf16`, `int8`,
//! `float`; `auto` if none is given); several are measured in turns, and how much longer each takes than the first. Enough matrices, each with memory of its own,
//! that caches hold none of them are multiplied in turn, of 4096x4096 and (generated only) of 151936x1024,
//! the head of a small model. A line gives their bytes over the time in GB/s, least, median and greatest of
//! the rounds, and the median as a part of the bandwidth of memory, which is measured anew for each line by
//! reading 1 GiB on as many threads; for prompts also TOP/s. Quantizing the activations is included.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keeve_codec::{Bytes, Codec, EncodeOptions, PackedTensor, Parts, encode};
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{
    Activations, Backend, CompileOptions, Graph, LoadOptions, Phase, Plan, RowInput, SequenceRows,
    Step, Want, Weights,
};

const CODECS: [&str; 12] = [
    "q4_k",
    "q6_k",
    "q8_0",
    "q4_0",
    "affine4",
    "affine8",
    "int8",
    "int8-g64",
    "int4-g128",
    "q2_k",
    "q3_k",
    "q5_k",
];
const ROUNDS: usize = 9;
/// Bytes of the matrices that are multiplied in turn.
const WORKING_SET: usize = 400 << 20;

type Failure = Box<dyn Error + Send + Sync>;

/// Weights of random values: so many rows that were encoded, again and again.
struct Random {
    made: Mutex<HashMap<String, PackedTensor>>,
    codec: Codec,
    n: usize,
    k: usize,
}

/// Rows that are encoded.
const ENCODED: usize = 64;

/// Numbers between -0.5 and 0.5.
fn random_values(count: usize) -> Vec<f32> {
    let mut seed = 1u32;
    let mut value = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| value()).collect()
}

impl Weights for Random {
    fn weight(&self, name: &str) -> Result<PackedTensor, Failure> {
        let mut made = self.made.lock().map_err(|error| error.to_string())?;
        if let Some(tensor) = made.get(name) {
            return Ok(tensor.clone());
        }
        if name == "table" {
            return Ok(PackedTensor::from_f32(1, self.k, &vec![0.0; self.k])?);
        }
        let values = random_values(ENCODED * self.k);
        let few = encode(self.codec, ENCODED, self.k, &values, EncodeOptions::default())?.tensor;
        let again = |bytes: &[u8]| Bytes::from(bytes.repeat(self.n / ENCODED));
        let parts = few.parts();
        let parts = Parts {
            data: again(&parts.data),
            scales: parts.scales.as_deref().map(again),
            biases: parts.biases.as_deref().map(again),
            global_scale: parts.global_scale.clone(),
        };
        let tensor = PackedTensor::new(self.codec, 1, self.n, self.k, parts)?;
        made.insert(name.into(), tensor.clone());
        Ok(tensor)
    }
}

/// Least, median, greatest.
fn spread(times: &mut [Duration]) -> [Duration; 3] {
    times.sort();
    [times[0], times[times.len() / 2], times[times.len() - 1]]
}

fn rates(bytes: usize, times: &mut [Duration]) -> [f64; 3] {
    let [least, median, most] = spread(times);
    [most, median, least].map(|time| bytes as f64 / time.as_secs_f64() / 1e9)
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: &str| args.next().unwrap_or_else(|| default.into()).parse::<usize>();
    let (threads, rows) = (number("2")?, number("1")?);
    let phase = args.next().unwrap_or_else(|| "generated".into());
    let (phase, modes) = phase.split_once(':').unwrap_or((&phase, "auto"));
    let phase = match phase {
        "generated" => Phase::Generated,
        "prompt" => Phase::Prompt,
        other => return Err(format!("{other}: expected 'generated' or 'prompt'").into()),
    };
    let modes: Vec<_> = modes.split(',').map(mode).collect::<Result<_, _>>()?;
    let mut codecs: Vec<String> = args.collect();
    if codecs.is_empty() {
        codecs = CODECS.map(String::from).to_vec();
    }
    let isa = Isa::choose()?;
    println!(
        "{isa}, {threads} threads, {rows} rows, {phase:?}: least, median, greatest of {ROUNDS}"
    );
    for codec in codecs {
        let codec: Codec = codec.parse()?;
        for (n, k) in [(4096, 4096), (151_936, 1024)] {
            if n > 10_000 && phase == Phase::Prompt {
                continue;
            }
            let read = keeve_cpu::rates::read(1 << 30, threads, &|| false)?.unwrap_or(f64::NAN);
            let (bytes, all, loaded) = measure(codec, n, k, rows, threads, phase, &modes)?;
            let mut first = None;
            for (mode, mut times) in modes.iter().zip(all) {
                let [_, middle, _] = spread(&mut times);
                let [least, median, most] = rates(bytes, &mut times);
                let part = median / read * 100.0;
                print!(
                    "{:11} {n:6}x{k} {mode:?}: GB/s {least:5.1} {median:5.1} {most:5.1}",
                    codec.name()
                );
                print!(", {part:3.0} % of {read:4.1}; loaded at {loaded:.2} GB/s");
                if phase == Phase::Prompt {
                    let operations = |rate: f64| {
                        let matrix = codec.row_bytes(k).unwrap_or(1) * n;
                        rate / matrix as f64 * (2 * n * k * rows) as f64 / 1e3
                    };
                    print!("; TOP/s {:.2} {:.2}", operations(median), operations(most));
                }
                let first = *first.get_or_insert(middle);
                println!("; {:.2} times the first", middle.as_secs_f64() / first.as_secs_f64());
            }
        }
    }
    Ok(())
}

/// A mode by name.
fn mode(name: &str) -> Result<Activations, Failure> {
    Ok(match name {
        "auto" => Activations::Auto,
        "bf16" => Activations::Bf16,
        "int8" => Activations::Int8,
        "float" => Activations::Float,
        other => return Err(format!("{other}: expected 'auto', 'bf16', 'int8' or 'float'").into()),
    })
}

/// Bytes as they are stored and times of the rounds of each mode, and GB/s of loading in the first.
fn measure(
    codec: Codec,
    n: usize,
    k: usize,
    rows: usize,
    threads: usize,
    phase: Phase,
    modes: &[Activations],
) -> Result<(usize, Vec<Vec<Duration>>, f64), Failure> {
    let stored = codec.row_bytes(k)? * n;
    let working_set = if phase == Phase::Prompt { WORKING_SET / 8 } else { WORKING_SET };
    let count = (working_set / stored).max(1);
    let mut graph = Graph::new();
    let x = graph.embed("table", 1, k)?;
    let picked = graph.select_rows(x, Want::Logits)?;
    for index in 0..count {
        let y = graph.linear(picked, &format!("w{index}"), n, false)?;
        graph.output(Want::Logits, y)?;
    }
    let cpu = Cpu::new(CpuOptions { threads, isa: Isa::choose()? })?;
    let random = Random { codec, n, k, made: Mutex::default() };
    let graph = Arc::new(graph);
    let load = |activations| {
        let options = LoadOptions { activations, ..Default::default() };
        cpu.load(graph.clone(), &random, &options)
    };
    // Once to make them, once to measure packing them.
    drop(load(modes[0])?);
    let start = Instant::now();
    let mut programs = vec![load(modes[0])?];
    let loaded = (stored * count) as f64 / start.elapsed().as_secs_f64() / 1e9;
    for &mode in &modes[1..] {
        programs.push(load(mode)?);
    }
    let given = random_values(rows * k);
    let pages: Vec<u32> = (0..rows.div_ceil(programs[0].page_tokens()) as u32).collect();
    let row = |at| RowInput { logits: true, ..RowInput::text(0, at, phase) };
    let step = Step {
        rows: (0..rows as u32).map(row).collect(),
        sequences: vec![SequenceRows { rows: 0..rows, past: 0, pages: &pages }],
        given: given.chunks_exact(k).enumerate().collect(),
        ..Step::default()
    };
    let linears = |plan: &dyn Plan| -> u64 {
        let linears = plan.profile().into_iter().filter(|row| row.op.starts_with("linear"));
        linears.map(|row| row.nanoseconds).sum()
    };
    let mut running = vec![];
    for program in &programs {
        let plan = program.compile(&CompileOptions { profile: true, ..Default::default() })?;
        running.push((plan, program.state(pages.len())?, vec![]));
    }
    for round in 0..=ROUNDS {
        for (plan, state, times) in &mut running {
            let before = linears(&**plan);
            plan.run(&step, &mut **state, None)?;
            if round > 0 {
                times.push(Duration::from_nanos(linears(&**plan) - before));
            }
        }
    }
    Ok((stored * count, running.into_iter().map(|(_, _, times)| times).collect(), loaded))
}
