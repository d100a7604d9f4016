"""Runs a command as if nobody looked on, and says what it used.

The command keeps its standard streams, its terminal, its process group and its exit code. Signals meant for it reach
it; those that the terminal sends reach it anyway. Who of its family is orphaned comes back to us.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

from wattgram.measuring import Measure, Receipt

NOT_FOUND, NOT_EXECUTABLE, BY_SIGNAL = 127, 126, 128
PR_SET_CHILD_SUBREAPER = 36
SI_KERNEL = 0x80
# What somebody may send to us and means the command by. Those that stop and continue act on both, as on any group.
FORWARDED = frozenset(
    {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM}
)
ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
WAITED_FOR = FORWARDED | {signal.SIGCHLD}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: its exit code, or the signal that killed it."""

    code: int
    killed_by: int = 0

    def leave(self) -> int:
        """End as the command did: return its exit code, or die of its signal."""
        if self.killed_by:
            sys.stderr.flush()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it was the command that failed
            with suppress(OSError, ValueError):  # SIGKILL has no handler
                signal.signal(self.killed_by, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {self.killed_by})
            os.kill(os.getpid(), self.killed_by)  # the first process of a container survives its own signals
        return self.code


def run(command: Sequence[str], window: Measure) -> Outcome:
    """Run a command inside a window; return how it ended. The window has ended then."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WAITED_FOR)
    window.begin()
    if unwanted := ENDING & signal.sigpending():  # while the meter was being found: the command need not begin
        window.end()
        return Outcome(BY_SIGNAL + min(unwanted), min(unwanted))
    _adopt_orphans()
    used = _children_seconds()
    try:
        child = _start(command, before)
    except OSError as error:
        window.end()
        sys.stderr.write(f"wattgram: {command[0]}: {os.strerror(error.errno or 0)}\n")
        return Outcome(NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE)
    status = _wait(child)
    window.end(cpu_seconds=_children_seconds() - used)
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code) if code >= 0 else Outcome(BY_SIGNAL - code, -code)


def _start(command: Sequence[str], mask: Iterable[int]) -> int:
    """Start it with the signals as they were; raise OSError. A script without `#!` is the shell's."""
    restored = [number for name in ("SIGPIPE", "SIGXFSZ") if (number := getattr(signal, name, None)) is not None]

    def spawn(words: Sequence[str]) -> int:
        return os.posix_spawnp(words[0], list(words), os.environ, setsigmask=mask, setsigdef=restored)

    try:
        return spawn(command)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        return spawn(["/bin/sh", *command])


def _wait(child: int) -> int:
    """Bury all who end, pass on what is sent to us, and return the command's status when it has ended."""
    while True:
        heard = signal.sigwaitinfo(WAITED_FOR)
        if heard.si_signo != signal.SIGCHLD:
            if heard.si_code != SI_KERNEL:  # the terminal has told the whole group
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(child, heard.si_signo)
            continue
        status = None
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                status = ended[1] if ended[0] == child else status
        if status is not None:
            return status


def _adopt_orphans() -> None:
    with suppress(OSError, AttributeError):  # where it cannot be, orphans are known all the same if they were seen
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def hand_over(window: Measure, command: Sequence[str], outcome: Outcome, output: str | None, *, as_json: bool) -> None:
    """Give the receipt to whoever waits for it: on standard error, or in a file. What cannot be written is lost."""
    receipt = {
        **window.receipt,
        "command": list(command),
        "exit_code": outcome.code,
        "signal": outcome.killed_by or None,
    }
    receipt["not_metered"] = [*receipt["not_metered"], *window.refusals]
    with suppress(OSError, ValueError):
        if output:
            with open(output, "w", encoding="utf-8") as file:  # noqa: PTH123
                _write(receipt, command, outcome, file, as_json=as_json)
        else:
            _write(receipt, command, outcome, sys.stderr, as_json=as_json)
            sys.stderr.flush()


