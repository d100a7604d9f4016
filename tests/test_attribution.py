"""Energy and activity become shares: the cases by hand, then what holds for any."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wattgram.attribution import apportion, split
from wattgram.model import (
    IDLE,
    SYSTEM,
    UNATTRIBUTED,
    Activity,
    Actor,
    Device,
    EnergyDelta,
    Instant,
    Part,
    Process,
    Share,
    Workload,
)

GPU = Device("gpu", "GPU-1", max_watts=1050.0)
CPU = Device("cpu", "package-0")
MODEL = Device("cpu", "package-0", quality="estimated")
JOBS = {number: Workload("slurm", str(number), f"user{number}") for number in range(12)}
Seconds = Callable[[float, float], float]
Parts = dict[tuple[str, str], int]


def moment(mono: float) -> Instant:
    return Instant(mono, 1e9 + mono)


def delta(microjoules: int, device: Device = GPU, seconds: float = 1.0) -> EnergyDelta:
    return EnergyDelta(device, moment(10.0), moment(10.0 + seconds), microjoules, "counter")


def on_gpu(*actors: Actor, parts: Sequence[Part] = (), utilization: float | None = None) -> Activity:
    return Activity("gpu", GPU.id, moment(10.0), moment(11.0), 1.0, actors, parts=tuple(parts), utilization=utilization)


def on_cpu(*actors: Actor, system: float = 0.0, idle: float = 0.0) -> Activity:
    return Activity("cpu", "", moment(10.0), moment(11.0), 1.0, actors, system=system, idle=idle)


def process(job: int, weight: float | None = None, present: float = 1.0, part: str = "") -> Actor:
    """A process of a job, by its number; -1 is nobody's."""
    return Actor(Process(job, 1), weight=weight, present=present, part=part)


def group(job: int, weight: float) -> Actor:
    return Actor(path=f"/{job}", weight=weight)


def name(actor: Actor) -> Workload | None:
    return JOBS.get(actor.process.pid if actor.process else int(actor.path[1:]))


def parts(shares: Sequence[Share]) -> Parts:
    return {(s.workload.id, s.activity): s.microjoules for s in shares}


# --- a GPU ----------------------------------------------------------------------------------------


def test_nobody_looked() -> None:
    """What is not known is nobody's, and said so."""
    assert parts(split(delta(500), None, name, 0.0001)) == {("unattributed", "active"): 500}


@pytest.mark.parametrize("weight", [None, 0.0, 0.4])
def test_who_is_alone_has_it_all(weight: float | None) -> None:
    """Idle and active, measured: no model says who."""
    shares = split(delta(500), on_gpu(process(1, weight)), name, 0.0002)

    assert parts(shares) == {("1", "active"): 300, ("1", "idle"): 200}
    assert {"measured"} == {share.quality for share in shares}


def test_without_a_known_floor_all_is_active() -> None:
    assert parts(split(delta(500), on_gpu(process(1)), name)) == {("1", "active"): 500}


def test_two_share_by_use_and_hold_in_equal_parts() -> None:
    """A shared GPU's parts are modelled."""
    shares = split(delta(1200), on_gpu(process(1, 0.75), process(2, 0.25)), name, 0.0002)

    assert parts(shares) == {("1", "active"): 750, ("2", "active"): 250, ("1", "idle"): 100, ("2", "idle"): 100}
    assert {"apportioned"} == {share.quality for share in shares}


def test_where_only_some_uses_are_known_the_others_are_none() -> None:
    found = parts(split(delta(1000), on_gpu(process(1, 0.5), process(2)), name, 0.0002))

    assert found == {("1", "active"): 800, ("1", "idle"): 100, ("2", "idle"): 100}


def test_where_no_use_is_known_parts_are_equal_by_presence() -> None:
    found = parts(split(delta(900), on_gpu(process(1), process(2, present=0.5)), name))

    assert found == {("1", "active"): 600, ("2", "active"): 300}


def test_processes_of_one_job_are_one_holder() -> None:
    found = parts(split(delta(300), on_gpu(process(1, 0.1), process(1, 0.1), process(2, 0.2)), name, 0.0001))

    assert found == {("1", "active"): 100, ("2", "active"): 100, ("1", "idle"): 50, ("2", "idle"): 50}


def test_who_came_in_the_middle_holds_for_its_time() -> None:
    """What was idle before is nobody's; what was active is the only one's who can have been."""
    found = parts(split(delta(1000), on_gpu(process(1, present=0.25)), name, 0.0004))

    assert found == {("1", "active"): 600, ("1", "idle"): 100, ("idle", "idle"): 300}


