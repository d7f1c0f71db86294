//! Sampling: how the next token is drawn from a row's logits.
//!
//! The order is logit bias, penalties, mask, temperature, top-k, top-p, min-p: the order of
//! huggingface/transformers, `src/transformers/generation/utils.py` (`_get_logits_processor`).
//!
//! Draws need no order. Each token of the vocabulary gets Gumbel noise that is a hash of the seed, the
//! position and its id ([`math`]), and the token with the largest `logit / temperature + noise` is drawn
//! (the Gumbel-max trick: Maddison, Tarlow, Minka, "A* Sampling", 2014). Sums that decide anything are of
//! integers. So equal logits give equal draws on every device, for every batch, and for every way to
//! split the vocabulary; nothing is said where logits differ between devices.
//!
//! [`sample`] is the definition. It is plain code without branches in its inner loops, which backends on a
//! CPU compile for their instruction sets: the bits are the same.

mod choose;
pub mod math;

use std::fmt;

pub use choose::{Workspace, log_sum_exp, sample, top};

/// How the token after a row is sampled. [`Default`] is greedily.
#[derive(Debug, Clone)]
pub struct RowSampling<'a> {
    /// Divides the logits; 0 takes the best token (greedy; the lowest id among equals).
    pub temperature: f32,
    /// Keeps this many best tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of best tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less likely than this times the likeliest; 0 drops none.
    pub min_p: f32,
    /// Seed of the request, the same for all of its tokens.
    pub seed: u64,
    /// Index of the token that is sampled, in its sequence.
    pub position: u64,
    /// Changes of single logits, each id once.
    pub adjustments: Vec<Adjustment>,
    /// Tokens that may be sampled, if not all.
    pub mask: Option<&'a dyn TokenMask>,
    /// How many of the likeliest tokens to report.
    pub top_logprobs: usize,
}

impl Default for RowSampling<'_> {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            position: 0,
            adjustments: vec![],
            mask: None,
            top_logprobs: 0,
        }
    }
}

/// Logit bias and penalties of one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adjustment {
    /// Token id.
    pub id: u32,
    /// Added to the logit, before the penalties.
    pub bias: f32,
    /// Repetition penalty: divides a positive logit, multiplies another. 1 is none.
    pub repetition: f32,
    /// Presence and frequency penalty: subtracted.
    pub penalty: f32,
}

/// Tokens that a grammar allows. It may have to be waited for, so it is asked for after the logits have been computed.
pub trait TokenMask: Sync {
    /// One bit a token, 32 ids a word, lowest bit first; ids past its end are not allowed. `None` if there is
    /// nothing to sample, as the grammar is complete or has failed.
    fn bits(&self) -> Option<&[u32]>;
}

impl fmt::Debug for dyn TokenMask + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenMask")
    }
}

/// A token and its log-probability (natural logarithm).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// Token id.
    pub id: u32,
    /// Log-softmax of the logits at `id`, before bias, penalties, mask and temperature.
    pub logprob: f32,
}

/// A sampled token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Token id.
    pub id: u32,
    /// Log-softmax of the logits at `id`, before bias, penalties, mask and temperature.
    pub logprob: f32,
    /// The likeliest tokens by the same, as many as were asked for, likeliest first.
    pub alternatives: Vec<TokenLogprob>,
}

/// Why no token can be sampled.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// A logit is NaN or +infinity.
    #[error("logit of token {id} is {value} (expected a number below infinity)")]
    BadLogit {
        /// The token id.
        id: usize,
        /// The value.
        value: f32,
    },
    /// There is no token left: no logits, or all are -infinity.
    #[error("no token can be chosen: all {0} logits are -inf")]
    NoToken(usize),
}

#[cfg(test)]
mod tests;
