//! `keeve tensor`.

use std::process::ExitCode;

use serde_json::json;

use crate::args::Tensor;
use crate::model;
use crate::output::{Failure, Outcome, Output, one_line, write_f32};

pub fn run(args: &Tensor, output: &Output) -> Outcome {
    let (model, name) = match &args.positional[..] {
        [name] => (None, name),
        [model, name] => (Some(model.as_str()), name),
        _ => return Err(Failure::usage("tensor needs [MODEL] NAME")),
    };
    let checkpoint = model::open(model)?;
    let tensor = checkpoint.tensor(name)?;
    let shape = checkpoint
        .info(name)
        .map_or_else(|| vec![tensor.rows(), tensor.cols()], |info| info.shape.clone());
    if let Some(out) = &args.out {
        write_f32(out, "value", &shape, &keeve::codec::decode(&tensor))?;
    }
    let codec = tensor.codec();
    if output.json {
        output.result(&json!({
            "name": name,
            "codec": codec.name(),
            "shape": shape,
            "bytes": tensor.bytes(),
            "out": args.out,
        }))?;
    } else {
        let name = one_line(name);
        output.text(&format!("{name} {codec} {shape:?} {} bytes\n", tensor.bytes()))?;
    }
    Ok(ExitCode::SUCCESS)
}
