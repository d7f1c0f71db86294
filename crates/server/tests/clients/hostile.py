#!/usr/bin/env python3
"""hostile.py KEEVE MODEL [PART OF A NAME...]

Attacks on a server and on commands, each followed by an ordinary request that must be answered: no attack may end the
process, keep others waiting for more than 10 s or leave more than 400 MiB behind, and each must be answered with what
is expected of it. "connections" holds 10,000 of them open (the limit of open files is raised, as far as it may be);
"unique prompts" sends different prompts for KEEVE_MINUTES (default 1) and looks whether memory grows. Traffic goes to
127.0.0.1 only. Prints a line for each attack and exits with 1 if one gets through. Needs nothing but Python, on Linux.
"""
import gzip
import http.client
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time

KEEVE, MODEL = (os.path.abspath(path) for path in sys.argv[1:3])
ONLY = sys.argv[3:]
CHAT = "/v1/chat/completions"
ATTACKS = []
PANIC = (b"panicked", b"RUST_BACKTRACE")


def attack(name):
    def add(function):
        ATTACKS.append((name, function))
        return function
    return add


class Server:
    def __init__(self, *more):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = tempfile.TemporaryFile()
        command = [KEEVE, "serve", MODEL, "--alias", "m", "--port", str(self.port), "--threads", "1", *more]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        for _ in range(600):
            try:
                if self.chat("Hi", max_tokens=1)[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)
        sys.exit("the server did not start")

    def send(self, path, body, method="POST", headers=None, timeout=180):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, sent, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def chat(self, text, **more):
        body = dict(model="m", messages=[dict(role="user", content=text)], **{"max_tokens": 2, **more})
        return self.send(CHAT, body)

    def raw(self, sent, wait=5.0, size=65536):
        """What comes back for some bytes, within a while."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as stream:
            stream.settimeout(wait)
            try:
                stream.sendall(sent)
                return stream.recv(size)
            except OSError as error:
                return type(error).__name__.encode()

    def open(self, sent=b"", receive=None):
        stream = socket.socket()
        if receive:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        stream.settimeout(10)
        stream.connect(("127.0.0.1", self.port))
        if sent:
            stream.sendall(sent)
        return stream

    def resident(self, field="VmRSS"):
        if self.process.poll() is not None:
            return -1
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) // 1024 for line in status if line.startswith(field))


def request(body, path=CHAT, head=b""):
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    start = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
    return start + head + b"Content-Length: %d\r\n\r\n" % len(sent) + sent


def streaming(tokens=400):
    return request(dict(model="m", messages=[dict(role="user", content="Go on.")], max_tokens=tokens, stream=True,
                        ignore_eos=True))


def statuses(server, allowed, *sent):
    """Sends bodies (or paths and bodies) one after another; what is not answered as allowed."""
    wrong = []
    for one in sent:
        path, body = one if isinstance(one, tuple) else (CHAT, one)
        status, text = server.send(path, body)
        if status not in allowed or any(word in text for word in PANIC):
            wrong.append(f"{status} {text[:120]!r}")
        if len(text) > 20_000 and status >= 400:
            wrong.append(f"an error of {len(text)} bytes")
    return "; ".join(wrong)


def message(**more):
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **more}


TEXT = json.dumps(message())


@attack("Ollama: context of a million ids, negative ids, ids that are none")
def _(s):
    of = lambda context: ("/api/generate", {"model": "m", "prompt": "x", "context": context, "stream": False})
    return statuses(s, (200, 400, 413), of([1] * 1_000_000), of([-1]), of([2**31]), of(["a"]), of([1e300]), of({}))


@attack("Ollama: keep_alive without end, not a time, negative")
def _(s):
    of = lambda value: ("/api/generate", {"model": "m", "prompt": "x", "keep_alive": value, "stream": False,
                                          "options": {"num_predict": 1}})
    return statuses(s, (200, 400), of("999999999999999999h"), of("1e400s"), of(-1e308), of("-9" * 1000), of([]), of("NaNs"))


@attack("Ollama: options of 100,000 names, numbers out of range")
def _(s):
    of = lambda options: ("/api/chat", {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": False,
                                        "options": {"num_predict": 1, **options}})
    return statuses(s, (200, 400), of({f"o{n}": n for n in range(100_000)}), of({"num_ctx": 2**63}), of({"num_predict": -2**40}),
                    of({"temperature": 1e308}), of({"repeat_last_n": -2**60}), of({"stop": [""] * 10_000}), of({"seed": 1e300}))


@attack("Ollama: format that explodes, template and system of 1 MiB")
def _(s):
    steps = {"allOf": [{"type": "integer", "multipleOf": step} for step in (97, 89, 83, 79)]}
    of = lambda **more: ("/api/generate", {"model": "m", "prompt": "x", "stream": False, "options": {"num_predict": 1}, **more})
    return statuses(s, (200, 400), of(format=steps), of(format={"$ref": "#"}), of(template="{{ range . }}" * 80_000), of(system="a" * (1 << 20)),
                    of(suffix="b" * (1 << 20)), of(images=["AAAA"] * 10_000))


@attack("Ollama: embeddings of 100,000 texts, of none, of 1 MiB")
def _(s):
    of = lambda texts: ("/api/embed", {"model": "m", "input": texts})
    return statuses(s, (200, 400, 413, 429, 501), of(["a"] * 100_000), of([]), of(["a" * (1 << 20)]), of([""] * 100), of(7))


@attack("Ollama: names of models that are paths; endpoints that change files")
def _(s):
    paths = ("../../../etc/passwd", "/etc/passwd", "m\0", "\x1b[2J", "a" * 100_000)
    wrong = statuses(s, (400, 404), *[("/api/show", {"model": path}) for path in paths])
    return wrong or statuses(s, (400, 404, 405, 501), ("/api/delete", {"model": "m"}), ("/api/pull", {"model": "x/y"}),
                             ("/api/create", {"model": "x", "from": "/etc"}), ("/api/copy", {"source": "m", "destination": "../x"}))


@attack("infill: prefix, suffix and extra context of a MiB and of 10,000 files")
def _(s):
    of = lambda **more: ("/infill", {"input_prefix": "a", "input_suffix": "b", "n_predict": 1, **more})
    return statuses(s, (200, 400, 413, 501), of(input_prefix="a " * (1 << 19)), of(input_suffix="1" * (4 << 20)), of(prompt="x" * (1 << 20)),
                    of(input_extra=[{"filename": f"f{n}", "text": "t"} for n in range(10_000)]), of(input_extra=[[]]), of(n_predict=-2**40))


@attack("tokenize 15 MiB; detokenize a million ids, negative ones, none")
def _(s):
    wrong = statuses(s, (200, 400, 413), ("/tokenize", {"content": "\U0001f600" * (1 << 20)}), ("/tokenize", {"content": "1" * (15 << 20)}))
    return wrong or statuses(s, (200, 400, 413), ("/detokenize", {"tokens": [1] * 1_000_000}), ("/detokenize", {"tokens": [-1]}),
                             ("/detokenize", {"tokens": [2**40, 1.5]}), ("/detokenize", {"tokens": []}))


@attack("keys twice: messages, model, a field of a message, a schema's")
def _(s):
    return statuses(s, (200, 400), (TEXT[:-1] + ',"messages":[]}').encode(), (TEXT[:-1] + ',"model":"other"}').encode(),
                    TEXT.replace('"role"', '"role":"system","role"').encode(),
                    (TEXT[:-1] + ',"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"integer","type":"string"}}}}').encode())


@attack("JSON 100,000 deep: as a whole, in an unknown field, arguments, template arguments, a schema")
def _(s):
    deep = "[" * 100_000 + "]" * 100_000
    objects = '{"a":' * 50_000 + "1" + "}" * 50_000
    field = lambda name, value: (TEXT[:-1] + f',"{name}":{value}}}').encode()
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": objects}}]}
    told = message(messages=[{"role": "user", "content": "a"}, calls, {"role": "tool", "tool_call_id": "a", "content": "b"}])
    return statuses(s, (200, 400), deep.encode(), field("unknown_thing", deep), field("chat_template_kwargs", objects), told,
                    field("response_format", '{"type":"json_schema","json_schema":{"name":"x","schema":' + objects + "}}"))


@attack("numbers out of range in every field")
def _(s):
    names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "n", "presence_penalty", "frequency_penalty", "repetition_penalty",
             "top_logprobs", "min_tokens")
    values = ("1e999", "-1e999", "1e-999", "1" * 400, "-0", "0.1e1", "18446744073709551616", "null", '"1"', "[]")
    sent = [(TEXT[:-1].replace(', "max_tokens": 2', "") + f',"{name}":{value}}}').encode() for name in names for value in values
            if not (name == "max_tokens" and value == "null")]
    return statuses(s, (200, 400), *sent)


@attack("logit_bias, stop, tools and messages by the thousands")
def _(s):
    tool = lambda n: {"type": "function", "function": {"name": f"f{n}", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}}
    return statuses(s, (200, 400, 413), message(logit_bias={str(n): 1 for n in range(100_000)}), message(stop=["a"] * 100_000), message(stop=[""]),
                    message(stop=["x" * (1 << 20)]), message(tools=[tool(n) for n in range(5000)]),
                    message(tools=[tool(n) for n in range(2000)], tool_choice="required"), message(messages=[{"role": "user", "content": ""}] * 200_000),
                    message(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}]))


@attack("completions of 10,000 prompts, of ids out of range, n of 2^31; responses and messages of 100,000 parts")
def _(s):
    of = lambda **more: ("/v1/completions", {"model": "m", "prompt": "a", "max_tokens": 1, **more})
    blocks = [{"type": "text", "text": "a"}] * 100_000
    return statuses(s, (200, 400, 413), of(prompt=["a"] * 10_000), of(prompt=[[2**31 - 1]]), of(n=2**31), of(best_of=10**9), of(prompt=[[]]), of(prompt=[-1]),
                    ("/v1/responses", {"model": "m", "input": [{"role": "user", "content": "a"}] * 100_000, "max_output_tokens": 1}),
                    ("/v1/responses", {"model": "m", "input": "a", "previous_response_id": "../../x", "max_output_tokens": 1}),
                    ("/v1/messages", {"model": "m", "max_tokens": 1, "system": blocks, "messages": [{"role": "user", "content": "a"}]}),
                    ("/v1/messages", {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": blocks}]}))


@attack("bodies that are no UTF-8, in UTF-16, with a byte order mark, compressed")
def _(s):
    return statuses(s, (200, 400, 415), b'{"model":"m","messages":[{"role":"user","content":"\xff\xfe"}]}', TEXT.encode("utf-16"), b"\xef\xbb\xbf" + TEXT.encode(),
                    gzip.compress(b" " * (64 << 20)), b"", b"\0" * 100, b"NaN", b"{" * 1000)


@attack("large schemas of every kind")
def _(s):
    names = [f"property_{n}" for n in range(5000)]
    wide = lambda count: {"type": "object", "properties": {name: {"type": "string"} for name in names[:count]}, "additionalProperties": False}
    schemas = [wide(2000), wide(5000), {**wide(5000), "required": names}, {"enum": names}, {**wide(5000), "anyOf": [{"required": [name]} for name in names]},
               {"not": {"const": list(range(20_000))}}, {"type": "string", "pattern": "^((a{1000}){1000}){1000}$"}, {"type": "array", "minItems": 2_000_000_000},
               {"allOf": [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(30)]},
               {"type": "string", "maxLength": 2_000_000_000}, {"type": "string", "pattern": "|".join(names)}]
    return statuses(s, (200, 400), *[message(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}) for schema in schemas])


@attack("100 chunked bodies that trickle")
def _(s):
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    streams = [s.open(head) for _ in range(100)]
    for _ in range(4):
        for stream in streams:
            stream.sendall(b"1\r\n \r\n")
        time.sleep(0.5)
    status = s.chat("Hi")[0]
    for stream in streams:
        stream.close()
    return "" if status == 200 else f"an ordinary request: {status}"


@attack("Expect: 100-continue, and then nothing, 200 times")
def _(s):
    head = request(b"", head=b"Expect: 100-continue\r\n").replace(b"Content-Length: 0", b"Content-Length: 16000000")
    streams = [s.open(head) for _ in range(200)]
    status = s.chat("Hi")[0]
    for stream in streams:
        stream.close()
    return "" if status == 200 else f"an ordinary request: {status}"


@attack("10,000 requests on one connection, without reading")
def _(s):
    stream = s.open()
    stream.settimeout(3)
    try:
        stream.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10_000 + request(message()) * 100)
    except OSError:
        pass
    status = s.chat("Hi")[0]
    stream.close()
    return "" if status == 200 else f"an ordinary request: {status}"


@attack("heads: 10,000 headers, one of 10 MB, folded, without end, without a name")
def _(s):
    start = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    wrong = []
    for head in (b"".join(b"X-%d: y\r\n" % n for n in range(10_000)), b"X: " + b"y" * 10_000_000 + b"\r\n", b"X: a\r\n b\r\n", b": a\r\n", b"X y: a\r\n", b"X: \0\r\n"):
        answer = s.raw(start + head + b"\r\n")
        if answer.startswith(b"HTTP/1.1 200"):
            wrong.append(f"{head[:20]!r}: {answer[:40]!r}")
    streams = [s.open(start + b"X: y") for _ in range(100)]
    status = s.chat("Hi")[0]
    for stream in streams:
        stream.close()
    return "; ".join(wrong) or ("" if status == 200 else f"an ordinary request: {status}")


@attack("chunks: of 2^64 bytes, with an extension of 1 MB, with trailers of 1 MB, two lengths, both framings")
def _(s):
    start = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
    chunked = start + b"Transfer-Encoding: chunked\r\n\r\n"
    sent = (chunked + b"ffffffffffffffff\r\n{", chunked + b"10000000000000000\r\n{", chunked + b"1;" + b"x" * 1_000_000 + b"\r\n{\r\n0\r\n\r\n",
            chunked + b"1\r\n{\r\n0\r\n" + b"X: y\r\n" * 200_000 + b"\r\n", start + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
            start + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", start + b"Content-Length: -1\r\n\r\n", start + b"Content-Length: 1e3\r\n\r\n")
    wrong = [one[-30:] for one in sent if s.raw(one).startswith(b"HTTP/1.1 200")]
    return f"taken: {wrong}" if wrong else ""


@attack("what is no HTTP/1.1: HTTP/2, TLS, WebSocket, CONNECT, absolute and very long paths, garbage")
def _(s):
    sent = (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500, b"GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n",
            b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET http://evil/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /v1/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /%00%ff HTTP/1.1\r\nHost: localhost\r\n\r\n", random.Random(1).randbytes(1_000_000))
    wrong = [one[:40] for one in sent if s.raw(one).startswith(b"HTTP/1.1 200")]
    upgrade = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\n\r\n"
    if s.raw(upgrade).startswith(b"HTTP/1.1 101"):
        wrong.append(b"upgrade")
    return f"taken: {wrong}" if wrong else ""


@attack("64 streams that are read a byte at a time, through windows of 1 KiB")
def _(s):
    streams = [s.open(streaming(), receive=1024) for _ in range(64)]
    end = time.monotonic() + 5
    while time.monotonic() < end:
        for stream in streams:
            stream.settimeout(1)
            try:
                stream.recv(1)
            except OSError:
                pass
        time.sleep(0.2)
    begun = time.monotonic()
    status = s.chat("Hi")[0]
    took = time.monotonic() - begun
    for stream in streams:
        stream.close()
    return "" if status in (200, 429) and took < 30 else f"an ordinary request: {status} after {took:.1f} s"


@attack("1,000 requests that are dropped as soon as they are sent")
def _(s):
    for number in range(1000):
        stream = s.open(streaming(2000) if number % 2 else request(message(messages=[{"role": "user", "content": "1 " * 20_000}])))
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        stream.close()
    end, status = time.monotonic() + 60, 0
    while status != 200 and time.monotonic() < end:
        status = s.chat("Hi")[0]
    return "" if status == 200 else f"an ordinary request: {status}"


@attack("half-closed connections, 500 of them")
def _(s):
    streams = []
    for _ in range(500):
        stream = s.open(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        stream.shutdown(socket.SHUT_WR)
        streams.append(stream)
    status = s.chat("Hi")[0]
    for stream in streams:
        stream.close()
    return "" if status == 200 else f"an ordinary request: {status}"


@attack("images that are none: 10 MB of base64, 2^31 pixels, SVG, a file, an address")
def _(s):
    head = "iVBORw0KGgoAAAANSUhEUn////9/////CAYAAAAfFcSJ"
    urls = ["data:image/png;base64," + "A" * 10_000_000, "data:image/png;base64," + head, "data:image/svg+xml;base64,AAAA", "file:///etc/passwd", "http://127.0.0.1:1/x.png",
            "data:image/png;base64,!!!!", "data:," + "a" * 100_000, ""]
    of = lambda url: message(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])
    return statuses(s, (400, 413), *[of(url) for url in urls])


@attack("10,000 connections")
def connections(s):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    count, streams, worst = min(10_000, min(hard, 65536) - 100), [], 0.0
    for number in range(count):
        try:
            streams.append(s.open(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" if number % 3 == 0 else b""))
        except OSError as error:
            return f"connection {number}: {error}"
        if number % 500 == 0:
            begun = time.monotonic()
            if s.chat("Hi")[0] != 200:
                return f"an ordinary request beside {number} connections"
            worst = max(worst, time.monotonic() - begun)
    print(f"  {count} connections, an ordinary request took at most {worst:.2f} s, {s.resident()} MiB")
    for stream in streams:
        stream.close()
    return "" if worst < 10 else f"an ordinary request took {worst:.1f} s"


@attack("unique prompts")
def unique(_):
    # Pages of keys and values are taken as they are first used: with a short context all of them are, soon.
    s = Server("--max-context", "512")
    minutes, sizes = float(os.environ.get("KEEVE_MINUTES", "1")), []
    end = time.monotonic() + 60 * minutes
    after, count, problems = time.monotonic() + 6 * minutes, 0, []

    def client(number):
        nonlocal count
        chance = random.Random(number)
        while time.monotonic() < end:
            words = " ".join(str(chance.getrandbits(40)) for _ in range(chance.randrange(1, 20)))
            more = {}
            if chance.random() < 0.1:
                more["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [words, "b"]}}}
            status = s.chat(words, max_tokens=chance.randrange(1, 8), **more)[0]
            if status not in (200, 400, 429):
                problems.append(status)
            count += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        time.sleep(max(0.5, minutes * 3))
        if time.monotonic() > after:
            sizes.append(s.resident())
    for thread in threads:
        thread.join()
    print(f"  {count} prompts, resident MiB after a tenth of the time: {sizes}")
    s.process.terminate()
    grown = max(sizes[len(sizes) // 2:], default=0) - max(sizes[: len(sizes) // 2], default=0)
    return f"{problems[:5]}" if problems else f"{grown} MiB more in the second half" if grown > 16 else ""


def command(*arguments, stdin=None, seconds=60, **files):
    """Runs keeve with files in a folder of their own; what is wrong with how it ends."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = os.path.join(folder, name.replace("__", "."))
            with open(path, "wb") as out:
                out.write(text if isinstance(text, bytes) else text.encode())
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        try:
            done = subprocess.run([KEEVE, *(one.replace("DIR", folder) for one in arguments)], cwd=folder, input=stdin, capture_output=True, timeout=seconds,
                                  preexec_fn=limit)
        except subprocess.TimeoutExpired:
            return "it does not end"
    said = done.stderr
    lines = [line for line in said.splitlines() if line.strip()]
    if done.returncode not in (0, 1, 2) or any(word in said for word in PANIC) or len(said) > 6000 or len(lines) > 8:
        return f"rc {done.returncode}, {len(said)} bytes: {said[-200:]!r}"
    return "" if done.returncode == 0 or lines else "it fails without a word"


