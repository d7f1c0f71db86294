//! Answers in each notation, as a cited template or a peer's parser test has them ("llama.cpp":
//! ggml-org/llama.cpp `models/templates/` and `tests/test-chat.cpp`; "vLLM": vllm-project/vllm
//! `tests/tool_parsers/`), whole, cut at every place, and in a model's tokens.

use keeve_engine::Tokenizer;
use serde_json::json;

use super::channels::MARKERS;
use super::table::NOTATIONS;
use super::tests::{however_cut, reasoning, text};
use super::*;

fn tools() -> Arc<ToolList> {
    let of = |properties| json!({ "type": "object", "properties": properties });
    let list = [
        (
            "weather",
            of(json!({
            "city": { "type": "string" }, "days": { "type": "integer" },
            "note": { "type": ["string", "null"] }, "where": { "type": "object" },
            "tags": { "type": "array" }, "wet": { "type": "boolean" } })),
        ),
        ("clock", of(json!({}))),
        ("write", of(json!({ "text": { "type": "string" } }))),
    ];
    let list = list.map(|(name, schema)| (name.to_owned(), schema.as_object().cloned()));
    Arc::new(ToolList(list.to_vec()))
}

fn calls() -> Calls {
    Calls { tools: tools(), lenient: true, single: false }
}

/// A call whose arguments are these, to the letter.
fn call(index: usize, name: &str, arguments: &str) -> Vec<Delta> {
    called(index, None, name, arguments)
}

fn called(index: usize, id: Option<&str>, name: &str, arguments: &str) -> Vec<Delta> {
    let start = Delta::ToolStart { index, id: id.map(str::to_owned), name: name.into() };
    vec![start, Delta::ToolArguments { index, text: arguments.into() }]
}

/// A style of a notation in the tokens of this tokenizer; `harmony` has channels.
fn style(name: &str, marks: (&str, &str), tokenizer: Option<&Tokenizer>) -> AnswerStyle {
    let (open, close, end) = (marks.0.into(), marks.1.into(), String::new());
    let reasoning = Reasoning { open, close, end, rendered: true };
    let notation = NOTATIONS.iter().find(|row| row.name == name).unwrap_or(HERMES);
    AnswerStyle::new(reasoning, notation, name == "harmony", tokenizer)
}

/// A tokenizer of bytes, and these as special tokens.
pub(super) fn bytes_and(special: &[&str]) -> Tokenizer {
    // The byte alphabet of GPT-2 (openai/gpt-2 `src/encoder.py`).
    let plain = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut beyond = 256;
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..256 {
        let code = if plain(byte) { byte } else { beyond };
        beyond += u32::from(!plain(byte));
        vocabulary.insert(char::from_u32(code).unwrap().to_string(), byte.into());
    }
    let added = special.iter().enumerate().map(|(number, text)| {
        json!({
        "id": 256 + number, "content": text, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true })
    });
    let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let json = json!({
        "version": "1.0", "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": level, "decoder": level,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    });
    Tokenizer::from_json(json.to_string().as_bytes(), &[]).unwrap()
}

/// The special tokens of the models whose answers these are, of those that have any.
const SPECIAL: [&str; 37] = [
    "]<]minimax[>[",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "[THINK]",
    "[/THINK]",
    "<|tool_call|>",
    "<|/tool_call|>",
    "<|START_ACTION|>",
    "<|END_ACTION|>",
    "<|START_THINKING|>",
    "<|END_THINKING|>",
    "<|tools_prefix|>",
    "<|tools_suffix|>",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_end|>",
    "<|tool_call_argument_begin|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "｜DSML｜",
    "<|tool_call_start|>",
    "<tool_call|>",
    "<|tool_call>",
    "<|\"|>",
    "<|channel>",
    "<channel|>",
    "<|python_tag|>",
    "<|python_start|>",
    "<|python_end|>",
    "◁think▷",
    "◁/think▷",
    "<|eom_id|>",
];

