"""What is known of how well each architecture's sensors see, and how they are told apart.

Sources: Yang, Adamek, Armour, "Part-time Power Measurements: nvidia-smi's Lack of Attention" (arXiv 2312.02741, SC24),
over 70 cards against external meters; NVML's header for which readings are averages. Figures are 95 % half-widths of
energy over 10 s and more; what no source supports is left out, and then no uncertainty is stated.
"""

from __future__ import annotations

# NVML's architecture numbers (nvml.h, NVML_DEVICE_ARCH_*).
PASCAL, VOLTA, TURING, AMPERE, ADA, HOPPER = 4, 5, 6, 7, 8, 9
GA100 = ("A100", "A800", "A30")
DATA_CENTRE = frozenset(
    (
        *("P4", "P40", "P100", "V100", "T4", "A2", "A10", "A16", "A30", "A40", "A100", "A800"),
        *("L4", "L40", "L40S", "H100", "H200", "H800"),
    )
)

STEADY, CONSUMER = 0.05, 0.10
# Cards that see a part of the time only: Pascal and Volta half of it, GA100 a quarter. Steady loads are as above; a
# periodic load can be off by this much.
PART_TIME = 0.30


def is_data_centre(name: str) -> bool:
    """Whether a model name is that of a data-centre card."""
    words = name.replace("-", " ").split()
    return any(word in DATA_CENTRE for word in words) and "GeForce" not in words


def uncertainty(name: str, architecture: int | None) -> tuple[tuple[str, float], ...]:
    """Return what can be stated for a card, by method: nothing for architectures that nobody has measured."""
    if architecture is None or architecture not in range(PASCAL, HOPPER + 1):
        return ()
    steady = STEADY if is_data_centre(name) else CONSUMER
    sees_part = architecture in (PASCAL, VOLTA) or any(word in name for word in GA100)
    polled = PART_TIME if sees_part else steady
    # Whether the counter integrates all the time is not established where the sensor sees a part of it.
    stated = {"samples": polled, "power": polled}
    if not sees_part:
        stated["counter"] = steady
    return tuple(sorted(stated.items()))
