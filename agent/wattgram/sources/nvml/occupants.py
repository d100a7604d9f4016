"""What we ask of NVML about who is on a GPU: process lists, how busy each was, MIG instances and their activity.

As in `binding`: what a board or driver does not have is None, any other refusal is NvmlFailed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pynvml

from wattgram.sources.nvml.binding import (
    ABSENT,
    FUNCTION_NOT_FOUND,
    INSUFFICIENT_SIZE,
    NOT_FOUND,
    NOTHING,
    VERSION_OF_ARGUMENT,
    NvmlFailed,
    call,
    known,
    text,
)

# A list that grew between the question for its size and the one for itself is asked for again, so often at most.
TRIES = 3
MOST_PER_CENT = 100
MOST_INSTANCES, MOST_MULTIPROCESSORS = 64, 1 << 16
GPM_METRICS = ("NVML_GPM_METRIC_SM_UTIL", "NVML_GPM_METRIC_GRAPHICS_UTIL")  # the better first


@dataclass(frozen=True, slots=True)
class Busy:
    """How busy a process was in a sample's period: its newest moment, the driver's microseconds, and raw per cent."""

    pid: int
    at: int
    sm: int
    encoder: int = 0
    decoder: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """One MIG instance: how to ask it, its identity, which GPU instance it lies in, its multiprocessors."""

    handle: Any
    uuid: str
    gpu_instance: int
    multiprocessors: int


class Occupants:
    """The binding, for one process; handles are those of GPUs, or of MIG instances where it says so."""

    def compute(self, handle: Any) -> list[int] | None:
        """Return the pids that compute on a GPU or an instance, as the host counts."""
        return _listed("Compute", handle)

    def mps(self, handle: Any) -> list[int] | None:
        """Return the pids of the MPS clients on a GPU or an instance; their server is among those that compute."""
        return _listed("MPSCompute", handle)

    def graphics(self, handle: Any) -> list[int] | None:
        """Return the pids that draw on a GPU; slow."""
        return _listed("Graphics", handle)

    def utilization(self, handle: Any) -> float | None:
        """Return the part of the last moments, 0 to 1, in which anything ran on a GPU."""
        rates = known(pynvml.nvmlDeviceGetUtilizationRates, handle)
        return None if rates is None or not 0 <= rates.gpu <= MOST_PER_CENT else rates.gpu / MOST_PER_CENT

    def busy(self, handle: Any, last: int) -> list[Busy] | None:
        """Return the samples newer than `last`, by the newer call where the driver has it, unjudged: some are none."""
        for name in ("nvmlDeviceGetProcessesUtilizationInfo", "nvmlDeviceGetProcessUtilization"):
            try:
                found = _retried(name, handle, last)
            except NvmlFailed as failure:
                if failure.code in (NOT_FOUND, NOTHING):  # "Success" is raised for a list of nobody
                    return []
                if failure.code not in ABSENT | {VERSION_OF_ARGUMENT}:
                    raise
            else:
                return [
                    Busy(int(s.pid), int(s.timeStamp), int(s.smUtil), int(s.encUtil), int(s.decUtil)) for s in found
                ]
        return None

    def uuid(self, handle: Any) -> str:
        """Return an instance's UUID: a handle goes stale in silence."""
        return text(call(pynvml.nvmlDeviceGetUUID, handle))

    def instances(self, handle: Any) -> tuple[Slot, ...] | None:
        """Return a GPU's MIG instances; None: it is not divided."""
        modes = known(pynvml.nvmlDeviceGetMigMode, handle)
        if not modes or not modes[0]:
            return None
        count = min(int(call(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle)), MOST_INSTANCES)
        found = [self._slot(handle, index) for index in range(count)]
        return tuple({slot.uuid: slot for slot in found if slot is not None and slot.uuid}.values())

    def _slot(self, handle: Any, index: int) -> Slot | None:
        try:
            instance = call(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        except NvmlFailed as failure:
            if failure.code == NOT_FOUND:  # nobody has made one there
                return None
            raise
        attributes = known(pynvml.nvmlDeviceGetAttributes_v2, instance)
        return Slot(
            instance,
            self.uuid(instance),
            int(call(pynvml.nvmlDeviceGetGpuInstanceId, instance)),
            min(int(attributes.multiprocessorCount), MOST_MULTIPROCESSORS) if attributes else 1,
        )

    def can_sample(self, handle: Any) -> bool:
        """Return whether a GPU has GPM, which tells how active each instance was."""
        support = known(pynvml.nvmlGpmQueryDeviceSupport, handle)
        return bool(support and support.isSupportedDevice)

    def sample(self, handle: Any, gpu_instance: int) -> Any:
        """Return a GPM sample of one instance of a GPU, to be freed."""
        sample = call(pynvml.nvmlGpmSampleAlloc)
        try:
            return call(pynvml.nvmlGpmMigSampleGet, handle, gpu_instance, sample)
        except NvmlFailed:
            self.free(sample)
            raise

    def free(self, sample: Any) -> None:
        """Let go of a sample."""
        call(pynvml.nvmlGpmSampleFree, sample)

    def between(self, first: Any, second: Any) -> float | None:
        """Return which part of an instance, 0 to 1, was active between two samples of it."""
        asked = pynvml.c_nvmlGpmMetricsGet_t()
        asked.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        asked.numMetrics = len(GPM_METRICS)
        asked.sample1, asked.sample2 = first, second
        for place, name in enumerate(GPM_METRICS):
            asked.metrics[place].metricId = getattr(pynvml, name)
        told = call(pynvml.nvmlGpmMetricsGet, asked).metrics[: len(GPM_METRICS)]
        values = (m.value / MOST_PER_CENT for m in told if m.nvmlReturn == pynvml.NVML_SUCCESS)
        return next((min(max(value, 0.0), 1.0) for value in values if math.isfinite(value)), None)


def _listed(kind: str, handle: Any) -> list[int] | None:
    """A list by its newer call, or by its older one under an old driver."""
    for version in ("_v3", "_v2"):
        try:
            return [int(process.pid) for process in _retried(f"nvmlDeviceGet{kind}RunningProcesses{version}", handle)]
        except NvmlFailed as failure:
            if failure.code not in ABSENT:
                raise
            if failure.code != FUNCTION_NOT_FOUND:
                break
    return None


def _retried(name: str, *arguments: Any) -> Any:
    function = getattr(pynvml, name)
    for _ in range(TRIES - 1):
        try:
            return call(function, *arguments)
        except NvmlFailed as failure:
            if failure.code != INSUFFICIENT_SIZE:
                raise
    return call(function, *arguments)
