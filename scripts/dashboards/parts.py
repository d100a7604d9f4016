"""What dashboards are made of: targets, panels, rows; classic JSON for Grafana."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
# Who is asked: every selector begins with these.
WHERE = 'job=~"$job",instance=~"$instance"'
# What is counted; invented hardware only if somebody chooses it.
WHAT = f'{WHERE},quality=~"$quality"'
GOOD, WARN, BAD, CALM = "green", "orange", "red", "blue"
PER_KWH, KWH, KG = "suffix:g/kWh", "suffix:kWh", "suffix:kg"  # the last two keep a column comparable


@dataclass(frozen=True)
class Target:
    """One query; `instant` for a figure or a table, else a range."""

    expr: str
    legend: str = ""
    instant: bool = False
    table: bool = False

    def json(self, ref: str) -> Json:
        """As Grafana has it."""
        return {
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": self.expr,
            "format": "table" if self.table else "time_series",
            "instant": self.instant,
            "legendFormat": self.legend or "__auto",
            "range": not self.instant,
            "refId": ref,
        }


@dataclass(frozen=True)
class Panel:
    """One panel; `says` is its description, `none` what stands where there is no figure."""

    kind: str
    title: str
    says: str
    targets: Sequence[Target]
    unit: str
    width: int
    height: int
    none: str
    options: Json
    defaults: Json = field(default_factory=dict)
    custom: Json = field(default_factory=dict)
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()
    today: bool = False

    def json(self, number: int, x: int, y: int) -> Json:
        """As Grafana has it, at a place of the grid."""
        defaults = {"unit": self.unit, "noValue": self.none, **self.defaults, "custom": self.custom}
        panel = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.says,
            "datasource": SOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "fieldConfig": {"defaults": defaults, "overrides": list(self.overrides)},
            "options": self.options,
            "targets": [target.json("ABCDEFGHIJ"[place]) for place, target in enumerate(self.targets)],
            "transformations": list(self.transformations),
        }
        return panel | ({"timeFrom": "now/d"} if self.today else {})


@dataclass(frozen=True)
class Row:
    """Panels under a headline; laid from left to right, broken where the grid ends."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


