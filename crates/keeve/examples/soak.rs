//! Mixed requests for a while, then rest: `cargo run --release -p keeve --example soak -- MINUTES [MODEL]
//! [auto|float]`.
//!
//! Several requests run at a time; they differ in the length of their prompts and answers, some share a
//! beginning, some are cancelled. Reported: requests and tokens, resident memory (after a tenth of the
//! time, at its end and at most), whether every page of keys and values is free again at the end (a
//! request that needs all of them runs), and how much CPU time the resting engine takes.

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use keeve::{
    Activations, Checkpoint, Engine, EngineOptions, Event, FinishReason, Generation, Request,
    SamplingParams,
};

type Failure = Box<dyn Error + Send + Sync>;

/// Requests at the same time.
const AT_ONCE: usize = 6;
/// Tokens of a sequence, at most.
const CONTEXT: usize = 1024;
/// How long the engine rests while its CPU time is measured.
const REST: Duration = Duration::from_secs(10);

/// A generator of 64 bits: SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % limit.max(1) as u64) as usize
    }
}

/// A number of KiB in `/proc/self/status`, as MiB.
fn resident() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let number = |name: &str| -> Result<f64, Failure> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such field")?;
        Ok(line.split_whitespace().next().ok_or("no number")?.parse()?)
    };
    Ok((number("RssAnon:")? + number("RssFile:")?) / 1024.0)
}

/// Seconds of CPU time that this process has used, all threads together.
fn cpu_time() -> Result<f64, Failure> {
    let mut nanoseconds = 0u64;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += text.split_whitespace().next().ok_or("no time")?.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// A request like no other.
fn request(random: &mut Random, vocabulary: usize) -> Request {
    let length = [1, 7, 40, 200, 700][random.below(5)] + random.below(30);
    // One of four beginnings, which may be in the cache of prefixes.
    let shared = random.below(4) * 1000;
    let prompt = (0..length).map(|at| {
        if at < length / 2 { (shared + at * 31) % vocabulary } else { random.below(vocabulary) }
    });
    let prompt: Vec<u32> = prompt.map(|id| id as u32).collect();
    let temperature = if random.below(2) == 0 { 0.0 } else { 0.8 };
    let sampling = SamplingParams { temperature, top_p: 0.95, ..SamplingParams::default() };
    let max_tokens = Some(1 + random.below(100));
    Request { prompt, sampling, max_tokens, ignore_eos: true, ..Request::default() }
}

/// What has been done so far.
#[derive(Default)]
struct Done {
    requests: u64,
    cancelled: u64,
    tokens: u64,
}

/// Takes the events that are there, or the next one if `wait`; whether the request has ended.
fn follow(generation: &mut Generation, done: &mut Done) -> Result<bool, Failure> {
    match generation.next() {
        Some(Event::Token { .. }) => done.tokens += 1,
        Some(Event::Failed(error)) => return Err(error.to_string().into()),
        Some(Event::Finished { reason, .. }) => {
            done.requests += 1;
            done.cancelled += u64::from(reason == FinishReason::Cancelled);
        }
        Some(Event::PromptLogits { .. }) => {}
        None => return Ok(true),
    }
    Ok(false)
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let minutes: f64 = args.next().ok_or("usage: soak MINUTES [MODEL] [auto|float]")?.parse()?;
    let checkpoint = match args.next().filter(|model| model != "-") {
        None => keeve::demo_model()?,
        Some(path) => Checkpoint::open(Path::new(&path))?,
    };
    let activations = match args.next().as_deref() {
        None | Some("auto") => Activations::Auto,
        Some("float") => Activations::Float,
        Some(other) => return Err(format!("{other}: expected 'auto' or 'float'").into()),
    };
    let options = EngineOptions {
        activations,
        max_context: Some(CONTEXT),
        max_sequences: AT_ONCE - 2,
        // Two and a half whole sequences: some have to give way to others.
        kv_pages: Some(CONTEXT * 5 / 2 / 32),
        ..EngineOptions::default()
    };
    let engine = Engine::load(&checkpoint, &options, &|_| true)?;
    let vocabulary = engine.info().vocabulary;
    let time = Duration::from_secs_f64(minutes * 60.0);
    let (start, mut random, mut done) = (Instant::now(), Random(1), Done::default());
    let (mut early, mut most) = (None, 0.0f64);
    let mut running: Vec<(Generation, usize)> = vec![];
    while start.elapsed() < time || !running.is_empty() {
        while running.len() < AT_ONCE && start.elapsed() < time {
            let patience = if random.below(5) == 0 { random.below(20) } else { usize::MAX };
            running.push((engine.submit(request(&mut random, vocabulary))?, patience));
        }
        let index = random.below(running.len());
        let (generation, patience) = &mut running[index];
        if *patience == 0 {
            generation.canceller().cancel();
        }
        *patience = patience.saturating_sub(1);
        if follow(generation, &mut done)? {
            running.swap_remove(index);
            most = most.max(resident()?);
            if start.elapsed() >= time / 10 && early.is_none() {
                early = Some(resident()?);
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let Done { requests, cancelled, tokens } = done;
    println!("{requests} requests ({cancelled} cancelled), {tokens} tokens in {seconds:.0} s");
    let (early, late) = (early.unwrap_or(0.0), resident()?);
    println!(
        "resident: {early:.1} MiB after a tenth, {late:.1} MiB at the end, {most:.1} MiB at most"
    );
    let all = Request {
        prompt: (0..CONTEXT - 8).map(|at| (at * 7 % vocabulary) as u32).collect(),
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_tokens: Some(8),
        ignore_eos: true,
        ..Request::default()
    };
    let whole = [engine.submit(all.clone())?, engine.submit(all)?];
    let ended = |events: Generation| {
        events.last().is_some_and(|event| matches!(event, Event::Finished { .. }))
    };
    let ended = whole.into_iter().map(ended).filter(|ended| *ended).count();
    println!("whole contexts that find their pages at the end: {ended} of 2");
    // Threads watch for work for a moment before they sleep.
    std::thread::sleep(Duration::from_millis(100));
    let before = cpu_time()?;
    std::thread::sleep(REST);
    let used = cpu_time()? - before;
    println!("at rest: {:.3} % of a core", used / REST.as_secs_f64() * 100.0);
    Ok(())
}
