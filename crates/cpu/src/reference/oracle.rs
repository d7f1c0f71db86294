//! The recipes in plain loops over weights as they are stored: what every kernel is held to, and what the
//! scalar tier runs.

use keeve_codec::{Codes, Group, PackedTensor, SUPER_BLOCK, Scaling};

use crate::gemm::{BF16_COLS, to_bf16};
use crate::packed::bf16;
use crate::packed::bf16::place;
use crate::packed::stored::columns;
use crate::packed::tiles::{BLOCK, Layout};
use crate::scheme::panel::{PANEL_COLS, PanelPart, QuantizedRows, TILE_ROWS};
use crate::scheme::{FRACTION_BITS, LEAST_PANEL_SCALE, PANEL_TOP, REST_SCALE, WIDE_FACTOR_BITS};

/// A matrix as it is stored.
pub(crate) struct Oracle {
    pub layout: Layout,
    pub tensor: PackedTensor,
}

/// Columns of a row that share all scales.
#[derive(Clone, Copy)]
struct Run {
    scale: f32,
    offset: f32,
}

impl Run {
    const ZERO: Self = Self { scale: 0.0, offset: 0.0 };
}

impl Oracle {
    /// The codes of a weight row.
    pub fn codes(&self, index: usize) -> Vec<i32> {
        let mut codes = vec![0; self.layout.cols];
        keeve_codec::codes(self.layout.codec, self.tensor.row(index), &mut codes);
        let signed = self.layout.codes.signed;
        codes.iter().map(|&code| if signed { (code as i8).into() } else { code.into() }).collect()
    }

    /// The weights of row `index` in the columns from `start` on, a multiple of 256, as they are stored.
    fn values(&self, index: usize, start: usize, out: &mut [f32]) {
        let codec = self.layout.codec;
        keeve_codec::values(codec, columns(codec, self.tensor.row(index), start, out.len()), out);
    }

    /// [`crate::kernels::TileKernels::bf16_panel`].
    pub fn bf16_panel(&self, tile: usize, block: usize, to: &mut [u16; TILE_ROWS * BF16_COLS]) {
        to.fill(0);
        let start = block * BF16_COLS / PANEL_COLS * PANEL_COLS;
        let skip = block * BF16_COLS - start;
        let mut values = [0.0; PANEL_COLS];
        let values = &mut values[..PANEL_COLS.min(self.layout.cols - start)];
        for row in 0..TILE_ROWS.min(self.layout.rows - tile * TILE_ROWS) {
            self.values(tile * TILE_ROWS + row, start, values);
            for (column, &value) in values.iter().skip(skip).take(BF16_COLS).enumerate() {
                to[place(row, column)] = to_bf16(value);
            }
        }
    }

    /// [`crate::kernels::TileKernels::float_products`].
    pub fn float_products(&self, tile: usize, x: &[f32], k: usize, out: &mut [[f32; TILE_ROWS]]) {
        let mut values = vec![0.0; self.layout.cols];
        for row in 0..TILE_ROWS.min(self.layout.rows - tile * TILE_ROWS) {
            self.values(tile * TILE_ROWS + row, 0, &mut values);
            for (x, out) in x.chunks_exact(k).zip(out.iter_mut()) {
                out[row] = bf16::sums(&x[..values.len()], |column| values[column]);
            }
        }
    }

    /// Columns of a group; `None` for K-quants.
    fn group_len(&self) -> Option<usize> {
        match self.layout.codes.scaling {
            Scaling::Groups { group: Group::Row, .. } => Some(self.layout.cols),
            Scaling::Groups { group: Group::Of(len), .. } => Some(len.into()),
            Scaling::SuperBlocks { .. } => None,
        }
    }

    /// Scale and offset of a group.
    fn group(&self, index: usize, group: usize) -> (f32, f32) {
        let values = keeve_codec::group_scale(self.layout.codec, self.tensor.row(index), group);
        values.unwrap_or_default()
    }

