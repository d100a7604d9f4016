"""What users will write: the queries of the contract, asked by promtool of series that our own families made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from standin import prometheus
from wattgram.accountant import Accountant
from wattgram.clock import ManualClock
from wattgram.ledger import Ledger
from wattgram.meter import Meter
from wattgram.model import Counter, Device, Health, Intensity, Reading, Sample
from wattgram.poller import Poller
from wattgram.snapshot import OwnerKey, PriceKey, Snapshot, Totals
from wattgram.tariff import Rung, Tariff
from wattgram_exporters.families import families

POWER_BY_SERVER = "sum by (instance) (rate(wattgram_device_energy_joules_total[1m]))"
POWER_BY_MODEL = (
    "sum by (model) (wattgram_device_power_watts"
    " * on (instance, component, device) group_left (model) wattgram_device_info)"
)
BILL = 'sum by (owner) (increase(wattgram_owner_energy_joules_total{kind!="pool"}[30d])) / 3.6e6'
BOOKS = (
    "abs(sum by (instance, component) (wattgram_device_energy_joules_total)"
    " - sum by (instance, component) (wattgram_owner_energy_joules_total)) > 1"
)
IDLE_PART = (
    'sum by (owner) (increase(wattgram_owner_energy_joules_total{component="gpu",kind!="pool",activity="idle"}[1d]))'
    ' / sum by (owner) (increase(wattgram_owner_energy_joules_total{component="gpu",kind!="pool"}[1d]))'
)
GRAMS_REBUILT = (
    "sum by (instance) (rate(wattgram_device_energy_joules_total[5m]))"
    " * on (instance) group_left (grid_zone) wattgram_pricing_intensity_grams_per_kwh / 3.6e6"
)
GRAMS_COUNTED = "sum by (instance) (rate(wattgram_device_emissions_grams_total[5m]))"
QUERIES = {
    "power by server": POWER_BY_SERVER,
    "power by model": POWER_BY_MODEL,
    "bill": BILL,
    "books": BOOKS,
    "idle part": IDLE_PART,
    "grams rebuilt": GRAMS_REBUILT,
    "grams counted": GRAMS_COUNTED,
}
SCRAPE = 15  # seconds between scrapes
FROM_SCRAPERS = {"instance", "job"}
KEYWORDS = {"sum", "by", "rate", "increase", "abs", "on", "group_left", "without", "ignoring", "max_over_time"}

Key = tuple[str, tuple[tuple[str, str], ...]]
Scrape = dict[Key, float]

GPUS = tuple(
    Device("gpu", f"GPU-{number}", model, str(number), max_watts=1000.0)
    for number, model in enumerate(("H100", "H100", "L40S"))
)
PACKAGE = Device("cpu", "package-0", "Xeon", max_watts=500.0)
WATTS = {GPUS[0]: 400.0, GPUS[1]: 600.0, GPUS[2]: 200.0, PACKAGE: 150.0}
SERVER_WATTS = sum(WATTS.values())
INTENSITY = 360.0  # grams per kWh


class Agent:
    """One server's agent, from its start, with devices of constant power."""

    def __init__(self, watts: dict[Device, float], clock: ManualClock) -> None:
        self._watts = watts
        self._clock = clock
        tariff = Tariff("DE", "lifecycle", (Rung("em", 0.0, ("live",)),))
        price = Intensity("DE", "em", 0.0, 2e9, INTENSITY, "live", "lifecycle")
        tariff.learn("em", [price], clock.now().wall)
        self.ledger = Ledger(clock, tariff.view, provenances=(("live", "lifecycle"), ("none", "lifecycle")))
        self._accountant = Accountant("nvml", 1.0, Meter(3.0), tariff, self.ledger)
        self._poller = Poller(Health("nvml", "source", 1.0), self._read, clock, self.ledger.report)
        self._poller.turn()

    def _read(self) -> None:
        at = self._clock.now()
        readings = (
            Reading(device, at, watts=watts, counter=Counter(round(watts * at.mono * 1e6)))
            for device, watts in self._watts.items()
        )
        self._accountant.receive(Sample(at, tuple(readings)))

    def run(self, seconds: int) -> None:
        """Meter for so long."""
        for _ in range(seconds):
            self._clock.advance(1.0)
            self._poller.turn()


