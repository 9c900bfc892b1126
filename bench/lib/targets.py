"""The goals, each judged by what a run found."""

from .lanes.failover import Failover
from .settings import EQUAL_RATE
from .tables import median, number, of, ratio


def judge(results):
    """A line each: the goal, what was found, and whether that meets it; only of lanes that were run."""
    lanes = results["lanes"]
    lines = []
    for number_, judged in ((1, lane_1), (2, lane_2), (3, lane_3), (4, lane_4), (5, lane_5), (6, lane_6), (7, lane_7)):
        if str(number_) in lanes:
            lines += judged(lanes[str(number_)])
    return [{"lane": lane, "goal": goal, "found": found, "met": met} for lane, goal, found, met in lines]


def against(value, to, factor=1.0, strict=False):
    """None if either was not measured."""
    if value is None or to is None:
        return None
    return value < to * factor if strict else value <= to * factor


def cpu(found, name, how="busy"):
    return median(found["samples"], name, how, "cpu_us")


def compared(lane, found, other, limit, words, strict=False):
    """CPU per request beside another proxy's, as fast as each goes and at a rate that is the same for all."""
    lines = []
    for how, at in (("busy", "as fast as they go"), ("equal", f"at {EQUAL_RATE:,} a second")):
        ours, theirs = cpu(found, "trunkline", how), cpu(found, other, how)
        said = f"{number(ours)} µs, {ratio(ours, theirs)} ×"
        lines.append((lane, f"CPU per request {words}, {at}", said, against(ours, theirs, limit, strict)))
    return lines


def lane_1(found):
    p99 = {name: median(found["samples"], name, "open", "latency", "p99") for name in ("trunkline", "envoy", "direct")}
    added = p99["trunkline"] - p99["direct"]
    calm = 0 < added and p99["direct"] < 1000  # else the machine had other things to do
    theirs = p99["envoy"] - p99["direct"] if p99["envoy"] is not None else None
    return [*compared(1, found, "haproxy", 1.3, "at most 1.3 × HAProxy's"), *compared(1, found, "envoy", 0.5, "at most half of Envoy's"),
            (1, "added p99 at 2,000 requests a second under 300 µs", f"{number(added, 0)} µs", added < 300 if calm else None),
            (1, "added p99 at 2,000 requests a second under Envoy's", f"{number(added, 0)} µs to {number(theirs, 0)} µs",
             against(added, theirs, strict=True) if calm else None)]


def lane_2(found):
    return [*compared(2, found, "haproxy", 1.0, "at most HAProxy's"), *compared(2, found, "nginx", 1.0, "under nginx's with Lua", strict=True)]


def lane_3(found):
    ours, haproxy = (median(found["samples"], name, "cpu_us") for name in ("trunkline", "haproxy"))
    return [(3, "CPU per event at most HAProxy's", f"{number(ours, 2)} µs, {ratio(ours, haproxy)} ×", against(ours, haproxy))]


def lane_4(found):
    lines = []
    for s in found["samples"]:
        if s["count"] == 64:
            peak = s["peak_kib"] / 1024
            said = f"peak {number(peak)} MiB" + (f", {s['failed']} failed" if s["failed"] else "")
            goal = f"{s['count']} × {s['mib']} MiB of uploads, routed by {s['mode']}, under 200 MB of memory"
            lines.append((4, goal, said, s["peak_kib"] * 1024 < 200e6 and not s["failed"]))
    return lines


def lane_5(found):
    lines = []
    for count in dict.fromkeys(s["streams"] for s in found["samples"]):
        per = {s["proxy"]: s["kib_per_stream"] for s in found["samples"] if s["streams"] == count}
        ours, envoy = per["trunkline"], per.get("envoy")
        lines.append((5, f"memory per open stream under Envoy's, at {count:,}", f"{number(ours)} KiB to {number(envoy)} KiB", against(ours, envoy, strict=True)))
    return lines


def lane_6(found):
    failed = sum(of(found["samples"], "trunkline", "failed", "all"))
    sample = next(s for s in found["samples"] if s["proxy"] == "trunkline")
    _, switch = Failover().during(sample)
    return [(6, "no failed request when a server dies", f"{failed} of {sample['answered'] + failed:,}; p99 in the switch {number(switch)} ms", failed == 0)]


def lane_7(found):
    """Flat: at the largest size at most 1.25 times the CPU of the smallest."""
    lines = []
    for what in ("routes", "servers", "keys"):
        ours = [s for s in found["samples"] if (s["proxy"], s["what"]) == ("trunkline", what)]
        few, many = ours[0], ours[-1]
        goal = f"CPU per request flat (within 1.25 ×) from {few['count']:,} to {many['count']:,} {what}"
        lines.append((7, goal, f"{number(few['cpu_us'])} to {number(many['cpu_us'])} µs, {ratio(many['cpu_us'], few['cpu_us'])} ×",
                      against(many["cpu_us"], few["cpu_us"], 1.25)))
    return lines
