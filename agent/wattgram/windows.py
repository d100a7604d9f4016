"""Windows on the books: what one process and all its descendants used between two moments.

A window is a lens, never an account: it adds nothing to any total, and who looks through it changes nothing.

    sources' threads ── book(delta, …) ──► a queue ──► turn(): the trees are looked at, then the queue is worked off
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from threading import Lock

from wattgram.kin import Proc, Tree
from wattgram.model import Activity, Device, EnergyDelta, Gap, Instant, Process
from wattgram.ports import Clock
from wattgram.tally import Tally
from wattgram.tariff import Price
from wattgram.window import Item, Window, flush, note, see, take

MOST_WINDOWS, MOST_OF_ONE_USER = 1000, 250
MOST_RECEIPTS, KEPT_SECONDS = 1000, 3600.0
ORPHAN_SECONDS = 60.0
# Short commands need more than one reading a second.
YOUNG_SECONDS, QUICK_SECONDS, SLOW_SECONDS = 10.0, 0.2, 1.0
# A user's windows, if he has more than so many, are looked at less often; and no look may take more of the time.
MANY, MOST_OF_TIME = 100, 0.25
MOST_QUEUED = 20_000
MOST_UNITS = 8
# A device that was not heard of for so long before a window's end is not waited for.
FRESH_SECONDS = 5.0


class Refused(Exception):  # noqa: N818 - the protocol's word
    """A wish that cannot be granted; `word` is one of the protocol's."""

    def __init__(self, word: str, message: str) -> None:
        super().__init__(message)
        self.word = word


