//! Products of few rows of activations with tiles, by blocks of 32 columns: exact in `i32` within a
//! block, scales applied as they are stored. K-quants: [`crate::gemv::k_quants`]; activations in two parts:
//! [`crate::gemv::residual`]. The order of `f32` operations is that of
//! [`crate::reference::oracle`], so that results are the same bits.

use keeve_codec::{Group, Scaling};

use crate::gemv::bits::add_products;
use crate::gemv::k_quants;
use crate::gemv::operands::{RowAt, Scales, TileAt};
use crate::gemv::residual;
use crate::packed::tiles::{BLOCK, Layout};
use crate::scheme::activations::{BlockRows, SUM_COLS};
use crate::scheme::panel::{PANEL_COLS, TILE_ROWS};
use crate::simd::ints::IntLanes;
use crate::simd::lanes::Lanes;

/// `out[r] = x[first + r] . weights` for `ROWS` rows and the 16 weight rows of `tile`.
///
/// # Safety
/// The machine must have the instructions of `V`.
///
/// # Panics
/// If something does not fit the layout.
#[inline(always)]
pub(crate) unsafe fn decode<V: IntLanes, const ROWS: usize>(
    layout: &Layout,
    tile: &[u8],
    x: &BlockRows,
    first: usize,
    out: &mut [[f32; TILE_ROWS]],
) {
    let rows = &x.rows;
    let (cols, spans, in_parts) = (rows.cols, rows.spans(), x.parts == 2);
    let most = if in_parts { cols / 2 } else { cols };
    assert!(tile.len() == layout.tile_bytes() && layout.padded() <= most && out.len() >= ROWS);
    assert!(first + ROWS <= rows.rows && rows.codes.len() == rows.rows * cols);
    let span = if in_parts { PANEL_COLS } else { BLOCK };
    assert!(rows.scales.len() == rows.rows * spans && (spans == 1 || rows.span == span));
    let sums = cols / SUM_COLS;
    assert!(x.sums.len() == rows.rows * sums && 2 * x.weighted32.len() == x.sums.len());
    if matches!(layout.codes.scaling, Scaling::SuperBlocks { .. }) {
        assert_eq!(layout.record, k_quants::record_bytes(layout.codes.bits.into()));
    }
    let by_token = spans == 1;
    assert!(!by_token || layout.one_scale_a_row());
    for row in (0..TILE_ROWS).step_by(V::COUNT) {
        // SAFETY: rows are in bounds by the assertions; the caller vouches for the instructions.
        // What the functions read of a tile ends with its last record, which the layout says.
        unsafe {
            let x: [RowAt; ROWS] = std::array::from_fn(|index| {
                let index = first + index;
                RowAt {
                    codes: rows.codes.as_ptr().add(index * cols),
                    scales: rows.scales.as_ptr().add(index * spans),
                    sums: x.sums.as_ptr().add(index * sums),
                    weighted32: x.weighted32.as_ptr().add(index * sums / 2),
                }
            });
            let tile = TileAt { at: tile.as_ptr(), row };
            let found = match layout.codes.scaling {
                Scaling::Groups { group, float, offset } => {
                    let width = match group {
                        Group::Row => layout.span,
                        Group::Of(len) => len.into(),
                    };
                    let scales = Scales { width, float, offset };
                    assert!(!in_parts || width <= PANEL_COLS);
                    match (by_token, layout.codes.bits) {
                        (_, 1) if in_parts => {
                            residual::groups::<V, 1, ROWS>(layout, scales, tile, x)
                        }
                        (_, 2) if in_parts => {
                            residual::groups::<V, 2, ROWS>(layout, scales, tile, x)
                        }
                        (_, bits) if in_parts => unreachable!("no parts for codes of {bits} bits"),
                        (true, 4) => whole_rows::<V, 4, ROWS>(layout, scales, tile, x),
                        (true, _) => whole_rows::<V, 8, ROWS>(layout, scales, tile, x),
                        (false, 2) => groups::<V, 2, ROWS>(layout, scales, tile, x),
                        (false, 3) => groups::<V, 3, ROWS>(layout, scales, tile, x),
                        (false, 4) => groups::<V, 4, ROWS>(layout, scales, tile, x),
                        (false, 5) => groups::<V, 5, ROWS>(layout, scales, tile, x),
                        (false, 6) => groups::<V, 6, ROWS>(layout, scales, tile, x),
                        (false, _) => groups::<V, 8, ROWS>(layout, scales, tile, x),
                    }
                }
                Scaling::SuperBlocks { run: 32, .. } => match layout.codes.bits {
                    4 => k_quants::long_runs::<V, 4, ROWS>(layout, tile, x),
                    _ => k_quants::long_runs::<V, 5, ROWS>(layout, tile, x),
                },
                Scaling::SuperBlocks { .. } => match layout.codes.bits {
                    2 => k_quants::pairs_of_runs::<V, 2, true, ROWS>(layout, tile, x),
                    3 => k_quants::pairs_of_runs::<V, 3, false, ROWS>(layout, tile, x),
                    _ => k_quants::short_runs::<V, 6, ROWS>(layout, tile, x),
                },
            };
            for (out, found) in out.iter_mut().zip(found) {
                found.store(out[row..].as_mut_ptr());
            }
        }
    }
}

