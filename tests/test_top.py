"""`wattgram top`: what it believes, what it draws in which room, and how it behaves in a real terminal."""

from __future__ import annotations

import base64
import copy
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from standin.web import Handler, Request, Server
from wattgram.ports import ConfigError, ReadFailed
from wattgram.top import asking, figures
from wattgram.top.command import Watch
from wattgram.top.drawing import ASCII, Frame, Signs, draw, share_room
from wattgram.top.pace import Pace
from wattgram.top.reading import read

GOLDEN = Path(__file__).parent / "golden" / "status.json"
GOOD, BAD_CONFIG, MISSING = 0, 2, 3
SIZES = ((200, 60), (120, 40), (80, 24), (60, 24), (40, 12), (20, 6), (8, 3), (1, 1))
# What draws: a position, a colour, a mode of the screen. Nothing else may begin with an escape.
ALLOWED = re.compile(r"\x1b\[(?:\?(?:1049|25)[hl]|H|2J|[\d;]*m)")
TOKEN = "not-to-be-seen"


def status(**changes: Any) -> dict[str, Any]:
    """A daemon with a workload, as `/api/v1/status` has it."""
    data: dict[str, Any] = json.loads(GOLDEN.read_text())
    part = {"component": "gpu", "device": data["devices"][0]["device"], "activity": "active", "quality": "apportioned"}
    job: dict[str, Any] = {"kind": "slurm", "workload": "4711", "owner": "ada", "name": "pretrain", "account": "nlp"}
    job |= {"began": data["at"] - 4, "seen": data["at"], "parts": [{**part, "joules": 1000.0, "grams": 0.0122}]}
    data["workloads"].append({**job, "pricing": []})
    return {**data, **changes}


def later(data: dict[str, Any], seconds: float, joules: float) -> dict[str, Any]:
    """The same daemon so much later, in which the last workload used so much."""
    data = copy.deepcopy(data)
    data["at"] += seconds
    for device in data["devices"]:
        device["read_at"] += seconds
    data["workloads"][-1]["parts"][0]["joules"] += joules
    return data


def picture(frame: Frame, width: int = 80, height: int | None = None, signs: Signs = ASCII) -> list[str]:
    """The lines that a terminal without colours gets."""
    written = io.StringIO()
    console = Console(file=written, width=width, height=height or 100, color_system=None, highlight=False)
    console.print(draw(frame, width, height, signs))
    return [line.rstrip() for line in written.getvalue().splitlines()]


def shown(data: dict[str, Any], width: int = 80, height: int | None = None, **more: Any) -> list[str]:
    return picture(Frame("here", read(data), **more), width, height)


# --- what is believed -----------------------------------------------------------------------------


def test_a_status_is_read_as_it_was_written() -> None:
    told = read(status())

    gpu = told.devices[0]
    assert ("GPU 0", 548.701, 700.0, "counter", "synthetic") == (
        gpu.name,
        gpu.watts,
        gpu.limit_watts,
        gpu.method,
        gpu.quality,
    )
    assert 8521.053671 == pytest.approx(told.joules)
    assert 0.10457226421799444 == pytest.approx(told.grams)
    assert () == told.troubles
    assert not told.bad_books


@pytest.mark.parametrize(
    "data", [None, [], "status", 7, {}, {"at": 1.0}, {"at": "now", "devices": []}, {"devices": []}]
)
def test_what_is_no_status_is_said_to_be_none(data: Any) -> None:
    with pytest.raises(ReadFailed, match="not a status of wattgram"):
        read(data)


NONSENSE: tuple[Any, ...] = (
    None, True, -1, 1e300, 10**400, float("nan"), float("inf"), "", "\x1b]0;owned\x07\x1b[2J\u202e\ud800",
    "x" * 100_000, [], [None, 1, "x"], {}, {"\x1b[31m": "\x1b[31m"},
)  # fmt: skip


