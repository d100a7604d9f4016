"""The RAPL source over trees that look like machines: which zones count, which never do, how failure looks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from standin.sysfs import RaplTree, Zone
from wattgram.clock import ManualClock
from wattgram.meter import Meter
from wattgram.model import Counter, Sample
from wattgram.ports import ReadFailed, Unavailable
from wattgram.sources.rapl import Options, RaplSource, open_source

AMD = "AuthenticAMD"
# A sysctl that is written and never read: the kernel refuses to read it to everybody, root included.
UNREADABLE = Path("/proc/sys/vm/compact_memory")
JOULE = 1_000_000


def opened(tree: RaplTree, clock: ManualClock | None = None) -> RaplSource:
    """The source over a tree, as the registry opens it."""
    return open_source(Options(path=str(tree.sys), proc=str(tree.proc)), clock or ManualClock(), 1.0)


def package(path: str, name: str = "package-0", start: int = 1_000 * JOULE, **files: str) -> Zone:
    return Zone(path, name, start=start, extra=files)


def counters(sample: Sample) -> dict[str, int]:
    return {r.device.id: r.counter.microjoules for r in sample.readings if r.counter is not None}


def show(tree: RaplTree, **values: int) -> None:
    """Set counters by the zones' last letters: `_0` is intel-rapl:0."""
    for zone, value in values.items():
        tree.set_raw(f"intel-rapl:{zone[1:].replace('_', ':')}", f"{value}\n")


def forbid(tree: RaplTree, zone: str) -> None:
    """Let a counter be there and refuse every reader."""
    tree.file(zone).unlink()
    tree.file(zone).symlink_to(UNREADABLE)


def booked(meter: Meter, samples: Iterable[Sample]) -> int:
    return sum(delta.microjoules for sample in samples for delta in meter.advance(sample).deltas)


# --- which zones ----------------------------------------------------------------------------------


def test_packages_and_their_memory_are_read_and_nothing_else(tmp_path: Path) -> None:
    """`core` and `uncore` are parts of a package and `psys` contains it: adding one would count joules twice."""
    tree = RaplTree(
        tmp_path,
        [
            package("intel-rapl:0", start=11),
            Zone("intel-rapl:0:0", "core", start=12),
            Zone("intel-rapl:0:1", "uncore", start=13),
            Zone("intel-rapl:0:2", "dram", start=14),
            Zone("intel-rapl:1", "psys", start=15),
        ],
    )

    sample = opened(tree).read()

    assert {"package-0": 11, "dram-0": 14} == counters(sample)
    assert {"package-0": "cpu", "dram-0": "dram"} == {r.device.id: r.device.component for r in sample.readings}


def test_zones_are_told_by_their_names_never_by_their_numbers(tmp_path: Path) -> None:
    """Where psys came first, the packages begin at 1; memory may come before or after the cores."""
    tree = RaplTree(
        tmp_path,
        [
            Zone("intel-rapl:0", "psys", start=1),
            package("intel-rapl:1", "package-1", start=2),
            Zone("intel-rapl:1:0", "dram", start=3),
            Zone("intel-rapl:1:1", "core", start=4),
            package("intel-rapl:2", "package-0", start=5),
            Zone("intel-rapl:2:0", "uncore", start=6),
            Zone("intel-rapl:2:1", "dram", start=7),
        ],
    )

    assert {"package-1": 2, "dram-1": 3, "package-0": 5, "dram-0": 7} == counters(opened(tree).read())


def test_zone_numbers_are_hexadecimal(tmp_path: Path) -> None:
    """The eleventh zone is `intel-rapl:a`; a reader of digits alone would lose it and its memory."""
    zones = [package(f"intel-rapl:{n:x}", f"package-{n}", start=n + 1) for n in range(12)]
    tree = RaplTree(tmp_path, [*zones, Zone("intel-rapl:b:0", "dram", start=99)])

    found = counters(opened(tree).read())

    assert {f"package-{n}": n + 1 for n in range(12)} | {"dram-11": 99} == found


