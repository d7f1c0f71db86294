//! A layer of a decoder: attention and a gated feed-forward part, each added to the residual stream.

use keeve_graph::{Attention, Graph, RopeId, Slot, ValueId};

use crate::Error;
use crate::decoder::{Decoder, Norms, QkNorm};

/// The norms before and after a part of a layer.
type Around = (Option<&'static str>, Option<&'static str>);

impl Norms {
    /// Hugging Face's names of those around attention, and of those around the feed-forward part.
    fn names(self) -> (Around, Around) {
        const ATTENDED: Option<&str> = Some("post_attention_layernorm");
        const FED: Option<&str> = Some("post_feedforward_layernorm");
        match self {
            Self::Before => ((Some("input_layernorm"), None), (ATTENDED, None)),
            Self::After => ((None, ATTENDED), (None, FED)),
            Self::Around => {
                ((Some("input_layernorm"), ATTENDED), (Some("pre_feedforward_layernorm"), FED))
            }
        }
    }
}

impl Decoder {
    /// The layer `index`, which turns queries and keys by `rope` if it turns them at all.
    pub fn layer(
        &self,
        graph: &mut Graph,
        x: ValueId,
        index: usize,
        rope: Option<RopeId>,
        window: Option<usize>,
    ) -> Result<ValueId, Error> {
        let layer = format!("{}.layers.{index}", self.prefix);
        let (attention, feed_forward) = self.norms.names();
        let x = self.part(graph, x, &layer, attention, |graph, x| {
            self.attention(graph, x, &format!("{layer}.self_attn"), rope, window)
        })?;
        let x = self.part(graph, x, &layer, feed_forward, |graph, x| match &self.experts {
            Some(experts) if experts.layers[index] => experts.build(self, graph, x, &layer),
            _ => self.feed_forward(graph, x, &format!("{layer}.mlp"), self.feed_forward),
        })?;
        Ok(graph.name(x, layer))
    }

    /// `x` and what `part` makes of it, with norms before and after.
    fn part(
        &self,
        graph: &mut Graph,
        x: ValueId,
        layer: &str,
        (before, after): Around,
        part: impl Fn(&mut Graph, ValueId) -> Result<ValueId, Error>,
    ) -> Result<ValueId, Error> {
        let norm = |graph: &mut Graph, x: ValueId, name: Option<&str>| match name {
            Some(name) => self.norm(graph, x, &format!("{layer}.{name}"), self.hidden),
            None => Ok(x),
        };
        let input = norm(graph, x, before)?;
        let made = part(graph, input)?;
        let mut made = norm(graph, made, after)?;
        if let Some(scale) = self.residual_scale {
            made = graph.scale(made, scale)?;
        }
        Ok(graph.add(x, made)?)
    }

    fn attention(
        &self,
        graph: &mut Graph,
        x: ValueId,
        name: &str,
        rope: Option<RopeId>,
        window: Option<usize>,
    ) -> Result<ValueId, Error> {
        let Self { heads, kv_heads, head_dim, .. } = *self;
        let x = self.product_input(graph, x)?;
        let (mut q, mut k, v) = if self.fused {
            // No overflow: heads and their width are at most 2^24.
            let [q, kv] = [heads * head_dim, kv_heads * head_dim];
            let all = graph.linear(x, &format!("{name}.qkv_proj"), q + 2 * kv, self.qkv_bias)?;
            let k = graph.slice(all, q..q + kv)?;
            (graph.slice(all, 0..q)?, k, graph.slice(all, q + kv..q + 2 * kv)?)
        } else {
            let project = |graph: &mut Graph, part: &str, heads: usize| {
                graph.linear(x, &format!("{name}.{part}_proj"), heads * head_dim, self.qkv_bias)
            };
            let q = project(graph, "q", heads)?;
            let k = project(graph, "k", kv_heads)?;
            (q, k, project(graph, "v", kv_heads)?)
        };
        if let Some(qk_norm) = self.qk_norm {
            let length = |heads: usize| match qk_norm {
                QkNorm::Heads => head_dim,
                QkNorm::Row => heads * head_dim,
            };
            q = self.norm(graph, q, &format!("{name}.q_norm"), length(heads))?;
            k = self.norm(graph, k, &format!("{name}.k_norm"), length(kv_heads))?;
        }
        if let Some(rope) = rope {
            q = graph.rope(q, rope, head_dim)?;
            k = graph.rope(k, rope, head_dim)?;
        }
        let state = graph.state(Slot::Paged { kv_heads, head_dim });
        let scale = self.attention_scale.unwrap_or_else(|| 1.0 / (head_dim as f32).sqrt());
        let spec = Attention {
            heads,
            kv_heads,
            head_dim,
            scale,
            window,
            soft_cap: self.score_cap,
            causal: true,
        };
        let (mut attended, _) = graph.attention((q, k, v), state, spec)?;
        if self.sub_norms {
            let name = format!("{name}.attn_sub_norm");
            attended = self.norm(graph, attended, &name, heads * head_dim)?;
        }
        let attended = self.product_input(graph, attended)?;
        Ok(graph.linear(attended, &format!("{name}.o_proj"), self.hidden, self.output_bias)?)
    }

    /// A gated feed-forward part of `width`.
    pub fn feed_forward(
        &self,
        graph: &mut Graph,
        x: ValueId,
        name: &str,
        width: usize,
    ) -> Result<ValueId, Error> {
        let bias = self.feed_forward_bias;
        let x = self.product_input(graph, x)?;
        let (gate, up) = if self.fused {
            let both = graph.linear(x, &format!("{name}.gate_up_proj"), 2 * width, bias)?;
            (graph.slice(both, 0..width)?, graph.slice(both, width..2 * width)?)
        } else {
            let gate = graph.linear(x, &format!("{name}.gate_proj"), width, bias)?;
            (gate, graph.linear(x, &format!("{name}.up_proj"), width, bias)?)
        };
        let gate = graph.unary(gate, self.activation)?;
        let mut both = graph.mul(gate, up)?;
        if self.sub_norms {
            both = self.norm(graph, both, &format!("{name}.ffn_sub_norm"), width)?;
        }
        let both = self.product_input(graph, both)?;
        Ok(graph.linear(both, &format!("{name}.down_proj"), self.hidden, bias)?)
    }

    /// What products take for `x`.
    fn product_input(&self, graph: &mut Graph, x: ValueId) -> Result<ValueId, Error> {
        Ok(if self.rounded_inputs { graph.round_rows(x)? } else { x })
    }
}
