"""TLS, passwords and rotation over real sockets: who may look is served, whoever may not costs little."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import resource
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from standin.certificates import Authority, hashed, replace
from standin.wire import GET, Client, comes_true, descriptors, serving
from wattgram_exporters.guard import MOST_SESSIONS, Bucket, Guard, credentials
from wattgram_exporters.passwords import MOST_KNOWN, Busy, Passwords
from wattgram_exporters.places import Places
from wattgram_exporters.server import RESERVE, Limits, Response

PAIR = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
MUTUAL = f"{PAIR}  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def directory(tmp_path: Path, authority: Authority) -> Path:
    """A certificate, its key and its authority."""
    authority.server(tmp_path)
    authority.write(tmp_path / "ca.pem")
    return tmp_path


def configured(directory: Path, text: str) -> Path:
    """A web.config.yml among the certificates."""
    path = directory / "web.yml"
    replace(path, text.encode())
    return path


@contextlib.contextmanager
def guarded(directory: Path, text: str, limits: Limits | None = None) -> Iterator[int]:
    """A server that asks what the text asks for; gives its port."""
    with serving(limits=limits, guard=Guard(str(configured(directory, text)))) as port:
        yield port


def asking(user: str, password: str) -> bytes:
    """A request with credentials."""
    code = base64.b64encode(f"{user}:{password}".encode()).decode()
    return GET.replace(b"\r\n\r\n", f"\r\nAuthorization: Basic {code}\r\n\r\n".encode())


def serial(port: int, context: ssl.SSLContext) -> str:
    """The number of the certificate that a new connection is shown."""
    with Client(port, tls=context) as client:
        assert client.ask().status == 200
        assert isinstance(client.socket, ssl.SSLSocket)
        return str((client.socket.getpeercert() or {})["serialNumber"])


# --- TLS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_spoken_and_kept_for_the_next_scrape(
    directory: Path, authority: Authority, version: ssl.TLSVersion
) -> None:
    """In both versions, HTTP/1.1 only."""
    context = authority.trusting()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])

    with guarded(directory, PAIR) as port, Client(port, tls=context) as client:
        assert [200] * 5 == [client.ask().status for _ in range(5)]
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.selected_alpn_protocol() == "http/1.1"


def test_what_is_below_the_least_version_is_refused(directory: Path, authority: Authority) -> None:
    """And told so, rather than left waiting."""
    context = authority.trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    with guarded(directory, f"{PAIR}  min_version: TLS13\n") as port, pytest.raises(ssl.SSLError, match=r"(?i)version"):
        Client(port, tls=context).close()


def test_the_chosen_suites_and_curve_are_the_ones_spoken(directory: Path, authority: Authority) -> None:
    """Go's names, OpenSSL's suites."""
    context = authority.trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    suites = "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256]\n  curve_preferences: [CurveP384]\n"

    with guarded(directory, PAIR + suites) as port, Client(port, tls=context) as client:
        assert isinstance(client.socket, ssl.SSLSocket)
        assert client.socket.cipher() == ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLSv1.2", 256)
        context.set_ecdh_curve("prime256v1")
        with pytest.raises(ssl.SSLError):
            Client(port, tls=context).close()


@pytest.mark.parametrize("raw", [GET, b"\0", b"garbage", b"POST / HTTP/1.1\r\n" + bytes(100_000)])
def test_plain_words_on_the_tls_port_are_told_so(directory: Path, raw: bytes) -> None:
    """In the words of Go's server, whatever follows."""
    with guarded(directory, PAIR) as port, Client(port) as client:
        client.send(raw)
        reply = client.receive()

        assert (400, b"Client sent an HTTP request to an HTTPS server.\n") == (reply.status, reply.body)
        assert client.socket.recv(1) == b""  # and no reset, which might have overtaken the answer


