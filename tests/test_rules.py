"""What we ship for Prometheus: rules and alerts are valid, tested, documented, and ask only for what we show."""

from __future__ import annotations

import copy
import functools
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml  # type: ignore[import-untyped]

from standin import prometheus
from test_docs import DOCS, shown
from test_queries import FROM_SCRAPERS, SCRAPE, Story
from wattgram.snapshot import Snapshot

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "deploy" / "prometheus"
RULES = sorted(SHIPPED.glob("*.yml"))
TESTS = sorted((SHIPPED / "tests").glob("*.yml"))
SCRAPES = sorted((SHIPPED / "scrape").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
DOCUMENT = ROOT / "docs" / "prometheus.md"
SECTIONS = [
    "How the figure is made",
    "What to do",
    "When to silence it",
    "The query that shows it",
]

NAME = re.compile(r"(?<![\w:])(?:\w+:)?(?:wattgram|process)_[\w:]+")
SELECTOR = re.compile(r"([\w:]+)\{([^}]*)\}")
GROUPED = re.compile(r"\b(?:on|by|without|ignoring)\s*\(([^)]*)\)")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


# --- reading what is shipped ----------------------------------------------------------------------


@functools.cache
def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in loaded(path)["groups"] for rule in group["rules"]]


def records() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def cases() -> list[dict[str, Any]]:
    """Every case of every test file."""
    return [case for path in TESTS for case in loaded(path)["tests"]]


def questions() -> list[dict[str, Any]]:
    """Every moment at which a test looks at an alert."""
    return [question for case in cases() for question in case.get("alert_rule_test", ())]


def expressions() -> Iterator[tuple[str, str]]:
    """Each rule's name and expression, and each runbook's queries."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for path in sorted(RUNBOOKS.glob("*.md")):
        for query in re.findall(r"```promql\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            yield path.name, query


@pytest.fixture(scope="module")
def promtool() -> Path:
    return prometheus.tools_or_skip().promtool


def said(*command: object) -> str:
    """What a command prints; it has to leave with 0."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- promtool's judgement -------------------------------------------------------------------------


@pytest.mark.accept("6.4", "promtool check rules --lint=all is silent, test rules is green for every alert")
def test_the_rules_are_valid_and_their_tests_pass(promtool: Path, report: Any) -> None:
    """With the strictest lint, and every case of every file."""
    checked = said(promtool, "check", "rules", "--lint=all", "--lint-fatal", *RULES)
    tested = said(promtool, "test", "rules", *TESTS)

    assert "SUCCESS" in checked
    assert not re.search(r"(?i)warn|lint|duplicate", checked)
    assert tested.count("SUCCESS") == len(TESTS) > 0
    report(f"{len(records())} recording rules, {len(alerts())} alerts, {len(questions())} looks at them")


