"""Bytes from and to one client over a socket, plain or in TLS; who waits for what is the event loop's matter.

TLS runs between two buffers in memory: asyncio's own keeps 256 KiB for each connection, and in Python 3.10 waits for
ever for the other side's farewell.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterable
from typing import Protocol

PIECE = 16_384
TLS_PIECE = 65_536  # of an answer, encrypted at once: a slow reader holds no more than this
TLS_HANDSHAKE = b"\x16"  # the first byte of a ClientHello's record (RFC 8446, 5.1); no HTTP method begins so
MOST_LEFTOVER = 262_144


class Stream(Protocol):
    """One client's bytes. A broken connection is an OSError."""

    async def read(self) -> bytes:
        """Return what has come; empty: nothing more will."""
        ...

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Return when the system has taken all of it."""
        ...


class Plain:
    """Bytes as they are."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        """Return what has come; empty: nothing more will."""
        return await self._loop.sock_recv(self._socket, PIECE)

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Return when the system has taken all of it."""
        for piece in pieces:
            await self._loop.sock_sendall(self._socket, piece)

    async def first_byte(self) -> bytes:
        """Return the first byte and leave it there; empty: they left."""
        has_come = asyncio.Event()
        self._loop.add_reader(self._socket, has_come.set)
        try:
            await has_come.wait()
        finally:
            self._loop.remove_reader(self._socket)
        return self._socket.recv(1, socket.MSG_PEEK)

    async def part(self) -> None:
        """Say that nothing more will come, and take a little of what they still send.

        Closed with bytes unread, the kernel would send a reset, and with it our last answer would be lost.
        """
        self._socket.shutdown(socket.SHUT_WR)
        left = MOST_LEFTOVER
        while left > 0 and (piece := await self.read()):
            left -= len(piece)


class Tls:
    """Bytes in TLS over a plain stream."""

    def __init__(self, plain: Plain, context: ssl.SSLContext) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def shake_hands(self) -> None:
        """Return when the client has proved what it must; our last words stay here until something is sent.

        Raise ssl.SSLError when it has not; it has been told.
        """
        try:
            while not self._shaken():
                await self._flush()
                await self._feed()
        except ssl.SSLError:
            await self._flush()
            raise

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """The kinds and values of the names in the client's verified certificate; empty: it has none."""
        certificate = self._tls.getpeercert() or {}
        return tuple(certificate.get("subjectAltName", ()))  # type: ignore[arg-type]

    async def read(self) -> bytes:
        """Return what has come; empty: nothing more will."""
        while True:
            await self._flush()
            try:
                return self._tls.read(PIECE)
            except ssl.SSLWantReadError:
                await self._feed()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Return when the system has taken all of it."""
        for piece in pieces:
            for start in range(0, len(piece), TLS_PIECE):
                self._tls.write(memoryview(piece)[start : start + TLS_PIECE])
                await self._flush()

    async def farewell(self) -> None:
        """Say in TLS that nothing more will come, so that they need not fear it was cut off."""
        with contextlib.suppress(ssl.SSLError):  # it wants to read theirs, for which nobody waits
            self._tls.unwrap()
        await self._flush()

    def _shaken(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    async def _feed(self) -> None:
        if piece := await self._plain.read():
            self._incoming.write(piece)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._plain.send([self._outgoing.read()])