def steps(*pairs: tuple[float | None, str]) -> Json:
    """Thresholds: from each value on, a colour."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in pairs]}


def by_name(name: str, **properties: Any) -> Json:
    """An override for one field; in names, two underscores stand for a dot."""
    return _override("byName", name, properties)


def by_pattern(pattern: str, **properties: Any) -> Json:
    """An override for fields whose name matches."""
    return _override("byRegexp", pattern, properties)


def _override(how: str, which: str, properties: Mapping[str, Any]) -> Json:
    listed = [{"id": name.replace("__", "."), "value": value} for name, value in properties.items()]
    return {"matcher": {"id": how, "options": which}, "properties": listed}


# What nobody used is grey wherever it stands.
IDLE_IS_GREY = (
    by_pattern("gpu idle$|^pool idle$|^idle$", color={"mode": "fixed", "fixedColor": "#7b7f87"}),
    by_pattern("cpu idle$", color={"mode": "fixed", "fixedColor": "#969aa2"}),
    by_pattern("dram idle$", color={"mode": "fixed", "fixedColor": "#b1b5bd"}),
)


# --- kinds of panels ------------------------------------------------------------------------------


def stat(
    title: str,
    says: str,
    expr: str,
    unit: str,
    *,
    width: int = 4,
    height: int = 5,
    none: str = "no reading",
    legend: str = "",
    today: bool = False,
    text: str = "auto",
    colors: Json | None = None,
    decimals: int | None = None,
    mappings: Sequence[Json] = (),
    links: Sequence[Json] = (),
) -> Panel:
    """One figure."""
    defaults: Json = {"thresholds": colors or steps((None, CALM)), "color": {"mode": "thresholds"}}
    defaults |= {"decimals": decimals} if decimals is not None else {}
    defaults |= {"mappings": list(mappings)} if mappings else {}
    defaults |= {"links": list(links)} if links else {}
    options = {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "center",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": text,
        "wideLayout": True,
    }
    targets = [Target(expr, legend or title, instant=True)]
    return Panel("stat", title, says, targets, unit, width, height, none, options, defaults, today=today)


def graph(
    title: str,
    says: str,
    targets: Sequence[Target],
    unit: str,
    *,
    width: int = 12,
    height: int = 9,
    none: str = "no reading in this time",
    stacked: bool = False,
    low: float | None = 0,
    high: float | None = None,
    overrides: Sequence[Json] = (),
    legend: str = "table",
    calcs: Sequence[str] = ("mean", "max", "lastNotNull"),
    lines: Json | None = None,
    step: bool = False,
    decimals: int | None = None,
    fill: int = 0,
    soft: float | None = None,
    aside: bool = False,
) -> Panel:
    """Courses over time; a hole stays a hole. `aside`: the legend stands at the right; `soft`: the scale reaches so far
    at least.
    """
    custom: Json = {
        "drawStyle": "line",
        "fillOpacity": 55 if stacked else fill,
        "gradientMode": "none",
        "lineInterpolation": "stepAfter" if step else "linear",
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "axisSoftMin": 0 if low == 0 else None,
        "thresholdsStyle": {"mode": "dashed" if lines else "off"},
    }
    custom |= {"axisSoftMax": soft} if soft is not None else {}
    defaults: Json = {"color": {"mode": "palette-classic"}}
    defaults |= {"min": low} if low is not None else {}
    defaults |= {"max": high} if high is not None else {}
    defaults |= {"thresholds": lines} if lines else {}
    defaults |= {"decimals": decimals} if decimals is not None else {}
    options = {
        "legend": {
            "calcs": list(calcs),
            "displayMode": legend,
            "placement": "right" if aside else "bottom",
            "showLegend": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel(
        "timeseries", title, says, targets, unit, width, height, none, options, defaults, custom, tuple(overrides)
    )


def bars(
    title: str,
    says: str,
    targets: Sequence[Target],
    unit: str,
    *,
    width: int = 6,
    height: int = 7,
    none: str = "nothing in this time",
    high: float | None = None,
    colors: Json | None = None,
    decimals: int | None = None,
    overrides: Sequence[Json] = (),
    above: bool = False,
) -> Panel:
    """One bar for each series, now or over the time chosen; `above`: its name stands there, else at the left."""
    options = {
        "displayMode": "basic",
        "maxVizHeight": 48 if above else 32,
        "minVizHeight": 12,
        "minVizWidth": 8,
        "namePlacement": "top" if above else "left",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "sizing": "manual",
        "valueMode": "text",
    }
    color = {"mode": "thresholds"} if colors else {"mode": "palette-classic-by-name"}
    defaults: Json = {"min": 0, "color": color, "thresholds": colors or steps((None, CALM))}
    defaults |= {"max": high} if high is not None else {}
    defaults |= {"decimals": decimals} if decimals is not None else {}
    return Panel("bargauge", title, says, targets, unit, width, height, none, options, defaults, {}, tuple(overrides))


def columns(title: str, says: str, target: Target, x: str, unit: str, *, width: int, height: int, none: str) -> Panel:
    """One column for each row of a table, at the text in the field `x`."""
    options = {
        "barWidth": 0.85,
        "groupWidth": 0.7,
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "orientation": "vertical",
        "showValue": "never",
        "stacking": "none",
        "tooltip": {"mode": "single", "sort": "none"},
        "xField": x,
        "xTickLabelSpacing": 40,
    }
    custom = {"fillOpacity": 70, "lineWidth": 0}
    sort = {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": x}]}}
    hide = {"id": "organize", "options": {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": {}}}
    defaults = {"min": 0, "color": {"mode": "continuous-GrYlRd"}}
    return Panel(
        "barchart", title, says, [target], unit, width, height, none, options, defaults, custom, (), (hide, sort)
    )


@dataclass(frozen=True)
class Column:
    """One column of a table: the field it shows, its headline, and how. A query's value is the field `Value #A`."""

    field: str
    title: str
    unit: str = ""
    width: int = 0
    decimals: int | None = None
    gauge: float | None = None
    least: int = 0
    links: tuple[Json, ...] = ()
    colors: Json | None = None

    def override(self) -> Json:
        """How its cells look."""
        properties: Json = {"noValue": "–"} if self.field.startswith("Value") else {}  # noqa: RUF001 - a dash
        properties |= {"unit": self.unit} if self.unit else {}
        properties |= {"custom__width": self.width} if self.width else {}
        properties |= {"custom__minWidth": self.least} if self.least else {}
        properties |= {"decimals": self.decimals} if self.decimals is not None else {}
        properties |= {"links": list(self.links)} if self.links else {}
        if self.gauge is not None:
            properties |= {"custom__cellOptions": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}}
            properties |= {"min": 0} | ({"max": self.gauge} if self.gauge else {})
        if self.colors is not None:
            properties |= {"thresholds": self.colors, "custom__cellOptions": {"type": "color-text"}}
        return by_name(self.title, **properties)


def table(
    title: str,
    says: str,
    exprs: Sequence[str],
    shown: Sequence[Column],
    sort: str,
    *,
    width: int = 24,
    height: int = 9,
    none: str = "nothing in this time",
    descending: bool = True,
) -> Panel:
    """Instant queries side by side, joined by their labels; only the columns named are shown, in their order."""
    options = {
        "cellHeight": "sm",
        "footer": {"countRows": False, "fields": "", "reducer": ["sum"], "show": False},
        "showHeader": True,
        "sortBy": [{"displayName": sort, "desc": descending}],
    }
    organize = {
        "id": "organize",
        "options": {
            "excludeByName": {},
            "includeByName": {column.field: True for column in shown},
            "indexByName": {column.field: place for place, column in enumerate(shown)},
            "renameByName": {column.field: column.title for column in shown},
        },
    }
    targets = [Target(expr, instant=True, table=True) for expr in exprs]
    merge = [{"id": "merge", "options": {}}]
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False, "minWidth": 90}
    overrides = [column.override() for column in shown if column.override()["properties"]]
    defaults = {"color": {"mode": "thresholds"}, "thresholds": steps((None, CALM))}
    return Panel(
        "table",
        title,
        says,
        targets,
        "short",
        width,
        height,
        none,
        options,
        defaults,
        custom,
        overrides,
        [*merge, organize],
    )


def states(title: str, says: str, target: Target, names: Mapping[str, tuple[str, str]], **more: Any) -> Panel:
    """A band for each series: what a value is called, and its colour."""
    mappings = [
        {"type": "value", "options": {value: {"text": text, "color": color, "index": place}}}
        for place, (value, (text, color)) in enumerate(names.items())
    ]
    options = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "never",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    defaults = {"mappings": mappings, "color": {"mode": "thresholds"}, "thresholds": steps((None, GOOD))}
    custom = {"fillOpacity": 80, "lineWidth": 0}
    return Panel(
        "state-timeline",
        title,
        says,
        [target],
        "none",
        more["width"],
        more["height"],
        more["none"],
        options,
        defaults,
        custom,
    )
