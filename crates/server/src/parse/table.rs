//! The notations of tool calls: one table, which parsing, choosing and constraining read.
//!
//! What each row is taken from stands beside it; "llama.cpp" is ggml-org/llama.cpp
//! `models/templates/`, "vLLM" is vllm-project/vllm `tests/tool_parsers/`.

use super::notation::{Form, Identifier, Notation, Tags};

const OBJECT: Form = Form::Object { name: "name", arguments: "arguments" };

const PLAIN: Notation = Notation {
    name: "",
    open: "",
    close: "",
    call_open: "",
    call_close: "",
    form: OBJECT,
    layout: ["", "", ""],
    shared: true,
    unmarked: false,
    also: "",
};

/// `<parameter=KEY>` and its value, on lines of their own (Qwen3-Coder).
const PARAMETERS: Tags = Tags {
    name_close: ">",
    after: "",
    key_open: "<parameter=",
    key_close: ">",
    value_open: "",
    value_close: "</parameter>",
    attributes: ["", ""],
    around: "\n",
};

/// `<parameter name="KEY">VALUE</parameter>` (MiniMax M2).
const INVOKE: Tags = Tags {
    name_close: "\"",
    after: ">",
    key_open: "<parameter name=\"",
    key_close: "\"",
    value_open: ">",
    value_close: "</parameter>",
    attributes: ["", ""],
    around: "",
};

const DSML: Tags = Tags {
    key_open: "<｜DSML｜parameter name=\"",
    value_close: "</｜DSML｜parameter>",
    attributes: [" string=\"true\"", " string=\"false\""],
    ..INVOKE
};

/// `<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>` (GLM).
const ARGUMENTS: Tags = Tags {
    name_close: "",
    after: "",
    key_open: "<arg_key>",
    key_close: "</arg_key>",
    value_open: "<arg_value>",
    value_close: "</arg_value>",
    attributes: ["", ""],
    around: "",
};

/// The notation that models are told where their chat template says nothing about tools.
pub(crate) const HERMES: &Notation = &NOTATIONS[0];