def test_devices_come_in_their_natural_order(tmp_path: Path) -> None:
    """package-2 before package-10, processors before memory."""
    tree = RaplTree(tmp_path, [package(f"intel-rapl:{n:x}", f"package-{n}") for n in (10, 2, 1)])

    assert ["package-1", "package-2", "package-10"] == [r.device.id for r in opened(tree).read().readings]


def test_memory_without_a_package_above_it_is_left_alone(tmp_path: Path) -> None:
    """A `dram` under psys is not additive."""
    zones = [package("intel-rapl:0"), Zone("intel-rapl:1", "psys"), Zone("intel-rapl:1:0", "dram")]

    assert ["package-0"] == list(counters(opened(RaplTree(tmp_path, zones)).read()))


@pytest.mark.parametrize("name", ["package-", "package-x", "package-0-die-", "packages-0", "mcp", "", "dram-0"])
def test_a_name_that_is_not_known_is_never_added(tmp_path: Path, name: str) -> None:
    """What new silicon calls its zones cannot be guessed."""
    tree = RaplTree(tmp_path, [package("intel-rapl:0"), Zone("intel-rapl:1", name)])

    assert ["package-0"] == list(counters(opened(tree).read()))


def test_each_zone_wraps_at_its_own_range(tmp_path: Path) -> None:
    """262 kJ and 65.5 kJ stand side by side on real machines."""
    tree = RaplTree(
        tmp_path,
        [package("intel-rapl:0", start=5), Zone("intel-rapl:0:0", "dram", wraps_at=65_532_610_987, start=6)],
    )

    cpu, dram = opened(tree).read().readings

    assert Counter(5, 262_143_328_850) == cpu.counter
    assert Counter(6, 65_532_610_987) == dram.counter


def test_the_ceiling_of_a_zone_is_half_again_what_its_maker_states(tmp_path: Path) -> None:
    """Without a statement a thousand watts: a step beyond that is a restart of the counter, no wrap."""
    tree = RaplTree(
        tmp_path,
        [package("intel-rapl:0", constraint_0_max_power_uw="250000000\n"), package("intel-rapl:1", "package-1")],
    )

    assert [375.0, 1000.0] == [r.device.max_watts for r in opened(tree).read().readings]


def test_the_instant_is_the_clocks(tmp_path: Path) -> None:
    clock = ManualClock(mono=7.0, wall=1_800_000_000.0)

    sample = opened(RaplTree(tmp_path, [package("intel-rapl:0")]), clock).read()

    assert [clock.now()] == [r.at for r in sample.readings]


# --- the same silicon twice -----------------------------------------------------------------------


def test_the_mmio_twin_of_a_package_is_ignored(tmp_path: Path) -> None:
    """It is the same silicon seen another way."""
    tree = RaplTree(
        tmp_path,
        [
            package("intel-rapl:0", start=11),
            package("intel-rapl-mmio:0", start=99),
            Zone("intel-rapl-mmio:0:0", "dram", start=98),
            Zone("intel-rapl:0:0", "dram", start=12),
        ],
    )

    sample = opened(tree).read()

    assert {"package-0": 11, "dram-0": 12} == counters(sample)
    assert {"intel-rapl"} == {r.driver for r in sample.readings}


def test_the_mmio_twin_stands_in_where_the_other_cannot_be_read(tmp_path: Path) -> None:
    """The reading says who answered."""
    tree = RaplTree(tmp_path, [package("intel-rapl:0", start=11), package("intel-rapl-mmio:0", start=99)])
    tree.deny("intel-rapl:0")

    sample = opened(tree).read()

    assert {"package-0": 99} == counters(sample)
    assert ["intel-rapl-mmio"] == [r.driver for r in sample.readings]


def test_a_change_to_the_twin_in_mid_course_invents_no_energy(tmp_path: Path) -> None:
    """The twins' counters began at different values: their difference is nobody's energy."""
    tree = RaplTree(tmp_path, [package("intel-rapl:0", start=11), package("intel-rapl-mmio:0", start=30_000 * JOULE)])
    clock = ManualClock()
    source, meter = opened(tree, clock), Meter(max_gap=3.0)
    meter.advance(source.read())
    tree.deny("intel-rapl:0")
    clock.advance(61.0)

    energy = booked(meter, [source.read()])

    assert 0 == energy


