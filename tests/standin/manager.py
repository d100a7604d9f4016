"""What systemd hears of a service: a datagram socket at a path or in the abstract namespace, and who wrote to it."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import final

_CREDENTIALS = struct.Struct("iii")
_MESSAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Message:
    """One datagram: when it came, on the monotonic clock, from which process, and what it says by key."""

    at: float
    pid: int
    said: dict[str, str]


@final
class Manager:
    """Listens from `with` to its end; `address` is what NOTIFY_SOCKET says, an abstract one beginning with `@`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._open = True

    def __enter__(self) -> Manager:
        self._socket.bind(self._bound)
        self._thread.start()
        return self

    def __exit__(self, *about: object) -> None:
        self._open = False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._bound)
        self._thread.join(10.0)
        self._socket.close()

    def said(self, key: str, value: str | None = None) -> list[Message]:
        """The messages with this key, in the order in which they came; with this value, if one is given."""
        return [m for m in self.messages if key in m.said and value in (None, m.said[key])]

    def wait_for(self, key: str, value: str | None = None, *, count: int = 1, deadline: float = 30.0) -> Message:
        """Return the message that makes it so many; AssertionError with all that was said, else."""
        end = time.monotonic() + deadline
        while len(found := self.said(key, value)) < count:
            assert time.monotonic() < end, f"{count} of {key} not said within {deadline:g} s; said: {self.messages}"
            time.sleep(0.02)
        return found[count - 1]

    def gaps(self, key: str, start: float, end: float) -> Iterator[float]:
        """The seconds between messages with this key from one monotonic instant to another, both ends counted."""
        times = [start, *(m.at for m in self.said(key) if start < m.at < end), end]
        yield from (later - earlier for earlier, later in pairwise(times))

    @property
    def _bound(self) -> str:
        return f"\0{self.address[1:]}" if self.address.startswith("@") else self.address

    def _listen(self) -> None:
        space = socket.CMSG_SPACE(_CREDENTIALS.size)
        while True:
            text, extra, _, _ = self._socket.recvmsg(_MESSAGE_BYTES, space)
            at = time.monotonic()
            if not self._open:
                return
            pid = next(_CREDENTIALS.unpack(d)[0] for level, kind, d in extra if kind == socket.SCM_CREDENTIALS)
            pairs = (line.partition("=") for line in text.decode().splitlines() if line)
            self.messages.append(Message(at, pid, {key: value for key, _, value in pairs}))
