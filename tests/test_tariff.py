"""Every joule has the price of its own time: which intensity holds when, cut exactly where it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattgram.model import CARBON_PER_GRAM, UNATTRIBUTED, Charge, Device, EnergyDelta, Instant, Intensity, Share, grams
from wattgram.tariff import Rung, Tariff, unpriced

JOULE = 1_000_000
MICROGRAMS = 1_000_000
T0 = 1_700_000_000.0  # every test's time is counted from here
HOLD = 50.0

GPU = Device("gpu", "GPU-1")
LIVE = Rung("grid", HOLD, ("live", "forecast", "held"))
YEARLY = Rung("annual", 0.0, ("annual",))


def value(
    start: float,
    end: float,
    grams_per_kwh: float,
    basis: str = "live",
    factor: str = "lifecycle",
    provider: str = "grid",
) -> Intensity:
    return Intensity("FR", provider, T0 + start, T0 + end, grams_per_kwh, basis, factor)


def year(grams_per_kwh: float = 400.0, factor: str = "lifecycle") -> Intensity:
    return value(-1e7, 1e7, grams_per_kwh, "annual", factor, "annual")


def tariff(*values: Intensity, rungs: Sequence[Rung] = (LIVE, YEARLY), now: float = 0.0) -> Tariff:
    """Return a tariff that wants lifecycle factors and has been told these values at once."""
    result = Tariff("FR", "lifecycle", rungs)
    for rung in rungs:
        result.learn(rung.provider, [v for v in values if v.provider == rung.provider], T0 + now)
    return result


def share(start: float, end: float, microjoules: int) -> Share:
    delta = EnergyDelta(GPU, Instant(start, T0 + start), Instant(end, T0 + end), microjoules, "counter")
    return Share(UNATTRIBUTED, "active", "measured", delta, microjoules)


def price_at(book: Tariff, seconds: float) -> tuple[float, str] | None:
    found = book.at(T0 + seconds)
    return None if found is None else (found.grams_per_kwh, found.basis)


def charged(charges: Sequence[Charge]) -> list[tuple[int, float | None, str]]:
    return [
        (c.microjoules, None if c.carbon is None else c.carbon / c.microjoules / MICROGRAMS, c.basis) for c in charges
    ]


def carbon(charges: Sequence[Charge]) -> int:
    return sum(c.carbon for c in charges if c.carbon is not None)


# --- which one holds --------------------------------------------------------------------------------

ACTUAL = value(0, 100, 50.0)
FORECAST = value(0, 100, 60.0, "forecast")
OLDER = value(-100, 0, 70.0)
YEAR = year(400.0)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([ACTUAL, FORECAST, OLDER, YEAR], (50.0, "live")),
        ([FORECAST, OLDER, YEAR], (60.0, "forecast")),
        ([OLDER, YEAR], (70.0, "held")),
        ([YEAR], (400.0, "annual")),
        ([], None),
    ],
    ids=["actual", "forecast", "held", "next rung", "none"],
)
def test_the_price_is_actual_then_forecast_then_held_then_the_next_rung_then_none(
    known: list[Intensity], expected: tuple[float, str] | None
) -> None:
    """The best that is known of the interval itself comes first; at 10 s the older value is not too old."""
    assert expected == price_at(tariff(*known), 10.0)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-0.001, None),
        (0.0, (50.0, "live")),
        (99.999, (50.0, "live")),
        (100.0, (50.0, "held")),
        (149.999, (50.0, "held")),
        (150.0, None),
    ],
)
def test_a_value_holds_from_its_start_until_its_end_and_is_held_a_stated_time(
    seconds: float, expected: tuple[float, str] | None
) -> None:
    """Half-open: at the very end the next one begins, and at the end of the hold there is none."""
    assert expected == price_at(tariff(ACTUAL), seconds)


def test_a_forecast_is_not_held() -> None:
    """What was forecast for an hour says nothing of the next."""
    book = tariff(value(0, 100, 60.0, "forecast"), YEAR)

    assert (400.0, "annual") == price_at(book, 101.0)


def test_the_newest_value_is_held_past_a_forecast_that_ended() -> None:
    """The forecast began later, but only what was measured can be held."""
    book = tariff(value(0, 100, 50.0), value(100, 110, 60.0, "forecast"), YEAR)

    assert (50.0, "held") == price_at(book, 111.0)


def test_a_missing_interval_is_held_from_the_one_before_it() -> None:
    """Though a later one is known already: a late joule is not priced by what came after it."""
    book = tariff(value(0, 100, 50.0), value(140, 200, 90.0))

    assert (50.0, "held") == price_at(book, 120.0)


def test_a_short_value_does_not_hide_the_long_one_around_it() -> None:
    """A quarter of an hour inside an hour: when it has ended, the hour's value is still for its interval."""
    book = tariff(value(0, 3600, 100.0), value(900, 1800, 200.0))

    assert (100.0, "live") == price_at(book, 2000.0)


