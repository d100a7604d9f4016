"""The one HTTP client: every request bounded in time and size, and no credential ever carried elsewhere.

`trust_env` is off (a ~/.netrc would replace our header, a proxy variable our route); redirects are off (one would
carry the token to another host); a reply counts only when it is complete, in time and of bearable size. Timeouts per
read let a dripping server hold a reader for ever, so a timer shuts the connection at the deadline. A stream of lines
is bounded in the same way: its head as any reply, then its length, its silences and its longest line.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import html
import json
import re
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timezone
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ReadTimeoutError

from wattgram import __version__
from wattgram.ports import ReadFailed

MAX_BYTES = 1 << 20
CONNECT_SECONDS = 5.0
EXCERPT_BYTES = 200
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    def json(self) -> Any:
        """Return the body as JSON; raise ReadFailed(shape). NaN and Infinity are not JSON."""
        try:
            return json.loads(self.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ReadFailed(f"{self.url}: not JSON: {self.excerpt()}", "shape") from error

    def excerpt(self) -> str:
        """Return the beginning of the body, fit for a log line."""
        text = self.body[:EXCERPT_BYTES].decode("utf-8", "replace")
        return "".join(c if c.isprintable() else " " for c in text)

    def retry_after(self, now: float) -> float | None:
        """Return the seconds the server asks us to wait, from Retry-After in either form; None: it does not."""
        return parse_retry_after(self.headers.get("Retry-After", ""), now)


def parse_retry_after(text: str, now: float) -> float | None:
    """Return seconds from `Retry-After: 120` or an HTTP date, at least 0, at most a day; None for anything else."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            moment = email.utils.parsedate_to_datetime(text)
            # A date without a zone is in UTC, as all HTTP dates are (RFC 9110, 5.6.7).
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp() - now
        except (TypeError, ValueError, IndexError, OverflowError):
            return None
    return min(max(seconds, 0.0), 86_400.0)


def without(body: bytes, secrets: Iterable[str]) -> bytes:
    """Return a reply without what we sent in headers: some servers tell a credential back, and errors quote replies."""
    for secret in secrets:
        if secret:
            body = _any_form(secret).sub(b"***", body)
    return body


@functools.lru_cache(maxsize=32)
def _any_form(secret: str) -> re.Pattern[bytes]:
    """What a server may write for a text: each character as it is, or escaped for JSON, HTML or an address."""
    return re.compile(b"".join(_forms(c) for c in secret), re.IGNORECASE)


def _forms(c: str) -> bytes:
    code = ord(c)
    forms = {re.escape(c), re.escape(json.dumps(c)[1:-1]), re.escape(html.escape(c)), re.escape(quote(c, safe=""))}
    forms |= {rf"\\{re.escape(c)}", rf"\\u{code:04x}", rf"%{code:02x}", f"&#0*{code};", f"&#x0*{code:x};"}
    return f"(?:{'|'.join(sorted(forms, key=len, reverse=True))})".encode()


class Stream:
    """A reply that goes on; `reply` is its beginning, with a body where the status is not 200."""

    def __init__(self, reply: Reply, response: requests.Response, lasts: float, idle: float, longest: int) -> None:
        self.reply = reply
        self._response = response
        self._ends, self._lasts = time.monotonic() + lasts, lasts
        self._idle = idle
        self._longest = longest

    def lines(self) -> Iterator[bytes]:
        """Return each whole line as it comes, unread by anybody: what it says may be a credential of ours.

        It ends where the server ends it; raise ReadFailed(timeout, server or shape).
        """
        url, line = self.reply.url, bytearray()
        try:
            for chunk in self._response.iter_content(CHUNK_BYTES):
                first, *more = chunk.split(b"\n")
                line += first
                for part in more:
                    yield bytes(line)
                    line = bytearray(part)
                if len(line) > self._longest:
                    raise ReadFailed(f"{url}: a line is longer than {self._longest} bytes", "shape")
        except (requests.RequestException, HTTPError, OSError, ValueError, AttributeError) as error:
            # AttributeError: http.client's, where the socket was shut under it.
            if isinstance(_inner(error), ReadTimeoutError):
                raise ReadFailed(f"{url}: nothing came for {self._idle:g} s", "timeout") from error
            if time.monotonic() < self._ends:
                raise ReadFailed(f"{url}: {_plain(error)}", "server") from error
        if time.monotonic() >= self._ends:  # cut short at the deadline, it may look complete
            raise ReadFailed(f"{url}: had not ended after {self._lasts:g} s", "timeout")


