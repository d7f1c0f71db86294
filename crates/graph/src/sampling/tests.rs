use super::math::*;
use super::*;

fn row(change: impl FnOnce(&mut RowSampling<'static>)) -> RowSampling<'static> {
    let mut row = RowSampling { temperature: 1.0, seed: 7, ..RowSampling::default() };
    change(&mut row);
    row
}

fn id(logits: &[f32], row: &RowSampling<'_>) -> u32 {
    sample(logits, row, &mut Workspace::default()).unwrap().unwrap().id
}

/// What is drawn at so many positions.
fn ids(logits: &[f32], row: &RowSampling<'static>, count: u64) -> Vec<u32> {
    (0..count).map(|position| id(logits, &RowSampling { position, ..row.clone() })).collect()
}

fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|&l| (f64::from(l) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Pearson's statistic of 20,000 draws against `expected` probabilities; excluded tokens must not occur.
fn chi_square(logits: &[f32], row: &RowSampling<'static>, expected: &[f64]) -> f64 {
    let mut counts = vec![0u32; logits.len()];
    for id in ids(logits, row, 20_000) {
        counts[id as usize] += 1;
    }
    let mut sum = 0.0;
    for (&count, &probability) in counts.iter().zip(expected) {
        if probability == 0.0 {
            assert_eq!(count, 0, "a token outside the distribution was drawn");
            continue;
        }
        let mean = probability * 20_000.0;
        sum += (f64::from(count) - mean).powi(2) / mean;
    }
    sum
}

const LOGITS: [f32; 8] = [1.0, -0.5, 2.0, 0.0, 1.5, -3.0, f32::NEG_INFINITY, 0.7];

/// 99.99 % of samples of a chi-square distribution with 7 degrees of freedom are below 29.9.
const BOUND: f64 = 29.9;

/// Logits of a vocabulary, some of them equal.
fn many(count: usize) -> Vec<f32> {
    let logit = |i: usize| match (i * 7919) % 5003 {
        2000..2010 => 0.0 * if i.is_multiple_of(2) { 1.0 } else { -1.0 },
        value => value as f32 / 900.0 - 2.5,
    };
    (0..count).map(logit).collect()
}

#[test]
fn draws_follow_the_softmax_at_each_temperature() {
    for temperature in [0.5, 1.0, 1.7] {
        for seed in 0..3 {
            let row = row(|row| (row.temperature, row.seed) = (temperature, seed));
            let statistic = chi_square(&LOGITS, &row, &softmax(&LOGITS, f64::from(temperature)));
            assert!(statistic < BOUND, "temperature {temperature}: {statistic}");
        }
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
    type Case = (fn(&mut RowSampling<'static>), &'static [usize]);
    let cases: [Case; 7] = [
        (|row| row.top_k = 3, &[2, 4, 0]),
        (|row| row.top_k = 100, &[0, 1, 2, 3, 4, 5, 7]),
        (|row| row.top_p = 0.7, &[2, 4, 0]),
        (|row| row.top_p = 0.01, &[2]),
        (|row| row.min_p = 0.25, &[2, 4, 0, 7]),
        (|row| row.min_p = 1e-3, &[0, 1, 2, 3, 4, 5, 7]),
        // After top-k 2 the best token has .622 of the mass, which top-p 0.6 is content with.
        (|row| (row.top_k, row.top_p) = (2, 0.6), &[2]),
    ];
    for (change, kept) in cases {
        assert!(chi_square(&LOGITS, &row(change), &restricted(kept)) < BOUND, "{kept:?}");
    }
}

/// The definition in as few words as possible: all tokens sorted, all masses summed up.
fn plainly(logits: &[f32], row: &RowSampling<'_>) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap().then(a.cmp(&b)));
    if row.temperature == 0.0 {
        return order[0] as u32;
    }
    let largest = logits[order[0]];
    let weight = |id: usize| exp((logits[id] - largest) / row.temperature);
    if row.top_k > 0 {
        order.truncate(row.top_k);
    }
    let needed = part(order.iter().map(|&id| fixed(weight(id))).sum(), row.top_p);
    let mut reached = 0;
    if row.top_p < 1.0 {
        let end = order.iter().position(|&id| {
            reached += fixed(weight(id));
            reached >= needed
        });
        order.truncate(end.unwrap() + 1);
    }
    order.retain(|&id| weight(id) >= row.min_p);
    let key = key(row.seed, row.position);
    let score = |id: usize| (logits[id] - largest) / row.temperature + gumbel(key, id as u32);
    order.sort();
    order.into_iter().rev().max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap() as u32
}

#[test]
fn what_is_drawn_is_what_the_definition_says() {
    for count in [1, 5, 64, 255, 256, 257, 3000, 5001, 20_000] {
        let logits = many(count);
        for temperature in [0.0, 0.05, 0.7, 2.0] {
            for top_k in [0, 1, 3, 40, 700] {
                for (top_p, min_p) in
                    [(1.0, 0.0), (0.5, 0.0), (0.999, 0.0), (1.0, 0.3), (0.9, 1e-3)]
                {
                    let row = RowSampling {
                        temperature,
                        top_k,
                        top_p,
                        min_p,
                        seed: 3,
                        position: (count + top_k) as u64,
                        ..RowSampling::default()
                    };
                    assert_eq!(id(&logits, &row), plainly(&logits, &row), "{count} {row:?}");
                }
            }
        }
    }
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let logits = vec![0.0; 1000];
    let first = ids(&logits, &row(|_| ()), 50);
    assert_eq!(first, ids(&logits, &row(|_| ()), 50));
    assert_ne!(first, ids(&logits, &row(|row| row.seed = 8), 50));
}

#[test]
fn temperature_zero_takes_the_lowest_id_of_the_best() {
    let greedy = row(|row| row.temperature = 0.0);
    assert_eq!(ids(&[0.5, 3.0, -1.0, 3.0], &greedy, 2), [1, 1]);
    let tiniest = row(|row| row.temperature = f32::MIN_POSITIVE);
    assert_eq!(ids(&[1.0, 90.0, -90.0], &tiniest, 3), [1; 3]);
}

struct Mask(Vec<u32>);

impl TokenMask for Mask {
    fn bits(&self) -> Option<&[u32]> {
        (!self.0.is_empty()).then_some(&self.0)
    }
}

#[test]
fn bias_penalties_and_mask_change_what_is_sampled_and_not_what_is_reported() {
    let logits = [4.0, -4.0, 3.0, 3.5];
    let greedy = |adjustments: Vec<Adjustment>, mask: &[u32]| {
        let mask = Mask(mask.to_vec());
        let mask = (!mask.0.is_empty()).then_some(&mask as &dyn TokenMask);
        let row = RowSampling { adjustments, mask, top_logprobs: 4, ..RowSampling::default() };
        sample(&logits, &row, &mut Workspace::default()).unwrap().unwrap()
    };
    let change = |id, bias, repetition, penalty| vec![Adjustment { id, bias, repetition, penalty }];
    assert_eq!(greedy(vec![], &[]).id, 0);
    assert_eq!(greedy(change(0, 0.0, 2.0, 0.0), &[]).id, 3);
    assert_eq!(greedy(change(0, 0.0, 1.0, 0.75), &[]).id, 3);
    assert_eq!(greedy(change(1, 9.0, 1.0, 0.0), &[]).id, 1);
    assert_eq!(greedy(change(1, 9.0, 2.0, 0.0), &[]).id, 0);
    // A bias cannot bring back what is not allowed.
    assert_eq!(greedy(change(0, 9.0, 1.0, 0.0), &[0b0110]).id, 2);
    assert_eq!(greedy(change(9, 9.0, 1.0, 0.0), &[]).id, 0);
    for sampled in [greedy(vec![], &[]), greedy(change(0, 0.0, 2.0, 0.0), &[0b0110])] {
        let order: Vec<u32> = sampled.alternatives.iter().map(|token| token.id).collect();
        assert_eq!(order, [0, 3, 2, 1]);
        let expected = softmax(&logits, 1.0)[sampled.id as usize].ln();
        assert!((f64::from(sampled.logprob) - expected).abs() < 1e-6);
    }
    let nothing = row(|row| row.mask = Some(&Nothing));
    assert_eq!(sample(&logits, &nothing, &mut Workspace::default()), Ok(None));
}

struct Nothing;

impl TokenMask for Nothing {
    fn bits(&self) -> Option<&[u32]> {
        None
    }
}

#[test]
fn bad_logits_are_errors() {
    let refuse = |logits: &[f32]| {
        sample(logits, &row(|_| ()), &mut Workspace::default()).unwrap_err().to_string()
    };
    assert!(refuse(&[0.0, f32::NAN]).contains("token 1 is NaN"));
    assert!(refuse(&[f32::INFINITY]).contains("token 0 is inf"));
    assert!(refuse(&[f32::NEG_INFINITY; 3]).contains("all 3 logits"));
    assert!(refuse(&[]).contains("all 0 logits"));
}

#[test]
fn the_functions_are_what_they_are_called() {
    for step in 0..100_000 {
        let x = -87.0 * step as f32 / 100_000.0;
        let (is, should) = (f64::from(exp(x)), f64::from(x).exp());
        assert!((is / should - 1.0).abs() < 3e-7, "exp {x}: {is} {should}");
        let x = f32::from_bits(0x0080_0000 + step * 0x5000);
        let (is, should) = (f64::from(ln(x)), f64::from(x).ln());
        assert!((is - should).abs() < 3e-7 * should.abs().max(0.3), "ln {x}: {is} {should}");
    }
    assert_eq!(exp(0.0), 1.0);
    assert_eq!((fixed(1.0), fixed(0.5), fixed(0.0)), (1 << 39, 1 << 38, 0));
    assert_eq!(fixed(exp(-87.0)), 0);
    assert_eq!((part(1 << 40, 1.0), part(1 << 40, 0.5)), (1 << 40, 1 << 39));
}

#[test]
fn noise_has_the_gumbel_distribution_far_into_its_tails() {
    let mut noise: Vec<f32> = (0..1 << 22).map(|id| gumbel(key(1, 2), id)).collect();
    noise.sort_by(f32::total_cmp);
    for part in [1e-5, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0 - 1e-5] {
        let at = f64::from(noise[(part * noise.len() as f64) as usize]);
        let share = (-(-at).exp()).exp();
        let spread = (part * (1.0 - part) / noise.len() as f64).sqrt();
        assert!((share - part).abs() < 5.0 * spread, "{part}: {share}");
    }
}
