#!/usr/bin/env python3
"""attacks.py KEEVE MODEL [--seeing MODEL] [--table] [GROUP...]

Single attacks by files, flags and requests, by group: request, flag, tokenizer, template, config, safetensors, image,
resume, hub. Each must be over within SECONDS (60; KEEVE_SECONDS) and within 4 GiB of address space, succeed or be
refused in a few lines that say why, without a library's panic and without a raw escape character. MODEL is a folder
with safetensors; attacks by images need a folder that sees (--seeing). Traffic goes to 127.0.0.1 only. Prints a line for
each attack (--table: as a table in Markdown) and exits with 1 if one gets through. Needs nothing but Python, on Linux.
"""
import base64
import contextlib
import hashlib
import http.client
import http.server
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

ARGUMENTS = sys.argv[1:]
TABLE = "--table" in ARGUMENTS
if TABLE:
    ARGUMENTS.remove("--table")
SEEING = None
if "--seeing" in ARGUMENTS:
    at = ARGUMENTS.index("--seeing")
    SEEING = os.path.abspath(ARGUMENTS[at + 1])
    del ARGUMENTS[at:at + 2]
KEEVE, MODEL = (os.path.abspath(path) for path in ARGUMENTS[:2])
GROUPS = ARGUMENTS[2:]
SECONDS = float(os.environ.get("KEEVE_SECONDS", "60"))
SPACE = 4 << 30
CHAT = "/v1/chat/completions"
ATTACKS = []


def attack(group, name, function):
    ATTACKS.append((group, name, function))


def bounded():
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))


class Ran:
    """How a command ended: its code (None: it did not end), what it said, and its peak memory in MiB."""

    def __init__(self, *arguments, stdin=b"", seconds=SECONDS, env=None, interrupt=None, cwd=None):
        said, out = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        process = subprocess.Popen([KEEVE, *arguments], stdin=subprocess.PIPE, stdout=out, stderr=said, preexec_fn=bounded,
                                   env={**os.environ, **(env or {})}, cwd=cwd)
        feeding = threading.Thread(target=self.feed, args=(process, stdin), daemon=True)
        feeding.start()
        end, sent = time.monotonic() + seconds, False
        begun = time.monotonic()
        self.code, usage = None, None
        while time.monotonic() < end:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                break
            if interrupt is not None and not sent and time.monotonic() - begun > interrupt:
                process.send_signal(signal.SIGINT)
                sent = True
            time.sleep(0.01)
        else:
            process.kill()
            _, _, usage = os.wait4(process.pid, 0)
        process.returncode = self.code if self.code is not None else -9
        self.peak = usage.ru_maxrss // 1024
        said.seek(0), out.seek(0)
        self.stderr, self.stdout = said.read(), out.read(16 << 20)

    @staticmethod
    def feed(process, stdin):
        with contextlib.suppress(OSError):
            process.stdin.write(stdin)
            process.stdin.close()

    def problem(self, codes=(0, 1, 2), peak=2048):
        if self.code is None:
            return f"does not end within {SECONDS:.0f} s"
        text = f"rc {self.code}: {self.stderr[-200:]!r}"
        if self.code not in codes:
            return text
        if b"panicked" in self.stderr or b"RUST_BACKTRACE" in self.stderr:
            return f"a panic: {text}"
        if self.code not in (0, 130) and not (self.stderr + self.stdout).strip():
            return f"fails without a word, {text}"
        if len(self.stderr) > 8000 or self.stderr.count(b"\n") > 30:
            return f"{len(self.stderr)} bytes on standard error"
        if re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]", self.stderr + self.stdout):
            return f"a raw control character: {(self.stderr + self.stdout)[:200]!r}"
        return f"{self.peak} MiB" if self.peak > peak else ""


def png(width, height, rows=None, kind=2, depth=8, more=b""):
    """A PNG with these pixels (zeros), or with what `rows` gives in their place, compressed."""
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    data = zlib.compress(bytes((1 + width * 3) * height)) if rows is None else rows
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory() as made:
        yield made


def model(into, of=None, **files):
    """A copy of MODEL by links, with files in the place of its own: bytes, text, what becomes JSON, or None."""
    of = of or MODEL
    files = {name.replace("__", "."): what for name, what in files.items()}
    os.makedirs(into, exist_ok=True)
    for name in os.listdir(of):
        if name not in files and name != "reference.safetensors":
            os.symlink(os.path.join(of, name), os.path.join(into, name))
    for name, what in files.items():
        if what is None:
            continue
        if not isinstance(what, (bytes, str)):
            what = json.dumps(what)
        with open(os.path.join(into, name), "wb") as out:
            out.write(what.encode() if isinstance(what, str) else what)
    return into


def stored(name, of=None):
    with open(os.path.join(of or MODEL, name)) as file:
        return json.load(file)


def with_model(*command, seconds=SECONDS, codes=(0, 1, 2), peak=2048, of=None, **files):
    with folder() as at:
        made = model(os.path.join(at, "m"), of=of, **files)
        return Ran(*(one.replace("MODEL", made).replace("DIR", at) for one in command), seconds=seconds).problem(codes, peak)


RUN = ("run", "MODEL", "--prompt", "hi", "-n", "1")

# --- flags ------------------------------------------------------------------------------------------------------


def flag(name, *command, codes=(1, 2), stdin=b"", make=None, env=None):
    def run():
        with folder() as at:
            if make:
                make(at)
            return Ran(*(one.replace("MODEL", MODEL).replace("DIR", at) for one in command), stdin=stdin, cwd=at, env=env).problem(codes)
    attack("flag", name, run)


def fifo(at):
    os.mkfifo(os.path.join(at, "f"))


def loop(at):
    os.symlink("f", os.path.join(at, "f"))


def sparse(at, size=1 << 40):
    with open(os.path.join(at, "f"), "wb") as out:
        out.truncate(size)


def device(at):
    os.symlink("/dev/zero", os.path.join(at, "f"))


def text(what):
    def make(at):
        with open(os.path.join(at, "f"), "wb") as out:
            out.write(what if isinstance(what, bytes) else what.encode())
    return make


FILES = {
    "run --chat-template": ("run", "MODEL", "--prompt", "a", "-n", "1", "--chat-template", "DIR/f"),
    "render --messages": ("render", "MODEL", "--messages", "DIR/f"),
    "render --tools": ("render", "MODEL", "--tools", "DIR/f", "--messages", "DIR/f"),
    "quantize --recipe": ("quantize", "MODEL", "--recipe", "DIR/f", "--out", "DIR/o"),
    "quantize --imatrix": ("quantize", "MODEL", "--codec", "q4_k", "--imatrix", "DIR/f", "--out", "DIR/o"),
    "quantize --data": ("quantize", "MODEL", "--codec", "int8", "--smoothquant", "auto", "--data", "DIR/f", "--out", "DIR/o"),
    "calibrate --data": ("calibrate", "MODEL", "--data", "DIR/f", "--out", "DIR/o"),
    "calibrate --show": ("calibrate", "--show", "DIR/f"),
    "eval --data": ("eval", "MODEL", "--data", "DIR/f"),
    "verify --data": ("verify", "MODEL", "--against", "MODEL", "--data", "DIR/f"),
    "serve --config": ("serve", "--config", "DIR/f"),
    "serve --api-key-file": ("serve", "MODEL", "--port", "0", "--api-key-file", "DIR/f"),
    "run --image": ("run", "MODEL", "--prompt", "a", "-n", "1", "--image", "DIR/f"),
    "bench --config": ("bench", "--config", "DIR/f", "-r", "1"),
    "run --mmproj": ("run", "MODEL", "--prompt", "a", "-n", "1", "--mmproj", "DIR/f"),
    "run --draft-model": ("run", "MODEL", "--prompt", "a", "-n", "1", "--draft-model", "DIR/f"),
    "inspect": ("inspect", "DIR/f"),
}
for name, command in FILES.items():
    flag(f"{name}: a named pipe that nobody writes", *command, make=fifo)
    flag(f"{name}: a link to a device", *command, make=device)
    flag(f"{name}: a link to itself", *command, make=loop)
    flag(f"{name}: a sparse file of 1 TiB", *command, make=sparse)
for name in ("quantize --recipe", "serve --config", "render --messages", "quantize --imatrix", "calibrate --show"):
    flag(f"{name}: brackets 200,000 deep", *FILES[name], make=text("a = " + "[" * 200_000 if "recipe" in name else "[" * 200_000))
    flag(f"{name}: escapes in an error", *FILES[name], make=text("\x1b]0;owned\x07\x1b[2J = \x9b1m\n"))
