"""Runs a command as if nobody looked on, and says what it used.

The command keeps its standard streams, its terminal, its process group and its exit code. Signals meant for it reach
it; those that the terminal sends reach it anyway. Who of its family is orphaned comes back to us.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import stat
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from wattgram.measuring import Measure, Receipt

NOT_FOUND, NOT_EXECUTABLE, BY_SIGNAL = 127, 126, 128
PR_SET_CHILD_SUBREAPER = 36
SI_KERNEL = 0x80
# What somebody may send to us and means the command by. Those that stop and continue come from the terminal, to both.
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
            _say("")
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
    waiting = ENDING & signal.sigpending()  # while the meter was being found: the command need not begin
    if unwanted := {number for number in waiting if signal.getsignal(number) is not signal.SIG_IGN}:
        window.end()
        return Outcome(BY_SIGNAL + min(unwanted), min(unwanted))
    _adopt_orphans()
    used = _children_seconds()
    try:
        child = _start(command, before)
    except OSError as error:
        window.end()
        _say(f"wattgram: {_plain(command[0])}: {os.strerror(error.errno or 0)}\n")
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
        # By its path: of a bare name, sh looks for a script where we are.
        return spawn(["/bin/sh", shutil.which(command[0]) or command[0], *command[1:]])


def _wait(child: int) -> int:
    """Bury all who end, pass on what is sent to us, and return the command's status when it has ended."""
    is_leader = os.getsid(0) == os.getpid()
    while True:
        heard = signal.sigwaitinfo(WAITED_FOR)
        if heard.si_signo != signal.SIGCHLD:
            # What the terminal sends it sends to the whole group; but that it is gone, to its session's leader alone.
            if heard.si_code != SI_KERNEL or (heard.si_signo == signal.SIGHUP and is_leader):
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


class Output:
    """A file for a receipt, open, and empty if it was there, before the command begins; raise OSError.

    No other user's link is followed: it may lead anywhere.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
        try:
            self._file = os.open(path, flags | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP or os.lstat(path).st_uid not in (0, os.geteuid()):
                raise
            self._file = os.open(path, flags, 0o666)
        found = os.fstat(self._file)
        if any(_is_file(number, found) for number in (1, 2)):  # the command writes there too
            fcntl.fcntl(self._file, fcntl.F_SETFL, os.O_APPEND)
        elif stat.S_ISREG(found.st_mode):
            os.ftruncate(self._file, 0)

    def write(self, text: str) -> None:
        """Write it, and close the file; raise OSError."""
        with os.fdopen(self._file, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)


def _is_file(number: int, found: os.stat_result) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(number), found)
    return False


def hand_over(
    window: Measure, command: Sequence[str], outcome: Outcome, output: Output | None, *, as_json: bool
) -> None:
    """Give the receipt to whoever waits for it: in a file, or, also when that fails, on standard error."""
    try:
        text = _text(window, command, outcome, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - whatever a meter of another make answers, the command's exit code stays
        head = f"wattgram: {_short(' '.join(command))}: {_ending(outcome)}"
        text = f"\n{head}\n  the receipt cannot be shown: {_plain(repr(error))}\n"
    if output is not None:
        try:
            output.write(text)
        except OSError as error:
            _say(f"wattgram: {_plain(output.path)}: {error.strerror}\n")
        else:
            return
    _say(text)


def _text(window: Measure, command: Sequence[str], outcome: Outcome, *, as_json: bool) -> str:
    receipt = {
        **window.receipt,
        "command": list(command),
        "exit_code": outcome.code,
        "signal": outcome.killed_by or None,
    }
    receipt["not_metered"] = [*receipt["not_metered"], *window.refusals]
    if as_json:
        return json.dumps(receipt) + "\n"
    shown = [f"wattgram: {_short(' '.join(command))}: {_ending(outcome)}"]
    shown += [f"  {label:<12}{_plain(text)}".rstrip() for label, text in lines(receipt)]
    return "\n" + "\n".join(shown) + "\n"


def _say(text: str) -> None:
    """Write to standard error, which may be closed."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()


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
    modelled = (uncertainty or {}).get("modelled")
    if modelled:  # whatever is known of the edges says nothing beside that
        text += f" ({', '.join(modelled)}: a model, which may be off by half the value and more)"
    elif uncertainty:
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


def _plain(text: str) -> str:
    """Text that cannot steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _short(text: str) -> str:
    plain = _plain(text)
    return plain if len(plain) <= 80 else f"{plain[:79]}…"  # noqa: PLR2004 - a line of a terminal
