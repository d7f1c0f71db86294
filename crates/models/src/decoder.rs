//! The decoder that most language models share: embed, layers of attention and a gated
//! feed-forward part around a residual stream, norm, head. What is in a layer is in `layer.rs`.

use keeve_graph::{Graph, Rope, UnaryOp, ValueId, Want};
use serde_json::Value;

use crate::config::{Config, quoted, short, wrong};
use crate::experts::Experts;
use crate::rope::rope;
use crate::{Error, Model};

/// Layers that a config may ask for; the graph is built layer by layer, so it must be bounded.
const MAX_LAYERS: u64 = 2048;

/// The dimensions that decoders share, read from a config.
pub(crate) struct Decoder {
    /// What the names of all tensors but the head's begin with.
    pub prefix: &'static str,
    pub layers: usize,
    pub hidden: usize,
    pub feed_forward: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub eps: f32,
    /// The tokens that attention sees: in local layers if there are such, else everywhere.
    pub window: Option<usize>,
    /// Layers that differ from the others; `None` if all are alike.
    pub local: Option<Local>,
    /// Layers without rotary positions; `None` if all have them.
    pub unturned: Option<Vec<bool>>,
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub feed_forward_bias: bool,
    pub qk_norm: Option<QkNorm>,
    pub norms: Norms,
    /// Whether queries, keys and values come from one product, and gate and up from another.
    pub fused: bool,
    /// Whether what goes into the output projections of attention and feed-forward is normalized.
    pub sub_norms: bool,
    /// Whether the inputs of the products in layers are rounded to 8 bits.
    pub rounded_inputs: bool,
    /// Whether the gains of norms are 1 plus the weight.
    pub one_plus_norms: bool,
    pub activation: UnaryOp,
    /// Layers whose feed-forward part is a mixture of experts.
    pub experts: Option<Experts>,
    /// What embeddings are multiplied by.
    pub embedding_scale: Option<f32>,
    /// What attention and feed-forward add is multiplied by.
    pub residual_scale: Option<f32>,
    /// Products of queries and keys are multiplied by it; `None`: 1 over the root of a head's width.
    pub attention_scale: Option<f32>,
    /// Caps attention scores.
    pub score_cap: Option<f32>,
    /// What logits are multiplied by.
    pub logits_scale: Option<f32>,
    /// Caps logits.
    pub logits_cap: Option<f32>,
    pub max_positions: usize,
    pub tied_head: bool,
    /// The first layers, this many, after which rows that the step gives are added to, each layer with
    /// columns of its own.
    pub added_layers: usize,
    vocabulary: usize,
}

/// Layers that see a window and turn by a table of their own.
pub(crate) struct Local {
    pub rope: Rope,
    /// Whether each layer is local.
    pub layers: Vec<bool>,
}

/// What is normalized in queries and keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum QkNorm {
    /// Each head.
    Heads,
    /// The whole row.
    Row,
}

/// Where the norms of a layer are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Norms {
    /// Before attention and feed-forward.
    Before,
    /// After them.
    After,
    /// Before and after.
    Around,
}

/// The activation function that `field` names, if it is there.
pub(crate) fn activation(
    config: &Config<'_>,
    field: &'static str,
) -> Result<Option<UnaryOp>, Error> {
    match config.string(field)? {
        None => Ok(None),
        Some("silu" | "swish") => Ok(Some(UnaryOp::Silu)),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Some(UnaryOp::GeluTanh)),
        Some("relu2") => Ok(Some(UnaryOp::SquaredRelu)),
        Some(other) => Err(wrong(
            field,
            format!(
                "is {}, which is not supported (known: silu, gelu_pytorch_tanh, relu2)",
                quoted(other)
            ),
        )),
    }
}

/// Whether weights are ternary as in BitNet, and so multiplied with inputs rounded to 8 bits for each
/// token, as they were trained: huggingface/transformers `integrations/bitnet.py`.
fn has_rounded_inputs(config: &Config<'_>) -> Result<bool, Error> {
    const FIELD: &str = "quantization_config";
    let Some(block) = config.get(FIELD).filter(|block| block.is_object()) else {
        return Ok(false);
    };
    if block.get("quant_method").and_then(Value::as_str) != Some("bitnet") {
        return Ok(false);
    }
    let block = Config::new(block);
    if block.flag("use_rms_norm", false)? {
        return Err(wrong(FIELD, "has 'use_rms_norm': true, which keeve does not support"));
    }
    let kept = block.get("modules_to_not_convert").and_then(Value::as_array);
    let in_layer = |module: &&Value| module.as_str().is_none_or(|name| name != "lm_head");
    match kept.into_iter().flatten().find(in_layer) {
        Some(module) => {
            let module = short(module);
            let problem = format!("leaves {module} in floats; keeve expects that of lm_head only");
            Err(wrong(FIELD, problem))
        }
        None => Ok(true),
    }
}

