"""Passwords are compared on a thread of their own: a comparison takes long, by intent, and must hold up nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

MOST_WAITING = 16
# Of one address so many wait at a time: who guesses leaves room for who knows.
MOST_OF_ONE = 4
MOST_KNOWN = 128
MOST_REST = 1.0


class Busy(Exception):  # noqa: N818 - the house's word
    """Too many wait already."""


@dataclass(frozen=True, slots=True, repr=False)
class _Question:
    """What the thread is asked, and where the answer goes."""

    key: bytes
    password: bytes
    hashed: bytes
    loop: asyncio.AbstractEventLoop


class Passwords:
    """Compares passwords with hashes; what was right is remembered, as a code that tells nothing.

    All but the thread itself belongs to one event loop.

         event loop                      thread "passwords"
         is_right() ── _Question ──────►  compare()
             ▲                              │
             └──── call_soon_threadsafe ────┘
    """

    def __init__(self, compare: Callable[[bytes, bytes], bool], most_waiting: int = MOST_WAITING) -> None:
        self._compare = compare
        self._most_waiting = most_waiting
        self._secret = secrets.token_bytes(32)
        self._known: dict[bytes, None] = {}
        self._waiting: dict[bytes, asyncio.Future[bool]] = {}
        self._peers: dict[bytes, str] = {}
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    async def is_right(self, user: bytes, password: bytes, hashed: bytes, peer: str = "") -> bool:
        """Whether a password is that of a hash; raise Busy when too many wait, or too many of one peer's.

        The same question waits once.
        """
        key = self._code(user, password, hashed)
        if key in self._known:
            self._remember(key)
            return True
        if key not in self._waiting:
            if len(self._waiting) >= self._most_waiting:
                raise Busy
            if peer and list(self._peers.values()).count(peer) >= MOST_OF_ONE:
                raise Busy
            self._peers[key] = peer
            self._ask(_Question(key, password, hashed, asyncio.get_running_loop()))
        return await asyncio.shield(self._waiting[key])

    def close(self) -> None:
        """Let the thread end after what it is at."""
        self._closing.set()
        self._questions.put(None)

    def _ask(self, question: _Question) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="passwords", daemon=True)
            self._thread.start()
        self._waiting[question.key] = question.loop.create_future()
        self._questions.put(question)

    def _work(self) -> None:
        while (question := self._questions.get()) is not None and not self._closing.is_set():
            began = time.monotonic()
            right = self._compare(question.password, question.hashed)
            if not right:  # who guesses gets half of a processor at most
                time.sleep(min(time.monotonic() - began, MOST_REST))
            with contextlib.suppress(RuntimeError):  # the loop has ended
                question.loop.call_soon_threadsafe(self._answer, question.key, right)

    def _answer(self, key: bytes, right: bool) -> None:  # noqa: FBT001 - a callback
        waiting = self._waiting.pop(key)
        self._peers.pop(key, None)
        if right:
            self._remember(key)
        if not waiting.done():
            waiting.set_result(right)

    def _remember(self, key: bytes) -> None:
        """Keep a code; the one that was not used for longest makes room."""
        self._known.pop(key, None)
        self._known[key] = None
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]

    def _code(self, *parts: bytes) -> bytes:
        """A code of the three, keyed: whoever reads our memory learns no password that was not sent just now."""
        framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.new(self._secret, framed, hashlib.sha256).digest()
