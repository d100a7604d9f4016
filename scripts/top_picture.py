"""Draws what `wattgram top` shows of a daemon into an SVG, for the documents.

wattgram demo --listen 127.0.0.1:14945 &
python scripts/top_picture.py http://127.0.0.1:14945 docs/img/top.svg
"""

from __future__ import annotations

import io
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from wattgram.top.asking import Client, address
from wattgram.top.command import Watch
from wattgram.top.drawing import Signs, draw

WIDTH, LOOKS = 100, 4
# A document asks no other host for a font: whoever looks has one whose letters are all as wide.
FORMAT = re.sub(r"@font-face\s*{{.*?}}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace("Fira Code, ", "")


def main() -> None:
    """Look a few times, so that workloads have their power, and draw the last."""
    url, target = sys.argv[1:]
    client, watched = Client(address(url), {}), Watch("demo", 2.0, "watts")
    for _ in range(LOOKS):
        watched.hear(client.status(), time.monotonic())
        time.sleep(2.0)
    console = Console(
        record=True, width=WIDTH, height=60, force_terminal=True, color_system="truecolor", file=io.StringIO()
    )
    frame = watched.frame(time.monotonic())
    assert frame.status
    console.print(draw(replace(frame, status=replace(frame.status, host="demo")), WIDTH, None, Signs()))
    title = "wattgram top, over wattgram demo: invented hardware"
    Path(target).write_text(console.export_svg(title=title, code_format=FORMAT), encoding="utf-8")


if __name__ == "__main__":
    main()
