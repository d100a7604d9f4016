"""A small HTTP server with bounds: one event loop in one daemon thread, GET and HEAD only, TLS and passwords on wish.

A connection that has sent no full request holds a socket and nothing else: no thread, and no TLS state before its first
byte. At most `Limits.clients` at a time, the idlest is closed for a new one; a request must be complete, and an answer
taken, within a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import h11

from wattgram.ports import ConfigError
from wattgram_exporters import exchange
from wattgram_exporters.exchange import Request, Response
from wattgram_exporters.guard import Guard
from wattgram_exporters.places import Places
from wattgram_exporters.streams import TLS_HANDSHAKE, Plain, Stream, Tls

__all__ = ["Limits", "Request", "Response", "Server"]

START_SECONDS, STOP_SECONDS = 5.0, 0.4
LINGER_SECONDS = 1.0
BACKLOG = 1024  # or as many as net.core.somaxconn allows
RESERVE = 64  # descriptors that are not for clients: sources, files, the loop's own
LEAST_CLIENTS = 8
ACCEPTED_AT_ONCE = 64
ACCEPT_PAUSE, CALM_SECONDS = 0.1, 5.0
_WRONG = b"Client sent an HTTP request to an HTTPS server.\n"
WRONG_PORT = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_WRONG), _WRONG)
)

log = logging.getLogger("wattgram")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What strangers may cost: connections, of those in TLS, bytes of a request, seconds of each step."""

    clients: int = 512
    tls_clients: int = 32
    header_bytes: int = 16_384
    body_bytes: int = 65_536
    handshake_seconds: float = 5.0
    request_seconds: float = 5.0
    idle_seconds: float = 90.0
    answer_seconds: float = 10.0

    def within(self, descriptors: int) -> int:
        """Return how many clients a process may have that may hold so many descriptors."""
        return min(self.clients, max(LEAST_CLIENTS, descriptors - RESERVE))


