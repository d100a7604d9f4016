"""A real process that says it runs on stand-in cards; needs nothing but Python's own library, and may run anywhere.

    python workload.py FOLDER --on 0:100:60 --on 1.2:50:30:1073741824:mps [--seconds 5] [--burn] [--name train]

--on CARD[.SLOT]:WATTS:SM[:BYTES[:KIND[:ENCODER:DECODER]]]   SLOT of a MIG instance, SM in per cent, KIND compute,
                                                             graphics or mps
FOLDER/<card>-<pid>-<slot>_<n>        "start born watts bytes sm encoder decoder kind"
FOLDER/<card>-<pid>-<slot>_<n>.end    "end"

Times are monotonic seconds, told before they come: whoever asks then computes the same. It prints `on` once it runs,
ends after so many seconds or at SIGTERM or SIGINT, and prints `off`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import time
from pathlib import Path

NOTICE = 0.05
NO_SLOT = 7
LONGEST = 3600.0

_numbers = itertools.count()


def born(pid: int) -> int | None:
    """When a living process began, as /proc counts; None: there is none, or it is dead and only not yet waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def register(folder: Path, place: str, pid: int, start: float, *, born: int) -> str:
    """Say that a process is on a card from a moment on; return the name of its file. `born` 0: it need not live."""
    where, watts, sm, *more = place.split(":")
    card, _, slot = where.partition(".")
    used, kind, encoder, decoder = [*more, *("1048576", "compute", "0", "0")[len(more) :]]
    name = f"{int(card)}-{pid}-{int(slot) if slot else NO_SLOT}_{os.getpid()}x{next(_numbers)}"
    words = (repr(start), born, repr(float(watts)), int(used), int(sm), int(encoder), int(decoder), kind)
    _write(folder / name, " ".join(map(str, words)))
    return name


def end(folder: Path, name: str, at: float) -> None:
    """Say when it is no longer there; only the first to say so counts."""
    with contextlib.suppress(FileExistsError):
        _write(folder / f"{name}.end", repr(at))


def _write(path: Path, text: str) -> None:
    """Make a file that is whole as soon as it can be seen; raise FileExistsError."""
    fresh = path.with_name(f".{path.name}-{os.getpid()}")
    fresh.write_text(text + "\n", encoding="ascii")
    fresh.chmod(0o644)
    try:
        os.link(fresh, path)
    finally:
        fresh.unlink()


def main() -> None:
    """Be on the cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--on", action="append", default=[], metavar="CARD[.SLOT]:WATTS:SM[:BYTES[:KIND]]")
    parser.add_argument("--seconds", type=float, default=LONGEST)
    parser.add_argument("--burn", action="store_true", help="keep a processor busy too")
    parser.add_argument("--name", default="", help="what it is called in /proc/PID/comm")
    asked = parser.parse_args()
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    if asked.name:
        Path("/proc/self/comm").write_text(asked.name, encoding="utf-8")
    own = born(os.getpid()) or 0
    start = time.monotonic() + NOTICE
    names = [register(asked.folder, place, os.getpid(), start, born=own) for place in asked.on]
    _sleep_until(start)
    print("on", flush=True)
    stop = start + asked.seconds
    while (left := stop - NOTICE - time.monotonic()) > 0 and not signal.sigtimedwait(
        stops, 0.0 if asked.burn else left
    ):
        if asked.burn:
            sum(range(10_000))
    now = time.monotonic()
    stop = max(min(stop, now + NOTICE), now + NOTICE / 2)
    for name in names:
        end(asked.folder, name, stop)
    _sleep_until(stop)
    with contextlib.suppress(BrokenPipeError):
        print("off", flush=True)


def _sleep_until(at: float) -> None:
    while (left := at - time.monotonic()) > 0:
        time.sleep(left)


if __name__ == "__main__":
    main()
