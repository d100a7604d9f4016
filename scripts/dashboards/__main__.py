"""Write every dashboard: `python -m scripts.dashboards [DIRECTORY]`, deploy/grafana/dashboards unless one is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from scripts.dashboards import grid, health, overview, server, workload

HERE = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards"


def main() -> None:
    """Write them."""
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    where.mkdir(parents=True, exist_ok=True)
    for module in (overview, server, workload, grid, health):
        board = module.build()
        text = json.dumps(board, indent=2, ensure_ascii=False) + "\n"
        (where / f"{board['uid'].removeprefix('wattgram-')}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
