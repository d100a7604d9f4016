"""Whole dashboards: variables, links, and a grid that lays itself out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from scripts.dashboards.parts import SOURCE, Json, Row

COLUMNS = 24
TAG = "wattgram"


# --- variables ------------------------------------------------------------------------------------


def datasource() -> Json:
    """Which Prometheus."""
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}


def asked(name: str, label: str, query: str, *, multi: bool = True, every: bool = True) -> Json:
    """A variable with the values of a label; `every`: all of them at first, else the first of them."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": f"variable-{name}"},
        "definition": query,
        "refresh": 2,  # when the time changes: what ended in it is found
        "sort": 7,  # as people count
        "multi": multi,
        "includeAll": every,
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]} if every else {},
        "hide": 0,
        "regex": "",
    }


def job() -> Json:
    """Which scrape job."""
    return asked("job", "Job", "label_values(wattgram_build_info, job)")


def instance(*, every: bool = True) -> Json:
    """Which servers."""
    query = 'label_values(wattgram_build_info{job=~"$job"}, instance)'
    return asked("instance", "Instance", query, every=every)


def quality() -> Json:
    """What is counted: invented hardware is not, unless it is chosen."""
    values = ("measured", "apportioned", "estimated", "synthetic")
    chosen = list(values[:3])
    return {
        "name": "quality",
        "label": "Quality",
        "type": "custom",
        "query": ",".join(values),
        "options": [{"text": value, "value": value, "selected": value in chosen} for value in values],
        "multi": True,
        "includeAll": False,
        "current": {"selected": True, "text": chosen, "value": chosen},
        "hide": 0,
        "description": "measured: by a meter; apportioned: shared between several by use; estimated: a model; "
        "synthetic: invented hardware of a demonstration, left out unless chosen",
    }


# --- dashboards -----------------------------------------------------------------------------------


def go(title: str, uid: str, *keep: str, **fields: str) -> Json:
    """A link to another dashboard that keeps the time and some variables and takes others from fields of its row."""
    kept = "".join(f"&${{{name}:queryparam}}" for name in ("datasource", "job", *keep))
    taken = "".join(f"&var-{name}=${{__data.fields.{found}}}" for name, found in fields.items())
    return {"title": title, "url": f"/d/wattgram-{uid}?${{__url_time_range}}{kept}{taken}", "targetBlank": False}


def dashboard(uid: str, title: str, says: str, variables: Iterable[Json], rows: Sequence[Row], **more: Any) -> Json:
    """A whole dashboard."""
    chosen = list(variables)
    invented = [_link("link", "Show invented hardware", f"/d/wattgram-{uid}?var-quality=synthetic")]
    return {
        "uid": f"wattgram-{uid}",
        "title": f"wattgram / {title}",
        "description": says,
        "tags": [TAG],
        "editable": False,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "version": 1,
        "timezone": "browser",
        "refresh": "1m",
        "time": {"from": more.get("since", "now-6h"), "to": "now"},
        "timepicker": {},
        "fiscalYearStartMonth": 0,
        "weekStart": "",
        "liveNow": False,
        "annotations": {"list": []},
        "links": [
            _link("dashboards", TAG, "", tags=[TAG], includeVars=True),
            *(link for link in invented if any(variable["name"] == "quality" for variable in chosen)),
        ],
        "templating": {"list": chosen},
        "panels": _laid(rows),
    }


def _link(kind: str, title: str, url: str, **more: Any) -> Json:
    """A link on top, which keeps the time."""
    return {
        "type": kind,
        "title": title,
        "tags": [],
        "asDropdown": False,
        "includeVars": False,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": url,
    } | more


def _laid(rows: Sequence[Row]) -> list[Json]:
    """Panels with numbers and places; a row that is closed holds its own."""
    laid: list[Json] = []
    y, hundred = 0, 0
    for row in rows:
        hundred += 100
        head: Json = {
            "id": hundred,
            "type": "row",
            "title": row.title,
            "collapsed": row.collapsed,
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
            "panels": [],
        }
        y += 1
        top, x, height = y, 0, 0
        placed = []
        for place, panel in enumerate(row.panels, 1):
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            placed.append(panel.json(hundred + place, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y = top if row.collapsed else y + height
        head["panels"] = placed if row.collapsed else []
        laid += [head] if row.collapsed else [head, *placed]
    return laid
