//! What a token costs at least.

use keeve_graph::{Graph, Op, Rows, Weight};

use crate::Error;

/// Bytes and operations of one token's matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of packed weights that a generated token reads: all linears, the head among them, of
    /// experts those that it goes to, and one row of the embedding table.
    pub weight_bytes: u64,
    /// Operations of the linears that every token goes through (a multiply and an addition are two).
    pub operations: u64,
    /// Operations of the head, which only tokens that want logits go through.
    pub head_operations: u64,
}

impl Cost {
    /// The cost of a graph whose weights have `bytes_of` bytes.
    ///
    /// # Errors
    /// Those of `bytes_of`.
    pub fn of(
        graph: &Graph,
        bytes_of: impl Fn(&Weight) -> Result<u64, Error>,
    ) -> Result<Self, Error> {
        let mut cost = Self { weight_bytes: 0, operations: 0, head_operations: 0 };
        for node in graph.nodes() {
            match node.op {
                Op::Linear { weight, .. } => {
                    let weight = graph.weight(weight);
                    let operations = 2 * weight.rows as u64 * weight.cols as u64;
                    cost.weight_bytes += bytes_of(weight)?;
                    match node.shape.rows {
                        Rows::Tokens => cost.operations += operations,
                        Rows::Wanted(_) => cost.head_operations += operations,
                    }
                }
                Op::ExpertLinear { weight, router, .. } => {
                    let weight = graph.weight(weight);
                    let chosen = graph.node(router).shape.width as u64 / 2;
                    let experts = (weight.experts.unwrap_or(1) as u64).max(1);
                    cost.weight_bytes += bytes_of(weight)? / experts * chosen;
                    cost.operations += 2 * weight.values() / experts * chosen;
                }
                Op::Embed { table } => {
                    let table = graph.weight(table);
                    cost.weight_bytes += bytes_of(table)? / (table.rows as u64).max(1);
                }
                _ => {}
            }
        }
        Ok(cost)
    }

    /// Bytes that a token reads with `depth` tokens before it, of `token_state_bytes` each.
    pub fn bytes_per_token(&self, depth: usize, token_state_bytes: usize) -> u64 {
        self.weight_bytes + depth as u64 * token_state_bytes as u64
    }

    /// Operations of a prompt of `tokens` tokens of which the last wants logits.
    pub fn prompt_operations(&self, tokens: usize) -> u64 {
        self.operations * tokens as u64 + self.head_operations
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::RandomWeights;
    use keeve_quantize::{Dimensions, Scheme};

    /// Numbers of the model's card, with Q4_K at 4.5 and Q6_K at 6.5625 bits a weight.
    #[test]
    fn qwen3_0_6b_in_q4_k_m_reads_what_its_tensors_add_up_to() {
        let (_, config) = crate::shape::named("qwen3-0.6b").unwrap();
        let model = keeve_models::build(&config).unwrap();
        let scheme: Scheme = "q4_k_m".parse().unwrap();
        let weights = RandomWeights::new(&model.graph, &scheme, &Dimensions::of(&config), true, 1);
        let cost = Cost::of(&model.graph, |weight| weights.bytes(&weight.name)).unwrap();
        let in_q6 = 14 * (1024 * 1024 + 3072 * 1024);
        let head = 151_936 * 1024;
        let layers = 440_401_920;
        let bytes = (layers - in_q6) / 256 * 144 + (in_q6 + head + 1024) / 256 * 210;
        assert_eq!(cost.weight_bytes, bytes);
        assert_eq!(cost.operations, 2 * layers);
        assert_eq!(cost.prompt_operations(512), 2 * (512 * layers + head));
        assert_eq!(cost.bytes_per_token(2048, 1000), bytes + 2_048_000);
    }

    /// 3.3 of 30.5 thousand million weights.
    #[test]
    fn of_experts_a_token_reads_those_that_it_goes_to() {
        let (_, config) = crate::shape::named("qwen3-30b-a3b").unwrap();
        let model = keeve_models::build(&config).unwrap();
        let cost = Cost::of(&model.graph, |weight| Ok(weight.values())).unwrap();
        let attention = 2048 * 128 * (2 * 32 + 2 * 4) + 128 * 2048;
        let experts = 8 * 3 * 768 * 2048;
        let (layers, head) = (48 * (attention + experts), 151_936 * 2048);
        assert_eq!(cost.weight_bytes, layers + head + 2048);
        assert_eq!(cost.operations, 2 * layers);
    }
}
