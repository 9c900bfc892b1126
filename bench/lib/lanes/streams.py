"""Lanes 3 and 5: event streams, their delay and CPU, and the memory of open ones."""

from .. import load, peers, svg
from ..settings import say
from ..tables import median, names, number, of, ratio, spread, table

CHUNKS, GAP, STREAMS = 100, 0.02, 200


def whole(found, what, chunks):
    """Every stream was answered to its end."""
    if found["failed"]["all"] or found["events"] != found["whole"] * chunks or not found["whole"]:
        bench_says = f"{found['whole']} streams, {found['events']} events, failed: {found['failed']}"
        raise SystemExit(f"bench: {what}: not every event arrived: {bench_says}")
    return found


class Events:
    TITLE = f"event streams of {CHUNKS} events, {STREAMS} at once"
    TEXT = (f"{GAP * 1000:.0f} ms between two events at the server. Each event says when it was sent, so its delay is the way through the proxy. "
            "The gap is by how much the time between two events differs from what it was at the server. LiteLLM and Portkey with 10 at once. "
            "\"Direct\" is without a proxy.")

    def run(self, bench):
        settings = bench.settings
        chunks = settings.pick(CHUNKS, 40)
        box, ports = load.serve("events", "--chunks", chunks, "--gap", GAP)
        body = load.body_file(load.chat_body("bench-b", stream=True))
        proxies = [bench.peers.start(name, "path", ports) for name in bench.peers.fast()]
        samples = []
        for n in range(settings.pick(2, 1)):
            say(f"event streams: round {n + 1}")
            turn = n % len(proxies)
            samples += [self.sample(bench, proxy, body, STREAMS, chunks) for proxy in proxies[turn:] + proxies[:turn]]
            found = load.run("stream", ports["a"], "--streams", STREAMS, "--seconds", settings.pick(4, 0), "--body", body)
            samples.append({"proxy": "direct", **whole(found, "direct", chunks)})
        bench.stop(*(proxy.process for proxy in proxies))
        def measure(proxy):
            load.run("stream", proxy.port, "--streams", 2, "--body", body, *load.headers(proxy))
            return self.sample(bench, proxy, body, 10, chunks)
        slow = [] if settings.quick else bench.peers.each_slow(3, ports, measure)  # they take longest to start
        bench.stop(box)
        return {"samples": samples, "slow": slow}

    def sample(self, bench, proxy, body, streams, chunks):
        before = proxy.cpu()
        found = load.run("stream", proxy.port, "--streams", streams, "--seconds", bench.settings.pick(4, 0), "--body", body, *load.headers(proxy))
        used = proxy.cpu() - before
        whole(found, proxy.name, chunks)
        return {"proxy": proxy.name, **found, "cpu_us": used / found["events"] * 1e6}

    def tables(self, found):
        def one(samples):
            direct = {of_what: median(found["samples"], "direct", of_what, "p50") for of_what in ("first", "gap", "delay")}
            rows = []
            for name in sorted(names(samples), key=lambda name: name != "direct"):
                at = lambda *path: median(samples, name, *path)
                cpu = at("cpu_us")
                added = "" if name == "direct" else number(at("first", "p50") - direct["first"], 0)
                rows.append([name, number(cpu, 2), spread(of(samples, name, "cpu_us")), ratio(cpu, median(found["samples"], "haproxy", "cpu_us")),
                             number(at("first", "p50"), 0), number(at("first", "p99"), 0), added, number(at("delay", "p50"), 0),
                             number(at("delay", "p99"), 0), number(at("gap", "p50"), 0), number(at("gap", "p99"), 0), sum(of(samples, name, "events"))])
            return table(["", "CPU per event, µs", "min to max", "× HAProxy", "first event p50, µs", "p99", "added p50", "delay p50, µs", "p99",
                          "gap p50, µs", "p99", "events"], rows)
        return "\n\n".join([one(found["samples"]), *(["Ten streams at once:", one(found["slow"])] if found["slow"] else [])])

    def plots(self, found):
        shown = [name for name in names(found["samples"]) if name != "direct"]
        return {"cpu-per-event": svg.bars("CPU per event of a stream", "µs", [("", [(name, median(found["samples"], name, "cpu_us")) for name in shown])])}


class Memory:
    TITLE = "memory of open event streams"
    TEXT = "VmRSS after every stream has passed on two events. A proxy started anew for each number of streams; nginx is master and worker together."

    def run(self, bench):
        settings = bench.settings
        most = settings.files // 2 - 200  # a proxy has two open for each
        counts = [min(count, most) for count in settings.pick([2000, 10_000], [200, 1000])]
        samples = []
        box, ports = load.serve("events", "--chunks", 1000, "--gap", settings.pick(6, 1))
        body = load.body_file(load.chat_body("bench-b", stream=True))
        for count in counts:
            for name in bench.peers.fast():
                say(f"{count} open streams through {name}")
                proxy = bench.peers.start(name, "path", ports)
                try:
                    samples.append(self.sample(bench, proxy, body, count))
                except SystemExit as why:
                    if name == "trunkline":
                        raise
                    # a peer that loses some is told of, and does not cost the others their numbers
                    bench.peers.missing[f"{name} 5"] = f"lane 5: {str(why)[:160]}"
                    say(why)
                    proxy.stop()
        bench.stop(box)
        return {"samples": samples}

    def sample(self, bench, proxy, body, count):
        idle = proxy.memory()
        holding = load.start("stream", proxy.port, "--hold", "--streams", count, "--ramp", bench.settings.pick(3, 1), "--body", body)
        line = holding.stdout.readline()
        rss = proxy.memory()
        found = load.finish(holding)
        if not line or found["failed"]["all"] or found["first"]["count"] != count:
            raise SystemExit(f"bench: {proxy.name}: not all of {count} streams were open: {found}")
        proxy.stop()
        return {"proxy": proxy.name, "streams": count, "idle_kib": idle, "open_kib": rss, "kib_per_stream": (rss - idle) / count}

    def tables(self, found):
        return table(["", "streams", "at start, MiB", "streams open, MiB", "KiB per stream"],
                     [[s["proxy"], f"{s['streams']:,}", number(s["idle_kib"] / 1024), number(s["open_kib"] / 1024), number(s["kib_per_stream"])]
                      for s in found["samples"]])

    def plots(self, found):
        counts = list(dict.fromkeys(s["streams"] for s in found["samples"]))
        groups = [(f"{count:,} streams", [(s["proxy"], s["kib_per_stream"]) for s in found["samples"] if s["streams"] == count]) for count in counts]
        return {"memory-per-stream": svg.bars("Memory per open stream", "KiB", groups)}
