"""A card that plays a script: writes the scenario of the stand-in `libnvidia-ml.so.1`, and knows its exact truth.

test ──change()──▶ scenario file ──▶ libnvidia-ml.so.1 ◀── pynvml ◀── the program under test
  └───────────────── joules(), watts(): the same closed functions of the same clock ──────────▶ compare

workload.py, a real process ──"from then on I draw 100 W on card 0"──▶ folder ◀── libnvidia-ml.so.1, truth()
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from standin import workload

LIBRARY = "libnvidia-ml.so.1"
SOURCE = Path(__file__).with_suffix(".c")
WORKLOAD = Path(workload.__file__)
SLOTS = workload.NO_SLOT
POLICIES = ("power", "thermal", "sync_boost", "board_limit")

# A change of throttling takes effect this much later, when every process surely reads the new scenario: the counters
# then never step.
_NOTICE = 0.05


class CompilerMissing(RuntimeError):  # noqa: N818 - says what is the matter
    """There is no C compiler here, so there is no stand-in."""


@dataclass(frozen=True, slots=True)
class Constant:
    """The same power for ever."""

    level: float

    def __init__(self, watts: float) -> None:
        object.__setattr__(self, "level", float(watts))

    def watts(self, t: float) -> float:
        """Watts at a monotonic instant."""
        return self.level

    def joules(self, start: float, end: float) -> float:
        """Joules between two monotonic instants."""
        return self.level * (end - start)

    def text(self) -> str:
        """Its word in the scenario."""
        return f"constant:{self.level!r}"


@dataclass(frozen=True, slots=True)
class Square:
    """`high` for the first `duty` of each `period` seconds, then `low`; a period begins at `phase` seconds."""

    low: float
    high: float
    period: float
    duty: float = 0.5
    phase: float = 0.0

    def watts(self, t: float) -> float:
        """Watts at a monotonic instant."""
        turn = (t - self.phase) / self.period
        return self.high if turn - math.floor(turn) < self.duty else self.low

    def joules(self, start: float, end: float) -> float:
        """Joules between two monotonic instants."""
        base = math.floor((start - self.phase) / self.period) * self.period + self.phase
        return self._since(base, end) - self._since(base, start)

    def _since(self, base: float, t: float) -> float:
        periods = math.floor((t - base) / self.period)
        rest = t - base - periods * self.period
        high = self.duty * self.period
        whole = self.high * high + self.low * (self.period - high)
        return periods * whole + self.high * min(rest, high) + self.low * max(0.0, rest - high)

    def text(self) -> str:
        """Its word in the scenario."""
        return "square:" + ":".join(map(repr, map(float, (self.low, self.high, self.period, self.duty, self.phase))))


@dataclass(frozen=True, slots=True)
class Sine:
    """`mean` plus a wave of `amplitude` that rises through the mean at `phase` seconds."""

    mean: float
    amplitude: float
    period: float
    phase: float = 0.0

    def watts(self, t: float) -> float:
        """Watts at a monotonic instant."""
        return self.mean + self.amplitude * math.sin(self._angle(t))

    def joules(self, start: float, end: float) -> float:
        """Joules between two monotonic instants."""
        wave = math.cos(self._angle(start)) - math.cos(self._angle(end))
        return self.mean * (end - start) + self.amplitude * self.period / math.tau * wave

    def _angle(self, t: float) -> float:
        return math.tau * math.fmod((t - self.phase) / self.period, 1.0)

    def text(self) -> str:
        """Its word in the scenario."""
        return "sine:" + ":".join(map(repr, map(float, (self.mean, self.amplitude, self.period, self.phase))))


@dataclass(frozen=True, slots=True)
class Load:
    """`idle` watts, and those of the processes that are registered on the card: `NvmlStandin` knows of them."""

    idle: float

    def watts(self, t: float) -> float:
        """Watts while nobody is there."""
        return self.idle

    def joules(self, start: float, end: float) -> float:
        """Joules of the card itself between two monotonic instants."""
        return self.idle * (end - start)

    def text(self) -> str:
        """Its word in the scenario."""
        return f"load:{float(self.idle)!r}"


Profile = Constant | Square | Sine | Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One MIG instance. `activity`, in per cent as GPM says it, adds to that of the processes registered on it."""

    uuid: str = ""
    gi: int = -1
    ci: int = 0
    sms: int = 16
    memory_mb: int = 9856
    activity: float = 0.0
    compute: tuple[tuple[int, int], ...] = ()  # PID and bytes


