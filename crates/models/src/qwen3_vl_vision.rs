//! The vision encoder of Qwen3-VL: layers of attention both ways and a feed-forward part, mergers that make
//! a token of some patches, and learned positions beside turned ones.
//!
//! huggingface/transformers `models/qwen3_vl/modeling_qwen3_vl.py`.

use keeve_graph::{Attention, Graph, Rope, Slot, UnaryOp, ValueId, Want, Weight};

use crate::Error;
use crate::config::{Config, short, wrong};
use crate::decoder::activation;
use crate::vision::{Block, PositionTable, Vision};

/// What the names of all tensors begin with.
const PREFIX: &str = "model.visual";
/// Added to variances; not in the config.
const EPS: f32 = 1e-6;
/// The base of rotary frequencies; not in the config.
const ROPE_BASE: f64 = 10_000.0;
/// Layers that a config may ask for.
const MAX_LAYERS: u64 = 512;
/// Patches along a side that may become one token.
const MAX_MERGE: u64 = 8;

/// The dimensions of an encoder.
struct Encoder {
    hidden: usize,
    feed_forward: usize,
    heads: usize,
    head_dim: usize,
    activation: UnaryOp,
    /// Patches that become one token.
    merged: usize,
    /// Width of what the language model is given.
    out: usize,
}

/// The encoder of a `vision_config`, for a language model of `width` with `layers` layers.
pub(crate) fn vision(
    config: &Config<'_>,
    width: usize,
    layers: usize,
    image_token: u32,
) -> Result<Vision, Error> {
    let (hidden, heads) = (config.required("hidden_size")?, config.required("num_heads")?);
    if !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(4) {
        let problem = format!("is {heads}, expected heads of a multiple of 4 of {hidden} values");
        return Err(wrong("num_heads", problem));
    }
    let out = config.width("out_hidden_size")?.unwrap_or(width);
    if out != width {
        let problem = format!("is {out}, but the language model is {width} wide");
        return Err(wrong("out_hidden_size", problem));
    }
    let merge = config.integer("spatial_merge_size", 1..=MAX_MERGE)?.unwrap_or(2);
    let encoder = Encoder {
        hidden,
        feed_forward: config.required("intermediate_size")?,
        heads,
        head_dim: hidden / heads,
        activation: activation(config, "hidden_act")?.unwrap_or(UnaryOp::GeluTanh),
        merged: merge * merge,
        out,
    };
    let depth = config.integer("depth", 1..=MAX_LAYERS)?;
    let depth = depth.ok_or_else(|| wrong("depth", "is missing"))?;
    let after = feature_layers(config, depth)?;
    if after.len() > layers {
        let problem = format!("names {} layers, but the language model has {layers}", after.len());
        return Err(wrong("deepstack_visual_indexes", problem));
    }
    let patch_width = patch_width(config)?;
    let block = |index: usize| {
        let merger = after.iter().position(|&layer| layer == index);
        let features = merger.map(|merger| {
            // Normalized after patches are put side by side, unlike the last merger's.
            let name = format!("{PREFIX}.deepstack_merger_list.{merger}");
            encoder.merger(&name, encoder.merged * hidden)
        });
        Ok(Block { graph: encoder.block(index)?, features: features.transpose()? })
    };
    Ok(Vision {
        image_token,
        patch_width,
        merge,
        hidden,
        width: out,
        positions: positions(config, hidden)?,
        embed: encoder.embed(patch_width)?,
        blocks: (0..depth).map(block).collect::<Result<_, Error>>()?,
        merger: encoder.merger(&format!("{PREFIX}.merger"), hidden)?,
    })
}

/// Values of a patch.
fn patch_width(config: &Config<'_>) -> Result<usize, Error> {
    let side = config.width("patch_size")?.unwrap_or(16);
    let factors = [
        config.width("in_channels")?.unwrap_or(3),
        config.width("temporal_patch_size")?.unwrap_or(2),
        side,
        side,
    ];
    let product = factors.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor));
    product.ok_or_else(|| wrong("patch_size", format!("is {side}, which is too large")))
}

/// Layers whose result the language model is given too, in order.
fn feature_layers(config: &Config<'_>, depth: usize) -> Result<Vec<usize>, Error> {
    const FIELD: &str = "deepstack_visual_indexes";
    let Some(list) = config.get(FIELD) else { return Ok(vec![]) };
    let wrong = || {
        let problem = format!("is {}, expected layers below {depth} in order", short(list));
        wrong(FIELD, problem)
    };
    let items = list.as_array().ok_or_else(wrong)?;
    let layer = |item: &serde_json::Value| {
        let number = item.as_u64().and_then(|number| usize::try_from(number).ok());
        number.filter(|&number| number < depth).ok_or_else(wrong)
    };
    let layers = items.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
    match layers.windows(2).all(|pair| pair[0] < pair[1]) {
        true => Ok(layers),
        false => Err(wrong()),
    }
}

