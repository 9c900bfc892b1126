"""What a run leaves: results.json with every sample, README.md made from it, and the plots."""

import datetime
import json
import os
import pathlib
import platform
import subprocess
import tempfile

from .lanes import LANES
from .peers import FAST, SLOW, dpkg_versions, first_line
from .settings import CONNECTIONS, HERE, ROOT
from .tables import table
from .targets import judge

NOTES = """- Two cores of a virtual machine, so noise: "min to max" shows by how much single rounds differ. Trust ratios from one run, and
  only large ones; compare nothing across machines.
- Load and servers share one core. Where "proxy's core used" is well under 100 %, that core was the limit: then requests/s and the busy
  latencies are those of the load, not of the proxy, and CPU per request may be higher than of a full core, as each wake-up finds less to do.
- "Direct" never leaves core 1. What a proxy adds includes the way to core 0 and back, for all of them. At a fixed rate the two cores sleep
  between requests, and waking them is part of every latency.
- Trunkline's `keepalive.requests` is raised from 90 (for small servers) to what the peers do; its health checks are off except in lanes 6 and 10.
- The peers are packages as they come, with a plain configuration, not tuned by someone who knows them well. Envoy reads no JSON in lane 2.
- LiteLLM and Portkey do more with a request than pass it on, and are measured for seconds only.
- A model takes seconds for what is measured here in microseconds."""


def versions(binary, peers):
    commit = subprocess.run(["git", "--no-optional-locks", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    profile = {"dist": "dist build", "release": "release build", "debug": "DEBUG BUILD: figures mean nothing"}
    ours = f"{first_line(binary, '--version')} ({profile.get(binary.parent.name, 'build not known')}; working tree at {commit.stdout.strip() or 'unknown'})"
    return [ours, *(peers.versions[name] for name in [*FAST, *SLOW] if name in peers.versions), ", ".join(dpkg_versions("libnginx-mod-http-lua", "lua-cjson"))]


def machine():
    cpu = next((line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cores": os.cpu_count(), "cpu": cpu, "memory_gib": round(pages / 2**30),
            "system": "Linux " + ".".join(platform.release().split(".")[:2]), "load_before": os.getloadavg()[0]}


def targets_table(results):
    said = {True: "met", False: "**missed**", None: "not to be told"}
    return table(["Lane and goal", "found", ""], [[f"{line['lane']}: {line['goal']}", line["found"], said[line["met"]]] for line in judge(results)])


def lane_text(number, found, plots):
    lane = LANES[number]
    pictures = "\n\n".join(f"![{name}]({name}.svg)" for name in plots)
    return f"## Lane {number}: {lane.TITLE}\n\n{lane.TEXT}\n\n{lane.tables(found)}\n" + (f"\n{pictures}\n" if pictures else "")


def readme(results, plots):
    machine, lanes = results["machine"], results["lanes"]
    missing = "\n".join(f"- {why}" for why in results["missing"].values())
    sections = "\n".join(lane_text(int(number), found, plots[number]) for number, found in lanes.items())
    versions = "\n".join(f"- {line}" for line in results["versions"])
    return f"""# Benchmark of {results["date"]}

    make dist
    {results["command"]}

Machine: {machine["cores"]} cores of {machine["cpu"]}, {machine["memory_gib"]} GiB, {machine["system"]}. Everything on loopback.
Load average before the run: {machine["load_before"]:.2f}. The run took {results["took"] / 60:.0f} minutes.

{versions}
{"" if not missing else chr(10) + "Not measured:" + chr(10) + chr(10) + missing + chr(10)}
The proxy has core 0 to itself (one thread or worker each), load and servers share core 1. Configurations: `bench/conf`; every sample:
`results.json`. {results["rounds"]} rounds of {results["seconds"]:g} s, the proxies in turn and in another order each round; tables show medians. CPU is user
and system time of the proxy's processes from `/proc/PID/stat` over the requests answered. The peers set `x-forwarded-for` and a request
id, two of the headers Trunkline sets; nobody writes an access log. Load and fake servers are `bench/load`; closed loops have
{CONNECTIONS} connections unless it says otherwise.
{QUICK_NOTE if results["quick"] else ""}
## Targets

{targets_table(results)}

{sections}
## What not to read into it

{NOTES}
"""


QUICK_NOTE = """
**This was a quick run (`--quick`): it shows that everything works. Its figures mean nothing.**
"""


def write(folder, results):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results["targets"] = judge(results)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plots = {number: LANES[int(number)].plots(found) for number, found in results["lanes"].items()}
    for pictures in plots.values():
        for name, picture in pictures.items():
            (folder / f"{name}.svg").write_text(picture)
    (folder / "README.md").write_text(readme(results, plots))


def new_folder(quick):
    if quick:
        return pathlib.Path(tempfile.mkdtemp(prefix="trunkline-bench-quick-"))
    name = f"{datetime.date.today()}-{os.cpu_count()}core"
    folders = [HERE / "runs" / name, *(HERE / "runs" / f"{name}-{n}" for n in range(2, 100))]
    return next(folder for folder in folders if not folder.exists())
