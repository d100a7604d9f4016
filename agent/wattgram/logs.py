"""One line per event on standard error, as logfmt or JSON; strangers' words are quoted."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import datetime, timezone

_PLAIN = re.compile(r"[\w.:/+-]+")


def set_up(level: str, form: str) -> None:
    """Send the house's log lines to standard error; `form` is logfmt or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Logfmt())
    logger = logging.getLogger("wattgram")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def _facts(record: logging.LogRecord) -> dict[str, str]:
    moment = datetime.fromtimestamp(record.created, tz=timezone.utc)
    facts = {
        "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "msg": record.getMessage(),
    }
    if record.exc_info:
        facts["error"] = logging.Formatter().formatException(record.exc_info)
    return facts


class _Logfmt(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return " ".join(
            f"{key}={value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=True)}"
            for key, value in _facts(record).items()
        )


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_facts(record), ensure_ascii=True)
