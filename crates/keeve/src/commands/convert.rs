//! `keeve convert`.

use std::process::ExitCode;

use keeve_quantize::{Format, Making, Options, Plan, make};
use serde_json::json;

use super::quantize::{Watch, cores, is_gguf, plan_json, plan_table, unused};
use crate::args::Convert;
use crate::output::{Outcome, Output, bytes, one_line};
use crate::{interrupt, model};

pub fn run(args: &Convert, output: &Output) -> Outcome {
    let checkpoint = model::open_seeing(args.model.as_deref(), args.seeing.mmproj.as_deref())?;
    let format = if is_gguf(&args.out) { Format::Gguf } else { Format::Mlx };
    let plan = Plan::keeping(&checkpoint, format)?;
    unused(&plan, output);
    if args.dry_run {
        match output.json {
            true => output.result(&plan_json(&plan))?,
            false => output.text(&plan_table(&plan))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    interrupt::watch()?;
    let bar = output.work_bar();
    let file_type = checkpoint.gguf_metadata().map(|found| found.count("general.file_type"));
    let options = Options {
        force: args.force,
        making: Making {
            importance: None,
            folds: None,
            threads: args.threads.unwrap_or_else(cores),
        },
        file_type: file_type.transpose()?.flatten().and_then(|number| u32::try_from(number).ok()),
        observer: &Watch(&bar),
    };
    let report = make(&checkpoint, &plan, &args.out, &options);
    drop(bar);
    let report = report?;
    let lost: Vec<_> = plan.tensors.iter().filter(|tensor| !tensor.is_exact()).collect();
    if output.json {
        let mut result = plan_json(&plan);
        result["out"] = json!(args.out.display().to_string());
        result["report"] = serde_json::to_value(&report)?;
        result["encoded"] = lost.iter().map(|tensor| tensor.name.clone()).collect();
        output.result(&result)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for tensor in &lost {
        let name = one_line(&tensor.name);
        text += &format!("encoded anew: {name} {} -> {}\n", tensor.from, tensor.to);
    }
    text += &format!(
        "{}: {}, {} tensors moved, {} rewritten with the same values, {} encoded anew\n",
        args.out.display(),
        bytes(plan.total().bytes),
        report.moved,
        report.rewritten,
        report.encoded,
    );
    if let Some(mmproj) = &report.mmproj {
        text += &format!("{}: what it sees with\n", mmproj.display());
    }
    output.text(&text)?;
    Ok(ExitCode::SUCCESS)
}
