"""What a window came to, as plain values for JSON: unknown is null, and what was not metered is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from wattgram import __version__
from wattgram.kin import TICKS
from wattgram.model import COMPONENTS, Device, Health, grams, joules
from wattgram.ports import Clock
from wattgram.snapshot import Snapshot
from wattgram.tally import DeviceTally
from wattgram.window import Window

# How long a meter shows an old figure, in seconds, by what it is: docs/accuracy.md.
STEPS = {("gpu", "counter"): 0.1, ("gpu", "samples"): 0.1, ("gpu", "power"): 0.2}
STEP, EDGES = 0.001, 2
# Drivers say how busy each process was for the last round of theirs, up to a second: half of it may be another's.
ROUND_SECONDS = 0.5
# Both processor times are counted in ticks, at the begin and at the end.
TICK_SECONDS = 2 / TICKS
LEAST_UNMETERED, WORTH_SAYING = 0.005, 0.01
# What every server has and no meter of ours sees.
NEVER = "fans, disks, network and the losses of power supplies"


class Receipts:
    """Writes a window's receipt. `known` gives the books, for what should have been metered and was not.

    `by` names the meter: `daemon` or `own`.
    """

    def __init__(self, clock: Clock, known: Callable[[], Snapshot], by: str) -> None:
        self._clock = clock
        self._known = known
        self._by = by

    def __call__(self, window: Window) -> dict[str, Any]:
        """Return the receipt as it stands now."""
        snapshot = self._known()
        end = window.end or self._clock.now()
        seconds = max(0.0, end.mono - window.start.mono)
        devices = {totals.device for totals in snapshot.devices} | set(window.tally.devices)
        accounts = [window.tally.of(device) for device in sorted(devices, key=_order)]
        components = [_component(name, accounts, seconds, window) for name in COMPONENTS]
        shown = [component for component in components if component is not None]
        energies = [c["joules"] for c in shown if c["joules"] is not None]
        total = sum(energies) if energies else None
        carbon, unpriced = _grams(window) if total is not None else (None, None)
        return {
            "wattgram": __version__,
            "meter": self._by,
            "name": window.name,
            "state": "orphan" if window.orphan else "open" if window.end is None else "ended",
            "began": window.start.wall,
            "ended": None if window.end is None else window.end.wall,
            "seconds": seconds,
            "joules": total,
            "watts": _watts(window, total, seconds),
            "grams": carbon,
            "pricing": _pricing(window),
            "unpriced_joules": unpriced,
            "components": shown,
            "uncertainty": _uncertainty(shown, total),
            "cpu_seconds": window.cpu_seconds,
            "per_unit": [_per_unit(unit, n, total, carbon) for unit, n in sorted(window.units.items())],
            "not_metered": list(_not_metered(shown, snapshot)),
            "remarks": list(_remarks(window, shown)),
        }


def _order(device: Device) -> tuple[int, str, str]:
    return COMPONENTS.index(device.component), device.index.zfill(4), device.id


def _watts(window: Window, total: float | None, seconds: float) -> dict[str, float] | None:
    if total is None or seconds <= 0:
        return None
    average = total / seconds
    return {"average": average, "peak": max(average, window.tally.peak_watts(seconds))}


def _grams(window: Window) -> tuple[float | None, float]:
    """Grams of what is priced, None when nothing is; and the joules that are not."""
    priced = [p.carbon for p in window.tally.prices.values() if p.carbon is not None]
    unpriced = sum(p.microjoules for p in window.tally.prices.values() if p.carbon is None)
    if window.tally.microjoules == 0:
        return None, 0.0
    return (grams(sum(priced)) if priced else None), joules(unpriced)


def _pricing(window: Window) -> list[dict[str, Any]]:
    return [
        {
            "basis": basis,
            "factor": factor,
            "joules": joules(price.microjoules),
            "grams": None if price.carbon is None else grams(price.carbon),
        }
        for (basis, factor), price in sorted(window.tally.prices.items())
    ]


def _component(name: str, accounts: Iterable[DeviceTally], seconds: float, window: Window) -> dict[str, Any] | None:
    """One component's figures; None: no device of it is known. `joules` None: nobody can say whose they were."""
    of_it = [account for account in accounts if account.device.component == name]
    if not of_it:
        return None
    mine = [account for account in of_it if account.mine]
    whole, unknown = sum(a.whole for a in of_it), sum(a.unknown for a in of_it)
    is_known = whole > unknown or (any(a.seconds for a in of_it) and not unknown)
    used = mine or of_it
    return {
        "component": name,
        "joules": joules(sum(a.mine for a in of_it)) if is_known else None,
        "idle_joules": joules(sum(a.idle for a in of_it)) if is_known else None,
        "machine_joules": joules(whole) if any(a.seconds for a in of_it) else None,
        "unattributed_joules": joules(unknown),
        "share": _share(mine, unknown) if is_known else None,
        "quality": sorted(set().union(*(a.qualities for a in used))) if is_known else [],
        "method": sorted(set().union(*(a.methods for a in used))),
        "devices": [a.device.id for a in mine],
        "unmetered_seconds": {
            a.device.id: round(missing, 6)
            for a in of_it
            if (missing := max(0.0, seconds - a.seconds)) > max(LEAST_UNMETERED, 0.001 * seconds)
        },
        "reasons": sorted({reason for a in of_it for reason in a.reasons}),
        "uncertainty": _of_component(mine, window) if is_known else None,
    }


