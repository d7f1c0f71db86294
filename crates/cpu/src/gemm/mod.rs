//! Products of many rows: activations in int8 or bf16 by panels of weights.
//!
//! A task has some rows of activations, and of them columns that stay in the second level of cache
//! together; it goes through its weight rows panel by panel, and through the activations with each
//! panel. What a number is computed from, and in which order,
//! depends on nothing but its own row and column, so rows are invariant, and all tiers give the same
//! bits: int8 products are exact in `i32`, and `f32` operations come in the same order everywhere.
//!
//! With `dot[b]` the product of the 256 columns of block `b`, `dot[s]` that of a span of 32, 64, 128 or 256 columns
//! that share weight scales, and `fma` rounding once:
//!
//! ```text
//! a scale for each row of both      y = (sum of dot[b] in i32) as f32 * x_scale * w_scale
//! weight scales by span             y = 0; for s: y = fma(dot[s] as f32, w_scale[s], y); y *= x_scale
//! activation scales by block        y = 0; for b: y = fma(dot[b] as f32, x_scale[b] * w_scale[b], y)
//! bf16                              y = 0; for every 32 columns:
//!                                     even = sum of x * w of even columns; odd likewise; y += even + odd
//! ```
//!
//! and then the bias is added. The order of bf16 is that of `tdpbf16ps` (Intel's Software Developer's
//! Manual, volume 2). That instruction reads subnormal numbers as zeros and makes none; the other
//! tiers do not, so results equal unless weights, products or sums are below `2^-126`.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx_products;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx_scaled;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx_steps;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod bf16_lanes;
pub(crate) mod dispatch;
pub(crate) mod epilogue;
pub(crate) mod epilogue_int8;
#[cfg(target_arch = "aarch64")]
pub(crate) mod int_lanes;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod operands;
pub(crate) mod oracle;
pub(crate) mod panel;
pub(crate) mod rows;
#[cfg(target_arch = "aarch64")]
pub(crate) mod smmla;
pub(crate) mod tile;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod unpack;
#[cfg(target_arch = "x86_64")]
pub(crate) mod vnni;

use std::ops::Range;

use crate::gemm::dispatch::{Started, Unit};
use crate::gemm::epilogue::{Finish, Finished};
use crate::gemm::epilogue_int8::Codes;
use crate::gemm::operands::{
    GROUP_ROWS, GROUP_TILES, Group, Operands, Panel, Product, Results, Sums,
};
use crate::gemm::rows::RowTiles;
use crate::gemm::tile::TILE;
use crate::isa::Isa;
use crate::kernels::Kernels;
use crate::runtime::disjoint::SharedOut;
use crate::runtime::pool::Pool;
use crate::runtime::scratch::Scratch;
use crate::scheme::panel::PANEL_COLS;

#[cfg(target_arch = "x86_64")]
pub(crate) use crate::gemm::amx::Amx;
pub(crate) use crate::gemm::epilogue::Ending;
pub(crate) use crate::gemm::panel::{PanelSource, Panels, Span};
pub(crate) use crate::gemm::rows::{Bf16Rows, Int8Rows, to_bf16};
pub(crate) use crate::gemm::tile::{BF16_COLS, Block};

/// Blocks of a row that are multiplied at one time, at most: 32 KiB of each tile.
const RUN_BLOCKS: usize = 8;
/// Row tiles of activations that a task has: with a run of blocks each, at most 1 MiB of a second
/// level of 2 MiB, the rest of which is for panels and sums.
const TASK_ROW_TILES: usize = 32;
/// Tasks for each thread, at least, where there are enough weights: so that threads end at about
/// the same time.
const TASKS_PER_THREAD: usize = 4;
/// Weight tiles of a panel.
const PANEL_TILES: usize = 4;
/// Panels whose sums wait at the same time, where columns are multiplied in several runs: at most 1 MiB.
const WAITING_PANELS: usize = 8;
/// Results of so many values are written past the caches: 16 MiB, which would be read into them before
/// they are written, and push out what is there.
const PAST_CACHE: usize = 1 << 22;
/// The fewest columns that share a weight scale.
const SHORTEST_SPAN: usize = 32;
/// So many columns of int8 cannot overflow an `i32`.
const LONGEST_ROW: usize = 1 << 17;

