"""`wattgram top`: asks, draws, hears keys, until told to leave."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from rich.console import Console

from wattgram.ports import ConfigError, ReadFailed
from wattgram.tools.labels import label
from wattgram.top.asking import PATH, Asker, Client
from wattgram.top.drawing import ASCII, SORTS, Frame, Signs, draw
from wattgram.top.pace import Pace
from wattgram.top.reading import Status
from wattgram.top.terminal import QUIT, SUSPEND, Terminal

LEAST_INTERVAL, LARGEST_INTERVAL = 0.5, 3600.0
STALE_INTERVALS, STALE_SECONDS = 3, 5.0
TICK_SECONDS = 1.0
PIPE_COLUMNS = 120
GOOD, MISSING = 0, 3
LEAVE = ("q", "Q", "\x03", QUIT)


def open_console() -> Console:
    """Return what draws on standard output: colours only where they are known and wanted (NO_COLOR, TERM)."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False)


def signs_for(console: Console) -> Signs:
    """Return what can be drawn there."""
    return Signs() if console.encoding.lower().startswith("utf") else ASCII


class Watch:
    """What is known and wished, from one moment to the next. Times are monotonic seconds."""

    def __init__(self, place: str, every: float, sort: str, warning: str = "") -> None:
        stale_after = max(STALE_INTERVALS * every, STALE_SECONDS)
        self._frame = Frame(place, every=every, sort=sort, stale_after=stale_after, warning=warning)
        self._pace = Pace()
        self._news: float | None = None
        self._due = 0.0

    def frame(self, now: float) -> Frame:
        """Return what is to be drawn now."""
        return replace(self._frame, age=None if self._news is None else now - self._news)

    def wants(self, now: float) -> bool:
        """Whether the daemon is to be asked now."""
        return not self._frame.is_paused and now >= self._due

    def asked(self, now: float) -> None:
        """Note that it was asked."""
        self._due = now + self._frame.every

    def until(self, now: float) -> float:
        """Return for how many seconds nothing has to be done unless something happens."""
        return TICK_SECONDS if self._frame.is_paused else min(TICK_SECONDS, max(0.0, self._due - now))

    def hear(self, answer: Status | ReadFailed, now: float) -> None:
        """Take in an answer, a status or why there is none; a held picture stays as it is."""
        if self._frame.is_paused:
            return
        if isinstance(answer, ReadFailed):
            self._frame = replace(self._frame, trouble=label(str(answer)))
            return
        if self._pace.add(answer):
            self._news = now
        self._frame = replace(self._frame, status=answer, powers=self._pace.watts(), trouble="")

    def press(self, key: str) -> None:
        """Do what a key asks for; one that is nobody's does nothing."""
        frame = self._frame
        if key in ("s", "S"):
            self._frame = replace(frame, sort=SORTS[(SORTS.index(frame.sort) + 1) % len(SORTS)])
        elif key in ("p", "P"):
            self._frame = replace(frame, is_paused=not frame.is_paused)
        elif key in ("?", "h"):
            self._frame = replace(frame, is_help=not frame.is_help)


def watch(client: Client, watched: Watch, console: Console) -> int:
    """Show it live until a key or a signal ends it."""
    if not console.is_terminal or console.is_dumb_terminal:
        raise ConfigError("this is no terminal that can be drawn on: use --once")
    terminal, signs = Terminal(console), signs_for(console)
    asker = Asker(client, terminal.tell)
    try:
        with terminal.borrowed():
            _turn_until_told(terminal, watched, asker, signs)
    finally:
        asker.end()
    return GOOD


def _turn_until_told(terminal: Terminal, watched: Watch, asker: Asker, signs: Signs) -> None:
    while True:
        now = time.monotonic()
        if watched.wants(now) and not asker.is_asking:
            asker.ask()
            watched.asked(now)
        width, height = terminal.size()
        try:
            terminal.show(draw(watched.frame(now), width, height, signs))
        except OSError:  # the terminal is gone, and with it whoever looked
            return
        happened = terminal.wait(watched.until(now))
        while (answer := asker.taken()) is not None:
            watched.hear(answer, time.monotonic())
        for event in happened:
            if event in LEAVE:
                return
            if event == SUSPEND:
                terminal.suspend()
            watched.press(event)


def once(client: Client, watched: Watch, console: Console) -> int:
    """Print one picture; it takes an interval, since the power of a workload is a difference."""
    for turn in range(2):
        try:
            status = client.status()
        except ReadFailed as failure:
            sys.stderr.write(f"wattgram: {label(str(failure))}\n")
            return MISSING
        watched.hear(status, time.monotonic())
        if turn == 0:
            time.sleep(watched.frame(0.0).every)
    columns = console.size.width if console.is_terminal else shutil.get_terminal_size((PIPE_COLUMNS, 50)).columns
    console.size = (columns, 50)
    frame = replace(watched.frame(time.monotonic()), is_live=False)
    console.print(draw(frame, columns, None, signs_for(console)))
    return GOOD


def interval(seconds: float) -> float:
    """Return the seconds between two questions; raise ConfigError for what is no such."""
    if not LEAST_INTERVAL <= seconds <= LARGEST_INTERVAL:
        raise ConfigError(f"--interval: from {LEAST_INTERVAL:g} s to an hour")
    return seconds


def clear_text(url: str) -> str:
    """Return what is to be said of a password on this way; empty: it is encrypted, or never leaves the machine."""
    is_safe = url.startswith("https:") or urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
    return "" if is_safe else "the password travels in the clear: use https"


def run(url: str, headers: Mapping[str, str], *, ca_file: str, every: float, sort: str, is_once: bool) -> int:
    """Ask `url` and show what it says; return the exit code."""
    client = Client(url, headers, ca_file)
    watched = Watch(
        url.split("://", 1)[-1].removesuffix(PATH), interval(every), sort, clear_text(url) if headers else ""
    )
    return (once if is_once else watch)(client, watched, open_console())
