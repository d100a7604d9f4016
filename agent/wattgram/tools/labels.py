"""What others called something, made fit for a label: bounded, without anything that cannot be printed."""

from __future__ import annotations

# As long as a DNS name, and hardly shorter than a file's.
LONGEST = 253
SUBSTITUTE = "\N{REPLACEMENT CHARACTER}"


def label(text: str) -> str:
    """Return the text with each character that cannot be printed, or is none, replaced, cut after 253."""
    return "".join(c if c.isprintable() else SUBSTITUTE for c in text[:LONGEST])
