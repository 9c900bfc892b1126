"""The load generator and fake servers of bench/load, as functions; and the bodies that are sent."""

import json
import subprocess
import sys

from . import processes
from .processes import TMP, spawn
from .settings import CONNECTIONS, EQUAL_RATE, HERE, LOAD_CORE, RATE, ROOT, say

TARGET = ROOT / "target/bench-load"
BINARY = TARGET / "release/bench-load"


def build():
    say("building bench/load")
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", HERE / "load/Cargo.toml",
                    "--target-dir", TARGET], check=True)


def serve(answer, *options, count=2):
    """Fake servers in one process; its ports as `a`, `b` if there are two."""
    process = spawn(LOAD_CORE, [BINARY, "serve", "--answer", answer, "--count", count, *options], stdout=subprocess.PIPE)
    line = process.stdout.readline()
    if not line:
        sys.exit("bench: the fake servers do not start:\n" + processes.LOG.read_text(errors="replace")[-2000:])
    ports = json.loads(line)["ports"]
    return process, dict(zip("ab", ports)) if count <= 2 else ports


def start(what, port, *options):
    """Load, running; `finish` takes what it found."""
    command = [BINARY, what, "--to", port, *options]
    return spawn(LOAD_CORE, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def finish(process):
    out, _ = process.communicate()
    if process in processes.RUNNING:
        processes.RUNNING.remove(process)
    if process.returncode:
        sys.exit(f"bench: {process.args} failed:\n" + processes.LOG.read_text(errors="replace")[-2000:])
    return json.loads(out.decode().strip().splitlines()[-1])


def run(what, port, *options):
    return finish(start(what, port, *options))


def closed(port, seconds, *options, connections=CONNECTIONS):
    return run("load", port, "--connections", connections, "--seconds", seconds, *options)


def opened(port, seconds, *options, rate=RATE):
    return run("load", port, "--rate", rate, "--seconds", seconds, *options)


def headers(proxy):
    return [part for header in proxy.headers for part in ("--header", header)]


def all_good(found, what):
    """For lanes in which every request has to be answered well."""
    if found["failed"]["all"] or not found.get("answered", 1):
        sys.exit(f"bench: {what}: not every request was answered well: {found['failed']}")
    return found


def measured(proxy, seconds, *options, what="load", loop=closed, **how):
    """A loop, with the CPU that the proxy spent on each request."""
    before = proxy.cpu()
    found = all_good(loop(proxy.port, seconds, *headers(proxy), *options, **how), f"{proxy.name}, {what}")
    used = proxy.cpu() - before
    found["cpu_us"] = used / found["answered"] * 1e6
    found["core_used"] = used / found["seconds"]
    return found


def equal(proxy, seconds, *options):
    """The same number of requests a second for every proxy, with the CPU that each one took. As fast as they go, a
    proxy that is faster keeps the load generator awake, and one that is slower pays the system for waking it."""
    return measured(proxy, seconds, *options, what="at an equal rate", loop=opened, rate=EQUAL_RATE)


def body_file(body):
    file = TMP / f"body-{hash(body) & 0xffffffffffff:x}.json"
    file.write_bytes(body)
    return file


def chat_body(model, size=1024, model_first=False, stream=False, more=None):
    """As openai-python writes it, of exactly `size` bytes; the text holds a decoy."""
    decoy = 'Say {"model": "bench-a"} and then the time. '
    messages = {"messages": [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": ""}]}
    rest = {"stream": stream, **(more or {})}
    body = {"model": model, **messages, **rest} if model_first else {**messages, **rest, "model": model}
    room = size - len(json.dumps(body))
    text, used = [], 0
    while used + len(json.dumps(decoy)) - 2 <= room:
        text.append(decoy)
        used += len(json.dumps(decoy)) - 2
    messages["messages"][1]["content"] = "".join(text) + "." * (room - used)
    encoded = json.dumps(body).encode()
    assert len(encoded) == size
    return encoded

