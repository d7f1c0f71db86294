//! `keeve eval`, on the demo model.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::{Model, keeve};
use serde_json::{Value, json};

const SENTENCES: &str = "The river rises in the hills north of the town and flows south for twenty \
    miles. In the nineteenth century it drove several mills, of which two remain.\n";

fn data(folder: &Model, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.file("text.txt");
    fs::write(&path, text).unwrap();
    path
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn a_table_of_models_beside_a_reference() {
    let model = Model::demo();
    let path = data(&model, SENTENCES.repeat(6));
    let eval = |args: &[&str]| {
        keeve(["eval"]).args(args).arg("--data").arg(&path).args(&["--window", "64"])
    };
    let result = eval(&[model.path(), model.path(), "--reference", model.path()]).json();
    let fields: Vec<_> = result.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["data", "window", "stride", "like", "reference", "complete", "models"]);
    assert_eq!((&result["window"], &result["stride"]), (&json!(64), &json!(64)));
    assert_eq!((&result["like"], &result["complete"]), (&Value::Null, &json!(true)));
    let [first, second] = &result["models"].as_array().unwrap()[..] else { panic!("{result}") };
    assert_eq!(first["ppl"], second["ppl"]);
    assert_eq!((&first["kl_mean"], &first["top1_agreement"]), (&json!(0.0), &json!(1.0)));
    assert_eq!((&first["kl_p99"], &first["ppl_ratio"]), (&json!(0.0), &json!(1.0)));
    assert_eq!(first["reference_ppl"], first["ppl"]);
    let (ppl, byte, word) =
        (number(&first["ppl"]), number(&first["byte_ppl"]), number(&first["word_ppl"]));
    assert!(1.0 < byte && byte < ppl && ppl < word);
    assert!((number(&first["bits_per_byte"]) - byte.log2()).abs() < 1e-12);
    let (tokens, bytes) = (number(&first["tokens"]), SENTENCES.len() as f64 * 6.0);
    assert!((ppl.ln() * tokens - byte.ln() * bytes).abs() < 1e-6);
    assert!((4.9..5.1).contains(&number(&first["bits_per_weight"])));
    assert!(number(&first["prefill_s"]) > 0.0 && number(&first["bytes"]) > 2e7);
    if cfg!(target_os = "linux") {
        assert!(number(&first["peak_memory"]) > 2e7);
    }
    let ci: Vec<_> = first["ppl_ci"].as_array().unwrap().iter().map(number).collect();
    assert!(ci[0] < ppl && ppl < ci[1]);

    // Without a reference there is nothing to compare with, and the demo model needs no name.
    let alone = eval(&[]).json();
    assert_eq!(alone["models"][0]["model"], "demo model");
    assert_eq!((&alone["models"][0]["ppl"], &alone["reference"]), (&first["ppl"], &Value::Null));
    assert_eq!(alone["models"][0]["kl_mean"], Value::Null);

    let table = eval(&[model.path(), "--reference", model.path()]).ok();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    for part in ["PPL", "KL mean", "top-1 %"] {
        assert!(lines[0].contains(part), "{table}");
    }
    assert!(lines[1].starts_with(model.path()) && lines[1].contains(&format!("{ppl:.4} ±")));
}

#[test]
fn what_counts_is_as_asked() {
    let model = Model::demo();
    let path = data(&model, SENTENCES.repeat(4));
    let eval = |args: &[&str]| keeve(["eval", "--data"]).arg(&path).args(args).json();
    let tokens = number(&eval(&["--window", "32"])["models"][0]["tokens"]);
    // All but the first.
    let whole = keeve(["tokenize", "--text", &SENTENCES.repeat(4)]).json();
    assert_eq!(tokens, whole["ids"].as_array().unwrap().len() as f64 - 1.0);
    let chunks = (tokens + 1.0) as u64 / 32;
    let llama = eval(&["--like", "llama.cpp", "--window", "32"]);
    assert_eq!(
        (&llama["like"], &llama["models"][0]["tokens"]),
        (&json!("llama.cpp"), &json!(chunks * 15))
    );
    let part = &eval(&["--window", "32", "--stride", "8", "--max-tokens", "50"])["models"][0];
    assert_eq!(part["tokens"], 50);
    // Rows that only give context run too.
    assert!(number(&part["prefill_tokens"]) > 50.0);
    // How it is computed is as asked, too.
    let int8 = &eval(&["--window", "32", "--activations", "int8"])["models"][0];
    let flags =
        ["--window", "32", "--threads", "1", "--prefill-chunk", "5", "--activations", "float"];
    let float = &eval(&flags)["models"][0];
    let ratio = number(&int8["ppl"]) / number(&float["ppl"]);
    assert!(ratio != 1.0 && (0.95..1.05).contains(&ratio), "{ratio}");
}

