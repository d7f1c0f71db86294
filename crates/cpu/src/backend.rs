//! Loading: checks what the graph needs, packs its weights.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keeve_codec::{Codec, PackedTensor};
use keeve_graph::{
    Activations, Backend, CompileOptions, Error, Graph, LoadOptions, Op, Plan, ProductRule,
    Program, Progress, Slot, State, Weights,
};

use crate::attention::{AttentionKernels, attention_kernels};
use crate::dispatch::kernels;
use crate::gemm::Gemm;
use crate::isa::Isa;
use crate::kernels::Kernels;
use crate::kv_cache::pages::Pages;
use crate::kv_cache::{KvShape, PAGE_TOKENS, page_bytes};
use crate::linear::Linear;
use crate::loaded::{Loaded, NAME};
use crate::packed::{Packed, Stop};
use crate::plan::CpuPlan;
use crate::runtime::arena::Arena;
use crate::runtime::pool::Pool;
use crate::scheme::{MOST_TOKEN_COLS, Recipe, Recipes};
use crate::weights::{LoadedWeight, LoadedWeights};

/// How the backend uses the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads; at least 1.
    pub threads: usize,
    /// Instruction set tier.
    pub isa: Isa,
}

/// The CPU backend: a tier of kernels and a thread pool.
pub struct Cpu {
    isa: Isa,
    kernels: &'static dyn Kernels,
    attention: Arc<dyn AttentionKernels>,
    pool: Arc<Pool>,
}

impl Cpu {
    /// A backend with its own threads.
    ///
    /// # Errors
    /// If the machine lacks the tier, or the system refuses a thread.
    pub fn new(options: CpuOptions) -> std::io::Result<Self> {
        let (Some(kernels), Some(attention)) =
            (kernels(options.isa), attention_kernels(options.isa))
        else {
            let message = format!("this machine has no {}", options.isa);
            return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, message));
        };
        Ok(Self {
            isa: options.isa,
            kernels,
            attention,
            pool: Arc::new(Pool::new(options.threads)?),
        })
    }

    /// The tier in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        NAME
    }

    fn load(
        &self,
        graph: Arc<Graph>,
        weights: &dyn Weights,
        options: &LoadOptions<'_>,
    ) -> Result<Box<dyn Program>, Error> {
        let unsupported = |what: String| Error::Unsupported { backend: NAME, what };
        if let Some(node) = graph.nodes().iter().find(|node| node.placement != 0) {
            return Err(unsupported(format!("placement {}", node.placement)));
        }
        let codec = options.chosen_kv_codec();
        let slot = |slot: &Slot| match *slot {
            Slot::Paged { kv_heads, head_dim } => Ok(KvShape { kv_heads, head_dim, codec }),
            Slot::Window { .. } | Slot::Fixed { .. } => Err(unsupported(format!("{slot:?} state"))),
        };
        let slots = graph.slots().iter().map(slot).collect::<Result<Vec<_>, _>>()?;
        let kernels = self.kernels;
        let bytes = graph
            .weights()
            .iter()
            .map(|weight| checked_bytes(weight, weights))
            .collect::<Result<Vec<_>, _>>()?;
        let weight_bytes = bytes.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        let loading = Loading {
            options,
            isa: self.isa,
            kernels,
            gemm: Gemm::new(self.isa),
            pool: &self.pool,
            memory: Arena::default(),
            done: AtomicU64::new(0),
            total: weight_bytes,
        };
        // One after the other, the largest first: beside what is packed there is one tensor as it is
        // stored, and the large ones come while little is packed.
        let mut order: Vec<_> = uses(&graph).into_iter().enumerate().collect();
        order.sort_by_key(|&(index, _)| std::cmp::Reverse(bytes[index]));
        let mut loaded: Vec<_> = bytes.iter().map(|_| LoadedWeight::Unused).collect();
        for (index, uses) in order {
            let weight = &graph.weights()[index];
            let loaded = &mut loaded[index];
            if let Some(count) = weight.experts {
                let experts = experts(weight, count, weights)?.into_iter();
                let packed = experts.map(|expert| loading.linear(&weight.name, expert));
                *loaded = LoadedWeight::Experts(packed.collect::<Result<_, _>>()?);
                continue;
            }
            let tensor = weights.weight(&weight.name).map_err(Error::Weight)?;
            check_shape(weight, (tensor.experts(), tensor.rows(), tensor.cols()))?;
            *loaded = match uses {
                Uses { vector: true, linear: false, table: false } => {
                    let mut values = vector(&tensor);
                    if weight.one_plus {
                        values.iter_mut().for_each(|value| *value += 1.0);
                    }
                    LoadedWeight::Vector(values)
                }
                Uses { vector: false, linear: true, .. } => {
                    LoadedWeight::Linear(loading.linear(&weight.name, tensor)?)
                }
                Uses { vector: false, linear: false, table: true } => {
                    if tensor.basis().is_some() {
                        let what =
                            format!("embed with rows in another basis (tensor {})", weight.name);
                        return Err(unsupported(what));
                    }
                    LoadedWeight::Table(tensor)
                }
                Uses { vector: false, linear: false, table: false } => LoadedWeight::Unused,
                Uses { vector: true, .. } => {
                    let what = format!("a vector that is a matrix too (tensor {})", weight.name);
                    return Err(unsupported(what));
                }
            };
        }
        if !(options.progress)(Progress { done: weight_bytes, total: weight_bytes }) {
            return Err(Error::Cancelled);
        }
        let pool = self.pool.clone();
        Ok(Box::new(CpuProgram(Arc::new(Loaded {
            graph,
            weights: LoadedWeights(loaded),
            kernels,
            attention: self.attention.clone(),
            float: options.activations == Activations::Float,
            pool,
            slots,
            weight_bytes,
        }))))
    }
}

