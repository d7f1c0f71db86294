//! Every tier against plain sums of the products' definition, and rows against themselves.

use crate::gemm::*;
use crate::scheme::panel::{PANEL_COLS, QuantizedRows};

/// The last ones are more than a group.
const ROWS: [usize; 13] = [1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 64, 129, 290];

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
                    let (mut codes, mut scales) = ([0; 4096], [[0.0; 16]]);
                    weights.panel(tile, block, &mut codes, &mut scales);
                    all.extend(codes);
                }
            }
            weights.stored = Some(all);
        }
        weights
    }
}

impl Weights {
    fn panel(&self, tile: usize, block: usize, codes: &mut [i8; 4096], scales: &mut [[f32; 16]]) {
        codes.fill(0);
        scales.fill([0.0; 16]);
        let spans = self.k.div_ceil(self.span);
        for lane in 0..16.min(self.n - (16 * tile).min(self.n)) {
            let row = 16 * tile + lane;
            for column in 0..(self.k - 256 * block).min(256) {
                codes[column / 4 * 64 + lane * 4 + column % 4] =
                    self.codes[row * self.k + 256 * block + column];
            }
            for (index, scales) in scales.iter_mut().enumerate() {
                let span = 256 * block / self.span + index;
                scales[lane] = if span < spans { self.scales[row * spans + span] } else { 0.0 };
            }
        }
    }
}

impl PanelSource for Weights {
    fn rows(&self) -> usize {
        self.n
    }

    fn blocks(&self) -> usize {
        self.k.div_ceil(PANEL_COLS)
    }

    fn span(&self) -> Span {
        if self.span < self.k { Span::Cols(self.span) } else { Span::Row }
    }

    fn fill(&self, tile: usize, block: usize, bytes: &mut Block, scales: &mut [[f32; 16]]) {
        self.panel(tile, block, &mut bytes.0, scales);
    }

    fn stored(&self, tile: usize, block: usize) -> Option<&[i8; 4096]> {
        let at = (tile * self.k.div_ceil(PANEL_COLS) + block) * 4096;
        self.stored.as_ref().and_then(|all| all[at..].first_chunk())
    }

