"""Any source in a process of its own that can be killed: a driver that hangs takes only the child with it.

        this process                                       child: python -m wattgram.child
    IsolatedSource.read() ── request, numbered ──► stdin   main thread: source.read() within half an interval
                          ◄── reply, same number ─ stdout  reader thread: end of stdin = our death = its own

One request, one reply, nothing buffered. A child is replaced when nothing was read for five intervals or when it says
that only a new process helps; a child that cannot be killed (state D) is abandoned, kept, polled and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import IO, Any, ClassVar

import msgspec

from wattgram.frames import (
    LENGTH,
    MAX_FRAME,
    Failed,
    Gave,
    Missing,
    Open,
    Read,
    Record,
    Recorded,
    Reply,
    Request,
    write,
)
from wattgram.model import Cost, Sample
from wattgram.ports import REASONS, Clock, ReadFailed, Unavailable
from wattgram.sound import Soundness

OPEN_SECONDS = 30.0
# No driver's call deserves longer, however rarely it is asked: the loop that waits is watched.
PART_OF_TURN, LONGEST_ANSWER = 0.9, 10.0
SILENT_INTERVALS = 5
LEAST_SILENCE = 2.0
# A wait that ends so much later than it should: it was we who did not run, and the child perhaps neither.
OVERSLEPT = 0.25
MAX_ABANDONED = 3
FIRST_BACKOFF, MOST_BACKOFF = 1.0, 60.0
GOODBYE_SECONDS = 0.3
LONGEST_WORDS = 500

log = logging.getLogger("wattgram")


class IsolatedSource:
    """A source behind the same port as any other, read in a child process.

    Children that cannot be killed are counted over all sources of this process: a reload or a pause begins none anew.
    """

    _abandoned: ClassVar[list[_Child]] = []

    def __init__(
        self,
        plug: str,
        options: dict[str, Any],
        every: float,
        clock: Clock,
        environment: Mapping[str, str],
    ) -> None:
        self._open = Open(0, plug, options, every)
        self._every = every
        self._clock = clock
        self._environment = dict(environment)
        self._child: _Child | None = None
        self._why = ReadFailed("no reading process")
        self._crowd = False
        self._soundness = Soundness()
        self._spent = 0.0
        self._restarts = 0
        self._not_before = 0.0
        self._heard = 0.0

    def read(self) -> Sample:
        """Return the child's sample within an interval; raise ReadFailed, or Unavailable when it cannot open."""
        self._reap()
        child = self._child or self._start()
        asked = self._clock.now().mono
        try:
            reply = child.ask(Read(child.next_seq()), min(PART_OF_TURN * self._every, LONGEST_ANSWER))
        except ReadFailed as failure:
            if self._clock.now().mono - asked > self._every + LEAST_SILENCE:
                self._heard = self._clock.now().mono  # it was we who did not run, not the child
            if not child.is_alive() or self._is_silent():
                raise self._replaced(failure) from failure
            raise
        match reply:
            case Gave(sample=sample):
                if wrong := self._soundness.complaint(sample, time.monotonic()):
                    raise self._replaced(ReadFailed(f"the reading process gave {wrong}", "shape"))
                return self._heard_from(sample)
            case Failed(message=message, reason=reason, fatal=fatal):
                refusal = ReadFailed(words(message), reason if reason in REASONS else "shape", fatal=fatal)
                raise self._replaced(refusal) if fatal or self._is_silent() else refusal
            case Missing(message=message, remedy=remedy):
                self.close()
                raise Unavailable(words(message), words(remedy))
            case _:
                raise ReadFailed(f"the child answered out of turn: {type(reply).__name__}", "shape")

    def cost(self) -> Cost | None:
        """Return what the children used so far; the memory is the living one's."""
        cost = self._child.cost if self._child else None
        if cost is None:
            return Cost(self._spent, 0) if self._spent else None
        return Cost(self._spent + cost.cpu_seconds, cost.resident_bytes)

    def close(self) -> None:
        """Close the child's input, give it a moment, kill it, leave."""
        child, self._child = self._child, None  # taken first: a read in another thread finds it gone meanwhile
        if child is not None:
            child.end(GOODBYE_SECONDS)
            self._retire(child)

    def _start(self) -> _Child:
        now = self._clock.now().mono
        if now < self._not_before:
            raise ReadFailed(f"{self._why}; waiting before another is started", self._why.reason)
        if len(IsolatedSource._abandoned) >= MAX_ABANDONED:
            raise self._crowded()
        self._crowd = False
        child = _Child(self._environment)
        try:
            reply = child.ask(self._open, OPEN_SECONDS)
        except ReadFailed as failure:
            self._child = child
            raise self._replaced(failure) from failure
        if isinstance(reply, Missing | Failed):
            child.end(GOODBYE_SECONDS)
            self._retire(child)
        if isinstance(reply, Missing):
            raise Unavailable(words(reply.message), words(reply.remedy))
        if isinstance(reply, Failed):
            self._back_off()
            reason = reply.reason if reply.reason in REASONS else "shape"
            self._why = ReadFailed(words(reply.message), reason, fatal=reply.fatal)
            raise self._why
        self._child = child
        self._heard = self._clock.now().mono
        return child

    def _heard_from(self, sample: Sample) -> Sample:
        if sample.readings:
            self._heard = self._clock.now().mono
            self._restarts = 0
        elif self._is_silent():
            self._replaced(ReadFailed(_first_reason(sample), "timeout"))
        return sample

    def _is_silent(self) -> bool:
        return self._clock.now().mono - self._heard > max(SILENT_INTERVALS * self._every, LEAST_SILENCE)

    def _replaced(self, failure: ReadFailed) -> ReadFailed:
        """End the child, which is replaced in a while; return what is to be said now."""
        self._why = failure
        if self._child is None:
            return failure
        child, self._child = self._child, None
        child.kill()
        self._retire(child)
        self._back_off()
        told = f"{failure}; the reading process {child.pid} is replaced"
        return ReadFailed(told, failure.reason, fatal=failure.fatal)

    def _crowded(self) -> ReadFailed:
        """What to say when too many children hang already to start another."""
        failure = ReadFailed(f"{MAX_ABANDONED} reading processes hang in the driver; not starting another", "timeout")
        if not self._crowd:
            log.error("%s: %s; only a reboot may help", self._open.plug.rpartition(".")[2], failure)
        self._crowd = True
        return failure

    def _back_off(self) -> None:
        wait = min(MOST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self._restarts, 10))
        self._restarts += 1
        self._not_before = self._clock.now().mono + wait

    def _retire(self, child: _Child) -> None:
        self._spent += child.cost.cpu_seconds if child.cost else 0.0
        if child.is_alive():
            IsolatedSource._abandoned.append(child)

    def _reap(self) -> None:
        IsolatedSource._abandoned = [child for child in IsolatedSource._abandoned if child.is_alive()]