def scraped(snapshot: Snapshot, instance: str) -> Scrape:
    """What a scraper stores of a snapshot: an empty label is no label."""
    own = {"instance": instance, "job": "wattgram"}
    return {
        (line.name, tuple(sorted((k, v) for k, v in {**line.labels, **own}.items() if v))): line.value
        for family in families(snapshot)
        for line in family.samples
    }


@dataclass
class Story:
    """What happened to one server, scrape by scrape; None: that scrape was missed."""

    instance: str
    scrapes: list[Scrape | None]

    @classmethod
    def of(
        cls,
        instance: str,
        minutes: int,
        watts: dict[Device, float] = WATTS,
        restart_at: Sequence[int] = (),
        missed_at: Sequence[int] = (),
        change: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot,
    ) -> Story:
        """Let an agent run, restart it at some scrapes, miss others; `change` spoils its books."""
        clock = ManualClock(1000.0, 1_780_000_000.0)
        agent = Agent(watts, clock)
        scrapes: list[Scrape | None] = []
        for number in range(minutes * 60 // SCRAPE + 1):
            if number in restart_at:
                agent = Agent(watts, clock)
            missed = number in missed_at
            scrapes.append(None if missed else scraped(change(agent.ledger.snapshot()), instance))
            agent.run(SCRAPE)
        return cls(instance, scrapes)

    def series(self) -> list[dict[str, str]]:
        """As promtool takes them."""
        keys = sorted({key for scrape in self.scrapes if scrape is not None for key in scrape})
        return [{"series": _notation(key), "values": " ".join(self._values(key))} for key in keys]

    def _values(self, key: Key) -> Iterable[str]:
        for scrape in self.scrapes:
            yield "_" if scrape is None or key not in scrape else repr(float(scrape[key]))


def _notation(key: Key) -> str:
    name, labels = key
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in labels) + "}"


def close_to(query: str, expected: float, tolerance: float = 1e-9) -> str:
    """A query that gives 1 where the first does not differ from what is expected by more than such a part of it."""
    return f"abs(({query}) / {expected!r} - 1) <= bool {tolerance!r}"


def asked(expr: str, minutes: float, *results: dict[str, str], value: float = 1.0) -> dict[str, Any]:
    """A question to promtool: the labels of all results, each of the same value."""
    samples = [{"labels": _notation(("", tuple(sorted(labels.items())))), "value": value} for labels in results]
    return {"expr": expr, "eval_time": f"{round(minutes * 60)}s", "exp_samples": samples}


def refused(stories: Sequence[Story], *questions: dict[str, Any]) -> str | None:
    """What promtool has to say against these answers; None: nothing."""
    series = [one for story in stories for one in story.series()]
    test = {"interval": f"{SCRAPE}s", "input_series": series, "promql_expr_test": list(questions)}
    return prometheus.test_rules({"tests": [test]})


@pytest.fixture
def _tools() -> None:
    prometheus.tools_or_skip()


asks_promtool = pytest.mark.usefixtures("_tools")


# --- watts ----------------------------------------------------------------------------------------


@asks_promtool
def test_watts_per_server_are_the_rate_of_its_energy() -> None:
    """Each server for itself, to float precision."""
    small = {PACKAGE: 75.0}
    stories = [Story.of("a:14044", 5), Story.of("b:14044", 5, small)]

    assert (
        refused(
            stories,
            asked(close_to(POWER_BY_SERVER, SERVER_WATTS) + " == 1", 5, {"instance": "a:14044"}),
            asked(close_to(POWER_BY_SERVER, 75.0) + " == 1", 5, {"instance": "b:14044"}),
        )
        is None
    )


