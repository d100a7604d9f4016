"""Which pods hold which GPUs, also while they do nothing with them: what kubelet remembers of its device plugins.

Kubelet's own API for it, pod-resources, speaks gRPC, whose library alone weighs as much as all of wattgram; the file in
which kubelet keeps the same needs none. It forgets a pod that ended only when the next one is given a device, so a pod
counts while it has a control group. Devices given by DRA are in another file, and MIG instances are no whole GPU.
"""

from __future__ import annotations

import glob
import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from wattgram.ports import Clock, ReadFailed
from wattgram.tools.cgroupfs import processor_hierarchy
from wattgram.workloads.kubernetes.paths import pod_of
from wattgram.workloads.kubernetes.pods import UID

LOOK_SECONDS = 10.0
MOST_BYTES = 8 << 20
VENDOR = "nvidia.com/"
# Replicas of a GPU that several pods share in turns, or by MPS, are called UUID::NUMBER.
_GPU = re.compile(r"(GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:::[0-9]+)?")
# Pods stand below `kubepods`, or in `kubelet.slice/kubelet-kubepods.slice`, perhaps by their class of service.
_GROUPS = ("*kubepods*/*pod*", "*kubepods*/*/*pod*", "*/*kubepods*/*pod*", "*/*kubepods*/*/*pod*")

log = logging.getLogger("wattgram")


def parse_checkpoint(text: bytes) -> dict[str, tuple[str, ...]]:
    """Return the UIDs of pods by the UUID of the GPU that each was given; raise ReadFailed(shape)."""
    held: dict[str, dict[str, None]] = {}
    try:
        for entry in json.loads(text)["Data"]["PodDeviceEntries"] or ():
            uid = entry["PodUID"]
            for gpu in filter(None, map(_GPU.fullmatch, _devices(entry))):
                if UID.fullmatch(uid):
                    held.setdefault(gpu[1], {})[uid] = None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ReadFailed("not what kubelet writes", "shape") from error
    return {gpu: tuple(uids) for gpu, uids in held.items()}


def _devices(entry: Mapping[str, Any]) -> Iterator[str]:
    """The names of the devices of an entry, if they are NVIDIA's: by memory node, or since before 1.20 a list."""
    if entry["ResourceName"].startswith(VENDOR):
        devices = entry["DeviceIDs"] or ()
        for some in devices.values() if isinstance(devices, dict) else (devices,):
            yield from some or ()


def living_pods(cgroup: Path) -> frozenset[str]:
    """Return the UIDs of the pods that have a control group; a pod has one until kubelet has cleaned up after it."""
    tree = processor_hierarchy(str(cgroup))
    if tree is None:
        return frozenset()
    # Not Path.glob, which before Python 3.13 raises when a group goes while it looks.
    groups = (group for form in _GROUPS for group in glob.iglob(form, root_dir=tree.root))  # noqa: PTH207
    return frozenset(found[0] for group in groups if (found := pod_of(f"/{group}")))


class Allotment:
    """Looks every ten seconds."""

    def __init__(self, checkpoint: Path, cgroup: Path, clock: Clock) -> None:
        self._checkpoint = checkpoint
        self._cgroup = cgroup
        self._clock = clock
        self._lock = Lock()  # owns all below
        self._looked_at = -math.inf
        self._held: Mapping[str, tuple[str, ...]] = {}
        self._trouble = ""

    def held(self) -> Mapping[str, tuple[str, ...]]:
        """Return the UIDs of the living pods that each GPU was given to, by the GPU's UUID."""
        with self._lock:
            now = self._clock.now().mono
            if now - self._looked_at >= LOOK_SECONDS:
                self._looked_at = now
                self._held = self._looked()
            return self._held

    def _looked(self) -> Mapping[str, tuple[str, ...]]:
        try:
            given = self._read()
        except ReadFailed as failure:
            self._say(str(failure))
            return {}
        self._say("")
        if not given:
            return {}
        alive = living_pods(self._cgroup)
        return {gpu: those for gpu, uids in given.items() if (those := tuple(u for u in uids if u in alive))}

    def _read(self) -> dict[str, tuple[str, ...]]:
        """What the file says; where there is none nothing was ever given. Raise ReadFailed."""
        try:
            with self._checkpoint.open("rb") as file:
                text = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            why = error.strerror or type(error).__name__
            remedy = "root may read it, and workloads.kubernetes.checkpoint = '' does without"
            raise ReadFailed(f"{why}; {remedy}", "auth") from error
        if len(text) > MOST_BYTES:
            raise ReadFailed(f"larger than {MOST_BYTES} bytes", "shape")
        return parse_checkpoint(text)

    def _say(self, trouble: str) -> None:
        """Log a line when it changes."""
        if trouble and trouble != self._trouble:
            log.warning("kubernetes: which pods hold GPUs is not known: %s: %s", self._checkpoint, trouble)
        elif self._trouble and not trouble:
            log.info("kubernetes: %s can be read again", self._checkpoint)
        self._trouble = trouble
