//! Every command of the command line, on the demo model.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;
use std::io::Read;

use common::{Model, keeve};
use keeve::Isa;
use safetensors::SafeTensors;
use serde_json::{Value, json};

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

/// `run` with these arguments, few tokens unless they say otherwise, as JSON.
fn run(args: &[&str]) -> Value {
    keeve(["run"]).args(args).json()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn joined(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn run_streams_text_and_says_on_standard_error_how_long_it_took() {
    let ran = keeve(["run", QUESTION]).run();
    assert_eq!((ran.code, &*ran.stdout), (Some(0), &*format!("{ANSWER}\n")));
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    for part in ["load ", " tok/s, decode ", "peak memory "] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
    let ran = keeve(["run", "--quiet", QUESTION]).run();
    assert_eq!((&*ran.stdout, &*ran.stderr), (&*format!("{ANSWER}\n"), ""));
}

#[test]
fn run_with_json_gives_ids_text_reason_and_timings() {
    let result = run(&[QUESTION]);
    let fields: Vec<_> = result.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["prompt_ids", "tokens", "text", "finish_reason", "timings"]);
    assert_eq!((&result["text"], &result["finish_reason"]), (&json!(ANSWER), &json!("stop")));
    let (prompt, tokens) = (ids(&result["prompt_ids"]), ids(&result["tokens"]));
    let end = 8168;
    assert!(!tokens.contains(&end));
    let timings = &result["timings"];
    assert_eq!(timings["prompt_tokens"], prompt.len());
    // The stop token is generated, though not part of the answer.
    assert_eq!(timings["decode_tokens"], tokens.len() + 1);
    for field in ["load_s", "prompt_s", "prompt_tok_s", "decode_s", "decode_tok_s"] {
        assert!(timings[field].as_f64().unwrap() > 0.0, "{field}");
    }
    // The same ids as a prompt, and without the end token taking effect.
    let same = run(&["--prompt-ids", &joined(&prompt)]);
    assert_eq!((&same["prompt_ids"], &same["tokens"]), (&result["prompt_ids"], &result["tokens"]));
    let on = run(&[QUESTION, "--ignore-eos", "-n", "20"]);
    assert_eq!((&on["finish_reason"], ids(&on["tokens"]).len()), (&json!("length"), 20));
    assert_eq!(ids(&on["tokens"])[..tokens.len() + 1], [&tokens[..], &[end]].concat());
}

#[test]
fn the_prompt_comes_from_an_argument_a_flag_ids_or_standard_input() {
    let model = Model::demo();
    let asked = |command: common::TestCommand| command.arg("--max-tokens").arg("3").json();
    let expected = asked(keeve(["run", QUESTION]));
    let prompt = joined(&ids(&expected["prompt_ids"]));
    let commands = [
        keeve(["run", "--prompt", QUESTION]),
        keeve(["run", "-"]).stdin(QUESTION),
        keeve(["run", "-"]).stdin(&format!("{QUESTION}\n")),
        keeve(["run", "--prompt-ids", &prompt]),
        keeve(["run", "--prompt-ids", &prompt.replace(',', ", ")]),
        keeve(["run", model.path(), QUESTION]),
        keeve(["run", model.path(), "--prompt", QUESTION]),
        keeve(["run", model.path(), "--prompt-ids", &prompt]),
        keeve(["run", model.path(), "-"]).stdin(QUESTION),
    ];
    for (index, command) in commands.into_iter().enumerate() {
        let result = asked(command);
        assert_eq!(result["prompt_ids"], expected["prompt_ids"], "{index}");
        assert_eq!(result["tokens"], expected["tokens"], "{index}");
    }
    let dashed = keeve(["run", "-n", "1", "--", "--stop"]).run();
    assert_eq!(dashed.code, Some(0), "{dashed:?}");
    // One argument is the prompt even if it names a model; that is pointed out.
    let ran = keeve(["run", model.path(), "-n", "1"]).run();
    assert_eq!(ran.code, Some(0));
    assert!(ran.stderr.contains("is the prompt here"), "{}", ran.stderr);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let model = Model::demo();
    let cases: &[&[&str]] = &[
        &["run"],
        &["run", model.path(), "x", "y"],
        &["run", model.path(), "x", "--prompt", "y"],
        &["run", "x", "--prompt", "y", "--prompt-ids", "1"],
        &["run", "--prompt-ids", "1,x"],
        &["run", "--prompt-ids", "-1"],
        &["run", "--prompt-ids", ""],
        &["run", "x", "--bogus"],
        &["run", "x", "--max-tokens", "-1"],
        &["run", "x", "--max-tokens", "many"],
        &["run", "x", "--threads", "0"],
        &["run", "x", "--threads", "99999"],
        &["run", "x", "--prefill-chunk", "0"],
        &["run", "x", "--max-context", "0"],
        &["run", "x", "--activations", "int3"],
        &["run", "x", "--temp", "3"],
        &["run", "x", "--temp", "nan"],
        &["run", "x", "--top-p", "0"],
        &["run", "x", "--min-p", "2"],
        &["run", "x", "--repetition-penalty", "0"],
        &["run", "x", "--presence-penalty", "9"],
        &["run", "x", "--stop", ""],
        &["run", "x", "--system", "y", "--no-chat-template"],
        &["run", "--prompt-ids", "1", "--system", "y"],
        &["run", "x", "--chat-template-args", "[1]"],
        &["run", "x", "--chat-template-args", "{"],
        &["logits", "--prompt-ids", "1"],
        &["logits", "--out", "x"],
        &["tensor"],
        &["tensor", "a", "b", "c"],
        &["tokenize", model.path(), "x", "--text", "y"],
        &["completions", "nutshell"],
        &["frobnicate"],
        &[],
    ];
    for case in cases {
        let ran = keeve(*case).run();
        assert_eq!((ran.code, &*ran.stdout), (Some(2), ""), "{case:?}: {ran:?}");
        let ran = keeve(*case).arg("--json").run();
        assert_eq!(ran.code, Some(2), "{case:?}: {ran:?}");
        let message = ran.json()["error"].as_str().unwrap().to_owned();
        assert_eq!(ran.stderr, format!("error: {message}\n"), "{case:?}");
        assert!(!message.is_empty() && !message.contains(char::is_control), "{message}");
    }
}

#[test]
fn answers_end_where_they_are_told_to() {
    let result = run(&[QUESTION, "--stop", " Par", "--stop", "nowhere"]);
    assert_eq!(result["text"], "The capital of France is");
    assert_eq!(result["finish_reason"], "stop");
    let streamed = keeve(["run", QUESTION, "--stop", "France is"]).ok();
    assert_eq!(streamed, "The capital of \n");
    for count in [0, 1, 3] {
        let result = run(&[QUESTION, "--max-tokens", &count.to_string()]);
        assert_eq!(ids(&result["tokens"]).len(), count);
        assert_eq!(result["finish_reason"], "length");
    }
    assert_eq!(run(&[QUESTION, "--max-tokens", "0"])["text"], "");
}

#[test]
fn random_answers_repeat_with_their_seed() {
    let sampled = |seed: &str| {
        run(&["--prompt-ids", "1,2,3", "--temp", "1.5", "--seed", seed, "-n", "12"])["tokens"]
            .clone()
    };
    let first = sampled("1");
    assert_eq!(sampled("1"), first);
    assert!(["2", "3", "4"].iter().any(|seed| sampled(seed) != first));
    // Only the likeliest token is left to choose from.
    let greedy = run(&[QUESTION])["tokens"].clone();
    for flags in [["--top-k", "1"], ["--top-p", "0.000001"], ["--min-p", "1"]] {
        let result = run(&[&[QUESTION, "--temp", "2"], &flags[..]].concat());
        assert_eq!(result["tokens"], greedy, "{flags:?}");
    }
    let said = |flags: &[&str]| {
        let flags = [&["--no-chat-template", "The movement was", "-n", "30"], flags].concat();
        ids(&run(&flags)["tokens"])
    };
    let plain = said(&[]);
    for flags in
        [["--repetition-penalty", "10"], ["--presence-penalty", "2"], ["--frequency-penalty", "2"]]
    {
        assert_ne!(said(&flags), plain, "{flags:?}");
    }
    assert_eq!(said(&["--frequency-penalty=-0", "--presence-penalty", "-0.0"]), plain);
}

#[test]
fn how_the_work_is_cut_does_not_change_the_answer() {
    let prompt = "Tell me about the history of rivers and the towns beside them.";
    let expected = run(&[prompt, "-n", "24"]);
    let variants: &[&[&str]] = &[
        &["--threads", "1"],
        &["--threads", "3"],
        &["--prefill-chunk", "1"],
        &["--prefill-chunk", "7"],
        &["--no-prefix-cache"],
        &["--activations", "auto"],
        &["--max-context", "128"],
    ];
    for flags in variants {
        let result = run(&[&[prompt, "-n", "24"], *flags].concat());
        assert_eq!(result["tokens"], expected["tokens"], "{flags:?}");
    }
    for mode in ["float", "bf16", "int8"] {
        assert_eq!(run(&[QUESTION, "--activations", mode])["text"], ANSWER, "{mode}");
    }
    for codec in ["int8", "int8-g64", "int4-g64", "q8_0"] {
        let ran = keeve(["run", QUESTION, "--weights", codec]).run();
        let note = format!("matrices were encoded anew as {codec}");
        assert!(ran.stderr.contains(&note), "{codec}: {}", ran.stderr);
        let result = run(&[QUESTION, "--weights", codec, "--activations", "int8"]);
        let notes = result["notes"].as_array().unwrap();
        let said = |found: &Value| found.as_str().unwrap().contains(&note);
        assert!(notes.iter().any(said), "{codec}: {notes:?}");
        assert!(codec == "int4-g64" || result["text"] == ANSWER, "{codec}");
    }
    assert!(keeve(["run", "x", "--weights", "iq1_s"]).fails(1).contains("only read"));
    for isa in Isa::found() {
        let result = keeve(["run", QUESTION]).env("KEEVE_ISA", isa.name()).json();
        assert_eq!(result["text"], ANSWER, "{isa}");
        println!("ran {isa}");
    }
    let message = keeve(["run", QUESTION]).env("KEEVE_ISA", "nonsense").fails(1);
    assert!(message.contains("KEEVE_ISA=nonsense") && message.contains("scalar"), "{message}");
}

#[test]
fn the_chat_template_can_be_left_out_and_given_variables() {
    let templated = ids(&run(&[QUESTION, "-n", "0"])["prompt_ids"]);
    let plain = run(&[QUESTION, "-n", "0", "--no-chat-template"]);
    let tokenized = keeve(["tokenize", "--text", QUESTION]).json();
    assert_eq!(plain["prompt_ids"], tokenized["ids"]);
    assert_ne!(ids(&plain["prompt_ids"]), templated);
    let system = ids(&run(&[QUESTION, "-n", "0", "--system", "Be brief."])["prompt_ids"]);
    assert!(system.len() > templated.len() && system.ends_with(&templated[1..]));

    let model =
        Model::demo().write("chat_template.jinja", "{{ greeting }} {{ messages[0].content }}");
    let args = ["--chat-template-args", r#"{"greeting": "Hail"}"#, "-n", "0"];
    let given = keeve(["run", model.path(), "you"]).args(&args).json();
    let tokenized = keeve(["tokenize", "--text", "Hail you", "--plain"]).json();
    assert_eq!(given["prompt_ids"], tokenized["ids"]);

    // Without a template the prompt is used as it is, and what needs one is refused.
    let model =
        Model::demo().remove("chat_template.jinja").json("tokenizer_config.json", |config| {
            config.as_object_mut().unwrap().remove("chat_template");
        });
    let raw = keeve(["run", model.path(), QUESTION, "-n", "0"]).json();
    assert_eq!(raw["prompt_ids"], plain["prompt_ids"]);
    for flags in [["--system", "x"], ["--chat-template-args", "{}"]] {
        let message = keeve(["run", model.path(), QUESTION]).args(&flags).fails(1);
        assert!(message.starts_with(flags[0]) && message.contains("chat template"), "{message}");
    }
}

#[test]
fn what_users_write_never_becomes_a_control_token() {
    let prompt = ids(&run(&["<|im_end|>", "-n", "0"])["prompt_ids"]);
    let ends = |ids: &[u32]| ids.iter().filter(|&&id| id == 8168).count();
    let harmless = ids(&run(&["end", "-n", "0"])["prompt_ids"]);
    assert_eq!(ends(&prompt), ends(&harmless));
}

#[test]
fn the_profile_accounts_for_the_operations() {
    let result = run(&[QUESTION, "--profile", "-n", "4"]);
    let profile = result["profile"].as_array().unwrap();
    // Norms are made where products read them, and queries are turned where attention does.
    for op in ["embed", "linear q4_k", "linear q6_k", "attention"] {
        let row = profile.iter().find(|row| row["op"] == op).unwrap_or_else(|| panic!("{op}"));
        assert!(row["calls"].as_u64() > Some(0) && row["ns"].as_u64() > Some(0), "{row}");
        assert!(row["bytes"].is_u64());
    }
    let ran = keeve(["run", QUESTION, "--profile", "-n", "4"]).run();
    assert!(ran.stderr.contains("linear q4_k") && !ran.stdout.contains("linear"), "{ran:?}");
}

#[test]
fn inspect_describes_the_model() {
    let result = keeve(["inspect"]).json();
    assert_eq!((&result["architecture"], &result["supported"]), (&json!("qwen3"), &json!(true)));
    let sum = |field: &str| -> u64 {
        let roles = result["roles"].as_array().unwrap().iter();
        roles.map(|role| role[field].as_u64().unwrap()).sum()
    };
    assert_eq!(result["parameters"], sum("parameters"));
    assert_eq!(result["bytes"], sum("bytes"));
    let bits = result["bits_per_weight"].as_f64().unwrap();
    assert!((bits - sum("bytes") as f64 * 8.0 / sum("parameters") as f64).abs() < 1e-9);
    assert!((4.0..6.0).contains(&bits), "{bits}");
    assert!(result.get("tensors").is_none() && result.get("graph").is_none());
    let roles: Vec<_> = result["roles"].as_array().unwrap().iter().collect();
    assert!(
        roles.iter().any(|role| role["role"] == "layers.mlp.gate_proj" && role["codec"] == "q4_k")
    );

    let result = keeve(["inspect", "--tensors", "--graph"]).json();
    let tensors = result["tensors"].as_array().unwrap();
    let total: u64 = tensors.iter().map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
    assert_eq!(result["bytes"], total);
    let embedding = tensors.iter().find(|t| t["name"] == "model.embed_tokens.weight").unwrap();
    assert_eq!(embedding["shape"], json!([8192, 512]));
    let graph = result["graph"].as_str().unwrap();
    assert_eq!(graph.matches(" = attention ").count(), 10);
    assert!(graph.contains("model.layers.9.mlp.down_proj.weight[512, 1536]"));

    let model = Model::demo();
    let text = keeve(["inspect", model.path(), "--tensors", "--graph"]).ok();
    for part in
        ["architecture     qwen3", "bits per weight", "q6_k", "model.norm.weight", " = rope "]
    {
        assert!(text.contains(part), "{part}");
    }
    // A model that cannot be run can still be looked at, except for its graph.
    let model = model.config("model_type", "sphinx\u{1b}[2J");
    let text = keeve(["inspect", model.path()]).ok();
    assert!(text.contains("not runnable: ") && text.contains("sphinx"), "{text}");
    assert!(!text.contains('\u{1b}'));
    let result = keeve(["inspect", model.path()]).json();
    assert_eq!(result["supported"], false);
    assert!(result["problem"].as_str().unwrap().contains("model_type"));
    let message = keeve(["inspect", model.path(), "--graph", "--quiet"]).arg("--json").run();
    assert_eq!(message.code, Some(1));
    assert!(message.json()["error"].as_str().unwrap().contains("model_type"));
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn logits_are_written_for_every_position_and_agree_with_run() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("logits.safetensors");
    let prompt = ids(&run(&[QUESTION, "-n", "0"])["prompt_ids"]);
    let float = ["--activations", "float"];
    let args = ["logits", "--prompt-ids", &joined(&prompt)];
    let result = keeve(args).args(&float).arg("--out").arg(&out).json();
    assert_eq!(result, json!({ "out": out, "shape": [prompt.len(), 8192] }));
    let bytes = fs::read(&out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.names(), ["logits"]);
    let view = file.tensor("logits").unwrap();
    assert_eq!((view.dtype(), view.shape()), (safetensors::Dtype::F32, &[prompt.len(), 8192][..]));
    let logits = f32s(view.data());
    let last = &logits[(prompt.len() - 1) * 8192..];
    let best = (0..8192).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
    let one = run(&[QUESTION, "-n", "1", float[0], float[1]]);
    assert_eq!(ids(&one["tokens"]), [best as u32]);
    // The same file for any cut of the work.
    for flags in [["--prefill-chunk", "1"], ["--prefill-chunk", "7"], ["--threads", "3"]] {
        let other = folder.path().join("other.safetensors");
        let text = keeve(args).args(&float).args(&flags).arg("--out").arg(&other).ok();
        assert!(text.contains("8192"), "{text}");
        assert!(fs::read(&other).unwrap() == bytes, "{flags:?}");
    }
}

#[test]
fn tensors_are_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = keeve::demo_model().unwrap();
    let names =
        ["model.norm.weight", "model.layers.0.mlp.gate_proj.weight", "model.embed_tokens.weight"];
    for (name, codec) in names.into_iter().zip(["bf16", "q4_k", "q6_k"]) {
        let out = folder.path().join("tensor.safetensors");
        let result = keeve(["tensor", name, "--out"]).arg(&out).json();
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!(result["codec"], tensor.codec().name());
        if name != "model.norm.weight" {
            assert_eq!(result["codec"], codec);
        }
        let bytes = fs::read(&out).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor("value").unwrap();
        assert_eq!(result["shape"], json!(view.shape()));
        assert!(f32s(view.data()) == keeve::codec::decode(&tensor), "{name}");
    }
    let text = keeve(["tensor", names[1]]).ok();
    assert!(text.contains("q4_k") && text.contains("[1536, 512]"), "{text}");
    let model = Model::demo();
    assert_eq!(keeve(["tensor", model.path(), names[1]]).ok(), text);
}

#[test]
fn text_becomes_token_ids() {
    let model = Model::demo();
    let text = "Hello, wörld 🦀";
    let result = keeve(["tokenize", model.path(), text]).json();
    let pieces: String =
        result["pieces"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert!(pieces.starts_with("Hello, wörld"), "{pieces}");
    assert_eq!(ids(&result["ids"]).len(), result["pieces"].as_array().unwrap().len());
    let others = [
        keeve(["tokenize", "--text", text]),
        keeve(["tokenize", model.path()]).stdin(text),
        keeve(["tokenize"]).stdin(text),
        keeve(["tokenize", model.path(), "-"]).stdin(text),
        keeve(["tokenize", model.path(), text, "--no-special", "--plain"]),
    ];
    for command in others {
        assert_eq!(command.json(), result);
    }
    let special = |flags: &[&str]| {
        ids(&keeve(["tokenize", "--text", "<|im_end|>"]).args(flags).json()["ids"])
    };
    assert!(special(&["--plain"]).len() > 1);
    let lines = keeve(["tokenize", "--text", text]).ok();
    assert_eq!(lines.lines().count(), ids(&result["ids"]).len());
    assert_eq!(keeve(["tokenize", "--text", ""]).json(), json!({ "ids": [], "pieces": [] }));
}

#[test]
fn completions_come_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = keeve(["completions", shell]).ok();
        assert!(script.contains("keeve") && script.contains("prefill-chunk"), "{shell}");
        let result = keeve(["completions", shell]).json();
        assert_eq!(result, json!({ "shell": shell, "script": script }));
    }
}