/// What makes bytes that registers multiply out of stored codes, by exclusive or, and the code that is
/// zero then. Codes of 8 bits are moved by 128 if they are not of the registers' kind.
///
/// # Safety
/// The machine must have the instructions of `V`.
#[inline(always)]
unsafe fn zero_of<V: IntLanes>(layout: &Layout) -> (V, i32) {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = i32::from(layout.codes.zero);
        if layout.codes.bits < 8 || layout.codes.signed == V::SIGNED {
            (V::splat(0), zero)
        } else {
            let moved = if layout.codes.signed { 128 } else { -128 };
            (V::splat(0x8080_8080_u32 as i32), zero + moved)
        }
    }
}

/// Codecs that scale by groups, activations with a scale for each block.
///
/// # Safety
/// The machine must have the instructions of `V`; the tile and the rows must be as the layout says.
#[inline(always)]
unsafe fn groups<V: IntLanes, const BITS: usize, const ROWS: usize>(
    layout: &Layout,
    scales: Scales,
    tile: TileAt,
    x: [RowAt; ROWS],
) -> [V::Floats; ROWS] {
    // SAFETY: the caller's promise.
    unsafe {
        let nothing = V::Floats::splat(0.0);
        let mut sums = [nothing; ROWS];
        let (flip, zero) = zero_of::<V>(layout);
        let mut block = 0;
        for record in 0..layout.records {
            let header = tile.at.add(record * layout.record);
            let mut codes = header.add(layout.header + 4 * tile.row);
            for index in 0..layout.span / scales.width {
                let (scale, offset) = scales.of_group::<V::Floats>(header, index, tile.row);
                let (mut products, mut added) = ([nothing; ROWS], [0.0; ROWS]);
                for _ in 0..scales.width / BLOCK {
                    let mut block_sums = x.map(|x| {
                        let sum = x.sum16(2 * block) + x.sum16(2 * block + 1);
                        [V::splat(-zero * sum)]
                    });
                    add_products::<V, BITS, ROWS, 1>(codes, flip, &x, block, &mut block_sums);
                    for (row, (x, [product])) in x.iter().zip(block_sums).enumerate() {
                        let by = V::Floats::splat(*x.scales.add(block));
                        products[row] = product.to_floats().mul_add(by, products[row]);
                        added[row] += *x.weighted32.add(block);
                    }
                    codes = codes.add(layout.block_bytes());
                    block += 1;
                }
                for row in 0..ROWS {
                    sums[row] = scale.mul_add(products[row], sums[row]);
                    if scales.offset {
                        sums[row] = offset.mul_add(V::Floats::splat(added[row]), sums[row]);
                    }
                }
            }
        }
        sums
    }
}

/// Codecs with one scale a row, activations likewise: exact in `i32` over the row.
///
/// # Safety
/// The machine must have the instructions of `V`; the tile and the rows must be as the layout says.
#[inline(always)]
unsafe fn whole_rows<V: IntLanes, const BITS: usize, const ROWS: usize>(
    layout: &Layout,
    scales: Scales,
    tile: TileAt,
    x: [RowAt; ROWS],
) -> [V::Floats; ROWS] {
    // SAFETY: the caller's promise.
    unsafe {
        let (flip, zero) = zero_of::<V>(layout);
        let (mut products, mut sums) = ([[V::splat(0)]; ROWS], [0i32; ROWS]);
        let mut codes = tile.at.add(layout.header + 4 * tile.row);
        for block in 0..layout.span / BLOCK {
            add_products::<V, BITS, ROWS, 1>(codes, flip, &x, block, &mut products);
            for (sum, x) in sums.iter_mut().zip(&x) {
                *sum += x.sum16(2 * block) + x.sum16(2 * block + 1);
            }
            codes = codes.add(layout.block_bytes());
        }
        let (scale, _) = scales.of_group::<V::Floats>(tile.at, 0, tile.row);
        std::array::from_fn(|row| {
            // Wrapping: the product of unsigned codes may be too large, the difference is not.
            let less = V::splat(sums[row].wrapping_mul(-zero));
            let by = V::Floats::splat(*x[row].scales);
            products[row][0].add(less).to_floats().mul(by).mul(scale)
        })
    }
}
