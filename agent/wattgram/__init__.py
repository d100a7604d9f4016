"""wattgram: a live power meter for training servers: watts in, grams out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wattgram.measuring import Measure as Measure
    from wattgram.measuring import measure as measure

__version__ = "0.1.0.dev0"


def __getattr__(name: str) -> Any:
    """Import what is for training programs when it is asked for: whoever only meters does not need it."""
    if name in ("Measure", "measure"):
        from wattgram import measuring  # noqa: PLC0415 - that is the point

        return getattr(measuring, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
