//! Kernels that read tiles against the oracle: the same bits, for all codecs, tiers, numbers of rows and
//! columns that are no multiple of anything.

use keeve_codec::{Codec, EncodeOptions, Float, Group, PackedTensor, Parts, encode};
use keeve_graph::{Activations, RowRounding};

use crate::dispatch::kernels;
use crate::gemm::BF16_COLS;
use crate::isa::Isa;
use crate::kernels::{DECODE_ROWS, Kernels, TileKernels};
use crate::packed::tiles::{Layout, Tiles};
use crate::reference::oracle::Oracle;
use crate::runtime::arena::Arena;
use crate::runtime::pool::Pool;
use crate::scheme::activations::BlockRows;
use crate::scheme::panel::QuantizedRows;
use crate::scheme::panel::{PANEL_COLS, PanelPart, TILE_ROWS};
use crate::scheme::{Recipe, Recipes};

/// Every codec that tiles can hold, with each way to store scales somewhere.
pub(crate) fn codecs() -> Vec<Codec> {
    const FLOATS: [Float; 3] = [Float::Bf16, Float::F16, Float::F32];
    let mut codecs = Codec::PLAIN.to_vec();
    codecs.retain(|codec| codec.codes().is_some());
    for bits in Codec::AFFINE_BITS {
        for (group, scale) in Codec::AFFINE_GROUPS.into_iter().zip(FLOATS) {
            codecs.push(Codec::Affine { bits, group, scale });
        }
    }
    let groups = [Group::Row].into_iter().chain(Codec::INT_GROUPS.map(Group::Of));
    for group in groups {
        for scale in FLOATS {
            codecs.extend([Codec::Int8 { group, scale }, Codec::Int4 { group, scale }]);
        }
    }
    codecs
}

/// Numbers that are the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        // A 64-bit linear congruential generator with Knuth's MMIX constants.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// Numbers between -1 and 1, of different sizes along a row.
    fn values(&mut self, count: usize) -> Vec<f32> {
        let value = |at: usize, bits: u32| {
            let size = [1.0, 0.1, 3.0, 0.02][at / 24 % 4];
            (bits as f32 / (1u64 << 31) as f32 - 1.0) * size
        };
        (0..count).map(|at| value(at, self.next())).collect()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 8) as u8).collect()
    }
}

/// A matrix of random values, or one of random bytes: whatever a file may have.
fn tensors(codec: Codec, n: usize, k: usize, random: &mut Random) -> [PackedTensor; 2] {
    let encoded = encode(codec, n, k, &random.values(n * k), EncodeOptions::default()).unwrap();
    let row = codec.row_parts(k).unwrap();
    let mut part = |each: usize| (each > 0).then(|| random.bytes(each * n).into());
    let parts = Parts {
        data: part(row.data).unwrap(),
        scales: part(row.scales),
        biases: part(row.biases),
        global_scale: part(row.global_scale),
    };
    [encoded.tensor, PackedTensor::new(codec, 1, n, k, parts).unwrap()]
}

/// Every legal kind of width: less than a block, and not a multiple of a panel, a record or a block.
fn widths(codec: Codec) -> Vec<usize> {
    let step = codec.column_step();
    let widths = [step, 2 * step, 3 * step, 7 * step, 256, 288, 320, 384, 768, 1024 + 128];
    let odd = [1, 5, 33, 259].map(|width| width * step);
    let mut widths: Vec<_> = widths.into_iter().chain(odd).collect();
    widths.retain(|&width| width % step == 0 && width <= 2048);
    widths.sort_unstable();
    widths.dedup();
    widths
}

fn quantized(x: &[f32], k: usize, recipe: Recipe, tier: &dyn Kernels) -> BlockRows {
    let mut to = BlockRows::EMPTY;
    to.resize(x.len() / k, k, recipe.parts(), recipe.span());
    let (cols, spans, span) = (to.rows.cols, to.rows.spans(), to.rows.span);
    for (row, x) in x.chunks_exact(k).enumerate() {
        let codes = &mut to.rows.codes[row * cols..][..cols];
        let scales = &mut to.rows.scales[row * spans..][..spans];
        match recipe.parts() {
            1 => tier.quantize(x, span, recipe.rounding(), codes, scales),
            _ => tier.quantize_in_parts(x, codes, scales),
        }
        let sums = cols / 16;
        tier.sums(
            codes,
            scales,
            &mut to.sums[row * sums..][..sums],
            &mut to.weighted32[row * sums / 2..][..sums / 2],
        );
    }
    to
}

