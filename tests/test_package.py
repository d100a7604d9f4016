"""The wheel is what we ship: these tests look into the very file that `make test` built and installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

import wattgram

CHECKOUT = Path(__file__).resolve().parents[1]
ROOTS = (CHECKOUT / "agent", CHECKOUT / "exporters")


@pytest.fixture(scope="module")
def wheel() -> Path:
    path = os.environ.get("WATTGRAM_WHEEL")
    if not path:
        pytest.skip("no wheel: run `make test`")
    return Path(path)


@pytest.fixture(scope="module")
def packed(wheel: Path) -> Iterator[set[str]]:
    with ZipFile(wheel) as archive:
        yield {name for name in archive.namelist() if not name.endswith("/")}


def in_checkout() -> set[str]:
    return {
        path.relative_to(root).as_posix()
        for root in ROOTS
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_nothing_but_our_two_packages_lands_in_site_packages(packed: set[str]) -> None:
    """A top-level `agent`, `exporters` or `tests` would shadow a training repository's own."""
    top = {name.split("/")[0] for name in packed}

    ours = {name for name in top if not name.endswith((".dist-info", ".data"))}

    assert {"wattgram", "wattgram_exporters"} == ours


def test_every_file_of_the_two_roots_is_in_the_wheel_and_no_other(packed: set[str]) -> None:
    """An ignore rule drops data files from a wheel, while an editable install still finds them."""
    modules = {name for name in packed if name.startswith(("wattgram/", "wattgram_exporters/"))}

    assert in_checkout() == modules


def test_the_bundled_tables_are_in_the_wheel(packed: set[str]) -> None:
    tables = {path.relative_to(CHECKOUT / "agent").as_posix() for path in CHECKOUT.glob("agent/wattgram/data/*.csv")}

    assert tables <= packed


def test_both_packages_say_that_they_are_typed(packed: set[str]) -> None:
    assert {"wattgram/py.typed", "wattgram_exporters/py.typed"} <= packed


def test_what_an_installation_begins_with_is_in_the_wheel(packed: set[str]) -> None:
    """The quick start's configuration, and the systemd unit with all that its README installs."""
    deploy = CHECKOUT / "deploy"
    wanted = {"quickstart.toml", *(path.relative_to(deploy).as_posix() for path in deploy.glob("systemd/**/*.*"))}
    shared = {name.partition(".data/data/share/wattgram/")[2] for name in packed}

    assert {name for name in wanted if (deploy / name).is_file()} <= shared


def test_the_licence_travels_along(packed: set[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in packed)


def test_what_is_tested_is_what_was_packed(wheel: Path) -> None:
    """Byte for byte, or a stale installation would pass for a new one."""
    site = Path(wattgram.__file__).parents[1]

    with ZipFile(wheel) as archive:
        differing = [
            name
            for name in archive.namelist()
            if name.startswith(("wattgram/", "wattgram_exporters/"))
            and archive.read(name) != (site / name).read_bytes()
        ]

    assert [] == differing


def test_the_version_is_one(wheel: Path) -> None:
    assert wattgram.__version__ == importlib.metadata.version("wattgram")
    assert wattgram.__version__ == wheel.name.split("-")[1]


@pytest.mark.parametrize("name", ["agent", "exporters"])
def test_the_source_roots_cannot_be_imported(wheel: Path, name: str) -> None:
    assert wheel.exists()
    assert importlib.util.find_spec(name) is None


def test_the_environment_satisfies_what_the_wheel_asks_for(wheel: Path) -> None:
    command = [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"]

    check = subprocess.run(command, capture_output=True, text=True, check=False)

    assert wheel.exists()
    assert check.returncode == 0, check.stdout + check.stderr


def test_the_wheel_is_built_with_what_a_source_build_is_promised() -> None:
    """The group `build` repeats `build-system.requires`, so that `make test` needs no network twice."""
    text = (CHECKOUT / "pyproject.toml").read_text()

    promised = next(line for line in text.splitlines() if line.startswith("requires = "))
    used = next(line for line in text.splitlines() if line.startswith("build = "))

    assert promised.removeprefix("requires = ") == used.removeprefix("build = ").partition("  #")[0]
