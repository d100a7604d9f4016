"""What a device draws while nobody uses it."""

from __future__ import annotations

import random

import pytest

from wattgram.idle import LEAST, Floors
from wattgram.model import Activity, Actor, Device, EnergyDelta, Instant, Part, Process

GPU = Device("gpu", "GPU-1", max_watts=1050.0)
CPU = Device("cpu", "package-0", max_watts=600.0)
DRAM = Device("dram", "dram-0")


def moment(mono: float) -> Instant:
    return Instant(mono, 1e9 + mono)


def delta(watts: float, device: Device = GPU) -> EnergyDelta:
    return EnergyDelta(device, moment(0), moment(2), round(watts * 2e6), "counter")


def quiet(*actors: Actor, utilization: float | None = 0.0, parts: tuple[Part, ...] = ()) -> Activity:
    return Activity("gpu", GPU.id, moment(0), moment(2), 2.0, actors, parts, utilization=utilization)


def processors(busy: float) -> Activity:
    return Activity("cpu", "", moment(0), moment(2), 2.0, (Actor(path="/a", weight=busy),), idle=1.0 - busy)


def learnt(
    floors: Floors, watts: float, activity: Activity | None, device: Device = GPU, times: int = 60
) -> float | None:
    for _ in range(times):
        floors.learn(delta(watts, device), activity)
    return floors.of(device)


def test_a_floor_is_learnt_from_quiet_moments() -> None:
    """Their 5th percentile: what is a little above it was not quite idle."""
    floors, chance = Floors(), random.Random(1)
    for _ in range(400):
        floors.learn(delta(60 + 10 * chance.random()), quiet())

    assert floors.of(GPU) == pytest.approx(60.5, abs=0.3)


def test_a_few_moments_are_not_enough() -> None:
    assert learnt(Floors(), 60.0, quiet(), times=LEAST - 1) is None


@pytest.mark.parametrize(
    "activity",
    [
        None,
        quiet(Actor(Process(1, 1))),
        quiet(utilization=0.01),
        quiet(utilization=None),
        quiet(parts=(Part("MIG-1", 0.5),)),
    ],
    ids=["nobody looked", "a process", "it works", "not known whether it works", "an instance works"],
)
def test_nothing_is_learnt_while_somebody_may_be_there(activity: Activity | None) -> None:
    """A floor that is a guess would give idle energy to the wrong one."""
    assert learnt(Floors(), 60.0, activity) is None


def test_no_floor_is_above_half_the_limit() -> None:
    """700 W is this card's limit."""
    assert learnt(Floors(), 351.0, quiet()) is None
    assert learnt(Floors(), 349.0, quiet()) == 349.0


@pytest.mark.parametrize(("busy", "expected"), [(0.01, 40.0), (0.05, None)])
def test_processors_are_quiet_when_hardly_anybody_runs(busy: float, expected: float | None) -> None:
    assert learnt(Floors(), 40.0, processors(busy), CPU) == expected


def test_memory_has_no_floor() -> None:
    """Its idle part is what is not in use."""
    assert learnt(Floors(), 5.0, processors(0.0), DRAM) is None


def test_what_the_user_gave_is_not_questioned() -> None:
    floors = Floors({GPU.id: 62.0})

    assert learnt(floors, 30.0, quiet()) == 62.0


def test_a_floor_follows_what_is_seen_later() -> None:
    """A driver update that keeps clocks down, say."""
    floors = Floors()
    learnt(floors, 80.0, quiet())

    assert learnt(floors, 50.0, quiet()) == 50.0


def test_a_reading_that_was_hurried_says_nothing_of_idle_power() -> None:
    """Counters move in steps: over a fifth of a second they may show nothing."""
    floors = Floors()
    for _ in range(60):
        floors.learn(delta(10.0), quiet(), least=2.5)

    assert floors.of(GPU) is None
