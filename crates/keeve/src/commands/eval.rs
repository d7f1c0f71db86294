//! `keeve eval`.

use std::path::Path;
use std::process::ExitCode;

use keeve::eval::{self, Comparison, Estimate, Observer, Scores, Text, Window, windows};
use keeve::{Canceller, Checkpoint, Engine};
use keeve_bench::plot;
use keeve_files::whole;
use keeve_quantize::Imatrix;
use serde_json::{Value, json};

use super::quantize::cores;
use super::variant::{Subject, Variant};
use crate::args::{ActivationMode, CheckedModels, Compute, Eval, Like};
use crate::output::{Failure, Outcome, Output, TokenBar, bytes, one_line};
use crate::{interrupt, limits, model};

/// The window where none is given.
const WINDOW: usize = 2048;
const LLAMA_CPP_WINDOW: usize = 512;

/// A row of the table.
struct Row {
    name: String,
    bytes: u64,
    bits: f64,
    activations: ActivationMode,
    scores: Scores,
    peak: Option<u64>,
}

/// A model that is about to be judged.
struct Loaded<'a> {
    subject: &'a Subject<'a>,
    name: String,
    engine: Engine,
    /// Bytes, and bits a weight.
    size: (u64, f64),
}

/// A model to compare with, and the text as it sees it.
struct Reference {
    name: String,
    engine: Engine,
    text: Text,
}

