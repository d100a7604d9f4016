"""The pods that are known: a bounded memory from which those that ended go only after their last joules were named."""

from __future__ import annotations

import os
import re
import sys
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock

from wattgram.ports import Clock, ReadFailed

MOST_PODS = 2000
KEPT_SECONDS = 600.0

STATIC_UID = re.compile(r"[0-9a-f]{32}")
UID = re.compile(rf"[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}|{STATIC_UID.pattern}")
_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAMESPACE = re.compile(rf"(?=.{{1,63}}$){_LABEL}")
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Pod:
    """What is kept of a pod: `uid` as its control group has it, `controller` such as job/train-7b, or empty."""

    uid: str
    namespace: str
    name: str
    controller: str = ""


def sound_pod(uid: str, namespace: str, name: str, controller: str = "") -> Pod | None:
    """Return a pod with names such as Kubernetes allows; None: they are none."""
    if not (UID.fullmatch(uid) and _NAMESPACE.fullmatch(namespace) and _NAME.fullmatch(name)):
        return None
    return Pod(uid, sys.intern(namespace), name, sys.intern(controller))


class Pods:
    """Pods by UID, of which the longest unasked go first where there are too many."""

    def __init__(self, clock: Clock, most: int = MOST_PODS) -> None:
        self._clock = clock
        self._most = most
        self._lock = Lock()  # owns both
        self._pods: OrderedDict[str, Pod] = OrderedDict()
        self._ended: dict[str, float] = {}  # when it ended, or was last asked for since

    def __len__(self) -> int:
        return len(self._pods)

    def find(self, uid: str) -> Pod | None:
        """Return a pod, also one that ended, or was last asked for, within ten minutes; None: it is not known."""
        with self._lock:
            pod, now = self._pods.get(uid), self._clock.now().mono
            if pod is None or now - self._ended.get(uid, now) > KEPT_SECONDS:
                return None
            self._pods.move_to_end(uid)
            if uid in self._ended:
                self._ended[uid] = now
            return pod

    def put(self, pod: Pod) -> None:
        """Learn of a pod, or what is new of it."""
        with self._lock:
            self._put(pod)
            self._forget()

    def end(self, pod: Pod) -> None:
        """Learn that a pod is gone; it is kept for a while."""
        with self._lock:
            if self._is_same(pod):
                self._ended.setdefault(pod.uid, self._clock.now().mono)
            self._forget()

    def replace(self, pods: Iterable[Pod]) -> None:
        """Learn of all pods there are: any other is gone."""
        now = self._clock.now().mono
        with self._lock:
            there = set()
            for pod in pods:
                self._put(pod)
                there.add(pod.uid)
            for uid in self._pods:
                if uid not in there:
                    self._ended.setdefault(uid, now)
            self._forget()

    def _is_same(self, pod: Pod) -> bool:
        known = self._pods.get(pod.uid)
        return known is not None and (known.namespace, known.name) == (pod.namespace, pod.name)

    def _put(self, pod: Pod) -> None:
        if pod.uid in self._pods and pod.uid not in self._ended and not self._is_same(pod):
            return  # a pod is never renamed: somebody claims another's UID
        self._pods[pod.uid] = pod
        self._ended.pop(pod.uid, None)
        if len(self._pods) > self._most:
            uid, _ = self._pods.popitem(last=False)
            self._ended.pop(uid, None)

    def _forget(self) -> None:
        now = self._clock.now().mono
        for uid in [uid for uid, at in self._ended.items() if now - at > KEPT_SECONDS]:
            del self._ended[uid], self._pods[uid]


def logged_pods(folder: Path, most: int = MOST_PODS) -> list[Pod]:
    """Return the pods that have a folder of logs, NAMESPACE_NAME_UID, so many at most; raise ReadFailed.

    Kubelet makes it before the first container starts, under the UID that the control group has.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, most)]
    except PermissionError as error:
        raise ReadFailed(f"{folder}: permission denied", "auth") from error
    except OSError as error:
        raise ReadFailed(f"{folder}: {error.strerror}", "server") from error
    parts = (name.split("_") for name in names)
    return [pod for part in parts if len(part) == 3 and (pod := sound_pod(part[2], part[0], part[1]))]  # noqa: PLR2004
