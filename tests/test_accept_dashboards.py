"""Every panel, variable and rule, asked of a real Prometheus that holds an hour of the daemon's own past."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]

from standin import prometheus
from standin.daemon import Daemon
from standin.history import HOUR, SCRAPE, Plan, Server, intensity, live
from standin.prometheus import Prometheus, QueryFailed, Result
from test_dashboards import NAMES, ROOT, SELECTOR, expressions, load, panels, variables

BEGIN = 1_790_000_000 // 900 * 900.0
END = BEGIN + HOUR
DOWN, UP = 1815.0, 1850.0  # its first scrape finds figures
HOLE = (2400.0, 2460.0)
REAL, MODEL, DEMO = "gpu-1:14044", "gpu-2:14044", "demo:14044"
PLANS = (
    Plan(REAL, down=DOWN, up=UP),
    Plan(MODEL, quality="estimated", gpus=2, every=1.0, hole=HOLE, blind="1"),
    Plan(DEMO, quality="synthetic", gpus=1),
)
CHAT_GPU, BLIND_GPU = (f"GPU-00000000-0000-4000-8000-{index:012x}" for index in (3, 1))
CHAT = "2f0c8d1e-5b1a-4f6e-9a57-000000000001"
TOLERANCE = 0.02
CHOSEN = "measured|apportioned|estimated"
MACROS = {"__rate_interval": "60s", "__range_s": f"{HOUR:.0f}", "__range": f"{HOUR:.0f}s", "quality": CHOSEN}
WRITTEN = ROOT / "deploy" / "prometheus" / "wattgram.rules.yml"
RULES = sorted((ROOT / "deploy" / "prometheus").glob("*.yml"))


@dataclass
class World:
    """A Prometheus, and the servers whose past it holds."""

    prometheus: Prometheus
    servers: dict[str, Server]

    def ask(self, expr: str, at: float = END, /, **chosen: str) -> list[Result]:
        """An expression of a dashboard, its variables filled in; a regular expression for each."""
        return self.prometheus.query(filled(expr, **chosen), at)

    def figure(self, board: str, title: str, at: float = END, /, **chosen: str) -> float:
        """What one panel says at a moment, as a single number."""
        (found,) = self.ask(query(board, title), at, **chosen)
        return found.value


def filled(expr: str, **chosen: str) -> str:
    """Macros and variables filled in as Grafana would; all of a variable that is not chosen."""
    given = {**MACROS, **chosen}
    return re.sub(r"\$(\w+)", lambda match: given.get(match[1], ".+"), expr)


def query(board: str, title: str, place: int = 0) -> str:
    """The expression of a panel."""
    (expr,) = [
        panel["targets"][place]["expr"] for panel in panels(load(board)) if panel["title"] == title and panel["targets"]
    ][:1]
    assert isinstance(expr, str)
    return expr


def record(running: Prometheus, directory: Path) -> None:
    """Make blocks of what the recording rules would have recorded."""
    span = ("--start", f"{BEGIN + 60:.0f}", "--end", f"{END:.0f}", "--eval-interval", "1m", "--url", running.url)
    command = [str(prometheus.tools().promtool), "tsdb", "create-blocks-from", "rules", *span]
    command += ["--output-dir", str(directory / "data"), str(WRITTEN)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An hour of three servers: one restarted in the middle, one with a hole, one invented."""
    prometheus.tools_or_skip()
    past, servers = live(PLANS, BEGIN, HOUR)
    directory = tmp_path_factory.mktemp("world")
    past.store(directory)
    flags = ["--storage.tsdb.retention.time=30y"]
    if WRITTEN.exists():
        with Prometheus(directory, [], flags=flags) as running:
            record(running, directory)
    with Prometheus(directory, [], flags=flags) as running:
        yield World(running, {server.plan.instance: server for server in servers})


@pytest.mark.accept(
    "6.2", "every panel and variable against a real Prometheus: no error, none empty, values within 2 %"
)
def test_no_panel_fails_or_is_empty(world: World, report: Any) -> None:
    """At the end, and along the hour for those that draw it."""
    failed, empty, asked = [], [], 0
    for name in NAMES:
        for panel in panels(load(name)):
            for target in panel["targets"]:
                asked += 1
                expr = filled(target["expr"])
                try:
                    found: list[Any] = (
                        world.prometheus.query(expr, END)
                        if target["instant"]
                        else world.prometheus.query_range(expr, BEGIN + 60, END, 60.0)
                    )
                except QueryFailed as error:
                    failed.append((name, panel["title"], str(error)))
                    continue
                if not found and (":" not in expr or WRITTEN.exists()):
                    empty.append((name, panel["title"], target["refId"]))
    assert [] == failed
    assert [] == empty
    report(f"{asked} queries of {sum(len(panels(load(name))) for name in NAMES)} panels: no error, none empty")


def test_every_variable_finds_something(world: World) -> None:
    """By the way that Grafana asks: the values of a label on the series of the time shown."""
    for name in NAMES:
        for variable, given in variables(load(name)).items():
            if given["type"] != "query":
                continue
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", given["query"]["query"])
            assert match
            found = world.prometheus._asked(
                f"label/{match[2]}/values", **{"match[]": filled(match[1]), "start": repr(BEGIN), "end": repr(END)}
            )
            assert found, (name, variable)