flag("quantize --imatrix: entries of 2^31 values", *FILES["quantize --imatrix"], make=text(struct.pack("<ii", 2**31 - 1, 2**31 - 1) + b"a" * 100))
flag("quantize --imatrix: a name of -1 bytes", *FILES["quantize --imatrix"], make=text(struct.pack("<ii", 1, -1) + b"a" * 100))
flag("quantize --skip: a pattern that explodes", "quantize", "MODEL", "--codec", "q8_0", "--skip", "((((a{1000}){1000}){1000}){1000})", "--out", "DIR/o", codes=(0, 1, 2))
flag("run --prompt-ids: a million, negative, 2^64", "run", "MODEL", "--prompt-ids", ",".join(["1"] * 50_000), "-n", "1", codes=(1, 2))
flag("run --prompt-ids: 2^64", "run", "MODEL", "--prompt-ids", "18446744073709551616", "-n", "1")
for name, value in (("--max-context", str(2**63)), ("--max-context", "0"), ("--threads", str(2**40)), ("--prefill-chunk", str(2**60)), ("--draft-tokens", str(2**60)), ("--temp", "nan"),
                    ("--top-p", "-inf"), ("--seed", "-1"), ("-n", str(2**64))):
    flag(f"run {name} {value}", "run", "MODEL", "--prompt", "a", "-n", "1", name, value, codes=(0, 1, 2))
flag("run --stop: 10,000 of them", "run", "MODEL", "--prompt", "a", "-n", "1", *["--stop=x"] * 10_000, codes=(0, 1, 2))
flag("run --chat-template-args: braces 12,000 deep", "run", "MODEL", "--prompt", "a", "-n", "1", "--chat-template-args", '{"a":' * 12_000)
flag("run: 300 MB of standard input", "run", "MODEL", "-", "-n", "1", stdin=b"word " * 60_000_000)
flag("tokenize: 300 MB of standard input", "tokenize", "MODEL", "-", stdin=b"word " * 60_000_000)
flag("run: standard input that is no UTF-8", "run", "MODEL", "-", "-n", "1", stdin=b"\xff\xfe\x00" * 1000)
flag("serve --port 0 --max-connections 2^60", "serve", "MODEL", "--port", "99999", "--max-connections", str(2**60))
flag("serve --model: a name with escapes, a path to itself", "serve", "--model", "\x1b[2J=DIR/f", "--port", "0", make=loop)
flag("serve --api-key-file: keys with spaces and NUL", *FILES["serve --api-key-file"], make=text(b"a b\0c\n"))
flag("serve --api-key-file: nothing but comments", *FILES["serve --api-key-file"], make=text("# one\n\n  # two\r\n"))
flag("serve --cors-origin: no origin", "serve", "MODEL", "--port", "0", "--cors-origin", "\r\nX: y")
flag("quantize --out: a folder that is a link to another", "quantize", "MODEL", "--codec", "q8_0", "--out", "DIR/f", make=lambda at: os.symlink("/etc", os.path.join(at, "f")))
flag("quantize --out: into a file", "quantize", "MODEL", "--codec", "q8_0", "--out", "/dev/null/x")
flag("quantize --out: /dev/full", "quantize", "MODEL", "--codec", "q8_0", "--out", "/dev/full")
flag("tensor --out: a device", "tensor", "MODEL", "model.norm.weight", "--out", "/dev/full", codes=(0, 1, 2))
flag("tensor: a name with escapes", "tensor", "MODEL", "\x1b[2J\x9b", "--out", "DIR/o")
flag("logits --out: no room", "logits", "MODEL", "--prompt-ids", "1,2,3", "--out", "/dev/full", codes=(0, 1, 2))
flag("bench --server: a server that says nothing", "bench", "--server", "http://127.0.0.1:9", "--requests", "1")
flag("render --chat-template: 2 MiB", "render", "MODEL", "--chat-template", "DIR/f", "--messages", "-", make=text("a" * (2 << 20)), stdin=b'[{"role":"user","content":"a"}]')

# --- tokenizers -------------------------------------------------------------------------------------------------


def tokenizer(name, change):
    def run():
        made = stored("tokenizer.json")
        return with_model(*RUN, tokenizer__json=change(made) or made)
    attack("tokenizer", name, run)


def setting(**fields):
    return lambda made: made.update(fields)


def sequence(kind, items, name):
    return {"type": "Sequence", name: items} if kind is None else {"type": kind, name: items}


replace = lambda pattern, content: {"type": "Replace", "pattern": pattern, "content": content}
tokenizer("normalizers: each letter becomes a thousand, three times", setting(normalizer=sequence(None, [replace({"Regex": "."}, "ab" * 500)] * 3, "normalizers")))
tokenizer("normalizers: doubling, forty times", setting(normalizer=sequence(None, [replace({"Regex": "(.)"}, "xx")] * 40, "normalizers")))
tokenizer("normalizers: 10,000 of them", setting(normalizer=sequence(None, [{"type": "NFC"}] * 10_000, "normalizers")))
tokenizer("normalizers: prepending 100 times", setting(normalizer=sequence(None, [{"type": "Prepend", "prepend": "a" * 1000}] * 100, "normalizers")))
tokenizer("normalizers: a regex with nested quantifiers", setting(normalizer=replace({"Regex": "(a*)*(a*)*b"}, "x")))
tokenizer("normalizers: a regex of every class of Unicode, a thousand times", setting(normalizer=replace({"Regex": "[\\p{L}\\p{N}\\p{S}]{1,50}" * 1000}, "x")))
tokenizer("normalizers: an empty pattern", setting(normalizer=replace({"String": ""}, "xyz" * 100)))
tokenizer("normalizers: Precompiled with bytes that are no charsmap", setting(normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xff" * 100).decode()}))
tokenizer("normalizers: Precompiled with a trie that points out of itself", setting(normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(struct.pack("<I", 1024) + b"\xff" * 1024 + b"a\0").decode()}))
tokenizer("normalizers: Precompiled that is longer than itself", setting(normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(struct.pack("<I", 2**32 - 4) + b"ab").decode()}))
tokenizer("normalizers: of a type that is none", setting(normalizer={"type": "\x1b[2J" * 1000}))
tokenizer("pre-tokenizers: a Split at nothing", setting(pre_tokenizer={"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False}))
tokenizer("pre-tokenizers: lookaheads and back references", setting(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+(?=\\1)$"}, "behavior": "Isolated", "invert": False}))
tokenizer("pre-tokenizers: 5,000 splits", setting(pre_tokenizer=sequence(None, [{"type": "Digits", "individual_digits": True}] * 5000, "pretokenizers")))
tokenizer("pre-tokenizers: a Metaspace that prepends always, a hundred times", setting(pre_tokenizer=sequence(None, [{"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}] * 100, "pretokenizers")))
tokenizer("post-processor: tokens that are none", setting(post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "none", "type_id": 0}}], "pair": [], "special_tokens": {}}))
tokenizer("post-processor: ids of 2^32 - 1", setting(post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
                                                              "special_tokens": {"a": {"id": "a", "ids": [2**32 - 1], "tokens": ["a"]}}}))
tokenizer("post-processor: a million tokens around each text", setting(post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}}] * 1000, "pair": [],
                                                                        "special_tokens": {"a": {"id": "a", "ids": [0] * 1000, "tokens": ["a"] * 1000}}}))
tokenizer("post-processor: the text a thousand times", setting(post_processor={"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 1000, "pair": [], "special_tokens": {}}))
tokenizer("post-processor: ids without tokens", setting(post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}}], "pair": [],
                                                                  "special_tokens": {"a": {"id": "a", "ids": [1, 2], "tokens": []}}}))
