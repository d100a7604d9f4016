"""Bytes for scrapers: whatever is asked, one of two formats comes back, both say the same, and each is made once."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from standin import prometheus
from wattgram.accountant import Accountant
from wattgram.clock import ManualClock
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import Cost, Health, Intensity
from wattgram.snapshot import Constants, Reload, Snapshot
from wattgram.sources.synthetic import SyntheticSource
from wattgram.tariff import Rung, Tariff
from wattgram_exporters import encoding
from wattgram_exporters.encoding import OPENMETRICS, TEXT, Encoder, accepts_gzip, encode, negotiate
from wattgram_exporters.families import families

Shown = dict[tuple[str, tuple[tuple[str, str], ...]], float]

EVERYTHING: frozenset[str] = frozenset()
PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_PROTOBUF_FIRST = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
TELEGRAF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,"
    "text/plain;version=0.0.4;q=0.3"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


def snapshot(name: str = "") -> Snapshot:
    """A few seconds of the synthetic source, priced, with everything known; `name` renames the first device."""
    clock = ManualClock(100.0, 1_780_000_000.0)
    tariff = Tariff("FR", "lifecycle", (Rung("annual", 0.0, ("annual",)),))
    price = Intensity("FR", "annual", 0.0, 2e9, 44.18, "annual", "lifecycle", edition="2024")
    tariff.learn("annual", [price], clock.now().wall)
    ledger = Ledger(
        clock,
        tariff.view,
        lambda: Cost(0.5, 4096, 8192, 7, 1024, 1_779_999_000.0),
        (("annual", "lifecycle"), ("none", "lifecycle")),
        Constants(1.2, 10.0, 0.31, "EUR"),
    )
    accountant = Accountant("synthetic", 1.0, Meter(3.0), tariff, ledger)
    source = SyntheticSource(2, clock)
    for _ in range(3):
        accountant.receive(source.read())
        clock.advance(1.0)
    ledger.report(Health("synthetic", "source", 1.0, up=True, turns=3, last_success=clock.now(), child=Cost(0.1, 99)))
    ledger.report(Health("em", "provider", 300.0, up=False, turns=2, failures=(("rate", 1),)))
    ledger.reloaded(Reload(successful=True, at=0.0))
    taken = ledger.snapshot()
    first, *others = taken.devices
    return replace(taken, devices=(replace(first, device=replace(first.device, name=name or "H100")), *others))


@pytest.fixture(scope="module")
def full() -> Snapshot:
    return snapshot()


def shown(found: Iterable[Metric]) -> Shown:
    """Every sample by name and labels."""
    return {(line.name, tuple(sorted(line.labels.items()))): line.value for family in found for line in family.samples}


def read_text(body: bytes) -> Shown:
    """Read text 0.0.4."""
    return shown(text_string_to_metric_families(body.decode()))


def read_openmetrics(body: bytes) -> Shown:
    """Read OpenMetrics, strictly."""
    return shown(openmetrics.text_string_to_metric_families(body.decode()))  # type: ignore[no-untyped-call]


def asked(content: Snapshot, *names: str, content_type: str = TEXT) -> Shown:
    """What `name[]` brings."""
    body = Encoder()(content, content_type, frozenset(names), zipped=False)
    return read_text(body) if content_type == TEXT else read_openmetrics(body)


# --- which format ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        (PROMETHEUS_2_42, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        (PROMETHEUS_3_PROTOBUF_FIRST, OPENMETRICS),
        (TELEGRAF, TEXT),
        (BROWSER, TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("text/*", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("text/plain;version=0.0.4;charset=utf-8", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"; charset=utf-8', OPENMETRICS),
        ("APPLICATION/OpenMetrics-Text ; Version=1.0.0", OPENMETRICS),
        ("application/openmetrics-text;q=0.3,text/plain;q=0.7", TEXT),
        ("text/plain;q=0.3,application/openmetrics-text;q=0.7", OPENMETRICS),
        ("text/plain;q=0.999,application/openmetrics-text;q=1.000", OPENMETRICS),
        ("*/*;q=0.9,application/openmetrics-text;q=0.5", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0,*/*;q=0.1", TEXT),
        ("text/plain;q=0,application/openmetrics-text;q=0.001", OPENMETRICS),
        ("text/html;q=1,application/json", TEXT),
    ],
)
def test_the_format_that_was_asked_for_is_given(accept: str, expected: str) -> None:
    """Real headers and made-up ones; the highest quality wins, and nothing that we have brings text."""
    assert expected == negotiate(accept)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=1.0.0x",
        "application/openmetrics-text;version=9.9.9",
        "application/openmetrics-text;version=2.0.0",
        "application/openmetrics-text;version=",
        "application/openmetrics-text;version",
        "application/openmetrics-text;q=2",
        "application/openmetrics-text;q=-1",
        "application/openmetrics-text;q=nan",
        "application/openmetrics-text;q=0.1234",
        "application/openmetrics-text;q=",
        "application/openmetrics-text;;",
        "application/openmetrics-textual",
        ",,,;;;===",
        "\x00\x01\x02",
        "ünïcödé/日本語;q=½",
    ],
)
def test_what_cannot_be_understood_gets_text(accept: str) -> None:
    """Whatever a stranger sends, and never a claim to a version that we do not speak."""
    assert negotiate(accept) == TEXT


@pytest.mark.parametrize(
    "accept",
    [
        "text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.5",
        "text/plain,application/openmetrics-text",
        "*/*,application/openmetrics-text",
    ],
)
def test_a_tie_goes_to_openmetrics_where_it_is_named(accept: str) -> None:
    """Whoever names it can read it; the order within a header means nothing (RFC 9110, 12.5.1)."""
    assert negotiate(accept) == OPENMETRICS


def test_a_range_that_is_named_twice_counts_by_its_best() -> None:
    """Proxies append."""
    accept = "application/openmetrics-text;q=0.1,text/plain;q=0.5,application/openmetrics-text;q=0.9"

    assert negotiate(accept) == OPENMETRICS


def test_one_bad_range_does_not_spoil_the_others() -> None:
    """The next one is taken."""
    assert negotiate("application/openmetrics-text;version=1.0.0x,text/plain;q=0.5") == TEXT
    assert negotiate("text/plain;q=bad,application/openmetrics-text;q=0.2") == OPENMETRICS


@pytest.mark.parametrize("accept", ["a" * 100_000, "a/b," * 25_000, ";q=1" * 25_000, '"' * 100_000])
def test_a_huge_header_gets_text(accept: str) -> None:
    """Bounded work, whatever its length."""
    assert negotiate(accept) == TEXT
    assert not accepts_gzip(accept)


WORDS = st.sampled_from(
    ["application/openmetrics-text", "text/plain", "*/*", "gzip", "version=1.0.0", "q=0.5", ";", ",", "=", '"', " "]
)
HEADERS = st.text() | st.lists(WORDS | st.text(max_size=3), max_size=30).map("".join)


@given(HEADERS)
def test_any_header_brings_one_of_two_formats(accept: str) -> None:
    """Nothing raises: an exception would be a log line per request, for anyone to cause."""
    assert negotiate(accept) in (TEXT, OPENMETRICS)


@given(HEADERS)
def test_openmetrics_is_given_only_where_it_is_named(accept: str) -> None:
    """Old scrapers cannot read it."""
    assert "openmetrics-text" in accept.lower() or negotiate(accept) == TEXT


@given(HEADERS)
def test_any_encoding_header_is_a_yes_or_a_no(accept_encoding: str) -> None:
    """As above, for compression."""
    assert accepts_gzip(accept_encoding) in (True, False)


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("gzip, deflate, br", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("identity", False),
        ("gzipped", False),
        ("gzip;q=nonsense", False),
        ("deflate;q=x, gzip", True),
    ],
)
def test_compression_only_for_those_who_name_it(accept_encoding: str, expected: bool) -> None:  # noqa: FBT001
    """A quality of 0 is a refusal."""
    assert expected == accepts_gzip(accept_encoding)


# --- both formats say the same --------------------------------------------------------------------


def test_both_formats_hold_the_same_samples(full: Snapshot) -> None:
    """And just those of the families."""
    expected = shown(families(full))

    assert len(expected) > 50
    assert expected == read_text(encode(families(full), TEXT))
    assert expected == read_openmetrics(encode(families(full), OPENMETRICS))


def test_promtool_finds_nothing_to_say(full: Snapshot) -> None:
    """Its lint knows the conventions of names, units and help."""
    prometheus.tools_or_skip()

    assert prometheus.check_metrics(encode(families(full), TEXT).decode()) == []


def test_openmetrics_ends_as_it_must_and_text_does_not(full: Snapshot) -> None:
    """A body without its end is refused by scrapers; in text 0.0.4 it is a stray comment."""
    assert encode(families(full), OPENMETRICS).endswith(b"\n# EOF\n")
    assert b"# EOF" not in encode(families(full), TEXT)


def test_neither_format_holds_start_timestamps(full: Snapshot) -> None:
    """Older servers store them as series."""
    assert b"_created" not in encode(families(full), OPENMETRICS) + encode(families(full), TEXT)


def test_units_are_told_where_the_format_has_a_place_for_them(full: Snapshot) -> None:
    """`# UNIT` is OpenMetrics' alone."""
    assert b"# UNIT wattgram_device_energy_joules joules\n" in encode(families(full), OPENMETRICS)
    assert b"# UNIT" not in encode(families(full), TEXT)


