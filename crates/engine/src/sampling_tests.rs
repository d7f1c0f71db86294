use super::*;

fn sampler(change: impl FnOnce(&mut SamplingParams)) -> Sampler {
    let mut params = SamplingParams { seed: Some(7), ..SamplingParams::default() };
    change(&mut params);
    Sampler::new(params).unwrap()
}

fn ids(sampler: &mut Sampler, logits: &[f32], count: usize) -> Vec<u32> {
    (0..count).map(|_| sampler.sample(logits, History::default()).unwrap().id).collect()
}

/// How often each token of `logits` was drawn.
fn histogram(sampler: &mut Sampler, logits: &[f32], draws: usize) -> Vec<usize> {
    let mut counts = vec![0; logits.len()];
    for id in ids(sampler, logits, draws) {
        counts[id as usize] += 1;
    }
    counts
}

fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|&l| (f64::from(l) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Pearson's statistic of `counts` against `expected` probabilities; excluded tokens must not occur.
fn chi_square(counts: &[usize], expected: &[f64]) -> f64 {
    let draws: usize = counts.iter().sum();
    let mut sum = 0.0;
    for (&count, &probability) in counts.iter().zip(expected) {
        if probability == 0.0 {
            assert_eq!(count, 0, "a token outside the distribution was drawn");
            continue;
        }
        let mean = probability * draws as f64;
        sum += (count as f64 - mean).powi(2) / mean;
    }
    sum
}

const LOGITS: [f32; 8] = [1.0, -0.5, 2.0, 0.0, 1.5, -3.0, f32::NEG_INFINITY, 0.7];

/// 99.99 % of samples of a chi-square distribution with 7 degrees of freedom are below 29.9.
const BOUND: f64 = 29.9;

#[test]
fn the_generator_is_splitmix64() {
    // First outputs for seed 1234567, as published with the reference code's test values.
    let mut random = SplitMix64(1234567);
    let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
    assert_eq!(first, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
}

#[test]
fn draws_follow_the_softmax_at_each_temperature() {
    for temperature in [0.5, 1.0, 1.7] {
        let counts = histogram(&mut sampler(|p| p.temperature = temperature), &LOGITS, 20_000);
        let statistic = chi_square(&counts, &softmax(&LOGITS, f64::from(temperature)));
        assert!(statistic < BOUND, "temperature {temperature}: {statistic}");
    }
}

/// The distribution over `kept` tokens only.
fn restricted(kept: &[usize]) -> Vec<f64> {
    let mut expected = softmax(&LOGITS, 1.0);
    for (id, probability) in expected.iter_mut().enumerate() {
        if !kept.contains(&id) {
            *probability = 0.0;
        }
    }
    let total: f64 = expected.iter().sum();
    expected.iter().map(|probability| probability / total).collect()
}

#[test]
fn top_k_top_p_and_min_p_restrict_the_distribution() {
    // Probabilities by rank: 2: .405, 4: .246, 0: .149, 7: .110, 3: .055, 1: .033, 5: .003.
    type Case = (fn(&mut SamplingParams), &'static [usize]);
    let cases: [Case; 6] = [
        (|p| p.top_k = 3, &[2, 4, 0]),
        (|p| p.top_k = 100, &[0, 1, 2, 3, 4, 5, 7]),
        (|p| p.top_p = 0.7, &[2, 4, 0]),
        (|p| p.top_p = 0.01, &[2]),
        (|p| p.min_p = 0.25, &[2, 4, 0, 7]),
        // After top-k 2 the best token has .622 of the mass, which top-p 0.6 is content with.
        (|p| (p.top_k, p.top_p) = (2, 0.6), &[2]),
    ];
    for (change, kept) in cases {
        let counts = histogram(&mut sampler(change), &LOGITS, 20_000);
        assert!(chi_square(&counts, &restricted(kept)) < BOUND, "{kept:?}: {counts:?}");
    }
}

#[test]
fn top_p_keeps_the_same_set_as_a_full_sort() {
    let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 5003) as f32 / 900.0).collect();
    let mut candidates: Vec<Candidate> =
        (0u32..).zip(&logits).map(|(id, &logit)| Candidate { id, logit }).collect();
    let weigh = |candidate: &Candidate| f64::from(candidate.logit).exp();
    let total: f64 = candidates.iter().map(weigh).sum();
    let mut sorted = candidates.clone();
    sorted.sort_by(by_rank);
    let mut reached = 0.0;
    let wanted = 1 + sorted
        .iter()
        .position(|c| {
            reached += weigh(c);
            reached >= 0.9 * total
        })
        .unwrap();
    assert!(wanted > 1024, "the test should need several rounds, got {wanted}");
    keep_mass(&mut candidates, 0.9 * total, weigh);
    let kept: Vec<u32> = candidates.iter().map(|c| c.id).collect();
    let full: Vec<u32> = sorted[..wanted].iter().map(|c| c.id).collect();
    assert_eq!(kept, full);
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let logits = vec![0.0; 1000];
    let first = ids(&mut sampler(|_| ()), &logits, 50);
    assert_eq!(first, ids(&mut sampler(|_| ()), &logits, 50));
    assert_ne!(first, ids(&mut sampler(|p| p.seed = Some(8)), &logits, 50));
    let unseeded = sampler(|p| p.seed = None);
    let again = sampler(|p| p.seed = Some(unseeded.seed()));
    assert_eq!(ids(&mut unseeded.clone(), &logits, 50), ids(&mut again.clone(), &logits, 50));
}

#[test]
fn temperature_zero_takes_the_lowest_id_of_the_best() {
    let mut greedy = sampler(|p| p.temperature = 0.0);
    assert_eq!(ids(&mut greedy, &[0.5, 3.0, -1.0, 3.0], 2), [1, 1]);
    // The tiniest temperature must not overflow to NaN.
    assert_eq!(
        ids(&mut sampler(|p| p.temperature = f32::MIN_POSITIVE), &[1.0, 90.0, -90.0], 3),
        [1; 3]
    );
}

#[test]
fn penalties_change_exactly_the_tokens_they_should() {
    let history = History { prompt: &[0, 1, 9999], generated: &[1, 2, 2] };
    let logits = [4.0, -4.0, 3.0, 3.5];
    let mut out = Vec::new();
    let repetition = sampler(|p| p.repetition_penalty = 2.0);
    assert!(repetition.adjust(&logits, history, None, &mut out).unwrap());
    assert_eq!(out, [2.0, -8.0, 1.5, 3.5]);
    let counted = sampler(|p| (p.presence_penalty, p.frequency_penalty) = (0.5, 0.25));
    assert!(counted.adjust(&logits, history, None, &mut out).unwrap());
    assert_eq!(out, [4.0, -4.75, 2.0, 3.5]);
    let biased = sampler(|p| p.logit_bias = BTreeMap::from([(1, 10.0), (3, -100.0)]));
    assert!(biased.adjust(&logits, history, None, &mut out).unwrap());
    assert_eq!(out, [4.0, 6.0, 3.0, -96.5]);
    assert!(!sampler(|_| ()).adjust(&logits, history, None, &mut out).unwrap());
}

#[test]
fn only_allowed_tokens_are_chosen_and_logprobs_do_not_change() {
    let logits = [5.0, 1.0, 4.0, 2.0];
    let mut greedy = sampler(|p| p.temperature = 0.0);
    let free = greedy.sample(&logits, History::default()).unwrap();
    let bound = greedy.sample_among(&logits, History::default(), &[0b1010]).unwrap();
    assert_eq!((free.id, bound.id), (0, 3));
    assert!((bound.logprob - (free.logprob - 3.0)).abs() < 1e-6);
    // A bias cannot bring back what is not allowed, and ids past the mask are not.
    let mut biased = sampler(|p| p.logit_bias = BTreeMap::from([(0, 100.0)]));
    for _ in 0..50 {
        let id = biased.sample_among(&logits, History::default(), &[0b0110]).unwrap().id;
        assert!([1, 2].contains(&id));
    }
    assert!(greedy.sample_among(&logits, History::default(), &[]).is_err());
}

#[test]
fn logprobs_are_of_the_raw_logits() {
    let logits = [1.0, 3.0, 2.0, f32::NEG_INFINITY];
    let mut sampler = sampler(|p| {
        p.temperature = 0.0;
        p.top_logprobs = 4;
        p.logit_bias = BTreeMap::from([(0, 100.0)]);
    });
    let sampled = sampler.sample(&logits, History::default()).unwrap();
    let expected = softmax(&logits, 1.0);
    assert_eq!(sampled.id, 0);
    assert!((f64::from(sampled.logprob) - expected[0].ln()).abs() < 1e-6);
    let order: Vec<u32> = sampled.alternatives.iter().map(|token| token.id).collect();
    assert_eq!(order, [1, 2, 0, 3]);
    assert_eq!(sampled.alternatives[3].logprob, f32::NEG_INFINITY);
    assert!((f64::from(sampled.alternatives[0].logprob) - expected[1].ln()).abs() < 1e-6);
}

#[test]
fn bad_logits_are_errors() {
    let mut any = sampler(|_| ());
    let mut refuse =
        |logits: &[f32]| any.sample(logits, History::default()).unwrap_err().to_string();
    assert!(refuse(&[0.0, f32::NAN]).contains("token 1 is NaN"));
    assert!(refuse(&[f32::INFINITY]).contains("token 0 is inf"));
    assert!(refuse(&[f32::NEG_INFINITY; 3]).contains("all 3 logits"));
    assert!(refuse(&[]).contains("all 0 logits"));
    let mut biased = sampler(|p| p.logit_bias = BTreeMap::from([(5, 1.0)]));
    let error = biased.sample(&[0.0; 5], History::default()).unwrap_err().to_string();
    assert!(error.contains("token 5") && error.contains("only 5 tokens"), "{error}");
}

#[test]
fn parameters_out_of_range_are_named() {
    type Change = fn(&mut SamplingParams);
    let cases: [(&str, Change); 10] = [
        ("temperature", |p| p.temperature = -0.1),
        ("temperature", |p| p.temperature = f32::NAN),
        ("top_p", |p| p.top_p = 0.0),
        ("top_p", |p| p.top_p = 1.5),
        ("min_p", |p| p.min_p = -1.0),
        ("repetition_penalty", |p| p.repetition_penalty = 0.0),
        ("presence_penalty", |p| p.presence_penalty = 3.0),
        ("frequency_penalty", |p| p.frequency_penalty = f32::INFINITY),
        ("top_logprobs", |p| p.top_logprobs = 21),
        ("logit_bias for token 3", |p| p.logit_bias = BTreeMap::from([(3, 101.0)])),
    ];
    for (field, change) in cases {
        let mut params = SamplingParams::default();
        change(&mut params);
        let error = Sampler::new(params).unwrap_err().to_string();
        assert!(error.starts_with(field) && error.contains("expected"), "{error}");
    }
}
