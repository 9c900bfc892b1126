"""Lanes 1 and 2: a chat request, passed on by its path or by the `model` of its body."""

from .. import load, peers, svg
from ..settings import CONNECTIONS, EQUAL_RATE, RATE, say
from ..tables import median, names, number, of, ratio, share, spread, table

SIZES = [("1 KB", 1024), ("10 KB", 10_240), ("1 MB", 1_048_576)]


def sample(proxy, body, settings):
    """A closed loop, and two at fixed rates."""
    options = ["--body", body]
    return {"proxy": proxy.name, "busy": load.measured(proxy, settings.seconds, *options),
            "open": load.opened(proxy.port, max(1, settings.seconds * 0.6), *options, *load.headers(proxy)),
            "equal": load.equal(proxy, max(1, settings.seconds * 0.6), *options)}


def rounds(proxies, body, direct, settings, what):
    samples = []
    for n in range(settings.rounds):
        say(f"{what}: round {n + 1} of {settings.rounds}")
        turn = n % len(proxies)
        samples += [sample(proxy, body, settings) for proxy in proxies[turn:] + proxies[:turn]]
        found = load.opened(direct, max(1, settings.seconds * 0.6), "--body", body)
        samples.append({"proxy": "direct", "open": found})
    return samples


def warm(proxies, body):
    for proxy in proxies:
        load.closed(proxy.port, 0.5, *load.headers(proxy), "--body", body)


def busy_table(samples):
    rows = []
    for name in [name for name in names(samples) if of(samples, name, "busy")]:
        cpu = median(samples, name, "busy", "cpu_us")
        rows.append([name, number(cpu), spread(of(samples, name, "busy", "cpu_us")),
                     ratio(cpu, median(samples, "haproxy", "busy", "cpu_us")), number(median(samples, name, "busy", "latency", "p50"), 0),
                     number(median(samples, name, "busy", "latency", "p99"), 0), number(median(samples, name, "busy", "per_second"), 0),
                     share(median(samples, name, "busy", "core_used"))])
    return table(["", "CPU per request, µs", "min to max", "× HAProxy", "p50, µs", "p99, µs", "requests/s", "proxy's core used"], rows)


def open_table(samples):
    rows = []
    direct = [median(samples, "direct", "open", "latency", at) or 0 for at in ("p50", "p99")]
    for name in sorted((name for name in names(samples) if of(samples, name, "open")), key=lambda name: name != "direct"):
        at = [median(samples, name, "open", "latency", at) for at in ("p50", "p90", "p99", "p999", "max")]
        added = ["", ""] if name == "direct" else [number(at[0] - direct[0], 0), number(at[2] - direct[1], 0)]
        rows.append([name, *(number(value, 0) for value in at), *added, sum(of(samples, name, "open", "failed", "all"))])
    return table(["", "p50, µs", "p90, µs", "p99, µs", "p99.9, µs", "max, µs", "added p50, µs", "added p99, µs", "failed"], rows)


def equal_table(samples):
    rows = []
    for name in [name for name in names(samples) if of(samples, name, "equal")]:
        cpu = median(samples, name, "equal", "cpu_us")
        rows.append([name, number(cpu), spread(of(samples, name, "equal", "cpu_us")), ratio(cpu, median(samples, "haproxy", "equal", "cpu_us"))])
    return table(["", "CPU per request, µs", "min to max", "× HAProxy"], rows)


def latency_plot(samples, title):
    shown = [name for name in names(samples) if of(samples, name, "open")]
    def points(name):
        return [(n, median(samples, name, "open", "latency", at)) for n, at in enumerate(("p50", "p90", "p99", "p999", "max"))]
    return svg.lines(title, f"µs at {RATE:,} requests a second, from the moment each was due; logarithmic",
                     {name: points(name) for name in shown}, ticks=PERCENTILES, log_y=True)


class Tick(float):
    """A number that is written as words."""
    def __new__(cls, value, words):
        tick = super().__new__(cls, value)
        tick.words = words
        return tick


PERCENTILES = [Tick(n, words) for n, words in enumerate(("p50", "p90", "p99", "p99.9", "max"))]