def test_the_dies_of_an_intel_package_add_up(tmp_path: Path) -> None:
    """Cascade Lake-AP: two real dies in one socket, each with its own memory."""
    tree = RaplTree(
        tmp_path,
        [
            package("intel-rapl:0", "package-0-die-0", start=11),
            Zone("intel-rapl:0:0", "dram", start=12),
            package("intel-rapl:1", "package-0-die-1", start=11),
            Zone("intel-rapl:1:0", "dram", start=12),
        ],
    )

    assert {"package-0-die-0": 11, "package-0-die-1": 11, "dram-0-die-0": 12, "dram-0-die-1": 12} == counters(
        opened(tree).read()
    )


def amd_dies(directory: Path, count: int = 2) -> RaplTree:
    """One socket with so many dies as AMD's, at 1000 J each."""
    zones = [package(f"intel-rapl:{n}", f"package-0-die-{n}") for n in range(count)]
    return RaplTree(directory, zones, cpuinfo_vendor=AMD)


def test_the_mirrors_of_an_amd_socket_become_one(tmp_path: Path) -> None:
    """Linux 6.10 showed the socket's counter once per die: 137 W where 68 W were drawn."""
    tree = amd_dies(tmp_path)
    source = opened(tree)
    source.read()
    show(tree, _0=1_068 * JOULE, _1=1_068 * JOULE + 700)

    assert {"package-0-die-0": 1_068 * JOULE} == counters(source.read())


def test_nothing_is_booked_before_mirrors_can_be_told_from_dies(tmp_path: Path) -> None:
    """Equal values that stand still may be either."""
    source = opened(amd_dies(tmp_path))

    assert [{}, {}] == [counters(source.read()), counters(source.read())]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param({"_0": 1_068 * JOULE, "_1": 1_041 * JOULE}, id="they move by different amounts"),
        pytest.param({"_0": 1_068 * JOULE, "_1": 1_075 * JOULE}, id="a tenth apart"),
    ],
)
def test_real_amd_dies_are_kept_apart(tmp_path: Path, after: dict[str, int]) -> None:
    """Equal starting values alone prove nothing."""
    tree = amd_dies(tmp_path)
    source = opened(tree)
    source.read()
    show(tree, **after)

    assert set(after.values()) == set(counters(source.read()).values())


def test_amd_dies_with_different_pasts_are_kept_though_they_move_alike(tmp_path: Path) -> None:
    """Two dies under the same load use the same energy, but never did so since boot."""
    tree = amd_dies(tmp_path)
    show(tree, _1=5_000 * JOULE)
    source = opened(tree)
    source.read()
    show(tree, _0=1_068 * JOULE, _1=5_068 * JOULE)

    assert {"package-0-die-0": 1_068 * JOULE, "package-0-die-1": 5_068 * JOULE} == counters(source.read())


def test_a_single_amd_package_is_given_at_once(tmp_path: Path) -> None:
    """Each socket is judged by itself."""
    zones = [package("intel-rapl:0", "package-0", start=5), package("intel-rapl:1", "package-1", start=5)]

    assert {"package-0": 5, "package-1": 5} == counters(opened(RaplTree(tmp_path, zones, AMD)).read())


def test_a_wrap_before_the_verdict_only_delays_it(tmp_path: Path) -> None:
    tree = amd_dies(tmp_path)
    source = opened(tree)
    source.read()
    show(tree, _0=10, _1=10)
    source.read()
    show(tree, _0=68 * JOULE, _1=68 * JOULE)

    assert {"package-0-die-0": 68 * JOULE} == counters(source.read())


def test_a_die_that_refused_at_first_does_not_stop_the_verdict_for_ever(tmp_path: Path) -> None:
    """Four dies, one with EIO in the first reading: afterwards all four move, and energy must be booked."""
    tree = amd_dies(tmp_path, count=4)
    tree.deny("intel-rapl:3")
    source = opened(tree)
    source.read()
    tree.release("intel-rapl:3")
    last: dict[str, int] = {}
    for turn in range(1, 6):
        value = (1_000 + 68 * turn) * JOULE
        show(tree, _0=value, _1=value, _2=value, _3=value)
        last = counters(source.read())

    assert {"package-0-die-0": 1_340 * JOULE} == last


