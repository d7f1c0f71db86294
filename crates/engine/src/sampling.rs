//! Sampling parameters of a request, and what they ask of a backend for each token.
//!
//! How a token is sampled is defined in [`keeve_graph::sampling`]. Presence and frequency penalties follow the
//! OpenAI API's description of them: they look at generated tokens only, the repetition penalty at the prompt as
//! well. What is drawn depends on the seed, the position and the logits only, not on the batch.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use keeve_graph::sampling::{Adjustment, RowSampling, TokenMask};
pub use keeve_graph::sampling::{Sampled, TokenLogprob};
use serde::{Deserialize, Serialize};

/// How tokens are chosen. [`Default`] is plain sampling from the model's distribution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the best token (the lowest id among equals). 0 to 2.
    pub temperature: f32,
    /// Keep this many best tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of best tokens whose probability reaches this. Over 0, to 1 (all).
    pub top_p: f32,
    /// Drop tokens less likely than this times the likeliest. 0 (none) to 1.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output.
    /// Over 0, to 10; 1 is none.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of tokens in the output. -2 to 2.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens in the output for each time they occur. -2 to 2.
    pub frequency_penalty: f32,
    /// Added to the logits of these token ids. -100 to 100 each.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Seed of the random choices; absent, one is taken from the operating system.
    pub seed: Option<u64>,
    /// How many alternatives to report with each token. 0 to 20.
    pub top_logprobs: usize,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: None,
            top_logprobs: 0,
        }
    }
}

/// Why parameters were refused or no token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A parameter out of range.
    #[error("{field} is {value} (expected {expected})")]
    Range {
        /// Field name in [`SamplingParams`].
        field: &'static str,
        /// The value given.
        value: f64,
        /// The range allowed.
        expected: &'static str,
    },
    /// A logit bias out of range or for a token that does not exist.
    #[error("logit_bias for token {id}: {problem}")]
    LogitBias {
        /// The token id.
        id: u32,
        /// What is wrong.
        problem: String,
    },
    /// No token can be sampled from the logits.
    #[error(transparent)]
    Logits(#[from] keeve_graph::sampling::SamplingError),
}

impl SamplingParams {
    /// Checks every field; the error names the first one out of range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |field, value: f32, ok: bool, expected| {
            if ok {
                Ok(())
            } else {
                Err(SamplingError::Range { field, value: value.into(), expected })
            }
        };
        // NaN is in no range, so it fails every comparison below.
        let within = |value: f32, low: f32, high: f32| (low..=high).contains(&value);
        let above_zero = |value: f32, high: f32| value > 0.0 && value <= high;
        check("temperature", self.temperature, within(self.temperature, 0.0, 2.0), "0 to 2")?;
        check("top_p", self.top_p, above_zero(self.top_p, 1.0), "over 0, up to 1")?;
        check("min_p", self.min_p, within(self.min_p, 0.0, 1.0), "0 to 1")?;
        let penalty = self.repetition_penalty;
        check("repetition_penalty", penalty, above_zero(penalty, 10.0), "over 0, up to 10")?;
        let penalty = self.presence_penalty;
        check("presence_penalty", penalty, within(penalty, -2.0, 2.0), "-2 to 2")?;
        let penalty = self.frequency_penalty;
        check("frequency_penalty", penalty, within(penalty, -2.0, 2.0), "-2 to 2")?;
        let count = self.top_logprobs;
        check("top_logprobs", count as f32, count <= MAX_LOGPROBS, "0 to 20")?;
        for (&id, &bias) in &self.logit_bias {
            if !within(bias, -100.0, 100.0) {
                let problem = format!("{bias} (expected -100 to 100)");
                return Err(SamplingError::LogitBias { id, problem });
            }
        }
        Ok(())
    }
}

/// The most alternatives that may be asked for, as in the OpenAI API.
const MAX_LOGPROBS: usize = 20;

/// The tokens of the sequence so far, which the penalties look at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct History<'a> {
    /// Prompt ids.
    pub prompt: &'a [u32],
    /// Ids generated so far.
    pub generated: &'a [u32],
    /// Drafts after them.
    pub drafts: &'a [u32],
}

/// Says how the tokens of one sequence are sampled.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    params: SamplingParams,
    seed: u64,
}

impl Sampler {
    /// Checks the parameters and chooses a seed if there is none.
    pub fn new(params: SamplingParams) -> Result<Self, SamplingError> {
        params.validate()?;
        let seed = params.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Ok(Self { params, seed })
    }

    /// How the token after `history` is sampled, which is none of `excluded` and one that `mask` allows.
    pub fn row<'a>(
        &self,
        history: History<'_>,
        excluded: impl Iterator<Item = u32>,
        mask: Option<&'a dyn TokenMask>,
    ) -> RowSampling<'a> {
        let History { prompt, generated, drafts } = history;
        let params = &self.params;
        RowSampling {
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            seed: self.seed,
            position: (prompt.len() + generated.len() + drafts.len()) as u64,
            adjustments: self.adjustments(history, excluded),
            mask,
            top_logprobs: params.top_logprobs,
        }
    }

    /// As [`Self::row`] for a draft model. Its noise is that of the model, so it draws the model's token more often than
    /// by chance.
    pub fn draft_row(&self, history: History<'_>) -> RowSampling<'static> {
        RowSampling { top_logprobs: 0, ..self.row(history, std::iter::empty(), None) }
    }

    fn adjustments(
        &self,
        history: History<'_>,
        excluded: impl Iterator<Item = u32>,
    ) -> Vec<Adjustment> {
        let params = &self.params;
        let mut by_id: BTreeMap<u32, Adjustment> = BTreeMap::new();
        let mut of = |id: u32, change: &dyn Fn(&mut Adjustment)| {
            let none = Adjustment { id, bias: 0.0, repetition: 1.0, penalty: 0.0 };
            change(by_id.entry(id).or_insert(none));
        };
        for (&id, &bias) in &params.logit_bias {
            of(id, &|adjustment| adjustment.bias = bias);
        }
        let counted = params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
        let generated = || history.generated.iter().chain(history.drafts);
        if params.repetition_penalty != 1.0 {
            for &id in history.prompt.iter().chain(generated()) {
                of(id, &|adjustment| adjustment.repetition = params.repetition_penalty);
            }
        }
        if counted {
            let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
            for &id in generated() {
                *counts.entry(id).or_default() += 1;
            }
            for (id, count) in counts {
                let penalty = params.presence_penalty + params.frequency_penalty * count as f32;
                of(id, &|adjustment| adjustment.penalty = penalty);
            }
        }
        for id in excluded {
            of(id, &|adjustment| adjustment.bias = f32::NEG_INFINITY);
        }
        by_id.into_values().collect()
    }
}

/// What would be reported of the token `id`, had it been sampled from `logits`.
///
/// # Errors
/// If a logit is NaN or +infinity, or there is none of `id`.
pub fn report(logits: &[f32], id: u32, top_logprobs: usize) -> Result<Sampled, SamplingError> {
    let (alternatives, normalizer) = keeve_graph::sampling::top(logits, top_logprobs)?;
    let missing = keeve_graph::sampling::SamplingError::NoToken(logits.len());
    let &logit = logits.get(id as usize).ok_or(missing)?;
    Ok(Sampled { id, logprob: (f64::from(logit) - normalizer) as f32, alternatives })
}

#[cfg(test)]
#[path = "sampling_tests.rs"]
mod tests;