@pytest.mark.accept("6.2", "key values across a restart, by the closed form of what was used")
def test_key_values_are_the_truth(world: World, report: Any) -> None:
    """Energy, grams, power, price, by server and workload, with a daemon that was not there for half a minute."""
    real, model = world.servers[REAL], world.servers[MODEL]
    unseen = model.joules(*HOLE, BLIND_GPU)
    joules = real.joules(0, HOUR) + model.joules(0, HOUR) - unseen
    grams = _grams(real) + _grams(model) - unseen * intensity(BEGIN + HOLE[0]) / 3.6e6
    last = sum(server.joules(HOUR - 60, HOUR) for server in (real, model)) / 60
    truths = {
        ("overview", "Energy today"): joules / 3.6e6,
        ("overview", "CO₂e today"): grams,
        ("overview", "Power now"): last,
        ("overview", "As charges of a smartphone"): joules / 3.6e6 / 0.022,
        ("overview", "As return flights Paris–New York, per passenger"): grams / 1.77e6,  # noqa: RUF001 - two towns
        ("grid", "Price really paid"): grams / (joules / 3.6e6),
        ("grid", "Price now"): intensity(END),
        ("grid", "Cost of the energy"): 0.25 * joules / 3.6e6,
        ("server", "Energy"): joules / 3.6e6,
    }
    errors = {at[1]: world.figure(*at) / truth - 1 for at, truth in truths.items()}
    errors["the restarted server"] = (
        world.figure("server", "Energy", instance=REAL) / (real.joules(0, HOUR) / 3.6e6) - 1
    )
    errors |= _workloads(world, real)
    assert {} == {name: error for name, error in errors.items() if abs(error) > TOLERANCE}
    worst = max(errors, key=lambda name: abs(errors[name]))
    report(f"{len(errors)} figures, the worst {errors[worst]:+.2%}: {worst}")


def _grams(server: Server) -> float:
    quarters = (900.0 * n for n in range(4))
    return math.fsum(server.joules(t, t + 900) * intensity(BEGIN + t) / 3.6e6 for t in quarters)


def _workloads(world: World, real: Server) -> dict[str, float]:
    """A job of ten minutes that had two cards to itself, and a service that lived through the restart."""
    each = query("workload", "Energy by server and component, the ten largest")

    def on(instance: str, workload: str) -> float:
        found = world.ask(each, instance=instance, workload=workload)
        return next(result.value for result in found if result.labels["component"] == "gpu")

    model = world.servers[MODEL]
    return {
        "a job": on(MODEL, "4712") / (model.joules(600, 1200, "gpu") / 3.6e6) - 1,
        "a service across the restart": on(REAL, CHAT) / (real.joules(0, HOUR, CHAT_GPU) / 3.6e6) - 1,
    }


def test_everybody_together_used_what_the_devices_used(world: World) -> None:
    """The owners' table adds up to the figure at the top, in energy and in grams."""
    for place, title, kilo in ((1, "Energy today", 1.0), (2, "CO₂e today", 1000.0)):
        owners = world.ask(query("overview", "Owners", place))
        total = world.figure("overview", title)
        # Series that begin between two scrapes are extrapolated each by itself.
        assert kilo * sum(result.value for result in owners) == pytest.approx(total, rel=1e-4)
        assert {"pool", "pod", "slurm", "unit"} == {result.labels["kind"] for result in owners}


def test_invented_hardware_counts_only_when_it_is_chosen(world: World) -> None:
    """And then with the rest, since somebody wished so."""
    without = world.figure("overview", "Energy today")
    with_it = world.figure("overview", "Energy today", quality=CHOSEN + "|synthetic")
    demo = world.servers[DEMO].joules(0, HOUR) / 3.6e6

    assert with_it - without == pytest.approx(demo, rel=TOLERANCE)
    assert [] == world.ask(query("overview", "Energy today"), instance=DEMO)


def test_the_health_of_the_meter_is_told(world: World) -> None:
    """One restart, a minute without a meter on one card, books that balance."""
    assert 1.0 == world.figure("health", "Restarts")
    assert world.figure("health", "Not metered") == pytest.approx(HOLE[1] - HOLE[0], abs=SCRAPE)
    books = filled(query("health", "Error of the books over time"))
    (course,) = world.prometheus.query_range(books, BEGIN + 60, END, SCRAPE)
    assert max(value for _, value in course.points) < 1e-3
    assert 0.0 == world.figure("health", "Sources that fail")
    assert 0.0 == world.figure("health", "Meters up", BEGIN + DOWN + SCRAPE, instance=REAL)


def test_the_past_is_of_the_form_that_the_daemon_shows(world: World, tmp_path: Path) -> None:
    """Lest the history be of another daemon: a demonstration shows the same families with the same labels."""
    with Daemon(tmp_path, '[carbon]\nzone = "FR"\n', command=("demo",)) as daemon:
        metrics = daemon.until(lambda m: m.value("wattgram_source_samples_total", source="synthetic") > 2)
    shown: dict[str, set[str]] = {}
    for sample in metrics._samples:
        shown.setdefault(sample.name, set()).update(sample.labels)
    for name, labels in shown.items():
        (found, *_) = [result.labels for result in world.ask(f"topk(1, last_over_time({name}[1h]))")] or [{}]
        assert labels >= set(found) - {"__name__", "instance", "job"}, name
        assert found or name.startswith(("wattgram_provider_", "wattgram_grid_forecast")), name


def test_every_rule_is_taken_by_prometheus(world: World) -> None:
    """Recording and alerting rules, asked as they stand at the hour's end; what is recorded of raw series is there."""
    groups = (group for path in RULES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"])
    for rule in (rule for group in groups for rule in group["rules"]):
        found = world.prometheus.query(rule["expr"], END)
        is_of_raw_series = ":" not in rule["expr"] and "record" in rule
        assert found or not is_of_raw_series, rule["record"]


def test_every_expression_is_looked_at() -> None:
    """Lest the tests above run over nothing."""
    assert 80 < sum(1 for name in NAMES for _, expr in expressions(load(name)) if SELECTOR.search(expr))
