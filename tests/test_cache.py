"""What providers said survives a restart; whatever happens to the file, the house goes on without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wattgram.cache import KEEP, Cache
from wattgram.model import Intensity
from wattgram.ports import Place

PLACE = Place("FR", "lifecycle")
BAD_CONTENTS = {
    "empty": b"",
    "cut": b'{"zone":"FR","factor":"lifecycle","values":{"grid":[{"zone":"FR",',
    "zeros": bytes(512),
    "bytes": bytes(range(256)),
    "not utf-8": b'{"zone":"FR\xff","factor":"lifecycle","values":{}}',
    "null": b"null",
    "a list": b"[]",
    "a number for a list": b'{"zone":"FR","factor":"lifecycle","values":{"grid":5}}',
    "a word for a number": b'{"zone":"FR","factor":"lifecycle","values":{"grid":[{"zone":"FR","provider":"grid",'
    b'"start":"soon","end":2,"grams_per_kwh":3,"basis":"live","factor":"lifecycle"}]}}',
    "a field is missing": b'{"zone":"FR","factor":"lifecycle","values":{"grid":[{"zone":"FR"}]}}',
    "two documents": b'{"zone":"FR","factor":"lifecycle","values":{}}{"zone":"FR","factor":"lifecycle","values":{}}',
}


def value(start: float, grams_per_kwh: float = 50.0) -> Intensity:
    return Intensity("FR", "grid", start, start + 3600.0, grams_per_kwh, "live", "lifecycle", published=start + 60.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "intensities.json"


# --- it survives ------------------------------------------------------------------------------------


def test_values_survive_a_restart(path: Path) -> None:
    """All that was said of each, to the last digit."""
    said = [value(1_700_000_000.0, 56.123456789), value(1_700_003_600.0, 57.0)]
    Cache(path, PLACE).keep("grid", said)

    assert {"grid": said} == Cache(path, PLACE).load()


def test_values_of_several_fetches_and_providers_are_kept_together(path: Path) -> None:
    """One file for all of them."""
    cache = Cache(path, PLACE)
    cache.keep("grid", [value(0.0)])
    cache.keep("other", [value(0.0, 70.0)])
    cache.keep("grid", [value(3600.0)])

    assert {"grid": [value(0.0), value(3600.0)], "other": [value(0.0, 70.0)]} == Cache(path, PLACE).load()


def test_what_was_loaded_is_kept_on(path: Path) -> None:
    """The first fetch after a restart does not throw away what was known before it."""
    Cache(path, PLACE).keep("grid", [value(0.0)])
    second = Cache(path, PLACE)
    second.load()
    second.keep("grid", [value(3600.0)])

    assert {"grid": [value(0.0), value(3600.0)]} == Cache(path, PLACE).load()


def test_a_newer_word_on_an_interval_replaces_the_older(path: Path) -> None:
    """An estimate was revised."""
    cache = Cache(path, PLACE)
    cache.keep("grid", [value(0.0, 50.0)])
    cache.keep("grid", [value(0.0, 60.0)])

    assert {"grid": [value(0.0, 60.0)]} == Cache(path, PLACE).load()


def test_the_file_does_not_grow_without_end(path: Path) -> None:
    """The newest values stay."""
    cache = Cache(path, PLACE)
    cache.keep("grid", [value(3600.0 * hour) for hour in range(KEEP + 50)])

    kept = Cache(path, PLACE).load()["grid"]

    assert [value(3600.0 * hour) for hour in range(50, KEEP + 50)] == kept


# --- it is missing, damaged or another's ------------------------------------------------------------


def test_without_a_file_there_is_nothing_and_nothing_to_say(path: Path, lines: list[str]) -> None:
    """The first start of all."""
    assert ({}, []) == (Cache(path, PLACE).load(), lines)


@pytest.mark.parametrize("content", BAD_CONTENTS.values(), ids=BAD_CONTENTS)
def test_a_damaged_file_is_said_once_and_not_used(path: Path, lines: list[str], content: bytes) -> None:
    """A start without a price is better than no start."""
    path.parent.mkdir()
    path.write_bytes(content)

    known = Cache(path, PLACE).load()

    assert {} == known
    assert ["WARNING"] == [line.split()[0] for line in lines]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(place=st.integers(0, 400), noise=st.binary(min_size=1, max_size=4), cut=st.booleans())
def test_no_damage_stops_the_house(path: Path, place: int, noise: bytes, cut: bool) -> None:  # noqa: FBT001
    """Any bytes written over any place, and the rest there or not: it is another file, or none, but no end."""
    cache = Cache(path, PLACE)
    cache.keep("grid", [value(0.0), value(3600.0)])
    content = path.read_bytes()
    rest = b"" if cut else content[place + len(noise) :]
    path.write_bytes(content[:place] + noise + rest)

    restarted = Cache(path, PLACE)
    restarted.load()
    restarted.keep("grid", [value(7200.0)])

    assert value(7200.0) in Cache(path, PLACE).load()["grid"]


def test_a_damaged_file_is_replaced_by_the_next_values(path: Path) -> None:
    """It heals by itself."""
    path.parent.mkdir()
    path.write_bytes(b"{")
    cache = Cache(path, PLACE)
    cache.load()
    cache.keep("grid", [value(0.0)])

    assert {"grid": [value(0.0)]} == Cache(path, PLACE).load()


@pytest.mark.parametrize("other", [Place("DE", "lifecycle"), Place("FR", "direct")])
def test_another_places_values_are_not_used(path: Path, other: Place) -> None:
    """The configuration changed: France's night says nothing of Germany, nor direct emissions of all of them."""
    Cache(path, other).keep("grid", [value(0.0)])

    assert {} == Cache(path, PLACE).load()


