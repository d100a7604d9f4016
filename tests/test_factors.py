"""The bundled yearly table and its ladder, against figures of their owners.

Figures: Ember yearly electricity data (CC-BY-4.0); US EPA eGRID (public domain).
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from wattgram.clock import ManualClock
from wattgram.config import load
from wattgram.model import FACTORS
from wattgram.ports import ConfigError, Place, ReadFailed
from wattgram.providers.annual import AnnualProvider
from wattgram.tools.factors import Found, fallbacks, yearly, yearly_rows

ZONES = sorted({*yearly_rows(), *fallbacks()})


def found(zone: str, factor: str = "lifecycle") -> Found:
    result = yearly(zone, factor)
    assert result is not None, zone
    return result


# --- the table ------------------------------------------------------------------------------------


def test_the_table_is_whole() -> None:
    """326 rows; a data file cut short in packaging would price half the world as WORLD."""
    assert (326, 214) == (len(yearly_rows()), len(fallbacks()))


def can_price(zone: str) -> bool:
    row = yearly_rows()[zone]
    return (
        row.zone == zone
        and math.isfinite(row.grams_per_kwh)
        and 0 < row.grams_per_kwh < 1500
        and 2015 <= row.year <= 2030
        and row.factor in FACTORS
        and row.boundary in ("production", "consumption")
        and all((row.name, row.source, row.licence))
    )


def test_every_row_can_price() -> None:
    """Finite, of a plausible size and year, with its kind, its owner and its licence."""
    assert [] == [zone for zone in yearly_rows() if not can_price(zone)]


def way(zone: str) -> list[str]:
    """The zones that stand in for one another, from `zone` to a row or into a circle."""
    steps = [zone]
    while steps[-1] in fallbacks() and steps[-1] not in yearly_rows() and len(steps) < 10:
        steps.append(fallbacks()[steps[-1]][0])
    return steps


def test_every_stand_in_leads_to_a_row() -> None:
    """Directly or over further steps, never in a circle, and each says why."""
    assert [] == [zone for zone in fallbacks() if way(zone)[-1] not in yearly_rows()]
    assert [] == [zone for zone, (_, why) in fallbacks().items() if not why]


def test_the_ladder_takes_the_stand_in_where_its_factor_fits() -> None:
    """Not the world's average, for a zone whose neighbour is known."""
    known = {zone: yearly_rows()[way(zone)[-1]] for zone in fallbacks() if zone not in yearly_rows()}

    assert [] == [zone for zone, row in known.items() if found(zone, row.factor).row != row]


def test_lifecycle_and_direct_are_never_mixed() -> None:
    """Not at any step, for any zone that is known."""
    answers = [(factor, yearly(zone, factor)) for zone in ZONES for factor in FACTORS]

    assert [] == [answer for factor, answer in answers if answer is not None and answer.row.factor != factor]


def test_every_zone_that_is_known_has_a_lifecycle_price() -> None:
    assert [] == [zone for zone in ZONES if yearly(zone, "lifecycle") is None]


def may_be_configured(zone: str) -> bool:
    try:
        return zone == load(Path(os.devnull), {}, {"carbon.zone": zone}).carbon.zone
    except ConfigError:
        return False


def test_every_zone_that_is_known_may_be_configured() -> None:
    """The check of carbon.zone must not refuse what the table holds."""
    assert [] == [zone for zone in ZONES if not may_be_configured(zone)]


# --- the ladder -----------------------------------------------------------------------------------


def test_a_zones_own_row_needs_no_step() -> None:
    """France in 2024, Ember: 44.18 g/kWh."""
    result = found("FR")

    assert (44.18, 2024, ()) == (result.row.grams_per_kwh, result.row.year, result.steps)


def test_the_world_is_a_zone() -> None:
    result = found("WORLD")

    assert (472.94, ()) == (result.row.grams_per_kwh, result.steps)


def test_an_unknown_zone_gets_the_world_and_is_told_so() -> None:
    result = found("QQ")

    assert ("WORLD", 472.94) == (result.row.zone, result.row.grams_per_kwh)
    assert 1 == len(result.steps)
    assert "world" in result.steps[0]
    assert "QQ" in result.steps[0]


def test_a_bidding_zone_gets_its_country() -> None:
    """DK-DK2 has no row of its own; Denmark in 2024, Ember: 143.3 g/kWh."""
    result = found("DK-DK2")

    assert ("DK", 143.3) == (result.row.zone, result.row.grams_per_kwh)
    assert ["DK stands in for DK-DK2 (country)"] == list(result.steps)


def test_an_unknown_part_of_a_known_country_gets_the_country() -> None:
    result = found("FR-IDF")

    assert ("FR", 44.18) == (result.row.zone, result.row.grams_per_kwh)
    assert "FR-IDF" in result.steps[0]


def test_a_state_with_a_direct_figure_alone_is_passed_over_for_lifecycle() -> None:
    """California's eGRID figure, 179.1, is direct: a lifecycle price is the country's, 383.55, and says why."""
    result = found("US-CA")

    assert ("US", 383.55) == (result.row.zone, result.row.grams_per_kwh)
    assert "US-CA has only a direct figure" == result.steps[0]


def test_a_state_answers_with_its_own_direct_figure() -> None:
    result = found("US-CA", "direct")

    assert ("US-CA", 179.1, ()) == (result.row.zone, result.row.grams_per_kwh, result.steps)


def test_a_balancing_authority_is_followed_step_by_step() -> None:
    """US-CAL-CISO, its eGRID region (direct alone), its state, its country: each step is told."""
    result = found("US-CAL-CISO")

    assert "US" == result.row.zone
    assert "US-EGRID-CAMX has only a direct figure" in result.steps


def test_without_a_figure_of_the_asked_kind_there_is_none() -> None:
    """France has no direct figure, nor has the world: not the lifecycle one in its place."""
    assert yearly("FR", "direct") is None


@pytest.mark.parametrize("zone", ["", "-", "--", "FR-", "-FR", "fr", "FR\n", "ÄÖ", "A" * 10_000])
def test_a_hostile_zone_gets_the_world_at_worst(zone: str) -> None:
    assert found(zone).row.grams_per_kwh in (472.94, 44.18)


# --- the provider over it -------------------------------------------------------------------------


def test_a_yearly_price_says_that_it_is_one() -> None:
    """Basis, edition, boundary, licence and every step."""
    (price,) = AnnualProvider(Place("DK-DK2", "lifecycle"), ManualClock(wall=1_800_000_000.0)).fetch()

    assert ("annual", "annual", "lifecycle", "production", "2024") == (
        price.provider,
        price.basis,
        price.factor,
        price.boundary,
        price.edition,
    )
    assert (143.3, "DK", 1_800_000_000.0) == (price.grams_per_kwh, price.zone, price.fetched)
    assert "CC-BY-4.0" in price.source
    assert "DK stands in for DK-DK2" in price.source


def test_a_yearly_price_holds_from_its_year_on() -> None:
    """It never grows stale: it never claimed to be new. 2024-01-01T00:00Z is 1 704 067 200."""
    (price,) = AnnualProvider(Place("FR", "lifecycle"), ManualClock()).fetch()

    assert (1_704_067_200.0, math.inf) == (price.start, price.end)


def test_the_provider_names_what_it_lacks() -> None:
    with pytest.raises(ReadFailed, match="no direct figure for FR") as caught:
        AnnualProvider(Place("FR", "direct"), ManualClock()).fetch()

    assert "zone" == caught.value.reason
