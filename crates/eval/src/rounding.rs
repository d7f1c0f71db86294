//! What rounding in matrix products costs a model: how far its predictions are from those of the same weights
//! with nothing rounded, for prompts and generated tokens apart.
//!
//! A row's result does not depend on the rows beside it, only on its phase. So a window is run whole in either
//! phase, and what comes of it in the phase of generated tokens is what feeding its tokens one by one gives.

use std::sync::Arc;

use keeve_cpu::Cpu;
use keeve_graph::{
    Activations, Backend, CompileOptions, Graph, KvCodec, LoadOptions, Op, Phase, Plan,
    ProductRule, Program, RowInput, RowRounding, Scheme, SequenceRows, Step, Want, Weights,
};

use crate::evaluate::Tally;
use crate::run::{inputs, judge, not_finite, references};
use crate::{Comparison, Error, Text, Window};

/// The most bytes of the reference's logits that are held at a time, if one window has no more.
const REFERENCE_BYTES: usize = 1 << 30;

/// The most rows in a step.
const STEP_ROWS: usize = 512;

/// What a product is for, in every architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Queries, keys and values.
    Qkv,
    /// What attention gives, back to the hidden state.
    Output,
    /// Into the feed-forward network.
    GateUp,
    /// Back from it.
    Down,
    /// The scores of tokens.
    Head,
    /// Others, such as routers.
    Other,
    /// No product with weights: attention itself, and how keys and values are kept.
    Attention,
}

impl Kind {
    /// That of the products with a weight, by its canonical (Hugging Face) name.
    pub fn of(weight: &str) -> Self {
        let name = weight.strip_suffix(".weight").unwrap_or(weight);
        match name.rsplit('.').next().unwrap_or(name) {
            "q_proj" | "k_proj" | "v_proj" | "qkv_proj" => Self::Qkv,
            "o_proj" => Self::Output,
            "gate_proj" | "up_proj" | "gate_up_proj" => Self::GateUp,
            "down_proj" => Self::Down,
            "lm_head" | "embed_tokens" => Self::Head,
            _ => Self::Other,
        }
    }

    /// Those that a graph has.
    pub fn of_graph(graph: &Graph) -> Vec<Self> {
        let product = |op: &Op| match op {
            Op::Linear { weight, .. } | Op::ExpertLinear { weight, .. } => {
                Some(Self::of(&graph.weights()[weight.index()].name))
            }
            Op::Attention { .. } => Some(Self::Attention),
            _ => None,
        };
        let mut kinds: Vec<_> = graph.nodes().iter().filter_map(|node| product(&node.op)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qkv => "q, k, v",
            Self::Output => "o",
            Self::GateUp => "gate, up",
            Self::Down => "down",
            Self::Head => "head",
            Self::Other => "other",
            Self::Attention => "attention",
        }
    }
}

/// What is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// How. A scheme leaves attention, keys and values in floats.
    pub rule: ProductRule,
    /// Of products of this kind only; `None`: everything.
    pub kind: Option<Kind>,
    /// How keys and values are kept; `None`: as the mode has them.
    pub kv_codec: Option<KvCodec>,
}

impl Case {
    /// How often windows run for it: in each phase that tells something.
    pub fn runs(&self) -> usize {
        match self.rule {
            ProductRule::Mode(_) => 2,
            ProductRule::Scheme(_) => 1,
        }
    }
}

/// What a case costs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cost {
    /// For rows of prompts; `None` if nothing was judged.
    pub prefill: Option<Comparison>,
    /// For rows of generated tokens; `None` if nothing was judged, or a scheme is the case, which is the same in
    /// both phases.
    pub decode: Option<Comparison>,
    /// Why the case cannot be had.
    pub unsupported: Option<String>,
}

