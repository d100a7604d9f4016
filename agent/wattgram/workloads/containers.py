r"""Containers and virtual machines, by the control groups that their runtimes make.

Docker, containerd, CRI-O, Podman and nerdctl call a container by 64 hex digits, in a folder or in a scope, alone or
behind the runtime's name; LXC, libvirt and machined by a name. A runtime's monitor (`conmon`, `lxc.monitor`,
`supervisor`) has a group of its own, which is not the container's. Apptainer makes none: its processes are its
caller's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from wattgram.model import Named, Subject, Workload
from wattgram.ports import Clock, NamerOptions
from wattgram.tools.labels import label
from wattgram.tools.users import Owners, Users
from wattgram.workloads._paths import living, unescaped, user_of

_END = r"(?=/|\Z)"
_PAYLOAD = r"(?!/supervisor(?:/|\Z))" + _END
_RUNTIMES = r"(?:docker|cri-containerd|crio|nerdctl|libpod|libpod-payload)[-:]"
_BY_ID = re.compile(rf"(?:/|[/:]{_RUNTIMES})([0-9a-f]{{64}})(?:\.scope)?{_END}")
# In the order of preference: of two that end at the same place the first is meant.
_BY_NAME = (
    ("vm", re.compile(rf"/machine-(?:qemu|ch)\\x2d[0-9]+\\x2d([^/]+)\.scope{_END}")),
    ("vm", re.compile(rf"/machine/(?:qemu-[0-9]+-)?([^/]+)\.libvirt-qemu{_END}")),
    ("vm", re.compile(rf"/systemd-vmspawn@([^/]+)\.service{_PAYLOAD}")),
    ("container", re.compile(rf"/machine-lxc\\x2d[0-9]+\\x2d([^/]+)\.scope{_END}")),
    ("container", re.compile(rf"/machine/(?:lxc-[0-9]+-)?([^/]+)\.libvirt-lxc{_END}")),
    ("container", re.compile(rf"/systemd-nspawn@([^/]+)\.service{_PAYLOAD}")),
    ("container", re.compile(rf"/machine-([^/]+)\.scope{_PAYLOAD}")),
    ("container", re.compile(r"/lxc(?:\.payload[./]|/)([^/]+)")),
)
_POD = re.compile(r"pod(?:[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=[/.:])")
SHORT_ID = 12


@dataclass(frozen=True, kw_only=True)
class Options(NamerOptions):
    """Nothing but whether they are named."""


@dataclass(frozen=True, slots=True)
class Found:
    """A container or virtual machine that a path is in, where in the path it ends, and how deep that counts."""

    kind: str
    id: str
    name: str
    end: int
    depth: int


def open_namer(options: NamerOptions, clock: Clock) -> ContainerNamer:
    """Return the namer; it reads paths alone, so it always can."""
    del options
    return ContainerNamer(Users(clock))


def find(path: str) -> Found | None:
    """Return the innermost container or virtual machine that a path is in."""
    found = [
        Found("container", match[1], match[1][:SHORT_ID], match.end(), _depth(path, match))
        for match in _BY_ID.finditer(path)
    ]
    for kind, pattern in _BY_NAME:
        for match in pattern.finditer(path):
            name = label(unescaped(match[1]))
            found.append(Found(kind, name, name, match.end(), match.end()))
    return max(found, key=lambda one: one.end, default=None)


def _depth(path: str, container: re.Match[str]) -> int:
    """A pod's container is no deeper than its pod, so that the pod is meant where pods are named too."""
    folder = path.rfind("/", 0, container.start(1))
    pods = list(_POD.finditer(path, max(0, path.rfind("/", 0, max(0, folder))), container.start(1)))
    return pods[-1].end() if pods else container.end()


class ContainerNamer:
    """Names containers and virtual machines."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._owners = Owners(users)

    def name_of(self, subject: Subject) -> Named | None:
        """Return the innermost one; its owner is the user below whose slice it runs, else the user of its process."""
        candidates = [(found, path) for path in map(living, subject.paths) if (found := find(path))]
        if not candidates:
            return None
        found, path = max(candidates, key=lambda candidate: candidate[0].end)
        user = user_of(path)
        if user is not None:  # below his own slice a user calls groups as he likes: the name is his, and says so
            return Named(Workload(found.kind, f"{user}/{found.id}", self._users.name(user)), found.depth, found.name)
        owner = self._owners.of(f"{found.kind}/{found.id}", subject.uid)
        return Named(Workload(found.kind, found.id, owner), found.depth, found.name)

    def close(self) -> None:
        """Hold nothing, let go of nothing."""
