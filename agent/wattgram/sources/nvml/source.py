"""All GPUs at once, none waiting for another: one daemon thread per GPU makes all its calls, handle included.

A call that hangs in the kernel holds its own thread and nothing else; what came in time is given, the rest is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, Protocol

from wattgram.model import Counter, Device, Failure, Instant, Reading, Sample, State
from wattgram.ports import Clock, ReadFailed, Unavailable

OPEN_SECONDS = 15.0
LOST = frozenset({15, 16})
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
    def microjoules(self, handle: Any) -> int | None: ...  # noqa: D102
    def watts(self, handle: Any) -> float | None: ...  # noqa: D102
    def state(self, handle: Any) -> State: ...  # noqa: D102


@dataclass(slots=True)
class _Answer:
    """What one GPU's thread has to say to one request; `turn` is the request's number."""

    turn: int = 0
    reading: Reading | None = None
    failure: ReadFailed | None = None


class NvmlSource:
    """`every` is the interval in seconds; an answer is waited for half of it."""

    def __init__(self, binding: Binding, clock: Clock, *, every: float, state_every: float) -> None:
        self._binding = binding
        self._clock = clock
        self._patience = every / 2
        self._state_every = state_every
        self._gpus: tuple[_Gpu, ...] = ()
        self._news = Condition()
        self._turn = 0

    def open(self) -> None:
        """Initialise, find the GPUs and identify them; raise Unavailable or ReadFailed."""
        self._binding.open()
        count = self._binding.count()
        if count == 0:
            raise Unavailable("the NVIDIA driver shows no GPU", "in a container: NVIDIA_VISIBLE_DEVICES=all")
        driver = self._binding.driver()
        self._gpus = tuple(_Gpu(self, index, driver) for index in range(count))
        self._ask(OPEN_SECONDS)
        if not any(gpu.device for gpu in self._gpus):
            failure = next((gpu.answer.failure for gpu in self._gpus if gpu.answer.failure), None)
            raise failure or ReadFailed(f"no GPU answered within {OPEN_SECONDS:g} s", "timeout")

    def read(self) -> Sample:
        """Return the readings that came within half an interval, and the names of the rest; raise ReadFailed when
        every GPU refused for a reason that only a new process mends.
        """
        self._ask(self._patience)
        now = self._clock.now()
        readings = []
        failed = []
        for gpu in self._gpus:
            answer = gpu.answer
            if answer.turn == self._turn and answer.reading is not None:
                readings.append(answer.reading)
            elif gpu.device is not None:
                failed.append(self._failure(gpu.device, answer))
        fatal = next((g.answer.failure for g in self._gpus if g.answer.failure and g.answer.failure.fatal), None)
        if fatal is not None and not readings:
            raise fatal
        return Sample(now, tuple(readings), failed=tuple(failed))

    def close(self) -> None:
        """Let go of the driver."""
        self._binding.close()

    def _ask(self, seconds: float) -> None:
        """Ask every GPU that is not still busy with an older question, and wait for the answers."""
        with self._news:
            self._turn += 1
            for gpu in self._gpus:
                gpu.wanted = self._turn
            self._news.notify_all()
            self._news.wait_for(lambda: all(g.answer.turn == self._turn for g in self._gpus), seconds)

    def _failure(self, device: Device, answer: _Answer) -> Failure:
        if answer.turn != self._turn:
            return Failure(device, f"no answer within {self._patience:.3g} s")
        code = getattr(answer.failure, "code", 0)
        return Failure(device, str(answer.failure), event="lost" if code in LOST else "")

    def serve(self, gpu: _Gpu) -> None:
        """Answer one GPU's questions, for ever: the body of its thread."""
        while True:
            with self._news:
                self._news.wait_for(lambda: gpu.wanted > gpu.answer.turn)
                turn = gpu.wanted
            answer = _Answer(turn)
            try:
                answer.reading = self._read(gpu)
            except ReadFailed as failure:
                answer.failure = failure
                if getattr(failure, "code", 0) in STALE_HANDLE:
                    gpu.handle = None
            with self._news:
                gpu.answer = answer
                self._news.notify_all()

    def _read(self, gpu: _Gpu) -> Reading:
        if gpu.handle is None:
            self._identify(gpu)
        assert gpu.device is not None
        before = self._clock.now()
        microjoules = self._binding.microjoules(gpu.handle)
        watts = self._binding.watts(gpu.handle)
        after = self._clock.now()
        if gpu.state is None or after.mono - gpu.state_at >= self._state_every:
            gpu.state, gpu.state_at = self._binding.state(gpu.handle), after.mono
        return Reading(
            gpu.device,
            Instant((before.mono + after.mono) / 2, (before.wall + after.wall) / 2),
            watts=watts,
            counter=None if microjoules is None else Counter(microjoules),
            state=gpu.state,
            driver=gpu.driver,
        )

    def _identify(self, gpu: _Gpu) -> None:
        """Get a handle anew; another card in the same place is not the card we know."""
        handle = self._binding.handle(gpu.index)
        device = self._binding.device(handle, gpu.index)
        if gpu.device is not None and device.id != gpu.device.id:
            raise ReadFailed(f"{device.id} now stands where {gpu.device.id} was")
        gpu.device, gpu.handle = device, handle


class _Gpu:
    """One GPU's thread and what it knows; `device` None: it never answered."""

    def __init__(self, source: NvmlSource, index: int, driver: str) -> None:
        self.index = index
        self.driver = driver
        self.handle: Any = None
        self.device: Device | None = None
        self.state: State | None = None
        self.state_at = 0.0
        self.wanted = 0
        self.answer = _Answer()
        Thread(target=source.serve, args=(self,), name=f"gpu-{index}", daemon=True).start()
