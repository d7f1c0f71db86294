//! Where a factor can move from activations into weights without changing what a model computes.

use std::collections::HashMap;

use keeve_graph::{BinaryOp, Graph, Op, ValueId, WeightId};

use super::Kind;
use crate::role;

/// Rows of a weight that make a value: that weight, the bias that is added, and which of its rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Maker {
    pub weight: String,
    pub bias: Option<String>,
    pub rows: std::ops::Range<usize>,
    /// Rows of the whole weight.
    pub of: usize,
}

/// What takes the inverse of the factors.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Before {
    /// The gains of a norm; `one_plus` if 1 is added to them.
    Norm { gains: String, one_plus: bool },
    /// The rows of the product whose result is multiplied into the input, or attended to.
    Rows(Maker),
}

/// A value, what makes it, and the weights that it is multiplied with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Site {
    pub kind: Kind,
    pub layer: usize,
    /// What enters the weights.
    pub input: ValueId,
    pub before: Before,
    /// Their columns are multiplied by the factors.
    pub after: Vec<String>,
    /// For each column the factor that is its own; they are fewer where query heads share a value head.
    pub factor_of: Vec<usize>,
}

impl Site {
    /// How many factors there are.
    pub fn factors(&self) -> usize {
        self.factor_of.iter().max().map_or(0, |most| most + 1)
    }
}

/// The nodes that read each value, and how often each weight is read.
struct Uses<'a> {
    graph: &'a Graph,
    readers: HashMap<ValueId, Vec<ValueId>>,
    weights: HashMap<WeightId, usize>,
}

impl<'a> Uses<'a> {
    fn of(graph: &'a Graph) -> Self {
        let (mut readers, mut weights) = (HashMap::new(), HashMap::new());
        for value in graph.values() {
            let op = &graph.node(value).op;
            for operand in op.operands() {
                readers.entry(operand).or_insert_with(Vec::new).push(value);
            }
            for weight in op.weights() {
                *weights.entry(weight).or_insert(0) += 1;
            }
        }
        for output in graph.outputs() {
            // Whoever asked for it reads it too.
            readers.entry(output.value).or_insert_with(Vec::new).push(output.value);
        }
        Self { graph, readers, weights }
    }

    fn readers(&self, value: ValueId) -> &[ValueId] {
        self.readers.get(&value).map_or(&[], Vec::as_slice)
    }

    /// The name of a weight, if nothing else reads it.
    fn own(&self, weight: WeightId) -> Option<String> {
        (self.weights.get(&weight) == Some(&1)).then(|| self.graph.weight(weight).name.clone())
    }

    /// The weight of a product that `node` is, if that reads `value`.
    fn product(&self, node: ValueId, value: ValueId) -> Option<String> {
        match self.graph.node(node).op {
            Op::Linear { x, weight, .. } if x == value => self.own(weight),
            _ => None,
        }
    }

    /// The weights of all readers of a value, if they are all products.
    fn products(&self, value: ValueId) -> Option<Vec<String>> {
        let readers = self.readers(value).iter();
        let names: Option<Vec<String>> = readers.map(|node| self.product(*node, value)).collect();
        names.filter(|names| !names.is_empty())
    }

    /// The rows that make `value`, if only `reader` reads it.
    fn maker(&self, value: ValueId, reader: ValueId) -> Option<Maker> {
        if self.readers(value) != [reader] {
            return None;
        }
        let node = self.graph.node(value);
        let (product, start) = match node.op {
            Op::Slice { x, start } => (x, start),
            _ => (value, 0),
        };
        let Op::Linear { weight, bias, .. } = self.graph.node(product).op else { return None };
        let bias = match bias {
            Some(bias) => Some(self.own(bias)?),
            None => None,
        };
        let (of, rows) = (self.graph.weight(weight).rows, start..start + node.shape.width);
        Some(Maker { weight: self.own(weight)?, bias, rows, of })
    }
}

/// The sites of a graph, in its order.
pub(super) fn sites(graph: &Graph) -> Vec<Site> {
    let uses = Uses::of(graph);
    graph.values().filter_map(|value| site(&uses, value)).collect()
}

