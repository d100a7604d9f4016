"""A small HTTP server with bounds: one event loop in one daemon thread, h11 to parse, GET and HEAD only.

A connection that has sent no full request holds a socket and nothing else. At most MOST_CLIENTS at a time, the one
that has waited longest is closed for a new one; a request must be complete, and an answer taken, within a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import h11

from wattgram.ports import ConfigError

MOST_CLIENTS = 512
MOST_HEADER_BYTES = 16_384
MOST_BODY_BYTES = 65_536
REQUEST_SECONDS = 5.0
IDLE_SECONDS = 90.0
ANSWER_SECONDS = 10.0
START_SECONDS, STOP_SECONDS = 5.0, 0.4
ROUNDS_TO_CLOSE = 3
BACKLOG = 256

log = logging.getLogger("wattgram")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, as far as we care."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Server:
    """Answers requests on one address with `answer`, which must be quick and is called from the loop's thread."""

    def __init__(self, listen: str, answer: Callable[[Request], Response]) -> None:
        self._listen = listen
        self._answer = answer
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._clients: dict[asyncio.StreamWriter, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None
        self._serving = threading.Event()

    def start(self) -> None:
        """Take the address and serve it; raise ConfigError when it cannot be had."""
        host, _, port = self._listen.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            host.encode("idna")  # the socket would refuse such a name with an error of another kind, and leak
            self._socket = socket.create_server((host, int(port)), family=family, backlog=BACKLOG)
        except (OSError, OverflowError, UnicodeError) as error:
            raise ConfigError(
                f'web.listen = "{self._listen}": {_cause(error)}; '
                "stop what listens there, or give another address with --listen"
            ) from error
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="http", daemon=True)
        self._thread.start()
        self._serving.wait(START_SECONDS)

    def stop(self) -> None:
        """Close the address and every connection, within half a second."""
        if self._loop is not None and self._stopping is not None and self._thread is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(STOP_SECONDS)
        if self._socket is not None:
            self._socket.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        server = await asyncio.start_server(self._client, sock=self._socket, limit=MOST_HEADER_BYTES, backlog=BACKLOG)
        self._serving.set()
        await self._stopping.wait()
        server.close()
        for _ in range(ROUNDS_TO_CLOSE):  # those accepted in the last moment become clients only now
            await asyncio.sleep(0)
            for writer in self._clients:
                writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._admit(writer)
        # An answer is taken when the kernel has all of it: what is left in our buffer would go with the connection.
        writer.transport.set_write_buffer_limits(high=0)
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEADER_BYTES)
        try:
            while await self._exchange(connection, reader, writer) and writer in self._clients:
                self._clients[writer] = self._clients.pop(writer)  # it was active: it waits longest last
                connection.start_next_cycle()
        except (OSError, asyncio.TimeoutError, h11.LocalProtocolError):
            pass  # they left, or took too long; there is nobody to tell
        finally:
            self._clients.pop(writer, None)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    def _admit(self, writer: asyncio.StreamWriter) -> None:
        """Take a newcomer in; the one that has waited longest makes room."""
        if len(self._clients) >= MOST_CLIENTS:
            oldest = next(iter(self._clients))
            del self._clients[oldest]
            oldest.transport.abort()
        self._clients[writer] = None
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _exchange(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Take one request and answer it; return whether the connection may take another."""
        try:
            if not connection.trailing_data[0]:  # else the next request has come with the last one
                connection.receive_data(await asyncio.wait_for(reader.read(MOST_HEADER_BYTES), IDLE_SECONDS))
            request = await asyncio.wait_for(_request(connection, reader), REQUEST_SECONDS)
        except h11.RemoteProtocolError as error:
            response = Response(error.error_status_hint or 400, b"bad request\n")
            request = None
        else:
            if request is None:
                return False
            response = self._respond(request)
        _send(connection, writer, request, response)
        await asyncio.wait_for(writer.drain(), ANSWER_SECONDS)
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    def _respond(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"GET and HEAD only\n", {"Allow": "GET, HEAD"})
        try:
            return self._answer(request)
        except Exception:
            # A stranger's request must not end the meter, whatever it found: the one place where a bug is survived.
            log.exception("bug: no answer to %s %s", request.method, request.path[:80])
            return Response(500, b"internal error, see the log\n")


def _cause(error: Exception) -> str:
    """The plain words of an error number: the library adds the address, which stands there already."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number and number > 0 else str(error)


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    """Return the next complete request; None when the other side has left."""
    head: h11.Request | None = None
    body = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(MOST_HEADER_BYTES))
        elif isinstance(event, h11.Request):
            head = event
            if connection.they_are_waiting_for_100_continue:
                return _parsed(head)  # no answer of ours depends on a body
        elif isinstance(event, h11.Data):
            body += len(event.data)
            if body > MOST_BODY_BYTES:
                raise h11.RemoteProtocolError("too large a body", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _parsed(head)
        else:
            return None


def _parsed(head: h11.Request) -> Request:
    target = head.target.decode("ascii", "replace")
    try:
        parts = urlsplit(target)
        query = parse_qs(parts.query, max_num_fields=100)
    except ValueError as error:
        raise h11.RemoteProtocolError("bad target", error_status_hint=400) from error
    headers: dict[str, str] = {}
    for raw, value in head.headers:  # a list may come in several lines (RFC 9110, 5.3)
        name = raw.decode("ascii", "replace")
        headers[name] = ", ".join(filter(None, (headers.get(name), value.decode("latin-1"))))
    return Request(head.method.decode("ascii", "replace"), parts.path, query, headers)


def _send(
    connection: h11.Connection, writer: asyncio.StreamWriter, request: Request | None, response: Response
) -> None:
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    headers = [
        ("Content-Length", str(len(response.body))),
        ("X-Content-Type-Options", "nosniff"),
        *response.headers.items(),
    ]
    if "Content-Type" not in response.headers:
        headers.append(("Content-Type", "text/plain; charset=utf-8"))
    if request is None:
        headers.append(("Connection", "close"))
    phrase = HTTPStatus(response.status).phrase
    head = connection.send(h11.Response(status_code=response.status, reason=phrase, headers=headers)) or b""
    body = response.body if request is None or request.method != "HEAD" else b""
    data = connection.send(h11.Data(data=body)) if body else b""
    end = connection.send(h11.EndOfMessage())
    writer.write(head + (data or b"") + (end or b""))