def _share(mine: Iterable[DeviceTally], unknown: int) -> str:
    """Whether nobody else used the devices meanwhile, or the figures are a model's part of theirs."""
    accounts = list(mine)
    if not accounts:
        return "none"
    is_shared = any(a.theirs for a in accounts) or unknown >= WORTH_SAYING * sum(a.whole for a in accounts)
    return "apportioned" if is_shared else "alone"


def _of_component(mine: list[DeviceTally], window: Window) -> dict[str, Any]:
    """Half-widths in joules: the sensors' as stated, None if for any it is not established; and those of the edges."""
    stated = [_sensor(account) for account in mine]
    edges = sum(_edges(account, window) for account in mine)
    sensor = sum(s for s in stated if s is not None) if None not in stated else None
    return {"sensor_joules": sensor, "edge_joules": edges}


def _sensor(account: DeviceTally) -> float | None:
    known = dict(account.device.uncertainty)
    stated = [known.get(method) for method in account.methods]
    ratios = [ratio for ratio in stated if ratio is not None]
    return max(ratios) * joules(account.mine) if ratios and len(ratios) == len(stated) else None


def _edges(account: DeviceTally, window: Window) -> float:
    """What a step of the counter, or a reading not quite at the edge, may have put on the wrong side of it."""
    if not account.whole:
        return 0.0
    part = account.mine / account.whole
    step = max(STEPS.get((account.device.component, method), STEP) for method in account.methods)
    if account.theirs and account.device.component == "gpu":
        step += ROUND_SECONDS / EDGES
    watts = max(account.peak_watts, joules(account.whole) / account.seconds if account.seconds else 0.0)
    edges = watts * part * (account.edge_seconds + EDGES * step)
    if account.device.component != "gpu":
        edges += joules(account.mine) * TICK_SECONDS / max(window.cpu_seconds, TICK_SECONDS)
    return min(edges, joules(account.mine))


def _uncertainty(components: list[dict[str, Any]], total: float | None) -> dict[str, Any] | None:
    if not total:
        return None
    used = [c for c in components if c["uncertainty"] and c["joules"]]
    stated = [(c["component"], c["uncertainty"]) for c in used]
    known = sum((u["sensor_joules"] or 0.0) + u["edge_joules"] for _, u in stated)
    return {
        "joules": known,
        "ratio": known / total,
        "edge_joules": sum(u["edge_joules"] for _, u in stated),
        "sensors_not_established": [name for name, u in stated if u["sensor_joules"] is None],
        "modelled": [c["component"] for c in used if "estimated" in c["quality"]],
    }


def _per_unit(unit: str, units: float, total: float | None, carbon: float | None) -> dict[str, Any]:
    return {
        "unit": unit,
        "units": units,
        "joules": total / units if total is not None and units else None,
        "grams": carbon / units if carbon is not None and units else None,
    }


def _not_metered(components: list[dict[str, Any]], snapshot: Snapshot) -> Iterator[str]:
    there = {component["component"] for component in components}
    for name in ("gpu", "cpu", "dram"):
        if name not in there:
            yield f"{name}: no meter"
    for component in components:
        for device, seconds in component["unmetered_seconds"].items():
            yield f"{component['component']}: {device} for {seconds:.3g} s"
    lacks = not there >= {"gpu", "cpu", "dram"}
    for health in snapshot.health:
        if lacks or health.up is not None:  # what was never there is missed only where something is
            yield from _trouble(health)
    yield NEVER


def _trouble(health: Health) -> Iterator[str]:
    if health.kind != "source":
        return
    if health.error:
        yield f"{health.name}: {health.error}"
    for device, reason in health.unanswered:
        yield f"{health.name}: {device}: {reason}"


def _remarks(window: Window, components: list[dict[str, Any]]) -> Iterator[str]:
    if window.orphan:
        yield "its process was gone before it ended the window: it ends when that was found"
    if window.overflowed:
        yield "the meter could not keep up: readings were dropped, and their energy is not in here"
    if window.left_over:
        processes = "process of it still runs" if window.left_over == 1 else "processes of it still run"
        yield f"{window.left_over} {processes}: what they use from now on is not in here"
    for component in components:
        whole, unknown = component["machine_joules"], component["unattributed_joules"]
        if unknown and unknown >= WORTH_SAYING * whole:
            yield (
                f"{component['component']}: whose {unknown:.3g} J of the machine's {whole:.3g} J were is not known; "
                "some may be in this window"
            )
