//! `keeve bench`, on models small enough to take no time. What it measures is never judged here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::keeve;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Held by tests that measure the machine's bounds, each of which takes 2 GiB.
static BOUNDS: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    BOUNDS.lock().unwrap_or_else(PoisonError::into_inner)
}

const CONFIG: &str = "config.json";

/// A folder with the config of a tiny model, changed by `edit`, and the config's path.
fn tiny(edit: impl FnOnce(&mut Value)) -> (TempDir, PathBuf) {
    let mut config = json!({
        "model_type": "qwen3", "hidden_size": 256, "intermediate_size": 512, "head_dim": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
        "vocab_size": 512, "max_position_embeddings": 64, "tie_word_embeddings": true,
    });
    edit(&mut config);
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join(CONFIG);
    fs::write(&path, config.to_string()).unwrap();
    (folder, path)
}

fn number(value: &Value) -> f64 {
    value.as_f64().filter(|number| number.is_finite() && *number > 0.0).expect("a number above 0")
}

#[test]
fn a_made_model_gives_every_number_in_json() {
    let _alone = alone();
    let (folder, path) = tiny(|_| {});
    let plot = folder.path().join("plot.svg");
    let result = keeve(["bench", "--config"])
        .arg(&path)
        .args(&["--codec", "q4_k_m", "-p", "9", "-n", "3", "-d", "7", "-r", "3", "--threads", "2"])
        .args(&["--activations", "float", "--profile", "--plot"])
        .arg(&plot)
        .json();
    let keys: Vec<_> = result.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "config",
            "codec",
            "activations",
            "isa",
            "threads",
            "p",
            "n",
            "d",
            "temperature",
            "top_p",
            "r",
            "prefill_tok_s",
            "decode_tok_s",
            "bytes_per_token",
            "read_gb_s",
            "amx_int8_tops",
            "amx_bf16_tops",
            "vnni_int8_tops",
            "decode_bandwidth_fraction",
            "prefill_peak_fraction",
            "load_s",
            "peak_memory",
            "interrupted",
            "profile",
        ]
    );
    assert_eq!(result["config"], path.to_str().unwrap());
    assert_eq!(result["codec"], "q4_k_m");
    assert_eq!((&result["p"], &result["n"]), (&json!(9), &json!(3)));
    assert_eq!((&result["d"], &result["r"]), (&json!(7), &json!(3)));
    for rate in ["prefill_tok_s", "decode_tok_s"] {
        let [min, median, max] = ["min", "median", "max"].map(|key| number(&result[rate][key]));
        assert!(min <= median && median <= max, "{result}");
    }
    // Of two layers the last has more bits for value and down: K, N of each.
    let weights = |sizes: &[(u64, u64)]| sizes.iter().map(|(k, n)| k * n).sum::<u64>();
    let in_q4 = weights(&[(256, 256), (256, 128), (256, 256), (256, 512), (256, 512)]);
    let mixed = weights(&[(256, 128), (512, 256)]);
    let head_and_row = 256 * (512 + 1);
    let packed = (2 * in_q4 + mixed) / 256 * 144 + (mixed + head_and_row) / 256 * 210;
    let keys_and_values = result["bytes_per_token"].as_u64().unwrap() - packed;
    assert_eq!(keys_and_values % (7 * 2 * 2 * 128), 0, "of 7 tokens, 2 layers, 128 wide");
    let read = number(&result["read_gb_s"]) * 1e9;
    let rate = number(&result["decode_tok_s"]["median"]);
    let fraction = rate * number(&result["bytes_per_token"]) / read;
    let found = number(&result["decode_bandwidth_fraction"]);
    assert!((found / fraction - 1.0).abs() < 1e-9);
    for unit in ["amx_int8_tops", "amx_bf16_tops", "vnni_int8_tops"] {
        assert!(result[unit].is_null() || number(&result[unit]) > 0.0);
    }
    assert!(result["profile"][0]["calls"].as_u64() > Some(0));
    assert_eq!(result["interrupted"], false);
    assert!(fs::read_to_string(plot).unwrap().starts_with("<svg"));
}

#[test]
fn a_real_model_is_measured_and_what_is_not_wanted_is_left_out() {
    let _alone = alone();
    let table = keeve(["bench", "-p", "0", "-n", "2", "-d", "4", "-r", "1", "--profile"]).ok();
    assert!(table.starts_with("demo model "), "{table}");
    let line = |start: &str| table.lines().find(|line| line.starts_with(start)).expect(start);
    assert_eq!(line("pp0").split_whitespace().collect::<Vec<_>>(), ["pp0", "-", "-", "-", "-"]);
    assert!(line("tg2 @ 4").contains('%'), "{table}");
    assert!(line("read bandwidth").contains("GB/s"), "{table}");
    assert!(line("linear ").contains('.'), "{table}");
}

