"""What the user may set for NVIDIA GPUs."""

from __future__ import annotations

from dataclasses import dataclass, field

from wattgram.ports import Seconds, SourceOptions


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One card against an external meter: what was used is `gain` times what it shows, and `offset_w` watts."""

    gain: float = 1.0
    offset_w: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Options(SourceOptions):
    """`state_every` is the seconds between readings of what is not power: utilisation, memory, temperature, limit.

    `activity_every` those between looks at who keeps a GPU busy, never fewer than the interval. `calibration` is by GPU
    UUID and shown with every figure it touched; `path` is where the tree of /sys is mounted, `proc` that of /proc.
    """

    state_every: Seconds = Seconds(5)
    activity_every: Seconds = Seconds(1)
    calibration: dict[str, Calibration] = field(default_factory=dict)
    path: str = "/sys"
    proc: str = "/proc"