/// Products of many rows on one tier.
#[derive(Clone, Copy)]
pub(crate) struct Gemm {
    unit: Unit,
}

/// Where results go.
pub(crate) struct Output<'a> {
    /// `[rows][N]`.
    pub values: &'a mut [f32],
    /// The row of `values` that each row of activations goes to, all different; none: the same.
    pub rows: Option<&'a [usize]>,
    /// Added to each row: `[N]`.
    pub bias: Option<&'a [f32]>,
    /// What is done with products.
    pub ending: Ending,
    /// Where they go instead of `values`, quantized; for [`Ending::SwiGlu`] with a scale for each 256 columns.
    pub int8: Option<Int8Out<'a>>,
}

/// Where results go that are only quantized: with a scale for each 256 of them, in so many parts.
pub(crate) struct Int8Out<'a> {
    pub to: &'a mut Int8Rows,
    pub parts: usize,
    pub kernels: &'a dyn Kernels,
}

impl Gemm {
    /// The products of a tier that the machine has.
    pub fn new(isa: Isa) -> Self {
        Self { unit: Unit::of(isa) }
    }

    /// `x` by weights: row `r` of the output is `x[r] . weights[n] + bias[n]`, or what the ending makes of it.
    /// There are two weights, whose panels are multiplied in turn, for [`Ending::SwiGlu`]:
    /// `silu(x[r] . gate[n]) * (x[r] . up[n])`.
    ///
    /// # Panics
    /// If a row has one scale and over 131072 columns, the blocks of `x` are not those of the weights, weights
    /// differ in shape or in how many columns share a scale, or the output does not have the rows.
    pub fn run<'x>(
        &self,
        weights: &[&dyn PanelSource],
        x: impl Into<Rows<'x>>,
        out: Output<'_>,
        pool: &Pool,
    ) {
        let (source, x) = (InTurn::new(weights), x.into());
        let rows = x.tiles.rows;
        let n = source.of[0].rows();
        let gated = out.ending == Ending::SwiGlu;
        assert!(weights.len() == 1 + usize::from(gated), "two weights for gates");
        assert!(x.tiles.blocks == source.x_blocks(), "activations have the columns of the weights");
        assert!(out.rows.is_none_or(|places| places.len() == rows), "a place for each row");
        assert!(out.int8.is_none() || gated, "only what gates open is quantized");
        let biased = |bias: &[f32]| bias.len() == n && !gated;
        assert!(out.bias.is_none_or(biased), "a bias for each weight row, none for gates");
        if n == 0 || rows == 0 {
            return;
        }
        let product = match x.is_int8 {
            false => Product::Bf16,
            true if x.scale_per_block || source.span().scales(source.blocks()) > 1 => {
                Product::ScaledInt8
            }
            true => {
                let cols = source.blocks() * PANEL_COLS;
                assert!(cols <= LONGEST_ROW, "rows of {cols} columns");
                Product::Int8
            }
        };
        let codes = out.int8.map(|Int8Out { to, parts, kernels }| {
            let writer = to.writer([rows, parts * n.next_multiple_of(PANEL_COLS)]);
            Codes { kernels, parts, writer }
        });
        let codes = codes.as_ref();
        // Scales that are applied at the end are ones until then.
        let ones = match product {
            Product::ScaledInt8 if !x.scale_per_block => vec![1.0; x.tiles.scale_rows()],
            _ => vec![],
        };
        let places = Places {
            row_tasks: x.tiles.tiles().div_ceil(TASK_ROW_TILES),
            panels: source.tiles().div_ceil(PANEL_TILES),
            threads: pool.threads(),
            // What makes a block of codes.
            each: codes.map(|_| 2 * PANEL_COLS / TILE / PANEL_TILES),
        };
        let missing = product == Product::Int8 || !ones.is_empty();
        let finish = Finish {
            product,
            ending: out.ending,
            x_scales: missing.then_some(x.scales),
            bias: out.bias,
            places: out.rows,
            follow: out.rows.is_none_or(|rows| rows.windows(2).all(|two| two[1] == two[0] + 1)),
            past_cache: rows * n >= PAST_CACHE && out.ending != Ending::Add && codes.is_none(),
            first: (0, 0),
            out: SharedOut::new(out.values, n),
            n,
        };
        let job = Job { unit: self.unit, source, x, ones: &ones, product, finish, codes };
        pool.run(places.tasks(), |task, scratch| {
            let (rows, panels) = places.task(task);
            let rows = rows.start..rows.end.min(job.x.tiles.tiles());
            job.rows_by_panels(rows, panels, scratch);
        });
    }
}

