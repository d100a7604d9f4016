"""The snapshot as JSON, for programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from wattgram.model import Health, Intensity, grams, joules
from wattgram.snapshot import DeviceTotals, Grid, Snapshot, WorkloadTotals
from wattgram_exporters.families import is_fresh


def status(snapshot: Snapshot) -> bytes:
    """Return everything in the snapshot; unknown is null or absent, never 0."""
    return _encoded(
        {
            "host": snapshot.host or None,
            "version": snapshot.version,
            "python": snapshot.python,
            "at": snapshot.at.wall,
            "started": snapshot.started.wall,
            "devices": [_device(d, snapshot) for d in snapshot.devices],
            "owners": [
                {
                    "kind": k.kind,
                    "owner": k.owner,
                    "component": k.component,
                    "activity": k.activity,
                    "quality": k.quality,
                    "joules": joules(t.microjoules),
                    "grams": grams(t.carbon) if snapshot.grid else None,
                }
                for k, t in sorted(snapshot.owners)
            ],
            "workloads": [_workload(w, snapshot) for w in snapshot.workloads],
            "ended": [_workload(w, snapshot) for w in snapshot.ended],
            "overflows": snapshot.overflows,
            "pricing": [
                {
                    "quality": k.quality,
                    "basis": k.basis,
                    "factor": k.factor,
                    "joules": joules(t.microjoules),
                    "grams": grams(t.carbon) if snapshot.grid else None,
                }
                for k, t in sorted(snapshot.pricing)
            ],
            "grid": _grid(snapshot.grid) if snapshot.grid else None,
            "constants": asdict(snapshot.constants),
            "reload": asdict(snapshot.reload) if snapshot.reload else None,
            "cost": asdict(snapshot.cost) if snapshot.cost else None,
            "health": [_health(h) for h in snapshot.health],
            "notes": list(snapshot.notes),
        }
    )


def intensity(snapshot: Snapshot) -> bytes:
    """Return what this agent knows of the grid."""
    return _encoded(_grid(snapshot.grid) if snapshot.grid else {"zone": None, "price": None, "known": [], "ahead": []})


def not_ready(snapshot: Snapshot) -> str:
    """Return what is waited for before there is something to show; empty when nothing is."""
    return f"no sample yet from {', '.join(snapshot.awaited)}" if snapshot.awaited else ""


def _device(d: DeviceTotals, snapshot: Snapshot) -> dict[str, Any]:
    fresh = is_fresh(d, snapshot)
    return {
        "component": d.device.component,
        "device": d.device.id,
        "name": d.device.name,
        "index": d.device.index or None,
        "pci_bus_id": d.device.pci_bus_id or None,
        "quality": d.device.quality,
        "covers": d.device.covers,
        "source": d.source,
        "method": d.method,
        "driver": d.driver or None,
        "read_at": d.read_at.wall if d.read_at else None,
        "watts": d.watts if fresh else None,
        "joules": joules(d.microjoules),
        "grams": grams(d.carbon) if snapshot.grid else None,
        "idle_watts": d.idle_watts,
        "unmetered_seconds": d.unmetered_seconds,
        "events": dict(d.events),
        "throttled_seconds": dict(d.throttled),
        "utilization": d.state.utilization if d.state and fresh else None,
        "crosscheck": d.crosscheck if fresh else None,
        "calibration": d.device.calibration,
        "memory_used_bytes": d.state.memory_used_bytes if d.state and fresh else None,
        "memory_total_bytes": d.state.memory_total_bytes if d.state and fresh else None,
        "temperature_celsius": d.state.temperature_celsius if d.state and fresh else None,
        "power_limit_watts": d.state.power_limit_watts if d.state and fresh else None,
    }


def _workload(w: WorkloadTotals, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "kind": w.workload.kind,
        "workload": w.workload.id,
        "owner": w.workload.owner,
        "name": w.name or None,
        "account": w.account or None,
        "began": w.began.wall,
        "seen": w.seen.wall,
        "parts": [
            {**asdict(k), "joules": joules(t.microjoules), "grams": grams(t.carbon) if snapshot.grid else None}
            for k, t in sorted(w.parts, key=lambda part: part[0])
        ],
        "pricing": [
            {
                "basis": basis,
                "factor": factor,
                "joules": joules(t.microjoules),
                "grams": grams(t.carbon) if snapshot.grid else None,
            }
            for (basis, factor), t in sorted(w.prices, key=lambda row: row[0])
        ],
    }


def _grid(grid: Grid) -> dict[str, Any]:
    return {
        "zone": grid.zone,
        "factor": grid.factor,
        "price": _intensity(grid.price) if grid.price else None,
        "known": [_intensity(i) for i in grid.known],
        "ahead": [{"hours": hours, **_intensity(i)} for hours, i in grid.ahead],
    }


def _intensity(i: Intensity) -> dict[str, Any]:
    return {
        "zone": i.zone,
        "provider": i.provider,
        "start": i.start,
        "end": None if math.isinf(i.end) else i.end,
        "grams_per_kwh": i.grams_per_kwh,
        "basis": i.basis,
        "factor": i.factor,
        "signal": i.signal,
        "boundary": i.boundary,
        "published": i.published,
        "fetched": i.fetched,
        "edition": i.edition or None,
        "source": i.source or None,
    }


def _health(h: Health) -> dict[str, Any]:
    return {
        "name": h.name,
        "kind": h.kind,
        "every": h.every,
        "up": h.up,
        "turns": h.turns,
        "successes": h.successes,
        "requests": h.requests,
        "child": asdict(h.child) if h.child else None,
        "failures": dict(h.failures),
        "last_success": h.last_success.wall if h.last_success else None,
        "error": h.error or None,
        "remedy": h.remedy or None,
        "unanswered": dict(h.unanswered),
    }


def _encoded(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, indent=1).encode() + b"\n"
