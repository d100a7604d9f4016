"""The local API: whoever may connect may measure; whatever a peer sends, it keeps nobody but itself waiting."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import random
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standin.watching import wait
from wattgram import local, turns
from wattgram.clock import SystemClock
from wattgram.kin import Proc
from wattgram.ledger import Ledger
from wattgram.local import LONGEST_LINE, MOST_CONNECTIONS, LocalServer, Office
from wattgram.receipts import Receipts
from wattgram.windows import Windows

KEY = "0123456789abcdef"


def office(reads: list[float] | None = None) -> Office:
    """An office over real processes and no meter."""
    clock = SystemClock()
    windows = Windows(clock, Proc(), 1, Receipts(clock, Ledger(clock).snapshot, "daemon"))
    return Office(windows, (reads if reads is not None else []).append, lambda: None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    found = LocalServer(tmp_path / "run" / "api.sock", office())
    assert not found.start()
    yield found
    found.stop()


def connect(server: LocalServer) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(20.0)
    line.connect(os.fspath(server.path))
    return line


def answers(line: socket.socket) -> Iterator[dict[str, Any]]:
    with line.makefile("rb") as file:
        yield from (json.loads(answer) for answer in file)


def say(server: LocalServer, *requests: object) -> list[dict[str, Any]]:
    """Send requests in one go and return the answers to each."""
    with connect(server) as line:
        raw = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in requests]
        line.sendall(b"".join(r + b"\n" for r in raw))
        found = answers(line)
        return [next(found) for _ in requests]


# --- what is said -----------------------------------------------------------------------------------


def test_a_window_from_begin_to_end(server: LocalServer) -> None:
    hello, begun, again, progress, read, end, twice = say(
        server,
        {"do": "hello"},
        {"do": "begin", "key": KEY, "name": "epoch 3"},
        {"do": "begin", "key": KEY},
        {"do": "progress", "key": KEY, "units": 1000, "unit": "tokens"},
        {"do": "read", "key": KEY},
        {"do": "end", "key": KEY},
        {"do": "end", "key": KEY},
    )

    assert hello["ok"]
    assert begun == again
    assert {"ok": True} == progress
    assert ("open", "ended") == (read["receipt"]["state"], end["receipt"]["state"])
    assert ("epoch 3", None) == (end["receipt"]["name"], end["receipt"]["joules"])
    assert 1000.0 == end["receipt"]["per_unit"][0]["units"]
    assert end == twice


def test_both_edges_are_read_at_once() -> None:
    """A command of half a second must not wait for the next tick."""
    reads: list[float] = []
    found = office(reads)

    for do in ("begin", "end"):
        found.answer(os.getuid(), os.getpid(), json.dumps({"do": do, "key": KEY}).encode())

    assert [local.READ_SECONDS] * 2 == reads


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (b"", "bad"),
        (b"{", "bad"),
        (b"[]", "bad"),
        (b"null", "bad"),
        (b"\xff\xfe", "bad"),
        (b'{"do":"hello\xff"}', "bad"),
        (b'{"do":"begin","key":"01234567\xff"}', "bad"),
        (b'{"do":"begin","key":"0123456789","name":"\xff"}', "bad"),
        (b'{"do":"progress","key":"0123456789","units":1,"unit":"\xff"}', "bad"),
        (b"[" * 60_000, "bad"),
        (b'{"do":"hello","deep":' + b"[" * 60_000, "bad"),
        (b'{"do":"begin"}', "bad"),
        (b'{"do":"begin","key":"short"}', "bad"),
        (b'{"do":"begin","key":"%s"}' % (b"k" * 129), "bad"),
        (b'{"do":"begin","key":12345678}', "bad"),
        (b'{"do":"begin","key":"0123456789","pid":-1}', "bad"),
        (b'{"do":"begin","key":"0123456789","pid":1e300}', "bad"),
        (b'{"do":"begin","key":"0123456789","name":"%s"}' % (b"n" * 257), "bad"),
        (b'{"do":"steal","key":"0123456789"}', "bad"),
        (b'{"do":"progress","key":"0123456789","units":-1}', "bad"),
        (b'{"do":"progress","key":"0123456789","units":NaN}', "bad"),
        (b'{"do":"progress","key":"0123456789","units":1e999}', "bad"),
        (b'{"do":"progress","key":"0123456789","units":1,"unit":""}', "bad"),
        (b'{"do":"end","key":"0123456789","cpu_seconds":"much"}', "bad"),
        (b'{"do":"end","key":"0123456789"}', "unknown"),
        (b'{"do":"read","key":"0123456789"}', "unknown"),
        (b'{"do":"progress","key":"0123456789","units":1}', "unknown"),
        (b'{"do":"begin","key":"0123456789","pid":2147483000}', "process"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_word(server: LocalServer, request_: bytes, word: str) -> None:
    """And the next line is answered all the same."""
    refused, hello = say(server, request_, {"do": "hello"})

    assert (False, word) == (refused["ok"], refused["error"])
    assert refused["message"]
    assert hello["ok"]


def test_a_bug_that_a_peer_finds_costs_him_his_connection_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the daemon lives on."""

    def broken(_: float) -> None:
        raise ZeroDivisionError

    clock = SystemClock()
    windows = Windows(clock, Proc(), 1, Receipts(clock, Ledger(clock).snapshot, "daemon"))
    server = LocalServer(tmp_path / "api.sock", Office(windows, broken, lambda: None))
    assert not server.start()
    for _ in range(2):
        with connect(server) as line:
            line.sendall(b'{"do":"begin","key":"%s"}\n' % KEY.encode())
            assert b"" == line.recv(1)
    wait(lambda: server.peers == 0)
    hello = say(server, {"do": "hello"})[0]
    server.stop()

    assert hello["ok"]
    assert ["ZeroDivisionError"] == [r.exc_info[0].__name__ for r in caplog.records if r.exc_info and r.exc_info[0]]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000).filter(lambda raw: b"\n" not in raw))
