"""Keeps the names of one node's pods as the API tells them: one list, then a watch, from a thread of its own.

list ──► watch ──► watch ──► …          each from where the last one ended, which bookmarks keep recent
  ▲        │
  └────────┘  410: too far behind; or the API was away
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from wattgram.ports import Clock, ReadFailed
from wattgram.tools.replies import refused
from wattgram.workloads.kubernetes.pods import Pod, Pods
from wattgram.workloads.kubernetes.replies import (
    GONE,
    LIST_FORMS,
    WATCH_FORMS,
    Change,
    parse_change,
    parse_list,
)

if TYPE_CHECKING:
    from wattgram.tools.fetch import Fetcher, Reply

PAGE_PODS = 500
MOST_PAGES = 8
MOST_LIST_BYTES = 16 << 20
# An object is at most 1.5 MiB in the API's store, and a little more as JSON.
LONGEST_LINE = 4 << 20
MOST_TOKEN_BYTES = 64 << 10
OK = 200
HINTS = {
    401: ": the token is not accepted",
    403: ": list and watch on pods are needed, as in deploy/kubernetes/rbac.yaml",
}

log = logging.getLogger("wattgram")


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. `first`: to the next try after a failure, doubling up to `most`; `refused`: after a refusal.

    `watch`: how long the server is asked to keep a watch; `idle`: how long it may be silent: bookmarks come every
    minute. `grace`: after its time a watch is ended by us. `steady`: a watch that lasted so long is no failure.
    """

    first: float = 1.0
    most: float = 60.0
    refused: float = 900.0
    watch: float = 300.0
    idle: float = 100.0
    grace: float = 30.0
    steady: float = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the API is, whose pods are asked for, and the file with the token that is sent; None: none is."""

    api: str
    node: str
    token_file: Path | None


class Watch:
    """Teaches `pods` what the API says."""

    def __init__(
        self,
        place: Place,
        pods: Pods,
        fetcher: Fetcher,
        clock: Clock,
        pace: Pace | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._place = place
        self._pods = pods
        self._fetcher = fetcher
        self._clock = clock
        self._pace = pace or Pace()
        self._chance = chance
        self.url = f"{place.api.rstrip('/')}/api/v1/pods"
        self._bell, self._listed = clock.bell(), clock.bell()
        self._selector = {"fieldSelector": f"spec.nodeName={place.node}"}
        self._stopping = False
        self._is_refused = False
        self._answered = False
        self._version: str | None = None  # None: everything must be listed
        self._is_behind = False  # then the server's memory may be too old for the next list
        self._in_a_row = 0
        self._failing_since = math.nan
        self._said: set[str] = set()
        self.malformed = 0
        self.trouble = ""  # why the API does not answer; empty: it does, or was not asked yet

    @property
    def is_trying(self) -> bool:
        """Whether a name that is not known may still come: not while the API refuses us."""
        return not self._is_refused

    @property
    def calls(self) -> int:
        """How often the API was asked."""
        return self._fetcher.requests

    def start(self, wait: float) -> None:
        """Begin, and give the first list so many seconds to come."""
        Thread(target=self._run, name="kubernetes", daemon=True).start()
        self._listed.wait(wait)

    def stop(self) -> None:
        """End the thread; it is not waited for."""
        self._stopping = True
        self._fetcher.end()
        self._bell.ring()

    def _run(self) -> None:
        while not self._stopping:
            try:
                wait = self._turn()
            except ReadFailed as failure:
                wait = self._failed(failure)
                self._listed.ring()
            if wait > 0:
                self._bell.wait(wait)
        self._fetcher.close()

    def _turn(self) -> float:
        """List if need be, watch, and return the seconds to wait before the next turn; raise ReadFailed."""
        if self._version is None:
            self._list()
            self._listed.ring()
        started = self._clock.now().mono
        heard, status = self._watch()
        if status == GONE:
            self._version, self._is_behind = None, True
        elif status:
            self._version = None
            raise refused(status, f"{self.url}: the watch ended with status {status}")
        is_steady = self._clock.now().mono - started >= self._pace.steady or (heard and status != GONE)
        self._in_a_row = 0 if is_steady else self._in_a_row + 1
        if status == GONE and self._in_a_row <= 1:
            return 0.0
        return self._patience()

    def _list(self) -> None:
        """Learn all pods of the node, from the server's memory unless that was too old; raise ReadFailed."""
        pods: list[Pod] = []
        malformed = 0
        more = {} if self._is_behind else {"resourceVersion": "0"}
        for _ in range(MOST_PAGES):
            reply = self._fetcher.get(
                self.url, {**self._selector, "limit": str(PAGE_PODS), **more}, self._headers(LIST_FORMS)
            )
            self._hold_against(reply)
            page = parse_list(reply.body)
            pods += page.pods
            malformed += page.malformed
            more = {"continue": page.more}
            if not page.more:
                break
        self._pods.replace(pods)
        self._version, self._is_behind = page.version, False
        self._count(malformed)
        if not pods and "none" not in self._said:
            self._said.add("none")
            log.warning("kubernetes: no pod is on node %s: is workloads.kubernetes.node right?", self._place.node)

    def _watch(self) -> tuple[int, int]:
        """Learn what comes until the watch ends; return how many changes that were, and the status it ended with or 0.

        Raise ReadFailed where it does not begin, and then everything must be listed anew.
        """
        pace, heard = self._pace, 0
        seconds = max(1, round(pace.watch * (0.8 + 0.2 * self._chance())))  # not all agents of a cluster at once
        parameters = {
            **self._selector,
            "watch": "1",
            "resourceVersion": self._version or "",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        version, self._version = self._version, None
        with self._fetcher.stream(
            self.url,
            parameters,
            self._headers(WATCH_FORMS),
            lasts=seconds + pace.grace,
            idle=pace.idle,
            longest=LONGEST_LINE,
        ) as stream:
            if stream.reply.status == GONE:
                return 0, GONE
            self._hold_against(stream.reply)
            self._version = version
            self._answers()
            try:
                for line in stream.lines():
                    change = parse_change(line)
                    if change is None:
                        self._count(1)
                    elif change.status:
                        return heard, change.status
                    else:
                        heard += 1
                        self._learn(change)
            except ReadFailed as failure:
                # A watch may break off at any time, and the next one goes on where it was; not to the same bad line.
                if failure.reason == "shape":
                    self._version = None
                    raise
        return heard, 0

    def _learn(self, change: Change) -> None:
        if change.pod is not None and change.is_gone:
            self._pods.end(change.pod)
        elif change.pod is not None:
            self._pods.put(change.pod)
        self._version = change.version

    def _headers(self, forms: str) -> dict[str, str]:
        """What is sent besides; the token is read anew, since a bound one is good for an hour. Raise ReadFailed."""
        file = self._place.token_file
        if file is None:
            return {"Accept": forms}
        try:
            with file.open("rb") as opened:
                token = opened.read(MOST_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, ValueError) as error:
            raise ReadFailed(f"{file}: cannot be read", "auth") from error
        if not token:
            raise ReadFailed(f"{file}: is empty", "auth")
        return {"Accept": forms, "Authorization": f"Bearer {token}"}

    def _hold_against(self, reply: Reply) -> None:
        """Raise ReadFailed for what is no good reply, without a word of it: it may tell our token back."""
        if reply.status != OK:
            wait = reply.retry_after(self._clock.now().wall)
            if reply.status == GONE:
                self._is_behind = True
            raise refused(reply.status, f"{self.url}: HTTP {reply.status}{HINTS.get(reply.status, '')}", wait)

    def _answers(self) -> None:
        """Note that all is well, and say so if that is news."""
        if not math.isnan(self._failing_since):
            log.info("kubernetes recovered after %.0f s", self._clock.now().mono - self._failing_since)
        elif not self._answered:
            log.info("kubernetes: %d pods of node %s are named by %s", len(self._pods), self._place.node, self.url)
        self._answered, self._is_refused, self._failing_since = True, False, math.nan
        self.trouble = ""
        self._said &= {"malformed", "none"}

    def _failed(self, failure: ReadFailed) -> float:
        """Say what is news, and return the seconds to wait."""
        self._in_a_row += 1
        self.trouble = str(failure)
        self._is_refused = failure.reason == "auth"
        if math.isnan(self._failing_since):
            self._failing_since = self._clock.now().mono
        wait = self._pace.refused if self._is_refused else self._patience()
        wait = max(wait, min(failure.retry_after or 0.0, self._pace.refused))
        if failure.reason not in self._said and not self._stopping:
            self._said.add(failure.reason)
            log.warning("kubernetes failed: %s; next try in %.0f s", failure, wait)
        return wait

    def _patience(self) -> float:
        pace = self._pace
        return min(pace.most, pace.first * 2.0 ** min(max(self._in_a_row - 1, 0), 16)) * (0.75 + 0.5 * self._chance())

    def _count(self, malformed: int) -> None:
        self.malformed += malformed
        if malformed and "malformed" not in self._said:
            self._said.add("malformed")
            log.warning("kubernetes: %s says what is no pod; such lines are left out", self.url)