@pytest.mark.parametrize("path", SCRAPES, ids=lambda p: p.stem)
def test_each_way_to_scrape_is_a_valid_configuration(path: Path, promtool: Path, tmp_path: Path) -> None:
    """Builds of Prometheus without Kubernetes do not know its discovery: the rest of that file is judged."""
    config = copy.deepcopy(loaded(path))
    for job in config["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None):
            job["static_configs"] = [{"targets": ["a:14044"]}]
    config["rule_files"] = [str(path.parent / name) for name in config["rule_files"]]
    (tmp_path / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")

    assert "is valid" in said(promtool, "check", "config", tmp_path / "prometheus.yml")
    assert [job["job_name"] for job in config["scrape_configs"]] == ["wattgram"]
    assert 15 <= seconds(config["global"]["scrape_interval"]) <= 60


def test_the_way_with_tls_and_a_password_is_valid(promtool: Path, tmp_path: Path) -> None:
    """What stands commented out in the first example, with files that are there."""
    commented = re.findall(r"^  # ((?:- |  ).*)$", (SHIPPED / "scrape" / "static.yml").read_text(), re.MULTILINE)
    job = "\n".join(commented).replace("/etc/prometheus", str(tmp_path))
    (tmp_path / "wattgram.password").write_text("secret")
    trustme.CA().cert_pem.write_to_path(tmp_path / "wattgram-ca.pem")
    (tmp_path / "prometheus.yml").write_text(f"scrape_configs:\n{job}\n")

    assert "basic_auth" in job
    assert "is valid" in said(promtool, "check", "config", tmp_path / "prometheus.yml")


# --- completeness ---------------------------------------------------------------------------------


def test_every_alert_is_seen_firing_and_seen_silent() -> None:
    """A test for either."""
    firing = {q["alertname"] for q in questions() if q.get("exp_alerts")}
    silent = {q["alertname"] for q in questions() if not q.get("exp_alerts")}

    assert set(alerts()) == firing == silent


def test_every_recorded_value_is_tested() -> None:
    """Its name is in a question whose answer is a number."""
    asked = {name for case in cases() for q in case.get("promql_expr_test", ()) for name in NAME.findall(q["expr"])}

    assert records() == asked


def test_every_alert_says_what_a_person_needs() -> None:
    """A severity, a summary, a description, and the page that helps."""
    for name, alert in alerts().items():
        assert alert["labels"].keys() == {"severity"}, name
        assert alert["labels"]["severity"] in {"info", "warning", "critical"}, name
        assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}, name
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
        assert name.startswith("Wattgram")


def test_every_label_in_an_annotation_is_one_that_the_alert_has() -> None:
    """As promtool saw it fire: a label that is not there is an empty place in a sentence."""
    for question in questions():
        text = " ".join(alerts()[question["alertname"]]["annotations"].values())
        for fired in question.get("exp_alerts", ()):
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= fired["exp_labels"].keys(), question["alertname"]


def test_every_alert_has_its_runbook_and_no_other_is_there() -> None:
    """Each page with the same sections, and none empty."""
    pages = {path.stem: path.read_text(encoding="utf-8") for path in RUNBOOKS.glob("*.md")}

    assert set(alerts()) == pages.keys()
    for name, text in pages.items():
        title, *sections = re.split(r"^##? (.+)$", text, flags=re.MULTILINE)[1::2]
        assert name == title
        assert sections == SECTIONS
        assert all(part.strip() for part in re.split(r"^##? .+$", text, flags=re.MULTILINE)[1:]), name


def test_the_tables_of_the_document_are_the_files() -> None:
    """Every rule and every alert, with its severity and its duration."""
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in DOCUMENT.read_text().splitlines()]
    listed = {row[0].strip("`") for row in rows if len(row) == 2 and row[0].startswith("`")}
    told = {tuple(row[:3]) for row in rows if len(row) == 4 and row[0].startswith("[Wattgram")}

    assert records() == listed
    assert told == {
        (f"[{name}](runbooks/{name}.md)", alert["labels"]["severity"], alert.get("for", "at once"))
        for name, alert in alerts().items()
    }


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_every_recording_rule_in_a_document_exists(path: Path) -> None:
    """A name with colons, wherever it stands."""
    named = {name for name in NAME.findall(path.read_text(encoding="utf-8")) if ":" in name}

    assert named <= records()


