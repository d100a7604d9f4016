"""A server on loopback that answers as its kind does, or fails in one of the ways real servers do."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from types import TracebackType
from typing import Any, TypeAlias, TypeVar, final
from urllib.parse import parse_qsl, urlsplit

HTML = b"<!doctype html><html><head><title>Something else</title></head><body><h1>It works!</h1></body></html>\n"

Answer: TypeAlias = "dict[str, Any]"
_Self = TypeVar("_Self", bound="Server")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent; header names in lower case, `at` in monotonic seconds."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    at: float = field(compare=False)


def iso(wall: float) -> str:
    """Unix seconds as the API writes them: `2026-08-22T17:00:00.000Z`."""
    seconds, milliseconds = divmod(round(wall * 1000), 1000)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Listener

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        self.server.answer(self, Request(self.command, url.path, query, headers, body, time.monotonic()))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any  # noqa: N815

    def reply(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.head(status, len(body), kind, **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, status: int, body: object, **headers: str) -> None:
        self.reply(status, json.dumps(body).encode(), "application/json; charset=utf-8", **headers)

    def head(self, status: int, length: int, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        if self.headers.get("Connection", "").lower() == "close":
            self.send_header("Connection", "close")
        self.end_headers()

    def hang(self) -> None:
        """Stay silent until the client gives up or the server is stopped."""
        while not self.left_within(None):
            pass
        self.close_connection = True

    def drip(self, text: bytes, every: float) -> None:
        """Send a byte at a time until the client gives up or the server is stopped."""
        for byte in text:
            self.wfile.write(bytes([byte]))
            if self.left_within(every):
                break
        self.close_connection = True

    def left_within(self, seconds: float | None) -> bool:
        try:
            self.connection.settimeout(seconds)
            return not self.connection.recv(1)
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                self.connection.settimeout(None)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Listener(ThreadingTCPServer):
    """Knows its open connections, so that stopping ends them instead of waiting for them."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, answer: Callable[[Handler, Request], None]) -> None:
        self.answer = answer
        self._changed = threading.Condition()  # owns _open
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that hang up are the very thing under test; anything else is a mistake in the script.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        with self._changed:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, timeout=10.0)


class Server:
    """A listener that can go away and come back on the same port; every request is kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # owns _requests
        self._requests: list[Request] = []
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

    def __enter__(self: _Self) -> _Self:  # noqa: PYI019 - typing has Self from 3.11 on
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Scheme, host and port, without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """Everything received so far, oldest first."""
        with self._lock:
            return list(self._requests)

    def start(self) -> None:
        """Listen: on any port the first time, on that same one later."""
        if self._listener is not None:
            raise RuntimeError("the server is running")
        self._listener = Listener(self.port, self._receive)
        self.port = self._listener.server_address[1]
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections from now on and end the open ones."""
        if self._listener is None or self._thread is None:
            return
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()
        self._listener.hang_up()
        self._listener = self._thread = None

    def wait_for_requests(self, count: int, deadline: float = 30.0) -> list[Request]:
        """Return all requests once there are so many; AssertionError at the deadline."""
        end = time.monotonic() + deadline
        while len(self.requests) < count:
            assert time.monotonic() < end, f"{len(self.requests)} requests instead of {count} in {deadline:g} s"
            time.sleep(0.005)
        return self.requests

    def _receive(self, handler: Handler, request: Request) -> None:
        with self._lock:
            self._requests.append(request)
        self._answer(handler, request)

    def _answer(self, handler: Handler, request: Request) -> None:
        raise NotImplementedError


@final
class Recorder(Server):
    """Answers everything with 200 and the same body: what it was sent is the point."""

    def __init__(self, body: bytes = b"{}\n", kind: str = "application/json") -> None:
        super().__init__()
        self.body = body
        self.kind = kind

    def saw(self, secret: str) -> bool:
        """Whether the secret arrived anywhere in a request."""
        return any(secret in repr(request) for request in self.requests)

    def _answer(self, handler: Handler, request: Request) -> None:
        handler.reply(200, self.body, self.kind)


