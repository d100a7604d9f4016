"""The HTTP endpoint over real sockets: it serves the good, bounds the slow, and survives the hostile."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from standin.wire import GET, LOCAL, PATIENCE, Answer, Client, comes_true, descriptors, echo, free_port, serving
from wattgram.model import Health, Instant
from wattgram.ports import ConfigError
from wattgram.snapshot import Snapshot
from wattgram_exporters.prometheus import PrometheusExporter
from wattgram_exporters.server import (
    BACKLOG,
    Limits,
    Request,
    Response,
    Server,
)

LIMITS = Limits()
SNAPSHOT = Snapshot(Instant(0.0, 0.0), Instant(0.0, 0.0), "1.2.3", "3.12.0")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as number:
        yield number


# --- the good -------------------------------------------------------------------------------------


def test_get_is_answered(port: int) -> None:
    """Status, length, type, body."""
    with Client(port) as client:
        reply = client.ask()

    assert (200, b"GET /metrics\n") == (reply.status, reply.body)
    assert ("13", "text/plain") == (reply.headers["content-length"], reply.headers["content-type"])


def test_head_is_get_without_a_body(port: int) -> None:
    """The length is that of the body that GET would bring."""
    with Client(port) as client:
        head = client.ask(b"HEAD /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n", body=False)
        rest = client.rest()

    assert (200, "14", b"") == (head.status, head.headers["content-length"], rest)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_refused_with_those_that_work(port: int, method: str) -> None:
    """Nothing here changes anything."""
    with Client(port) as client:
        reply = client.ask(f"{method} /metrics HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\nhi".encode())

    assert (405, "GET, HEAD") == (reply.status, reply.headers["allow"])


def test_a_connection_is_kept_for_the_next_scrape(port: int) -> None:
    """A scraper comes every 15 seconds for years."""
    with Client(port) as client:
        assert [200] * 20 == [client.ask().status for _ in range(20)]


def test_requests_sent_at_once_are_answered_in_order(port: int) -> None:
    """Pipelining: the second must not wait for more bytes to arrive."""
    with Client(port) as client:
        client.socket.settimeout(3.0)
        client.send(b"".join(f"GET /{n} HTTP/1.1\r\nHost: here\r\n\r\n".encode() for n in range(3)))

        assert [b"GET /0\n", b"GET /1\n", b"GET /2\n"] == [client.receive().body for _ in range(3)]


def test_http_1_0_is_answered_and_closed(port: int) -> None:
    """Load balancers' health checks speak it still."""
    with Client(port) as client:
        reply = client.ask(b"GET /metrics HTTP/1.0\r\n\r\n")

        assert (200, b"") == (reply.status, client.rest())


