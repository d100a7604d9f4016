"""Which activity a delta is split by."""

from __future__ import annotations

import pytest

from wattgram.activity import Board
from wattgram.model import Activity, Actor, Device, EnergyDelta, Instant, Part, Process

GPU = Device("gpu", "GPU-1")
CPU = Device("cpu", "package-0")


def moment(mono: float) -> Instant:
    return Instant(mono, 1e9 + mono)


def delta(start: float, end: float, device: Device = CPU) -> EnergyDelta:
    return EnergyDelta(device, moment(start), moment(end), 1000, "counter")


def at(start: float, end: float, weight: float | None = 1.0, **more: object) -> Activity:
    actors = (Actor(path="/a", weight=weight),)
    return Activity("cpu", "", moment(start), moment(end), end - start, actors, idle=3.0, **more)  # type: ignore[arg-type]


def weight(activity: Activity | None) -> float | None:
    assert activity is not None
    return activity.actors[0].weight


def test_nobody_looked() -> None:
    assert Board().about(delta(0, 1)) is None


def test_a_device_of_its_own_goes_before_its_component() -> None:
    board = Board()
    mine = Activity("gpu", "GPU-1", moment(0), moment(1), 1.0)
    board.learn(
        [Activity("gpu", "", moment(0), moment(1), 1.0), mine, Activity("gpu", "GPU-2", moment(0), moment(1), 1.0)]
    )

    assert board.about(delta(0, 1, GPU)) is mine


@pytest.mark.parametrize(("end", "is_used"), [(1.0, True), (3.9, True), (4.1, False)])
def test_an_activity_is_used_for_three_of_its_intervals(end: float, is_used: bool) -> None:  # noqa: FBT001
    """After that whoever was busy may be gone."""
    board = Board()
    board.learn([at(0, 1)])

    assert is_used == (board.about(delta(end - 0.5, end)) is not None)


def test_the_one_of_the_same_time_is_taken_not_the_newest() -> None:
    board = Board()
    board.learn([at(0, 1, 10.0), at(1, 2, 20.0), at(2, 3, 30.0)])

    assert weight(board.about(delta(1.02, 2.01))) == 20.0


def test_a_long_delta_is_split_by_all_that_happened_meanwhile() -> None:
    """A meter read every ten seconds."""
    board = Board()
    board.learn(at(second, second + 1, float(second)) for second in range(10))

    found = board.about(delta(0, 10))

    assert found is not None
    assert weight(found) == sum(range(10))
    assert found.start == moment(0)
    assert found.idle == pytest.approx(30.0)


def test_of_those_at_the_edges_as_much_counts_as_lies_within() -> None:
    board = Board()
    board.learn([at(0, 2, 4.0), at(2, 4, 8.0)])

    assert weight(board.about(delta(1, 4))) == pytest.approx(2.0 + 8.0)


def test_an_outage_that_nobody_watched_is_nobodys() -> None:
    """Its energy is real, its owner is not known."""
    board = Board()
    board.learn([at(0, 1), at(60, 61)])

    assert board.about(delta(0, 61)) is None
    assert board.about(delta(60, 61)) is not None


def test_a_long_look_at_a_gpu_weighs_more_than_a_short_one() -> None:
    """Per cents are means: half a GPU for three seconds is three times as much as for one."""
    board = Board()
    for start, end, name in ((0, 1, "/a"), (1, 4, "/b")):
        actors = (Actor(path=name, weight=50.0),)
        board.learn([Activity("gpu", GPU.id, moment(start), moment(end), 2.0, actors)])

    found = board.about(delta(0, 4, GPU))

    assert found is not None
    assert {"/a": 50.0, "/b": 150.0} == {actor.path: actor.weight for actor in found.actors}


def test_presence_and_instances_are_joined_too() -> None:
    board = Board()
    one, two = Actor(Process(1, 1), weight=None), Actor(Process(2, 1), weight=0.5)
    for start, actors, busy in ((0, (one,), 0.2), (1, (one, two), 0.8)):
        board.learn(
            [
                Activity(
                    "gpu",
                    GPU.id,
                    moment(start),
                    moment(start + 1),
                    1.0,
                    actors,
                    (Part("MIG-1", busy),),
                    utilization=busy,
                )
            ]
        )

    found = board.about(delta(0, 2, GPU))

    assert found is not None
    assert [(a.process, a.weight, a.present) for a in found.actors] == [
        (one.process, None, 1.0),
        (two.process, 0.5, 0.5),
    ]
    assert found.parts == (Part("MIG-1", 1.0),)
    assert (found.idle, found.utilization) == (None, 0.8)


def test_only_the_newest_are_kept() -> None:
    board = Board()
    board.learn(at(second, second + 1, 1.0) for second in range(1000))

    found = board.about(delta(0, 1000))

    assert found is None  # it covers too little of it
    assert weight(board.about(delta(990, 1000))) == pytest.approx(10.0)
