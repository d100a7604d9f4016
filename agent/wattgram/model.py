"""Every value that passes through the house: frozen, without I/O, with its unit in its name."""

from __future__ import annotations

from dataclasses import dataclass, field

MICROJOULES_PER_JOULE = 1_000_000
MICROJOULES_PER_KWH = 3_600_000_000_000
SECONDS_PER_HOUR = 3600.0

# Carbon is kept as exactly as energy: microjoules times whole micrograms per kWh, an integer.
# One gram is this many of that product.
CARBON_PER_GRAM = MICROJOULES_PER_KWH * 1_000_000


def joules(microjoules: int) -> float:
    """Joules, to float precision."""
    return microjoules / MICROJOULES_PER_JOULE


def grams(carbon: int) -> float:
    """Grams of CO2-equivalent, to float precision, of an exact `carbon` product."""
    return carbon / CARBON_PER_GRAM


# --- closed vocabularies: a new word is a changelog entry ---------------------------------------

COMPONENTS = ("gpu", "cpu", "dram", "module_rest", "host_rest")
KINDS = ("slurm", "pod", "container", "unit", "user", "vm", "mig", "pool")
QUALITIES = ("measured", "apportioned", "estimated", "synthetic")
BASES = ("live", "estimated", "forecast", "held", "annual", "constant", "none")
FACTORS = ("lifecycle", "direct")
ACTIVITIES = ("active", "idle")
EVENTS = ("wrap", "reset", "gap", "implausible", "stuck", "lost", "suspended", "paused", "clamp")
METHODS = ("counter", "samples", "power", "estimate")


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on two clocks: durations only from `mono` (seconds), dates only from `wall` (Unix seconds)."""

    mono: float
    wall: float


@dataclass(frozen=True, slots=True)
class Device:
    """Something that draws power and never overlaps another device.

    `component` and `id` are its identity (GPU UUID, `package-0`, `dram-0`), stable over restarts; the rest
    describes it. `covers` says what its meter sees, `max_watts` what it can draw at most (None: unknown), and
    `events` which kinds of event its meter can have, so that each is shown at 0 from the start. `gain` and
    `offset_watts` are the user's calibration. `on_trial`: its counter must first agree with its power.
    `uncertainty` is the stated 95 % half-width for 10 s and more by method, where it is established.
    """

    component: str
    id: str
    name: str = field(default="", compare=False)
    index: str = field(default="", compare=False)
    pci_bus_id: str = field(default="", compare=False)
    module: str = field(default="", compare=False)
    covers: str = field(default="", compare=False)
    quality: str = field(default="measured", compare=False)
    max_watts: float | None = field(default=None, compare=False)
    events: tuple[str, ...] = field(default=(), compare=False)
    gain: float = field(default=1.0, compare=False)
    offset_watts: float = field(default=0.0, compare=False)
    on_trial: bool = field(default=False, compare=False)
    uncertainty: tuple[tuple[str, float], ...] = field(default=(), compare=False)

    @property
    def calibration(self) -> str:
        """The calibration in words; none: figures are the sensor's own."""
        if self.gain == 1.0 and self.offset_watts == 0.0:
            return "none"
        return f"gain={self.gain:g},offset_w={self.offset_watts:g}"


@dataclass(frozen=True, slots=True)
class Counter:
    """A hardware energy counter's value; `wraps_at` None: a decrease is a reset, never a wrap."""

    microjoules: int
    wraps_at: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What a GPU says of itself beside power; None: it does not say.

    `throttled` holds cumulative seconds below the asked clocks by reason, as the driver counts them.
    """

    utilization: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    power_limit_watts: float | None = None
    throttled: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What one device said at one moment: optional facts instead of one number that must be guessed.

    `trace` holds pairs of monotonic seconds and watts, ascending, each the mean since the one before. `driver` names
    the software that answered; `events` are remarks of the source's own, each to be counted once.
    """

    device: Device
    at: Instant
    watts: float | None = None
    counter: Counter | None = None
    trace: tuple[tuple[float, float], ...] = ()
    state: State | None = None
    driver: str = ""
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """One process for ever: its pid as the host counts, and its start in clock ticks since boot, field 22 of
    /proc/PID/stat; `started` 0: unknown, and then the pid may be anybody's.
    """

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody that kept a device busy: a process, or all that runs in one control group (`path`, from the root of its
    hierarchy); one of the two is there.

    `weight`, of no unit, is comparable within its activity; None: how busy it was is not known. `present` is the part
    of the time, 0 to 1, for which it was there. `part` names the MIG instance that it runs in. `uid`: whose it is, if
    that is known. `program`: the process's name, for people.
    """

    process: Process | None = None
    path: str = ""
    weight: float | None = None
    present: float = 1.0
    part: str = ""
    uid: int | None = None
    program: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One MIG instance of a GPU: its UUID, and its weight, of no unit; 0: nobody is there."""

    id: str
    weight: float


