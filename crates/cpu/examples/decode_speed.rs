//! Speed of products with one row, against the bandwidth of memory:
//! `cargo run --release -p keeve-cpu --example decode_speed -- [THREADS] [ROWS] [CODEC ...]`.
//!
//! For each codec and shape (4096x4096, and the head of a small model, 151936x1024) enough matrices of
//! their own that caches hold none of them are multiplied in turn; a line gives their bytes over the time,
//! least, median and greatest of the rounds. The bandwidth is that of summing up 1 GiB on as many threads.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keeve_codec::{Codec, PackedTensor, Parts};
use keeve_cpu::{Cpu, CpuOptions, Isa};
use keeve_graph::{
    Activations, Backend, CompileOptions, Graph, LoadOptions, Phase, RowInput, SequenceRows, Step,
    Want, Weights,
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

/// Weights of random codes and reasonable scales.
struct Random {
    codec: Codec,
    n: usize,
    k: usize,
}

/// A generator of 64 bits at a time: xorshift*.
fn random_bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

impl Weights for Random {
    fn weight(&self, name: &str) -> Result<PackedTensor, Box<dyn Error + Send + Sync>> {
        if name == "table" {
            return Ok(PackedTensor::from_f32(1, self.k, &vec![0.0; self.k])?);
        }
        let row = self.codec.row_parts(self.k)?;
        let seed = name.bytes().fold(7, |seed, byte| seed * 131 + u64::from(byte));
        // Half-precision scales below 2, whatever comes: speed does not depend on the values.
        let part = |each: usize, salt: u64| {
            let bytes = || random_bytes(each * self.n, seed + salt);
            (each > 0).then(|| bytes().into())
        };
        let parts = Parts {
            data: part(row.data, 0).ok_or("no data")?,
            scales: part(row.scales, 1),
            biases: part(row.biases, 2),
            global_scale: part(row.global_scale, 3),
        };
        Ok(PackedTensor::new(self.codec, 1, self.n, self.k, parts)?)
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

fn bandwidth(threads: usize) -> [f64; 3] {
    let words = vec![1u64; 128 << 20];
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for part in words.chunks(words.len().div_ceil(threads)) {
                    scope.spawn(|| {
                        let sums =
                            part.as_chunks::<32>().0.iter().fold([0u64; 32], |mut all, x| {
                                all.iter_mut().zip(x).for_each(|(all, x)| *all ^= x);
                                all
                            });
                        black_box(sums);
                    });
                }
            });
            start.elapsed()
        })
        .collect();
    rates(words.len() * 8, &mut times)
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: &str| args.next().unwrap_or_else(|| default.into()).parse::<usize>();
    let (threads, rows) = (number("2")?, number("1")?);
    let mut codecs: Vec<String> = args.collect();
    if codecs.is_empty() {
        codecs = CODECS.map(String::from).to_vec();
    }
    let isa = Isa::choose()?;
    let [least, median, most] = bandwidth(threads);
    println!("{isa}, {threads} threads, {rows} rows; GB/s least, median, greatest of {ROUNDS}");
    println!("reading memory: {least:.1} {median:.1} {most:.1}");
    for codec in codecs {
        let codec: Codec = codec.parse()?;
        for (n, k) in [(4096, 4096), (151_936, 1024)] {
            let count = (WORKING_SET / (codec.row_bytes(k)? * n)).max(1);
            let mut graph = Graph::new();
            let x = graph.embed("table", 1, k)?;
            let picked = graph.select_rows(x, Want::Logits)?;
            for index in 0..count {
                let y = graph.linear(picked, &format!("w{index}"), n, false)?;
                graph.output(Want::Logits, y)?;
            }
            let cpu = Cpu::new(CpuOptions { threads, isa })?;
            let start = Instant::now();
            let options = LoadOptions { activations: Activations::Auto, ..Default::default() };
            let program = cpu.load(Arc::new(graph), &Random { codec, n, k }, &options)?;
            let loaded = start.elapsed();
            let mut plan =
                program.compile(&CompileOptions { profile: true, ..Default::default() })?;
            let mut state = program.state(1)?;
            let given = vec![0.5; k];
            let step = Step {
                rows: (0..rows as u32)
                    .map(|at| RowInput { logits: true, ..RowInput::text(0, at, Phase::Generated) })
                    .collect(),
                sequences: vec![SequenceRows { rows: 0..rows, past: 0, pages: &[0] }],
                embeddings: (0..rows).map(|row| (row, &given[..])).collect(),
            };
            let linear = |plan: &dyn keeve_graph::Plan| {
                let linears = plan.profile().into_iter().filter(|row| row.op.starts_with("linear"));
                linears.fold((0, 0), |all, row| (all.0 + row.nanoseconds, all.1 + row.bytes))
            };
            let mut times = vec![];
            let mut bytes = 0;
            for round in 0..=ROUNDS {
                let before = linear(&*plan);
                plan.run(&step, &mut *state, None)?;
                let after = linear(&*plan);
                if round > 0 {
                    times.push(Duration::from_nanos(after.0 - before.0));
                    bytes = after.1 - before.1;
                }
            }
            let [least, median, most] = rates(bytes as usize, &mut times);
            println!(
                "{codec:10} {n:6}x{k:4} x{count:3}: {least:5.1} {median:5.1} {most:5.1}   loaded in {:.2} s",
                loaded.as_secs_f64()
            );
        }
    }
    Ok(())
}
