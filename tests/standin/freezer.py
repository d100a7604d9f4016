"""Processes that not even SIGKILL ends for now, as those that hang in a driver: held in a cgroup-v1 freezer."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from types import TracebackType
from typing import final

import pytest

ROOT = Path("/sys/fs/cgroup/freezer")
EXCUSE = "needs a real cgroup freezer"

_numbers = itertools.count()


@final
class Freezer:
    """A group whose members stand still until `thaw`; skips the test where there is none to be had."""

    def __init__(self) -> None:
        self._group = ROOT / f"wattgram-test-{os.getpid()}-{next(_numbers)}"
        try:
            self._group.mkdir()
            self._set("FROZEN")
        except OSError as error:
            pytest.skip(f"{EXCUSE}: {error}")

    def __enter__(self) -> Freezer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.thaw()
        for pid in self.members():
            (ROOT / "cgroup.procs").write_text(str(pid))
        end = time.monotonic() + 10.0
        while self._group.exists() and time.monotonic() < end:
            try:
                self._group.rmdir()
            except OSError:
                time.sleep(0.02)

    def hold(self, pid: int) -> None:
        """Freeze a process: a signal, SIGKILL included, waits until it is let go."""
        (self._group / "cgroup.procs").write_text(str(pid))

    def members(self) -> list[int]:
        """Who is held."""
        return [int(word) for word in (self._group / "cgroup.procs").read_text().split()]

    def thaw(self) -> None:
        """Let them go; what is held later is not frozen any more."""
        self._set("THAWED")

    def _set(self, state: str) -> None:
        (self._group / "freezer.state").write_text(state)
