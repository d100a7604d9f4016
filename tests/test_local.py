"""The local API: whoever may connect may measure; whatever a peer sends, it keeps nobody but itself waiting."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import random
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standin.watching import wait
from wattgram import local
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


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000).filter(lambda raw: b"\n" not in raw))
def test_any_line_has_an_answer(line: bytes) -> None:
    assert OFFICE.answer(1000, 2_147_483_000, line)["ok"] in (True, False)


OFFICE = office()


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
