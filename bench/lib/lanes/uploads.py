"""Lane 4: large uploads at once, their throughput and the memory they take."""

from .. import load, peers, svg
from ..settings import say
from ..tables import names, number, table


class Uploads:
    TITLE = "large uploads at once"
    TEXT = ("Multipart to `/v1/audio/transcriptions`, `model` before `file`; all are half sent before any goes on, and the server counts what it "
            "gets. Peak is VmHWM of a proxy started for it. What Trunkline keeps of a body beyond its first MiB, it keeps in a file in the temporary "
            "folder: that is page cache, not counted here (and memory after all where that folder is a tmpfs).")

    def run(self, bench):
        settings, samples = bench.settings, []
        box, ports = load.serve("received")
        small = settings.pick(25, 5)
        for n in range(settings.pick(2, 1)):
            for name in bench.peers.fast():
                samples.append(self.sample(bench, name, "path", ports, 16, small))
            samples.append(self.sample(bench, "trunkline", "model", ports, 16, small))
        for name in bench.peers.fast():
            samples.append(self.sample(bench, name, "path", ports, 16, settings.pick(200, 20)))
        for mode in ("path", "model"):
            samples.append(self.sample(bench, "trunkline", mode, ports, 64, settings.pick(200, 10)))
        bench.stop(box)
        return {"samples": samples}

    def sample(self, bench, name, mode, ports, count, mib):
        say(f"{count} uploads of {mib} MiB through {name}, routed by {mode}")
        proxy = bench.peers.start(name, mode, ports)
        idle = proxy.memory("VmHWM")
        found = load.run("uploads", proxy.port, "--count", count, "--mib", mib, "--timeout", 120)
        sample = {"proxy": name, "mode": mode, "count": count, "mib": mib, **found, "idle_kib": idle, "peak_kib": proxy.memory("VmHWM"),
                  "after_kib": proxy.memory(), "cpu_seconds": proxy.cpu()}
        proxy.stop()
        return sample

    def tables(self, found):
        rows = []
        for s in found["samples"]:
            sent = s["bytes"] / 2**20
            cpu = number(s["cpu_seconds"] / sent * 1024, 2) if sent else ""
            rows.append([f"{s['count']} × {s['mib']} MiB", s["proxy"], s["mode"], number(sent / s["seconds"], 0), number(s["seconds"]), cpu,
                         number(s["idle_kib"] / 1024), number(s["peak_kib"] / 1024), number(s["after_kib"] / 1024), s["failed"] or ""])
        rows.sort(key=lambda row: int(row[0].split()[0]) * int(row[0].split()[2]))
        notes = [f"{s['proxy']}, {s['count']} × {s['mib']} MiB by {s['mode']}: {s['failed']} failed: {s['why']}" for s in found["samples"] if s["failed"]]
        head = ["", "proxy", "routed by", "MiB/s", "took, s", "CPU per GiB, s", "at start, MiB", "peak, MiB", "after, MiB", "failed"]
        return "\n\n".join([table(head, rows), *notes])

    def plots(self, found):
        label = lambda s: f"{s['count']} × {s['mib']} MiB"
        groups = []
        for kind in sorted(set(map(label, found["samples"])), key=lambda kind: int(kind.split()[0]) * int(kind.split()[2])):
            of_kind = [s for s in found["samples"] if label(s) == kind]
            pairs = [(name if mode == "path" else f"{name}, by model",
                      max((s["peak_kib"] for s in of_kind if (s["proxy"], s["mode"]) == (name, mode)), default=None))
                     for name in names(of_kind) for mode in ("path", "model")]
            groups.append((kind, [(name, peak / 1024) for name, peak in pairs if peak]))
        return {"memory-of-uploads": svg.bars("Peak memory while files go up", "MiB", groups)}
