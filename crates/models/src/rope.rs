//! Rotary frequencies from a config, scaled as `rope_scaling` says.
//!
//! Formulas as in huggingface/transformers `src/transformers/modeling_rope_utils.py`.

use std::f64::consts::TAU;

use keeve_graph::Rope;
use serde_json::Value;

use crate::Error;
use crate::config::{Config, quoted, short, wrong};

/// The rotary table for heads of which the first `dims` values turn.
pub(crate) fn rope(config: &Config<'_>, dims: usize, max_positions: usize) -> Result<Rope, Error> {
    rope_of_base(config, dims, max_positions, 10_000.0)
}

/// [`rope`] with the base where the config says nothing.
pub(crate) fn rope_of_base(
    config: &Config<'_>,
    dims: usize,
    max_positions: usize,
    default_base: f64,
) -> Result<Rope, Error> {
    if dims == 0 || !dims.is_multiple_of(2) {
        return Err(wrong("head_dim", format!("turns {dims} values, expected an even number")));
    }
    let base = config.positive("rope_theta", default_base)?;
    let plain: Vec<f64> =
        (0..dims / 2).map(|i| 1.0 / base.powf(2.0 * i as f64 / dims as f64)).collect();
    let unscaled = |frequencies: Vec<f64>| (frequencies, 1.0);
    let (frequencies, amplitude) = match config.get("rope_scaling") {
        None => unscaled(plain),
        Some(value) if value.is_object() => {
            let scaling = Config::new(value);
            let kind = match scaling.string("rope_type")? {
                Some(kind) => kind,
                None => scaling.string("type")?.unwrap_or("default"),
            };
            match kind {
                // Dynamic NTK changes the base beyond the positions that the model was made for, and nothing before
                // (`_compute_dynamic_ntk_parameters`).
                "default" | "none" | "dynamic" => unscaled(plain),
                "linear" => {
                    let factor = factor(&scaling)?;
                    unscaled(plain.iter().map(|frequency| frequency / factor).collect())
                }
                "llama3" => unscaled(llama3(&scaling, &plain)?),
                "yarn" => yarn(&scaling, &plain, base, dims, max_positions)?,
                "factors" => unscaled(divided(&scaling, &plain)?),
                other => {
                    let known = "default, dynamic, linear, llama3, longrope, yarn";
                    let problem =
                        format!("is {}, which is not supported (known: {known})", quoted(other));
                    return Err(wrong("rope_scaling.rope_type", problem));
                }
            }
        }
        Some(value) => {
            return Err(wrong("rope_scaling", format!("is {}, expected an object", short(value))));
        }
    };
    Ok(Rope {
        axes: vec![0; frequencies.len()],
        frequencies: frequencies.into_iter().map(|frequency| frequency as f32).collect(),
        amplitude: amplitude as f32,
    })
}

fn factor(scaling: &Config<'_>) -> Result<f64, Error> {
    required(scaling, "factor")
}

pub(crate) fn required(scaling: &Config<'_>, field: &'static str) -> Result<f64, Error> {
    let number = scaling.number(field)?.filter(|number| *number > 0.0);
    number.ok_or_else(|| wrong("rope_scaling", format!("needs '{field}', a number above 0")))
}

/// Llama 3: slow frequencies are divided by the factor, fast ones kept, those between blended.
fn llama3(scaling: &Config<'_>, plain: &[f64]) -> Result<Vec<f64>, Error> {
    let factor = factor(scaling)?;
    let low = required(scaling, "low_freq_factor")?;
    let high = required(scaling, "high_freq_factor")?;
    let original = required(scaling, "original_max_position_embeddings")?;
    if high <= low {
        return Err(wrong(
            "rope_scaling",
            format!("has high_freq_factor {high}, expected above low_freq_factor {low}"),
        ));
    }
    let scaled = plain.iter().map(|&frequency| {
        let wavelength = TAU / frequency;
        if wavelength < original / high {
            frequency
        } else if wavelength > original / low {
            frequency / factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    });
    Ok(scaled.collect())
}

/// Frequencies divided one by one, as GGUF's `rope_freqs.weight` says.
fn divided(scaling: &Config<'_>, plain: &[f64]) -> Result<Vec<f64>, Error> {
    let factors =
        scaling.get("factors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let numbers: Vec<f64> =
        factors.iter().filter_map(Value::as_f64).filter(|f| *f > 0.0 && f.is_finite()).collect();
    if numbers.len() != plain.len() || factors.len() != plain.len() {
        let problem = format!("has {} positive factors, expected {}", numbers.len(), plain.len());
        return Err(wrong("rope_scaling", problem));
    }
    Ok(plain.iter().zip(numbers).map(|(frequency, factor)| frequency / factor).collect())
}

/// YaRN (Peng et al. 2023, "YaRN: Efficient Context Window Extension of Large Language Models"):
/// frequencies and the factor that sine and cosine are multiplied by.
fn yarn(
    scaling: &Config<'_>,
    plain: &[f64],
    base: f64,
    dims: usize,
    max_positions: usize,
) -> Result<(Vec<f64>, f64), Error> {
    let original = match scaling.get("original_max_position_embeddings") {
        Some(_) => required(scaling, "original_max_position_embeddings")?,
        None => max_positions as f64,
    };
    let factor = match scaling.get("factor") {
        Some(_) => factor(scaling)?,
        None => max_positions as f64 / original,
    };
    let magnitude =
        |scale: f64, by: f64| if scale <= 1.0 { 1.0 } else { 0.1 * by * scale.ln() + 1.0 };
    let amplitude = match (
        scaling.number("attention_factor")?,
        scaling.number("mscale")?,
        scaling.number("mscale_all_dim")?,
    ) {
        (Some(given), ..) => given,
        (None, Some(one), Some(all)) if one != 0.0 && all != 0.0 => {
            magnitude(factor, one) / magnitude(factor, all)
        }
        _ => magnitude(factor, 1.0),
    };
    let fast = scaling.positive("beta_fast", 32.0)?;
    let slow = scaling.positive("beta_slow", 1.0)?;
    // The dimension whose frequency turns so often over the original context.
    let dimension = |turns: f64| dims as f64 * (original / (turns * TAU)).ln() / (2.0 * base.ln());
    let (mut low, mut high) = (dimension(fast), dimension(slow));
    if scaling.flag("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    low = low.max(0.0);
    high = high.min(dims as f64 - 1.0);
    if low == high {
        high += 0.001;
    }
    let scaled = plain.iter().enumerate().map(|(i, &frequency)| {
        let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        frequency / factor * stretched + frequency * (1.0 - stretched)
    });
    let scaled: Vec<f64> = scaled.collect();
    if !amplitude.is_finite() || scaled.iter().any(|frequency| !frequency.is_finite()) {
        return Err(wrong("rope_scaling", "gives frequencies that are not finite"));
    }
    Ok((scaled, amplitude))
}
