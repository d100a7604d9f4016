"""systemd's own tools, found or fetched without root, to judge the unit and its companions as systemd would."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from standin import debian
from standin.debian import apt_settings, unpack_all

_CACHE = Path(__file__).resolve().parents[2] / ".cache/systemd-tools"


def ran(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a tool of systemd's with both outputs in `stdout`; skip the test with the reason if there is none."""
    program, env = _found(name)
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no {name}: {env['why']}")
    command = [program, *map(str, arguments)]
    environment = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "", **env}
    return subprocess.run(
        command, env=environment, text=True, timeout=60, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@functools.cache
def _found(name: str) -> tuple[str | None, dict[str, str]]:
    """The program and what its environment needs; without a program, `why`. Asked once per name and process."""
    installed = shutil.which(name)
    if installed:
        return installed, {}
    try:
        tree = _fetched(_CACHE)
    except subprocess.CalledProcessError as error:
        return None, {"why": f"{' '.join(error.cmd[:2])} failed: {error.stderr.strip()[-500:]}"}
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, {"why": str(error)}
    for folder in ("usr/bin", "bin", "usr/sbin", "sbin"):
        if (tree / folder / name).is_file():
            return str(tree / folder / name), _environment(tree)
    return None, {"why": f"it is not in the package systemd, unpacked in {tree}"}


def _environment(tree: Path) -> dict[str, str]:
    """Its libraries and the units that ours refers to lie in the same tree."""
    libraries = {str(path.parent) for path in tree.rglob("*.so*")}
    units = [str(tree / folder / "systemd/system") for folder in ("usr/lib", "lib")]
    return {"LD_LIBRARY_PATH": ":".join(sorted(libraries)), "SYSTEMD_UNIT_PATH": ":".join([*units, ""])}


def _fetched(cache: Path) -> Path:
    """Return the unpacked package with all that it needs and this machine lacks; apt keeps its state in the cache."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.with_name(f"{cache.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (cache / "complete").exists():
            shutil.rmtree(cache, ignore_errors=True)
            settings = apt_settings(cache)
            debian.ran(["apt-get", *settings, "update"], cache)
            debian.ran(["apt-get", *settings, "download", *_lacking(cache, settings)], cache)
            unpack_all(cache)
            (cache / "complete").touch()
    return cache / "tree"


def _lacking(cache: Path, settings: list[str]) -> list[str]:
    """The package and, down to the last one, what it depends on and is not installed; no resolver may refuse."""
    links = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    only = [f"--no-{link}" for link in links]
    tree = debian.ran(["apt-cache", *settings, "depends", "--recurse", *only, "systemd"], cache)
    installed = set(debian.ran(["dpkg-query", "--show", "--showformat", "${Package}\n"], cache).split())
    needed = {line for line in tree.splitlines() if line[0].isalnum() and ":" not in line}
    return sorted({"systemd", *(needed - installed)})
