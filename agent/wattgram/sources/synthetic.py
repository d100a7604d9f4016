"""Invented hardware for a demonstration: the same pipeline, every joule labelled synthetic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from wattgram.model import MICROJOULES_PER_JOULE, Activity, Actor, Counter, Device, Instant, Reading, Sample, State
from wattgram.ports import Clock, SourceOptions

EVENTS = ("reset", "gap", "implausible")
# A new training job begins every so many seconds; the first number is that of the first.
JOB_SECONDS, FIRST_JOB = 600.0, 4711
# Paths that only the namer of invented workloads knows: kind, id, owner, name, account.
CHAT = "/synthetic/pod/2f0c8d1e-5b1a-4f6e-9a57-000000000001/serving/serving\\chat/deployment\\chat"
TUNE = "/synthetic/slurm/4242/bob/tune-lora/vision"
SHELL = "/synthetic/unit/ssh.service/root/ssh.service/"
H100 = "Synthetic H100 80GB HBM3"


@dataclass(frozen=True, kw_only=True)
class Options(SourceOptions):
    """`gpus` is how many graphics processors to invent."""

    gpus: int = 4


@dataclass(frozen=True, slots=True)
class _Wave:
    """Power as a sum of two sines about a mean, so that energy has a closed form."""

    mean: float
    slow: float
    slow_period: float
    fast: float
    fast_period: float
    phase: float

    def watts(self, t: float) -> float:
        return (
            self.mean
            + self.slow * math.sin(2 * math.pi * t / self.slow_period + self.phase)
            + self.fast * math.sin(2 * math.pi * t / self.fast_period + self.phase)
        )

    def joules(self, t: float) -> float:
        """Energy from 0 to `t`; never falls, since the power is never negative."""

        def swing(amplitude: float, period: float) -> float:
            turn = 2 * math.pi / period
            return amplitude / turn * (math.cos(self.phase) - math.cos(turn * t + self.phase))

        return self.mean * t + swing(self.slow, self.slow_period) + swing(self.fast, self.fast_period)


def open_source(options: Options, clock: Clock, every: float) -> SyntheticSource:
    """Return the source."""
    return SyntheticSource(options.gpus, clock, every)


class SyntheticSource:
    """Graphics processors in training and inference, two packages and their memory, and who works on them."""

    def __init__(self, gpus: int, clock: Clock, every: float = 1.0) -> None:
        self._clock = clock
        self._every = every
        self._began = clock.now().mono
        self._gpus = tuple((_gpu(index), _gpu_wave(index)) for index in range(gpus))
        self._host = tuple(
            (_host(component, n), _Wave(mean, slow, 47.0, mean / 20, 5.0, float(n)))
            for component, mean, slow in (("cpu", 180.0, 50.0), ("dram", 32.0, 6.0))
            for n in range(2)
        )

    def read(self) -> Sample:
        """Return what the invented devices show now."""
        now = self._clock.now()
        t = now.mono - self._began
        gpus = (
            Reading(
                device,
                now,
                watts=wave.watts(t),
                counter=Counter(round(wave.joules(t) * MICROJOULES_PER_JOULE)),
                state=_state(device, wave.watts(t), t),
                driver="synthetic",
            )
            for device, wave in self._gpus
        )
        host = (
            Reading(
                device,
                now,
                counter=Counter(round(wave.joules(t) * MICROJOULES_PER_JOULE)),
                driver="synthetic",
            )
            for device, wave in self._host
        )
        before = Instant(now.mono - self._every, now.wall - self._every)
        return Sample(now, (*gpus, *host), tuple(self._activities(before, now)))

    def _activities(self, start: Instant, end: Instant) -> Iterator[Activity]:
        """Yield who is busy: a training job on half of the graphics processors, the next one every so often; a service
        on every fourth; two who share one; and on the processors all of them.
        """
        job = f"/synthetic/slurm/{FIRST_JOB + int((end.mono - self._began) / JOB_SECONDS)}/ada/pretrain-7b/nlp"
        for device, _ in self._gpus:
            place = int(device.index) % 4
            actors = {
                2: (Actor(path=TUNE, weight=0.6), Actor(path=job, weight=0.3)),
                3: (Actor(path=CHAT, weight=0.4),),
            }
            found = actors.get(place, (Actor(path=job, weight=0.97),))
            yield Activity("gpu", device.id, start, end, self._every, found, utilization=0.9)
        weights = ((job, 9.0), (TUNE, 4.0), (CHAT, 2.5), (SHELL, 0.2))
        for component, system, idle in (("cpu", 1.5, 14.0), ("dram", 3.0, 20.0)):
            found = tuple(Actor(path=path, weight=weight) for path, weight in weights)
            yield Activity(component, "", start, end, self._every, found, system=system, idle=idle)

    def close(self) -> None:
        """Hold nothing, let go of nothing."""


def _gpu(index: int) -> Device:
    return Device(
        "gpu",
        f"GPU-00000000-0000-4000-8000-{index:012x}",
        name=H100,
        index=str(index),
        pci_bus_id=f"0000:{0x10 + index:02x}:00.0",
        covers="board",
        quality="synthetic",
        max_watts=1050.0,
        events=EVENTS,
    )


def _gpu_wave(index: int) -> _Wave:
    if index % 4 == 3:  # noqa: PLR2004 - every fourth serves requests, the others train
        return _Wave(230.0, 90.0, 61.0, 40.0, 3.0, float(index))
    return _Wave(560.0, 60.0, 90.0, 45.0, 8.0, float(index))


def _host(component: str, number: int) -> Device:
    name = "package" if component == "cpu" else "dram"
    return Device(
        component, f"{name}-{number}", name=f"Synthetic {name}", covers=name, quality="synthetic", events=EVENTS
    )


def _state(device: Device, watts: float, t: float) -> State:
    load = min(1.0, watts / 700.0)
    return State(
        utilization=round(load, 2),
        memory_used_bytes=int((10 + 60 * load) * (1 << 30)),
        memory_total_bytes=80 << 30,
        temperature_celsius=round(32 + 45 * load),
        power_limit_watts=700.0,
        throttled=(("power_cap", 0.02 * t if device.index == "0" else 0.0),),
    )