def test_any_line_has_an_answer(line: bytes) -> None:
    assert OFFICE.answer(1000, 2_147_483_000, line)["ok"] in (True, False)


OFFICE = office()


def test_without_a_number_the_window_is_on_who_asks(server: LocalServer) -> None:
    """As the kernel numbers him, wherever he lives."""
    begun, read = say(server, {"do": "begin", "key": KEY}, {"do": "read", "key": KEY})

    assert begun["ok"]
    assert "open" == read["receipt"]["state"]


def test_a_window_that_is_open_is_not_read_for_again() -> None:
    """Else whoever says it again and again has the sources read as often as he likes."""
    reads: list[float] = []
    found = office(reads)
    for _ in range(9):
        assert found.answer(os.getuid(), os.getpid(), json.dumps({"do": "begin", "key": KEY}).encode())["ok"]

    assert [local.READ_SECONDS] == reads


def test_a_user_has_the_sources_read_five_times_a_second_in_the_long_run() -> None:
    """What comes sooner waits, and only its own user does."""
    reads: list[float] = []
    now = 100.0

    def nap(seconds: float) -> None:
        nonlocal now
        now += seconds

    ration = turns.Ration(now=lambda: now, nap=nap)
    for _ in range(turns.READS_AT_ONCE):
        ration.read(1000, lambda: reads.append(now))
    ration.read(1000, lambda: reads.append(now), waits=False)
    assert [100.0] * turns.READS_AT_ONCE == reads
    for _ in range(10):
        ration.read(1000, lambda: reads.append(now))
    assert pytest.approx(100.0 + 10 / turns.READS_A_SECOND) == reads[-1]

    for uid in [1001] + [0] * 100:
        ration.read(uid, lambda: reads.append(now), waits=uid == 0)
    assert {reads[-1]} == set(reads[-101:])