@dataclass(frozen=True, slots=True)
class Activity:
    """Who kept a device, or all of a component's (`device` empty), busy between two moments: who is not in it was not
    there. A newer one comes every `every` seconds.

    `parts`: its MIG instances, if it is divided. `system` is the weight of the machine's own doing, `idle` that of
    doing nothing, both in the actors' unit; `idle` None: that is for the idle floor to say. `utilization`, 0 to 1, is
    the device's as a whole; None: unknown.
    """

    component: str
    device: str
    start: Instant
    end: Instant
    every: float
    actors: tuple[Actor, ...] = ()
    parts: tuple[Part, ...] = ()
    system: float = 0.0
    idle: float | None = None
    utilization: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A device that was asked and did not answer; `event` is what to count when it begins, such as lost."""

    device: Device
    reason: str
    event: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one source gave in one turn; `failed` is partial success: the other readings still count."""

    at: Instant
    readings: tuple[Reading, ...] = ()
    activities: tuple[Activity, ...] = ()
    failed: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class EnergyDelta:
    """Energy a device used between two moments, and how that is known."""

    device: Device
    start: Instant
    end: Instant
    microjoules: int
    method: str

    @property
    def seconds(self) -> float:
        """The length of the interval, by the monotonic clock."""
        return self.end.mono - self.start.mono


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of time in which a device should have been metered and was not."""

    device: Device
    start: Instant
    end: Instant
    reason: str

    @property
    def seconds(self) -> float:
        """The length of the interval, by the monotonic clock."""
        return self.end.mono - self.start.mono


@dataclass(frozen=True, slots=True)
class Event:
    """Something remarkable that happened to a device's meter: wrap, reset, gap, implausible, lost."""

    device: Device
    kind: str


@dataclass(frozen=True, slots=True)
class Throttle:
    """Seconds that a device newly spent below the clocks asked of it, for one reason; reasons overlap."""

    device: Device
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Advance:
    """What a meter makes of one sample.

    `methods` says how each device that answered is metered now, `crosschecks` what its counter showed per integrated
    power over the last minutes, `failed` which devices did not answer, those that were not even mentioned included.
    """

    deltas: tuple[EnergyDelta, ...] = ()
    gaps: tuple[Gap, ...] = ()
    events: tuple[Event, ...] = ()
    throttles: tuple[Throttle, ...] = ()
    methods: tuple[tuple[Device, str], ...] = ()
    crosschecks: tuple[tuple[Device, float], ...] = ()
    failed: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Workload:
    """On whose behalf energy was used; `kind` is pool for the house's own accounts."""

    kind: str
    id: str
    owner: str


def _pool(name: str) -> Workload:
    return Workload("pool", name, name)


UNATTRIBUTED, IDLE, SYSTEM, OTHER = _pool("unattributed"), _pool("idle"), _pool("system"), _pool("other")


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is to be named: the control groups it is in (`paths`, one per hierarchy), its process and user, if known."""

    paths: tuple[str, ...]
    process: Process | None = None
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """What a namer makes of a subject; `workload` None: it knows whose it is, but not the name yet.

    `depth` is where in its path the name ended: of several the deepest is meant. `name` and `account` are for people.
    """

    workload: Workload | None
    depth: int = 0
    name: str = ""
    account: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """A workload's part of one delta; the shares of a delta add up to it exactly."""

    workload: Workload
    activity: str
    quality: str
    delta: EnergyDelta
    microjoules: int


@dataclass(frozen=True, slots=True)
class Intensity:
    """What a provider says of a grid for the half-open interval [start, end), both Unix seconds.

    `factor` is lifecycle or direct, `signal` average or marginal, `boundary` production or consumption;
    `edition` is the year or edition of a yearly figure.
    """

    zone: str
    provider: str
    start: float
    end: float
    grams_per_kwh: float
    basis: str
    factor: str
    signal: str = "average"
    boundary: str = "unknown"
    published: float | None = None
    fetched: float = 0.0
    edition: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Charge:
    """A share, or the part of it that fell under one price. `carbon` None: unpriced."""

    share: Share
    microjoules: int
    carbon: int | None
    basis: str
    factor: str


@dataclass(frozen=True, slots=True)
class Health:
    """How one source or provider is doing; the reader computes ages.

    `every` is its interval in seconds; `up` None: it was never opened and nobody asked for it by name. `requests`
    counts what a provider asked over the network. `unanswered` pairs what a source should read and cannot now, a
    device's id or a place such as `gpu 3`, with the reason.
    """

    name: str
    kind: str
    every: float
    up: bool | None = None
    turns: int = 0
    failures: tuple[tuple[str, int], ...] = ()
    seconds: float = 0.0
    last_success: Instant | None = None
    error: str = ""
    remedy: str = ""
    child: Cost | None = None
    requests: int = 0
    successes: int = 0
    unanswered: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process of ours has used so far."""

    cpu_seconds: float
    resident_bytes: int
    virtual_bytes: int = 0
    open_fds: int = 0
    max_fds: int = 0
    start_time: float = 0.0
