"""What a bad driver's library could send through the reading process: none of it is taken, all of it is said."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from wattgram.frames import Gave, Reply
from wattgram.model import (
    Activity,
    Actor,
    Cost,
    Counter,
    Device,
    Failure,
    Instant,
    Part,
    Process,
    Reading,
    Sample,
    State,
)
from wattgram.sound import LONGEST_TEXT, MOST_ACTORS, MOST_DEVICES, MOST_PARTS, Soundness

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


# --- who kept a GPU busy --------------------------------------------------------------------------

ACTOR = Actor(Process(10, 20), weight=60.0, present=0.5, part="MIG-1", uid=1000, program="train")
ACTIVITY = Activity(
    "gpu", "GPU-1", Instant(999.0, NOW.wall - 1), NOW, 1.0, (ACTOR,), (Part("MIG-1", 8.0),), utilization=0.5
)


def verdict(*activities: Activity) -> str:
    return Soundness().complaint(Sample(NOW, (READING,), activities), NOW.mono)


def acted(**changes: object) -> Activity:
    return replace(ACTIVITY, actors=(replace(ACTOR, **changes),))  # type: ignore[arg-type]


def test_a_good_activity_is_taken() -> None:
    """Also one of a card that was read before and is not now, and one of many who are not told apart."""
    soundness = Soundness()
    many = replace(ACTIVITY, actors=tuple(replace(ACTOR, process=Process(n, 0)) for n in range(1, MOST_ACTORS + 1)))

    assert "" == verdict(ACTIVITY, ACTIVITY)
    assert "" == verdict(acted(weight=None, uid=None, program="", part=""))
    assert "" == verdict(many)
    assert ["", ""] == [
        soundness.complaint(Sample(NOW, (READING,)), NOW.mono),
        soundness.complaint(Sample(NOW, activities=(ACTIVITY,)), NOW.mono),
    ]


def test_an_activity_survives_the_pipe() -> None:
    """What the child encodes is what the parent decodes."""
    gave = Gave(1, Sample(NOW, (READING,), (ACTIVITY, acted(process=None, path="/a", weight=None))), Cost(1.0, 2))

    assert gave == msgspec.msgpack.decode(msgspec.msgpack.encode(gave), type=Reply)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1.0, 1e300])
@pytest.mark.parametrize(
    "bad",
    [
        lambda x: acted(weight=x),
        lambda x: acted(present=x),
        lambda x: replace(ACTIVITY, utilization=x),
        lambda x: replace(ACTIVITY, system=x),
        lambda x: replace(ACTIVITY, idle=x),
        lambda x: replace(ACTIVITY, parts=(Part("MIG-1", x),)),
        lambda x: replace(ACTIVITY, every=x),
        lambda x: replace(ACTIVITY, end=Instant(x, NOW.wall)),
        lambda x: replace(ACTIVITY, start=Instant(x if x != -1.0 else 2000.0, NOW.wall)),
    ],
)
def test_an_activity_of_what_is_no_number_is_refused(bad: Callable[[float], Activity], number: float) -> None:
    """It would end the split, or give somebody more than there was."""
    assert "" != verdict(bad(number))


@pytest.mark.parametrize(
    "activity",
    [
        pytest.param(replace(ACTIVITY, component="cpu"), id="only GPUs are read there"),
        pytest.param(replace(ACTIVITY, device="GPU-2"), id="a card that nobody knows"),
        pytest.param(replace(ACTIVITY, device=""), id="all cards"),
        pytest.param(replace(ACTIVITY, every=0.0), id="at once again"),
        pytest.param(replace(ACTIVITY, start=Instant(1000.5, NOW.wall)), id="ends before it begins"),
        pytest.param(replace(ACTIVITY, start=Instant(999.0, math.nan)), id="no date"),
        pytest.param(replace(ACTIVITY, parts=(Part("MIG-1", 1.0), Part("MIG-1", 1.0))), id="an instance twice"),
        pytest.param(replace(ACTIVITY, parts=(Part("", 1.0), Part("MIG-1", 1.0))), id="an instance without name"),
        pytest.param(replace(ACTIVITY, parts=(Part("x" * 200, 1.0), Part("MIG-1", 1.0))), id="a name too long"),
        pytest.param(
            replace(ACTIVITY, actors=(), parts=tuple(Part(f"{n}", 1.0) for n in range(MOST_PARTS + 1))),
            id="too many instances",
        ),
        pytest.param(
            replace(ACTIVITY, actors=tuple(replace(ACTOR, process=Process(n, 0)) for n in range(1, MOST_ACTORS + 2))),
            id="too many actors",
        ),
        pytest.param(replace(ACTIVITY, actors=(ACTOR, ACTOR)), id="the same actor twice"),
        pytest.param(acted(part="MIG-2"), id="in an instance that is not there"),
        pytest.param(acted(process=None), id="nobody"),
        pytest.param(acted(path="/a"), id="two in one"),
        pytest.param(acted(process=None, path="/" + "x" * 5000), id="a path too long"),
        pytest.param(acted(process=Process(0, 5)), id="pid 0"),
        pytest.param(acted(process=Process(-1, 5)), id="a pid below 0"),
        pytest.param(acted(process=Process(1 << 40, 5)), id="no pid"),
        pytest.param(acted(process=Process(10, -1)), id="a start before boot"),
        pytest.param(acted(process=Process(10, 1 << 63)), id="no start"),
        pytest.param(acted(present=1.5), id="more than all of the time"),
        pytest.param(acted(uid=-1), id="no user"),
        pytest.param(acted(uid=1 << 32), id="no such user"),
        pytest.param(acted(program="x" * 65), id="a name too long for a program"),
        pytest.param(acted(program="a\nb"), id="a name of two lines"),
    ],
)
def test_an_activity_that_none_can_be_is_refused(activity: Activity) -> None:
    assert "activit" in verdict(activity) or "time" in verdict(activity)


@pytest.mark.parametrize("mono", [NOW.mono + 60.0, NOW.mono - 86_400.0])
def test_an_activity_that_ends_in_another_time_is_refused(mono: float) -> None:
    """It would be the newest for an hour, or is of yesterday."""
    assert "time" in verdict(replace(ACTIVITY, start=Instant(mono - 1, NOW.wall), end=Instant(mono, NOW.wall)))


def test_activities_are_bounded() -> None:
    assert "activities" in verdict(*[ACTIVITY] * 1025)
