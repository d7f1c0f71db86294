//! Notations found by what templates write. The templates are written for these tests, in the notation
//! of the template that is named; those themselves are read where a folder has them.

use std::collections::BTreeMap;

use keeve_engine::ChatTemplate;

use super::stream_tests::bytes_and;
use super::*;

const ROLES: &str = "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content %}OPEN{{ m.reasoning_content }}CLOSE{% endif %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}{% set f = c.function %}CALL{% endfor %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

fn probed(source: &str) -> Probed {
    let template = ChatTemplate::new(source, &BTreeMap::new(), &[]).unwrap();
    probe(Some(&template), source, None)
}

fn of_calls(call: &str) -> Probed {
    probed(&ROLES.replace("CALL", call).replace("OPEN", "<think>").replace("CLOSE", "</think>"))
}

#[test]
fn notations_are_found_by_what_a_template_writes() {
    let pairs = "{% for k, v in f.arguments | items %}PAIR{% endfor %}";
    let each = |pair: &str| pairs.replace("PAIR", pair);
    for (notation, call) in [
        ("hermes", "<tool_call>\n{\"name\": \"{{ f.name }}\", \"arguments\": {{ f.arguments | tojson }}}\n</tool_call>".to_owned()),
        ("qwen-coder", format!("<tool_call>\n<function={{{{ f.name }}}}>\n{}</function>\n</tool_call>", each("<parameter={{ k }}>\n{{ v }}\n</parameter>\n"))),
        ("glm", format!("<tool_call>{{{{ f.name }}}}\n{}</tool_call>", each("<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>\n"))),
        ("minimax-m2", format!("<minimax:tool_call>\n<invoke name=\"{{{{ f.name }}}}\">\n{}</invoke>\n</minimax:tool_call>", each("<parameter name=\"{{ k }}\">{{ v }}</parameter>\n"))),
        ("llama-3", "{\"name\": \"{{ f.name }}\", \"parameters\": {{ f.arguments | tojson }}}".to_owned()),
        ("mistral-v3", "[TOOL_CALLS][{{ f | tojson }}]".to_owned()),
        ("mistral-v11", "[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}".to_owned()),
        ("kimi-k2", "<|tool_calls_section_begin|><|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>{{ f.arguments | tojson }}<|tool_call_end|><|tool_calls_section_end|>".to_owned()),
        ("deepseek-v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ f.name }}\n```json\n{{ f.arguments | tojson }}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>".to_owned()),
        ("deepseek-v3.1", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ f.name }}<｜tool▁sep｜>{{ f.arguments | tojson }}<｜tool▁call▁end｜><｜tool▁calls▁end｜>".to_owned()),
        ("minimax-m3", format!("@<tool_call>\n@<invoke name=\"{{{{ f.name }}}}\">{}@</invoke>\n@</tool_call>", each("@<{{ k }}>{{ v }}@</{{ k }}>")).replace('@', "]<]minimax[>[")),
        ("lfm2", format!("<|tool_call_start|>[{{{{ f.name }}}}({})]<|tool_call_end|>", each("{{ k }}={{ v | tojson }}{% if not loop.last %}, {% endif %}"))),
        ("gemma-4", format!("<|tool_call>call:{{{{ f.name }}}}{{{{ '{{' }}}}{}{{{{ '}}' }}}}<tool_call|>", each("{{ k }}:{% if v is string %}<|\"|>{{ v }}<|\"|>{% else %}{{ v }}{% endif %}{% if not loop.last %},{% endif %}"))),
    ] {
        let found = of_calls(&call);
        assert_eq!((found.style.notation().name, found.calls), (notation, true), "{call}");
        assert!(found.tools && !found.style.in_channels());
        let ids = if notation == "kimi-k2" { CallIds::Qualified } else { CallIds::Any };
        assert_eq!(found.ids, ids, "{call}");
        assert_eq!(found.style.reasoning.open, "<think>");
    }
    let found = of_calls(
        " to=functions.{{ f.name }}<|channel|>commentary json<|message|>{{ f.arguments | tojson }}<|call|>",
    );
    assert!(found.style.in_channels() && found.calls);
}

#[test]
fn identifiers_of_nine_characters_are_found_out() {
    // llama.cpp `mistralai-Mistral-Nemo-Instruct-2407.jinja` refuses others.
    let call = "{% if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}[TOOL_CALLS][{\"name\": \"{{ f.name }}\", \"arguments\": {{ f.arguments | tojson }}, \"id\": \"{{ c.id }}\"}]";
    let found = of_calls(call);
    assert_eq!((found.style.notation().name, found.ids), ("mistral-v3", CallIds::Nine));
}