class Windows:
    """All windows of one house. `stranger` is the process that meters, `hurry` is called when a look is due."""

    def __init__(
        self,
        clock: Clock,
        proc: Proc,
        stranger: int,
        receipt: Callable[[Window], dict[str, object]],
        hurry: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._proc = proc
        self._stranger = stranger
        self._receipt = receipt
        self._hurry = hurry
        self._lock = Lock()
        self._open: dict[tuple[int, str], Window] = {}
        self._receipts: OrderedDict[tuple[int, str], tuple[float, dict[str, object]]] = OrderedDict()
        self._queue: deque[Item | Gap] = deque(maxlen=MOST_QUEUED)
        self._overflowed = False
        self._met: set[Process] = set()
        self._covered: dict[Device, float] = {}

    # --- the sources' side: never waits ---------------------------------------------------------

    def book(self, delta: EnergyDelta, activity: Activity | None, floor: float | None, price: Price) -> None:
        """Hear of one delta and what it is split by."""
        self._covered[delta.device] = delta.end.mono
        if self._open:
            self._overflowed = self._overflowed or len(self._queue) >= MOST_QUEUED
            self._queue.append(Item(delta, activity, floor, price))
            if activity is not None and any(a.process not in self._met for a in activity.actors if a.process):
                self._hurry()  # somebody new, who may be gone by the next look

    def miss(self, gap: Gap) -> None:
        """Hear of a gap."""
        if self._open:
            self._queue.append(gap)

    # --- the clients' side ----------------------------------------------------------------------

    def knows(self, uid: int, key: str) -> bool:
        """Whether a user has, or has had, a window of this key."""
        with self._lock:
            return (uid, key) in self._open or (uid, key) in self._receipts

    def begin(self, uid: int, key: str, name: str, pid: int, *, named_by: int | None = None) -> float:
        """Open a window on a process and what comes of it, or find it open already; return since when, Unix seconds.

        `named_by`: which process gave the number; None: the kernel.
        """
        with self._lock:
            if (found := self._open.get((uid, key))) is not None:
                return found.start.wall
            if (uid, key) in self._receipts:
                raise Refused("ended", "this window has ended; a new one needs a new key")
            of_user = sum(1 for user, _ in self._open if user == uid)
            if len(self._open) >= MOST_WINDOWS or (uid and of_user >= MOST_OF_ONE_USER):
                raise Refused("full", f"{of_user} windows are open; end some")
            if not self._proc.counts_as_we_do or (named_by is not None and not self._proc.counts_alike(named_by)):
                raise Refused("process", "who asks numbers processes otherwise than this meter: in a container, say")
            stat = self._proc.stat(pid)
            if stat is None or (uid and self._proc.uid(pid) != uid):
                raise Refused("process", f"no process {pid} of user {uid} is to be seen from here")
            now = self._clock.now()
            window = Window(key, name, uid, Tree(stat.process, self._stranger), now, Tally(now.mono), seen=now)
            self._look([window])
            self._open[uid, key] = window
            return window.start.wall

    def progress(self, uid: int, key: str, unit: str, units: float) -> None:
        """Note how many units of work are done since the window began; fewer than before change nothing."""
        with self._lock:
            window = self._known(uid, key)
            if unit not in window.units and len(window.units) >= MOST_UNITS:
                raise Refused("full", f"a window counts {MOST_UNITS} units at most")
            window.units[unit] = max(window.units.get(unit, 0.0), units)

    def read(self, uid: int, key: str) -> dict[str, object]:
        """Return the receipt of a window as it stands, or as it ended."""
        with self._lock:
            if (kept := self._receipts.get((uid, key))) is not None:
                return kept[1]
            window = self._known(uid, key)
            self._look(self._unended())
            self._work_off()
            flush(window)
            return self._receipt(window)

    def stop(self, uid: int, key: str, cpu_seconds: float | None = None) -> bool:
        """Let a window end now; return whether its receipt is still to be written: when its devices have been read.

        `cpu_seconds` is what the client itself found its processes to have used, to the microsecond.
        """
        with self._lock:
            if (uid, key) in self._receipts:
                return False
            window = self._known(uid, key)
            if window.end is None:
                self._look([window], cpu_seconds)
                self._close(window, window.sights[-1].mono if window.sights else self._clock.now().mono)
            return True

    def settled(self, uid: int, key: str) -> bool:
        """Whether every device that was heard of lately has been read past the window's end."""
        with self._lock:
            window = self._open.get((uid, key))
            if window is None or window.end is None:
                return True
            end = window.end.mono
            return all(upto >= end or upto < end - FRESH_SECONDS for upto in list(self._covered.values()))

    def write(self, uid: int, key: str) -> dict[str, object]:
        """Return a stopped window's receipt, which is kept for a while."""
        with self._lock:
            if (kept := self._receipts.get((uid, key))) is not None:
                return kept[1]
            window = self._known(uid, key)
            if window.end is None:
                raise Refused("open", "this window has not been stopped")
            self._look(self._unended())  # what others' windows are to see of the queue, they must be ready for
            self._work_off()
            return self._file(window)

    # --- its own turn ---------------------------------------------------------------------------

    @property
    def is_watching(self) -> bool:
        """Whether any window is open."""
        return bool(self._open)

    def turn(self) -> float:
        """Look at all trees and work the queue off; return after how many seconds to look again."""
        with self._lock:
            now = self._clock.now()
            windows = list(self._open.values())
            if windows:
                self._look(self._unended())
            gone = [window for window in windows if self._is_gone(window, now)]
            self._work_off()
            for window in gone:
                if now.mono - window.seen.mono > ORPHAN_SECONDS:
                    self._file(window)
            self._forget(now)
            wish = QUICK_SECONDS if self.is_young() else max(SLOW_SECONDS, len(self._open) / MANY)
            return max(wish, (self._clock.now().mono - now.mono) / MOST_OF_TIME)

    def is_young(self) -> bool:
        """Whether a window is open that began so lately that its sources should be read often.

        Who has many windows hurries nobody, and keeps nobody else from it.
        """
        now = self._clock.now().mono
        windows = list(self._open.values())
        of_user = Counter(window.uid for window in windows)
        return any(
            now - window.start.mono < YOUNG_SECONDS and of_user[window.uid] <= MANY
            for window in windows
            if window.end is None
        )

    def _unended(self) -> list[Window]:
        return [window for window in self._open.values() if window.end is None]

    def _known(self, uid: int, key: str) -> Window:
        found = self._open.get((uid, key))
        if found is None:
            raise Refused("unknown", "no window has this key here: it never began, or the daemon was restarted since")
        return found

    def _is_gone(self, window: Window, now: Instant) -> bool:
        """Whether a window's root is gone: then it ends, and waits a while for somebody to ask for its receipt."""
        if self._proc.is_alive(window.tree.root):
            window.seen = now
            return False
        if window.end is None:
            window.orphan = True
            self._close(window, now.mono)
        return True

    def _close(self, window: Window, mono: float) -> None:
        now = self._clock.now()
        window.end = Instant(mono, now.wall - (now.mono - mono))
        window.left_over = max(0, window.tree.living - self._proc.is_alive(window.tree.root))

    def _file(self, window: Window) -> dict[str, object]:
        flush(window)
        receipt = self._receipt(window)
        self._receipts[window.uid, window.key] = (self._clock.now().mono, receipt)
        del self._open[window.uid, window.key]
        while len(self._receipts) > MOST_RECEIPTS:
            (most, _), *_ = Counter(user for user, _ in self._receipts).most_common(1)
            del self._receipts[next(kept for kept in self._receipts if kept[0] == most)]
        return receipt

    def _forget(self, now: Instant) -> None:
        while self._receipts:
            oldest = next(iter(self._receipts))
            if now.mono - self._receipts[oldest][0] <= KEPT_SECONDS:
                break
            del self._receipts[oldest]
        if not self._open or len(self._met) > MOST_QUEUED:
            self._met.clear()
        if not self._open:
            self._queue.clear()

    # --- who used what --------------------------------------------------------------------------

    def _look(self, windows: list[Window], cpu_seconds: float | None = None) -> None:
        """See what the trees and the machine have used by now."""
        family = self._proc.family({pid for window in windows for pid in window.tree.pids})
        machine = self._proc.machine()
        now = self._clock.now()
        for window in windows:
            cpu = window.tree.look(family)
            if machine is not None:
                see(window, now.mono, cpu, machine, cpu_seconds)

    def _work_off(self) -> None:
        if self._overflowed:
            self._overflowed = False
            for window in self._open.values():
                window.overflowed = True
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, Item) and item.activity is not None:
                self._met.update(actor.process for actor in item.activity.actors if actor.process is not None)
            for window in self._open.values():
                if isinstance(item, Gap):
                    note(window, item)
                else:
                    take(window, item)
