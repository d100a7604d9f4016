"""What a bad driver's library could send through the reading process: none of it is taken, all of it is said."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from wattgram.model import Counter, Device, Failure, Instant, Reading, Sample, State
from wattgram.sound import LONGEST_TEXT, MOST_DEVICES, Soundness

NOW = Instant(1000.0, 1_700_000_000.0)
GPU = Device("gpu", "GPU-1", max_watts=1050.0, events=("gap", "lost"), uncertainty=(("counter", 0.05),))
READING = Reading(
    GPU, NOW, 300.0, Counter(5), trace=((999.0, 300.0), (999.1, 310.0)), state=State(0.5, throttled=(("thermal", 1.0),))
)


def complaint(*readings: Reading, at: Instant = NOW) -> str:
    return Soundness().complaint(Sample(at, readings), NOW.mono)


def test_a_good_sample_is_taken() -> None:
    assert "" == complaint(READING)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "bad",
    [
        lambda x: replace(READING, watts=x),
        lambda x: replace(READING, at=Instant(x, NOW.wall)),
        lambda x: replace(READING, at=Instant(NOW.mono, x)),
        lambda x: replace(READING, trace=((x, 300.0),)),
        lambda x: replace(READING, trace=((999.0, x),)),
        lambda x: replace(READING, state=State(temperature_celsius=x)),
        lambda x: replace(READING, state=State(throttled=(("thermal", x),))),
        lambda x: replace(READING, device=replace(GPU, gain=x)),
        lambda x: replace(READING, device=replace(GPU, max_watts=x)),
        lambda x: replace(READING, device=replace(GPU, uncertainty=(("counter", x),))),
    ],
)
def test_what_is_no_number_is_refused(bad: Callable[[float], Reading], number: float) -> None:
    """It would end the meter, or turn the status into what is no JSON."""
    assert {"number", "time"} & set(complaint(bad(number)).split())


@pytest.mark.parametrize(
    "reading",
    [
        replace(READING, device=replace(GPU, component="evil")),
        replace(READING, device=replace(GPU, quality="perfect")),
        replace(READING, device=replace(GPU, id="")),
        replace(READING, device=replace(GPU, name="x" * (LONGEST_TEXT + 1))),
        replace(READING, device=replace(GPU, events=("a b",))),
        replace(READING, watts=1.7e308),
        replace(READING, trace=((999.0, -1e308),)),
        replace(READING, device=replace(GPU, events=("x" * 100,))),
        replace(READING, events=tuple(f"e{n}" for n in range(100))),
        replace(READING, counter=Counter(-1)),
        replace(READING, driver="x" * (LONGEST_TEXT + 1)),
    ],
)
def test_what_no_card_can_be_is_refused(reading: Reading) -> None:
    assert "" != complaint(reading)


@pytest.mark.parametrize("mono", [math.nan, NOW.mono + 60.0, NOW.mono - 86_400.0])
def test_a_time_that_is_not_of_now_is_refused(mono: float) -> None:
    """A reading of next year would keep its gauge fresh until then, and book nothing before."""
    assert "" != complaint(READING, at=Instant(mono, NOW.wall))
    assert "" != complaint(replace(READING, at=Instant(mono, NOW.wall)))


@pytest.mark.parametrize("failure", [Failure(GPU, "x" * 10_000), Failure(GPU, "gone", event="evil\nname")])
def test_a_failure_in_words_of_its_own_is_refused(failure: Failure) -> None:
    assert "failure" in Soundness().complaint(Sample(NOW, failed=(failure,)), NOW.mono)


def test_devices_are_bounded_over_a_sources_life() -> None:
    """New ones in every frame would be accounts for ever."""
    soundness = Soundness()
    few = [Sample(NOW, (replace(READING, device=replace(GPU, id=f"GPU-{n}")),)) for n in range(MOST_DEVICES)]

    assert {""} == {soundness.complaint(sample, NOW.mono) for sample in (*few, *few)}
    assert "devices" in soundness.complaint(Sample(NOW, failed=(Failure(Device("gpu", "one more"), "gone"),)), NOW.mono)