def test_a_newer_word_on_the_same_interval_replaces_the_older() -> None:
    """An estimate is revised within the hour."""
    book = tariff(value(0, 100, 50.0, "estimated"))
    book.learn("grid", [value(0, 100, 55.0)], T0 + 20)

    assert (55.0, "live") == price_at(book, 10.0)


def test_what_a_provider_says_next_does_not_unsay_what_it_said() -> None:
    """It answers with one value at a time; the last hour's joules may still arrive."""
    book = tariff(value(0, 100, 50.0))
    book.learn("grid", [value(100, 200, 90.0)], T0 + 110)

    assert ((50.0, "live"), (90.0, "live")) == (price_at(book, 99.0), price_at(book, 100.0))


# --- factors ----------------------------------------------------------------------------------------


def test_a_rung_of_the_other_factor_does_not_price() -> None:
    """Direct emissions added to lifecycle ones are neither."""
    book = tariff(value(0, 100, 20.0, factor="direct"), YEAR)

    assert (400.0, "annual") == price_at(book, 10.0)


def test_a_rung_of_the_other_factor_prices_when_it_is_named_and_says_so() -> None:
    """The user asked for it: the charge bears the factor that it has."""
    book = tariff(value(0, 100, 20.0, factor="direct"), rungs=[replace(LIVE, named=True)])

    (charge,) = book.price(share(10, 20, JOULE))

    assert ("direct", 20 * MICROGRAMS * JOULE) == (charge.factor, charge.carbon)


@pytest.mark.parametrize(
    "other", [value(0, 100, 20.0, factor="direct"), replace(value(0, 100, 700.0), signal="marginal")]
)
def test_a_value_of_another_kind_does_not_replace_the_one_that_prices(other: Intensity) -> None:
    """A provider may say several things of one interval; the price is average and of the factor asked for."""
    book = tariff(value(0, 100, 50.0), other)

    assert (50.0, "live") == price_at(book, 10.0)


def test_a_marginal_signal_never_prices() -> None:
    """Grams are average emissions: what one more kilowatt-hour would cause is another question."""
    book = tariff(replace(value(0, 100, 700.0), signal="marginal"), rungs=[LIVE])

    assert price_at(book, 10.0) is None


# --- unknown is absent ------------------------------------------------------------------------------


def test_an_unknown_price_is_no_price_and_not_zero() -> None:
    """The provider failed: the energy is counted all the same, as unpriced."""
    (charge,) = tariff(rungs=[LIVE]).price(share(0, 10, JOULE))

    assert (JOULE, None, "none", "lifecycle") == (charge.microjoules, charge.carbon, charge.basis, charge.factor)


def test_a_price_of_zero_is_a_price() -> None:
    """A grid may run on nothing but wind for an hour; by the direct factor that is 0."""
    (charge,) = tariff(value(0, 100, 0.0)).price(share(0, 10, JOULE))

    assert (0, "live") == (charge.carbon, charge.basis)


def test_without_a_zone_every_joule_is_unpriced() -> None:
    """No default zone, no default price."""
    (charge,) = unpriced(share(0, 10, JOULE))

    assert (JOULE, None, "none", "none") == (charge.microjoules, charge.carbon, charge.basis, charge.factor)


# --- the price of a share ---------------------------------------------------------------------------


def test_one_kilowatt_hour_costs_the_grams_of_one_kilowatt_hour() -> None:
    """The unit is right."""
    (charge,) = tariff(value(0, 3600, 123.456789)).price(share(0, 3600, 3_600_000 * JOULE))

    assert 123.456789 == grams(charge.carbon or 0)


