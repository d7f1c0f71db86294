//! Running a graph, node by node, in planned buffers.

use std::mem::take;
use std::sync::Arc;
use std::time::Instant;

use keeve_graph::sampling::Workspace;
use keeve_graph::{
    CompileOptions, Error, MemoryPlan, Op, OpProfile, Outputs, Plan, State, Step, StepLimits, Tap,
    ValueId, Want, WeightId,
};

use crate::attention::{append, attend};
use crate::context::Context;
use crate::kv_cache::PAGE_TOKENS;
use crate::kv_cache::pages::Pages;
use crate::linear::Epilogue;
use crate::linear::activations::Inputs;
use crate::loaded::{Loaded, NAME};
use crate::ops::elementwise::{Values, merged};
use crate::ops::embed::{Table, embed};
use crate::ops::fuse::{Fused, Fusions};
use crate::ops::moe;
use crate::ops::moe::{ExpertProduct, ExpertRows};
use crate::ops::sample::sample;
use crate::runtime::disjoint::SharedOut;
use crate::runtime::memory::Memory;
use crate::runtime::pool::Pool;
use crate::runtime::profile::Profile;
use crate::weights::LoadedWeight;

/// Values that one task of an element-wise operation handles, at least.
const VALUES_PER_TASK: usize = 16 * 1024;

pub(crate) struct CpuPlan {
    loaded: Arc<Loaded>,
    memory: MemoryPlan,
    fused: Vec<Option<Fused>>,
    /// Which values are made as they are read, or by who reads them.
    merged: Vec<bool>,
    /// Each as long as was ever needed: values take what they need of it.
    buffers: Vec<Memory>,
    inputs: Inputs,
    experts: ExpertRows,
    sampling: Vec<Workspace>,
    tapped: Vec<ValueId>,
    profile: Option<Profile>,
}

impl CpuPlan {
    pub fn new(loaded: Arc<Loaded>, options: &CompileOptions) -> Self {
        // Taps see values as they are made, so watching one does not keep it longer.
        let Loaded { graph, weights, .. } = &*loaded;
        let fusions = Fusions::find(graph, weights, &options.taps);
        let merged = merged(graph, weights, &fusions, &options.taps);
        let memory = MemoryPlan::new(graph, &[], &merged);
        let buffers = memory.buffers.iter().map(|_| Memory::default()).collect();
        let profile = options.profile.then(Profile::default);
        let (inputs, experts) = (Inputs::default(), ExpertRows::default());
        let tapped = options.taps.clone();
        let fused = fusions.of;
        let sampling = vec![];
        Self { loaded, memory, fused, merged, buffers, inputs, experts, sampling, tapped, profile }
    }

    /// Bytes of all values for a row, and of the widest input of a product as bf16 or int8.
    pub fn row_bytes(&self) -> usize {
        let values: usize = self.memory.buffers.iter().map(|(_, width)| width).sum();
        let graph = &self.loaded.graph;
        let width = |op: &Op| match *op {
            Op::Linear { x, .. } | Op::ExpertLinear { x, .. } => graph.node(x).shape.width,
            _ => 0,
        };
        let widest = graph.nodes().iter().map(|node| width(&node.op)).max().unwrap_or(0);
        values * size_of::<f32>() + widest * size_of::<u16>()
    }

