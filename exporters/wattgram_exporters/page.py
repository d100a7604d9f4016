"""The page for people: what is metered, what it costs in carbon, what is not and why. No script, no other host."""

from __future__ import annotations

from collections.abc import Iterator

from wattgram.model import COMPONENTS, Intensity, grams, joules
from wattgram.snapshot import DeviceTotals, PriceKey, Snapshot, Totals
from wattgram_exporters import health, people
from wattgram_exporters.families import is_fresh
from wattgram_exporters.figures import Scale, duration, energy_scale, mass_scale, mebibytes, percent, watts
from wattgram_exporters.markup import cell, head, moment, plain, row, section, table, tag, words
from wattgram_exporters.style import REFRESH_SECONDS, STALE_SECONDS, STYLE

SYNTHETIC, ESTIMATED, MEASURED = "synthetic", "estimated", "measured"
# From here on a screen on a wall shows one line per device, else the last of them would be below its edge.
MANY = 10
NAMES = {
    "gpu": "GPUs",
    "cpu": "processors",
    "dram": "memory",
    "module_rest": "rest of the modules",
    "host_rest": "rest of the host",
}
LINKS = (
    ("/metrics", "for Prometheus"),
    ("/api/v1/status", "all of this as JSON"),
    ("/api/v1/intensity", "the grid as JSON"),
    ("/-/healthy", "the process lives"),
    ("/-/ready", "it has something to show"),
)


def render(snapshot: Snapshot) -> str:
    """Return the page."""
    main = (
        f"{_header(snapshot)}{_banner(snapshot)}{_verdict(snapshot)}{_cards(snapshot)}"
        f'<div class="columns"><div>{_devices(snapshot)}{people.on_whose_behalf(snapshot)}</div>'
        f"<div>{health.missing(snapshot)}{_provenance(snapshot)}{_grid(snapshot)}{health.report(snapshot)}{_links()}</div></div>"
    )
    many = ' class="many"' if len(snapshot.devices) > MANY else ""
    return (
        f'<!doctype html><html lang="en"{many}><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}"><title>{_title(snapshot)}</title>'
        f'<style>{STYLE}</style></head><body><div class="turn" aria-hidden="true"></div>'
        f'<p class="stale">Standing still for {STALE_SECONDS} s or more: wattgram does not answer. '
        f"What is below was so at {moment(snapshot.at.wall, '%H:%M:%S UTC')}.</p><main>{main}</main></body></html>\n"
    )


# --- at a glance ------------------------------------------------------------------------------------


def _title(snapshot: Snapshot) -> str:
    known = _watts_now(snapshot)
    mark = "! " if health.is_troubled(snapshot) else ""
    name = plain(snapshot.host) or "wattgram"
    return f"{mark}{name}" if known is None else f"{mark}{' '.join(watts(known))} - {name}"


def _name(snapshot: Snapshot) -> str:
    """Ours, and the server's: a wall may show several."""
    return f"wattgram · {words(snapshot.host)}" if snapshot.host else "wattgram"


def _header(snapshot: Snapshot) -> str:
    return (
        f'<header><h1>{_name(snapshot)}</h1><span class="soft">watts in, grams out · version '
        f'{words(snapshot.version, 40)}</span><span class="asof">{moment(snapshot.at.wall, "%H:%M:%S UTC")} '
        f"<small>{moment(snapshot.at.wall, '%Y-%m-%d')}</small></span></header>"
    )


def _verdict(snapshot: Snapshot) -> str:
    line, tone = health.verdict(snapshot)
    return f'<p class="verdict {tone}" role="status">{"✓" if tone == health.GOOD else "!"} {line}</p>'


def _banner(snapshot: Snapshot) -> str:
    qualities = {d.device.quality for d in snapshot.devices}
    if SYNTHETIC in qualities:
        return f"<p>{tag(SYNTHETIC, 'warn')} Invented hardware for a demonstration: no real joule.</p>"
    if ESTIMATED in qualities:
        return (
            f"<p>{tag(ESTIMATED, 'warn')} Devices so marked come from a model, not a meter: "
            "an order of magnitude, off by half and more.</p>"
        )
    return ""


def _watts_now(snapshot: Snapshot) -> float | None:
    known = [w for d in snapshot.devices if (w := _power(d, snapshot)) is not None]
    return sum(known) if known else None


def _watts_of_all(snapshot: Snapshot) -> float | None:
    """The power of all devices that are awake; None while one does not tell, since a part of it is no whole."""
    awake = (d for d in snapshot.devices if health.SUSPENDED not in health.silence(d, snapshot))
    return None if any(_power(d, snapshot) is None for d in awake) else _watts_now(snapshot)