def test_a_process_without_a_name_is_nobodys() -> None:
    found = parts(split(delta(1000), on_gpu(process(-1, 0.5), process(2, 0.5)), name, 0.0002))

    assert found == {
        ("unattributed", "active"): 400,
        ("2", "active"): 400,
        ("unattributed", "idle"): 100,
        ("2", "idle"): 100,
    }


@pytest.mark.parametrize(
    ("floor", "utilization", "expected"),
    [
        (None, 0.0, {("idle", "idle"): 60_000_000}),
        (None, None, {("unattributed", "active"): 60_000_000}),
        (None, 0.3, {("unattributed", "active"): 60_000_000}),
        (55.0, 0.0, {("idle", "idle"): 60_000_000}),
        (55.0, None, {("idle", "idle"): 60_000_000}),
        (20.0, 0.0, {("unattributed", "active"): 40_000_000, ("idle", "idle"): 20_000_000}),
        (55.0, 0.3, {("unattributed", "active"): 5_000_000, ("idle", "idle"): 55_000_000}),
    ],
)
def test_a_gpu_without_anybody_is_idle_unless_it_plainly_works(
    floor: float | None, utilization: float | None, expected: Parts
) -> None:
    """Somebody works on it who cannot be seen: another machine's, say."""
    assert parts(split(delta(60_000_000), on_gpu(utilization=utilization), name, floor)) == expected


def test_who_was_given_a_gpu_holds_it_without_a_process() -> None:
    found = parts(split(delta(60_000_000), on_gpu(utilization=0.0), name, 55.0, holders=[JOBS[3]]))

    assert found == {("3", "idle"): 60_000_000}


# --- a divided GPU --------------------------------------------------------------------------------


def test_instances_share_by_their_weight_and_their_processes_within() -> None:
    activity = on_gpu(
        process(1, part="MIG-a"), process(2, part="MIG-a"), process(3, part="MIG-b"),
        parts=[Part("MIG-a", 0.5), Part("MIG-b", 0.25), Part("MIG-c", 0.25), Part("MIG-d", 0.0)],
    )  # fmt: skip

    shares = split(delta(1_000_000), activity, name, 0.4)

    assert parts(shares) == {
        ("1", "active"): 150_000, ("2", "active"): 150_000, ("3", "active"): 150_000, ("MIG-c", "active"): 150_000,
        ("1", "idle"): 100_000, ("2", "idle"): 100_000, ("3", "idle"): 100_000, ("MIG-c", "idle"): 100_000,
    }  # fmt: skip
    assert {s.workload.kind for s in shares} == {"slurm", "mig"}


# --- processors and memory ------------------------------------------------------------------------


def test_processors_without_a_floor_idle_by_their_time() -> None:
    """A container that used 1 % of a machine does not get all of what it drew."""
    shares = split(delta(1000, CPU), on_cpu(group(1, 0.1), group(2, 0.2), system=0.1, idle=0.6), name)

    assert parts(shares) == {
        ("1", "active"): 100, ("2", "active"): 200, ("system", "active"): 100, ("idle", "idle"): 600
    }  # fmt: skip
    assert {"apportioned"} == {share.quality for share in shares}


def test_processors_with_a_floor_share_what_is_above_it() -> None:
    found = parts(split(delta(1000, CPU), on_cpu(group(1, 0.1), system=0.3, idle=9.0), name, 0.0006))

    assert found == {("1", "active"): 100, ("system", "active"): 300, ("idle", "idle"): 600}


def test_processors_that_did_nothing_are_above_their_floor_for_nobody() -> None:
    assert parts(split(delta(1000, CPU), on_cpu(idle=1.0), name, 0.0006)) == {
        ("unattributed", "active"): 400, ("idle", "idle"): 600
    }  # fmt: skip


def test_a_part_of_a_model_is_a_model() -> None:
    shares = split(delta(1000, MODEL), on_cpu(group(1, 0.1), idle=0.9), name)

    assert {"estimated"} == {share.quality for share in shares}


# --- for any --------------------------------------------------------------------------------------

WEIGHTS = st.one_of(st.none(), st.floats(0.0, 1e9), st.sampled_from([0.0, 1e-300, 5e-324, float("inf"), float("nan")]))
SLOTS = ("", "MIG-0", "MIG-1", "MIG-2", "MIG-9")