def test_energy_is_cut_exactly_where_the_price_changes() -> None:
    """Through the value's end, the end of its hold, and the next value's begin."""
    book = tariff(value(0, 100, 50.0), value(200, 300, 90.0), year(400.0))

    charges = book.price(share(90, 210, 120 * JOULE))

    expected = [
        (10 * JOULE, 50.0, "live"),
        (50 * JOULE, 50.0, "held"),
        (50 * JOULE, 400.0, "annual"),
        (10 * JOULE, 90.0, "live"),
    ]
    assert expected == charged(charges)


def test_energy_that_ends_at_a_change_is_not_cut() -> None:
    """Nothing of it was used at the next price."""
    book = tariff(value(0, 100, 50.0), value(100, 200, 90.0))

    assert [(JOULE, 50.0, "live")] == charged(book.price(share(99, 100, JOULE)))


def test_energy_that_begins_at_a_change_is_not_cut() -> None:
    """Nothing of it was used at the price before."""
    book = tariff(value(0, 100, 50.0), value(100, 200, 90.0))

    assert [(JOULE, 90.0, "live")] == charged(book.price(share(100, 101, JOULE)))


def test_part_of_an_interval_may_be_unpriced() -> None:
    """Its provider's value ran out in the middle."""
    book = tariff(value(0, 100, 50.0), rungs=[LIVE])

    charges = book.price(share(140, 160, 20 * JOULE))

    assert [(10 * JOULE, 50.0, "held"), (10 * JOULE, None, "none")] == charged(charges)


def test_an_interval_of_no_length_has_one_price() -> None:
    """Whatever falls into no time falls there whole."""
    charges = tariff(ACTUAL).price(share(10, 10, JOULE))

    assert [(JOULE, 50.0, "live")] == charged(charges)


def test_no_energy_is_charged_as_none() -> None:
    """Zero is a measurement: it has a price, and costs nothing."""
    charges = tariff(value(0, 100, 50.0), value(100, 200, 90.0)).price(share(90, 110, 0))

    assert [(0, 0, "live"), (0, 0, "live")] == [(c.microjoules, c.carbon, c.basis) for c in charges]


def test_after_the_clock_was_set_back_a_joule_has_the_price_of_its_date() -> None:
    """The hour came twice: each of its joules costs the same, and none is lost."""
    book = tariff(value(0, 100, 50.0), value(100, 200, 90.0))
    before, after = share(150, 151, JOULE), share(50, 51, JOULE)

    charges = [*book.price(before), *book.price(after)]

    assert [(JOULE, 90.0, "live"), (JOULE, 50.0, "live")] == charged(charges)


def test_power_that_falls_when_the_grid_is_dirty_is_priced_without_error() -> None:
    """A load that follows the wind: mean energy times mean intensity would be wrong by half."""
    hours = [(500.0, 50.0), (100.0, 500.0), (500.0, 50.0), (100.0, 500.0)]
    book = tariff(*(value(3600 * h, 3600 * (h + 1), intensity) for h, (_, intensity) in enumerate(hours)))
    total = 0

    for second in range(0, 3600 * len(hours), 10):
        watts = hours[second // 3600][0]
        total += carbon(book.price(share(second, second + 10, round(watts * 10 * JOULE))))

    expected = sum(round(watts / 1000 * intensity * CARBON_PER_GRAM) for watts, intensity in hours)
    assert expected == total


# --- what is shown ----------------------------------------------------------------------------------


def test_the_view_shows_the_price_in_force_and_what_each_provider_says() -> None:
    """Also the one whose value does not price."""
    book = tariff(ACTUAL, YEAR)

    grid = book.view(T0 + 10)

    assert ("FR", "lifecycle", ACTUAL, (ACTUAL, YEAR)) == (grid.zone, grid.factor, grid.price, grid.known)


def test_the_view_shows_a_held_value_as_its_provider_said_it() -> None:
    """The price is held; the value is what it always was."""
    grid = tariff(ACTUAL).view(T0 + 120)

    assert (replace(ACTUAL, basis="held"), (ACTUAL,)) == (grid.price, grid.known)


@pytest.mark.parametrize("seconds", [-1.0, 150.0, 1e6])
def test_the_view_hides_values_that_have_not_begun_or_are_past_their_hold(seconds: float) -> None:
    """A provider that has been silent for longer says nothing."""
    grid = tariff(ACTUAL, rungs=[LIVE]).view(T0 + seconds)

    assert (None, ()) == (grid.price, grid.known)


# --- properties -------------------------------------------------------------------------------------

LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["live", "forecast", "both", "gap"])), max_size=8)
INTENSITIES = st.integers(0, 1_500_000_000).map(lambda micrograms: micrograms / MICROGRAMS)


