"""Tests side by side, as `make test` runs them: who stays together, what runs alone, what is repeated, one table."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LAST = "test_a_alone.py"

TOGETHER = """
import os, time
import pytest
from pathlib import Path

@pytest.fixture(autouse=True)
def noted(request, report):
    began = time.monotonic()
    yield
    line = f"{request.path.name} {os.getpid()} {began} {time.monotonic()}\\n"
    with (Path(__file__).parent / "notes").open("a") as notes:
        notes.write(line)

@pytest.mark.parametrize("n", range(3))
@pytest.mark.accept("1.1", "a line of some")
def test_one(n, report):
    time.sleep(0.1)
    report(f"in {n} turns")
"""
APART = TOGETHER.replace("pytest.mark.accept", "pytest.mark.apart\n@pytest.mark.accept")
ALONE = TOGETHER.replace("pytest.mark.accept", "pytest.mark.alone\n@pytest.mark.accept")
CHANCE = """
import pytest
from pathlib import Path

@pytest.mark.accept("1.1", "fails by chance")
def test_once(report):
    tries = Path(__file__).parent / "tries"
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    report(f"at try {len(tries.read_text())}")
    assert len(tries.read_text()) > 1, "the machine stood still"

@pytest.mark.accept("1.2", "fails always")
def test_always():
    assert False, "broken"
"""


@dataclass(frozen=True)
class Note:
    """One test: its file, the process that ran it, and from when to when."""

    file: str
    pid: int
    began: float
    ended: float


@dataclass(frozen=True)
class Run:
    """What a run of several workers wrote."""

    code: int
    output: str
    notes: list[Note]

    def of(self, file: str) -> list[Note]:
        """The notes of a file's tests."""
        return [note for note in self.notes if note.file == file]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three files of three tests by three workers; the alphabet would begin with what runs alone."""
    folder = tmp_path_factory.mktemp("workers")
    for name in ("conftest.py", "workers.py"):
        shutil.copy(HERE / name, folder)
    files = {LAST: ALONE, "test_b.py": TOGETHER, "test_c.py": TOGETHER, "test_d.py": APART, "test_e.py": TOGETHER}
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\naddopts = --import-mode=importlib -n 3\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    lines = [line.split() for line in (folder / "notes").read_text().splitlines()]
    notes = [Note(file, int(pid), float(began), float(ended)) for file, pid, began, ended in lines]
    return Run(done.returncode, done.stdout + done.stderr, notes)


def test_every_test_runs_once(run: Run) -> None:
    """Also those that waited for the others."""
    assert (0, 15) == (run.code, len(run.notes)), run.output


def test_what_is_alone_runs_when_all_others_are_done(run: Run) -> None:
    """And in one process, one after the other."""
    alone, others = run.of(LAST), [note for note in run.notes if note.file != LAST]

    assert max(note.ended for note in others) < min(note.began for note in alone)
    assert 1 == len({note.pid for note in alone})


def test_the_tests_of_a_file_stay_together(run: Run) -> None:
    """They may share what takes long to make."""
    assert [1, 1, 1] == [len({note.pid for note in run.of(file)}) for file in ("test_b.py", "test_c.py", "test_e.py")]


def test_others_run_side_by_side(run: Run) -> None:
    """Else all this were for nothing."""
    assert len({note.pid for note in run.notes}) > 1


def test_the_table_is_complete(run: Run) -> None:
    """Whichever process ran a line, it is told once, with what it measured."""
    assert 15 == len(re.findall(r"^1\.1 +passed .* a line of some · in \d turns$", run.output, re.MULTILINE))


def test_what_is_repeated_is_told_in_full(tmp_path: Path) -> None:
    """A failure that was chance passes at the second try and is shown; one that was not fails."""
    for name in ("conftest.py", "workers.py"):
        shutil.copy(HERE / name, tmp_path)
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text(CHANCE.replace('"tries"', f'"tries of {name}"'))
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = .\naddopts = --import-mode=importlib -n 2 --reruns 1\nfilterwarnings = error\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    assert 1 == done.returncode, done.stdout + done.stderr
    assert "2 failed, 2 passed, 4 rerun" in done.stdout
    assert 2 == len(re.findall(r"^1\.1 +passed .* fails by chance · at try 2$", done.stdout, re.MULTILINE))
    assert 2 == len(re.findall(r"^1\.2 +failed .* fails always$", done.stdout, re.MULTILINE))
    _, first = done.stdout.split(" failed at first, and repeated ")
    assert 2 == first.count("AssertionError: the machine stood still")