def everywhere(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a value: what holds it, and its key."""
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(children):
        yield data, key
        yield from everywhere(value)


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda n: f"{type(n).__name__}-{str(n)[:8]!a}")
def test_nonsense_in_any_place_is_drawn_or_refused_and_steers_nothing(nonsense: Any) -> None:
    """Each value of a status in turn, and each left out: no error but ours, no character that steers a terminal."""
    data = status()
    data["devices"], data["workloads"] = data["devices"][:2], data["workloads"][-2:]
    places = [(holder, key) for holder, key in everywhere(data) if holder is not data["ended"]]
    assert len(places) > 100
    for holder, key in places[:: 2 if nonsense is None else 11]:
        was = holder[key]
        holder[key] = nonsense
        try:
            lines = shown(data, height=24)
        except ReadFailed:
            continue
        finally:
            holder[key] = was
        assert all(line.isprintable() for line in lines), (key, nonsense)
        assert len(lines) <= 24


def test_keys_that_are_missing_are_unknown_and_not_zero() -> None:
    """A status of another version may have fewer."""
    bare = {"at": 10.0, "started": 0.0, "devices": [{"component": "gpu", "device": "GPU-1", "joules": 3.6e6}]}

    lines = shown(bare)

    row = next(line for line in lines if line.startswith("GPU-1"))
    assert ["GPU-1", "-", "1.000", "-"] == row.split()
    assert any("no zone is configured" in line for line in lines)


def test_books_that_differ_are_not_passed_over() -> None:
    data = status()
    data["owners"][0]["joules"] += 1.0

    assert any("do not balance" in line for line in shown(data))


# --- powers ---------------------------------------------------------------------------------------


def test_the_power_of_a_workload_is_what_it_used_between_two_readings_of_its_device() -> None:
    """300 J in 2 s are 150 W, whenever the status was asked for."""
    first = status()
    second = later(first, 2.0, 300.0)
    second["at"] += 0.7  # asked later than read
    pace = Pace()
    pace.add(read(first))
    pace.add(read(second))

    assert 150.0 == pytest.approx(pace.watts()["slurm", "4711", "ada"])


def test_the_first_look_knows_no_power_of_a_workload() -> None:
    pace = Pace()
    pace.add(read(status()))

    assert {} == pace.watts()


def test_a_daemon_that_began_anew_begins_anew_here() -> None:
    """Its joules fell to almost nothing: no negative power, none at all."""
    pace = Pace()
    pace.add(read(status()))
    again = later(status(), 5.0, -900.0)
    again["started"] += 4.0
    pace.add(read(again))

    assert {} == pace.watts()


def test_a_workload_that_came_is_counted_from_its_first_joule_and_one_that_returns_is_not_known() -> None:
    for began, expected in ((1.0, {("slurm", "4711", "ada"): 500.0}), (-100.0, {})):
        old = status()
        job = old["workloads"].pop()
        new = later(status(), 2.0, 0.0)
        new["workloads"][-1] = {**job, "began": old["at"] + began}
        pace = Pace()
        pace.add(read(old))
        pace.add(read(new))

        assert expected == {key: watts for key, watts in pace.watts().items() if key[0] == "slurm"}


def test_the_window_is_a_few_seconds_and_what_is_kept_is_bounded() -> None:
    """100 W for a minute, then 300 W: after six seconds nothing is left of the hundred."""
    pace, data = Pace(window=5.0), status()
    for second in range(70):
        data = later(data, 1.0, 100.0 if second < 60 else 300.0)
        pace.add(read(data))

    assert 300.0 == pytest.approx(pace.watts()["slurm", "4711", "ada"])
    assert len(pace._kept) <= 7


# --- the screen -----------------------------------------------------------------------------------


def test_everything_that_was_asked_for_is_on_a_wide_screen() -> None:
    text = "\n".join(shown(status(), 160, powers={("slurm", "4711", "ada"): 249.6}))

    for words in (
        "GPU 0", "549", "########.. 700", "counter, synthetic", "Wh", "g CO2e", "slurm pretrain",
        "250", "12%", "ada", "nlp",
        "44.18 g/kWh in FR, yearly average of 2024, lifecycle", "ok: all answer", "invented hardware", "by watts",
    ):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("is_help", [False, True])
def test_the_screen_fits_its_room(width: int, height: int, is_help: bool) -> None:  # noqa: FBT001
    """No line is longer, and from a bearable height on no line more, down to one place."""
    lines = shown(status(), width, height, is_help=is_help, trouble="x" * 300, age=99.0, warning="y" * 300)

    assert all(len(line) <= width for line in lines)
    if height >= 24:
        assert len(lines) <= height


def test_columns_go_in_their_order_of_need() -> None:
    """Name and power stay to the last; the model goes first."""
    heads = {
        width: next(line for line in shown(status(), width) if line.startswith("device")) for width in (160, 80, 40, 22)
    }

    assert ["model" in head for head in heads.values()] == [True, False, False, False]
    assert ["of its limit" in head for head in heads.values()] == [True, True, False, False]
    assert ["W now" in head for head in heads.values()] == [True] * 4


def test_many_rows_say_how_many_are_left_out() -> None:
    data = status()
    data["devices"] = [{**data["devices"][0], "device": f"GPU-{n}", "index": str(n)} for n in range(64)]
    lines = shown(data, 80, 24)

    assert 24 >= len(lines)
    assert any(re.fullmatch(r"and \d\d more", line) for line in lines)
    assert [str(n) for n in range(3)] == [line.split()[1] for line in lines if line.startswith("GPU")][:3]


@pytest.mark.parametrize(
    ("devices", "workloads", "room", "expected"),
    [
        (4, 4, None, (4, 4)), (4, 4, 20, (4, 4)), (64, 2, 10, (8, 2)),
        (2, 64, 10, (2, 8)), (9, 9, 10, (5, 5)), (9, 9, 0, (0, 0)),
    ],
)  # fmt: skip
def test_who_needs_less_leaves_room(devices: int, workloads: int, room: int | None, expected: tuple[int, int]) -> None:
    assert expected == share_room(devices, workloads, room)


@pytest.mark.parametrize("sort", ["watts", "energy", "grams", "name"])
def test_workloads_are_sorted_and_pools_are_last(sort: str) -> None:
    data = status()
    job = data["workloads"][-1]
    for number, (name, joules) in enumerate((("zeta", 3000.0), ("alpha", 2000.0))):
        part = {**job["parts"][0], "joules": joules, "grams": joules / 1e5}
        data["workloads"].append({**job, "workload": str(number), "name": name, "parts": [part]})
    powers = {("slurm", "1", "ada"): 9.0, ("slurm", "4711", "ada"): 5.0}

    names = [line.split()[1] for line in shown(data, sort=sort, powers=powers) if line.startswith("slurm")]

    orders = {"watts": ["alpha", "pretrain", "zeta"], "name": ["alpha", "pretrain", "zeta"]}
    assert orders.get(sort, ["zeta", "alpha", "pretrain"]) == names
    lines = shown(data, sort=sort)
    assert max(i for i, line in enumerate(lines) if line.startswith("slurm")) < next(
        i for i, line in enumerate(lines) if line.startswith("idle:")
    )


def test_what_is_stale_shows_no_power_and_says_so() -> None:
    """Energy stands as it was; a power of twenty seconds ago is none."""
    lines = shown(status(), age=20.0, trouble="no route", powers={("slurm", "4711", "ada"): 5.0})

    assert "NO ANSWER: no route" in lines
    assert any(line.startswith("- W now") for line in lines)
    assert any(line.startswith("STALE: nothing new for 20 s") for line in lines)
    assert ["-", "-"] == [line.split()[2] for line in lines if line.startswith(("GPU 0", "slurm pretrain"))]


def test_a_workload_that_was_not_seen_for_a_while_has_ended() -> None:
    data = status()
    data["workloads"][-1]["seen"] = data["at"] - 60

    row = next(line for line in shown(data, powers={("slurm", "4711", "ada"): 0.0}) if line.startswith("slurm"))

    assert ["slurm", "pretrain", "ended"] == row.split()[:3]


def test_what_ended_before_is_not_passed_over() -> None:
    """Shares that do not add up to all say where the rest is."""
    data = status()
    data["workloads"] = data["workloads"][:2]

    whole = sum(d["joules"] for d in data["devices"])
    there = sum(p["joules"] for w in data["workloads"] for p in w["parts"])
    assert f"and {1 - there / whole:.0%} of all joules: workloads that ended before" in shown(data)
    assert not any("ended before" in line for line in shown(json.loads(GOLDEN.read_text())))


def test_nine_thousand_workloads_are_drawn_as_quickly_as_a_screenful() -> None:
    """Only what is shown is drawn, else no key would be heard."""
    data = status()
    job = data["workloads"][-1]
    data["workloads"] += [{**job, "workload": str(n)} for n in range(9_000)]
    frame = Frame("here", read(data))
    started = time.process_time()
    lines = picture(frame, 80, 24)

    assert len(lines) <= 24
    assert time.process_time() - started < 0.5


def test_a_device_that_does_not_answer_is_named_with_its_reason() -> None:
    data = status()
    data["devices"][0] |= {"watts": None, "unmetered_seconds": 90.0}
    source = next(row for row in data["health"] if row["kind"] == "source")
    source["unanswered"] = {data["devices"][0]["device"]: "fell off the bus"}

    lines = shown(data, 120)

    assert "! GPU 0 does not answer: fell off the bus" in lines
    assert "1.5 min" in next(line for line in lines if line.startswith("GPU 0"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"devices": []}, "nothing is metered"),
        ({"grid": {"zone": "FR", "factor": "lifecycle", "price": None}}, "FR has no price now"),
        ({"grid": None}, "no zone is configured"),
        ({"reload": {"successful": False, "at": 1.0}}, "the changed configuration is not taken"),
        ({"health": [{"name": "nvml", "kind": "source", "error": "paused until told", "up": False}]}, "nvml is paused"),
        ({"health": [{"name": "rte", "kind": "provider", "error": "HTTP 500", "up": False}]}, "rte fails: HTTP 500"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], words: str) -> None:
    assert any(words in line for line in shown(status(**change), 100))


def test_a_held_price_tells_its_age() -> None:
    data = status()
    data["grid"]["price"] |= {"basis": "held", "provider": "rte", "start": data["at"] - 7200}

    assert any("held, by rte, for the interval begun 2.0 h ago" in line for line in shown(data, 120))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (0.0001, "<0.001"), (1.0, "1.000"), (123.45, "123.5"), (54321.0, "54,321"), (1e23, "1.00e+23")],
)  # fmt: skip
def test_numbers_are_short_and_what_is_there_is_not_zero(value: float, text: str) -> None:
    assert text == figures.number(value)


def test_pause_holds_the_picture() -> None:
    watched = Watch("here", 2.0, "watts")
    watched.hear(read(status()), 0.0)
    watched.press("p")
    watched.hear(ReadFailed("gone"), 1.0)

    frame = watched.frame(1.0)
    assert (True, "", False) == (frame.is_paused, frame.trouble, watched.wants(100.0))
    watched.press("p")
    assert watched.wants(100.0)


def test_the_same_moment_again_is_no_news() -> None:
    """A daemon that stands still behind a server that answers grows stale like one that is gone."""
    watched = Watch("here", 2.0, "watts")
    for second in range(9):
        watched.hear(read(status()), float(second))

    assert watched.frame(9.0).is_stale


# --- whom it asks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("gpu-01", "http://gpu-01:14044/api/v1/status"),
        ("gpu-01:80", "http://gpu-01:80/api/v1/status"),
        ("[::1]:14044", "http://[::1]:14044/api/v1/status"),
        ("https://power.example.org/gpu-01/", "https://power.example.org/gpu-01/api/v1/status"),
        ("http://gpu-01:14044/api/v1/status", "http://gpu-01:14044/api/v1/status"),
    ],
)
def test_an_address_is_completed(text: str, url: str) -> None:
    assert url == asking.address(text)


@pytest.mark.parametrize(
    "text", ["http://u:p@gpu-01", "ftp://gpu-01", "http://", "gpu-01:x", "a b", "gpu?x=1", "\x1b[2J"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """A password in an address would be seen by everybody in the list of processes."""
    with pytest.raises(ConfigError):
        asking.address(text)


def test_a_password_is_read_from_a_file_or_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret\nmore\n")

    expected = {"Authorization": "Basic " + base64.b64encode(b"ada:secret").decode()}
    assert expected == asking.credentials("ada", str(file))
    assert {} == asking.credentials("", "")
    for user, name in (("ada", str(tmp_path / "none")), ("", str(file)), ("a:b", str(file))):
        with pytest.raises(ConfigError):
            asking.credentials(user, name)


# --- in a real terminal ---------------------------------------------------------------------------


class Agent(Server):
    """Answers with a status, or as told."""

    def __init__(self) -> None:
        super().__init__()
        self.data: Any = status()
        self.body: bytes | None = None
        self.code = 200
        self.moves = True

    def _answer(self, handler: Handler, request: Request) -> None:
        if self.moves:
            self.data["at"] = time.time()
            for row in (*self.data["health"], *self.data["workloads"]):
                row["last_success"] = row["seen"] = self.data["at"]
        handler.reply(self.code, json.dumps(self.data).encode() if self.body is None else self.body)


@dataclass
class Screen:
    """A terminal with `wattgram top` in it."""

    master: int
    process: subprocess.Popen[bytes]
    written: str = ""
    since: int = field(default=0)

    def read(self, deadline: float = 0.0) -> bool:
        """Take in what was written; whether there was something."""
        if not select.select([self.master], [], [], deadline)[0]:
            return False
        try:
            more = os.read(self.master, 1 << 16)
        except OSError:  # they closed their end
            return False
        self.written += more.decode("utf-8", "replace")
        return bool(more)

    def wait_for(self, words: str, deadline: float = 30.0) -> str:
        """Return the part up to these words, after all that was waited for before."""
        end = time.monotonic() + deadline
        while words not in plain(self.written[self.since :]):
            assert time.monotonic() < end, f"no {words!r} in:\n{plain(self.written[self.since :])[-3000:]}"
            assert self.read(0.1) or self.process.poll() is None, f"it left:\n{plain(self.written)[-3000:]}"
        part = self.written[self.since :]
        self.since = len(self.written)
        return part

    def press(self, keys: str) -> None:
        self.since = len(self.written)
        os.write(self.master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def left(self, deadline: float = 10.0) -> int:
        end = time.monotonic() + deadline
        while self.process.poll() is None:
            self.read(0.05)
            assert time.monotonic() < end
        while self.read(0.0):
            pass
        return self.process.returncode


def plain(text: str) -> str:
    return ALLOWED.sub("", text)


@contextmanager
def terminal(
    url: str, *arguments: str, columns: int = 80, lines: int = 24, env: dict[str, str] | None = None
) -> Iterator[Screen]:
    """`wattgram top` in a terminal of its own, which it also reads its keys from."""
    master, slave = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    environment |= {"TERM": "xterm-256color", "LANG": "C.UTF-8", "HOME": "/nonexistent", **(env or {})}
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "wattgram", "top", url, "--interval", "500ms", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    screen = Screen(master, process)
    try:
        yield screen
    finally:
        process.kill()
        process.wait(10)
        os.close(slave)
        os.close(master)


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as server:
        yield server


def test_a_terminal_is_borrowed_and_given_back(agent: Agent) -> None:
    """Keys do what they are for, the size is followed, and at the end the terminal is as it was."""
    with terminal(agent.url) as screen:
        before = termios.tcgetattr(screen.master)
        first = screen.wait_for("by watts")
        screen.press("s")
        screen.wait_for("by energy")
        screen.press("?")
        screen.wait_for("hold the picture")
        screen.press("\x1b[1;2q\x1bOs\x1b[A?")
        screen.wait_for("GPU 0")
        screen.wait_for("by energy")
        screen.press("p")
        screen.wait_for("PAUSED")
        screen.press("p")
        screen.resize(150, 40)
        screen.wait_for("model")
        screen.press("q")
        code = screen.left()
        after = termios.tcgetattr(screen.master)

    assert GOOD == code
    assert "\x1b[?1049h" in first
    assert screen.written.rstrip().endswith("\x1b[?1049l")
    assert "\x1b" not in plain(screen.written)
    assert before == after


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(agent: Agent, number: int) -> None:
    with terminal(agent.url) as screen:
        screen.wait_for("GPU 0")
        screen.process.send_signal(number)
        code = screen.left()

    assert GOOD == code
    assert screen.written.rstrip().endswith("\x1b[?1049l")


def test_a_terminal_that_is_gone_ends_it(agent: Agent) -> None:
    """A window was closed: nobody is left to look, and nobody to tell."""
    with terminal(agent.url) as screen:
        screen.wait_for("GPU 0")
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, screen.master)  # which closes the terminal's other end
        os.close(nothing)

        assert GOOD == screen.process.wait(10)


def test_a_server_that_goes_is_said_to_be_gone_and_comes_back(agent: Agent) -> None:
    """Also from before the first answer; what is known stays."""
    agent.stop()
    with terminal(agent.url, columns=120) as screen:
        screen.wait_for("NO ANSWER")
        agent.start()
        screen.wait_for("GPU 0")
        agent.stop()
        screen.wait_for("NO ANSWER")
        agent.start()
        screen.wait_for("by watts")
        until_gone(screen, "NO ANSWER")
        screen.press("q")
        code = screen.left()

    assert GOOD == code


def until_gone(screen: Screen, words: str, deadline: float = 30.0) -> None:
    """Return once a whole picture is drawn without these words."""
    end = time.monotonic() + deadline
    while words in screen.wait_for("? help"):
        assert time.monotonic() < end


def test_a_hostile_server_steers_no_terminal(agent: Agent) -> None:
    """Names of escapes, 10 MB of workloads, then no JSON, then more than is ever read: it goes on."""
    evil = "\x1b]0;owned\x07\x1b[2J\x1b[1;1H\u202egnp\x9b31m\r\n\t"
    agent.data["host"] = agent.data["devices"][0]["name"] = agent.data["workloads"][-1]["name"] = evil
    agent.data["notes"] = [evil]
    job = agent.data["workloads"][-1]
    agent.data["workloads"] += [{**job, "workload": f"{n}", "name": evil + "y" * 600} for n in range(9_000)]
    assert len(json.dumps(agent.data)) > 8_000_000
    with terminal(agent.url) as screen:
        screen.wait_for("GPU 0")
        agent.body = b"\x1b[2J\x1b]0;owned\x07 not json"
        screen.wait_for("not JSON")
        agent.body = b"[" * 17_000_000
        screen.wait_for("larger than")
        agent.body, agent.data = None, status()
        screen.wait_for("by watts")
        until_gone(screen, "NO ANSWER")
        screen.press("q")
        assert GOOD == screen.left()

    assert {"\r", "\n"} >= {c for c in plain(screen.written) if not c.isprintable()}


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "vt100"}, {"PYTHONIOENCODING": "ascii", "LANG": "C"}])
def test_it_works_without_colour_and_without_unicode(agent: Agent, env: dict[str, str]) -> None:
    with terminal(agent.url, env=env) as screen:
        drawn = screen.wait_for("GPU 0")
        screen.press("q")
        assert GOOD == screen.left()

    colours = {int(n) for codes in re.findall(r"\x1b\[([\d;]*)m", drawn) for n in codes.split(";") if n}
    if "NO_COLOR" in env:
        assert not colours & set(range(30, 50))
    if "PYTHONIOENCODING" in env:
        assert drawn.isascii()
        assert "CO2e" in drawn


def ran(
    *arguments: str, stdin: int = subprocess.DEVNULL, code: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, *(("-c", code) if code else ("-m", "wattgram")), "top", *arguments],
        env={**environment, "HOME": "/nonexistent", "LANG": "C.UTF-8", **env},
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_once_prints_one_picture_into_a_pipe(agent: Agent) -> None:
    """Twice asked, since the power of a workload is a difference; no escape, no key, no screen."""
    done = ran(agent.url, "--once", "--interval", "500ms", COLUMNS="100")

    assert GOOD == done.returncode, done.stderr
    assert 2 == len(agent.requests)
    assert "GPU 0" in done.stdout
    assert "slurm pretrain" in done.stdout
    assert "\x1b" not in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_a_pipe_without_once_is_told_so(agent: Agent) -> None:
    done = ran(agent.url)

    assert (BAD_CONFIG, True) == (done.returncode, "--once" in done.stderr)


def test_nobody_there_is_said_and_is_no_success() -> None:
    with Agent() as gone:
        url = gone.url
    done = ran(url, "--once")

    assert MISSING == done.returncode
    assert "refused" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--interval", "1ms"), "--interval"),
        (("--interval", "soon"), "--interval"),
        (("--user", "ada"), "--password-file"),
        (("http://ada:secret@gpu-01",), "--user"),
    ],
)
def test_what_cannot_be_asked_for_is_a_matter_of_configuration(arguments: Sequence[str], words: str) -> None:
    done = ran(*arguments)

    assert (BAD_CONFIG, True) == (done.returncode, words in done.stderr)
    assert "secret" not in done.stderr


def test_without_its_library_it_tells_what_to_install() -> None:
    done = ran(code="import sys\nsys.modules['rich'] = None\nfrom wattgram.cli import main\nmain()")

    assert BAD_CONFIG == done.returncode
    assert 'pip install "wattgram[top]"' in done.stderr


def test_the_daemon_carries_no_library_of_the_terminal_and_none_to_fetch_with() -> None:
    """Each is megabytes in every server's memory."""
    code = "import sys, wattgram.cli; print([m for m in ('rich', 'requests', 'wattgram.top') if m in sys.modules])"
    done = ran(code=code)

    assert "[]\n" == done.stdout


def test_a_password_goes_to_who_asks_for_it_and_nowhere_else(agent: Agent, tmp_path: Path) -> None:
    """Not into the arguments, not onto the screen, and over an open network not without a warning."""
    (tmp_path / "password").write_text(TOKEN)
    agent.code = 401
    with terminal(agent.url, "--user", "ada", "--password-file", str(tmp_path / "password"), columns=120) as screen:
        screen.wait_for("this name and password are not taken")
        agent.code = 200
        screen.wait_for("GPU 0")
        arguments = Path(f"/proc/{screen.process.pid}/cmdline").read_bytes()
        screen.press("q")
        screen.left()

    word = base64.b64encode(f"ada:{TOKEN}".encode()).decode()
    assert f"Basic {word}" == agent.requests[-1].headers["authorization"]
    assert not any(secret in screen.written for secret in (TOKEN, word))
    assert TOKEN.encode() not in arguments


def test_a_password_is_asked_for_in_the_terminal_and_not_shown(agent: Agent) -> None:
    with terminal(agent.url, "--user", "ada") as screen:
        screen.wait_for("Password of ada:")
        screen.press(f"{TOKEN}\n")
        screen.wait_for("GPU 0")
        screen.press("q")
        assert GOOD == screen.left()

    word = base64.b64encode(f"ada:{TOKEN}".encode()).decode()
    assert f"Basic {word}" == agent.requests[-1].headers["authorization"]
    assert TOKEN not in screen.written


def test_it_says_when_a_password_travels_in_the_clear() -> None:
    frame = replace(Frame("here", read(status())), warning="the password travels in the clear: use https")

    assert "! the password travels in the clear: use https" in picture(frame)


def test_stopped_and_continued_it_gives_the_terminal_and_takes_it_again(agent: Agent) -> None:
    with terminal(agent.url) as screen:
        screen.wait_for("by watts")
        screen.process.send_signal(signal.SIGTSTP)
        until(lambda: state(screen.process.pid) == "T", screen)
        assert screen.written.rstrip().endswith("\x1b[?1049l")
        screen.since = len(screen.written)
        screen.process.send_signal(signal.SIGCONT)
        again = screen.wait_for("by watts")
        screen.press("q")
        assert GOOD == screen.left()

    assert "\x1b[?1049h" in again


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until(condition: Callable[[], bool], screen: Screen, deadline: float = 30.0) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end
        screen.read(0.02)
    while screen.read(0.0):
        pass
