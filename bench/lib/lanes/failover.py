"""Lane 6: one of two servers is killed in mid-run, and comes back."""

import time

from .. import load, processes, svg
from ..processes import free_ports
from ..settings import say
from ..tables import number, table
from .. import peers

RATE, DELAY, SLICE_MS = 1000, 0.02, 250


class Failover:
    TITLE = "one of two servers is killed, and comes back"
    TEXT = (f"{RATE:,} requests a second, whatever the answers do; the servers take {DELAY * 1000:.0f} ms, so some {RATE * DELAY / 2:.0f} requests are "
            "at the one that dies by SIGKILL. Trunkline with its defaults; HAProxy with checks, `retries 3`, `option redispatch 1` and "
            "`retry-on all-retryable-errors`; nginx with `proxy_next_upstream error timeout non_idempotent`; Envoy with three retries at another host "
            "and outlier detection. The switch is the two seconds from the kill.")

    def run(self, bench):
        return {"samples": [self.sample(bench, name) for name in bench.peers.fast()]}

    def sample(self, bench, name):
        say(f"a server dies behind {name}")
        length = bench.settings.pick(12, 4)
        kill, back = length * 0.3, length * 0.6
        ports = free_ports("a", "b")
        boxes = {which: self.box(which, ports[which]) for which in "ab"}
        proxy = bench.peers.start(name, "failover", ports)
        body = load.body_file(load.chat_body("bench-b"))
        load.closed(proxy.port, 0.5, "--body", body)
        start = time.monotonic()
        loading = load.start("load", proxy.port, "--rate", RATE, "--seconds", length, "--slice-ms", SLICE_MS, "--body", body)
        time.sleep(max(0, start + kill - time.monotonic()))
        boxes["a"].kill()
        killed = time.monotonic() - start
        bench.stop(boxes["a"])
        time.sleep(max(0, start + back - time.monotonic()))
        boxes["a"] = self.box("a", ports["a"])
        found = load.finish(loading)
        returned = self.answers_again(proxy, bench.settings.pick(15, 3))
        bench.stop(proxy.process, *boxes.values())
        return {"proxy": name, **found, "killed": killed, "back": back, "returned": returned}

    def box(self, which, port):
        process, _ = load.serve("chat", "--port", port, "--name", f"box-{which}", "--delay", DELAY, count=1)
        return process

    def answers_again(self, proxy, seconds):
        """Whether the one that came back is asked again by then."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if peers.ask(proxy, load.chat_body("bench-b")) == "box-a":
                return True
            time.sleep(0.02)
        return False

    def during(self, sample):
        """The worst p99 of a slice before the kill, and in the switch."""
        before = [s["latency"]["p99"] for s in sample["slices"] if 0.5 <= s["from"] <= sample["killed"] - 0.5 and s["latency"]["count"]]
        switch = [s["latency"]["p99"] for s in sample["slices"] if sample["killed"] - 0.25 <= s["from"] <= sample["killed"] + 2 and s["latency"]["count"]]
        return max(before, default=0) / 1000, max(switch, default=0) / 1000

    def tables(self, found):
        rows = []
        for s in found["samples"]:
            before, switch = self.during(s)
            kinds = ", ".join(f"{count} {kind}" for kind, count in s["failed"].items() if count and kind != "all")
            rows.append([s["proxy"], f"{s['answered']:,}", s["failed"]["all"], kinds, number(before), number(switch), number(s["latency"]["max"] / 1000),
                         "yes" if s["returned"] else "not by the end"])
        return table(["", "answered", "failed", "how", "worst p99 before, ms", "worst p99 in the switch, ms", "max, ms", "asked again when back"], rows)

    def plots(self, found):
        series = {s["proxy"]: [(part["from"], part["latency"]["p99"] / 1000) for part in s["slices"] if part["latency"]["count"]] for s in found["samples"]}
        s = found["samples"][0]
        note = f"p99 of each quarter of a second, ms, logarithmic; killed at {s['killed']:.1f} s, back at {s['back']:.1f} s"
        last = max(x for points in series.values() for x, _ in points)
        return {"failover": svg.lines("A server dies and comes back", note, series, ticks=[float(n) for n in range(0, int(last) + 2, 2) if n <= last + 0.01],
                                      log_y=True, x_unit="seconds")}
