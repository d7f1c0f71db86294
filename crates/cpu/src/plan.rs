//! Running a graph, node by node, in planned buffers.

use std::mem::take;
use std::sync::Arc;
use std::time::Instant;

use keeve_graph::{
    BinaryOp, CompileOptions, Error, MemoryPlan, Op, OpProfile, Outputs, Phase, Plan, Rows, State,
    Step, StepLimits, Tap, UnaryOp, ValueId, Want, WeightId,
};

use crate::attention::{append, attend};
use crate::backend::{Loaded, LoadedWeight, NAME};
use crate::embed::embed;
use crate::experts::{self, ExpertProduct, ExpertRows};
use crate::inputs::Inputs;
use crate::key_values::PAGE_TOKENS;
use crate::pool::Pool;
use crate::profile::Profile;
use crate::rope::Turns;
use crate::round::round_row;
use crate::shared_out::SharedOut;
use crate::state::Pages;

/// Values that one task of an element-wise operation handles, at least.
const VALUES_PER_TASK: usize = 16 * 1024;

pub(crate) struct CpuPlan {
    loaded: Arc<Loaded>,
    memory: MemoryPlan,
    buffers: Vec<Vec<f32>>,
    inputs: Inputs,
    experts: ExpertRows,
    tapped: Vec<ValueId>,
    profile: Option<Profile>,
}

/// What a node reads besides its operands.
struct Context<'a, 's> {
    step: &'a Step<'s>,
    turns: Vec<Turns>,
    /// Rows that want each output.
    logits: Vec<usize>,
    hidden: Vec<usize>,
}

impl Context<'_, '_> {
    fn wanted(&self, want: Want) -> &[usize] {
        match want {
            Want::Logits => &self.logits,
            Want::Hidden => &self.hidden,
        }
    }

    fn phases(&self, rows: Rows) -> Vec<Phase> {
        match rows {
            Rows::Tokens => self.step.rows.iter().map(|row| row.phase).collect(),
            Rows::Wanted(want) => {
                self.wanted(want).iter().map(|&row| self.step.rows[row].phase).collect()
            }
        }
    }

    fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.step.rows.len(),
            Rows::Wanted(want) => self.wanted(want).len(),
        }
    }
}

impl CpuPlan {
    pub fn new(loaded: Arc<Loaded>, options: &CompileOptions) -> Self {
        // Taps see values as they are made, so watching one does not keep it longer.
        let memory = MemoryPlan::new(&loaded.graph, &[]);
        let buffers = memory.buffers.iter().map(|_| vec![]).collect();
        let profile = options.profile.then(Profile::default);
        let (inputs, experts) = (Inputs::default(), ExpertRows::default());
        Self { loaded, memory, buffers, inputs, experts, tapped: options.taps.clone(), profile }
    }

    fn limits(&self, pages: usize) -> StepLimits {
        let graph = &self.loaded.graph;
        let table = graph.nodes().iter().find_map(|node| match node.op {
            Op::Embed { table } => Some(graph.weight(table)),
            _ => None,
        });
        let (vocabulary, embedding_width) =
            table.map_or((usize::MAX, 0), |table| (table.rows, table.cols));
        StepLimits { vocabulary, embedding_width, page_tokens: PAGE_TOKENS, pages }
    }

