"""Processes: each is known by its pid, pinned to a core, measured from outside, and none outlives this one."""

import ctypes
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from .settings import HERE

TMP = pathlib.Path(tempfile.mkdtemp(prefix="trunkline-bench-"))
LOG = TMP / "processes.log"
RUNNING = []


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    os.setpgid(0, 0)  # so that what it starts itself can be ended with it


def spawn(core, command, env=None, log=LOG, **pipes):
    """`log` takes what it says, unless `pipes` takes it."""
    out = open(log, "ab")
    # nothing of the caller's environment may change what a proxy does
    env = {"PATH": os.environ["PATH"] + ":/usr/sbin", "TMPDIR": str(TMP), "HOME": str(TMP), **(env or {})}
    options = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, **pipes}
    process = subprocess.Popen(["taskset", "-c", core, *map(str, command)], env=env, preexec_fn=die_with_parent, **options)
    out.close()
    RUNNING.append(process)
    return process


def stop(*processes):
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if process in RUNNING:
            RUNNING.remove(process)


def stop_everything():
    stop(*RUNNING[:])
    shutil.rmtree(TMP, ignore_errors=True)


def free_ports(*names):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: s.getsockname()[1] for name, s in zip(names, sockets)}
    for s in sockets:
        s.close()
    return ports


def fill_in(template, values):
    """A file of conf/ with each @key@ replaced; where it was written."""
    text = (HERE / "conf" / template).read_text()
    for key, value in {**values, "tmp": TMP}.items():
        text = text.replace(f"@{key}@", str(value))
    file = TMP / f"{time.monotonic_ns()}-{template}"
    file.write_text(text)
    return file


def serves(port, seconds, tls=False):
    """Whether something answers there: anything, as long as it is not only the system that takes the connection."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as s:
            s.settimeout(seconds)
            if not tls:
                s.sendall(b"GET /health HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
            return tls or s.recv(1) != b""
    except OSError:
        return False


def wait_for(process, port, seconds=10, tls=False):
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if serves(port, seconds, tls):
            return
        time.sleep(0.005)
    sys.exit(f"bench: {process.args} does not serve:\n" + LOG.read_text(errors="replace")[-3000:])


def family(pid):
    """A process and all that it started."""
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(other for child in children for other in family(int(child)))]


def cpu(pids):
    """Seconds of CPU used so far, user and system."""
    def ticks(pid):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return sum(map(ticks, pids)) / os.sysconf("SC_CLK_TCK")


def memory(pids, field):
    """VmRSS or VmHWM in KiB, of all of them together."""
    def kib(pid):
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))
    return sum(map(kib, pids))
