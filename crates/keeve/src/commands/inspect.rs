//! `keeve inspect`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use keeve::Checkpoint;
use keeve::checkpoint::TensorInfo;
use keeve::graph::{Graph, Op};
use serde_json::{Value, json};

use crate::args::Inspect;
use crate::model::{self, Sum};
use crate::output::{Outcome, Output, bytes, one_line};

/// Experts of a model's layers.
struct Experts {
    /// How many there are in a layer.
    count: usize,
    /// How many of them a token goes to.
    chosen: usize,
    /// Weights, over all layers, of those that it does not go to.
    idle: u64,
}

impl Experts {
    /// `None` if there are none. Layers that have experts have as many.
    fn of(graph: &Graph) -> Option<Self> {
        let mut found: Option<Self> = None;
        for node in graph.nodes() {
            let Op::ExpertLinear { weight, router, .. } = node.op else { continue };
            let weight = graph.weight(weight);
            let count = weight.experts.unwrap_or(1).max(1);
            let chosen = graph.node(router).shape.width / 2;
            let idle = weight.values() / count as u64 * count.saturating_sub(chosen) as u64;
            found.get_or_insert(Self { count, chosen, idle: 0 }).idle += idle;
        }
        found
    }
}

pub fn run(args: &Inspect, output: &Output) -> Outcome {
    let checkpoint = model::open_seeing(args.model.as_deref(), args.seeing.mmproj.as_deref())?;
    let model = keeve::models::build(checkpoint.config())
        .map_err(|error| format!("{}: {error}", checkpoint.config_path().display()));
    let mut roles: BTreeMap<(String, String), Sum> = BTreeMap::new();
    let mut total = Sum::default();
    for tensor in checkpoint.tensors() {
        roles.entry((role(&tensor.name), tensor.format.clone())).or_default().add(tensor);
        total.add(tensor);
    }
    let experts = model.as_ref().ok().and_then(|model| Experts::of(&model.graph));
    let architecture =
        checkpoint.config().get("model_type").and_then(Value::as_str).unwrap_or("unknown");
    if output.json {
        let mut result = json!({
            "architecture": architecture,
            "format": checkpoint.format(),
            "supported": model.is_ok(),
            "problem": model.as_ref().err(),
            "parameters": total.weights,
            "bytes": total.bytes,
            "bits_per_weight": total.bits(),
            "activations": activations(&checkpoint),
            "notes": checkpoint.notes(),
            "roles": roles.iter().map(|((role, codec), sum)| json!({
                "role": role, "codec": codec, "tensors": sum.tensors, "parameters": sum.weights,
                "bytes": sum.bytes, "bits_per_weight": sum.bits(),
            })).collect::<Vec<_>>(),
            "config": checkpoint.config(),
        });
        if let Some(experts) = &experts {
            result["experts"] = json!(experts.count);
            result["experts_per_token"] = json!(experts.chosen);
            result["active_parameters"] = json!(total.weights.saturating_sub(experts.idle));
        }
        if args.tensors {
            result["tensors"] = checkpoint.tensors().map(tensor_json).collect();
        }
        if args.graph {
            result["graph"] = json!(model?.graph.to_string());
        }
        output.result(&result)?;
        return Ok(ExitCode::SUCCESS);
    }
    output.text(&heading(&checkpoint, architecture, &total))?;
    if let Some(Experts { count, chosen, idle }) = experts {
        let active = total.weights.saturating_sub(idle);
        let lines = format!(
            "experts          {chosen} of {count} for a token\nactive           {active}\n"
        );
        output.text(&lines)?;
    }
    for activations in activations(&checkpoint) {
        output.text(&format!("activations      {activations}\n"))?;
    }
    for note in checkpoint.notes() {
        output.text(&format!("note             {note}\n"))?;
    }
    if let Err(error) = &model {
        output.text(&format!("not runnable: {}\n", one_line(error)))?;
    }
    let mut table = format!(
        "\n{:28} {:14} {:>7} {:>14} {:>12} {:>6}\n",
        "role", "codec", "tensors", "parameters", "bytes", "bits"
    );
    for ((role, codec), sum) in &roles {
        let Sum { tensors, weights, bytes } = sum;
        let role = one_line(role);
        table += &format!(
            "{role:28} {codec:14} {tensors:>7} {weights:>14} {bytes:>12} {:>6.2}\n",
            sum.bits()
        );
    }
    output.text(&table)?;
    if args.tensors {
        let line = |tensor: &TensorInfo| {
            let TensorInfo { format, shape, bytes, .. } = tensor;
            let name = one_line(&tensor.name);
            format!("{name:60} {format:14} {shape:?} {bytes} bytes\n")
        };
        output.text(&format!("\n{}", checkpoint.tensors().map(line).collect::<String>()))?;
    }
    if args.graph {
        output.text(&format!("\n{}", model?.graph))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn heading(checkpoint: &Checkpoint, architecture: &str, total: &Sum) -> String {
    format!(
        "architecture     {}\nformat           {}\nparameters       {}\nsize             {}\nbits per weight  {:.3}\n",
        one_line(architecture),
        checkpoint.format(),
        total.weights,
        bytes(total.bytes),
        total.bits(),
    )
}

/// How the checkpoint says inputs are rounded, each way once.
fn activations(checkpoint: &Checkpoint) -> BTreeSet<String> {
    let schemes = checkpoint.tensors().filter_map(|tensor| tensor.activations);
    schemes.map(|scheme| scheme.to_string()).collect()
}

fn tensor_json(tensor: &TensorInfo) -> Value {
    json!({
        "name": tensor.name,
        "codec": tensor.format,
        "shape": tensor.shape,
        "bytes": tensor.bytes,
        "activations": tensor.activations.map(|scheme| scheme.to_string()),
    })
}

/// The part a tensor plays, the same in every layer: its name without the layer's number.
fn role(name: &str) -> String {
    let parts = name.strip_suffix(".weight").unwrap_or(name).split('.');
    let kept: Vec<_> =
        parts.filter(|part| !part.is_empty() && part.parse::<u32>().is_err()).collect();
    let role = kept.join(".");
    role.strip_prefix("model.").unwrap_or(&role).into()
}
