"""Small kernel files: read anew at each call, parsed apart from reading."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from wattgram.ports import ReadFailed

# What a sysfs attribute holds at most is one page.
PAGE_BYTES = 4096


def read_text(path: Path) -> str:
    """Return a small file's text without surrounding white space; raise ReadFailed naming the file and the cause.

    A refusal comes on open or on read; both are the same news.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.read(descriptor, PAGE_BYTES)
        finally:
            os.close(descriptor)
    except PermissionError as error:
        raise ReadFailed(f"{path}: permission denied", "auth") from error
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "error")
        raise ReadFailed(f"{path}: {name} ({error.strerror})", "server") from error
    return content.decode("utf-8", "replace").strip()


def read_count(path: Path) -> int:
    """Return a file's whole number, 0 or more; raise ReadFailed, also for anything else than a number."""
    text = read_text(path)
    return parse_count(text, str(path))


def listed(folder: Path, pattern: str) -> list[Path]:
    """Return the entries of a folder that match, sorted; raise ReadFailed. A folder that is not there has none."""
    try:
        return sorted(folder.glob(pattern))
    except OSError as error:
        raise ReadFailed(f"{folder}: {error.strerror}", "server") from error


def capture(root: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """Return the texts of the files below a root that match, by their paths in it; a refusal is recorded as such."""
    found: dict[str, str] = {}
    for path in sorted(path for pattern in patterns for path in listed(root, pattern)):
        if not path.is_file():
            continue
        try:
            found[str(path.relative_to(root))] = read_text(path)
        except ReadFailed as failure:
            found[str(path.relative_to(root))] = f"<{failure.reason}>"
    return found


def parse_count(text: str, place: str) -> int:
    """Return the whole number a text consists of; raise ReadFailed naming the place."""
    if not text.isascii() or not text.isdigit():
        raise ReadFailed(f"{place}: expected a whole number, got {text[:40]!r}", "shape")
    return int(text)
