"""All GPUs, none waiting for another for longer than a moment: their calls are made by other threads (`hands.py`).

A call that hangs in the kernel holds its own thread and nothing else; what came in time is given, the rest is named.
Who keeps a GPU busy is looked at once its power is known.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from wattgram.model import Counter, Device, Failure, Reading, Sample, State
from wattgram.ports import Clock, ReadFailed, Unavailable
from wattgram.sources.nvml.activity import Watch
from wattgram.sources.nvml.hands import Hands
from wattgram.sources.nvml.options import Calibration
from wattgram.sources.nvml.ring import Ring
from wattgram.sources.nvml.watching import Watching, spacing
from wattgram.tools.sysfs import listed, read_text
from wattgram.tools.timed import timed

if TYPE_CHECKING:
    from wattgram.sources.nvml.binding import Power

OPEN_SECONDS = 15.0
# Once one GPU has answered at the start the others have so long; a later one joins when it does.
GRACE_SECONDS = 2.0
# Within so long one thread goes through all GPUs; then each that was not yet asked gets its own.
HASTE, PART_OF_PATIENCE = 0.02, 0.25
LOOK_SECONDS = 30.0
# So long, and so much of a turn at most, the readings wait for the looks that were begun with them.
ACTIVITY_GRACE, PART_OF_TURN = 0.2, 0.2
LONGEST_PATIENCE = 5.0
# A wait that ends so much later than it should: this process was stopped, and its threads with it.
OVERSLEPT = 0.25
LOST = frozenset({15, 16})
MODULE_CEILING_WATTS = 6000.0
STALE_HANDLE = frozenset({1, 2, 15, 16, 28})


class Binding(Protocol):
    """What this source needs of NVML; see `binding.Nvml`."""

    def open(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102
    def driver(self) -> str: ...  # noqa: D102
    def count(self) -> int: ...  # noqa: D102
    def handle(self, index: int) -> Any: ...  # noqa: D102
    def uuid(self, handle: Any) -> str: ...  # noqa: D102
    def device(self, handle: Any, index: int) -> Device: ...  # noqa: D102
    def serial(self, handle: Any) -> str: ...  # noqa: D102
    def power(self, handle: Any) -> Power: ...  # noqa: D102
    def samples(self, handle: Any, last: int) -> list[tuple[int, float]]: ...  # noqa: D102
    def state(self, handle: Any) -> State: ...  # noqa: D102


@dataclass(slots=True)
class _Answer:
    """What is known of one GPU after one request; `turn` is the request's number."""

    turn: int = 0
    reading: Reading | None = None
    handle: Any = None
    failure: ReadFailed | None = None


