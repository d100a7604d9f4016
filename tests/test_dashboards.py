"""The dashboards are what their generator makes, and good ones: linted, laid out, linked, honest about what they sum.

The fifteen rules are those of Grafana's dashboard-linter, in our own words; that each of them can refuse is tested too.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]

from test_docs import shown

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "grafana"
NAMES = ("overview", "server", "workload", "grid", "health")
Board = dict[str, Any]
# Of Prometheus itself, about its targets.
SCRAPED = {"up": frozenset[str](), "scrape_duration_seconds": frozenset[str]()}
WHERE = frozenset({"job", "instance"})
# Of the recording rules, with what they keep; that the rules record them is tested.
RECORDED = {
    "instance_component:wattgram_device_energy_joules:rate5m": frozenset({"component"}),
    "instance_component:wattgram_device_emissions_grams:rate5m": frozenset({"component"}),
    "instance_owner_activity:wattgram_owner_energy_joules:rate5m": frozenset({"kind", "owner", "activity"}),
    "instance_owner_activity:wattgram_owner_emissions_grams:rate5m": frozenset({"kind", "owner", "activity"}),
    "instance_workload:wattgram_workload_energy_joules:sum": frozenset({"kind", "workload", "owner"}),
    "instance_workload:wattgram_workload_emissions_grams:sum": frozenset({"kind", "workload", "owner"}),
}
RECORDING = ROOT / "deploy" / "prometheus" / "wattgram.rules.yml"
BUILT_IN = {"__rate_interval", "__range", "__range_s", "__interval", "__url_time_range", "__data", "__all"}
SELECTOR = re.compile(r"((?<![\w:])(?:\w+:)?(?:wattgram|process|scrape)_[\w:]+|\bup\b)\s*(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
RANGED = re.compile(r"\b(\w+)\s*\(\s*([\w:]+)\{[^}]*\}\[([^]]*)\]")
# A counter that is not asked for its rate, and why.
RAW = {
    "max_over_time": "the last value of a workload's account is its whole life",
    "min_over_time": "the first value of a workload's account is what increase() misses",
    "resets": "whether the daemon restarted meanwhile",
    "sum by (job, instance, component)": "the books: one scrape's accounts by each other",
    "sum by (job, instance)": "the books: one scrape's accounts by each other",
}
# Panels that count what nobody chose, and why.
ALL_QUALITIES = {
    "Energy by quality, chosen or not": "it shows what is left out",
    "Error of books": "books balance whatever they count",
    "Error of the books over time": "books balance whatever they count",
}


def load(name: str) -> Board:
    """One committed dashboard."""
    board: Board = json.loads((FOLDER / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))
    return board


def panels(board: Board) -> list[Board]:
    """Every panel that shows something, also of closed rows."""
    flat = [inner for panel in board["panels"] for inner in (panel, *panel.get("panels", []))]
    return [panel for panel in flat if panel["type"] != "row"]


def expressions(board: Board) -> Iterator[tuple[str, str]]:
    """Every query and the title of its panel."""
    for panel in panels(board):
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def variables(board: Board) -> dict[str, Board]:
    """Variables by name."""
    return {variable["name"]: variable for variable in board["templating"]["list"]}


def known() -> dict[str, frozenset[str]]:
    """Every metric there is, with its labels."""
    shapes = {name: labels for name, (_, labels) in shown().items()} | RECORDED | SCRAPED
    return {name: labels | WHERE for name, labels in shapes.items()}


# --- the fifteen rules ----------------------------------------------------------------------------


def template_datasource(board: Board) -> Iterator[str]:
    """A choice of Prometheus."""
    found = variables(board).get("datasource", {})
    if (found.get("type"), found.get("query"), found.get("label")) != ("datasource", "prometheus", "Data source"):
        yield "there is no variable datasource"


def _chosen(board: Board, name: str) -> Iterator[str]:
    found = variables(board).get(name, {})
    if found.get("type") != "query" or found.get("datasource") != {"type": "prometheus", "uid": "${datasource}"}:
        yield f"{name} does not ask the data source"
    if found.get("label") != name.title() or not found.get("multi") or found.get("allValue") != ".+":
        yield f"{name} is not called so, takes not several, or all of them are not .+"


def template_job(board: Board) -> Iterator[str]:
    """A choice of jobs."""
    yield from _chosen(board, "job")


def template_instance(board: Board) -> Iterator[str]:
    """A choice of servers."""
    yield from _chosen(board, "instance")


def template_label_promql(board: Board) -> Iterator[str]:
    """Variables ask for labels that exist on metrics that exist."""
    for name, variable in variables(board).items():
        if variable["type"] != "query":
            continue
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        if not match or match[2] != name:
            yield f"{name} asks {variable['query']['query']}"
            continue
        ((metric, matchers),) = SELECTOR.findall(match[1])
        asked = {label for label, _, _ in MATCHER.findall(matchers)}
        if not {name, *asked} <= known().get(metric, frozenset()):
            yield f"{name} asks {metric} for what it does not have"


def template_on_time_change_reload(board: Board) -> Iterator[str]:
    """Variables find what was there in the time shown."""
    yield from (n for n, v in variables(board).items() if v["type"] == "query" and v["refresh"] != 2)


def panel_datasource(board: Board) -> Iterator[str]:
    """Nobody asks a data source of his own."""
    for panel in panels(board):
        for part in (panel, *panel.get("targets", [])):
            if part.get("datasource") != {"type": "prometheus", "uid": "${datasource}"}:
                yield panel["title"]


def panel_title_description(board: Board) -> Iterator[str]:
    """A title, and a sentence or more about how the figure is made."""
    yield from (p["title"] or "untitled" for p in panels(board) if not p["title"] or len(p.get("description", "")) < 20)


def panel_units(board: Board) -> Iterator[str]:
    """A unit that was meant."""
    yield from (p["title"] for p in panels(board) if not p["fieldConfig"]["defaults"].get("unit"))


def panel_no_targets(board: Board) -> Iterator[str]:
    """Something is asked."""
    yield from (p["title"] for p in panels(board) if not p.get("targets"))


def target_promql(board: Board) -> Iterator[str]:
    """Metrics and labels exist; brackets close. That Prometheus takes it is tested with a real one."""
    for title, expr in expressions(board):
        selectors = [(name, {label for label, _, _ in MATCHER.findall(text)}) for name, text in SELECTOR.findall(expr)]
        wrong = [name for name, labels in selectors if not labels <= known().get(name, frozenset({"?"}) - {"?"})]
        groups = {label.strip() for group in GROUPING.findall(expr) for label in group.split(",") if label.strip()}
        there = frozenset[str]().union(*(known().get(name, frozenset()) for name, _ in selectors))
        if (
            wrong
            or not selectors
            or groups - there
            or any(expr.count(a) != expr.count(b) for a, b in ("()", "[]", "{}"))
        ):
            yield f"{title}: {wrong or groups - there or expr}"


def target_rate_interval(board: Board) -> Iterator[str]:
    """Rates are of four scrapes at least; what is gained is of the time shown."""
    # What happens a few times an hour is counted by the hour.
    allowed = {"rate": {"$__rate_interval"}, "irate": {"$__rate_interval"}, "increase": {"$__range", "1h"}}
    for title, expr in expressions(board):
        for function, _, length in RANGED.findall(expr):
            if length not in allowed.get(function, {"$__range", "$__rate_interval"}):
                yield f"{title}: {function} over {length}"


def _asks(board: Board, matcher: str) -> Iterator[str]:
    for title, expr in expressions(board):
        yield from (f"{title}: {name}" for name, text in SELECTOR.findall(expr) if matcher not in text)


def target_job(board: Board) -> Iterator[str]:
    """Every selector is of the jobs chosen."""
    yield from _asks(board, 'job=~"$job"')


def target_instance(board: Board) -> Iterator[str]:
    """Every selector is of the servers chosen."""
    yield from _asks(board, 'instance=~"$instance"')


def target_counter_agg(board: Board) -> Iterator[str]:
    """Counters are asked for rates, but for those in RAW."""
    for title, expr in expressions(board):
        for match in SELECTOR.finditer(expr):
            before = expr[: match.start()].rstrip("(").rstrip()
            good = ("rate", "irate", "increase", *RAW)
            if match[1].endswith("_total") and not before.endswith(good):
                yield f"{title}: {match[1]}"


def uneditable_dashboard(board: Board) -> Iterator[str]:
    """What is changed is changed in the code."""
    if board["editable"]:
        yield "it can be edited"


Rule = Callable[[Board], Iterator[str]]
RULES: tuple[Rule, ...] = (
    template_datasource, template_job, template_instance, template_label_promql, template_on_time_change_reload,
    panel_datasource, panel_title_description, panel_units, panel_no_targets, target_promql, target_rate_interval,
    target_job, target_instance, target_counter_agg, uneditable_dashboard,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_it_is_linted(rule: Rule, name: str) -> None:
    """Silent, rule by rule."""
    assert [] == list(rule(load(name)))


def _variable(board: Board, name: str, **changes: Any) -> None:
    variables(board)[name].update(changes)


def _ask(board: Board, old: str, new: str) -> None:
    for panel in panels(board):
        for target in panel["targets"]:
            target["expr"] = target["expr"].replace(old, new)


SPOILT: dict[Rule, Callable[[Board], None]] = {
    template_datasource: lambda b: _variable(b, "datasource", query="loki"),
    template_job: lambda b: _variable(b, "job", multi=False),
    template_instance: lambda b: _variable(b, "instance", allValue=".*"),
    template_label_promql: lambda b: _variable(b, "job", query={"query": "label_values(wattgram_gone, job)"}),
    template_on_time_change_reload: lambda b: _variable(b, "instance", refresh=1),
    panel_datasource: lambda b: panels(b)[0]["targets"][0].update(datasource="default"),
    panel_title_description: lambda b: panels(b)[1].update(description=""),
    panel_units: lambda b: panels(b)[2]["fieldConfig"]["defaults"].update(unit=""),
    panel_no_targets: lambda b: panels(b)[0].update(targets=[]),
    target_promql: lambda b: _ask(b, "wattgram_device_energy_joules_total", "wattgram_energy_joules_total"),
    target_rate_interval: lambda b: _ask(b, "[$__rate_interval]", "[5m]"),
    target_job: lambda b: _ask(b, 'job=~"$job",', ""),
    target_instance: lambda b: _ask(b, ',instance=~"$instance"', ""),
    target_counter_agg: lambda b: _ask(b, "rate(", "deriv("),
    uneditable_dashboard: lambda b: b.update(editable=True),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_each_rule_can_refuse(rule: Rule) -> None:
    """A board that is spoilt in one way."""
    board = copy.deepcopy(load("overview"))
    SPOILT[rule](board)

    assert [] != list(rule(board))


# --- what we promise beyond them ------------------------------------------------------------------


def test_what_is_committed_is_what_the_generator_makes(tmp_path: Path) -> None:
    """Byte for byte; `python -m scripts.dashboards` writes them."""
    command = [sys.executable, "-m", "scripts.dashboards", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)

    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in (FOLDER / "dashboards").iterdir()}
    assert {f"{name}.json" for name in NAMES} == set(made)
    assert made == committed


@pytest.mark.parametrize("name", NAMES)
def test_invented_hardware_is_in_no_total_unless_it_is_chosen(name: str) -> None:
    """Whatever has a quality is asked for the ones chosen, and what is chosen at first is no invention."""
    board = load(name)
    mixed = [
        (title, metric)
        for title, expr in expressions(board)
        for metric, text in SELECTOR.findall(expr)
        if "quality" in known()[metric] and 'quality=~"$quality"' not in text and title not in ALL_QUALITIES
    ]
    chosen = variables(board).get("quality", {"current": {"value": ["measured"]}})["current"]["value"]
    assert [] == mixed
    assert "synthetic" not in chosen


@pytest.mark.parametrize("name", NAMES)
def test_unknown_is_never_shown_as_nothing(name: str) -> None:
    """No query makes up a zero, and every panel says why it may be empty."""
    board = load(name)
    assert [] == [title for title, expr in expressions(board) if "vector(" in expr or "or 0" in expr]
    assert [] == [p["title"] for p in panels(board) if not p["fieldConfig"]["defaults"].get("noValue")]


@pytest.mark.parametrize("name", NAMES)
def test_panels_stand_in_the_grid_with_numbers_of_their_own(name: str) -> None:
    """Within 24 columns, none on another."""
    board = load(name)
    closed = [panel["panels"] for panel in board["panels"] if panel["type"] == "row" and panel["collapsed"]]
    for together in (board["panels"], *closed):  # what stands in a closed row pushes the rest down when it is opened
        taken: dict[tuple[int, int], str] = {}
        for panel in together:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in _rows(place)):
                assert cell not in taken, (panel["title"], taken.get(cell))
                taken[cell] = panel["title"]
    numbers = [panel["id"] for together in (board["panels"], *closed) for panel in together]
    assert len(set(numbers)) == len(numbers)


def _rows(place: dict[str, int]) -> range:
    return range(place["y"], place["y"] + place["h"])


@pytest.mark.parametrize("name", NAMES)
def test_links_keep_the_time_and_lead_to_variables_that_exist(name: str) -> None:
    """From board to board, and from rows of tables."""
    board = load(name)
    link, *demo = board["links"]
    assert link["includeVars"]
    assert all(link["keepTime"] for link in board["links"])
    own = f"/d/wattgram-{name}?var-quality=synthetic"  # the way to see a demonstration: nothing else is shown then
    assert [own] * ("quality" in variables(board)) == [link["url"] for link in demo]
    urls = re.findall(r'"url": "(/d/[^"]+)"', json.dumps(board["panels"]))
    for url in urls:
        target = load(url.split("?")[0].removeprefix("/d/wattgram-"))
        assert "${__url_time_range}" in url
        kept = set(re.findall(r"\$\{(\w+):queryparam\}", url))
        set_to = set(re.findall(r"&var-(\w+)=", url))
        assert {"datasource", "job"} <= kept <= set(variables(board))
        assert kept | set_to <= set(variables(target)), url
    assert urls or name in {"server", "grid"}


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_that_is_used_exists_and_none_is_idle(name: str) -> None:
    """Also in titles of rows."""
    board = load(name)
    text = json.dumps([board["panels"], [v.get("query") for v in board["templating"]["list"]]])
    used = set(re.findall(r"\$\{?(\w+)", text)) - BUILT_IN
    assert used == set(variables(board))


def test_comparisons_are_few_closed_and_sourced() -> None:
    """At most two on a view, opened by who wants them, each with its source and year, and never a tree."""
    board = load("overview")
    rows = {panel["title"]: panel for panel in board["panels"] if panel["type"] == "row" and panel["collapsed"]}
    ((_, row),) = ((title, row) for title, row in rows.items() if "otherwise" in title)
    energy, carbon = row["panels"]
    assert re.search(r"joules.* / 3\.6e6 / 0\.022$", energy["targets"][0]["expr"])
    assert re.search(r"grams.* / 1000 / 1770$", carbon["targets"][0]["expr"])
    for panel in (energy, carbon):
        assert re.search(r"\((?:US EPA|ADEME)[^)]*20\d\d\)", panel["description"])
    everything = "".join(json.dumps(load(name)) for name in NAMES).lower()
    assert not re.search(r"\btrees?\b", everything)


def test_files_for_grafana_say_what_it_expects() -> None:
    """A data source and a folder, in the form of its version 1."""
    sources = yaml.safe_load((FOLDER / "provisioning/datasources/wattgram.yml").read_text())
    providers = yaml.safe_load((FOLDER / "provisioning/dashboards/wattgram.yml").read_text())
    (source,), (provider,) = sources["datasources"], providers["providers"]
    assert (1, 1) == (sources["apiVersion"], providers["apiVersion"])
    assert {"name", "uid", "type", "url", "access"} <= set(source)
    assert "prometheus" == source["type"]
    assert re.fullmatch(r"\d+s", source["jsonData"]["timeInterval"])
    assert ("file", False) == (provider["type"], provider["allowUiUpdates"])
    assert provider["options"]["path"].startswith("/")


def test_what_is_taken_from_recording_rules_is_recorded() -> None:
    """Each by its name, and each that is promised is used."""
    used = {name for board in NAMES for _, expr in expressions(load(board)) for name, _ in SELECTOR.findall(expr)}
    assert set(RECORDED) == {name for name in used if ":" in name}
    if RECORDING.exists():
        recorded = {
            rule.get("record") for group in yaml.safe_load(RECORDING.read_text())["groups"] for rule in group["rules"]
        }
        assert set(RECORDED) <= recorded
