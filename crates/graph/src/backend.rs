//! The seam between a graph and what runs it.
//!
//! [`Backend::load`] packs the weights once; [`Program::compile`] makes a plan for a kind of step
//! (so a backend that compiles per size shares one set of weights); [`Plan::run`] runs steps.
//! Fusion, placement and memory planning happen in `compile`, never per token.

use std::str::FromStr;
use std::sync::Arc;

use keeve_codec::PackedTensor;

use crate::sampling::{Sampled, SamplingError};
use crate::scheme::ProductRule;
use crate::state::{KvCodec, State};
use crate::step::{Step, Want};
use crate::{Error, Graph, ValueId};

/// Where a backend gets weights from, by canonical name.
pub trait Weights: Sync {
    /// The tensor `name`.
    ///
    /// # Errors
    /// If it does not exist or cannot be read; the message names the file and the tensor.
    fn weight(&self, name: &str) -> Result<PackedTensor, Box<dyn std::error::Error + Send + Sync>>;

    /// The matrices of the stack `name`, one for each of `count` experts. Files hold them stacked or
    /// apart; stacked unless this is overridden.
    ///
    /// # Errors
    /// If they do not exist or cannot be read, or there are not `count`; the message names the
    /// tensor.
    fn experts(
        &self,
        name: &str,
        count: usize,
    ) -> Result<Vec<PackedTensor>, Box<dyn std::error::Error + Send + Sync>> {
        let stack = self.weight(name)?;
        if stack.experts() != count {
            let found = stack.experts();
            return Err(format!("tensor {name} has {found} experts, expected {count}").into());
        }
        (0..count).map(|expert| Ok(stack.expert(expert)?)).collect()
    }

    /// Bytes of the matrices of the stack `name`: to [`Weights::experts`] what [`Weights::info`] is to
    /// [`Weights::weight`].
    ///
    /// # Errors
    /// As [`Weights::experts`].
    fn experts_bytes(
        &self,
        name: &str,
        count: usize,
    ) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.experts(name, count)?.iter().map(|expert| expert.bytes() as u64).sum())
    }

    /// What the tensor `name` is like. Backends ask for this first and for tensors one by one later, so
    /// those for whom a tensor is costly should not make it here.
    ///
    /// # Errors
    /// As [`Weights::weight`].
    fn info(&self, name: &str) -> Result<WeightInfo, Box<dyn std::error::Error + Send + Sync>> {
        let tensor = self.weight(name)?;
        Ok(WeightInfo {
            experts: tensor.experts(),
            rows: tensor.rows(),
            cols: tensor.cols(),
            bytes: tensor.bytes() as u64,
        })
    }
}

/// What a tensor is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightInfo {
    /// Matrices of a stack; 1 if it is none.
    pub experts: usize,
    /// Output channels.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Bytes as it is stored.
    pub bytes: u64,
}

/// How activations enter matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Activations {
    /// `f32`, weights exactly as stored: equal to the reference libraries.
    #[default]
    Float,
    /// Weights and activations rounded to bf16 for rows of prompts; for generated ones nothing is.
    Bf16,
    /// Activations quantized to 8 bits; where weights have one scale a row, so have activations.
    Int8,
    /// By product and phase what is fastest of all that costs no more accuracy than the int8 products of
    /// llama.cpp with the same file.
    Auto,
    /// By codec and phase what is fastest of all that is of use: activations and weights of prompts in int8 with a
    /// scale for each 256 columns.
    Fast,
}

impl Activations {
    /// Every mode.
    pub const ALL: [Self; 5] = [Self::Float, Self::Bf16, Self::Int8, Self::Auto, Self::Fast];

    /// The name of the mode, as flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Auto => "auto",
            Self::Fast => "fast",
        }
    }
}

impl FromStr for Activations {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no mode of activations '{name}', expected one of {names}")
        })
    }
}

/// How [`Activations::Int8`] makes a row int8 with one scale, for weights with one scale a row. `a` is
/// the row's largest magnitude.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RowRounding {
    /// Cider's: the scale is `a / 127`, halves go away from zero. Source: Mininglamp-AI/cider
    /// `cider/ops.py`.
    #[default]
    Cider,
    /// The scale is `a / 127.5`, halves go to even. Source: vllm-project/compressed-tensors
    /// `quantization/utils/helpers.py`.
    CompressedTensors,
}

/// How far loading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of packed weights done.
    pub done: u64,
    /// Bytes of packed weights in all.
    pub total: u64,
}

/// What loading may decide.
pub struct LoadOptions<'a> {
    /// How activations enter matrix products.
    pub activations: Activations,
    /// How rows become int8 where weights have one scale a row.
    pub row_rounding: RowRounding,
    /// How keys and values are stored; `None`: in `f32` under [`Activations::Float`], else in `f16`.
    pub kv_codec: Option<KvCodec>,
    /// How the products of single weights are made, by the name of the weight, where not all are made as
    /// `activations` says.
    pub products: Option<&'a (dyn Fn(&str) -> ProductRule + Sync)>,
    /// Called as loading goes on; returning `false` cancels it.
    pub progress: &'a (dyn Fn(Progress) -> bool + Sync),
}