    fn limits(&self, pages: usize) -> StepLimits {
        let graph = &self.loaded.graph;
        let table = graph.nodes().iter().find_map(|node| match node.op {
            Op::Embed { table } => Some(graph.weight(table)),
            _ => None,
        });
        StepLimits {
            vocabulary: table.map_or(usize::MAX, |table| table.rows),
            given_width: graph.given_width(),
            whole_sequences: graph.takes_whole_sequences(),
            page_tokens: PAGE_TOKENS,
            pages,
        }
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
        let Loaded { graph, weights, kernels, attention, float, pool, .. } = &*self.loaded;
        let node = graph.node(value);
        let values = Values {
            graph,
            weights,
            merged: &self.merged,
            buffer_of: &self.memory.buffer_of,
            buffers: &self.buffers,
            context,
            kernels: *kernels,
        };
        if let Some(fused) = self.fused[value.index()] {
            return self.compute_fused(value, fused, &values, out, inputs);
        }
        match &node.op {
            Op::Embed { table: id } => {
                let (table, bytes) = match weights.get(*id) {
                    LoadedWeight::Table(table) => (Table::Stored(table, *kernels), table.bytes()),
                    _ => (Table::Packed(weights.linear(*id)), weights.linear(*id).bytes()),
                };
                embed(&table, context.step, out, node.shape.width, pool);
                context.step.rows.len() * (bytes / graph.weight(*id).rows)
            }
            Op::Linear { x, weight, bias } => {
                let linear = weights.linear(*weight);
                let epilogue = Epilogue::Store(bias.map(|bias| weights.vector(bias)));
                let rows = values.rows(*x);
                let x = rows.input(inputs);
                linear.forward(epilogue, x, &context.phases(node.shape.rows), out, pool);
                linear.bytes()
            }
            Op::Attention { q, k, v, state, spec } => {
                let kv = &mut pages.slots[state.slot.index()];
                let (q, k, v) = (values.heads(*q), values.rows(*k), values.rows(*v));
                append(&**attention, kv, context.step, &k, &v, pool);
                attend(&**attention, *float, spec, kv, context.step, &q, out, pool);
                let tokens: usize =
                    context.step.sequences.iter().map(|s| s.past + s.rows.len()).sum();
                tokens * kv.shape.page_bytes() / PAGE_TOKENS
            }
            Op::Given { .. }
            | Op::RmsNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Rope { .. }
            | Op::Unary { .. }
            | Op::Binary { .. }
            | Op::Scale { .. }
            | Op::ScaleRows { .. }
            | Op::Slice { .. }
            | Op::RoundRows { .. }
            | Op::SelectRows { .. } => {
                let over = self.memory.over[value.index()];
                let room = values.room(value);
                each_row(pool, out, node.shape.width, room, |row, out, room| {
                    values.make(value, row, over, out, room);
                });
                0
            }
            Op::Router { x, normalize, .. } => {
                let (scores, x) = (graph.node(*x).shape.width, values.held(*x));
                let mut row_scores = vec![0.0; scores];
                for (x, out) in x.chunks_exact(scores).zip(out.chunks_exact_mut(node.shape.width)) {
                    row_scores.copy_from_slice(x);
                    moe::choose(&mut row_scores, *normalize, out);
                }
                0
            }
            Op::ExpertLinear { x, router, weight } => {
                let product = ExpertProduct {
                    experts: weights.experts(*weight),
                    cols: graph.weight(*weight).cols,
                    value: *x,
                    x: values.held(*x),
                    router: values.held(*router),
                    phases: &context.phases(node.shape.rows),
                    kernels: *kernels,
                };
                product.run(inputs, experts, out, pool)
            }
            Op::ExpertSum { x, router } => {
                let (parts, x) = (graph.node(*x).shape.width, values.held(*x));
                let (routes, router) = (graph.node(*router).shape.width, values.held(*router));
                each_row(pool, out, node.shape.width, 0, |row, out, _| {
                    let x = &x[row * parts..(row + 1) * parts];
                    moe::sum(x, &router[row * routes..(row + 1) * routes], out);
                });
                0
            }
        }
    }

    /// Computes a value with the products that it reads, as [`Self::compute`].
    fn compute_fused(
        &self,
        value: ValueId,
        fused: Fused,
        values: &Values<'_>,
        out: &mut [f32],
        inputs: &mut Inputs,
    ) -> usize {
        let Loaded { graph, weights, pool, .. } = &*self.loaded;
        let shape = graph.node(value).shape;
        let phases = values.context.phases(shape.rows);
        match fused {
            Fused::Gated { x, gate, up, codes } => {
                let (gate, up) = (weights.linear(gate), weights.linear(up));
                let rows = values.rows(x);
                let x = rows.input(inputs);
                let epilogue = match codes {
                    true => Epilogue::SwiGluInt8(up, value),
                    false => Epilogue::SwiGlu(up),
                };
                gate.forward(epilogue, x, &phases, out, pool);
                gate.bytes() + up.bytes()
            }
            Fused::Added { to, x, weight, bias } => {
                let linear = weights.linear(weight);
                let over = self.memory.over[value.index()];
                if over != Some(to) {
                    each_row(pool, out, shape.width, values.room(to), |row, out, room| {
                        values.put(to, row, over, out, room);
                    });
                }
                let epilogue = Epilogue::Add(bias.map(|bias| weights.vector(bias)));
                let rows = values.rows(x);
                let x = rows.input(inputs);
                linear.forward(epilogue, x, &phases, out, pool);
                linear.bytes()
            }
        }
    }