@attack("settings in YAML: aliases that multiply, that contain themselves, merge keys, deep, tags, keys twice, 2 MB")
def _(s):
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)) + "models: *a11\n"
    texts = [bomb, "models: &a [*a]\n", "a: &a {<<: *a}\n<<: *a\n", "models: " + "[" * 100_000, "models: " + "{a: " * 100_000, "!!python/object/apply:os.system ['true']\n",
             "models: !!binary " + "A" * 1000, "port: 1\nport: 2\n", "models: [\n" + "- " * 500_000, "# " + "x" * (2 << 20), "port: 1e999\n", "port: .nan\n", "models: >\n " + "x\n " * 100_000,
             "? [a, b]\n: c\n", "&a *a\n", "--- 1\n--- 2\n", "%YAML 9.9\n---\nport: 1\n", "\ufeff\x00", "models:\n\t- x\n"]
    return "; ".join(filter(None, (command("serve", "--config", "DIR/c.yaml", c__yaml=text) for text in texts)))


@attack("keeve render: templates and conversations that are bombs")
def _(s):
    talk = json.dumps([{"role": "user", "content": "a"}])
    templates = ["{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}", "{{ 'a' * 999999999 }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
                 "{{ " + "(" * 50_000 + " }}", "{{ messages|tojson(indent=99999999) }}", "{{ '%99999999d'|format(1) }}", "{% include 'x' %}", "{{ ''.__class__ }}", "{{ 9**9**9**9 }}"]
    texts = ["[" * 100_000, '[{"role":"user","content":' + '{"a":' * 50_000, json.dumps([{"role": "user", "content": ""}] * 100_000), "null", "[1]", '[{"role":"\\u001b[2J","content":"a"}]']
    wrong = [command("render", MODEL, "--chat-template", "DIR/t", "--messages", "DIR/m", t=template, m=talk) for template in templates]
    return "; ".join(filter(None, wrong + [command("render", MODEL, "--messages", "DIR/m", m=text) for text in texts]))


