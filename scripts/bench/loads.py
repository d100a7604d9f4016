"""Eight cards, each with a load that is easy or hard to meter, and the exact truth about each."""

from __future__ import annotations

from pathlib import Path

from standin.nvml import Constant, Gpu, NvmlStandin, Square

# An A100 tells the power of an instant, later cards the mean of the last second.
INSTANT = Gpu(
    profile=Square(60.0, 400.0, 1.0, phase=0.3),
    name="NVIDIA A100-SXM4-80GB",
    architecture=7,
    average_window=0.0,
    limit_watts=400.0,
)

LOADS: dict[str, Gpu] = {
    "constant": Gpu(profile=Constant(300.0)),
    "square, 0.7 s": Gpu(profile=Square(100.0, 700.0, 0.7)),
    "square, 1 s": Gpu(profile=Square(100.0, 700.0, 1.0, phase=0.3)),
    "square, 1 s, power of the instant": INSTANT,
    "square, 15 s": Gpu(profile=Square(100.0, 700.0, 15.0)),
    "square, 15 s, a quarter later": Gpu(profile=Square(100.0, 700.0, 15.0, phase=3.75)),
    "square, 60 s": Gpu(profile=Square(100.0, 700.0, 60.0)),
    "training: steps of 1.7 s, 85 % busy": Gpu(profile=Square(250.0, 650.0, 1.7, 0.85)),
}


def cards(directory: Path, count: int) -> NvmlStandin:
    """Return so many cards; the loads are dealt out in order, again and again."""
    gpus = list(LOADS.values())
    return NvmlStandin(directory, [gpus[index % len(gpus)] for index in range(count)])
