"""Streams of lines through the one HTTP client: bounded in time, silence and length, whoever sends them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from standin.certificates import Authority
from standin.kubernetes import TOKEN, KubernetesApi
from standin.web import Handler, Recorder, Request, Server
from wattgram.ports import ReadFailed
from wattgram.tools.fetch import Fetcher

SECRET = "token-that-must-never-leak"
Script = Callable[[Handler], None]


class Scripted(Server):
    """Sends a chunked answer as a script says."""

    def __init__(self, script: Script, status: int = 200) -> None:
        super().__init__()
        self.script, self.status = script, status

    def _answer(self, handler: Handler, request: Request) -> None:
        handler.send_response(self.status)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.close_connection = True
        self.script(handler)


def chunk(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text)


def sends(*chunks: bytes, ends: bool = True) -> Script:
    def script(handler: Handler) -> None:
        for text in chunks:
            handler.wfile.write(chunk(text))
        if ends:
            handler.wfile.write(b"0\r\n\r\n")
        else:
            handler.hang()

    return script


def drips(handler: Handler) -> None:
    """A byte of a chunk's head at a time, so that no silence is long and nothing ever comes."""
    handler.drip(b"0" * 10_000, 0.02)


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    fetcher = Fetcher(5.0)
    yield fetcher
    fetcher.close()


def lines(fetcher: Fetcher, url: str, *, lasts: float = 10.0, idle: float = 5.0, longest: int = 1000) -> list[bytes]:
    headers = {"Authorization": f"Bearer {SECRET}"}
    with fetcher.stream(f"{url}/x", {"key": SECRET}, headers, lasts=lasts, idle=idle, longest=longest) as stream:
        return list(stream.lines())


def failed(fetcher: Fetcher, script: Script, *, lasts: float = 10.0, idle: float = 5.0) -> tuple[str, float]:
    with Scripted(script) as server:
        began = time.monotonic()
        with pytest.raises(ReadFailed) as caught:
            lines(fetcher, server.url, lasts=lasts, idle=idle)
    assert SECRET not in str(caught.value)
    return caught.value.reason, time.monotonic() - began


def test_lines_are_whole_however_they_are_cut(fetcher: Fetcher) -> None:
    """What follows the last end of a line is none."""
    with Scripted(sends(b"a", b"b\nc", b"\n\nd\n", b"half")) as server:
        assert [b"ab", b"c", b"", b"d"] == lines(fetcher, server.url)
    assert 1 == fetcher.requests


def test_a_line_is_there_as_soon_as_it_came(fetcher: Fetcher) -> None:
    with (
        Scripted(sends(b"first\n", ends=False)) as server,
        fetcher.stream(f"{server.url}/x", {}, {}, lasts=60.0, idle=60.0) as stream,
    ):
        assert b"first" == next(stream.lines())


def test_a_silence_has_an_end(fetcher: Fetcher) -> None:
    reason, seconds = failed(fetcher, sends(b"a\n", ends=False), idle=0.1)

    assert "timeout" == reason
    assert 0.1 <= seconds < 3.0


@pytest.mark.parametrize("script", [drips, sends(b"a\n", ends=False)])
def test_a_stream_has_an_end(fetcher: Fetcher, script: Script) -> None:
    reason, seconds = failed(fetcher, script, lasts=0.2)

    assert "timeout" == reason
    assert 0.2 <= seconds < 3.0


def test_a_line_without_end_is_not_kept(fetcher: Fetcher) -> None:
    assert "shape" == failed(fetcher, sends(b"a\n", *[b"x" * 300] * 100))[0]


@pytest.mark.parametrize("script", [lambda h: h.wfile.write(b"zz\r\n"), lambda h: h.wfile.write(chunk(b"a\nb\n"))])
def test_a_stream_that_breaks_off_fails_as_a_reading_does(fetcher: Fetcher, script: Script) -> None:
    assert "server" == failed(fetcher, script)[0]


def test_a_refusal_is_a_reply_without_our_token(fetcher: Fetcher) -> None:
    """Also without what it was sent as."""
    with (
        Scripted(sends(f'{{"sent": "{SECRET}"}}'.encode()), 403) as server,
        fetcher.stream(f"{server.url}/x", {}, {"Authorization": f"Bearer {SECRET}"}, lasts=9.0, idle=9.0) as stream,
    ):
        assert (403, b'{"sent": "***"}') == (stream.reply.status, stream.reply.body)


def test_a_redirect_is_not_followed(fetcher: Fetcher) -> None:
    with Recorder() as other, KubernetesApi() as api:
        api.next_answers.append((302, {"Location": other.url}))
        with pytest.raises(ReadFailed):
            lines(fetcher, api.url)

        assert [] == other.requests


def test_the_head_of_a_stream_is_as_bounded_as_a_reply() -> None:
    fetcher = Fetcher(0.2)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        stack.callback(fetcher.close)
        began = time.monotonic()
        with pytest.raises(ReadFailed) as caught:
            lines(fetcher, f"http://127.0.0.1:{listener.getsockname()[1]}")

    assert "timeout" == caught.value.reason
    assert time.monotonic() - began < 3.0


def test_a_stream_outlives_the_deadline_of_its_head() -> None:
    """And the next request has its own."""
    fetcher = Fetcher(0.2)

    def script(handler: Handler) -> None:
        handler.left_within(0.4)
        sends(b"late\n")(handler)

    with Scripted(script) as server:
        assert [b"late"] == lines(fetcher, server.url, lasts=5.0, idle=5.0)
        assert [b"late"] == lines(fetcher, server.url, lasts=5.0, idle=5.0)
    fetcher.close()


def test_a_stream_can_be_ended_from_elsewhere_for_good(fetcher: Fetcher) -> None:
    with Scripted(sends(b"a\n", ends=False)) as server:
        outcome: list[str] = []

        def read() -> None:
            try:
                lines(fetcher, server.url, lasts=60.0, idle=60.0)
            except ReadFailed as failure:
                outcome.append(failure.reason)

        reader = threading.Thread(target=read)
        reader.start()
        server.wait_for_requests(1)
        fetcher.end()
        reader.join(10.0)
        with suppress(ReadFailed):
            lines(fetcher, server.url, lasts=60.0, idle=60.0)
            outcome.append("went on")

    assert ["server"] == outcome


def test_no_thread_is_left_of_a_stream(fetcher: Fetcher) -> None:
    before = threading.active_count()
    with Scripted(sends(b"a\n")) as server:
        for _ in range(3):
            lines(fetcher, server.url)
    end = time.monotonic() + 10.0
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.005)

    assert threading.active_count() <= before


def test_a_server_is_known_by_the_authority_that_is_named(tmp_path: Path) -> None:
    authority = Authority()
    authority.write(tmp_path / "ca.crt")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with KubernetesApi(authority, tmp_path) as api:
        trusting, wary = Fetcher(5.0, ca_file=str(tmp_path / "ca.crt")), Fetcher(5.0)
        status = trusting.get(f"{api.url}/api/v1/pods", {}, headers).status
        with pytest.raises(ReadFailed):
            wary.get(f"{api.url}/api/v1/pods", {}, headers)
        trusting.close()
        wary.close()

        assert (200, 1) == (status, len(api.requests))