/// What packing weights needs to know, and how far it has come.
struct Loading<'a> {
    options: &'a LoadOptions<'a>,
    isa: Isa,
    kernels: &'static dyn Kernels,
    gemm: Gemm,
    pool: &'a Pool,
    memory: Arena,
    done: AtomicU64,
    total: u64,
}

impl Loading<'_> {
    /// Counts bytes; whether to go on.
    fn count(&self, bytes: u64) -> bool {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        (self.options.progress)(Progress { done: done.min(self.total), total: self.total })
    }

    /// The weight of a `linear`, packed for how it will be multiplied.
    fn linear(&self, name: &str, tensor: PackedTensor) -> Result<Linear, Error> {
        let unsupported = |what: String| Error::Unsupported { backend: NAME, what };
        let (tensor, basis) = tensor.into_stored();
        let codec = tensor.codec();
        let recipes = match self.options.product(name) {
            ProductRule::Mode(mode) => {
                Recipes::choose(codec, mode, self.options.row_rounding, self.isa)
            }
            ProductRule::Scheme(scheme) => Recipes::of(scheme, codec).ok_or_else(|| {
                unsupported(format!("scheme {scheme} for {codec} (tensor {name})"))
            })?,
        };
        let by_token = matches!(recipes.generated, Recipe::Token(_));
        if by_token && tensor.cols() > MOST_TOKEN_COLS {
            let columns = tensor.cols();
            return Err(unsupported(format!(
                "quantized activations for {codec} with {columns} columns, more than \
                 {MOST_TOKEN_COLS} (tensor {name})"
            )));
        }
        let bytes = tensor.bytes() as u64;
        let (kernels, memory, pool) = (self.kernels, &self.memory, self.pool);
        let done = |bytes| self.count(bytes);
        let packed = match recipes {
            Recipes::FLOAT => Packed::stored(tensor, kernels, &done),
            _ if codec == Codec::BF16 => Packed::bf16(tensor, kernels, memory, pool, &done),
            _ if codec.codes().is_none() => Packed::stored(tensor, kernels, &done),
            _ => Packed::codes(tensor, kernels, memory, pool, &done),
        };
        let packed = packed.map_err(|stop| match stop {
            Stop::Memory => Error::OutOfMemory { what: "packed weights", bytes },
            Stop::Cancelled => Error::Cancelled,
        })?;
        let Recipes { generated, prompt } = recipes;
        if let Some(recipe) = [generated, prompt].into_iter().find(|recipe| !packed.has(*recipe)) {
            return Err(unsupported(format!("{codec} by {} (tensor {name})", recipe.name())));
        }
        Ok(Linear { packed, recipes, gemm: self.gemm, basis })
    }
}

