//! The weights of a graph, each in the form that its use needs.

use keeve_codec::PackedTensor;
use keeve_graph::WeightId;

use crate::linear::Linear;

/// A weight, loaded for its use.
pub(crate) enum LoadedWeight {
    /// For `linear`, and perhaps `embed`.
    Linear(Linear),
    /// For `embed` alone.
    Table(PackedTensor),
    /// For `expert_linear`: each expert's.
    Experts(Vec<Linear>),
    /// For gains and biases.
    Vector(Vec<f32>),
    /// No node of the graph has it.
    Unused,
}

/// All of them. Each is loaded for what the graph does with it, so whoever asks for another form of one is
/// wrong about the graph.
pub(crate) struct LoadedWeights(pub Vec<LoadedWeight>);

impl LoadedWeights {
    /// The weight.
    pub fn get(&self, id: WeightId) -> &LoadedWeight {
        &self.0[id.index()]
    }

    /// The matrix of a `linear`.
    ///
    /// # Panics
    /// If it is none.
    pub fn linear(&self, id: WeightId) -> &Linear {
        match self.get(id) {
            LoadedWeight::Linear(linear) => linear,
            _ => unreachable!("weight {} was loaded for another use than linear", id.index()),
        }
    }

    /// The matrices of an `expert_linear`.
    ///
    /// # Panics
    /// If it is none.
    pub fn experts(&self, id: WeightId) -> &[Linear] {
        match self.get(id) {
            LoadedWeight::Experts(experts) => experts,
            _ => unreachable!("weight {} was loaded for another use than experts", id.index()),
        }
    }

    /// A gain or bias.
    ///
    /// # Panics
    /// If it is none.
    pub fn vector(&self, id: WeightId) -> &[f32] {
        match self.get(id) {
            LoadedWeight::Vector(vector) => vector,
            _ => unreachable!("weight {} was loaded for another use than as a vector", id.index()),
        }
    }
}
