//! `keeve eval --rounding`: what rounding in products costs a model.

use std::process::ExitCode;
use std::sync::Arc;

use keeve::cpu::{Cpu, CpuOptions};
use keeve::engine::{Reencoded, Tensors};
use keeve::eval::rounding::{Case, Cost, Kind, Model};
use keeve::eval::{Comparison, Estimate, Text, windows};
use keeve::graph::{ProductRule, RowRounding, Weights};
use keeve::{Checkpoint, Isa};
use serde_json::{Value, json};

use super::eval::{aligned, number, read};
use super::quantize::cores;
use crate::args::Eval;
use crate::output::{Failure, Outcome, Output, one_line};
use crate::{interrupt, model};

/// The window where none is given.
const WINDOW: usize = 256;

/// A row of the table: what was rounded, and what that cost.
struct Row<'a> {
    model: &'a str,
    mode: &'a str,
    case: Case,
    cost: Cost,
}

pub fn run(args: &Eval, output: &Output) -> Outcome {
    interrupt::watch()?;
    let data = read(&args.data)?;
    let names: Vec<Option<&str>> = match &args.models[..] {
        [] => vec![None],
        names => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    let threads = args.compute.threads.unwrap_or_else(cores);
    let cpu = Cpu::new(CpuOptions { threads, isa: Isa::choose()? })?;
    let mut rows = vec![];
    for name in &names {
        let checkpoint = model::open(*name)?;
        rows.extend(measure(args, name.unwrap_or("demo model"), &checkpoint, &cpu, &data, output)?);
        if interrupt::interrupted() {
            break;
        }
    }
    if rows.iter().all(|row| row.cost == Cost::default()) {
        return Err(Failure::interrupted());
    }
    if output.json {
        output.result(&json!({
            "data": args.data,
            "window": args.window.unwrap_or(WINDOW),
            "complete": !interrupt::interrupted(),
            "rounding": rows.iter().map(row_json).collect::<Vec<_>>(),
        }))?;
    } else {
        output.text(&table(&rows, names.len() > 1))?;
    }
    match interrupt::interrupted() {
        true => Ok(ExitCode::from(interrupt::EXIT_CODE)),
        false => Ok(ExitCode::SUCCESS),
    }
}

/// What every case that was asked for costs a model.
fn measure<'a>(
    args: &'a Eval,
    name: &'a str,
    checkpoint: &Checkpoint,
    cpu: &Cpu,
    data: &str,
    output: &Output,
) -> Result<Vec<Row<'a>>, Failure> {
    let tokenizer = keeve::engine::tokenizer_of(checkpoint)?;
    let tokenizer = tokenizer.ok_or("the model has no tokenizer to read the text with")?;
    let text = Text::new(data, &tokenizer)?;
    let window = args.window.unwrap_or(WINDOW);
    let mut cut = windows::llama_cpp(text.ids().len(), window)?;
    if let Some(most) = args.max_tokens {
        windows::limit(&mut cut, most);
    }
    let built = keeve::models::build_for(checkpoint.config(), Some(window))
        .map_err(|error| format!("{}: {error}", checkpoint.config_path().display()))?;
    let graph = Arc::new(built.graph);
    let mut kinds = vec![None];
    if args.by_product {
        kinds.extend(Kind::of_graph(&graph).into_iter().map(Some));
    }
    let mut cases = vec![];
    for asked in &args.rounding {
        for &kind in &kinds {
            // A scheme does nothing to attention.
            let idle =
                matches!(asked.rule, ProductRule::Scheme(_)) && kind == Some(Kind::Attention);
            if !idle {
                let case = Case { rule: asked.rule, kind, kv_codec: args.compute.kv_codec };
                cases.push((asked.name.as_str(), case));
            }
        }
    }
    let runs = cases.iter().map(|(_, case)| case.runs()).sum::<usize>();
    let bar = output.token_bar(name, windows::scored(&cut).saturating_mul(runs));
    let stored = Tensors(checkpoint);
    let (codec, rotate) = (args.compute.weights, args.compute.rotate);
    let anew = codec.map(|codec| Reencoded::new(&stored, codec, rotate, &graph, cpu.threads()));
    let anew = anew.transpose()?;
    let model = Model {
        cpu,
        graph,
        vocabulary: built.vocabulary,
        weights: anew.as_ref().map_or(&stored as &dyn Weights, |anew| anew),
        made_of: anew.as_ref().map(|_| &stored as &dyn Weights),
        row_rounding: match anew {
            // As where a model runs.
            Some(_) => RowRounding::Cider,
            None => keeve::engine::row_rounding(checkpoint),
        },
    };
    let only: Vec<_> = cases.iter().map(|(_, case)| *case).collect();
    let costs = model.costs(&text, &cut, &only, &mut |count| {
        bar.add(count);
        !interrupt::interrupted()
    });
    let costs = costs.map_err(|error| format!("{name}: {error}"))?;
    let row = |((mode, case), cost)| Row { model: name, mode, case, cost };
    let mut rows: Vec<Row<'a>> = cases.into_iter().zip(costs).map(row).collect();
    // Everything first, in the order that was asked for, then single products, the worst first.
    rows.sort_by(|a, b| match (a.case.kind, b.case.kind) {
        (Some(_), Some(_)) => worst(&b.cost).total_cmp(&worst(&a.cost)),
        (a, b) => a.is_some().cmp(&b.is_some()),
    });
    Ok(rows)
}