/// What a weight is used as.
#[derive(Clone, Copy, Default)]
struct Uses {
    table: bool,
    linear: bool,
    /// As gains or bias.
    vector: bool,
}

/// What each weight of the graph is used as.
fn uses(graph: &Graph) -> Vec<Uses> {
    let mut uses = vec![Uses::default(); graph.weights().len()];
    for node in graph.nodes() {
        match node.op {
            Op::Embed { table } => uses[table.index()].table = true,
            Op::Linear { weight, bias, .. } => {
                uses[weight.index()].linear = true;
                if let Some(bias) = bias {
                    uses[bias.index()].vector = true;
                }
            }
            Op::RmsNorm { weight, .. } => uses[weight.index()].vector = true,
            Op::LayerNorm { weight, bias, .. } => {
                uses[weight.index()].vector = true;
                uses[bias.index()].vector = true;
            }
            // Products with experts have their weights to themselves.
            Op::ExpertLinear { .. }
            | Op::Given { .. }
            | Op::Rope { .. }
            | Op::Attention { .. }
            | Op::Unary { .. }
            | Op::Binary { .. }
            | Op::Scale { .. }
            | Op::ScaleRows { .. }
            | Op::Slice { .. }
            | Op::RoundRows { .. }
            | Op::Router { .. }
            | Op::ExpertSum { .. }
            | Op::SelectRows { .. } => {}
        }
    }
    uses
}

/// Bytes of a weight as it is stored, if it has the shape that the graph expects.
fn checked_bytes(weight: &keeve_graph::Weight, weights: &dyn Weights) -> Result<u64, Error> {
    if let Some(count) = weight.experts {
        return weights.experts_bytes(&weight.name, count).map_err(Error::Weight);
    }
    let info = weights.info(&weight.name).map_err(Error::Weight)?;
    check_shape(weight, (info.experts, info.rows, info.cols))?;
    Ok(info.bytes)
}

/// The matrices of a weight of `count` experts, at least one.
fn experts(
    weight: &keeve_graph::Weight,
    count: usize,
    weights: &dyn Weights,
) -> Result<Vec<PackedTensor>, Error> {
    let experts = weights.experts(&weight.name, count).map_err(Error::Weight)?;
    for expert in &experts {
        check_shape(weight, (expert.experts(), expert.rows(), expert.cols()))?;
    }
    if experts.len() != count {
        let found = experts.len();
        let problem = format!("tensor {} has {found} experts, expected {count}", weight.name);
        return Err(Error::Weight(problem.into()));
    }
    Ok(experts)
}

/// Checks experts, rows and columns.
fn check_shape(weight: &keeve_graph::Weight, found: (usize, usize, usize)) -> Result<(), Error> {
    let (experts, rows, cols) = found;
    if found == (1, weight.rows, weight.cols) {
        return Ok(());
    }
    Err(Error::WeightShape {
        name: weight.name.clone(),
        found_rows: experts.saturating_mul(rows),
        found_cols: cols,
        rows: weight.rows,
        cols: weight.cols,
    })
}

fn vector(tensor: &PackedTensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.cols()];
    keeve_codec::row_values(tensor, 0, &mut values);
    values
}

struct CpuProgram(Arc<Loaded>);

impl Program for CpuProgram {
    fn graph(&self) -> &Graph {
        &self.0.graph
    }

    fn compile(&self, options: &CompileOptions) -> Result<Box<dyn Plan>, Error> {
        Ok(Box::new(CpuPlan::new(self.0.clone(), options)))
    }

    fn state(&self, pages: usize) -> Result<Box<dyn State>, Error> {
        Ok(Box::new(Pages::new(&self.0.slots, pages)?))
    }

    fn page_bytes(&self) -> usize {
        page_bytes(&self.0.slots)
    }

    fn page_tokens(&self) -> usize {
        PAGE_TOKENS
    }

    fn weight_bytes(&self) -> u64 {
        self.0.weight_bytes
    }

    fn row_bytes(&self) -> usize {
        CpuPlan::new(self.0.clone(), &CompileOptions::default()).row_bytes()
    }
}