#[test]
fn marks_of_reasoning_are_found_by_what_a_template_writes() {
    for (open, close) in [
        ("<think>\n", "\n</think>\n\n"),
        ("[THINK]", "[/THINK]"),
        ("<seed:think>", "</seed:think>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("◁think▷", "◁/think▷"),
        ("<|channel>thought\n", "\n<channel|>"),
        ("<think:opensource>", "</think:opensource>"),
    ] {
        let found =
            probed(&ROLES.replace("CALL", "").replace("OPEN", open).replace("CLOSE", close));
        let (open, close, end) = (open.trim().into(), close.trim().into(), String::new());
        let expected = Reasoning { open, close, end, rendered: true };
        assert_eq!(found.style.reasoning, expected);
    }
    // Words in the prompt begin it, a mark ends it (llama.cpp `Apriel-1.6-15b-Thinker-fixed.jinja`).
    let begun = ROLES.replace("CALL", "").replace("OPEN", "").replace("CLOSE", "\n[BEGIN FINAL]\n");
    let found = probed(&begun.replace("<|assistant|>{% endif", "<|assistant|>I think:\n{% endif"));
    let Reasoning { open, close, rendered, .. } = found.style.reasoning;
    assert_eq!((&*open, &*close, rendered), ("I think:", "[BEGIN FINAL]", true));
    // The model is told (llama.cpp `unsloth-Apriel-1.5.jinja`).
    let told = format!("Answer as [BEGIN FINAL RESPONSE] ... .{}", ROLES.replace("CALL", ""));
    let found = probed(&told.replace("OPEN", "").replace("CLOSE", ""));
    assert_eq!(found.style.reasoning.close, "[BEGIN FINAL RESPONSE]");
    // Nothing that belongs together stands around it.
    let found = probed(&ROLES.replace("CALL", "").replace("OPEN", "").replace("CLOSE", "[DONE]"));
    assert_eq!(found.style.reasoning, Reasoning::default());
}

#[test]
fn templates_that_write_no_calls_tell_in_other_ways() {
    // What the model is told; llama.cpp `HuggingFaceTB-SmolLM3-3B.jinja` does so.
    let found = probed(
        "{% if tools %}Write <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>.{% endif %}{{ messages[0].content }}",
    );
    assert_eq!(
        (found.style.notation().name, found.calls, found.tools),
        ("qwen-coder", false, true)
    );
    // A token of the vocabulary: microsoft/Phi-4-mini-instruct, ibm-granite/granite-3.3-2b-instruct.
    let source = "{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}";
    let template = ChatTemplate::new(source, &BTreeMap::new(), &[]).unwrap();
    for (tokens, notation) in [
        (&["<|tool_call|>", "<|/tool_call|>"][..], "phi4-mini"),
        (&["<|tool_call|>"], "granite-3"),
        (&["<tool_call>", "</tool_call>"], "hermes"),
        (&[], "hermes"),
    ] {
        let found = probe(Some(&template), source, Some(&bytes_and(tokens)));
        assert_eq!(found.style.notation().name, notation, "{tokens:?}");
    }
    // The source, at last.
    let found = probed(&format!("{source}{{# <|tool_call|> #}}"));
    assert_eq!(found.style.notation().name, "granite-3");
    // Nothing about tools: the model is told in this notation.
    let found = probed("{{ messages[0].content }}");
    assert_eq!((found.style.notation().name, found.tools), ("hermes", false));
    assert!(!probe(None, "", None).tools);
}

/// The notation of each template in ggml-org/llama.cpp `models/templates`, whose folder is named in
/// `KEEVE_CHAT_TEMPLATES`.
#[test]
#[ignore = "reads the folder in KEEVE_CHAT_TEMPLATES"]
fn notations_of_public_templates() {
    let folder = std::env::var("KEEVE_CHAT_TEMPLATES").unwrap();
    let mut wrong = vec![];
    let mut count = 0;
    for (file, notation, open) in [
        ("Apertus-8B-Instruct", "apertus", "<think>"),
        ("Apriel-1.6-15b-Thinker-fixed", "apriel", "Here are my reasoning steps:"),
        ("Bielik-11B-v3.0-Instruct", "hermes", "<think>"),
        ("ByteDance-Seed-OSS", "seed", "<seed:think>"),
        ("Cohere2MoE", "command-r7b", "<|START_THINKING|>"),
        ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "command-r7b", "<|START_THINKING|>"),
        ("CohereForAI-c4ai-command-r-plus-tool_use", "command-r", "<think>"),
        ("GLM-4.6", "glm", "<think>"),
        ("GLM-4.7-Flash", "glm", "<think>"),
        ("GigaChat3-10B-A1.8B", "gigachat-3", "<think>"),
        ("GigaChat3.1-10B-A1.8B", "gigachat-3.1", "<think>"),
        ("HuggingFaceTB-SmolLM3-3B", "hermes", "<think>"),
        ("Kimi-K2-Instruct", "kimi-k2", "<think>"),
        ("Kimi-K2-Thinking", "kimi-k2", "<think>"),
        ("Kimi-K3", "kimi-k3", "<think>"),
        ("LFM2-8B-A1B", "hermes", "<think>"),
        ("LFM2.5-8B-A1B", "lfm2", "<think>"),
        ("MiMo-VL", "hermes", "<think>"),
        ("MiniMax-M1", "minimax-m1", "<think>"),
        ("MiniMax-M2", "minimax-m2", "<think>"),
        ("MiniMax-M3", "minimax-m3", "<mm:think>"),
        ("Mistral-Small-3.2-24B-Instruct-2506", "mistral-v11", "<think>"),
        ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "qwen-coder", "<think>"),
        ("NVIDIA-Nemotron-Nano-v2", "nemotron-v2", "<think>"),
        ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes", "<think>"),
        ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes", "<think>"),
        ("Qwen-QwQ-32B", "hermes", "<think>"),
        ("Qwen-Qwen2.5-7B-Instruct", "hermes", "<think>"),
        ("Qwen-Qwen3-0.6B", "hermes", "<think>"),
        ("Qwen3-Coder", "qwen-coder", "<think>"),
        ("Qwen3.5-4B", "qwen-coder", "<think>"),
        ("Reka-Edge", "hermes", "<think>"),
        ("Spark2.5", "glm", "<think>"),
        ("StepFun3.5-Flash", "qwen-coder", "<think>"),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek-v3", "<think>"),
        ("deepseek-ai-DeepSeek-V3.1", "deepseek-v3.1", "<think>"),
        ("deepseek-ai-DeepSeek-V3.2", "deepseek-v3.2", "<think>"),
        ("deepseek-ai-DeepSeek-V4", "deepseek-v4", "<think>"),
        ("google-gemma-4-31B-it", "gemma-4", "<|channel>thought"),
        ("google-gemma-4-31B-it-interleaved", "gemma-4", "<|channel>thought"),
        ("ibm-granite-granite-3.3-2B-Instruct", "granite-3", "<think>"),
        ("ibm-granite-granite-4.0", "hermes", "<think>"),
        ("ibm-granite-granite-4.1", "hermes", "<think>"),
        ("inclusionai-ling-3.0-flash", "glm", "<think>"),
        ("meetkai-functionary-medium-v3.1", "functionary-v3.1", "<think>"),
        ("meta-llama-Llama-3.1-8B-Instruct", "llama-3", "<think>"),
        ("meta-llama-Llama-3.2-3B-Instruct", "llama-3", "<think>"),
        ("meta-llama-Llama-3.3-70B-Instruct", "llama-3", "<think>"),
        ("mistralai-Ministral-3-14B-Reasoning-2512", "mistral-v11", "[THINK]"),
        ("mistralai-Mistral-Nemo-Instruct-2407", "mistral-v3", "<think>"),
        ("moonshotai-Kimi-K2", "kimi-k2", "<think>"),
        ("openai-gpt-oss-120b", "harmony", "<think>"),
        ("openbmb-MiniCPM5-1B", "minicpm5", "<think>"),
        ("poolside-Laguna-S-2.1", "glm", "<think>"),
        ("poolside-Laguna-XS-2.1", "glm", "<think>"),
        ("tencent-Hy3", "hunyuan", "<think:opensource>"),
        ("unsloth-Apriel-1.5", "apriel", "Here are my reasoning steps:"),
        ("unsloth-mistral-Devstral-Small-2507", "mistral-v11", "<think>"),
        ("upstage-Solar-Open-100B", "solar", "<think>"),
    ] {
        let Ok(source) = std::fs::read_to_string(format!("{folder}/{file}.jinja")) else {
            continue;
        };
        count += 1;
        let named = [("bos_token", "<BOS>"), ("eos_token", "<EOS>")];
        let named = named.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let (found, calls, marks) = match ChatTemplate::new(&source, &named, &[]) {
            Ok(template) => {
                let found = probe(Some(&template), &source, None);
                let channels = found.style.in_channels();
                let name = if channels { "harmony" } else { found.style.notation().name };
                (name, found.calls, found.style.reasoning.open)
            }
            Err(error) => {
                wrong.push(format!("{file}: {error}"));
                continue;
            }
        };
        if (found, marks.as_str()) != (notation, open) {
            wrong.push(format!(
                "{file}: {found} {marks} calls {calls} (expected {notation} {open})"
            ));
        }
    }
    assert!(count > 0, "no templates in {folder}");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

/// What finding all this out costs at load, by template, in milliseconds: of the fastest of three times.
#[test]
#[ignore = "reads the folder in KEEVE_CHAT_TEMPLATES, and prints times"]
fn cost_of_public_templates() {
    let folder = std::env::var("KEEVE_CHAT_TEMPLATES").unwrap();
    let mut rows = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Ok(source) = std::fs::read_to_string(&path) else { continue };
        let times = (0..3).filter_map(|_| {
            let begun = std::time::Instant::now();
            let template = ChatTemplate::new(&source, &BTreeMap::new(), &[]).ok()?;
            let forms = begun.elapsed().as_secs_f64() * 1e3;
            probe(Some(&template), &source, None);
            Some((begun.elapsed().as_secs_f64() * 1e3, forms))
        });
        let best = times.min_by(|a, b| a.0.total_cmp(&b.0));
        rows.extend(
            best.map(|best| (best, path.file_name().unwrap().to_string_lossy().into_owned())),
        );
    }
    rows.sort_by(|a, b| b.0.0.total_cmp(&a.0.0));
    for ((all, forms), name) in rows {
        println!("{all:8.1} {forms:8.1} {name}");
    }
}