fn same(left: &[f32], right: &[f32]) -> bool {
    let same = |(l, r): (&f32, &f32)| l.to_bits() == r.to_bits() || l.is_nan() && r.is_nan();
    left.len() == right.len() && left.iter().zip(right).all(same)
}

/// The vector tiers of this machine.
fn tiers() -> Vec<(Isa, &'static dyn Kernels, &'static dyn TileKernels)> {
    let tier = |isa| {
        let kernels = kernels(isa)?;
        Some((isa, kernels, kernels.tiles()?))
    };
    Isa::found().filter_map(tier).collect()
}

/// Calls `check` with each codec that has codes, several matrices and their tiles.
fn each_matrix(mut check: impl FnMut(&Oracle, &Tiles, &mut Random)) {
    let (memory, pool, mut random) = (Arena::default(), Pool::new(2).unwrap(), Random(71));
    for codec in codecs() {
        for (index, k) in widths(codec).into_iter().enumerate() {
            let n = [19, 1, 35, 16][index % 4];
            for tensor in tensors(codec, n, k, &mut random) {
                let layout = Layout::new(codec, n, k).unwrap();
                let tiles =
                    Tiles::pack(layout, &tensor, &memory, &pool, &|_| true).unwrap().unwrap();
                check(&Oracle { layout, tensor }, &tiles, &mut random);
            }
        }
    }
}

/// A product of the oracle.
type Product = fn(&Oracle, usize, &[i32], &QuantizedRows, usize) -> f32;

/// Whether generated rows of a codec have activations in two parts.
fn generated_in_parts(codec: Codec) -> bool {
    let recipes = Recipes::choose(codec, Activations::Auto, RowRounding::default(), Isa::Scalar);
    recipes.generated == Recipe::FineBlock
}

/// The products of the first `rows` rows, as a number of calls of the kernel.
fn decoded(kernels: &dyn TileKernels, tiles: &Tiles, x: &BlockRows, rows: usize) -> Vec<f32> {
    let n = tiles.layout().rows;
    let mut out = vec![0.0; rows * n];
    for tile in 0..tiles.layout().tiles() {
        let mut first = 0;
        while first < rows {
            let count = [4, 2, 1].into_iter().find(|&count| count <= rows - first).unwrap();
            let mut sums = [[f32::NAN; TILE_ROWS]; DECODE_ROWS];
            kernels.decode(tiles.layout(), tiles.tile(tile), x, first, &mut sums[..count]);
            for (row, sums) in (first..).zip(&sums[..count]) {
                let width = TILE_ROWS.min(n - tile * TILE_ROWS);
                out[row * n + tile * TILE_ROWS..][..width].copy_from_slice(&sums[..width]);
            }
            first += count;
        }
    }
    out
}