/// Weights of one shape whose tiles take turns.
#[derive(Clone, Copy)]
struct InTurn<'a> {
    of: &'a [&'a dyn PanelSource],
}

impl<'a> InTurn<'a> {
    /// # Panics
    /// If there are none, or they differ in shape or in how many columns share a scale.
    fn new(of: &'a [&'a dyn PanelSource]) -> Self {
        let form = |of: &&dyn PanelSource| (of.rows(), of.blocks(), of.span(), of.x_blocks());
        assert!(of.iter().all(|one| form(one) == form(&of[0])) && !of.is_empty(), "one shape");
        Self { of }
    }

    /// Tiles of weight rows.
    fn tiles(&self) -> usize {
        self.of.len() * self.of[0].rows().div_ceil(TILE)
    }

    fn blocks(&self) -> usize {
        self.of[0].blocks()
    }

    fn x_blocks(&self) -> usize {
        self.of[0].x_blocks()
    }

    fn span(&self) -> Span {
        self.of[0].span()
    }

    /// The weights that a tile is of, and its number there.
    fn tile(&self, tile: usize) -> (&'a dyn PanelSource, usize) {
        (self.of[tile % self.of.len()], tile / self.of.len())
    }
}

/// How a product is cut into tasks.
struct Places {
    row_tasks: usize,
    panels: usize,
    threads: usize,
    /// Panels of a task, if it matters.
    each: Option<usize>,
}

impl Places {
    /// Into how many parts the panels are cut.
    fn panel_tasks(&self) -> usize {
        if let Some(each) = self.each {
            return self.panels.div_ceil(each);
        }
        let wanted = (self.threads * TASKS_PER_THREAD).div_ceil(self.row_tasks);
        wanted.max(self.threads).min(self.panels)
    }

    fn tasks(&self) -> usize {
        self.row_tasks * self.panel_tasks()
    }

    /// The row tiles (perhaps more than there are) and the panels of a task.
    fn task(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let parts = self.panel_tasks();
        let (row, part) = (index / parts, index % parts);
        let panel = |part: usize| match self.each {
            Some(each) => (part * each).min(self.panels),
            None => part * self.panels / parts,
        };
        (row * TASK_ROW_TILES..(row + 1) * TASK_ROW_TILES, panel(part)..panel(part + 1))
    }
}

/// Activations of whichever kind.
pub(crate) struct Rows<'a> {
    is_int8: bool,
    tiles: &'a RowTiles,
    scales: &'a [f32],
    scale_per_block: bool,
}

impl<'a> From<&'a Int8Rows> for Rows<'a> {
    fn from(rows: &'a Int8Rows) -> Self {
        let Int8Rows { tiles, scales, scale_per_block } = rows;
        Self { is_int8: true, tiles, scales, scale_per_block: *scale_per_block }
    }
}

impl<'a> From<&'a Bf16Rows> for Rows<'a> {
    fn from(rows: &'a Bf16Rows) -> Self {
        Self { is_int8: false, tiles: &rows.tiles, scales: &[], scale_per_block: false }
    }
}