class Fetcher:
    """Fetches from one place. `timeout` is the total seconds of one request, from its start to its last byte.

    `ca_file`: who signs for the server, instead of the public authorities.
    """

    def __init__(
        self,
        timeout: float,
        max_bytes: int = MAX_BYTES,
        wall: Callable[[], float] = time.time,
        ca_file: str = "",
    ) -> None:
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._wall = wall
        self._adapter = _Adapter()
        self._session = _Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self._session.trust_env = False
        self._session.verify = ca_file or True
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._adapter)
        self.requests = 0

    def get(self, url: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        """Return a complete reply of whatever status; raise ReadFailed(timeout, server or shape).

        The URL in errors has no query: nothing that a caller put there can leak.
        """
        with (
            self._asking(),
            self._within(url, self._timeout),
            contextlib.closing(self._open(url, params, headers, self._timeout)) as response,
        ):
            return self._read(url, response, headers)

    @contextlib.contextmanager
    def stream(
        self,
        url: str,
        params: Mapping[str, str],
        headers: Mapping[str, str],
        *,
        lasts: float,
        idle: float,
        longest: int = MAX_BYTES,
    ) -> Iterator[Stream]:
        """Give a reply of whatever status whose lines may come for `lasts` seconds, `idle` at most between two.

        Its head is as bounded as a whole reply; raise ReadFailed(timeout, server or shape) for it.
        """
        with self._asking(), contextlib.ExitStack() as stack:
            with self._within(url, self._timeout):
                response = self._open(url, params, {"Accept-Encoding": "identity", **headers}, idle)
                stack.callback(response.close)
                if response.status_code == 200:  # noqa: PLR2004
                    reply = Reply(response.status_code, response.headers, b"", url)
                else:
                    reply = self._read(url, response, headers)
            stream = Stream(reply, response, lasts, idle, longest)
            stack.callback(self._cut_after(lasts).cancel)
            yield stream

    def end(self) -> None:
        """End for good what another thread is fetching, and whatever it would fetch: it fails."""
        self._adapter.end()

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Count a request, and forget its connection: one that the other side is about to close is not used again."""
        self.requests += 1
        try:
            yield
        finally:
            self._adapter.forget()
            self._adapter.poolmanager.clear()

    @contextlib.contextmanager
    def _within(self, url: str, seconds: float) -> Iterator[None]:
        """Shut the connection at the deadline, and say in our words what went wrong."""
        started = time.monotonic()
        deadline = self._cut_after(seconds)
        try:
            yield
        except ReadFailed:
            raise
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            late = time.monotonic() - started >= seconds or isinstance(error, requests.Timeout)
            if late:
                raise ReadFailed(f"{url}: no complete answer within {seconds:g} s", "timeout") from error
            raise ReadFailed(f"{url}: {_plain(error)}", "server") from error
        finally:
            deadline.cancel()
        if time.monotonic() - started >= seconds:  # cut short at the deadline, it may look complete
            raise ReadFailed(f"{url}: no complete answer within {seconds:g} s", "timeout")

    def _cut_after(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self._adapter.cut)
        timer.daemon = True
        timer.start()
        return timer

    def _open(
        self, url: str, params: Mapping[str, str], headers: Mapping[str, str], patience: float
    ) -> requests.Response:
        return self._session.get(
            url,
            params=dict(params),
            headers={
                "User-Agent": f"wattgram/{__version__}",
                "Accept": "application/json",
                "Connection": "close",
                **headers,
            },
            timeout=(min(CONNECT_SECONDS, self._timeout), patience),
            allow_redirects=False,
            stream=True,
        )

    def _read(self, url: str, response: requests.Response, headers: Mapping[str, str]) -> Reply:
        body = bytearray()
        for chunk in response.iter_content(CHUNK_BYTES):
            body += chunk
            if len(body) > self._max_bytes:
                raise ReadFailed(f"{url}: the answer is larger than {self._max_bytes} bytes", "shape")
        reply = Reply(response.status_code, response.headers, without(bytes(body), _secrets(headers)), url)
        if reply.status in (301, 302, 303, 307, 308):
            raise ReadFailed(f"{url}: answered with a redirect ({reply.status}), which is not followed", "shape")
        return reply

    def close(self) -> None:
        """Close kept connections."""
        self._session.close()


def _secrets(headers: Mapping[str, str]) -> Iterator[str]:
    """What of our headers nobody may read later: all of them but what says which form we read, and a bare token too."""
    for name, value in headers.items():
        if name != "Accept":
            yield value
            yield value.partition(" ")[2]


class _Session(requests.Session):
    """Sees no redirect in any reply: it would read the body whole to prepare for one that is not followed."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        del resp
        return None


class _Adapter(HTTPAdapter):
    """Keeps hold of the sockets in use, so that the deadline can shut them."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._late = False
        self._ended = False
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pools(self)

    def add(self, opened: socket.socket | None) -> None:
        with self._lock:
            if opened is not None:
                self._open.append(opened)
            late = self._late
        if late:
            self.cut()

    def cut(self) -> None:
        """Shut every socket, whatever it waits for; the reader sees an end."""
        with self._lock:
            self._late = True
            for opened in self._open:
                with contextlib.suppress(OSError):
                    # A TLS socket's own shutdown would speak TLS first: shut what is under it.
                    socket.socket.shutdown(opened, socket.SHUT_RDWR)

    def forget(self) -> None:
        with self._lock:
            self._open.clear()
            self._late = self._ended

    def end(self) -> None:
        """Shut every socket, and whichever comes later."""
        with self._lock:
            self._ended = True
        self.cut()


def _pools(adapter: _Adapter) -> dict[str, type[HTTPConnectionPool]]:
    class _Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            adapter.add(self.sock)

    class _Tls(HTTPSConnection):
        def connect(self) -> None:
            try:
                super().connect()
            except OSError as error:
                _close_half_made(error)
                raise
            adapter.add(self.sock)

    class _PlainPool(HTTPConnectionPool):
        ConnectionCls = _Plain

    class _TlsPool(HTTPSConnectionPool):
        ConnectionCls = _Tls

    return {"http": _PlainPool, "https": _TlsPool}


def _close_half_made(error: BaseException | None) -> None:
    """Close what CPython leaves open where the other side resets a connection just before the handshake.

    `SSLSocket._create` (seen in 3.8 to 3.13) then raises with the socket in its frame, and nobody else has it: it
    would stay open for as long as the error's traceback is remembered, or until cycles are collected.
    """
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            made = frame.f_locals.get("self")
            if isinstance(made, ssl.SSLSocket):
                made.close()
        error = error.__cause__ or error.__context__


def _plain(error: Exception) -> str:
    """The innermost cause in a few words: the outer ones repeat the URL, and with it the query."""
    seen: BaseException = error
    while seen.__cause__ or seen.__context__ or getattr(seen, "reason", None) or _inner(seen):
        inner = getattr(seen, "reason", None) or _inner(seen) or seen.__cause__ or seen.__context__
        if not isinstance(inner, BaseException) or inner is seen:
            break
        seen = inner
    if isinstance(seen, OSError) and seen.strerror:
        return seen.strerror
    return type(seen).__name__


def _inner(error: BaseException) -> BaseException | None:
    return next((a for a in error.args if isinstance(a, BaseException)), None)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")
