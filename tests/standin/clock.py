"""Clocks that can be set, for the processes under test alone: the machine's own stay as they are."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import final

from standin.nvml import CompilerMissing

SOURCE = Path(__file__).with_suffix(".c")
LIBRARY = "libstandin-clock.so"
_OFFSETS = struct.Struct("=3d")

_built: dict[str, Path] = {}


def build(directory: Path) -> Path:
    """The library, compiled under `directory` or, once per process, before."""
    if "" not in _built or not _built[""].exists():
        _built[""] = _compile(directory / "lib-clock")
    return _built[""]


def _compile(directory: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        raise CompilerMissing("no C compiler (cc): the stand-in clock cannot be built")
    directory.mkdir(parents=True, exist_ok=True)
    flags = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
    done = subprocess.run(
        [compiler, *flags, "-o", str(directory / LIBRARY), str(SOURCE), "-lm", "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the stand-in clock does not compile:\n{done.stderr}")
    return directory / LIBRARY


@final
class ClockShim:
    """What is added to the clocks of every process started with `env`: they see a change at their next look."""

    def __init__(self, directory: Path) -> None:
        self._library = build(directory)
        self._file = directory / "clock.offsets"
        self._wall, self._boot, self._mono = 0.0, 0.0, 0.0
        self._file.write_bytes(_OFFSETS.pack(0.0, 0.0, 0.0))

    @property
    def env(self) -> Mapping[str, str]:
        """What to merge into a child's environment."""
        return {"LD_PRELOAD": str(self._library), "WATTGRAM_STANDIN_CLOCK": str(self._file)}

    @property
    def wall(self) -> float:
        """Seconds by which their wall clock is ahead of ours."""
        return self._wall

    def step(self, seconds: float) -> None:
        """Set the wall clock forward, or back."""
        self._set(self._wall + seconds, self._boot, self._mono)

    def sleep(self, seconds: float) -> None:
        """Suspend the machine for so long: only the monotonic clock has not gone on."""
        self._set(self._wall + seconds, self._boot + seconds, self._mono)

    def leap(self, seconds: float) -> None:
        """Let so much time pass at once, on every clock."""
        self._set(self._wall + seconds, self._boot + seconds, self._mono + seconds)

    def _set(self, wall: float, boot: float, monotonic: float) -> None:
        self._wall, self._boot, self._mono = wall, boot, monotonic
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), _OFFSETS.size) as offsets:
            offsets[:] = _OFFSETS.pack(wall, boot, monotonic)