def test_infos_are_infos_where_the_format_knows_them(full: Snapshot) -> None:
    """In text 0.0.4 they are gauges of 1."""
    assert b"# TYPE wattgram_build info\n" in encode(families(full), OPENMETRICS)
    assert b"# TYPE wattgram_build_info gauge\n" in encode(families(full), TEXT)


@pytest.mark.parametrize(
    "name",
    ['"', "\\", "\n", 'a"b\\c\nd', "\\n", '\\"', "}", "{,}", " # ", "ügüs 日本語 🔌", "\r", "\t", "\u2028", "\\\\n\\"],
    ids=ascii,
)
def test_any_device_name_comes_back_as_it_was(name: str) -> None:
    """Quotes, backslashes, line ends and every alphabet, through both parsers."""
    content = snapshot(name)

    for found in (read_text(encode(families(content), TEXT)), read_openmetrics(encode(families(content), OPENMETRICS))):
        assert shown(families(content)) == found


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back_as_it_was(name: str) -> None:
    """The same for whatever a driver may call its device."""
    content = replace(SMALL, version=name)

    for found in (read_text(encode(families(content), TEXT)), read_openmetrics(encode(families(content), OPENMETRICS))):
        assert shown(families(content)) == found


SMALL = Snapshot(ManualClock().now(), ManualClock().now(), "1.2.3", "3.12.0")