    fn scales(&self, tile: usize, block: usize, scales: &mut [[f32; 16]]) {
        self.panel(tile, block, &mut [0; 4096], scales);
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
    // Columns that are summed up before they are scaled.
    let width = weights.span.min(256);
    let spans = weights.k.div_ceil(width);
    let weight_scale = |span: usize| {
        let all = weights.k.div_ceil(weights.span);
        weights.scales[n * all + (width * span / weights.span).min(all - 1)]
    };
    let x_spans = x.scales.len() / x.rows;
    let x_scale = |span: usize| x.scales[row * x_spans + (width * span / 256).min(x_spans - 1)];
    let dot = |span: usize| -> i32 {
        (width * span..(width * (span + 1)).min(weights.k))
            .map(|column| {
                let x = i32::from(x.codes[row * x.cols + column]);
                x * i32::from(weights.codes[n * weights.k + column])
            })
            .sum()
    };
    let x_by_block = x.span < weights.k;
    let y = if !x_by_block && weights.span >= weights.k {
        (0..spans).map(dot).sum::<i32>() as f32 * x_scale(0) * weight_scale(0)
    } else if x_by_block {
        (0..spans)
            .fold(0.0, |y, span| (dot(span) as f32).mul_add(x_scale(span) * weight_scale(span), y))
    } else {
        let add = |y, span| (dot(span) as f32).mul_add(weight_scale(span), y);
        (0..spans).fold(0.0, add) * x_scale(0)
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
    let out = Output { values: &mut values, rows: None, bias, ending: Ending::Store, int8: None };
    Gemm::new(isa).run(&[weights], &tiles, out, pool);
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
        // Columns that share a weight scale; 0: all.
        for (span, x_by_block) in [
            (0, false),
            (32, false),
            (64, false),
            (128, false),
            (256, false),
            (64, true),
            (256, true),
            (0, true),
        ] {
            // Odd N, and every K tail that is a multiple of 32, in turn, so that last blocks and spans are not whole;
            // the last K is longer than a run.
            for part in 0..3 {
                let k = [32, 256, 2560][part] + 32 * ((index * 3 + part) % 9);
                let n = [1, 15, 31, 33, 49, 77, 131][(index + part) % 7];
                let weight_span = if span > 0 { span } else { k };
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

/// bf16 weights as `[N][K]`.
struct Bf16Weights {
    n: usize,
    k: usize,
    values: Vec<u16>,
    stored: Option<Vec<u16>>,
}

impl Bf16Weights {
    fn random(random: &mut Random, n: usize, k: usize, stored: bool) -> Self {
        let values = (0..n * k).map(|_| to_bf16(random.value())).collect();
        let mut weights = Self { n, k, values, stored: None };
        weights.stored = stored.then(|| {
            let blocks = k.div_ceil(BF16_COLS);
            let panel = |index: usize| {
                let mut values = [0; 2048];
                weights.panel(index / blocks, index % blocks, &mut values);
                values
            };
            (0..n.div_ceil(16) * blocks).flat_map(panel).collect()
        });
        weights
    }
}

impl Bf16Weights {
    fn panel(&self, tile: usize, block: usize, values: &mut [u16; 2048]) {
        values.fill(0);
        for lane in 0..16.min(self.n - 16 * tile) {
            for column in 0..(self.k - BF16_COLS * block).min(BF16_COLS) {
                values[column / 2 * 32 + lane * 2 + column % 2] =
                    self.values[(16 * tile + lane) * self.k + BF16_COLS * block + column];
            }
        }
    }
}

impl PanelSource for Bf16Weights {
    fn rows(&self) -> usize {
        self.n
    }

    fn blocks(&self) -> usize {
        self.k.div_ceil(BF16_COLS)
    }

    fn span(&self) -> Span {
        Span::None
    }

    fn fill(&self, tile: usize, block: usize, bytes: &mut Block, _: &mut [[f32; 16]]) {
        self.panel(tile, block, bytes.bf16_mut());
    }

    fn stored(&self, tile: usize, block: usize) -> Option<&[i8; 4096]> {
        let at = (tile * self.k.div_ceil(BF16_COLS) + block) * 2048;
        let values: &[u16; 2048] = self.stored.as_ref().and_then(|all| all[at..].first_chunk())?;
        // SAFETY: the same memory, byte by byte; any bytes are numbers.
        Some(unsafe { &*(&raw const *values).cast() })
    }

    fn scales(&self, _: usize, _: usize, _: &mut [[f32; 16]]) {}
}

fn bf16(
    isa: Isa,
    weights: &Bf16Weights,
    x: &[f32],
    bias: Option<&[f32]>,
    places: Option<&[usize]>,
    pool: &Pool,
) -> Vec<f32> {
    let mut tiles = Bf16Rows::default();
    tiles.round([x.len() / weights.k, weights.k], 0, pool, |row, values, _| {
        crate::packed::bf16::round(&x[row * weights.k..][..weights.k], values);
    });
    let mut values = vec![f32::NAN; x.len() / weights.k * weights.n];
    let out = Output { values: &mut values, rows: places, bias, ending: Ending::Store, int8: None };
    Gemm::new(isa).run(&[weights], &tiles, out, pool);
    values
}

#[test]
fn bf16_products_of_every_tier_are_the_definition_to_the_last_bit() {
    let mut random = Random(2);
    let pool = Pool::new(2).expect("threads");
    println!("bf16: {}", Isa::found().map(Isa::name).collect::<Vec<_>>().join(", "));
    let number = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    for (index, &rows) in ROWS.iter().enumerate() {
        for part in 0..3 {
            // The last one is longer than a run of blocks.
            let k = [32, 128, 1280][part] + 32 * ((index * 3 + part) % 5);
            let n = [1, 15, 31, 33, 49, 77, 131][(index + part) % 7];
            let weights = Bf16Weights::random(&mut random, n, k, (index + part) % 2 == 0);
            let x: Vec<_> = (0..rows * k).map(|_| random.value()).collect();
            let bias: Option<Vec<_>> =
                (part != 1).then(|| (0..n).map(|_| random.value()).collect());
            let expected: Vec<f32> = (0..rows * n)
                .map(|at| {
                    let (row, n) = (at / n, at % n);
                    let mut y = 0.0;
                    for run in (0..k).step_by(32) {
                        let mut both = [0.0; 2];
                        for column in run..run + 32 {
                            let x = number(to_bf16(x[row * k + column]));
                            both[column % 2] += x * number(weights.values[n * k + column]);
                        }
                        y += both[0] + both[1];
                    }
                    bias.as_ref().map_or(y, |bias| y + bias[n])
                })
                .collect();
            for isa in Isa::found() {
                let found = bf16(isa, &weights, &x, bias.as_deref(), None, &pool);
                assert_eq!(bits(&found), bits(&expected), "{isa} {rows} rows N={n} K={k}");
            }
        }
    }
}

#[test]
fn bf16_rounds_to_the_nearest_and_ties_to_even() {
    for (value, expected) in [
        (1.0, 0x3f80),
        (-2.0, 0xc000),
        (f32::from_bits(0x3f80_8000), 0x3f80),
        (f32::from_bits(0x3f81_8000), 0x3f82),
        (f32::from_bits(0x3f80_8001), 0x3f81),
        (f32::from_bits(0x3f80_7fff), 0x3f80),
        (f32::MAX, 0x7f80),
        (f32::INFINITY, 0x7f80),
        (-f32::INFINITY, 0xff80),
        (1e-40, 0),
        (-1e-40, 0x8000),
        (f32::from_bits(0x007f_ffff), 0),
        (-0.0, 0x8000),
    ] {
        assert_eq!(to_bf16(value), expected, "{value:e}");
    }
    for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)] {
        let bits = to_bf16(nan);
        assert!(f32::from_bits(u32::from(bits) << 16).is_nan(), "{bits:x}");
    }
}

/// Any rows alone, in any order and place, on any number of threads, give what they give among all.
#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    let mut random = Random(3);
    let pools = [1, 2, 3].map(|threads| Pool::new(threads).expect("threads"));
    // More rows than a task has, and more columns than a run of blocks.
    let (rows, n, k) = (600, 83, 2560 + 96);
    let int8_weights = Weights::random(&mut random, n, k, 256, true);
    let grouped_weights = Weights::random(&mut random, n, k, 64, false);
    let int8_row_weights = Weights::random(&mut random, n, k, k, false);
    let bf16_weights = Bf16Weights::random(&mut random, n, k, false);
    let floats: Vec<_> = (0..rows * k).map(|_| random.value()).collect();
    let by_block = random_rows(&mut random, rows, k, 256);
    let by_row = random_rows(&mut random, rows, k, k.next_multiple_of(256));
    let pick = |x: &QuantizedRows, picked: &[usize]| {
        let spans = x.scales.len() / x.rows;
        let codes = picked.iter().flat_map(|row| &x.codes[row * x.cols..][..x.cols]);
        let scales = picked.iter().flat_map(|row| &x.scales[row * spans..][..spans]);
        QuantizedRows {
            rows: picked.len(),
            codes: codes.copied().collect(),
            scales: scales.copied().collect(),
            ..*x
        }
    };
    let subsets: [Vec<usize>; 4] =
        [vec![599], (0..17).rev().collect(), (3..600).step_by(7).collect(), (500..565).collect()];
    for isa in Isa::found().filter(|&isa| isa != Isa::Scalar) {
        let all = [
            int8(isa, &int8_weights, &by_block, None, &pools[1]),
            int8(isa, &int8_row_weights, &by_row, None, &pools[1]),
            int8(isa, &grouped_weights, &by_row, None, &pools[1]),
            bf16(isa, &bf16_weights, &floats, None, None, &pools[1]),
        ];
        for (subset, pool) in subsets.iter().zip(pools.iter().cycle()) {
            let some_floats: Vec<_> =
                subset.iter().flat_map(|row| &floats[row * k..][..k]).copied().collect();
            let alone = [
                int8(isa, &int8_weights, &pick(&by_block, subset), None, pool),
                int8(isa, &int8_row_weights, &pick(&by_row, subset), None, pool),
                int8(isa, &grouped_weights, &pick(&by_row, subset), None, pool),
                bf16(isa, &bf16_weights, &some_floats, None, None, pool),
            ];
            for (all, alone) in all.iter().zip(&alone) {
                for (&row, alone) in subset.iter().zip(alone.chunks(n)) {
                    assert_eq!(bits(&all[row * n..][..n]), bits(alone), "{isa} row {row}");
                }
            }
        }
        let places: Vec<_> = (0..rows).map(|row| (row * 7 + 5) % rows).collect();
        let placed = bf16(isa, &bf16_weights, &floats, None, Some(&places), &pools[2]);
        for (row, &place) in places.iter().enumerate() {
            assert_eq!(bits(&placed[place * n..][..n]), bits(&all[3][row * n..][..n]), "{isa}");
        }
    }
}

/// A result that is large enough to be written past the caches, with every tail there can be.
#[test]
fn large_results_are_the_same_as_small_ones() {
    let mut random = Random(4);
    let pool = Pool::new(2).expect("threads");
    let (rows, n, k) = (65, 64 * 1024 + 7, 32);
    assert!(rows * n >= PAST_CACHE);
    let weights = Weights::random(&mut random, n, k, k, true);
    let x = random_rows(&mut random, rows, k, 256);
    let bias: Vec<_> = (0..n).map(|_| random.value()).collect();
    for isa in Isa::found() {
        let found = int8(isa, &weights, &x, Some(&bias), &pool);
        for (at, found) in found.iter().enumerate() {
            let expected = expected(&weights, &x, Some(bias[at % n]), at / n, at % n);
            assert_eq!(found.to_bits(), expected.to_bits(), "{isa} {at}");
        }
    }
}

/// Rows that begin where cache lines do, which may be written past the caches.
#[test]
fn large_results_in_aligned_rows_are_the_same() {
    let mut random = Random(5);
    let pool = Pool::new(2).expect("threads");
    for (rows, n, k, span) in [
        (65, 64 * 1024, 32, 32),
        (48, 96 * 1024, 300, 256),
        (48, 96 * 1024, 300, 128),
        (48, 96 * 1024, 300, 64),
        (48, 96 * 1024, 300, 32),
    ] {
        assert!(rows * n >= PAST_CACHE);
        let weights = Weights::random(&mut random, n, k, span, true);
        let x = random_rows(&mut random, rows, k, 256);
        let mut tiles = Int8Rows::default();
        tiles.pack(&x, &pool);
        let mut memory = crate::runtime::memory::Memory::default();
        // The oracle, which would take long, writes as it does elsewhere.
        for isa in Isa::found().filter(|&isa| isa != Isa::Scalar) {
            let values = &mut *memory.take(rows * n);
            values.fill(f32::NAN);
            assert!(values.as_ptr().addr().is_multiple_of(64));
            let out = Output { values, rows: None, bias: None, ending: Ending::Store, int8: None };
            Gemm::new(isa).run(&[&weights], &tiles, out, &pool);
            for at in (0..rows * n).step_by(61) {
                let expected = expected(&weights, &x, None, at / n, at % n);
                assert_eq!(memory.all()[at].to_bits(), expected.to_bits(), "{isa} {at}");
            }
        }
    }
}

#[test]
fn nothing_is_computed_of_nothing() {
    let mut random = Random(5);
    let pool = Pool::new(2).expect("threads");
    for isa in Isa::found() {
        let weights = Weights::random(&mut random, 5, 64, 64, false);
        let none = QuantizedRows { rows: 0, cols: 256, codes: vec![], scales: vec![], span: 256 };
        assert!(int8(isa, &weights, &none, None, &pool).is_empty());
        let weights = Weights::random(&mut random, 0, 64, 64, false);
        assert!(int8(isa, &weights, &random_rows(&mut random, 3, 64, 256), None, &pool).is_empty());
    }
}

#[test]
fn sums_are_added_to_what_is_there() {
    let (mut random, pool) = (Random(11), Pool::new(2).expect("threads"));
    for (rows, n, k, span) in [
        (1, 33, 256, 256),
        (40, 49, 1280, 256),
        (129, 77, 3328, 256),
        (129, 96, 3328, 32),
        (160, 96, 1280, 64),
        (160, 96, 1312, 128),
    ] {
        let weights = Weights::random(&mut random, n, k, span, false);
        let x = random_rows(&mut random, rows, k, 256);
        let before: Vec<_> = (0..rows * n).map(|_| random.value()).collect();
        let mut tiles = Int8Rows::default();
        tiles.pack(&x, &pool);
        for isa in Isa::found() {
            let added = int8(isa, &weights, &x, None, &pool);
            let mut values = before.clone();
            let out = Output {
                values: &mut values,
                rows: None,
                bias: None,
                ending: Ending::Add,
                int8: None,
            };
            Gemm::new(isa).run(&[&weights], &tiles, out, &pool);
            let expected: Vec<_> = before.iter().zip(added).map(|(a, b)| a + b).collect();
            assert_eq!(bits(&values), bits(&expected), "{isa} {rows} rows N={n} K={k}");
        }
    }
}

/// Against products that are made one after the other, opened and quantized with the tier's primitives.
#[test]
fn what_gates_open_is_the_same_as_by_parts() {
    let (mut random, pool) = (Random(13), Pool::new(2).expect("threads"));
    for (rows, n, k) in [(1usize, 33, 256), (7, 256, 512), (40, 300, 1280), (129, 520, 3328)] {
        let [gate, up] =
            [(); 2].map(|()| Weights::random(&mut random, n, k, 256, rows.is_multiple_of(2)));
        let x = random_rows(&mut random, rows, k, 256);
        let mut tiles = Int8Rows::default();
        tiles.pack(&x, &pool);
        for isa in Isa::found() {
            let what = format!("{isa} {rows} rows N={n} K={k}");
            let kernels = crate::dispatch::kernels(isa).expect("a tier that was found");
            let mut expected = int8(isa, &gate, &x, None, &pool);
            kernels.silu(&mut expected);
            let other = int8(isa, &up, &x, None, &pool);
            expected.iter_mut().zip(other).for_each(|(a, b)| *a *= b);
            let gemm = Gemm::new(isa);
            let mut values = vec![f32::NAN; rows * n];
            let ending = Ending::SwiGlu;
            let out = Output { values: &mut values, rows: None, bias: None, ending, int8: None };
            gemm.run(&[&gate, &up], &tiles, out, &pool);
            assert_eq!(bits(&values), bits(&expected), "{what}");
            let (mut found, mut whole) = (Int8Rows::default(), Int8Rows::default());
            whole.quantize([rows, n], 256, 0, &pool, |row, codes, scales, _| {
                let rounding = crate::scheme::activations::Rounding::HalfEven;
                kernels.quantize(&expected[row * n..][..n], 256, rounding, codes, scales);
            });
            let int8 = Some(Int8Out { to: &mut found, parts: 1, kernels });
            let out = Output { values: &mut [], rows: None, bias: None, ending, int8 };
            gemm.run(&[&gate, &up], &tiles, out, &pool);
            assert_eq!(bits(&found.scales), bits(&whole.scales), "{what}");
            let codes = |rows: &Int8Rows| {
                rows.tiles.all().iter().flat_map(|block| block.0).collect::<Vec<_>>()
            };
            assert!(codes(&found) == codes(&whole), "{what}");
        }
    }
}
