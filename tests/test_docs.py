"""The documents say what the code does: every metric, key, hop and command in them exists, and the other way round."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from wattgram import config, model, snapshot
from wattgram_exporters.families import families

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
HOP = re.compile(r"`([\w/]+\.py):(\d+)` `([^`]+)`")
METRIC = re.compile(r"(?<!:)\b(?:wattgram|process)_[a-z0-9_]+")  # not the middle of a recording rule: test_rules.py
# Words in the documents that look like a metric and are none.
NO_METRICS = {"wattgram_exporters"}


def full_snapshot() -> snapshot.Snapshot:
    """A snapshot in which every family has something to say."""
    at = model.Instant(10.0, 1000.0)
    device = model.Device("gpu", "GPU-1", name="card", index="0", events=("reset",), uncertainty=(("counter", 0.05),))
    state = model.State(0.5, 1, 2, 40.0, 700.0, (("power_cap", 1.0),))
    totals = snapshot.DeviceTotals(
        device,
        "nvml",
        1.0,
        "counter",
        "570",
        at,
        100.0,
        state,
        1,
        1,
        0.0,
        (("reset", 0),),
        (("power_cap", 0.0),),
        1.0,
        60.0,
    )
    intensity = model.Intensity("FR", "annual", 0.0, 2000.0, 44.0, "annual", "lifecycle")
    cost = model.Cost(1.0, 2, 3, 4, 5, 6.0)
    health = model.Health("nvml", "source", 1.0, up=True, turns=1, last_success=at, child=cost)
    return snapshot.Snapshot(
        at=at,
        started=at,
        version="0",
        python="3",
        devices=(totals,),
        workloads=(
            snapshot.WorkloadTotals(
                model.Workload("slurm", "1", "ada"),
                "name",
                "account",
                at,
                at,
                ((snapshot.PartKey("gpu", "GPU-1", "active", "measured"), snapshot.Totals(1, 1)),),
                ((("live", "lifecycle"), snapshot.Totals(1, 1)),),
            ),
        ),
        owners=((snapshot.OwnerKey("pool", "unattributed", "gpu", "active", "measured"), snapshot.Totals(1, 1)),),
        pricing=((snapshot.PriceKey("measured", "annual", "lifecycle"), snapshot.Totals(1, 1)),),
        grid=snapshot.Grid("FR", "lifecycle", intensity, (intensity,), ((1, intensity),)),
        health=(health, replace(health, kind="provider")),
        constants=snapshot.Constants(1.1, 1.0, 0.2, "EUR"),
        reload=snapshot.Reload(successful=True, at=0.0),
        cost=cost,
    )


def shown() -> dict[str, tuple[str, frozenset[str]]]:
    """Every family that the code can show: type and label names."""
    suffix = {"counter": "_total", "info": "_info"}
    return {
        family.name + suffix.get(family.type, ""): (family.type, frozenset(family.samples[0].labels))
        for family in families(full_snapshot())
    }


def documented() -> Iterator[tuple[str, str, frozenset[str]]]:
    """The rows of docs/metrics.md."""
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].startswith("`"):
            yield cells[0].strip("`"), cells[1], frozenset(filter(None, re.split(r",\s*", cells[2])))


def test_every_family_is_documented_with_its_type_and_labels_and_no_other() -> None:
    """The table of metrics and the code are one."""
    assert shown() == {name: (kind, labels) for name, kind, labels in documented()}


def test_every_metric_named_anywhere_exists() -> None:
    """A query copied from any document finds something."""
    known = set(shown()) | NO_METRICS
    named = {
        (path.name, name)
        for path in DOCS
        for name in METRIC.findall(path.read_text())
        if not name.endswith("_") and name not in known
    }
    assert set() == named


def test_every_key_is_documented_with_its_default_and_no_other() -> None:
    """The table of keys and the code are one."""
    rows = re.findall(
        r"^\| `([\w.]+)` \| (?:`([^`]+)`|(unset)) \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE
    )
    in_documents = {key: default or unset for key, default, unset in rows}

    in_code = {key: value for key, value, _ in config.effective(config.load(None, {}, {}))}

    assert in_code == in_documents


def test_the_road_of_one_sample_stands_where_the_document_says(request: pytest.FixtureRequest) -> None:
    """Each hop's line holds the words quoted for it; `--update` rewrites the numbers."""
    path = ROOT / "docs" / "architecture.md"
    text = path.read_text()

    def right(match: re.Match[str]) -> str:
        file, _, words = match.groups()
        lines = (ROOT / file).read_text().splitlines()
        found = [number for number, line in enumerate(lines, 1) if words in line]
        assert found, f"{file} no longer holds {words!r}"
        return f"`{file}:{found[0]}` `{words}`"

    corrected = HOP.sub(right, text)
    if request.config.getoption("--update"):
        path.write_text(corrected)
    assert len(HOP.findall(text)) >= 16
    assert corrected == path.read_text()


def test_every_link_between_documents_leads_somewhere() -> None:
    """Dead links are found here, not by a reader."""
    dead = [
        (path.name, target)
        for path in DOCS
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text())
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert [] == dead


def test_every_module_is_in_the_tour_of_rooms() -> None:
    """A file that nobody can find from the document is in the wrong room or undocumented."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = text[text.index("## Rooms") :]
    modules = [p for root in ("agent/wattgram", "exporters/wattgram_exporters") for p in (ROOT / root).rglob("*.py")]
    missing = [
        p.name for p in modules if p.name != "__init__.py" and p.stem not in rooms and p.parent.name not in rooms
    ]
    assert [] == missing


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_documents_name_commands_that_exist(path: Path) -> None:
    """`wattgram WORD` in a document is a command."""
    commands = {
        "run",
        "demo",
        "once",
        "doctor",
        "intensity",
        "config",
        "check-config",
        "pause",
        "resume",
        "version",
        "measure",
        "top",
        "healthcheck",
        "--version",
    }
    named = set(re.findall(r"`(?:\$ )?wattgram ([a-z][\w-]*|--version)", path.read_text()))
    assert set() == named - commands
