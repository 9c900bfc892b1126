"""Lane 10: what checking the health of many servers costs when there is nothing else to do."""

import time

from .. import load
from ..settings import say
from ..tables import number, table
from .sizes import haproxy_values, trunkline_values

SERVERS = 1000
SETTLED = 6  # seconds


class Idle:
    TITLE = f"idle, with the health of {SERVERS:,} servers"
    TEXT = ("Each server is asked for `/health` every 5 s, by Trunkline and by HAProxy; the start and the first round of checks "
            f"are told apart, as the CPU of the first {SETTLED} s or so. The third row asks the servers for their models too, as is the default: once a minute.")

    def run(self, bench):
        count, seconds = SERVERS, bench.settings.pick(20, 5)
        box, ports = load.serve("chat", count=count)
        lines = "\n".join(f"    server s{n} 127.0.0.1:{port} check inter 5s" for n, port in enumerate(ports))
        def trunkline(models):
            return bench.peers.start("trunkline", "checked", {"a": ports[0]}, models=models, **trunkline_values("servers", count, ports))
        haproxy = bench.peers.start("haproxy", "servers", {"a": ports[0]}, **{**haproxy_values("servers", 1, ports[:1]), "many": lines})
        proxies = {"haproxy": haproxy, "trunkline": trunkline("false"), "trunkline, asking for models": trunkline("{ interval: 60s }")}
        say(f"idle, {count} servers")
        time.sleep(SETTLED)
        before, start = {name: proxy.cpu() for name, proxy in proxies.items()}, time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - start
        samples = [{"proxy": name, "servers": count, "seconds": took, "start_cpu_seconds": before[name], "cpu_seconds": proxy.cpu() - before[name],
                    "rss_kib": proxy.memory()} for name, proxy in proxies.items()]
        bench.stop(box, *(proxy.process for proxy in proxies.values()))
        return {"samples": samples}

    def tables(self, found):
        return table(["", "CPU of the start, s", "CPU, s", "in s", "of a core", "CPU per check, µs", "VmRSS, MiB"],
                     [[s["proxy"], number(s["start_cpu_seconds"], 2), number(s["cpu_seconds"], 2), number(s["seconds"]), f"{s['cpu_seconds'] / s['seconds']:.1%}",
                       number(s["cpu_seconds"] / (s["seconds"] / 5 * s["servers"]) * 1e6, 0), number(s["rss_kib"] / 1024)] for s in found["samples"]])

    def plots(self, _found):
        return {}