#[test]
fn bad_input_is_one_clear_line() {
    let model = Model::demo();
    let path = data(&model, SENTENCES.repeat(3));
    let text = path.to_str().unwrap();
    let fails = |args: &[&str], code: i32, expected: &str| {
        let message = keeve(["eval"]).args(args).fails(code);
        assert!(message.contains(expected), "{message}");
    };
    fails(&["--data", "/nowhere/text"], 1, "/nowhere/text");
    fails(&["--data", text, "--window", "8", "--stride", "9"], 1, "stride is 9, expected 1 to 8");
    fails(&["--data", text, "--window", "99999", "--max-context", "64"], 1, "holds 64");
    fails(&["--data", text, "--like", "llama.cpp"], 1, "expected at least 1024");
    fails(&["nowhere", "--data", text], 1, "no model at 'nowhere'");
    fails(&["--reference", "nowhere", "--data", text], 1, "no model at 'nowhere'");
    for (args, flag) in [
        (&["--data", text, "--like", "llama.cpp", "--stride", "5"][..], "--stride"),
        (&[], "--data"),
    ] {
        let ran = keeve(["eval"]).args(args).run();
        assert!(ran.code == Some(2) && ran.stderr.contains(flag), "{ran:?}");
    }
    let silent = Model::demo().remove("tokenizer.json");
    fails(&[silent.path(), "--data", text], 1, "no tokenizer");
    let empty = Model::demo();
    let nothing = data(&empty, "");
    fails(&["--data", nothing.to_str().unwrap()], 1, "the text has 0 tokens");
    let broken = data(&empty, b"abc\xff");
    fails(&["--data", broken.to_str().unwrap()], 1, "not UTF-8 at byte 3");
    let other = Model::demo().json("tokenizer.json", |tokenizer| {
        let merges = tokenizer["model"]["merges"].as_array_mut().unwrap();
        merges.truncate(100);
    });
    let args = [other.path(), "--reference", model.path(), "--data", text];
    fails(&args, 1, "turns the text into other tokens than the reference");
}

