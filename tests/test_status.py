"""The snapshot as JSON: what is unknown is null, what is shown agrees with the scrape, and any parser can read it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from wattgram.model import Cost, Device, Health, Instant, Intensity, State
from wattgram.snapshot import Constants, DeviceTotals, Grid, OwnerKey, PriceKey, Reload, Snapshot, Totals
from wattgram_exporters import status
from wattgram_exporters.families import families

NOW = Instant(1000.0, 1_780_000_000.0)
GPU = Device("gpu", "GPU-1", "H100", "0", "0000:10:00.0", "SXM-1", "board")
PRICE = Intensity("FR", "annual", 0.0, math.inf, 44.18, "annual", "lifecycle", edition="2024", source="a table")
ACCOUNT = DeviceTotals(
    GPU, "nvml", 1.0, "counter", "570.1", NOW, 312.5, State(0.5), 2_500_000, 44, 1.5, (("gap", 1),), (("cap", 2.0),)
)
SNAPSHOT = Snapshot(
    at=NOW,
    started=Instant(0.0, 1_779_999_000.0),
    version="1.2.3",
    python="3.12.0",
    devices=(ACCOUNT,),
    owners=((OwnerKey("pool", "unattributed", "gpu", "active", "measured"), Totals(2_500_000, 44)),),
    pricing=((PriceKey("measured", "annual", "lifecycle"), Totals(2_500_000, 44)),),
    grid=Grid("FR", "lifecycle", PRICE, (PRICE,)),
    health=(Health("nvml", "source", 1.0, up=True, turns=3, last_success=NOW, child=Cost(1.5, 4096)),),
)
EMPTY = Snapshot(NOW, NOW, "1.2.3", "3.12.0")


def refuse(word: str) -> Any:
    """What a strict parser does with NaN and Infinity."""
    raise ValueError(word)


def strictly(body: bytes) -> Any:
    """Read JSON as RFC 8259 has it."""
    return json.loads(body.decode("utf-8"), parse_constant=refuse)


def told(snapshot: Snapshot) -> Any:
    """What the status says."""
    return strictly(status.status(snapshot))


def leaves(value: Any) -> Iterator[Any]:
    """Every value that holds no others."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def sources(*health: Health) -> Snapshot:
    """A snapshot that knows nothing but how sources are doing."""
    return replace(EMPTY, health=health)


# --- readable -------------------------------------------------------------------------------------


@pytest.mark.parametrize("snapshot", [SNAPSHOT, EMPTY], ids=["full", "empty"])
def test_it_is_json_that_any_parser_can_read(snapshot: Snapshot) -> None:
    """No NaN and no Infinity, which only some can."""
    assert told(snapshot)
    assert strictly(status.intensity(snapshot))


def test_an_interval_without_an_end_has_none() -> None:
    """A yearly figure holds until it is replaced; Infinity is no JSON."""
    assert told(SNAPSHOT)["grid"]["price"]["end"] is None


def test_any_text_comes_back_as_it_was() -> None:
    """Whatever a driver calls its device."""
    name = 'a"b\\c\nd </script> ügüs 日本語 🔌 \u2028'

    snapshot = replace(SNAPSHOT, devices=(replace(ACCOUNT, device=replace(GPU, name=name)),))

    assert told(snapshot)["devices"][0]["name"] == name


def test_it_ends_with_a_line_end() -> None:
    """For `curl` in a terminal."""
    assert status.status(SNAPSHOT).endswith(b"}\n")


# --- honest ---------------------------------------------------------------------------------------


def test_unknown_power_is_null() -> None:
    """0 would be a measurement."""
    assert told(replace(SNAPSHOT, devices=(replace(ACCOUNT, watts=None),)))["devices"][0]["watts"] is None
    assert told(replace(SNAPSHOT, devices=(replace(ACCOUNT, watts=0.0),)))["devices"][0]["watts"] == 0.0


def test_a_reading_that_is_too_old_is_null_and_the_totals_stay() -> None:
    """With the time it is from."""
    old = Instant(NOW.mono - 3.5, NOW.wall - 3.5)

    device = told(replace(SNAPSHOT, devices=(replace(ACCOUNT, read_at=old),)))["devices"][0]

    assert (None, None) == (device["watts"], device["utilization"])
    assert (2.5, old.wall) == (device["joules"], device["read_at"])


def test_a_device_that_was_never_read_says_so() -> None:
    """No time, no state, no watts."""
    device = told(replace(SNAPSHOT, devices=(replace(ACCOUNT, read_at=None, state=None),)))["devices"][0]

    assert [None] * 4 == [device[key] for key in ("read_at", "watts", "temperature_celsius", "power_limit_watts")]


def test_without_a_zone_no_grams_are_known() -> None:
    """Null by device, owner and price; the joules stay."""
    said = told(replace(SNAPSHOT, grid=None))

    for part in ("devices", "owners", "pricing"):
        assert [(2.5, None)] == [(row["joules"], row["grams"]) for row in said[part]]
    assert said["grid"] is None