class Server:
    """Answers requests on one address with `answer`, which must be quick and is called from the loop's thread."""

    def __init__(
        self,
        listen: str,
        answer: Callable[[Request], Response],
        limits: Limits | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._listen = listen
        self._answer = answer
        self._limits = limits or Limits()
        self._guard = guard or Guard()
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._clients: Places[asyncio.Task[None]] = Places(self._limits.within(_descriptors()))
        self._in_tls: Places[asyncio.Task[None]] = Places(self._limits.tls_clients)
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused_at: float | None = None  # when the system last gave us no descriptor; said once, until it is calm
        self._thread: threading.Thread | None = None
        self._serving = threading.Event()

    def start(self) -> None:
        """Take the address and serve it; raise ConfigError when it cannot be had."""
        host, _, port = self._listen.rpartition(":")
        host = host.strip("[]")
        try:
            host.encode("idna")  # the socket would refuse such a name with an error of another kind, and leak
            self._socket = _listening(host, int(port))
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
        self._guard.close()

    # --- who comes in ---------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        assert self._socket is not None
        self._socket.setblocking(False)  # noqa: FBT003 - the library's signature
        self._loop.add_reader(self._socket, self._accept)
        self._serving.set()
        await self._stopping.wait()
        self._loop.remove_reader(self._socket)
        self._socket.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)

    def _accept(self) -> None:
        """Take those that knock, a few at a time, so that those inside have their turn."""
        assert self._loop is not None
        assert self._socket is not None
        for taken in range(ACCEPTED_AT_ONCE):
            try:
                sock, _ = self._socket.accept()
            except ConnectionError:
                continue  # it has left again
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._pause(error, is_full=taken == 0)
                return
            if self._refused_at is not None and self._loop.time() - self._refused_at > CALM_SECONDS:
                self._refused_at = None
                log.info("connections are accepted again")
            self._admit(sock)

    def _pause(self, error: OSError, *, is_full: bool) -> None:
        """Try again in a moment, since a listening socket that stays readable would keep the loop spinning.

        If nobody came in, the idlest makes room; else it might be one who came just now, and was not served yet.
        """
        assert self._loop is not None
        assert self._socket is not None
        if self._refused_at is None:
            remedy = "raise the limit of open files (LimitNOFILE=)" if error.errno == errno.EMFILE else "will try again"
            log.warning("no connection is accepted: %s, with %d clients; %s", _cause(error), len(self._clients), remedy)
        self._refused_at = self._loop.time()
        # The limit may be another than at the start: readings need descriptors too.
        for leaving in self._clients.resize(self._limits.within(_descriptors())):
            leaving.cancel()
        if is_full and (idlest := self._clients.idlest()):
            idlest.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.call_later(ACCEPT_PAUSE, self._listen_again)

    def _listen_again(self) -> None:
        assert self._loop is not None
        assert self._socket is not None
        if self._socket.fileno() >= 0:  # it was not stopped meanwhile
            self._loop.add_reader(self._socket, self._accept)

    def _admit(self, sock: socket.socket) -> None:
        """Take a newcomer in; if there is no place left, the idlest makes room."""
        assert self._loop is not None
        sock.setblocking(False)  # noqa: FBT003 - the library's signature
        with contextlib.suppress(OSError):  # it may have left
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._client(sock))
        self._tasks.add(task)
        task.add_done_callback(partial(self._left, sock))
        if idlest := self._clients.enter(task):
            idlest.cancel()

    def _left(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        """Forget a client. Its socket is closed here, since a task cancelled before its first step never ran."""
        sock.close()
        self._tasks.discard(task)
        self._clients.leave(task)
        self._in_tls.leave(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("bug: a connection broke", exc_info=error)

    @contextlib.contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Close the connection at a deadline: there is nobody to tell."""
        task = asyncio.current_task()
        assert task is not None
        deadline = asyncio.get_running_loop().call_later(seconds, task.cancel)
        try:
            yield
        finally:
            deadline.cancel()

    # --- one connection -------------------------------------------------------------------------

    async def _client(self, sock: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        plain = Plain(sock)
        # They left, broke off, or had to leave: there is nobody to tell. A cancellation ends here too, since a task
        # that keeps one is part of a cycle, and thousands of them would wait for the garbage collector.
        with contextlib.suppress(OSError, h11.LocalProtocolError, asyncio.CancelledError):
            stream = await self._secured(plain, task) if self._guard.is_tls else plain
            if stream:
                await self._converse(stream, task, _peer(sock))
            with self._within(LINGER_SECONDS):
                if isinstance(stream, Tls):
                    await stream.farewell()
                    self._in_tls.leave(task)
                await plain.part()

    async def _secured(self, plain: Plain, task: asyncio.Task[None]) -> Tls | None:
        """The same bytes in TLS, of which nothing exists before the first has come; None: they were refused."""
        with self._within(self._limits.handshake_seconds):
            first = await plain.first_byte()
            if first != TLS_HANDSHAKE:
                await plain.send([WRONG_PORT] if first else [])
                return None
            if idlest := self._in_tls.enter(task):
                idlest.cancel()
            stream = Tls(plain, self._guard.context())
            try:
                await stream.shake_hands()
            except ssl.SSLError:  # they have been told
                self._in_tls.leave(task)
                return None
        if not self._guard.admits(stream.names):
            self._in_tls.leave(task)
            return None
        self._in_tls.served(task)
        return stream

    async def _converse(self, stream: Stream, task: asyncio.Task[None], peer: str) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.header_bytes)
        while await self._exchange(connection, stream, task, peer) and task in self._clients:
            connection.start_next_cycle()
            await asyncio.sleep(0)  # one who sends many requests at once must not have all the turns

    async def _exchange(self, connection: h11.Connection, stream: Stream, task: asyncio.Task[None], peer: str) -> bool:
        """Take one request and answer it; return whether the connection may take another."""
        request: Request | None = None
        try:
            if not connection.trailing_data[0]:  # else the next request has come with the last one
                with self._within(self._limits.idle_seconds):
                    connection.receive_data(await stream.read())
            with self._within(self._limits.request_seconds):
                request = await exchange.take(connection, stream.read, self._limits.body_bytes)
        except h11.RemoteProtocolError as error:
            response = Response(error.error_status_hint or 400, b"bad request\n")
        else:
            if request is None:
                return False
            with self._within(self._limits.answer_seconds):
                response = await self._guard.refusal(replace(request, peer=peer)) or self._respond(request)
        pieces = exchange.written(connection, request, self._guard.dressed(response))
        with self._within(self._limits.answer_seconds):
            await stream.send(pieces)
        if response.status < 400:  # noqa: PLR2004 - one who was refused is a stranger still
            self._clients.served(task)
            self._in_tls.served(task)
        return exchange.keeps(connection)

    def _respond(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"GET and HEAD only\n", {"Allow": "GET, HEAD"})
        try:
            return self._answer(request)
        except Exception:
            # A stranger's request must not end the meter, whatever it found: the one place where a bug is survived.
            log.exception("bug: no answer to %s %s", request.method, request.path[:80])
            return Response(500, b"internal error, see the log\n")


def _peer(sock: socket.socket) -> str:
    """The address of the other side; empty: it has left."""
    try:
        return str(sock.getpeername()[0])
    except OSError:
        return ""


def _listening(host: str, port: int) -> socket.socket:
    """A socket on that address; `::` is every address, of both kinds."""
    if not host:  # every address, as in Go
        host = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - it is asked for
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)


def _descriptors() -> int:
    """How many descriptors this process may hold."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def _cause(error: Exception) -> str:
    """The plain words of an error number: the library adds the address, which stands there already."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number and number > 0 else str(error)
