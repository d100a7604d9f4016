"""Strangers who wait, drip, flood and lie, while a scraper comes and goes as if nobody else were there."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest

from standin.certificates import Authority
from standin.daemon import Daemon
from standin.watching import pause, wait

Seconds = Callable[[float, float], float]
Report = Callable[[str], None]

pytestmark = pytest.mark.alone

SYNTHETIC = """
[sources.synthetic]
enabled = true
[sources.nvml]
enabled = false
[sources.rapl]
enabled = false
[sources.hwmon]
enabled = false
"""
MANY = 400
MEBI = 1 << 20
ENERGY = b"wattgram_device_energy_joules_total"
# Stated bounds: what all strangers together may add while they are there, and what may stay when they have left.
MOST_DURING, MOST_AFTER = 16 * MEBI, 8 * MEBI
MOST_DESCRIPTORS = 512 + 64
SLOWEST_SCRAPE = 2.0
LOOKS = 5
WORDS = (
    "application/openmetrics-text",
    "text/plain",
    "*/*",
    "version=",
    "1.0.0",
    "q=",
    "0.5",
    ";",
    ",",
    "=",
    '"',
    "\t",
)


@dataclass(frozen=True)
class Vitals:
    """What a process holds; memory as proportional set size, in bytes."""

    threads: int
    descriptors: int
    memory: int


def vitals(pid: int) -> Vitals:
    """See proc(5)."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    pss = next(line for line in (proc / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    return Vitals(int(status["Threads"]), sum(1 for _ in (proc / "fd").iterdir()), int(pss.split()[1]) * 1024)


def settled(daemon: Daemon) -> Vitals:
    """What it holds when it has begun with everything: its threads start one after the other."""
    looks = [vitals(daemon.pid)]
    while len(looks) < LOOKS or looks[-1].threads != looks[-LOOKS].threads:
        pause(0.1)
        looks.append(vitals(daemon.pid))
    return looks[-1]


class Scraper(threading.Thread):
    """A good one: now over a new connection, now over the one it keeps; each scrape must be whole and in time."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(name="scraper")
        self._port, self._tls = port, tls
        self._leaving = threading.Event()
        self.took: list[float] = []
        self.failed: list[str] = []

    def __enter__(self) -> Scraper:  # noqa: PYI034 - Self is of 3.11
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leaving.set()
        self.join()

    def run(self) -> None:
        kept = self._connection()
        try:
            while not self._leaving.wait(0.01):
                fresh = self._connection()
                for connection in (fresh, kept):
                    self._scrape(connection)
                fresh.close()
        finally:
            kept.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls:
            return http.client.HTTPSConnection("localhost", self._port, timeout=5.0, context=self._tls)
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=5.0)

    def _scrape(self, connection: http.client.HTTPConnection) -> None:
        began = time.monotonic()
        try:
            connection.request("GET", "/metrics")
            reply = connection.getresponse()
            body = reply.read()
            if reply.status != 200 or ENERGY not in body:
                self.failed.append(f"{reply.status} {body[:60]!r}")
        except (OSError, http.client.HTTPException) as error:
            self.failed.append(repr(error))
            connection.close()
        self.took.append(time.monotonic() - began)

    def told(self) -> str:
        """The figures, in milliseconds."""
        times = sorted(self.took)
        p50, p99 = (1000 * times[int(len(times) * share)] for share in (0.5, 0.99))
        return f"{len(times)} good scrapes, p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {1000 * times[-1]:.0f} ms"


class Strangers:
    """Those who hold connections, until the block ends; `statuses` are all that anybody was answered with."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stack = contextlib.ExitStack()
        self._leaving = threading.Event()
        self._threads: list[threading.Thread] = []
        self.statuses: set[int] = set()
        self.rounds = 0

    def __enter__(self) -> Strangers:  # noqa: PYI034 - Self is of 3.11
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leaving.set()
        for thread in self._threads:
            thread.join()
        self._stack.close()

    def wait_with(self, count: int, words: bytes, buffer: int = 0) -> list[socket.socket]:
        """So many who say so much and then nothing."""
        return [self._stack.enter_context(self._connected(words, buffer)) for _ in range(count)]

    def come_and_go(self, count: int, words: bytes) -> Callable[[random.Random], None]:
        """So many more each time; those before the last ten times leave, as this process may not hold all of them."""
        there: deque[socket.socket] = deque()

        def turn(_: random.Random) -> None:
            there.extend(self.wait_with(count, words))
            while len(there) > 10 * count:
                there.popleft().close()

        return turn

    def keep_doing(self, act: Callable[[random.Random], object], seed: int) -> None:
        """One who does something again and again; that he is cut off is no matter."""

        def again() -> None:
            dice = random.Random(seed)
            while not self._leaving.wait(0.02):
                with contextlib.suppress(OSError):
                    act(dice)
                self.rounds += 1

        thread = threading.Thread(target=again, name=f"stranger-{seed}")
        self._threads.append(thread)
        thread.start()

    def say(self, words: bytes) -> None:
        """Say something and note the status of the answer, if there is one."""
        with self._connected(words) as sock, contextlib.suppress(OSError):
            answer = sock.recv(65_536)
            if answer.startswith(b"HTTP/1."):
                self.statuses.add(int(answer.split()[1]))

    def _connected(self, words: bytes, buffer: int = 0) -> socket.socket:
        sock = socket.socket()
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.settimeout(5.0)
        sock.connect(("127.0.0.1", self._port))
        with contextlib.suppress(OSError):
            sock.sendall(words)
        return sock