/// A product, as its tasks see it.
struct Job<'a> {
    unit: Unit,
    source: InTurn<'a>,
    x: Rows<'a>,
    ones: &'a [f32],
    product: Product,
    finish: Finish<'a>,
    codes: Option<&'a Codes<'a>>,
}

/// What a task multiplies at one time.
struct Part {
    /// Row tiles.
    rows: Range<usize>,
    /// Weight tiles.
    tiles: Range<usize>,
    /// Blocks of the columns.
    run: Range<usize>,
    /// The first of its sums in [`Room::sums`].
    sums: usize,
}

/// A task's memory.
struct Room<'a> {
    /// For panels that are unpacked.
    weights: &'a mut [f32],
    /// For the scales of a panel.
    scales: &'a mut [f32],
    sums: &'a mut [Sums],
    /// Whether each group has sums of its own.
    waits: bool,
}

impl Job<'_> {
    /// The row tiles `rows` by the weights of `panels`.
    fn rows_by_panels(&self, rows: Range<usize>, panels: Range<usize>, scratch: &mut Scratch) {
        let (blocks, span) = (self.source.blocks(), self.source.span());
        let runs = blocks.div_ceil(RUN_BLOCKS);
        // Where columns are multiplied in several runs, sums wait for the next one.
        let groups = rows.len().div_ceil(GROUP_ROWS) * PANEL_TILES.div_ceil(GROUP_TILES);
        let waiting = if runs > 1 { WAITING_PANELS.min(panels.len()) * groups } else { 1 };
        let weights = PANEL_TILES * blocks.div_ceil(runs.max(1));
        let results = if self.codes.is_some() { rows.len() * TILE * PANEL_COLS } else { 0 };
        let [results, weights, scales, sums] = scratch.take([
            results,
            weights * Block::FLOATS + Block::SLACK,
            PANEL_TILES * TILE * span.scales(blocks.min(RUN_BLOCKS)),
            waiting * Sums::FLOATS + Sums::SLACK,
        ]);
        let sums = Sums::within(sums, waiting);
        let mut room = Room { weights, scales, sums, waits: runs > 1 };
        let mut unit = self.unit.start(span.cols());
        let block = panels.start * PANEL_TILES * TILE / 2 / PANEL_COLS;
        let width = PANEL_COLS.min(self.finish.n - (block * PANEL_COLS).min(self.finish.n));
        // Codes are of rows of activations, wherever their floats would go.
        let own = self.codes.map(|_| Finish {
            places: None,
            follow: true,
            first: (rows.start * TILE, block * PANEL_COLS),
            out: SharedOut::new(results, PANEL_COLS),
            ..self.finish
        });
        let finish = own.as_ref().unwrap_or(&self.finish);
        for first in panels.clone().step_by(WAITING_PANELS) {
            let panels = first..panels.end.min(first + WAITING_PANELS);
            for run in 0..runs {
                let run = run * blocks / runs..(run + 1) * blocks / runs;
                for panel in panels.clone() {
                    let end = ((panel + 1) * PANEL_TILES).min(self.source.tiles());
                    let tiles = panel * PANEL_TILES..end;
                    let sums = if runs > 1 { (panel - first) * groups } else { 0 };
                    let part = Part { rows: rows.clone(), tiles, run: run.clone(), sums };
                    self.panel(&mut unit, part, finish, &mut room);
                }
            }
        }
        finish.end();
        drop(unit);
        if let Some(codes) = self.codes {
            // SAFETY: tasks have different rows or panels, and a task's panels are those of one block.
            unsafe { codes.put(&rows, block, width, results) };
        }
    }

    /// A part of the product.
    fn panel(&self, unit: &mut Started, part: Part, finish: &Finish<'_>, room: &mut Room<'_>) {
        let Part { rows, tiles, run, sums: mut at } = part;
        let span = self.source.span();
        let scale_count = span.scales(run.len());
        // Kernels read the scales of two tiles at a time.
        let scale_step = tiles.len().next_multiple_of(2) * TILE;
        let scales = &mut room.scales[..scale_step * scale_count];
        scales.fill(0.0);
        let memory = Block::within(room.weights, tiles.len() * run.len());
        let weights = unpack(self.source, tiles.clone(), run.clone(), memory, scales, scale_step);
        let x_order: Vec<_> = run.clone().map(|block| self.source.of[0].x_block(block)).collect();
        let by_block = self.product == Product::ScaledInt8;
        let operands = Operands {
            x: self.x.tiles.all(),
            x_blocks: self.x.tiles.blocks,
            x_order: &x_order,
            blocks: run.len(),
            x_scales: if by_block && !self.x.scale_per_block { self.ones } else { self.x.scales },
            x_scale_step: if self.x.scale_per_block { self.x.tiles.scale_rows() } else { 0 },
            weights: &weights,
            weight_scales: scales,
            span: span.cols(),
            weight_scale_step: if scale_count > 1 { scale_step } else { 0 },
        };
        let last = run.end == self.source.blocks();
        for row_tile in rows.clone().step_by(GROUP_ROWS) {
            let row_tiles = (rows.end - row_tile).min(GROUP_ROWS);
            let rows = (self.x.tiles.rows - row_tile * TILE).min(row_tiles * TILE);
            for tile in (0..tiles.len()).step_by(GROUP_TILES) {
                let tiles_left = tiles.len() - tile;
                let group =
                    Group { row_tile, row_tiles, rows, tile, tiles: GROUP_TILES.min(tiles_left) };
                let sums = &mut room.sums[at];
                // Sums that are complete leave at once, and so one place does for all.
                at += usize::from(room.waits);
                let part = Finished {
                    sums,
                    group: &group,
                    start: (tiles.start + tile) * TILE,
                    scales: scales.get(tile * TILE..).unwrap_or(&[]),
                };
                // SAFETY: tasks have different rows or weight rows, and so do groups.
                unsafe {
                    let ahead = if last { finish.ahead(&part) } else { None };
                    let ahead = ahead.filter(|_| unit.fetches(operands.blocks));
                    if last && ahead.is_none() {
                        finish.fetch(&part);
                    }
                    let fresh = run.start == 0;
                    let direct = last && unit.writes_results();
                    let direct = direct.then(|| finish.direct(&part)).flatten();
                    let results = Results { ahead, direct };
                    unit.multiply(&operands, group, self.product, fresh, results, part.sums);
                    if last && direct.is_none() {
                        unit.finish(finish, &part);
                    }
                }
            }
        }
    }
}

