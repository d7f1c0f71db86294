//! `keeve bench`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use keeve::{Activations, Canceller, Checkpoint, Codec, EngineOptions, SamplingParams};
use keeve_bench::model::{ModelBench, Protocol, Report, Source};
use keeve_bench::ops::{self, OpsOptions};
use keeve_bench::server::ServerOptions;
use keeve_bench::{Error, Observer, plot, shape};
use keeve_files::whole;
use keeve_quantize::Scheme;
use serde_json::Value;

use crate::args::Bench;
use crate::output::{Failure, Outcome, Output, StageBar};
use crate::{interrupt, keys, limits, model};

/// The codec of random weights where none is named.
const DEFAULT_CODEC: &str = "q4_k_m";

pub fn run(args: &Bench, output: &Output) -> Outcome {
    interrupt::watch()?;
    if let Some(url) = &args.server {
        server(args, url, output)?;
    } else if args.ops {
        products(args, output)?;
    } else {
        whole_model(args, output)?;
    }
    let code = if interrupt::interrupted() { interrupt::EXIT_CODE } else { 0 };
    Ok(ExitCode::from(code))
}

/// Shows progress; Ctrl-C ends the benchmark.
struct Watch(StageBar);

impl Observer for Watch {
    fn progress(&self, what: &str, done: usize, total: usize) {
        self.0.set(what, done, total);
    }

    fn running(&self, canceller: Canceller) {
        interrupt::cancels(canceller);
    }

    fn stopped(&self) -> bool {
        interrupt::interrupted()
    }
}

fn whole_model(args: &Bench, output: &Output) -> Result<(), Failure> {
    let sampling =
        SamplingParams { temperature: args.temp, top_p: args.top_p, ..Default::default() };
    sampling.validate().map_err(|problem| Failure::usage(problem.to_string()))?;
    let protocol = Protocol {
        prompt: args.prompt,
        images: args.images,
        generated: args.generate,
        depth: args.depth,
        temperature: args.temp,
        top_p: args.top_p,
        repetitions: args.repetitions,
    };
    let defaults = EngineOptions::default();
    let options = EngineOptions {
        threads: args.threads,
        prefill_chunk: args.prefill_chunk,
        activations: args.activations.map_or(defaults.activations, Activations::from),
        kv_codec: args.kv_codec,
        weights: args.weights,
        rotate: args.rotate,
        profile: args.profile,
        ..defaults
    };
    let report = match &args.config {
        None => {
            if !args.codec.is_empty() {
                return Err(Failure::usage("--codec needs --config or --ops: a MODEL has its own"));
            }
            let checkpoint: Checkpoint = model::open(args.model.as_deref())?;
            let name = args.model.as_deref().unwrap_or("demo model");
            measure(
                &Source::Checkpoint { name, checkpoint: &checkpoint },
                &protocol,
                &options,
                output,
            )?
        }
        Some(name) => {
            let (name, config) = config(name)?;
            let scheme = scheme(args)?;
            let source = Source::Random { name: &name, config: &config, scheme: &scheme };
            measure(&source, &protocol, &options, output)?
        }
    };
    if output.json {
        output.result(&serde_json::to_value(&report)?)?;
    } else {
        output.text(&report.table())?;
    }
    draw(args, || plot::model(&report))
}

fn measure(
    source: &Source<'_>,
    protocol: &Protocol,
    options: &EngineOptions,
    output: &Output,
) -> Result<Report, Failure> {
    let watch = Watch(output.stage_bar());
    let bench =
        ModelBench::load(source, protocol, options, &watch).map_err(|error| match error {
            Error::Nothing | Error::NoVision | Error::ShortPrompt { .. } => {
                Failure::usage(error.to_string())
            }
            error => error.into(),
        })?;
    for note in bench.notes() {
        output.note(&format!("note: {note}"));
    }
    Ok(bench.run(protocol, &watch)?)
}

/// A shape's name and config, or those of a `config.json`.
fn config(name: &str) -> Result<(String, Value), Failure> {
    if !name.ends_with(".json") {
        let (name, config) =
            shape::named(name).map_err(|error| Failure::usage(error.to_string()))?;
        return Ok((name.into(), config));
    }
    let text = whole::text(Path::new(name), limits::SETTINGS, "--config")?;
    let config = serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))?;
    Ok((name.into(), config))
}

fn scheme(args: &Bench) -> Result<Scheme, Failure> {
    let usage = |error: keeve_quantize::Error| Failure::usage(error.to_string());
    let name = match &args.codec[..] {
        [] => DEFAULT_CODEC,
        [name] => name,
        _ => return Err(Failure::usage("--config takes one --codec")),
    };
    let scheme: Scheme = name.parse().map_err(usage)?;
    match &args.head_codec {
        None => Ok(scheme),
        Some(head) => Ok(scheme.with_head(codec(head)?)),
    }
}

fn codec(name: &str) -> Result<Codec, Failure> {
    name.parse().map_err(|error: keeve::codec::Error| Failure::usage(error.to_string()))
}

/// Words of a question to a server, as many as `--prompt` has tokens, but not more than so many.
const MOST_WORDS: usize = 256;

fn server(args: &Bench, url: &str, output: &Output) -> Result<(), Failure> {
    if !(0.0..=1.0).contains(&args.hang_up) {
        return Err(Failure::usage("--hang-up is a share, from 0 to 1"));
    }
    let options = ServerOptions {
        url: url.into(),
        key: keys::from_variable(std::env::var_os(keys::VARIABLE))?,
        clients: args.clients,
        requests: args.requests,
        duration: args.seconds.map(Duration::from_secs),
        prompt_words: args.prompt.min(MOST_WORDS),
        max_tokens: args.generate.max(1),
        hang_up: args.hang_up,
    };
    let report = {
        let watch = Watch(output.stage_bar());
        keeve_bench::server::run(&options, &watch)?
    };
    if output.json {
        output.result(&serde_json::to_value(&report)?)?;
    } else {
        output.text(&report.table())?;
    }
    draw(args, || plot::server(&report))
}

fn products(args: &Bench, output: &Output) -> Result<(), Failure> {
    let codecs = match &args.codec[..] {
        [] => OpsOptions::default_codecs(),
        names => names.iter().map(|name| codec(name)).collect::<Result<_, _>>()?,
    };
    use Activations::{Auto, Bf16, Fast, Float, Int8};
    let every = [Auto, Fast, Int8, Bf16, Float];
    let options = OpsOptions {
        codecs,
        activations: args.activations.map_or_else(|| every.to_vec(), |mode| vec![mode.into()]),
        sizes: ops::SIZES.to_vec(),
        rows: match &args.rows[..] {
            [] => OpsOptions::rows_up_to(args.max_rows as usize),
            rows => rows.iter().map(|&rows| rows as usize).collect(),
        },
        repetitions: args.repetitions,
        patience: args.patience,
        threads: args.threads,
    };
    let report = {
        let watch = Watch(output.stage_bar());
        ops::run(&options, &watch)?
    };
    if output.json {
        output.result(&serde_json::to_value(&report)?)?;
    } else {
        output.text(&report.table())?;
    }
    draw(args, || plot::ops(&report))
}

/// Writes the drawing that `--plot` asks for.
fn draw(args: &Bench, drawing: impl FnOnce() -> Result<String, Error>) -> Result<(), Failure> {
    let Some(path) = &args.plot else { return Ok(()) };
    let svg = drawing()?;
    Ok(std::fs::write(path, svg).map_err(|error| format!("{}: {error}", path.display()))?)
}
