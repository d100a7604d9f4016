"""The part of the page about the meter itself: does everything answer, do the books balance, what does it cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from wattgram.model import COMPONENTS, Cost, Health
from wattgram.snapshot import DeviceTotals, Snapshot
from wattgram_exporters.families import FRESH_INTERVALS, is_fresh
from wattgram_exporters.figures import duration, mebibytes
from wattgram_exporters.markup import LONGEST_TEXT, cell, head, moment, plain, row, section, table, tag, words

GOOD, WARN, BAD = "good", "warn", "bad"
ABSENT, PAUSED, SUSPENDED = "not here", "paused", "suspended"
FEW = 3
# What in a remedy can be typed as it stands.
TYPED = re.compile(r"(sudo [^;(]*[^;( ]|wattgram (?:[a-z-]+ ?)+|[A-Z_]{8,}=\w+|\[[\w.]+\] \w+ = \w+|\w+ = \"[\w.-]+\")")
KINDS = {"source": "power source", "provider": "carbon API", "table": "bundled table"}


def sums(snapshot: Snapshot) -> dict[str, tuple[int, int]]:
    """Return what each of the three books adds up to: microjoules and carbon, exactly."""
    books = {
        "devices": [(d.microjoules, d.carbon) for d in snapshot.devices],
        "owners": [(t.microjoules, t.carbon) for _, t in snapshot.owners],
        "prices": [(t.microjoules, t.carbon) for _, t in snapshot.pricing],
    }
    return {name: (sum(e for e, _ in book), sum(c for _, c in book)) for name, book in books.items()}


def balances(snapshot: Snapshot) -> bool:
    """Whether devices, owners and prices count the same joules and the same grams, to the last digit."""
    return len(set(sums(snapshot).values())) == 1


def device_name(d: DeviceTotals) -> str:
    """Return what people call a device."""
    return f"GPU {d.device.index}" if d.device.component == "gpu" and d.device.index else d.device.id


def in_order(devices: Iterable[DeviceTotals]) -> list[DeviceTotals]:
    """Return devices as people count them: by what they are, then by number."""

    def place(d: DeviceTotals) -> tuple[int, int, str]:
        index = d.device.index
        return (
            COMPONENTS.index(d.device.component),
            int(index[:6]) if index.isascii() and index.isdigit() else 0,
            d.device.id,
        )

    return sorted(devices, key=place)


def silence(d: DeviceTotals, snapshot: Snapshot) -> str:
    """Return why a device shows no power now; empty: it does, or nobody said."""
    if is_fresh(d, snapshot):
        return ""
    for h in snapshot.health:
        if h.name == d.source and h.kind == "source":
            return dict(h.unanswered).get(d.device.id) or h.error
    return ""


def silent(snapshot: Snapshot) -> tuple[DeviceTotals, ...]:
    """Return the devices whose power is not known now, without those that sleep."""
    return tuple(
        d for d in in_order(snapshot.devices) if not is_fresh(d, snapshot) and SUSPENDED not in silence(d, snapshot)
    )


def is_troubled(snapshot: Snapshot) -> bool:
    """Whether somebody should look."""
    return verdict(snapshot)[1] != GOOD


def verdict(snapshot: Snapshot) -> tuple[str, str]:
    """Return the state of the whole in one line, and its tone."""
    if not balances(snapshot):
        return "The books do not balance: do not bill from these figures, and please report it.", BAD
    troubles = list(_troubles(snapshot))
    if troubles:
        line = "; ".join(troubles)
        return f"{line[0].upper()}{line[1:]}.", WARN
    count = len(snapshot.devices)
    answers = "The device answers" if count == 1 else f"All {count} devices answer"
    return f"{answers}. The books balance to the microjoule.", GOOD


def _troubles(snapshot: Snapshot) -> Iterator[str]:
    mute = silent(snapshot)
    if not snapshot.devices:
        yield "nothing is metered"
    elif mute:
        named = ", ".join(words(device_name(d), 40) for d in mute)
        count = f"{len(mute)} of {len(snapshot.devices)} devices"
        does = "does" if len(mute) == 1 else "do"
        yield f"{named if len(mute) <= FEW else count} {does} not answer"
    for h in snapshot.health:
        if h.error.startswith(PAUSED):
            yield f"{words(h.name, 40)} is paused"
        elif h.kind == "provider" and h.error and h.up is False:
            yield f"{words(h.name, 40)} does not answer"
        elif h.kind == "source" and h.up and _state(h, snapshot)[1] != GOOD and not mute:
            yield f"{words(h.name, 40)} answers in part" if _lacks(h) else f"{words(h.name, 40)} is silent"
    if snapshot.grid is not None and snapshot.grid.price is None:
        yield "joules are unpriced"
    if snapshot.reload is not None and not snapshot.reload.successful:
        yield "the changed configuration is not taken"


def missing(snapshot: Snapshot) -> str:
    """Return what is not metered and not priced, why, and what to do."""
    items = [*_failing(snapshot), *_unanswered(snapshot), *_unmetered(snapshot)]
    items += [_typed(note) for note in snapshot.notes]
    if not items:
        return ""
    return section(
        "Not metered, not priced", '<ul class="list sheet">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>"
    )


def _typed(text: str) -> str:
    """Return advice from outside, what can be typed in it marked: one click takes all of it, before the page turns."""
    parts = TYPED.split(text[:LONGEST_TEXT])
    typed = (f"<code>{plain(part)}</code>" if n % 2 else plain(part) for n, part in enumerate(parts))
    return f"<bdi>{''.join(typed)}{'…' if len(text) > LONGEST_TEXT else ''}</bdi>"


def _failing(snapshot: Snapshot) -> Iterator[str]:
    for h in snapshot.health:
        if h.error:
            remedy = f"<small>→ {_typed(h.remedy)}</small>" if h.remedy else ""
            # What a provider says is a stranger's word: nobody is invited to type it.
            said = words(h.error) if h.kind == "provider" else _typed(h.error)
            yield f"<b>{words(h.name)}</b>: {said}{remedy}"


def _unanswered(snapshot: Snapshot) -> Iterator[str]:
    names = {d.device.id: device_name(d) for d in snapshot.devices}
    for h in snapshot.health:
        for place, reason in h.unanswered:
            yield f"<b>{words(names.get(place, place))}</b>, by {words(h.name, 40)}: {words(reason)}"


def _unmetered(snapshot: Snapshot) -> Iterator[str]:
    """The devices with time that is missing from their joules, or with no power now and nobody to say why."""
    up = snapshot.at.mono - snapshot.started.mono
    explained = {place for h in snapshot.health for place, _ in h.unanswered}
    explained |= {d.device.id for h in snapshot.health if h.error for d in snapshot.devices if d.source == h.name}
    for d in in_order(snapshot.devices):
        remarks = []
        if d.unmetered_seconds >= 1:
            remarks.append(f"{duration(d.unmetered_seconds)} of the last {duration(up)} are missing from its joules")
        if not is_fresh(d, snapshot) and d.device.id not in explained:
            age = f"{duration(snapshot.at.mono - d.read_at.mono)} ago" if d.read_at else "never"
            remarks.append(f"last read {age}")
        if remarks:
            yield f"<b>{words(device_name(d))}</b>: {', '.join(remarks)}"


def report(snapshot: Snapshot) -> str:
    """Return how every source and provider is doing, what the meter itself costs, and whether the books balance."""
    columns = [("", ""), ("state", ""), ("last success", "n"), ("every", "n"), ("failures", "")]
    columns += [("own process", "n")] if any(h.child for h in snapshot.health) else []
    rows = [_row(h, snapshot) for h in sorted(snapshot.health, key=lambda h: list(KINDS).index(h.kind))]
    listed = table("What is asked for figures, and how it answers", columns, rows) if rows else ""
    remarks = [_books(snapshot), *_own(snapshot), *_reloaded(snapshot)]
    return section("Health", listed + "".join(f"<p>{remark}</p>" for remark in remarks))


def _row(h: Health, snapshot: Snapshot) -> str:
    state, tone = _state(h, snapshot)
    age = _age(h, snapshot)
    failures = ", ".join(f"{count:,} {plain(reason, 40)}" for reason, count in h.failures if count)
    took = f"{h.seconds / h.turns * 1000:,.1f} ms" if h.turns else ""
    drivers = sorted({d.driver for d in snapshot.devices if d.source == h.name and d.driver and h.kind == "source"})
    driver = f", driver {words(drivers[0], 40)}" if drivers else ""
    kind = KINDS[h.kind] + driver
    asked = f"<small>{h.requests:,} requests</small>" if h.kind == "provider" else ""
    child = f"{_share(h.child, snapshot)}<small>{mebibytes(h.child.resident_bytes)}</small>" if h.child else ""
    cells = [
        head(f"{words(h.name, 40)}<small>{kind}</small>"),
        cell(tag(state, tone), "state"),
        cell("never" if age is None else f"{duration(age)} ago", "last success", "n"),
        cell("" if state == ABSENT else f"{_every(h.every)}<small>{took and 'takes ' + took}</small>", "every", "n"),
        cell((failures or "none") + asked, "failures"),
    ]
    return row([*cells, cell(child, "own process", "n")] if any(other.child for other in snapshot.health) else cells)


def _state(h: Health, snapshot: Snapshot) -> tuple[str, str]:
    """One word for how a source or provider is doing, and its tone."""
    age = _age(h, snapshot)
    if h.error.startswith(PAUSED):
        return PAUSED, WARN
    if not h.turns:
        return "starting", ""
    if h.error:
        return (ABSENT, "") if not h.successes and h.up is None else ("fails", BAD)
    if age is not None and age > FRESH_INTERVALS * h.every:
        return "silent", BAD
    mute = any(d.source == h.name for d in silent(snapshot)) and h.kind == "source"
    return ("in part", WARN) if mute or _lacks(h) else ("answers", GOOD)


def _lacks(h: Health) -> bool:
    """Whether a source cannot read all that it should; what sleeps is left to sleep."""
    return any(SUSPENDED not in reason for _, reason in h.unanswered)


def _age(h: Health, snapshot: Snapshot) -> float | None:
    return None if h.last_success is None else max(0.0, snapshot.at.mono - h.last_success.mono)


def _every(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else duration(seconds).replace(".0 ", " ")  # noqa: PLR2004 - a minute


def _share(cost: Cost, snapshot: Snapshot) -> str:
    """A process's processor time as a share of one core, on average since the start."""
    up = max(1.0, snapshot.at.mono - snapshot.started.mono)
    return f"{100 * cost.cpu_seconds / up:.2f} % CPU"