def words(text: str) -> str:
    """What a child says, fit for a log and a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:LONGEST_WORDS])


def _first_reason(sample: Sample) -> str:
    return sample.failed[0].reason if sample.failed else "the sample is empty"


def record(plug: str, options: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what a plug's hardware answers, asked in a child; raise Unavailable or ReadFailed."""
    child = _Child(environment)
    try:
        reply = child.ask(Record(0, plug, options), OPEN_SECONDS)
    finally:
        child.end(GOODBYE_SECONDS)
    match reply:
        case Recorded(answers=answers):
            return answers
        case Missing(message=message, remedy=remedy):
            raise Unavailable(words(message), words(remedy))
        case Failed(message=message, reason=reason):
            raise ReadFailed(words(message), reason)
        case _:
            raise ReadFailed(f"the child answered out of turn: {type(reply).__name__}", "shape")


class _Child:
    """One child process and the pipes to it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._seq = 0
        self._owed = 0
        self._buffer = bytearray()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-m", "wattgram.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p and os.pathsep not in p)},
                cwd="/",
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:  # no descriptor, no memory, no process left
            raise ReadFailed(f"no reading process can be started: {error.strerror}", "server") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[bytes] = self._process.stdin
        self._output: IO[bytes] = self._process.stdout
        os.set_blocking(self._input.fileno(), False)
        self._decoder = msgspec.msgpack.Decoder(Reply)
        self.pid = self._process.pid
        self.cost: Cost | None = None

    def next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def ask(self, request: Request, seconds: float) -> Reply:
        """Return the reply to this request within so many seconds.

        While an older one is unanswered nothing new is asked, and its late answer is the reply: it says when it was
        read, and holds samples that the driver shows once.
        """
        deadline = time.monotonic() + seconds
        if not self._owed:
            try:
                write(self._input, request)
            except (OSError, ValueError) as error:  # ValueError: another thread has let go of it
                raise ReadFailed(f"the reading process is gone ({self._ending()})", "server") from error
            self._owed = request.seq
        reply = self._reply(deadline, seconds)
        asked, self._owed = self._owed, 0
        if reply.seq != asked:
            raise ReadFailed(f"the reading process answered {reply.seq}, asked {asked}", "shape")
        return reply

    def _reply(self, deadline: float, seconds: float) -> Reply:
        try:
            reply: Reply = self._decoder.decode(self._frame(deadline, seconds))
        except (msgspec.DecodeError, RecursionError) as error:
            raise ReadFailed(f"the reading process wrote what it should not: {words(str(error))}", "shape") from error
        if isinstance(reply, Gave):
            self.cost = reply.cost
        return reply

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self, seconds: float) -> None:
        """Close its input and give it so long to leave by itself, then kill it."""
        with contextlib.suppress(OSError):
            self._input.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Kill it and let go of the pipes; it is not waited for longer than a moment."""
        with contextlib.suppress(OSError):
            self._process.kill()
        for pipe in (self._input, self._output):
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.1)

    def _frame(self, deadline: float, seconds: float) -> bytes:
        poll = select.poll()  # it needs no descriptor of its own
        try:
            poll.register(self._output, select.POLLIN)
        except ValueError as error:  # another thread has let go of it
            raise ReadFailed(f"the reading process is gone ({self._ending()})", "server") from error
        excused = False
        while True:
            frame = self._complete()
            if frame is not None:
                return frame
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                now = time.monotonic()
                if excused or now - deadline < OVERSLEPT:
                    raise ReadFailed(f"the reading process gave no answer within {seconds:.3g} s", "timeout")
                deadline, excused = now + seconds, True
                continue
            try:
                chunk = os.read(self._output.fileno(), 1 << 16)
            except (OSError, ValueError):
                chunk = b""
            if not chunk:
                raise ReadFailed(f"the reading process is gone ({self._ending()})", "server")
            self._buffer += chunk

    def _complete(self) -> bytes | None:
        if len(self._buffer) < LENGTH.size:
            return None
        size = LENGTH.unpack_from(self._buffer)[0]
        if size > MAX_FRAME:
            raise ReadFailed(f"the reading process announced {size} bytes", "shape")
        end = LENGTH.size + size
        if len(self._buffer) < end:
            return None
        frame = bytes(self._buffer[LENGTH.size : end])
        del self._buffer[:end]
        return frame

    def _ending(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GOODBYE_SECONDS)
        code = self._process.returncode
        if code is None:
            return "no exit code yet"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
