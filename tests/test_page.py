"""The page for people: honest about what is not known, and harmless whatever a device or a provider calls itself."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from wattgram.model import Device, DeviceTotals, Grid, Health, Instant, Intensity, PriceKey, Snapshot, State, Totals
from wattgram_exporters.page import render
from wattgram_exporters.prometheus import PrometheusExporter
from wattgram_exporters.server import Request

NOW = Instant(1000.0, 1_780_000_000.0)
HOSTILE = """<script>alert(1)</script><img src=x onerror="a()">'"><b>&lt;&#60;</td></table></style>"""
GRAM = 3_600_000_000_000_000_000  # of carbon


def account(component: str = "gpu", watts: float | None = 312.5) -> DeviceTotals:
    """A device that was read a moment ago."""
    device = Device(component, f"{component}-7", "H100", index="3", covers="board")
    state = State(power_limit_watts=700.0)
    return DeviceTotals(
        device, "nvml", 1.0, "counter", "570.1", NOW, watts, state, 7_200_000_000, 2 * GRAM, 0.0, (), ()
    )


PRICE = Intensity("FR", "em", NOW.wall - 600.0, NOW.wall + 300.0, 51.4, "live", "lifecycle", boundary="consumption")


def snapshot(*devices: DeviceTotals, grid: Grid | None = None) -> Snapshot:
    """A snapshot after a thousand seconds."""
    return Snapshot(NOW, Instant(0.0, 1_779_999_000.0), "1.2.3", "3.12.0", devices=devices, grid=grid)


def priced(price: Intensity | None = PRICE) -> Snapshot:
    """A snapshot with a zone."""
    return snapshot(account(), grid=Grid("FR", "lifecycle", price, (price,) if price else ()))


class Outline(HTMLParser):
    """What a browser would make of a page: its tags with the names of their attributes, and the words between."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, ...]] = []
        self.values: dict[str, list[str]] = {}
        self._words: list[str] = []
        self._closed: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        for name, value in attrs:
            self.values.setdefault(name, []).append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._closed.append(tag)

    def handle_data(self, data: str) -> None:
        self._words.append(data)

    @property
    def text(self) -> str:
        """What can be read, without the style."""
        return " ".join(" ".join(word for word in self._words if "{" not in word).split())

    @property
    def unclosed(self) -> list[str]:
        """Elements that were opened and not closed."""
        opened = [tag for tag, *_ in self.tags if tag != "meta"]
        return sorted(tag for tag in set(opened) if opened.count(tag) != self._closed.count(tag))


def text(shown: Snapshot) -> str:
    """What a reader reads."""
    return Outline(render(shown)).text


# --- harmless -------------------------------------------------------------------------------------


def named(word: str) -> Snapshot:
    """A snapshot in which every text that comes from outside is that word."""
    device = Device("cpu", word, word, index=word, pci_bus_id=word, module=word, covers=word)
    gpu = replace(account(), device=replace(device, component="gpu"), method=word, driver=word)
    price = replace(PRICE, zone=word, provider=word, edition=word, source=word)
    health = Health(word, "source", 1.0, up=False, turns=1, error=word, remedy=word)
    shown = snapshot(gpu, replace(gpu, device=device), grid=Grid(word, "lifecycle", price, (price,)))
    return replace(shown, version=word, health=(health,), notes=(word,))


def test_no_text_from_outside_becomes_a_tag() -> None:
    """Device names, a provider's words, errors, remedies: they are read, never run."""
    tame, hostile = Outline(render(named("tame"))), Outline(render(named(HOSTILE)))

    assert tame.tags == hostile.tags
    assert hostile.text.count("<script>alert(1)</script>") >= 10


def test_a_yearly_tables_texts_become_no_tags_either() -> None:
    """That price is told in other words."""

    def shown(word: str) -> Outline:
        price = replace(PRICE, basis="annual", zone=word, edition=word)
        return Outline(render(priced(price)))

    assert shown("tame").tags == shown(HOSTILE).tags


def test_an_unpriced_zones_name_becomes_no_tag() -> None:
    """It is the user's own word, but files are copied."""

    def shown(word: str) -> Outline:
        return Outline(render(snapshot(account(), grid=Grid(word, "lifecycle", None, ()))))

    assert shown("tame").tags == shown(HOSTILE).tags


