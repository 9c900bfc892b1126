"""Lane 8: TLS handshakes, new ones and resumed ones."""

from .. import load, svg
from ..settings import say
from ..tables import median, names, number, share, table


class Handshakes:
    TITLE = "TLS handshakes"
    TEXT = ("TLS 1.3 with a certificate of P-256; eight clients, each connection with one request that asks for its end. CPU is that of the proxy for "
            "all of it: connection, handshake, request. Resumed ones show a ticket.")

    def run(self, bench):
        box, ports = load.serve("chat")
        body = load.body_file(load.chat_body("bench-b"))
        proxies = [bench.peers.start(name, "tls", ports) for name in bench.peers.fast()]
        samples = []
        for n in range(bench.settings.pick(2, 1)):
            for resume in (False, True):
                say(f"TLS handshakes, {'resumed' if resume else 'new'}: round {n + 1}")
                for proxy in proxies[n:] + proxies[:n]:
                    samples.append(self.sample(bench, proxy, body, resume))
        bench.stop(box, *(proxy.process for proxy in proxies))
        return {"samples": samples}

    def sample(self, bench, proxy, body, resume):
        before = proxy.cpu()
        found = load.run("handshakes", proxy.port, "--seconds", bench.settings.pick(3, 1), "--body", body, "--header", "connection: close",
                         *(["--resume"] if resume else []))
        used = proxy.cpu() - before
        made = found["full"] + found["resumed"]
        if found["failed"] or not made or (not resume and found["resumed"]):
            raise SystemExit(f"bench: {proxy.name}: handshakes are not as asked for: {found}")
        return {"proxy": proxy.name, "asked": "resumed" if resume else "new", **found, "share_resumed": found["resumed"] / made, "cpu_us": used / made * 1e6}

    def tables(self, found):
        rows = []
        for asked in ("new", "resumed"):
            samples = [s for s in found["samples"] if s["asked"] == asked]
            for name in names(samples):
                rows.append([asked, name, number(median(samples, name, "per_second"), 0), number(median(samples, name, "cpu_us"), 0),
                             number(median(samples, name, "latency", "p50"), 0), number(median(samples, name, "latency", "p99"), 0),
                             share(median(samples, name, "share_resumed"))])
        return table(["", "proxy", "connections/s", "CPU per connection, µs", "handshake p50, µs", "p99, µs", "were resumed"], rows)

    def plots(self, found):
        groups = []
        for asked in ("new", "resumed"):
            samples = [s for s in found["samples"] if s["asked"] == asked]
            groups.append((f"{asked} connections", [(name, median(samples, name, "cpu_us")) for name in names(samples)]))
        return {"tls": svg.bars("CPU per TLS connection with one request", "µs", groups)}
