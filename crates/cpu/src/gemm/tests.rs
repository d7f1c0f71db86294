//! Every tier against plain sums of the products' definition, and rows against themselves.

use super::*;
use crate::panel::{PANEL_COLS, QuantizedRows};

const ROWS: [usize; 12] = [1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 64, 129];

/// Numbers that are the same on every run.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        // A 64-bit linear congruential generator with Knuth's MMIX constants.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 32
    }

    /// Between -1 and 1.
    fn value(&mut self) -> f32 {
        self.bits() as f32 / (1u64 << 31) as f32 - 1.0
    }

    /// All codes, those at the ends more often.
    fn code(&mut self) -> i8 {
        match self.bits() >> 8 & 15 {
            0 => -128,
            1 => 127,
            _ => (self.bits() >> 12) as i8,
        }
    }
}

/// Int8 weights as `[N][K]`.
struct Weights {
    n: usize,
    k: usize,
    span: usize,
    codes: Vec<i8>,
    /// `[N][K / span]`.
    scales: Vec<f32>,
    /// The panels, if they are stored as such.
    stored: Option<Vec<i8>>,
}

impl Weights {
    fn random(random: &mut Random, n: usize, k: usize, span: usize, stored: bool) -> Self {
        let codes = (0..n * k).map(|_| random.code()).collect();
        let scales = (0..n * k.div_ceil(span)).map(|_| random.value()).collect();
        let mut weights = Self { n, k, span, codes, scales, stored: None };
        if stored {
            let mut all = vec![];
            for tile in 0..n.div_ceil(16) {
                for block in 0..k.div_ceil(PANEL_COLS) {
                    let (mut codes, mut scales) = ([0; 4096], [0.0; 16]);
                    weights.panel(tile, block, &mut codes, &mut scales);
                    all.extend(codes);
                }
            }
            weights.stored = Some(all);
        }
        weights
    }
}

impl PanelSource for Weights {
    fn rows(&self) -> usize {
        self.n
    }

    fn cols(&self) -> usize {
        self.k
    }

    fn scale_span(&self) -> usize {
        self.span
    }

    fn panel(&self, tile: usize, block: usize, codes: &mut [i8; 4096], scales: &mut [f32; 16]) {
        codes.fill(0);
        scales.fill(0.0);
        for (lane, scale) in scales.iter_mut().enumerate().take(self.n - (16 * tile).min(self.n)) {
            let row = 16 * tile + lane;
            for column in 0..(self.k - 256 * block).min(256) {
                codes[column / 4 * 64 + lane * 4 + column % 4] =
                    self.codes[row * self.k + 256 * block + column];
            }
            *scale = self.scales[row * self.k.div_ceil(self.span) + 256 * block / self.span];
        }
    }

    fn stored_panel(&self, tile: usize, block: usize) -> Option<&[i8]> {
        let at = (tile * self.k.div_ceil(PANEL_COLS) + block) * 4096;
        self.stored.as_ref().map(|all| &all[at..at + 4096])
    }
}

fn random_rows(random: &mut Random, rows: usize, k: usize, span: usize) -> QuantizedRows {
    let cols = k.next_multiple_of(PANEL_COLS);
    let codes = (0..rows * cols).map(|at| if at % cols < k { random.code() } else { 0 }).collect();
    let spans = if span < cols { cols / span } else { 1 };
    let scales = (0..rows * spans).map(|_| random.value()).collect();
    QuantizedRows { rows, cols, codes, scales, span }
}

/// One number of the result, from the definition.
fn expected(weights: &Weights, x: &QuantizedRows, bias: Option<f32>, row: usize, n: usize) -> f32 {
    let blocks = weights.k.div_ceil(256);
    let weight_scale = |block: usize| {
        let spans = weights.k.div_ceil(weights.span);
        weights.scales[n * spans + (256 * block / weights.span).min(spans - 1)]
    };
    let spans = x.scales.len() / x.rows;
    let x_scale = |block: usize| x.scales[row * spans + block.min(spans - 1)];
    let dot = |block: usize| -> i32 {
        (256 * block..(256 * (block + 1)).min(weights.k))
            .map(|column| {
                let x = i32::from(x.codes[row * x.cols + column]);
                x * i32::from(weights.codes[n * weights.k + column])
            })
            .sum()
    };
    let x_by_block = x.span < weights.k;
    let y = if !x_by_block && weights.span >= weights.k {
        (0..blocks).map(dot).sum::<i32>() as f32 * x_scale(0) * weight_scale(0)
    } else if x_by_block {
        (0..blocks).fold(0.0, |y, block| {
            (dot(block) as f32).mul_add(x_scale(block) * weight_scale(block), y)
        })
    } else {
        let add = |y, block| (dot(block) as f32).mul_add(weight_scale(block), y);
        (0..blocks).fold(0.0, add) * x_scale(0)
    };
    bias.map_or(y, |bias| y + bias)
}

fn int8(
    isa: Isa,
    weights: &Weights,
    x: &QuantizedRows,
    bias: Option<&[f32]>,
    pool: &Pool,
) -> Vec<f32> {
    let mut tiles = Int8Rows::default();
    tiles.pack(x, pool);
    let mut values = vec![f32::NAN; x.rows * weights.n];
    let out = Output { values: &mut values, rows: None, bias };
    Gemm::new(isa).int8(weights, &tiles, out, pool);
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn int8_products_of_every_tier_are_the_definition_to_the_last_bit() {
    let mut random = Random(1);
    let pool = Pool::new(2).expect("threads");
    println!("int8: {}", Isa::found().map(Isa::name).collect::<Vec<_>>().join(", "));
    for (index, &rows) in ROWS.iter().enumerate() {
        for (weights_by_block, x_by_block) in
            [(false, false), (true, false), (true, true), (false, true)]
        {
            // Odd N, and every K tail that is a multiple of 32, in turn.
            for part in 0..3 {
                let k = [32, 256, 512][part] + 32 * ((index * 3 + part) % 9);
                let n = [1, 15, 31, 33, 49, 77, 131][(index + part) % 7];
                let weight_span = if weights_by_block { 256 } else { k };
                let x_span = if x_by_block { 256 } else { k.next_multiple_of(256) };
                let stored = (index + part) % 2 == 0;
                let weights = Weights::random(&mut random, n, k, weight_span, stored);
                let x = random_rows(&mut random, rows, k, x_span);
                let bias: Option<Vec<_>> =
                    (part != 1).then(|| (0..n).map(|_| random.value()).collect());
                let expected: Vec<_> = (0..rows * n)
                    .map(|at| {
                        expected(&weights, &x, bias.as_ref().map(|b| b[at % n]), at / n, at % n)
                    })
                    .collect();
                for isa in Isa::found() {
                    let found = int8(isa, &weights, &x, bias.as_deref(), &pool);
                    let what =
                        format!("{isa} {rows} rows N={n} K={k} spans {weight_span} {x_span}");
                    assert_eq!(bits(&found), bits(&expected), "{what}");
                }
            }
        }
    }
}
