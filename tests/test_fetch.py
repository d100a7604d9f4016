"""The one HTTP client against servers that misbehave in the ways real ones do."""

from __future__ import annotations

import gzip
import math
import os
import resource
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from standin.grid import GridApi, Recorder
from standin.web import Handler, Request, Server
from wattgram.ports import ReadFailed
from wattgram.tools.fetch import Fetcher, Reply, parse_retry_after, without

SECRET = "token-that-must-never-leak"
NOW = 1_787_418_337.0
PATIENCE = 0.4


@pytest.fixture
def api() -> Iterator[GridApi]:
    with GridApi(clock=lambda: NOW) as running:
        yield running


def get(url: str, timeout: float = 10.0, *, max_bytes: int = 1 << 20) -> Reply:
    """One request with a secret in its header and in its query."""
    fetcher = Fetcher(timeout, max_bytes)
    try:
        return fetcher.get(url, {"zone": "FR", "key": SECRET}, {"auth-token": SECRET})
    finally:
        fetcher.close()


def ask(api: GridApi, timeout: float = 10.0) -> Reply:
    fetcher = Fetcher(timeout)
    try:
        return fetcher.get(f"{api.url}/v4/carbon-intensity/latest", {"zone": "FR"}, {"auth-token": api.token})
    finally:
        fetcher.close()


def failed(url: str, timeout: float = 10.0, *, max_bytes: int = 1 << 20) -> ReadFailed:
    with pytest.raises(ReadFailed) as caught:
        get(url, timeout, max_bytes=max_bytes)
    return caught.value


def outcome(url: str) -> bytes | str:
    """What was sent, or the reason why it does not count."""
    try:
        return get(url).body
    except ReadFailed as failure:
        return failure.reason


def refused_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def reset_each(listener: socket.socket, count: int) -> None:
    """Take so many connections and reset each at once: closed without lingering, it ends by RST."""
    for _ in range(count):
        taken, _ = listener.accept()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        taken.close()


# --- good answers ---------------------------------------------------------------------------------


def test_a_good_answer_is_whole(api: GridApi) -> None:
    reply = ask(api)

    assert (200, "FR") == (reply.status, reply.json()["zone"])


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_a_bad_status_is_an_answer(api: GridApi, status: int) -> None:
    """What it means is the provider's business."""
    api.mode = f"status:{status}"

    assert status == ask(api).status


def test_the_request_says_who_asks_and_takes_no_cookie() -> None:
    with Recorder() as server:
        get(f"{server.url}/x")
        (request,) = server.requests

    assert request.headers["user-agent"].startswith("wattgram/")
    assert SECRET == request.headers["auth-token"]
    assert "cookie" not in request.headers


def test_requests_are_counted_the_failed_ones_too() -> None:
    fetcher = Fetcher(1.0)
    with pytest.raises(ReadFailed):
        fetcher.get(f"http://127.0.0.1:{refused_port()}/", {}, {})
    fetcher.close()

    assert 1 == fetcher.requests


def test_a_server_that_went_and_came_back_is_asked_again(api: GridApi) -> None:
    """The same client: nothing of the failure stays."""
    fetcher = Fetcher(10.0)
    url, headers = f"{api.url}/v4/carbon-intensity/latest", {"auth-token": api.token}
    fetcher.get(url, {"zone": "FR"}, headers)
    api.stop()
    with pytest.raises(ReadFailed):
        fetcher.get(url, {"zone": "FR"}, headers)
    api.start()
    reply = fetcher.get(url, {"zone": "FR"}, headers)
    fetcher.close()

    assert 200 == reply.status


# --- redirects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/elsewhere", ""])
def test_a_redirect_is_never_followed(api: GridApi, path: str) -> None:
    """Not even on the same host; the one to another carried the token there."""
    with Recorder() as other:
        api.mode = f"redirect:{other.url}{path}"
        failure = failed(f"{api.url}/v4/carbon-intensity/latest")

        assert ("shape", []) == (failure.reason, other.requests)
    assert SECRET not in str(failure)