def test_a_client_that_wants_to_leave_is_let_go(port: int) -> None:
    """`Connection: close` is answered, repeated and obeyed."""
    with Client(port) as client:
        reply = client.ask(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")

        assert (200, "close", b"") == (reply.status, reply.headers["connection"], client.rest())


def test_a_request_that_comes_in_pieces_is_answered(port: int) -> None:
    """Networks cut where they like."""
    with Client(port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GET:
            client.send(bytes([byte]))

        assert client.receive().status == 200


def test_a_body_with_a_get_is_read_past(port: int) -> None:
    """Odd, but allowed; the next request is found behind it."""
    with Client(port) as client:
        first = client.ask(b"GET /a HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\nhello")
        second = client.ask()

    assert (200, 200) == (first.status, second.status)


def test_query_and_headers_reach_the_one_who_answers() -> None:
    """Header names in lower case, fields of a query in lists."""
    seen: list[Request] = []

    def remember(request: Request) -> Response:
        seen.append(request)
        return echo(request)

    with serving(remember) as port, Client(port) as client:
        client.ask(b"GET /metrics?name[]=a&name%5B%5D=b HTTP/1.1\r\nHost: here\r\nACCEPT: x\r\n\r\n")

    assert ("/metrics", {"name[]": ["a", "b"]}, "x") == (seen[-1].path, seen[-1].query, seen[-1].headers["accept"])


def test_a_header_in_two_lines_is_one_list() -> None:
    """Proxies add a line of their own, and both count (RFC 9110, 5.3)."""
    seen: list[Request] = []

    def remember(request: Request) -> Response:
        seen.append(request)
        return echo(request)

    with serving(remember) as port, Client(port) as client:
        client.ask(b"GET / HTTP/1.1\r\nHost: here\r\nAccept: a/b\r\nAccept: c/d;q=0.5\r\n\r\n")

    assert ["a/b", "c/d;q=0.5"] == [part.strip() for part in seen[-1].headers["accept"].split(",")]


def test_one_who_asks_before_sending_a_body_is_answered_at_once(port: int) -> None:
    """`Expect: 100-continue` waits for a word; the word is no."""
    with Client(port) as client:
        client.socket.settimeout(3.0)
        client.send(b"POST / HTTP/1.1\r\nHost: here\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")

        assert client.receive().status in (405, 417)


def test_the_server_does_not_tell_what_it_is(port: int) -> None:
    """A version in a header is a present for scanners."""
    with Client(port) as client:
        headers = client.ask().headers

    assert "server" not in headers
    assert "h11" not in str(headers)
    assert "Python" not in str(headers)


@pytest.mark.parametrize("raw", [GET, GET.replace(b"GET", b"POST"), b"nonsense\r\n\r\n"], ids=["good", "405", "400"])
def test_no_answer_is_sniffed_for_another_type(port: int, raw: bytes) -> None:
    """Device names are other people's words; a browser must not take them for a page."""
    with Client(port) as client:
        assert client.ask(raw).headers["x-content-type-options"] == "nosniff"


def test_ipv6_is_served() -> None:
    """In brackets, as in every URL."""
    try:
        free_port("::1")
    except OSError as error:
        pytest.skip(f"needs a real IPv6 loopback: {error}")

    with serving(host="::1") as port, Client(port, "::1") as client:
        assert client.ask().status == 200


def long(body: bytes) -> Answer:
    """Answers with a body of that length on one path."""
    return lambda request: Response(200, body) if request.path == "/long" else echo(request)


def room() -> int:
    """How many bytes the system takes at once for one who reads nothing."""
    with socket.create_server((LOCAL, 0)) as listener, Client(listener.getsockname()[1], receive_buffer=4096):
        sender, _ = listener.accept()
        with sender:
            sender.setblocking(False)  # noqa: FBT003
            return sender.send(bytes(1 << 26))


def test_the_end_of_an_answer_is_not_thrown_away_with_the_connection() -> None:
    """Over a slow network the last bytes wait for the first to be taken; `Connection: close` must wait for them too."""
    body = bytes(room() + 32_768)

    with serving(long(body)) as port, Client(port, receive_buffer=4096) as client:
        client.ask()  # by now it is accepted
        before = descriptors()
        client.send(b"GET /long HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        comes_true(lambda: descriptors() < before, deadline=0.5)  # it has let go, which it should not
        received = client.rest()

    assert len(body) == len(received.partition(b"\r\n\r\n")[2])


# --- the malformed --------------------------------------------------------------------------------

TLS_CLIENT_HELLO = bytes.fromhex("16030100f8010000f40303") + bytes(240)
MALFORMED = {
    "garbage": b"garbage\r\n\r\n",
    "only line ends": b"\r\n\r\n\r\n",
    "no version": b"GET /metrics\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": TLS_CLIENT_HELLO,
    "NUL in the path": b"GET /met\0rics HTTP/1.1\r\nHost: here\r\n\r\n",
    "NUL in a header": b"GET /metrics HTTP/1.1\r\nHost: he\0re\r\n\r\n",
    "nothing but NUL": bytes(1000) + b"\r\n\r\n",
    "space in the path": b"GET /met rics HTTP/1.1\r\nHost: here\r\n\r\n",
    "bytes above ASCII in the path": "GET /métrics HTTP/1.1\r\nHost: here\r\n\r\n".encode(),
    "header without a colon": b"GET /metrics HTTP/1.1\r\nHost here\r\n\r\n",
    "header name with a space": b"GET /metrics HTTP/1.1\r\nHo st: here\r\n\r\n",
    "no host": b"GET /metrics HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "length that is no number": b"POST /metrics HTTP/1.1\r\nHost: here\r\nContent-Length: much\r\n\r\n",
    "negative length": b"POST /metrics HTTP/1.1\r\nHost: here\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"POST /metrics HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "chunk of no size": b"POST /metrics HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "chunk too long": b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "a length and chunks": b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another scheme": b"GET javascript:/metrics HTTP/1.1\r\nHost: here\r\n\r\n",
    "target that is no URL": b"GET http://[ HTTP/1.1\r\nHost: here\r\n\r\n",
    "a long request line": b"GET /" + b"a" * 100_000,
    "a long header": b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"a" * 100_000,
    "many headers": b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X: a\r\n" * 20_000,
    "10 000 fields in a query": b"GET /?" + b"&".join(b"f%d=1" % n for n in range(10_000)) + b" HTTP/1.1\r\n\r\n",
    "2 000 fields in a query": b"GET /?" + b"a=1&" * 2000 + b" HTTP/1.1\r\nHost: here\r\n\r\n",
    "a body beyond bounds": b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 70000\r\n\r\n" + bytes(70_000),
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused_as_the_clients_fault(
    port: int, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A 4xx or a closed connection, never a 5xx, and not a line in the log: anyone could fill the disk."""
    with Client(port) as client:
        client.send(raw)
        client.socket.shutdown(socket.SHUT_WR)
        said = client.rest()

    assert said == b"" or said.startswith(b"HTTP/1.1 4")
    assert [] == caplog.records
    with Client(port) as other:
        assert other.ask().status == 200


def test_a_client_that_speaks_tls_is_told_so_at_once(port: int) -> None:
    """A first byte that is not HTTP gets 400 without waiting for more."""
    with Client(port) as client:
        assert client.ask(TLS_CLIENT_HELLO).status == 400


def test_a_head_beyond_its_cap_is_refused_before_it_ends(port: int) -> None:
    """With 431 (RFC 6585): it need not come to an end for us to stop listening."""
    with Client(port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"a" * (LIMITS.header_bytes + 1))

        assert client.receive().status in (400, 431)


def test_a_head_just_below_its_cap_is_served(port: int) -> None:
    """Cookies of a proxy in front may be long."""
    with Client(port) as client:
        reply = client.ask(b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"a" * (LIMITS.header_bytes - 100) + b"\r\n\r\n")

    assert reply.status == 200


def test_a_body_beyond_its_cap_is_refused(port: int) -> None:
    """Nobody who may only read has 64 KiB to say."""
    with Client(port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send((b"1000\r\n" + b"a" * 0x1000 + b"\r\n") * (LIMITS.body_bytes // 0x1000 + 1))

        assert client.receive().status == 413


def test_after_a_malformed_request_the_connection_is_closed(port: int) -> None:
    """Where the next one would begin, nobody knows: what follows could be smuggled."""
    with Client(port) as client:
        client.send(b"garbage\r\n\r\n" + GET)
        client.receive()

        assert client.rest() == b""


def test_one_who_leaves_in_the_middle_leaves_no_trace(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """At any byte of a request, by a reset."""
    for length in range(0, len(GET) + 1, 5):
        with Client(port) as client:
            client.send(GET[:length])
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with Client(port) as other:
        assert other.ask().status == 200
    assert [] == caplog.records


# --- the slow and the many ------------------------------------------------------------------------


def test_one_who_sends_a_byte_at_a_time_is_cut_off_at_the_deadline() -> None:
    """A request must be complete within it, however lively it drips."""
    with serving() as port, Client(port) as client:
        client.send(b"GET /")
        began = time.monotonic()
        client.socket.settimeout(0.1)  # the pace of the drip
        while time.monotonic() - began < PATIENCE:
            try:
                client.socket.sendall(b"a")
                if client.socket.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break

    assert time.monotonic() - began < LIMITS.request_seconds + 3


def test_one_who_does_not_take_the_answer_is_cut_off_at_the_deadline() -> None:
    """What it has not taken is thrown away with it."""
    with serving(long(bytes(1 << 25))) as port, Client(port, receive_buffer=4096) as client:
        client.ask()  # by now it is accepted
        before = descriptors()
        began = time.monotonic()

        client.send(b"GET /long HTTP/1.1\r\nHost: here\r\n\r\n")
        let_go = comes_true(lambda: descriptors() < before, LIMITS.answer_seconds + 5)

    assert let_go
    assert time.monotonic() - began > LIMITS.answer_seconds / 2


@contextlib.contextmanager
def crowd(port: int, size: int, words: bytes = b"") -> Iterator[list[Client]]:
    """So many connections that say so much and wait."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(size):
            clients.append(stack.enter_context(Client(port)))
            clients[-1].send(words)
        yield clients


def test_a_burst_is_queued_while_an_answer_is_being_made() -> None:
    """As many as the backlog promises: one that is turned away comes again a second later, or gives up."""
    go_on = threading.Event()

    def slow(request: Request) -> Response:
        if request.path == "/slow":
            go_on.wait(PATIENCE)
        return echo(request)

    with serving(slow) as port, Client(port) as client, contextlib.ExitStack() as stack:
        client.send(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n")
        waiting = [stack.enter_context(socket.socket()) for _ in range(min(BACKLOG - 6, 500))]
        for one in waiting:
            one.setblocking(False)  # noqa: FBT003
            one.connect_ex((LOCAL, port))

        queued = comes_true(lambda: all(one.connect_ex((LOCAL, port)) in (0, errno.EISCONN) for one in waiting), 3.0)
        go_on.set()
        for one in waiting:
            one.settimeout(PATIENCE)
            one.sendall(GET)
        served = [one.recv(12) for one in waiting]

    assert queued
    assert {b"HTTP/1.1 200"} == set(served)


@pytest.mark.parametrize("words", [b"", b"GET /metrics HTTP/1.1\r\nHost:"], ids=["silent", "half a request"])
def test_a_good_scrape_is_served_among_400_that_wait(port: int, words: bytes) -> None:
    """They hold a socket each, and nothing else."""
    with Client(port) as alone:
        began = time.monotonic()
        alone.ask()
        usual = time.monotonic() - began

    with crowd(port, 400, words), Client(port) as scraper:
        began = time.monotonic()
        assert scraper.ask().status == 200
        crowded = time.monotonic() - began

    assert crowded < max(1.0, 50 * usual)


def test_a_full_house_lets_the_one_go_that_waited_longest() -> None:
    """Whoever would block it for good is himself the first to go."""
    with serving() as port, crowd(port, LIMITS.clients) as waiting, Client(port) as newcomer:
        assert newcomer.ask().status == 200
        assert comes_true(lambda: not waiting[0].is_open)
        assert waiting[-1].is_open


def test_one_who_was_active_is_not_the_one_that_waited_longest() -> None:
    """A scraper's kept connection outlives a flood of silent ones that came later."""
    with serving() as port, Client(port) as scraper, crowd(port, LIMITS.clients - 1) as waiting:
        assert scraper.ask().status == 200

        with Client(port) as newcomer:
            assert newcomer.ask().status == 200
        assert comes_true(lambda: not waiting[0].is_open)

        assert scraper.ask().status == 200


def test_those_who_have_left_do_not_count() -> None:
    """A day of scrapes without keep-alive must not push out the one who waits."""
    with serving() as port, Client(port) as waiting:
        for _ in range(LIMITS.clients + 20):
            with Client(port) as client:
                client.ask(b"GET / HTTP/1.0\r\n\r\n")

        assert waiting.is_open


def test_never_more_than_the_most_are_held() -> None:
    """However fast they come: a burst must not slip past the bound while the evicted are still leaving."""
    with serving() as port, crowd(port, LIMITS.clients + 200) as clients, Client(port) as newcomer:
        assert newcomer.ask().status == 200

        assert comes_true(lambda: sum(client.is_open for client in clients) < LIMITS.clients, deadline=3.0)


def test_descriptors_are_back_when_the_crowd_has_left(port: int) -> None:
    """Nothing leaks, whether they spoke or not."""
    before = descriptors()

    for words in (b"", GET, GET[:20], b"garbage\r\n\r\n"):
        with crowd(port, 100, words):
            pass

    assert comes_true(lambda: descriptors() <= before)


def test_one_who_sends_many_requests_at_once_has_not_all_the_turns() -> None:
    """A thousand in one connection, and a scraper that comes in between."""
    answered: list[str] = []

    def note(request: Request) -> Response:
        answered.append(request.path)
        time.sleep(0.002)  # an answer takes its time
        return echo(request)

    with serving(note) as port, Client(port) as greedy, Client(port) as scraper:
        scraper.ask()
        greedy.send(b"GET /greedy HTTP/1.1\r\nHost: here\r\n\r\n" * 300)
        greedy.receive()
        scraper.ask(b"GET /scraper HTTP/1.1\r\nHost: here\r\n\r\n")

        assert answered.index("/scraper") < 250


def test_those_who_had_to_leave_are_forgotten_at_once() -> None:
    """Thousands of them must not wait for the garbage collector."""
    with serving(limits=Limits(clients=10)) as port:
        gc.collect()
        gc.disable()
        try:
            with crowd(port, 300), Client(port) as last:
                assert last.ask().status == 200
                assert comes_true(lambda: _tasks() < 30, deadline=3.0)
        finally:
            gc.enable()


def _tasks() -> int:
    return sum(isinstance(thing, asyncio.Task) for thing in gc.get_objects())


# --- who answers ----------------------------------------------------------------------------------


def test_a_bug_in_an_answer_is_survived_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """500, with the traceback in the log and none of it on the wire; the meter goes on."""

    def fails(request: Request) -> Response:
        if request.path == "/bug":
            raise KeyError("a secret thing")
        return echo(request)

    with serving(fails) as port, Client(port) as client:
        broken = client.ask(b"GET /bug HTTP/1.1\r\nHost: here\r\n\r\n")
        good = client.ask()

    assert (500, 200) == (broken.status, good.status)
    assert b"secret" not in broken.body
    assert [logging.ERROR] == [record.levelno for record in caplog.records]
    assert caplog.records[0].exc_info


def exporter(snapshot: Snapshot = SNAPSHOT) -> PrometheusExporter:
    """The real routes, nowhere listening."""
    return PrometheusExporter("127.0.0.1:0", lambda: snapshot)


def asked(path: str, snapshot: Snapshot = SNAPSHOT, accept_encoding: str = "") -> Response:
    """What the routes answer."""
    return exporter(snapshot).answer(Request("GET", path, {}, {"accept-encoding": accept_encoding}))


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/api/v1/status", "application/json"),
        ("/api/v1/intensity", "application/json"),
    ],
)
def test_each_promised_path_answers_with_its_type(path: str, content_type: str) -> None:
    """As the contract lists them."""
    answer = asked(path)

    assert (200, content_type) == (answer.status, answer.headers["Content-Type"])


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "",
        "/metrics/",
        "//metrics",
        "/metrics/../metrics",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/%6detrics",
        "/METRICS",
        "*",
    ],
)
def test_any_other_path_is_not_found(path: str) -> None:
    """A path is a word here; it means nothing to the file system."""
    assert asked(path).status == 404


def test_the_process_is_healthy_before_anything_is_measured() -> None:
    """Liveness is not readiness: a restart would not bring the driver."""
    assert asked("/-/healthy").status == 200


def test_not_ready_is_503_with_the_reason() -> None:
    """For whoever stares at a rollout that does not go on."""
    waiting = Snapshot(SNAPSHOT.at, SNAPSHOT.at, "1", "3", health=(Health("nvml", "source", 1.0),))

    answer = asked("/-/ready", waiting)

    assert answer.status == 503
    assert b"nvml" in answer.body


def test_a_host_on_which_every_source_was_tried_is_ready() -> None:
    """Nothing to meter is an answer, and the page says what is missing."""
    tried = Snapshot(SNAPSHOT.at, SNAPSHOT.at, "1", "3", health=(Health("nvml", "source", 1.0, turns=1),))

    assert asked("/-/ready", tried).status == 200


def test_metrics_say_what_their_answer_depends_on() -> None:
    """A cache in between must not give gzip to one who cannot read it."""
    zipped = asked("/metrics", accept_encoding="gzip")

    assert ("gzip", "Accept, Accept-Encoding") == (zipped.headers["Content-Encoding"], zipped.headers["Vary"])
    assert "Content-Encoding" not in asked("/metrics").headers


def test_a_name_in_the_query_brings_that_family_alone() -> None:
    """As `name[]` does in other exporters."""
    answer = exporter().answer(Request("GET", "/metrics", {"name[]": ["no_such"]}, {}))

    assert (200, b"") == (answer.status, answer.body)


# --- its address, its life ------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["192.0.2.1:14044", "no host:14044", "zoë..example:14044"])
def test_an_address_that_cannot_be_had_is_a_fault_of_configuration(listen: str) -> None:
    """With the key, the value and what to do."""
    with pytest.raises(ConfigError) as caught:
        Server(listen, echo).start()

    assert "web.listen" in str(caught.value)
    assert listen in str(caught.value)
    assert "--listen" in str(caught.value)


def test_an_address_that_is_taken_is_a_fault_of_configuration(port: int) -> None:
    """Said before anything starts, with the remedy."""
    with pytest.raises(ConfigError, match=rf"web\.listen.*127\.0\.0\.1:{port}.*in use.*--listen"):
        Server(f"{LOCAL}:{port}", echo).start()


@contextlib.contextmanager
def stopped_among(size: int) -> Iterator[tuple[int, list[Client], float]]:
    """The port and the clients of a server that was stopped while they waited, and the seconds that it took."""
    port = free_port()
    server = Server(f"{LOCAL}:{port}", echo)
    server.start()
    with crowd(port, size) as clients:
        for client in clients[::3]:
            client.ask()  # a connection that is kept between two scrapes; the others are silent, or half way
        for client in clients[1::3]:
            client.send(GET[:20])
        clients[0].ask()
        began = time.monotonic()
        server.stop()
        yield port, clients, time.monotonic() - began
    gc.collect()


@pytest.mark.alone
def test_stopping_does_not_wait_for_clients() -> None:
    """Half a second is promised, however many there are."""
    with stopped_among(50) as (_, clients, took):
        assert took < 1.0
        assert [b""] * 50 == [client.rest() for client in clients]


def test_a_stopped_server_lets_go_of_everything() -> None:
    """Address, connections and thread."""
    before, threads = descriptors(), threading.active_count()

    with stopped_among(50) as (port, _, _), pytest.raises(ConnectionRefusedError):
        Client(port)

    assert comes_true(lambda: descriptors() <= before and threading.active_count() == threads)


def test_stopping_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """There is always a scraper's kept connection: each stop must not print its traceback."""
    with stopped_among(6):
        pass

    assert [] == caplog.records


def test_stopping_while_clients_leave_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """As when a whole rack is shut down: a request that is broken off by the stop is nobody's bug."""
    with serving() as port, crowd(port, 200) as clients:
        for client in clients:
            client.ask()
        for client in clients:
            client.send(GET[:20])
        # all leave at once, and the server is stopped

    assert [] == caplog.records


def test_a_stopped_servers_address_can_be_taken_again_at_once() -> None:
    """A restart must not wait for old connections to be forgotten."""
    port = free_port()
    for _ in range(3):
        server = Server(f"{LOCAL}:{port}", echo)
        server.start()
        with Client(port) as client:
            assert client.ask().status == 200
            server.stop()


HASTE = """
from wattgram.ports import ConfigError
from wattgram_exporters.server import Server

for port in range(14100, 14200):
    server = Server(f"127.0.0.1:{port}", lambda request: None)
    try:
        server.start()
    except ConfigError:
        continue  # taken
    server.stop()
"""


def test_a_server_may_be_stopped_as_soon_as_it_was_started() -> None:
    """As when something asked for by name is found missing: its thread must not break, which would be exit 1."""
    done = subprocess.run([sys.executable, "-c", HASTE], capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert (0, "") == (done.returncode, done.stderr)


def test_stopping_twice_or_without_a_start_is_no_matter() -> None:
    """Whoever leaves in a hurry may call it where he is."""
    never = Server(f"{LOCAL}:{free_port()}", echo)
    port = free_port()
    server = Server(f"{LOCAL}:{port}", echo)
    server.start()
    with Client(port) as client:
        client.ask()

    never.stop()
    server.stop()
    server.stop()