def _power(d: DeviceTotals, snapshot: Snapshot) -> float | None:
    return d.watts if is_fresh(d, snapshot) else None


def _cards(snapshot: Snapshot) -> str:
    up = duration(snapshot.at.mono - snapshot.started.mono)
    since = f"in {up}, since {moment(snapshot.started.wall, '%Y-%m-%d %H:%M UTC')}"
    energy = sum(joules(d.microjoules) for d in snapshot.devices)
    scale = energy_scale(energy)
    cards = (
        _now(snapshot),
        _card("Energy", *((scale.figure(energy), scale.unit) if snapshot.devices else ("unknown", "")), since),
        _mass_card(snapshot, energy),
        _price_card(snapshot),
    )
    return f'<dl class="cards">{"".join(cards)}</dl>'


def _card(name: str, value: str, unit: str, note: str) -> str:
    return (
        f'<div class="card"><dt>{name}</dt><dd class="big">{value} <small>{unit}</small></dd>'
        f'<dd class="note">{note}</dd></div>'
    )


def _part(component: str, snapshot: Snapshot) -> float | None:
    """What is known to be drawn by a component's devices; None: nothing is known of any."""
    powers = (_power(d, snapshot) for d in snapshot.devices if d.device.component == component)
    known = [power for power in powers if power is not None]
    return sum(known) if known else None


def _now(snapshot: Snapshot) -> str:
    known = _watts_now(snapshot)
    if not snapshot.devices:
        return _card("Power", "unknown", "", "no device is metered")
    shown = sum(1 for d in snapshot.devices if _power(d, snapshot) is not None)
    note = f"now, {shown} of {len(snapshot.devices)} devices"
    if known is None:
        return _card("Power", "unknown", "W", note)
    there = {c: _part(c, snapshot) for c in COMPONENTS if any(d.device.component == c for d in snapshot.devices)}
    bars = "".join(f'<i class="{c}" style="flex:{part:.0f}"></i>' for c, part in there.items() if part and part >= 1)
    legend = " ".join(
        f'<span class="key"><i class="{c}" aria-hidden="true"></i> {NAMES[c]} '
        f"{'unknown' if part is None else ' '.join(watts(part))}</span>"
        for c, part in there.items()
    )
    bar = f'<span class="parts" aria-hidden="true">{bars}</span>' if bars else ""
    return _card("Power", *watts(known), f"{note}{bar}{legend if len(there) > 1 else ''}")


def _mass_card(snapshot: Snapshot, energy: float) -> str:
    if snapshot.grid is None:
        return _card("CO₂e", "no price", "", "carbon.zone is not set: joules are counted, grams are not")
    if not snapshot.devices:
        return _card("CO₂e", "unknown", "", "no joule, no gram")
    mass = sum(grams(d.carbon) for d in snapshot.devices)
    scale = mass_scale(mass)
    unpriced = sum(joules(t.microjoules) for key, t in snapshot.pricing if key.basis == "none")
    note = "since the daemon started"
    if energy and unpriced:
        note += f", {percent(unpriced / energy)} of the energy unpriced"
    price, known = snapshot.grid.price, _watts_of_all(snapshot)
    if price is not None and known:
        hourly = known / 1000 * price.grams_per_kwh
        note += f"; at this power and price {mass_scale(hourly)(hourly)}/h"
    return _card("CO₂e", scale.figure(mass), scale.unit, note)


def _price_card(snapshot: Snapshot) -> str:
    if snapshot.grid is None:
        return _card("Grid", "no zone", "", "set carbon.zone to where this server stands, such as FR")
    price = snapshot.grid.price
    if price is None:
        return _card("Grid", "unpriced", "", f"no provider has a value for {words(snapshot.grid.zone, 40)} now")
    return _card("Grid", _intensity(price.grams_per_kwh), "g/kWh", _origin(price, snapshot))


def _origin(price: Intensity, snapshot: Snapshot) -> str:
    zone, factor = words(price.zone, 40), words(price.factor, 40)
    if price.basis == "annual":
        return f"{tag('annual')} {zone}, yearly average of {words(price.edition, 40)}, {factor}"
    age = duration(max(0.0, snapshot.at.wall - price.start))
    tone = "good" if price.basis == "live" else "warn" if price.basis == "held" else ""
    return (
        f"{tag(price.basis, tone)} {zone}, {factor}, by {words(price.provider, 40)}; for the interval begun {age} ago"
    )