/// The panels `run` of `tiles`, `[tile][block]`: as they are stored, or else unpacked into `memory`.
/// `scales` gets the scales, `[block][span][tile][16]`, `step` values from span to span, or those of the
/// first block only, as much as there is room for.
fn unpack<'a>(
    source: InTurn<'a>,
    tiles: Range<usize>,
    run: Range<usize>,
    memory: &'a mut [Block],
    scales: &mut [f32],
    step: usize,
) -> Vec<&'a Panel> {
    let mut weights: Vec<&Panel> = Vec::with_capacity(memory.len());
    let in_block = source.span().in_block();
    let mut block_scales = [[0.0; TILE]; PANEL_COLS / SHORTEST_SPAN];
    let block_scales = &mut block_scales[..in_block];
    for (index, memory) in memory.iter_mut().enumerate() {
        let (tile, block) = (index / run.len(), index % run.len());
        let (source, place) = source.tile(tiles.start + tile);
        let at = run.start + block;
        let before = weights.last().copied().filter(|_| block > 0 && source.repeats(at));
        let there = source.stored(place, at).or(before);
        let scales = scales.get_mut(block * in_block * step + tile * TILE..).unwrap_or(&mut []);
        match there {
            None => source.fill(place, at, memory, block_scales),
            Some(_) if scales.is_empty() => {}
            Some(_) => source.scales(place, at, block_scales),
        }
        for (to, from) in scales.chunks_mut(step).zip(&*block_scales) {
            to[..TILE].copy_from_slice(from);
        }
        weights.push(there.unwrap_or(&memory.0));
    }
    weights
}

#[cfg(test)]
mod tests;
