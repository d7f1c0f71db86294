//! `keeve quantize`.

use std::path::Path;
use std::process::ExitCode;

use keeve::Codec;
use keeve_quantize::presets::PRESETS;
use keeve_quantize::{
    Format, Imatrix, Importance, Options, Pattern, Plan, Planned, Recipe, Report, Scheme, make,
};
use serde_json::{Value, json};

use crate::args::{FolderLayout, Quantize};
use crate::output::{Failure, Outcome, Output, WorkBar, bytes, one_line};
use crate::{interrupt, model};

pub fn run(args: &Quantize, output: &Output) -> Outcome {
    if args.choice.list_presets {
        return list_presets(output);
    }
    let recipe = recipe(args)?;
    let checkpoint = model::open(args.model.as_deref())?;
    let plan = Plan::new(&checkpoint, &recipe, format(args, &recipe)?)?;
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
    let bar = output.work_bar();
    let options = Options {
        force: args.force,
        threads: args.threads.unwrap_or_else(cores),
        file_type: recipe.scheme().file_type(),
        importance: &|name| importance.as_ref()?.get(name),
        seed: importance.as_ref().map_or(0, |importance| importance.fingerprint),
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
    tell(&plan, &report, out, output)?;
    Ok(ExitCode::SUCCESS)
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
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
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
        let Planned { name, role, from, to, bytes, instead_of, .. } = tensor;
        let note = match instead_of {
            Some(wanted) => format!("  instead of {wanted}, which its rows do not fit"),
            None => String::new(),
        };
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
fn tell(plan: &Plan, report: &Report, out: &Path, output: &Output) -> Result<(), Failure> {
    let total = plan.total();
    if output.json {
        let mut result = plan_json(plan);
        result["out"] = json!(out.display().to_string());
        result["report"] = serde_json::to_value(report)?;
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
    output.text(&format!(
        "{}: {} ({:.3} bits a weight), {} tensors encoded and {} moved in {:.1} s, {rate:.0} MB/s of floats\n",
        out.display(),
        bytes(total.bytes),
        total.bits(),
        report.encoded,
        report.moved + report.rewritten,
        report.seconds,
    ))
}
