//! Choosing the next token from logits.
//!
//! The order is logit bias, penalties, temperature, top-k, top-p, min-p: the order of
//! huggingface/transformers, `src/transformers/generation/utils.py` (`_get_logits_processor`).
//! Presence and frequency penalties follow the OpenAI API's description of them: they look at
//! generated tokens only, the repetition penalty at the prompt as well. Log-probabilities are the
//! log-softmax of the logits as given, before any of this.
//!
//! A sampler belongs to one request. It draws exactly one random number a token (none at
//! temperature 0), from a generator defined here, so its choices depend on the seed and the logits
//! only, not on the batch.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};

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
    /// A logit is NaN or +infinity.
    #[error("logit of token {id} is {value} (expected a number below infinity)")]
    BadLogit {
        /// The token id.
        id: usize,
        /// The value.
        value: f32,
    },
    /// There is no token to choose: no logits, or all are -infinity.
    #[error("no token can be chosen: all {0} logits are -inf")]
    NoToken(usize),
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

    fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}

/// The most alternatives that may be asked for, as in the OpenAI API.
const MAX_LOGPROBS: usize = 20;

/// The tokens of the sequence so far, which the penalties look at.
#[derive(Debug, Clone, Copy, Default)]
pub struct History<'a> {
    /// Prompt ids.
    pub prompt: &'a [u32],
    /// Ids generated so far.
    pub generated: &'a [u32],
}

/// A token and its log-probability (natural logarithm).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// Token id.
    pub id: u32,
    /// Log-softmax of the raw logits at `id`.
    pub logprob: f32,
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Token id.
    pub id: u32,
    /// Log-softmax of the raw logits at `id`.
    pub logprob: f32,
    /// The `top_logprobs` likeliest tokens by the raw logits, likeliest first.
    pub alternatives: Vec<TokenLogprob>,
}

/// A token in the running for one step, with its logit after bias and penalties.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// Best first; equal logits in id order, so that the order is the same everywhere.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Chooses the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    seed: u64,
    random: SplitMix64,
    // Buffers kept between steps.
    adjusted: Vec<f32>,
    candidates: Vec<Candidate>,
    weights: Vec<f64>,
}

impl Sampler {
    /// Checks the parameters and seeds the generator.
    pub fn new(params: SamplingParams) -> Result<Self, SamplingError> {
        params.validate()?;
        let seed = params.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        Ok(Self {
            params,
            seed,
            random: SplitMix64(seed),
            adjusted: Vec::new(),
            candidates: Vec::new(),
            weights: Vec::new(),
        })
    }

    /// A sampler with the same parameters that chooses drafts and reports no alternatives.
    pub(crate) fn for_drafts(&self) -> Self {
        let params = SamplingParams { top_logprobs: 0, ..self.params.clone() };
        let random = self.random.clone();
        let (adjusted, candidates, weights) = (vec![], vec![], vec![]);
        Self { params, seed: self.seed, random, adjusted, candidates, weights }
    }

    /// Draws from now on the numbers that `other` will draw. Two that draw the same numbers from similar
    /// distributions choose the same token more often than two that do not.
    pub(crate) fn follow(&mut self, other: &Self) {
        self.random.clone_from(&other.random);
    }

    /// The seed in use; given as [`SamplingParams::seed`] it repeats this sampler's choices.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Chooses the token after `history` from its `logits` (one a vocabulary id).
    ///
    /// -infinity excludes a token. Errors when a logit is NaN or +infinity, when none is left, or
    /// when a logit bias names an id past the logits; the generator has then not moved.
    pub fn sample(
        &mut self,
        logits: &[f32],
        history: History<'_>,
    ) -> Result<Sampled, SamplingError> {
        self.choose(logits, history, None)
    }

    /// As [`Self::sample`], but only tokens whose bit is set in `allowed` (32 ids a word, lowest bit
    /// first) can be chosen. Log-probabilities are those without that restriction.
    pub fn sample_among(
        &mut self,
        logits: &[f32],
        history: History<'_>,
        allowed: &[u32],
    ) -> Result<Sampled, SamplingError> {
        self.choose(logits, history, Some(allowed))
    }

