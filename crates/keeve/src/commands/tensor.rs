//! `keeve tensor`.

use std::process::ExitCode;

use keeve::checkpoint::safetensors::write_f32;
use serde_json::json;

use crate::args::Tensor;
use crate::model;
use crate::output::{Failure, Outcome, Output};

pub fn run(args: &Tensor, output: &Output) -> Outcome {
    let (model, name) = match &args.positional[..] {
        [name] => (None, name),
        [model, name] => (Some(model.as_str()), name),
        _ => return Err(Failure::usage("tensor needs [MODEL] NAME")),
    };
    let checkpoint = model::open(model)?;
    let tensor = checkpoint.tensor(name)?;
    let info = checkpoint.info(name)?;
    if let Some(out) = &args.out {
        write_f32(out, "value", &info.shape, &keeve::codec::decode(&tensor))?;
    }
    let codec = tensor.codec();
    if output.json {
        output.result(&json!({
            "name": name,
            "codec": codec.name(),
            "shape": info.shape,
            "bytes": tensor.bytes(),
            "out": args.out,
        }))?;
    } else {
        output.text(&format!("{name} {codec} {:?} {} bytes\n", info.shape, tensor.bytes()))?;
    }
    Ok(ExitCode::SUCCESS)
}