    /// The product of weight row `index`, whose codes these are, and activation row `row` by
    /// [`crate::scheme::Recipe::Block`].
    pub fn by_blocks(&self, index: usize, codes: &[i32], x: &QuantizedRows, row: usize) -> f32 {
        let zero = i32::from(self.layout.codes.zero);
        let x_scales = &x.scales[row * x.spans()..];
        let x = &x.codes[row * x.cols..];
        let dot = |from: usize, to: usize| -> i32 {
            (from..to.min(codes.len())).map(|at| (codes[at] - zero) * i32::from(x[at])).sum()
        };
        let sum =
            |from: usize, to: usize| -> i32 { x[from..to].iter().map(|&x| i32::from(x)).sum() };
        let mut result = 0.0;
        match self.layout.codes.scaling {
            Scaling::Groups { offset: has_offset, .. } => {
                let len = self.group_len().unwrap_or(self.layout.cols);
                for group in 0..self.layout.cols.div_ceil(len) {
                    let (scale, offset) = self.group(index, group);
                    let (mut products, mut added) = (0.0, 0.0);
                    for at in (group * len..(group + 1) * len).step_by(BLOCK) {
                        let product = dot(at, at + BLOCK) as f32;
                        products = product.mul_add(x_scales[at / BLOCK], products);
                        added += x_scales[at / BLOCK] * sum(at, at + BLOCK) as f32;
                    }
                    result = scale.mul_add(products, result);
                    if has_offset {
                        result = offset.mul_add(added, result);
                    }
                }
            }
            Scaling::SuperBlocks { run, minimum: has_minimum } => {
                let run = usize::from(run);
                for group in 0..self.layout.cols / SUPER_BLOCK {
                    let row = self.tensor.row(index);
                    let Some(parts) = keeve_codec::super_block(self.layout.codec, row, group)
                    else {
                        break;
                    };
                    let (mut products, mut less) = (0.0, 0.0);
                    for block in 0..SUPER_BLOCK / BLOCK {
                        let start = group * SUPER_BLOCK + block * BLOCK;
                        let x_scale = x_scales[start / BLOCK];
                        let (mut product, mut added) = (0, 0);
                        for at in (start..start + BLOCK).step_by(run) {
                            let run_index = at % SUPER_BLOCK / run;
                            product += dot(at, at + run) * i32::from(parts.scales[run_index]);
                            let minimum = parts.minimums[run_index];
                            if run == BLOCK {
                                let sum = x_scale * sum(at, at + run) as f32;
                                less = f32::from(minimum).mul_add(sum, less);
                            } else {
                                added += i32::from(minimum) * sum(at, at + run);
                            }
                        }
                        products = (product as f32).mul_add(x_scale, products);
                        less = (added as f32).mul_add(x_scale, less);
                    }
                    result = parts.scale.to_f32().mul_add(products, result);
                    if has_minimum {
                        result = (-parts.minimum.to_f32()).mul_add(less, result);
                    }
                }
            }
        }
        result
    }

    /// The product of weight row `index`, whose codes these are, and activation row `row` by
    /// [`crate::scheme::Recipe::FineBlock`].
    pub fn by_parts(&self, index: usize, codes: &[i32], x: &QuantizedRows, row: usize) -> f32 {
        let zero = i32::from(self.layout.codes.zero);
        let has_offset = matches!(self.layout.codes.scaling, Scaling::Groups { offset: true, .. });
        let len = self.group_len().unwrap_or(SUPER_BLOCK);
        let mut result = 0.0;
        for (group, codes) in codes.chunks(len).enumerate() {
            let (scale, offset) = self.group(index, group);
            let (block, within) = (group * len / PANEL_COLS, group * len % PANEL_COLS);
            let (mut products, mut added) = (0.0, 0.0);
            for part in 2 * block..2 * block + 2 {
                let x_scale = x.scales[row * x.spans() + part];
                let x = &x.codes[row * x.cols + part * PANEL_COLS + within..][..codes.len()];
                let both = codes.iter().zip(x);
                let product: i32 = both.map(|(code, &x)| (code - zero) * i32::from(x)).sum();
                let sum: i32 = x.iter().map(|&x| i32::from(x)).sum();
                products = (product as f32).mul_add(x_scale, products);
                added = (sum as f32).mul_add(x_scale, added);
            }
            result = scale.mul_add(products, result);
            if has_offset {
                result = offset.mul_add(added, result);
            }
        }
        result
    }

    /// The codes of a tile's 256 columns, less the code of zero, as a panel has them.
    pub fn panel_codes(&self, tile: usize, block: usize, to: &mut [i8; TILE_ROWS * PANEL_COLS]) {
        to.fill(0);
        let start = (block * PANEL_COLS).min(self.layout.cols);
        for row in 0..TILE_ROWS.min(self.layout.rows - tile * TILE_ROWS) {
            let codes = self.codes(tile * TILE_ROWS + row);
            for (column, code) in codes[start..].iter().take(PANEL_COLS).enumerate() {
                let code = code - i32::from(self.layout.codes.zero);
                to[(column / 4 * TILE_ROWS + row) * 4 + column % 4] = code as i8;
            }
        }
    }

    /// The scales of a tile's group that `column` is in; zeros where there are no weights.
    pub fn group_scales(&self, tile: usize, column: usize, scales: &mut [f32; TILE_ROWS]) {
        scales.fill(0.0);
        let Some(len) = self.group_len().filter(|_| column < self.layout.cols) else { return };
        for (row, scale) in scales.iter_mut().enumerate() {
            let index = tile * TILE_ROWS + row;
            if index < self.layout.rows {
                *scale = self.group(index, column / len).0;
            }
        }
    }