def test_an_unpriced_zone_has_no_price() -> None:
    """And keeps its name."""
    said = told(replace(SNAPSHOT, grid=Grid("FR", "lifecycle", None, ())))

    assert {"zone": "FR", "factor": "lifecycle", "price": None, "known": [], "ahead": []} == said["grid"]


def test_what_is_missing_is_told_with_its_remedy() -> None:
    """As on the page."""
    health = Health("rapl", "source", 1.0, turns=1, error="permission denied", remedy="setcap")

    (said,) = told(sources(health))["health"]

    assert ("rapl", None, "permission denied", "setcap") == (said["name"], said["up"], said["error"], said["remedy"])


def test_nothing_unknown_is_an_empty_text() -> None:
    """Null is the one word for it: a consumer has one case to handle."""
    bare = replace(ACCOUNT, device=Device("cpu", "package-0"), driver="")

    device = told(replace(SNAPSHOT, devices=(bare,)))["devices"][0]

    assert "" not in set(leaves(device)) - {device["name"], device["covers"]}


# --- complete, and the same as the scrape ---------------------------------------------------------


def test_energy_and_grams_are_those_of_the_scrape() -> None:
    """Two views of one snapshot."""
    scraped = {line.name: line.value for family in families(SNAPSHOT) for line in family.samples}
    (device,) = told(SNAPSHOT)["devices"]

    assert device["joules"] == scraped["wattgram_device_energy_joules_total"]
    assert device["grams"] == scraped["wattgram_device_emissions_grams_total"]
    assert device["watts"] == scraped["wattgram_device_power_watts"]
    assert device["unmetered_seconds"] == scraped["wattgram_device_unmetered_seconds_total"]


def test_identity_and_method_are_told() -> None:
    """What a metric needs two info families for."""
    (device,) = told(SNAPSHOT)["devices"]

    assert ("gpu", "GPU-1", "H100", "0", "0000:10:00.0") == tuple(
        device[key] for key in ("component", "device", "name", "index", "pci_bus_id")
    )
    assert ("nvml", "counter", "measured", "board", "570.1") == tuple(
        device[key] for key in ("source", "method", "quality", "covers", "driver")
    )


def test_it_is_the_whole_snapshot() -> None:
    """Whatever a scrape shows, the status knows too: configured factors, the reload, our own cost, the Python."""
    snapshot = replace(
        SNAPSHOT,
        constants=Constants(1.375, 10.625, 0.8125, "EUR"),
        reload=Reload(successful=False, at=1_779_999_123.0),
        cost=Cost(0.15625, 12_345, 23_456, 17, 1717, 1_779_998_888.0),
        python="3.99.7",
        devices=(replace(ACCOUNT, state=State(0.5, 34_567, 45_678)), *SNAPSHOT.devices[1:]),
    )
    scraped = {line.value for family in families(snapshot) for line in family.samples if family.type != "info"}

    said = set(leaves(told(snapshot)))

    assert {"3.99.7", "EUR"} <= said
    assert scraped - said <= {0.0, 1.0, float(PRICE.start)}


def test_owners_come_in_an_order_of_their_own() -> None:
    """The diff of two answers shows what changed, not who came first."""
    other = (OwnerKey("pool", "idle", "gpu", "idle", "measured"), Totals(1, 0))

    one = replace(SNAPSHOT, owners=(*SNAPSHOT.owners, other))
    two = replace(SNAPSHOT, owners=(other, *SNAPSHOT.owners))

    assert status.status(one) == status.status(two)


def test_the_grids_own_path_says_the_same_of_it() -> None:
    """For agents that ask this one instead of the provider."""
    assert told(SNAPSHOT)["grid"] == strictly(status.intensity(SNAPSHOT))


def test_without_a_zone_the_grids_path_says_that_nothing_is_known() -> None:
    """An answer, and no error."""
    assert {"zone": None, "price": None, "known": [], "ahead": []} == strictly(status.intensity(EMPTY))


# --- ready ----------------------------------------------------------------------------------------


def test_it_is_ready_when_a_device_is_metered() -> None:
    """Whatever else is still being waited for."""
    assert status.not_ready(replace(SNAPSHOT, health=(Health("rapl", "source", 1.0),))) == ""


def test_it_is_not_ready_before_anything_was_tried() -> None:
    """And says what it waits for."""
    assert status.not_ready(EMPTY) == "no sample yet from any source"


def test_it_waits_for_each_source_that_was_not_tried() -> None:
    """By name; those that were tried are not waited for."""
    snapshot = sources(
        Health("nvml", "source", 1.0), Health("rapl", "source", 1.0, turns=1), Health("estimate", "source", 1.0)
    )

    assert status.not_ready(snapshot) == "no sample yet from nvml, estimate"


def test_it_does_not_wait_for_a_provider() -> None:
    """Energy is counted all the same."""
    snapshot = sources(Health("em", "provider", 300.0), Health("nvml", "source", 1.0, turns=1))

    assert status.not_ready(snapshot) == ""


def test_a_host_with_nothing_to_meter_is_ready() -> None:
    """Every source was tried: the page says what is missing."""
    assert status.not_ready(sources(Health("nvml", "source", 1.0, up=None, turns=1, error="no driver"))) == ""