def test_a_failure_of_the_kept_mirror_is_not_counted_twice(tmp_path: Path) -> None:
    """While die 0 refuses, die 1 must not open an account: die 0's own counter covers the time when it returns."""
    tree, clock, meter = amd_dies(tmp_path), ManualClock(), Meter(max_gap=3.0)
    source = opened(tree, clock)
    energy = 0
    for turn in range(10):
        value = (1_000 + 68 * turn) * JOULE
        show(tree, _0=value, _1=value)
        if 4 <= turn < 7:
            tree.deny("intel-rapl:0")
        energy += booked(meter, [source.read()])
        clock.advance(1.0)

    # The verdict falls in turn 1, so what was used from then until turn 9 is known.
    assert 8 * 68 * JOULE == energy


def test_a_mirror_that_fails_is_not_missed(tmp_path: Path) -> None:
    """The joules of die 1 are die 0's: it is no device, so nothing of it can go unmetered."""
    tree = amd_dies(tmp_path)
    source = opened(tree)
    source.read()
    show(tree, _0=1_068 * JOULE, _1=1_068 * JOULE)
    source.read()
    tree.deny("intel-rapl:1")

    assert [] == [f.device.id for f in source.read().failed]


# --- when things go wrong -------------------------------------------------------------------------


def test_one_zone_with_an_input_output_error_is_named_and_the_others_count(tmp_path: Path) -> None:
    tree = RaplTree(tmp_path, [package("intel-rapl:0", start=11), package("intel-rapl:1", "package-1", start=12)])
    source = opened(tree)
    tree.deny("intel-rapl:1")

    sample = source.read()

    assert {"package-0": 11} == counters(sample)
    assert ["package-1"] == [f.device.id for f in sample.failed]
    assert "EIO" in sample.failed[0].reason


def test_a_zone_that_recovers_is_read_again(tmp_path: Path) -> None:
    tree = RaplTree(tmp_path, [package("intel-rapl:0", start=11), package("intel-rapl:1", "package-1", start=12)])
    source = opened(tree)
    tree.deny("intel-rapl:1")
    source.read()
    tree.release("intel-rapl:1")

    assert ({"package-0": 11, "package-1": 12}, ()) == (counters(sample := source.read()), sample.failed)


def test_when_every_zone_refuses_the_reading_has_failed(tmp_path: Path) -> None:
    tree = RaplTree(tmp_path, [package("intel-rapl:0"), package("intel-rapl:1", "package-1")])
    source = opened(tree)
    tree.deny("intel-rapl:0")
    tree.deny("intel-rapl:1")

    with pytest.raises(ReadFailed, match="EIO"):
        source.read()


@pytest.mark.parametrize("text", ["", "\n", "-5\n", "12.5\n", "0x10\n", "nan\n", "٣\n", "12 13\n", "\x00\x01", "²"])
def test_anything_but_a_number_is_a_failure_of_that_zone(tmp_path: Path, text: str) -> None:
    """Never 0, and never the end of the program."""
    tree = RaplTree(tmp_path, [package("intel-rapl:0", start=11), package("intel-rapl:1", "package-1")])
    source = opened(tree)
    tree.set_raw("intel-rapl:1", text)

    sample = source.read()

    assert ({"package-0": 11}, ["package-1"]) == (counters(sample), [f.device.id for f in sample.failed])


def test_a_host_without_powercap_says_what_would_help(tmp_path: Path) -> None:
    """A virtual machine has none, and then only a labelled model can stand in."""
    with pytest.raises(Unavailable, match="no RAPL zone") as caught:
        open_source(Options(path=str(tmp_path), proc=str(tmp_path)), ManualClock(), 1.0)

    assert "modprobe" in caught.value.remedy
    assert "sources.estimate" in caught.value.remedy


def test_a_host_with_psys_alone_has_no_meter(tmp_path: Path) -> None:
    tree = RaplTree(tmp_path, [Zone("intel-rapl:0", "psys")])

    with pytest.raises(Unavailable, match="no RAPL zone"):
        opened(tree)


