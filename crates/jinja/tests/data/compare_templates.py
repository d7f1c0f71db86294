"""Renders conversations with chat templates in transformers and in keeve, and compares.

Run: python compare_templates.py KEEVE FOLDER...
  KEEVE is the command; every *.jinja below the FOLDERs is tried (llama.cpp's `models/templates`, say).
Needs transformers, jinja2 and tokenizers. Prints one line for each difference and a summary; exits with 1 if a rendering
that transformers makes is made otherwise and is not explained.
"""

import collections
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import tokenizers
import transformers

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather <now> & \"then\".", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "description": "Città"}, "unit": {"type": "string", "enum": ["c", "f"]},
                                         "days": {"type": ["integer", "null"], "default": 1}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "no_arguments", "description": "Nothing.", "parameters": {"type": "object", "properties": {}}}},
]
DOCUMENTS = [{"title": "One", "text": "First text."}, {"title": "Two", "text": "Second text."}]


def call(name, arguments, index=0):
    return {"id": f"call{index:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


S = {"role": "system", "content": "You are brief."}
U = {"role": "user", "content": "What is the weather in Paris? <|im_end|> é"}
A = {"role": "assistant", "content": "Sunny."}
U2 = {"role": "user", "content": "  And\nin Rome?  "}
ASKS = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "Paris", "days": 2})]}
ANSWER = {"role": "tool", "tool_call_id": "call00000", "name": "get_weather", "content": "{\"temperature\": 21.5}"}
THINKS = {"role": "assistant", "content": "Sunny.", "reasoning_content": "It is summer."}


def turned(message, **fields):
    return {**message, **fields}


def parts(message):
    return turned(message, content=[{"type": "text", "text": message["content"]}])


# Name: messages, further arguments, and whether keeve changes the messages where a template reads one form only.
CONVERSATIONS = {
    "user": ([U], {}, False),
    "no prompt": ([U], {"add_generation_prompt": False}, False),
    "system": ([S, U], {}, False),
    "turns": ([U, A, U2], {}, False),
    "system turns": ([S, U, A, U2], {}, False),
    "ends with assistant": ([S, U, A], {"add_generation_prompt": False}, False),
    "tools": ([U], {"tools": TOOLS}, False),
    "system tools": ([S, U], {"tools": TOOLS}, False),
    "call": ([S, U, ASKS, ANSWER], {"tools": TOOLS}, False),
    "call answered": ([U, ASKS, ANSWER, A, U2], {"tools": TOOLS}, False),
    "calls": ([U, turned(ASKS, tool_calls=[call("get_weather", {"city": "Paris"}), call("no_arguments", {}, 1)]), ANSWER,
               turned(ANSWER, tool_call_id="call00001", name="no_arguments", content="done")], {"tools": TOOLS}, False),
    "call no tools": ([U, ASKS, ANSWER], {}, False),
    "text arguments": ([U, turned(ASKS, tool_calls=[call("get_weather", "{\"city\": \"Paris\"}")]), ANSWER], {"tools": TOOLS}, True),
    "null content": ([U, turned(ASKS, content=None), ANSWER], {"tools": TOOLS}, True),
    "nested arguments": ([U, turned(ASKS, tool_calls=[call("get_weather", {"a": {"b": [1, 2.5, None, True, "x"]}, "c": 1e-7, "d": 1e20})]), ANSWER], {"tools": TOOLS}, False),
    "reasoning": ([U, THINKS, U2], {}, False),
    "reasoning call": ([U, turned(ASKS, reasoning_content="I need it."), ANSWER], {"tools": TOOLS}, False),
    "thinking on": ([U], {"enable_thinking": True, "thinking": True}, False),
    "thinking off": ([U], {"enable_thinking": False, "thinking": False}, False),
    "effort": ([S, U], {"reasoning_effort": "high"}, False),
    "documents": ([U], {"documents": DOCUMENTS}, False),
    "parts": ([parts(U)], {}, True),
    "system parts": ([parts(S), parts(U)], {}, True),
    "developer": ([{"role": "developer", "content": "Be kind."}, U], {}, False),
    "empty": ([{"role": "user", "content": ""}], {}, False),
}


def tokenizer_files(folder):
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<unk>", "<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named}))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def reference(tokenizer, source, messages, options):
    options = {"add_generation_prompt": True, **options}
    try:
        return tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **options), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def keeve(command, folder, template, messages, options):
    options = dict(options)
    given = {"messages": messages, "tools": options.pop("tools", None), "documents": options.pop("documents", None)}
    arguments = [] if options.pop("add_generation_prompt", True) else ["--no-generation-prompt"]
    done = subprocess.run(
        [command, "render", folder, "--messages", "-", "--chat-template", template, "--chat-template-args", json.dumps(options), "--json", *arguments],
        input=json.dumps(given), capture_output=True, text=True, timeout=60)
    try:
        made = json.loads(done.stdout)
    except ValueError:
        return None, f"exit {done.returncode}: {done.stderr[:200]}"
    return made.get("text"), made.get("error")


def main():
    command, folders = sys.argv[1], [pathlib.Path(folder) for folder in sys.argv[2:]]
    templates = sorted(path for folder in folders for path in folder.rglob("*.jinja"))
    counts, differences = collections.Counter(), []
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        tokenizer = tokenizer_files(pathlib.Path(folder))

        def one(case):
            path, name = case
            messages, options, _ = CONVERSATIONS[name]
            return case, keeve(command, folder, str(path), messages, options)

        cases = [(path, name) for path in templates for name in CONVERSATIONS]
        for (path, name), (made, problem) in pool.map(one, cases):
            messages, options, adapts = CONVERSATIONS[name]
            expected, refused = reference(tokenizer, path.read_text(encoding="utf-8"), messages, options)
            if expected is None:
                kind = "refused by both" if made is None else "rendered by keeve only"
            elif expected == made:
                kind = "equal"
            elif adapts and made is not None:
                kind = "messages put into the form that the template reads"
            else:
                kind = "DIFFERENT"
            counts[kind] += 1
            if kind not in ("equal", "refused by both") and "-v" in os.environ.get("SHOW", "-v"):
                at = next((i for i, (a, b) in enumerate(zip(expected or "", made or "")) if a != b), min(len(expected or ""), len(made or "")))
                shown = refused or f"is {(made or problem or '')[max(0, at - 20):at + 60]!r}, not {expected[max(0, at - 20):at + 60]!r}"
                differences.append(f"{kind}: {path.name}, {name}: {shown[:300]}")
    print("\n".join(differences))
    print(f"{len(templates)} templates, {len(CONVERSATIONS)} conversations, transformers {transformers.__version__}")
    for kind, count in sorted(counts.items()):
        print(f"{count:6} {kind}")
    rendered = sum(count for kind, count in counts.items() if kind not in ("refused by both", "rendered by keeve only"))
    print(f"{counts['equal']} of {rendered} that transformers renders are equal")
    sys.exit(1 if counts["DIFFERENT"] else 0)


main()
