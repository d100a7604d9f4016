"""The page for people: what is metered, what it costs in carbon, what is not and why. No script, no other host."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from html import escape

from wattgram.model import DeviceTotals, Health, Intensity, Snapshot, grams, joules
from wattgram_exporters.families import is_fresh

JOULES_PER_KWH, JOULES_PER_WH = 3.6e6, 3600.0
REFRESH_SECONDS = 5
SYNTHETIC, ESTIMATED = "synthetic", "estimated"

STYLE = """
:root{color-scheme:light dark;--ink:#17211b;--soft:#5b6a61;--paper:#f6f7f4;--card:#fff;--line:#dfe4de;--good:#1d7a46;
--warn:#9a5b00;--warnbg:#fff4dd;--tag:#e8efe9}
@media(prefers-color-scheme:dark){:root{--ink:#e6ece8;--soft:#9aa8a0;--paper:#101512;--card:#181f1b;--line:#2a342e;
--good:#5fc48d;--warn:#f0b95b;--warnbg:#2b2313;--tag:#243029}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:72rem;margin:0 auto;padding:1.25rem 1rem 3rem}
header{display:flex;flex-wrap:wrap;gap:.25rem 1rem;align-items:baseline;margin-bottom:1rem}
h1{font-size:1.25rem;margin:0}h2{font-size:1rem;margin:2rem 0 .5rem}header span,.soft{color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:.75rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:.9rem 1rem}
.card b{display:block;font-size:2rem;line-height:1.2;font-variant-numeric:tabular-nums;white-space:nowrap}
.card b small{font-size:1rem;font-weight:500;color:var(--soft)}
.card p{margin:.15rem 0 0;color:var(--soft);font-size:.9rem}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:.6rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.45rem .75rem;text-align:left;border-top:1px solid var(--line);white-space:nowrap}
tr:first-child th{border-top:0;color:var(--soft);font-weight:500;font-size:.85rem}td.n,th.n{text-align:right}
.tag{background:var(--tag);border-radius:1rem;padding:.05rem .6rem;font-size:.8rem;white-space:nowrap}
.tag.warn{background:var(--warnbg);color:var(--warn)}
ul{padding-left:1.1rem;margin:.25rem 0}li{margin:.3rem 0}code{font-size:.9em;overflow-wrap:anywhere}
a{color:var(--good)}nav a{margin-right:1rem}td.long{white-space:normal;min-width:16rem}
@media(max-width:40rem){.name{display:none}}
"""


def render(snapshot: Snapshot) -> str:
    """Return the page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}"><title>{_title(snapshot)}</title>'
        f"<style>{STYLE}</style></head><body><main>"
        f"<header><h1>wattgram</h1><span>{escape(_subtitle(snapshot))}</span></header>"
        f'<div class="cards">{"".join(_cards(snapshot))}</div>'
        f"{_banner(snapshot)}{_devices(snapshot)}{_missing(snapshot)}{_grid(snapshot)}"
        '<h2>For programs</h2><nav><a href="/metrics">/metrics</a><a href="/api/v1/status">/api/v1/status</a>'
        '<a href="/api/v1/intensity">/api/v1/intensity</a><a href="/-/ready">/-/ready</a></nav>'
        "</main></body></html>\n"
    )


def _title(snapshot: Snapshot) -> str:
    watts = _watts_now(snapshot)
    return "wattgram" if watts is None else f"{watts:,.0f} W - wattgram"


def _subtitle(snapshot: Snapshot) -> str:
    up = _duration(snapshot.at.mono - snapshot.started.mono)
    return f"watts in, grams out · version {snapshot.version} · metering for {up} · {_clock(snapshot.at.wall)}"


def _watts_now(snapshot: Snapshot) -> float | None:
    known = [d.watts for d in snapshot.devices if d.watts is not None and is_fresh(d, snapshot)]
    return sum(known) if known else None


def _cards(snapshot: Snapshot) -> Iterator[str]:
    watts = _watts_now(snapshot)
    shown = sum(1 for d in snapshot.devices if d.watts is not None and is_fresh(d, snapshot))
    yield _card(
        "unknown" if watts is None else f"{watts:,.0f}",
        "W",
        f"now, {shown} of {len(snapshot.devices)} devices" if snapshot.devices else "no device is metered",
    )
    energy = sum(joules(d.microjoules) for d in snapshot.devices)
    yield _card(*_energy(energy), "used since the daemon started")
    if snapshot.grid is None:
        yield _card("no price", "", "carbon.zone is not set: joules are counted, grams are not")
        return
    unpriced = sum(joules(t.microjoules) for key, t in snapshot.pricing if key.basis == "none")
    note = f", {unpriced / energy:.0%} of the energy unpriced" if energy and unpriced else ""
    yield _card(*_mass(sum(grams(d.carbon) for d in snapshot.devices)), f"CO₂e since the daemon started{note}")
    price = snapshot.grid.price
    if price is None:
        yield _card("unpriced", "", f"no provider has a value for {escape(snapshot.grid.zone)} now")
    else:
        yield _card(f"{price.grams_per_kwh:,.0f}", "g/kWh", escape(_provenance(price, snapshot)))


