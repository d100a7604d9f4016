"""The page for people: honest about what is not known, and harmless whatever a device or a provider calls itself."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from wattgram.model import Cost, Device, Health, Instant, Intensity, State
from wattgram.snapshot import DeviceTotals, Grid, OwnerKey, PriceKey, Reload, Snapshot, Totals
from wattgram_exporters.page import render
from wattgram_exporters.prometheus import PrometheusExporter
from wattgram_exporters.server import Request
from wattgram_exporters.style import DARK, LIGHT, REFRESH_SECONDS, STALE_SECONDS, STYLE

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
    """A snapshot after a thousand seconds, with books that balance."""
    return balanced(Snapshot(NOW, Instant(0.0, 1_779_999_000.0), "1.2.3", "3.12.0", devices=devices, grid=grid))


def balanced(shown: Snapshot, unpriced: int = 0) -> Snapshot:
    """The snapshot with owners and prices that count its devices' joules and grams, so many microjoules unpriced."""
    whole = Totals(sum(d.microjoules for d in shown.devices), sum(d.carbon for d in shown.devices))
    priced = replace(whole, microjoules=whole.microjoules - unpriced)
    return replace(
        shown,
        owners=((OwnerKey("pool", "unattributed", "gpu", "active", "measured"), whole),),
        pricing=(
            (PriceKey("measured", "live", "lifecycle"), priced),
            (PriceKey("measured", "none", "lifecycle"), Totals(unpriced)),
        ),
    )


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
        self._part(tag)
        for name, value in attrs:
            self.values.setdefault(name, []).append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._closed.append(tag)
        self._part(tag)

    def _part(self, tag: str) -> None:
        """Elements stand apart, but for those inside a sentence."""
        self._words.append("" if tag in {"bdi", "b", "time", "code"} else " ")

    def handle_data(self, data: str) -> None:
        self._words.append(data)

    @property
    def text(self) -> str:
        """What can be read, without the style."""
        return " ".join("".join(word for word in self._words if "{" not in word).split())

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
    health = Health(
        word,
        "source",
        1.0,
        up=False,
        turns=1,
        error=word,
        remedy=word,
        failures=((word, 1),),
        unanswered=((word, word),),
    )
    shown = snapshot(gpu, replace(gpu, device=device), grid=Grid(word, "lifecycle", price, (price,)))
    other = replace(health, kind="provider", child=Cost(1.0, 1))
    return replace(shown, version=word, health=(health, other), notes=(word,))


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
    """No script, no picture, no font, no other host: a page about energy that works in a sealed rack.

    Nor a link into the page itself: with its fragment in the address some browsers refresh no more.
    """
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


def test_a_component_of_which_nothing_is_known_is_unknown_and_not_zero() -> None:
    """Paused, or hung: the processors go on, the GPUs draw nobody knows what."""
    words = text(snapshot(account(watts=None), account("cpu", watts=100.0)))

    assert "GPUs unknown" in words
    assert "GPUs 0" not in words


def test_no_share_of_a_whole_that_is_not_known() -> None:
    """While one device is silent the others' shares, and grams per hour, would be those of something else."""
    grid = Grid("FR", "lifecycle", PRICE, (PRICE,))
    silent = render(snapshot(account(watts=None), account("cpu", watts=100.0), grid=grid))
    whole = render(snapshot(account(watts=100.0), account("cpu", watts=100.0), grid=grid))

    assert ("of those that answer" in silent, "of those that answer" in whole) == (True, False)
    assert ("at this power" in silent, "at this power" in whole) == (False, True)
    assert ('data-label="share">50' in silent, 'data-label="share">50' in whole) == (False, True)
    assert 'data-label="share">100' not in silent.partition("together")[0]


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
    assert "g/kWh" not in words.partition("Metered")[0]


def test_the_part_that_was_never_priced_is_told() -> None:
    """Else the grams look like those of all the energy."""
    assert "25 % of the energy unpriced" in text(balanced(priced(), unpriced=1_800_000_000))


def test_a_yearly_average_is_called_one() -> None:
    """With its year; an age would make it look live."""
    words = text(priced(replace(PRICE, provider="annual", basis="annual", end=math.inf, edition="2024")))

    assert "FR, yearly average of 2024, lifecycle" in words
    assert not re.search(r"begun .* ago", words)


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
    devices = (replace(account(), carbon=round(mass * GRAM)),)
    for written, meant in figures(balanced(replace(priced(), devices=devices)), GRAMS):
        assert written == 0.0 or 0.01 <= written <= 1e7
        assert meant == pytest.approx(mass, rel=0.01)


