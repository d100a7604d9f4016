"""A source in a child that may hang, die, print and lie: the parent reads on, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from wattgram.clock import ManualClock
from wattgram.isolated import IsolatedSource
from wattgram.model import Cost
from wattgram.plan import child_environment
from wattgram.ports import ReadFailed, Unavailable

EVERY = 1.0
DEADLINE = 30.0
PLUG = "plug_of_a_test"

# Does at each reading, and when it is opened, what the word in its script says.
PLUG_TEXT = """
import ctypes, json, os, sys, threading, time
from dataclasses import dataclass
from pathlib import Path
from wattgram.model import Counter, Device, Failure, Reading, Sample
from wattgram.ports import ReadFailed, SourceOptions, Unavailable

@dataclass(frozen=True, kw_only=True)
class Options(SourceOptions):
    script: str = ""
    number: int = 0

def open_source(options, clock, every):
    word = Path(options.script).read_text()
    if word == "missing":
        raise Unavailable("no such thing", "buy one")
    if word == "closed":
        raise ReadFailed("not today", "server")
    if word == "broken":
        raise RuntimeError("a bug")
    return Source(options, clock, every)

class Source:
    def __init__(self, options, clock, every):
        self.options, self.clock, self.every, self.reads = options, clock, every, 0

    def read(self):
        self.reads += 1
        word = Path(self.options.script).read_text()
        names = getattr(self, word, lambda: ["device"])()
        told = {"pid": os.getpid(), "reads": self.reads, "every": self.every, "environ": dict(os.environ),
                "number": self.options.number, "cwd": os.getcwd()}
        now = self.clock.now()
        devices = [Device("gpu", name, name=json.dumps(told)) for name in names]
        failed = (Failure(Device("gpu", "gone"), "it is gone", "lost"),) if word in ("partial", "nothing") else ()
        return Sample(now, tuple(Reading(d, now, 5.0, Counter(2**53 + 1, 2**60)) for d in devices), failed=failed)

    def nothing(self):
        return []

    def large(self):
        return [f"device-{n}" for n in range(1000)]

    def fail(self):
        raise ReadFailed("it coughed", "server")

    def fatal(self):
        raise ReadFailed("its driver is gone", "server", fatal=True)

    def late_missing(self):
        raise Unavailable("it was pulled out", "put it back")

    def bug(self):
        raise RuntimeError("a bug")

    def bug_in_a_thread(self):
        threading.Thread(target=self.bug).start()
        time.sleep(60)

    def leave(self):
        os._exit(7)

    def hang(self):
        time.sleep(600)

    def slow(self):
        time.sleep(0.5)
        return ["device"]

    def burn(self):
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        return ["device"]

    def talk(self):
        print("a library greets", flush=True)
        os.write(1, b"\\x00\\x00\\x00\\x05junk!")
        os.system("echo a program that a library started")
        libc = ctypes.CDLL(None)
        libc.puts(b"a C library greets")
        libc.fflush(None)
        return ["device"]

    def close(self):
        pass
"""


@dataclass
class Stage:
    """A source in a child, the script that it follows and the clock that its patience goes by."""

    source: IsolatedSource
    clock: ManualClock
    script: Path

    def play(self, word: str) -> None:
        new = self.script.with_suffix(".new")
        new.write_text(word)
        new.replace(self.script)

    def told(self) -> dict[str, object]:
        """What the child says of itself."""
        told: dict[str, object] = json.loads(self.source.read().readings[0].device.name)
        return told

    def pid(self) -> int:
        return int(str(self.told()["pid"]))

    def failure(self) -> ReadFailed:
        with pytest.raises(ReadFailed) as caught:
            self.source.read()
        return caught.value

    def cost(self) -> Cost:
        cost = self.source.cost()
        assert cost is not None
        return cost


Made = Callable[..., Stage]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Made]:
    """Sources over the plug above, which the child finds as it finds everything: on our sys.path."""
    plugs = tmp_path / "plugs"
    plugs.mkdir()
    (plugs / f"{PLUG}.py").write_text(PLUG_TEXT)
    monkeypatch.syspath_prepend(str(plugs))
    made: list[Stage] = []

    def stage(word: str = "ok", every: float = EVERY, environment: dict[str, str] | None = None) -> Stage:
        clock, script = ManualClock(mono=1_000.0), tmp_path / f"script-{len(made)}"
        script.write_text(word)
        options = {"enabled": None, "interval": 3.0, "script": str(script), "number": 42}
        env = {"PATH": os.environ["PATH"]} if environment is None else environment
        made.append(Stage(IsolatedSource(PLUG, options, every, clock, env), clock, script))
        return made[-1]

    yield stage
    for one in made:
        one.source.close()


@pytest.fixture
def stage(make: Made) -> Stage:
    return make()


def outcome(stage: Stage) -> str:
    """How often the child had read, or why it did not answer."""
    try:
        return str(stage.told()["reads"])
    except ReadFailed as failure:
        return failure.reason


def state_of(pid: int) -> str:
    """The letter that proc(5) gives a process; empty: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_gone(pid: int) -> bool:
    return state_of(pid) in {"", "Z", "X"}


