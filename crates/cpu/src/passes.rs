//! Blocks of 256 columns that are multiplied more than once, because panels have one scale for those of a
//! weight row.
//!
//! W8A8 and W4A8 by groups ([`Recipe::Grouped`]) have weights with a scale for each group of columns,
//! activations with one for the row. Each block is taken as often as it has groups: every time with the scales
//! of one of them, and with activations that are zeros everywhere else.
//!
//! [`Recipe::Finer`] has both in two parts. Each block is taken three times: the first part of the weights
//! with both of the activations, and what it leaves with the first.

use crate::int_linear::Packed;
use crate::panel::{PANEL_COLS, PanelPart, PanelSource, TILE_ROWS};
use crate::recipe::Recipe;

/// How often [`Recipe::Finer`] takes a block.
pub(crate) const FINER_PASSES: usize = 3;

/// How often a block of columns is taken where groups have so many.
fn parts(group: usize) -> usize {
    PANEL_COLS / group.clamp(1, PANEL_COLS)
}

/// Columns of a row of activations that [`spread`] makes of `cols`.
pub(crate) fn width(cols: usize, group: usize) -> usize {
    cols.next_multiple_of(PANEL_COLS) * parts(group)
}

/// Makes a row for products by groups of one whose codes are at the front, blocks of 256 after each other:
/// each block in as many places as it has groups, and only one group in each.
pub(crate) fn spread(codes: &mut [i8], group: usize) {
    let parts = parts(group);
    if parts == 1 {
        return;
    }
    for block in (0..codes.len() / PANEL_COLS / parts).rev() {
        let mut all = [0; PANEL_COLS];
        all.copy_from_slice(&codes[block * PANEL_COLS..][..PANEL_COLS]);
        let to = &mut codes[block * parts * PANEL_COLS..][..parts * PANEL_COLS];
        to.fill(0);
        for (part, own) in all.chunks_exact(group).enumerate() {
            to[part * PANEL_COLS + part * group..][..group].copy_from_slice(own);
        }
    }
}

/// What is taken each time.
#[derive(Clone, Copy)]
enum Each {
    /// The whole block, once.
    All,
    /// A group of so many columns.
    Group(usize),
    /// A part of the weights.
    Part,
}

/// Weights as a recipe multiplies them: each block of columns as often as it is taken.
pub(crate) struct Passes<'a> {
    packed: &'a Packed,
    each: Each,
}

impl<'a> Passes<'a> {
    /// The weights, which are as they are but for [`Recipe::Grouped`] and [`Recipe::Finer`].
    pub fn of(packed: &'a Packed, recipe: Recipe) -> Self {
        let each = match recipe {
            Recipe::Grouped { group, .. } if parts(group) > 1 => Each::Group(group),
            Recipe::Finer => Each::Part,
            _ => Each::All,
        };
        Self { packed, each }
    }

    /// How often a block is taken.
    fn count(&self) -> usize {
        match self.each {
            Each::All => 1,
            Each::Group(group) => parts(group),
            Each::Part => FINER_PASSES,
        }
    }
}

impl PanelSource for Passes<'_> {
    fn rows(&self) -> usize {
        self.packed.rows()
    }

    fn cols(&self) -> usize {
        match self.each {
            Each::All => self.packed.cols(),
            _ => self.packed.cols().next_multiple_of(PANEL_COLS) * self.count(),
        }
    }

    fn scale_span(&self) -> usize {
        match self.each {
            Each::All => self.packed.scale_span(),
            _ => PANEL_COLS,
        }
    }

    fn panel(
        &self,
        tile: usize,
        block: usize,
        codes: &mut [i8; TILE_ROWS * PANEL_COLS],
        scales: &mut [f32; TILE_ROWS],
    ) {
        let (block, pass) = (block / self.count(), block % self.count());
        match self.each {
            Each::All => self.packed.panel(tile, block, codes, scales),
            Each::Group(group) => {
                self.packed.codes(tile, block, codes);
                self.packed.group_scales(tile, block * PANEL_COLS + pass * group, scales);
            }
            Each::Part => {
                let part =
                    if pass + 1 == FINER_PASSES { PanelPart::Rest } else { PanelPart::First };
                self.packed.panel_part(tile, block, part, codes, scales);
            }
        }
    }

    fn stored_panel(&self, tile: usize, block: usize) -> Option<&[i8]> {
        match self.each {
            Each::All => self.packed.stored_panel(tile, block),
            _ => None,
        }
    }

    fn stored_scales(&self, tile: usize, block: usize, scales: &mut [f32; TILE_ROWS]) {
        self.packed.stored_scales(tile, block, scales);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_stands_alone_in_its_place() {
        for group in [32, 64, 128, 256] {
            let parts = 256 / group;
            let row: Vec<i8> = (0..512).map(|at| (at % 251) as i8).collect();
            let mut codes = vec![99; width(500, group)];
            codes[..512].copy_from_slice(&row);
            spread(&mut codes, group);
            assert_eq!(codes.len(), 512 * parts);
            for (at, code) in codes.into_iter().enumerate() {
                let (place, column) = (at / 256, at % 256);
                let (block, part) = (place / parts, place % parts);
                let own = column / group == part;
                let expected = if own { row[block * 256 + column] } else { 0 };
                assert_eq!(code, expected, "{group} {at}");
            }
        }
    }
}