def test_a_redirect_to_itself_is_asked_once(api: GridApi) -> None:
    api.mode = f"redirect:{api.url}/v4/carbon-intensity/latest"

    failed(f"{api.url}/v4/carbon-intensity/latest")

    assert 1 == len(api.requests)


# --- time and size --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hang", "hang_after_headers", "drip", "drip_headers"])
def test_the_deadline_is_for_the_whole_answer(api: GridApi, mode: str) -> None:
    """A byte now and then holds a client for ever that only bounds each read."""
    api.mode, api.drip_every = mode, PATIENCE / 20
    started = time.monotonic()

    failure = failed(f"{api.url}/v4/carbon-intensity/latest", PATIENCE)

    assert "timeout" == failure.reason
    assert PATIENCE <= time.monotonic() - started < PATIENCE + 2.0


def test_what_the_deadline_cut_short_is_a_timeout_every_time(api: GridApi) -> None:
    """Timer and clock must not disagree about it by a hair: a cut answer would look complete, or like a bad server."""
    api.mode = "hang_after_headers"
    fetcher = Fetcher(0.02)
    reasons = set()
    for _ in range(200):
        with pytest.raises(ReadFailed) as caught:
            fetcher.get(f"{api.url}/v4/carbon-intensity/latest", {"zone": "FR"}, {})
        reasons.add(caught.value.reason)
    fetcher.close()

    assert {"timeout"} == reasons


def test_a_slow_answer_within_the_deadline_counts(api: GridApi) -> None:
    api.mode, api.drip_every = "drip", 0.0005

    assert "FR" == get(f"{api.url}/v4/carbon-intensity/latest", 20.0).json()["zone"]


def test_the_deadline_of_one_request_is_not_the_next_ones(api: GridApi) -> None:
    """What was cut once must not be cut for ever."""
    fetcher = Fetcher(PATIENCE)
    url, headers = f"{api.url}/v4/carbon-intensity/latest", {"auth-token": api.token}
    api.mode = "hang"
    with pytest.raises(ReadFailed):
        fetcher.get(url, {"zone": "FR"}, headers)
    api.mode = "ok"
    reply = fetcher.get(url, {"zone": "FR"}, headers)
    fetcher.close()

    assert 200 == reply.status


def test_no_thread_is_left_of_a_request(api: GridApi) -> None:
    """Twelve requests an hour for months."""
    before = threading.active_count()
    fetchers = [ask(api) for _ in range(5)]

    end = time.monotonic() + 10.0
    while threading.active_count() > before + 1 and time.monotonic() < end:
        threading.Event().wait(0.01)

    assert 5 == len(fetchers)
    assert threading.active_count() <= before + 1


def test_a_server_that_takes_no_connection_is_a_timeout() -> None:
    """Its queue is full: the packet goes unanswered."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        crowd = [socket.socket() for _ in range(3)]
        for client in crowd:
            client.setblocking(False)  # noqa: FBT003
            client.connect_ex(("127.0.0.1", port))
        failure = failed(f"http://127.0.0.1:{port}/", PATIENCE)
        for client in crowd:
            client.close()

    assert "timeout" == failure.reason


def test_a_connection_that_is_reset_before_its_handshake_is_closed() -> None:
    """CPython leaves that socket open; it must not stay so for as long as somebody remembers the failure."""
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        resetting = threading.Thread(target=reset_each, args=(listener, 5))
        resetting.start()
        failures = [failed(f"https://127.0.0.1:{listener.getsockname()[1]}/") for _ in range(5)]
        resetting.join()

    assert {"server"} == {failure.reason for failure in failures}
    assert descriptors() < before + 5


def test_an_answer_that_is_too_large_is_refused(api: GridApi) -> None:
    """Two MiB of padding around a good answer."""
    api.mode = "oversize"

    failure = failed(f"{api.url}/v4/carbon-intensity/latest")

    assert "shape" == failure.reason
    assert "larger than 1048576 bytes" in str(failure)


def test_a_small_answer_that_unpacks_to_a_large_one_is_refused() -> None:
    """The cap is on what is kept, not on what is sent."""
    with Zipped(gzip.compress(b" " * (8 << 20))) as url:
        failure = failed(url)

    assert "shape" == failure.reason


def test_an_answer_that_ends_early_is_none(api: GridApi) -> None:
    """It parses, and still more was promised."""
    api.mode = "truncated"

    failure = failed(f"{api.url}/v4/carbon-intensity/latest")

    assert "server" == failure.reason


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 999999 ?\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n{}",
    ],
)
def test_what_is_not_http_fails_as_a_reading_does(answer: bytes) -> None:
    """Nothing of a stranger's server ends the program; a length that is none may still be read to its end."""
    with Raw(answer) as url:
        answered = outcome(url)

    assert answered in ("server", "shape", b"{}")


