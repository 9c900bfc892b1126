"""Lane 7: what more routes, servers and keys cost: CPU, memory, and the time of a reload."""

import os
import signal
import time

from .. import load, processes, svg
from ..processes import TMP, spawn, wait_for
from ..settings import PROXY_CORE, say
from ..tables import number, table

MANY = [10, 100, 1000, 10_000]
SERVERS = [1, 10, 100, 1000]
RELOADED = "read again and is in service"


class Sizes:
    TITLE = "many routes, many servers, many keys"
    TEXT = ("Requests of 1 KB go through all of them in turn. Routes are chosen by `model`, of which each has its own; HAProxy has a map for that. "
            "A reload of Trunkline is the time from SIGHUP to its word that the file was read again; of HAProxy, from the start of a new process "
            "with `-sf` to the end of the old one, which has no clients left. Trunkline does not ask servers for models here; lane 10 shows that.")

    def run(self, bench):
        samples = []
        many = bench.settings.pick(MANY, MANY[:3])
        for what, counts, names in (("routes", many, ["haproxy", "trunkline"]), ("servers", SERVERS, ["haproxy", "trunkline"]),
                                    ("keys", many, ["trunkline"])):
            for count in counts:
                box, ports = load.serve("chat", count=count if what == "servers" and count > 1 else 2)
                ports = list(ports.values()) if isinstance(ports, dict) else ports
                for name in names:
                    say(f"{count} {what}: {name}")
                    samples.append(self.sample(bench, name, what, count, ports))
                bench.stop(box)
        return {"samples": samples}

    def sample(self, bench, name, what, count, ports):
        ports = ports[:count] if what == "servers" else ports[:1]
        values = haproxy_values(what, count, ports) if name == "haproxy" else trunkline_values(what, count, ports)
        mode = what if name == "haproxy" else "sizes"
        begun = time.monotonic()
        proxy = bench.peers.start(name, mode, {"a": ports[0]}, **values)
        started = time.monotonic() - begun
        more = ["--header", "authorization: Bearer sk-bench-10000000-long-enough"] if what == "keys" else []
        model = "m10000000" if what == "routes" else "bench-b"
        options = ["--vary", count, "--body", load.body_file(load.chat_body(model)), *more]
        load.all_good(load.closed(proxy.port, max(0.5, min(3, count / 4000)), *options), f"{name}, {count} {what}")
        rss = proxy.memory()
        busy = load.measured(proxy, bench.settings.pick(3, 0.7), *options, what=f"{count} {what}")
        time.sleep(0.2)
        reload = reload_trunkline(proxy) if name == "trunkline" else reload_haproxy(proxy)
        proxy.stop()
        return {"proxy": name, "what": what, "count": count, "cpu_us": busy["cpu_us"], "per_second": busy["per_second"], "rss_kib": rss,
                "reload_ms": reload * 1000, "start_ms": started * 1000}

    def tables(self, found):
        def one(what):
            rows = [[f"{s['count']:,}", s["proxy"], number(s["cpu_us"]), number(s["rss_kib"] / 1024), number(s["reload_ms"], 0), number(s["start_ms"], 0)]
                    for s in found["samples"] if s["what"] == what]
            return table([what, "proxy", "CPU per request, µs", "VmRSS, MiB", "reload, ms", "start, ms"], rows)
        return "\n\n".join(map(one, ("routes", "servers", "keys")))

    def plots(self, found):
        series, memory = {}, {}
        for s in found["samples"]:
            label = f"{s['proxy']}, {s['what']}"
            series.setdefault(label, []).append((s["count"], s["cpu_us"]))
            memory.setdefault(label, []).append((s["count"], s["rss_kib"] / 1024))
        ticks = [1, 10, 100, 1000, 10_000]
        return {"cpu-by-size": svg.lines("CPU per request with many routes, servers, keys", "µs", series, ticks=ticks, log_x=True, x_unit="how many"),
                "memory-by-size": svg.lines("Memory with many routes, servers, keys", "MiB", memory, ticks=ticks, log_x=True, x_unit="how many")}


def trunkline_values(what, count, ports):
    servers = "\n".join(f'      - {{ url: "http://127.0.0.1:{port}", name: s{n} }}' for n, port in enumerate(ports))
    routes = "  - { pool: many }"
    if what == "routes":
        routes = "\n".join(f'  - {{ name: r{n}, match: {{ model: "m{10_000_000 + n}" }}, pool: many }}' for n in range(count))
    keys = "\n".join(f"  - {{ name: k{n}, key: sk-bench-{10_000_000 + n}-long-enough }}" for n in range(count))
    return {"servers": servers, "routes": routes, "keys": f"keys:\n{keys}" if what == "keys" else ""}


def haproxy_values(what, count, ports):
    lines = "\n".join(f"    server s{n} 127.0.0.1:{port}" for n, port in enumerate(ports))
    file = TMP / "routes.map"
    file.write_text("".join(f"m{10_000_000 + n} one\n" for n in range(count if what == "routes" else 1)))
    return {"many": lines, "map": file}


def reload_trunkline(proxy):
    """Seconds from SIGHUP to the line that says it is done."""
    seen = proxy.log.read_text(errors="replace").count(RELOADED)
    begun = time.monotonic()
    os.kill(proxy.process.pid, signal.SIGHUP)
    while time.monotonic() < begun + 90:
        if proxy.log.read_text(errors="replace").count(RELOADED) > seen:
            return time.monotonic() - begun
        time.sleep(0.001)
    raise SystemExit("bench: trunkline did not say that it has read its file again:\n" + proxy.log.read_text(errors="replace")[-2000:])


def reload_haproxy(proxy):
    """Seconds until the new process has taken over, which is the proxy's from then on."""
    old, begun = proxy.process, time.monotonic()
    proxy.process = spawn(PROXY_CORE, [*proxy.command, "-sf", old.pid], log=proxy.log)
    while old.poll() is None and time.monotonic() < begun + 90:
        time.sleep(0.001)
    took = time.monotonic() - begun
    wait_for(proxy.process, proxy.port)
    processes.stop(old)
    return took