@attack("a model with 10,000 further chat templates, a link to a device among them, names with escapes")
def _(s):
    with tempfile.TemporaryDirectory() as folder:
        for file in os.listdir(MODEL):
            os.symlink(os.path.join(MODEL, file), os.path.join(folder, file))
        inside = os.path.join(folder, "additional_chat_templates")
        os.mkdir(inside)
        wrong = []
        os.symlink("/dev/zero", os.path.join(inside, "tool_use.jinja"))
        wrong.append(command("run", folder, "hi", "-n", "1"))
        os.remove(os.path.join(inside, "tool_use.jinja"))
        os.mkfifo(os.path.join(inside, "rag.jinja"))
        wrong.append(command("run", folder, "hi", "-n", "1"))
        os.remove(os.path.join(inside, "rag.jinja"))
        for number in range(10_000):
            with open(os.path.join(inside, f"\x1b[2J{number}.jinja"), "w") as out:
                out.write("{{ messages[0].content }}")
        wrong.append(command("run", folder, "hi", "-n", "1", seconds=120))
    return "; ".join(filter(None, wrong))


def main():
    server, bad = Server(), 0
    before = server.resident()
    for name, function in ATTACKS:
        if ONLY and not any(part in name for part in ONLY):
            continue
        if name == "unique prompts" and not ONLY and "KEEVE_MINUTES" not in os.environ:
            continue
        begun = time.monotonic()
        try:
            problem = function(server)
        except (OSError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
        took, asked = time.monotonic() - begun, time.monotonic()
        if server.process.poll() is not None:
            server.log.seek(0)
            problem = f"the process ended: {server.log.read()[-300:]!r} {problem}"
            server = Server()
        else:
            try:
                status = server.chat("Hi")[0]
            except OSError as error:
                status = error
            if status != 200 or time.monotonic() - asked > 10:
                problem += f"; afterwards {status} in {time.monotonic() - asked:.1f} s"
            if server.resident() - before > 400:
                problem += f"; {before} MiB became {server.resident()} MiB"
        bad += bool(problem)
        print(f"{'GETS THROUGH' if problem else 'held'} | {name} | {took:.1f} s, {server.resident()} MiB | {problem[:400]}", flush=True)
    server.log.seek(0)
    if any(word in server.log.read() for word in PANIC):
        print("the server's log has a panic")
        bad += 1
    server.process.terminate()
    print(f"{bad} get through")
    sys.exit(1 if bad else 0)


main()
