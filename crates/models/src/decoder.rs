//! The decoder that most language models share: embed, layers of attention and a gated
//! feed-forward part around a residual stream, norm, head.

use keeve_graph::{Attention, Graph, Rope, RopeId, Slot, UnaryOp, ValueId, Want};

use crate::config::{Config, quoted, wrong};
use crate::rope::rope;
use crate::{Error, Model};

/// Layers that a config may ask for; the graph is built layer by layer, so it must be bounded.
const MAX_LAYERS: u64 = 2048;

/// The dimensions that decoders share, read from a config.
pub(crate) struct Decoder {
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
    pub qkv_bias: bool,
    pub output_bias: bool,
    pub feed_forward_bias: bool,
    /// Whether each head of queries and keys is normalized.
    pub qk_norm: bool,
    /// Whether the results of attention and feed-forward are normalized too, before they are added.
    pub sandwich: bool,
    /// Whether the gains of norms are 1 plus the weight.
    pub one_plus_norms: bool,
    pub activation: UnaryOp,
    /// What embeddings are multiplied by.
    pub embedding_scale: Option<f32>,
    /// Products of queries and keys are divided by its root; `None`: the width of a head.
    pub query_scalar: Option<f64>,
    /// Caps attention scores.
    pub score_cap: Option<f32>,
    /// Caps logits.
    pub logits_cap: Option<f32>,
    pub max_positions: usize,
    pub tied_head: bool,
    vocabulary: usize,
}

/// Layers that see a window and turn by a table of their own.
pub(crate) struct Local {
    pub rope: Rope,
    /// Whether each layer is local.
    pub layers: Vec<bool>,
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
        Some(other) => Err(wrong(
            field,
            format!(
                "is {}, which is not supported (known: silu, gelu_pytorch_tanh)",
                quoted(other)
            ),
        )),
    }
}

impl Decoder {
    /// Reads what llama, mistral and qwen3 configs have in common.
    pub fn read(config: &Config<'_>) -> Result<Self, Error> {
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
        if config.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(wrong("partial_rotary_factor", "is not 1, which is not supported here"));
        }
        let layers = config.integer("num_hidden_layers", 1..=MAX_LAYERS)?;
        let attention_bias = config.flag("attention_bias", false)?;
        Ok(Self {
            layers: layers.ok_or_else(|| wrong("num_hidden_layers", "is missing"))?,
            hidden,
            feed_forward: config.required("intermediate_size")?,
            heads,
            kv_heads,
            head_dim,
            eps: config.positive("rms_norm_eps", 1e-6)? as f32,
            window: None,
            local: None,
            qkv_bias: attention_bias,
            output_bias: attention_bias,
            feed_forward_bias: config.flag("mlp_bias", false)?,
            qk_norm: false,
            sandwich: false,
            one_plus_norms: false,
            activation: activation(config, "hidden_act")?.unwrap_or(UnaryOp::Silu),
            embedding_scale: None,
            query_scalar: None,
            score_cap: None,
            logits_cap: None,
            vocabulary: config.required("vocab_size")?,
            max_positions: config.width("max_position_embeddings")?.unwrap_or(2048),
            tied_head: config.flag("tie_word_embeddings", false)?,
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
        let embedding = "model.embed_tokens";
        let mut x = graph.embed(&format!("{embedding}.weight"), self.vocabulary, self.hidden)?;
        if let Some(scale) = self.embedding_scale {
            x = graph.scale(x, scale)?;
        }
        graph.name(x, embedding);
        let (after_attention, before_fed) = match self.sandwich {
            true => (Some("post_attention_layernorm"), "pre_feedforward_layernorm"),
            false => (None, "post_attention_layernorm"),
        };
        let after_fed = self.sandwich.then_some("post_feedforward_layernorm");
        for index in 0..self.layers {
            let layer = format!("model.layers.{index}");
            let (rope, window) = match local {
                Some((local, layers)) if layers[index] => (local, self.window),
                Some(_) => (rope, None),
                None => (rope, self.window),
            };
            let norm = |graph: &mut Graph, x: ValueId, name: &str| {
                self.norm(graph, x, &format!("{layer}.{name}"), self.hidden)
            };
            let normed = norm(&mut graph, x, "input_layernorm")?;
            let name = format!("{layer}.self_attn");
            let mut attended = self.attention(&mut graph, normed, &name, rope, window)?;
            if let Some(name) = after_attention {
                attended = norm(&mut graph, attended, name)?;
            }
            x = graph.add(x, attended)?;
            let normed = norm(&mut graph, x, before_fed)?;
            let mut fed = self.feed_forward(&mut graph, normed, &format!("{layer}.mlp"))?;
            if let Some(name) = after_fed {
                fed = norm(&mut graph, fed, name)?;
            }
            x = graph.add(x, fed)?;
            graph.name(x, layer);
        }
        let head = if self.tied_head { embedding } else { "lm_head" };
        for want in [Want::Hidden, Want::Logits] {
            let rows = graph.select_rows(x, want)?;
            let mut value = self.norm(&mut graph, rows, "model.norm", self.hidden)?;
            if want == Want::Logits {
                value = graph.linear(value, head, self.vocabulary, false)?;
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
        })
    }

    fn norm(
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

    fn attention(
        &self,
        graph: &mut Graph,
        x: ValueId,
        name: &str,
        rope: RopeId,
        window: Option<usize>,
    ) -> Result<ValueId, Error> {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        let project = |graph: &mut Graph, part: &str, heads: usize| {
            graph.linear(x, &format!("{name}.{part}_proj"), heads * head_dim, self.qkv_bias)
        };
        let mut q = project(graph, "q", heads)?;
        let mut k = project(graph, "k", kv_heads)?;
        let v = project(graph, "v", kv_heads)?;
        if self.qk_norm {
            q = self.norm(graph, q, &format!("{name}.q_norm"), head_dim)?;
            k = self.norm(graph, k, &format!("{name}.k_norm"), head_dim)?;
        }
        q = graph.rope(q, rope, head_dim)?;
        k = graph.rope(k, rope, head_dim)?;
        let state = graph.state(Slot::Paged { kv_heads, head_dim });
        let scalar = self.query_scalar.unwrap_or(head_dim as f64) as f32;
        let scale = 1.0 / scalar.sqrt();
        let spec = Attention { heads, kv_heads, head_dim, scale, window, soft_cap: self.score_cap };
        let (attended, _) = graph.attention((q, k, v), state, spec)?;
        Ok(graph.linear(attended, &format!("{name}.o_proj"), self.hidden, self.output_bias)?)
    }

    fn feed_forward(&self, graph: &mut Graph, x: ValueId, name: &str) -> Result<ValueId, Error> {
        let bias = self.feed_forward_bias;
        let gate = graph.linear(x, &format!("{name}.gate_proj"), self.feed_forward, bias)?;
        let up = graph.linear(x, &format!("{name}.up_proj"), self.feed_forward, bias)?;
        let gate = graph.unary(gate, self.activation)?;
        let both = graph.mul(gate, up)?;
        Ok(graph.linear(both, &format!("{name}.down_proj"), self.hidden, bias)?)
    }
}