class ByPath:
    TITLE = "chat request of 1 KB, routed by path to two servers in turn"
    TEXT = ("LiteLLM and Portkey are given a few seconds each; LiteLLM routes by `model` as it always does, and Portkey to one server, "
            "told by a header.")

    def run(self, bench):
        settings = bench.settings
        box, ports = load.serve("chat")
        body = load.body_file(load.chat_body("bench-b"))
        proxies = [bench.peers.start(name, "path", ports) for name in bench.peers.fast()]
        for proxy in proxies:
            peers.check(proxy, load.chat_body)
        warm(proxies, body)
        samples = rounds(proxies, body, ports["a"], settings, "routed by path")
        bench.stop(*(proxy.process for proxy in proxies))
        def measure(proxy):
            peers.check_slow(proxy, load.chat_body("bench-b"))
            warm([proxy], body)
            return {"proxy": proxy.name, "busy": load.measured(proxy, settings.pick(4, 1), "--body", body, connections=8)}
        slow = bench.peers.each_slow(1, ports, measure)
        bench.stop(box)
        return {"samples": samples, "slow": slow}

    def tables(self, found):
        parts = [f"{CONNECTIONS} connections at once, as fast as they go:", busy_table(found["samples"]),
                 f"{EQUAL_RATE:,} requests a second for each of them:", equal_table(found["samples"]),
                 f"At {RATE:,} requests a second, whatever the answers do; latency counts from the moment a request was due:",
                 open_table(found["samples"])]
        if found["slow"]:
            parts += ["Eight connections at once, as fast as they go:", busy_table(found["slow"])]
        return "\n\n".join(parts)

    def plots(self, found):
        cpu = [(name, median(found["samples"], name, "busy", "cpu_us")) for name in names(found["samples"])]
        return {"cpu-by-path": svg.bars("CPU per 1 KB chat request, routed by path", "µs", [("", cpu)]),
                "latency-by-path": latency_plot(found["samples"], "Latency of a 1 KB chat request, routed by path")}


class ByModel:
    TITLE = "the same, routed by `model`"
    TEXT = ("HAProxy with `http-buffer-request` and `json_query`, nginx with Lua and cjson, Envoy with a Lua pattern, as its Lua reads no JSON: "
            "that is less work than the others do, and would be fooled by a nested `model`. Before the run each one has to send two models to two "
            "servers although the text of the message names the wrong one, and to refuse a third. For 1 MB, HAProxy's buffers are raised to hold it.")

    def run(self, bench):
        box, ports = load.serve("chat")
        found = {"sizes": []}
        body = load.body_file(load.chat_body("bench-b"))
        for label, size in SIZES:
            proxies = self.start(bench, ports, size)
            if size == 1024:
                found["samples"] = rounds(proxies, body, ports["a"], bench.settings, "routed by model")
            for first in (True, False):
                if size > 1024 or first:  # 1 KB with `model` last is the lane itself
                    found["sizes"] += self.size(bench, proxies, label, size, first)
            bench.stop(*(proxy.process for proxy in proxies))
        bench.stop(box)
        return found

    def start(self, bench, ports, size):
        buffer = 16384 if size < 16000 else size + 65536
        proxies = [bench.peers.start(name, "model", ports, buffer=buffer) for name in bench.peers.fast()]
        for first in (True, False):
            for proxy in proxies:
                peers.check(proxy, lambda model, first=first: load.chat_body(model, size, first))
        warm(proxies, load.body_file(load.chat_body("bench-b", size)))
        return proxies

    def size(self, bench, proxies, label, size, first):
        say(f"routed by model: {label}, model {'first' if first else 'last'}")
        body = load.body_file(load.chat_body("bench-b", size, first))
        samples = []
        for n in range(bench.settings.pick(2, 1)):
            for proxy in proxies[n:] + proxies[:n]:
                busy = load.measured(proxy, bench.settings.pick(2, 0.5), "--body", body, connections=8 if size > 100_000 else CONNECTIONS)
                samples.append({"proxy": proxy.name, "size": label, "first": first, "busy": busy, "rss_kib": proxy.memory()})
        return samples

    def by_size(self, found):
        """Label, first, and the samples of each proxy."""
        main = [{**sample, "size": "1 KB", "first": False} for sample in found["samples"] if "busy" in sample]
        every = found["sizes"] + main
        for label, _ in SIZES:
            for first in (True, False):
                yield label, first, [s for s in every if s["size"] == label and s["first"] == first]

    def tables(self, found):
        shown = names([s for s in found["samples"] if "busy" in s])
        shown.sort(key=peers.FAST.index)
        rows = [[f"{label}, `model` {'first' if first else 'last'}", *(number(median(samples, name, "busy", "cpu_us")) for name in shown)]
                for label, first, samples in self.by_size(found)]
        return "\n\n".join([
            f"1 KB, `model` last. {CONNECTIONS} connections at once, as fast as they go:", busy_table(found["samples"]),
            f"{EQUAL_RATE:,} requests a second for each of them:", equal_table(found["samples"]),
            f"At {RATE:,} requests a second, whatever the answers do:", open_table(found["samples"]),
            "CPU per request in µs, by size and by where `model` is (8 connections at 1 MB):", table(["", *shown], rows)])

    def plots(self, found):
        groups = [(f"{label}, model {'first' if first else 'last'}", [(name, median(samples, name, "busy", "cpu_us")) for name in names(samples)])
                  for label, first, samples in self.by_size(found)]
        return {"latency-by-model": latency_plot(found["samples"], "Latency of a 1 KB chat request, routed by model"),
                "cpu-by-model-small": svg.bars("CPU per request, routed by model", "µs", groups[:4]),
                "cpu-by-model-1mb": svg.bars("CPU per request of 1 MB, routed by model", "µs", groups[4:])}
