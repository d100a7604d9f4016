"""How commands on this machine find the daemon that serves a port: a file with its process, and one with a wish."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from wattgram.tools.files import read_small, write_whole

LONGEST_WISH = 64
LONGEST_PAUSE = 366 * 86_400.0


def runtime_directory(environ: Mapping[str, str], uid: int | None = None) -> Path | None:
    """Return where the daemon lays what lives as long as it: systemd's, root's or the user's own; None: nowhere."""
    if environ.get("RUNTIME_DIRECTORY"):
        return Path(environ["RUNTIME_DIRECTORY"].split(":")[0])
    if (os.geteuid() if uid is None else uid) == 0:
        return Path("/run/wattgram")
    base = environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "wattgram" if base else None


class RunDirectory:
    """The files of the daemon that listens on one port; what cannot be read or written is as if it were not there."""

    def __init__(self, listen: str, environ: Mapping[str, str]) -> None:
        self.folder = runtime_directory(environ)
        port = listen.rpartition(":")[2]
        self._process = f"daemon-{port}.pid"
        self._wish = f"daemon-{port}.pause"

    def announce(self) -> None:
        """Say that this process is the daemon."""
        self._write(self._process, f"{os.getpid()} {start_ticks(os.getpid())}\n")

    def withdraw(self) -> None:
        """Take back what was said, if it was said by this process."""
        if self.folder is not None and self.daemon() == os.getpid():
            with contextlib.suppress(OSError):
                (self.folder / self._process).unlink()

    def daemon(self) -> int | None:
        """Return the process that serves the port; None: nobody said so, or it is gone."""
        words = self._read(self._process).split()
        if len(words) != 2 or not all(w.isascii() and w.isdigit() for w in words):  # noqa: PLR2004 - process, start
            return None
        pid = int(words[0])
        return pid if start_ticks(pid) == int(words[1]) and self._is_its_own(pid) else None

    def _is_its_own(self, pid: int) -> bool:
        """Whether who wrote the file owns the process: else a service's user could have root signal any other."""
        assert self.folder is not None
        try:
            return (self.folder / self._process).lstat().st_uid == Path(f"/proc/{pid}").stat().st_uid
        except OSError:
            return False

    def wish(self, seconds: float | None) -> None:
        """Leave word for how long the daemon is to pause; None: until it is told to resume. Raise OSError."""
        if self.folder is None:
            return
        (self.folder / self._wish).unlink(missing_ok=True)
        if seconds is not None:
            write_whole(self.folder / self._wish, f"{seconds:.3f}\n".encode(), 0o644)

    def take_wish(self) -> float | None:
        """Return for how many seconds to pause, once; None: until told to resume."""
        text = self._read(self._wish)
        if self.folder is not None:
            with contextlib.suppress(OSError):
                (self.folder / self._wish).unlink()
        try:
            seconds = float(text)
        except ValueError:
            return None
        return seconds if 0 < seconds <= LONGEST_PAUSE else None

    def _write(self, name: str, text: str) -> None:
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_whole(self.folder / name, text.encode(), 0o644)

    def _read(self, name: str) -> str:
        if self.folder is None:
            return ""
        try:
            return read_small(self.folder / name, LONGEST_WISH).decode("ascii", "replace")
        except OSError:
            return ""


def start_ticks(pid: int) -> int:
    """Return when a process started, in ticks since boot, which with its number means it alone; -1: it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return -1
    state, *fields = text.rpartition(")")[2].split()
    return -1 if state in "ZX" else int(fields[18])


def children(pid: int) -> list[int]:
    """Return the living children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent, *_ = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(parent) == pid and state not in "ZX":
                found.append(int(path.parent.name))
    return found
