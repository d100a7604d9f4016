"""`with wattgram.measure("epoch 3") as m: …`: what a stretch of a program used, asked of the meter on this machine.

    this process ── a line of JSON ──► the daemon's socket, if there is one that lets us
                 └─────────────────► else a meter of our own: one process more, until this one ends

It needs the standard library alone, touches no GPU, and raises nothing because metering failed: `why` says it then.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

Receipt = dict[str, Any]

SOCKET = "api.sock"
LONGEST_LINE = 1 << 20
# A daemon answers at once but for one reading at each edge; a meter of our own has to start first.
ANSWER_SECONDS, START_SECONDS = 5.0, 20.0
GOODBYE_SECONDS = 2.0
# What can come of a socket, of an answer, of what a program gives for a number.
TROUBLE = (OSError, ValueError, TypeError, RuntimeError, OverflowError, subprocess.SubprocessError)
# The folders of our program's libraries come after the standard library's, and none of them is looked into before.
BOOT = "import sys; sys.path[:] = [*filter(None, sys.path), *sys.argv[2:]]; import wattgram.ownmeter as o; o.main()"


class NoMeter(Exception):  # noqa: N818 - it is said, not raised at users
    """Nobody meters; the message says why."""


class Refused(NoMeter):
    """A meter does not, and says so."""


class Daemon:
    """The daemon behind a socket: one connection for each request, so that neither keeps the other."""

    def __init__(self, path: str, patience: float = ANSWER_SECONDS) -> None:
        self.path = path
        self._patience = patience

    def ask(self, request: Mapping[str, Any]) -> Receipt:
        """Return the answer; raise NoMeter or one of `TROUBLE`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(self._patience)
            line.connect(self.path)
            return _exchange(line, request, self._patience)


