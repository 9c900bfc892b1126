"""Lanes 11 and 12: what keys, limits and the cache cost."""

import json

from .. import load, svg
from ..peers import SPEECH
from ..settings import SPEECH_KB, say
from ..tables import median, names, number, of, spread, table


def more_keys():
    """9,999 keys that nobody shows."""
    return "\n".join(f'  - {{ name: k{n}, hash: "blake3:{n:064x}" }}' for n in range(9_999))


def rounds(bench, label, pairs):
    """Of a name, a proxy, and the options it is asked with; interleaved."""
    for name, proxy, options in pairs:
        load.all_good(load.closed(proxy.port, 0.5, *options), name)
    samples = []
    for n in range(bench.settings.rounds):
        say(f"{label}: round {n + 1} of {bench.settings.rounds}")
        for name, proxy, options in pairs[n % 2:] + pairs[:n % 2]:
            found = load.measured(proxy, bench.settings.seconds, *options, what=label)
            samples.append({**found, "proxy": name})
    bench.stop(*(proxy.process for _, proxy, _ in pairs))
    return {"samples": samples}


class Compared:
    """Two rows of CPU."""

    def tables(self, found):
        samples = found["samples"]
        shown = sorted(names(samples), key=lambda name: name == "on")
        first = median(samples, shown[0], "cpu_us")
        return table(["", "CPU per request, µs", "min to max", f"less {shown[0]}, µs", "requests/s"],
                     [[name, number(median(samples, name, "cpu_us")), spread(of(samples, name, "cpu_us")),
                       number(median(samples, name, "cpu_us") - first), number(median(samples, name, "per_second"), 0)] for name in shown])

    def plots(self, found):
        samples = found["samples"]
        return {self.PLOT: svg.bars(self.PLOT_TITLE, "CPU per request, µs", [("", [(name, median(samples, name, "cpu_us")) for name in names(samples)])])}


class KeysAndLimits(Compared):
    TITLE = "keys, limits and a look into the cache, off and on"
    TEXT = ("Lane 2, each request with another body. On: one key among 10,000 with limits of requests, tokens and requests at once, and a cache whose "
            "key is made of each body, looked up, and missed.")
    PLOT, PLOT_TITLE = "keys-and-limits", "Keys, limits and a missed cache"

    def run(self, bench):
        body = json.dumps({"n": 10_000_000, **json.loads(load.chat_body("bench-b"))}).encode()
        options = ["--vary", 80_000_000, "--body", load.body_file(body), "--header", "authorization: Bearer not-a-key-but-long-enough"]
        box, ports = load.serve("chat")
        proxies = [bench.peers.start("trunkline", mode, ports, more_keys=more_keys()) for mode in ("model", "keys")]
        found = rounds(bench, "keys, limits, cache", [("off", proxies[0], options), ("on", proxies[1], options)])
        bench.stop(box)
        return found


class FromMemory(Compared):
    TITLE = f"{SPEECH_KB} KB of speech from memory, beside a static file of nginx"
    TEXT = "nginx with `sendfile`, `tcp_nopush` and its cache of open files."
    PLOT, PLOT_TITLE = "from-memory", f"{SPEECH_KB} KB from memory"

    def run(self, bench):
        body = load.body_file(b'{"model": "tts-1", "input": "Dinner is ready.", "voice": "nova"}')
        box, ports = load.serve("speech", "--bytes", SPEECH_KB * 1024)
        found = rounds(bench, f"{SPEECH_KB} KB from memory", [
            ("trunkline", bench.peers.start("trunkline", "cache", ports), ["--path", SPEECH, "--body", body]),
            ("nginx", bench.peers.start("nginx", "static", ports), ["--path", "/speech.mp3", "--get"])])
        bench.stop(box)
        return found
