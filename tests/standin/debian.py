"""Programs of the distribution, found or fetched without root, since tests shall use the real ones."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

_CACHE = Path(__file__).resolve().parents[2] / ".cache"


class ToolsMissing(Exception):  # noqa: N818
    """Neither installed nor fetched; the message says why."""


def programs(package: str, names: tuple[str, ...]) -> tuple[Path, ...]:
    """Return a package's programs, from $PATH, the cache or the archive; ToolsMissing says why not.

    $WATTGRAM_TOOLS is a cache elsewhere; in it each package has a folder of its own.
    """
    found = _found(package, names)
    if isinstance(found, str):
        raise ToolsMissing(found)
    return found


def programs_or_skip(package: str, names: tuple[str, ...]) -> tuple[Path, ...]:
    """Skip the calling test with the reason; under CI fail it, since there a skip would go unseen."""
    try:
        return programs(package, names)
    except ToolsMissing as e:
        if os.environ.get("CI") == "true":
            pytest.fail(str(e))
        pytest.skip(str(e))


@functools.cache
def _found(package: str, names: tuple[str, ...]) -> tuple[Path, ...] | str:
    """The programs or the reason; asked once a process, since without a network each try takes its time."""
    paths = [shutil.which(name) for name in names]
    if all(paths):
        return tuple(Path(path) for path in paths if path)
    try:
        return cached(Path(os.environ.get("WATTGRAM_TOOLS") or _CACHE) / f"{package}-tools", package, names)
    except subprocess.CalledProcessError as e:
        command = " ".join(word for word in e.cmd if not word.startswith("-"))
        return f"no {package}: {command} failed: {e.stderr.strip()[-500:]}"
    except (OSError, subprocess.TimeoutExpired, ToolsMissing) as e:
        return f"no {package}: {e}"


def cached(cache: Path, package: str, names: tuple[str, ...]) -> tuple[Path, ...]:
    """Return the programs in a cache, which is filled if it is not there."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.with_name(f"{cache.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not cache.is_dir():
            _fetch(cache, package, names)
    found = tuple(cache / name for name in names)
    if not all(path.is_file() for path in found):
        raise ToolsMissing(f"{cache} does not hold {' and '.join(names)}")
    return found


def _fetch(cache: Path, package: str, names: tuple[str, ...]) -> None:
    """Let the cache appear only when complete."""
    building = Path(tempfile.mkdtemp(prefix=f".{cache.name}-", dir=cache.parent))
    try:
        complete = building / "complete"
        complete.mkdir()
        _unpack(building, package)
        for name in names:
            (building / "tree/usr/bin" / name).rename(complete / name)
        complete.chmod(0o755)
        complete.rename(cache)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _unpack(building: Path, package: str) -> None:
    """A package's files below `building/tree`."""
    settings = apt_settings(building)
    ran(["apt-get", *settings, "update"], building)
    ran(["apt-get", *settings, "download", package], building)
    unpack_all(building)


def apt_settings(folder: Path) -> list[str]:
    """Return what makes apt keep its state in a folder, whose parts are made, so that no root is needed."""
    for part in ("state/lists/partial", "cache/archives/partial", "tree"):
        (folder / part).mkdir(parents=True)
    settings = {
        "Dir::State": folder / "state",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "20",
    }
    return ["-q", *(f"-o{key}={value}" for key, value in settings.items())]


def unpack_all(folder: Path) -> None:
    """Unpack every package that lies in a folder into its `tree`."""
    for archive in folder.glob("*.deb"):
        ran(["dpkg", "-x", str(archive), "tree"], folder)


def ran(command: Sequence[str], directory: Path) -> str:
    """Return what a command prints; raise CalledProcessError with what it complained of."""
    done = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True, timeout=180)
    return done.stdout
