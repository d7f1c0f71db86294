//! The input of products, and what it looks like quantized: made once, for all products with it.

use std::sync::Mutex;

use keeve_graph::ValueId;

use crate::gemm::{Bf16Rows, Int8Rows};
use crate::kernels::Kernels;
use crate::ops::rows::RowSource;
use crate::packed::tiles::BLOCK;
use crate::runtime::disjoint::SharedOut;
use crate::runtime::pool::Pool;
use crate::scheme::Recipe;
use crate::scheme::activations::{BlockRows, SUM_COLS};
use crate::scheme::panel::PANEL_COLS;

/// Activations that a task quantizes, at least.
const TASK_VALUES: usize = 16 << 10;

/// How rows are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct How {
    recipe: Recipe,
    /// Columns of a row, if they are not those of the recipe.
    columns: usize,
    /// Columns of the blocks that are multiplied by Hadamard matrices first.
    hadamard: Option<usize>,
}

/// Something that is made when it is first asked for, in memory that is kept.
struct Kept<T> {
    /// How it was made, if it was.
    made: Option<How>,
    /// The rows that it was made of: products with a value by one recipe need not be of the same rows.
    rows: Vec<usize>,
    value: T,
}

impl<T> Kept<T> {
    fn of(value: T) -> Self {
        Self { made: None, rows: vec![], value }
    }

    /// Whether this still has to be made, which the caller then does.
    fn is_missing(&mut self, how: How, rows: &[usize]) -> bool {
        if self.made == Some(how) && self.rows == rows {
            return false;
        }
        self.made = Some(how);
        rows.clone_into(&mut self.rows);
        true
    }
}

/// Memory for quantized activations. The memory is kept from step to step.
pub(crate) struct Inputs {
    /// The value that it is made from.
    from: Option<ValueId>,
    /// For products of few rows, by [`slot`].
    rows: [Kept<BlockRows>; SLOTS],
    /// For products of many rows, likewise.
    tiles: [Kept<Int8Rows>; SLOTS],
    /// For products of few rows with nothing rounded.
    floats: Kept<Vec<f32>>,
    /// For products of many rows by [`Recipe::Bf16`].
    bf16: Kept<Bf16Rows>,
    /// For products of many rows with what is being made: see [`Input::made_next`].
    next: Int8Rows,
}

impl Default for Inputs {
    fn default() -> Self {
        let rows = |_| Kept::of(BlockRows::EMPTY);
        let tiles = |_| Kept::of(Int8Rows::default());
        let (rows, tiles) = (std::array::from_fn(rows), std::array::from_fn(tiles));
        let floats = Kept::of(vec![]);
        let bf16 = Kept::of(Bf16Rows::default());
        Self { from: None, rows, floats, tiles, bf16, next: Int8Rows::default() }
    }
}

impl Inputs {
    /// Forgets what was made: the values of a new step are others.
    pub fn forget(&mut self) {
        self.from = None;
    }

    /// `x`, which is `value` in this step.
    pub fn input<'a>(
        &'a mut self,
        value: ValueId,
        x: &'a [f32],
        kernels: &'static dyn Kernels,
    ) -> Input<'a> {
        self.begin(value);
        Input { x: Source::Held(x).into(), kernels, inputs: self }
    }

    /// `value` of this step, by its rows.
    pub fn rows<'a>(
        &'a mut self,
        value: ValueId,
        rows: &'a dyn RowSource,
        kernels: &'static dyn Kernels,
    ) -> Input<'a> {
        self.begin(value);
        Input { x: Source::Rows(rows).into(), kernels, inputs: self }
    }

    /// Forgets what was made of another value than this one.
    fn begin(&mut self, value: ValueId) {
        if self.from != Some(value) {
            self.from = Some(value);
            self.clear();
        }
    }

    /// `x`, which is no value of the graph.
    pub fn fresh<'a>(&'a mut self, x: &'a [f32], kernels: &'static dyn Kernels) -> Input<'a> {
        self.from = None;
        self.clear();
        Input { x: Source::Held(x).into(), kernels, inputs: self }
    }

    fn clear(&mut self) {
        self.rows.iter_mut().for_each(|kept| kept.made = None);
        self.tiles.iter_mut().for_each(|kept| kept.made = None);
        (self.floats.made, self.bf16.made) = (None, None);
    }
}

