"""Tests side by side, as `make test` runs them: who stays together, what runs alone, and one table of all."""

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
