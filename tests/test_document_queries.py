"""Every query that a document offers is asked of Prometheus, and answers what is true."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from standin import prometheus
from test_docs import shown
from test_queries import FROM_SCRAPERS
from test_rules import GROUPED, SELECTOR, matchers

DOCS = Path(__file__).resolve().parent.parent / "docs"
QUERIES = DOCS / "queries.md"
PAGES = [DOCS / name for name in ("first-ten-minutes.md", "how-a-gram-is-made.md", "queries.md", "faq.md")]

MINUTES, HALF, PRICE_THEN, PRICE_NOW = 1560, 780, 300.0, 200.0
JOB = range(60, 660)  # the minutes of job 4711 on GPU-0
TOKENS = 100.0  # a second
TITLE = re.compile(r"### ([^\n]+)\n+```promql\n(.*?)```", re.DOTALL)
METRIC = re.compile(r"(?<![\w:])(?:wattgram|process)_\w+")
DAY = range(MINUTES - 1440, MINUTES)
EVER = range(MINUTES)


def watts(minute: int) -> dict[tuple[str, str, str, str, str, str, str], float]:
    """The truth: server, component, device, kind, workload, owner, activity and their watts in one minute."""
    busy = minute in JOB
    job = {
        ("gpu-01", "gpu", "GPU-0", "slurm", "4711", "ada", "active"): 400.0 * busy,
        ("gpu-01", "gpu", "GPU-0", "slurm", "4711", "ada", "idle"): 100.0 * busy,
        ("gpu-01", "gpu", "GPU-0", "pool", "", "idle", "idle"): 100.0 * (not busy),
    }
    return job | {
        ("gpu-01", "gpu", "GPU-1", "unit", "vllm.service", "bob", "active"): 200.0,
        ("gpu-01", "gpu", "GPU-1", "unit", "vllm.service", "bob", "idle"): 100.0,
        ("gpu-01", "cpu", "package-0", "pool", "", "system", "active"): 100.0,
        ("gpu-02", "gpu", "GPU-2", "pool", "", "idle", "idle"): 50.0,
        ("gpu-02", "gpu", "GPU-2", "pool", "", "unattributed", "active"): 50.0,
    }


def price(minute: int) -> float:
    return PRICE_THEN if minute < HALF else PRICE_NOW


def used(minutes: range, **wanted: str) -> tuple[float, float]:
    """The true kWh and kg of what has these labels."""
    names = ("instance", "component", "device", "kind", "workload", "owner", "activity")
    kwh = kilograms = 0.0
    for minute in minutes:
        power = sum(
            w for key, w in watts(minute).items() if wanted.items() <= dict(zip(names, key, strict=True)).items()
        )
        kwh += power / 60e3
        kilograms += power / 60e3 * price(minute) / 1000
    return kwh, kilograms


def accounts() -> dict[str, list[float | None]]:
    """Every counter of these two servers, minute by minute; a job's is gone 5 minutes after its end."""
    series: dict[str, list[float | None]] = {}

    def add(name: str, labels: str, minute: int, value: float) -> None:
        values = series.setdefault(f'{name}{{{labels},job="wattgram"}}', [0.0] * (MINUTES + 1))
        values[minute + 1] = (values[minute + 1] or 0.0) + value

    for minute in EVER:
        basis = "live" if minute < HALF else "held"
        for (instance, component, device, kind, workload, owner, activity), power in watts(minute).items():
            place = f'instance="{instance}",component="{component}"'
            quality = 'quality="measured"'
            whose = f'kind="{kind}",owner="{owner}",activity="{activity}",{quality}'
            views = {
                "device": f'{place},device="{device}",{quality}',
                "owner": f"{place},{whose}",
                "pricing": f'instance="{instance}",{quality},basis="{basis}",factor="lifecycle"',
            }
            if workload:
                views["workload"] = f'{place},device="{device}",workload="{workload}",{whose}'
            for view, labels in views.items():
                add(f"wattgram_{view}_energy_joules_total", labels, minute, power * 60)
                add(f"wattgram_{view}_emissions_grams_total", labels, minute, power * 60 / 3.6e6 * price(minute))
        add("vllm:generation_tokens_total", 'instance="gpu-01:8000"', minute, TOKENS * 60)
        add("wattgram_gpu_throttled_seconds_total", 'instance="gpu-01",device="GPU-1",reason="power_cap"', minute, 12.0)
        add("wattgram_device_unmetered_seconds_total", 'instance="gpu-02",component="gpu",device="GPU-2"', minute, 3.0)
    for name, values in series.items():
        total = 0.0
        for minute, value in enumerate(values):
            total += value or 0.0
            alive = "4711" not in name or JOB.start < minute <= JOB.stop + 5
            values[minute] = total if alive else None
    return series