@pytest.mark.parametrize("field", ["basis", "factor", "boundary"])
def test_a_word_of_a_closed_set_becomes_no_tag_even_if_it_is_none_of_them(field: str) -> None:
    """Prices are read from a cache file and from other agents: what is closed here was open there."""

    def shown(word: str) -> Outline:
        return Outline(render(priced(replace(PRICE, **{field: word}))))  # type: ignore[arg-type]

    assert shown("tame").tags == shown(HOSTILE).tags


def test_nothing_is_fetched_and_nothing_runs() -> None:
    """No script, no picture, no font, no other host: a page about energy that works in a sealed rack."""
    page = render(named("tame"))
    outline = Outline(page)

    assert {"script", "link", "img", "iframe", "object", "form"} & {tag for tag, *_ in outline.tags} == set()
    assert "src" not in outline.values
    assert not [name for name in outline.values if name.startswith("on")]
    assert all(link.startswith("/") and not link.startswith("//") for link in outline.values["href"])
    assert not re.search(r"https?:|@import|url\(", page)


def test_every_link_leads_somewhere() -> None:
    """To paths that this endpoint has."""
    exporter = PrometheusExporter("127.0.0.1:0", lambda: snapshot(account()))

    for link in Outline(render(snapshot(account()))).values["href"]:
        assert exporter.answer(Request("GET", link, {}, {})).status == 200, link


def test_the_browser_is_told_to_run_nothing() -> None:
    """Should an escape be missing one day, the policy still holds."""
    answer = PrometheusExporter("127.0.0.1:0", lambda: snapshot(account())).answer(Request("GET", "/", {}, {}))

    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "script-src" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "no-store"


SHAPES = {
    "empty": snapshot(),
    "no zone": snapshot(account(), account("cpu", None)),
    "priced": priced(),
    "unpriced": priced(None),
    "full": named("tame"),
}


@pytest.mark.parametrize("shown", SHAPES.values(), ids=SHAPES)
def test_every_element_is_closed(shown: Snapshot) -> None:
    """A browser mends what is broken, and mends it differently from the next."""
    assert Outline(render(shown)).unclosed == []


@pytest.mark.parametrize("shown", SHAPES.values(), ids=SHAPES)
def test_nothing_is_nan_or_none(shown: Snapshot) -> None:
    """Words of the workshop have no place on it."""
    assert not re.search(r"\b(nan|inf|None|null)\b", text(shown))


# --- honest ---------------------------------------------------------------------------------------


def test_what_is_known_is_shown_with_its_unit() -> None:
    """Watts now, energy, grams, the price and where it is from."""
    words = text(priced())

    for part in ("312 W", "312.5 W", "51 g/kWh", "live", "lifecycle", "by em", "10.0 min ago"):
        assert part in words
    assert re.search(r"\b2(\.0+)? Wh\b", words)
    assert re.search(r"\b2(\.0+)? g\b", words)


def test_the_title_is_the_power_now() -> None:
    """So that a row of tabs is a row of meters."""
    assert "<title>312 W - wattgram</title>" in render(priced())


def test_unknown_power_is_called_unknown() -> None:
    """And not 0 W."""
    words = text(snapshot(account(watts=None)))

    assert "unknown W now, 0 of 1 devices" in words
    assert "no reading" in words
    assert not re.search(r"\b0(\.0)? W\b", words)


def test_zero_power_is_zero() -> None:
    """It was measured."""
    words = text(snapshot(account(watts=0.0)))

    assert "0 W now, 1 of 1 devices" in words
    assert "unknown" not in words


def test_a_reading_that_is_too_old_is_no_reading() -> None:
    """Neither in its row nor in the sum."""
    stale = replace(account(), read_at=Instant(NOW.mono - 3.5, NOW.wall - 3.5))

    words = text(snapshot(stale, account("cpu", 100.0)))

    assert "100 W now, 1 of 2 devices" in words
    assert "no reading" in words
    assert "312" not in words


def test_no_device_is_told_as_such() -> None:
    """With what is missing and the command that mends it."""
    health = Health("rapl", "source", 1.0, turns=1, error="energy_uj: permission denied", remedy="setcap something")

    words = text(replace(snapshot(), health=(health,), notes=("no grams: set a zone",)))

    for part in ("no device is metered", "rapl", "permission denied", "setcap something", "no grams: set a zone"):
        assert part in words


