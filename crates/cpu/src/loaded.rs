//! What a program is: a graph, its weights, and what runs them.

use std::sync::Arc;

use keeve_graph::Graph;

use crate::attention::AttentionKernels;
use crate::kernels::Kernels;
use crate::kv_cache::KvShape;
use crate::runtime::pool::Pool;
use crate::weights::LoadedWeights;

/// The name of the backend.
pub(crate) const NAME: &str = "cpu";

/// A graph with its weights, shared by its plans.
pub(crate) struct Loaded {
    pub graph: Arc<Graph>,
    pub weights: LoadedWeights,
    pub kernels: &'static dyn Kernels,
    pub attention: Arc<dyn AttentionKernels>,
    /// Whether activations are left as they are.
    pub float: bool,
    pub pool: Arc<Pool>,
    pub slots: Vec<KvShape>,
    /// Bytes of all weights as they are stored.
    pub weight_bytes: u64,
}