def request(path: str = "/metrics", *lines: str, method: str = "GET") -> bytes:
    """A well-formed request of one who leaves afterwards."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: here", "Connection: close", *lines, "", "")).encode()


def odd_accept(dice: random.Random) -> str:
    """Words of content negotiation in an order that means nothing."""
    return "".join(dice.choices(WORDS, k=dice.randrange(1, 40)))


def let_loose(strangers: Strangers) -> None:
    """Everybody at once."""
    strangers.wait_with(MANY, b"GET /metrics HTT")
    strangers.wait_with(30, request().replace(b"Connection: close\r\n", b"") * 200, buffer=4096)  # they read nothing
    drips = strangers.wait_with(20, b"GET /")
    strangers.keep_doing(lambda dice: dice.choice(drips).send(b"a"), 1)
    strangers.keep_doing(lambda _: strangers.say(b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"a" * MEBI), 2)
    strangers.keep_doing(lambda dice: strangers.say(dice.randbytes(dice.randrange(1, 5000)) + b"\r\n\r\n"), 3)
    strangers.keep_doing(lambda dice: strangers.say(request("/metrics", f"Accept: {odd_accept(dice)}")), 4)
    strangers.keep_doing(lambda dice: strangers.say(request(f"/{dice.getrandbits(64):x}?a=%00&name[]=%ff")), 5)
    strangers.keep_doing(lambda _: strangers.say(request(method="POST")), 6)
    strangers.keep_doing(lambda dice: strangers.say(request("/metrics", f"Accept-Encoding: {odd_accept(dice)}")), 7)


@contextlib.contextmanager
def survived(daemon: Daemon, scraper: Scraper, report: Report) -> Iterator[None]:
    """Watch the daemon while strangers are in, and until it is as before when they have left."""
    before = settled(daemon)
    seen: list[Vitals] = []
    leaving = threading.Event()

    def watch() -> None:
        while not leaving.wait(0.25):
            seen.append(vitals(daemon.pid))

    watcher = threading.Thread(target=watch, name="watcher")
    watcher.start()
    try:
        with scraper:
            yield
    finally:
        leaving.set()
        watcher.join()
    threads, descriptors, memory = (
        max(getattr(v, what) for v in seen) for what in ("threads", "descriptors", "memory")
    )

    wait(lambda: vitals(daemon.pid).descriptors <= before.descriptors + 1, 20.0)
    wait(lambda: vitals(daemon.pid).memory <= before.memory + MOST_AFTER, 20.0)
    after = vitals(daemon.pid)
    assert [] == scraper.failed
    assert max(scraper.took) < SLOWEST_SCRAPE
    assert threads <= before.threads
    assert descriptors <= MOST_DESCRIPTORS
    assert memory - before.memory <= MOST_DURING
    assert "bug" not in daemon.log
    assert "Traceback" not in daemon.log
    assert daemon.returncode is None
    kept = [f"{v.memory / MEBI:.1f}" for v in (before, Vitals(0, 0, memory), after)]
    report(
        f"{scraper.told()}; threads {before.threads}, at most {threads}; descriptors {before.descriptors}, "
        f"at most {descriptors}, then {after.descriptors}; PSS {kept[0]}, at most {kept[1]}, then {kept[2]} MiB"
    )


@pytest.mark.accept("4.2", "400 half-open, slow, lying and flooding clients: every good scrape is served, no 5xx")
def test_hostile_clients_do_not_hold_up_a_scrape(tmp_path: Path, seconds: Seconds, report: Report) -> None:
    """Threads, descriptors and memory stay within stated bounds, and are back when the strangers have left."""
    with Daemon(tmp_path, SYNTHETIC) as daemon:
        daemon.until(lambda metrics: bool(metrics.samples(ENERGY.decode())))
        with survived(daemon, Scraper(daemon.port), report), Strangers(daemon.port) as strangers:
            let_loose(strangers)
            pause(seconds(5, 120))

    assert {200, 400, 404, 405} <= strangers.statuses | {431}
    assert [] == [status for status in strangers.statuses if status >= 500]
    assert strangers.rounds > 100


@pytest.mark.accept("4.2", "TLS: 400 silent clients, and more that begin a handshake: every good scrape is served")
def test_silent_tls_clients_do_not_hold_up_a_scrape(tmp_path: Path, seconds: Seconds, report: Report) -> None:
    """A silent one costs a socket; one that has begun is one of few."""
    authority = Authority()
    authority.server(tmp_path)
    config = tmp_path / "web.yml"
    config.write_text("tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n")
    with Daemon(tmp_path, f'{SYNTHETIC}[web]\nconfig_file = "{config}"\n', wait=False) as daemon:
        wait_for_tls(daemon, authority)
        with survived(daemon, Scraper(daemon.port, authority.trusting()), report), Strangers(daemon.port) as strangers:
            strangers.keep_doing(strangers.come_and_go(40, b""), 1)
            strangers.wait_with(MANY, b"")
            strangers.keep_doing(lambda _: strangers.say(b"\x16\x03\x01\x02\x00\x01\x00"), 2)
            strangers.keep_doing(lambda dice: strangers.say(b"\x16" + dice.randbytes(2000)), 3)
            strangers.keep_doing(lambda dice: strangers.say(dice.randbytes(2000)), 4)
            strangers.keep_doing(lambda _: strangers.say(request()), 5)
            pause(seconds(5, 120))

    assert {400} == strangers.statuses
    assert strangers.rounds > 100


def wait_for_tls(daemon: Daemon, authority: Authority) -> None:
    """Return when it has something to show."""

    def shows() -> bool:
        connection = http.client.HTTPSConnection("localhost", daemon.port, timeout=5.0, context=authority.trusting())
        try:
            connection.request("GET", "/metrics")
            return ENERGY in connection.getresponse().read()
        except OSError:
            return False
        finally:
            connection.close()

    wait(shows)