class OwnMeter:
    """A meter of our own, in a process that ends with us."""

    def __init__(self, options: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        ourselves = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - light to load
        folders = [ourselves, *filter(None, sys.path[1:])]  # the first is the script's own
        try:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-s", "-c", BOOT, json.dumps(dict(options)), *folders],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
                start_new_session=True,  # what the terminal sends to us is not for it
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._line = ours
        self._lock = threading.Lock()
        self.pid = self._process.pid
        self.is_lost = False

    def ask(self, request: Mapping[str, Any]) -> Receipt:
        """Return the answer; raise NoMeter or one of `TROUBLE`. Then, unless it was refused, the meter `is_lost`."""
        with self._lock:
            if self.is_lost:
                raise NoMeter("the meter did not answer an earlier request")
            try:
                return _exchange(self._line, request, START_SECONDS)
            except Refused:
                raise
            except BaseException:  # the answer may come yet: nobody may take it for his own
                self.is_lost = True
                self._line.close()
                raise

    def close(self) -> None:
        """Let it end, and see that it has."""
        self._line.close()
        try:
            self._process.wait(GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def abandon(self) -> None:
        """Forget it in a forked child: it is the parent's."""
        self._line.close()
        self._process.returncode = 0


def _exchange(line: socket.socket, request: Mapping[str, Any], seconds: float) -> Receipt:
    end = time.monotonic() + seconds
    line.settimeout(seconds)
    line.sendall(json.dumps(request).encode() + b"\n")
    answer = bytearray()
    while not answer.endswith(b"\n"):
        line.settimeout(max(0.001, end - time.monotonic()))
        piece = line.recv(1 << 16)
        if not piece:
            raise NoMeter("the meter went away")
        answer += piece
        if len(answer) > LONGEST_LINE:
            raise NoMeter("the meter's answer is too long")
    reply = json.loads(answer)
    if not isinstance(reply, dict) or not isinstance(reply.get("ok"), bool):
        raise NoMeter("the meter's answer is none")
    if not reply["ok"]:
        raise Refused(str(reply.get("message", "the meter refused")))
    return reply


def sockets(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield where a daemon's socket may be: the one named, else the system's and the user's own."""
    if environ.get("WATTGRAM_LOCAL__ENABLED", "").lower() in ("false", "0"):
        return
    if named := environ.get("WATTGRAM_LOCAL__SOCKET"):
        yield named
        return
    yield f"/run/wattgram/{SOCKET}"
    if base := environ.get("XDG_RUNTIME_DIR"):
        yield f"{base}/wattgram/{SOCKET}"


def find_daemon(path: str = "") -> tuple[Daemon | None, list[str]]:
    """Return a daemon that answers, None: there is none that lets us; and why those that may be there do not."""
    refusals = []
    for place in [path] if path else sockets(os.environ):
        try:
            found = Daemon(place)
            found.ask({"do": "hello"})
        except (FileNotFoundError, ConnectionRefusedError):
            if path:
                refusals.append(f"no daemon answers at {place}")
        except PermissionError:
            refusals.append(f"a daemon is there, and this user may not ask it: {place}")
        except (*TROUBLE, NoMeter) as error:
            refusals.append(f"{place}: {error}")
        else:
            return found, refusals
    return None, refusals


class _Meters:
    """The meter of our own, if this process has started one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._own: OwnMeter | None = None

    def own(self, options: Mapping[str, str]) -> OwnMeter:
        """Return the meter of our own, started at the first use, or if the last one is lost; raise OSError."""
        with self._lock:
            if self._own is not None and self._own.is_lost:
                self._own.close()
                self._own = None
            if self._own is None:
                self._own = OwnMeter(options)
            return self._own

    def close(self) -> None:
        """End the meter of our own."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own.close()

    def forked(self) -> None:
        """Begin anew in a forked child: what the parent had is the parent's."""
        own, self._own = self._own, None
        self._lock = threading.Lock()
        if own is not None:
            with contextlib.suppress(OSError):
                own.abandon()


METERS = _Meters()
os.register_at_fork(after_in_child=METERS.forked)
atexit.register(METERS.close)


class Measure:
    """One window: from `with` to its end. All figures are None where they are not known; then `why` says it.

    `pid`: which process and its descendants; by default this one. `options` are for a meter of our own. `refusals` are
    why meters that may be there do not meter.
    """

    def __init__(
        self, name: str = "", *, pid: int | None = None, socket_path: str = "", options: Mapping[str, str] | None = None
    ) -> None:
        self.name = str(name)
        self.why = ""
        self.meter: Daemon | OwnMeter | None = None
        self._pid = pid
        self._socket_path = socket_path
        self._options = dict(options or {})
        self._key = ""
        self._of = 0
        self._began = 0.0
        self._ended: float | None = None
        self._receipt: Receipt | None = None
        self.refusals: tuple[str, ...] = ()

    def __enter__(self) -> Measure:  # noqa: PYI034 - Self is of Python 3.11
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def begin(self) -> None:
        """Open the window, once the devices have been read."""
        self._key, self._of, self._receipt, self._ended, self.why = secrets.token_hex(16), os.getpid(), None, None, ""
        self.refusals = ()
        for find in (self._find_daemon, self._find_own):
            try:
                self.meter = find()
                if self.meter is not None:
                    # The kernel says who asks: in a container our own number is another's to the daemon.
                    pid = None if self._pid == os.getpid() else self._pid
                    self._ask("begin", name=_told(self.name)[:200], pid=pid)
                    self.why = ""
                    break
            except (*TROUBLE, NoMeter) as error:
                self._give_up(error)
                self.refusals = (*self.refusals, str(error))
        self._began = time.monotonic()

    def end(self, cpu_seconds: float | None = None) -> None:
        """Close the window; its receipt is there when this returns. A second time changes nothing."""
        if self._ended is not None or self._of != os.getpid():  # a forked child's copy of it is not its own
            return
        self._ended = time.monotonic()
        if self.meter is None:
            return
        before, self.why = self.why, "nothing was metered: the end was interrupted"
        try:
            self._receipt = self._told(self._ask("end", cpu_seconds=cpu_seconds), before)
        except (*TROUBLE, NoMeter) as error:
            self._give_up(error)
        else:
            self.why = before

    def progress(self, units: float, unit: str = "units") -> None:
        """Say how many units of work are done since the beginning, such as tokens."""
        if self.meter is not None and self._ended is None and self._of == os.getpid():
            try:
                self._ask("progress", units=float(units), unit=_told(unit))
            except (*TROUBLE, NoMeter) as error:
                self.why = self.why or str(error)

    @property
    def receipt(self) -> Receipt:
        """All that is known, as plain values; of a window that is still open what is known by now."""
        if self._receipt is not None:
            return self._receipt
        if self.meter is not None and self._ended is None and self._of == os.getpid():
            try:
                return self._told(self._ask("read"), self.why)
            except (*TROUBLE, NoMeter) as error:
                self.why = self.why or str(error)
        return self._blank()

    @property
    def joules(self) -> float | None:
        """Energy in joules; None: nothing of it was metered."""
        return _number(self.receipt.get("joules"))

    @property
    def grams(self) -> float | None:
        """Grams of CO2-equivalent of what could be priced; None: nothing could."""
        return _number(self.receipt.get("grams"))

    @property
    def seconds(self) -> float:
        """How long it took, or has taken by now, whether or not anything was metered."""
        known = _number((self._receipt or {}).get("seconds"))
        return (self._ended or time.monotonic()) - self._began if known is None else known

    def _find_daemon(self) -> Daemon | None:
        found, refusals = find_daemon(self._socket_path)
        self.refusals = tuple(refusals)
        return found

    def _find_own(self) -> OwnMeter:
        return METERS.own(self._options)

    def _ask(self, do: str, **fields: Any) -> Receipt:
        assert self.meter is not None
        return self.meter.ask({"do": do, "key": self._key, **{k: v for k, v in fields.items() if v is not None}})

    def _told(self, answer: Receipt, why: str) -> Receipt:
        """Return the receipt in an answer, with all that one has; raise NoMeter."""
        receipt = answer.get("receipt")
        if not isinstance(receipt, dict):
            raise NoMeter("the meter's answer holds no receipt")
        return {**self._blank(why), **receipt}

    def _give_up(self, error: Exception) -> None:
        self.meter = None
        self.why = f"nothing was metered: {str(error) or type(error).__name__}"

    def _blank(self, why: str | None = None) -> Receipt:
        """A receipt of which nothing is known but how long it took."""
        return {
            "meter": None,
            "name": self.name,
            "state": "unmetered" if self._ended else "open",
            "seconds": self.seconds,
            "joules": None,
            "watts": None,
            "grams": None,
            "pricing": [],
            "unpriced_joules": None,
            "components": [],
            "uncertainty": None,
            "per_unit": [],
            "not_metered": [(self.why if why is None else why) or "nothing was metered"],
            "remarks": [],
        }


def measure(name: str = "", *, socket: str = "") -> Measure:
    """Return a window on this process and what it starts, for a `with` statement.

    `socket`: the daemon's, if it is not where it is looked for.
    """
    return Measure(name, socket_path=socket)


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None


def _told(text: object) -> str:
    """Anything as text that can be sent: an argument need not be UTF-8."""
    return str(text).encode("utf-8", "replace").decode()
