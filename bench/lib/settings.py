"""What a run is told: how long it measures, and where things are."""

import dataclasses
import os
import pathlib
import resource
import sys

HERE = pathlib.Path(__file__).resolve().parent.parent
ROOT = HERE.parent
TOOLS = ROOT / "target/tools/bench"
PROXY_CORE, LOAD_CORE = "0", "1"
CONNECTIONS = 32  # of a closed loop
RATE = 2000  # requests a second of an open loop
EQUAL_RATE = 10_000  # the same where CPU is compared: every fast proxy can do it, none is saturated
SPEECH_KB = 100


@dataclasses.dataclass
class Settings:
    """Rounds, and seconds of one measurement in a round; the rest follows from `quick`."""
    quick: bool
    binary: pathlib.Path
    rounds: int = 3
    seconds: float = 5.0
    files: int = 0

    def __post_init__(self):
        if self.quick:
            self.rounds, self.seconds = 1, 1.0
        self.files = raise_limit(50_000)

    def pick(self, full, quick):
        return quick if self.quick else full


def raise_limit(wanted):
    """How many files may be open; root may raise even the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limits in ((wanted, max(wanted, hard)), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return limits[0]
        except (ValueError, OSError):
            continue
    return soft


def find_binary():
    told = os.environ.get("TRUNKLINE")
    places = [told] if told else [ROOT / "target/dist/trunkline", ROOT / "target/release/trunkline"]
    for place in map(pathlib.Path, places):
        if place.is_file() and os.access(place, os.X_OK):
            return place.resolve()
    sys.exit(f"bench: there is no binary at {' or '.join(map(str, places))}: run `make dist`, or set TRUNKLINE")


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)