/// Checks an answer whole, cut everywhere, and in tokens of which the markers are special.
fn always(name: &str, marks: (&str, &str), answer: &str, expected: &[Delta]) {
    let calls = calls();
    however_cut(answer, &style(name, marks, None), false, Some(&calls), expected);
    let mut special: Vec<&str> = SPECIAL.to_vec();
    if name == "harmony" {
        special.extend(MARKERS);
    }
    let tokenizer = bytes_and(&special);
    let style = style(name, marks, Some(&tokenizer));
    let ids = tokenizer.encode(answer, false, true).unwrap();
    let mut detokenizer = tokenizer.detokenizer(true).showing(style.shown(true));
    let mut pieces: Vec<_> =
        ids.iter().map(|&id| detokenizer.push(id).unwrap().unwrap_or_default()).collect();
    pieces.extend(detokenizer.finish());
    let marked: String = pieces.concat();
    however_cut(&marked, &style, false, Some(&calls), expected);
    let deltas = super::tests::in_pieces(
        pieces.iter().map(String::as_str),
        &style,
        false,
        Some(calls.clone()),
    );
    assert_eq!(deltas, expected, "{answer} in tokens");
}

const THINK: (&str, &str) = ("<think>", "</think>");

#[test]
fn json_between_marks() {
    // llama.cpp `Qwen-Qwen3-0.6B.jinja`; text before calls as in its tests of Hermes 2 Pro.
    let expected = [
        vec![reasoning("\nhm\n"), text("I look.")],
        call(0, "weather", "{\"city\": \"Köln\"}"),
        call(1, "clock", "{}"),
    ];
    let answer = "<think>\nhm\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"clock\", \"arguments\": {}}\n</tool_call>";
    always("hermes", THINK, answer, &expected.concat());
    let both = [call(0, "weather", "{\"city\": \"Ulm\"}"), call(1, "clock", "{}")].concat();
    let list = "[{\"name\": \"weather\", \"arguments\": {\"city\": \"Ulm\"}}, {\"name\": \"clock\", \"arguments\": {}}]";
    for (name, open, close) in [
        // llama.cpp `mistralai-Mistral-Nemo-Instruct-2407.jinja`; vLLM `test_mistral_tool_parser.py`.
        ("mistral-v3", "[TOOL_CALLS]", ""),
        ("mistral-v3", "[TOOL_CALLS] ", ""),
        // vLLM `test_granite_tool_parser.py`.
        ("granite-3", "<|tool_call|> ", ""),
        ("granite-3", "<tool_call> ", ""),
        // llama.cpp PR #12288; vLLM `test_phi4mini_tool_parser.py`.
        ("phi4-mini", "<|tool_call|>", "<|/tool_call|>"),
        ("granite-3", "<|tool_call|>", "<|/tool_call|>"),
        ("phi4-mini", "functools", ""),
        ("firefunction-v2", " functools", ""),
        // llama.cpp `NVIDIA-Nemotron-Nano-v2.jinja`, `unsloth-Apriel-1.5.jinja`.
        ("nemotron-v2", "<TOOLCALL>", "</TOOLCALL>"),
        ("apriel", "\n<tool_calls>", "</tool_calls>\n"),
        // What is left where a model forgets the mark.
        ("mistral-v3", "", ""),
        ("mistral-v11", "", ""),
    ] {
        always(name, THINK, &format!("{open}{list}{close}"), &both);
    }
    // llama.cpp `MiniMax-M1.jinja`.
    let answer = "<tool_calls>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Ulm\"}}\n{\"name\": \"clock\", \"arguments\": {}}\n</tool_calls>";
    always("minimax-m1", THINK, answer, &both);
    // llama.cpp `CohereForAI-c4ai-command-r7b-12-2024-tool_use.jinja`.
    let answer = "<|START_THINKING|>hm<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"weather\", \"parameters\": {\"city\": \"Ulm\"}},\n    {\"tool_call_id\": \"1\", \"tool_name\": \"clock\", \"parameters\": {}}\n]<|END_ACTION|>";
    let marks = ("<|START_THINKING|>", "<|END_THINKING|>");
    always("command-r7b", marks, answer, &[vec![reasoning("hm")], both.clone()].concat());
    // llama.cpp `CohereForAI-c4ai-command-r-plus-tool_use.jinja`.
    let answer = "Action:\n```json\n[\n    {\n        \"tool_name\": \"weather\",\n        \"parameters\": {\"city\": \"Ulm\"}\n    },\n    {\n        \"tool_name\": \"clock\",\n        \"parameters\": {}\n    }\n]```";
    always("command-r", THINK, answer, &both);
    // llama.cpp `Apertus-8B-Instruct.jinja`.
    let answer =
        "<|tools_prefix|>[{\"weather\": {\"city\": \"Ulm\"}}, {\"clock\": {}}]<|tools_suffix|>";
    always("apertus", ("<|inner_prefix|>", "<|inner_suffix|>"), answer, &both);
    // llama.cpp `GigaChat3.1-10B-A1.8B.jinja`.
    let answer = "<|function_call|>{\"name\": \"weather\", \"arguments\": {\"city\": \"Ulm\"}}";
    always("gigachat-3.1", THINK, answer, &both[..2]);
    // llama.cpp `meta-llama-Llama-3.1-8B-Instruct.jinja`; vLLM `test_llama3_json_tool_parser.py`.
    for answer in [
        "{\"name\": \"weather\", \"parameters\": {\"city\": \"Ulm\"}}; {\"name\": \"clock\", \"parameters\": {}}",
        "<|python_tag|>{\"name\": \"weather\", \"parameters\": {\"city\": \"Ulm\"}};{\"name\": \"clock\", \"parameters\": {}}",
        "{\"type\": \"function\", \"name\": \"weather\", \"parameters\": {\"city\": \"Ulm\"}}; {\"name\": \"clock\"}",
    ] {
        always("llama-3", THINK, answer, &both);
    }
}