/// Where an input is.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// All of it.
    Held(&'a [f32]),
    /// Its rows can be had.
    Rows(&'a dyn RowSource),
}

impl Source<'_> {
    /// Values of room that [`Source::row`] needs.
    fn room(self) -> usize {
        match self {
            Self::Held(_) => 0,
            Self::Rows(rows) => rows.room(),
        }
    }

    /// A row of `cols` values.
    fn row<'a>(&'a self, row: usize, cols: usize, room: &'a mut [f32]) -> &'a [f32] {
        match self {
            Self::Held(x) => &x[row * cols..][..cols],
            Self::Rows(rows) => rows.row(row, room),
        }
    }
}

/// The rows of an input, in the basis that they are multiplied in.
#[derive(Clone, Copy)]
struct InBasis<'a> {
    from: Source<'a>,
    /// See [`How::hadamard`].
    hadamard: Option<(usize, &'static dyn Kernels)>,
}

impl<'a> From<Source<'a>> for InBasis<'a> {
    fn from(from: Source<'a>) -> Self {
        Self { from, hadamard: None }
    }
}

impl InBasis<'_> {
    /// Values of room that [`InBasis::row`] needs for rows of `cols`.
    fn room(self, cols: usize) -> usize {
        self.from.room() + self.hadamard.map_or(0, |_| cols)
    }

    /// A row of `cols` values.
    fn row<'a>(&'a self, row: usize, cols: usize, room: &'a mut [f32]) -> &'a [f32] {
        let Some((block, kernels)) = self.hadamard else { return self.from.row(row, cols, room) };
        let (rotated, room) = room.split_at_mut(cols);
        rotated.copy_from_slice(self.from.row(row, cols, room));
        kernels.hadamard(rotated, block);
        rotated
    }

    fn how(&self, recipe: Recipe, columns: usize) -> How {
        How { recipe, columns, hadamard: self.hadamard.map(|(block, _)| block) }
    }
}

/// The input of a product: `[rows, K]`.
pub(crate) struct Input<'a> {
    x: InBasis<'a>,
    kernels: &'static dyn Kernels,
    inputs: &'a mut Inputs,
}

impl Input<'_> {
    /// The tier.
    pub fn kernels(&self) -> &'static dyn Kernels {
        self.kernels
    }

    /// The same rows with each `block` columns multiplied by a Hadamard matrix.
    pub fn rotated(mut self, block: usize) -> Self {
        self.x.hadamard = Some((block, self.kernels));
        self
    }

    /// The rows `rows` of `cols` columns, for products of few rows.
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
        let kept = &mut self.inputs.rows[slot(recipe)];
        if kept.is_missing(self.x.how(recipe, 0), rows) {
            quantize_rows(self.x, rows, cols, recipe, self.kernels, pool, &mut kept.value);
        }
        &kept.value
    }

    /// As [`Input::by_rows`], nothing rounded: `[rows.len()][padded]`, zeros past `cols`.
    ///
    /// # Panics
    /// If there are no such rows, or `padded` is less than `cols`.
    pub fn by_floats(
        &mut self,
        rows: &[usize],
        cols: usize,
        padded: usize,
        pool: &Pool,
    ) -> &Vec<f32> {
        let kept = &mut self.inputs.floats;
        if kept.is_missing(self.x.how(Recipe::Float, padded), rows) {
            let value = &mut kept.value;
            value.clear();
            value.resize(rows.len() * padded, 0.0);
            let (x, out) = (self.x, SharedOut::new(value, padded));
            let each = TASK_VALUES.div_ceil(padded.max(1));
            pool.run(rows.len().div_ceil(each), |task, scratch| {
                let [room] = scratch.take([x.room(cols)]);
                let own = task * each..rows.len().min((task + 1) * each);
                for (at, &row) in own.clone().zip(&rows[own]) {
                    // SAFETY: no two tasks have the same row.
                    let to = unsafe { out.part(at, 0..cols) };
                    to.copy_from_slice(x.row(row, cols, room));
                }
            });
        }
        &kept.value
    }

    /// As [`Input::by_tiles`], rounded to bf16.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn by_bf16(&mut self, rows: &[usize], cols: usize, pool: &Pool) -> &Bf16Rows {
        let kept = &mut self.inputs.bf16;
        if kept.is_missing(self.x.how(Recipe::Bf16, 0), rows) {
            let value = &mut kept.value;
            let (x, kernels) = (self.x, self.kernels);
            value.round([rows.len(), cols], x.room(cols), pool, |row, values, room| {
                kernels.round_to_bf16(x.row(rows[row], cols, room), values);
            });
        }
        &kept.value
    }

    /// As [`Input::by_tiles`], and where to put the result, quantized by the same recipe: call
    /// [`Input::made_next`] when it is there.
    pub fn by_tiles_and_next(
        &mut self,
        rows: &[usize],
        cols: usize,
        recipe: Recipe,
        pool: &Pool,
    ) -> (&Int8Rows, &mut Int8Rows) {
        self.by_tiles(rows, cols, recipe, pool);
        (&self.inputs.tiles[slot(recipe)].value, &mut self.inputs.next)
    }

    /// Says that `value` was made quantized by a recipe: all its rows that the recipe is for.
    pub fn made_next(self, value: ValueId, recipe: Recipe) {
        self.inputs.begin(value);
        // Of the rows that the products were of.
        let kept = &mut self.inputs.tiles[slot(recipe)];
        kept.made = Some(How { recipe, columns: 0, hadamard: None });
        std::mem::swap(&mut kept.value, &mut self.inputs.next);
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
        let kept = &mut self.inputs.tiles[slot(recipe)];
        if kept.is_missing(self.x.how(recipe, 0), rows) {
            let value = &mut kept.value;
            let (x, kernels, span) = (self.x, self.kernels, recipe.span());
            let parts = recipe.parts();
            let width = if parts > 1 { parts * cols.next_multiple_of(PANEL_COLS) } else { cols };
            let shape = [rows.len(), width];
            value.quantize(shape, span, x.room(cols), pool, |row, codes, scales, room| {
                let x = x.row(rows[row], cols, room);
                if parts > 1 {
                    return kernels.quantize_in_parts(x, codes, scales);
                }
                kernels.quantize(x, span.min(codes.len()), recipe.rounding(), codes, scales);
            });
        }
        &kept.value
    }
}