def children(of: int | None = None) -> dict[int, str]:
    """Our children, or another's, with their states, the dead ones that nobody waited for among them."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if entry.name.isdigit() and int(fields[1]) == (of or os.getpid()):
                found[int(entry.name)] = fields[0]
    return found


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, "did not come true in time"
        threading.Event().wait(0.005)


# --- answering ------------------------------------------------------------------------------------


def test_a_child_answers(stage: Stage) -> None:
    """Whole values cross the pipe, integers beyond what a float holds too."""
    sample = stage.source.read()

    (reading,) = sample.readings
    assert ("device", 5.0) == (reading.device.id, reading.watts)
    assert reading.counter is not None
    assert (2**53 + 1, 2**60) == (reading.counter.microjoules, reading.counter.wraps_at)


def test_the_child_is_another_process_and_stays_the_same(stage: Stage) -> None:
    told = [stage.told() for _ in range(3)]

    assert 1 == len({t["pid"] for t in told})
    assert os.getpid() != told[0]["pid"]
    assert [1, 2, 3] == [t["reads"] for t in told]


def test_the_child_is_given_its_options_and_its_interval(stage: Stage) -> None:
    """It stands in the root folder: it holds no folder of ours busy."""
    told = stage.told()

    assert (42, EVERY, "/") == (told["number"], told["every"], told["cwd"])


def test_no_child_is_started_before_it_is_needed(make: Made) -> None:
    before = set(children())
    make()

    assert before == set(children())


def test_a_large_sample_is_not_cut(stage: Stage) -> None:
    """A pipe holds 64 KiB; a sample may be larger."""
    stage.play("large")

    assert 1000 == len(stage.source.read().readings)


def test_what_a_library_prints_does_not_break_the_protocol(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    """From Python, from C, from a program, bytes that look like a frame: all of it goes to standard error."""
    stage.play("talk")

    samples = [stage.source.read() for _ in range(3)]

    printed = capfd.readouterr()
    assert [1, 1, 1] == [len(s.readings) for s in samples]
    assert "" == printed.out
    assert all(word in printed.err for word in ("a library greets", "a program", "a C library greets"))


def test_partial_success_crosses_the_pipe(stage: Stage) -> None:
    stage.play("partial")

    sample = stage.source.read()

    assert (["device"], ["gone"]) == ([r.device.id for r in sample.readings], [f.device.id for f in sample.failed])
    assert "lost" == sample.failed[0].event


def test_a_failed_reading_crosses_the_pipe_and_costs_no_child(stage: Stage) -> None:
    pid = stage.pid()
    stage.play("fail")
    failure = stage.failure()
    stage.play("ok")

    assert ("it coughed", "server", False) == (str(failure), failure.reason, failure.fatal)
    assert pid == stage.pid()


# --- not there ------------------------------------------------------------------------------------


def test_what_is_not_there_is_told_with_its_remedy(make: Made) -> None:
    """And its child does not stay."""
    before = set(children())
    stage = make("missing")

    with pytest.raises(Unavailable, match="no such thing") as caught:
        stage.source.read()

    assert "buy one" == caught.value.remedy
    assert before == set(children())


def test_what_came_later_is_found_at_the_next_try(make: Made) -> None:
    """At once: how often to try is the poller's business."""
    stage = make("missing")
    with pytest.raises(Unavailable):
        stage.source.read()
    stage.play("ok")

    assert 1 == len(stage.source.read().readings)


def test_what_goes_away_in_mid_course_is_told_as_missing(stage: Stage) -> None:
    """The port allows Unavailable at open alone; a child that says it later must not be a riddle."""
    stage.source.read()
    stage.play("late_missing")

    with pytest.raises((Unavailable, ReadFailed), match="it was pulled out"):
        stage.source.read()


