"""What the service manager hears: over real sockets, by path and abstract; and when its watchdog is fed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from wattgram.systemd import Notifier, Watchdog, watchdog_seconds


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@wattgram-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(name if request.param == "path" else f"\0{name[1:]}")
        heard.settimeout(5.0)
        yield heard, {"NOTIFY_SOCKET": name}


def test_states_arrive(manager: tuple[socket.socket, dict[str, str]]) -> None:
    """A status is one line, whatever it is made of."""
    heard, environ = manager
    notifier = Notifier(environ)
    notifier.ready("metering\n2 gpu")
    notifier.reloading()
    notifier.stopping()

    assert b"READY=1\nSTATUS=metering 2 gpu" == heard.recv(1000)
    assert heard.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert b"STOPPING=1" == heard.recv(1000)


def test_without_a_manager_nothing_happens() -> None:
    Notifier({}).ready("fine")


def test_a_manager_that_is_gone_is_said_once(tmp_path: Path, lines: list[str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notifier.ready("fine")
    notifier.stopping()

    assert 1 == len(lines)
    assert "is not told: No such file or directory" in lines[0]


def test_a_manager_that_does_not_read_holds_nobody(manager: tuple[socket.socket, dict[str, str]]) -> None:
    """Its queue is full after a few hundred; the rest is dropped."""
    _, environ = manager
    notifier = Notifier(environ)
    for _ in range(2000):
        notifier.send("WATCHDOG=1")


class Ear(Notifier):
    def __init__(self) -> None:
        super().__init__({})
        self.sent: list[str] = []

    def send(self, *states: str) -> None:
        self.sent += states


def test_the_watchdog_is_fed_while_all_loops_turn() -> None:
    """Several times in its period, not at every turn; one that hangs stops it, and when it goes on it is fed again."""
    now = [0.0]
    ear = Ear()
    watchdog = Watchdog(ear, 60.0, now=lambda: now[0])
    watchdog.watch(("nvml", "rapl"))
    counts = []
    for minute in ("both", "one", "both"):
        before = len(ear.sent)
        for _ in range(60):
            now[0] += 1.0
            watchdog.hear("nvml")
            if minute == "both":
                watchdog.hear("rapl")
        counts.append(len(ear.sent) - before)

    assert {"WATCHDOG=1"} == set(ear.sent)
    assert 4 <= counts[0] <= 13
    assert counts[1] <= 1
    assert 4 <= counts[2] <= 13


def test_a_loop_that_is_no_more_is_not_waited_for() -> None:
    now = [0.0]
    ear = Ear()
    watchdog = Watchdog(ear, 4.0, now=lambda: now[0])
    watchdog.watch(("nvml", "rapl"))
    watchdog.watch(("rapl",))
    now[0] = 10.0
    watchdog.hear("rapl")

    assert ["WATCHDOG=1"] == ear.sent


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_managers_patience(environ: dict[str, str], seconds: float | None) -> None:
    assert seconds == watchdog_seconds(environ)
