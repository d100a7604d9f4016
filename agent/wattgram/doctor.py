"""Tries each plug on this host and says exactly what is missing and how to mend it."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wattgram import surroundings
from wattgram.app import GOOD, MISSING
from wattgram.config import Config
from wattgram.diagnosis import (
    ABSENT,
    BROKEN,
    CARBON,
    FILES,
    FINE,
    HOST,
    NAMES,
    PORT,
    RIGHTS,
    SOURCES,
    Finding,
    Trial,
    asked,
    described,
    newest,
    prices,
)
from wattgram.plan import chain, enabled_sources, recorded
from wattgram.ports import Clock, ReadFailed, Unavailable
from wattgram.tools.files import write_whole

MARKS = {FINE: "✓", ABSENT: "·", BROKEN: "✗"}
PLAIN_MARKS = {FINE: "+", ABSENT: "-", BROKEN: "!"}
COLOURS = {FINE: "32", ABSENT: "33", BROKEN: "31"}
BOLD, CYAN = "1", "36"
# A line of a remedy that begins so can be typed: it is never broken, so that it can be copied.
TYPED = re.compile(
    r"(sudo|docker|install|chmod|chown|setfacl|printf|modprobe|nvidia-smi|wattgram|ss|timedatectl|curl) ?"
)
WIDTH_WITHOUT_TERMINAL, WIDEST, NARROWEST = 100, 120, 48
LABEL, LEAST_TEXT = 21, 40


def examine(config: Config, clock: Clock, environ: Mapping[str, str], *, as_json: bool) -> int:
    """Print the findings; return 0, or 3 when something asked for by name is not there or nothing is metered."""
    trial = Trial(config, clock, environ)
    groups: tuple[tuple[str, Iterable[Finding]], ...] = (
        (SOURCES, trial.sources()),
        (NAMES, trial.names()),
        (CARBON, trial.carbon()),
        (RIGHTS, surroundings.rights(config, environ)),
        (FILES, surroundings.files(config, environ)),
        (PORT, (*surroundings.port(config, environ), *surroundings.local_api(config))),
        (HOST, surroundings.host(environ)),
    )
    scribe = _Scribe(environ)
    findings: list[Finding] = []
    for name, group in groups:
        found = list(group)
        findings += found
        if not as_json:
            print("\n".join(scribe.group(name, found)), flush=True)
    wanting = any(f.required and f.state != FINE for f in findings)
    code = GOOD if trial.is_metering and not wanting else MISSING
    verdict = trial.verdict(findings)
    if as_json:
        print(json.dumps({"verdict": verdict, "findings": [asdict(f) for f in findings]}, indent=1))
    else:
        troubled = any(f.is_trouble for f in findings)
        print("\n".join(scribe.verdict(verdict, BROKEN if code else ABSENT if troubled else FINE)))
    return code


class _Scribe:
    """Writes findings for people: aligned, as wide as their terminal, in colour where that is wanted."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        columns = shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns
        self._width = max(NARROWEST, min(WIDEST, columns))
        is_terminal = sys.stdout.isatty() and environ.get("TERM") != "dumb"
        self._in_colour = is_terminal and not environ.get("NO_COLOR")
        try:
            "".join([*MARKS.values(), "→…"]).encode(sys.stdout.encoding or "ascii")
            self._marks, self._arrow = MARKS, "→"
        except (UnicodeEncodeError, LookupError):
            self._marks, self._arrow = PLAIN_MARKS, "->"

    def group(self, name: str, findings: list[Finding]) -> Iterator[str]:
        """Yield the lines of one group."""
        if not findings:
            return
        yield self._coloured(name, BOLD)
        labels = [_label(f) for f in findings]
        indent = 4 + max(LABEL, *map(len, labels)) + 2
        if self._width - indent < LEAST_TEXT:
            indent = 6
        for label, finding in zip(labels, findings, strict=True):
            yield from self._finding(label, finding, indent)
        yield ""

    def verdict(self, text: str, state: str) -> Iterator[str]:
        """Yield the last line, which is what is read first."""
        first, *rest = textwrap.wrap(text, self._width - 2, break_long_words=False, break_on_hyphens=False)
        yield f"{self._mark(state)} {self._coloured(first, BOLD)}"
        yield from (f"  {self._coloured(line, BOLD)}" for line in rest)

    def _finding(self, label: str, finding: Finding, indent: int) -> Iterator[str]:
        lead = f"  {self._mark(finding.state)} {label}"
        lines = self._wrapped(finding.detail, indent)
        if len(label) + 6 <= indent:
            yield lead + " " * (indent - 4 - len(label)) + (lines.pop(0) if lines else "")
        else:
            yield lead
        yield from (" " * indent + line for line in lines)
        arrow = self._arrow + " "
        for line in finding.remedy.splitlines():
            is_command = TYPED.match(line) is not None
            shown = [_printable(line)] if is_command else self._wrapped(line, indent + len(arrow))
            for part in shown:
                yield " " * indent + self._coloured(arrow, CYAN) + (self._coloured(part, BOLD) if is_command else part)
                arrow = " " * len(arrow)

    def _wrapped(self, text: str, indent: int) -> list[str]:
        width = self._width - indent
        return textwrap.wrap(_printable(text), width, break_long_words=False, break_on_hyphens=False)

    def _mark(self, state: str) -> str:
        return self._coloured(self._marks[state], COLOURS[state])

    def _coloured(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._in_colour else text


def _label(finding: Finding) -> str:
    """What a finding is about, less what its group says already."""
    for group in ("source ", "provider ", "carbon, ", "workloads "):
        if finding.what.startswith(group):
            return finding.what.removeprefix(group)
    return finding.what


def _printable(text: str) -> str:
    """Text of others, fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def record(config: Config, environ: Mapping[str, str], directory: Path) -> int:
    """Write what this host's hardware answers to a file that may become a fixture; serial numbers are masked."""
    answers: dict[str, Any] = {}
    for name in enabled_sources(config):
        try:
            found = recorded(name, config, environ)
        except (Unavailable, ReadFailed) as missing:
            print(f"{MARKS[ABSENT]} {name}: {missing}")
            continue
        if found is not None:
            answers[name] = found
            print(f"{MARKS[FINE]} {name}: recorded")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "recording.json"
    write_whole(path, f"{json.dumps(answers, indent=1, ensure_ascii=False)}\n".encode())
    print(f"written to {path}: look through it before you send it")
    return GOOD if answers else MISSING


def show_intensity(config: Config, clock: Clock, *, ahead: bool) -> int:
    """Print what each provider says of now, and `ahead` of the hours to come; return 0 when one of them prices."""
    links, remarks = chain(config)
    priced = False
    for link in links:
        try:
            said = asked(link, config, clock, turns=2 if ahead else 1)
        except ReadFailed as failure:
            print(f"{link.name}: {failure}")
            continue
        forecasts = [i for i in said if i.basis == "forecast"]
        for intensity in (*newest(said), *(forecasts if ahead else ())):
            is_price = not priced and prices(link, intensity, config)
            priced = priced or is_price
            print(f"{described(intensity)}{'   ← prices' if is_price else ''}")
    for remark in remarks:
        print(f"({remark})")
    return GOOD if priced else MISSING