@pytest.mark.parametrize("word", ["closed", "broken"])
def test_a_child_that_does_not_open_is_tried_again_later(make: Made, word: str) -> None:
    """Not at every tick: starting a process is dear."""
    stage = make(word)
    first = stage.failure()
    stage.play("ok")
    second = stage.failure()
    stage.clock.advance(1.1)

    assert 1 == len(stage.source.read().readings)
    assert "waiting" in str(second)
    assert "waiting" not in str(first)


# --- dying ----------------------------------------------------------------------------------------


def test_a_child_that_is_killed_is_replaced_after_a_pause(stage: Stage) -> None:
    pid = stage.pid()
    os.kill(pid, signal.SIGKILL)

    killed = stage.failure()
    waiting = stage.failure()
    stage.clock.advance(1.1)

    assert pid != stage.pid()
    assert "SIGKILL" in str(killed)
    assert "waiting" in str(waiting)


def test_during_the_pause_the_cause_is_still_told(stage: Stage) -> None:
    """The page shows the newest failure, and a log of changes must not swing between the cause and the waiting."""
    os.kill(stage.pid(), signal.SIGKILL)

    first, second = stage.failure(), stage.failure()

    assert "SIGKILL" in str(first)
    assert "SIGKILL" in str(second)


def test_the_pause_doubles_while_nothing_is_read_and_begins_anew_after_a_reading(stage: Stage) -> None:
    """1, 2, 4 … at most 60 seconds."""

    def pause() -> float:
        """Seconds until a new child is started, to a quarter."""
        waited = 0.0
        while "waiting" in str(stage.failure()):
            stage.clock.advance(0.25)
            waited += 0.25
        return waited

    stage.play("leave")
    stage.failure()
    pauses = [pause() for _ in range(8)]
    stage.play("ok")
    stage.clock.advance(60.25)
    stage.source.read()
    stage.play("leave")
    stage.failure()

    assert [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] == pauses
    assert 1.0 == pause()


def test_a_close_while_another_thread_reads_is_no_bug(stage: Stage) -> None:
    """Told to stop in the middle of a turn: the reader finds its child gone, and that is all."""
    stage.pid()
    stage.play("hang")
    failures: list[Exception] = []

    def read() -> None:
        try:
            stage.source.read()
        except ReadFailed as failure:
            failures.append(failure)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.1)
    stage.source.close()
    reader.join(DEADLINE)

    assert not reader.is_alive()
    assert 1 == len(failures)


@pytest.mark.parametrize("pipe", ["_input", "_output"])
def test_a_pipe_that_another_thread_has_closed_is_a_child_that_is_gone(stage: Stage, pipe: str) -> None:
    """At whichever step of a reading that happens."""
    stage.pid()
    child = stage.source._child
    getattr(child, pipe).close()

    failure = stage.failure()

    assert ("server", True) == (failure.reason, "is gone" in str(failure))


@pytest.mark.parametrize(("word", "ending"), [("leave", "exit code 7"), ("bug", "exit code 1")])
def test_how_a_child_ended_is_told(stage: Stage, word: str, ending: str) -> None:
    stage.play(word)

    assert ending in str(stage.failure())


def test_a_bug_in_any_thread_ends_the_child(make: Made, capfd: pytest.CaptureFixture[str]) -> None:
    """A meter that stops must not look alive; its traceback is on standard error."""
    stage = make("bug_in_a_thread", every=30.0)

    assert "exit code 1" in str(stage.failure())
    assert "RuntimeError: a bug" in capfd.readouterr().err


def test_a_child_that_only_a_new_process_mends_is_replaced_at_once(stage: Stage) -> None:
    pid = stage.pid()
    stage.play("fatal")
    failure = stage.failure()
    gone = is_gone(pid)
    stage.play("ok")
    stage.clock.advance(1.1)

    assert (True, True) == (failure.fatal, gone)
    assert pid != stage.pid()


# --- hanging --------------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_reading_is_waited_for_less_than_an_interval(make: Made) -> None:
    stage = make(every=0.5)
    stage.source.read()
    stage.play("hang")
    started = time.monotonic()

    failure = stage.failure()

    assert "timeout" == failure.reason
    assert 0.4 <= time.monotonic() - started < 0.5 + 0.5


@pytest.mark.parametrize("is_stopped", [True, False])
def test_a_child_that_is_silent_for_five_intervals_is_replaced(make: Made, is_stopped: bool) -> None:  # noqa: FBT001
    """Not sooner: a driver may need its time. Stopped from outside or hanging within, it is the same."""
    stage = make(every=0.5)
    pid = stage.pid()
    if is_stopped:
        os.kill(pid, signal.SIGSTOP)
    else:
        stage.play("hang")
    lived = []
    for _ in range(7):
        stage.failure()
        lived.append(not is_gone(pid))
        stage.clock.advance(0.5)
    stage.play("ok")
    stage.clock.advance(1.0)

    assert [True, True, True, True, True, True, False] == lived
    assert pid != stage.pid()