/// A model whose products are measured.
pub struct Model<'a> {
    /// What computes.
    pub cpu: &'a Cpu,
    /// What.
    pub graph: Arc<Graph>,
    /// Token ids are below this.
    pub vocabulary: usize,
    /// With which weights.
    pub weights: &'a dyn Weights,
    /// Those that these were made of, if they were: what is compared with has them.
    pub made_of: Option<&'a dyn Weights>,
    /// How rows become int8 where weights have one scale a row.
    pub row_rounding: RowRounding,
}

impl Model<'_> {
    /// What each case costs, from the same weights (or those that they were made of) with nothing rounded, over windows of a text. `judged` is told
    /// how many predictions were judged, and ends it by returning `false`: what was found so far is then given.
    ///
    /// # Errors
    /// If the model cannot be loaded or run with nothing rounded, or logits are not finite. Of a case that the
    /// backend lacks, [`Cost::unsupported`] tells.
    pub fn costs(
        &self,
        text: &Text,
        windows: &[Window],
        cases: &[Case],
        judged: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Vec<Cost>, Error> {
        let mut found: Vec<_> = cases.iter().map(|_| Found::default()).collect();
        let float =
            Case { rule: ProductRule::Mode(Activations::Float), kind: None, kv_codec: None };
        let float = self.load(float, self.made_of.unwrap_or(self.weights))?;
        let mut float_plan = float.compile(&CompileOptions::default())?;
        'all: for windows in groups(windows, self.vocabulary) {
            let reference =
                |window: &Window| rows(&*float, &mut *float_plan, text, window, Phase::Prompt);
            let reference: Vec<_> = windows.iter().map(reference).collect::<Result<_, _>>()?;
            for (case, found) in cases.iter().zip(&mut found) {
                if found.unsupported.is_some() {
                    continue;
                }
                let program = match self.load(*case, self.weights) {
                    Ok(program) => program,
                    Err(problem @ keeve_graph::Error::Unsupported { .. }) => {
                        found.unsupported = Some(problem.to_string());
                        continue;
                    }
                    Err(problem) => return Err(problem.into()),
                };
                let mut plan = program.compile(&CompileOptions::default())?;
                for (window, reference) in windows.iter().zip(&reference) {
                    for (phase, tally) in found.phases(case.rule) {
                        let logits = rows(&*program, &mut *plan, text, window, phase)?;
                        let count = self.judge(text, window, reference, &logits, tally)?;
                        if !judged(count) {
                            break 'all;
                        }
                    }
                }
            }
        }
        Ok(found.into_iter().map(Found::cost).collect())
    }

    fn load(
        &self,
        Case { rule, kind, kv_codec }: Case,
        weights: &dyn Weights,
    ) -> Result<Box<dyn Program>, keeve_graph::Error> {
        let activations = match (rule, kind) {
            (ProductRule::Mode(mode), None | Some(Kind::Attention)) => mode,
            _ => Activations::Float,
        };
        let product = |weight: &str| match kind {
            Some(kind) if Kind::of(weight) != kind => ProductRule::Scheme(Scheme::Float),
            _ => rule,
        };
        let options = LoadOptions {
            activations,
            row_rounding: self.row_rounding,
            kv_codec,
            products: Some(&product),
            ..LoadOptions::default()
        };
        self.cpu.load(self.graph.clone(), weights, &options)
    }

    /// Adds a window's predictions to what is known; says how many there are.
    fn judge(
        &self,
        text: &Text,
        window: &Window,
        reference: &[f32],
        logits: &[f32],
        tally: &mut Tally,
    ) -> Result<usize, Error> {
        let (width, threads) = (self.vocabulary, self.cpu.threads());
        let first = window.inputs.start + window.scored.start;
        let targets = &text.ids()[first + 1..][..window.scored.len()];
        let wrong = |(row, which)| not_finite(which, first + row);
        let references = references(reference, width, threads).map_err(wrong)?;
        let rows = judge(logits, width, &references, targets, threads).map_err(wrong)?;
        tally.next_window();
        tally.add(&rows);
        Ok(rows.len())
    }
}

/// What was found of a case so far.
#[derive(Default)]
struct Found {
    prefill: Tally,
    decode: Tally,
    unsupported: Option<String>,
}