pub fn run(args: &Eval, output: &Output) -> Outcome {
    if !args.rounding.is_empty() {
        return super::rounding::run(args, output);
    }
    interrupt::watch()?;
    let text = read(&args.data)?;
    let window = args.window.unwrap_or(match args.like {
        Some(Like::LlamaCpp) => LLAMA_CPP_WINDOW,
        None => WINDOW,
    });
    // What rounding costs is what is measured here, if that is asked for.
    let compute = Compute {
        max_context: args.compute.max_context.or(Some(window)),
        activation_check: CheckedModels::Never,
        ..args.compute.clone()
    };
    let names: Vec<Option<&str>> = match &args.models[..] {
        [] => vec![None],
        names => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    let mmproj = args.seeing.mmproj.as_deref();
    if mmproj.is_some() && names.len() > 1 {
        return Err(Failure::usage("--mmproj goes with one MODEL"));
    }
    // What can be wrong without loading anything is found before hours have passed.
    let checkpoints: Vec<_> =
        names.iter().map(|name| model::open_seeing(*name, mmproj)).collect::<Result<_, _>>()?;
    let variants = Variant::all(args, &compute)?;
    let sharing =
        Sharing::new(&compute, &variants, args.together.min(checkpoints.len() * variants.len()));
    let reference = args.reference.as_deref().map(|name| {
        let checkpoint = model::open(Some(name))?;
        // The reference is what is in its file, whatever the others are made into.
        let threads = sharing.threads(compute.activations);
        let compute = Compute { weights: None, rotate: false, threads, ..compute.clone() };
        let engine = model::load_for_one(&checkpoint, &compute, output)?;
        let text = Text::new(&text, engine.tokenizer()?)?;
        Ok::<_, Failure>(Reference { name: name.into(), engine, text })
    });
    let reference = reference.transpose()?;
    let imatrix = args.imatrix.as_deref().map(Imatrix::open).transpose()?;
    let subjects: Vec<_> = names
        .iter()
        .zip(&checkpoints)
        .flat_map(|(name, checkpoint)| {
            let name = name.unwrap_or("demo model");
            let imatrix = imatrix.as_ref();
            variants.iter().map(move |variant| Subject { name, checkpoint, variant, imatrix })
        })
        .collect();
    let (compute, text, reference) = (&compute, &text[..], reference.as_ref());
    let job = Job { args, window, compute, sharing, text, reference };
    let mut rows = vec![];
    let mut failure = None;
    for together in subjects.chunks(args.together) {
        if interrupt::interrupted() {
            break;
        }
        match job.evaluate(together, &mut rows, output) {
            Ok(()) => {}
            Err(_) if interrupt::interrupted() => break,
            Err(problem) => {
                failure = Some(problem);
                break;
            }
        }
    }
    let wanted = subjects.len();
    rows.retain(|row| row.scores.tokens > 0);
    if rows.is_empty() {
        return Err(failure.unwrap_or_else(Failure::interrupted));
    }
    // What was found is worth having even if a later model failed.
    if let Some(path) = &args.plot {
        plot(&rows, path)?;
    }
    let stride = args.stride.unwrap_or(window);
    if !output.json {
        output.text(&table(&rows))?;
    } else if failure.is_none() {
        output.result(&json!({
            "data": args.data,
            "window": window,
            "stride": stride,
            "like": args.like.map(|Like::LlamaCpp| "llama.cpp"),
            "reference": reference.as_ref().map(|reference| &reference.name),
            "complete": rows.len() == wanted && rows.iter().all(|row| row.scores.complete),
            "models": rows.iter().map(row_json).collect::<Vec<_>>(),
        }))?;
    }
    match failure {
        Some(failure) => Err(failure),
        None if interrupt::interrupted() => Ok(ExitCode::from(interrupt::EXIT_CODE)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// A text file.
pub fn read(path: &Path) -> Result<String, Failure> {
    Ok(whole::text(path, limits::TEXT, "--data")?)
}

/// How threads are shared among models that run at the same time: small ones use many threads badly.
#[derive(Clone, Copy)]
struct Sharing {
    /// All threads; `None` if models take turns, and each has what was asked for.
    threads: Option<usize>,
    asked: Option<usize>,
    /// The work of all that run together, in that of a model with int8 products.
    work: usize,
}

impl Sharing {
    /// What a model with float products is reckoned at.
    const FLOAT: usize = 6;

    /// Of `together` models and a reference.
    fn new(compute: &Compute, variants: &[Variant], together: usize) -> Self {
        let asked = compute.threads;
        let threads = (together > 1).then(|| asked.unwrap_or_else(cores));
        let modes = variants.iter().map(Variant::activations).cycle().take(together);
        let work = modes.chain([compute.activations]).map(Self::work).sum();
        Self { threads, asked, work }
    }

    fn work(mode: ActivationMode) -> usize {
        match mode {
            ActivationMode::Float => Self::FLOAT,
            ActivationMode::Bf16
            | ActivationMode::Int8
            | ActivationMode::Auto
            | ActivationMode::Fast => 1,
        }
    }

    /// Threads for a model that computes in this way.
    fn threads(self, mode: ActivationMode) -> Option<usize> {
        let all = self.work.max(1);
        let share = |threads: usize| {
            // To the nearest whole number, and at least one.
            (threads.saturating_mul(Self::work(mode)).saturating_add(all / 2) / all).max(1)
        };
        self.threads.map_or(self.asked, |threads| Some(share(threads)))
    }
}

/// What is the same for every model.
struct Job<'a> {
    args: &'a Eval,
    window: usize,
    compute: &'a Compute,
    sharing: Sharing,
    text: &'a str,
    reference: Option<&'a Reference>,
}

impl Job<'_> {
    /// Judges some models side by side, and adds a row for each.
    fn evaluate(
        &self,
        subjects: &[Subject<'_>],
        rows: &mut Vec<Row>,
        output: &Output,
    ) -> Result<(), Failure> {
        // Where the system cannot forget, the peak is that of all models so far.
        keeve::engine::memory::reset_peak();
        let mut loaded = Vec::with_capacity(subjects.len());
        let mut read: Option<(&Checkpoint, Text)> = None;
        for subject in subjects {
            let name = subject.row_name();
            // Variants of a model read as it does.
            if read.as_ref().is_none_or(|(of, _)| !std::ptr::eq(*of, subject.checkpoint)) {
                let tokenizer = keeve::engine::tokenizer_of(subject.checkpoint)?;
                let tokenizer =
                    tokenizer.ok_or("the model has no tokenizer to read the text with")?;
                let text = Text::new(self.text, &tokenizer)?;
                if self.reference.is_some_and(|reference| reference.text.ids() != text.ids()) {
                    let problem = "turns the text into other tokens than the reference";
                    return Err(format!("{name}: {problem}").into());
                }
                read = Some((subject.checkpoint, text));
            }
            let threads = self.sharing.threads(subject.variant.activations());
            let (engine, size) = subject.load(self.compute, threads, output)?;
            loaded.push(Loaded { subject, name, engine, size });
        }
        let [first, others @ ..] = &loaded[..] else { return Ok(()) };
        // Beside a reference, all of them have its tokens; without one, there is only one.
        let Some((_, text)) = &read else { return Ok(()) };
        let about = |error: eval::Error| format!("{}: {error}", first.name);
        let windows = self.windows(text).map_err(about)?;
        loaded.iter().for_each(|model| model::notes(&model.engine, output));
        let title = match others.len() {
            0 => first.name.clone(),
            others => format!("{} and {others} more", first.name),
        };
        let total = windows::scored(&windows).saturating_mul(loaded.len());
        let mut follow = Follow(output.token_bar(&title, total));
        let engines: Vec<_> = loaded.iter().map(|model| &model.engine).collect();
        let reference = self.reference.map(|reference| &reference.engine);
        let found = eval::evaluate_together(text, &windows, &engines, reference, &mut follow);
        let found = found.map_err(about)?;
        drop(follow);
        let peak = keeve::engine::memory::peak();
        let mut failure = None;
        for (model, scores) in loaded.iter().zip(found) {
            if self.compute.profile {
                output.note(&super::run::profile_table(&model.engine)?);
            }
            let (name, (bytes, bits)) = (model.name.clone(), model.size);
            let activations = model.subject.variant.activations();
            match scores {
                Ok(scores) => rows.push(Row { name, bytes, bits, activations, scores, peak }),
                Err(error) => failure = Some(format!("{name}: {error}")),
            }
        }
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    fn windows(&self, text: &Text) -> Result<Vec<Window>, eval::Error> {
        let tokens = text.ids().len();
        let stride = self.args.stride.unwrap_or(self.window);
        let mut cut = match self.args.like {
            Some(Like::LlamaCpp) => windows::llama_cpp(tokens, self.window),
            None => windows::plain(tokens, self.window, stride),
        }?;
        if let Some(most) = self.args.max_tokens {
            windows::limit(&mut cut, most);
        }
        Ok(cut)
    }
}

/// Draws the rows that were compared with the reference.
fn plot(rows: &[Row], path: &Path) -> Result<(), Failure> {
    let point = |row: &Row| {
        let divergence = row.scores.comparison.as_ref()?.divergence.value;
        Some(plot::Point { name: row.name.clone(), bits: row.bits, divergence })
    };
    let drawing = plot::quality(&rows.iter().filter_map(point).collect::<Vec<_>>())?;
    std::fs::write(path, drawing).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(())
}

/// Shows an evaluation on a bar, and ends it on Ctrl-C.
pub struct Follow(pub TokenBar);

impl Observer for Follow {
    fn running(&mut self, canceller: Canceller) {
        interrupt::cancels(canceller);
    }

    fn judged(&mut self, predictions: usize) -> bool {
        self.0.add(predictions);
        !interrupt::interrupted()
    }
}

fn row_json(row: &Row) -> Value {
    let Scores { tokens, perplexity, byte_perplexity, word_perplexity, comparison, .. } =
        &row.scores;
    let compared =
        |number: fn(&Comparison) -> Option<Estimate>| comparison.as_ref().and_then(number);
    let divergence = compared(|beside| Some(beside.divergence));
    let p99 = compared(|beside| beside.divergence_p99);
    let agreement = compared(|beside| Some(beside.agreement));
    let ratio = compared(|beside| Some(beside.ratio));
    let reference = compared(|beside| Some(beside.reference_perplexity));
    let value = |estimate: Option<Estimate>| estimate.map(|estimate| estimate.value);
    let interval = |estimate: Option<Estimate>| estimate.and_then(|estimate| estimate.interval);
    json!({
        "model": row.name,
        "tokens": tokens,
        "ppl": perplexity.value,
        "ppl_ci": perplexity.interval,
        "byte_ppl": byte_perplexity.value,
        "word_ppl": word_perplexity.value,
        "bits_per_byte": byte_perplexity.value.log2(),
        "reference_ppl": value(reference),
        "ppl_ratio": value(ratio),
        "ppl_ratio_ci": interval(ratio),
        "kl_mean": value(divergence),
        "kl_mean_ci": interval(divergence),
        "kl_p99": value(p99),
        "kl_p99_ci": interval(p99),
        "top1_agreement": value(agreement),
        "top1_agreement_ci": interval(agreement),
        "activations": keeve::Activations::from(row.activations).name(),
        "bytes": row.bytes,
        "bits_per_weight": row.bits,
        "prefill_s": row.scores.time.as_secs_f64(),
        "prefill_tokens": row.scores.rows,
        "peak_memory": row.peak,
        "complete": row.scores.complete,
    })
}

/// The rows for a person: numbers with half the width of their 95 % interval.
fn table(rows: &[Row]) -> String {
    let mut lines = vec![vec![
        "model".to_owned(),
        "size".into(),
        "bits".into(),
        "PPL".into(),
        "byte PPL".into(),
        "word PPL".into(),
        "PPL/ref".into(),
        "KL mean".into(),
        "KL p99".into(),
        "top-1 %".into(),
        "tok/s".into(),
        "peak".into(),
    ]];
    for row in rows {
        let scores = &row.scores;
        let beside = scores.comparison.as_ref();
        let note = if scores.complete { "" } else { " (in part)" };
        let plain = |estimate: Estimate| number(Some(Estimate { interval: None, ..estimate }), 4);
        let percent = |share: Estimate| share.map(|share| 100.0 * share);
        lines.push(vec![
            format!("{}{note}", one_line(&row.name)),
            bytes(row.bytes),
            format!("{:.2}", row.bits),
            number(Some(scores.perplexity), 4),
            plain(scores.byte_perplexity),
            format!("{:.2}", scores.word_perplexity.value),
            number(beside.map(|beside| beside.ratio), 4),
            number(beside.map(|beside| beside.divergence), 5),
            number(beside.and_then(|beside| beside.divergence_p99), 4),
            number(beside.map(|beside| percent(beside.agreement)), 2),
            format!("{:.0}", scores.rows as f64 / scores.time.as_secs_f64().max(1e-9)),
            row.peak.map_or_else(|| "-".into(), bytes),
        ]);
    }
    aligned(&lines)
}

/// A number with half the width of its 95 % interval.
pub fn number(estimate: Option<Estimate>, digits: usize) -> String {
    let Some(Estimate { value, interval }) = estimate else { return "-".into() };
    let reach = interval.map(|(low, high)| format!(" ±{:.digits$}", (high - low) / 2.0));
    format!("{value:.digits$}{}", reach.unwrap_or_default())
}

/// Lines as columns, the first to the left and the others to the right.
pub fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<_> = (0..lines[0].len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            match column {
                0 => text += &format!("{cell:width$}"),
                _ => text += &format!("  {cell:>width$}"),
            }
        }
        text.push('\n');
    }
    text
}