def test_a_child_that_reads_nothing_for_five_intervals_is_replaced(make: Made) -> None:
    """It answers, but none of its devices does: they are named until then, with what happened to them."""
    stage = make(every=0.5)
    pid = stage.pid()
    stage.play("nothing")
    events = []
    for _ in range(6):
        stage.clock.advance(0.5)
        events += [f.event for f in stage.source.read().failed]

    assert ["lost"] * 6 == events
    assert is_gone(pid)


def test_a_child_of_which_one_device_answers_stays(make: Made) -> None:
    stage = make(every=0.5)
    pid = stage.pid()
    stage.play("partial")
    for _ in range(12):
        stage.clock.advance(0.5)
        stage.source.read()

    assert not is_gone(pid)


def test_a_late_answer_is_taken_and_the_child_kept(make: Made) -> None:
    """It says when it was read, and may hold samples that the driver shows once: it is not asked for again."""
    stage = make(every=2.0)
    pid = stage.pid()
    os.kill(pid, signal.SIGSTOP)
    stage.failure()
    os.kill(pid, signal.SIGCONT)

    told = stage.told()

    assert (pid, 2) == (told["pid"], told["reads"])
    assert 3 == stage.told()["reads"]


def test_a_child_that_is_always_a_little_late_is_not_asked_twice(make: Made) -> None:
    """One question is open at a time, so its answers never pile up."""
    stage = make("slow", every=0.4)
    outcomes = [outcome(stage) for _ in range(4)]
    stage.play("ok")
    end = time.monotonic() + DEADLINE
    while "timeout" == (last := outcome(stage)) and time.monotonic() < end:
        pass

    assert "timeout" in outcomes
    assert int(last) <= 6


# A parent that reads again and again, and says of each reading how it went.
READER = textwrap.dedent(
    """
    import os, sys
    from wattgram.clock import SystemClock
    from wattgram.isolated import IsolatedSource
    from wattgram.ports import ReadFailed

    plug, script = sys.argv[1:]
    options = {"enabled": None, "interval": None, "script": script, "number": 1}
    source = IsolatedSource(plug, options, 1.0, SystemClock(), dict(os.environ))
    while True:
        try:
            print(len(source.read().readings), flush=True)
        except ReadFailed as failure:
            print(failure, flush=True)
    """
)


