"""The local API: windows over a Unix socket, for whoever the socket's permissions let in.

A line of JSON each way; what may be said is in docs/local-api.md. Every connection has a thread and a deadline, every
number a bound: whatever a peer does, it keeps nobody but itself waiting, and never a source.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import logging
import os
import socket
import stat
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Lock, Thread
from typing import Annotated, Any

import msgspec

from wattgram import __version__
from wattgram.turns import ROOT, Ration, Turns
from wattgram.windows import Refused, Windows

MOST_CONNECTIONS, MOST_OF_ONE_USER, KEPT_FOR_ROOT = 64, 16, 8
LONGEST_LINE = 1 << 16
LONGEST_PATH = 107  # of a Unix socket, see unix(7)
# A line must come whole within this time, and its answer be taken; so long may a connection wait for the next.
LINE_SECONDS, IDLE_SECONDS = 5.0, 30.0
# How long a begin and an end wait for the sources, and an end for a counter's next step.
READ_SECONDS, SETTLE_SECONDS, AGAIN_SECONDS = 0.5, 1.0, 0.05
CREDENTIALS = struct.Struct("3i")

log = logging.getLogger("wattgram")

Key = Annotated[str, msgspec.Meta(min_length=8, max_length=128)]
Name = Annotated[str, msgspec.Meta(max_length=256)]
Unit = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e18)]


class Hello(msgspec.Struct, tag_field="do", tag="hello"):
    """Is somebody there?"""


class Begin(msgspec.Struct, tag_field="do", tag="begin"):
    """Open a window on a process, the asking one if none is named."""

    key: Key
    name: Name = ""
    pid: Annotated[int, msgspec.Meta(ge=1, le=1 << 31)] | None = None


class Progress(msgspec.Struct, tag_field="do", tag="progress"):
    """Units of work done since the window began."""

    key: Key
    units: Amount
    unit: Unit = "units"


class ReadIt(msgspec.Struct, tag_field="do", tag="read"):
    """The receipt as it stands."""

    key: Key


class End(msgspec.Struct, tag_field="do", tag="end"):
    """Close the window."""

    key: Key
    cpu_seconds: Amount | None = None


Request = Hello | Begin | Progress | ReadIt | End
DECODER = msgspec.json.Decoder(Request)
Answer = dict[str, Any]


class Office:
    """Answers requests. `read_now` has the sources read, and returns after so many seconds at the latest.

    `turns` and `ration` None: there is one user, whose meter it is, and he may ask as he likes.
    """

    def __init__(
        self,
        windows: Windows,
        read_now: Callable[[float], None],
        wake: Callable[[], None],
        turns: Turns | None = None,
        ration: Ration | None = None,
    ) -> None:
        self._windows = windows
        self._read_now = read_now
        self._wake = wake
        self._turns = turns
        self._ration = ration

    def answer(self, uid: int, pid: int, line: bytes) -> Answer:
        """Return the answer to one line of a user's process."""
        try:
            request = DECODER.decode(line)
        except RecursionError:
            return _refusal("bad", "nested too deep")
        except (msgspec.MsgspecError, ValueError) as error:  # what is no UTF-8 is none of msgspec's errors
            return _refusal("bad", str(error))
        try:
            return {"ok": True, **self._answer(uid, pid, request)}
        except Refused as refusal:
            return _refusal(refusal.word, str(refusal))

    def _answer(self, uid: int, pid: int, request: Request) -> Answer:
        match request:
            case Begin():
                return {"began": self._begin(uid, pid, request)}
            case Progress(key=key, unit=unit, units=units):
                with self._turn_of(uid):
                    self._windows.progress(uid, key, unit, units)
                return {}
            case ReadIt(key=key):
                with self._turn_of(uid):
                    return {"receipt": self._windows.read(uid, key)}
            case End(key=key, cpu_seconds=cpu_seconds):
                return {"receipt": self._end(uid, key, cpu_seconds)}
            case _:
                return {"wattgram": __version__}

    def _begin(self, uid: int, pid: int, request: Begin) -> float:
        if not self._windows.knows(uid, request.key):
            self._read(uid)
        with self._turn_of(uid):
            named_by = None if request.pid is None else pid
            began = self._windows.begin(uid, request.key, request.name, request.pid or pid, named_by=named_by)
        self._wake()
        return began

    def _end(self, uid: int, key: str, cpu_seconds: float | None) -> dict[str, object]:
        with self._turn_of(uid):
            is_unwritten = self._windows.stop(uid, key, cpu_seconds)
        if is_unwritten:
            self._read(uid)
            end = time.monotonic() + SETTLE_SECONDS
            while not self._windows.settled(uid, key) and time.monotonic() < end:
                time.sleep(AGAIN_SECONDS)  # a counter may stand still for a moment yet
                self._read(uid, waits=False)
        with self._turn_of(uid):
            return self._windows.write(uid, key)

    def _read(self, uid: int, *, waits: bool = True) -> None:
        if self._ration is None:
            self._read_now(READ_SECONDS)
        else:
            self._ration.read(uid, lambda: self._read_now(READ_SECONDS), waits=waits)

    def _turn_of(self, uid: int) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self._turns is None else self._turns.of(uid)


def _refusal(word: str, message: str) -> Answer:
    return {"ok": False, "error": word, "message": message}


def serve(
    line: socket.socket,
    office: Office,
    uid: int,
    pid: int,
    idle: float | None = IDLE_SECONDS,
    patience: float = LINE_SECONDS,
) -> None:
    """Answer one peer until it leaves, says what no line is, or lets us wait.

    It may be silent for `idle` seconds between lines, None: for ever; within a line, and to take an answer, it has
    `patience` seconds.
    """
    rest = b""
    with contextlib.suppress(OSError):
        while True:
            request, rest = _line(line, rest, idle, patience)
            line.settimeout(patience)
            if request is None:
                return
            if len(request) > LONGEST_LINE:
                _send(line, _refusal("bad", f"longer than {LONGEST_LINE} bytes"))
                return
            _send(line, office.answer(uid, pid, request))


