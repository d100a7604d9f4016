"""A meter for one program, where no daemon serves it: `python -m wattgram.ownmeter OPTIONS`, spoken to over its input.

It speaks the local API's protocol (docs/local-api.md) on the socket that it was given, and ends with it.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

from wattgram import config, logs
from wattgram.clock import SystemClock
from wattgram.crew import Crew
from wattgram.ledger import Ledger
from wattgram.lens import Lens
from wattgram.local import CREDENTIALS, serve
from wattgram.ports import ConfigError, Unavailable
from wattgram.systemd import Notifier, Watchdog
from wattgram.tools.procfs import own_cost

# So long is waited for sources that are there but slow to open, and for a grid's first word.
OPEN_SECONDS, PRICE_SECONDS, NAP_SECONDS = 5.0, 3.0, 0.01
# Who is on a GPU is known from the second look on.
LOOKS, LOOK_WAIT = 2, 0.5
GIVEN_FD = 0


def main() -> None:
    """Meter for the peer on standard input until it leaves."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # who started us may have held signals for itself
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    options = json.loads(sys.argv[1])
    with socket.socket(fileno=os.dup(GIVEN_FD)) as line:
        pid, uid, _ = CREDENTIALS.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        os.dup2(os.open(os.devnull, os.O_RDONLY), GIVEN_FD)  # no child of ours may keep the line open
        _meter(line, uid, pid, options)
    logs.flush()
    os._exit(0)  # what hangs in a driver must not keep us


def _meter(line: socket.socket, uid: int, pid: int, options: dict[str, str]) -> None:
    clock = SystemClock()
    try:
        settings = _settings(options)
        ledger = Ledger(clock, cost=own_cost, host=platform.node())
        lens = Lens(clock, ledger.snapshot, Path(settings.attribution.proc), "own")
        crew = Crew(settings, clock, os.environ, ledger, Watchdog(Notifier({}), None), _not_there, lens.windows)
    except ConfigError as error:
        line.recv(1 << 16)
        line.sendall(json.dumps({"ok": False, "error": "config", "message": str(error)}).encode() + b"\n")
        return
    crew.start(stays=False)
    _await(ledger, crew)
    for _ in range(LOOKS):
        crew.read_now(LOOK_WAIT)
    lens.start(crew.read_now)
    serve(line, lens.office, uid, pid, idle=None)
    lens.stop()
    crew.stop()
    crew.close()


def _settings(options: dict[str, str]) -> config.Config:
    flags = {"carbon.zone": options.get("zone")}
    file = options.get("config")
    settings = config.load(Path(file) if file else None, os.environ, flags)
    return replace(settings, log=replace(settings.log, level="error"))


def _not_there(name: str, missing: Unavailable) -> None:
    """The receipt says it: the command runs all the same."""


def _await(ledger: Ledger, crew: Crew) -> None:
    """Return when every source has given its first reading, or was found not to be there, and joules have a price."""
    end = time.monotonic() + OPEN_SECONDS
    while any(h.kind == "source" and not h.turns for h in ledger.snapshot().health) and time.monotonic() < end:
        time.sleep(NAP_SECONDS)
    end = time.monotonic() + PRICE_SECONDS
    while crew.tariff is not None and crew.tariff.at(time.time()) is None and time.monotonic() < end:
        time.sleep(NAP_SECONDS)


if __name__ == "__main__":
    main()
