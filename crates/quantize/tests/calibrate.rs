//! Importance matrices made by running the demo model.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use common::{Quiet, data};
use keeve_checkpoint::Checkpoint;
use keeve_cpu::Isa;
use keeve_quantize::{CalibrateOptions, Error, Imatrix, Importance, calibrate};

const CHUNK: usize = 64;

fn run(model: &Checkpoint, chunks: usize, start: Imatrix) -> Result<Imatrix, Error> {
    let text = std::fs::read_to_string(data("data/calibration.txt")).unwrap();
    let tokenizer = keeve_engine::tokenizer_of(model).unwrap().unwrap();
    let tokens = tokenizer.encode(&text[..4000], true, false).unwrap();
    let options = CalibrateOptions {
        chunk: CHUNK,
        chunks: Some(chunks),
        threads: 2,
        isa: Isa::choose().unwrap(),
        head: false,
        observer: &Quiet,
        save: &mut |_| Ok(()),
    };
    calibrate(model, &tokens, start, options)
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn sums_are_of_what_enters_the_weights() {
    let model = Checkpoint::open(&data("models/demo-qwen3")).unwrap();
    let whole = run(&model, 4, Imatrix::default()).unwrap();
    assert_eq!((whole.chunks, whole.chunk_size, whole.entries.len()), (4, CHUNK as u32, 70));
    for (name, entry) in &whole.entries {
        assert_eq!(entry.counts, [(4 * CHUNK) as f32], "{name}");
        assert!(entry.sums.iter().all(|sum| sum.is_finite() && *sum >= 0.0), "{name}");
        assert!(entry.sums.iter().any(|sum| *sum > 0.0), "{name}");
    }
    // The same norm enters all three; o_proj is entered by something else.
    let sums = |name: &str| &whole.entries[&format!("blk.3.{name}.weight")].sums;
    assert_eq!(sums("attn_q"), sums("attn_k"));
    assert_eq!(sums("attn_q"), sums("attn_v"));
    assert_eq!(sums("ffn_gate"), sums("ffn_up"));
    assert_ne!(sums("attn_q"), sums("attn_output"));
    assert_eq!(sums("ffn_down").len(), 1536);
    // A norm's output has a mean square near that of its gains: the input of layer 0's products is
    // exactly gains times a vector of mean square one.
    let gains = model.tensor("model.layers.0.input_layernorm.weight").unwrap();
    let mut values = vec![0.0; gains.cols()];
    keeve_codec::values(gains.codec(), gains.row(0), &mut values);
    let entry = &whole.entries["blk.0.attn_q.weight"];
    let weighted = entry.means().into_iter().zip(&values).map(|(mean, gain)| mean / (gain * gain));
    let mean = weighted.sum::<f32>() / values.len() as f32;
    assert!((mean - 1.0).abs() < 1e-3, "{mean}");
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn going_on_gives_what_one_run_gives() {
    let model = Checkpoint::open(&data("models/demo-qwen3")).unwrap();
    let whole = run(&model, 4, Imatrix::default()).unwrap();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("imatrix.gguf");
    run(&model, 2, Imatrix::default()).unwrap().save(&file).unwrap();
    let resumed = run(&model, 4, Imatrix::open(&file).unwrap()).unwrap();
    assert_eq!(resumed, whole);
    let importance = Importance::of(&model, &whole).unwrap();
    let name = "model.layers.2.mlp.down_proj.weight";
    assert_eq!(importance.get(name), Some(&whole.entries["blk.2.ffn_down.weight"].means()[..]));
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn matrices_of_other_models_are_refused() {
    let model = Checkpoint::open(&data("models/demo-qwen3")).unwrap();
    let other = Checkpoint::open(&data("fixtures/ckpt/qwen3/hf")).unwrap();
    let whole = run(&model, 1, Imatrix::default()).unwrap();
    let error = Importance::of(&other, &whole).err().unwrap().to_string();
    assert!(error.contains("of another model"), "{error}");
    let error = Importance::of(&other, &Imatrix::default()).err().unwrap().to_string();
    assert!(error.contains("no entry"), "{error}");
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn experts_are_counted_and_summed_apart() {
    let model = Checkpoint::open(&data("fixtures/ckpt/qwen3_moe/hf")).unwrap();
    let number = |field: &str| model.config()[field].as_u64().unwrap() as usize;
    let (experts, chosen) = (number("num_experts"), number("num_experts_per_tok"));
    let tokens: Vec<u32> = (0..96u32).map(|at| at * 37 % number("vocab_size") as u32).collect();
    let options = CalibrateOptions {
        chunk: 32,
        chunks: None,
        threads: 2,
        isa: Isa::choose().unwrap(),
        head: false,
        observer: &Quiet,
        save: &mut |_| Ok(()),
    };
    let found = calibrate(&model, &tokens, Imatrix::default(), options).unwrap();
    let (hidden, width) = (number("hidden_size"), number("moe_intermediate_size"));
    for (part, cols) in [("gate", hidden), ("up", hidden), ("down", width)] {
        let entry = &found.entries[&format!("blk.0.ffn_{part}_exps.weight")];
        assert_eq!((entry.sums.len(), entry.counts.len()), (cols * experts, experts));
        // Each token goes to so many of them.
        assert_eq!(entry.counts.iter().sum::<f32>() as usize, tokens.len() * chosen);
        for (sums, count) in entry.sums.chunks(cols).zip(&entry.counts) {
            assert_eq!(sums.iter().any(|sum| *sum > 0.0), *count > 0.0, "{part}");
        }
    }
    // What enters all experts of a token is one row: over all, their sums are so many times the router's.
    let (gate, router) =
        (&found.entries["blk.0.ffn_gate_exps.weight"], &found.entries["blk.0.ffn_gate_inp.weight"]);
    for col in 0..hidden {
        let sum: f32 = gate.sums.chunks(hidden).map(|sums| sums[col]).sum();
        let expected = router.sums[col] * chosen as f32;
        assert!((sum - expected).abs() <= 1e-4 * expected.abs(), "{col}: {sum} {expected}");
    }
    // Files that have experts apart get the part of each.
    let importance = Importance::of(&model, &found).unwrap();
    let of = |expert: usize| {
        importance.get(&format!("model.layers.0.mlp.experts.{expert}.up_proj.weight"))
    };
    let up = found.entries["blk.0.ffn_up_exps.weight"].means();
    for expert in 0..experts {
        assert_eq!(of(expert).unwrap(), &up[expert * hidden..][..hidden]);
    }
}
