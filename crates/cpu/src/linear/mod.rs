//! `linear`: a matrix product with a packed weight, by the recipe of each row's phase.

pub(crate) mod activations;

use keeve_codec::{Basis, Codec};
use keeve_graph::{Phase, ValueId};

use crate::gemm::{BF16_COLS, Ending, Gemm, Int8Out, Output, PanelSource, Panels};
use crate::gemv::{FloatRows, few_rows};
use crate::linear::activations::{Input, Inputs};
use crate::packed::Packed;
use crate::runtime::pool::Pool;
use crate::scheme::{Recipe, Recipes};

/// The most rows that [`Recipe::Token`] and [`Recipe::Grouped`], whose kernels all give the same bits, take
/// through the kernel that reads weights once for every few rows.
const FEW_ROWS: usize = 8;

/// Whether so many rows of `cols` columns are multiplied by the kernels for few.
fn is_few(recipe: Recipe, rows: usize, cols: usize) -> bool {
    match recipe {
        Recipe::Block | Recipe::FineBlock | Recipe::Float => true,
        Recipe::Panel | Recipe::Fine | Recipe::Finer | Recipe::Bf16 => false,
        Recipe::Token(_) => rows <= FEW_ROWS,
        // The kernels for many rows scale in another order if there is but one group.
        Recipe::Grouped { group, .. } => rows <= FEW_ROWS || cols <= group,
    }
}

/// A weight and how it is multiplied.
pub(crate) struct Linear {
    pub packed: Packed,
    pub recipes: Recipes,
    pub gemm: Gemm,
    /// The basis that rows are stored in, and inputs are multiplied in, where it is not that of the graph.
    pub basis: Option<Basis>,
}

/// What is done with products where they are made.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<'a> {
    /// They are the result, with a bias.
    Store(Option<&'a [f32]>),
    /// They are added to what the output holds, with a bias.
    Add(Option<&'a [f32]>),
    /// The result is `silu(products) * products of the other`.
    SwiGlu(&'a Linear),
    /// The same, which is the value of the graph, only quantized, and not written, for rows of prompts.
    SwiGluInt8(&'a Linear, ValueId),
}

impl Linear {
    /// The codec it was stored in.
    pub fn codec(&self) -> Codec {
        self.packed.codec()
    }

    /// Bytes that one product reads.
    pub fn bytes(&self) -> usize {
        let order = match &self.basis {
            Some(Basis::Order(order)) => size_of_val(&**order),
            Some(Basis::Hadamard(_)) | None => 0,
        };
        self.packed.bytes() + order
    }

    /// Fills `out` with weight row `index`: what [`keeve_codec::values`] gives, bit for bit.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not one long.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        self.packed.row(index, out);
        if let Some(basis) = &self.basis {
            basis.undo(out);
        }
    }

    /// Whether `silu` of its products may be multiplied by those of `other` where both are made.
    pub fn can_gate(&self, other: &Self) -> bool {
        let form = |linear: &Self| {
            let Self { packed, recipes, .. } = linear;
            let kind = std::mem::discriminant(packed);
            (packed.rows(), packed.cols(), packed.scale_span(), kind, *recipes)
        };
        let gathered = matches!(self.basis, Some(Basis::Order(_)));
        form(self) == form(other) && self.basis == other.basis && !gathered
    }

    /// Whether what a gate makes can go into `next` as it was quantized where it was made.
    pub fn makes_codes_for(&self, next: &Self) -> bool {
        let by_block = |recipe| matches!(recipe, Recipe::Panel | Recipe::Fine | Recipe::Finer);
        self.recipes == next.recipes && by_block(self.recipes.prompt) && next.basis.is_none()
    }

    /// `out[r, n] = x[r] . weight[n]`, and what the epilogue says. `x` is `[phases.len(), K]`, `out` `[.., N]`.
    ///
    /// # Panics
    /// If [`Self::can_gate`] or [`Self::makes_codes_for`] said otherwise.
    pub fn forward(
        &self,
        epilogue: Epilogue<'_>,
        mut x: Input<'_>,
        phases: &[Phase],
        out: &mut [f32],
        pool: &Pool,
    ) {
        let order = match &self.basis {
            None => return self.stored_basis(epilogue, x, phases, out, pool),
            Some(Basis::Hadamard(block)) => {
                return self.stored_basis(epilogue, x.rotated(*block), phases, out, pool);
            }
            Some(Basis::Order(order)) => order,
        };
        // Every row is gathered by itself, so its result still depends on no other row.
        let (rows, kernels): (Vec<usize>, _) = ((0..phases.len()).collect(), x.kernels());
        let rows = x.by_floats(&rows, order.len(), order.len(), pool).chunks_exact(order.len());
        let gathered: Vec<f32> =
            rows.flat_map(|row| order.iter().map(|&column| row[column as usize])).collect();
        let mut inputs = Inputs::default();
        let x = inputs.fresh(&gathered, kernels);
        self.stored_basis(epilogue, x, phases, out, pool);
    }

    /// [`Self::forward`] with `x` in the basis of the stored rows.
    fn stored_basis(
        &self,
        epilogue: Epilogue<'_>,
        mut x: Input<'_>,
        phases: &[Phase],
        out: &mut [f32],
        pool: &Pool,
    ) {
        let (kernels, cols) = (x.kernels(), self.packed.cols());
        let (ending, bias, up) = match epilogue {
            Epilogue::Store(bias) => (Ending::Store, bias, None),
            Epilogue::Add(bias) => (Ending::Add, bias, None),
            Epilogue::SwiGlu(up) | Epilogue::SwiGluInt8(up, _) => (Ending::SwiGlu, None, Some(up)),
        };
        for (rows, recipe) in self.recipes.rows(phases) {
            let out = Output { values: &mut *out, rows: Some(&rows), bias, ending, int8: None };
            let count = rows.len();
            if is_few(recipe, count, cols) {
                let up = up.map(|up| (&up.packed, kernels));
                if recipe == Recipe::Float {
                    let padded = match self.packed {
                        Packed::Stored(_) => cols,
                        _ => cols.next_multiple_of(BF16_COLS),
                    };
                    let x = FloatRows { values: x.by_floats(&rows, cols, padded, pool), padded };
                    few_rows(&self.packed, up, &x, count, out, pool);
                } else {
                    few_rows(
                        &self.packed,
                        up,
                        x.by_rows(&rows, cols, recipe, pool),
                        count,
                        out,
                        pool,
                    );
                }
                continue;
            }
            let own = Panels::of(&self.packed, recipe);
            let other = up.map(|up| Panels::of(&up.packed, recipe));
            let both: [&dyn PanelSource; 2] = [&own, other.as_ref().unwrap_or(&own)];
            let weights = &both[..1 + usize::from(up.is_some())];
            if recipe == Recipe::Bf16 {
                self.gemm.run(weights, x.by_bf16(&rows, cols, pool), out, pool);
            } else if matches!(epilogue, Epilogue::SwiGluInt8(..)) {
                let (x, next) = x.by_tiles_and_next(&rows, cols, recipe, pool);
                let int8 = Some(Int8Out { to: next, parts: recipe.parts(), kernels });
                self.gemm.run(weights, x, Output { int8, ..out }, pool);
            } else {
                self.gemm.run(weights, x.by_tiles(&rows, cols, recipe, pool), out, pool);
            }
        }
        if let Epilogue::SwiGluInt8(_, value) = epilogue
            && phases.contains(&Phase::Prompt)
        {
            x.made_next(value, self.recipes.prompt);
        }
    }
}