#[test]
fn a_name_and_json() {
    let weather = "{\"city\": \"Ulm\", \"where\": {\"a\": \"]}\"}}";
    let both = [call(0, "weather", weather), call(1, "clock", "{}")].concat();
    // llama.cpp `unsloth-mistral-Devstral-Small-2507.jinja`; without `[ARGS]` in vLLM
    // `test_mistral_tool_parser.py`.
    for mark in ["[ARGS]", ""] {
        let answer = format!("[TOOL_CALLS]weather{mark}{weather}[TOOL_CALLS]clock{mark}{{}}");
        always("mistral-v11", THINK, &answer, &both);
        always("mistral-v3", THINK, &answer, &both);
    }
    // llama.cpp `Mistral-Small-3.2-24B-Instruct-2506.jinja`.
    let answer = format!("[TOOL_CALLS]weather[CALL_ID]call00001[ARGS]{weather}");
    always("mistral-v11", THINK, &answer, &called(0, Some("call00001"), "weather", weather));
    // llama.cpp `mistralai-Ministral-3-14B-Reasoning-2512.jinja`.
    let answer = "[THINK]hm[/THINK]Well.[TOOL_CALLS]clock[ARGS]{}";
    let expected = [vec![reasoning("hm"), text("Well.")], call(0, "clock", "{}")].concat();
    always("mistral-v11", ("[THINK]", "[/THINK]"), answer, &expected);
    // llama.cpp `moonshotai-Kimi-K2.jinja`.
    let answer = format!(
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{weather}<|tool_call_end|><|tool_call_begin|>functions.clock:1<|tool_call_argument_begin|>{{}}<|tool_call_end|><|tool_calls_section_end|>"
    );
    let expected = [
        vec![text("I look.")],
        called(0, Some("functions.weather:0"), "weather", weather),
        called(1, Some("functions.clock:1"), "clock", "{}"),
    ];
    always("kimi-k2", THINK, &answer, &expected.concat());
    // llama.cpp `deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja`.
    let answer = format!(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{weather}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>clock\n```json\n{{}}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    );
    always("deepseek-v3", THINK, &answer, &both);
    // llama.cpp `deepseek-ai-DeepSeek-V3.1.jinja`.
    let answer = format!(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{weather}<｜tool▁call▁end｜><｜tool▁call▁begin｜>clock<｜tool▁sep｜>{{}}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    );
    always("deepseek-v3.1", THINK, &answer, &both);
    // llama.cpp `upstage-Solar-Open-100B.jinja`.
    let answer = format!(
        "<|tool_calls|><|tool_call:begin|>a1b2<|tool_call:name|>weather<|tool_call:args|>{weather}<|tool_call:end|><|tool_call:begin|>c3d4<|tool_call:name|>clock<|tool_call:args|>{{}}<|tool_call:end|><|calls|>"
    );
    always("solar", THINK, &answer, &both);
    // llama.cpp `meetkai-functionary-medium-v3.1.jinja`.
    let answer = format!("<function=weather>{weather}</function><function=clock>{{}}</function>");
    always("functionary-v3.1", THINK, &answer, &both);
}

#[test]
fn arguments_between_tags_have_the_types_of_the_schema() {
    let weather =
        "{\"city\": \"7\", \"days\": 7, \"note\": null, \"where\": {\"a\": [1]}, \"wet\": true}";
    let both = [call(0, "weather", weather), call(1, "clock", "{}")].concat();
    // llama.cpp `Qwen3-Coder.jinja`, `NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.jinja`; booleans as Python
    // writes them as in its test of Qwen3-Coder.
    let answer = "<tool_call>\n<function=weather>\n<parameter=city>\n7\n</parameter>\n<parameter=days>\n7\n</parameter>\n<parameter=note>\nnull\n</parameter>\n<parameter=where>\n{\"a\": [1]}\n</parameter>\n<parameter=wet>\nTrue\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=clock>\n</function>\n</tool_call>";
    always("qwen-coder", THINK, answer, &both);
    // A model told about the other notation writes this one.
    always("hermes", THINK, answer, &both);
    // Without the first mark: vLLM `test_qwen3coder_tool_parser.py`.
    let bare = answer.strip_prefix("<tool_call>\n").unwrap();
    always("qwen-coder", THINK, bare, &both);
    // Lines of a string are its own.
    let code = "\n  if a < b:\n\n    print(\"</param\")\n\n";
    let answer = format!(
        "<tool_call>\n<function=write>\n<parameter=text>\n{code}\n</parameter>\n</function>\n</tool_call>"
    );
    let expected = format!("{{\"text\": {}}}", serde_json::Value::from(code));
    always("qwen-coder", THINK, &answer, &call(0, "write", &expected));
    // llama.cpp `ByteDance-Seed-OSS.jinja`.
    let answer = "<seed:think>hm</seed:think>\n<seed:tool_call>\n<function=weather>\n<parameter=city>7</parameter>\n<parameter=days>7</parameter>\n<parameter=note>null</parameter>\n<parameter=where>{\"a\": [1]}</parameter>\n<parameter=wet>true</parameter>\n</function>\n</seed:tool_call>\n<seed:tool_call>\n<function=clock>\n</function>\n</seed:tool_call>";
    let expected = [vec![reasoning("hm")], both.clone()].concat();
    always("seed", ("<seed:think>", "</seed:think>"), answer, &expected);
    // llama.cpp `GLM-4.6.jinja` and `GLM-4.7-Flash.jinja`.
    let answer = "<think>hm</think>\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>7</arg_value>\n<arg_key>days</arg_key>\n<arg_value>7</arg_value>\n<arg_key>note</arg_key>\n<arg_value>null</arg_value>\n<arg_key>where</arg_key>\n<arg_value>{\"a\": [1]}</arg_value>\n<arg_key>wet</arg_key>\n<arg_value>true</arg_value>\n</tool_call>\n<tool_call>clock\n</tool_call>";
    always("glm", THINK, answer, &expected);
    always("glm", THINK, &answer.replace('\n', ""), &expected);
    // llama.cpp `tencent-Hy3.jinja`.
    let answer = answer.strip_prefix("<think>hm</think>\n").unwrap();
    let answer = answer
        .replace("arg_key>", "arg_key:opensource>")
        .replace("arg_value>", "arg_value:opensource>");
    let answer = answer
        .replace("tool_call>", "tool_call:opensource>")
        .replace("weather\n", "weather<tool_sep:opensource>\n");
    let answer = answer.replace("clock\n", "clock<tool_sep:opensource>\n");
    let answer = format!("<tool_calls:opensource>\n{answer}\n</tool_calls:opensource>");
    always("hunyuan", THINK, &answer, &both);
    // llama.cpp `MiniMax-M2.jinja`.
    let answer = "<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">7</parameter>\n<parameter name=\"days\">7</parameter>\n<parameter name=\"note\">null</parameter>\n<parameter name=\"where\">{\"a\": [1]}</parameter>\n<parameter name=\"wet\">true</parameter>\n</invoke>\n<invoke name=\"clock\">\n</invoke>\n</minimax:tool_call>";
    always("minimax-m2", THINK, answer, &both);
    // llama.cpp `MiniMax-M3.jinja` and its parser's tests.
    let mark = "]<]minimax[>[";
    let elements = "</mm:think>I look.@<tool_call>\n@<invoke name=\"weather\">@<city>7@</city>@<days>7@</days>@<note>null@</note>@<where>@<a>@<item>1@</item>@</a>@</where>@<wet>true@</wet>@</invoke>\n@<invoke name=\"clock\">@</invoke>\n@</tool_call>";
    let marks = ("<mm:think>", "</mm:think>");
    let said = [vec![text("I look.")], both.clone()].concat();
    always("minimax-m3", marks, &elements.replace('@', mark), &said);
    let thought = elements.replace("</mm:think>I look.", "<mm:think>hm\n</mm:think>");
    let thought = thought.replace('@', mark);
    always("minimax-m3", marks, &thought, &[vec![reasoning("hm\n")], both.clone()].concat());
    // Elements of the same name inside each other, lists of lists, what the schema does not know.
    let nested = "@<invoke name=\"weather\">@<where>@<where>@<where>x<y@</where>@</where>@<b>@</b>@</where>@<tags>@<item>@<item>1@</item>@<item>a@</item>@</item>@</tags>@</invoke>";
    let arguments =
        "{\"where\": {\"where\": {\"where\": \"x<y\"}, \"b\": \"\"}, \"tags\": [[1, \"a\"]]}";
    always("minimax-m3", marks, &nested.replace('@', mark), &call(0, "weather", arguments));
    // What breaks off or does not match is text.
    for broken in ["@<invoke name=\"weather\">@<days>@<a>1@</b>", "@<invoke name=\"we ather\">"] {
        let broken = broken.replace('@', mark);
        let plain = style("minimax-m3", marks, None);
        however_cut(&broken, &plain, false, Some(&calls()), &[text(&broken)]);
    }
    // llama.cpp `openbmb-MiniCPM5-1B.jinja`.
    let plain =
        answer.lines().filter(|line| !line.contains("minimax")).collect::<Vec<_>>().join("\n");
    let plain = plain.replace("invoke name", "function name").replace("/invoke", "/function");
    let plain = plain.replace("parameter name", "param name").replace("/parameter", "/param");
    always("minicpm5", THINK, &plain, &both);
    // llama.cpp `muse-glimmer.jinja`.
    let atem = answer.replace("minimax:tool_call", "atem:function_calls");
    let atem = atem.replace("invoke", "atem:invoke").replace("parameter", "atem:parameter");
    always("atem", THINK, &atem, &both);
    // llama.cpp `deepseek-ai-DeepSeek-V3.2.jinja` and `deepseek-ai-DeepSeek-V4.jinja`: the values say
    // whether they are strings.
    for (name, around) in [("deepseek-v3.2", "function_calls"), ("deepseek-v4", "tool_calls")] {
        let value = |key: &str, string: bool, value: &str| {
            format!(
                "<｜DSML｜parameter name=\"{key}\" string=\"{string}\">{value}</｜DSML｜parameter>\n"
            )
        };
        let values = [
            value("city", true, "7"),
            value("days", false, "7"),
            value("note", false, "null"),
            value("where", false, "{\"a\": [1]}"),
            value("wet", false, "true"),
        ];
        let answer = format!(
            "I look.\n\n<｜DSML｜{around}>\n<｜DSML｜invoke name=\"weather\">\n{}</｜DSML｜invoke>\n<｜DSML｜invoke name=\"clock\">\n</｜DSML｜invoke>\n</｜DSML｜{around}>",
            values.concat()
        );
        always(name, THINK, &answer, &[vec![text("I look.")], both.clone()].concat());
    }
    // llama.cpp `Kimi-K3.jinja`.
    let answer = "<|open|>tools<|sep|><|open|>call tool=\"weather\" index=\"1\"<|sep|><|open|>argument key=\"city\" type=\"string\"<|sep|>7<|close|>argument<|sep|><|open|>argument key=\"days\" type=\"number\"<|sep|>7<|close|>argument<|sep|><|close|>call<|sep|><|open|>call tool=\"clock\" index=\"2\"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>";
    let short = [call(0, "weather", "{\"city\": \"7\", \"days\": 7}"), call(1, "clock", "{}")];
    always("kimi-k3", THINK, answer, &short.concat());
}

#[test]
fn calls_as_python_and_gemma_write_them() {
    // vLLM `test_llama4_pythonic_tool_parser.py`, `test_olmo3_tool_parser.py`; llama.cpp's tests of LFM2.
    let weather = "{\"city\": \"Martha's \\\"Vineyard\\\"\", \"days\": -9, \"note\": null, \"where\": {\"a\": \"x, y\", \"b\": false}, \"tags\": [\"J\", 1.5]}";
    let both = [call(0, "weather", weather), call(1, "clock", "{}")].concat();
    let first = "weather(city='Martha\\'s \"Vineyard\"', days=-9, note=None, where={'a': 'x, y', \"b\": False}, tags=['J', 1.5])";
    for (name, answer) in [
        ("llama-4", format!("[{first}, clock()]")),
        ("llama-4", format!("<|python_start|>[{first}, clock()]<|python_end|>")),
        ("lfm2", format!("<|tool_call_start|>[{first}, clock()]<|tool_call_end|>")),
        ("olmo-3", format!("<function_calls>\n{first}\nclock()\n</function_calls>")),
    ] {
        always(name, THINK, &answer, &both);
    }
    let link = "[clock](https://a.example) tells (the) time.";
    always("llama-4", THINK, link, &[text(link)]);
    always("lfm2", THINK, link, &[text(link)]);
    // llama.cpp `google-gemma-4-31B-it.jinja` and its tests.
    let answer = "<|channel>thought\nhm\n<channel|>Well.<|tool_call>call:weather{city:<|\"|>a, b: {c}<|\"|>,days:-7,note:null,where:{theme:<|\"|>dark<|\"|>,count:3},tags:[<|\"|>x<|\"|>,<|\"|>y<|\"|>]}<tool_call|><|tool_call>call:clock{}<tool_call|>";
    let weather = "{\"city\": \"a, b: {c}\", \"days\": -7, \"note\": null, \"where\": {\"theme\": \"dark\", \"count\": 3}, \"tags\": [\"x\", \"y\"]}";
    let both = [call(0, "weather", weather), call(1, "clock", "{}")].concat();
    let thought = [vec![reasoning("\nhm\n"), text("Well.")], both.clone()].concat();
    always("gemma-4", ("<|channel>thought", "<channel|>"), answer, &thought);
    // vLLM `test_functiongemma_tool_parser.py`: numbers as strings, a comma left out.
    let answer = "<start_function_call>call:weather{city:<escape>NYC<escape>days:<escape>42<escape>}<end_function_call><start_function_call>call:clock{}<end_function_call>";
    let both = [call(0, "weather", "{\"city\": \"NYC\", \"days\": 42}"), call(1, "clock", "{}")];
    always("functiongemma", THINK, answer, &both.concat());
}

#[test]
fn channels_are_reasoning_text_and_calls() {
    // OpenAI, "OpenAI Harmony Response Format"; llama.cpp `openai-gpt-oss-120b.jinja`.
    let expected =
        [vec![reasoning("hm"), text("I look.")], call(0, "weather", "{\"city\": \"Ulm\"}")]
            .concat();
    for answer in [
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\": \"Ulm\"}<|call|>",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{\"city\": \"Ulm\"}",
    ] {
        always("harmony", THINK, answer, &expected);
    }
    let answer = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Ulm is <b>.<|return|>";
    always("harmony", THINK, answer, &[reasoning("hm"), text("Ulm is <b>.")]);
    // vLLM `test_openai_tool_parser.py`: no arguments; text without a channel.
    let answer = " to=functions.clock<|channel|>commentary<|message|><|call|>";
    always("harmony", THINK, answer, &call(0, "clock", "{}"));
    always("harmony", THINK, "Hello.", &[text("Hello.")]);
    // Nobody offered that one.
    let answer = "<|channel|>analysis to=python<|message|>1+1<|call|>";
    always("harmony", THINK, answer, &[reasoning("1+1")]);
    always("harmony", THINK, "<|channel|>anal", &[]);
}

#[test]
fn what_is_no_call_comes_back_and_marks_do_not() {
    for (name, answer, said) in [
        ("hermes", "Use <tool_call> to call.", "Use <tool_call> to call."),
        ("hermes", "<tool_call>{\"x\": 1}</tool_call>", "<tool_call>{\"x\": 1}</tool_call>"),
        ("hermes", "<tool_call>\n{\"name\": \"wea", "<tool_call>\n{\"name\": \"wea"),
        ("qwen-coder", "<tool_call>\n<function=a b>", "<tool_call>\n<function=a b>"),
        (
            "glm",
            "Write <tool_call>what you like</tool_call>.",
            "Write <tool_call>what you like</tool_call>.",
        ),
        ("olmo-3", "<function_calls>\nnot(so\n", "<function_calls>\nnot(so\n"),
        (
            "llama-3",
            "{\"name\": \"unknown\", \"parameters\": {}}",
            "{\"name\": \"unknown\", \"parameters\": {}}",
        ),
        ("llama-3", "{\"city\": \"Ulm\"}", "{\"city\": \"Ulm\"}"),
        ("llama-4", "[1, 2]", "[1, 2]"),
        ("mistral-v3", "[{\"name\": \"Bob\"}]", "[{\"name\": \"Bob\"}]"),
        (
            "minimax-m2",
            "<minimax:tool_call>\nno\n</minimax:tool_call>",
            "<minimax:tool_call>\nno\n</minimax:tool_call>",
        ),
    ] {
        always(name, THINK, answer, &[text(said)]);
    }
    // After a failed one, another call is found.
    let answer = "<tool_call>{\"x\"}</tool_call><tool_call>{\"name\": \"clock\"}</tool_call>";
    let expected = [vec![text("<tool_call>{\"x\"}</tool_call>")], call(0, "clock", "{}")].concat();
    always("hermes", THINK, answer, &expected);
    // Calls that break off in the middle are text; ollama/ollama PR 14915 has the first.
    for (name, answer) in [
        ("hermes", "<tool_call>{\"name\": \"weather\", \"arguments\": {\"a\": \n</tool_call>"),
        ("hermes", "<tool_call>{\"name\": \"weather\", \"arguments\": {\"a\": ,}}</tool_call>"),
        (
            "qwen-coder",
            "<tool_call>\n<function=weather>\n<parameter=city>\nUlm\n</parameter>\nno more",
        ),
        ("mistral-v11", "[TOOL_CALLS]weather[ARGS]{\"city\": <b>"),
        ("lfm2", "<|tool_call_start|>[weather(city=b'z')]"),
    ] {
        let plain = style(name, THINK, None);
        however_cut(answer, &plain, false, Some(&calls()), &[text(answer)]);
    }
    // Long ones have begun to arrive; what follows is text.
    let long = "x".repeat(300);
    let answer =
        format!("<tool_call>\n<function=write>\n<parameter=text>\n{long}\n</parameter>\nno more");
    let half = Delta::ToolArguments { index: 0, text: format!("{{\"text\": \"{long}\"") };
    let start = Delta::ToolStart { index: 0, id: None, name: "write".into() };
    always("qwen-coder", THINK, &answer, &[start, half, text("\nno more")]);
    // Special tokens of a failed call are no text.
    let tokenizer = bytes_and(&["[TOOL_CALLS]"]);
    let style = style("mistral-v3", THINK, Some(&tokenizer));
    let ids = tokenizer.encode("a [TOOL_CALLS] b", false, true).unwrap();
    let mut detokenizer = tokenizer.detokenizer(true).showing(style.shown(true));
    let shown: String = ids.iter().filter_map(|&id| detokenizer.push(id).unwrap()).collect();
    however_cut(&shown, &style, false, Some(&calls()), &[text("a  b")]);
}

#[test]
fn one_call_is_enough_where_one_is_wanted() {
    let single = Calls { single: true, ..calls() };
    let answer = "<tool_call>{\"name\": \"clock\"}</tool_call><tool_call>{\"name\": \"clock\"}</tool_call> and";
    however_cut(
        answer,
        &style("hermes", THINK, None),
        false,
        Some(&single),
        &call(0, "clock", "{}"),
    );
}

#[test]
fn calls_end_reasoning_whose_end_is_missing() {
    // moonshotai/Kimi-K2-Thinking does so: vLLM `vllm/reasoning/kimi_k2_reasoning_parser.py`.
    let tokenizer = bytes_and(&["<|tool_calls_section_begin|>"]);
    let style = style("kimi-k2", THINK, Some(&tokenizer));
    let answer = "<think>hm<|tool_calls_section_begin|><|tool_call_begin|>functions.clock:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>";
    let ids = tokenizer.encode(answer, false, true).unwrap();
    let mut detokenizer = tokenizer.detokenizer(true).showing(style.shown(true));
    let shown: String = ids.iter().filter_map(|&id| detokenizer.push(id).unwrap()).collect();
    let expected =
        [vec![reasoning("hm")], called(0, Some("functions.clock:0"), "clock", "{}")].concat();
    however_cut(&shown, &style, false, Some(&calls()), &expected);
}

#[test]
fn what_is_written_is_read() {
    let arguments = json!({ "city": "Ulm", "days": 3, "where": { "a": [1, null] } });
    for notation in NOTATIONS {
        let written =
            write_calls(notation, &[("weather", arguments.clone()), ("clock", json!({}))]);
        let style = style(notation.name, THINK, None);
        let deltas = super::tests::in_pieces(
            std::iter::once(written.as_str()),
            &style,
            false,
            Some(calls()),
        );
        let mut read: Vec<(String, String)> = vec![];
        for delta in deltas {
            match delta {
                Delta::ToolStart { name, .. } => read.push((name, String::new())),
                Delta::ToolArguments { text, .. } => read.last_mut().unwrap().1.push_str(&text),
                other => panic!("{other:?} of {written}"),
            }
        }
        let read: Vec<_> = read
            .into_iter()
            .map(|(name, text)| (name, serde_json::from_str::<serde_json::Value>(&text).unwrap()))
            .collect();
        let expected = [("weather".to_owned(), arguments.clone()), ("clock".to_owned(), json!({}))];
        assert_eq!(read, expected, "{written}");
    }
}

#[test]
fn reasoning_up_to_a_mark_alone() {
    // llama.cpp `Apriel-1.6-15b-Thinker-fixed.jinja` and its parser's tests; ServiceNow-AI/Apriel-1.5-15b-Thinker's
    // model card for what is behind the answer.
    let marks = Reasoning {
        open: "Here are my reasoning steps:".into(),
        close: "[BEGIN FINAL RESPONSE]".into(),
        end: "[END FINAL RESPONSE]".into(),
        rendered: false,
    };
    let notation = NOTATIONS.iter().find(|row| row.name == "apriel").unwrap();
    let style = AnswerStyle::new(marks, notation, false, None);
    assert!(style.begins_reasoning("<|begin_assistant|>\nHere are my reasoning steps:\n"));
    let hello = [reasoning("I'm\nthinking\n"), text("Hello [x].")];
    let answer = "I'm\nthinking\n[BEGIN FINAL RESPONSE]\nHello [x].";
    for end in ["", "\n[END FINAL RESPONSE]", "[END FINAL RESPONSE]\n"] {
        however_cut(&format!("{answer}{end}"), &style, true, None, &hello);
        however_cut(&format!("{answer}{end}"), &style, true, Some(&calls()), &hello);
    }
    let whole = format!("Here are my reasoning steps:{answer}");
    however_cut(&whole, &style, false, None, &hello);
    let called = "I'm\nthinking\n[BEGIN FINAL RESPONSE]\n<tool_calls>[{\"name\": \"clock\", \"arguments\": {}}]</tool_calls>\n[END FINAL RESPONSE]";
    let expected = [vec![reasoning("I'm\nthinking\n")], call(0, "clock", "{}")].concat();
    however_cut(called, &style, true, Some(&calls()), &expected);
    // Nothing of the kind: an answer, to the letter.
    however_cut("Hello [END of it] ", &style, false, None, &[text("Hello [END of it] ")]);
}