@st.composite
def grids(draw: st.DrawFn) -> list[Intensity]:
    """Draw what a provider knows: intervals in a row, each measured, forecast, both, or neither."""
    values: list[Intensity] = []
    begin = 0
    for length, what in draw(LENGTHS):
        for basis in ("live", "forecast"):
            if what in {basis, "both"}:
                values += [value(begin, begin + length, draw(INTENSITIES), basis)]
        begin += length
    return values


def oracle(values: Sequence[Intensity], seconds: float) -> float | None:
    """Say slowly and plainly what a joule costs at that time."""
    wall = T0 + seconds
    actual = [v for v in values if v.basis == "live"]
    for group in (actual, [v for v in values if v.basis == "forecast"]):
        for v in group:
            if v.start <= wall < v.end:
                return v.grams_per_kwh
    begun = [v for v in actual if v.start <= wall]
    if begun and wall < begun[-1].end + HOLD:
        return begun[-1].grams_per_kwh
    return None


@settings(deadline=None, max_examples=200)
@given(known=grids(), begin=st.integers(-20, 200), seconds=st.integers(1, 200), watts=st.integers(0, 1000))
def test_a_share_costs_the_sum_of_its_seconds(known: list[Intensity], begin: int, seconds: int, watts: int) -> None:
    """Priced at once or second by second by somebody who only looks values up: the same carbon, exactly."""
    book = tariff(*known, rungs=[LIVE])

    charges = book.price(share(begin, begin + seconds, watts * seconds * JOULE))

    prices = [oracle(known, begin + second + 0.5) for second in range(seconds)]
    expected = sum(watts * JOULE * round(price * MICROGRAMS) for price in prices if price is not None)
    assert expected == carbon(charges)
    assert watts * JOULE * prices.count(None) == sum(c.microjoules for c in charges if c.carbon is None)


@settings(deadline=None, max_examples=300)
@given(
    known=grids(),
    begin=st.floats(-50, 250),
    seconds=st.floats(0, 200),
    microjoules=st.integers(0, 10**13),
)
def test_charges_add_up_to_their_share_exactly(
    known: list[Intensity], begin: float, seconds: float, microjoules: int
) -> None:
    """To the microjoule, none negative, wherever the cuts fall."""
    charges = tariff(*known, year()).price(share(begin, begin + seconds, microjoules))

    assert microjoules == sum(c.microjoules for c in charges)
    assert all(c.microjoules >= 0 for c in charges)


@settings(deadline=None, max_examples=200)
@given(known=grids(), begin=st.integers(-20, 200), lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_splitting_an_interval_does_not_change_its_carbon(
    known: list[Intensity], begin: int, lengths: list[int]
) -> None:
    """Read often or seldom: at constant power the grams are the same."""
    book = tariff(*known, year())
    parts: list[Charge] = []
    now = begin
    for length in lengths:
        parts += book.price(share(now, now + length, length * 300 * JOULE))
        now += length

    whole = book.price(share(begin, now, (now - begin) * 300 * JOULE))

    assert carbon(whole) == carbon(parts)


@given(known=grids(), seconds=st.integers(-20, 400))
def test_what_is_learnt_in_any_order_is_the_same(known: list[Intensity], seconds: int) -> None:
    """History may arrive late, and backwards."""
    forwards, backwards = tariff(rungs=[LIVE]), tariff(rungs=[LIVE])
    for v in known:
        forwards.learn("grid", [v], T0)
    for v in reversed(known):
        backwards.learn("grid", [v], T0)

    assert forwards.at(T0 + seconds) == backwards.at(T0 + seconds)
