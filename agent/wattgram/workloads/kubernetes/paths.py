"""Which pod a control group belongs to: both cgroup drivers, kind, and drivers that disagree."""

from __future__ import annotations

import re
from collections.abc import Iterable

_UID = r"(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
# Driver cgroupfs: kubepods[/QOS]/podUID. Guaranteed pods have no QoS level; kubelet's own root may come first.
_GROUPFS = rf"(?:[^/]*-)?kubepods(?:\.slice)?(?:/(?:burstable|besteffort|guaranteed))?/pod{_UID}"
# Driver systemd: [ROOT-]kubepods[-QOS]-podUID.slice, with _ for - in the UID.
_SYSTEMD = rf"(?:[^/:]*-)?kubepods(?:-(?:burstable|besteffort|guaranteed))?-pod{_UID}\.slice"
# One level below a pod are its containers, or their monitor; with drivers that disagree they follow a colon.
_CONTAINER = r"(?:/(?:[a-z_-]+[-_])?[0-9a-f]{64}(?:\.scope)?|:[a-z-]+:[0-9a-f]{64})?"
_FORMS = tuple(re.compile(rf"(?<=/){form}{_CONTAINER}(?=/|$)") for form in (_GROUPFS, _SYSTEMD))
# What lies below a user's own service manager is as the user calls it: anybody could call it a pod of somebody else.
_OWN_MANAGER = re.compile(r"/user@\d+\.service/")


def pod_of(path: str) -> tuple[str, int] | None:
    """Return the UID of the pod that a path leads into, and where in the path it ends, its container included.

    Of pods within pods the deepest counts. None: it leads into none.
    """
    own = _OWN_MANAGER.search(path)
    found = [match for form in _FORMS for match in form.finditer(path, 0, own.end() if own else len(path))]
    if not found:
        return None
    deepest = max(found, key=lambda match: match.end())
    return deepest["uid"].replace("_", "-"), deepest.end()


def deepest_pod(paths: Iterable[str]) -> tuple[str, int] | None:
    """Return the deepest pod of all paths; None: none leads into one."""
    return max(filter(None, map(pod_of, paths)), key=lambda pod: pod[1], default=None)
