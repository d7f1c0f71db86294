//! The input of products, and what it looks like quantized: made once, for all products with it.

use std::sync::Mutex;

use keeve_graph::ValueId;

use crate::gemm::Int8Rows;
use crate::kernels::Kernels;
use crate::pool::Pool;
use crate::quantize::{BlockRows, SUM_COLS};
use crate::recipe::Recipe;
use crate::tiles::BLOCK;

/// Activations that a task quantizes, at least.
const TASK_VALUES: usize = 16 << 10;

/// Something that is made when it is first asked for, in memory that is kept.
struct Kept<T> {
    made: bool,
    value: T,
}

/// Memory for quantized activations. The memory is kept from step to step.
pub(crate) struct Inputs {
    /// The value that it is made from.
    of: Option<ValueId>,
    /// For products of few rows: by [`Recipe::Block`] and by [`Recipe::Token`].
    rows: [Kept<BlockRows>; 2],
    /// For products of many rows: by [`Recipe::Panel`] and by [`Recipe::Token`].
    tiles: [Kept<Int8Rows>; 2],
}

impl Default for Inputs {
    fn default() -> Self {
        let rows = || Kept { made: false, value: BlockRows::EMPTY };
        let tiles = || Kept { made: false, value: Int8Rows::default() };
        Self { of: None, rows: [rows(), rows()], tiles: [tiles(), tiles()] }
    }
}

impl Inputs {
    /// Forgets what was made: the values of a new step are others.
    pub fn forget(&mut self) {
        self.of = None;
    }

    /// `x`, which is `value` in this step.
    pub fn input<'a>(
        &'a mut self,
        value: ValueId,
        x: &'a [f32],
        kernels: &'static dyn Kernels,
    ) -> Input<'a> {
        if self.of != Some(value) {
            self.of = Some(value);
            return self.fresh(x, kernels);
        }
        Input { x, kernels, inputs: self }
    }

    /// `x`, which is no value of the graph.
    pub fn fresh<'a>(&'a mut self, x: &'a [f32], kernels: &'static dyn Kernels) -> Input<'a> {
        self.rows.iter_mut().for_each(|kept| kept.made = false);
        self.tiles.iter_mut().for_each(|kept| kept.made = false);
        Input { x, kernels, inputs: self }
    }
}

/// The input of a product: `[rows, K]`.
pub(crate) struct Input<'a> {
    /// As it is.
    pub x: &'a [f32],
    kernels: &'static dyn Kernels,
    inputs: &'a mut Inputs,
}

impl Input<'_> {
    /// The rows `rows` of `cols` columns, for products of few rows. In a step, the rows of a recipe are
    /// always the same.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn by_rows(
        &mut self,
        rows: &[usize],
        cols: usize,
        recipe: Recipe,
        pool: &Pool,
    ) -> &BlockRows {
        let Kept { made, value } = &mut self.inputs.rows[(recipe == Recipe::Token) as usize];
        if !*made {
            *made = true;
            quantize_rows(self.x, rows, cols, recipe, self.kernels, pool, value);
        }
        value
    }

    /// As [`Input::by_rows`], for products of many rows.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn by_tiles(
        &mut self,
        rows: &[usize],
        cols: usize,
        recipe: Recipe,
        pool: &Pool,
    ) -> &Int8Rows {
        let Kept { made, value } = &mut self.inputs.tiles[(recipe == Recipe::Token) as usize];
        if !*made {
            *made = true;
            let (x, kernels, span) = (self.x, self.kernels, recipe.span());
            value.quantize(rows.len(), cols, span, pool, |row, codes, scales| {
                let x = &x[rows[row] * cols..][..cols];
                let span = span.min(codes.len());
                kernels.quantize(x, span, recipe.rounding(), codes, scales);
            });
        }
        value
    }
}

/// Quantizes rows, on all threads if there are many.
fn quantize_rows(
    x: &[f32],
    rows: &[usize],
    k: usize,
    recipe: Recipe,
    kernels: &dyn Kernels,
    pool: &Pool,
    to: &mut BlockRows,
) {
    to.resize(rows.len(), k, recipe.span());
    let (cols, spans, span) = (to.rows.cols, to.rows.spans(), to.rows.span);
    let codes = to.rows.codes.chunks_exact_mut(cols);
    let scales = to.rows.scales.chunks_exact_mut(spans);
    let sums = to.sums.chunks_exact_mut(cols / SUM_COLS);
    let weighted16 = to.weighted16.chunks_exact_mut(cols / SUM_COLS);
    let weighted32 = to.weighted32.chunks_exact_mut(cols / BLOCK);
    let places = rows.iter().zip(codes.zip(scales)).zip(sums.zip(weighted16.zip(weighted32)));
    let places = Mutex::new(places);
    let each = TASK_VALUES.div_ceil(k);
    pool.run(rows.len().div_ceil(each), |_, _| {
        for _ in 0..each {
            let next = places.lock().ok().and_then(|mut places| places.next());
            let Some(((&row, (codes, scales)), (sums, (weighted16, weighted32)))) = next else {
                return;
            };
            let x = &x[row * k..][..k];
            kernels.quantize(x, span, recipe.rounding(), codes, scales);
            kernels.sums(codes, scales, sums, weighted16, weighted32);
        }
    });
}