def _card(value: str, unit: str, note: str) -> str:
    return f'<div class="card"><b>{value} <small>{unit}</small></b><p>{note}</p></div>'


def _banner(snapshot: Snapshot) -> str:
    qualities = {d.device.quality for d in snapshot.devices}
    if SYNTHETIC in qualities:
        return '<p><span class="tag warn">synthetic</span> Invented hardware for a demonstration: no real joule.</p>'
    if ESTIMATED in qualities:
        return (
            '<p><span class="tag warn">estimated</span> Devices so marked come from a model, not a meter: '
            "an order of magnitude, off by half and more.</p>"
        )
    return ""


def _devices(snapshot: Snapshot) -> str:
    rows = "".join(_row(d, snapshot) for d in snapshot.devices)
    if not rows:
        return ""
    columns = (
        ("device", ""),
        ("", "name"),
        ("power", "n"),
        ("energy", "n"),
        ("CO₂e", "n"),
        ("metered by", ""),
        ("", ""),
    )
    head = "".join(f'<th class="{style}">{name}</th>' for name, style in columns)
    return f'<h2>Metered</h2><div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _row(d: DeviceTotals, snapshot: Snapshot) -> str:
    fresh = is_fresh(d, snapshot)
    largest = max(joules(other.microjoules) for other in snapshot.devices)
    heaviest = max(grams(other.carbon) for other in snapshot.devices)
    name = f"GPU {d.device.index}" if d.device.component == "gpu" else d.device.id
    power = f"{d.watts:,.1f} W" if fresh and d.watts is not None else '<span class="tag warn">no reading</span>'
    limit = d.state.power_limit_watts if d.state and fresh else None
    if limit and d.watts is not None and fresh:
        power += f' <span class="soft">/ {limit:,.0f}</span>'
    mass = " ".join(_mass(grams(d.carbon), heaviest)) if snapshot.grid else ""
    quality = d.device.quality
    tag = "tag" if quality == "measured" else "tag warn"
    energy = " ".join(_energy(joules(d.microjoules), largest))
    unmetered = f"{d.unmetered_seconds:,.0f} s not metered" if d.unmetered_seconds >= 1 else ""
    return (
        f'<tr><td title="{escape(d.device.id)}">{escape(name)}</td><td class="soft name">{escape(d.device.name)}</td>'
        f'<td class="n">{power}</td><td class="n">{energy}</td><td class="n">{mass}</td>'
        f'<td><span class="{tag}">{escape(quality)}</span> {escape(d.method)}</td>'
        f'<td class="soft">{unmetered}</td></tr>'
    )


def _missing(snapshot: Snapshot) -> str:
    items = [_complaint(h) for h in snapshot.health if h.error]
    items += [escape(note) for note in snapshot.notes]
    if not items:
        return ""
    return "<h2>Not metered, not priced, and what to do</h2><ul>" + "".join(f"<li>{i}</li>" for i in items) + "</ul>"


def _complaint(h: Health) -> str:
    remedy = f" — <code>{escape(h.remedy)}</code>" if h.remedy else ""
    return f"<b>{escape(h.name)}</b>: {escape(h.error)}{remedy}"


def _grid(snapshot: Snapshot) -> str:
    if snapshot.grid is None or not snapshot.grid.known:
        return ""
    rows = "".join(
        f"<tr><td>{escape(i.provider)}</td><td>{escape(i.zone)}</td><td class='n'>{i.grams_per_kwh:,.1f} g/kWh</td>"
        f"<td><span class='tag'>{escape(i.basis)}</span> {escape(f'{i.factor}, {i.boundary}')}</td>"
        f"<td class='soft long'>{escape(i.source)}</td></tr>"
        for i in snapshot.grid.known
    )
    head = "<tr><th>provider</th><th>zone</th><th class='n'>says</th><th>how</th><th>data</th></tr>"
    return f'<h2>The grid of {escape(snapshot.grid.zone)}</h2><div class="scroll"><table>{head}{rows}</table></div>'


def _provenance(price: Intensity, snapshot: Snapshot) -> str:
    if price.basis == "annual":
        return f"{price.zone}, yearly average of {price.edition}, {price.factor}"
    age = _duration(max(0.0, snapshot.at.wall - price.start))
    return f"{price.zone}, {price.basis}, {price.factor}, by {price.provider}; for the interval begun {age} ago"


def _energy(value: float, largest: float | None = None) -> tuple[str, str]:
    """Joules for people, in the unit that fits the largest of the figures it stands among."""
    if (value if largest is None else largest) >= JOULES_PER_KWH:
        return _figure(value / JOULES_PER_KWH), "kWh"
    return _figure(value / JOULES_PER_WH), "Wh"


def _mass(value: float, heaviest: float | None = None) -> tuple[str, str]:
    """Grams for people, as `_energy`."""
    for size, unit in ((1000.0, "kg"), (1.0, "g")):
        if (value if heaviest is None else heaviest) >= size:
            return _figure(value / size), unit
    return _figure(value * 1000), "mg"


def _figure(value: float) -> str:
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}"  # noqa: PLR2004 - three figures are enough


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def _clock(wall: float) -> str:
    return datetime.fromtimestamp(wall, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