/// The table of learned positions.
fn positions(config: &Config<'_>, hidden: usize) -> Result<PositionTable, Error> {
    const FIELD: &str = "num_position_embeddings";
    let rows = config.required(FIELD)?;
    let side = rows.isqrt();
    if side * side != rows {
        return Err(wrong(FIELD, format!("is {rows}, expected a square")));
    }
    let name = format!("{PREFIX}.pos_embed.weight");
    let weight = Weight { name, rows, cols: hidden, experts: None, one_plus: false };
    Ok(PositionTable { weight, side })
}

impl Encoder {
    fn embed(&self, patch_width: usize) -> Result<Graph, Error> {
        let mut graph = Graph::new();
        let pixels = graph.given(0..patch_width)?;
        let name = format!("{PREFIX}.patch_embed.proj");
        let patches = graph.linear(pixels, &name, self.hidden, true)?;
        let end = patch_width.saturating_add(self.hidden);
        let positions = graph.given(patch_width..end)?;
        let x = graph.add(patches, positions)?;
        put_out(graph, x)
    }

    /// The layer `index`.
    fn block(&self, index: usize) -> Result<Graph, Error> {
        let name = format!("{PREFIX}.blocks.{index}");
        let mut graph = Graph::new();
        let x = graph.given(0..self.hidden)?;
        let normed = graph.layer_norm(x, &format!("{name}.norm1"), self.hidden, EPS)?;
        let attended = self.attention(&mut graph, normed, &format!("{name}.attn"))?;
        let x = graph.add(attended, x)?;
        let normed = graph.layer_norm(x, &format!("{name}.norm2"), self.hidden, EPS)?;
        let inner = format!("{name}.mlp.linear_fc1");
        let inner = graph.linear(normed, &inner, self.feed_forward, true)?;
        let inner = graph.unary(inner, self.activation)?;
        let outer = graph.linear(inner, &format!("{name}.mlp.linear_fc2"), self.hidden, true)?;
        let x = graph.add(outer, x)?;
        put_out(graph, x)
    }

    fn attention(&self, graph: &mut Graph, x: ValueId, name: &str) -> Result<ValueId, Error> {
        let Self { hidden, heads, head_dim, .. } = *self;
        let all = graph.linear(x, &format!("{name}.qkv"), 3 * hidden, true)?;
        let part =
            |graph: &mut Graph, part: usize| graph.slice(all, part * hidden..(part + 1) * hidden);
        let (q, k, v) = (part(graph, 0)?, part(graph, 1)?, part(graph, 2)?);
        let rope = graph.rope_table(self.rope())?;
        let (q, k) = (graph.rope(q, rope, head_dim)?, graph.rope(k, rope, head_dim)?);
        let state = graph.state(Slot::Paged { kv_heads: heads, head_dim });
        let spec = Attention {
            heads,
            kv_heads: heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window: None,
            soft_cap: None,
            causal: false,
        };
        let (attended, _) = graph.attention((q, k, v), state, spec)?;
        Ok(graph.linear(attended, &format!("{name}.proj"), hidden, true)?)
    }

    /// Half of the pairs of a head turn by row, half by column.
    fn rope(&self) -> Rope {
        let each = self.head_dim / 4;
        let frequency = |i: usize| ROPE_BASE.powf(-(i as f64) / each as f64) as f32;
        Rope {
            frequencies: (0..2 * each).map(|i| frequency(i % each)).collect(),
            axes: (0..2 * each).map(|i| if i < each { 1 } else { 2 }).collect(),
            amplitude: 1.0,
        }
    }

    /// Makes a token of patches side by side, each run of `normed` values of which is normalized.
    fn merger(&self, name: &str, normed: usize) -> Result<Graph, Error> {
        let width = self.merged * self.hidden;
        let mut graph = Graph::new();
        let x = graph.given(0..width)?;
        let x = graph.layer_norm(x, &format!("{name}.norm"), normed, EPS)?;
        let x = graph.linear(x, &format!("{name}.linear_fc1"), width, true)?;
        let x = graph.unary(x, UnaryOp::Gelu)?;
        let x = graph.linear(x, &format!("{name}.linear_fc2"), self.out, true)?;
        put_out(graph, x)
    }
}

/// Puts out a hidden row for each row.
fn put_out(mut graph: Graph, x: ValueId) -> Result<Graph, Error> {
    let rows = graph.select_rows(x, Want::Hidden)?;
    graph.output(Want::Hidden, rows)?;
    Ok(graph)
}
