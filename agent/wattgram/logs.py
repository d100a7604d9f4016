"""One line per event on standard error, as logfmt or JSON; strangers' words are quoted.

Whoever logs is a meter, and must not wait: lines go to a bounded queue, and a thread writes them. Where nobody reads
standard error, or it is a full disk, lines are lost and counted, and metering goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime, timezone

STANDARD_ERROR = 2
MOST_WAITING = 1000
# Of one kind of line so many are written in a period; the next one after it says how many were not.
MOST_OF_A_KIND, PERIOD_SECONDS = 20, 60.0
MOST_KINDS = 500
LAST_WORDS_SECONDS = 0.5
# What journald takes for a line's priority (sd-daemon(3)).
PRIORITIES = ((logging.ERROR, "<3>"), (logging.WARNING, "<4>"), (logging.INFO, "<6>"), (logging.NOTSET, "<7>"))

_PLAIN = re.compile(r"[\w.:/+-]+")

log = logging.getLogger("wattgram")


def set_up(level: str, form: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send the house's log lines to standard error; `form` is logfmt or json. May be called again."""
    formatter = _Json() if form == "json" else _Logfmt()
    old = next((h for h in log.handlers if isinstance(h, Pen)), None)
    pen = old or Pen(journal=_is_journal(environ))
    pen.setFormatter(formatter)
    log.handlers = [pen]
    log.setLevel(level.upper())
    log.propagate = False


def flush(seconds: float = LAST_WORDS_SECONDS) -> None:
    """Wait until what was logged is written, so long at most."""
    for handler in log.handlers:
        if isinstance(handler, Pen):
            handler.drain(seconds)


def last_words(text: str, seconds: float = LAST_WORDS_SECONDS) -> None:
    """Write text to standard error before the process ends; where nobody reads it, give up."""
    flush(seconds)
    writer = threading.Thread(target=write, args=(text.encode(errors="replace"),), daemon=True)
    writer.start()
    writer.join(seconds)


def write(data: bytes) -> None:
    """Write to standard error past Python's buffers, whose locks a blocked writer would hold when the process ends."""
    with contextlib.suppress(OSError):  # nobody there, or a full disk
        while data:
            data = data[os.write(STANDARD_ERROR, data) :]


class Limit:
    """At most `most` of one kind in `seconds`; a kind that was silent for so long begins anew."""

    def __init__(
        self,
        most: int = MOST_OF_A_KIND,
        seconds: float = PERIOD_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._seconds = seconds
        self._now = now
        self._kinds: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def admit(self, kind: str) -> int | None:
        """Return how many of this kind were suppressed before this one; None: this one is suppressed too."""
        now = self._now()
        begun, count = self._kinds.pop(kind, (now, 0))
        suppressed = 0
        if now - begun >= self._seconds:
            begun, count, suppressed = now, 0, max(0, count - self._most)
        self._kinds[kind] = (begun, count + 1)
        if len(self._kinds) > MOST_KINDS:
            self._kinds.popitem(last=False)
        return suppressed if count < self._most else None


class Pen(logging.Handler):
    """Formats a record at once, and leaves the writing to a thread of its own. `journal`: priorities are prefixed."""

    def __init__(self, *, journal: bool = False, sink: Callable[[bytes], None] = write) -> None:
        super().__init__()
        self._journal = journal
        self._sink = sink
        self._limit = Limit()
        self._lines: queue.Queue[bytes] = queue.Queue(MOST_WAITING)
        self._lost = 0
        # Signals are for the main thread, whenever it comes to block them: this one hears none.
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        threading.Thread(target=self._write_on, name="log", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one line, unless there were too many of its kind or nobody takes them."""
        suppressed = self._limit.admit(_kind(record))
        if suppressed is None:
            return
        record.suppressed = suppressed
        line = self.format(record)
        prefix = next(p for level, p in PRIORITIES if record.levelno >= level) if self._journal else ""
        try:
            self._lines.put_nowait(f"{prefix}{line}\n".encode(errors="replace"))
        except queue.Full:
            self._lost += 1

    def drain(self, seconds: float) -> None:
        """Wait until all is written, so long at most."""
        end = time.monotonic() + seconds
        with self._lines.all_tasks_done:
            while self._lines.unfinished_tasks and (left := end - time.monotonic()) > 0:
                self._lines.all_tasks_done.wait(left)

    def _write_on(self) -> None:
        while True:
            line = self._lines.get()
            self._sink(line)
            lost, self._lost = self._lost, 0
            if lost:
                record = logging.makeLogRecord(
                    {"levelno": logging.WARNING, "levelname": "WARNING", "msg": f"{lost} lines of this log were lost"}
                )
                self._sink(f"{self.format(record)}\n".encode())
            self._lines.task_done()


def _kind(record: logging.LogRecord) -> str:
    """What makes two lines the same kind of news: their words, and whom they are about."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return f"{record.msg}|{arguments[0] if arguments else ''}"


def _is_journal(environ: Mapping[str, str]) -> bool:
    """Whether standard error is the journal's own socket (systemd.exec(5), JOURNAL_STREAM)."""
    with contextlib.suppress(OSError):
        status = os.fstat(STANDARD_ERROR)
        return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False


def _facts(record: logging.LogRecord) -> dict[str, str]:
    moment = datetime.fromtimestamp(record.created, tz=timezone.utc)
    facts = {
        "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "msg": record.getMessage(),
    }
    if getattr(record, "suppressed", 0):
        facts["suppressed"] = str(record.__dict__["suppressed"])
    if record.exc_info:
        facts["error"] = logging.Formatter().formatException(record.exc_info)
    return facts


class _Logfmt(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return " ".join(
            f"{key}={value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=True)}"
            for key, value in _facts(record).items()
        )


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_facts(record), ensure_ascii=True)
