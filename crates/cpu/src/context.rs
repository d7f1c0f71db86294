//! What the operations of a step share.

use keeve_graph::{Graph, Phase, Rows, Step, Want};

use crate::ops::rope::Turns;

/// What a node reads besides its operands.
pub(crate) struct Context<'a, 's> {
    pub step: &'a Step<'s>,
    /// Of each rotary table of the graph.
    pub turns: Vec<Turns>,
    /// Rows whose logits are computed, and those that want hidden states.
    logits: Vec<usize>,
    hidden: Vec<usize>,
}

impl<'a, 's> Context<'a, 's> {
    /// That of a step.
    pub fn new(graph: &Graph, step: &'a Step<'s>) -> Self {
        Self {
            step,
            turns: graph.ropes().iter().map(|rope| Turns::new(rope, &step.rows)).collect(),
            logits: step.logits_rows().collect(),
            hidden: step.wanted(Want::Hidden).collect(),
        }
    }

    /// The rows that an output is computed for.
    pub fn wanted(&self, want: Want) -> &[usize] {
        match want {
            Want::Logits => &self.logits,
            Want::Hidden => &self.hidden,
        }
    }

    /// The phases of rows.
    pub fn phases(&self, rows: Rows) -> Vec<Phase> {
        match rows {
            Rows::Tokens => self.step.rows.iter().map(|row| row.phase).collect(),
            Rows::Wanted(want) => {
                self.wanted(want).iter().map(|&row| self.step.rows[row].phase).collect()
            }
        }
    }

    /// How many rows there are.
    pub fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.step.rows.len(),
            Rows::Wanted(want) => self.wanted(want).len(),
        }
    }
}