@pytest.mark.parametrize("url", ["http://", "http://[::1", "ftp://127.0.0.1/", "http://127.0.0.1:99999/", "nonsense"])
def test_an_address_that_is_none_fails_as_a_reading_does(url: str) -> None:
    assert "server" == failed(url).reason


# --- nothing leaks --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hang", "truncated", "oversize", "redirect:http://127.0.0.1:1/"])
def test_no_failure_tells_the_query_or_the_token(api: GridApi, mode: str) -> None:
    api.mode = mode

    failure = failed(f"{api.url}/v4/carbon-intensity/latest", PATIENCE)

    assert api.url in str(failure)
    assert SECRET not in f"{failure!s} {failure!r}"


def test_a_refused_connection_tells_why_and_no_more() -> None:
    failure = failed(f"http://127.0.0.1:{refused_port()}/x")

    assert "server" == failure.reason
    assert "refused" in str(failure)
    assert SECRET not in str(failure)


@pytest.mark.parametrize("token", ["two\nlines", "tail\r\nX-Injected: yes", "ümläut € token", " leading"])
def test_a_token_that_no_header_can_carry_is_neither_sent_nor_told(token: str) -> None:
    """And adds no header of its own."""
    with Recorder() as server:
        fetcher = Fetcher(5.0)
        with pytest.raises(ReadFailed) as caught:
            fetcher.get(f"{server.url}/x", {}, {"auth-token": token})
        fetcher.close()

        assert [] == server.requests
    assert not any(part in str(caught.value) for part in (token, token.strip(), "token", "X-Injected"))


# What the environment and the home of a user may hold must not change where our token goes.
SURROUNDED = textwrap.dedent(
    """
    import sys
    from wattgram.tools.fetch import Fetcher

    fetcher = Fetcher(10.0)
    print(fetcher.get(sys.argv[1], {}, {"auth-token": "ours", "Authorization": "Bearer ours"}).status)
    fetcher.close()
    """
)


def surrounded(url: str, home: Path, **environment: str) -> str:
    """The status that a process got which lives in such surroundings."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", SURROUNDED, url],
        env={**kept, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_a_netrc_does_not_replace_our_header(tmp_path: Path) -> None:
    """It once did, for the host that it names."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\ndefault login a password b\n")
    netrc.chmod(0o600)
    with Recorder() as server:
        status = surrounded(f"{server.url}/x", tmp_path, NETRC=str(netrc))
        (request,) = server.requests

    assert ("200", "Bearer ours") == (status, request.headers["authorization"])


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy_variable_does_not_lead_the_token_elsewhere(tmp_path: Path, name: str) -> None:
    with Recorder() as server, Recorder() as proxy:
        status = surrounded(f"{server.url}/x", tmp_path, **{name: proxy.url})

        assert ("200", 1, []) == (status, len(server.requests), proxy.requests)


