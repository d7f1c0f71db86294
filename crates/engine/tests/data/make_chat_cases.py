"""Writes chat/cases.json: what Jinja2, set up as transformers sets it up, makes of chat/*.jinja.

Run: python3 make_chat_cases.py (needs jinja2; made with 3.1.6). The expectations come from Jinja2
itself, so that the Rust renderer is held to the language and not to our reading of it.
"""

import datetime
import json
import pathlib

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

FOLDER = pathlib.Path(__file__).parent / "chat"
NOW = datetime.datetime(2026, 3, 7, 9, 5, 2)


class Generation(Extension):
    """`{% generation %}` blocks, which transformers renders like any other text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class Raised(Exception):
    pass


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


env = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
)
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = NOW.strftime

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Today's <weather> & wind",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def m(role, content, **rest):
    return {"role": role, "content": content, **rest}


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "n": [1, 2]}}}
TWO = [CALL, {"id": "c2", "type": "function", "function": {"name": "other", "arguments": {}}}]
TALK = [m("user", "Say hi to  Größe."), m("assistant", "hi!"), m("user", "Again\nplease ")]
THOUGHT = [m("user", "a"), m("assistant", "<think>\nhm\n</think>\n\nb"), m("user", "c")]
TOOLS_USED = [m("system", "Be brief."), m("user", "Weather?"), m("assistant", None, tool_calls=[CALL]), m("tool", "sunny")]

CASES = [
    ("thinking_tools", TALK, {}),
    ("thinking_tools", THOUGHT, {}),
    ("thinking_tools", THOUGHT[:2], {"add_generation_prompt": False}),
    ("thinking_tools", TALK, {"enable_thinking": False}),
    ("thinking_tools", TALK, {"enable_thinking": True}),
    ("thinking_tools", TOOLS_USED, {"tools": [WEATHER, WEATHER]}),
    ("thinking_tools", TOOLS_USED + [m("tool", "windy"), m("assistant", "ok", reasoning_content="so")], {"tools": [WEATHER]}),
    ("thinking_tools", [m("user", "x"), m("assistant", "text", tool_calls=TWO)], {"add_generation_prompt": False}),
    ("dated", TALK, {}),
    ("dated", [m("system", "  s ")] + TALK, {"date_string": "today"}),
    ("dated", TOOLS_USED, {"tools": [WEATHER]}),
    ("dated", [m("user", "x"), m("assistant", None, tool_calls=TWO)], {}),
    ("alternating", TALK, {}),
    ("alternating", [m("system", " s ")] + TALK[:1], {}),
    ("alternating", [m("user", "a"), m("user", "b")], {}),
    ("language", TALK, {}),
]

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
out = []
for name, messages, options in CASES:
    source = (FOLDER / f"{name}.jinja").read_text()
    context = {"tools": None, "documents": None, "add_generation_prompt": True, **options}
    case = {"template": name, "messages": messages, "options": options}
    try:
        case["rendered"] = env.from_string(source).render(messages=messages, **TOKENS, **context)
    except Raised as error:
        case["raised"] = str(error)
    out.append(case)
(FOLDER / "cases.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
