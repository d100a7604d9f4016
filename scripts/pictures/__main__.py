"""Draw every dashboard, at two widths, light and dark: what a person would see, to be looked at before it is shipped.

    cd scripts/pictures && npm install && npm run build && cd ../..
    PYTHONPATH=tests:. python -m scripts.pictures OUT [--board overview] [--hours 3] [--keep DIRECTORY]
    PYTHONPATH=tests:. python -m scripts.pictures OUT --prometheus http://localhost:9090 [--hours 0.25]

With --prometheus it draws what a running Prometheus answers now, invented hardware included. Else the past of a few
servers is lived through by the daemon's own parts (tests/standin/history.py), stored as blocks, and asked of a real
Prometheus. The page in src/ draws the answers with @grafana/ui, and a headless Chromium takes pictures.
Panels that @grafana/ui does not have (bar chart, state timeline) are drawn by hand, and Inter, Grafana's typeface, is
whatever sans-serif there is.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from scripts.dashboards import grid, health, overview, server, workload

from standin.history import Plan, live
from standin.prometheus import Prometheus

HERE = Path(__file__).resolve().parent
BOARDS = {"overview": overview, "server": server, "workload": workload, "grid": grid, "health": health}
WIDTHS, THEMES = (1680, 1000), ("dark", "light")
END = 1_790_000_000 // 86400 * 86400 + 17 * 3600 + 900 * 2 + 450
PLANS = (
    Plan("gpu-1:14044", gpus=8, down=5400.0, up=5435.0),
    Plan("gpu-2:14044", gpus=8),
    Plan("gpu-3:14044", gpus=4, hole=(6000.0, 6090.0), blind="1"),
    Plan("cpu-1:14044", quality="estimated", gpus=0),
)
CHOSEN = {"server": {"instance": "gpu-1:14044"}, "workload": {"kind": "slurm", "workload": "4242"}}
QUALITY = "measured|apportioned|estimated"


Ask = Callable[..., Any]


def asker_of(url: str) -> Ask:
    """Return what asks a running Prometheus."""

    def ask(endpoint: str, **parameters: str) -> Any:
        with urllib.request.urlopen(f"{url}/api/v1/{endpoint}?{urlencode(parameters)}", timeout=60) as answer:
            return json.load(answer)["data"]

    return ask


class Answers:
    """What a Prometheus says to the panels of a board at a moment, Unix seconds, as its HTTP API says it."""

    def __init__(self, ask: Ask, end: float, seconds: float, chosen: dict[str, str], quality: str = QUALITY) -> None:
        self._ask = ask
        self._end = end
        self._seconds = seconds
        self._chosen = {"quality": quality, **chosen}
        self.step = max(15.0, seconds / 360 // 15 * 15)

    def of(self, panel: dict[str, Any]) -> list[dict[str, Any]]:
        """One answer for each target."""
        seconds = self._end % 86400 if panel.get("timeFrom") == "now/d" else self._seconds
        return [{"target": target, "results": self._asked(target, seconds)} for target in panel["targets"]]

    def _asked(self, target: dict[str, Any], seconds: float) -> list[Any]:
        given = {"__rate_interval": "60s", "__range_s": f"{seconds:.0f}", "__range": f"{seconds:.0f}s"}
        given |= self._chosen
        expr = re.sub(r"\$(\w+)", lambda match: given.get(match[1], ".+"), target["expr"])
        if target["instant"]:
            found = self._ask("query", query=expr, time=str(self._end))
        else:
            begin = self._end - self._seconds
            found = self._ask("query_range", query=expr, start=str(begin), end=str(self._end), step=str(self.step))
        results: list[Any] = found["result"]
        return results


def answers(ask: Ask, name: str, end: float, seconds: float, *, is_live: bool) -> dict[str, Any]:
    """Everything that the page needs to draw a board."""
    board = BOARDS[name].build()
    chosen = {} if is_live else CHOSEN.get(name, {})
    asker = Answers(ask, end, seconds, chosen, f"{QUALITY}|synthetic" if is_live else QUALITY)
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    shown = {variable["label"]: chosen.get(variable["name"], "All") for variable in board["templating"]["list"][1:]}
    quality = "all, invented hardware too" if is_live else "measured + apportioned + estimated"
    shown |= {"Quality": quality} if "Quality" in shown else {}
    titles = {variable["name"]: chosen.get(variable["name"], "All") for variable in board["templating"]["list"]}
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(end))
    return {
        "board": board,
        "source": f"what Prometheus answered at {at}" if is_live else "demo data",
        "answers": {panel["id"]: asker.of(panel) for panel in panels},
        "variables": shown,
        "titles": titles,
        "range": {"from": end - seconds, "to": end, "step": asker.step},
    }


def tall(board: dict[str, Any]) -> int:
    """Pixels from top to bottom."""
    bottom: int = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    return bottom * 38 + 70


def shoot(url: str, path: Path, width: int, height: int) -> None:
    """Take a picture of a page once it has drawn."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("no Chromium")
    flags: tuple[str, ...] = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    )
    flags += ("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--virtual-time-budget=8000")
    with tempfile.TemporaryDirectory() as profile:
        where = (f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={path}", url)
        subprocess.run([program, *flags, *where], check=True, capture_output=True, timeout=120)


def of_the_past(names: list[str], keep: Path, seconds: float) -> dict[str, dict[str, Any]]:
    """Live through some hours, if they are not kept yet, and ask what was."""
    if not (keep / "data").exists():
        past, _ = live(PLANS, END - seconds, seconds)
        past.store(keep)
    with Prometheus(keep, [], flags=["--storage.tsdb.retention.time=30y"]) as running:
        return {name: answers(running._asked, name, END, seconds, is_live=False) for name in names}  # noqa: SLF001


def main() -> None:
    """Live, store, ask, draw."""
    parser = argparse.ArgumentParser(prog="python -m scripts.pictures")
    parser.add_argument("out", type=Path)
    parser.add_argument("--board", choices=BOARDS, action="append")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--keep", type=Path, help="where the past is kept for the next time")
    parser.add_argument("--prometheus", help="draw what this one answers now")
    parser.add_argument("--width", type=int, action="append")
    parser.add_argument("--theme", choices=THEMES, action="append")
    given = parser.parse_args()
    seconds = given.hours * 3600
    given.out.mkdir(parents=True, exist_ok=True)
    names = given.board or list(BOARDS)
    if given.prometheus:
        ask, now = asker_of(given.prometheus), time.time()
        boards = {name: answers(ask, name, now, seconds, is_live=True) for name in names}
    else:
        boards = of_the_past(names, given.keep or Path(tempfile.mkdtemp()), seconds)
    for name, found in boards.items():
        (HERE / "dist" / f"{name}.data.json").write_text(json.dumps(found), encoding="utf-8")
    site = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(HERE / "dist")))
    threading.Thread(target=site.serve_forever, daemon=True).start()
    for name, found in boards.items():
        for width in given.width or WIDTHS:
            for theme in given.theme or THEMES:
                url = f"http://127.0.0.1:{site.server_port}/index.html?board={name}&theme={theme}"
                path = given.out / f"{name}-{width}-{theme}.png"
                shoot(url, path, width, tall(found["board"]))
                print(path)
    site.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    main()