impl Found {
    /// The phases to run, and what is known of them.
    fn phases(&mut self, rule: ProductRule) -> impl Iterator<Item = (Phase, &mut Tally)> {
        let decode = match rule {
            ProductRule::Mode(_) => Some((Phase::Generated, &mut self.decode)),
            ProductRule::Scheme(_) => None,
        };
        std::iter::once((Phase::Prompt, &mut self.prefill)).chain(decode)
    }

    fn cost(self) -> Cost {
        Cost {
            prefill: self.prefill.comparison(),
            decode: self.decode.comparison(),
            unsupported: self.unsupported,
        }
    }
}

/// Windows in groups whose scored logits fit.
fn groups(windows: &[Window], vocabulary: usize) -> Vec<&[Window]> {
    let bytes = |window: &Window| window.scored.len().saturating_mul(vocabulary).saturating_mul(4);
    let (mut groups, mut start, mut held) = (vec![], 0, 0usize);
    for (index, window) in windows.iter().enumerate() {
        held = held.saturating_add(bytes(window));
        if held > REFERENCE_BYTES && index > start {
            groups.push(&windows[start..index]);
            (start, held) = (index, bytes(window));
        }
    }
    groups.push(&windows[start..]);
    groups
}

/// The logits of a window's scored rows, all rows being of `phase`.
fn rows(
    program: &dyn Program,
    plan: &mut dyn Plan,
    text: &Text,
    window: &Window,
    phase: Phase,
) -> Result<Vec<f32>, Error> {
    let ids = inputs(text, window, window.scored.end);
    let pages: Vec<u32> = (0..ids.len().div_ceil(program.page_tokens()) as u32).collect();
    let mut state = program.state(pages.len())?;
    let mut logits = vec![];
    for (step, ids) in ids.chunks(STEP_ROWS).enumerate() {
        let past = step * STEP_ROWS;
        let row = |(at, &id)| RowInput {
            logits: window.scored.contains(&(past + at)),
            ..RowInput::text(id, (past + at) as u32, phase)
        };
        let step = Step {
            rows: ids.iter().enumerate().map(row).collect(),
            sequences: vec![SequenceRows { rows: 0..ids.len(), past, pages: &pages }],
            ..Step::default()
        };
        let mut outputs = plan.run(&step, &mut *state, None)?;
        logits.extend(outputs.take(Want::Logits).map(|(_, rows)| rows).unwrap_or_default());
    }
    Ok(logits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_those_of_the_names() {
        for (name, kind) in [
            ("model.layers.0.self_attn.q_proj.weight", Kind::Qkv),
            ("model.layers.0.self_attn.qkv_proj.weight", Kind::Qkv),
            ("model.layers.11.self_attn.o_proj.weight", Kind::Output),
            ("model.layers.3.mlp.switch_mlp.gate_proj.weight", Kind::GateUp),
            ("model.layers.3.mlp.gate_up_proj.weight", Kind::GateUp),
            ("model.language_model.layers.3.mlp.down_proj.weight", Kind::Down),
            ("model.embed_tokens.weight", Kind::Head),
            ("lm_head.weight", Kind::Head),
            ("model.layers.3.mlp.gate.weight", Kind::Other),
        ] {
            assert_eq!(Kind::of(name), kind, "{name}");
        }
    }

    #[test]
    fn groups_fit_and_have_every_window() {
        let window = Window { inputs: 0..256, begins_with_bos: true, scored: 128..255 };
        let windows = vec![window; 20];
        for vocabulary in [1, 50_000, 262_144, 1 << 24, usize::MAX] {
            let groups = groups(&windows, vocabulary);
            assert_eq!(groups.iter().map(|group| group.len()).sum::<usize>(), 20);
            for group in groups {
                let bytes = (group.len() * 127 * 4).saturating_mul(vocabulary);
                assert!(group.len() == 1 || bytes <= REFERENCE_BYTES);
            }
        }
    }
}