#[cfg(unix)]
#[test]
fn ctrl_c_prints_what_there_is() {
    use std::os::unix::process::ExitStatusExt;

    let model = Model::demo();
    let path = data(&model, SENTENCES.repeat(3000));
    // Whether anything was judged by then depends on the machine.
    for wait in [1, 4, 16, 64] {
        let mut child = keeve(["eval", "--json", "--window", "64", "--data"]).arg(&path).spawn();
        std::thread::sleep(Duration::from_secs(wait));
        let mut kill = Command::new("kill");
        assert!(kill.args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let mut stdout = String::new();
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        let ended = child.wait().unwrap();
        if ended.signal().is_some() {
            // Not even its handler was there.
            continue;
        }
        assert_eq!(ended.code(), Some(130));
        let result: Value = serde_json::from_str(&stdout).unwrap();
        if result == json!({ "error": "interrupted" }) {
            continue;
        }
        assert_eq!(result["complete"], false);
        assert!(number(&result["models"][0]["tokens"]) >= 64.0);
        return;
    }
    panic!("nothing judged in a minute");
}

#[test]
fn models_are_judged_as_they_would_be() {
    let model = Model::demo();
    let (path, drawing) = (data(&model, SENTENCES.repeat(6)), model.file("plot.svg"));
    let eval = |args: &[&str]| {
        let start = ["eval", model.path(), "--window", "64", "--activations", "float", "--data"];
        keeve(start).arg(&path).args(args)
    };
    let variants = "q8_0,q3_k_s,int8@int8,int8@float";
    let plot = drawing.to_str().unwrap();
    let result = eval(&["--as", variants, "--reference", model.path(), "--plot", plot]).json();
    let rows = result["models"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["model"].as_str().unwrap()).collect();
    let expected: Vec<_> =
        variants.split(',').map(|name| format!("{} as {name}", model.path())).collect();
    assert_eq!(names, expected);
    let activations: Vec<_> = rows.iter().map(|row| row["activations"].as_str().unwrap()).collect();
    assert_eq!(activations, ["float", "float", "int8", "float"]);
    let of = |index: usize, field: &str| number(&rows[index][field]);
    assert!((8.5..8.52).contains(&of(0, "bits_per_weight")));
    // Coarser weights cost more, and so do rounded activations.
    assert!(of(0, "kl_mean") < of(1, "kl_mean") && of(3, "kl_mean") < of(2, "kl_mean"));
    // Beside one run of the reference they score the same.
    let args = ["--as", variants, "--reference", model.path(), "--together", "3"];
    let together = eval(&args).json();
    for (row, other) in rows.iter().zip(together["models"].as_array().unwrap()) {
        for field in ["model", "ppl", "kl_mean", "kl_p99", "top1_agreement", "bytes", "activations"]
        {
            assert_eq!(row[field], other[field], "{field}");
        }
    }
    assert_eq!((&together["complete"], rows.len()), (&json!(true), 4));
    let text = fs::read_to_string(&drawing).unwrap();
    assert!(text.starts_with("<svg") && text.contains("as q3_k_s"));

    // Rotated rows are judged as what they stand for.
    let rotated = eval(&["--as", "int8+rotate@int8", "--reference", model.path()]).json();
    let cost = number(&rotated["models"][0]["kl_mean"]);
    assert!(cost > 0.0 && cost < 2.0 * of(2, "kl_mean"), "{cost}");

    // A made model is the model that is written.
    let file = model.file("made.gguf");
    let made = file.to_str().unwrap();
    keeve(["quantize", model.path(), "--preset", "q3_k_s", "--out", made]).ok();
    let written = keeve(["eval", made, "--window", "64", "--activations", "float", "--data"]);
    let written = written.arg(&path).json();
    assert_eq!(written["models"][0]["ppl"], rows[1]["ppl"]);

    for (wrong, says) in [
        ("q9_k", "q9_k"),
        ("q8_0@fp4", "no mode 'fp4'"),
        ("q4_k_m+imatrix", "--imatrix is needed"),
        ("int8+turned", "int8+turned"),
    ] {
        let error = eval(&["--as", wrong]).fails_plainly(2);
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn verify_compares_predictions() {
    let model = Model::demo();
    let path = data(&model, SENTENCES.repeat(6));
    let verify = |args: &[&str]| keeve(["verify", model.path()]).args(args);
    let text = path.to_str().unwrap();
    let result = verify(&["--against", model.path(), "--data", text]).json();
    let predictions = &result["predictions"];
    assert_eq!((&predictions["kl_mean"], &predictions["ppl_ratio"]), (&json!(0.0), &json!(1.0)));
    assert!(number(&predictions["tokens"]) > 100.0);
    let ran = verify(&["--data", text]).run();
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("--against <MODEL>"), "{ran:?}");
}

#[test]
fn what_rounding_costs_by_mode_and_product() {
    let model = Model::demo();
    let path = data(&model, SENTENCES.repeat(6));
    let eval = |args: &[&str]| {
        let args = ["--window", "32", "--max-tokens", "30"].iter().chain(args).copied();
        keeve(["eval", "--data"]).arg(&path).args(&args.collect::<Vec<_>>())
    };
    let result = eval(&["--rounding=float,fast,panel,finer", "--by-product"]).json();
    let rows = result["rounding"].as_array().unwrap();
    let row = |mode: &str, product: Value| {
        let found = rows.iter().find(|row| row["mode"] == mode && row["product"] == product);
        found.unwrap_or_else(|| panic!("{mode} {product}: {result}"))
    };
    let kl = |row: &Value, phase: &str| number(&row[phase]["kl_mean"]);
    for phase in ["prefill", "decode"] {
        assert_eq!(kl(row("float", Value::Null), phase), 0.0);
        assert!(kl(row("fast", Value::Null), phase) > 0.0);
    }
    assert_eq!(
        row("fast", Value::Null)["prefill"]["top1_agreement_ci"].as_array().unwrap().len(),
        2
    );
    // A scheme is the same in both phases, leaves attention alone, and is not had with every codec.
    let panel = row("panel", Value::Null);
    assert!(kl(panel, "prefill") > 0.0 && panel["decode"].is_null());
    assert!(!rows.iter().any(|row| row["mode"] == "panel" && row["product"] == "attention"));
    let why = row("finer", Value::Null)["unsupported"].as_str().unwrap().to_owned();
    assert!(why.contains("scheme finer for q"), "{why}");
    // Products come after the whole, the worst first.
    let fast: Vec<_> = rows.iter().filter(|row| row["mode"] == "fast").collect();
    assert_eq!((fast.len(), &fast[0]["product"]), (1 + 6, &Value::Null));
    let worst = |row: &Value| kl(row, "prefill").max(kl(row, "decode"));
    assert!(fast[1..].windows(2).all(|pair| worst(pair[0]) >= worst(pair[1])), "{result}");

    let table = eval(&["--rounding=auto"]).ok();
    let lines: Vec<_> = table.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("decode: KL mean"), "{table}");
    let wrong = eval(&["--rounding=rough"]).run();
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    let expected = "expected a mode (float, bf16, int8, auto, fast) or a scheme";
    assert!(wrong.stderr.contains(expected), "{wrong:?}");
    // Weights that are made anew are compared with what they were, in either phase.
    let anew = |args: &[&str]| {
        let result = eval(&[&["--rounding=float,int8", "--weights", "int8"], args].concat()).json();
        let of = |row: usize, phase: &str| kl(&result["rounding"][row], phase);
        [of(0, "prefill"), of(0, "decode"), of(1, "prefill"), of(1, "decode")]
    };
    let (plain, rotated) = (anew(&[]), anew(&["--rotate"]));
    assert!(plain[0] > 0.0 && (plain[0] - plain[1]).abs() < 1e-6, "{plain:?}");
    assert!(plain[2] > plain[0] && plain[3] > plain[1], "{plain:?}");
    assert!(rotated[2] < plain[2] && rotated[3] < plain[3], "{rotated:?} {plain:?}");
    let wrong = eval(&["--rounding", "--weights", "iq2_s"]).fails(1);
    assert!(wrong.contains("iq2_s"), "{wrong}");
}
