"""What a service tells its manager (sd_notify(3)): ready, reloading, stopping, and that its sampling loops turn."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from threading import Lock

MICROSECONDS = 1_000_000
PINGS_PER_PERIOD = 6

log = logging.getLogger("wattgram")


class Notifier:
    """Sends states to the socket that $NOTIFY_SOCKET names, `@…` an abstract one; without it, nothing is sent."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._complained = False

    def ready(self, status: str) -> None:
        """Say that the service is up, and in words how it is doing."""
        self.send("READY=1", f"STATUS={_line(status)}")

    def reloading(self) -> None:
        """Say that the configuration is being read anew; `ready` follows."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, status: str) -> None:
        """Say in words how the service is doing."""
        self.send(f"STATUS={_line(status)}")

    def stopping(self) -> None:
        """Say that the service is going down."""
        self.send("STOPPING=1")

    def send(self, *states: str) -> None:
        """Send states; a manager that does not take them is said once, and metering goes on."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as to:
                to.connect(address)
                to.send("\n".join(states).encode())
        except OSError as error:
            if not self._complained:
                log.warning("the service manager at %s is not told: %s", self._address, error.strerror)
            self._complained = True


class Watchdog:
    """Pings the manager while every sampling loop turns; a loop that hangs lets the service be restarted.

    `period` is what the manager waits, in seconds; None: it keeps no watch.
    """

    def __init__(self, notifier: Notifier, period: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._notifier = notifier
        self._every = None if period is None else period / PINGS_PER_PERIOD
        self._now = now
        self._lock = Lock()
        self._loops: frozenset[str] = frozenset()
        self._heard: set[str] = set()
        self._pinged = now()

    @property
    def every(self) -> float | None:
        """The seconds within which each loop has to be heard; None: nobody listens."""
        return self._every

    def watch(self, loops: Iterable[str]) -> None:
        """Name the loops that must all be heard."""
        with self._lock:
            self._loops = frozenset(loops)
            self._heard &= self._loops

    def idle(self) -> None:
        """Ping where there is no loop to be heard: nothing is metered, as configured, and nothing hangs."""
        if not self._loops:
            self.hear("")

    def hear(self, loop: str) -> None:
        """Note that a loop turns; ping when all have turned since the last ping."""
        if self._every is None:
            return
        with self._lock:
            self._heard.add(loop)
            # A little earlier than the period's part: loops are heard at their own pace.
            due = self._now() - self._pinged >= self._every / 2
            if not due or not self._loops <= self._heard:
                return
            self._heard.clear()
            self._pinged = self._now()
        self._notifier.send("WATCHDOG=1")


def watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Return the manager's patience from $WATCHDOG_USEC; None: it keeps none, or means another process."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        return None
    if pid and pid != str(os.getpid()):
        return None
    return int(text) / MICROSECONDS


def _line(text: str) -> str:
    return " ".join(text.split())
