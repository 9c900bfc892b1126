"""Lane 9: what a proxy adds to the first byte of speech."""

from .. import load, svg
from ..peers import FAST, SPEECH
from ..settings import SPEECH_KB, say
from ..tables import median, names, number, table

DELAY = 0.05


class Speech:
    TITLE = "first byte of speech"
    TEXT = (f"`/v1/audio/speech`: the server sends the first KB after {DELAY * 1000:.0f} ms and the rest of {SPEECH_KB} KB at once. Eight clients. Added is "
            "against the same without a proxy (\"direct\").")

    def run(self, bench):
        box, ports = load.serve("speech", "--delay", DELAY, "--bytes", SPEECH_KB * 1024)
        body = load.body_file(b'{"model": "bench-b", "input": "Dinner is ready.", "voice": "nova"}')
        options = ["--path", SPEECH, "--body", body]
        proxies = [bench.peers.start(name, "path", ports) for name in bench.peers.fast()]
        samples = []
        for n in range(bench.settings.pick(2, 1)):
            say(f"speech: round {n + 1}")
            for proxy in proxies[n:] + proxies[:n]:
                samples.append({"proxy": proxy.name, **load.measured(proxy, bench.settings.pick(3, 1), *options, connections=8)})
            direct = load.all_good(load.closed(ports["a"], bench.settings.pick(3, 1), *options, connections=8), "direct")
            samples.append({"proxy": "direct", **direct})
        bench.stop(*(proxy.process for proxy in proxies))
        def measure(proxy):
            load.closed(proxy.port, 1, *options, *load.headers(proxy), connections=2)
            return {"proxy": proxy.name, **load.measured(proxy, bench.settings.pick(3, 1), *options, connections=8)}
        if not bench.settings.quick:  # they take longest to start
            samples += bench.peers.each_slow(9, ports, measure)
        bench.stop(box)
        return {"samples": samples}

    def tables(self, found):
        samples = found["samples"]
        direct = [median(samples, "direct", "first_byte", at) for at in ("p50", "p99")]
        rows = []
        for name in sorted(names(samples), key=lambda name: name != "direct"):
            at = [median(samples, name, "first_byte", at) for at in ("p50", "p99")]
            added = ["", ""] if name == "direct" else [number(at[0] - direct[0], 0), number(at[1] - direct[1], 0)]
            rows.append([name, number(at[0], 0), number(at[1], 0), *added, number(median(samples, name, "cpu_us"), 0)])
        return table(["", "first byte p50, µs", "p99, µs", "added p50, µs", "added p99, µs", "CPU per request, µs"], rows)

    def plots(self, found):
        samples = found["samples"]
        direct = median(samples, "direct", "first_byte", "p50")
        added = [(name, max(0, median(samples, name, "first_byte", "p50") - direct)) for name in FAST if name in names(samples)]
        return {"first-audio": svg.bars("Added time to the first byte of speech (p50)", "µs", [("", added)])}
