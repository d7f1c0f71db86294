//! A quick look, while a model is loaded, at what rounding activations costs it.
//!
//! Modes that are faster than accurate cost one model ten times what they cost another. So whoever asks for one
//! is told what it costs the model at hand: its predictions on a short text beside those of the same weights with
//! nothing rounded.

use std::sync::Arc;

use keeve_graph::{
    Activations, Backend, CompileOptions, Error, Graph, LoadOptions, Op, Phase, Program, RowInput,
    SequenceRows, Step, Want, Weights,
};

use crate::divergence::{NotFinite, Reference, judge};

/// Whether to look at what rounding activations costs when a model is loaded. Only modes that cost more than the
/// default are looked at: [`Activations::Fast`] and [`Activations::Int8`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ActivationCheck {
    /// For no model.
    #[default]
    Never,
    /// For small ones, with which it takes about a second.
    Small,
    /// For all.
    Always,
}

/// The most weights that a small model multiplies for a token.
const SMALL: u64 = 1 << 29;

/// The mean divergence above which a mode is advised against.
const MUCH: f64 = 0.02;

/// The text: plain sentences, of which the first tokens are taken.
const TEXT: &str = "The harbour was quiet when the first boats came back. In 1893 the town had built a stone \
    pier, and for many years the fishermen sold their catch there every morning before the market opened. My \
    grandmother remembered the smell of salt and rope, the shouting of prices, and the small brass bell that \
    was rung when a ship was late. Later the railway arrived, the canning factory closed, and most families \
    moved to the city, where there was work.";

/// Tokens of it.
const TOKENS: usize = 32;
/// Tokens whose predictions are not looked at: they have little to go by.
const SKIPPED: usize = 8;

/// What rounding activations costs a model.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ActivationCost {
    /// Predictions that were looked at.
    tokens: usize,
    /// Their mean Kullback-Leibler divergence from those of the same weights with nothing rounded, in nats.
    divergence: f64,
    /// The share with the same likeliest token.
    agreement: f64,
}

impl ActivationCost {
    /// A sentence for a person.
    fn note(&self, activations: Activations) -> String {
        let Self { tokens, divergence, agreement } = self;
        let mode = activations.name();
        let measured = format!(
            "KL {divergence:.4} from float on {tokens} tokens of a built-in text, the likeliest token the \
             same for {:.0} %",
            100.0 * agreement
        );
        match *divergence > MUCH {
            true => format!(
                "activations {mode} cost this model much accuracy ({measured}): auto is the mode that costs \
                 little"
            ),
            false => format!("activations {mode} cost this model {measured}"),
        }
    }
}

/// What is looked at: the model as it was loaded, and what it was made of.
pub(crate) struct Checked<'a> {
    pub backend: &'a dyn Backend,
    pub graph: Arc<Graph>,
    pub weights: &'a dyn Weights,
    pub program: &'a dyn Program,
}

/// Weights that are multiplied for a token.
fn multiplied(graph: &Graph) -> u64 {
    let weight = |op: &Op| match op {
        Op::Linear { weight, .. } | Op::ExpertLinear { weight, .. } => Some(*weight),
        _ => None,
    };
    let used = graph.nodes().iter().filter_map(|node| weight(&node.op));
    used.fold(0, |sum, weight| {
        let weight = &graph.weights()[weight.index()];
        let experts = weight.experts.unwrap_or(1) as u64;
        let all = (weight.rows as u64).saturating_mul(weight.cols as u64);
        all.saturating_mul(experts).saturating_add(sum)
    })
}