#[test]
fn few_rows_are_the_oracles() {
    const ROWS: usize = 7;
    let mut checked = 0;
    each_matrix(|oracle, tiles, random| {
        let Layout { codec, rows: n, cols: k, .. } = oracle.layout;
        let mut values = random.values(ROWS * k);
        values[..k.min(40)].fill(0.0);
        let by_token = [RowRounding::Cider, RowRounding::CompressedTensors].map(Recipe::Token);
        for recipe in [Recipe::Block, Recipe::FineBlock, by_token[0], by_token[1]] {
            let fine = generated_in_parts(codec);
            let (made, product): (bool, Product) = match recipe {
                // Codes of one bit are never multiplied otherwise.
                Recipe::Block => (oracle.layout.codes.bits > 1, Oracle::by_blocks),
                Recipe::FineBlock => (fine, Oracle::by_parts),
                _ => (oracle.layout.one_scale_a_row(), Oracle::by_token),
            };
            if !made {
                continue;
            }
            let x = quantized(&values, k, recipe, kernels(Isa::Scalar).unwrap());
            let mut expected = vec![0.0; ROWS * n];
            for index in 0..n {
                let codes = oracle.codes(index);
                for row in 0..ROWS {
                    expected[row * n + index] = product(oracle, index, &codes, &x.rows, row);
                }
            }
            for (isa, tier, kernels) in tiers() {
                let on_tier = quantized(&values, k, recipe, tier);
                assert!(same(&on_tier.rows.scales, &x.rows.scales), "{isa} {k} {recipe:?}");
                assert!(on_tier.rows.codes == x.rows.codes, "{isa} {k} {recipe:?}");
                assert!(on_tier.sums == x.sums, "{isa} {k} {recipe:?}");
                let x = on_tier;
                for rows in [1, 2, 3, ROWS] {
                    let found = decoded(kernels, tiles, &x, rows);
                    let expected = &expected[..rows * n];
                    let differ =
                        (0..found.len()).find(|&at| !same(&found[at..=at], &expected[at..=at]));
                    if let Some(at) = differ {
                        let (row, index) = (at / n, at % n);
                        panic!(
                            "{isa} {codec} {n}x{k} {recipe:?} {rows} rows: row {row}, weight row \
                             {index}: {}, expected {}",
                            found[at], expected[at]
                        );
                    }
                    checked += 1;
                }
            }
        }
    });
    println!(
        "few rows: {checked} products on {:?}",
        tiers().iter().map(|t| t.0).collect::<Vec<_>>()
    );
}

#[test]
fn panels_are_the_oracles() {
    let (mut codes, mut scales) = ([1; TILE_ROWS * PANEL_COLS], [1.0; TILE_ROWS]);
    let (mut expected, mut expected_scales) = (codes, scales);
    each_matrix(|oracle, tiles, _| {
        let Layout { codec, cols: k, .. } = oracle.layout;
        for tile in 0..oracle.layout.tiles() {
            for block in 0..k.div_ceil(PANEL_COLS) {
                let parts: &[PanelPart] = match oracle.layout.codes.bits {
                    1 | 2 => &[PanelPart::Rest, PanelPart::First],
                    _ => &[PanelPart::First],
                };
                for &part in parts {
                    oracle.panel_part(tile, block, part, &mut expected, &mut expected_scales);
                    for (isa, _, kernels) in tiers() {
                        let bytes = tiles.tile(tile);
                        kernels.panel(tiles.layout(), bytes, block, part, &mut codes, &mut scales);
                        let what = format!("{isa} {codec} k={k} {block} {part:?}");
                        assert!(same(&scales, &expected_scales), "{what}");
                        assert!(codes == expected, "{what}");
                    }
                }
                if let Some(stored) = tiles.stored_panel(tile, block) {
                    assert!(stored == expected, "{codec} k={k} {block}");
                }
            }
        }
    });
}

