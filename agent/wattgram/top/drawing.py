"""The screen: what the meter shows, in the room that there is, with or without colours and Unicode."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from rich.console import Group, RenderableType
from rich.text import Text

from wattgram.top import figures
from wattgram.top.columns import Column, cut, table
from wattgram.top.reading import POOL, ROUNDING, Device, Status, Workload

SORTS = ("watts", "energy", "grams", "name")
WARN, BAD, SOFT, GOOD = "yellow", "bold red", "dim", "green"
BAR_PLACES = 10
MOST_TROUBLES = 3
# A source may be that slow.
GONE_SECONDS = 10.0
# A list that nobody cuts is read from a file, not from a screen.
MOST_ROWS = 200
POOLS = {
    "idle": "idle: nobody holds it",
    "system": "system: the machine's own",
    "unattributed": "unattributed: not known whose",
    "other": "other: more than are named",
}
HELP = (
    "q  leave",
    "s  sort workloads by the next of: watts, energy, grams, name",
    "p  hold the picture, and let it go on",
    "?  this page, and back",
    "",
    "W now    a device: as its meter tells; a workload: its joules of the last seconds",
    "share    of all joules since the daemon started; idle: of them, while nothing ran",
    "how      counter, samples, power or estimate, and what the figure is worth",
    "lost     time that is missing from a device's joules",
    "-        not known; a power that is older than three readings is not shown",
)


@dataclass(frozen=True, slots=True)
class Signs:
    """What is drawn with: a terminal that knows no Unicode gets the same in ASCII."""

    dot: str = "\N{MIDDLE DOT}"
    dash: str = "\N{EN DASH}"
    tick: str = "\N{CHECK MARK}"
    full: str = "\N{FULL BLOCK}"
    empty: str = "\N{LIGHT SHADE}"
    ellipsis: str = "\N{HORIZONTAL ELLIPSIS}"
    carbon: str = "CO\N{SUBSCRIPT TWO}e"
    degrees: str = "\N{DEGREE SIGN}C"


ASCII = Signs("|", "-", "ok:", "#", ".", "...", "CO2e", "C")


@dataclass(frozen=True, slots=True)
class Frame:
    """What there is to draw. `age`: seconds since the daemon last told something new; None: it never did.

    `powers` are the watts of workloads by their key. `trouble` is why the last request failed, empty: it did not.
    """

    place: str
    status: Status | None = None
    powers: Mapping[tuple[str, str, str], float] = field(default_factory=dict)
    age: float | None = None
    stale_after: float = 6.0
    trouble: str = ""
    warning: str = ""
    every: float = 2.0
    sort: str = SORTS[0]
    is_paused: bool = False
    is_help: bool = False
    is_live: bool = True

    @property
    def is_stale(self) -> bool:
        """Whether what is known is too old to be called now."""
        return self.age is not None and self.age > self.stale_after


def draw(frame: Frame, width: int, height: int | None, signs: Signs = ASCII) -> Group:
    """Return the screen; with a height it fits into so many lines, else it shows all."""
    drawer = _Drawer(frame, width, signs)
    head, foot = list(drawer.head()), list(drawer.foot())
    if frame.is_help:
        return Group(*head, *(cut(Text(line), width, signs.ellipsis) for line in ("", *HELP)), *foot)
    if frame.status is None:
        return Group(*head, *foot)
    # Two titles, two empty lines, and what stands above and below.
    room = None if height is None else max(0, height - len(head) - len(foot) - 4)
    return Group(*head, *drawer.tables(frame.status, room), *foot)


def share_room(devices: int, workloads: int, room: int | None) -> tuple[int, int]:
    """Return how many lines the devices and the workloads have: who needs less leaves the rest to the other."""
    if room is None:
        return min(devices, MOST_ROWS), min(workloads, MOST_ROWS)
    first = min(devices, max(room - workloads, (room + 1) // 2))
    return first, min(workloads, room - first)


class _Drawer:
    def __init__(self, frame: Frame, width: int, signs: Signs) -> None:
        self._frame, self._width, self._signs = frame, width, signs

    # --- above and below --------------------------------------------------------------------------

    def head(self) -> Iterator[Text]:
        frame, signs = self._frame, self._signs
        status = frame.status
        words = ["wattgram top", (status.host or frame.place) if status else frame.place]
        words += [_clock(status.at, "%Y-%m-%d %H:%M:%S UTC")] if status else []
        state = "PAUSED, p goes on" if frame.is_paused else f"every {frame.every:g} s" if frame.is_live else ""
        yield self._line(f" {signs.dot} ".join([*words, state] if state else words), "bold")
        if frame.trouble and not frame.is_paused:
            yield self._line(f"NO ANSWER: {frame.trouble}", "bold white on red")
        elif status is None:
            yield self._line(f"asking {frame.place} {signs.ellipsis}", SOFT)
        if frame.is_stale and frame.age is not None:
            since = figures.duration(frame.age)
            yield self._line(f"STALE: nothing new for {since}; what is below was so then", "bold black on yellow")
        if frame.warning:
            yield self._line(f"! {frame.warning}", WARN)
        if status:
            yield self._line(self._totals(status), "")
            yield self._line(*self._grid(status))
            yield from self._verdict(status)

    def foot(self) -> Iterator[Text]:
        status = self._frame.status
        if status and not self._frame.is_help:
            ended = status.joules - math.fsum(w.joules for w in status.workloads)
            if status.workloads and ended > ROUNDING * status.joules:
                part = figures.percent(ended, status.joules)
                yield self._line(f"and {part} of all joules: workloads that ended before", SOFT)
        if self._frame.is_live:
            yield self._line(f"q leave  s sort (by {self._frame.sort})  p pause  ? help", SOFT)

    def _totals(self, status: Status) -> str:
        signs = self._signs
        watts = None if self._frame.is_stale else status.watts
        telling = sum(1 for d in status.devices if d.watts is not None)
        power = signs.dash if watts is None else figures.watts(watts)
        part = f" ({telling} of {len(status.devices)} devices)" if telling < len(status.devices) else ""
        energy = figures.energy_unit([status.joules])
        facts = [f"{power} W now{part}", f"{energy.figure(status.joules)} {energy.name}"]
        if status.grams is not None:
            mass = figures.mass_unit([status.grams])
            facts.append(f"{mass.figure(status.grams)} {mass.name} {signs.carbon}")
        facts.append(f"in {figures.duration(max(0.0, status.at - status.started))}")
        return f" {signs.dot} ".join(facts)

    def _grid(self, status: Status) -> tuple[str, str]:
        price = status.price
        if not status.has_zone:
            return "grid: no zone is configured, so no grams", WARN
        if price is None:
            return f"grid: {status.zone} has no price now, joules are unpriced", WARN
        if price.basis == "annual":
            origin = f"yearly average of {price.edition}" if price.edition else "yearly average"
        else:
            age = figures.duration(max(0.0, status.at - price.start))
            origin = f"{price.basis}, by {price.provider}, for the interval begun {age} ago"
        figure = f"grid: {figures.number(price.grams_per_kwh)} g/kWh in {price.zone}, {origin}, {price.factor}"
        return figure, "" if price.basis in ("live", "annual") else WARN

    def _verdict(self, status: Status) -> Iterator[Text]:
        if status.bad_books:
            yield self._line("the books do not balance: do not bill from these figures", BAD)
        for trouble in status.troubles[:MOST_TROUBLES]:
            yield self._line(f"! {trouble}", WARN)
        if len(status.troubles) > MOST_TROUBLES:
            yield self._line(f"! and {len(status.troubles) - MOST_TROUBLES} more, see the page", WARN)
        if not status.troubles and not status.bad_books:
            yield self._line(f"{self._signs.tick} all answer, and the books balance", GOOD)
        qualities = {d.quality for d in status.devices}
        if "synthetic" in qualities:
            yield self._line("synthetic: invented hardware for a demonstration, no real joule", WARN)
        elif "estimated" in qualities:
            yield self._line("estimated devices come from a model, off by half and more", WARN)

    def _line(self, text: str, style: str) -> Text:
        return cut(Text(text, style=style), self._width, self._signs.ellipsis)

    # --- tables -----------------------------------------------------------------------------------

    def tables(self, status: Status, room: int | None) -> Iterator[RenderableType]:
        workloads, units = self._sorted(status.workloads), _units(status)
        first, second = share_room(len(status.devices), len(workloads), room)
        shown = _rows(len(status.devices), first)
        yield from self._block(self._devices(status.devices[:shown], *units), len(status.devices) - shown, first)
        if workloads:
            shown = _rows(len(workloads), second)
            columns = self._workloads(workloads[:shown], status, *units)
            yield from self._block(columns, len(workloads) - shown, second)

    def _block(self, columns: Sequence[Column], left_out: int, most: int) -> Iterator[RenderableType]:
        """A table after an empty line; the last of too few lines says how many rows are left out."""
        yield Text("")
        yield table(columns, self._width, self._signs.ellipsis)
        if left_out and most:
            yield self._line(f"and {left_out} more", SOFT)

    def _devices(self, devices: Sequence[Device], energy: figures.Unit, mass: figures.Unit) -> list[Column]:
        stale, signs = self._frame.is_stale, self._signs
        return [
            Column("device", [Text(d.name) for d in devices], 0, is_number=False, most=max(10, self._width // 4)),
            Column("W now", [self._watts(None if stale else d.watts) for d in devices], 1),
            Column("of its limit", [self._bar(d) for d in devices], 5, is_number=False),
            Column(energy.name, [Text(energy.figure(d.joules)) for d in devices], 2),
            Column(f"{mass.name} {signs.carbon}", [self._optional(d.grams, mass) for d in devices], 3),
            Column("how", [_how(d) for d in devices], 4, is_number=False, most=22),
            Column("lost", [_lost(d) for d in devices], 6),
            Column("busy", [Text("" if d.utilization is None else f"{min(d.utilization, 9):.0%}") for d in devices], 7),
            Column(signs.degrees, [Text("" if d.celsius is None else figures.watts(d.celsius)) for d in devices], 8),
            Column("model", [Text(d.model, style=SOFT) for d in devices], 9, is_number=False),
        ]

    def _workloads(
        self, workloads: Sequence[Workload], status: Status, energy: figures.Unit, mass: figures.Unit
    ) -> list[Column]:
        powers = {} if self._frame.is_stale else self._frame.powers
        signs = self._signs
        idle = [Text("" if w.kind == POOL else figures.percent(w.idle_joules, w.joules)) for w in workloads]
        guessed = [
            Text(figures.percent(w.apportioned_joules, w.joules) if w.apportioned_joules else "") for w in workloads
        ]
        return [
            Column("on whose behalf", [_who(w) for w in workloads], 0, is_number=False, most=max(16, self._width // 3)),
            Column("W now", [self._drawn(w, powers, status.at) for w in workloads], 1),
            Column("share", [Text(figures.percent(w.joules, status.joules)) for w in workloads], 4),
            Column(energy.name, [Text(energy.figure(w.joules)) for w in workloads], 2),
            Column(f"{mass.name} {signs.carbon}", [self._optional(w.grams, mass) for w in workloads], 3),
            Column("idle", idle, 5),
            Column("owner", [Text("" if w.kind == POOL else w.owner) for w in workloads], 6, is_number=False, most=16),
            Column("account", [Text(w.account) for w in workloads], 7, is_number=False, most=20),
            Column("apportioned", guessed, 8),
        ]

    def _sorted(self, workloads: Sequence[Workload]) -> list[Workload]:
        """Pools last; what is not known after what is."""
        powers = self._frame.powers

        def place(w: Workload) -> tuple[bool, float, float, str]:
            known = {"watts": powers.get(w.key, -1.0), "energy": w.joules, "grams": w.grams or 0.0}
            name = w.name or w.id
            return (
                w.kind == POOL,
                -known.get(self._frame.sort, 0.0),
                -w.joules if self._frame.sort in known else 0.0,
                name,
            )

        return sorted((w for w in workloads if w.joules), key=place)

    def _drawn(self, w: Workload, powers: Mapping[tuple[str, str, str], float], at: float) -> Text:
        """What a workload draws now; one that was not there for a while draws nothing any more."""
        if w.kind != POOL and at - w.seen > GONE_SECONDS:
            return Text("ended", style=SOFT)
        return self._watts(powers.get(w.key))

    def _watts(self, watts: float | None) -> Text:
        return Text(self._signs.dash, style=SOFT) if watts is None else Text(figures.watts(watts), style="bold")

    def _optional(self, grams: float | None, unit: figures.Unit) -> Text:
        return Text(self._signs.dash, style=SOFT) if grams is None else Text(unit.figure(grams))

    def _bar(self, d: Device) -> Text:
        if d.limit_watts is None or d.limit_watts <= 0:
            return Text("")
        known = None if self._frame.is_stale else d.watts
        places = 0 if known is None else round(min(1.0, known / d.limit_watts) * BAR_PLACES)
        bar = Text().append(self._signs.full * places, style="cyan")
        bar.append(self._signs.empty * (BAR_PLACES - places), style=SOFT)
        return bar.append(f" {figures.watts(d.limit_watts)}")


def _rows(count: int, lines: int) -> int:
    """How many rows of a table are shown in so many lines, of which one may have to say how many are not."""
    return count if count <= lines else max(0, lines - 1)


def _units(status: Status) -> tuple[figures.Unit, figures.Unit]:
    """The units of both tables, so that their figures can be compared."""
    energy = figures.energy_unit(d.joules for d in status.devices)
    return energy, figures.mass_unit(d.grams or 0.0 for d in status.devices)


def _how(d: Device) -> Text:
    style = "" if d.quality == "measured" else WARN
    words = [d.method] if d.quality == "measured" else [d.method, d.quality]
    return Text(", ".join(word for word in words if word), style=style)


def _lost(d: Device) -> Text:
    return Text(figures.duration(d.unmetered_seconds) if d.unmetered_seconds >= 1 else "", style=WARN)


def _who(w: Workload) -> Text:
    if w.kind == POOL:
        return Text(POOLS.get(w.id, w.id), style=SOFT)
    return Text(f"{w.kind} {w.name or w.id}")


def _clock(wall: float, form: str) -> str:
    """An instant in UTC; empty for one that no calendar has."""
    try:
        return datetime.fromtimestamp(wall, tz=timezone.utc).strftime(form)
    except (ValueError, OverflowError, OSError):
        return ""