impl Checked<'_> {
    /// What a mode costs, as a sentence for a person, or why that is not known; nothing where the mode is not one
    /// to look at. `encode` gives a text's tokens, with what begins a text, if there is a tokenizer.
    pub fn note(
        &self,
        activations: Activations,
        check: ActivationCheck,
        encode: impl FnOnce(&str) -> Option<Vec<u32>>,
    ) -> Option<String> {
        let mode = activations.name();
        let rough = matches!(activations, Activations::Fast | Activations::Int8);
        if !rough || check == ActivationCheck::Never {
            return None;
        }
        let unknown =
            |why: &str| format!("what activations {mode} cost this model is not known: {why}");
        if check == ActivationCheck::Small && multiplied(&self.graph) > SMALL {
            let why = "it is too large for a quick check (--activation-check always makes it, \
                 keeve eval --rounding measures)";
            return Some(unknown(why));
        }
        let Some(mut ids) = encode(TEXT) else {
            return Some(unknown("there is no tokenizer to check it with"));
        };
        ids.truncate(TOKENS);
        Some(match self.cost(&ids) {
            Ok(Some(cost)) => cost.note(activations),
            Ok(None) => unknown("its logits are not finite"),
            Err(error) => unknown(&error.to_string()),
        })
    }

    /// What the mode costs; `None` if a logit is not finite, or there are too few tokens.
    fn cost(&self, ids: &[u32]) -> Result<Option<ActivationCost>, Error> {
        let options = LoadOptions { activations: Activations::Float, ..LoadOptions::default() };
        let float = self.backend.load(self.graph.clone(), self.weights, &options)?;
        let (width, expected) = logits(&*float, ids)?;
        let (_, found) = logits(self.program, ids)?;
        Ok(compare(width, &expected, &found).ok().flatten())
    }
}

/// Compares rows of logits; `None` if there are none.
fn compare(
    width: usize,
    expected: &[f32],
    found: &[f32],
) -> Result<Option<ActivationCost>, NotFinite> {
    let (mut divergence, mut agreements, mut tokens) = (0.0, 0usize, 0usize);
    for (expected, found) in expected.chunks_exact(width).zip(found.chunks_exact(width)) {
        let expected = Reference::new(expected)?;
        // Which token came is of no interest.
        let row = judge(found, Some(&expected), 0)?;
        if let Some(compared) = row.compared {
            divergence += compared.divergence;
            agreements += usize::from(compared.agrees);
            tokens += 1;
        }
    }
    let count = tokens.max(1) as f64;
    let (divergence, agreement) = (divergence / count, agreements as f64 / count);
    Ok((tokens > 0).then_some(ActivationCost { tokens, divergence, agreement }))
}

/// The logits of all rows but the first ones.
fn logits(program: &dyn Program, ids: &[u32]) -> Result<(usize, Vec<f32>), Error> {
    let pages: Vec<u32> = (0..ids.len().div_ceil(program.page_tokens()) as u32).collect();
    let mut state = program.state(pages.len())?;
    let mut plan = program.compile(&CompileOptions::default())?;
    let row = |(at, &id): (usize, &u32)| RowInput {
        logits: at >= SKIPPED,
        ..RowInput::text(id, at as u32, Phase::Prompt)
    };
    let step = Step {
        rows: ids.iter().enumerate().map(row).collect(),
        sequences: vec![SequenceRows { rows: 0..ids.len(), past: 0, pages: &pages }],
        ..Step::default()
    };
    let mut outputs = plan.run(&step, &mut *state, None)?;
    let (width, rows) = outputs.take(Want::Logits).unwrap_or_default();
    Ok((width.max(1), rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_means_over_rows_and_much_is_advised_against() {
        let ln = |p: f64| p.ln() as f32;
        let expected = [ln(0.5), ln(0.5), ln(0.25), ln(0.75)];
        let found = [ln(0.5), ln(0.5), ln(0.5), ln(0.5)];
        let cost = compare(2, &expected, &found).unwrap().unwrap();
        let by_hand = (0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln()) / 2.0;
        assert!((cost.divergence - by_hand).abs() < 1e-6, "{cost:?}");
        assert_eq!((cost.tokens, cost.agreement), (2, 0.5));
        let note = cost.note(Activations::Fast);
        assert!(
            note.starts_with("activations fast cost this model much accuracy (KL 0.0654"),
            "{note}"
        );
        let note = ActivationCost { divergence: 0.002, ..cost }.note(Activations::Int8);
        assert!(
            note.starts_with("activations int8 cost this model KL 0.0020 from float"),
            "{note}"
        );
        assert_eq!(compare(2, &expected, &[]).unwrap(), None);
        assert!(compare(2, &expected, &[f32::NAN; 4]).is_err());
    }
}