impl Decoder {
    /// Reads what llama, mistral and qwen3 configs have in common.
    pub fn read(config: &Config<'_>) -> Result<Self, Error> {
        let decoder = Self::read_partly_turned(config)?;
        if config.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(wrong("partial_rotary_factor", "is not 1, which is not supported here"));
        }
        Ok(decoder)
    }

    /// [`Self::read`] for architectures that read `partial_rotary_factor`.
    pub fn read_partly_turned(config: &Config<'_>) -> Result<Self, Error> {
        let hidden = config.required("hidden_size")?;
        let heads = config.required("num_attention_heads")?;
        let kv_heads = config.width("num_key_value_heads")?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(wrong(
                "num_key_value_heads",
                format!("is {kv_heads}, which does not divide the {heads} heads"),
            ));
        }
        let head_dim = match config.width("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(wrong(
                    "head_dim",
                    format!("is missing, and {heads} heads do not divide hidden_size {hidden}"),
                ));
            }
        };
        let layers = config.integer("num_hidden_layers", 1..=MAX_LAYERS)?;
        let attention_bias = config.flag("attention_bias", false)?;
        Ok(Self {
            prefix: "model",
            layers: layers.ok_or_else(|| wrong("num_hidden_layers", "is missing"))?,
            hidden,
            feed_forward: config.required("intermediate_size")?,
            heads,
            kv_heads,
            head_dim,
            eps: config.positive("rms_norm_eps", 1e-6)? as f32,
            window: None,
            local: None,
            unturned: None,
            qkv_bias: attention_bias,
            output_bias: attention_bias,
            feed_forward_bias: config.flag("mlp_bias", false)?,
            qk_norm: None,
            norms: Norms::Before,
            fused: false,
            sub_norms: false,
            rounded_inputs: has_rounded_inputs(config)?,
            one_plus_norms: false,
            activation: activation(config, "hidden_act")?.unwrap_or(UnaryOp::Silu),
            experts: None,
            embedding_scale: None,
            residual_scale: None,
            attention_scale: None,
            score_cap: None,
            logits_scale: None,
            logits_cap: None,
            vocabulary: config.required("vocab_size")?,
            max_positions: config.width("max_position_embeddings")?.unwrap_or(2048),
            tied_head: config.flag("tie_word_embeddings", false)?,
            added_layers: 0,
        })
    }

    /// The whole model.
    pub fn build(self, architecture: &'static str, config: &Config<'_>) -> Result<Model, Error> {
        let rope = rope(config, self.head_dim, self.max_positions)?;
        self.build_with(architecture, rope)
    }

    /// [`Self::build`] with a rotary table that is not read from the config's usual fields.
    pub fn build_with(self, architecture: &'static str, rope: Rope) -> Result<Model, Error> {
        let mut graph = Graph::new();
        let rope = graph.rope_table(rope)?;
        let local = match &self.local {
            Some(local) => Some((graph.rope_table(local.rope.clone())?, &local.layers)),
            None => None,
        };
        let embedding = &format!("{}.embed_tokens", self.prefix);
        let mut x = graph.embed(&format!("{embedding}.weight"), self.vocabulary, self.hidden)?;
        if let Some(scale) = self.embedding_scale {
            x = graph.scale(x, scale)?;
        }
        graph.name(x, embedding);
        for index in 0..self.layers {
            let (rope, window) = match local {
                Some((local, layers)) if layers[index] => (local, self.window),
                Some(_) => (rope, None),
                None => (rope, self.window),
            };
            let unturned = self.unturned.as_ref().is_some_and(|layers| layers[index]);
            x = self.layer(&mut graph, x, index, (!unturned).then_some(rope), window)?;
            if index < self.added_layers {
                // No overflow: the hidden state is at most 2^24 wide, and there are few layers.
                let columns = (index + 1) * self.hidden..(index + 2) * self.hidden;
                let added = graph.given(columns)?;
                x = graph.add(x, added)?;
            }
        }
        let head = if self.tied_head { embedding } else { "lm_head" };
        for want in [Want::Hidden, Want::Logits] {
            let rows = graph.select_rows(x, want)?;
            let mut value =
                self.norm(&mut graph, rows, &format!("{}.norm", self.prefix), self.hidden)?;
            if want == Want::Logits {
                value = graph.linear(value, head, self.vocabulary, false)?;
                if let Some(scale) = self.logits_scale {
                    value = graph.scale(value, scale)?;
                }
                if let Some(cap) = self.logits_cap {
                    value = graph.scale(value, 1.0 / cap)?;
                    value = graph.unary(value, UnaryOp::Tanh)?;
                    value = graph.scale(value, cap)?;
                }
                graph.name(value, "lm_head");
            }
            graph.output(want, value)?;
        }
        Ok(Model {
            architecture,
            graph,
            vocabulary: self.vocabulary,
            max_positions: self.max_positions,
            layers: self.layers,
            hidden: self.hidden,
            tied_head: self.tied_head,
            vision: None,
        })
    }

    /// Normalizes each run of `length` values in a row.
    pub fn norm(
        &self,
        graph: &mut Graph,
        x: ValueId,
        name: &str,
        length: usize,
    ) -> Result<ValueId, Error> {
        Ok(match self.one_plus_norms {
            true => graph.rms_norm_one_plus(x, name, length, self.eps)?,
            false => graph.rms_norm(x, name, length, self.eps)?,
        })
    }
}