tokenizer("post-processor: Bert with ids out of the vocabulary", setting(post_processor={"type": "BertProcessing", "sep": ["[SEP]", 2**31], "cls": ["[CLS]", 2**31]}))
tokenizer("decoder: Replace of each letter by a thousand, three times", setting(decoder=sequence(None, [replace({"Regex": "."}, "ab" * 500)] * 3, "decoders")))
tokenizer("decoder: CTC with an empty pad", setting(decoder={"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True}))
tokenizer("decoder: sequences in sequences, 100 deep", setting(decoder=json.loads('{"type":"Sequence","decoders":[' * 20 + '{"type":"Fuse"}' + "]}" * 20)))
tokenizer("added tokens: 100,000", lambda made: made["added_tokens"].extend({"id": 10_000_000 + n, "content": f"<{n}>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for n in range(100_000)))
tokenizer("added tokens: one of 10 MB", lambda made: made["added_tokens"].append({"id": 9999, "content": "x" * 10_000_000, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}))
tokenizer("added tokens: an empty one", lambda made: made["added_tokens"].append({"id": 9999, "content": "", "single_word": False, "lstrip": True, "rstrip": True, "normalized": True, "special": True}))
tokenizer("added tokens: of spaces that eat each other", lambda made: made["added_tokens"].extend({"id": 9999 + n, "content": " " * (n + 1), "single_word": True, "lstrip": True, "rstrip": True, "normalized": True, "special": False} for n in range(200)))
tokenizer("added tokens: with escapes", lambda made: made["added_tokens"].append({"id": -1, "content": "\x1b[2J"}))
tokenizer("vocabulary: a token of 1 MB", lambda made: made["model"]["vocab"].update({"a" * 1_000_000: 0}))
tokenizer("vocabulary: ids up to 2^32", lambda made: made["model"]["vocab"].update({"zzzzz": 2**32 - 1}))
tokenizer("vocabulary: ids of 2^60", lambda made: made["model"]["vocab"].update({"zzzzz": 2**60}))
tokenizer("vocabulary: all have the same id", lambda made: made["model"]["vocab"].update(dict.fromkeys(made["model"]["vocab"], 7)))
tokenizer("vocabulary: none", lambda made: made["model"].update(vocab={}, merges=[]))
tokenizer("merges: of tokens that are none", lambda made: made["model"]["merges"].append("no_such other_such"))
tokenizer("merges: a million of one", lambda made: made["model"].update(merges=["a b"] * 1_000_000))
tokenizer("merges: without a space", lambda made: made["model"].update(merges=["ab", "", " "]))
tokenizer("a Unigram with scores that are none", setting(model={"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", 1e308], ["b", -1e308], ["", 0.0]]}))
tokenizer("a Unigram of one token of 16 kB letters", setting(model={"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a" * 16_000, -1.0]]}))
tokenizer("a WordPiece without its unknown token", setting(model={"type": "WordPiece", "unk_token": "none", "continuing_subword_prefix": "", "max_input_chars_per_word": 2**60, "vocab": {"a": 0}}))
tokenizer("a WordLevel of nothing", setting(model={"type": "WordLevel", "vocab": {}, "unk_token": "x"}))
tokenizer("BPE dropout of 1", lambda made: made["model"].update(dropout=1.0))
tokenizer("version, truncation and padding of other types", setting(version=7, truncation=[], padding="x"))


def costly(name, what, text="a" * 60_000, **fields):
    """A model of tokens that takes long for a text of 60 kB."""
    def run():
        made = {**stored("tokenizer.json"), "pre_tokenizer": None, "normalizer": None, "post_processor": None, "decoder": None, "added_tokens": [], "model": what, **fields}
        with folder() as at:
            return Ran("tokenize", model(os.path.join(at, "m"), tokenizer__json=made), "-", stdin=text.encode()).problem()
    attack("tokenizer", name, run)


word_piece = {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "", "max_input_chars_per_word": 100, "vocab": {"a": 0}}
costly("a WordPiece that takes words of any length, and a word of 60 kB", {**word_piece, "max_input_chars_per_word": 2**60})
costly("a WordPiece whose prefix has a megabyte", {**word_piece, "continuing_subword_prefix": "x" * 1_000_000}, text="aaaaaaaa " * 7000, pre_tokenizer={"type": "WhitespaceSplit"})
costly("a BPE whose prefix has a megabyte", {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "a", "continuing_subword_prefix": "x" * 1_000_000})
costly("a Unigram of 2,000 tokens that begin each other", {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]] + [["a" * n, -1.0 - n] for n in range(1, 2000)]})
costly("a BPE of 2,000 tokens that begin each other", {"type": "BPE", "vocab": {"a" * (n + 1): n for n in range(2000)}, "merges": [["a" * n, "a"] for n in range(1, 1999)]})
for pattern in ("(a|aa)+[cd]", "(a*)*(a*)*b", "(a+)+[^a]", "(?=(a+))a*b\\1"):
    costly(f"a pattern that goes back without end: {pattern}", {"type": "BPE", "vocab": {"a": 0}, "merges": []}, pre_tokenizer={"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
           normalizer=replace({"Regex": pattern}, "x"))
attack("tokenizer", "a tokenizer.json of 300 MB", lambda: with_model(*RUN, tokenizer__json='{"a":"' + "x" * 300_000_000 + '"}'))
attack("tokenizer", "a tokenizer.json with keys twice", lambda: with_model(*RUN, tokenizer__json='{"model":{},"model":{"type":"BPE"},"model":[]}'))
attack("tokenizer", "tokenizer_config.json: names of special tokens 1 MB long, of other types", lambda: with_model(*RUN, tokenizer_config__json={"bos_token": "x" * 1_000_000, "eos_token": {"content": {"content": 1}}, "pad_token": []}))
attack("tokenizer", "special_tokens_map.json: a list 50,000 deep", lambda: with_model(*RUN, special_tokens_map__json="[" * 50_000))
attack("tokenizer", "vocab.json and merges.txt alone, of garbage", lambda: with_model(*RUN, tokenizer__json=None, vocab__json='{"a":0,"b":1e99}', merges__txt="#version\n" + "a b\n" * 100_000))
attack("tokenizer", "tokenizer.model that is no protocol buffer", lambda: with_model(*RUN, tokenizer__json=None, vocab__json=None, merges__txt=None, tokenizer__model=b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" * 100))

# --- chat templates ---------------------------------------------------------------------------------------------


def template(name, source):
    attack("template", name, lambda: with_model(*RUN, chat_template__jinja=source))


template("a chain of 100,000 elif", "{% if 0 %}" + "{% elif 0 %}" * 60_000 + "{% endif %}")
template("10,000 blocks in each other", "{% if 1 %}" * 10_000 + "{% endif %}" * 10_000)
template("macros that call each other for ever", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}")
template("a macro that calls its caller for ever", "{% macro a() %}{{ caller() }}{% endmacro %}{% call a() %}{% call a() %}{{ a() }}{% endcall %}{% endcall %}")
template("recursive loops over a list that holds itself", "{% set l = [1] %}{% set l = [l, l] %}" * 5 + "{% for a in l recursive %}{{ loop(a) if a is iterable }}{% endfor %}")
template("a string that doubles sixty times", "{% set n = namespace(a='x') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a }}")
template("a list that doubles sixty times", "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}{{ n.a|length }}")
template("a dictionary of itself, printed", "{% set n = namespace(a={}) %}{% for i in range(100000) %}{% set n.a = {'a': n.a} %}{% endfor %}{{ n.a|tojson }}")
template("sorting long lists again and again", "{% for i in range(100000) %}{{ range(100000)|sort|length }}{% endfor %}")
template("comparing long strings again and again", "{% set a = 'x' * 1000000 %}{% for i in range(1000000) %}{{ a == a ~ 'y' }}{% endfor %}")
template("unique, groupby and map of 100,000", "{% for i in range(10000) %}{{ range(100000)|unique|map('string')|list|length }}{% endfor %}")
template("replace of each letter by a thousand, five times", "{{ ('a' * 1000)|replace('a', 'a' * 1000)|replace('a', 'a' * 1000)|replace('a', 'a' * 1000) }}")
template("join with a long separator", "{{ range(100000)|join('x' * 100000) }}")
template("center, indent and wordwrap of 10^12", "{{ 'a'|center(1000000000000) }}{{ 'a\nb'|indent(1000000000000) }}")
template("range of 2^62, slices by 0, batches of 0", "{{ range(4611686018427387904)|list }}{{ [1][::0] }}{{ [1]|batch(0)|list }}")
template("numbers that grow without end", "{% set n = namespace(a=2) %}{% for i in range(1000) %}{% set n.a = n.a * n.a %}{% endfor %}{{ n.a }}")
template("division by zero, the remainder of the smallest number", "{{ (-9223372036854775807 - 1) // -1 }}{{ 1 // 0 }}{{ 1 % 0 }}")
template("split at nothing of a long string", "{{ ('a' * 1000000).split('') }}{{ ('a,' * 1000000).split(',')|length }}")
template("format with widths of 2^31", "{{ '%2147483647s' % 'a' }}{{ '{:>2147483647}'.format('a') }}")
template("attributes with underscores, of methods, of modules", "{{ ().__class__.__bases__ }}{{ messages.append.__globals__ }}{{ self.__init__ }}")
template("strftime_now of a long format", "{{ strftime_now('%c' * 300000) }}")
template("raise_exception with escapes and 10 MB", "{{ raise_exception('\x1b[2J' * 100000) }}")
template("an error in a line of 1 MB", "{{ " + "a" * 1_000_000 + " + }}")
template("comments and raw blocks that never end", "{# " + "{% raw %}" * 100_000)
template("a chain of 100,000 filters with arguments", "{{ 'a'" + "|default('b')" * 80_000 + " }}")
template("a chain of 100,000 comparisons", "{{ 1" + " < 1" * 200_000 + " }}")
template("nested inline conditions in lists", "{{ " + "[1 if 1 else " * 5000 + "1" + "]" * 5000 + " }}")
template("100,000 variables", "".join(f"{{% set v{n} = {n} %}}" for n in range(40_000)) + "{{ v1 }}")
attack("template", "the first Ctrl-C ends a template without end", lambda: with_interrupt())
attack("template", "chat_template in tokenizer_config.json: a list of 10,000, names twice, of other types", lambda: with_model(*RUN, chat_template__jinja=None, tokenizer_config__json={"chat_template": [{"name": "default", "template": "a"}] * 10_000 + [{"name": 1}, []]}))


def with_interrupt():
    with folder() as at:
        made = model(os.path.join(at, "m"), chat_template__jinja="{% for a in range(19000000) %}{% endfor %}" * 3)
        return Ran("run", made, "--prompt", "a", "-n", "1", interrupt=0.3).problem((0, 1, 130))


# --- configs ----------------------------------------------------------------------------------------------------


def config(name, **fields):
    attack("config", name, lambda: with_model(*RUN, config__json={**stored("config.json"), **fields}))


config("num_hidden_layers 10^9", num_hidden_layers=10**9)
config("hidden_size 2^62", hidden_size=2**62)
config("hidden_size odd and prime", hidden_size=257)
config("num_attention_heads 0", num_attention_heads=0)
config("head_dim 2^40", head_dim=2**40)
config("intermediate_size negative", intermediate_size=-1)
config("vocab_size 0", vocab_size=0)
config("max_position_embeddings 2^63", max_position_embeddings=2**63 - 1)
config("rope_theta 0, rms_norm_eps of 10^308", rope_theta=0, rms_norm_eps=1e308)
config("an architecture of a million letters with escapes", architectures=["\x1b[2J" * 200_000], model_type="\x1b[2J" * 200_000)
config("10,000 architectures", architectures=["Qwen3ForCausalLM"] * 10_000)
config("layer_types of a million", layer_types=["full_attention"] * 1_000_000)
config("eos_token_id of every kind", eos_token_id=[None, -1, 2**64, "a", [], {}])
config("sliding_window 0", sliding_window=0, use_sliding_window=True, max_window_layers=0)
config("a million keys", **{f"k{n}": n for n in range(300_000)})
config("experts: 2^31 of them, more used than there are", num_experts=2**31, num_experts_per_tok=2**31)
attack("config", "a config.json of 200 MB", lambda: with_model(*RUN, config__json='{"a":"' + "x" * 200_000_000 + '"}'))
attack("config", "a config.json 100,000 deep", lambda: with_model(*RUN, config__json='{"a":' * 100_000))
attack("config", "generation_config.json with numbers that make no sense", lambda: with_model(*RUN, generation_config__json={"temperature": 1e308, "top_k": -5, "top_p": [], "eos_token_id": [2**40] * 100_000, "bos_token_id": -1}))
attack("config", "files that are folders", lambda: folders())


def folders():
    wrong = []
    for name in ("config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja", "generation_config.json"):
        with folder() as at:
            made = model(os.path.join(at, "m"), **{name.replace(".", "__"): None})
            os.mkdir(os.path.join(made, name))
            wrong.append(Ran("run", made, "--prompt", "a", "-n", "1").problem())
    return "; ".join(filter(None, wrong))


# --- weights in safetensors ----------------------------------------------------------------------------------------


def weights(name, header, data=b"", length=None, commands=(RUN, ("verify", "MODEL"), ("inspect", "MODEL", "--tensors"))):
    def run():
        stated = header if isinstance(header, bytes) else json.dumps(header).encode()
        file = struct.pack("<Q", len(stated) if length is None else length) + stated + data
        return "; ".join(filter(None, (with_model(*command, model__safetensors=file, codes=(1, 2) if command is RUN else (0, 1, 2)) for command in commands)))
    attack("safetensors", name, run)


one = lambda dtype="F32", shape=(2, 2), offsets=(0, 16): {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}
weights("a header of 2^63 bytes", b"{}", length=2**63)
weights("a header of 2^64 - 1 bytes", b"{}", length=2**64 - 1)
weights("a header that takes the whole file and more", b"{}", length=3)
weights("a header of nothing", b"", length=0)
weights("a header 50,000 deep", b'{"a":' * 50_000)
weights("a header of 100,000 tensors of nothing", {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)})
weights("the same tensor twice", b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4)
weights("tensors over each other", {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}, b"\0" * 24)
weights("offsets that go back", one(offsets=(16, 0)), b"\0" * 16)
weights("offsets past the end", one(offsets=(2**62, 2**62 + 16)), b"\0" * 16)
weights("offsets that are negative, fractions, texts", {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0.5]}, "b": {"dtype": "F32", "shape": ["x"], "data_offsets": {}}}, b"\0" * 16)
weights("a shape whose product overflows", one(shape=(2**32, 2**32, 2), offsets=(0, 0)))
weights("a shape whose product overflows to what is there", one(shape=(2**62 + 1, 4), offsets=(0, 16)), b"\0" * 16)
weights("a shape of 10,000 dimensions", one(shape=[1] * 10_000, offsets=(0, 4)), b"\0" * 4)
weights("a type that nobody knows, with escapes", one(dtype="\x1b[2J\x07"), b"\0" * 16)
weights("names with escapes, NUL and a megabyte", {"\x1b[2J\0" * 100_000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4)
weights("metadata of a million pairs", {"__metadata__": {f"k{n}": "\x1b[2J" for n in range(200_000)}, **one()}, b"\0" * 16)
weights("metadata that are no texts", {"__metadata__": {"a": {"b": []}}, **one()}, b"\0" * 16)
weights("half bytes: 4-bit types of an odd count", one(dtype="F4", shape=[3], offsets=(0, 2)), b"\0" * 2)
weights("a header in UTF-16", "{}".encode("utf-16"))
weights("a header behind a byte order mark", b"\xef\xbb\xbf{}")
weights("a file of zeros", b"\0" * 4096, length=0)
weights("holes between tensors", {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [1 << 20, (1 << 20) + 4]}}, b"\0" * ((1 << 20) + 4))


