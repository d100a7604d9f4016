"""Names a pod from what is known at once: the API's watch, else kubelet's folders of logs, else its UID alone.

A pod that was given a GPU holds it by the same name, whether or not it uses it.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import TypeVar

from wattgram.model import Named, Subject, Workload
from wattgram.ports import Clock, ReadFailed, Told
from wattgram.workloads.kubernetes.allotment import Allotment
from wattgram.workloads.kubernetes.paths import deepest_pod
from wattgram.workloads.kubernetes.pods import MOST_PODS, Pod, Pods, logged_pods
from wattgram.workloads.kubernetes.watch import Watch

# A name that the API has not told by then is not waited for any longer.
PATIENCE_SECONDS = 30.0
LOGS_SECONDS = 10.0
RIGHTS = "kubectl apply -f deploy/kubernetes/rbac.yaml, and run wattgram with that service account (docs/workloads.md)"
HELD = "let it read kubelet's checkpoint, which only root may, or do without (docs/workloads.md)"

_Value = TypeVar("_Value")

log = logging.getLogger("wattgram")


class Logs:
    """The pods that have a folder of logs on this node."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder
        self._clock = clock
        self._pods = Pods(clock)
        self._read_at = -math.inf
        self._failing = False

    def find(self, uid: str, asked: float) -> tuple[Pod | None, bool]:
        """Return the pod, and whether it was looked for since `asked`; the folder is read every ten seconds."""
        pod = self._pods.find(uid)
        now = self._clock.now().mono
        if pod is None and now - self._read_at >= LOGS_SECONDS:
            self._read(now)
            pod = self._pods.find(uid)
        return pod, self._read_at >= asked

    def _read(self, now: float) -> None:
        self._read_at = now
        try:
            self._pods.replace(logged_pods(self.folder))
        except ReadFailed as failure:
            if not self._failing:
                log.warning("kubernetes: no names from %s", failure)
            self._failing = True
        else:
            if self._failing:
                log.info("kubernetes: %s can be read again", self.folder)
            self._failing = False


class KubernetesNamer:
    """Says which pod a control group belongs to. `watch`, `logs` None: names do not come from there.

    `allotment` None: who holds a GPU is not known.

    A pod's owner is its namespace, for good: who had to be called by a UID alone keeps an empty owner.
    """

    def __init__(
        self,
        pods: Pods,
        watch: Watch | None,
        logs: Logs | None,
        clock: Clock,
        allotment: Allotment | None = None,
    ) -> None:
        self._allotment = allotment
        self._pods = pods
        self._watch = watch
        self._logs = logs
        self._clock = clock
        self._lock = Lock()  # owns both, and the logs
        self._asked: OrderedDict[str, float] = OrderedDict()  # since when somebody waits for a name
        self._nameless: OrderedDict[str, None] = OrderedDict()

    def name_of(self, subject: Subject) -> Named | None:
        """Return the pod; its workload is None while its name may still come. None: it is in no pod."""
        found = deepest_pod(subject.paths)
        if found is None:
            return None
        uid, depth = found
        with self._lock:
            pod, is_coming = self._find(uid)
            if pod is None and is_coming:
                return Named(None, depth)
            self._asked.pop(uid, None)
            if pod is None:
                _remember(self._nameless, uid, None)
            return self._named(uid, pod, depth)

    def holders(self) -> Mapping[str, tuple[Named, ...]]:
        """Return which pods hold which GPU, as kubelet gave them; of those that nobody has named only who is known.

        A pod is given its GPU before it has a folder of logs or a process: nothing is settled here.
        """
        held = self._allotment.held() if self._allotment else {}
        with self._lock:
            named = {uid: self._holder(uid) for uid in {uid for uids in held.values() for uid in uids}}
        return {gpu: tuple(pod for uid in uids if (pod := named[uid])) for gpu, uids in held.items()}

    def told(self) -> Told:
        """Return where names come from, and whether who holds a GPU is known."""
        sources = [f"the API at {self._watch.url}"] if self._watch else []
        sources += [f"the folders in {self._logs.folder}"] if self._logs else []
        goes_by = f"pods by {' and '.join(sources)}: {len(self._pods)} known" if sources else "pods by their UID"
        if self._watch and self._watch.trouble:
            return Told(goes_by, f"the API does not name them: {self._watch.trouble}", RIGHTS)
        if self._allotment is None:
            return Told(goes_by)
        held = self._allotment.held()
        if self._allotment.trouble:
            lacks = f"which pods hold GPUs is not known: {self._allotment.trouble}"
            return Told(goes_by, lacks, HELD)
        return Told(f"{goes_by}; GPUs held by pods: {len(held)}")

    def close(self) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.stop()

    def _named(self, uid: str, pod: Pod | None, depth: int) -> Named:
        owner = pod.namespace if pod and uid not in self._nameless else ""
        name = f"{pod.namespace}/{pod.name}" if pod else ""
        return Named(Workload("pod", uid, owner), depth, name, pod.controller if pod else "")

    def _holder(self, uid: str) -> Named | None:
        """Who a pod is as far as that is settled or known."""
        pod = self._pods.find(uid)
        if pod is None and self._logs is not None:
            pod, _ = self._logs.find(uid, -math.inf)
        return self._named(uid, pod, 0) if pod or uid in self._nameless else None

    def _find(self, uid: str) -> tuple[Pod | None, bool]:
        """The pod, and where there is none, whether to wait for it."""
        pod = self._pods.find(uid)
        if pod is not None:
            return pod, False
        now = self._clock.now().mono
        asked = self._asked.get(uid, now)
        looked = True
        if self._logs is not None:
            pod, looked = self._logs.find(uid, asked)
        if pod is not None or uid in self._nameless:
            return pod, False
        _remember(self._asked, uid, asked)
        is_tried = self._watch is not None and self._watch.is_trying
        return None, not looked or (is_tried and now - asked < PATIENCE_SECONDS)


def _remember(those: OrderedDict[str, _Value], uid: str, value: _Value) -> None:
    those[uid] = value
    those.move_to_end(uid)
    if len(those) > MOST_PODS:
        those.popitem(last=False)
