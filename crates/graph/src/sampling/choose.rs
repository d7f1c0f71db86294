//! Sampling a token from a row of logits.

use std::cmp::Ordering;

use super::math::{exp, fixed, gumbel, key, ln, part};
use super::{Adjustment, RowSampling, Sampled, SamplingError, TokenLogprob};

/// Logits that are looked at together; the order in which those of a block are summed up is fixed.
const BLOCK: usize = 256;
/// Candidates beyond which it is faster to give noise to all tokens, several at a time.
const MANY: usize = 4096;
/// Partial sums of a block.
const LANES: usize = 16;

/// Buffers that are kept between rows.
#[derive(Debug, Default)]
pub struct Workspace {
    adjusted: Vec<f32>,
    maxima: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// A token in the running.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// Best first; equal logits (0 and -0, too) in id order, so that the order is the same everywhere.
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    // None is NaN.
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

/// Samples the token after a row from its `logits`, one a vocabulary id. `None` if the mask says that there is nothing
/// to sample.
///
/// # Errors
/// When a logit is NaN or +infinity, or no token is left.
#[inline(always)]
pub fn sample(
    logits: &[f32],
    sampling: &RowSampling<'_>,
    work: &mut Workspace,
) -> Result<Option<Sampled>, SamplingError> {
    let allowed = match sampling.mask.map(|mask| mask.bits()) {
        Some(None) => return Ok(None),
        Some(bits) => bits,
        None => None,
    };
    let Workspace { adjusted, maxima, candidates } = work;
    let largest = block_maxima(logits, maxima)?;
    let normalizer = normalizer(logits, largest);
    let logprob = |id: u32| TokenLogprob {
        id,
        logprob: (f64::from(logits[id as usize]) - normalizer) as f32,
    };
    best(logits, maxima, sampling.top_logprobs, candidates);
    candidates.sort_unstable_by(by_rank);
    let alternatives = candidates.iter().map(|candidate| logprob(candidate.id)).collect();
    let id = if allowed.is_none() && sampling.adjustments.is_empty() {
        draw(logits, maxima, largest, sampling, candidates)
    } else {
        adjust(logits, &sampling.adjustments, allowed, adjusted);
        let largest = block_maxima(adjusted, maxima)?;
        draw(adjusted, maxima, largest, sampling, candidates)
    };
    Ok(Some(Sampled { id, logprob: logprob(id).logprob, alternatives }))
}

/// The `count` likeliest tokens, likeliest first, and the natural logarithm of `sum(exp(logits))`.
///
/// # Errors
/// As for [`sample`].
pub fn top(logits: &[f32], count: usize) -> Result<(Vec<TokenLogprob>, f64), SamplingError> {
    let Workspace { mut maxima, mut candidates, .. } = Workspace::default();
    let largest = block_maxima(logits, &mut maxima)?;
    let normalizer = normalizer(logits, largest);
    best(logits, &maxima, count, &mut candidates);
    candidates.sort_unstable_by(by_rank);
    let reported = candidates.iter().map(|&Candidate { id, logit }| TokenLogprob {
        id,
        logprob: (f64::from(logit) - normalizer) as f32,
    });
    Ok((reported.collect(), normalizer))
}

/// `ln(sum(exp(logits)))`.
///
/// # Errors
/// As for [`sample`].
pub fn log_sum_exp(logits: &[f32]) -> Result<f64, SamplingError> {
    let largest = block_maxima(logits, &mut vec![])?;
    Ok(normalizer(logits, largest))
}

/// Whether a logit is NaN or +infinity.
#[inline(always)]
fn is_bad(logit: f32) -> bool {
    logit.is_nan() || logit == f32::INFINITY
}

/// The largest logit of each block and of all of them, checking every one.
#[inline(always)]
fn block_maxima(logits: &[f32], maxima: &mut Vec<f32>) -> Result<f32, SamplingError> {
    maxima.clear();
    let mut bad = false;
    let mut largest = f32::NEG_INFINITY;
    for block in logits.chunks(BLOCK) {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let mut worst = [false; LANES];
        let mut step = |values: &[f32]| {
            for ((lane, worst), &value) in lanes.iter_mut().zip(&mut worst).zip(values) {
                *lane = if value > *lane { value } else { *lane };
                *worst |= is_bad(value);
            }
        };
        let mut rows = block.chunks_exact(LANES);
        rows.by_ref().for_each(&mut step);
        step(rows.remainder());
        bad |= worst.contains(&true);
        let most = lanes.iter().fold(f32::NEG_INFINITY, |most, &lane| most.max(lane));
        maxima.push(most);
        largest = largest.max(most);
    }
    if bad && let Some(id) = logits.iter().position(|&value| is_bad(value)) {
        return Err(SamplingError::BadLogit { id, value: logits[id] });
    }
    match largest == f32::NEG_INFINITY {
        true => Err(SamplingError::NoToken(logits.len())),
        false => Ok(largest),
    }
}

/// `ln(sum(exp(logits)))`, given the largest of them.
#[inline(always)]
fn normalizer(logits: &[f32], largest: f32) -> f64 {
    let mut sum = 0.0f64;
    for block in logits.chunks(BLOCK) {
        let mut lanes = [0.0f32; LANES];
        let mut step = |values: &[f32]| {
            for (lane, &value) in lanes.iter_mut().zip(values) {
                *lane += exp(value - largest);
            }
        };
        let mut rows = block.chunks_exact(LANES);
        rows.by_ref().for_each(&mut step);
        step(rows.remainder());
        sum += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
    }
    f64::from(largest) + sum.ln()
}

/// Writes the logits after bias, penalties and mask to `out`.
#[inline(always)]
fn adjust(logits: &[f32], adjustments: &[Adjustment], mask: Option<&[u32]>, out: &mut Vec<f32>) {
    out.clear();
    out.extend_from_slice(logits);
    for &Adjustment { id, bias, repetition, penalty } in adjustments {
        // A history may have ids of images or of padding.
        let Some(logit) = out.get_mut(id as usize) else { continue };
        *logit += bias;
        *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        *logit -= penalty;
    }
    let Some(mask) = mask else { return };
    for (index, values) in out.chunks_mut(32).enumerate() {
        let word = mask.get(index).copied().unwrap_or(0);
        for (bit, value) in values.iter_mut().enumerate() {
            *value = if (word >> bit) & 1 == 1 { *value } else { f32::NEG_INFINITY };
        }
    }
}

/// The `count` best tokens, in no order.
#[inline(always)]
fn best(logits: &[f32], maxima: &[f32], count: usize, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    if count == 0 {
        return;
    }
    // As many blocks have a token that is as good as this one.
    let mut least = f32::NEG_INFINITY;
    if count < maxima.len() {
        let mut sorted = maxima.to_vec();
        least = *sorted.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1;
    }
    from(logits, maxima, least, candidates);
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, by_rank);
        candidates.truncate(count);
    }
}

