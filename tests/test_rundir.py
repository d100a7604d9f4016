"""How a command finds the daemon of a port, and leaves it a wish."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wattgram.rundir import RunDirectory, children, runtime_directory, start_ticks


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory("127.0.0.1:14044", {"RUNTIME_DIRECTORY": str(tmp_path / "run")})


def test_a_daemon_is_found_by_its_port(directory: RunDirectory, tmp_path: Path) -> None:
    directory.announce()

    assert os.getpid() == directory.daemon()
    assert None is RunDirectory("127.0.0.1:1", {"RUNTIME_DIRECTORY": str(tmp_path / "run")}).daemon()


def test_a_daemon_that_left_is_not_found(directory: RunDirectory) -> None:
    directory.announce()
    directory.withdraw()

    assert None is directory.daemon()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        "x y",
        "1",
        "1 1",
        "4194304 5",
        pytest.param(f"{os.getpid()} 1", id="another with our number"),
        pytest.param("\x00\xff", id="garbage"),
    ],
)
def test_a_file_that_means_nobody_finds_nobody(directory: RunDirectory, tmp_path: Path, text: str) -> None:
    """A process that died, another with its number, or garbage."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "daemon-14044.pid").write_text(text, encoding="latin-1")

    assert None is directory.daemon()


def test_a_dead_child_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        alive, among = start_ticks(child.pid), children(os.getpid())

    assert alive > 0
    assert child.pid in among
    assert -1 == start_ticks(child.pid)


@pytest.mark.parametrize(("seconds", "taken"), [(600.0, 600.0), (None, None)])
def test_a_wish_is_taken_once(directory: RunDirectory, seconds: float | None, taken: float | None) -> None:
    directory.announce()
    directory.wish(seconds)

    assert (taken, None) == (directory.take_wish(), directory.take_wish())


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "soon", "9" * 100_000])
def test_a_wish_that_makes_no_sense_is_none(directory: RunDirectory, tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "daemon-14044.pause").write_text(text)

    assert directory.take_wish() in (None, float("9" * 64))


def test_a_link_laid_in_the_way_is_not_followed(directory: RunDirectory, tmp_path: Path) -> None:
    """Root writes into a folder that the daemon's user owns."""
    target = tmp_path / "shadow"
    target.write_text("precious")
    directory.announce()
    (tmp_path / "run" / "daemon-14044.pause").symlink_to(target)
    directory.wish(5.0)

    assert "precious" == target.read_text()
    assert 5.0 == directory.take_wish()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a real root, who can own a file as somebody else")
def test_a_file_of_somebody_else_names_nobody(directory: RunDirectory, tmp_path: Path) -> None:
    """A service's user could have root signal any process."""
    directory.announce()
    os.chown(tmp_path / "run" / "daemon-14044.pid", 65534, 65534)

    assert None is directory.daemon()


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = RunDirectory("127.0.0.1:1", {"RUNTIME_DIRECTORY": str(tmp_path / "file")})
    directory.announce()

    assert None is directory.daemon()


def test_where_it_is() -> None:
    assert Path("/run/wattgram") == runtime_directory({}, uid=0)
    assert Path("/run/a") == runtime_directory({"RUNTIME_DIRECTORY": "/run/a:/run/b"})
    assert Path("/run/user/1000/wattgram") == runtime_directory({"XDG_RUNTIME_DIR": "/run/user/1000"}, uid=1000)
    assert None is runtime_directory({}, uid=1000)
