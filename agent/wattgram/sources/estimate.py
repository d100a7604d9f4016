"""A labelled model of processor and memory power, for where no meter exists; never on by itself.

Processor: `processors x (least + busy share x (most - least))` watts, linear in the share of time the processors were
busy; memory: a constant per gigabyte installed. Coefficients are those of Cloud Carbon Footprint (its methodology page,
"Compute" and "Memory", coefficients from SPECpower; Apache-2.0): watts per virtual processor by microarchitecture, and
0.392 W/GB. Expect errors of half the value and more (docs/accuracy.md): it shows orders of magnitude, not bills.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wattgram.model import MICROJOULES_PER_JOULE, Counter, Device, Reading, Sample
from wattgram.ports import Clock, SourceOptions
from wattgram.tools.procfs import CpuTimes, cpu_identity, cpu_times, memory_total_bytes

BYTES_PER_GIGABYTE = 1e9

# Watts per virtual processor, idle and busy (Cloud Carbon Footprint), by vendor, family and model as CPUID has them.
WATTS_PER_PROCESSOR: dict[tuple[str, str, str], tuple[float, float]] = {
    ("AuthenticAMD", "25", "1"): (0.45, 2.02),  # EPYC 7003, third generation
    ("AuthenticAMD", "23", "49"): (0.47, 1.69),  # EPYC 7002, second generation
    ("AuthenticAMD", "23", "1"): (0.82, 2.55),  # EPYC 7001, first generation
    ("GenuineIntel", "6", "85"): (0.64, 4.19),  # Skylake; Cascade Lake, with 3.97, has the same number
    ("GenuineIntel", "6", "79"): (0.71, 3.69),  # Broadwell
    ("GenuineIntel", "6", "63"): (1.9, 6.0),  # Haswell
    ("GenuineIntel", "6", "62"): (3.04, 8.25),  # Ivy Bridge
    ("GenuineIntel", "6", "45"): (2.17, 8.58),  # Sandy Bridge
}
# The average of a large cloud's fleet, from the same source, where the model is not known.
AVERAGE_WATTS = (0.74, 3.5)


@dataclass(frozen=True, kw_only=True)
class Options(SourceOptions):
    """Watts per processor, idle and busy, and per gigabyte; unset: the documented coefficients."""

    idle_watts_per_processor: float | None = None
    busy_watts_per_processor: float | None = None
    memory_watts_per_gigabyte: float = 0.392
    proc: str = "/proc"


def open_source(options: Options, clock: Clock, every: float) -> EstimateSource:
    """Return the source; raise ReadFailed when /proc does not say what the model needs."""
    del every
    return EstimateSource(options, clock, os.cpu_count() or 1)


def coefficients(identity: Mapping[str, str], options: Options) -> tuple[float, float]:
    """Watts per processor, idle and busy: the user's, else the processor model's, else the fleet average."""
    key = (identity.get("vendor_id", ""), identity.get("cpu family", ""), identity.get("model", ""))
    known = WATTS_PER_PROCESSOR.get(key, AVERAGE_WATTS)
    idle, busy = options.idle_watts_per_processor, options.busy_watts_per_processor
    return (known[0] if idle is None else idle, known[1] if busy is None else busy)


def busy_share(before: CpuTimes, now: CpuTimes) -> float:
    """The share of time the processors were busy between two readings, 0 to 1; 0 when no time passed."""
    busy, idle = now.busy - before.busy, now.idle - before.idle
    if busy < 0 or idle < 0 or busy + idle == 0:
        return 0.0
    return busy / (busy + idle)


class EstimateSource:
    """Integrates the model over the exact time between readings, as a counter would."""

    def __init__(self, options: Options, clock: Clock, processors: int) -> None:
        self._proc = Path(options.proc)
        self._clock = clock
        self._processors = processors
        identity = cpu_identity(self._proc)
        self._idle, self._busy = coefficients(identity, options)
        self._memory_watts = memory_total_bytes(self._proc) / BYTES_PER_GIGABYTE * options.memory_watts_per_gigabyte
        self._cpu = _device("cpu", identity.get("model name", "processors"))
        self._dram = _device("dram", "memory")
        self._times = cpu_times(self._proc)
        self._at = clock.now()
        self._joules = {self._cpu: 0.0, self._dram: 0.0}

    def read(self) -> Sample:
        """Return the modelled counters; raise ReadFailed when /proc cannot be read."""
        times = cpu_times(self._proc)
        now = self._clock.now()
        share = busy_share(self._times, times)
        watts = {
            self._cpu: self._processors * (self._idle + share * (self._busy - self._idle)),
            self._dram: self._memory_watts,
        }
        seconds = now.mono - self._at.mono
        self._times, self._at = times, now
        readings = []
        for device, power in watts.items():
            self._joules[device] += power * seconds
            counter = Counter(round(self._joules[device] * MICROJOULES_PER_JOULE))
            readings.append(Reading(device, now, watts=power, counter=counter, driver="model"))
        return Sample(now, tuple(readings))

    def close(self) -> None:
        """Hold nothing, let go of nothing."""


def _device(component: str, name: str) -> Device:
    return Device(component, f"estimated-{component}", name=name, covers="model", quality="estimated", events=("gap",))
