//! The part of a model that sees: from patches of an image to rows that the language model is given.

use keeve_graph::{Graph, Weight};

/// Graphs that turn patches into rows for [`Model::graph`](crate::Model::graph).
///
/// They run one after another, so that whoever runs them can do something else in between: [`Self::embed`]
/// on rows of pixels and positions, then [`Self::blocks`], each on what came before, then
/// [`Self::merger`]. Every graph reads rows that the step gives and puts out one hidden row for each. A sequence
/// of a step is one image, whole. Rows of mergers are [`Self::merged`] consecutive rows of patches side by
/// side. For each token of an image, the language model is given what the merger makes of it and then
/// what [`Block::features`] make of it, in order.
#[derive(Debug, Clone)]
pub struct Vision {
    /// The token that stands for an image, repeated, in prompts.
    pub image_token: u32,
    /// Values of a patch.
    pub patch_width: usize,
    /// Patches along each side that become one token.
    pub merge: usize,
    /// Width of the hidden state.
    pub hidden: usize,
    /// Width of what every merger makes.
    pub width: usize,
    /// The learned positions.
    pub positions: PositionTable,
    /// Gives patches their first hidden state. It is given their values, then their positions.
    pub embed: Graph,
    /// The layers.
    pub blocks: Vec<Block>,
    /// Makes tokens of patches.
    pub merger: Graph,
}

/// A layer of a vision encoder.
#[derive(Debug, Clone)]
pub struct Block {
    /// The layer.
    pub graph: Graph,
    /// What makes tokens of its result as well, if the language model is given them.
    pub features: Option<Graph>,
}

/// A square of learned positions, between which images of any shape are interpolated.
#[derive(Debug, Clone)]
pub struct PositionTable {
    /// `[side * side, hidden]`, row by row of the square.
    pub weight: Weight,
    /// Positions along a side.
    pub side: usize,
}

/// Where a patch is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PatchPlace {
    /// Time (0), row and column, in patches: the positions that the encoder turns queries and keys by.
    pub position: [u32; 3],
    /// Rows of the position table and their weights, whose sum is the patch's learned position.
    pub taps: [(usize, f32); 4],
}

impl Vision {
    /// Patches that become one token.
    pub fn merged(&self) -> usize {
        self.merge * self.merge
    }

    /// All graphs, in the order in which they run.
    pub fn graphs(&self) -> impl Iterator<Item = &Graph> {
        let blocks = self.blocks.iter();
        let blocks = blocks.flat_map(|block| std::iter::once(&block.graph).chain(&block.features));
        std::iter::once(&self.embed).chain(blocks).chain(std::iter::once(&self.merger))
    }

    /// All weights, each once.
    pub fn weights(&self) -> impl Iterator<Item = &Weight> {
        let table = std::iter::once(&self.positions.weight);
        table.chain(self.graphs().flat_map(Graph::weights))
    }

    /// The places of the patches of an image of `height` by `width` patches, in the order in which patches
    /// come: those that become one token one after another. `height` and `width` are multiples of
    /// [`Self::merge`]; patches beyond such are left out.
    pub fn places(&self, height: usize, width: usize) -> impl Iterator<Item = PatchPlace> {
        let (side, merge) = (self.positions.side, self.merge);
        let blocks = (0..height / merge)
            .flat_map(move |row| (0..width / merge).map(move |column| (row, column)));
        blocks.flat_map(move |(row, column)| {
            (0..merge * merge).map(move |at| {
                let (row, column) = (row * merge + at / merge, column * merge + at % merge);
                place(side, (row, height), (column, width))
            })
        })
    }
}

/// The place of the patch in row `row` of `height` and column `column` of `width`. The corners of the image are
/// the corners of the table, and what is between is interpolated linearly on both axes:
/// huggingface/transformers `vision_utils.py`, bilinear with aligned corners.
fn place(
    side: usize,
    (row, height): (usize, usize),
    (column, width): (usize, usize),
) -> PatchPlace {
    let axis = |at: usize, size: usize| {
        let step = (side - 1) as f32 / (size.max(2) - 1) as f32;
        let place = at as f32 * step;
        let low = (place as usize).min(side - 1);
        let part = place - low as f32;
        [(low, 1.0 - part), ((low + 1).min(side - 1), part)]
    };
    let (rows, columns) = (axis(row, height), axis(column, width));
    let tap = |at: usize| {
        let ((row, by_row), (column, by_column)) = (rows[at / 2], columns[at % 2]);
        (row * side + column, by_row * by_column)
    };
    PatchPlace { position: [0, row as u32, column as u32], taps: std::array::from_fn(tap) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A patch's learned position lies where its taps' places have their middle.
    #[test]
    fn taps_lie_around_the_place_and_weigh_one() {
        for (side, height, width) in [(8, 4, 6), (16, 16, 16), (5, 2, 50), (1, 4, 4), (7, 1, 3)] {
            for row in 0..height {
                for column in 0..width {
                    let place = place(side, (row, height), (column, width));
                    assert_eq!(place.position, [0, row as u32, column as u32]);
                    let sum = |of: &dyn Fn(usize) -> usize| -> f64 {
                        let taps = place.taps.iter();
                        taps.map(|&(index, weight)| of(index) as f64 * f64::from(weight)).sum()
                    };
                    let expected = |at: usize, size: usize| {
                        (side - 1) as f64 * at as f64 / (size.max(2) - 1) as f64
                    };
                    assert!((sum(&|_| 1) - 1.0).abs() < 1e-6);
                    assert!((sum(&|index| index / side) - expected(row, height)).abs() < 1e-5);
                    assert!((sum(&|index| index % side) - expected(column, width)).abs() < 1e-5);
                    assert!(place.taps.iter().all(|&(index, _)| index < side * side));
                }
            }
        }
    }
}