#[test]
fn weights_as_bf16_and_as_floats_are_the_oracles() {
    const ROWS: usize = 7;
    let (mut values, mut expected) = ([1; 4096 / 2], [1; 4096 / 2]);
    let (mut panels, mut normal_panels) = (0, 0);
    each_matrix(|oracle, tiles, random| {
        let Layout { codec, cols: k, rows: n, .. } = oracle.layout;
        let padded = k.next_multiple_of(BF16_COLS);
        let mut x = vec![0.0; ROWS * padded];
        for x in x.chunks_exact_mut(padded) {
            x[..k].copy_from_slice(&random.values(k));
        }
        for tile in 0..oracle.layout.tiles() {
            for block in 0..padded / BF16_COLS {
                oracle.bf16_panel(tile, block, &mut expected);
                for (isa, _, kernels) in tiers() {
                    let normal =
                        kernels.bf16_panel(tiles.layout(), tiles.tile(tile), block, &mut values);
                    normal_panels += usize::from(normal);
                    panels += 1;
                    if !normal {
                        tiles.bf16_panel(tile, block, &mut values);
                    }
                    let differ = (0..values.len()).find(|&at| {
                        let nan = |bits: u16| bits & 0x7fff > 0x7f80;
                        let (found, expected) = (values[at], expected[at]);
                        // Past the last column, zeros may have the sign of a scale.
                        let column = block * BF16_COLS + at / (2 * TILE_ROWS) * 2 + at % 2;
                        let zero = column >= k && found & 0x7fff == 0;
                        found != expected && !zero && !(nan(found) && nan(expected))
                    });
                    if let Some(at) = differ {
                        let (found, expected) = (values[at], expected[at]);
                        panic!("{isa} {codec} k={k} {block}: {found:x} at {at}, not {expected:x}");
                    }
                }
            }
            for rows in [1, 2, 4] {
                let mut expected = [[0.0; TILE_ROWS]; 4];
                let x = &x[..rows * padded];
                oracle.float_products(tile, x, padded, &mut expected[..rows]);
                let width = TILE_ROWS.min(n - tile * TILE_ROWS);
                for (isa, _, kernels) in tiers() {
                    let mut found = [[f32::NAN; TILE_ROWS]; 4];
                    let bytes = tiles.tile(tile);
                    kernels.float_products(tiles.layout(), bytes, x, padded, &mut found[..rows]);
                    for (found, expected) in found.iter().zip(&expected[..rows]) {
                        for (found, expected) in found[..width].iter().zip(expected) {
                            // Scales that are infinite make NaN of zeros past the last column.
                            let same = found.to_bits() == expected.to_bits()
                                || !found.is_finite() && !expected.is_finite();
                            assert!(same, "{isa} {codec} k={k}: {found:e}, not {expected:e}");
                        }
                    }
                }
            }
        }
    });
    assert!(panels / 3 < normal_panels && normal_panels < panels, "{normal_panels} of {panels}");
}

#[test]
fn panels_hold_the_weights() {
    // Off by half a code, and by what the arithmetic in 16 bits adds to that.
    const BOUND: f32 = 0.63;
    // With the second part: half a step of factors for codes of up to three, and of offsets.
    const BOUND_OF_BOTH: f32 = 0.01;
    let mut random = Random(72);
    for codec in codecs() {
        let [tensor, _] = tensors(codec, 19, 512, &mut random);
        let mut values = vec![0.0; 19 * 512];
        for (row, values) in values.chunks_exact_mut(512).enumerate() {
            keeve_codec::row_values(&tensor, row, values);
        }
        let oracle = Oracle { layout: Layout::new(codec, 19, 512).unwrap(), tensor };
        let exact = oracle.layout.exact_panels();
        let (mut codes, mut scales) = ([0; TILE_ROWS * PANEL_COLS], [0.0; TILE_ROWS]);
        for (tile, block) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            oracle.panel_part(tile, block, PanelPart::Rest, &mut codes, &mut scales);
            let (rest, rest_scales) = (codes, scales);
            oracle.panel_part(tile, block, PanelPart::First, &mut codes, &mut scales);
            let in_two = oracle.layout.codes.bits <= 2 && !exact;
            for (at, &code) in codes.iter().enumerate() {
                let (row, column) = (at / 4 % TILE_ROWS, at / 64 * 4 + at % 4);
                let index = tile * TILE_ROWS + row;
                if index >= 19 {
                    assert_eq!(code, 0, "{codec}: row {index}");
                    continue;
                }
                let value = values[index * 512 + block * PANEL_COLS + column];
                let (found, scale) = (f32::from(code) * scales[row], scales[row]);
                let bound = if exact { scale * 1e-5 } else { scale * BOUND };
                assert!((found - value).abs() <= bound, "{codec}: {value} is {code} of {scale}");
                let both = found + f32::from(rest[at]) * rest_scales[row];
                assert!(
                    !in_two || (both - value).abs() <= scale * BOUND_OF_BOTH,
                    "{codec}: {value} is {code} of {scale} and {} of {}",
                    rest[at],
                    rest_scales[row]
                );
            }
        }
    }
}

#[test]
fn packing_can_be_stopped() {
    let (memory, pool) = (Arena::default(), Pool::new(2).unwrap());
    let [tensor, _] = tensors(Codec::Q4K, 160, 256, &mut Random(73));
    let layout = Layout::new(Codec::Q4K, 160, 256).unwrap();
    assert!(Tiles::pack(layout, &tensor, &memory, &pool, &|_| false).unwrap().is_none());
}