def test_a_silent_client_costs_a_socket_and_nothing_else(directory: Path, authority: Authority) -> None:
    """What TLS needs is made when the first byte has come, and not before; at the deadline it is let go."""
    made = []

    class Counted(Guard):
        def context(self) -> ssl.SSLContext:
            made.append(1)
            return super().context()

    guard = Counted(str(configured(directory, PAIR)))
    with serving(limits=Limits(handshake_seconds=0.5), guard=guard) as port, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(Client(port)) for _ in range(100)]
        with Client(port, tls=authority.trusting()) as scraper:
            assert scraper.ask().status == 200

        assert [1] == made
        assert comes_true(lambda: not any(client.is_open for client in silent))


def test_those_in_tls_are_fewer_and_a_newcomer_comes_in(directory: Path, authority: Authority) -> None:
    """Each costs memory: those who began a handshake and wait make room, whoever was served stays."""
    hello = b"\x16\x03\x01\x02\x00"
    with (
        guarded(directory, PAIR, Limits(tls_clients=8, handshake_seconds=60.0)) as port,
        Client(port, tls=authority.trusting()) as scraper,
        contextlib.ExitStack() as stack,
    ):
        assert scraper.ask().status == 200
        started = []
        for _ in range(30):
            started.append(stack.enter_context(Client(port)))
            started[-1].send(hello)

        assert comes_true(lambda: sum(client.is_open for client in started) <= 7, deadline=3.0)
        with Client(port, tls=authority.trusting()) as newcomer:
            assert newcomer.ask().status == 200
        assert scraper.ask().status == 200


def test_a_handshake_has_a_deadline(directory: Path) -> None:
    """However lively it drips."""
    with guarded(directory, PAIR, Limits(handshake_seconds=0.3)) as port, Client(port) as client:
        client.send(b"\x16")

        assert comes_true(lambda: not _still_takes(client))


def _still_takes(client: Client) -> bool:
    try:
        client.socket.sendall(b"\x03")
    except ConnectionError:
        return False
    return client.is_open


def test_a_large_answer_comes_whole_through_tls(directory: Path, authority: Authority) -> None:
    """Also to one who reads slowly, and then closes."""
    path = str(configured(directory, PAIR))
    body = bytes(range(256)) * 20_000

    with (
        serving(lambda _: Response(200, body), guard=Guard(path)) as port,
        Client(port, receive_buffer=4096, tls=authority.trusting()) as client,
    ):
        assert body == client.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).body


def test_sessions_of_tls_1_2_do_not_pile_up(directory: Path, authority: Authority) -> None:
    """OpenSSL keeps each with its context; a stranger could fill it."""
    context = authority.trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    guard = Guard(str(configured(directory, PAIR)))

    kept = []
    for _ in range(MOST_SESSIONS + 10):
        server = guard.context()
        _meet(context, server)
        kept.append(server.session_stats()["number"])

    assert max(kept) > 0  # else nothing is kept by now, and the remedy can go
    assert kept[-1] < 20