def test_another_places_values_are_replaced_whole(path: Path) -> None:
    """Two zones never lie in one file."""
    Cache(path, Place("DE", "lifecycle")).keep("grid", [value(0.0)])
    cache = Cache(path, PLACE)
    cache.load()
    cache.keep("grid", [value(3600.0)])

    assert {"grid": [value(3600.0)]} == Cache(path, PLACE).load()
    assert b"DE" not in path.read_bytes()


# --- it cannot be written ---------------------------------------------------------------------------


def test_a_place_that_cannot_be_written_is_said_once(tmp_path: Path, lines: list[str]) -> None:
    """A plain file stands where the directory should be: even root is refused."""
    (tmp_path / "state").write_text("not a directory")
    cache = Cache(tmp_path / "state" / "intensities.json", PLACE)

    for hour in range(3):
        cache.keep("grid", [value(3600.0 * hour)])

    assert 1 == len(lines)
    assert lines[0].startswith("WARNING the cache of intensities cannot be written")


def test_a_place_that_cannot_be_read_has_nothing(tmp_path: Path) -> None:
    """The same place, at the start."""
    (tmp_path / "state").write_text("not a directory")

    assert {} == Cache(tmp_path / "state" / "intensities.json", PLACE).load()


def test_it_is_written_again_when_it_can_be(tmp_path: Path, lines: list[str]) -> None:
    """All that was said meanwhile is in it, and the recovery is said."""
    obstacle = tmp_path / "state"
    obstacle.write_text("not a directory")
    cache = Cache(obstacle / "intensities.json", PLACE)
    cache.keep("grid", [value(0.0)])
    obstacle.unlink()
    cache.keep("grid", [value(3600.0)])

    assert {"grid": [value(0.0), value(3600.0)]} == Cache(obstacle / "intensities.json", PLACE).load()
    assert ["WARNING", "INFO"] == [line.split()[0] for line in lines]


# --- it is whole at every moment --------------------------------------------------------------------


def test_the_file_is_replaced_and_never_written_over(path: Path) -> None:
    """Who has it open reads the old content to its end: a crash in the middle of a write leaves that, whole."""
    cache = Cache(path, PLACE)
    cache.keep("grid", [value(0.0)])
    before = path.read_bytes()

    with path.open("rb") as held:
        cache.keep("grid", [value(3600.0)])
        after = held.read()

    assert before == after


def test_a_half_written_file_of_a_crash_does_no_harm(path: Path) -> None:
    """It lies beside the whole one, and the next write takes its place."""
    cache = Cache(path, PLACE)
    cache.keep("grid", [value(0.0)])
    path.with_name(f".{path.name}.new").write_bytes(b'{"zone":')

    loaded = Cache(path, PLACE).load()
    cache.keep("grid", [value(3600.0)])

    assert {"grid": [value(0.0)]} == loaded
    assert [path] == list(path.parent.iterdir())


def test_the_file_is_plain_json(path: Path) -> None:
    """An engineer can read it."""
    Cache(path, PLACE).keep("grid", [value(0.0, 56.5)])

    content = json.loads(path.read_text())

    assert ("FR", 56.5) == (content["zone"], content["values"]["grid"][0]["grams_per_kwh"])
