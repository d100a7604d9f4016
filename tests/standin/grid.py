"""Electricity Maps on loopback: answers as documented, or fails in one of the ways real servers do."""

from __future__ import annotations

import contextlib
import json
import math
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
from typing import Any, TypeAlias, final
from urllib.parse import parse_qsl, urlsplit

TOKEN = "standin-token-that-must-never-leak"
ENDPOINTS = ("latest", "history", "forecast", "zones")
ZONES: Mapping[str, tuple[str, str]] = {
    "DE": ("Germany", ""),
    "DK-DK2": ("East Denmark", "Denmark"),
    "FR": ("France", ""),
    "GB": ("Great Britain", ""),
    "US-CAL-CISO": ("California ISO", "USA"),
}

_MAX_ROWS = 289  # a day of 5 minutes and one: short test steps must not make megabytes
_GRANULARITIES = {300.0: "5_minutes", 900.0: "15_minutes", 3600.0: "hourly"}
_ODD_VALUES: Mapping[str, object] = {
    "nan": math.nan,
    "negative": -5.0,
    "boolean": True,
    "null": None,
    "garbage_string": "about average",
    "huge": 9999,
}
_NO_TOKEN = "Please provide a valid authentication header."
_BAD_TOKEN = "The provided token is invalid."
_NO_PLAN = "You do not have access to this specific endpoint for this specific zone."
_HTML = b"<!doctype html><html><head><title>Something else</title></head><body><h1>It works!</h1></body></html>\n"

Answer: TypeAlias = "dict[str, Any]"


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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Listener

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


class _Listener(ThreadingTCPServer):
    """Knows its open connections, so that stopping ends them instead of waiting for them."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, answer: Callable[[_Handler, Request], None]) -> None:
        self.answer = answer
        self._changed = threading.Condition()  # owns _open
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

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


class _Server:
    """A listener that can go away and come back on the same port; every request is kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # owns _requests
        self._requests: list[Request] = []
        self._listener: _Listener | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

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
        self._listener = _Listener(self.port, self._receive)
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

    def _receive(self, handler: _Handler, request: Request) -> None:
        with self._lock:
            self._requests.append(request)
        self._answer(handler, request)

    def _answer(self, handler: _Handler, request: Request) -> None:
        raise NotImplementedError


@final
class Recorder(_Server):
    """Answers everything with 200 and the same body: what it was sent is the point."""

    def __init__(self, body: bytes = b"{}\n", kind: str = "application/json") -> None:
        super().__init__()
        self.body = body
        self.kind = kind

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def saw(self, secret: str) -> bool:
        """Whether the secret arrived anywhere in a request."""
        return any(secret in repr(request) for request in self.requests)

    def _answer(self, handler: _Handler, request: Request) -> None:
        handler.reply(200, self.body, self.kind)


