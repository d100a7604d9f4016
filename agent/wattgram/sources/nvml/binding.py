"""What we ask of NVML, in our units, with its errors translated once.

What a board cannot tell is None. Errors keep their number: what follows from it is the source's business.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml

from wattgram.model import Device, State
from wattgram.ports import ReadFailed, Unavailable
from wattgram.sources.nvml.boards import uncertainty

MICROJOULES_PER_MILLIJOULE = 1000
MILLIWATTS_PER_WATT = 1000.0
NANOSECONDS_PER_SECOND = 1e9
HEADROOM, DEFAULT_HEADROOM = 1.5, 1.2
EVENTS_WITH_COUNTER = ("reset", "gap", "implausible", "lost", "stuck", "suspended", "paused")
EVENTS_WITHOUT = ("gap", "implausible", "lost", "suspended", "paused")
# Where no limit is told: more than any board draws, so that a glitch of the counter is still found out.
CEILING_WATTS = 3000.0
GPU_SCOPE, MODULE_SCOPE = 0, 1
POWER_SAMPLES = 0

# The cumulative "time below the asked clocks" fields, nanoseconds, by name: high ids have moved between releases.
THROTTLE_FIELDS = (
    ("power_cap", "NVML_FI_DEV_PERF_POLICY_POWER"),
    ("thermal", "NVML_FI_DEV_PERF_POLICY_THERMAL"),
    ("sync_boost", "NVML_FI_DEV_PERF_POLICY_SYNC_BOOST"),
    ("board_limit", "NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT"),
)
POWER_FIELDS = (
    ("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", GPU_SCOPE),
    ("NVML_FI_DEV_POWER_AVERAGE", GPU_SCOPE),
    ("NVML_FI_DEV_POWER_INSTANT", GPU_SCOPE),
    ("NVML_FI_DEV_POWER_AVERAGE", MODULE_SCOPE),
)
FIELD_MEMBERS = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}

Answer = TypeVar("Answer")


class NvmlFailed(ReadFailed):
    """NVML refused; `code` is its number."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message, "server", fatal=code in FATAL)
        self.code = code


LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED, VERSION_MISMATCH, UNKNOWN = 12, 9, 18, 999
NOT_SUPPORTED, FUNCTION_NOT_FOUND, NOT_FOUND = 3, 13, 6
NO_PERMISSION, GPU_IS_LOST, RESET_REQUIRED = 4, 15, 16
NOTHING, INVALID_ARGUMENT, INSUFFICIENT_SIZE, VERSION_OF_ARGUMENT = 0, 2, 7, 25
# After these only a new process helps: the library in this one belongs to a driver that is gone.
FATAL = frozenset({DRIVER_NOT_LOADED, VERSION_MISMATCH, UNKNOWN})
ABSENT = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND})

REMEDIES = {
    LIBRARY_NOT_FOUND: (
        "libnvidia-ml.so.1 is not on this host",
        "with a GPU: install its driver; in a container: NVIDIA_DRIVER_CAPABILITIES=utility",
    ),
    DRIVER_NOT_LOADED: ("the NVIDIA driver is not loaded", "sudo modprobe nvidia"),
    VERSION_MISMATCH: (
        "the NVIDIA library and the loaded kernel module differ in version",
        "reboot, or reload the nvidia modules: the driver was upgraded underneath",
    ),
}


@dataclass(frozen=True, slots=True)
class Power:
    """One batch of readings of one GPU.

    `microjoules` since the driver was loaded, `watts` of the board, `module_watts` of the Grace module around it; None:
    this board has no such reading.
    """

    microjoules: int | None
    watts: float | None
    module_watts: float | None = None