# --- once per snapshot and format -----------------------------------------------------------------


@pytest.mark.parametrize("content_type", [TEXT, OPENMETRICS])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_snapshot_is_encoded_once_per_form(full: Snapshot, content_type: str, zipped: bool) -> None:  # noqa: FBT001
    """A pair of scrapers costs little more than one: they get the very same bytes."""
    encoder = Encoder()

    first = encoder(full, content_type, EVERYTHING, zipped=zipped)
    for form in (TEXT, OPENMETRICS):
        encoder(full, form, EVERYTHING, zipped=not zipped)
    second = encoder(full, content_type, EVERYTHING, zipped=zipped)

    assert first is second


def test_a_new_snapshot_is_encoded_anew(full: Snapshot) -> None:
    """And the old one, should a slow reader still hold it, is not mixed up with it."""
    encoder = Encoder()
    other = replace(full, version="9.9.9")

    bodies = [encoder(content, TEXT, EVERYTHING, zipped=False) for content in (full, other, full)]

    assert bodies[0] == bodies[2] == encode(families(full), TEXT)
    assert bodies[1] == encode(families(other), TEXT)
    assert bodies[0] != bodies[1]


def test_two_scrapes_of_equal_snapshots_are_equal() -> None:
    """Nothing in the bytes depends on when, or how often, they were made."""
    for form in (TEXT, OPENMETRICS):
        assert Encoder()(snapshot(), form, EVERYTHING, zipped=True) == Encoder()(
            snapshot(), form, EVERYTHING, zipped=True
        )


