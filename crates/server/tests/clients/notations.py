"""Tool calls in each notation through the official clients, streamed and whole.

    python notations.py path/to/keeve

The demo model's folder is given chat templates of other families (../notations), and the server is started on each.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import anthropic
import openai

HERE = pathlib.Path(__file__).resolve().parent
DEMO = HERE.parents[2] / "demo-model" / "model"
CASES = json.loads((HERE.parent / "notations" / "notations.json").read_text())["notations"]
TEMPLATE = (HERE.parent / "notations" / "template.jinja").read_text()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Ulm", "Bonn"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
ASKED = [{"role": "user", "content": "How is the weather in Ulm for three days?"}]


def model(case, folder):
    template = TEMPLATE
    for field in ("open", "call", "between", "close"):
        template = template.replace(f"@{field.upper()}@", case[field])
    for file in DEMO.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text(template)


def serve(keeve, folder):
    command = [keeve, "serve", str(folder), "--port", "0", "--threads", "2", "--alias", "model"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    url = None
    for line in server.stderr:
        url = line.split()[-1] if line.startswith("listening at ") else url
        if line.startswith("ready"):
            return server, url
    raise SystemExit(f"the server did not start on {folder}")


def weather(call, exact):
    arguments = json.loads(call.arguments)
    assert call.name == "weather" and arguments["city"] in ("Ulm", "Bonn") and 1 <= arguments["days"] <= 9, call
    assert not exact or arguments == {"city": "Ulm", "days": 3}, call


def ask(url, case):
    client = openai.OpenAI(base_url=url + "/v1", api_key="none")
    asked = {"model": "model", "messages": ASKED, "tools": [TOOL], "temperature": 0, "max_tokens": 400}
    written = {"response_format": {"type": "regex", "regex": re.escape(case["answer"])}}
    forced = {"tool_choice": "required", "parallel_tool_calls": False}
    # What only the vocabulary tells is nothing to a model without these tokens. One that may think first may do so to the end.
    ways = [] if case.get("tokens_only") else [(True, {"extra_body": written})]
    ways += [] if case.get("thinks") else [(False, forced)]
    for exact, more in ways:
        choice = client.chat.completions.create(**asked, **more).choices[0]
        assert choice.finish_reason == "tool_calls" and not choice.message.content, choice
        [call] = choice.message.tool_calls
        weather(call.function, exact)
        name, arguments = "", ""
        for piece in client.chat.completions.create(**asked, **more, stream=True):
            for delta in piece.choices[0].delta.tool_calls or []:
                name += delta.function.name or ""
                arguments += delta.function.arguments or ""
        assert (name, arguments) == (call.function.name, call.function.arguments), (name, arguments)
    if case.get("thinks"):
        return
    tool = {"type": "function", "name": "weather", "parameters": SCHEMA}
    answer = client.responses.create(model="model", input=ASKED[0]["content"], tools=[tool], tool_choice="required",
                                     temperature=0, max_output_tokens=400, parallel_tool_calls=False)
    [call] = [item for item in answer.output if item.type == "function_call"]
    weather(call, False)
    claude = anthropic.Anthropic(base_url=url, api_key="none")
    request = {"model": "model", "max_tokens": 400, "messages": ASKED, "extra_body": {"temperature": 0},
               "tools": [{"name": "weather", "input_schema": SCHEMA}],
               "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
    answer = claude.messages.create(**request)
    [call] = [block for block in answer.content if block.type == "tool_use"]
    assert call.name == "weather" and answer.stop_reason == "tool_use", answer
    with claude.messages.stream(**request) as stream:
        [streamed] = [block for block in stream.get_final_message().content if block.type == "tool_use"]
    assert streamed.input == call.input, (streamed, call)


for case in CASES:
    with tempfile.TemporaryDirectory() as folder:
        model(case, pathlib.Path(folder))
        server, url = serve(sys.argv[1], folder)
        try:
            ask(url, case)
        finally:
            server.terminate()
            server.wait()
    print(case["name"], "is called, whole and streamed", flush=True)