impl LoadOptions<'_> {
    /// How keys and values are stored, where that is left open: so that they cost no accuracy under
    /// [`Activations::Float`], half as much memory otherwise.
    pub fn chosen_kv_codec(&self) -> KvCodec {
        self.kv_codec.unwrap_or(match self.activations {
            Activations::Float => KvCodec::F32,
            Activations::Bf16 | Activations::Int8 | Activations::Auto | Activations::Fast => {
                KvCodec::F16
            }
        })
    }

    /// How the products of the weight `name` are made.
    pub fn product(&self, name: &str) -> ProductRule {
        self.products.map_or(ProductRule::Mode(self.activations), |rule| rule(name))
    }
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self {
            activations: Activations::Float,
            row_rounding: RowRounding::default(),
            kv_codec: None,
            products: None,
            progress: &|_| true,
        }
    }
}

/// What a plan is made for.
#[derive(Debug, Clone, Default)]
pub struct CompileOptions {
    /// The largest number of rows that its steps will have, where the backend needs to know.
    pub max_rows: Option<usize>,
    /// Values that will be watched: they are not fused away.
    pub taps: Vec<ValueId>,
    /// Whether to count time and bytes by operation.
    pub profile: bool,
}

/// Something that runs graphs.
pub trait Backend: Send + Sync {
    /// The name that errors use.
    fn name(&self) -> &'static str;

    /// Takes the graph's weights, packing them as its kernels want them.
    ///
    /// # Errors
    /// If a weight is missing or of the wrong shape, or the backend has no kernel for an operation,
    /// a codec or the mode.
    fn load(
        &self,
        graph: Arc<Graph>,
        weights: &dyn Weights,
        options: &LoadOptions<'_>,
    ) -> Result<Box<dyn Program>, Error>;
}

/// A graph with its weights.
pub trait Program: Send + Sync {
    /// The graph.
    fn graph(&self) -> &Graph;

    /// A plan for steps of this kind.
    ///
    /// # Errors
    /// If the backend cannot do what is asked.
    fn compile(&self, options: &CompileOptions) -> Result<Box<dyn Plan>, Error>;

    /// Room for `pages` pages of sequence state.
    ///
    /// # Errors
    /// If there is not enough memory.
    fn state(&self, pages: usize) -> Result<Box<dyn State>, Error>;

    /// Bytes of one page over all slots, before any is allocated.
    fn page_bytes(&self) -> usize;

    /// Tokens in a page.
    fn page_tokens(&self) -> usize;

    /// Bytes that the packed weights take.
    fn weight_bytes(&self) -> u64;

    /// Bytes that a plan works with for each row of a step: the values that it holds, and what products make of
    /// their inputs. Sequence state and outputs are not among them.
    fn row_bytes(&self) -> usize;
}

/// Watches values as they are computed.
pub trait Tap {
    /// `data` is `[rows, width]` of `value`, for the rows of this step.
    fn value(&mut self, value: ValueId, width: usize, data: &[f32]);
}

/// A graph made ready to run.
pub trait Plan: Send {
    /// Runs one step: updates `state` and returns what rows asked for. `tap` sees the values that
    /// the plan was compiled to watch.
    ///
    /// # Errors
    /// If the step does not fit the state or the graph. The state of its sequences is then
    /// undefined past what they had before.
    fn run(
        &mut self,
        step: &Step<'_>,
        state: &mut dyn State,
        tap: Option<&mut dyn Tap>,
    ) -> Result<Outputs, Error>;

    /// Time and bytes by operation since the plan was made; empty unless asked for.
    fn profile(&self) -> Vec<OpProfile>;
}

/// What a step gave: for each output, the rows that asked for it, in order.
#[derive(Debug, Clone, Default)]
pub struct Outputs {
    /// Output, width of a row, and the rows.
    pub values: Vec<(Want, usize, Vec<f32>)>,
    /// What was sampled after each row of [`Step::sampling`]; `None` where its mask had nothing to sample.
    pub sampled: Vec<Result<Option<Sampled>, SamplingError>>,
}

impl Outputs {
    /// The rows of an output (empty if none asked for it).
    pub fn rows(&self, want: Want) -> impl Iterator<Item = &[f32]> {
        self.values
            .iter()
            .filter(move |(output, ..)| *output == want)
            .flat_map(|(_, width, rows)| rows.chunks_exact((*width).max(1)))
    }

    /// Takes the rows of an output: their width, and all of them one after another.
    pub fn take(&mut self, want: Want) -> Option<(usize, Vec<f32>)> {
        let found = self.values.iter_mut().find(|(output, ..)| *output == want)?;
        Some((found.1, std::mem::take(&mut found.2)))
    }
}

/// Where time went.
#[derive(Debug, Clone, PartialEq)]
pub struct OpProfile {
    /// The operation, with the codec where there is one: `linear q4_k`.
    pub op: String,
    /// How often it ran.
    pub calls: u64,
    /// Wall time.
    pub nanoseconds: u64,
    /// Bytes of weights and state that it had to read.
    pub bytes: u64,
}
