"""One server in this process and its clients, byte by byte, plain or in TLS."""

from __future__ import annotations

import contextlib
import gc
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from wattgram.ports import ConfigError
from wattgram_exporters.guard import Guard
from wattgram_exporters.server import Limits, Request, Response, Server

Answer = Callable[[Request], Response]

LOCAL = "127.0.0.1"
PATIENCE = 20.0  # seconds after which a test gives up
GET = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"
START_ATTEMPTS = 5  # somebody may take the free port first


def echo(request: Request) -> Response:
    """Answer with what was asked."""
    return Response(200, f"{request.method} {request.path}\n".encode(), {"Content-Type": "text/plain"})


def free_port(host: str = LOCAL) -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(
    answer: Answer = echo, host: str = LOCAL, limits: Limits | None = None, guard: Guard | None = None
) -> Iterator[int]:
    """A running server, in which nobody is; gives its port."""
    for attempt in range(START_ATTEMPTS):
        port = free_port(host)
        server = Server(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", answer, limits, guard)
        try:
            server.start()
            break
        except ConfigError:
            if attempt == START_ATTEMPTS - 1:
                raise
    try:
        yield port
    finally:
        server.stop()
        gc.collect()  # what it did not close is found here, and not in a later test


@dataclass(frozen=True)
class Reply:
    """An answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection, byte by byte."""

    def __init__(
        self, port: int, host: str = LOCAL, receive_buffer: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.socket: socket.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        try:
            self.socket.connect((host, port))
            if tls:
                self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        except OSError:
            self.socket.close()
            raise
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Client:  # noqa: PYI034 - Self is of 3.11
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self.socket.close()

    def send(self, raw: bytes) -> None:
        """Say something; that the other side has left already is no matter."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(raw)

    def receive(self, *, body: bool = True) -> Reply:
        """Take one answer; `body` False: to a HEAD."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Reply(status, headers, self._file.read(int(headers["content-length"])) if body else b"")

    def ask(self, raw: bytes = GET, *, body: bool = True) -> Reply:
        """Ask and take the answer."""
        self.send(raw)
        return self.receive(body=body)

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        found = b""
        with contextlib.suppress(ConnectionError):
            while piece := self._file.read1(65_536):
                found += piece
        return found

    @property
    def is_open(self) -> bool:
        """Whether the other side still holds the connection, as far as is known here."""
        self.socket.setblocking(False)  # noqa: FBT003
        try:
            return bool(self.socket.recv(1))
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        finally:
            self.socket.settimeout(PATIENCE)


def comes_true(condition: Callable[[], bool], deadline: float = PATIENCE) -> bool:
    """Whether a condition holds before the deadline."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def descriptors() -> int:
    """How many this process holds: clients and server together."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
