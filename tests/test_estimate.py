"""The labelled model of processor and memory power, against numbers worked out by hand.

Coefficients: Cloud Carbon Footprint (Thoughtworks, Apache-2.0), watts per virtual processor and per gigabyte.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wattgram.clock import ManualClock
from wattgram.model import Sample
from wattgram.ports import ReadFailed, Seconds
from wattgram.sources.estimate import EstimateSource, Options, coefficients, open_source
from wattgram.tools.procfs import CpuTimes, cpu_times, memory_total_bytes

AVERAGE = (0.74, 3.5)


def write(proc: Path, *, stat: str = "", cpuinfo: str = "", meminfo: str = "") -> None:
    for name, text in (("stat", stat), ("cpuinfo", cpuinfo), ("meminfo", meminfo)):
        if text:
            (proc / name).write_text(text, encoding="utf-8")


def stat(
    user: int = 0,
    idle: int = 0,
    *,
    nice: int = 0,
    system: int = 0,
    iowait: int = 0,
    irq: int = 0,
    softirq: int = 0,
    steal: int = 0,
    guest: int = 0,
) -> str:
    """The first lines of proc(5)'s stat, jiffies."""
    fields = (user, nice, system, idle, iowait, irq, softirq, steal, guest, 0)
    line = " ".join(map(str, fields))
    return f"cpu  {line}\ncpu0 {line}\nbtime 1750000000\n"


def cpuinfo(vendor: str = "GenuineIntel", family: str = "6", model: str = "143") -> str:
    lines = ("processor\t: 0", f"vendor_id\t: {vendor}", f"cpu family\t: {family}", f"model\t\t: {model}")
    return "\n".join((*lines, "model name\t: A Processor", "", "processor\t: 1", "vendor_id\t: Other", ""))


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc of 125 000 000 KiB, that is 128 GB, and of a processor without coefficients of its own."""
    write(tmp_path, stat=stat(100, 100), cpuinfo=cpuinfo(), meminfo="MemTotal:       125000000 kB\nMemFree: 1 kB\n")
    return tmp_path


def source(proc: Path, clock: ManualClock, processors: int = 4, **options: float) -> EstimateSource:
    return EstimateSource(Options(proc=str(proc), **options), clock, processors)  # type: ignore[arg-type]


def joules(sample: Sample) -> dict[str, float]:
    return {r.device.component: r.counter.microjoules / 1e6 for r in sample.readings if r.counter is not None}


def watts(sample: Sample) -> dict[str, float | None]:
    return {r.device.component: r.watts for r in sample.readings}


# --- the model ------------------------------------------------------------------------------------


def test_processor_power_is_linear_in_the_busy_share(proc: Path) -> None:
    """4 processors x (0.74 W + 0.25 x (3.5 W - 0.74 W)) = 5.72 W; over 10 s 57.2 J."""
    clock = ManualClock()
    model = source(proc, clock)
    write(proc, stat=stat(100 + 25, 100 + 75))
    clock.advance(10.0)

    sample = model.read()

    assert 5.72 == pytest.approx(watts(sample)["cpu"])
    assert 57.2 == pytest.approx(joules(sample)["cpu"])


def test_memory_power_is_its_size(proc: Path) -> None:
    """128 GB x 0.392 W/GB = 50.176 W, whatever is in it; over 10 s 501.76 J."""
    clock = ManualClock()
    model = source(proc, clock)
    clock.advance(10.0)

    sample = model.read()

    assert 50.176 == pytest.approx(watts(sample)["dram"])
    assert 501.76 == pytest.approx(joules(sample)["dram"])


@pytest.mark.parametrize(("busy", "idle", "power"), [(0, 100, 2.96), (100, 0, 14.0), (0, 0, 2.96)])
def test_the_ends_of_the_line(proc: Path, busy: int, idle: int, power: float) -> None:
    """Idle 4 x 0.74 W, busy 4 x 3.5 W; where the kernel's clock has not ticked yet, idle."""
    clock = ManualClock()
    model = source(proc, clock)
    write(proc, stat=stat(100 + busy, 100 + idle))
    clock.advance(1.0)

    assert power == pytest.approx(watts(model.read())["cpu"])