/// The tokens whose logits are `least` or better, in order of id; none of minus infinity.
#[inline(always)]
fn from(logits: &[f32], maxima: &[f32], least: f32, candidates: &mut Vec<Candidate>) {
    candidates.clear();
    for (at, (block, &most)) in logits.chunks(BLOCK).zip(maxima).enumerate() {
        if most < least || most == f32::NEG_INFINITY {
            continue;
        }
        let first = (at * BLOCK) as u32;
        let kept = (first..).zip(block);
        let kept = kept.filter(|(_, logit)| **logit >= least && **logit > f32::NEG_INFINITY);
        candidates.extend(kept.map(|(id, &logit)| Candidate { id, logit }));
    }
}

/// What a logit weighs: 1 if it is the largest.
#[inline(always)]
fn weigh(logit: f32, largest: f32, temperature: f32) -> f32 {
    // So small a temperature would make the best 0 times infinity of it.
    let gap = logit - largest;
    if gap == 0.0 { 1.0 } else { exp(gap / temperature) }
}

/// Draws from the distribution that temperature, top-k, top-p and min-p leave.
#[inline(always)]
fn draw(
    logits: &[f32],
    maxima: &[f32],
    largest: f32,
    sampling: &RowSampling<'_>,
    candidates: &mut Vec<Candidate>,
) -> u32 {
    let &RowSampling { temperature, top_k, top_p, min_p, seed, position, .. } = sampling;
    let first = |wanted: f32| {
        let block = maxima.iter().position(|&most| most == wanted).unwrap_or(0) * BLOCK;
        let within = logits[block..].iter().position(|&logit| logit == wanted).unwrap_or(0);
        (block + within) as u32
    };
    if temperature == 0.0 || top_k == 1 {
        return first(largest);
    }
    let noise = key(seed, position);
    if top_k == 0 && top_p >= 1.0 && min_p == 0.0 {
        return race(logits, largest, temperature, noise, |_, _| true);
    }
    let kept_k = top_k > 0 && top_k < logits.len();
    if kept_k {
        best(logits, maxima, top_k, candidates);
    }
    if top_p < 1.0 {
        let weight = |logit: f32| fixed(weigh(logit, largest, temperature));
        if kept_k {
            let total = candidates.iter().map(|candidate| weight(candidate.logit)).sum();
            keep_mass(candidates, part(total, top_p), weight);
        } else {
            let total = total(logits, largest, temperature);
            let needed = part(total, top_p);
            // Most of the mass is near the top, mostly.
            for reach in [4.0, 8.0, 16.0, f32::INFINITY] {
                from(logits, maxima, largest - reach * temperature, candidates);
                let mass: u64 = candidates.iter().map(|candidate| weight(candidate.logit)).sum();
                if mass >= needed {
                    break;
                }
            }
            keep_mass(candidates, needed, weight);
        }
    } else if !kept_k {
        // With more to spare than `exp` is wrong by.
        let reach = if min_p > f32::MIN_POSITIVE { 1e-3 - ln(min_p) } else { f32::INFINITY };
        from(logits, maxima, largest - reach * temperature, candidates);
    }
    if candidates.len() > MANY
        && let Some(worst) = candidates.iter().copied().max_by(by_rank)
    {
        return race(logits, largest, temperature, noise, |logit, id| {
            let kept = (logit > worst.logit) | ((logit == worst.logit) & (id <= worst.id));
            kept & (weigh(logit, largest, temperature) >= min_p)
        });
    }
    let weight = |candidate: &Candidate| weigh(candidate.logit, largest, temperature);
    let fit = candidates.iter().filter(|candidate| weight(candidate) >= min_p);
    let scored = fit.map(|candidate| Candidate {
        id: candidate.id,
        logit: score(candidate.logit, candidate.id, largest, temperature, noise),
    });
    // The largest weighs 1, so it is one of them.
    scored.min_by(by_rank).map_or_else(|| first(largest), |drawn| drawn.id)
}

