"""Which pods hold which GPUs, also while they do nothing with them: what kubelet remembers of its device plugins.

Kubelet's own API for it, pod-resources, speaks gRPC, whose library alone weighs half as much as all of wattgram; the
file in which kubelet keeps the same needs none. It forgets a pod that ended only when the next one is given a device,
so a pod counts while it has a control group. Devices given by DRA are in another file, and MIG instances are no GPU.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock

import msgspec

from wattgram.ports import Clock, ReadFailed
from wattgram.tools.cgroupfs import processor_hierarchy
from wattgram.tools.files import read_small
from wattgram.workloads.kubernetes.pods import UID

LOOK_SECONDS = 1.0
MOST_BYTES = 8 << 20
VENDOR = "nvidia.com/"
# Replicas of a GPU that several pods share in turns, or by MPS, are called UUID::NUMBER.
_GPU = re.compile(r"(GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:::[0-9]+)?")
# A pod's group by its UID, with either cgroup driver, below kubelet's own root or none, by its class of service.
# Only here, where nobody but root makes groups: within a container anybody may call one like somebody else's pod.
_CLASSES = ("", "burstable", "besteffort")
_GROUPFS = tuple(f"{root}{'/' * bool(of)}{of}/pod{{}}" for root in ("kubepods", "kubelet/kubepods") for of in _CLASSES)
_SYSTEMD = tuple(
    f"{root}{f'/{stem}-{of}.slice' if of else ''}/{stem}{'-' * bool(of)}{of}-pod{{}}.slice"
    for root, stem in (("kubepods.slice", "kubepods"), ("kubelet.slice/kubelet-kubepods.slice", "kubelet-kubepods"))
    for of in _CLASSES
)

log = logging.getLogger("wattgram")


class _Entry(msgspec.Struct):
    """What a container was given: its devices by memory node; before Kubernetes 1.20 they were a list."""

    pod: str = msgspec.field(name="PodUID")
    resource: str = msgspec.field(name="ResourceName")
    devices: dict[str, list[str] | None] | list[str] | None = msgspec.field(name="DeviceIDs")

    def all(self) -> Iterator[str]:
        """The names of all its devices."""
        if isinstance(self.devices, dict):
            for some in self.devices.values():
                yield from some or ()
        else:
            yield from self.devices or ()


class _Data(msgspec.Struct):
    entries: list[_Entry] | None = msgspec.field(name="PodDeviceEntries")


class _Checkpoint(msgspec.Struct):
    data: _Data = msgspec.field(name="Data")


_DECODER = msgspec.json.Decoder(_Checkpoint)
Held = dict[str, tuple[str, ...]]


def parse_checkpoint(text: bytes) -> Held:
    """Return the UIDs of pods by the UUID of the GPU that each was given; raise ReadFailed(shape)."""
    try:
        entries = _DECODER.decode(text).data.entries or ()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ReadFailed("not what kubelet writes", "shape") from error
    held: dict[str, dict[str, None]] = {}
    for entry in entries:
        if entry.resource.startswith(VENDOR) and UID.fullmatch(entry.pod):
            for gpu in filter(None, map(_GPU.fullmatch, entry.all())):
                held.setdefault(gpu[1], {})[entry.pod] = None
    return {gpu: tuple(uids) for gpu, uids in held.items()}


class Living:
    """Whether a pod has a control group; it has one from before its first container until kubelet has cleaned up."""

    def __init__(self, cgroup: Path) -> None:
        self._cgroup = str(cgroup)
        self._root = ""
        self._seen: dict[str, str] = {}  # where a pod's group was seen

    def __contains__(self, uid: str) -> bool:
        if not self._root:
            tree = processor_hierarchy(self._cgroup)
            if tree is None:
                return False
            self._root = tree.root
        names = uid.replace("-", "_")
        forms = (*(form.format(uid) for form in _GROUPFS), *(form.format(names) for form in _SYSTEMD))
        folders = filter(None, (self._seen.pop(uid, ""), *(f"{self._root}/{form}" for form in forms)))
        found = next(filter(os.path.isdir, folders), "")
        if found:
            self._seen[uid] = found
        return bool(found)


class Allotment:
    """Looks once a second, and reads the file when it is another."""

    def __init__(self, checkpoint: Path, cgroup: Path, clock: Clock) -> None:
        self._checkpoint = checkpoint
        self._clock = clock
        self._lock = Lock()  # owns all below
        self._living = Living(cgroup)
        self._looked_at = -math.inf
        self._mark: tuple[int, ...] = ()
        self._given: Held = {}
        self._held: Held = {}
        self.trouble = ""

    def held(self) -> Mapping[str, tuple[str, ...]]:
        """Return the UIDs of the living pods that each GPU was given to, by the GPU's UUID."""
        with self._lock:
            now = self._clock.now().mono
            if now - self._looked_at >= LOOK_SECONDS:
                self._looked_at = now
                self._look()
            return self._held

    def _look(self) -> None:
        try:
            trouble, mark = "", self._marked()
            if mark != self._mark:
                self._given = self._read() if mark else {}
        except ReadFailed as failure:
            trouble, mark, self._given = f"{self._checkpoint}: {failure}", (), {}
        self._mark = mark
        self._say(trouble)
        alive = {uid for uids in self._given.values() for uid in uids if uid in self._living}
        self._held = {g: those for g, uids in self._given.items() if (those := tuple(u for u in uids if u in alive))}

    def _marked(self) -> tuple[int, ...]:
        """What differs when the file is another; empty: there is none, and nothing was ever given. Raise ReadFailed."""
        try:
            status = os.stat(self._checkpoint)  # noqa: PTH116 - once a second
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise _failed(error) from error
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> Held:
        try:
            return parse_checkpoint(read_small(self._checkpoint, MOST_BYTES))
        except OSError as error:
            raise _failed(error) from error

    def _say(self, trouble: str) -> None:
        """Log a line when it changes."""
        if trouble and trouble != self.trouble:
            log.warning("kubernetes: which pods hold GPUs is not known: %s", trouble)
        elif self.trouble and not trouble:
            log.info("kubernetes: %s can be read again", self._checkpoint)
        self.trouble = trouble


def _failed(error: OSError) -> ReadFailed:
    why = error.strerror or type(error).__name__
    if not isinstance(error, PermissionError):
        return ReadFailed(why, "server")
    return ReadFailed(f"{why}; root may read it, and workloads.kubernetes.checkpoint = '' does without", "auth")