class NvmlSource:
    """`every` is the interval in seconds; an answer is waited for half of it.

    `watch` makes what looks at one GPU every so many seconds; None: nobody does.
    """

    def __init__(
        self,
        binding: Binding,
        clock: Clock,
        *,
        every: float,
        state_every: float,
        calibration: Mapping[str, Calibration] = MappingProxyType({}),
        sysfs: Path = Path("/sys"),
        procfs: Path = Path("/proc"),
        activity_every: float = 1.0,
        watch: Callable[[float], Watch] | None = None,
    ) -> None:
        self._binding = binding
        self._calibration = calibration
        self._sysfs = sysfs
        self._bound = procfs / "driver" / "nvidia" / "gpus"
        self._cards: frozenset[str] = frozenset()
        self._looked = 0.0
        self._modules: dict[str, str] = {}
        self._opened = False
        self._clock = clock
        self._patience = min(every / 2, LONGEST_PATIENCE)
        self._state_every = state_every
        self._every = every
        self._activity_every = spacing(every, activity_every)
        self._watch = watch
        self._gpus: tuple[_Gpu, ...] = ()
        self._lock = Lock()
        self._hands = Hands("gpu")
        self._bell = clock.bell()
        self._turn = 0

    def open(self) -> None:
        """Initialise, find the GPUs and identify them; raise Unavailable or ReadFailed."""
        self._binding.open()
        count = self._binding.count()
        if count == 0:
            raise Unavailable("the NVIDIA driver shows no GPU", "in a container: NVIDIA_VISIBLE_DEVICES=all")
        driver = self._binding.driver()
        self._cards, self._looked = self._bound_cards(), self._clock.now().mono
        self._gpus = tuple(_Gpu(self, index, driver) for index in range(count))
        self._ask()
        self._await(OPEN_SECONDS, any)
        self._await(GRACE_SECONDS, all)
        if not any(gpu.device for gpu in self._gpus):
            failure = next((gpu.answer.failure for gpu in self._gpus if gpu.answer.failure), None)
            raise failure or ReadFailed(f"no GPU answered within {OPEN_SECONDS:g} s", "timeout")
        self._look_on()
        for gpu in self._gpus:  # in the order of their indices, whichever answered first: socket N is module N
            if gpu.device is not None:
                gpu.device = self._placed(gpu.device, gpu.serial)
        self._opened = True

    def read(self) -> Sample:
        """Return the readings that came within half an interval, and the names of the rest; raise ReadFailed when
        every GPU refused for a reason that only a new process mends, or a new card can be seen only by one.
        """
        self._look_around()
        self._ask()
        self._await(self._patience, all)
        self._look_on()
        now = self._clock.now()
        readings = []
        failed = []
        for gpu in self._gpus:
            answer = gpu.answer
            if answer.turn == self._turn and answer.reading is not None:
                readings.append(answer.reading)
                gpu.taken = answer.turn
            else:
                failed.append(self._failure(gpu.device or Device("gpu", f"gpu {gpu.index}"), answer))
        fatal = next((g.answer.failure for g in self._gpus if g.answer.failure and g.answer.failure.fatal), None)
        if fatal is not None and not readings:
            raise fatal
        rest = module_rest(readings, {gpu.device: gpu.module_watts for gpu in self._gpus if gpu.device})
        activities = [activity for gpu in self._gpus if gpu.watching for activity in gpu.watching.take(now.mono)]
        return Sample(now, (*readings, *rest), tuple(activities), tuple(failed))

    def close(self) -> None:
        """Let go of the driver."""
        self._binding.close()

    def _ask(self) -> None:
        """Ask every GPU that is not still busy with an older question."""
        with self._lock:
            self._turn += 1
            free = [gpu for gpu in self._gpus if not gpu.is_asked]
            for gpu in self._gpus:
                gpu.wanted, gpu.is_asked = self._turn, True
        self._hands.do(partial(self._serve, gpu) for gpu in free)

    def _await(self, seconds: float, enough: Callable[[Iterable[bool]], bool]) -> None:
        """Wait until enough GPUs, any or all, have answered, so long at most, not counting time in which none ran."""
        end, excused = self._clock.now().mono + seconds, False
        while not self._is_settled(end, lambda: enough(g.answer.turn == self._turn for g in self._gpus)):
            now = self._clock.now().mono
            if excused or now - end < OVERSLEPT:
                return
            end, excused = now + seconds, True

    def _look_on(self) -> None:
        """Once all power is known, have each GPU that answered looked at, and wait a moment for what is seen; what
        comes later comes with a later sample.
        """
        looking, jobs = [], []
        for gpu in self._gpus:
            reading = gpu.answer.reading if gpu.answer.turn == self._turn else None
            if gpu.watching is not None and reading is not None:
                job = gpu.watching.ask(reading.device, gpu.answer.handle, reading.at)
                jobs += [job] if job else []
                looking.append(gpu.watching)
        self._hands.do(jobs)
        end = self._clock.now().mono + min(ACTIVITY_GRACE, PART_OF_TURN * self._every)
        self._is_settled(end, lambda: not any(watching.is_awaited for watching in looking))
        for watching in looking:
            watching.give_up()

    def _is_settled(self, end: float, settled: Callable[[], bool]) -> bool:
        """Wait until something is so, or until a moment; who works is told to hurry when it takes long."""
        patience = min(HASTE, PART_OF_PATIENCE * self._patience)
        while not settled():
            left = end - self._clock.now().mono
            if left > 0 and self._bell.wait(min(left, patience)):
                continue
            self._hands.hurry()
            if patience >= left:
                return settled()
            patience = left
        return True

    def watching(self) -> Watching | None:
        """Return what looks at one GPU."""
        if self._watch is None:
            return None
        every = self._activity_every
        return Watching(self._watch(every), every, self._every, self._looked_on)

    def _answered(self) -> None:
        """Wake who waits for the GPUs' answers, if this was the last of them or any is enough."""
        if not self._opened or all(gpu.answer.turn == self._turn for gpu in self._gpus):
            self._bell.ring()

    def _looked_on(self) -> None:
        """Wake who waits for the looks at GPUs, if this was the last of them."""
        if not any(gpu.watching is not None and gpu.watching.is_awaited for gpu in self._gpus):
            self._bell.ring()

    def _look_around(self) -> None:
        """Raise ReadFailed when the kernel has bound a card since NVML was initialised, which cannot show it."""
        now = self._clock.now().mono
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        cards = self._bound_cards()
        new = sorted(cards - self._cards)
        self._cards = cards
        if new:
            raise ReadFailed(f"the driver has a new GPU at {', '.join(new)}", "server", fatal=True)

    def _bound_cards(self) -> frozenset[str]:
        """The PCI addresses of the cards that the driver is bound to, as far as this container shows them."""
        try:
            return frozenset(path.name for path in listed(self._bound, "*"))
        except ReadFailed:
            return self._cards

    def _failure(self, device: Device, answer: _Answer) -> Failure:
        if answer.turn != self._turn:
            return Failure(device, f"no answer within {self._patience:.3g} s")
        if isinstance(answer.failure, _Suspended):
            return Failure(device, str(answer.failure), event="suspended")
        code = getattr(answer.failure, "code", 0)
        return Failure(device, str(answer.failure), event="lost" if code in LOST else "")

    def _serve(self, gpu: _Gpu) -> None:
        """Answer one GPU's questions until there is no newer one."""
        while True:
            with self._lock:
                if gpu.wanted == gpu.answer.turn:
                    gpu.is_asked = False
                    return
                turn = gpu.wanted
            answer = _Answer(turn)
            try:
                answer.reading = self._read(gpu)
                answer.handle = gpu.handle
            except ReadFailed as failure:
                answer.failure = failure
                if getattr(failure, "code", 0) in STALE_HANDLE:
                    gpu.handle = None
            gpu.answer = answer
            self._answered()

    def _read(self, gpu: _Gpu) -> Reading:
        if gpu.device is not None and _is_suspended(gpu.sleeps):
            raise _Suspended(f"{gpu.device.id} is suspended, and is not woken")
        if gpu.handle is None:
            self._identify(gpu)
        assert gpu.device is not None
        handle = gpu.handle
        # A call that takes longer than this is late in any case, unless all of us were stopped in its middle.
        power, at = timed(self._clock, lambda: self._binding.power(handle), self._patience)
        now = self._clock.now().mono
        gpu.module_watts = power.module_watts
        counter = None if power.microjoules is None else Counter(power.microjoules)
        trace = () if counter else self._trace(gpu)
        self._observe(gpu, now)
        return Reading(
            gpu.device,
            at,
            watts=power.watts,
            counter=counter,
            trace=trace,
            state=gpu.state,
            driver=gpu.driver,
        )

    def _trace(self, gpu: _Gpu) -> tuple[tuple[float, float], ...]:
        """The driver's samples since the last turn; none when it will not tell: power is known all the same."""
        if not self._opened:  # nobody sees this reading: the first trace, which reaches far back, is not for it
            with suppress(ReadFailed):
                for newest, _ in self._binding.samples(gpu.handle, 0)[-1:]:
                    gpu.ring.calibrate(newest)
            return ()
        if gpu.taken and gpu.answer.turn != gpu.taken:  # the last answer came too late, and its samples with it
            gpu.ring.rewind()
        with suppress(ReadFailed):
            # Samples that came after the moment at which they are said to be read would lie in the past for many turns.
            samples, at = timed(self._clock, lambda: self._binding.samples(gpu.handle, gpu.ring.last), self._patience)
            return gpu.ring.trace(samples, at.mono)
        return ()

    def _observe(self, gpu: _Gpu, mono: float) -> None:
        """Note once in a while what the card says beside power; it is metered also when it will not tell."""
        if gpu.state is None or mono - gpu.state_at >= self._state_every:
            gpu.state_at, gpu.state = mono, None  # what it does not say now is not what it said before
            with suppress(ReadFailed):
                gpu.state = self._binding.state(gpu.handle)

    def _identify(self, gpu: _Gpu) -> None:
        """Get a handle anew; another card in the same place is not the card we know."""
        handle = self._binding.handle(gpu.index)
        device = self._binding.device(handle, gpu.index)
        if gpu.device is not None and device.id != gpu.device.id:
            raise ReadFailed(f"{device.id} now stands where {gpu.device.id} was")
        wanted = self._calibration.get(device.id, Calibration())
        device = replace(device, gain=wanted.gain, offset_watts=wanted.offset_w)
        gpu.serial = self._binding.serial(handle)
        gpu.device = self._placed(device, gpu.serial) if self._opened else device
        gpu.sleeps = self._sysfs / "bus" / "pci" / "devices" / device.pci_bus_id / "power" / "runtime_status"
        gpu.handle = handle

    def _placed(self, device: Device, serial: str) -> Device:
        """The device with the name of its Grace module: that of all GPUs of one serial number, which stays with us."""
        if not device.on_trial:
            return device
        with self._lock:
            return replace(device, module=self._modules.setdefault(serial, f"module-{len(self._modules)}"))