def series() -> Iterator[dict[str, str]]:
    """As promtool takes them."""
    for name, values in accounts().items():
        yield {"series": name, "values": " ".join("_" if v is None else repr(v) for v in values)}
    gauges = {
        'wattgram_device_info{instance="%s",component="gpu",device="%s",model="%s"}': (
            ("gpu-01", "GPU-0", "H100", 1),
            ("gpu-01", "GPU-1", "H100", 1),
            ("gpu-02", "GPU-2", "L40S", 1),
        ),
        'wattgram_device_idle_power_watts{instance="%s",component="gpu",device="%s"}': (
            ("gpu-01", "GPU-0", 100),
            ("gpu-01", "GPU-1", 100),
        ),
        'wattgram_gpu_utilization_ratio{instance="%s",device="%s"}': (("gpu-01", "GPU-1", 0.5),),
        'wattgram_electricity_price_per_kwh{instance="%s",currency="EUR"}': (("gpu-01", 0.25), ("gpu-02", 0.2)),
        'wattgram_pue_ratio{instance="%s"}': (("gpu-01", 1.2), ("gpu-02", 1.5)),
        'wattgram_market_intensity_grams_per_kwh{instance="%s"}': (("gpu-01", 50), ("gpu-02", 50)),
        'wattgram_grid_forecast_grams_per_kwh{instance="gpu-01",signal="average",hours_ahead="%s"}': (
            *((f"{hour:02d}", 100 + hour) for hour in range(1, 10)),
        ),
    }
    for form, rows in gauges.items():
        for *labels, value in rows:
            yield {"series": form % tuple(labels), "values": f"{value}x{MINUTES}"}
    # 1440 looks of a minute, whether or not a window holds its own first moment: later ones of Prometheus do not.
    yield {"series": 'wattgram_gpu_utilization_ratio{instance="gpu-02",device="GPU-2"}', "values": "_x121 0x1439"}