def test_energy_is_the_sum_over_the_exact_time_between_readings(proc: Path) -> None:
    """3 s busy and 1.5 s idle: 3 x 14 J + 1.5 x 2.96 J = 46.44 J, not the last power times the whole."""
    clock = ManualClock()
    model = source(proc, clock)
    write(proc, stat=stat(400, 100))
    clock.advance(3.0)
    model.read()
    write(proc, stat=stat(400, 250))
    clock.advance(1.5)

    assert 46.44 == pytest.approx(joules(model.read())["cpu"])


def test_a_step_of_the_wall_clock_changes_nothing(proc: Path) -> None:
    clock = ManualClock()
    model = source(proc, clock)
    clock.advance(1.0, wall_step=-7200.0)

    assert 50.176 == pytest.approx(joules(model.read())["dram"])


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (("AuthenticAMD", "25", "1"), (0.45, 2.02)),
        (("AuthenticAMD", "23", "49"), (0.47, 1.69)),
        (("AuthenticAMD", "23", "1"), (0.82, 2.55)),
        (("GenuineIntel", "6", "85"), (0.64, 4.19)),
        (("GenuineIntel", "6", "79"), (0.71, 3.69)),
        (("GenuineIntel", "6", "63"), (1.9, 6.0)),
        (("GenuineIntel", "6", "62"), (3.04, 8.25)),
        (("GenuineIntel", "6", "45"), (2.17, 8.58)),
        (("GenuineIntel", "6", "143"), AVERAGE),
        (("AuthenticAMD", "6", "85"), AVERAGE),
    ],
)
def test_coefficients_are_the_processors_where_it_is_known(
    identity: tuple[str, str, str], expected: tuple[float, float]
) -> None:
    """Else the average of a large cloud's fleet."""
    names = dict(zip(("vendor_id", "cpu family", "model"), identity, strict=True))

    assert expected == coefficients(names, Options())


def test_the_first_processor_speaks_for_all(proc: Path) -> None:
    """An EPYC 7003 in /proc/cpuinfo: 4 x 2.02 W when busy."""
    write(proc, cpuinfo=cpuinfo("AuthenticAMD", "25", "1"))
    clock = ManualClock()
    model = source(proc, clock)
    write(proc, stat=stat(200, 100))
    clock.advance(1.0)

    assert 8.08 == pytest.approx(watts(model.read())["cpu"])


def test_an_unknown_architecture_is_modelled_with_the_average(proc: Path) -> None:
    """ARM's /proc/cpuinfo has no vendor and no name."""
    write(proc, cpuinfo="processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n\n")
    clock = ManualClock()
    model = source(proc, clock)
    clock.advance(1.0)

    assert 2.96 == pytest.approx(watts(model.read())["cpu"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"idle_watts_per_processor": 2.0, "busy_watts_per_processor": 9.0}, (2.0, 9.0)),
        ({"busy_watts_per_processor": 9.0}, (0.45, 9.0)),
        ({"idle_watts_per_processor": 0.0}, (0.0, 2.02)),
    ],
)
def test_what_the_user_knows_goes_before_any_table(options: dict[str, float], expected: tuple[float, float]) -> None:
    """Also a zero, and also one of the two alone."""
    epyc = {"vendor_id": "AuthenticAMD", "cpu family": "25", "model": "1"}

    assert expected == coefficients(epyc, Options(**options))  # type: ignore[arg-type]


def test_memory_follows_the_users_figure(proc: Path) -> None:
    """128 GB x 0.1 W/GB."""
    clock = ManualClock()
    model = source(proc, clock, memory_watts_per_gigabyte=0.1)
    clock.advance(1.0)

    assert 12.8 == pytest.approx(watts(model.read())["dram"])


# --- what counts as busy --------------------------------------------------------------------------


def test_time_that_another_guest_took_is_busy(proc: Path) -> None:
    """The processor worked, be it for somebody else: it is the machine's power that is modelled."""
    write(proc, stat=stat(steal=30, idle=70))

    assert CpuTimes(busy=30, idle=70) == cpu_times(proc)


def test_time_given_to_guests_is_not_counted_twice(proc: Path) -> None:
    """`guest` is contained in `user` already."""
    write(proc, stat=stat(user=30, idle=70, guest=30))

    assert CpuTimes(busy=30, idle=70) == cpu_times(proc)