def test_forbidden_counters_are_told_from_absent_ones(tmp_path: Path) -> None:
    """Since 5.10 they are root's alone: the message names the file, the remedy a group and not the whole world."""
    tree = RaplTree(tmp_path, [package("intel-rapl:0")])
    forbid(tree, "intel-rapl:0")

    with pytest.raises(Unavailable) as caught:
        opened(tree)

    assert f"{tree.file('intel-rapl:0')}: permission denied" == str(caught.value)
    assert str(tree.file("intel-rapl:0")) in caught.value.remedy
    assert "o-rwx" in caught.value.remedy
    assert "0444" not in caught.value.remedy


def test_one_forbidden_zone_is_named_while_the_others_count(tmp_path: Path) -> None:
    tree = RaplTree(tmp_path, [package("intel-rapl:0", start=11), package("intel-rapl:1", "package-1")])
    forbid(tree, "intel-rapl:1")

    sample = opened(tree).read()

    assert ({"package-0": 11}, ["package-1"]) == (counters(sample), [f.device.id for f in sample.failed])
    assert "permission denied" in sample.failed[0].reason


@pytest.mark.parametrize("file", ["name", "max_energy_range_uj"])
def test_a_zone_that_lost_a_file_does_not_hide_the_others(tmp_path: Path, file: str) -> None:
    tree = RaplTree(tmp_path, [package("intel-rapl:0", start=11), package("intel-rapl:1", "package-1")])
    (tree.file("intel-rapl:1").parent / file).unlink()

    assert {"package-0": 11} == counters(opened(tree).read())


def test_a_zone_that_vanishes_is_named_for_as_long_as_it_is_away(tmp_path: Path) -> None:
    """It was expected: what is not metered must be counted as unmetered, also after the tree was searched again."""
    tree = RaplTree(tmp_path, [package("intel-rapl:0"), package("intel-rapl:1", "package-1")])
    clock = ManualClock()
    source = opened(tree, clock)
    tree.remove("intel-rapl:1")

    at_once = [f.device.id for f in source.read().failed]
    clock.advance(61.0)
    later = [f.device.id for f in source.read().failed]

    assert (["package-1"], ["package-1"]) == (at_once, later)


def test_a_zone_that_appears_is_found_within_a_minute(tmp_path: Path) -> None:
    """A module may be loaded, a processor come online."""
    tree = RaplTree(tmp_path, [package("intel-rapl:0", start=11)])
    clock = ManualClock()
    source = opened(tree, clock)
    tree.add(package("intel-rapl:1", "package-1", start=12))

    before = counters(source.read())
    clock.advance(61.0)
    after = counters(source.read())

    assert ({"package-0": 11}, {"package-0": 11, "package-1": 12}) == (before, after)


def test_a_whole_tree_that_goes_and_returns_is_read_again(tmp_path: Path) -> None:
    """`modprobe -r intel_rapl_msr`, and back."""
    tree = RaplTree(tmp_path, [package("intel-rapl:0", start=11)])
    clock = ManualClock()
    source = opened(tree, clock)
    tree.remove("intel-rapl:0")
    clock.advance(61.0)
    with pytest.raises(ReadFailed):
        source.read()
    tree.add(package("intel-rapl:0", start=12))

    assert {"package-0": 12} == counters(source.read())


def test_a_host_without_proc_is_metered_all_the_same(tmp_path: Path) -> None:
    """The vendor decides about mirrors alone."""
    tree = RaplTree(tmp_path, [package("intel-rapl:0", start=11)])

    sample = open_source(Options(path=str(tree.sys), proc=str(tmp_path / "none")), ManualClock(), 1.0).read()

    assert {"package-0": 11} == counters(sample)


def test_a_right_that_is_taken_away_in_use_is_told_with_its_remedy(tmp_path: Path) -> None:
    """Nothing is 0 and nothing is a wrap: the zone failed, and the line says what mends it."""
    tree = RaplTree(tmp_path, [package("intel-rapl:0")])
    source = opened(tree)
    tree.file("intel-rapl:0").chmod(0o000)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # root may read what nobody may
    try:
        with pytest.raises(ReadFailed, match="chmod g") as failure:
            source.read()
    finally:
        if root:
            os.seteuid(0)

    assert "permission denied" in str(failure.value)