def _line(line: socket.socket, rest: bytes, idle: float | None, patience: float) -> tuple[bytes | None, bytes]:
    """One line and what came after it; None: the peer left. Raise TimeoutError."""
    heard, end = bytearray(rest), None
    while b"\n" not in heard and len(heard) <= LONGEST_LINE:
        if heard and end is None:
            end = time.monotonic() + patience
        line.settimeout(idle if end is None else max(0.001, end - time.monotonic()))
        piece = line.recv(1 << 14)
        if not piece:
            return None, b""
        heard += piece
    if b"\n" not in heard:
        return bytes(heard), b""
    request, _, after = bytes(heard).partition(b"\n")
    return request, after


def _send(line: socket.socket, answer: Answer) -> None:
    line.sendall(msgspec.json.encode(answer) + b"\n")


class LocalServer:
    """The socket, and a thread for each of its connections. What cannot be opened is logged, and metering goes on."""

    def __init__(self, path: Path, office: Office, mode: int = 0o660, group: str = "") -> None:
        self.path = path
        self._office = office
        self._mode = mode
        self._group = group
        self._socket: socket.socket | None = None
        self._inode = 0
        self._lock = Lock()
        self._peers: Counter[int] = Counter()
        self._said: set[type[Exception]] = set()

    def start(self) -> str:
        """Open the socket; return why it could not be opened, or nothing."""
        try:
            if _is_alive(self.path):
                return f"{self.path} is another daemon's"
            self._socket = self._bound()
        except OSError as error:
            return f"{self.path}: {error.strerror or error}"
        except KeyError:
            return f"{self.path}: there is no group {self._group!r}"
        try:
            Thread(target=self._accept, args=(self._socket,), name="local", daemon=True).start()
        except RuntimeError as error:
            self.stop()
            return f"{self.path}: {error}"
        return ""

    def stop(self) -> None:
        """Close the socket, and take its file away if it is still ours."""
        opened, self._socket = self._socket, None
        if opened is None:
            return
        with contextlib.suppress(OSError):
            opened.shutdown(socket.SHUT_RDWR)
        opened.close()
        with contextlib.suppress(OSError):
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()

    def _bound(self) -> socket.socket:
        """Bind where nobody else can reach it, and move it when its permissions are right; raise OSError, KeyError."""
        if len(os.fsencode(self.path)) > LONGEST_PATH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), os.fspath(self.path))
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        nest = tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        held = os.open(nest, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fresh = Path(f"/proc/self/fd/{held}/socket")  # also if somebody moves the folder meanwhile
        try:
            opened.bind(os.fspath(fresh))
            fresh.chmod(0o600)
            if self._group:
                os.chown(fresh, -1, grp.getgrnam(self._group).gr_gid, follow_symlinks=False)
            fresh.chmod(self._mode)
            opened.listen(MOST_CONNECTIONS)
            self._inode = fresh.lstat().st_ino
            fresh.rename(self.path)
        except BaseException:
            opened.close()
            fresh.unlink(missing_ok=True)
            raise
        finally:
            os.close(held)
            with contextlib.suppress(OSError):
                os.rmdir(nest)  # noqa: PTH106 - as mkdtemp gave it
        return opened

    def _accept(self, opened: socket.socket) -> None:
        while self._socket is opened:
            try:
                line, _ = opened.accept()
            except OSError:
                if self._socket is opened:
                    time.sleep(AGAIN_SECONDS)  # no descriptor is left: later, then
                continue
            pid, uid, _ = CREDENTIALS.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
            if self.admit(uid):
                try:
                    Thread(target=self._talk, args=(line, uid, pid), name="local peer", daemon=True).start()
                except RuntimeError:  # no thread is left
                    self._leave(uid)
                    line.close()
                    time.sleep(AGAIN_SECONDS)
            else:
                with line, contextlib.suppress(OSError):
                    line.settimeout(0.0)
                    line.send(msgspec.json.encode(_refusal("busy", "too many connections")) + b"\n")

    @property
    def peers(self) -> int:
        """How many are connected."""
        with self._lock:
            return self._peers.total()

    def admit(self, uid: int) -> bool:
        """Give a user one of the places; return whether one was free."""
        with self._lock:
            of_all, of_one = MOST_CONNECTIONS - KEPT_FOR_ROOT, MOST_OF_ONE_USER
            if uid == ROOT:
                of_all = of_one = MOST_CONNECTIONS
            if self._peers.total() >= of_all or self._peers[uid] >= of_one:
                return False
            self._peers[uid] += 1
            return True

    def _talk(self, line: socket.socket, uid: int, pid: int) -> None:
        try:
            with line:
                serve(line, self._office, uid, pid)
        except Exception as error:  # noqa: BLE001 - a bug; but no peer may end the daemon by one
            self._say(error)
        finally:
            self._leave(uid)

    def _say(self, error: Exception) -> None:
        """Log a bug, once of each kind."""
        if type(error) not in self._said:
            self._said.add(type(error))
            log.error("local API: a bug: a peer's connection is closed", exc_info=error)

    def _leave(self, uid: int) -> None:
        with self._lock:
            self._peers[uid] -= 1
            self._peers += Counter()  # drops users of whom none is left


def _is_alive(path: Path) -> bool:
    """Whether somebody listens there; raise OSError when something else than a socket is in the way."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(17, "not a socket", str(path))
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True