def test_one_reading_serves_all_of_a_user_who_wait_for_it() -> None:
    """Sixty ranks of a job begin at once: none may wait so long that it gives up."""
    begun, go = threading.Event(), threading.Event()
    reads: list[int] = []
    asked: list[int] = []

    def read() -> None:
        reads.append(1)
        begun.set()
        go.wait(20.0)

    def now() -> float:
        asked.append(1)
        return time.monotonic()

    ration = turns.Ration(now)
    threads = [threading.Thread(target=ration.read, args=(1000, read)) for _ in range(9)]
    threads[0].start()
    assert begun.wait(20.0)
    for thread in threads[1:]:
        thread.start()
    wait(lambda: len(asked) >= 3 + 8)
    threads.append(threading.Thread(target=ration.read, args=(1000, read), kwargs={"waits": False}))
    threads[-1].start()
    threads[-1].join(20.0)
    go.set()
    for thread in threads:
        thread.join(20.0)

    assert 2 == len(reads)


def test_a_user_who_asks_without_end_lets_others_come_between() -> None:
    """He rests as long as his answers take, and others do not wait for that."""
    now, naps = 100.0, []

    def nap(seconds: float) -> None:
        nonlocal now
        naps.append(round(seconds, 6))
        now += seconds

    fair = turns.Turns(now=lambda: now, nap=nap)
    for uid, took in ((1000, 0.3), (1000, 0.001), (1000, 7.0), (1000, 0.0), (1001, 0.1), (0, 5.0), (0, 5.0)):
        with fair.of(uid):
            now += took

    assert [0.3, turns.LEAST_REST, turns.MOST_REST] == naps


# --- who may, and how many --------------------------------------------------------------------------


def test_the_socket_is_for_its_owner_and_group_until_told_otherwise(tmp_path: Path) -> None:
    """It has its permissions from the moment it has its name."""
    group = grp.getgrgid(os.getgid()).gr_name
    for mode, given_group in ((0o660, ""), (0o666, group)):
        server = LocalServer(tmp_path / f"{mode:o}.sock", office(), mode, given_group)
        assert not server.start()
        found = server.path.stat()
        server.stop()

        assert (stat.S_IFSOCK | mode, os.getgid()) == (found.st_mode, found.st_gid)
        assert not server.path.exists()
        assert [] == list(tmp_path.iterdir())


ONLOOKER = """
import os, socket, sys
from pathlib import Path
from wattgram.local import LocalServer
open_to_others = []
def watch(event, values):
    if event in ("os.chmod", "socket.bind"):
        path = os.fspath(values[0] if event == "os.chmod" else values[1])
        if os.stat(os.path.dirname(path)).st_mode & 0o077:
            open_to_others.append(path)
sys.addaudithook(watch)
server = LocalServer(Path(sys.argv[1]), None, 0o666)
assert not server.start()
server.stop()
print(open_to_others)
"""


def test_nobody_can_put_a_link_in_the_sockets_place_before_it_has_its_permissions(tmp_path: Path) -> None:
    """Where others may write to the folder: a change of mode would follow the link."""
    words = [sys.executable, "-c", ONLOOKER, str(tmp_path / "api.sock")]
    tmp_path.chmod(0o777)
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    assert ("", "[]\n") == (done.stderr, done.stdout)
    assert [] == list(tmp_path.iterdir())


def test_a_socket_that_a_crash_left_is_replaced_and_a_living_one_is_not(server: LocalServer) -> None:
    second = LocalServer(server.path, office())
    assert "another daemon's" in second.start()
    second.stop()
    assert say(server, {"do": "hello"})[0]["ok"]

    left = socket.socket(socket.AF_UNIX)
    left.bind(os.fspath(server.path.with_name("left.sock")))
    left.close()
    third = LocalServer(server.path.with_name("left.sock"), office())
    assert not third.start()
    assert say(third, {"do": "hello"})[0]["ok"]
    third.stop()


@pytest.mark.parametrize("kind", ["file", "folder", "long", "group"])
def test_what_cannot_be_opened_is_said_and_nothing_is_harmed(tmp_path: Path, kind: str) -> None:
    path, group = tmp_path / "api.sock", ""
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "long":
        path = tmp_path / ("x" * 150)
    else:
        group = "no-such-group"
    before = sorted(tmp_path.iterdir())

    server = LocalServer(path, office(), group=group)
    trouble = server.start()
    server.stop()

    assert str(path) in trouble
    assert before == sorted(tmp_path.iterdir())