    /// Computes `value` into `out`, which holds its first operand if they share a buffer.
    /// Returns the bytes of weights and state read.
    fn compute(
        &self,
        value: ValueId,
        out: &mut [f32],
        context: &Context<'_, '_>,
        pages: &mut Pages,
        inputs: &mut Inputs,
        experts: &mut ExpertRows,
    ) -> usize {
        let Loaded { graph, kernels, attention, float, pool, .. } = &*self.loaded;
        let node = graph.node(value);
        let width = node.shape.width;
        match &node.op {
            Op::Embed { table } => {
                let Some(table) = &self.weight(*table).table else { return 0 };
                embed(*kernels, table, context.step, out);
                context.step.rows.len() * (table.bytes() / table.rows())
            }
            Op::Linear { x, weight, bias } => {
                let Some(linear) = &self.weight(*weight).linear else { return 0 };
                let bias = bias.and_then(|bias| self.weight(bias).vector.as_deref());
                let mut x = inputs.input(*x, self.value(*x), *kernels);
                linear.forward(&mut x, &context.phases(node.shape.rows), bias, out, pool);
                linear.bytes()
            }
            Op::RmsNorm { x, weight, eps } => {
                let Some(gain) = &self.weight(*weight).vector else { return 0 };
                let x = self.value(*x);
                each_row(pool, out, width, |row, out| {
                    let x = &x[row * width..(row + 1) * width];
                    for (x, out) in x.chunks_exact(gain.len()).zip(out.chunks_exact_mut(gain.len()))
                    {
                        kernels.rms_norm(x, gain, *eps, out);
                    }
                });
                0
            }
            Op::Rope { x, rope, head_dim } => {
                let (x, turns) = (self.value(*x), &context.turns[rope.index()]);
                each_row(pool, out, width, |row, out| {
                    out.copy_from_slice(&x[row * width..(row + 1) * width]);
                    turns.turn(row, out, *head_dim);
                });
                0
            }
            Op::Attention { q, k, v, state, spec } => {
                let kv = &mut pages.slots[state.slot.index()];
                append(kv, context.step, self.value(*k), self.value(*v), pool);
                let q = self.value(*q);
                attend(&**attention, *float, spec, kv, context.step, q, out, pool);
                let tokens: usize =
                    context.step.sequences.iter().map(|s| s.past + s.rows.len()).sum();
                tokens * kv.shape.page_bytes() / PAGE_TOKENS
            }
            Op::Unary { x, function } => {
                self.start_in_place(value, *x, out);
                each_row(pool, out, width, |_, out| match function {
                    UnaryOp::Silu => kernels.silu(out),
                    UnaryOp::GeluTanh => out.iter_mut().for_each(|x| *x = gelu_tanh(*x)),
                    UnaryOp::Tanh => out.iter_mut().for_each(|x| *x = x.tanh()),
                    UnaryOp::Sigmoid => out.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
                    UnaryOp::SquaredRelu => out.iter_mut().for_each(|x| *x = x.max(0.0).powi(2)),
                });
                0
            }
            Op::Binary { a, b, function } => {
                self.start_in_place(value, *a, out);
                // An operand that shares the output's buffer can only be `a` itself.
                let b = (b != a).then(|| self.value(*b));
                each_row(pool, out, width, |row, out| {
                    let other = b.map(|b| &b[row * width..(row + 1) * width]);
                    match (function, other) {
                        (BinaryOp::Add, None) => out.iter_mut().for_each(|x| *x += *x),
                        (BinaryOp::Mul, None) => out.iter_mut().for_each(|x| *x *= *x),
                        (BinaryOp::Add, Some(b)) => {
                            out.iter_mut().zip(b).for_each(|(a, b)| *a += b)
                        }
                        (BinaryOp::Mul, Some(b)) => {
                            out.iter_mut().zip(b).for_each(|(a, b)| *a *= b)
                        }
                    }
                });
                0
            }
            Op::Scale { x, by } => {
                self.start_in_place(value, *x, out);
                each_row(pool, out, width, |_, out| out.iter_mut().for_each(|x| *x *= by));
                0
            }
            Op::ScaleRows { x, by } => {
                let (x, by) = (self.value(*x), self.value(*by));
                each_row(pool, out, width, |row, out| {
                    let x = &x[row * width..(row + 1) * width];
                    out.iter_mut().zip(x).for_each(|(out, x)| *out = x * by[row]);
                });
                0
            }
            Op::Slice { x, start } => {
                let (whole, x) = (graph.node(*x).shape.width, self.value(*x));
                each_row(pool, out, width, |row, out| {
                    out.copy_from_slice(&x[row * whole + start..][..width]);
                });
                0
            }
            Op::RoundRows { x } => {
                let x = self.value(*x);
                each_row(pool, out, width, |row, out| {
                    round_row(&x[row * width..(row + 1) * width], out);
                });
                0
            }
            Op::Router { x, normalize, .. } => {
                let (scores, x) = (graph.node(*x).shape.width, self.value(*x));
                let mut row_scores = vec![0.0; scores];
                for (x, out) in x.chunks_exact(scores).zip(out.chunks_exact_mut(width)) {
                    row_scores.copy_from_slice(x);
                    experts::choose(&mut row_scores, *normalize, out);
                }
                0
            }
            Op::ExpertLinear { x, router, weight } => {
                let product = ExpertProduct {
                    experts: &self.weight(*weight).experts,
                    cols: graph.weight(*weight).cols,
                    value: *x,
                    x: self.value(*x),
                    router: self.value(*router),
                    phases: &context.phases(node.shape.rows),
                    kernels: *kernels,
                };
                product.run(inputs, experts, out, pool)
            }
            Op::ExpertSum { x, router } => {
                let (parts, x) = (graph.node(*x).shape.width, self.value(*x));
                let (routes, router) = (graph.node(*router).shape.width, self.value(*router));
                each_row(pool, out, width, |row, out| {
                    let x = &x[row * parts..(row + 1) * parts];
                    experts::sum(x, &router[row * routes..(row + 1) * routes], out);
                });
                0
            }
            Op::SelectRows { x, want } => {
                let x = self.value(*x);
                for (row, out) in context.wanted(*want).iter().zip(out.chunks_exact_mut(width)) {
                    out.copy_from_slice(&x[row * width..(row + 1) * width]);
                }
                0
            }
        }
    }

