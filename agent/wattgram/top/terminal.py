"""The terminal as we found it, borrowed and given back: its keys, its size, its signals and its second screen."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from types import FrameType

from rich.console import Console, RenderableType
from rich.control import Control
from rich.screen import Screen

QUIT, SIZE, SUSPEND, NEWS = "quit", "size", "suspend", "news"
SIGNALS = {
    signal.SIGWINCH: SIZE,
    signal.SIGTSTP: SUSPEND,
    signal.SIGINT: QUIT,
    signal.SIGTERM: QUIT,
    signal.SIGHUP: QUIT,
}
LETTERS = {QUIT: b"q", SIZE: b"w", SUSPEND: b"z", NEWS: b"n"}
WORDS = {letter: word for word, letter in LETTERS.items()}
# An arrow, a click, an answer of the terminal (ECMA-48, 5.4): its letters are none of our keys.
ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O?.|$)", re.DOTALL)
LEAST_PLACES = 1


class Terminal:
    """Shows one screen, and tells what happens: a key as itself, or one of the four words above."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._found: list[object] | None = None

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[None]:
        """Take the terminal, and give it back however this ends."""
        handlers = {number: signal.signal(number, self._heard) for number in SIGNALS}
        try:
            self._enter()
            yield
        finally:
            self._leave()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def tell(self, word: str = NEWS) -> None:
        """Wake who waits; from any thread, or a signal."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, LETTERS[word])

    def wait(self, seconds: float) -> list[str]:
        """Return what happened, after so many seconds at the latest; nothing, if nothing did."""
        watched = [fd for fd in (self._read, self._keys) if fd is not None]
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        happened: list[str] = []
        if self._read in ready:
            happened += [WORDS[bytes([letter])] for letter in os.read(self._read, 4096)]
        if self._keys is not None and self._keys in ready:
            happened += self._pressed(self._keys)
        return happened

    def show(self, renderable: RenderableType) -> None:
        """Draw over what is there."""
        self.console.size = self.size()
        self.console.control(Control.home())
        self.console.print(Screen(renderable), end="")

    def size(self) -> tuple[int, int]:
        """Return columns and lines as they are now; a terminal that does not know its own has 80 and 24."""
        with contextlib.suppress(OSError, ValueError):
            found = os.get_terminal_size(sys.stdout.fileno())
            if found.columns >= LEAST_PLACES and found.lines >= LEAST_PLACES:
                return found.columns, found.lines
        return 80, 24

    def suspend(self) -> None:
        """Give the terminal back, stand still until told to go on, and take it again."""
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()

    def _pressed(self, keys: int) -> list[str]:
        try:
            typed = os.read(keys, 1024)
        except OSError:
            return [QUIT]
        if not typed:  # nobody sits there any more
            return [QUIT]
        return [chr(c) for c in ESCAPES.sub(b"", typed)]

    def _heard(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.tell(SIGNALS[signal.Signals(number)])

    def _enter(self) -> None:
        if self._keys is not None:
            self._found = list(termios.tcgetattr(self._keys))
            tty.setcbreak(self._keys)
        self.console.set_alt_screen(enable=True)
        self.console.show_cursor(show=False)

    def _leave(self) -> None:
        try:
            self.console.show_cursor(show=True)
            self.console.set_alt_screen(enable=False)
            self.console.file.flush()
        except OSError:  # the terminal is gone: what is still to be written has no reader, and is no failure at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if self._keys is not None and self._found is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._found)  # type: ignore[arg-type]
