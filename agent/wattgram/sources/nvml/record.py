"""What the cards of a host answer, for a fixture: raw, in NVML's own units, with all that names a card masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

from wattgram.ports import ReadFailed
from wattgram.sources.nvml.binding import Nvml
from wattgram.sources.nvml.occupants import Occupants

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
        **_people(Occupants(), handle),
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


def _people(occupants: Occupants, handle: Any) -> dict[str, Any]:
    """Who is on the card, in shape: the lists with their pids as 1 to n, how busy each is, the MIG instances."""
    masks: dict[int, int] = {0: 0}

    def masked(pids: list[int] | None) -> list[int] | None:
        return None if pids is None else [masks.setdefault(pid, len(masks)) for pid in pids]

    def listed(ask: Callable[[Any], list[int] | None], of: Any) -> Any:
        return _refused(lambda: masked(ask(of)))

    def lists(of: Any) -> dict[str, Any]:
        return {"compute": listed(occupants.compute, of), "mps": listed(occupants.mps, of)}

    def busy() -> list[dict[str, int]] | None:
        found = occupants.busy(handle, 0)
        oldest = min((sample.at for sample in found or ()), default=0)
        pids = masked([sample.pid for sample in found or ()]) or []
        told = zip(pids, found or (), strict=True)
        shown = [
            {"pid": pid, "us": s.at - oldest, "sm": s.sm, "encoder": s.encoder, "decoder": s.decoder} for pid, s in told
        ]
        return None if found is None else shown

    def instances() -> list[dict[str, Any]] | None:
        slots = occupants.instances(handle)
        if slots is None:
            return None
        return [{"gi": s.gpu_instance, "multiprocessors": s.multiprocessors, **lists(s.handle)} for s in slots]

    return {
        "processes": {**lists(handle), "graphics": listed(occupants.graphics, handle)},
        "busy": _refused(busy),
        "instances": _refused(instances),
        "gpm": _refused(lambda: occupants.can_sample(handle)),
    }


def _refused(ask: Callable[[], Any]) -> Any:
    """An answer, or the code of the refusal; None: the card or the driver has no such thing."""
    try:
        return ask()
    except ReadFailed as failure:
        return {"error": getattr(failure, "code", None)}