def test_it_says_in_which_language_and_alphabet_it_is() -> None:
    """Else CO₂ is mojibake, and a screen reader guesses."""
    page = render(snapshot())

    assert page.startswith('<!doctype html><html lang="en">')
    assert Outline(page).values["charset"] == ["utf-8"]


# --- hostile in other ways than by tags -------------------------------------------------------------


@pytest.mark.parametrize("mark", ["\u202e", "\u200f", "\u2066", "\0", "\x1b", "\ud800", "\x85"])
def test_no_mark_from_outside_steers_the_browser(mark: str) -> None:
    """What turns the direction of writing, or is no character at all: the page could not even be encoded."""
    page = render(named(f"a{mark}b"))

    assert mark not in page
    assert page.encode().count("a\ufffdb".encode()) >= 10


def test_a_name_of_ten_kilobytes_is_cut() -> None:
    """A page of megabytes every five seconds serves nobody; that it is cut is seen."""
    page = render(named("x" * 10_000))

    assert "…" in page
    assert len(page) < len(render(named("x"))) + 15_000


def test_every_text_keeps_its_direction_of_writing_to_itself() -> None:
    """A Hebrew name must not carry the figure beside it to its other side."""
    assert "<bdi>מתג</bdi>" in render(snapshot(replace(account(), device=replace(account().device, name="מתג"))))


# --- live, and dead -----------------------------------------------------------------------------------


def test_it_refreshes_by_itself() -> None:
    """Without a script."""
    outline = Outline(render(snapshot(account())))

    assert ("meta", "http-equiv", "content") in outline.tags
    assert str(REFRESH_SECONDS) in outline.values["content"]


def test_a_page_that_is_refreshed_no_more_says_so() -> None:
    """An animation that no refresh restarts uncovers it, with the time of what is shown."""
    page = render(snapshot(account()))

    assert STALE_SECONDS >= 2 * REFRESH_SECONDS
    assert f"Standing still for {STALE_SECONDS} s or more" in Outline(page).text
    assert "visibility:hidden" in STYLE[STYLE.index(".stale{") :].partition("}")[0]
    assert f"animation:appear 1ms linear {STALE_SECONDS}s forwards" in STYLE


def test_the_time_of_what_is_shown_is_read_by_people_and_programs() -> None:
    """In the head of the page, with its date."""
    page = render(snapshot(account()))

    assert '<time datetime="2026-05-28T20:26:40Z">20:26:40 UTC</time>' in page.partition("</header>")[0]


# --- health -------------------------------------------------------------------------------------------


def source(name: str = "nvml", **facts: Any) -> Health:
    """A source that answered a moment ago."""
    known = Health(name, "source", 1.0, up=True, turns=10, successes=10, last_success=NOW)
    return replace(known, **facts)


def healthy(*sources: Health) -> Snapshot:
    """A snapshot with one device and what is known of its sources."""
    return replace(priced(), health=sources)


def test_books_that_balance_are_shown_to_the_microjoule() -> None:
    """With the very integer."""
    words = text(priced())

    assert "The books balance to the microjoule" in words
    assert "each add up to 7,200,000,000 µJ" in words


@pytest.mark.parametrize("book", ["owners", "pricing"])
@pytest.mark.parametrize("field", ["microjoules", "carbon"])
def test_books_that_do_not_balance_shout(book: str, field: str) -> None:
    """By one microjoule: in the title, above everything, and with the three sums."""
    good = priced()
    (key, totals), *rest = getattr(good, book)
    wrong = ((key, replace(totals, **{field: getattr(totals, field) + 1})), *rest)

    page = render(replace(good, owners=wrong) if book == "owners" else replace(good, pricing=wrong))

    words = Outline(page).text
    assert "<title>! 312 W" in page
    assert "The books do not balance: do not bill from these figures" in words
    assert "NOT BALANCED" in words
    assert "The books balance" not in words


def test_all_is_well_in_one_line() -> None:
    """To be seen from the other end of the room."""
    assert "✓ The device answers. The books balance to the microjoule." in text(healthy(source()))


def test_the_device_that_does_not_answer_is_named_first() -> None:
    """And last read when."""
    stale = replace(account(), read_at=Instant(NOW.mono - 90.0, NOW.wall - 90.0))
    shown = balanced(replace(priced(), devices=(account("cpu", 100.0), stale), health=(source(),)))

    assert "! GPU 3 does not answer." in text(shown)
    assert "GPU 3: last read 1.5 min ago" in text(shown)
    assert "in part" in text(shown)


