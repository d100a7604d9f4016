"""One web.config.yml for a real node_exporter and for the daemon: the same answers; certificates change under load."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import pytest

from standin import debian, prometheus
from standin.certificates import Authority, hashed, replace
from standin.daemon import Daemon
from standin.watching import wait
from standin.wire import free_port
from wattgram.logs import MOST_OF_A_KIND

Seconds = Callable[[float, float], float]
Report = Callable[[str], None]

SYNTHETIC = """
[sources.synthetic]
enabled = true
[sources.nvml]
enabled = false
[sources.rapl]
enabled = false
[sources.hwmon]
enabled = false
[web]
config_file = "{path}"
"""
HEADERS = ("strict-transport-security", "x-frame-options", "x-content-type-options", "www-authenticate")
WRONG_PORT = b"Client sent an HTTP request to an HTTPS server.\n"
PAIR = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
PROGRAM = "prometheus-node-exporter"


@dataclass(frozen=True)
class Answer:
    """What somebody got: a status, the headers that the configuration decides on, the body where it is short."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


REFUSED = Answer(0, {})


def ask(port: int, tls: ssl.SSLContext | None, user: str = "", password: str = "", path: str = "/metrics") -> Answer:
    """Ask over a connection of its own; TLS that is not agreed upon is a refusal."""
    connection = (
        http.client.HTTPSConnection("localhost", port, timeout=10, context=tls)
        if tls
        else http.client.HTTPConnection("localhost", port, timeout=10)
    )
    code = base64.b64encode(f"{user}:{password}".encode()).decode()
    try:
        connection.request("GET", path, headers={"Authorization": f"Basic {code}"} if user else {})
        reply = connection.getresponse()
        headers = {k.lower(): v for k, v in reply.getheaders() if k.lower() in HEADERS}
        body = reply.read()
        return Answer(reply.status, headers, body if reply.status != 200 else b"")
    except (ssl.SSLError, ConnectionResetError, http.client.RemoteDisconnected):
        return REFUSED
    finally:
        connection.close()


class NodeExporter:
    """A real node_exporter with a web.config.yml, until the block ends."""

    def __init__(self, directory: Path, config: Path) -> None:
        self._log = directory / "node_exporter.log"
        self._config = config
        self.port = free_port()

    def __enter__(self) -> NodeExporter:  # noqa: PYI034 - Self is of 3.11
        (program,) = debian.programs_or_skip(PROGRAM, (PROGRAM,))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(program, f"--web.config.file={self._config}", f"--web.listen-address=127.0.0.1:{self.port}"),
                    *("--collector.disable-defaults", "--collector.time"),
                ],
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self) -> int | None:
        """Return its exit status as soon as there is one; None: it listens."""
        wait(lambda: self._process.poll() is not None or listens(self.port), 20.0)
        return self._process.poll()


def listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as probe:
        probe.settimeout(5.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def agent(directory: Path, config: Path) -> Iterator[Daemon]:
    """The daemon with a web.config.yml; it listens."""
    with Daemon(directory / "agent", SYNTHETIC.format(path=config), wait=False) as daemon:
        wait(lambda: daemon.returncode is not None or listens(daemon.port), 20.0)
        assert daemon.returncode is None, daemon.log
        yield daemon


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def directory(tmp_path: Path, authority: Authority) -> Path:
    """A certificate, its key and its authority."""
    authority.server(tmp_path)
    authority.write(tmp_path / "ca.pem")
    return tmp_path


def passwords() -> str:
    """TLS, headers and a user."""
    headers = (
        "http_server_config:\n  headers:\n    Strict-Transport-Security: max-age=31536000\n    X-Frame-Options: deny\n"
    )
    return f"{PAIR}{headers}basic_auth_users:\n  alice: {hashed('wonder', 10)}\n"


def questions(tls: ssl.SSLContext) -> dict[str, Callable[[int], Answer]]:
    """What strangers and friends try where a password is asked for."""
    return {
        "no credentials": lambda port: ask(port, tls),
        "the right ones": lambda port: ask(port, tls, "alice", "wonder"),
        "the right ones again": lambda port: ask(port, tls, "alice", "wonder"),
        "a bad password": lambda port: ask(port, tls, "alice", "wander"),
        "an unknown user": lambda port: ask(port, tls, "bob", "wonder"),
        "no credentials, on the first page": lambda port: ask(port, tls, path="/"),
        "no credentials, on no page": lambda port: ask(port, tls, path="/nowhere"),
        "plain HTTP": lambda port: ask(port, None, "alice", "wonder"),
    }


@pytest.mark.accept("4.3", "one web.config.yml: node_exporter and the daemon answer alike; promtool accepts it")
def test_passwords_are_answered_as_by_node_exporter(directory: Path, authority: Authority, report: Report) -> None:
    """Status, headers and words, with the credentials right, wrong, unknown and absent, and over plain HTTP."""
    config = directory / "web.yml"
    config.write_text(passwords())
    asked = questions(authority.trusting())

    with NodeExporter(directory, config) as theirs, agent(directory, config) as ours:
        assert theirs.wait() is None
        expected = {name: question(theirs.port) for name, question in asked.items()}
        actual = {name: question(ours.port) for name, question in asked.items()}

    statuses = [answer.status for answer in expected.values()]
    assert [401, 200, 200, 401, 401, 401, 401, 400] == statuses
    assert statuses == [answer.status for answer in actual.values()]
    for name, answer in expected.items():
        assert answer.body == actual[name].body, name
        for header, value in answer.headers.items():
            assert value == actual[name].headers.get(header), (name, header)
    assert expected["plain HTTP"].body == WRONG_PORT
    prometheus.tools_or_skip()
    assert prometheus.check_web_config(config) is None
    report(f"{len(asked)} questions, the same status, headers and words; promtool accepts the file")


@pytest.mark.accept("4.3", "client certificates: none, another authority's and the right one are answered alike")
def test_client_certificates_are_asked_for_as_by_node_exporter(
    directory: Path, authority: Authority, report: Report
) -> None:
    """Only the right one opens; plain HTTP is told so."""
    config = directory / "web.yml"
    config.write_text(f"{PAIR}  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n")
    contexts = {
        "none": authority.trusting(),
        "another authority's": authority.trusting(Authority().client(directory / "wrong.pem")),
        "the right one": authority.trusting(authority.client(directory / "right.pem")),
        "plain HTTP": None,
    }

    with NodeExporter(directory, config) as theirs, agent(directory, config) as ours:
        assert theirs.wait() is None
        expected = {name: ask(theirs.port, tls).status for name, tls in contexts.items()}
        actual = {name: ask(ours.port, tls).status for name, tls in contexts.items()}

    assert {"none": 0, "another authority's": 0, "the right one": 200, "plain HTTP": 400} == expected
    assert expected == actual
    assert prometheus.check_web_config(config) is None
    report(", ".join(f"{name}: {status or 'refused'}" for name, status in actual.items()))


BAD = {
    "no YAML": "tls_server_config: [\n",
    "unknown key": "tls_server_config:\n  cert_fil: cert.pem\n",
    "key twice": "basic_auth_users:\n  a: {hash}\n  a: {hash}\n",
    "no key": "tls_server_config:\n  cert_file: cert.pem\n",
    "no certificate": "tls_server_config:\n  key_file: key.pem\n",
    "not there": "tls_server_config:\n  cert_file: nowhere.pem\n  key_file: key.pem\n",
    "not a pair": "tls_server_config:\n  cert_file: ca.pem\n  key_file: key.pem\n",
    "authority, no policy": PAIR + "  client_ca_file: ca.pem\n",
    "unknown policy": PAIR + "  client_ca_file: ca.pem\n  client_auth_type: Sometimes\n",
    "unknown version": PAIR + "  min_version: TLS14\n",
    "unknown suite": PAIR + "  cipher_suites: [TLS_NONE]\n",
    "unknown curve": PAIR + "  curve_preferences: [Curve1]\n",
    "no hash": "basic_auth_users:\n  alice: wonder\n",
    "forbidden header": "http_server_config:\n  headers:\n    Server: mine\n",
    "forbidden value": "http_server_config:\n  headers:\n    X-Frame-Options: never\n",
}


@pytest.mark.accept("4.3", "what node_exporter refuses in a web.config.yml, the daemon refuses, with file and key")
def test_bad_files_are_refused_by_both(directory: Path, report: Report) -> None:
    """Before anything listens, with exit status 2 and the place in the file."""
    config = directory / "web.yml"
    refused = 0
    for name, text in BAD.items():
        config.write_text(text.format(hash=hashed("x")))
        with NodeExporter(directory, config) as theirs:
            assert theirs.wait(), name
        daemon = directory / "wattgram.toml"
        daemon.write_text(SYNTHETIC.format(path=config))
        ours = subprocess.run(
            [sys.executable, "-m", "wattgram", "run", "--config", daemon, "--listen", f"127.0.0.1:{free_port()}"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert ours.returncode == 2, (name, ours.stderr)
        assert "web.yml" in ours.stderr or "tls_server_config." in ours.stderr, (name, ours.stderr)
        refused += 1
    report(f"{refused} bad files refused by both")


class Scraper(threading.Thread):
    """Scrapes all the time, each time over a new connection, and notes whose certificate it was shown."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        super().__init__(name="scraper")
        self._port, self._tls = port, tls
        self._stopping = threading.Event()
        self.scrapes = 0
        self.failed: list[str] = []
        self.serials: list[str] = []

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._scrape()
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
            self.scrapes += 1
            time.sleep(0.002)  # a pace, so that others have their turn

    def _scrape(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self._port), timeout=5.0)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as Go's client does
        with plain, self._tls.wrap_socket(plain, server_hostname="localhost") as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            answer = b""
            while piece := sock.recv(65_536):
                answer += piece
            serial = str((sock.getpeercert() or {})["serialNumber"])
        if not answer.startswith(b"HTTP/1.1 200 ") or b"wattgram_device_energy_joules_total" not in answer:
            self.failed.append(f"{answer[:80]!r}")
        if serial not in self.serials:
            self.serials.append(serial)

    def pass_by(self, count: int) -> None:
        """Return after so many more scrapes."""
        until = self.scrapes + count
        wait(lambda: self.scrapes >= until, 30.0)

    def has_seen(self, certificates: int) -> bool:
        """Whether it was shown so many certificates."""
        return len(self.serials) >= certificates

    def stop(self) -> None:
        self._stopping.set()
        self.join()


@pytest.mark.accept("4.3", "certificates rotated under load, half-written ones among them: no failed scrape")
def test_certificates_rotate_under_load(
    directory: Path, authority: Authority, seconds: Seconds, report: Report
) -> None:
    """A new pair is shown to the next connection; while it is half written, the old one is, with one warning."""
    config = directory / "web.yml"
    config.write_text(PAIR.replace(": ", ": live/"))
    first = directory / "first"
    first.mkdir()
    authority.server(first)
    swap(directory, first)
    rotations = int(seconds(6, 200))
    with agent(directory, config) as daemon:
        scraper = Scraper(daemon.port, authority.trusting())
        scraper.start()
        try:
            scraper.pass_by(5)
            for turn in range(rotations):
                rotate(directory, authority, scraper, turn)
                wait(partial(scraper.has_seen, turn + 2), 20.0)
        finally:
            scraper.stop()
        log = daemon.log

    assert [] == scraper.failed
    assert rotations + 1 == len(scraper.serials)
    halves = sum(1 for turn in range(rotations) if turn % 3)
    for told in ("stays in force", "is good now"):
        shown = log.count(told)
        if rotations < MOST_OF_A_KIND:
            assert halves == shown
        else:  # the log has so many lines of a kind in a minute, and the next one tells how many were left out
            assert 0 < shown < halves
    report(f"{rotations} rotations, {halves} of them half written for a while: {scraper.scrapes} scrapes, none failed")


def swap(directory: Path, generation: Path) -> None:
    """Let `live` lead to another folder, as a mounted Kubernetes secret does: both files change together."""
    (directory / "next").symlink_to(generation.name)
    (directory / "next").rename(directory / "live")


def rotate(directory: Path, authority: Authority, scraper: Scraper, turn: int) -> None:
    """A new pair: at once; the certificate long before its key; or the certificate cut short for a while."""
    new = directory / f"generation-{turn}"
    new.mkdir()
    authority.server(new)
    certificate, key = (new / "cert.pem").read_bytes(), (new / "key.pem").read_bytes()
    kind = turn % 3
    if kind == 0:
        swap(directory, new)
        return
    replace(directory / "live/cert.pem", certificate if kind == 1 else certificate[:300])
    scraper.pass_by(10)
    replace(directory / "live/key.pem", key)
    scraper.pass_by(5)
    replace(directory / "live/cert.pem", certificate)
