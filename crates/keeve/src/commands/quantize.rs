//! `keeve quantize`.

use std::path::Path;
use std::process::ExitCode;

use keeve::eval::Text;
use keeve::{Checkpoint, Codec, Isa};
use keeve_files::whole;
use keeve_quantize::presets::PRESETS;
use keeve_quantize::{
    Format, Idle, Imatrix, Importance, Making, Options, Pattern, Plan, Planned, Recipe, Report,
    Scheme, SmoothOptions, Smoothed, make,
};
use serde_json::{Value, json};

use crate::args::{Alpha, FolderLayout, Quantize};
use crate::output::{Failure, Outcome, Output, WorkBar, bytes, one_line};
use crate::{interrupt, limits, model};

/// Tokens of a piece of text for SmoothQuant.
const SMOOTH_CHUNK: usize = 512;

pub fn run(args: &Quantize, output: &Output) -> Outcome {
    if args.choice.list_presets {
        return list_presets(output);
    }
    let recipe = recipe(args)?;
    let checkpoint = model::open_seeing(args.model.as_deref(), args.seeing.mmproj.as_deref())?;
    let plan = Plan::new(&checkpoint, &recipe, format(args, &recipe)?)?;
    let plan = if args.rotate { plan.rotated()? } else { plan };
    unused(&plan, output);
    match plan.idle(&recipe) {
        Some(Idle::Nothing(problem)) if args.dry_run => {
            output.note(&format!("note: nothing to quantize: {problem}"));
        }
        Some(Idle::Nothing(problem)) => {
            let model = checkpoint.path().display();
            return Err(format!("{model}: nothing to quantize: {problem}").into());
        }
        Some(Idle::Already) => output.note(
            "note: nothing is encoded: all weights stay in the codecs that they are in already",
        ),
        None => {}
    }
    let Some(out) = args.out.as_deref().filter(|_| !args.dry_run) else {
        match output.json {
            true => output.result(&plan_json(&plan))?,
            false => output.text(&plan_table(&plan))?,
        }
        return Ok(ExitCode::SUCCESS);
    };
    let importance = match &args.imatrix {
        None => None,
        Some(path) => Some(Importance::of(&checkpoint, &Imatrix::open(path)?)?),
    };
    interrupt::watch()?;
    let threads = args.threads.unwrap_or_else(cores);
    let smoothed = smooth(args, &checkpoint, &plan, output)?;
    let bar = output.work_bar();
    let options = Options {
        force: args.force,
        making: Making {
            importance: importance.as_ref(),
            folds: smoothed.as_ref().map(|smoothed| &smoothed.folds),
            threads,
        },
        file_type: recipe.scheme().file_type(),
        observer: &Watch(&bar),
    };
    let report = make(&checkpoint, &plan, out, &options);
    drop(bar);
    let report = report?;
    if let Some(importance) = &importance
        && let missing @ 1.. = importance.missing.len()
    {
        let first = one_line(&importance.missing[0]);
        output.note(&format!("note: no importance for {missing} weights, the first being {first}"));
    }
    tell(&plan, &report, smoothed.as_ref(), out, output)?;
    Ok(ExitCode::SUCCESS)
}

/// Finds SmoothQuant's factors, if they are asked for.
fn smooth(
    args: &Quantize,
    checkpoint: &Checkpoint,
    plan: &Plan,
    output: &Output,
) -> Result<Option<Smoothed>, Failure> {
    let Some(alpha) = args.smoothquant else { return Ok(None) };
    // What would stop the writing is found before the work.
    if let Some(out) = &args.out {
        keeve_quantize::check_target(out, args.force)?;
    }
    let tokenizer = keeve::engine::tokenizer_of(checkpoint)?;
    let tokenizer = tokenizer.ok_or("the model has no tokenizer to read the text with")?;
    let text = Text::new(&super::calibrate::read(&args.data)?, &tokenizer)
        .map_err(|error| error.to_string())?;
    let bar = output.work_bar();
    let options = SmoothOptions {
        alpha: match alpha {
            Alpha::Auto => None,
            Alpha::Is(alpha) => Some(alpha),
        },
        chunk: SMOOTH_CHUNK,
        pieces: args.pieces,
        threads: args.threads.unwrap_or_else(cores),
        isa: Isa::choose()?,
        observer: &Watch(&bar),
    };
    Ok(Some(keeve_quantize::smooth(checkpoint, plan, &text, &options)?))
}