def test_when_all_were_stopped_in_the_middle_of_a_reading_it_is_waited_for(stage: Stage) -> None:
    """Patience is for a child that could have answered: while we were stopped it was as well, or it may answer now."""
    stage.play("slow")
    with subprocess.Popen(
        [sys.executable, "-c", READER, PLUG, str(stage.script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        answers = [parent.stdout.readline()]
        (child,) = children(parent.pid)
        for pid in (parent.pid, child):  # a reading takes half a second, and has just begun
            os.kill(pid, signal.SIGSTOP)
        threading.Event().wait(1.5)
        os.kill(parent.pid, signal.SIGCONT)
        threading.Event().wait(0.1)
        os.kill(child, signal.SIGCONT)
        answers += [parent.stdout.readline() for _ in range(2)]
        parent.kill()

    assert ["1\n"] * 3 == answers
    until(lambda: is_gone(child))


# --- leaving --------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.parametrize("state", ["idle", "hanging", "stopped", "dead", "never started"])
def test_closing_takes_half_a_second_at_most_and_leaves_no_child(make: Made, state: str) -> None:
    before = set(children())
    stage = make(every=0.3)
    pid = stage.pid() if state != "never started" else 0
    if state == "hanging":
        stage.play("hang")
        stage.failure()
    if state in ("stopped", "dead"):
        os.kill(pid, signal.SIGSTOP if state == "stopped" else signal.SIGKILL)
    started = time.monotonic()

    stage.source.close()

    assert time.monotonic() - started < 0.6
    assert before == set(children())


def test_closing_twice_is_closing_once(stage: Stage) -> None:
    stage.source.read()
    stage.source.close()
    stage.source.close()


# A parent that is killed while its child does what the word says.
PARENT = textwrap.dedent(
    """
    import json, os, sys, threading
    from wattgram.clock import SystemClock
    from wattgram.isolated import IsolatedSource
    from wattgram.ports import ReadFailed

    plug, script = sys.argv[1:]
    options = {"enabled": None, "interval": None, "script": script, "number": 1}
    source = IsolatedSource(plug, options, 30.0, SystemClock(), dict(os.environ))
    print(json.loads(source.read().readings[0].device.name)["pid"], flush=True)
    sys.stdin.readline()
    threading.Thread(target=source.read, daemon=True).start()
    threading.Event().wait()
    """
)


@pytest.mark.parametrize("word", ["ok", "hang"])
def test_a_child_leaves_when_its_parent_is_killed(stage: Stage, word: str) -> None:
    """Also from within a call that does not return; nothing else would ever end it."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, PLUG, str(stage.script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        pid = int(parent.stdout.readline())
        stage.play(word)
        parent.stdin.write("go on\n")
        parent.stdin.flush()
        if word == "hang":
            until(lambda: "S" in state_of(pid) and len(list(Path(f"/proc/{pid}/task").iterdir())) >= 2)
        parent.kill()

    until(lambda: is_gone(pid))


def test_an_interrupt_at_the_terminal_is_the_parents_alone(stage: Stage) -> None:
    """Ctrl-C goes to the whole foreground group: the child is in a session of its own."""
    pid = stage.pid()

    assert (pid, True) == (os.getsid(pid), os.getsid(pid) != os.getsid(0))


# --- what it may know -----------------------------------------------------------------------------


def test_the_child_inherits_no_credential(make: Made) -> None:
    """Nor our own options, nor what systemd said to us; everything else it may need, it has."""
    ours = {
        "PATH": os.environ["PATH"],
        "LD_LIBRARY_PATH": "/opt/driver",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "WATTGRAM_CARBON__ELECTRICITYMAPS__TOKEN": "secret",
        "WATTGRAM_CARBON__ELECTRICITYMAPS__TOKEN_FILE": "/secret",
        "WATTGRAM_SAMPLING__INTERVAL": "5s",
        "CREDENTIALS_DIRECTORY": "/run/secret",
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "1",
    }

    environment = make(environment=child_environment(ours)).told()["environ"]

    assert isinstance(environment, dict)
    assert {"LD_LIBRARY_PATH": "/opt/driver", "NVIDIA_VISIBLE_DEVICES": "all"}.items() <= environment.items()
    assert [] == [
        n for n, v in environment.items() if "secret" in v or n.startswith(("WATTGRAM", "WATCHDOG", "NOTIFY"))
    ]


def test_the_child_inherits_no_open_file(stage: Stage, tmp_path: Path) -> None:
    """A socket of ours in a child would keep the port taken."""
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003
        pid = stage.pid()
        held = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]

    assert not any("open" in target for target in held)


# --- what it costs --------------------------------------------------------------------------------


def test_the_cost_is_unknown_before_anything_was_read(stage: Stage) -> None:
    assert stage.source.cost() is None


def test_the_cost_grows_with_what_the_child_does(stage: Stage) -> None:
    stage.source.read()
    before = stage.cost()
    stage.play("burn")
    stage.source.read()
    after = stage.cost()

    assert 0.09 < after.cpu_seconds - before.cpu_seconds < 5.0
    assert before.resident_bytes > 1 << 20


def test_the_cost_never_falls_when_a_child_is_replaced(stage: Stage) -> None:
    """It is a counter: the dead child's time stays in it, the memory is the living one's."""
    stage.play("burn")
    costs = []
    for _ in range(3):
        pid = stage.pid()
        costs.append(stage.cost().cpu_seconds)
        os.kill(pid, signal.SIGKILL)
        stage.failure()
        costs.append(stage.cost().cpu_seconds)
        stage.clock.advance(1.1)

    assert sorted(costs) == costs
    assert costs[-1] > 0.3


def test_between_two_children_no_memory_is_used(stage: Stage) -> None:
    os.kill(stage.pid(), signal.SIGKILL)
    stage.failure()

    assert 0 == stage.cost().resident_bytes


def test_twenty_replacements_leave_nothing_behind(stage: Stage) -> None:
    """No zombie, no descriptor, no thread, no warning of an abandoned process."""
    stage.source.read()
    gc.collect()
    before = (len(children()), len(list(Path("/proc/self/fd").iterdir())), threading.active_count())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(20):
            os.kill(stage.pid(), signal.SIGKILL)
            stage.failure()
            stage.clock.advance(61.0)
        stage.source.read()
        gc.collect()
    after = (len(children()), len(list(Path("/proc/self/fd").iterdir())), threading.active_count())

    assert before == after
    assert "Z" not in children().values()
    assert [] == [str(w.message) for w in caught]
