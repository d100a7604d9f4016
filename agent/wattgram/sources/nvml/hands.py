"""Who makes the driver's calls: one thread after the other while answers come at once, side by side when they do not.

Threads that all wake at the same instant fight for the interpreter between any two calls, which costs several times
what the calls do. So one goes through all that is to be done; what it has not done in a moment, others do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from threading import Condition, Thread

Job = Callable[[], None]


class Hands:
    """Daemon threads, as few as do, and never more than there are jobs at once. One that a job holds is lost to it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work = Condition()
        self._jobs: deque[Job] = deque()
        self._undone = 0
        self._threads = 0
        self._resting = 0

    def do(self, jobs: Iterable[Job]) -> None:
        """Have jobs done in this order, one after the other."""
        with self._work:
            queued = len(self._jobs)
            self._jobs.extend(jobs)
            self._undone += len(self._jobs) - queued
            self._wake(min(1, len(self._jobs)))

    def hurry(self) -> None:
        """Have all that is not yet begun done at once."""
        with self._work:
            self._wake(len(self._jobs))

    def _wake(self, wanted: int) -> None:
        self._work.notify(wanted)
        for _ in range(min(wanted - self._resting, self._undone - self._threads)):
            self._threads += 1
            Thread(target=self._serve, name=f"{self._name}-{self._threads}", daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._work:
                while not self._jobs:
                    self._resting += 1
                    self._work.wait()
                    self._resting -= 1
                job = self._jobs.popleft()
            job()
            with self._work:
                self._undone -= 1