def test_without_a_zone_there_are_no_grams_and_it_says_why() -> None:
    """A figure of 0 g would be a claim."""
    words = text(snapshot(account()))

    assert "carbon.zone is not set" in words
    assert not re.search(r"\d (mg|g|kg)\b", words)


def test_unpriced_now_is_said_and_the_grams_so_far_stay() -> None:
    """With the zone that has no value."""
    words = text(priced(None))

    assert "unpriced" in words
    assert "no provider has a value for FR" in words
    assert re.search(r"\b2(\.0+)? g\b", words)
    assert "g/kWh" not in words


def test_the_part_that_was_never_priced_is_told() -> None:
    """Else the grams look like those of all the energy."""
    unpriced = (PriceKey("measured", "none", "lifecycle"), Totals(1_800_000_000))

    assert "25% of the energy unpriced" in text(replace(priced(), pricing=(unpriced,)))


def test_a_yearly_average_is_called_one() -> None:
    """With its year; an age would make it look live."""
    words = text(priced(replace(PRICE, provider="annual", basis="annual", end=math.inf, edition="2024")))

    assert "FR, yearly average of 2024, lifecycle" in words
    assert "ago" not in words


@pytest.mark.parametrize("quality", ["estimated", "synthetic"])
def test_what_is_not_measured_is_marked(quality: str) -> None:
    """In its row and above."""
    device = replace(account(), device=replace(account().device, quality=quality))

    assert text(snapshot(device)).count(quality) >= 2


def test_measured_devices_raise_no_banner() -> None:
    """A warning that is always there is none."""
    words = text(snapshot(account()))

    assert "estimated" not in words
    assert "synthetic" not in words


def test_time_that_was_not_metered_is_told() -> None:
    """Beside the energy that is too low for it."""
    assert "90 s not metered" in text(snapshot(replace(account(), unmetered_seconds=90.0)))
    assert "not metered" not in text(snapshot(account()))


JOULES = {"J": 1.0, "Wh": 3600.0, "kWh": 3.6e6, "MWh": 3.6e9}
GRAMS = {"mg": 0.001, "g": 1.0, "kg": 1000.0, "t": 1e6}


def figures(shown: Snapshot, units: dict[str, float]) -> list[tuple[float, float]]:
    """Every figure in one of the units: as written, and in the base unit."""
    found = re.findall(rf"([\d,]+(?:\.\d+)?) ({'|'.join(units)})\b(?!/)", text(shown))
    assert len(found) >= 2, "a card and a row"
    numbers = [(float(number.replace(",", "")), units[unit]) for number, unit in found]
    return [(number, number * size) for number, size in numbers]


@pytest.mark.parametrize("joules", [0.0, 36.0, 3599.0, 3600.0, 35_999.0, 359_900.0, 3.59e6, 3.6e6, 5e9, 3.6e12])
def test_energy_is_shown_in_a_unit_that_people_can_read(joules: float) -> None:
    """From the first joule to a year of training: neither a row of digits nor a row of zeros, and never wrong."""
    for written, meant in figures(snapshot(replace(account(), microjoules=round(joules * 1e6))), JOULES):
        assert written == 0.0 or 0.01 <= written <= 1e6
        assert meant == pytest.approx(joules, rel=0.01)


@pytest.mark.parametrize("mass", [0.0, 0.005, 0.5, 0.999, 1.0, 9.99, 999.0, 1000.0, 5e9])
def test_mass_is_shown_in_a_unit_that_people_can_read(mass: float) -> None:
    """From milligrams to tonnes."""
    for written, meant in figures(replace(priced(), devices=(replace(account(), carbon=round(mass * GRAM)),)), GRAMS):
        assert written == 0.0 or 0.01 <= written <= 1e7
        assert meant == pytest.approx(mass, rel=0.01)


def test_it_says_in_which_language_and_alphabet_it_is() -> None:
    """Else CO₂ is mojibake, and a screen reader guesses."""
    page = render(snapshot())

    assert page.startswith('<!doctype html><html lang="en">')
    assert Outline(page).values["charset"] == ["utf-8"]
