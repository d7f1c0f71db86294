#!/usr/bin/env python3
"""under_attack.py KEEVE MODEL [SECONDS]

Serves a folder MODEL twice, once with a chat template that never ends, and measures 16 clients that stream
answers, first alone, then for SECONDS (300) beside 24 clients that send prompts of 1 MiB, 8 that send grammars which
explode and 8 that use the endless template. Prints resident memory before, at its highest and after, and the times of
the ordinary clients (p50 and p99 of the first piece and of the next ones), and exits with 1 if the process died,
memory stayed more than 1 GiB above what it was, a request of an ordinary client failed or a p99 more than tripled.

The ordinary clients are a process of their own, and so are the attackers, whose process gives way to all others
(nice 19): what they burn on this machine themselves is not the server's doing. Needs nothing but Python, on Linux.
"""
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

CHAT = "/v1/chat/completions"
ENDLESS = "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}"
GRAMMARS = [
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "allOf": [{"type": "integer", "multipleOf": step} for step in (97, 89, 83, 79)]}}},
    {"type": "lark", "grammar": "start: T\nT: /(.*a.{15}.*)/ & /(.*b.{15}.*)/ & /(.*c.{15}.*)/ & ~/(.*d.{15}.*)/"},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer", "multipleOf": 1000003}}},
    {"type": "regex", "regex": "(.*x.{200}y.*){3}"},
]


def another(form, number):
    """The same grammar for one number, one that nobody has seen for another."""
    form = json.loads(json.dumps(form))
    if "json_schema" in form:
        form["json_schema"]["schema"]["description"] = str(number)
    elif "regex" in form:
        form["regex"] += f"({number})?"
    else:
        form["grammar"] += f"\n// {number}"
    return form


HEAD = {"Content-Type": "application/json"}


def body(model, text, **more):
    message = dict(role="user", content=text)
    return json.dumps(dict(model=model, messages=[message], temperature=0, **more)).encode()


def ask(port, sent):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", CHAT, sent, HEAD)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def stream(port, text, first, later):
    """Streams an answer, noting in seconds what it took until the first piece and between the others."""
    sent = body("plain", text, max_tokens=48, stream=True, ignore_eos=True)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    begun = last = time.monotonic()
    count = 0
    connection.request("POST", CHAT, sent, HEAD)
    for line in connection.getresponse():
        # What comes before the first text is written before the model has said anything.
        if line.startswith(b"data: {") and b'"content":"' in line.replace(b'"content":""', b""):
            now = time.monotonic()
            (later if count else first).append(now - last)
            last = now
            count += 1
    connection.close()
    if count == 0:
        raise OSError(f"no answer after {time.monotonic() - begun:.1f} s")


def clients(port, seconds):
    """What 16 streaming clients see for so long."""
    first, later, failures, end = [], [], [], time.monotonic() + seconds

    def client(number):
        turn = 0
        while time.monotonic() < end:
            turn += 1
            try:
                stream(port, f"Client {number} asks question {turn} about the weather in Ulm.", first, later)
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"an ordinary client: {error}")
                time.sleep(0.1)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump([first, later, failures], sys.stdout)


def attackers(port):
    """Attacks until standard input ends, and counts the answers."""
    os.nice(19)
    statuses, stop = {}, threading.Event()

    def attack(kind, make):
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                status = ask(port, make(turn))
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
            name = f"{kind}: {status}"
            statuses[name] = statuses.get(name, 0) + 1

    attacks = []
    for number in range(24):
        text = ("1" if number % 2 else "a b ") * (1 << 20)
        sent = body("plain", text[: 1 << 20], max_tokens=4)
        attacks.append(("prompt of 1 MiB", lambda turn, sent=sent: sent))
    endless = body("endless", "Hi", max_tokens=4)
    for number in range(8):
        form = GRAMMARS[number % len(GRAMMARS)]
        attacks.append((f"{form['type']}", lambda turn, form=form, number=number: body(
            "plain", "a number", max_tokens=4, response_format=another(form, turn if number >= 4 else 0))))
        attacks.append(("endless template", lambda turn: endless))
    threads = [threading.Thread(target=attack, args=one, daemon=True) for one in attacks]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join(120)
    json.dump(statuses, sys.stdout)


class Server:
    def __init__(self, keeve, model):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = tempfile.TemporaryDirectory()
        paths = []
        for name, template in (("plain", None), ("endless", ENDLESS)):
            folder = os.path.join(self.folder.name, name)
            os.mkdir(folder)
            for file in os.listdir(model):
                if template is None or file != "chat_template.jinja":
                    os.symlink(os.path.join(model, file), os.path.join(folder, file))
            if template is not None:
                with open(os.path.join(folder, "chat_template.jinja"), "w") as out:
                    out.write(template)
            paths.append(folder)
        command = [keeve, "serve", paths[0], "--model", f"endless={paths[1]}", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(600):
            try:
                if ask(self.port, body("plain", "Hi", max_tokens=4)) == 200:
                    return
            except OSError:
                time.sleep(0.1)
        sys.exit("the server did not start")

    def resident(self, field="VmRSS"):
        if self.process.poll() is not None:
            return -1
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) // 1024 for line in status if line.startswith(field))

    def helper(self, *arguments, **more):
        command = [sys.executable, os.path.abspath(__file__), *arguments, str(self.port)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, **more)

    def ordinary(self, seconds):
        """Times of the first and the next pieces that ordinary clients see for so long, and what failed."""
        return json.loads(self.helper("--clients", str(seconds)).communicate()[0])


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))] * 1000 if values else float("nan")


def main(keeve, model, seconds):
    server = Server(keeve, model)
    server.ordinary(min(seconds, 20.0) / 2)
    before = server.resident()
    alone = server.ordinary(min(seconds, 60.0))
    attacking = server.helper("--attack", stdin=subprocess.PIPE)
    time.sleep(2)
    beside = server.ordinary(seconds)
    statuses = json.loads(attacking.communicate()[0])
    time.sleep(2)
    highest, after = server.resident("VmHWM"), server.resident()
    alive = server.process.poll() is None
    failures = alone[2] + beside[2]
    print(f"resident: {before} MiB before, at most {highest} MiB, {after} MiB after")
    bad = not alive or after - before > 1024 or bool(failures)
    for name, index in (("first piece", 0), ("next piece", 1)):
        figures = [[percentile(values[index], part) for part in (0.5, 0.99)] for values in (alone, beside)]
        factor = figures[1][1] / figures[0][1]
        bad |= not factor <= 3
        print(f"{name}: alone p50 {figures[0][0]:.0f} p99 {figures[0][1]:.0f} ms, "
              f"beside p50 {figures[1][0]:.0f} p99 {figures[1][1]:.0f} ms, p99 times {factor:.2f}, "
              f"{len(alone[index])} and {len(beside[index])} pieces")
    for name, count in sorted(statuses.items()):
        print(f"{name} {count} times")
    for line in failures[:5]:
        print(line)
    print("process", "alive" if alive else "DEAD")
    server.process.terminate()
    sys.exit(1 if bad else 0)


if sys.argv[1] == "--clients":
    clients(int(sys.argv[3]), float(sys.argv[2]))
elif sys.argv[1] == "--attack":
    attackers(int(sys.argv[2]))
else:
    main(*map(os.path.abspath, sys.argv[1:3]), float(sys.argv[3]) if len(sys.argv) > 3 else 300.0)
