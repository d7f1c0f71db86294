#!/usr/bin/env python3
"""How often greedy continuations are those of the same weights with nothing rounded.

The prompts are the first 60 words of the first paragraphs of a text that are longer than 400 characters, as token
ids of `keeve tokenize`. keeve's modes of activations are compared with its `float`, and with --llama, llama.cpp's
continuations of MODEL with those of its dequantization to F32 (which must see the same ids, or this ends). Both
go on past ends. A line for each: how many continuations are equal, and how many tokens they have in common at
the beginning, on average. llama.cpp prints no ids, so its texts are tokenized.

    python3 greedy.py MODEL.gguf TEXT [--modes auto,fast] [--keeve PATH] [--llama llama-completion MODEL.f32.gguf]
"""

import argparse
import json
import re
import subprocess


def output(command):
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(f"{command}: {done.stderr}")
    return done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def tokens(args, text, *flags):
    return json.loads(output([args.keeve, "tokenize", args.model, "--json", *flags, "--text", text])[0])["ids"]


def keeve(args, mode, prompt):
    ids = ",".join(map(str, prompt[1]))
    found = output(
        [args.keeve, "run", args.model, "--prompt-ids", ids, "--activations", mode, "--temp", "0", "--ignore-eos"]
        + ["-n", str(args.tokens), "--threads", str(args.threads), "--json", "-q"]
    )
    return json.loads(found[0])["tokens"]


def llama(args, model, prompt):
    # Some more than are looked at: what it prints last is lost now and then.
    text, log = output(
        [args.llama[0], "-m", model, "-p", prompt[0], "-n", str(args.tokens + 8), "-t", str(args.threads), "--temp", "0"]
        + ["-no-cnv", "--no-display-prompt", "--ignore-eos", "--verbose-prompt", "--no-escape"]
    )
    begin = log.index("number of tokens in prompt")
    ids = [int(id) for id in re.findall(r"^\S+ I +(\d+) -> '", log[begin : log.index("sampler seed")], re.M)]
    if ids != prompt[1]:
        raise SystemExit(f"other tokens: {ids} and {prompt[1]}")
    return tokens(args, text.removesuffix("\n\n"), "--no-special")[: args.tokens]


def report(name, expected, found):
    def common(a, b):
        return next((at for at, (a, b) in enumerate(zip(a, b)) if a != b), min(len(a), len(b)))

    shared = [common(a, b) for a, b in zip(expected, found)]
    equal = sum(a == b for a, b in zip(expected, found))
    print(f"{name}: equal {equal} of {len(expected)}, in common {sum(shared) / len(shared):.1f} {shared}", flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("text")
parser.add_argument("--keeve", default="keeve")
parser.add_argument("--modes", default="auto,fast,bf16,int8")
parser.add_argument("--llama", nargs=2, metavar=("PROGRAM", "F32"))
parser.add_argument("--prompts", type=int, default=20)
parser.add_argument("--tokens", type=int, default=64)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

with open(args.text, encoding="utf-8") as file:
    paragraphs = [line.strip() for line in file if len(line) > 400][: args.prompts]
prompts = [" ".join(paragraph.split()[:60]) for paragraph in paragraphs]
prompts = [(prompt, tokens(args, prompt)) for prompt in prompts]
if args.modes:
    exact = [keeve(args, "float", prompt) for prompt in prompts]
    for mode in args.modes.split(","):
        report(mode, exact, [keeve(args, mode, prompt) for prompt in prompts])
if args.llama:
    exact = [llama(args, args.llama[1], prompt) for prompt in prompts]
    report("llama.cpp", exact, [llama(args, args.model, prompt) for prompt in prompts])