class Nvml:
    """The binding, for one process. Handles are what `handle` returns; every call may hang."""

    def open(self) -> None:
        """Initialise NVML; raise Unavailable where this host has no working driver."""
        # With this set NVML shows an MPS client's view, in which power is not supported.
        os.environ.pop("NVML_MPS_DEVICE_ENUMERATION", None)
        try:
            call(pynvml.nvmlInitWithFlags, pynvml.NVML_INIT_FLAG_NO_GPUS)
        except NvmlFailed as failure:
            message, remedy = REMEDIES.get(failure.code, (str(failure), "try: nvidia-smi"))
            raise Unavailable(message, remedy) from failure

    def close(self) -> None:
        """Let go of the driver."""
        call(pynvml.nvmlShutdown)

    def driver(self) -> str:
        """Return the driver's version."""
        return text(call(pynvml.nvmlSystemGetDriverVersion))

    def count(self) -> int:
        """Return the number of GPUs, those that may not be opened included."""
        return int(call(pynvml.nvmlDeviceGetCount))

    def handle(self, index: int) -> Any:
        """Return the handle of the GPU at an index; raise NvmlFailed."""
        return call(pynvml.nvmlDeviceGetHandleByIndex, index)

    def uuid(self, handle: Any) -> str:
        """Return what identifies the GPU for ever."""
        return text(call(pynvml.nvmlDeviceGetUUID, handle))

    def device(self, handle: Any, index: int) -> Device:
        """Return the GPU's identity and what it can draw at most."""
        power = self.power(handle)
        name = text(call(pynvml.nvmlDeviceGetName, handle))
        return Device(
            "gpu",
            self.uuid(handle),
            name=name,
            index=str(index),
            pci_bus_id=_pci_bus_id(text(call(pynvml.nvmlDeviceGetPciInfo, handle).busId)),
            covers="board",
            max_watts=_max_watts(handle),
            events=EVENTS_WITH_COUNTER if power.microjoules is not None else EVENTS_WITHOUT,
            on_trial=power.module_watts is not None,
            uncertainty=uncertainty(name, known(pynvml.nvmlDeviceGetArchitecture, handle)),
        )

    def serial(self, handle: Any) -> str:
        """Return the board's serial number, which the GPUs of one module share; empty: it has none."""
        return text(known(pynvml.nvmlDeviceGetSerial, handle) or "")

    def power(self, handle: Any) -> Power:
        """Return energy and power by one batch; what the batch does not tell is asked for singly.

        A 1 s average sees all the time and is preferred to an instant, which on some boards sees a quarter of it.
        """
        energy, average, instant, module = _fields(handle, POWER_FIELDS)
        if energy is None:
            energy = known(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        usage = None if average else known(pynvml.nvmlDeviceGetPowerUsage, handle)
        return chosen(energy, average, usage, instant, module)

    def samples(self, handle: Any, last: int) -> list[tuple[int, float]]:
        """Return the driver's power samples newer than `last`: its microseconds, and watts; none where it has none."""
        try:
            found = known(pynvml.nvmlDeviceGetSamples, handle, POWER_SAMPLES, last)
        except NvmlFailed as failure:
            if failure.code == NOT_FOUND:  # nothing newer
                return []
            raise
        if found is None:
            return []
        kind, samples = found
        member = FIELD_MEMBERS.get(int(getattr(kind, "value", kind)), "uiVal")
        return [(int(s.timeStamp), float(getattr(s.sampleValue, member)) / MILLIWATTS_PER_WATT) for s in samples]

    def state(self, handle: Any) -> State:
        """Return what the GPU says beside power."""
        rates = known(pynvml.nvmlDeviceGetUtilizationRates, handle)
        memory = _memory(handle)
        temperature = _temperature(handle)
        limit = known(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        return State(
            utilization=None if rates is None else rates.gpu / 100,
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            temperature_celsius=None if temperature is None else float(temperature),
            power_limit_watts=int(limit) / MILLIWATTS_PER_WATT if limit else None,
            throttled=_throttled(handle),
        )


def chosen(
    millijoules: float | None,
    average: float | None,
    usage: float | None,
    instant: float | None,
    module: float | None,
) -> Power:
    """Return what a board's answers, in NVML's units, come to: of its powers (mW) the one that sees most of the time.

    A power of 0 is no answer.
    """
    milliwatts = average or usage or instant
    return Power(
        microjoules=None if millijoules is None else int(millijoules) * MICROJOULES_PER_MILLIJOULE,
        watts=milliwatts / MILLIWATTS_PER_WATT if milliwatts else None,
        module_watts=module / MILLIWATTS_PER_WATT if module else None,
    )


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what NVML answers; raise NvmlFailed with its code."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        code = int(error.value)
        raise NvmlFailed(code, f"NVML error {code} ({error}) from {function.__name__}") from error


def known(function: Callable[..., Answer], *arguments: Any) -> Answer | None:
    """As `call`, but None for what this board or this driver does not have."""
    try:
        answer: Answer = call(function, *arguments)
    except NvmlFailed as failure:
        if failure.code in ABSENT:
            return None
        raise
    return answer


def _memory(handle: Any) -> Any:
    """Memory without the part the driver reserves for itself, where the driver tells them apart."""
    try:
        memory = known(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    except NvmlFailed:
        memory = None
    return memory or known(pynvml.nvmlDeviceGetMemoryInfo, handle)


def _temperature(handle: Any) -> Any:
    """The core's, by the newer name where the driver knows it: the older one is to be removed."""
    newer = getattr(pynvml, "nvmlDeviceGetTemperatureV", None)
    found = known(newer, handle, pynvml.NVML_TEMPERATURE_GPU) if newer else None
    if found is None:
        found = known(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    return getattr(found, "temperature", found)


def _throttled(handle: Any) -> tuple[tuple[str, float], ...]:
    numbers = _fields(handle, tuple((name, GPU_SCOPE) for _, name in THROTTLE_FIELDS))
    reasons = (reason for reason, _ in THROTTLE_FIELDS)
    told = zip(reasons, numbers, strict=True)
    return tuple((reason, n / NANOSECONDS_PER_SECOND) for reason, n in told if n is not None)


def _fields(handle: Any, wanted: tuple[tuple[str, int], ...]) -> list[float | None]:
    """Return the numbers of fields, by name and scope, in one call; None for each that this board does not tell."""
    places = [(place, name) for place, (name, _) in enumerate(wanted) if hasattr(pynvml, name)]
    asked = [(getattr(pynvml, name), wanted[place][1]) for place, name in places]
    values = known(pynvml.nvmlDeviceGetFieldValues, handle, asked) or ()
    numbers: list[float | None] = [None] * len(wanted)
    for (place, _), value in zip(places, values, strict=False):
        numbers[place] = _field(value)
    return numbers


def _field(value: Any) -> float | None:
    """A field's number by its own return code and type; reading another member truncates it."""
    member = FIELD_MEMBERS.get(value.valueType)
    if value.nvmlReturn != pynvml.NVML_SUCCESS or member is None:
        return None
    return float(getattr(value.value, member))


def _max_watts(handle: Any) -> float:
    """The most a board can plausibly draw: half again its highest settable limit."""
    limits = known(pynvml.nvmlDeviceGetPowerManagementLimitConstraints, handle)
    default = known(pynvml.nvmlDeviceGetPowerManagementDefaultLimit, handle)
    told = [int(limits[1])] if limits else []
    if default:
        told.append(round(DEFAULT_HEADROOM * int(default)))
    return HEADROOM * max(told) / MILLIWATTS_PER_WATT if told else CEILING_WATTS


def _pci_bus_id(text: str) -> str:
    """`00000000:07:00.0` as the kernel writes it, `0000:07:00.0`."""
    domain, colon, rest = text.lower().partition(":")
    return f"{domain[-4:]}{colon}{rest}"


def text(value: str | bytes) -> str:
    """Return what NVML says in words; older bindings gave bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
