#!/usr/bin/env python3
"""under_attack.py KEEVE MODEL [SECONDS]

Serves a folder MODEL twice, once with a chat template that never ends, and measures 16 clients that stream
answers, first alone, then beside 24 clients that send prompts of 1 MiB, 8 that send grammars which explode and 8
that use the endless template. Prints resident memory before and after and the times of the ordinary clients
(p50 and p99 of the first piece and of the next ones), and exits with 1 if the process died, memory grew by more
than 1 GiB or a p99 more than tripled. Needs nothing but Python.
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

KEEVE, MODEL = (os.path.abspath(path) for path in sys.argv[1:3])
SECONDS = float(sys.argv[3]) if len(sys.argv) > 3 else 300.0
CHAT = "/v1/chat/completions"
ENDLESS = "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}"
GRAMMARS = [
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {
        "allOf": [{"type": "integer", "multipleOf": step} for step in (97, 89, 83, 79)]}}},
    {"type": "lark", "grammar": "start: T\nT: /(.*a.{15}.*)/ & /(.*b.{15}.*)/ & /(.*c.{15}.*)/ & ~/(.*d.{15}.*)/"},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer", "multipleOf": 1000003}}},
    {"type": "regex", "regex": "(.*x.{200}y.*){3}"},
]


class Server:
    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = tempfile.TemporaryDirectory()
        paths = []
        for name, template in (("plain", None), ("endless", ENDLESS)):
            folder = os.path.join(self.folder.name, name)
            os.mkdir(folder)
            for file in os.listdir(MODEL):
                if template is None or file != "chat_template.jinja":
                    os.symlink(os.path.join(MODEL, file), os.path.join(folder, file))
            if template is not None:
                with open(os.path.join(folder, "chat_template.jinja"), "w") as out:
                    out.write(template)
            paths.append(folder)
        command = [KEEVE, "serve", paths[0], "--model", f"endless={paths[1]}",
                   "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(600):
            try:
                if self.ask("plain", "Hi")[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)
        sys.exit("the server did not start")

    def ask(self, model, text, **more):
        body = dict(model=model, messages=[dict(role="user", content=text)], max_tokens=4, temperature=0, **more)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def stream(self, text, first, later):
        """Streams an answer, noting in seconds what it took until the first piece and between the others."""
        body = dict(model="plain", messages=[dict(role="user", content=text)], max_tokens=48, temperature=0,
                    stream=True, ignore_eos=True)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        begun = last = time.monotonic()
        count = 0
        connection.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                now = time.monotonic()
                (later if count else first).append(now - last)
                last = now
                count += 1
        connection.close()
        if count == 0:
            raise OSError(f"no answer after {time.monotonic() - begun:.1f} s")

    def resident(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS"))


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))] * 1000 if values else float("nan")


def ordinary(server, seconds, failures):
    """What 16 streaming clients see for so long."""
    first, later, end = [], [], time.monotonic() + seconds

    def client(number):
        turn = 0
        while time.monotonic() < end:
            turn += 1
            try:
                server.stream(f"Client {number} asks question {turn} about the weather in Ulm.", first, later)
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"an ordinary client: {error}")
                time.sleep(0.1)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return first, later


def main():
    server, failures = Server(), []
    warm = min(SECONDS, 20.0)
    ordinary(server, warm / 2, failures)
    before = server.resident()
    alone = ordinary(server, min(SECONDS, 60.0), failures)
    statuses, stop = {}, threading.Event()

    def attack(kind, send):
        while not stop.is_set():
            try:
                status = send()[0]
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
            statuses[(kind, status)] = statuses.get((kind, status), 0) + 1

    attacks = []
    for number in range(24):
        text = ("1" if number % 2 else "a b ") * (1 << 20)
        attacks.append(("prompt of 1 MiB", lambda text=text[: 1 << 20]: server.ask("plain", text)))
    for number in range(8):
        form = GRAMMARS[number % len(GRAMMARS)]
        attacks.append(("grammar", lambda form=form: server.ask("plain", "a number", response_format=form)))
        attacks.append(("endless template", lambda: server.ask("endless", "Hi")))
    threads = [threading.Thread(target=attack, args=one, daemon=True) for one in attacks]
    for thread in threads:
        thread.start()
    beside = ordinary(server, SECONDS, failures)
    highest = server.resident() if server.process.poll() is None else -1
    stop.set()
    for thread in threads:
        thread.join(120)
    time.sleep(2)
    alive = server.process.poll() is None
    after = server.resident() if alive else -1
    print(f"resident: {before} MiB before, {highest} MiB under attack, {after} MiB after")
    bad = not alive or after - before > 1024 or bool(failures)
    for name, index in (("first piece", 0), ("next piece", 1)):
        figures = [[percentile(values[index], part) for part in (0.5, 0.99)] for values in (alone, beside)]
        factor = figures[1][1] / figures[0][1]
        bad |= not factor <= 3
        print(f"{name}: alone p50 {figures[0][0]:.0f} p99 {figures[0][1]:.0f} ms, "
              f"beside p50 {figures[1][0]:.0f} p99 {figures[1][1]:.0f} ms, p99 times {factor:.2f}")
    for (kind, status), count in sorted(statuses.items(), key=str):
        print(f"{kind}: {status} {count} times")
    for line in failures[:5]:
        print(line)
    print("process", "alive" if alive else "DEAD")
    server.process.terminate()
    sys.exit(1 if bad else 0)


main()