@pytest.mark.parametrize("content_type", [TEXT, OPENMETRICS])
@pytest.mark.parametrize("names", [EVERYTHING, frozenset({"wattgram_build_info"})])
def test_compressed_bytes_are_the_plain_ones(full: Snapshot, content_type: str, names: frozenset[str]) -> None:
    """Whether all or a part was asked for."""
    encoder = Encoder()

    plain = encoder(full, content_type, names, zipped=False)
    zipped = encoder(full, content_type, names, zipped=True)

    assert plain == gzip.decompress(zipped)


def test_compression_is_worth_it(full: Snapshot) -> None:
    """Metrics are repetitive: less than a third is left."""
    encoder = Encoder()

    assert len(encoder(full, TEXT, EVERYTHING, zipped=True)) * 3 < len(encoder(full, TEXT, EVERYTHING, zipped=False))


# --- name[] ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [TEXT, OPENMETRICS])
def test_one_name_brings_its_family(full: Snapshot, content_type: str) -> None:
    """By the name that queries use."""
    found = asked(full, "wattgram_device_energy_joules_total", content_type=content_type)

    assert {"wattgram_device_energy_joules_total"} == {name for name, _ in found}
    assert len(found) == 6


@pytest.mark.parametrize("name", ["wattgram_device_energy_joules", "wattgram_device_energy_joules_total"])
def test_a_counter_goes_by_the_name_of_its_family_and_of_its_samples(full: Snapshot, name: str) -> None:
    """The two formats write different ones on their TYPE lines."""
    assert {"wattgram_device_energy_joules_total"} == {found for found, _ in asked(full, name)}


@pytest.mark.parametrize("name", ["wattgram_build", "wattgram_build_info"])
def test_an_info_goes_by_both_names_too(full: Snapshot, name: str) -> None:
    """As counters do."""
    assert {"wattgram_build_info"} == {found for found, _ in asked(full, name)}


def test_several_names_bring_all_of_them(full: Snapshot) -> None:
    """In the order of the full scrape."""
    found = asked(full, "wattgram_pue_ratio", "wattgram_build_info")

    assert ["wattgram_build_info", "wattgram_pue_ratio"] == [name for name, _ in found]


@pytest.mark.parametrize("content_type", [TEXT, OPENMETRICS])
def test_an_unknown_name_brings_nothing(full: Snapshot, content_type: str) -> None:
    """An empty exposition that is still valid, and no error: another version may have that family."""
    assert asked(full, "no_such_family", content_type=content_type) == {}
    assert {"wattgram_build_info"} == {name for name, _ in asked(full, "no_such_family", "wattgram_build_info")}


def test_a_part_is_a_part_of_the_whole(full: Snapshot) -> None:
    """Line for line."""
    whole = encode(families(full), TEXT).decode().splitlines()

    part = Encoder()(full, TEXT, frozenset({"wattgram_device_power_watts"}), zipped=False).decode().splitlines()

    assert part
    assert set(part) <= set(whole)


def test_asking_for_a_part_does_not_change_what_the_next_one_gets(full: Snapshot) -> None:
    """Only the whole is remembered."""
    encoder = Encoder()

    encoder(full, TEXT, frozenset({"wattgram_build_info"}), zipped=False)

    assert encode(families(full), TEXT) == encoder(full, TEXT, EVERYTHING, zipped=False)


def test_the_types_of_content_say_their_version() -> None:
    """A scraper chooses its parser by them."""
    assert encoding.TEXT == "text/plain; version=0.0.4; charset=utf-8"
    assert encoding.OPENMETRICS == "application/openmetrics-text; version=1.0.0; charset=utf-8"
