"""Runs a command on a terminal of its own, ends it in some way, and tells what was seen.

drive.py END COMMAND...
END: q, ctrl-c, a signal's name, resize (then q) or kill:PID (that process, then q)
"""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time


def resize(terminal, rows, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def own_terminal():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


end, command = sys.argv[1], sys.argv[2:]
ours, theirs = pty.openpty()
resize(theirs, 24, 80)
before = termios.tcgetattr(theirs)
child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own_terminal)
os.set_blocking(ours, False)
seen = b""
last = time.monotonic() + 20


def take():
    global seen
    try:
        seen += os.read(ours, 65536)
    except BlockingIOError:
        time.sleep(0.01)


def wait_for(text):
    while text not in seen:
        if time.monotonic() > last or child.poll() is not None:
            sys.exit(f"{text!r} was not seen in {seen!r}, {child.poll()}")
        take()


wait_for(b"POOL/SERVER")
wait_for(b"box-0")
if end == "q":
    os.write(ours, b"q")
elif end == "ctrl-c":
    os.write(ours, b"\x03")
elif end == "resize":
    resize(ours, 30, 120)
    wait_for(b"POOL/SERVER".ljust(40) + b" STATE")
    os.write(ours, b"q")
elif end.startswith("kill:"):
    os.kill(int(end.removeprefix("kill:")), signal.SIGKILL)
    wait_for(b"no answer, trying again")
    os.write(ours, b"q")
else:
    child.send_signal(getattr(signal, f"SIG{end}"))
while child.poll() is None:
    if time.monotonic() > last:
        child.kill()
        sys.exit(f"it did not end: {seen!r}")
    take()
for _ in range(10):
    take()
after = termios.tcgetattr(theirs)
print(json.dumps({"screen": seen.decode(errors="replace"), "code": child.returncode, "restored": before == after}))