def index(name, what):
    attack("safetensors", name, lambda: "; ".join(filter(None, (with_model(*command, model__safetensors=None, **{"model__safetensors__index__json": what}) for command in (RUN, ("verify", "MODEL"))))))


index("index: files outside of the folder", {"weight_map": {"a": "../../../etc/passwd", "b": "/etc/passwd"}})
index("index: names with NUL and escapes", {"weight_map": {"a": "x\0.safetensors", "b": "\x1b[2J.safetensors"}})
index("index: itself as a shard", {"weight_map": {"a": "model.safetensors.index.json"}})
index("index: 200,000 shards", {"weight_map": {f"t{n}": f"s{n}.safetensors" for n in range(200_000)}})
index("index: lists, numbers, nothing", {"weight_map": [1, {}]})
index("index: total_size 2^70", {"metadata": {"total_size": 2**70}, "weight_map": {}})


def cut_weights():
    with folder() as at:
        made = model(os.path.join(at, "m"), model__safetensors=None)
        path = os.path.join(made, "model.safetensors")
        shutil.copy(os.path.join(MODEL, "model.safetensors"), path)
        os.chmod(path, 0o644)
        os.truncate(path, os.path.getsize(path) - 1_000_000)
        return Ran("run", made, "--prompt", "a", "-n", "1").problem((1,))


def shrinking():
    """The file is cut while it is used: the process ends with a line that names it."""
    with folder() as at:
        made = model(os.path.join(at, "m"), model__safetensors=None)
        path = os.path.join(made, "model.safetensors")
        shutil.copy(os.path.join(MODEL, "model.safetensors"), path)
        os.chmod(path, 0o644)
        timer = threading.Timer(0.4, lambda: os.truncate(path, 100_000))
        timer.start()
        done = Ran("eval", made, "--data", os.path.join(MODEL, "merges.txt"), "--activations", "float")
        timer.join()
        if done.code == 1 and b"model.safetensors" not in done.stderr:
            return f"the file is not named: {done.stderr!r}"
        return done.problem((0, 1))


