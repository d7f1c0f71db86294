//! Measuring what products of many rows reach; what the units can do at most is in [`crate::rates`].

use std::time::{Duration, Instant};

use crate::gemm::{
    BF16_COLS, Bf16Rows, Block, Ending, Gemm, Int8Rows, Output, PanelSource, Span, to_bf16,
};
use crate::isa::Isa;
use crate::runtime::pool::Pool;
use crate::scheme::panel::{PANEL_COLS, TILE_ROWS};

/// A pool of threads to measure on.
pub struct Machine {
    pool: Pool,
}

impl Machine {
    /// A machine of so many threads, at least one.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        Ok(Self { pool: Pool::new(threads)? })
    }
}

/// How a product of many rows is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProductKind {
    /// Int8, one scale for each weight row and each row of activations.
    Int8Rows,
    /// Int8, one weight scale for each 256 columns, one activation scale for each row.
    Int8Groups,
    /// Int8, one scale for each 256 columns of both.
    Int8Blocks,
    /// bf16.
    Bf16,
}

/// A product of activations with weights of no meaning, ready to be timed.
pub struct TimedProduct {
    kind: ProductKind,
    gemm: Gemm,
    weights: Weights,
    rows: usize,
    x: Vec<f32>,
    int8: Int8Rows,
    bf16: Bf16Rows,
    out: Vec<f32>,
    /// Values before the first that has the alignment of a cache line.
    skip: usize,
}

impl TimedProduct {
    /// A product with `n` weight rows of `k` columns, a multiple of 256, for up to `most` rows.
    pub fn new(isa: Isa, kind: ProductKind, n: usize, k: usize, most: usize) -> Self {
        let k = k.next_multiple_of(PANEL_COLS);
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 8
        };
        let tiles = n.div_ceil(TILE_ROWS);
        let small = |bits: u32| bits as f32 / (1 << 24) as f32 - 0.5;
        let blocks = if kind == ProductKind::Bf16 { k / BF16_COLS } else { k / PANEL_COLS };
        let mut panels = vec![Block::ZERO; tiles * blocks];
        for panel in &mut panels {
            match kind {
                ProductKind::Bf16 => panel.bf16_mut().fill_with(|| to_bf16(small(random()))),
                _ => panel.0.fill_with(|| random() as i8),
            }
        }
        let span = match kind {
            ProductKind::Bf16 => Span::None,
            ProductKind::Int8Rows => Span::Row,
            ProductKind::Int8Groups | ProductKind::Int8Blocks => Span::Cols(PANEL_COLS),
        };
        let weights = Weights { n, k, blocks, span, panels };
        let out = vec![0.0; most * n + 16];
        Self {
            skip: out.as_ptr().align_offset(64),
            out,
            kind,
            gemm: Gemm::new(isa),
            weights,
            rows: most,
            x: (0..most * k).map(|_| small(random())).collect(),
            int8: Int8Rows::default(),
            bf16: Bf16Rows::default(),
        }
    }

    /// Operations of a run: a multiplication and an addition are two.
    pub fn operations(&self, rows: usize) -> f64 {
        2.0 * rows as f64 * self.weights.n as f64 * self.weights.k as f64
    }

    /// Computes `rows` rows, at most as many as there are: from `f32` activations to `f32` results.
    /// Returns the time that the activations took to be quantized and laid out, and all of it.
    pub fn run(&mut self, machine: &Machine, rows: usize) -> (Duration, Duration) {
        let rows = rows.min(self.rows);
        let (n, k, pool) = (self.weights.n, self.weights.k, &machine.pool);
        let x = &self.x[..rows * k];
        let out = Output {
            values: &mut self.out[self.skip..][..rows * n],
            rows: None,
            bias: None,
            ending: Ending::Store,
            int8: None,
        };
        let start = Instant::now();
        let packed;
        if self.kind == ProductKind::Bf16 {
            self.bf16.round([rows, k], 0, pool, |row, values, _| {
                round_row(&x[row * k..][..k], values);
            });
            packed = start.elapsed();
            self.gemm.run(&[&self.weights], &self.bf16, out, pool);
        } else {
            let span = if self.kind == ProductKind::Int8Blocks { PANEL_COLS } else { k };
            self.int8.quantize([rows, k], span, 0, pool, |row, codes, scales, _| {
                quantize(&x[row * k..][..k], span, codes, scales);
            });
            packed = start.elapsed();
            self.gemm.run(&[&self.weights], &self.int8, out, pool);
        }
        (packed, start.elapsed())
    }
}

fn round_row(x: &[f32], values: &mut [u16]) {
    values.iter_mut().zip(x).for_each(|(value, &x)| *value = to_bf16(x));
}

/// Int8 with a scale for each `span` numbers, rounded to even: adding 1.5 * 2^23 leaves the whole number in
/// the low bits.
fn quantize(x: &[f32], span: usize, codes: &mut [i8], scales: &mut [f32]) {
    for ((x, codes), scale) in x.chunks(span).zip(codes.chunks_mut(span)).zip(scales) {
        let largest = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (x * inverse + 1.5 * (1 << 23) as f32).to_bits() as i8;
        }
        *scale = largest / 127.0;
    }
}

/// Weights that are stored as panels.
struct Weights {
    n: usize,
    k: usize,
    blocks: usize,
    span: Span,
    /// `[tile][block]` of whichever kind.
    panels: Vec<Block>,
}

impl PanelSource for Weights {
    fn rows(&self) -> usize {
        self.n
    }

    fn blocks(&self) -> usize {
        self.blocks
    }

    fn span(&self) -> Span {
        self.span
    }

    fn fill(&self, tile: usize, block: usize, bytes: &mut Block, scales: &mut [[f32; TILE_ROWS]]) {
        *bytes = self.panels[tile * self.blocks + block].clone();
        self.scales(tile, block, scales);
    }

    fn stored(&self, tile: usize, block: usize) -> Option<&[i8; TILE_ROWS * PANEL_COLS]> {
        self.panels.get(tile * self.blocks + block).map(|panel| &panel.0)
    }

    fn scales(&self, _: usize, _: usize, scales: &mut [[f32; TILE_ROWS]]) {
        scales.fill([1.0 / 127.0; TILE_ROWS]);
    }
}