# --- Retry-After ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Sat, 22 Aug 2026 17:07:37 GMT", 120.0),
        ("Sat, 22 Aug 2026 17:00:00 GMT", 0.0),
        ("Sat, 22 Aug 2026 19:07:37 +0200", 120.0),
        ("999999", 86_400.0),
        ("9" * 400, 86_400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("Sat, 99 Aug 2026 17:07:37 GMT", None),
        ("\x00", None),
    ],
)
def test_both_forms_of_retry_after_are_understood(text: str, seconds: float | None) -> None:
    """Seconds or a date (now is 2026-08-22T17:05:37Z), never negative, at most a day; nonsense is no wish."""
    assert seconds == parse_retry_after(text, NOW)


@pytest.mark.parametrize("zone", ["JST-9", "EST5", "UTC0"])
def test_a_date_of_retry_after_does_not_depend_on_where_we_are(tmp_path: Path, zone: str) -> None:
    """HTTP's dates are GMT also where they don't say so (RFC 9110 5.6.7, the old forms)."""
    program = (
        "from wattgram.tools.fetch import parse_retry_after as p; print(p('Sat Aug 22 17:07:37 2026', 1787418337.0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HOME": str(tmp_path), "TZ": zone},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "120.0" == done.stdout.strip()


@pytest.mark.parametrize(("mode", "seconds"), [("retry429:7", 7.0), ("retry429date:7", 7.0)])
def test_a_reply_says_how_long_to_wait(api: GridApi, mode: str, seconds: float) -> None:
    api.mode = mode
    now = math.floor(NOW)

    assert seconds == pytest.approx(ask(api).retry_after(now), abs=1.0)


def test_the_date_in_the_test_is_the_one_it_says() -> None:
    assert "Sat, 22 Aug 2026 17:05:37 GMT" == formatdate(NOW, usegmt=True)


# --- servers of a few lines -----------------------------------------------------------------------


class Raw:
    """Sends the same bytes to whoever connects, and hangs up."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/x"

    def __exit__(self, *error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                try:
                    client.recv(65_536)
                    client.sendall(self._answer)
                except OSError:
                    pass  # it hung up first, which it may


class Zipped(Raw):
    """Sends a packed body."""

    def __init__(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        super().__init__(head.encode() + body)


# --- what a hijacked server may try -----------------------------------------------------------------


class Hostile(Server):
    """Answers with a status, headers and a body of its choice."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        super().__init__()
        self.status, self.body, self.headers = status, body, headers

    def _answer(self, handler: Handler, request: Request) -> None:
        handler.reply(self.status, self.body, **self.headers)


def test_the_body_of_a_redirect_is_bounded_too() -> None:
    """The library would read it whole, to prepare for a redirect that is not followed: a gigabyte from a megabyte."""
    bomb = gzip.compress(b"0" * (32 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Hostile(302, bomb, {"Location": "/elsewhere", "Content_Encoding": "gzip"}) as server:
        assert "shape" == failed(f"{server.url}/x").reason
        asked = len(server.requests)

    assert 1 == asked
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 << 10


def test_no_cookie_is_kept() -> None:
    """Ninety of them in every reply would be our memory, and our next request."""
    fetcher = Fetcher(10.0)
    with Hostile(200, b"{}", {"Set_Cookie": "a=" + "b" * 4000}) as server:
        for _ in range(2):
            fetcher.get(f"{server.url}/x", {}, {})
        second = server.requests[1]
    fetcher.close()

    assert "cookie" not in {name.lower() for name in second.headers}
    assert [] == list(fetcher._session.cookies)


@pytest.mark.parametrize(
    "told",
    [
        "tok/en-1",
        r"tok\/en-1",
        r"\u0074ok\u002Fen\u002d1",
        "tok%2Fen-1",
        "tok%2fen%2D1",
        "tok&#47;en&#x2d;1",
    ],
)
def test_a_credential_is_scrubbed_however_it_is_written(told: str) -> None:
    """JSON, HTML and addresses have ways of their own to write a character; all of them are read by people later."""
    scrubbed = without(f'{{"error": "bad token {told}!"}}'.encode(), ["tok/en-1"])

    assert b'{"error": "bad token ***!"}' == scrubbed
