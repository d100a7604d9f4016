"""The page's part on whose behalf energy was used: owners and pools, then the workloads that are there."""

from __future__ import annotations

from collections.abc import Sequence

from wattgram.model import COMPONENTS, IDLE, SYSTEM, UNATTRIBUTED, grams, joules
from wattgram.snapshot import Snapshot, WorkloadTotals
from wattgram_exporters.figures import Scale, duration, energy_scale, mass_scale, percent
from wattgram_exporters.markup import cell, head, plain, row, section, table, tag, words

# A page is read, not searched: the largest so many.
MOST_ROWS = 20
POOLS = {
    IDLE.id: "idle: nobody holds it",
    SYSTEM.id: "system: the machine's own doing",
    UNATTRIBUTED.id: "unattributed: whose it was is not known",
    "other": "other: more than are named",
}


def on_whose_behalf(snapshot: Snapshot) -> str:
    """Return the section; empty, while all there is to say is that nothing is known."""
    used = [w for w in snapshot.workloads if _energy(w)]
    if not any(w.workload != UNATTRIBUTED for w in used):
        return ""
    ordered = sorted(used, key=lambda w: (w.workload.kind == "pool", -_energy(w)))
    rows, pools = [w for w in ordered if w.workload.kind != "pool"], [w for w in ordered if w.workload.kind == "pool"]
    whole = sum(d.microjoules for d in snapshot.devices)
    energy = energy_scale(joules(whole), finer=1)
    mass = mass_scale(sum(grams(d.carbon) for d in snapshot.devices), finer=1) if snapshot.grid else None
    columns = [("who", ""), ("share", "n"), ("energy", "n")] + ([("CO₂e", "n")] if mass else []) + [("of it", "")]
    shown = [_row(w, snapshot, whole, energy, mass) for w in (*rows[:MOST_ROWS], *pools)]
    more = len(rows) - MOST_ROWS
    caption = "Since the daemon started: who is there or ended lately. Active and idle are told apart by a model"
    tail = f'<p class="soft">And {more} more: see /metrics.</p>' if more > 0 else ""
    return section("On whose behalf", table(caption, columns, shown) + _note(snapshot, whole) + tail)


def _row(w: WorkloadTotals, snapshot: Snapshot, whole: int, energy: Scale, mass: Scale | None) -> str:
    used = _energy(w)
    carbon = sum(t.carbon for _, t in w.parts)
    cells = [
        head(_who(w), plain(w.workload.id, 253)),
        cell(percent(used / whole) if whole else "", "share", "n"),
        cell(energy(joules(used)), "energy", "n"),
    ]
    cells += [cell(mass(grams(carbon)), "CO₂e", "n")] if mass else []
    return row((*cells, cell(_how(w, snapshot), "of it", "how")))


def _who(w: WorkloadTotals) -> str:
    if w.workload.kind == "pool":
        return f"{tag('pool')} {POOLS.get(w.workload.id, words(w.workload.id, 60))}"
    name = words(w.name or w.workload.id, 60)
    facts = [words(w.workload.owner, 60)] if w.workload.owner else []
    facts += [words(w.account, 60)] if w.account else []
    facts += [words(w.workload.id, 60)] if w.name and w.name != w.workload.id else []
    return f"{tag(w.workload.kind)} {name}<small>{' · '.join(facts)}</small>"


def _how(w: WorkloadTotals, snapshot: Snapshot) -> str:
    """Which devices, how much of it idle, how sure, and whether it is still there."""
    total = _energy(w)
    facts = [f"{percent(part / total)} {component}" for component, part in _by(w, "component") if part]
    idle = sum(part for activity, part in _by(w, "activity") if activity == "idle")
    if idle and w.workload.kind != "pool":
        facts.append(f"{percent(idle / total)} idle")
    modelled = sum(part for quality, part in _by(w, "quality") if quality == "apportioned")
    if modelled and w.workload.kind != "pool":
        facts.append(f"{percent(modelled / total)} apportioned")
    gone = snapshot.at.mono - w.seen.mono
    if w.workload.kind != "pool" and gone > 10:  # noqa: PLR2004 - seconds; a source may be that slow
        facts.append(f"last seen {duration(gone)} ago")
    return ", ".join(facts)


def _by(w: WorkloadTotals, label: str) -> Sequence[tuple[str, int]]:
    found: dict[str, int] = dict.fromkeys(COMPONENTS, 0) if label == "component" else {}
    for key, totals in w.parts:
        value: str = getattr(key, label)
        found[value] = found.get(value, 0) + totals.microjoules
    return tuple(found.items())


def _note(snapshot: Snapshot, whole: int) -> str:
    """What ended, which is in none of the rows, and how the rows add up."""
    there = sum(_energy(w) for w in snapshot.workloads)
    if there >= whole or not whole:
        return ""
    return f'<p class="soft">Workloads that ended before used {percent((whole - there) / whole)} of all.</p>'


def _energy(w: WorkloadTotals) -> int:
    return sum(t.microjoules for _, t in w.parts)