/// Tells of tensors that are left behind.
pub fn unused(plan: &Plan, output: &Output) {
    if let Some(first) = plan.unused.first() {
        let (count, first) = (plan.unused.len(), one_line(first));
        output.note(&format!(
            "note: {count} tensors are not written, since the model does not use them, the first being {first}"
        ));
    }
}

/// Threads for all cores.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Shows work on a bar, and ends it on Ctrl-C.
pub struct Watch<'a>(pub &'a WorkBar);

impl keeve_quantize::Observer for Watch<'_> {
    fn progress(&self, done: u64, total: u64, tensor: &str) {
        self.0.set(done, total, tensor);
    }

    fn stopped(&self) -> bool {
        interrupt::interrupted()
    }
}

fn recipe(args: &Quantize) -> Result<Recipe, Failure> {
    let choice = &args.choice;
    let usage = |error: &dyn std::fmt::Display| Failure::usage(error.to_string());
    let mut recipe = match (&choice.preset, &choice.codec, &choice.recipe) {
        (Some(name), ..) => Scheme::preset(name).map_err(|error| usage(&error))?.into(),
        (_, Some(name), _) => {
            let codec = name.parse::<Codec>().map_err(|error| usage(&error))?;
            Scheme::uniform(codec).into()
        }
        (.., Some(path)) => {
            let text = whole::text(path, limits::SETTINGS, "--recipe")?;
            Recipe::from_toml(path, &text)?
        }
        _ => return Err(Failure::usage("one of --preset, --codec and --recipe is needed")),
    };
    for pattern in &args.skip {
        recipe = recipe.skip(Pattern::new(pattern));
    }
    Ok(if args.quantize_vision { recipe.with_vision() } else { recipe })
}

/// Whether a GGUF file is meant.
pub fn is_gguf(out: &Path) -> bool {
    out.extension().is_some_and(|extension| extension == "gguf")
}

/// How the output is laid out.
fn format(args: &Quantize, recipe: &Recipe) -> Result<Format, Failure> {
    let integers =
        matches!(recipe.scheme().uniform_codec(), Some(Codec::Int8 { .. } | Codec::Int4 { .. }));
    match (args.out.as_deref().is_some_and(is_gguf), args.layout) {
        (true, Some(_)) => Err(Failure::usage("--layout is for directories, not for GGUF files")),
        (true, None) => Ok(Format::Gguf),
        (false, Some(FolderLayout::CompressedTensors)) => Ok(Format::CompressedTensors),
        (false, None) if integers => Ok(Format::CompressedTensors),
        (false, _) => Ok(Format::Mlx),
    }
}