@st.composite
def cases(draw: st.DrawFn) -> tuple[EnergyDelta, Activity, float | None, list[Workload]]:
    device = draw(st.sampled_from([GPU, CPU, MODEL]))
    actors = draw(
        st.lists(
            st.builds(
                process, st.integers(-1, 11), WEIGHTS, st.floats(0.0, 1.0), st.sampled_from(SLOTS)
            ), max_size=12,
        )
    )  # fmt: skip
    instances = draw(st.lists(st.builds(Part, st.sampled_from(SLOTS[1:4]), st.floats(0.0, 132.0)), max_size=3))
    activity = Activity(
        device.component, device.id, moment(10.0), moment(11.0), 1.0, tuple(actors), tuple(instances),
        system=draw(st.floats(0.0, 1e9)), utilization=draw(st.one_of(st.none(), st.floats(0.0, 1.0))),
        idle=draw(st.floats(0.0, 1e9)) if device.component == "cpu" else None,
    )  # fmt: skip
    energy = delta(draw(st.integers(0, 10**13)), device, draw(st.sampled_from([0.0, 1e-6, 0.3, 1.0, 700.0])))
    holders = draw(st.lists(st.sampled_from(list(JOBS.values())), max_size=3, unique=True))
    return energy, activity, draw(st.one_of(st.none(), st.floats(0.0, 2000.0))), holders


@pytest.mark.accept("5.1", "any activity, floor and weights: shares are whole, none negative, and add up exactly")
def test_shares_add_up(seconds: Seconds, report: Callable[[str], None]) -> None:
    """Also with weights that no source should ever give."""
    count = 0

    @settings(max_examples=int(seconds(300, 10_000)), deadline=None)
    @given(cases())
    def holds(case: tuple[EnergyDelta, Activity, float | None, list[Workload]]) -> None:
        nonlocal count
        energy, activity, floor, holders = case
        shares = split(energy, activity, name, floor, holders)
        assert energy.microjoules == sum(share.microjoules for share in shares)
        assert all(share.microjoules > 0 and share.delta is energy for share in shares)
        assert len({(s.workload, s.activity) for s in shares}) == len(shares)
        known = {*JOBS.values(), IDLE, SYSTEM, UNATTRIBUTED}
        assert all(s.workload in known or s.workload.kind == "mig" for s in shares)
        qualities = {share.quality for share in shares}
        assert qualities <= ({"measured", "apportioned"} if energy.device.quality == "measured" else {"estimated"})
        count += 1

    holds()
    report(f"{count} cases")


@pytest.mark.accept("5.1", "the order in which workloads come changes nothing")
def test_order_does_not_matter(seconds: Seconds) -> None:
    """Ties in rounding go by name."""

    @settings(max_examples=int(seconds(200, 10_000)), deadline=None)
    @given(cases(), st.randoms(use_true_random=False))
    def holds(case: tuple[EnergyDelta, Activity, float | None, list[Workload]], chance: object) -> None:
        energy, activity, floor, holders = case
        assume(len({a.process for a in activity.actors}) == len(activity.actors))
        assume(len({p.id for p in activity.parts}) == len(activity.parts))
        actors = list(activity.actors)
        chance.shuffle(actors)  # type: ignore[attr-defined]
        other = Activity(
            activity.component, activity.device, activity.start, activity.end, 1.0, tuple(actors),
            tuple(reversed(activity.parts)), activity.system, activity.idle, activity.utilization,
        )  # fmt: skip
        first = parts(split(energy, activity, name, floor, holders))
        second = parts(split(energy, other, name, floor, holders[::-1]))
        assert all(abs(first.get(k, 0) - second.get(k, 0)) <= 1 + 1e-9 * energy.microjoules for k in {*first, *second})

    holds()


WHOLE = st.dictionaries(st.sampled_from(list(JOBS.values())), st.floats(0.0, 1e6, allow_subnormal=False), min_size=1)


@pytest.mark.accept("5.1", "one of two halves of a workload takes half, and who weighs nothing changes nobody")
def test_halves_and_nothings(seconds: Seconds) -> None:
    """To the microjoule that rounding moves."""

    @settings(max_examples=int(seconds(200, 10_000)), deadline=None)
    @given(WHOLE, st.integers(0, 10**13))
    def holds(weights: dict[Workload, float], microjoules: int) -> None:
        found = apportion(microjoules, weights)
        split_one = next(iter(weights))
        halves = {Workload("unit", half, ""): weights[split_one] / 2 for half in "ab"}
        divided = apportion(microjoules, {**{k: w for k, w in weights.items() if k != split_one}, **halves})
        if found and divided and weights[split_one] > 1e-6 * max(weights.values()):
            tolerance = 2 + 1e-5 * microjoules / len(weights)
            assert abs(found[split_one] - sum(divided[half] for half in halves)) <= tolerance
        assert {k: v for k, v in apportion(microjoules, {**weights, SYSTEM: 0.0}).items() if k != SYSTEM} == found

    holds()
