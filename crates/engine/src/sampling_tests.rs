use super::*;

fn adjustments(
    change: impl FnOnce(&mut SamplingParams),
    history: History<'_>,
    excluded: &[u32],
) -> Vec<(u32, f32, f32, f32)> {
    let mut params = SamplingParams { seed: Some(7), ..SamplingParams::default() };
    change(&mut params);
    let row = Sampler::new(params).unwrap().row(history, excluded.iter().copied(), None);
    let parts = |a: &Adjustment| (a.id, a.bias, a.repetition, a.penalty);
    row.adjustments.iter().map(parts).collect()
}

#[test]
fn penalties_are_of_exactly_the_tokens_they_should_be() {
    let history = History { prompt: &[0, 1, 9], generated: &[1, 2], drafts: &[2] };
    assert_eq!(adjustments(|_| (), history, &[]), []);
    let repetition = adjustments(|p| p.repetition_penalty = 2.0, history, &[]);
    assert_eq!(repetition, [0, 1, 2, 9].map(|id| (id, 0.0, 2.0, 0.0)));
    let counted =
        adjustments(|p| (p.presence_penalty, p.frequency_penalty) = (0.5, 0.25), history, &[]);
    assert_eq!(counted, [(1, 0.0, 1.0, 0.75), (2, 0.0, 1.0, 1.0)]);
    let bias = BTreeMap::from([(1, 10.0), (3, -100.0)]);
    let biased = adjustments(|p| p.logit_bias = bias, history, &[3, 4]);
    let never = f32::NEG_INFINITY;
    assert_eq!(biased, [(1, 10.0, 1.0, 0.0), (3, never, 1.0, 0.0), (4, never, 1.0, 0.0)]);
}

#[test]
fn a_row_is_known_by_its_seed_and_position() {
    let sampler = Sampler::new(SamplingParams { seed: Some(5), ..Default::default() }).unwrap();
    let history = History { prompt: &[1, 2], generated: &[3], drafts: &[4, 5] };
    let row = sampler.row(history, std::iter::empty(), None);
    assert_eq!((row.seed, row.position), (5, 5));
    let draft = History { prompt: &[1, 2], generated: &[3, 4, 5], drafts: &[] };
    let draft = sampler.draft_row(draft);
    assert_eq!((draft.seed, draft.position), (5, 5));
    let unseeded = || Sampler::new(SamplingParams::default()).unwrap();
    assert_ne!(unseeded().seed, unseeded().seed);
}

#[test]
fn reports_are_the_log_softmax() {
    let logits = [1.0, 3.0, 2.0, f32::NEG_INFINITY];
    let reported = report(&logits, 2, 4).unwrap();
    let ids: Vec<u32> = reported.alternatives.iter().map(|token| token.id).collect();
    assert_eq!((reported.id, &ids[..3]), (2, &[1, 2, 0][..]));
    let normalizer = logits.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
    assert!((f64::from(reported.logprob) - (2.0 - normalizer)).abs() < 1e-6);
    assert!(report(&logits, 4, 0).is_err() && report(&[f32::NAN], 0, 0).is_err());
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