@dataclass(frozen=True, slots=True)
class Registered:
    """A process that was on a card from `start` to `end`, monotonic seconds; infinite: it still is.

    `slot`: on that card's MIG instance; None: on none. `watts` are its own, above the idle of the card.
    """

    gpu: int
    pid: int
    slot: int | None
    start: float
    end: float
    watts: float
    sm: int

    def joules(self, start: float, end: float) -> float:
        """What it used between two monotonic instants."""
        return self.watts * max(0.0, min(end, self.end) - max(start, self.start))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card: what it is, what its sensors do, and what is the matter with it.

    An empty `uuid`, `serial` or `bus_id`, a negative `minor` and a zero `module_id` are made up from its place.
    Names ending in `_at` are monotonic seconds; codes are NVML's.
    """

    profile: Profile = Constant(300.0)
    module_profile: Profile | None = None  # power scope 1; None: not a superchip

    uuid: str = ""
    name: str = "NVIDIA H100 80GB HBM3"
    serial: str | None = ""  # None: not supported
    bus_id: str = ""
    minor: int = -1
    architecture: int = 9
    module_id: int = 0
    mig_capable: bool = True
    mig: tuple[Instance | None, ...] | None = None  # by slot; None: MIG is off

    counter: bool = True
    counter_step: float = 0.02
    counter_start_mj: int = 5_000_000_000  # reads wrong in 32 bits

    power_supported: bool = True
    sensor_update: float = 0.1
    sensor_window: float = 0.1  # shorter than `sensor_update`: sees only a part of the time
    average_window: float = 1.0  # 0: a card without field 185, as A100
    samples_period: float = 0.1  # 0: no ring buffer
    samples_clock: str = "realtime"  # or boottime

    limit_watts: float = 700.0
    default_limit_watts: float = 700.0
    min_limit_watts: float = 200.0
    max_limit_watts: float = 700.0

    utilization_gpu: int = 0
    utilization_memory: int = 0
    memory_total: int = 81_559 * 2**20
    memory_used: int = 0
    memory_reserved: int = 512 * 2**20
    temperature: int = 35
    persistence: bool = True
    pstate: int = 0
    clock_sm: int = 1980
    clock_memory: int = 2619
    clock_reasons: int = 0
    # Who is on it besides those that register themselves: PID and bytes.
    compute: tuple[tuple[int, int], ...] = ()
    graphics: tuple[tuple[int, int], ...] = ()
    mps: tuple[tuple[int, int], ...] = ()
    busy: tuple[tuple[int, int, int, int], ...] = ()  # PID, and per cent of SMs, encoder and decoder
    util_period: float = 0.25  # one sample of each busy process in so many seconds
    util_supported: bool = True
    util_success_if_nobody: bool = False  # the driver says "Success" and nothing, instead of "not found"
    gpm: bool = True

    # The fraction of the time that it is held below its clocks.
    throttle_power: float = 0.0
    throttle_thermal: float = 0.0
    throttle_sync_boost: float = 0.0
    throttle_board_limit: float = 0.0
    throttle_base: float = 0.0  # seconds throttled for each reason before the start

    # Faults.
    hang: float = 0.0  # seconds that every call waits; math.inf: until it is changed
    error: int = 0  # of every call
    handle_error: int = 0  # of looking it up
    power_error: int = 0
    counter_error: int = 0
    counter_zero: bool = False
    counter_scale: float = 1.0
    counter_module: bool = False  # counts the module, not the card
    counter_reset_at: float | None = None  # counts from 0 since then
    counter_frozen_at: float | None = None  # stuck since then
    hidden: bool = False  # processes of another namespace: no list shows them
    processes_error: int = 0
    graphics_error: int = 0
    util_error: int = 0
    util_garbage: bool = False  # entries that are none among the true ones
    util_insufficient: int = 0  # so many fetches are refused before one is answered
    gpm_error: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """What the driver says apart from any card; `started` is when the counters began, monotonic seconds."""

    started: float
    driver: str
    nvml: str = ""
    cuda: int = 12080
    init_error: int = 0
    init_hang: float = 0.0
    error: int = 0  # of every call but init, shutdown and the error's own words
    workloads: str = ""  # the folder in which processes register themselves


@dataclass(frozen=True, slots=True)
class _Throttle:
    """Seconds throttled: `seconds` at `since`, growing by `before` until then and by `after` from then on."""

    seconds: float
    before: float
    since: float
    after: float

    def at(self, t: float) -> float:
        speed = self.before if t < self.since else self.after
        return max(0.0, self.seconds + speed * (t - self.since))

    def text(self) -> str:
        return ":".join(map(repr, (self.seconds, self.before, self.since, self.after)))


_built: dict[tuple[str, ...], Path] = {}


def build(directory: Path, without: Sequence[str] = ()) -> Path:
    """The library, compiled under `directory` or, once per process and variant, before; `without` are symbols."""
    variant = tuple(sorted(without))
    known = _built.get(variant)
    if known is None or not known.exists():
        known = _built[variant] = _compile(directory / "-".join(("lib", *variant)), variant)
    return known


def _compile(directory: Path, without: tuple[str, ...]) -> Path:
    source, compiler = SOURCE.read_text(), shutil.which("cc")
    if compiler is None:
        raise CompilerMissing("no C compiler (cc): the stand-in NVML library cannot be built")
    for name in without:
        if not any(form in source for form in (f" {name}(", f"*{name}(", f"A_LIST({name},")):
            raise ValueError(f"the stand-in never had {name}")
    directory.mkdir(parents=True, exist_ok=True)
    flags = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", f"-Wl,-soname,{LIBRARY}")
    renamed = [f"-D{name}=without_{name}" for name in without]
    done = subprocess.run(
        [compiler, *flags, *renamed, "-o", str(directory / LIBRARY), str(SOURCE), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the stand-in NVML library does not compile:\n{done.stderr}")
    return directory / LIBRARY


class NvmlStandin:
    """A driver with cards that do as they are told, for any child started with `env`."""

    def __init__(
        self,
        directory: Path,
        gpus: Sequence[Gpu],
        *,
        driver: str = "570.86.15",
        without: Sequence[str] = (),
        log: bool = False,
    ) -> None:
        self._scenario = directory / "nvml.scenario"
        self._log = directory / "nvml.calls" if log else None
        self.workloads = directory / "nvml.workloads"
        self.workloads.mkdir(parents=True, exist_ok=True)
        self.workloads.chmod(0o777)  # whoever finds a killed process says when it ended, whichever user that is
        self._built = build(directory, without)
        self._library = Library(started=time.monotonic(), driver=driver, workloads=str(self.workloads))
        self._gpus = [_placed(index, gpu) for index, gpu in enumerate(gpus)]
        self._throttles = {
            (index, policy): _Throttle(gpu.throttle_base, 0.0, self.started, getattr(gpu, f"throttle_{policy}"))
            for index, gpu in enumerate(self._gpus)
            for policy in POLICIES
        }
        self._stamps = itertools.count(time.time_ns())
        self._write()

    @property
    def env(self) -> dict[str, str]:
        """What to merge into a child's environment."""
        log = {} if self._log is None else {"WATTGRAM_STANDIN_NVML_LOG": str(self._log)}
        return {
            "LD_LIBRARY_PATH": str(self._built.parent),
            "WATTGRAM_STANDIN_NVML": str(self._scenario),
            **log,
        }

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The cards as they are now."""
        return tuple(self._gpus)

    @property
    def started(self) -> float:
        """When the counters began, monotonic seconds."""
        return self._library.started

    def change(self, index: int, **changes: Any) -> None:
        """Give a card other properties or faults, seen by every running child at its next call."""
        old = self._gpus[index]
        new = _placed(index, replace(old, **changes))
        fixed = ("profile", "module_profile", "counter_start_mj", "throttle_base")
        if any(getattr(old, name) != getattr(new, name) for name in fixed):
            raise ValueError(f"fixed for the life of a card, or its counters would step: {', '.join(fixed)}")
        self._gpus[index] = new
        since = time.monotonic() + _NOTICE
        for policy in POLICIES:
            before, after = getattr(old, f"throttle_{policy}"), getattr(new, f"throttle_{policy}")
            if before != after:
                seconds = self.throttled(index, policy, since)
                self._throttles[index, policy] = _Throttle(seconds, before, since, after)
        self._write()

    def library(self, **changes: Any) -> None:
        """Change what the driver says apart from any card: see `Library`."""
        if "started" in changes:
            raise ValueError("fixed for the life of the cards, or their counters would step: started")
        self._library = replace(self._library, **changes)
        self._write()

    def joules(self, index: int, start: float, end: float) -> float:
        """What a card truly used between two monotonic instants, whatever its meters say."""
        profile = self._gpus[index].profile
        loads = self.registered() if isinstance(profile, Load) else ()
        return profile.joules(start, end) + sum(r.joules(start, end) for r in loads if r.gpu == index)

    def watts(self, index: int, at: float) -> float:
        """What a card truly draws at a monotonic instant."""
        profile = self._gpus[index].profile
        loads = self.registered() if isinstance(profile, Load) else ()
        return profile.watts(at) + sum(r.watts for r in loads if r.gpu == index and r.start <= at < r.end)

    def registered(self) -> tuple[Registered, ...]:
        """Every process that ever registered itself on a card, in order of their starts.

        A killed one's end is the moment at which the library, or this function, first found it dead.
        """
        files = (path for path in self.workloads.iterdir() if "." not in path.name)
        return tuple(sorted(map(_registered, files), key=lambda r: (r.start, r.gpu, r.pid)))

    def truth(self, start: float, end: float, index: int | None = None) -> dict[int, float]:
        """Joules, above the cards' idle, of each process that was on a card, or on this one, between two instants."""
        joules: dict[int, float] = {}
        for r in self.registered():
            if index in (None, r.gpu) and r.start < end and r.end > start:
                joules[r.pid] = joules.get(r.pid, 0.0) + r.joules(start, end)
        return joules

    def command(self, *places: str, options: Sequence[str] = ()) -> list[str]:
        """The command of a real process that registers itself; see workload.py for the words."""
        on = [word for place in places for word in ("--on", place)]
        return [sys.executable, str(WORKLOAD), str(self.workloads), *on, *options]

    def put(self, place: str, pid: int, *, start: float, end: float = math.inf) -> None:
        """Register a process, real or not, from one monotonic instant to another; nobody looks whether it lives."""
        name = workload.register(self.workloads, place, pid, start, born=0)
        if end < math.inf:
            workload.end(self.workloads, name, end)

    @contextlib.contextmanager
    def running(self, *places: str, options: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
        """A real process that is on cards, from its announced start until the end of the block, or earlier its own."""
        command = self.command(*places, options=options)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                if process.stdout.readline() != "on\n":
                    raise RuntimeError(f"{command}: did not start")
                yield process
            finally:
                process.terminate()

    def throttled(self, index: int, policy: str, at: float) -> float:
        """Seconds that a card counts for one of `POLICIES` at a monotonic instant."""
        return self._throttles[index, policy].at(at)

    def calls(self) -> Counter[tuple[str, int]]:
        """How often each function was called for each card (-1: for none), by all children; needs `log`."""
        if self._log is None:
            raise ValueError("not asked to keep a log")
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return Counter((name, int(index)) for name, index in map(str.split, lines))

    def _write(self) -> None:
        scenario = "\n".join(self._lines()) + "\n"
        written = self._scenario.with_suffix(".new")
        written.write_text(scenario)
        # Two files written within one tick of the kernel's clock must differ in their time.
        os.utime(written, ns=(0, next(self._stamps)))
        written.replace(self._scenario)

    def _lines(self) -> Iterator[str]:
        library = replace(self._library, nvml=self._library.nvml or f"12.{self._library.driver}")
        yield "library " + " ".join(_words(library))
        for index, gpu in enumerate(self._gpus):
            throttles = (f"throttle_{policy}={self._throttles[index, policy].text()}" for policy in POLICIES)
            yield " ".join((f"gpu index={index}", *_words(gpu), *throttles))
            for slot, instance in enumerate(gpu.mig or ()):
                if instance is not None:
                    yield " ".join((f"mig gpu={index} slot={slot}", *_words(instance)))


def _registered(path: Path) -> Registered:
    """One process, by its files; the first to find it dead says when it ended."""
    gpu, pid, slot = map(int, path.name.split("_")[0].split("-"))
    start, born, watts, _, sm, *_ = path.read_text().split()
    end = path.with_name(f"{path.name}.end")
    if not end.exists() and int(born) and workload.born(pid) != int(born):
        workload.end(path.parent, path.name, max(time.monotonic(), float(start)))
    ended = float(end.read_text()) if end.exists() else math.inf
    return Registered(gpu, pid, None if slot >= SLOTS else slot, float(start), ended, float(watts), int(sm))


def _placed(index: int, gpu: Gpu) -> Gpu:
    return replace(
        gpu,
        uuid=gpu.uuid or f"GPU-5ca1ab1e-0000-4000-8000-{index:012x}",
        serial=f"16500210{index:05d}" if gpu.serial == "" else gpu.serial,
        bus_id=gpu.bus_id or f"00000000:{7 + index:02X}:00.0",
        minor=index if gpu.minor < 0 else gpu.minor,
        module_id=gpu.module_id or index + 1,
        mig=gpu.mig and tuple(_instance(index, slot, instance) for slot, instance in enumerate(gpu.mig)),
    )


def _instance(index: int, slot: int, instance: Instance | None) -> Instance | None:
    if instance is None:
        return None
    return replace(
        instance,
        uuid=instance.uuid or f"MIG-5ca1ab1e-0000-4000-8{index:03x}-{slot:012x}",
        gi=slot + 1 if instance.gi < 0 else instance.gi,
    )


def _words(line: Gpu | Library | Instance) -> Iterator[str]:
    for field in fields(line):
        value = getattr(line, field.name)
        if field.name == "mig":
            yield f"mig_enabled={int(value is not None)}"
        elif value is not None and not field.name.startswith("throttle_"):
            yield f"{field.name}={_word(value)}"


def _word(value: Profile | tuple[tuple[int, ...], ...] | str | float) -> str:
    if isinstance(value, Constant | Square | Sine | Load):
        return value.text()
    if isinstance(value, tuple):
        return ",".join(":".join(map(str, one)) for one in value)
    if isinstance(value, str):
        return quote(value)
    return repr(int(value) if isinstance(value, bool) else value)