    /// A value of `len` numbers that is held.
    fn value(&self, value: ValueId, len: usize) -> &[f32] {
        self.memory.buffer_of[value.index()]
            .map_or(&[], |buffer| &self.buffers[buffer].all()[..len])
    }

    /// The rows that were asked for, and what is sampled from logits.
    fn outputs(
        &mut self,
        context: &Context<'_, '_>,
        work: &mut Vec<Workspace>,
    ) -> Result<Outputs, Error> {
        let Loaded { graph, kernels, pool, .. } = &*self.loaded.clone();
        let step = context.step;
        let mut outputs = Outputs::default();
        for output in graph.outputs() {
            let of = context.wanted(output.want);
            let width = graph.node(output.value).shape.width;
            let values = self.value(output.value, of.len() * width);
            let (start, mut sampled) = (Instant::now(), None);
            if output.want == Want::Logits && !step.sampling.is_empty() {
                outputs.sampled = sample(step, of, (width, values), *kernels, work, pool);
                sampled = Some(start);
            }
            let wanted = of.iter().zip(values.chunks_exact(width.max(1)));
            let wanted = wanted.filter(|(row, _)| step.rows[**row].wants(output.want));
            let wanted: Vec<&[f32]> = wanted.map(|(_, values)| values).collect();
            outputs.values.push((output.want, width, wanted.concat()));
            if let (Some(profile), Some(start)) = (&mut self.profile, sampled) {
                profile.add("sample".into(), start, 0);
            }
        }
        match outputs.sampled.len() == step.sampling.len() {
            true => Ok(outputs),
            false => Err(Error::Step("the graph has no logits to sample from".into())),
        }
    }

    /// The name that profiles use.
    fn label(&self, value: ValueId) -> String {
        let weights = &self.loaded.weights;
        let name =
            |weight: WeightId, name: &str| format!("{name} {}", weights.linear(weight).codec());
        match self.fused[value.index()] {
            Some(Fused::Gated { up, .. }) => return name(up, "gated linear"),
            Some(Fused::Added { weight, .. }) => return name(weight, "linear + add"),
            None => {}
        }
        let op = &self.loaded.graph.node(value).op;
        match op {
            Op::Linear { weight, .. } => name(*weight, op.name()),
            Op::ExpertLinear { weight, .. } => match weights.experts(*weight).first() {
                Some(expert) => format!("{} {}", op.name(), expert.codec()),
                None => op.name().into(),
            },
            _ => op.name().into(),
        }
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
        let context = Context::new(&graph, step);
        let mut inputs = take(&mut self.inputs);
        let mut experts = take(&mut self.experts);
        inputs.forget();
        for value in graph.values() {
            let node = graph.node(value);
            let rows = context.rows(node.shape.rows);
            if rows == 0 {
                continue;
            }
            let Some(buffer) = self.memory.buffer_of[value.index()] else { continue };
            let start = Instant::now();
            let mut out = take(&mut self.buffers[buffer]);
            let len = rows * node.shape.width;
            let place = out.take(len);
            let bytes = self.compute(value, place, &context, pages, &mut inputs, &mut experts);
            self.buffers[buffer] = out;
            let label = self.profile.is_some().then(|| self.label(value));
            if let (Some(profile), Some(label)) = (&mut self.profile, label) {
                profile.add(label, start, bytes);
            }
            if let Some(tap) = &mut tap
                && self.tapped.contains(&value)
            {
                tap.value(value, node.shape.width, self.value(value, len));
            }
        }
        (self.inputs, self.experts) = (inputs, experts);
        let mut sampling = take(&mut self.sampling);
        let outputs = self.outputs(&context, &mut sampling);
        self.sampling = sampling;
        outputs
    }

    fn profile(&self) -> Vec<OpProfile> {
        self.profile.as_ref().map(Profile::report).unwrap_or_default()
    }
}

/// Runs `task` on each row of `out`, several rows at a time on several threads, with `room` values of
/// room.
fn each_row(
    pool: &Pool,
    out: &mut [f32],
    width: usize,
    room: usize,
    task: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let rows = out.len() / width;
    let rows_per_task = VALUES_PER_TASK.div_ceil(width);
    let out = SharedOut::new(out, width);
    pool.run(rows.div_ceil(rows_per_task), |index, scratch| {
        let [room] = scratch.take([room]);
        for row in index * rows_per_task..((index + 1) * rows_per_task).min(rows) {
            // SAFETY: no two tasks have the same row.
            task(row, unsafe { out.part(row, 0..width) }, room);
        }
    });
}