def test_what_the_document_says_to_copy_and_to_write_is_a_configuration(promtool: Path, tmp_path: Path) -> None:
    """Its `cp`, and the lines for prometheus.yml, with budgets."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.search(r"^cp (\S+) /etc/prometheus/$", text, re.MULTILINE)
    assert found
    for path in (*ROOT.glob(found[1]), SHIPPED / "budget.rules.yml"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    lines = "".join(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    (tmp_path / "prometheus.yml").write_text(lines, encoding="utf-8")

    assert "4 rule files found" in said(promtool, "check", "config", tmp_path / "prometheus.yml")


def test_the_runbooks_become_links_as_the_document_says(tmp_path: Path) -> None:
    """Its command, on a copy: every address leads to a page."""
    copies = [tmp_path / path.name for path in RULES]
    for path, target in zip(RULES, copies, strict=True):
        target.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    found = re.search(r"^sed -i '([^']+)'", DOCUMENT.read_text(), re.MULTILINE)
    assert found

    said("sed", "-i", found[1], *copies)

    urls = [url for path in copies for url in re.findall(r"runbook_url: (\S+)", path.read_text())]
    base = "https://git.example.org/wattgram/blob/main/"
    assert len(urls) == len(alerts())
    assert all(url.startswith(base) and (ROOT / url.removeprefix(base)).is_file() for url in urls)


# --- what the expressions ask for -----------------------------------------------------------------


def seconds(duration: str) -> int:
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", duration))


def matchers(text: str) -> dict[str, str]:
    """What a selector says of each label, operator included."""
    return dict(re.findall(r'(\w+)((?:=~|!~|!=|=)"[^"]*")', text))


@pytest.mark.parametrize(("name", "expr"), list(expressions()))
def test_an_expression_asks_only_for_what_is_shown(name: str, expr: str) -> None:
    """Its metrics exist, with the labels that it selects and groups by."""
    families = {family: labels for family, (_, labels) in shown().items()}
    recorded = records()
    named = {metric for metric in NAME.findall(expr) if not metric.startswith("instance") or ":" in metric}

    assert {metric for metric in named if ":" in metric} <= recorded
    assert {metric for metric in named if ":" not in metric} <= families.keys()
    for metric, wanted in SELECTOR.findall(expr):
        if metric in families:
            assert matchers(wanted).keys() <= families[metric] | FROM_SCRAPERS, metric
    known = {label for metric in named & families.keys() for label in families[metric]} | FROM_SCRAPERS
    if not any(":" in metric for metric in named):
        grouped = {label.strip() for group in GROUPED.findall(expr) for label in group.split(",")}
        assert grouped <= known, name


@pytest.mark.parametrize(("name", "expr"), [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()])
def test_invented_hardware_is_left_out(name: str, expr: str) -> None:
    """Whatever has a quality is asked for with one that is not synthetic."""
    qualified = {family for family, (_, labels) in shown().items() if "quality" in labels}
    selected = [(metric, matchers(wanted)) for metric, wanted in SELECTOR.findall(expr) if metric in qualified]

    assert len(selected) == sum(metric in qualified for metric in NAME.findall(expr)), name
    assert all(wanted.get("quality") == '!="synthetic"' for _, wanted in selected), name


def test_every_window_holds_four_scrapes_of_a_minute() -> None:
    """A rate over less is a rate over two points, or none."""
    windows = [window for _, expr in expressions() for window in re.findall(r"\[(\d+\w+)\]", expr)]

    assert windows
    assert min(map(seconds, windows)) >= 4 * 60


def test_a_rate_is_taken_before_a_sum() -> None:
    """A sum of counters hides a reset of one of them: none is rated, and none of a recorded sum."""
    for name, expr in expressions():
        assert not re.search(r"(?:rate|increase)\s*\(\s*(?:sum|max|avg)", expr), name
        assert not re.search(r"(?:rate|increase)\s*\(\s*\w+:", expr), name


# --- our own series -------------------------------------------------------------------------------


@pytest.mark.usefixtures("promtool")
def test_a_restart_missed_scrapes_and_a_gpu_lost_for_seconds_alert_nobody() -> None:
    """Series of our own families, and every alert: none fires at any minute."""

    def spoil(snapshot: Snapshot) -> Snapshot:
        late = snapshot.at.mono - 1000.0 > 1800.0
        devices = (
            replace(d, events=(("lost", 1),), unmetered_seconds=20.0) if late and d.device.id == "GPU-0" else d
            for d in snapshot.devices
        )
        return replace(snapshot, devices=tuple(devices))

    story = Story.of("a", 75, restart_at=(200,), missed_at=(*range(60, 68), 199, 230), change=spoil)
    up = {"series": 'up{job="wattgram",instance="a"}', "values": f"1x{len(story.scrapes)}"}
    known = 'count(instance_component:wattgram_device_energy_joules:rate5m{instance="a"}) == 2'

    refused = prometheus.test_rules(
        {
            "rule_files": [path.name for path in RULES],
            "evaluation_interval": "1m",
            "tests": [
                {
                    "interval": f"{SCRAPE}s",
                    "input_series": [*story.series(), up],
                    "promql_expr_test": [
                        {"expr": 'max_over_time(ALERTS{alertstate="firing"}[74m])', "eval_time": "74m"},
                        {"expr": known, "eval_time": "74m", "exp_samples": [{"labels": "{}", "value": 2}]},
                    ],
                }
            ],
        },
        {path.name: path.read_text(encoding="utf-8") for path in RULES},
    )

    assert refused is None
