//! LongRoPE (Ding et al. 2024, "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens"):
//! each frequency has two divisors, one for sequences as long as those of the first training and one
//! for longer ones.
//!
//! Formulas as in huggingface/transformers `src/transformers/modeling_rope_utils.py`. Which divisors
//! apply must not change in the middle of a sequence (the keys that it has would have been turned
//! otherwise), so the longest sequence that there may be decides.

use keeve_graph::Rope;
use serde_json::Value;

use crate::Error;
use crate::config::{Config, wrong};
use crate::rope::required;

const SCALING: &str = "rope_scaling";
const ORIGINAL: &str = "original_max_position_embeddings";

/// Whether positions are scaled by LongRoPE. `su` and, in Phi-3, `yarn` are older names for it.
pub(crate) fn is_long(config: &Config<'_>) -> Result<bool, Error> {
    let Some(scaling) = config.get(SCALING).filter(|value| value.is_object()) else {
        return Ok(false);
    };
    let scaling = Config::new(scaling);
    let kind = match scaling.string("rope_type")? {
        Some(kind) => Some(kind),
        None => scaling.string("type")?,
    };
    Ok(matches!(kind, Some("longrope" | "su" | "yarn")))
}

/// The rotary table for heads of which the first `dims` values turn. Without a known context, it is for
/// sequences of the original length, and `max_positions` becomes that.
pub(crate) fn long_rope(
    config: &Config<'_>,
    dims: usize,
    max_positions: &mut usize,
) -> Result<Rope, Error> {
    if dims == 0 || !dims.is_multiple_of(2) {
        return Err(wrong("head_dim", format!("turns {dims} values, expected an even number")));
    }
    let empty = Value::Null;
    let scaling = Config::new(config.get(SCALING).unwrap_or(&empty));
    let original = match scaling.width(ORIGINAL)? {
        Some(original) => Some(original),
        None => config.width(ORIGINAL)?,
    };
    let original = original.ok_or_else(|| wrong(ORIGINAL, "is missing"))?;
    let factor = match scaling.get("factor") {
        Some(_) => required(&scaling, "factor")?,
        None => *max_positions as f64 / original as f64,
    };
    let amplitude = match scaling.number("attention_factor")? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
    };
    if !(1e-6..=1e6).contains(&amplitude) {
        let problem = format!("gives an attention factor of {amplitude}");
        return Err(wrong(SCALING, problem));
    }
    let base = config.positive("rope_theta", 10_000.0)?;
    let plain = (0..dims / 2).map(|i| base.powf(2.0 * i as f64 / dims as f64));
    let is_longer = config.context.is_some_and(|context| context > original);
    if !is_longer {
        *max_positions = original.min(*max_positions);
    }
    let short = divisors(&scaling, "short_factor", dims / 2)?;
    let long = divisors(&scaling, "long_factor", dims / 2)?;
    let divisors = if is_longer { long } else { short };
    Ok(Rope {
        axes: vec![0; dims / 2],
        frequencies: plain.zip(divisors).map(|(plain, by)| (1.0 / (by * plain)) as f32).collect(),
        amplitude: amplitude as f32,
    })
}

/// A divisor for each of `count` frequencies.
fn divisors(scaling: &Config<'_>, field: &str, count: usize) -> Result<Vec<f64>, Error> {
    let list = scaling.value.get(field).and_then(Value::as_array);
    let list = list.map(Vec::as_slice).unwrap_or_default();
    let usable = |number: &f64| (1e-6..=1e9).contains(number);
    let numbers: Vec<f64> = list.iter().filter_map(Value::as_f64).filter(usable).collect();
    if numbers.len() != count || list.len() != count {
        let problem = format!("needs '{field}', a list of {count} numbers above 0");
        return Err(wrong(SCALING, problem));
    }
    Ok(numbers)
}