#[test]
fn products_are_listed_by_codec_size_rows_and_phase() {
    let _alone = alone();
    let result = keeve(["bench", "--ops", "--codec", "q4_0,int8-g64", "--max-rows", "2"])
        .args(&["-r", "1", "--activations", "float", "--threads", "2"])
        .json();
    let ops = result["ops"].as_array().unwrap();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let found: Vec<_> = ops
        .iter()
        .map(|op| {
            assert_eq!(op["activations"], "float");
            for rate in ["gb_s", "tops", "bound_fraction"] {
                assert!(op[rate].is_null() || number(&op[rate]) > 0.0);
            }
            assert!(number(&op["seconds"]["min"]) <= number(&op["seconds"]["median"]));
            let size = [&op["n"], &op["k"], &op["rows"]].map(|size| size.as_u64().unwrap());
            (text(&op["codec"]), text(&op["phase"]), size)
        })
        .collect();
    let mut expected = vec![];
    for (n, k) in [(10240, 2560), (2560, 10240)] {
        for codec in ["q4_0", "int8-g64"] {
            for rows in [1, 2] {
                for phase in ["generated", "prompt"] {
                    expected.push((codec.into(), phase.into(), [n, k, rows]));
                }
            }
        }
    }
    assert_eq!(found, expected);
    assert_eq!(result["unsupported"], json!([]));
    assert!(number(&result["read_gb_s"]) > 0.0);
}

#[test]
fn a_codec_for_all_and_another_for_the_head() {
    let _alone = alone();
    let (_folder, path) = tiny(|_| {});
    let result = keeve(["bench", "--config"])
        .arg(&path)
        .args(&["--codec", "int8-g64", "--head-codec", "bf16", "-p", "1", "-n", "0", "-r", "1"])
        .json();
    assert_eq!(result["codec"], "int8-g64 head bf16");
    assert!(result["decode_tok_s"].is_null() && result["decode_bandwidth_fraction"].is_null());
    // One byte a weight and four for each 64; two bytes a weight in the head and the row.
    let layer = 256 * (256 + 128 + 128 + 256 + 512 + 512 + 512);
    let expected = 2 * (layer + layer / 64 * 4) + 2 * 256 * (512 + 1);
    assert_eq!(result["bytes_per_token"], expected);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_made() {
    for (args, said) in [
        (&["--config", "qwen9"][..], "qwen3-0.6b"),
        (&["--config", "0.6b", "--codec", "q9_k_xl"], "'q9_k_xl' is neither"),
        (&["--config", "0.6b", "--codec", "q4_0,q8_0"], "one --codec"),
        (&["--config", "0.6b", "--head-codec", "nine"], "nine"),
        (&["--codec", "q4_0"], "--config"),
        (&["--head-codec", "q4_0"], "--config"),
        (&["-p", "0", "-n", "0"], "nothing to measure"),
        (&["-r", "0"], "at least 1"),
        (&["--ops", "--codec", "q4_k_m"], "q4_k_m"),
        (&["--ops", "--max-rows", "0"], "--max-rows"),
        (&["--max-rows", "4"], "--ops"),
        (&["model", "--config", "0.6b"], "--config"),
        (&["model", "--ops"], "--ops"),
    ] {
        let ran = keeve(["bench", "--json"]).args(args).run();
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
        let message = ran.json()["error"].as_str().unwrap().to_owned();
        assert!(message.contains(said), "{args:?}: {message}");
    }
}

#[test]
fn configs_that_cannot_be_are_errors_that_name_the_file_and_the_field_or_tensor() {
    let bench = |path: &PathBuf, codec: &str| {
        keeve(["bench", "--codec", codec, "-p", "1", "-n", "1", "-r", "1", "--config"]).arg(path)
    };
    let (folder, path) = tiny(|config| config["hidden_size"] = json!("wide"));
    let message = bench(&path, "q4_k").fails(1);
    assert!(message.contains(CONFIG) && message.contains("hidden_size"), "{message}");
    let missing = folder.path().join("missing.json");
    assert!(bench(&missing, "q4_k").fails(1).contains("missing.json"));
    fs::write(&path, "{").unwrap();
    assert!(bench(&path, "q4_k").fails(1).contains(CONFIG));
    let (_folder, path) = tiny(|config| config["hidden_size"] = json!(96));
    let message = bench(&path, "q4_k").fails(1);
    assert!(message.contains("weight: ") && message.contains("256"), "{message}");
    let (_folder, path) = tiny(|config| {
        config["hidden_size"] = json!(1 << 24);
        config["intermediate_size"] = json!(1 << 24);
    });
    assert!(bench(&path, "bf16").fails(1).contains("memory"));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_benchmark_with_what_it_has() {
    use std::io::Read;
    use std::process::Command;

    // A context beyond the model's is noted on standard error just before the first measurement.
    let (_folder, path) = tiny(|config| config["max_position_embeddings"] = json!(4));
    let args = ["bench", "--json", "-p", "8", "-n", "2", "-r", "1000000000", "--config"];
    let mut child = keeve(args).arg(&path).spawn();
    let mut note = [0; 5];
    child.stderr.as_mut().unwrap().read_exact(&mut note).unwrap();
    assert_eq!(&note, b"note:");
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(status.unwrap().success());
    let ran = child.wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(130));
    let result: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(result["interrupted"], true);
    assert_eq!(result["r"], 1_000_000_000);
    assert!(result["read_gb_s"].is_null() && result["bytes_per_token"].as_u64() > Some(0));
}
