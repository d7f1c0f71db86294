//! Building mixtures of experts: a router, products with the experts it chose, their sum.

use crate::Error;
use crate::builder::{matrix, shape};
use crate::graph::{Class, Graph, Node, Shape, ValueId, Weight};
use crate::op::Op;

/// The most experts: their numbers are exact in `f32`.
const MAX_EXPERTS: usize = 1 << 16;

impl Graph {
    /// Chooses experts by their scores `x`, as [`Op::Router`] says: `[rows, 2 * chosen]`.
    ///
    /// # Errors
    /// If none are chosen, more than there are, or there are too many.
    pub fn router(&mut self, x: ValueId, chosen: usize, normalize: bool) -> Result<ValueId, Error> {
        let Shape { rows, width: experts } = self.node(x).shape;
        if chosen == 0 || chosen > experts || experts > MAX_EXPERTS {
            return Err(shape("router", format!("{chosen} of {experts} experts")));
        }
        self.push(Op::Router { x, chosen, normalize }, rows, 2 * chosen, Class::F32)
    }

    /// Products with the weights `module` of the experts that `router` chose: `[rows, chosen * n]`.
    /// `x` has one input for all experts of a row, or one for each.
    ///
    /// # Errors
    /// If `router` is not what [`Graph::router`] gave for the rows of `x`, or `each` (whether `x`
    /// has an input for each expert) does not fit the width of `x`, or the weights are too large or
    /// have another shape elsewhere in the graph.
    pub fn expert_linear(
        &mut self,
        (x, each): (ValueId, bool),
        router: ValueId,
        module: &str,
        n: usize,
    ) -> Result<ValueId, Error> {
        const NAME: &str = "expert_linear";
        let (experts, chosen) = self.routed(NAME, x, router)?;
        let Shape { rows, width } = self.node(x).shape;
        let inputs = if each { chosen } else { 1 };
        if !width.is_multiple_of(inputs) {
            let problem = format!("{module}: {inputs} inputs in a row of {width}");
            return Err(shape(NAME, problem));
        }
        let weight = matrix(&format!("{module}.weight"), n, width / inputs);
        let weight = self.weight_id(NAME, Weight { experts: Some(experts), ..weight })?;
        let op = Op::ExpertLinear { x, router, weight };
        // `n` is bounded and so is the number of experts: no overflow.
        let value = self.push(op, rows, chosen * n, Class::Act)?;
        Ok(self.name(value, module))
    }

    /// The sum of what the experts that `router` chose gave, times their weights.
    ///
    /// # Errors
    /// If `router` is not what [`Graph::router`] gave for the rows of `x`, or a row of `x` cannot be
    /// shared out among the chosen experts.
    pub fn expert_sum(&mut self, x: ValueId, router: ValueId) -> Result<ValueId, Error> {
        let (_, chosen) = self.routed("expert_sum", x, router)?;
        let Shape { rows, width } = self.node(x).shape;
        if !width.is_multiple_of(chosen) {
            return Err(shape("expert_sum", format!("{chosen} experts in a row of {width}")));
        }
        self.push(Op::ExpertSum { x, router }, rows, width / chosen, Class::Act)
    }

    /// How many experts there are, and how many `router` chooses for each row of `x`.
    fn routed(
        &self,
        op: &'static str,
        x: ValueId,
        router: ValueId,
    ) -> Result<(usize, usize), Error> {
        match *self.node(router) {
            Node { op: Op::Router { x: scores, chosen, .. }, shape, .. }
                if shape.rows == self.node(x).shape.rows =>
            {
                Ok((self.node(scores).shape.width, chosen))
            }
            _ => Err(shape(op, "its router is none, or of other rows".into())),
        }
    }
}