def _meet(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """A handshake and a farewell, in memory."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname="localhost"),
        server.wrap_bio(there, back, server_side=True),
    ]
    for act in ("do_handshake",) * 3 + ("unwrap",) * 2:
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                getattr(end, act)()


# --- certificates of clients ------------------------------------------------------------------------


def scraped(port: int, context: ssl.SSLContext) -> bool:
    """Whether a scrape is answered; TLS 1.3 tells a client of its refusal only when it reads."""
    try:
        with Client(port, tls=context) as client:
            client.socket.sendall(GET)
            return client.socket.recv(12) == b"HTTP/1.1 200"
    except (ssl.SSLError, ConnectionError):
        return False


def test_a_certificate_of_the_right_authority_opens(directory: Path, authority: Authority) -> None:
    """None, and another's, do not."""
    right = authority.client(directory / "right.pem")
    wrong = Authority().client(directory / "wrong.pem")

    with guarded(directory, MUTUAL) as port:
        assert scraped(port, authority.trusting(right))
        assert not scraped(port, authority.trusting())
        assert not scraped(port, authority.trusting(wrong))


def test_an_authority_need_not_be_a_root(directory: Path, authority: Authority) -> None:
    """What is named is trusted, as in Go."""
    below = Authority(authority)
    below.write(directory / "ca.pem")

    with guarded(directory, MUTUAL) as port:
        assert scraped(port, authority.trusting(below.client(directory / "below.pem")))
        assert not scraped(port, authority.trusting(authority.client(directory / "above.pem")))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_only_an_allowed_name_opens(directory: Path, authority: Authority, version: ssl.TLSVersion) -> None:
    """Of a certificate that is otherwise right."""
    contexts = [authority.trusting(authority.client(directory / name, name)) for name in ("a.example", "b.example")]
    for context in contexts:
        context.maximum_version = version

    with guarded(directory, f"{MUTUAL}  client_allowed_sans: [b.example]\n") as port:
        assert [False, True] == [scraped(port, context) for context in contexts]


def test_a_certificate_may_be_optional(directory: Path, authority: Authority) -> None:
    """But if one is shown, it must be right."""
    wrong = Authority().client(directory / "wrong.pem")

    with guarded(directory, MUTUAL.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven")) as port:
        assert scraped(port, authority.trusting())
        assert not scraped(port, authority.trusting(wrong))


# --- passwords --------------------------------------------------------------------------------------


@pytest.fixture
def users(directory: Path) -> str:
    return f"basic_auth_users:\n  alice: {hashed('wonder')}\n  bob: {hashed('x' * 72)}\n"


def test_the_right_password_opens_every_path_and_no_other_does(directory: Path, users: str) -> None:
    """As Go's toolkit answers; the method is looked at afterwards."""
    with guarded(directory, users) as port, Client(port) as client:
        refused = [
            client.ask(raw)
            for raw in (
                GET,
                GET.replace(b"/metrics", b"/-/healthy"),
                GET.replace(b"GET", b"POST"),
                asking("alice", "wrong"),
                asking("alice", ""),
                asking("nobody", "wonder"),
                asking("", ""),
                asking("Alice", "wonder"),
                GET.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer wonder\r\n\r\n"),
                GET.replace(b"\r\n\r\n", b"\r\nAuthorization: Basic %%%\r\n\r\n"),
            )
        ]
        answers = {(reply.status, reply.headers["www-authenticate"], reply.body) for reply in refused}

        assert {(401, "Basic", b"Unauthorized\n")} == answers
        assert client.ask(asking("alice", "wonder")).status == 200
        assert client.ask(asking("bob", "x" * 72 + "what bcrypt does not look at")).status == 200
        assert client.ask(asking("alice", "wrong")).status == 401


def test_nothing_of_a_password_reaches_the_log(directory: Path, users: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nor anything else: anybody could fill the disk."""
    with guarded(directory, users) as port, Client(port) as client:
        client.ask(asking("alice", "hunter2"))
        client.ask(asking("alice", "wonder"))

    assert [] == caplog.records


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Basic " + base64.b64encode(b"a:b:c").decode(), (b"a", b"b:c")),
        ("basic " + base64.b64encode("é:ü".encode()).decode(), ("é".encode(), "ü".encode())),
        ("Basic " + base64.b64encode(b"no colon").decode(), None),
        ("Basic ÿ", None),
        ("Basic", None),
        ("", None),
    ],
)
def test_credentials_are_read(header: str, expected: tuple[bytes, bytes] | None) -> None:
    """As RFC 7617 writes them."""
    assert expected == credentials(header)


class Slow:
    """A comparison that waits for a word."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.go_on = threading.Event()

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        self.asked.append(password)
        self.go_on.wait(20.0)
        return password == hashed


def test_too_many_comparisons_are_refused_and_those_known_pass() -> None:
    """A flood of guesses holds up neither the loop nor a scraper that was right before."""

    async def play() -> None:
        slow = Slow()
        passwords = Passwords(slow, most_waiting=3)
        slow.go_on.set()
        assert await passwords.is_right(b"good", b"x", b"x")
        slow.go_on.clear()

        guesses = [asyncio.ensure_future(passwords.is_right(b"u", b"guess %d" % n, b"x")) for n in range(3)]
        await asyncio.sleep(0)

        with pytest.raises(Busy):
            await passwords.is_right(b"u", b"one more", b"x")
        assert await passwords.is_right(b"good", b"x", b"x")
        slow.go_on.set()
        assert [False] * 3 == await asyncio.gather(*guesses)
        assert not await passwords.is_right(b"u", b"one more", b"x")
        passwords.close()

    asyncio.run(play())


def test_who_guesses_leaves_room_for_who_knows() -> None:
    """One address may not fill the queue; another's first scrape finds a place in it."""

    async def play() -> None:
        slow = Slow()
        passwords = Passwords(slow)
        guesses = [
            asyncio.ensure_future(passwords.is_right(b"u", b"guess %d" % n, b"x", "192.0.2.1")) for n in range(4)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await passwords.is_right(b"u", b"guess 5", b"x", "192.0.2.1")
        known = asyncio.ensure_future(passwords.is_right(b"u", b"x", b"x", "192.0.2.2"))
        await asyncio.sleep(0)
        slow.go_on.set()

        assert await known
        assert [False] * 4 == await asyncio.gather(*guesses)
        assert not await passwords.is_right(b"u", b"guess 5", b"x", "192.0.2.1")
        passwords.close()

    asyncio.run(play())


def test_the_same_question_waits_once_and_outlives_one_who_leaves() -> None:
    """Twenty scrapers that start together cost one comparison."""

    async def play() -> None:
        slow = Slow()
        passwords = Passwords(slow, most_waiting=1)
        same = [asyncio.ensure_future(passwords.is_right(b"u", b"x", b"x")) for _ in range(20)]
        await asyncio.sleep(0)
        same[0].cancel()
        slow.go_on.set()

        assert [True] * 19 == await asyncio.gather(*same[1:])
        assert [b"x"] == slow.asked
        passwords.close()

    asyncio.run(play())


def test_what_was_right_is_remembered_within_bounds() -> None:
    """A wrong one never is, and another hash is another question."""

    async def play() -> None:
        slow = Slow()
        slow.go_on.set()
        passwords = Passwords(slow)
        for n in range(MOST_KNOWN + 10):
            assert await passwords.is_right(b"%d" % n, b"x", b"x")
        assert not await passwords.is_right(b"0", b"x", b"y")
        assert len(passwords._known) == MOST_KNOWN
        assert b"x" not in b"".join(key for key in passwords._known if len(key) < 32)
        passwords.close()

    asyncio.run(play())


def test_a_guess_at_an_unknown_user_costs_the_same(directory: Path) -> None:
    """Else the time would tell which users there are."""
    seen: list[bytes] = []
    guard = Guard(str(configured(directory, f"basic_auth_users:\n  a: {hashed('x', 5)}\n")))
    guard._passwords = Passwords(lambda _, stored: bool(seen.append(stored)))  # type: ignore[func-returns-value]
    with serving(guard=guard) as port, Client(port) as client:
        assert client.ask(asking("a", "y")).status == 401
        assert client.ask(asking("b", "y")).status == 401

    guard._passwords = Passwords(lambda _, __: True)
    with serving(guard=guard) as port, Client(port) as client:
        assert client.ask(asking("a", "y")).status == 200
        assert client.ask(asking("b", "y")).status == 401

    assert [b"05", b"05"] == [stored[4:6] for stored in seen]
    assert len(seen[0]) == len(seen[1]) == 60


# --- headers, rate ----------------------------------------------------------------------------------


def test_headers_are_added_to_every_answer(directory: Path) -> None:
    """Also to a refusal."""
    text = f"http_server_config:\n  headers:\n    X-Frame-Options: deny\nbasic_auth_users: {{a: {hashed('x')}}}\n"
    with guarded(directory, text) as port, Client(port) as client:
        for raw in (GET, asking("a", "x")):
            assert client.ask(raw).headers["x-frame-options"] == "deny"


def test_the_rate_is_limited_as_in_go() -> None:
    """So many at once, and then one an interval."""
    now = [0.0]
    bucket = Bucket(2.0, 3, lambda: now[0])

    first = [bucket.takes() for _ in range(5)]
    now[0] = 2.0
    second = [bucket.takes() for _ in range(2)]
    now[0] = 1000.0
    third = [bucket.takes() for _ in range(5)]

    assert [True, True, True, False, False] == first
    assert [True, False] == second
    assert [True, True, True, False, False] == third


def test_whoever_asks_too_often_is_told_to_wait(directory: Path) -> None:
    """On every path, with 429."""
    with guarded(directory, "rate_limit: {interval: 1h, burst: 2}") as port, Client(port) as client:
        replies = [client.ask() for _ in range(3)]

    assert [200, 200, 429] == [reply.status for reply in replies]
    assert replies[-1].headers["retry-after"] == "3600"


# --- rotation ---------------------------------------------------------------------------------------


def test_a_new_certificate_is_shown_to_the_next_connection(directory: Path, authority: Authority) -> None:
    """And the kept connection stays."""
    context = authority.trusting()
    with guarded(directory, PAIR) as port, Client(port, tls=context) as kept:
        before = serial(port, context)
        authority.server(directory)

        assert before != serial(port, context)
        assert kept.ask().status == 200


def test_a_pair_that_is_half_written_leaves_the_old_one_with_one_warning(
    directory: Path, authority: Authority, lines: list[str]
) -> None:
    """And the new one is taken when it is whole, with one line."""
    context = authority.trusting()
    with guarded(directory, PAIR) as port:
        before = serial(port, context)
        old_key = (directory / "key.pem").read_bytes()
        authority.server(directory)
        new_key = (directory / "key.pem").read_bytes()
        replace(directory / "key.pem", old_key)

        during = {serial(port, context) for _ in range(5)}
        replace(directory / "key.pem", new_key)
        after = serial(port, context)

    assert {before} == during
    assert before != after
    assert ["WARNING", "INFO"] == [line.split()[0] for line in lines]
    assert "do not belong together" in lines[0]
    assert "is good now" in lines[1]


def test_users_change_without_a_restart_and_a_broken_file_keeps_them(
    directory: Path, users: str, lines: list[str]
) -> None:
    """On a kept connection too: a password that was withdrawn opens nothing."""
    with guarded(directory, users) as port, Client(port) as client:
        assert client.ask(asking("alice", "wonder")).status == 200
        configured(directory, f"basic_auth_users:\n  alice: {hashed('new')}\n")
        assert client.ask(asking("alice", "wonder")).status == 401
        assert client.ask(asking("alice", "new")).status == 200
        configured(directory, "basic_auth_users: [\n")
        assert [200] * 3 == [client.ask(asking("alice", "new")).status for _ in range(3)]
        (directory / "web.yml").unlink()
        assert client.ask(asking("alice", "new")).status == 200
        configured(directory, users)
        assert client.ask(asking("alice", "wonder")).status == 200

    assert ["INFO", "WARNING", "WARNING", "INFO"] == [line.split()[0] for line in lines]


def test_tls_is_turned_on_and_off_by_a_restart_only(
    directory: Path, authority: Authority, users: str, lines: list[str]
) -> None:
    """The present mode is kept, the rest is taken, and it is said once."""
    context = authority.trusting()
    with guarded(directory, PAIR) as port:
        serial(port, context)
        configured(directory, users)
        with Client(port, tls=context) as client:
            assert [401, 401] == [client.ask().status for _ in range(2)]
    with guarded(directory, "") as port, Client(port) as client:
        for _ in range(2):
            configured(directory, PAIR + users)
            assert 401 == client.ask().status

    assert 2 == sum("by a restart only" in line for line in lines)


def test_what_stays_broken_is_said_once(directory: Path, lines: list[str]) -> None:
    """However often it is tried."""
    now = [0.0]
    guard = Guard(str(configured(directory, PAIR)), lambda: now[0])
    configured(directory, "[")
    for _ in range(5):
        now[0] += 60.0
        guard.context()

    assert 1 == len(lines)


def test_what_failed_for_want_of_something_else_is_tried_again(directory: Path) -> None:
    """Descriptors may be short for a moment, which leaves no trace in the files."""
    now = [0.0]
    guard = Guard(str(configured(directory, PAIR)), lambda: now[0])
    before = guard.context()
    (directory / "cert.pem").rename(directory / "away.pem")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        (directory / "away.pem").rename(directory / "cert.pem")
        during = guard.context()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    at_once = guard.context()
    now[0] = 60.0

    assert before is during is at_once
    assert guard.context() is not before


# --- the many, and the system's own limits ------------------------------------------------------------


def test_a_house_that_is_made_smaller_lets_the_idlest_go() -> None:
    """Strangers first; who was served last stays."""
    places: Places[str] = Places(4)
    for guest in ("a", "b", "c", "d"):
        places.enter(guest)
    places.served("a")

    assert ["b", "c"] == list(places.resize(2))
    assert ["d", "a"] == list(places)
    assert "d" == places.enter("e")


def test_strangers_make_room_before_the_known_and_the_known_hold_half() -> None:
    """So neither a flood of silent ones nor one of served ones shuts the door."""
    places: Places[str] = Places(4)
    for guest in ("a", "b", "c", "d"):
        assert places.enter(guest) is None
    places.served("a")
    places.served("b")

    assert "c" == places.enter("e")
    places.served("e")
    assert "a" == places.enter("f")
    places.leave("nobody")
    places.served("gone")
    assert ["d", "f", "b", "e"] == list(places)
    assert len(places) == 4
    assert "gone" not in places


def test_an_empty_house_has_nobody_to_send_away() -> None:
    """As when descriptors are short before the first client came."""
    assert Places[str](4).idlest() is None


@pytest.mark.parametrize(
    ("descriptors", "clients"), [(1024, 512), (300, 300 - RESERVE), (65, 8), (0, 8), (1 << 30, 512)]
)
def test_clients_are_no_more_than_descriptors_allow(descriptors: int, clients: int) -> None:
    """The sources need some too."""
    assert clients == Limits().within(descriptors)


def test_a_loop_without_descriptors_does_not_spin() -> None:
    """When there is nobody to send away either."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as port, socket.socket() as outside:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            outside.connect(("127.0.0.1", port))
            before = time.process_time()
            comes_true(lambda: False, 0.5)  # one that spins would use all of it
            spent = time.process_time() - before
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert spent < 0.2


def test_descriptors_that_run_out_are_said_once_and_come_back(lines: list[str]) -> None:
    """Those inside are served, and whoever waits is let in when there is room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as port, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(port)) for _ in range(5)]
        assert [200] * 5 == [client.ask().status for client in clients]
        outside = [stack.enter_context(socket.socket()) for _ in range(3)]
        highest = max(one.fileno() for one in outside)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, highest), hard))
        try:
            for one in outside:
                one.connect(("127.0.0.1", port))
                one.sendall(GET)
            assert comes_true(lambda: any("no connection is accepted" in line for line in lines))
            assert clients[-1].ask().status == 200
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert {b"HTTP/1.1 200"} == {one.recv(12) for one in outside}
        assert comes_true(lambda: _served(port) and any("accepted again" in line for line in lines))

    assert 1 == sum("no connection is accepted" in line for line in lines)
    assert 1 == sum("accepted again" in line for line in lines)


def _served(port: int) -> bool:
    with Client(port) as client:
        return client.ask().status == 200


def test_both_kinds_of_address_are_served_on_the_double_colon() -> None:
    """As everybody expects of `[::]`."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as error:
        pytest.skip(f"needs a real IPv6 loopback: {error}")
    with serving(host="::") as port:
        for host in ("127.0.0.1", "::1"):
            with Client(port, host) as client:
                assert client.ask().status == 200


def test_nothing_is_left_when_a_guarded_server_stops(directory: Path, authority: Authority, users: str) -> None:
    """No thread, no descriptor."""
    before, threads = descriptors(), threading.active_count()

    with guarded(directory, PAIR + users) as port, Client(port, tls=authority.trusting()) as client:
        assert client.ask(asking("alice", "wonder")).status == 200

    assert comes_true(lambda: descriptors() <= before and threading.active_count() == threads)