def test_what_a_source_cannot_read_is_named_with_its_reason() -> None:
    """By the name that people know it by, where it has one; a place that was never read by its own."""
    words = text(healthy(source(unanswered=(("gpu-7", "no answer within 0.5 s"), ("gpu 4", "lost")))))

    assert "GPU 3, by nvml: no answer within 0.5 s" in words
    assert "gpu 4, by nvml: lost" in words
    assert "nvml answers in part" in words


def test_a_gpu_that_sleeps_is_asleep_and_no_trouble() -> None:
    """It is left to sleep."""
    stale = replace(account(), read_at=Instant(NOW.mono - 90.0, NOW.wall - 90.0))
    sleeping = source(unanswered=(("gpu-7", "gpu-7 is suspended, and is not woken"),))

    words = text(balanced(replace(priced(), devices=(stale,), health=(sleeping,))))

    assert "asleep" in words
    assert "no reading" not in words
    assert "✓" in words.partition("Power")[0]


def test_a_gpu_that_does_nothing_is_idle() -> None:
    """0 % busy is a measurement."""
    idle = replace(account(), state=State(utilization=0.0, temperature_celsius=31.0))

    assert "idle 31 °C" in text(snapshot(idle))
    assert "idle" not in text(snapshot(account()))


def test_a_paused_source_is_paused_and_the_command_stands_beside() -> None:
    """With the command marked, so that one click takes all of it."""
    paused = source(up=False, error="paused until 12:10 UTC; resume with: wattgram resume")

    page = render(healthy(paused))

    assert "nvml is paused" in Outline(page).text
    assert "<code>wattgram resume</code>" in page


def test_a_remedys_command_is_marked_and_its_words_are_not() -> None:
    """Whoever copies it copies no prose."""
    missing = source("rapl", up=None, successes=0, error="none", remedy="load it with: sudo modprobe rapl; AMD: later")

    assert "load it with: <code>sudo modprobe rapl</code>; AMD: later" in render(healthy(missing))


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, "answers"),
        ({"turns": 0, "successes": 0, "up": None, "last_success": None}, "starting"),
        ({"up": None, "successes": 0, "last_success": None, "error": "no zone"}, "not here"),
        ({"up": False, "error": "no answer"}, "fails"),
        ({"last_success": Instant(NOW.mono - 60.0, NOW.wall - 60.0)}, "silent"),
        ({"unanswered": (("gpu 1", "lost"),)}, "in part"),
    ],
)
def test_each_source_has_one_word_for_its_state(facts: dict[str, Any], state: str) -> None:
    """A poller that hangs reports nothing more: only its silence tells."""
    words = text(healthy(source(**facts)))

    assert re.search(rf"driver 570.1 {state} ", words)


def test_failures_are_told_by_reason_and_requests_counted() -> None:
    """A quota is spent by requests."""
    provider = replace(source("em"), kind="provider", requests=1200, failures=(("rate", 3), ("timeout", 1)))

    assert "3 rate, 1 timeout 1,200 requests" in text(healthy(provider))


def test_a_provider_that_does_not_answer_is_told_above() -> None:
    """Although the next one prices."""
    provider = replace(source("em"), kind="provider", up=False, error="no complete answer within 15 s")

    assert "! em does not answer." in text(healthy(provider))


def test_the_meters_own_cost_is_told() -> None:
    """All processes together: what a meter uses belongs on the bill."""
    shown = replace(healthy(source(child=Cost(2.0, 20 << 20))), cost=Cost(3.0, 40 << 20))

    words = text(shown)

    assert "0.50 % of one core (5.0 s of processor time in 16.7 min) and 60 MiB of memory, in 2 processes" in words
    assert "0.20 % CPU 20 MiB" in words


def test_a_configuration_that_was_not_taken_is_told() -> None:
    """Else everybody believes in the new one."""
    words = text(replace(healthy(source()), reload=Reload(successful=False, at=NOW.wall)))

    assert "! The changed configuration is not taken." in words
    assert "wattgram check-config" in words


# --- where a figure comes from --------------------------------------------------------------------------


def test_the_stated_uncertainty_stands_beside_the_method_in_use() -> None:
    """That of another method is not shown."""
    device = replace(account().device, uncertainty=(("counter", 0.05), ("power", 0.15)))

    words = text(snapshot(replace(account(), device=device)))

    assert "± 5 %" in words
    assert "15 %" not in words


def test_a_model_is_not_said_to_agree_with_its_own_power() -> None:
    """It always does, and may be off by half."""
    device = replace(account().device, quality="estimated")

    assert "its power" not in text(snapshot(replace(account(), device=device, crosscheck=1.003)))


