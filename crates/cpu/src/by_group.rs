//! W8A8 and W4A8 by groups ([`Recipe::Grouped`]): weights with a scale for each group of columns, activations
//! with one for the row.
//!
//! Panels are multiplied exactly within 256 columns, with one scale for those of a weight row. So each block
//! of 256 columns is taken as often as it has groups: every time with the scales of one of them, and with
//! activations that are zeros everywhere else.

use crate::int_linear::Packed;
use crate::panel::{PANEL_COLS, PanelSource, TILE_ROWS};
use crate::recipe::Recipe;

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

/// Weights as a recipe multiplies them: where groups have scales of their own, each block of columns is
/// there once for each of them.
pub(crate) struct ByGroup<'a> {
    packed: &'a Packed,
    group: usize,
    parts: usize,
}

impl<'a> ByGroup<'a> {
    /// The weights, which are as they are but for [`Recipe::Grouped`].
    pub fn of(packed: &'a Packed, recipe: Recipe) -> Self {
        let group = match recipe {
            Recipe::Grouped { group, .. } => group,
            _ => PANEL_COLS,
        };
        Self { packed, group, parts: parts(group) }
    }
}

impl PanelSource for ByGroup<'_> {
    fn rows(&self) -> usize {
        self.packed.rows()
    }

    fn cols(&self) -> usize {
        match self.parts {
            1 => self.packed.cols(),
            _ => width(self.packed.cols(), self.group),
        }
    }

    fn scale_span(&self) -> usize {
        match self.parts {
            1 => self.packed.scale_span(),
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
        if self.parts == 1 {
            return self.packed.panel(tile, block, codes, scales);
        }
        let (block, part) = (block / self.parts, block % self.parts);
        self.packed.codes(tile, block, codes);
        self.packed.group_scales(tile, block * PANEL_COLS + part * self.group, scales);
    }

    fn stored_panel(&self, tile: usize, block: usize) -> Option<&[i8]> {
        match self.parts {
            1 => self.packed.stored_panel(tile, block),
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