def holes():
    with folder() as at:
        made = model(os.path.join(at, "m"), model__safetensors=None)
        path = os.path.join(made, "model.safetensors")
        shutil.copy(os.path.join(MODEL, "model.safetensors"), path)
        os.chmod(path, 0o644)
        with open(path, "r+b") as file:
            file.seek(os.path.getsize(path) // 2)
            file.write(bytes(8 << 20))
        done = Ran("verify", made)
        return done.problem((1,)) or ("" if b"zero" in done.stderr + done.stdout else f"{done.stderr!r}")


attack("safetensors", "a megabyte is missing at the end", cut_weights)
attack("safetensors", "the file shrinks while it is used", shrinking)
attack("safetensors", "verify: 8 MiB of zeros in the middle", holes)

# --- images -----------------------------------------------------------------------------------------------------


def image(name, data, codes=(1, 2)):
    def run():
        with folder() as at:
            path = os.path.join(at, "i")
            with open(path, "wb") as out:
                out.write(data)
            return Ran("run", SEEING, "--prompt", "a", "-n", "1", "--image", path).problem(codes)
    if SEEING:
        attack("image", name, run)


def gif(width, height):
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff" + b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x02\x02\x4c\x01\0;"


jpeg = lambda width, height: b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\3\1\x22\0\2\x11\1\3\x11\1" + b"\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0" + b"\0" * 100
webp = lambda kind, data: b"RIFF" + struct.pack("<I", len(data) + 12) + b"WEBP" + kind + struct.pack("<I", len(data)) + data
image("a PNG of 2^31 - 1 by 2^31 - 1 pixels", png(2**31 - 1, 2**31 - 1, b""))
image("a PNG of 60,000 by 60,000 pixels, compressed well", png(60_000, 60_000, zlib.compress(bytes(10_000_000))))
image("a PNG of 0 by 7 pixels", png(0, 7, b""))
image("a PNG of 1 by 200,000 pixels", png(1, 200_000))
image("a PNG of 200,000 by 1 pixels", png(200_000, 1))
image("a PNG whose data are 300 MB of zeros for one pixel", png(1, 1, zlib.compress(bytes(300_000_000), 9)), codes=(0, 1, 2))
image("a PNG with a text chunk that is a bomb", png(32, 32, more=(lambda d: struct.pack(">I", len(d)) + b"zTXt" + d + struct.pack(">I", zlib.crc32(b"zTXt" + d)))(b"a\0\0" + zlib.compress(bytes(200_000_000), 9))), codes=(0, 1, 2))
image("a PNG with a colour profile that is a bomb", png(32, 32, more=(lambda d: struct.pack(">I", len(d)) + b"iCCP" + d + struct.pack(">I", zlib.crc32(b"iCCP" + d)))(b"a\0\0" + zlib.compress(bytes(200_000_000), 9))), codes=(0, 1, 2))
image("a PNG with a chunk of 2^32 - 1 bytes", b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**32 - 1) + b"IHDR" + b"\0" * 100)
image("a PNG with wrong checksums", png(32, 32)[:-5] + b"xxxxx", codes=(0, 1, 2))
image("a PNG with palette indexes and no palette", png(32, 32, zlib.compress(bytes(33 * 32)), kind=3))
image("a PNG with 32 bits a channel", png(32, 32, depth=32))
image("a PNG cut in the middle", png(64, 64)[:-30])
image("an animated PNG of a million frames", png(32, 32, more=struct.pack(">I", 8) + b"acTL" + struct.pack(">II", 1_000_000, 0) + struct.pack(">I", zlib.crc32(b"acTL" + struct.pack(">II", 1_000_000, 0)))), codes=(0, 1, 2))
image("a JPEG of 65,535 by 65,535 pixels", jpeg(65535, 65535))
image("a JPEG of 0 by 0 pixels", jpeg(0, 0))
image("a JPEG without tables", jpeg(64, 64), codes=(0, 1, 2))
image("a JPEG of a thousand scans", jpeg(64, 64) * 1000, codes=(0, 1, 2))
image("a WebP of 16,384 by 16,384 pixels", webp(b"VP8L", b"\x2f\xff\xff\xff\x0f" + b"\0" * 100))
image("a WebP whose parts are longer than it", b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + b"\0" * 50)
image("a WebP with VP8X and nothing in it", webp(b"VP8X", b"\xff\0\0\0\xff\xff\xff\xff\xff\xff"))
image("a GIF of 65,535 by 65,535 pixels", gif(65535, 65535))
image("an SVG with an entity bomb", b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><svg xmlns="http://www.w3.org/2000/svg">&b;</svg>')
image("a TIFF whose directory points to itself", b"II*\0\x08\0\0\0\1\0\0\1\3\0\1\0\0\0\1\0\0\0\x08\0\0\0")
image("a file of nothing", b"")
image("a file of 40 MB of 0xff", b"\xff" * 40_000_000)

# --- resuming ---------------------------------------------------------------------------------------------------

MAKE = ("quantize", "MODEL", "--codec", "q8_0", "--quiet", "--out", "DIR/o.gguf")


def parts(at):
    return [name for name in os.listdir(at) if "keeve-part" in name]


def stopped(at):
    """Quantizes until a part lies there, and ends that by force."""
    process = subprocess.Popen([KEEVE, *(one.replace("MODEL", MODEL).replace("DIR", at) for one in MAKE)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        if any(os.path.getsize(os.path.join(at, name)) > 5_000_000 for name in parts(at)):
            break
        time.sleep(0.001)
    process.kill()
    process.wait()
    return parts(at)


_right = []


def right():
    """The hash of what an undisturbed run writes."""
    if not _right:
        with folder() as at:
            Ran(*(one.replace("MODEL", MODEL).replace("DIR", at) for one in MAKE))
            _right.append(digest(os.path.join(at, "o.gguf")))
    return _right[0]


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def resume(name, change, names=None):
    def run():
        with folder() as at:
            lying = names or stopped(at)
            if not lying and not os.path.exists(os.path.join(at, "o.gguf")):
                return "no part was left to try this with"
            canary = os.path.join(at, "canary")
            with open(canary, "w") as out:
                out.write("precious")
            change(at, sorted(lying), canary)
            done = Ran(*(one.replace("MODEL", MODEL).replace("DIR", at) for one in MAKE))
            with open(canary) as file:
                if file.read() != "precious":
                    return "a file elsewhere was written"
            path = os.path.join(at, "o.gguf")
            if done.code == 0 and (os.path.islink(path) or digest(path) != right()):
                return "what was written is not what it should be"
            left = [name for name in parts(at) if "o.gguf" in name and not os.path.isdir(os.path.join(at, name))]
            return done.problem((0,)) or (f"left: {left}" if left else "")
    attack("resume", name, run)


def each(change):
    def run(at, names, canary):
        for name in names:
            change(os.path.join(at, name), canary)
    return run


def filled(byte):
    def run(path, _):
        size = os.path.getsize(path)
        with open(path, "wb") as out:
            out.write(byte * size)
    return run


def middle(path, _):
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        file.write(b"\0" * min(100_000, os.path.getsize(path) // 2))


def relinked(hard):
    def run(path, canary):
        os.remove(path)
        (os.link if hard else os.symlink)(canary, path)
    return run


def made_folder(path, _):
    os.remove(path)
    os.mkdir(path)
    with open(os.path.join(path, "inside"), "w"):
        pass


def made_fifo(path, _):
    os.remove(path)
    os.mkfifo(path)


def weights_only(change):
    return lambda at, names, canary: [change(os.path.join(at, name), canary) for name in names if os.path.getsize(os.path.join(at, name)) > 1_000_000]


def records_only(change):
    return lambda at, names, canary: [change(os.path.join(at, name), canary) for name in names if os.path.getsize(os.path.join(at, name)) <= 1_000_000]


resume("nothing is changed", lambda *_: None)
resume("the parts are zeros of the same length", each(filled(b"\0")))
resume("the weights are zeros, the records are kept", weights_only(filled(b"\0")))
resume("some zeros in the middle of the weights", weights_only(middle))
resume("the weights are cut", weights_only(lambda path, _: os.truncate(path, os.path.getsize(path) // 3)))
resume("the weights are longer", weights_only(lambda path, _: os.truncate(path, os.path.getsize(path) + (1 << 30))))
resume("the weights are a sparse file of 1 TiB", weights_only(lambda path, _: os.truncate(path, 1 << 40)))
resume("the records are of another run", records_only(filled(b"f")))
resume("the records are gone", records_only(lambda path, _: os.remove(path)))
resume("the records are cut in the middle of one", records_only(lambda path, _: os.truncate(path, max(0, os.path.getsize(path) - 7))))
resume("the records are 1 TiB long", records_only(lambda path, _: os.truncate(path, 1 << 40)))
resume("the parts are links to a file elsewhere", each(relinked(False)))
resume("the parts are second names of a file elsewhere", each(relinked(True)))
resume("the parts are folders", each(made_folder))
resume("the parts are named pipes", each(made_fifo))
resume("the parts are links to a device", each(lambda path, _: (os.remove(path), os.symlink("/dev/zero", path))))
resume("the parts are links to nothing", each(lambda path, _: (os.remove(path), os.symlink("/nonexistent/x", path))))
resume("the parts may not be read", each(lambda path, _: os.chmod(path, 0)))
resume("10,000 leftovers of other runs beside it", lambda at, names, canary: [open(os.path.join(at, f".x{n}.gguf.{n:08x}.keeve-part"), "w").close() for n in range(10_000)])


def replaced_output(kind):
    def run():
        with folder() as at:
            path, canary = os.path.join(at, "o.gguf"), os.path.join(at, "canary")
            with open(canary, "w") as out:
                out.write("precious")
            kind(path, canary)
            done = Ran(*(one.replace("MODEL", MODEL).replace("DIR", at) for one in MAKE))
            with open(canary) as file:
                return "a file elsewhere was written" if file.read() != "precious" else done.problem((0, 1, 2))
    return run


attack("resume", "the output is a link to a file elsewhere", replaced_output(lambda path, canary: os.symlink(canary, path)))
attack("resume", "the output is a second name of a file elsewhere", replaced_output(lambda path, canary: os.link(canary, path)))
attack("resume", "the output is a named pipe", replaced_output(lambda path, _: os.mkfifo(path)))
attack("resume", "the output is a link to nothing", replaced_output(lambda path, _: os.symlink("/nonexistent/x", path)))


def two_at_once():
    with folder() as at:
        command = [KEEVE, *(one.replace("MODEL", MODEL).replace("DIR", at) for one in MAKE)]
        both = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
        codes = []
        for process in both:
            try:
                process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            codes.append(process.returncode)
        if 0 not in codes or any(code not in (0, 1) for code in codes):
            return f"codes {codes}"
        return "" if digest(os.path.join(at, "o.gguf")) == right() else "what was written is not what it should be"


attack("resume", "four that write the same file at once", two_at_once)

# --- the hub ----------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A hub on 127.0.0.1 whose answers are a function of the path."""

    def __init__(self, answer):
        asked = self.asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                asked.append((self.path, dict(self.headers)))
                with contextlib.suppress(OSError):
                    answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self):
        self.server.shutdown()
        self.server.server_close()


def say(handler, status=200, body=b"", **headers):
    handler.send_response_only(status)
    headers = {"Content_Length": str(len(body)), "X_Repo_Commit": COMMIT, **headers}
    for name, value in headers.items():
        if value is not None:
            handler._headers_buffer.append(f"{name.replace('_', '-')}: {value}\r\n".encode("latin-1"))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def info(files, sha=COMMIT):
    return json.dumps({"sha": sha, "siblings": [{"rfilename": name} if isinstance(name, str) else name for name in files]}).encode()


def hub(name, answer, codes=(1,), prepare=None, after=None, seconds=SECONDS, revision="main", repository="owner/model"):
    def run():
        with folder() as at:
            server = Hub(answer)
            if prepare:
                prepare(at)
            env = {"HF_HOME": at, "HF_ENDPOINT": f"http://127.0.0.1:{server.port}", "HF_TOKEN": "hf_secret", "HF_HUB_CACHE": os.path.join(at, "hub")}
            done = Ran("download", repository, "--revision", revision, env=env, seconds=seconds)
            server.end()
            outside = [path for path, _, _ in os.walk(at) if "escaped" in path] or os.path.exists(os.path.join(os.path.dirname(at), "escaped"))
            if outside:
                return f"written outside: {outside}"
            if b"hf_secret" in done.stderr + done.stdout:
                return "the token is shown"
            return done.problem(codes) or (after(at, done, server) if after else "")
    attack("hub", name, run)


def listing(answer):
    """A hub whose listing is sound and whose files are answered by a function."""
    def run(handler):
        if "/api/" in handler.path:
            return say(handler, body=info(["config.json", "model.safetensors", "tokenizer.json"]))
        return answer(handler)
    return run


def raw(data, hold=0.0):
    def run(handler):
        handler.wfile.write(data)
        handler.wfile.flush()
        time.sleep(hold)
        handler.close_connection = True
    return run


def endless(handler):
    handler.send_response_only(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")


def endless_head(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X: " + b"y" * 60_000 + b"\r\n")


hub("a listing of 10^9 bytes", lambda h: endless(h))
hub("a head without end", endless_head)
hub("a listing 100,000 deep", lambda h: say(h, body=b"[" * 100_000))
hub("a listing of 200,000 files", lambda h: say(h, body=info([f"f{n}.safetensors" for n in range(200_000)])) if "/api/" in h.path else say(h, 404))
hub("a listing whose files are paths outside", lambda h: say(h, body=info(["../../escaped", "/tmp/escaped", "a/../../escaped.safetensors", "..\\escaped"])) if "/api/" in h.path else say(h, body=b"x", ETag='"a"'), codes=(0, 1))
hub("a listing whose files have escapes and NUL", lambda h: say(h, body=info(["\x1b[2J.safetensors", "a\0b.gguf", "\u202e.gguf"])), codes=(0, 1))
hub("a commit that is a path", lambda h: say(h, body=info(["config.json"], sha="../../escaped"), X_Repo_Commit="../../escaped"))
hub("a commit of 10 MB", lambda h: say(h, body=info(["config.json"], sha="a" * 10_000_000)))
hub("a listing of no files", lambda h: say(h, body=info([])))
hub("a listing of files that are lists, numbers, nothing", lambda h: say(h, body=json.dumps({"sha": COMMIT, "siblings": [1, [], None, {"rfilename": 7}]}).encode()))
hub("an etag that is a path", listing(lambda h: say(h, body=b"{}", ETag='"../../escaped"')), codes=(0, 1))
hub("an etag of 60 kB", listing(lambda h: say(h, body=b"{}", ETag='"' + "a" * 60_000 + '"')), codes=(0, 1))
hub("a file whose hash is another", listing(lambda h: say(h, body=b"{}", ETag='"' + "0" * 64 + '"', X_Linked_Etag='"' + "0" * 64 + '"', X_Linked_Size="2")))
hub("a file that is shorter than announced", listing(lambda h: say(h, body=b"{}", Content_Length="1000000", ETag='"a"', Connection="close") or setattr(h, "close_connection", True)))
hub("a file of 2^63 bytes, announced", listing(lambda h: say(h, body=b"{}", Content_Length=str(2**63), ETag='"a"', Connection="close") or setattr(h, "close_connection", True)))
hub("a length that is negative, a text", listing(raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\nETag: \"a\"\r\n\r\nabc")))
hub("redirects in a circle", lambda h: say(h, 302, Location=h.path))
hub("redirects without end", lambda h: say(h, 302, Location=h.path + "x"))
hub("a redirect to a file", lambda h: say(h, 302, Location="file:///etc/passwd"))
hub("a redirect to an address that is none", lambda h: say(h, 302, Location="http://[::1"))
hub("a redirect with a name and a password", lambda h: say(h, 302, Location="http://user:pass@127.0.0.1:9/"))
hub("status 999, 0, 99999", raw(b"HTTP/1.1 999 \x1b[2J\r\n\r\n"))
hub("status in words with escapes", lambda h: say(h, 403, body="\x1b]0;owned\x07\x1b[2J".encode() * 1000))
hub("what is no HTTP", raw(b"SSH-2.0-x\r\n" * 1000))
hub("500 for ever", lambda h: say(h, 500))
hub("429 with Retry-After of a year", lambda h: say(h, 429, Retry_After="31536000"))
hub("401 that asks for a login", lambda h: say(h, 401, WWW_Authenticate="Basic realm=\"x\""))
hub("compressed content that is a bomb", lambda h: say(h, body=zlib.compress(bytes(1_000_000_000), 9), Content_Encoding="deflate"))
hub("a revision that is a path", lambda h: say(h, 404), revision="../../escaped", codes=(1, 2))
hub("a revision with escapes and line ends", lambda h: say(h, 404), revision="a\r\nX: y\x1b[2J", codes=(1, 2))
hub("a repository with dots", lambda h: say(h, 404), repository="../escaped", codes=(1, 2))


def elsewhere(at, done, server):
    seen = [headers for path, headers in server.asked if path.startswith("/stolen") and "Authorization" in headers]
    return f"the token went elsewhere: {len(seen)} times" if seen else ""


def redirected(handler):
    if handler.path.startswith("/stolen"):
        return say(handler, 404)
    other = handler.server.server_address[1]
    return say(handler, 302, Location=f"http://localhost:{other}/stolen")


hub("a redirect to another name of the same machine", redirected, after=elsewhere)


def planted(kind):
    def prepare(at):
        root = os.path.join(at, "hub", "models--owner--model")
        os.makedirs(os.path.join(root, "blobs"))
        content = hashlib.sha256(b"{}").hexdigest()
        with open(os.path.join(at, "canary"), "w") as out:
            out.write("precious")
        kind(root, os.path.join(root, "blobs", content + ".incomplete"), os.path.join(at, "canary"))
    return prepare


def untouched(at, *_):
    with open(os.path.join(at, "canary")) as file:
        return "" if file.read() == "precious" else "a file elsewhere was written"


sound = listing(lambda h: say(h, body=b"{}", ETag='"' + hashlib.sha256(b"{}").hexdigest() + '"', Accept_Ranges="bytes"))
hub("a part in the cache is a link to a file elsewhere", sound, codes=(0, 1), prepare=planted(lambda root, path, canary: os.symlink(canary, path)), after=untouched)
hub("a part in the cache is a folder", sound, codes=(0, 1), prepare=planted(lambda root, path, canary: os.mkdir(path)), after=untouched)
hub("a part in the cache is a named pipe", sound, codes=(0, 1), prepare=planted(lambda root, path, canary: os.mkfifo(path)), after=untouched)
hub("a part in the cache is longer than the file", sound, codes=(0, 1), prepare=planted(lambda root, path, canary: open(path, "wb").write(b"x" * 1000)), after=untouched)
hub("blobs is a link to another folder", sound, codes=(0, 1), prepare=planted(lambda root, path, canary: (os.rmdir(os.path.join(root, "blobs")), os.symlink("/nonexistent", os.path.join(root, "blobs")))), after=untouched)
hub("refs/main is a folder, a named pipe", sound, codes=(0, 1), prepare=planted(lambda root, path, canary: (os.makedirs(os.path.join(root, "refs")), os.mkfifo(os.path.join(root, "refs", "main")))), after=untouched)


def listed(name, prepare, *command):
    def run():
        with folder() as at:
            prepare(os.path.join(at, "hub"))
            env = {"HF_HOME": at, "HF_HUB_CACHE": os.path.join(at, "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
            return Ran(*(command or ("list",)), env=env).problem()
    attack("hub", name, run)


def escapes(at):
    os.makedirs(os.path.join(at, "models--a--\x1b[2Jb", "snapshots", "\x1b[2J"))


def circle(at):
    os.makedirs(os.path.join(at, "models--a--b", "snapshots", COMMIT))
    os.symlink("..", os.path.join(at, "models--a--b", "snapshots", COMMIT, "up"))
    os.symlink(COMMIT, os.path.join(at, "models--a--b", "snapshots", "c"))


def pipe_ref(at):
    os.makedirs(os.path.join(at, "models--a--b", "refs"))
    os.makedirs(os.path.join(at, "models--a--b", "snapshots", COMMIT))
    os.mkfifo(os.path.join(at, "models--a--b", "refs", "main"))


def outside(at):
    os.makedirs(at)
    kept = os.path.join(os.path.dirname(at), "kept")
    os.mkdir(kept)
    os.symlink(kept, os.path.join(at, "models--a--b"))


listed("list: names in the cache with escapes", escapes)
listed("list: links in a circle in the cache", circle)
listed("list: refs/main is a named pipe", pipe_ref)
listed("rm: a model that is a link to another folder", outside, "rm", "a/b")
listed("run --offline: refs/main is a named pipe", pipe_ref, "run", "a/b", "--offline", "--prompt", "x", "-n", "1")

# --- requests ---------------------------------------------------------------------------------------------------

_server = []


class Server:
    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([KEEVE, "serve", MODEL, "--alias", "m", "--port", str(self.port)], stdout=self.log, stderr=self.log, preexec_fn=os.setsid)
        for _ in range(600):
            with contextlib.suppress(OSError):
                if self.send(CHAT, message())[0] == 200:
                    break
            time.sleep(0.1)
        self.before = self.resident()

    def send(self, path, body, method="POST", timeout=SECONDS):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            # Whoever refuses early does not read the rest.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body if isinstance(body, bytes) else json.dumps(body).encode(), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def resident(self, field="VmRSS"):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) // 1024 for line in status if line.startswith(field))


def message(**more):
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **more}


def request(name, *bodies, path=CHAT, allowed=(200, 400, 413, 422)):
    def run():
        if not _server or _server[0].process.poll() is not None:
            _server[:] = [Server()]
        server, wrong = _server[0], []
        for body in bodies:
            status, text = server.send(path, body() if callable(body) else body)
            if status not in allowed or b"panicked" in text:
                wrong.append(f"{status} {text[:150]!r}")
            if status != 200 and not 0 < len(text) < 8000:
                wrong.append(f"an error of {len(text)} bytes")
        begun = time.monotonic()
        status = server.send(CHAT, message())[0]
        if status != 200 or time.monotonic() - begun > 10:
            wrong.append(f"afterwards {status} in {time.monotonic() - begun:.1f} s")
        if server.resident() - server.before > 600:
            wrong.append(f"{server.before} MiB became {server.resident()} MiB")
        return "; ".join(wrong)
    attack("request", name, run)


form = lambda schema: message(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
lark = lambda grammar: message(response_format={"type": "lark", "grammar": grammar})
regex = lambda pattern: message(response_format={"type": "regex", "regex": pattern})
user = lambda text: message(messages=[{"role": "user", "content": text}])
request("prompts of 8 MiB: digits, spaces, line ends, one letter, emoji, combining marks", *(lambda text=text: user(text) for text in ("1" * (8 << 20), " " * (8 << 20), "\n" * (8 << 20), "a" * (8 << 20), "\U0001f469\u200d" * (1 << 20), "e" + "\u0301" * (2 << 20))))
request("prompts that just do not fit: 4 kB to 64 kB of every kind", *(user(letter * count) for letter in ("1", " ", "a", "\u00e9", "\u4e2d", "\U0001f600", "<", "\x00") for count in (4096, 65536)))
request("prompts of names of special tokens, 10,000 times", user("<|im_start|>system\n<|im_end|>" * 10_000), user("<|endoftext|>" * 10_000))
request("a tool's result of 8 MiB", lambda: message(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "a", "content": "1" * (8 << 20)}]))
request("a system message of 8 MiB and a name of 1 MiB", lambda: message(messages=[{"role": "system", "content": "b" * (8 << 20)}, {"role": "user", "name": "n" * (1 << 20), "content": "a"}]))
request("schema: oneOf of 200 objects that overlap", form({"oneOf": [{"type": "object", "properties": {f"a{n}": {"type": "string"} for n in range(k)}} for k in range(200)]}))
request("schema: anyOf in anyOf, thirty deep, twice each", form(json.loads('{"anyOf":[{"type":"null"},' * 30 + '{"type":"string"}' + "]}" * 30)))
request("schema: allOf of anyOf, 2^40 combinations", form({"allOf": [{"anyOf": [{"properties": {f"a{n}": {"const": k}}} for k in range(2)]} for n in range(40)]}))
request("schema: references that double, forty times", form({"$defs": {f"d{n}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {"type": "null"}}, "$ref": "#/$defs/d0"}))
request("schema: references in a circle through every keyword", form({"$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"anyOf": [{"$ref": "#/$defs/c"}]}, "c": {"if": {"$ref": "#/$defs/a"}, "then": {"$ref": "#/$defs/b"}}}, "$ref": "#/$defs/a"}))
request("schema: dynamic references, anchors twice, ids that are addresses", form({"$id": "http://127.0.0.1:9/a", "$dynamicAnchor": "a", "$defs": {"x": {"$anchor": "a"}, "y": {"$anchor": "a"}}, "$dynamicRef": "#a"}))
request("schema: patterns that intersect, thirty of them", form({"allOf": [{"type": "string", "pattern": f"a.{{{n}}}b"} for n in range(1, 31)]}))
request("schema: patternProperties that overlap, 500 of them", form({"type": "object", "patternProperties": {f"^.*{n}.*$": {"type": "integer", "minimum": n} for n in range(500)}}))
request("schema: propertyNames with a pattern that explodes", form({"type": "object", "propertyNames": {"pattern": "^(a|aa)+(b|bb)+.{500}$"}}))
request("schema: uniqueItems of an enum of 1,000, contains 10^9 times", form({"type": "array", "items": {"enum": list(range(1000))}, "uniqueItems": True}), form({"type": "array", "contains": {"const": 1}, "minContains": 10**9}))
request("schema: numbers with 10,000 digits, exponents of 10^9", (json.dumps(form("S")).replace('"S"', '{"type":"integer","minimum":' + "9" * 10_000 + "}")).encode(), (json.dumps(form("S")).replace('"S"', '{"type":"number","maximum":1e-400,"multipleOf":1e300}')).encode())
request("schema: minimum and maximum far apart, multipleOf of seven digits", form({"type": "integer", "minimum": -10**17, "maximum": 10**17, "multipleOf": 9999991}))
request("schema: format of every kind, intersected", form({"allOf": [{"type": "string", "format": name} for name in ("date-time", "email", "uri", "ipv6", "uuid", "hostname", "duration", "regex")]}))
request("schema: dependentSchemas of 300 properties", form({"type": "object", "properties": {f"a{n}": {} for n in range(300)}, "dependentSchemas": {f"a{n}": {"required": [f"a{(n * 7) % 300}"]} for n in range(300)}}))
request("schema: unevaluatedProperties under 50 allOf", form({"allOf": [{"properties": {f"a{n}": {"type": "string"}}} for n in range(50)], "unevaluatedProperties": False}))
request("schema: const of 1 MB, enum of objects 50 deep", form({"const": "x" * 1_000_000}), form({"enum": [json.loads("[" * 50 + "]" * 50)] * 1000}))
request("schema: additionalProperties in each other, 60 deep", form(json.loads('{"type":"object","additionalProperties":' * 60 + "{}" + "}" * 60)))
request("Lark: rules that begin with themselves", lark("start: start start | \"a\"\n"), lark("start: a\na: b\nb: a | \"x\"\n"))
request("Lark: an ambiguous grammar", lark("start: a a a a a a a a\na: a a | \"x\" | \"\"\n"))
request("Lark: repetitions of repetitions", lark("start: ((((\"a\"~0..1000)~0..1000)~0..1000)~0..1000)\n"), lark("start: \"a\"~1..2000000000\n"))
request("Lark: 50,000 rules", lambda: lark("start: r0\n" + "".join(f"r{n}: r{n + 1} | \"{n}\"\n" for n in range(5_000)) + "r5000: \"x\"\n"))
request("Lark: imports of files, of nothing, templates", lark("%import common.NUMBER\n%import .x (Y)\n%import /etc/passwd\nstart: NUMBER\n"), lark("start: _x{a, b}\n_x{c, d}: c d\n"))
request("Lark: a terminal that matches nothing, ignored", lark("start: A\nA: /a*/\n%ignore /b*/\n"), lark("start: A*\nA: \"\"\n"))
request("Lark: complements of complements", lark("start: T\nT: ~(~(~(~(/a.{10}b/)))) & ~/.*c.{12}/ & /.*d.{12}.*/\n"))
request("Lark: text of 200 kB in one string, with escapes", lark('start: "' + "\\u0041" * 30_000 + '"\n'), lark("start: \"\x1b[2J\"\n"), lark("start: \"\\x"))
request("regex: counts of counts", regex("((((a{1,50}){1,50}){1,50}){1,50}){1,50}"), regex("(a{1,1000}b{1,1000}){1,1000}"))
request("regex: looking ahead and behind, references back", regex("(?<=a)b(?!c)(d)\\1"), regex("(?P<x>a)(?P=x)"))
request("regex: classes of Unicode, counted", regex("\\p{L}{1,3000}\\p{N}{1,3000}"), regex("[\\p{L}&&[^\\p{Lu}]]{500}"))
request("regex: 100,000 alternatives", regex("|".join(f"x{n}" for n in range(15_000))))
request("regex: brackets 20,000 deep", regex("(" * 20_000 + "a" + ")" * 20_000), regex("[" * 20_000))
request("regex: states that double", regex("(a|b)*a(a|b){20}"), regex("(.*x.{60}y.*){3}"))
request("tools: 128 with schemas of 200 properties, required", lambda: message(tool_choice="required", tools=[{"type": "function", "function": {"name": f"f{n}", "parameters": {"type": "object", "properties": {f"p{k}": {"type": "string"} for k in range(200)}}}} for n in range(128)]))
request("tools: names with quotes, line ends, escapes, a megabyte", *(message(tools=[{"type": "function", "function": {"name": name, "parameters": {}}}], tool_choice="required") for name in ('"', "\n", "\x1b[2J", "x" * 1_000_000, "", "</tool_call>")))
request("tools: parameters that are lists, texts, null", *(message(tools=[{"type": "function", "function": {"name": "f", "parameters": value}}], tool_choice="required") for value in ([], "x", None, 7, {"type": "x"}, {"$ref": "#/a"})))
request("chat_template_kwargs: values 120 deep, of 1 MB, names of the template's own", message(chat_template_kwargs={"messages": "x", "bos_token": "y", "add_generation_prompt": []}), (json.dumps(message(chat_template_kwargs={"a": "S"})).replace('"S"', "[" * 100 + "]" * 100)).encode(), message(chat_template_kwargs={"a": "x" * 1_000_000}))
request("a million numbers in a field that nobody knows", lambda: message(unknown=list(range(1_000_000))))
request("stop: a thousand that are nearly what is said", message(stop=["The" * n for n in range(1, 5)], max_tokens=50), message(stop=["\ud83d"], max_tokens=5))
request("logprobs of 20 for 50 tokens with every bias", message(logprobs=True, top_logprobs=20, max_tokens=50, logit_bias={str(n): -100 for n in range(0, 300)}))
request("all tokens forbidden", message(logit_bias={str(n): -100 for n in range(8192)}, max_tokens=5))
request("n 128 with logprobs", message(n=128, logprobs=True, top_logprobs=5))
request("stream_options, user, metadata of other types", message(stream=True, stream_options=[]), message(user={}), message(metadata={"a": {"b": []}}), message(stream="yes"))
request("images in a model that has no eyes, an audio, a file", *(message(messages=[{"role": "user", "content": [part]}]) for part in ({"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png(8, 8)).decode()}}, {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, {"type": "file", "file": {"file_id": "x"}}, {"type": "\x1b"}, {})), allowed=(400, 422))
request("completions: prompts of 2,000 ids each, 500 at once", {"model": "m", "prompt": [[5] * 1500] * 500, "max_tokens": 1}, path="/v1/completions")
request("completions: echo with logprobs of a long prompt", {"model": "m", "prompt": [7] * 1900, "echo": True, "logprobs": 5, "max_tokens": 1}, path="/v1/completions")
request("messages: thinking budgets that are negative, tools of tools", {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": "a"}], "thinking": {"type": "enabled", "budget_tokens": -5}}, {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": [{"type": "tool_result"}]}]}]}, path="/v1/messages")
request("responses: items of every unknown kind", {"model": "m", "input": [{"type": kind} for kind in ("computer_call", "\x1b", "", "item_reference", "web_search_call")], "max_output_tokens": 1}, path="/v1/responses")
request("embeddings: 2,048 texts of 10 kB", lambda: {"model": "m", "input": ["a " * 5000] * 200}, path="/v1/embeddings", allowed=(200, 400, 413, 501))


def main():
    bad, counts = 0, {}
    if TABLE:
        print("| group | attack | result |\n|---|---|---|")
    for group, name, function in ATTACKS:
        if GROUPS and group not in GROUPS:
            continue
        begun = time.monotonic()
        try:
            problem = function()
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        took = time.monotonic() - begun
        bad += bool(problem)
        total = counts.setdefault(group, [0, 0])
        total[0] += 1
        total[1] += not problem
        if TABLE:
            print(f"| {group} | {name} | {'gets through: ' + problem if problem else 'held'} |", flush=True)
        else:
            print(f"{'GETS THROUGH' if problem else 'held'} | {group} | {name} | {took:.1f} s | {problem[:400]}", flush=True)
    if _server:
        _server[0].log.seek(0)
        if b"panicked" in _server[0].log.read():
            print("the server's log has a panic")
            bad += 1
        _server[0].process.terminate()
    if not TABLE:
        for group, (tried, held) in counts.items():
            print(f"{group}: {held} of {tried} held")
    sys.exit(1 if bad else 0)


main()