/// What tokens are compared by.
#[inline(always)]
fn score(logit: f32, id: u32, largest: f32, temperature: f32, noise: u64) -> f32 {
    let gap = logit - largest;
    // A temperature next to nothing leaves the best, not 0 / 0.
    (if gap == 0.0 { 0.0 } else { gap / temperature }) + gumbel(noise, id)
}

/// The token with the best score of those that `keep` says.
#[inline(always)]
fn race(
    logits: &[f32],
    largest: f32,
    temperature: f32,
    noise: u64,
    keep: impl Fn(f32, u32) -> bool,
) -> u32 {
    let mut scores = [0.0; BLOCK];
    let mut best = (f32::NEG_INFINITY, 0);
    for (at, block) in logits.chunks(BLOCK).enumerate() {
        let first = (at * BLOCK) as u32;
        // Counted by `enumerate`: a loop that also steps an open range has two ends, and is not vectorized.
        for (within, (scored, &logit)) in scores.iter_mut().zip(block).enumerate() {
            let id = first + within as u32;
            let score = score(logit, id, largest, temperature, noise);
            *scored = if keep(logit, id) { score } else { f32::NEG_INFINITY };
        }
        let scores = &scores[..block.len()];
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let mut step = |values: &[f32]| {
            for (lane, &score) in lanes.iter_mut().zip(values) {
                *lane = if score > *lane { score } else { *lane };
            }
        };
        let mut rows = scores.chunks_exact(LANES);
        rows.by_ref().for_each(&mut step);
        step(rows.remainder());
        let most = lanes.iter().fold(f32::NEG_INFINITY, |most, &lane| most.max(lane));
        if most > best.0 {
            let within = scores.iter().position(|&score| score == most).unwrap_or(0);
            best = (most, first + within as u32);
        }
    }
    best.1
}

/// The weights of all tokens.
#[inline(always)]
fn total(logits: &[f32], largest: f32, temperature: f32) -> u64 {
    let mut total = 0;
    for block in logits.chunks(BLOCK) {
        let mut lanes = [0u64; LANES];
        let mut step = |values: &[f32]| {
            for (lane, &logit) in lanes.iter_mut().zip(values) {
                *lane += fixed(weigh(logit, largest, temperature));
            }
        };
        let mut rows = block.chunks_exact(LANES);
        rows.by_ref().for_each(&mut step);
        step(rows.remainder());
        total += lanes.iter().sum::<u64>();
    }
    total
}

/// Keeps the best candidates until their weights reach `mass`, at least one, in no order.
///
/// A quickselect by mass: it goes on in the half that the mass ends in, until that is short.
fn keep_mass(candidates: &mut Vec<Candidate>, mass: u64, weight: impl Fn(f32) -> u64) {
    let (mut start, mut end, mut reached) = (0, candidates.len(), 0);
    while end - start > 64 {
        let middle = (end - start) / 2;
        candidates[start..end].select_nth_unstable_by(middle, by_rank);
        let better = &candidates[start..start + middle];
        let within: u64 = better.iter().map(|candidate| weight(candidate.logit)).sum();
        if reached + within >= mass {
            end = start + middle;
        } else {
            reached += within;
            start += middle;
        }
    }
    candidates[start..end].sort_unstable_by(by_rank);
    let last = candidates[start..end].iter().position(|candidate| {
        reached += weight(candidate.logit);
        reached >= mass
    });
    candidates.truncate(last.map_or(end, |last| start + last + 1));
}