#[test]
fn help_and_version_answer() {
    let tiers: Vec<_> = Isa::found().map(Isa::name).collect();
    let text = keeve(["--version"]).ok();
    assert!(text.starts_with("keeve ") && text.contains(&tiers.join(", ")), "{text}");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(keeve(["--version"]).json(), json!({ "version": version, "isa": tiers }));
    for command in ["run", "inspect", "logits", "tensor", "tokenize", "completions"] {
        assert!(keeve(["--help"]).ok().contains(command));
        let help = keeve([command, "--help"]).ok();
        assert!(help.contains("Usage: "), "{help}");
        assert_eq!(keeve([command, "--help"]).json()["help"], help.trim_end());
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child = keeve(["run", "--ignore-eos", "-n", "200", "Tell me about rivers."]).spawn();
    let mut start = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    let ran = child.wait_with_output().unwrap();
    assert_eq!(ran.status.code(), Some(0));
    let stderr = String::from_utf8(ran.stderr).unwrap();
    assert!(!stderr.contains("panicked") && !stderr.contains("error"), "{stderr}");
}

#[cfg(unix)]
mod signals {
    use std::io::{Read, Write};
    use std::process::Command;

    use super::*;

    fn interrupt(child: &std::process::Child) {
        let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    #[test]
    fn ctrl_c_ends_an_answer_and_keeps_what_came() {
        let mut child =
            keeve(["run", "--ignore-eos", "-n", "1900", "Tell me about rivers."]).spawn();
        let mut stdout = child.stdout.take().unwrap();
        let mut start = [0; 10];
        stdout.read_exact(&mut start).unwrap();
        interrupt(&child);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        let ran = child.wait_with_output().unwrap();
        assert_eq!(ran.status.code(), Some(130));
        assert!(rest.ends_with('\n'), "{rest:?}");
        let stderr = String::from_utf8(ran.stderr).unwrap();
        assert!(stderr.contains("tok/s") && !stderr.contains("error"), "{stderr}");
    }

    #[test]
    fn ctrl_c_gives_json_of_what_came() {
        // The prompt names a folder, which is noted on standard error once the request runs.
        let mut child = keeve(["run", "--json", "--ignore-eos", "-n", "1900", "."]).spawn();
        let mut note = [0; 5];
        child.stderr.as_mut().unwrap().read_exact(&mut note).unwrap();
        assert_eq!(&note, b"note:");
        interrupt(&child);
        let ran = child.wait_with_output().unwrap();
        assert_eq!(ran.status.code(), Some(130));
        let result: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(result["finish_reason"], "cancelled");
        assert!(ids(&result["tokens"]).len() < 1900);
    }

    #[test]
    fn ctrl_c_ends_waiting_for_standard_input() {
        let mut child = keeve(["run", "-"]).spawn();
        // Held, so that nothing but the signal ends the waiting.
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"What").unwrap();
        interrupt(&child);
        assert!(!child.wait().unwrap().success());
    }
}
