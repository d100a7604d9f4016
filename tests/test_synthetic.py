"""Invented hardware keeps the rules: energy is the integral of power, and says that it is invented."""

from __future__ import annotations

import pytest

from wattgram.clock import ManualClock
from wattgram.model import COMPONENTS, Sample, Subject, Workload
from wattgram.ports import Unavailable
from wattgram.sources.synthetic import Options, SyntheticSource, open_source
from wattgram.workloads import synthetic as synthetic_names


def watts(sample: Sample) -> dict[str, float]:
    return {r.device.id: r.watts for r in sample.readings if r.watts is not None}


def joules(sample: Sample) -> dict[str, float]:
    return {r.device.id: r.counter.microjoules / 1e6 for r in sample.readings if r.counter is not None}


def test_every_device_says_that_it_is_synthetic() -> None:
    """Rules select quality!="synthetic": one unlabelled joule would be billed."""
    sample = SyntheticSource(4, ManualClock()).read()

    assert {("synthetic", "synthetic")} == {(r.device.quality, r.driver) for r in sample.readings}


def test_it_invents_gpus_packages_and_memory() -> None:
    sample = SyntheticSource(2, ManualClock()).read()

    devices = [(r.device.component, r.device.id[-9:]) for r in sample.readings]

    assert [
        ("gpu", "000000000"),
        ("gpu", "000000001"),
        ("cpu", "package-0"),
        ("cpu", "package-1"),
        ("dram", "dram-0"),
        ("dram", "dram-1"),
    ] == devices
    assert {r.device.component for r in sample.readings} <= set(COMPONENTS)


def test_no_two_devices_share_an_identity_or_a_slot() -> None:
    """Sixteen cards, as in the largest server."""
    devices = [r.device for r in SyntheticSource(16, ManualClock()).read().readings]

    assert len(devices) == len({d.id for d in devices})
    assert 16 == len({d.pci_bus_id for d in devices if d.component == "gpu"})


def test_counters_begin_at_nothing() -> None:
    clock = ManualClock(mono=12_345.0)

    assert {0.0} == set(joules(SyntheticSource(4, clock).read()).values())


def test_energy_is_the_integral_of_power() -> None:
    """A sum over millisecond steps of what it said its power was, against what its counter shows."""
    clock = ManualClock()
    source = SyntheticSource(4, clock)
    summed = dict.fromkeys(watts(source.read()), 0.0)
    for _ in range(20_000):
        clock.advance(0.0005)
        for device, power in watts(source.read()).items():
            summed[device] += power * 0.001
        clock.advance(0.0005)

    shown = joules(source.read())

    assert {device: shown[device] for device in summed} == pytest.approx(summed, rel=1e-6)


def test_counters_never_fall() -> None:
    """Power is never negative, through every phase of every wave."""
    clock = ManualClock()
    source = SyntheticSource(4, clock)
    before = joules(source.read())
    for _ in range(2_000):
        clock.advance(0.37)
        now = joules(source.read())
        assert all(now[device] > before[device] for device in now)
        before = now


def test_power_is_a_servers() -> None:
    """Between idle and what the device says it can draw at most."""
    clock = ManualClock()
    source = SyntheticSource(4, clock)
    for _ in range(1_000):
        clock.advance(0.37)
        assert all(50 < r.watts < (r.device.max_watts or 0) for r in source.read().readings if r.watts is not None)


def test_the_same_clock_gives_the_same_sample() -> None:
    """A golden scrape needs it."""
    clocks = ManualClock(), ManualClock()
    sources = [SyntheticSource(4, clock) for clock in clocks]
    for clock in clocks:
        clock.advance(17.25)

    assert sources[0].read() == sources[1].read()


def test_reading_it_twice_at_one_moment_changes_nothing() -> None:
    clock = ManualClock()
    source = SyntheticSource(1, clock)
    clock.advance(3.0)

    assert source.read() == source.read()


def test_states_are_what_their_names_say() -> None:
    """Ratios between 0 and 1, used memory within the total."""
    clock = ManualClock()
    source = SyntheticSource(4, clock)
    clock.advance(11.0)

    states = [r.state for r in source.read().readings if r.state is not None]

    assert 4 == len(states)
    assert all(0 <= (s.utilization or 0) <= 1 for s in states)
    assert all((s.memory_used_bytes or 0) <= (s.memory_total_bytes or 0) for s in states)


def test_throttled_time_grows_and_stays_below_the_time_that_passed() -> None:
    clock = ManualClock()
    source = SyntheticSource(1, clock)
    clock.advance(100.0)

    (state,) = [r.state for r in source.read().readings if r.state is not None]

    assert 0 < dict(state.throttled)["power_cap"] < 100


def test_the_option_says_how_many() -> None:
    sample = open_source(Options(gpus=0), ManualClock(), 1.0).read()

    assert {"cpu", "dram"} == {r.device.component for r in sample.readings}


def test_invented_workloads_have_invented_names() -> None:
    """By a namer of their own, so that nobody real is named."""
    with pytest.raises(Unavailable):
        synthetic_names.open_namer(synthetic_names.Options(), ManualClock())
    namer = synthetic_names.open_namer(synthetic_names.Options(enabled=True), ManualClock())
    clock = ManualClock()
    sample = open_source(Options(gpus=4), clock, 1.0).read()

    actors = {actor.path for activity in sample.activities for actor in activity.actors}
    names = {named.workload for path in actors if (named := namer.name_of(Subject((path,)))) is not None}

    assert len(names) == len(actors) == 4
    assert Workload("pod", "2f0c8d1e-5b1a-4f6e-9a57-000000000001", "serving") in names
    assert namer.name_of(Subject(("/system.slice/ssh.service", "/synthetic/pool/x/y/z/w/v"))) is None
