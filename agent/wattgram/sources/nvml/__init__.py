"""NVIDIA GPUs through NVML: in a child process of its own, where a call that hangs holds only its own GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wattgram.ports import Clock, Source
from wattgram.sources.nvml.options import Options as Options  # the registry's word for it


def record(options: Options) -> dict[str, Any]:
    """Return what this host's cards answer, with serial numbers and UUIDs masked; raise Unavailable."""
    del options
    from wattgram.sources.nvml.record import recording  # noqa: PLC0415 - as below

    return recording()


def open_source(options: Options, clock: Clock, every: float) -> Source:
    """Return the source; raise Unavailable without driver, library or GPU, ReadFailed when it cannot say."""
    # Imported here: the daemon reads Options, and must not carry the binding that only the child uses.
    from wattgram.sources.nvml.activity import Watch  # noqa: PLC0415
    from wattgram.sources.nvml.binding import Nvml  # noqa: PLC0415
    from wattgram.sources.nvml.occupants import Occupants  # noqa: PLC0415
    from wattgram.sources.nvml.source import NvmlSource  # noqa: PLC0415

    source = NvmlSource(
        Nvml(),
        clock,
        every=every,
        state_every=options.state_every,
        calibration=options.calibration,
        sysfs=Path(options.path),
        activity_every=options.activity_every,
        watch=lambda every: Watch(Occupants(), clock, Path(options.proc), every),
    )
    source.open()
    return source