    /// The product of weight row `index`, whose codes these are, and activation row `row` by
    /// [`crate::scheme::Recipe::Token`].
    pub fn by_token(&self, index: usize, codes: &[i32], x: &QuantizedRows, row: usize) -> f32 {
        let zero = i32::from(self.layout.codes.zero);
        let x_scale = x.scales[row];
        let x = &x.codes[row * x.cols..];
        let products = codes.iter().zip(x).map(|(code, &x)| (code - zero) * i32::from(x));
        let (scale, _) = self.group(index, 0);
        products.sum::<i32>() as f32 * x_scale * scale
    }

    /// Scale and offset of the run that a column is in.
    fn run(&self, index: usize, column: usize) -> Run {
        match self.layout.codes.scaling {
            Scaling::Groups { .. } => {
                let len = self.group_len().unwrap_or(self.layout.cols);
                let (scale, offset) = self.group(index, column / len);
                Run { scale, offset }
            }
            Scaling::SuperBlocks { run, .. } => {
                let row = self.tensor.row(index);
                let block = column / SUPER_BLOCK;
                let Some(parts) = keeve_codec::super_block(self.layout.codec, row, block) else {
                    return Run::ZERO;
                };
                let run = column % SUPER_BLOCK / usize::from(run);
                let least = parts.minimum.to_f32() * f32::from(parts.minimums[run]);
                let scale = parts.scale.to_f32() * f32::from(parts.scales[run]);
                Run { scale, offset: -least }
            }
        }
    }

    /// The codes of a weight row in a panel, or of what these leave, and their scale.
    fn panel_row(&self, index: usize, block: usize, part: PanelPart) -> ([i8; PANEL_COLS], f32) {
        let Codes { bits, signed, zero, .. } = self.layout.codes;
        let columns = block * PANEL_COLS..self.layout.cols.min((block + 1) * PANEL_COLS);
        let stored = self.codes(index);
        let mut codes = [0; PANEL_COLS];
        if self.layout.exact_panels() && part == PanelPart::First {
            for (code, column) in codes.iter_mut().zip(columns.clone()) {
                *code = (stored[column] - i32::from(zero)) as i8;
            }
            return (codes, self.run(index, columns.start).scale);
        }
        let zero = f32::from(zero);
        let ends = if signed {
            [-PANEL_TOP, PANEL_TOP]
        } else {
            [0, (1u32 << bits) - 1].map(|code| code as f32 - zero)
        };
        // Codecs that do not have exact panels scale at least 16 columns together.
        let runs: Vec<Run> =
            columns.clone().step_by(16).map(|column| self.run(index, column)).collect();
        let mut largest = 0u32;
        for run in &runs {
            for end in ends {
                // Ordered as magnitudes are, with NaN last.
                largest = largest.max(run.scale.mul_add(end, run.offset).abs().to_bits());
            }
        }
        let scale = f32::from_bits(largest) / PANEL_TOP;
        let usable = scale.is_finite() && scale >= LEAST_PANEL_SCALE;
        let inverse = if usable { 1.0 / scale } else { 0.0 };
        let one = (1u32 << FRACTION_BITS) as f32;
        let nearest = |value: f32| value.round_ties_even() as i32;
        let half = 1 << (FRACTION_BITS - 1);
        for (at, (code, column)) in codes.iter_mut().zip(columns).enumerate() {
            let Run { scale, offset } = if usable { runs[at / 16] } else { Run::ZERO };
            let fixed = if bits == 8 {
                let middle = if signed { 0 } else { 128 };
                let factor = scale * inverse * (1u32 << WIDE_FACTOR_BITS) as f32;
                let by = nearest(factor.clamp(-32767.0, 32767.0));
                let product = ((stored[column] - middle) * 256 * by + (1 << 14)) >> 15;
                let at_middle = (middle as f32 - zero).mul_add(scale, offset);
                let sum = product + nearest(at_middle * inverse * one) + half;
                sum.clamp(i16::MIN.into(), i16::MAX.into())
            } else {
                let by = nearest(scale * inverse * one);
                (stored[column] - zero as i32) * by + nearest(offset * inverse * one) + half
            };
            *code = match part {
                PanelPart::First => (fixed >> FRACTION_BITS) as i8,
                PanelPart::Rest => ((fixed & ((1 << FRACTION_BITS) - 1)) - half) as i8,
            };
        }
        (codes, if part == PanelPart::Rest { scale * REST_SCALE } else { scale })
    }

    /// [`crate::kernels::TileKernels::panel`].
    pub fn panel_part(
        &self,
        tile: usize,
        block: usize,
        part: PanelPart,
        codes: &mut [i8; TILE_ROWS * PANEL_COLS],
        scales: &mut [f32; TILE_ROWS],
    ) {
        codes.fill(0);
        scales.fill(0.0);
        for (row, scale) in scales.iter_mut().enumerate() {
            let index = tile * TILE_ROWS + row;
            if index < self.layout.rows {
                let (of_row, found) = self.panel_row(index, block, part);
                *scale = found;
                for (column, code) in of_row.into_iter().enumerate() {
                    codes[(column / 4 * TILE_ROWS + row) * 4 + column % 4] = code;
                }
            }
        }
    }
}