def test_a_line_without_end_is_cut(server: LocalServer) -> None:
    with connect(server) as line:
        with contextlib.suppress(OSError):
            line.sendall(b"x" * (LONGEST_LINE + (1 << 15)))
        with contextlib.suppress(ConnectionResetError):
            found = list(answers(line))
            assert [("bad", f"longer than {LONGEST_LINE} bytes")] == [(a["error"], a["message"]) for a in found]


def test_peers_that_say_nothing_keep_nobody_waiting(server: LocalServer) -> None:
    """As many as there may be hold on; the next is told so, and all is well when they leave."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(server)) for _ in range(MOST_CONNECTIONS)]
        for line in held:
            line.sendall(b'{"do":')
        wait(lambda: server.peers >= min(MOST_CONNECTIONS, local.MOST_OF_ONE_USER))
        refused = []
        with connect(server) as line:
            refused += list(answers(line))
    wait(lambda: server.peers == 0)

    assert ["busy"] == [answer["error"] for answer in refused]
    assert say(server, {"do": "hello"})[0]["ok"]


def test_a_user_other_than_root_has_a_quarter_of_the_places(server: LocalServer) -> None:
    admitted = [server.admit(1000) for _ in range(local.MOST_OF_ONE_USER + 1)]
    others = [server.admit(1001) for _ in range(local.MOST_OF_ONE_USER)]

    assert [True] * local.MOST_OF_ONE_USER + [False] == admitted
    assert all(others)


def test_some_places_are_roots(server: LocalServer) -> None:
    admitted = [server.admit(1000 + number) for number in range(MOST_CONNECTIONS)]

    assert MOST_CONNECTIONS - local.KEPT_FOR_ROOT == sum(admitted)
    assert server.admit(0)


def test_where_no_thread_is_left_the_peer_is_sent_away_and_its_place_is_free(server: LocalServer) -> None:
    before = threading.stack_size(1 << 46)  # more than there is: no thread can start
    try:
        with connect(server) as line:
            refused = line.recv(1)
    finally:
        threading.stack_size(before)

    assert (b"", 0) == (refused, server.peers)
    assert say(server, {"do": "hello"})[0]["ok"]


def test_a_line_must_come_whole_in_time() -> None:
    """Byte by byte, as a hostile peer drips: the deadline is the line's, not the byte's."""
    ours, theirs = socket.socketpair()
    began = time.monotonic()
    server = threading.Thread(target=local.serve, args=(theirs, office(), 1000, 1, 0.2, 0.3))
    server.start()
    with ours, theirs, contextlib.suppress(OSError):
        while server.is_alive() and time.monotonic() - began < 20.0:
            ours.send(b" ")
            server.join(0.05)

    assert not server.is_alive()
    assert time.monotonic() - began < 10.0


def test_a_peer_that_does_not_listen_is_left() -> None:
    """Its answers fill the socket, and then nobody waits for it."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = threading.Thread(target=local.serve, args=(theirs, office(), 1000, 1, 0.2, 0.3))
    server.start()
    ours.settimeout(0.1)
    with ours, theirs:
        with contextlib.suppress(OSError):
            for _ in range(10_000):
                ours.sendall(b'{"do":"hello"}\n')
        server.join(20.0)

    assert not server.is_alive()


def test_garbage_from_many_peers_at_once_leaves_the_server_as_it_was(server: LocalServer) -> None:
    chance = random.Random(7)

    def attack() -> None:
        for _ in range(10):
            with contextlib.suppress(OSError), connect(server) as line:
                line.sendall(chance.randbytes(chance.randrange(3000)))
                if chance.random() < 0.5:
                    line.shutdown(socket.SHUT_WR)
                    line.recv(1 << 16)

    threads = [threading.Thread(target=attack) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait(lambda: server.peers == 0)

    assert say(server, {"do": "hello"})[0]["ok"]
