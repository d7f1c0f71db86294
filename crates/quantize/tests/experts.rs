//! Experts made in memory, whether their file has them stacked or apart.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;

use common::{made, qwen3_moe, write_made_up};
use keeve_checkpoint::Checkpoint;
use keeve_codec::{Codec, decode};
use keeve_engine::{Engine, EngineOptions, Event, Request};
use keeve_graph::{Activations, Weights};
use keeve_quantize::{Format, Made, Making, Plan, Recipe, Role, Scheme};

fn opened(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/data/architectures");
    Checkpoint::open(&folder.join(name)).unwrap()
}

#[test]
fn experts_are_made_of_what_the_file_has() {
    for name in ["qwen3_moe", "olmoe", "mixtral", "qwen3_moe_sums"] {
        let checkpoint = opened(name);
        let first = checkpoint.tensors().find_map(|info| info.name.split_once(".experts.0."));
        let block = first.unwrap().0;
        let config = checkpoint.config();
        let field = |name: &str| config.get(name).and_then(serde_json::Value::as_u64);
        let count = field("num_experts").or_else(|| field("num_local_experts")).unwrap() as usize;
        let making = Making { importance: None, folds: None, threads: 1 };
        for (scheme, codec) in [("f32", Codec::F32), ("q8_0", Codec::Q8_0)] {
            let recipe: Recipe = scheme.parse::<Scheme>().unwrap().into();
            let plan = Plan::new(&checkpoint, &recipe, Format::Memory).unwrap();
            let made = Made::new(&checkpoint, &plan, making);
            for projection in ["gate_proj", "up_proj", "down_proj"] {
                let stack = format!("{block}.switch_mlp.{projection}.weight");
                let ours = made.experts(&stack, count).unwrap();
                let theirs = checkpoint.experts(&stack, count).unwrap();
                assert_eq!((ours.len(), theirs.len()), (count, count), "{name}");
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    assert_eq!((ours.rows(), ours.cols()), (theirs.rows(), theirs.cols()));
                    let fits = ours.cols().is_multiple_of(32);
                    assert!(ours.codec() == codec || !fits, "{name} {stack}: {}", ours.codec());
                    let (ours, theirs) = (decode(ours), decode(theirs));
                    let largest = theirs.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                    let bound = if scheme == "f32" { 0.0 } else { largest / 100.0 };
                    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= bound;
                    assert!(ours.iter().zip(&theirs).all(near), "{name} {stack} as {scheme}");
                }
                let bytes: u64 = ours.iter().map(|expert| expert.bytes() as u64).sum();
                assert_eq!(made.experts_bytes(&stack, count).unwrap(), bytes, "{name} {stack}");
                assert!(made.experts(&stack, count + 1).is_err());
            }
        }
    }
}

/// Logits after each token of a prompt, with float activations.
fn logits(model: &Checkpoint) -> Vec<f32> {
    let options = EngineOptions { activations: Activations::Float, ..EngineOptions::default() };
    let engine = Engine::load(model, &options, &|_| true).unwrap();
    let prompt = (0..24).map(|token| token * 331 % 8000).collect();
    let request =
        Request { prompt, max_tokens: Some(0), prompt_logits: true, ..Request::default() };
    let mut all = vec![];
    for event in engine.submit(request).unwrap() {
        match event {
            Event::PromptLogits { values, .. } => all.extend(values),
            Event::Finished { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    all
}

/// How far logits are from others, relative to those.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (error / expected.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

#[test]
fn presets_for_experts_give_what_their_tables_say() {
    use Codec::{Q4K, Q5K, Q6K, Q8_0};
    // The base, what values and the head have, and what an expert that every token passes has.
    let presets = [
        ("q4_k_moe", Q4K, Q6K, Q5K, 0.2),
        ("q5_k_moe", Q5K, Q6K, Q6K, 0.1),
        ("q6_k_moe", Q6K, Q8_0, Q8_0, 0.05),
    ];
    let mut shared = qwen3_moe();
    shared["model_type"] = "qwen2_moe".into();
    shared["shared_expert_intermediate_size"] = 256.into();
    for mut config in [qwen3_moe(), shared] {
        // All experts are chosen: that rounding changes which would be no matter of the presets.
        config["num_experts_per_tok"] = 4.into();
        let place = tempfile::tempdir().unwrap();
        write_made_up(&place.path().join("source"), &config);
        let source = Checkpoint::open(&place.path().join("source")).unwrap();
        let has_shared = config.get("shared_expert_intermediate_size").is_some();
        let float = logits(&source);
        for (name, base, better, of_shared, most) in presets {
            let recipe: Recipe = name.parse::<Scheme>().unwrap().into();
            // llama.cpp's files of models with an expert that every token passes are not written.
            let formats =
                if has_shared { &[Format::Mlx][..] } else { &[Format::Mlx, Format::Gguf] };
            let mut all = vec![];
            for &format in formats {
                let plan = Plan::new(&source, &recipe, format).unwrap();
                let of = |role: Role| plan.tensors.iter().filter(move |one| one.role == role);
                assert_eq!(of(Role::ExpertIn).count() % 4, 0);
                for (role, codec) in [
                    (Role::ExpertIn, base),
                    (Role::ExpertDown, base),
                    (Role::Query, base),
                    (Role::Key, base),
                    (Role::Out, base),
                    (Role::Value, better),
                    (Role::Head, better),
                    (Role::SharedIn, of_shared),
                    (Role::SharedDown, of_shared),
                ] {
                    let is_shared = matches!(role, Role::SharedIn | Role::SharedDown);
                    assert_eq!(of(role).count() > 0, !is_shared || has_shared, "{role}");
                    for planned in of(role) {
                        assert_eq!(planned.to, codec, "{name}: {}", planned.name);
                    }
                }
                assert!(of(Role::Router).all(|planned| planned.to.is_float()));
                let out = place.path().join(match format {
                    Format::Gguf => format!("{name}.gguf"),
                    _ => name.to_owned(),
                });
                let model = made(&source, &plan, &out);
                let found = logits(&model);
                let distance = distance(&found, &float);
                println!("{name} {format:?} {distance}");
                assert!(distance < most, "{name}: {distance}");
                all.push(found);
            }
            assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{name}: formats differ");
        }
    }
}