/// The greater divergence of the two phases.
fn worst(cost: &Cost) -> f64 {
    let of =
        |phase: &Option<Comparison>| phase.as_ref().map_or(0.0, |phase| phase.divergence.value);
    of(&cost.prefill).max(of(&cost.decode))
}

fn table(rows: &[Row<'_>], several: bool) -> String {
    let mut lines = vec![vec!["rounded".to_owned()]];
    for phase in ["prefill", "decode"] {
        lines[0].extend([format!("{phase}: KL mean"), "KL p99".into(), "top-1 %".into()]);
    }
    for row in rows {
        let model = if several { format!("{}: ", one_line(row.model)) } else { String::new() };
        let kind = row.case.kind.map(|kind| format!(", only {}", kind.name())).unwrap_or_default();
        let mut line = vec![format!("{model}{}{kind}", row.mode)];
        for phase in [&row.cost.prefill, &row.cost.decode] {
            let phase = phase.as_ref();
            let percent = |share: Estimate| share.map(|share| 100.0 * share);
            let p99 = phase.and_then(|phase| phase.divergence_p99);
            line.extend([
                number(phase.map(|phase| phase.divergence), 6),
                number(p99.map(|p99| Estimate { interval: None, ..p99 }), 4),
                number(phase.map(|phase| percent(phase.agreement)), 2),
            ]);
        }
        lines.push(line);
    }
    let mut text = aligned(&lines);
    for row in rows {
        if let Some(why) = &row.cost.unsupported {
            text.push_str(&format!("{}: {}\n", row.mode, one_line(why)));
        }
    }
    text
}

fn row_json(row: &Row<'_>) -> Value {
    let phase = |phase: &Option<Comparison>| {
        phase.as_ref().map(|phase| {
            json!({
                "kl_mean": phase.divergence.value,
                "kl_mean_ci": phase.divergence.interval,
                "kl_p99": phase.divergence_p99.map(|p99| p99.value),
                "top1_agreement": phase.agreement.value,
                "top1_agreement_ci": phase.agreement.interval,
            })
        })
    };
    json!({
        "model": row.model,
        "mode": row.mode,
        "product": row.case.kind.map(Kind::name),
        "prefill": phase(&row.cost.prefill),
        "decode": phase(&row.cost.decode),
        "unsupported": row.cost.unsupported,
    })
}