@final
class GridApi(_Server):
    """Electricity Maps v4 with a scripted grid and a scripted mood.

    `value` is constant unless `schedule` gives one per interval start (Unix seconds), every `step` seconds; `lag`
    seconds make `latest` answer an older interval. Attributes may be set at any time; the next request sees them.
    """

    def __init__(self, value: float = 75.0, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.token = TOKEN
        self.value = value
        self.schedule: Callable[[float], float] | None = None
        self.forecast: Callable[[float], float] | None = None  # None: the forecast is right
        self.step = 3600.0
        self.lag = 0.0
        self.estimated = False
        self.estimation_method: str | None = None
        self.access: tuple[str, ...] = ("latest", "history", "forecast")
        self.caller_zone = "US-CAL-CISO"  # where the API takes a caller who names no zone to be
        self.drip_every = 1.0
        self._clock = clock
        self._modes: dict[str, str] = {}

    def __enter__(self) -> GridApi:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # --- the script ---------------------------------------------------------------------------

    @property
    def mode(self) -> str:
        """How every endpoint behaves that has no mode of its own; see `_FAULTS` and `_QUIRKS`."""
        return self._modes.get("", "ok")

    @mode.setter
    def mode(self, mode: str) -> None:
        self._set_mode("", mode)

    def misbehave(self, endpoint: str, mode: str) -> None:
        """Give one of `ENDPOINTS` a mode of its own."""
        assert endpoint in ENDPOINTS, endpoint
        self._set_mode(endpoint, mode)

    def _set_mode(self, endpoint: str, mode: str) -> None:
        assert mode == "ok" or mode.partition(":")[0] in {*_FAULTS, *_QUIRKS}, f"no such mode: {mode}"
        self._modes[endpoint] = mode

    def value_at(self, wall: float) -> float:
        """The grid's g/kWh in the interval that starts at `wall`."""
        return self.value if self.schedule is None else self.schedule(wall)

    def start_of(self, wall: float) -> float:
        """The start of the interval that runs at `wall`, both Unix seconds."""
        return math.floor(wall / self.step) * self.step

    # --- answering ----------------------------------------------------------------------------

    def _answer(self, handler: _Handler, request: Request) -> None:
        endpoint = request.path.rpartition("/")[2]
        known = {f"/v4/carbon-intensity/{name}" for name in ENDPOINTS[:3]} | {"/v4/zones"}
        if request.method != "GET" or request.path not in known:
            handler.reply(404, _HTML, "text/html")
            return
        mode = self._modes.get(endpoint, self.mode)
        kind, _, argument = mode.partition(":")
        if kind in _FAULTS:
            _FAULTS[kind](self, handler, argument)
        elif endpoint == "zones":
            handler.reply_json(200, self._zones(request.headers.get("auth-token") == self.token))
        else:
            handler.reply_json(*self._judged(endpoint, kind, request))

    def _zones(self, known_caller: bool) -> Answer:  # noqa: FBT001
        access = {"access": [f"carbon-intensity/{name}" for name in self.access]} if known_caller else {}
        return {
            key: {"zoneName": name, "zoneKey": key, **({"countryName": country} if country else {}), **access}
            for key, (name, country) in ZONES.items()
        }

    def _judged(self, endpoint: str, mode: str, request: Request) -> tuple[int, object]:
        zone = self._zone(request.query)
        refusal = _bad_request(zone, request.query) or self._unauthorised(endpoint, mode, zone or "", request.headers)
        if refusal or zone is None:
            return refusal or (400, {})
        if mode == "empty" or (self.estimated and request.query.get("disableEstimations") == "true"):
            return 404, {"status": "error", "message": f'No recent data for zone "{zone}"'}
        return 200, self._distorted(mode, getattr(self, f"_{endpoint}")(zone, request.query))

    def _zone(self, query: Mapping[str, str]) -> str | None:
        """None: the caller named no place and forbade guessing it."""
        named = query.get("zone") or query.get("zoneKey")
        if named is None and query.get("disableCallerLookup") == "true":
            return None
        return named or self.caller_zone

    def _unauthorised(
        self, endpoint: str, mode: str, zone: str, headers: Mapping[str, str]
    ) -> tuple[int, Answer] | None:
        token = headers.get("auth-token")
        if token != self.token:
            return 401, {"error": "Invalid auth-token", "message": _BAD_TOKEN if token else _NO_TOKEN}
        if mode == "plan401" or endpoint not in self.access:
            error = f"Request unauthorized for zoneKey={zone},requestType={endpoint},dataType=carbon-intensity."
            return 401, {"error": error, "message": _NO_PLAN}
        return None

    def _latest(self, zone: str, query: Mapping[str, str]) -> Answer:
        row = self._row(zone, query, self.start_of(self._clock() - self.lag))
        return {**row, "flowTraced": query.get("flowTraced") != "false", "temporalGranularity": self._granularity}

    def _history(self, zone: str, query: Mapping[str, str]) -> Answer:
        newest = self.start_of(self._clock() - self.lag)
        rows = [self._row(zone, query, newest - back * self.step) for back in reversed(range(self._rows(24)))]
        return {"zone": zone, "history": rows, "temporalGranularity": self._granularity}

    def _forecast(self, zone: str, query: Mapping[str, str]) -> Answer:
        first = self.start_of(self._clock())
        says = self.forecast or self.value_at
        starts = [first + ahead * self.step for ahead in range(self._rows(int(query.get("horizonHours", "24"))) + 1)]
        rows = [{"carbonIntensity": says(start), "datetime": iso(start)} for start in starts]
        return {"zone": zone, "forecast": rows, "updatedAt": iso(first), "temporalGranularity": self._granularity}

    def _row(self, zone: str, query: Mapping[str, str], start: float) -> Answer:
        return {
            "zone": zone,
            "carbonIntensity": self.value_at(start),
            "datetime": iso(start),
            "updatedAt": iso(start),
            "createdAt": iso(start - 3 * 86_400),
            "emissionFactorType": query.get("emissionFactorType", "lifecycle"),
            "isEstimated": self.estimated,
            "estimationMethod": self.estimation_method,
        }

    @property
    def _granularity(self) -> str:
        return _GRANULARITIES.get(self.step, f"test_{self.step:g}s")

    def _rows(self, hours: int) -> int:
        return max(1, min(_MAX_ROWS, round(hours * 3600 / self.step)))

    def _distorted(self, mode: str, answer: Answer) -> object:
        if mode == "wrong_zone":
            return _with_rows(answer, lambda row: {**row, "zone": "GB" if row["zone"] != "GB" else "FR"}, field="zone")
        if mode == "missing_field":
            return _with_rows(answer, lambda row: {k: v for k, v in row.items() if k != "carbonIntensity"})
        if mode == "string":
            return _with_rows(answer, lambda row: {**row, "carbonIntensity": str(row["carbonIntensity"])})
        if mode in _ODD_VALUES:
            return _with_rows(answer, lambda row: {**row, "carbonIntensity": _ODD_VALUES[mode]})
        return [answer] if mode == "array" else answer


def _with_rows(answer: Answer, change: Callable[[Answer], Answer], field: str = "carbonIntensity") -> Answer:
    """Change whatever has the field: the object itself, and its rows."""
    lists = {key: [change(row) if field in row else row for row in v] for key, v in answer.items() if type(v) is list}
    return change({**answer, **lists}) if field in answer else {**answer, **lists}


def _bad_request(zone: str | None, query: Mapping[str, str]) -> tuple[int, Answer] | None:
    """Whatever is judged before the token is."""
    if zone is None:
        message = "No zone was given and caller lookup is disabled."
    elif zone not in ZONES:
        message = f"Zone '{zone}' does not exist."
    elif query.get("emissionFactorType", "lifecycle") not in {"lifecycle", "direct"}:
        message = "Invalid emissionFactorType."
    elif query.get("temporalGranularity", "hourly") not in _GRANULARITIES.values():
        message = "Invalid temporalGranularity."
    elif query.get("horizonHours", "24") not in {"6", "24", "48", "72"}:
        message = "Invalid horizonHours."
    else:
        return None
    return 400, {"status": "error", "message": message}


def _good(api: GridApi) -> bytes:
    return json.dumps(api._latest("FR", {})).encode()


def _status(api: GridApi, handler: _Handler, argument: str) -> None:
    named = {"401": {"error": "Invalid auth-token", "message": _BAD_TOKEN}}
    handler.reply_json(int(argument), named.get(argument, {"status": "error", "message": f"This is a {argument}."}))


def _retry(api: GridApi, handler: _Handler, argument: str) -> None:
    handler.reply_json(429, {"status": "error", "message": "Too many requests."}, Retry_After=argument)


def _retry_date(api: GridApi, handler: _Handler, argument: str) -> None:
    _retry(api, handler, formatdate(api._clock() + float(argument), usegmt=True))


def _html(api: GridApi, handler: _Handler, argument: str) -> None:
    handler.reply(200, _HTML, "text/html")


def _html500(api: GridApi, handler: _Handler, argument: str) -> None:
    handler.reply(500, _HTML, "text/html")


def _oversize(api: GridApi, handler: _Handler, argument: str) -> None:
    handler.reply(200, _good(api)[:-1] + b', "padding": "' + b"x" * (2 << 20) + b'"}')


def _redirect(api: GridApi, handler: _Handler, argument: str) -> None:
    handler.reply(302, b"", "text/plain", Location=argument)


def _truncated(api: GridApi, handler: _Handler, argument: str) -> None:
    """Send valid JSON: only the length tells that more was promised."""
    handler.head(200, len(_good(api)) + 100)
    handler.wfile.write(_good(api))
    handler.close_connection = True


def _hang(api: GridApi, handler: _Handler, argument: str) -> None:
    handler.hang()


def _hang_after_headers(api: GridApi, handler: _Handler, argument: str) -> None:
    handler.head(200, len(_good(api)))
    handler.hang()


def _drip(api: GridApi, handler: _Handler, argument: str) -> None:
    body = _good(api)
    handler.head(200, len(body))
    handler.drip(body, api.drip_every)


def _drip_headers(api: GridApi, handler: _Handler, argument: str) -> None:
    body = _good(api)
    headers = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    handler.drip(headers.encode() + body, api.drip_every)


def _not_json(api: GridApi, handler: _Handler, argument: str) -> None:
    handler.reply(200, b'{"zone": "FR", "carbonIntensity": ')


# Before anything is looked at; the part of the mode after the colon is the last argument.
_FAULTS: Mapping[str, Callable[[GridApi, _Handler, str], None]] = {
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
# Only for a caller who would have got a good answer.
_QUIRKS = ("plan401", "empty", "wrong_zone", "missing_field", "string", "array", *_ODD_VALUES)