def test_a_calibration_and_a_cross_check_are_told() -> None:
    """Every figure they touched is in that row."""

    def shown(ratio: float) -> str:
        return text(snapshot(replace(account(), device=replace(account().device, gain=1.02), crosscheck=ratio)))

    assert "within 0.3 % of its power · calibrated: gain=1.02,offset_w=0" in shown(1.003)
    assert "within 0.1 % of its power" in shown(0.99999)
    assert "4.0 % below its power" in shown(0.96)


def test_the_grams_are_divided_by_how_their_price_was_known() -> None:
    """With the mean intensity of each part; the unpriced part has none."""
    words = text(balanced(priced(), unpriced=1_800_000_000))

    assert "live lifecycle, measured 75 % 1.500 Wh 2.000 g 1,333.3 g/kWh" in words
    assert re.search(r"unpriced lifecycle, measured 25 % 0.500 Wh (?!\d)", words)


def test_a_column_shares_one_unit_and_what_is_small_is_not_zero() -> None:
    """A gram beside a kilogram is 0.001 kg, and a microgram is less than that."""
    large, small = account(), replace(account("cpu"), microjoules=1_000, carbon=GRAM // 1000)
    large = replace(large, microjoules=36_000_000_000_000, carbon=2000 * GRAM)

    words = text(balanced(replace(priced(), devices=(large, small))))

    assert "10.000 kWh 2.000 kg" in words
    assert "< 0.001 kWh < 0.001 kg" in words
    assert "together" in words


def test_devices_stand_in_the_order_in_which_people_count() -> None:
    """GPU 2 before GPU 10, processors after: whichever source answered first."""

    def gpu(index: str) -> DeviceTotals:
        return replace(account(), device=replace(account().device, id=f"GPU-{9 - int(index) % 9}", index=index))

    shown = snapshot(account("dram"), account("cpu"), gpu("10"), gpu("2"))

    rows = re.findall(r'scope="row"[^>]*><bdi>([^<]+)', render(shown))
    assert ["GPU 2", "GPU 10", "cpu-7", "dram-7"] == rows[:4]


def test_a_gpus_long_identity_is_in_its_title() -> None:
    """And its place on the bus."""
    device = replace(account().device, id="GPU-5ca1ab1e-0000", pci_bus_id="00000000:07:00.0")

    assert (
        "GPU-5ca1ab1e-0000 · 00000000:07:00.0"
        in Outline(render(snapshot(replace(account(), device=device)))).values["title"]
    )


def test_the_bar_is_the_part_of_the_limit_and_never_more() -> None:
    """A reading may overshoot, its bar may not."""

    def part(watts: float) -> str:
        return str(re.findall(r"--part:([\d.]+)%", render(snapshot(account(watts=watts))))[0])

    assert ["44.6", "100.0", "0.0"] == [part(312.5), part(900.0), part(0.0)]


def test_what_is_foreseen_is_told_with_its_best_hour() -> None:
    """When to run what can wait."""
    ahead = tuple((hours, replace(PRICE, basis="forecast", grams_per_kwh=100.0 - 10 * hours)) for hours in (1, 2, 3))

    words = text(replace(priced(), grid=Grid("FR", "lifecycle", PRICE, (PRICE,), ahead)))

    assert "Foreseen by em: least in 3 h with 70 g/kWh, most in 1 h with 90 g/kWh." in words


# --- for everybody ----------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        *((ink, paper) for ink in ("ink", "soft", "good") for paper in ("paper", "card")),
        *(("good", "goodbg"), ("warn", "warnbg"), ("bad", "badbg"), ("ink", "tag"), ("soft", "tag"), ("paper", "bad")),
    ],
)
def test_every_text_can_be_read(palette: dict[str, str], ink: str, paper: str) -> None:
    """Contrast of 4.5 to 1 and more, as WCAG AA asks."""
    lighter, darker = sorted((luminance(palette[ink]), luminance(palette[paper])), reverse=True)

    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


@pytest.mark.parametrize("shown", SHAPES.values(), ids=SHAPES)
def test_every_table_has_a_caption_and_every_head_its_direction(shown: Snapshot) -> None:
    """For those who hear the page."""
    tags = Outline(render(shown)).tags
    tables = sum(1 for tag, *_ in tags if tag == "table")

    assert tables == sum(1 for tag, *_ in tags if tag == "caption")
    assert all("scope" in names for tag, *names in tags if tag == "th")
    assert 1 == sum(1 for tag, *_ in tags if tag == "h1")


def test_the_figures_column_is_named_on_a_phone_too() -> None:
    """Where a table's head is not shown."""
    labels = Outline(render(priced())).values["data-label"]

    assert {"power", "share", "energy", "CO₂e", "metered by"} <= set(labels)