def answers() -> dict[str, list[tuple[dict[str, str], float]]]:
    """What each query of the document must answer, by its title."""
    one, two, ada, bob = {"instance": "gpu-01"}, {"instance": "gpu-02"}, {"owner": "ada"}, {"owner": "bob"}
    job, his, hers = {"workload": "4711"}, {"kind": "unit", **bob}, {"kind": "slurm", **ada}
    life, month = used(EVER, **job), (used(EVER, **ada), used(EVER, **bob))
    day = (used(DAY, **one), used(DAY, **two))
    held = {"component": "gpu", "activity": "idle"}
    last_day = used(DAY)[0]
    now = sum(watts(MINUTES - 1).values()) / 1000
    return {
        "Watts per server": [(one, 500.0), (two, 100.0)],
        "Watts per model of GPU": [({"model": "H100"}, 400.0), ({"model": "L40S"}, 100.0)],
        "Watts per owner": [(hers, 0.0), (his, 300.0)],
        "Kilograms per hour, at this moment's pace": [({}, now * PRICE_NOW / 1000)],
        "Its whole life, kWh": [(job, life[0])],
        "Its whole life, kg of CO₂e": [(job, life[1])],
        "The intensity it really had, g/kWh": [(job, life[1] / life[0] * 1000)],
        "The part of its GPU energy that only kept the GPU": [(job, 0.2)],
        "The ten largest of the week, kWh": [
            ({**his, "workload": "vllm.service"}, month[1][0]),
            ({**hers, **job}, life[0]),
        ],
        "kWh per owner and month": [(hers, month[0][0]), (his, month[1][0])],
        "kg of CO₂e per owner and month": [(hers, month[0][1]), (his, month[1][1])],
        "Money per owner and month": [
            ({**hers, "currency": "EUR"}, month[0][0] / 4),
            ({**his, "currency": "EUR"}, month[1][0] / 4),
        ],
        "Money per server and day": [
            ({**one, "currency": "EUR"}, day[0][0] * 0.25),
            ({**two, "currency": "EUR"}, day[1][0] * 0.2),
        ],
        "With cooling and losses (PUE), kg per day": [(one, day[0][1] * 1.2), (two, day[1][1] * 1.5)],
        "Market-based, kg per day": [(one, day[0][0] * 0.05), (two, day[1][0] * 0.05)],
        "Idle part of each owner's GPU energy": [(hers, 0.2), (his, 1 / 3)],
        "kWh of GPUs that nobody held": [
            (one, used(DAY, owner="idle", **one)[0]),
            (two, used(DAY, owner="idle", **two)[0]),
        ],
        "GPU-hours in which hardly anything ran": [(one, 0.0), (two, 24.0)],
        "GPU-hours that each owner kept": [
            (hers, used(EVER, **ada, **held)[0] * 10),
            (his, used(EVER, **bob, **held)[0] * 10),
        ],
        "Seconds at the power limit, part of the time": [({**one, "device": "GPU-1"}, 0.2)],
        "Joules per token": [({}, 300.0 / TOKENS)],
        "Grams per million tokens": [({}, 300.0 / TOKENS * 1e6 / 3.6e6 * PRICE_NOW)],
        "Intensity of what was used, g/kWh": [(one, PRICE_NOW), (two, PRICE_NOW)],
        "The three best hours of the next 48": [
            ({**one, "signal": "average", "hours_ahead": f"0{hour}"}, 100.0 + hour) for hour in (1, 2, 3)
        ],
        "Part of the energy by how its price was known": [
            ({"basis": "live"}, used(range(DAY.start, HALF))[0] / last_day),
            ({"basis": "held"}, used(range(HALF, MINUTES))[0] / last_day),
        ],
        "Part of the time that was not metered": [({**two, "component": "gpu"}, 0.05)],
        "Part of the energy that is nobody's": [(two, 0.5)],
        "Books that do not balance": [],
    }


def rounded(value: float, step: float) -> float:
    """As PromQL rounds to a step below 1."""
    return math.floor(value * round(1 / step) + 0.5) / round(1 / step)


def asked(
    query: str, *expected: tuple[dict[str, str], float], minutes: int = MINUTES, step: float = 1e-6
) -> dict[str, Any]:
    """A question to promtool, and its answer to such a step."""
    samples = [
        {"labels": "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}", "value": rounded(value, step)}
        for labels, value in expected
    ]
    return {"expr": f"round({query}, {step})", "eval_time": f"{minutes}m", "exp_samples": samples}


@pytest.fixture
def _promtool() -> None:
    prometheus.tools_or_skip()


@pytest.mark.usefixtures("_promtool")
def test_each_query_of_the_document_tells_the_truth() -> None:
    """Two servers, three GPUs, one job that is over, one service, 26 hours; every query, and none without an answer."""
    queries = dict(TITLE.findall(QUERIES.read_text()))
    known = answers()

    assert list(known) == list(queries)
    questions = [asked(query, *known[title]) for title, query in queries.items()]
    test = {"interval": "1m", "input_series": list(series()), "promql_expr_test": questions}
    assert prometheus.test_rules({"tests": [test]}) is None


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_query_in_a_document_asks_only_for_what_is_shown(path: Path) -> None:
    """Its metrics exist, with the labels that it selects and groups by; no sum is rated."""
    known = {family: labels for family, (_, labels) in shown().items()}
    for query in re.findall(r"```promql\n(.*?)```", path.read_text(), re.DOTALL):
        named = set(METRIC.findall(query))

        assert named <= known.keys(), query
        for metric, wanted in SELECTOR.findall(query):
            assert matchers(wanted).keys() <= known.get(metric, frozenset()) | FROM_SCRAPERS, query
        labels = {label for metric in named for label in known[metric]} | FROM_SCRAPERS
        assert {name.strip() for group in GROUPED.findall(query) for name in group.split(",")} <= labels, query
        assert not re.search(r"(?:rate|increase)\s*\(\s*(?:sum|max|avg)", query)