def _write(receipt: Receipt, command: Sequence[str], outcome: Outcome, to: TextIO, *, as_json: bool) -> None:
    if as_json:
        to.write(json.dumps(receipt, ensure_ascii=False) + "\n")
        return
    to.write(f"\nwattgram: {_short(' '.join(command))}: {_ending(outcome)}\n")
    to.writelines(f"{f'  {label:<12}{text}'.rstrip()}\n" for label, text in lines(receipt))


# --- the receipt in words -------------------------------------------------------------------------


def lines(receipt: Receipt) -> list[tuple[str, str]]:
    """Return the receipt as pairs of a label, empty where it goes on, and a text."""
    found = [("duration", f"{receipt['seconds']:.3f} s")]
    found.append(("energy", _energy(receipt)))
    found += [(f"  {component['component']}", _component(component)) for component in receipt["components"]]
    if watts := receipt["watts"]:
        found.append(
            ("power", f"{_figure(watts['average'], 'W')} on average, {_figure(watts['peak'], 'W')} at its peak")
        )
    found.append(("carbon", _carbon(receipt)))
    found += [("per unit", _per_unit(one)) for one in receipt["per_unit"]]
    found += _listed("not metered", receipt["not_metered"])
    return found + _listed("note", receipt["remarks"])


def _ending(outcome: Outcome) -> str:
    if outcome.killed_by:
        with suppress(ValueError):
            return f"killed by {signal.Signals(outcome.killed_by).name}"
        return f"killed by signal {outcome.killed_by}"
    return f"exit code {outcome.code}"


def _energy(receipt: Receipt) -> str:
    if receipt["joules"] is None:
        return "not known"
    text = _figure(receipt["joules"], "J")
    uncertainty = receipt["uncertainty"]
    if uncertainty:
        unknown = uncertainty["sensors_not_established"]
        more = f", sensors of {', '.join(unknown)} not established" if unknown else ""
        text += f" ± {_figure(uncertainty['joules'], 'J')} ({100 * uncertainty['ratio']:.2g} %{more})"
    return text


def _component(component: Receipt) -> str:
    machine = component["machine_joules"]
    of = "" if machine is None else f" of the machine's {_figure(machine, 'J')}"
    if component["joules"] is None:
        return f"not known whose{of} it is" if machine is not None else "not metered"
    facts = [*component["quality"], *component["method"]]
    if component["share"] != "none":
        facts.insert(0, {"alone": "used alone", "apportioned": "a share"}[component["share"]])
    idle = component["idle_joules"]
    doing_nothing = f", {_figure(idle, 'J')} of it idle" if idle else ""
    return f"{_figure(component['joules'], 'J')}{of}{doing_nothing} ({', '.join(dict.fromkeys(facts))})"


def _carbon(receipt: Receipt) -> str:
    if receipt["grams"] is None:
        is_nowhere = any(price["factor"] == "none" for price in receipt["pricing"])
        return "not priced: no zone is configured" if is_nowhere else "not priced"
    bases = ", ".join(f"{p['basis']} {p['factor']}" for p in receipt["pricing"] if p["grams"] is not None)
    unpriced = receipt["unpriced_joules"]
    rest = f"; {_figure(unpriced, 'J')} not priced" if unpriced else ""
    return f"{_figure(receipt['grams'], 'g')} CO2e ({bases}{rest})"


def _per_unit(one: Receipt) -> str:
    if one["joules"] is None:
        return f"{one['units']:g} {one['unit']}"
    grams = "" if one["grams"] is None else f", {_figure(one['grams'], 'g')} CO2e"
    return f"{_figure(one['joules'], 'J')}{grams} for each of {one['units']:g} {one['unit']}"


def _listed(label: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(label if index == 0 else "", text) for index, text in enumerate(texts)]


def _figure(value: float, unit: str) -> str:
    """Four digits and a unit: 12.34 J, 5.678 kJ, 0.12 mg."""
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ")):
        if abs(value) >= size:
            return f"{value / size:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def _short(text: str) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= 80 else f"{plain[:79]}…"  # noqa: PLR2004 - a line of a terminal
