//! The decoder that most language models share: embed, layers of attention and a gated
//! feed-forward part around a residual stream, norm, head.

use keeve_graph::{Attention, Graph, RopeId, Slot, UnaryOp, ValueId, Want};

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
    pub window: Option<usize>,
    pub attention_bias: bool,
    pub feed_forward_bias: bool,
    /// Whether each head of queries and keys is normalized.
    pub qk_norm: bool,
    vocabulary: usize,
    max_positions: usize,
    tied_head: bool,
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
        match config.string("hidden_act")? {
            None | Some("silu" | "swish") => {}
            Some(other) => {
                let problem = format!("is {}, which is not supported (known: silu)", quoted(other));
                return Err(wrong("hidden_act", problem));
            }
        }
        if config.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(wrong("partial_rotary_factor", "is not 1, which is not supported here"));
        }
        let layers = config.integer("num_hidden_layers", 1..=MAX_LAYERS)?;
        Ok(Self {
            layers: layers.ok_or_else(|| wrong("num_hidden_layers", "is missing"))?,
            hidden,
            feed_forward: config.required("intermediate_size")?,
            heads,
            kv_heads,
            head_dim,
            eps: config.positive("rms_norm_eps", 1e-6)? as f32,
            window: None,
            attention_bias: config.flag("attention_bias", false)?,
            feed_forward_bias: config.flag("mlp_bias", false)?,
            qk_norm: false,
            vocabulary: config.required("vocab_size")?,
            max_positions: config.width("max_position_embeddings")?.unwrap_or(2048),
            tied_head: config.flag("tie_word_embeddings", false)?,
        })
    }

    /// The whole model.
    pub fn build(self, architecture: &'static str, config: &Config<'_>) -> Result<Model, Error> {
        let mut graph = Graph::new();
        let rope = graph.rope_table(rope(config, self.head_dim, self.max_positions)?)?;
        let embedding = "model.embed_tokens";
        let mut x = graph.embed(&format!("{embedding}.weight"), self.vocabulary, self.hidden)?;
        graph.name(x, embedding);
        for layer in 0..self.layers {
            let layer = format!("model.layers.{layer}");
            let normed =
                graph.rms_norm(x, &format!("{layer}.input_layernorm"), self.hidden, self.eps)?;
            let attended =
                self.attention(&mut graph, normed, &format!("{layer}.self_attn"), rope)?;
            x = graph.add(x, attended)?;
            let norm = format!("{layer}.post_attention_layernorm");
            let normed = graph.rms_norm(x, &norm, self.hidden, self.eps)?;
            let fed = self.feed_forward(&mut graph, normed, &format!("{layer}.mlp"))?;
            x = graph.add(x, fed)?;
            graph.name(x, layer);
        }
        let head = if self.tied_head { embedding } else { "lm_head" };
        for want in [Want::Hidden, Want::Logits] {
            let rows = graph.select_rows(x, want)?;
            let mut value = graph.rms_norm(rows, "model.norm", self.hidden, self.eps)?;
            if want == Want::Logits {
                value = graph.linear(value, head, self.vocabulary, false)?;
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

    fn attention(
        &self,
        graph: &mut Graph,
        x: ValueId,
        name: &str,
        rope: RopeId,
    ) -> Result<ValueId, Error> {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        let project = |graph: &mut Graph, part: &str, heads: usize| {
            graph.linear(x, &format!("{name}.{part}_proj"), heads * head_dim, self.attention_bias)
        };
        let mut q = project(graph, "q", heads)?;
        let mut k = project(graph, "k", kv_heads)?;
        let v = project(graph, "v", kv_heads)?;
        if self.qk_norm {
            q = graph.rms_norm(q, &format!("{name}.q_norm"), head_dim, self.eps)?;
            k = graph.rms_norm(k, &format!("{name}.k_norm"), head_dim, self.eps)?;
        }
        q = graph.rope(q, rope, head_dim)?;
        k = graph.rope(k, rope, head_dim)?;
        let state = graph.state(Slot::Paged { kv_heads, head_dim });
        let spec = Attention {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window: self.window,
            soft_cap: None,
        };
        let (attended, _) = graph.attention((q, k, v), state, spec)?;
        Ok(graph.linear(attended, &format!("{name}.o_proj"), self.hidden, self.attention_bias)?)
    }

    fn feed_forward(&self, graph: &mut Graph, x: ValueId, name: &str) -> Result<ValueId, Error> {
        let bias = self.feed_forward_bias;
        let gate = graph.linear(x, &format!("{name}.gate_proj"), self.feed_forward, bias)?;
        let up = graph.linear(x, &format!("{name}.up_proj"), self.feed_forward, bias)?;
        let gate = graph.unary(gate, UnaryOp::Silu)?;
        let both = graph.mul(gate, up)?;
        Ok(graph.linear(both, &format!("{name}.down_proj"), self.hidden, bias)?)
    }
}