/// The site whose input is `input`.
fn site(uses: &Uses<'_>, input: ValueId) -> Option<Site> {
    let node = uses.graph.node(input);
    let width = node.shape.width;
    let own = (0..width).collect();
    let (kind, before, factor_of) = match node.op {
        Op::RmsNorm { weight, .. } if uses.graph.weight(weight).cols == width => {
            let one_plus = uses.graph.weight(weight).one_plus;
            let before = Before::Norm { gains: uses.own(weight)?, one_plus };
            // Which of the two is told by what reads it.
            (Kind::AttentionNorm, before, own)
        }
        Op::Binary { a, b, function: BinaryOp::Mul } => {
            let linear = |value| uses.maker(value, input);
            (Kind::Up, Before::Rows(linear(b).or_else(|| linear(a))?), own)
        }
        Op::Attention { v, spec, .. } => {
            let (head, shared) = (spec.head_dim, spec.heads.checked_div(spec.kv_heads)?);
            let own = |column: usize| column / head / shared * head + column % head;
            (Kind::Value, Before::Rows(uses.maker(v, input)?), (0..width).map(own).collect())
        }
        _ => return None,
    };
    let after = uses.products(input)?;
    let layer = role::layer(after.first()?)?;
    let kind = match kind {
        Kind::AttentionNorm if !after.iter().any(|name| name.contains("self_attn")) => {
            Kind::FeedForwardNorm
        }
        kind => kind,
    };
    Some(Site { kind, layer, input, before, after, factor_of })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(config: &str) -> Graph {
        keeve_models::build(&serde_json::from_str(config).unwrap()).unwrap().graph
    }

    const LLAMA: &str = r#""hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 32, "rms_norm_eps": 1e-5"#;

    #[test]
    fn a_llama_has_four_sites_in_each_layer() {
        let graph = model(&format!(r#"{{"model_type": "llama", {LLAMA}}}"#));
        let sites = sites(&graph);
        let kinds: Vec<_> = sites.iter().map(|site| (site.layer, site.kind)).collect();
        let each = [Kind::AttentionNorm, Kind::Value, Kind::FeedForwardNorm, Kind::Up];
        let expected: Vec<_> = [0, 1].iter().flat_map(|&l| each.map(|kind| (l, kind))).collect();
        assert_eq!(kinds, expected);
        let name = |part: &str| format!("model.layers.1.{part}.weight");
        assert_eq!(
            sites[4].after,
            ["q_proj", "k_proj", "v_proj"].map(|part| name(&format!("self_attn.{part}")))
        );
        let gains = name("input_layernorm");
        assert_eq!(sites[4].before, Before::Norm { gains, one_plus: false });
        // Two query heads of 16 share a value head: columns 16 to 31 have the factors of 0 to 15.
        assert_eq!((sites[5].factors(), sites[5].factor_of[17]), (32, 1));
        assert_eq!(sites[5].factor_of[33], 17);
        let Before::Rows(maker) = &sites[7].before else { panic!("{:?}", sites[7]) };
        assert_eq!((&maker.weight, maker.rows.clone()), (&name("mlp.up_proj"), 0..96));
        assert_eq!(sites[7].after, [name("mlp.down_proj")]);
    }

    #[test]
    fn fused_products_give_a_part_of_their_rows() {
        let graph = model(&format!(r#"{{"model_type": "phi3", "pad_token_id": 0, {LLAMA}}}"#));
        let sites = sites(&graph);
        assert_eq!(sites.len(), 8);
        let rows = |site: &Site| match &site.before {
            Before::Rows(maker) => (maker.rows.clone(), maker.of),
            other @ Before::Norm { .. } => panic!("{other:?}"),
        };
        assert_eq!(rows(&sites[1]), (96..128, 128));
        assert_eq!(rows(&sites[3]), (96..192, 192));
    }

    #[test]
    fn what_is_read_elsewhere_is_left_alone() {
        // Norms after the parts feed the residual stream, and norms of heads are turned.
        let config = format!(r#"{{"model_type": "olmo2", {LLAMA}}}"#);
        let kinds: Vec<_> = sites(&model(&config)).iter().map(|site| site.kind).collect();
        assert_eq!(kinds, [Kind::Value, Kind::Up, Kind::Value, Kind::Up]);
        // Experts and what chooses them read the norm before them.
        let config = format!(
            r#"{{"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 32, "head_dim": 16, {LLAMA}}}"#
        );
        let kinds: Vec<_> = sites(&model(&config)).iter().map(|site| site.kind).collect();
        let each = [Kind::AttentionNorm, Kind::Value];
        assert_eq!(kinds, [each, each].concat());
    }
}
