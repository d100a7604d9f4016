"""Real programs are used as they are: these tests show that they start, answer and complain."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from standin import prometheus
from standin.grid import Recorder
from standin.prometheus import Prometheus, QueryFailed, ToolsMissing, check_metrics, check_rules, test_rules

EXPOSITION = """\
# HELP wattgram_device_energy_joules_total Energy.
# TYPE wattgram_device_energy_joules_total counter
wattgram_device_energy_joules_total{device="package-0"} 12.5
wattgram_device_energy_joules_total{device="dram-0"} 2.5
"""
RULES = """\
groups:
  - name: example
    rules:
      - record: instance:energy:rate1m
        expr: sum by (instance) (rate(wattgram_device_energy_joules_total[1m]))
"""


@pytest.fixture(autouse=True)
def _tools() -> None:
    prometheus.tools_or_skip()


@pytest.fixture(scope="module")
def target() -> Iterator[Recorder]:
    with Recorder(EXPOSITION.encode(), "text/plain; version=0.0.4") as running:
        yield running


@pytest.fixture(scope="module")
def running(target: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    prometheus.tools_or_skip()
    with Prometheus(tmp_path_factory.mktemp("prometheus"), [f"127.0.0.1:{target.port}"], rules=RULES) as server:
        yield server


def test_a_target_is_scraped_and_can_be_asked_for(running: Prometheus) -> None:
    """Labels and values come back as they were shown."""
    results = running.wait_for("wattgram_device_energy_joules_total")

    assert [
        ("dram-0", 2.5),
        ("package-0", 12.5),
    ] == sorted((result.labels["device"], result.value) for result in results)
    assert {"wattgram"} == {result.labels["job"] for result in results}


def test_a_query_may_look_back(running: Prometheus) -> None:
    """To before there was anything."""
    (result,) = running.wait_for("sum(wattgram_device_energy_joules_total)")

    assert 15.0 == running.query("sum(wattgram_device_energy_joules_total)", at=result.at)[0].value
    assert [] == running.query("wattgram_device_energy_joules_total", at=result.at - 3600)


def test_a_range_gives_points(running: Prometheus) -> None:
    """Here one, at the moment asked for."""
    (result,) = running.wait_for("sum(wattgram_device_energy_joules_total)")

    (series,) = running.query_range("sum(wattgram_device_energy_joules_total)", result.at, result.at, 1.0)

    ((at, value),) = series.points
    assert (round(at, 2), value) == (round(result.at, 2), 15.0)


def test_rules_are_evaluated(running: Prometheus) -> None:
    """A constant counter has a rate of zero."""
    assert 0.0 == running.wait_for("instance:energy:rate1m")[0].value


def test_scalars_and_odd_numbers_are_read(running: Prometheus) -> None:
    """As floats."""
    assert running.query("1/0")[0].value == math.inf
    assert math.isnan(running.query("0/0")[0].value)


def test_a_bad_expression_is_said_so(running: Prometheus) -> None:
    """With what Prometheus says of it."""
    with pytest.raises(QueryFailed, match="parse error"):
        running.query("sum(")


def test_waiting_in_vain_names_the_targets(running: Prometheus) -> None:
    """Since that is where one looks next."""
    running.wait_for("up")

    with pytest.raises(AssertionError, match=r"no result of nothing_such.* is up \(no error\)"):
        running.wait_for("nothing_such", deadline=0.1)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """With its log."""
    with pytest.raises(RuntimeError, match="unknown long flag"):
        Prometheus(tmp_path, [], flags=["--nothing-such"]).start()


def test_metrics_are_linted() -> None:
    """A good exposition is met with silence."""
    assert [] == check_metrics(EXPOSITION)
    assert any("joules_total" in line for line in check_metrics(EXPOSITION.replace("counter", "gauge")))
    assert check_metrics("not { an exposition\n") != []


def test_rule_files_are_checked() -> None:
    """Good ones are met with None."""
    assert check_rules(RULES) is None
    assert "parse error" in (check_rules(RULES.replace("sum by", "sum bye")) or "")


def rate_test(expected: float) -> dict[str, object]:
    """A counter of 2 W, and what somebody expects of it."""
    sample = {"labels": 'instance:energy:rate1m{instance="a"}', "value": expected}
    series = {"series": 'wattgram_device_energy_joules_total{instance="a"}', "values": "0+30x20"}
    question = {"expr": "instance:energy:rate1m", "eval_time": "3m", "exp_samples": [sample]}
    return {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": [series], "promql_expr_test": [question]}],
    }


def test_rules_that_pass_are_met_with_none() -> None:
    """By promtool, on series typed by hand."""
    assert test_rules(rate_test(2.0), {"rules.yml": RULES}) is None


def test_rules_that_fail_show_what_came_instead() -> None:
    """In promtool's own words."""
    assert "FAILED" in (test_rules(rate_test(3.0), {"rules.yml": RULES}) or "")


def test_a_cache_without_the_programs_is_named(tmp_path: Path) -> None:
    """Rather than failing later with a missing file."""
    with pytest.raises(ToolsMissing, match="does not hold"):
        prometheus._cached(tmp_path)