@asks_promtool
def test_a_missed_scrape_changes_no_watt() -> None:
    """The counter bridges what the gauge would have lost."""
    story = Story.of("a", 5, missed_at=(10, 14, 18))

    assert refused([story], asked(close_to(POWER_BY_SERVER, SERVER_WATTS), 5, {"instance": "a"})) is None


@asks_promtool
def test_a_restart_makes_no_peak() -> None:
    """A counter that begins at 0 again is known for what it is: never more than there was, at any moment."""
    story = Story.of("a", 10, restart_at=(20,))
    most = f"({POWER_BY_SERVER}) <= bool {SERVER_WATTS * (1 + 1e-9)!r}"

    assert refused([story], *(asked(most, 5 + n / 4, {"instance": "a"}) for n in range(13))) is None


@asks_promtool
def test_a_restart_loses_no_more_than_the_scrape_in_which_it_fell() -> None:
    """What is used until the first scrape after it begins the counter anew."""
    story = Story.of("a", 10, restart_at=(20,))
    kept = f"sum by (instance) (increase(wattgram_device_energy_joules_total[9m])) / {SERVER_WATTS * 540!r}"

    assert refused([story], asked(f"({kept} > bool {1 - 2 * SCRAPE / 540!r}) == 1", 10, {"instance": "a"})) is None
    assert refused([story], asked(f"({kept} <= bool 1.000001) == 1", 10, {"instance": "a"})) is None


@asks_promtool
def test_watts_by_model_add_the_devices_of_each_model() -> None:
    """Over servers: the join by component and device finds exactly one identity each."""
    stories = [Story.of("a", 1), Story.of("b", 1, {GPUS[2]: 100.0})]

    expected = (("H100", 1000.0), ("L40S", 300.0), ("Xeon", 150.0))

    assert (
        refused(
            stories,
            *(asked(f"{POWER_BY_MODEL} == {watts}", 1, {"model": model}, value=watts) for model, watts in expected),
        )
        is None
    )


@asks_promtool
def test_the_join_by_model_survives_a_restart_and_a_missed_scrape() -> None:
    """The identities are the same before and after."""
    story = Story.of("a", 3, restart_at=(8,), missed_at=(7, 9))

    assert refused([story], asked(f"{POWER_BY_MODEL} == 1000", 2.5, {"model": "H100"}, value=1000.0)) is None


# --- the books ------------------------------------------------------------------------------------


@asks_promtool
@pytest.mark.parametrize(
    ("restart_at", "missed_at"),
    [((), ()), ((8, 15), ()), ((), (8, 9, 15)), ((9,), (8, 9))],
    ids=["steady", "restarts", "missed", "restarted unseen"],
)
def test_the_books_balance_at_every_scrape(restart_at: tuple[int, ...], missed_at: tuple[int, ...]) -> None:
    """The alert is silent, since both sides of it come from one snapshot."""
    story = Story.of("a", 5, restart_at=restart_at, missed_at=missed_at)

    assert refused([story], *(asked(BOOKS, n / 4) for n in range(21))) is None


@asks_promtool
def test_books_that_do_not_balance_raise_the_alert() -> None:
    """Two joules that an owner does not have, on one server and in one component."""

    def lose(snapshot: Snapshot) -> Snapshot:
        owners = tuple(
            (key, Totals(totals.microjoules - 2_000_000 * (key.component == "cpu"), totals.carbon))
            for key, totals in snapshot.owners
        )
        return replace(snapshot, owners=owners)

    stories = [Story.of("good", 3), Story.of("bad", 3, change=lose)]

    found = {"instance": "bad", "component": "cpu"}
    assert refused(stories, asked(f"round({BOOKS})", 3, found, value=2.0)) is None


@asks_promtool
def test_an_owner_that_is_missing_altogether_raises_the_alert() -> None:
    """A family that lost one of its lines."""

    def forget(snapshot: Snapshot) -> Snapshot:
        key = OwnerKey("slurm", "alice", "gpu", "active", "measured")
        return replace(snapshot, owners=(*snapshot.owners, (key, Totals(7_000_000))))

    story = Story.of("a", 3, change=forget)

    assert refused([story], asked(f"round({BOOKS})", 3, {"instance": "a", "component": "gpu"}, value=7.0)) is None


