//! Feed-forward parts that are mixtures of experts.
//!
//! Formulas: huggingface/transformers `models/qwen3_moe/modeling_qwen3_moe.py`,
//! `models/qwen2_moe/modeling_qwen2_moe.py` and `models/mixtral/modeling_mixtral.py`. Names of
//! stacked weights: ml-explore/mlx-lm `models/qwen3_moe.py` and `models/mixtral.py`.

use keeve_graph::{Graph, UnaryOp, ValueId};

use crate::Error;
use crate::config::{Config, short, wrong};
use crate::decoder::Decoder;

/// The most experts of a layer. Far above any real model.
const MOST: u64 = 1 << 16;

/// The experts of a decoder.
pub(crate) struct Experts {
    /// Whether each layer has them.
    pub layers: Vec<bool>,
    /// How the part of a layer that they are is called.
    pub block: &'static str,
    pub count: usize,
    /// How many a token goes to.
    pub chosen: usize,
    /// Width of each.
    pub width: usize,
    /// Whether the weights of those that were chosen are divided by their sum.
    pub normalize: bool,
    /// Width of one more expert, which every token goes to, times a sigmoid.
    pub shared: Option<usize>,
}

impl Experts {
    /// Reads what qwen2_moe and qwen3_moe configs have in common; `None` if there are no experts.
    pub fn read(config: &Config<'_>, layers: usize) -> Result<Option<Self>, Error> {
        let Some((count, chosen)) = counts(config)? else { return Ok(None) };
        let width = config.required("moe_intermediate_size")?;
        let step = config.width("decoder_sparse_step")?.unwrap_or(1);
        let mut sparse: Vec<bool> = (1..=layers).map(|layer| layer.is_multiple_of(step)).collect();
        for index in dense_layers(config, layers)? {
            sparse[index] = false;
        }
        Ok(Some(Self {
            layers: sparse,
            block: "mlp",
            count,
            chosen,
            width,
            normalize: config.flag("norm_topk_prob", false)?,
            shared: None,
        }))
    }

    /// The experts in place of the feed-forward part of `layer`.
    pub fn build(
        &self,
        decoder: &Decoder,
        graph: &mut Graph,
        x: ValueId,
        layer: &str,
    ) -> Result<ValueId, Error> {
        let block = format!("{layer}.{}", self.block);
        let scores = graph.linear(x, &format!("{block}.gate"), self.count, false)?;
        let router = graph.router(scores, self.chosen, self.normalize)?;
        let stack = format!("{block}.switch_mlp");
        let (gate_name, up_name) = (format!("{stack}.gate_proj"), format!("{stack}.up_proj"));
        let gate = graph.expert_linear((x, false), router, &gate_name, self.width)?;
        let up = graph.expert_linear((x, false), router, &up_name, self.width)?;
        let gate = graph.unary(gate, decoder.activation)?;
        let both = graph.mul(gate, up)?;
        let down_name = format!("{stack}.down_proj");
        let down = graph.expert_linear((both, true), router, &down_name, decoder.hidden)?;
        let sum = graph.expert_sum(down, router)?;
        let Some(width) = self.shared else { return Ok(sum) };
        let shared = decoder.feed_forward(graph, x, &format!("{block}.shared_expert"), width)?;
        let open = graph.linear(x, &format!("{block}.shared_expert_gate"), 1, false)?;
        let open = graph.unary(open, UnaryOp::Sigmoid)?;
        let shared = graph.scale_rows(shared, open)?;
        Ok(graph.add(sum, shared)?)
    }
}

/// How many experts there are and how many a token goes to; `None` if there are none.
pub(crate) fn counts(config: &Config<'_>) -> Result<Option<(usize, usize)>, Error> {
    // transformers has both names for it.
    let field = match config.get("num_experts") {
        Some(_) => "num_experts",
        None => "num_local_experts",
    };
    let count = config.integer(field, 0..=MOST)?;
    let count = count.ok_or_else(|| wrong("num_experts", "is missing"))?;
    let chosen = config.required("num_experts_per_tok")?;
    if count > 0 && chosen > count {
        let problem = format!("is {chosen}, more than the {count} experts");
        return Err(wrong("num_experts_per_tok", problem));
    }
    Ok((count > 0).then_some((count, chosen)))
}

/// The layers that `mlp_only_layers` names.
fn dense_layers(config: &Config<'_>, layers: usize) -> Result<Vec<usize>, Error> {
    const FIELD: &str = "mlp_only_layers";
    let Some(list) = config.get(FIELD) else { return Ok(vec![]) };
    let expected = || {
        let problem = format!("is {}, expected a list of layers below {layers}", short(list));
        wrong(FIELD, problem)
    };
    let index = |item: &serde_json::Value| {
        let index = item.as_u64().and_then(|index| usize::try_from(index).ok());
        index.filter(|index| *index < layers).ok_or_else(expected)
    };
    list.as_array().ok_or_else(expected)?.iter().map(index).collect()
}