def _intensity(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"  # noqa: PLR2004 - two figures at least


# --- what is metered --------------------------------------------------------------------------------


def _devices(snapshot: Snapshot) -> str:
    if not snapshot.devices:
        return ""
    ordered = health.in_order(snapshot.devices)
    energy = energy_scale(sum(joules(d.microjoules) for d in ordered), finer=1)
    mass = mass_scale(sum(grams(d.carbon) for d in ordered), finer=1) if snapshot.grid else None
    columns = [("device", ""), ("power", "n"), ("share", "n"), ("energy", "n")]
    columns += [("CO₂e", "n")] if mass else []
    columns += [("doing", ""), ("metered by", "")]
    rows = (_row(d, snapshot, energy, mass) for d in ordered)
    foot = _sum(snapshot, energy, mass) if len(ordered) > 1 else ""
    caption = "Power now; energy and CO₂e since the daemon started. Devices never overlap: they may be added"
    pue = f", and the PUE of {snapshot.constants.pue:g} is not multiplied in" if snapshot.constants.pue else ""
    rest = f'<p class="soft">No meter here sees fans, drives, network and the losses of power supplies{pue}.</p>'
    return section("Metered", table(caption, columns, rows, foot) + rest)


def _row(d: DeviceTotals, snapshot: Snapshot, energy: Scale, mass: Scale | None) -> str:
    power, total = _power(d, snapshot), _watts_of_all(snapshot)
    identity = " · ".join(filter(None, (d.device.id, d.device.pci_bus_id)))
    name = health.device_name(d)
    model = f"<small>{words(d.device.name, 80)}</small>" if d.device.name != name else ""
    cells = [
        head(f"{words(name, 60)}{model}", plain(identity, 120)),
        cell(_power_cell(d, snapshot), "power", "n power"),
        cell(percent(power / total) if power is not None and total else "", "share", "n"),
        cell(energy(joules(d.microjoules)), "energy", "n"),
    ]
    cells += [cell(mass(grams(d.carbon)), "CO₂e", "n")] if mass else []
    doing = _doing(d) if power is not None else ""
    return row((*cells, cell(doing, "", "doing"), cell(_how(d, snapshot), "metered by", "how")), "device")


def _power_cell(d: DeviceTotals, snapshot: Snapshot) -> str:
    power = _power(d, snapshot)
    if power is None:
        asleep = health.SUSPENDED in health.silence(d, snapshot)
        return tag("asleep") if asleep else tag("no reading", "warn")
    limit = d.state.power_limit_watts if d.state else None
    if not limit:
        return f"{power:,.1f} W"
    part = min(1.0, max(0.0, power / limit))
    return (
        f'{power:,.1f} W <span class="soft">/ {limit:,.0f}</span>'
        f'<span class="bar" aria-hidden="true"><i style="--part:{part:.1%}"></i></span>'
    )


def _doing(d: DeviceTotals) -> str:
    """What a GPU is doing beside drawing power."""
    state = d.state
    if state is None:
        return ""
    busy = ""
    if state.utilization is not None:
        busy = f"{percent(state.utilization)} busy" if state.utilization else tag("idle")
    facts = [] if state.temperature_celsius is None else [f"{state.temperature_celsius:.0f} °C"]
    if state.memory_used_bytes is not None:
        facts.append(mebibytes(state.memory_used_bytes))
    return f"{busy}<small>{' · '.join(facts)}</small>" if busy or facts else ""


def _how(d: DeviceTotals, snapshot: Snapshot) -> str:
    """How a device is metered, and how well."""
    stated = dict(d.device.uncertainty).get(d.method)
    facts = [words(d.device.covers, 40)] if d.device.covers else []
    facts += [] if stated is None else [f"± {100 * stated:.2g} %"]
    # A model agrees with its own power, which says nothing of how right it is.
    if d.crosscheck is not None and d.device.quality != "estimated" and is_fresh(d, snapshot):
        facts.append(_against_power(d.crosscheck))
    if d.device.calibration != "none":
        facts.append(f"calibrated: {plain(d.device.calibration, 60)}")
    if d.unmetered_seconds >= 1:
        facts.append(f'<span class="tag warn">{d.unmetered_seconds:,.0f} s not metered</span>')
    tone = "" if d.device.quality == MEASURED else "warn"
    return f"{tag(d.device.quality, tone)} {words(d.method, 40)}<small>{' · '.join(facts)}</small>"


def _against_power(ratio: float) -> str:
    """What a counter shows, against the integral of its own power."""
    off = 100 * abs(ratio - 1)
    if off < 1:
        return f"within {max(0.1, off):.1f} % of its power"
    return f"{off:.1f} % {'above' if ratio > 1 else 'below'} its power"


def _sum(snapshot: Snapshot, energy: Scale, mass: Scale | None) -> str:
    known = _watts_now(snapshot)
    cells = [
        head("together"),
        cell("" if known is None else f"{known:,.1f} W", "power", "n power"),
        cell("" if _watts_of_all(snapshot) else "of those that answer", "", "n soft"),
        cell(energy(sum(joules(d.microjoules) for d in snapshot.devices)), "energy", "n"),
    ]
    cells += [cell(mass(sum(grams(d.carbon) for d in snapshot.devices)), "CO₂e", "n")] if mass else []
    return row((*cells, cell("", "", "doing"), cell("", "", "how")), "device")


# --- where the grams come from ----------------------------------------------------------------------


def _provenance(snapshot: Snapshot) -> str:
    used = [(key, totals) for key, totals in sorted(snapshot.pricing) if totals.microjoules]
    if snapshot.grid is None or not used:
        return ""
    whole = sum(t.microjoules for _, t in used)
    energy = energy_scale(joules(whole), finer=1)
    mass = mass_scale(sum(grams(t.carbon) for _, t in used), finer=1)
    columns = (("price", ""), ("share", "n"), ("energy", "n"), ("CO₂e", "n"), ("on average", "n"))
    rows = (_priced(key, totals, whole, energy, mass) for key, totals in used)
    caption = "Each joule at the price of its own time, by how that price was known"
    return section("Where the grams come from", table(caption, columns, rows))


def _priced(key: PriceKey, totals: Totals, whole: int, energy: Scale, mass: Scale) -> str:
    tone = {"live": "good", "none": "warn", "held": "warn"}.get(key.basis, "")
    basis = "unpriced" if key.basis == "none" else key.basis
    mean = grams(totals.carbon) / joules(totals.microjoules) * 3.6e6
    return row(
        (
            head(f"{tag(basis, tone)}<small>{plain(key.factor, 40)}, {plain(key.quality, 40)}</small>"),
            cell(percent(totals.microjoules / whole), "share", "n"),
            cell(energy(joules(totals.microjoules)), "energy", "n"),
            cell("" if key.basis == "none" else mass(grams(totals.carbon)), "CO₂e", "n"),
            cell("" if key.basis == "none" else f"{mean:,.1f} g/kWh", "on average", "n"),
        )
    )


def _grid(snapshot: Snapshot) -> str:
    if snapshot.grid is None or not snapshot.grid.known:
        return ""
    rows = (_said(i, snapshot) for i in snapshot.grid.known)
    columns = (("provider", ""), ("says", "n"), ("how", ""), ("data", ""))
    caption = f"What is known of the grid of {words(snapshot.grid.zone, 40)} now"
    return section("The grid", table(caption, columns, rows) + "".join(_foreseen(snapshot)))


def _said(i: Intensity, snapshot: Snapshot) -> str:
    when = f"of {words(i.edition, 40)}" if i.edition else f"{duration(max(0.0, snapshot.at.wall - i.start))} old"
    return row(
        (
            head(f"{words(i.provider, 60)}<small>{words(i.zone, 40)}, {when}</small>"),
            cell(f"{i.grams_per_kwh:,.1f} g/kWh", "says", "n"),
            cell(f"{tag(i.basis)}<small>{plain(f'{i.factor}, {i.boundary}', 80)}</small>", "how"),
            cell(words(i.source), "data", "soft long"),
        )
    )


def _foreseen(snapshot: Snapshot) -> Iterator[str]:
    ahead = snapshot.grid.ahead if snapshot.grid else ()
    for provider in sorted({i.provider for _, i in ahead}):
        said = [(i.grams_per_kwh, hours) for hours, i in ahead if i.provider == provider]
        (least, best), (most, worst) = min(said), max(said)
        yield (
            f"<p>Foreseen by {words(provider, 60)}: least in {best} h with {least:,.0f} g/kWh, "
            f"most in {worst} h with {most:,.0f} g/kWh.</p>"
        )


def _links() -> str:
    links = "".join(
        f'<li><a href="{path}">{path}</a> <span class="soft">{meaning}</span></li>' for path, meaning in LINKS
    )
    return section("For programs", f'<nav aria-label="For programs"><ul>{links}</ul></nav>')