    fn choose(
        &mut self,
        logits: &[f32],
        history: History<'_>,
        allowed: Option<&[u32]>,
    ) -> Result<Sampled, SamplingError> {
        let normalizer = log_sum_exp(logits)?;
        let mut adjusted = std::mem::take(&mut self.adjusted);
        let chosen = self.adjust(logits, history, allowed, &mut adjusted).and_then(|changed| {
            let scores = if changed { &adjusted } else { logits };
            if self.params.temperature == 0.0 { best(scores) } else { self.draw(scores) }
        });
        self.adjusted = adjusted;
        let id = chosen?;
        let logprob = |id: u32| (f64::from(logits[id as usize]) - normalizer) as f32;
        let alternatives = self.top(logits).map(|id| TokenLogprob { id, logprob: logprob(id) });
        Ok(Sampled { id, logprob: logprob(id), alternatives: alternatives.collect() })
    }

    /// Writes the logits after bias, penalties and exclusions to `out`; false if there are none.
    fn adjust(
        &self,
        logits: &[f32],
        history: History<'_>,
        allowed: Option<&[u32]>,
        out: &mut Vec<f32>,
    ) -> Result<bool, SamplingError> {
        let params = &self.params;
        if params.logit_bias.is_empty() && !params.penalises() && allowed.is_none() {
            return Ok(false);
        }
        out.clear();
        out.extend_from_slice(logits);
        for (&id, bias) in &params.logit_bias {
            let Some(logit) = out.get_mut(id as usize) else {
                let problem = format!("there are only {} tokens", logits.len());
                return Err(SamplingError::LogitBias { id, problem });
            };
            *logit += bias;
        }
        if params.penalises() {
            let mut counts: HashMap<u32, u32> = HashMap::new();
            for &id in history.prompt {
                counts.entry(id).or_default();
            }
            for &id in history.generated {
                *counts.entry(id).or_default() += 1;
            }
            // Each token is changed once, so the map's order does not matter.
            for (id, count) in counts {
                let Some(logit) = out.get_mut(id as usize) else { continue };
                if *logit > 0.0 {
                    *logit /= params.repetition_penalty;
                } else {
                    *logit *= params.repetition_penalty;
                }
                if count > 0 {
                    *logit -= params.presence_penalty + params.frequency_penalty * count as f32;
                }
            }
        }
        if let Some(allowed) = allowed {
            for (id, logit) in out.iter_mut().enumerate() {
                if allowed.get(id / 32).is_none_or(|word| word >> (id % 32) & 1 == 0) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        Ok(true)
    }

    /// Draws from the distribution that temperature, top-k, top-p and min-p leave.
    fn draw(&mut self, scores: &[f32]) -> Result<u32, SamplingError> {
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.extend(
            (0u32..)
                .zip(scores)
                .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
                .map(|(id, &logit)| Candidate { id, logit }),
        );
        let top = best(scores)?;
        let (top, temperature) = (f64::from(scores[top as usize]), self.params.temperature);
        let weigh = |candidate: &Candidate| {
            ((f64::from(candidate.logit) - top) / f64::from(temperature)).exp()
        };
        let top_k = self.params.top_k;
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, by_rank);
            candidates.truncate(top_k);
            // The selection leaves an order that is the library's own business.
            candidates.sort_unstable_by_key(|candidate| candidate.id);
        }
        if self.params.top_p < 1.0 {
            let total: f64 = candidates.iter().map(weigh).sum();
            keep_mass(candidates, f64::from(self.params.top_p) * total, weigh);
        }
        // The likeliest candidate weighs 1, so this is the threshold on probabilities as well.
        let least = f64::from(self.params.min_p);
        self.weights.clear();
        self.weights.extend(candidates.iter().map(weigh).map(|w| if w < least { 0.0 } else { w }));
        let total: f64 = self.weights.iter().sum();
        let mut left = self.random.unit() * total;
        let mut last = None;
        for (candidate, &weight) in candidates.iter().zip(&self.weights) {
            if weight == 0.0 {
                continue;
            }
            last = Some(candidate.id);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        // Rounding may leave a sliver after the last candidate; it belongs to that one.
        last.ok_or(SamplingError::NoToken(scores.len()))
    }

    /// The ids of the likeliest tokens to report.
    fn top(&mut self, logits: &[f32]) -> impl Iterator<Item = u32> {
        let count = self.params.top_logprobs.min(logits.len());
        let candidates = &mut self.candidates;
        candidates.clear();
        if count > 0 {
            candidates.extend((0u32..).zip(logits).map(|(id, &logit)| Candidate { id, logit }));
            candidates.select_nth_unstable_by(count - 1, by_rank);
            candidates.truncate(count);
            candidates.sort_unstable_by(by_rank);
        }
        candidates.iter().map(|candidate| candidate.id)
    }
}

/// Keeps the best candidates until their weights reach `mass`, at least one, best first.
///
/// Sorts only as many as needed: the best 64, then four times as many, and so on.
fn keep_mass(candidates: &mut Vec<Candidate>, mass: f64, weigh: impl Fn(&Candidate) -> f64) {
    let (mut sorted, mut reached) = (0, 0.0);
    while sorted < candidates.len() {
        let end = candidates.len().min((sorted * 4).max(64));
        if end < candidates.len() {
            candidates[sorted..].select_nth_unstable_by(end - sorted - 1, by_rank);
        }
        candidates[sorted..end].sort_unstable_by(by_rank);
        for (at, candidate) in candidates[sorted..end].iter().enumerate() {
            reached += weigh(candidate);
            if reached >= mass {
                candidates.truncate(sorted + at + 1);
                return;
            }
        }
        sorted = end;
    }
}

/// The id of the largest score, the lowest among equals.
fn best(scores: &[f32]) -> Result<u32, SamplingError> {
    let mut best: Option<Candidate> = None;
    for (id, &logit) in (0u32..).zip(scores) {
        if best.is_none_or(|best| logit > best.logit) && logit > f32::NEG_INFINITY {
            best = Some(Candidate { id, logit });
        }
    }
    best.map(|best| best.id).ok_or(SamplingError::NoToken(scores.len()))
}

/// What would be reported of the token `id`, had it been chosen from `logits`.
///
/// # Errors
/// As for [`Sampler::sample`]; also if there is no logit of `id`.
pub fn report(logits: &[f32], id: u32, top_logprobs: usize) -> Result<Sampled, SamplingError> {
    let mut sampler = Sampler::new(SamplingParams { top_logprobs, ..SamplingParams::default() })?;
    let normalizer = log_sum_exp(logits)?;
    let logprob = |logit: f32| (f64::from(logit) - normalizer) as f32;
    let chosen = logits.get(id as usize).ok_or(SamplingError::NoToken(logits.len()))?;
    let alternatives = sampler.top(logits);
    let alternatives =
        alternatives.map(|id| TokenLogprob { id, logprob: logprob(logits[id as usize]) });
    Ok(Sampled { id, logprob: logprob(*chosen), alternatives: alternatives.collect() })
}

/// `ln(sum(exp(logits)))`, checking every logit on the way.
fn log_sum_exp(logits: &[f32]) -> Result<f64, SamplingError> {
    let mut largest = f32::NEG_INFINITY;
    for (id, &value) in logits.iter().enumerate() {
        if value.is_nan() || value == f32::INFINITY {
            return Err(SamplingError::BadLogit { id, value });
        }
        largest = largest.max(value);
    }
    if largest == f32::NEG_INFINITY {
        return Err(SamplingError::NoToken(logits.len()));
    }
    let sum: f64 = logits.iter().map(|&logit| f64::from((logit - largest).exp())).sum();
    Ok(f64::from(largest) + sum.ln())
}

/// A small generator that is the same on every platform and in every version.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014),
/// the SplitMix64 variant with the constants of its reference code.
#[derive(Debug, Clone)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
#[path = "sampling_tests.rs"]
mod tests;