def _own(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.cost is None:
        return
    together = [snapshot.cost, *(h.child for h in snapshot.health if h.child)]
    seconds = sum(c.cpu_seconds for c in together)
    up = max(1.0, snapshot.at.mono - snapshot.started.mono)
    yield (
        f"The meter itself: <b>{100 * seconds / up:.2f} %</b> of one core ({seconds:,.1f} s of processor time in "
        f"{duration(up)}) and <b>{mebibytes(sum(c.resident_bytes for c in together))}</b> of memory, in "
        f"{len(together)} process{'es' if len(together) > 1 else ''}."
    )


def _books(snapshot: Snapshot) -> str:
    found = sums(snapshot)
    if balances(snapshot):
        (total, _), *_rest = found.values()
        return (
            f"{tag('✓ balanced', GOOD)} The books balance to the microjoule: devices, owners and prices each add up to "
            f"{total:,} µJ."
        )
    sides = ", ".join(f"{name} {energy:,} µJ and {carbon:,} µg·µJ/kWh" for name, (energy, carbon) in found.items())
    return (
        f"{tag('✗ NOT BALANCED', BAD)} <strong>The books do not balance: {sides}.</strong> This is a bug in wattgram."
    )


def _reloaded(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.reload is not None and not snapshot.reload.successful:
        yield (
            f"{tag('configuration', WARN)} What was read at {moment(snapshot.reload.at)} is not taken, the old "
            "one is in force: see <code>wattgram check-config</code>"
        )