/// Kinds of recipes whose rows are held apart.
const SLOTS: usize = 5;

/// Where a recipe's rows are in [`Inputs::rows`] and [`Inputs::tiles`].
fn slot(recipe: Recipe) -> usize {
    match recipe {
        Recipe::Panel | Recipe::Block | Recipe::Bf16 | Recipe::Float => 0,
        Recipe::Token(_) => 1,
        Recipe::Fine | Recipe::FineBlock => 2,
        Recipe::Grouped { .. } => 3,
        Recipe::Finer => 4,
    }
}

/// Quantizes rows, on all threads if there are many.
fn quantize_rows(
    x: InBasis<'_>,
    rows: &[usize],
    k: usize,
    recipe: Recipe,
    kernels: &dyn Kernels,
    pool: &Pool,
    to: &mut BlockRows,
) {
    let grouped = matches!(recipe, Recipe::Grouped { .. });
    // Scales of groups are applied to sums of blocks; that of the row, as a factor, after them.
    let parts = recipe.parts();
    to.resize(rows.len(), k, parts, if grouped { BLOCK } else { recipe.span() });
    let (cols, spans, span) = (to.rows.cols, to.rows.spans(), to.rows.span);
    let codes = to.rows.codes.chunks_exact_mut(cols);
    let scales = to.rows.scales.chunks_exact_mut(spans);
    let sums = to.sums.chunks_exact_mut(cols / SUM_COLS);
    let weighted32 = to.weighted32.chunks_exact_mut(cols / BLOCK);
    let rows_of = rows.iter().zip(&mut to.factors);
    let places = rows_of.zip(codes.zip(scales)).zip(sums.zip(weighted32));
    let places = Mutex::new(places);
    let each = TASK_VALUES.div_ceil(k);
    pool.run(rows.len().div_ceil(each), |_, scratch| {
        let [room] = scratch.take([x.room(k)]);
        for _ in 0..each {
            let next = places.lock().ok().and_then(|mut places| places.next());
            let Some((((&row, factor), (codes, scales)), (sums, weighted32))) = next else {
                return;
            };
            let x = x.row(row, k, room);
            if grouped {
                let factor = std::slice::from_mut(factor);
                kernels.quantize(x, cols, recipe.rounding(), codes, factor);
                scales.fill(1.0);
            } else if parts > 1 {
                kernels.quantize_in_parts(x, codes, scales);
            } else {
                kernels.quantize(x, span, recipe.rounding(), codes, scales);
            }
            kernels.sums(codes, scales, sums, weighted32);
        }
    });
}