def _is_suspended(runtime_status: Path) -> bool:
    """Whether the kernel has put a card to sleep; any NVML call would wake it."""
    try:
        return read_text(runtime_status) == "suspended"
    except ReadFailed:
        return False


def module_rest(readings: Sequence[Reading], modules: Mapping[Device, float | None]) -> Iterator[Reading]:
    """Yield what each Grace module draws beside its GPUs: the median of its GPUs' module readings, once, less theirs.

    A module of which a GPU did not answer says nothing; less than nothing is 0, and counted as a clamp.
    """
    by_module: dict[str, list[Reading]] = {}
    for reading in readings:
        if reading.device.module:
            by_module.setdefault(reading.device.module, []).append(reading)
    members = Counts(device.module for device in modules)
    for name, own in by_module.items():
        watts = [w for r in own if (w := modules.get(r.device)) is not None]
        if len(own) != members[name] or not watts or any(r.watts is None for r in own):
            continue
        rest = median(watts) - sum(r.watts or 0.0 for r in own)
        device = Device(
            "module_rest",
            name.replace("module", "module-rest"),
            name="Grace module without its GPUs",
            module=name,
            covers="cpu+dram+rest",
            max_watts=MODULE_CEILING_WATTS,
            events=("gap", "implausible", "clamp", "paused"),
        )
        events = ("clamp",) if rest < 0 else ()
        yield Reading(device, own[-1].at, watts=max(rest, 0.0), driver=own[0].driver, events=events)


class _Suspended(ReadFailed):
    """The card sleeps."""


class _Gpu:
    """One GPU and what is known of it; `device` None: it never answered."""

    def __init__(self, source: NvmlSource, index: int, driver: str) -> None:
        self.index = index
        self.driver = driver
        self.handle: Any = None
        self.sleeps = Path()
        self.device: Device | None = None
        self.serial = ""
        self.ring = Ring()
        self.module_watts: float | None = None
        self.state: State | None = None
        self.state_at = 0.0
        self.wanted = 0
        self.is_asked = False
        self.taken = 0
        self.answer = _Answer()
        self.watching = source.watching()