class MoodyServer(Server):
    """An API with a scripted mood: good, one of `FAULTS` whoever asks, or one of `quirks` in a good answer.

    `mode` holds for every endpoint that has none of its own; the part after a colon is the fault's argument.
    Attributes may be set at any time; the next request sees them.
    """

    quirks: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.drip_every = 1.0
        self._modes: dict[str, str] = {}

    @property
    def mode(self) -> str:
        """How every endpoint behaves that has no mode of its own."""
        return self._modes.get("", "ok")

    @mode.setter
    def mode(self, mode: str) -> None:
        self._set_mode("", mode)

    def misbehave(self, endpoint: str, mode: str) -> None:
        """Give one of `endpoints` a mode of its own."""
        assert endpoint in self.endpoints, endpoint
        self._set_mode(endpoint, mode)

    def _set_mode(self, endpoint: str, mode: str) -> None:
        assert mode == "ok" or mode.partition(":")[0] in {*FAULTS, *self.quirks}, f"no such mode: {mode}"
        self._modes[endpoint] = mode

    def fails(self, handler: Handler, endpoint: str) -> bool:
        """Whether a fault answered instead."""
        kind, _, argument = self._modes.get(endpoint, self.mode).partition(":")
        if kind in FAULTS:
            FAULTS[kind](self, handler, argument)
        return kind in FAULTS

    def quirk(self, endpoint: str) -> str:
        """The quirk asked for at an endpoint; `ok`: none."""
        return self._modes.get(endpoint, self.mode)

    def good(self) -> bytes:
        """A good answer, for faults that spoil it on the way."""
        raise NotImplementedError

    def refused(self, status: int) -> object:
        """The body of a refusal."""
        return {"status": "error", "message": f"This is a {status}."}


def _status(api: MoodyServer, handler: Handler, argument: str) -> None:
    handler.reply_json(int(argument), api.refused(int(argument)))


def _retry(api: MoodyServer, handler: Handler, argument: str) -> None:
    handler.reply_json(429, {"status": "error", "message": "Too many requests."}, Retry_After=argument)


def _retry_date(api: MoodyServer, handler: Handler, argument: str) -> None:
    _retry(api, handler, formatdate(api.clock() + float(argument), usegmt=True))


def _html(api: MoodyServer, handler: Handler, argument: str) -> None:
    handler.reply(200, HTML, "text/html")


def _html500(api: MoodyServer, handler: Handler, argument: str) -> None:
    handler.reply(500, HTML, "text/html")


def _oversize(api: MoodyServer, handler: Handler, argument: str) -> None:
    handler.reply(200, api.good()[:-1] + b', "padding": "' + b"x" * (2 << 20) + b'"}')


def _redirect(api: MoodyServer, handler: Handler, argument: str) -> None:
    handler.reply(302, b"", "text/plain", Location=argument)


def _truncated(api: MoodyServer, handler: Handler, argument: str) -> None:
    """Send valid JSON: only the length tells that more was promised."""
    handler.head(200, len(api.good()) + 100)
    handler.wfile.write(api.good())
    handler.close_connection = True


def _hang(api: MoodyServer, handler: Handler, argument: str) -> None:
    handler.hang()


def _hang_after_headers(api: MoodyServer, handler: Handler, argument: str) -> None:
    handler.head(200, len(api.good()))
    handler.hang()


def _drip(api: MoodyServer, handler: Handler, argument: str) -> None:
    body = api.good()
    handler.head(200, len(body))
    handler.drip(body, api.drip_every)


def _drip_headers(api: MoodyServer, handler: Handler, argument: str) -> None:
    body = api.good()
    headers = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    handler.drip(headers.encode() + body, api.drip_every)


def _not_json(api: MoodyServer, handler: Handler, argument: str) -> None:
    handler.reply(200, b'{"zone": "FR", "carbonIntensity": ')


# Before anything is looked at; the part of the mode after the colon is the last argument.
FAULTS: Mapping[str, Callable[[MoodyServer, Handler, str], None]] = {
    "status": _status,
    "retry429": _retry,
    "retry429date": _retry_date,
    "html": _html,
    "html500": _html500,
    "oversize": _oversize,
    "redirect": _redirect,
    "truncated": _truncated,
    "hang": _hang,
    "hang_after_headers": _hang_after_headers,
    "drip": _drip,
    "drip_headers": _drip_headers,
    "not_json": _not_json,
}