# --- grams ----------------------------------------------------------------------------------------


@asks_promtool
def test_grams_rebuilt_are_the_grams_that_were_counted() -> None:
    """Energy times the price in force, as long as that does not change: with the zone it was priced for."""
    story = Story.of("a", 10)
    per_second = SERVER_WATTS * INTENSITY / 3.6e6

    assert (
        refused(
            [story],
            asked(close_to(GRAMS_REBUILT, per_second), 10, {"instance": "a", "grid_zone": "DE"}),
            asked(close_to(GRAMS_COUNTED, per_second), 10, {"instance": "a"}),
        )
        is None
    )


@asks_promtool
def test_grams_rebuilt_survive_a_missed_scrape() -> None:
    """Each server has one price, and it is looked back for."""
    story = Story.of("a", 10, missed_at=(12, 25, 40))
    per_second = SERVER_WATTS * INTENSITY / 3.6e6

    assert (
        refused([story], asked(close_to(GRAMS_REBUILT, per_second), 10, {"instance": "a", "grid_zone": "DE"})) is None
    )


@asks_promtool
def test_energy_by_provenance_is_the_devices_energy() -> None:
    """Over every label, at every scrape."""
    story = Story.of("a", 5, restart_at=(9,))
    same = "sum(wattgram_pricing_energy_joules_total) - sum(wattgram_device_energy_joules_total)"

    assert refused([story], *(asked(f"abs({same}) < bool 1e-6", n / 4, {}) for n in range(21))) is None


# --- what the queries are made of -----------------------------------------------------------------


def words(query: str) -> set[str]:
    """Every name in a query: of metrics and of labels."""
    bare = re.sub(r'"[^"]*"|\[[^]]*\]|\b\d[\w.]*', " ", query)
    return set(re.findall(r"[a-zA-Z_]\w*", bare)) - KEYWORDS


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_every_name_in_a_query_is_one_that_we_show(query: str) -> None:
    """Its metrics, and its labels on one of them; where a server stands is the scraper's to say."""
    clock = ManualClock(1000.0, 1_780_000_000.0)
    agent = Agent(WATTS, clock)
    agent.run(5)
    lines = [line for family in families(agent.ledger.snapshot()) for line in family.samples]
    asked_for = words(query)
    metrics = {word for word in asked_for if word.startswith("wattgram_")}

    shown = {label for line in lines if line.name in metrics for label in line.labels}

    assert metrics
    assert metrics <= {line.name for line in lines}
    assert asked_for - metrics <= shown | FROM_SCRAPERS


def test_the_words_of_a_query_are_found() -> None:
    """Lest the test above look at nothing."""
    assert {"wattgram_device_power_watts", "wattgram_device_info", "model", "instance", "component", "device"} == words(
        POWER_BY_MODEL
    )
    assert {"wattgram_owner_energy_joules_total", "owner", "component", "kind", "activity"} == words(IDLE_PART)


@asks_promtool
def test_the_idle_part_and_the_bill_are_of_those_that_are_somebody() -> None:
    """Pools are nobody's; a quarter of alice's energy was idle."""

    def with_owners(snapshot: Snapshot) -> Snapshot:
        used = sum(totals.microjoules for _, totals in snapshot.owners)
        keys = [OwnerKey("slurm", "alice", "gpu", activity, "measured") for activity in ("active", "idle")]
        return replace(
            snapshot,
            owners=(*snapshot.owners, (keys[0], Totals(used * 3)), (keys[1], Totals(used))),
            pricing=((PriceKey("measured", "live", "lifecycle"), Totals(used)),),
        )

    story = Story.of("a", 60, {PACKAGE: 100.0}, change=with_owners)
    bill = BILL.replace("30d", "30m")

    assert (
        refused(
            [story],
            asked(close_to(IDLE_PART, 0.25), 60, {"owner": "alice"}),
            asked(close_to(bill, 400.0 * 1800 / 3.6e6), 60, {"owner": "alice"}),
        )
        is None
    )
