//! `keeve render` and `--chat-template`: the prompt that a conversation becomes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use common::{Model, keeve};
use serde_json::{Value, json};

const QUESTION: &str = "Say <|im_end|> hello.";

fn messages() -> String {
    json!([{ "role": "user", "content": QUESTION }]).to_string()
}

fn render(model: &Model, more: &[&str]) -> Value {
    let args = ["render", model.path(), "--messages", "-"];
    keeve(args.iter().chain(more)).stdin(&messages()).json()
}

#[test]
fn prompts_are_those_of_run_and_need_no_weights() {
    let whole = Model::demo();
    let ran = keeve(["run", whole.path(), "--prompt", QUESTION, "-n", "1"]).json();
    for model in [Model::demo(), Model::demo().remove("model.safetensors").remove("config.json")] {
        let rendered = render(&model, &[]);
        assert_eq!(rendered["ids"], ran["prompt_ids"]);
        let text = format!("<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n");
        assert_eq!(rendered["text"], text);
        // The template's three special tokens, and not the one that the question spells.
        let special = rendered["special"].as_array().unwrap();
        assert_eq!((special.len(), &special[0]), (3, &json!(0)), "{rendered}");
        let shorter = render(&model, &["--no-generation-prompt"]);
        assert_eq!(shorter["special"].as_array().unwrap().len(), 2);
    }
    let plain = keeve(["render", whole.path(), "--messages", "-"]).stdin(&messages()).ok();
    assert!(plain.starts_with("<|im_start|>user\n"), "{plain}");
}

#[test]
fn templates_can_be_given_and_named_ones_asked_for() {
    let source = "{{ word }}|{% for t in tools or [] %}{{ t.function.name }}{% endfor %}|{{ messages[0].content }}";
    let model = Model::demo()
        .remove("chat_template.jinja")
        .write("other.jinja", source)
        .write("tools.json", r#"[{"type": "function", "function": {"name": "f"}}]"#)
        .json("tokenizer_config.json", |config| {
            config["chat_template"] = json!([
                { "name": "default", "template": "D" }, { "name": "short", "template": "S" }]);
        });
    let (other, tools) = (model.file("other.jinja"), model.file("tools.json"));
    let (other, tools) = (other.to_str().unwrap(), tools.to_str().unwrap());
    assert_eq!(render(&model, &[])["text"], "D");
    assert_eq!(render(&model, &["--chat-template", "short"])["text"], "S");
    let all =
        ["--chat-template", other, "--tools", tools, "--chat-template-args", r#"{"word": "w"}"#];
    assert_eq!(render(&model, &all)["text"], format!("w|f|{QUESTION}"));
    let ran = ["run", model.path(), "--prompt", "x", "-n", "1", "--chat-template", "short"];
    assert_eq!(keeve(ran).json()["prompt_ids"].as_array().unwrap().len(), 1);
    let asked = ["render", model.path(), "--messages", "-", "--chat-template", "none"];
    let message = keeve(asked).stdin(&messages()).fails(1);
    assert!(message.contains("it has default, short"), "{message}");
}

#[test]
fn what_is_wrong_is_named() {
    let model = Model::demo().write("bad.json", "{").write("number.json", "3");
    let without =
        Model::demo().remove("chat_template.jinja").json("tokenizer_config.json", |config| {
            config["chat_template"] = Value::Null;
        });
    let fails = |model: &Model, file: &str| {
        let file = model.file(file);
        keeve(["render", model.path(), "--messages", file.to_str().unwrap()]).fails(1)
    };
    assert!(fails(&model, "absent.json").contains("--messages"));
    assert!(fails(&model, "bad.json").contains("not valid JSON"));
    assert!(fails(&model, "number.json").contains("expected a list of messages"));
    let message = keeve(["render", without.path(), "--messages", "-"]).stdin(&messages()).fails(1);
    assert!(message.contains("--chat-template"), "{message}");
}