fn list_presets(output: &Output) -> Outcome {
    if output.json {
        let preset = |preset: &keeve_quantize::presets::Preset| {
            let lines = preset.describe();
            json!({ "name": preset.name, "base": preset.base.name(), "rules": lines[1..] })
        };
        output.result(&json!({ "presets": PRESETS.iter().map(preset).collect::<Vec<_>>() }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines: Vec<String> = PRESETS.iter().flat_map(|preset| preset.describe()).collect();
    let roles: Vec<&str> = keeve_quantize::Role::NAMES.iter().map(|(_, name)| *name).collect();
    let text = format!(
        "The first line is for all weights, those below it for exceptions; the first that fits counts.\n\n{}\n\nroles: {}\n",
        lines.join("\n"),
        roles.join(", ")
    );
    output.text(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// A table of what becomes of each tensor.
pub fn plan_table(plan: &Plan) -> String {
    let mut table =
        format!("{:52} {:12} {:14} {:14} {:>14}\n", "tensor", "role", "from", "to", "bytes");
    for tensor in &plan.tensors {
        let Planned { name, role, from, to, bytes, instead_of, hadamard, .. } = tensor;
        let mut note = match instead_of {
            Some(wanted) => format!("  instead of {wanted}, which its rows do not fit"),
            None => String::new(),
        };
        if let Some(block) = hadamard {
            note += &format!("  rotated in blocks of {block}");
        }
        let name = one_line(name);
        table += &format!("{name:52} {role:12} {from:14} {to:14} {bytes:>14}{note}\n");
    }
    table += &format!(
        "\n{:14} {:>7} {:>14} {:>14} {:>6}\n",
        "codec", "tensors", "weights", "bytes", "bits"
    );
    for (codec, sum) in plan.by_codec() {
        let bits = sum.bits();
        table += &format!(
            "{codec:14} {:>7} {:>14} {:>14} {bits:>6.3}\n",
            sum.tensors, sum.weights, sum.bytes
        );
    }
    let sum = plan.total();
    let bits = sum.bits();
    table
        + &format!(
            "{:14} {:>7} {:>14} {:>14} {bits:>6.3}\n",
            "all", sum.tensors, sum.weights, sum.bytes
        )
}

/// The same as JSON.
pub fn plan_json(plan: &Plan) -> Value {
    let tensor = |tensor: &Planned| {
        json!({
            "name": tensor.name, "role": tensor.role.name(), "shape": tensor.shape,
            "from": tensor.from.name(), "codec": tensor.to.name(), "bytes": tensor.bytes,
            "instead_of": tensor.instead_of.map(|codec| codec.name()),
        })
    };
    let total = plan.total();
    json!({
        "tensors": plan.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "codecs": plan.by_codec().iter().map(|(codec, sum)| json!({
            "codec": codec.name(), "tensors": sum.tensors, "weights": sum.weights,
            "bytes": sum.bytes, "bits_per_weight": sum.bits(),
        })).collect::<Vec<_>>(),
        "weights": total.weights, "bytes": total.bytes, "bits_per_weight": total.bits(),
    })
}

/// Reports what was made.
fn tell(
    plan: &Plan,
    report: &Report,
    smoothed: Option<&Smoothed>,
    out: &Path,
    output: &Output,
) -> Result<(), Failure> {
    let total = plan.total();
    if output.json {
        let mut result = plan_json(plan);
        result["out"] = json!(out.display().to_string());
        result["report"] = serde_json::to_value(report)?;
        if let Some(smoothed) = smoothed {
            result["smoothquant"] = json!({
                "trials": smoothed.trials, "kl_before": smoothed.before,
                "kl_after": smoothed.after, "tokens": smoothed.tokens,
            });
        }
        return output.result(&result);
    }
    let rate = report.float_bytes as f64 / report.seconds.max(1e-9) / 1e6;
    let again = report.encoded_again.len();
    if again > 0 {
        output.note(&format!("note: {again} tensors were packed already and lost twice"));
    }
    if report.resumed > 0 {
        output.note(&format!("note: {} tensors were there from an earlier run", report.resumed));
    }
    if let Some(smoothed) = smoothed {
        output.text(&smooth_table(smoothed))?;
    }
    let mmproj = report.mmproj.as_ref();
    let mmproj = mmproj.map_or(String::new(), |path| format!(" and {}", path.display()));
    output.text(&format!(
        "{}{mmproj}: {} ({:.3} bits a weight), {} tensors encoded and {} moved in {:.1} s, {rate:.0} MB/s of floats\n",
        out.display(),
        bytes(total.bytes),
        total.bits(),
        report.encoded,
        report.moved + report.rewritten,
        report.seconds,
    ))
}

/// What SmoothQuant tried, and what it kept.
fn smooth_table(smoothed: &Smoothed) -> String {
    let mut table = format!(
        "{:18} {:20} {:12} {:>10} {:>10}  kept\n",
        "SmoothQuant", "layers", "alpha", "KL before", "KL after"
    );
    for trial in &smoothed.trials {
        let numbers: Vec<String> = trial.layers.iter().map(usize::to_string).collect();
        let layers = match &numbers[..] {
            [first, .., last] if trial.layers.windows(2).all(|pair| pair[1] == pair[0] + 1) => {
                format!("{first} to {last}")
            }
            numbers => numbers.join(","),
        };
        let (least, most) = trial
            .alphas
            .iter()
            .fold((f32::INFINITY, 0.0f32), |(low, high), &a| (low.min(a), high.max(a)));
        let alpha = if least == most { format!("{least}") } else { format!("{least} to {most}") };
        let kept = if trial.kept { "yes" } else { "no" };
        let (kind, before, after) = (trial.kind, trial.before, trial.after);
        table +=
            &format!("{kind:18} {layers:20} {alpha:12} {before:>10.6} {after:>10.6}  {kept}\n");
    }
    let (before, after, tokens) = (smoothed.before, smoothed.after, smoothed.tokens);
    table + &format!("KL on {tokens} tokens of the text: {before:.6} without, {after:.6} with\n\n")
}
