"""What the cards of a host answer, for a fixture: raw, in NVML's own units, with all that names a card masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

from wattgram.ports import ReadFailed
from wattgram.sources.nvml.binding import Nvml

FIELDS = (
    ("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 0),
    ("NVML_FI_DEV_POWER_AVERAGE", 0),
    ("NVML_FI_DEV_POWER_INSTANT", 0),
    ("NVML_FI_DEV_POWER_AVERAGE", 1),
    ("NVML_FI_DEV_POWER_INSTANT", 1),
    ("NVML_FI_DEV_POWER_AVERAGE", 2),
    ("NVML_FI_DEV_PERF_POLICY_POWER", 0),
    ("NVML_FI_DEV_PERF_POLICY_THERMAL", 0),
)
MEMBERS = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


def recording() -> dict[str, Any]:
    """Return the driver's version and each card's answers; a call that fails is recorded as its error code."""
    nvml = Nvml()
    nvml.open()
    serials: dict[str, str] = {}
    return {"driver": nvml.driver(), "gpus": [_card(nvml, index, serials) for index in range(nvml.count())]}


def _card(nvml: Nvml, index: int, serials: dict[str, str]) -> dict[str, Any]:
    try:
        handle = nvml.handle(index)
    except ReadFailed as failure:
        return {"index": index, "error": getattr(failure, "code", None)}
    serial = nvml.serial(handle)
    asked: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "name": (pynvml.nvmlDeviceGetName, ()),
        "architecture": (pynvml.nvmlDeviceGetArchitecture, ()),
        "usage_mw": (pynvml.nvmlDeviceGetPowerUsage, ()),
        "energy_mj": (pynvml.nvmlDeviceGetTotalEnergyConsumption, ()),
        "limits_mw": (pynvml.nvmlDeviceGetPowerManagementLimitConstraints, ()),
        "default_limit_mw": (pynvml.nvmlDeviceGetPowerManagementDefaultLimit, ()),
        "enforced_limit_mw": (pynvml.nvmlDeviceGetEnforcedPowerLimit, ()),
        "temperature_c": (pynvml.nvmlDeviceGetTemperature, (pynvml.NVML_TEMPERATURE_GPU,)),
        "persistence": (pynvml.nvmlDeviceGetPersistenceMode, ()),
        "mig": (pynvml.nvmlDeviceGetMigMode, ()),
    }
    return {
        "index": index,
        "uuid": f"GPU-00000000-0000-0000-0000-{index:012d}",
        "serial": serials.setdefault(serial, f"serial-{len(serials)}") if serial else "",
        "pci_bus_id": f"00000000:{index + 1:02X}:00.0",
        **{name: _answer(function, handle, *arguments) for name, (function, arguments) in asked.items()},
        "memory": _memory(handle),
        "fields": _field_answers(handle),
        "samples": _samples(nvml, handle),
    }


def _answer(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        answer = function(*arguments)
    except pynvml.NVMLError as error:
        return {"error": int(error.value)}
    return list(answer) if isinstance(answer, list | tuple) else answer


def _memory(handle: Any) -> Any:
    answer = _answer(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return answer if isinstance(answer, dict) else {"total": int(answer.total), "used": int(answer.used)}


def _field_answers(handle: Any) -> list[dict[str, Any]]:
    known = [(name, scope) for name, scope in FIELDS if hasattr(pynvml, name)]
    values = _answer(pynvml.nvmlDeviceGetFieldValues, handle, [(getattr(pynvml, n), scope) for n, scope in known])
    if isinstance(values, dict):
        return []
    return [
        {
            "name": name,
            "scope": scope,
            "return": int(value.nvmlReturn),
            "type": int(value.valueType),
            "value": getattr(value.value, MEMBERS.get(int(value.valueType), "ullVal"))
            if not value.nvmlReturn
            else None,
            "latency_us": int(value.latencyUsec),
        }
        for (name, scope), value in zip(known, values, strict=True)
    ]


def _samples(nvml: Nvml, handle: Any) -> list[tuple[int, float]]:
    """The ring buffer: microseconds since its oldest entry, and watts."""
    try:
        found = nvml.samples(handle, 0)
    except ReadFailed:
        return []
    return [(at - found[0][0], watts) for at, watts in found]