/// All notations. Where several fit, the first does.
pub(crate) const NOTATIONS: &[Notation] = &[
    // llama.cpp `NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja`, `Qwen-Qwen2.5-7B-Instruct.jinja`,
    // `Qwen-Qwen3-0.6B.jinja`, `ibm-granite-granite-4.0.jinja`, `HuggingFaceTB-SmolLM3-3B.jinja`.
    Notation {
        name: "hermes",
        open: "<tool_call>",
        close: "</tool_call>",
        layout: ["\n", "\n", "\n"],
        shared: false,
        ..PLAIN
    },
    // llama.cpp `Qwen3-Coder.jinja`, `NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.jinja`, `Qwen3.5-4B.jinja`,
    // `StepFun3.5-Flash.jinja`.
    Notation {
        name: "qwen-coder",
        open: "<tool_call>",
        close: "</tool_call>",
        call_open: "<function=",
        call_close: "</function>",
        form: Form::Tagged(PARAMETERS),
        layout: ["\n", "\n", "\n"],
        shared: false,
        ..PLAIN
    },
    // llama.cpp `ByteDance-Seed-OSS.jinja`.
    Notation {
        name: "seed",
        open: "<seed:tool_call>",
        close: "</seed:tool_call>",
        call_open: "<function=",
        call_close: "</function>",
        form: Form::Tagged(Tags { around: "", ..PARAMETERS }),
        layout: ["\n", "\n", "\n"],
        shared: false,
        ..PLAIN
    },
    // llama.cpp `GLM-4.6.jinja`, `GLM-4.7-Flash.jinja`.
    Notation {
        name: "glm",
        call_open: "<tool_call>",
        call_close: "</tool_call>",
        form: Form::Tagged(ARGUMENTS),
        layout: ["", "\n", ""],
        ..PLAIN
    },
    // llama.cpp `tencent-Hy3.jinja`.
    Notation {
        name: "hunyuan",
        open: "<tool_calls:opensource>",
        close: "</tool_calls:opensource>",
        call_open: "<tool_call:opensource>",
        call_close: "</tool_call:opensource>",
        form: Form::Tagged(Tags {
            name_close: "<tool_sep:opensource>",
            key_open: "<arg_key:opensource>",
            key_close: "</arg_key:opensource>",
            value_open: "<arg_value:opensource>",
            value_close: "</arg_value:opensource>",
            ..ARGUMENTS
        }),
        layout: ["\n", "\n", "\n"],
        ..PLAIN
    },
    // llama.cpp `MiniMax-M2.jinja`.
    Notation {
        name: "minimax-m2",
        open: "<minimax:tool_call>",
        close: "</minimax:tool_call>",
        call_open: "<invoke name=\"",
        call_close: "</invoke>",
        form: Form::Tagged(INVOKE),
        layout: ["\n", "\n", "\n"],
        ..PLAIN
    },
    // llama.cpp `MiniMax-M3.jinja`.
    Notation {
        name: "minimax-m3",
        open: "]<]minimax[>[<tool_call>",
        close: "]<]minimax[>[</tool_call>",
        call_open: "]<]minimax[>[<invoke name=\"",
        call_close: "]<]minimax[>[</invoke>",
        form: Form::Elements { mark: "]<]minimax[>[" },
        layout: ["\n", "\n", "\n"],
        ..PLAIN
    },
    // llama.cpp `deepseek-ai-DeepSeek-V3.2.jinja`.
    Notation {
        name: "deepseek-v3.2",
        open: "<｜DSML｜function_calls>",
        close: "</｜DSML｜function_calls>",
        call_open: "<｜DSML｜invoke name=\"",
        call_close: "</｜DSML｜invoke>",
        form: Form::Tagged(DSML),
        layout: ["\n", "\n", "\n"],
        ..PLAIN
    },
    // llama.cpp `deepseek-ai-DeepSeek-V4.jinja`.
    Notation {
        name: "deepseek-v4",
        open: "<｜DSML｜tool_calls>",
        close: "</｜DSML｜tool_calls>",
        call_open: "<｜DSML｜invoke name=\"",
        call_close: "</｜DSML｜invoke>",
        form: Form::Tagged(DSML),
        layout: ["\n", "\n", "\n"],
        ..PLAIN
    },
    // llama.cpp `Kimi-K3.jinja`.
    Notation {
        name: "kimi-k3",
        open: "<|open|>tools<|sep|>",
        close: "<|close|>tools<|sep|>",
        call_open: "<|open|>call tool=\"",
        call_close: "<|close|>call<|sep|>",
        form: Form::Tagged(Tags {
            name_close: "\"",
            after: "<|sep|>",
            key_open: "<|open|>argument key=\"",
            key_close: "\"",
            value_open: "<|sep|>",
            value_close: "<|close|>argument<|sep|>",
            attributes: [" type=\"string\"", " type=\"number\""],
            around: "",
        }),
        ..PLAIN
    },
    // llama.cpp `openbmb-MiniCPM5-1B.jinja`.
    Notation {
        name: "minicpm5",
        call_open: "<function name=\"",
        call_close: "</function>",
        form: Form::Tagged(Tags { key_open: "<param name=\"", value_close: "</param>", ..INVOKE }),
        layout: ["", "\n", ""],
        ..PLAIN
    },
    // llama.cpp `muse-glimmer.jinja`, as Anthropic's models once wrote calls.
    Notation {
        name: "atem",
        open: "<atem:function_calls>",
        close: "</atem:function_calls>",
        call_open: "<atem:invoke name=\"",
        call_close: "</atem:invoke>",
        form: Form::Tagged(Tags {
            key_open: "<atem:parameter name=\"",
            value_close: "</atem:parameter>",
            ..INVOKE
        }),
        layout: ["\n", "\n", "\n"],
        ..PLAIN
    },
    // llama.cpp `mistralai-Mistral-Nemo-Instruct-2407.jinja` (tokenizers v3 to v7).
    Notation { name: "mistral-v3", open: "[TOOL_CALLS]", layout: ["[", ", ", "]"], ..PLAIN },
    // llama.cpp `unsloth-mistral-Devstral-Small-2507.jinja`, `mistralai-Ministral-3-14B-Reasoning-2512.jinja`
    // (v11, v13), and `Mistral-Small-3.2-24B-Instruct-2506.jinja` with identifiers.
    Notation {
        name: "mistral-v11",
        call_open: "[TOOL_CALLS]",
        form: Form::Named {
            before: "",
            after: &["[ARGS]", "[CALL_ID]"],
            id: Identifier::Behind("[CALL_ID]"),
            tail: "",
        },
        ..PLAIN
    },
    // vLLM `test_granite_tool_parser.py`; llama.cpp `ibm-granite-granite-3.3-2B-Instruct.jinja` has the
    // instruction only. Phi-4 mini has an end marker besides: microsoft/Phi-4-mini-instruct's model card,
    // llama.cpp PR #12288; vLLM `test_phi4mini_tool_parser.py` has `functools` before the list instead.
    Notation {
        name: "phi4-mini",
        open: "<|tool_call|>",
        close: "<|/tool_call|>",
        layout: ["[", ", ", "]"],
        also: "firefunction-v2",
        ..PLAIN
    },
    Notation {
        name: "granite-3",
        open: "<|tool_call|>",
        layout: ["[", ", ", "]"],
        also: "hermes",
        ..PLAIN
    },
    // llama.cpp `NVIDIA-Nemotron-Nano-v2.jinja`.
    Notation {
        name: "nemotron-v2",
        open: "<TOOLCALL>",
        close: "</TOOLCALL>",
        layout: ["[", ", ", "]"],
        ..PLAIN
    },
    // llama.cpp `unsloth-Apriel-1.5.jinja`, `Apriel-1.6-15b-Thinker-fixed.jinja`.
    Notation {
        name: "apriel",
        open: "<tool_calls>",
        close: "</tool_calls>",
        layout: ["[", ", ", "]"],
        ..PLAIN
    },
    // llama.cpp `MiniMax-M1.jinja`.
    Notation {
        name: "minimax-m1",
        open: "<tool_calls>",
        close: "</tool_calls>",
        layout: ["\n", "\n", "\n"],
        ..PLAIN
    },
    // llama.cpp `CohereForAI-c4ai-command-r7b-12-2024-tool_use.jinja`, `Cohere2MoE.jinja`.
    Notation {
        name: "command-r7b",
        open: "<|START_ACTION|>",
        close: "<|END_ACTION|>",
        form: Form::Object { name: "tool_name", arguments: "parameters" },
        layout: ["[\n    ", ",\n    ", "\n]"],
        ..PLAIN
    },
    // llama.cpp `CohereForAI-c4ai-command-r-plus-tool_use.jinja`.
    Notation {
        name: "command-r",
        open: "Action:\n```json\n",
        close: "```",
        form: Form::Object { name: "tool_name", arguments: "parameters" },
        layout: ["[\n    ", ",\n    ", "\n]"],
        ..PLAIN
    },
    // llama.cpp `Apertus-8B-Instruct.jinja`.
    Notation {
        name: "apertus",
        open: "<|tools_prefix|>",
        close: "<|tools_suffix|>",
        form: Form::Keyed,
        layout: ["[", ", ", "]"],
        ..PLAIN
    },
    // llama.cpp `GigaChat3.1-10B-A1.8B.jinja`.
    Notation { name: "gigachat-3.1", open: "<|function_call|>", shared: false, ..PLAIN },
    // llama.cpp `GigaChat3-10B-A1.8B.jinja`.
    Notation { name: "gigachat-3", open: "function call<|role_sep|>\n", shared: false, ..PLAIN },
    // llama.cpp `fireworks-ai-llama-3-firefunction-v2.jinja`.
    Notation { name: "firefunction-v2", open: "functools", layout: ["[", ", ", "]"], ..PLAIN },
    // llama.cpp `moonshotai-Kimi-K2.jinja`.
    Notation {
        name: "kimi-k2",
        open: "<|tool_calls_section_begin|>",
        close: "<|tool_calls_section_end|>",
        call_open: "<|tool_call_begin|>",
        call_close: "<|tool_call_end|>",
        form: Form::Named {
            before: "functions.",
            after: &["<|tool_call_argument_begin|>", ":"],
            id: Identifier::Qualified,
            tail: "",
        },
        ..PLAIN
    },
    // llama.cpp `deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja` (V3 and R1).
    Notation {
        name: "deepseek-v3",
        open: "<｜tool▁calls▁begin｜>",
        close: "<｜tool▁calls▁end｜>",
        call_open: "<｜tool▁call▁begin｜>",
        call_close: "<｜tool▁call▁end｜>",
        form: Form::Named {
            before: "function<｜tool▁sep｜>",
            after: &["\n```json\n", "\n"],
            id: Identifier::None,
            tail: "\n```",
        },
        layout: ["", "\n", ""],
        ..PLAIN
    },
    // llama.cpp `deepseek-ai-DeepSeek-V3.1.jinja`.
    Notation {
        name: "deepseek-v3.1",
        open: "<｜tool▁calls▁begin｜>",
        close: "<｜tool▁calls▁end｜>",
        call_open: "<｜tool▁call▁begin｜>",
        call_close: "<｜tool▁call▁end｜>",
        form: Form::Named {
            before: "",
            after: &["<｜tool▁sep｜>"],
            id: Identifier::None,
            tail: "",
        },
        ..PLAIN
    },
    // llama.cpp `upstage-Solar-Open-100B.jinja`. The identifier comes first.
    Notation {
        name: "solar",
        open: "<|tool_calls|>",
        close: "<|calls|>",
        call_open: "<|tool_call:begin|>",
        call_close: "<|tool_call:end|>",
        form: Form::Named {
            before: "<|tool_call:name|>",
            after: &["<|tool_call:args|>"],
            id: Identifier::None,
            tail: "",
        },
        ..PLAIN
    },
    // llama.cpp `meetkai-functionary-medium-v3.1.jinja`.
    Notation {
        name: "functionary-v3.1",
        call_open: "<function=",
        call_close: "</function>",
        form: Form::Named { before: "", after: &[">"], id: Identifier::None, tail: "" },
        ..PLAIN
    },
    // llama.cpp `LFM2.5-8B-A1B.jinja` and its parser's tests, `tests/test-chat.cpp`.
    Notation {
        name: "lfm2",
        open: "<|tool_call_start|>",
        close: "<|tool_call_end|>",
        form: Form::Python,
        layout: ["[", ", ", "]"],
        ..PLAIN
    },
    // vLLM `test_olmo3_tool_parser.py`: a call a line.
    Notation {
        name: "olmo-3",
        open: "<function_calls>",
        close: "</function_calls>",
        form: Form::Python,
        layout: ["", "\n", ""],
        ..PLAIN
    },
    // llama.cpp `google-gemma-4-31B-it.jinja`.
    Notation {
        name: "gemma-4",
        open: "<|tool_call>",
        close: "<tool_call|>",
        form: Form::Braces { quote: "<|\"|>" },
        shared: false,
        ..PLAIN
    },
    // vLLM `test_functiongemma_tool_parser.py`; google/functiongemma-270m-it's model card.
    Notation {
        name: "functiongemma",
        open: "<start_function_call>",
        close: "<end_function_call>",
        form: Form::Braces { quote: "<escape>" },
        shared: false,
        ..PLAIN
    },
    // llama.cpp `meta-llama-Llama-3.1-8B-Instruct.jinja`, and its 3.2 and 3.3.
    Notation {
        name: "llama-3",
        open: "<|python_tag|>",
        form: Form::Object { name: "name", arguments: "parameters" },
        layout: ["", "; ", ""],
        unmarked: true,
        also: "llama-4",
        ..PLAIN
    },
    // vLLM `test_llama4_pythonic_tool_parser.py`.
    Notation {
        name: "llama-4",
        open: "<|python_start|>",
        close: "<|python_end|>",
        form: Form::Python,
        layout: ["[", ", ", "]"],
        unmarked: true,
        ..PLAIN
    },
];