def test_waiting_for_a_disk_is_idle(proc: Path) -> None:
    write(proc, stat=stat(user=1, nice=2, system=4, irq=8, softirq=16, idle=32, iowait=64))

    assert CpuTimes(busy=31, idle=96) == cpu_times(proc)


def test_a_kernel_without_steal_is_read_too(proc: Path) -> None:
    """Seven fields were all that Linux 2.6.0 had."""
    write(proc, stat="cpu 1 2 4 32 64 8 16\n")

    assert CpuTimes(busy=31, idle=96) == cpu_times(proc)


# --- a counter never falls ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(stat(40, 200), id="user time fell"),
        pytest.param(stat(140, 90), id="idle time fell"),
        pytest.param(stat(100, 100), id="nothing moved"),
        pytest.param(stat(0, 0), id="all begins anew"),
    ],
)
def test_the_modelled_counter_never_falls(proc: Path, later: str) -> None:
    """The kernel's own figures do, at times: iowait runs backwards, a processor goes offline."""
    clock = ManualClock()
    model = source(proc, clock)
    clock.advance(1.0)
    before = joules(model.read())
    write(proc, stat=later)
    clock.advance(1.0)
    after = joules(model.read())

    assert {"cpu": True, "dram": True} == {name: after[name] > before[name] for name in before}
    assert after["cpu"] - before["cpu"] <= 14.0


def test_a_failed_reading_loses_no_time(proc: Path) -> None:
    """The time in which /proc could not be read is modelled by the reading after it."""
    clock = ManualClock()
    model = source(proc, clock)
    good = (proc / "stat").read_text()
    write(proc, stat="what is this\n")
    clock.advance(5.0)
    with pytest.raises(ReadFailed):
        model.read()
    write(proc, stat=good)
    clock.advance(5.0)

    assert 501.76 == pytest.approx(joules(model.read())["dram"])


# --- saying what it is ----------------------------------------------------------------------------


def test_every_modelled_joule_is_labelled(proc: Path) -> None:
    sample = source(proc, ManualClock()).read()

    assert {("estimated", "model", "model")} == {(r.device.quality, r.device.covers, r.driver) for r in sample.readings}
    assert ["estimated-cpu", "estimated-dram"] == [r.device.id for r in sample.readings]
    assert ["A Processor", "memory"] == [r.device.name for r in sample.readings]


def test_the_registry_opens_it_for_every_processor_of_the_machine(proc: Path) -> None:
    clock = ManualClock()
    model = open_source(Options(proc=str(proc), interval=Seconds(5)), clock, 5.0)
    write(proc, stat=stat(200, 100))
    clock.advance(1.0)

    assert 3.5 * (os.cpu_count() or 1) == pytest.approx(watts(model.read())["cpu"])


# --- without /proc --------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["stat", "cpuinfo", "meminfo"])
def test_a_missing_file_is_named(proc: Path, missing: str) -> None:
    (proc / missing).unlink()

    with pytest.raises(ReadFailed, match=f"{missing}: No such file"):
        source(proc, ManualClock())


def test_stat_may_vanish_later(proc: Path) -> None:
    model = source(proc, ManualClock())
    (proc / "stat").unlink()

    with pytest.raises(ReadFailed, match="stat"):
        model.read()


@pytest.mark.parametrize(
    "text", ["\n", "cpu\n", "cpu 1 2 3\n", "cpu 1 2 3 x 5 6 7\n", "cpu ² 2 3 4 5 6 7\n", "cpu -1 2 3 4 5 6 7\n"]
)
def test_a_stat_that_is_none_is_refused(proc: Path, text: str) -> None:
    write(proc, stat=text)

    with pytest.raises(ReadFailed, match="no line of processor times"):
        cpu_times(proc)


@pytest.mark.parametrize("text", ["\n", "MemFree: 5 kB\n", "MemTotal:\n", "MemTotal: plenty kB\n"])
def test_a_meminfo_that_is_none_is_refused(proc: Path, text: str) -> None:
    """By ReadFailed: a stranger's file must not end the program."""
    write(proc, meminfo=text)

    with pytest.raises(ReadFailed, match="MemTotal"):
        memory_total_bytes(proc)