    fn weight(&self, id: WeightId) -> &LoadedWeight {
        &self.loaded.weights[id.index()]
    }

    fn value(&self, value: ValueId) -> &[f32] {
        &self.buffers[self.memory.buffer_of[value.index()]]
    }

    /// Makes `out` hold operand `x` if it does not already.
    fn start_in_place(&self, value: ValueId, x: ValueId, out: &mut [f32]) {
        let buffer_of = &self.memory.buffer_of;
        if buffer_of[value.index()] != buffer_of[x.index()] {
            out.copy_from_slice(self.value(x));
        }
    }

    /// The name that profiles use.
    fn label(&self, op: &Op) -> String {
        let codec = match op {
            Op::Linear { weight, .. } => self.weight(*weight).linear.as_ref(),
            Op::ExpertLinear { weight, .. } => self.weight(*weight).experts.first(),
            _ => None,
        };
        let codec = codec.map(|linear| linear.codec());
        codec.map_or_else(|| op.name().into(), |codec| format!("{} {codec}", op.name()))
    }
}

impl Plan for CpuPlan {
    fn run(
        &mut self,
        step: &Step<'_>,
        state: &mut dyn State,
        mut tap: Option<&mut dyn Tap>,
    ) -> Result<Outputs, Error> {
        let Some(pages) = state.as_any_mut().downcast_mut::<Pages>() else {
            return Err(Error::Step("the state is of another backend".into()));
        };
        if !pages.is_for(&self.loaded.slots) {
            return Err(Error::Step("the state is of another graph".into()));
        }
        step.check(&self.limits(State::pages(pages)))?;
        if let Some(row) = step.rows.iter().find(|row| row.adapter != 0) {
            return Err(Error::Unsupported {
                backend: NAME,
                what: format!("adapter {}", row.adapter),
            });
        }
        let graph = self.loaded.graph.clone();
        let context = Context {
            step,
            turns: graph.ropes().iter().map(|rope| Turns::new(rope, &step.rows)).collect(),
            logits: step.wanted(Want::Logits).collect(),
            hidden: step.wanted(Want::Hidden).collect(),
        };
        let mut inputs = take(&mut self.inputs);
        let mut experts = take(&mut self.experts);
        inputs.forget();
        for value in graph.values() {
            let node = graph.node(value);
            let rows = context.rows(node.shape.rows);
            if rows == 0 {
                continue;
            }
            let start = Instant::now();
            let buffer = self.memory.buffer_of[value.index()];
            let mut out = take(&mut self.buffers[buffer]);
            out.resize(rows * node.shape.width, 0.0);
            let bytes = self.compute(value, &mut out, &context, pages, &mut inputs, &mut experts);
            self.buffers[buffer] = out;
            let label = self.profile.is_some().then(|| self.label(&node.op));
            if let (Some(profile), Some(label)) = (&mut self.profile, label) {
                profile.add(label, start, bytes);
            }
            if let Some(tap) = &mut tap
                && self.tapped.contains(&value)
            {
                tap.value(value, node.shape.width, self.value(value));
            }
        }
        (self.inputs, self.experts) = (inputs, experts);
        let mut outputs = Outputs::default();
        for output in graph.outputs() {
            let rows = context.wanted(output.want).len();
            let values = if rows == 0 { vec![] } else { self.value(output.value).to_vec() };
            outputs.values.push((output.want, graph.node(output.value).shape.width, values));
        }
        Ok(outputs)
    }

    fn profile(&self) -> Vec<OpProfile> {
        self.profile.as_ref().map(Profile::report).unwrap_or_default()
    }
}

/// Runs `task` on each row of `out`, several rows at a time on several threads.
fn each_row(pool: &Pool, out: &mut [f32], width: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = out.len() / width;
    let rows_per_task = VALUES_PER_TASK.div_ceil(width);
    let out = SharedOut::new(out, width);
    pool.run(rows.div_ceil(rows_per_task), |index, _| {
        for row in index * rows_per_task..((index + 1) * rows_per_task).min(rows) {
            // SAFETY: no two tasks have the same row.
            task(row, unsafe { out.part(row, 0..width) });
        }
    });
}

fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)).tanh())
}
